//! The README's systemd units and cron line, as the programs that read them see them.

use std::fs;
use std::process::Command;

use crate::Text;
use crate::documents::blocks;
use crate::world::machine::FARKEEP;
use crate::world::needs;
use crate::world::sshd::scratch;
use crate::world::tools::must;

/// The blocks of the README that a comment marks for this: what stands behind `tests: KIND`, and the content.
fn marked(kind: &str) -> Vec<(String, String)> {
    let readme = Text::read("README.md");
    let mark = format!("<!-- tests: {kind}");
    let named = |above: &str| above.strip_prefix(&mark)?.strip_suffix("-->").map(|name| name.trim().to_owned());
    blocks(&readme).into_iter().filter_map(|block| Some((named(&block.above)?, block.content))).collect()
}

#[test]
fn systemd_accepts_the_units() {
    needs!("systemd-analyze");
    let dir = scratch();
    let units = marked("systemd");
    assert!(units.len() >= 2, "a service and a timer");
    let mut paths = Vec::new();
    for (name, content) in &units {
        // The verifier looks for the program, which is installed elsewhere here.
        let path = dir.path().join(name);
        fs::write(&path, content.replace("/usr/local/bin/farkeep", FARKEEP)).unwrap();
        paths.push(path);
    }
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&paths).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // It also complains about units of the machine itself.
    let about_ours: Vec<&str> =
        said.lines().filter(|line| units.iter().any(|(name, _)| line.contains(name.as_str()))).collect();
    assert!(about_ours.is_empty(), "{about_ours:#?}");
    let readable = said.contains("Failed to initialize manager") || said.contains("Failed to create");
    assert!(!readable, "systemd-analyze could not work: {said}");
}

#[test]
fn the_timer_of_a_unit_with_a_mistake_is_refused() {
    needs!("systemd-analyze");
    let dir = scratch();
    let (name, content) = marked("systemd").into_iter().find(|(name, _)| name.ends_with(".timer")).unwrap();
    let path = dir.path().join(&name);
    fs::write(&path, content.replace("OnCalendar=*-*-* 00:30:00", "OnCalendar=*-*-* 25:30:00")).unwrap();
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains(&name), "the check above cannot fail");
}

#[test]
fn the_timers_elapse_each_night_and_each_week() {
    needs!("systemd-analyze");
    for (name, content) in marked("systemd") {
        for calendar in content.lines().filter_map(|line| line.strip_prefix("OnCalendar=")) {
            let printed = must(Command::new("systemd-analyze").args(["calendar", "--iterations=2", calendar]));
            // Each timer at its own time, the weekly one on its day.
            let time = if name.starts_with("farkeep-drive") { "Fri 20" } else { calendar.strip_prefix("*-*-* ").unwrap() };
            assert!(printed.matches(time).count() >= 2, "{printed}");
        }
    }
}

#[test]
fn the_cron_line_is_one_of_crontab_5() {
    let lines: Vec<String> =
        marked("cron").into_iter().flat_map(|(_, content)| content.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    assert!(!lines.is_empty());
    for line in lines {
        check_cron(&line).unwrap_or_else(|why| panic!("{line}: {why}"));
    }
}

#[test]
fn cron_lines_with_mistakes_are_seen() {
    for wrong in [
        "60 0 * * * x",
        "0 24 * * * x",
        "0 0 0 * * x",
        "0 0 * 13 * x",
        "0 0 * * 8 x",
        "0 0 * * *",
        "*/0 0 * * * x",
        "0 0 * * * x %",
        "5-1 0 * * * x",
    ] {
        assert!(check_cron(wrong).is_err(), "{wrong}");
    }
}

/// The rules of crontab(5): five fields of lists, ranges and steps, then a command, in which % would end it.
fn check_cron(line: &str) -> Result<(), String> {
    let mut words = line.split_whitespace();
    for (field, low, high) in
        [("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 7)]
    {
        let word = words.next().ok_or_else(|| format!("{field} is missing"))?;
        let number = |text: &str| match text.parse::<u32>() {
            Ok(n) if (low..=high).contains(&n) => Ok(n),
            _ => Err(format!("{field}: {text}")),
        };
        for part in word.split(',') {
            let (range, step) = part.split_once('/').unwrap_or((part, "1"));
            if step.parse::<u32>().map_or(true, |step| step == 0) {
                return Err(format!("{field}: step {step}"));
            }
            if range != "*" {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                if number(first)? > number(last)? {
                    return Err(format!("{field}: {range}"));
                }
            }
        }
    }
    let command: Vec<&str> = words.collect();
    if command.is_empty() || command.iter().any(|word| word.contains('%')) {
        return Err("no command, or one with %".into());
    }
    Ok(())
}
