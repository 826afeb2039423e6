//! The root's chain: which keys may sign what, which epochs are sealed to, which plain files are genuine.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::ops::{ControlFlow, RangeInclusive};

use crate::crypto::hash::hash;
use crate::crypto::seal::Recipient;
use crate::crypto::sign::{SigningKey, VerifyingKey, signer};
use crate::format::body::{Epoch, TrustBody, TrustedWriter};
use crate::format::record::{Head, RecordKind, Statement, TRUST_NAMESPACE, join, split};
use crate::ledger::names::{ALL, Place, of_number, of_record, place, stored_name};
use crate::ledger::{LedgerError, Signed, TrustNames};
use crate::model::ids::{ObjectHash, VaultId, WriterId};
use crate::model::name::ObjectName;
use crate::model::time::Timestamp;

/// Records that are read at once: 4 MiB at most.
const BATCH: usize = 64;
/// Signers, or files that are no record, that an error names.
const NAMED_MAX: usize = 4;

/// The root that a machine was told to trust: a key's fingerprint, kept outside the vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootPin(String);

impl RootPin {
    /// Reads a fingerprint `SHA256:...` or a public key in OpenSSH form.
    ///
    /// # Errors
    /// When the text is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Some(digest) = text.strip_prefix("SHA256:") {
            let digits = digest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/');
            return if digest.len() == 43 && digits {
                Ok(Self(text.to_owned()))
            } else {
                Err("not a SHA256 fingerprint".into())
            };
        }
        VerifyingKey::from_openssh(text).map(|key| Self::of(&key)).map_err(|e| e.to_string())
    }

    /// The pin of a key.
    #[must_use]
    pub fn of(key: &VerifyingKey) -> Self {
        Self(key.fingerprint())
    }

    fn fits(&self, key: &VerifyingKey) -> bool {
        key.fingerprint() == self.0
    }
}

impl fmt::Display for RootPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The verified chain of trust records.
#[derive(Debug, Clone)]
pub struct Trust {
    vault: VaultId,
    heads: Vec<Head>,
    newest: TrustBody,
    writers: BTreeMap<WriterId, (TrustedWriter, VerifyingKey)>,
    /// The number of the record that first spoke of each writer.
    since: BTreeMap<WriterId, u64>,
}

struct Link {
    name: String,
    head: Head,
    prev: Option<ObjectHash>,
    signer: VerifyingKey,
    body: TrustBody,
    bytes: Vec<u8>,
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

impl Trust {
    /// Verifies trust records, given with their stored names, against the pinned root. What does not belong to the chain is
    /// ignored; it could be anybody's.
    ///
    /// # Errors
    /// When no record is signed by the pinned root, or the chain forks.
    pub fn verify(vault: VaultId, pin: &RootPin, records: &[(String, Vec<u8>)]) -> Result<Self, LedgerError> {
        let nothing = TrustNames::default();
        Ok(Self::find(vault, pin, records.to_vec(), &nothing, &mut |_| Ok(Vec::new()))?.0)
    }

    /// The same, of records at hand and of others that `read` gets by their names: whatever number lies there, what is no part of
    /// the chain costs time and no memory. With the records of the chain, as stored.
    ///
    /// # Errors
    /// As [`verify`](Self::verify); and what `read` says.
    pub fn find<E: From<LedgerError>>(
        vault: VaultId,
        pin: &RootPin,
        at_hand: Vec<(String, Vec<u8>)>,
        elsewhere: &TrustNames,
        read: Read<'_, E>,
    ) -> Result<(Self, Vec<(ObjectName, Vec<u8>)>), E> {
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
        let newest = &chain[chain.len() - 1];
        let heads = chain.iter().map(|link| link.head).collect();
        let mut since = BTreeMap::new();
        for link in &chain {
            for writer in link.body.writers.keys() {
                since.entry(*writer).or_insert(link.head.seq);
            }
        }
        let trust = Self::from_body(vault, heads, newest.body.clone(), &newest.name)?;
        let name = |head: Head| ObjectName::Trust { seq: head.seq, statement: head.hash };
        let stored = chain.into_iter().map(|link| (name(link.head), link.bytes)).collect();
        Ok((Self { since, ..trust }, stored))
    }

    /// Whether these bytes are the trust record of the vault that their stored name says, whoever signed it.
    #[must_use]
    pub fn is_record(vault: VaultId, stored: &str, bytes: &[u8]) -> bool {
        read_link(vault, stored, bytes.to_vec()).is_some()
    }

    fn from_body(vault: VaultId, heads: Vec<Head>, newest: TrustBody, name: &str) -> Result<Self, LedgerError> {
        let mut writers = BTreeMap::new();
        for (id, writer) in &newest.writers {
            let key = VerifyingKey::from_openssh(&writer.key)
                .map_err(|source| LedgerError::Crypto { name: name.to_owned(), source })?;
            if key.writer() != *id {
                let why = format!("writer {} stands with another's key", id.short());
                return Err(LedgerError::Misplaced { name: name.to_owned(), why });
            }
            writers.insert(*id, (writer.clone(), key));
        }
        if newest.epochs.is_empty() || newest.epochs.windows(2).any(|pair| pair[0].n >= pair[1].n) {
            return Err(LedgerError::Misplaced { name: name.to_owned(), why: "epochs are missing or not in order".into() });
        }
        Ok(Self { vault, heads, newest, writers, since: BTreeMap::new() })
    }

    /// The vault.
    #[must_use]
    pub const fn vault(&self) -> VaultId {
        self.vault
    }

    /// The newest trust record.
    #[must_use]
    pub fn head(&self) -> Head {
        self.heads[self.heads.len() - 1]
    }

    /// Whether `head` stands in the chain: what a record says it knew must have existed.
    #[must_use]
    pub fn contains(&self, head: &Head) -> bool {
        self.heads.contains(head)
    }

    /// The names of the chain's records.
    pub fn names(&self) -> impl Iterator<Item = ObjectName> + '_ {
        self.heads.iter().map(|head| ObjectName::Trust { seq: head.seq, statement: head.hash })
    }

    /// What the newest record says.
    #[must_use]
    pub const fn body(&self) -> &TrustBody {
        &self.newest
    }

    /// A writer with its key.
    #[must_use]
    pub fn writer(&self, id: &WriterId) -> Option<(&TrustedWriter, &VerifyingKey)> {
        self.writers.get(id).map(|(writer, key)| (writer, key))
    }

    /// The numbers of the records that first spoke of each writer: who was enrolled after whom.
    #[must_use]
    pub const fn since(&self) -> &BTreeMap<WriterId, u64> {
        &self.since
    }

    /// Whether a writer's key is trusted no longer.
    #[must_use]
    pub fn has_retired(&self, id: &WriterId) -> bool {
        self.newest.writers.get(id).is_some_and(|writer| writer.until.is_some())
    }

    /// The epoch that is sealed to now.
    #[must_use]
    pub fn epoch(&self) -> &Epoch {
        &self.newest.epochs[self.newest.epochs.len() - 1]
    }

    /// The recipient of the present epoch.
    ///
    /// # Errors
    /// When the record names one of a kind that this farkeep does not know.
    pub fn recipient(&self) -> Result<Recipient, LedgerError> {
        self.epoch().recipient.parse().map_err(|source| LedgerError::Crypto { name: "trust record".into(), source })
    }

    /// The writer that may sign snapshots now and was not revoked: the agent.
    #[must_use]
    pub fn agent(&self) -> Option<WriterId> {
        let may = |w: &TrustedWriter| w.until.is_none() && w.kinds.contains(&RecordKind::Snapshot);
        self.newest.writers.iter().find(|(_, writer)| may(writer)).map(|(id, _)| *id)
    }

    /// Whether another machine was the agent before.
    #[must_use]
    pub fn has_former_agents(&self) -> bool {
        self.newest.writers.values().any(|writer| writer.until.is_some() && writer.kinds.contains(&RecordKind::Snapshot))
    }
}

/// Takes a record apart once its name's hash and its signature have proved right.
fn read_link(vault: VaultId, name: &str, bytes: Vec<u8>) -> Option<Link> {
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

/// Signs a trust record that follows `prev`.
///
/// # Errors
/// When it cannot be spelled within the limits.
pub fn sign_trust(
    root: &SigningKey,
    vault: VaultId,
    prev: Option<Head>,
    time: Timestamp,
    body: &TrustBody,
) -> Result<Signed, LedgerError> {
    let seq = prev.map_or(1, |head| head.seq + 1);
    let name = || format!("trust record {seq}");
    let format = |source| LedgerError::Format { name: name(), source };
    let body = serde_json::to_value(body).map_err(|e| LedgerError::Misplaced { name: name(), why: e.to_string() })?;
    let statement = Statement {
        vault,
        writer: root.verifier().writer(),
        seq,
        prev: prev.map(|head| head.hash),
        time,
        kind: RecordKind::Trust,
        trust: None,
        heads: BTreeMap::new(),
        body,
    };
    let line = statement.to_line().map_err(format)?;
    let armor = root.sign(TRUST_NAMESPACE, &line).map_err(|source| LedgerError::Crypto { name: name(), source })?;
    let head = Head { seq, hash: hash(line.as_bytes()) };
    let name = ObjectName::Trust { seq, statement: head.hash };
    Ok(Signed { name, bytes: join(&line, &armor), head, statement })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::identity::Identity;

    const VAULT: VaultId = VaultId([9; 16]);

    fn key(name: &str) -> SigningKey {
        SigningKey::generate(name).unwrap_or_else(|e| panic!("{e}"))
    }

    fn body(roots: &[&SigningKey], epochs: u32) -> TrustBody {
        let epoch =
            |n| Epoch { n, recipient: Identity::generate().recipient().to_string(), sealed_to: vec![], generation: 1 };
        TrustBody {
            roots: roots.iter().map(|root| root.verifier().to_openssh()).collect(),
            writers: BTreeMap::new(),
            epochs: (1..=epochs).map(epoch).collect(),
            files: BTreeMap::new(),
        }
    }

    fn sign(root: &SigningKey, prev: Option<&Signed>, body: &TrustBody) -> Signed {
        sign_trust(root, VAULT, prev.map(|s| s.head), Timestamp(5), body).unwrap_or_else(|e| panic!("{e}"))
    }

    fn verify(pin: &SigningKey, records: &[&Signed]) -> Result<Trust, LedgerError> {
        let records: Vec<_> = records.iter().map(|s| (s.name.to_string(), s.bytes.clone())).collect();
        Trust::verify(VAULT, &RootPin::of(&pin.verifier()), &records)
    }

    #[test]
    fn a_successor_is_signed_by_its_predecessor_and_either_can_be_pinned() {
        let (old, new, stranger) = (key("old"), key("new"), key("stranger"));
        let first = sign(&old, None, &body(&[&old, &new], 1));
        let second = sign(&new, Some(&first), &body(&[&new], 2));
        for pin in [&old, &new] {
            let trust = verify(pin, &[&second, &first]).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(trust.head(), second.head);
            assert_eq!(trust.epoch().n, 2);
        }
        assert!(matches!(verify(&stranger, &[&first, &second]), Err(LedgerError::NoTrust { .. })));
    }

    #[test]
    fn a_stranger_cannot_extend_the_chain_and_a_root_cannot_fork_it() {
        let (root, stranger) = (key("root"), key("stranger"));
        let first = sign(&root, None, &body(&[&root], 1));
        let forged = sign(&stranger, Some(&first), &body(&[&stranger], 7));
        let trust = verify(&root, &[&first, &forged]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(trust.head(), first.head, "what a stranger signs is not there");
        let (a, b) = (sign(&root, Some(&first), &body(&[&root], 2)), sign(&root, Some(&first), &body(&[&root], 3)));
        assert!(matches!(verify(&root, &[&first, &a, &b]), Err(LedgerError::Fork { seq: 2, .. })));
    }

    #[test]
    fn any_number_of_strangers_records_costs_time_and_nothing_else() {
        let (old, new, stranger) = (key("old"), key("new"), key("stranger"));
        let first = sign(&old, None, &body(&[&old, &new], 1));
        let second = sign(&old, Some(&first), &body(&[&old, &new], 2));
        let third = sign(&new, Some(&second), &body(&[&new], 3));
        let mut stored: BTreeMap<String, Vec<u8>> =
            [&first, &second, &third].map(|record| (record.name.to_string(), record.bytes.clone())).into();
        for prev in [None, Some(&first), Some(&second), Some(&third)] {
            let forged = sign(&stranger, prev, &body(&[&stranger], 9));
            stored.insert(forged.name.to_string(), forged.bytes.clone());
            // As many that no bound on names would let through, before the others and after them.
            for n in 0..4000_u64 {
                let mut junk = [if n % 2 == 0 { 0 } else { 0xff }; 32];
                junk[8..16].copy_from_slice(&n.to_be_bytes());
                let name = ObjectName::Trust { seq: forged.head.seq, statement: ObjectHash(junk) };
                stored.insert(name.to_string(), forged.bytes.clone());
            }
        }
        let mut names = TrustNames::default();
        assert!(stored.iter().all(|(name, bytes)| names.add(name, bytes.len() as u64)));
        let find = |pin: &SigningKey, at_hand: &[&Signed]| {
            let (mut at_once, mut all) = (0, 0);
            let mut read = |names: &[String]| {
                (at_once, all) = (at_once.max(names.len()), all + names.len());
                Ok::<_, LedgerError>(names.iter().map(|name| (name.clone(), stored[name].clone())).collect())
            };
            let at_hand = at_hand.iter().map(|s| (s.name.to_string(), s.bytes.clone())).collect();
            let found = Trust::find(VAULT, &RootPin::of(&pin.verifier()), at_hand, &names, &mut read);
            assert!(at_once <= BATCH, "{at_once}");
            (found.map(|(trust, records)| (trust.head(), records)), all)
        };
        let chain = [&first, &second, &third].map(|record| (record.name.clone(), record.bytes.clone()));
        for pin in [&old, &new] {
            assert_eq!(find(pin, &[]).0, Ok((third.head, chain.to_vec())));
            assert_eq!(find(pin, &[&first, &second, &third]).0, Ok((third.head, chain.to_vec())));
        }
        // Who remembers the chain looks only where a record of it could be.
        assert!(find(&old, &[&first, &second, &third]).1 < 12_010 && find(&new, &[&first, &second, &third]).1 < 4010);
        let Err(LedgerError::NoTrust { hint, .. }) = find(&key("another"), &[]).0 else { panic!("a chain") };
        assert!(hint.ends_with("and others") && hint.len() < 1000, "{hint}");
    }

    #[test]
    fn a_trust_record_of_another_vault_means_nothing() {
        let root = key("root");
        let other =
            sign_trust(&root, VaultId([1; 16]), None, Timestamp(5), &body(&[&root], 1)).unwrap_or_else(|e| panic!("{e}"));
        assert!(verify(&root, &[&other]).is_err());
    }

    #[test]
    fn pins_are_fingerprints_or_keys() {
        let root = key("root");
        let pin = RootPin::of(&root.verifier());
        assert_eq!(RootPin::parse(&pin.to_string()), Ok(pin.clone()));
        assert_eq!(RootPin::parse(&format!("{} me", root.verifier().to_openssh())), Ok(pin));
        assert!(RootPin::parse("SHA256:short").is_err());
        assert!(RootPin::parse("").is_err());
    }
}
