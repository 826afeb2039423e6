//! A database file takes the place of another: whole before it is there, and never beside a log of its predecessor.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::database::{Database, metadata, uri};
use super::{DATABASE, SqliteConfig};
use crate::model::entry::Metadata;
use crate::source::SourceError;
use crate::source::engine::Fetched;
use crate::source::work::Work;

/// What SQLite keeps beside a database. Left behind, it would be taken for the new one's and spoil it.
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];
/// How long the old database's last users are waited for.
const LEAVING_TIMEOUT: Duration = Duration::from_secs(10);

/// Brings the part to the place that the configuration names.
pub fn replace(config: &SqliteConfig, fetched: &Fetched, work: &Work) -> Result<(), SourceError> {
    // A link stays one.
    let place = fs::canonicalize(&config.path).unwrap_or_else(|_| config.path.clone());
    let new = with_suffix(&place, ".farkeep-new");
    let io_error = |path: &Path| {
        let path = path.display().to_string();
        move |source: io::Error| SourceError::Io { path, source }
    };
    let dir = place.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir).map_err(io_error(dir))?;
    let swapped = stage(fetched, &place, &new, work)
        .and_then(|()| Database::at_rest(&new, work)?.must_be(&fetched.account, work))
        .and_then(|()| let_go(config, &place))
        .and_then(|()| fs::rename(&new, &place).map_err(io_error(&place)));
    if let Err(error) = swapped {
        let _ = fs::remove_file(&new);
        return Err(error);
    }
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error(dir))
}

/// The part beside its place, on disk, with the owner and mode of what stands there, else of what was backed up.
fn stage(fetched: &Fetched, place: &Path, new: &Path, work: &Work) -> Result<(), SourceError> {
    work.check()?;
    let recorded = fetched.parts.iter().find(|part| part.name == DATABASE).map(|part| part.meta.clone());
    let meta = if place.exists() { Some(metadata(place)?) } else { recorded };
    let staged = || -> io::Result<()> {
        let mut from = File::open(fetched.part(DATABASE).map_err(io::Error::other)?)?;
        let _ = fs::remove_file(new);
        let mut file = File::create_new(new)?;
        file.set_permissions(PermissionsExt::from_mode(0o600))?;
        io::copy(&mut from, &mut file)?;
        if let Some(meta) = meta {
            dress(&file, &meta)?;
        }
        file.sync_all()
    };
    staged().map_err(|source| SourceError::Io { path: new.display().to_string(), source })
}

fn dress(file: &File, meta: &Metadata) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        fchown(file, Some(meta.owner.uid), Some(meta.owner.gid))?;
    }
    file.set_permissions(PermissionsExt::from_mode(meta.mode))
}

/// The old database gives up its log, which SQLite allows only while nobody else has it open.
fn let_go(config: &SqliteConfig, place: &Path) -> Result<(), SourceError> {
    if place.exists() {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_URI;
        let alone = Connection::open_with_flags(uri(place), flags).and_then(|connection| {
            connection.busy_timeout(LEAVING_TIMEOUT)?;
            connection.execute_batch("PRAGMA journal_mode = DELETE; BEGIN EXCLUSIVE; ROLLBACK;")
        });
        if let Err(error) = alone {
            let code = error.sqlite_error_code();
            if matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)) {
                return Err(config.failed("somebody has the database open; it is untouched: stop the application first"));
            }
            // Damaged, as it may be: it goes with its log.
        }
    }
    for path in beside(place) {
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(SourceError::Io { path: path.display().to_string(), source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// What SQLite keeps beside this database, if it does.
pub fn beside(place: &Path) -> impl Iterator<Item = PathBuf> + '_ {
    BESIDE.iter().map(move |suffix| with_suffix(place, suffix))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
