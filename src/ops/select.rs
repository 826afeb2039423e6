//! Which snapshot is meant: `latest`, an id prefix, a date, a weekday, `tag:NAME`.

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;

use crate::crypto::secret::VaultSecret;
use crate::model::ids::Token;
use crate::model::snapshot::SnapshotState;
use crate::model::time::Timestamp;
use crate::vault::VaultError;
use crate::vault::snapshots::Snapshot;
use crate::vault::suspects::Suspects;

/// A weekday means the newest such day within so many days.
const WEEKDAY_WITHIN_DAYS: i64 = 7;
/// An id prefix needs so many hex digits, so that it is no word by accident.
const PREFIX_MIN_DIGITS: usize = 6;
/// Snapshots that an error names to choose from.
const CHOICES_SHOWN: usize = 8;

/// What was asked for.
#[derive(Debug, Clone, Default)]
pub struct SnapshotQuery {
    /// The text: latest, a prefix, a date, a weekday, a tag.
    pub text: String,
    /// Only of this job.
    pub job: Option<String>,
    /// Only of this host.
    pub host: Option<String>,
    /// The zone in which dates are read.
    pub timezone: Option<String>,
    /// Only snapshots that are whole; one that is named by its id is taken as it is.
    pub whole_only: bool,
}

/// What tells names from tokens: the secrets, and the names that are known here.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Vault secrets, where there are any.
    pub secrets: Vec<VaultSecret>,
    /// (host, job) pairs that could have snapshots.
    pub series: Vec<(String, String)>,
}

impl Names {
    /// Host and job behind a series token, where they are known here.
    #[must_use]
    pub fn of(&self, token: &Token) -> Option<(&str, &str)> {
        let known = |(host, job): &&(String, String)| self.secrets.iter().any(|s| s.series(host, job) == *token);
        self.series.iter().find(known).map(|(host, job)| (host.as_str(), job.as_str()))
    }

    fn has_tag(&self, snapshot: &Snapshot, tag: &str) -> bool {
        self.secrets.iter().any(|secret| snapshot.body.tags.contains(&secret.tag(tag)))
    }
}

/// Finds the one snapshot that is meant among `snapshots`, oldest first. A suspect one that a person has cleared is whole.
///
/// # Errors
/// When there is none, or more than one; then the message lists the choices.
pub fn select<'a>(
    query: &SnapshotQuery,
    snapshots: &'a [Snapshot],
    names: &Names,
    suspects: &Suspects,
    now: Timestamp,
) -> Result<&'a Snapshot, VaultError> {
    let none = |why: String| VaultError::NoSnapshot(why);
    if snapshots.is_empty() {
        return Err(none("the vault holds no snapshot".into()));
    }
    let text = query.text.trim();
    let zone = zone(query)?;
    if is_prefix(text) {
        let wanted = text.to_ascii_lowercase();
        let mut found = snapshots.iter().filter(|s| s.id.to_string().starts_with(&wanted));
        return match (found.next(), found.next()) {
            (Some(one), None) => Ok(one),
            (Some(_), Some(_)) => Err(none(format!("{text}: more than one snapshot begins so; give more digits"))),
            (None, _) => Err(none(format!("{text}: no snapshot begins so; `farkeep snapshots` lists them"))),
        };
    }
    let in_series = narrow(query, snapshots, names)?;
    let is_whole = |s: &&Snapshot| !query.whole_only || suspects.state_of(s) == SnapshotState::Good;
    let (whole, passed): (Vec<&Snapshot>, Vec<&Snapshot>) = in_series.into_iter().partition(is_whole);
    let candidates = asked_for(text, whole, names, now, &zone)?;
    let newest = match candidates.last().copied() {
        Some(newest) => newest,
        None => return Err(none(why_none(query, &asked_for(text, passed, names, now, &zone)?, suspects))),
    };
    // Two series are two things: the newest of one is no stand-in for the other.
    let others: Vec<String> =
        candidates.iter().rev().filter(|s| s.body.series != newest.body.series).map(|s| describe(s, names)).collect();
    if others.is_empty() {
        return Ok(newest);
    }
    let mut choices = vec![describe(newest, names)];
    choices.extend(others);
    choices.dedup();
    choices.truncate(CHOICES_SHOWN);
    Err(none(format!("{text}: the vault holds more than one series; choose with --job or by id: {}", choices.join(", "))))
}

/// Those of `snapshots` that a text other than an id speaks of.
fn asked_for<'a>(
    text: &str,
    snapshots: Vec<&'a Snapshot>,
    names: &Names,
    now: Timestamp,
    zone: &TimeZone,
) -> Result<Vec<&'a Snapshot>, VaultError> {
    let none = |why: String| VaultError::NoSnapshot(why);
    if text == "latest" {
        Ok(snapshots)
    } else if let Some(tag) = text.strip_prefix("tag:") {
        if names.secrets.is_empty() {
            return Err(none("tags are read on the agent or with --identity".into()));
        }
        Ok(snapshots.into_iter().filter(|s| names.has_tag(s, tag)).collect())
    } else {
        let days = days_of(text, now, zone).ok_or_else(|| {
            none(format!("{text:?}: not a snapshot (write latest, an id prefix, 2026-11-17, a weekday, or tag:NAME)"))
        })?;
        // Of a weekday that is today, last week's counts until today's is there.
        let of_day = |day: &Date| -> Vec<&Snapshot> {
            snapshots.iter().copied().filter(|s| date_of(s.time, zone) == Some(*day)).collect()
        };
        Ok(days.iter().map(of_day).find(|found| !found.is_empty()).unwrap_or_default())
    }
}

/// Why there is no snapshot to take: none of that name, or only such as are `passed` over because they are not whole.
fn why_none(query: &SnapshotQuery, passed: &[&Snapshot], suspects: &Suspects) -> String {
    let text = query.text.trim();
    if passed.is_empty() {
        let job = query.job.as_ref().map(|job| format!(" of job {job:?}")).unwrap_or_default();
        let host = query.host.as_ref().map(|host| format!(" on host {host:?}")).unwrap_or_default();
        return format!("{text}: there is no such snapshot{job}{host}; `farkeep snapshots` lists them");
    }
    let word = |snapshot: &Snapshot| match suspects.state_of(snapshot) {
        SnapshotState::Partial => "partial",
        _ => "suspect",
    };
    let each = passed.iter().rev().take(CHOICES_SHOWN).map(|s| format!("{} of {} ({})", s.id.short(), s.time, word(s)));
    let each: Vec<String> = each.collect();
    let clear = if passed.iter().any(|s| word(s) == "suspect") {
        ", and a suspect one counts as good once `farkeep hold ID --clear` has cleared it"
    } else {
        ""
    };
    format!("{text}: no snapshot of it is whole: {}; one that is named by its id is taken as it is{clear}", each.join(", "))
}

fn is_prefix(text: &str) -> bool {
    text.len() >= PREFIX_MIN_DIGITS && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn narrow<'a>(query: &SnapshotQuery, snapshots: &'a [Snapshot], names: &Names) -> Result<Vec<&'a Snapshot>, VaultError> {
    if query.job.is_none() && query.host.is_none() {
        return Ok(snapshots.iter().collect());
    }
    if names.secrets.is_empty() {
        return Err(VaultError::NoSnapshot("--job and --host are read on the agent or with --identity".into()));
    }
    let fits = |snapshot: &&Snapshot| {
        // A name that is known here, or one that was just given.
        let mut pairs = names.series.clone();
        for job in query.job.iter().chain(names.series.iter().map(|(_, job)| job)) {
            for host in query.host.iter().chain(names.series.iter().map(|(host, _)| host)) {
                pairs.push((host.clone(), job.clone()));
            }
        }
        pairs.iter().any(|(host, job)| {
            query.job.as_ref().is_none_or(|wanted| wanted == job)
                && query.host.as_ref().is_none_or(|wanted| wanted == host)
                && names.secrets.iter().any(|secret| secret.series(host, job) == snapshot.body.series)
        })
    };
    Ok(snapshots.iter().filter(fits).collect())
}

fn describe(snapshot: &Snapshot, names: &Names) -> String {
    let name = names
        .of(&snapshot.body.series)
        .map_or_else(|| format!("series {}", snapshot.body.series.short()), |(host, job)| format!("{job} on {host}"));
    format!("{} ({name}, {})", snapshot.id.short(), snapshot.time)
}

fn zone(query: &SnapshotQuery) -> Result<TimeZone, VaultError> {
    match &query.timezone {
        None => Ok(TimeZone::system()),
        Some(name) => TimeZone::get(name).map_err(|e| VaultError::NoSnapshot(format!("timezone {name:?}: {e}"))),
    }
}

fn date_of(time: Timestamp, zone: &TimeZone) -> Option<Date> {
    Some(jiff::Timestamp::from_second(time.0).ok()?.to_zoned(zone.clone()).date())
}

/// The days that a date or weekday may mean, the likeliest first.
fn days_of(text: &str, now: Timestamp, zone: &TimeZone) -> Option<Vec<Date>> {
    if let Ok(date) = text.parse::<Date>() {
        return Some(vec![date]);
    }
    let today = date_of(now, zone)?;
    match text.to_ascii_lowercase().as_str() {
        "today" => return Some(vec![today]),
        "yesterday" => return Some(vec![today.yesterday().ok()?]),
        _ => {}
    }
    let wanted = match text.to_ascii_lowercase().as_str() {
        "mon" | "monday" => Weekday::Monday,
        "tue" | "tuesday" => Weekday::Tuesday,
        "wed" | "wednesday" => Weekday::Wednesday,
        "thu" | "thursday" => Weekday::Thursday,
        "fri" | "friday" => Weekday::Friday,
        "sat" | "saturday" => Weekday::Saturday,
        "sun" | "sunday" => Weekday::Sunday,
        _ => return None,
    };
    let back = (0..=WEEKDAY_WITHIN_DAYS).filter_map(|days| today.checked_sub(jiff::Span::new().days(days)).ok());
    Some(back.filter(|day| day.weekday() == wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::body::SnapshotBody;
    use crate::format::record::Head;
    use crate::model::ids::{ObjectHash, WriterId};
    use crate::model::name::ObjectName;
    use crate::model::snapshot::Tally;

    fn secret() -> VaultSecret {
        VaultSecret::from_text(&"ab".repeat(32)).unwrap_or_else(|e| panic!("{e}"))
    }

    fn snapshot(n: u8, time: i64, job: &str) -> Snapshot {
        let body = SnapshotBody {
            manifest: ObjectName::Header,
            inventory: ObjectName::Header,
            epochs: vec![1],
            generation: 1,
            series: secret().series("h", job),
            tags: if n == 2 { vec![secret().tag("v1")] } else { vec![] },
            state: SnapshotState::Good,
            started: Timestamp(time),
            due: None,
            hold: None,
            tally: Tally::default(),
            new_packs: 0,
            new_bytes: 0,
            findings: 0,
            probes: Default::default(),
        };
        let hash = ObjectHash([n; 32]);
        Snapshot {
            id: hash,
            writer: WriterId([1; 16]),
            head: Head { seq: u64::from(n), hash },
            time: Timestamp(time),
            since: 1,
            body,
        }
    }

    /// Friday, 2026-11-20 12:00 UTC.
    const NOW: Timestamp = Timestamp(1_795_176_000);
    const DAY: i64 = 86_400;

    fn find(text: &str, job: Option<&str>) -> Result<u8, String> {
        let all = [snapshot(1, NOW.0 - 9 * DAY, "a"), snapshot(2, NOW.0 - 3 * DAY, "a"), snapshot(3, NOW.0 - DAY, "a")];
        let both: Vec<Snapshot> = all.into_iter().chain([snapshot(4, NOW.0 - DAY, "b")]).collect();
        let names = Names { secrets: vec![secret()], series: vec![("h".into(), "a".into()), ("h".into(), "b".into())] };
        let query = SnapshotQuery {
            text: text.into(),
            job: job.map(str::to_owned),
            timezone: Some("UTC".into()),
            ..SnapshotQuery::default()
        };
        select(&query, &both, &names, &Suspects::default(), NOW).map(|s| s.id.0[0]).map_err(|e| e.to_string())
    }

    #[test]
    fn snapshots_are_found_in_each_way() {
        assert_eq!(find("latest", Some("a")), Ok(3));
        assert_eq!(find("latest", Some("b")), Ok(4));
        assert_eq!(find("020202", None), Ok(2));
        assert_eq!(find("2026-11-17", Some("a")), Ok(2));
        assert_eq!(find("tue", None), Ok(2));
        assert_eq!(find("tag:v1", None), Ok(2));
    }

    #[test]
    fn what_is_not_clear_is_refused_with_the_choices() {
        let choices = find("latest", None).unwrap_err();
        assert!(choices.contains("a on h") && choices.contains("b on h") && choices.contains("--job"), "{choices}");
        // Wednesday has only a snapshot of the week before.
        assert!(find("wednesday", Some("a")).is_err());
        assert!(find("tag:v2", None).is_err());
        assert!(find("ffffff", None).is_err());
        assert!(find("last week", None).unwrap_err().contains("not a snapshot"));
    }
}
