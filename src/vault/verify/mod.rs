//! Looking for damage, at three depths: names and sizes, stored bytes, opened content. The first two need no key.
//!
//! A pass never stops at the first thing that it finds. Every finding names the object and the snapshots that need it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::format::body::{SnapshotBody, SnapshotRange};
use crate::format::inventory::Line;
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::SnapshotId;
use crate::model::name::{Area, ObjectName, Sealed};
use crate::model::size;
use crate::store::Store;
use crate::vault::VaultError;
use crate::vault::copy::Copy;
use crate::vault::inventory::{PageCache, page_names};
use crate::vault::presence::Presence;
use crate::vault::pruned::{Plan, Pruned, each_planned, still_held};
use crate::vault::snapshots::{Records, Snapshot};
use crate::vault::suspects::Suspects;

mod links;
pub mod opened;
pub mod sealed;

/// What is listed.
const AREAS: [Area; 7] =
    [Area::Root, Area::Keys, Area::Trust, Area::Packs, Area::Indexes, Area::Manifests, Area::Inventories];
/// Findings that are kept.
pub const FINDINGS_MAX: usize = 10_000;

/// Is told how far a pass is.
pub trait Watch: Sync {
    /// So much there is to look at.
    fn total(&self, objects: u64, bytes: u64);
    /// So much more was looked at.
    fn looked(&self, objects: u64, bytes: u64);
}

/// What a pass has come to.
#[derive(Debug, Default)]
pub struct Looked {
    /// Objects looked at.
    pub objects: u64,
    /// Bytes read.
    pub bytes: u64,
    /// What was found.
    pub findings: Vec<Finding>,
}

/// The inventories of all snapshots of a copy: each page once, with the snapshots that need it.
pub struct Needs {
    /// By page: indexes into `snapshots`.
    pages: BTreeMap<Sealed, Vec<usize>>,
    /// Complete snapshots, oldest first.
    pub snapshots: Vec<Snapshot>,
    /// Snapshots of which this copy holds the record and not the objects.
    pub behind: Vec<Snapshot>,
}

impl Needs {
    /// Reads the inventory roots of a copy.
    ///
    /// # Errors
    /// When the store is out of reach.
    pub fn read(
        copy: &Copy,
        snapshots: Vec<Snapshot>,
        presence: &Presence,
        cache: &PageCache,
        findings: &mut Vec<Finding>,
    ) -> Result<Self, VaultError> {
        let mut needs = Self { pages: BTreeMap::new(), snapshots: Vec::new(), behind: Vec::new() };
        let roots = snapshots.iter().map(|snapshot| &snapshot.body.inventory);
        cache.read_ahead(copy.store.as_ref(), roots.filter(|root| presence.has(root)));
        for snapshot in snapshots {
            if !presence.has(&snapshot.body.inventory) && !presence.has(&snapshot.body.manifest) {
                needs.behind.push(snapshot);
                continue;
            }
            let place = needs.snapshots.len();
            match page_names(cache, copy.store.as_ref(), &snapshot.body.inventory) {
                Ok(pages) => {
                    for page in pages {
                        needs.pages.entry(page).or_default().push(place);
                    }
                }
                Err(VaultError::Store(error)) if error.is_store_wide() => return Err(error.into()),
                Err(error) => findings.push(needs_finding(&snapshot.body.inventory, &error, &[snapshot.id])),
            }
            needs.snapshots.push(snapshot);
        }
        Ok(needs)
    }

    /// Hands every line of every page to `each`, with the places of the snapshots that need it: pages and roots too. Pages
    /// are shared and list the manifests of snapshots beside which they were made; each is needed by its own alone, and by
    /// none when that was dropped.
    ///
    /// # Errors
    /// When the store is out of reach. A page that is damaged is a finding.
    pub fn each_line(
        &self,
        store: &dyn Store,
        cache: &PageCache,
        findings: &mut Vec<Finding>,
        each: &mut dyn FnMut(&Line, &[usize]),
    ) -> Result<(), VaultError> {
        for (place, snapshot) in self.snapshots.iter().enumerate() {
            for name in [&snapshot.body.inventory, &snapshot.body.manifest] {
                if let Some(hash) = name.content_hash() {
                    each(&Line { hash, name: name.clone() }, &[place]);
                }
            }
        }
        for (page, places) in &self.pages {
            let name = ObjectName::Inventory(*page);
            each(&Line { hash: page.hash, name: name.clone() }, places);
            match cache.read(store, page) {
                Ok(lines) => lines.iter().for_each(|line| match line.name {
                    ObjectName::Manifest(_) => each(line, &[]),
                    _ => each(line, places),
                }),
                Err(VaultError::Store(error)) if error.is_store_wide() => return Err(error.into()),
                Err(error) => findings.push(needs_finding(&name, &error, &self.ids(places))),
            }
        }
        Ok(())
    }

    /// The ids behind some places.
    #[must_use]
    pub fn ids(&self, places: &[usize]) -> Vec<SnapshotId> {
        places.iter().map(|place| self.snapshots[*place].id).collect()
    }
}

/// A finding about an object that snapshots need.
fn needs_finding(name: &dyn std::fmt::Display, error: &VaultError, snapshots: &[SnapshotId]) -> Finding {
    let text = error.to_string();
    let object = name.to_string();
    let message = text.strip_prefix(&format!("{object}: ")).unwrap_or(&text).to_owned();
    damage(object, message, snapshots)
}

pub(crate) fn damage(object: String, message: String, snapshots: &[SnapshotId]) -> Finding {
    let snapshots = snapshots.iter().rev().map(SnapshotId::short).collect();
    Finding { kind: FindingKind::Damage, subject: object, message, snapshots }
}

/// What the first pass leaves for the next ones.
pub struct Listed {
    /// What lies in the copy.
    pub presence: Presence,
    /// What snapshots need.
    pub needs: Needs,
    /// What the lists of pending prune plans consist of, as far as it lies there.
    pub lists: Vec<Sealed>,
    /// Those that were dropped from it, by signed records, or from another copy while it never had them.
    pub dropped: Vec<Snapshot>,
    /// Of those of which it holds the record alone, the ones that a plan is about to drop.
    pub given_up: BTreeSet<SnapshotId>,
    /// What was found.
    pub looked: Looked,
}

/// Depth `list`: the chains of records, and every needed object by name and size.
///
/// # Errors
/// When the store is out of reach.
pub fn list(copy: &Copy, records: &Records, cache: &PageCache, cancel: &AtomicBool) -> Result<Listed, VaultError> {
    let mut looked = Looked::default();
    looked.findings.extend(records.findings.iter().cloned());
    looked.findings.extend(records.chain_findings(&[]));
    let presence = Presence::read(copy.store.as_ref(), &AREAS)?;
    let pruned = Pruned::of(records, &presence);
    let mut snapshots = records.snapshots();
    let dropped = pruned.take_dropped(&mut snapshots);
    if !dropped.is_empty() {
        let message =
            format!("dropped from this copy, by signed records: {}", size::count(dropped.len() as u64, "snapshot"));
        looked.findings.push(Finding::new(FindingKind::Notice, "retention", message));
    }
    let missed: Vec<&Snapshot> = dropped.iter().filter(|snapshot| pruned.is_missed(snapshot)).collect();
    if !missed.is_empty() {
        let message = format!(
            "another copy dropped {}, and this one lacks what it knew of long before: it was never brought here whole, or it went \
             away",
            size::count(missed.len() as u64, "snapshot")
        );
        let snapshots = missed.iter().rev().map(|snapshot| snapshot.id.short()).collect();
        let kind = FindingKind::Notice;
        looked.findings.push(Finding { kind, subject: "retention".into(), message, snapshots });
    }
    let needs = Needs::read(copy, snapshots, &presence, cache, &mut looked.findings)?;
    let mut missing: BTreeMap<ObjectName, BTreeSet<usize>> = BTreeMap::new();
    let mut needed_packs: BTreeSet<Sealed> = BTreeSet::new();
    // The pages by which prune records know this copy stay with them.
    let mut needed_others: BTreeSet<ObjectName> = pruned.plans.iter().map(|plan| plan.body.copy.clone()).collect();
    let mut objects = 0;
    let mut findings = Vec::new();
    needs.each_line(copy.store.as_ref(), cache, &mut findings, &mut |line, places| {
        objects += 1;
        if !places.is_empty() && !presence.has(&line.name) && missing.len() < FINDINGS_MAX {
            missing.entry(line.name.clone()).or_default().extend(places);
        }
        match &line.name {
            ObjectName::Pack(pack) => {
                needed_packs.insert(*pack);
            }
            name => {
                needed_others.insert(name.clone());
            }
        }
    })?;
    if cancel.load(Ordering::Relaxed) {
        return Err(VaultError::Interrupted);
    }
    looked.findings.extend(findings);
    looked.objects = objects;
    for (name, places) in missing {
        let places: Vec<usize> = places.into_iter().collect();
        looked.findings.push(damage(
            name.to_string(),
            "missing, or not of the size that its name says".into(),
            &needs.ids(&places),
        ));
    }
    // A snapshot that another copy dropped and of which this one has a manifest that no shared page lists was here.
    for snapshot in dropped.iter().filter(|snapshot| !pruned.is_dropped(snapshot)) {
        let SnapshotBody { manifest, inventory, .. } = &snapshot.body;
        if presence.has(manifest) && !needed_others.contains(manifest) {
            looked.findings.push(damage(inventory.to_string(), "missing".into(), &[snapshot.id]));
        }
    }
    // A plan that calls the copy otherwise may have been brought here from another one.
    let here = copy.name();
    let plans: Vec<&Plan> = pruned.pending().filter(|plan| plan.body.store == here).collect();
    let (held, suspects, mut given_up) = (still_held(records), Suspects::read(records), BTreeSet::new());
    let stays = |snapshot: &Snapshot| held.contains(&snapshot.id) || suspects.freezes(&snapshot.body.series).is_some();
    // What a plan's list names lay here then: it was not given up for lost.
    let mut lay_here: BTreeSet<ObjectName> = BTreeSet::new();
    for plan in plans.iter().filter(|_| !needs.behind.is_empty()) {
        let read = each_planned(cache, copy.store.as_ref(), &plan.body.list, &mut |name| {
            lay_here.insert(name.clone());
        });
        read.unwrap_or_else(|error| tracing::debug!(%error, "the list of a plan"));
    }
    for snapshot in &needs.behind {
        let goes = |range: &SnapshotRange| range.contains(&snapshot.writer, snapshot.head.seq);
        let is_named = plans.iter().any(|plan| plan.body.drops.iter().any(goes));
        let message = if is_named && !stays(snapshot) && !lay_here.contains(&snapshot.body.inventory) {
            given_up.insert(snapshot.id);
            "this copy holds its record and not its objects; a plan that waits gives them up"
        } else {
            "this copy holds its record and not its objects; `farkeep sync` brings them, `farkeep prune plan --despite-damage` \
             gives them up"
        };
        looked.findings.push(Finding::new(FindingKind::Behind, format!("snapshot {}", snapshot.id.short()), message));
    }
    leftovers(&presence, &needed_packs, &needed_others, &mut looked.findings);
    looked.findings.extend(foreign_trust(copy));
    let lists = lists_of_plans(copy, &pruned, &presence, cache, &mut looked.findings)?;
    Ok(Listed { presence, needs, lists, dropped, given_up, looked })
}

/// What a pass says of the list of a plan in which something is wrong.
const OF_A_PLAN: &str = "of the list of a prune plan that nobody can apply so: `farkeep prune plan` makes another";

/// The roots and pages by which pending plans say what goes. What is missing is a finding, though no snapshot needs it: a
/// push builds on little of a copy that has such a plan.
fn lists_of_plans(
    copy: &Copy,
    pruned: &Pruned,
    presence: &Presence,
    cache: &PageCache,
    findings: &mut Vec<Finding>,
) -> Result<Vec<Sealed>, VaultError> {
    let mut lists: BTreeSet<Sealed> = BTreeSet::new();
    for plan in pruned.pending() {
        match page_names(cache, copy.store.as_ref(), &plan.body.list) {
            Ok(pages) => lists.extend(pages),
            Err(VaultError::Store(error)) if error.is_store_wide() => return Err(error.into()),
            Err(error) if presence.has(&plan.body.list) => {
                let mut finding = needs_finding(&plan.body.list, &error, &[]);
                finding.message += &format!("; {OF_A_PLAN}");
                findings.push(finding);
                continue;
            }
            Err(_) => {}
        }
        if let ObjectName::Inventory(root) = plan.body.list {
            lists.insert(root);
        }
    }
    let (there, missing): (Vec<Sealed>, Vec<Sealed>) =
        lists.into_iter().partition(|list| presence.has(&ObjectName::Inventory(*list)));
    for list in missing {
        let message = format!("missing, or not of the size that its name says; {OF_A_PLAN}");
        findings.push(damage(ObjectName::Inventory(list).to_string(), message, &[]));
    }
    Ok(there)
}

/// What lies among the root's records and is none of them: anybody who may add files can put any number there.
fn foreign_trust(copy: &Copy) -> Option<Finding> {
    let count = copy.foreign_trust();
    let message = format!(
        "{} here not of the root's chain, whose newest record is {}: ignored, but whoever opens this copy may have to read them; who \
         administers the store can remove them, and should ask who may write there",
        if count == 1 { "a file is".to_owned() } else { format!("{count} files are") },
        copy.trust_records().last().map_or_else(String::new, |(name, _)| name.to_string())
    );
    (count > 0).then(|| Finding::new(FindingKind::Notice, "trust/", message))
}

/// What lies in the copy and no snapshot needs: debris, and objects of pushes that died. Neither is damage.
fn leftovers(presence: &Presence, packs: &BTreeSet<Sealed>, others: &BTreeSet<ObjectName>, findings: &mut Vec<Finding>) {
    let (debris, count) = presence.debris();
    for name in debris {
        let shown = crate::model::path::escape(name.as_bytes());
        let message = "not an object of a vault, or cut short: ignored; a push that was cut off leaves such";
        findings.push(Finding::new(FindingKind::Notice, shown, message));
    }
    if count > debris.len() as u64 {
        findings.push(Finding::new(
            FindingKind::Notice,
            "debris",
            format!("{} more such names", count - debris.len() as u64),
        ));
    }
    let unneeded = presence.packs().filter(|pack| !packs.contains(pack)).count()
        + presence
            .others()
            .filter(|(name, _)| !matches!(name.area(), Area::Root | Area::Keys | Area::Trust) && !others.contains(*name))
            .count();
    if unneeded > 0 {
        let unneeded = size::count(unneeded as u64, "object");
        let message = format!("{unneeded} that no snapshot needs: left by pushes that were cut off, or to be pruned");
        findings.push(Finding::new(FindingKind::Notice, "leftovers", message));
    }
}
