//! One file a command: arguments in, plan out, receipt as text.

pub mod browse;
pub mod cat;
pub mod custodian;
pub mod drive;
pub mod init;
pub mod keys;
pub mod ledger;
pub mod manual;
pub mod probe;
pub mod prune;
pub mod push;
pub mod restore;
pub mod run;
pub mod serve;
pub mod sshd_config;
pub mod status;
pub mod sync;
pub mod trial;
pub mod verify;

pub use browse::entry_path;

use crate::cli::Session;
use crate::cli::config::ADHOC_JOB;
use crate::cli::passphrase::{IdentityArgs, identities};
use crate::cli::wire::{pin, reading_store};
use crate::ops::OpError;
use crate::ops::context::VaultPin;
use crate::ops::reading::ReadPlan;
use crate::ops::select::{Names, SnapshotQuery};
use crate::state::StateDir;
use crate::state::keys::KeyDir;

/// The snapshot that was asked for, in the zone of its job.
pub fn query(args: &restore::SnapshotArgs, session: &Session) -> SnapshotQuery {
    let job = args.job.as_ref().and_then(|job| session.config.jobs.get(job));
    let only = session.config.jobs.values().next().filter(|_| session.config.jobs.len() == 1);
    let timezone = job.or(only).and_then(|job| job.timezone.clone());
    SnapshotQuery {
        text: args.snapshot.clone(),
        job: args.job.clone(),
        host: args.host.clone(),
        timezone,
        whole_only: false,
    }
}

/// Host and job names that this machine can tell from their tokens: on the agent, those of its configuration.
pub fn known_names(session: &Session, pin: &VaultPin) -> Names {
    let secrets = pin
        .vault
        .and_then(|vault| StateDir::open(&session.state_root, vault).ok())
        .map(|state| crate::ops::push::secrets(&KeyDir::of(&state)))
        .unwrap_or_default();
    let jobs = session.config.jobs.keys().map(String::as_str).chain([ADHOC_JOB]);
    Names { secrets, series: jobs.map(|job| (session.host.clone(), job.to_owned())).collect() }
}

/// The copy that is meant, whom to trust about it, and who opens it.
pub fn read_plan(session: &Session, copy: &restore::CopyArgs, identity: &IdentityArgs) -> Result<ReadPlan, OpError> {
    let files = identity.read()?;
    let pin = pin(session, copy.trust.as_deref(), &files)?;
    let from = reading_store(session, copy.from.as_deref())?;
    let names = known_names(session, &pin);
    Ok(ReadPlan { pin, from, names, identities: identities(&files) })
}
