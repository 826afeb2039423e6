//! A dump into a database of another name, counted there, and then the names are changed: until then the old one stands.

use std::collections::BTreeSet;
use std::fs::{self, File};

use super::properties::Properties;
use super::server::{Server, identifier, literal};
use super::{COLLATE, CTYPE, DATABASE, ENCODING, GLOBALS, NAME_MAX_BYTES, OWNER};
use crate::model::finding::{Finding, FindingKind};
use crate::source::SourceError;
use crate::source::beside::{self, NEW_SUFFIX, OLD_SUFFIX};
use crate::source::engine::{Account, Fetched};
use crate::source::work::Work;

/// Brings the parts into the database that the configuration names.
pub fn replace(server: &Server<'_>, fetched: &Fetched, work: &Work) -> Result<(), SourceError> {
    let (database, maintenance) = (server.config.database.clone(), server.config.maintenance.clone());
    let new = beside(&database, NEW_SUFFIX);
    if let Ok(path) = fetched.part(GLOBALS) {
        let text =
            fs::read_to_string(path).map_err(|source| SourceError::Io { path: path.display().to_string(), source })?;
        create_missing_roles(server, &text)?;
    }
    drop_new(server, &new)?;
    let properties = Properties::of(fetched, work)?;
    let owner = fetched.account.proof.get(OWNER).map(String::as_str);
    if !properties.create(server, &new, owner, work)? {
        server.run_script(&maintenance, &create_database(&new, &fetched.account))?;
    }
    // Rights too, before anybody knows the database by its name.
    let filled = fill(server, &new, fetched, work)
        .and_then(|()| must_be_equal(server, &new, &fetched.account))
        .and_then(|()| properties.apply(server, &new, work));
    if let Err(error) = filled {
        drop_new(server, &new)?;
        return Err(server.failed(format!("cannot be restored, and the database is untouched: {error}")));
    }
    swap(server, &database, &new, work)
}

/// Subscriptions that keep a database from being dropped: in the one that is to be replaced, or in what an earlier restore
/// could not drop. Each with its database.
pub fn subscriptions(server: &Server<'_>) -> Result<Vec<String>, SourceError> {
    let mut found = Vec::new();
    for name in [server.config.database.clone(), beside(&server.config.database, OLD_SUFFIX)] {
        found.extend(subscriptions_of(server, &name)?.into_iter().map(|subscription| format!("{subscription} in {name}")));
    }
    Ok(found)
}

fn subscriptions_of(server: &Server<'_>, database: &str) -> Result<Vec<String>, SourceError> {
    let sql = format!(
        "SELECT pg_catalog.quote_ident(s.subname) FROM pg_catalog.pg_subscription s \
         JOIN pg_catalog.pg_database d ON d.oid = s.subdbid WHERE d.datname = {} ORDER BY 1;",
        literal(database)
    );
    Ok(server.query(&server.config.maintenance, &sql)?.into_iter().flatten().collect())
}

/// Drops what was not filled to the end. Its subscriptions never had a connection, and must not end that of the live one.
fn drop_new(server: &Server<'_>, new: &str) -> Result<(), SourceError> {
    for name in subscriptions_of(server, new)? {
        let sql = format!("ALTER SUBSCRIPTION {name} SET (slot_name = NONE); DROP SUBSCRIPTION {name};");
        server.run_script(new, &sql)?;
    }
    drop_database(server, new)
}

/// PostgreSQL cuts a longer name without a word, down to that of `database` itself.
fn beside(database: &str, suffix: &str) -> String {
    beside::beside(database, suffix, NAME_MAX_BYTES, char::len_utf8)
}

/// Drops one of the databases beside, if it is there, and never the one that they are beside of.
fn drop_database(server: &Server<'_>, name: &str) -> Result<(), SourceError> {
    if name == server.config.database || name.len() > NAME_MAX_BYTES {
        return Err(server.failed(format!("has no room for a database beside this one: {name:?} is no name for it")));
    }
    if !server.has(name)? {
        return Ok(());
    }
    let name = identifier(name);
    // A template cannot be dropped.
    server.run_script(&server.config.maintenance, &format!("ALTER DATABASE {name} IS_TEMPLATE false; DROP DATABASE {name};"))
}

/// A database as the dumped one was made, as far as the backup counted it.
fn create_database(name: &str, account: &Account) -> String {
    let mut sql = format!("CREATE DATABASE {} TEMPLATE template0", identifier(name));
    for (line, word) in [(ENCODING, "ENCODING"), (COLLATE, "LC_COLLATE"), (CTYPE, "LC_CTYPE")] {
        if let Some(value) = account.proof.get(line) {
            sql += &format!(" {word} {}", literal(value));
        }
    }
    if let Some(owner) = account.proof.get(OWNER) {
        sql += &format!(" OWNER {}", identifier(owner));
    }
    sql + ";"
}

fn fill(server: &Server<'_>, new: &str, fetched: &Fetched, work: &Work) -> Result<(), SourceError> {
    let path = fetched.part(DATABASE)?;
    let dump = File::open(path).map_err(|source| SourceError::Io { path: path.display().to_string(), source })?;
    let tool = server.tool("pg_restore").args(["--single-transaction", "--exit-on-error", "-d", new]);
    tool.judge(tool.run_with(dump, work)?).map(|_| ())
}

fn must_be_equal(server: &Server<'_>, new: &str, then: &Account) -> Result<(), SourceError> {
    let now = server.count(new)?.or_missing(then);
    let counted = |name: &str| name.starts_with("rows of ") || name.starts_with("hash of ") || name == "large objects";
    for (name, value) in then.proof.iter().filter(|(name, _)| counted(name)) {
        if now.proof.get(name) != Some(value) {
            let is = now.proof.get(name).cloned().unwrap_or_default();
            return Err(server.failed(format!("{name}: {value} was backed up, {is} came back")));
        }
    }
    Ok(())
}

/// Nobody may connect while the names change, and both change or neither.
fn swap(server: &Server<'_>, database: &str, new: &str, work: &Work) -> Result<(), SourceError> {
    let (maintenance, making_room) = (&server.config.maintenance, beside(database, OLD_SUFFIX));
    let (name, new, old) = (identifier(database), identifier(new), identifier(&making_room));
    if !server.has(database)? {
        return server.run_script(maintenance, &format!("ALTER DATABASE {new} RENAME TO {name};"));
    }
    drop_database(server, &making_room)?;
    let away = format!(
        "ALTER DATABASE {name} ALLOW_CONNECTIONS false;\n\
         SELECT pg_catalog.pg_terminate_backend(pid, 10000) FROM pg_catalog.pg_stat_activity WHERE datname = {};\n\
         BEGIN; ALTER DATABASE {name} RENAME TO {old}; ALTER DATABASE {new} RENAME TO {name}; COMMIT;",
        literal(database),
    );
    if let Err(error) = server.run_script(maintenance, &away) {
        server.run_script(maintenance, &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true;"))?;
        return Err(error);
    }
    // The restored one has its name: what is left over does not undo that.
    match drop_database(server, &making_room) {
        Err(SourceError::Command { why, .. }) => {
            let message =
                format!("what was there before takes room as database {making_room} and could not be dropped: {why}");
            work.note(Finding::new(FindingKind::Target, &server.config.name, message));
            Ok(())
        }
        dropped => dropped,
    }
}

/// Roles that the dump's owners and grants need and the server lacks. Those that are there stay as they are.
fn create_missing_roles(server: &Server<'_>, globals: &str) -> Result<(), SourceError> {
    let rows =
        server.query(&server.config.maintenance, "SELECT pg_catalog.quote_ident(rolname) FROM pg_catalog.pg_roles;")?;
    let there: BTreeSet<String> = rows.into_iter().flatten().collect();
    let script = missing_roles(globals, &there);
    if script.is_empty() { Ok(()) } else { server.run_script(&server.config.maintenance, &script) }
}

fn missing_roles(globals: &str, there: &BTreeSet<String>) -> String {
    let role_of = |line: &str, before: &str| line.strip_prefix(before).map(|rest| rest.trim_end_matches(';').to_owned());
    let new: Vec<String> =
        globals.lines().filter_map(|line| role_of(line, "CREATE ROLE ")).filter(|role| !there.contains(role)).collect();
    let concerns_new = |line: &&str| {
        new.iter().any(|role| {
            *line == format!("CREATE ROLE {role};")
                || line.starts_with(&format!("ALTER ROLE {role} "))
                || (line.starts_with("GRANT ")
                    && format!("{} ", line.trim_end_matches(';')).contains(&format!(" TO {role} ")))
        })
    };
    // Members of one role may be granted by another that is gone.
    let plain = |line: &str| {
        line.split(" GRANTED BY ").next().map(|l| format!("{};\n", l.trim_end_matches(';'))).unwrap_or_default()
    };
    globals.lines().filter(concerns_new).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_roles_that_are_missing_are_made() {
        let globals = "SET x;\nCREATE ROLE app;\nALTER ROLE app WITH NOSUPERUSER LOGIN;\nCREATE ROLE postgres;\n\
                       ALTER ROLE postgres WITH SUPERUSER;\nCREATE ROLE \"re ad\";\nGRANT app TO \"re ad\" GRANTED BY postgres;\n\
                       GRANT app TO postgres;\n";
        let there = BTreeSet::from(["postgres".to_owned()]);
        assert_eq!(
            missing_roles(globals, &there),
            "CREATE ROLE app;\nALTER ROLE app WITH NOSUPERUSER LOGIN;\nCREATE ROLE \"re ad\";\nGRANT app TO \"re ad\";\n"
        );
    }

    #[test]
    fn names_beside_a_database_fit_and_are_those_of_no_other() {
        assert_eq!(beside("events", NEW_SUFFIX), "events_farkeep_new");
        assert_eq!(beside(&"e".repeat(51), OLD_SUFFIX), format!("{}_farkeep_old", "e".repeat(51)));
        let mut names = BTreeSet::new();
        for length in 48..=63 {
            // The cut falls into a letter of two bytes for one of the two.
            for text in
                ["e".repeat(length), format!("e{}", "å".repeat(length / 2)), format!("é{}", "å".repeat(length / 2 - 1))]
            {
                assert_eq!(beside(&text, NEW_SUFFIX), beside(&text, NEW_SUFFIX));
                names.extend([beside(&text, NEW_SUFFIX), beside(&text, OLD_SUFFIX), text]);
            }
        }
        assert!(names.iter().all(|name| name.len() <= NAME_MAX_BYTES), "{names:?}");
        let (live, made): (Vec<&String>, Vec<&String>) = names.iter().partition(|name| !name.contains("_farkeep_"));
        assert_eq!(made.len(), 2 * live.len());
    }

    #[test]
    fn a_database_is_made_as_the_dumped_one_was() {
        let account = Account::default().proof(ENCODING, "UTF8").proof(OWNER, "app");
        assert_eq!(
            create_database("events", &account),
            "CREATE DATABASE \"events\" TEMPLATE template0 ENCODING E'UTF8' OWNER \"app\";"
        );
    }
}
