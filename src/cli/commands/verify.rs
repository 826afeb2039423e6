//! `farkeep verify`

use std::fmt::Write as _;

use super::restore::CopyArgs;
use crate::cli::passphrase::IdentityArgs;
use crate::cli::{Outcome, Session, commands, render};
use crate::model::size::human_size;
use crate::model::time::parse_duration_secs;
use crate::ops::verify::{Depth, VerifyPlan, VerifyReceipt, verify};
use crate::ops::{Exit, OpError};
use crate::vault::verify::sealed::Share;

/// Arguments of `farkeep verify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// list: names and sizes; sealed: stored bytes, without any key; opened: content, with an identity
    #[arg(long, value_name = "DEPTH", value_parser = ["list", "sealed", "opened"], default_value = "sealed")]
    depth: String,
    /// Read only so much of the stored bytes, what was read longest ago first: 5%
    #[arg(long, value_name = "PERCENT", conflicts_with = "within")]
    sample: Option<String>,
    /// Read so much that, run regularly, every object is read within this time: 30d
    #[arg(long, value_name = "TIME")]
    within: Option<String>,
    /// Mend what is damaged with the parity that lies beside it on a drive; no key is needed
    #[arg(long)]
    repair: bool,
    /// Where the copy was rolled back and you know why (its server was restored from an image): read all of it, put that on
    /// record, and go on with it as it is
    #[arg(long, conflicts_with_all = ["sample", "within"])]
    accept_rollback: bool,
    #[command(flatten)]
    copy: CopyArgs,
    #[command(flatten)]
    identity: IdentityArgs,
}

/// Runs it.
pub fn run(args: &Args, session: &Session) -> Result<Outcome, OpError> {
    let depth = match args.depth.as_str() {
        "list" => Depth::List,
        "opened" => Depth::Opened,
        _ => Depth::Sealed,
    };
    if args.repair && depth == Depth::List {
        return Err(OpError::Usage("--repair needs --depth sealed or opened: what was not read cannot be mended".into()));
    }
    if args.accept_rollback && depth == Depth::List {
        let why = "--accept-rollback needs --depth sealed or opened: what is taken as it is must have been read";
        return Err(OpError::Usage(why.into()));
    }
    let plan = VerifyPlan {
        read: commands::read_plan(session, &args.copy, &args.identity)?,
        depth,
        share: share(args)?,
        repair: args.repair,
        accept_rollback: args.accept_rollback,
    };
    let receipt = verify(&plan, &session.env())?;
    session.progress.clear();
    Ok(Outcome::new(receipt.exit(), describe(&receipt), &receipt))
}

fn share(args: &Args) -> Result<Share, OpError> {
    if let Some(text) = &args.sample {
        let percent = text.strip_suffix('%').and_then(|n| n.trim().parse::<f64>().ok());
        return match percent {
            Some(percent) if percent > 0.0 && percent <= 100.0 => Ok(Share::Fraction(percent / 100.0)),
            _ => Err(OpError::Usage(format!("--sample {text}: write a percentage from 0 to 100, as in 5%"))),
        };
    }
    match &args.within {
        None => Ok(Share::All),
        Some(text) => {
            let secs = parse_duration_secs(text).map_err(|e| OpError::Usage(format!("--within: {e}")))?;
            Ok(Share::Within(secs))
        }
    }
}

fn describe(receipt: &VerifyReceipt) -> String {
    let mut text = String::new();
    let secs = receipt.finished.secs_since(receipt.started).max(0);
    let bytes = if receipt.bytes > 0 { format!(", {} read", human_size(receipt.bytes)) } else { String::new() };
    let verdict = match receipt.exit() {
        Exit::Done => "all right",
        Exit::Alarm => "DAMAGED",
        _ => "see below",
    };
    let _ = writeln!(
        text,
        "{} ({}): {verdict}: {}, {} looked at{bytes} in {secs} s",
        receipt.store,
        receipt.depth,
        render::count(receipt.snapshots, "snapshot"),
        render::count(receipt.objects, "object"),
    );
    if receipt.mended > 0 {
        let _ = writeln!(text, "  {} mended by parity", render::count(receipt.mended, "object"));
    }
    render::findings(&mut text, &receipt.findings);
    text
}
