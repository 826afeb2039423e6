//! `keep = { daily = 7, ... }`: the rules of retention, of a job, a copy or a series.

use super::section::Section;
use crate::crypto::secret::VaultSecret;
use crate::model::ids::Token;
use crate::model::retention::{DEFAULT_MIN_SNAPSHOTS, Keep, Periods};

/// More of one period than anybody means.
const COUNT_MAX: i64 = 100_000;

/// Rules as configured: tags still by their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepConfig {
    /// How many of which periods.
    pub periods: Periods,
    /// Everything so many seconds back from the newest.
    pub within_secs: Option<u64>,
    /// Tags, by name or as tokens.
    pub tags: Vec<String>,
    /// Floor: good snapshots.
    pub min_snapshots: u32,
    /// Floor: seconds.
    pub min_age_secs: u64,
}

impl KeepConfig {
    /// The rules with tags as tokens. A name means nothing where no secret is known: custodians write tokens.
    ///
    /// # Errors
    /// The tag that cannot be read here.
    pub fn resolve(&self, secrets: &[VaultSecret]) -> Result<Keep, String> {
        let mut tags = Vec::new();
        for tag in &self.tags {
            match (tag.parse::<Token>(), secrets) {
                (Ok(token), _) => tags.push(token),
                (Err(_), []) => return Err(format!("tag {tag:?}: only the agent knows tags by name; write its token here")),
                (Err(_), secrets) => tags.extend(secrets.iter().map(|secret| secret.tag(tag))),
            }
        }
        let Self { periods, within_secs, min_snapshots, min_age_secs, .. } = *self;
        Ok(Keep { periods, within_secs, tags, min_snapshots, min_age_secs })
    }
}

/// Reads `keep` of a section.
pub(super) fn read_keep(section: &Section<'_>) -> Option<KeepConfig> {
    let keep = section.table("keep")?;
    let count = |key: &str| keep.number(key, 0..=COUNT_MAX).and_then(|n| u32::try_from(n).ok());
    let periods = Periods {
        last: count("last").unwrap_or(0),
        daily: count("daily").unwrap_or(0),
        weekly: count("weekly").unwrap_or(0),
        monthly: count("monthly").unwrap_or(0),
        yearly: count("yearly").unwrap_or(0),
    };
    let config = KeepConfig {
        periods,
        within_secs: keep.some_secs("within"),
        tags: keep.texts("tags"),
        min_snapshots: count("min_snapshots").unwrap_or(DEFAULT_MIN_SNAPSHOTS),
        min_age_secs: keep.duration_secs("min_age").unwrap_or(0),
    };
    if periods == Periods::default() && config.within_secs.is_none() && config.tags.is_empty() {
        keep.wrong("says nothing of what stays: give last, daily, weekly, monthly, yearly, within or tags");
    }
    keep.finish();
    Some(config)
}
