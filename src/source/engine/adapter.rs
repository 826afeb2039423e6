//! An engine's backup as a source: its parts become entries at `@<member>/<part>`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Account, Backup, Engine, OpenPart, PartRead};
use crate::model::entry::{Metadata, Owner, Xattrs};
use crate::model::finding::Finding;
use crate::model::path::EntryPath;
use crate::source::work::Work;
use crate::source::{Content, ContentError, Found, Load, Loaded, Piece, Settled, Source, SourceError};

/// Mode of a part that has none of its own.
const PART_MODE: u32 = 0o600;

/// A member that an engine gives.
pub struct EngineSource {
    name: String,
    kind: &'static str,
    work: Work,
    backup: Box<dyn Backup>,
    last: Option<EntryPath>,
    given: usize,
    ended: Arc<AtomicUsize>,
    account: Account,
}

impl EngineSource {
    /// Opens the engine.
    ///
    /// # Errors
    /// When it can give no backup.
    pub fn open(engine: &dyn Engine, work: &Work) -> Result<Self, SourceError> {
        let backup = engine.open(work)?;
        Ok(Self {
            name: engine.name().to_owned(),
            kind: engine.kind(),
            work: work.clone(),
            backup,
            last: None,
            given: 0,
            ended: Arc::default(),
            account: Account::default(),
        })
    }

    fn void(&self, why: impl Into<String>) -> SourceError {
        SourceError::Expectation { what: self.name.clone(), why: why.into() }
    }
}

impl Source for EngineSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        self.kind
    }

    fn roots(&self) -> Vec<EntryPath> {
        Vec::new()
    }

    fn context(&self) -> Option<String> {
        None
    }

    fn next(&mut self) -> Result<Option<Found>, SourceError> {
        self.work.start_clock();
        self.work.check()?;
        let Some(part) = self.backup.next(&self.work)? else { return Ok(None) };
        let text = format!("@{}/{}", self.name, part.name);
        let path = EntryPath::from_bytes(text.clone()).map_err(|e| self.void(format!("part {text}: {e}")))?;
        if self.last.as_ref().is_some_and(|last| *last >= path) {
            return Err(self.void(format!("part {text} came out of order")));
        }
        self.last = Some(path.clone());
        self.given += 1;
        let mtime_ns = i128::from(self.work.now.0) * 1_000_000_000;
        let owner = Owner { uid: 0, gid: 0, user: None, group: None };
        let meta = part.meta.unwrap_or(Metadata { mode: PART_MODE, owner, mtime_ns, xattrs: Xattrs::none() });
        let load = PartLoad { meta, open: part.open, work: self.work.clone(), ended: Arc::clone(&self.ended) };
        // Of unknown length: it is read by one thread, as a large file is.
        Ok(Some(Found { path, key: None, bytes: part.bytes.unwrap_or(u64::MAX), load: Box::new(load) }))
    }

    fn finish(&mut self) -> Result<Vec<Finding>, SourceError> {
        if self.given == 0 {
            return Err(self.void("gave nothing at all"));
        }
        if self.ended.load(Ordering::Acquire) != self.given {
            return Err(self.void("a part did not end well"));
        }
        self.account = self.backup.finish(&self.work)?;
        Ok(std::mem::take(&mut self.account.findings))
    }

    fn account(&mut self) -> Account {
        std::mem::take(&mut self.account)
    }
}

struct PartLoad {
    meta: Metadata,
    open: OpenPart,
    work: Work,
    ended: Arc<AtomicUsize>,
}

impl Load for PartLoad {
    fn load(self: Box<Self>) -> Result<Loaded, SourceError> {
        self.work.check()?;
        let part = (self.open)(&self.work)?;
        Ok(Loaded::File(self.meta, Box::new(PartContent { part, work: self.work, ended: self.ended })))
    }
}

struct PartContent {
    part: Box<dyn PartRead>,
    work: Work,
    ended: Arc<AtomicUsize>,
}

impl Content for PartContent {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, ContentError> {
        self.work.check().map_err(ContentError::Fatal)?;
        match self.part.read(buffer).map_err(ContentError::Fatal)? {
            0 => Ok(Piece::End),
            count => Ok(Piece::Data(count)),
        }
    }

    fn settle(&mut self) -> Result<Settled, ContentError> {
        self.part.finish().map_err(ContentError::Fatal)?;
        self.ended.fetch_add(1, Ordering::Release);
        Ok(Settled::Same)
    }

    fn again(&mut self) -> Result<Option<Metadata>, ContentError> {
        Ok(None)
    }

    fn is_sparse(&self) -> bool {
        false
    }
}
