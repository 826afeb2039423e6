//! Sends a copy that was away what other copies hold: objects, then inventories, then records.
//!
//! What a copy lacks is told by the lines of the inventories, never by a record or a root: a snapshot of which an object
//! could not be copied stays open, and is taken up again by every push until the object is whole somewhere.

use std::collections::{BTreeMap, BTreeSet};

use super::missed_finding;
use super::prepare::{Prepared, Side, drop_side};
use crate::format::inventory::Line;
use crate::model::name::{ObjectName, Sealed};
use crate::ops::context::Context;
use crate::ops::delivery::in_order;
use crate::ops::{Env, OpError};
use crate::store::StoreError;
use crate::vault::VaultError;
use crate::vault::inventory::{PageCache, page_names};
use crate::vault::replicate::{copy_objects, copy_records};

/// Brings every copy up to date from every other. A copy that has no room for it is left out.
pub fn catch_up(prepared: &mut Prepared, context: &Context, env: &Env<'_>) -> Result<(), OpError> {
    if prepared.sides.len() < 2 {
        return Ok(());
    }
    let pages = PageCache::open(&context.state.cache().join("inventories"))?;
    let mut full: BTreeMap<usize, StoreError> = BTreeMap::new();
    for target in 0..prepared.sides.len() {
        for source in 0..prepared.sides.len() {
            if source == target || full.contains_key(&target) {
                continue;
            }
            match catch_up_from(prepared, source, target, &pages, env) {
                Ok(sent) => prepared.sides[target].caught_up_objects += sent,
                Err(VaultError::Interrupted) => return Err(VaultError::Interrupted.into()),
                // What it lacks would be made and sent again for all of them.
                Err(VaultError::Store(error @ StoreError::Full { .. })) => {
                    full.insert(target, error);
                }
                Err(error) => {
                    let name = prepared.sides[target].named.name.clone();
                    prepared.findings.push(missed_finding(&name, &error));
                }
            }
        }
    }
    for (number, error) in full.into_iter().rev() {
        drop_side(prepared, number, error);
    }
    Ok(())
}

/// The inventories of one copy, each page read once, held against what another one has.
struct Gaps {
    /// By page, what the other copy lacks of its lines.
    pages: BTreeMap<Sealed, Vec<Line>>,
    /// By root, its pages.
    roots: BTreeMap<Sealed, Vec<Sealed>>,
}

impl Gaps {
    fn between(from: &Side, to: &Side, cache: &PageCache) -> Result<Self, VaultError> {
        let mut gaps = Self { pages: BTreeMap::new(), roots: BTreeMap::new() };
        let mut snapshots = from.records.snapshots();
        from.pruned.take_dropped(&mut snapshots);
        snapshots.retain(|snapshot| !to.pruned.is_dropped(snapshot));
        for snapshot in snapshots {
            let ObjectName::Inventory(root) = snapshot.body.inventory else { continue };
            match gaps.read_pages(&root, from, to, cache) {
                // What this copy cannot tell, another one may.
                Ok(()) | Err(VaultError::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(gaps)
    }

    fn read_pages(&mut self, root: &Sealed, from: &Side, to: &Side, cache: &PageCache) -> Result<(), VaultError> {
        let store = from.named.store.as_ref();
        let pages = page_names(cache, store, &ObjectName::Inventory(*root))?;
        for page in &pages {
            if !self.pages.contains_key(page) {
                let mut lines = cache.read(store, page)?;
                lines.retain(|line| !matches!(line.name, ObjectName::Trust { .. }) && !to.presence.has(&line.name));
                self.pages.insert(*page, lines);
            }
        }
        self.roots.insert(*root, pages);
        Ok(())
    }

    /// Objects to send that the source has.
    fn objects(&self, from: &Side) -> BTreeSet<Line> {
        let lines = self.pages.values().flatten();
        lines.filter(|line| from.presence.has(&line.name)).cloned().collect()
    }

    /// Pages and roots that the target lacks and of which it now holds every line.
    fn whole(&self, from: &Side, to: &Side) -> Vec<Line> {
        let whole: BTreeSet<&Sealed> = self
            .pages
            .iter()
            .filter(|(_, lines)| lines.iter().all(|line| to.presence.has(&line.name)))
            .map(|(page, _)| page)
            .collect();
        let roots = self.roots.iter().filter(|(_, pages)| pages.iter().all(|page| whole.contains(page)));
        let all = whole.iter().copied().chain(roots.map(|(root, _)| root));
        let lines = all.map(|object| Line { hash: object.hash, name: ObjectName::Inventory(*object) });
        lines.filter(|line| from.presence.has(&line.name) && !to.presence.has(&line.name)).collect()
    }
}

fn catch_up_from(
    prepared: &mut Prepared,
    source: usize,
    target: usize,
    pages: &PageCache,
    env: &Env<'_>,
) -> Result<u64, VaultError> {
    let (from, to) = (&prepared.sides[source], &prepared.sides[target]);
    let held: BTreeSet<&ObjectName> = to.records.checked.iter().map(|record| &record.name).collect();
    let records = from.records.checked.iter().filter(|record| !held.contains(&record.name) && !record.is_void()).cloned();
    let records = in_order(records.collect());
    let has_trust = |name: &ObjectName| to.copy.trust.names().any(|n| n == *name);
    let trust: Vec<ObjectName> = from.copy.trust.names().filter(|name| !has_trust(name)).collect();
    let gaps = Gaps::between(from, to, pages)?;
    let objects = gaps.objects(from);
    let sends = !objects.is_empty() || !records.is_empty() || !trust.is_empty();
    if sends {
        env.step(format!("bringing {} up to date from {}", to.named.name, from.named.name));
    }
    let mut sent = send(prepared, source, target, objects.into_iter().collect(), env)?;
    // An inventory says that all which it lists is there.
    let whole = gaps.whole(&prepared.sides[source], &prepared.sides[target]);
    sent += send(prepared, source, target, whole, env)?;
    let (from, to) = (prepared.sides[source].named.store.clone(), prepared.sides[target].named.store.clone());
    copy_records(from.as_ref(), to.as_ref(), &trust)?;
    // The record goes even when its snapshot is not whole there: without it the chain would have a hole, and a hole says that
    // somebody removed a record. The inventory that is missing says what is true.
    for record in records {
        copy_records(from.as_ref(), to.as_ref(), std::slice::from_ref(&record.name))?;
        let to = &mut prepared.sides[target];
        to.copy.book.add(&record.name.to_string());
        to.records.checked.push(record);
    }
    Ok(sent)
}

/// Copies objects; only those that arrived count as being there.
fn send(prepared: &mut Prepared, source: usize, target: usize, lines: Vec<Line>, env: &Env<'_>) -> Result<u64, VaultError> {
    if lines.is_empty() {
        return Ok(0);
    }
    let (from, to) = (&prepared.sides[source].named.store, prepared.sides[target].destination());
    let mut names: Vec<ObjectName> = lines.iter().map(|line| line.name.clone()).collect();
    let (copied, findings) = copy_objects(from.as_ref(), &to, lines, env.cancel, &|_| {})?;
    let missed: BTreeSet<&str> = findings.iter().map(|finding| finding.subject.as_str()).collect();
    names.retain(|name| !missed.contains(name.to_string().as_str()));
    prepared.sides[target].presence.add_all(&names);
    prepared.findings.extend(findings);
    Ok(copied.objects)
}
