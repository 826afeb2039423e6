//! Objects made to use up memory or time: refused, in little of both.

use std::process::Stdio;
use std::time::{Duration, Instant};

use farkeep::format::table::PackKind;
use farkeep::model::name::ObjectName;
use serde_json::{Value, json};

use crate::forge::{Block, Forge, NO_HASH, base64, entry};
use crate::world::{World, args};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
/// What a restore may take, whatever it is given.
const PEAK_MAX_BYTES: u64 = 256 * MIB;
/// Whatever takes this long would not have ended by itself. A refusal takes a fraction of a second of one core, and stays
/// below two in release mode; what unfolds without end takes minutes at least. In between there is room for a build
/// without optimization on a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(20);

/// A zstd frame by hand: what it declares, its window, a beginning, and then `zeros` zeros in blocks of four bytes.
fn frame(declared: Option<u64>, window: u8, beginning: &[u8], zeros: u64) -> Vec<u8> {
    let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd];
    bytes.push(if declared.is_some() { 0xc4 } else { 0x04 });
    bytes.push(window);
    bytes.extend(declared.map(u64::to_le_bytes).into_iter().flatten());
    let mut block = |size: u64, kind: u64, last: bool, content: &[u8]| {
        let header = (size << 3 | kind << 1 | u64::from(last)).to_le_bytes();
        bytes.extend_from_slice(&header[..3]);
        bytes.extend_from_slice(content);
    };
    if !beginning.is_empty() {
        block(beginning.len() as u64, 0, false, beginning);
    }
    let full = 128 * 1024;
    for _ in 0..zeros / full {
        block(full, 1, false, &[0]);
    }
    block(zeros % full, 1, true, &[0]);
    bytes.extend([0; 4]);
    bytes
}

/// The window of 8 MiB, and one of 2 TiB.
const WINDOW: u8 = 13 << 3;
const HUGE_WINDOW: u8 = 31 << 3;

/// Restores `id` on a machine that has seen nothing, and looks at its memory all the while. It must refuse.
#[track_caller]
fn refused(world: &World, what: &str, id: &str) {
    refused_of(world, what, id, args![]);
}

/// The same for these paths of it alone.
#[track_caller]
fn refused_of(world: &World, what: &str, id: &str, paths: Vec<std::ffi::OsString>) {
    let station = world.machine(&format!("station for {what}"));
    let into = world.path(&format!("into {what}"));
    let restore = args!["restore", id, "--from", &world.vault, "--into", &into, "--identity", &world.identity];
    let restore = [restore, paths].concat();
    let mut child = station.command(restore).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (status_file, end) = (format!("/proc/{}/status", child.id()), Instant::now() + PATIENCE);
    let mut peak = 0;
    let status = loop {
        let status = std::fs::read_to_string(&status_file).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        peak = peak.max(line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024);
        if peak > PEAK_MAX_BYTES || Instant::now() > end {
            let _ = child.kill();
            panic!("{what}: {} MiB, and no end", peak >> 20);
        }
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(!said.contains("panicked at"), "{what}: {said}");
    let code = status.code().unwrap_or_else(|| panic!("{what}: {status}"));
    assert!([1, 3, 4].contains(&code), "{what}: {code}: {said}");
    // A file among many that cannot be restored is left out; nothing of it may have its name.
    assert!(!into.exists() || crate::world::files_below(&into).is_empty(), "{what}: something was restored");
}

fn scene() -> (World, Forge) {
    let world = World::new();
    let forge = Forge::new(&world);
    (world, forge)
}

/// A catalogue of one line that needs `chunk`.
fn line(forge: &Forge, chunk: &farkeep::model::ids::ChunkId, size: u64) -> (Vec<u8>, Value) {
    let mut line = entry("file", "a");
    line["size"] = size.into();
    line["hash"] = NO_HASH.to_string().into();
    line["chunks"] = json!([base64(chunk)]);
    let text = format!("{line}\n").into_bytes();
    let catalogue = json!({"chunks": [{"id": base64(&forge.chunk_id(&text)), "first": "a"}]});
    (text, catalogue)
}

#[test]
fn frames_that_swell_are_refused() {
    let (world, forge) = scene();
    let zeros = vec![0; MIB as usize];
    let id = forge.chunk_id(&zeros);
    let frames = [
        ("10 GiB declared", frame(Some(10 * GIB), WINDOW, &[], 10 * GIB)),
        ("10 GiB not declared", frame(None, WINDOW, &[], 10 * GIB)),
        ("10 GiB declared as one", frame(Some(MIB), WINDOW, &[], 10 * GIB)),
        ("a window of 2 TiB", frame(Some(MIB), HUGE_WINDOW, &[], MIB)),
        ("less than declared", frame(Some(MIB), WINDOW, &[], 1000)),
    ];
    for (what, bytes) in frames {
        let data =
            forge.pack(PackKind::Data, &[Block { frame: bytes, raw_bytes: MIB as u32, chunks: vec![(id, MIB as u32)] }]);
        let (text, catalogue) = line(&forge, &id, MIB);
        let packs = [forge.pack(PackKind::Catalogue, &[forge.block(&[text])]), data];
        refused(&world, what, &forge.snapshot_of(&packs, &catalogue));
    }
}

#[test]
fn manifests_that_swell_are_refused() {
    let (world, forge) = scene();
    for (what, bytes) in [
        ("manifest of 10 GiB", frame(Some(10 * GIB), WINDOW, &[], 10 * GIB)),
        ("manifest of 10 GiB called one", frame(Some(MIB), WINDOW, b"{", 10 * GIB)),
        ("manifest with a window of 2 TiB", frame(Some(MIB), HUGE_WINDOW, &[], MIB)),
        ("manifest of nothing", Vec::new()),
        (
            "manifest nested deep",
            farkeep::codec::compress::Compressor::new().compress("[".repeat(4_000_000).as_bytes(), 3).unwrap(),
        ),
    ] {
        let manifest = forge.sealed(ObjectName::Manifest, &bytes);
        refused(&world, what, &forge.commit(manifest, &[]));
    }
}

#[test]
fn indexes_that_swell_are_refused() {
    let (world, forge) = scene();
    let start = |packs: u32| [b"FKINDEX1".as_slice(), &packs.to_le_bytes()].concat();
    let pack = |header: u32, table: u32| {
        [&[9_u8; 32][..], &1000_u64.to_le_bytes(), &header.to_le_bytes(), &[9; 32], &table.to_le_bytes()].concat()
    };
    let table =
        |bases: u16, blocks: u32| [b"FKTABLE1".as_slice(), &[0, 0], &bases.to_le_bytes(), &blocks.to_le_bytes()].concat();
    // A table of one block that claims so many chunks.
    let chunks = |count: u32| {
        [
            table(0, 1),
            100_u32.to_le_bytes().to_vec(),
            1000_u32.to_le_bytes().to_vec(),
            count.to_le_bytes().to_vec(),
            vec![0; 4],
        ]
        .concat()
    };
    let with_table = |bytes: Vec<u8>| [start(1), pack(200, bytes.len() as u32), bytes].concat();
    let compress = |plain: &[u8]| farkeep::codec::compress::Compressor::new().compress(plain, 3).unwrap();
    let million = [chunks(1_000_000), vec![1; 28_000_000]].concat();
    let cases = [
        ("index of 10 GiB", frame(Some(10 * GIB), WINDOW, &[], 10 * GIB)),
        ("index of 10 GiB called one", frame(Some(MIB), WINDOW, &start(u32::MAX), 10 * GIB)),
        ("index of zeros without end", frame(Some(60 * MIB), WINDOW, &start(u32::MAX), 60 * MIB)),
        ("index with a window of 2 TiB", frame(Some(MIB), HUGE_WINDOW, &start(1), MIB)),
        ("four thousand million packs", compress(&start(u32::MAX))),
        ("a table of four gigabytes", compress(&[start(1), pack(200, u32::MAX)].concat())),
        ("a header of four gigabytes", compress(&[start(1), pack(u32::MAX, 100)].concat())),
        ("four thousand million blocks", compress(&with_table(table(0, u32::MAX)))),
        ("sixty thousand bases", compress(&with_table(table(u16::MAX, 1)))),
        ("four thousand million chunks", compress(&with_table(chunks(u32::MAX)))),
        ("a million chunks", compress(&with_table(million))),
    ];
    for (what, bytes) in cases {
        let index = forge.sealed(ObjectName::Index, &bytes);
        let manifest = forge.put_manifest(
            &forge.manifest(std::slice::from_ref(&index), &json!({"chunks": [{"id": "A".repeat(32), "first": "a"}]})),
        );
        refused(&world, what, &forge.commit(manifest, &[index]));
    }
}

/// An age file with a header of some 300 KiB.
fn long_header() -> Vec<u8> {
    let stanza = format!("-> X25519 {}\n{}\n", "A".repeat(43), "B".repeat(43));
    let mut bytes = format!("age-encryption.org/v1\n{}--- {}\n", stanza.repeat(3000), "C".repeat(43)).into_bytes();
    bytes.resize(bytes.len() + 20_000, 7);
    bytes
}

#[test]
fn age_headers_without_end_are_refused() {
    let (world, forge) = scene();
    let bytes = long_header();
    assert!(bytes.len() > 300 * 1024);
    let manifest = forge.put_as(ObjectName::Manifest, &bytes);
    refused(&world, "a manifest's header", &forge.commit(manifest, &[]));
    let index = forge.put_as(ObjectName::Index, &bytes);
    let catalogue = json!({"chunks": [{"id": "A".repeat(32), "first": "a"}]});
    let manifest = forge.put_manifest(&forge.manifest(std::slice::from_ref(&index), &catalogue));
    refused(&world, "an index's header", &forge.commit(manifest, &[index]));
    // A pack whose index tells the truth about where its header ends.
    let text = format!("{}\n", entry("dir", "a")).into_bytes();
    let mut pack = forge.pack(PackKind::Catalogue, &[forge.block(std::slice::from_ref(&text))]);
    let ObjectName::Pack(sealed) = forge.put_as(ObjectName::Pack, &bytes) else { unreachable!() };
    (pack.pack, pack.header_hash) = (sealed, farkeep::crypto::hash::hash(&bytes[..pack.header_bytes as usize]));
    let catalogue = json!({"chunks": [{"id": base64(&forge.chunk_id(&text)), "first": "a"}]});
    refused(&world, "a pack's header", &forge.snapshot_of(&[pack], &catalogue));
}

#[test]
fn catalogues_without_end_are_refused() {
    let (world, forge) = scene();
    let chunk = |bytes: Vec<u8>, kind: PackKind| (forge.chunk_id(&bytes), forge.pack(kind, &[forge.block(&[bytes])]));
    // A line over the limit.
    let mut long = entry("dir", "a");
    long["user"] = "u".repeat(2 << 20).into();
    refused(&world, "a long line", &forge.snapshot(&[long], &[]));
    // A list that names the same hundred thousand chunks again and again: what it unfolds into is without end.
    let (_, catalogue) = line(&forge, &forge.chunk_id(b"x"), 1);
    let item = format!("{}\n", catalogue["chunks"][0]);
    let (items, items_pack) = chunk(item.repeat(20_000).into_bytes(), PackKind::Catalogue);
    let (list, list_pack) = chunk(items.0.repeat(100_000), PackKind::Catalogue);
    let (lists, lists_pack) = chunk(list.0.repeat(100_000), PackKind::Catalogue);
    let stream = json!({"stream": {"chunks": [base64(&lists)], "level": 2}});
    refused(&world, "a list of lists", &forge.snapshot_of(&[items_pack, list_pack, lists_pack], &stream));
}

#[test]
fn files_without_end_are_refused() {
    let (world, forge) = scene();
    let huge = |size: Value, more: &[(&str, Value)]| {
        let mut line = entry("file", "a");
        line["size"] = size;
        line["hash"] = NO_HASH.to_string().into();
        line["chunks"] = json!([]);
        for (field, value) in more {
            line[*field] = value.clone();
        }
        line
    };
    let most = (1_u64 << 62) - 1;
    let cases = [
        ("a hole of four exbibytes", huge(most.into(), &[("extents", json!([]))])),
        ("a size over 64 bits", huge(json!(1.0e30), &[("extents", json!([]))])),
        ("a negative size", huge((-1).into(), &[])),
        ("extents that overflow", huge(most.into(), &[("extents", json!([[u64::MAX, u64::MAX]]))])),
        ("extents beyond the end", huge(10.into(), &[("extents", json!([[5, 100]]))])),
        ("extents that go back", huge(1000.into(), &[("extents", json!([[500, 10], [0, 10]]))])),
        ("extents that touch", huge(1000.into(), &[("extents", json!([[0, 10], [10, 10]]))])),
    ];
    // Most file systems cannot hold such a hole, and say so at once. One that can would get it hashed; but no disk has room
    // for what it claims to be, which is asked first wherever a restore is planned.
    let holds = std::fs::File::create(world.path("probe")).unwrap().set_len(most).is_ok();
    for (what, line) in cases {
        let id = forge.snapshot(&[line], &[b"x".to_vec()]);
        refused_of(&world, &format!("{what}, by name"), &id, args!["/a"]);
        if !holds || !what.contains("four exbibytes") {
            refused(&world, what, &id);
        }
    }
    // A file whose list of chunks unfolds into more than it is long.
    let x = forge.chunk_id(b"x");
    let list = x.0.repeat(100_000);
    let lists = forge.chunk_id(&list).0.repeat(100_000);
    let file = huge(5.into(), &[("chunks", json!([base64(&forge.chunk_id(&lists))])), ("level", 2.into())]);
    refused(&world, "more chunks than size", &forge.snapshot(&[file], &[b"x".to_vec(), list, lists]));
}
