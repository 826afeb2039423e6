//! The packets of SFTP version 3 (draft-ietf-secsh-filexfer-02) with OpenSSH's extensions (its file PROTOCOL), in both
//! directions: the client writes requests and reads replies, the server the reverse.
//!
//! Guarantees: reading never panics and never allocates more than the packet is long, whatever the bytes. Deliberately
//! unaware of connections, order and meaning.

mod attrs;
mod cursor;
mod reply;
mod request;

pub use attrs::Attrs;
pub use reply::{Code, Entry, Limits, Reply, StatVfs};
pub use request::{Request, open_flags};

/// The only version that is spoken.
pub const VERSION: u32 = 3;
/// The longest packet that anybody sends: OpenSSH's own limit (SFTP_MAX_MSG_LENGTH), length field not counted.
pub const PACKET_MAX_BYTES: usize = 256 * 1024;
/// Bytes of the length field before each packet.
pub const LENGTH_BYTES: usize = 4;
/// What a WRITE or a DATA packet needs besides its data: kind, request number, handle of up to 256 bytes, offset, lengths.
pub const OVERHEAD_BYTES: usize = 1024;

/// fsync@openssh.com, version 1.
pub const EXT_FSYNC: &str = "fsync@openssh.com";
/// statvfs@openssh.com, version 2.
pub const EXT_STATVFS: &str = "statvfs@openssh.com";
/// fstatvfs@openssh.com, version 2.
pub const EXT_FSTATVFS: &str = "fstatvfs@openssh.com";
/// limits@openssh.com, version 1.
pub const EXT_LIMITS: &str = "limits@openssh.com";

/// Puts the length before a packet that was written after four empty bytes.
fn seal(mut packet: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(packet.len().saturating_sub(LENGTH_BYTES)).unwrap_or(u32::MAX);
    packet[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
    packet
}

/// An empty packet of `kind` for request `id`, with room for `room` bytes more.
fn begin(kind: u8, id: u32, room: usize) -> Vec<u8> {
    let mut packet = Vec::with_capacity(LENGTH_BYTES + 5 + room);
    packet.extend_from_slice(&[0; LENGTH_BYTES]);
    packet.push(kind);
    packet.extend_from_slice(&id.to_be_bytes());
    packet
}

fn put_bytes(packet: &mut Vec<u8>, bytes: &[u8]) {
    packet.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    packet.extend_from_slice(bytes);
}
