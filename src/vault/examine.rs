//! Reading many objects back and holding each against its hash: what was just sent, what an export left that was cut off,
//! what lies in a copy that is to be healed. No key is needed.

use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use crate::format::inventory::Line;
use crate::store::Store;
use crate::vault::VaultError;
use crate::vault::objects::read_hashed_past_cache;
use crate::vault::workers::work_through;

/// Objects under way at once: each holds a pack in memory.
const PARALLEL_MAX: usize = 4;

/// What was found.
#[derive(Debug, Default)]
pub struct Examined {
    /// Objects that are right.
    pub right: u64,
    /// Objects that are not, each with why.
    pub wrong: Vec<(Line, String)>,
    /// Objects that came out of a cache of this machine, as far as anybody can tell.
    pub cached: u64,
}

/// Reads the objects of `lines`, past this machine's cache where the store can.
///
/// # Errors
/// When the store is out of reach.
pub fn examine(
    store: &dyn Store,
    lines: Vec<Line>,
    cancel: &AtomicBool,
    told: &(dyn Fn(u64) + Sync),
) -> Result<Examined, VaultError> {
    let found: Mutex<Examined> = Mutex::default();
    work_through(lines, store.parallel().min(PARALLEL_MAX), cancel, &|line| {
        let read = read_hashed_past_cache(store, &line.name, line.hash);
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok((bytes, past)) => {
                found.right += 1;
                found.cached += u64::from(!past);
                drop(found);
                told(bytes.len() as u64);
            }
            Err(VaultError::Damaged { why, .. }) => found.wrong.push((line, why)),
            Err(error) => return Err(error),
        }
        Ok(())
    })?;
    let mut examined = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    examined.wrong.sort();
    Ok(examined)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::hash::hash;
    use crate::model::name::{ObjectName, Sealed};
    use crate::store::memory::MemoryStore;

    #[test]
    fn changed_cut_and_missing_objects_are_told_from_right_ones() {
        let store = MemoryStore::new();
        let line = |content: &[u8]| {
            let hash = hash(content);
            Line { hash, name: ObjectName::Pack(Sealed { hash, bytes: content.len() as u64 }) }
        };
        let lines: Vec<Line> = (0..20_u8).map(|n| line(&[n; 100])).collect();
        for (n, line) in lines.iter().enumerate().skip(1) {
            let content = match n {
                2 => vec![9; 100],
                3 => vec![3; 99],
                _ => vec![n as u8; 100],
            };
            store.tamper(|objects| objects.insert(line.name.to_string(), content));
        }
        let examined = examine(&store, lines.clone(), &AtomicBool::new(false), &|_| {});
        let examined = examined.unwrap_or_else(|e| panic!("{e}"));
        let wrong: Vec<&Line> = examined.wrong.iter().map(|(line, _)| line).collect();
        let mut expected: Vec<&Line> = lines[..1].iter().chain(&lines[2..4]).collect();
        expected.sort();
        assert_eq!((examined.right, wrong), (17, expected));
    }
}
