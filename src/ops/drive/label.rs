//! A drive's label: the record that enrolled it, in a file of its own in the root of the drive.

use std::path::Path;

use super::Slot;
use crate::crypto::hash::hash;
use crate::format::drive::DriveBody;
use crate::format::record::{Head, Statement, split};
use crate::ledger::{Trust, check};
use crate::model::limits::{RECORD_MAX_BYTES, SUFFIX_MAX};
use crate::model::name::ObjectName;
use crate::ops::OpError;
use crate::store::drive::labels::{self, file};
use crate::store::drive::{LABEL_FILE, System, mounts};
use crate::store::{Store, StoreError, WriteOnceStore};
use crate::vault::VaultError;

/// A label that is truly signed, for this vault.
pub struct Label {
    /// The record that it is.
    pub head: Head,
    /// What it says.
    pub body: DriveBody,
    /// Who signed it, as it is shown: by name, or by fingerprint where nobody enrolled the key.
    pub by: String,
    /// As it lies there.
    pub bytes: Vec<u8>,
}

/// Every label file, torn ones too.
fn read_all(root: &dyn Store) -> Result<Vec<Vec<u8>>, OpError> {
    let mut found = Vec::new();
    for suffix in 0..=SUFFIX_MAX {
        match root.get(&file(suffix), 0, RECORD_MAX_BYTES) {
            Ok(bytes) => found.push(bytes),
            Err(StoreError::NotFound(_)) => break,
            Err(error) => return Err(VaultError::from(error).into()),
        }
    }
    Ok(found)
}

/// The label of the drive whose root is `root`; none when there is none, or only what a pulled plug left of one.
///
/// # Errors
/// When a whole label is there and is not one of this vault, or its signature is not true.
pub fn find(root: &dyn Store, trust: &Trust, shown: &Path) -> Result<Option<Label>, OpError> {
    for bytes in read_all(root)? {
        let Ok((line, armor)) = split(&bytes) else { continue };
        let Ok(statement) = Statement::from_line(line) else { continue };
        if armor.is_empty() {
            continue;
        }
        let head = Head { seq: statement.seq, hash: hash(line.as_bytes()) };
        let name = ObjectName::Record { writer: statement.writer, seq: head.seq, statement: head.hash };
        let why = match check(trust, &name.to_string(), &bytes) {
            Ok(checked) => match checked.statement.body_as::<DriveBody>() {
                Ok(body) => return Ok(Some(Label { head, body, by: checked.writer_name, bytes })),
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        let label = shown.join(LABEL_FILE);
        return Err(OpError::Mismatch(format!(
            "{}: is not a label of this vault: {why}; nothing was written",
            label.display()
        )));
    }
    Ok(None)
}

/// Writes a label beside what a pulled plug may have left of an earlier try.
///
/// # Errors
/// When it cannot be made durable.
pub fn write(root: &dyn WriteOnceStore, bytes: &[u8]) -> Result<(), OpError> {
    for suffix in 0..=SUFFIX_MAX {
        match root.put(&file(suffix), bytes) {
            Ok(_) => return Ok(()),
            Err(StoreError::Exists(_)) => {
                if root.get(&file(suffix), 0, RECORD_MAX_BYTES).map_err(VaultError::from)? == bytes {
                    return Ok(());
                }
            }
            Err(error) => return Err(VaultError::from(error).into()),
        }
    }
    Err(OpError::NotDone(format!("{LABEL_FILE} and its suffixes are taken on this drive; remove them")))
}

/// Refuses a drive while another mounted file system carries the very same label.
///
/// # Errors
/// [`OpError::Mismatch`], naming both.
pub fn refuse_twin(slot: &Slot, label: &[u8], system: &System) -> Result<(), OpError> {
    let own = mounts::at(&mounts::read(&system.mountinfo), &slot.path);
    for (mount, labels) in labels::mounted(system) {
        // The same device may be mounted at several places.
        if own.as_ref().is_some_and(|own| own.source == mount.source && own.device == mount.device) {
            continue;
        }
        if labels.iter().any(|bytes| bytes == label) {
            return Err(OpError::Mismatch(format!(
                "{} and {} carry the same label: one is a clone of the other; nothing was written",
                slot.path.display(),
                mount.point.display()
            )));
        }
    }
    Ok(())
}
