//! The register of drives, as the records of a vault tell it: which there are, who holds them, what they took, what is due.

use std::collections::{BTreeMap, BTreeSet};

use crate::format::drive::{DriveBody, DriveEvent, Enrolment, ExportBody, Retirement};
use crate::format::record::{Head, RecordKind};
use crate::ledger::{Checked, Standing};
use crate::model::drive::DriveName;
use crate::model::ids::WriterId;
use crate::model::name::ObjectName;
use crate::model::time::Timestamp;

/// One drive.
#[derive(Debug, Clone)]
pub struct Drive {
    /// Its name.
    pub name: DriveName,
    /// The record that enrolled it: its label.
    pub label: Head,
    /// That record's name.
    pub label_name: ObjectName,
    /// When it was enrolled.
    pub enrolled: Timestamp,
    /// What it was then.
    pub enrolment: Enrolment,
    /// Who holds it.
    pub holder: Option<String>,
    /// Where it is kept.
    pub location: Option<String>,
    /// How it ended, where it did.
    pub retired: Option<(Timestamp, Retirement)>,
    /// Its newest export, with the heads of writers that this had seen.
    pub export: Option<Export>,
}

impl Drive {
    /// When its newest export ended; none as well while that time has not come, since whoever wrote it had a wrong clock.
    #[must_use]
    pub fn exported(&self, now: Timestamp) -> Option<Timestamp> {
        self.export.as_ref().map(|export| export.time).filter(|time| !is_to_come(*time, now))
    }
}

/// Clocks of two machines may differ by so much, in seconds.
const CLOCKS_DIFFER_SECS: i64 = 86_400;

/// Whether a time that somebody wrote down has not come yet.
#[must_use]
pub fn is_to_come(time: Timestamp, now: Timestamp) -> bool {
    time.secs_since(now) > CLOCKS_DIFFER_SECS
}

/// A finished export.
#[derive(Debug, Clone)]
pub struct Export {
    /// When it ended, by the clock of the machine that exported.
    pub time: Timestamp,
    /// Its place among all records of drives: a later export has a greater one, whatever the clocks say.
    pub turn: usize,
    /// What it says.
    pub body: ExportBody,
    /// The newest records that lie on the drive since.
    pub heads: BTreeMap<WriterId, Head>,
}

/// Which drive should be plugged in, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The drive whose turn it is.
    pub name: DriveName,
    /// When.
    pub at: Timestamp,
}

/// All drives of a vault.
#[derive(Debug, Clone, Default)]
pub struct Register {
    drives: BTreeMap<DriveName, Drive>,
}

impl Register {
    /// Reads the register out of records. Only those count that trust allows, or that one of `own` signed: this machine's
    /// writers.
    #[must_use]
    pub fn read(records: &[Checked], own: &BTreeSet<WriterId>) -> Self {
        let kinds = [RecordKind::Drive, RecordKind::Export];
        let mut counted: Vec<&Checked> = records
            .iter()
            .filter(|record| kinds.contains(&record.statement.kind))
            .filter(|record| record.standing == Standing::Trusted || own.contains(&record.statement.writer))
            .collect();
        counted.sort_by_key(|record| (record.statement.time, record.statement.writer, record.head.seq));
        counted.dedup_by_key(|record| record.head);
        let mut register = Self::default();
        for (turn, record) in in_turn(&counted).into_iter().enumerate() {
            register.take(record, turn);
        }
        register
    }

    fn take(&mut self, record: &Checked, turn: usize) {
        let time = record.statement.time;
        if let Ok(body) = record.statement.body_as::<ExportBody>() {
            if let Some(drive) = self.drives.get_mut(&body.drive).filter(|drive| drive.label == body.label) {
                drive.export = Some(Export { time, turn, body, heads: record.statement.heads.clone() });
            }
            return;
        }
        let Ok(body) = record.statement.body_as::<DriveBody>() else { return };
        match body.event {
            DriveEvent::Enrol(enrolment) => {
                let drive = Drive {
                    name: body.drive.clone(),
                    label: record.head,
                    label_name: record.name.clone(),
                    enrolled: time,
                    holder: None,
                    location: enrolment.location.clone(),
                    enrolment,
                    retired: None,
                    export: None,
                };
                self.drives.insert(body.drive, drive);
            }
            DriveEvent::Handover(handover) => {
                if let Some(drive) = self.drives.get_mut(&body.drive) {
                    drive.holder = Some(handover.to);
                    drive.location = handover.location.or(drive.location.take());
                }
            }
            DriveEvent::Retire(retirement) => {
                if let Some(drive) = self.drives.get_mut(&body.drive) {
                    drive.retired = Some((time, retirement));
                }
            }
        }
    }

    /// A drive by its name.
    #[must_use]
    pub fn get(&self, name: &DriveName) -> Option<&Drive> {
        self.drives.get(name)
    }

    /// All drives, by name.
    pub fn all(&self) -> impl Iterator<Item = &Drive> {
        self.drives.values()
    }

    /// Those that take part.
    pub fn active(&self) -> impl Iterator<Item = &Drive> {
        self.all().filter(|drive| drive.retired.is_none())
    }

    /// Whose turn it is: the drive whose last export is longest ago. It is due when the newest export of any drive is as old
    /// as that drive's interval; drives take turns. While the newest export lies in the future, it is due now.
    #[must_use]
    pub fn due(&self, now: Timestamp) -> Option<Due> {
        let next = self.active().min_by_key(|drive| (drive.export.as_ref().map(|export| export.turn), drive.enrolled))?;
        let every = i64::try_from(next.enrolment.every_secs).unwrap_or(i64::MAX);
        let at = match self.last() {
            None => next.enrolled.min(now),
            Some((drive, _)) => drive.exported(now).map_or(now, |time| time.plus_secs(every)),
        };
        Some(Due { name: next.name.clone(), at })
    }

    /// The drive that took the newest export, and that export.
    fn last(&self) -> Option<(&Drive, &Export)> {
        let exports = self.active().filter_map(|drive| Some((drive, drive.export.as_ref()?)));
        exports.max_by_key(|(_, export)| export.turn)
    }

    /// What will be due once `name` has taken an export at `time`.
    #[must_use]
    pub fn after_export(&self, name: &DriveName, time: Timestamp) -> Option<Due> {
        let last = |drive: &Drive| {
            if drive.name == *name { Some(usize::MAX) } else { drive.export.as_ref().map(|export| export.turn) }
        };
        let next = self.active().min_by_key(|drive| (last(drive), drive.enrolled))?;
        let every = i64::try_from(next.enrolment.every_secs).unwrap_or(i64::MAX);
        Some(Due { name: next.name.clone(), at: time.plus_secs(every) })
    }

    /// The drive whose turn it is instead, when `name` took the last export of a rotation of several and a new turn has come:
    /// more than half of the interval ago. Before that it is the same turn, and the export is brought up to date.
    #[must_use]
    pub fn out_of_turn(&self, name: &DriveName, now: Timestamp) -> Option<Due> {
        let (drive, export) = self.last()?;
        let half = i64::try_from(drive.enrolment.every_secs / 2).unwrap_or(i64::MAX);
        let new_turn = drive.name == *name && now.secs_since(export.time) >= half;
        self.due(now).filter(|due| new_turn && due.name != *name)
    }
}

/// Records in the order in which they were made: one that knew another comes after it. Clocks, by which `records` are sorted,
/// decide only where neither knew the other.
fn in_turn<'a>(records: &[&'a Checked]) -> Vec<&'a Checked> {
    let mut waits: Vec<usize> =
        records.iter().map(|later| records.iter().filter(|earlier| later.knew(earlier)).count()).collect();
    let mut ready: BTreeSet<usize> = (0..records.len()).filter(|place| waits[*place] == 0).collect();
    let mut order = Vec::with_capacity(records.len());
    while let Some(place) = ready.pop_first() {
        order.push(records[place]);
        for other in (0..records.len()).filter(|other| records[*other].knew(records[place])) {
            waits[other] -= 1;
            if waits[other] == 0 {
                ready.insert(other);
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::drive::Handover;
    use crate::format::record::Statement;
    use crate::model::drive::DriveIdentity;
    use crate::model::ids::{ObjectHash, VaultId};

    const DAY: i64 = 86_400;
    const WRITER: WriterId = WriterId([7; 16]);

    fn name(text: &str) -> DriveName {
        text.parse().unwrap_or_else(|e| panic!("{e}"))
    }

    fn head(seq: u64) -> Head {
        Head { seq, hash: ObjectHash([seq as u8; 32]) }
    }

    fn record(seq: u64, day: i64, kind: RecordKind, body: &impl serde::Serialize) -> Checked {
        let statement = Statement {
            vault: VaultId([1; 16]),
            writer: WRITER,
            seq,
            prev: (seq > 1).then_some(ObjectHash([0; 32])),
            time: Timestamp(day * DAY),
            kind,
            trust: None,
            heads: BTreeMap::new(),
            body: serde_json::to_value(body).unwrap_or_else(|e| panic!("{e}")),
        };
        let object = ObjectName::Record { writer: WRITER, seq, statement: head(seq).hash };
        Checked { name: object, head: head(seq), statement, standing: Standing::NotEnrolled, writer_name: "w".into() }
    }

    fn event(seq: u64, day: i64, drive: &str, event: DriveEvent) -> Checked {
        record(seq, day, RecordKind::Drive, &DriveBody { drive: name(drive), operator: "o".into(), event })
    }

    fn enrol(seq: u64, day: i64, drive: &str) -> Checked {
        let enrolment = Enrolment {
            identity: DriveIdentity::default(),
            encrypted: true,
            fs_type: "ext4".into(),
            lacks: vec![],
            path: "/media/d".into(),
            every_secs: 7 * DAY as u64,
            holders: vec!["registrar".into()],
            location: Some("safe".into()),
        };
        event(seq, day, drive, DriveEvent::Enrol(enrolment))
    }

    fn export(seq: u64, day: i64, drive: &str, label: u64) -> Checked {
        let body = ExportBody {
            drive: name(drive),
            label: head(label),
            from: "server".into(),
            operator: "o".into(),
            started: Timestamp(day * DAY),
            snapshots: 1,
            newest: None,
            objects: 1,
            bytes: 1,
            read_back: 1,
            past_cache: true,
            free_bytes: None,
            binary: None,
            findings: 0,
        };
        record(seq, day, RecordKind::Export, &body)
    }

    fn register(records: &[Checked]) -> Register {
        Register::read(records, &[WRITER].into())
    }

    #[test]
    fn drives_take_turns_and_one_drive_does_not_take_two() {
        let mut records = vec![enrol(1, 0, "a"), enrol(2, 0, "b")];
        assert_eq!(register(&records).due(Timestamp(DAY)), Some(Due { name: name("a"), at: Timestamp(0) }));
        records.push(export(3, 1, "a", 1));
        let due = register(&records).due(Timestamp(DAY));
        assert_eq!(due, Some(Due { name: name("b"), at: Timestamp(8 * DAY) }));
        let out =
            |records: &[Checked], drive: &str, day: i64| register(records).out_of_turn(&name(drive), Timestamp(day * DAY));
        assert_eq!(out(&records, "a", 2), None, "the same turn goes on");
        assert_eq!(out(&records, "a", 8), due, "the next turn is another drive's");
        assert_eq!(out(&records, "b", 8), None);
        records.push(event(4, 2, "b", DriveEvent::Retire(Retirement { reason: None, erased: "shredded".into() })));
        assert_eq!(out(&records, "a", 8), None, "alone it takes every turn");
        assert_eq!(register(&records).active().count(), 1);
    }

    #[test]
    fn hands_and_places_follow_the_newest_handover() {
        let handover = |to: &str, location: Option<&str>| {
            DriveEvent::Handover(Handover { from: None, to: to.into(), location: location.map(str::to_owned), seal: None })
        };
        let records = [
            enrol(1, 0, "a"),
            event(2, 1, "a", handover("registrar", None)),
            event(3, 2, "a", handover("deputy", Some("bank"))),
            event(4, 3, "a", handover("registrar", None)),
        ];
        let register = register(&records);
        let drive = register.get(&name("a")).unwrap_or_else(|| panic!("a is there"));
        assert_eq!((drive.holder.as_deref(), drive.location.as_deref()), (Some("registrar"), Some("bank")));
    }

    #[test]
    fn a_wrong_clock_changes_neither_turns_nor_what_is_due() {
        // Enrolled and exported on a machine whose clock ran years ahead, then put right.
        let mut records = vec![enrol(1, 9000, "a"), enrol(2, 9000, "b"), export(3, 9000, "a", 1)];
        let due = |records: &[Checked], day: i64| {
            register(records).due(Timestamp(day * DAY)).map(|due| (due.name, due.at.0 / DAY))
        };
        assert_eq!(due(&records, 10), Some((name("b"), 10)), "what has not come yet is no reason to wait");
        records.push(export(4, 11, "b", 2));
        assert_eq!(due(&records, 12), Some((name("a"), 18)));
        let at = |records: &[Checked], drive: &str| {
            let register = register(records);
            register.get(&name(drive)).and_then(|drive| drive.exported(Timestamp(20 * DAY))).map(|time| time.0 / DAY)
        };
        assert_eq!((at(&records, "a"), at(&records, "b")), (None, Some(11)));
        records.push(export(5, 18, "a", 1));
        assert_eq!((at(&records, "a"), due(&records, 19)), (Some(18), Some((name("b"), 25))));
        // And one whose clock began anew.
        records.push(export(6, 0, "b", 2));
        assert_eq!((at(&records, "b"), due(&records, 26)), (Some(0), Some((name("a"), 7))));
    }

    #[test]
    fn strangers_and_exports_of_an_older_label_do_not_count() {
        let records = [enrol(1, 0, "a"), export(2, 1, "a", 9)];
        assert!(register(&records).get(&name("a")).is_some_and(|drive| drive.export.is_none()));
        assert_eq!(Register::read(&records, &BTreeSet::new()).all().count(), 0);
    }
}
