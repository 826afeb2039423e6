//! What an account may see. A server hides the rest from its lists and from a dump alike, so no count would tell.
//!
//! SHOW GRANTS does not tell all: what was granted on a database to `u@'%'` holds for who logged in as `u@localhost` too, where
//! that account has nothing nearer, and is not in its list. So the server itself is asked, by statements about a table that is not
//! there: it refuses who may not before it looks for the table. The list says what is missing, and judges where that cannot be.

use std::collections::{BTreeMap, BTreeSet};

use super::server::{Server, identifier};
use crate::source::SourceError;

/// What the whole database must be readable with.
const ON_DATABASE: [&str; 4] = ["SELECT", "SHOW VIEW", "TRIGGER", "EVENT"];

/// What the server says of an account.
#[derive(Debug, PartialEq, Eq)]
pub enum Sight {
    /// It sees all of the database.
    Whole,
    /// It does not; which privileges are missing, and the statements that give them.
    Part(String),
    /// It cannot be told; why.
    Unknown(String),
}

/// How a server lets routines be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Routines {
    /// MariaDB, and MySQL before 8: whoever reads the table that they stand in.
    Table,
    /// MySQL 8.
    Global,
}

/// What the server answered, by privilege, with SELECT on mysql.proc among them.
type Seen = BTreeMap<&'static str, bool>;

/// A table that is in no database.
const NO_TABLE: &str = "farkeep_no_such_table";
/// What the server says of it to whom it may tell, and to whom not: on a table, on a column, on a database.
const NOT_THERE: &str = "ERROR 1146";
const DENIED: [&str; 3] = ["ERROR 1142", "ERROR 1143", "ERROR 1044"];
/// An answer is waited for so long: DDL waits for whoever locks all tables, in MariaDB for a day.
const LOCK_WAIT_SECS: u32 = 5;
/// The key of routines.
const PROC: &str = "SELECT on mysql.proc (for routines)";

/// A line of SHOW GRANTS.
#[derive(Debug, PartialEq, Eq)]
struct Grant {
    /// Taken away again, by a partial revoke of MySQL 8.
    is_revoked: bool,
    privileges: Vec<String>,
    /// A pattern; `*` for all.
    database: String,
    /// `*`, or a table.
    table: String,
    /// The account or the role.
    to: String,
}

impl Grant {
    fn gives(&self, privilege: &str) -> bool {
        self.privileges.iter().any(|given| given == privilege || given == "ALL PRIVILEGES" || given == "ALL")
    }
}

/// Whether the account sees the whole database.
pub fn sight(server: &Server<'_>) -> Sight {
    let asked = || -> Result<(Vec<Grant>, String, Routines), String> {
        let rows = |sql: &str| server.query(None, sql).map_err(|error| error.to_string());
        let first = |sql: &str| Ok::<_, String>(rows(sql)?.into_iter().flatten().next().unwrap_or_default());
        let version = first("SELECT version();")?;
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok()).unwrap_or_default();
        let routines = if version.contains("MariaDB") || major < 8 { Routines::Table } else { Routines::Global };
        let lines = rows("SHOW GRANTS;")?.into_iter().map(|row| unescaped(&row.join("\t")));
        Ok((lines.filter_map(|line| parse(&line)).collect(), account(&first("SELECT current_user();")?), routines))
    };
    match asked() {
        Ok((grants, _, _)) if grants.is_empty() => Sight::Unknown("SHOW GRANTS says nothing that is understood".into()),
        Ok((grants, account, routines)) => {
            let database = &server.config.database;
            let seen = seen(server, routines, &|privilege| held(&grants, privilege, database));
            judge(&grants, database, &account, routines, &seen)
        }
        Err(error) => Sight::Unknown(error),
    }
}

/// Asks the server, as far as it can be asked.
fn seen(server: &Server<'_>, routines: Routines, listed: &dyn Fn(&str) -> bool) -> Seen {
    let database = identifier(&server.config.database);
    let mut seen = Seen::new();
    let ask = |sql: &str| match server.query(None, &format!("SET lock_wait_timeout = {LOCK_WAIT_SECS}; {sql}")) {
        Ok(_) => Some(true),
        Err(SourceError::Command { why, .. }) if why.contains(NOT_THERE) => Some(true),
        Err(SourceError::Command { why, .. }) if DENIED.iter().any(|denied| why.contains(denied)) => Some(false),
        Err(_) => None,
    };
    let mut note = |privilege: &'static str, may: Option<bool>| seen.extend(may.map(|may| (privilege, may)));
    let selects = ask(&format!("SELECT * FROM {database}.{NO_TABLE} LIMIT 0;"));
    note("SELECT", selects);
    note("EVENT", ask(&format!("SHOW EVENTS FROM {database} LIKE '{NO_TABLE}';")));
    if routines == Routines::Table {
        note(PROC, ask("SELECT * FROM mysql.proc LIMIT 0;"));
    }
    if selects == Some(true) && !listed("TRIGGER") {
        // It can come to nothing: there is no such table, and no such column in it.
        let on = format!("BEFORE INSERT ON {database}.{NO_TABLE} FOR EACH ROW SET NEW.{NO_TABLE} = 1");
        note("TRIGGER", ask(&format!("CREATE TRIGGER {database}.{NO_TABLE} {on};")));
    }
    if selects == Some(true) && !listed("SHOW VIEW") {
        // Of a view that is not there it says nothing. Who reads all tables sees the names of all views.
        let views = server.views(&server.config.database).unwrap_or_default();
        note(
            "SHOW VIEW",
            on_all(views.iter().map(|view| ask(&format!("SHOW CREATE VIEW {database}.{};", identifier(view))))),
        );
    }
    seen
}

/// What holds of all: the first answer that is not yes.
fn on_all(answers: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut all = None;
    for answer in answers {
        all = answer;
        if answer != Some(true) {
            break;
        }
    }
    all
}

fn judge(grants: &[Grant], database: &str, account: &str, routines: Routines, seen: &Seen) -> Sight {
    let listed = |privilege: &str| held(grants, privilege, database);
    let may = |privilege: &&str| seen.get(privilege).copied().unwrap_or_else(|| listed(privilege));
    let missing: Vec<&str> = ON_DATABASE.into_iter().filter(|privilege| !may(privilege)).collect();
    let globally = |privilege: &str| grants.iter().any(|g| g.database == "*" && g.gives(privilege) && !g.is_revoked);
    let of_proc = |g: &Grant| g.database == "mysql" && g.table == "proc" && g.gives("SELECT");
    let (sees_routines, what, statement) = match routines {
        Routines::Table => (
            seen.get(PROC).copied().unwrap_or_else(|| held(grants, "SELECT", "mysql") || grants.iter().any(of_proc))
                || listed("SHOW CREATE ROUTINE"),
            PROC,
            format!("GRANT SELECT ON mysql.proc TO {account};"),
        ),
        Routines::Global => (
            globally("SELECT") || globally("SHOW_ROUTINE"),
            "SHOW_ROUTINE (for routines)",
            format!("GRANT SHOW_ROUTINE ON *.* TO {account};"),
        ),
    };
    // Who may call them all sees their names; then a body that is hidden stops the dump, and nothing is lost unheard.
    let sees_routines = sees_routines || listed("EXECUTE");
    if missing.is_empty() && sees_routines {
        return Sight::Whole;
    }
    let mut statements = Vec::new();
    if !missing.is_empty() {
        let pattern = identifier(database).replace('\\', "\\\\").replace('_', "\\_").replace('%', "\\%");
        // A grant to this very account hides those that another one shares with it: all that it does not have itself.
        let wanted: Vec<&str> = ON_DATABASE.into_iter().filter(|p| missing.contains(p) || !listed(p)).collect();
        statements.push(format!("GRANT {} ON {pattern}.* TO {account};", wanted.join(", ")));
    }
    let mut named: Vec<String> = missing.iter().map(|privilege| format!("{privilege} on the whole database")).collect();
    if !sees_routines {
        named.push(what.to_owned());
        statements.push(statement);
    }
    Sight::Part(format!("{}; give it: {}", named.join(", "), statements.join(" ")))
}

/// Whether a privilege holds on all of a database. Of several patterns that fit, the server takes the one that says most.
fn held(grants: &[Grant], privilege: &str, database: &str) -> bool {
    let of_database = |g: &&Grant| g.table == "*" && g.database != "*" && fits(&g.database, database);
    let is_revoked = grants.iter().filter(of_database).any(|g| g.is_revoked && g.gives(privilege));
    if !is_revoked && grants.iter().any(|g| g.database == "*" && !g.is_revoked && g.gives(privilege)) {
        return true;
    }
    let holders: BTreeSet<&str> = grants.iter().map(|g| g.to.as_str()).collect();
    holders.into_iter().any(|to| {
        let own = grants.iter().filter(of_database).filter(|g| g.to == to && !g.is_revoked);
        own.max_by_key(|g| said_before_a_wildcard(&g.database)).is_some_and(|g| g.gives(privilege))
    })
}

fn said_before_a_wildcard(pattern: &str) -> usize {
    let mut escaped = false;
    for (at, c) in pattern.chars().enumerate() {
        match c {
            '%' | '_' if !escaped => return at,
            _ => escaped = c == '\\' && !escaped,
        }
    }
    usize::MAX
}

/// Whether a name fits a pattern of LIKE.
fn fits(pattern: &str, name: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => name.is_empty(),
        Some('%') => (0..=name.len()).filter(|at| name.is_char_boundary(*at)).any(|at| fits(rest.as_str(), &name[at..])),
        Some(c) => {
            let (literal, rest) = match (c, rest.clone().next()) {
                ('\\', Some(next)) => (Some(next), &rest.as_str()[next.len_utf8()..]),
                ('_', _) => (None, rest.as_str()),
                _ => (Some(c), rest.as_str()),
            };
            let mut of_name = name.chars();
            of_name.next().is_some_and(|is| literal.is_none_or(|l| l == is)) && fits(rest, of_name.as_str())
        }
    }
}

/// `GRANT SELECT, INSERT (`id`) ON `portal`.* TO ...`; none for what grants nothing on tables.
fn parse(line: &str) -> Option<Grant> {
    let (is_revoked, rest) = match line.strip_prefix("GRANT ") {
        Some(rest) => (false, rest),
        None => (true, line.strip_prefix("REVOKE ")?),
    };
    let at = outside_quotes(rest, " ON ")?;
    let (privileges, object) = (&rest[..at], &rest[at + 4..]);
    let object = object.strip_prefix("TABLE ").unwrap_or(object);
    let (database, object) = name(object)?;
    let (table, object) = name(object.strip_prefix('.')?)?;
    let to = object.strip_prefix(if is_revoked { " FROM " } else { " TO " })?;
    let end = ["IDENTIFIED ", "REQUIRE ", "WITH "].iter().filter_map(|word| outside_quotes(to, &format!(" {word}"))).min();
    let to = to[..end.unwrap_or(to.len())].to_owned();
    // What is given on columns is in parentheses and says nothing of the others.
    let mut whole = Vec::new();
    let mut text = privileges;
    while !text.is_empty() {
        let end = text.find([',', '(']).unwrap_or(text.len());
        let columns = text[end..].starts_with('(');
        if !columns {
            whole.push(text[..end].trim().to_owned());
        }
        let end = if columns { end + outside_quotes(&text[end..], ")")? + 1 } else { end };
        text = text[end..].trim_start_matches([',', ' ']);
    }
    Some(Grant { is_revoked, privileges: whole, database, table, to })
}

fn outside_quotes(text: &str, wanted: &str) -> Option<usize> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match quote {
            None if text[at..].starts_with(wanted) => return Some(at),
            None if matches!(c, '`' | '"' | '\'') => quote = Some(c),
            Some(open) if open == c => quote = None,
            _ => {}
        }
    }
    None
}

/// A name, quoted or not, and what follows it.
fn name(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '`' | '"'));
    let Some(quote) = quote else {
        let end = text.find(['.', ' ']).unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let mut name = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote && chars.next_if(|(_, next)| *next == quote).is_none() => return Some((name, &text[at + 1..])),
            c => name.push(c),
        }
    }
    None
}

/// `backup@localhost` -> `'backup'@'localhost'`.
fn account(current: &str) -> String {
    let (user, host) = current.rsplit_once('@').unwrap_or((current, "%"));
    let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"));
    format!("{}@{}", quoted(user), quoted(host))
}

/// A value as it was before the client put it on a line.
pub fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => plain.push('\n'),
            ('\\', Some('t')) => plain.push('\t'),
            ('\\', Some('0')) => plain.push('\0'),
            ('\\', Some(other)) => plain.push(other),
            (c, _) => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sees(lines: &[&str], database: &str) -> Result<(), String> {
        let grants: Vec<Grant> = lines.iter().filter_map(|line| parse(line)).collect();
        match judge(&grants, database, "'b'@'%'", Routines::Table, &Seen::new()) {
            Sight::Whole => Ok(()),
            Sight::Part(why) | Sight::Unknown(why) => Err(why),
        }
    }

    #[test]
    fn what_an_account_sees_follows_from_its_grants() {
        let proc = "GRANT SELECT ON `mysql`.`proc` TO `r`";
        let most = "GRANT SELECT, LOCK TABLES, SHOW VIEW, EVENT, TRIGGER ON `my\\_db`.* TO `b`@`%`";
        assert_eq!(
            sees(&["GRANT ALL PRIVILEGES ON *.* TO `b`@`%` IDENTIFIED BY PASSWORD '*0' WITH GRANT OPTION"], "x"),
            Ok(())
        );
        assert_eq!(sees(&[most, proc], "my_db"), Ok(()));
        assert!(sees(&[most, proc], "myxdb").is_err());
        assert_eq!(sees(&[&most.replace("my\\_db", "m%"), proc], "my_db"), Ok(()));
        assert_eq!(sees(&[&most.replace('`', "\""), &proc.replace('`', "")], "my_db"), Ok(()));
        let missing =
            sees(&[&most.replace(", TRIGGER", ""), "GRANT TRIGGER ON `my\\_db`.`t` TO `b`@`%`"], "my_db").unwrap_err();
        assert_eq!(
            missing,
            "TRIGGER on the whole database, SELECT on mysql.proc (for routines); give it: \
             GRANT TRIGGER ON `my\\_db`.* TO 'b'@'%'; GRANT SELECT ON mysql.proc TO 'b'@'%';"
        );
        // The pattern that says most counts alone, and a role's grants are its own.
        let nearer = "GRANT SELECT ON `my\\_db`.* TO `b`@`%`";
        assert!(sees(&[&most.replace("my\\_db", "%"), nearer, proc], "my_db").is_err());
        assert_eq!(sees(&[&most.replace("my\\_db", "%").replace("`b`@`%`", "`r`"), nearer, proc], "my_db"), Ok(()));
        let columns = most.replace("SELECT", "SELECT (`a`, `ON b)`)");
        assert!(sees(&[&columns, proc], "my_db").is_err());
        let revoked = "REVOKE TRIGGER ON `my_db`.* FROM `b`@`%`";
        assert!(sees(&["GRANT ALL PRIVILEGES ON *.* TO `b`@`%`", revoked], "my_db").is_err());
    }

    #[test]
    fn a_view_that_gives_no_answer_is_not_judged_by_another_one() {
        let on = |answers: &[Option<bool>]| on_all(answers.iter().copied());
        assert_eq!(on(&[Some(true), Some(true)]), Some(true));
        assert_eq!(on(&[Some(true), Some(false), Some(true)]), Some(false));
        assert_eq!(on(&[Some(true), None, Some(true)]), None);
        assert_eq!(on(&[]), None);
    }

    #[test]
    fn oracles_server_has_another_privilege_for_routines() {
        let all = "GRANT SELECT, SHOW VIEW, EVENT, TRIGGER ON `db`.* TO `b`@`%`";
        let judged = |more: &str| {
            let grants: Vec<Grant> = [all, more].iter().filter_map(|line| parse(line)).collect();
            judge(&grants, "db", "'b'@'%'", Routines::Global, &Seen::new())
        };
        assert!(
            matches!(judged("GRANT USAGE ON *.* TO `b`@`%`"), Sight::Part(why) if why.contains("GRANT SHOW_ROUTINE ON *.*"))
        );
        assert_eq!(judged("GRANT SHOW_ROUTINE ON *.* TO `b`@`%`"), Sight::Whole);
    }

    #[test]
    fn what_the_client_escaped_is_as_it_was() {
        assert_eq!(unescaped("my\\\\_db\\n\\tx\\q"), "my\\_db\n\txq");
    }
}
