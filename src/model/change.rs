//! Whether a member changed as it never does: the rule that makes a snapshot suspect, without input or output.
//!
//! Whoever encrypts files in place leaves nothing of what was there and puts bytes in its place that no program can compress.
//! Either alone is ordinary: a database is dumped anew each night, a camera's pictures never compress. So both must come
//! together, and at least one of them must be unlike the nights before. Whoever forgets to mount a disk leaves next to nothing
//! where much was.

use serde::{Deserialize, Serialize};

use crate::model::limits::MIB;
use crate::model::size::human_size;

/// Good snapshots that must lie before one that is judged.
pub const NIGHTS_MIN: usize = 3;
/// Good snapshots that are remembered, and suspect ones that wait for a person's word.
pub const NIGHTS_KEPT: usize = 14;
/// A smaller member, or less new content, is not judged.
pub const MIN_BYTES: u64 = MIB;
/// New content is incompressible when so many percent of it are.
pub const DENSE_PERCENT: u64 = 90;
/// So many percent of the last good content gone at once are a jump ...
pub const GONE_JUMP_PERCENT: u64 = 50;
/// ... where it is less than this on the median night.
pub const GONE_USUAL_PERCENT: u64 = 10;
/// When less than so many percent of the last good content's size are left, hardly anything is.
pub const LEFT_PERCENT: u64 = 5;
/// With so many percent gone, incompressible content is a jump ...
pub const DENSE_JUMP_GONE_PERCENT: u64 = 10;
/// ... where on the median night less than this of what is new is incompressible.
pub const DENSE_USUAL_PERCENT: u64 = 50;

/// What capturing a member came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// Bytes of content.
    pub source_bytes: u64,
    /// Of them, those that no snapshot held before.
    pub new_bytes: u64,
    /// Of the new ones, those that compression does not shorten.
    pub dense_bytes: u64,
}

/// What is remembered of a snapshot of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Night {
    /// Bytes of content.
    pub source_bytes: u64,
    /// Of them, those that no snapshot held before.
    #[serde(default)]
    pub new_bytes: u64,
    /// How much of the content of the one before was gone.
    pub gone_percent: u64,
    /// How much of the new content was incompressible, where there was enough to tell.
    pub dense_percent: Option<u64>,
    /// Whether the member was a reason to suspect the snapshot.
    #[serde(default)]
    pub was_suspect: bool,
}

impl Night {
    /// What a change is after `before`, the newest first-hand knowledge of the member.
    #[must_use]
    pub fn of(change: &Change, before: Option<&Self>) -> Self {
        let Change { source_bytes, new_bytes, dense_bytes } = *change;
        let dense_percent = (new_bytes >= MIN_BYTES).then(|| percent(dense_bytes, new_bytes));
        let night = Self { source_bytes, new_bytes, gone_percent: 0, dense_percent, was_suspect: false };
        before.map_or(night, |before| night.after(before))
    }

    /// What it is when `before` is the one before it.
    #[must_use]
    pub fn after(self, before: &Self) -> Self {
        let kept = self.source_bytes.saturating_sub(self.new_bytes);
        let gone = before.source_bytes.saturating_sub(kept);
        Self { gone_percent: percent(gone, before.source_bytes), ..self }
    }

    /// Whether it looked as if it had been encrypted.
    const fn was_a_dense_jump(&self) -> bool {
        self.was_suspect && matches!(self.dense_percent, Some(percent) if percent >= DENSE_PERCENT)
    }
}

/// Why a night is unlike the good ones before it, oldest first; none when it is not, or when they are too few to tell.
///
/// Among the good ones are suspect ones that a person has cleared. Where such a one looked encrypted, encrypted nights are usual
/// from then on until others outnumber them: what was usual before it would call each of them a jump for ever.
#[must_use]
pub fn judge(now: &Night, before: &[Night]) -> Option<String> {
    if before.len() < NIGHTS_MIN || before.last().is_none_or(|last| last.source_bytes < MIN_BYTES) {
        return None;
    }
    let last = before.last()?.source_bytes;
    let gone = now.gone_percent;
    let usual_gone = median(before.iter().map(|night| night.gone_percent))?;
    if percent(now.source_bytes, last) < LEFT_PERCENT && usual_gone < GONE_USUAL_PERCENT {
        let (now, last) = (human_size(now.source_bytes), human_size(last));
        return Some(format!("it holds {now}, and the last good snapshot held {last}, as if a disk were not mounted"));
    }
    let dense = now.dense_percent.filter(|percent| *percent >= DENSE_PERCENT)?;
    let since = &before[before.iter().rposition(Night::was_a_dense_jump).unwrap_or(0)..];
    let usual_gone = median(since.iter().map(|night| night.gone_percent))?;
    let usual_dense = median(since.iter().filter_map(|night| night.dense_percent));
    let much_is_gone = gone >= GONE_JUMP_PERCENT && usual_gone < GONE_USUAL_PERCENT;
    let dense_is_new = gone >= DENSE_JUMP_GONE_PERCENT && usual_dense.is_some_and(|usual| usual < DENSE_USUAL_PERCENT);
    (much_is_gone || dense_is_new).then(|| {
        let usually = usual_dense.map(|usual| format!(" (usually {usual}%)")).unwrap_or_default();
        format!(
            "{gone}% of what the last good snapshot held is gone (usually {usual_gone}%), and {dense}% of what is new cannot \
             be compressed{usually}, as if it had been encrypted"
        )
    })
}

fn percent(part: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(part) * 100 / u128::from(whole.max(1))).unwrap_or(u64::MAX)
}

/// The middle one; of an even number the higher, which is the less suspicious to compare with.
fn median(values: impl Iterator<Item = u64>) -> Option<u64> {
    let mut sorted: Vec<u64> = values.collect();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last of these nights, judged by those before it, of which a person cleared those that were suspect; each in MiB: all,
    /// new, incompressible.
    fn last_of(nights: &[[u64; 3]]) -> Option<String> {
        let mut known: Vec<Night> = Vec::new();
        let mut verdict = None;
        for [all, new, dense] in nights {
            let change = Change { source_bytes: all * MIB, new_bytes: new * MIB, dense_bytes: dense * MIB };
            let night = Night::of(&change, known.last());
            verdict = judge(&night, &known);
            known.push(Night { was_suspect: verdict.is_some(), ..night });
        }
        verdict
    }

    #[test]
    fn a_jump_that_was_cleared_is_usual_until_quiet_nights_outnumber_it() {
        let documents = [[100, 100, 5], [101, 2, 0], [102, 3, 0], [102, 3, 0], [102, 3, 0]];
        let encrypted = [102, 102, 102];
        let after = |more: &[[u64; 3]]| last_of(&[&documents[..], more].concat());
        assert!(after(&[encrypted]).is_some());
        assert_eq!(after(&[encrypted, encrypted]), None);
        assert_eq!(after(&[encrypted, encrypted, encrypted, [102, 20, 20]]), None);
        let quiet = [102, 2, 0];
        assert!(after(&[encrypted, quiet, quiet, encrypted]).is_some());
        // That the disk is mounted it does not say.
        assert!(after(&[encrypted, [4, 0, 0]]).is_some());
        // Nor does what was cleared for another reason speak for encryption.
        assert!(after(&[[4, 0, 0], [100, 98, 3], [100, 0, 0]]).is_none());
        assert!(after(&[[4, 0, 0], [100, 98, 3], encrypted]).is_some());
    }

    #[test]
    fn next_to_nothing_where_much_was_is_suspect_and_a_tenth_is_not() {
        let why = last_of(&[[100, 100, 5], [101, 2, 0], [102, 3, 0], [4, 0, 0]]).unwrap_or_default();
        assert!(why.contains("it holds 4.00 MiB, and the last good snapshot held 102 MiB"), "{why}");
        assert_eq!(last_of(&[[100, 100, 5], [101, 2, 0], [102, 3, 0], [10, 0, 0]]), None);
        let emptied_each_night = [[100, 100, 5], [100, 100, 5], [100, 100, 5], [100, 100, 5], [2, 2, 0]];
        assert_eq!(last_of(&emptied_each_night), None);
        assert_eq!(last_of(&[[100, 100, 5], [1, 0, 0]]), None, "too few nights to tell");
    }

    #[test]
    fn files_that_are_all_encrypted_are_suspect_whatever_they_were() {
        let documents = [[100, 100, 5], [101, 2, 0], [102, 3, 0], [102, 102, 102]];
        let why = last_of(&documents).unwrap_or_default();
        assert!(why.contains("100% of what the last good snapshot held is gone (usually 1%)"), "{why}");
        let pictures = [[100, 100, 100], [102, 2, 2], [104, 2, 2], [104, 104, 104]];
        assert!(last_of(&pictures).is_some());
        let dump_that_is_new_each_night = [[100, 100, 5], [100, 90, 4], [100, 95, 3], [100, 100, 99]];
        assert!(last_of(&dump_that_is_new_each_night).is_some());
        let a_fifth_of_the_documents = [[100, 100, 5], [101, 2, 0], [102, 2, 0], [102, 20, 19]];
        assert!(last_of(&a_fifth_of_the_documents).is_some());
    }

    #[test]
    fn ordinary_nights_are_not_suspect() {
        let too_few_nights = [[100, 100, 5], [100, 2, 0], [100, 100, 100]];
        assert_eq!(last_of(&too_few_nights), None);
        let new_pictures = [[100, 100, 100], [102, 2, 2], [104, 2, 2], [304, 200, 200]];
        assert_eq!(last_of(&new_pictures), None);
        let pictures_beside_documents = [[100, 100, 5], [101, 1, 0], [102, 1, 0], [302, 200, 200]];
        assert_eq!(last_of(&pictures_beside_documents), None);
        let much_that_compresses = [[100, 100, 5], [101, 1, 0], [102, 1, 0], [102, 60, 3]];
        assert_eq!(last_of(&much_that_compresses), None);
        let encrypted_dumps = [[100, 100, 100], [100, 100, 100], [100, 100, 100], [100, 100, 100]];
        assert_eq!(last_of(&encrypted_dumps), None);
        let much_is_deleted = [[100, 100, 5], [101, 1, 0], [102, 1, 0], [10, 0, 0]];
        assert_eq!(last_of(&much_is_deleted), None);
    }
}
