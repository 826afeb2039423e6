//! The members of a job: all opened before the first is read, each held to its limits.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::local::LocalMember;
use super::prepare::Prepared;
use super::{PlannedSource, PushPlan};
use crate::codec::Cutter;
use crate::format::manifest::Member;
use crate::model::change::{Change, NIGHTS_KEPT};
use crate::model::finding::Finding;
use crate::model::ids::{SnapshotId, Token};
use crate::model::limits::MIB;
use crate::model::size::{count, human_size};
use crate::model::snapshot::{SnapshotState, Tally};
use crate::ops::context::Context;
use crate::ops::{Env, Event, OpError};
use crate::source::engine::{HOLDS, NOTHING};
use crate::source::limits::Guarded;
use crate::source::work::Work;
use crate::source::{Source, SourceError};
use crate::state::bases::BaseCache;
use crate::state::{StateDir, StateError, read_if_there, write_durably};
use crate::vault::VaultError;
use crate::vault::capture::{CaptureConfig, Captured, FileCachePlace, Fresh, Progress, capture};
use crate::vault::courier::Courier;
use crate::vault::snapshot_writer::SnapshotWriter;
use crate::vault::stream_bases::FinishedStream;

/// What capturing all members gave.
#[derive(Default)]
pub struct CapturedJob {
    pub members: Vec<Member>,
    pub findings: Vec<Finding>,
    pub finding_count: u64,
    pub caches: Vec<FileCachePlace>,
    pub streams: Vec<FinishedStream>,
    /// Of each member, where its new content lies.
    pub fresh: Vec<Fresh>,
    /// Of each member, what it took in of this machine's files.
    pub local: Vec<LocalMember>,
    /// What hooks had to report: it says nothing about the data.
    pub hook_findings: Vec<Finding>,
}

impl CapturedJob {
    /// How each member changed. All packs must be sealed.
    ///
    /// # Errors
    /// When the local index cannot be read.
    pub fn weigh(&self, writer: &SnapshotWriter<'_>) -> Result<Vec<Change>, VaultError> {
        self.members.iter().zip(&self.fresh).map(|(member, fresh)| fresh.weigh(&member.tally, writer)).collect()
    }
}

/// Captures every member; none of them stands alone.
pub fn capture_all(
    plan: &PushPlan,
    writer: &mut SnapshotWriter<'_>,
    context: &Context,
    courier: &Courier,
    prepared: &Prepared,
    baseline: &Baseline,
    bases: &BaseCache,
    env: &Env<'_>,
) -> Result<CapturedJob, OpError> {
    let names: Vec<String> = prepared.sides.iter().map(|side| side.named.name.clone()).collect();
    let progress = Told { env, courier, names };
    let mut job = CapturedJob::default();
    let scratch = Scratch::make(&context.state)?;
    let mut sources = Vec::new();
    for planned in &plan.sources {
        let member = planned.source.name().to_owned();
        let dir = scratch.of_member(&member)?;
        let work =
            Work::new(&member, dir, env.clock.now(), &plan.timezone, env.cancel).with_timeout(planned.limits.timeout_secs);
        // A missing root, an absent server: known before hours of work, unless a hook makes it present.
        let source = if planned.hooks.is_empty() { Some(open(planned, &work)?) } else { None };
        sources.push((source, planned, work));
    }
    for (source, planned, work) in sources {
        let entered = planned.hooks.enter(&format!("source {}", planned.source.name()), &context.state, env)?;
        let outcome = source.map_or_else(|| open(planned, &work), Ok).map_err(OpError::from).and_then(|source| {
            let before = baseline.members.get(planned.source.name());
            let place = Place { plan, planned, before, cache: context.state.cache(), bases, progress: &progress, env };
            capture_member(source, writer, &place)
        });
        job.hook_findings.extend(entered.leave(outcome.is_ok()));
        let Captured { member, findings, finding_count, cache, streams, fresh, files } = outcome?;
        let keep = planned.source.keep_local().filter(|_| plan.tidy_local);
        job.local.push(LocalMember { name: member.name.clone(), files, keep });
        job.members.push(member);
        job.fresh.push(fresh);
        job.findings.extend(findings);
        job.finding_count += finding_count;
        job.caches.extend(cache);
        job.streams.extend(streams);
    }
    Ok(job)
}

fn open(planned: &PlannedSource, work: &Work) -> Result<Box<dyn Source>, VaultError> {
    let source = planned.source.open(work).map_err(|error| in_member(planned.source.name(), error))?;
    Ok(if planned.limits.look_at_bytes() { Box::new(Guarded::new(source, planned.limits.clone())) } else { source })
}

/// What capturing a member needs to know.
struct Place<'a> {
    plan: &'a PushPlan,
    planned: &'a PlannedSource,
    before: Option<&'a Tally>,
    cache: std::path::PathBuf,
    bases: &'a BaseCache,
    progress: &'a Told<'a>,
    env: &'a Env<'a>,
}

fn capture_member(
    mut source: Box<dyn Source>,
    writer: &mut SnapshotWriter<'_>,
    place: &Place<'_>,
) -> Result<Captured, OpError> {
    let Place { plan, planned, env, .. } = place;
    env.step(format!("reading {}", source.name()));
    let cache_name = format!("files-{}-{}", plan.job, source.name()).replace('/', "-");
    let config = CaptureConfig {
        cutter: Cutter::with_average(planned.average_chunk_bytes),
        readers: std::thread::available_parallelism().map_or(4, |n| usize::from(n).clamp(4, 8)),
        cache: plan.use_file_cache.then(|| place.cache.join(cache_name)),
        bases: (planned.patch && plan.base_cache_bytes > 0).then_some(place.bases),
        stream_prefix: format!("{}\0{}", plan.job, source.name()),
        cancel: env.cancel,
        clock: env.clock,
        progress: place.progress,
    };
    let captured = capture(source.as_mut(), writer, &config)?;
    let member = &captured.member;
    let before = place.before.filter(|_| !plan.accept_size.contains(&member.name));
    planned.limits.judge(&member.name, &member.tally, before).map_err(|error| in_member(&member.name, error))?;
    must_not_be_empty(source.as_ref(), member, before)?;
    Ok(captured)
}

fn in_member(member: &str, source: SourceError) -> VaultError {
    match source {
        SourceError::Interrupted => VaultError::Interrupted,
        source => VaultError::Source { member: member.to_owned(), source },
    }
}

/// A dump of nothing is a failed dump, unless the system itself says that nothing is there. Directories may be empty, too. But
/// neither if they were not before: what is left of a disk that is not mounted is an empty directory, and a server that was set
/// up anew has an empty database.
fn must_not_be_empty(source: &dyn Source, member: &Member, before: Option<&Tally>) -> Result<(), VaultError> {
    let holds_nothing = member.proof.get(HOLDS).is_some_and(|value| value == NOTHING);
    if member.tally.source_bytes > 0 && !holds_nothing {
        return Ok(());
    }
    let why = match before {
        _ if source.roots().is_empty() && !holds_nothing => "gave no output".to_owned(),
        Some(before) if before.source_bytes > member.tally.source_bytes => format!(
            "holds nothing, and the last good snapshot held {} in {}: {}? `--accept-size {}` takes it as it is",
            human_size(before.source_bytes),
            count(before.files, "file"),
            if holds_nothing { "is it another server, or was it made anew" } else { "is a disk not mounted" },
            member.name
        ),
        _ => return Ok(()),
    };
    Err(in_member(&member.name, SourceError::Expectation { what: member.name.clone(), why }))
}

/// What more members than any job has held on 15 nights, in less than 200 bytes each.
const BASELINE_MAX_BYTES: u64 = 8 * MIB;

/// What each member of the last good snapshot of a series held, kept on the agent, which cannot open manifests.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Baseline {
    snapshot: Option<SnapshotId>,
    members: BTreeMap<String, Tally>,
    /// Likewise of the suspect ones after it, oldest first: a person may clear them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    suspects: Vec<(SnapshotId, BTreeMap<String, Tally>)>,
}

impl Baseline {
    /// Reads it. What does not belong to the newest good snapshot in the stores is not believed; then the record's sum still
    /// stands for a job of one member. A suspect snapshot that a person has cleared is a good one.
    pub fn read(state: &StateDir, series: &Token, plan: &PushPlan, prepared: &Prepared) -> Result<Self, StateError> {
        let cleared = prepared.cleared(series);
        let is_good = |s: &&crate::vault::snapshots::Snapshot| {
            s.body.series == *series && (s.body.state == SnapshotState::Good || cleared.contains(&s.id))
        };
        let Some(newest) = prepared.snapshots.iter().rev().find(is_good) else { return Ok(Self::default()) };
        let kept = Self::read_kept(state, series)?.unwrap_or_default();
        let of_suspects = kept.suspects.into_iter().map(|(snapshot, members)| (Some(snapshot), members));
        let known = of_suspects.chain([(kept.snapshot, kept.members)]).find(|(snapshot, _)| *snapshot == Some(newest.id));
        let members = known.map(|(_, members)| members).unwrap_or_else(|| match plan.sources.as_slice() {
            [only] => BTreeMap::from([(only.source.name().to_owned(), newest.body.tally)]),
            _ => BTreeMap::new(),
        });
        Ok(Self { snapshot: Some(newest.id), members, suspects: Vec::new() })
    }

    fn read_kept(state: &StateDir, series: &Token) -> Result<Option<Self>, StateError> {
        let bytes = read_if_there(&Self::path(state, series), BASELINE_MAX_BYTES)?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// Remembers a snapshot that later ones are compared with: at once when it is good, and a suspect one from when a person
    /// clears it.
    pub fn keep(
        &self,
        state: &StateDir,
        series: &Token,
        snapshot: SnapshotId,
        verdict: SnapshotState,
        members: &[Member],
    ) -> Result<(), StateError> {
        let members = members.iter().map(|member| (member.name.clone(), member.tally)).collect();
        let kept = match verdict {
            SnapshotState::Good => Self { snapshot: Some(snapshot), members, suspects: Vec::new() },
            SnapshotState::Suspect => {
                let mut kept = Self::read_kept(state, series)?.unwrap_or_default();
                if let Some(cleared) = kept.suspects.iter().rposition(|(id, _)| Some(*id) == self.snapshot) {
                    kept.suspects.drain(..=cleared);
                    (kept.snapshot, kept.members) = (self.snapshot, self.members.clone());
                }
                kept.suspects.push((snapshot, members));
                let excess = kept.suspects.len().saturating_sub(NIGHTS_KEPT);
                kept.suspects.drain(..excess);
                kept
            }
            SnapshotState::Partial => return Ok(()),
        };
        let path = Self::path(state, series);
        let bytes = serde_json::to_vec(&kept).map_err(|e| StateError::invalid(&path, e))?;
        write_durably(&path, &bytes)
    }

    fn path(state: &StateDir, series: &Token) -> std::path::PathBuf {
        state.ratchet().join(format!("baseline-{series}.json"))
    }
}

/// Directories for what members must put on disk; gone when the push ends, and emptied by the next one after a crash.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn make(state: &StateDir) -> Result<Self, StateError> {
        let dir = state.scratch().join("push");
        match std::fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(StateError::io(&dir)(e)),
            _ => {}
        }
        Ok(Self(dir))
    }

    fn of_member(&self, member: &str) -> Result<std::path::PathBuf, StateError> {
        let dir = self.0.join(member);
        crate::state::make_private_dir(&dir)?;
        Ok(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "not removed");
        }
    }
}

/// Passes progress on to the observer.
struct Told<'a> {
    env: &'a Env<'a>,
    courier: &'a Courier,
    names: Vec<String>,
}

impl Progress for Told<'_> {
    fn captured(&self, entries: u64, bytes: u64, _: u64) {
        self.env.observer.event(Event::Advance { items: entries, bytes });
    }

    fn noticed(&self, finding: &Finding) {
        self.env.observer.event(Event::Finding(finding.clone()));
        let sent = self.names.iter().cloned().zip(self.courier.sent_bytes()).collect();
        self.env.observer.event(Event::Sent(sent));
    }
}
