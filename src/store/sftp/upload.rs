//! Making one object: the write protocol of a write-once account.
//!
//! OPEN that refuses an existing file, pipelined WRITEs, fsync, FSTAT, CLOSE, then fsync of the directory. Everything after
//! OPEN goes out without waiting for replies, so a small object costs two round trips; only the last WRITE of several waits
//! until all before it were confirmed. No other operation is ever used: no rename, no overwrite, no attributes. A put that
//! fails leaves debris under the name, which is recognised by its size: a file gets its full size by the last WRITE alone.

use std::sync::Arc;

use super::query;
use super::refusal;
use super::session::Session;
use super::throttle::Throttle;
use super::turns::BEHIND_BYTES;
use super::wire::{Attrs, Code, Reply, Request, open_flags};
use crate::store::{Durability, StoreError};

/// One WRITE. Larger ones are no faster (figures in the commit), and the watchdog sees progress one WRITE at a time.
const WRITE_BYTES: usize = 128 * 1024;
/// WRITEs without a reply together: twice OpenSSH's window of 2 MiB a channel, so that the window and not this rules.
const IN_FLIGHT_BYTES: usize = 4 * 1024 * 1024;
/// Objects are readable by owner and group, and writable by nobody from birth.
const OBJECT_MODE: u32 = 0o440;

/// Where an object goes.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Its name, for messages.
    pub name: &'a str,
    /// Its path on the server.
    pub path: &'a str,
    /// Its directory on the server.
    pub dir: &'a str,
}

/// What the replies said.
#[derive(Default)]
struct Outcome {
    /// The first refusal of a WRITE, of the file's fsync or of CLOSE.
    refused: Option<(Code, String)>,
    /// The size that the server reports.
    stored: Option<u64>,
    file_synced: bool,
    dir_synced: bool,
}

/// Stores `bytes` under a name that does not exist. `moved` hears of every stretch that was handed over.
///
/// # Errors
/// [`StoreError::Exists`], and everything else that a store can say; [`StoreError::Unreachable`] when the connection broke.
pub async fn put(
    session: &mut Session,
    target: Target<'_>,
    bytes: &[u8],
    throttle: &Throttle,
    moved: impl Fn(usize),
) -> Result<Durability, StoreError> {
    let (file, dir) = create(session, target).await?;
    let mut outcome = Outcome::default();
    write(session, &file, bytes, throttle, &moved, &mut outcome).await?;
    finish(session, &file, dir.as_deref(), &mut outcome).await?;
    judge(session, target, bytes.len() as u64, outcome).await
}

/// Opens the new file and, where it can be synced, its directory.
async fn create(session: &mut Session, target: Target<'_>) -> Result<(Vec<u8>, Option<Vec<u8>>), StoreError> {
    let flags = open_flags::CREATE | open_flags::EXCLUSIVE | open_flags::WRITE;
    let channel = &mut session.channel;
    let opening = channel.send(Request::Open { path: target.path.as_bytes(), flags, mode: Some(OBJECT_MODE) }).await?;
    // OpenSSH syncs a directory through a handle of OPEN, not of OPENDIR.
    let opening_dir = match session.server.fsync {
        true => {
            let request = Request::Open { path: target.dir.as_bytes(), flags: open_flags::READ, mode: None };
            Some(channel.send(request).await?)
        }
        false => None,
    };
    let file = channel.reply_to(opening).await?;
    let dir = match opening_dir {
        Some(id) => match channel.reply_to(id).await? {
            Reply::Handle(handle) => Some(handle.to_vec()),
            _ => None,
        },
        None => None,
    };
    match file {
        Reply::Handle(handle) => Ok((handle.to_vec(), dir)),
        refused => {
            if let Some(dir) = dir {
                channel.send_unheard(Request::Close(&dir)).await?;
            }
            Err(refusal::of_creation(session, (target.name, target.path, target.dir), &refused).await?)
        }
    }
}

/// Sends the content. Stops early when a WRITE was refused.
async fn write(
    session: &mut Session,
    file: &[u8],
    bytes: &[u8],
    throttle: &Throttle,
    moved: &impl Fn(usize),
    outcome: &mut Outcome,
) -> Result<(), StoreError> {
    let size = session.server.write_bytes.min(WRITE_BYTES);
    let connection = Arc::clone(&session.connection);
    let mut turn = Some(connection.uploads.enter());
    let channel = &mut session.channel;
    let mut offset = 0_u64;
    let pieces = bytes.len().div_ceil(size);
    for (number, data) in bytes.chunks(size).enumerate() {
        let waited = throttle.take(data.len()).await;
        channel.dog().excuse(waited);
        // A full disk refuses one WRITE and takes the next: with the last one sent, a hole would have the size of the whole.
        if number + 1 == pieces {
            turn = None;
        }
        loop {
            let before_this = turn.as_ref().map_or(1, |turn| {
                let most = if turn.is_first() { IN_FLIGHT_BYTES } else { BEHIND_BYTES };
                (most / size).max(2)
            });
            if channel.in_flight() < before_this {
                break;
            }
            outcome.note_write(&channel.reply().await?.1)?;
        }
        if outcome.refused.is_some() {
            break;
        }
        channel.send(Request::Write { handle: file, offset, data }).await?;
        offset += data.len() as u64;
        moved(data.len());
    }
    Ok(())
}

/// Syncs, measures and closes the file, syncs the directory, and takes in every reply.
async fn finish(session: &mut Session, file: &[u8], dir: Option<&[u8]>, outcome: &mut Outcome) -> Result<(), StoreError> {
    let sync = session.server.fsync && outcome.refused.is_none();
    let channel = &mut session.channel;
    let sync_file = if sync { Some(channel.send(Request::Fsync(file)).await?) } else { None };
    let measure = channel.send(Request::Fstat(file)).await?;
    let close = channel.send(Request::Close(file)).await?;
    let sync_dir = match dir {
        Some(dir) if sync => Some(channel.send(Request::Fsync(dir)).await?),
        _ => None,
    };
    if let Some(dir) = dir {
        channel.send_unheard(Request::Close(dir)).await?;
    }
    while channel.in_flight() > 0 {
        let (id, reply) = channel.reply().await?;
        match (Some(id), reply) {
            (id, Reply::Status(Code::Ok, _)) if id == sync_file => outcome.file_synced = true,
            // Known, but not permitted on this account: that is an answer, not a failure.
            (id, Reply::Status(Code::Denied | Code::Unsupported, _)) if id == sync_file => {}
            (id, Reply::Status(code, _)) if id == sync_dir => outcome.dir_synced = code == Code::Ok,
            (id, Reply::Attrs(Attrs { bytes, .. })) if id == Some(measure) => outcome.stored = bytes,
            (id, Reply::Status(..)) if id == Some(measure) => {}
            (id, Reply::Status(code, words)) if id == sync_file || id == Some(close) => outcome.note(code, words),
            (_, reply) => outcome.note_write(&reply)?,
        }
    }
    Ok(())
}

impl Outcome {
    fn note(&mut self, code: Code, words: String) {
        if code != Code::Ok && self.refused.is_none() {
            self.refused = Some((code, words));
        }
    }

    fn note_write(&mut self, reply: &Reply) -> Result<(), StoreError> {
        let Reply::Status(code, words) = reply else {
            return Err(StoreError::Protocol("it answers a write with something else than a status".into()));
        };
        self.note(*code, words.clone());
        Ok(())
    }
}

async fn judge(session: &mut Session, target: Target<'_>, bytes: u64, outcome: Outcome) -> Result<Durability, StoreError> {
    if let Some((code, words)) = outcome.refused {
        let stored = outcome.stored.unwrap_or(0).min(bytes);
        let place = (target.name, target.dir);
        return Err(refusal::of_writing(session, place, (code, &words), bytes - stored).await?);
    }
    match outcome.stored {
        Some(stored) if stored != bytes => {
            // A server that does several things at once may have measured, and synced, before all was written.
            if query::size(session, target.name, target.path).await? == Some(bytes) {
                return Ok(Durability::NotConfirmed);
            }
            let why = format!("{}: it holds {stored} bytes of the {bytes} that it confirmed", target.name);
            Err(StoreError::Protocol(why))
        }
        Some(_) if outcome.file_synced && outcome.dir_synced => Ok(Durability::Confirmed),
        _ => Ok(Durability::NotConfirmed),
    }
}
