//! The trust records that lie in one copy, by number and hash, from their names alone.
//!
//! Whoever may add files to a copy can put any number of such names there, so that little is kept of each. Deliberately unaware
//! of which belong to the root's chain.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::format::record::Head;
use crate::model::ids::ObjectHash;
use crate::model::limits::{RECORD_MAX_BYTES, SEQ_MAX, SUFFIX_MAX};
use crate::model::name::ObjectName;

/// Number, hash of the statement, suffix: what the name of a stored trust record consists of.
pub type Place = (u64, ObjectHash, u32);

const LEAST: ObjectHash = ObjectHash([0; 32]);
const GREATEST: ObjectHash = ObjectHash([0xff; 32]);
/// Every trust record there can be.
pub const ALL: RangeInclusive<Place> = (0, LEAST, 0)..=(SEQ_MAX, GREATEST, SUFFIX_MAX);

/// The records of one number.
#[must_use]
pub const fn of_number(seq: u64) -> RangeInclusive<Place> {
    (seq, LEAST, 0)..=(seq, GREATEST, SUFFIX_MAX)
}

/// One record, under whatever suffix.
#[must_use]
pub const fn of_record(head: Head) -> RangeInclusive<Place> {
    (head.seq, head.hash, 0)..=(head.seq, head.hash, SUFFIX_MAX)
}

/// A stored name taken apart; none when it is no trust record's.
#[must_use]
pub fn place(stored: &str) -> Option<Place> {
    match ObjectName::parse_stored(stored) {
        Ok((ObjectName::Trust { seq, statement }, suffix)) => Some((seq, statement, suffix)),
        _ => None,
    }
}

/// The stored name of a place.
#[must_use]
pub fn stored_name((seq, statement, suffix): Place) -> String {
    ObjectName::Trust { seq, statement }.with_suffix(suffix)
}

/// The names of one copy, with the sizes that its listing told.
#[derive(Debug, Clone, Default)]
pub struct TrustNames(BTreeMap<Place, u64>);

impl TrustNames {
    /// Takes a name; whether it is a trust record's.
    pub fn add(&mut self, stored: &str, bytes: u64) -> bool {
        let place = place(stored);
        self.0.extend(place.map(|place| (place, bytes)));
        place.is_some()
    }

    /// Those of them in a range that can be a record, by their size.
    pub fn readable(&self, range: RangeInclusive<Place>) -> impl Iterator<Item = Place> + '_ {
        self.0.range(range).filter(|(_, bytes)| (1..=RECORD_MAX_BYTES).contains(bytes)).map(|(place, _)| *place)
    }

    /// Whether this record lies there, by its name.
    #[must_use]
    pub fn has(&self, head: Head) -> bool {
        self.0.range(of_record(head)).next().is_some()
    }

    /// Whether it lies there with so many bytes.
    #[must_use]
    pub fn has_with(&self, head: Head, bytes: u64) -> bool {
        self.0.range(of_record(head)).any(|(_, listed)| *listed == bytes)
    }

    /// How many files there are of records for which `counts` does not hold.
    #[must_use]
    pub fn others(&self, counts: impl Fn(&Head) -> bool) -> usize {
        self.0.keys().filter(|(seq, hash, _)| !counts(&Head { seq: *seq, hash: *hash })).count()
    }
}
