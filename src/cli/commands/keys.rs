//! `farkeep keys`

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::init::read_recipients;
use super::restore::CopyArgs;
use crate::cli::passphrase::{IdentityArgs, PassphraseArgs, identities};
use crate::cli::wire::{Opening, open_store, pin, reading_store, resolve};
use crate::cli::{Outcome, Session};
use crate::crypto::seal::Recipient;
use crate::crypto::sign::VerifyingKey;
use crate::ops::keys::end::Until;
use crate::ops::keys::{Candidate, KeysReceipt, Office, OwnKey, TrustPlan, TrustReceipt, enrol, new_epoch, print, retire};
use crate::ops::{Exit, OpError};

/// What to do with keys.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// Show whom the root trusts, the epochs, and the keys of this machine
    Print(PrintArgs),
    /// Have the root trust another key: a station's, so that its restores count, or a custodian's, which prunes and holds
    Enrol(EnrolArgs),
    /// Have the root trust a key no longer: what it has signed until now counts
    Retire(RetireArgs),
    /// Seal what is pushed from now on to a new epoch, which these operators open
    NewEpoch(NewEpochArgs),
}

/// Arguments of `farkeep keys print`.
#[derive(Debug, clap::Args)]
pub struct PrintArgs {
    #[command(flatten)]
    copy: CopyArgs,
}

/// What every change of trust needs.
#[derive(Debug, clap::Args)]
pub struct RootArgs {
    /// The root's private key: the file .root that `init` wrote, brought here for the moment
    #[arg(long, value_name = "FILE")]
    root: PathBuf,
    /// A copy; all of them must hear of it: repeat it for several [default: every store of the configuration]
    #[arg(long, value_name = "STORE")]
    store: Vec<String>,
    /// The root to trust: a file .root.pub or its fingerprint [default: the configuration]
    #[arg(long, value_name = "ROOTKEY")]
    trust: Option<String>,
}

/// Whose key it is.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Role {
    /// A machine that restores and keeps drives
    Station,
    /// A machine that prunes and holds
    Custodian,
}

/// Arguments of `farkeep keys enrol`.
#[derive(Debug, clap::Args)]
pub struct EnrolArgs {
    /// What it may sign
    #[arg(value_enum)]
    role: Role,
    /// Its public half, as a file or in OpenSSH form, or the fingerprint SHA256:... of a writer whose records lie in a copy
    /// [default: this machine's own key, made when there is none]
    #[arg(value_name = "KEY")]
    key: Option<String>,
    /// What people call it
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    root: RootArgs,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

/// Arguments of `farkeep keys retire`.
#[derive(Debug, clap::Args)]
pub struct RetireArgs {
    /// Its name, its fingerprint, or the beginning of what the ledger calls it, as `keys print` shows them
    #[arg(value_name = "KEY")]
    key: String,
    /// Its last record that counts, by its number and the beginning of its hash: an earlier one when it was stolen before now; a
    /// later one when more of it has turned up, and is true [default: the end of its chain, where that is beyond doubt]
    #[arg(long, value_name = "NUMBER-HASH")]
    until: Option<Until>,
    #[command(flatten)]
    root: RootArgs,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

/// Arguments of `farkeep keys new-epoch`.
#[derive(Debug, clap::Args)]
pub struct NewEpochArgs {
    /// Who opens it: age1...; repeat it for several [default: the files in keys/recipients beside the configuration]
    #[arg(long, value_name = "RECIPIENT")]
    recipient: Vec<String>,
    #[command(flatten)]
    root: RootArgs,
    #[command(flatten)]
    identity: IdentityArgs,
}

/// Runs it.
pub fn run(args: &Args, session: &Session) -> Result<Outcome, OpError> {
    let env = session.env();
    let receipt = match args {
        Args::Print(args) => {
            let pin = pin(session, args.copy.trust.as_deref(), &[])?;
            let store = reading_store(session, args.copy.from.as_deref())?;
            let receipt = print(&pin, &store, &env)?;
            session.progress.clear();
            return Ok(Outcome::new(Exit::Done, describe(&receipt), &receipt));
        }
        Args::Enrol(args) => {
            let office = match args.role {
                Role::Station => Office::Station,
                Role::Custodian => Office::Custodian,
            };
            let who = args.key.as_deref().map_or(Ok(Candidate::Here), candidate)?;
            enrol(&plan(&args.root, &args.passphrase, session)?, office, &who, args.name.as_deref(), &env)?
        }
        Args::Retire(args) => retire(&plan(&args.root, &args.passphrase, session)?, &args.key, args.until.as_ref(), &env)?,
        Args::NewEpoch(args) => {
            let recipients = recipients(args, session)?;
            let opened = identities(&args.identity.read()?);
            new_epoch(&plan(&args.root, &args.identity.passphrase, session)?, &recipients, &opened, &env)?
        }
    };
    session.progress.clear();
    Ok(Outcome::new(Exit::Done, describe_change(&receipt), &receipt))
}

fn plan(args: &RootArgs, passphrase: &PassphraseArgs, session: &Session) -> Result<TrustPlan, OpError> {
    let root = passphrase.signing_key(&args.root, "--root")?;
    let pin = pin(session, args.trust.as_deref(), &[])?;
    let configured: Vec<String> = session.config.stores.keys().cloned().collect();
    let named = if args.store.is_empty() { &configured } else { &args.store };
    let mut stores = Vec::new();
    for text in named {
        let (name, config) = resolve(session, text)?;
        stores.push(open_store(&name, &config, Opening::Existing)?);
    }
    Ok(TrustPlan { pin, stores, root })
}

fn candidate(text: &str) -> Result<Candidate, OpError> {
    if text.starts_with("SHA256:") {
        return Ok(Candidate::Fingerprint(text.to_owned()));
    }
    let wrong = |e: &dyn std::fmt::Display| OpError::Usage(format!("{text}: {e}: give a public key in OpenSSH form"));
    let key = match text.starts_with("ssh-") {
        true => text.to_owned(),
        false => std::fs::read_to_string(Path::new(text)).map_err(|e| wrong(&e))?,
    };
    VerifyingKey::from_openssh(&key).map(Candidate::Key).map_err(|e| wrong(&e))
}

fn recipients(args: &NewEpochArgs, session: &Session) -> Result<Vec<Recipient>, OpError> {
    if args.recipient.is_empty() {
        return Ok(read_recipients(session)?.into_iter().map(|(_, recipient)| recipient).collect());
    }
    let parse = |text: &String| text.parse().map_err(|e| OpError::Usage(format!("--recipient {text}: {e}")));
    args.recipient.iter().map(parse).collect()
}

fn describe(receipt: &KeysReceipt) -> String {
    let mut text = format!("root {} (trust record {})\n", receipt.roots.join(", "), receipt.seq);
    for writer in &receipt.writers {
        let until = writer.until.map(|seq| format!(", retired after its record {seq}")).unwrap_or_default();
        let _ = writeln!(text, "  {}  {}  {}{until}", writer.name, writer.fingerprint, writer.kinds.join(", "));
    }
    for epoch in &receipt.epochs {
        let _ = writeln!(text, "epoch {} opens for {}", epoch.n, epoch.sealed_to.join(", "));
    }
    for key in &receipt.here {
        let enrolled = match key {
            OwnKey { enrolled: true, .. } => "",
            OwnKey { retired: true, .. } => ", retired",
            _ => ", not enrolled",
        };
        let _ = writeln!(text, "this machine's {} key: {}{enrolled}\n  {}", key.role, key.fingerprint, key.public);
    }
    text
}

fn describe_change(receipt: &TrustReceipt) -> String {
    let mut text = String::new();
    if let Some(writer) = &receipt.writer {
        let (name, fingerprint) = (&writer.name, &writer.fingerprint);
        let _ = match writer.until {
            None => writeln!(text, "{name} ({fingerprint}) may sign {}", writer.kinds.join(", ")),
            Some(0) => writeln!(text, "{name} ({fingerprint}) is retired: nothing that it has signed counts"),
            Some(seq) => writeln!(text, "{name} ({fingerprint}) is retired: nothing after its record {seq} counts"),
        };
    }
    if let Some(epoch) = &receipt.epoch {
        let _ = writeln!(text, "epoch {} begins with the next push; it opens for {}", epoch.n, epoch.sealed_to.join(", "));
        text.push_str("whoever could open earlier epochs still can, and what was read before stays known\n");
    }
    let _ = writeln!(text, "trust record {} lies in {}", receipt.seq, receipt.stores.join(", "));
    text.push_str("take the root key away from this machine again\n");
    text
}
