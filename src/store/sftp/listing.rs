//! Listing many directories at once: OPENDIR for all, and several READDIRs in flight for each, so that 256 directories cost
//! a handful of round trips.
//!
//! Guarantees: each name is handed out once, even when the listing goes on over another connection or the server repeats
//! itself. What a hostile server can make us hold is bounded; names that could climb, hide or move a cursor are skipped.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};

use super::refusal;
use super::session::Session;
use super::wire::{Code, Entry, Reply, Request};
use crate::model::limits::PATH_COMPONENT_MAX_BYTES;
use crate::model::time::Timestamp;
use crate::store::{Listed, StoreError};

/// READDIRs in flight on one directory to begin with: one for its names and one for the end, which most need.
const DEPTH_FIRST: usize = 2;
/// READDIRs in flight on one long directory; OpenSSH answers 100 names each.
const DEPTH_MAX: usize = 16;
/// Names in one directory, repeated ones included. A pack directory of a 16 TiB vault holds 4,096; a hostile server could go on for ever.
const NAMES_MAX: usize = 1_000_000;

/// A listing on its way.
pub struct Listing<'a> {
    dirs: Vec<Directory<'a>>,
    hasher: RandomState,
}

struct Directory<'a> {
    /// As the store knows it.
    name: &'a str,
    /// Its path on the server.
    path: String,
    /// The names that were handed out, hashed; freed when the directory is done.
    seen: HashSet<u64>,
    done: bool,
}

/// A directory that is open on the server.
struct Open {
    handle: Vec<u8>,
    in_flight: usize,
    depth: usize,
    /// Answers that brought names.
    answers: usize,
    names: usize,
    ended: bool,
}

impl Open {
    fn new(handle: &[u8]) -> Self {
        Self { handle: handle.to_vec(), in_flight: 0, depth: DEPTH_FIRST, answers: 0, names: 0, ended: false }
    }

    /// An answer brought names: with the second the directory is a long one.
    fn answered(&mut self) {
        self.answers += 1;
        if self.answers > 1 {
            self.depth = (self.depth * 2).min(DEPTH_MAX);
        }
    }

    /// How many READDIRs to add. After the first names the end is what most directories have next, and it was asked for: what
    /// is asked beyond it costs a round trip. With the second answer a directory is a long one.
    const fn missing(&self) -> usize {
        match (self.ended, self.answers, self.in_flight) {
            (true, ..) | (_, 1, 1..) => 0,
            _ => self.depth.saturating_sub(self.in_flight),
        }
    }
}

enum Asked {
    Open,
    Read,
}

impl<'a> Listing<'a> {
    /// Of these directories, each with its path on the server.
    pub fn new(dirs: impl Iterator<Item = (&'a str, String)>) -> Self {
        let dirs = dirs.map(|(name, path)| Directory { name, path, seen: HashSet::new(), done: false }).collect();
        Self { dirs, hasher: RandomState::new() }
    }

    /// Goes on over this connection until everything is listed.
    ///
    /// # Errors
    /// When a directory cannot be read, or the connection broke: then it may be called again with another one.
    pub async fn run(&mut self, session: &mut Session, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        let mut waiting: VecDeque<usize> = (0..self.dirs.len()).filter(|at| !self.dirs[*at].done).collect();
        let mut open: HashMap<usize, Open> = HashMap::new();
        let mut asked: HashMap<u32, (usize, Asked)> = HashMap::new();
        let mut opening = 0;
        while !asked.is_empty() || !waiting.is_empty() {
            while open.len() + opening < session.server.handles
                && let Some(at) = waiting.pop_front()
            {
                let id = session.channel.send(Request::OpenDir(self.dirs[at].path.as_bytes())).await?;
                asked.insert(id, (at, Asked::Open));
                opening += 1;
            }
            let (id, reply) = session.channel.reply().await?;
            let Some((at, what)) = asked.remove(&id) else { continue };
            match what {
                Asked::Open => {
                    opening -= 1;
                    match reply {
                        Reply::Handle(handle) => {
                            open.insert(at, Open::new(&handle));
                        }
                        // A directory that is not there is empty.
                        Reply::Status(Code::NotFound, _) => self.dirs[at].done = true,
                        other => return Err(refusal::unexpected(self.dirs[at].name, &other)),
                    }
                }
                Asked::Read => {
                    let state = open.get_mut(&at);
                    self.take(at, state, reply, each)?;
                }
            }
            self.go_on(session, at, &mut open, &mut asked).await?;
        }
        Ok(())
    }

    /// Takes in one answer to READDIR.
    fn take(
        &mut self,
        at: usize,
        state: Option<&mut Open>,
        reply: Reply,
        each: &mut dyn FnMut(Listed),
    ) -> Result<(), StoreError> {
        let Some(state) = state else { return Ok(()) };
        state.in_flight -= 1;
        match reply {
            Reply::Status(Code::Eof, _) => state.ended = true,
            // Some servers look for a directory only when its names are asked for.
            Reply::Status(Code::NotFound, _) if state.answers == 0 => state.ended = true,
            Reply::Names(entries) => {
                state.answered();
                if entries.is_empty() {
                    let why = format!("{}: a list of no names that is not the end", self.dirs[at].name);
                    return Err(StoreError::Protocol(why));
                }
                state.names += entries.len();
                if state.names > NAMES_MAX {
                    return Err(StoreError::Protocol(format!("{}: over {NAMES_MAX} names", self.dirs[at].name)));
                }
                for entry in entries {
                    self.hand_out(at, &entry, each)?;
                }
            }
            other => return Err(refusal::unexpected(self.dirs[at].name, &other)),
        }
        Ok(())
    }

    fn hand_out(&mut self, at: usize, entry: &Entry, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        let hash = self.hasher.hash_one(&entry.name);
        let dir = &mut self.dirs[at];
        let new = dir.seen.insert(hash);
        let Some(file) = Some(entry).filter(|entry| new && entry.attrs.is_file()).and_then(|e| plain_name(&e.name)) else {
            return Ok(());
        };
        let name = if dir.name.is_empty() { file.to_owned() } else { format!("{}/{file}", dir.name) };
        let bytes = entry.attrs.bytes.ok_or_else(|| StoreError::Protocol(format!("{name}: it lists no size")))?;
        let received = entry.attrs.times.map(|(_, changed)| Timestamp(i64::from(changed)));
        each(Listed { name, bytes, received });
        Ok(())
    }

    /// Keeps READDIRs in flight on an open directory, or closes it at its end.
    async fn go_on(
        &mut self,
        session: &mut Session,
        at: usize,
        open: &mut HashMap<usize, Open>,
        asked: &mut HashMap<u32, (usize, Asked)>,
    ) -> Result<(), StoreError> {
        let Some(state) = open.get_mut(&at) else { return Ok(()) };
        for _ in 0..state.missing() {
            let id = session.channel.send(Request::ReadDir(&state.handle)).await?;
            asked.insert(id, (at, Asked::Read));
            state.in_flight += 1;
        }
        if state.ended && state.in_flight == 0 {
            session.channel.send_unheard(Request::Close(&state.handle)).await?;
            open.remove(&at);
            self.dirs[at].done = true;
            self.dirs[at].seen = HashSet::new();
        }
        Ok(())
    }
}

/// A name that can be a file's in this directory and is safe to show.
fn plain_name(name: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(name).ok()?;
    let plain = !text.is_empty()
        && !matches!(text, "." | "..")
        && text.len() <= PATH_COMPONENT_MAX_BYTES
        && !text.contains('/')
        && crate::model::path::escape(name) == text;
    plain.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_directory_is_asked_for_twice_and_a_long_one_ever_more() {
        let mut open = Open::new(b"h");
        assert_eq!(open.missing(), 2);
        open.in_flight = 1;
        open.answered();
        assert_eq!(open.missing(), 0, "its end is on its way");
        open.in_flight = 0;
        assert_eq!(open.missing(), 2, "it was not the end after all");
        open.in_flight = 1;
        open.answered();
        assert_eq!(open.missing(), 3, "a long one");
        open.ended = true;
        assert_eq!(open.missing(), 0);
    }

    #[test]
    fn only_plain_names_pass() {
        assert_eq!(plain_name(b"0a-17"), Some("0a-17"));
        let long = [b'x'; 256];
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b", b"\x1b[2J", b"\xff", "\u{202e}".as_bytes(), &long] {
            assert_eq!(plain_name(bad), None, "{bad:?}");
        }
    }
}
