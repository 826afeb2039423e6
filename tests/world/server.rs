//! A backup server as design and README describe it: Debian's sshd, one account that can only add files (recipe A), and one
//! that can only read. Both accounts are made for the test and removed after it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use farkeep::model::name::Area;
use serde_json::Value;
use tempfile::TempDir;

use super::machine::FARKEEP;
use super::sshd::{KeyPair, Sshd, have_sshd, scratch};
use super::tools::{is_root, missing_tool, must};
use super::{Machine, World, args};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Why there can be no such server here.
pub fn missing() -> Option<String> {
    if !is_root() {
        return Some("root is needed for accounts on a server".into());
    }
    if !have_sshd() {
        return Some("openssh-server is not installed".into());
    }
    missing_tool("useradd").or_else(|| missing_tool("flock"))
}

/// The server.
pub struct Server {
    pub sshd: Sshd,
    /// What both accounts see as `/`; below /srv, since sshd wants every folder above it to be root's alone.
    pub chroot: TempDir,
    pub accounts: Accounts,
    pub writer_key: KeyPair,
    pub reader_key: KeyPair,
}

/// Removed last, after sshd and its sessions have ended.
pub struct Accounts {
    pub writer: String,
    pub reader: String,
    pub group: String,
}

impl Server {
    /// Starts it, with the accounts and the vault's directories made as `farkeep sshd-config` says.
    pub fn start() -> Self {
        Self::start_changed(|block| block.to_owned())
    }

    /// As [`start`](Self::start), with a block of sshd_config that somebody has changed.
    pub fn start_changed(change: impl FnOnce(&str) -> String) -> Self {
        let number = format!("{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let accounts =
            Accounts { writer: format!("fkt{number}"), reader: format!("fkt{number}r"), group: format!("fkt{number}g") };
        let chroot = tempfile::Builder::new().prefix("farkeep-test-").tempdir_in("/srv").unwrap();
        let dir = scratch();
        let writer_key = KeyPair::new(dir.path(), &accounts.writer);
        let reader_key = KeyPair::new(dir.path(), &accounts.reader);
        let names = ["--user", &accounts.writer, "--reader", &accounts.reader, "--group", &accounts.group];
        let mut command = Command::new(FARKEEP);
        command.args(["sshd-config", "--json", "--vault", "/vault"]).args(names);
        command.arg("--path").arg(chroot.path()).arg("--keys").arg(dir.path().join("keys"));
        command.arg("--config").arg(dir.path().join("none")).env("HOME", dir.path());
        let said: Value = serde_json::from_str(&must(&mut command)).unwrap();
        let commands = said["result"]["commands"].as_array().unwrap();
        let script: String = commands.iter().map(|line| format!("{}\n", line.as_str().unwrap())).collect();
        must(alone().args(["sh", "-ec", &script]).current_dir(dir.path()));
        let host_key = KeyPair::new(dir.path(), "host_key");
        let user_key = KeyPair::new(dir.path(), "user_key");
        let block = said["result"]["config"].as_str().unwrap();
        let sshd = Sshd::start_in(dir, host_key, user_key, &change(block));
        Self { sshd, chroot, accounts, writer_key, reader_key }
    }

    /// Makes the directories of a vault as recipe A wants them: made beforehand, since the account cannot.
    pub fn lay_out(&self, name: &str) -> PathBuf {
        let (uid, gid) = self.accounts.ids();
        let vault = self.chroot.path().join(name);
        for dir in std::iter::once(vault.clone()).chain(Area::layout().iter().map(|dir| vault.join(dir))) {
            fs::create_dir(&dir).unwrap();
            chown(&dir, Some(uid), Some(gid)).unwrap();
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o2750)).unwrap();
        }
        vault
    }

    /// Where the vault lies on the server's disk.
    pub fn vault(&self) -> PathBuf {
        self.chroot.path().join("vault")
    }

    pub fn host_key(&self) -> String {
        self.sshd.host_key.fingerprint()
    }

    /// The vault's address through the account that adds files.
    pub fn url(&self) -> String {
        format!("sftp://{}@127.0.0.1:{}/vault", self.accounts.writer, self.sshd.port)
    }

    /// The vault's address through the account that reads.
    pub fn reader_url(&self) -> String {
        format!("sftp://{}@127.0.0.1:{}/vault", self.accounts.reader, self.sshd.port)
    }

    /// A world whose vault lies here.
    pub fn world(&self) -> World {
        let world = World::bare();
        let host_key = self.host_key();
        world.init(&args!["--store", self.url(), "--ssh-key", &self.writer_key.private, "--host-key", host_key]);
        World { vault: self.vault(), ..world }
    }

    /// A machine with the reader's account and the pinned root, and no other key.
    pub fn reader(&self, world: &World) -> Machine {
        let machine = world.machine("reader");
        let agent = fs::read_to_string(&world.agent.config).unwrap();
        let vault = agent.split("[store").next().unwrap();
        machine.configure(vault);
        machine.configure(&self.section("server", &self.reader_url(), &self.reader_key.private));
        machine
    }

    /// A store of the configuration.
    pub fn section(&self, name: &str, url: &str, key: &Path) -> String {
        let (key, host_key) = (key.display(), self.host_key());
        format!("[store.{name}]\nurl = \"{url}\"\nhost_key = \"{host_key}\"\nssh_key = \"{key}\"\n")
    }
}

/// Runs a command while nobody else on this machine makes or removes accounts: useradd takes a lock for itself, and fails
/// when another holds it.
fn alone() -> Command {
    let mut command = Command::new("flock");
    command.arg(std::env::temp_dir().join("farkeep-test-accounts.lock"));
    command
}

impl Accounts {
    /// The writer's user and the readers' group, by number.
    pub fn ids(&self) -> (u32, u32) {
        let number = |args: &[&str]| must(Command::new("id").args(args)).trim().parse().unwrap();
        (number(&["-u", &self.writer]), number(&["-g", &self.reader]))
    }
}

impl Drop for Accounts {
    fn drop(&mut self) {
        for user in [&self.writer, &self.reader] {
            let _ = alone().args(["userdel", user]).output();
        }
        let _ = alone().args(["groupdel", &self.group]).output();
    }
}
