//! What a probe of a store says: whether the account can change what it has stored.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What an account can do to an object once it is stored; the worst that got through decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Nothing but adding files.
    WriteOnce,
    /// Stored bytes stay, but the account can do more than add files: append, link, make directories, forward ports.
    AppendWeak,
    /// Stored bytes can be changed or removed.
    Mutable,
}

impl Verdict {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::WriteOnce => "write-once",
            Self::AppendWeak => "append-weak",
            Self::Mutable => "mutable",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl FromStr for Verdict {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::WriteOnce, Self::AppendWeak, Self::Mutable];
        all.into_iter().find(|verdict| verdict.word() == text).ok_or_else(|| format!("not a verdict: {text:?}"))
    }
}

/// An attack that got through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breach {
    /// What was asked of the server.
    pub request: String,
    /// What came of it.
    pub effect: String,
    /// What it makes of the account.
    pub verdict: Verdict,
}

/// The outcome of a probe.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ProbeReport {
    /// How many attacks were tried.
    pub attacks: u64,
    /// Those that got through.
    pub got_through: Vec<Breach>,
    /// Small files that the probe made and could not take away.
    pub left: Vec<String>,
}

impl ProbeReport {
    /// The worst that got through.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.got_through.iter().map(|breach| breach.verdict).max().unwrap_or(Verdict::WriteOnce)
    }
}
