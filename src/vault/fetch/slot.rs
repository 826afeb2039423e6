//! A place for one decoded block: somebody fills it once, others wait for it.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::pack::DecodeJob;
use crate::state::StateError;
use crate::vault::VaultError;

/// Nobody wants the block for its chunks yet.
const OPEN: u8 = 0;
/// Its chunks are checked.
const CHECKED: u8 = 1;
/// It was decoded without a look at its chunks.
const UNCHECKED: u8 = 2;

/// Slots are numbered as they are ordered.
static NEXT: AtomicU64 = AtomicU64::new(0);

enum State {
    /// Not there yet; these jobs need it as a base.
    Waiting(Vec<DecodeJob>),
    Ready(Arc<Vec<u8>>),
    /// Why it cannot be had: object and reason, or a store that is out of reach.
    Failed(Failure),
}

#[derive(Clone)]
enum Failure {
    Damaged(String, String),
    Store(crate::store::StoreError),
    Rotten(std::path::PathBuf, String),
    Other(String),
}

impl Failure {
    fn of(error: VaultError) -> Self {
        match error {
            VaultError::Damaged { object, why } => Self::Damaged(object, why),
            VaultError::Store(error) => Self::Store(error),
            VaultError::State(StateError::Rotten { path, why }) => Self::Rotten(path, why),
            other => Self::Other(other.to_string()),
        }
    }

    fn to_error(&self) -> VaultError {
        match self {
            Self::Damaged(object, why) => VaultError::damaged(object, why),
            Self::Store(error) => VaultError::Store(error.clone()),
            Self::Rotten(path, why) => StateError::Rotten { path: path.clone(), why: why.clone() }.into(),
            Self::Other(text) => VaultError::damaged("a block", text),
        }
    }
}

/// Who finds out that what was decoded is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// The stream: no chunk comes out whose id was not checked, and one that is wrong is looked for elsewhere.
    Chunks,
    /// Whoever takes it: a block that is built on it has chunks that are checked, or the file has a hash. What was damaged or
    /// put in by somebody without the key does not come out even so: stored bytes are authenticated as they are decrypted.
    Whole,
}

/// One block, wanted or there.
pub struct Slot {
    number: u64,
    raw_bytes: u64,
    checking: AtomicU8,
    /// Wanted until the slot is settled; then they may go.
    bases: Mutex<Vec<Arc<Slot>>>,
    state: Mutex<State>,
    filled: Condvar,
}

impl Slot {
    pub fn new(raw_bytes: u64, bases: Vec<Arc<Self>>, check: Check) -> Arc<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let checking = AtomicU8::new(match check {
            Check::Whole => OPEN,
            Check::Chunks => CHECKED,
        });
        let (bases, state) = (Mutex::new(bases), Mutex::new(State::Waiting(Vec::new())));
        Arc::new(Self { number, raw_bytes, checking, bases, state, filled: Condvar::new() })
    }

    /// Whether the block will do for what it is now wanted for. One that was decoded without a look at its chunks, as a base,
    /// will not do for these.
    pub fn want(&self, check: Check) -> bool {
        check == Check::Whole || self.settle_checking(CHECKED) == CHECKED
    }

    /// Whether the chunks of the block must be checked. Once it was said that they need not, nobody can want them any more.
    pub fn is_to_be_checked(&self) -> bool {
        self.settle_checking(UNCHECKED) == CHECKED
    }

    fn settle_checking(&self, wish: u8) -> u8 {
        match self.checking.compare_exchange(OPEN, wish, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => wish,
            Err(settled) => settled,
        }
    }

    pub const fn number(&self) -> u64 {
        self.number
    }

    pub const fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    pub fn bases(&self) -> Vec<Arc<Self>> {
        self.bases.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the block.
    pub fn wait(&self) -> Result<Arc<Vec<u8>>, VaultError> {
        let mut state = self.state();
        loop {
            match &*state {
                State::Ready(block) => return Ok(Arc::clone(block)),
                State::Failed(failure) => return Err(failure.to_error()),
                State::Waiting(_) => state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// The block, if it is there; an error if it cannot be had; else `job` is kept until it is.
    pub fn get_or_park(&self, job: DecodeJob) -> Parked {
        let mut state = self.state();
        match &mut *state {
            State::Ready(_) | State::Failed(_) => Parked::Settled(job),
            State::Waiting(jobs) => {
                jobs.push(job);
                Parked::Waiting
            }
        }
    }

    fn settle(&self, settled: State) -> Vec<DecodeJob> {
        let before = std::mem::replace(&mut *self.state(), settled);
        self.filled.notify_all();
        self.bases.lock().unwrap_or_else(PoisonError::into_inner).clear();
        match before {
            State::Waiting(jobs) => jobs,
            _ => Vec::new(),
        }
    }
}

/// What became of a job that needs a base.
pub enum Parked {
    /// The base is settled; here is the job.
    Settled(DecodeJob),
    /// The job waits with the base.
    Waiting,
}

/// The right to fill a slot. Letting it go unfilled fails the slot, so that nobody waits for ever.
pub struct SlotGuard {
    slot: Arc<Slot>,
    settled: bool,
}

impl SlotGuard {
    pub fn new(slot: &Arc<Slot>) -> Self {
        Self { slot: Arc::clone(slot), settled: false }
    }

    pub fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    /// Fills the slot; gives the jobs that waited for it.
    pub fn fill(mut self, outcome: Result<Vec<u8>, VaultError>) -> Vec<DecodeJob> {
        self.settled = true;
        self.slot.settle(match outcome {
            Ok(block) => State::Ready(Arc::new(block)),
            Err(error) => State::Failed(Failure::of(error)),
        })
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        if !self.settled {
            // Jobs that wait for this base fail in turn as they are dropped.
            drop(self.slot.settle(State::Failed(Failure::Other("reading was stopped".into()))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_a_base_are_checked_when_they_are_wanted_in_time() {
        let base = Slot::new(1, Vec::new(), Check::Whole);
        assert!(base.want(Check::Whole) && base.want(Check::Chunks), "not decoded yet");
        assert!(base.is_to_be_checked());

        let base = Slot::new(1, Vec::new(), Check::Whole);
        assert!(!base.is_to_be_checked());
        assert!(!base.want(Check::Chunks), "nobody looked at its chunks");
        assert!(base.want(Check::Whole));

        let content = Slot::new(1, Vec::new(), Check::Chunks);
        assert!(content.is_to_be_checked() && content.want(Check::Chunks) && content.want(Check::Whole));
    }
}
