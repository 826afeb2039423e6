//! One engine through all its steps, as a push and a restore take them, with the vault left out.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use farkeep::model::entry::{Metadata, Owner, Xattrs};
use farkeep::model::time::Timestamp;
use farkeep::source::SourceError;
use farkeep::source::engine::{Account, Engine, Fetched, FetchedPart};
use farkeep::source::work::Work;
use tempfile::TempDir;

use crate::world::sshd::scratch;

static STOP: AtomicBool = AtomicBool::new(false);

/// A directory for what an engine stages and what is fetched.
pub struct Rehearsal {
    dir: TempDir,
    now: AtomicI64,
}

impl Rehearsal {
    pub fn new() -> Self {
        Self { dir: scratch(), now: AtomicI64::new(1_700_000_000) }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file that holds a secret.
    pub fn secret(&self, name: &str, text: &str) -> farkeep::source::secret::Secret {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        farkeep::source::secret::Secret::File(path)
    }

    pub fn work(&self, name: &str) -> Work {
        let dir = self.path(&format!("scratch-{name}"));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        // Every piece of work has a time of its own.
        let now = Timestamp(self.now.fetch_add(1, Ordering::Relaxed));
        Work::new(name, dir, now, "UTC", &STOP)
    }

    /// Backs up as a push does: every part read to its end, in order.
    pub fn back_up(&self, engine: &dyn Engine, label: &str) -> Result<Fetched, SourceError> {
        let work = self.work(&format!("{label}-backup"));
        let dir = self.path(label);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let mut backup = engine.open(&work)?;
        let mut parts: Vec<FetchedPart> = Vec::new();
        while let Some(part) = backup.next(&work)? {
            let components = |name: &str| name.split('/').map(str::to_owned).collect::<Vec<_>>();
            let ascends = parts.last().is_none_or(|last| components(&last.name) < components(&part.name));
            assert!(ascends, "parts ascend: {}", part.name);
            let path = dir.join(&part.name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let (mut read, mut file) = ((part.open)(&work)?, File::create(&path).unwrap());
            let mut buffer = vec![0; 100_000];
            let mut bytes = 0;
            loop {
                let count = read.read(&mut buffer)?;
                if count == 0 {
                    break;
                }
                file.write_all(&buffer[..count]).unwrap();
                bytes += count as u64;
            }
            read.finish()?;
            parts.push(fetched_part(part.name, path, bytes));
        }
        Ok(Fetched { dir, parts, account: backup.finish(&work)? })
    }

    /// Backs up what somebody has locked: gives what is told meanwhile, and lets go of the lock with `release`.
    pub fn back_up_locked(&self, engine: &dyn Engine, release: impl FnOnce()) -> String {
        let (tell, told) = channel();
        let work = self.work("locked").telling(Duration::from_millis(300), tell);
        std::thread::scope(|scope| {
            let backing_up = scope.spawn(|| {
                let mut backup = engine.open(&work)?;
                while let Some(part) = backup.next(&work)? {
                    let mut read = (part.open)(&work)?;
                    while read.read(&mut [0; 65536])? > 0 {}
                    read.finish()?;
                }
                backup.finish(&work)
            });
            let said = told.recv_timeout(Duration::from_secs(60));
            release();
            backing_up.join().unwrap().unwrap();
            said.unwrap()
        })
    }

    /// Restores as a restore plan does: look into everything, replace, prove. Gives what is then at the target.
    pub fn bring_back(&self, engine: &dyn Engine, fetched: &Fetched) -> Result<Account, SourceError> {
        let work = self.work("restore");
        engine.survey(&fetched.account, &work)?;
        engine.check(fetched, &work)?;
        engine.replace(fetched, &work)?;
        engine.prove(fetched, &work)
    }

    /// As [`Rehearsal::bring_back`], and the proof must agree in all that the backup recorded.
    #[track_caller]
    pub fn bring_back_all(&self, engine: &dyn Engine, fetched: &Fetched) {
        let now = self.bring_back(engine, fetched).unwrap_or_else(|e| panic!("{e}"));
        for (name, value) in &fetched.account.proof {
            assert_eq!(now.proof.get(name), Some(value), "{name}");
        }
    }

    /// Some file as the only part of a member.
    pub fn adopted(&self, name: &str, file: &Path) -> Fetched {
        let bytes = fs::metadata(file).unwrap().len();
        let part = fetched_part(name.into(), file.to_owned(), bytes);
        Fetched { dir: self.path("adopted"), parts: vec![part], account: Account::default() }
    }
}

fn fetched_part(name: String, path: PathBuf, bytes: u64) -> FetchedPart {
    let owner = Owner { uid: 0, gid: 0, user: None, group: None };
    FetchedPart { name, path, bytes, meta: Metadata { mode: 0o600, owner, mtime_ns: 0, xattrs: Xattrs::none() } }
}
