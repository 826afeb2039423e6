//! Several threads that work through one list.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::vault::VaultError;

/// Has `one` done with each of `items`, in their order, on so many threads; until one of them fails or `cancel` is set.
///
/// # Errors
/// The first; or [`VaultError::Interrupted`].
pub fn work_through<T: Send>(
    items: Vec<T>,
    threads: usize,
    cancel: &AtomicBool,
    one: &(dyn Fn(T) -> Result<(), VaultError> + Sync),
) -> Result<(), VaultError> {
    let threads = threads.clamp(1, items.len().max(1));
    let queue = Mutex::new(VecDeque::from(items));
    let failed = Mutex::new(None::<VaultError>);
    let stop = AtomicBool::new(false);
    let work = || {
        while !stop.load(Ordering::Relaxed) && !cancel.load(Ordering::Relaxed) {
            let Some(item) = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front() else { return };
            if let Err(error) = one(item) {
                stop.store(true, Ordering::Relaxed);
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    if cancel.load(Ordering::Relaxed) {
        return Err(VaultError::Interrupted);
    }
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn all_is_done_once_and_nothing_is_begun_after_a_failure() {
        let (sum, running) = (AtomicU64::new(0), AtomicBool::new(false));
        let add = |n: u64| {
            sum.fetch_add(n, Ordering::Relaxed);
            if n == 50 { Err(VaultError::internal("fifty")) } else { Ok(()) }
        };
        assert!(work_through((51..=100).collect(), 4, &running, &add).is_ok());
        assert_eq!(sum.swap(0, Ordering::Relaxed), 3775);
        let failed = work_through((1..=100).collect(), 1, &running, &add);
        assert_eq!((failed.is_err(), sum.swap(0, Ordering::Relaxed)), (true, 1275));
        running.store(true, Ordering::Relaxed);
        let stopped = work_through((1..=100).collect(), 4, &running, &add);
        assert!(matches!(stopped, Err(VaultError::Interrupted)));
        assert_eq!(sum.into_inner(), 0);
    }
}
