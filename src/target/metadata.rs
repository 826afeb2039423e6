//! Setting owner, mode, attributes and times, in the order in which they do not undo one another.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Mutex;

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::model::entry::{Metadata, Owner};
use crate::model::finding::{Finding, FindingKind};
use crate::model::path::EntryPath;

/// setuid and setgid.
const SPECIAL_BITS: u32 = 0o6000;
const CAPABILITY: &[u8] = b"security.capability";
/// Access lists: what an entry does not have it must not inherit from where it is restored, or keep.
const ACLS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

/// What is set on restored entries.
#[derive(Debug, Default)]
pub struct MetadataPolicy {
    /// Set owners: only root can.
    pub owners: bool,
    /// Take user and group by number even where this machine knows the names.
    pub numeric_ids: bool,
    /// Set setuid and setgid bits of files and file capabilities, and make device nodes.
    pub special: bool,
    users: Mutex<HashMap<String, Option<u32>>>,
    groups: Mutex<HashMap<String, Option<u32>>>,
}

impl MetadataPolicy {
    /// The policy of whoever runs this process.
    #[must_use]
    pub fn new(numeric_ids: bool, special: bool) -> Self {
        let owners = rustix::process::geteuid().is_root();
        Self { owners, numeric_ids, special, ..Self::default() }
    }

    fn ids(&self, owner: &Owner) -> (u32, u32) {
        if self.numeric_ids {
            return (owner.uid, owner.gid);
        }
        let user = owner
            .user
            .as_ref()
            .and_then(|name| cached(&self.users, name, || uzers::get_user_by_name(name).map(|user| user.uid())));
        let group = owner
            .group
            .as_ref()
            .and_then(|name| cached(&self.groups, name, || uzers::get_group_by_name(name).map(|group| group.gid())));
        (user.unwrap_or(owner.uid), group.unwrap_or(owner.gid))
    }
}

fn cached(map: &Mutex<HashMap<String, Option<u32>>>, name: &str, ask: impl FnOnce() -> Option<u32>) -> Option<u32> {
    let mut map = map.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(known) = map.get(name) {
        return *known;
    }
    let id = ask();
    map.insert(name.to_owned(), id);
    id
}

/// Sets the metadata of an open file or directory. What cannot be set is reported.
pub fn apply_to_fd(
    fd: impl AsFd,
    path: &EntryPath,
    meta: &Metadata,
    xattrs: &[(Vec<u8>, Vec<u8>)],
    policy: &MetadataPolicy,
) -> Vec<Finding> {
    let fd = fd.as_fd();
    let mut report = Report { path, findings: Vec::new() };
    if policy.owners {
        let (uid, gid) = policy.ids(&meta.owner);
        let done = rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        report.check("owner", done);
    }
    let stat = rustix::fs::fstat(fd);
    let is_dir = stat.is_ok_and(|s| rustix::fs::FileType::from_raw_mode(s.st_mode) == rustix::fs::FileType::Directory);
    let mode = report.mode(meta.mode, is_dir, policy);
    for acl in ACLS.iter().filter(|acl| xattrs.iter().all(|(name, _)| name != acl.as_bytes())) {
        let is_there = matches!(rustix::fs::fgetxattr(fd, *acl, &mut [0_u8; 1]), Ok(1..) | Err(Errno::RANGE));
        if is_there && let Err(e) = rustix::fs::fremovexattr(fd, *acl) {
            report.add(format!("attribute {acl} could not be removed: {e}"));
        }
    }
    set_xattrs(&mut report, xattrs, policy, |name, value| rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()));
    // After the ACL, which changes the group bits; before the times, which nothing changes any more.
    let chmod = rustix::fs::fchmod(fd, Mode::from_raw_mode(mode));
    report.check("mode", chmod);
    let times = rustix::fs::futimens(fd, &timestamps(meta.mtime_ns));
    report.check("time", times);
    report.findings
}

/// Sets the metadata of a link, pipe or device, which is not opened.
pub fn apply_by_name(
    parent: &OwnedFd,
    path: &EntryPath,
    is_link: bool,
    meta: &Metadata,
    xattrs: &[(Vec<u8>, Vec<u8>)],
    policy: &MetadataPolicy,
) -> Vec<Finding> {
    let name = path.name();
    let mut report = Report { path, findings: Vec::new() };
    if policy.owners {
        let (uid, gid) = policy.ids(&meta.owner);
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        let done = rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
        report.check("owner", done);
    }
    if let Ok(fd) = open_name(parent, name) {
        // The link in /proc leads to the inode itself, whatever its kind.
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        set_xattrs(&mut report, xattrs, policy, |name, value| {
            rustix::fs::setxattr(&*link, name, value, XattrFlags::empty())
        });
        if !is_link {
            let mode = Mode::from_raw_mode(report.mode(meta.mode, true, policy));
            let done = rustix::fs::chmod(&*link, mode);
            report.check("mode", done);
        }
    }
    let times = rustix::fs::utimensat(parent, name, &timestamps(meta.mtime_ns), AtFlags::SYMLINK_NOFOLLOW);
    report.check("time", times);
    report.findings
}

fn open_name(parent: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    use rustix::fs::OFlags;
    rustix::fs::openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

struct Report<'a> {
    path: &'a EntryPath,
    findings: Vec<Finding>,
}

impl Report<'_> {
    fn add(&mut self, message: String) {
        self.findings.push(Finding::new(FindingKind::Target, self.path, message));
    }

    fn check(&mut self, what: &str, outcome: Result<(), Errno>) {
        if let Err(e) = outcome {
            self.add(format!("{what} could not be set: {e}"));
        }
    }

    /// The mode to set: without special bits unless they were asked for.
    fn mode(&mut self, mode: u32, keep_special: bool, policy: &MetadataPolicy) -> u32 {
        if policy.special || keep_special || mode & SPECIAL_BITS == 0 {
            return mode;
        }
        self.add(format!("setuid or setgid bit of mode {mode:04o} left out; --special sets it"));
        mode & !SPECIAL_BITS
    }
}

fn set_xattrs(
    report: &mut Report<'_>,
    xattrs: &[(Vec<u8>, Vec<u8>)],
    policy: &MetadataPolicy,
    set: impl Fn(&[u8], &[u8]) -> Result<(), Errno>,
) {
    for (name, value) in xattrs {
        let shown = crate::model::path::escape(name);
        if name == CAPABILITY && !policy.special {
            report.add(format!("{shown} left out; --special sets it"));
        } else if let Err(e) = set(name, value) {
            report.add(format!("attribute {shown} could not be set: {e}"));
        }
    }
}

fn timestamps(mtime_ns: i128) -> Timestamps {
    let secs = i64::try_from(mtime_ns.div_euclid(1_000_000_000)).unwrap_or(i64::MAX);
    // The remainder is below 10^9.
    let nanos = mtime_ns.rem_euclid(1_000_000_000) as i64;
    let modified = Timespec { tv_sec: secs, tv_nsec: nanos };
    Timestamps { last_access: modified, last_modification: modified }
}
