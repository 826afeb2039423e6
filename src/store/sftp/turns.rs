//! Who of those that move bytes over one connection goes first.
//!
//! Two that share a flow equally begin together and end together, and then nobody sends: for the round trips that an end and a
//! new beginning take, the line is idle, and what TCP sends after that pause, all at once, overflows the queue of the next
//! router. So one goes first, and whoever comes after it has but little under way until it is through.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What an object that is not the first on its connection has under way at most: the other's end and the next one's beginning
/// hide behind it.
pub const BEHIND_BYTES: usize = 1024 * 1024;

/// Those who wait for their turn, or have it, by number.
#[derive(Debug, Default)]
pub struct Turns {
    next: AtomicU64,
    running: Mutex<BTreeSet<u64>>,
}

/// The place of one of them. Dropped, it goes to the next.
#[derive(Debug)]
pub struct Turn<'t> {
    turns: &'t Turns,
    number: u64,
}

impl Turns {
    /// Takes the last place.
    pub fn enter(&self) -> Turn<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.running().insert(number);
        Turn { turns: self, number }
    }

    fn running(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// Whether nobody goes before this one.
    pub fn is_first(&self) -> bool {
        self.turns.running().first() == Some(&self.number)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.running().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_first_and_leaves_its_place_to_the_next() {
        let turns = Turns::default();
        let (first, second, third) = (turns.enter(), turns.enter(), turns.enter());
        assert!(first.is_first() && !second.is_first() && !third.is_first());
        drop(second);
        assert!(!third.is_first());
        drop(first);
        assert!(third.is_first());
        assert!(!turns.enter().is_first());
    }
}
