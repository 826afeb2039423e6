//! InfluxQL: which databases there are, and how many points each measurement holds.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::source::SourceError;
use crate::source::http::{Http, Method, reason};
use crate::source::work::Work;

/// What a server says of a shard that it is still putting in its place.
const NOT_YET: [&str; 2] = ["shard is disabled", "engine is closed"];
/// So often it is asked again; seen: less than a second.
const ENABLING_ATTEMPTS: u32 = 60;
/// And after so long a time.
const ENABLING_PAUSE: Duration = Duration::from_millis(500);

/// A server within one piece of work.
pub struct Query<'a> {
    http: &'a Http,
    work: &'a Work,
}

/// Points of each measurement: retention policy and measurement -> count of every field.
pub type Points = BTreeMap<String, String>;

/// Retention policies of a database by name, each as a statement describes it.
pub type Policies = BTreeMap<String, String>;

/// After the description of the policy that points go to where none is named.
const DEFAULT: &str = " DEFAULT";

impl<'a> Query<'a> {
    pub const fn new(http: &'a Http, work: &'a Work) -> Self {
        Self { http, work }
    }

    pub fn failed(&self, why: impl Into<String>) -> SourceError {
        self.http.failed(why)
    }

    /// Runs one statement; gives its series. Shards that were just restored may not be read for a moment.
    fn run(&self, method: Method, statement: &str) -> Result<Vec<Value>, SourceError> {
        let mut tried = 1;
        loop {
            match self.run_once(method.clone(), statement) {
                Err(SourceError::System { why, .. })
                    if tried < ENABLING_ATTEMPTS && NOT_YET.iter().any(|not| why.contains(not)) =>
                {
                    self.work.check()?;
                    std::thread::sleep(ENABLING_PAUSE);
                    tried += 1;
                }
                outcome => return outcome,
            }
        }
    }

    fn run_once(&self, method: Method, statement: &str) -> Result<Vec<Value>, SourceError> {
        let answer = self.http.ask(method, &format!("/query?q={}", encode(statement)), None, self.work)?;
        let result = &answer.body["results"][0];
        let told = if result["error"].is_string() { result } else { &answer.body };
        if answer.status != 200 || told["error"].is_string() {
            return Err(self.failed(format!("status {}{}", answer.status, reason(told))));
        }
        Ok(result["series"].as_array().cloned().unwrap_or_default())
    }

    /// The server's version.
    pub fn version(&self) -> Result<String, SourceError> {
        let series = self.run(Method::GET, "SHOW DIAGNOSTICS")?;
        let build = series.iter().find(|series| series["name"] == "build");
        let column = |build: &&Value| {
            let columns = build["columns"].as_array()?;
            let place = columns.iter().position(|column| column == "Version")?;
            build["values"][0][place].as_str().map(str::to_owned)
        };
        Ok(build.as_ref().and_then(column).unwrap_or_else(|| "unknown".into()))
    }

    /// Every database.
    pub fn databases(&self) -> Result<Vec<String>, SourceError> {
        Ok(first_column(&self.run(Method::GET, "SHOW DATABASES")?))
    }

    /// How many values each field of each measurement has.
    pub fn points(&self, database: &str) -> Result<Points, SourceError> {
        let mut points = Points::new();
        let policies = self.run(Method::GET, &format!("SHOW RETENTION POLICIES ON {}", quote(database)))?;
        for policy in first_column(&policies) {
            let from = format!("{}.{}./.*/", quote(database), quote(&policy));
            for series in self.run(Method::GET, &format!("SELECT COUNT(*) FROM {from}"))? {
                let columns = series["columns"].as_array().cloned().unwrap_or_default();
                let values = series["values"][0].as_array().cloned().unwrap_or_default();
                // The first column is a time.
                let fields: Vec<String> = columns
                    .iter()
                    .zip(&values)
                    .skip(1)
                    // A field that other measurements have and this one has not.
                    .filter(|(_, count)| !count.is_null())
                    .map(|(name, count)| {
                        format!("{} {count}", name.as_str().unwrap_or_default().trim_start_matches("count_"))
                    })
                    .collect();
                let measurement = series["name"].as_str().unwrap_or_default();
                points.insert(format!("{policy}.{measurement}"), fields.join(", "));
            }
        }
        Ok(points)
    }

    /// How many shards a database has.
    pub fn shards(&self, database: &str) -> Result<usize, SourceError> {
        let series = self.run(Method::GET, "SHOW SHARDS")?;
        let of_database = series.iter().filter(|series| series["name"] == database);
        Ok(of_database.filter_map(|series| series["values"].as_array()).map(Vec::len).sum())
    }

    /// How long a database keeps what.
    pub fn policies(&self, database: &str) -> Result<Policies, SourceError> {
        let series = self.run(Method::GET, &format!("SHOW RETENTION POLICIES ON {}", quote(database)))?;
        let rows = series.iter().flat_map(|series| series["values"].as_array().into_iter().flatten());
        let described = |row: &Value| match (&row[0], &row[1], &row[2], &row[3], &row[4]) {
            (
                Value::String(name),
                Value::String(kept),
                Value::String(shard),
                Value::Number(copies),
                Value::Bool(default),
            ) => {
                let default = if *default { DEFAULT } else { "" };
                Ok((name.clone(), format!("DURATION {kept} REPLICATION {copies} SHARD DURATION {shard}{default}")))
            }
            _ => Err(self.failed("describes a retention policy in other words")),
        };
        rows.map(described).collect()
    }

    /// Makes a database with these retention policies and no other.
    pub fn create_database(&self, database: &str, policies: &Policies) -> Result<(), SourceError> {
        let (name, first) = policies
            .iter()
            .find(|(_, is)| is.ends_with(DEFAULT))
            .or_else(|| policies.first_key_value())
            .ok_or_else(|| self.failed("a database must have a retention policy, and the backup names none"))?;
        let first = first.trim_end_matches(DEFAULT);
        self.run(Method::POST, &format!("CREATE DATABASE {} WITH {first} NAME {}", quote(database), quote(name)))?;
        for (other, is) in policies.iter().filter(|(other, _)| *other != name) {
            let (other, database) = (quote(other), quote(database));
            self.run(Method::POST, &format!("CREATE RETENTION POLICY {other} ON {database} {is}"))?;
        }
        Ok(())
    }

    /// Statements that make again what goes with a database and is in no backup of it: continuous queries, and what users
    /// may do with it.
    pub fn attached(&self, database: &str) -> Result<Vec<String>, SourceError> {
        let queries = self.run(Method::GET, "SHOW CONTINUOUS QUERIES")?;
        let of_database = queries.iter().filter(|series| series["name"] == database);
        let rows = of_database.flat_map(|series| series["values"].as_array().into_iter().flatten());
        let mut statements: Vec<String> = rows.filter_map(|row| row[1].as_str().map(str::to_owned)).collect();
        for user in first_column(&self.run(Method::GET, "SHOW USERS")?) {
            let granted = self.run(Method::GET, &format!("SHOW GRANTS FOR {}", quote(&user)))?;
            for row in granted.iter().flat_map(|series| series["values"].as_array().into_iter().flatten()) {
                let privilege = row[1].as_str().filter(|privilege| *privilege != "NO PRIVILEGES");
                if let Some(privilege) = privilege.filter(|_| row[0] == database) {
                    statements.push(format!("GRANT {privilege} ON {} TO {}", quote(database), quote(&user)));
                }
            }
        }
        Ok(statements)
    }

    /// Makes again what [`Query::attached`] gave; gives what the server refuses.
    pub fn attach(&self, statements: &[String]) -> Vec<String> {
        let refused = |statement: &String| {
            let outcome = self.run(Method::POST, statement);
            outcome.err().map(|error| format!("{statement} ({error})"))
        };
        statements.iter().filter_map(refused).collect()
    }

    /// Removes a database; that it is not there is as good.
    pub fn drop_database(&self, database: &str) -> Result<(), SourceError> {
        self.run(Method::POST, &format!("DROP DATABASE {}", quote(database))).map(|_| ())
    }
}

fn first_column(series: &[Value]) -> Vec<String> {
    let rows = series.iter().flat_map(|series| series["values"].as_array().into_iter().flatten());
    rows.filter_map(|row| row[0].as_str().map(str::to_owned)).collect()
}

/// An identifier of InfluxQL.
fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

fn encode(text: &str) -> String {
    text.bytes().map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_quotes() {
        assert_eq!(quote(r#"a"; DROP DATABASE "b"#), r#""a\"; DROP DATABASE \"b""#);
        assert_eq!(encode("a b/"), "a%20b%2F");
    }
}
