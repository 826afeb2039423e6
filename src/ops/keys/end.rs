//! Which record of a writer is its last: all before it counts for ever, and nothing after it.
//!
//! Whoever has a writer's key could have signed any number of records, so that neither the longest chain nor the highest number
//! says anything. Where everything that lies in the copies, and everything that anybody has seen, is one unbroken chain, its end is
//! the last; else a person chooses.

use std::collections::{BTreeMap, BTreeSet};

use super::change::Opened;
use crate::format::record::Head;
use crate::ledger::chain::leading_to;
use crate::ledger::{Checked, Scribe, Standing};
use crate::model::ids::{ObjectHash, WriterId};
use crate::ops::OpError;
use crate::vault::snapshots::Records;

/// Ends that a message lists.
const LISTED_MAX: usize = 12;

/// A record as an operator names it: its number, and as much of its hash as is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Until {
    seq: u64,
    hash: String,
}

impl std::str::FromStr for Until {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (seq, hash) = text.split_once('-').unwrap_or((text, ""));
        let is_hex = hash.bytes().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit));
        match seq.parse() {
            Ok(seq) if is_hex => Ok(Self { seq, hash: hash.to_owned() }),
            _ => Err("a record is named by its number and the beginning of its hash: 12, or 12-3fa9c1".to_owned()),
        }
    }
}

/// The last record of a writer that counts: the one that was named, else the end of its chain; none when it never signed anything.
///
/// # Errors
/// When none or several fit, or when nothing was named and the end is not beyond doubt. The message lists what there is.
pub(super) fn end_of(
    opened: &Opened,
    writer: &WriterId,
    name: &str,
    wanted: Option<&Until>,
) -> Result<Option<Head>, OpError> {
    let records = || opened.records.iter().flat_map(|records| &records.checked);
    let own: BTreeMap<ObjectHash, &Checked> =
        records().filter(|record| record.statement.writer == *writer).map(|record| (record.head.hash, record)).collect();
    if let Some(Until { seq, hash }) = wanted {
        // Nothing of it counts.
        if *seq == 0 {
            return Ok(Some(Head { seq: 0, hash: ObjectHash([0; 32]) }));
        }
        let fits = |record: &&&Checked| record.head.seq == *seq && record.head.hash.to_string().starts_with(hash);
        let found: Vec<&Checked> = own.values().filter(fits).copied().collect();
        return match found[..] {
            [one] => Ok(Some(one.head)),
            [] => Err(unclear(name, &format!("no such record lies in any of these copies (--until {seq})"), &own)),
            _ => Err(unclear(name, &format!("several records have number {seq}: name one with its hash"), &own)),
        };
    }
    let unusable =
        opened.records.iter().flat_map(Records::unusable).find(|(of, head)| of == writer && !own.contains_key(&head.hash));
    if let Some((_, head)) = unusable {
        let why = format!(
            "what calls itself its record {} lies in a copy and is damaged. Name a copy that has it whole, too, or go on without it",
            head.seq
        );
        return Err(unclear(name, &why, &own));
    }
    let ends = ends(&own);
    let end = match ends[..] {
        [] => None,
        [end] if is_unbroken(end, &own) => Some(end.head),
        [_] => return Err(unclear(name, "records of it are missing, or others were put in between", &own)),
        _ => return Err(unclear(name, "its records are not one chain: more than one holder of its key has signed", &own)),
    };
    // What it says of itself proves nothing.
    let others = records().filter(|record| record.standing == Standing::Trusted && record.statement.writer != *writer);
    let cited = others.filter_map(|record| record.statement.heads.get(writer).copied());
    let seen = opened.context.ratchet.seen().heads.get(writer).copied();
    let scribes = opened.context.scribes(opened.trust().vault())?;
    let here = scribes.iter().filter(|scribe| scribe.writer() == *writer).filter_map(Scribe::head);
    let way = end.map(|end| leading_to(own.values().copied(), writer, end)).unwrap_or_default();
    match cited.chain(seen).chain(here).find(|head| !way.contains(&head.hash)) {
        None => Ok(end),
        Some(head) => {
            let why = format!(
                "its record {}-{} was seen, and does not lie on the chain that these copies hold. Name the copy that has it too; if \
                 only this machine has it, push or sync first; if it is gone for good, go on without it",
                head.seq,
                head.hash.short()
            );
            Err(unclear(name, &why, &own))
        }
    }
}

/// Records that no other one follows, in the order of their numbers.
fn ends<'a>(own: &BTreeMap<ObjectHash, &'a Checked>) -> Vec<&'a Checked> {
    let followed: BTreeSet<ObjectHash> = own.values().filter_map(|record| record.statement.prev).collect();
    let mut ends: Vec<&Checked> = own.values().copied().filter(|record| !followed.contains(&record.head.hash)).collect();
    ends.sort_by_key(|record| record.head.seq);
    ends
}

/// Whether its chain lies there down to the first record.
fn is_unbroken(end: &Checked, own: &BTreeMap<ObjectHash, &Checked>) -> bool {
    leading_to(own.values().copied(), &end.statement.writer, end.head).len() as u64 == end.head.seq
}

fn unclear(name: &str, why: &str, own: &BTreeMap<ObjectHash, &Checked>) -> OpError {
    let ends = ends(own);
    let shown = ends.iter().rev().take(LISTED_MAX).map(|record| {
        let broken = if is_unbroken(record, own) { "" } else { ", chain broken" };
        let (seq, hash) = (record.head.seq, record.head.hash.short());
        format!("{seq}-{hash} ({} of {}{broken})", record.statement.kind, record.statement.time)
    });
    let shown: Vec<String> = shown.collect();
    let shown = if shown.is_empty() { "none".to_owned() } else { shown.join(", ") };
    OpError::NotDone(format!(
        "{name}: {why}. To go on, look at `farkeep ledger show` and say with --until NUMBER-HASH which record is the last that \
         counts; chains end in: {shown}"
    ))
}
