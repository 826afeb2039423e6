//! A stand-in for a replica set: members that pass everything on to one server, and add to its greeting what a member of a
//! set says. No elections, no oplog; but the client has to find the primary among several hosts, and to do without one.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use ::mongodb::bson::{Document, doc};

use crate::mongodb::{count, database, fill, uri};
use crate::rehearsal::Rehearsal;
use crate::service::{Service, needs_service};
use farkeep::source::mongodb::MongoConfig;

/// The kinds of messages (MongoDB's wire protocol).
const OP_REPLY: i32 = 1;
const OP_QUERY: i32 = 2004;
pub const OP_MSG: i32 = 2013;
/// Before every message: length, number, answered number, kind.
pub const HEADER_BYTES: usize = 16;
/// Before the document of an OP_REPLY: flags, cursor, start, count.
const REPLY_BYTES: usize = HEADER_BYTES + 20;
/// Before the document of an OP_MSG: flags, kind of section.
pub const MSG_BYTES: usize = HEADER_BYTES + 5;

/// A set whose first member is the primary. Gives the hosts; the last of several is down.
pub fn start(server: u16, members: usize) -> String {
    let listeners: Vec<TcpListener> = (0..members).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let hosts: Vec<String> = listeners.iter().map(|l| l.local_addr().unwrap().to_string()).collect();
    for (place, listener) in listeners.into_iter().enumerate() {
        if place > 0 && place == members - 1 {
            continue;
        }
        let hosts = hosts.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, hosts) = (client.unwrap(), hosts.clone());
                thread::spawn(move || pass_on(client, server, place, &hosts));
            }
        });
    }
    // From the last to the first: the primary is not the one that is asked first.
    hosts.into_iter().rev().collect::<Vec<_>>().join(",")
}

fn pass_on(mut client: TcpStream, server: u16, place: usize, hosts: &[String]) -> io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", server))?;
    loop {
        let question = message(&mut client)?;
        server.write_all(&question)?;
        let mut answer = message(&mut server)?;
        if is_greeting(&question) {
            answer = as_member(&answer, place, hosts);
        }
        client.write_all(&answer)?;
    }
}

pub fn message(from: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
    bytes[..4].copy_from_slice(&length);
    from.read_exact(&mut bytes[4..])?;
    Ok(bytes)
}

pub fn kind(message: &[u8]) -> i32 {
    i32::from_le_bytes(message[12..16].try_into().unwrap())
}

fn is_greeting(question: &[u8]) -> bool {
    let greets = |document: &[u8]| {
        let document = Document::from_reader(document).unwrap();
        document.keys().next().is_some_and(|first| ["hello", "ismaster"].contains(&first.to_lowercase().as_str()))
    };
    match kind(question) {
        // Flags, name of the collection, two numbers.
        OP_QUERY => {
            let name = question[HEADER_BYTES + 4..].iter().position(|b| *b == 0).unwrap();
            greets(&question[HEADER_BYTES + 4 + name + 1 + 8..])
        }
        OP_MSG => greets(&question[MSG_BYTES..]),
        _ => false,
    }
}

fn as_member(answer: &[u8], place: usize, hosts: &[String]) -> Vec<u8> {
    let before = if kind(answer) == OP_REPLY { REPLY_BYTES } else { MSG_BYTES };
    let mut said = Document::from_reader(&answer[before..]).unwrap();
    said.extend(doc! {
        "setName": "rs0", "setVersion": 1, "hosts": hosts, "me": &hosts[place], "primary": &hosts[0],
        "ismaster": place == 0, "isWritablePrimary": place == 0, "secondary": place != 0,
    });
    let mut out = answer[..before].to_vec();
    said.to_writer(&mut out).unwrap();
    let length = u32::try_from(out.len()).unwrap();
    out[..4].copy_from_slice(&length.to_le_bytes());
    out
}

#[test]
fn a_set_of_one_three_or_five_members_is_backed_up_and_restored_with_one_of_them_down() {
    needs_service!("ferretdb");
    let (service, rehearsal) = (Service::start("ferretdb"), Rehearsal::new());
    let database = database(&service, "hearth-dev");
    for members in [1, 3, 5] {
        fill(&database);
        let hosts = format!("rs0/{}", start(service.port, members));
        let engine = MongoConfig {
            name: "hearth-dev".into(),
            uri: rehearsal.secret("uri", &uri(&service)),
            hosts: Some(hosts),
            database: "hearth-dev".into(),
            dumper: None,
            loader: None,
        };
        let night = rehearsal.back_up(&engine, "night").unwrap();
        database.drop().run().unwrap();
        rehearsal.bring_back_all(&engine, &night);
        assert_eq!(count(&database, "Patient"), 2500, "{members} members");
        database.drop().run().unwrap();
    }
    // A set of another name than the members': not taken for ours.
    let hosts = start(service.port, 3);
    let engine = MongoConfig {
        name: "hearth-dev".into(),
        uri: rehearsal.secret("uri", &format!("{}?serverSelectionTimeoutMS=500", uri(&service))),
        hosts: Some(format!("rs1/{hosts}")),
        database: "hearth-dev".into(),
        dumper: None,
        loader: None,
    };
    assert!(rehearsal.back_up(&engine, "wrong set").is_err());
}
