//! Labels on mounted file systems: which of them are drives, as they themselves say.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};

use super::mounts::{self, Mount};
use super::{LABEL_FILE, System};
use crate::format::drive::DriveBody;
use crate::format::record::{Statement, split};
use crate::model::drive::DriveName;
use crate::model::ids::VaultId;
use crate::model::limits::{RECORD_MAX_BYTES, SUFFIX_MAX};

/// The name of a label file; a torn one has the next suffix.
#[must_use]
pub fn file(suffix: u32) -> String {
    if suffix == 0 { LABEL_FILE.to_owned() } else { format!("{LABEL_FILE}.{suffix}") }
}

/// Every file system that lies on a device of its own and carries a label, each device once, with the bytes of its label
/// files. Others are not touched: reading from a server that is gone would not end, and anybody may write to `/dev/shm`.
#[must_use]
pub fn mounted(system: &System) -> Vec<(Mount, Vec<Vec<u8>>)> {
    let mut found: Vec<(Mount, Vec<Vec<u8>>)> = Vec::new();
    for mount in mounts::read(&system.mountinfo) {
        let known = found.iter().any(|(other, _)| other.source == mount.source && other.device == mount.device);
        // `//server/share` is absolute too.
        if known || !mount.source.starts_with("/dev") {
            continue;
        }
        let labels = read(&mount.point);
        if !labels.is_empty() {
            found.push((mount, labels));
        }
    }
    found
}

/// The mount points of the drives that say that they are `name`, of `vault` where that is known. Whether it is true, whoever
/// opens their copy finds out.
#[must_use]
pub fn named(name: &DriveName, vault: Option<VaultId>, system: &System) -> Vec<PathBuf> {
    let says = |bytes: &Vec<u8>| {
        let statement = Statement::from_line(split(bytes).ok()?.0).ok()?;
        Some((statement.vault, statement.body_as::<DriveBody>().ok()?.drive))
    };
    let is_it = |labels: &[Vec<u8>]| {
        let said = labels.iter().find_map(says);
        said.is_some_and(|(of, drive)| drive == *name && vault.is_none_or(|vault| vault == of))
    };
    mounted(system).into_iter().filter(|(_, labels)| is_it(labels)).map(|(mount, _)| mount.point).collect()
}

/// The label files in the root of a mounted file system, torn ones too.
fn read(point: &Path) -> Vec<Vec<u8>> {
    let one = |suffix: u32| {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(point.join(file(suffix)), flags, Mode::empty()).ok()?);
        let stat = rustix::fs::fstat(&file).ok()?;
        let mut bytes = Vec::new();
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let read = regular.then(|| file.take(RECORD_MAX_BYTES).read_to_end(&mut bytes).ok()).flatten();
        read.map(|_| bytes)
    };
    (0..=SUFFIX_MAX).map_while(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_on_devices_are_read() {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let at = |name: &str| dir.path().join(name);
        for point in ["drive", "again", "memory", "share", "pipe"] {
            std::fs::create_dir(at(point)).unwrap_or_else(|e| panic!("{e}"));
            std::fs::write(at(point).join(LABEL_FILE), point).unwrap_or_else(|e| panic!("{e}"));
        }
        std::fs::write(at("drive").join("farkeep-drive.rec.1"), "second").unwrap_or_else(|e| panic!("{e}"));
        let pipe = at("pipe").join(LABEL_FILE);
        std::fs::remove_file(&pipe).unwrap_or_else(|e| panic!("{e}"));
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap_or_else(|e| panic!("{e}"));
        let line = |point: &str, device: &str, source: &str| {
            format!("45 27 {device} / {} rw - ext4 {source} rw\n", at(point).display())
        };
        let text = [
            line("drive", "8:17", "/dev/sdb1"),
            line("again", "8:17", "/dev/sdb1"),
            line("memory", "0:30", "tmpfs"),
            line("share", "0:31", "//server/share"),
            line("pipe", "8:33", "/dev/sdc1"),
        ];
        std::fs::write(at("mountinfo"), text.concat()).unwrap_or_else(|e| panic!("{e}"));
        let system = System { mountinfo: at("mountinfo"), ..System::default() };
        let found: Vec<(PathBuf, Vec<Vec<u8>>)> = mounted(&system).into_iter().map(|(m, l)| (m.point, l)).collect();
        assert_eq!(found, vec![(at("drive"), vec![b"drive".to_vec(), b"second".to_vec()])]);
    }
}
