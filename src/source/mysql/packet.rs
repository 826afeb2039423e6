//! The longest statement of a dump. A server that takes no such statement breaks the connection without a reason.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::model::size::human_size;
use crate::source::SourceError;
use crate::source::work::Work;

/// What a statement needs beside its text.
const ENVELOPE_BYTES: u64 = 1024;
/// Settings are whole mebibytes here.
const MEBIBYTE: u64 = 1024 * 1024;
/// Bytes that are read at a time.
const BUFFER_BYTES: usize = 1024 * 1024;

/// The longest line of what passed: a dump writes the rows of a statement on one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Longest {
    longest: u64,
    line: u64,
}

impl Longest {
    pub fn update(&mut self, bytes: &[u8]) {
        let mut lines = bytes.split(|byte| *byte == b'\n');
        self.line += lines.next().map_or(0, <[u8]>::len) as u64;
        self.longest = self.longest.max(self.line);
        for line in lines {
            self.line = line.len() as u64;
            self.longest = self.longest.max(self.line);
        }
    }

    pub fn of_file(path: &Path, work: &Work) -> Result<Self, SourceError> {
        let wrong = |source| SourceError::Io { path: path.display().to_string(), source };
        let (mut file, mut buffer) = (File::open(path).map_err(wrong)?, vec![0; BUFFER_BYTES]);
        let mut longest = Self::default();
        loop {
            work.check()?;
            match file.read(&mut buffer).map_err(wrong)? {
                0 => return Ok(longest),
                count => longest.update(&buffer[..count]),
            }
        }
    }

    /// Why a server that takes statements of so many bytes cannot load it, and what would help.
    pub fn too_long_for(self, packet_bytes: u64) -> Option<String> {
        let needed = self.longest + ENVELOPE_BYTES;
        (needed > packet_bytes).then(|| {
            format!(
                "a row takes a statement of {}, and the server's max_allowed_packet is {}: \
                 SET GLOBAL max_allowed_packet = {}; or in its configuration",
                human_size(self.longest),
                human_size(packet_bytes),
                needed.div_ceil(MEBIBYTE).next_power_of_two() * MEBIBYTE
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_measured_over_any_cuts() {
        let text = b"ab\n\nabcdef\nabc";
        for cut in 0..=text.len() {
            let mut longest = Longest::default();
            longest.update(&text[..cut]);
            longest.update(&text[cut..]);
            assert_eq!(longest.longest, 6, "{cut}");
        }
        let long = Longest { longest: 24 * MEBIBYTE, line: 0 };
        assert_eq!(long.too_long_for(32 * MEBIBYTE), None);
        assert!(long.too_long_for(16 * MEBIBYTE).is_some_and(|why| why.contains("max_allowed_packet = 33554432;")));
    }
}
