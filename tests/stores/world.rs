//! What tests stand on: keys, an sshd of their own, the embedded server, stores that reach them.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use farkeep::store::StoreError;
use farkeep::store::location::SftpLocation;
use farkeep::store::sftp::serve::{Layout, Running, ServeOptions, Server};
use farkeep::store::sftp::{SftpOptions, SftpStore, Times};
use tempfile::TempDir;

pub const SSHD: &str = "/usr/sbin/sshd";
const START: Duration = Duration::from_secs(10);

/// Says that a test could not run here, and why. Written past the test harness, which would keep it to itself.
pub fn skipped(test: &str, why: &str) {
    let _ = writeln!(std::io::stdout().lock(), "\nSKIPPED: {test}: {why}");
}

pub fn have_sshd() -> bool {
    Path::new(SSHD).exists() && Path::new("/usr/bin/ssh-keygen").exists()
}

pub fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

pub fn me() -> String {
    if is_root() { "root".into() } else { std::env::var("USER").unwrap_or_else(|_| "nobody".into()) }
}

/// A directory below /tmp that other accounts may enter.
pub fn scratch() -> TempDir {
    let dir = tempfile::Builder::new().prefix("farkeep-").tempdir_in("/tmp").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A key pair in files.
pub struct KeyPair {
    pub private: PathBuf,
    pub public: PathBuf,
}

impl KeyPair {
    pub fn new(dir: &Path, name: &str) -> Self {
        Self::with_passphrase(dir, name, "")
    }

    pub fn with_passphrase(dir: &Path, name: &str, passphrase: &str) -> Self {
        Self::of_kind(dir, name, "ed25519", passphrase)
    }

    pub fn of_kind(dir: &Path, name: &str, kind: &str, passphrase: &str) -> Self {
        let private = dir.join(name);
        run(Command::new("ssh-keygen").args(["-q", "-t", kind, "-N", passphrase, "-C", name, "-f"]).arg(&private));
        let public = private.with_extension("pub");
        Self { private, public }
    }

    pub fn line(&self) -> String {
        fs::read_to_string(&self.public).unwrap().trim().to_owned()
    }

    /// As `SHA256:...`.
    pub fn fingerprint(&self) -> String {
        let line = run(Command::new("ssh-keygen").arg("-lf").arg(&self.public));
        line.split(' ').nth(1).unwrap().to_owned()
    }
}

/// An OpenSSH server with a configuration of its own; it and every process of it end when this is dropped.
pub struct Sshd {
    pub dir: TempDir,
    pub port: u16,
    pub host_key: KeyPair,
    pub user_key: KeyPair,
    child: Child,
}

impl Sshd {
    /// Serves the caller's own account; `more` is appended to the configuration.
    pub fn start(more: &str) -> Self {
        let dir = scratch();
        let host_key = KeyPair::new(dir.path(), "host_key");
        let user_key = KeyPair::new(dir.path(), "user_key");
        fs::copy(&user_key.public, dir.path().join("authorized_keys")).unwrap();
        Self::start_in(dir, host_key, user_key, more)
    }

    pub fn start_in(dir: TempDir, host_key: KeyPair, user_key: KeyPair, more: &str) -> Self {
        if is_root() {
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let at = dir.path().display();
        let mut tries = 0;
        loop {
            let port = free_port();
            let config = format!(
                "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {at}/authorized_keys\nPidFile none\n\
                 PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\n\
                 PermitRootLogin prohibit-password\nMaxStartups 100\nLogLevel VERBOSE\nSubsystem sftp internal-sftp\n{}\n",
                host_key.private.display(),
                more.replace("{dir}", &at.to_string()),
            );
            fs::write(dir.path().join("sshd_config"), config).unwrap();
            let log = fs::File::options().create(true).append(true).open(dir.path().join("log")).unwrap();
            let mut child = Command::new(SSHD)
                .args(["-D", "-e", "-f"])
                .arg(dir.path().join("sshd_config"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .process_group(0)
                .spawn()
                .unwrap();
            if answers(port, &mut child) {
                return Self { dir, port, host_key, user_key, child };
            }
            tries += 1;
            assert!(tries < 3, "sshd does not start: {}", fs::read_to_string(dir.path().join("log")).unwrap());
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// A directory that the account can reach.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn location(&self, path: &Path) -> SftpLocation {
        location(self.port, &me(), path)
    }

    pub fn options(&self) -> SftpOptions {
        options(&self.user_key, &self.host_key.fingerprint())
    }

    pub fn store(&self, path: &Path) -> SftpStore {
        SftpStore::connect(&self.location(path), self.options()).unwrap_or_else(|e| panic!("{e}\n{}", self.log()))
    }

    /// SIGKILL for every process that serves a session, not for the one that listens.
    pub fn kill_sessions(&self) -> usize {
        let mut killed = 0;
        for pid in descendants(self.child.id()) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed()) {
                killed += usize::from(rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok());
            }
        }
        killed
    }

    /// SIGKILL for the process of one channel, and for no connection.
    pub fn kill_a_channel(&self) {
        let all = descendants(self.child.id());
        let leaf = all.into_iter().rfind(|pid| descendants(*pid).is_empty()).unwrap();
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(leaf.cast_signed()).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
    }

    /// Stops or continues every process of a session.
    pub fn signal_sessions(&self, signal: rustix::process::Signal) {
        for pid in descendants(self.child.id()) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed()) {
                let _ = rustix::process::kill_process(pid, signal);
            }
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // The listener takes note of the end of its sessions; orphans would stay behind as zombies where nobody reaps them.
        let end = Instant::now() + Duration::from_secs(1);
        while self.kill_sessions() > 0 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processes below `pid`, from /proc.
fn descendants(pid: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        if let Some(parent) = rest.split(' ').nth(1).and_then(|p| p.parse::<u32>().ok()) {
            parents.push((child, parent));
        }
    }
    let mut found = vec![pid];
    let mut at = 0;
    while at < found.len() {
        let above = found[at];
        found.extend(parents.iter().filter(|(_, parent)| *parent == above).map(|(child, _)| *child));
        at += 1;
    }
    found.split_off(1)
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn answers(port: u16, child: &mut Child) -> bool {
    let end = Instant::now() + START;
    while Instant::now() < end && child.try_wait().unwrap().is_none() {
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
            let mut hello = [0; 4];
            if stream.read_exact(&mut hello).is_ok() && &hello == b"SSH-" {
                return true;
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}

pub fn location(port: u16, user: &str, path: &Path) -> SftpLocation {
    SftpLocation {
        user: Some(user.to_owned()),
        host: "127.0.0.1".into(),
        port: Some(port),
        path: path.display().to_string(),
    }
}

/// Options that read nothing of the machine's own configuration, with short waits.
pub fn options(key: &KeyPair, host_key: &str) -> SftpOptions {
    SftpOptions {
        key_files: vec![key.private.clone()],
        use_agent: false,
        host_keys: vec![host_key.to_owned()],
        ssh_config: None,
        times: quick(),
        ..SftpOptions::default()
    }
}

/// Waits for tests: long enough for two busy cores, short enough for a failing server.
pub fn quick() -> Times {
    Times {
        connect: Duration::from_secs(5),
        login: Duration::from_secs(10),
        silence: Duration::from_secs(5),
        unacknowledged: Duration::from_secs(5),
        retry_budget: Duration::from_secs(5),
        retry_wait: Duration::from_millis(20),
        ..Times::default()
    }
}

/// The embedded server over a directory, with a key for each role.
pub struct Served {
    pub dir: TempDir,
    pub root: PathBuf,
    pub writer: KeyPair,
    pub reader: KeyPair,
    pub running: Running,
}

impl Served {
    pub fn start() -> Self {
        let dir = scratch();
        let (writer, reader) = (KeyPair::new(dir.path(), "writer"), KeyPair::new(dir.path(), "reader"));
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let running = Server::start(ServeOptions {
            root: root.clone(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            host_key: None,
            authorized: vec![writer.line()],
            readers: vec![reader.line()],
            layout: Layout::AllowMkdir,
        })
        .unwrap();
        Self { dir, root, writer, reader, running }
    }

    pub fn location(&self) -> SftpLocation {
        location(self.running.address().port(), "anybody", Path::new("/vault"))
    }

    pub fn options(&self, key: &KeyPair) -> SftpOptions {
        options(key, &self.running.host_fingerprint())
    }

    pub fn connect(&self, key: &KeyPair) -> Result<SftpStore, StoreError> {
        SftpStore::connect(&self.location(), self.options(key))
    }
}

/// Bytes that repeat nowhere, from a seed.
pub fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(bytes);
    out
}
