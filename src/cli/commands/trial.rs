//! `farkeep try`: the whole job at once, with nothing set up and nothing left behind.

use std::fmt::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::cli::config::DEFAULT_CHUNK_BYTES;
use crate::cli::{Outcome, Session, render};
use crate::codec::Compression;
use crate::crypto::hash::hash_reader;
use crate::crypto::identity::read_identity_file;
use crate::crypto::sign::SigningKey;
use crate::ledger::RootPin;
use crate::model::finding::Finding;
use crate::model::ids::VaultId;
use crate::model::pattern::Selection;
use crate::model::size::human_size;
use crate::ops::context::{NamedStore, VaultPin};
use crate::ops::hooks::Hooks;
use crate::ops::init::{InitPlan, init};
use crate::ops::push::{PlannedSource, PushPlan, PushReceipt, push};
use crate::ops::reading::ReadPlan;
use crate::ops::restore::{Into, OnConflict, RestorePlan, restore};
use crate::ops::select::{Names, SnapshotQuery};
use crate::ops::verify::{Depth, VerifyPlan, verify};
use crate::ops::{Env, Exit, OpError};
use crate::source::SourceConfig;
use crate::source::files::{ExcludeRules, FilesConfig};
use crate::source::limits::Limits;
use crate::store::Location;
use crate::store::sftp::serve::{Layout, Running, ServeOptions, Server};
use crate::store::sftp::{SftpOptions, SftpStore};
use crate::vault::verify::sealed::Share;

/// What is backed up when nothing is named: it lies on every Debian.
const DEFAULT_PATH: &str = "/usr/share/doc";
/// Less than this is too little to show anything.
const DEFAULT_MIN_BYTES: u64 = 1_000_000;
/// Differences that are named.
const DIFFERENCES_SHOWN: usize = 5;

/// Arguments of `farkeep try`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to back up [default: /usr/share/doc, else the working directory without target and .git]
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
struct Step {
    step: &'static str,
    secs: f64,
    result: String,
}

/// What was tried.
#[derive(Debug, Clone, Default, Serialize)]
struct Report {
    steps: Vec<Step>,
    compared: u64,
    differences: Vec<String>,
    flipped: Option<Finding>,
    findings: Vec<Finding>,
}

/// A scratch place with everything in it.
struct Trial {
    scratch: tempfile::TempDir,
    server: Running,
    ssh_key: PathBuf,
}

/// Runs it.
pub fn run(args: &Args, session: &Session) -> Result<Outcome, OpError> {
    let (roots, exclude) = roots(args)?;
    let trial = Trial::set_up()?;
    let mut report = Report::default();
    let outcome = trial.go(&roots, &exclude, session, &mut report);
    session.progress.clear();
    trial.server.stop();
    outcome?;
    let right = report.differences.is_empty() && report.flipped.is_some();
    let exit = if right { Exit::of_findings(&report.findings) } else { Exit::Alarm };
    Ok(Outcome::new(exit, describe(&report, &roots), &report))
}

fn roots(args: &Args) -> Result<(Vec<PathBuf>, Vec<String>), OpError> {
    if !args.paths.is_empty() {
        let absolute = |path: &PathBuf| path.canonicalize().map_err(|e| OpError::Usage(format!("{}: {e}", path.display())));
        return Ok((args.paths.iter().map(absolute).collect::<Result<_, _>>()?, Vec::new()));
    }
    let default = Path::new(DEFAULT_PATH);
    if size_of(default) >= DEFAULT_MIN_BYTES {
        return Ok((vec![default.to_owned()], Vec::new()));
    }
    let here = std::env::current_dir().map_err(|e| OpError::NotDone(format!("working directory: {e}")))?;
    let anchored = |name: &str| format!("{}/{name}", here.display());
    Ok((vec![here.clone()], vec![anchored("target"), anchored(".git")]))
}

/// Bytes of the files below a directory, as far as it matters here.
fn size_of(dir: &Path) -> u64 {
    let mut bytes = 0;
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => open.push(entry.path()),
                Ok(meta) => bytes += meta.len(),
                Err(_) => {}
            }
            if bytes >= DEFAULT_MIN_BYTES {
                return bytes;
            }
        }
    }
    bytes
}

impl Trial {
    fn set_up() -> Result<Self, OpError> {
        let failed = |e: &dyn std::fmt::Display| OpError::NotDone(format!("scratch place: {e}"));
        let scratch = tempfile::Builder::new().prefix("farkeep-try-").tempdir().map_err(|e| failed(&e))?;
        let key = SigningKey::generate("farkeep try").map_err(|e| failed(&e))?;
        let ssh_key = scratch.path().join("ssh-key");
        let private = key.to_openssh().map_err(|e| failed(&e))?;
        std::fs::write(&ssh_key, private.as_bytes()).map_err(|e| failed(&e))?;
        std::fs::set_permissions(&ssh_key, std::fs::Permissions::from_mode(0o600)).map_err(|e| failed(&e))?;
        let root = scratch.path().join("server");
        std::fs::create_dir_all(root.join("vault")).map_err(|e| failed(&e))?;
        let server = Server::start(ServeOptions {
            root,
            listen: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
            host_key: None,
            authorized: vec![key.verifier().to_openssh()],
            readers: Vec::new(),
            layout: Layout::AllowMkdir,
        })
        .map_err(|e| failed(&e))?;
        Ok(Self { scratch, server, ssh_key })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn store(&self) -> Result<NamedStore, OpError> {
        let url = format!("sftp://try@{}/vault", self.server.address());
        let Ok(Location::Sftp(location)) = url.parse() else {
            return Err(OpError::NotDone(format!("{url}: not an address")));
        };
        let options = SftpOptions {
            key_files: vec![self.ssh_key.clone()],
            use_agent: false,
            host_keys: vec![self.server.host_fingerprint()],
            ssh_config: None,
            ..SftpOptions::default()
        };
        Ok(NamedStore { name: "server".into(), store: Arc::new(SftpStore::connect(&location, options)?) })
    }

    fn go(&self, roots: &[PathBuf], exclude: &[String], session: &Session, report: &mut Report) -> Result<(), OpError> {
        let state_root = self.path("state");
        let env = Env { state_root: &state_root, ..session.env() };
        let store = self.store()?;
        session.say(&format!(
            "a write-once SFTP server runs on {}; everything else is in {}",
            self.server.address(),
            self.scratch.path().display()
        ));

        let identity_file = self.path("identity");
        let made = report.timed(
            "init",
            session,
            || {
                let plan = InitPlan {
                    stores: vec![store.clone()],
                    identity_out: identity_file.clone(),
                    passphrase: None,
                    recipients: Vec::new(),
                    custodian: None,
                };
                init(&plan, &[], &env)
            },
            |made| format!("vault {} with new keys", &made.vault[..8]),
        )?;
        let vault = made.vault.parse().map_err(|e| OpError::NotDone(format!("{e}")))?;
        let root = RootPin::parse(&made.root).map_err(OpError::NotDone)?;
        let pin = VaultPin { vault: Some(vault), root };

        let push_plan = push_plan(&pin, vault, &store, roots, exclude)?;
        let pushed = report.timed("push", session, || push(&push_plan, &env), describe_push)?;
        report.findings.extend(pushed.findings.iter().cloned());
        report.timed("push again", session, || push(&push_plan, &env), describe_push)?;

        let content = std::fs::read(&identity_file).map_err(|e| OpError::NotDone(format!("identity: {e}")))?;
        let identities = read_identity_file(&content, None).map_err(|e| OpError::NotDone(e.to_string()))?.identities;
        let reading = |identities: &[_]| ReadPlan {
            pin: pin.clone(),
            from: store.clone(),
            names: Names::default(),
            identities: identities.to_vec(),
        };
        for (name, depth) in
            [("verify list", Depth::List), ("verify sealed", Depth::Sealed), ("verify opened", Depth::Opened)]
        {
            let keys = if depth == Depth::Opened { &identities[..] } else { &[] };
            let plan = VerifyPlan { read: reading(keys), depth, share: Share::All, repair: false, accept_rollback: false };
            let found = report.timed(
                name,
                session,
                || verify(&plan, &env),
                |found| {
                    let key = if depth == Depth::Opened { "with the identity" } else { "without any key" };
                    format!("{}, {key}: {}", render::count(found.objects, "object"), verdict(found.exit()))
                },
            )?;
            report.findings.extend(found.findings.into_iter().filter(|f| f.kind.is_alarm()));
        }

        let out = self.path("restored");
        let plan = RestorePlan {
            read: reading(&identities),
            query: SnapshotQuery { text: "latest".into(), ..SnapshotQuery::default() },
            selection: Selection::all(),
            members: Vec::new(),
            into: Into::Dir(out.clone()),
            strip: None,
            on_conflict: OnConflict::Refuse,
            delete: false,
            dry_run: false,
            numeric_ids: true,
            special: true,
            reason: Some("farkeep try".into()),
            ticket: None,
            purpose: "try",
        };
        let restored = report.timed(
            "restore",
            session,
            || restore(&plan, &env),
            |restored| format!("{}, {}", render::count(restored.files_written, "file"), human_size(restored.bytes_written)),
        )?;
        report.findings.extend(restored.findings);

        let (compared, differences) = report.timed(
            "compare",
            session,
            || Ok(compare(roots, exclude, &out)),
            |(compared, differences)| {
                if differences.is_empty() {
                    format!("{} equal in content, mode, owner and time", render::count(*compared, "path"))
                } else {
                    format!("{} DIFFER", render::count(differences.len() as u64, "path"))
                }
            },
        )?;
        (report.compared, report.differences) = (compared, differences);

        let object = flip_one_byte(&self.path("server/vault/packs"), pushed.new_packs)?;
        let plan = VerifyPlan {
            read: reading(&[]),
            depth: Depth::Sealed,
            share: Share::All,
            repair: false,
            accept_rollback: false,
        };
        let found = report.timed(
            "flip one byte",
            session,
            || verify(&plan, &env),
            |found| format!("{} of {}", verdict(found.exit()), render::count(found.objects, "object")),
        )?;
        report.flipped = found.findings.into_iter().find(|finding| finding.subject.ends_with(&object));
        Ok(())
    }
}

fn push_plan(
    pin: &VaultPin,
    vault: VaultId,
    store: &NamedStore,
    roots: &[PathBuf],
    exclude: &[String],
) -> Result<PushPlan, OpError> {
    let source = FilesConfig {
        name: "files".into(),
        roots: roots.to_vec(),
        exclude: ExcludeRules::with_patterns(exclude).map_err(|e| OpError::Usage(e.to_string()))?,
    };
    Ok(PushPlan {
        vault,
        pin: pin.clone(),
        stores: vec![store.clone()],
        missed: Vec::new(),
        to_all_stores: true,
        job: "try".into(),
        tags: Vec::new(),
        sources: vec![PlannedSource {
            source: SourceConfig::Files(source),
            average_chunk_bytes: DEFAULT_CHUNK_BYTES,
            patch: true,
            limits: Limits::default(),
            hooks: Hooks::default(),
        }],
        compression: Compression::Auto,
        every_secs: None,
        timezone: "UTC".into(),
        use_file_cache: true,
        base_cache_bytes: 0,
        tidy_local: false,
        outbox_bytes: 0,
        judge_change: false,
        accept_size: Vec::new(),
        hooks: Hooks::default(),
    })
}

fn describe_push(pushed: &PushReceipt) -> String {
    format!(
        "{}, {}; {} sent in {}",
        render::count(pushed.tally.files, "file"),
        human_size(pushed.tally.source_bytes),
        human_size(pushed.new_bytes),
        render::count(pushed.new_packs, "pack")
    )
}

const fn verdict(exit: Exit) -> &'static str {
    match exit {
        Exit::Alarm => "damage found",
        _ => "all right",
    }
}

impl Report {
    fn timed<T>(
        &mut self,
        step: &'static str,
        session: &Session,
        work: impl FnOnce() -> Result<T, OpError>,
        result: impl FnOnce(&T) -> String,
    ) -> Result<T, OpError> {
        let begun = Instant::now();
        let done = work().map_err(|error| OpError::NotDone(format!("{step}: {error}")))?;
        let line = Step { step, secs: begun.elapsed().as_secs_f64(), result: result(&done) };
        session.progress.clear();
        session.say(&format!("  {:14} {:>7.2} s  {}", line.step, line.secs, line.result));
        self.steps.push(line);
        Ok(done)
    }
}

/// Changes one byte in the middle of some pack; gives the end of its name.
fn flip_one_byte(packs: &Path, wanted: u64) -> Result<String, OpError> {
    let failed = |e: std::io::Error| OpError::NotDone(format!("flipping a byte: {e}"));
    let mut found = Vec::new();
    for dir in std::fs::read_dir(packs).map_err(failed)? {
        for file in std::fs::read_dir(dir.map_err(failed)?.path()).map_err(failed)? {
            found.push(file.map_err(failed)?.path());
        }
    }
    found.sort();
    let file = found.first().ok_or_else(|| OpError::NotDone(format!("no pack to damage among {wanted}")))?;
    let mut bytes = std::fs::read(file).map_err(failed)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    // The server made it read-only.
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    std::fs::write(file, bytes).map_err(failed)?;
    Ok(file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default())
}

/// Compares what was backed up with what was restored: kind, content, mode, owner, time, link target. Gives how many paths
/// were compared, and which differ.
fn compare(roots: &[PathBuf], exclude: &[String], out: &Path) -> (u64, Vec<String>) {
    let (mut compared, mut differences) = (0, Vec::new());
    for root in roots {
        let mut open = vec![root.clone()];
        while let Some(path) = open.pop() {
            if exclude.iter().any(|left_out| path == Path::new(left_out)) {
                continue;
            }
            let copy = out.join(path.strip_prefix("/").unwrap_or(&path));
            let (Ok(before), after) = (std::fs::symlink_metadata(&path), std::fs::symlink_metadata(&copy)) else { continue };
            if std::os::unix::fs::FileTypeExt::is_socket(&before.file_type()) {
                continue;
            }
            compared += 1;
            if before.is_dir() {
                open.extend(std::fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
            }
            if !after.is_ok_and(|after| same(&path, &before, &copy, &after)) {
                differences.push(path.display().to_string());
            }
        }
    }
    (compared, differences)
}

fn same(path: &Path, before: &std::fs::Metadata, copy: &Path, after: &std::fs::Metadata) -> bool {
    let owner = |meta: &std::fs::Metadata| (meta.uid(), meta.gid());
    let root = rustix::process::geteuid().is_root();
    let time = |meta: &std::fs::Metadata| (meta.mtime(), meta.mtime_nsec());
    let content = || -> bool {
        let hash = |path: &Path| std::fs::File::open(path).and_then(|mut file| hash_reader(&mut file)).ok();
        hash(path).is_some_and(|hash_before| hash(copy) == Some(hash_before))
    };
    before.file_type() == after.file_type()
        && time(before) == time(after)
        && (!root || owner(before) == owner(after))
        && (before.is_symlink() || before.mode() == after.mode())
        && (!before.is_symlink() || std::fs::read_link(path).ok() == std::fs::read_link(copy).ok())
        && (!before.is_file() || (before.len() == after.len() && content()))
}

fn describe(report: &Report, roots: &[PathBuf]) -> String {
    let mut text = String::new();
    match &report.flipped {
        Some(finding) => {
            let _ = writeln!(text, "\nthe flipped byte was found without a key: {finding}");
        }
        None => {
            let _ = writeln!(text, "\nTHE FLIPPED BYTE WAS NOT FOUND");
        }
    }
    for path in report.differences.iter().take(DIFFERENCES_SHOWN) {
        let _ = writeln!(text, "  differs: {path}");
    }
    render::findings(&mut text, &report.findings);
    let what = roots.first().map(|root| root.display().to_string()).unwrap_or_default();
    let _ = writeln!(
        text,
        "\npushed, verified, restored, compared; the scratch place is gone. To do it for real:\n\
         \n  farkeep init --store sftp://USER@HOST/vault --host-key SHA256:... --identity-out ./operator\n  \
         farkeep push {what}\n  farkeep restore latest --into /tmp/back --identity ./operator"
    );
    text
}
