//! From a source to a snapshot: entries are found, read, cut and hashed by many threads, and written in order by one.
//!
//! ```text
//! scan (one thread)  ->  readers (several)  ->  sequencer (the caller)
//! finds entries,         open, read, cut,       deduplicates, packs, writes
//! asks the file cache    hash                   catalogue and file cache
//! ```
//!
//! Every queue is bounded. Entries travel in units, a run of small files or one large file; the sequencer takes the units in
//! the order of the scan, whichever is ready first.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::codec::Cutter;
use crate::crypto::hash::ChunkKey;
use crate::format::manifest::Member;
use crate::model::finding::{Finding, FindingKind};
use crate::model::time::Clock;
use crate::source::{Found, Source, SourceError};
use crate::state::bases::BaseCache;
use crate::state::file_cache::CachedEntry;
use crate::state::shipped::LocalFile;
use crate::vault::VaultError;
use crate::vault::snapshot_writer::SnapshotWriter;
use crate::vault::stream_bases::FinishedStream;

mod fresh;
mod known;
mod read;
mod sequence;

pub use fresh::Fresh;
pub use known::FileCachePlace;
use read::{BufferPool, Halt, Reading};
use sequence::Sequencer;

/// Entries of one unit at most.
const UNIT_ENTRIES: usize = 512;
/// Bytes of one unit at most, but for a single larger file.
const UNIT_BYTES: u64 = 1024 * 1024;
/// Units found ahead of the sequencer: each that was read holds on to its buffers until its turn comes.
const UNITS_AHEAD: usize = 8;
/// Units that wait for a reader.
const UNITS_WAITING: usize = 4;
/// Buffers of one unit that wait for the sequencer.
const BUFFERS_WAITING: usize = 2;
/// Findings whose text is kept; all are counted.
pub const FINDINGS_KEPT: usize = 1000;
/// A file whose inode changed so shortly before the scan is read again next time: its time may not tell a later change. For
/// write(2) the clock's grain would do. Through mmap Linux moves the times at the first store to a clean page only; until that
/// page is written out, after 35 s as the kernel comes configured, further stores to it move nothing.
const RACY_NS: i128 = 60_000_000_000;

/// Told what is being done, as it is done.
pub trait Progress: Sync {
    /// So many more entries are done, with so many bytes of content, of which so many were read.
    fn captured(&self, entries: u64, bytes: u64, read_bytes: u64);
    /// Something was noticed.
    fn noticed(&self, finding: &Finding);
}

/// How to capture a source.
pub struct CaptureConfig<'a> {
    /// Where content is cut.
    pub cutter: Cutter,
    /// Threads that read.
    pub readers: usize,
    /// Where the file cache of this member lies; none goes without.
    pub cache: Option<PathBuf>,
    /// What large streams are patched against; none makes ordinary blocks only.
    pub bases: Option<&'a BaseCache>,
    /// Tells the streams of this member from those of others.
    pub stream_prefix: String,
    /// Set from outside to stop.
    pub cancel: &'a AtomicBool,
    /// The present.
    pub clock: &'a dyn Clock,
    /// Who is told.
    pub progress: &'a dyn Progress,
}

/// A captured member.
pub struct Captured {
    /// Its part of the manifest.
    pub member: Member,
    /// The first findings.
    pub findings: Vec<Finding>,
    /// How many there were, notices apart.
    pub finding_count: u64,
    /// The file cache, to be finished once every pack has its number.
    pub cache: Option<FileCachePlace>,
    /// Its large streams, for the next push to build patches on.
    pub streams: Vec<FinishedStream>,
    /// Where its new content lies, to be weighed once every pack is sealed.
    pub fresh: Fresh,
    /// Files of this machine that were taken in as they are.
    pub files: Vec<LocalFile>,
}

/// What goes from the scan to the sequencer, in order.
enum Unit {
    /// Unchanged since the last push.
    Known(Vec<CachedEntry>),
    /// Being read.
    Read(Receiver<Reading>),
    /// The scan ended.
    End(Result<(), SourceError>),
}

type Job = (Vec<Found>, Sender<Reading>);

/// Captures all of `source` into `writer`.
///
/// # Errors
/// When the source as a whole fails, or writing does.
pub fn capture(
    source: &mut dyn Source,
    writer: &mut SnapshotWriter<'_>,
    config: &CaptureConfig<'_>,
) -> Result<Captured, VaultError> {
    let started = config.clock.now();
    let name = source.name().to_owned();
    let in_source = |source| match source {
        SourceError::Interrupted => VaultError::Interrupted,
        source => VaultError::Source { member: name.clone(), source },
    };
    let place = known::open(source, writer, config)?;
    let (mut known, cache) = place.map_or((None, None), |(reader, place)| (Some(reader), Some(place)));
    let racy_after_ns = i128::from(started.0) * 1_000_000_000 - RACY_NS;
    let (kind, roots) = (source.kind(), source.roots());
    let key = writer.key().clone();
    let pool = BufferPool::default();
    let stop = AtomicBool::new(false);
    let stopped = || stop.load(Ordering::Relaxed) || config.cancel.load(Ordering::Relaxed);

    let mut sequencer = Sequencer::new(writer, config, &pool, cache, racy_after_ns);
    let outcome = std::thread::scope(|scope| {
        let (unit_sender, units) = bounded::<Unit>(UNITS_AHEAD);
        let (job_sender, jobs) = bounded::<Job>(UNITS_WAITING);
        for _ in 0..config.readers.max(1) {
            let (jobs, key, pool) = (jobs.clone(), &key, &pool);
            let stopped = &stopped;
            scope.spawn(move || read_units(&jobs, config.cutter, key, pool, stopped));
        }
        drop(jobs);
        let (scanned, known) = (&mut *source, known.as_mut());
        let stopped = &stopped;
        scope.spawn(move || scan(scanned, known, &unit_sender, &job_sender, stopped));
        let outcome = follow(&units, &mut sequencer, config.cancel);
        // Whoever still works finds its channel closed or this set.
        stop.store(true, Ordering::Relaxed);
        drop(units);
        outcome
    });
    outcome.map_err(|error| match error {
        Stop::Source(error) => in_source(error),
        Stop::Vault(error) => error,
    })?;
    let more = source.finish().map_err(in_source)?;
    let account = source.account();
    for finding in more {
        sequencer.note(finding);
    }
    let ended = sequencer.finish()?;
    let member = Member {
        name: name.clone(),
        kind: kind.to_owned(),
        roots,
        chunker: config.cutter.describe(),
        started,
        finished: config.clock.now(),
        tally: ended.tally,
        catalogue: ended.catalogue,
        tools: account.tools,
        proof: account.proof,
    };
    Ok(Captured {
        member,
        findings: ended.findings,
        finding_count: ended.finding_count,
        cache: ended.cache,
        streams: ended.streams,
        fresh: ended.fresh,
        files: account.files,
    })
}

/// Why the sequencer stops.
enum Stop {
    Source(SourceError),
    Vault(VaultError),
}

impl From<VaultError> for Stop {
    fn from(error: VaultError) -> Self {
        Self::Vault(error)
    }
}

/// Takes the units in order.
fn follow(units: &Receiver<Unit>, sequencer: &mut Sequencer<'_, '_>, cancel: &AtomicBool) -> Result<(), Stop> {
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(Stop::Source(SourceError::Interrupted));
        }
        let gone = || Stop::Vault(VaultError::internal("a capturing thread has failed"));
        match units.recv().map_err(|_| gone())? {
            Unit::End(outcome) => return outcome.map_err(Stop::Source),
            Unit::Known(entries) => {
                for entry in entries {
                    sequencer.known(entry)?;
                }
            }
            Unit::Read(readings) => {
                let mut ended = false;
                for reading in readings {
                    match reading {
                        Reading::Events(buffer, events) => {
                            sequencer.events(&buffer, events)?;
                            sequencer.give_back(buffer);
                        }
                        Reading::Failed(error) => return Err(Stop::Source(error)),
                        Reading::End => ended = true,
                    }
                }
                if !ended {
                    return Err(if cancel.load(Ordering::Relaxed) {
                        Stop::Source(SourceError::Interrupted)
                    } else {
                        gone()
                    });
                }
            }
        }
    }
}

/// What the scanning thread does: it finds entries, sets the unchanged ones apart, and hands out units.
fn scan(
    source: &mut dyn Source,
    mut known: Option<&mut known::Known>,
    units: &Sender<Unit>,
    jobs: &Sender<Job>,
    stopped: &(impl Fn() -> bool + Sync),
) {
    let mut batch = Batch { units, jobs, found: Vec::new(), found_bytes: 0, known: Vec::new() };
    let outcome = loop {
        if stopped() {
            break Err(SourceError::Interrupted);
        }
        let found = match source.next() {
            Ok(Some(found)) => found,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        let unchanged = match (&mut known, found.key) {
            (Some(known), key) => known.take(&found.path).filter(|entry| Some(entry.key) == key),
            (None, _) => None,
        };
        let sent = match unchanged {
            Some(entry) => batch.add_known(entry),
            None => batch.add_found(found),
        };
        if sent.is_none() {
            break Err(SourceError::Interrupted);
        }
    };
    let _ = batch.send_known().and_then(|()| batch.send_found());
    let _ = units.send(Unit::End(outcome));
}

/// Gathers entries into units. Its methods give none when the sequencer has gone.
struct Batch<'a> {
    units: &'a Sender<Unit>,
    jobs: &'a Sender<Job>,
    found: Vec<Found>,
    found_bytes: u64,
    known: Vec<CachedEntry>,
}

impl Batch<'_> {
    fn add_known(&mut self, entry: CachedEntry) -> Option<()> {
        self.send_found()?;
        self.known.push(entry);
        if self.known.len() >= UNIT_ENTRIES { self.send_known() } else { Some(()) }
    }

    fn add_found(&mut self, found: Found) -> Option<()> {
        self.send_known()?;
        if self.found_bytes.saturating_add(found.bytes) > UNIT_BYTES {
            self.send_found()?;
        }
        self.found_bytes = self.found_bytes.saturating_add(found.bytes);
        self.found.push(found);
        if self.found.len() >= UNIT_ENTRIES { self.send_found() } else { Some(()) }
    }

    fn send_known(&mut self) -> Option<()> {
        if self.known.is_empty() {
            return Some(());
        }
        self.units.send(Unit::Known(std::mem::take(&mut self.known))).ok()
    }

    fn send_found(&mut self) -> Option<()> {
        if self.found.is_empty() {
            return Some(());
        }
        self.found_bytes = 0;
        let (sender, receiver) = bounded(BUFFERS_WAITING);
        // The sequencer learns of the unit first, so that it never waits for one that nobody was told of.
        self.units.send(Unit::Read(receiver)).ok()?;
        self.jobs.send((std::mem::take(&mut self.found), sender)).ok()
    }
}

/// What each reading thread does.
fn read_units(
    jobs: &Receiver<Job>,
    cutter: Cutter,
    key: &ChunkKey,
    pool: &BufferPool,
    stopped: &(impl Fn() -> bool + Sync),
) {
    for (found, output) in jobs {
        let last = match read::read_unit(found, cutter, key, pool, &output, stopped) {
            Ok(()) => Reading::End,
            Err(Halt::Failed(error)) => Reading::Failed(error),
            // The sequencer has gone.
            Err(Halt::Gone) => continue,
        };
        let _ = output.send(last);
    }
}

/// Collects findings: the first ones whole, all by number.
#[derive(Default)]
struct Findings {
    kept: Vec<Finding>,
    count: u64,
}

impl Findings {
    fn add(&mut self, finding: Finding) {
        if finding.kind != FindingKind::Notice {
            self.count += 1;
        }
        if self.kept.len() < FINDINGS_KEPT {
            self.kept.push(finding);
        }
    }
}
