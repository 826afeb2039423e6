//! What is to be read from one object and what has arrived of it. No connection in here.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::store::StoreError;

/// Replies may be shorter than what was asked, but not crumbs: each one beyond the number that was needed must bring so
/// many bytes on average.
const CRUMB_BYTES: u64 = 1024;
/// That many short replies are forgiven.
const SHORT_REPLIES_FORGIVEN: u64 = 64;

/// One READ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Of which stretch.
    pub stretch: usize,
    /// From where in the object.
    pub offset: u64,
    /// How much.
    pub bytes: usize,
}

/// A stretch that is wanted.
#[derive(Debug, Default)]
struct Stretch {
    offset: u64,
    wanted: u64,
    /// What has arrived without a gap.
    got: Vec<u8>,
    /// What arrived beyond a gap, by its place in the stretch.
    early: BTreeMap<u64, Bytes>,
    /// How far it was asked for.
    asked: u64,
    /// Where the object was found to end, as a place in the stretch.
    end: Option<u64>,
}

impl Stretch {
    fn needed(&self) -> u64 {
        self.end.unwrap_or(u64::MAX).min(self.wanted)
    }
}

/// One object to read.
#[derive(Debug)]
pub struct Job<'a> {
    /// Its name, for messages.
    pub name: &'a str,
    /// Its path on the server.
    pub path: String,
    /// Requests without a reply.
    pub in_flight: usize,
    stretches: Vec<Stretch>,
    /// Pieces that came back short, to be asked for again.
    again: Vec<Piece>,
    size_known: bool,
    replies: u64,
    received: u64,
    outcome: Option<Result<(), StoreError>>,
}

impl<'a> Job<'a> {
    /// Of these (offset, length) stretches.
    pub fn new(name: &'a str, path: String, ranges: &[(u64, u64)]) -> Self {
        let stretches = ranges
            .iter()
            .map(|(offset, bytes)| Stretch {
                offset: *offset,
                wanted: (*bytes).min(u64::MAX - offset),
                ..Stretch::default()
            })
            .collect();
        Self {
            name,
            path,
            in_flight: 0,
            stretches,
            again: Vec::new(),
            size_known: false,
            replies: 0,
            received: 0,
            outcome: None,
        }
    }

    /// Forgets what was under way on a connection that broke; keeps what arrived without a gap.
    pub fn restart(&mut self) {
        self.in_flight = 0;
        self.again.clear();
        self.size_known = false;
        for stretch in &mut self.stretches {
            stretch.early.clear();
            stretch.asked = stretch.got.len() as u64;
        }
    }

    pub const fn is_done(&self) -> bool {
        self.outcome.is_some()
    }

    pub const fn knows_size(&self) -> bool {
        self.size_known
    }

    /// Whether there is anything left to ask for.
    pub fn wants_more(&self) -> bool {
        self.outcome.is_none() && (!self.again.is_empty() || self.stretches.iter().any(|s| s.asked < s.needed()))
    }

    /// The next piece to ask for, of at most `size` bytes.
    pub fn next_piece(&mut self, size: usize) -> Option<Piece> {
        if self.outcome.is_some() {
            return None;
        }
        while let Some(piece) = self.again.pop() {
            let stretch = &self.stretches[piece.stretch];
            if piece.offset - stretch.offset < stretch.needed() {
                return Some(piece);
            }
        }
        let at = self.stretches.iter().position(|s| s.asked < s.needed())?;
        let stretch = &mut self.stretches[at];
        let bytes = usize::try_from(stretch.needed() - stretch.asked).map_or(size, |left| left.min(size));
        let piece = Piece { stretch: at, offset: stretch.offset + stretch.asked, bytes };
        stretch.asked += bytes as u64;
        Some(piece)
    }

    /// Takes back a piece that was asked for.
    pub fn ask_again(&mut self, piece: Piece) {
        self.again.push(piece);
    }

    /// Notes the object's size, where the server tells.
    pub fn set_size(&mut self, size: Option<u64>) {
        self.size_known = true;
        let Some(size) = size else { return };
        for stretch in &mut self.stretches {
            let end = size.saturating_sub(stretch.offset);
            // What has arrived beyond a size that the server tells is there all the same.
            stretch.end = Some(end.max(stretch.got.len() as u64));
        }
    }

    /// Takes in the bytes of a piece; returns how many.
    ///
    /// # Errors
    /// [`StoreError::Protocol`] when they are more than was asked, none, or one crumb too many.
    pub fn take(&mut self, piece: Piece, data: Bytes) -> Result<usize, StoreError> {
        let wrong = |what: &str| StoreError::Protocol(format!("{}: {what}", self.name));
        if data.len() > piece.bytes {
            return Err(wrong("it sends more than was asked"));
        }
        if data.is_empty() {
            return Err(wrong("it sends nothing and says that this is data"));
        }
        let bytes = data.len();
        self.replies += 1;
        self.received += bytes as u64;
        if self.replies > SHORT_REPLIES_FORGIVEN + self.received / CRUMB_BYTES {
            return Err(wrong("it sends crumbs"));
        }
        let stretch = &mut self.stretches[piece.stretch];
        let place = piece.offset - stretch.offset;
        let end = place + bytes as u64;
        if bytes < piece.bytes && end < stretch.needed() {
            let rest = Piece { offset: piece.offset + bytes as u64, bytes: piece.bytes - bytes, ..piece };
            self.again.push(rest);
        }
        if place == stretch.got.len() as u64 {
            stretch.got.extend_from_slice(&data);
            while let Some(next) = stretch.early.remove(&(stretch.got.len() as u64)) {
                stretch.got.extend_from_slice(&next);
            }
        } else {
            stretch.early.insert(place, data);
        }
        Ok(bytes)
    }

    /// Notes that the object ends at or before the beginning of a piece.
    pub fn end_at(&mut self, piece: Piece) {
        let stretch = &mut self.stretches[piece.stretch];
        let place = piece.offset - stretch.offset;
        stretch.end = Some(stretch.end.map_or(place, |end| end.min(place)));
    }

    /// Notes why it cannot be read.
    pub fn fail(&mut self, error: StoreError) {
        self.outcome.get_or_insert(Err(error));
    }

    /// Nothing more will come.
    pub fn finish(&mut self) {
        self.outcome.get_or_insert(Ok(()));
    }

    /// The stretches, or why they could not be had.
    ///
    /// # Errors
    /// The one that was noted.
    pub fn into_result(self) -> Result<Vec<Vec<u8>>, StoreError> {
        match self.outcome {
            Some(Ok(())) => Ok(self.stretches.into_iter().map(|stretch| stretch.got).collect()),
            Some(Err(error)) => Err(error),
            None => Err(StoreError::Unreachable(format!("{}: not fetched", self.name))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(bytes: usize) -> Bytes {
        Bytes::from(vec![7; bytes])
    }

    #[test]
    fn pieces_come_in_any_order_and_short() {
        let mut job = Job::new("n", "/n".into(), &[(10, 25)]);
        let pieces: Vec<Piece> = std::iter::from_fn(|| job.next_piece(10)).collect();
        assert_eq!(pieces.iter().map(|p| (p.offset, p.bytes)).collect::<Vec<_>>(), [(10, 10), (20, 10), (30, 5)]);
        assert_eq!(job.take(pieces[2], data(5)), Ok(5));
        assert_eq!(job.take(pieces[0], data(4)), Ok(4));
        assert_eq!(job.take(pieces[1], data(10)), Ok(10));
        let rest = job.next_piece(10);
        assert_eq!(rest, Some(Piece { stretch: 0, offset: 14, bytes: 6 }));
        assert!(rest.is_some_and(|rest| job.take(rest, data(6)) == Ok(6)));
        assert!(!job.wants_more());
        job.finish();
        assert_eq!(job.into_result(), Ok(vec![vec![7; 25]]));
    }

    #[test]
    fn a_known_size_saves_the_question_for_the_end() {
        let mut job = Job::new("n", "/n".into(), &[(0, 1000)]);
        let Some(piece) = job.next_piece(1000) else { panic!("a piece") };
        job.set_size(Some(300));
        assert_eq!(job.take(piece, data(300)), Ok(300));
        assert!(!job.wants_more());
    }

    #[test]
    fn after_a_break_it_goes_on_where_the_gap_was() {
        let mut job = Job::new("n", "/n".into(), &[(0, 30)]);
        let pieces: Vec<Piece> = std::iter::from_fn(|| job.next_piece(10)).collect();
        assert!(job.take(pieces[0], data(10)).is_ok() && job.take(pieces[2], data(10)).is_ok());
        job.restart();
        assert_eq!(job.next_piece(100), Some(Piece { stretch: 0, offset: 10, bytes: 20 }));
    }

    #[test]
    fn too_much_nothing_and_crumbs_are_refused() {
        let mut job = Job::new("n", "/n".into(), &[(0, 1 << 20)]);
        let Some(piece) = job.next_piece(100_000) else { panic!("a piece") };
        assert!(job.take(piece, data(100_001)).is_err());
        assert!(job.take(piece, data(0)).is_err());
        let mut piece = piece;
        let refused = (0..1000).find_map(|_| {
            let error = job.take(piece, data(1)).err();
            piece = job.next_piece(100_000).unwrap_or(piece);
            error
        });
        assert!(refused.is_some_and(|e| e.to_string().contains("crumbs")));
    }
}
