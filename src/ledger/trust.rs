//! The root's chain: which keys may sign what, which epochs are sealed to, which plain files are genuine.

use std::collections::BTreeMap;
use std::fmt;

use crate::crypto::hash::hash;
use crate::crypto::seal::Recipient;
use crate::crypto::sign::{SigningKey, VerifyingKey, signer};
use crate::format::body::{Epoch, TrustBody, TrustedWriter};
use crate::format::record::{Head, RecordKind, Statement, TRUST_NAMESPACE, join, split};
use crate::ledger::{LedgerError, Signed};
use crate::model::ids::{ObjectHash, VaultId, WriterId};
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
}

impl Trust {
    /// Verifies trust records, given with their stored names, against the pinned root. What does not belong to the chain is
    /// ignored; it could be anybody's.
    ///
    /// # Errors
    /// When no record is signed by the pinned root, or the chain forks.
    pub fn verify(vault: VaultId, pin: &RootPin, records: &[(String, Vec<u8>)]) -> Result<Self, LedgerError> {
        let mut links: Vec<Link> = records.iter().filter_map(|(name, bytes)| read_link(vault, name, bytes)).collect();
        links.sort_by_key(|link| link.head.seq);
        // The pinned key signs somewhere; from there the chain holds forwards by signatures and backwards by hashes.
        let Some(start) = links.iter().position(|link| pin.fits(&link.signer)) else {
            let mut found: Vec<String> = links.iter().map(|link| link.signer.fingerprint()).collect();
            found.sort();
            found.dedup();
            let broken = |name: &&String| !links.iter().any(|link| link.name == **name);
            let broken: Vec<&str> = records.iter().map(|(name, _)| name).filter(broken).map(String::as_str).collect();
            let mut hint = String::new();
            if !found.is_empty() {
                hint += &format!("; those that are there are signed by {}", found.join(", "));
            }
            if !broken.is_empty() {
                hint += &format!("; changed, or of another vault: {}", broken.join(", "));
            }
            return Err(LedgerError::NoTrust { pin: pin.to_string(), hint });
        };
        let mut chain: Vec<&Link> = vec![&links[start]];
        while let Some(prev) = chain.first().and_then(|link| link.prev) {
            let Some(found) = links.iter().find(|link| link.head.hash == prev) else {
                let name = chain.first().map(|link| link.name.clone()).unwrap_or_default();
                return Err(LedgerError::Misplaced { name, why: "the trust record before it is missing".into() });
            };
            chain.insert(0, found);
        }
        loop {
            let last = chain[chain.len() - 1];
            let follows = |link: &&Link| {
                link.prev == Some(last.head.hash)
                    && link.head.seq == last.head.seq + 1
                    && last.body.roots.iter().any(|root| *root == link.signer.to_openssh())
            };
            let mut next = links.iter().filter(follows);
            let Some(link) = next.next() else { break };
            // The same statement under a suffix is the same record: anybody who may add a file can put it there.
            if let Some(other) = next.find(|other| other.head != link.head) {
                let (first, second) = (link.name.clone(), other.name.clone());
                return Err(LedgerError::Fork { writer: link.signer.writer(), seq: link.head.seq, first, second });
            }
            chain.push(link);
        }
        let newest = chain[chain.len() - 1];
        let heads = chain.iter().map(|link| link.head).collect();
        let mut since = BTreeMap::new();
        for link in &chain {
            for writer in link.body.writers.keys() {
                since.entry(*writer).or_insert(link.head.seq);
            }
        }
        let trust = Self::from_body(vault, heads, newest.body.clone(), &newest.name)?;
        Ok(Self { since, ..trust })
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

fn read_link(vault: VaultId, name: &str, bytes: &[u8]) -> Option<Link> {
    let (line, armor) = split(bytes).ok()?;
    let statement = Statement::from_line(line).ok()?;
    let key = signer(armor).ok()?;
    key.verify(TRUST_NAMESPACE, line, armor).ok()?;
    let head = Head { seq: statement.seq, hash: hash(line.as_bytes()) };
    let expected = ObjectName::Trust { seq: head.seq, statement: head.hash };
    let fits = statement.vault == vault
        && statement.kind == RecordKind::Trust
        && statement.writer == key.writer()
        && ObjectName::parse_stored(name).is_ok_and(|(found, _)| found == expected);
    if !fits {
        return None;
    }
    let body = statement.body_as().ok()?;
    Some(Link { name: name.to_owned(), head, prev: statement.prev, signer: key, body })
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
