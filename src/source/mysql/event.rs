//! Events whose time has passed. A server that is to make one that is not to be kept drops it at once, with a warning that nobody
//! sees: that it is not there after a restore is as it should be.

use std::fs::File;
use std::io::{self, BufRead, BufReader};

use super::PROGRAMS;
use super::grants::unescaped;
use super::server::{Server, identifier, literal};
use crate::model::finding::{Finding, FindingKind};
use crate::source::SourceError;
use crate::source::engine::{Account, Fetched};

/// Before the name of an event in a proof.
const EVENT: &str = "event ";
/// The line of proof that counts them.
const COUNT: &str = "events";
/// How the statement begins in a dump; no line of a body does.
const CREATE: &str = "/*!50106 CREATE*/ ";
/// In which zone its times are to be read.
const ZONE: &str = "/*!50003 SET time_zone";

/// When an event ends by itself, as a dump has it.
#[derive(Debug, Default, PartialEq, Eq)]
struct End {
    at: String,
    zone: String,
}

/// Takes events out of the comparison that the server dropped because their time has passed.
pub fn excuse(server: &Server<'_>, fetched: &Fetched, now: &mut Account) -> Result<(), SourceError> {
    let missing =
        |(name, value): (&String, &String)| (value == "missing").then_some(name.strip_prefix(EVENT)?).map(str::to_owned);
    let mut passed = 0;
    for event in now.proof.iter().filter_map(missing).collect::<Vec<_>>() {
        let path = fetched.part(PROGRAMS)?;
        let wrong = |source| SourceError::Io { path: path.display().to_string(), source };
        let Some(end) = end_of(&unescaped(&event), BufReader::new(File::open(path).map_err(wrong)?)).map_err(wrong)? else {
            continue;
        };
        let sql = format!("SET time_zone = {}; SELECT {} <= now();", literal(&end.zone), literal(&end.at));
        // A zone that this server does not know: nobody can tell.
        if server.query(None, &sql).is_ok_and(|rows| rows.concat() == ["1"]) {
            passed += 1;
            now.proof.remove(&format!("{EVENT}{event}"));
            let message = format!(
                "the event {event} was to end at {} ({}): the server keeps none whose time has passed",
                end.at, end.zone
            );
            now.findings.push(Finding::new(FindingKind::Notice, &server.config.name, message));
        }
    }
    let count = |account: &Account| account.proof.get(COUNT)?.parse::<u64>().ok();
    if passed > 0 && count(now).map(|there| there + passed) == count(&fetched.account) {
        now.proof.remove(COUNT);
    }
    Ok(())
}

/// When this event ends by itself; none for what has no end, or is kept behind it.
fn end_of(event: &str, mut dump: impl BufRead) -> io::Result<Option<End>> {
    let named = format!("EVENT {} ON SCHEDULE ", identifier(event));
    let (mut zone, mut line) = (String::new(), Vec::new());
    while dump.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        if text.starts_with(ZONE) {
            zone = quoted(&text).unwrap_or_default().to_owned();
        } else if text.starts_with(CREATE)
            && let Some((_, rest)) = text.split_once(&named)
        {
            let schedule = rest.split_once(" ON COMPLETION NOT PRESERVE").map(|(schedule, _)| schedule);
            let at = schedule.and_then(|s| s.strip_prefix("AT ").or_else(|| s.split_once(" ENDS ").map(|(_, at)| at)));
            let at = at.filter(|at| at.len() < 40).and_then(quoted).map(str::to_owned);
            return Ok(at.map(|at| End { at, zone }));
        }
        line.clear();
    }
    Ok(None)
}

fn quoted(text: &str) -> Option<&str> {
    text.split('\'').nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_that_of_the_schedule_and_of_what_is_not_kept() {
        let of = |rest: &str| {
            let dump = format!(
                "/*!50003 SET time_zone             = '+02:00' */ ;;\n\
                 /*!50106 CREATE*/ /*!50117 DEFINER=`r`@`h`*/ /*!50106 EVENT `o``e` ON SCHEDULE {rest} ENABLE DO SELECT 1 */ ;;\n"
            );
            end_of("o`e", dump.as_bytes()).unwrap_or_default()
        };
        let end = |at: &str| Some(End { at: at.into(), zone: "+02:00".into() });
        assert_eq!(of("AT '2026-01-02 03:04:05' ON COMPLETION NOT PRESERVE"), end("2026-01-02 03:04:05"));
        assert_eq!(of("AT '2026-01-02 03:04:05' ON COMPLETION PRESERVE"), None);
        assert_eq!(
            of("EVERY 1 DAY STARTS '2026-01-01 00:00:00' ENDS '2026-02-01 00:00:00' ON COMPLETION NOT PRESERVE"),
            end("2026-02-01 00:00:00")
        );
        assert_eq!(of("EVERY 1 DAY STARTS '2026-01-01 00:00:00' ON COMPLETION NOT PRESERVE"), None);
    }
}
