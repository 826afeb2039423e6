//! `farkeep cat`

use super::restore::{CopyArgs, SnapshotArgs};
use crate::cli::passphrase::IdentityArgs;
use crate::cli::{Outcome, Session, commands};
use crate::ops::cat::{CatPlan, cat};
use crate::ops::{Exit, OpError};

/// Arguments of `farkeep cat`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    snapshot: SnapshotArgs,
    /// The file
    #[arg(value_name = "PATH")]
    path: String,
    #[command(flatten)]
    copy: CopyArgs,
    #[command(flatten)]
    identity: IdentityArgs,
    /// Why, for the ledger
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Case number, for the ledger
    #[arg(long, value_name = "ID")]
    ticket: Option<String>,
}

/// Runs it. The content goes to standard output alone; with `--json` it is refused, since both cannot stand there.
pub fn run(args: &Args, session: &Session) -> Result<Outcome, OpError> {
    if session.json {
        return Err(OpError::Usage("cat writes the file to standard output: --json has no place there".into()));
    }
    let plan = CatPlan {
        read: commands::read_plan(session, &args.copy, &args.identity)?,
        query: commands::query(&args.snapshot, session),
        path: commands::entry_path(&args.path)?,
        reason: args.reason.clone(),
        ticket: args.ticket.clone(),
    };
    session.progress.clear();
    let mut output = std::io::BufWriter::with_capacity(1 << 18, std::io::stdout());
    cat(&plan, &mut output, &session.env())?;
    Ok(Outcome::new(Exit::Done, String::new(), &()))
}
