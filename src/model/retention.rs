//! Which snapshots stay: a pure function from what is known of a series to one decision a snapshot, with its reasons.
//!
//! It is made so that neither a clock nor an intruder with the agent's key can turn it against good snapshots:
//!
//! - **Time** is bounded by evidence ([`effective_times`]): no snapshot is older than the one before it in its chain, none
//!   younger than the moment at which the store received it, and a night on which the store's own clock was wrong is passed
//!   over. Nothing is compared with the present, only with the newest snapshot of the series, and a leap between two
//!   snapshots counts for no more than twice the usual step: so a clock that runs ahead makes nothing old.
//! - **The first of a period stays**, not the last: whoever floods today's period with more snapshots displaces none that
//!   is in it already.
//! - **Only good ones displace good ones**: every rule is asked twice, of the good snapshots alone and of all.
//! - **Floors** hold whatever the rules say.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::model::ids::{SnapshotId, Token};
use crate::model::snapshot::SnapshotState;
use crate::model::time::{Timestamp, human_duration};

/// Good snapshots, of as many days, that stay where the configuration names no number.
pub const DEFAULT_MIN_SNAPSHOTS: u32 = 3;
const DAY_SECS: u64 = 86_400;

/// What a job or a copy keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Periods {
    /// The newest so many, whatever their dates.
    pub last: u32,
    /// The first of each of so many days that have one.
    pub daily: u32,
    /// The first of each of so many weeks, from Monday on.
    pub weekly: u32,
    /// The first of each of so many months.
    pub monthly: u32,
    /// The first of each of so many years.
    pub yearly: u32,
}

/// The rules of one series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keep {
    /// How many of which periods.
    pub periods: Periods,
    /// Everything so many seconds back from the newest.
    pub within_secs: Option<u64>,
    /// Everything with one of these tags.
    pub tags: Vec<Token>,
    /// Floor: so many good snapshots stay, of as many days where there are so many.
    pub min_snapshots: u32,
    /// Floor: nothing younger than so many seconds, counted back from the newest, goes.
    pub min_age_secs: u64,
}

/// What is known of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: SnapshotId,
    /// When it was made, as far as that can be believed.
    pub time: Timestamp,
    /// What its push made of it.
    pub state: SnapshotState,
    /// Whether nothing speaks against its objects here.
    pub whole: bool,
    /// Its tags.
    pub tags: Vec<Token>,
    /// Until when it is held.
    pub held: Option<Timestamp>,
}

impl Candidate {
    fn is_good(&self) -> bool {
        self.whole && self.state == SnapshotState::Good
    }
}

/// Why a snapshot stays.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Nobody gave its series a rule.
    NoRule,
    /// It is the newest of its series, or the newest good one.
    Newest,
    /// One of the newest.
    Last(u32),
    /// The first of a period: which kind, and which.
    Period(&'static str, String),
    /// Not older than the given span.
    Within(u64),
    /// It has a tag that is kept.
    Tag(Token),
    /// Somebody holds it.
    Held(Timestamp),
    /// A suspect snapshot of its series stands, and nothing goes until somebody clears it.
    Frozen(SnapshotId),
    /// The floor of so many snapshots.
    MinSnapshots(u32),
    /// The floor of so many seconds.
    MinAge(u64),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRule => f.write_str("no rule for this series"),
            Self::Newest => f.write_str("the newest"),
            Self::Last(n) => write!(f, "one of the last {n}"),
            Self::Period(kind, which) => write!(f, "{kind} {which}"),
            Self::Within(secs) => write!(f, "within {}", human_duration(*secs)),
            Self::Tag(token) => write!(f, "tag {}", token.short()),
            Self::Held(until) => write!(f, "held until {until}"),
            Self::Frozen(id) => write!(f, "frozen: snapshot {} is suspect", id.short()),
            Self::MinSnapshots(n) => write!(f, "floor of {n} snapshots"),
            Self::MinAge(secs) => write!(f, "floor: younger than {}", human_duration(*secs)),
        }
    }
}

/// What becomes of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The snapshot.
    pub id: SnapshotId,
    /// Why it stays; it goes when there is no reason.
    pub reasons: Vec<Reason>,
}

impl Decision {
    /// Whether it stays.
    #[must_use]
    pub const fn keeps(&self) -> bool {
        !self.reasons.is_empty()
    }
}

/// What is said of the time of one snapshot of a writer's chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dated {
    /// What its writer claims.
    pub claimed: Timestamp,
    /// When the store received it, by its own clock.
    pub received: Option<Timestamp>,
}

/// When the snapshots of one chain, in its order, were made, as far as that can be believed: never before the one before,
/// never after the store received it.
///
/// A store receives a chain in its order, so receive times that do not rise with it are a clock's mistake. The fewest are
/// passed over that leave a rising row; their snapshots are bounded by the next one.
#[must_use]
pub fn effective_times(chain: &[Dated]) -> Vec<Timestamp> {
    let believed = rising(chain);
    let mut latest = vec![Timestamp(i64::MAX); chain.len()];
    let mut bound = Timestamp(i64::MAX);
    for (place, dated) in chain.iter().enumerate().rev() {
        if believed.contains(&place) {
            bound = dated.received.unwrap_or(bound);
        }
        latest[place] = bound;
    }
    let mut before = Timestamp(i64::MIN);
    let times = chain.iter().zip(latest).map(|(dated, latest)| {
        before = dated.claimed.max(before).min(latest);
        before
    });
    times.collect()
}

/// The places of a longest row of receive times that never falls (Fredman 1975).
fn rising(chain: &[Dated]) -> BTreeSet<usize> {
    // By length: where the row of that length ends that ends lowest.
    let mut ends: Vec<(Timestamp, usize)> = Vec::new();
    let mut before: Vec<Option<usize>> = vec![None; chain.len()];
    for (place, dated) in chain.iter().enumerate() {
        let Some(time) = dated.received else { continue };
        let length = ends.partition_point(|(end, _)| *end <= time);
        before[place] = length.checked_sub(1).map(|shorter| ends[shorter].1);
        if length == ends.len() { ends.push((time, place)) } else { ends[length] = (time, place) }
    }
    let mut row = BTreeSet::new();
    let mut place = ends.last().map(|(_, place)| *place);
    while let Some(here) = place {
        row.insert(here);
        place = before[here];
    }
    row
}

/// How far each snapshot lies behind the newest, in seconds: the steps between them added up, of which none counts for more
/// than twice the usual one.
fn ages(series: &[Candidate]) -> Vec<u64> {
    let step = |pair: &[Candidate]| u64::try_from(pair[1].time.secs_since(pair[0].time)).unwrap_or(0);
    let steps: Vec<u64> = series.windows(2).map(step).collect();
    let mut sorted = steps.clone();
    sorted.sort_unstable();
    let usual = sorted.get(sorted.len() / 2).copied().unwrap_or(0);
    let most = usual.saturating_mul(2).max(DAY_SECS);
    let mut ages = vec![0; series.len()];
    for place in (0..steps.len()).rev() {
        ages[place] = ages[place + 1] + steps[place].min(most);
    }
    ages
}

/// Decides on the snapshots of one series, given in the order in which they were made. Without rules all stay.
#[must_use]
pub fn decide(series: &[Candidate], keep: Option<&Keep>, zone: &TimeZone) -> Vec<Decision> {
    let mut reasons: Vec<BTreeSet<Reason>> = vec![BTreeSet::new(); series.len()];
    let Some(newest) = series.last() else { return Vec::new() };
    for (candidate, reasons) in series.iter().zip(&mut reasons) {
        // Only a snapshot that came after the hold's end proves that it ended.
        reasons.extend(candidate.held.filter(|until| *until >= newest.time).map(Reason::Held));
    }
    match keep {
        None => reasons.iter_mut().for_each(|reasons| reasons.extend([Reason::NoRule])),
        Some(keep) => {
            let days: Vec<Option<Date>> = series.iter().map(|candidate| date(candidate.time, zone)).collect();
            let ages = ages(series);
            let good: Vec<usize> = (0..series.len()).filter(|at| series[*at].is_good()).collect();
            let all: Vec<usize> = (0..series.len()).collect();
            for places in [&good, &all] {
                rules(series, places, keep, &days, &ages, &mut reasons);
            }
            floors(&good, &ages, keep, &days, &mut reasons);
        }
    }
    let decisions = series.iter().zip(reasons);
    decisions.map(|(candidate, reasons)| Decision { id: candidate.id, reasons: reasons.into_iter().collect() }).collect()
}

/// Notes why the snapshots at `places` stay, as if there were no others.
fn rules(
    series: &[Candidate],
    places: &[usize],
    keep: &Keep,
    days: &[Option<Date>],
    ages: &[u64],
    reasons: &mut [BTreeSet<Reason>],
) {
    let Some(newest) = places.last() else { return };
    reasons[*newest].insert(Reason::Newest);
    for place in places.iter().rev().take(keep.periods.last as usize) {
        reasons[*place].insert(Reason::Last(keep.periods.last));
    }
    type Naming = fn(Date) -> String;
    let kinds: [(&'static str, u32, Naming); 4] = [
        ("day", keep.periods.daily, |day| day.to_string()),
        ("week", keep.periods.weekly, |day| {
            let week = day.iso_week_date();
            format!("{:04}-W{:02}", week.year(), week.week())
        }),
        ("month", keep.periods.monthly, |day| format!("{:04}-{:02}", day.year(), day.month())),
        ("year", keep.periods.yearly, |day| format!("{:04}", day.year())),
    ];
    for (kind, count, name) in kinds.into_iter().filter(|(_, count, _)| *count > 0) {
        for (which, place) in newest_periods(places, days, count, name) {
            reasons[place].insert(Reason::Period(kind, which));
        }
    }
    for place in places {
        let age = ages[*place] - ages[*newest];
        reasons[*place].extend(keep.within_secs.filter(|secs| age <= *secs).map(Reason::Within));
        let tags = series[*place].tags.iter().filter(|tag| keep.tags.contains(tag));
        reasons[*place].extend(tags.map(|tag| Reason::Tag(*tag)));
    }
}

/// The newest `count` periods that have a snapshot, each with the first one in it.
fn newest_periods(places: &[usize], days: &[Option<Date>], count: u32, name: fn(Date) -> String) -> Vec<(String, usize)> {
    let mut firsts: Vec<(String, usize)> = Vec::new();
    for place in places {
        let Some(which) = days[*place].map(name) else { continue };
        if firsts.last().is_none_or(|(last, _)| *last != which) {
            firsts.push((which, *place));
        }
    }
    firsts.split_off(firsts.len().saturating_sub(count as usize))
}

/// Notes what stays because too few others do, or because it is too young to judge.
fn floors(good: &[usize], ages: &[u64], keep: &Keep, days: &[Option<Date>], reasons: &mut [BTreeSet<Reason>]) {
    for (age, reasons) in ages.iter().zip(reasons.iter_mut()) {
        if keep.min_age_secs > 0 && *age <= keep.min_age_secs {
            reasons.insert(Reason::MinAge(keep.min_age_secs));
        }
    }
    let floor = keep.min_snapshots as usize;
    let firsts: BTreeMap<Option<Date>, usize> = good.iter().rev().map(|place| (days[*place], *place)).collect();
    // A floor of one is the newest, which stays anyway.
    for place in firsts.values().rev().take(if floor > 1 { floor } else { 0 }) {
        reasons[*place].insert(Reason::MinSnapshots(keep.min_snapshots));
    }
    // With fewer days than that, several of a day count, the oldest first: a flood displaces none of them. So the newest counts
    // only as what else it is: whoever adds two tonight has the first of a day and the newest.
    let newest_alone = BTreeSet::from([Reason::Newest]);
    let counts = |place: &&usize| !reasons[**place].is_empty() && (floor <= 1 || reasons[**place] != newest_alone);
    let kept = good.iter().filter(counts).count();
    let more: Vec<usize> = good.iter().filter(|place| reasons[**place].is_empty()).copied().collect();
    for place in more.into_iter().take(floor.saturating_sub(kept)) {
        reasons[place].insert(Reason::MinSnapshots(keep.min_snapshots));
    }
}

fn date(time: Timestamp, zone: &TimeZone) -> Option<Date> {
    Some(jiff::Timestamp::from_second(time.0).ok()?.to_zoned(zone.clone()).date())
}

#[cfg(test)]
mod tests;
