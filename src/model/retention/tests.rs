//! What the rules keep, over made-up and random histories, honest ones and flooded ones.

use proptest::prelude::*;

use super::*;
use crate::model::ids::ObjectHash;

const DAY: i64 = 86_400;
/// Monday, 2026-06-01 02:00 UTC.
const START: i64 = 1_780_279_200;

fn id(n: usize) -> SnapshotId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(n as u64).to_be_bytes());
    ObjectHash(bytes)
}

fn candidate(n: usize, time: i64) -> Candidate {
    let (state, tags) = (SnapshotState::Good, vec![]);
    Candidate { id: id(n), time: Timestamp(time), state, whole: true, tags, held: None }
}

/// One a night.
fn nights(count: usize) -> Vec<Candidate> {
    (0..count).map(|n| candidate(n, START + n as i64 * DAY)).collect()
}

fn keep(daily: u32, weekly: u32, min_snapshots: u32) -> Keep {
    let periods = Periods { daily, weekly, ..Periods::default() };
    Keep { periods, within_secs: None, tags: vec![], min_snapshots, min_age_secs: 0 }
}

fn kept(series: &[Candidate], keep: &Keep) -> Vec<usize> {
    let decisions = decide(series, Some(keep), &TimeZone::UTC);
    (0..series.len()).filter(|n| decisions[*n].keeps()).collect()
}

#[test]
fn seven_days_and_eight_weeks_are_what_they_say() {
    let found = kept(&nights(70), &keep(7, 8, 3));
    // The newest night is a Sunday; the first of each week is a Monday.
    let mondays = (2..10).map(|week| week * 7);
    let expected: BTreeSet<usize> = (63..70).chain(mondays).collect();
    assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
}

#[test]
fn what_the_rules_keep_tonight_they_kept_last_night_too() {
    let rules = Keep { periods: Periods { daily: 7, weekly: 8, monthly: 12, yearly: 3, last: 2 }, ..keep(0, 0, 1) };
    let all = nights(900);
    let mut before: BTreeSet<usize> = BTreeSet::new();
    for tonight in 1..=all.len() {
        let now: BTreeSet<usize> = kept(&all[..tonight], &rules).into_iter().collect();
        let risen: Vec<_> = now.iter().filter(|n| **n + 1 < tonight && !before.contains(n)).collect();
        assert!(risen.is_empty(), "night {tonight} wants {risen:?}, which had gone before");
        before = now;
    }
}

#[test]
fn a_suspect_or_damaged_snapshot_displaces_no_good_one() {
    let mut series = nights(12);
    for bad in &mut series[4..9] {
        bad.state = SnapshotState::Suspect;
    }
    for bad in &mut series[9..12] {
        bad.whole = false;
    }
    let found = kept(&series, &keep(3, 0, 1));
    assert_eq!(found, [1, 2, 3, 9, 10, 11], "three good days, and the three newest for whoever looks into them");
}

#[test]
fn holds_and_tags_keep_what_no_period_does() {
    let mut series = nights(30);
    series[3].held = Some(Timestamp(START + 60 * DAY));
    series[4].held = Some(Timestamp(START + 10 * DAY));
    series[5].tags = vec![Token([7; 16])];
    let rules = Keep { tags: vec![Token([7; 16])], ..keep(1, 0, 1) };
    assert_eq!(kept(&series, &rules), [3, 5, 29]);
}

#[test]
fn floors_hold_whatever_the_rules_say() {
    let rules = Keep { periods: Periods { last: 1, ..Periods::default() }, ..keep(0, 0, 3) };
    assert_eq!(kept(&nights(10), &rules), [7, 8, 9]);
    let young = Keep { min_age_secs: 4 * DAY as u64, ..rules.clone() };
    assert_eq!(kept(&nights(10), &young), [5, 6, 7, 8, 9]);
    // A flood within one night counts as one night.
    let mut flooded = nights(10);
    flooded.extend((10..60).map(|n| candidate(n, START + 9 * DAY + n as i64)));
    assert_eq!(kept(&flooded, &rules), [7, 8, 9, 59]);
    assert_eq!(kept(&flooded[10..], &rules), [0, 1, 49], "fewer days than the floor asks for");
}

#[test]
fn without_a_rule_all_stay_and_an_empty_series_has_no_decisions() {
    assert!(decide(&nights(40), None, &TimeZone::UTC).iter().all(Decision::keeps));
    assert_eq!(decide(&[], Some(&keep(1, 1, 1)), &TimeZone::UTC), []);
}

#[test]
fn times_are_bounded_by_the_chain_and_by_the_store() {
    let dated = |claimed, received: Option<i64>| Dated { claimed: Timestamp(claimed), received: received.map(Timestamp) };
    let chain = [dated(10, Some(11)), dated(5, Some(21)), dated(9_999, Some(31)), dated(40, None), dated(38, Some(41))];
    let times: Vec<i64> = effective_times(&chain).into_iter().map(|time| time.0).collect();
    assert_eq!(times, [10, 10, 31, 40, 40]);
}

#[test]
fn one_night_with_a_wrong_clock_makes_nothing_old() {
    let rules = Keep { within_secs: Some(14 * DAY as u64), ..keep(7, 4, 3) };
    let usual: Vec<i64> = (0..40).map(|n| START + n * DAY).collect();
    let find = |claimed: &[i64], received: &[i64]| {
        let dated = |(claimed, received): (&i64, &i64)| Dated {
            claimed: Timestamp(*claimed),
            received: Some(Timestamp(*received + 60)),
        };
        let chain: Vec<Dated> = claimed.iter().zip(received).map(dated).collect();
        let series: Vec<Candidate> =
            effective_times(&chain).iter().enumerate().map(|(n, time)| candidate(n, time.0)).collect();
        kept(&series, &rules)
    };
    let honest = find(&usual, &usual);
    for wrong in [0, START - 900 * DAY, START + 900 * DAY] {
        for night in [0, 20, 33, 38] {
            let mut clock = usual.clone();
            clock[night] = wrong;
            for (claimed, received) in [(&clock, &usual), (&usual, &clock), (&clock, &clock)] {
                let found = find(claimed, received);
                // The night itself may count as its neighbour.
                let stands = |n: usize| found.contains(&n) || (n.abs_diff(night) <= 1 && found.contains(&night));
                let lost: Vec<_> = honest.iter().filter(|n| **n != night && !stands(**n)).collect();
                assert!(lost.is_empty(), "night {night} dated {wrong}: {lost:?} lost");
            }
        }
        // Tonight, when nothing yet says that the clock is wrong, the oldest day and week may count as over.
        let mut clock = usual.clone();
        clock[39] = wrong;
        let lost = honest.iter().filter(|n| !find(&clock, &clock).contains(n)).count();
        assert!(lost <= 2, "{lost} lost to a clock that is wrong tonight");
    }
}

#[test]
fn two_forged_tonight_fill_no_more_of_the_floor_than_one() {
    let rules = keep(0, 0, 3);
    let of =
        |times: &[i64]| -> Vec<Candidate> { times.iter().enumerate().map(|(n, time)| candidate(n, START + time)).collect() };
    let hours = |hours: i64| hours * 3600;
    let honest = [hours(1), hours(2), hours(3), hours(4)];
    assert_eq!(kept(&of(&[&honest[..], &[DAY]].concat()), &rules), [0, 1, 4]);
    assert_eq!(kept(&of(&[&honest[..], &[DAY, DAY]].concat()), &rules), [0, 1, 4, 5]);
}

prop_compose! {
    /// An honest history, then a flood by whoever has the agent's key: any dates, any state, within one night.
    fn taken_over()(
        honest in proptest::collection::vec((0_i64..3, 0_i64..DAY), 3..80),
        forged in proptest::collection::vec((-400_i64..4000, 0_u8..3), 1..200),
    ) -> (Vec<Dated>, Vec<SnapshotState>, usize) {
        let mut chain = Vec::new();
        let mut now = START;
        for (days, secs) in &honest {
            now += days * DAY + secs;
            chain.push(Dated { claimed: Timestamp(now), received: Some(Timestamp(now + 60)) });
        }
        let mut states = vec![SnapshotState::Good; chain.len()];
        let takeover = now + 3600;
        for (days, state) in &forged {
            let received = Some(Timestamp(takeover));
            chain.push(Dated { claimed: Timestamp(takeover + days * DAY), received });
            states.push([SnapshotState::Good, SnapshotState::Suspect, SnapshotState::Partial][usize::from(*state)]);
        }
        (chain, states, honest.len())
    }
}

proptest! {
    /// Every good snapshot that the rules kept before the flood stays, but for those that the one period which the flood may
    /// open pushes over the end: as many as one honest night would.
    #[test]
    fn a_flood_of_forged_dates_removes_no_more_than_one_honest_night_would(
        (chain, states, honest) in taken_over(),
        daily in 0_u32..8, weekly in 0_u32..9, monthly in 0_u32..4, min_snapshots in 0_u32..6,
    ) {
        let periods = Periods { daily, weekly, monthly, ..Periods::default() };
        let rules = Keep { periods, ..keep(0, 0, min_snapshots) };
        let series = |dated: &[Dated]| -> Vec<Candidate> {
            let times = effective_times(dated);
            let each = times.iter().zip(&states).enumerate();
            each.map(|(n, (time, state))| Candidate { state: *state, ..candidate(n, time.0) }).collect()
        };
        let mut one_night = chain[..honest].to_vec();
        let received = chain[honest].received;
        one_night.push(Dated { claimed: received.unwrap_or(Timestamp(0)), received });
        let honest_series: Vec<Candidate> =
            series(&one_night).into_iter().map(|c| Candidate { state: SnapshotState::Good, ..c }).collect();
        let mut without: Vec<usize> = kept(&honest_series, &rules);
        without.retain(|n| *n < honest);
        let flooded = kept(&series(&chain), &rules);
        // The newest of before is kept as the newest alone; when another is, its period or the floor has to hold it.
        let lost: Vec<_> = without.iter().filter(|n| !flooded.contains(n)).collect();
        prop_assert!(lost.is_empty(), "lost {lost:?}");
    }

    #[test]
    fn rules_always_leave_the_newest_good_one_and_the_floor(
        states in proptest::collection::vec((0_u8..3, 0_i64..200_000), 1..60),
        last in 0_u32..3, daily in 0_u32..4, min_snapshots in 0_u32..7,
    ) {
        let mut time = START;
        let series: Vec<Candidate> = states.iter().enumerate().map(|(n, (state, more))| {
            time += more;
            let state = [SnapshotState::Good, SnapshotState::Suspect, SnapshotState::Partial][usize::from(*state)];
            Candidate { state, ..candidate(n, time) }
        }).collect();
        let rules = Keep { periods: Periods { last, daily, ..Periods::default() }, ..keep(0, 0, min_snapshots) };
        let found = kept(&series, &rules);
        let good: Vec<usize> = (0..series.len()).filter(|n| series[*n].is_good()).collect();
        prop_assert!(found.contains(&(series.len() - 1)));
        prop_assert!(good.last().is_none_or(|newest| found.contains(newest)));
        let kept_good = good.iter().filter(|n| found.contains(n)).count();
        prop_assert!(kept_good >= good.len().min(min_snapshots as usize));
    }
}
