//! `push`: backs up a job's sources to its stores, and commits them as one snapshot.
//!
//! Order: lock, trust and records, what lies where; sources into packs; indexes, manifest, inventory; a second look at what
//! lies where; the record, last: signed, durable here, sent, read back. What fails before the record leaves no snapshot and
//! loses nothing: the next push takes up the packs that arrived.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::context::{Context, Locking, NamedStore, VaultPin};
use super::hooks::{self, Hooks};
use super::{Env, Exit, OpError};
use crate::codec::Compression;
use crate::crypto::seal::Recipient;
use crate::crypto::secret::VaultSecret;
use crate::format::body::SnapshotBody;
use crate::format::inventory::Line;
use crate::format::manifest::{Manifest, Member};
use crate::format::record::RecordKind;
use crate::ledger::Trust;
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::{SnapshotId, VaultId};
use crate::model::limits::{FORMAT_VERSION, MIB, RECORD_MAX_BYTES};
use crate::model::name::{ObjectName, Sealed};
use crate::model::snapshot::{SnapshotState, Tally};
use crate::model::time::Timestamp;
use crate::source::SourceConfig;
use crate::source::limits::Limits;
use crate::state::StateError;
use crate::state::bases::BaseCache;
use crate::state::index::ChunkIndex;
use crate::state::journal::Journal;
use crate::state::keys::{KeyDir, Role};
use crate::state::probes::Probes;
use crate::store::StoreError;
use crate::store::deliver::RetryPolicy;
use crate::vault::VaultError;
use crate::vault::courier::{Courier, Outbox};
use crate::vault::inventory::{Inventory, PageCache};
use crate::vault::packer::PackerConfig;
use crate::vault::snapshot_writer::{SnapshotWriter, WriterConfig};
use crate::vault::stream_bases::CapturedStreams;
use crate::vault::thin::ThinPacks;

mod catch_up;
mod change;
mod commit;
mod local;
mod members;
mod mend;
mod prepare;

use change::Judged;
use commit::commit;
use local::Committed;
pub use local::LocalReceipt;
use members::{Baseline, CapturedJob, capture_all};
use prepare::{Prepared, Side};

/// Findings that stand in the manifest.
const MANIFEST_FINDINGS: usize = 100;
/// A push whose objects went away under its hands is done again once.
const ATTEMPTS: u32 = 2;
/// A store with less room than this is not written to at all: index, manifest and inventory of a small push take so much.
const ROOM_MIN_BYTES: u64 = MIB;
/// Nor is the record begun in less: a torn one would stay where the account cannot remove.
const RECORD_ROOM_BYTES: u64 = 4 * RECORD_MAX_BYTES;

/// A source with where its content is cut.
#[derive(Debug, Clone)]
pub struct PlannedSource {
    /// The source.
    pub source: SourceConfig,
    /// Average chunk in bytes.
    pub average_chunk_bytes: usize,
    /// What the member must be.
    pub limits: Limits,
    /// Around its capture.
    pub hooks: Hooks,
    /// Whether changed places of large files may be stored as patches on what earlier pushes stored.
    pub patch: bool,
}

/// What to back up.
pub struct PushPlan {
    /// The vault.
    pub vault: VaultId,
    /// Whom to trust about it.
    pub pin: VaultPin,
    /// Stores that could be opened.
    pub stores: Vec<NamedStore>,
    /// Stores that could not.
    pub missed: Vec<(String, StoreError)>,
    /// Whether no job pushes to any other: what lies in none of them lies nowhere.
    pub to_all_stores: bool,
    /// The job.
    pub job: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its sources, in order.
    pub sources: Vec<PlannedSource>,
    /// How hard to compress.
    pub compression: Compression,
    /// Seconds until the next push is due, where that is known.
    pub every_secs: Option<u64>,
    /// The zone in which the job's dates are read.
    pub timezone: String,
    /// Whether unchanged files may be told by their inode alone.
    pub use_file_cache: bool,
    /// Members whose size is taken as it is, however it compares with the last good snapshot.
    pub accept_size: Vec<String>,
    /// Whether a snapshot that is unlike those before it is marked suspect.
    pub judge_change: bool,
    /// Around the capture of all members.
    pub hooks: Hooks,
    /// What the blocks that patches are made against may take on this machine's disk, in bytes; 0 makes no patches.
    pub base_cache_bytes: u64,
    /// Whether archives of this machine may go once they were pushed: to all stores of the job.
    pub tidy_local: bool,
    /// What queues for a slow store may take on this machine's disk, in bytes.
    pub outbox_bytes: u64,
}

/// What became of one store.
#[derive(Debug, Clone, Serialize)]
pub struct StoreReceipt {
    /// Its name.
    pub store: String,
    /// Whether the snapshot is committed there.
    pub committed: bool,
    /// Why not.
    pub error: Option<String>,
    /// Bytes that were sent.
    pub sent_bytes: u64,
    /// Objects that were sent.
    pub sent_objects: u64,
    /// Objects sent beforehand, that earlier pushes had made while the store was away.
    pub caught_up_objects: u64,
    /// Objects that the store could not confirm to be durable.
    pub not_confirmed: u64,
}

/// One member of the snapshot.
#[derive(Debug, Clone, Serialize)]
pub struct MemberReceipt {
    /// Its name.
    pub name: String,
    /// What it holds.
    #[serde(flatten)]
    pub tally: Tally,
}

/// What a push did.
#[derive(Debug, Clone, Serialize)]
pub struct PushReceipt {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its place in the agent's chain.
    pub seq: u64,
    /// The job.
    pub job: String,
    /// When it began.
    pub started: Timestamp,
    /// When it was committed.
    pub finished: Timestamp,
    /// good, suspect or partial.
    pub state: SnapshotState,
    /// Its members.
    pub members: Vec<MemberReceipt>,
    /// All of them together.
    #[serde(flatten)]
    pub tally: Tally,
    /// Packs that were made.
    pub new_packs: u64,
    /// Stored bytes of all objects that were made.
    pub new_bytes: u64,
    /// The stores.
    pub stores: Vec<StoreReceipt>,
    /// What became of archives that members have taken in, where their configuration limits them.
    pub local: Vec<LocalReceipt>,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl PushReceipt {
    /// The exit code of this push.
    #[must_use]
    pub fn exit(&self) -> Exit {
        let missed = self.stores.iter().any(|store| !store.committed);
        let found = Exit::of_findings(&self.findings);
        if missed { found.worst(Exit::Findings) } else { found }
    }
}

/// Backs up a job.
///
/// # Errors
/// When a source fails, no store can be reached, or anything stands against the vault's trust. Then there is no snapshot.
pub fn push(plan: &PushPlan, env: &Env<'_>) -> Result<PushReceipt, OpError> {
    let mut context = Context::open(env, plan.vault, Locking::Exclusive)?;
    let mut noticed = hooks::recover(&context.state, env)?;
    let (mut attempt, mut rotten) = (1, false);
    loop {
        let outcome = match push_once(plan, &mut context, env) {
            // The index was given up and nothing was committed: once more, with one that is made anew from the vault.
            Err(OpError::Vault(VaultError::State(StateError::Rotten { path, why }))) if !rotten => {
                rotten = true;
                env.step("the chunk index on this machine is damaged: it is made anew, and the push begins again");
                let message = format!("damaged on this machine, and made anew from the vault: {}: {why}", path.display());
                noticed.push(Finding::new(FindingKind::Notice, "chunk index", message));
                continue;
            }
            outcome => outcome?,
        };
        match outcome {
            Some(mut receipt) => {
                receipt.findings.extend(noticed);
                return Ok(receipt);
            }
            None if attempt < ATTEMPTS => {
                env.step("objects went away while the push ran: once more");
                attempt += 1;
            }
            None => {
                let why =
                    "objects that the snapshot needs went away from every store while the push ran; see `farkeep verify`";
                return Err(OpError::NotDone(why.into()));
            }
        }
    }
}

/// One attempt; none when objects went away meanwhile.
fn push_once(plan: &PushPlan, context: &mut Context, env: &Env<'_>) -> Result<Option<PushReceipt>, OpError> {
    let started = env.clock.now();
    let keys = KeyDir::of(&context.state);
    let index_identity = keys.index_identity()?.ok_or_else(|| not_the_agent(plan))?;
    if keys.writer(Role::Agent)?.is_none() {
        return Err(not_the_agent(plan));
    }
    let mut scribe = context.scribe(Role::Agent, env, plan.vault)?;
    env.step("looking at the stores");
    let mut prepared = prepare::prepare(plan, context, &mut scribe, env)?;
    let trust = prepared.trust().clone();
    let generation = trust.epoch().generation;
    let secret = keys.secret(generation)?.ok_or_else(|| not_the_agent(plan))?;

    let pages = PageCache::open(&context.state.cache().join("inventories"))?;
    let mut index = ChunkIndex::open(&context.state.cache().join("index"))?;
    let (mut journal, left) = Journal::open(&context.state)?;
    env.step("bringing the index up to date");
    prepare::refresh_index(&mut index, plan, context, &mut prepared, &pages, &left, &index_identity)?;
    let thin = ThinPacks::of(&context.state.cache(), &plan.job);
    let live = prepare::live_packs(&index, &prepared)?;

    let config = writer_config(plan, &secret, trust.recipient()?, index_identity.recipient());
    let stores: Vec<_> = prepared.sides.iter().map(Side::destination).collect();
    let outbox = Outbox { dir: context.state.outbox(), max_bytes: plan.outbox_bytes };
    let courier = Courier::start(&stores, outbox, RetryPolicy::DEFAULT);
    let mut writer = SnapshotWriter::start(config, &mut index, live, &mut journal, &courier);
    writer.take_up(&left);
    writer.leave_behind(&thin.read());
    let bases = BaseCache::open(&context.state.cache().join("bases"), plan.base_cache_bytes)?;
    let series = secret.series(env.host, &plan.job);
    let baseline = Baseline::read(&context.state, &series, plan, &prepared)?;
    let mut entered = plan.hooks.enter(&format!("job {}", plan.job), &context.state, env)?;
    let captured = capture_all(plan, &mut writer, context, &courier, &prepared, &baseline, &bases, env);
    let mut hook_findings = entered.undo();
    let mut captured = captured?;

    env.step("writing index, manifest and inventory");
    writer.finish_packs()?;
    let mut judged = Judged::of(plan, &captured, &writer, &context.state, &series, generation, &prepared)?;
    let streams = CapturedStreams::new(std::mem::take(&mut captured.streams), &writer)?;
    let indexes = writer.write_indexes(&|object: &Sealed| prepared.may_refer_to(&ObjectName::Index(*object)))?;
    let finished = env.clock.now();
    let manifest = manifest(plan, env, [started, finished], &indexes, &captured);
    let manifest_name = writer.write_manifest(&manifest)?;
    let others = other_lines(&prepared, &indexes, &manifest_name);
    let source_store = prepared.sides[0].named.store.as_ref();
    let base = prepared.sound_pages(&pages)?;
    let mut load = |page: &Sealed| pages.read(source_store, page);
    let inventory = writer.write_inventory(&others, &base, &mut load)?;
    for page in inventory.fresh.iter().chain([&inventory.root]) {
        pages.keep(page);
    }
    let (placed, found_thin) = (writer.placed().to_vec(), writer.thin_packs(&streams.base_bytes())?);
    let stats = writer.stats();
    drop(writer);
    courier.flush()?;

    env.step("looking again at what arrived");
    if !prepared.look_again(context, plan, &inventory, &pages, &courier)? {
        journal.clear()?;
        return Ok(None);
    }
    env.check_cancel()?;

    let tally = sum(&manifest.members);
    let body = SnapshotBody {
        manifest: manifest_name,
        inventory: ObjectName::Inventory(inventory.root.name),
        epochs: epochs(&trust),
        generation,
        series,
        tags: plan.tags.iter().map(|tag| secret.tag(tag)).collect(),
        state: judged.state,
        started,
        due: plan.every_secs.and_then(|secs| i64::try_from(secs).ok()).map(|secs| started.plus_secs(secs)),
        hold: None,
        tally,
        new_packs: stats.new_packs,
        new_bytes: stats.new_bytes,
        findings: captured.finding_count,
        probes: probed(&prepared, context)?,
    };
    let record_context = context.record_context(env, trust.head(), prepared.heads.clone());
    let signed = scribe.write(RecordKind::Snapshot, &body, record_context)?;
    env.step("committing");
    let stores = commit(plan, context, &mut prepared, &courier, &scribe, &signed)?;
    drop(courier);
    journal.clear()?;
    thin.write(&found_thin);
    judged.keep(&baseline, &context.state, &series, signed.head.hash, &manifest.members)?;
    for cache in captured.caches {
        cache.finish(&placed)?;
    }
    streams.save(&bases)?;
    let frozen = (judged.state != SnapshotState::Suspect).then(|| prepared.frozen(&series)).flatten();
    hook_findings.extend(entered.leave(true).into_iter().chain(frozen));
    let (snapshot, now) = (signed.head.hash, env.clock.now());
    let committed = Committed { job: &plan.job, snapshot, state: judged.state, series: &series, stores: &stores, now };
    let (local, over) = local::tidy(&captured.local, &committed, &prepared, &pages, &context.state);
    retain_pages(&pages, &inventory, base, &prepared);
    let findings =
        [judged.findings(&snapshot), prepared.findings, captured.findings, captured.hook_findings, hook_findings, over]
            .concat();
    Ok(Some(PushReceipt {
        snapshot: signed.head.hash,
        seq: signed.head.seq,
        job: plan.job.clone(),
        started,
        finished: env.clock.now(),
        state: judged.state,
        members: manifest.members.iter().map(|m| MemberReceipt { name: m.name.clone(), tally: m.tally }).collect(),
        tally,
        new_packs: stats.new_packs,
        new_bytes: stats.new_bytes,
        stores,
        local,
        findings,
    }))
}

/// What the snapshot needs beside its packs.
fn other_lines(prepared: &Prepared, indexes: &BTreeSet<Sealed>, manifest: &ObjectName) -> BTreeSet<Line> {
    let mut others: BTreeSet<Line> = prepared.plain_lines().into_iter().collect();
    others.extend(indexes.iter().map(|object| Line { hash: object.hash, name: ObjectName::Index(*object) }));
    others.extend(manifest.content_hash().map(|hash| Line { hash, name: manifest.clone() }));
    others
}

/// Keeps the pages that the next push begins with.
fn retain_pages(pages: &PageCache, inventory: &Inventory, base: Vec<Sealed>, prepared: &Prepared) {
    let kept: BTreeSet<_> = inventory.kept.iter().copied().chain(base).collect();
    let fresh = inventory.fresh.iter().map(|page| page.name).chain([inventory.root.name]);
    pages.retain(&kept.into_iter().chain(fresh).chain(prepared.inventory_roots()).collect());
}

/// The epochs that open the snapshot: it is sealed to the last one and built on what was sealed to those before.
fn epochs(trust: &Trust) -> Vec<u32> {
    let generation = trust.epoch().generation;
    trust.body().epochs.iter().filter(|epoch| epoch.generation == generation).map(|epoch| epoch.n).collect()
}

/// What the last probe of each store said, by the store's name.
fn probed(prepared: &Prepared, context: &Context) -> Result<BTreeMap<String, String>, OpError> {
    let probes = Probes::open(&context.state)?;
    let verdict = |side: &Side| {
        let probed = probes.of(&side.named.store.location().to_string())?;
        Some((side.named.name.clone(), probed.verdict.clone()))
    };
    Ok(prepared.sides.iter().filter_map(verdict).collect())
}

/// How the snapshot's packs and indexes are made.
fn writer_config(plan: &PushPlan, secret: &VaultSecret, epoch: Recipient, index: Recipient) -> WriterConfig {
    WriterConfig {
        packer: PackerConfig {
            compression: plan.compression,
            workers: std::thread::available_parallelism().map_or(2, usize::from),
            recipients: vec![epoch.clone()],
        },
        key: secret.chunk_key(),
        index_recipients: vec![epoch, index],
    }
}

/// The description of what was captured.
fn manifest(
    plan: &PushPlan,
    env: &Env<'_>,
    [started, finished]: [Timestamp; 2],
    indexes: &BTreeSet<Sealed>,
    captured: &CapturedJob,
) -> Manifest {
    Manifest {
        format: FORMAT_VERSION,
        vault: plan.vault,
        host: env.host.to_owned(),
        job: plan.job.clone(),
        tags: plan.tags.clone(),
        started,
        finished,
        timezone: plan.timezone.clone(),
        farkeep: env!("CARGO_PKG_VERSION").to_owned(),
        indexes: indexes.iter().map(|object| ObjectName::Index(*object)).collect(),
        members: captured.members.clone(),
        findings: captured.findings.iter().take(MANIFEST_FINDINGS).cloned().collect(),
    }
}

fn not_the_agent(plan: &PushPlan) -> OpError {
    OpError::NotDone(format!(
        "this machine does not hold the agent's keys of vault {}: push runs where `farkeep init` ran, with its state directory; \
         `farkeep init --adopt` makes this machine the agent",
        plan.vault
    ))
}

fn sum(members: &[Member]) -> Tally {
    members.iter().fold(Tally::default(), |sum, member| Tally {
        files: sum.files + member.tally.files,
        dirs: sum.dirs + member.tally.dirs,
        others: sum.others + member.tally.others,
        source_bytes: sum.source_bytes + member.tally.source_bytes,
    })
}

/// A store that was missed, as a finding.
pub(crate) fn missed_finding(name: &str, error: &dyn std::fmt::Display) -> Finding {
    let error = error.to_string();
    // Some errors begin with the store's name themselves.
    let why = error.strip_prefix(&format!("{name}: ")).unwrap_or(&error);
    Finding::new(FindingKind::Behind, name, format!("{why}; what it misses is sent by the next push or by `farkeep sync`"))
}

/// What the agent needs of its secrets, for whoever shows snapshots by name.
#[must_use]
pub fn secrets(keys: &KeyDir) -> Vec<VaultSecret> {
    (1..).map_while(|generation| keys.secret(generation).ok().flatten()).collect()
}
