//! Whether another connection would help, or another channel.
//!
//! It surely does while the windows are the limit: a connection takes some 2.7 MB a round trip, whatever the link could
//! carry. While the channels wait for replies for much of their time rather than for the link, as they do with small
//! objects and short stretches of large ones, another channel on a connection that is there helps as much, and one flow
//! that never pauses loses less than several. Otherwise (a link that loses packets, a server with idle cores) only a
//! trial can tell: now and then one connection is added, and dropped again when the throughput did not rise. A trial costs
//! something where one flow fills the line: it leaves the other hardly anything, and a pack that went that way is the last to
//! arrive, by seconds. So at an even pace, which is what a full line looks like, trials wait longer, until one has paid.
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
/// How much waiting goes on is not told by fewer operations, unless they take as long as that.
const OPERATIONS_MIN: u64 = 8;
const OPERATIONS_TAKE_MAX: Duration = Duration::from_secs(3);
/// Objects below this on average are a matter of replies, whatever these wait for: round trips, or the server's disk.
const SMALL_BYTES: u64 = 1024 * 1024;
/// An upload waits this often for a reply while no bytes of it move: for a handle, and for the last reply.
const ROUND_TRIPS_OF_UPLOAD: u32 = 2;
/// And a download: for the first bytes. (Where the server's handles cannot be told beforehand, it is one more.)
const ROUND_TRIPS_OF_DOWNLOAD: u32 = 1;
/// From this share of idle time on another channel is worth its process. The link is idle while all channels wait: for the
/// share of its time that one waits, to the power of their number.
const IDLE_WORTH: f64 = 0.02;
/// Steady throughput before the first trial; each trial that fails doubles the wait.
const TRIAL_AFTER: Duration = Duration::from_secs(10);
/// And where one flow fills the line already, or so it seems.
const TRIAL_AFTER_EVEN: Duration = Duration::from_secs(60);
/// A stretch of throughput that is compared with others; the first, in which TCP finds its speed, is not.
const STRETCH: Duration = Duration::from_millis(2500);
/// Throughput is even when no stretch brought so many percent more than another.
const EVEN_PERCENT: u64 = 10;
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
    /// Bytes of those that were sent.
    pub sent: u64,
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
    /// Where the running measurement of throughput began.
    mark: (Instant, Seen),
    /// And that of waiting.
    replies: (Instant, Seen),
    /// Where the running trial's measurement, or the wait for the next trial, began.
    trial: (Instant, Seen),
    /// The pace since then.
    pace: Pace,
    /// A trial has paid, and none failed since: an even pace is no full line here.
    trials_pay: bool,
    /// Bytes per second before the running trial.
    rate_before: Option<u64>,
    /// The running trial is not measured yet.
    settling: bool,
    wait: Duration,
    refused_until: Option<Instant>,
}

/// How even the throughput is, stretch by stretch.
#[derive(Debug, Default)]
struct Pace {
    /// Where the running stretch began.
    began: Option<(Instant, u64)>,
    /// Bytes per second of the slowest and the fastest of those that count.
    extremes: Option<(u64, u64)>,
    first_is_over: bool,
}

impl Pace {
    fn note(&mut self, bytes: u64, now: Instant) {
        let (since, then) = *self.began.get_or_insert((now, bytes));
        let passed = now.saturating_duration_since(since);
        if passed < STRETCH {
            return;
        }
        self.began = Some((now, bytes));
        if std::mem::replace(&mut self.first_is_over, true) {
            let rate = rate(bytes - then, passed);
            let (slowest, fastest) = self.extremes.unwrap_or((rate, rate));
            self.extremes = Some((slowest.min(rate), fastest.max(rate)));
        }
    }

    fn is_even(&self) -> bool {
        self.extremes.is_some_and(|(slowest, fastest)| fastest * 100 <= slowest * (100 + EVEN_PERCENT))
    }
}

impl Growth {
    pub fn new(now: Instant) -> Self {
        let mark = (now, Seen::default());
        let (rate_before, wait, refused_until) = (None, TRIAL_AFTER, None);
        let (pace, trials_pay) = (Pace::default(), false);
        Self { mark, replies: mark, trial: mark, pace, trials_pay, rate_before, settling: false, wait, refused_until }
    }

    /// What to do when every connection is busy and somebody waits.
    pub fn advice(&mut self, seen: Seen, now: Instant) -> Advice {
        let may_add = seen.spare_connections > 0 && !self.is_refused(now);
        let (since, then) = self.mark;
        let measured = now.saturating_duration_since(since);
        if measured >= MEASURE.max(seen.round_trip * MEASURE_ROUND_TRIPS) {
            self.mark = (now, seen);
            let per_round_trip = bytes_in(rate(seen.bytes - then.bytes, measured), seen.round_trip);
            let window_limited = per_round_trip >= seen.connections.max(1) * WINDOW_LIMITED_BYTES;
            if window_limited && may_add {
                return self.add(ADDED_AT_WINDOW_LIMIT.min(seen.spare_connections), None, seen, now);
            }
            let reply_limited = self.is_reply_limited(seen, now);
            if reply_limited && seen.spare_lanes > 0 {
                // What it does to the throughput says nothing about a connection that is being tried.
                self.rate_before = None;
                self.watch_from(seen, now);
                return Advice::AddLane;
            }
            if reply_limited && may_add {
                return self.add(1, None, seen, now);
            }
        }
        if self.is_refused(now) { Advice::Stay } else { self.try_out(seen, now) }
    }

    /// Whether the channels wait for replies for so much of their time that one more is worth it; not while that cannot be told.
    fn is_reply_limited(&mut self, seen: Seen, now: Instant) -> bool {
        let (since, then) = self.replies;
        let measured = now.saturating_duration_since(since);
        let (bytes, operations) = (seen.bytes - then.bytes, seen.operations - then.operations);
        if operations < OPERATIONS_MIN && measured < OPERATIONS_TAKE_MAX {
            return false;
        }
        self.replies = (now, seen);
        let small = operations > 0 && bytes / operations < SMALL_BYTES;
        let sends = (seen.sent - then.sent) * 2 > bytes;
        let round_trips = if sends { ROUND_TRIPS_OF_UPLOAD } else { ROUND_TRIPS_OF_DOWNLOAD };
        let waited = (seen.round_trip * round_trips).as_secs_f64() * operations as f64;
        let share = (waited / (measured.as_secs_f64() * seen.lanes.max(1) as f64)).min(1.0);
        small || share.powf(seen.lanes as f64) >= IDLE_WORTH
    }

    fn is_refused(&self, now: Instant) -> bool {
        self.refused_until.is_some_and(|until| now < until)
    }

    fn try_out(&mut self, seen: Seen, now: Instant) -> Advice {
        let (since, then) = self.trial;
        let passed = now.saturating_duration_since(since);
        let rate = rate(seen.bytes - then.bytes, passed);
        self.pace.note(seen.bytes, now);
        match self.rate_before {
            None if passed >= self.wait && seen.spare_connections > 0 => {
                if !self.trials_pay && self.pace.is_even() && passed < TRIAL_AFTER_EVEN {
                    return Advice::Stay;
                }
                self.add(1, Some(rate), seen, now)
            }
            Some(_) if self.settling => {
                if now >= since {
                    (self.trial, self.settling) = ((now, seen), false);
                }
                Advice::Stay
            }
            Some(before) if passed >= TRIAL => {
                self.rate_before = None;
                self.watch_from(seen, now);
                self.trials_pay = rate * 100 >= before * (100 + WORTH_PERCENT);
                if self.trials_pay {
                    self.wait = TRIAL_AFTER;
                    return Advice::Stay;
                }
                self.wait = (self.wait * 2).min(TRIAL_AFTER_MAX);
                Advice::Drop
            }
            _ => Advice::Stay,
        }
    }

    /// The wait for the next trial begins.
    fn watch_from(&mut self, seen: Seen, now: Instant) {
        self.trial = (now, seen);
        self.pace = Pace::default();
    }

    fn add(&mut self, connections: usize, rate_before: Option<u64>, seen: Seen, now: Instant) -> Advice {
        self.rate_before = rate_before;
        self.pace = Pace::default();
        // Its measurement begins when it has settled.
        (self.trial, self.settling) = ((now + SETTLE, seen), true);
        Advice::Add(connections)
    }

    /// A connection was free: what was measured so far does not tell what busy ones carry.
    pub const fn calm(&mut self, seen: Seen, now: Instant) {
        (self.mark, self.replies) = ((now, seen), (now, seen));
    }

    /// Nothing was going on at all: the trial, too, begins anew.
    pub fn rest(&mut self, seen: Seen, now: Instant) {
        self.calm(seen, now);
        self.watch_from(seen, now);
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
        send(|_, _| link, round_trip, object, secs, 0)
    }

    /// The same where the link's speed depends on the tenth of a second and on the number of connections, and so many percent
    /// of the bytes are sent.
    fn send(
        link: impl Fn(u64, u64) -> u64,
        round_trip: Duration,
        object: u64,
        secs: u64,
        sent_percent: u64,
    ) -> (Vec<usize>, u64) {
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
            let bytes = (link(step, seen.connections) * MIB).min(windows).min(waiting) / 10;
            seen.bytes += bytes;
            seen.sent += bytes * sent_percent / 100;
            seen.operations += bytes / object;
            if step % 10 == 9 {
                connections.push(open);
            }
        }
        (connections, seen.lanes)
    }

    #[test]
    fn a_link_that_one_connection_fills_keeps_one() {
        let (connections, lanes) = simulate(24, Duration::from_millis(50), 16 * MIB, 120);
        assert_eq!((&connections[..59], lanes), (&[1; 59][..], 2), "200 Mbit/s over 50 ms");
        let tried = connections.iter().filter(|n| **n > 1).count();
        assert!((3..20).contains(&tried), "now and then another one is tried: {connections:?}");
    }

    #[test]
    fn an_even_stream_is_left_alone_for_a_minute_and_an_uneven_one_is_not() {
        let first_trial = |link: fn(u64, u64) -> u64| {
            let (connections, _) = send(link, Duration::from_millis(50), 16 * MIB, 100, 100);
            connections.iter().position(|n| *n > 1).unwrap_or(usize::MAX)
        };
        let even = |step, _| if step < 20 { 12 } else { 24 };
        let uneven = |step, _| if step / 10 % 4 == 0 { 10 } else { 24 };
        assert!((59..62).contains(&first_trial(even)), "{}", first_trial(even));
        assert!((9..14).contains(&first_trial(uneven)), "{}", first_trial(uneven));
    }

    #[test]
    fn where_each_connection_has_its_own_limit_the_first_trial_that_pays_is_followed_by_others_soon() {
        let (connections, _) = send(|_, open| 12 * open, Duration::from_millis(50), 16 * MIB, 120, 100);
        assert_eq!((connections[58], connections[100]), (1, 4), "{connections:?}");
    }

    #[test]
    fn a_long_fat_link_gets_all_within_seconds() {
        let (connections, _) = simulate(120, Duration::from_millis(100), 16 * MIB, 5);
        assert_eq!(connections[0], 4, "1 Gbit/s over 100 ms: {connections:?}");
    }

    #[test]
    fn small_objects_get_all_soon_and_short_stretches_as_many_channels_as_hide_their_round_trips() {
        let (connections, lanes) = simulate(24, Duration::from_millis(50), 2000, 5);
        assert_eq!((connections.last(), lanes), (Some(&4), 16));
        for (sent_percent, expected) in [(0, 3), (100, 4)] {
            let (connections, lanes) = send(|_, _| 24, Duration::from_millis(50), 2 * MIB, 9, sent_percent);
            assert_eq!((&connections[..], lanes), (&[1; 9][..], expected), "{sent_percent} % sent");
        }
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
            sent: 0,
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
