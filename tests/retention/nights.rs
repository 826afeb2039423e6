//! 400 nights without repacking: what is stored and what a restore reads, against the least that would do.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use farkeep::model::ids::ObjectHash;
use farkeep::model::retention::{Candidate, Keep, Periods, decide};
use farkeep::model::snapshot::SnapshotState;
use farkeep::model::time::Timestamp;
use farkeep::vault::thin::is_thin;

use super::world::Random;

const NIGHTS: u32 = 400;
/// What the first hundred nights look like says nothing.
const SETTLED: u32 = 100;
const CHUNKS: usize = 2048;
const CHUNK_BYTES: u64 = 64 * 1024;
const PACK_CHUNKS: usize = 256;
const BLOCK_CHUNKS: usize = 16;
/// Runs of chunks that change each night: 0.8 % of all.
const RUNS: usize = 1;

/// What stands at a night: content and the pack that it lies in.
type Snapshot = Vec<(u32, u32)>;

#[derive(Default)]
struct Figures {
    stored: Vec<f64>,
    read: Vec<f64>,
}

impl Figures {
    fn mean(values: &[f64]) -> f64 {
        values.iter().sum::<f64>() / values.len() as f64
    }
}

fn kept(nights: &[u32]) -> Vec<u32> {
    let candidate = |night: &u32| Candidate {
        id: ObjectHash([0; 32]),
        time: Timestamp(1_780_279_200 + i64::from(*night) * 86_400),
        state: SnapshotState::Good,
        whole: true,
        tags: vec![],
        held: None,
    };
    let series: Vec<Candidate> = nights.iter().map(candidate).collect();
    let periods = Periods { daily: 7, weekly: 8, ..Periods::default() };
    let keep = Keep { periods, within_secs: None, tags: vec![], min_snapshots: 3, min_age_secs: 0 };
    let decided = decide(&series, Some(&keep), &jiff::tz::TimeZone::UTC);
    nights.iter().zip(decided).filter(|(_, decision)| decision.keeps()).map(|(night, _)| *night).collect()
}

/// Runs the nights; `leave_thin` says whether thin packs are left behind.
fn run(leave_thin: bool) -> Figures {
    let mut random = Random::new(400);
    let mut content: Vec<u32> = (0..CHUNKS as u32).collect();
    let mut next = CHUNKS as u32;
    let mut place: HashMap<u32, u32> = HashMap::new();
    let mut packs: Vec<Vec<u32>> = Vec::new();
    let mut thin: HashSet<u32> = HashSet::new();
    let mut snapshots: BTreeMap<u32, Snapshot> = BTreeMap::new();
    let mut figures = Figures::default();
    for night in 0..NIGHTS {
        for _ in 0..RUNS {
            let at = (random.part() * (CHUNKS - BLOCK_CHUNKS) as f64) as usize;
            for chunk in &mut content[at..at + BLOCK_CHUNKS] {
                (*chunk, next) = (next, next + 1);
            }
        }
        let fresh: Vec<u32> =
            content.iter().copied().filter(|c| place.get(c).is_none_or(|pack| thin.contains(pack))).collect();
        for pack in fresh.chunks(PACK_CHUNKS) {
            place.extend(pack.iter().map(|chunk| (*chunk, packs.len() as u32)));
            packs.push(pack.to_vec());
        }
        let snapshot: Snapshot = content.iter().map(|chunk| (*chunk, place[chunk])).collect();
        let mut live: HashMap<u32, u64> = HashMap::new();
        snapshot.iter().for_each(|(_, pack)| *live.entry(*pack).or_default() += 1);
        let is_thin = |pack: &u32, live: u64| is_thin(live * CHUNK_BYTES, packs[*pack as usize].len() as u64 * CHUNK_BYTES);
        thin = live.iter().filter(|(pack, live)| leave_thin && is_thin(pack, **live)).map(|(pack, _)| *pack).collect();
        if night >= SETTLED {
            figures.read.push(read_ratio(&snapshot, &packs));
        }
        snapshots.insert(night, snapshot);
        let stay = kept(&snapshots.keys().copied().collect::<Vec<_>>());
        snapshots.retain(|night, _| stay.contains(night));
        if night >= SETTLED && night % 5 == 0 {
            let needed: BTreeSet<u32> = snapshots.values().flatten().map(|(_, pack)| *pack).collect();
            let unique: HashSet<u32> = snapshots.values().flatten().map(|(chunk, _)| *chunk).collect();
            let stored: usize = needed.iter().map(|pack| packs[*pack as usize].len()).sum();
            figures.stored.push(stored as f64 / unique.len() as f64);
        }
    }
    figures
}

/// Chunks of every block that holds one that is wanted, over those that are wanted.
fn read_ratio(snapshot: &Snapshot, packs: &[Vec<u32>]) -> f64 {
    let wanted: HashSet<(u32, u32)> = snapshot.iter().copied().collect();
    let places: BTreeSet<u32> = snapshot.iter().map(|(_, pack)| *pack).collect();
    let blocks = places.iter().flat_map(|pack| packs[*pack as usize].chunks(BLOCK_CHUNKS).map(move |block| (*pack, block)));
    let read: usize = blocks
        .filter(|(pack, block)| block.iter().any(|chunk| wanted.contains(&(*chunk, *pack))))
        .map(|(_, b)| b.len())
        .sum();
    read as f64 / wanted.len() as f64
}

#[test]
fn thin_packs_left_behind_keep_room_and_reads_in_bounds() {
    let (without, with) = (run(false), run(true));
    let (stored, read) = (Figures::mean(&with.stored), Figures::mean(&with.read));
    let (stored_without, read_without) = (Figures::mean(&without.stored), Figures::mean(&without.read));
    println!("stored {stored:.2} of the least (without {stored_without:.2}), read {read:.2} (without {read_without:.2})");
    assert!(stored < 1.6 && stored < stored_without, "{stored} stored, {stored_without} without");
    assert!(read < 1.6 && read < read_without, "{read} read, {read_without} without");
}
