//! Time: whole seconds in UTC in everything that is stored, and the clock that is handed in so that tests never wait.

use std::fmt;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

/// Seconds since 1970 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// `secs` seconds later.
    #[must_use]
    pub const fn plus_secs(self, secs: i64) -> Self {
        Self(self.0.saturating_add(secs))
    }

    /// Seconds from `earlier` to this one; negative when it lies before.
    #[must_use]
    pub const fn secs_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// As `2026-11-21 02:00:00` in `zone`, with the offset from UTC.
    #[must_use]
    pub fn in_zone(self, zone: &TimeZone) -> String {
        match jiff::Timestamp::from_second(self.0) {
            Ok(instant) => instant.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S %:z").to_string(),
            Err(_) => format!("{} s after 1970", self.0),
        }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_second(self.0) {
            Ok(instant) => write!(f, "{}", instant.strftime("%Y-%m-%dT%H:%M:%SZ")),
            Err(_) => write!(f, "{} s after 1970", self.0),
        }
    }
}

/// Where the present comes from.
pub trait Clock: Send + Sync {
    /// The present.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp(jiff::Timestamp::now().as_second())
    }
}

/// Text that is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a duration: {0:?} (write a number and s, m, h, d or w)")]
pub struct DurationError(String);

/// Parses `90s`, `10m`, `26h`, `7d`, `2w` into seconds.
///
/// # Errors
/// When the text is no whole number with one of these units.
pub fn parse_duration_secs(text: &str) -> Result<u64, DurationError> {
    let wrong = || DurationError(text.to_owned());
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = trimmed.split_at(split);
    let factor = match unit.trim() {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return Err(wrong()),
    };
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).filter(|secs| *secs < 1 << 40).ok_or_else(wrong)
}

/// Prints seconds as people say them: `3 h 20 min`, `2 d 4 h`.
#[must_use]
pub fn human_duration(secs: u64) -> String {
    match secs {
        0..120 => format!("{secs} s"),
        120..7200 => format!("{} min", secs / 60),
        7200..172_800 => format!("{} h {} min", secs / 3600, secs % 3600 / 60),
        _ => format!("{} d {} h", secs / 86_400, secs % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, secs) in [("90s", 90), ("10m", 600), ("26h", 93_600), ("7d", 604_800), ("2 w", 1_209_600)] {
            assert_eq!(parse_duration_secs(text), Ok(secs), "{text}");
        }
        for text in ["", "5", "h", "1.5h", "1y", "999999999999999999999d"] {
            assert!(parse_duration_secs(text).is_err(), "{text}");
        }
    }

    #[test]
    fn timestamps_print_in_utc() {
        assert_eq!(Timestamp(1_763_690_400).to_string(), "2025-11-21T02:00:00Z");
    }
}
