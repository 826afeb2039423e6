//! Programs of the system that tests use, and the word for a test that cannot run here.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

/// Where a program is.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    dirs.map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// Why a program cannot be used, if it is not there.
pub fn missing_tool(program: &str) -> Option<String> {
    if find(program).is_some() { None } else { Some(format!("{program} is not installed")) }
}

/// Says that a test could not run here, and why. Written past the test harness, which would keep it to itself.
pub fn skipped(why: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let _ = writeln!(std::io::stdout().lock(), "\nSKIPPED: {test}: {why}");
}

/// What `ssh-keygen -Y verify` says of a signature when this key is the only one allowed. Its files go into `dir`.
pub fn ssh_keygen_verifies(dir: &Path, key: &str, line: &str, armor: &str, namespace: &str) -> bool {
    let (signature, signers) = (dir.join("signature"), dir.join("signers"));
    std::fs::write(&signature, armor).unwrap();
    std::fs::write(&signers, format!("who {key}\n")).unwrap();
    let mut child = Command::new("ssh-keygen")
        .args(["-Y", "verify", "-I", "who", "-n", namespace, "-f"])
        .arg(&signers)
        .arg("-s")
        .arg(&signature)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
    child.wait().unwrap().success()
}

/// A command that must succeed; gives its output.
#[track_caller]
pub fn must(command: &mut Command) -> String {
    String::from_utf8_lossy(&must_bytes(command)).into_owned()
}

/// A command that must succeed; gives its output as it is.
#[track_caller]
pub fn must_bytes(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {}{err}", String::from_utf8_lossy(&output.stdout));
    output.stdout
}
