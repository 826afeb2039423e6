//! Inventories: plain lists of every object that a snapshot needs, checkable with `b3sum --check` from the vault's root.
//!
//! A page lists objects; a root lists pages. Both are stored alike; a record names the root.

use crate::format::FormatError;
use crate::model::ids::ObjectHash;
use crate::model::limits::{INVENTORY_MAX_BYTES, INVENTORY_PAGE_LINES};
use crate::model::name::ObjectName;

const WHAT: &str = "inventory";

/// One line: an object and the BLAKE3 of its stored bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    /// The object.
    pub name: ObjectName,
    /// BLAKE3 of its stored bytes.
    pub hash: ObjectHash,
}

/// Writes a page or root: sorted by name, each name once.
///
/// # Errors
/// When it has more lines than a page may have, a name stands twice, or a hash is not the one in its name.
pub fn encode(lines: &mut [Line]) -> Result<Vec<u8>, FormatError> {
    lines.sort();
    check(lines)?;
    let text: String = lines.iter().map(|line| format!("{}  {}\n", line.hash, line.name)).collect();
    Ok(text.into_bytes())
}

/// Reads a page or root.
///
/// # Errors
/// When a line is not in the form that [`encode`] writes, or the order is another.
pub fn decode(bytes: &[u8]) -> Result<Vec<Line>, FormatError> {
    if bytes.len() as u64 > INVENTORY_MAX_BYTES {
        return Err(FormatError::Limit { what: WHAT, limit: INVENTORY_MAX_BYTES });
    }
    let text = std::str::from_utf8(bytes).map_err(|e| FormatError::invalid(WHAT, e))?;
    if !text.is_empty() && !text.ends_with('\n') {
        return Err(FormatError::Length { what: WHAT });
    }
    let mut lines = Vec::new();
    for line in text.lines() {
        let (hash, name) =
            line.split_once("  ").ok_or_else(|| FormatError::invalid(WHAT, "a line without a hash and a name"))?;
        let hash = hash.parse().map_err(|e| FormatError::invalid(WHAT, e))?;
        lines.push(Line { hash, name: name.parse().map_err(|e| FormatError::invalid(WHAT, e))? });
    }
    check(&lines)?;
    Ok(lines)
}

fn check(lines: &[Line]) -> Result<(), FormatError> {
    if lines.len() > INVENTORY_PAGE_LINES {
        return Err(FormatError::Limit { what: "lines of an inventory page", limit: INVENTORY_PAGE_LINES as u64 });
    }
    if lines.windows(2).any(|pair| pair[0].name >= pair[1].name) {
        return Err(FormatError::invalid(WHAT, "names are not in order, or one stands twice"));
    }
    if lines.iter().any(|line| line.name.content_hash().is_some_and(|hash| hash != line.hash)) {
        return Err(FormatError::invalid(WHAT, "a hash is not the one in its name"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::Sealed;

    #[test]
    fn pages_come_back_sorted_and_wrong_ones_are_refused() {
        let pack = |n: u8| Line {
            name: ObjectName::Pack(Sealed { hash: ObjectHash([n; 32]), bytes: 10 }),
            hash: ObjectHash([n; 32]),
        };
        let header = Line { name: ObjectName::Header, hash: ObjectHash([3; 32]) };
        let mut lines = vec![pack(9), header.clone(), pack(1)];
        let bytes = encode(&mut lines).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(decode(&bytes), Ok(vec![header.clone(), pack(1), pack(9)]));
        assert_eq!(encode(&mut []), Ok(vec![]));

        assert!(decode(&bytes[..bytes.len() - 1]).is_err(), "cut");
        assert!(encode(&mut [pack(1), pack(1)]).is_err(), "twice");
        assert!(encode(&mut [Line { hash: ObjectHash([2; 32]), ..pack(1) }]).is_err(), "other hash");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let reversed: String = text.lines().rev().map(|l| format!("{l}\n")).collect();
        assert!(decode(reversed.as_bytes()).is_err(), "order");
        assert!(decode(text.replace("  ", " ").as_bytes()).is_err(), "spaces");
    }
}
