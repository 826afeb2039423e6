//! Reading one archive: unpacked where it is a `.gz`, hashed as it is and as it is inside.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::sync::PoisonError;

use flate2::bufread::MultiGzDecoder;

use super::{Archive, Proof, content_key, file_key};
use crate::crypto::hash::StreamHasher;
use crate::model::entry::{Metadata, Owner, Xattrs};
use crate::source::SourceError;
use crate::source::engine::PartRead;
use crate::state::shipped::LocalFile;

/// Bytes of the packed file that are read at once.
const READ_BYTES: usize = 256 * 1024;

/// An archive's own mode, owner and time: a restore gives them back.
pub fn metadata(archive: &Archive) -> Result<Metadata, SourceError> {
    let meta = std::fs::metadata(&archive.path).map_err(|e| failed(archive, e))?;
    let text = |name: &std::ffi::OsStr| name.to_str().map(str::to_owned);
    let owner = Owner {
        uid: meta.uid(),
        gid: meta.gid(),
        user: uzers::get_user_by_uid(meta.uid()).and_then(|user| text(user.name())),
        group: uzers::get_group_by_gid(meta.gid()).and_then(|group| text(group.name())),
    };
    let mtime_ns = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    Ok(Metadata { mode: meta.mode() & 0o7777, owner, mtime_ns, xattrs: Xattrs::none() })
}

fn failed(archive: &Archive, source: io::Error) -> SourceError {
    SourceError::Io { path: archive.path.display().to_string(), source }
}

/// Hashes what passes through.
pub struct Hashing<R> {
    inner: R,
    pub hasher: StreamHasher,
    pub bytes: u64,
}

impl<R> Hashing<R> {
    pub fn new(inner: R) -> Self {
        Self { inner, hasher: StreamHasher::new(), bytes: 0 }
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}

type Packed = BufReader<Hashing<File>>;

enum Content {
    Packed(Box<MultiGzDecoder<Packed>>),
    Plain(Box<Packed>),
}

/// An archive that is being read.
pub struct Adopted {
    archive: Archive,
    part: String,
    content: Content,
    inner: StreamHasher,
    before: Look,
    proof: Proof,
}

/// What shows that a file was changed or put in place of another.
type Look = (u64, u64, u64, i64, i64);

fn look(meta: &std::fs::Metadata) -> Look {
    (meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec())
}

impl Adopted {
    pub fn open(archive: Archive, part: String, unpack: bool, proof: Proof) -> Result<Self, SourceError> {
        let file = File::open(&archive.path).map_err(|e| failed(&archive, e))?;
        let before = look(&file.metadata().map_err(|e| failed(&archive, e))?);
        let packed = BufReader::with_capacity(READ_BYTES, Hashing::new(file));
        let content =
            if unpack { Content::Packed(Box::new(MultiGzDecoder::new(packed))) } else { Content::Plain(Box::new(packed)) };
        Ok(Self { archive, part, content, inner: StreamHasher::new(), before, proof })
    }

    fn void(&self, why: impl std::fmt::Display) -> SourceError {
        SourceError::Expectation { what: self.archive.path.display().to_string(), why: why.to_string() }
    }
}

impl PartRead for Adopted {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        let read = loop {
            let read = match &mut self.content {
                Content::Packed(decoder) => decoder.read(buffer),
                Content::Plain(file) => file.read(buffer),
            };
            if !read.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::Interrupted) {
                break read;
            }
        };
        let count = read.map_err(|e| match &self.content {
            Content::Packed(_) => self.void(format!("is no whole gzip file: {e}")),
            Content::Plain(_) => failed(&self.archive, e),
        })?;
        self.inner.update(&buffer[..count]);
        Ok(count)
    }

    fn finish(&mut self) -> Result<(), SourceError> {
        let file = match &self.content {
            Content::Packed(decoder) => decoder.get_ref().get_ref(),
            Content::Plain(file) => file.get_ref(),
        };
        // The one that was read, and the one that has the name now: both must be what they were.
        let read = file.inner.metadata().map_err(|e| failed(&self.archive, e))?;
        let named = std::fs::metadata(&self.archive.path).map_err(|e| failed(&self.archive, e))?;
        if look(&read) != self.before || look(&named) != self.before || file.bytes != read.size() {
            return Err(self.void("was changed or replaced while it was read: the script that writes it is still at work"));
        }
        let name = self.archive.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let original = format!("{name} {} {}", file.bytes, file.hasher.clone().finish());
        let mut adopted = self.proof.lock().unwrap_or_else(PoisonError::into_inner);
        adopted.proof.insert(content_key(&self.part), self.inner.clone().finish().to_string());
        adopted.proof.insert(file_key(&self.part), original);
        adopted.files.push(LocalFile::of(&self.archive.path, &named));
        Ok(())
    }
}
