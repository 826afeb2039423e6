//! Building trees of files: ordinary ones, and one with everything that a file system can hold.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};

use super::random::Random;
use super::tools::{find, is_root, must};

const MIB: u64 = 1024 * 1024;

/// A directory that a test fills.
#[derive(Debug)]
pub struct Tree {
    pub root: PathBuf,
}

impl Tree {
    pub fn new(root: PathBuf) -> Self {
        fs::create_dir_all(&root).unwrap();
        Self { root }
    }

    /// A path in it.
    pub fn path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.root.join(Path::new(name.as_ref()))
    }

    /// A path in it without the leading slash: where a restore puts it below its directory.
    pub fn below(&self, into: &Path) -> PathBuf {
        into.join(self.root.strip_prefix("/").unwrap())
    }

    fn ready(&self, name: impl AsRef<OsStr>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    pub fn file(&self, name: impl AsRef<OsStr>, content: impl AsRef<[u8]>) -> &Self {
        fs::write(self.ready(name), content).unwrap();
        self
    }

    /// A file that does not compress.
    pub fn noise(&self, name: &str, bytes: usize, seed: u64) -> &Self {
        self.file(name, Random::new(seed).bytes(bytes))
    }

    pub fn dir(&self, name: impl AsRef<OsStr>) -> &Self {
        fs::create_dir_all(self.path(name)).unwrap();
        self
    }

    pub fn link(&self, name: &str, target: impl AsRef<Path>) -> &Self {
        symlink(target, self.ready(name)).unwrap();
        self
    }

    pub fn hard_link(&self, first: &str, second: &str) -> &Self {
        fs::hard_link(self.path(first), self.ready(second)).unwrap();
        self
    }

    pub fn remove(&self, name: &str) -> &Self {
        let path = self.path(name);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap()
        } else {
            fs::remove_file(path).unwrap()
        }
        self
    }

    pub fn mode(&self, name: &str, mode: u32) -> &Self {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    /// Sets a modification time, of a link itself too.
    pub fn time(&self, name: &str, secs: i64, nanos: i64) -> &Self {
        let time = Timespec { tv_sec: secs, tv_nsec: nanos };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, self.path(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        self
    }

    pub fn xattr(&self, name: &str, attribute: &str, value: &[u8]) -> &Self {
        rustix::fs::lsetxattr(self.path(name), attribute, value, XattrFlags::empty()).unwrap();
        self
    }

    /// Text files, sources and pictures as they lie in anybody's home: `files` of them in directories of fifty.
    pub fn ordinary(&self, files: usize, seed: u64) -> &Self {
        let mut random = Random::new(seed);
        for number in 0..files {
            let name = format!("dir{:03}/file{number:05}.txt", number / 50);
            let length = 200 + random.below(20_000) as usize;
            let content = if number % 5 == 0 { random.bytes(length) } else { random.disk_image(length) };
            self.file(name, content);
        }
        self
    }

    /// Everything that a backup must keep, as far as the caller may make it.
    pub fn everything(&self) -> &Self {
        self.odd_names().sizes().sparse().links().odd_times().modes().attributes();
        if is_root() {
            self.owners().devices();
        }
        // The time of a directory is that of its last change: a fixed one shows that it is restored after its content.
        self.dir("empty").time("empty", 1_000_000_000, 123_456_789).time(".", 1_111_111_111, 987_654_321)
    }

    pub fn odd_names(&self) -> &Self {
        let names: [&[u8]; 22] = [
            b"with space",
            b" leading and trailing ",
            b"new\nline",
            b"carriage\rreturn",
            b"tab\tab",
            b"-rf",
            b"--delete",
            b"quote'\"`",
            b"back\\slash",
            b"*?[a-z]{1,2}",
            b"#comment",
            b"!not",
            b"%41\\x41&amp;",
            b"$HOME",
            b"~",
            b"...",
            b".hidden",
            b"latin-1 \xe9\xff\xfe",
            "precomposed \u{e9}".as_bytes(),
            "decomposed e\u{301}".as_bytes(),
            "\u{202e}backwards\u{202c} \u{1f600}".as_bytes(),
            b"\x1b[31mred\x1b[0m\x07\x01\x7f",
        ];
        for name in names {
            self.file(Path::new("names").join(OsStr::from_bytes(name)), name);
            let dir = Path::new("names of directories").join(OsStr::from_bytes(name));
            self.file(dir.join(OsStr::from_bytes(name)), name);
        }
        self.file(Path::new("names").join("l".repeat(255)), "the longest name");
        self.file("names/CASE", "upper").file("names/case", "lower")
    }

    /// Around every size at which something changes: chunks, blocks, pages, the age stream.
    fn sizes(&self) -> &Self {
        for size in [0, 1, 2, 4095, 4096, 4097, 65_535, 65_536, 65_537, 1 << 20, (1 << 20) + 1, 3_000_001] {
            self.noise(&format!("sizes/{size}"), size, size as u64);
        }
        self.file("sizes/zeros", vec![0; 5_000_000]).file("sizes/text", "line\n".repeat(300_000))
    }

    pub fn sparse(&self) -> &Self {
        let holes = |name: &str, length: u64, data: &[(u64, usize)]| {
            let file = fs::File::create(self.ready(name)).unwrap();
            for (at, count) in data {
                file.write_all_at(&Random::new(*at).bytes(*count), *at).unwrap();
            }
            file.set_len(length).unwrap();
        };
        holes("sparse/all hole", 64 * MIB, &[]);
        holes("sparse/hole first", 32 * MIB, &[(32 * MIB - 5000, 5000)]);
        holes("sparse/hole last", 32 * MIB, &[(0, 5000)]);
        holes("sparse/islands", 512 * MIB, &[(4096, 4096), (MIB, 100_000), (100 * MIB + 1, 1), (511 * MIB, 70_000)]);
        let many: Vec<(u64, usize)> = (0..1500).map(|n| (n * 12_288, 4096)).collect();
        holes("sparse/comb", 1500 * 12_288, &many);
        self
    }

    fn links(&self) -> &Self {
        self.file("links/first", "three names").hard_link("links/first", "links/second");
        self.hard_link("links/first", "links/elsewhere/third").file("links/elsewhere/single", "three names");
        self.link("links/relative", "first")
            .link("links/absolute", "/etc/hostname")
            .link("links/dangling", "nowhere at all");
        self.link("links/up", "../../../../../../etc/passwd").link("links/itself", "itself").link("links/directory", "..");
        self.link("links/odd", OsStr::from_bytes(b"non\xffutf8\nnewline")).link("links/long", "x/".repeat(2000));
        self.time("links/relative", 1_234_567_890, 42);
        for name in ["pipe", "further pipe"] {
            rustix::fs::mknodat(CWD, self.ready(format!("links/{name}")), FileType::Fifo, Mode::from_raw_mode(0o640), 0)
                .unwrap();
        }
        self.time("links/pipe", 1_234_567_890, 999_999_999)
    }

    fn odd_times(&self) -> &Self {
        let times = [
            ("before 1970", -1_000_000_000, 500_000_000),
            ("just before 1970", -1, 999_999_999),
            ("1970", 0, 0),
            ("one nanosecond", 0, 1),
            ("2038", 2_147_483_648, 1),
            ("2106", 4_294_967_296, 999_999_999),
        ];
        for (name, secs, nanos) in times {
            self.file(format!("times/{name}"), name).time(&format!("times/{name}"), secs, nanos);
        }
        self.time("times", 1_500_000_000, 1)
    }

    fn modes(&self) -> &Self {
        for mode in [0o000_u32, 0o100, 0o200, 0o400, 0o444, 0o600, 0o640, 0o755, 0o777] {
            if mode & 0o400 != 0 || is_root() {
                self.file(format!("modes/{mode:04o}"), "mode").mode(&format!("modes/{mode:04o}"), mode);
            }
        }
        self.dir("modes/sticky").mode("modes/sticky", 0o1777).dir("modes/setgid").mode("modes/setgid", 0o2750);
        self.file("modes/read-only directory/file", "x").mode("modes/read-only directory", 0o555)
    }

    fn attributes(&self) -> &Self {
        self.file("attributes/file", "x").xattr("attributes/file", "user.plain", b"value");
        self.xattr("attributes/file", "user.empty", b"").xattr("attributes/file", "user.binary", &[0, 255, 10, 13]);
        self.file("attributes/large", "x").xattr("attributes/large", "user.large", &[7; 3000]);
        self.dir("attributes/dir").xattr("attributes/dir", "user.of-a-directory", b"yes");
        if is_root() {
            self.xattr("attributes/file", "trusted.secret", b"root only");
            self.link("attributes/link", "file").xattr("attributes/link", "trusted.of-a-link", b"yes");
        }
        if find("setfacl").is_some() {
            self.dir("attributes/acl").file("attributes/acl/file", "x");
            must(Command::new("setfacl").args(["-m", "u:1:rwx,g:2:r--,m::r-x"]).arg(self.path("attributes/acl/file")));
            must(Command::new("setfacl").args(["-m", "u:1:rwx,d:u:3:r-x,d:o::---"]).arg(self.path("attributes/acl")));
        }
        self
    }

    /// As root: numbers without names, names of the system, owners of links.
    pub fn owners(&self) -> &Self {
        self.file("owners/nobody has this", "x").file("owners/daemon", "x").link("owners/link", "daemon").dir("owners/dir");
        chown(self.path("owners/nobody has this"), Some(54_321), Some(65_000)).unwrap();
        chown(self.path("owners/daemon"), Some(1), Some(1)).unwrap();
        lchown(self.path("owners/link"), Some(12_345), Some(2)).unwrap();
        chown(self.path("owners/dir"), Some(3), Some(4)).unwrap();
        self
    }

    /// As root: device nodes, set-user-id programs and file capabilities, which only `--special` restores.
    pub fn devices(&self) -> &Self {
        let nodes = [
            ("null", FileType::CharacterDevice, 1, 3),
            ("loop", FileType::BlockDevice, 7, 200),
            ("big", FileType::CharacterDevice, 511, 70_000),
        ];
        for (name, kind, major, minor) in nodes {
            let device = rustix::fs::makedev(major, minor);
            rustix::fs::mknodat(CWD, self.ready(format!("devices/{name}")), kind, Mode::from_raw_mode(0o660), device)
                .unwrap();
        }
        self.file("special/setuid", "x")
            .mode("special/setuid", 0o4755)
            .file("special/setgid", "x")
            .mode("special/setgid", 0o2711);
        if find("setcap").is_some() {
            self.file("special/capable", "x");
            must(Command::new("setcap").arg("cap_net_raw,cap_net_admin+ep").arg(self.path("special/capable")));
        }
        self
    }

    /// A socket, which a backup leaves out with a notice.
    pub fn socket(&self, name: &str) -> &Self {
        drop(UnixListener::bind(self.ready(name)).unwrap());
        self
    }

    /// Directories in one another until the path is longer than `bytes`, with a file in the last one.
    pub fn deep(&self, bytes: usize) -> &Self {
        let mut dir = open_dir(CWD, self.root.as_os_str());
        let mut length = self.root.as_os_str().len();
        let name = "d".repeat(200);
        while length <= bytes {
            rustix::fs::mkdirat(&dir, &name, Mode::from_raw_mode(0o755)).unwrap();
            dir = open_dir(&dir, OsStr::new(&name));
            length += name.len() + 1;
        }
        let flags = OFlags::WRONLY | OFlags::CREATE;
        let file = rustix::fs::openat(&dir, "the last file", flags, Mode::from_raw_mode(0o644)).unwrap();
        rustix::io::write(&file, b"deep down").unwrap();
        self
    }
}

fn open_dir(at: impl std::os::fd::AsFd, name: &OsStr) -> OwnedFd {
    rustix::fs::openat(at, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
}

/// The file that [`Tree::deep`] put into the last directory, found below `root` in steps that the system takes.
pub fn deepest(root: &Path) -> (usize, Vec<u8>) {
    let mut dir = open_dir(CWD, root.as_os_str());
    let mut depth = 0;
    loop {
        let names: Vec<OsString> = rustix::fs::Dir::read_from(&dir)
            .unwrap()
            .map(|entry| OsString::from_vec(entry.unwrap().file_name().to_bytes().to_vec()))
            .filter(|name| name != "." && name != "..")
            .collect();
        assert_eq!(names.len(), 1, "{names:?}");
        if names[0] == "the last file" {
            let file = rustix::fs::openat(&dir, &names[0], OFlags::RDONLY, Mode::empty()).unwrap();
            let mut content = vec![0; 100];
            let count = rustix::io::read(&file, &mut content[..]).unwrap();
            content.truncate(count);
            return (depth, content);
        }
        dir = open_dir(&dir, &names[0]);
        depth += 1;
    }
}
