//! Is this record what its name says, is its signature true, and does its writer count?

use crate::crypto::hash::hash;
use crate::crypto::sign::signer;
use crate::format::record::{Head, RECORD_NAMESPACE, RecordKind, Statement, split};
use crate::ledger::{LedgerError, Trust};
use crate::model::name::ObjectName;

/// Whether a truly signed record counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// The root trusts its writer for this kind and this number.
    Trusted,
    /// The root has never heard of its writer.
    NotEnrolled,
    /// The root knows the writer and does not allow this.
    Refused(String),
    /// The root has said where this writer ends, and this is not before it: as if it were not there. Whoever has the key can go on
    /// making such, so that they must not stop anything.
    Void(String),
}

/// A record whose hash, place and signature are right.
#[derive(Debug, Clone)]
pub struct Checked {
    /// Its name.
    pub name: ObjectName,
    /// Its place in its writer's chain.
    pub head: Head,
    /// What it says.
    pub statement: Statement,
    /// Whether it counts.
    pub standing: Standing,
    /// What people call its writer: the name that trust gives it, or its key's fingerprint.
    pub writer_name: String,
}

impl Checked {
    /// Whether it is as if it were not there.
    #[must_use]
    pub const fn is_void(&self) -> bool {
        matches!(self.standing, Standing::Void(_))
    }

    /// Whether this was signed by somebody who had seen `earlier`. Clocks are not asked.
    #[must_use]
    pub fn knew(&self, earlier: &Self) -> bool {
        let (writer, seq) = (earlier.statement.writer, earlier.head.seq);
        if self.statement.writer == writer {
            return self.head.seq > seq;
        }
        self.statement.heads.get(&writer).is_some_and(|head| head.seq >= seq)
    }
}

/// Checks a record that was stored as `stored_name`.
///
/// # Errors
/// When the bytes are not the record that the name promises, or the signature is not true.
pub fn check(trust: &Trust, stored_name: &str, bytes: &[u8]) -> Result<Checked, LedgerError> {
    let name = || stored_name.to_owned();
    let misplaced = |why: &str| LedgerError::Misplaced { name: name(), why: why.to_owned() };
    let format = |source| LedgerError::Format { name: name(), source };
    let crypto = |source| LedgerError::Crypto { name: name(), source };
    let (object, _) = ObjectName::parse_stored(stored_name).map_err(|e| misplaced(&e.to_string()))?;
    let ObjectName::Record { writer, seq, statement: promised } = object else {
        return Err(misplaced("not a record's name"));
    };
    let (line, armor) = split(bytes).map_err(format)?;
    if hash(line.as_bytes()) != promised {
        return Err(misplaced("the statement line was changed: its hash is not the one in the name"));
    }
    let statement = Statement::from_line(line).map_err(format)?;
    if (statement.writer, statement.seq) != (writer, seq) {
        return Err(misplaced("speaks of another writer or number than its name"));
    }
    if statement.vault != trust.vault() {
        return Err(misplaced("belongs to another vault"));
    }
    let key = signer(armor).map_err(crypto)?;
    if key.writer() != writer {
        return Err(misplaced("signed by another key than its writer's"));
    }
    key.verify(RECORD_NAMESPACE, line, armor).map_err(crypto)?;
    let head = Head { seq, hash: promised };
    let (standing, writer_name) = standing(trust, &statement, head, &key.fingerprint());
    Ok(Checked { name: object, head, statement, standing, writer_name })
}

fn standing(trust: &Trust, statement: &Statement, head: Head, fingerprint: &str) -> (Standing, String) {
    let Some((writer, _)) = trust.writer(&statement.writer) else {
        return (Standing::NotEnrolled, fingerprint.to_owned());
    };
    let refused = |why: String| Standing::Refused(why);
    let is_beyond = |until: Head| head.seq > until.seq || (head.seq == until.seq && head.hash != until.hash);
    // Before all else: whatever it says, it is as if it were not there.
    let standing = if writer.until.is_some_and(is_beyond) {
        Standing::Void(format!("does not count: {} was retired before it", writer.name))
    } else if statement.kind == RecordKind::Trust || !writer.kinds.contains(&statement.kind) {
        refused(format!("{} may not sign {} records", writer.name, statement.kind))
    } else if statement.seq < writer.from {
        refused(format!("{} counts from number {}", writer.name, writer.from))
    } else {
        Standing::Trusted
    };
    (standing, writer.name.clone())
}
