//! `verify`: looks for damage at a named depth and leaves a signed record of what it found.

use std::collections::BTreeMap;

use serde::Serialize;

use super::reading::{Opened, ReadPlan};
use super::{Env, Event, Exit, OpError};
use crate::format::body::{FoundObject, VerifyBody};
use crate::format::record::RecordKind;
use crate::model::finding::{Finding, FindingKind};
use crate::model::name::ObjectName;
use crate::model::time::Timestamp;
use crate::state::keys::Role;
use crate::store::deliver::{RetryPolicy, deliver};
use crate::vault::VaultError;
use crate::vault::catalogue_reader::SnapshotReader;
use crate::vault::inventory::PageCache;
use crate::vault::unlock::unlock;
use crate::vault::verify::sealed::{ReadTimes, Share};
use crate::vault::verify::{Looked, Watch, list, opened, sealed};

/// Objects that a verify record names.
const RECORD_OBJECTS_MAX: usize = 200;

/// How deep to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Record chains, names, sizes.
    List,
    /// Stored bytes.
    Sealed,
    /// Content.
    Opened,
}

impl Depth {
    /// As it is written.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Sealed => "sealed",
            Self::Opened => "opened",
        }
    }
}

/// What to verify.
pub struct VerifyPlan {
    /// The copy, and who opens it for depth `opened`.
    pub read: ReadPlan,
    /// How deep.
    pub depth: Depth,
    /// Which part of the stored bytes.
    pub share: Share,
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyReceipt {
    /// The copy.
    pub store: String,
    /// How deep.
    pub depth: &'static str,
    /// Complete snapshots.
    pub snapshots: u64,
    /// Objects looked at.
    pub objects: u64,
    /// Stored bytes read, or bytes of content at depth `opened`.
    pub bytes: u64,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// Whether a record of it lies in the copy.
    pub recorded: bool,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl VerifyReceipt {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        Exit::of_findings(&self.findings)
    }
}

struct Told<'a>(&'a Env<'a>);

impl Watch for Told<'_> {
    fn total(&self, objects: u64, bytes: u64) {
        self.0.observer.event(Event::Total { items: Some(objects), bytes: Some(bytes) });
    }

    fn looked(&self, objects: u64, bytes: u64) {
        self.0.observer.event(Event::Advance { items: objects, bytes });
    }
}

/// Verifies a copy.
///
/// # Errors
/// When it is out of reach, is not the pinned vault, or went back in time. Damage is no error: it is what is looked for.
pub fn verify(plan: &VerifyPlan, env: &Env<'_>) -> Result<VerifyReceipt, OpError> {
    let started = env.clock.now();
    let found = match plan.depth {
        Depth::List => plan.read.open(env)?,
        // Records are stored bytes too.
        Depth::Sealed | Depth::Opened => plan.read.open_to_verify(env)?,
    };
    if plan.depth == Depth::Opened {
        plan.read.need_identity(&found)?;
    }
    let pages = PageCache::open(&found.context.state.cache().join("inventories"))?;
    env.step("listing");
    let listed = list(&found.copy, &found.records, &pages, env.cancel)?;
    let mut receipt = VerifyReceipt {
        store: found.copy.name(),
        depth: plan.depth.word(),
        snapshots: listed.needs.snapshots.len() as u64,
        objects: listed.looked.objects,
        bytes: 0,
        started,
        finished: started,
        recorded: false,
        findings: listed.looked.findings.clone(),
    };
    if plan.depth >= Depth::Sealed {
        env.step("reading stored bytes");
        let mut times = ReadTimes::open(&found.context.state.cache(), &found.copy.name());
        let looked = sealed::check(&found.copy, &listed, &pages, plan.share, &mut times, started, env.cancel, &Told(env))?;
        receipt.objects = looked.objects;
        receipt.bytes = looked.bytes;
        receipt.findings.extend(looked.findings);
    }
    if plan.depth == Depth::Opened {
        let looked = open_all(plan, &found, &listed.needs.snapshots, env)?;
        receipt.bytes = looked.bytes;
        receipt.findings.extend(looked.findings);
    }
    receipt.finished = env.clock.now();
    if plan.depth > Depth::List || receipt.exit() != Exit::Done {
        receipt.recorded = record(plan, &found, &receipt, env)?;
    }
    Ok(receipt)
}

fn open_all(
    plan: &VerifyPlan,
    found: &Opened,
    snapshots: &[crate::vault::snapshots::Snapshot],
    env: &Env<'_>,
) -> Result<Looked, OpError> {
    let unlocked = unlock(&found.copy, &plan.read.identities)?;
    let mut seen = opened::Seen::default();
    let mut all = Looked::default();
    // Newest first: it is the one that is needed first, and the older ones then have little that was not seen.
    for snapshot in snapshots.iter().rev() {
        env.step(format!("opening snapshot {} of {}", snapshot.id.short(), snapshot.time));
        let looked = SnapshotReader::open(&found.copy, snapshot, &unlocked, &found.context.state.cache())
            .and_then(|reader| opened::check(&reader, snapshot, &mut seen, env.cancel, &Told(env)));
        match looked {
            Ok(looked) => {
                all.objects += looked.objects;
                all.bytes += looked.bytes;
                all.findings.extend(looked.findings);
            }
            Err(VaultError::Interrupted) => return Err(VaultError::Interrupted.into()),
            Err(VaultError::Store(error)) if error.is_store_wide() => return Err(error.into()),
            Err(error) => {
                let mut finding = Finding::new(FindingKind::Damage, format!("snapshot {}", snapshot.id.short()), error);
                finding.snapshots = vec![snapshot.id.short()];
                all.findings.push(finding);
            }
        }
    }
    Ok(all)
}

/// Signs what was found, and delivers it if the copy takes it: the next push reads it.
fn record(plan: &VerifyPlan, found: &Opened, receipt: &VerifyReceipt, env: &Env<'_>) -> Result<bool, OpError> {
    let mut objects: BTreeMap<String, FindingKind> = BTreeMap::new();
    for finding in receipt.findings.iter().filter(|finding| finding.kind.is_alarm()) {
        if ObjectName::parse_stored(&finding.subject).is_ok() {
            objects.insert(finding.subject.clone(), finding.kind);
        }
    }
    let body = VerifyBody {
        depth: plan.depth.word().to_owned(),
        store: receipt.store.clone(),
        started: receipt.started,
        snapshots: receipt.snapshots,
        objects: receipt.objects,
        bytes: receipt.bytes,
        findings: receipt.findings.iter().filter(|finding| finding.kind != FindingKind::Notice).count() as u64,
        objects_found: objects
            .into_iter()
            .take(RECORD_OBJECTS_MAX)
            .map(|(object, kind)| FoundObject { object, kind })
            .collect(),
    };
    let role = if found.context.is_agent()? { Role::Agent } else { Role::Station };
    let mut scribe = found.context.scribe(role, env, found.copy.vault())?;
    super::custody::adopt_own(&mut scribe, &found.copy, &found.records)?;
    let context = found.context.record_context(env, found.copy.trust.head(), found.records.heads());
    let signed = scribe.write(RecordKind::Verify, &body, context)?;
    let sent = super::custody::deliver_missing(&scribe, &found.copy, &signed.name)
        .and_then(|()| Ok(deliver(found.copy.store.as_ref(), &signed.name, &signed.bytes, RetryPolicy::ONCE)?));
    Ok(sent.is_ok())
}
