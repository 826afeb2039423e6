//! Reading: stretches of one object, or many small objects, with many READs in flight.
//!
//! A single object is asked for behind its OPEN, where the server's habit tells which handle that will give: if it gives
//! another one, or none, what was asked so is thrown away and asked again.
//!
//! Guarantees: what was fetched in order before a connection broke is kept, and fetching goes on from there over the next
//! one. A server that sends more than was asked, nothing at all, or crumbs is refused. Memory is bounded by what was asked
//! for. Whether the bytes are the right ones is for others to judge.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::job::{Job, Piece};
use super::session::Session;
use super::throttle::Throttle;
use super::turns::{BEHIND_BYTES, Turn};
use super::wire::{Code, Reply, Request, open_flags};
use super::{DOWNLOAD_PIECE_BYTES, refusal};
use crate::store::StoreError;

/// Bytes asked for and not received: what 1 Gbit/s holds in 130 ms.
const IN_FLIGHT_BYTES: usize = 16 * 1024 * 1024;
/// Objects open at once: enough that small ones fill 100 ms round trips.
const OPEN_MAX: usize = 128;
/// With a rate limit, what is in flight may take so many parts of a second to arrive.
const PARTS_OF_A_SECOND: u64 = 4;

/// What a request was about.
enum Asked {
    Open,
    Size,
    /// And whether it went out before the handle was given.
    Read(Piece, bool),
    /// It named a handle that turned out to be another one's: the reply says nothing. For so many bytes of content.
    InVain(usize),
}

/// One run over one connection.
struct Run<'r, 'j> {
    session: &'r mut Session,
    jobs: &'r mut [Job<'j>],
    throttle: &'r Throttle,
    asked: HashMap<u32, (usize, Asked)>,
    /// Handles of open jobs.
    handles: HashMap<usize, Vec<u8>>,
    opening: usize,
    /// The handle that the OPEN under way is expected to give, and whether it is in use already.
    expected: Option<(Vec<u8>, bool)>,
    in_flight_bytes: usize,
    /// The place of a single object among those of its connection, until hardly anything of it is missing.
    turn: Option<Turn<'r>>,
}

/// Fetches every job that is not done. A refusal of one object is that job's outcome. `moved` hears of what arrives.
///
/// # Errors
/// When the connection broke or the server misbehaves. After [`StoreError::Unreachable`] it may be called again with
/// another connection.
pub async fn run(
    session: &mut Session,
    jobs: &mut [Job<'_>],
    throttle: &Throttle,
    moved: impl Fn(usize),
) -> Result<(), StoreError> {
    jobs.iter_mut().for_each(Job::restart);
    let mut waiting: VecDeque<usize> = (0..jobs.len()).filter(|at| !jobs[*at].is_done()).collect();
    // Without knowing its size, only a single object is worth asking for more than its first piece.
    let single = waiting.len() == 1;
    let connection = Arc::clone(&session.connection);
    let turn = single.then(|| connection.downloads.enter());
    let mut run = Run {
        session,
        jobs,
        throttle,
        asked: HashMap::new(),
        handles: HashMap::new(),
        opening: 0,
        expected: None,
        in_flight_bytes: 0,
        turn,
    };
    let mut hungry: VecDeque<usize> = VecDeque::new();
    while !run.asked.is_empty() || !waiting.is_empty() {
        while run.handles.len() + run.opening < run.session.server.handles.min(OPEN_MAX)
            && let Some(at) = waiting.pop_front()
        {
            if run.asked.is_empty() && run.handles.is_empty() {
                run.expect(single);
            }
            run.open(at).await?;
            if single {
                run.go_ahead(at).await?;
            }
        }
        let (id, reply) = run.session.channel.reply().await?;
        let Some((at, what)) = run.asked.remove(&id) else { continue };
        let was_opening = matches!(what, Asked::Open);
        let (what, went_ahead) = run.judge_expected(at, what, &reply);
        let bytes = run.take(at, what, reply)?;
        if bytes > 0 {
            moved(bytes);
            let waited = run.throttle.take(bytes).await;
            run.session.channel.dog().excuse(waited);
        }
        if was_opening && !went_ahead && run.handles.contains_key(&at) {
            run.ask_size(at).await?;
            run.read_more(at, if single { usize::MAX } else { 1 }).await?;
        }
        hungry.push_back(at);
        // Whoever was stopped by the bound on bytes goes first.
        for _ in 0..hungry.len() {
            let Some(next) = hungry.pop_front() else { break };
            let knows_size = single || run.jobs[next].knows_size();
            if knows_size {
                run.read_more(next, usize::MAX).await?;
            }
            if knows_size && run.jobs[next].wants_more() && run.handles.contains_key(&next) {
                hungry.push_front(next);
                break;
            }
        }
        if run.in_flight_bytes <= BEHIND_BYTES && !run.jobs[at].wants_more() {
            run.turn = None;
        }
        run.close_if_done(at).await?;
    }
    Ok(())
}

impl Run<'_, '_> {
    async fn open(&mut self, at: usize) -> Result<(), StoreError> {
        let path = self.jobs[at].path.clone();
        let request = Request::Open { path: path.as_bytes(), flags: open_flags::READ, mode: None };
        let id = self.session.channel.send(request).await?;
        self.asked.insert(id, (at, Asked::Open));
        self.opening += 1;
        Ok(())
    }

    /// What handle the next OPEN should give, while none is open; of a `single` job, it is used where the habit is known.
    fn expect(&mut self, single: bool) {
        let last = self.session.channel.last_closed().map(<[u8]>::to_vec);
        self.expected = last.map(|handle| (handle, single && self.session.connection.habit.is_known()));
    }

    /// Asks for the only job behind its OPEN, where one can tell what handle that will give.
    async fn go_ahead(&mut self, at: usize) -> Result<(), StoreError> {
        if let Some((handle, true)) = &self.expected {
            self.handles.insert(at, handle.clone());
            self.ask_size(at).await?;
            self.read_more(at, usize::MAX).await?;
        }
        Ok(())
    }

    /// Compares what OPEN gave with what was expected. Returns what the reply is to be taken for, and whether the requests
    /// that went ahead of it hold.
    fn judge_expected(&mut self, at: usize, what: Asked, reply: &Reply) -> (Asked, bool) {
        let Some((expected, went_ahead)) = self.expected.take() else { return (what, false) };
        let opened = matches!(what, Asked::Open);
        let holds = match reply {
            Reply::Handle(given) if opened => {
                self.session.connection.habit.note(**given == *expected);
                **given == *expected
            }
            // It was refused. Or a reply overtook its own, and nobody knows what that handle stood for.
            _ => false,
        };
        if !went_ahead || holds {
            return (what, went_ahead);
        }
        self.handles.remove(&at);
        if !opened {
            self.session.connection.habit.note(false);
        }
        for (_, other) in self.asked.values_mut() {
            *other = in_vain(std::mem::replace(other, Asked::Open));
        }
        self.jobs[at].restart();
        (in_vain(what), false)
    }

    async fn ask_size(&mut self, at: usize) -> Result<(), StoreError> {
        let Some(handle) = self.handles.get(&at) else { return Ok(()) };
        let id = self.session.channel.send(Request::Fstat(handle)).await?;
        self.asked.insert(id, (at, Asked::Size));
        self.jobs[at].in_flight += 1;
        Ok(())
    }

    /// Asks for up to `pieces` more pieces of a job, as far as the bound on bytes in flight permits.
    async fn read_more(&mut self, at: usize, pieces: usize) -> Result<(), StoreError> {
        let Some(handle) = self.handles.get(&at) else { return Ok(()) };
        let size = self.session.server.read_bytes.min(DOWNLOAD_PIECE_BYTES);
        let most = match &self.turn {
            Some(turn) if !turn.is_first() => BEHIND_BYTES,
            _ => IN_FLIGHT_BYTES,
        };
        let in_time = |rate| usize::try_from(rate / PARTS_OF_A_SECOND).unwrap_or(most).clamp(size, most.max(size));
        let most = self.throttle.rate().map_or(most, in_time);
        for _ in 0..pieces {
            if self.in_flight_bytes + size > most.max(size) && self.in_flight_bytes > 0 {
                break;
            }
            let Some(piece) = self.jobs[at].next_piece(size) else { break };
            let bytes = u32::try_from(piece.bytes).unwrap_or(u32::MAX);
            let id = self.session.channel.send(Request::Read { handle, offset: piece.offset, bytes }).await?;
            self.asked.insert(id, (at, Asked::Read(piece, self.expected.is_some())));
            self.jobs[at].in_flight += 1;
            self.in_flight_bytes += piece.bytes;
        }
        Ok(())
    }

    /// Takes in one reply; returns how many bytes of content it brought.
    fn take(&mut self, at: usize, what: Asked, reply: Reply) -> Result<usize, StoreError> {
        let job = &mut self.jobs[at];
        match what {
            Asked::Open => {
                self.opening -= 1;
                match reply {
                    Reply::Handle(handle) => drop(self.handles.insert(at, handle.to_vec())),
                    refused => job.fail(refusal::unexpected(job.name, &refused)),
                }
            }
            Asked::Size => {
                job.in_flight -= 1;
                match reply {
                    Reply::Attrs(attrs) if !attrs.is_file() => {
                        let why = "not a regular file".to_owned();
                        job.fail(StoreError::Io { name: job.name.to_owned(), why });
                    }
                    Reply::Attrs(attrs) => job.set_size(attrs.bytes),
                    // A server without FSTAT: the end shows when it is reached.
                    Reply::Status(..) => job.set_size(None),
                    _ => return Err(StoreError::Protocol(format!("{}: no attributes of it", job.name))),
                }
            }
            Asked::Read(piece, went_ahead) => {
                job.in_flight -= 1;
                self.in_flight_bytes -= piece.bytes;
                match reply {
                    Reply::Data(data) => return job.take(piece, data),
                    Reply::Status(Code::Eof, _) => job.end_at(piece),
                    // Perhaps it was looked at before OPEN was, by a server that does several things at once.
                    Reply::Status(..) if went_ahead => {
                        self.session.connection.habit.note(false);
                        job.ask_again(piece);
                    }
                    refused => job.fail(refusal::unexpected(job.name, &refused)),
                }
            }
            Asked::InVain(bytes) => {
                self.in_flight_bytes -= bytes;
                if let Reply::Data(data) = reply {
                    return Ok(data.len());
                }
            }
        }
        Ok(0)
    }

    async fn close_if_done(&mut self, at: usize) -> Result<(), StoreError> {
        let job = &mut self.jobs[at];
        if job.in_flight == 0
            && !job.wants_more()
            && let Some(handle) = self.handles.remove(&at)
        {
            job.finish();
            self.session.channel.send_unheard(Request::Close(&handle)).await?;
        }
        Ok(())
    }
}

/// What becomes of a request that named the wrong handle.
const fn in_vain(what: Asked) -> Asked {
    match what {
        Asked::Open => Asked::Open,
        Asked::Size => Asked::InVain(0),
        Asked::Read(piece, _) => Asked::InVain(piece.bytes),
        Asked::InVain(bytes) => Asked::InVain(bytes),
    }
}
