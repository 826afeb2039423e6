//! Attacks on an account by its own key: can what was stored be changed?
//!
//! The probe stores a marker as a push stores an object, and asks the server for everything that would change, hide or
//! remove it. It believes what it sees and not what is answered: after each attack that was not refused, and once more at
//! the end, it reads the marker. Guarantees: it touches no file that it has not made; what it made it takes away again where
//! the account lets it, and on a write-once account a few small files stay, which everybody ignores.

use super::query;
use super::refusal;
use super::session::Session;
use super::wire::{Code, Reply, Request, open_flags};
use crate::model::name::PROBE_PREFIX;
use crate::store::StoreError;
use crate::store::probe::{Breach, ProbeReport, Verdict};

mod attacks;
mod doors;

use attacks::{Attack, Leaves, Marks, OPENS, REMOVE, REQUESTS, RMDIR};

/// What a marker holds.
const CONTENT: &[u8] = b"farkeep probe: made to be attacked, to see whether this account can change what it has stored\n";
/// What is written into a file that could be opened.
const GRAFFITO: &[u8] = b"X";
/// Objects are stored with this mode.
const OBJECT_MODE: u32 = 0o440;
/// Names that are tried for a new file; more are left over only where somebody squats them.
const NAMES_MAX: u32 = 10_000;
/// Permissions without the kind of file.
const PERMISSIONS: u32 = 0o7777;

/// What has become of the marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marker {
    Same,
    Grown,
    Changed,
    Gone,
}

struct Probe<'s> {
    session: &'s mut Session,
    /// The vault's directory on the server.
    root: &'s str,
    next_name: u32,
    /// Paths that this probe made, and whether each is a directory.
    made: Vec<(String, bool)>,
    report: ProbeReport,
}

/// Attacks the account through `session`, on whose server `root` is the vault's directory and `port` its own SSH port.
///
/// # Errors
/// When no marker can be made or read, or the session broke.
pub async fn run(session: &mut Session, root: &str, port: u16) -> Result<ProbeReport, StoreError> {
    let mut probe = Probe { session, root, next_name: 0, made: Vec::new(), report: ProbeReport::default() };
    let mut marks = probe.marks().await?;
    for (what, flags) in OPENS {
        marks = probe.open(marks, what, flags).await?;
    }
    for attack in &REQUESTS {
        marks = probe.request(marks, attack).await?;
    }
    let own = marks.own.clone();
    probe.close(&marks).await?;
    if probe.look(&marks.marker).await? != Marker::Same {
        probe.breach("one of the requests that were refused", "changed it all the same", Verdict::Mutable);
    }
    probe.reopen_own(&own).await?;
    doors::try_all(&mut probe, port).await?;
    probe.tidy().await?;
    Ok(probe.report)
}

impl Probe<'_> {
    async fn ask(&mut self, request: Request<'_>) -> Result<Reply, StoreError> {
        self.session.channel.ask(request).await
    }

    fn breach(&mut self, request: &str, effect: &str, verdict: Verdict) {
        self.report.got_through.push(Breach { request: request.to_owned(), effect: effect.to_owned(), verdict });
    }

    fn free_name(&mut self, what: &str) -> String {
        self.next_name += 1;
        format!("{}/{PROBE_PREFIX}{what}-{}", self.root.trim_end_matches('/'), self.next_name)
    }

    /// Everything that attacks are made with. A marker of an earlier probe serves again.
    async fn marks(&mut self) -> Result<Marks, StoreError> {
        let (marker, _) = self.make("marker", OBJECT_MODE, true).await?;
        let (own, writing) = self.make("own", 0o666, false).await?;
        let reading = match self.ask(Request::Open { path: marker.as_bytes(), flags: open_flags::READ, mode: None }).await? {
            Reply::Handle(handle) => handle.to_vec(),
            refused => return Err(refusal::unexpected(&marker, &refused)),
        };
        let mode = match query::attributes(self.session, self.root).await? {
            Reply::Attrs(attrs) => attrs.mode.unwrap_or(0o750) & PERMISSIONS,
            refused => return Err(refusal::unexpected(self.root, &refused)),
        };
        let root = (self.root.to_owned(), mode);
        let (elsewhere, dir) = (self.free_name("elsewhere"), self.free_name("dir"));
        Ok(Marks { marker, reading, own, writing, elsewhere, dir, root })
    }

    /// Makes a file with the marker's content; closed, or with the handle that made it.
    async fn make(&mut self, what: &str, mode: u32, close: bool) -> Result<(String, Vec<u8>), StoreError> {
        let flags = open_flags::CREATE | open_flags::EXCLUSIVE | open_flags::WRITE;
        for _ in 0..NAMES_MAX {
            let path = self.free_name(what);
            match self.ask(Request::Open { path: path.as_bytes(), flags, mode: Some(mode) }).await? {
                Reply::Handle(handle) => {
                    self.made.push((path.clone(), false));
                    let handle = handle.to_vec();
                    let wrote = self.ask(Request::Write { handle: &handle, offset: 0, data: CONTENT }).await?;
                    if !is_ok(&wrote) {
                        return Err(refusal::unexpected(&path, &wrote));
                    }
                    if close {
                        self.ask(Request::Close(&handle)).await?;
                    }
                    return Ok((path, handle));
                }
                refused => {
                    let found = self.read(&path).await?;
                    match found {
                        Some(content) if close && content == CONTENT => return Ok((path, Vec::new())),
                        Some(_) => {}
                        // Not in the way: then it is not the name that is refused.
                        None => return Err(cannot_store(&path, &refused)),
                    }
                }
            }
        }
        Err(StoreError::Exists(format!("{}/{PROBE_PREFIX}{what}-1 and {NAMES_MAX} more", self.root)))
    }

    /// The content of a file, a little more than a marker's; none when it cannot be read.
    async fn read(&mut self, path: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let opened = self.ask(Request::Open { path: path.as_bytes(), flags: open_flags::READ, mode: None }).await?;
        let Reply::Handle(handle) = opened else { return Ok(None) };
        let handle = handle.to_vec();
        let bytes = u32::try_from(CONTENT.len() * 2).unwrap_or(u32::MAX);
        let content = match self.ask(Request::Read { handle: &handle, offset: 0, bytes }).await? {
            Reply::Data(data) => Some(data.to_vec()),
            Reply::Status(Code::Eof, _) => Some(Vec::new()),
            _ => None,
        };
        self.ask(Request::Close(&handle)).await?;
        Ok(content)
    }

    async fn look(&mut self, marker: &str) -> Result<Marker, StoreError> {
        Ok(match self.read(marker).await? {
            None => Marker::Gone,
            Some(content) if content == CONTENT => Marker::Same,
            Some(content) if content.starts_with(CONTENT) => Marker::Grown,
            Some(_) => Marker::Changed,
        })
    }

    /// Notes what an attack that was not refused has done. Marks that were harmed are made anew.
    async fn judge(&mut self, marks: Marks, what: &str, answered: Verdict, effect: &str) -> Result<Marks, StoreError> {
        let (effect, verdict) = match self.look(&marks.marker).await? {
            Marker::Same => (effect, answered),
            Marker::Grown => ("bytes were added to it", Verdict::AppendWeak),
            Marker::Changed => ("its bytes were changed", Verdict::Mutable),
            Marker::Gone => ("it cannot be read any more", Verdict::Mutable),
        };
        self.breach(what, effect, verdict);
        self.close(&marks).await?;
        self.marks().await
    }

    /// Opens the marker to write into it; a handle that cannot be written through is no breach.
    async fn open(&mut self, marks: Marks, what: &str, flags: u32) -> Result<Marks, StoreError> {
        self.report.attacks += 1;
        let opened = self.ask(Request::Open { path: marks.marker.as_bytes(), flags, mode: None }).await?;
        let Reply::Handle(handle) = opened else { return Ok(marks) };
        let handle = handle.to_vec();
        // A handle for appending writes at the end whatever the offset says.
        let wrote = self.ask(Request::Write { handle: &handle, offset: 0, data: GRAFFITO }).await?;
        self.ask(Request::Close(&handle)).await?;
        if !is_ok(&wrote) && self.look(&marks.marker).await? == Marker::Same {
            return Ok(marks);
        }
        self.judge(marks, what, Verdict::AppendWeak, "was answered with a handle").await
    }

    async fn request(&mut self, marks: Marks, (what, leaves, write): &Attack) -> Result<Marks, StoreError> {
        self.report.attacks += 1;
        let (kind, body) = write(&marks);
        let answer = self.ask(Request::Raw { kind, body: &body }).await?;
        if !is_ok(&answer) {
            return Ok(marks);
        }
        match leaves {
            Leaves::Nothing => {}
            Leaves::Elsewhere => self.made.push((marks.elsewhere.clone(), false)),
            Leaves::Dir => self.made.push((marks.dir.clone(), true)),
        }
        if attacks::sets_mode(what) {
            let path = if what.contains("made a file") { marks.own.clone() } else { marks.marker.clone() };
            self.deface(&path).await?;
        }
        self.judge(marks, what, Verdict::AppendWeak, "was answered with OK").await
    }

    /// Writes into a file that should be writable by now.
    async fn deface(&mut self, path: &str) -> Result<bool, StoreError> {
        let opened = self.ask(Request::Open { path: path.as_bytes(), flags: open_flags::WRITE, mode: None }).await?;
        let Reply::Handle(handle) = opened else { return Ok(false) };
        let handle = handle.to_vec();
        let wrote = self.ask(Request::Write { handle: &handle, offset: 0, data: GRAFFITO }).await?;
        self.ask(Request::Close(&handle)).await?;
        Ok(is_ok(&wrote))
    }

    /// A file that was asked for with mode 0666 is no object of a push; but what keeps it from being written again must be
    /// the server, not the client's good will.
    async fn reopen_own(&mut self, own: &str) -> Result<(), StoreError> {
        self.report.attacks += 1;
        if self.deface(own).await? {
            let effect = "a file that is made with a wide mode can be opened again";
            self.breach("open a file of its own for writing", effect, Verdict::AppendWeak);
        }
        Ok(())
    }

    async fn close(&mut self, marks: &Marks) -> Result<(), StoreError> {
        self.ask(Request::Close(&marks.reading)).await?;
        self.ask(Request::Close(&marks.writing)).await?;
        Ok(())
    }

    /// Takes away what was made, where that is possible.
    async fn tidy(&mut self) -> Result<(), StoreError> {
        let can_remove = self.report.got_through.iter().any(|breach| breach.request == "remove it");
        for (path, is_dir) in std::mem::take(&mut self.made) {
            let kind = if is_dir { RMDIR } else { REMOVE };
            let (kind, body) = attacks::removal(kind, &path);
            if can_remove || is_dir {
                self.ask(Request::Raw { kind, body: &body }).await?;
            }
            if !matches!(query::attributes(self.session, &path).await?, Reply::Status(Code::NotFound, _)) {
                self.report.left.push(path);
            }
        }
        Ok(())
    }
}

const fn is_ok(reply: &Reply) -> bool {
    matches!(reply, Reply::Status(Code::Ok, _))
}

fn cannot_store(path: &str, refused: &Reply) -> StoreError {
    match refused {
        Reply::Status(Code::NotFound, _) => {
            StoreError::NotFound(path.rsplit_once('/').map_or(path, |(dir, _)| dir).to_owned())
        }
        refused => refusal::unexpected(path, refused),
    }
}
