//! One verb a file: a plan goes in, a receipt comes out, an observer is told on the way.
//!
//! Nothing here prints, parses arguments or knows a concrete store.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::ledger::LedgerError;
use crate::model::finding::{Finding, FindingKind};
use crate::model::time::Clock;
use crate::state::StateError;
use crate::store::StoreError;
use crate::target::TargetError;
use crate::vault::VaultError;

pub mod browse;
pub mod cat;
pub mod context;
pub mod custodian;
pub mod custody;
pub mod delivery;
pub mod drive;
pub mod hooks;
pub mod init;
pub mod keys;
pub mod ledger;
pub mod probe;
pub mod prune;
pub mod push;
pub mod reading;
pub mod restore;
pub mod run;
pub mod sections;
pub mod select;
pub mod status;
pub mod suspicion;
pub mod sync;
pub mod transfer;
pub mod verifications;
pub mod verify;

pub use context::Context;

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum Exit {
    /// All done.
    Done = 0,
    /// Not done.
    NotDone = 1,
    /// Wrong use: nothing was begun.
    Usage = 2,
    /// Done, with findings or warnings.
    Findings = 3,
    /// Damage, rollback, fork: stored data or records cannot be trusted.
    Alarm = 4,
    /// No store could be reached.
    Unreachable = 5,
    /// Another farkeep is at work, or a drive is not present.
    Busy = 75,
    /// Stopped by a signal.
    Interrupted = 130,
}

impl Exit {
    /// The graver of two, in the order 130, 4, 1, 5, 3.
    #[must_use]
    pub fn worst(self, other: Self) -> Self {
        const ORDER: [Exit; 8] = [
            Exit::Interrupted,
            Exit::Alarm,
            Exit::NotDone,
            Exit::Usage,
            Exit::Unreachable,
            Exit::Busy,
            Exit::Findings,
            Exit::Done,
        ];
        if ORDER.iter().position(|e| *e == self) <= ORDER.iter().position(|e| *e == other) { self } else { other }
    }

    /// What findings make of a command that was done.
    #[must_use]
    pub fn of_findings(findings: &[Finding]) -> Self {
        findings.iter().fold(Self::Done, |exit, finding| {
            exit.worst(match finding.kind {
                FindingKind::Notice => Self::Done,
                FindingKind::Source
                | FindingKind::Target
                | FindingKind::Behind
                | FindingKind::Suspect
                | FindingKind::Mended => Self::Findings,
                FindingKind::Stranger | FindingKind::Damage | FindingKind::Trust => Self::Alarm,
            })
        })
    }
}

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub enum OpError {
    /// The vault, a store or a source failed.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The target of a restore failed.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The command cannot mean this.
    #[error("{0}")]
    Usage(String),
    /// It was not done, for the reason given.
    #[error("{0}")]
    NotDone(String),
    /// What is there is not what it should be: it is not touched.
    #[error("{0}")]
    Mismatch(String),
}

impl OpError {
    /// The exit code that belongs to it.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) | Self::Vault(VaultError::NoSnapshot(_)) => Exit::Usage,
            Self::NotDone(_)
            | Self::Target(TargetError::Full { .. } | TargetError::Unusable { .. } | TargetError::Entry { .. }) => {
                Exit::NotDone
            }
            Self::Mismatch(_) | Self::Target(TargetError::Content { .. }) => Exit::Alarm,
            Self::Vault(error) => match error {
                VaultError::Store(StoreError::Unreachable(_) | StoreError::Login(_)) => Exit::Unreachable,
                VaultError::Store(StoreError::HostKey(_) | StoreError::UnknownHostKey(_))
                | VaultError::Damaged { .. }
                | VaultError::Ledger(_) => Exit::Alarm,
                VaultError::State(StateError::Busy(_)) | VaultError::Absent(_) => Exit::Busy,
                VaultError::Interrupted | VaultError::Store(StoreError::Interrupted) => Exit::Interrupted,
                _ => Exit::NotDone,
            },
        }
    }
}

impl From<StoreError> for OpError {
    fn from(error: StoreError) -> Self {
        Self::Vault(error.into())
    }
}

impl From<StateError> for OpError {
    fn from(error: StateError) -> Self {
        Self::Vault(error.into())
    }
}

impl From<LedgerError> for OpError {
    fn from(error: LedgerError) -> Self {
        Self::Vault(error.into())
    }
}

impl From<crate::ledger::scribe::ScribeError> for OpError {
    fn from(error: crate::ledger::scribe::ScribeError) -> Self {
        Self::Vault(error.into())
    }
}

/// What an operation tells while it runs.
#[derive(Debug, Clone)]
pub enum Event {
    /// A step begins.
    Step(String),
    /// So much is to be done, where that is known.
    Total {
        /// Entries or objects.
        items: Option<u64>,
        /// Bytes.
        bytes: Option<u64>,
    },
    /// So much more is done.
    Advance {
        /// Entries or objects.
        items: u64,
        /// Bytes.
        bytes: u64,
    },
    /// So many bytes have been sent to each store so far.
    Sent(Vec<(String, u64)>),
    /// Something was found.
    Finding(Finding),
}

/// Is told what happens.
pub trait Observer: Sync {
    /// One thing happened.
    fn event(&self, event: Event);
}

/// An observer that listens to nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _: Event) {}
}

/// What every operation is given: time, place, who listens, when to stop.
#[derive(Clone, Copy)]
pub struct Env<'a> {
    /// The present.
    pub clock: &'a dyn Clock,
    /// Who is told.
    pub observer: &'a dyn Observer,
    /// Set from outside to stop.
    pub cancel: &'static AtomicBool,
    /// What this machine is called.
    pub host: &'a str,
    /// The account that runs this.
    pub user: &'a str,
    /// The state directory of all vaults.
    pub state_root: &'a PathBuf,
}

impl Env<'_> {
    /// Announces a step.
    pub fn step(&self, text: impl Into<String>) {
        self.observer.event(Event::Step(text.into()));
    }

    /// Stops when that was asked for.
    ///
    /// # Errors
    /// [`VaultError::Interrupted`].
    pub fn check_cancel(&self) -> Result<(), VaultError> {
        if self.cancel.load(Ordering::Relaxed) { Err(VaultError::Interrupted) } else { Ok(()) }
    }
}
