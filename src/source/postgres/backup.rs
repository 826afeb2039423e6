//! One database as pg_dump's own format, uncompressed, and the counts of the very moment that it shows.

use std::sync::{Arc, Mutex, PoisonError};

use super::server::{Server, Session};
use super::{DATABASE, GLOBALS, PostgresConfig};
use crate::source::SourceError;
use crate::source::engine::{Account, Backup, Part};
use crate::source::work::Work;

/// The transaction that the dump and the counts share.
type Shared = Arc<Mutex<Option<Session>>>;

/// A backup of a database.
pub struct Dumping {
    config: PostgresConfig,
    session: Shared,
    given: usize,
}

impl Dumping {
    pub fn new(config: PostgresConfig) -> Self {
        Self { config, session: Shared::default(), given: 0 }
    }
}

impl Backup for Dumping {
    fn next(&mut self, _: &Work) -> Result<Option<Part>, SourceError> {
        let (config, session) = (self.config.clone(), Arc::clone(&self.session));
        self.given += 1;
        Ok(match self.given {
            1 => Some(Part::new(DATABASE, move |work| {
                let server = Server::new(&config, work)?;
                let mut own = server.session(&config.database)?;
                let snapshot = own.export()?;
                *session.lock().unwrap_or_else(PoisonError::into_inner) = Some(own);
                // Compressed by us, after what is known has been left out.
                let tool = server.tool("pg_dump").args(["-Fc", "-Z0", "-d", &config.database]);
                tool.arg(format!("--snapshot={snapshot}")).stream(work)
            })),
            2 if config.globals => Some(Part::new(GLOBALS, move |work| {
                let server = Server::new(&config, work)?;
                let tool = server.tool("pg_dumpall").args(["--globals-only", "--no-role-passwords", "-l", &config.database]);
                tool.stream(work)
            })),
            _ => None,
        })
    }

    fn finish(&mut self, work: &Work) -> Result<Account, SourceError> {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner).take();
        let server = Server::new(&self.config, work)?;
        let mut session = session.ok_or_else(|| server.failed("nothing was dumped"))?;
        let mut account = session.count(Account::default())?;
        account.tell_if_empty(&self.config.name);
        let rows = account.proof.iter().filter(|(name, _)| name.starts_with("rows of "));
        if rows.clone().all(|(_, count)| count == "0") && rows.clone().count() > 0 {
            let why = format!("the database holds no row ({} tables)", rows.count());
            return Err(SourceError::Empty { what: self.config.title(), why });
        }
        let account = session.properties(account)?;
        Ok(account
            .tool("PostgreSQL", server.version(&self.config.database)?)
            .tool("pg_dump", super::tool_version("pg_dump", work)?))
    }
}
