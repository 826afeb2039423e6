//! `kind = "mongodb"`

use super::{engine, secret};
use crate::cli::config::section::Section;
use crate::source::SourceConfig;
use crate::source::mongodb::MongoConfig;
use crate::source::mongodb::vendor::{DUMPER, LOADER, Vendor, WholeConfig};

/// An option of mongodump that farkeep must know of.
const OPLOG: &str = "--oplog";

/// Reads its keys.
pub fn read(section: &Section<'_>, name: &str) -> Option<SourceConfig> {
    let uri = secret(section, "uri");
    if uri.is_none() {
        section.wrong("uri_file is missing: a file whose first line is mongodb://USER:PASSWORD@HOST:PORT/");
    }
    let hosts = section.text("hosts");
    let database = section.text("database");
    let mut args = section.texts("tool_args");
    let oplog = database.is_none() && args.iter().any(|arg| arg == OPLOG);
    if oplog {
        args.retain(|arg| arg != OPLOG);
    } else if args.iter().any(|arg| arg == OPLOG) {
        section.wrong_key("tool_args", format!("{OPLOG} is of the whole deployment: leave out database"));
        return None;
    }
    let dumper = vendor(section, "tool", "tool_args", args, DUMPER);
    let loader = vendor(section, "restore_tool", "restore_tool_args", section.texts("restore_tool_args"), LOADER);
    if (dumper.is_some() || loader.is_some()) && section.value("timeout").is_none() {
        section.wrong(format!("timeout is missing: {DUMPER} and {LOADER} may wait for ever"));
    }
    let name = name.to_owned();
    match (database, dumper) {
        (Some(database), dumper) => engine(Some(MongoConfig { name, uri: uri?, hosts, database, dumper, loader })),
        (None, Some(dumper)) => engine(Some(WholeConfig { name, uri: uri?, hosts, dumper, oplog, loader })),
        (None, None) => {
            section.wrong(format!("database is missing; all of them as one member takes tool = {DUMPER:?}"));
            None
        }
    }
}

/// The vendor's program `name`, or the path of it, where `key` asks for it.
fn vendor(section: &Section<'_>, key: &str, args_key: &str, args: Vec<String>, name: &str) -> Option<Vendor> {
    let Some(program) = section.text(key) else {
        if !section.texts(args_key).is_empty() {
            section.wrong_key(args_key, format!("{key} = {name:?} is missing"));
        }
        return None;
    };
    if program != name && !(program.starts_with('/') && program.ends_with(&format!("/{name}"))) {
        section.wrong_key(key, format!("{program:?}: must be {name:?} or the absolute path of it"));
        return None;
    }
    Vendor::new(program, args).map_err(|why| section.wrong_key(args_key, why)).ok()
}
