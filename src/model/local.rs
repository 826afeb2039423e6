//! What may lie on this machine's disk of archives that other scripts leave and that were pushed: a pure decision.

use serde::Serialize;

use super::time::Timestamp;

/// Upper limits; each that is given holds by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct KeepLocal {
    /// At most so many archives.
    pub files: Option<u64>,
    /// At most so many bytes of them.
    pub bytes: Option<u64>,
    /// None that was written longer ago than this, in seconds.
    pub age_secs: Option<u64>,
}

/// How many of the oldest archives are too many. `archives` are given oldest first, each as when it was written and its
/// bytes; the last `tonight` of them stay whatever is said.
#[must_use]
pub fn too_many(keep: &KeepLocal, archives: &[(Timestamp, u64)], tonight: usize, now: Timestamp) -> usize {
    let mut bytes: u64 = archives.iter().map(|(_, bytes)| bytes).sum();
    let mut count = 0;
    for (written, size) in archives.iter().take(archives.len().saturating_sub(tonight)) {
        let left = (archives.len() - count) as u64;
        let age = u64::try_from(now.secs_since(*written)).unwrap_or(0);
        let over = keep.files.is_some_and(|files| left > files)
            || keep.bytes.is_some_and(|most| bytes > most)
            || keep.age_secs.is_some_and(|secs| age > secs);
        if !over {
            break;
        }
        bytes -= size;
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_until_every_limit_holds_and_tonights_stay() {
        let archives: Vec<(Timestamp, u64)> = (0..5).map(|n| (Timestamp(n * 100), 10)).collect();
        let now = Timestamp(450);
        let over = |keep: KeepLocal, tonight| too_many(&keep, &archives, tonight, now);
        let none = KeepLocal::default();
        assert_eq!(over(none, 1), 0);
        assert_eq!(over(KeepLocal { files: Some(3), ..none }, 1), 2);
        assert_eq!(over(KeepLocal { bytes: Some(25), ..none }, 1), 3);
        assert_eq!(over(KeepLocal { age_secs: Some(250), ..none }, 1), 2);
        assert_eq!(over(KeepLocal { files: Some(4), bytes: Some(25), age_secs: Some(250) }, 1), 3, "each holds by itself");
        assert_eq!(over(KeepLocal { files: Some(1), bytes: Some(0), age_secs: Some(0) }, 2), 3, "tonight's stay");
        assert_eq!(over(KeepLocal { files: Some(9), ..none }, 9), 0);
        assert_eq!(too_many(&KeepLocal { age_secs: Some(1), ..none }, &archives, 1, Timestamp(-9)), 0, "a clock set back");
    }
}
