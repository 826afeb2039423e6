//! `kind = "mongodb"`

use super::secret;
use crate::cli::config::section::Section;
use crate::source::mongodb::MongoConfig;
use crate::source::mongodb::vendor::{DUMPER, LOADER, Vendor};

/// Reads its keys.
pub fn read(section: &Section<'_>, name: &str) -> Option<MongoConfig> {
    let uri = secret(section, "uri");
    if uri.is_none() {
        section.wrong("uri_file is missing: a file whose first line is mongodb://USER:PASSWORD@HOST:PORT/");
    }
    let database = section.text("database");
    if database.is_none() {
        section.wrong("database is missing");
    }
    let hosts = section.text("hosts");
    let dumper = vendor(section, "tool", "tool_args", DUMPER);
    let loader = vendor(section, "restore_tool", "restore_tool_args", LOADER);
    if (dumper.is_some() || loader.is_some()) && section.value("timeout").is_none() {
        section.wrong(format!("timeout is missing: {DUMPER} and {LOADER} may wait for ever"));
    }
    Some(MongoConfig { name: name.to_owned(), uri: uri?, hosts, database: database?, dumper, loader })
}

/// The vendor's program `name`, or the path of it, where `key` asks for it.
fn vendor(section: &Section<'_>, key: &str, args_key: &str, name: &str) -> Option<Vendor> {
    let (program, args) = (section.text(key), section.texts(args_key));
    let Some(program) = program else {
        if !args.is_empty() {
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
