//! `verify`: looks for damage at a named depth and leaves a signed record of what it found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::delivery::{holds, own_records};
use super::reading::{Opened, ReadPlan};
use super::suspicion::spoken_against;
use super::verifications::{Place, Verification};
use super::{Env, Event, Exit, OpError};
use crate::format::body::{FoundObject, VerifyBody};
use crate::format::record::RecordKind;
use crate::ledger::{Checked, Scribe, Standing};
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::{ObjectHash, WriterId};
use crate::model::name::ObjectName;
use crate::model::time::Timestamp;
use crate::state::keys::{KeyDir, Role};
use crate::store::Store;
use crate::store::kept::Kept;
use crate::target::free_bytes;
use crate::vault::VaultError;
use crate::vault::catalogue_reader::SnapshotReader;
use crate::vault::inventory::PageCache;
use crate::vault::objects::read_hashed;
use crate::vault::parity::mend;
use crate::vault::snapshots::Snapshot;
use crate::vault::unlock::unlock;
use crate::vault::verify::sealed::{ReadTimes, Reading, Share};
use crate::vault::verify::{FINDINGS_MAX, Listed, Looked, Watch, list, opened, sealed};

/// Objects that a verify record names; where more were found, further records follow.
const RECORD_OBJECTS_MAX: usize = 200;
/// Records of one verification: together they name as many objects as it keeps findings.
const RECORDS_MAX: usize = FINDINGS_MAX / RECORD_OBJECTS_MAX;
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
    let mut listed = list(&found.copy, &found.records, &pages, env.cancel)?;
    listed.looked.findings.extend(lost_since(&found, &listed)?);
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
            listed.looked.findings.extend(lost_since(&found, &listed)?);
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
    receipt.finished = env.clock.now();
    if plan.depth > Depth::List || receipt.exit() != Exit::Done {
        // Of a snapshot that lies here by its record alone nobody can say that all is right.
        let all_read = plan.depth > Depth::List && share == Share::All && listed.needs.behind.is_empty();
        receipt.recorded = record(plan, all_read, &found, &mut receipt, env)?;
    }
    Ok(receipt)
}

/// Snapshots of which the copy holds the record alone, where an earlier verification counted more complete ones than there are
/// now and were dropped: they did not stay away, they went.
fn lost_since(found: &Opened, listed: &Listed) -> Result<Vec<Finding>, OpError> {
    if listed.needs.behind.is_empty() {
        return Ok(Vec::new());
    }
    let trust = &found.copy.trust;
    let own = own_records(&found.context, trust, &|name| holds(&found.copy, name))?;
    let own_writers: Vec<WriterId> = found.context.scribes(found.copy.vault())?.iter().map(Scribe::writer).collect();
    let all = Verification::all(found.records.checked.iter().chain(own.iter().map(|(record, _)| record)));
    let here = Place::known_to_all(&found.copy);
    let is_here = |one: &&Verification<'_>| {
        let is_own = own_writers.contains(&one.record.statement.writer);
        match &here {
            Some(here) => one.place == *here && (is_own || one.record.standing == Standing::Trusted),
            // A directory of the same name on another machine is another copy.
            None => is_own && one.body.store == found.copy.name(),
        }
    };
    let Some(most) = all.iter().filter(is_here).max_by_key(|one| one.body.snapshots) else { return Ok(Vec::new()) };
    if most.body.snapshots <= (listed.needs.snapshots.len() + listed.dropped) as u64 {
        return Ok(Vec::new());
    }
    let (many, time) = (most.body.snapshots, most.record.statement.time);
    Ok(listed
        .needs
        .behind
        .iter()
        .map(|snapshot| Finding {
            kind: FindingKind::Damage,
            subject: snapshot.body.inventory.to_string(),
            message: format!("missing, and the manifest too; {many} snapshots were complete here at {time}"),
            snapshots: vec![snapshot.id.short()],
        })
        .collect())
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
    if is_parity && super::drive::drive_of(&found.copy).is_some() {
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

/// In whose name this machine says what it found: of an enrolled one where there is one, since only such a word counts.
fn role_here(found: &Opened) -> Result<Role, OpError> {
    let keys = KeyDir::of(&found.context.state);
    let mut had = None;
    for role in [Role::Agent, Role::Custodian, Role::Station] {
        match keys.writer(role)? {
            Some(key) if found.copy.trust.has_retired(&key.verifier().writer()) => had = had.or(Some(role)),
            Some(_) => return Ok(role),
            None => {}
        }
    }
    Ok(had.unwrap_or(Role::Station))
}

/// Signs what was found, and delivers it if the copy takes it: the next push reads it.
fn record(
    plan: &VerifyPlan,
    all_read: bool,
    found: &Opened,
    receipt: &mut VerifyReceipt,
    env: &Env<'_>,
) -> Result<bool, OpError> {
    let mut objects: BTreeMap<ObjectName, FoundObject> = BTreeMap::new();
    for finding in receipt.findings.iter().filter(|finding| finding.kind.is_alarm()) {
        if let Ok((name, _)) = ObjectName::parse_stored(&finding.subject) {
            let object = finding.subject.clone();
            objects.entry(name).or_insert(FoundObject { object, kind: finding.kind });
        }
    }
    let mut again = false;
    let (drive, label) = super::drive::drive_of(&found.copy).unzip();
    let mut scribe = found.context.scribe(role_here(found)?, env, found.copy.vault())?;
    if plan.depth > Depth::List {
        let looked = look_again(found, receipt, scribe.writer())?;
        again = !all_read && looked.wrong.is_empty() && !looked.unread;
        if all_read {
            objects.extend(looked.wrong);
        }
    }
    let objects: Vec<FoundObject> = objects.into_values().collect();
    let parts: Vec<&[FoundObject]> =
        if objects.is_empty() { vec![&[]] } else { objects.chunks(RECORD_OBJECTS_MAX).take(RECORDS_MAX).collect() };
    // What a retired key signs counts for nobody.
    if found.copy.trust.has_retired(&scribe.writer()) {
        let message =
            "not on record: the key of this machine was retired; `farkeep keys enrol station` gives it another one";
        receipt.findings.push(Finding::new(FindingKind::Notice, found.copy.name(), message));
        return Ok(false);
    }
    super::custody::adopt_own(&mut scribe, &found.copy, &found.records)?;
    let mut last = None;
    for part in &parts {
        let body = VerifyBody {
            depth: plan.depth.word().to_owned(),
            store: receipt.store.clone(),
            started: receipt.started,
            snapshots: receipt.snapshots,
            objects: receipt.objects,
            bytes: receipt.bytes,
            findings: receipt.findings.iter().filter(|finding| finding.kind.is_alarm()).count() as u64,
            objects_found: part.to_vec(),
            whole: all_read && parts.len() == 1,
            again,
            drive: drive.clone(),
            label,
        };
        let context = found.context.record_context(env, found.copy.trust.head(), found.records.heads());
        last = Some(scribe.write(RecordKind::Verify, &body, context)?.name);
    }
    Ok(last.is_some_and(|name| super::delivery::deliver_missing(&found.context, &found.copy, &name).is_ok()))
}

/// What became of objects that a verification had spoken against.
#[derive(Default)]
struct LookedAgain {
    wrong: BTreeMap<ObjectName, FoundObject>,
    /// Whether there is one of which nobody can say what it should be.
    unread: bool,
}

/// Objects that were spoken against, by anybody trusted or by this machine, and that were not read with the others: a part of
/// the copy was read, or no snapshot needs them any more. They are read now, so that what counts as right was seen to be.
fn look_again(found: &Opened, receipt: &VerifyReceipt, writer: WriterId) -> Result<LookedAgain, OpError> {
    let trust = &found.copy.trust;
    // What this machine found counts for it also where it could not be left in the copy, and where nobody enrolled it.
    let own = own_records(&found.context, trust, &|name| holds(&found.copy, name))?;
    let records = found.records.checked.iter().chain(own.iter().map(|(record, _)| record));
    let own_or_trusted = |record: &Checked| record.standing == Standing::Trusted || record.statement.writer == writer;
    let counts = |one: &Verification<'_>| own_or_trusted(one.record) && !one.is_over(trust);
    let here = Place::of_copy(&found.copy, writer);
    let about = spoken_against(records, counts).into_iter().filter(|one| one.may_be_about(Some(&here), &receipt.store));
    let names: BTreeSet<ObjectName> = about.flat_map(|one| one.objects).collect();
    let plain: BTreeMap<ObjectName, ObjectHash> =
        found.copy.plain_lines().into_iter().map(|line| (line.name, line.hash)).collect();
    let mut looked = LookedAgain::default();
    // Records are all read at every such depth.
    for name in names.into_iter().filter(|name| !matches!(name, ObjectName::Record { .. } | ObjectName::Trust { .. })) {
        let Some(expected) = name.content_hash().or_else(|| plain.get(&name).copied()) else {
            looked.unread = true;
            continue;
        };
        match read_hashed(found.copy.store.as_ref(), &name, expected) {
            Ok(_) => {}
            // Nothing is built on what is not there.
            Err(error) if error.is_missing() => {}
            Err(VaultError::Damaged { .. }) => {
                let object = FoundObject { object: name.to_string(), kind: FindingKind::Damage };
                looked.wrong.insert(name, object);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(looked)
}
