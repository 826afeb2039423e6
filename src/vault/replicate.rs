//! Copying objects from copy to copy without opening them: each is read, held against its name, and delivered.

use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use crate::crypto::hash::hash;
use crate::format::inventory::Line;
use crate::format::record::split;
use crate::model::finding::{Finding, FindingKind};
use crate::model::name::ObjectName;
use crate::store::deliver::{RetryPolicy, deliver};
use crate::store::{Store, WriteOnceStore};
use crate::vault::VaultError;
use crate::vault::destination::Destination;
use crate::vault::objects::{read_fitting, read_hashed};
use crate::vault::workers::work_through;

/// Objects under way at once: each holds a pack in memory.
const PARALLEL_MAX: usize = 4;

/// What was copied.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Replicated {
    /// Objects that were sent.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that lie under a suffix, because something else has their name.
    pub suffixed: Vec<String>,
}

/// Copies the objects of `lines` from one store to another, several at once. An object that the source does not have whole
/// is a finding; the rest goes on.
///
/// # Errors
/// When either store is out of reach, or the target takes no more.
pub fn copy_objects(
    from: &dyn Store,
    to: &Destination,
    lines: Vec<Line>,
    cancel: &AtomicBool,
    told: &(dyn Fn(u64) + Sync),
) -> Result<(Replicated, Vec<Finding>), VaultError> {
    let copied = Mutex::new((Replicated::default(), Vec::new()));
    // A drive is waited for at each fsync: others are read, hashed and written meanwhile.
    let threads =
        if to.store.location().directory().is_some() { PARALLEL_MAX } else { from.parallel().max(to.store.parallel()) };
    work_through(lines, threads.min(PARALLEL_MAX), cancel, &|line| {
        let outcome = copy_one(from, to, &line);
        let mut copied = copied.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok((bytes, suffix)) => {
                copied.0.objects += 1;
                copied.0.bytes += bytes;
                if suffix > 0 {
                    copied.0.suffixed.push(line.name.with_suffix(suffix));
                }
                drop(copied);
                told(bytes);
            }
            Err(VaultError::Damaged { object, why }) => {
                copied.1.push(Finding::new(FindingKind::Damage, object, format!("not copied: {why}")));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    })?;
    Ok(copied.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn copy_one(from: &dyn Store, to: &Destination, line: &Line) -> Result<(u64, u32), VaultError> {
    let bytes = read_hashed(from, &line.name, line.hash)?;
    let delivered = to.deliver(&line.name, &bytes, RetryPolicy::DEFAULT)?;
    Ok((bytes.len() as u64, delivered.suffix))
}

/// The stored bytes of a record whose statement is the one that its name promises; whether it is trusted is not asked.
///
/// # Errors
/// When no copy of it fits, or the store fails.
pub fn read_record(from: &dyn Store, name: &ObjectName) -> Result<Vec<u8>, VaultError> {
    let (ObjectName::Record { statement, .. } | ObjectName::Trust { statement, .. }) = name else {
        return Err(VaultError::internal(format!("{name} is no record")));
    };
    read_fitting(from, name, |bytes| match split(bytes) {
        Ok((line, armor)) if hash(line.as_bytes()) == *statement && !armor.is_empty() => Ok(()),
        Ok(_) => Err("its statement is not the one in its name".into()),
        Err(error) => Err(error.to_string()),
    })
}

/// Copies records, one after another in the order given: a chain arrives from its beginning.
///
/// # Errors
/// When a record cannot be had or delivered.
pub fn copy_records(from: &dyn Store, to: &dyn WriteOnceStore, names: &[ObjectName]) -> Result<u64, VaultError> {
    for name in names {
        let bytes = read_record(from, name)?;
        deliver(to, name, &bytes, RetryPolicy::DEFAULT)?;
    }
    Ok(names.len() as u64)
}
