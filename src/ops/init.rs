//! `init`: makes a vault in one or more stores, and the keys that belong to it.
//!
//! The private halves that open and trust go into files for the operator, written and synced before anything is uploaded;
//! nothing of them stays here. The header is uploaded last, when everything else lies in every store: before that there is no
//! vault, and when anything fails until then, keys that would open nothing are removed again.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::context::NamedStore;
use super::keys::refuse_too_many;
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
use crate::vault::copy::keep_key_file;
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
    /// Who else can open the vault: what each one's file is called, and the public key.
    pub recipients: Vec<(String, String)>,
    /// The private half of the operator's key: carry it away.
    pub identity_file: PathBuf,
    /// The private root key: carry it away.
    pub root_file: PathBuf,
    /// The public root key.
    pub root_public_file: PathBuf,
    /// The copies.
    pub stores: Vec<String>,
    /// Stores that took everything but the header, and why: no copy of the vault yet.
    pub missed: Vec<(String, String)>,
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
            return Err(OpError::Usage(format!(
                "{}: exists already and is not overwritten: give another --identity-out",
                file.display()
            )));
        }
    }
    let dir = directory_of(&plan.identity_out);
    if !dir.is_dir() {
        return Err(OpError::Usage(format!("--identity-out: {}: there is no such directory", dir.display())));
    }
    // The operator's own is one of them.
    refuse_too_many(plan.recipients.len() + 1)?;
    for named in &plan.stores {
        refuse_existing(named)?;
    }

    env.step("making keys");
    let operator = Identity::generate();
    let mut recipients = vec![operator.recipient()];
    recipients.extend(plan.recipients.iter().map(|(_, recipient)| recipient.clone()));
    let made = create(&recipients, &format!("agent@{}", env.host), plan.custodian.as_ref(), env.clock.now())?;
    let pin = RootPin::of(&made.root.verifier());
    let mut written = Vec::new();
    prepare(plan, &made, &operator, &mut written, env).inspect_err(|_| remove_keys(&written, &made, env))?;
    let missed = upload_headers(plan, &made, &pin)?;
    let holds_it = |named: &&NamedStore| !missed.iter().any(|(name, _)| *name == named.name);
    let script = made.objects.iter().find(|(name, _)| *name == ObjectName::RecoverScript(1));
    Ok(InitReceipt {
        vault: made.vault.to_string(),
        root: pin.to_string(),
        recipient: operator.recipient().to_string(),
        recipients: plan.recipients.iter().map(|(name, recipient)| (name.clone(), recipient.to_string())).collect(),
        identity_file: plan.identity_out.clone(),
        root_file,
        root_public_file,
        stores: plan.stores.iter().filter(holds_it).map(|named| named.store.location().to_string()).collect(),
        missed,
        series: jobs.iter().map(|job| (job.clone(), made.secret.series(env.host, job).to_string())).collect(),
        recover_script: script.map(|(_, bytes)| crate::crypto::hash::hash(bytes).to_string()).unwrap_or_default(),
    })
}

/// All that comes before the headers. Files of keys are noted in `written`.
fn prepare(
    plan: &InitPlan,
    made: &NewVault,
    operator: &Identity,
    written: &mut Vec<PathBuf>,
    env: &Env<'_>,
) -> Result<(), OpError> {
    for (file, content, mode) in operator_files(plan, made, operator, env)? {
        write_new(&file, &content, mode)?;
        written.push(file);
    }
    keep_agent_keys(made, env)?;
    for named in &plan.stores {
        env.step(format!("writing the vault to {}", named.name));
        upload(named, made)?;
    }
    Ok(())
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

/// A file with its mode.
type NewFile = (PathBuf, zeroize::Zeroizing<Vec<u8>>, u32);

/// The files that the operator carries away.
fn operator_files(plan: &InitPlan, made: &NewVault, operator: &Identity, env: &Env<'_>) -> Result<[NewFile; 3], OpError> {
    let pin = RootPin::of(&made.root.verifier());
    let identity = zeroize::Zeroizing::new(format!(
        "# farkeep operator identity, made {} on {}\n# public key: {}\n# vault: {}\n# root: {pin}\n{}\n",
        env.clock.now(),
        env.host,
        operator.recipient(),
        made.vault,
        operator.to_text().as_str()
    ));
    let root = made.root.to_openssh().map_err(VaultError::internal)?;
    let public = format!("{} farkeep root of vault {}\n", made.root.verifier().to_openssh(), made.vault);
    let secret = |content: &[u8]| match plan.passphrase.as_ref() {
        Some(passphrase) => seal_with_passphrase(content, passphrase).map_err(VaultError::internal),
        None => Ok(content.to_vec()),
    };
    Ok([
        (plan.identity_out.clone(), secret(identity.as_bytes())?.into(), 0o600),
        (with_suffix(&plan.identity_out, ".root"), secret(root.as_bytes())?.into(), 0o600),
        (with_suffix(&plan.identity_out, ".root.pub"), public.into_bytes().into(), 0o644),
    ])
}

/// The directory that a file lies in.
fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a file that was not there; where that fails, it is not there.
fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), OpError> {
    let failed = |e: std::io::Error| OpError::NotDone(format!("{}: {e}", path.display()));
    let mut file = OpenOptions::new().create_new(true).write(true).mode(mode).open(path).map_err(failed)?;
    let mut write = || -> std::io::Result<()> {
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::File::open(directory_of(path))?.sync_all()
    };
    write().inspect_err(|_| drop(std::fs::remove_file(path))).map_err(failed)
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
    // The first push would have to fetch them.
    for (name, bytes) in made.objects.iter().filter(|(name, _)| name.area() == Area::Keys) {
        keep_key_file(&state, name, bytes)?;
    }
    Ok(())
}

/// Removes what was made here for a vault that does not come to be: none of the files was there before.
fn remove_keys(files: &[PathBuf], made: &NewVault, env: &Env<'_>) {
    for file in files {
        let _ = std::fs::remove_file(file);
    }
    if let Ok(state) = StateDir::open(env.state_root, made.vault) {
        state.remove();
    }
}

/// Makes the directories and uploads all objects but the header.
fn upload(named: &NamedStore, made: &NewVault) -> Result<(), OpError> {
    let store = &named.store;
    store.make_dirs(&Area::layout()).map_err(VaultError::from)?;
    let Some((_header, first)) = made.objects.split_last() else { return Ok(()) };
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
    Ok(())
}

/// Uploads the header, which makes it a vault; returns the stores that did not take it.
fn upload_headers(plan: &InitPlan, made: &NewVault, pin: &RootPin) -> Result<Vec<(String, String)>, OpError> {
    let Some((name, header)) = made.objects.last() else { return Ok(Vec::new()) };
    let mut missed = Vec::new();
    for named in &plan.stores {
        if let Err(error) = deliver(named.store.as_ref(), name, header, RetryPolicy::DEFAULT) {
            missed.push((named.name.clone(), error.to_string()));
        }
    }
    if missed.len() < plan.stores.len() {
        return Ok(missed);
    }
    // The last answer may have been lost, and not the header.
    let why: Vec<String> = missed.iter().map(|(name, why)| format!("{name}: {why}")).collect();
    Err(OpError::NotDone(format!(
        "{}: it is not known whether the vault was made. Where a {name} lies, it was: then {} and the two files beside it are its \
         keys, and [vault] with id = \"{}\" and root = \"{pin}\" belongs into the configuration. Where none does, remove the \
         three files and begin again (what of it lies in the state directory opens nothing)",
        why.join("; "),
        plan.identity_out.display(),
        made.vault
    )))
}
