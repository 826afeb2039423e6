//! Elasticsearch 7.10 and OpenSearch 2.19, the real servers: snapshots, damage that they do not notice, restores.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use farkeep::source::SourceError;
use farkeep::source::engine::{Engine, Fetched};
use farkeep::source::http::HttpConfig;
use farkeep::source::search::SearchConfig;
use farkeep::source::work::Work;
use serde_json::{Value, json};
use ureq::http::{Method, Request};

use crate::rehearsal::Rehearsal;
use crate::service::{Service, needs_service};
use crate::world::background::until;

/// One request; gives status and body.
pub fn call(service: &Service, method: Method, path: &str, body: &str) -> (u16, Value) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let url = format!("http://127.0.0.1:{}{path}", service.port);
    let request = Request::builder().method(method).uri(url).header("content-type", "application/json");
    let mut response = if body.is_empty() {
        agent.run(request.body(()).unwrap()).unwrap()
    } else {
        agent.run(request.body(body.to_owned()).unwrap()).unwrap()
    };
    let text = response.body_mut().read_to_string().unwrap();
    (response.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::Null))
}

#[track_caller]
fn must(service: &Service, method: Method, path: &str, body: &str) -> Value {
    let (status, answer) = call(service, method, path, body);
    assert!((200..300).contains(&status), "{path}: {status} {answer}");
    answer
}

/// Documents number `from` to `to`.
pub fn index(service: &Service, name: &str, from: usize, to: usize) {
    if call(service, Method::HEAD, &format!("/{name}"), "").0 == 404 {
        let settings = json!({ "settings": { "number_of_shards": 2, "number_of_replicas": 0 } });
        must(service, Method::PUT, &format!("/{name}"), &settings.to_string());
    }
    let mut lines = String::new();
    for n in from..to {
        lines += &format!("{{\"index\":{{\"_id\":\"{n}\"}}}}\n{{\"name\":\"Änn {n}\",\"n\":{n}}}\n");
    }
    let answer = must(service, Method::POST, &format!("/{name}/_bulk?refresh=true"), &lines);
    assert_eq!(answer["errors"], false);
}

pub fn count(service: &Service, name: &str) -> u64 {
    let (_, answer) = call(service, Method::GET, &format!("/{name}/_count"), "");
    answer["count"].as_u64().unwrap_or(0)
}

fn engine(service: &Service, kind: &'static str, indices: &[&str], keep: usize) -> SearchConfig {
    let url = format!("http://127.0.0.1:{}", service.port);
    SearchConfig {
        name: "search".into(),
        kind,
        http: HttpConfig { url, user: None, password: None, ca_file: None },
        repository: "ocrvs".into(),
        location: service.data("repo"),
        indices: indices.iter().map(|name| (*name).to_owned()).collect(),
        keep,
    }
}

fn is_readonly(service: &Service) -> bool {
    must(service, Method::GET, "/_snapshot/ocrvs", "")["ocrvs"]["settings"]["readonly"].as_str() == Some("true")
}

fn snapshots(service: &Service) -> usize {
    must(service, Method::GET, "/_snapshot/ocrvs/_all", "")["snapshots"].as_array().unwrap().len()
}

/// The whole story, on one server since each takes seconds to start.
fn indices_come_back_and_damage_stops_before_anything_is_removed(kind: &'static str) {
    let (service, rehearsal) = (Service::start(kind), Rehearsal::new());
    index(&service, "ocrvs-births", 0, 600);
    index(&service, "ocrvs-deaths", 0, 200);
    index(&service, "other", 0, 10);
    must(&service, Method::PUT, "/ocrvs-births/_settings", r#"{ "index": { "hidden": true } }"#);
    let engine = |indices: &[&str]| engine(&service, kind, indices, 2);

    let misspelt = rehearsal.back_up(&engine(&["ocrvs-*", "event_*"]), "misspelt").unwrap_err().to_string();
    assert!(misspelt.contains("event_*"), "{misspelt}");

    let ours = engine(&["ocrvs-*"]);
    rehearsal.back_up(&ours, "monday").unwrap();
    index(&service, "ocrvs-births", 590, 612);
    rehearsal.back_up(&ours, "tuesday").unwrap();
    let night = rehearsal.back_up(&ours, "wednesday").unwrap();
    assert_eq!(snapshots(&service), 2, "older snapshots leave the repository");
    assert!(!is_readonly(&service), "the cluster's own snapshots go on");
    assert_eq!(night.account.proof["documents of ocrvs-births"], "612");

    must(&service, Method::DELETE, "/ocrvs-births", "");
    index(&service, "ocrvs-deaths", 200, 300);
    index(&service, "ocrvs-later", 0, 5);
    let survey = ours.survey(&night.account, &rehearsal.work("survey")).unwrap();
    assert!(survey.destroys.contains(&"index ocrvs-deaths: 300 documents".to_owned()), "{survey:?}");
    rehearsal.bring_back_all(&ours, &night);
    assert_eq!((count(&service, "ocrvs-births"), count(&service, "ocrvs-deaths"), count(&service, "other")), (612, 200, 10));
    assert_eq!(call(&service, Method::HEAD, "/ocrvs-later", "").0, 404);
    let found = must(&service, Method::GET, "/ocrvs-births/_search?q=n:611", "");
    assert_eq!(found["hits"]["hits"][0]["_source"]["name"], "Änn 611");

    // The server would restore what is left, and call it a success.
    let mut damaged = night.clone();
    let lost = damaged.parts.iter().position(|part| part.name.contains("/__") && part.bytes > 1000).unwrap();
    damaged.parts.remove(lost);
    index(&service, "ocrvs-births", 612, 620);
    let error = rehearsal.bring_back(&ours, &damaged).unwrap_err().to_string();
    assert!(error.contains("nothing was removed"), "{error}");
    assert_eq!(count(&service, "ocrvs-births"), 620);
    let mut without_list = night.clone();
    without_list.parts.retain(|part| !part.name.starts_with("repository/index-"));
    assert!(rehearsal.bring_back(&ours, &without_list).is_err());

    broken_off(&service, &rehearsal, &ours, &night);
    stopped(&service, &rehearsal, &ours, &night);
    index(&service, "ocrvs-births", 612, 620);
    changed_while_it_was_read(&service, &rehearsal, &ours);
    not_searchable(&service, &rehearsal, &ours, &night);
    assert_eq!(count(&service, "ocrvs-births"), 620);
}

fn broken_off(service: &Service, rehearsal: &Rehearsal, engine: &SearchConfig, night: &Fetched) {
    // Taken by an index, the name of an alias stops a restore that has begun to remove.
    must(
        service,
        Method::POST,
        "/_aliases",
        r#"{ "actions": [{ "add": { "index": "ocrvs-deaths", "alias": "deaths" } }] }"#,
    );
    let aliased = rehearsal.back_up(engine, "aliased").unwrap();
    must(service, Method::DELETE, "/ocrvs-deaths", "");
    index(service, "deaths", 0, 1);
    let error = rehearsal.bring_back(engine, &aliased).unwrap_err().to_string();
    assert!(error.contains("the same command completes"), "{error}");
    index(service, "ocrvs-left", 0, 3);
    let error = rehearsal.back_up(engine, "half").unwrap_err().to_string();
    assert!(error.contains("a restore has not ended"), "{error}");
    // A repeated one that fails does not make of it a whole set.
    let mut without_list = aliased.clone();
    without_list.parts.retain(|part| !part.name.starts_with("repository/index-"));
    engine.replace(&without_list, &rehearsal.work("again")).unwrap_err();
    let error = rehearsal.back_up(engine, "still half").unwrap_err().to_string();
    assert!(error.contains("a restore has not ended"), "{error}");
    must(service, Method::DELETE, "/deaths", "");
    rehearsal.bring_back_all(engine, &aliased);
    rehearsal.bring_back_all(engine, night);
    rehearsal.back_up(engine, "whole").unwrap();
}

/// Before anything was replaced: nothing of it is in the way.
fn stopped(service: &Service, rehearsal: &Rehearsal, engine: &SearchConfig, night: &Fetched) {
    static STOP: AtomicBool = AtomicBool::new(false);
    let (scratch, now) = (rehearsal.path("stopped"), rehearsal.work("stopped").now);
    let work = Work::new("search", scratch, now, "UTC", &STOP);
    let dir = service.data("repo").join("farkeep-restore");
    let error = std::thread::scope(|scope| {
        let restoring = scope.spawn(|| engine.replace(night, &work));
        until("the restore has begun", || dir.exists());
        STOP.store(true, Ordering::Relaxed);
        restoring.join().unwrap().unwrap_err()
    });
    STOP.store(false, Ordering::Relaxed);
    assert!(matches!(error, SourceError::Interrupted), "{error}");
    assert!(!dir.exists());
    assert_eq!(must(service, Method::GET, "/_cat/indices/farkeep-trial-*?format=json", ""), json!([]));
    rehearsal.back_up(engine, "unhindered").unwrap();
}

fn changed_while_it_was_read(service: &Service, rehearsal: &Rehearsal, engine: &SearchConfig) {
    let work = rehearsal.work("changing");
    let mut backup = engine.open(&work).unwrap();
    backup.next(&work).unwrap().unwrap();
    let (status, _) = call(service, Method::PUT, "/_snapshot/ocrvs/intruder?wait_for_completion=true", "{}");
    assert!(status >= 400, "nobody writes to a repository while it is read");
    fs::write(service.data("repo").join("index-9999"), b"x").unwrap();
    while backup.next(&work).unwrap().is_some() {}
    let error = backup.finish(&work).unwrap_err().to_string();
    assert!(error.contains("changed while it was read"), "{error}");
    fs::remove_file(service.data("repo").join("index-9999")).unwrap();
    drop(backup);
    assert!(!is_readonly(service), "a failed backup leaves no frozen repository behind");
    // Killed in between: frozen, and the next night mends it.
    let settings = json!({ "location": service.data("repo").display().to_string(), "compress": true, "readonly": true, "frozen_by": "farkeep" });
    must(service, Method::PUT, "/_snapshot/ocrvs", &json!({ "type": "fs", "settings": settings }).to_string());
    rehearsal.back_up(engine, "mended").unwrap();
    // Read-only by somebody else's word: another cluster's.
    let settings = json!({ "location": service.data("repo").display().to_string(), "readonly": true });
    must(service, Method::PUT, "/_snapshot/ocrvs", &json!({ "type": "fs", "settings": settings }).to_string());
    assert!(rehearsal.back_up(engine, "foreign").unwrap_err().to_string().contains("another cluster"));
    let settings = json!({ "location": service.data("repo").display().to_string() });
    must(service, Method::PUT, "/_snapshot/ocrvs", &json!({ "type": "fs", "settings": settings }).to_string());
}

fn not_searchable(service: &Service, rehearsal: &Rehearsal, engine: &SearchConfig, night: &Fetched) {
    must(service, Method::POST, "/ocrvs-deaths/_close", "");
    assert!(rehearsal.back_up(engine, "closed").unwrap_err().to_string().contains("closed"));
    must(service, Method::POST, "/ocrvs-deaths/_open?wait_for_active_shards=all", "");
    // A shard that no node may hold: the snapshot would be partial.
    let settings = json!({ "settings": { "index.routing.allocation.require._name": "nowhere" } });
    must(service, Method::PUT, "/ocrvs-lost?wait_for_active_shards=0&timeout=1s", &settings.to_string());
    rehearsal.back_up(engine, "partial").unwrap_err();
    // What is lost does not keep its own restore from being planned; only a copy of it cannot be had.
    let survey = engine.survey(&night.account, &rehearsal.work("survey")).unwrap();
    assert!(survey.destroys.iter().any(|line| line.contains("ocrvs-lost, which cannot be counted")), "{survey:?}");
    let aside = rehearsal.path("aside");
    fs::create_dir(&aside).unwrap();
    engine.keep(night, &aside, &rehearsal.work("keep")).unwrap_err();
    must(service, Method::DELETE, "/ocrvs-lost", "");
    assert!(Path::new(&service.data("repo")).exists());
}

#[test]
fn elasticsearch_indices_come_back_and_damage_stops_before_anything_is_removed() {
    needs_service!("elasticsearch");
    indices_come_back_and_damage_stops_before_anything_is_removed("elasticsearch");
}

#[test]
fn opensearch_indices_come_back_and_damage_stops_before_anything_is_removed() {
    needs_service!("opensearch");
    indices_come_back_and_damage_stops_before_anything_is_removed("opensearch");
}

#[test]
fn a_data_stream_is_no_backup_and_no_restore_begins_over_one() {
    needs_service!("opensearch");
    let (service, rehearsal) = (Service::start("opensearch"), Rehearsal::new());
    index(&service, "logs-old", 0, 20);
    let all = engine(&service, "opensearch", &["*"], 2);
    let engine = engine(&service, "opensearch", &["logs-*"], 2);
    let night = rehearsal.back_up(&engine, "night").unwrap();
    // What a server keeps for itself and hides, nobody means who names all.
    let hidden = r#"{ "settings": { "index": { "hidden": true, "number_of_replicas": 0 } } }"#;
    must(&service, Method::PUT, "/.ds-ilm-history-5-000001", hidden);
    let everything = rehearsal.back_up(&all, "everything").unwrap();
    assert_eq!(everything.account.proof["indices"], "logs-old");
    rehearsal.bring_back_all(&all, &everything);
    assert_eq!(call(&service, Method::HEAD, "/.ds-ilm-history-5-000001", "").0, 200);
    must(&service, Method::PUT, "/_index_template/logs", r#"{ "index_patterns": ["logs-new"], "data_stream": {} }"#);
    must(&service, Method::PUT, "/_data_stream/logs-new", "");
    must(&service, Method::POST, "/logs-new/_doc?refresh=true", r#"{ "@timestamp": "2026-11-17T00:00:00Z" }"#);
    let error = rehearsal.back_up(&engine, "streaming").unwrap_err().to_string();
    assert!(error.contains("data stream") && error.contains("narrower patterns"), "{error}");
    let error = rehearsal.back_up(&all, "streaming").unwrap_err().to_string();
    assert!(error.contains("data stream"), "{error}");
    let error = rehearsal.bring_back(&engine, &night).unwrap_err().to_string();
    assert!(error.contains("data stream"), "{error}");
    assert_eq!(count(&service, "logs-old"), 20);
}

/// A server that has just made a snapshot, and says so whatever it is asked.
fn server_that_says_it_made_a_snapshot() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut lines = BufReader::new(stream.unwrap());
            let (mut first, mut length) = (String::new(), 0);
            lines.read_line(&mut first).unwrap();
            loop {
                let mut line = String::new();
                lines.read_line(&mut line).unwrap();
                match line.to_lowercase().strip_prefix("content-length:") {
                    Some(number) => length = number.trim().parse().unwrap(),
                    None if line.trim().is_empty() => break,
                    None => {}
                }
            }
            lines.read_exact(&mut vec![0; length]).unwrap();
            let shards = json!({ "total": 1, "failed": 0, "successful": 1 });
            let snapshot = json!({ "snapshot": "farkeep-1", "uuid": "made-now", "state": "SUCCESS", "indices": ["ocrvs-a"], "shards": shards });
            let body = if first.contains("/_cat/indices/ocrvs") {
                json!([{ "index": "ocrvs-a", "status": "open" }])
            } else if first.contains("/_cat/indices") {
                json!([{ "index": "removed-meanwhile", "status": "open" }])
            } else {
                json!({
                    "version": { "number": "7.10.2" }, "status": "green", "_shards": { "failed": 0 }, "hits": { "total": { "value": 1 } },
                    "snapshots": [snapshot],
                })
            };
            let status = if first.starts_with("GET /_snapshot/ocrvs ") { "404 Not Found" } else { "200 OK" };
            let body = body.to_string();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            lines.get_mut().write_all(answer.as_bytes()).unwrap();
        }
    });
    port
}

#[test]
fn a_snapshot_without_an_index_or_in_another_directory_than_the_servers_is_no_backup() {
    let rehearsal = Rehearsal::new();
    let location = rehearsal.path("copied-last-year");
    fs::create_dir(&location).unwrap();
    for name in ["index-7", "index.latest", "snap-made-then.dat"] {
        fs::write(location.join(name), "of last year").unwrap();
    }
    let url = format!("http://127.0.0.1:{}", server_that_says_it_made_a_snapshot());
    let engine = SearchConfig {
        name: "search".into(),
        kind: "elasticsearch",
        http: HttpConfig { url, user: None, password: None, ca_file: None },
        repository: "ocrvs".into(),
        location: location.clone(),
        indices: vec!["ocrvs-*".into()],
        keep: 2,
    };
    let error = rehearsal.back_up(&engine, "stale").unwrap_err().to_string();
    assert!(error.contains("lacks the snapshot that was just made"), "{error}");
    fs::write(location.join("snap-made-now.dat"), "").unwrap();
    rehearsal.back_up(&engine, "fresh").unwrap();
    let more = SearchConfig { indices: vec!["ocrvs-*".into(), "removed-*".into()], ..engine };
    let error = rehearsal.back_up(&more, "gone").unwrap_err().to_string();
    assert!(error.contains("removed-meanwhile") && error.contains("not in the snapshot"), "{error}");
}
