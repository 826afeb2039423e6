//! The vendor's own programs, for what the built-in path does not know: a way to log in, a server newer than the driver.
//!
//! They are told the address by a private file, because arguments and environments can be read by others. What they say of
//! themselves is not enough: mongodump ends well for a database that is not there, and mongorestore for documents that were
//! refused. So the archive is looked through while it comes, and the target is counted before anything there is replaced.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::load::{Asked, NEW};
use super::{MongoConfig, is_zipped};
use crate::source::SourceError;
use crate::source::secret::{Secret, SecretText};
use crate::source::tool::Tool;
use crate::source::work::Work;

mod address;
mod dump;
mod oplog;
mod privileges;
mod whole;

pub use dump::VendorDump;
pub use whole::WholeConfig;

/// What the tool that makes archives is called.
pub const DUMPER: &str = "mongodump";
/// What the tool that brings them back is called.
pub const LOADER: &str = "mongorestore";
/// Options of either that we set ourselves, that hold a password, or that make of the archive or the restore something that
/// cannot be compared and renamed.
const RESERVED: [&str; 27] = [
    "--archive",
    "--collection",
    "--config",
    "--db",
    "--dir",
    "--drop",
    "--dryRun",
    "--dumpDbUsersAndRoles",
    "--gzip",
    "--host",
    "--nsExclude",
    "--nsFrom",
    "--nsInclude",
    "--nsTo",
    "--oplog",
    "--oplogReplay",
    "--out",
    "--password",
    "--port",
    "--preserveUUID",
    "--query",
    "--queryFile",
    "--restoreDbUsersAndRoles",
    "--sslPEMKeyPassword",
    "--uri",
    "--username",
    "--viewsAsCollections",
];

/// One of the programs as it is configured.
#[derive(Debug, Clone)]
pub struct Vendor {
    /// Its name or path.
    pub program: String,
    /// More options of it.
    pub args: Vec<String>,
}

impl Vendor {
    /// Of a configuration.
    ///
    /// # Errors
    /// When an argument is one that farkeep must set itself, or has no long name.
    pub fn new(program: String, args: Vec<String>) -> Result<Self, String> {
        let name = |arg: &str| arg.split('=').next().unwrap_or_default().to_owned();
        let short = |arg: &str| arg.starts_with('-') && !arg.starts_with("--");
        match args.iter().find(|arg| RESERVED.contains(&name(arg).as_str()) || short(arg) || arg.contains("://")) {
            // Its value may be secret.
            Some(arg) if !arg.contains("://") => Err(format!("{} cannot be given here", name(arg))),
            Some(_) => Err("an address belongs into uri_file".into()),
            None => Ok(Self { program, args }),
        }
    }

    /// Its version, by its own words; an error when it cannot be run at all.
    pub fn version(&self, work: &Work) -> Result<String, SourceError> {
        let said = Tool::new(&self.program).arg("--version").succeed(work)?;
        let said = String::from_utf8_lossy(&said);
        let line = said.lines().next().unwrap_or_default();
        Ok(line.rsplit(' ').next().unwrap_or_default().to_owned())
    }

    /// Whether it logs in as somebody whom the address does not name.
    fn logs_in_by_itself(&self) -> bool {
        self.args.iter().any(|arg| arg.split('=').next() == Some("--authenticationMechanism"))
    }

    /// The program, told where the deployment is.
    fn tool(&self, uri: &Secret, hosts: Option<&str>, work: &Work) -> Result<Tool, SourceError> {
        let uri = uri.read()?;
        let address = address::of(&uri, hosts)?;
        let (path, mut file) = work.new_file("mongodb-tools.yaml")?;
        let wrong = |source| SourceError::Io { path: path.display().to_string(), source };
        // A text of JSON is one of YAML.
        let line = SecretText::new(format!("uri: {}\n", serde_json::Value::from(address.expose())));
        file.write_all(line.expose().as_bytes()).map_err(wrong)?;
        let mut tool = Tool::new(&self.program).arg("--config").arg(&path).hiding(&uri).hiding(&address);
        for password in address::passwords(&address) {
            tool = tool.hiding(&password);
        }
        Ok(tool)
    }

    /// mongodump, writing the archive of one database to its standard output: one collection at a time and not compressed,
    /// so that what did not change between two nights is stored once.
    fn dumping(&self, config: &MongoConfig, work: &Work) -> Result<Tool, SourceError> {
        let tool = self.tool(&config.uri, config.hosts.as_deref(), work)?.args(["--archive", "--numParallelCollections=1"]);
        Ok(tool.arg(format!("--db={}", config.database)).args(&self.args))
    }

    /// The same of all databases, and the oplog where it is wanted.
    fn dumping_whole(&self, config: &WholeConfig, work: &Work) -> Result<Tool, SourceError> {
        let tool = self.tool(&config.uri, config.hosts.as_deref(), work)?.args(["--archive", "--numParallelCollections=1"]);
        Ok(tool.args(config.oplog.then_some("--oplog")).args(&self.args))
    }

    /// Runs mongorestore on an archive of a whole deployment, in place of what is there: it replays an oplog under no other
    /// names.
    fn load_whole(&self, config: &WholeConfig, archive: &Path, oplog: bool, work: &Work) -> Result<(), SourceError> {
        let wrong = |source| SourceError::Io { path: archive.display().to_string(), source };
        let tool = self
            .tool(&config.uri, config.hosts.as_deref(), work)?
            .args(["--archive", "--drop", "--stopOnError", "--maintainInsertionOrder", "--bypassDocumentValidation"])
            .args(oplog.then_some("--oplogReplay"))
            .args(&self.args);
        tool.judge(tool.run_with(File::open(archive).map_err(wrong)?, work)?).map(|_| ())
    }

    /// Runs mongorestore on an archive: every collection under its new name.
    pub fn load(&self, config: &MongoConfig, asked: &Asked, archive: &Path, work: &Work) -> Result<(), SourceError> {
        let (from, to) = (&asked.database, &config.database);
        // The first pattern that fits is the one that counts.
        let renamed = asked
            .renamed
            .iter()
            .flat_map(|(name, new)| [format!("--nsFrom={from}.{}", literal(name)), format!("--nsTo={to}.{new}")]);
        let wrong = |source| SourceError::Io { path: archive.display().to_string(), source };
        let tool = self
            .tool(&config.uri, config.hosts.as_deref(), work)?
            // An index may tell the server to remove what has expired: first all is counted.
            .args(["--archive", "--drop", "--stopOnError", "--maintainInsertionOrder", "--noIndexRestore"])
            .args(is_zipped(archive)?.then_some("--gzip"))
            .args(asked.has_validators.then_some("--bypassDocumentValidation"))
            .arg(format!("--nsInclude={from}.*"))
            .args(renamed.collect::<Vec<_>>())
            .arg(format!("--nsFrom={from}.$collection$"))
            .arg(format!("--nsTo={to}.{NEW}$collection$"))
            .args(&self.args);
        tool.judge(tool.run_with(File::open(archive).map_err(wrong)?, work)?).map(|_| ())
    }
}

/// A name as a pattern of mongorestore that fits it alone.
fn literal(name: &str) -> String {
    name.chars().flat_map(|c| ['*', '$', '\\'].contains(&c).then_some('\\').into_iter().chain([c])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_as_a_pattern_fits_itself_alone() {
        assert_eq!(literal("deaths.2026"), "deaths.2026");
        assert_eq!(literal(r"a*b$c\d"), r"a\*b\$c\\d");
    }
}
