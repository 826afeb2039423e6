//! Commands that end well, badly and not at all.

use super::*;
use crate::model::time::Timestamp;
use crate::source::engine::EngineSource;
use crate::source::{ContentError, Loaded, Piece, Source};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

static GO_ON: AtomicBool = AtomicBool::new(false);

fn run(argv: &[&str], timeout_secs: Option<u64>) -> Result<u64, String> {
    back_up(argv, &[], timeout_secs).map(|(bytes, _)| bytes)
}

fn back_up(argv: &[&str], count: &[&str], timeout_secs: Option<u64>) -> Result<(u64, Account), String> {
    let argv = argv.iter().map(|a| (*a).to_owned()).collect();
    let config = CommandConfig {
        name: "dump".into(),
        kind: "command",
        argv,
        filename: "out".into(),
        user: None,
        staging: None,
        count: count.iter().map(|a| (*a).to_owned()).collect(),
        restore: None,
    };
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let work = Work::new("dump", dir.path().into(), Timestamp(0), "UTC", &GO_ON).with_timeout(timeout_secs);
    let mut source = EngineSource::open(&config, &work).map_err(|e| e.to_string())?;
    let found = source.next().map_err(|e| e.to_string())?.ok_or("no entry")?;
    assert_eq!(found.path.to_string(), "@dump/out");
    // As a push does, which asks ahead.
    assert!(source.next().map_err(|e| e.to_string())?.is_none());
    let Loaded::File(_, mut content) = found.load.load().map_err(|e| e.to_string())? else {
        return Err("no file".into());
    };
    let text = |e: ContentError| match e {
        ContentError::Fatal(e) => e.to_string(),
        ContentError::Entry(e) => panic!("a command's failure must never be a finding: {e}"),
    };
    let (mut bytes, mut buffer) = (0, vec![0; 1000]);
    while let Piece::Data(count) = content.read(&mut buffer).map_err(text)? {
        bytes += count as u64;
    }
    // What goes on behind our back gets time to do so.
    std::thread::sleep(Duration::from_millis(100));
    content.settle().map_err(text)?;
    source.finish().map_err(|e| e.to_string())?;
    Ok((bytes, source.account()))
}

#[test]
fn output_counts_only_when_the_command_ends_well() {
    assert_eq!(run(&["printf", "hello"], None), Ok(5));
    let failed = run(&["sh", "-c", "echo partial; echo 'disk on fire' >&2; exit 3"], None).unwrap_err();
    assert!(failed.contains("exit status: 3") && failed.contains("disk on fire"), "{failed}");
    assert!(run(&["/nonexistent/dump"], None).unwrap_err().contains("cannot be started"));
    assert_eq!(run(&["sh", "-c", "printf hello > {out}; echo noise"], None), Ok(5));
    assert!(run(&["true", "{out}"], None).unwrap_err().contains("made no file"));
    assert!(run(&["touch", "{out}"], None).unwrap_err().contains("left an empty file"));
}

#[test]
fn a_command_that_hangs_is_killed_with_its_children() {
    let begun = std::time::Instant::now();
    let hung = run(&["sh", "-c", "echo x; sleep 600 & sleep 600"], Some(1)).unwrap_err();
    assert!(hung.contains("time limit"), "{hung}");
    // A session of its own is no way out, with its output open or closed.
    for script in ["echo x; sleep 50", "echo x; exec >&-; sleep 50"] {
        let hung = run(&["setsid", "sh", "-c", script], Some(1)).unwrap_err();
        assert!(hung.contains("time limit"), "{hung}");
    }
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn output_that_the_time_limit_cut_short_is_none_even_if_the_command_itself_had_ended_well() {
    let cut = run(&["sh", "-c", "(echo first half; sleep 600; echo second half) & exit 0"], Some(1)).unwrap_err();
    assert!(cut.contains("time limit"), "{cut}");
    let begun = std::time::Instant::now();
    let held = run(&["sh", "-c", "echo all of it; setsid sleep 20 & exit 0"], Some(1)).unwrap_err();
    assert!(held.contains("time limit") && begun.elapsed() < Duration::from_secs(10), "{held}");
    assert_eq!(run(&["sh", "-c", "printf hello; setsid sleep 20 >/dev/null & exit 0"], Some(10)), Ok(5));
    assert!(begun.elapsed() < Duration::from_secs(15), "whoever only holds the standard error is not waited for");
}

#[test]
fn a_file_that_goes_on_growing_after_the_command_has_ended_is_no_output() {
    let error = run(&["sh", "-c", "(while [ -e {out} ] && echo x; do sleep 0.01; done) > {out} & sleep 0.2"], None);
    assert!(error.clone().is_err_and(|why| why.contains("still at work")), "{error:?}");
}

#[test]
fn a_count_that_moved_while_the_command_ran_is_no_proof() {
    let count = ["sh", "-c", "echo births: 20; echo logins: $(date +%N)"];
    let (_, account) = back_up(&["echo", "x"], &count, None).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(account.proof.into_iter().collect::<Vec<_>>(), [("births".to_owned(), "20".to_owned())]);
}
