//! What may be shown of a program's standard error.
//!
//! Database clients print failing statements with their rows, and addresses with passwords. Kept are the beginning and the
//! end, of each line what is short, and nothing that looks like a row or a password.

use std::collections::VecDeque;
use std::io::Read;

use crate::model::path::escape;
use crate::source::secret::SecretText;

/// Kept of the beginning, where the cause often stands.
const HEAD_BYTES: usize = 2048;
/// Kept of the end.
const TAIL_BYTES: usize = 4096;
/// Lines that are shown.
const SHOWN_LINES: usize = 6;
/// A longer line is data, not a message.
const LINE_MAX_BYTES: usize = 400;
/// Lines with one of these hold rows: statements, and PostgreSQL's and MongoDB's words about a row.
const ROW_MARKS: [&str; 9] =
    ["INSERT ", "VALUES", "COPY ", "UPDATE ", "DETAIL:", "CONTEXT:", "STATEMENT:", "dup key", "document:"];

/// The kept parts of a standard error.
#[derive(Debug, Default)]
pub struct Kept {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    left_out: bool,
    secrets: Vec<SecretText>,
}

impl Kept {
    /// Reads to the end.
    pub fn read(mut stderr: impl Read, secrets: Vec<SecretText>) -> Self {
        let mut kept = Self { secrets, ..Self::default() };
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stderr.read(&mut buffer) {
            kept.add(&buffer[..count]);
        }
        kept
    }

    fn add(&mut self, bytes: &[u8]) {
        let (head, rest) = bytes.split_at(bytes.len().min(HEAD_BYTES - self.head.len()));
        self.head.extend(head);
        self.tail.extend(rest);
        let excess = self.tail.len().saturating_sub(TAIL_BYTES);
        self.left_out |= excess > 0;
        self.tail.drain(..excess);
    }

    /// On one line: the first and the last lines that may be shown.
    pub fn show(self) -> String {
        let (mut bytes, tail) = (self.head, Vec::from(self.tail));
        if self.left_out {
            // The line that was cut in two is data by its length: what is left of it is not taken for a line of its own.
            let cut = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            bytes.truncate(cut);
            bytes.extend(b"(more)\n");
            let start = tail.iter().position(|b| *b == b'\n').map_or(tail.len(), |at| at + 1);
            bytes.extend(&tail[start..]);
        } else {
            bytes.extend(tail);
        }
        let lines: Vec<String> =
            bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty()).map(|line| redact(line, &self.secrets)).collect();
        let (first, last) = lines.split_at(lines.len().min(SHOWN_LINES / 2));
        let last = &last[last.len().saturating_sub(SHOWN_LINES / 2)..];
        first.iter().chain(last).map(String::as_str).collect::<Vec<_>>().join("; ")
    }
}

/// One line as it may be shown.
#[must_use]
pub fn redact(line: &[u8], secrets: &[SecretText]) -> String {
    let text = String::from_utf8_lossy(line);
    // MariaDB's programs write each row of a statement on a line of its own.
    let is_row = text.trim_start().starts_with('(');
    if line.len() > LINE_MAX_BYTES || is_row || ROW_MARKS.iter().any(|mark| text.contains(mark)) {
        return format!("(a line of {} bytes that may hold rows is not shown)", line.len());
    }
    let mut text = text.into_owned();
    // And quote values where they say what a statement stumbled over.
    if text.starts_with("ERROR ")
        && text.contains(" at line ")
        && let Some(at) = text.find('\'')
    {
        text.truncate(at);
        text.push_str("(not shown)");
    }
    for secret in secrets.iter().map(SecretText::expose).filter(|secret| !secret.is_empty()) {
        text = text.replace(secret, "***");
    }
    escape(hide_user_info(&text).as_bytes())
}

/// Takes user and password out of addresses: `mongodb://root:pw@host` becomes `mongodb://***@host`.
fn hide_user_info(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        shown.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || c == '"' || c == '\'').unwrap_or(after.len());
        // The last @ before a space: a password may hold / and @ itself.
        rest = match after[..end].rfind('@') {
            Some(sign) => {
                shown.push_str("***");
                &after[sign..]
            }
            None => after,
        };
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        Kept::read(text.as_bytes(), vec![SecretText::new("hunter2".into())]).show()
    }

    #[test]
    fn secrets_addresses_and_rows_are_not_shown() {
        let text = "error connecting to mongodb://root:p@ss/w@db:27017/?x=1 and http://host/path\n\
                    login hunter2 refused\n\
                    ERROR 1064 at line 3: near\nINSERT INTO person VALUES (1,'Amina Diallo')\n\
                    DETAIL:  Key (name)=(Amina Diallo) already exists.\n";
        let shown = shown(text);
        assert!(shown.contains("mongodb://***@db:27017/?x=1 and http://host/path"), "{shown}");
        assert!(shown.contains("login *** refused") && shown.contains("ERROR 1064"), "{shown}");
        assert!(!shown.contains("Amina") && !shown.contains("hunter2") && !shown.contains("p@ss"), "{shown}");
    }

    #[test]
    fn rows_on_lines_of_their_own_and_quoted_values_are_not_shown() {
        let text = "--------------\nINSERT INTO `birth` VALUES\n(1,'Amina Diallo',NULL),\n(2,'Amina Ba',NULL);\n--------------\n\
                    ERROR 1064 (42000) at line 73: You have an error; near ''',99,'Amina'' at line 3\n\
                    ERROR 1062 (23000) at line 9: Duplicate entry 'Amina' for key 'name'\n\
                    ERROR 1045 (28000): Access denied for user 'judge'@'localhost'\n";
        let shown = shown(text);
        assert!(shown.contains("ERROR 1064") && shown.contains("ERROR 1062") && shown.contains("'judge'"), "{shown}");
        assert!(!shown.contains("Amina"), "{shown}");
    }

    #[test]
    fn a_row_of_600_kilobytes_leaves_its_message_alone() {
        let text = format!("ERROR 2006 at line 45: gone away\n--------------\n{}\nbye\n", "Amina,".repeat(100_000));
        let shown = shown(&text);
        assert!(shown.contains("ERROR 2006") && shown.contains("bye") && !shown.contains("Amina"), "{shown}");
        assert!(shown.len() < 400, "{shown}");
    }
}
