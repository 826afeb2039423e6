//! The vendor's mongodump, through a stand-in that misbehaves as the real one was measured to, with archives of the real one.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use farkeep::cli::config::Config;

use crate::world::deployment::{Namespace, archive, namespaces, oplog};
use crate::world::{Run, World, args};
use crate::{job, snapshots, source};

/// The password of the address; `%21` is how an address writes `!`.
const PASSWORD: &str = "s3cret-w%21rd";

fn sample(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/mongodump").join(name)).unwrap()
}

struct Registry {
    world: World,
}

impl Registry {
    fn new(mode: &str) -> Self {
        let registry = Self { world: World::new() };
        fs::create_dir(registry.path("")).unwrap();
        let program = registry.path("mongodump");
        fs::write(&program, include_str!("stand-ins/mongodump")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/mongodump"), registry.path("samples")).unwrap();
        let uri = format!("mongodb://backup:{PASSWORD}@mongo1:27017/users?serverSelectionTimeoutMS=2000");
        fs::write(registry.path("uri"), uri).unwrap();
        fs::set_permissions(registry.path("uri"), fs::Permissions::from_mode(0o600)).unwrap();
        registry.behaves(mode);
        registry.configure("hearth-dev", "10m");
        registry
    }

    fn path(&self, name: &str) -> PathBuf {
        self.world.path("mongo").join(name)
    }

    fn behaves(&self, mode: &str) {
        fs::write(self.path("mode"), mode).unwrap();
    }

    fn configure(&self, database: &str, timeout: &str) {
        let keys = format!(
            "uri_file = '{}'\nhosts = 'rs0/mongo1:27017,mongo2:27017'\ndatabase = '{database}'\ntimeout = '{timeout}'\n\
             tool = '{}'\ntool_args = ['--readPreference=secondary']",
            self.path("uri").display(),
            self.path("mongodump").display(),
        );
        job(&self.world, &source("hearth", "mongodb", &keys));
    }

    /// All databases as one member, which holds this.
    fn configure_whole(&self, tool_args: &str, held: &[Namespace]) {
        let keys = format!(
            "uri_file = '{}'\nhosts = 'rs0/mongo1:27017,mongo2:27017'\ntimeout = '10m'\ntool = '{}'\ntool_args = [{tool_args}]",
            self.path("uri").display(),
            self.path("mongodump").display(),
        );
        job(&self.world, &source("hearth", "mongodb", &keys));
        fs::write(self.path("deployment-oplog.archive"), archive(held)).unwrap();
    }

    fn push(&self) -> Run {
        self.world.run(args!["push", "nightly"])
    }

    /// A push fails with these words, shows no password, and makes no snapshot.
    #[track_caller]
    fn fails(&self, words: &str) {
        let before = snapshots(&self.world);
        self.push().exits(1).says(words).says("hearth").never_says("s3cret");
        assert_eq!(snapshots(&self.world), before, "a snapshot was made of a dump that failed");
    }

    fn kept(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }
}

#[test]
fn a_dump_of_the_vendors_tool_is_kept_byte_for_byte_and_counted() {
    let registry = Registry::new("whole");
    let world = &registry.world;
    assert_eq!(world.push("nightly")["state"], "good");
    let back = world.path("back");
    world.run(args!["restore", "latest", "@hearth", "--into", &back, "--identity", &world.identity]).ok();
    let archives = [back.join("@hearth/archive"), back.join("archive")];
    let archive = archives.iter().find(|path| path.exists()).unwrap();
    assert!(fs::read(archive).unwrap() == sample("hearth-dev.archive"));
}

#[test]
fn the_tool_learns_the_password_from_a_private_file_and_nowhere_else() {
    let registry = Registry::new("whole");
    registry.push().ok();
    let (argv, environment, config) = (registry.kept("argv"), registry.kept("environment"), registry.kept("config"));
    for text in [&argv, &environment] {
        assert!(!text.contains("s3cret") && !text.contains("mongodb://"), "{text}");
    }
    let said: Vec<&str> = argv.lines().skip(2).collect();
    assert_eq!(said, ["--archive", "--numParallelCollections=1", "--db=hearth-dev", "--readPreference=secondary"]);
    let address = format!("mongodb://backup:{PASSWORD}@mongo1:27017,mongo2:27017/?authSource=users&replicaSet=rs0");
    assert_eq!(config, format!("600\nuri: \"{address}\"\n"));
    let file = argv.lines().nth(1).unwrap();
    assert!(!Path::new(file).exists(), "{file} outlived the push");
}

#[test]
fn a_misspelt_database_is_no_backup_although_the_tool_ends_well() {
    let registry = Registry::new("whole");
    registry.configure("hearth", "10m");
    registry.fails("the database \"hearth\" is not there or holds no document at all");
}

#[test]
fn half_an_archive_with_exit_code_0_is_no_backup() {
    let registry = Registry::new("partial");
    registry.fails("what mongodump wrote is cut off");
}

#[test]
fn a_whole_archive_with_exit_code_1_is_no_backup() {
    let registry = Registry::new("failing");
    registry.fails("error dumping the last collection");
}

#[test]
fn a_flipped_byte_in_the_archive_is_seen_at_the_backup() {
    let registry = Registry::new("flipped");
    registry.fails("what mongodump wrote is damaged");
}

#[test]
fn a_refused_login_is_told_without_the_password() {
    let registry = Registry::new("login");
    registry.fails("auth error");
}

#[test]
fn a_tool_that_hangs_is_killed_at_its_time_limit() {
    let registry = Registry::new("hanging");
    registry.configure("hearth-dev", "2s");
    registry.fails("ran longer than its time limit of 2 s and was killed");
}

/// All that a deployment holds and what was written meanwhile.
fn with_oplog() -> Vec<Namespace> {
    namespaces().into_iter().chain([oplog()]).collect()
}

#[test]
fn a_whole_deployment_is_one_member_with_what_was_written_meanwhile() {
    let registry = Registry::new("whole");
    registry.configure_whole("'--oplog', '--readPreference=secondary'", &with_oplog());
    assert_eq!(registry.world.push("nightly")["state"], "good");
    let said: Vec<String> = registry.kept("argv").lines().skip(2).map(str::to_owned).collect();
    assert_eq!(said, ["--archive", "--numParallelCollections=1", "--oplog", "--readPreference=secondary"]);
    let back = registry.world.path("back");
    let restored = args!["restore", "latest", "@hearth/archive", "--into", &back, "--identity", &registry.world.identity];
    registry.world.run(restored).ok();
    assert!(fs::read(back.join("@hearth/archive")).unwrap() == archive(&with_oplog()));
    // Only the program itself can bring that back.
    let run = args!["restore", "latest", "--run", "--dry-run", "--identity", &registry.world.identity];
    registry.world.run(run).exits(1).says("restore_tool = \"mongorestore\"");
}

#[test]
fn an_oplog_that_is_missing_empty_cut_or_damaged_is_no_backup() {
    let registry = Registry::new("whole");
    registry.configure_whole("'--oplog'", &namespaces());
    registry.fails("the archive holds no oplog, although it was asked for");
    let nothing = Namespace { documents: Vec::new(), ..oplog() };
    registry.configure_whole("'--oplog'", &namespaces().into_iter().chain([nothing]).collect::<Vec<_>>());
    registry.fails("the oplog in the archive is empty");

    registry.configure_whole("'--oplog'", &with_oplog());
    let (file, whole) = (registry.path("deployment-oplog.archive"), archive(&with_oplog()));
    let entry = whole.windows(8).position(|at| at == b"periodic").unwrap();
    fs::write(&file, &whole[..entry]).unwrap();
    registry.fails("what mongodump wrote is cut off");
    let mut flipped = whole.clone();
    flipped[entry] ^= 1;
    fs::write(&file, &flipped).unwrap();
    registry.fails("the checksum of collection \"oplog\" is wrong");
    // Without a replica set there is none, as the program says itself.
    fs::write(&file, &whole).unwrap();
    registry.behaves("standalone");
    registry.fails("error finding oplog");
}

#[test]
fn what_would_make_the_dump_worthless_cannot_be_configured() {
    let member = |keys: &str| {
        let text = format!(
            "[job.nightly]\n[[job.nightly.source]]\nname = 'm'\nkind = 'mongodb'\nuri_file = '/u'\ndatabase = 'd'\n{keys}\n"
        );
        Config::parse(&text).err().unwrap_or_default().join("\n")
    };
    let timed = |keys: &str| member(&format!("timeout = '1h'\n{keys}"));
    assert!(member("tool = 'mongodump'").contains("timeout is missing"));
    assert!(timed("tool = 'pg_dump'").contains("must be \"mongodump\""));
    assert!(timed("tool_args = ['--quiet']").contains("tool = \"mongodump\" is missing"));
    for wrong in ["--gzip", "--password=s3cret", "-p", "--uri"] {
        let said = timed(&format!("tool = 'mongodump'\ntool_args = ['{wrong}']"));
        assert!(said.contains("cannot be given here") && !said.contains("s3cret"), "{wrong}: {said}");
    }
    assert!(timed("tool = 'mongodump'\ntool_args = ['--oplog']").contains("leave out database"));
    assert!(timed("restore_tool = 'mongorestore'\nrestore_tool_args = ['--oplogReplay']").contains("cannot be given here"));
    let said = timed("restore_tool = 'mongorestore'\nrestore_tool_args = ['mongodb://a:s3cret@h/']");
    assert!(said.contains("uri_file") && !said.contains("s3cret"), "{said}");
    let fine =
        "tool = '/opt/mongo/bin/mongodump'\ntool_args = ['--readPreference', 'secondary']\nrestore_tool = 'mongorestore'";
    assert!(!timed(fine).contains("tool"), "{}", timed(fine));
}
