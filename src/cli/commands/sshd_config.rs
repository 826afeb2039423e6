//! `farkeep sshd-config`: what the administrator of a backup server does, once, so that an account can add files and never
//! change them.
//!
//! The account's rules are a white list of SFTP requests and a umask under which every file is read-only from birth; the
//! readers' account shares its group. README and SECURITY.md say what this holds against; `farkeep probe` tries it.

use std::fmt::Write as _;

use crate::cli::{Outcome, Session};
use crate::model::name::Area;
use crate::ops::{Exit, OpError};
use crate::store::Location;

/// The requests that a push and a verification send, and nothing else.
const WHITE_LIST: &str = "open,close,read,write,lstat,fstat,stat,opendir,readdir,realpath,statvfs,fstatvfs,fsync,limits";
/// Files are 0440 whatever the client asks for: not even their maker opens one for writing again, and the group reads.
const UMASK: &str = "0237";
/// Ways to something else than SFTP, all closed.
const CLOSED: [&str; 5] = ["AllowTcpForwarding", "AllowStreamLocalForwarding", "X11Forwarding", "PermitTTY", "PermitUserRC"];

/// Arguments of `farkeep sshd-config`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The account that adds files [default: that of the configured store, else bk-host1]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The account that only reads [default: the user and -reader]
    #[arg(long, value_name = "NAME")]
    reader: Option<String>,
    /// The group that may read what the user added [default: the user and -read]
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// The directory on the server that both accounts see as / [default: /srv/backup/ and the user without bk-]
    #[arg(long, value_name = "DIR")]
    path: Option<String>,
    /// The vault's directory, as the accounts see it [default: that of the configured store, else /vault]
    #[arg(long, value_name = "DIR")]
    vault: Option<String>,
    /// Where the server keeps the accounts' public keys, one file each
    #[arg(long, value_name = "DIR", default_value = "/etc/ssh/authorized_keys.d")]
    keys: String,
}

/// The names in the recipe.
struct Recipe {
    user: String,
    reader: String,
    group: String,
    path: String,
    vault: String,
    keys: String,
}

/// Runs it.
pub fn run(args: &Args, session: &Session) -> Result<Outcome, OpError> {
    let recipe = recipe(args, session)?;
    let (commands, block) = (recipe.commands(), recipe.block());
    let mut text =
        "# An account that adds files and never changes them, and one that only reads. As root on the server:\n#\n"
            .to_owned();
    for command in &commands {
        let _ = writeln!(text, "#   {command}");
    }
    let _ = write!(
        text,
        "#\n# {0}.pub and {1}.pub are the public keys of the machine that pushes and of the one that reads. Every directory\n\
         # from / to {2} must be root's, and writable by nobody else. These lines go to\n\
         # /etc/ssh/sshd_config.d/{0}.conf or to the end of sshd_config; then: sshd -t && systemctl reload ssh.\n\
         # From the machine that pushes, farkeep probe tells whether it holds.\n\n{block}",
        recipe.user, recipe.reader, recipe.path,
    );
    Ok(Outcome::new(Exit::Done, text, &serde_json::json!({ "commands": commands, "config": block })))
}

fn recipe(args: &Args, session: &Session) -> Result<Recipe, OpError> {
    let mut servers = session.config.stores.values().filter_map(|store| match &store.location {
        Some(Location::Sftp(sftp)) => Some(sftp),
        _ => None,
    });
    // With several servers in the configuration none of them is meant more than another.
    let configured = servers.next().filter(|_| servers.next().is_none());
    let user = args.user.clone().or_else(|| configured?.user.clone()).unwrap_or_else(|| "bk-host1".into());
    let host = user.strip_prefix("bk-").unwrap_or(&user);
    let path = args.path.clone().unwrap_or_else(|| format!("/srv/backup/{host}"));
    let vault = args.vault.clone().or_else(|| configured.map(|sftp| sftp.path.clone())).unwrap_or_else(|| "/vault".into());
    let recipe = Recipe {
        reader: args.reader.clone().unwrap_or_else(|| format!("{user}-reader")),
        group: args.group.clone().unwrap_or_else(|| format!("{user}-read")),
        path: path.trim_end_matches('/').to_owned(),
        vault: vault.trim_matches('/').to_owned(),
        keys: args.keys.trim_end_matches('/').to_owned(),
        user,
    };
    recipe.check()?;
    Ok(recipe)
}

impl Recipe {
    /// What is printed is run by root: nothing but plain names and paths gets into it.
    fn check(&self) -> Result<(), OpError> {
        let plain = |text: &str, more: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c) || more.contains(c))
        };
        for (what, name) in [("--user", &self.user), ("--reader", &self.reader), ("--group", &self.group)] {
            if !plain(name, "") || name.starts_with(['-', '.']) {
                return Err(OpError::Usage(format!("{what} {name:?}: letters, digits, - _ and . only")));
            }
        }
        if self.user == self.reader {
            return Err(OpError::Usage(
                "--user and --reader must be two accounts: what forces one to SFTP forces both".into(),
            ));
        }
        for (what, path) in [("--path", &self.path), ("--keys", &self.keys)] {
            if !plain(path, "/") || !path.starts_with('/') || path.split('/').any(|part| part == "..") {
                return Err(OpError::Usage(format!(
                    "{what} {path:?}: an absolute path of letters, digits, - _ . and / only"
                )));
            }
        }
        if !plain(&self.vault, "/") || self.vault.split('/').any(|part| part == ".." || part.is_empty()) {
            let why = "a directory below /, of letters, digits, - _ . and / only; it cannot be / itself, which is root's";
            return Err(OpError::Usage(format!("--vault {:?}: {why}", self.vault)));
        }
        Ok(())
    }

    fn commands(&self) -> Vec<String> {
        let Self { user, reader, group, path, vault, keys } = self;
        // A password that nothing fits; a locked account is turned away where sshd does without PAM.
        let useradd = "useradd -M -d / -s /usr/sbin/nologin -p '*'";
        let areas: Vec<&str> = Area::ALL.iter().map(|area| area.dir()).filter(|dir| !dir.is_empty()).collect();
        let owned = format!("install -d -m 2750 -o {user} -g {group}");
        vec![
            format!("groupadd {group}"),
            format!("{useradd} -U {user}"),
            format!("{useradd} -N -g {group} {reader}"),
            format!("install -d -m 0755 -o root -g root {path}"),
            format!("{owned} {path}/{vault}"),
            format!("(cd {path}/{vault} && {owned} {} $(printf 'packs/%02x ' $(seq 0 255)))", areas.join(" ")),
            format!("install -D -m 0644 {user}.pub {keys}/{user}"),
            format!("install -D -m 0644 {reader}.pub {keys}/{reader}"),
        ]
    }

    fn block(&self) -> String {
        let writer = format!("internal-sftp -l INFO -u {UMASK} -p {WHITE_LIST}");
        let mut block = self.account(&self.user, &writer);
        block.push('\n');
        block += &self.account(&self.reader, "internal-sftp -R -l INFO");
        // What follows in the same file, or in the next one, is for everybody again.
        block.push_str("\nMatch all\n");
        block
    }

    fn account(&self, user: &str, command: &str) -> String {
        let mut block = format!(
            "Match User {user}\n  ChrootDirectory {}\n  AuthorizedKeysFile {}/%u\n  ForceCommand {command}\n",
            self.path, self.keys
        );
        for way in CLOSED {
            let _ = writeln!(block, "  {way} no");
        }
        block
    }
}
