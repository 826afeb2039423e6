//! Reading a TOML table key by key, collecting every mistake with its line instead of stopping at the first.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::model::size::parse_size;
use crate::model::time::parse_duration_secs;

/// The mistakes found so far, with the byte at which each stands.
#[derive(Debug, Default)]
pub struct Mistakes {
    found: RefCell<Vec<(usize, String)>>,
}

impl Mistakes {
    pub fn add(&self, at: usize, message: impl Into<String>) {
        self.found.borrow_mut().push((at, message.into()));
    }

    /// All of them, by line.
    pub fn report(&self, text: &str) -> Vec<String> {
        let mut found = self.found.borrow().clone();
        found.sort();
        found.dedup();
        let line = |at: usize| text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1;
        found.iter().map(|(at, message)| format!("line {}: {message}", line(*at))).collect()
    }
}

/// One table, of which every key must be asked for.
pub struct Section<'a> {
    /// What it is called in messages: `job.nightly`.
    pub name: String,
    at: usize,
    table: &'a DeTable<'a>,
    /// Keys that stand in for those of `table`.
    over: Option<&'a DeTable<'a>>,
    /// What `{name}` in a text stands for.
    vars: Rc<BTreeMap<String, String>>,
    asked: Rc<RefCell<BTreeSet<String>>>,
    mistakes: Rc<Mistakes>,
}

impl<'a> Section<'a> {
    pub fn new(name: impl Into<String>, at: usize, table: &'a DeTable<'a>, mistakes: &Rc<Mistakes>) -> Self {
        let (vars, asked, mistakes) = (Rc::default(), Rc::default(), Rc::clone(mistakes));
        Self { name: name.into(), at, table, over: None, vars, asked, mistakes }
    }

    /// The same with the keys of `over` in place of its own, and `{name}` in its texts filled in from `vars`.
    pub fn filled(&self, over: Option<&Section<'a>>, vars: &Rc<BTreeMap<String, String>>) -> Self {
        let mut filled = Self::new(self.name.clone(), self.at, self.table, &self.mistakes);
        filled.over = over.map(|over| over.table);
        filled.asked = Rc::clone(&self.asked);
        filled.vars = Rc::clone(vars);
        filled
    }

    fn fill(&self, text: &str) -> String {
        self.vars.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
    }

    /// Notes a mistake of the section as a whole.
    pub fn wrong(&self, message: impl std::fmt::Display) {
        self.mistakes.add(self.at, format!("[{}]: {message}", self.name));
    }

    /// Notes a mistake in the value of `key`.
    pub fn wrong_key(&self, key: &str, message: impl std::fmt::Display) {
        self.wrong_at(self.place(key), key, message);
    }

    fn wrong_at(&self, at: usize, key: &str, message: impl std::fmt::Display) {
        let full = self.full(key);
        self.mistakes.add(at, format!("{full}: {message}"));
    }

    /// A key with the names of the tables that it stands in.
    fn full(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// The value of `key`.
    pub fn value(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.borrow_mut().insert(key.to_owned());
        let find = |table: &'a DeTable<'a>| table.iter().find(|(k, _)| k.get_ref() == key).map(|(_, value)| value);
        self.over.and_then(find).or_else(|| find(self.table))
    }

    /// A text with something in it.
    pub fn text(&self, key: &str) -> Option<String> {
        self.any_text(key).filter(|text| {
            let is_blank = text.trim().is_empty();
            if is_blank {
                self.wrong_key(key, "is empty; write what it should be, or leave the key out");
            }
            !is_blank
        })
    }

    /// A text, which may be empty.
    pub fn any_text(&self, key: &str) -> Option<String> {
        let value = self.value(key)?;
        match value.get_ref().as_str() {
            Some(text) => Some(self.fill(text)),
            None => {
                self.wrong_at(value.span().start, key, "must be a text in quotes");
                None
            }
        }
    }

    /// A text that must be there.
    pub fn required_text(&self, key: &str) -> Option<String> {
        if self.value(key).is_none() {
            self.wrong(format!("{key} is missing"));
        }
        self.text(key)
    }

    /// A text that `parse` accepts.
    pub fn parsed<T, E: std::fmt::Display>(&self, key: &str, parse: impl Fn(&str) -> Result<T, E>) -> Option<T> {
        let text = self.text(key)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(error) => {
                self.wrong_at(self.place(key), key, error);
                None
            }
        }
    }

    fn place(&self, key: &str) -> usize {
        self.value(key).map_or(self.at, |value| value.span().start)
    }

    /// A size such as `"64 KiB"`.
    pub fn size(&self, key: &str) -> Option<u64> {
        self.parsed(key, parse_size)
    }

    /// A size, or 0 for `false`.
    pub fn size_or_off(&self, key: &str) -> Option<u64> {
        if self.value(key)?.get_ref().as_bool() == Some(false) { Some(0) } else { self.size(key) }
    }

    /// A duration such as `"26h"`, in seconds.
    pub fn duration_secs(&self, key: &str) -> Option<u64> {
        self.parsed(key, parse_duration_secs)
    }

    /// A duration that is not nothing, in seconds.
    pub fn some_secs(&self, key: &str) -> Option<u64> {
        self.duration_secs(key).filter(|secs| {
            if *secs == 0 {
                self.wrong_key(
                    key,
                    "is no time at all; write such as \"90s\", \"10m\", \"24h\" or \"7d\", or leave the key out",
                );
            }
            *secs > 0
        })
    }

    /// true or false.
    pub fn flag(&self, key: &str) -> Option<bool> {
        let value = self.value(key)?;
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            self.wrong_at(value.span().start, key, "must be true or false");
        }
        flag
    }

    /// A whole number within bounds.
    pub fn number(&self, key: &str, bounds: std::ops::RangeInclusive<i64>) -> Option<i64> {
        let value = self.value(key)?;
        let parsed =
            value.get_ref().as_integer().and_then(|n| i64::from_str_radix(&n.as_str().replace('_', ""), n.radix()).ok());
        match parsed {
            Some(n) if bounds.contains(&n) => Some(n),
            _ => {
                let message = format!("must be a whole number from {} to {}", bounds.start(), bounds.end());
                self.wrong_at(value.span().start, key, message);
                None
            }
        }
    }

    /// A list of texts with something in each; a single text counts as a list of one.
    pub fn texts(&self, key: &str) -> Vec<String> {
        let texts = self.any_texts(key);
        if texts.iter().any(|text| text.trim().is_empty()) {
            self.wrong_key(key, "one of its texts is empty; write what it should be, or take it out");
        }
        texts
    }

    /// Likewise, with one text at least; `without` says what holds where the key is left out.
    pub fn some_texts(&self, key: &str, without: &str) -> Vec<String> {
        let texts = self.texts(key);
        if self.value(key).is_some_and(|value| value.get_ref().as_array().is_some_and(|items| items.is_empty())) {
            self.wrong_key(key, format!("is an empty list; name what it should hold, or leave the key out: {without}"));
        }
        texts
    }

    /// Program and arguments.
    pub fn argv(&self, key: &str) -> Vec<String> {
        let argv = self.any_texts(key);
        if self.value(key).is_some() && argv.first().is_none_or(|program| program.trim().is_empty()) {
            self.wrong_key(key, "names no program; write [\"program\", \"argument\"], or leave the key out");
        }
        argv
    }

    fn any_texts(&self, key: &str) -> Vec<String> {
        let Some(value) = self.value(key) else { return Vec::new() };
        if let Some(text) = value.get_ref().as_str() {
            return vec![self.fill(text)];
        }
        self.texts_of(key, value)
    }

    fn texts_of(&self, key: &str, value: &Spanned<DeValue<'a>>) -> Vec<String> {
        let Some(items) = value.get_ref().as_array() else {
            self.wrong_at(value.span().start, key, "must be a list of texts");
            return Vec::new();
        };
        let mut texts = Vec::new();
        for item in items {
            match item.get_ref().as_str() {
                Some(text) => texts.push(self.fill(text)),
                None => self.wrong_at(item.span().start, key, "must be a list of texts"),
            }
        }
        texts
    }

    /// Commands, each a list of program and arguments: one such list, or a list of them.
    pub fn commands(&self, key: &str) -> Vec<Vec<String>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(items) = value.get_ref().as_array() else {
            self.wrong_at(value.span().start, key, "must be a list: [\"program\", \"argument\"], or several such lists");
            return Vec::new();
        };
        let commands = if items.iter().any(|item| item.get_ref().as_array().is_some()) {
            items.iter().map(|item| self.texts_of(key, item)).collect()
        } else {
            vec![self.texts_of(key, value)]
        };
        if commands.iter().any(|command| command.first().is_none_or(|program| program.trim().is_empty())) {
            self.wrong_at(
                value.span().start,
                key,
                "names no program; write [\"program\", \"argument\"], or leave the key out",
            );
        }
        commands
    }

    /// The text of a key, as it stands there; says nothing of mistakes, which whoever reads it properly will.
    pub fn peek(&self, key: &str) -> Option<String> {
        self.table.iter().find(|(k, _)| k.get_ref() == key)?.1.get_ref().as_str().map(str::to_owned)
    }

    /// Every key with its table.
    pub fn sections(&self) -> Vec<(String, Section<'a>)> {
        let keys: Vec<String> = self.table.iter().map(|(key, _)| key.get_ref().to_string()).collect();
        keys.into_iter().filter_map(|key| self.table(&key).map(|section| (key, section))).collect()
    }

    /// Every key with its text, which may be empty.
    pub fn all_texts(&self) -> BTreeMap<String, String> {
        let keys: Vec<String> = self.table.iter().map(|(key, _)| key.get_ref().to_string()).collect();
        keys.into_iter().filter_map(|key| self.any_text(&key).map(|text| (key, text))).collect()
    }

    /// The tables below `key`, by name: `[store.server]`.
    pub fn named_tables(&self, key: &str) -> Vec<(String, Section<'a>)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(tables) = value.get_ref().as_table() else {
            self.wrong_at(value.span().start, key, format!("must be tables: [{key}.NAME]"));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (name, value) in tables {
            let full = self.full(&format!("{key}.{}", name.get_ref()));
            if name.get_ref().trim().is_empty() {
                self.mistakes
                    .add(name.span().start, format!("{full}: has no name; write [{}]", self.full(&format!("{key}.NAME"))));
                continue;
            }
            match value.get_ref().as_table() {
                Some(table) => {
                    sections
                        .push((name.get_ref().to_string(), Section::new(full, name.span().start, table, &self.mistakes)));
                }
                None => self.mistakes.add(name.span().start, format!("{full}: must be a table: [{full}]")),
            }
        }
        sections
    }

    /// The tables of the list below `key`: `[[job.nightly.source]]`.
    pub fn list_of_tables(&self, key: &str) -> Vec<Section<'a>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let full = format!("{}.{key}", self.name);
        let Some(items) = value.get_ref().as_array() else {
            self.wrong_at(value.span().start, key, format!("must be a list of tables: [[{full}]]"));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for item in items {
            match item.get_ref().as_table() {
                Some(table) => sections.push(Section::new(full.clone(), item.span().start, table, &self.mistakes)),
                None => self.wrong_at(item.span().start, key, "must be a table"),
            }
        }
        sections
    }

    /// The table at `key`.
    pub fn table(&self, key: &str) -> Option<Section<'a>> {
        let value = self.value(key)?;
        let full = self.full(key);
        match value.get_ref().as_table() {
            Some(table) => {
                let mut below = Section::new(full, value.span().start, table, &self.mistakes);
                below.vars = Rc::clone(&self.vars);
                Some(below)
            }
            None => {
                self.wrong_at(value.span().start, key, "must be a table");
                None
            }
        }
    }

    /// Ends the section: a key that nobody asked for is a mistake, most often of spelling.
    pub fn finish(self) {
        let asked = self.asked.borrow();
        for (key, _) in self.table.iter().chain(self.over.into_iter().flatten()) {
            if !asked.contains(key.get_ref().as_ref()) {
                let known: Vec<&str> = asked.iter().map(String::as_str).collect();
                let place = if self.name.is_empty() { String::new() } else { format!(" in [{}]", self.name) };
                let message = format!("unknown key {:?}{place}; known are {}", key.get_ref(), known.join(", "));
                self.mistakes.add(key.span().start, message);
            }
        }
    }
}
