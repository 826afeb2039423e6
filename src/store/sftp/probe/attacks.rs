//! The attacks of a probe, as data: what is sent, and under which name a person reads about it.
//!
//! Each aims at files that the probe made itself. What a vault consists of is never touched, not even its directories: an
//! attack that gets through must cost nothing.

use crate::store::sftp::wire::open_flags::{APPEND, CREATE, EXCLUSIVE, READ, TRUNCATE, WRITE};

/// Kinds of SFTP requests that farkeep sends nowhere else (draft-ietf-secsh-filexfer-02, section 3).
const SSH_WRITE: u8 = 6;
const SETSTAT: u8 = 9;
const FSETSTAT: u8 = 10;
pub const REMOVE: u8 = 13;
pub const RMDIR: u8 = 15;
const MKDIR: u8 = 14;
const RENAME: u8 = 18;
const SYMLINK: u8 = 20;
const EXTENDED: u8 = 200;

/// Which attributes a request carries (section 5).
const SIZE: u32 = 1;
const OWNER: u32 = 2;
const MODE: u32 = 4;
const TIMES: u32 = 8;

/// What a writable file's mode is set to.
const WRITABLE: u32 = 0o666;

/// OPENs of the marker: name and flags. Those that could only add bytes come before those that empty the file.
pub const OPENS: [(&str, u32); 14] = [
    ("open for writing", WRITE),
    ("open for reading and writing", READ | WRITE),
    ("open or create", WRITE | CREATE),
    ("open to append", WRITE | APPEND),
    ("open to append or create", WRITE | APPEND | CREATE),
    ("open for reading and appending", READ | WRITE | APPEND),
    ("create what exists", WRITE | CREATE | EXCLUSIVE),
    ("create what exists, emptying it", WRITE | CREATE | EXCLUSIVE | TRUNCATE),
    ("open for writing, emptying", WRITE | TRUNCATE),
    ("open for reading and writing, emptying", READ | WRITE | TRUNCATE),
    ("open or create, emptying", WRITE | CREATE | TRUNCATE),
    ("open to append, emptying", WRITE | APPEND | TRUNCATE),
    ("open for reading, emptying", READ | TRUNCATE),
    ("open, emptying", TRUNCATE),
];

/// What an attack can name.
pub struct Marks {
    /// A file that was stored and closed, as farkeep stores an object.
    pub marker: String,
    /// A handle of it, for reading.
    pub reading: Vec<u8>,
    /// Another file of the probe, made by asking for mode 0666.
    pub own: String,
    /// The handle that made it.
    pub writing: Vec<u8>,
    /// A name that is free.
    pub elsewhere: String,
    /// A name that is free, for a directory.
    pub dir: String,
    /// The vault's directory, and its permissions.
    pub root: (String, u32),
}

/// What a request would leave behind where it succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaves {
    /// Nothing new.
    Nothing,
    /// Something under [`Marks::elsewhere`].
    Elsewhere,
    /// [`Marks::dir`].
    Dir,
}

/// A request: kind and body.
type Packet = (u8, Vec<u8>);
/// One attack: its name, what it leaves, and how it is written.
pub type Attack = (&'static str, Leaves, fn(&Marks) -> Packet);

/// Every other request, the gentle ones first.
pub const REQUESTS: [Attack; 29] = [
    ("write through a handle for reading", Leaves::Nothing, |m| (SSH_WRITE, body().bytes(&m.reading).u64(0).bytes(b"x").0)),
    ("set times", Leaves::Nothing, |m| (SETSTAT, body().text(&m.marker).u32(TIMES).u32(1).u32(1).0)),
    ("set owner", Leaves::Nothing, |m| (SETSTAT, body().text(&m.marker).u32(OWNER).u32(0).u32(0).0)),
    ("set times through a handle for reading", Leaves::Nothing, |m| {
        (FSETSTAT, body().bytes(&m.reading).u32(TIMES).u32(1).u32(1).0)
    }),
    ("set owner through a handle for reading", Leaves::Nothing, |m| {
        (FSETSTAT, body().bytes(&m.reading).u32(OWNER).u32(0).u32(0).0)
    }),
    ("set mode through the handle that made a file", Leaves::Nothing, |m| {
        (FSETSTAT, body().bytes(&m.writing).u32(MODE).u32(WRITABLE).0)
    }),
    ("set times of a link (lsetstat)", Leaves::Nothing, |m| {
        (EXTENDED, body().text("lsetstat@openssh.com").text(&m.marker).u32(TIMES).u32(1).u32(1).0)
    }),
    ("set mode of the vault's directory, to what it is", Leaves::Nothing, |m| {
        (SETSTAT, body().text(&m.root.0).u32(MODE).u32(m.root.1).0)
    }),
    ("make a hard link", Leaves::Elsewhere, |m| {
        (EXTENDED, body().text("hardlink@openssh.com").text(&m.marker).text(&m.elsewhere).0)
    }),
    ("make a symbolic link", Leaves::Elsewhere, |m| (SYMLINK, body().text(&m.marker).text(&m.elsewhere).0)),
    ("make a symbolic link in its place", Leaves::Nothing, |m| (SYMLINK, body().text("/etc/passwd").text(&m.marker).0)),
    ("make a hard link in its place", Leaves::Nothing, |m| {
        (EXTENDED, body().text("hardlink@openssh.com").text(&m.own).text(&m.marker).0)
    }),
    ("make a directory", Leaves::Dir, |m| (MKDIR, body().text(&m.dir).u32(0).0)),
    ("make a directory in its place", Leaves::Nothing, |m| (MKDIR, body().text(&m.marker).u32(0).0)),
    ("remove a directory", Leaves::Nothing, |m| (RMDIR, body().text(&m.dir).0)),
    ("remove it as a directory", Leaves::Nothing, |m| (RMDIR, body().text(&m.marker).0)),
    ("copy data onto it (copy-data)", Leaves::Nothing, |m| {
        (EXTENDED, body().text("copy-data").bytes(&m.writing).u64(0).u64(0).bytes(&m.reading).u64(0).0)
    }),
    ("set size", Leaves::Nothing, |m| (SETSTAT, body().text(&m.marker).u32(SIZE).u64(0).0)),
    ("set size through a handle for reading", Leaves::Nothing, |m| (FSETSTAT, body().bytes(&m.reading).u32(SIZE).u64(0).0)),
    ("rename another file over it", Leaves::Nothing, |m| (RENAME, body().text(&m.own).text(&m.marker).0)),
    ("rename another file over it (posix-rename)", Leaves::Nothing, |m| {
        (EXTENDED, body().text("posix-rename@openssh.com").text(&m.own).text(&m.marker).0)
    }),
    ("rename it", Leaves::Elsewhere, |m| (RENAME, body().text(&m.marker).text(&m.elsewhere).0)),
    ("rename it (posix-rename)", Leaves::Elsewhere, |m| {
        (EXTENDED, body().text("posix-rename@openssh.com").text(&m.marker).text(&m.elsewhere).0)
    }),
    ("remove it", Leaves::Nothing, |m| (REMOVE, body().text(&m.marker).0)),
    ("set mode to nothing", Leaves::Nothing, |m| (SETSTAT, body().text(&m.marker).u32(MODE).u32(0).0)),
    ("set mode", Leaves::Nothing, |m| (SETSTAT, body().text(&m.marker).u32(MODE).u32(WRITABLE).0)),
    ("set mode of a link (lsetstat)", Leaves::Nothing, |m| {
        (EXTENDED, body().text("lsetstat@openssh.com").text(&m.marker).u32(MODE).u32(WRITABLE).0)
    }),
    ("set mode through a handle for reading", Leaves::Nothing, |m| {
        (FSETSTAT, body().bytes(&m.reading).u32(MODE).u32(WRITABLE).0)
    }),
    ("set size and mode at once", Leaves::Nothing, |m| {
        (SETSTAT, body().text(&m.marker).u32(SIZE | MODE).u64(0).u32(WRITABLE).0)
    }),
];

/// Those of [`REQUESTS`] that make a closed file writable where they succeed: it is then opened once more.
pub fn sets_mode(name: &str) -> bool {
    name.starts_with("set mode") && !name.contains("directory") && !name.contains("nothing")
}

/// What it takes to remove a file or a directory again.
pub fn removal(kind: u8, path: &str) -> Packet {
    (kind, body().text(path).0)
}

struct Body(Vec<u8>);

const fn body() -> Body {
    Body(Vec::new())
}

impl Body {
    fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    fn bytes(self, bytes: &[u8]) -> Self {
        let mut with = self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        with.0.extend_from_slice(bytes);
        with
    }

    fn u32(mut self, number: u32) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    fn u64(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }
}
