//! What `farkeep sshd-config` prints: sshd takes it, and means by it what was meant. That its commands work, every test shows
//! that has a server: `world::server` runs them.

use std::fs;
use std::process::Command;

use crate::world::sshd::{KeyPair, SSHD, scratch};
use crate::world::tools::must;
use crate::world::{World, args, needs};

#[test]
fn sshd_reads_the_recipe_as_it_is_meant() {
    needs!(server);
    let world = World::bare();
    world.agent.configure("[store.server]\nurl = \"sftp://bk-archive@backup.example.org/copies/vault\"");
    let printed = world.run(args!["sshd-config"]).ok().out;
    let dir = scratch();
    let host_key = KeyPair::new(dir.path(), "host_key");
    let file = dir.path().join("sshd_config");
    // As a file of sshd_config.d: before the lines that hold for everybody.
    let config = format!("{printed}\nHostKey {}\nPermitTTY yes\n", host_key.private.display());
    fs::write(&file, config).unwrap();
    fs::create_dir_all("/run/sshd").unwrap();
    let effective = |user: &str| {
        let of = format!("user={user},host=somewhere,addr=127.0.0.1");
        must(Command::new(SSHD).arg("-T").arg("-f").arg(&file).arg("-C").arg(of)).to_lowercase()
    };
    let has = |text: &str, line: &str| assert!(text.lines().any(|l| l == line.to_lowercase()), "{line}\n{text}");

    let writer = effective("bk-archive");
    has(
        &writer,
        "forcecommand internal-sftp -l INFO -u 0237 -p \
         open,close,read,write,lstat,fstat,stat,opendir,readdir,realpath,statvfs,fstatvfs,fsync,limits",
    );
    let reader = effective("bk-archive-reader");
    has(&reader, "forcecommand internal-sftp -R -l INFO");
    for account in [&writer, &reader] {
        has(account, "chrootdirectory /srv/backup/archive");
        has(account, "authorizedkeysfile /etc/ssh/authorized_keys.d/%u");
        for way in ["allowtcpforwarding", "allowstreamlocalforwarding", "x11forwarding", "permittty", "permituserrc"] {
            has(account, &format!("{way} no"));
        }
    }
    let somebody = effective("somebody");
    has(&somebody, "forcecommand none");
    has(&somebody, "chrootdirectory none");
    has(&somebody, "permittty yes");
    assert!(
        printed.contains("install -d -m 2750 -o bk-archive -g bk-archive-read /srv/backup/archive/copies/vault"),
        "{printed}"
    );
}

#[test]
fn names_that_a_shell_would_read_otherwise_are_refused() {
    let world = World::bare();
    for wrong in [
        args!["--user", "a; rm -rf /"],
        args!["--user", "-x"],
        args!["--user", "one", "--reader", "one"],
        args!["--path", "srv"],
        args!["--path", "/srv/$(x)"],
        args!["--path", "/srv/../etc"],
        args!["--vault", "/"],
        args!["--keys", "/etc/ssh/a b"],
    ] {
        let command: Vec<_> = args!["sshd-config"].into_iter().chain(wrong).collect();
        world.run(command).exits(2);
    }
}
