//! The simplest parts.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::PathBuf;

use super::PartRead;
use crate::source::SourceError;

/// A file's content.
pub struct FilePart {
    path: PathBuf,
    file: File,
}

impl FilePart {
    pub fn open(path: PathBuf) -> Result<Self, SourceError> {
        match File::open(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(SourceError::Io { path: path.display().to_string(), source }),
        }
    }
}

impl PartRead for FilePart {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        loop {
            match self.file.read(buffer) {
                Ok(count) => return Ok(count),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(source) => return Err(SourceError::Io { path: self.path.display().to_string(), source }),
            }
        }
    }
}
