//! What the snapshot holds below the roots of a member of files: one walk over its catalogue before anything is touched.

use crate::format::manifest::Member;
use crate::model::entry::{Entry, EntryKind, Flaw};
use crate::model::path::EntryPath;
use crate::model::pattern::Selection;
use crate::ops::OpError;
use crate::vault::VaultError;
use crate::vault::catalogue_reader::SnapshotReader;

/// What the snapshot holds of one root.
pub struct Held {
    /// The root.
    pub entry: EntryPath,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Bytes of data in its files: holes take no room.
    pub bytes: u64,
    /// Directories of which the snapshot does not hold all, the root among them: paths in the catalogue.
    pub partial: Vec<Partial>,
}

/// A directory that held more than the snapshot.
pub struct Partial {
    /// Its path in the catalogue.
    pub path: EntryPath,
    /// Its time in nanoseconds since 1970.
    pub mtime_ns: i128,
}

impl Held {
    /// Whether this entry is the root or lies below it.
    fn has(&self, entry: &Entry) -> bool {
        entry.path.is_at_or_below(&self.entry)
    }
}

/// Reads what the snapshot holds of each root, in the order in which they were configured.
///
/// # Errors
/// When a root is not in the catalogue, or something is that lies below none: `/` is no root that can be swapped.
pub fn held(member: &Member, reader: &SnapshotReader) -> Result<Vec<Held>, OpError> {
    let mut roots: Vec<(Held, bool)> = Vec::new();
    for entry in &member.roots {
        if !roots.iter().any(|(root, _)| root.entry == *entry) {
            roots.push((Held { entry: entry.clone(), is_dir: false, bytes: 0, partial: Vec::new() }, false));
        }
    }
    let mut outside = None;
    reader.each_entry(member, &Selection::all(), |entry| {
        let is_dir = entry.kind == EntryKind::Directory;
        let mut is_below = false;
        for (root, found) in roots.iter_mut().filter(|(root, _)| root.has(&entry)) {
            is_below = true;
            if let EntryKind::File(content) = &entry.kind {
                root.bytes = root.bytes.saturating_add(reader.data_bytes_of(content));
            }
            if root.entry == entry.path {
                (root.is_dir, *found) = (is_dir, true);
            }
            if is_dir && matches!(entry.flaw, Some(Flaw::LeftOut | Flaw::Unreadable(_))) {
                root.partial.push(Partial { path: entry.path.clone(), mtime_ns: entry.meta.mtime_ns });
            }
        }
        let is_way = || is_dir && roots.iter().any(|(root, _)| root.entry.is_at_or_below(&entry.path));
        if !is_below && outside.is_none() && !is_way() {
            outside = Some(entry.path);
        }
        Ok(())
    })?;
    if outside.is_some() || roots.is_empty() {
        let name = &member.name;
        return Err(OpError::NotDone(format!(
            "member {name:?} was backed up from /, which cannot be swapped while a system runs from it; nothing was done. \
             Its files come back with farkeep restore SNAP --member {name} --into DIR, or with --in-place"
        )));
    }
    if let Some((root, _)) = roots.iter().find(|(_, found)| !found) {
        return Err(VaultError::NoEntry(format!("/{}: not in this snapshot", root.entry)).into());
    }
    Ok(roots.into_iter().map(|(root, _)| root).collect())
}
