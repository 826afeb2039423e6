//! PostgreSQL, one database a member: `pg_dump -Fc -Z0`, its roles apart.
//!
//! `pg_restore -l` takes a dump that was cut short for whole, and `psql` one that it could not load. So a dump is read to its
//! end before anything is touched, restored in one transaction into a database of another name, and counted there: rows and a
//! hash of every table, which the backup took in the very transaction that the dump shows.

use std::fs::File;

use crate::source::SourceError;
use crate::source::engine::{Account, Backup, Engine, Fetched, Survey};
use crate::source::secret::Secret;
use crate::source::tool::Tool;
use crate::source::work::Work;

mod backup;
mod properties;
mod restore;
mod server;

use server::{Server, literal};

/// The part that is the dump.
const DATABASE: &str = "database";
/// The part that holds the roles.
const GLOBALS: &str = "globals";
/// What PostgreSQL keeps of a name; it cuts off the rest without a word.
const NAME_MAX_BYTES: usize = 63;
/// Lines of proof that say how the database was made.
const ENCODING: &str = "encoding";
const COLLATE: &str = "collation";
const CTYPE: &str = "character type";
const OWNER: &str = "owner";

/// A database of a PostgreSQL server.
#[derive(Debug, Clone)]
pub struct PostgresConfig {
    /// The member's name.
    pub name: String,
    /// Host name, or the directory of the server's socket.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Role to log in as: it must read every table, and for a restore create databases.
    pub user: String,
    /// Its password; none where the server knows us by other means.
    pub password: Option<Secret>,
    /// The account of this machine that the programs run as; only root can choose one.
    pub run_as: Option<String>,
    /// The database.
    pub database: String,
    /// The database to be connected to while that one is replaced.
    pub maintenance: String,
    /// Whether roles are backed up, without their passwords.
    pub globals: bool,
}

impl PostgresConfig {
    fn title(&self) -> String {
        format!("PostgreSQL {}:{}/{}", self.host, self.port, self.database)
    }
}

/// `pg_dump (PostgreSQL) 15.18 (Debian ...)` -> `15.18`.
fn tool_version(program: &str, work: &Work) -> Result<String, SourceError> {
    let said = Tool::new(program).arg("--version").succeed(work)?;
    let said = String::from_utf8_lossy(&said);
    Ok(said.split_whitespace().nth(2).unwrap_or("unknown").to_owned())
}

fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

impl Engine for PostgresConfig {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "postgres"
    }

    fn open(&self, work: &Work) -> Result<Box<dyn Backup>, SourceError> {
        let server = Server::new(self, work)?;
        let (of_server, of_tool) = (server.version(&self.database)?, tool_version("pg_dump", work)?);
        if major(&of_tool) < major(&of_server) {
            let why = format!(
                "is version {of_server}, which pg_dump {of_tool} cannot dump: install postgresql-client of that version"
            );
            return Err(server.failed(why));
        }
        Ok(Box::new(backup::Dumping::new(self.clone())))
    }

    fn survey(&self, account: &Account, work: &Work) -> Result<Survey, SourceError> {
        let server = Server::new(self, work)?;
        let version = server.version(&self.maintenance)?;
        if self.database.len() > NAME_MAX_BYTES {
            let why = format!(
                "the name is longer than the {NAME_MAX_BYTES} bytes that PostgreSQL keeps: configure what is left of it"
            );
            return Err(server.failed(why));
        }
        let subscriptions = restore::subscriptions(&server)?;
        if !subscriptions.is_empty() {
            return Err(server.failed(format!(
                "PostgreSQL drops no database with a subscription, so nothing can take its place: subscription {}. End it first, \
                 there: ALTER SUBSCRIPTION x DISABLE; ALTER SUBSCRIPTION x SET (slot_name = NONE); DROP SUBSCRIPTION x (its slot \
                 stays at the publisher)",
                subscriptions.join(", ")
            )));
        }
        let mut survey = Survey { target: self.title(), ..Survey::default() };
        if server.has(&self.database)? {
            let sql = "SELECT count(*), coalesce(sum(n_live_tup), 0) FROM pg_catalog.pg_stat_user_tables;";
            // What is to be replaced may be damaged, or closed to everybody by a restore that broke off.
            let counted = match server.query(&self.database, sql) {
                Ok(rows) => match rows.first().map(Vec::as_slice) {
                    Some([tables, count]) => format!(": {tables} tables, about {count} rows"),
                    _ => return Err(server.failed("does not count its tables")),
                },
                Err(error) => format!(", which cannot be counted ({error})"),
            };
            survey.destroys.push(format!("database {}{counted}", self.database));
            let sql =
                format!("SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE datname = {};", literal(&self.database));
            let sessions = server.query(&self.maintenance, &sql)?;
            if let Some(count) = sessions.first().and_then(|row| row.first()).filter(|count| *count != "0") {
                survey.notes.push(format!("{count} sessions are connected to it and will be ended"));
            }
        }
        if let Some(then) = account.tools.get("PostgreSQL").filter(|then| major(then) > major(&version)) {
            return Err(
                server.failed(format!("is version {version}, older than {then} of the backup: nothing can restore that"))
            );
        }
        survey.tools.insert("PostgreSQL".into(), version);
        survey.tools.insert("pg_restore".into(), tool_version("pg_restore", work)?);
        survey.notes.push("the database is filled under another name first: so much room must be free".into());
        Ok(survey)
    }

    fn check(&self, fetched: &Fetched, work: &Work) -> Result<(), SourceError> {
        let path = fetched.part(DATABASE)?;
        let dump = File::open(path).map_err(|source| SourceError::Io { path: path.display().to_string(), source })?;
        // Reads all of it; listing its contents would not.
        let tool = Tool::new("pg_restore").args(["-f", "/dev/null"]);
        tool.judge(tool.run_with(dump, work)?).map(|_| ())
    }

    fn replace(&self, fetched: &Fetched, work: &Work) -> Result<(), SourceError> {
        restore::replace(&Server::new(self, work)?, fetched, work)
    }

    fn prove(&self, fetched: &Fetched, work: &Work) -> Result<Account, SourceError> {
        let server = Server::new(self, work)?;
        let mut session = server.session(&self.database)?;
        let account = session.count(Account { findings: work.noted(), ..Account::default() })?;
        let account = session.properties(account)?.or_missing(&fetched.account);
        Ok(account.tool("PostgreSQL", server.version(&self.database)?))
    }
}
