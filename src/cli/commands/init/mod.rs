//! `farkeep init`

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::cli::passphrase::IdentityArgs;
use crate::cli::presets;
use crate::cli::wire::{Opening, open_store};
use crate::cli::{Outcome, Session, can_ask};
use crate::crypto::seal::Recipient;
use crate::crypto::sign::VerifyingKey;
use crate::model::name::Area;
use crate::ops::init::{InitPlan, InitReceipt, init};
use crate::ops::keys::end::Until;
use crate::ops::{Exit, OpError};
use crate::store::StoreError;

mod adopt;
mod configuration;

pub(in crate::cli) use configuration::write_whole;

/// Arguments of `farkeep init`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the vault goes: sftp://user@host[:port]/path, file:///path or a path [default: the stores of the configuration]
    #[arg(long, value_name = "URL")]
    store: Vec<String>,
    /// Write the operator's new identity here, and the root key beside it; carry both away
    #[arg(long, value_name = "FILE", required_unless_present_any = ["layout", "preset", "adopt"])]
    identity_out: Option<PathBuf>,
    /// Make no vault, but this machine the agent of the one that lies there: in place of a machine that is lost, or with new
    /// keys. Needs --root and --identity
    #[arg(long, conflicts_with_all = ["identity_out", "layout", "preset", "custodian", "no_passphrase"], requires_all = ["root", "identity"])]
    adopt: bool,
    /// With --adopt: the root's private key, the file .root that `init` wrote, brought here for the moment
    #[arg(long, value_name = "FILE", requires = "adopt")]
    root: Option<PathBuf>,
    /// With --adopt: the last record of the agent before that counts, where that is not clear by itself
    #[arg(long, value_name = "NUMBER-HASH", requires = "adopt")]
    until: Option<Until>,
    #[command(flatten)]
    identity: IdentityArgs,
    /// Only make the directories of a vault below DIR, with DIR's own owner, group and mode: run on the server, for an account
    /// that cannot make any
    #[arg(long, value_name = "DIR", conflicts_with_all = ["store", "identity_out"])]
    layout: Option<PathBuf>,
    /// Only add a commented job for a known system to the configuration: to be read, adapted and pushed
    #[arg(long, value_name = "NAME", conflicts_with_all = ["store", "identity_out", "layout"], value_parser = presets::NAMES)]
    preset: Option<String>,
    /// Leave identity and root key without a passphrase
    #[arg(long, conflicts_with_all = ["passphrase_fd", "passphrase_file"])]
    no_passphrase: bool,
    /// Private key for SSH
    #[arg(long, value_name = "FILE")]
    ssh_key: Option<PathBuf>,
    /// Fingerprint of the server's host key, SHA256:...
    #[arg(long, value_name = "FINGERPRINT")]
    host_key: Vec<String>,
    /// Let another machine decide what is pruned: the public key of its custodian, in OpenSSH form
    #[arg(long, value_name = "FILE.pub")]
    custodian: Option<PathBuf>,
    /// Ask nothing
    #[arg(long)]
    yes: bool,
}

/// Runs it.
pub fn run(args: &Args, session: &Session) -> Result<Outcome, OpError> {
    if let Some(name) = &args.preset {
        return presets::add(name, session);
    }
    if let (true, Some(root)) = (args.adopt, &args.root) {
        return adopt::run(args, root, session);
    }
    if !args.identity.identity.is_empty() {
        return Err(OpError::Usage("--identity: only --adopt opens a vault; --identity-out names the new identity".into()));
    }
    let identity_out = match (&args.layout, &args.identity_out) {
        (Some(dir), _) => return layout(dir),
        (None, Some(file)) => file.clone(),
        (None, None) => return Err(OpError::Usage("--identity-out names the file of the operator's new identity".into())),
    };
    if let Some(vault) = session.config.vault {
        let path = session.config_path.display();
        return Err(OpError::Usage(format!(
            "{path}: names vault {vault} already; another vault needs another configuration"
        )));
    }
    let stores = configuration::stores(args, session)?;
    let passphrase =
        if args.no_passphrase { None } else { Some(args.identity.passphrase.for_new("identity and root key")?) };
    let recipients = read_recipients(session)?;
    if !args.yes && can_ask() {
        session.progress.clear();
    }
    let mut opened = Vec::new();
    for (name, config) in &stores {
        let store = open_store(name, config, Opening::Create).map_err(|error| match error {
            // No answer can be asked for here: what was left out is an option.
            StoreError::UnknownHostKey(why) => OpError::Usage(format!("{why}, or give it with --host-key")),
            error => error.into(),
        })?;
        opened.push(store);
    }
    let jobs: Vec<String> = session.config.jobs.keys().cloned().collect();
    let custodian = args.custodian.as_deref().map(read_custodian).transpose()?;
    let plan = InitPlan { stores: opened, identity_out, passphrase, recipients, custodian };
    let receipt = init(&plan, &jobs, &session.env())?;
    let written = write_recipient(session, &receipt)
        .and_then(|()| configuration::write(session, &stores, &receipt.vault, &receipt.root, None));
    written.map_err(|error| {
        OpError::NotDone(format!(
            "{error}; the vault is made, and {} and the two files beside it are its keys. Its [vault] is still to be written into \
             the configuration: id = \"{}\", root = \"{}\"",
            receipt.identity_file.display(),
            receipt.vault,
            receipt.root
        ))
    })?;
    session.progress.clear();
    let exit = if receipt.missed.is_empty() { Exit::Done } else { Exit::Findings };
    Ok(Outcome::new(exit, render(session, &receipt, args.no_passphrase), &receipt))
}

fn read_custodian(path: &Path) -> Result<VerifyingKey, OpError> {
    let wrong = |e: &dyn std::fmt::Display| OpError::Usage(format!("--custodian {}: {e}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| wrong(&e))?;
    VerifyingKey::from_openssh(&text).map_err(|e| wrong(&e))
}

/// Makes the directories of a vault on the server itself. They look like the one that they lie in.
fn layout(dir: &Path) -> Result<Outcome, OpError> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let failed = |path: &Path, e: std::io::Error| OpError::NotDone(format!("{}: {e}", path.display()));
    let like = std::fs::metadata(dir).map_err(|e| failed(dir, e))?;
    if !like.is_dir() {
        return Err(OpError::Usage(format!("{}: is no directory", dir.display())));
    }
    let mut made = 0_u64;
    for name in Area::layout() {
        let path = dir.join(name);
        match std::fs::create_dir(&path) {
            Ok(()) => made += 1,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => {}
            Err(e) => return Err(failed(&path, e)),
        }
        std::os::unix::fs::chown(&path, Some(like.uid()), Some(like.gid())).map_err(|e| failed(&path, e))?;
        // After the owner, since a change of owner takes the setgid bit away.
        let mode = std::fs::Permissions::from_mode(like.mode() & 0o7777);
        std::fs::set_permissions(&path, mode).map_err(|e| failed(&path, e))?;
    }
    let text = format!(
        "{} made below {}, owned by {}:{}, mode {:04o}\n",
        crate::cli::render::count(made, "directory").replace("directorys", "directories"),
        dir.display(),
        like.uid(),
        like.gid(),
        like.mode() & 0o7777
    );
    Ok(Outcome::new(Exit::Done, text, &serde_json::json!({ "made": made })))
}

/// Public keys of other operators: one file each in `keys/recipients` beside the configuration.
pub(super) fn read_recipients(session: &Session) -> Result<Vec<(String, Recipient)>, OpError> {
    let dir = session.config_dir().join("keys/recipients");
    let Ok(entries) = std::fs::read_dir(&dir) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        let shown = path.display().to_string();
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") || name.as_encoded_bytes().starts_with(b"README") {
            continue;
        }
        // Somebody is left out otherwise, and nobody is told.
        if path.extension().is_none_or(|extension| extension != "txt") {
            return Err(OpError::Usage(format!("{shown}: a recipient's file ends in .txt: rename it, or move it away")));
        }
        if !path.is_file() {
            return Err(OpError::Usage(format!("{shown}: is no file")));
        }
        let text = std::fs::read_to_string(&path).map_err(|e| OpError::Usage(format!("{shown}: {e}")))?;
        let before = found.len();
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            found.push((shown.clone(), line.parse().map_err(|e| OpError::Usage(format!("{shown}: {e}")))?));
        }
        if found.len() == before {
            return Err(OpError::Usage(format!(
                "{shown}: names no recipient: move it away, or write the line age1... into it"
            )));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

fn write_recipient(session: &Session, receipt: &InitReceipt) -> Result<(), OpError> {
    let dir = session.config_dir().join("keys/recipients");
    std::fs::create_dir_all(&dir).map_err(|e| OpError::NotDone(format!("{}: {e}", dir.display())))?;
    let path = dir.join(format!("{}.txt", &receipt.recipient[..16.min(receipt.recipient.len())]));
    let owner = format!("{}@{}", session.user, session.host);
    let now = crate::model::time::Clock::now(&crate::model::time::SystemClock);
    let text = format!("# owner: {owner}\n# date: {now}\n# vault: {}\n{}\n", receipt.vault, receipt.recipient);
    std::fs::write(&path, text).map_err(|e| OpError::NotDone(format!("{}: {e}", path.display())))
}

fn render(session: &Session, receipt: &InitReceipt, no_passphrase: bool) -> String {
    let mut text = String::new();
    let InitReceipt { identity_file, root_file, root_public_file, .. } = receipt;
    let _ = writeln!(text, "vault {} is made in {}", receipt.vault, receipt.stores.join(", "));
    for (name, why) in &receipt.missed {
        let _ = writeln!(text, "{name}: no copy yet: {why}; `farkeep sync {name} --from` a store that has one makes it one");
    }
    let _ = writeln!(text, "\ncarry these away from this machine, and keep them apart from it:");
    let _ = writeln!(text, "  {}   opens every backup", identity_file.display());
    let _ = writeln!(text, "  {}   decides whom to trust", root_file.display());
    let _ = writeln!(text, "  {}   public: names the root at a restore", root_public_file.display());
    if no_passphrase {
        let _ = writeln!(text, "they have no passphrase: whoever has the files can read the backups");
    }
    let _ = writeln!(text, "\nwho can open the vault:");
    let _ = writeln!(text, "  its operator, with {}   {}", identity_file.display(), receipt.recipient);
    for (file, recipient) in &receipt.recipients {
        let _ = writeln!(text, "  whoever has the identity of {file}   {recipient}");
    }
    let _ = writeln!(text, "\nwrite on paper:");
    let _ = writeln!(text, "  root         {}", receipt.root);
    let _ = writeln!(text, "  recover.py   b3sum {}", receipt.recover_script);
    if !receipt.series.is_empty() {
        let _ = writeln!(text, "\nfor whoever cares for the vault without a key (retention by series):");
        for (job, token) in &receipt.series {
            let _ = writeln!(text, "  {job}   {token}");
        }
    }
    let _ = writeln!(text, "\nthe configuration is {}; next: farkeep push", session.config_path.display());
    text
}
