//! The threads that write files, several at a time, and what they have come to.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::Receiver;

use crate::model::finding::Finding;
use crate::model::path::EntryPath;
use crate::ops::{Env, Event};
use crate::target::file::FileGoal;
use crate::target::{FileSink, MetadataPolicy, TargetError};
use crate::vault::fetch::Piece;

/// What a writer is told.
pub enum Message {
    /// A file, and the directory that it lies in.
    Begin(Box<FileGoal>, Arc<OwnedFd>),
    /// Pieces of its content, in order.
    Data(Vec<Piece>),
    /// Some of the content cannot be had: the file is dropped.
    Drop,
    /// Its end.
    End,
}

/// What the writers have come to.
#[derive(Default)]
pub struct Shared {
    /// Files that are whole at their places.
    pub files: AtomicU64,
    /// Bytes of these.
    pub bytes: AtomicU64,
    /// Files that were begun and are not at their places, though their content came.
    pub failed_files: AtomicU64,
    /// What is wrong so far.
    pub findings: Mutex<Vec<Finding>>,
    /// Files that came out wrong, as long as their chunks were not checked one by one.
    wrong: Mutex<Option<HashSet<EntryPath>>>,
    /// Entries that are not at their places.
    pub absent: Mutex<HashSet<EntryPath>>,
    /// Whether the work has to end.
    pub failed: AtomicBool,
    /// Why.
    pub error: Mutex<Option<TargetError>>,
}

impl Shared {
    /// Nothing is wrong yet.
    pub fn new() -> Self {
        Self { wrong: Mutex::new(Some(HashSet::new())), ..Self::default() }
    }

    /// The files that came out wrong. From now on one that does is a finding.
    pub fn take_wrong(&self) -> HashSet<EntryPath> {
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        let absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
        wrong.retain(|path| !absent.contains(path));
        wrong
    }

    /// The file at `path` came out wrong, or could not be written.
    fn unfinished(&self, path: EntryPath, error: TargetError, env: &Env<'_>) {
        if matches!(error, TargetError::Content { .. })
            && let Some(wrong) = &mut *self.wrong.lock().unwrap_or_else(PoisonError::into_inner)
        {
            wrong.insert(path);
            return;
        }
        self.failed_files.fetch_add(1, Ordering::Relaxed);
        self.fail(path, error, env);
    }

    /// Tells and keeps findings.
    pub fn note(&self, findings: Vec<Finding>, env: &Env<'_>) {
        if findings.is_empty() {
            return;
        }
        for finding in &findings {
            env.observer.event(Event::Finding(finding.clone()));
        }
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).extend(findings);
    }

    /// Remembers that the entry at `path` is not there, so that nothing is made another name of what is.
    pub fn is_absent(&self, path: EntryPath) {
        self.absent.lock().unwrap_or_else(PoisonError::into_inner).insert(path);
    }

    /// The entry at `path` failed: a finding when the work can go on, else the end of it.
    pub fn fail(&self, path: EntryPath, error: TargetError, env: &Env<'_>) {
        self.is_absent(path);
        match error.into_finding() {
            Ok(finding) => self.note(vec![finding], env),
            Err(error) => {
                self.failed.store(true, Ordering::Relaxed);
                self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    }
}

/// What each writing thread does.
pub fn write_files(messages: &Receiver<Message>, policy: &MetadataPolicy, shared: &Shared, env: &Env<'_>) {
    let mut sink: Option<(FileSink, EntryPath, u64)> = None;
    for message in messages {
        match message {
            Message::Begin(goal, parent) => {
                let (path, size) = (goal.path.clone(), goal.size);
                match FileSink::create(*goal, parent) {
                    Ok(created) => sink = Some((created, path, size)),
                    Err(error) => {
                        sink = None;
                        shared.unfinished(path, error, env);
                    }
                }
            }
            Message::Data(pieces) => {
                let Some((mut file, path, size)) = sink.take() else { continue };
                match pieces.iter().try_for_each(|piece| file.write(piece)) {
                    Ok(()) => sink = Some((file, path, size)),
                    Err(error) => shared.unfinished(path, error, env),
                }
            }
            Message::Drop => sink = None,
            Message::End => {
                let Some((file, path, size)) = sink.take() else { continue };
                match file.finish(policy) {
                    Ok(findings) => {
                        shared.files.fetch_add(1, Ordering::Relaxed);
                        shared.bytes.fetch_add(size, Ordering::Relaxed);
                        shared.note(findings, env);
                    }
                    Err(error) => shared.unfinished(path, error, env),
                }
            }
        }
    }
}
