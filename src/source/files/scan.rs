//! Reading directories ahead, in parallel, and handing their entries over in catalogue order.
//!
//! Each directory is a slot that some thread fills. Threads take the directory that comes first in the walk; the consumer
//! goes through the slots depth first, and fills one itself when nobody has begun it. So many entries at most wait in
//! memory, whatever the size of the tree.

use std::collections::VecDeque;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::Shared;
use super::exclude::{CACHE_TAG, CACHE_TAG_START};
use super::inner::Way;
use super::stat::{Kind, Stat};
use crate::model::entry::Flaw;
use crate::model::finding::{Finding, FindingKind};
use crate::model::path::{EntryPath, PathError};
use crate::source::SourceError;

/// Threads that read directories: more than cores, since on cold caches they wait for the disk.
const THREADS: usize = 8;
/// Entries read ahead, about 150 bytes each.
const AHEAD_MAX: usize = 64 * 1024;
/// The longest path that the system takes in one call.
const PATH_CALL_MAX: usize = 4000;

/// Opens `path` from `/` without following any link on the way.
pub fn open_beneath(slash: &OwnedFd, path: &EntryPath, flags: OFlags) -> Result<OwnedFd, Errno> {
    let bytes = path.as_bytes();
    if bytes.len() <= PATH_CALL_MAX {
        return open_step(slash, bytes, flags);
    }
    // Deeper than one call takes: in stretches.
    let mut dir: Option<OwnedFd> = None;
    let mut rest = bytes;
    while rest.len() > PATH_CALL_MAX {
        let cut = rest[..PATH_CALL_MAX].iter().rposition(|b| *b == b'/').ok_or(Errno::NAMETOOLONG)?;
        let through = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        dir = Some(open_step(dir.as_ref().unwrap_or(slash), &rest[..cut], through)?);
        rest = &rest[cut + 1..];
    }
    open_step(dir.as_ref().unwrap_or(slash), rest, flags)
}

fn open_step(dir: &OwnedFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS) => open_by_components(dir, path, flags),
        done => done,
    }
}

/// For kernels without openat2.
fn open_by_components(dir: &OwnedFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut parts: VecDeque<&[u8]> = path.split(|b| *b == b'/').collect();
    let last = parts.pop_back().ok_or(Errno::INVAL)?;
    let mut dir = rustix::io::fcntl_dupfd_cloexec(dir, 0)?;
    for part in parts {
        let through = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        dir = rustix::fs::openat(&dir, part, through, Mode::empty())?;
    }
    rustix::fs::openat(&dir, last, flags, Mode::empty())
}

/// What the walk comes to.
pub struct Step {
    pub path: EntryPath,
    pub stat: Stat,
    /// For a directory: its names could not all be read, or some of them were left out.
    pub flaw: Option<Flaw>,
}

struct Item {
    name: Box<[u8]>,
    stat: Stat,
    /// For directories that are entered.
    below: Option<Arc<Slot>>,
}

/// The names of a directory.
#[derive(Default)]
struct Listing {
    items: Vec<Item>,
    flaw: Option<Flaw>,
}

struct Slot {
    /// None for `/`.
    path: Option<EntryPath>,
    device: u64,
    /// Nothing is wanted of it but the way to a root further down.
    is_way: bool,
    claimed: AtomicBool,
    listing: Mutex<Option<Listing>>,
    filled: Condvar,
}

impl Slot {
    fn new(path: Option<EntryPath>, device: u64, is_way: bool) -> Arc<Self> {
        let (claimed, listing, filled) = (AtomicBool::new(false), Mutex::new(None), Condvar::new());
        Arc::new(Self { path, device, is_way, claimed, listing, filled })
    }
}

/// The path of `name` in the directory at `dir`, which is `/` itself when there is none.
fn child(dir: Option<&EntryPath>, name: &[u8]) -> Result<EntryPath, PathError> {
    dir.map_or_else(|| EntryPath::from_bytes(name), |dir| dir.join(name))
}

#[derive(Default)]
struct Queue {
    /// Directories to read, the next one last.
    slots: Vec<Arc<Slot>>,
    ahead: usize,
    closed: bool,
}

struct Crew {
    shared: Arc<Shared>,
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Crew {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What each reading thread does.
    fn work(&self) {
        loop {
            let mut queue = self.queue();
            let slot = loop {
                if queue.closed {
                    return;
                }
                if queue.ahead < AHEAD_MAX
                    && let Some(slot) = queue.slots.pop()
                {
                    break slot;
                }
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            };
            drop(queue);
            if !slot.claimed.swap(true, Ordering::AcqRel) {
                self.fill(&slot);
            }
        }
    }

    fn fill(&self, slot: &Slot) {
        let listing = read_dir(&self.shared, slot);
        let mut queue = self.queue();
        queue.ahead += listing.items.len();
        // The first directory of the listing is the next one of the walk: it goes on top.
        queue.slots.extend(listing.items.iter().rev().filter_map(|item| item.below.clone()));
        drop(queue);
        self.changed.notify_all();
        *slot.listing.lock().unwrap_or_else(PoisonError::into_inner) = Some(listing);
        slot.filled.notify_all();
    }
}

/// A walk over one root.
pub struct Walk {
    crew: Arc<Crew>,
    threads: Vec<JoinHandle<()>>,
    first: Option<(EntryPath, Stat, Option<Arc<Slot>>)>,
    /// The directories from the root down to where the walk is, with what is left of each.
    stack: Vec<(Option<EntryPath>, std::vec::IntoIter<Item>)>,
}

impl Walk {
    /// Begins a walk at `root`; with none at `/`, which has no entry of its own.
    pub fn start(shared: Arc<Shared>, root: Option<EntryPath>) -> Result<Self, SourceError> {
        let (first, slot) = match root {
            None => {
                let stat = rustix::fs::fstat(&shared.slash).map_err(|e| missing(Path::new("/"), e))?;
                (None, Some(Slot::new(None, stat.st_dev, false)))
            }
            Some(root) => {
                let stat = look_at_root(&shared, &root)?;
                let slot = (stat.kind() == Kind::Directory).then(|| Slot::new(Some(root.clone()), stat.device, false));
                (Some((root, stat, slot.clone())), slot)
            }
        };
        let crew = Arc::new(Crew { shared, queue: Mutex::default(), changed: Condvar::new() });
        let mut threads = Vec::new();
        if let Some(slot) = &slot {
            crew.queue().slots.push(Arc::clone(slot));
            for _ in 0..THREADS {
                let crew = Arc::clone(&crew);
                threads.push(std::thread::spawn(move || crew.work()));
            }
        }
        let mut walk = Self { crew, threads, first, stack: Vec::new() };
        if walk.first.is_none()
            && let Some(slot) = slot
        {
            let Listing { items, .. } = walk.take(&slot);
            walk.stack.push((None, items.into_iter()));
        }
        Ok(walk)
    }

    /// The next path in order.
    pub fn next(&mut self) -> Result<Option<Step>, SourceError> {
        if let Some((path, stat, below)) = self.first.take() {
            return Ok(Some(self.step(path, stat, below)));
        }
        while let Some((dir, items)) = self.stack.last_mut() {
            let Some(item) = items.next() else {
                self.stack.pop();
                continue;
            };
            let path = child(dir.as_ref(), &item.name);
            self.consumed();
            match path {
                Ok(path) => return Ok(Some(self.step(path, item.stat, item.below))),
                Err(error) => {
                    let name = crate::model::path::escape(&item.name);
                    self.crew.shared.report(Finding::new(FindingKind::Source, name, error));
                }
            }
        }
        Ok(None)
    }

    /// Steps on a path; a directory is entered first, since its entry tells how its names were read.
    fn step(&mut self, path: EntryPath, stat: Stat, below: Option<Arc<Slot>>) -> Step {
        let Some(slot) = below else {
            // A directory on another file system: whatever it holds is left out.
            let flaw = (stat.kind() == Kind::Directory).then_some(Flaw::LeftOut);
            return Step { path, stat, flaw };
        };
        let Listing { items, flaw } = self.take(&slot);
        self.stack.push((Some(path.clone()), items.into_iter()));
        Step { path, stat, flaw }
    }

    fn take(&self, slot: &Arc<Slot>) -> Listing {
        if !slot.claimed.swap(true, Ordering::AcqRel) {
            self.crew.fill(slot);
        }
        let mut listing = slot.listing.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = listing.take() {
                return found;
            }
            listing = slot.filled.wait(listing).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn consumed(&self) {
        let mut queue = self.crew.queue();
        queue.ahead -= 1;
        let woken = queue.ahead == AHEAD_MAX - 1;
        drop(queue);
        if woken {
            self.crew.changed.notify_all();
        }
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        self.crew.queue().closed = true;
        self.crew.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A panic of a reader shows as an empty listing nowhere: the consumer would wait for ever, so it is passed on.
            if thread.join().is_err() {
                tracing::error!("a thread that reads directories has failed");
            }
        }
    }
}

fn missing(path: &Path, e: Errno) -> SourceError {
    SourceError::MissingRoot { path: path.display().to_string(), why: e.to_string() }
}

/// Looks at a root, and tells when it is a link.
fn look_at_root(shared: &Shared, root: &EntryPath) -> Result<Stat, SourceError> {
    let absolute = Path::new("/").join(root.as_path());
    let stat =
        rustix::fs::statat(rustix::fs::CWD, &absolute, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| missing(&absolute, e))?;
    let stat = Stat::new(&stat);
    tell_of_link(shared, root, &stat);
    Ok(stat)
}

fn tell_of_link(shared: &Shared, root: &EntryPath, stat: &Stat) {
    if stat.kind() == Kind::Symlink {
        let absolute = Path::new("/").join(root.as_path());
        let kept = "a symbolic link, kept as one: what it points at is not backed up";
        let real = std::fs::canonicalize(&absolute).ok().and_then(|real| EntryPath::from_fs(&real).ok());
        let message = real.map_or_else(|| kept.to_owned(), |real| format!("{kept}; name /{real} in its place"));
        shared.report(Finding::new(FindingKind::Source, format!("/{root}"), message));
    }
}

/// Reads one directory: its entries with their stats, sorted, without what the rules leave out. What cannot be read is a
/// finding. The flaw tells a later restore that the directory held more than is listed here.
fn read_dir(shared: &Shared, slot: &Slot) -> Listing {
    let report = |path: Option<&EntryPath>, e: Errno| {
        // Gone since its parent was read: that is what living trees do.
        let message =
            if e == Errno::NOENT { "vanished while the tree was read".to_owned() } else { format!("cannot be read: {e}") };
        shared.report(Finding::new(FindingKind::Source, shown(path), message));
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let opened = match &slot.path {
        Some(path) => open_beneath(&shared.slash, path, flags),
        None => rustix::fs::openat(&shared.slash, ".", flags | OFlags::CLOEXEC, Mode::empty()),
    };
    let listed = opened.and_then(|fd| Dir::read_from(&fd).map(|entries| (fd, entries)));
    let (fd, entries) = match listed {
        Ok(listed) => listed,
        Err(e) => {
            report(slot.path.as_ref(), e);
            return Listing { items: Vec::new(), flaw: Some(Flaw::Unreadable(e.to_string())) };
        }
    };
    let mut names: Vec<Box<[u8]>> = Vec::new();
    let mut flaw = None;
    for entry in entries {
        match entry {
            Ok(entry) => match entry.file_name().to_bytes() {
                b"." | b".." => {}
                name => names.push(name.into()),
            },
            Err(e) => {
                report(slot.path.as_ref(), e);
                flaw = Some(Flaw::Unreadable(e.to_string()));
                break;
            }
        }
    }
    let listed = names.len();
    let leads_on = |name: &[u8]| child(slot.path.as_ref(), name).is_ok_and(|path| shared.inner.at(&path) != Way::Aside);
    let mut forced: Vec<Box<[u8]>> = names.iter().filter(|name| leads_on(name)).cloned().collect();
    if slot.is_way {
        names.clear();
    } else {
        keep_allowed(shared, &fd, &mut names);
    }
    let mut left_out = names.len() < listed;
    forced.retain(|name| !names.contains(name));
    names.extend(forced.iter().cloned());
    names.sort_unstable();
    let mut items = Vec::with_capacity(names.len());
    for name in names {
        let Ok(path) = child(slot.path.as_ref(), &name) else {
            let subject = format!("{}/{}", shown(slot.path.as_ref()), crate::model::path::escape(&name));
            shared.report(Finding::new(FindingKind::Source, subject, "name too long or path too deep"));
            left_out = true;
            continue;
        };
        match rustix::fs::statat(&fd, &*name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => {
                let stat = Stat::new(&stat);
                left_out |= stat.kind() == Kind::File && shared.exclude.is_too_large(stat.bytes);
                let is_dir = stat.kind() == Kind::Directory;
                let unwanted = forced.contains(&name) || shared.exclude.leaves_out(&path, is_dir);
                match place(shared, slot, path, stat, unwanted) {
                    Some((stat, below)) => items.push(Item { name, stat, below }),
                    None => left_out = true,
                }
            }
            Err(e) => {
                left_out |= e != Errno::NOENT;
                report(Some(&path), e);
            }
        }
    }
    Listing { items, flaw: flaw.or(left_out.then_some(Flaw::LeftOut)) }
}

/// How what was found in a directory is taken, which the rules may not want; not at all when there is none.
fn place(shared: &Shared, slot: &Slot, path: EntryPath, stat: Stat, unwanted: bool) -> Option<(Stat, Option<Arc<Slot>>)> {
    let is_dir = stat.kind() == Kind::Directory;
    let elsewhere = shared.exclude.one_file_system && stat.device != slot.device;
    match shared.inner.at(&path) {
        Way::Root => {
            tell_of_link(shared, &path, &stat);
            Some((stat, is_dir.then(|| Slot::new(Some(path), stat.device, false))))
        }
        // As for directories above a root: its time tells only of what is not backed up.
        Way::Above if is_dir && (unwanted || elsewhere) => {
            Some((stat.without_times(), Some(Slot::new(Some(path), slot.device, true))))
        }
        _ if unwanted => None,
        _ => Some((stat, (is_dir && !elsewhere).then(|| Slot::new(Some(path), slot.device, false)))),
    }
}

fn shown(path: Option<&EntryPath>) -> String {
    path.map_or_else(|| "/".to_owned(), |path| format!("/{path}"))
}

/// Empties `names` where a marker or a cache tag says that the directory's content is not to be backed up; the tag itself
/// stays, so that the restored directory is a cache too.
fn keep_allowed(shared: &Shared, dir: &OwnedFd, names: &mut Vec<Box<[u8]>>) {
    if !shared.exclude.markers.is_empty() && names.iter().any(|name| shared.exclude.is_marker(name)) {
        names.retain(|name| shared.exclude.is_marker(name));
    }
    if shared.exclude.caches && names.iter().any(|name| **name == *CACHE_TAG) && has_cache_tag(dir) {
        names.retain(|name| **name == *CACHE_TAG);
    }
}

fn has_cache_tag(dir: &OwnedFd) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(fd) = rustix::fs::openat(dir, CACHE_TAG, flags, Mode::empty()) else { return false };
    let mut start = [0; CACHE_TAG_START.len()];
    std::fs::File::from(fd).read_exact(&mut start).is_ok() && start == *CACHE_TAG_START
}
