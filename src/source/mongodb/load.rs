//! An archive into a database: everything under new names first, then the names are changed. Until then the old
//! collections stand untouched; what the archive does not hold goes last.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use bson::{Document, RawDocumentBuf, doc};
use mongodb::error::{Error, ErrorKind};

use super::archive::{ArchiveError, Collection, Item, Prelude, Reader};
use super::client::Deployment;
use super::metadata::Metadata;
use super::{open_archive, restorable, schema, tally};
use crate::crypto::hash::hash;
use crate::source::SourceError;

/// Before the name of a collection that is still being filled.
pub const NEW: &str = "farkeep_new_";
/// Stands in a database while a restore has not ended. It is no collection's new name: none is called ".unfinished", since no name
/// may begin with a dot.
pub const UNFINISHED: &str = "farkeep_new_.unfinished";
/// A collection's name with that of its database, in bytes (MongoDB before 4.4; later ones take 255).
const NAMESPACE_MAX_BYTES: usize = 120;
/// Digits of the hash that stands for a name which is too long.
const NAME_DIGITS: usize = 16;
/// What a server answers to an account that may not do something.
const UNAUTHORIZED: i32 = 13;
/// What one answers that cannot rename in place of another collection: the name is taken, there is no such command or field, it is
/// not implemented.
const CANNOT_RENAME_OVER: [i32; 4] = [48, 115, 238, 40415];
/// Documents of one insert: the driver splits what the server would refuse.
const BATCH_DOCUMENTS: usize = 2000;
/// Bytes of one insert.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// Whether an earlier restore has left something: what else is there may be old, new, or some of either.
pub fn is_begun(deployment: &Deployment) -> Result<bool, SourceError> {
    Ok(schema::list(deployment)?.iter().any(|listed| listed.name.starts_with(NEW)))
}

/// Loads the archive at `path` under new names, and counts what came.
pub fn fill(deployment: &Deployment, path: &Path, abandoned: &AtomicBool) -> Result<Vec<Described>, SourceError> {
    let loader = Loader { deployment, abandoned };
    loader.begin()?;
    loader.fill_all(path)
}

/// What another program must know to load an archive under new names.
pub struct Asked {
    /// The database that the archive is of.
    pub database: String,
    /// Collections whose new names are not the old ones with [`NEW`] before them.
    pub renamed: Vec<(String, String)>,
    /// Whether documents may stand in it that the rules of their collection refuse by now.
    pub has_validators: bool,
}

/// Makes room for another program that loads the archive at `path` under new names.
pub fn clear(deployment: &Deployment, path: &Path, abandoned: &AtomicBool) -> Result<Asked, SourceError> {
    Loader { deployment, abandoned }.begin()?;
    let reader = Reader::open(open_archive(path)?).map_err(|e| of_archive(path, e))?;
    let database = restorable(reader.prelude()).map_err(|why| of_archive(path, ArchiveError::Damaged(why)))?.to_owned();
    let described = described(path, reader.prelude())?;
    let names = described.iter().map(|(c, _)| (c.name.clone(), new_name(deployment.database.name(), &c.name)));
    let renamed = names.filter(|(name, new)| *new != format!("{NEW}{name}")).collect();
    Ok(Asked { database, renamed, has_validators: described.iter().any(|(_, metadata)| has_validator(metadata)) })
}

/// Counts what another program loaded under new names: it must be what the archive says. Then come the indexes.
pub fn look_over(deployment: &Deployment, path: &Path, abandoned: &AtomicBool) -> Result<Vec<Described>, SourceError> {
    let loader = Loader { deployment, abandoned };
    let (prelude, tallies) = tally::of_archive(open_archive(path)?).map_err(|e| of_archive(path, e))?;
    for (name, tally) in &tallies {
        loader.must_hold(name, tally.documents)?;
    }
    let described = described(path, &prelude)?;
    for (collection, metadata) in described.iter().filter(|(c, _)| c.kind != "view") {
        loader.index(&collection.name, metadata)?;
    }
    Ok(described)
}

/// Removes what was loaded when nothing was replaced, and the sign of an unended restore if this one set it (`is_first`): one
/// that stood there before may be all that tells a half restored database.
pub fn give_up(deployment: &Deployment, is_first: bool, abandoned: &AtomicBool) -> Result<(), SourceError> {
    let loader = Loader { deployment, abandoned };
    loader.remove_what_was_filled()?;
    if is_first { unmark(deployment, abandoned) } else { Ok(()) }
}

/// Sets the sign of a restore that has not ended, for one that replaces under no new names.
pub fn mark(deployment: &Deployment, abandoned: &AtomicBool) -> Result<(), SourceError> {
    if is_marked(deployment)? { Ok(()) } else { Loader { deployment, abandoned }.create(UNFINISHED, &Document::new()) }
}

/// Removes it.
pub fn unmark(deployment: &Deployment, abandoned: &AtomicBool) -> Result<(), SourceError> {
    if is_marked(deployment)? { Loader { deployment, abandoned }.drop(UNFINISHED) } else { Ok(()) }
}

fn is_marked(deployment: &Deployment) -> Result<bool, SourceError> {
    Ok(schema::list(deployment)?.iter().any(|listed| listed.name == UNFINISHED))
}

/// Lets what was loaded take the place of all that the database holds.
pub fn swap(deployment: &Deployment, described: &[Described], abandoned: &AtomicBool) -> Result<(), SourceError> {
    Loader { deployment, abandoned }.swap(described)
}

/// Refuses what a restore has left that broke off: old collections and new ones, or some of either.
pub fn must_not_be_half_restored<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<(), String> {
    match names.into_iter().find(|name| name.starts_with(NEW)) {
        Some(name) => Err(format!(
            "a restore has not ended, and left {name:?}: repeat it, or drop what begins with {NEW} if all else is as it should be"
        )),
        None => Ok(()),
    }
}

/// What a collection is called until it is whole: as long a name as a server takes leaves no room for [`NEW`].
fn new_name(database: &str, name: &str) -> String {
    if database.len() + 1 + NEW.len() + name.len() <= NAMESPACE_MAX_BYTES {
        return format!("{NEW}{name}");
    }
    let digest = hash(name.as_bytes()).to_string();
    format!("{NEW}{}", &digest[..digest.len().min(NAME_DIGITS)])
}

fn has_validator(metadata: &Metadata) -> bool {
    metadata.options.contains_key("validator")
}

fn described(path: &Path, prelude: &Prelude) -> Result<Vec<Described>, SourceError> {
    let read = |collection: &Collection| {
        let metadata = Metadata::from_json(&collection.metadata);
        metadata.map(|m| (collection.clone(), m)).map_err(|e| of_archive(path, ArchiveError::Damaged(e)))
    };
    prelude.collections.iter().map(read).collect()
}

fn of_archive(path: &Path, error: ArchiveError) -> SourceError {
    SourceError::Expectation { what: path.display().to_string(), why: error.to_string() }
}

/// A collection or view, and its description as it was read.
pub type Described = (Collection, Metadata);

struct Loader<'a> {
    deployment: &'a Deployment,
    abandoned: &'a AtomicBool,
}

impl Loader<'_> {
    fn go_on(&self) -> Result<(), SourceError> {
        if self.abandoned.load(Ordering::Acquire) { Err(SourceError::Interrupted) } else { Ok(()) }
    }

    fn new_name(&self, name: &str) -> String {
        new_name(self.deployment.database.name(), name)
    }

    fn begin(&self) -> Result<(), SourceError> {
        self.remove_what_was_filled()?;
        mark(self.deployment, self.abandoned)
    }

    /// Everything under its new name, counted, with its indexes.
    fn fill_all(&self, path: &Path) -> Result<Vec<Described>, SourceError> {
        let mut reader = Reader::open(open_archive(path)?).map_err(|e| of_archive(path, e))?;
        let described = described(path, reader.prelude())?;
        for (collection, metadata) in described.iter().filter(|(c, _)| c.kind != "view") {
            self.create(&self.new_name(&collection.name), &metadata.options)?;
        }
        let counts = self.fill(&mut reader, path, &described)?;
        for ((collection, metadata), count) in described.iter().zip(counts).filter(|((c, _), _)| c.kind != "view") {
            // Before an index tells the server to remove what has expired.
            self.must_hold(&collection.name, count)?;
            self.index(&collection.name, metadata)?;
        }
        Ok(described)
    }

    /// Leftovers of a restore that broke off, all but the sign of it.
    fn remove_what_was_filled(&self) -> Result<(), SourceError> {
        for listed in schema::list(self.deployment)? {
            if listed.name.starts_with(NEW) && listed.name != UNFINISHED {
                self.drop(&listed.name)?;
            }
        }
        Ok(())
    }

    fn drop(&self, name: &str) -> Result<(), SourceError> {
        self.go_on()?;
        self.deployment.command(doc! { "drop": name }).map(|_| ())
    }

    fn create(&self, name: &str, options: &Document) -> Result<(), SourceError> {
        self.go_on()?;
        let mut command = doc! { "create": name };
        // The server makes the index on _id by itself.
        command.extend(
            options.clone().into_iter().filter(|(key, _)| key != "uuid" && key != "autoIndexId" && key != "idIndex"),
        );
        self.deployment.command(command).map(|_| ())
    }

    /// Writes every document; gives how many each collection got.
    fn fill(
        &self,
        reader: &mut Reader<impl std::io::Read>,
        path: &Path,
        described: &[Described],
    ) -> Result<Vec<u64>, SourceError> {
        let mut counts = vec![0; described.len()];
        let mut batch = Batch::default();
        loop {
            match reader.next_item().map_err(|e| of_archive(path, e))? {
                Some(Item::Document(place, bytes)) => {
                    if batch.place != place || batch.is_full() {
                        self.insert(&mut batch, described)?;
                        batch.place = place;
                    }
                    let document = RawDocumentBuf::from_bytes(bytes.to_vec());
                    let document = document.map_err(|e| of_archive(path, ArchiveError::Damaged(e.to_string())))?;
                    batch.bytes += bytes.len();
                    batch.documents.push(document);
                    counts[place] += 1;
                }
                Some(Item::End(_)) => {}
                None => break,
            }
        }
        self.insert(&mut batch, described)?;
        Ok(counts)
    }

    fn insert(&self, batch: &mut Batch, described: &[Described]) -> Result<(), SourceError> {
        self.go_on()?;
        let documents = std::mem::take(&mut batch.documents);
        batch.bytes = 0;
        if documents.is_empty() {
            return Ok(());
        }
        let (collection, metadata) = &described[batch.place];
        let collection = self.deployment.database.collection::<RawDocumentBuf>(&self.new_name(&collection.name));
        // What stood there before a rule came stands there still, and is refused when it comes anew.
        if has_validator(metadata) {
            match collection.insert_many(&documents).bypass_document_validation(true).run() {
                // Without the right to do that, documents that keep the rule can be written.
                Err(e) if matches!(e.kind.as_ref(), ErrorKind::Command(e) if e.code == UNAUTHORIZED) => {}
                inserted => return inserted.map(|_| ()).map_err(|e| self.deployment.error(&e)),
            }
        }
        collection.insert_many(&documents).run().map(|_| ()).map_err(|e| self.deployment.error(&e))
    }

    fn index(&self, name: &str, metadata: &Metadata) -> Result<(), SourceError> {
        self.go_on()?;
        let is_own = |index: &&Document| index.get_str("name").ok() != Some("_id_");
        let indexes: Vec<Document> = metadata.indexes.iter().filter(is_own).map(as_asked_for).collect();
        if indexes.is_empty() {
            return Ok(());
        }
        self.deployment.command(doc! { "createIndexes": self.new_name(name), "indexes": indexes }).map(|_| ())
    }

    fn must_hold(&self, name: &str, count: u64) -> Result<(), SourceError> {
        self.go_on()?;
        let collection = self.deployment.database.collection::<RawDocumentBuf>(&self.new_name(name));
        let there = collection.count_documents(doc! {}).run().map_err(|e| self.deployment.error(&e))?;
        if there == count {
            return Ok(());
        }
        let why = format!("collection {name:?} took {there} of {count} documents; what stood there still stands");
        Err(self.deployment.failed(why))
    }

    /// The destructive part.
    fn swap(&self, all: &[Described]) -> Result<(), SourceError> {
        let kept: BTreeSet<&str> = all.iter().filter(|(c, _)| c.kind != "view").map(|(c, _)| c.name.as_str()).collect();
        let listed = schema::list(self.deployment)?;
        for old in listed.iter().filter(|old| old.kind == "view") {
            self.drop(&old.name)?;
        }
        for name in &kept {
            self.rename(name, listed.iter().any(|old| old.name == *name && old.kind != "view"))?;
        }
        for old in listed.iter().filter(|old| old.kind != "view" && !old.name.starts_with(NEW)) {
            if !kept.contains(old.name.as_str()) {
                self.drop(&old.name)?;
            }
        }
        for (view, metadata) in all.iter().filter(|(c, _)| c.kind == "view") {
            self.create(&view.name, &metadata.options)?;
        }
        self.drop(UNFINISHED)
    }

    fn rename(&self, name: &str, taken: bool) -> Result<(), SourceError> {
        self.go_on()?;
        let database = self.deployment.database.name();
        let command = |drop_target: bool| {
            let mut command = doc! {
                "renameCollection": format!("{database}.{}", self.new_name(name)), "to": format!("{database}.{name}"),
            };
            if drop_target {
                command.insert("dropTarget", true);
            }
            command
        };
        match self.deployment.ask_admin(command(taken)) {
            // Whatever else went wrong, such as a lost connection: it may have been done, or be under way, and what is to be dropped
            // would be the new one.
            Err(error) if taken && cannot_rename_over(&error) => {
                if !schema::list(self.deployment)?.iter().any(|listed| listed.name == self.new_name(name)) {
                    return Err(self.deployment.error(&error));
                }
                self.drop(name)?;
                self.deployment.admin_command(command(false)).map(|_| ())
            }
            outcome => outcome.map(|_| ()).map_err(|e| self.deployment.error(&e)),
        }
    }
}

fn cannot_rename_over(error: &Error) -> bool {
    matches!(error.kind.as_ref(), ErrorKind::Command(error) if CANNOT_RENAME_OVER.contains(&error.code))
}

/// An index as a server wants to be asked for it: its namespace is the collection's, its version the server's own.
fn as_asked_for(index: &Document) -> Document {
    let mut index = schema::without_namespace(index.clone());
    index.remove("v");
    index
}

#[derive(Default)]
struct Batch {
    place: usize,
    documents: Vec<RawDocumentBuf>,
    bytes: usize,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.documents.len() >= BATCH_DOCUMENTS || self.bytes >= BATCH_BYTES
    }
}
