//! Sends sealed objects to every store of a push at once, within one bound of memory.
//!
//! Each store has a lane with its own queue and its own transfers. A lane that fails for good takes no more, the others go
//! on. When a slow store holds all the room while another waits for work, what queues for the slow one goes to disk.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::model::limits::PACK_BUFFERS_MAX_BYTES;
use crate::model::name::ObjectName;
use crate::state::{StateError, write_durably};
use crate::store::deliver::{Delivered, RetryPolicy};
use crate::store::{Durability, StoreError};
use crate::vault::destination::Destination;

/// Room for sealed bytes, shared by all that hold some.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    used: Mutex<u64>,
    changed: Condvar,
}

/// Some bytes of a budget; they are given back when it goes.
#[derive(Debug)]
pub struct Hold {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    /// A budget of `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, used: Mutex::new(0), changed: Condvar::new() })
    }

    /// Waits until `bytes` fit. A single taker may pass the limit when nobody else holds any: it must get through.
    pub fn take(self: &Arc<Self>, bytes: u64) -> Hold {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        while *used > 0 && *used + bytes > self.limit {
            used = self.changed.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        *used += bytes;
        Hold { budget: Arc::clone(self), bytes }
    }

    /// As [`take`](Self::take), without waiting.
    pub fn try_take(self: &Arc<Self>, bytes: u64) -> Option<Hold> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if *used > 0 && *used + bytes > self.limit {
            return None;
        }
        *used += bytes;
        Some(Hold { budget: Arc::clone(self), bytes })
    }

    fn is_short(&self) -> bool {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) > self.limit / 2
    }

    fn give_back(&self, bytes: u64) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) -= bytes;
        self.changed.notify_all();
    }
}

impl Hold {
    /// Gives back all but `bytes`.
    #[must_use]
    pub fn shrink_to(mut self, bytes: u64) -> Self {
        let kept = bytes.min(self.bytes);
        self.budget.give_back(self.bytes - kept);
        self.bytes = kept;
        self
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

/// An object on its way to one store.
#[derive(Clone)]
struct Parcel {
    name: ObjectName,
    load: Load,
}

#[derive(Clone)]
enum Load {
    Memory(Arc<Vec<u8>>, Option<Arc<Hold>>),
    Disk(Arc<Spilled>),
}

/// A file of the outbox; it goes, and its room is free again, when nobody wants it any more.
struct Spilled {
    path: PathBuf,
    bytes: u64,
    used: Arc<AtomicU64>,
}

impl Drop for Spilled {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "not removed");
        }
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Where what does not fit into memory goes, and how much of it.
#[derive(Debug, Clone)]
pub struct Outbox {
    /// The directory: nobody else's, and what an earlier push has left in it goes.
    pub dir: PathBuf,
    /// Bytes that may lie in it; 0 keeps it empty.
    pub max_bytes: u64,
}

#[derive(Default)]
struct LaneState {
    queue: VecDeque<Parcel>,
    /// Parcels in the hands of a transfer.
    moving: usize,
    closed: bool,
    error: Option<StoreError>,
    not_confirmed: u64,
    suffixed: Vec<String>,
    sent_objects: u64,
}

struct Lane {
    to: Destination,
    state: Mutex<LaneState>,
    changed: Condvar,
    sent_bytes: AtomicU64,
    policy: RetryPolicy,
}

impl Lane {
    fn state(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.state();
        loop {
            if let Some(parcel) = state.queue.pop_front() {
                state.moving += 1;
                drop(state);
                let outcome = self.send(&parcel);
                drop(parcel);
                state = self.state();
                state.moving -= 1;
                match outcome {
                    Ok((name, delivered)) => {
                        state.sent_objects += u64::from(delivered.sent);
                        state.not_confirmed += u64::from(delivered.durability == Durability::NotConfirmed);
                        if delivered.suffix > 0 {
                            state.suffixed.push(name.with_suffix(delivered.suffix));
                        }
                    }
                    Err(error) => {
                        tracing::warn!(store = %self.to.store.location(), %error, "this store is given up for this push");
                        state.error.get_or_insert(error);
                        state.queue.clear();
                    }
                }
                self.changed.notify_all();
            } else if state.closed {
                return;
            } else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn send(&self, parcel: &Parcel) -> Result<(ObjectName, Delivered), StoreError> {
        let spilled;
        let bytes: &[u8] = match &parcel.load {
            Load::Memory(bytes, _) => bytes,
            Load::Disk(file) => {
                let io = |e: std::io::Error| StoreError::Io { name: file.path.display().to_string(), why: e.to_string() };
                spilled = std::fs::read(&file.path).map_err(io)?;
                &spilled
            }
        };
        let delivered = self.to.deliver(&parcel.name, bytes, self.policy)?;
        if delivered.sent {
            self.sent_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        Ok((parcel.name.clone(), delivered))
    }
}

/// What a lane has done.
#[derive(Debug, Clone)]
pub struct LaneReport {
    /// The store.
    pub store: String,
    /// Why it was given up, if it was.
    pub error: Option<StoreError>,
    /// Bytes that were sent.
    pub sent_bytes: u64,
    /// Objects that were sent.
    pub sent_objects: u64,
    /// Objects of which the store could not say that they are durable.
    pub not_confirmed: u64,
    /// Objects that lie under a suffix because debris has their name.
    pub suffixed: Vec<String>,
}

/// Sends objects to several stores.
pub struct Courier {
    lanes: Vec<Arc<Lane>>,
    threads: Vec<JoinHandle<()>>,
    budget: Arc<Budget>,
    outbox: Outbox,
    spilled_bytes: Arc<AtomicU64>,
}

impl Courier {
    /// Starts the transfers of each store; `outbox` takes what does not fit into memory.
    #[must_use]
    pub fn start(stores: &[Destination], outbox: Outbox, policy: RetryPolicy) -> Self {
        empty(&outbox.dir);
        let mut threads = Vec::new();
        let mut lanes = Vec::new();
        for to in stores {
            let lane = Arc::new(Lane {
                to: to.clone(),
                state: Mutex::default(),
                changed: Condvar::new(),
                sent_bytes: AtomicU64::new(0),
                policy,
            });
            for _ in 0..to.store.parallel().max(1) {
                let lane = Arc::clone(&lane);
                threads.push(std::thread::spawn(move || lane.work()));
            }
            lanes.push(lane);
        }
        Self { lanes, threads, budget: Budget::new(PACK_BUFFERS_MAX_BYTES), outbox, spilled_bytes: Arc::default() }
    }

    /// The room that sealed packs share.
    #[must_use]
    pub fn budget(&self) -> Arc<Budget> {
        Arc::clone(&self.budget)
    }

    /// Hands an object to every store that has not failed.
    ///
    /// # Errors
    /// When no store is left: the gravest of their errors.
    pub fn send(&self, name: &ObjectName, bytes: &Arc<Vec<u8>>, hold: Option<&Arc<Hold>>) -> Result<(), StoreError> {
        let mut alive = false;
        for lane in &self.lanes {
            let mut state = lane.state();
            if state.error.is_none() {
                alive = true;
                let load = Load::Memory(Arc::clone(bytes), hold.map(Arc::clone));
                state.queue.push_back(Parcel { name: name.clone(), load });
                drop(state);
                lane.changed.notify_all();
            }
        }
        if !alive {
            return Err(self.failure());
        }
        self.spill_slow();
        Ok(())
    }

    /// The error of a push that has lost every store.
    fn failure(&self) -> StoreError {
        let first = self.lanes.iter().find_map(|lane| lane.state().error.clone());
        first.unwrap_or_else(|| StoreError::Unreachable("no store".into()))
    }

    /// When memory is short while one store has nothing to do, moves what queues for the others to disk.
    fn spill_slow(&self) {
        if self.lanes.len() < 2 || !self.budget.is_short() {
            return;
        }
        let idle = self.lanes.iter().any(|lane| {
            let state = lane.state();
            state.error.is_none() && state.queue.is_empty()
        });
        if !idle {
            return;
        }
        for (number, lane) in self.lanes.iter().enumerate() {
            let mut state = lane.state();
            for parcel in &mut state.queue {
                if let Load::Memory(bytes, Some(_)) = &parcel.load {
                    match self.spill(number, &parcel.name, bytes) {
                        Ok(Some(file)) => parcel.load = Load::Disk(Arc::new(file)),
                        Ok(None) => return,
                        Err(error) => {
                            tracing::warn!(%error, "the outbox takes no more; the slow store sets the pace");
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Writes what queues for a slow store to disk; none when the outbox is full: then that store sets the pace.
    fn spill(&self, lane: usize, name: &ObjectName, bytes: &[u8]) -> Result<Option<Spilled>, StateError> {
        let length = bytes.len() as u64;
        if self.spilled_bytes.load(Ordering::Relaxed) + length > self.outbox.max_bytes {
            return Ok(None);
        }
        let path = self.outbox.dir.join(format!("{lane}-{}", name.to_string().replace('/', "-")));
        write_durably(&path, bytes)?;
        let used = Arc::clone(&self.spilled_bytes);
        used.fetch_add(length, Ordering::Relaxed);
        Ok(Some(Spilled { path, bytes: length, used }))
    }

    /// Bytes sent so far to each store.
    #[must_use]
    pub fn sent_bytes(&self) -> Vec<u64> {
        self.lanes.iter().map(|lane| lane.sent_bytes.load(Ordering::Relaxed)).collect()
    }

    /// Waits until every queue is empty.
    ///
    /// # Errors
    /// When no store is left.
    pub fn flush(&self) -> Result<(), StoreError> {
        let mut alive = false;
        for lane in &self.lanes {
            let mut state = lane.state();
            while state.moving > 0 || !state.queue.is_empty() {
                state = lane.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            alive |= state.error.is_none();
        }
        if alive { Ok(()) } else { Err(self.failure()) }
    }

    /// What each lane has done so far, in the order of the stores.
    #[must_use]
    pub fn reports(&self) -> Vec<LaneReport> {
        let report = |lane: &Arc<Lane>| {
            let state = lane.state();
            LaneReport {
                store: lane.to.store.location().to_string(),
                error: state.error.clone(),
                sent_bytes: lane.sent_bytes.load(Ordering::Relaxed),
                sent_objects: state.sent_objects,
                not_confirmed: state.not_confirmed,
                suffixed: state.suffixed.clone(),
            }
        };
        self.lanes.iter().map(report).collect()
    }

    /// Gives a store up: something about it was found out elsewhere.
    pub fn give_up(&self, number: usize, error: StoreError) {
        let mut state = self.lanes[number].state();
        state.error.get_or_insert(error);
        state.queue.clear();
    }
}

/// Removes what a push that died has left: its packs are sent from their sources again, or have arrived.
fn empty(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if let Err(error) = std::fs::remove_file(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "not removed");
        }
    }
}

impl Drop for Courier {
    fn drop(&mut self) {
        for lane in &self.lanes {
            let mut state = lane.state();
            state.closed = true;
            state.queue.clear();
            drop(state);
            lane.changed.notify_all();
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{ObjectHash, VaultId};
    use crate::model::name::Sealed;
    use crate::state::StateDir;
    use crate::state::unconfirmed::{Left, Unconfirmed};
    use crate::store::Store;
    use crate::store::memory::MemoryStore;

    #[test]
    fn every_store_gets_every_object_and_memory_is_given_back() {
        let stores: Vec<Arc<MemoryStore>> = (0..3).map(|_| Arc::new(MemoryStore::new())).collect();
        let state = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let state = StateDir::open(state.path(), VaultId([1; 16])).unwrap_or_else(|e| panic!("{e}"));
        let notes: Vec<Arc<Unconfirmed>> = (0..3).map(|n| Arc::new(Unconfirmed::of(&state, &n.to_string()))).collect();
        let with_notes = stores.iter().zip(&notes);
        let destinations: Vec<Destination> =
            with_notes.map(|(s, n)| Destination { store: Arc::clone(s) as _, notes: Arc::clone(n) }).collect();
        let outbox = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let place = Outbox { dir: outbox.path().to_owned(), max_bytes: 5000 };
        std::fs::write(outbox.path().join("0-left-by-a-push-that-died"), b"x").unwrap_or_else(|e| panic!("{e}"));
        let courier = Courier::start(&destinations, place, RetryPolicy::ONCE);
        assert_eq!(std::fs::read_dir(outbox.path()).map(Iterator::count).ok(), Some(0));
        let name = ObjectName::Pack(Sealed { hash: ObjectHash([7; 32]), bytes: 3000 });
        let spilled = courier.spill(0, &name, &[7; 3000]).unwrap_or_else(|e| panic!("{e}"));
        assert!(spilled.is_some());
        assert!(courier.spill(1, &name, &[7; 3000]).is_ok_and(|spilled| spilled.is_none()), "the outbox is full");
        drop(spilled);
        assert!(courier.spill(1, &name, &[7; 3000]).is_ok_and(|spilled| spilled.is_some()));
        let budget = courier.budget();
        for n in 0..200_u8 {
            let bytes = Arc::new(vec![n; 1000]);
            let hold = Arc::new(budget.take(1_000_000));
            let name = ObjectName::Pack(Sealed { hash: ObjectHash([n; 32]), bytes: 1000 });
            courier.send(&name, &bytes, Some(&hold)).unwrap_or_else(|e| panic!("{e}"));
        }
        courier.flush().unwrap_or_else(|e| panic!("{e}"));
        for store in &stores {
            let mut count = 0;
            let dirs = crate::model::name::Area::Packs.leaf_dirs();
            store.list(&dirs, &mut |_| count += 1).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(count, 200);
        }
        assert!(courier.reports().iter().all(|r| r.error.is_none() && r.sent_bytes == 200_000));
        drop(courier);
        for notes in &notes {
            assert_eq!(notes.left().unwrap_or_else(|e| panic!("{e}")), Left::default());
        }
        assert_eq!(*budget.used.lock().unwrap_or_else(PoisonError::into_inner), 0);
        assert_eq!(std::fs::read_dir(outbox.path()).map(Iterator::count).ok(), Some(0));
    }
}
