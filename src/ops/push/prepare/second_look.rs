//! Before the record is signed: what went away, and what is to go, while the push ran.

use super::{AREAS, Prepared, Side, enough_room, is_prune};
use crate::format::record::Head;
use crate::model::finding::{Finding, FindingKind};
use crate::model::name::ObjectName;
use crate::ops::OpError;
use crate::ops::context::Context;
use crate::ops::push::{PushPlan, RECORD_ROOM_BYTES};
use crate::store::{Store, StoreError};
use crate::vault::VaultError;
use crate::vault::courier::Courier;
use crate::vault::inventory::{Inventory, PageCache, each_line};
use crate::vault::presence::Presence;
use crate::vault::pruned::{Plan, Pruned};

/// Objects that are asked for one by one.
const ASKED_MAX: usize = 1024;

impl Prepared {
    /// Whether a prune plan that came since this push began names an object that its snapshot needs: another push is then
    /// needed that knows of it.
    ///
    /// # Errors
    /// When another machine has become the agent since.
    fn newly_doomed(
        &self,
        context: &mut Context,
        plan: &PushPlan,
        inventory: &Inventory,
        pages: &PageCache,
    ) -> Result<bool, OpError> {
        let root = ObjectName::Inventory(inventory.root.name);
        for side in &self.sides {
            // A copy that went out of reach meanwhile commits nothing.
            let Ok(listed) = side.copy.list_records_again() else { continue };
            let known = |name: &str| match ObjectName::parse_stored(name) {
                Ok((ObjectName::Record { writer, seq, statement }, _)) => {
                    side.copy.book.has(&writer, &Head { seq, hash: statement })
                }
                Ok((name @ ObjectName::Trust { .. }, _)) => side.copy.knows_trust(&name),
                _ => true,
            };
            if listed.iter().all(|listed| known(&listed.name)) {
                continue;
            }
            let Ok(mut copy) = context.open_copy(std::sync::Arc::clone(&side.named.store), &plan.pin) else { continue };
            if copy.trust.agent() != self.trust().agent() {
                let why = "another machine became the agent while this push ran, and nothing was committed; `farkeep init \
                           --adopt` makes this one the agent again";
                return Err(OpError::NotDone(why.into()));
            }
            let records = context.read_records(&mut copy)?;
            let mut prune = records.checked.iter().filter(|record| is_prune(&record.statement.kind));
            if prune.all(|record| self.doomed.records.contains(&record.name)) {
                continue;
            }
            let store = side.named.store.as_ref();
            let doomed = Pruned::read(&records, store)?.doomed(pages, store)?;
            // One that was there before counts already for all that it may name; a new one may name anything.
            let is_new = |plan: &Plan| !self.doomed.unread.contains(&(plan.writer, plan.head.hash));
            let mut needed = doomed.unread.iter().any(|(plan, _)| is_new(plan));
            each_line(pages, store, &root, &mut |line| needed |= doomed.names.contains(&line.name))?;
            if needed {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Looks at every copy again, at its objects and at its records at the same time: a copy that lacks something that the
    /// snapshot needs is given up. False when none is left, or when what the snapshot needs is to go.
    pub fn look_again(
        &mut self,
        context: &mut Context,
        plan: &PushPlan,
        inventory: &Inventory,
        pages: &PageCache,
        courier: &Courier,
    ) -> Result<bool, OpError> {
        let root = ObjectName::Inventory(inventory.root.name);
        let needed = Needed::by(&root, pages, self.sides[0].named.store.as_ref())?;
        let standing: Vec<usize> =
            courier.reports().iter().enumerate().filter(|(_, report)| report.error.is_none()).map(|(at, _)| at).collect();
        let (looks, newly_doomed) = std::thread::scope(|scope| {
            let look = |number: usize| {
                let (side, needed) = (&self.sides[number], &needed);
                scope.spawn(move || needed.lacking(side, pages))
            };
            let looks: Vec<_> = standing.iter().map(|number| look(*number)).collect();
            let newly_doomed = self.newly_doomed(context, plan, inventory, pages);
            let failed = |_| Err(VaultError::internal("a thread failed"));
            let looks: Vec<_> = looks.into_iter().map(|look| look.join().unwrap_or_else(failed)).collect();
            (looks, newly_doomed)
        });
        let mut whole = false;
        for (number, look) in standing.into_iter().zip(looks) {
            let gone = match look {
                Ok(gone) => gone,
                Err(VaultError::Store(error)) => {
                    courier.give_up(number, error);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if let Some(first) = gone.first() {
                let why = format!("{first} and {} more objects went away while the push ran", gone.len() - 1);
                self.findings.push(Finding::new(FindingKind::Damage, &self.sides[number].named.name, &why));
                courier.give_up(number, StoreError::Protocol(why));
            } else {
                whole = true;
            }
        }
        Ok(whole && !newly_doomed?)
    }
}

/// What a snapshot needs, as its inventory has it.
struct Needed<'i> {
    root: &'i ObjectName,
    /// All of it, where it is little.
    few: Option<Vec<ObjectName>>,
}

impl<'i> Needed<'i> {
    fn by(root: &'i ObjectName, pages: &PageCache, store: &dyn Store) -> Result<Self, VaultError> {
        let mut few = Vec::new();
        each_needed(root, pages, store, &mut |name| {
            if few.len() <= ASKED_MAX {
                few.push(name.clone());
            }
        })?;
        Ok(Self { root, few: (few.len() <= ASKED_MAX).then_some(few) })
    }

    /// What a copy lacks. Few objects are asked for one by one: a listing takes five round trips and more on a young
    /// connection. What is not found so may lie under another name, which only a listing tells.
    fn lacking(&self, side: &Side, pages: &PageCache) -> Result<Vec<ObjectName>, VaultError> {
        let store = side.named.store.as_ref();
        if let Some(few) = &self.few {
            let now = Presence::of(store, few)?;
            enough_room(&side.named, store.room(), RECORD_ROOM_BYTES)?;
            if few.iter().all(|name| side.lost.contains(name) || now.has(name)) {
                return Ok(Vec::new());
            }
        }
        let now = Presence::read(store, &AREAS)?;
        enough_room(&side.named, store.room(), RECORD_ROOM_BYTES)?;
        let mut gone = Vec::new();
        each_needed(self.root, pages, store, &mut |name| {
            if !side.lost.contains(name) && !now.has(name) {
                gone.push(name.clone());
            }
        })?;
        Ok(gone)
    }
}

/// The pages were kept here a moment ago, so this reads no store.
fn each_needed(
    root: &ObjectName,
    pages: &PageCache,
    store: &dyn Store,
    each: &mut dyn FnMut(&ObjectName),
) -> Result<(), VaultError> {
    each_line(pages, store, root, &mut |line| {
        if !matches!(line.name, ObjectName::Trust { .. }) {
            each(&line.name);
        }
    })
}
