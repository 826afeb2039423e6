//! What verifications said of which copy.
//!
//! A record names the copy as whoever verified saw it: by the address of a server, or by a directory of the machine. What was
//! found in one copy says nothing of another, so that copies are kept apart here as well as their names allow.

use crate::format::body::VerifyBody;
use crate::format::record::{Head, RecordKind};
use crate::ledger::{Checked, Standing, Trust};
use crate::model::drive::DriveName;
use crate::model::ids::{ObjectHash, WriterId};
use crate::store::Location;
use crate::vault::copy::Copy;

/// A copy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// An enrolled drive, wherever it was mounted, and its label: a name may be given again.
    Drive(DriveName, Option<ObjectHash>),
    /// A directory of a server, by host, port and path: accounts see the same one.
    Server(String, Option<u16>, String),
    /// A directory of the machine on which this writer signs.
    Directory(WriterId, String),
}

impl Place {
    fn of(writer: WriterId, drive: Option<(DriveName, Option<Head>)>, store: &str) -> Self {
        match drive {
            Some((drive, label)) => Self::Drive(drive, label.map(|label| label.hash)),
            None => Self::of_server(store).unwrap_or_else(|| Self::Directory(writer, store.to_owned())),
        }
    }

    /// The copy at the address of a server.
    #[must_use]
    pub fn of_server(store: &str) -> Option<Self> {
        match store.parse() {
            Ok(Location::Sftp(at)) => Some(Self::Server(at.host, at.port, at.path)),
            _ => None,
        }
    }

    /// The copy, where every machine names it alike: an enrolled drive, or one on a server.
    #[must_use]
    pub fn known_to_all(copy: &Copy) -> Option<Self> {
        match super::drive::drive_of(copy) {
            Some((drive, label)) => Some(Self::Drive(drive, Some(label.hash))),
            None => Self::of_server(&copy.name()),
        }
    }

    /// The copy, as somebody who signs here names it.
    #[must_use]
    pub fn of_copy(copy: &Copy, writer: WriterId) -> Self {
        let drive = super::drive::drive_of(copy).map(|(name, label)| (name, Some(label)));
        Self::of(writer, drive, &copy.name())
    }
}

/// A verification and what it came to.
#[derive(Debug, Clone)]
pub struct Verification<'a> {
    /// The copy that was read.
    pub place: Place,
    /// Its record.
    pub record: &'a Checked,
    /// What the record says.
    pub body: VerifyBody,
}

impl<'a> Verification<'a> {
    /// The verifications among `records`, in their order.
    pub fn all(records: impl IntoIterator<Item = &'a Checked>) -> Vec<Self> {
        let verifications = records.into_iter().filter(|record| record.statement.kind == RecordKind::Verify);
        let read = verifications.filter_map(|record| {
            let body: VerifyBody = record.statement.body_as().ok()?;
            let drive = body.drive.clone().map(|name| (name, body.label));
            Some(Self { place: Place::of(record.statement.writer, drive, &body.store), record, body })
        });
        read.collect()
    }

    /// Whether nobody can say it otherwise any more: a directory as a machine saw it whose key was retired.
    #[must_use]
    pub fn is_over(&self, trust: &Trust) -> bool {
        let Place::Directory(writer, _) = &self.place else { return false };
        trust.has_retired(writer)
    }

    /// Whether stored bytes were read, not names and sizes alone.
    #[must_use]
    pub fn read_bytes(&self) -> bool {
        self.body.depth != "list"
    }

    /// Whether this ends what `earlier` found: of the same copy all was read, or at least what was spoken against, by somebody
    /// who knew of it, and whom the root trusts or who takes back his own word. Clocks are not asked.
    #[must_use]
    pub fn settles(&self, earlier: &Self) -> bool {
        let objects_only = earlier.body.findings == earlier.body.objects_found.len() as u64;
        let looked = self.body.whole || (self.body.again && objects_only);
        let may =
            self.record.standing == Standing::Trusted || self.record.statement.writer == earlier.record.statement.writer;
        may && looked && self.place == earlier.place && self.record.knew(earlier.record)
    }
}
