//! Logging in: encrypted keys, agents, certificates, and what a refusal says.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use farkeep::crypto::identity::Passphrase;
use farkeep::store::sftp::{SftpOptions, SftpStore};
use farkeep::store::{StoreError, WriteOnceStore};

use crate::world::{KeyPair, Sshd, have_sshd, me, run, skipped};

fn authorize(sshd: &Sshd, lines: &str) {
    fs::write(sshd.path("authorized_keys"), lines).unwrap();
}

fn connect(sshd: &Sshd, options: SftpOptions) -> Result<SftpStore, StoreError> {
    SftpStore::connect(&sshd.location(&sshd.path("")), options)
}

fn refusal(sshd: &Sshd, options: SftpOptions) -> String {
    match connect(sshd, options) {
        Err(StoreError::Login(message)) => message,
        other => panic!("{:?}", other.err()),
    }
}

#[test]
fn an_encrypted_key_is_unlocked_once_for_all_connections() {
    if !have_sshd() {
        return skipped("encrypted key", "no sshd");
    }
    let sshd = Sshd::start("");
    let key = KeyPair::with_passphrase(sshd.dir.path(), "locked", "correct horse");
    authorize(&sshd, &key.line());
    let asked = Arc::new(AtomicUsize::new(0));
    let with_passphrase = |text: &'static str| {
        let asked = asked.clone();
        SftpOptions {
            key_files: vec![key.private.clone()],
            passphrase: Some(Arc::new(move |_: &Path| {
                asked.fetch_add(1, Ordering::Relaxed);
                Some(Passphrase::new(text.into()))
            })),
            ..sshd.options()
        }
    };
    let store = connect(&sshd, with_passphrase("correct horse")).unwrap();
    std::thread::scope(|scope| {
        for number in 0..4 {
            let store = &store;
            scope.spawn(move || store.put(&format!("big{number}"), &vec![1; 4 << 20]).unwrap());
        }
    });
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert!(refusal(&sshd, with_passphrase("wrong")).contains("passphrase"));
    let none = SftpOptions { key_files: vec![key.private.clone()], ..sshd.options() };
    assert!(refusal(&sshd, none).contains("needs a passphrase"));
}

#[test]
fn rsa_and_ecdsa_keys() {
    if !have_sshd() {
        return skipped("rsa and ecdsa keys", "no sshd");
    }
    let sshd = Sshd::start("");
    for kind in ["rsa", "ecdsa"] {
        let key = KeyPair::of_kind(sshd.dir.path(), kind, kind, "");
        authorize(&sshd, &key.line());
        connect(&sshd, SftpOptions { key_files: vec![key.private.clone()], ..sshd.options() }).unwrap();
    }
}

/// An ssh-agent of its own.
struct Agent {
    child: Child,
    socket: std::path::PathBuf,
}

impl Agent {
    fn start(sshd: &Sshd) -> Self {
        let socket = sshd.path("agent.sock");
        let child = Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn().unwrap();
        for _ in 0..500 {
            if socket.exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Self { child, socket }
    }

    fn add(&self, key: &KeyPair) {
        run(Command::new("ssh-add").arg("-q").arg(&key.private).env("SSH_AUTH_SOCK", &self.socket));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Options that use this agent, through an ssh configuration file.
fn with_agent(sshd: &Sshd, agent: &Agent, more: &str) -> SftpOptions {
    let file = sshd.path("ssh_config");
    fs::write(&file, format!("IdentityAgent {}\nIdentityFile {}\n{more}", agent.socket.display(), "/nowhere/key")).unwrap();
    SftpOptions { key_files: Vec::new(), use_agent: true, ssh_config: Some(file), ..sshd.options() }
}

#[test]
fn keys_of_an_agent() {
    if !have_sshd() {
        return skipped("agent", "no sshd");
    }
    let sshd = Sshd::start("");
    let agent = Agent::start(&sshd);
    for kind in ["ed25519", "rsa"] {
        let key = KeyPair::of_kind(sshd.dir.path(), &format!("agent-{kind}"), kind, "");
        authorize(&sshd, &key.line());
        agent.add(&key);
        fs::remove_file(&key.private).unwrap();
        connect(&sshd, with_agent(&sshd, &agent, "")).unwrap();
    }
    let only = refusal(&sshd, with_agent(&sshd, &agent, "IdentitiesOnly yes\n"));
    assert!(only.contains("/nowhere/key"), "{only}");
    let off = SftpOptions { use_agent: false, ..with_agent(&sshd, &agent, "") };
    assert!(refusal(&sshd, off).contains("no key was accepted"));
}

#[test]
fn an_encrypted_key_that_the_agent_holds_asks_nobody() {
    if !have_sshd() {
        return skipped("agent for an encrypted key", "no sshd");
    }
    let sshd = Sshd::start("");
    let agent = Agent::start(&sshd);
    let key = KeyPair::new(sshd.dir.path(), "held");
    authorize(&sshd, &key.line());
    agent.add(&key);
    run(Command::new("ssh-keygen").args(["-q", "-p", "-N", "secret", "-f"]).arg(&key.private));
    let options = SftpOptions {
        key_files: vec![key.private],
        passphrase: Some(Arc::new(|_: &Path| panic!("asked"))),
        ..with_agent(&sshd, &agent, "IdentitiesOnly yes\n")
    };
    connect(&sshd, options).unwrap();
}

#[test]
fn user_certificates_from_a_file_and_from_an_agent() {
    if !have_sshd() {
        return skipped("user certificates", "no sshd");
    }
    let sshd = Sshd::start("TrustedUserCAKeys {dir}/user_ca.pub");
    let authority = KeyPair::new(sshd.dir.path(), "user_ca");
    authorize(&sshd, "");
    let certify = |key: &KeyPair| {
        let args = ["-q", "-s", authority.private.to_str().unwrap(), "-I", "agent-cert", "-n", &me()];
        run(Command::new("ssh-keygen").args(args).arg(&key.public));
    };
    let key = KeyPair::new(sshd.dir.path(), "certified");
    let options = SftpOptions { key_files: vec![key.private.clone()], ..sshd.options() };
    refusal(&sshd, options.clone());
    certify(&key);
    connect(&sshd, options).unwrap();
    assert!(sshd.log().contains("agent-cert"), "{}", sshd.log());

    let agent = Agent::start(&sshd);
    let in_agent = KeyPair::new(sshd.dir.path(), "in-agent");
    certify(&in_agent);
    agent.add(&in_agent);
    fs::remove_file(&in_agent.private).unwrap();
    connect(&sshd, with_agent(&sshd, &agent, "")).unwrap();
}

#[test]
fn a_refusal_names_what_was_tried() {
    if !have_sshd() {
        return skipped("refused log-in", "no sshd");
    }
    let sshd = Sshd::start("");
    authorize(&sshd, "");
    let message = refusal(&sshd, sshd.options());
    for part in ["user_key", &sshd.user_key.fingerprint(), "publickey", &me()] {
        assert!(message.contains(part), "{part} in {message}");
    }
    let missing = SftpOptions { key_files: vec!["/nowhere/key".into()], ..sshd.options() };
    assert!(refusal(&sshd, missing).contains("/nowhere/key"));
}

#[test]
fn nobody_listens() {
    let options = SftpOptions { ssh_config: None, use_agent: false, times: crate::world::quick(), ..SftpOptions::default() };
    let location = crate::world::location(crate::world::free_port(), "x", Path::new("/"));
    let error = SftpStore::connect(&location, options).err().unwrap();
    assert!(matches!(&error, StoreError::Unreachable(why) if why.contains("refused")), "{error}");
}
