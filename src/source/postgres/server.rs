//! A server of PostgreSQL, spoken to by its own programs: they know every way to log in.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::PostgresConfig;
use crate::model::path::escape;
use crate::source::SourceError;
use crate::source::engine::{Account, PartRead};
use crate::source::secret::SecretText;
use crate::source::tool::{Question, Running, Tool, redact};
use crate::source::work::Work;

/// How the server knows our sessions.
const APPLICATION: &str = "farkeep";
/// Between the columns of an answer: in no name and no number.
const COLUMN: char = '\u{1f}';
/// An answer is kept up to here: a line a table.
const ANSWER_MAX_BYTES: usize = 64 * 1024 * 1024;
/// What must be the same for a row to be the same text everywhere.
const SETTINGS: &str = "SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'; SET bytea_output = 'hex'; \
     SET extra_float_digits = 3; SET row_security = off; SET statement_timeout = 0; SET lock_timeout = 0; \
     SET idle_in_transaction_session_timeout = 0; SET search_path = '';";
/// For each table one statement that counts its rows and adds up their hashes: no order changes the sum. Tables that belong to
/// an extension come back with it.
const TABLES: &str = "SELECT format('SELECT %L, count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM %I.%I t', \
     format('%I.%I', n.nspname, c.relname), n.nspname, c.relname) FROM pg_catalog.pg_class c \
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass \
     AND d.objid = c.oid AND d.deptype = 'e') ORDER BY 1 \\gexec";

/// A server within one piece of work.
pub struct Server<'a> {
    pub config: &'a PostgresConfig,
    work: &'a Work,
    password: Option<(PathBuf, SecretText)>,
}

impl<'a> Server<'a> {
    pub fn new(config: &'a PostgresConfig, work: &'a Work) -> Result<Self, SourceError> {
        let mut password = None;
        if let Some(secret) = &config.password {
            let text = secret.read()?;
            // libpq takes it from a file that nobody else may read, and a colon or a backslash of it behind a backslash.
            let escaped = SecretText::new(text.expose().replace('\\', "\\\\").replace(':', "\\:"));
            let (path, mut file) = work.new_file("pgpass")?;
            let wrong = |source| SourceError::Io { path: path.display().to_string(), source };
            writeln!(file, "*:*:*:*:{}", escaped.expose()).map_err(wrong)?;
            password = Some((path, text));
        }
        Ok(Self { config, work, password })
    }

    pub fn failed(&self, why: impl Into<String>) -> SourceError {
        SourceError::System { system: self.config.title(), why: why.into() }
    }

    /// One of PostgreSQL's programs, told where the server is and never to ask for a password.
    pub fn tool(&self, program: &str) -> Tool {
        let config = self.config;
        let mut tool =
            Tool::new(program).args(["-w", "-h", &config.host, "-p", &config.port.to_string(), "-U", &config.user]);
        tool =
            tool.env("PGAPPNAME", APPLICATION).without_env("PGPASSWORD").without_env("PGSERVICE").without_env("PGOPTIONS");
        if let Some((path, text)) = &self.password {
            tool = tool.env("PGPASSFILE", path).hiding(text);
        }
        let asked = config.clone();
        tool.as_user(config.run_as.as_deref()).asking(Question::new(move |work| blocked(&asked, work)))
    }

    fn psql(&self, database: &str) -> Tool {
        let separator = format!("--field-separator={COLUMN}");
        self.tool("psql").args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", &separator, "-d", database])
    }

    /// Runs statements; gives the rows.
    pub fn query(&self, database: &str, sql: &str) -> Result<Vec<Vec<String>>, SourceError> {
        let tool = self.psql(database);
        let ended = tool.run_with(self.script(sql)?, self.work)?;
        Ok(rows(&String::from_utf8_lossy(&tool.judge(ended).map_err(|error| self.named(error))?)))
    }

    /// libpq names the file that it had the password from: a copy, which nobody would find.
    fn named(&self, error: SourceError) -> SourceError {
        match (error, &self.password, &self.config.password) {
            (SourceError::Command { command, why }, Some((copy, _)), Some(secret)) => {
                let why = why.replace(&copy.display().to_string(), &secret.to_string());
                SourceError::Command { command, why }
            }
            (error, ..) => error,
        }
    }

    /// Runs a script as it is.
    pub fn run_script(&self, database: &str, sql: &str) -> Result<(), SourceError> {
        self.query(database, sql).map(|_| ())
    }

    /// A file to be read as standard input: statements do not stand in arguments, where others could read them. It has no name:
    /// questions are asked side by side.
    fn script(&self, sql: &str) -> Result<File, SourceError> {
        self.work.unnamed_file(sql.as_bytes())
    }

    /// The server's version.
    pub fn version(&self, database: &str) -> Result<String, SourceError> {
        let rows = self.query(database, "SHOW server_version;")?;
        let text = rows.first().and_then(|row| row.first()).cloned().unwrap_or_default();
        // Debian adds its own after a space.
        Ok(text.split(' ').next().unwrap_or_default().to_owned())
    }

    /// Whether the server has a database of this name.
    pub fn has(&self, database: &str) -> Result<bool, SourceError> {
        let sql = format!("SELECT 1 FROM pg_catalog.pg_database WHERE datname = {};", literal(database));
        Ok(!self.query(&self.config.maintenance, &sql)?.is_empty())
    }

    /// Rows and hashes of every table, in a transaction of its own.
    pub fn count(&self, database: &str) -> Result<Account, SourceError> {
        let mut session = self.session(database)?;
        session.count(Account::default())
    }

    /// A transaction that sees one moment as long as it lives.
    pub fn session(&self, database: &str) -> Result<Session, SourceError> {
        let mut session = self.connected(database)?;
        session.ask(format!("{SETTINGS} BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"))?;
        Ok(session)
    }

    /// A connection that stays.
    pub fn connected(&self, database: &str) -> Result<Session, SourceError> {
        let (reader, writer) = std::io::pipe().map_err(|e| self.failed(e.to_string()))?;
        let psql = self.psql(database).stream_with(File::from(OwnedFd::from(reader)), self.work)?;
        Ok(Session { psql, writer, title: self.config.title(), buffer: Vec::new() })
    }
}

/// A psql that waits for the next statement.
pub struct Session {
    psql: Running,
    writer: std::io::PipeWriter,
    title: String,
    buffer: Vec<u8>,
}

impl Session {
    /// What other sessions need to see the same moment.
    pub fn export(&mut self) -> Result<String, SourceError> {
        let rows = self.ask("SELECT pg_catalog.pg_export_snapshot();")?;
        let id = rows.first().and_then(|row| row.first()).cloned();
        id.ok_or_else(|| self.failed("exports no snapshot"))
    }

    /// Adds rows and hashes of every table to `account`.
    pub fn count(&mut self, mut account: Account) -> Result<Account, SourceError> {
        let tables = self.ask(TABLES)?;
        let holds_tables = !tables.is_empty();
        for row in tables {
            let [table, rows, hash] = row.as_slice() else {
                return Err(self.failed("gave an answer that cannot be understood"));
            };
            account = account.proof(format!("rows of {table}"), rows).proof(format!("hash of {table}"), hash);
        }
        let objects = self.ask("SELECT count(*) FROM pg_catalog.pg_largeobject_metadata;")?;
        let objects = objects.first().and_then(|row| row.first()).cloned().unwrap_or_default();
        let account = if holds_tables || objects != "0" { account } else { account.holding_nothing() };
        Ok(account.proof("large objects", objects))
    }

    /// How a database like this one is made.
    pub fn properties(&mut self, account: Account) -> Result<Account, SourceError> {
        let sql = "SELECT pg_catalog.pg_encoding_to_char(encoding), datcollate, datctype, pg_catalog.pg_get_userbyid(datdba) \
                   FROM pg_catalog.pg_database WHERE datname = current_database();";
        match self.ask(sql)?.first().map(Vec::as_slice) {
            Some([encoding, collate, ctype, owner]) => Ok(account
                .proof(super::ENCODING, encoding)
                .proof(super::COLLATE, collate)
                .proof(super::CTYPE, ctype)
                .proof(super::OWNER, owner)),
            _ => Err(self.failed("does not describe its database")),
        }
    }

    fn failed(&self, why: &str) -> SourceError {
        SourceError::System { system: self.title.clone(), why: why.to_owned() }
    }

    /// Sends a statement without its semicolon; gives what the server said if it refused. The session goes on in any case.
    pub fn attempt(&mut self, statement: &[u8]) -> Result<Option<String>, SourceError> {
        let sql = [b"\\set ON_ERROR_STOP off\n", statement, b";\n\\echo :ERROR :LAST_ERROR_MESSAGE"].concat();
        let said: Vec<String> = self.ask(sql)?.into_iter().flatten().collect();
        match said.join(" ").split_once(' ') {
            Some(("false", _)) => Ok(None),
            Some(("true", why)) => Ok(Some(redact(why.as_bytes(), &[]))),
            _ => Err(self.failed("gave an answer that cannot be understood")),
        }
    }

    /// Sends statements and waits for all that they give.
    fn ask(&mut self, sql: impl AsRef<[u8]>) -> Result<Vec<Vec<String>>, SourceError> {
        const END: &str = "-- farkeep: end of answer";
        let end_of_answer = format!("\n\\echo '{END}'\n");
        let sent = self.writer.write_all(sql.as_ref()).and_then(|()| self.writer.write_all(end_of_answer.as_bytes()));
        let end = format!("{END}\n");
        self.buffer.clear();
        while sent.is_ok() && !self.buffer.ends_with(end.as_bytes()) {
            let mut piece = [0; 8192];
            match self.psql.read(&mut piece)? {
                0 => break,
                count if self.buffer.len() + count <= ANSWER_MAX_BYTES => self.buffer.extend(&piece[..count]),
                _ => return Err(self.failed("gave too long an answer")),
            }
        }
        let Some(answer) = self.buffer.strip_suffix(end.as_bytes()) else {
            // psql has ended, and says why.
            self.psql.finish()?;
            return Err(self.failed("psql ended before its answer"));
        };
        Ok(rows(&String::from_utf8_lossy(answer)))
    }
}

/// Whom our sessions with this database wait for.
fn blocked(config: &PostgresConfig, work: &Work) -> Option<String> {
    let sql = format!(
        "SELECT DISTINCT blocking, coalesce(b.usename, '?'), coalesce(b.application_name, ''), coalesce(b.state, '?'), \
         coalesce(extract(epoch FROM now() - b.xact_start)::bigint, 0) FROM pg_catalog.pg_stat_activity w \
         CROSS JOIN LATERAL unnest(pg_catalog.pg_blocking_pids(w.pid)) blocking \
         LEFT JOIN pg_catalog.pg_stat_activity b ON b.pid = blocking \
         WHERE w.application_name = {} AND w.usename = current_user AND w.datname = {} ORDER BY 1;",
        literal(APPLICATION),
        literal(&config.database)
    );
    let server = Server::new(config, work).ok()?;
    let rows = server.query(&config.maintenance, &sql).ok()?;
    let name = |row: Vec<String>| match <[String; 5]>::try_from(row) {
        Ok([pid, ..]) if pid == "0" => Some("a prepared transaction".to_owned()),
        Ok([pid, user, program, state, secs]) => {
            let program = escape(program.as_bytes());
            Some(format!(
                "session {pid} of {} ({program}, {state}, in its transaction for {secs} s)",
                escape(user.as_bytes())
            ))
        }
        Err(_) => None,
    };
    let blocking: Vec<String> = rows.into_iter().filter_map(name).collect();
    if blocking.is_empty() { None } else { Some(format!("it waits for a lock that is held by {}", blocking.join(", "))) }
}

fn rows(text: &str) -> Vec<Vec<String>> {
    text.lines().filter(|line| !line.is_empty()).map(|line| line.split(COLUMN).map(str::to_owned).collect()).collect()
}

/// A text within a statement.
pub fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// A name within a statement.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_cannot_leave_their_quotes() {
        assert_eq!(identifier(r#"a"; DROP DATABASE b; --"#), r#""a""; DROP DATABASE b; --""#);
        assert_eq!(literal(r"it's \"), r"E'it''s \\'");
    }
}
