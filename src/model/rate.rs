//! How fast bytes may go to and from a store, by the time of day.

use std::fmt;
use std::str::FromStr;

use jiff::tz::TimeZone;

use crate::model::limits::{GIB, KIB, MIB};
use crate::model::time::Timestamp;

/// A slower link would never end, and is most likely a mistake.
const SLOWEST_BYTES_PER_SEC: f64 = 1000.0;
const DAY_MINUTES: u16 = 24 * 60;

/// A stretch of the day, to the minute. It may lead over midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hours {
    from: u16,
    to: u16,
}

impl Hours {
    /// Whether a minute of the day lies in it; its end does not.
    const fn holds(self, minute: u16) -> bool {
        if self.from < self.to { self.from <= minute && minute < self.to } else { self.from <= minute || minute < self.to }
    }
}

impl FromStr for Hours {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("not a time of day: {text:?} (write 22:00-06:00)");
        let (from, to) = text.trim().split_once('-').ok_or_else(wrong)?;
        let (from, to) = (minute(from).ok_or_else(wrong)?, minute(to).ok_or_else(wrong)?);
        if from == to {
            return Err(format!("{text:?} begins when it ends; leave it out for the whole day"));
        }
        Ok(Self { from: from % DAY_MINUTES, to: to % DAY_MINUTES })
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}-{:02}:{:02}", self.from / 60, self.from % 60, self.to / 60, self.to % 60)
    }
}

/// `06:00` as minutes from midnight; `24:00` is the end of the day.
fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let number =
        |text: &str| if text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None };
    let (hours, minutes): (u16, u16) = (number(hours)?, number(minutes)?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= DAY_MINUTES).then_some(minute)
}

/// A rate, at all times or for some hours of the day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    hours: Option<Hours>,
    bytes_per_sec: u64,
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim().split_once(' ') {
            Some((hours, rate)) if hours.contains(':') => {
                Ok(Self { hours: Some(hours.parse()?), bytes_per_sec: parse_rate(rate)? })
            }
            _ => Ok(Self { hours: None, bytes_per_sec: parse_rate(text)? }),
        }
    }
}

/// A rate in bytes a second: `20 Mbit/s`, `2 MiB/s`.
fn parse_rate(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "not a rate: {text:?} (write a number and kbit/s, Mbit/s, Gbit/s, KiB/s or MiB/s, with 08:00-18:00 before it)"
        )
    };
    let amount = text.trim().strip_suffix("/s").ok_or_else(wrong)?;
    let split = amount.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
    let (number, unit) = amount.split_at(split);
    let bits = match unit.trim() {
        "kbit" => 1000,
        "Mbit" => 1_000_000,
        "Gbit" => 1_000_000_000,
        "KiB" => 8 * KIB,
        "MiB" => 8 * MIB,
        "GiB" => 8 * GIB,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let bytes = number * bits as f64 / 8.0;
    if bytes >= SLOWEST_BYTES_PER_SEC { Ok(bytes as u64) } else { Err("a rate under 8 kbit/s would never end".into()) }
}

/// How fast a store may be used, and when it may be sent to at all.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    /// The first rule that holds decides; where none does, there is no limit.
    pub rules: Vec<Rule>,
    /// When anything may be sent; always, where there is none.
    pub windows: Vec<Hours>,
    /// The zone in which hours are meant; none is the machine's.
    pub zone: Option<TimeZone>,
}

impl Pace {
    /// Whether it never holds anything back.
    #[must_use]
    pub const fn is_free(&self) -> bool {
        self.rules.is_empty() && self.windows.is_empty()
    }

    /// Bytes a second at most, where there is a limit.
    #[must_use]
    pub fn limit(&self, now: Timestamp) -> Option<u64> {
        let minute = self.minute(now);
        self.rules.iter().find(|rule| rule.hours.is_none_or(|hours| hours.holds(minute))).map(|rule| rule.bytes_per_sec)
    }

    /// Whether anything may be sent.
    #[must_use]
    pub fn is_open(&self, now: Timestamp) -> bool {
        let minute = self.minute(now);
        self.windows.is_empty() || self.windows.iter().any(|hours| hours.holds(minute))
    }

    /// The minute of the day by the wall clock, so that a night stays a night when clocks are changed.
    fn minute(&self, now: Timestamp) -> u16 {
        let zone = self.zone.clone().unwrap_or_else(TimeZone::system);
        let instant = jiff::Timestamp::from_second(now.0).unwrap_or_default();
        let time = instant.to_zoned(zone).time();
        u16::try_from(i32::from(time.hour()) * 60 + i32::from(time.minute())).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(rules: &[&str], windows: &[&str], zone: &str) -> Pace {
        let rules = rules.iter().map(|text| text.parse().unwrap_or_else(|e| panic!("{e}"))).collect();
        let windows = windows.iter().map(|text| text.parse().unwrap_or_else(|e| panic!("{e}"))).collect();
        Pace { rules, windows, zone: TimeZone::get(zone).ok() }
    }

    /// 2026-11-21 at this time in UTC.
    const fn at(hour: i64, minute: i64) -> Timestamp {
        Timestamp(1_795_219_200 + hour * 3600 + minute * 60)
    }

    #[test]
    fn rates_are_read_as_people_write_them() {
        for (text, bytes) in
            [("20 Mbit/s", 2_500_000), ("8kbit/s", 1000), ("1.5 MiB/s", 1_572_864), ("1 Gbit/s", 125_000_000)]
        {
            assert_eq!(text.parse(), Ok(Rule { hours: None, bytes_per_sec: bytes }), "{text}");
        }
        for text in ["", "fast", "20", "20 Mbit", "1 bit/s", "08:00 5 Mbit/s", "08:00-18:00", "25:00-06:00 1 Mbit/s"] {
            assert!(text.parse::<Rule>().is_err(), "{text}");
        }
        for text in ["22:00", "22-06", "22:00-22:00", "22:60-06:00", "24:01-06:00", "2:00-6:00"] {
            assert!(text.parse::<Hours>().is_err(), "{text}");
        }
        assert_eq!("22:00-24:00".parse::<Hours>().map(|hours| hours.to_string()).as_deref(), Ok("22:00-00:00"));
    }

    #[test]
    fn the_first_rule_of_the_hour_decides() {
        let pace = pace(&["08:00-18:00 1 MiB/s", "18:00-20:00 2 MiB/s", "22:00-06:00 9 MiB/s"], &[], "UTC");
        for (time, mib) in [
            (at(7, 59), None),
            (at(8, 0), Some(1)),
            (at(17, 59), Some(1)),
            (at(18, 0), Some(2)),
            (at(20, 0), None),
            (at(23, 30), Some(9)),
            (at(0, 0), Some(9)),
            (at(5, 59), Some(9)),
            (at(6, 0), None),
        ] {
            assert_eq!(pace.limit(time), mib.map(|mib| mib * MIB), "{time}");
        }
        let pace = super::tests::pace(&["08:00-18:00 1 MiB/s", "4 MiB/s"], &[], "UTC");
        assert_eq!(pace.limit(at(20, 0)), Some(4 * MIB), "what has no hours holds for the rest of the day");
    }

    #[test]
    fn a_window_closes_in_the_morning_and_opens_the_next_night() {
        let pace = pace(&[], &["22:00-06:00", "12:00-13:00"], "Africa/Nairobi");
        // Nairobi is three hours ahead.
        for (time, open) in [
            (at(18, 59), false),
            (at(19, 0), true),
            (at(2, 59), true),
            (at(3, 0), false),
            (at(9, 30), true),
            (at(10, 0), false),
        ] {
            assert_eq!(pace.is_open(time), open, "{time}");
        }
        assert!(Pace::default().is_open(at(12, 0)) && Pace::default().is_free());
    }

    #[test]
    fn a_night_stays_a_night_when_clocks_are_changed() {
        let pace = pace(&[], &["01:00-03:00"], "Europe/Berlin");
        // The night of 2026-10-25 has the hour from two to three twice, the one of 2026-03-29 not at all.
        let open = |from: i64| (0..24 * 60).filter(|minute| pace.is_open(Timestamp(from + minute * 60))).count();
        assert_eq!(open(1_792_879_200), 180);
        assert_eq!(open(1_774_738_800), 60);
    }
}
