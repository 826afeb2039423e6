//! The rate limit of one direction, over all connections of a store together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::options::{Rate, RateLimit};
use crate::store::StoreError;

/// How often a pause is looked at again.
const PAUSE_CHECK: Duration = Duration::from_secs(1);
/// How far sending may run ahead of the rate after a lull: enough to keep a pipeline full, too little to notice.
const BURST: Duration = Duration::from_millis(100);

/// Who may move bytes, and when.
pub struct Throttle {
    limit: Option<RateLimit>,
    pause_check: Duration,
    /// The last rate in bytes per second; zero before there was one.
    last_rate: AtomicU64,
    /// When the bytes that were granted so far will have passed at the rate.
    busy_until: Mutex<Option<Instant>>,
}

impl Throttle {
    pub fn new(limit: Option<RateLimit>) -> Self {
        Self { limit, pause_check: PAUSE_CHECK, last_rate: AtomicU64::new(0), busy_until: Mutex::new(None) }
    }

    /// Bytes per second right now, where there is a limit. What is under way when a pause begins ends at the rate before.
    pub fn rate(&self) -> Option<u64> {
        let rate = match self.limit.as_ref().map_or(Rate::Free, |limit| limit()) {
            Rate::Free => 0,
            Rate::Limited(rate) => rate.max(1),
            Rate::Paused | Rate::Stopped => self.last_rate.load(Ordering::Relaxed),
        };
        self.last_rate.store(rate, Ordering::Relaxed);
        (rate > 0).then_some(rate)
    }

    /// Waits, for hours if need be, until a large object may be begun. No connection is held meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Interrupted`] when the caller wants to stop.
    pub fn wait_for_window(&self) -> Result<(), StoreError> {
        let Some(limit) = &self.limit else { return Ok(()) };
        loop {
            match limit() {
                Rate::Free | Rate::Limited(_) => return Ok(()),
                Rate::Paused => std::thread::sleep(self.pause_check),
                Rate::Stopped => return Err(StoreError::Interrupted),
            }
        }
    }

    /// Waits until `bytes` may be moved; returns how long that took.
    pub async fn take(&self, bytes: usize) -> Duration {
        let Some(rate) = self.rate() else { return Duration::ZERO };
        let started = Instant::now();
        let turn = self.reserve(bytes, rate, started);
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
    use std::sync::Arc;

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

    /// Answers these one after the other, then the last for ever.
    fn answering(rates: &'static [Rate]) -> Throttle {
        let asked = Mutex::new(0);
        let limit = move || {
            let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
            let rate = rates[(*asked).min(rates.len() - 1)];
            *asked += 1;
            rate
        };
        Throttle { pause_check: Duration::ZERO, ..Throttle::new(Some(Arc::new(limit))) }
    }

    #[test]
    fn a_pause_lasts_until_the_window_opens_or_the_caller_gives_up() {
        let night = answering(&[Rate::Paused, Rate::Paused, Rate::Paused, Rate::Limited(1000), Rate::Stopped]);
        assert_eq!(night.wait_for_window(), Ok(()));
        assert_eq!(night.wait_for_window(), Err(StoreError::Interrupted));
        assert_eq!(answering(&[Rate::Paused, Rate::Stopped]).wait_for_window(), Err(StoreError::Interrupted));
    }

    #[test]
    fn what_is_under_way_when_a_pause_begins_is_finished_at_the_rate_before() {
        let throttle = answering(&[Rate::Limited(5000), Rate::Paused, Rate::Stopped, Rate::Free, Rate::Paused]);
        let rates: Vec<Option<u64>> = (0..5).map(|_| throttle.rate()).collect();
        assert_eq!(rates, [Some(5000), Some(5000), Some(5000), None, None]);
    }
}
