//! What a dump says of its database as a whole: how it was made, its comment, rights on it and its settings. pg_restore
//! gives them only to a database that it makes itself, under the name in the dump.

use std::fs;

use super::DATABASE;
use super::server::{Server, identifier, literal};
use crate::model::finding::{Finding, FindingKind};
use crate::model::path::escape;
use crate::source::SourceError;
use crate::source::engine::Fetched;
use crate::source::tool::Tool;
use crate::source::work::Work;

/// Entries of the dump's list that speak of the database, by what follows the three numbers.
const KINDS: [&str; 5] =
    ["DATABASE - ", "COMMENT - DATABASE ", "DATABASE PROPERTIES - ", "ACL - DATABASE ", "SECURITY LABEL - DATABASE "];
/// Settings without which the other statements would be read as something else.
const SETTINGS: [&[u8]; 2] = [b"SET client_encoding ", b"SET standard_conforming_strings "];
const CREATE: &[u8] = b"CREATE DATABASE ";
/// Where a database lies; the last that pg_dump says of how it is made.
const TABLESPACE: &[u8] = b" TABLESPACE = ";
/// Around what another role than the owner granted.
const AS_ANOTHER: &[u8] = b"SET SESSION AUTHORIZATION ";
const AS_OURSELVES: &[u8] = b"RESET SESSION AUTHORIZATION";

/// Statements about a database, in the bytes of the dump, which may be of any encoding.
#[derive(Debug, Default)]
pub struct Properties {
    settings: Vec<Vec<u8>>,
    create: Option<Statement>,
    /// Each alone, but what goes with the role that granted it.
    statements: Vec<Vec<Statement>>,
}

/// One statement, without its semicolon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Statement {
    text: Vec<u8>,
    /// Where the name of its database stands.
    name: Option<(usize, usize)>,
    /// Where its first value begins: none is shown.
    value: Option<usize>,
    /// psql would take something in it for a command of its own.
    strange: bool,
}

impl Properties {
    /// Takes them out of the dump.
    pub fn of(fetched: &Fetched, work: &Work) -> Result<Self, SourceError> {
        let dump = fetched.part(DATABASE)?;
        let (list, script) = (work.scratch.join("properties.list"), work.scratch.join("properties.sql"));
        let wrong = |source| SourceError::Io { path: work.scratch.display().to_string(), source };
        // Into files: a list may be longer than what is kept of an output.
        Tool::new("pg_restore").args(["-C", "-l", "-f"]).arg(&list).arg(dump).succeed(work)?;
        let wanted = wanted(&fs::read(&list).map_err(wrong)?);
        if wanted.is_empty() {
            return Ok(Self::default());
        }
        fs::write(&list, wanted).map_err(wrong)?;
        Tool::new("pg_restore").args(["-C", "-L"]).arg(&list).arg("-f").arg(&script).arg(dump).succeed(work)?;
        Ok(Self::read(&fs::read(&script).map_err(wrong)?))
    }

    fn read(script: &[u8]) -> Self {
        let mut read = Self::default();
        let mut as_another = Vec::new();
        for statement in statements(script) {
            let is = |start: &[u8]| statement.text.starts_with(start);
            if SETTINGS.iter().any(|setting| is(setting)) {
                if !read.settings.contains(&statement.text) {
                    read.settings.push(statement.text);
                }
            } else if is(AS_ANOTHER) {
                as_another = vec![statement];
            } else if is(AS_OURSELVES) {
                as_another.push(statement);
                read.statements.push(std::mem::take(&mut as_another));
            } else if is(CREATE) {
                read.create = Some(statement);
            } else if statement.name.is_none() {
                // What pg_restore sets for itself.
            } else if as_another.is_empty() {
                read.statements.push(vec![statement]);
            } else {
                as_another.push(statement);
            }
        }
        if !as_another.is_empty() {
            read.statements.push(as_another);
        }
        read
    }

    /// Makes an empty database `name` as the dumped one was made, in the words of the pg_dump that knew its server: they
    /// name the provider of its locale where there is a choice. False where the dump has no such words.
    pub fn create(&self, server: &Server<'_>, name: &str, owner: Option<&str>, work: &Work) -> Result<bool, SourceError> {
        let Some(mut create) = self.create.clone() else { return Ok(false) };
        if let Some((at, tablespace)) = create.tablespace() {
            let sql = format!(
                "SELECT 1 FROM pg_catalog.pg_tablespace WHERE spcname = {} AND has_tablespace_privilege(oid, 'CREATE');",
                literal(&tablespace)
            );
            if server.query(&server.config.maintenance, &sql)?.is_empty() {
                create.text.truncate(at);
                let message = format!(
                    "the database was in tablespace {}, which is not there or not for this role: it is in the default one",
                    escape(tablespace.as_bytes())
                );
                work.note(Finding::new(FindingKind::Target, &server.config.name, message));
            }
        }
        if let Some(owner) = owner {
            create.text.extend(format!(" OWNER = {}", identifier(owner)).bytes());
        }
        let Some(sql) = create.of(name) else {
            return Err(server.failed("the dump does not say in words that can be understood how its database is made"));
        };
        match server.connected(&server.config.maintenance)?.attempt(&sql)? {
            None => Ok(true),
            Some(why) => Err(server.failed(format!("cannot make a database like the dumped one: {why}"))),
        }
    }

    /// Gives them to the database `name`. What the server does not take is a finding.
    pub fn apply(&self, server: &Server<'_>, name: &str, work: &Work) -> Result<(), SourceError> {
        if self.statements.is_empty() {
            return Ok(());
        }
        // Within it, as the dump was made: what all databases share has no encoding of its own.
        let mut session = server.connected(name)?;
        for setting in &self.settings {
            session.attempt(setting)?;
        }
        for together in &self.statements {
            for statement in together {
                let refused = match statement.of(name) {
                    Some(sql) => session.attempt(&sql)?,
                    None => Some("it cannot be told from a command of psql".to_owned()),
                };
                if let Some(why) = refused {
                    let about = together.iter().find(|statement| statement.name.is_some()).unwrap_or(statement).shown();
                    let message = format!("the database is back, and this could not be done for it: {about}: {why}");
                    work.note(Finding::new(FindingKind::Target, &server.config.name, message));
                    session.attempt(AS_OURSELVES)?;
                    break;
                }
            }
        }
        Ok(())
    }
}

impl Statement {
    /// The same about the database `name`.
    fn of(&self, name: &str) -> Option<Vec<u8>> {
        if self.strange {
            return None;
        }
        let Some((from, to)) = self.name else { return Some(self.text.clone()) };
        Some([&self.text[..from], identifier(name).as_bytes(), &self.text[to..]].concat())
    }

    /// The tablespace that it names, and where it does.
    fn tablespace(&self) -> Option<(usize, String)> {
        let (_, after) = self.name?;
        let at = after + self.text[after..].windows(TABLESPACE.len()).position(|words| words == TABLESPACE)?;
        let name = String::from_utf8_lossy(&self.text[at + TABLESPACE.len()..]).into_owned();
        let bare = name.strip_prefix('"').and_then(|name| name.strip_suffix('"')).map(|name| name.replace("\"\"", "\""));
        Some((at, bare.unwrap_or(name)))
    }

    /// All of it that may be shown.
    fn shown(&self) -> String {
        let text = escape(&self.text[..self.value.unwrap_or(self.text.len())]);
        let text = text.trim_end();
        text.strip_suffix(" TO").or_else(|| text.strip_suffix(" IS")).unwrap_or(text).to_owned()
    }
}

/// The lines of the dump's list that speak of the database.
fn wanted(list: &[u8]) -> Vec<u8> {
    let is_wanted = |line: &&[u8]| {
        // `3342; 0 0 DATABASE PROPERTIES - events app`
        let kind = line.splitn(4, |b| *b == b' ').nth(3).unwrap_or_default();
        !line.starts_with(b";") && KINDS.iter().any(|wanted| kind.starts_with(wanted.as_bytes()))
    };
    list.split_inclusive(|b| *b == b'\n').filter(is_wanted).collect::<Vec<_>>().concat()
}

/// The statements of a script that pg_restore wrote: without comments, and without the commands to psql between them.
fn statements(script: &[u8]) -> Vec<Statement> {
    let (mut all, mut now, mut at) = (Vec::new(), Statement::default(), 0);
    let mut expects_name = false;
    while at < script.len() {
        let rest = &script[at..];
        let line = || rest.iter().position(|b| *b == b'\n').map_or(rest.len(), |end| end + 1);
        let start = now.text.len();
        if rest.starts_with(b"--") || (rest[0] == b'\\' && now.text.is_empty()) {
            at += line();
            continue;
        }
        let length = match rest[0] {
            b';' => {
                all.push(std::mem::take(&mut now));
                expects_name = false;
                at += 1;
                continue;
            }
            quote @ (b'\'' | b'"') => quoted(rest, quote, script[..at].ends_with(b"E")),
            byte if is_of_word(byte) => rest.iter().position(|b| !is_of_word(*b)).unwrap_or(rest.len()),
            _ => 1,
        };
        let token = &rest[..length];
        let is_name = token[0] == b'"' || is_of_word(token[0]);
        if expects_name && is_name {
            now.name = Some((start, start + length));
            expects_name = false;
        } else if token == b"DATABASE" && now.name.is_none() {
            // Names that stand without quotes are in small letters.
            expects_name = true;
        } else if token[0] == b'\'' {
            now.value = now.value.or(Some(start - usize::from(now.text.ends_with(b"E"))));
        }
        now.strange |= token[0] == b'\\';
        if !(now.text.is_empty() && token[0].is_ascii_whitespace()) {
            now.text.extend(token);
        }
        at += length;
    }
    all
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

/// How long what stands in quotes is, they included.
fn quoted(text: &[u8], quote: u8, has_escapes: bool) -> usize {
    let mut at = 1;
    while at < text.len() {
        match text[at] {
            b'\\' if has_escapes => at += 2,
            byte if byte == quote && text.get(at + 1) == Some(&quote) => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(script: &str) -> (Vec<String>, Vec<String>) {
        let read = Properties::read(script.as_bytes());
        let of = |statement: &Statement| statement.of("it's \"new\"").unwrap_or_else(|| b"strange".to_vec());
        let about = |together: &Vec<Statement>| {
            together
                .iter()
                .map(|statement| String::from_utf8_lossy(&of(statement)).into_owned())
                .collect::<Vec<_>>()
                .join("|")
        };
        (read.statements.iter().map(about).collect(), read.statements.iter().flatten().map(Statement::shown).collect())
    }

    #[test]
    fn statements_are_about_the_other_database_and_values_stay_as_they_are_and_are_not_shown() {
        let script = "-- Name: DATABASE x; it's\n\\restrict key\nSET client_encoding = 'UTF8';\nSET row_security = off;\n\
            ALTER DATABASE events CONNECTION LIMIT = 7;\n\\connect events\n\
            ALTER ROLE database IN DATABASE \"a \"\"b; DATABASE\" SET \"app.key\" TO 'it''s; \\ \"DATABASE x\"', '';\n\
            COMMENT ON DATABASE events IS E'one\\'; \\\\\ntwo';\n\
            SET SESSION AUTHORIZATION \"DATABASE\";\nGRANT CONNECT ON DATABASE events TO app;\n\
            RESET SESSION AUTHORIZATION;\n\
            ALTER DATABASE events SET x TO 1 \\! date;\n";
        let (statements, shown) = read(script);
        let new = r#""it's ""new""""#;
        assert_eq!(statements[0], format!("ALTER DATABASE {new} CONNECTION LIMIT = 7"));
        let role = format!(r#"ALTER ROLE database IN DATABASE {new} SET "app.key" TO 'it''s; \ "DATABASE x"', ''"#);
        assert_eq!(statements[1], role);
        assert_eq!(statements[2], format!("COMMENT ON DATABASE {new} IS E'one\\'; \\\\\ntwo'"));
        let grant = format!("GRANT CONNECT ON DATABASE {new} TO app");
        assert_eq!(statements[3], format!("SET SESSION AUTHORIZATION \"DATABASE\"|{grant}|RESET SESSION AUTHORIZATION"));
        assert_eq!((statements[4].as_str(), statements.len()), ("strange", 5));
        assert_eq!(shown[1], r#"ALTER ROLE database IN DATABASE "a ""b; DATABASE" SET "app.key""#);
        assert_eq!(shown[2], "COMMENT ON DATABASE events");
    }

    #[test]
    fn of_a_list_only_what_speaks_of_the_database_is_wanted() {
        let list = "; 1; 0 0 ACL - DATABASE x y\n1; 1262 5 SCHEMA - hearth-dev app\n6; 1262 9 DATABASE - hearth-dev app\n\
            7; 0 0 COMMENT - DATABASE \"hearth-dev\" app\n8; 0 0 COMMENT - SCHEMA public app\n\
            2; 0 0 ACL - DATABASE \"hearth-dev\" app\n3; 0 0 DATABASE PROPERTIES - a b\n4; 0 0 ACL - SCHEMA DATABASE app\n\
            5; 1259 7 TABLE ACL - DATABASE app\n";
        let lines = String::from_utf8_lossy(&wanted(list.as_bytes())).into_owned();
        assert_eq!(lines.lines().map(|line| &line[..1]).collect::<String>(), "6723");
    }
}
