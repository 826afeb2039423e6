//! Logging in with public keys: from files, from an agent, with OpenSSH certificates beside the files.
//!
//! Keys that need no question are tried before keys that need a passphrase, and a passphrase is asked for once per file and
//! process. Private keys never leave this module except into the SSH library. No passwords.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use russh::client::{AuthResult, Handle, Handler};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::ssh_key::{Certificate, HashAlg, PrivateKey, PublicKey};
use russh::keys::{self, PrivateKeyWithHashAlg};
use russh::{MethodKind, MethodSet};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::options::AskPassphrase;
use super::route::Keys;
use crate::store::StoreError;

/// Keys that are tried on one connection: sshd hangs up after six (MaxAuthTries).
const TRIES_MAX: usize = 6;

/// Unlocked private keys, kept for further connections.
pub struct Keyring {
    ask: Option<AskPassphrase>,
    unlocked: Mutex<HashMap<PathBuf, Option<Arc<PrivateKey>>>>,
}

/// Something to log in with.
enum Candidate {
    /// A private key that lies open.
    File(PathBuf, Arc<PrivateKey>),
    /// A private key that needs a passphrase.
    Locked(PathBuf, PublicKey),
    /// A key that the agent holds.
    Agent(Box<AgentIdentity>),
}

impl Keyring {
    pub fn new(ask: Option<AskPassphrase>) -> Self {
        Self { ask, unlocked: Mutex::default() }
    }

    /// Logs in as `user` on a server whose host key was accepted. Each key may take as long as `limit`; the time that
    /// people take to type a passphrase does not count.
    ///
    /// # Errors
    /// [`StoreError::Login`] with everything that was tried; [`StoreError::Unreachable`] when the connection broke.
    pub async fn log_in<H: Handler>(
        &self,
        handle: &mut Handle<H>,
        user: &str,
        keys: &Keys,
        limit: Duration,
    ) -> Result<(), StoreError> {
        let in_time = |_| StoreError::Unreachable(format!("no answer at log-in for {} s", limit.as_secs_f32()));
        let mut agent = connect_agent(keys).await;
        let mut notes = Vec::new();
        let candidates = candidates(keys, agent.as_mut(), &mut notes).await;
        let mut accepted = MethodSet::empty();
        for candidate in candidates.into_iter().take(TRIES_MAX) {
            let outcome = match candidate {
                Candidate::File(path, key) => {
                    timeout(limit, with_key(handle, user, &path, key, &mut notes)).await.map_err(in_time)??
                }
                Candidate::Locked(path, public) => match self.unlock(&path) {
                    Ok(key) => timeout(limit, with_key(handle, user, &path, key, &mut notes)).await.map_err(in_time)??,
                    Err(why) => {
                        notes.push(format!("{} ({}): {why}", path.display(), fingerprint(&public)));
                        continue;
                    }
                },
                Candidate::Agent(identity) => match agent.as_mut() {
                    Some(agent) => {
                        let work = with_agent(handle, user, agent, &identity, &mut notes);
                        timeout(limit, work).await.map_err(in_time)??
                    }
                    None => continue,
                },
            };
            match outcome {
                AuthResult::Success => return Ok(()),
                AuthResult::Failure { remaining_methods, .. } if remaining_methods.is_empty() && handle.is_closed() => {
                    let why = "connection closed by the server at log-in";
                    return Err(StoreError::Unreachable(why.into()));
                }
                AuthResult::Failure { remaining_methods, partial_success } => {
                    accepted = remaining_methods;
                    if partial_success {
                        notes.push("the key is right, but the server wants a second factor".into());
                        break;
                    }
                    if !accepted.contains(&MethodKind::PublicKey) {
                        break;
                    }
                }
            }
        }
        Err(StoreError::Login(explain(user, &notes, &accepted)))
    }

    /// The private key of an encrypted file. A wrong passphrase is not asked for again on the next connection.
    fn unlock(&self, path: &Path) -> Result<Arc<PrivateKey>, &'static str> {
        let mut unlocked = self.unlocked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = unlocked.get(path) {
            return known.clone().ok_or("no passphrase, or a wrong one");
        }
        let ask = self.ask.as_ref().ok_or("needs a passphrase")?;
        let passphrase = ask(path);
        let key = passphrase.and_then(|p| keys::load_secret_key(path, Some(p.expose())).ok()).map(Arc::new);
        unlocked.insert(path.to_owned(), key.clone());
        key.ok_or("no passphrase, or a wrong one")
    }
}

async fn connect_agent(keys: &Keys) -> Option<AgentClient<UnixStream>> {
    let socket = keys.agent.as_ref()?;
    AgentClient::connect_uds(socket)
        .await
        .map_err(|error| tracing::debug!(socket = %socket.display(), %error, "no ssh-agent"))
        .ok()
}

/// What to try, in this order: open files, the agent's keys, files that need a passphrase.
async fn candidates(keys: &Keys, agent: Option<&mut AgentClient<UnixStream>>, notes: &mut Vec<String>) -> Vec<Candidate> {
    let held = match agent {
        Some(agent) => agent.request_identities().await.unwrap_or_default(),
        None => Vec::new(),
    };
    let mut open = Vec::new();
    let mut locked = Vec::new();
    let mut of_files = Vec::new();
    for path in &keys.files {
        match read_key(path) {
            Ok(KeyFile::Open(key)) => {
                of_files.push(key.public_key().clone());
                open.push(Candidate::File(path.clone(), key));
            }
            Ok(KeyFile::Locked(public)) => {
                of_files.push(public.clone());
                locked.push(Candidate::Locked(path.clone(), public));
            }
            Err(_) if !keys.named => {}
            Err(why) => notes.push(format!("{}: {why}", path.display())),
        }
    }
    let of_a_file = |key: &PublicKey| of_files.iter().any(|public| public.key_data() == key.key_data());
    let mut from_agent: Vec<AgentIdentity> =
        held.into_iter().filter(|identity| !keys.only_files || of_a_file(&identity.public_key())).collect();
    from_agent.sort_by_key(|identity| !of_a_file(&identity.public_key()));
    // What the agent can sign needs no passphrase.
    locked.retain(|candidate| match candidate {
        Candidate::Locked(_, public) => !from_agent.iter().any(|held| held.public_key().key_data() == public.key_data()),
        _ => true,
    });
    open.extend(from_agent.into_iter().map(|identity| Candidate::Agent(Box::new(identity))));
    open.extend(locked);
    open
}

enum KeyFile {
    Open(Arc<PrivateKey>),
    Locked(PublicKey),
}

fn read_key(path: &Path) -> Result<KeyFile, String> {
    let content = std::fs::read(path).map_err(|e| e.to_string())?;
    // OpenSSH's own form carries the public half in clear.
    if let Ok(key) = PrivateKey::from_openssh(&content) {
        return Ok(if key.is_encrypted() {
            KeyFile::Locked(key.public_key().clone())
        } else {
            KeyFile::Open(Arc::new(key))
        });
    }
    match keys::load_secret_key(path, None) {
        Ok(key) => Ok(KeyFile::Open(Arc::new(key))),
        Err(keys::Error::KeyIsEncrypted) => {
            let public = keys::load_public_key(with_suffix(path, ".pub"))
                .map_err(|e| format!("is encrypted, and its public half cannot be read: {e}"))?;
            Ok(KeyFile::Locked(public))
        }
        Err(e) => Err(format!("not a private key: {e}")),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

async fn with_key<H: Handler>(
    handle: &mut Handle<H>,
    user: &str,
    path: &Path,
    key: Arc<PrivateKey>,
    notes: &mut Vec<String>,
) -> Result<AuthResult, StoreError> {
    let certificate = with_suffix(path, "-cert.pub");
    if certificate.exists() {
        match keys::load_openssh_certificate(&certificate) {
            Ok(loaded) if loaded.public_key() == key.public_key().key_data() => {
                notes.push(format!("{} (certificate {:?})", certificate.display(), loaded.key_id()));
                let outcome = handle.authenticate_openssh_cert(user, key.clone(), loaded).await.map_err(lost)?;
                if outcome.success() {
                    return Ok(outcome);
                }
            }
            Ok(_) => notes.push(format!("{}: is for another key", certificate.display())),
            Err(e) => notes.push(format!("{}: {e}", certificate.display())),
        }
    }
    notes.push(format!("{} ({})", path.display(), fingerprint(key.public_key())));
    let hash = hash_for(handle, key.public_key()).await?;
    handle.authenticate_publickey(user, PrivateKeyWithHashAlg::new(key, hash)).await.map_err(lost)
}

async fn with_agent<H: Handler>(
    handle: &mut Handle<H>,
    user: &str,
    agent: &mut AgentClient<UnixStream>,
    identity: &AgentIdentity,
    notes: &mut Vec<String>,
) -> Result<AuthResult, StoreError> {
    let public = identity.public_key().into_owned();
    notes.push(format!("agent key {} ({})", identity.comment(), fingerprint(&public)));
    let hash = hash_for(handle, &public).await?;
    let outcome = match identity {
        AgentIdentity::PublicKey { key, .. } => handle.authenticate_publickey_with(user, key.clone(), hash, agent).await,
        AgentIdentity::Certificate { certificate, .. } => {
            let certificate: Certificate = certificate.clone();
            handle.authenticate_certificate_with(user, certificate, hash, agent).await
        }
    };
    match outcome {
        Ok(outcome) => Ok(outcome),
        Err(russh::AgentAuthError::Send(_)) => Err(lost(russh::Error::Disconnect)),
        // The agent does not want to sign with this one.
        Err(russh::AgentAuthError::Key(e)) => {
            notes.push(format!("the agent: {e}"));
            let remaining_methods = MethodSet::from(&[MethodKind::PublicKey][..]);
            Ok(AuthResult::Failure { remaining_methods, partial_success: false })
        }
    }
}

/// The hash of an RSA signature: the best that the server announces, never SHA-1.
async fn hash_for<H: Handler>(handle: &Handle<H>, key: &PublicKey) -> Result<Option<HashAlg>, StoreError> {
    if !key.algorithm().is_rsa() {
        return Ok(None);
    }
    let announced = handle.best_supported_rsa_hash().await.map_err(lost)?;
    Ok(announced.flatten().or(Some(HashAlg::Sha512)))
}

fn lost(error: russh::Error) -> StoreError {
    match error {
        russh::Error::NoAuthMethod => StoreError::Login("the server takes no further keys".into()),
        error => StoreError::Unreachable(format!("connection lost at log-in: {error}")),
    }
}

fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

fn explain(user: &str, notes: &[String], accepted: &MethodSet) -> String {
    let mut message = format!("account {user}: no key was accepted");
    if notes.is_empty() {
        message.push_str("; there was none to try: name a key file, or load one into the ssh-agent");
    } else {
        let _ = write!(message, "; tried {}", notes.join(", "));
    }
    if !accepted.is_empty() {
        let methods: Vec<String> = accepted.iter().map(|method| String::from(<&str>::from(method))).collect();
        let _ = write!(message, "; the server takes {}", methods.join(", "));
    }
    message
}
