//! JSON over HTTP, for the servers that are spoken to in no other way. Every call has an end, and an error tells what the
//! server gave as its reason, never what was sent.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use ureq::Agent;
pub use ureq::http::Method;
use ureq::http::Request;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::source::SourceError;
use crate::source::patience::patiently;
use crate::source::secret::{Secret, SecretText};
use crate::source::work::Work;

/// How long a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// An answer is read up to here: lists of indices and snapshots stay far below.
const ANSWER_MAX_BYTES: u64 = 64 * 1024 * 1024;
/// A server's reason is shown up to here.
const REASON_MAX_CHARS: usize = 300;

/// Where a server is, and who we are to it.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// `http://host:port`, without a path.
    pub url: String,
    /// The account; none where the server asks for none.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// A certificate authority of one's own, in PEM; without it those that browsers trust.
    pub ca_file: Option<std::path::PathBuf>,
}

/// A server that is spoken to.
#[derive(Clone)]
pub struct Http {
    url: String,
    agent: Agent,
    authorization: Option<SecretText>,
}

/// What a server answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body; null where there was none.
    pub body: Value,
}

impl Http {
    /// Makes ready; nothing is sent yet.
    ///
    /// # Errors
    /// When the password or the certificate cannot be had.
    pub fn new(config: &HttpConfig) -> Result<Self, SourceError> {
        let authorization = match (&config.user, &config.password) {
            (Some(user), Some(password)) => {
                let pair = SecretText::new(format!("{user}:{}", password.read()?.expose()));
                Some(SecretText::new(format!("Basic {}", STANDARD.encode(pair.expose()))))
            }
            _ => None,
        };
        let mut builder = Agent::config_builder().http_status_as_error(false).timeout_connect(Some(CONNECT_TIMEOUT));
        // A proxy of the environment has no business between us and a database; a redirect would carry the password along.
        builder = builder.proxy(None).max_redirects(0);
        if let Some(path) = &config.ca_file {
            builder = builder.tls_config(TlsConfig::builder().root_certs(RootCerts::Specific(authorities(path)?)).build());
        }
        let url = config.url.trim_end_matches('/').to_owned();
        Ok(Self { url, agent: builder.build().into(), authorization })
    }

    /// The address, for messages.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Sends a request and takes any answer.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn ask(&self, method: Method, path: &str, body: Option<&Value>, work: &Work) -> Result<Answer, SourceError> {
        let (server, path) = (self.clone(), path.to_owned());
        let body = body.map(ToString::to_string);
        patiently(work, move |_| server.send(&method, &path, body))
    }

    /// Sends a request that must succeed.
    ///
    /// # Errors
    /// When it does not.
    pub fn must(&self, method: Method, path: &str, body: Option<&Value>, work: &Work) -> Result<Value, SourceError> {
        let what = format!("{method} {}", path.split('?').next().unwrap_or_default());
        let answer = self.ask(method, path, body, work)?;
        if (200..300).contains(&answer.status) {
            return Ok(answer.body);
        }
        Err(self.failed(format!("{what}: status {}{}", answer.status, reason(&answer.body))))
    }

    /// An error of this server.
    pub fn failed(&self, why: impl Into<String>) -> SourceError {
        SourceError::System { system: self.url.clone(), why: why.into() }
    }

    fn send(&self, method: &Method, path: &str, body: Option<String>) -> Result<Answer, SourceError> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization.expose());
        }
        let unsendable = |e: ureq::http::Error| SourceError::Configuration(format!("{}{path}: {e}", self.url));
        let outcome = match body {
            Some(body) => {
                let request = request.header("content-type", "application/json").body(body).map_err(unsendable)?;
                self.agent.run(request)
            }
            None => self.agent.run(request.body(()).map_err(unsendable)?),
        };
        let mut response = outcome.map_err(|e| self.failed(e.to_string()))?;
        let status = response.status().as_u16();
        let text = response.body_mut().with_config().limit(ANSWER_MAX_BYTES).read_to_string();
        let text = text.map_err(|e| self.failed(format!("its answer cannot be read: {e}")))?;
        let body = match text.trim() {
            "" => Value::Null,
            text => match serde_json::from_str(text) {
                Ok(body) => body,
                Err(_) if (200..300).contains(&status) => return Err(self.failed("its answer is no JSON")),
                Err(_) => Value::Null,
            },
        };
        Ok(Answer { status, body })
    }
}

/// The reason as Elasticsearch and InfluxDB give it.
pub fn reason(body: &Value) -> String {
    let error = &body["error"];
    let text = error["reason"].as_str().or(error.as_str()).or(body["message"].as_str()).unwrap_or_default();
    let text: String = text.chars().filter(|c| !c.is_control()).take(REASON_MAX_CHARS).collect();
    if text.is_empty() { text } else { format!(": {text}") }
}

fn authorities(path: &Path) -> Result<Arc<Vec<Certificate<'static>>>, SourceError> {
    let wrong = |why: String| SourceError::Configuration(format!("{}: {why}", path.display()));
    let pem = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
    let mut found = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|e| wrong(e.to_string()))? {
            found.push(certificate);
        }
    }
    if found.is_empty() { Err(wrong("holds no certificate".into())) } else { Ok(Arc::new(found)) }
}
