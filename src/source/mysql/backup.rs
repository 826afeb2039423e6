//! One database as its own program dumps it, and counts taken before and after.

use std::sync::{Arc, Mutex, PoisonError};

use super::grants::{Sight, sight};
use super::later::{counted, moved};
use super::packet::Longest;
use super::server::{Server, Table};
use super::{MysqlConfig, PROGRAMS, TABLES, TAIL_BYTES, UNFINISHED, VIEWS, has_trailer, tool_version};
use crate::model::finding::{Finding, FindingKind};
use crate::source::SourceError;
use crate::source::engine::{Account, Backup, Part, PartRead};
use crate::source::tool::{Running, Tool};
use crate::source::work::Work;

/// Has rows of the past in a dump.
const HISTORY: &str = "--dump-history";

/// `10.11.19-MariaDB`: whether the server takes rows of the past.
fn loads_history(version: &str) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or_default());
    (numbers.next(), numbers.next()) >= (Some(10), Some(11))
}

/// What a dump is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A backup: half a database is none.
    Backup,
    /// A safety copy: what cannot be kept must not keep its own restore from being made.
    SafetyCopy,
}

/// A backup of a database.
pub struct Dumping {
    config: MysqlConfig,
    purpose: Purpose,
    findings: Vec<Finding>,
    before: Option<Account>,
    views: Vec<String>,
    /// Whether rows of the past are dumped.
    history: bool,
    sees_all: bool,
    longest: Arc<Mutex<Longest>>,
    given: usize,
}

impl Dumping {
    pub fn new(server: &Server<'_>, purpose: Purpose) -> Result<Self, SourceError> {
        let config = server.config.clone();
        let mut findings = Vec::new();
        let mut found = |why: String| findings.push(Finding::new(FindingKind::Source, &config.name, why));
        let sight = sight(server);
        let sees_all = sight == Sight::Whole;
        match sight {
            Sight::Whole => {}
            Sight::Part(missing) => {
                let why = format!("the account sees only a part of the database: it lacks {missing}");
                if purpose == Purpose::Backup {
                    return Err(server.failed(why));
                }
                found(why);
            }
            Sight::Unknown(why) => found(format!("whether the account sees the whole database cannot be told: {why}")),
        }
        must_be_complete(server, purpose, &mut findings)?;
        Ok(Self {
            config,
            purpose,
            findings,
            before: None,
            views: Vec::new(),
            history: false,
            sees_all,
            longest: Arc::default(),
            given: 0,
        })
    }

    /// The views that can be dumped. Where a table is gone, those above it stop the program.
    fn dumped_views(&mut self, server: &Server<'_>) -> Result<Vec<String>, SourceError> {
        let names = server.views(&self.config.database)?;
        if self.purpose == Purpose::Backup {
            return Ok(names);
        }
        let (whole, broken) = server.sort_views(&self.config.database, names)?;
        for view in broken {
            let why = "is a view of something that is gone, and is not kept";
            self.findings.push(Finding::new(FindingKind::Source, format!("{} {view}", self.config.name), why));
        }
        Ok(whole)
    }

    /// Whether rows of the past are there and can be dumped. Where they cannot, a restore in place would remove them.
    fn dumps_history(&mut self, server: &Server<'_>) -> Result<bool, SourceError> {
        let tables = server.tables(&self.config.database)?;
        let versioned: Vec<String> = tables.into_iter().filter(Table::is_versioned).map(|table| table.name).collect();
        if versioned.is_empty() {
            return Ok(false);
        }
        let by_transaction = "generation_expression = 'ROW START' AND data_type = 'bigint' AND table_schema";
        let by_transaction = server.names("table_name", "columns", by_transaction, &self.config.database)?;
        let help = Tool::new(self.config.dumper()).arg("--help").succeed(server.work)?;
        let why = if !String::from_utf8_lossy(&help).contains(HISTORY) {
            format!("{} knows no {HISTORY}", self.config.dumper())
        } else if !loads_history(&server.version()?) {
            "no server before MariaDB 10.11 takes it".to_owned()
        } else if let Some(table) = by_transaction.first() {
            format!("{table} is versioned by transactions, which no dump holds")
        } else {
            return Ok(true);
        };
        let why =
            format!("the history of {} is not in the backup, and a restore would remove it: {why}", versioned.join(", "));
        self.findings.push(Finding::new(FindingKind::Source, &self.config.name, why));
        Ok(false)
    }

    fn part(&self, name: &'static str, tool: impl FnOnce(&Server<'_>, bool) -> Tool + Send + 'static) -> Part {
        let (config, in_all) = (self.config.clone(), Arc::clone(&self.longest));
        Part::new(name, move |work| {
            let server = Server::new(&config, work)?;
            let tool = tool(&server, is_mysql(&config, work)?);
            Ok(Dump { name, running: tool.stream(work)?, tail: Vec::new(), longest: Longest::default(), in_all })
        })
    }
}

/// A restore that did not end left tables without their triggers, routines and views.
fn must_be_complete(server: &Server<'_>, purpose: Purpose, findings: &mut Vec<Finding>) -> Result<(), SourceError> {
    let Some((is_half, what)) = server.leftover()? else { return Ok(()) };
    let again = "repeat it: farkeep restore latest --job JOB --run --yes-destroy JOB";
    let why = format!("a restore of this database did not end ({what}); {again}");
    match (is_half, purpose) {
        (true, Purpose::Backup) => return Err(server.failed(why)),
        (true, Purpose::SafetyCopy) => findings.push(Finding::new(FindingKind::Notice, &server.config.name, why)),
        (false, _) => {
            let why = format!("{why}; the database itself is as it was");
            findings.push(Finding::new(FindingKind::Notice, &server.config.name, why));
        }
    }
    Ok(())
}

/// Whether the dumping program is Oracle's.
pub fn is_mysql(config: &MysqlConfig, work: &Work) -> Result<bool, SourceError> {
    Ok(!tool_version(config.dumper(), work)?.contains("MariaDB"))
}

/// The tables alone: nothing in it runs while it is loaded.
fn tables(server: &Server<'_>, is_mysql: bool, views: &[String], history: bool) -> Tool {
    let database = &server.config.database;
    let left_out =
        views.iter().map(String::as_str).chain([UNFINISHED]).map(|view| format!("--ignore-table={database}.{view}"));
    let dumper = server.dumper(is_mysql).arg("--skip-triggers").args(left_out);
    if history { dumper.arg(HISTORY) } else { dumper }.arg(database)
}

/// Triggers, routines and events.
pub fn programs(server: &Server<'_>, is_mysql: bool, database: &str) -> Tool {
    let what = ["--no-data", "--no-create-info", "--triggers", "--routines", "--events"];
    server.dumper(is_mysql).args(what).arg(database)
}

/// These views.
pub fn views(server: &Server<'_>, is_mysql: bool, database: &str, views: &[String]) -> Tool {
    server.dumper(is_mysql).args(["--no-data", "--skip-triggers"]).arg(database).args(views)
}

impl Backup for Dumping {
    fn next(&mut self, work: &Work) -> Result<Option<Part>, SourceError> {
        self.given += 1;
        Ok(match self.given {
            1 => {
                let config = self.config.clone();
                let server = Server::new(&config, work)?;
                self.views = self.dumped_views(&server)?;
                self.history = self.dumps_history(&server)?;
                let history = self.history;
                self.before = Some(server.count(&config.database, self.history)?);
                let left_out = server.views(&config.database)?;
                Some(self.part(TABLES, move |server, is_mysql| tables(server, is_mysql, &left_out, history)))
            }
            2 => Some(self.part(PROGRAMS, |server, is_mysql| programs(server, is_mysql, &server.config.database))),
            3 if !self.views.is_empty() => {
                let names = self.views.clone();
                Some(self.part(VIEWS, move |server, is_mysql| views(server, is_mysql, &server.config.database, &names)))
            }
            _ => None,
        })
    }

    fn finish(&mut self, work: &Work) -> Result<Account, SourceError> {
        let server = Server::new(&self.config, work)?;
        let mut account = self.before.take().ok_or_else(|| server.failed("nothing was dumped"))?;
        let rows = account.proof.iter().filter(|(name, _)| name.starts_with("rows of "));
        // Who does not see all of a database does not know that it is empty.
        if rows.clone().all(|(_, count)| count == "0") && !(account.holds_nothing() && self.sees_all) {
            let why = format!("the database holds no row ({} tables)", rows.count());
            return Err(SourceError::Empty { what: self.config.title(), why });
        }
        // The dump has a moment of its own between the two counts: what moved meanwhile is no proof of it.
        let after = server.count(&self.config.database, self.history)?;
        let then = std::mem::take(&mut account.proof);
        for (name, value) in then {
            if after.proof.get(&name) == Some(&value) {
                account = account.proof(name, value);
            } else if let Some(table) = counted(&name).filter(|_| after.proof.contains_key(&name)) {
                account = account.proof(moved(table), "there");
            }
        }
        account.findings.append(&mut self.findings);
        account.tell_if_empty(&self.config.name);
        let longest = *self.longest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = longest.too_long_for(server.packet_bytes()?) {
            let why = format!("a restore needs another setting: {why}");
            account.findings.push(Finding::new(FindingKind::Notice, &self.config.name, why));
        }
        for table in server.tables(&self.config.database)?.iter().filter(|table| !table.is_transactional()) {
            let why = "is no table of InnoDB: it was not read at one moment if somebody wrote to it";
            account.findings.push(Finding::new(FindingKind::Notice, format!("{} {}", self.config.name, table.name), why));
        }
        Ok(account.tool(self.config.dumper(), tool_version(self.config.dumper(), work)?))
    }
}

/// A dump that is being read; its end is looked at, whatever the program says.
struct Dump {
    name: &'static str,
    running: Running,
    tail: Vec<u8>,
    longest: Longest,
    /// The longest of all parts.
    in_all: Arc<Mutex<Longest>>,
}

impl PartRead for Dump {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        let count = self.running.read(buffer)?;
        self.longest.update(&buffer[..count]);
        self.tail.extend(&buffer[count.saturating_sub(TAIL_BYTES)..count]);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL_BYTES));
        Ok(count)
    }

    fn finish(&mut self) -> Result<(), SourceError> {
        self.running.finish()?;
        let mut in_all = self.in_all.lock().unwrap_or_else(PoisonError::into_inner);
        *in_all = self.longest.max(*in_all);
        drop(in_all);
        if has_trailer(&self.tail) {
            return Ok(());
        }
        let why = "does not end as a whole dump does, although the program ended well".to_owned();
        Err(SourceError::Expectation { what: self.name.to_owned(), why })
    }
}
