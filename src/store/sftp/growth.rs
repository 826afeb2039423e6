//! Whether another connection would help: yes for the second, which fills the gaps between one object and the next; after
//! that only while the last one raised the throughput.
//!
//! Deliberately unaware of connections: it sees bytes, numbers and times.

use std::time::{Duration, Instant};

/// How long a number of connections is watched before the next decision: TCP's slow start over 100 ms fits into it.
const WATCH: Duration = Duration::from_millis(1500);
/// By how much the throughput must have risen, in percent, for one more connection to be worth it.
const WORTH_PERCENT: u64 = 10;
/// After this long the link may have changed: one more connection is tried again.
const FORGET: Duration = Duration::from_secs(60);

/// The watch over one store's connections.
#[derive(Debug)]
pub struct Growth {
    since: Instant,
    bytes_then: u64,
    /// Bytes per second with one connection fewer.
    rate_before: Option<u64>,
    /// Until when no further connection is wanted.
    content_until: Option<Instant>,
}

impl Growth {
    pub const fn new(now: Instant) -> Self {
        Self { since: now, bytes_then: 0, rate_before: None, content_until: None }
    }

    /// Whether a store with `connections`, all busy, and `moved_bytes` so far should open one more.
    pub fn wants_more(&mut self, connections: usize, moved_bytes: u64, now: Instant) -> bool {
        if self.content_until.is_some_and(|until| now < until) {
            return false;
        }
        if connections < 2 {
            return true;
        }
        let watched = now.saturating_duration_since(self.since);
        if watched < WATCH {
            return false;
        }
        let rate = rate(moved_bytes.saturating_sub(self.bytes_then), watched);
        if self.rate_before.is_none_or(|before| rate >= before + before * WORTH_PERCENT / 100) {
            return true;
        }
        self.refuse(now);
        false
    }

    /// A connection was free: what was seen so far does not tell what busy ones carry.
    pub const fn calm(&mut self, moved_bytes: u64, now: Instant) {
        self.since = now;
        self.bytes_then = moved_bytes;
    }

    /// One more was opened.
    pub fn grew(&mut self, moved_bytes: u64, now: Instant) {
        let watched = now.saturating_duration_since(self.since);
        // The first connection may have carried nothing yet: then there is nothing to compare with.
        let moved = moved_bytes.saturating_sub(self.bytes_then);
        self.rate_before = (moved > 0 && watched >= WATCH).then(|| rate(moved, watched));
        self.since = now;
        self.bytes_then = moved_bytes;
    }

    /// The server takes no more, or it did not help.
    pub fn refuse(&mut self, now: Instant) {
        self.content_until = Some(now + FORGET);
        self.rate_before = None;
    }
}

fn rate(bytes: u64, time: Duration) -> u64 {
    bytes.saturating_mul(1000) / u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn connections_are_added_while_they_help() {
        let start = Instant::now();
        let at = |secs: u64| start + Duration::from_secs(secs);
        let mut growth = Growth::new(start);
        assert!(growth.wants_more(1, 0, at(0)), "the second one always");
        growth.grew(0, at(0));
        assert!(!growth.wants_more(2, 10 * MIB, at(1)), "not before it was watched");
        assert!(growth.wants_more(2, 20 * MIB, at(2)));
        growth.grew(20 * MIB, at(2));
        assert!(growth.wants_more(3, 50 * MIB, at(4)), "15 MiB/s after 10");
        growth.grew(50 * MIB, at(4));
        assert!(!growth.wants_more(4, 81 * MIB, at(6)), "15.5 MiB/s after 15");
        assert!(!growth.wants_more(4, 500 * MIB, at(30)), "it was decided");
        assert!(growth.wants_more(4, 1000 * MIB, at(67)), "links change");
    }

    #[test]
    fn a_lull_is_no_drop_of_throughput() {
        let start = Instant::now();
        let at = |secs: u64| start + Duration::from_secs(secs);
        let mut growth = Growth::new(start);
        growth.grew(20 * MIB, at(2));
        growth.calm(20 * MIB, at(100));
        assert!(growth.wants_more(2, 60 * MIB, at(102)));
    }

    #[test]
    fn a_refusal_stands_for_a_while() {
        let start = Instant::now();
        let mut growth = Growth::new(start);
        growth.refuse(start);
        assert!(!growth.wants_more(1, 0, start + Duration::from_secs(59)));
        assert!(growth.wants_more(1, 0, start + Duration::from_secs(61)));
    }
}
