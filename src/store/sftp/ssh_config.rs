//! The part of ~/.ssh/config (ssh_config(5)) that says how to reach a host: aliases, names, ports, users, keys, jump hosts.
//!
//! As in OpenSSH, the first value found for a setting wins, and IdentityFile collects. `Match` blocks are understood with
//! `all`, `host` and `originalhost`; others are skipped with a warning. A setting that would make the connection take
//! another path than this program can (ProxyCommand) is reported instead of ignored. Everything else is left to OpenSSH.

use std::path::{Path, PathBuf};

use super::pattern;

/// Include files within Include files.
const INCLUDE_DEPTH_MAX: usize = 8;
/// Files that all Include lines together may name.
const FILES_MAX: usize = 64;

/// What the file says about one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostConfig {
    /// The name to connect to.
    pub host_name: Option<String>,
    /// The port.
    pub port: Option<u16>,
    /// The account.
    pub user: Option<String>,
    /// Private keys.
    pub identity_files: Vec<PathBuf>,
    /// Whether only these keys may be tried, even when an agent holds more.
    pub identities_only: Option<bool>,
    /// The agent's socket; `none` switches it off.
    pub identity_agent: Option<String>,
    /// Jump hosts, first one first; empty for none.
    pub proxy_jump: Option<Vec<String>>,
    /// A command that carries the connection, which is not supported.
    pub proxy_command: Option<String>,
    /// known_hosts files of the user.
    pub user_known_hosts: Option<Vec<PathBuf>>,
    /// known_hosts files of the machine.
    pub global_known_hosts: Option<Vec<PathBuf>>,
    /// The name that known_hosts files know the host by.
    pub host_key_alias: Option<String>,
}

/// Reads what `file` says about `alias`. A file that does not exist says nothing.
pub fn read(file: &Path, home: Option<&Path>, alias: &str) -> HostConfig {
    let mut reading = Reading { alias, home, config: HostConfig::default(), applies: true, files: 0, dir: file.parent() };
    reading.file(file, 0);
    let Reading { mut config, .. } = reading;
    if let Some(name) = &mut config.host_name {
        *name = name.replace("%h", alias).replace("%%", "%");
    }
    config
}

struct Reading<'a> {
    alias: &'a str,
    home: Option<&'a Path>,
    config: HostConfig,
    /// Whether the block that is being read is about the host.
    applies: bool,
    files: usize,
    dir: Option<&'a Path>,
}

impl Reading<'_> {
    fn file(&mut self, file: &Path, depth: usize) {
        self.files += 1;
        if depth > INCLUDE_DEPTH_MAX || self.files > FILES_MAX {
            tracing::warn!(file = %file.display(), "too many Include lines, ignored from here");
            return;
        }
        let content = match std::fs::read(file) {
            Ok(content) => String::from_utf8_lossy(&content).into_owned(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return,
            Err(e) => {
                tracing::warn!(file = %file.display(), error = %e, "ssh configuration cannot be read");
                return;
            }
        };
        for (number, line) in content.lines().enumerate() {
            let words = words(line);
            let Some((key, values)) = words.split_first() else { continue };
            if values.is_empty() {
                tracing::warn!(file = %file.display(), line = number + 1, "ssh configuration line without a value");
                continue;
            }
            self.line(&key.to_ascii_lowercase(), values, depth);
        }
    }

    fn line(&mut self, key: &str, values: &[String], depth: usize) {
        match key {
            "host" => self.applies = pattern::any_fits(values.iter().map(String::as_str), self.alias),
            "match" => self.applies = self.matches(values),
            _ if !self.applies => {}
            "include" => {
                // What an included file selects ends with it.
                for value in values {
                    for file in self.included(value) {
                        self.file(&file, depth + 1);
                        self.applies = true;
                    }
                }
            }
            _ => self.setting(key, values),
        }
    }

    fn setting(&mut self, key: &str, values: &[String]) {
        let first = values[0].clone();
        let path = self.path(&first);
        let paths: Vec<PathBuf> = values.iter().map(|value| self.path(value)).collect();
        match key {
            "hostname" => set(&mut self.config.host_name, first),
            "port" => match first.parse() {
                Ok(port) => set(&mut self.config.port, port),
                Err(_) => tracing::warn!(port = %first, "ssh configuration with a port that is none"),
            },
            "user" => set(&mut self.config.user, first),
            "identityfile" if first != "none" => self.config.identity_files.push(path),
            "identitiesonly" => set(&mut self.config.identities_only, first.eq_ignore_ascii_case("yes")),
            "identityagent" => set(&mut self.config.identity_agent, path.display().to_string()),
            "proxyjump" if self.config.proxy_command.is_none() => {
                let all = values.concat();
                let hops = all.split(',').filter(|hop| !hop.is_empty() && *hop != "none");
                set(&mut self.config.proxy_jump, hops.map(str::to_owned).collect());
            }
            "proxycommand" if first != "none" && self.config.proxy_jump.is_none() => {
                set(&mut self.config.proxy_command, values.join(" "));
            }
            "userknownhostsfile" => set(&mut self.config.user_known_hosts, paths),
            "globalknownhostsfile" => set(&mut self.config.global_known_hosts, paths),
            "hostkeyalias" => set(&mut self.config.host_key_alias, first),
            _ => {}
        }
    }

    fn matches(&self, criteria: &[String]) -> bool {
        let mut criteria = criteria.iter();
        while let Some(criterion) = criteria.next() {
            let name = match criterion.to_ascii_lowercase().as_str() {
                "all" => continue,
                "originalhost" => self.alias,
                "host" => self.config.host_name.as_deref().unwrap_or(self.alias),
                other => {
                    tracing::warn!(criterion = %other, "ssh configuration: Match block skipped");
                    return false;
                }
            };
            let fits = criteria.next().is_some_and(|patterns| pattern::any_fits(patterns.split(','), name));
            if !fits {
                return false;
            }
        }
        true
    }

    /// The files that an Include names; a star stands only in the last component.
    fn included(&self, value: &str) -> Vec<PathBuf> {
        let path = self.path(value);
        let path = match self.dir {
            Some(dir) if path.is_relative() => dir.join(path),
            _ => path,
        };
        let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
            return Vec::new();
        };
        if !name.contains(['*', '?']) {
            return vec![path];
        }
        let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_str().is_some_and(|n| pattern::fits(name, n)))
            .map(|entry| entry.path())
            .collect();
        found.sort();
        found
    }

    /// A path with `~` and the tokens that need no connection.
    fn path(&self, value: &str) -> PathBuf {
        let home = self.home.map(|home| home.display().to_string());
        let mut text = value.to_owned();
        if let Some(home) = &home {
            if let Some(rest) = value.strip_prefix("~/") {
                text = format!("{home}/{rest}");
            }
            text = text.replace("%d", home).replace("${HOME}", home);
        }
        PathBuf::from(text.replace("%n", self.alias).replace("%%", "%"))
    }
}

fn set<T>(slot: &mut Option<T>, value: T) {
    if slot.is_none() {
        *slot = Some(value);
    }
}

/// The words of a line: separated by blanks, the first one also by `=`; quotes keep blanks; `#` begins a comment.
fn words(line: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for c in line.trim().chars() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '#' if !quoted && word.is_none() => break,
            c if !quoted && (c.is_whitespace() || (c == '=' && words.is_empty())) => words.extend(word.take()),
            // `Port = 22`: the sign stands alone.
            '=' if !quoted && words.len() == 1 && word.is_none() => {}
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(content: &str, alias: &str) -> HostConfig {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let file = dir.path().join("config");
        std::fs::write(&file, content).unwrap_or_else(|e| panic!("{e}"));
        std::fs::write(dir.path().join("more.conf"), "Host backup\n  User included\nHost other\n")
            .unwrap_or_else(|e| panic!("{e}"));
        read(&file, Some(Path::new("/home/me")), alias)
    }

    #[test]
    fn the_first_value_wins_and_keys_collect() {
        let found = config(
            "Host backup b2\n  HostName %h.example.org\n  Port=2222\n  IdentityFile ~/.ssh/\"a b\"\n  ProxyJump j1, u@j2:22\n\
             Host *\n  User everyone # not me\n  Port 22\n  IdentityFile %d/.ssh/c\n  IdentitiesOnly yes\n",
            "backup",
        );
        assert_eq!(found.host_name.as_deref(), Some("backup.example.org"));
        assert_eq!((found.port, found.user.as_deref()), (Some(2222), Some("everyone")));
        assert_eq!(found.identity_files, [Path::new("/home/me/.ssh/a b"), Path::new("/home/me/.ssh/c")]);
        assert_eq!(found.identities_only, Some(true));
        assert_eq!(found.proxy_jump, Some(vec!["j1".into(), "u@j2:22".into()]));
        assert_eq!(config("Host other\n Port 1\n", "backup"), HostConfig::default());
    }

    #[test]
    fn jump_hosts_none_and_commands() {
        assert_eq!(config("ProxyJump a,b@c:2\n", "x").proxy_jump, Some(vec!["a".into(), "b@c:2".into()]));
        assert_eq!(config("ProxyJump none\n", "x").proxy_jump, Some(vec![]));
        assert_eq!(config("ProxyCommand nc %h 22\n", "x").proxy_command.as_deref(), Some("nc %h 22"));
        let jump_first = config("ProxyJump a\nProxyCommand nc %h 22\n", "x");
        assert_eq!(jump_first.proxy_command, None, "what comes first wins, as in OpenSSH");
    }

    #[test]
    fn includes_and_match_blocks() {
        let found = config("Include *.conf\nHost backup\n  User later\n  Port 7\n", "backup");
        assert_eq!((found.user.as_deref(), found.port), (Some("included"), Some(7)));
        assert_eq!(
            config("Match host back*\n Port 1\nMatch exec true\n Port 2\nMatch all\n Port 3\n", "backup").port,
            Some(1)
        );
        assert_eq!(config("Match exec true\n Port 2\nMatch all\n Port 3\n", "backup").port, Some(3));
    }

    #[test]
    fn words_of_a_line() {
        assert_eq!(words("  Port = 22 # comment"), ["Port", "22"]);
        assert_eq!(words("IdentityFile \"a b\" c"), ["IdentityFile", "a b", "c"]);
        assert_eq!(words("a=b=c"), ["a", "b=c"]);
        assert!(words("# all comment").is_empty());
    }
}
