//! `init`: makes a vault in one or more stores, and the keys that belong to it.
//!
//! The private halves that open and trust go into files for the operator, written and synced before anything is uploaded;
//! nothing of them stays here. The header is uploaded last: before that there is no vault.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::context::NamedStore;
use super::{Env, OpError};
use crate::crypto::identity::{Identity, Passphrase, seal_with_passphrase};
use crate::crypto::seal::Recipient;
use crate::crypto::sign::VerifyingKey;
use crate::ledger::RootPin;
use crate::model::name::{Area, ObjectName};
use crate::state::StateDir;
use crate::state::keys::{KeyDir, Role};
use crate::store::deliver::{RetryPolicy, deliver};
use crate::vault::VaultError;
use crate::vault::create::{NewVault, create};

/// What to make.
pub struct InitPlan {
    /// Where the copies go.
    pub stores: Vec<NamedStore>,
    /// The operator's new identity file; the root key goes beside it.
    pub identity_out: PathBuf,
    /// What protects both; none leaves them readable for whoever has the files.
    pub passphrase: Option<Passphrase>,
    /// Further operators who can open the vault, with what their files are called.
    pub recipients: Vec<(String, Recipient)>,
    /// The key of the machine that prunes; without one this machine gets one.
    pub custodian: Option<VerifyingKey>,
}

/// What was made.
#[derive(Debug, Clone, Serialize)]
pub struct InitReceipt {
    /// The vault.
    pub vault: String,
    /// The fingerprint of the root key.
    pub root: String,
    /// The new operator's public key.
    pub recipient: String,
    /// Its private half: carry it away.
    pub identity_file: PathBuf,
    /// The private root key: carry it away.
    pub root_file: PathBuf,
    /// The public root key.
    pub root_public_file: PathBuf,
    /// The copies.
    pub stores: Vec<String>,
    /// The series token of each job that was asked for, for whoever cares for the vault without a key.
    pub series: Vec<(String, String)>,
    /// The BLAKE3 of recover.py: it belongs on paper.
    pub recover_script: String,
}

/// Makes a vault.
///
/// # Errors
/// When a store holds one already, a file is in the way, or anything cannot be written.
pub fn init(plan: &InitPlan, jobs: &[String], env: &Env<'_>) -> Result<InitReceipt, OpError> {
    if plan.stores.is_empty() {
        return Err(OpError::Usage("no store: name one with --store, or in the configuration".into()));
    }
    let root_file = with_suffix(&plan.identity_out, ".root");
    let root_public_file = with_suffix(&plan.identity_out, ".root.pub");
    for file in [&plan.identity_out, &root_file, &root_public_file] {
        if file.symlink_metadata().is_ok() {
            return Err(OpError::Usage(format!("{}: exists already and is not overwritten", file.display())));
        }
    }
    for named in &plan.stores {
        refuse_existing(named)?;
    }

    env.step("making keys");
    let operator = Identity::generate();
    let mut recipients = vec![operator.recipient()];
    recipients.extend(plan.recipients.iter().map(|(_, recipient)| recipient.clone()));
    let made = create(&recipients, &format!("agent@{}", env.host), plan.custodian.as_ref(), env.clock.now())?;
    let pin = RootPin::of(&made.root.verifier());
    write_operator_files(plan, &made, &operator, &pin, env)?;
    keep_agent_keys(&made, env)?;

    for named in &plan.stores {
        env.step(format!("writing the vault to {}", named.name));
        upload(named, &made)?;
    }
    let script = made.objects.iter().find(|(name, _)| *name == ObjectName::RecoverScript(1));
    Ok(InitReceipt {
        vault: made.vault.to_string(),
        root: pin.to_string(),
        recipient: operator.recipient().to_string(),
        identity_file: plan.identity_out.clone(),
        root_file,
        root_public_file,
        stores: plan.stores.iter().map(|named| named.store.location().to_string()).collect(),
        series: jobs.iter().map(|job| (job.clone(), made.secret.series(env.host, job).to_string())).collect(),
        recover_script: script.map(|(_, bytes)| crate::crypto::hash::hash(bytes).to_string()).unwrap_or_default(),
    })
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A store that holds a vault is refused; what is left of an init that failed is not a vault.
fn refuse_existing(named: &NamedStore) -> Result<(), OpError> {
    let location = named.store.location();
    if named.store.stat(&ObjectName::Header.to_string()).map_err(VaultError::from)?.is_some() {
        return Err(OpError::Usage(format!("{location}: holds a vault already; another one needs another path")));
    }
    let mut packs = false;
    named.store.list(&Area::Packs.leaf_dirs(), &mut |_| packs = true).map_err(VaultError::from)?;
    if packs {
        let why = "holds packs but no farkeep-vault.json: is this what is left of a vault? An empty directory is needed";
        return Err(OpError::Usage(format!("{location}: {why}")));
    }
    Ok(())
}

fn write_operator_files(
    plan: &InitPlan,
    made: &NewVault,
    operator: &Identity,
    pin: &RootPin,
    env: &Env<'_>,
) -> Result<(), OpError> {
    let now = env.clock.now();
    let identity = zeroize::Zeroizing::new(format!(
        "# farkeep operator identity, made {now} on {}\n# public key: {}\n# vault: {}\n# root: {pin}\n{}\n",
        env.host,
        operator.recipient(),
        made.vault,
        operator.to_text().as_str()
    ));
    let root = made.root.to_openssh().map_err(VaultError::internal)?;
    write_secret(&plan.identity_out, identity.as_bytes(), plan.passphrase.as_ref())?;
    write_secret(&with_suffix(&plan.identity_out, ".root"), root.as_bytes(), plan.passphrase.as_ref())?;
    let public = format!("{} farkeep root of vault {}\n", made.root.verifier().to_openssh(), made.vault);
    write_new(&with_suffix(&plan.identity_out, ".root.pub"), public.as_bytes(), 0o644)
}

fn write_secret(path: &Path, content: &[u8], passphrase: Option<&Passphrase>) -> Result<(), OpError> {
    match passphrase {
        Some(passphrase) => {
            write_new(path, &seal_with_passphrase(content, passphrase).map_err(VaultError::internal)?, 0o600)
        }
        None => write_new(path, content, 0o600),
    }
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), OpError> {
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().create_new(true).write(true).mode(mode).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::File::open(dir)?.sync_all()
    };
    write().map_err(|e| OpError::NotDone(format!("{}: {e}", path.display())))
}

fn keep_agent_keys(made: &NewVault, env: &Env<'_>) -> Result<(), OpError> {
    let state = StateDir::open(env.state_root, made.vault)?;
    let keys = KeyDir::of(&state);
    keys.keep_writer(Role::Agent, &made.agent)?;
    if let Some(custodian) = &made.custodian {
        keys.keep_writer(Role::Custodian, custodian)?;
    }
    keys.keep_index_identity(&made.index_identity)?;
    keys.keep_secret(1, &made.secret)?;
    Ok(())
}

/// Makes the directories and uploads the first objects, the header after all others.
fn upload(named: &NamedStore, made: &NewVault) -> Result<(), OpError> {
    let store = &named.store;
    store.make_dirs(&Area::layout()).map_err(VaultError::from)?;
    let Some(((last, header), first)) = made.objects.split_last() else { return Ok(()) };
    std::thread::scope(|scope| {
        let send = |(name, bytes): &(ObjectName, Vec<u8>)| {
            let (store, name, bytes) = (Arc::clone(store), name.clone(), bytes.clone());
            scope.spawn(move || deliver(store.as_ref(), &name, &bytes, RetryPolicy::DEFAULT))
        };
        let sent: Vec<_> = first.iter().map(send).collect();
        sent.into_iter().try_for_each(|thread| match thread.join() {
            Ok(outcome) => outcome.map(drop).map_err(VaultError::from),
            Err(_) => Err(VaultError::internal("a thread failed")),
        })
    })?;
    deliver(store.as_ref(), last, header, RetryPolicy::DEFAULT).map_err(VaultError::from)?;
    Ok(())
}
