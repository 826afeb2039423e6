//! `verify`: looks for damage at a named depth and leaves a signed record of what it found.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::drive::drive_of;
use super::reading::{Opened, ReadPlan};
use super::{Env, Event, Exit, OpError};
use crate::format::record::Head;
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::{ObjectHash, WriterId};
use crate::model::name::ObjectName;
use crate::model::size;
use crate::model::time::Timestamp;
use crate::store::Store;
use crate::store::kept::Kept;
use crate::target::free_bytes;
use crate::vault::VaultError;
use crate::vault::catalogue_reader::SnapshotReader;
use crate::vault::inventory::PageCache;
use crate::vault::parity::mend;
use crate::vault::snapshots::Snapshot;
use crate::vault::unlock::unlock;
use crate::vault::verify::sealed::{ReadTimes, Reading, Share};
use crate::vault::verify::{Listed, Looked, Watch, list, opened, sealed};
use record::{lost_since, of_note, record};

mod record;

/// A root leads to pages, pages to the rest: nothing is hidden deeper than that.
const REPAIR_ROUNDS: usize = 3;
/// What is read over a line may take such a part of this machine's free room until it is opened: a quarter.
const KEPT_PART: u64 = 4;

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
    /// Mend what is damaged with the parity that lies beside it.
    pub repair: bool,
    /// Where it was rolled back, take it as it is.
    pub accept_rollback: bool,
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
    /// Objects that parity mended.
    pub mended: u64,
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
/// When it is out of reach, is not the pinned vault, or went back in time and that is not to be accepted. Damage is no error:
/// it is what is looked for.
pub fn verify(plan: &VerifyPlan, env: &Env<'_>) -> Result<VerifyReceipt, OpError> {
    let started = env.clock.now();
    let (mut found, gone) = open(plan, env)?;
    if plan.depth == Depth::Opened {
        plan.read.need_identity(&found)?;
    }
    let pages = PageCache::open(&found.context.state.cache().join("inventories"))?;
    env.step("listing");
    let mut listed = list(&found.copy, &found.records, &pages, env.cancel)?;
    listed.looked.findings.extend(lost_since(&found, &listed, &gone)?);
    let mut receipt = VerifyReceipt {
        store: found.copy.name(),
        depth: plan.depth.word(),
        snapshots: listed.needs.snapshots.len() as u64,
        objects: listed.looked.objects,
        bytes: 0,
        mended: 0,
        started,
        finished: started,
        recorded: false,
        findings: listed.looked.findings.clone(),
    };
    let kept = room_for_opening(plan, &found);
    if plan.depth >= Depth::Sealed {
        read_stored(plan.share, &found, &listed, &pages, kept.as_deref(), &mut receipt, env)?;
        let mut rounds = 0;
        while plan.repair && rounds < REPAIR_ROUNDS && repair(&found, &listed.needs.behind, &mut receipt, env)? {
            // What a mended inventory lists was not looked at before.
            listed = list(&found.copy, &found.records, &pages, env.cancel)?;
            listed.looked.findings.extend(lost_since(&found, &listed, &gone)?);
            receipt.snapshots = listed.needs.snapshots.len() as u64;
            receipt.findings.retain(|finding| finding.kind == FindingKind::Mended);
            receipt.findings.extend(listed.looked.findings.iter().cloned());
            read_stored(plan.share, &found, &listed, &pages, None, &mut receipt, env)?;
            rounds += 1;
        }
    }
    let mut share = plan.share;
    if plan.depth == Depth::Opened {
        let looked = open_all(plan, &found, &listed.needs.snapshots, kept, env)?;
        if share != Share::All && looked.findings.iter().any(|finding| finding.kind.is_alarm()) {
            // Content is damaged, and it was not read what of the stored bytes is: only that can be told to others.
            share = Share::All;
            receipt.findings.retain(|f| f.kind == FindingKind::Mended || listed.looked.findings.contains(f));
            read_stored(share, &found, &listed, &pages, None, &mut receipt, env)?;
        }
        receipt.bytes = looked.bytes;
        receipt.findings.extend(looked.findings);
    }
    receipt.findings.extend(accepted(&found, &gone));
    receipt.finished = env.clock.now();
    if plan.depth > Depth::List || receipt.exit() != Exit::Done {
        // Of a snapshot that lies here by its record alone nobody can say that all is right.
        let all_read = plan.depth > Depth::List && share == Share::All && listed.needs.behind.is_empty();
        receipt.recorded = record(plan, all_read, &gone, &found, &mut receipt, env)?;
    }
    // Not before it is on record.
    if !gone.is_empty() {
        let (store, heads) = (found.copy.store.identity(), found.records.seen());
        found.context.ratchet.accept(&store, &gone, &heads).map_err(VaultError::from)?;
    }
    Ok(receipt)
}

/// Opens the copy; with what was seen there and is gone, where that is to be accepted.
fn open(plan: &VerifyPlan, env: &Env<'_>) -> Result<(Opened, BTreeMap<WriterId, Head>), OpError> {
    let opened = match plan.depth {
        _ if plan.accept_rollback => return plan.read.open_for_audit(env),
        Depth::List => plan.read.open(env)?,
        // Records are stored bytes too.
        Depth::Sealed | Depth::Opened => plan.read.open_to_verify(env)?,
    };
    Ok((opened, BTreeMap::new()))
}

/// What is to be said of a rollback that is accepted.
fn accepted(found: &Opened, gone: &BTreeMap<WriterId, Head>) -> Vec<Finding> {
    let of_note = of_note(found, gone);
    let tell = |(writer, seen): &(WriterId, Head)| {
        let message = format!("{}; from now on it is taken as it is", found.copy.book.rolled_back(writer, *seen));
        Finding::new(FindingKind::Behind, found.copy.name(), message)
    };
    let more = size::count((gone.len() - of_note.len()) as u64, "more writer");
    let rest = Finding::new(FindingKind::Behind, found.copy.name(), format!("likewise of {more}"));
    of_note.iter().map(tell).chain((gone.len() > of_note.len()).then_some(rest)).collect()
}

/// Where what came over a line is kept until it is opened, each snapshot needing most of it again. None where that would be
/// no gain, or cannot be.
fn room_for_opening(plan: &VerifyPlan, found: &Opened) -> Option<Arc<Kept>> {
    if plan.depth < Depth::Opened || found.copy.store.location().directory().is_some() {
        return None;
    }
    let cache = found.context.state.cache();
    let room_bytes = free_bytes(&cache)? / KEPT_PART;
    match Kept::new(Arc::clone(&found.copy.store) as Arc<dyn Store>, &cache, room_bytes) {
        Ok(kept) => Some(Arc::new(kept)),
        Err(error) => {
            tracing::debug!(%error, "nothing is kept");
            None
        }
    }
}

fn read_stored(
    share: Share,
    found: &Opened,
    listed: &Listed,
    pages: &PageCache,
    kept: Option<&Kept>,
    receipt: &mut VerifyReceipt,
    env: &Env<'_>,
) -> Result<(), OpError> {
    env.step("reading stored bytes");
    let mut times = ReadTimes::open(&found.context.state.cache(), &found.copy.name());
    let reading = Reading { share, now: receipt.started, kept, cancel: env.cancel, watch: &Told(env) };
    let looked = sealed::check(&found.copy, listed, pages, &mut times, &reading)?;
    receipt.objects = looked.objects;
    receipt.bytes = looked.bytes;
    receipt.findings.extend(looked.findings.into_iter().map(|finding| of_parity(finding, found)));
    Ok(())
}

/// Parity has its place on an enrolled drive, and there it is missed when it is damaged. What else lies under such a name nobody
/// made and nobody needs.
fn of_parity(mut finding: Finding, found: &Opened) -> Finding {
    let is_parity = matches!(ObjectName::parse_stored(&finding.subject), Ok((ObjectName::Parity(_), _)));
    if is_parity && drive_of(&found.copy).is_some() {
        finding.message += "; what it covers is not, but nothing would mend it: the next `drive export` makes it anew";
    } else if is_parity {
        finding.kind = FindingKind::Notice;
        finding.message += "; nothing needs it: whoever keeps this copy may remove it";
    }
    finding
}

/// Mends what was found damaged, and says so in place of the damage. Gives whether an inventory was among it.
fn repair(found: &Opened, behind: &[Snapshot], receipt: &mut VerifyReceipt, env: &Env<'_>) -> Result<bool, OpError> {
    let plain: BTreeMap<ObjectName, ObjectHash> =
        found.copy.plain_lines().into_iter().map(|line| (line.name, line.hash)).collect();
    let mut damaged = BTreeMap::new();
    for finding in receipt.findings.iter().filter(|finding| finding.kind == FindingKind::Damage) {
        let Ok((name, _)) = ObjectName::parse_stored(&finding.subject) else { continue };
        if let Some(expected) = name.content_hash().or_else(|| plain.get(&name).copied()) {
            damaged.insert(name, expected);
        }
    }
    // Where parity covers them they were here.
    for name in behind.iter().flat_map(|snapshot| [&snapshot.body.inventory, &snapshot.body.manifest]) {
        damaged.extend(name.content_hash().map(|hash| (name.clone(), hash)));
    }
    if damaged.is_empty() {
        return Ok(false);
    }
    env.step("mending");
    let mended = mend(found.copy.store.as_ref(), &damaged, env.cancel)?;
    receipt.findings.retain(|finding| {
        !ObjectName::parse_stored(&finding.subject).is_ok_and(|(name, _)| mended.objects.contains_key(&name))
    });
    for (name, shards) in &mended.objects {
        let by = if matches!(name, ObjectName::Parity(_)) { "made anew from what it covers" } else { "mended by parity" };
        let message = format!("was damaged ({shards} pieces of 4 KiB) and is {by}");
        receipt.findings.push(Finding::new(FindingKind::Mended, name, message));
    }
    for finding in receipt.findings.iter_mut().filter(|finding| finding.kind == FindingKind::Damage) {
        let lost = ObjectName::parse_stored(&finding.subject).ok().and_then(|(name, _)| mended.lost.get(&name));
        if let Some(why) = lost {
            finding.message += &format!("; not mended: {why}");
        }
    }
    receipt.mended += mended.objects.len() as u64;
    Ok(mended.objects.keys().any(|name| matches!(name, ObjectName::Inventory(_))))
}

fn open_all(
    plan: &VerifyPlan,
    found: &Opened,
    snapshots: &[Snapshot],
    kept: Option<Arc<Kept>>,
    env: &Env<'_>,
) -> Result<Looked, OpError> {
    let is_damage =
        |error: &VaultError| !matches!(error, VaultError::Interrupted | VaultError::State(_) | VaultError::NoVault(_));
    let cache = found.context.state.cache();
    let unlocked = unlock(&found.copy, &plan.read.identities)?;
    let mut seen = opened::Seen::default();
    let mut all = Looked::default();
    // Newest first: it is the one that is needed first, and the older ones then have little that was not seen.
    for snapshot in snapshots.iter().rev() {
        env.step(format!("opening snapshot {} of {}", snapshot.id.short(), snapshot.time));
        let mut open = |store: Arc<dyn Store>| {
            SnapshotReader::open_from(store, &found.copy, snapshot, &unlocked, &cache)
                .and_then(|reader| opened::check(&reader, snapshot, &mut seen, env.cancel, &Told(env)))
        };
        let mut looked = match &kept {
            Some(kept) => open(Arc::clone(kept) as Arc<dyn Store>),
            None => open(Arc::clone(&found.copy.store) as Arc<dyn Store>),
        };
        // What rotted on this machine says nothing of the copy.
        if kept.is_some() && looked.as_ref().map_or_else(is_damage, |looked| !looked.findings.is_empty()) {
            looked = open(Arc::clone(&found.copy.store) as Arc<dyn Store>);
        }
        match looked {
            Ok(looked) => {
                all.objects += looked.objects;
                all.bytes += looked.bytes;
                all.findings.extend(looked.findings);
            }
            // Neither a stop nor what rotted on this machine says anything about the copy.
            Err(error @ (VaultError::Interrupted | VaultError::State(_))) => return Err(error.into()),
            Err(VaultError::Store(error)) if error.is_store_wide() => return Err(error.into()),
            // Of another epoch than this identity opens: that is no damage, and it was not looked into.
            Err(error @ VaultError::NoVault(_)) => {
                let message = format!("was not opened: {error}");
                all.findings.push(Finding::new(FindingKind::Behind, format!("snapshot {}", snapshot.id.short()), message));
            }
            Err(error) => {
                let mut finding = Finding::new(FindingKind::Damage, format!("snapshot {}", snapshot.id.short()), error);
                finding.snapshots = vec![snapshot.id.short()];
                all.findings.push(finding);
            }
        }
    }
    Ok(all)
}
