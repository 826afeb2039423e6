//! What a server's "no" means. SFTP version 3 has one code for "exists already", "no room" and "I/O error" alike, so the
//! difference has to be asked for.

use super::query;
use super::session::Session;
use super::wire::{Code, Reply, Request, StatVfs};
use crate::store::StoreError;

/// Codes that some servers send although they belong to later versions (draft-ietf-secsh-filexfer-13, section 9.1).
const FILE_ALREADY_EXISTS: Code = Code::Other(11);
const NO_SPACE: Code = Code::Other(14);
const QUOTA_EXCEEDED: Code = Code::Other(15);
/// Words by which servers that say more than "Failure" tell that there is no room.
const NO_ROOM_WORDS: [&str; 5] = ["quota", "no space", "disk full", "enospc", "out of space"];

/// The error that a refused operation on `name` is, as far as the code tells.
pub fn error(name: &str, code: Code, words: &str) -> StoreError {
    let name = name.to_owned();
    match code {
        Code::NotFound => StoreError::NotFound(name),
        FILE_ALREADY_EXISTS => StoreError::Exists(name),
        Code::Denied => StoreError::Denied { name, why: said(words) },
        NO_SPACE | QUOTA_EXCEEDED => StoreError::Full { name, why: said(words) },
        Code::Unsupported => StoreError::Denied { name, why: "the server does not know this operation".into() },
        Code::Ok | Code::Eof | Code::BadMessage => StoreError::Protocol(format!("{name}: it answers {}", said(words))),
        Code::Failure | Code::Other(_) => StoreError::Io { name, why: said(words) },
    }
}

/// The same for a reply that is not of the kind that was asked for.
pub fn unexpected(name: &str, reply: &Reply) -> StoreError {
    match reply {
        Reply::Status(code, words) => error(name, *code, words),
        _ => StoreError::Protocol(format!("{name}: it answers something else than was asked")),
    }
}

fn said(words: &str) -> String {
    const WORDS_MAX_CHARS: usize = 200;
    let words: String = words.chars().take(WORDS_MAX_CHARS).collect();
    format!("the server says {words:?}")
}

/// Why a new file could not be made at `path` in `dir`.
///
/// # Errors
/// When the session broke while it was asked.
pub async fn of_creation(
    session: &mut Session,
    (name, path, dir): (&str, &str, &str),
    reply: &Reply,
) -> Result<StoreError, StoreError> {
    let Reply::Status(code, words) = reply else { return Ok(unexpected(name, reply)) };
    if *code == Code::NotFound {
        let dir = name.rsplit_once('/').map_or("", |(dir, _)| dir);
        let why =
            format!("directory {dir:?} is missing from the vault: `farkeep init --layout DIR` on its machine makes it anew");
        return Ok(StoreError::Io { name: name.to_owned(), why });
    }
    if *code == Code::Failure {
        if let Reply::Attrs(_) = query::attributes(session, path).await? {
            return Ok(StoreError::Exists(name.to_owned()));
        }
        if let Some(why) = no_room(session, dir, words, 0).await? {
            return Ok(StoreError::Full { name: name.to_owned(), why });
        }
        let why = match stat_vfs(session, dir).await? {
            Some(vfs) if vfs.read_only => "its file system is mounted read-only".to_owned(),
            _ => format!("{}, without a reason: a quota, too many open files, or a failing disk", said(words)),
        };
        return Ok(StoreError::Io { name: name.to_owned(), why });
    }
    Ok(error(name, *code, words))
}

/// Why bytes were not stored, or not made durable. A quota shows nowhere: when the server has room and gives no reason,
/// both possibilities are named.
///
/// # Errors
/// When the session broke while it was asked.
pub async fn of_writing(
    session: &mut Session,
    (name, dir): (&str, &str),
    (code, words): (Code, &str),
    bytes: u64,
) -> Result<StoreError, StoreError> {
    if code != Code::Failure {
        return Ok(error(name, code, words));
    }
    let why = match no_room(session, dir, words, bytes).await? {
        Some(why) => why,
        None => format!("{}, without a reason and with room on its disk: a quota, or a failing disk", said(words)),
    };
    Ok(StoreError::Full { name: name.to_owned(), why })
}

/// Whether the server has too little room for `bytes` more, in words.
async fn no_room(session: &mut Session, dir: &str, words: &str, bytes: u64) -> Result<Option<String>, StoreError> {
    let lower = words.to_ascii_lowercase();
    if NO_ROOM_WORDS.iter().any(|sign| lower.contains(sign)) {
        return Ok(Some(said(words)));
    }
    let Some(vfs) = stat_vfs(session, dir).await? else { return Ok(None) };
    if vfs.free_bytes() <= bytes {
        return Ok(Some(format!("{} bytes are free", vfs.free_bytes())));
    }
    Ok((vfs.inodes > 0 && vfs.inodes_free == 0).then(|| "no inodes are free".to_owned()))
}

/// Room and inodes of the file system that holds `path`, where the server tells.
///
/// # Errors
/// When the session broke.
pub async fn stat_vfs(session: &mut Session, path: &str) -> Result<Option<StatVfs>, StoreError> {
    if !session.server.statvfs {
        return Ok(None);
    }
    match session.channel.ask(Request::StatVfs(path.as_bytes())).await? {
        Reply::Extended(content) => Ok(StatVfs::read(&content).ok()),
        _ => Ok(None),
    }
}
