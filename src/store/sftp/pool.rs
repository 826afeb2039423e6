//! The connections of one store, each with a few channels: opened as they turn out to be needed, and lent,
//! channel by channel, to one operation at a time. Only the first is opened by whoever needs it; further ones come up beside
//! the work, so that nobody who could have gone on meanwhile waits for a log-in.
//!
//! Two channels a connection, because an object's fsync and its first round trip then hide behind the other's bytes, on the
//! same TCP flow; up to four where what is asked for is so short that they wait for replies all the same. Guarantees: never
//! more connections than permitted; a channel on which replies are outstanding, or whose connection failed, is not lent
//! again; a server that refuses one more costs nothing while others work. Whoever waits here waits for operations that all
//! end in bounded time.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::growth::{Advice, Growth, Seen};
use super::session::Session;
use crate::store::StoreError;

/// Channels of one connection. OpenSSH permits ten (MaxSessions), each with a process and a window of 2 MiB; two of them
/// are what Linux's send buffer of 4 MiB takes.
pub const LANES: usize = 2;
/// Channels of one connection on which much of the time goes by waiting for replies.
const LANES_MAX: usize = 4;
/// Waiters look again this often even when nobody wakes them: time alone can permit one more connection.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// For so long no further channel is asked for after one did not come up.
const NO_LANES: Duration = Duration::from_secs(60);
/// After so much waiting for busy channels, opening another is surely better.
const WAIT_BEFORE_OPENING_MAX: Duration = Duration::from_millis(500);
/// The round trip before it was measured.
const UNKNOWN_ROUND_TRIP: Duration = Duration::from_secs(1);

/// The connections of one store.
pub struct Pool {
    state: Mutex<State>,
    changed: Condvar,
    most: usize,
    received: AtomicU64,
    sent: AtomicU64,
}

struct State {
    idle: Vec<Session>,
    members: Vec<Member>,
    /// Tickets of those who wait.
    queue: VecDeque<u64>,
    last_ticket: u64,
    /// What is being opened.
    opening: usize,
    /// Channels that the server takes on one connection, as far as is known.
    lanes_max: usize,
    /// Opening one failed for another reason.
    no_lanes_until: Option<Instant>,
    growth: Growth,
    operations: u64,
    round_trip: Duration,
    /// How long the last connection took to open. Waiting that long for busy ones first costs at most twice the best choice.
    connecting_takes: Duration,
    /// How long the last channel beside another took to open.
    lane_takes: Duration,
    /// How long the first in the queue, whoever it was, has waited for busy channels, since one was opened or free.
    waited: Duration,
}

struct Member {
    connection: Arc<Connection>,
    /// Its channels, idle and lent.
    lanes: usize,
    /// It goes when its channels come back.
    leaving: bool,
}

/// What is to be opened.
pub enum Open {
    /// A connection, with a first channel.
    Connection,
    /// A channel more on this one, which had so many when that was decided.
    Lane(Arc<Connection>, usize),
}

enum Next {
    Lend(Box<Session>),
    /// Lend it, and open so many connections beside.
    LendAndOpen(Box<Session>, usize),
    Open(Vec<Open>),
    Wait,
}

/// A place in the queue of those who wait: first come, first served.
struct Ticket<'p> {
    pool: &'p Pool,
    number: Option<u64>,
}

/// The place that a lent channel leaves in the pool. Dropped, it is free for another.
pub struct Place<'p> {
    pool: &'p Pool,
    connection: Arc<Connection>,
    returned: Option<Session>,
}

impl Pool {
    pub fn new(most: usize) -> Self {
        let state = State {
            idle: Vec::new(),
            members: Vec::new(),
            queue: VecDeque::new(),
            last_ticket: 0,
            opening: 0,
            lanes_max: LANES_MAX,
            no_lanes_until: None,
            growth: Growth::new(Instant::now()),
            operations: 0,
            round_trip: UNKNOWN_ROUND_TRIP,
            connecting_takes: Duration::ZERO,
            lane_takes: Duration::ZERO,
            waited: Duration::ZERO,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            most,
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        }
    }

    /// Notes what a download moved.
    pub fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Notes what an upload moved.
    pub fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A channel that nobody else uses: an idle one, the first, which `open` makes, or the next that becomes free. `start`
    /// sees to it that something further is opened, and that [`opened`](Self::opened) hears of it.
    ///
    /// # Errors
    /// What `open` says.
    pub fn borrow(
        &self,
        open: impl Fn() -> Result<Session, StoreError>,
        start: impl Fn(Open),
    ) -> Result<(Session, Place<'_>), StoreError> {
        // Dropped after the lock, which it takes.
        let mut ticket = Ticket { pool: self, number: None };
        let mut state = self.state();
        loop {
            let wanted = match self.next(&mut state, &ticket) {
                Next::Lend(session) => return Ok(self.lent(*session)),
                Next::LendAndOpen(session, connections) => {
                    state.opening += connections;
                    drop(state);
                    (0..connections).for_each(|_| start(Open::Connection));
                    return Ok(self.lent(*session));
                }
                Next::Wait => {
                    ticket.queue(&mut state);
                    let since = Instant::now();
                    state = self.changed.wait_timeout(state, LOOK_AGAIN).unwrap_or_else(PoisonError::into_inner).0;
                    if state.queue.front() == ticket.number.as_ref() {
                        state.waited += since.elapsed();
                    }
                    continue;
                }
                Next::Open(wanted) => wanted,
            };
            state.opening += wanted.len();
            let is_first = state.members.is_empty();
            drop(state);
            if is_first {
                let began = Instant::now();
                let outcome = open();
                state = self.state();
                state.opening -= 1;
                self.changed.notify_all();
                let session = outcome?;
                state.connecting_takes = began.elapsed();
                state.waited = Duration::ZERO;
                state.count(&session.connection);
                return Ok(self.lent(session));
            }
            wanted.into_iter().for_each(&start);
            state = self.state();
        }
    }

    /// What became of something that was started to be opened, and how long it took. That it was not is nothing much: others
    /// work.
    pub fn opened(&self, wanted: &Open, took: Duration, outcome: Result<Session, StoreError>) {
        let mut state = self.state();
        state.opening -= 1;
        state.come_up(wanted, took, outcome);
        drop(state);
        self.changed.notify_all();
    }

    /// As [`opened`](Self::opened), of something that was opened beside another.
    pub fn came_up(&self, wanted: &Open, took: Duration, outcome: Result<Session, StoreError>) {
        self.state().come_up(wanted, took, outcome);
        self.changed.notify_all();
    }

    fn lent(&self, session: Session) -> (Session, Place<'_>) {
        let connection = session.connection.clone();
        (session, Place { pool: self, connection, returned: None })
    }

    fn next(&self, state: &mut State, ticket: &Ticket<'_>) -> Next {
        if state.queue.front().is_some_and(|first| ticket.number != Some(*first)) {
            return Next::Wait;
        }
        let now = Instant::now();
        let seen = state.seen(self.received.load(Ordering::Relaxed), self.sent.load(Ordering::Relaxed), self.most);
        while let Some(session) = state.take_idle() {
            if session.is_closed() {
                state.discount(&session.connection);
                continue;
            }
            if state.queue.is_empty() {
                state.waited = Duration::ZERO;
                let all_idle = state.idle.len() as u64 + 1 == seen.lanes;
                // With more channels in use than one flow carries well, another connection may be worth it though nobody waits.
                if state.lent_lanes(&session.connection) > LANES && state.opening == 0 && state.members.len() < self.most {
                    match state.growth.advice(Seen { spare_lanes: 0, ..seen }, now) {
                        Advice::Add(more) => return Next::LendAndOpen(Box::new(session), more),
                        Advice::Drop => state.leave(),
                        Advice::AddLane | Advice::Stay => {}
                    }
                } else if all_idle {
                    state.growth.rest(seen, now);
                } else {
                    state.growth.calm(seen, now);
                }
            }
            return Next::Lend(Box::new(session));
        }
        if state.opening > 0 {
            return Next::Wait;
        }
        if state.members.is_empty() {
            return Next::Open(vec![Open::Connection]);
        }
        let lane = state.with_less_than(LANES).map(Member::one_more_lane);
        let takes = if lane.is_some() { state.lane_takes } else { state.connecting_takes };
        if state.waited < takes.min(WAIT_BEFORE_OPENING_MAX) {
            return Next::Wait;
        }
        if let Some(lane) = lane {
            return Next::Open(vec![lane]);
        }
        match state.growth.advice(seen, now) {
            Advice::AddLane => match state.with_less_than(LANES_MAX) {
                Some(member) => Next::Open(vec![member.one_more_lane()]),
                None => Next::Wait,
            },
            Advice::Add(more) => Next::Open((0..more).map(|_| Open::Connection).collect()),
            Advice::Drop => {
                state.leave();
                Next::Wait
            }
            Advice::Stay => Next::Wait,
        }
    }

    /// Takes every idle channel out.
    pub fn drain(&self) -> Vec<Session> {
        let mut state = self.state();
        let idle = std::mem::take(&mut state.idle);
        idle.iter().for_each(|session| state.discount(&session.connection));
        idle
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    fn one_more_lane(&self) -> Open {
        Open::Lane(Arc::clone(&self.connection), self.lanes)
    }
}

impl State {
    /// An idle channel, of the oldest connection that has one: so a few flows carry what others would share.
    fn take_idle(&mut self) -> Option<Session> {
        let age = |session: &Session| self.members.iter().position(|m| Arc::ptr_eq(&m.connection, &session.connection));
        let (at, _) = self.idle.iter().enumerate().min_by_key(|(_, session)| age(session))?;
        Some(self.idle.swap_remove(at))
    }

    fn seen(&self, received: u64, sent: u64, most: usize) -> Seen {
        let spare_connections = most.saturating_sub(self.members.len());
        let connections = self.usable().count() as u64;
        let lanes = self.members.iter().map(|member| member.lanes as u64).sum();
        let spare = self.usable().map(|member| self.lanes_now().saturating_sub(member.lanes) as u64).sum();
        Seen {
            bytes: received + sent,
            sent,
            operations: self.operations,
            connections,
            spare_connections,
            lanes,
            spare_lanes: spare,
            round_trip: self.round_trip,
        }
    }

    /// Channels of a connection that are not idle.
    fn lent_lanes(&self, connection: &Arc<Connection>) -> usize {
        let lanes = self.members.iter().find(|m| Arc::ptr_eq(&m.connection, connection)).map_or(0, |member| member.lanes);
        lanes - self.idle.iter().filter(|session| Arc::ptr_eq(&session.connection, connection)).count().min(lanes)
    }

    fn usable(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| !member.leaving && !member.connection.is_closed())
    }

    /// The oldest connection with less channels than these and than the server takes.
    fn with_less_than(&self, lanes: usize) -> Option<&Member> {
        self.usable().find(|member| member.lanes < lanes.min(self.lanes_now()))
    }

    /// Channels that may be opened on one connection now.
    fn lanes_now(&self) -> usize {
        if self.no_lanes_until.is_some_and(|until| Instant::now() < until) { 0 } else { self.lanes_max }
    }

    fn come_up(&mut self, wanted: &Open, took: Duration, outcome: Result<Session, StoreError>) {
        match outcome {
            Ok(session) => {
                match wanted {
                    Open::Lane(..) => self.lane_takes = took,
                    Open::Connection => self.connecting_takes = took,
                }
                self.waited = Duration::ZERO;
                self.count(&session.connection);
                self.idle.push(session);
            }
            Err(error) => self.cannot_open(wanted, &error),
        }
    }

    fn count(&mut self, connection: &Arc<Connection>) {
        match self.members.iter_mut().find(|member| Arc::ptr_eq(&member.connection, connection)) {
            Some(member) => {
                member.lanes += 1;
                // Two that are opened at once can end in a refusal of one that takes less than there is.
                self.lanes_max = self.lanes_max.max(member.lanes);
            }
            None => self.members.push(Member { connection: connection.clone(), lanes: 1, leaving: false }),
        }
    }

    fn discount(&mut self, connection: &Arc<Connection>) {
        if let Some(at) = self.members.iter().position(|member| Arc::ptr_eq(&member.connection, connection)) {
            self.members[at].lanes -= 1;
            if self.members[at].lanes == 0 {
                self.members.remove(at);
            }
        }
    }

    /// The last connection goes as soon as its channels come back.
    fn leave(&mut self) {
        if self.members.len() > 1
            && let Some(member) = self.members.iter_mut().rfind(|member| !member.leaving)
        {
            member.leaving = true;
        }
    }

    fn is_leaving(&self, connection: &Arc<Connection>) -> bool {
        self.members.iter().any(|member| member.leaving && Arc::ptr_eq(&member.connection, connection))
    }

    /// What a failure to open one more means.
    fn cannot_open(&mut self, wanted: &Open, error: &StoreError) {
        match wanted {
            Open::Lane(connection, lanes) => {
                tracing::info!(%error, "the server opens no further channel");
                if matches!(error, StoreError::Login(_)) {
                    self.lanes_max = self.lanes_max.min((*lanes).max(1));
                } else if connection.is_closed() && *lanes >= LANES {
                    // Asked for more than it likes, it hangs up: what ran on the others was lost.
                    self.lanes_max = self.lanes_max.min(LANES);
                } else {
                    self.no_lanes_until = Some(Instant::now() + NO_LANES);
                }
            }
            Open::Connection => {
                tracing::info!(connections = self.members.len(), %error, "the server takes no further connection");
                self.growth.refuse(Instant::now());
            }
        }
    }
}

impl Ticket<'_> {
    fn queue(&mut self, state: &mut State) {
        if self.number.is_none() {
            state.last_ticket += 1;
            self.number = Some(state.last_ticket);
            state.queue.push_back(state.last_ticket);
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.pool.state().queue.retain(|queued| *queued != number);
            self.pool.changed.notify_all();
        }
    }
}

impl Place<'_> {
    /// Gives the channel back, unless it cannot be used again.
    pub fn give_back(mut self, session: Session) {
        if !session.is_closed() && session.channel.in_flight() == 0 {
            self.returned = Some(session);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        state.operations += 1;
        match self.returned.take() {
            Some(session) if !state.is_leaving(&self.connection) => {
                state.round_trip = state.round_trip.min(session.channel.quickest_reply());
                state.idle.push(session);
            }
            _ => state.discount(&self.connection),
        }
        drop(state);
        self.pool.changed.notify_all();
    }
}
