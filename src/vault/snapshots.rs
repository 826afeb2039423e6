//! The records of a copy, read and checked; the snapshots among them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::format::body::SnapshotBody;
use crate::format::record::{Head, RecordKind};
use crate::ledger::chain::{chain_findings, leading_to};
use crate::ledger::{Checked, Standing, Trust, check};
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::{SnapshotId, WriterId};
use crate::model::limits::{HEADS_MAX, RECORD_MAX_BYTES, SUFFIX_MAX};
use crate::model::name::ObjectName;
use crate::model::retention::{Dated, effective_times};
use crate::model::time::Timestamp;
use crate::state::{make_private_dir, read_if_there, write_cached};
use crate::store::StoreError;
use crate::vault::VaultError;
use crate::vault::copy::Copy;

/// Records that are asked of a store at once.
const BATCH: usize = 256;

/// A snapshot that exists: its record is truly signed by a trusted writer.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The hash of its record's statement line.
    pub id: SnapshotId,
    /// Who signed it.
    pub writer: WriterId,
    /// Its place in that writer's chain.
    pub head: Head,
    /// When its push ended.
    pub time: Timestamp,
    /// The number of the trust record that first spoke of its writer.
    pub since: u64,
    /// What its record says.
    pub body: SnapshotBody,
}

impl Snapshot {
    /// What orders snapshots, whatever any clock said: one machine pushes until the root puts another in its place, and each
    /// has a chain.
    #[must_use]
    pub const fn place(&self) -> (u64, WriterId, u64) {
        (self.since, self.writer, self.head.seq)
    }

    /// The name of its record.
    #[must_use]
    pub const fn record_name(&self) -> ObjectName {
        ObjectName::Record { writer: self.writer, seq: self.head.seq, statement: self.head.hash }
    }
}

/// All records of one copy.
#[derive(Debug, Default)]
pub struct Records {
    /// Records whose hash, place and signature are right, by writer and number.
    pub checked: Vec<Checked>,
    /// What is wrong with the others, and with those that do not count.
    pub findings: Vec<Finding>,
    /// Stored names of files that are no records, most often because an upload broke off.
    pub unfit: Vec<String>,
    /// Records that lie there and could not be read.
    unread: BTreeSet<ObjectName>,
    /// When the store received each record, by its own clock, where it says.
    pub received: BTreeMap<ObjectName, Timestamp>,
    /// The number of the trust record that first spoke of each writer.
    since: BTreeMap<WriterId, u64>,
    /// Writers that were retired, with their last records.
    pub retired: BTreeMap<WriterId, Head>,
}

impl Records {
    /// The snapshots, oldest first.
    #[must_use]
    pub fn snapshots(&self) -> Vec<Snapshot> {
        let mut found: Vec<Snapshot> = self.checked.iter().filter_map(|record| self.snapshot_of(record)).collect();
        sort_oldest_first(&mut found);
        found.dedup_by_key(|s| s.id);
        found
    }

    /// Whose records lie there and cannot be used, with their places: damaged, or out of reach, or never whole.
    pub fn unusable(&self) -> impl Iterator<Item = (WriterId, Head)> + '_ {
        let unfit = self.unfit.iter().filter_map(|stored| ObjectName::parse_stored(stored).ok()).map(|(name, _)| name);
        unfit.chain(self.unread.iter().cloned()).filter_map(|name| match name {
            ObjectName::Record { writer, seq, statement } => Some((writer, Head { seq, hash: statement })),
            _ => None,
        })
    }

    /// What is wrong with the chains, with records that lie only on this machine.
    #[must_use]
    pub fn chain_findings(&self, local: &[Checked]) -> Vec<Finding> {
        chain_findings(&self.checked, local, &self.unread, &self.retired)
    }

    /// When each snapshot was made, as far as that can be believed: by its chain and by the store's receive times.
    #[must_use]
    pub fn believed_times(&self) -> BTreeMap<SnapshotId, Timestamp> {
        // Machines that push take one another's place, so that their chains are one.
        let snapshots = self.snapshots();
        let received = |snapshot: &Snapshot| self.received.get(&snapshot.record_name()).copied();
        let dated: Vec<Dated> =
            snapshots.iter().map(|snapshot| Dated { claimed: snapshot.time, received: received(snapshot) }).collect();
        snapshots.iter().map(|snapshot| snapshot.id).zip(effective_times(&dated)).collect()
    }

    fn snapshot_of(&self, record: &Checked) -> Option<Snapshot> {
        if record.standing != Standing::Trusted || record.statement.kind != RecordKind::Snapshot {
            return None;
        }
        let body: SnapshotBody = record.statement.body_as().ok()?;
        Some(Snapshot {
            id: record.head.hash,
            writer: record.statement.writer,
            head: record.head,
            time: record.statement.time,
            since: self.since.get(&record.statement.writer).copied().unwrap_or(u64::MAX),
            body,
        })
    }

    /// Of a writer that was retired the records count that lead to the one that was its last, and no others with their numbers:
    /// whoever has its key could still make any number of those. Where a record is missing the way ends, and what lies before
    /// it counts.
    fn void_beside_retired(&mut self, trust: &Trust) {
        for (id, writer) in &trust.body().writers {
            let Some(until) = writer.until else { continue };
            let way = leading_to(&self.checked, id, until);
            let lowest = if way.is_empty() { u64::MAX } else { until.seq + 1 - way.len() as u64 };
            let is_known = self.checked.iter().any(|record| record.statement.writer == *id);
            if way.is_empty() && until.seq > 0 && is_known {
                let message = format!(
                    "this copy lacks it, the last record of {}: what else it holds of that writer cannot be held against it until \
                     `farkeep sync` or a push brings it",
                    writer.name
                );
                let name = ObjectName::Record { writer: *id, seq: until.seq, statement: until.hash };
                self.findings.push(Finding::new(FindingKind::Behind, name, message));
            }
            for record in self.checked.iter_mut().filter(|record| record.statement.writer == *id) {
                let beside = record.head.seq >= lowest && !way.contains(&record.head.hash);
                if beside && matches!(record.standing, Standing::Trusted | Standing::Refused(_)) {
                    let why =
                        format!("does not count: {} was retired, and it is not of the chain that it had then", writer.name);
                    record.standing = Standing::Void(why);
                    self.findings.extend(standing_finding(record));
                }
            }
        }
    }

    /// A file that is no record while the record itself lies beside it, under a suffix, is what a broken upload left.
    fn pardon_debris(&mut self) {
        let whole: BTreeSet<&ObjectName> = self.checked.iter().map(|record| &record.name).collect();
        for finding in &mut self.findings {
            let is_whole = |stored: &str| ObjectName::parse_stored(stored).is_ok_and(|(name, _)| whole.contains(&name));
            let unread = finding.kind == FindingKind::Damage;
            if (unread || self.unfit.contains(&finding.subject)) && is_whole(&finding.subject) {
                finding.kind = FindingKind::Notice;
                finding.message = "debris of an upload that broke off; the record lies beside it, whole".to_owned();
            }
        }
    }

    /// What lies under the name of a writer that the root does not know is told of, and decides nothing: anybody who may add a file
    /// can put any number there. A record of somebody whom the root knows that was brought under such a name is missed in its chain.
    /// But whoever signed knowing of a trust record that is not here may have been enrolled by that one.
    fn disown_strangers(&mut self, trust: &Trust) {
        let knew_more = |record: &&Checked| record.statement.trust.is_some_and(|known| known.seq > trust.head().seq);
        let by_later_trust: BTreeSet<WriterId> =
            self.checked.iter().filter(knew_more).map(|record| record.statement.writer).collect();
        for finding in self.findings.iter_mut().filter(|finding| finding.kind.casts_doubt()) {
            let Ok((ObjectName::Record { writer, .. }, _)) = ObjectName::parse_stored(&finding.subject) else { continue };
            if trust.writer(&writer).is_some() {
                continue;
            }
            if by_later_trust.contains(&writer) {
                finding.message += "; it knew of a trust record that is not here and may name it: `farkeep sync` brings that from \
                                    another copy, the next push from the machine that has seen it";
            } else {
                finding.kind = FindingKind::Stranger;
                finding.message +=
                    "; the root knows no such writer, and it stops nothing: who administers the store can remove it";
            }
        }
    }

    /// One notice for each writer that nobody enrolled and that says only what it did, however much it did.
    fn tell_of_strangers(&mut self) {
        let mut strangers: BTreeMap<WriterId, (String, BTreeSet<u64>, BTreeSet<String>)> = BTreeMap::new();
        for record in self.checked.iter().filter(|record| is_harmless_stranger(record)) {
            let slot = strangers.entry(record.statement.writer).or_default();
            slot.0.clone_from(&record.writer_name);
            slot.1.insert(record.head.seq);
            slot.2.insert(record.statement.kind.to_string());
        }
        let notices = strangers.into_iter().map(|(writer, (name, heads, kinds))| {
            let (count, kinds) = (heads.len(), Vec::from_iter(kinds).join(", "));
            let records = if count == 1 { "record".to_owned() } else { format!("records ({count})") };
            let message = format!(
                "{kinds} {records} by a writer that is not enrolled ({name}); if it is a machine of yours: `farkeep keys enrol \
                 station {name} --root FILE`"
            );
            Finding::new(FindingKind::Notice, format!("ledger/{writer}-*.rec"), message)
        });
        self.findings.extend(notices);
    }

    /// The newest trusted record of each writer: what the next record says that it has seen. What a station signs that
    /// nobody enrolled stays out, for anybody could make any number of those.
    #[must_use]
    pub fn heads(&self) -> BTreeMap<WriterId, Head> {
        self.newest(|record| record.standing == Standing::Trusted)
    }

    /// What this machine remembers to have seen: those, and the records of some stations that nobody enrolled, so that the
    /// trace of a restore is missed when it is taken away.
    #[must_use]
    pub fn seen(&self) -> BTreeMap<WriterId, Head> {
        let strangers = self.newest(|record| record.standing != Standing::Trusted);
        let mut seen = self.heads();
        for (writer, head) in strangers.into_iter().take(HEADS_MAX) {
            seen.entry(writer).or_insert(head);
        }
        seen
    }

    fn newest(&self, counts: impl Fn(&Checked) -> bool) -> BTreeMap<WriterId, Head> {
        let mut heads = BTreeMap::new();
        for record in self.checked.iter().filter(|record| counts(record)) {
            let slot = heads.entry(record.statement.writer).or_insert(record.head);
            if slot.seq < record.head.seq {
                *slot = record.head;
            }
        }
        heads
    }
}

/// Sorts snapshots, oldest first.
pub fn sort_oldest_first(snapshots: &mut [Snapshot]) {
    snapshots.sort_by_key(|snapshot| (snapshot.place(), snapshot.id));
}

/// Reads records from a copy, from a local folder where it can: they never change.
#[derive(Debug)]
pub struct RecordReader {
    cache: Option<PathBuf>,
    /// Whether what lies there is read in place of what the copy holds.
    believes: bool,
}

impl RecordReader {
    /// Records that were read before lie in `cache`.
    #[must_use]
    pub fn new(cache: Option<&Path>) -> Self {
        let cache = cache.map(|dir| dir.join("records")).filter(|dir| make_private_dir(dir).is_ok());
        Self { cache, believes: true }
    }

    /// Every byte is read from the copy; what is right is kept in `cache`, so that it can be carried to other copies.
    #[must_use]
    pub fn afresh(cache: &Path) -> Self {
        Self { believes: false, ..Self::new(Some(cache)) }
    }

    /// Reads and checks every record of the copy.
    ///
    /// # Errors
    /// When the store is out of reach.
    pub fn read_all(&self, copy: &Copy) -> Result<Records, VaultError> {
        let names: Vec<String> = copy.book.names().map(str::to_owned).collect();
        let writers = copy.trust.body().writers.iter();
        let retired = writers.filter_map(|(id, writer)| Some((*id, writer.until?))).collect();
        let mut records = Records { since: copy.trust.since().clone(), retired, ..Records::default() };
        for batch in names.chunks(BATCH) {
            for (name, result) in batch.iter().zip(self.fetch(copy, batch)?) {
                let checked = match result {
                    Ok(bytes) => check(&copy.trust, name, &bytes).map(|checked| (checked, bytes)),
                    Err(error) => {
                        if let (Ok((name, _)), false) =
                            (ObjectName::parse_stored(name), matches!(error, StoreError::NotFound(_)))
                        {
                            records.unread.insert(name);
                        }
                        records.findings.push(Finding::new(FindingKind::Damage, name, error));
                        continue;
                    }
                };
                match checked {
                    Ok((checked, bytes)) => {
                        self.keep(name, &bytes);
                        records.findings.extend(standing_finding(&checked));
                        if let Some(received) = copy.book.received(name) {
                            let slot = records.received.entry(checked.name.clone()).or_insert(received);
                            *slot = (*slot).min(received);
                        }
                        records.checked.push(checked);
                    }
                    Err(error) => {
                        let text = error.to_string();
                        let message = text.strip_prefix(&format!("{name}: ")).unwrap_or(&text).to_owned();
                        records.findings.push(Finding::new(FindingKind::Trust, name, message));
                        records.unfit.push(name.clone());
                    }
                }
            }
        }
        records.void_beside_retired(&copy.trust);
        records.pardon_debris();
        records.disown_strangers(&copy.trust);
        records.tell_of_strangers();
        Ok(records)
    }

    fn fetch(&self, copy: &Copy, names: &[String]) -> Result<Vec<Result<Vec<u8>, StoreError>>, VaultError> {
        let mut results: Vec<Option<Result<Vec<u8>, StoreError>>> = Vec::with_capacity(names.len());
        let mut wanted = Vec::new();
        for name in names {
            let cached = self
                .path(name)
                .filter(|_| self.believes)
                .and_then(|path| read_if_there(&path, RECORD_MAX_BYTES).ok().flatten());
            // What the folder holds counts only when it is the record that its name promises, and when this copy holds as
            // many bytes: of two copies one can hold the record and the other what an upload left of it.
            let cached = cached.filter(|bytes| {
                copy.book.listed_bytes(name).is_none_or(|listed| listed == bytes.len() as u64)
                    && check(&copy.trust, name, bytes).is_ok()
            });
            if cached.is_none() {
                wanted.push((name.clone(), RECORD_MAX_BYTES));
            }
            results.push(cached.map(Ok));
        }
        let mut fetched = copy.store.get_many(&wanted).into_iter();
        let mut all = Vec::with_capacity(results.len());
        for result in results {
            let result = match result.or_else(|| fetched.next()) {
                Some(result) => result,
                None => return Err(VaultError::internal("a store answered fewer objects than it was asked for")),
            };
            match result {
                Err(error) if error.is_store_wide() => return Err(error.into()),
                other => all.push(other),
            }
        }
        Ok(all)
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        Some(self.cache.as_ref()?.join(name.strip_prefix("ledger/")?))
    }

    /// A record that was read before, from whatever copy: whole and truly signed.
    #[must_use]
    pub fn remembered(&self, name: &ObjectName, trust: &Trust) -> Option<(Checked, Vec<u8>)> {
        (0..=SUFFIX_MAX).find_map(|suffix| {
            let stored = name.with_suffix(suffix);
            let bytes = read_if_there(&self.path(&stored)?, RECORD_MAX_BYTES).ok().flatten()?;
            Some((check(trust, &stored, &bytes).ok()?, bytes))
        })
    }

    /// Keeps a record that need not be read again.
    pub fn keep(&self, name: &str, bytes: &[u8]) {
        if let Some(path) = self.path(name)
            && !path.exists()
        {
            write_cached(&path, bytes);
        }
    }
}

/// A station that nobody enrolled may say what it did; it may not make or unmake anything.
fn is_harmless_stranger(checked: &Checked) -> bool {
    checked.standing == Standing::NotEnrolled
        && matches!(
            checked.statement.kind,
            RecordKind::RestoreIntent
                | RecordKind::RestoreOutcome
                | RecordKind::Verify
                | RecordKind::Drill
                | RecordKind::Drive
                | RecordKind::Export
        )
}

/// A record that does not count is an alarm, unless it only says what somebody did.
fn standing_finding(checked: &Checked) -> Option<Finding> {
    match &checked.standing {
        Standing::Trusted => None,
        Standing::Refused(why) => Some(Finding::new(FindingKind::Trust, &checked.name, why)),
        Standing::Void(why) => Some(Finding::new(FindingKind::Notice, &checked.name, why)),
        Standing::NotEnrolled if is_harmless_stranger(checked) => None,
        Standing::NotEnrolled => {
            let (kind, writer) = (&checked.statement.kind, &checked.writer_name);
            let message = format!("{kind} record by a writer that is not enrolled ({writer})");
            Some(Finding::new(FindingKind::Trust, &checked.name, message))
        }
    }
}
