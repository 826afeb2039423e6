//! A store of which some objects were brought here whole, so that who reads them again need not ask for them again.
//!
//! They lie in one file of this machine that has no name: it is gone with the process, however that ends. What is kept is
//! what whoever read it found right; nothing here knows hashes.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::{Listed, Location, Store, StoreError};

/// A store with a room beside it.
pub struct Kept {
    inner: Arc<dyn Store>,
    room: File,
    room_bytes: u64,
    taken: AtomicU64,
    /// Where in the room each object lies, and its length.
    places: RwLock<HashMap<String, (u64, u64)>>,
}

/// A place for one object that is being read.
#[derive(Debug)]
pub struct Place {
    start: u64,
    length: u64,
    /// All that was handed over so far lies there, and it is so much.
    filled: Option<u64>,
}

impl Place {
    /// Begins with the object anew.
    pub const fn restart(&mut self) {
        self.filled = Some(0);
    }
}

impl Kept {
    /// Beside `inner`, a room of so many bytes in the file system of `dir`.
    ///
    /// # Errors
    /// When no file can be made there.
    pub fn new(inner: Arc<dyn Store>, dir: &Path, room_bytes: u64) -> io::Result<Self> {
        let room = tempfile::tempfile_in(dir)?;
        Ok(Self { inner, room, room_bytes, taken: AtomicU64::new(0), places: RwLock::default() })
    }

    /// How much can be kept.
    #[must_use]
    pub const fn room_bytes(&self) -> u64 {
        self.room_bytes
    }

    /// A place for an object of this length; none when the room is full.
    #[must_use]
    pub fn place(&self, length: u64) -> Option<Place> {
        let fits = |taken: u64| taken.checked_add(length).filter(|end| *end <= self.room_bytes);
        let start = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(Place { start, length, filled: Some(0) })
    }

    /// Puts the next bytes of an object into its place. What does not fit, or cannot be written, makes it worthless.
    pub fn fill(&self, place: &mut Place, bytes: &[u8]) {
        place.filled = place.filled.and_then(|filled| {
            let end = filled + bytes.len() as u64;
            let fits = end <= place.length && self.room.write_all_at(bytes, place.start + filled).is_ok();
            fits.then_some(end)
        });
    }

    /// From now on the object is read from its place, if all of it came to lie there.
    pub fn keep(&self, name: &str, place: &Place) {
        if place.filled == Some(place.length) {
            let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
            places.insert(name.to_owned(), (place.start, place.length));
        }
    }

    /// The bytes of an object that is kept; none for others, and none when this machine cannot read its own file.
    fn get_here(&self, name: &str, offset: u64, bytes: u64) -> Option<Vec<u8>> {
        let (start, length) = *self.places.read().unwrap_or_else(PoisonError::into_inner).get(name)?;
        let count = usize::try_from(length.saturating_sub(offset).min(bytes)).ok()?;
        let mut buffer = vec![0; count];
        self.room.read_exact_at(&mut buffer, start + offset).ok()?;
        Some(buffer)
    }
}

impl Store for Kept {
    fn location(&self) -> &Location {
        self.inner.location()
    }

    fn list(&self, dirs: &[String], each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        self.inner.list(dirs, each)
    }

    fn stat(&self, name: &str) -> Result<Option<u64>, StoreError> {
        self.inner.stat(name)
    }

    fn sizes(&self, names: &[String]) -> Result<Vec<Option<u64>>, StoreError> {
        self.inner.sizes(names)
    }

    fn get(&self, name: &str, offset: u64, bytes: u64) -> Result<Vec<u8>, StoreError> {
        self.get_here(name, offset, bytes).map_or_else(|| self.inner.get(name, offset, bytes), Ok)
    }

    fn get_ranges(&self, name: &str, ranges: &[(u64, u64)]) -> Result<Vec<Vec<u8>>, StoreError> {
        let here: Option<_> = ranges.iter().map(|(offset, bytes)| self.get_here(name, *offset, *bytes)).collect();
        here.map_or_else(|| self.inner.get_ranges(name, ranges), Ok)
    }

    fn get_many(&self, names: &[(String, u64)]) -> Vec<Result<Vec<u8>, StoreError>> {
        let mut found: Vec<_> = names.iter().map(|(name, limit)| self.get_here(name, 0, limit + 1).map(Ok)).collect();
        let elsewhere: Vec<_> =
            names.iter().zip(&found).filter(|(_, here)| here.is_none()).map(|(wanted, _)| wanted.clone()).collect();
        let mut others = if elsewhere.is_empty() { Vec::new() } else { self.inner.get_many(&elsewhere) }.into_iter();
        for slot in found.iter_mut().filter(|slot| slot.is_none()) {
            *slot = others.next();
        }
        let missing = || Err(StoreError::Protocol("fewer answers than questions".into()));
        found.into_iter().map(|slot| slot.unwrap_or_else(missing)).collect()
    }

    fn room(&self) -> Result<Option<u64>, StoreError> {
        self.inner.room()
    }

    fn parallel(&self) -> usize {
        self.inner.parallel()
    }

    fn identity(&self) -> String {
        self.inner.identity()
    }

    fn get_past_cache(&self, name: &str, bytes: u64) -> Result<(Vec<u8>, bool), StoreError> {
        self.inner.get_past_cache(name, bytes)
    }

    fn unit_bytes(&self) -> u64 {
        self.inner.unit_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::WriteOnceStore;
    use crate::store::memory::MemoryStore;

    #[test]
    fn what_came_whole_is_read_here_and_all_else_from_the_store() {
        let inner = MemoryStore::new();
        for name in ["a", "b", "c"] {
            inner.put(name, format!("stored {name}").as_bytes()).unwrap_or_else(|e| panic!("{e}"));
        }
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let kept = Kept::new(Arc::new(inner), dir.path(), 20).unwrap_or_else(|e| panic!("{e}"));
        let keep = |name: &str, length: u64, parts: &[&str]| {
            let Some(mut place) = kept.place(length) else { return false };
            parts.iter().for_each(|part| kept.fill(&mut place, part.as_bytes()));
            kept.keep(name, &place);
            true
        };
        assert!(keep("a", 6, &["kept", " a"]), "it fits");
        assert!(keep("b", 7, &["half"]) && keep("b", 4, &["too long"]), "worthless");
        assert!(!keep("c", 4, &["full"]), "the room is full");
        let get =
            |name: &str, offset, bytes| kept.get(name, offset, bytes).map(|bytes| String::from_utf8_lossy(&bytes).into());
        assert_eq!(get("a", 0, 100), Ok("kept a".to_owned()));
        assert_eq!((get("a", 2, 3), get("a", 9, 3)), (Ok("pt ".to_owned()), Ok(String::new())));
        assert_eq!((get("b", 0, 100), get("c", 7, 1)), (Ok("stored b".to_owned()), Ok("c".to_owned())));
        assert_eq!(kept.get_ranges("a", &[(0, 1), (5, 1)]), Ok(vec![b"k".to_vec(), b"a".to_vec()]));
        assert_eq!(kept.get_ranges("b", &[(0, 1), (7, 1)]), Ok(vec![b"s".to_vec(), b"b".to_vec()]));
        let many = kept.get_many(&["c", "a", "missing", "b"].map(|name| (name.to_owned(), 3)));
        let many: Vec<_> =
            many.into_iter().map(|one| one.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())).collect();
        let [c, a, missing, b] = many.as_slice() else { panic!("{many:?}") };
        assert_eq!([c, a, b].map(|one| one.as_deref().unwrap_or("")), ["stor", "kept", "stor"]);
        assert!(matches!(missing, Err(StoreError::NotFound(_))), "{missing:?}");
    }
}
