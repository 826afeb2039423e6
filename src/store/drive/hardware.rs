//! What the kernel tells of the device beneath a mount point: whether dm-crypt lies in between, and what hardware it is.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::mounts::{self, Mount};
use super::superblock::{self, Content, with_dashes};
use super::{DriveError, device_of, io, mount_point};
use crate::model::drive::DriveIdentity;

/// Devices that are stacked on one another: a file system on LVM on LUKS on RAID on a partition is five.
const STACK_MAX: usize = 12;

/// Where the kernel tells of its devices; another place holds a recorded machine.
#[derive(Debug, Clone)]
pub struct System {
    /// `/sys`
    pub sys: PathBuf,
    /// `/dev`
    pub dev: PathBuf,
    /// `/proc/self/mountinfo`
    pub mountinfo: PathBuf,
}

impl Default for System {
    fn default() -> Self {
        Self { sys: "/sys".into(), dev: "/dev".into(), mountinfo: "/proc/self/mountinfo".into() }
    }
}

/// What was found beneath a mount point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The mount point.
    pub mount: PathBuf,
    /// The file system's type as the kernel calls it.
    pub fs_type: String,
    /// By what the drive is known again.
    pub identity: DriveIdentity,
    /// Whether everything on it passes through dm-crypt.
    pub encrypted: bool,
    /// What could not be found out.
    pub notes: Vec<String>,
}

/// Looks at the file system that is mounted at `path`.
///
/// # Errors
/// When `path` cannot be looked at. What a machine does not tell is left out and noted.
pub fn look(path: &Path, system: &System) -> Result<Found, DriveError> {
    let path = path.canonicalize().map_err(|e| io(path, &e))?;
    let mount = mount_point(&path, device_of(&path)?)?;
    let Some(entry) = mounts::at(&mounts::read(&system.mountinfo), &mount) else {
        let notes = vec!["the kernel's list of mounts does not show it".to_owned()];
        let identity = DriveIdentity::default();
        return Ok(Found { mount, fs_type: "unknown".into(), identity, encrypted: false, notes });
    };
    Ok(describe(&entry, system))
}

/// What is known of one mounted file system.
#[must_use]
pub fn describe(entry: &Mount, system: &System) -> Found {
    let mut found = Found {
        mount: entry.point.clone(),
        fs_type: entry.fs_type.clone(),
        identity: DriveIdentity::default(),
        encrypted: false,
        notes: Vec::new(),
    };
    let Some((number, node)) = block_device(entry, system) else {
        found.notes.push("it lies on no block device: there is nothing to know it by but its label".into());
        return found;
    };
    found.identity.fs_uuid = uuid_by_link(&node, system).or_else(|| match superblock::read(&node) {
        Some(Content::FileSystem(uuid)) => Some(uuid),
        _ => None,
    });
    if found.identity.fs_uuid.is_none() {
        found.notes.push(format!("the UUID of its file system cannot be read from {} (root may)", node.display()));
    }
    let Ok(device) = system.sys.join(format!("dev/block/{}:{}", number.0, number.1)).canonicalize() else {
        found.notes.push("the kernel tells nothing of its device".into());
        return found;
    };
    found.encrypted = walk(&device, system, &mut found.identity, STACK_MAX);
    if found.identity.serial.is_none() {
        found.notes.push("its hardware tells no serial number".into());
    }
    found
}

/// The block device beneath a mount: its number and the node to read it by.
fn block_device(entry: &Mount, system: &System) -> Option<((u32, u32), PathBuf)> {
    let by_source = fs::metadata(&entry.source).ok().filter(|meta| meta.file_type().is_block_device()).map(|meta| {
        let device = meta.rdev();
        ((rustix::fs::major(device), rustix::fs::minor(device)), entry.source.clone())
    });
    let own = (entry.device.0 != 0).then(|| {
        let node = system.dev.join(format!("block/{}:{}", entry.device.0, entry.device.1));
        (entry.device, node)
    });
    match (by_source, own) {
        (Some((number, node)), Some((own, _))) if number == own => Some((number, node)),
        (_, Some(own)) => Some(own),
        (by_source, None) => by_source,
    }
}

/// The name of the link below `by-uuid` that leads to this device: udev keeps them.
fn uuid_by_link(node: &Path, system: &System) -> Option<String> {
    let node = node.canonicalize().ok()?;
    let links = fs::read_dir(system.dev.join("disk/by-uuid")).ok()?;
    let found = links.flatten().find(|link| link.path().canonicalize().is_ok_and(|target| target == node))?;
    found.file_name().into_string().ok()
}

/// Goes down from a device to the hardware beneath it, and notes what it meets. Gives whether everything above passes
/// through dm-crypt.
fn walk(device: &Path, system: &System, identity: &mut DriveIdentity, depth: usize) -> bool {
    let kind = line(&device.join("dm/uuid")).unwrap_or_default();
    let crypt = kind.strip_prefix("CRYPT-");
    if let Some(rest) = crypt {
        // CRYPT-LUKS2-<32 hex digits>-<name>
        let uuid = rest.strip_prefix("LUKS").and_then(|rest| rest.split('-').nth(1)).filter(|hex| hex.len() == 32);
        identity.luks_uuid = identity.luks_uuid.take().or(uuid.map(with_dashes));
    }
    let below: Vec<PathBuf> = fs::read_dir(device.join("slaves"))
        .map(|slaves| slaves.flatten().filter_map(|slave| slave.path().canonicalize().ok()).collect())
        .unwrap_or_default();
    if below.is_empty() || depth == 0 {
        hardware(device, identity);
        return crypt.is_some();
    }
    let mut all_below = true;
    for slave in &below {
        all_below &= walk(slave, system, identity, depth - 1);
    }
    if crypt.is_some() && identity.luks_uuid.is_none() {
        identity.luks_uuid = below.iter().find_map(|slave| luks_uuid(slave, system));
    }
    crypt.is_some() || all_below
}

/// The UUID in the LUKS header of a device, which must be readable.
fn luks_uuid(device: &Path, system: &System) -> Option<String> {
    match superblock::read(&system.dev.join(device.file_name()?)) {
        Some(Content::Luks { uuid, .. }) => Some(uuid),
        _ => None,
    }
}

/// Model and serial number of the disk that a device is, or is a part of.
fn hardware(device: &Path, identity: &mut DriveIdentity) {
    let whole = if device.join("partition").exists() { device.parent().unwrap_or(device) } else { device };
    let first = |files: &[&str]| files.iter().find_map(|file| line(&whole.join(file)));
    let model = first(&["device/model", "device/name"]);
    let serial = first(&["device/serial", "serial", "device/cid", "device/wwid", "wwid"]);
    identity.model = identity.model.take().or(model);
    // A USB bridge knows its own number when the disk behind it does not tell.
    identity.serial = identity.serial.take().or_else(|| usb_serial(whole)).or(serial);
}

fn usb_serial(whole: &Path) -> Option<String> {
    whole.ancestors().find(|dir| dir.join("idVendor").exists()).and_then(|dir| line(&dir.join("serial")))
}

fn line(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A machine as the kernel shows it: an external USB disk with one partition, a LUKS2 container in it, opened.
    struct Recorded {
        dir: tempfile::TempDir,
        system: System,
    }

    impl Recorded {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
            let at = |name: &str| dir.path().join(name);
            let system = System { sys: at("sys"), dev: at("dev"), mountinfo: at("mountinfo") };
            let recorded = Self { system, dir };
            let usb = "sys/devices/pci0000:00/0000:00:14.0/usb2/2-1";
            let disk = &format!("{usb}/2-1:1.0/host6/target6:0:0/6:0:0:0/block/sdb");
            recorded.file(&format!("{usb}/idVendor"), "1058\n");
            recorded.file(&format!("{usb}/serial"), "575832314441\n");
            recorded.file(&format!("{usb}/2-1:1.0/host6/target6:0:0/6:0:0:0/model"), "My Passport 25E2 \n");
            recorded.file(&format!("{disk}/size"), "1\n");
            recorded.file(&format!("{disk}/sdb1/partition"), "1\n");
            recorded.link("../..", &format!("{disk}/device"));
            recorded.file("sys/devices/virtual/block/dm-0/dm/uuid", "CRYPT-LUKS2-00010203040506070809000102030405-drive\n");
            recorded.link(&format!("../../../../../../{disk}/sdb1"), "sys/devices/virtual/block/dm-0/slaves/sdb1");
            recorded.link("../../devices/virtual/block/dm-0", "sys/dev/block/253:0");
            recorded.link(&format!("../../../{disk}/sdb1"), "sys/dev/block/8:17");
            recorded.file("dev/dm-0", "");
            recorded.link("../dm-0", "dev/block/253:0");
            recorded.link("../../dm-0", "dev/disk/by-uuid/cafe");
            recorded.file(
                "mountinfo",
                "61 27 253:0 / /media/drive rw - ext4 /dev/mapper/drive rw\n\
                                        62 27 8:17 / /media/plain rw - vfat /dev/sdb1 rw\n",
            );
            recorded
        }

        fn file(&self, name: &str, content: &str) {
            let path = self.dir.path().join(name);
            let written = fs::create_dir_all(path.parent().unwrap_or(&path)).and_then(|()| fs::write(&path, content));
            written.unwrap_or_else(|e| panic!("{name}: {e}"));
        }

        fn link(&self, target: &str, name: &str) {
            let path = self.dir.path().join(name);
            let made = fs::create_dir_all(path.parent().unwrap_or(&path)).and_then(|()| symlink(target, &path));
            made.unwrap_or_else(|e| panic!("{name}: {e}"));
        }

        fn describe(&self, point: &str) -> Found {
            let mounts = mounts::read(&self.system.mountinfo);
            let entry = mounts::at(&mounts, Path::new(point)).unwrap_or_else(|| panic!("{point}"));
            describe(&entry, &self.system)
        }
    }

    #[test]
    fn an_opened_container_is_known_with_all_that_lies_beneath() {
        let found = Recorded::new().describe("/media/drive");
        assert!(found.encrypted, "{found:?}");
        let expected = DriveIdentity {
            fs_uuid: Some("cafe".into()),
            luks_uuid: Some("00010203-0405-0607-0809-000102030405".into()),
            model: Some("My Passport 25E2".into()),
            serial: Some("575832314441".into()),
        };
        assert_eq!(found.identity, expected);
        assert_eq!(found.notes, Vec::<String>::new());
    }

    #[test]
    fn a_bare_partition_is_not_encrypted_and_what_is_unknown_is_noted() {
        let found = Recorded::new().describe("/media/plain");
        assert!(!found.encrypted);
        assert_eq!(found.identity.serial.as_deref(), Some("575832314441"));
        assert_eq!(found.identity.fs_uuid, None);
        assert!(found.notes.iter().any(|note| note.contains("UUID")), "{found:?}");
    }

    #[test]
    fn a_volume_over_two_disks_is_encrypted_only_when_both_are() {
        let recorded = Recorded::new();
        recorded.file("sys/devices/virtual/block/dm-1/dm/uuid", "LVM-abc\n");
        recorded.link("../../dm-0", "sys/devices/virtual/block/dm-1/slaves/dm-0");
        recorded.link("../../devices/virtual/block/dm-1", "sys/dev/block/253:1");
        recorded.file("mountinfo", "61 27 253:1 / /media/drive rw - ext4 /dev/mapper/v rw\n");
        assert!(recorded.describe("/media/drive").encrypted);
        recorded.link("../../../../../dev/block/8:17", "sys/devices/virtual/block/dm-1/slaves/sdb1");
        assert!(!recorded.describe("/media/drive").encrypted);
    }
}
