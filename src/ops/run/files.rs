//! Files on their way back: written and compared beside what they replace, then swapped in by renames.
//!
//! A directory stays itself, and what lies in it is swapped: containers and mounts that hold on to the directory see the
//! new content. What was in it lies aside until the whole restore is done.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::ground::foreign_below;
use super::held::{Held, Partial, held};
use super::notes::Notes;
use super::spared;
use crate::crypto::hash::checksum;
use crate::format::manifest::Member;
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::to_hex;
use crate::model::path::EntryPath;
use crate::model::size::human_size;
use crate::ops::OpError;
use crate::source::SourceError;
use crate::source::engine::Survey;
use crate::source::tool::Tool;
use crate::source::work::Work;
use crate::state::make_private_dir;
use crate::vault::catalogue_reader::SnapshotReader;

/// Files that a survey counts one by one; of more it says so.
const COUNTED_MAX: u64 = 1_000_000;
/// Names of attributes, and each value: Linux bounds both at 64 KiB.
const XATTR_LIST_MAX_BYTES: usize = 64 * 1024;
/// How the name of every stage begins, of whatever restore.
const STAGE_PREFIX: &str = ".farkeep-restore-";
/// Where what was fetched lies, beside the marks.
const NEW: &str = "new";
/// Where what is replaced lies until everything is back.
const REPLACED: &str = "replaced";
/// There once all that is replaced lies aside: from then on only new things come in.
const CLEARED: &str = "cleared";
/// There once all that is new is in its place.
const SWAPPED: &str = "swapped";

/// The roots of a member of files.
pub struct FilesTask {
    pub roots: Vec<Root>,
}

/// One root.
pub struct Root {
    pub entry: EntryPath,
    pub is_dir: bool,
    /// Where it goes: `/data/minio`.
    pub place: PathBuf,
    /// On the same file system, so that a rename is a step that happens or does not: in the directory itself, or beside the
    /// file.
    pub stage: PathBuf,
    /// Bytes that it takes.
    bytes: u64,
    /// Directories that held more than was backed up.
    partial: Vec<Partial>,
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> OpError + '_ {
    move |e| OpError::NotDone(format!("{}: {e}", path.display()))
}

fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Where a root lies. What leads there is kept: the content goes to where it leads.
fn resolved(path: &Path, is_dir: bool) -> PathBuf {
    if is_dir && let Ok(place) = fs::canonicalize(path) {
        return place;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => resolved(parent, true).join(name),
        _ => path.to_owned(),
    }
}

/// Whether this is the name of a stage, of this restore or another one, which may hold what was there before that.
pub fn is_stage(name: &[u8]) -> bool {
    name.starts_with(STAGE_PREFIX.as_bytes())
}

/// Where a root came from.
fn origin(root: &EntryPath) -> PathBuf {
    Path::new("/").join(root.as_path())
}

/// The paths of another target, one for each root. None of them may be what the member came from: who names another target
/// has not said yes to that.
fn elsewhere(member: &Member, held: &[Held], target: &str, paths: &[PathBuf]) -> Result<Vec<PathBuf>, OpError> {
    let name = &member.name;
    let origins: Vec<PathBuf> = held.iter().map(|root| origin(&root.entry)).collect();
    let list = |paths: &[PathBuf]| paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    if paths.len() != origins.len() {
        return Err(OpError::Usage(format!(
            "member {name:?} has {} roots in this snapshot ({}), and target {target:?} has {} paths for it ({}): name one path \
             for each root, in this order",
            origins.len(),
            list(&origins),
            paths.len(),
            list(paths)
        )));
    }
    for path in paths {
        let place = resolved(path, true);
        let touched = origins.iter().find(|origin| {
            let origin = resolved(origin, true);
            place.starts_with(&origin) || origin.starts_with(&place)
        });
        if let Some(origin) = touched {
            return Err(OpError::Usage(format!(
                "member {name:?} came from {}, and target {target:?} would put it into {}: name other paths for this target, or \
                 leave --into-target out",
                origin.display(),
                path.display()
            )));
        }
    }
    Ok(paths.to_vec())
}

/// Refuses roots that lie within one another, of whatever member: the one would step aside with the other's content.
pub fn apart<'a>(tasks: impl Iterator<Item = &'a FilesTask>) -> Result<(), OpError> {
    let places: Vec<&Path> = tasks.flat_map(|task| &task.roots).map(|root| root.place.as_path()).collect();
    for (index, inner) in places.iter().enumerate() {
        if let Some((_, outer)) = places.iter().enumerate().find(|(n, outer)| *n != index && inner.starts_with(outer)) {
            return Err(OpError::NotDone(format!(
                "{} lies within {}, and both are roots of this restore: they cannot be swapped one after another; nothing was \
                 done. Restore one member of them with --member, or all of it with farkeep restore SNAP --in-place or \
                 --into DIR",
                inner.display(),
                outer.display()
            )));
        }
    }
    Ok(())
}

impl FilesTask {
    /// `target` is the name of the place that it goes to and the paths there, where that is not where it came from.
    pub fn new(
        member: &Member,
        reader: &SnapshotReader,
        notes: &Notes,
        target: Option<(&str, &[PathBuf])>,
    ) -> Result<Self, OpError> {
        let id = notes.dir().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let held = held(member, reader)?;
        let paths = match target {
            Some((target, paths)) => elsewhere(member, &held, target, paths)?,
            None => held.iter().map(|root| origin(&root.entry)).collect(),
        };
        let root = |(Held { entry, is_dir, bytes, partial }, path): (Held, PathBuf)| {
            let place = resolved(&path, is_dir);
            let holder = if is_dir { place.as_path() } else { place.parent().unwrap_or(Path::new("/")) };
            // Roots that are files share their directory: each has a stage of its own, the same in every run.
            let own = checksum(&[member.name.as_bytes(), b"\0", entry.as_bytes()].concat());
            let stage = holder.join(format!("{STAGE_PREFIX}{id}-{}", to_hex(&own)));
            Root { entry, is_dir, stage, place, bytes, partial }
        };
        Ok(Self { roots: held.into_iter().zip(paths).map(root).collect() })
    }

    /// Nothing that is mounted below a root may step aside with it, and be emptied when that is removed; nor is a directory in
    /// the place of a file. Holds from the plan to the swap.
    pub fn can_be_swapped(&self) -> Result<(), OpError> {
        for root in self.roots.iter().filter(|root| !root.is_begun()) {
            if !root.is_dir && root.place.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
                return Err(OpError::NotDone(format!(
                    "{}: a directory is in the place of a file; nothing has been destroyed",
                    root.place.display()
                )));
            }
            if let Some(foreign) = foreign_below(&root.place) {
                return Err(OpError::NotDone(format!(
                    "{}: another file system begins there, below {}, and what it holds would go with what is replaced; nothing \
                     has been destroyed. Unmount it for the time of the restore, or restore these files where they are: \
                     farkeep restore SNAP --in-place",
                    foreign.display(),
                    root.place.display()
                )));
            }
        }
        Ok(())
    }

    pub fn survey(&self) -> Survey {
        let place = |root: &Root| match (origin(&root.entry), &root.place) {
            (origin, place) if origin == *place => place.display().to_string(),
            (origin, place) => format!("{} (was {})", place.display(), origin.display()),
        };
        let places: Vec<String> = self.roots.iter().map(place).collect();
        let mut survey = Survey { target: places.join(", "), ..Survey::default() };
        for root in &self.roots {
            if let Some((files, bytes)) = count(&root.place) {
                let counted =
                    if files >= COUNTED_MAX { "more than 1,000,000 files".to_owned() } else { format!("{files} files") };
                survey.destroys.push(format!("{}: {counted}, {}", root.place.display(), human_size(bytes)));
            }
            survey.notes.extend(spared::note(&root.entry, &root.partial, &root.place));
            for stage in root.other_stages() {
                let stage = stage.display();
                survey
                    .notes
                    .push(format!("{stage} was left by another restore, may hold what was there before it, and stays"));
            }
        }
        survey
    }

    /// Everything is there.
    pub fn check(&self) -> Result<(), OpError> {
        self.can_be_swapped()?;
        match self.roots.iter().find(|root| !root.is_begun() && !is_there(&root.staged())) {
            Some(root) => {
                Err(OpError::NotDone(format!("{}: was not fetched; nothing has been destroyed", root.staged().display())))
            }
            None => Ok(()),
        }
    }

    /// What is there steps aside, what was fetched takes its place.
    pub fn swap(&self) -> Result<(), OpError> {
        self.can_be_swapped()?;
        // A mark that outlives a power cut tells that what it stands for does, too.
        for root in self.roots.iter().filter(|root| !root.is_begun()) {
            root.sync()?;
        }
        for root in self.roots.iter().filter(|root| !root.has(SWAPPED)) {
            if root.is_dir {
                root.swap_content()?;
            } else {
                fs::rename(root.staged(), &root.place).map_err(failed(&root.place))?;
            }
            root.sync()?;
            root.mark(SWAPPED)?;
        }
        Ok(())
    }

    /// Copies what was there before this restore into the empty `dir`, with modes, owners, times and links, by the system's own
    /// means: what lies in its place, and what an earlier run has moved aside. Of two places of one name the second is `NAME.2`.
    pub fn save(&self, dir: &Path, work: &Work) -> Result<(), SourceError> {
        let copy =
            |from: &Path, to: &Path| Tool::new("cp").args(["-a", "-T", "--"]).arg(from).arg(to).succeed(work).map(drop);
        for root in self.roots.iter().filter(|root| is_there(&root.place)) {
            let copied = free_name(dir, root.place.file_name().unwrap_or_default());
            let aside = root.stage.join(REPLACED);
            if is_there(&aside) {
                copy(&aside, &copied)?;
            }
            // Last, since the directory's own owner, mode and time are its place's.
            if !root.is_begun() {
                copy(&root.place, &copied)?;
                // What was fetched already lies in there too, and is no part of it.
                let _ = fs::remove_dir_all(copied.join(root.stage.file_name().unwrap_or_default()));
            }
        }
        Ok(())
    }

    /// What came in is not what was backed up: the next run begins anew. What was there before stays, and a finding says where.
    pub fn retire(&self) -> Result<Vec<Finding>, OpError> {
        let mut findings = Vec::new();
        for root in &self.roots {
            if let Some(aside) = root.retire().map_err(failed(&root.stage))? {
                let message = format!("what was there before this restore lies in {}", aside.display());
                findings.push(Finding::new(FindingKind::Notice, root.place.display(), message));
            }
        }
        Ok(findings)
    }

    /// What was fetched and did not get into its place.
    pub fn lying(&self) -> Vec<Finding> {
        let lies = |root: &&Root| root.stage.join(NEW).exists() && !root.has(SWAPPED);
        let told = |root: &Root| {
            let message = "what was fetched lies there unencrypted: the same command goes on with it, and removes it when all is done; \
                           other restores leave it alone";
            Finding::new(FindingKind::Notice, root.stage.display(), message)
        };
        self.roots.iter().filter(lies).map(told).collect()
    }

    /// Removes what was replaced, once everything is back. What cannot be removed is told.
    pub fn forget(&self) -> Vec<Finding> {
        let left = |root: &Root| {
            let error = root.remove_stage().err()?;
            let message = format!("holds what was there before this restore, and was not removed: {error}");
            Some(Finding::new(FindingKind::Target, root.stage.display(), message))
        };
        self.roots.iter().filter_map(left).collect()
    }
}

impl Root {
    /// Whether an earlier run has begun to put new things in: nothing more is fetched or laid aside then.
    pub fn is_begun(&self) -> bool {
        self.has(CLEARED) || self.has(SWAPPED)
    }

    /// Where room is needed, as far as that is there, and how much, less what an earlier run has fetched.
    pub fn room(&self) -> (PathBuf, u64) {
        let mut holder = self.stage.parent().unwrap_or(Path::new("/"));
        while let (false, Some(above)) = (holder.exists(), holder.parent()) {
            holder = above;
        }
        let fetched = if self.is_begun() { self.bytes } else { taken_below(&self.stage) };
        (holder.to_owned(), self.bytes.saturating_sub(fetched))
    }

    fn has(&self, mark: &str) -> bool {
        is_there(&self.stage.join(mark))
    }

    fn mark(&self, mark: &str) -> Result<(), OpError> {
        let path = self.stage.join(mark);
        let made = fs::File::create(&path).and_then(|file| file.sync_all());
        made.and_then(|()| fs::File::open(&self.stage)?.sync_all()).map_err(failed(&path))
    }

    fn staged(&self) -> PathBuf {
        self.stage.join(NEW).join(self.place_name())
    }

    /// Makes the directory that it is fetched into. What leads there is made as anyone makes directories.
    pub fn make_stage(&self) -> Result<PathBuf, OpError> {
        if let Some(holder) = self.stage.parent() {
            fs::create_dir_all(holder).map_err(failed(holder))?;
        }
        let stage = self.stage.join(NEW);
        make_private_dir(&stage)?;
        Ok(stage)
    }

    /// What other restores left in the directory.
    fn other_stages(&self) -> Vec<PathBuf> {
        let children = if self.is_dir { children(&self.place).unwrap_or_default() } else { Vec::new() };
        let is_other = |path: &PathBuf| *path != self.stage && is_stage(path.file_name().unwrap_or_default().as_bytes());
        children.into_iter().filter(is_other).collect()
    }

    fn place_name(&self) -> &OsStr {
        self.entry.as_path().file_name().unwrap_or_default()
    }

    fn swap_content(&self) -> Result<(), OpError> {
        let (staged, aside) = (self.staged(), self.stage.join(REPLACED));
        if !self.has(CLEARED) {
            fs::create_dir_all(&aside).map_err(failed(&aside))?;
            for child in
                children(&self.place)?.iter().filter(|child| !is_stage(child.file_name().unwrap_or_default().as_bytes()))
            {
                fs::rename(child, aside.join(child.file_name().unwrap_or_default())).map_err(failed(child))?;
            }
            self.sync()?;
            self.mark(CLEARED)?;
            // Its own time changes as its content is moved out of it, and is kept here meanwhile.
            let cleared = self.stage.join(CLEARED);
            let keep = || fs::File::options().write(true).open(&cleared)?.set_modified(fs::metadata(&staged)?.modified()?);
            keep().map_err(failed(&cleared))?;
        }
        for child in children(&staged)? {
            let name = child.file_name().unwrap_or_default();
            let place = self.place.join(name);
            if is_stage(name.as_bytes()) && is_there(&place) {
                continue;
            }
            fs::rename(&child, &place).map_err(failed(&place))?;
        }
        spared::put_back(&self.entry, &self.partial, &aside, &self.place).map_err(|e| {
            let (place, aside) = (self.place.display(), aside.display());
            OpError::NotDone(format!("{place}: what the backup left out cannot be put back, and lies in {aside}: {e}"))
        })?;
        self.dress(&staged).map_err(failed(&self.place))
    }

    /// Everything on its file system is on the disk: a single call for however many files and directories.
    fn sync(&self) -> Result<(), OpError> {
        let synced = fs::File::open(&self.stage).and_then(|dir| Ok(rustix::fs::syncfs(dir)?));
        synced.map_err(failed(&self.stage))
    }

    /// Gives the directory the owner, attributes, mode and time that it had.
    fn dress(&self, staged: &Path) -> std::io::Result<()> {
        let (from, to) = (fs::File::open(staged)?, fs::File::open(&self.place)?);
        let (meta, is) = (from.metadata()?, to.metadata()?);
        if (is.uid(), is.gid()) != (meta.uid(), meta.gid()) {
            std::os::unix::fs::fchown(&to, Some(meta.uid()), Some(meta.gid()))?;
        }
        copy_xattrs(&from, &to)?;
        to.set_permissions(fs::Permissions::from_mode(meta.mode() & 0o7777))?;
        to.set_modified(fs::metadata(self.stage.join(CLEARED))?.modified()?)
    }

    /// Makes room for another try, which begins anew; gives where what was there before lies from now on.
    fn retire(&self) -> std::io::Result<Option<PathBuf>> {
        if !is_there(&self.stage.join(REPLACED)) {
            return self.remove_stage().map(|()| None);
        }
        let holder = self.stage.parent().unwrap_or(Path::new("/"));
        let retired = free_name(holder, self.stage.file_name().unwrap_or_default());
        fs::rename(&self.stage, &retired)?;
        Ok(Some(retired.join(REPLACED)))
    }

    /// Removes the stage; the directory that it lay in keeps its time.
    fn remove_stage(&self) -> std::io::Result<()> {
        if !is_there(&self.stage) {
            return Ok(());
        }
        let holder = fs::File::open(self.stage.parent().unwrap_or(Path::new("/")))?;
        let modified = holder.metadata()?.modified()?;
        // What came there since it was looked for.
        if let Some(foreign) = foreign_below(&self.stage) {
            return Err(std::io::Error::other(format!("{}: another file system begins there", foreign.display())));
        }
        fs::remove_dir_all(&self.stage)?;
        if self.is_dir { holder.set_modified(modified) } else { Ok(()) }
    }
}

/// Copies what `from` has of extended attributes. Those that the target already has and `from` lacks stay.
fn copy_xattrs(from: &fs::File, to: &fs::File) -> std::io::Result<()> {
    let mut names = vec![0; XATTR_LIST_MAX_BYTES];
    let length = match rustix::fs::flistxattr(from, names.as_mut_slice()) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let mut value = vec![0; XATTR_LIST_MAX_BYTES];
    for name in names[..length].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let length = rustix::fs::fgetxattr(from, name, value.as_mut_slice())?;
        rustix::fs::fsetxattr(to, name, &value[..length], rustix::fs::XattrFlags::empty())?;
    }
    Ok(())
}

/// `dir/name`, or the first of `dir/name.2` and so on that is not there.
fn free_name(dir: &Path, name: &OsStr) -> PathBuf {
    let numbered = |number: u64| {
        let mut name = name.to_owned();
        name.push(format!(".{number}"));
        dir.join(name)
    };
    let names = std::iter::once(dir.join(name)).chain((2..).map(numbered));
    names.into_iter().find(|path| !is_there(path)).unwrap_or_else(|| dir.join(name))
}

fn children(dir: &Path) -> Result<Vec<PathBuf>, OpError> {
    let entries = fs::read_dir(dir).map_err(failed(dir))?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed(dir))).collect()
}

/// Files below a path and their bytes, without stages; none when nothing is there.
fn count(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok()?;
    let (mut files, mut bytes) = (0, 0);
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.is_dir() {
            let below = fs::read_dir(&path).into_iter().flatten().flatten();
            open.extend(below.filter(|entry| !is_stage(entry.file_name().as_bytes())).map(|entry| entry.path()));
        } else {
            files += 1;
            bytes += meta.len();
        }
        if files >= COUNTED_MAX {
            break;
        }
    }
    Some((files, bytes))
}

/// Bytes that files below a path take on the disk.
pub fn taken_below(path: &Path) -> u64 {
    let mut bytes = 0_u64;
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => {
                open.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
            }
            Ok(meta) => bytes = bytes.saturating_add(meta.blocks() * 512),
            Err(_) => {}
        }
    }
    bytes
}
