//! How far reading runs ahead of the caller: so many stored bytes are fetched beyond what he took, and of these so many bytes
//! of plaintext are decoded.
//!
//! Two bounds, because a line wants much under way and what it brings is small until it is decompressed. Batches enter in
//! order, are admitted to decoding in order, and leave in order; the oldest is always admitted, so the caller, who waits for
//! nothing else, always gets on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What a batch takes while it is under way.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weight {
    /// Stored bytes of the blocks that it orders.
    pub stored_bytes: u64,
    /// Their plaintext.
    pub plain_bytes: u64,
}

/// The window of one stream, through which jobs go to be decoded.
pub struct Window<J> {
    limit: Weight,
    state: Mutex<State<J>>,
    changed: Condvar,
}

struct State<J> {
    /// Entered and not left, the oldest first.
    batches: VecDeque<Weight>,
    /// How many left before these.
    left: u64,
    /// How many of these may be decoded.
    admitted: usize,
    stored_bytes: u64,
    /// Of those that may be decoded.
    plain_bytes: u64,
    /// What can be decoded, by the number of its slot; with its batch.
    jobs: BTreeMap<u64, (u64, J)>,
    fetchers: usize,
    closed: bool,
}

/// One who brings what is to be decoded. When the last is gone, nothing more comes.
pub struct Fetcher<'w, J>(&'w Window<J>);

impl<J> Window<J> {
    /// A window with these bounds; a batch that is larger goes by itself.
    pub fn new(limit: Weight) -> Self {
        let state = State {
            batches: VecDeque::new(),
            left: 0,
            admitted: 0,
            stored_bytes: 0,
            plain_bytes: 0,
            jobs: BTreeMap::new(),
            fetchers: 0,
            closed: false,
        };
        Self { limit, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Waits until there is room for a batch; gives its number, or nothing when nobody takes any more.
    pub fn enter(&self, batch: Weight) -> Option<u64> {
        let mut state = self.state();
        while !state.closed && !state.batches.is_empty() && state.stored_bytes + batch.stored_bytes > self.limit.stored_bytes
        {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return None;
        }
        state.stored_bytes += batch.stored_bytes;
        state.batches.push_back(batch);
        state.admit(self.limit);
        Some(state.left + state.batches.len() as u64 - 1)
    }

    /// The oldest batch was taken.
    pub fn leave(&self) {
        let mut state = self.state();
        let Some(batch) = state.batches.pop_front() else { return };
        state.left += 1;
        state.admitted -= 1;
        state.stored_bytes -= batch.stored_bytes;
        state.plain_bytes -= batch.plain_bytes;
        state.admit(self.limit);
        drop(state);
        self.changed.notify_all();
    }

    /// Announces one who will [`offer`](Fetcher::offer).
    pub fn fetcher(&self) -> Fetcher<'_, J> {
        self.state().fetchers += 1;
        Fetcher(self)
    }

    /// Waits for what is to be decoded next: what is wanted first of what has arrived. None when nothing more will come.
    pub fn next(&self) -> Option<J> {
        let mut state = self.state();
        loop {
            if state.closed {
                return None;
            }
            if let Some(first) = state.jobs.first_entry()
                && first.get().0 < state.left + state.admitted as u64
            {
                return state.jobs.pop_first().map(|(_, (_, job))| job);
            }
            if state.jobs.is_empty() && state.fetchers == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets everybody go: nobody takes any more.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let jobs = std::mem::take(&mut state.jobs);
        drop(state);
        self.changed.notify_all();
        drop(jobs);
    }

    fn state(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<J> State<J> {
    fn admit(&mut self, limit: Weight) {
        while let Some(next) = self.batches.get(self.admitted)
            && (self.admitted == 0 || self.plain_bytes + next.plain_bytes <= limit.plain_bytes)
        {
            self.plain_bytes += next.plain_bytes;
            self.admitted += 1;
        }
    }
}

impl<J> Fetcher<'_, J> {
    /// Hands on what has arrived for a batch, with the number of its slot. Nobody decodes any more when the window is closed: then its slots fail.
    pub fn offer(&self, batch: u64, number: u64, job: J) {
        let mut state = self.0.state();
        if state.closed {
            drop(state);
            return drop(job);
        }
        state.jobs.insert(number, (batch, job));
        drop(state);
        self.0.changed.notify_all();
    }
}

impl<J> Drop for Fetcher<'_, J> {
    fn drop(&mut self) {
        self.0.state().fetchers -= 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(stored_bytes: u64, plain_bytes: u64) -> Weight {
        Weight { stored_bytes, plain_bytes }
    }

    #[test]
    fn jobs_come_in_order_and_not_before_their_batch_is_admitted() {
        let window = Window::new(weight(100, 50));
        assert_eq!([window.enter(weight(1, 40)), window.enter(weight(1, 40))], [Some(0), Some(1)]);
        let fetcher = window.fetcher();
        fetcher.offer(1, 5, "of the second batch");
        std::thread::scope(|scope| {
            let taken = scope.spawn(|| {
                let first = [window.next(), window.next()];
                window.leave();
                [first, [window.next(), window.next()]]
            });
            fetcher.offer(0, 2, "second");
            fetcher.offer(0, 1, "first");
            drop(fetcher);
            let [mut first, then] = taken.join().unwrap_or_else(|_| panic!("a decoder failed"));
            first.sort();
            assert_eq!(first, [Some("first"), Some("second")], "though the other was there before");
            assert_eq!(then, [Some("of the second batch"), None]);
        });
    }

    #[test]
    fn batches_are_admitted_in_order_as_far_as_plaintext_has_room() {
        let window: Window<()> = Window::new(weight(100, 50));
        let numbers: Vec<_> = [weight(10, 40), weight(10, 20), weight(10, 20)].map(|w| window.enter(w)).into();
        assert_eq!(numbers, [Some(0), Some(1), Some(2)]);
        assert_eq!(window.state().admitted, 1, "40 + 20 is over 50");
        window.leave();
        let state = window.state();
        assert_eq!((state.admitted, state.plain_bytes), (2, 40));
        drop(state);
        window.leave();
        window.leave();
        let state = window.state();
        assert_eq!((state.stored_bytes, state.plain_bytes), (0, 0));
    }

    #[test]
    fn what_is_larger_than_the_window_goes_by_itself() {
        let window: Window<()> = Window::new(weight(100, 50));
        assert_eq!(window.enter(weight(1000, 1000)), Some(0));
        assert_eq!(window.state().admitted, 1);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| window.enter(weight(1, 1)));
            while window.state().left == 0 {
                std::thread::sleep(std::time::Duration::from_millis(1));
                assert!(!second.is_finished(), "it waits for room");
                window.leave();
            }
            assert_eq!(second.join().ok().flatten(), Some(1));
        });
    }

    #[test]
    fn whoever_waits_is_let_go() {
        let window: Window<()> = Window::new(weight(1, 1));
        assert_eq!(window.enter(weight(1, 1)), Some(0));
        std::thread::scope(|scope| {
            let fetcher = window.fetcher();
            let (enters, nexts) = (scope.spawn(|| window.enter(weight(1, 1))), scope.spawn(|| window.next().is_none()));
            window.close();
            drop(fetcher);
            assert_eq!(enters.join().ok().flatten(), None);
            assert_eq!(nexts.join().ok(), Some(true));
        });
        let window: Window<()> = Window::new(weight(1, 1));
        drop(window.fetcher());
        assert!(window.next().is_none(), "nobody brings anything any more");
    }
}
