//! A new vault: its keys and first objects, all made in memory.

use std::collections::BTreeMap;

use crate::crypto::hash::hash;
use crate::crypto::identity::Identity;
use crate::crypto::random;
use crate::crypto::seal::{Recipient, seal};
use crate::crypto::secret::VaultSecret;
use crate::crypto::sign::{SigningKey, VerifyingKey};
use crate::format::body::{Epoch, TrustBody, TrustedWriter};
use crate::format::header::Header;
use crate::format::record::RecordKind;
use crate::ledger::trust::sign_trust;
use crate::model::ids::{ObjectHash, VaultId};
use crate::model::name::ObjectName;
use crate::model::time::Timestamp;
use crate::vault::VaultError;

/// The page that says how to restore without farkeep; it lies in every vault.
pub const RECOVER_PAGE: &str = include_str!("../format/RECOVER.md");
/// The script that does it.
pub const RECOVER_SCRIPT: &str = include_str!("../format/recover.py");
/// The kinds of records that an agent may sign.
pub const AGENT_KINDS: [RecordKind; 3] = [RecordKind::Snapshot, RecordKind::Verify, RecordKind::Heartbeat];
/// The kinds of records that a custodian may sign. No snapshot is among them: whoever may drop cannot make what replaces it.
pub const CUSTODIAN_KINDS: [RecordKind; 5] =
    [RecordKind::PrunePlan, RecordKind::PruneDone, RecordKind::Hold, RecordKind::Verify, RecordKind::Heartbeat];

/// The kinds of records that an enrolled station may sign: what was done on it and with drives.
pub const STATION_KINDS: [RecordKind; 6] = [
    RecordKind::RestoreIntent,
    RecordKind::RestoreOutcome,
    RecordKind::Verify,
    RecordKind::Drill,
    RecordKind::Drive,
    RecordKind::Export,
];

/// Everything that `init` makes.
pub struct NewVault {
    /// Its id.
    pub vault: VaultId,
    /// Signs trust records; leaves the machine.
    pub root: SigningKey,
    /// Signs the agent's records; stays on the agent.
    pub agent: SigningKey,
    /// Signs what is pruned and held; stays here, unless another machine is the custodian.
    pub custodian: Option<SigningKey>,
    /// Opens index objects; stays on the agent.
    pub index_identity: Identity,
    /// Keys chunk ids; stays on the agent.
    pub secret: VaultSecret,
    /// The first objects, in the order in which they are written: the header, which makes it a vault, last.
    pub objects: Vec<(ObjectName, Vec<u8>)>,
}

/// Makes a vault that `recipients` can open. The epoch's private half exists only within this call. Without `custodian`, the
/// key of another machine, one is made.
///
/// # Errors
/// When there is no recipient, or sealing fails.
pub fn create(
    recipients: &[Recipient],
    agent_name: &str,
    custodian: Option<&VerifyingKey>,
    time: Timestamp,
) -> Result<NewVault, VaultError> {
    let crypto = |e| VaultError::internal(e);
    let vault = VaultId(random().map_err(crypto)?);
    let root = SigningKey::generate("farkeep root").map_err(crypto)?;
    let agent = SigningKey::generate(agent_name).map_err(crypto)?;
    let epoch = Identity::generate();
    let secret = VaultSecret::generate().map_err(crypto)?;

    let seal_text = |text: &str, to: &[Recipient]| seal(&[text.as_bytes()], to).map_err(VaultError::internal);
    let identity = seal_text(&format!("# farkeep vault {vault}, epoch 1\n{}\n", epoch.to_text().as_str()), recipients)?;
    let sealed_secret = seal_text(secret.to_text().as_str(), &[epoch.recipient()])?;
    let mut objects = vec![
        (ObjectName::RecoverPage(1), RECOVER_PAGE.as_bytes().to_vec()),
        (ObjectName::RecoverScript(1), RECOVER_SCRIPT.as_bytes().to_vec()),
        (ObjectName::Identity { epoch: 1, hash: identity.name.hash, bytes: identity.name.bytes }, identity.bytes),
        (
            ObjectName::Secret { generation: 1, hash: sealed_secret.name.hash, bytes: sealed_secret.name.bytes },
            sealed_secret.bytes,
        ),
    ];
    let header = (ObjectName::Header, Header::new(vault, time).encode().map_err(VaultError::internal)?);
    let files: BTreeMap<ObjectName, ObjectHash> =
        objects.iter().chain([&header]).map(|(name, bytes)| (name.clone(), hash(bytes))).collect();
    let own_custodian = match custodian {
        Some(_) => None,
        None => Some(SigningKey::generate(&format!("{agent_name} custodian")).map_err(crypto)?),
    };
    let custodian = custodian.cloned().or_else(|| own_custodian.as_ref().map(SigningKey::verifier));
    let writer = |key: &VerifyingKey, name: String, kinds: &[RecordKind]| {
        let writer = TrustedWriter { key: key.to_openssh(), name, kinds: kinds.to_vec(), from: 1, until: None };
        (key.writer(), writer)
    };
    let mut writers: BTreeMap<_, _> = [writer(&agent.verifier(), agent_name.to_owned(), &AGENT_KINDS)].into();
    writers.extend(custodian.map(|key| writer(&key, format!("custodian of {agent_name}"), &CUSTODIAN_KINDS)));
    let body = TrustBody {
        roots: vec![root.verifier().to_openssh()],
        writers,
        epochs: vec![Epoch {
            n: 1,
            recipient: epoch.recipient().to_string(),
            sealed_to: recipients.iter().map(ToString::to_string).collect(),
            generation: 1,
        }],
        files,
    };
    let trust = sign_trust(&root, vault, None, time, &body)?;
    objects.push((trust.name, trust.bytes));
    objects.push(header);
    Ok(NewVault { vault, root, agent, custodian: own_custodian, index_identity: Identity::generate(), secret, objects })
}
