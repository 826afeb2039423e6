//! A sorted run of chunks on disk, with the first key and the checksum of each page in memory.
//!
//! A chunk that is found where it does not lie would be missing from a snapshot, so a page is held against its checksum before
//! anything that stands in it counts, once in the life of a process. A chunk that is not found is stored again, so a page
//! without it is not checked.

use std::cmp::Reverse;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::meta::give_up;
use super::{PackNumber, Place};
use crate::crypto::hash::{CHECKSUM_BYTES, checksum};
use crate::model::ids::ChunkId;
use crate::state::StateError;

/// Chunk id, pack, ordinal.
const RECORD_BYTES: usize = ChunkId::BYTES + 8;
/// Records of one page: 4 KiB, what the system reads at once.
const PAGE_RECORDS: u64 = 128;
const PAGE_BYTES: usize = PAGE_RECORDS as usize * RECORD_BYTES;
/// Of each page, in a file beside: the prefix of its first id, its checksum.
const FENCE_BYTES: usize = 8 + CHECKSUM_BYTES;

/// One chunk and its place.
#[derive(Debug, Clone, Copy)]
pub struct Record {
    pub id: ChunkId,
    pub place: Place,
}

impl Record {
    /// By id, the youngest pack first: there a chunk lies that had to be written again.
    pub const fn order(&self) -> (ChunkId, Reverse<PackNumber>, u32) {
        (self.id, Reverse(self.place.pack), self.place.ordinal)
    }

    fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..24].copy_from_slice(&self.id.0);
        bytes[24..28].copy_from_slice(&self.place.pack.to_le_bytes());
        bytes[28..].copy_from_slice(&self.place.ordinal.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Self {
        let mut id = [0; 24];
        id.copy_from_slice(&bytes[..24]);
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self { id: ChunkId(id), place: Place { pack: number(24), ordinal: number(28) } }
    }
}

/// The first eight bytes of an id: what fences compare.
fn prefix(id: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&id[..8]);
    u64::from_be_bytes(bytes)
}

/// A sorted segment.
pub struct Segment {
    path: PathBuf,
    file: File,
    records: u64,
    /// The prefix of the first id of each page: 8 bytes for 4 KiB, so 6 MiB for 100 million chunks.
    fences: Vec<u64>,
    /// The checksum of each page: as much again.
    sums: Vec<[u8; CHECKSUM_BYTES]>,
    /// By page: whether it was found right.
    sound: Vec<AtomicBool>,
}

impl Segment {
    /// Opens a segment of `records` records; its fences lie beside it.
    pub fn open(path: &Path, records: u64) -> Result<Self, StateError> {
        let file = File::open(path).map_err(StateError::io(path))?;
        let length = file.metadata().map_err(StateError::io(path))?.len();
        let fences_path = fences_path(path);
        let bytes = std::fs::read(&fences_path).map_err(StateError::io(&fences_path))?;
        let pages = records.div_ceil(PAGE_RECORDS);
        if length != records * RECORD_BYTES as u64
            || bytes.len() as u64 != pages * FENCE_BYTES as u64 + CHECKSUM_BYTES as u64
        {
            return Err(StateError::invalid(path, "not as long as it was"));
        }
        let (rows, sum) = bytes.split_at(bytes.len() - CHECKSUM_BYTES);
        if checksum(rows) != sum {
            return Err(StateError::invalid(&fences_path, "damaged"));
        }
        let (rows, _) = rows.as_chunks::<FENCE_BYTES>();
        let fences = rows.iter().map(|row| prefix(row)).collect();
        let sums = rows.iter().filter_map(|row| row.last_chunk().copied()).collect();
        let sound = rows.iter().map(|_| AtomicBool::new(false)).collect();
        Ok(Self { path: path.to_owned(), file, records, fences, sums, sound })
    }

    pub const fn records(&self) -> u64 {
        self.records
    }

    /// Writes a segment from records in order.
    pub fn write(
        path: &Path,
        records: u64,
        source: impl Iterator<Item = Result<Record, StateError>>,
    ) -> Result<Self, StateError> {
        let create = |path: &Path| OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path);
        let mut output = BufWriter::with_capacity(1 << 18, create(path).map_err(StateError::io(path))?);
        let mut fences = Vec::with_capacity(usize::try_from(records.div_ceil(PAGE_RECORDS)).unwrap_or(0) * FENCE_BYTES);
        let mut page = Vec::with_capacity(PAGE_BYTES);
        let mut written = 0_u64;
        let mut source = source.peekable();
        while let Some(record) = source.next() {
            page.extend_from_slice(&record?.encode());
            written += 1;
            if page.len() == PAGE_BYTES || source.peek().is_none() {
                fences.extend_from_slice(&page[..8]);
                fences.extend_from_slice(&checksum(&page));
                output.write_all(&page).map_err(StateError::io(path))?;
                page.clear();
            }
        }
        let sum = checksum(&fences);
        fences.extend_from_slice(&sum);
        let finish = || -> io::Result<()> {
            output.into_inner().map_err(io::IntoInnerError::into_error)?.sync_data()?;
            let mut file = create(&fences_path(path))?;
            file.write_all(&fences)?;
            file.sync_data()
        };
        finish().map_err(StateError::io(path))?;
        Self::open(path, written)
    }

    /// Merges what `keep` keeps of segments into a new one; the inputs stay.
    pub fn merge(path: &Path, inputs: &[Self], keep: impl Fn(&Record) -> bool) -> Result<Self, StateError> {
        let total = inputs.iter().map(|s| s.records).sum();
        let mut runs = Vec::with_capacity(inputs.len());
        for input in inputs {
            runs.push(Run::open(input)?);
        }
        let merged = std::iter::from_fn(move || {
            // A handful of runs: looking at each is as quick as a heap.
            let smallest =
                runs.iter_mut().filter(|run| run.next.is_some()).min_by_key(|run| run.next.as_ref().map(Record::order))?;
            let record = smallest.next?;
            match smallest.advance() {
                Ok(()) => Some(Ok(record)),
                Err(e) => Some(Err(e)),
            }
        });
        Self::write(path, total, merged.filter(|record| record.as_ref().map_or(true, &keep)))
    }

    /// Hands every place of `id` to `found`.
    pub fn each(&self, id: &ChunkId, found: &mut dyn FnMut(Place)) -> Result<(), StateError> {
        let wanted = prefix(&id.0);
        // The last page that begins below the key may hold it, and every page that begins with it.
        let first = self.fences.partition_point(|fence| *fence < wanted).saturating_sub(1);
        let mut page = [0; PAGE_BYTES];
        for number in first..self.fences.len() {
            if self.fences[number] > wanted {
                break;
            }
            let bytes = self.page(number, &mut page)?;
            let (rows, _) = bytes.as_chunks::<RECORD_BYTES>();
            let from = rows.partition_point(|row| row[..24] < id.0[..]);
            let mut rows = rows[from..].iter().take_while(|row| row[..24] == id.0[..]).peekable();
            if rows.peek().is_some() && !self.sound[number].load(Ordering::Relaxed) {
                self.check(number, bytes)?;
                self.sound[number].store(true, Ordering::Relaxed);
            }
            rows.for_each(|row| found(Record::decode(row).place));
        }
        Ok(())
    }

    /// Reads a page, which is not checked yet.
    fn page<'a>(&self, number: usize, buffer: &'a mut [u8; PAGE_BYTES]) -> Result<&'a [u8], StateError> {
        let start = number as u64 * PAGE_RECORDS;
        let bytes = &mut buffer[..PAGE_RECORDS.min(self.records - start) as usize * RECORD_BYTES];
        self.file.read_exact_at(bytes, start * RECORD_BYTES as u64).map_err(|e| give_up(&self.path, e))?;
        Ok(bytes)
    }

    fn check(&self, number: usize, page: &[u8]) -> Result<(), StateError> {
        if self.sums.get(number) == Some(&checksum(page)) {
            return Ok(());
        }
        Err(give_up(&self.path, format!("page {number} is damaged")))
    }
}

/// One input of a merge, page by page.
struct Run<'a> {
    segment: &'a Segment,
    page: [u8; PAGE_BYTES],
    /// Records that were taken.
    taken: u64,
    next: Option<Record>,
}

impl<'a> Run<'a> {
    fn open(segment: &'a Segment) -> Result<Self, StateError> {
        let mut run = Self { segment, page: [0; PAGE_BYTES], taken: 0, next: None };
        run.advance()?;
        Ok(run)
    }

    fn advance(&mut self) -> Result<(), StateError> {
        self.next = None;
        if self.taken < self.segment.records {
            let (number, row) = ((self.taken / PAGE_RECORDS) as usize, (self.taken % PAGE_RECORDS) as usize);
            if row == 0 {
                let page = self.segment.page(number, &mut self.page)?;
                self.segment.check(number, page)?;
            }
            self.next = Some(Record::decode(&self.page[row * RECORD_BYTES..][..RECORD_BYTES]));
            self.taken += 1;
        }
        Ok(())
    }
}

fn fences_path(path: &Path) -> PathBuf {
    path.with_extension("fences")
}
