//! The embedded server as other people's clients see it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use farkeep::store::{Store, WriteOnceStore};

use crate::world::{KeyPair, Served, noise, skipped};

/// Runs OpenSSH's `sftp` with these commands; returns what it printed, and whether it succeeded.
fn sftp(served: &Served, key: &KeyPair, commands: &str) -> (String, bool) {
    let known_hosts = served.dir.path().join("known_hosts");
    let port = served.running.address().port();
    let host_key = served.running.host_key().to_openssh().unwrap();
    fs::write(&known_hosts, format!("[127.0.0.1]:{port} {host_key}\n")).unwrap();
    let mut child = Command::new("sftp")
        .args(["-q", "-b", "-", "-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes", "-F", "none"])
        .args(["-P", &port.to_string(), "-o", &format!("UserKnownHostsFile={}", known_hosts.display())])
        .args(["-i", key.private.to_str().unwrap(), "anybody@127.0.0.1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8_lossy(&text).into_owned(), output.status.success())
}

#[test]
fn openssh_sftp_lists_reads_and_makes_new_files_only() {
    if !std::path::Path::new("/usr/bin/sftp").exists() {
        return skipped("sftp against the embedded server", "no sftp");
    }
    let served = Served::start();
    let local = served.dir.path().join("local");
    let content = noise(3_000_000, 1);
    fs::write(&local, &content).unwrap();
    let (local, back) = (local.display(), served.dir.path().join("back"));

    let (text, done) = sftp(&served, &served.writer, &format!("mkdir d\nput {local} d/file\nls -l d\ndf /d\npwd\n"));
    assert!(done && text.contains("-r--r-----") && text.contains("3000000"), "{text}");
    assert_eq!(fs::metadata(served.root.join("d/file")).unwrap().permissions().mode() & 0o777, 0o440);
    let (text, done) = sftp(&served, &served.reader, &format!("get /d/../d/file {}\n", back.display()));
    assert!(done && fs::read(&back).unwrap() == content, "{text}");
    for forbidden in [
        format!("put {local} d/file"),
        format!("put -a {local} d/file"),
        "rm d/file".to_owned(),
        "rename d/file d/other".to_owned(),
        "chmod 600 d/file".to_owned(),
        "rmdir d".to_owned(),
        "symlink /etc/passwd d/link".to_owned(),
        "ln d/file d/hard".to_owned(),
        "get /../../etc/passwd".to_owned(),
    ] {
        let (text, done) = sftp(&served, &served.writer, &format!("{forbidden}\n"));
        assert!(!done, "{forbidden}: {text}");
    }
    let (text, done) = sftp(&served, &served.reader, &format!("put {local} d/new"));
    assert!(!done, "{text}");
    assert!(fs::read(served.root.join("d/file")).unwrap() == content);
    assert_eq!(fs::read_dir(served.root.join("d")).unwrap().count(), 1);
}

#[test]
fn a_stopped_server_is_noticed_and_a_new_one_is_found() {
    let served = Served::start();
    let store = served.connect(&served.writer).unwrap();
    store.make_dirs(&["d".to_owned()]).unwrap();
    store.put("d/one", b"1").unwrap();
    let Served { dir: _dir, root, writer, running, .. } = served;
    let (address, host_key) = (running.address(), running.host_fingerprint());
    running.stop();
    assert!(store.stat("d/one").unwrap_err().is_transient());
    assert!(store.put("d/two", b"2").unwrap_err().is_transient());

    let again = farkeep::store::sftp::serve::Server::start(farkeep::store::sftp::serve::ServeOptions {
        root,
        listen: address,
        host_key: None,
        authorized: vec![writer.line()],
        readers: Vec::new(),
        layout: farkeep::store::sftp::serve::Layout::Fixed,
    })
    .unwrap();
    assert_ne!(again.host_fingerprint(), host_key);
    let refused = store.stat("d/one").unwrap_err();
    assert!(matches!(refused, farkeep::store::StoreError::HostKey(_)), "another machine at that address: {refused}");
}
