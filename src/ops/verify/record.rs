//! What verifications put on record: what was found now, and what those before are still worth.

use std::collections::{BTreeMap, BTreeSet};

use super::{Depth, VerifyPlan, VerifyReceipt};
use crate::format::body::{FoundObject, PruneDoneBody, VerifyBody};
use crate::format::record::{Head, RecordKind};
use crate::ledger::{Checked, Scribe, Standing};
use crate::model::finding::{Finding, FindingKind};
use crate::model::ids::{ObjectHash, WriterId};
use crate::model::name::ObjectName;
use crate::ops::custody::adopt_own;
use crate::ops::delivery::{deliver_missing, holds, own_records};
use crate::ops::drive::drive_of;
use crate::ops::reading::Opened;
use crate::ops::suspicion::spoken_against;
use crate::ops::verifications::{Place, Verification};
use crate::ops::{Env, OpError};
use crate::state::keys::{KeyDir, Role};
use crate::vault::VaultError;
use crate::vault::objects::read_hashed;
use crate::vault::snapshots::Snapshot;
use crate::vault::verify::{FINDINGS_MAX, Listed};

/// Objects that a verify record names; where more were found, further records follow.
const RECORD_OBJECTS_MAX: usize = 200;
/// Records of one verification: together they name as many objects as it keeps findings.
const RECORDS_MAX: usize = FINDINGS_MAX / RECORD_OBJECTS_MAX;
/// Writers that the record of an accepted rollback names, so that it stays within its limit beside those objects.
const ROLLED_BACK_MAX: usize = 64;

/// Snapshots of which the copy holds the record alone, where an earlier verification counted more complete ones than there are
/// now and were dropped: they did not stay away, they went. Of those that are `gone`, as somebody accepts, nothing is expected:
/// what was counted is held against the copy as far as the records that say so lie in it.
pub(super) fn lost_since(found: &Opened, listed: &Listed, gone: &BTreeMap<WriterId, Head>) -> Result<Vec<Finding>, OpError> {
    let behind: Vec<&Snapshot> =
        listed.needs.behind.iter().filter(|snapshot| !listed.given_up.contains(&snapshot.id)).collect();
    if behind.is_empty() {
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
    // What was here before a rollback that somebody accepted is not missed any more, unless it was missed then.
    let accepted: Vec<&Verification<'_>> =
        all.iter().filter(is_here).filter(|one| !one.body.rolled_back.is_empty()).collect();
    let is_over = |one: &Verification<'_>| {
        let (writer, seq) = (one.record.statement.writer, one.record.head.seq);
        let was_gone = |body: &VerifyBody| body.rolled_back.get(&writer).is_some_and(|seen| seq <= seen.seq);
        let ends = |accepted: &&&Verification<'_>| accepted.record.knew(one.record) || was_gone(&accepted.body);
        // Nobody accepts what comes later.
        accepted.iter().filter(ends).any(|accepted| !one.record.knew(accepted.record))
    };
    let lies_here = |one: &Verification<'_>| gone.is_empty() || holds(&found.copy, &one.record.name);
    let fates = Fates::of(found, listed);
    let counts = |one: &&Verification<'_>| is_here(one) && !is_over(one) && lies_here(one) && fates.lack_some_of(one);
    let most = all.iter().filter(counts).max_by_key(|one| one.body.snapshots);
    let missed_then: BTreeSet<&str> =
        accepted.iter().flat_map(|one| &one.body.objects_found).map(|found| found.object.as_str()).collect();
    let lost = behind.into_iter().filter_map(|snapshot| {
        let subject = snapshot.body.inventory.to_string();
        let why = match most {
            Some(most) => {
                format!("{} snapshots were complete here at {}", most.body.snapshots, most.record.statement.time)
            }
            None if missed_then.contains(subject.as_str()) => "it was when a rollback of this copy was accepted".to_owned(),
            None => return None,
        };
        let (kind, snapshots) = (FindingKind::Damage, vec![snapshot.id.short()]);
        Some(Finding { kind, subject, message: format!("missing, and the manifest too; {why}"), snapshots })
    });
    Ok(lost.collect())
}

/// What became of snapshots that verifications counted in a copy.
struct Fates<'a> {
    /// Those that are complete there.
    complete: &'a [Snapshot],
    /// Those that were dropped from it, and by which records; by none where only another copy dropped them.
    dropped: Vec<(&'a Snapshot, Vec<&'a Checked>)>,
    /// Those that do not count any more: their writer was retired.
    void: Vec<&'a Checked>,
}

impl<'a> Fates<'a> {
    fn of(found: &'a Opened, listed: &'a Listed) -> Self {
        let of_kind = |kind: RecordKind| found.records.checked.iter().filter(move |record| record.statement.kind == kind);
        let read = |record: &'a Checked| Some((record, record.statement.body_as::<PruneDoneBody>().ok()?));
        let done: Vec<(&Checked, PruneDoneBody)> =
            of_kind(RecordKind::PruneDone).filter_map(read).filter(|(_, body)| listed.presence.has(&body.copy)).collect();
        let by = |snapshot: &Snapshot| {
            let names =
                |body: &PruneDoneBody| body.drops.iter().any(|range| range.contains(&snapshot.writer, snapshot.head.seq));
            done.iter().filter(|(_, body)| names(body)).map(|(record, _)| *record).collect()
        };
        Self {
            complete: &listed.needs.snapshots,
            dropped: listed.dropped.iter().map(|snapshot| (snapshot, by(snapshot))).collect(),
            void: of_kind(RecordKind::Snapshot).filter(|record| record.is_void()).collect(),
        }
    }

    /// Whether a verification counted more than there are of those that it can have known, and than were dropped since. What was
    /// dropped before it, or made after it, it did not count.
    fn lack_some_of(&self, one: &Verification<'_>) -> bool {
        let of = &one.record.statement;
        let knew = |writer: &WriterId, seq: u64| {
            let newest = if of.writer == *writer { Some(of.seq) } else { of.heads.get(writer).map(|head| head.seq) };
            newest.is_none_or(|newest| seq <= newest)
        };
        let complete = self.complete.iter().filter(|snapshot| knew(&snapshot.writer, snapshot.head.seq)).count();
        let since = self.dropped.iter().filter(|(snapshot, by)| {
            knew(&snapshot.writer, snapshot.head.seq) && !by.iter().any(|record| one.record.knew(record))
        });
        let void = self.void.iter().filter(|record| knew(&record.statement.writer, record.head.seq));
        one.body.snapshots > (complete + since.count() + void.count()) as u64
    }
}

/// Of what is gone in a rollback that is accepted, what goes on record: first what the root has enrolled, since of others
/// anybody could have made any number.
pub(super) fn of_note(found: &Opened, gone: &BTreeMap<WriterId, Head>) -> Vec<(WriterId, Head)> {
    let is_enrolled = |one: &(&WriterId, &Head)| found.copy.trust.writer(one.0).is_some();
    let (enrolled, strangers): (Vec<_>, Vec<_>) = gone.iter().partition(is_enrolled);
    enrolled.into_iter().chain(strangers).take(ROLLED_BACK_MAX).map(|(writer, head)| (*writer, *head)).collect()
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
pub(super) fn record(
    plan: &VerifyPlan,
    all_read: bool,
    gone: &BTreeMap<WriterId, Head>,
    found: &Opened,
    receipt: &mut VerifyReceipt,
    env: &Env<'_>,
) -> Result<bool, OpError> {
    let mut objects: BTreeMap<ObjectName, FoundObject> = BTreeMap::new();
    for finding in receipt.findings.iter().filter(|finding| finding.kind.casts_doubt()) {
        if let Ok((name, _)) = ObjectName::parse_stored(&finding.subject) {
            let object = finding.subject.clone();
            objects.entry(name).or_insert(FoundObject { object, kind: finding.kind });
        }
    }
    let mut again = false;
    let (drive, label) = drive_of(&found.copy).unzip();
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
        if !gone.is_empty() {
            return Err(OpError::NotDone(format!("the rollback of {} was not accepted: {message}", found.copy.name())));
        }
        receipt.findings.push(Finding::new(FindingKind::Notice, found.copy.name(), message));
        return Ok(false);
    }
    adopt_own(&mut scribe, &found.copy, &found.records)?;
    let mut last = None;
    for part in &parts {
        let body = VerifyBody {
            depth: plan.depth.word().to_owned(),
            store: receipt.store.clone(),
            started: receipt.started,
            snapshots: receipt.snapshots,
            objects: receipt.objects,
            bytes: receipt.bytes,
            findings: receipt.findings.iter().filter(|finding| finding.kind.casts_doubt()).count() as u64,
            objects_found: part.to_vec(),
            whole: all_read && parts.len() == 1,
            again,
            drive: drive.clone(),
            label,
            rolled_back: of_note(found, gone).into_iter().collect(),
        };
        let context = found.context.record_context(env, found.copy.trust.head(), found.records.heads());
        last = Some(scribe.write(RecordKind::Verify, &body, context)?.name);
    }
    Ok(last.is_some_and(|name| deliver_missing(&found.context, &found.copy, &name).is_ok()))
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
