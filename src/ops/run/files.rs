//! Files on their way back: written and compared beside their place, then swapped in by two renames.

use std::path::{Path, PathBuf};

use super::notes::Notes;
use crate::format::manifest::Member;
use crate::model::path::EntryPath;
use crate::ops::OpError;
use crate::source::SourceError;
use crate::source::engine::Survey;
use crate::source::tool::Tool;
use crate::source::work::Work;

/// Files that a survey counts one by one; of more it says so.
const COUNTED_MAX: u64 = 1_000_000;

/// The roots of a member of files.
pub struct FilesTask {
    pub roots: Vec<Root>,
}

/// One root: where it goes, where it lies until then, where what it replaces goes.
pub struct Root {
    pub entry: EntryPath,
    /// `/data/minio`.
    place: PathBuf,
    /// `/data/.farkeep-restore-<id>`, on the same file system: a rename is a step that happens or does not.
    pub stage: PathBuf,
}

impl FilesTask {
    pub fn new(member: &Member, notes: &Notes) -> Result<Self, OpError> {
        let id = notes.dir().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let root = |entry: &EntryPath| {
            let place = Path::new("/").join(entry.as_path());
            let Some(parent) = place.parent().filter(|parent| *parent != Path::new("/")) else {
                let why = format!(
                    "{}: stands directly in /, where nothing is staged; restore it with --in-place",
                    place.display()
                );
                return Err(OpError::Usage(why));
            };
            let stage = parent.join(format!(".farkeep-restore-{id}"));
            Ok(Root { entry: entry.clone(), stage, place })
        };
        Ok(Self { roots: member.roots.iter().map(root).collect::<Result<_, _>>()? })
    }

    pub fn survey(&self) -> Survey {
        let mut survey = Survey::default();
        let places: Vec<String> = self.roots.iter().map(|root| root.place.display().to_string()).collect();
        survey.target = places.join(", ");
        for root in &self.roots {
            if let Some((files, bytes)) = count(&root.place) {
                let counted =
                    if files >= COUNTED_MAX { "more than 1,000,000 files".to_owned() } else { format!("{files} files") };
                let size = crate::model::size::human_size(bytes);
                survey.destroys.push(format!("{}: {counted}, {size}", root.place.display()));
            }
        }
        survey
    }

    /// Everything is there, and what stands in its place can be renamed away.
    pub fn check(&self) -> Result<(), OpError> {
        for root in &self.roots {
            let staged = root.staged();
            if !root.is_swapped() && !is_there(&staged) {
                return Err(OpError::NotDone(format!("{}: was not fetched; nothing has been destroyed", staged.display())));
            }
            if is_mount_point(&root.place) {
                return Err(OpError::NotDone(format!(
                    "{}: is a mount point, which cannot be swapped; restore it with --in-place --delete",
                    root.place.display()
                )));
            }
        }
        Ok(())
    }

    /// What is there steps aside, what was fetched takes its place.
    pub fn swap(&self) -> Result<(), OpError> {
        for root in &self.roots {
            let (staged, aside) = (root.staged(), root.aside());
            if root.is_swapped() {
                continue;
            }
            let rename = |from: &Path, to: &Path| {
                std::fs::rename(from, to)
                    .map_err(|e| OpError::NotDone(format!("{} to {}: {e}", from.display(), to.display())))
            };
            if is_there(&root.place) {
                rename(&root.place, &aside)?;
            }
            rename(&staged, &root.place)?;
            if let Some(parent) = root.place.parent() {
                let synced = std::fs::File::open(parent).and_then(|dir| dir.sync_all());
                synced.map_err(|e| OpError::NotDone(format!("{}: {e}", parent.display())))?;
            }
        }
        Ok(())
    }

    /// Copies what is there now, with modes, owners, times and links, by the system's own means.
    pub fn save(&self, dir: &Path, work: &Work) -> Result<(), SourceError> {
        for root in self.roots.iter().filter(|root| is_there(&root.place) && !root.is_swapped()) {
            Tool::new("cp").args(["-a", "--"]).arg(&root.place).arg(dir).succeed(work)?;
        }
        Ok(())
    }

    /// Removes what was replaced, once everything is back.
    pub fn forget(&self) {
        for root in &self.roots {
            if let Err(error) = std::fs::remove_dir_all(&root.stage) {
                tracing::warn!(path = %root.stage.display(), %error, "not removed");
            }
        }
    }
}

impl Root {
    /// Whether an earlier run came so far: what it replaced lies aside, and what it fetched is in its place.
    pub fn is_swapped(&self) -> bool {
        is_there(&self.aside()) && is_there(&self.place)
    }

    fn staged(&self) -> PathBuf {
        self.stage.join(self.place.file_name().unwrap_or_default())
    }

    fn aside(&self) -> PathBuf {
        let mut name = self.place.file_name().unwrap_or_default().to_owned();
        name.push(".replaced");
        self.stage.join(name)
    }
}

fn is_there(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}

fn is_mount_point(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| std::fs::symlink_metadata(path).ok().map(|meta| meta.dev());
    match (device(path), path.parent().and_then(device)) {
        (Some(own), Some(parents)) => own != parents,
        _ => false,
    }
}

/// Files below a path and their bytes; none when it is not there.
fn count(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok()?;
    let (mut files, mut bytes) = (0, 0);
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
        if meta.is_dir() {
            open.extend(std::fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
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
