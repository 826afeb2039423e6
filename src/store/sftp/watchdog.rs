//! How long one operation may still wait. A peer that says nothing is given up after the patience; one that dribbles, as
//! soon as it falls behind the slowest rate that counts as a link. So every operation ends in bounded time.
//!
//! Deliberately unaware of what is waited for.

use std::time::{Duration, Instant};

use crate::store::StoreError;

/// The bounds that a caller sets.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long nothing at all may arrive or leave.
    pub silence: Duration,
    /// Bytes per second, on average over one operation, below which a link counts as broken.
    pub slowest_bytes_per_sec: u64,
}

/// The account of one operation.
#[derive(Debug)]
pub struct Watchdog {
    patience: Patience,
    started: Instant,
    moved_bytes: u64,
    excused: Duration,
    given_up: bool,
}

impl Watchdog {
    /// Starts an account.
    pub fn start(patience: Patience) -> Self {
        Self { patience, started: Instant::now(), moved_bytes: 0, excused: Duration::ZERO, given_up: false }
    }

    /// So much arrived or was taken off our hands.
    pub const fn moved(&mut self, bytes: usize) {
        self.moved_bytes = self.moved_bytes.saturating_add(bytes as u64);
    }

    /// So long we waited by our own wish.
    pub const fn excuse(&mut self, waited: Duration) {
        self.excused = self.excused.saturating_add(waited);
    }

    /// How long the next wait may take.
    pub fn allowance(&self) -> Duration {
        let earned = Duration::from_millis(
            self.moved_bytes.saturating_mul(1000).checked_div(self.patience.slowest_bytes_per_sec).unwrap_or(u64::MAX),
        );
        // Twice the silence to begin with, so that the first reply of an operation is not held to a rate.
        let limit = (self.patience.silence * 2).saturating_add(earned).saturating_add(self.excused);
        limit.saturating_sub(self.started.elapsed()).min(self.patience.silence)
    }

    /// Whether a wait was longer than was allowed.
    pub const fn has_given_up(&self) -> bool {
        self.given_up
    }

    /// Waits for `work` as long as is allowed.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] when the time is up.
    pub async fn wait<T>(&mut self, work: impl Future<Output = T>) -> Result<T, StoreError> {
        let allowance = self.allowance();
        tokio::time::timeout(allowance, work).await.map_err(|_| {
            self.given_up = true;
            StoreError::Unreachable(if allowance < self.patience.silence {
                format!("under {} bytes a second for too long", self.patience.slowest_bytes_per_sec)
            } else {
                format!("no answer for {} s", allowance.as_secs_f32())
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { silence: Duration::from_secs(10), slowest_bytes_per_sec: 1000 };

    fn started(ago_secs: u64) -> Watchdog {
        let mut dog = Watchdog::start(PATIENCE);
        dog.started = Instant::now().checked_sub(Duration::from_secs(ago_secs)).unwrap_or_else(Instant::now);
        dog
    }

    #[test]
    fn a_dribble_earns_less_time_than_it_takes() {
        let mut dog = started(19);
        assert!(dog.allowance() <= Duration::from_secs(1));
        dog.moved(5000);
        assert!(dog.allowance() > Duration::from_secs(5));
        dog.moved(1_000_000);
        assert_eq!(dog.allowance(), PATIENCE.silence, "never longer than the silence");
    }

    #[test]
    fn waiting_by_our_own_wish_does_not_count() {
        let mut dog = started(100);
        assert_eq!(dog.allowance(), Duration::ZERO);
        dog.excuse(Duration::from_secs(100));
        assert!(dog.allowance() > Duration::from_secs(9));
    }
}
