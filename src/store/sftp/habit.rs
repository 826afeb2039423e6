//! Whether a server gives the handle out again that was given back last, as OpenSSH does, and answers one request after the
//! other. Where it does, a READ can go out behind its OPEN without waiting for the handle, and an object costs one round trip
//! instead of two.

use std::sync::atomic::{AtomicU8, Ordering};

const UNKNOWN: u8 = 0;
const GIVES_AGAIN: u8 = 1;
const OTHERWISE: u8 = 2;

/// What was seen of one server so far.
#[derive(Debug, Default)]
pub struct Habit(AtomicU8);

impl Habit {
    /// Notes a handle that was given out while none was open, where one had been given back before. One that was not
    /// expected settles it for good.
    pub fn note(&self, as_expected: bool) {
        if as_expected {
            let _ = self.0.compare_exchange(UNKNOWN, GIVES_AGAIN, Ordering::Relaxed, Ordering::Relaxed);
        } else {
            self.0.store(OTHERWISE, Ordering::Relaxed);
        }
    }

    /// Whether the handle can be told beforehand.
    pub fn is_known(&self) -> bool {
        self.0.load(Ordering::Relaxed) == GIVES_AGAIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_surprise_is_enough() {
        let habit = Habit::default();
        assert!(!habit.is_known());
        habit.note(true);
        assert!(habit.is_known());
        habit.note(false);
        habit.note(true);
        assert!(!habit.is_known());
    }
}
