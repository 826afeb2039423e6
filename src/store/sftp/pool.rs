//! The connections of one store: opened one after another when there is something to do, lent to one operation at a time.
//!
//! Guarantees: never more than the permitted number; a connection on which an operation left replies unawaited, or that
//! broke, is not lent again; a server that refuses one more connection costs nothing while others work. Whoever waits for
//! a connection waits for operations that all end in bounded time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::growth::Growth;
use super::session::Session;
use crate::store::StoreError;

/// Waiters look again this often even when nobody wakes them: time alone can permit one more connection.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Waiting longer than this for a busy connection is never better than opening another.
const WAIT_BEFORE_OPENING_MAX: Duration = Duration::from_secs(1);

/// The connections of one store.
pub struct Pool {
    state: Mutex<State>,
    changed: Condvar,
    most: usize,
    moved_bytes: AtomicU64,
}

struct State {
    idle: Vec<Session>,
    /// Idle and lent ones.
    open: usize,
    opening: bool,
    growth: Growth,
    /// How long the last one took to open. Waiting that long for a busy one first costs at most twice the best choice.
    opening_takes: Duration,
}

/// The place that a lent connection leaves in the pool. Dropped, it is free for another connection.
pub struct Place<'p> {
    pool: &'p Pool,
    returned: Option<Session>,
}

enum Next {
    Lend(Box<Session>),
    Open,
    Wait,
}

impl Pool {
    pub fn new(most: usize) -> Self {
        let state = State {
            idle: Vec::new(),
            open: 0,
            opening: false,
            growth: Growth::new(Instant::now()),
            opening_takes: Duration::ZERO,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), most, moved_bytes: AtomicU64::new(0) }
    }

    /// Notes what a transfer moved.
    pub fn moved(&self, bytes: usize) {
        self.moved_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A connection that nobody else uses: an idle one, one that `open` makes, or the next that becomes free.
    ///
    /// # Errors
    /// What `open` says, when there is no other connection to wait for or the failure would not pass.
    pub fn borrow(&self, open: impl Fn() -> Result<Session, StoreError>) -> Result<(Session, Place<'_>), StoreError> {
        let started = Instant::now();
        let mut state = self.state();
        loop {
            match self.next(&mut state, started.elapsed()) {
                Next::Lend(session) => return Ok((*session, Place { pool: self, returned: None })),
                Next::Wait => {
                    state = self.changed.wait_timeout(state, LOOK_AGAIN).unwrap_or_else(PoisonError::into_inner).0;
                }
                Next::Open => {
                    state.opening = true;
                    drop(state);
                    let began = Instant::now();
                    let outcome = open();
                    state = self.state();
                    state.opening = false;
                    self.changed.notify_all();
                    match outcome {
                        Ok(session) => {
                            state.open += 1;
                            state.opening_takes = began.elapsed();
                            state.growth.grew(self.moved_bytes.load(Ordering::Relaxed), Instant::now());
                            return Ok((session, Place { pool: self, returned: None }));
                        }
                        Err(error @ (StoreError::Unreachable(_) | StoreError::Login(_))) if state.open > 0 => {
                            tracing::info!(connections = state.open, %error, "the server takes no further connection");
                            state.growth.refuse(Instant::now());
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }

    fn next(&self, state: &mut State, waited: Duration) -> Next {
        let (now, moved) = (Instant::now(), self.moved_bytes.load(Ordering::Relaxed));
        while let Some(session) = state.idle.pop() {
            if session.is_closed() {
                state.open -= 1;
                continue;
            }
            state.growth.calm(moved, now);
            return Next::Lend(Box::new(session));
        }
        let patient = waited < state.opening_takes.min(WAIT_BEFORE_OPENING_MAX);
        if state.opening || state.open >= self.most || (state.open > 0 && patient) {
            return Next::Wait;
        }
        if state.open == 0 || state.growth.wants_more(state.open, moved, now) { Next::Open } else { Next::Wait }
    }

    /// Takes every idle connection out.
    pub fn drain(&self) -> Vec<Session> {
        let mut state = self.state();
        state.open -= state.idle.len();
        std::mem::take(&mut state.idle)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// Gives the connection back, unless it cannot be used again.
    pub fn give_back(mut self, session: Session) {
        if !session.is_closed() && session.channel.in_flight() == 0 {
            self.returned = Some(session);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        match self.returned.take() {
            Some(session) => state.idle.push(session),
            None => state.open -= 1,
        }
        self.pool.changed.notify_one();
    }
}
