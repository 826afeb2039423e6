//! Chunks that are not what their ids say, though all of it is sealed and signed: a restore takes them from elsewhere, or not
//! at all.

use std::fs;

use farkeep::format::index::IndexedPack;
use farkeep::format::table::PackKind;
use serde_json::json;

use crate::forge::{Block, Forge, base64, entry, file};
use crate::world::{Run, World, args};

const CONTENT: [&[u8]; 3] = [b"the first of them", b"the second of them", b"the third of them"];
/// As long as what it stands for.
const WRONG: &[u8] = b"THE SECOND OF THEM";

struct Scene {
    world: World,
    forge: Forge,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let forge = Forge::new(&world);
        Self { world, forge }
    }

    /// A pack of the three chunks, the second of which is another.
    fn miscalled(&self) -> IndexedPack {
        let honest = self.block(&CONTENT);
        let Block { frame, .. } = self.block(&[CONTENT[0], WRONG, CONTENT[2]]);
        self.forge.pack(PackKind::Data, &[Block { frame, ..honest }])
    }

    fn honest(&self) -> IndexedPack {
        self.forge.pack(PackKind::Data, &[self.block(&CONTENT)])
    }

    fn block(&self, chunks: &[&[u8]]) -> Block {
        self.forge.block(&chunks.iter().map(|chunk| chunk.to_vec()).collect::<Vec<_>>())
    }

    /// A snapshot of a file for each chunk, another name of the second among them, whose chunks lie in these packs.
    fn snapshot(&self, data: &[IndexedPack]) -> String {
        let mut again = entry("hardlink", "a/two-again");
        again["link"] = "a/two".into();
        let [one, two, three] = CONTENT;
        let lines = [
            entry("dir", "a"),
            file(&self.forge, "a/one", one),
            file(&self.forge, "a/three", three),
            file(&self.forge, "a/two", two),
            again,
        ];
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let catalogue = json!({"chunks": [{"id": base64(&self.forge.chunk_id(text.as_bytes())), "first": "a"}]});
        let mut packs = vec![self.forge.pack(PackKind::Catalogue, &[self.forge.block(&[text.into_bytes()])])];
        packs.extend(data.iter().cloned());
        self.forge.snapshot_of(&packs, &catalogue)
    }

    fn restore(&self, snapshot: &str) -> Run {
        let world = &self.world;
        world.run(args!["restore", snapshot, "--into", world.path("out"), "--identity", &world.identity, "--json"])
    }

    fn restored(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.world.path("out/a").join(name)).ok()
    }
}

#[test]
fn a_sound_chunk_of_the_same_name_is_found_elsewhere() {
    for miscalled_first in [true, false] {
        let scene = Scene::new();
        let mut data = [scene.miscalled(), scene.honest()];
        if !miscalled_first {
            data.reverse();
        }
        let run = scene.restore(&scene.snapshot(&data)).exits(0);
        for (name, content) in ["one", "two", "three", "two-again"].into_iter().zip([0, 1, 2, 1]) {
            assert_eq!(scene.restored(name).as_deref(), Some(CONTENT[content]), "{name}");
        }
        let receipt = run.json();
        let told = ["entries", "files_written", "bytes_written"].map(|field| receipt[field].as_u64().unwrap());
        let bytes: usize = CONTENT.iter().map(|content| content.len()).sum();
        assert_eq!(told, [5, 3, bytes as u64], "each is counted once");
    }
}

#[test]
fn without_another_it_is_named_and_left_out() {
    let scene = Scene::new();
    let id = scene.snapshot(&[scene.miscalled()]);
    let run = scene.restore(&id).exits(4);
    let findings = run.json()["findings"].to_string();
    assert!(findings.contains("\"a/two\"") && findings.contains("a chunk is not what its id says"), "{findings}");
    for (name, content) in ["one", "three"].into_iter().zip([0, 2]) {
        assert_eq!(scene.restored(name).as_deref(), Some(CONTENT[content]), "{name}");
    }
    assert_eq!((scene.restored("two"), scene.restored("two-again")), (None, None));
    let world = &scene.world;
    world.run(args!["cat", &id, "/a/two", "--identity", &world.identity]).exits(4);
    world.run(args!["verify", "--depth", "opened", "--identity", &world.identity]).exits(4).says("not what its id says");
}
