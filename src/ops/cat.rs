//! `cat`: one file's content to an output, on record like a restore.

use std::io::Write;

use super::custody::{Custody, Ending, Purpose};
use super::reading::ReadPlan;
use super::select::SnapshotQuery;
use super::{Env, Exit, OpError};
use crate::crypto::hash::StreamHasher;
use crate::model::entry::Entry;
use crate::model::path::EntryPath;
use crate::vault::VaultError;
use crate::vault::catalogue_reader::{RefStream, SnapshotReader};
use crate::vault::fetch::{Ahead, Check, Got, Order};

/// Zeros that stand for a hole, written a stretch at a time.
const ZEROS: &[u8; 64 * 1024] = &[0; 64 * 1024];

/// What to show.
pub struct CatPlan {
    /// The copy and who opens it.
    pub read: ReadPlan,
    /// The snapshot.
    pub query: SnapshotQuery,
    /// The file.
    pub path: EntryPath,
    /// Why.
    pub reason: Option<String>,
    /// A case number.
    pub ticket: Option<String>,
}

/// Writes the content of a file to `output`. The hash of the whole is checked at its end: what came before is then already
/// out, and the exit code tells.
///
/// # Errors
/// When it cannot be found, opened or read whole.
pub fn cat(plan: &CatPlan, output: &mut (dyn Write + Send), env: &Env<'_>) -> Result<u64, OpError> {
    let opened = plan.read.open(env)?;
    plan.read.need_identity(&opened)?;
    let snapshot = plan.read.select(&opened, &plan.query, env)?;
    let purpose = Purpose {
        purpose: "cat",
        reason: plan.reason.clone(),
        ticket: plan.ticket.clone(),
        selection: vec![format!("/{}", plan.path)],
        target: "standard output".into(),
    };
    let find = || {
        let reader = opened.snapshot(&plan.read.identities, &snapshot)?;
        let entry = reader.entry(&plan.path)?;
        Ok((reader, entry))
    };
    let (custody, found) = Custody::begin_beside(&purpose, snapshot.id, &opened, env, find)?;
    let outcome = found.and_then(|(reader, entry)| run(plan, &reader, &entry, output, env));
    let ending = match &outcome {
        Ok(bytes) => Ending { outcome: "done", entries: 1, bytes: *bytes, ..Ending::default() },
        Err(error) => Ending {
            outcome: if error.exit() == Exit::Interrupted { "interrupted" } else { "failed" },
            error: Some(format!("exit code {}", error.exit() as i32)),
            ..Ending::default()
        },
    };
    custody.end(&ending, env)?;
    outcome
}

fn run(
    plan: &CatPlan,
    reader: &SnapshotReader,
    entry: &Entry,
    output: &mut (dyn Write + Send),
    env: &Env<'_>,
) -> Result<u64, OpError> {
    if let Some(crate::model::entry::Flaw::Unreadable(why)) = &entry.flaw {
        return Err(VaultError::NoEntry(format!("/{}: could not be read when it was backed up: {why}", plan.path)).into());
    }
    let content = reader.content_of(entry)?;
    let mut sink = Sink {
        output,
        hasher: StreamHasher::new(),
        extents: reader.extents_of(&content)?.unwrap_or_else(|| vec![(0, content.size)]).into_iter(),
        position: 0,
        left: 0,
    };
    stream(reader, &content, &mut sink, env)?;
    sink.hole_until(content.size)?;
    if sink.hasher.finish() != content.hash {
        return Err(VaultError::damaged(format!("/{}", plan.path), "its content is not what was backed up").into());
    }
    sink.output.flush().map_err(|e| OpError::NotDone(format!("output: {e}")))?;
    Ok(content.size)
}

fn stream(
    reader: &SnapshotReader,
    content: &crate::model::entry::Content,
    sink: &mut Sink<'_>,
    env: &Env<'_>,
) -> Result<(), OpError> {
    let mut refs = RefStream::of_file(content);
    let mut failed = None;
    let streamed = reader.chunks.stream(
        Ahead::CONTENT,
        Check::Chunks,
        || Ok(refs.next(&reader.chunks)?.map(Order::<()>::Chunk)),
        |got| {
            env.check_cancel()?;
            match got {
                Got::Data(piece) => sink.data(&piece).map_err(|error| {
                    failed = Some(error);
                    VaultError::Interrupted
                }),
                Got::Lost(error) => Err(error),
                Got::Mark(()) => Ok(()),
            }
        },
    );
    match failed {
        Some(error) => Err(error),
        None => Ok(streamed?),
    }
}

struct Sink<'a> {
    output: &'a mut (dyn Write + Send),
    hasher: StreamHasher,
    extents: std::vec::IntoIter<(u64, u64)>,
    position: u64,
    left: u64,
}

impl Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), OpError> {
        self.hasher.update(bytes);
        self.position += bytes.len() as u64;
        self.output.write_all(bytes).map_err(|e| OpError::NotDone(format!("output: {e}")))
    }

    fn hole_until(&mut self, end: u64) -> Result<(), OpError> {
        while self.position < end {
            let count = usize::try_from(end - self.position).unwrap_or(usize::MAX).min(ZEROS.len());
            self.write(&ZEROS[..count])?;
        }
        Ok(())
    }

    fn data(&mut self, mut bytes: &[u8]) -> Result<(), OpError> {
        while !bytes.is_empty() {
            if self.left == 0 {
                let more = self.extents.next();
                let (start, length) =
                    more.ok_or_else(|| VaultError::damaged("a file", "has more data than its size says"))?;
                self.hole_until(start)?;
                self.left = length;
            }
            let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            let (now, later) = bytes.split_at(count);
            self.write(now)?;
            self.left -= count as u64;
            bytes = later;
        }
        Ok(())
    }
}
