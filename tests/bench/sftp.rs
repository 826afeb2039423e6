//! How fast objects travel over SFTP: on loopback beside OpenSSH's own `sftp`, and to a far server named in the environment.
//! The figures mean something only on a quiet machine.
//!
//! ```text
//! cargo bench --bench sftp
//! FARKEEP_SPEED_URL=sftp://u@host:22/dir FARKEEP_SPEED_KEY=~/.ssh/id FARKEEP_SPEED_HOST_KEY=SHA256:... cargo bench --bench sftp
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, missing_docs)]
#![allow(dead_code, reason = "the world is shared with the tests of the stores")]

#[path = "../stores/world.rs"]
mod world;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use farkeep::store::sftp::{SftpOptions, SftpStore};
use farkeep::store::{Location, Store, WriteOnceStore};

use world::{Sshd, have_sshd, me, noise, skipped};

const OBJECT: usize = 16 << 20;
const OBJECTS: usize = 48;

fn rate(bytes: usize, took: Duration) -> f64 {
    bytes as f64 / took.as_secs_f64() / 1e6
}

fn in_threads(threads: usize, count: usize, work: impl Fn(usize) + Sync) -> Duration {
    let next = AtomicUsize::new(0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    work(number);
                }
            });
        }
    });
    began.elapsed()
}

fn sftp(sshd: &Sshd, commands: &str) -> Duration {
    let began = Instant::now();
    let mut child = Command::new("sftp")
        .args(["-q", "-b", "-", "-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
        .args(["-o", "IdentitiesOnly=yes", "-P", &sshd.port.to_string(), "-i"])
        .arg(&sshd.user_key.private)
        .arg(format!("{}@127.0.0.1", me()))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    began.elapsed()
}

fn main() {
    match std::env::var("FARKEEP_SPEED_URL") {
        Ok(url) => far(&url),
        Err(_) => loopback(),
    }
}

fn loopback() {
    if !have_sshd() {
        return skipped("speed on loopback", "no sshd");
    }
    let sshd = Sshd::start("");
    // In memory: this is about the protocol, not about a disk.
    let memory = tempfile::Builder::new().prefix("farkeep-speed-").tempdir_in("/dev/shm").unwrap();
    let object = noise(OBJECT, 1);
    let source = memory.path().join("source");
    fs::write(&source, &object).unwrap();
    for round in 0..3 {
        let base = memory.path().join(format!("r{round}"));
        fs::create_dir_all(base.join("theirs")).unwrap();
        let theirs: String =
            (0..OBJECTS).map(|n| format!("put {} {}/theirs/{n}\n", source.display(), base.display())).collect();
        let their_put = sftp(&sshd, &theirs);
        let theirs: String =
            (0..OBJECTS).map(|n| format!("get {}/theirs/{n} {}/back\n", base.display(), base.display())).collect();
        let their_get = sftp(&sshd, &theirs);
        fs::remove_dir_all(base.join("theirs")).unwrap();
        eprintln!(
            "sftp          put {:7.1} MB/s  get {:7.1} MB/s",
            rate(OBJECTS * OBJECT, their_put),
            rate(OBJECTS * OBJECT, their_get)
        );
        for threads in [1, 4] {
            let began = Instant::now();
            let store = sshd.store(&base.join(format!("ours{threads}")));
            let connected = began.elapsed();
            store.make_dirs(&["d".to_owned()]).unwrap();
            let put = in_threads(threads, OBJECTS, |n| store.put(&format!("d/{n}"), &object).map(|_| ()).unwrap());
            let get = in_threads(threads, OBJECTS, |n| {
                assert_eq!(store.get(&format!("d/{n}"), 0, OBJECT as u64).unwrap().len(), OBJECT);
            });
            eprintln!(
                "ours, {threads} thr   put {:7.1} MB/s  get {:7.1} MB/s  connect {:.0} ms",
                rate(OBJECTS * OBJECT, put),
                rate(OBJECTS * OBJECT, get),
                connected.as_secs_f64() * 1e3
            );
            fs::remove_dir_all(base.join(format!("ours{threads}"))).unwrap();
        }
    }
}

fn far(url: &str) {
    let var = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name}"));
    let number = |name: &str, default: usize| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (objects, threads) = (number("FARKEEP_SPEED_OBJECTS", 30), number("FARKEEP_SPEED_THREADS", 4));
    let Location::Sftp(mut location) = url.parse().unwrap() else { panic!("{url}") };
    location.path = format!("{}/{}", location.path, std::process::id());
    let options = SftpOptions {
        key_files: vec![PathBuf::from(var("FARKEEP_SPEED_KEY"))],
        use_agent: false,
        host_keys: vec![var("FARKEEP_SPEED_HOST_KEY")],
        ssh_config: None,
        connections: threads,
        ..SftpOptions::default()
    };
    let show = |what: &str, took: Duration| eprintln!("{what:<34} {:8.1} ms", took.as_secs_f64() * 1e3);
    let timed = |what: &str, work: &dyn Fn()| {
        let began = Instant::now();
        work();
        show(what, began.elapsed());
    };
    let began = Instant::now();
    let store = SftpStore::connect(&location, options).unwrap();
    show("connect", began.elapsed());
    let mut dirs: Vec<String> = vec!["packs".into(), "ledger".into()];
    dirs.extend((0..=255_u8).map(|byte| format!("packs/{byte:02x}")));
    timed("make 258 directories", &|| store.make_dirs(&dirs).unwrap());
    timed("list 258 empty directories", &|| store.list(&dirs, &mut |_| panic!("empty")).unwrap());
    timed("put 10 KB", &|| store.put("ledger/small", &[7; 10_000]).map(|_| ()).unwrap());
    timed("stat", &|| store.stat("ledger/small").map(|_| ()).unwrap());
    timed("get 10 KB", &|| drop(store.get("ledger/small", 0, 10_001).unwrap()));
    let object = noise(OBJECT, 1);
    let put =
        in_threads(threads, objects, |n| store.put(&format!("packs/{:02x}/p{n}", n % 256), &object).map(|_| ()).unwrap());
    eprintln!("put {objects} x 16 MiB: {:.2} s, {:.1} Mbit/s", put.as_secs_f64(), rate(objects * OBJECT, put) * 8.0);
    timed("list 258 directories", &|| {
        let mut names = 0;
        store.list(&dirs, &mut |_| names += 1).unwrap();
        assert_eq!(names, 1 + objects);
    });
    let get = in_threads(threads, objects, |n| {
        assert_eq!(store.get(&format!("packs/{:02x}/p{n}", n % 256), 0, OBJECT as u64).unwrap().len(), OBJECT);
    });
    eprintln!("get {objects} x 16 MiB: {:.2} s, {:.1} Mbit/s", get.as_secs_f64(), rate(objects * OBJECT, get) * 8.0);
    let small =
        in_threads(threads, 200, |n| store.put(&format!("packs/{:02x}/s{n}", n % 256), &[7; 2000]).map(|_| ()).unwrap());
    show("put 200 x 2 KB", small);
    let wanted: Vec<(String, u64)> = (0..200).map(|n| (format!("packs/{:02x}/s{n}", n % 256), 4000)).collect();
    timed("get_many 200 x 2 KB", &|| assert!(store.get_many(&wanted).iter().all(Result::is_ok)));
    let memory = fs::read_to_string("/proc/self/status").unwrap();
    eprintln!("{}", memory.lines().find(|line| line.starts_with("VmHWM")).unwrap());
}
