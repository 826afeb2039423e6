//! Names of stored objects: parsed once at the door, printed in one canonical way.
//!
//! A name carries what its object must be: hash and size, or writer, sequence number and statement hash. The twelve kinds
//! and where they lie are format (FORMAT.md, "Layout"). A name knows nothing of stores.

use std::fmt;
use std::str::FromStr;

use crate::model::ids::{ObjectHash, WriterId, from_hex, to_hex};
use crate::model::limits::{SEQ_MAX, SUFFIX_MAX};

/// How the names of files begin that `farkeep probe` leaves in the vault's root: nobody takes them for debris.
pub const PROBE_PREFIX: &str = "farkeep-probe-";

/// A directory of the vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Area {
    /// The vault's root: header and recovery page and script.
    Root,
    /// Sealed epoch identities and vault secrets.
    Keys,
    /// The root's chain.
    Trust,
    /// Packs, in 256 directories by the first byte of their hash.
    Packs,
    /// Index objects.
    Indexes,
    /// Manifests.
    Manifests,
    /// Inventory pages and roots.
    Inventories,
    /// Records of all writers.
    Ledger,
    /// What mends damage: on drives alone, where it is made when it is wanted.
    Parity,
}

impl Area {
    /// Every area that each copy has, in the order in which objects are written: what others refer to comes first, records last.
    pub const ALL: [Self; 8] =
        [Self::Root, Self::Keys, Self::Trust, Self::Packs, Self::Indexes, Self::Manifests, Self::Inventories, Self::Ledger];

    /// The directory's name; empty for the root.
    #[must_use]
    pub const fn dir(self) -> &'static str {
        match self {
            Self::Root => "",
            Self::Keys => "keys",
            Self::Trust => "trust",
            Self::Packs => "packs",
            Self::Indexes => "indexes",
            Self::Manifests => "manifests",
            Self::Inventories => "inventories",
            Self::Ledger => "ledger",
            Self::Parity => "parity",
        }
    }

    /// The directories that hold this area's objects: one, or 256 for packs.
    #[must_use]
    pub fn leaf_dirs(self) -> Vec<String> {
        match self {
            Self::Packs => (0..=255_u8).map(|byte| format!("packs/{byte:02x}")).collect(),
            _ => vec![self.dir().to_owned()],
        }
    }

    /// Every directory that `init` makes, parents first.
    #[must_use]
    pub fn layout() -> Vec<String> {
        let mut dirs: Vec<String> = Self::ALL.iter().map(|a| a.dir().to_owned()).filter(|d| !d.is_empty()).collect();
        dirs.extend(Self::Packs.leaf_dirs());
        dirs
    }
}

/// Text that is no object's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an object name of this format: {0:?}")]
pub struct NameError(pub String);

/// The name of one stored object, without the suffix that a second copy may carry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectName {
    /// `farkeep-vault.json`
    Header,
    /// `RECOVER.md`, later `RECOVER-<n>.md`
    RecoverPage(u32),
    /// `recover.py`, later `recover-<n>.py`
    RecoverScript(u32),
    /// `keys/identity-<n>-<b3>-<bytes>.age`: epoch identity n, sealed to the recipients
    Identity {
        /// The epoch.
        epoch: u32,
        /// BLAKE3 of the stored bytes.
        hash: ObjectHash,
        /// Their number.
        bytes: u64,
    },
    /// `keys/secret-<g>-<b3>-<bytes>.age`: vault secret of generation g, sealed to an epoch
    Secret {
        /// The generation.
        generation: u32,
        /// BLAKE3 of the stored bytes.
        hash: ObjectHash,
        /// Their number.
        bytes: u64,
    },
    /// `trust/<seq>-<b3>.rec`
    Trust {
        /// Place in the root's chain, from 1.
        seq: u64,
        /// BLAKE3 of the statement line.
        statement: ObjectHash,
    },
    /// `packs/<xx>/<b3>-<bytes>`
    Pack(Sealed),
    /// `indexes/<b3>-<bytes>`
    Index(Sealed),
    /// `manifests/<b3>-<bytes>`
    Manifest(Sealed),
    /// `inventories/<b3>-<bytes>`
    Inventory(Sealed),
    /// `parity/<b3>-<bytes>`
    Parity(Sealed),
    /// `ledger/<writer>-<seq>-<b3>.rec`
    Record {
        /// Who signed it.
        writer: WriterId,
        /// Place in that writer's chain, from 1.
        seq: u64,
        /// BLAKE3 of the statement line.
        statement: ObjectHash,
    },
}

/// Hash and size of an object whose whole name they are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sealed {
    /// BLAKE3 of the stored bytes.
    pub hash: ObjectHash,
    /// Their number.
    pub bytes: u64,
}

impl Sealed {
    fn parse(text: &str) -> Option<Self> {
        let (hash, bytes) = text.split_once('-')?;
        Some(Self { hash: ObjectHash(from_hex(hash)?), bytes: canonical_number(bytes)? })
    }
}

impl fmt::Display for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.hash, self.bytes)
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({self})")
    }
}

impl ObjectName {
    /// The area it lies in.
    #[must_use]
    pub const fn area(&self) -> Area {
        match self {
            Self::Header | Self::RecoverPage(_) | Self::RecoverScript(_) => Area::Root,
            Self::Identity { .. } | Self::Secret { .. } => Area::Keys,
            Self::Trust { .. } => Area::Trust,
            Self::Pack(_) => Area::Packs,
            Self::Index(_) => Area::Indexes,
            Self::Manifest(_) => Area::Manifests,
            Self::Inventory(_) => Area::Inventories,
            Self::Record { .. } => Area::Ledger,
            Self::Parity(_) => Area::Parity,
        }
    }

    /// The size that the name promises, where it does.
    #[must_use]
    pub const fn bytes(&self) -> Option<u64> {
        match self {
            Self::Identity { bytes, .. } | Self::Secret { bytes, .. } => Some(*bytes),
            Self::Pack(s) | Self::Index(s) | Self::Manifest(s) | Self::Inventory(s) | Self::Parity(s) => Some(s.bytes),
            _ => None,
        }
    }

    /// The BLAKE3 of the stored bytes that the name promises, where it does. Records promise that of their first line.
    #[must_use]
    pub const fn content_hash(&self) -> Option<ObjectHash> {
        match self {
            Self::Identity { hash, .. } | Self::Secret { hash, .. } => Some(*hash),
            Self::Pack(s) | Self::Index(s) | Self::Manifest(s) | Self::Inventory(s) | Self::Parity(s) => Some(s.hash),
            _ => None,
        }
    }

    /// The directory that holds it; empty for the root.
    #[must_use]
    pub fn dir(&self) -> String {
        match self {
            Self::Pack(sealed) => format!("packs/{}", to_hex(&sealed.hash.0[..1])),
            _ => self.area().dir().to_owned(),
        }
    }

    /// As stored, with suffix `.n`; 0 is the name itself.
    #[must_use]
    pub fn with_suffix(&self, suffix: u32) -> String {
        if suffix == 0 { self.to_string() } else { format!("{self}.{suffix}") }
    }

    /// Takes a stored name apart into the object's name and its suffix (0 without).
    ///
    /// # Errors
    /// When the text is not exactly a name of this format.
    pub fn parse_stored(text: &str) -> Result<(Self, u32), NameError> {
        if let Ok(name) = text.parse() {
            return Ok((name, 0));
        }
        let wrong = || NameError(text.to_owned());
        let (stem, suffix) = text.rsplit_once('.').ok_or_else(wrong)?;
        let suffix = canonical_number(suffix).filter(|n| (1..=u64::from(SUFFIX_MAX)).contains(n)).ok_or_else(wrong)?;
        Ok((stem.parse().map_err(|_| wrong())?, u32::try_from(suffix).map_err(|_| wrong())?))
    }
}

/// A decimal number without sign or leading zero, so that every value has one spelling.
fn canonical_number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let canonical = digits && (text == "0" || !text.starts_with('0'));
    if canonical { text.parse().ok() } else { None }
}

fn seq(text: &str) -> Option<u64> {
    canonical_number(text).filter(|n| (1..=SEQ_MAX).contains(n))
}

fn number32(text: &str) -> Option<u32> {
    canonical_number(text).and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0)
}

fn parse_root(text: &str) -> Option<ObjectName> {
    Some(match text {
        "farkeep-vault.json" => ObjectName::Header,
        "RECOVER.md" => ObjectName::RecoverPage(1),
        "recover.py" => ObjectName::RecoverScript(1),
        _ => {
            let later = |prefix, end| text.strip_prefix(prefix)?.strip_suffix(end).and_then(number32).filter(|n| *n > 1);
            if let Some(n) = later("RECOVER-", ".md") {
                ObjectName::RecoverPage(n)
            } else {
                ObjectName::RecoverScript(later("recover-", ".py")?)
            }
        }
    })
}

fn parse_key(text: &str) -> Option<ObjectName> {
    let (kind, rest) = text.strip_suffix(".age")?.split_once('-')?;
    let (number, sealed) = rest.split_once('-')?;
    let (number, Sealed { hash, bytes }) = (number32(number)?, Sealed::parse(sealed)?);
    match kind {
        "identity" => Some(ObjectName::Identity { epoch: number, hash, bytes }),
        "secret" => Some(ObjectName::Secret { generation: number, hash, bytes }),
        _ => None,
    }
}

fn parse_record(text: &str) -> Option<ObjectName> {
    let mut parts = text.strip_suffix(".rec")?.splitn(3, '-');
    let writer = WriterId(from_hex(parts.next()?)?);
    Some(ObjectName::Record { writer, seq: seq(parts.next()?)?, statement: ObjectHash(from_hex(parts.next()?)?) })
}

fn parse_trust(text: &str) -> Option<ObjectName> {
    let (number, statement) = text.strip_suffix(".rec")?.split_once('-')?;
    Some(ObjectName::Trust { seq: seq(number)?, statement: ObjectHash(from_hex(statement)?) })
}

impl FromStr for ObjectName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let parsed = match text.split_once('/') {
            None => parse_root(text),
            Some(("keys", rest)) => parse_key(rest),
            Some(("trust", rest)) => parse_trust(rest),
            Some(("packs", rest)) => rest
                .split_once('/')
                .and_then(|(fan, rest)| Sealed::parse(rest).filter(|sealed| to_hex(&sealed.hash.0[..1]) == fan))
                .map(Self::Pack),
            Some(("indexes", rest)) => Sealed::parse(rest).map(Self::Index),
            Some(("manifests", rest)) => Sealed::parse(rest).map(Self::Manifest),
            Some(("inventories", rest)) => Sealed::parse(rest).map(Self::Inventory),
            Some(("parity", rest)) => Sealed::parse(rest).map(Self::Parity),
            Some(("ledger", rest)) => parse_record(rest),
            Some(_) => None,
        };
        parsed.ok_or_else(|| NameError(text.to_owned()))
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("farkeep-vault.json"),
            Self::RecoverPage(1) => f.write_str("RECOVER.md"),
            Self::RecoverPage(n) => write!(f, "RECOVER-{n}.md"),
            Self::RecoverScript(1) => f.write_str("recover.py"),
            Self::RecoverScript(n) => write!(f, "recover-{n}.py"),
            Self::Identity { epoch, hash, bytes } => write!(f, "keys/identity-{epoch}-{hash}-{bytes}.age"),
            Self::Secret { generation, hash, bytes } => write!(f, "keys/secret-{generation}-{hash}-{bytes}.age"),
            Self::Trust { seq, statement } => write!(f, "trust/{seq}-{statement}.rec"),
            Self::Pack(sealed) => write!(f, "packs/{}/{sealed}", to_hex(&sealed.hash.0[..1])),
            Self::Index(sealed) => write!(f, "indexes/{sealed}"),
            Self::Manifest(sealed) => write!(f, "manifests/{sealed}"),
            Self::Inventory(sealed) => write!(f, "inventories/{sealed}"),
            Self::Parity(sealed) => write!(f, "parity/{sealed}"),
            Self::Record { writer, seq, statement } => write!(f, "ledger/{writer}-{seq}-{statement}.rec"),
        }
    }
}

impl serde::Serialize for ObjectName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for ObjectName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples() -> Vec<ObjectName> {
        let hash = ObjectHash([0xa7; 32]);
        let sealed = Sealed { hash, bytes: 16_793_000 };
        vec![
            ObjectName::Header,
            ObjectName::RecoverPage(1),
            ObjectName::RecoverScript(1),
            ObjectName::RecoverScript(2),
            ObjectName::Identity { epoch: 1, hash, bytes: 500 },
            ObjectName::Secret { generation: 3, hash, bytes: 300 },
            ObjectName::Trust { seq: 1, statement: hash },
            ObjectName::Pack(sealed),
            ObjectName::Index(sealed),
            ObjectName::Manifest(sealed),
            ObjectName::Inventory(sealed),
            ObjectName::Parity(sealed),
            ObjectName::Record { writer: WriterId([7; 16]), seq: 12, statement: hash },
        ]
    }

    #[test]
    fn names_parse_what_they_print_with_and_without_suffix() {
        for name in examples() {
            assert_eq!(name.to_string().parse(), Ok(name.clone()));
            assert_eq!(ObjectName::parse_stored(&name.with_suffix(2)), Ok((name.clone(), 2)));
            let dir = name.dir();
            let expected =
                if dir.is_empty() { name.to_string() } else { format!("{dir}/{}", &name.to_string()[dir.len() + 1..]) };
            assert_eq!(expected, name.to_string());
        }
    }

    #[test]
    fn near_misses_are_no_names() {
        let good = examples()[7].to_string();
        let wrong = [
            good.replace("packs/a7", "packs/a8"),
            good.replace("-16", "-016"),
            good.to_uppercase(),
            format!("{good}.0"),
            format!("{good}.01"),
            format!("{good}.10"),
            format!("{good}.1.1"),
            format!("/{good}"),
            "../farkeep-vault.json".into(),
            "recover-1.py".into(),
            "trust/0-".to_owned() + &"a7".repeat(32) + ".rec",
            format!("trust/{}-{}.rec", 1_u64 << 63, "a7".repeat(32)),
            String::new(),
        ];
        for text in wrong {
            assert!(ObjectName::parse_stored(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_layout_names_every_leaf() {
        let layout = Area::layout();
        assert_eq!(layout.len(), 7 + 256);
        for name in examples().iter().filter(|n| !matches!(n.area(), Area::Root | Area::Parity)) {
            assert!(layout.contains(&name.dir()), "{name}");
        }
    }
}
