//! The rate limit of one direction, over all connections of a store together.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::options::RateLimit;

/// How often a pause is looked at again.
const PAUSE_CHECK: Duration = Duration::from_secs(1);
/// How far sending may run ahead of the rate after a lull: enough to keep a pipeline full, too little to notice.
const BURST: Duration = Duration::from_millis(100);

/// Who may move bytes, and when.
pub struct Throttle {
    limit: Option<RateLimit>,
    /// When the bytes that were granted so far will have passed at the rate.
    busy_until: Mutex<Option<Instant>>,
}

impl Throttle {
    pub fn new(limit: Option<RateLimit>) -> Self {
        Self { limit, busy_until: Mutex::new(None) }
    }

    /// Bytes per second right now, where there is a limit.
    pub fn rate(&self) -> Option<u64> {
        self.limit.as_ref().and_then(|limit| limit())
    }

    /// Waits until `bytes` may be moved; returns how long that took.
    pub async fn take(&self, bytes: usize) -> Duration {
        let Some(limit) = &self.limit else { return Duration::ZERO };
        let started = Instant::now();
        let rate = loop {
            match limit() {
                None => return started.elapsed(),
                Some(0) => tokio::time::sleep(PAUSE_CHECK).await,
                Some(rate) => break rate,
            }
        };
        let turn = self.reserve(bytes, rate, Instant::now());
        tokio::time::sleep_until(turn.into()).await;
        started.elapsed()
    }

    /// Books `bytes` at `rate` and tells when they may go.
    fn reserve(&self, bytes: usize, rate: u64, now: Instant) -> Instant {
        let takes = Duration::from_micros((bytes as u64).saturating_mul(1_000_000) / rate.max(1));
        let mut busy_until = self.busy_until.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let turn = busy_until.map_or(earliest, |until| until.max(earliest));
        *busy_until = Some(turn + takes);
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_spread_over_time_and_a_lull_earns_only_a_burst() {
        let throttle = Throttle::new(None);
        let start = Instant::now() + Duration::from_secs(10);
        let turns: Vec<Duration> =
            (0..4).map(|_| throttle.reserve(1000, 1000, start).saturating_duration_since(start - BURST)).collect();
        assert_eq!(turns, [0, 1, 2, 3].map(Duration::from_secs));
        let later = start + Duration::from_secs(1000);
        assert_eq!(throttle.reserve(1000, 1000, later), later - BURST);
    }
}
