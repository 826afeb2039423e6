//! An archive of a whole MongoDB deployment, as mongodump lays it out: of every database, and of the oplog, which has none.

use bson::{RawDocumentBuf, rawdoc};
use farkeep::source::mongodb::archive::{Collection, Prelude, encode_begin, encode_end, encode_prelude};
use farkeep::source::mongodb::crc64::Crc64;

/// A namespace and its documents.
pub struct Namespace {
    pub database: &'static str,
    pub name: &'static str,
    pub documents: Vec<RawDocumentBuf>,
}

fn record(n: i32) -> RawDocumentBuf {
    rawdoc! { "_id": n, "text": "amina ".repeat(30) }
}

fn records(count: i32) -> Vec<RawDocumentBuf> {
    (0..count).map(record).collect()
}

/// What the collections held when each of them was read: 300 births, 20 deaths, 5 people.
pub fn namespaces() -> Vec<Namespace> {
    let namespace = |database, name, documents| Namespace { database, name, documents };
    vec![
        namespace("admin", "system.version", vec![rawdoc! { "_id": "featureCompatibilityVersion", "version": "7.0" }]),
        namespace("crvs", "births", records(300)),
        namespace("crvs", "deaths", records(20)),
        namespace("users", "people", records(5)),
    ]
}

/// What was written meanwhile: a birth went, and another came.
pub fn oplog() -> Namespace {
    let entry = |op: &str, ns: &str, o: RawDocumentBuf| rawdoc! { "op": op, "ns": ns, "o": o, "v": 2_i32 };
    let documents = vec![
        entry("n", "", rawdoc! { "msg": "periodic noop" }),
        entry("d", "crvs.births", rawdoc! { "_id": 0_i32 }),
        entry("i", "crvs.births", record(300)),
    ];
    Namespace { database: "", name: "oplog", documents }
}

/// The births once the oplog is replayed.
pub fn births() -> Vec<RawDocumentBuf> {
    (1..=300).map(record).collect()
}

/// The archive that holds these.
pub fn archive(namespaces: &[Namespace]) -> Vec<u8> {
    // What has no indexes of its own has no description either.
    let metadata = |name: &str| match name {
        "oplog" | "system.version" => (String::new(), String::new()),
        name => {
            (format!(r#"{{"indexes":[],"uuid":"","collectionName":"{name}","type":"collection"}}"#), "collection".into())
        }
    };
    let collection = |namespace: &Namespace| {
        let (metadata, kind) = metadata(namespace.name);
        Collection { database: namespace.database.into(), name: namespace.name.into(), kind, metadata }
    };
    let collections: Vec<Collection> = namespaces.iter().map(collection).collect();
    let prelude = Prelude { server_version: "7.0.14".into(), tool_version: "100.12.2".into(), collections };
    let mut bytes = encode_prelude(&prelude);
    for (collection, namespace) in prelude.collections.iter().zip(namespaces) {
        bytes.extend(encode_begin(collection));
        let mut crc = Crc64::default();
        for document in &namespace.documents {
            crc.update(document.as_bytes());
            bytes.extend(document.as_bytes());
        }
        bytes.extend(encode_end(collection, crc.value()));
    }
    bytes
}
