//! Depth `sealed`: the BLAKE3 of every stored byte that a snapshot needs, without any key.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use super::{FINDINGS_MAX, Listed, Looked, OF_A_PLAN, Watch, damage};
use crate::crypto::hash::{StreamHasher, hash};
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::ObjectHash;
use crate::model::limits::{MIB, SUFFIX_MAX};
use crate::model::name::{Area, ObjectName, Sealed};
use crate::model::time::Timestamp;
use crate::state::{read_if_there, write_cached};
use crate::store::kept::Kept;
use crate::store::{Store, StoreError};
use crate::vault::VaultError;
use crate::vault::copy::Copy;
use crate::vault::inventory::PageCache;
use crate::vault::objects::stored_limit;
use crate::vault::parity;
use crate::vault::workers::work_through;

/// Bytes asked for at once: memory is this for each thread.
const STEP_BYTES: u64 = 4 * MIB;
/// When each object was last read: 10 million of them.
const TIMES_MAX_BYTES: u64 = 400 * MIB;

/// Which part of the objects is read; always those whose last reading is longest ago.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Share {
    /// All of them.
    All,
    /// So much of the bytes, from 0 to 1.
    Fraction(f64),
    /// So much that, run as often as until now, every object is read within so many seconds.
    Within(u64),
}

/// When each object of a store was last read and found right.
#[derive(Debug)]
pub struct ReadTimes {
    path: PathBuf,
    times: HashMap<ObjectHash, Timestamp>,
    last_run: Option<Timestamp>,
}

impl ReadTimes {
    /// Opens the times of `store` in `cache`; none are known without the file.
    #[must_use]
    pub fn open(cache: &Path, store: &str) -> Self {
        let path = cache.join(format!("read-times-{}", hash(store.as_bytes()).short()));
        let bytes = read_if_there(&path, TIMES_MAX_BYTES).ok().flatten().unwrap_or_default();
        let mut times = HashMap::new();
        let (rows, _) = bytes.as_chunks::<40>();
        for row in rows {
            let (Ok(hash), Ok(time)) = (row[..32].try_into(), row[32..].try_into()) else { continue };
            times.insert(ObjectHash(hash), Timestamp(i64::from_le_bytes(time)));
        }
        let last_run = times.values().max().copied();
        Self { path, times, last_run }
    }

    fn save(&self) {
        let bytes: Vec<u8> =
            self.times.iter().flat_map(|(hash, time)| hash.0.into_iter().chain(time.0.to_le_bytes())).collect();
        write_cached(&self.path, &bytes);
    }
}

struct Task {
    name: ObjectName,
    hash: ObjectHash,
    snapshots: Vec<usize>,
    bytes: u64,
    keep: bool,
}

/// How to read.
pub struct Reading<'a> {
    /// Which part.
    pub share: Share,
    /// The time that it counts as read at.
    pub now: Timestamp,
    /// Where to keep what is right, for whoever reads it next.
    pub kept: Option<&'a Kept>,
    /// Stops it.
    pub cancel: &'a AtomicBool,
    /// Is told how far it is.
    pub watch: &'a dyn Watch,
}

/// Reads objects and holds them against the hashes of the inventories.
///
/// # Errors
/// When the store is out of reach.
pub fn check(
    copy: &Copy,
    listed: &Listed,
    pages: &PageCache,
    times: &mut ReadTimes,
    reading: &Reading<'_>,
) -> Result<Looked, VaultError> {
    let Reading { share, now, kept, cancel, watch } = *reading;
    let mut looked = Looked::default();
    let tasks = tasks(copy, listed, pages, &mut looked.findings)?;
    let all_bytes: u64 = tasks.iter().map(|task| task.bytes).sum();
    let mut chosen = choose(tasks, share, times, now);
    mark_to_keep(&mut chosen, kept.map_or(0, Kept::room_bytes));
    watch.total(chosen.len() as u64, chosen.iter().map(|task| task.bytes).sum());
    tracing::debug!(objects = chosen.len(), of_bytes = all_bytes, "reading");
    let outcome = Mutex::new((looked, Vec::<ObjectHash>::new()));
    let store = copy.store.as_ref();
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let done = work_through(chosen, store.parallel().max(cores), cancel, &|task| {
        let found = check_one(store, &task, kept.filter(|_| task.keep));
        let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
        match found {
            Ok(Right { suffix }) => {
                outcome.1.push(task.hash);
                outcome.0.objects += 1;
                outcome.0.bytes += task.bytes;
                if suffix > 0 {
                    let message = format!("debris has its name; {} is the object", task.name.with_suffix(suffix));
                    outcome.0.findings.push(Finding::new(FindingKind::Notice, &task.name, message));
                }
            }
            Err(Wrong::Store(error)) => return Err(error.into()),
            Err(Wrong::Gone) => {}
            Err(Wrong::Damaged(mut why)) => {
                if task.snapshots.is_empty() && matches!(task.name, ObjectName::Inventory(_)) {
                    why += &format!("; {OF_A_PLAN}");
                }
                outcome.0.objects += 1;
                if outcome.0.findings.len() < FINDINGS_MAX {
                    outcome.0.findings.push(damage(task.name.to_string(), why, &listed.needs.ids(&task.snapshots)));
                }
            }
        }
        drop(outcome);
        watch.looked(1, task.bytes);
        Ok(())
    });
    if let Err(error @ VaultError::Interrupted) = done {
        return Err(error);
    }
    let (looked, right) = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    for hash in right {
        times.times.insert(hash, now);
    }
    times.last_run = Some(now);
    times.save();
    done.map(|()| looked)
}

/// Every needed object that is there, once, with the snapshots that need it; lists of prune plans and parity, which none
/// needs.
fn tasks(copy: &Copy, listed: &Listed, pages: &PageCache, findings: &mut Vec<Finding>) -> Result<Vec<Task>, VaultError> {
    let mut by_name: BTreeMap<ObjectName, Task> = BTreeMap::new();
    let sizes: BTreeMap<&ObjectName, u64> = listed.presence.others().collect();
    listed.needs.each_line(copy.store.as_ref(), pages, findings, &mut |line, places| {
        if places.is_empty() || !listed.presence.has(&line.name) {
            return;
        }
        let bytes = line.name.bytes().or_else(|| sizes.get(&line.name).copied()).unwrap_or(0);
        let task = by_name.entry(line.name.clone()).or_insert_with(|| Task {
            name: line.name.clone(),
            hash: line.hash,
            snapshots: Vec::new(),
            bytes,
            keep: false,
        });
        task.snapshots.extend(places);
    })?;
    for list in &listed.lists {
        let (name, Sealed { hash, bytes }) = (ObjectName::Inventory(*list), *list);
        let task = Task { name: name.clone(), hash, snapshots: Vec::new(), bytes, keep: false };
        by_name.entry(name).or_insert(task);
    }
    // No inventory lists parity; its name says what it should be.
    match parity::found(copy.store.as_ref()) {
        Ok(found) => by_name.extend(found.into_iter().map(|found| {
            let Sealed { hash, bytes } = found.object;
            let name = ObjectName::Parity(found.object);
            (name.clone(), Task { name, hash, snapshots: Vec::new(), bytes, keep: false })
        })),
        Err(error) if error.is_store_wide() => return Err(error.into()),
        // No snapshot needs any of it.
        Err(error) => findings.push(Finding::new(FindingKind::Notice, Area::Parity.dir(), error)),
    }
    Ok(by_name
        .into_values()
        .map(|mut task| {
            task.snapshots.sort_unstable();
            task.snapshots.dedup();
            task
        })
        .collect())
}

fn choose(mut tasks: Vec<Task>, share: Share, times: &ReadTimes, now: Timestamp) -> Vec<Task> {
    let all: u64 = tasks.iter().map(|task| task.bytes).sum();
    let last = |task: &Task| times.times.get(&task.hash).copied();
    let (fraction, due) = match share {
        Share::All => return tasks,
        Share::Fraction(fraction) => (fraction, None),
        Share::Within(secs) => {
            let secs = i64::try_from(secs).unwrap_or(i64::MAX);
            // A first run reads its part of a day; later ones the part of the time since the last.
            let since = times.last_run.map_or(86_400, |last| now.secs_since(last).max(0));
            (since as f64 / secs.max(1) as f64, Some(now.plus_secs(since - secs)))
        }
    };
    tasks.sort_by_key(|task| last(task).map_or(i64::MIN, |time| time.0));
    // However soon after the last one: a run reads something.
    let budget = ((all as f64 * fraction.clamp(0.0, 1.0)).ceil() as u64).max(1);
    let mut bytes = 0;
    tasks
        .into_iter()
        .take_while(|task| {
            let overdue = due.is_some_and(|due| last(task).is_some_and(|time| time <= due));
            let wanted = bytes < budget || overdue;
            bytes += task.bytes;
            wanted
        })
        .collect()
}

/// What most snapshots need is read most often afterwards.
fn mark_to_keep(tasks: &mut [Task], room_bytes: u64) {
    let mut order: Vec<usize> = (0..tasks.len()).filter(|at| !tasks[*at].snapshots.is_empty()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(tasks[*at].snapshots.len()));
    let mut left = room_bytes;
    for at in order {
        let fits = left.checked_sub(tasks[at].bytes);
        tasks[at].keep = fits.is_some();
        left = fits.unwrap_or(left);
    }
}

struct Right {
    suffix: u32,
}

enum Wrong {
    Damaged(String),
    /// Parity that was there when it was listed: an export takes away what it has made anew.
    Gone,
    Store(StoreError),
}

/// Reads the copies of an object until one fits.
fn check_one(store: &dyn Store, task: &Task, kept: Option<&Kept>) -> Result<Right, Wrong> {
    let is_parity = matches!(task.name, ObjectName::Parity(_));
    let limit = task.name.bytes().unwrap_or(stored_limit(&task.name));
    let mut place = kept.and_then(|kept| Some((kept, kept.place(task.bytes)?)));
    let mut problem: Option<String> = None;
    let mut there = false;
    for suffix in 0..=SUFFIX_MAX {
        let stored = task.name.with_suffix(suffix);
        if let Some((_, place)) = &mut place {
            place.restart();
        }
        let part = &mut |bytes: &[u8]| {
            if let Some((kept, place)) = &mut place {
                kept.fill(place, bytes);
            }
        };
        match read_hash(store, &stored, limit, part) {
            Ok(found) if found == task.hash => {
                if let Some((kept, place)) = &place {
                    // Whoever reads it asks for its own name first, and would read the debris there again.
                    kept.keep(&task.name.to_string(), place);
                }
                return Ok(Right { suffix });
            }
            Ok(_) => {
                there = true;
                let promise = if is_parity { "its name says" } else { "the inventory lists" };
                problem.get_or_insert_with(|| format!("changed: its BLAKE3 is not the one that {promise}"));
            }
            // Those of parity are taken away one by one.
            Err(StoreError::NotFound(_)) if is_parity => {}
            Err(StoreError::NotFound(_)) if suffix == 0 => {
                problem.get_or_insert_with(|| "missing".into());
            }
            Err(StoreError::NotFound(_)) => break,
            Err(error) if error.is_store_wide() => return Err(Wrong::Store(error)),
            Err(error) => {
                there = true;
                let text = error.to_string();
                problem.get_or_insert_with(|| text.strip_prefix(&format!("{stored}: ")).unwrap_or(&text).to_owned());
            }
        }
    }
    if is_parity && !there {
        return Err(Wrong::Gone);
    }
    Err(Wrong::Damaged(problem.unwrap_or_else(|| "missing".into())))
}

fn read_hash(store: &dyn Store, stored: &str, limit: u64, each: &mut dyn FnMut(&[u8])) -> Result<ObjectHash, StoreError> {
    let mut hasher = StreamHasher::new();
    let mut offset = 0;
    loop {
        let part = store.get(stored, offset, STEP_BYTES)?;
        hasher.update(&part);
        each(&part);
        offset += part.len() as u64;
        if (part.len() as u64) < STEP_BYTES || offset > limit {
            return Ok(hasher.finish());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_most_snapshots_need_is_kept_first_and_parity_never() {
        let task = |snapshots: usize, bytes| Task {
            name: ObjectName::Header,
            hash: ObjectHash([0; 32]),
            snapshots: (0..snapshots).collect(),
            bytes,
            keep: false,
        };
        let kept = |room| {
            let mut tasks = [task(1, 50), task(3, 100), task(0, 10), task(2, 100)];
            mark_to_keep(&mut tasks, room);
            tasks.map(|task| task.keep)
        };
        assert_eq!(kept(0), [false; 4]);
        assert_eq!(kept(120), [false, true, false, false]);
        assert_eq!(kept(170), [true, true, false, false], "what does not fit makes way for what does");
        assert_eq!(kept(1000), [true, true, false, true]);
    }

    #[test]
    fn parity_that_was_taken_away_meanwhile_is_no_damage_and_what_is_left_is_read() {
        let store = crate::store::memory::MemoryStore::new();
        let sealed = Sealed { hash: hash(b"right"), bytes: 5 };
        let task = |name| Task { name, hash: sealed.hash, snapshots: vec![], bytes: 5, keep: false };
        let parity = task(ObjectName::Parity(sealed));
        let check = |task: &Task| check_one(&store, task, None).map(|right| right.suffix);
        assert!(matches!(check(&parity), Err(Wrong::Gone)));
        assert!(matches!(check(&task(ObjectName::Pack(sealed))), Err(Wrong::Damaged(why)) if why == "missing"));
        store.tamper(|objects| objects.insert(parity.name.with_suffix(2), b"wrong".to_vec()));
        assert!(matches!(check(&parity), Err(Wrong::Damaged(why)) if why.contains("its name says")));
        store.tamper(|objects| objects.insert(parity.name.with_suffix(4), b"right".to_vec()));
        assert!(matches!(check(&parity), Ok(4)));
    }

    #[test]
    fn what_was_read_longest_ago_is_read_first_and_all_within_the_time() {
        let day = 86_400_i64;
        let mut times = ReadTimes { path: PathBuf::new(), times: HashMap::new(), last_run: None };
        let task =
            |n: u8| Task { name: ObjectName::Header, hash: ObjectHash([n; 32]), snapshots: vec![], bytes: 100, keep: false };
        let mut last_seen = [0_i64; 60];
        for today in 1..200_i64 {
            let now = Timestamp(today * day);
            let chosen = choose((0..60).map(task).collect(), Share::Within(30 * 86_400), &times, now);
            assert!(chosen.len() <= 6, "{} objects on day {today}", chosen.len());
            for task in &chosen {
                last_seen[usize::from(task.hash.0[0])] = today;
                times.times.insert(task.hash, now);
            }
            times.last_run = Some(now);
            if today >= 31 {
                let oldest = last_seen.iter().min().copied().unwrap_or(0);
                assert!(today - oldest <= 30, "day {today}: an object was last read on day {oldest}");
            }
        }
        assert_eq!(choose((0..60).map(task).collect(), Share::Fraction(0.05), &times, Timestamp(0)).len(), 3);
        assert_eq!(choose((0..60).map(task).collect(), Share::All, &times, Timestamp(0)).len(), 60);
    }
}
