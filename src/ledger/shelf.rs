//! Finding the root's chain among all that lies in `trust/`, where anybody who may add files can put any number of them.
//!
//! From the record that the pinned key signed it holds forwards by signatures and backwards by hashes; a record is read when it
//! may be the next one, and forgotten when it is not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::ops::{ControlFlow, RangeInclusive};

use crate::crypto::hash::hash;
use crate::crypto::sign::{VerifyingKey, signer};
use crate::format::body::TrustBody;
use crate::format::record::{Head, RecordKind, Statement, TRUST_NAMESPACE, split};
use crate::ledger::names::{ALL, Place, of_number, of_record, place, stored_name};
use crate::ledger::{LedgerError, RootPin, TrustNames};
use crate::model::ids::{ObjectHash, VaultId};

/// Records that are read at once: 4 MiB at most.
pub const BATCH: usize = 64;
/// Signers, or files that are no record, that an error names.
const NAMED_MAX: usize = 4;

/// One trust record, whose name and signature have proved right.
pub struct Link {
    /// As it was stored.
    pub name: String,
    /// Its number and hash.
    pub head: Head,
    /// The record before it.
    pub prev: Option<ObjectHash>,
    signer: VerifyingKey,
    /// What it says.
    pub body: TrustBody,
    /// The whole record.
    pub bytes: Vec<u8>,
}

/// Reads trust records by their stored names; those that cannot be had are left out.
pub type Read<'r, E> = &'r mut dyn FnMut(&[String]) -> Result<Vec<(String, Vec<u8>)>, E>;

/// What the root's chain is looked for in: records at hand, and others that are read when the chain may need them. No more is
/// held of those than some at a time: anybody's can be among them, and any number.
struct Shelf<'r, E> {
    vault: VaultId,
    at_hand: BTreeMap<Place, Vec<u8>>,
    elsewhere: &'r TrustNames,
    read: Read<'r, E>,
}

impl<E> Shelf<'_, E> {
    /// Shows `take` each record in this range, none for what is no trust record of the vault, until it has what it wants.
    fn each(
        &mut self,
        range: RangeInclusive<Place>,
        take: &mut dyn FnMut(&str, Option<Link>) -> ControlFlow<()>,
    ) -> Result<(), E> {
        for (place, bytes) in self.at_hand.range(range.clone()) {
            let name = stored_name(*place);
            if take(&name, read_link(self.vault, &name, bytes.clone())).is_break() {
                return Ok(());
            }
        }
        let mut there = self.elsewhere.readable(range).filter(|place| !self.at_hand.contains_key(place)).map(stored_name);
        loop {
            let batch: Vec<String> = there.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                return Ok(());
            }
            for (name, bytes) in (self.read)(&batch)? {
                let link = read_link(self.vault, &name, bytes);
                if take(&name, link).is_break() {
                    return Ok(());
                }
            }
        }
    }

    /// The first record that the pinned key signed.
    fn pinned(&mut self, pin: &RootPin) -> Result<Result<Link, LedgerError>, E> {
        let (mut found, mut signers, mut broken) = (None, Named::default(), Named::default());
        self.each(ALL, &mut |name, link| {
            match link {
                Some(link) if pin.fits(&link.signer) => {
                    found = Some(link);
                    return ControlFlow::Break(());
                }
                Some(link) => signers.add(link.signer.fingerprint()),
                None => broken.add(name.to_owned()),
            }
            ControlFlow::Continue(())
        })?;
        Ok(found.ok_or_else(|| {
            let mut hint = String::new();
            if !signers.is_empty() {
                hint += &format!("; those that are there are signed by {signers}");
            }
            if !broken.is_empty() {
                hint += &format!("; changed, or of another vault: {broken}");
            }
            LedgerError::NoTrust { pin: pin.to_string(), hint }
        }))
    }

    /// The record that comes before `link`, and leads to it by its hash.
    fn before(&mut self, link: &Link, prev: ObjectHash) -> Result<Option<Link>, E> {
        let mut found = None;
        let Some(seq) = link.head.seq.checked_sub(1) else { return Ok(None) };
        self.each(of_record(Head { seq, hash: prev }), &mut |_, link| {
            found = link;
            if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(found)
    }

    /// The record that follows `last`, signed by a root that this one names.
    fn after(&mut self, last: &Link) -> Result<Result<Option<Link>, LedgerError>, E> {
        let (mut next, mut other): (Option<Link>, Option<Link>) = (None, None);
        self.each(of_number(last.head.seq + 1), &mut |_, link| {
            let follows = |link: &Link| {
                link.prev == Some(last.head.hash) && last.body.roots.iter().any(|root| *root == link.signer.to_openssh())
            };
            match (link.filter(follows), &next) {
                (None, _) => {}
                (link, None) => next = link,
                // The same statement under a suffix is the same record: anybody who may add a file can put it there.
                (Some(link), Some(first)) if link.head == first.head => {}
                (link, _) => other = link,
            }
            if other.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(match (next, other) {
            (Some(link), Some(other)) => {
                let (first, second) = (link.name, other.name);
                Err(LedgerError::Fork { writer: link.signer.writer(), seq: link.head.seq, first, second })
            }
            (next, _) => Ok(next),
        })
    }
}

/// The root's chain, oldest first: of records at hand, and of others that `read` gets by their names.
///
/// # Errors
/// When no record is signed by the pinned root, or the chain forks or has a gap; and what `read` says.
pub fn root_chain<E: From<LedgerError>>(
    vault: VaultId,
    pin: &RootPin,
    at_hand: Vec<(String, Vec<u8>)>,
    elsewhere: &TrustNames,
    read: Read<'_, E>,
) -> Result<VecDeque<Link>, E> {
    let place = |(name, bytes): (String, Vec<u8>)| Some((place(&name)?, bytes));
    let mut at_hand: BTreeMap<Place, Vec<u8>> = at_hand.into_iter().filter_map(place).collect();
    let few: Vec<Place> = elsewhere.readable(ALL).filter(|place| !at_hand.contains_key(place)).take(BATCH + 1).collect();
    if (1..=BATCH).contains(&few.len()) {
        let names: Vec<String> = few.into_iter().map(stored_name).collect();
        at_hand.extend(read(&names)?.into_iter().filter_map(place));
    }
    let mut shelf = Shelf { vault, at_hand, elsewhere, read };
    // The pinned key signs somewhere; from there the chain holds forwards by signatures and backwards by hashes.
    let mut chain = VecDeque::from([shelf.pinned(pin)??]);
    while let Some(prev) = chain[0].prev {
        let Some(found) = shelf.before(&chain[0], prev)? else {
            let (name, why) = (chain[0].name.clone(), "the trust record before it is missing".into());
            return Err(LedgerError::Misplaced { name, why }.into());
        };
        chain.push_front(found);
    }
    while let Some(next) = shelf.after(&chain[chain.len() - 1])?? {
        chain.push_back(next);
    }
    Ok(chain)
}

/// Takes a record apart once its name's hash and its signature have proved right.
pub fn read_link(vault: VaultId, name: &str, bytes: Vec<u8>) -> Option<Link> {
    let (seq, promised, _) = place(name)?;
    let (line, armor) = split(&bytes).ok()?;
    if hash(line.as_bytes()) != promised {
        return None;
    }
    let key = signer(armor).ok()?;
    key.verify(TRUST_NAMESPACE, line, armor).ok()?;
    let statement = Statement::from_line(line).ok()?;
    let fits = statement.vault == vault
        && statement.kind == RecordKind::Trust
        && statement.writer == key.writer()
        && statement.seq == seq;
    if !fits {
        return None;
    }
    let (head, body) = (Head { seq, hash: promised }, statement.body_as().ok()?);
    Some(Link { name: name.to_owned(), head, prev: statement.prev, signer: key, body, bytes })
}

/// What an error names of what can be any number.
#[derive(Default)]
struct Named {
    first: BTreeSet<String>,
    are_more: bool,
}

impl Named {
    fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    fn add(&mut self, name: String) {
        if self.first.len() < NAMED_MAX {
            self.first.insert(name);
        } else {
            self.are_more |= !self.first.contains(&name);
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.first.iter().map(String::as_str).collect();
        f.write_str(&names.join(", "))?;
        if self.are_more { f.write_str(" and others") } else { Ok(()) }
    }
}
