//! Raw SFTP packets over OpenSSH's `ssh -s`: what an attacker with the agent's key can say.

#![allow(dead_code, reason = "each test binary takes what it needs")]

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

pub const OPEN: u8 = 3;
pub const CLOSE: u8 = 4;
pub const READ: u8 = 5;
pub const WRITE: u8 = 6;
pub const SETSTAT: u8 = 9;
pub const FSETSTAT: u8 = 10;
pub const REMOVE: u8 = 13;
pub const MKDIR: u8 = 14;
pub const RMDIR: u8 = 15;
pub const RENAME: u8 = 18;
pub const READLINK: u8 = 19;
pub const SYMLINK: u8 = 20;
pub const LINK: u8 = 21;
pub const EXTENDED: u8 = 200;

pub const FLAG_READ: u32 = 1;
pub const FLAG_WRITE: u32 = 2;
pub const FLAG_APPEND: u32 = 4;
pub const FLAG_CREATE: u32 = 8;
pub const FLAG_TRUNC: u32 = 16;
pub const FLAG_EXCL: u32 = 32;

/// Fields of a packet.
#[derive(Default, Clone)]
pub struct Fields(Vec<u8>);

impl Fields {
    pub fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend((bytes.len() as u32).to_be_bytes());
        self.0.extend(bytes);
        self
    }

    pub fn u32(mut self, number: u32) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    pub fn u64(mut self, number: u64) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }
}

pub fn fields() -> Fields {
    Fields::default()
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Status(u32),
    Handle(Vec<u8>),
    Other(u8),
}

/// A session.
pub struct Raw {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
}

impl Raw {
    pub fn connect(port: u16, user: &str, key: &Path) -> Self {
        let mut child = ssh(port, user, key).args(["-s", "127.0.0.1", "sftp"]).spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut raw = Self { child, to, from };
        raw.to.write_all(&[0, 0, 0, 5, 1, 0, 0, 0, 3]).unwrap();
        let hello = raw.packet();
        assert_eq!(hello[0], 2, "no SFTP: {hello:?}");
        raw
    }

    /// Sends a request that OpenSSH does not even answer.
    pub fn tell(&mut self, kind: u8, fields: Fields) {
        let mut packet = (fields.0.len() as u32 + 5).to_be_bytes().to_vec();
        packet.extend([kind, 0, 0, 0, 7]);
        packet.extend(fields.0);
        self.to.write_all(&packet).unwrap();
    }

    pub fn ask(&mut self, kind: u8, fields: Fields) -> Answer {
        self.tell(kind, fields);
        let answer = self.packet();
        match answer[0] {
            101 => Answer::Status(u32::from_be_bytes(answer[5..9].try_into().unwrap())),
            102 => Answer::Handle(answer[9..].to_vec()),
            other => Answer::Other(other),
        }
    }

    pub fn open(&mut self, path: &str, flags: u32) -> Answer {
        self.ask(OPEN, fields().text(path).u32(flags).u32(0))
    }

    fn packet(&mut self) -> Vec<u8> {
        let mut length = [0; 4];
        self.from.read_exact(&mut length).unwrap();
        let mut packet = vec![0; u32::from_be_bytes(length) as usize];
        self.from.read_exact(&mut packet).unwrap();
        packet
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// OpenSSH's client with nothing of the machine's configuration.
pub fn ssh(port: u16, user: &str, key: &Path) -> Command {
    let mut command = Command::new("ssh");
    command
        .args(["-F", "none", "-q", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no"])
        .args(["-o", "UserKnownHostsFile=/dev/null", "-p", &port.to_string(), "-l", user, "-i"])
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}
