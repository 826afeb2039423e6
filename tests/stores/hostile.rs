//! Servers that lie: each script ends in a refusal or in what can be had, in bounded time, without a panic.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use farkeep::store::sftp::SftpStore;
use farkeep::store::{Durability, Store, StoreError, WriteOnceStore};

use crate::liar::{
    Act, Asked, CLOSE, EXTENDED, End, FSTAT, INIT, LSTAT, Liar, OPEN, OPENDIR, READ, READDIR, WRITE, attrs, data, honest,
    names, packet, status,
};
use crate::raw::fields;

/// Longer than any bound of these tests allows; most end at once.
const LONG: Duration = Duration::from_secs(20);

/// Lies in answer to one kind of request; honest otherwise.
fn lying(kind: u8, lie: impl Fn(Asked<'_>) -> Vec<u8> + Send + Sync + 'static) -> Liar {
    Liar::start(move |asked| Act::Say(if asked.kind == kind { lie(asked) } else { honest(asked) }))
}

fn get(store: &SftpStore) -> Result<Vec<u8>, StoreError> {
    store.get("d/x", 0, 5000)
}

fn list(store: &SftpStore) -> Result<Vec<String>, StoreError> {
    let mut found = Vec::new();
    store.list(&["d".to_owned()], &mut |listed| found.push(listed.name)).map(|()| found)
}

/// The operation must be refused as the server's misbehaviour.
fn refused<T: std::fmt::Debug>(what: &str, liar: &Liar, work: impl Fn(&SftpStore) -> Result<T, StoreError>) {
    let began = Instant::now();
    let outcome = liar.connect().and_then(|store| work(&store));
    match &outcome {
        Err(StoreError::Protocol(why)) => assert!(!why.chars().any(char::is_control), "{what}: {why:?}"),
        other => panic!("{what}: {other:?}"),
    }
    assert!(began.elapsed() < LONG, "{what}: {:?}", began.elapsed());
}

fn lost<T: std::fmt::Debug>(what: &str, liar: &Liar, work: impl Fn(&SftpStore) -> Result<T, StoreError>) {
    let began = Instant::now();
    let outcome = liar.connect().and_then(|store| work(&store));
    assert!(matches!(outcome, Err(StoreError::Unreachable(_))), "{what}: {outcome:?}");
    assert!(began.elapsed() < Duration::from_secs(8), "{what}: {:?}", began.elapsed());
}

#[test]
fn the_honest_form_of_the_script_works() {
    let liar = Liar::start(|asked| Act::Say(honest(asked)));
    let store = liar.connect().unwrap();
    assert_eq!(get(&store).unwrap(), [7; 1000]);
    assert_eq!(store.put("d/y", &[7; 1000]).unwrap(), Durability::Confirmed);
    assert!(list(&store).unwrap().is_empty());
}

/// Requests go out behind an OPEN whose handle can be told beforehand. Told wrong, refused or overtaken: what is had is right.
#[test]
fn handles_that_were_told_beforehand() {
    const SAME: u64 = 12;
    let (opened, in_vain) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (seen, wasted) = (Arc::clone(&opened), Arc::clone(&in_vain));
    // Its handle is always the same; then each is another, and what the old one stands for is another file.
    let liar = Liar::start(move |asked| {
        let now = || opened.load(Ordering::SeqCst).saturating_sub(SAME);
        let handle = |number: u64| [b'h' + (number % 10) as u8];
        Act::Say(match asked.kind {
            OPEN => {
                opened.fetch_add(1, Ordering::SeqCst);
                packet(102, asked.id, &fields().bytes(&handle(now())).into_vec())
            }
            READ | FSTAT if asked.body[4..5] != handle(now()) => {
                in_vain.fetch_add(1, Ordering::SeqCst);
                if asked.kind == READ { data(asked.id, &[8; 900]) } else { packet(105, asked.id, &attrs(900)) }
            }
            _ => honest(asked),
        })
    });
    let store = liar.connect().unwrap();
    for number in 0..SAME + 10 {
        assert_eq!(get(&store).unwrap(), [7; 1000], "the {number}th");
    }
    assert_eq!(seen.load(Ordering::SeqCst), SAME + 10, "each is opened once");
    assert_eq!(wasted.load(Ordering::SeqCst), 2, "size and content, asked for in vain once");
}

#[test]
fn a_handle_that_was_told_and_not_given() {
    let (opened, in_vain) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let wasted = Arc::clone(&in_vain);
    let liar = Liar::start(move |asked| {
        if asked.kind == OPEN && opened.fetch_add(1, Ordering::SeqCst) % 3 == 2 {
            return Act::Say(status(asked.id, 2, "no such file"));
        }
        if asked.kind == READ && opened.load(Ordering::SeqCst) % 3 == 0 {
            in_vain.fetch_add(1, Ordering::SeqCst);
        }
        Act::Say(honest(asked))
    });
    let store = liar.connect().unwrap();
    for number in 0..30 {
        match get(&store) {
            Err(StoreError::NotFound(_)) => assert_eq!(number % 3, 2),
            outcome => assert_eq!((outcome.unwrap(), number % 3 == 2), (vec![7; 1000], false)),
        }
    }
    assert!(wasted.load(Ordering::SeqCst) >= 5, "it goes ahead all the same");

    let read = Arc::new(AtomicU64::new(0));
    let all_read = Arc::clone(&read);
    let liar = Liar::start(move |asked| {
        read.fetch_add(u64::from(asked.kind == READ), Ordering::SeqCst);
        match asked.kind {
            OPEN if asked.number > 3 => Act::Late(Duration::from_millis(50), honest(asked)),
            _ => Act::Say(honest(asked)),
        }
    });
    let store = liar.connect().unwrap();
    for _ in 0..12 {
        assert_eq!(get(&store).unwrap(), [7; 1000], "a reply that overtakes another one");
    }
    assert_eq!(all_read.load(Ordering::SeqCst), 13, "nothing goes ahead again");
}

/// A server that looks at READ before OPEN is through, and says in the right order that it knows no such handle.
#[test]
fn what_went_ahead_too_early_is_asked_again() {
    let (opened, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let early = Arc::clone(&refused);
    let liar = Liar::start(move |asked| {
        let opens = opened.fetch_add(u64::from(asked.kind == OPEN), Ordering::SeqCst);
        if asked.kind == READ && opens == 5 && refused.fetch_add(1, Ordering::SeqCst) == 0 {
            return Act::Say(status(asked.id, 4, "no such handle"));
        }
        Act::Say(honest(asked))
    });
    let store = liar.connect().unwrap();
    for number in 0..12 {
        assert_eq!(get(&store).unwrap(), [7; 1000], "the {number}th");
    }
    assert!(early.load(Ordering::SeqCst) >= 1);
}

#[test]
fn greetings() {
    refused("text", &lying(INIT, |_| b"Welcome to our server, have fun\n".to_vec()), get);
    refused("version 99", &lying(INIT, |_| packet(2, 99, b"")), get);
    refused("version 0", &lying(INIT, |_| packet(2, 0, b"")), get);
    refused("another kind", &lying(INIT, |_| status(0, 0, "")), get);
    refused("cut extension", &lying(INIT, |_| packet(2, 3, &[0, 0, 0, 99, b'x'])), get);
    refused("2^31 bytes", &lying(INIT, |_| vec![0x80, 0, 0, 0, 2]), get);
    lost("silence", &Liar::start(|_| Act::Say(Vec::new())), get);
    lost("the end", &Liar::start(|_| Act::Close), get);
    for limits in [[0; 4], [u64::MAX; 4], [1; 4], [1 << 62, 1, u64::MAX, 3]] {
        let liar = lying(EXTENDED, move |asked| {
            let body = limits.iter().fold(fields(), |f, n| f.u64(*n)).into_vec();
            if asked.body.windows(6).any(|w| w == b"limits") { packet(201, asked.id, &body) } else { honest(asked) }
        });
        assert_eq!(get(&liar.connect().unwrap()).unwrap(), [7; 1000], "{limits:?}");
    }
}

#[test]
fn an_end_before_sftp_begins_is_noticed_at_once() {
    for (end, why) in
        [(End::Refuse, "offers no SFTP"), (End::Close, "closed"), (End::HangUp, "onnection"), (End::Flood, "not SFTP")]
    {
        let started = Instant::now();
        let error = Liar::ending(end).connect().map(drop).unwrap_err().to_string();
        assert!(error.contains(why), "{end:?}: {error}");
        assert!(started.elapsed() < Duration::from_millis(1500), "{end:?}: after {:?}", started.elapsed());
    }
}

#[test]
fn frames() {
    refused("2^31 bytes", &lying(READ, |a| [&[0x80, 0, 0, 0, 103][..], &a.id.to_be_bytes(), &[0; 64]].concat()), get);
    refused("2^32-1 bytes", &lying(FSTAT, |a| [&[0xff; 4][..], &[105], &a.id.to_be_bytes()].concat()), get);
    refused("no bytes at all", &lying(READ, |a| [&[0, 0, 0, 0, 0][..], &a.id.to_be_bytes()].concat()), get);
    refused("another number", &lying(OPEN, |a| packet(102, a.id + 1000, &fields().text("h").into_vec())), get);
    refused("twice", &lying(FSTAT, |a| [packet(105, a.id, &attrs(1)), packet(105, a.id, &attrs(1))].concat()), get);
    refused("unknown kind", &lying(OPEN, |a| packet(250, a.id, b"")), get);
    refused("a flood", &lying(OPEN, |a| [honest(a), vec![0x55; 8 << 20]].concat()), get);
    refused("a cut field", &lying(READ, |a| packet(103, a.id, &[0, 0, 0, 99, 1])), get);
    lost("a piece of a frame", &lying(READ, |a| data(a.id, &[7; 1000])[..500].to_vec()), get);
    lost("the end", &Liar::start(|a| if a.kind == READ { Act::Close } else { Act::Say(honest(a)) }), get);
    let muttering = Liar::start(|_| Act::Mutter(vec![b'\x1b'; 3000]));
    assert_eq!(get(&muttering.connect().unwrap()).unwrap(), [7; 1000]);
}

#[test]
fn kinds_of_replies() {
    refused("data for open", &lying(OPEN, |a| data(a.id, b"x")), get);
    refused("done for open", &lying(OPEN, |a| status(a.id, 0, "done")), get);
    refused("a handle of 300 KB", &lying(OPEN, |a| packet(102, a.id, &fields().bytes(&[1; 300_000]).into_vec())), get);
    refused("a handle for read", &lying(READ, |a| packet(102, a.id, &fields().text("h").into_vec())), get);
    refused("done for read", &lying(READ, |a| status(a.id, 0, "done")), get);
    refused("names for fstat", &lying(FSTAT, |a| names(a.id, std::iter::empty())), get);
    refused("data for write", &lying(WRITE, |a| data(a.id, b"x")), |store| store.put("d/y", b"12345"));
    refused("a handle for lstat", &lying(LSTAT, |a| packet(102, a.id, &fields().text("h").into_vec())), |s| s.stat("x"));
    refused("a size missing", &lying(LSTAT, |a| packet(105, a.id, &fields().u32(0).into_vec())), |s| s.stat("x"));
    let words = lying(OPEN, |a| status(a.id, 4, "\x1b[2J\u{202e}evil"));
    let error = get(&words.connect().unwrap()).unwrap_err().to_string();
    assert!(!error.contains(['\x1b', '\u{202e}']) && error.contains("evil"), "{error:?}");
}

#[test]
fn contents() {
    refused("more than asked", &lying(READ, |a| data(a.id, &[7; 200_000])), |s| s.get("d/x", 0, 100));
    refused("nothing, as data", &lying(READ, |a| data(a.id, b"")), get);
    refused("crumbs", &lying(READ, |a| data(a.id, b"x")), |s| s.get("d/x", 0, 1 << 20));
    // What a server can claim about a file's end: then that is the end.
    let longer = lying(FSTAT, |a| packet(105, a.id, &attrs(1 << 40)));
    assert_eq!(get(&longer.connect().unwrap()).unwrap(), [7; 1000]);
    let shorter = lying(FSTAT, |a| packet(105, a.id, &attrs(10)));
    assert!(get(&shorter.connect().unwrap()).unwrap().len() <= 1000);
    let nothing = lying(READ, |a| status(a.id, 1, "end"));
    assert_eq!(get(&nothing.connect().unwrap()).unwrap(), b"");
    let short = lying(READ, |a| {
        let mut reply = honest(a);
        if reply[4] == 103 && reply.len() > 313 {
            reply = data(a.id, &[7; 300]);
        }
        reply
    });
    assert_eq!(get(&short.connect().unwrap()).unwrap(), [7; 1000], "short replies are asked for again");
    let dir = lying(FSTAT, |a| packet(105, a.id, &fields().u32(1 | 4).u64(9).u32(0o040_750).into_vec()));
    assert!(get(&dir.connect().unwrap()).unwrap_err().to_string().contains("not a regular file"));
}

#[test]
fn writes() {
    let put = |store: &SftpStore| store.put("d/y", &[7; 200_000]);
    refused("another size", &lying(FSTAT, |a| packet(105, a.id, &attrs(199_999))), put);
    let failing = |kind: u8| lying(kind, |a| status(a.id, 4, "Failure"));
    let full = put(&failing(WRITE).connect().unwrap()).unwrap_err();
    assert!(matches!(&full, StoreError::Full { why, .. } if why.contains("quota")), "{full}");
    let closed = put(&failing(CLOSE).connect().unwrap()).unwrap_err();
    assert!(matches!(closed, StoreError::Full { .. }), "{closed}");
    let unsynced = put(&failing(EXTENDED).connect().unwrap()).unwrap_err();
    assert!(matches!(unsynced, StoreError::Full { .. }), "{unsynced}");
    let unmade = put(&failing(OPEN).connect().unwrap()).unwrap_err();
    assert!(matches!(&unmade, StoreError::Io { why, .. } if why.contains("a quota")), "{unmade}");
    let quota = lying(OPEN, |a| status(a.id, 4, "Disk quota exceeded"));
    assert!(matches!(put(&quota.connect().unwrap()), Err(StoreError::Full { .. })));
    lost("no reply to writes", &lying(WRITE, |_| Vec::new()), put);
    lost("an end in mid-write", &Liar::start(|a| if a.kind == WRITE { Act::Close } else { Act::Say(honest(a)) }), put);
}

/// FSTAT goes out behind the WRITEs. A server that looks at both at once may tell the size of what was not written yet.
#[test]
fn a_size_that_was_told_too_early_is_asked_for_again() {
    let early = |asked: Asked<'_>| match asked.kind {
        FSTAT => packet(105, asked.id, &attrs(0)),
        LSTAT => packet(105, asked.id, &attrs(1000)),
        _ => honest(asked),
    };
    let liar = Liar::start(move |asked| Act::Say(early(asked)));
    assert_eq!(liar.connect().unwrap().put("d/y", &[7; 1000]).unwrap(), Durability::NotConfirmed);
    refused("smaller than it was", &liar, |store| store.put("d/y", &[7; 1001]));
}

/// A file whose size fits its name counts as arrived, so that whatever is refused, what remains must be shorter.
#[test]
fn no_hole_is_left_in_a_file_of_full_size() {
    const BYTES: u64 = 5 * 128 * 1024 - 77;
    for refused in 0..5 {
        let stored = Arc::new(AtomicU64::new(0));
        let end = Arc::clone(&stored);
        let liar = lying(WRITE, move |asked| {
            if asked.number == refused {
                return status(asked.id, 4, "No space left on device");
            }
            // The handle is "h"; then offset and data.
            let field = |at: usize, bytes: usize| asked.body[at..at + bytes].iter().fold(0, |n, b| n << 8 | u64::from(*b));
            end.fetch_max(field(5, 8) + field(13, 4), Ordering::Relaxed);
            status(asked.id, 0, "done")
        });
        let outcome = liar.connect().unwrap().put("d/y", &vec![7; BYTES as usize]);
        assert!(matches!(outcome, Err(StoreError::Full { .. })), "{outcome:?}");
        let stored = stored.load(Ordering::Relaxed);
        assert!(stored < BYTES, "WRITE {refused} was refused, and the file has {stored} bytes of {BYTES}");
    }
}

#[test]
fn listings() {
    let first = |reply: fn(u32) -> Vec<u8>| {
        lying(READDIR, move |a| if a.number == 0 { reply(a.id) } else { status(a.id, 1, "end") })
    };
    let weird = first(|id| {
        let long = [b'x'; 300];
        let bad: [&[u8]; 11] = [
            b"..",
            b".",
            b"a/b",
            b"/etc/passwd",
            b"a\0b",
            b"\x1b[2J",
            b"a\nb",
            b"\xff\xfe",
            "\u{202e}x".as_bytes(),
            b"",
            &long,
        ];
        names(id, bad.into_iter().chain([&b"good"[..], b"good"]))
    });
    assert_eq!(list(&weird.connect().unwrap()).unwrap(), ["d/good"]);
    let kinds = first(|id| {
        let mut body = fields().u32(2).into_vec();
        for (name, mode) in [("dir", 0o040_750), ("link", 0o120_777)] {
            body.extend(fields().text(name).text("").u32(1 | 4).u64(1).u32(mode).into_vec());
        }
        packet(104, id, &body)
    });
    assert!(list(&kinds.connect().unwrap()).unwrap().is_empty());
    refused("no sizes", &first(|id| packet(104, id, &fields().u32(1).text("n").text("").u32(0).into_vec())), list);
    refused("no names", &lying(READDIR, |a| names(a.id, std::iter::empty())), list);
    refused("2^32-1 names", &first(|id| packet(104, id, &[0xff; 40])), list);
    refused("the same names for ever", &lying(READDIR, |a| names(a.id, [&b"n"[..]; 5000].into_iter())), list);
    refused(
        "new names for ever",
        &lying(READDIR, |a| {
            let new: Vec<String> = (0..5000).map(|n| format!("{:x}-{n:x}", a.number)).collect();
            names(a.id, new.iter().map(String::as_bytes))
        }),
        list,
    );
    refused("done for readdir", &lying(READDIR, |a| status(a.id, 0, "done")), list);
    refused("names for opendir", &lying(OPENDIR, |a| names(a.id, [&b"n"[..]].into_iter())), list);
    let denied = lying(OPENDIR, |a| status(a.id, 3, "no"));
    assert!(matches!(list(&denied.connect().unwrap()), Err(StoreError::Denied { .. })));
    // Of a directory that is not there some servers say so only when its names are asked for.
    assert_eq!(list(&lying(READDIR, |a| status(a.id, 2, "no such file")).connect().unwrap()), Ok(Vec::new()));
    let gone =
        lying(READDIR, |a| if a.number == 0 { names(a.id, [&b"n"[..]].into_iter()) } else { status(a.id, 2, "gone") });
    assert!(matches!(list(&gone.connect().unwrap()), Err(StoreError::NotFound(_))));
    let tar_pit = Liar::start(|a| match a.kind {
        READDIR => Act::Late(
            Duration::from_millis(300 * (a.number as u64 + 1)),
            names(a.id, [format!("n{}", a.number).as_bytes()].into_iter()),
        ),
        _ => Act::Say(honest(a)),
    });
    lost("a name now and then", &tar_pit, list);
}

#[test]
fn room() {
    let refusing = |kind: u8, reply: fn(u32) -> Vec<u8>| {
        Liar::start(move |a| {
            Act::Say(match a.kind {
                INIT => packet(2, 3, &fields().text("statvfs@openssh.com").text("2").into_vec()),
                EXTENDED if a.body.windows(7).any(|w| w == b"statvfs") => reply(a.id),
                LSTAT => status(a.id, 2, "No such file"),
                refused if refused == kind => status(a.id, 4, "Failure"),
                _ => honest(a),
            })
        })
    };
    let with = |reply| refusing(WRITE, reply);
    assert_eq!(with(|id| packet(201, id, &[1, 2, 3])).connect().unwrap().room().unwrap(), None);
    assert_eq!(with(|id| status(id, 4, "no")).connect().unwrap().room().unwrap(), None);
    let full = with(|id| {
        let body = [4096_u64, 4096, 100, 0, 0, 10, 5, 5, 0, 0, 255].iter().fold(fields(), |f, n| f.u64(*n)).into_vec();
        packet(201, id, &body)
    });
    assert_eq!(full.connect().unwrap().room().unwrap(), Some(0));
    let error = full.connect().unwrap().put("d/y", b"12345").unwrap_err();
    assert!(matches!(&error, StoreError::Full { why, .. } if why.contains("0 bytes are free")), "{error}");
    let read_only = refusing(OPEN, |id| {
        let body = [4096_u64, 4096, 100, 50, 50, 10, 5, 5, 0, 1, 255].iter().fold(fields(), |f, n| f.u64(*n)).into_vec();
        packet(201, id, &body)
    });
    let error = read_only.connect().unwrap().put("d/y", b"12345").unwrap_err();
    assert!(matches!(&error, StoreError::Io { why, .. } if why.contains("mounted read-only")), "{error}");
    let huge = with(|id| packet(201, id, &[0xff; 88]));
    assert_eq!(huge.connect().unwrap().room().unwrap(), Some(u64::MAX));
}
