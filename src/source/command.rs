//! A command's output as one part: an argv, never a shell string; its exit status decides.

use crate::source::SourceError;
use crate::source::engine::{Account, Backup, Engine, Fetched, Part, Survey};
use crate::source::tool::Tool;
use crate::source::work::Work;

/// A command whose output is backed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandConfig {
    /// The member's name.
    pub name: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// What the output is called.
    pub filename: String,
}

impl Engine for CommandConfig {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "command"
    }

    fn open(&self, _: &Work) -> Result<Box<dyn Backup>, SourceError> {
        Ok(Box::new(Output { part: Some((self.filename.clone(), Tool::of_argv(&self.argv)?)) }))
    }

    fn survey(&self, _: &Account, _: &Work) -> Result<Survey, SourceError> {
        Err(self.no_restore())
    }

    fn check(&self, _: &Fetched, _: &Work) -> Result<(), SourceError> {
        Err(self.no_restore())
    }

    fn replace(&self, _: &Fetched, _: &Work) -> Result<(), SourceError> {
        Err(self.no_restore())
    }

    fn prove(&self, _: &Fetched, _: &Work) -> Result<Account, SourceError> {
        Err(self.no_restore())
    }
}

impl CommandConfig {
    fn no_restore(&self) -> SourceError {
        SourceError::Configuration(format!("source {:?} has no command that brings it back", self.name))
    }
}

struct Output {
    part: Option<(String, Tool)>,
}

impl Backup for Output {
    fn next(&mut self, _: &Work) -> Result<Option<Part>, SourceError> {
        Ok(self.part.take().map(|(name, tool)| Part::new(name, move |work: &Work| tool.stream(work))))
    }

    fn finish(&mut self, _: &Work) -> Result<Account, SourceError> {
        Ok(Account::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Timestamp;
    use crate::source::engine::EngineSource;
    use crate::source::{ContentError, Loaded, Piece, Source};
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    static GO_ON: AtomicBool = AtomicBool::new(false);

    fn run(argv: &[&str], timeout_secs: Option<u64>) -> Result<u64, String> {
        let argv = argv.iter().map(|a| (*a).to_owned()).collect();
        let config = CommandConfig { name: "dump".into(), argv, filename: "out".into() };
        let work = Work::new("dump", "/nonexistent".into(), Timestamp(0), "UTC", &GO_ON).with_timeout(timeout_secs);
        let mut source = EngineSource::open(&config, &work).map_err(|e| e.to_string())?;
        let found = source.next().map_err(|e| e.to_string())?.ok_or("no entry")?;
        assert_eq!(found.path.to_string(), "@dump/out");
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
        content.settle().map_err(text)?;
        assert!(source.next().map_err(|e| e.to_string())?.is_none());
        source.finish().map(|_| bytes).map_err(|e| e.to_string())
    }

    #[test]
    fn output_counts_only_when_the_command_ends_well() {
        assert_eq!(run(&["printf", "hello"], None), Ok(5));
        let failed = run(&["sh", "-c", "echo partial; echo 'disk on fire' >&2; exit 3"], None).unwrap_err();
        assert!(failed.contains("exit status: 3") && failed.contains("disk on fire"), "{failed}");
        assert!(run(&["/nonexistent/dump"], None).unwrap_err().contains("cannot be started"));
    }

    #[test]
    fn a_command_that_hangs_is_killed_with_its_children() {
        let begun = std::time::Instant::now();
        let hung = run(&["sh", "-c", "echo x; sleep 600 & sleep 600"], Some(1)).unwrap_err();
        assert!(hung.contains("time limit"), "{hung}");
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}
