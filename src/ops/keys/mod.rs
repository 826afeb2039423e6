//! `keys`: who may sign what, and whom new packs are sealed to, said in the next record of the root's chain.
//!
//! The root's private key is brought for the moment; it is not kept. Every copy must answer before anything is signed, and key
//! files go to all of them before the record that speaks of them: a copy never knows of a key that it cannot give.

use std::sync::Arc;

use serde::Serialize;

use super::context::{Context, Locking, NamedStore, VaultPin, open_pinned};
use super::{Env, OpError};
use crate::crypto::hash::hash;
use crate::crypto::identity::Identity;
use crate::crypto::seal::{Recipient, seal};
use crate::crypto::secret::VaultSecret;
use crate::crypto::sign::{SigningKey, VerifyingKey};
use crate::format::body::{Epoch, TrustedWriter};
use crate::format::record::RecordKind;
use crate::model::ids::WriterId;
use crate::model::limits::RECIPIENTS_MAX;
use crate::model::name::ObjectName;
use crate::state::keys::{KeyDir, Role};
use crate::vault::VaultError;
use crate::vault::create::{CUSTODIAN_KINDS, STATION_KINDS};
use crate::vault::unlock::unlock;
use change::Opened;
use end::{Until, end_of};

pub mod adopt;
mod change;
pub mod end;

/// What every change of trust begins with.
pub struct TrustPlan {
    /// Whom to trust.
    pub pin: VaultPin,
    /// Every copy.
    pub stores: Vec<NamedStore>,
    /// Signs the next record of the root's chain.
    pub root: SigningKey,
}

/// What an enrolled key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Office {
    /// It restores and keeps drives.
    Station,
    /// It prunes and holds.
    Custodian,
}

impl Office {
    const fn kinds(self) -> &'static [RecordKind] {
        match self {
            Self::Station => &STATION_KINDS,
            Self::Custodian => &CUSTODIAN_KINDS,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Station => "station",
            Self::Custodian => "custodian",
        }
    }
}

/// Whose key is enrolled.
#[derive(Debug, Clone)]
pub enum Candidate {
    /// This machine's own, made when it has none.
    Here,
    /// This public key.
    Key(VerifyingKey),
    /// The writer of records that lie in a copy, by its key's fingerprint.
    Fingerprint(String),
}

/// What was changed.
#[derive(Debug, Clone, Serialize)]
pub struct TrustReceipt {
    /// The new record of the root's chain.
    pub record: String,
    /// Its number.
    pub seq: u64,
    /// The copies that hold it.
    pub stores: Vec<String>,
    /// The key that was enrolled or retired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writer: Option<ShownWriter>,
    /// The epoch that was begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<ShownEpoch>,
}

/// A key that the root trusts, or has trusted.
#[derive(Debug, Clone, Serialize)]
pub struct ShownWriter {
    /// What people call it.
    pub name: String,
    /// What it is called in the ledger.
    pub writer: WriterId,
    /// Its fingerprint.
    pub fingerprint: String,
    /// The kinds of records that it may sign.
    pub kinds: Vec<String>,
    /// The number of its last record that counts, once it was retired; 0 when it never signed one.
    pub until: Option<u64>,
}

/// A period and whose identities open it.
#[derive(Debug, Clone, Serialize)]
pub struct ShownEpoch {
    /// Its number.
    pub n: u32,
    /// Its public key.
    pub recipient: String,
    /// Whose identities open it.
    pub sealed_to: Vec<String>,
}

/// A key of this machine.
#[derive(Debug, Clone, Serialize)]
pub struct OwnKey {
    /// agent, station or custodian.
    pub role: &'static str,
    /// Its fingerprint.
    pub fingerprint: String,
    /// Its public half in OpenSSH form.
    pub public: String,
    /// Whether the root trusts it now.
    pub enrolled: bool,
    /// Whether the root trusted it before.
    pub retired: bool,
}

/// Which keys there are.
#[derive(Debug, Clone, Serialize)]
pub struct KeysReceipt {
    /// The newest record of the root's chain.
    pub seq: u64,
    /// The fingerprints of the root keys.
    pub roots: Vec<String>,
    /// The keys that the root knows.
    pub writers: Vec<ShownWriter>,
    /// The epochs.
    pub epochs: Vec<ShownEpoch>,
    /// The keys of this machine.
    pub here: Vec<OwnKey>,
}

/// Shows which keys there are.
///
/// # Errors
/// When the copy cannot be opened.
pub fn print(pin: &VaultPin, store: &NamedStore, env: &Env<'_>) -> Result<KeysReceipt, OpError> {
    let copy = open_pinned(Arc::clone(&store.store), pin, None)?;
    let context = Context::open(env, copy.vault(), Locking::Shared)?;
    let copy = context.open_copy(copy.store, pin)?;
    let body = copy.trust.body();
    let fingerprint =
        |text: &String| VerifyingKey::from_openssh(text).map_or_else(|_| text.clone(), |key| key.fingerprint());
    let keys = KeyDir::of(&context.state);
    let mut here = Vec::new();
    for (role, word) in [(Role::Agent, "agent"), (Role::Station, "station"), (Role::Custodian, "custodian")] {
        let Some(key) = keys.writer(role)?.map(|key| key.verifier()) else { continue };
        let known = copy.trust.writer(&key.writer()).map(|(writer, _)| writer.until.is_some());
        let (enrolled, retired) = (known == Some(false), known == Some(true));
        here.push(OwnKey { role: word, fingerprint: key.fingerprint(), public: key.to_openssh(), enrolled, retired });
    }
    Ok(KeysReceipt {
        seq: copy.trust.head().seq,
        roots: body.roots.iter().map(fingerprint).collect(),
        writers: body.writers.iter().map(|(id, writer)| shown(*id, writer)).collect(),
        epochs: body.epochs.iter().map(shown_epoch).collect(),
        here,
    })
}

/// Enrols a key: from now on, and for what it signed before, its records count.
///
/// # Errors
/// When the root's key is another one, a copy cannot be reached, or the key is enrolled already.
pub fn enrol(
    plan: &TrustPlan,
    office: Office,
    who: &Candidate,
    name: Option<&str>,
    env: &Env<'_>,
) -> Result<TrustReceipt, OpError> {
    let mut opened = Opened::open(plan, env)?;
    let key = opened.key(office, who, env)?;
    let mut body = opened.trust().body().clone();
    if let Some(known) = body.writers.get(&key.writer()) {
        let now = if known.until.is_some() { "was retired: a new key is needed" } else { "is enrolled already" };
        return Err(OpError::Usage(format!("{} ({}) {now}", key.fingerprint(), known.name)));
    }
    let default = format!("{} {}", office.word(), &key.writer().to_string()[..8]);
    let writer = TrustedWriter {
        key: key.to_openssh(),
        name: name.map_or(default, str::to_owned),
        kinds: office.kinds().to_vec(),
        from: 1,
        until: None,
    };
    let shown = shown(key.writer(), &writer);
    body.writers.insert(key.writer(), writer);
    let mut receipt = opened.extend(plan, &body, &[], env)?;
    receipt.writer = Some(shown);
    Ok(receipt)
}

/// Retires a key: what it has signed until now counts, nothing later does; or what it has signed until a number. Of a key that
/// was retired before, another number is the last: when more of it turns up that is true, or when it was stolen before that.
///
/// # Errors
/// When there is no such key, or it is the agent's: another takes its place with [`adopt`](adopt::adopt).
pub fn retire(plan: &TrustPlan, who: &str, until: Option<&Until>, env: &Env<'_>) -> Result<TrustReceipt, OpError> {
    let mut opened = Opened::open(plan, env)?;
    let mut body = opened.trust().body().clone();
    let is_meant = |(id, writer): &(&WriterId, &TrustedWriter)| {
        let fingerprint = opened.trust().writer(id).map(|(_, key)| key.fingerprint());
        writer.name == who || fingerprint.as_deref() == Some(who) || (who.len() >= 8 && id.to_string().starts_with(who))
    };
    let found: Vec<WriterId> = body.writers.iter().filter(is_meant).map(|(id, _)| *id).collect();
    let [id] = found[..] else {
        let known: Vec<&str> = body.writers.values().map(|writer| writer.name.as_str()).collect();
        let count = if found.is_empty() { "no key is" } else { "more than one key is" };
        return Err(OpError::Usage(format!("{who}: {count} called so; there are: {}", known.join(", "))));
    };
    if opened.trust().agent() == Some(id) {
        let way_out = "`farkeep init --adopt`, on the machine that is to be the agent, puts another key in its place";
        return Err(OpError::Usage(format!("{who}: is the agent, without which nothing is backed up; {way_out}")));
    }
    let Some(writer) = body.writers.get_mut(&id) else { return Err(VaultError::internal("a key went away").into()) };
    if writer.until.is_some() && until.is_none() {
        let why = "was retired before; --until NUMBER-HASH makes another record the last that counts";
        return Err(OpError::Usage(format!("{who}: {why}")));
    }
    let last = end_of(&opened, &id, &writer.name, until)?;
    writer.until = last;
    let shown = ShownWriter { until: Some(last.map_or(0, |head| head.seq)), ..shown(id, writer) };
    if last.is_none() {
        // It never signed anything that lies anywhere.
        body.writers.remove(&id);
    }
    let mut receipt = opened.extend(plan, &body, &[], env)?;
    receipt.writer = Some(shown);
    Ok(receipt)
}

/// A key file is sealed to so many at most.
///
/// # Errors
/// When there are more.
pub fn refuse_too_many(recipients: usize) -> Result<(), OpError> {
    if recipients <= RECIPIENTS_MAX {
        return Ok(());
    }
    Err(OpError::Usage(format!(
        "{recipients} are to open the vault, and {RECIPIENTS_MAX} at most can: leave some of the recipients out, or let several \
         people share an identity"
    )))
}

/// Begins a new epoch: the next push seals to it. Chunks and packs of earlier ones are used on, so whoever opens the new one
/// must open those too; `identities` are there to seal them to whoever could not.
///
/// # Errors
/// When no recipient is named, the vault's secret is not here, or an earlier epoch would stay shut for a new recipient.
pub fn new_epoch(
    plan: &TrustPlan,
    recipients: &[Recipient],
    identities: &[Identity],
    env: &Env<'_>,
) -> Result<TrustReceipt, OpError> {
    if recipients.is_empty() {
        return Err(OpError::Usage("no recipients: name them with --recipient, or as files in keys/recipients".into()));
    }
    refuse_too_many(recipients.len())?;
    let mut opened = Opened::open(plan, env)?;
    let mut body = opened.trust().body().clone();
    let present = opened.trust().epoch().clone();
    let unlocked = if identities.is_empty() { None } else { Some(unlock(&opened.copies[opened.newest], identities)?) };
    let secret = opened.secret(present.generation, unlocked.as_ref())?;
    let names: Vec<String> = recipients.iter().map(ToString::to_string).collect();
    let n = present.n + 1;
    let identity = Identity::generate();
    let mut objects = vec![
        sealed_identity(&opened, n, std::slice::from_ref(&identity), recipients)?,
        sealed_secret(present.generation, &secret, &identity.recipient())?,
    ];
    for epoch in &mut body.epochs {
        let missing: Vec<&String> = names.iter().filter(|name| !epoch.sealed_to.contains(name)).collect();
        if missing.is_empty() {
            continue;
        }
        let known = unlocked.as_ref().and_then(|unlocked| unlocked.by_epoch.get(&epoch.n));
        let known = known.ok_or_else(|| {
            let who = epoch.sealed_to.join(" or ");
            OpError::Usage(format!(
                "epoch {} holds packs that new snapshots are built on, and does not open for all: to seal it to them too, give \
                 the identity of {who} with --identity",
                epoch.n
            ))
        })?;
        objects.push(sealed_identity(&opened, epoch.n, known, recipients)?);
        let missing: Vec<String> = missing.into_iter().cloned().collect();
        epoch.sealed_to.extend(missing);
    }
    let epoch = Epoch { n, recipient: identity.recipient().to_string(), sealed_to: names, generation: present.generation };
    let shown = shown_epoch(&epoch);
    body.epochs.push(epoch);
    body.files.extend(objects.iter().map(|(name, bytes)| (name.clone(), hash(bytes))));
    let mut receipt = opened.extend(plan, &body, &objects, env)?;
    receipt.epoch = Some(shown);
    Ok(receipt)
}

fn shown(id: WriterId, writer: &TrustedWriter) -> ShownWriter {
    ShownWriter {
        name: writer.name.clone(),
        writer: id,
        fingerprint: VerifyingKey::from_openssh(&writer.key).map_or_else(|_| String::new(), |key| key.fingerprint()),
        kinds: writer.kinds.iter().map(ToString::to_string).collect(),
        until: writer.until.map(|head| head.seq),
    }
}

fn shown_epoch(epoch: &Epoch) -> ShownEpoch {
    ShownEpoch { n: epoch.n, recipient: epoch.recipient.clone(), sealed_to: epoch.sealed_to.clone() }
}

fn sealed_identity(
    opened: &Opened,
    epoch: u32,
    identities: &[Identity],
    to: &[Recipient],
) -> Result<(ObjectName, Vec<u8>), OpError> {
    let mut text = zeroize::Zeroizing::new(format!("# farkeep vault {}, epoch {epoch}\n", opened.trust().vault()));
    for identity in identities {
        text.push_str(identity.to_text().as_str());
        text.push('\n');
    }
    let sealed = seal(&[text.as_bytes()], to).map_err(VaultError::internal)?;
    Ok((ObjectName::Identity { epoch, hash: sealed.name.hash, bytes: sealed.name.bytes }, sealed.bytes))
}

fn sealed_secret(generation: u32, secret: &VaultSecret, to: &Recipient) -> Result<(ObjectName, Vec<u8>), OpError> {
    let text = secret.to_text();
    let sealed = seal(&[text.as_str().as_bytes()], std::slice::from_ref(to)).map_err(VaultError::internal)?;
    Ok((ObjectName::Secret { generation, hash: sealed.name.hash, bytes: sealed.name.bytes }, sealed.bytes))
}
