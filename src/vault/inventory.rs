//! Building a snapshot's inventory from the pages of earlier ones, and reading an inventory.
//!
//! A page is used again while nine tenths of it are needed and all of it is there; else what is needed of it moves to a new page. Small pages are
//! merged sixteen at a time, so that a long row of nights ends in few pages and each night uploads a small one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::crypto::hash::hash;
use crate::format::inventory::{Line, decode, encode};
use crate::model::limits::{INVENTORY_MAX_BYTES, INVENTORY_PAGE_LINES};
use crate::model::name::{ObjectName, Sealed};
use crate::state::{StateError, read_if_there, write_cached};
use crate::store::Store;
use crate::vault::objects::read_object;
use crate::vault::{VaultError, in_object};

/// Size classes in lines; sixteen pages of one merge into the next.
const CLASSES: [usize; 3] = [16, 256, INVENTORY_PAGE_LINES];
const MERGE_PAGES: usize = 16;
/// A page is kept while at least so many of ten lines are needed.
const KEPT_TENTHS: usize = 9;
/// Pages and roots that are fetched at once. Most are of a few hundred bytes; all full, they are 32 MiB.
const AHEAD_OBJECTS: usize = 32;

/// A page or root that is still to be sent.
#[derive(Debug, Clone)]
pub struct NewPage {
    /// Its name.
    pub name: Sealed,
    /// Its text.
    pub bytes: Vec<u8>,
}

/// What a line of an earlier page is to a new snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It needs the object.
    Needed,
    /// It does not, and loses nothing by listing it.
    Spare,
    /// It must not list the object: nobody could say what it takes to keep it.
    Unfit,
}

/// An inventory in the making.
#[derive(Debug, Default)]
pub struct InventoryBuilder {
    kept: Vec<(Sealed, usize)>,
    fresh: Vec<(NewPage, usize)>,
}

impl InventoryBuilder {
    /// Looks at a page of an earlier inventory. When enough of it is needed and nothing of it is unfit it is used again, and
    /// its lines are handed to `listed`; else it is passed over.
    pub fn consider(&mut self, page: Sealed, lines: &[Line], judge: impl Fn(&Line) -> Use, listed: impl FnMut(&Line)) {
        let mut wanted = 0;
        for line in lines {
            match judge(line) {
                Use::Needed => wanted += 1,
                Use::Spare => {}
                Use::Unfit => return,
            }
        }
        if wanted * 10 >= lines.len() * KEPT_TENTHS && wanted > 0 && !self.kept.iter().any(|(kept, _)| *kept == page) {
            lines.iter().for_each(listed);
            self.kept.push((page, lines.len()));
        }
    }

    /// Adds what no page lists yet.
    ///
    /// # Errors
    /// When a line is outside the format.
    pub fn add_rest(&mut self, rest: impl Iterator<Item = Line>) -> Result<(), VaultError> {
        let mut lines = Vec::new();
        for line in rest {
            lines.push(line);
            if lines.len() == INVENTORY_PAGE_LINES {
                self.add_page(std::mem::take(&mut lines))?;
            }
        }
        if lines.is_empty() { Ok(()) } else { self.add_page(lines) }
    }

    fn add_page(&mut self, mut lines: Vec<Line>) -> Result<(), VaultError> {
        lines.sort();
        lines.dedup();
        let bytes = encode(&mut lines).map_err(VaultError::internal)?;
        self.fresh.push((new_page(bytes), lines.len()));
        Ok(())
    }

    /// Merges small pages, and makes the root.
    ///
    /// # Errors
    /// When `load`, which gives the lines of an earlier page, fails.
    pub fn finish(
        mut self,
        load: &mut dyn FnMut(&Sealed) -> Result<Vec<Line>, VaultError>,
    ) -> Result<Inventory, VaultError> {
        for class in 0..CLASSES.len() - 1 {
            self.merge(class, load)?;
        }
        let mut lines: Vec<Line> = self
            .kept
            .iter()
            .map(|(name, _)| *name)
            .chain(self.fresh.iter().map(|(page, _)| page.name))
            .map(|name| Line { hash: name.hash, name: ObjectName::Inventory(name) })
            .collect();
        let root = new_page(encode(&mut lines).map_err(VaultError::internal)?);
        let pages = self.kept.into_iter().map(|(name, _)| name).collect();
        Ok(Inventory { kept: pages, fresh: self.fresh.into_iter().map(|(page, _)| page).collect(), root })
    }

    fn merge(
        &mut self,
        class: usize,
        load: &mut dyn FnMut(&Sealed) -> Result<Vec<Line>, VaultError>,
    ) -> Result<(), VaultError> {
        let in_class = |lines: usize| lines <= CLASSES[class] && (class == 0 || lines > CLASSES[class - 1]);
        let small = self.kept.iter().map(|(_, n)| *n).chain(self.fresh.iter().map(|(_, n)| *n));
        if small.filter(|n| in_class(*n)).count() < MERGE_PAGES {
            return Ok(());
        }
        let mut lines = BTreeSet::new();
        for (page, _) in self.kept.extract_if(.., |(_, n)| in_class(*n)) {
            lines.extend(load(&page)?);
        }
        for (page, _) in self.fresh.extract_if(.., |(_, n)| in_class(*n)) {
            lines.extend(decode(&page.bytes).map_err(VaultError::internal)?);
        }
        self.add_rest(lines.into_iter())
    }
}

fn new_page(bytes: Vec<u8>) -> NewPage {
    NewPage { name: Sealed { hash: hash(&bytes), bytes: bytes.len() as u64 }, bytes }
}

/// A finished inventory.
#[derive(Debug)]
pub struct Inventory {
    /// Pages of earlier inventories.
    pub kept: Vec<Sealed>,
    /// New pages.
    pub fresh: Vec<NewPage>,
    /// The root.
    pub root: NewPage,
}

/// Reads pages, from a local folder where it can: they never change.
#[derive(Debug, Clone)]
pub struct PageCache {
    dir: PathBuf,
}

impl PageCache {
    /// Pages that were seen before lie in `dir`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        crate::state::make_private_dir(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// The lines of a page or root.
    ///
    /// # Errors
    /// When it is missing or damaged.
    pub fn read(&self, store: &dyn Store, page: &Sealed) -> Result<Vec<Line>, VaultError> {
        let name = ObjectName::Inventory(*page);
        let bytes = match self.kept(page) {
            Some(bytes) => bytes,
            None => {
                let bytes = read_object(store, &name)?;
                write_cached(&self.path(page), &bytes);
                bytes
            }
        };
        decode(&bytes).map_err(in_object(&name))
    }

    /// Gets what is not here yet of inventories, many objects at a time: read one by one, each would cost two round trips.
    /// What cannot be had so shows when it is read.
    pub fn read_ahead<'n>(&self, store: &dyn Store, roots: impl Iterator<Item = &'n ObjectName>) {
        let sealed = |name: &ObjectName| match name {
            ObjectName::Inventory(sealed) => Some(*sealed),
            _ => None,
        };
        let roots: BTreeSet<Sealed> = roots.filter_map(sealed).collect();
        if !self.fetch(store, &roots) {
            return;
        }
        let lines = roots.iter().filter_map(|root| decode(&self.kept(root)?).ok()).flatten();
        let pages = lines.filter_map(|line| sealed(&line.name)).collect();
        self.fetch(store, &pages);
    }

    /// False when the store is out of reach.
    fn fetch(&self, store: &dyn Store, wanted: &BTreeSet<Sealed>) -> bool {
        let missing = |page: &&Sealed| page.bytes <= INVENTORY_MAX_BYTES && !self.path(page).exists();
        let missing: Vec<&Sealed> = wanted.iter().filter(missing).collect();
        for batch in missing.chunks(AHEAD_OBJECTS) {
            let names: Vec<_> =
                batch.iter().map(|page| (ObjectName::Inventory(**page).with_suffix(0), page.bytes)).collect();
            for (page, read) in batch.iter().zip(store.get_many(&names)) {
                match read {
                    Ok(bytes) if hash(&bytes) == page.hash => write_cached(&self.path(page), &bytes),
                    Err(error) if error.is_store_wide() => return false,
                    _ => {}
                }
            }
        }
        true
    }

    fn kept(&self, page: &Sealed) -> Option<Vec<u8>> {
        let bytes = read_if_there(&self.path(page), INVENTORY_MAX_BYTES).ok().flatten()?;
        (hash(&bytes) == page.hash).then_some(bytes)
    }

    fn path(&self, page: &Sealed) -> PathBuf {
        self.dir.join(page.to_string())
    }

    /// Keeps a page that was just made.
    pub fn keep(&self, page: &NewPage) {
        write_cached(&self.path(&page.name), &page.bytes);
    }

    /// Removes all pages but those of `keep`.
    pub fn retain(&self, keep: &BTreeSet<Sealed>) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return };
        let kept: BTreeSet<String> = keep.iter().map(ToString::to_string).collect();
        for entry in entries.flatten() {
            if !entry.file_name().to_str().is_some_and(|name| kept.contains(name)) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

/// Hands every line of a snapshot's inventory to `each`, its pages and root included.
///
/// # Errors
/// When the root or a page is missing or damaged.
pub fn each_line(
    pages: &PageCache,
    store: &dyn Store,
    root: &ObjectName,
    each: &mut dyn FnMut(&Line),
) -> Result<(), VaultError> {
    for page in page_names(pages, store, root)? {
        pages.read(store, &page)?.iter().for_each(&mut *each);
        each(&Line { hash: page.hash, name: ObjectName::Inventory(page) });
    }
    if let ObjectName::Inventory(sealed) = root {
        each(&Line { hash: sealed.hash, name: root.clone() });
    }
    Ok(())
}

/// The pages of an inventory.
///
/// # Errors
/// When the root is missing, damaged, or lists anything but pages.
pub fn page_names(pages: &PageCache, store: &dyn Store, root: &ObjectName) -> Result<Vec<Sealed>, VaultError> {
    let ObjectName::Inventory(sealed) = root else {
        return Err(VaultError::damaged(root, "is no inventory"));
    };
    let lines = pages.read(store, sealed)?;
    lines
        .into_iter()
        .map(|line| match line.name {
            ObjectName::Inventory(page) => Ok(page),
            other => Err(VaultError::damaged(root, format!("lists {other} among its pages"))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::ObjectHash;
    use crate::store::memory::MemoryStore;
    use std::collections::HashMap;

    #[test]
    fn what_was_read_ahead_is_read_without_the_store_and_only_what_is_right_is_kept() -> Result<(), VaultError> {
        let dir = tempfile::tempdir().map_err(VaultError::internal)?;
        let (store, cache) = (MemoryStore::new(), PageCache::open(dir.path())?);
        let mut roots = Vec::new();
        for n in 0..100 {
            let mut builder = InventoryBuilder::default();
            builder.add_rest([pack(n)].into_iter())?;
            let inventory = builder.finish(&mut |_| Err(VaultError::internal("no earlier page")))?;
            for page in inventory.fresh.iter().chain([&inventory.root]) {
                let name = ObjectName::Inventory(page.name).to_string();
                let wrong = n == 7 && page.name == inventory.root.name;
                let content = if wrong { vec![0; page.bytes.len()] } else { page.bytes.clone() };
                store.tamper(|objects| objects.insert(name, content));
            }
            roots.push(ObjectName::Inventory(inventory.root.name));
        }
        cache.read_ahead(&store, roots.iter());
        store.tamper(std::collections::BTreeMap::clear);
        for (root, n) in roots.iter().zip(0..) {
            let mut lines = Vec::new();
            let read = each_line(&cache, &store, root, &mut |line| lines.push(line.clone()));
            assert_eq!((read.is_ok(), lines.contains(&pack(n))), (n != 7, n != 7), "inventory {n}");
        }
        Ok(())
    }

    fn pack(n: u32) -> Line {
        let hash = hash(&n.to_le_bytes());
        Line { hash, name: ObjectName::Pack(Sealed { hash, bytes: 1000 }) }
    }

    /// 400 nights that each add three packs: what a night uploads stays small, and so does the number of pages.
    #[test]
    fn a_night_uploads_a_small_page_and_pages_stay_few() {
        let mut stored: HashMap<Sealed, Vec<Line>> = HashMap::new();
        let mut pages: Vec<Sealed> = Vec::new();
        let mut uploaded = 0;
        for night in 0..400_u32 {
            let mut builder = InventoryBuilder::default();
            for page in &pages {
                builder.consider(*page, &stored[page], |_| Use::Needed, |_| {});
            }
            builder.add_rest((0..3).map(|n| pack(night * 3 + n))).unwrap_or_else(|e| panic!("{e}"));
            let mut load = |page: &Sealed| Ok(stored[page].clone());
            let inventory = builder.finish(&mut load).unwrap_or_else(|e| panic!("{e}"));
            uploaded += inventory.fresh.iter().map(|page| page.bytes.len()).sum::<usize>();
            pages = inventory.kept.clone();
            for page in inventory.fresh {
                stored.insert(page.name, decode(&page.bytes).unwrap_or_else(|e| panic!("{e}")));
                pages.push(page.name);
            }
        }
        let listed: BTreeSet<&Line> = pages.iter().flat_map(|page| &stored[page]).collect();
        assert_eq!(listed.len(), 1200);
        assert!(pages.len() < 40, "{} pages", pages.len());
        let once = 1200 * 150;
        assert!(uploaded < once * 4, "{uploaded} bytes for lists of {once}");
    }

    #[test]
    fn a_page_of_which_little_is_needed_is_not_used_again() {
        let lines: Vec<Line> = (0..100).map(pack).collect();
        let name = Sealed { hash: ObjectHash([1; 32]), bytes: 5 };
        for (needed, kept) in [(100, 1), (90, 1), (89, 0), (0, 0)] {
            let mut builder = InventoryBuilder::default();
            let wanted: BTreeSet<Line> = (0..needed).map(pack).collect();
            let mut listed = 0;
            let judge = |line: &Line| if wanted.contains(line) { Use::Needed } else { Use::Spare };
            builder.consider(name, &lines, judge, |_| listed += 1);
            assert_eq!((builder.kept.len(), listed), (kept, kept * 100));
            let judge = |line: &Line| if *line == lines[99] { Use::Unfit } else { Use::Needed };
            let mut builder = InventoryBuilder::default();
            builder.consider(name, &lines, judge, |_| {});
            assert_eq!(builder.kept.len(), 0, "one unfit line is one too many");
        }
    }
}
