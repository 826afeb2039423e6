//! The root's chain: which keys may sign what, which epochs are sealed to, which plain files are genuine.

use std::collections::BTreeMap;
use std::fmt;

use crate::crypto::hash::hash;
use crate::crypto::seal::Recipient;
use crate::crypto::sign::{SigningKey, VerifyingKey};
use crate::format::body::{Epoch, TrustBody, TrustedWriter};
use crate::format::record::{Head, RecordKind, Statement, TRUST_NAMESPACE, join};
use crate::ledger::shelf::{Read, read_link, root_chain};
use crate::ledger::{LedgerError, Signed, TrustNames};
use crate::model::ids::{VaultId, WriterId};
use crate::model::name::ObjectName;
use crate::model::time::Timestamp;

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

    pub(super) fn fits(&self, key: &VerifyingKey) -> bool {
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
        let chain = root_chain(vault, pin, at_hand, elsewhere, read)?;
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
    use crate::ledger::shelf::BATCH;
    use crate::model::ids::ObjectHash;

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
