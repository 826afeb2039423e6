//! What every command begins with: configuration, state directory, names of machine and user, progress.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::Global;
use super::config::Config;
use super::progress::ProgressBar;
use crate::ops::OpError;

/// One run of the program.
pub struct Session {
    /// The configuration; an empty one when there is no file.
    pub config: Config,
    /// Where the configuration is, or would be.
    pub config_path: PathBuf,
    /// The state directory of all vaults.
    pub state_root: PathBuf,
    /// What this machine is called.
    pub host: String,
    /// The account that runs this.
    pub user: String,
    /// Whether programs read what is printed.
    pub json: bool,
    quiet: bool,
    /// Shows what happens.
    pub(super) progress: ProgressBar,
}

impl Session {
    /// Reads the configuration and finds the directories.
    ///
    /// # Errors
    /// When the configuration has mistakes.
    pub fn open(global: &Global) -> Result<Self, OpError> {
        let config_path = match &global.config {
            Some(path) => path.clone(),
            None => default_dir("XDG_CONFIG_HOME", ".config", "/etc")?.join("farkeep.toml"),
        };
        let config = Config::load(&config_path).map_err(|e| OpError::Usage(e.to_string()))?;
        let state_root = match &global.state_dir {
            Some(path) => path.clone(),
            None => default_dir("XDG_STATE_HOME", ".local/state", "/var/lib")?,
        };
        let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let host = config.host.clone().unwrap_or(node);
        let uid = rustix::process::getuid().as_raw();
        let user = uzers::get_user_by_uid(uid).map_or_else(|| uid.to_string(), |u| u.name().to_string_lossy().into_owned());
        let progress = ProgressBar::new(!global.quiet && !global.json);
        let (json, quiet) = (global.json, global.quiet);
        Ok(Self { config, config_path, state_root, host, user, json, quiet, progress })
    }

    /// Says something while a command runs on, to people.
    pub fn say(&self, text: &str) {
        if !self.quiet && !self.json {
            let _ = writeln!(std::io::stdout().lock(), "{text}");
        }
    }

    /// The folder of the configuration.
    #[must_use]
    pub fn config_dir(&self) -> &Path {
        self.config_path.parent().unwrap_or(Path::new("."))
    }
}

/// Root's directories are those of the system; everybody else's follow the XDG base directory specification.
fn default_dir(variable: &str, below_home: &str, of_root: &str) -> Result<PathBuf, OpError> {
    if rustix::process::geteuid().is_root() {
        return Ok(Path::new(of_root).join("farkeep"));
    }
    if let Some(dir) = std::env::var_os(variable).filter(|dir| Path::new(dir).is_absolute()) {
        return Ok(PathBuf::from(dir).join("farkeep"));
    }
    match std::env::var_os("HOME") {
        Some(home) => Ok(PathBuf::from(home).join(below_home).join("farkeep")),
        None => {
            Err(OpError::Usage(format!("neither {variable} nor HOME is set; name the files with --config and --state-dir")))
        }
    }
}
