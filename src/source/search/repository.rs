//! The files of a repository: read as one, put back as one.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::source::SourceError;

/// Beneath a repository: what a restore registers as a repository of its own, and the sign that one has not ended. Servers
/// look at nothing there that they did not write.
pub const RESTORE_DIR: &str = "farkeep-restore";
/// Directories of a repository lie at most this deep (indices/ID/SHARD), with room for what later servers think of.
const DEPTH_MAX: usize = 8;

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RepositoryFile {
    /// Components of its path.
    components: Vec<String>,
    /// Its length.
    pub bytes: u64,
}

impl RepositoryFile {
    /// Its path within the repository.
    pub fn name(&self) -> String {
        self.components.join("/")
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> SourceError {
    let path = path.display().to_string();
    move |source| SourceError::Io { path, source }
}

/// Every file of the repository, component by component in order.
pub fn files(root: &Path) -> Result<Vec<RepositoryFile>, SourceError> {
    let mut found = Vec::new();
    walk(root, &mut Vec::new(), &mut found)?;
    found.sort();
    Ok(found)
}

fn walk(dir: &Path, above: &mut Vec<String>, found: &mut Vec<RepositoryFile>) -> Result<(), SourceError> {
    if above.len() > DEPTH_MAX {
        let what = dir.display().to_string();
        return Err(SourceError::Expectation { what, why: "lies too deep for a repository of snapshots".into() });
    }
    for entry in fs::read_dir(dir).map_err(io_error(dir))? {
        let entry = entry.map_err(io_error(dir))?;
        let Ok(name) = entry.file_name().into_string() else {
            let what = entry.path().display().to_string();
            return Err(SourceError::Expectation { what, why: "is no file of a repository of snapshots".into() });
        };
        if above.is_empty() && name == RESTORE_DIR {
            continue;
        }
        let meta = fs::symlink_metadata(entry.path()).map_err(io_error(&entry.path()))?;
        above.push(name);
        if meta.is_dir() {
            walk(&entry.path(), above, found)?;
        } else if meta.is_file() {
            found.push(RepositoryFile { components: above.clone(), bytes: meta.len() });
        }
        above.pop();
    }
    Ok(())
}

/// What changes with everything that is done to a repository: the names of its files, and what its newest list is.
pub fn state(root: &Path) -> Result<(Vec<RepositoryFile>, Vec<u8>), SourceError> {
    let latest = root.join("index.latest");
    let latest = match fs::read(&latest) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(io_error(&latest)(e)),
    };
    Ok((files(root)?, latest))
}

/// An empty directory beneath the repository's, its owner's as well.
pub fn make_restore_dir(root: &Path, at: &Path) -> Result<(), SourceError> {
    empty_restore_dir(at)?;
    fs::create_dir_all(at).map_err(io_error(at))?;
    give_to_owner_of(root, at)
}

/// Removes what lies in it.
pub fn empty_restore_dir(at: &Path) -> Result<(), SourceError> {
    let entries = match fs::read_dir(at) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(io_error(at))?,
    };
    for entry in entries {
        let path = entry.map_err(io_error(at))?.path();
        let is_dir = fs::symlink_metadata(&path).map_err(io_error(&path))?.is_dir();
        if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.map_err(io_error(&path))?;
    }
    Ok(())
}

/// Removes it.
pub fn remove_restore_dir(at: &Path) -> Result<(), SourceError> {
    match fs::remove_dir_all(at) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error(at)(e)),
        _ => Ok(()),
    }
}

/// Puts one file where the server will read it.
pub fn put(root: &Path, at: &Path, name: &str, from: &Path) -> Result<(), SourceError> {
    let to: PathBuf = at.join(name);
    let mut missing = Vec::new();
    let mut dir = to.parent();
    while let Some(d) = dir.filter(|d| !d.exists()) {
        missing.push(d.to_owned());
        dir = d.parent();
    }
    for d in missing.iter().rev() {
        fs::create_dir(d).map_err(io_error(d))?;
        give_to_owner_of(root, d)?;
    }
    fs::copy(from, &to).map_err(io_error(&to))?;
    give_to_owner_of(root, &to)
}

/// The server has an account of its own, which must be able to read what we put there.
fn give_to_owner_of(root: &Path, path: &Path) -> Result<(), SourceError> {
    let meta = fs::metadata(root).map_err(io_error(root))?;
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    std::os::unix::fs::chown(path, Some(meta.uid()), Some(meta.gid())).map_err(io_error(path))
}
