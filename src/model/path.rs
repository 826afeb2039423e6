//! The path of an entry: relative, raw bytes, unable to climb.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use crate::model::limits::{PATH_COMPONENT_MAX_BYTES, PATH_MAX_BYTES};

/// Why bytes are no entry path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// No component at all.
    #[error("path is empty")]
    Empty,
    /// Starts or ends with a slash, or holds two in a row.
    #[error("path has an empty component")]
    EmptyComponent,
    /// `.` or `..`.
    #[error("path has a component that is . or ..")]
    Climbs,
    /// Holds a NUL byte.
    #[error("path holds a NUL byte")]
    Nul,
    /// A component over 255 bytes.
    #[error("path has a component over {PATH_COMPONENT_MAX_BYTES} bytes")]
    LongComponent,
    /// Over 64 KiB.
    #[error("path is over {PATH_MAX_BYTES} bytes")]
    Long,
}

/// A relative path below some root: one or more components, none of them empty, `.` or `..`, without NUL.
///
/// The order is component by component, by raw bytes: a directory is followed at once by all that lies below it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EntryPath(Vec<u8>);

impl EntryPath {
    /// Takes bytes as a path.
    ///
    /// # Errors
    /// When the bytes are not a path that stays below its root; see [`PathError`].
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Result<Self, PathError> {
        let bytes = bytes.into();
        check_length(bytes.len())?;
        for component in bytes.split(|b| *b == b'/') {
            check_component(component)?;
        }
        Ok(Self(bytes))
    }

    /// Takes an absolute or relative path of this machine: the leading slash goes, `.` components too.
    ///
    /// # Errors
    /// When nothing is left, or a component is `..`.
    pub fn from_fs(path: &Path) -> Result<Self, PathError> {
        let mut bytes = Vec::new();
        for component in path.components() {
            match component {
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
                Component::ParentDir => return Err(PathError::Climbs),
                Component::Normal(name) => {
                    if !bytes.is_empty() {
                        bytes.push(b'/');
                    }
                    bytes.extend_from_slice(name.as_bytes());
                }
            }
        }
        Self::from_bytes(bytes)
    }

    /// The child `name` of this directory.
    ///
    /// # Errors
    /// When `name` is no single valid component, or the path grows too long.
    pub fn join(&self, name: &[u8]) -> Result<Self, PathError> {
        check_component(name)?;
        check_length(self.0.len() + 1 + name.len())?;
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        bytes.push(b'/');
        bytes.extend_from_slice(name);
        Ok(Self(bytes))
    }

    /// The raw bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// For calls of the operating system.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The components, outermost first.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/')
    }

    /// How many components.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.components().count()
    }

    /// The last component.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.0.rsplit(|b| *b == b'/').next().unwrap_or(&self.0)
    }

    /// The directory that holds this entry; none for a path of one component.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let slash = self.0.iter().rposition(|b| *b == b'/')?;
        Some(Self(self.0[..slash].to_vec()))
    }

    /// Whether this path is `other` or lies below it.
    #[must_use]
    pub fn is_at_or_below(&self, other: &Self) -> bool {
        self.0.strip_prefix(other.0.as_slice()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }

    /// What is left below `prefix`; none when this path is `prefix` itself or lies elsewhere.
    #[must_use]
    pub fn below(&self, prefix: &Self) -> Option<Self> {
        let rest = self.0.strip_prefix(prefix.0.as_slice())?.strip_prefix(b"/")?;
        Some(Self(rest.to_vec()))
    }

    /// `path` below this one: the reverse of [`Self::below`].
    #[must_use]
    pub fn on_top_of(&self, path: &Self) -> Self {
        Self([self.0.as_slice(), b"/", &path.0].concat())
    }

    /// For people: valid UTF-8 without control characters, escapes where it was not.
    #[must_use]
    pub fn display(&self) -> Cow<'_, str> {
        match std::str::from_utf8(&self.0) {
            Ok(text) if !text.chars().any(is_unsafe_on_screen) => Cow::Borrowed(text),
            _ => Cow::Owned(escape(&self.0)),
        }
    }
}

/// Characters that can move a cursor, recolour a terminal or turn the reading direction.
fn is_unsafe_on_screen(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Any bytes as text that is safe on a terminal: what is not printable becomes `\xNN` or `\u{N}`.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if is_unsafe_on_screen(c) {
                text.extend(c.escape_unicode());
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

fn check_length(bytes: usize) -> Result<(), PathError> {
    if bytes > PATH_MAX_BYTES { Err(PathError::Long) } else { Ok(()) }
}

fn check_component(component: &[u8]) -> Result<(), PathError> {
    match component {
        [] => Err(PathError::EmptyComponent),
        b"." | b".." => Err(PathError::Climbs),
        _ if component.contains(&0) => Err(PathError::Nul),
        _ if component.contains(&b'/') => Err(PathError::EmptyComponent),
        _ if component.len() > PATH_COMPONENT_MAX_BYTES => Err(PathError::LongComponent),
        _ => Ok(()),
    }
}

impl Ord for EntryPath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.components().cmp(other.components())
    }
}

impl PartialOrd for EntryPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryPath({})", self.display())
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> EntryPath {
        EntryPath::from_bytes(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn paths_that_climb_or_break_are_refused() {
        for wrong in ["", "/", "/a", "a/", "a//b", ".", "..", "a/..", "a/./b", "../a", "a\0b"] {
            assert!(EntryPath::from_bytes(wrong).is_err(), "{wrong:?}");
        }
        assert!(EntryPath::from_bytes("x".repeat(256)).is_err());
        assert!(path("a").join(b"b/c").is_err());
    }

    #[test]
    fn a_directory_is_followed_by_what_lies_below_it() {
        let mut paths = [path("a.b"), path("a/z"), path("a"), path("a-b"), path("a/z/c")];
        paths.sort();
        let printed: Vec<_> = paths.iter().map(|p| p.display().into_owned()).collect();
        assert_eq!(printed, ["a", "a/z", "a/z/c", "a-b", "a.b"]);
    }

    #[test]
    fn screens_never_see_escapes() {
        assert_eq!(
            EntryPath::from_bytes(b"a\x1b[2Jb".to_vec()).map(|p| p.display().into_owned()),
            Ok("a\\u{1b}[2Jb".into())
        );
        assert_eq!(EntryPath::from_bytes(b"\xff\xe4".to_vec()).map(|p| p.display().into_owned()), Ok("\\xff\\xe4".into()));
    }

    proptest! {
        #[test]
        fn whatever_parses_stays_below_its_root(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(path) = EntryPath::from_bytes(bytes.clone()) {
                prop_assert_eq!(path.as_bytes(), bytes.as_slice());
                prop_assert!(path.as_path().is_relative());
                prop_assert!(path.as_path().components().all(|c| matches!(c, Component::Normal(_))));
            }
        }
    }
}
