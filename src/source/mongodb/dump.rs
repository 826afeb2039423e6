//! A database as an archive: one collection after the other, its documents by `_id`, so that two nights of the same data are
//! the same bytes.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bson::{RawDocumentBuf, doc};

use super::archive::{Collection, Prelude, encode_begin, encode_end, encode_prelude};
use super::client::Deployment;
use super::crc64::Crc64;
use super::metadata::Metadata;
use super::tally::{Tallies, Tally, account};
use super::{PART, SERVER, schema};
use crate::source::SourceError;
use crate::source::engine::{Account, Backup, Part, PartRead};
use crate::source::work::Work;

/// Bytes that are handed on at a time.
const PIECE_BYTES: usize = 256 * 1024;
/// Pieces that wait at most: the server sends while we compress.
const PIECES_WAITING: usize = 8;
/// How often a reader that waits for the server looks whether it is to stop.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Stands in the archive. Without a version: two nights of the same data are the same bytes, whichever farkeep wrote them.
const TOOL_VERSION: &str = "farkeep";

/// What came of a dump that ended well.
type Outcome = Arc<Mutex<Option<(String, Tallies)>>>;

/// A backup of a database.
pub struct Dump {
    deployment: Deployment,
    given: bool,
    outcome: Outcome,
}

impl Dump {
    /// Of this database.
    pub fn new(deployment: Deployment) -> Self {
        Self { deployment, given: false, outcome: Outcome::default() }
    }
}

impl Backup for Dump {
    fn next(&mut self, _: &Work) -> Result<Option<Part>, SourceError> {
        if std::mem::replace(&mut self.given, true) {
            return Ok(None);
        }
        let (deployment, outcome) = (self.deployment.clone(), Arc::clone(&self.outcome));
        Ok(Some(Part::new(PART, move |work| Ok(Archive::start(deployment, outcome, work)))))
    }

    fn finish(&mut self, work: &Work) -> Result<Account, SourceError> {
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
        let what = work.member.clone();
        let Some((version, tallies)) = outcome else {
            return Err(SourceError::Expectation { what, why: "the dump did not end".into() });
        };
        if tallies.values().all(|tally| tally.documents == 0) {
            return Err(SourceError::Empty { what, why: "the database holds no document at all".into() });
        }
        Ok(account(&tallies).tool(SERVER, version))
    }
}

enum Piece {
    Bytes(Vec<u8>),
    End(String, Tallies),
}

type Sent = Result<Piece, SourceError>;

/// The archive as it comes from another thread, so that a server that falls silent cannot hold us.
struct Archive {
    from: Receiver<Sent>,
    work: Work,
    title: String,
    piece: Vec<u8>,
    given: usize,
    ended: bool,
    outcome: Outcome,
}

impl Archive {
    fn start(deployment: Deployment, outcome: Outcome, work: &Work) -> Self {
        let (give, from) = sync_channel(PIECES_WAITING);
        let title = deployment.title.clone();
        std::thread::spawn(move || {
            let last = write(&deployment, &give);
            // The reader may have gone: then nobody wants it.
            let _ = give.send(last);
        });
        Self { from, work: work.clone(), title, piece: Vec::new(), given: 0, ended: false, outcome }
    }

    fn receive(&self) -> Sent {
        loop {
            match self.from.recv_timeout(LOOK_INTERVAL) {
                Ok(sent) => return sent,
                Err(RecvTimeoutError::Timeout) => self.work.check()?,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(SourceError::System { system: self.title.clone(), why: "the dump broke off".into() });
                }
            }
        }
    }
}

impl PartRead for Archive {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        while self.given == self.piece.len() {
            if self.ended {
                return Ok(0);
            }
            match self.receive()? {
                Piece::Bytes(bytes) => (self.piece, self.given) = (bytes, 0),
                Piece::End(version, tallies) => {
                    self.ended = true;
                    *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some((version, tallies));
                }
            }
        }
        let count = buffer.len().min(self.piece.len() - self.given);
        buffer[..count].copy_from_slice(&self.piece[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}

fn write(deployment: &Deployment, give: &SyncSender<Sent>) -> Sent {
    let collections = schema::read(deployment)?;
    let server_version = deployment.version()?;
    let mut tallies = Tallies::new();
    let prelude = Prelude { server_version, tool_version: TOOL_VERSION.into(), collections };
    let mut waiting = encode_prelude(&prelude);
    for collection in &prelude.collections {
        waiting.extend(encode_begin(collection));
        let mut crc = Crc64::default();
        if collection.kind != "view" {
            let tally = write_documents(deployment, collection, &mut crc, &mut waiting, give)?;
            tallies.insert(collection.name.clone(), tally);
        }
        waiting.extend(encode_end(collection, crc.value()));
    }
    hand_on(&mut waiting, give)?;
    Ok(Piece::End(prelude.server_version, tallies))
}

fn write_documents(
    deployment: &Deployment,
    collection: &Collection,
    crc: &mut Crc64,
    waiting: &mut Vec<u8>,
    give: &SyncSender<Sent>,
) -> Result<Tally, SourceError> {
    let mut tally = Tally::default();
    let capped = Metadata::from_json(&collection.metadata).is_ok_and(|m| m.options.get_bool("capped").unwrap_or(false));
    // A capped collection is a queue: the order in which it was filled is part of it.
    let order = if capped {
        doc! { "$natural": 1 }
    } else {
        doc! { "_id": 1 }
    };
    let documents = deployment.database.collection::<RawDocumentBuf>(&collection.name);
    let failed = |e: mongodb::error::Error| deployment.error(&e);
    let mut cursor = documents.find(doc! {}).sort(order).run().map_err(failed)?;
    while cursor.advance().map_err(failed)? {
        let document = cursor.current().as_bytes();
        crc.update(document);
        tally.add(document);
        waiting.extend_from_slice(document);
        if waiting.len() >= PIECE_BYTES {
            hand_on(waiting, give)?;
        }
    }
    Ok(tally)
}

fn hand_on(waiting: &mut Vec<u8>, give: &SyncSender<Sent>) -> Result<(), SourceError> {
    // Nobody reads any more: the push has ended.
    give.send(Ok(Piece::Bytes(std::mem::take(waiting)))).map_err(|_| SourceError::Interrupted)
}
