//! A drive: what people call it, and by what it is known again.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest name of a drive.
const NAME_MAX_BYTES: usize = 64;

/// Text that cannot name a drive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("drive name {0:?}: letters, digits, - and _ only, at most 64, a letter or digit first")]
pub struct DriveNameError(String);

/// What people call a drive. It stands on labels, in records and on command lines.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DriveName(String);

impl DriveName {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DriveName {
    type Err = DriveNameError;

    fn from_str(text: &str) -> Result<Self, DriveNameError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let good =
            text.chars().all(plain) && text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.len() <= NAME_MAX_BYTES;
        if good { Ok(Self(text.to_owned())) } else { Err(DriveNameError(text.to_owned())) }
    }
}

impl fmt::Display for DriveName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for DriveName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for DriveName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// By what a drive is known again; each as far as the machine that looked could read it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriveIdentity {
    /// UUID or serial number of the file system.
    pub fs_uuid: Option<String>,
    /// UUID of the LUKS container that it lies in.
    pub luks_uuid: Option<String>,
    /// What the hardware calls itself.
    pub model: Option<String>,
    /// The hardware's serial number.
    pub serial: Option<String>,
}

impl DriveIdentity {
    /// Whether anything at all is known.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.fs_uuid.is_none() && self.luks_uuid.is_none() && self.model.is_none() && self.serial.is_none()
    }

    /// What tells this drive, as it was, from `now`: what, before, after. What one of the two does not know tells nothing.
    #[must_use]
    pub fn differences<'a>(&'a self, now: &'a Self) -> Vec<(&'static str, &'a str, &'a str)> {
        let pairs = [
            ("file system", &self.fs_uuid, &now.fs_uuid),
            ("LUKS container", &self.luks_uuid, &now.luks_uuid),
            ("model", &self.model, &now.model),
            ("serial number", &self.serial, &now.serial),
        ];
        let both = pairs.into_iter().filter_map(|(what, a, b)| Some((what, a.as_deref()?, b.as_deref()?)));
        both.filter(|(_, a, b)| a != b).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for good in ["a", "weekly-A_2", "0"] {
            assert_eq!(good.parse::<DriveName>().map(|name| name.to_string()).as_deref(), Ok(good));
        }
        for wrong in ["", "-a", "a b", "a/b", "ä", &"a".repeat(65)] {
            assert!(wrong.parse::<DriveName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_what_both_know_tells_drives_apart() {
        let known = |serial: Option<&str>, fs: Option<&str>| DriveIdentity {
            serial: serial.map(str::to_owned),
            fs_uuid: fs.map(str::to_owned),
            ..DriveIdentity::default()
        };
        assert_eq!(known(Some("1"), None).differences(&known(None, Some("x"))), vec![]);
        let (before, after) = (known(Some("1"), Some("x")), known(Some("2"), Some("x")));
        assert_eq!(before.differences(&after), vec![("serial number", "1", "2")]);
    }
}
