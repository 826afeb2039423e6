//! A drive: an image on a loop device with a file system of its own, mounted beneath the scratch directory.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::tools::must;

/// Pulls the plug of a mounted file system: what was not synced is lost, and every call fails from now on (ext4(5),
/// FS_IOC_SHUTDOWN with "no log flush").
const PULL: &str = "import fcntl, os, struct, sys\n\
                    fd = os.open(sys.argv[1], os.O_RDONLY)\n\
                    print('ready', flush=True)\n\
                    sys.stdin.read()\n\
                    fcntl.ioctl(fd, 0x8004587d, struct.pack('I', 2))\n";

/// A hand on the plug.
pub struct Hand(Child);

impl Hand {
    /// Pulls it out without a word to anybody.
    pub fn pull(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

/// What is on a drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    Ext4,
    Exfat,
    Ntfs,
    Fat32,
}

/// Whether the kernel has a file system of this name; else FUSE stands in.
fn in_kernel(name: &str) -> bool {
    fs::read_to_string("/proc/filesystems").unwrap().lines().any(|line| line.trim() == name)
}

impl FileSystem {
    /// Why drives with it cannot be used here.
    pub fn missing(self) -> Option<String> {
        let programs: &[&str] = match self {
            Self::Ext4 => &["mkfs.ext4"],
            Self::Exfat => &["mkfs.exfat", "mount.exfat-fuse"],
            Self::Ntfs => &["mkfs.ntfs", "ntfs-3g"],
            Self::Fat32 if in_kernel("vfat") => &["mkfs.vfat"],
            Self::Fat32 => &["mkfs.vfat", "fusefat"],
        };
        if !super::is_root() {
            return Some("root is needed to mount drives".into());
        }
        programs.iter().find_map(|program| super::missing_tool(program))
    }
}

/// A drive, unmounted when this is dropped.
pub struct Drive {
    pub image: PathBuf,
    pub mount: PathBuf,
    kind: FileSystem,
}

impl Drive {
    /// Makes a drive of so many MiB with ext4 and leaves it unmounted. Its mount point is there.
    pub fn new(dir: &Path, name: &str, mebibytes: u64) -> Self {
        Self::with(FileSystem::Ext4, dir, name, mebibytes)
    }

    pub fn with(kind: FileSystem, dir: &Path, name: &str, mebibytes: u64) -> Self {
        let (image, mount) = (dir.join(format!("{name}.img")), dir.join(name));
        fs::File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
        match kind {
            FileSystem::Ext4 => must(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image)),
            FileSystem::Exfat => must(Command::new("mkfs.exfat").arg(&image)),
            FileSystem::Ntfs => must(Command::new("mkfs.ntfs").args(["-q", "-F", "-f"]).arg(&image)),
            FileSystem::Fat32 => must(Command::new("mkfs.vfat").args(["-F", "32"]).arg(&image)),
        };
        fs::create_dir(&mount).unwrap();
        Self { image, mount, kind }
    }

    /// Another drive with the same bits.
    pub fn clone_as(&self, dir: &Path, name: &str) -> Self {
        let (image, mount) = (dir.join(format!("{name}.img")), dir.join(name));
        fs::copy(&self.image, &image).unwrap();
        fs::create_dir(&mount).unwrap();
        Self { image, mount, kind: self.kind }
    }

    pub fn plug_in(&self) {
        self.plug_in_at(&self.mount);
    }

    pub fn plug_in_at(&self, mount: &Path) {
        if self.kind == FileSystem::Fat32 && !in_kernel("vfat") {
            // Its daemon outlives the unmounting.
            super::background::until("nobody holds the image", || !self.is_held());
            must(Command::new("fusefat").args(["-o", "rw+"]).arg(&self.image).arg(mount));
            return;
        }
        let mut command = Command::new("mount");
        match self.kind {
            FileSystem::Ext4 => command.args(["-o", "loop"]),
            FileSystem::Exfat => command.args(["-t", "exfat-fuse", "-o", "loop"]),
            FileSystem::Ntfs => command.args(["-t", "ntfs-3g", "-o", "loop"]),
            FileSystem::Fat32 => command.args(["-t", "vfat", "-o", "loop"]),
        };
        must(command.arg(&self.image).arg(mount));
    }

    /// Whether any process has the image open.
    fn is_held(&self) -> bool {
        let processes =
            fs::read_dir("/proc").unwrap().flatten().filter_map(|process| fs::read_dir(process.path().join("fd")).ok());
        processes.flat_map(Iterator::flatten).any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == self.image))
    }

    pub fn unplug(&self) {
        // Whoever looks for clones of its own drive reads labels on all of them, this one too.
        let gone = || Command::new("umount").arg(&self.mount).output().unwrap().status.success();
        super::background::until("the drive can be unmounted", gone);
        // As long as anybody holds on to it, it would be the same file system that is mounted again, pulled as it is.
        let held = || must(Command::new("losetup").arg("-j").arg(&self.image));
        super::background::until("its loop device is free", || held().is_empty());
    }

    /// Lays a hand on it, so that it can be pulled out at a moment's notice.
    pub fn hand(&self) -> Hand {
        let mut command = Command::new("python3");
        let mut hand =
            command.args(["-c", PULL]).arg(&self.mount).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 6];
        hand.stdout.take().unwrap().read_exact(&mut ready).unwrap();
        Hand(hand)
    }

    /// Where a vault lies on it.
    pub fn vault(&self) -> PathBuf {
        self.mount.join("vault")
    }

    /// What the file system's own check says.
    pub fn check(&self) {
        must(Command::new("e2fsck").args(["-f", "-n"]).arg(&self.image));
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-q").arg(&self.mount).output();
    }
}
