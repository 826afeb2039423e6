//! Links that break: killed sessions, stopped servers, cuts at any byte, dribbles. Everything completes or fails in bounded
//! time, and what was put is whole.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use farkeep::model::ids::ObjectHash;
use farkeep::model::name::{ObjectName, Sealed};
use farkeep::store::deliver::{RetryPolicy, deliver};
use farkeep::store::location::SftpLocation;
use farkeep::store::sftp::{SftpOptions, SftpStore};
use farkeep::store::{Store, StoreError, WriteOnceStore};

use crate::proxy::{Harm, Proxy, Way};
use crate::world::{Served, Sshd, have_sshd, noise, skipped};

const SOON: RetryPolicy = RetryPolicy { attempts: 6, first_wait: Duration::from_millis(20) };

fn pack(number: u8, content: &[u8]) -> ObjectName {
    ObjectName::Pack(Sealed { hash: ObjectHash([number; 32]), bytes: content.len() as u64 })
}

#[test]
fn a_killed_session_in_mid_put_costs_a_retry() {
    if !have_sshd() {
        return skipped("kill -9 of a session", "no sshd");
    }
    let sshd = Sshd::start("");
    let store = sshd.store(&sshd.path("vault"));
    store.make_dirs(&["packs".to_owned(), "packs/01".to_owned()]).unwrap();
    let content = noise(64 << 20, 1);
    let name = pack(1, &content);
    let done = AtomicBool::new(false);
    let delivered = std::thread::scope(|scope| {
        scope.spawn(|| {
            // As soon as the upload shows, once.
            let first = sshd.path("vault").join(name.to_string());
            while !done.load(Ordering::Relaxed) {
                if std::fs::metadata(&first).is_ok_and(|file| file.len() > 1 << 20) {
                    assert!(sshd.kill_sessions() > 0);
                    return;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            panic!("it was too quick to be killed");
        });
        let delivered = deliver(&store, &name, &content, SOON);
        done.store(true, Ordering::Relaxed);
        delivered
    });
    let delivered = delivered.unwrap();
    assert_eq!((delivered.suffix, delivered.sent), (1, true), "the torn one keeps its name");
    assert!(store.get(&name.with_suffix(1), 0, u64::MAX).unwrap() == content);
    assert!(store.stat(&name.to_string()).unwrap().unwrap() < content.len() as u64);
}

#[test]
fn a_channel_that_ends_takes_no_other_upload_with_it() {
    if !have_sshd() {
        return skipped("kill -9 of one channel", "no sshd");
    }
    let sshd = Sshd::start("");
    let location = sshd.location(&sshd.path("vault"));
    let store = SftpStore::connect(&location, SftpOptions { connections: 1, ..sshd.options() }).unwrap();
    store.make_dirs(&layout()).unwrap();
    let content = noise(64 << 20, 1);
    let names = [pack(1, &content), pack(2, &content)];
    let stored = |name: &ObjectName| std::fs::metadata(sshd.path("vault").join(name.to_string())).map_or(0, |f| f.len());
    let suffixes = std::thread::scope(|scope| {
        let (store, content) = (&store, &content);
        let put = |name| scope.spawn(move || deliver(store, name, content, SOON).unwrap().suffix);
        let puts = [put(&names[0]), put(&names[1])];
        while names.iter().any(|name| stored(name) < 1 << 20) {
            std::thread::sleep(Duration::from_millis(1));
        }
        sshd.kill_a_channel();
        assert!(puts.iter().all(|put| !put.is_finished()), "they were too quick to be harmed");
        puts.map(|put| put.join().unwrap())
    });
    assert_eq!(suffixes.iter().sum::<u32>(), 1, "one of both is sent again: {suffixes:?}");
    assert_eq!(names.iter().filter(|name| stored(name) == content.len() as u64).count(), 1);
    assert_eq!(sshd.log().matches("Accepted publickey").count(), 1, "the connection lives on");
}

#[test]
fn a_server_that_stops_answering_is_given_up() {
    if !have_sshd() {
        return skipped("stopped server", "no sshd");
    }
    let sshd = Sshd::start("");
    let mut options = sshd.options();
    options.times.silence = Duration::from_millis(600);
    options.times.retry_budget = Duration::from_millis(1);
    let location = sshd.location(&sshd.path("vault"));
    let store = farkeep::store::sftp::SftpStore::connect(&location, options).unwrap();
    store.make_dirs(&["d".to_owned()]).unwrap();
    store.put("d/one", b"1").unwrap();
    sshd.signal_sessions(rustix::process::Signal::STOP);
    for work in [&(|| store.put("d/two", &noise(8 << 20, 2)).map(drop)) as &dyn Fn() -> Result<(), StoreError>, &|| {
        store.stat("d/one").map(drop)
    }] {
        let began = Instant::now();
        let error = work().err();
        assert!(error.as_ref().is_none_or(StoreError::is_transient), "{error:?}");
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        // The next connection gets a new process that runs; it is stopped as well.
        sshd.signal_sessions(rustix::process::Signal::STOP);
    }
    sshd.signal_sessions(rustix::process::Signal::CONT);
    assert_eq!(store.get("d/one", 0, 10).unwrap(), b"1", "a new connection works");
}

/// A store over a proxy that harms its connections.
fn harmed(served: &Served, silence: Duration, harm: impl Fn(usize) -> Harm + Send + 'static) -> (Proxy, SftpStore) {
    let proxy = Proxy::start(served.running.address(), harm);
    let location = SftpLocation { port: Some(proxy.port()), ..served.location() };
    let mut options = served.options(&served.writer);
    options.times.silence = silence;
    options.times.login = silence * 2;
    // A read that is cut many times goes on, however slow the machine is.
    options.times.retry_budget = Duration::from_secs(60);
    options.times.first_contact = options.times.retry_budget;
    options.times.retry_wait = Duration::from_millis(2);
    let store = SftpStore::connect(&location, options).unwrap();
    (proxy, store)
}

/// What a connection carries one way besides the object: the log-in takes about 3 KB, the protocol the rest.
const BESIDES: usize = 12_000;

#[test]
fn a_link_that_is_cut_anywhere_costs_a_retry() {
    let served = Served::start();
    let direct = served.connect(&served.writer).unwrap();
    direct.make_dirs(&layout()).unwrap();
    let content = noise(150_000, 3);
    let (up, down) = (content.len() + BESIDES, BESIDES);
    let cuts = (0..up).step_by(up / 40).map(|n| Harm::Cut(Way::Up, n + 1));
    let cuts = cuts.chain((0..down).step_by(down / 40).map(|n| Harm::Cut(Way::Down, n + 1)));
    for (number, cut) in cuts.enumerate() {
        let name = pack(u8::try_from(number).unwrap(), &content);
        let (_proxy, store) = harmed(&served, Duration::from_secs(2), move |n| if n == 0 { cut } else { Harm::None });
        let delivered = deliver(&store, &name, &content, SOON).unwrap_or_else(|e| panic!("{cut:?}: {e}"));
        let stored = name.with_suffix(delivered.suffix);
        assert!(direct.get(&stored, 0, u64::MAX).unwrap() == content, "{cut:?}");
        assert!(store.get(&stored, 0, u64::MAX).unwrap() == content, "{cut:?}");
    }
}

#[test]
fn a_link_that_falls_silent_anywhere_costs_a_retry() {
    let served = Served::start();
    served.connect(&served.writer).unwrap().make_dirs(&layout()).unwrap();
    let content = noise(150_000, 3);
    let (up, down) = (content.len() + BESIDES, BESIDES);
    let stalls = (0..up).step_by(up / 6).map(|n| Harm::Stall(Way::Up, n + 1));
    let stalls = stalls.chain((0..down).step_by(down / 6).map(|n| Harm::Stall(Way::Down, n + 1)));
    for (number, stall) in stalls.enumerate() {
        let began = Instant::now();
        let name = pack(u8::try_from(number).unwrap(), &content);
        let silence = Duration::from_millis(300);
        let (_proxy, store) = harmed(&served, silence, move |n| if n == 0 { stall } else { Harm::None });
        let delivered = deliver(&store, &name, &content, SOON).unwrap_or_else(|e| panic!("{stall:?}: {e}"));
        assert!(store.get(&name.with_suffix(delivered.suffix), 0, u64::MAX).unwrap() == content, "{stall:?}");
        assert!(began.elapsed() < Duration::from_secs(5), "{stall:?}: {:?}", began.elapsed());
    }
}

#[test]
fn single_bytes_arrive_too() {
    let served = Served::start();
    let (_proxy, store) = harmed(&served, Duration::from_secs(5), |_| Harm::Dribble);
    store.make_dirs(&layout()).unwrap();
    let content = noise(40_000, 4);
    let name = pack(0, &content);
    assert!(deliver(&store, &name, &content, RetryPolicy::ONCE).unwrap().sent);
    assert!(store.get(&name.to_string(), 0, u64::MAX).unwrap() == content);
    assert_eq!(listed(&store), [name.to_string()]);
}

#[test]
fn reading_goes_on_where_it_was_cut() {
    let served = Served::start();
    let direct = served.connect(&served.writer).unwrap();
    direct.make_dirs(&layout()).unwrap();
    let content = noise(3_000_000, 5);
    let name = pack(0, &content).to_string();
    direct.put(&name, &content).unwrap();
    for number in 1..400 {
        direct.put(&format!("packs/00/{number}"), &[0; 10]).unwrap();
    }
    let (proxy, store) = harmed(&served, Duration::from_secs(2), |_| Harm::Cut(Way::Down, 600_000));
    assert!(store.get(&name, 0, u64::MAX).unwrap() == content);
    assert!(proxy.connections() > 5, "no connection lived long enough for all of it");
    let (_proxy, store) = harmed(&served, Duration::from_secs(2), |n| Harm::Cut(Way::Down, 12_000 + n * 10_000));
    assert_eq!(listed(&store).len(), 400, "each name once");
    let wanted: Vec<(String, u64)> = (1..400).map(|n| (format!("packs/00/{n}"), 10)).collect();
    let (_proxy, store) = harmed(&served, Duration::from_secs(2), |n| Harm::Cut(Way::Down, 40_000 + n * 1000));
    assert!(store.get_many(&wanted).into_iter().all(|got| got == Ok(vec![0; 10])));
}

#[test]
fn a_link_that_never_lasts_is_given_up_in_time() {
    let served = Served::start();
    served.connect(&served.writer).unwrap().make_dirs(&layout()).unwrap();
    let content = noise(1_000_000, 6);
    let (_proxy, store) = harmed(&served, Duration::from_secs(2), |_| Harm::Cut(Way::Up, 200_000));
    let began = Instant::now();
    let policy = RetryPolicy { attempts: 3, first_wait: Duration::from_millis(5) };
    let error = deliver(&store, &pack(0, &content), &content, policy).unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

fn layout() -> Vec<String> {
    let mut dirs = vec!["packs".to_owned()];
    dirs.extend((0..=255_u8).map(|byte| format!("packs/{byte:02x}")));
    dirs
}

fn listed(store: &dyn Store) -> Vec<String> {
    let mut names = Vec::new();
    store.list(&layout(), &mut |listed| names.push(listed.name)).unwrap();
    names.sort();
    names.dedup();
    names
}
