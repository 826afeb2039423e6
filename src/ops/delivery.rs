//! Bringing this machine's records to a copy that lacks them, and before each one those that it cites.
//!
//! A record says which others its writer had seen. Where it lies and they do not, it looks as if somebody had taken them
//! away. So the records of everybody who signs here go together, and those of other machines that they cite go along where
//! this machine has read them once: they are signed, and anybody may carry them.

use std::collections::{BTreeMap, BTreeSet};

use super::OpError;
use super::context::Context;
use crate::format::body::SnapshotBody;
use crate::format::record::{Head, RecordKind};
use crate::ledger::{Checked, Standing, Trust, check};
use crate::model::ids::WriterId;
use crate::model::name::ObjectName;
use crate::store::WriteOnceStore;
use crate::store::deliver::{RetryPolicy, deliver};
use crate::vault::VaultError;
use crate::vault::copy::Copy;
use crate::vault::snapshots::RecordReader;

/// Which records of snapshots go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Snapshots {
    /// Those whose objects lie there. What follows another one in its chain, or cites it, waits for the next push or sync,
    /// which brings the objects first.
    Whole,
    /// All: a push signs the next one, and a chain has no holes.
    All,
}

/// Where records go.
pub struct Delivery<'a> {
    /// The state of the vault here.
    pub context: &'a Context,
    /// Whom to trust.
    pub trust: &'a Trust,
    /// The copy.
    pub store: &'a dyn WriteOnceStore,
    /// How often it is tried.
    pub policy: RetryPolicy,
    /// Which records of snapshots go.
    pub snapshots: Snapshots,
}

/// What was done.
#[derive(Debug, Default)]
pub struct Delivered {
    /// What lies there now, in the order in which it was sent.
    pub sent: Vec<Checked>,
    /// What waits for a push or a sync.
    pub waiting: BTreeSet<ObjectName>,
}

/// A record that is to go.
struct Letter {
    record: Checked,
    bytes: Vec<u8>,
}

type Letters = BTreeMap<ObjectName, Letter>;

impl Delivery<'_> {
    /// Sends what the copy lacks; `held` says what lies there.
    ///
    /// # Errors
    /// The first that it refuses.
    pub fn run(&self, held: &dyn Fn(&ObjectName) -> bool) -> Result<Delivered, VaultError> {
        let letters = self.missing(held)?;
        let mut done = Delivered::default();
        for name in cited_first(&letters) {
            let letter = &letters[&name];
            let waits = needs(&letter.record).any(|needed| done.waiting.contains(&needed));
            if waits || (self.snapshots == Snapshots::Whole && self.lacks_objects(&letter.record)?) {
                done.waiting.insert(name);
                continue;
            }
            deliver(self.store, &name, &letter.bytes, self.policy)?;
            done.sent.push(letter.record.clone());
        }
        Ok(done)
    }

    /// Own records that are not there, and what they cite that is not there and is remembered here.
    fn missing(&self, held: &dyn Fn(&ObjectName) -> bool) -> Result<Letters, VaultError> {
        let mut letters = Letters::new();
        let mut open = Vec::new();
        for (record, bytes) in own_records(self.context, self.trust, held)? {
            if record.is_void() {
                tracing::warn!(record = %record.name, "stays here: its writer was retired before");
                continue;
            }
            open.extend(needs(&record));
            letters.insert(record.name.clone(), Letter { record, bytes });
        }
        let remembered = RecordReader::new(Some(&self.context.state.cache()));
        let mut looked: BTreeSet<ObjectName> = BTreeSet::new();
        while let Some(name) = open.pop() {
            if held(&name) || letters.contains_key(&name) || !looked.insert(name.clone()) {
                continue;
            }
            if let Some((record, bytes)) = remembered.remembered(&name, self.trust) {
                open.extend(needs(&record));
                letters.insert(name, Letter { record, bytes });
            }
        }
        Ok(letters)
    }

    /// Whether it is the record of a snapshot of which the inventory, which comes last, does not lie there.
    fn lacks_objects(&self, record: &Checked) -> Result<bool, VaultError> {
        if record.statement.kind != RecordKind::Snapshot {
            return Ok(false);
        }
        let Ok(body) = record.statement.body_as::<SnapshotBody>() else { return Ok(false) };
        Ok(self.store.stat(&body.inventory.to_string())?.is_none())
    }
}

/// Sends a copy what it lacks of this machine's records, `last` among them.
///
/// # Errors
/// When it refuses one, or `last` has to wait until its snapshots were brought there.
pub fn deliver_missing(context: &Context, copy: &Copy, last: &ObjectName) -> Result<(), OpError> {
    deliver_further(context, copy, last, &mut BTreeSet::new())
}

/// As [`deliver_missing`], where these records were `sent` since the copy was read; adds what is sent now.
///
/// # Errors
/// As [`deliver_missing`].
pub fn deliver_further(
    context: &Context,
    copy: &Copy,
    last: &ObjectName,
    sent: &mut BTreeSet<ObjectName>,
) -> Result<(), OpError> {
    let delivery = Delivery {
        context,
        trust: &copy.trust,
        store: copy.store.as_ref(),
        policy: RetryPolicy::ONCE,
        snapshots: Snapshots::Whole,
    };
    let done = delivery.run(&|name| sent.contains(name) || holds(copy, name))?;
    sent.extend(done.sent.into_iter().map(|record| record.name));
    if !done.waiting.contains(last) {
        return Ok(());
    }
    Err(OpError::NotDone(format!(
        "{}: lacks snapshots that earlier records of this machine speak of; the next push or `farkeep sync` brings both",
        copy.name()
    )))
}

/// Whether a record lies in a copy, by its name.
#[must_use]
pub fn holds(copy: &Copy, name: &ObjectName) -> bool {
    let ObjectName::Record { writer, seq, statement } = name else { return false };
    copy.book.has(writer, &Head { seq: *seq, hash: *statement })
}

/// The records of everybody who signs on this machine, but those that are `held` already.
///
/// # Errors
/// When the state cannot be read or holds what is no record of this vault.
pub fn own_records(
    context: &Context,
    trust: &Trust,
    held: &dyn Fn(&ObjectName) -> bool,
) -> Result<Vec<(Checked, Vec<u8>)>, VaultError> {
    let mut own = Vec::new();
    for scribe in context.scribes(trust.vault())? {
        for name in scribe.names()?.into_iter().filter(|name| !held(name)) {
            let bytes = scribe.read(&name)?;
            own.push((check(trust, &name.to_string(), &bytes)?, bytes));
        }
    }
    Ok(own)
}

/// The order in which records may arrive: each after the one before it in its chain, and after those that it cites.
#[must_use]
pub fn in_order(records: Vec<Checked>) -> Vec<Checked> {
    let mut letters: Letters =
        records.into_iter().map(|record| (record.name.clone(), Letter { record, bytes: Vec::new() })).collect();
    cited_first(&letters).iter().filter_map(|name| letters.remove(name)).map(|letter| letter.record).collect()
}

fn cited_first(letters: &Letters) -> Vec<ObjectName> {
    let (mut order, mut placed) = (Vec::new(), BTreeSet::new());
    for first in letters.keys() {
        let mut stack = vec![first.clone()];
        while let Some(name) = stack.last() {
            let is_open = |needed: &ObjectName| letters.contains_key(needed) && !placed.contains(needed);
            // Each names others by their hash, so that no two can wait for one another.
            let open: Vec<ObjectName> = needs(&letters[name].record).filter(is_open).collect();
            if open.is_empty() {
                let name = name.clone();
                stack.pop();
                if placed.insert(name.clone()) {
                    order.push(name);
                }
            } else {
                stack.extend(open);
            }
        }
    }
    order
}

/// What should lie in a copy before this record does: the one before it, and where its word counts, what it has seen.
fn needs(record: &Checked) -> impl Iterator<Item = ObjectName> + '_ {
    let statement = &record.statement;
    let before = statement.prev.zip(statement.seq.checked_sub(1)).map(|(hash, seq)| (statement.writer, Head { seq, hash }));
    let counts = record.standing == Standing::Trusted;
    let cited = statement.heads.iter().filter(move |_| counts).map(|(writer, head)| (*writer, *head));
    before.into_iter().chain(cited).map(|(writer, head)| name_of(writer, head))
}

const fn name_of(writer: WriterId, head: Head) -> ObjectName {
    ObjectName::Record { writer, seq: head.seq, statement: head.hash }
}
