//! mongodump's archive as it comes, read along by us: what it holds decides, not how the program ended.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::super::archive::{ArchiveError, Prelude};
use super::super::load::must_not_be_half_restored;
use super::super::tally::{self, Tallies, account};
use super::super::{MongoConfig, PART, SERVER, restorable};
use super::{DUMPER, Vendor};
use crate::source::SourceError;
use crate::source::engine::{Account, Backup, Part, PartRead};
use crate::source::tool::Running;
use crate::source::work::Work;

/// Pieces that wait for being read along: the program writes while we look.
const PIECES_WAITING: usize = 8;

/// What a whole archive holds.
type Held = (Prelude, Tallies);

/// A backup of a database by mongodump.
pub struct VendorDump {
    config: MongoConfig,
    vendor: Vendor,
    version: String,
    given: bool,
    held: Arc<Mutex<Option<Held>>>,
}

impl VendorDump {
    /// Looks whether the program can be run.
    pub fn open(config: &MongoConfig, vendor: &Vendor, work: &Work) -> Result<Self, SourceError> {
        let version = vendor.version(work)?;
        Ok(Self { config: config.clone(), vendor: vendor.clone(), version, given: false, held: Arc::default() })
    }

    fn void(&self, why: impl Into<String>) -> SourceError {
        SourceError::Expectation { what: self.config.name.clone(), why: why.into() }
    }
}

impl Backup for VendorDump {
    fn next(&mut self, _: &Work) -> Result<Option<Part>, SourceError> {
        if std::mem::replace(&mut self.given, true) {
            return Ok(None);
        }
        let (config, vendor, held) = (self.config.clone(), self.vendor.clone(), Arc::clone(&self.held));
        Ok(Some(Part::new(PART, move |work| {
            Ok(Watched::new(config.name.clone(), vendor.dumping(&config, work)?.stream(work)?, tally::of_archive, held))
        })))
    }

    fn finish(&mut self, _: &Work) -> Result<Account, SourceError> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (prelude, tallies) = held.ok_or_else(|| self.void("the dump did not end"))?;
        if tallies.values().all(|tally| tally.documents == 0) {
            let database = &self.config.database;
            let why =
                format!("the database {database:?} is not there or holds no document at all, although {DUMPER} ended well");
            return Err(SourceError::Empty { what: self.config.name.clone(), why });
        }
        let database = restorable(&prelude).map_err(|why| self.void(why))?;
        if database != self.config.database {
            return Err(self.void(format!("the archive is of the database {database:?}")));
        }
        let names = prelude.collections.iter().map(|collection| collection.name.as_str());
        must_not_be_half_restored(names).map_err(|why| self.void(why))?;
        Ok(account(&tallies).tool(DUMPER, &self.version).tool(SERVER, &prelude.server_version))
    }
}

/// The program's output, handed on to whoever stores it and to a thread that reads it as an archive.
pub struct Watched<H> {
    member: String,
    running: Running,
    along: Option<SyncSender<Vec<u8>>>,
    reader: Option<JoinHandle<Result<H, ArchiveError>>>,
    held: Arc<Mutex<Option<H>>>,
}

impl<H: Send + 'static> Watched<H> {
    /// `read` says what a whole archive holds, and `held` gets it when the program has ended well, too.
    pub fn new(
        member: String,
        running: Running,
        read: fn(Pieces) -> Result<H, ArchiveError>,
        held: Arc<Mutex<Option<H>>>,
    ) -> Self {
        let (along, from) = sync_channel(PIECES_WAITING);
        let reader = std::thread::spawn(move || read(Pieces { from, piece: Vec::new(), given: 0 }));
        Self { member, running, along: Some(along), reader: Some(reader), held }
    }

    /// What the reader has found, when there is nothing more to read or it wants no more.
    fn verdict(&mut self) -> Result<H, SourceError> {
        self.along = None;
        let wrong = |why: String| SourceError::Expectation { what: self.member.clone(), why };
        let reader = self.reader.take().ok_or_else(|| wrong("the archive was read twice".into()))?;
        let read = reader.join().map_err(|_| wrong("a thread ended before its work".into()))?;
        read.map_err(|e| wrong(format!("what {DUMPER} wrote {e}")))
    }
}

impl<H: Send + 'static> PartRead for Watched<H> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        let count = self.running.read(buffer)?;
        let wanted = match &self.along {
            Some(along) if count > 0 => along.send(buffer[..count].to_vec()).is_ok(),
            _ => true,
        };
        if !wanted {
            self.verdict()?;
        }
        Ok(count)
    }

    fn finish(&mut self) -> Result<(), SourceError> {
        // Why the program failed says more than that its output is cut off.
        self.running.finish()?;
        let held = self.verdict()?;
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
        Ok(())
    }
}

/// What was sent, as one stream.
pub struct Pieces {
    from: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    given: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given == self.piece.len() {
            match self.from.recv() {
                Ok(piece) => (self.piece, self.given) = (piece, 0),
                // The sender has gone: that is the end.
                Err(_) => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len() - self.given);
        buffer[..count].copy_from_slice(&self.piece[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}
