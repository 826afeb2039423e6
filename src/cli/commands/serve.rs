//! `farkeep serve`

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::cli::{CANCEL, Outcome, Session};
use crate::ops::{Exit, OpError};
use crate::store::sftp::serve::{Layout, ServeOptions, Server};

/// How often it looks whether it should end.
const TICK: Duration = Duration::from_millis(100);

/// Arguments of `farkeep serve`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory that clients see as /
    #[arg(value_name = "DIR")]
    root: PathBuf,
    /// Address to listen on; port 0 picks one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:2022")]
    listen: SocketAddr,
    /// Public keys that may read and make files, never change or remove them (authorized_keys form)
    #[arg(long, value_name = "FILE", required = true)]
    authorized_keys: PathBuf,
    /// Public keys that may only read
    #[arg(long, value_name = "FILE")]
    readers: Option<PathBuf>,
    /// Private host key in OpenSSH form [default: one made for this run]
    #[arg(long, value_name = "FILE")]
    host_key: Option<PathBuf>,
    /// Let clients make directories: for `farkeep init` on an empty directory
    #[arg(long)]
    allow_mkdir: bool,
}

/// Runs it, until a signal ends it.
pub fn run(args: &Args, session: &Session) -> Result<Outcome, OpError> {
    let read =
        |path: &PathBuf| std::fs::read_to_string(path).map_err(|e| OpError::Usage(format!("{}: {e}", path.display())));
    let keys = |text: String| -> Vec<String> {
        text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned).collect()
    };
    let options = ServeOptions {
        root: args.root.clone(),
        listen: args.listen,
        host_key: args.host_key.as_ref().map(read).transpose()?,
        authorized: keys(read(&args.authorized_keys)?),
        readers: args.readers.as_ref().map(read).transpose()?.map(keys).unwrap_or_default(),
        layout: if args.allow_mkdir { Layout::AllowMkdir } else { Layout::Fixed },
    };
    let running = Server::start(options).map_err(|e| OpError::NotDone(e.to_string()))?;
    session.progress.clear();
    session.say(&format!(
        "serving {} write-once on {}, host key {}; Ctrl-C ends it",
        args.root.display(),
        running.address(),
        running.host_fingerprint()
    ));
    while !CANCEL.load(Ordering::Relaxed) {
        std::thread::sleep(TICK);
    }
    running.stop();
    Ok(Outcome::new(Exit::Done, String::new(), &()))
}
