//! A directory in which a program of another user makes or finds one file.

use std::path::{Path, PathBuf};

use super::CommandConfig;
use crate::source::SourceError;
use crate::source::work::Work;

/// The directory; it goes when this is dropped.
pub struct Room {
    dir: PathBuf,
    user: Option<(u32, u32)>,
}

fn io_error(path: &Path) -> impl Fn(std::io::Error) -> SourceError + '_ {
    move |source| SourceError::Io { path: path.display().to_string(), source }
}

impl Room {
    /// Makes it empty, for the user that the programs run as.
    pub fn make(config: &CommandConfig, work: &Work) -> Result<Self, SourceError> {
        let dir = match &config.staging {
            Some(staging) => staging.join(format!(".farkeep-{}", config.name)),
            None => work.scratch.join("room"),
        };
        // What a run that was killed has left is no output of this one.
        match std::fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io_error(&dir)(e)),
            _ => {}
        }
        crate::state::make_private_dir(&dir).map_err(|e| SourceError::Configuration(e.to_string()))?;
        let user = match &config.user {
            None => None,
            Some(name) => match uzers::get_user_by_name(name) {
                Some(user) => Some((user.uid(), user.primary_group_id())),
                None => return Err(SourceError::Configuration(format!("there is no user {name:?} to run as"))),
            },
        };
        let room = Self { dir, user };
        room.give(&room.dir)?;
        Ok(room)
    }

    /// Where a file of this name lies.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Copies a file into it, for the user to read.
    pub fn take(&self, from: &Path, name: &str) -> Result<PathBuf, SourceError> {
        let path = self.path(name);
        std::fs::copy(from, &path).map_err(io_error(&path))?;
        self.give(&path)?;
        Ok(path)
    }

    fn give(&self, path: &Path) -> Result<(), SourceError> {
        match self.user {
            Some((uid, gid)) => std::os::unix::fs::chown(path, Some(uid), Some(gid)).map_err(io_error(path)),
            None => Ok(()),
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            tracing::warn!(path = %self.dir.display(), %error, "not removed");
        }
    }
}
