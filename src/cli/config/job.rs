//! The sections `[job.NAME]` with their sources, and what they become at another target.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::keep::{KeepConfig, read_keep};
use super::kinds;
use super::member::{Choices, add_service, read_hooks, read_limits, read_restore_hooks, read_vars};
use super::section::Section;
use super::store::StoreConfig;
use super::{ADHOC_JOB, DEFAULT_CHUNK_BYTES, check_timezone};
use crate::codec::Compression;
use crate::model::limits::{KIB, MIB};
use crate::ops::hooks::Hooks;
use crate::source::SourceConfig;
use crate::source::limits::Limits;

/// A source of a job as configured.
#[derive(Debug, Clone)]
pub struct JobSource {
    /// The source.
    pub source: SourceConfig,
    /// Average chunk in bytes.
    pub chunk_bytes: usize,
    /// What the member must be.
    pub limits: Limits,
    /// Around its backup.
    pub hooks: Hooks,
    /// Around its restore.
    pub restore_hooks: Hooks,
    /// Whether the target that was chosen says where it goes; true for the place that it comes from.
    pub has_target: bool,
    /// Whether changed places of its large files may be stored as patches on what earlier pushes stored.
    pub patch: bool,
}

impl JobSource {
    /// A source with nothing said about it.
    #[must_use]
    pub fn plain(source: SourceConfig) -> Self {
        let (limits, hooks, restore_hooks) = (Limits::default(), Hooks::default(), Hooks::default());
        Self { source, chunk_bytes: DEFAULT_CHUNK_BYTES, limits, hooks, restore_hooks, has_target: true, patch: true }
    }
}

/// A job as configured.
#[derive(Debug, Clone, Default)]
pub struct JobConfig {
    /// Names of its stores; none means all.
    pub stores: Vec<String>,
    /// IANA name of the zone in which its dates are read.
    pub timezone: Option<String>,
    /// Tags of its snapshots.
    pub tags: Vec<String>,
    /// Seconds between two pushes, for `status` and for the plain record of when the next is due.
    pub every_secs: Option<u64>,
    /// How hard to compress.
    pub compression: Option<Compression>,
    /// What every copy keeps of it that has no rules of its own.
    pub keep: Option<KeepConfig>,
    /// Whether a snapshot that is unlike those before it is marked suspect; not said is yes.
    pub suspect: Option<bool>,
    /// Its sources.
    pub sources: Vec<JobSource>,
    /// Around its pushes.
    pub hooks: Hooks,
    /// Around its restores.
    pub restore_hooks: Hooks,
    /// Its variables, by what they stand for now.
    pub vars: BTreeMap<String, String>,
    /// The further targets that it can be restored to.
    pub targets: Vec<String>,
}

pub fn read_job(name: &str, section: Section<'_>, stores: &BTreeMap<String, StoreConfig>, choices: &Choices) -> JobConfig {
    if name == ADHOC_JOB {
        section.wrong("this name belongs to pushes of paths on the command line");
    }
    check_name(&section, name, "job");
    let mut job = JobConfig {
        stores: section.some_texts("stores", "it goes to all stores then"),
        timezone: section.parsed("timezone", check_timezone),
        tags: section.texts("tags"),
        every_secs: section.some_secs("every"),
        compression: read_compression(&section),
        keep: read_keep(&section),
        suspect: section.flag("suspect"),
        ..JobConfig::default()
    };
    let vars = read_vars(&section, choices);
    let filled = section.filled(None, &vars);
    (job.hooks, job.restore_hooks) = (read_hooks(&filled), read_restore_hooks(&filled));
    let targets = read_targets(&filled, choices, &mut job);
    job.targets = targets.keys().cloned().collect();
    job.vars = vars.as_ref().clone();
    for (number, store) in job.stores.iter().enumerate() {
        if !stores.contains_key(store) {
            section.wrong(format!("stores: there is no [store.{store}]"));
        }
        if job.stores[..number].contains(store) {
            section.wrong_key("stores", format!("{store:?} stands there twice; name each store once"));
        }
    }
    let sources = section.list_of_tables("source");
    for (name, over) in targets.values().flatten() {
        if !sources.iter().any(|source| source.peek("name").as_ref() == Some(name)) {
            over.wrong(format!("the job has no source {name:?}: write the name of one"));
        }
    }
    for source in sources {
        let of_source =
            |sources: &BTreeMap<String, Section<'_>>| source.peek("name").is_some_and(|n| sources.contains_key(&n));
        let mut read = read_source(source.filled(None, &vars));
        for (target, sources) in targets.iter().filter(|(_, sources)| of_source(sources)) {
            let over = source.peek("name").and_then(|name| sources.get(&name));
            let mut there = read_source(source.filled(over, &vars));
            if choices.target.as_ref() == Some(target) {
                // Hooks of this place belong to this place: another target has its own or none.
                let mut restore_hooks = over.map(read_restore_hooks).unwrap_or_default();
                over.into_iter().for_each(|over| add_service(over, &mut Hooks::default(), &mut restore_hooks));
                there.iter_mut().for_each(|there| there.restore_hooks = restore_hooks.clone());
                read = there;
            }
        }
        let chosen = choices.target.as_ref().and_then(|target| targets.get(target));
        job.sources.extend(
            read.map(|read| JobSource { has_target: choices.target.is_none() || chosen.is_some_and(of_source), ..read }),
        );
    }
    if job.sources.is_empty() {
        section.wrong("no [[source]] that can be used: there is nothing to back up");
    }
    check_members(&section, &job.sources);
    section.finish();
    job
}

/// `"auto"` or a zstd level.
fn read_compression(section: &Section<'_>) -> Option<Compression> {
    if section.value("compression")?.get_ref().as_str() == Some("auto") {
        return Some(Compression::Auto);
    }
    let level = section.number("compression", 1..=19).and_then(|n| i32::try_from(n).ok());
    level.map(Compression::Level)
}

/// Names stand in file names and on command lines.
fn check_name(section: &Section<'_>, name: &str, what: &str) {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !name.chars().all(plain) || !starts_well || name.len() > 64 {
        section.wrong(format!("{what} name {name:?}: letters, digits, - and _ only, at most 64, a letter or digit first"));
    }
}

/// Members have different names, and no two walk over the same files.
fn check_members(section: &Section<'_>, sources: &[JobSource]) {
    let mut seen = Vec::new();
    for source in sources {
        let name = source.source.name();
        if seen.contains(&name) {
            section.wrong(format!("two sources are called {name:?}"));
        }
        seen.push(name);
    }
    let roots: Vec<(&str, &PathBuf)> = sources
        .iter()
        .filter_map(|s| if let SourceConfig::Files(files) = &s.source { Some(files) } else { None })
        .flat_map(|files| files.roots.iter().map(|root| (files.name.as_str(), root)))
        .collect();
    for (index, (name, root)) in roots.iter().enumerate() {
        for (other, above) in roots.iter().enumerate().filter(|(n, _)| *n != index).map(|(_, pair)| pair) {
            if name != other && root.starts_with(above) && (root != above || name < other) {
                section.wrong(format!("sources {name:?} and {other:?} both cover {}", root.display()));
            }
        }
    }
}

/// Further targets by name: for each source that can go there, the keys that differ.
fn read_targets<'a>(
    section: &Section<'a>,
    choices: &Choices,
    job: &mut JobConfig,
) -> BTreeMap<String, BTreeMap<String, Section<'a>>> {
    let mut targets = BTreeMap::new();
    for (name, target) in section.table("target").map(|targets| targets.sections()).unwrap_or_default() {
        let restore_hooks = read_restore_hooks(&target);
        let sources = target.named_tables("source");
        target.finish();
        if choices.target.as_ref() == Some(&name) {
            job.restore_hooks = restore_hooks;
        }
        targets.insert(name, sources.into_iter().collect());
    }
    targets
}

fn read_source(section: Section<'_>) -> Option<JobSource> {
    let name = section.required_text("name");
    let kind = section.required_text("kind");
    if let Some(name) = &name {
        check_name(&section, name, "source");
    }
    let chunk_bytes = section.size("chunk_size").and_then(|bytes| match usize::try_from(bytes) {
        Ok(bytes) if (4 * KIB as usize..=2 * MIB as usize).contains(&bytes) => Some(bytes),
        _ => {
            section.wrong("chunk_size: must be from 4 KiB to 2 MiB");
            None
        }
    });
    let limits = read_limits(&section);
    let (mut hooks, mut restore_hooks) = (read_hooks(&section), read_restore_hooks(&section));
    add_service(&section, &mut hooks, &mut restore_hooks);
    let kind = kind?;
    // Without a known kind the other keys cannot be judged.
    let source = kinds::read(&kind, &section, name.as_deref().unwrap_or_default())?;
    let patch = section.flag("patch").unwrap_or(true);
    section.finish();
    let chunk_bytes = chunk_bytes.unwrap_or(DEFAULT_CHUNK_BYTES);
    name.map(|_| JobSource { source, chunk_bytes, limits, hooks, restore_hooks, has_target: true, patch })
}
