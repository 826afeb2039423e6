//! Servers of the recipes, started for a test and stopped after it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::world::sshd;

/// Another test may take a free port between our looking and the server's start.
const ATTEMPTS: usize = 4;

fn recipe(words: &[&str]) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services/recipes/services.sh");
    let mut command = Command::new("bash");
    command.arg(script).args(words).env("SERVICES_BIN", Path::new(env!("CARGO_TARGET_TMPDIR")).join("services"));
    command
}

/// Why a server cannot be had here, if it cannot.
pub fn missing(name: &str) -> Option<String> {
    let output = recipe(&["list"]).output().unwrap();
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = listed.lines().find(|line| line.starts_with(&format!("{name}: "))).unwrap_or_default();
    let there = line.ends_with(": built") || line.ends_with(": installed");
    if there { None } else { Some(format!("{name} is not there: tests/services/recipes/services.sh install")) }
}

/// Ends the test with a line that begins with `SKIPPED:` unless this server can be had.
macro_rules! needs_service {
    ($($name:literal),+) => {
        $(if let Some(why) = $crate::service::missing($name) {
            return $crate::world::skipped(&why);
        })+
    };
}
pub(crate) use needs_service;

/// A running server.
pub struct Service {
    name: &'static str,
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// What it keeps.
    pub dir: TempDir,
}

impl Service {
    pub fn start(name: &'static str) -> Self {
        let mut said = String::new();
        for _ in 0..ATTEMPTS {
            let (dir, port) = (sshd::scratch(), two_free_ports());
            let output = recipe(&["start", name]).arg(dir.path()).arg(port.to_string()).output().unwrap();
            if output.status.success() {
                return Self { name, port, dir };
            }
            said = String::from_utf8_lossy(&output.stderr).into_owned();
        }
        panic!("{name} does not start: {said}");
    }

    /// Stops it; its data stay.
    pub fn stop(&self) {
        let output = recipe(&["stop", self.name]).arg(self.dir.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// A file or directory beneath its data.
    pub fn data(&self, name: &str) -> PathBuf {
        self.dir.path().join("data").join(name)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = recipe(&["stop", self.name]).arg(self.dir.path()).output();
    }
}

/// A port that nobody listens on, and whose neighbour is free as well: one of the servers takes two.
fn two_free_ports() -> u16 {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}
