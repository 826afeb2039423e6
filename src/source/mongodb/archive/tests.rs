//! The vendor's own archives, every way of cutting them, and what we write ourselves.

use proptest::prelude::*;

use super::*;

const PLAIN: &[u8] = include_bytes!("../../../../tests/samples/mongodump/hearth-dev.archive");
const OTHER: &[u8] = include_bytes!("../../../../tests/samples/mongodump/user-mgnt.archive");
const MISSING: &[u8] = include_bytes!("../../../../tests/samples/mongodump/missing-database.archive");

fn read_all(bytes: &[u8]) -> Result<(Prelude, Vec<Vec<Vec<u8>>>), ArchiveError> {
    let mut reader = Reader::open(bytes)?;
    let mut documents = vec![Vec::new(); reader.prelude().collections.len()];
    while let Some(item) = reader.next_item()? {
        if let Item::Document(place, document) = item {
            documents[place].push(document.to_vec());
        }
    }
    Ok((reader.prelude().clone(), documents))
}

fn write_all(prelude: &Prelude, documents: &[Vec<Vec<u8>>]) -> Vec<u8> {
    let mut bytes = encode_prelude(prelude);
    for (collection, documents) in prelude.collections.iter().zip(documents) {
        bytes.extend(encode_begin(collection));
        let mut crc = Crc64::default();
        for document in documents {
            crc.update(document);
            bytes.extend(document);
        }
        bytes.extend(encode_end(collection, crc.value()));
    }
    bytes
}

#[test]
fn archives_of_the_vendors_tool_are_read_whole() {
    for sample in [PLAIN, OTHER] {
        let (prelude, documents) = read_all(sample).unwrap_or_else(|e| panic!("{e}"));
        let names: Vec<(&str, usize)> =
            prelude.collections.iter().map(|c| c.name.as_str()).zip(documents.iter().map(Vec::len)).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [("Location", 50), ("Patient", 300), ("empty", 0)]);
        assert_eq!(prelude.tool_version, "100.12.2");
    }
    let (prelude, _) = read_all(MISSING).unwrap_or_else(|e| panic!("{e}"));
    assert!(prelude.collections.is_empty());
}

#[test]
fn written_again_it_is_the_vendors_archive_byte_for_byte() {
    let (prelude, documents) = read_all(PLAIN).unwrap_or_else(|e| panic!("{e}"));
    assert!(write_all(&prelude, &documents) == PLAIN);
}

#[test]
fn an_archive_that_was_cut_anywhere_is_not_whole() {
    for length in (0..PLAIN.len()).step_by(97).chain(PLAIN.len() - 200..PLAIN.len()) {
        assert!(read_all(&PLAIN[..length]).is_err(), "cut to {length} of {} bytes", PLAIN.len());
    }
    let twice = [PLAIN, PLAIN].concat();
    assert!(read_all(&twice).is_err());
}

#[test]
fn a_flipped_bit_in_a_document_is_found() {
    // Documents begin after the prelude; every byte of them is beneath a checksum.
    for place in (1000..PLAIN.len() - 200).step_by(997) {
        let mut bytes = PLAIN.to_vec();
        bytes[place] ^= 0x10;
        assert!(read_all(&bytes).is_err(), "byte {place}");
    }
}

#[test]
fn a_claimed_length_costs_no_memory() {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(0x7fff_ffff_u32.to_le_bytes());
    assert!(matches!(read_all(&bytes), Err(ArchiveError::Damaged(_))));
    let mut bytes = MAGIC.to_vec();
    bytes.extend((DOCUMENT_MAX_BYTES as u32).to_le_bytes());
    assert!(matches!(read_all(&bytes), Err(ArchiveError::Cut(_))));
}

fn some_documents() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let document = (any::<i64>(), ".{0,40}").prop_map(|(id, text)| rawdoc! { "_id": id, "text": text }.into_bytes());
    prop::collection::vec(document, 0..20)
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        collections in prop::collection::btree_map("[a-z.]{1,12}", (some_documents(), ".{0,40}", 0..3_usize), 0..5),
        server in "[0-9.]{0,8}",
    ) {
        let kinds = ["collection", "view", "timeseries"];
        let (mut named, mut documents) = (Vec::new(), Vec::new());
        for (name, (content, metadata, kind)) in collections {
            named.push(Collection { database: "db".into(), name, kind: kinds[kind].into(), metadata });
            documents.push(content);
        }
        let prelude = Prelude { server_version: server, tool_version: "test".into(), collections: named };
        let (read, content) = read_all(&write_all(&prelude, &documents)).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(read, prelude);
        prop_assert_eq!(content, documents);
    }

    #[test]
    fn random_bytes_are_refused_and_never_a_panic(tail in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(read_all(&tail).is_err());
        let _ = read_all(&[&PLAIN[..912], &tail].concat());
    }
}
