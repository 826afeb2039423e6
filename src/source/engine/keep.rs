//! A safety copy: what stands at a target, kept in a directory before a restore replaces it.

use std::fs::{File, create_dir_all};
use std::io::{self, Write};
use std::path::Path;

use super::{Backup, Part};
use crate::model::finding::{Finding, FindingKind};
use crate::source::SourceError;
use crate::source::work::Work;

/// Bytes that are written at a time.
const COPY_BUFFER_BYTES: usize = 1024 * 1024;

/// Keeps every part of a backup in `dir`. A backup of nothing is none; a target that holds nothing has nothing to be kept.
///
/// # Errors
/// When the target cannot be backed up.
pub fn parts(
    member: &str,
    opened: Result<Box<dyn Backup>, SourceError>,
    dir: &Path,
    work: &Work,
) -> Result<Vec<Finding>, SourceError> {
    let kept = opened.and_then(|mut backup| {
        while let Some(part) = backup.next(work)? {
            write(part, dir, work)?;
        }
        backup.finish(work)
    });
    match kept {
        Ok(account) => Ok(account.findings),
        Err(SourceError::Empty { what, why }) => {
            let why = format!("{what}: {why}: there was nothing to be kept of what was there before");
            Ok(vec![Finding::new(FindingKind::Notice, member, why)])
        }
        Err(error) => Err(error),
    }
}

fn write(part: Part, dir: &Path, work: &Work) -> Result<(), SourceError> {
    let path = dir.join(&part.name);
    let failed = io_error(&path);
    if let Some(parent) = path.parent() {
        create_dir_all(parent).map_err(&failed)?;
    }
    let mut file = File::create_new(&path).map_err(&failed)?;
    let mut reader = (part.open)(work)?;
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    loop {
        work.check()?;
        match reader.read(&mut buffer)? {
            0 => break,
            count => file.write_all(&buffer[..count]).map_err(&failed)?,
        }
    }
    reader.finish()?;
    file.sync_all().map_err(&failed)
}

/// Keeps a file byte by byte under its own name, in the directory that is called `below` there.
///
/// # Errors
/// When it cannot be read or written.
pub fn file(from: &Path, dir: &Path, below: &Path, work: &Work) -> Result<(), SourceError> {
    let dir = dir.join(below);
    create_dir_all(&dir).map_err(io_error(&dir))?;
    let to = dir.join(from.file_name().unwrap_or_default());
    let failed = io_error(&to);
    let mut reader = File::open(from).map_err(io_error(from))?;
    let mut file = File::create_new(&to).map_err(&failed)?;
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    loop {
        work.check()?;
        match io::Read::read(&mut reader, &mut buffer) {
            Ok(0) => return file.sync_all().map_err(&failed),
            Ok(count) => file.write_all(&buffer[..count]).map_err(&failed)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(io_error(from)(error)),
        }
    }
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> SourceError + '_ {
    move |source| SourceError::Io { path: path.display().to_string(), source }
}
