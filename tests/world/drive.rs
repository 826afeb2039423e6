//! A drive: an ext4 image on a loop device, mounted beneath the scratch directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::tools::must;

/// A drive, unmounted when this is dropped.
pub struct Drive {
    image: PathBuf,
    pub mount: PathBuf,
}

impl Drive {
    /// Makes a drive of so many MiB and leaves it unmounted. Its mount point is there.
    pub fn new(dir: &Path, name: &str, mebibytes: u64) -> Self {
        let (image, mount) = (dir.join(format!("{name}.img")), dir.join(name));
        fs::File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
        must(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image));
        fs::create_dir(&mount).unwrap();
        Self { image, mount }
    }

    pub fn plug_in(&self) {
        must(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mount));
    }

    pub fn unplug(&self) {
        must(Command::new("umount").arg(&self.mount));
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
