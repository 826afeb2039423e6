//! One connection to a deployment, and its errors in words that hold neither a password nor a row.

use std::sync::Arc;
use std::time::Duration;

use bson::{Document, doc};
use mongodb::error::{Error, ErrorKind, WriteFailure};
use mongodb::options::{ClientOptions, ServerAddress};
use mongodb::sync::{Client, Database};

use crate::source::SourceError;
use crate::source::patience::patiently;
use crate::source::secret::SecretText;
use crate::source::work::Work;

/// How long a deployment may take to name a server that will do, unless the address says otherwise: longer than an
/// election (about 12 s, MongoDB's manual), short enough to be told before the night is over.
const SELECTION_TIMEOUT: Duration = Duration::from_secs(20);
/// How long one server may take to answer at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A server's message is shown up to here.
const MESSAGE_MAX_CHARS: usize = 300;

/// What a member of a shard is told.
const OF_A_SHARD: &str = "is a member of a shard, which holds a part of the data: the address must name the mongos";

/// A database of a deployment.
#[derive(Clone)]
pub struct Deployment {
    /// Server and database, for messages.
    pub title: String,
    /// The database.
    pub database: Database,
    client: Client,
    secrets: Arc<Vec<String>>,
}

impl Deployment {
    /// Reaches it. `uri` is a connection string of MongoDB; `hosts` take the place of those that it names.
    ///
    /// # Errors
    /// When the address is wrong or nothing answers there.
    pub fn open(uri: &SecretText, hosts: Option<&str>, database: &str, work: &Work) -> Result<Self, SourceError> {
        let uri = uri.clone();
        let hosts = hosts.map(str::to_owned);
        let name = database.to_owned();
        let deployment = patiently(work, move |_| {
            let wrong =
                || SourceError::Configuration("the address of the MongoDB deployment cannot be read: mongodb://...".into());
            // The parser's own message repeats what it could not read.
            let mut options = ClientOptions::parse(uri.expose()).run().map_err(|_| wrong())?;
            if let Some(hosts) = hosts {
                let (set, listed) =
                    hosts.split_once('/').map_or((None, hosts.as_str()), |(set, listed)| (Some(set), listed));
                let parsed: Result<Vec<ServerAddress>, _> =
                    listed.split(',').map(|host| ServerAddress::parse(host.trim())).collect();
                options.hosts =
                    parsed.map_err(|_| SourceError::Configuration(format!("hosts {hosts:?}: NAME/HOST:PORT,...")))?;
                options.repl_set_name = set.map(str::to_owned);
            }
            options.server_selection_timeout.get_or_insert(SELECTION_TIMEOUT);
            options.connect_timeout.get_or_insert(CONNECT_TIMEOUT);
            options.app_name.get_or_insert_with(|| "farkeep".into());
            let hosts: Vec<String> = options.hosts.iter().map(ToString::to_string).collect();
            let secrets = options.credential.iter().filter_map(|c| c.password.clone()).collect();
            let title = format!("MongoDB {}/{name}", hosts.join(","));
            let client = Client::with_options(options).map_err(|_| wrong())?;
            Ok(Self { title, database: client.database(&name), client, secrets: Arc::new(secrets) })
        })?;
        let (asked, told) = (deployment.clone(), deployment.clone());
        patiently(work, move |_| asked.command(doc! { "ping": 1 }))?;
        Ok(told)
    }

    /// The server's version.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn version(&self) -> Result<String, SourceError> {
        let answer = self.command(doc! { "buildInfo": 1 })?;
        Ok(answer.get_str("version").unwrap_or("unknown").to_owned())
    }

    /// Refuses a member of a shard, which holds a part of each collection and does not say so. Whether it is one is not told to
    /// every account: then nobody knows.
    ///
    /// # Errors
    /// When it is one.
    pub fn must_be_no_shard(&self) -> Result<(), SourceError> {
        if !self.is_shard() {
            return Ok(());
        }
        Err(self.failed(OF_A_SHARD))
    }

    fn is_shard(&self) -> bool {
        self.admin_command(doc! { "shardingState": 1 }).is_ok_and(|answer| answer.get_bool("enabled").unwrap_or(false))
    }

    /// Runs a command in the database.
    ///
    /// # Errors
    /// When it fails.
    pub fn command(&self, command: Document) -> Result<Document, SourceError> {
        self.database.run_command(command).run().map_err(|e| self.error(&e))
    }

    /// Runs a command that belongs to the deployment, not to one database.
    ///
    /// # Errors
    /// When it fails.
    pub fn admin_command(&self, command: Document) -> Result<Document, SourceError> {
        self.ask_admin(command).map_err(|e| self.error(&e))
    }

    /// The same, for who must know which error it is.
    ///
    /// # Errors
    /// When it fails.
    pub fn ask_admin(&self, command: Document) -> Result<Document, Error> {
        self.client.database("admin").run_command(command).run()
    }

    /// Everything that a command with a cursor gives.
    ///
    /// # Errors
    /// When it fails.
    pub fn list(&self, command: Document) -> Result<Vec<Document>, SourceError> {
        let cursor = self.database.run_cursor_command(command).run().map_err(|e| self.error(&e))?;
        cursor.collect::<Result<_, _>>().map_err(|e| self.error(&e))
    }

    /// Another database of the same deployment.
    pub fn of(&self, database: &str) -> Self {
        Self { database: self.client.database(database), ..self.clone() }
    }

    /// The names of all databases.
    ///
    /// # Errors
    /// When the server does not tell.
    pub fn all_databases(&self) -> Result<Vec<String>, SourceError> {
        self.client.list_database_names().run().map_err(|e| self.error(&e))
    }

    /// The names of all databases, for a message; empty where the account may not see them.
    pub fn databases(&self) -> Vec<String> {
        self.client.list_database_names().run().unwrap_or_default()
    }

    /// What may be told of an error.
    pub fn error(&self, error: &Error) -> SourceError {
        let mut why = describe(&error.kind);
        for secret in self.secrets.iter().filter(|secret| !secret.is_empty()) {
            why = why.replace(secret.as_str(), "***");
        }
        self.failed(why)
    }

    /// An error of this deployment.
    pub fn failed(&self, why: impl Into<String>) -> SourceError {
        SourceError::System { system: self.title.clone(), why: why.into() }
    }
}

/// The same beside another program that makes the archive: nobody knows either what only that one reaches. `reach` is given a time of
/// its own.
///
/// # Errors
/// When it is a member of a shard.
pub fn must_be_no_shard_if_reached(
    reach: impl FnOnce(&Work) -> Result<Deployment, SourceError>,
    work: &Work,
) -> Result<(), SourceError> {
    let asking = work.for_asking();
    let reached = reach(&asking);
    work.check()?;
    let Ok(deployment) = reached else { return Ok(()) };
    let asked = deployment.clone();
    match patiently(&asking, move |_| Ok(asked.is_shard())) {
        Ok(true) => Err(deployment.failed(OF_A_SHARD)),
        _ => work.check(),
    }
}

fn describe(kind: &ErrorKind) -> String {
    let short = |message: &str| {
        // Behind it stand the values of a document.
        let message = message.split("dup key").next().unwrap_or_default();
        message.chars().filter(|c| !c.is_control()).take(MESSAGE_MAX_CHARS).collect::<String>()
    };
    match kind {
        ErrorKind::Command(error) => format!("{} ({}, code {})", short(&error.message), error.code_name, error.code),
        ErrorKind::InsertMany(error) => match error.write_errors.as_ref().and_then(|errors| errors.first()) {
            Some(first) => format!("refused a document (code {})", first.code),
            None => "did not confirm what was written".into(),
        },
        ErrorKind::Write(WriteFailure::WriteError(error)) => format!("refused a document (code {})", error.code),
        ErrorKind::Write(_) => "did not confirm what was written".into(),
        ErrorKind::Authentication { .. } => "refused the login: look at user, password and authSource of the address".into(),
        ErrorKind::ServerSelection { message, .. } => short(message),
        ErrorKind::Io(error) => short(&error.to_string()),
        ErrorKind::InvalidArgument { message, .. } | ErrorKind::InvalidTlsConfig { message, .. } => short(message),
        ErrorKind::ConnectionPoolCleared { message, .. } | ErrorKind::IncompatibleServer { message, .. } => short(message),
        ErrorKind::InvalidResponse { .. } => "gave an answer that cannot be understood".into(),
        _ => "failed in a way that has no name".into(),
    }
}
