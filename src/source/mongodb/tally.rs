//! What an archive and a database must agree in: documents of each collection, and a hash that no order changes.

use std::collections::BTreeMap;
use std::io::Read;

use super::archive::{ArchiveError, Item, Prelude, Reader};
use crate::crypto::hash::hash;
use crate::source::engine::Account;

/// Documents counted and hashed. The hashes of the documents are added up, so that an archive in the server's order and a
/// database read by `_id` give the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub documents: u64,
    sum: [u64; 4],
}

impl Tally {
    /// Takes in one document.
    pub fn add(&mut self, document: &[u8]) {
        self.documents += 1;
        let digest = hash(document).0;
        let (words, _) = digest.as_chunks::<8>();
        for (sum, word) in self.sum.iter_mut().zip(words) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    }

    /// The sum in hex.
    #[must_use]
    pub fn hash(&self) -> String {
        self.sum.iter().map(|word| format!("{word:016x}")).collect()
    }
}

/// The tallies of a database's collections, by name.
pub type Tallies = BTreeMap<String, Tally>;

/// Reads an archive from start to end: whether it is whole, and what it holds.
///
/// # Errors
/// When it is not whole.
pub fn of_archive(from: impl Read) -> Result<(Prelude, Tallies), ArchiveError> {
    let mut reader = Reader::open(from)?;
    let mut tallies = vec![Tally::default(); reader.prelude().collections.len()];
    while let Some(item) = reader.next_item()? {
        if let Item::Document(place, document) = item {
            tallies[place].add(document);
        }
    }
    let prelude = reader.prelude().clone();
    let held = prelude.collections.iter().zip(tallies).filter(|(c, _)| c.kind != "view");
    let tallies = held.map(|(collection, tally)| (collection.name.clone(), tally)).collect();
    Ok((prelude, tallies))
}

/// As lines of proof.
#[must_use]
pub fn account(tallies: &Tallies) -> Account {
    let mut account = Account::default();
    for (name, tally) in tallies {
        account =
            account.proof(format!("documents of {name}"), tally.documents).proof(format!("hash of {name}"), tally.hash());
    }
    account
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_documents_changes_nothing_and_anything_else_does() {
        let of = |documents: &[&str]| {
            let mut tally = Tally::default();
            documents.iter().for_each(|d| tally.add(d.as_bytes()));
            tally
        };
        assert_eq!(of(&["a", "b", "c"]), of(&["c", "a", "b"]));
        assert_ne!(of(&["a", "b"]).hash(), of(&["a", "c"]).hash());
        assert_ne!(of(&["a", "a"]).hash(), of(&["a"]).hash());
    }
}
