//! What a member must be to count as a backup: large enough, not much smaller or larger than the last good one, with the
//! right first and last bytes, within its time. It holds for every kind alike, and any violation voids the snapshot.

use crate::model::entry::Metadata;
use crate::model::finding::Finding;
use crate::model::path::{EntryPath, escape};
use crate::model::size::human_size;
use crate::model::snapshot::Tally;
use crate::source::engine::Account;
use crate::source::{Content, ContentError, Found, Load, Loaded, Piece, Settled, Source, SourceError};
use crate::state::file_cache::StatKey;

/// What a member must be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Fewer bytes in all are a failure.
    pub min_bytes: Option<u64>,
    /// It may be smaller than in the last good snapshot by so many percent of that.
    pub max_shrink_percent: Option<u32>,
    /// It may be larger by so many percent.
    pub max_growth_percent: Option<u32>,
    /// Every file must begin with these bytes.
    pub magic: Vec<u8>,
    /// Every file must end with these bytes, white space after them aside.
    pub footer: Vec<u8>,
    /// The member must be captured, or restored, within so many seconds; its tools are killed then.
    pub timeout_secs: Option<u64>,
}

impl Limits {
    /// Judges the sum of a member against the last good one of its series.
    ///
    /// # Errors
    /// When it is not what it must be.
    pub fn judge(&self, member: &str, now: &Tally, before: Option<&Tally>) -> Result<(), SourceError> {
        let fail = |why: String| Err(SourceError::Expectation { what: member.to_owned(), why });
        let bytes = now.source_bytes;
        if let Some(min) = self.min_bytes.filter(|min| bytes < *min) {
            return fail(format!("holds {bytes} bytes, at least {min} are expected"));
        }
        let Some(before) = before.map(|tally| tally.source_bytes).filter(|bytes| *bytes > 0) else { return Ok(()) };
        let percent = |part: u64| u32::try_from(u128::from(part) * 100 / u128::from(before)).unwrap_or(u32::MAX);
        let (was, is) = (human_size(before), human_size(bytes));
        match (self.max_shrink_percent, self.max_growth_percent) {
            (Some(max), _) if percent(before.saturating_sub(bytes)) > max => {
                fail(format!("shrank from {was} to {is}, by more than {max}% since the last good snapshot"))
            }
            (_, Some(max)) if percent(bytes.saturating_sub(before)) > max => {
                fail(format!("grew from {was} to {is}, by more than {max}% since the last good snapshot"))
            }
            _ => Ok(()),
        }
    }

    /// Whether bytes must be looked at.
    #[must_use]
    pub const fn look_at_bytes(&self) -> bool {
        !self.magic.is_empty() || !self.footer.is_empty()
    }
}

/// A source whose files must begin and end as declared.
pub struct Guarded {
    inner: Box<dyn Source>,
    limits: Limits,
}

impl Guarded {
    /// Guards `inner`.
    #[must_use]
    pub fn new(inner: Box<dyn Source>, limits: Limits) -> Self {
        Self { inner, limits }
    }
}

impl Source for Guarded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn roots(&self) -> Vec<EntryPath> {
        self.inner.roots()
    }

    fn context(&self) -> Option<String> {
        self.inner.context()
    }

    fn next(&mut self) -> Result<Option<Found>, SourceError> {
        let Some(found) = self.inner.next()? else { return Ok(None) };
        let what = format!("/{}", found.path);
        let load = Box::new(GuardedLoad { inner: found.load, what, limits: self.limits.clone() });
        Ok(Some(Found { load, ..found }))
    }

    fn finish(&mut self) -> Result<Vec<Finding>, SourceError> {
        self.inner.finish()
    }

    fn account(&mut self) -> Account {
        self.inner.account()
    }
}

struct GuardedLoad {
    inner: Box<dyn Load>,
    what: String,
    limits: Limits,
}

impl Load for GuardedLoad {
    fn load(self: Box<Self>) -> Result<Loaded, SourceError> {
        let Self { inner, what, limits } = *self;
        Ok(match inner.load()? {
            Loaded::File(meta, inner) => {
                let content = GuardedContent { inner, what, limits, head: Vec::new(), tail: Vec::new() };
                Loaded::File(meta, Box::new(content))
            }
            other => other,
        })
    }
}

/// White space after a footer that is forgiven.
const FOOTER_SLACK_BYTES: usize = 64;

struct GuardedContent {
    inner: Box<dyn Content>,
    what: String,
    limits: Limits,
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl GuardedContent {
    fn look(&mut self, bytes: &[u8]) {
        let missing = self.limits.magic.len().saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend(&bytes[..missing]);
        let keep = self.limits.footer.len() + FOOTER_SLACK_BYTES;
        self.tail.extend(&bytes[bytes.len().saturating_sub(keep)..]);
        let excess = self.tail.len().saturating_sub(keep);
        self.tail.drain(..excess);
    }

    fn judge(&self) -> Result<(), SourceError> {
        let fail = |why: String| Err(SourceError::Expectation { what: self.what.clone(), why });
        if self.head != self.limits.magic {
            return fail(format!("does not begin with {}: it is not what it should be", escape(&self.limits.magic)));
        }
        if !self.tail.trim_ascii_end().ends_with(self.limits.footer.trim_ascii_end()) {
            return fail(format!("does not end with {}: it was cut short", escape(&self.limits.footer)));
        }
        Ok(())
    }
}

impl Content for GuardedContent {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, ContentError> {
        let piece = self.inner.read(buffer)?;
        match piece {
            Piece::Data(count) => self.look(&buffer[..count]),
            // Only the last zeros can stand at an end that is looked at, and only the first at a beginning.
            Piece::Hole(count) => {
                let most = self.limits.magic.len().max(self.limits.footer.len()) + FOOTER_SLACK_BYTES;
                self.look(&vec![0; usize::try_from(count).unwrap_or(usize::MAX).min(most)]);
            }
            Piece::End => {}
        }
        Ok(piece)
    }

    fn settle(&mut self) -> Result<Settled, ContentError> {
        let settled = self.inner.settle()?;
        if settled == Settled::Same {
            self.judge().map_err(ContentError::Fatal)?;
        }
        Ok(settled)
    }

    fn again(&mut self) -> Result<Option<Metadata>, ContentError> {
        self.head.clear();
        self.tail.clear();
        self.inner.again()
    }

    fn is_sparse(&self) -> bool {
        self.inner.is_sparse()
    }

    fn key(&self) -> Option<StatKey> {
        self.inner.key()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(limits: &Limits, now: u64, before: Option<u64>) -> Result<(), String> {
        let tally = |bytes| Tally { source_bytes: bytes, ..Tally::default() };
        limits.judge("db", &tally(now), before.map(tally).as_ref()).map_err(|e| e.to_string())
    }

    #[test]
    fn a_member_is_judged_by_size_and_by_the_last_good_one() {
        let limits = Limits {
            min_bytes: Some(100),
            max_shrink_percent: Some(30),
            max_growth_percent: Some(200),
            ..Limits::default()
        };
        assert_eq!(judge(&limits, 100, None), Ok(()));
        assert!(judge(&limits, 99, None).unwrap_err().contains("at least 100"));
        assert_eq!(judge(&limits, 700, Some(1000)), Ok(()));
        assert!(judge(&limits, 680, Some(1000)).unwrap_err().contains("shrank"));
        assert_eq!(judge(&limits, 3000, Some(1000)), Ok(()));
        assert!(judge(&limits, 3010, Some(1000)).unwrap_err().contains("grew"));
        assert_eq!(judge(&limits, 5000, Some(0)), Ok(()));
        assert_eq!(judge(&Limits::default(), 0, Some(u64::MAX)), Ok(()));
    }
}
