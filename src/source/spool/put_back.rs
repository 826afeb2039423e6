//! Putting archives back where they were.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::archive::Hashing;
use super::{SpoolConfig, content_key, file_key};
use crate::model::entry::Metadata;
use crate::model::size::human_size;
use crate::source::SourceError;
use crate::source::engine::{Account, Fetched, FetchedPart, Survey, keep};
use crate::source::work::Work;

/// Bytes that are copied between two looks at the time.
const COPY_BYTES: usize = 1024 * 1024;
/// A member of more archives is not listed by name.
const LISTED_MAX: usize = 20;

fn io_error(path: &Path) -> impl Fn(io::Error) -> SourceError + '_ {
    move |source| SourceError::Io { path: path.display().to_string(), source }
}

/// The file that a part was, and so will be.
fn place(config: &SpoolConfig, account: &Account, part: &str) -> Result<PathBuf, SourceError> {
    let missing =
        || SourceError::Expectation { what: part.to_owned(), why: "the snapshot does not say which file it was".into() };
    let original = account.proof.get(&file_key(part)).ok_or_else(missing)?;
    let name = original.rsplitn(3, ' ').nth(2).filter(|name| !name.contains('/') && !name.is_empty()).ok_or_else(missing)?;
    Ok(config.pattern.dir().join(part).with_file_name(name))
}

fn is_packed(place: &Path, part: &str) -> bool {
    place.to_string_lossy().ends_with(".gz") && !part.ends_with(".gz")
}

/// What would be written over.
pub fn survey(config: &SpoolConfig, account: &Account) -> Result<Survey, SourceError> {
    let mut survey = Survey { target: config.pattern.dir().display().to_string(), ..Survey::default() };
    let parts: Vec<&str> = account.proof.keys().filter_map(|key| key.strip_prefix("content of ")).collect();
    let (mut there, mut bytes, mut packed) = (Vec::new(), 0, false);
    for part in parts {
        let place = place(config, account, part)?;
        packed |= is_packed(&place, part);
        if let Ok(meta) = std::fs::symlink_metadata(&place) {
            bytes += meta.len();
            there.push(format!("{} ({})", place.display(), human_size(meta.len())));
        }
    }
    survey.destroys =
        if there.len() > LISTED_MAX { vec![format!("{} archives, {}", there.len(), human_size(bytes))] } else { there };
    if packed {
        survey.notes.push(".gz archives are packed anew: the same content in other bytes".into());
    }
    Ok(survey)
}

/// Their hashes are right, and there is nothing more to look into.
pub fn check(fetched: &Fetched, work: &Work) -> Result<(), SourceError> {
    for part in &fetched.parts {
        work.check()?;
        if !fetched.account.proof.contains_key(&content_key(&part.name)) {
            let why = "the snapshot has no proof of it".to_owned();
            return Err(SourceError::Expectation { what: part.name.clone(), why });
        }
    }
    Ok(())
}

/// Copies what stands where the archives go, each under the name that it has below the spool's directory.
pub fn keep(config: &SpoolConfig, fetched: &Fetched, dir: &Path, work: &Work) -> Result<(), SourceError> {
    for part in &fetched.parts {
        let place = place(config, &fetched.account, &part.name)?;
        if place.exists() {
            let below = Path::new(&part.name).parent().unwrap_or(Path::new(""));
            keep::file(&place, dir, below, work)?;
        }
    }
    Ok(())
}

/// Each archive is written beside its place and renamed into it.
pub fn replace(config: &SpoolConfig, fetched: &Fetched, work: &Work) -> Result<(), SourceError> {
    for part in &fetched.parts {
        let place = place(config, &fetched.account, &part.name)?;
        let dir = place.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(dir).map_err(io_error(dir))?;
        let mut name = std::ffi::OsString::from(".farkeep-");
        name.push(place.file_name().unwrap_or_default());
        let temporary = dir.join(name);
        let written = write(part, &place, &temporary, work)
            .and_then(|()| std::fs::rename(&temporary, &place).map_err(io_error(&place)))
            .and_then(|()| File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error(dir)));
        if let Err(error) = written {
            let _ = std::fs::remove_file(&temporary);
            return Err(error);
        }
    }
    Ok(())
}

fn write(part: &FetchedPart, place: &Path, temporary: &Path, work: &Work) -> Result<(), SourceError> {
    let failed = io_error(temporary);
    let input = File::open(&part.path).map_err(io_error(&part.path))?;
    let file = File::create(temporary).map_err(&failed)?;
    file.set_permissions(PermissionsExt::from_mode(0o600)).map_err(&failed)?;
    let mut output = BufWriter::with_capacity(COPY_BYTES, file);
    if is_packed(place, &part.name) {
        let mut encoder = GzEncoder::new(output, Compression::default());
        copy(input, &mut encoder, work, &failed)?;
        output = encoder.finish().map_err(&failed)?;
    } else {
        copy(input, &mut output, work, &failed)?;
    }
    let file = output.into_inner().map_err(|e| failed(e.into_error()))?;
    dress(&file, &part.meta).map_err(&failed)?;
    file.sync_all().map_err(&failed)
}

fn copy(
    mut from: impl Read,
    to: &mut impl Write,
    work: &Work,
    failed: &impl Fn(io::Error) -> SourceError,
) -> Result<(), SourceError> {
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        work.check()?;
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&buffer[..count]).map_err(failed)?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(failed(e)),
        }
    }
}

/// Owner (only root can), mode and time as they were: the time keeps an old archive from looking like tonight's.
fn dress(file: &File, meta: &Metadata) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        let uid = meta.owner.user.as_ref().and_then(uzers::get_user_by_name).map_or(meta.owner.uid, |u| u.uid());
        let gid = meta.owner.group.as_ref().and_then(uzers::get_group_by_name).map_or(meta.owner.gid, |g| g.gid());
        std::os::unix::fs::fchown(file, Some(uid), Some(gid))?;
    }
    file.set_permissions(PermissionsExt::from_mode(meta.mode))?;
    let since = |ns: i128| u64::try_from(ns).map(Duration::from_nanos).ok();
    match since(meta.mtime_ns) {
        Some(since) => file.set_modified(SystemTime::UNIX_EPOCH + since),
        None => Ok(()),
    }
}

/// Reads what stands there now.
pub fn prove(config: &SpoolConfig, fetched: &Fetched, work: &Work) -> Result<Account, SourceError> {
    let mut account = Account::default();
    for part in &fetched.parts {
        let place = place(config, &fetched.account, &part.name)?;
        let failed = io_error(&place);
        let file = BufReader::new(File::open(&place).map_err(&failed)?);
        let hash = if is_packed(&place, &part.name) {
            let mut inner = Hashing::new(MultiGzDecoder::new(file));
            copy(&mut inner, &mut io::sink(), work, &failed)?;
            inner.hasher.finish()
        } else {
            let mut whole = Hashing::new(file);
            copy(&mut whole, &mut io::sink(), work, &failed)?;
            whole.hasher.finish()
        };
        account = account.proof(content_key(&part.name), hash);
    }
    Ok(account)
}
