//! What a walk leaves out: patterns in gitignore syntax, cache directories, directories with a marker, other file systems.

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::model::path::EntryPath;
use crate::source::SourceError;

/// The file that marks a cache directory, and how it must begin (<https://bford.info/cachedir/>).
pub const CACHE_TAG: &[u8] = b"CACHEDIR.TAG";
/// The start of a genuine tag.
pub const CACHE_TAG_START: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// The rules.
#[derive(Debug, Clone, Default)]
pub struct ExcludeRules {
    patterns: Vec<String>,
    globs: Option<Gitignore>,
    /// Leave out what lies in directories with a CACHEDIR.TAG.
    pub caches: bool,
    /// Leave out directories that hold a file of one of these names.
    pub markers: Vec<String>,
    /// Stay on the file system of each root.
    pub one_file_system: bool,
    /// Leave out files over this size in bytes.
    pub max_file_bytes: Option<u64>,
}

impl ExcludeRules {
    /// Rules with patterns in gitignore syntax, matched against the absolute path: `*.tmp`, `/data/minio/.trash/`,
    /// `!keep.tmp`.
    ///
    /// # Errors
    /// When a pattern cannot be read.
    pub fn with_patterns(patterns: &[String]) -> Result<Self, SourceError> {
        let mut rules = Self { patterns: patterns.to_vec(), ..Self::default() };
        if !patterns.is_empty() {
            let mut builder = GitignoreBuilder::new("");
            for pattern in patterns {
                let wrong = |e| SourceError::Configuration(format!("exclude pattern {pattern:?}: {e}"));
                builder.add_line(None, pattern).map_err(wrong)?;
            }
            rules.globs = Some(builder.build().map_err(|e| SourceError::Configuration(format!("exclude patterns: {e}")))?);
        }
        Ok(rules)
    }

    /// The patterns as given.
    #[must_use]
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// Whether the patterns leave this path out. A directory that is left out is not entered.
    #[must_use]
    pub fn leaves_out(&self, path: &EntryPath, is_dir: bool) -> bool {
        self.globs.as_ref().is_some_and(|globs| globs.matched(path.as_path(), is_dir).is_ignore())
    }

    /// Whether a file of so many bytes is left out.
    #[must_use]
    pub fn is_too_large(&self, bytes: u64) -> bool {
        self.max_file_bytes.is_some_and(|limit| bytes > limit)
    }

    /// Whether a directory with this child is marked as not to be backed up.
    #[must_use]
    pub fn is_marker(&self, name: &[u8]) -> bool {
        self.markers.iter().any(|marker| marker.as_bytes() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_gitignore() {
        let rules =
            ExcludeRules::with_patterns(&["*.tmp".into(), "!keep.tmp".into(), "/var/cache/".into(), "a/**/z".into()]);
        let rules = rules.unwrap_or_else(|e| panic!("{e}"));
        for (path, is_dir, expected) in [
            ("srv/x.tmp", false, true),
            ("srv/keep.tmp", false, false),
            ("var/cache", true, true),
            ("var/cache", false, false),
            ("srv/var/cache", true, false),
            ("a/b/c/z", false, true),
            ("x/a/b/z", false, false),
        ] {
            let path = EntryPath::from_bytes(path).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(rules.leaves_out(&path, is_dir), expected, "{path}");
        }
        assert!(ExcludeRules::with_patterns(&["a[z-b]".into()]).is_err());
    }
}
