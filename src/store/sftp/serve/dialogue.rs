//! One SFTP session of a client: its open handles, and what each request is answered with.
//!
//! Answers in the order of the requests, one at a time, as OpenSSH does. Holds at most one window of unread requests.
//! Deliberately unaware of SSH.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use rustix::io::Errno;

use super::listing::Names;
use super::root::{absolute, attrs_of};
use super::{House, Layout};
use crate::store::sftp::wire::{
    Attrs, Code, Entry, LENGTH_BYTES, Limits, OVERHEAD_BYTES, PACKET_MAX_BYTES, Reply, Request, open_flags,
};

/// Handles of one session.
const HANDLES_MAX: usize = 1024;
/// The largest READ and WRITE, as OpenSSH has them.
const TRANSFER_MAX_BYTES: usize = PACKET_MAX_BYTES - OVERHEAD_BYTES;
/// Requests that arrived and were not answered, in bytes: two windows. A client that reads no replies is cut off here.
const UNANSWERED_MAX_BYTES: usize = 4 * 1024 * 1024;

/// What a log-in may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Read, and make new files.
    Writer,
    /// Read.
    Reader,
}

/// The client does not keep to the protocol: the session ends.
#[derive(Debug, thiserror::Error)]
#[error("client misbehaves: {0}")]
pub struct Misbehaviour(&'static str);

enum Opened {
    /// A file that this handle made.
    New(File),
    /// A file or directory to read.
    Old(File),
    Names(Names),
}

/// One session.
pub struct Dialogue {
    house: Arc<House>,
    role: Role,
    unread: BytesMut,
    greeted: bool,
    handles: HashMap<u32, Opened>,
    next_handle: u32,
}

impl Dialogue {
    pub fn new(house: Arc<House>, role: Role) -> Self {
        Self { house, role, unread: BytesMut::new(), greeted: false, handles: HashMap::new(), next_handle: 0 }
    }

    /// Takes in bytes of the client.
    pub fn feed(&mut self, data: &[u8]) -> Result<(), Misbehaviour> {
        if self.unread.len() + data.len() > UNANSWERED_MAX_BYTES {
            return Err(Misbehaviour("it sends requests without reading replies"));
        }
        self.unread.extend_from_slice(data);
        Ok(())
    }

    /// The reply to the next whole request; none when there is none. Blocks on files.
    pub fn answer(&mut self) -> Result<Option<Vec<u8>>, Misbehaviour> {
        let Some(head) = self.unread.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes(*head) as usize;
        if length == 0 || length > PACKET_MAX_BYTES {
            return Err(Misbehaviour("a packet over the limit"));
        }
        if self.unread.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        self.unread.advance(LENGTH_BYTES);
        let packet = self.unread.split_to(length);
        if !self.greeted {
            Request::read_init(&packet).map_err(|_| Misbehaviour("no version from it"))?;
            self.greeted = true;
            return Ok(Some(Reply::version()));
        }
        let (id, request) = Request::read(&packet).map_err(|_| Misbehaviour("a malformed packet"))?;
        let reply = self.carry_out(request).unwrap_or_else(refusal);
        Ok(Some(reply.write(id)))
    }

    fn carry_out(&mut self, request: Request<'_>) -> Result<Reply, Errno> {
        let root = &self.house.root;
        Ok(match request {
            Request::Open { path, flags, .. } => return self.open(path, flags),
            Request::Close(handle) => {
                self.handles.remove(&number(handle)?).ok_or(Errno::BADF)?;
                Reply::status(Code::Ok)
            }
            Request::Read { handle, offset, bytes } => return self.read(handle, offset, bytes),
            Request::Write { handle, offset, data } => match self.opened(handle)? {
                Opened::New(file) => {
                    file.write_all_at(data, offset).map_err(|e| errno(&e))?;
                    Reply::status(Code::Ok)
                }
                _ => return Err(Errno::ACCESS),
            },
            Request::Lstat(path) | Request::Stat(path) => Reply::Attrs(root.attrs(path)?),
            Request::Fstat(handle) => Reply::Attrs(match self.opened(handle)? {
                Opened::New(file) | Opened::Old(file) => attrs_of(file)?,
                Opened::Names(_) => return Err(Errno::BADF),
            }),
            Request::OpenDir(path) => {
                let names = Names::new(root.open_dir(path)?)?;
                return self.keep(Opened::Names(names));
            }
            Request::ReadDir(handle) => match self.opened(handle)? {
                Opened::Names(names) => match names.portion()? {
                    portion if portion.is_empty() => Reply::status(Code::Eof),
                    portion => Reply::Names(portion),
                },
                _ => return Err(Errno::BADF),
            },
            Request::MakeDir { path, .. } => {
                if self.role != Role::Writer || self.house.layout != Layout::AllowMkdir {
                    return Err(Errno::PERM);
                }
                root.make_dir(path)?;
                Reply::status(Code::Ok)
            }
            Request::RealPath(path) => {
                let name = absolute(path);
                Reply::Names(vec![Entry { long: name.clone(), name, attrs: Attrs::default() }])
            }
            Request::Fsync(handle) => match self.opened(handle)? {
                Opened::New(file) | Opened::Old(file) => {
                    rustix::fs::fsync(file)?;
                    Reply::status(Code::Ok)
                }
                Opened::Names(_) => return Err(Errno::BADF),
            },
            Request::StatVfs(_) | Request::FstatVfs(_) => Reply::Extended(root.room()?.write()),
            Request::Limits => Reply::Extended(limits().write()),
            Request::Remove(_) | Request::Other(_) | Request::Raw { .. } => return Err(Errno::PERM),
        })
    }

    /// Opens to read, or makes a new file. Whoever asks for a file that may exist (as `sftp put` does) gets it only when it
    /// does not.
    fn open(&mut self, path: &[u8], flags: u32) -> Result<Reply, Errno> {
        const WRITING: u32 = open_flags::WRITE | open_flags::APPEND | open_flags::CREATE | open_flags::TRUNCATE;
        if flags & WRITING == 0 {
            return self.house.root.open_to_read(path).and_then(|file| self.keep(Opened::Old(file)));
        }
        if self.role != Role::Writer || flags & open_flags::CREATE == 0 || flags & open_flags::WRITE == 0 {
            return Err(Errno::PERM);
        }
        if self.handles.len() >= HANDLES_MAX {
            return Err(Errno::MFILE);
        }
        match self.house.root.create(path) {
            Err(Errno::EXIST) if flags & open_flags::EXCLUSIVE == 0 => Err(Errno::ACCESS),
            made => made.and_then(|file| self.keep(Opened::New(file))),
        }
    }

    fn read(&mut self, handle: &[u8], offset: u64, bytes: u32) -> Result<Reply, Errno> {
        let Opened::Old(file) = self.opened(handle)? else { return Err(Errno::BADF) };
        let mut content = vec![0; usize::try_from(bytes).map_or(TRANSFER_MAX_BYTES, |n| n.min(TRANSFER_MAX_BYTES))];
        let mut filled = 0;
        while filled < content.len() {
            match file.read_at(&mut content[filled..], offset.saturating_add(filled as u64)) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(errno(&e)),
            }
        }
        content.truncate(filled);
        Ok(if content.is_empty() { Reply::status(Code::Eof) } else { Reply::Data(Bytes::from(content)) })
    }

    fn opened(&mut self, handle: &[u8]) -> Result<&mut Opened, Errno> {
        self.handles.get_mut(&number(handle)?).ok_or(Errno::BADF)
    }

    fn keep(&mut self, opened: Opened) -> Result<Reply, Errno> {
        if self.handles.len() >= HANDLES_MAX {
            return Err(Errno::MFILE);
        }
        // A number is not given out again, so that nobody writes through a handle that was closed.
        let handle = self.next_handle;
        self.next_handle = self.next_handle.checked_add(1).ok_or(Errno::MFILE)?;
        self.handles.insert(handle, opened);
        Ok(Reply::Handle(Bytes::copy_from_slice(&handle.to_be_bytes())))
    }
}

fn limits() -> Limits {
    Limits {
        packet_bytes: PACKET_MAX_BYTES as u64,
        read_bytes: TRANSFER_MAX_BYTES as u64,
        write_bytes: TRANSFER_MAX_BYTES as u64,
        handles: HANDLES_MAX as u64,
    }
}

fn number(handle: &[u8]) -> Result<u32, Errno> {
    handle.try_into().map(u32::from_be_bytes).map_err(|_| Errno::BADF)
}

fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

/// The status for an error: OpenSSH's table (sftp-server.c, errno_to_portable), with the system's words.
fn refusal(errno: Errno) -> Reply {
    let code = match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::BADF | Errno::LOOP => Code::NotFound,
        Errno::PERM | Errno::ACCESS => Code::Denied,
        Errno::NAMETOOLONG | Errno::INVAL => Code::BadMessage,
        Errno::NOSYS => Code::Unsupported,
        _ => Code::Failure,
    };
    Reply::Status(code, errno.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dialogue(role: Role) -> (tempfile::TempDir, Dialogue) {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let root = super::super::Root::open(dir.path()).unwrap_or_else(|e| panic!("{e}"));
        let house = House { root, authorized: Vec::new(), readers: Vec::new(), layout: Layout::Fixed };
        let mut dialogue = Dialogue::new(Arc::new(house), role);
        assert!(dialogue.feed(&Request::init(3)).is_ok());
        assert!(matches!(dialogue.answer(), Ok(Some(_))));
        (dir, dialogue)
    }

    fn ask(dialogue: &mut Dialogue, request: Request<'_>) -> Reply {
        dialogue.feed(&request.write(1)).unwrap_or_else(|e| panic!("{e}"));
        let packet = dialogue.answer().unwrap_or_else(|e| panic!("{e}")).unwrap_or_default();
        Reply::read(&Bytes::from(packet).slice(4..)).unwrap_or_else(|e| panic!("{e}")).1
    }

    fn open(dialogue: &mut Dialogue, path: &[u8], flags: u32) -> Result<Bytes, Code> {
        match ask(dialogue, Request::Open { path, flags, mode: None }) {
            Reply::Handle(handle) => Ok(handle),
            Reply::Status(code, _) => Err(code),
            other => panic!("{other:?}"),
        }
    }

    const NEW: u32 = open_flags::CREATE | open_flags::EXCLUSIVE | open_flags::WRITE;

    #[test]
    fn a_file_is_written_once_and_only_through_the_handle_that_made_it() {
        let (dir, mut dialogue) = dialogue(Role::Writer);
        let handle = open(&mut dialogue, b"/f", NEW).unwrap_or_else(|e| panic!("{e:?}"));
        let write = |offset, data| Request::Write { handle: &handle, offset, data };
        assert_eq!(ask(&mut dialogue, write(0, b"content")), Reply::status(Code::Ok));
        assert_eq!(open(&mut dialogue, b"/f", NEW), Err(Code::Failure), "exists");
        for flags in [
            open_flags::WRITE,
            open_flags::WRITE | open_flags::TRUNCATE,
            open_flags::WRITE | open_flags::APPEND,
            open_flags::WRITE | open_flags::CREATE | open_flags::TRUNCATE,
            open_flags::READ | open_flags::WRITE,
            open_flags::READ | open_flags::TRUNCATE,
        ] {
            assert_eq!(open(&mut dialogue, b"/f", flags), Err(Code::Denied), "{flags:#x}");
        }
        let reading = open(&mut dialogue, b"/f", open_flags::READ).unwrap_or_else(|e| panic!("{e:?}"));
        let through_reading = Request::Write { handle: &reading, offset: 0, data: b"x" };
        assert_eq!(ask(&mut dialogue, through_reading), refusal(Errno::ACCESS));
        assert_eq!(ask(&mut dialogue, Request::Close(&handle)), Reply::status(Code::Ok));
        assert_eq!(ask(&mut dialogue, write(0, b"x")), refusal(Errno::BADF));
        for kind in [9, 10, 13, 15, 18, 19, 20, 21] {
            assert_eq!(ask(&mut dialogue, Request::Other(kind)), refusal(Errno::PERM), "{kind}");
        }
        assert_eq!(ask(&mut dialogue, Request::MakeDir { path: b"/d", mode: None }), refusal(Errno::PERM));
        assert_eq!(std::fs::read(dir.path().join("f")).ok(), Some(b"content".to_vec()));
    }

    #[test]
    fn a_reader_makes_nothing() {
        let (_dir, mut dialogue) = dialogue(Role::Reader);
        assert_eq!(open(&mut dialogue, b"/f", NEW), Err(Code::Denied));
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_a_reply_or_the_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let (_dir, mut dialogue) = dialogue(Role::Writer);
            let mut packet = u32::try_from(bytes.len()).unwrap_or(0).to_be_bytes().to_vec();
            packet.extend(bytes);
            let _ = dialogue.feed(&packet);
            let _ = dialogue.answer();
        }
    }
}
