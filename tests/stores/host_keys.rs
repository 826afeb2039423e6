//! Host keys: pinned, known, certified, unknown, changed. A refused server sees no log-in.

use std::fs;
use std::process::Command;

use farkeep::store::sftp::{SftpOptions, SftpStore};
use farkeep::store::{Store, StoreError};

use crate::world::{KeyPair, Sshd, have_sshd, run, scratch, skipped};

fn refusal(sshd: &Sshd, options: SftpOptions) -> String {
    let dir = sshd.path("");
    match SftpStore::connect(&sshd.location(&dir), options) {
        Err(StoreError::HostKey(message) | StoreError::UnknownHostKey(message)) => message,
        other => panic!("{:?}", other.err()),
    }
}

fn with_known_hosts(sshd: &Sshd, content: &str) -> SftpOptions {
    let file = sshd.path("known_hosts");
    fs::write(&file, content).unwrap();
    SftpOptions { host_keys: Vec::new(), known_hosts: Some(vec![file]), ..sshd.options() }
}

/// The type and blob of a public key.
fn bare(key: &KeyPair) -> String {
    key.line().split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_wrong_pin_stops_before_anything_is_sent() {
    if !have_sshd() {
        return skipped("wrong pin", "no sshd");
    }
    let sshd = Sshd::start("");
    let other = KeyPair::new(sshd.dir.path(), "other");
    let message = refusal(&sshd, SftpOptions { host_keys: vec![other.fingerprint()], ..sshd.options() });
    for part in [&sshd.host_key.fingerprint(), &other.fingerprint(), "ssh-keygen -lf"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    let log = sshd.log();
    for trace in ["userauth-request", "Failed publickey", "Accepted", "Postponed", "session opened"] {
        assert!(!log.contains(trace), "{trace}: {log}");
    }
    // During a rotation both keys are pinned.
    let both = vec![other.fingerprint(), sshd.host_key.fingerprint()];
    let store = SftpStore::connect(&sshd.location(&sshd.path("")), SftpOptions { host_keys: both, ..sshd.options() });
    assert_eq!(store.unwrap().stat("none").unwrap(), None);
}

#[test]
fn a_pin_may_be_of_any_of_the_servers_keys() {
    if !have_sshd() {
        return skipped("pin of another kind", "no sshd");
    }
    let dir = scratch();
    let rsa = KeyPair::of_kind(dir.path(), "rsa", "rsa", "");
    let ecdsa = KeyPair::of_kind(dir.path(), "ecdsa", "ecdsa", "");
    let sshd = Sshd::start(&format!("HostKey {}\nHostKey {}", rsa.private.display(), ecdsa.private.display()));
    for pin in [rsa.fingerprint(), ecdsa.fingerprint()] {
        let options = SftpOptions { host_keys: vec![pin], ..sshd.options() };
        assert_eq!(SftpStore::connect(&sshd.location(&sshd.path("")), options).unwrap().stat("none").unwrap(), None);
    }
    let known = with_known_hosts(&sshd, &format!("[127.0.0.1]:{} {}", sshd.port, bare(&rsa)));
    assert!(SftpStore::connect(&sshd.location(&sshd.path("")), known).is_ok(), "asks for the kind that it knows");
}

#[test]
fn known_hosts_plain_hashed_unknown_changed_and_revoked() {
    if !have_sshd() {
        return skipped("known_hosts", "no sshd");
    }
    let sshd = Sshd::start("");
    let (port, key) = (sshd.port, bare(&sshd.host_key));
    let other = bare(&KeyPair::new(sshd.dir.path(), "other"));
    let reaches = |content: &str| {
        let store = SftpStore::connect(&sshd.location(&sshd.path("")), with_known_hosts(&sshd, content));
        store.unwrap().stat("none").unwrap();
    };
    reaches(&format!("# mine\n[127.0.0.1]:{port} {key} comment\n"));
    reaches(&format!("other,127.* {key}\n"));
    let file = sshd.path("to-hash");
    fs::write(&file, format!("[127.0.0.1]:{port} {key}\n")).unwrap();
    run(Command::new("ssh-keygen").args(["-q", "-H", "-f"]).arg(&file));
    let hashed = fs::read_to_string(&file).unwrap();
    assert!(hashed.starts_with("|1|"));
    reaches(&hashed);

    let unknown = refusal(&sshd, with_known_hosts(&sshd, &format!("elsewhere {key}\n")));
    assert!(unknown.contains("not known") && unknown.contains(&sshd.host_key.fingerprint()), "{unknown}");
    assert!(refusal(&sshd, with_known_hosts(&sshd, "")).contains("not known"));
    let changed = refusal(&sshd, with_known_hosts(&sshd, &format!("127.0.0.1 {other}\n")));
    assert!(changed.contains("not the expected one") && changed.contains("line 1"), "{changed}");
    let revoked = refusal(&sshd, with_known_hosts(&sshd, &format!("127.0.0.1 {key}\n@revoked * {key}\n")));
    assert!(revoked.contains("revoked"), "{revoked}");
    assert_eq!(fs::read_to_string(sshd.path("known_hosts")).unwrap().lines().count(), 2, "nothing was added");
}

#[test]
fn host_certificates_of_a_known_authority() {
    if !have_sshd() {
        return skipped("host certificates", "no sshd");
    }
    let dir = scratch();
    let (authority, stranger) = (KeyPair::new(dir.path(), "ca"), KeyPair::new(dir.path(), "stranger"));
    let host_key = KeyPair::new(dir.path(), "host_key");
    let user_key = KeyPair::new(dir.path(), "user_key");
    fs::copy(&user_key.public, dir.path().join("authorized_keys")).unwrap();
    let certify = |principals: &str, validity: &str| {
        let ca = authority.private.to_str().unwrap();
        let args = ["-q", "-s", ca, "-I", "test-host", "-h", "-n", principals, "-V", validity];
        run(Command::new("ssh-keygen").args(args).arg(&host_key.public));
    };
    certify("127.0.0.1,backup.example.org", "-1h:+1h");
    let sshd = Sshd::start_in(dir, host_key, user_key, "HostCertificate {dir}/host_key-cert.pub");
    let trusting = |key: &KeyPair| with_known_hosts(&sshd, &format!("@cert-authority 127.* {}\n", bare(key)));
    assert!(SftpStore::connect(&sshd.location(&sshd.path("")), trusting(&authority)).is_ok());
    assert!(refusal(&sshd, trusting(&stranger)).contains("not known"));
    let revoked = format!("@cert-authority * {}\n@revoked * {}\n", bare(&authority), bare(&authority));
    assert!(refusal(&sshd, with_known_hosts(&sshd, &revoked)).contains("revoked"));
}

#[test]
fn host_certificates_that_are_not_valid() {
    if !have_sshd() {
        return skipped("invalid host certificates", "no sshd");
    }
    for (principals, validity, expected) in
        [("elsewhere.example.org", "-1h:+1h", "it is for"), ("127.0.0.1", "-2h:-1h", "period of validity")]
    {
        let dir = scratch();
        let authority = KeyPair::new(dir.path(), "ca");
        let host_key = KeyPair::new(dir.path(), "host_key");
        let user_key = KeyPair::new(dir.path(), "user_key");
        let ca = authority.private.to_str().unwrap();
        let args = ["-q", "-s", ca, "-I", "test-host", "-h", "-n", principals, "-V", validity];
        run(Command::new("ssh-keygen").args(args).arg(&host_key.public));
        let sshd = Sshd::start_in(dir, host_key, user_key, "HostCertificate {dir}/host_key-cert.pub");
        let options = with_known_hosts(&sshd, &format!("@cert-authority * {}\n", bare(&authority)));
        let message = refusal(&sshd, options);
        assert!(message.contains(expected), "{message}");
        assert!(!sshd.log().contains("userauth-request"));
    }
}
