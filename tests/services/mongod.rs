//! What a real MongoDB does and FerretDB does not, by a stand-in between the two: rules for documents that came after them,
//! documents that expire, a shard's member that knows a part, rights, an answer that is lost. It keeps the words of the wire protocol that this takes.

use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use ::mongodb::bson::{Bson, Document, doc};
use farkeep::source::engine::Engine;
use farkeep::source::mongodb::MongoConfig;
use farkeep::source::mongodb::vendor::{Vendor, WholeConfig};

use crate::mongodb::{count, database};
use crate::rehearsal::Rehearsal;
use crate::replica_set::{HEADER_BYTES, MSG_BYTES, OP_MSG, kind, message};
use crate::service::{Service, needs_service};

/// This collection has a rule that its documents do not keep.
const RULED: &str = "ruled";
/// This one has documents that expire, and these have expired long since.
const SESSIONS: &str = "sessions";
const SESSIONS_LEFT: u64 = 3;
/// Longer than a second, the shortest time limit.
const SLOW: Duration = Duration::from_secs(3);

/// What it plays.
#[derive(Clone, Copy, PartialEq)]
pub enum Play {
    Server,
    Shard,
    /// A server that knows who has logged in, and what that account may do: nothing outside one database.
    Restricted,
    /// A server that takes its time for each write.
    Slow,
    /// A server that renames a collection in place of another and is gone before it says so.
    Losing,
    /// One that is gone before it has begun to.
    Gone,
    /// One that lets this account drop and not rename.
    Refusing,
}

/// What was asked of it and is worth remembering.
#[derive(Default)]
pub struct Seen {
    /// Collections that were made with a rule.
    ruled: Vec<String>,
    /// Writes that were let past the rule.
    bypassed: usize,
}

/// Stands before `server`; gives its own port.
pub fn start(server: u16, play: Play) -> (u16, Arc<Mutex<Seen>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, seen) = (listener.local_addr().unwrap().port(), Arc::<Mutex<Seen>>::default());
    let shared = Arc::clone(&seen);
    thread::spawn(move || {
        for client in listener.incoming() {
            let (client, seen) = (client.unwrap(), Arc::clone(&shared));
            thread::spawn(move || pass_on(client, server, play, &seen));
        }
    });
    (port, seen)
}

fn pass_on(mut client: TcpStream, port: u16, play: Play, seen: &Mutex<Seen>) -> io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", port))?;
    loop {
        let question = message(&mut client)?;
        if kind(&question) != OP_MSG {
            server.write_all(&question)?;
            client.write_all(&message(&mut server)?)?;
            continue;
        }
        let asked = Document::from_reader(&question[MSG_BYTES..]).unwrap();
        let (command, name) = asked.iter().next().map(|(c, name)| (c.clone(), name.clone())).unwrap();
        let name = name.as_str().unwrap_or_default().to_owned();
        let refusal = match command.as_str() {
            "insert" if seen.lock().unwrap().ruled.contains(&name) => {
                let bypasses = asked.get_bool("bypassDocumentValidation").unwrap_or(false);
                seen.lock().unwrap().bypassed += usize::from(bypasses);
                let refused = doc! { "index": 0, "code": 121, "errmsg": "Document failed validation" };
                (!bypasses).then(|| doc! { "ok": 1.0, "n": 0, "writeErrors": [refused] })
            }
            "shardingState" if play == Play::Shard => Some(doc! { "ok": 1.0, "enabled": true, "shardName": "first" }),
            "renameCollection" if play == Play::Refusing => {
                Some(doc! { "ok": 0.0, "code": 13, "codeName": "Unauthorized", "errmsg": "not authorized on admin" })
            }
            "connectionStatus" if play == Play::Restricted => Some(rights_of_one_database()),
            _ => None,
        };
        if let Some(said) = refusal {
            client.write_all(&with_document(&answer_to(&question), &said))?;
            continue;
        }
        if command == "renameCollection" && play == Play::Losing && asked.contains_key("dropTarget") {
            let (database, target) = asked.get_str("to").unwrap().split_once('.').unwrap();
            database_at(port, database).collection::<Document>(target).drop().run().unwrap();
            let rename = doc! { "renameCollection": &name, "to": asked.get_str("to").unwrap() };
            database_at(port, "admin").run_command(rename).run().unwrap();
            return Ok(());
        }
        if command == "insert" && play == Play::Slow {
            thread::sleep(SLOW);
        }
        if command == "renameCollection" && play == Play::Gone && asked.contains_key("dropTarget") {
            return Ok(());
        }
        let plain = without_what_ferretdb_lacks(asked.clone());
        if command == "create" && asked.contains_key("validator") {
            seen.lock().unwrap().ruled.push(name.clone());
        }
        let expires = plain != asked && command == "createIndexes";
        server.write_all(&with_document(&question, &plain))?;
        let answer = message(&mut server)?;
        let mut said = Document::from_reader(&answer[MSG_BYTES..]).unwrap();
        if expires {
            let database = database_at(port, asked.get_str("$db").unwrap());
            database
                .collection::<Document>(&name)
                .delete_many(doc! { "_id": { "$gte": SESSIONS_LEFT as i32 } })
                .run()
                .unwrap();
        }
        describe(&command, &name, &mut said);
        client.write_all(&with_document(&answer, &said))?;
    }
}

fn rights_of_one_database() -> Document {
    let users = [doc! { "user": "backup", "db": "admin" }];
    let privileges = [doc! { "resource": { "db": "crvs", "collection": "" }, "actions": ["find", "listCollections"] }];
    doc! { "ok": 1.0, "authInfo": { "authenticatedUsers": users, "authenticatedUserPrivileges": privileges } }
}

fn database_at(port: u16, name: &str) -> ::mongodb::sync::Database {
    ::mongodb::sync::Client::with_uri_str(format!("mongodb://127.0.0.1:{port}/")).unwrap().database(name)
}

fn without_what_ferretdb_lacks(mut asked: Document) -> Document {
    asked.remove("validator");
    for index in asked.get_array_mut("indexes").ok().into_iter().flatten() {
        index.as_document_mut().unwrap().remove("expireAfterSeconds");
    }
    asked
}

/// Adds the rule and the time of expiry to what the server tells of its collections.
fn describe(command: &str, name: &str, said: &mut Document) {
    let Ok(cursor) = said.get_document_mut("cursor") else { return };
    for entry in cursor.get_array_mut("firstBatch").ok().into_iter().flatten().filter_map(Bson::as_document_mut) {
        if command == "listCollections" && entry.get_str("name").is_ok_and(|name| name == RULED) {
            entry.get_document_mut("options").unwrap().insert("validator", doc! { "n": { "$gte": 100 } });
        }
        if command == "listIndexes" && name.ends_with(SESSIONS) && entry.get_str("name").is_ok_and(|name| name == "ttl") {
            entry.insert("expireAfterSeconds", 60);
        }
    }
}

/// A message with another document, and the sections behind it as they were.
fn with_document(message: &[u8], document: &Document) -> Vec<u8> {
    let old = u32::from_le_bytes(message[MSG_BYTES..MSG_BYTES + 4].try_into().unwrap()) as usize;
    let mut out = message[..MSG_BYTES].to_vec();
    document.to_writer(&mut out).unwrap();
    out.extend(&message[MSG_BYTES + old..]);
    let length = u32::try_from(out.len()).unwrap();
    out[..4].copy_from_slice(&length.to_le_bytes());
    out
}

/// The beginning of an answer to this question.
fn answer_to(question: &[u8]) -> Vec<u8> {
    let mut out = [&[0; 8], &question[4..8], &question[12..16], &[0; MSG_BYTES - HEADER_BYTES]].concat();
    doc! {}.to_writer(&mut out).unwrap();
    out
}

fn engine(rehearsal: &Rehearsal, port: u16) -> MongoConfig {
    MongoConfig {
        name: "crvs".into(),
        uri: rehearsal.secret("uri", &format!("mongodb://127.0.0.1:{port}/")),
        hosts: None,
        database: "crvs".into(),
        dumper: None,
        loader: None,
    }
}

#[test]
fn documents_that_a_later_rule_refuses_come_back_and_so_does_the_rule() {
    needs_service!("ferretdb");
    let (service, rehearsal) = (Service::start("ferretdb"), Rehearsal::new());
    let database = database(&service, "crvs");
    database.collection(RULED).insert_many((0..30).map(|n| doc! { "_id": n, "n": n })).run().unwrap();
    let (port, seen) = start(service.port, Play::Server);
    let engine = engine(&rehearsal, port);
    let night = rehearsal.back_up(&engine, "night").unwrap();
    database.drop().run().unwrap();
    rehearsal.bring_back_all(&engine, &night);
    assert_eq!(count(&database, RULED), 30);
    assert_eq!(seen.lock().unwrap().ruled, ["farkeep_new_ruled"]);
    assert!(seen.lock().unwrap().bypassed > 0);
}

#[test]
fn documents_that_expire_when_their_index_is_made_do_not_stop_a_restore() {
    needs_service!("ferretdb");
    let (service, rehearsal) = (Service::start("ferretdb"), Rehearsal::new());
    let database = database(&service, "crvs");
    database.collection(SESSIONS).insert_many((0..30).map(|n| doc! { "_id": n, "at": n })).run().unwrap();
    database
        .run_command(doc! { "createIndexes": SESSIONS, "indexes": [{ "key": { "at": 1 }, "name": "ttl" }] })
        .run()
        .unwrap();
    let engine = engine(&rehearsal, start(service.port, Play::Server).0);
    let night = rehearsal.back_up(&engine, "night").unwrap();
    database.drop().run().unwrap();
    engine.replace(&night, &rehearsal.work("restore")).unwrap();
    assert_eq!(count(&database, SESSIONS), SESSIONS_LEFT);
    let now = engine.prove(&night, &rehearsal.work("prove")).unwrap();
    assert_eq!(now.proof["documents of sessions"], SESSIONS_LEFT.to_string(), "what is gone is told");
}

#[test]
fn a_member_of_a_shard_holds_a_part_of_a_database_and_is_refused() {
    needs_service!("ferretdb");
    let (service, rehearsal) = (Service::start("ferretdb"), Rehearsal::new());
    database(&service, "crvs").collection("births").insert_one(doc! { "_id": 1 }).run().unwrap();
    let error = rehearsal.back_up(&engine(&rehearsal, start(service.port, Play::Shard).0), "part").unwrap_err().to_string();
    assert!(error.contains("mongos"), "{error}");
    let whole = rehearsal.back_up(&engine(&rehearsal, start(service.port, Play::Server).0), "whole").unwrap();

    // Whichever program makes the archive, and as the target of a restore.
    let vendor = |program: &str| Vendor::new(program.into(), Vec::new()).unwrap();
    let part = engine(&rehearsal, start(service.port, Play::Shard).0);
    let deployment = WholeConfig {
        name: "deployment".into(),
        uri: part.uri.clone(),
        hosts: None,
        dumper: vendor("true"),
        oplog: false,
        loader: Some(vendor("true")),
    };
    let by_program = MongoConfig { dumper: Some(vendor("true")), ..part.clone() };
    let opened: [&dyn Engine; 2] = [&by_program, &deployment];
    let surveyed: [&dyn Engine; 2] = [&part, &deployment];
    for engine in opened {
        let error = engine.open(&rehearsal.work("part")).err().unwrap().to_string();
        assert!(error.contains("mongos"), "{error}");
    }
    for engine in surveyed {
        let error = engine.survey(&whole.account, &rehearsal.work("survey")).err().unwrap().to_string();
        assert!(error.contains("mongos"), "{error}");
    }
}

#[test]
fn a_collection_with_as_long_a_name_as_a_server_takes_comes_back() {
    needs_service!("ferretdb");
    let (service, rehearsal) = (Service::start("ferretdb"), Rehearsal::new());
    let database = database(&service, "crvs");
    let longest = "n".repeat(235);
    for name in [longest.clone(), format!("{}_two", &longest[..200]), "n".into()] {
        database.collection(&name).insert_many((0..5).map(|n| doc! { "_id": n, "in": &name })).run().unwrap();
    }
    let engine = engine(&rehearsal, service.port);
    let night = rehearsal.back_up(&engine, "night").unwrap();
    database.collection::<Document>(&longest).delete_many(doc! {}).run().unwrap();
    rehearsal.bring_back_all(&engine, &night);
    assert_eq!(count(&database, &longest), 5);
    assert_eq!(database.list_collection_names().run().unwrap().len(), 3);
}

#[test]
fn what_a_restore_left_that_broke_off_is_no_backup_until_it_has_ended() {
    needs_service!("ferretdb");
    let (service, rehearsal) = (Service::start("ferretdb"), Rehearsal::new());
    let database = database(&service, "crvs");
    for name in ["births", "deaths"] {
        database.collection(name).insert_many((0..50).map(|n| doc! { "_id": n })).run().unwrap();
    }
    let engine = engine(&rehearsal, service.port);
    let night = rehearsal.back_up(&engine, "night").unwrap();
    // Killed when the first collection had its name and the second did not: nothing else shows it.
    database.collection("deaths").insert_one(doc! { "_id": "of today" }).run().unwrap();
    database.collection("farkeep_new_.unfinished").insert_one(doc! {}).run().unwrap();
    let error = rehearsal.back_up(&engine, "half").unwrap_err().to_string();
    assert!(error.contains("a restore has not ended"), "{error}");
    // A repeated one that fails does not make of it a whole database.
    let mut cut = night.clone();
    cut.parts[0].path = rehearsal.path("cut");
    let whole = std::fs::read(&night.parts[0].path).unwrap();
    std::fs::write(&cut.parts[0].path, &whole[..whole.len() - 30]).unwrap();
    engine.replace(&cut, &rehearsal.work("again")).unwrap_err();
    let error = rehearsal.back_up(&engine, "still half").unwrap_err().to_string();
    assert!(error.contains("a restore has not ended"), "{error}");
    rehearsal.bring_back_all(&engine, &night);
    rehearsal.back_up(&engine, "whole").unwrap();
    // One that fails before it replaces anything leaves nothing that is in the way.
    engine.replace(&cut, &rehearsal.work("cut")).unwrap_err();
    rehearsal.back_up(&engine, "after").unwrap();
    assert_eq!(count(&database, "births"), 50);
}

#[test]
fn a_restore_that_is_stopped_before_it_replaced_anything_is_in_the_way_of_no_backup() {
    needs_service!("ferretdb");
    let (service, rehearsal) = (Service::start("ferretdb"), Rehearsal::new());
    let database = database(&service, "crvs");
    database.collection("births").insert_many((0..50).map(|n| doc! { "_id": n })).run().unwrap();
    let engine = engine(&rehearsal, start(service.port, Play::Slow).0);
    let night = rehearsal.back_up(&engine, "night").unwrap();
    database.collection("births").insert_one(doc! { "_id": "of today" }).run().unwrap();
    let late = rehearsal.work("late").with_timeout(Some(1));
    late.start_clock();
    let error = engine.replace(&night, &late).unwrap_err().to_string();
    assert!(error.contains("time limit"), "{error}");
    assert_eq!(database.list_collection_names().run().unwrap(), ["births"], "nor does what was under way come back");
    assert_eq!(count(&database, "births"), 51);
    rehearsal.back_up(&engine, "after").unwrap();
}

#[test]
fn a_collection_that_took_its_place_is_not_dropped_when_the_answer_is_lost() {
    needs_service!("ferretdb");
    let (service, rehearsal) = (Service::start("ferretdb"), Rehearsal::new());
    let database = database(&service, "crvs");
    database.collection("births").insert_many((0..50).map(|n| doc! { "_id": n })).run().unwrap();
    let engine = engine(&rehearsal, start(service.port, Play::Losing).0);
    let night = rehearsal.back_up(&engine, "night").unwrap();
    database.collection("births").insert_one(doc! { "_id": "of today" }).run().unwrap();
    rehearsal.bring_back(&engine, &night).unwrap_err();
    assert_eq!(count(&database, "births"), 50);
}

#[test]
fn an_old_collection_stands_until_the_new_one_can_take_its_place() {
    needs_service!("ferretdb");
    let (service, rehearsal) = (Service::start("ferretdb"), Rehearsal::new());
    let database = database(&service, "crvs");
    database.collection("births").insert_many((0..50).map(|n| doc! { "_id": n })).run().unwrap();
    let night = rehearsal.back_up(&engine(&rehearsal, service.port), "night").unwrap();
    database.collection("births").insert_one(doc! { "_id": "of today" }).run().unwrap();
    for play in [Play::Gone, Play::Refusing] {
        rehearsal.bring_back(&engine(&rehearsal, start(service.port, play).0), &night).unwrap_err();
        assert_eq!(count(&database, "births"), 51);
    }
    rehearsal.bring_back_all(&engine(&rehearsal, service.port), &night);
}
