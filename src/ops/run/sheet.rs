//! The plan as a person reads it before saying yes.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::member::Task;
use super::notes::Notes;
use super::{RunJob, RunPlan};
use crate::format::manifest::Manifest;
use crate::model::ids::SnapshotId;
use crate::model::size::human_size;
use crate::model::snapshot::SnapshotState;
use crate::model::time::{Timestamp, human_duration};
use crate::ops::{Env, OpError};
use crate::source::engine::Survey;
use crate::vault::snapshots::Snapshot;

/// What would be done.
#[derive(Debug, Clone, Serialize)]
pub struct Sheet {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// When it was made.
    pub time: Timestamp,
    /// The same in the job's zone, with the weekday.
    pub local_time: String,
    /// How old it is.
    pub age: String,
    /// good, suspect or partial.
    pub state: SnapshotState,
    /// Why its content may not be what it should.
    pub suspicion: Option<String>,
    /// The machine that was backed up.
    pub host: String,
    /// The job.
    pub job: String,
    /// What is to be typed: the target's name.
    pub target: String,
    /// Variables and what they stand for now.
    pub vars: BTreeMap<String, String>,
    /// What happens to each member, in order.
    pub members: Vec<MemberSheet>,
    /// Members of the snapshot or the configuration that are left as they are, and why.
    pub untouched: Vec<String>,
    /// Where fetched parts lie meanwhile.
    pub staging: String,
    /// Bytes to be fetched to that file system.
    pub needed_bytes: u64,
    /// Bytes that are free there, where that can be told.
    pub free_bytes: Option<u64>,
    /// Other file systems that files are fetched to, beside what they replace.
    #[serde(skip)]
    pub rooms: Vec<Room>,
    /// Where what is replaced is kept.
    pub safety_copy: Option<String>,
}

/// A file system that something is fetched to.
#[derive(Debug, Clone)]
pub struct Room {
    /// A place on it.
    pub place: PathBuf,
    /// Bytes to be fetched there.
    pub needed: u64,
    /// Bytes that are free there, where that can be told.
    pub free: Option<u64>,
}

/// What happens to one member.
#[derive(Debug, Clone, Serialize)]
pub struct MemberSheet {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// Its bytes in the snapshot.
    pub bytes: u64,
    /// When its capture began.
    pub started: Timestamp,
    /// When its capture ended.
    pub finished: Timestamp,
    /// When an earlier run brought it back: it is left as it is.
    pub done: Option<Timestamp>,
    /// What is there and would be destroyed.
    #[serde(flatten)]
    pub survey: Survey,
}

/// Draws the plan.
pub fn draw(
    plan: &RunPlan,
    job: &RunJob,
    snapshot: &Snapshot,
    manifest: &Manifest,
    tasks: &[Task<'_>],
    notes: &Notes,
    env: &Env<'_>,
) -> Result<Sheet, OpError> {
    let members: Vec<MemberSheet> = tasks.iter().map(|task| task.sheet(env)).collect::<Result<_, _>>()?;
    let age = u64::try_from(env.clock.now().secs_since(snapshot.time)).unwrap_or(0);
    let zone = jiff::tz::TimeZone::get(&job.timezone).unwrap_or(jiff::tz::TimeZone::UTC);
    let is_task = |name: &str| tasks.iter().any(|task| task.member.name == name);
    let in_snapshot = manifest.members.iter().map(|m| m.name.as_str());
    let missing =
        job.sources.iter().map(|s| s.source.name()).filter(|name| !manifest.members.iter().any(|m| m.name == *name));
    let untouched = in_snapshot
        .filter(|name| !is_task(name))
        .map(|name| format!("{name}: not asked for"))
        .chain(missing.map(|name| format!("{name}: not in this snapshot")))
        .collect();
    let mut rooms = rooms(tasks, notes.dir());
    let staging = rooms.remove(0);
    Ok(Sheet {
        snapshot: snapshot.id,
        time: snapshot.time,
        local_time: weekday_and_time(snapshot.time, &zone),
        age: human_duration(age),
        state: snapshot.body.state,
        suspicion: None,
        host: manifest.host.clone(),
        job: manifest.job.clone(),
        target: plan.target_name(&manifest.job).to_owned(),
        vars: job.vars.clone(),
        needed_bytes: staging.needed,
        members,
        untouched,
        staging: notes.dir().display().to_string(),
        free_bytes: staging.free,
        rooms,
        safety_copy: plan.safety_copy.as_ref().map(|dir| dir.display().to_string()),
    })
}

/// The file systems that something is fetched to, that of the staging directory first.
fn rooms(tasks: &[Task<'_>], staging: &Path) -> Vec<Room> {
    let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
    let room = |place: PathBuf| Room { needed: 0, free: crate::target::free_bytes(&place), place };
    let mut rooms = vec![(device(staging), room(staging.to_owned()))];
    for (place, bytes) in tasks.iter().flat_map(|task| task.rooms(staging)) {
        let on = device(&place);
        let known = rooms.iter().position(|(device, _)| *device == on);
        let number = known.unwrap_or_else(|| {
            rooms.push((on, room(place)));
            rooms.len() - 1
        });
        let (_, room) = &mut rooms[number];
        room.needed = room.needed.saturating_add(bytes);
    }
    rooms.into_iter().map(|(_, room)| room).collect()
}

/// `Tuesday 2026-11-17 02:31 (Africa/Nairobi)`.
fn weekday_and_time(time: Timestamp, zone: &jiff::tz::TimeZone) -> String {
    let Ok(instant) = jiff::Timestamp::from_second(time.0) else { return time.to_string() };
    let local = instant.to_zoned(zone.clone());
    format!("{} ({})", local.strftime("%A %Y-%m-%d %H:%M"), zone.iana_name().unwrap_or("UTC"))
}

impl Sheet {
    /// Everything is fetched before anything is destroyed, so there must be room for it.
    pub(super) fn must_fit(&self) -> Result<(), OpError> {
        let too_small = |needed: u64, free: Option<u64>| free.filter(|free| *free < needed).map(human_size);
        if let Some(free) = too_small(self.needed_bytes, self.free_bytes) {
            return Err(OpError::NotDone(format!(
                "{}: {} are to be fetched and {free} are free; name another place with --staging, or restore fewer members",
                self.staging,
                human_size(self.needed_bytes),
            )));
        }
        for room in &self.rooms {
            if let Some(free) = too_small(room.needed, room.free) {
                return Err(OpError::NotDone(format!(
                    "{}: {} of files are to be fetched beside what they replace and {free} are free; nothing has been destroyed",
                    room.place.display(),
                    human_size(room.needed),
                )));
            }
        }
        Ok(())
    }
}
