//! How large the chunk index grows, in memory and on disk, and how long it takes to open and to ask.
//!
//! ```text
//! cargo bench --bench index
//! FARKEEP_INDEX_CHUNKS=100000000 FARKEEP_INDEX_DIR=/var/tmp/index cargo bench --bench index
//! ```
//!
//! Ten million chunks stand for 640 GiB at 64 KiB each; a hundred million take some ten GB of disk while it runs.

#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs)]

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use farkeep::crypto::hash::hash;
use farkeep::format::index::IndexedPack;
use farkeep::format::table::{PackKind, Table, TableBlock, TableChunk};
use farkeep::model::ids::{ChunkId, ObjectHash};
use farkeep::model::name::Sealed;
use farkeep::state::index::ChunkIndex;

/// Chunks of a pack of 32 MiB.
const PACK_CHUNKS: u64 = 512;
/// Chunks of 64 KiB that a block of 2 MiB holds.
const BLOCK_CHUNKS: u64 = 32;
/// Packs that a push adds before it makes them durable.
const PUSH_PACKS: u64 = 64;
const QUESTIONS: u64 = 100_000;
/// Where the ids begin that were never added.
const NEVER: u64 = 1 << 62;

fn id(n: u64) -> ChunkId {
    let mut bytes = [0; 24];
    bytes.copy_from_slice(&hash(&n.to_le_bytes()).0[..24]);
    ChunkId(bytes)
}

fn pack(number: u64) -> IndexedPack {
    let first = number * PACK_CHUNKS;
    let block = |block: u64| {
        let ids = first + block * BLOCK_CHUNKS..first + (block + 1) * BLOCK_CHUNKS;
        let chunks: Vec<TableChunk> = ids.map(|n| TableChunk { id: id(n), bytes: 65_536 }).collect();
        TableBlock { stored_bytes: 700_000, raw_bytes: 65_536 * BLOCK_CHUNKS as u32, depth: 0, bases: vec![], chunks }
    };
    IndexedPack {
        pack: Sealed { hash: hash(&number.to_be_bytes()), bytes: 11_000_000 },
        header_bytes: 200,
        header_hash: ObjectHash([1; 32]),
        table: Table {
            kind: PackKind::Data,
            base_packs: vec![],
            blocks: (0..PACK_CHUNKS / BLOCK_CHUNKS).map(block).collect(),
        },
    }
}

/// The peak of this process's memory so far, in MiB.
fn peak_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn bytes_in(dir: &Path) -> u64 {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

fn build(dir: &Path, chunks: u64) {
    let began = Instant::now();
    let mut index = ChunkIndex::open(dir).unwrap();
    for number in 0..chunks / PACK_CHUNKS {
        index.add_pack(&pack(number)).unwrap();
        if number % PUSH_PACKS == PUSH_PACKS - 1 {
            index.flush().unwrap();
        }
    }
    index.flush().unwrap();
    eprintln!(
        "{chunks} chunks added in {:.1} s: {:.1} bytes of disk each, {} MiB of memory at most",
        began.elapsed().as_secs_f64(),
        bytes_in(dir) as f64 / chunks as f64,
        peak_mib()
    );
}

fn ask(dir: &Path, chunks: u64) {
    let began = Instant::now();
    let index = ChunkIndex::open(dir).unwrap();
    eprintln!("opened in {:.0} ms, {} MiB", began.elapsed().as_secs_f64() * 1e3, peak_mib());
    let known = chunks / PACK_CHUNKS * PACK_CHUNKS;
    for (what, from) in [("that are there", 0), ("that are not", NEVER)] {
        let began = Instant::now();
        for question in 0..QUESTIONS {
            // An odd factor far from any power of two: all over the index.
            let number = question.wrapping_mul(0x9e37_79b9_7f4a_7c15) % known;
            let found = index.find(&id(from + number), |_| true).unwrap();
            assert_eq!(found.is_some(), from == 0);
        }
        let each = began.elapsed().as_secs_f64() * 1e6 / QUESTIONS as f64;
        eprintln!("{QUESTIONS} chunks {what} looked up: {each:.1} µs each, {} MiB", peak_mib());
    }
}

fn main() {
    let chunks = env::var("FARKEEP_INDEX_CHUNKS").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000_000);
    if let Ok(dir) = env::var("FARKEEP_INDEX_ASK") {
        return ask(Path::new(&dir), chunks);
    }
    let parent = env::var_os("FARKEEP_INDEX_DIR").map_or_else(env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(parent).unwrap();
    let index = dir.path().join("index");
    build(&index, chunks);
    // A process of its own, so that its peak is its own.
    let mut ask = Command::new(env::current_exe().unwrap());
    ask.env("FARKEEP_INDEX_ASK", &index).env("FARKEEP_INDEX_CHUNKS", chunks.to_string());
    assert!(ask.status().unwrap().success());
}
