//! Whether another connection would help, or another channel.
//!
//! It surely does while the windows are the limit: a connection takes some 2.7 MB a round trip, whatever the link could
//! carry. While the channels wait for replies for much of their time rather than for the link, as they do with small
//! objects and short stretches of large ones, another channel on a connection that is there helps as much, and one flow
//! that never pauses loses less than several. Otherwise (a link that loses packets, a server with idle cores) only a
//! trial can tell: now and then one connection is added, and dropped again when the throughput did not rise.
//!
//! Deliberately unaware of connections: it sees bytes, numbers and times.

use std::time::{Duration, Instant};

/// From so much a round trip on, a connection is limited by its windows: of Linux's send buffer of 4 MiB two thirds are under
/// way at most, in both directions, with whatever number of channels. OpenSSH's window of one channel is 2 MiB.
const WINDOW_LIMITED_BYTES: u64 = 2 * 1024 * 1024;
/// How many more a connection at its limit calls for: the link may carry many times as much, and to log in takes a second
/// where round trips are long.
const ADDED_AT_WINDOW_LIMIT: usize = 2;
/// The least time over which throughput is measured.
const MEASURE: Duration = Duration::from_millis(300);
/// And the least number of round trips.
const MEASURE_ROUND_TRIPS: u32 = 4;
/// Objects below this on average are a matter of replies, whatever these wait for: round trips, or the server's disk.
const SMALL_BYTES: u64 = 1024 * 1024;
/// An operation waits this often for a reply while no bytes of it move: for a handle, and for the first bytes or the last
/// reply.
const ROUND_TRIPS_WAITED: u32 = 2;
/// From this share of idle time on another channel is worth its process. The link is idle while all channels wait: for the
/// share of its time that one waits, to the power of their number.
const IDLE_WORTH: f64 = 0.02;
/// Steady throughput before the first trial; each trial that fails doubles the wait.
const TRIAL_AFTER: Duration = Duration::from_secs(10);
/// The longest wait between two trials.
const TRIAL_AFTER_MAX: Duration = Duration::from_secs(300);
/// A trial is not measured before TCP has found its speed.
const SETTLE: Duration = Duration::from_secs(1);
/// How long a trial is measured.
const TRIAL: Duration = Duration::from_secs(3);
/// By how much the throughput must have risen, in percent, for a trial to succeed.
const WORTH_PERCENT: u64 = 10;
/// For so long a server that refused one more connection is not asked again.
const REFUSED: Duration = Duration::from_secs(60);

/// What a store has done so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    /// Bytes moved.
    pub bytes: u64,
    /// Operations finished.
    pub operations: u64,
    /// Connections.
    pub connections: u64,
    /// Connections that are permitted beyond those.
    pub spare_connections: usize,
    /// Operations that run at once: channels.
    pub lanes: u64,
    /// Channels that the connections can take beyond those.
    pub spare_lanes: u64,
    /// The quickest reply.
    pub round_trip: Duration,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Leave it.
    Stay,
    /// One more channel on a connection that is there.
    AddLane,
    /// So many more connections.
    Add(usize),
    /// The last connection did not help.
    Drop,
}

/// The watch over one store.
#[derive(Debug)]
pub struct Growth {
    /// Where the running measurement began.
    mark: (Instant, Seen),
    /// Where the running trial's measurement, or the wait for the next trial, began.
    trial: (Instant, Seen),
    /// Bytes per second before the running trial.
    rate_before: Option<u64>,
    /// The running trial is not measured yet.
    settling: bool,
    wait: Duration,
    refused_until: Option<Instant>,
}

impl Growth {
    pub fn new(now: Instant) -> Self {
        let mark = (now, Seen::default());
        Self { mark, trial: mark, rate_before: None, settling: false, wait: TRIAL_AFTER, refused_until: None }
    }

    /// What to do when every connection is busy and somebody waits.
    pub fn advice(&mut self, seen: Seen, now: Instant) -> Advice {
        let (since, then) = self.mark;
        let measured = now.saturating_duration_since(since);
        if measured >= MEASURE.max(seen.round_trip * MEASURE_ROUND_TRIPS) {
            self.mark = (now, seen);
            let (bytes, operations) = (seen.bytes - then.bytes, seen.operations - then.operations);
            let small = operations > 0 && bytes / operations < SMALL_BYTES;
            let waited = (seen.round_trip * ROUND_TRIPS_WAITED).as_secs_f64() * operations as f64;
            let share = (waited / (measured.as_secs_f64() * seen.lanes.max(1) as f64)).min(1.0);
            let reply_limited = small || share.powf(seen.lanes as f64) >= IDLE_WORTH;
            let per_round_trip = bytes_in(rate(bytes, measured), seen.round_trip);
            let window_limited = per_round_trip >= seen.connections.max(1) * WINDOW_LIMITED_BYTES;
            let may_add = seen.spare_connections > 0 && !self.is_refused(now);
            if window_limited && may_add {
                return self.add(ADDED_AT_WINDOW_LIMIT.min(seen.spare_connections), None, seen, now);
            }
            if reply_limited && seen.spare_lanes > 0 {
                // What it does to the throughput says nothing about a connection that is being tried.
                self.rate_before = None;
                self.trial = (now, seen);
                return Advice::AddLane;
            }
            if reply_limited && may_add {
                return self.add(1, None, seen, now);
            }
        }
        if self.is_refused(now) { Advice::Stay } else { self.try_out(seen, now) }
    }

    fn is_refused(&self, now: Instant) -> bool {
        self.refused_until.is_some_and(|until| now < until)
    }

    fn try_out(&mut self, seen: Seen, now: Instant) -> Advice {
        let (since, then) = self.trial;
        let passed = now.saturating_duration_since(since);
        let rate = rate(seen.bytes - then.bytes, passed);
        match self.rate_before {
            None if passed >= self.wait && seen.spare_connections > 0 => self.add(1, Some(rate), seen, now),
            Some(_) if self.settling => {
                if now >= since {
                    (self.trial, self.settling) = ((now, seen), false);
                }
                Advice::Stay
            }
            Some(before) if passed >= TRIAL => {
                self.rate_before = None;
                self.trial = (now, seen);
                if rate * 100 >= before * (100 + WORTH_PERCENT) {
                    self.wait = TRIAL_AFTER;
                    return Advice::Stay;
                }
                self.wait = (self.wait * 2).min(TRIAL_AFTER_MAX);
                Advice::Drop
            }
            _ => Advice::Stay,
        }
    }

    fn add(&mut self, connections: usize, rate_before: Option<u64>, seen: Seen, now: Instant) -> Advice {
        self.rate_before = rate_before;
        // Its measurement begins when it has settled.
        (self.trial, self.settling) = ((now + SETTLE, seen), true);
        Advice::Add(connections)
    }

    /// A connection was free: what was measured so far does not tell what busy ones carry.
    pub const fn calm(&mut self, seen: Seen, now: Instant) {
        self.mark = (now, seen);
    }

    /// Nothing was going on at all: the trial, too, begins anew.
    pub const fn rest(&mut self, seen: Seen, now: Instant) {
        self.mark = (now, seen);
        self.trial = (now, seen);
    }

    /// The server takes no more.
    pub fn refuse(&mut self, now: Instant) {
        self.refused_until = Some(now + REFUSED);
        self.rate_before = None;
    }
}

fn rate(bytes: u64, time: Duration) -> u64 {
    bytes.saturating_mul(1000) / u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

fn bytes_in(rate: u64, time: Duration) -> u64 {
    rate.saturating_mul(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)) / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    /// A link of so many MiB a second, on which a connection takes at most 2.5 MiB a round trip; objects of `object` bytes.
    /// Returns the number of connections after each second and, last, of lanes: at most four of each, and of a connection.
    fn simulate(link: u64, round_trip: Duration, object: u64, secs: u64) -> (Vec<usize>, u64) {
        let start = Instant::now();
        let mut growth = Growth::new(start);
        let mut seen =
            Seen { round_trip, connections: 1, spare_connections: 3, lanes: 2, spare_lanes: 2, ..Seen::default() };
        let (mut open, mut connections) = (1, Vec::new());
        for step in 0..secs * 10 {
            let now = start + Duration::from_millis(100) * u32::try_from(step).unwrap_or(0);
            match growth.advice(seen, now) {
                Advice::AddLane => seen.lanes += 1,
                Advice::Add(more) => (open, seen.lanes) = (open + more, seen.lanes + 2 * more as u64),
                Advice::Drop => (open, seen.lanes) = (open - 1, seen.lanes - 2),
                _ => {}
            }
            (seen.connections, seen.spare_connections) = (open as u64, 4 - open);
            seen.spare_lanes = seen.connections * 4 - seen.lanes;
            let windows = seen.connections * 5 * MIB / 2 * 1_000_000 / u64::try_from(round_trip.as_micros()).unwrap_or(1);
            let waiting = seen.lanes * object * 500 / u64::try_from(round_trip.as_millis()).unwrap_or(1);
            let bytes = (link * MIB).min(windows).min(waiting) / 10;
            seen.bytes += bytes;
            seen.operations += bytes / object;
            if step % 10 == 9 {
                connections.push(open);
            }
        }
        (connections, seen.lanes)
    }

    #[test]
    fn a_link_that_one_connection_fills_keeps_one() {
        let (connections, lanes) = simulate(24, Duration::from_millis(50), 16 * MIB, 60);
        assert_eq!((&connections[..9], lanes), (&[1; 9][..], 2), "200 Mbit/s over 50 ms");
        let tried = connections.iter().filter(|n| **n > 1).count();
        assert!((3..20).contains(&tried), "now and then another one is tried: {connections:?}");
    }

    #[test]
    fn a_long_fat_link_gets_all_within_seconds() {
        let (connections, _) = simulate(120, Duration::from_millis(100), 16 * MIB, 5);
        assert_eq!(connections[0], 4, "1 Gbit/s over 100 ms: {connections:?}");
    }

    #[test]
    fn small_objects_get_all_soon_and_short_stretches_two_channels_more() {
        let (connections, lanes) = simulate(24, Duration::from_millis(50), 2000, 5);
        assert_eq!((connections.last(), lanes), (Some(&4), 16));
        let (connections, lanes) = simulate(24, Duration::from_millis(50), 2 * MIB, 9);
        assert_eq!((&connections[..], lanes), (&[1; 9][..], 4));
    }

    #[test]
    fn where_nothing_may_be_added_nothing_is_dropped() {
        let start = Instant::now();
        let mut growth = Growth::new(start);
        let round_trip = Duration::from_millis(100);
        let mut seen = Seen { round_trip, connections: 4, lanes: 8, ..Seen::default() };
        for step in 0..6000 {
            let advice = growth.advice(seen, start + round_trip * step);
            assert_eq!(advice, Advice::Stay, "after {step} steps of a tenth of a second");
            (seen.bytes, seen.operations) = (seen.bytes + 4 * MIB, u64::from(step) / 4);
        }
    }

    #[test]
    fn a_refusal_stands_for_a_while() {
        let start = Instant::now();
        let mut growth = Growth::new(start);
        growth.refuse(start);
        let seen = Seen {
            bytes: 100 * MIB,
            operations: 6,
            connections: 1,
            spare_connections: 3,
            lanes: 1,
            spare_lanes: 0,
            round_trip: Duration::from_millis(100),
        };
        assert_eq!(growth.advice(seen, start + Duration::from_secs(1)), Advice::Stay);
        assert_eq!(growth.advice(seen, start + Duration::from_secs(61)), Advice::Add(1));
    }
}
