//! What every source and job may have, whatever its kind: limits, hooks, variables, further targets.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::section::Section;
use crate::ops::hooks::Hooks;
use crate::source::limits::Limits;

/// The key of a variable that names the choice where none is made.
const DEFAULT: &str = "default";

/// What was chosen on the command line before the configuration is read.
#[derive(Debug, Clone, Default)]
pub struct Choices {
    /// `--var name=choice`.
    pub vars: BTreeMap<String, String>,
    /// `--into-target NAME`.
    pub target: Option<String>,
}

/// A job's variables: what each name stands for now, by the choice that was made.
pub fn read_vars(section: &Section<'_>, choices: &Choices) -> Rc<BTreeMap<String, String>> {
    let mut filled = BTreeMap::new();
    for (name, choices_of) in section.table("var").map(|vars| vars.sections()).unwrap_or_default() {
        let texts = choices_of.all_texts();
        let chosen = choices.vars.get(&name).or_else(|| texts.get(DEFAULT));
        let known: Vec<&str> = texts.keys().map(String::as_str).filter(|key| *key != DEFAULT).collect();
        match chosen.filter(|chosen| *chosen != DEFAULT).and_then(|chosen| texts.get(chosen)) {
            Some(text) => {
                filled.insert(name, text.clone());
            }
            None => choices_of.wrong(match chosen {
                Some(chosen) => format!("{chosen:?} is no choice; there are {}", known.join(", ")),
                None => format!("default is missing: one of {}", known.join(", ")),
            }),
        }
        choices_of.finish();
    }
    Rc::new(filled)
}

/// The hooks of a job or source.
pub fn read_hooks(section: &Section<'_>) -> Hooks {
    let mut hooks =
        Hooks { before: section.commands("before"), timeout_secs: section.some_secs("hook_timeout"), ..Hooks::default() };
    if let Some(after) = section.table("after") {
        hooks.always = after.commands("always");
        hooks.on_success = after.commands("on_success");
        hooks.on_failure = after.commands("on_failure");
        after.finish();
    }
    hooks
}

/// `service = "NAME"` of a source: systemd's service is stopped before a backup or restore, started again after every
/// backup, and after a restore only when that was done.
pub fn add_service(section: &Section<'_>, hooks: &mut Hooks, restore_hooks: &mut Hooks) {
    for service in section.texts("service") {
        let systemctl = |verb: &str| vec!["systemctl".to_owned(), verb.to_owned(), service.clone()];
        for hooks in [&mut *hooks, &mut *restore_hooks] {
            hooks.before.push(systemctl("stop"));
        }
        hooks.always.insert(0, systemctl("start"));
        restore_hooks.on_success.insert(0, systemctl("start"));
    }
}

/// The hooks around a restore: `restore = { before = [...], after = { ... } }`.
pub fn read_restore_hooks(section: &Section<'_>) -> Hooks {
    let Some(restore) = section.table("restore") else { return Hooks::default() };
    let hooks = read_hooks(&restore);
    restore.finish();
    hooks
}

/// What every kind of member may be held to.
pub fn read_limits(section: &Section<'_>) -> Limits {
    let bytes = |key| match section.any_text(key).map(|text| parse_bytes(&text)) {
        Some(Err(error)) => {
            section.wrong_key(key, error);
            Vec::new()
        }
        bytes => bytes.and_then(Result::ok).unwrap_or_default(),
    };
    Limits {
        min_bytes: section.size("min_bytes"),
        max_shrink_percent: section.parsed("max_shrink", parse_percent).filter(|percent| {
            if *percent >= 100 {
                section.wrong("max_shrink: must be under 100%");
            }
            *percent < 100
        }),
        max_growth_percent: section.parsed("max_growth", parse_percent),
        magic: bytes("magic"),
        footer: bytes("footer"),
        timeout_secs: section.some_secs("timeout"),
    }
}

/// `30%`.
fn parse_percent(text: &str) -> Result<u32, String> {
    let number = text.trim().strip_suffix('%').and_then(|number| number.trim().parse().ok());
    number.ok_or_else(|| format!("not a percentage: {text:?} (write \"30%\")"))
}

/// Bytes as a text, or in hex: `PGDMP`, `hex:6de29981`.
fn parse_bytes(text: &str) -> Result<Vec<u8>, String> {
    match text.strip_prefix("hex:") {
        None if text.is_empty() => Err("is empty; write the bytes, or leave the key out".into()),
        None => Ok(text.as_bytes().to_vec()),
        Some(digits) => {
            let pairs: Option<Vec<u8>> = digits
                .as_bytes()
                .chunks(2)
                .map(|pair| {
                    std::str::from_utf8(pair).ok().filter(|p| p.len() == 2).and_then(|p| u8::from_str_radix(p, 16).ok())
                })
                .collect();
            pairs.filter(|bytes| !bytes.is_empty()).ok_or_else(|| format!("not pairs of hex digits: {digits:?}"))
        }
    }
}
