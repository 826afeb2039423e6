//! Small questions and the making of directories: what `stat`, `room` and `make_dirs` of a store need.

use std::collections::HashMap;

use super::refusal;
use super::session::Session;
use super::wire::{Code, Reply, Request, open_flags};
use crate::store::StoreError;

/// Directories of a vault: owner and group may enter.
const DIR_MODE: u32 = 0o750;
/// Requests in flight while directories are made: their replies are short.
const IN_FLIGHT: usize = 512;

/// The size of a regular file; none when there is none.
///
/// # Errors
/// When the server does not tell.
pub async fn size(session: &mut Session, name: &str, path: &str) -> Result<Option<u64>, StoreError> {
    let reply = attributes(session, path).await?;
    size_in(name, reply)
}

/// The sizes of several regular files, asked for at once.
///
/// # Errors
/// As [`size`].
pub async fn sizes(session: &mut Session, names: &[String], paths: &[String]) -> Result<Vec<Option<u64>>, StoreError> {
    let mut sizes = Vec::with_capacity(names.len());
    for (names, paths) in names.chunks(IN_FLIGHT).zip(paths.chunks(IN_FLIGHT)) {
        let mut asked = Vec::with_capacity(paths.len());
        for path in paths {
            asked.push(session.channel.send(Request::Lstat(path.as_bytes())).await?);
        }
        let mut replies = Vec::with_capacity(asked.len());
        for id in asked {
            replies.push(session.channel.reply_to(id).await?);
        }
        for ((name, path), reply) in names.iter().zip(paths).zip(replies) {
            sizes.push(match reply {
                // An account that may not LSTAT.
                Reply::Status(Code::Denied | Code::Unsupported, _) => size(session, name, path).await?,
                reply => size_in(name, reply)?,
            });
        }
    }
    Ok(sizes)
}

fn size_in(name: &str, reply: Reply) -> Result<Option<u64>, StoreError> {
    match reply {
        Reply::Attrs(attrs) if !attrs.is_file() => Ok(None),
        Reply::Attrs(attrs) => {
            attrs.bytes.map(Some).ok_or_else(|| StoreError::Protocol(format!("{name}: it tells no size")))
        }
        Reply::Status(Code::NotFound, _) => Ok(None),
        other => Err(refusal::unexpected(name, &other)),
    }
}

/// Removes a file; one that is not there is gone already.
///
/// # Errors
/// When the account may not.
pub async fn remove(session: &mut Session, name: &str, path: &str) -> Result<(), StoreError> {
    match session.channel.ask(Request::Remove(path.as_bytes())).await? {
        Reply::Status(Code::Ok | Code::NotFound, _) => Ok(()),
        other => Err(refusal::unexpected(name, &other)),
    }
}

/// The attributes of a path: a link's own where the account permits LSTAT.
///
/// # Errors
/// When the session broke.
pub async fn attributes(session: &mut Session, path: &str) -> Result<Reply, StoreError> {
    match session.channel.ask(Request::Lstat(path.as_bytes())).await? {
        Reply::Status(Code::Denied | Code::Unsupported, _) => session.channel.ask(Request::Stat(path.as_bytes())).await,
        reply => Ok(reply),
    }
}

/// Makes directories that do not exist: the paths of `wanted`, given parents first, each with the name that people know it
/// by. All requests go out at once. What was made is made durable.
///
/// # Errors
/// When one does not exist afterwards.
pub async fn make_dirs(session: &mut Session, wanted: &[(String, String)]) -> Result<(), StoreError> {
    let refused = ask_all(session, wanted, |path| Request::MakeDir { path, mode: Some(DIR_MODE) }).await?;
    // What was refused may exist: a server does not say so.
    let doubtful: Vec<(String, String)> = refused.iter().map(|(at, _)| wanted[*at].clone()).collect();
    let doubtful_at: Vec<usize> = refused.iter().map(|(at, _)| *at).collect();
    let missing = ask_all(session, &doubtful, |path| Request::Stat(path)).await?;
    if let Some((at, _)) = missing.first()
        && let Some((original, reply)) = refused.get(*at)
    {
        return Err(refusal::unexpected(&wanted[*original].1, reply));
    }
    let made = wanted.iter().enumerate().filter(|(at, _)| doubtful_at.binary_search(at).is_err());
    let mut parents: Vec<String> =
        made.filter_map(|(_, (path, _))| path.rsplit_once('/')).map(|(parent, _)| parent.to_owned()).collect();
    parents.retain(|parent| !parent.is_empty());
    parents.sort();
    parents.dedup();
    sync_dirs(session, &parents).await
}

/// Asks the same of every path and returns those that were refused, or are no directories, with the replies.
async fn ask_all(
    session: &mut Session,
    paths: &[(String, String)],
    request: impl Fn(&[u8]) -> Request<'_>,
) -> Result<Vec<(usize, Reply)>, StoreError> {
    let channel = &mut session.channel;
    let mut asked = HashMap::new();
    let mut refused = Vec::new();
    let mut waiting = paths.iter().enumerate().peekable();
    while waiting.peek().is_some() || channel.in_flight() > 0 {
        while channel.in_flight() < IN_FLIGHT
            && let Some((at, (path, _))) = waiting.next()
        {
            asked.insert(channel.send(request(path.as_bytes())).await?, at);
        }
        let (id, reply) = channel.reply().await?;
        let done = match &reply {
            Reply::Status(code, _) => *code == Code::Ok,
            Reply::Attrs(attrs) => attrs.is_dir(),
            _ => false,
        };
        if let Some(at) = asked.remove(&id).filter(|_| !done) {
            refused.push((at, reply));
        }
    }
    refused.sort_by_key(|(at, _)| *at);
    Ok(refused)
}

/// Makes the names in directories durable, as far as the server can.
///
/// # Errors
/// When the session broke.
async fn sync_dirs(session: &mut Session, paths: &[String]) -> Result<(), StoreError> {
    if !session.server.fsync {
        return Ok(());
    }
    let channel = &mut session.channel;
    for paths in paths.chunks(session.server.handles) {
        for path in paths {
            channel.send(Request::Open { path: path.as_bytes(), flags: open_flags::READ, mode: None }).await?;
        }
        let mut handles = Vec::new();
        while channel.in_flight() > 0 {
            if let (_, Reply::Handle(handle)) = channel.reply().await? {
                handles.push(handle);
            }
        }
        for handle in handles {
            channel.send(Request::Fsync(&handle)).await?;
            channel.send_unheard(Request::Close(&handle)).await?;
        }
        while channel.in_flight() > 0 {
            channel.reply().await?;
        }
    }
    Ok(())
}
