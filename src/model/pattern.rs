//! Patterns that select entries: a path with all below it, or a glob.

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::model::path::{EntryPath, PathError};

/// Text that selects nothing that could exist.
#[derive(Debug, thiserror::Error)]
pub enum PatternError {
    /// Neither a path nor a glob.
    #[error("not a path: {text:?}: {source}")]
    Path {
        /// The text.
        text: String,
        /// Why.
        source: PathError,
    },
    /// A glob that cannot be read.
    #[error("not a pattern: {text:?}: {message}")]
    Glob {
        /// The text.
        text: String,
        /// Why.
        message: String,
    },
}

/// A choice of entries: everything, or what lies at or below some paths, or what matches some globs.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    paths: Vec<EntryPath>,
    globs: Option<Gitignore>,
    /// What was spelled as a glob, as the name that it may be: `[id].js` is one.
    literals: Vec<EntryPath>,
    spelled: Vec<String>,
}

/// What was spelled and has matched nothing yet.
pub struct Unmatched(Vec<(String, Selection)>);

impl Unmatched {
    /// Takes note of an entry.
    pub fn saw(&mut self, path: &EntryPath, is_dir: bool) {
        self.0.retain(|(_, selection)| !selection.matches(path, is_dir));
    }

    /// What is left.
    pub fn spelled(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(text, _)| text.as_str())
    }
}

impl Selection {
    /// Selects everything.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Selects a path with all below it.
    #[must_use]
    pub fn of_path(path: EntryPath) -> Self {
        Self { spelled: vec![format!("/{path}")], paths: vec![path], ..Self::default() }
    }

    /// Reads what is searched for: like [`Selection::parse`], but a text without `/` is a name, wherever it lies.
    ///
    /// # Errors
    /// When the text is neither path nor pattern.
    pub fn search(text: &str) -> Result<Self, PatternError> {
        if text.contains('/') {
            return Self::parse(&[text.to_owned()]);
        }
        let error = |e: ignore::Error| PatternError::Glob { text: text.to_owned(), message: e.to_string() };
        let mut globs = GitignoreBuilder::new("");
        globs.add_line(None, text).map_err(error)?;
        Ok(Self { globs: Some(globs.build().map_err(error)?), spelled: vec![text.to_owned()], ..Self::default() })
    }

    /// Reads what was given on the command line. A text with `*`, `?` or `[` is a glob in gitignore syntax; anything else is
    /// a path, with or without the leading slash, and selects all that lies below it too.
    ///
    /// # Errors
    /// When a text is neither.
    pub fn parse(texts: &[String]) -> Result<Self, PatternError> {
        let (mut paths, mut literals) = (Vec::new(), Vec::new());
        let mut globs = GitignoreBuilder::new("");
        let mut any_glob = false;
        for text in texts {
            let glob_error = |e: ignore::Error| PatternError::Glob { text: text.clone(), message: e.to_string() };
            if text.contains(['*', '?', '[']) {
                globs.add_line(None, text).map_err(glob_error)?;
                any_glob = true;
                if !text.starts_with('!') {
                    literals.extend(EntryPath::from_fs(std::path::Path::new(text)));
                }
            } else {
                let path = EntryPath::from_fs(std::path::Path::new(text));
                paths.push(path.map_err(|source| PatternError::Path { text: text.clone(), source })?);
            }
        }
        let globs = if any_glob {
            let built = globs.build();
            Some(built.map_err(|e| PatternError::Glob { text: texts.join(" "), message: e.to_string() })?)
        } else {
            None
        };
        Ok(Self { paths, globs, literals, spelled: texts.to_vec() })
    }

    /// Whether everything is selected.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.paths.is_empty() && self.globs.is_none()
    }

    /// As it was given.
    #[must_use]
    pub fn spelled(&self) -> &[String] {
        &self.spelled
    }

    /// What was spelled, each by itself, to be told which of it matches nothing. What leaves something out is none of it.
    #[must_use]
    pub fn unmatched(&self) -> Unmatched {
        let selecting = self.spelled.iter().filter(|text| !text.starts_with('!'));
        let each = selecting.filter_map(|text| Some((text.clone(), Self::parse(std::slice::from_ref(text)).ok()?)));
        Unmatched(each.collect())
    }

    /// Whether the entry at `path` is selected.
    #[must_use]
    pub fn matches(&self, path: &EntryPath, is_dir: bool) -> bool {
        self.is_all()
            || self.paths.iter().chain(&self.literals).any(|p| path.is_at_or_below(p))
            || self.globs.as_ref().is_some_and(|g| g.matched_path_or_any_parents(path.as_path(), is_dir).is_ignore())
    }

    /// Whether something below the directory `path` could be selected; where this is false a reader may skip ahead.
    #[must_use]
    pub fn may_match_below(&self, path: &EntryPath) -> bool {
        self.is_all() || self.globs.is_some() || self.paths.iter().any(|p| p.is_at_or_below(path) || path.is_at_or_below(p))
    }

    /// The paths, when nothing else selects: then a reader can look each of them up.
    #[must_use]
    pub fn only_paths(&self) -> Option<&[EntryPath]> {
        if self.globs.is_none() && !self.paths.is_empty() { Some(&self.paths) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(texts: &[&str]) -> Selection {
        let texts: Vec<String> = texts.iter().map(|t| (*t).to_owned()).collect();
        Selection::parse(&texts).unwrap_or_else(|e| panic!("{e}"))
    }

    fn path(text: &str) -> EntryPath {
        EntryPath::from_bytes(text).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn a_path_selects_what_lies_below_it() {
        let chosen = selection(&["/etc/ssh", "srv"]);
        for (text, expected) in
            [("etc/ssh", true), ("etc/ssh/sshd_config", true), ("etc/sshd", false), ("srv/a/b", true), ("etc", false)]
        {
            assert_eq!(chosen.matches(&path(text), false), expected, "{text}");
        }
        assert!(chosen.may_match_below(&path("etc")));
        assert!(!chosen.may_match_below(&path("usr")));
    }

    #[test]
    fn a_glob_matches_at_any_depth() {
        let chosen = selection(&["*.conf"]);
        assert!(chosen.matches(&path("etc/a.conf"), false));
        assert!(!chosen.matches(&path("etc/a.conf.bak"), false));
    }

    #[test]
    fn a_path_that_climbs_is_refused() {
        assert!(Selection::parse(&["../etc".to_owned()]).is_err());
    }
}
