//! A hostile agent: it holds the keys that sign and seal, and writes what no honest program would.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farkeep::cli::config::Config;
use farkeep::codec::compress::Compressor;
use farkeep::crypto::hash::hash;
use farkeep::crypto::seal::{Recipient, SealedBytes, seal};
use farkeep::crypto::secret::VaultSecret;
use farkeep::format::body::SnapshotBody;
use farkeep::format::frame::{TABLE_MAGIC, padded_size, padding, skippable_header};
use farkeep::format::index::{IndexedPack, encode_start};
use farkeep::format::inventory::{Line, encode};
use farkeep::format::record::{Head, RecordKind};
use farkeep::format::table::{PackKind, Table, TableBlock, TableChunk};
use farkeep::ledger::Scribe;
use farkeep::ledger::scribe::Context;
use farkeep::model::ids::{ChunkId, ObjectHash, VaultId};
use farkeep::model::name::{ObjectName, Sealed};
use farkeep::model::snapshot::{SnapshotState, Tally};
use farkeep::model::time::Timestamp;
use farkeep::state::StateDir;
use farkeep::state::keys::{KeyDir, Role};
use farkeep::store::directory::DirectoryStore;
use farkeep::vault::copy::Copy;
use serde_json::{Value, json};

use crate::world::{Machine, World};

/// When everything happens.
pub const NOW: i64 = 1_790_000_000;
const PADDED_MIN: u64 = 16 * 1024;

/// One block of a pack, as its table calls it.
pub struct Block {
    pub frame: Vec<u8>,
    pub raw_bytes: u32,
    pub chunks: Vec<(ChunkId, u32)>,
}

pub struct Forge {
    at: PathBuf,
    state: StateDir,
    pub vault: VaultId,
    pub trust: Head,
    epoch: Recipient,
    index: Recipient,
    secret: VaultSecret,
}

impl Forge {
    /// With all that the agent of `world` holds.
    pub fn new(world: &World) -> Self {
        Self::of(&world.agent, &world.vault)
    }

    /// With all that this machine holds.
    pub fn of(machine: &Machine, at: &Path) -> Self {
        let config = Config::load(&machine.config).unwrap();
        let vault = config.vault.unwrap();
        let state = StateDir::open(&machine.state, vault).unwrap();
        let keys = KeyDir::of(&state);
        let store = Arc::new(DirectoryStore::open(at).unwrap());
        let copy = Copy::open(store, &config.root.unwrap(), None).unwrap();
        let (epoch, trust) = (copy.trust.recipient().unwrap(), copy.trust.head());
        let index = keys.index_identity().unwrap().unwrap().recipient();
        let secret = keys.secret(1).unwrap().unwrap();
        Self { at: at.to_owned(), state, vault, trust, epoch, index, secret }
    }

    /// Puts an object into the vault.
    pub fn put(&self, name: &ObjectName, bytes: &[u8]) {
        fs::write(self.at.join(name.to_string()), bytes).unwrap();
    }

    /// Bytes of whatever kind under the name that belongs to them.
    pub fn put_as(&self, kind: fn(Sealed) -> ObjectName, bytes: &[u8]) -> ObjectName {
        let name = kind(Sealed { hash: hash(bytes), bytes: bytes.len() as u64 });
        self.put(&name, bytes);
        name
    }

    fn seal(&self, pieces: &[&[u8]], minimum: u64) -> SealedBytes {
        let length = pieces.iter().map(|piece| piece.len() as u64).sum();
        let fill = padding(length, padded_size(length, minimum)).unwrap();
        let mut all = pieces.to_vec();
        all.push(&fill);
        seal(&all, &[self.epoch.clone(), self.index.clone()]).unwrap()
    }

    pub fn chunk_id(&self, bytes: &[u8]) -> ChunkId {
        self.secret.chunk_key().id(bytes)
    }

    /// An honest block of some chunks.
    pub fn block(&self, chunks: &[Vec<u8>]) -> Block {
        let plain = chunks.concat();
        let chunks = chunks.iter().map(|chunk| (self.chunk_id(chunk), chunk.len() as u32)).collect();
        Block { frame: Compressor::new().compress(&plain, 3).unwrap(), raw_bytes: plain.len() as u32, chunks }
    }

    /// A pack of these blocks, whatever their frames are.
    pub fn pack(&self, kind: PackKind, blocks: &[Block]) -> IndexedPack {
        let mut table = Table::new(kind);
        for block in blocks {
            table.blocks.push(TableBlock {
                stored_bytes: block.frame.len() as u32,
                raw_bytes: block.raw_bytes,
                depth: 0,
                bases: Vec::new(),
                chunks: block.chunks.iter().map(|(id, bytes)| TableChunk { id: *id, bytes: *bytes }).collect(),
            });
        }
        let encoded = table.encode().unwrap();
        let header = skippable_header(TABLE_MAGIC, encoded.len());
        let mut pieces: Vec<&[u8]> = vec![&header, &encoded];
        pieces.extend(blocks.iter().map(|block| &block.frame[..]));
        let sealed = self.seal(&pieces, 0);
        self.put(&ObjectName::Pack(sealed.name), &sealed.bytes);
        IndexedPack { pack: sealed.name, header_bytes: sealed.header_bytes, header_hash: sealed.header_hash, table }
    }

    /// An honest index of these packs.
    pub fn index(&self, packs: &[IndexedPack]) -> ObjectName {
        let mut plain = encode_start(packs.len()).unwrap().to_vec();
        packs.iter().for_each(|pack| pack.encode_into(&mut plain).unwrap());
        self.sealed(ObjectName::Index, &Compressor::new().compress(&plain, 3).unwrap())
    }

    /// A sealed, padded object whose plaintext begins with `plain`.
    pub fn sealed(&self, kind: fn(Sealed) -> ObjectName, plain: &[u8]) -> ObjectName {
        let sealed = self.seal(&[plain], PADDED_MIN);
        let name = kind(sealed.name);
        self.put(&name, &sealed.bytes);
        name
    }

    /// The description of one member with this catalogue.
    pub fn manifest(&self, indexes: &[ObjectName], catalogue: &Value) -> Value {
        let indexes: Vec<String> = indexes.iter().map(ToString::to_string).collect();
        let tally = json!({"files": 1, "dirs": 1, "others": 0, "source_bytes": 1});
        let member = json!({
            "name": "files", "kind": "files", "roots": ["a"], "started": NOW, "finished": NOW, "tally": tally,
            "chunker": {"algorithm": "mincdc4", "min_bytes": 1000, "max_bytes": 100_000}, "catalogue": catalogue,
        });
        json!({
            "format": 1, "vault": self.vault.to_string(), "host": "h", "job": "forged", "tags": [], "started": NOW,
            "finished": NOW, "timezone": "UTC", "farkeep": "0", "indexes": indexes, "members": [member], "findings": [],
        })
    }

    pub fn put_manifest(&self, manifest: &Value) -> ObjectName {
        let json = serde_json::to_vec(manifest).unwrap();
        self.sealed(ObjectName::Manifest, &Compressor::new().compress(&json, 3).unwrap())
    }

    /// Signs a snapshot; gives its id.
    pub fn commit(&self, manifest: ObjectName, objects: &[ObjectName]) -> String {
        let line = |name: &ObjectName| Line { name: name.clone(), hash: name.content_hash().unwrap() };
        let mut lines: Vec<Line> = objects.iter().chain([&manifest]).map(line).collect();
        let page = self.put_as(ObjectName::Inventory, &encode(&mut lines).unwrap());
        let root = self.put_as(ObjectName::Inventory, &encode(&mut [line(&page)]).unwrap());
        let body = SnapshotBody {
            manifest,
            inventory: root,
            epochs: vec![1],
            generation: 1,
            series: self.secret.series("h", "forged"),
            tags: Vec::new(),
            state: SnapshotState::Good,
            started: Timestamp(NOW),
            due: None,
            hold: None,
            tally: Tally::default(),
            new_packs: 1,
            new_bytes: 1,
            findings: 0,
            probes: std::collections::BTreeMap::default(),
        };
        let key = KeyDir::of(&self.state).writer(Role::Agent).unwrap().unwrap();
        let mut scribe = Scribe::open(&self.state, self.vault, key).unwrap();
        let context = Context { time: Timestamp(NOW), trust: self.trust, heads: std::collections::BTreeMap::default() };
        let signed = scribe.write(RecordKind::Snapshot, &body, context).unwrap();
        self.put(&signed.name, &signed.bytes);
        signed.head.hash.to_string()
    }

    /// A snapshot with these catalogue lines, whatever they say, and these chunks of content. Gives its id.
    pub fn snapshot(&self, lines: &[Value], content: &[Vec<u8>]) -> String {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let mut packs = vec![self.pack(PackKind::Catalogue, &[self.block(&[text.clone().into_bytes()])])];
        if !content.is_empty() {
            packs.push(self.pack(PackKind::Data, &[self.block(content)]));
        }
        let catalogue = json!({"chunks": [{"id": base64(&self.chunk_id(text.as_bytes())), "first": "a"}]});
        self.snapshot_of(&packs, &catalogue)
    }

    /// A snapshot of honest packs with a catalogue of any form.
    pub fn snapshot_of(&self, packs: &[IndexedPack], catalogue: &Value) -> String {
        let index = self.index(packs);
        let manifest = self.put_manifest(&self.manifest(std::slice::from_ref(&index), catalogue));
        let mut objects: Vec<ObjectName> = packs.iter().map(|pack| ObjectName::Pack(pack.pack)).collect();
        objects.push(index);
        self.commit(manifest, &objects)
    }
}

/// A chunk id as JSON holds it.
pub fn base64(id: &ChunkId) -> String {
    farkeep::format::wire::to_base64(&id.0)
}

/// A catalogue line of an entry that belongs to root.
pub fn entry(kind: &str, path: &str) -> Value {
    json!({"path": path, "kind": kind, "mode": 0o755, "uid": 0, "gid": 0, "mtime": 0})
}

/// A catalogue line of a file whose content is one chunk.
pub fn file(forge: &Forge, path: &str, content: &[u8]) -> Value {
    let mut line = entry("file", path);
    line["size"] = content.len().into();
    line["hash"] = hash(content).to_string().into();
    line["chunks"] = json!([base64(&forge.chunk_id(content))]);
    line
}

/// A hash of nothing that exists.
pub const NO_HASH: ObjectHash = ObjectHash([7; 32]);
