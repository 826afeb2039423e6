//! The catalogue: one JSON object a line for each entry, in the order of their paths.

use serde::{Deserialize, Serialize};

use crate::format::FormatError;
use crate::format::manifest::WireRefs;
use crate::format::wire::{WireId, from_base64, join_text, plain_ids, split_text, to_base64, wire_ids};
use crate::model::entry::{Content, Entry, EntryKind, Extents, Flaw, Metadata, Owner, Refs, Xattrs};
use crate::model::ids::ObjectHash;
use crate::model::limits::{CATALOGUE_INLINE_MAX, CATALOGUE_LINE_MAX_BYTES, LIST_LEVELS_MAX};
use crate::model::path::EntryPath;

const WHAT: &str = "catalogue line";

/// The fields of a line; which of them stand there follows from `kind`. FORMAT.md, "Catalogue", describes each.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wire {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    kind: String,
    mode: u32,
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    mtime: i128,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<ObjectHash>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extents: Option<Vec<(u64, u64)>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extents_stream: Option<WireRefs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunks: Option<Vec<WireId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<(u32, u32)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    xattrs: Option<Vec<(String, String)>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    xattrs_stream: Option<WireRefs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transform: Option<String>,
}

/// Appends the line of `entry`, newline included, to `out`.
///
/// # Errors
/// When the line is over 1 MiB, or more stands inline than may.
pub fn encode_line(entry: &Entry, out: &mut Vec<u8>) -> Result<(), FormatError> {
    let start = out.len();
    serde_json::to_writer(&mut *out, &to_wire(entry)?).map_err(|e| FormatError::invalid(WHAT, e))?;
    out.push(b'\n');
    if out.len() - start > CATALOGUE_LINE_MAX_BYTES {
        return Err(FormatError::Limit { what: WHAT, limit: CATALOGUE_LINE_MAX_BYTES as u64 });
    }
    Ok(())
}

/// Reads one line, with or without its newline.
///
/// # Errors
/// When it is no catalogue line of this version.
pub fn decode_line(line: &[u8]) -> Result<Entry, FormatError> {
    if line.len() > CATALOGUE_LINE_MAX_BYTES {
        return Err(FormatError::Limit { what: WHAT, limit: CATALOGUE_LINE_MAX_BYTES as u64 });
    }
    from_wire(serde_json::from_slice(line).map_err(|e| FormatError::invalid(WHAT, e))?)
}

/// The JSON of extended attributes: an array of [name, value] in base64, as it stands inline and in a stream.
///
/// # Errors
/// Never in practice.
pub fn encode_xattrs(list: &[(Vec<u8>, Vec<u8>)]) -> Result<Vec<u8>, FormatError> {
    serde_json::to_vec(&wire_xattrs(list)).map_err(|e| FormatError::invalid("xattrs", e))
}

/// The inverse of [`encode_xattrs`].
///
/// # Errors
/// When the bytes are no such array.
pub fn decode_xattrs(bytes: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>, FormatError> {
    plain_xattrs(serde_json::from_slice(bytes).map_err(|e| FormatError::invalid("xattrs", e))?)
}

/// Checks that extents ascend, do not touch or overlap, and stay within `size`.
///
/// # Errors
/// When they do not.
pub fn check_extents(extents: &[(u64, u64)], size: u64) -> Result<(), FormatError> {
    let mut end = 0;
    for (index, (offset, length)) in extents.iter().enumerate() {
        let next = offset.checked_add(*length).filter(|next| *next <= size);
        match next {
            Some(next) if *length > 0 && (index == 0 || *offset > end) => end = next,
            _ => return Err(FormatError::invalid("extents", "not ascending within the file's size")),
        }
    }
    Ok(())
}

fn wire_xattrs(list: &[(Vec<u8>, Vec<u8>)]) -> Vec<(String, String)> {
    list.iter().map(|(name, value)| (to_base64(name), to_base64(value))).collect()
}

fn plain_xattrs(list: Vec<(String, String)>) -> Result<Vec<(Vec<u8>, Vec<u8>)>, FormatError> {
    let list: Vec<_> =
        list.into_iter().map(|(name, value)| Ok((from_base64(&name)?, from_base64(&value)?))).collect::<Result<_, _>>()?;
    if list.windows(2).any(|pair| pair[0].0 >= pair[1].0)
        || list.iter().any(|(name, _)| name.is_empty() || name.contains(&0))
    {
        return Err(FormatError::invalid("xattrs", "names not in order, empty, or with NUL"));
    }
    Ok(list)
}

fn to_wire(entry: &Entry) -> Result<Wire, FormatError> {
    let (path, path_b64) = split_text(entry.path.as_bytes());
    let Metadata { mode, owner, mtime_ns, xattrs } = &entry.meta;
    let mut wire = Wire {
        path,
        path_b64,
        kind: entry.kind.word().to_owned(),
        mode: *mode,
        uid: owner.uid,
        gid: owner.gid,
        user: owner.user.clone(),
        group: owner.group.clone(),
        mtime: *mtime_ns,
        ..Wire::default()
    };
    match xattrs {
        Xattrs::Inline(list) if list.is_empty() => {}
        Xattrs::Inline(list) => wire.xattrs = Some(wire_xattrs(list)),
        Xattrs::Stream(refs) => wire.xattrs_stream = Some(refs.into()),
    }
    match &entry.flaw {
        None => {}
        Some(Flaw::Changed) => wire.changed = Some(true),
        Some(Flaw::Unreadable(why)) => wire.unreadable = Some(why.clone()),
        Some(Flaw::LeftOut) => wire.left_out = Some(true),
    }
    match &entry.kind {
        EntryKind::File(content) => content_to_wire(content, &mut wire)?,
        EntryKind::Symlink(target) => (wire.link, wire.link_b64) = split_text(target),
        EntryKind::HardLink(first) => (wire.link, wire.link_b64) = split_text(first.as_bytes()),
        EntryKind::CharDevice(major, minor) | EntryKind::BlockDevice(major, minor) => wire.device = Some((*major, *minor)),
        EntryKind::Directory | EntryKind::Fifo => {}
    }
    Ok(wire)
}

fn content_to_wire(content: &Content, wire: &mut Wire) -> Result<(), FormatError> {
    let too_many = |n: usize| n > CATALOGUE_INLINE_MAX;
    wire.size = Some(content.size);
    wire.hash = Some(content.hash);
    match &content.extents {
        None => {}
        Some(Extents::Inline(list)) if too_many(list.len()) => {
            return Err(FormatError::Limit { what: "extents in a line", limit: CATALOGUE_INLINE_MAX as u64 });
        }
        Some(Extents::Inline(list)) => wire.extents = Some(list.clone()),
        Some(Extents::Stream(refs)) => wire.extents_stream = Some(refs.into()),
    }
    let (ids, level) = match &content.chunks {
        Refs::Inline(ids) => (ids, None),
        Refs::List { level, chunks } => (chunks, Some(*level)),
    };
    if too_many(ids.len()) {
        return Err(FormatError::Limit { what: "chunk ids in a line", limit: CATALOGUE_INLINE_MAX as u64 });
    }
    wire.chunks = Some(wire_ids(ids));
    wire.level = level;
    Ok(())
}

fn from_wire(mut wire: Wire) -> Result<Entry, FormatError> {
    if let Some(transform) = &wire.transform {
        let why = format!("entry transform {transform:?} is not known to this farkeep; recover.py writes the stored form");
        return Err(FormatError::invalid(WHAT, why));
    }
    let path = entry_path(wire.path.take(), wire.path_b64.take())?;
    let kind = kind_from_wire(&mut wire)?;
    if wire.mode > 0o7777 {
        return Err(FormatError::invalid(WHAT, "mode over 07777"));
    }
    let xattrs = match (wire.xattrs, wire.xattrs_stream) {
        (None, None) => Xattrs::none(),
        (Some(list), None) => Xattrs::Inline(plain_xattrs(list)?),
        (None, Some(refs)) => Xattrs::Stream(refs.try_into()?),
        (Some(_), Some(_)) => return Err(FormatError::invalid(WHAT, "attributes stand twice")),
    };
    let flaw = match (wire.changed, wire.unreadable) {
        (None | Some(false), None) => (wire.left_out == Some(true)).then_some(Flaw::LeftOut),
        (Some(true), None) => Some(Flaw::Changed),
        (_, Some(why)) => Some(Flaw::Unreadable(why)),
    };
    let owner = Owner { uid: wire.uid, gid: wire.gid, user: wire.user, group: wire.group };
    Ok(Entry { path, kind, meta: Metadata { mode: wire.mode, owner, mtime_ns: wire.mtime, xattrs }, flaw })
}

fn kind_from_wire(wire: &mut Wire) -> Result<EntryKind, FormatError> {
    let device = |wire: &Wire| wire.device.ok_or_else(|| FormatError::invalid(WHAT, "a device without numbers"));
    match wire.kind.as_str() {
        "file" => Ok(EntryKind::File(content_from_wire(wire)?)),
        "dir" => Ok(EntryKind::Directory),
        "symlink" => {
            let target = join_text(wire.link.take(), wire.link_b64.take(), "link target")?;
            if target.is_empty() || target.contains(&0) {
                return Err(FormatError::invalid("link target", "empty, or with NUL"));
            }
            Ok(EntryKind::Symlink(target))
        }
        "hardlink" => Ok(EntryKind::HardLink(entry_path(wire.link.take(), wire.link_b64.take())?)),
        "fifo" => Ok(EntryKind::Fifo),
        "chardev" => device(wire).map(|(major, minor)| EntryKind::CharDevice(major, minor)),
        "blockdev" => device(wire).map(|(major, minor)| EntryKind::BlockDevice(major, minor)),
        other => Err(FormatError::invalid(WHAT, format!("kind {other:?} is not known to this farkeep"))),
    }
}

fn content_from_wire(wire: &mut Wire) -> Result<Content, FormatError> {
    let missing = || FormatError::invalid(WHAT, "a file without size, hash or chunks");
    let size = wire.size.ok_or_else(missing)?;
    let hash = wire.hash.ok_or_else(missing)?;
    let ids = plain_ids(wire.chunks.take().ok_or_else(missing)?);
    let chunks = match wire.level {
        None => Refs::Inline(ids),
        Some(level @ 1..=LIST_LEVELS_MAX) => Refs::List { level, chunks: ids },
        Some(_) => return Err(FormatError::Limit { what: "levels of a list stream", limit: u64::from(LIST_LEVELS_MAX) }),
    };
    let extents = match (wire.extents.take(), wire.extents_stream.take()) {
        (None, None) => None,
        (Some(list), None) => {
            check_extents(&list, size)?;
            Some(Extents::Inline(list))
        }
        (None, Some(refs)) => Some(Extents::Stream(refs.try_into()?)),
        (Some(_), Some(_)) => return Err(FormatError::invalid(WHAT, "extents stand twice")),
    };
    Ok(Content { size, hash, extents, chunks })
}

fn entry_path(text: Option<String>, base64: Option<String>) -> Result<EntryPath, FormatError> {
    EntryPath::from_bytes(join_text(text, base64, "path")?).map_err(|e| FormatError::invalid("path", e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::ChunkId;

    fn entry(path: &[u8], kind: EntryKind) -> Entry {
        let owner = Owner { uid: 1000, gid: 4_000_000_000, user: Some("amina".into()), group: None };
        let xattrs = Xattrs::Inline(vec![(b"security.capability".to_vec(), vec![0, 255]), (b"user.x".to_vec(), vec![])]);
        Entry {
            path: EntryPath::from_bytes(path).unwrap_or_else(|e| panic!("{e}")),
            kind,
            meta: Metadata { mode: 0o4755, owner, mtime_ns: -1_500_000_000_000_000_001, xattrs },
            flaw: None,
        }
    }

    fn examples() -> Vec<Entry> {
        let ids: Vec<_> = (0..3).map(|n| ChunkId([n; 24])).collect();
        let hash = ObjectHash([7; 32]);
        let sparse = Content {
            size: 1 << 40,
            hash,
            extents: Some(Extents::Inline(vec![(4096, 4096), (1 << 30, 1)])),
            chunks: Refs::Inline(ids.clone()),
        };
        let large = Content {
            size: 1 << 50,
            hash,
            extents: Some(Extents::Stream(Refs::Inline(ids.clone()))),
            chunks: Refs::List { level: 2, chunks: ids },
        };
        let first = EntryPath::from_bytes("a/b").unwrap_or_else(|e| panic!("{e}"));
        let mut torn = entry(b"torn", EntryKind::File(Content { size: 0, hash, extents: None, chunks: Refs::empty() }));
        torn.flaw = Some(Flaw::Unreadable("permission denied".into()));
        let mut partial = entry(b"partial", EntryKind::Directory);
        partial.flaw = Some(Flaw::LeftOut);
        vec![
            entry(b"srv/data", EntryKind::Directory),
            partial,
            entry("srv/d\u{e9}j\u{e0} \"vu\"\n".as_bytes(), EntryKind::File(sparse)),
            entry(b"srv/\xff\xfe", EntryKind::File(large)),
            entry(b"l", EntryKind::Symlink(b"../\xffelsewhere".to_vec())),
            entry(b"h", EntryKind::HardLink(first)),
            entry(b"p", EntryKind::Fifo),
            entry(b"c", EntryKind::CharDevice(1, 3)),
            entry(b"d", EntryKind::BlockDevice(259, 1 << 20)),
            torn,
        ]
    }

    #[test]
    fn every_kind_of_entry_comes_back_as_it_was() {
        for entry in examples() {
            let mut line = Vec::new();
            encode_line(&entry, &mut line).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
            assert_eq!(decode_line(&line), Ok(entry));
        }
    }

    #[test]
    fn hostile_lines_are_refused() {
        let good = r#"{"path":"a","kind":"dir","mode":493,"uid":0,"gid":0,"mtime":0}"#;
        assert!(decode_line(good.as_bytes()).is_ok());
        for (from, to) in [
            (r#""a""#, r#""../a""#),
            (r#""a""#, r#""/a""#),
            (r#""path":"a""#, r#""path_b64":"YQ==""#),
            ("\"dir\"", "\"teleporter\""),
            ("493", "4294967296"),
            ("493", "65535"),
            ("\"mtime\":0", "\"mtime\":0.5"),
            ("\"mtime\":0", "\"mtime\":0,\"surprise\":1"),
            ("\"mtime\":0", "\"mtime\":0,\"transform\":\"gunzip\""),
        ] {
            assert!(decode_line(good.replace(from, to).as_bytes()).is_err(), "{from} -> {to}");
        }
        let extents = |list: &[(u64, u64)]| check_extents(list, 100);
        assert!(extents(&[(0, 10), (20, 80)]).is_ok());
        for wrong in [&[(0, 0)][..], &[(0, 101)], &[(20, 10), (0, 5)], &[(0, 10), (5, 10)], &[(u64::MAX, 2)]] {
            assert!(extents(wrong).is_err(), "{wrong:?}");
        }
    }
}
