//! A backup server as design and README describe it: Debian's sshd, one account that can only add files (recipe A), and one
//! that can only read. Both accounts are made for the test and removed after it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use farkeep::model::name::Area;
use tempfile::TempDir;

use super::sshd::{KeyPair, Sshd, have_sshd, scratch};
use super::tools::{is_root, missing_tool, must};
use super::{Machine, World, args};

/// useradd takes a lock for itself and fails when another holds it.
static ACCOUNTS: Mutex<()> = Mutex::new(());
static NEXT: AtomicU32 = AtomicU32::new(0);

const WRITE_ONCE: &str = "internal-sftp -l INFO -u 0237 -p open,close,read,write,lstat,fstat,stat,opendir,readdir,realpath,\
                          statvfs,fstatvfs,fsync,limits";
const CLOSED: &str =
    "AllowTcpForwarding no\nAllowStreamLocalForwarding no\nX11Forwarding no\nPermitTTY no\nPermitUserRC no\n";

/// Why there can be no such server here.
pub fn missing() -> Option<String> {
    if !is_root() {
        return Some("root is needed for accounts on a server".into());
    }
    if !have_sshd() {
        return Some("openssh-server is not installed".into());
    }
    missing_tool("useradd")
}

/// The server.
pub struct Server {
    pub sshd: Sshd,
    /// What both accounts see as `/`; below /srv, since sshd wants every folder above it to be root's alone.
    pub chroot: TempDir,
    accounts: Accounts,
    pub writer_key: KeyPair,
    pub reader_key: KeyPair,
}

/// Removed last, after sshd and its sessions have ended.
struct Accounts {
    writer: String,
    reader: String,
    group: String,
}

impl Server {
    /// Starts it, with the vault's directories made.
    pub fn start() -> Self {
        let number = format!("{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let accounts =
            Accounts { writer: format!("fkt{number}"), reader: format!("fkt{number}r"), group: format!("fkt{number}g") };
        accounts.make();
        let chroot = tempfile::Builder::new().prefix("farkeep-test-").tempdir_in("/srv").unwrap();
        fs::set_permissions(chroot.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let dir = scratch();
        fs::create_dir(dir.path().join("keys")).unwrap();
        let (writer_key, reader_key) = (KeyPair::new(dir.path(), "writer"), KeyPair::new(dir.path(), "reader"));
        fs::copy(&writer_key.public, dir.path().join("keys").join(&accounts.writer)).unwrap();
        fs::copy(&reader_key.public, dir.path().join("keys").join(&accounts.reader)).unwrap();
        let account = |user: &str, command: &str| {
            let at = chroot.path().display();
            format!(
                "Match User {user}\nChrootDirectory {at}\nAuthorizedKeysFile {{dir}}/keys/%u\nForceCommand {command}\n{CLOSED}"
            )
        };
        let more = account(&accounts.writer, WRITE_ONCE) + &account(&accounts.reader, "internal-sftp -R -l INFO");
        let host_key = KeyPair::new(dir.path(), "host_key");
        let user_key = KeyPair::new(dir.path(), "user_key");
        let sshd = Sshd::start_in(dir, host_key, user_key, &more);
        let server = Self { sshd, chroot, accounts, writer_key, reader_key };
        server.lay_out("vault");
        server
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

impl Accounts {
    fn make(&self) {
        let _one = ACCOUNTS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        must(Command::new("groupadd").arg(&self.group));
        let add = |user: &str, more: &[&str]| {
            // A password that nothing fits, and not a locked account, which sshd would turn away.
            let plain = ["-M", "-d", "/", "-s", "/usr/sbin/nologin", "-p", "*"];
            must(Command::new("useradd").args(plain).args(more).arg(user));
        };
        add(&self.writer, &[]);
        add(&self.reader, &["-N", "-g", &self.group]);
    }

    fn ids(&self) -> (u32, u32) {
        let number = |args: &[&str]| must(Command::new("id").args(args)).trim().parse().unwrap();
        (number(&["-u", &self.writer]), number(&["-g", &self.reader]))
    }
}

impl Drop for Accounts {
    fn drop(&mut self) {
        let _one = ACCOUNTS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for user in [&self.writer, &self.reader] {
            let _ = Command::new("userdel").arg(user).output();
        }
        let _ = Command::new("groupdel").arg(&self.group).output();
    }
}
