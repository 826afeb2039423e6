//! Identities and passphrases: from files, file descriptors or a prompt, never from an argument.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use clap::Args;

use super::can_ask;
use crate::crypto::CryptoError;
use crate::crypto::identity::{Identity, IdentityFile, Passphrase, is_protected, open_with_passphrase, read_identity_file};
use crate::crypto::sign::SigningKey;
use crate::ops::OpError;

/// A passphrase or identity file larger than this is something else.
const FILE_MAX_BYTES: u64 = 64 * 1024;

/// Where a passphrase comes from.
#[derive(Debug, Clone, Default, Args)]
pub struct PassphraseArgs {
    /// Read the passphrase from this file descriptor
    #[arg(long, value_name = "N", conflicts_with = "passphrase_file")]
    pub passphrase_fd: Option<i32>,
    /// Read the passphrase from the first line of this file
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// What was handed in: a pipe gives it once, and two files may need it
    #[arg(skip)]
    read: OnceLock<Passphrase>,
}

/// Which identities open the vault.
#[derive(Debug, Clone, Default, Args)]
pub struct IdentityArgs {
    /// Identity file that opens the vault (AGE-SECRET-KEY-1..., plain or protected by a passphrase)
    #[arg(long, value_name = "FILE")]
    pub identity: Vec<PathBuf>,
    #[command(flatten)]
    pub passphrase: PassphraseArgs,
}

impl PassphraseArgs {
    /// The passphrase that was handed in, if one was.
    pub fn given(&self) -> Result<Option<Passphrase>, OpError> {
        if let Some(read) = self.read.get() {
            return Ok(Some(read.clone()));
        }
        let given = self.read()?;
        Ok(given.map(|given| self.read.get_or_init(|| given).clone()))
    }

    fn read(&self) -> Result<Option<Passphrase>, OpError> {
        let read = |mut reader: &mut dyn Read, what: String| {
            let mut text = zeroize::Zeroizing::new(String::new());
            let read = Read::take(&mut reader, FILE_MAX_BYTES).read_to_string(&mut text);
            read.map_err(|e| OpError::Usage(format!("{what}: {e}")))?;
            let line = text.lines().next().unwrap_or_default().to_owned();
            if line.is_empty() {
                Err(OpError::Usage(format!("{what}: the passphrase is empty")))
            } else {
                Ok(Passphrase::new(line))
            }
        };
        if let Some(number) = self.passphrase_fd {
            let what = format!("--passphrase-fd {number}");
            // Opening it anew by its name in /proc leaves the descriptor itself alone and needs no unsafe code.
            let path = format!("/proc/self/fd/{number}");
            let mut file = std::fs::File::open(path).map_err(|e| OpError::Usage(format!("{what}: {e}")))?;
            return read(&mut file, what).map(Some);
        }
        if let Some(path) = &self.passphrase_file {
            let what = format!("--passphrase-file {}", path.display());
            let mut file = std::fs::File::open(path).map_err(|e| OpError::Usage(format!("{what}: {e}")))?;
            return read(&mut file, what).map(Some);
        }
        Ok(None)
    }

    /// A new passphrase for `what`, asked for twice when none was handed in.
    pub fn for_new(&self, what: &str) -> Result<Passphrase, OpError> {
        if let Some(given) = self.given()? {
            return Ok(given);
        }
        if !can_ask() {
            let why = "a passphrase is needed: --passphrase-fd, --passphrase-file, or --no-passphrase to go without";
            return Err(OpError::Usage(why.into()));
        }
        let first = ask(&format!("passphrase for {what}: "))?;
        if first.is_empty() {
            return Err(OpError::Usage("the passphrase is empty; --no-passphrase goes without".into()));
        }
        if ask("the same again: ")? == first { Ok(first) } else { Err(OpError::Usage("the two passphrases differ".into())) }
    }
}

impl PassphraseArgs {
    /// Reads a private key that signs, as `init` writes the root's; a passphrase is asked for where it is needed.
    pub fn signing_key(&self, path: &Path, flag: &str) -> Result<SigningKey, OpError> {
        let shown = format!("{flag} {}", path.display());
        let wrong = |e: &dyn std::fmt::Display| OpError::Usage(format!("{shown}: {e}"));
        let mut content = zeroize::Zeroizing::new(Vec::new());
        let file = std::fs::File::open(path).map_err(|e| wrong(&e))?;
        file.take(FILE_MAX_BYTES).read_to_end(&mut content).map_err(|e| wrong(&e))?;
        if is_protected(&content) {
            let passphrase = self.of(&shown)?;
            content = open_with_passphrase(&content, &passphrase).map_err(|e| match e {
                CryptoError::Passphrase => OpError::NotDone(format!("{shown}: wrong passphrase")),
                other => wrong(&other),
            })?;
        }
        let text = std::str::from_utf8(&content).map_err(|_| wrong(&"not text"))?;
        SigningKey::from_openssh(text).map_err(|e| wrong(&e))
    }

    /// The passphrase of something that has one.
    fn of(&self, shown: &str) -> Result<Passphrase, OpError> {
        match self.given()? {
            Some(given) => Ok(given),
            None if can_ask() => ask(&format!("passphrase of {shown}: ")),
            None => {
                let why = "is protected by a passphrase: --passphrase-fd or --passphrase-file hands it in";
                Err(OpError::Usage(format!("{shown}: {why}")))
            }
        }
    }
}

impl IdentityArgs {
    /// Reads the identity files; passphrases are asked for where they are needed.
    pub fn read(&self) -> Result<Vec<IdentityFile>, OpError> {
        self.identity.iter().map(|path| self.read_one(path)).collect()
    }

    fn read_one(&self, path: &Path) -> Result<IdentityFile, OpError> {
        let shown = path.display();
        let mut content = zeroize::Zeroizing::new(Vec::new());
        let file = std::fs::File::open(path).map_err(|e| OpError::Usage(format!("identity file {shown}: {e}")))?;
        file.take(FILE_MAX_BYTES)
            .read_to_end(&mut content)
            .map_err(|e| OpError::Usage(format!("identity file {shown}: {e}")))?;
        let passphrase =
            if is_protected(&content) { Some(self.passphrase.of(&format!("identity file {shown}"))?) } else { None };
        read_identity_file(&content, passphrase.as_ref()).map_err(|e| match e {
            CryptoError::Passphrase => OpError::NotDone(format!("identity file {shown}: wrong passphrase")),
            other => OpError::Usage(format!("identity file {shown}: {other}")),
        })
    }
}

/// All keys of some identity files.
pub fn identities(files: &[IdentityFile]) -> Vec<Identity> {
    files.iter().flat_map(|file| file.identities.iter().cloned()).collect()
}

fn ask(prompt: &str) -> Result<Passphrase, OpError> {
    rpassword::prompt_password(prompt).map(Passphrase::new).map_err(|e| OpError::NotDone(format!("passphrase: {e}")))
}

/// Asks for the passphrase of an SSH key; none where nobody can be asked.
pub fn ask_for_key(path: &Path) -> Option<Passphrase> {
    if can_ask() { ask(&format!("passphrase of {}: ", path.display())).ok() } else { None }
}
