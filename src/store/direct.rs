//! Files read and written past the machine's cache (O_DIRECT), as far as the file system takes it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// What reads and writes past the cache are aligned to; no disk has larger sectors.
const DIRECT_ALIGN: usize = 4096;
/// Objects from this size on are written past the cache: what waits for its fsync anyway gains nothing from being copied
/// there first, and what the machine works with stays in it.
const DIRECT_MIN_BYTES: usize = 1 << 20;
/// Bytes of one such write.
const DIRECT_STEP_BYTES: usize = 4 << 20;

/// Writes the beginning of a large object past the cache, as far as the file system takes it so; and how many bytes that was.
pub fn write_past_cache(file: &File, bytes: &[u8]) -> Result<usize, Errno> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    if bytes.len() < DIRECT_MIN_BYTES || rustix::fs::fcntl_setfl(file, flags | OFlags::DIRECT).is_err() {
        return Ok(0);
    }
    let (mut buffer, start) = aligned(DIRECT_STEP_BYTES);
    let whole = bytes.len() - bytes.len() % DIRECT_ALIGN;
    let mut written = 0;
    while written < whole && written.is_multiple_of(DIRECT_ALIGN) {
        let step = &bytes[written..whole.min(written + DIRECT_STEP_BYTES)];
        let buffer = &mut buffer[start..start + step.len()];
        buffer.copy_from_slice(step);
        match file.write_at(buffer, written as u64) {
            Ok(0) => break,
            Ok(n) => written += n,
            Err(e) => match errno(&e) {
                Errno::INTR => {}
                Errno::INVAL | Errno::OPNOTSUPP => break,
                e => return Err(e),
            },
        }
    }
    rustix::fs::fcntl_setfl(file, flags)?;
    Ok(written)
}

/// Reads the first `bytes` bytes of a file that was opened with O_DIRECT, into memory that is aligned as that asks for.
pub fn read_aligned(file: &File, bytes: u64) -> io::Result<Vec<u8>> {
    let wanted = usize::try_from(bytes.min(file.metadata()?.len())).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let (mut buffer, start) = aligned(wanted.next_multiple_of(DIRECT_ALIGN));
    let end = start + wanted.next_multiple_of(DIRECT_ALIGN);
    let mut filled = 0;
    while filled < wanted {
        match file.read_at(&mut buffer[start + filled..end], filled as u64) {
            Ok(n) if n > 0 && (n.is_multiple_of(DIRECT_ALIGN) || filled + n >= wanted) => filled += n,
            Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    buffer.truncate(start + wanted);
    buffer.drain(..start);
    Ok(buffer)
}

/// Memory that holds `bytes` bytes from the returned place on, which is aligned as reads and writes past the cache ask for.
fn aligned(bytes: usize) -> (Vec<u8>, usize) {
    let buffer = vec![0; bytes + DIRECT_ALIGN];
    let start = buffer.as_ptr().align_offset(DIRECT_ALIGN).min(DIRECT_ALIGN);
    (buffer, start)
}

/// The number of an error of the system's.
pub fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_past_the_cache_and_behind_it_is_one_file() {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let path = dir.path().join("file");
        for length in [DIRECT_MIN_BYTES - 1, DIRECT_MIN_BYTES, 2 * DIRECT_STEP_BYTES + 5000] {
            let bytes: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let file = File::create(&path).unwrap_or_else(|e| panic!("{e}"));
            let written = write_past_cache(&file, &bytes).unwrap_or_else(|e| panic!("{e}"));
            assert!(written == 0 || written == length - length % DIRECT_ALIGN, "{written} of {length}");
            assert!(file.write_all_at(&bytes[written..], written as u64).is_ok());
            assert_eq!(std::fs::read(&path).ok(), Some(bytes));
        }
    }
}
