//! Sizes, rates and counts as people write them: `64 KiB`, `1.5 GiB`, `20 Mbit/s`, `1 file`.

use crate::model::limits::{GIB, KIB, MIB};

/// A count with its noun: `1 file`, `2 files`.
#[must_use]
pub fn count(n: u64, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// Text that is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a size: {0:?} (write a number and B, KiB, MiB, GiB, TiB, KB, MB or GB)")]
pub struct SizeError(String);

/// Parses `10`, `64 KiB`, `1.5GiB`, `200 MB`.
///
/// # Errors
/// When the text is no non-negative number with one of the known units.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let wrong = || SizeError(text.to_owned());
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let factor = match unit.trim() {
        "" | "B" => 1,
        "KiB" | "K" => KIB,
        "MiB" | "M" => MIB,
        "GiB" | "G" => GIB,
        "TiB" | "T" => 1024 * GIB,
        "KB" | "kB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 {
        return Err(wrong());
    }
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let mut bytes = whole.checked_mul(factor).ok_or_else(wrong)?;
    if !fraction.is_empty() {
        let digits: u64 = fraction.parse().map_err(|_| wrong())?;
        let scale = 10_u64.pow(u32::try_from(fraction.len()).map_err(|_| wrong())?);
        let part = u64::try_from(u128::from(digits) * u128::from(factor) / u128::from(scale)).map_err(|_| wrong())?;
        bytes = bytes.checked_add(part).ok_or_else(wrong)?;
    }
    Ok(bytes)
}

/// Prints a size with three significant digits: `16.0 MiB`.
#[must_use]
pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut scaled = bytes as f64;
    let mut unit = 0;
    while scaled >= 1023.5 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ if scaled < 10.0 => format!("{scaled:.2} {}", UNITS[unit]),
        _ if scaled < 100.0 => format!("{scaled:.1} {}", UNITS[unit]),
        _ => format!("{scaled:.0} {}", UNITS[unit]),
    }
}

/// The next Padmé size (Nikitin et al. 2019, "Reducing Metadata Leakage from Encrypted Files and Communication"): at most
/// 12 % more, and only O(log log n) bits of the length show.
#[must_use]
pub fn padme(length: u64) -> u64 {
    if length < 2 {
        return length;
    }
    let exponent = length.ilog2();
    let kept_bits = exponent.ilog2() + 1;
    let mask = (1_u64 << exponent.saturating_sub(kept_bits)) - 1;
    (length + mask) & !mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [("0", 0), ("10", 10), ("64 KiB", 65536), ("1.5GiB", 3 * GIB / 2), ("200 MB", 200_000_000)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "KiB", "-1", "1 XB", "1.2.3", "99999999999 TiB", ".5 GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn padme_adds_at_most_12_percent_and_is_idempotent() {
        for length in (0..100_000).chain((1 << 20)..(1 << 20) + 5000).chain([(1 << 24) - 1, (1 << 24) + 1]) {
            let padded = padme(length);
            assert!(padded >= length && (padded - length) * 100 <= length * 12, "{length} -> {padded}");
            assert_eq!(padme(padded), padded);
        }
    }
}
