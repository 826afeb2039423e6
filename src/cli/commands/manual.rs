//! `farkeep completions` and `farkeep man`

use clap::CommandFactory;

use crate::cli::{Cli, Outcome};
use crate::ops::{Exit, OpError};

/// Arguments of `farkeep completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Runs `farkeep completions`.
pub fn run_completions(args: &CompletionsArgs) -> Result<Outcome, OpError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "farkeep", &mut script);
    text(script)
}

/// Arguments of `farkeep man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// The command whose page is wanted [default: farkeep itself]
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

/// Runs `farkeep man`.
pub fn run_man(args: &ManArgs) -> Result<Outcome, OpError> {
    let root = Cli::command();
    let command = match &args.command {
        None => root,
        Some(name) => {
            let found = root.find_subcommand(name).cloned();
            found
                .ok_or_else(|| OpError::Usage(format!("there is no command {name:?}")))?
                .display_name(format!("farkeep-{name}"))
        }
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).map_err(|e| OpError::NotDone(e.to_string()))?;
    text(page)
}

fn text(bytes: Vec<u8>) -> Result<Outcome, OpError> {
    let text = String::from_utf8(bytes).map_err(|e| OpError::NotDone(e.to_string()))?;
    let value = serde_json::json!({ "text": text });
    Ok(Outcome { exit: Exit::Done, text, value })
}
