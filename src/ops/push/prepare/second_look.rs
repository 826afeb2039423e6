//! Before the record is signed: what went away, and what is to go, while the push ran.

use super::{Prepared, is_prune, list_with_room};
use crate::format::record::Head;
use crate::model::finding::{Finding, FindingKind};
use crate::model::name::ObjectName;
use crate::ops::OpError;
use crate::ops::context::Context;
use crate::ops::push::{PushPlan, RECORD_ROOM_BYTES};
use crate::store::StoreError;
use crate::vault::VaultError;
use crate::vault::courier::Courier;
use crate::vault::inventory::{Inventory, PageCache, each_line};
use crate::vault::pruned::Pruned;

impl Prepared {
    /// Whether a prune plan that came since this push began names an object that its snapshot needs: another push is then
    /// needed that knows of it.
    pub fn newly_doomed(
        &self,
        context: &mut Context,
        plan: &PushPlan,
        inventory: &Inventory,
        pages: &PageCache,
    ) -> Result<bool, OpError> {
        let root = ObjectName::Inventory(inventory.root.name);
        for side in &self.sides {
            // A copy that went out of reach meanwhile commits nothing.
            let Ok(mut copy) = context.open_copy(std::sync::Arc::clone(&side.named.store), &plan.pin) else { continue };
            let known = |name: &&str| match ObjectName::parse_stored(name) {
                Ok((ObjectName::Record { writer, seq, statement }, _)) => {
                    side.copy.book.has(&writer, &Head { seq, hash: statement })
                }
                _ => true,
            };
            if copy.book.names().all(|name| known(&name)) {
                continue;
            }
            let records = context.read_records(&mut copy)?;
            let mut prune = records.checked.iter().filter(|record| is_prune(&record.statement.kind));
            if prune.all(|record| self.doomed.records.contains(&record.name)) {
                continue;
            }
            let store = side.named.store.as_ref();
            let doomed = Pruned::read(&records, store)?.doomed(pages, store)?;
            let mut needed = false;
            each_line(pages, store, &root, &mut |line| needed |= doomed.contains(&line.name))?;
            if needed {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Lists every copy again: a copy that lacks something that the snapshot needs is given up. False when none is left.
    pub fn check_arrived(
        &mut self,
        inventory: &Inventory,
        pages: &PageCache,
        courier: &Courier,
    ) -> Result<bool, VaultError> {
        let root = ObjectName::Inventory(inventory.root.name);
        let mut whole = false;
        for (number, report) in courier.reports().into_iter().enumerate() {
            if report.error.is_some() {
                continue;
            }
            let side = &self.sides[number];
            let store = side.named.store.as_ref();
            let now = match list_with_room(&side.named, RECORD_ROOM_BYTES) {
                Ok((now, _)) => now,
                Err(error) => {
                    courier.give_up(number, error);
                    continue;
                }
            };
            let mut gone: Vec<ObjectName> = Vec::new();
            // The pages were kept here a moment ago, so this reads no store.
            each_line(pages, store, &root, &mut |line| {
                let here = matches!(line.name, ObjectName::Trust { .. }) || side.lost.contains(&line.name);
                if !here && !now.has(&line.name) {
                    gone.push(line.name.clone());
                }
            })?;
            if let Some(first) = gone.first() {
                let why = format!("{first} and {} more objects went away while the push ran", gone.len() - 1);
                self.findings.push(Finding::new(FindingKind::Damage, &side.named.name, &why));
                courier.give_up(number, StoreError::Protocol(why));
            } else {
                whole = true;
            }
        }
        Ok(whole)
    }
}
