//! Ways to a server: aliases of ~/.ssh/config, jump hosts, IPv6, several connections, servers that know less than OpenSSH.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use farkeep::store::location::SftpLocation;
use farkeep::store::sftp::{SftpOptions, SftpStore};
use farkeep::store::{Durability, Store, StoreError, WriteOnceStore};

use crate::proxy::{Harm, Proxy, Way};
use crate::world::{Served, Sshd, have_sshd, me, noise, skipped};

/// An ssh configuration with the alias `far`, behind the jump host `gate`.
fn config(far: &Sshd, gate: &Sshd, gate_host_key: &str) -> SftpOptions {
    let known_hosts = far.path("known_hosts");
    let bare = |line: String| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let lines = format!(
        "[127.0.0.1]:{} {}\n[127.0.0.1]:{} {}\n",
        far.port,
        bare(far.host_key.line()),
        gate.port,
        bare(gate_host_key.to_owned())
    );
    fs::write(&known_hosts, lines).unwrap();
    let file = far.path("ssh_config");
    let block = |name: &str, sshd: &Sshd, more: &str| {
        format!(
            "Host {name}\n  HostName 127.0.0.1\n  Port {}\n  User {}\n  IdentityFile {}\n  {more}\n",
            sshd.port,
            me(),
            sshd.user_key.private.display()
        )
    };
    let content = block("far", far, "ProxyJump gate")
        + &block("gate", gate, "")
        + &format!("Host *\n  UserKnownHostsFile {}\n  GlobalKnownHostsFile /dev/null\n", known_hosts.display());
    fs::write(&file, content).unwrap();
    SftpOptions { key_files: Vec::new(), host_keys: Vec::new(), ssh_config: Some(file), ..far.options() }
}

fn alias(path: &Path) -> SftpLocation {
    SftpLocation { user: None, host: "far".into(), port: None, path: path.display().to_string() }
}

#[test]
fn an_alias_behind_a_jump_host() {
    if !have_sshd() {
        return skipped("alias and jump host", "no sshd");
    }
    let (far, gate) = (Sshd::start(""), Sshd::start(""));
    let store = SftpStore::connect(&alias(&far.path("vault")), config(&far, &gate, &gate.host_key.line())).unwrap();
    store.make_dirs(&["d".to_owned()]).unwrap();
    let content = noise(5_000_000, 1);
    assert_eq!(store.put("d/x", &content).unwrap(), Durability::Confirmed);
    assert!(store.get("d/x", 0, u64::MAX).unwrap() == content);
    assert!(gate.log().contains("Accepted publickey"), "{}", gate.log());
    assert_eq!(store.location().to_string(), format!("sftp://far{}", far.path("vault").display()));
}

#[test]
fn a_wrong_jump_host_gets_nothing_and_leads_nowhere() {
    if !have_sshd() {
        return skipped("wrong jump host", "no sshd");
    }
    let (far, gate) = (Sshd::start(""), Sshd::start(""));
    // Pins are for the server itself; the jump host answers to known_hosts.
    let mut options = config(&far, &gate, &far.host_key.line());
    options.host_keys = vec![far.host_key.fingerprint()];
    let before = far.log().matches("Connection from").count();
    match SftpStore::connect(&alias(&far.path("vault")), options).err() {
        Some(StoreError::HostKey(message)) => assert!(message.contains(&gate.host_key.fingerprint()), "{message}"),
        other => panic!("{other:?}"),
    }
    assert!(!gate.log().contains("userauth-request") && !gate.log().contains("Accepted"));
    assert_eq!(far.log().matches("Connection from").count(), before);
}

#[test]
fn a_jump_host_that_forwards_nothing() {
    if !have_sshd() {
        return skipped("jump host without forwarding", "no sshd");
    }
    let (far, gate) = (Sshd::start(""), Sshd::start("AllowTcpForwarding no"));
    let mut options = config(&far, &gate, &gate.host_key.line());
    options.times.retry_budget = std::time::Duration::from_millis(1);
    let error = SftpStore::connect(&alias(&far.path("vault")), options).err().unwrap().to_string();
    assert!(error.contains("through 127.0.0.1"), "{error}");
}

#[test]
fn ipv6() {
    if !have_sshd() {
        return skipped("IPv6", "no sshd");
    }
    let Ok(free) = TcpListener::bind("[::1]:0") else { return skipped("IPv6", "no IPv6 on loopback") };
    let port = free.local_addr().unwrap().port();
    drop(free);
    let sshd = Sshd::start(&format!("ListenAddress [::1]:{port}"));
    let location: farkeep::store::Location =
        format!("sftp://{}@[::1]:{port}{}", me(), sshd.path("").display()).parse().unwrap();
    let farkeep::store::Location::Sftp(location) = location else { panic!("{location}") };
    assert_eq!(SftpStore::connect(&location, sshd.options()).unwrap().stat("none").unwrap(), None);
}

#[test]
fn without_extensions_it_says_what_it_could_not_confirm() {
    if !have_sshd() {
        return skipped("server without extensions", "no sshd");
    }
    // The account permits less than the server knows; and a server that does not even announce it.
    for command in ["internal-sftp -P fsync,statvfs,limits", "internal-sftp -p open,close,read,write,stat,opendir,readdir"] {
        let sshd = Sshd::start(&format!("ForceCommand {command}"));
        fs::create_dir_all(sshd.path("vault/d")).unwrap();
        let store = sshd.store(&sshd.path("vault"));
        let content = noise(300_000, 2);
        assert_eq!(store.put("d/x", &content).unwrap(), Durability::NotConfirmed, "{command}");
        assert!(store.get("d/x", 0, u64::MAX).unwrap() == content);
        assert_eq!(store.room().unwrap(), None);
    }
}

/// Puts small objects from six threads: they wait for replies, so that each further connection helps.
/// Puts small objects by six threads: for a while, and where a disk takes its time for each, until it is `enough`.
fn put_many(store: &dyn WriteOnceStore, enough: impl Fn() -> bool + Sync) {
    store.make_dirs(&["d".to_owned()]).unwrap();
    let began = Instant::now();
    let goes_on = || match began.elapsed() {
        passed if passed < Duration::from_millis(1500) => true,
        passed => passed < Duration::from_secs(60) && !enough(),
    };
    std::thread::scope(|scope| {
        for thread in 0..6_u64 {
            let goes_on = &goes_on;
            scope.spawn(move || {
                let mut number = 0;
                while goes_on() {
                    store.put(&format!("d/{thread}-{number}"), &noise(3000, thread)).unwrap();
                    number += 1;
                }
            });
        }
    });
    assert!(store.get_many(&[("d/0-0".into(), 5000)])[0].is_ok());
}

#[test]
fn connections_are_opened_as_far_as_they_help() {
    if !have_sshd() {
        return skipped("number of connections", "no sshd");
    }
    for (config, channels_each) in [("MaxSessions 1", 1), ("MaxSessions 3", 3), ("", 4)] {
        let sshd = Sshd::start(config);
        let logins = || sshd.log().matches("Accepted publickey").count();
        put_many(&sshd.store(&sshd.path("vault")), || logins() >= 2);
        let logins = logins();
        let sessions = sshd.log().matches("Starting session: subsystem").count();
        assert!((2..=4).contains(&logins), "{config}: {logins} connections");
        // The first connection has all the channels that it takes before there is a second.
        assert!((channels_each..=logins * channels_each).contains(&sessions), "{config}: {sessions} sessions");
    }
}

#[test]
fn a_server_that_takes_one_connection_only_gets_one() {
    let served = Served::start();
    let proxy = Proxy::start(served.running.address(), |n| if n == 0 { Harm::None } else { Harm::Cut(Way::Up, 1) });
    let location = SftpLocation { port: Some(proxy.port()), ..served.location() };
    let store = SftpStore::connect(&location, served.options(&served.writer)).unwrap();
    put_many(&store, || proxy.connections() >= 2);
    assert!(proxy.connections() >= 2, "another one was tried");
}
