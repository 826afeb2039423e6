//! The tables of OUTPUT.md as a schema: what a value may be.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Fields of one table: name, type, whether it is always there.
type Fields = BTreeMap<String, (String, bool)>;

/// All tables.
pub struct Schema {
    tables: BTreeMap<String, Fields>,
    /// Which fields were met: a documented field that nothing ever prints is wrong too.
    met: RefCell<BTreeSet<String>>,
}

impl Schema {
    pub fn read() -> Self {
        let text = include_str!("../../src/cli/OUTPUT.md");
        let mut tables = BTreeMap::<String, Fields>::new();
        let mut name = None;
        for line in text.lines() {
            if let Some(heading) = line.strip_prefix("## ") {
                name = Some(heading.trim().to_owned());
            } else if line.starts_with("# ") {
                name = None;
            }
            let (Some(name), Some(row)) = (&name, line.strip_prefix("| `")) else { continue };
            let mut cells = row.trim_end_matches(" |").split(" | ");
            let field = cells.next().unwrap().trim_end_matches('`').to_owned();
            let (kind, present) = (cells.next().unwrap().to_owned(), cells.next().unwrap());
            tables.entry(name.clone()).or_default().insert(field, (kind, present == "always"));
        }
        assert!(tables.len() > 20, "{:?}", tables.keys());
        Self { tables, met: RefCell::default() }
    }

    /// The value of a command must be what the table says, field by field.
    #[track_caller]
    pub fn check(&self, table: &str, value: &Value) {
        if let Err(why) = self.fits(table, value) {
            panic!("{table}: {why}\n{value:#}");
        }
    }

    /// Fields of all tables that no checked value had.
    pub fn never_met(&self) -> Vec<String> {
        let all = self.tables.iter().flat_map(|(table, fields)| fields.keys().map(move |field| format!("{table}.{field}")));
        all.filter(|field| !self.met.borrow().contains(field)).collect()
    }

    fn fits(&self, kind: &str, value: &Value) -> Result<(), String> {
        let wrong = || Err(format!("{value} is no {kind}"));
        // What a list is of may be one of several things; a list is never one of them.
        if let Some(of) = kind.strip_prefix("list of ") {
            let Some(list) = value.as_array() else { return wrong() };
            return list.iter().try_for_each(|item| self.fits(of, item));
        }
        if let Some((first, rest)) = kind.split_once(" or ") {
            return self.fits(first, value).or_else(|why| self.fits(rest, value).map_err(|other| format!("{why}; {other}")));
        }
        if let Some(kinds) = kind.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let (kinds, list) = (kinds.split(", ").collect::<Vec<_>>(), value.as_array());
            let Some(list) = list.filter(|list| list.len() == kinds.len()) else { return wrong() };
            return kinds.into_iter().zip(list).try_for_each(|(kind, item)| self.fits(kind, item));
        }
        let is_hex = |text: &str| !text.is_empty() && text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
        let fits = match kind {
            "text" => value.is_string(),
            "number" | "time" => value.as_i64().is_some(),
            "fraction" => value.is_number(),
            "flag" => value.is_boolean(),
            "null" => value.is_null(),
            "hex" => value.as_str().is_some_and(is_hex),
            "anything" => true,
            table => return self.fits_table(table, value),
        };
        if fits { Ok(()) } else { wrong() }
    }

    fn fits_table(&self, table: &str, value: &Value) -> Result<(), String> {
        let fields = self.tables.get(table).ok_or_else(|| format!("OUTPUT.md has no table {table}"))?;
        let object = value.as_object().ok_or_else(|| format!("{value} is no {table}"))?;
        if let Some(unknown) = object.keys().find(|key| !fields.contains_key(*key)) {
            return Err(format!("{table} has a field {unknown:?} that OUTPUT.md does not"));
        }
        for (name, (kind, always)) in fields {
            match object.get(name) {
                Some(value) => {
                    self.fits(kind, value).map_err(|why| format!("{table}.{name}: {why}"))?;
                    self.met.borrow_mut().insert(format!("{table}.{name}"));
                }
                None if *always => return Err(format!("{table} lacks {name:?}")),
                None => {}
            }
        }
        Ok(())
    }
}

#[test]
fn the_schema_sees_what_does_not_fit() {
    let schema = Schema::read();
    let good = serde_json::json!({"kind": "damage", "subject": "x", "message": "y", "snapshots": ["ab12"]});
    assert_eq!(schema.fits("finding", &good), Ok(()));
    for (field, value) in [("kind", 3.into()), ("message", Value::Null), ("snapshots", "ab".into()), ("further", 1.into())] {
        let mut bad = good.clone();
        bad[field] = value;
        assert!(schema.fits("finding", &bad).is_err(), "{bad}");
    }
    let mut bad = good;
    bad.as_object_mut().unwrap().remove("subject");
    assert!(schema.fits("finding", &bad).is_err());
    assert!(schema.fits("[time, text, number] or null", &serde_json::json!([1, "a", 2])).is_ok());
    assert!(schema.fits("[time, text, number] or null", &serde_json::json!([1, "a"])).is_err());
}
