//! Bringing one copy up to date from another, and healing it: what `sync` and `drive export` have in common.
//!
//! Objects first, then the header, records last; what was sent is read back and hashed before its records go. So a copy that
//! was cut off in between holds no snapshot that it cannot give back, and the next run goes on where it stopped. Nothing is
//! ever removed or changed: where a damaged object has its name, the good one lies under a suffix.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::context::{Context, NamedStore, VaultPin, open_pinned};
use super::delivery::{Delivery, Snapshots, holds, in_order, own_records};
use super::{Env, Event, OpError};
use crate::crypto::hash::hash;
use crate::format::header::Header;
use crate::format::inventory::Line;
use crate::ledger::{Checked, LedgerError, check};
use crate::model::finding::{Finding, FindingKind};
use crate::model::limits::RECORD_MAX_BYTES;
use crate::model::name::{Area, ObjectName};
use crate::model::size::human_size;
use crate::state::unconfirmed::Left;
use crate::store::deliver::{RetryPolicy, deliver};
use crate::vault::VaultError;
use crate::vault::copy::Copy;
use crate::vault::destination::Destination;
use crate::vault::examine::{Examined, examine};
use crate::vault::inventory::{PageCache, each_line};
use crate::vault::objects::{read_fitting, read_hashed};
use crate::vault::presence::Presence;
use crate::vault::pruned::Pruned;
use crate::vault::replicate::{Replicated, copy_objects, copy_records, read_record};
use crate::vault::snapshots::{Records, Snapshot};

mod doubts;

/// What is listed.
const AREAS: [Area; 7] =
    [Area::Root, Area::Keys, Area::Trust, Area::Packs, Area::Indexes, Area::Manifests, Area::Inventories];
/// Room that stays free beyond what is sent: for records, directories and the file system itself.
pub const SPARE_BYTES: u64 = 4 * crate::model::limits::MIB;

/// How much of what lies in the target already is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looking {
    /// What there is reason to doubt; everything, when something that must be there is not.
    Doubtful,
    /// Everything.
    All,
}

/// What to bring where.
pub struct Transfer<'a> {
    /// Whom to trust.
    pub pin: &'a VaultPin,
    /// The copy that is read, with its records.
    pub from: &'a Copy,
    /// Its records.
    pub records: &'a Records,
    /// The copy that is written.
    pub to: &'a NamedStore,
    /// What of it is read first.
    pub looking: Looking,
    /// Room that is needed beside the objects, for a given number of their bytes.
    pub more_room: &'a dyn Fn(u64) -> u64,
}

/// What was done.
#[derive(Debug, Default)]
pub struct Transferred {
    /// What was sent.
    pub sent: Replicated,
    /// The snapshots that the target holds now.
    pub snapshots: Vec<Snapshot>,
    /// All objects that they need.
    pub wanted: Vec<Line>,
    /// Objects and records that lay there, damaged, and lie there whole now.
    pub healed: Vec<String>,
    /// Records that were sent.
    pub records: u64,
    /// Objects that were read in the target and are right.
    pub read_back: u64,
    /// Whether all of them came from the device.
    pub past_cache: bool,
    /// Objects of the target that stood under suspicion.
    pub doubted: BTreeSet<ObjectName>,
    /// Damage to what the target alone holds.
    pub left_damaged: Vec<Finding>,
    /// Something reads back wrong after it was written: no records were sent.
    not_kept: bool,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl Transferred {
    /// Whether all is sent, durable and read back.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        !self.findings.iter().any(|finding| finding.kind.casts_doubt())
    }

    fn count(&mut self, examined: &Examined) {
        self.past_cache &= examined.cached == 0;
        self.read_back += examined.right;
    }
}

impl Transfer<'_> {
    /// Does it.
    ///
    /// # Errors
    /// When either copy cannot be reached, they are not copies of one vault, or the target has no room.
    pub fn run(&self, context: &mut Context, env: &Env<'_>) -> Result<Transferred, OpError> {
        let pages = PageCache::open(&context.state.cache().join("inventories"))?;
        env.step(format!("looking at {}", self.to.name));
        let mut done = Transferred { past_cache: true, ..Transferred::default() };
        self.mend_trunk(&mut done)?;
        let (mut target, set_back) = self.open_target(context)?;
        let presence = Presence::read(self.to.store.as_ref(), &AREAS).map_err(VaultError::from)?;
        done.findings.extend(self.records.findings.iter().filter(|f| f.kind.is_alarm()).cloned());
        let target_records = match &mut target {
            Some(copy) => context.read_records(copy)?,
            None => Records::default(),
        };
        done.snapshots = self.wanted_snapshots(&target_records, &presence)?;
        let wanted = self.wanted_objects(&done.snapshots, &pages, &mut done.findings)?;
        let known = |name: &ObjectName| target.as_ref().is_some_and(|copy| holds(copy, name)) || holds(self.from, name);
        let own: Vec<Checked> =
            own_records(context, &self.from.trust, &known)?.into_iter().map(|(record, _)| record).collect();
        let to = Destination::new(Arc::clone(&self.to.store), &context.state);
        let Left { sent, wrong } = to.notes.left().map_err(VaultError::from)?;
        let noted: BTreeSet<ObjectName> = sent.into_iter().chain(wrong).collect();
        let doubts =
            self.doubts(&wanted, &presence, &noted, (target.as_ref(), &target_records), &own, set_back.is_some(), &pages)?;
        let looked = self.examine(doubts.to_read.clone(), "reading what lies there", env)?;
        done.count(&looked);
        let mut damaged: BTreeSet<Line> = BTreeSet::new();
        for (line, why) in looked.wrong {
            if doubts.own.contains(&line) {
                let message = format!("{why}; {} does not hold it: another copy may mend it", self.from.name());
                done.left_damaged.push(Finding::new(FindingKind::Damage, &line.name, message));
            } else {
                damaged.insert(line);
            }
        }
        for line in doubts.to_read.iter().filter(|line| noted.contains(&line.name) && !damaged.contains(line)) {
            to.notes.arrived(&line.name).map_err(VaultError::from)?;
        }
        let missing: Vec<Line> =
            wanted.iter().filter(|line| !presence.has(&line.name) || damaged.contains(line)).cloned().collect();
        done.wanted = wanted;
        done.doubted = doubts.spoken_against;
        self.check_room(&missing)?;
        self.send_objects(&to, &missing, &damaged, &mut done, env)?;
        if done.not_kept {
            return Ok(done);
        }

        env.step("sending records");
        self.send_records(target.as_ref(), &presence, context, doubts.everything, &mut done)?;
        if let Some(error) = set_back {
            // Still so, when the source does not know those records either.
            open_pinned(Arc::clone(&self.to.store), self.pin, Some(&context.state))?.check_ratchet(&context.ratchet)?;
            let message = format!("was {error}; the source had what was lost, and it is there again");
            done.findings.push(Finding::new(FindingKind::Notice, &self.to.name, message));
        }
        Ok(done)
    }

    /// Header and trust records that are there and damaged: the good ones go under a suffix, or the copy could not be opened.
    fn mend_trunk(&self, done: &mut Transferred) -> Result<(), OpError> {
        let store = self.to.store.as_ref();
        let lies_there = |name: &ObjectName| store.stat(&name.to_string()).map_err(VaultError::from);
        let mut ours = false;
        for (name, bytes) in self.from.trust_records() {
            if lies_there(name)?.is_none() {
                continue;
            }
            // Names of trust records carry hashes: another vault has none of these.
            ours = true;
            // Where the very bytes lie under the name or a suffix already, this changes nothing.
            if deliver(store, name, bytes, RetryPolicy::DEFAULT).map_err(VaultError::from)?.sent {
                done.healed.push(name.to_string());
            }
        }
        let header = self.from.header_bytes();
        if !ours || lies_there(&ObjectName::Header)?.is_none() {
            return Ok(());
        }
        let of_another = |bytes: &[u8]| match Header::decode(bytes) {
            Ok(header) if header.vault != self.from.vault() => Ok(()),
            _ => Err(String::new()),
        };
        if let Err(VaultError::Damaged { .. }) = read_hashed(store, &ObjectName::Header, hash(header))
            && read_fitting(store, &ObjectName::Header, of_another).is_err()
        {
            deliver(store, &ObjectName::Header, header, RetryPolicy::DEFAULT).map_err(VaultError::from)?;
            done.healed.push(ObjectName::Header.to_string());
        }
        Ok(())
    }

    /// The target copy, and whether it lost records that were seen there; none when there is no vault yet, for which the
    /// directories are then made.
    fn open_target(&self, context: &Context) -> Result<(Option<Copy>, Option<LedgerError>), OpError> {
        match open_pinned(Arc::clone(&self.to.store), self.pin, Some(&context.state)) {
            Ok(copy) if copy.vault() == self.from.vault() => {
                copy.check_trust(&context.ratchet)?;
                let set_back = copy.check_ratchet(&context.ratchet).err();
                Ok((Some(copy), set_back))
            }
            Ok(copy) => Err(OpError::Usage(format!(
                "{}: holds vault {}, and {} holds {}: they are not copies of one another",
                self.to.name,
                copy.vault(),
                self.from.name(),
                self.from.vault()
            ))),
            Err(VaultError::NoVault(_)) => {
                self.to.store.make_dirs(&Area::layout()).map_err(VaultError::from)?;
                Ok((None, None))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The snapshots that the target should hold: those that were dropped from neither copy.
    fn wanted_snapshots(&self, target: &Records, presence: &Presence) -> Result<Vec<Snapshot>, OpError> {
        let mut snapshots = self.records.snapshots();
        Pruned::read(self.records, self.from.store.as_ref())?.take_dropped(&mut snapshots);
        let dropped = Pruned::of(target, presence);
        snapshots.retain(|snapshot| !dropped.is_dropped(snapshot));
        Ok(snapshots)
    }

    /// Every object that a snapshot of the source needs: plain files first, the header not among them, inventories last.
    fn wanted_objects(
        &self,
        snapshots: &[Snapshot],
        pages: &PageCache,
        findings: &mut Vec<Finding>,
    ) -> Result<Vec<Line>, OpError> {
        let mut wanted: BTreeSet<Line> = self.from.plain_lines().into_iter().collect();
        pages.read_ahead(self.from.store.as_ref(), snapshots.iter().map(|snapshot| &snapshot.body.inventory));
        for snapshot in snapshots {
            let collected = each_line(pages, self.from.store.as_ref(), &snapshot.body.inventory, &mut |line| {
                wanted.insert(line.clone());
            });
            match collected {
                Ok(()) => {}
                Err(VaultError::Store(error)) if error.is_store_wide() => return Err(error.into()),
                Err(error) => {
                    let message = format!("snapshot {} cannot be copied whole: {error}", snapshot.id.short());
                    findings.push(Finding::new(FindingKind::Damage, &snapshot.body.inventory, message));
                }
            }
        }
        let at_the_end =
            |name: &ObjectName| matches!(name, ObjectName::Trust { .. } | ObjectName::Record { .. } | ObjectName::Header);
        let mut lines: Vec<Line> = wanted.into_iter().filter(|line| !at_the_end(&line.name)).collect();
        lines.sort_by_key(|line| (line.name.area(), line.name.clone()));
        Ok(lines)
    }

    fn examine(&self, lines: Vec<Line>, step: &str, env: &Env<'_>) -> Result<Examined, OpError> {
        if lines.is_empty() {
            return Ok(Examined::default());
        }
        env.step(step);
        let bytes = lines.iter().filter_map(|line| line.name.bytes()).sum();
        env.observer.event(Event::Total { items: Some(lines.len() as u64), bytes: Some(bytes) });
        let told = |bytes| env.observer.event(Event::Advance { items: 1, bytes });
        Ok(examine(self.to.store.as_ref(), lines, env.cancel, &told)?)
    }

    fn check_room(&self, missing: &[Line]) -> Result<(), OpError> {
        if missing.is_empty() {
            return Ok(());
        }
        let unit = self.to.store.unit_bytes();
        let objects: u64 = missing.iter().filter_map(|line| line.name.bytes()).map(|n| n.next_multiple_of(unit)).sum();
        let needed = objects + (self.more_room)(objects) + SPARE_BYTES;
        match self.to.store.room() {
            Ok(Some(room)) if room < needed => {
                let (needed, room) = (human_size(needed), human_size(room));
                Err(OpError::NotDone(format!(
                    "{}: {needed} are needed and {room} are free; nothing was sent (`farkeep prune plan` and `prune apply` make \
                     room there)",
                    self.to.name
                )))
            }
            _ => Ok(()),
        }
    }

    /// Sends objects and reads them back.
    fn send_objects(
        &self,
        to: &Destination,
        missing: &[Line],
        damaged: &BTreeSet<Line>,
        done: &mut Transferred,
        env: &Env<'_>,
    ) -> Result<(), OpError> {
        let bytes = missing.iter().filter_map(|line| line.name.bytes()).sum();
        env.observer.event(Event::Total { items: Some(missing.len() as u64), bytes: Some(bytes) });
        env.step(format!("sending to {}", self.to.name));
        let told = |bytes| env.observer.event(Event::Advance { items: 1, bytes });
        let (sent, problems) = copy_objects(self.from.store.as_ref(), to, missing.to_vec(), env.cancel, &told)?;
        done.sent = sent;
        let broken: BTreeSet<String> = problems.iter().map(|finding| finding.subject.clone()).collect();
        let needed: BTreeSet<String> = done.snapshots.iter().map(|snapshot| snapshot.body.manifest.to_string()).collect();
        done.findings.extend(problems.into_iter().map(|mut problem| {
            // Shared pages list it, and the snapshot that it describes was dropped.
            if problem.subject.starts_with(Area::Manifests.dir()) && !needed.contains(&problem.subject) {
                problem.kind = FindingKind::Notice;
            }
            problem
        }));
        let arrived: Vec<Line> = missing.iter().filter(|line| !broken.contains(&line.name.to_string())).cloned().collect();
        // Only when all is there: a medium of less room than it says writes later objects over earlier ones.
        let back = self.examine(arrived.clone(), "reading back what was sent", env)?;
        done.count(&back);
        let wrong: BTreeSet<&Line> = back.wrong.iter().map(|(line, _)| line).collect();
        let healed = arrived.iter().filter(|line| damaged.contains(line) && !wrong.contains(line));
        done.healed.extend(healed.map(|line| line.name.to_string()));
        done.not_kept = !wrong.is_empty();
        for (line, why) in back.wrong {
            to.notes.wrong(&line.name).map_err(VaultError::from)?;
            let message = format!("reads back wrong after it was written: {why}");
            done.findings.push(Finding::new(FindingKind::Damage, &line.name, message));
        }
        Ok(())
    }

    /// Sends the header, then trust records, then every writer's records in sequence, own ones that lie only here included;
    /// and reads back what was sent.
    fn send_records(
        &self,
        target: Option<&Copy>,
        presence: &Presence,
        context: &Context,
        everything: bool,
        done: &mut Transferred,
    ) -> Result<(), OpError> {
        let to = self.to.store.as_ref();
        for (name, bytes) in self.from.trust_records().iter().filter(|(name, _)| !presence.has(name)) {
            deliver(to, name, bytes, RetryPolicy::DEFAULT).map_err(VaultError::from)?;
        }
        if target.is_none() {
            deliver(to, &ObjectName::Header, self.from.header_bytes(), RetryPolicy::DEFAULT).map_err(VaultError::from)?;
        }
        let torn = match target {
            Some(copy) if everything => torn_records(copy)?,
            _ => BTreeSet::new(),
        };
        let void: BTreeSet<&ObjectName> =
            self.records.checked.iter().filter(|record| record.is_void()).map(|record| &record.name).collect();
        let mut names = Vec::new();
        for stored in self.from.book.names() {
            if let Ok((name @ ObjectName::Record { .. }, _)) = ObjectName::parse_stored(stored)
                && !void.contains(&name)
                && (!target.is_some_and(|copy| holds(copy, &name)) || torn.contains(&name))
            {
                names.push(name);
            }
        }
        // A chain arrives from its beginning, and before each record what it cites.
        let order = in_order(self.records.checked.clone()).into_iter().map(|record| record.name);
        let place: BTreeMap<ObjectName, usize> = order.zip(0..).collect();
        names.sort_by_key(|name| (place.get(name).copied().unwrap_or(usize::MAX), name.clone()));
        names.dedup();
        let mut arrived = Vec::new();
        for name in names {
            match copy_records(self.from.store.as_ref(), to, std::slice::from_ref(&name)) {
                Ok(_) => arrived.push(name),
                // What anybody may have put there keeps no record from the target that comes after it.
                Err(VaultError::Damaged { object, why }) => {
                    done.findings.push(Finding::new(FindingKind::Damage, object, format!("not copied: {why}")));
                }
                Err(error) => return Err(error.into()),
            }
        }
        let mut names = arrived;
        done.healed.extend(names.iter().filter(|name| torn.contains(*name)).map(ToString::to_string));
        names.extend(self.send_own(target, context)?);
        done.records = names.len() as u64;
        for name in &names {
            read_record(to, name)?;
        }
        Ok(())
    }

    /// Own records that the target lacks and the source does not hold either: of a station that could only read.
    fn send_own(&self, target: Option<&Copy>, context: &Context) -> Result<Vec<ObjectName>, OpError> {
        let delivery = Delivery {
            context,
            trust: &self.from.trust,
            store: self.to.store.as_ref(),
            policy: RetryPolicy::DEFAULT,
            snapshots: Snapshots::Whole,
        };
        let held = |name: &ObjectName| target.is_some_and(|copy| holds(copy, name)) || holds(self.from, name);
        Ok(delivery.run(&held)?.sent.into_iter().map(|record| record.name).collect())
    }
}

/// Records of a copy of which no file holds the statement that their name promises, truly signed.
fn torn_records(copy: &Copy) -> Result<BTreeSet<ObjectName>, OpError> {
    let wanted: Vec<(String, u64)> = copy.book.names().map(|name| (name.to_owned(), RECORD_MAX_BYTES)).collect();
    let (mut torn, mut whole) = (BTreeSet::new(), BTreeSet::new());
    for ((stored, _), read) in wanted.iter().zip(copy.store.get_many(&wanted)) {
        let Ok((name, _)) = ObjectName::parse_stored(stored) else { continue };
        let fits = match read {
            Ok(bytes) => check(&copy.trust, stored, &bytes).is_ok(),
            Err(error) if error.is_store_wide() => return Err(error.into()),
            Err(_) => false,
        };
        if fits {
            whole.insert(name)
        } else {
            torn.insert(name)
        };
    }
    Ok(torn.difference(&whole).cloned().collect())
}
