//! Files: several roots of this machine with all their metadata.
//!
//! Directories are read ahead by several threads and handed over in catalogue order. Nothing is followed: every open goes
//! from the root directory's descriptor and refuses links, so that a link swapped in while the walk runs leads nowhere.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags};

use crate::model::entry::{Entry, EntryKind};
use crate::model::finding::{Finding, FindingKind};
use crate::model::path::EntryPath;
use crate::source::{Found, Load, Loaded, Source, SourceError};

mod exclude;
mod hardlinks;
mod inner;
mod load;
mod names;
mod scan;
mod stat;
#[cfg(test)]
mod tests;

pub use exclude::ExcludeRules;
use hardlinks::{HardLinks, Link};
use inner::InnerRoots;
use load::{FileLoad, Look};
use names::Owners;
use scan::{Step, Walk};
use stat::Kind;

/// What to back up and what to leave out.
#[derive(Debug, Clone, Default)]
pub struct FilesConfig {
    /// The member's name.
    pub name: String,
    /// Absolute paths.
    pub roots: Vec<PathBuf>,
    /// What to leave out.
    pub exclude: ExcludeRules,
}

/// What the threads of one walk share.
pub(super) struct Shared {
    /// `/`, from which every path is opened.
    pub slash: OwnedFd,
    pub owners: Owners,
    pub exclude: ExcludeRules,
    pub inner: InnerRoots,
    findings: Mutex<Vec<Finding>>,
}

impl Shared {
    pub fn report(&self, finding: Finding) {
        self.findings.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(finding);
    }
}

/// A walk over the roots.
pub struct FilesSource {
    config: FilesConfig,
    shared: Arc<Shared>,
    /// Roots that are still to come, in reverse order; none is `/`, which has no name of its own.
    roots: Vec<Option<EntryPath>>,
    walk: Option<Walk>,
    /// The directories above the roots that were given already: a stack of the path to the last one.
    ancestors: Vec<EntryPath>,
    queue: std::collections::VecDeque<Step>,
    links: HardLinks,
    /// Roots in other ones that the walk did not come to so far.
    unreached: Vec<EntryPath>,
}

impl FilesSource {
    /// Opens the roots.
    ///
    /// # Errors
    /// When a root is missing, cannot be read, or is not an absolute path.
    pub fn open(config: FilesConfig) -> Result<Self, SourceError> {
        let mut roots = Vec::new();
        for root in &config.roots {
            if !root.is_absolute() {
                return Err(SourceError::Configuration(format!("{}: a root is an absolute path", root.display())));
            }
            check_root(root)?;
            let path = root.parent().map(|_| EntryPath::from_fs(root)).transpose();
            roots.push(path.map_err(|e| SourceError::Configuration(format!("{}: {e}", root.display())))?);
        }
        if roots.is_empty() {
            return Err(SourceError::Configuration(format!("source {:?} names no path", config.name)));
        }
        let inner = InnerRoots::take_from(&mut roots);
        roots.reverse();
        let slash = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| SourceError::Io { path: "/".into(), source: e.into() })?;
        let shared = Arc::new(Shared {
            slash,
            owners: Owners::default(),
            exclude: config.exclude.clone(),
            inner,
            findings: Mutex::new(Vec::new()),
        });
        let unreached = shared.inner.paths().to_vec();
        for root in roots.iter().flatten().chain(&unreached) {
            warn_of_excluded(&shared, root);
        }
        let links = HardLinks::default();
        Ok(Self { config, shared, roots, walk: None, ancestors: Vec::new(), queue: Default::default(), links, unreached })
    }

    /// The next path with its stat, ancestors of roots included.
    fn next_path(&mut self) -> Result<Option<Step>, SourceError> {
        loop {
            if let Some(next) = self.queue.pop_front() {
                return Ok(Some(next));
            }
            if let Some(walk) = &mut self.walk {
                if let Some(next) = walk.next()? {
                    self.unreached.retain(|root| *root != next.path);
                    return Ok(Some(next));
                }
                self.walk = None;
            }
            let Some(root) = self.roots.pop() else { return Ok(None) };
            self.enter(root)?;
        }
    }

    /// Queues the directories above `root` that were not given yet, and begins to walk it.
    fn enter(&mut self, root: Option<EntryPath>) -> Result<(), SourceError> {
        let mut above = Vec::new();
        let mut parent = root.as_ref().and_then(EntryPath::parent);
        while let Some(path) = parent {
            parent = path.parent();
            above.push(path);
        }
        above.reverse();
        self.ancestors.retain(|given| above.contains(given));
        for path in above {
            if !self.ancestors.contains(&path) {
                let stat = stat::follow(&path).map_err(|source| SourceError::Io { path: format!("/{path}"), source })?;
                // Its time tells only of what is not backed up, and would make every push differ from the one before.
                self.queue.push_back(Step { path: path.clone(), stat: stat.without_times(), flaw: None });
                self.ancestors.push(path);
            }
        }
        self.walk = Some(Walk::start(Arc::clone(&self.shared), root)?);
        Ok(())
    }
}

/// A root must be there and readable as what it is.
fn check_root(root: &Path) -> Result<(), SourceError> {
    let missing = |e: std::io::Error| SourceError::MissingRoot { path: root.display().to_string(), why: e.to_string() };
    let meta = std::fs::symlink_metadata(root).map_err(missing)?;
    if meta.is_dir() {
        std::fs::read_dir(root).map_err(missing)?;
    }
    Ok(())
}

/// A path that is named counts more than a pattern that leaves it out; whoever wrote both should say which is meant.
fn warn_of_excluded(shared: &Shared, root: &EntryPath) {
    let is_dir = Path::new("/").join(root.as_path()).symlink_metadata().is_ok_and(|meta| meta.is_dir());
    if shared.exclude.leaves_out(root, is_dir) {
        let message =
            format!("an exclude pattern leaves this path out; it is backed up, as it is named: add \"!/{root}\" to exclude");
        shared.report(Finding::new(FindingKind::Source, format!("/{root}"), message));
    }
}

impl Source for FilesSource {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn kind(&self) -> &'static str {
        "files"
    }

    fn roots(&self) -> Vec<EntryPath> {
        self.config.roots.iter().filter_map(|root| EntryPath::from_fs(root).ok()).collect()
    }

    fn context(&self) -> Option<String> {
        // A name given to another number changes every line that shows it.
        Some(format!("{:?}\n{}", self.config, names::fingerprint()))
    }

    fn next(&mut self) -> Result<Option<Found>, SourceError> {
        while let Some(Step { path, stat, flaw }) = self.next_path()? {
            if stat.kind() == Kind::Socket {
                self.shared.report(Finding::new(FindingKind::Notice, format!("/{path}"), "a socket is not backed up"));
                continue;
            }
            if stat.kind() == Kind::File && self.config.exclude.is_too_large(stat.bytes) {
                let limit = self.config.exclude.max_file_bytes.unwrap_or(0);
                let message = format!("left out: larger than {}", crate::model::size::human_size(limit));
                self.shared.report(Finding::new(FindingKind::Notice, format!("/{path}"), message));
                continue;
            }
            let link = if stat.links > 1 && stat.kind() != Kind::Directory { self.links.seen(&path, &stat) } else { None };
            let is_further = link.as_ref().is_some_and(Link::is_further);
            // A link's line names another path, and a flaw tells of how the names were read: neither follows from the inode.
            let key = if !is_further && flaw.is_none() { stat.change_key() } else { None };
            let bytes = if stat.kind() == Kind::File && !is_further { stat.bytes } else { 0 };
            let load: Box<dyn Load> =
                Box::new(FileLoad { shared: Arc::clone(&self.shared), path: path.clone(), stat, link, flaw });
            return Ok(Some(Found { path, key, bytes, load }));
        }
        Ok(None)
    }

    fn finish(&mut self) -> Result<Vec<Finding>, SourceError> {
        for root in self.unreached.drain(..) {
            let message =
                "not backed up: what stands on the way to it, from another path that is named, is a link or cannot be read";
            self.shared.report(Finding::new(FindingKind::Source, format!("/{root}"), message));
        }
        let mut findings = self.shared.findings.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(std::mem::take(&mut findings))
    }
}

impl Load for FileLoad {
    fn load(mut self: Box<Self>) -> Result<Loaded, SourceError> {
        if let Some(first) = self.link.as_mut().and_then(Link::first) {
            match self.look() {
                Ok(Look { stat, meta, .. }) if stat.identity() == self.stat.identity() => {
                    let kind = EntryKind::HardLink(first);
                    let entry = Entry { path: self.path.clone(), kind, meta, flaw: None };
                    return Ok(Loaded::Whole(entry, None));
                }
                // This name was given to another file.
                Ok(_) => {}
                Err(error) => return Ok(self.unreadable(&error)),
            }
        }
        Ok(self.load_entry())
    }
}
