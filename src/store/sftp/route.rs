//! The way to a server: its address, account, keys and trust, after ~/.ssh/config, and the same for each jump host before it.
//!
//! Deliberately unaware of connections: everything that can be refused without one is refused here.

use std::path::{Path, PathBuf};

use super::DEFAULT_PORT;
use super::options::SftpOptions;
use super::ssh_config::{self, HostConfig};
use super::trust::Trust;
use crate::store::StoreError;
use crate::store::location::SftpLocation;

/// Jump hosts before one server, and how far their own jump hosts are followed: a configuration that names hosts in a
/// circle ends here.
const HOPS_MAX: usize = 8;
/// Private keys that are tried when nobody names any, in OpenSSH's order.
const USUAL_KEYS: [&str; 3] = [".ssh/id_ed25519", ".ssh/id_ecdsa", ".ssh/id_rsa"];
/// Where OpenSSH keeps host keys.
const USUAL_KNOWN_HOSTS: [&str; 2] = [".ssh/known_hosts", ".ssh/known_hosts2"];
const GLOBAL_KNOWN_HOSTS: [&str; 2] = ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"];

/// One SSH server on the way.
#[derive(Debug, Clone)]
pub struct Hop {
    /// The name or address to connect to.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The account.
    pub user: String,
    /// Who it must be.
    pub trust: Trust,
    /// What may log in.
    pub keys: Keys,
}

/// What may log in on one server.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Key files, in the order in which they are tried.
    pub files: Vec<PathBuf>,
    /// Whether somebody named these files; a missing one is then worth a word.
    pub named: bool,
    /// The agent's socket.
    pub agent: Option<PathBuf>,
    /// Whether only keys of `files` may be tried, from the agent too.
    pub only_files: bool,
}

/// The hops to a store, the store's own server last.
///
/// # Errors
/// [`StoreError::Login`] when no account is named anywhere, or the configuration asks for something that is not possible.
pub fn to(location: &SftpLocation, options: &SftpOptions) -> Result<Vec<Hop>, StoreError> {
    let home = std::env::home_dir();
    let mut hops = Vec::new();
    let wanted = Wanted { alias: &location.host, user: location.user.clone(), port: location.port };
    Way { options, home: home.as_deref() }.add(&mut hops, wanted, 0, Jumps::AsConfigured)?;
    if let (Some(last), false) = (hops.last_mut(), options.host_keys.is_empty()) {
        last.trust = Trust::pinned(&last.host, last.port, &options.host_keys);
    }
    Ok(hops)
}

struct Wanted<'a> {
    alias: &'a str,
    user: Option<String>,
    port: Option<u16>,
}

/// Whether a host has jump hosts of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Jumps {
    AsConfigured,
    /// It is reached through those before it.
    None,
}

struct Way<'a> {
    options: &'a SftpOptions,
    home: Option<&'a Path>,
}

impl Way<'_> {
    /// Adds the hops before `wanted`, then itself.
    fn add(&self, hops: &mut Vec<Hop>, wanted: Wanted<'_>, depth: usize, jumps: Jumps) -> Result<(), StoreError> {
        let alias = wanted.alias;
        if depth > HOPS_MAX || hops.len() > HOPS_MAX {
            return Err(StoreError::Login(format!("{alias}: more than {HOPS_MAX} jump hosts")));
        }
        let file = self.options.ssh_config.as_ref();
        let config = file.map_or_else(HostConfig::default, |file| ssh_config::read(file, self.home, alias));
        if let Some(command) = &config.proxy_command {
            let why = format!("{alias}: ssh configuration asks for ProxyCommand {command:?}; only ProxyJump is supported");
            return Err(StoreError::Login(why));
        }
        let through = config.proxy_jump.as_deref().filter(|_| jumps == Jumps::AsConfigured).unwrap_or_default();
        for (number, jump) in through.iter().enumerate() {
            let jumps = if number == 0 { Jumps::AsConfigured } else { Jumps::None };
            self.add(hops, parse_jump(jump)?, depth + 1, jumps)?;
        }
        hops.push(hop(wanted, config, self.options, self.home)?);
        Ok(())
    }
}

/// `[user@]host[:port]`, also as `ssh://...`.
fn parse_jump(text: &str) -> Result<Wanted<'_>, StoreError> {
    let wrong = || StoreError::Login(format!("not a jump host: {text:?}"));
    let rest = text.strip_prefix("ssh://").unwrap_or(text);
    let (user, host) = match rest.rsplit_once('@') {
        Some((user, host)) => (Some(user.to_owned()), host),
        None => (None, rest),
    };
    let (alias, port) = if let Some(rest) = host.strip_prefix('[') {
        let (alias, after) = rest.split_once(']').ok_or_else(wrong)?;
        (alias, after.strip_prefix(':'))
    } else {
        match host.split_once(':') {
            // An IPv6 address without brackets has no port.
            Some((_, port)) if port.contains(':') => (host, None),
            Some((alias, port)) => (alias, Some(port)),
            None => (host, None),
        }
    };
    let port = port.map(str::parse).transpose().map_err(|_| wrong())?;
    if alias.is_empty() { Err(wrong()) } else { Ok(Wanted { alias, user, port }) }
}

fn hop(wanted: Wanted<'_>, config: HostConfig, options: &SftpOptions, home: Option<&Path>) -> Result<Hop, StoreError> {
    let host = config.host_name.unwrap_or_else(|| wanted.alias.to_owned());
    let port = wanted.port.or(config.port).unwrap_or(DEFAULT_PORT);
    let local_user = || ["LOGNAME", "USER"].iter().find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    let user = wanted.user.or(config.user).or_else(local_user).ok_or_else(|| {
        StoreError::Login(format!("{}: no account named; write sftp://ACCOUNT@{}/...", wanted.alias, wanted.alias))
    })?;
    let below_home = |names: &[&str]| home.map(|h| names.iter().map(|n| h.join(n)).collect::<Vec<_>>()).unwrap_or_default();
    let known_hosts = options.known_hosts.clone().unwrap_or_else(|| {
        let mut files = config.user_known_hosts.unwrap_or_else(|| below_home(&USUAL_KNOWN_HOSTS));
        files.extend(config.global_known_hosts.unwrap_or_else(|| GLOBAL_KNOWN_HOSTS.map(PathBuf::from).to_vec()));
        files
    });
    let (files, named) = match (options.key_files.is_empty(), config.identity_files.is_empty()) {
        (false, _) => (options.key_files.clone(), true),
        (true, false) => (config.identity_files, true),
        (true, true) => (below_home(&USUAL_KEYS), false),
    };
    let agent = match config.identity_agent.as_deref() {
        _ if !options.use_agent => None,
        Some("none") => None,
        None | Some("SSH_AUTH_SOCK") => std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from),
        Some(socket) => Some(PathBuf::from(socket)),
    };
    let trusted_as = config.host_key_alias.unwrap_or_else(|| host.clone());
    let trust = Trust::from_known_hosts(&trusted_as, port, known_hosts);
    let keys = Keys { files, named, agent, only_files: config.identities_only.unwrap_or(false) };
    Ok(Hop { host, port, user, trust, keys })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(config: &str, host: &str) -> Result<Vec<String>, StoreError> {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let file = dir.path().join("config");
        std::fs::write(&file, config).unwrap_or_else(|e| panic!("{e}"));
        let options = SftpOptions { ssh_config: Some(file), ..SftpOptions::default() };
        let location = SftpLocation { user: Some("me".into()), host: host.into(), port: None, path: "/vault".into() };
        let hops = to(&location, &options)?;
        Ok(hops.into_iter().map(|hop| format!("{}@{}:{}", hop.user, hop.host, hop.port)).collect())
    }

    #[test]
    fn jump_hosts_come_first_with_settings_of_their_own() {
        let config = "Host far\n HostName far.example.org\n Port 2200\n ProxyJump gate,x@[::1]:23\n\
                      Host gate\n HostName 10.0.0.1\n User keeper\n ProxyJump outer\nHost outer\n User o\n";
        assert_eq!(
            route(config, "far"),
            Ok(vec!["o@outer:22".into(), "keeper@10.0.0.1:22".into(), "x@::1:23".into(), "me@far.example.org:2200".into()])
        );
        assert_eq!(route("", "plain"), Ok(vec!["me@plain:22".into()]));
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_the_name_of_the_host() {
        let refused = |config: &str| route(config, "a").err().map(|e| e.to_string()).unwrap_or_default();
        assert!(refused("Host a\n User o\n ProxyJump b\nHost b\n User o\n ProxyJump a\n").contains("jump hosts"));
        assert!(refused("ProxyCommand nc %h %p\n").contains("ProxyCommand"));
        assert!(refused("ProxyJump b:x\n").contains("b:x"));
    }
}
