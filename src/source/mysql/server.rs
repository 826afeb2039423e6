//! A server of MariaDB or MySQL, spoken to by its own client: it knows every way to log in.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use super::grants::unescaped;
use super::restore::beside;
use super::{CHARSET, COLLATION, MysqlConfig, TABLES_COUNTED, UNFINISHED};
use crate::model::finding::{Finding, FindingKind};
use crate::model::path::escape;
use crate::source::SourceError;
use crate::source::beside::{NEW_SUFFIX, OLD_SUFFIX};
use crate::source::engine::Account;
use crate::source::secret::{Secret, SecretText};
use crate::source::tool::{Question, Tool};
use crate::source::work::Work;

/// The longest row that the programs take: the most that the protocol allows.
const PACKET: &str = "--max-allowed-packet=1G";
/// Before the name of a table whose values are compared as they are written.
pub const HASH_OF: &str = "hash of ";
/// Engines whose tables are read at one moment.
const TRANSACTIONAL: [&str; 2] = ["InnoDB", "RocksDB"];

/// A server within one piece of work.
pub struct Server<'a> {
    pub config: &'a MysqlConfig,
    pub work: &'a Work,
    password: Option<(PathBuf, SecretText)>,
}

/// A table as the server lists it.
pub struct Table {
    pub name: String,
    /// `BASE TABLE`, `SEQUENCE` or `SYSTEM VERSIONED`.
    pub kind: String,
    engine: String,
    pub about_rows: u64,
}

impl Table {
    /// Whether a checksum of it means something: a sequence has none, and a history is not in a dump.
    fn is_summed(&self) -> bool {
        self.kind == "BASE TABLE"
    }

    /// Whether it keeps the rows of the past.
    pub fn is_versioned(&self) -> bool {
        self.kind == "SYSTEM VERSIONED"
    }

    pub fn is_transactional(&self) -> bool {
        self.kind == "SEQUENCE" || TRANSACTIONAL.iter().any(|engine| self.engine.eq_ignore_ascii_case(engine))
    }
}

impl<'a> Server<'a> {
    pub fn new(config: &'a MysqlConfig, work: &'a Work) -> Result<Self, SourceError> {
        let password = config.password.as_ref().map(|secret| option_file(secret, work)).transpose()?;
        Ok(Self { config, work, password })
    }

    pub fn failed(&self, why: impl Into<String>) -> SourceError {
        SourceError::System { system: self.config.title(), why: why.into() }
    }

    /// One of the programs, told where the server is.
    pub fn tool(&self, program: &str) -> Tool {
        let config = self.config;
        let mut tool = Tool::new(program).without_env("MYSQL_PWD").without_env("MYSQL_HOST").without_env("MYSQL_TCP_PORT");
        if let Some((path, text)) = &self.password {
            // It must be the first argument.
            tool = tool.arg(format!("--defaults-extra-file={}", path.display())).hiding(text);
        }
        tool = tool.args(["--user", &config.user, "--default-character-set=utf8mb4", PACKET]);
        tool = if config.host.starts_with('/') {
            tool.args(["--protocol=socket", "--socket", &config.host])
        } else {
            tool.args(["--protocol=tcp", "--host", &config.host, "--port", &config.port.to_string()])
        };
        let asked = config.clone();
        tool.as_user(config.run_as.as_deref()).asking(Question::new(move |work| blocked(&asked, work)))
    }

    /// Runs statements; gives the rows. They do not stand in arguments, where others could read them.
    pub fn query(&self, database: Option<&str>, sql: &str) -> Result<Vec<Vec<String>>, SourceError> {
        let said = self.load(database, self.work.unnamed_file(sql.as_bytes())?)?;
        let text = String::from_utf8_lossy(&said);
        Ok(text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
    }

    /// Runs a script, from where the file stands. The client ends at the first statement that fails.
    pub fn load(&self, database: Option<&str>, script: File) -> Result<Vec<u8>, SourceError> {
        let tool = self.tool(self.config.client()).args(["--batch", "--skip-column-names"]);
        let tool = match database {
            Some(database) => tool.arg(format!("--database={database}")),
            None => tool,
        };
        tool.judge(tool.run_with(script, self.work)?)
    }

    /// The one value of an answer.
    fn value(&self, sql: &str) -> Result<String, SourceError> {
        let rows = self.query(None, sql)?;
        rows.into_iter()
            .next()
            .and_then(|row| row.into_iter().next())
            .ok_or_else(|| self.failed(format!("no answer to {sql}")))
    }

    /// The server's version.
    pub fn version(&self) -> Result<String, SourceError> {
        self.value("SELECT version();")
    }

    /// The longest statement that the server takes.
    pub fn packet_bytes(&self) -> Result<u64, SourceError> {
        let bytes = self.value("SELECT @@global.max_allowed_packet;")?;
        bytes.parse().map_err(|_| self.failed(format!("max_allowed_packet is {bytes}")))
    }

    /// Whether the server has a database of this name.
    pub fn has(&self, database: &str) -> Result<bool, SourceError> {
        let sql = format!("SELECT 1 FROM information_schema.schemata WHERE schema_name = {};", literal(database));
        Ok(!self.query(None, &sql)?.is_empty())
    }

    /// What is left of a restore that did not end: whether the database itself may be half of one, and how it is called.
    pub fn leftover(&self) -> Result<Option<(bool, String)>, SourceError> {
        let database = &self.config.database;
        let marks = format!("table_name = {} AND table_schema", literal(UNFINISHED));
        if !self.names("table_name", "tables", &marks, database)?.is_empty() {
            return Ok(Some((true, format!("the table {UNFINISHED} is there"))));
        }
        for (suffix, is_half) in [(OLD_SUFFIX, true), (NEW_SUFFIX, false)] {
            let name = beside(database, suffix);
            if self.has(&name)? {
                return Ok(Some((is_half, format!("the database {name} is there"))));
            }
        }
        Ok(None)
    }

    /// Everything but views, and but a mark of our own.
    pub fn tables(&self, database: &str) -> Result<Vec<Table>, SourceError> {
        let sql = format!(
            "SELECT table_name, table_type, coalesce(engine, ''), coalesce(table_rows, 0) FROM information_schema.tables \
             WHERE table_schema = {} AND table_type NOT LIKE '%VIEW' AND table_name <> {} ORDER BY table_name;",
            literal(database),
            literal(UNFINISHED)
        );
        let read = |row: Vec<String>| match <[String; 4]>::try_from(row) {
            Ok([name, kind, engine, rows]) if !name.contains('\\') => {
                Ok(Table { name, kind, engine, about_rows: rows.parse().unwrap_or_default() })
            }
            _ => Err(self.failed("has a table whose name holds a backslash or a tab: rename it")),
        };
        self.query(None, &sql)?.into_iter().map(read).collect()
    }

    /// Names from the information schema.
    pub fn names(&self, column: &str, table: &str, schema: &str, database: &str) -> Result<Vec<String>, SourceError> {
        let sql =
            format!("SELECT {column} FROM information_schema.{table} WHERE {schema} = {} ORDER BY 1;", literal(database));
        Ok(self.query(None, &sql)?.into_iter().flatten().collect())
    }

    /// Names of the views.
    pub fn views(&self, database: &str) -> Result<Vec<String>, SourceError> {
        self.names("table_name", "views", "table_schema", database)
    }

    /// Everything but tables: `views` -> `view named`.
    pub fn programs(&self, database: &str) -> Result<[(&'static str, Vec<String>); 4], SourceError> {
        let routine = "concat(lower(routine_type), ' ', routine_name)";
        Ok([
            ("views", self.names("concat('view ', table_name)", "views", "table_schema", database)?),
            ("triggers", self.names("concat('trigger ', trigger_name)", "triggers", "trigger_schema", database)?),
            ("routines", self.names(routine, "routines", "routine_schema", database)?),
            ("events", self.names("concat('event ', event_name)", "events", "event_schema", database)?),
        ])
    }

    /// Views that still stand on something, and those that do not.
    pub fn sort_views(&self, database: &str, names: Vec<String>) -> Result<(Vec<String>, Vec<String>), SourceError> {
        let (mut whole, mut broken) = (Vec::new(), Vec::new());
        for view in names {
            self.work.check()?;
            let asked = self.query(None, &format!("SHOW FIELDS FROM {}.{};", identifier(database), identifier(&view)));
            if asked.is_ok() { whole.push(view) } else { broken.push(view) }
        }
        Ok((whole, broken))
    }

    /// Rows and checksum of each table, and how the database was made; with `history`, rows of the past as well.
    pub fn count(&self, database: &str, history: bool) -> Result<Account, SourceError> {
        let (tables, floats) = (self.tables(database)?, self.floats(database)?);
        let mut account = Account::default().tool("server", self.version()?).proof(TABLES_COUNTED, tables.len());
        if tables.is_empty() {
            account = account.holding_nothing();
        }
        for table in tables {
            self.work.check()?;
            let name = format!("{}.{}", identifier(database), identifier(&table.name));
            let rows = self.value(&format!("SELECT count(*) FROM {name};"))?;
            if history && table.is_versioned() {
                let all = self.value(&format!("SELECT count(*) FROM {name} FOR SYSTEM_TIME ALL;"))?;
                let number = |text: &str| text.parse::<u64>().unwrap_or_default();
                account = account.proof(format!("history of {}", table.name), number(&all).saturating_sub(number(&rows)));
            }
            account = account.proof(format!("rows of {}", table.name), rows);
            if let Some(columns) = floats.get(&table.name).filter(|_| table.is_summed()) {
                let hash = self.hash(&name, &self.columns(database, &table.name)?)?;
                account = account.proof(format!("{HASH_OF}{}", table.name), hash);
                account.findings.push(rounded(&self.config.name, &table.name, columns));
            } else if table.is_summed() {
                let answer = self.query(None, &format!("CHECKSUM TABLE {name} EXTENDED;"))?;
                let sum = answer.first().and_then(|row| row.get(1)).filter(|sum| *sum != "NULL");
                let sum = sum.ok_or_else(|| self.failed(format!("gives no checksum of {}", table.name)))?;
                account = account.proof(format!("checksum of {}", table.name), sum);
            }
        }
        for (what, names) in self.programs(database)? {
            account = account.proof(what, names.len());
            for name in names {
                account = account.proof(name, "there");
            }
        }
        let of_schema = |column: &str| self.names(column, "schemata", "schema_name", database).map(|names| names.concat());
        Ok(account
            .proof(CHARSET, of_schema("default_character_set_name")?)
            .proof(COLLATION, of_schema("default_collation_name")?))
    }

    /// Columns of FLOAT, by table.
    fn floats(&self, database: &str) -> Result<BTreeMap<String, Vec<String>>, SourceError> {
        let sql = format!(
            "SELECT table_name, column_name FROM information_schema.columns WHERE data_type = 'float' AND table_schema = {} \
             ORDER BY table_name, ordinal_position;",
            literal(database)
        );
        let mut floats = BTreeMap::<String, Vec<String>>::new();
        for row in self.query(None, &sql)? {
            if let [table, column] = row.as_slice() {
                floats.entry(table.clone()).or_default().push(unescaped(column));
            }
        }
        Ok(floats)
    }

    /// Columns of a table that are not computed from others.
    fn columns(&self, database: &str, table: &str) -> Result<Vec<String>, SourceError> {
        let sql = format!(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = {} AND table_name = {} \
             AND extra NOT LIKE '%VIRTUAL GENERATED%' AND extra NOT LIKE '%STORED GENERATED%' ORDER BY ordinal_position;",
            literal(database),
            literal(table)
        );
        Ok(self.query(None, &sql)?.into_iter().flatten().map(|name| unescaped(&name)).collect())
    }

    /// A checksum of the values as they are written. CHECKSUM TABLE reads all digits of a FLOAT, and a dump has six.
    fn hash(&self, table: &str, columns: &[String]) -> Result<String, SourceError> {
        let values = columns.iter().map(|column| format!("COALESCE(MD5({}), '-')", identifier(column)));
        let values = values.collect::<Vec<_>>().join(", ");
        let sum = format!("SELECT COALESCE(SUM(CRC32(CONCAT_WS(',', {values}))), 0) FROM {table};");
        self.value(&format!("SET time_zone = '+00:00'; {sum}"))
    }

    /// mariadb-dump with what every dump needs. No date: unchanged data are unchanged bytes.
    pub fn dumper(&self, is_mysql: bool) -> Tool {
        let tool = self.tool(self.config.dumper()).args([
            "--single-transaction",
            "--quick",
            "--hex-blob",
            "--order-by-primary",
            "--skip-dump-date",
            "--no-tablespaces",
        ]);
        // Oracle's program asks for more than a backup needs, and writes what no other server loads.
        if is_mysql { tool.args(["--set-gtid-purged=OFF", "--column-statistics=0"]) } else { tool }
    }
}

/// What our sessions with this database wait for, and who is at work in it: the server does not say who holds the lock.
fn blocked(config: &MysqlConfig, work: &Work) -> Option<String> {
    let server = Server::new(config, work).ok()?;
    let database = literal(&config.database);
    let ours = format!(
        "user = substring_index(current_user(), '@', 1) AND (db IS NULL OR db = {database}) AND state LIKE 'Waiting for %lock%'"
    );
    let sessions = "FROM information_schema.processlist WHERE id <> connection_id() AND";
    let state = server.query(None, &format!("SELECT state {sessions} {ours} ORDER BY time DESC LIMIT 1;")).ok()?;
    let state = state.into_iter().flatten().next()?;
    let others = format!(
        "SELECT concat('session ', id, ' of ', user, ' (', command, ' for ', time, ' s)') {sessions} db = {database} \
         AND NOT ({ours}) ORDER BY time DESC LIMIT 5;"
    );
    let others: Vec<String> = server.query(None, &others).unwrap_or_default().into_iter().flatten().collect();
    let others = if others.is_empty() { String::new() } else { format!("; in this database are {}", others.join(", ")) };
    Some(escape(format!("the server says {state:?}{others}").as_bytes()))
}

fn rounded(member: &str, table: &str, columns: &[String]) -> Finding {
    let why = format!("FLOAT ({}) is kept to the six digits that a dump writes; DOUBLE keeps all", columns.join(", "));
    Finding::new(FindingKind::Notice, format!("{member} {table}"), why)
}

/// The password in a file that nobody else may read, as the programs' option files have it.
fn option_file(secret: &Secret, work: &Work) -> Result<(PathBuf, SecretText), SourceError> {
    let text = secret.read()?;
    let (path, mut file) = work.new_file("client.cnf")?;
    let wrong = |source| SourceError::Io { path: path.display().to_string(), source };
    let quoted = SecretText::new(text.expose().replace('\\', "\\\\").replace('"', "\\\""));
    writeln!(file, "[client]\npassword=\"{}\"", quoted.expose()).map_err(wrong)?;
    Ok((path, text))
}

/// A text within a statement, whichever mode the server is in.
pub fn literal(text: &str) -> String {
    let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("_utf8mb4 x'{hex}'")
}

/// A name within a statement.
pub fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_cannot_leave_their_quotes() {
        assert_eq!(identifier("a`; DROP DATABASE b; --"), "`a``; DROP DATABASE b; --`");
        assert_eq!(literal("a'"), "_utf8mb4 x'6127'");
    }
}
