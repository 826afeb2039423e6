//! Links that break: killed sessions, stopped servers, cuts at any byte, dribbles. Everything completes or fails in bounded
//! time, and what was put is whole.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use farkeep::model::ids::ObjectHash;
use farkeep::model::name::{ObjectName, Sealed};
use farkeep::store::deliver::{RetryPolicy, deliver};
use farkeep::store::{Store, StoreError, WriteOnceStore};

use crate::world::{Sshd, have_sshd, noise, skipped};

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
