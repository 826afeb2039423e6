//! Looking after a running program: it is killed when its work is over, and what it waits for is told when it says nothing for
//! long. A dump that waits for a lock looks like one that works.

use std::fmt;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::group::Group;
use crate::source::work::Work;

/// How often a running program is looked after: bounds how late it is killed.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// Kills a program and its group when their work is over.
pub struct Watch {
    signal: Arc<(Mutex<bool>, Condvar)>,
    fired: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// To be stopped before the program is reaped.
    pub fn start(group: &Group, program: &Child, mut silence: Option<Silence>, work: &Work) -> Self {
        let signal = Arc::new((Mutex::new(false), Condvar::new()));
        let fired = Arc::new(AtomicBool::new(false));
        let (changed, kills, work, kill) = (Arc::clone(&signal), Arc::clone(&fired), work.clone(), group.killer(program));
        let thread = std::thread::spawn(move || {
            let (done, changed) = &*changed;
            let mut guard = done.lock().unwrap_or_else(PoisonError::into_inner);
            while !*guard {
                if work.is_over() {
                    kills.store(true, Ordering::Release);
                    kill();
                    return;
                }
                if let Some(silence) = &mut silence {
                    silence.look(&work);
                }
                guard = match changed.wait_timeout(guard, WATCH_INTERVAL) {
                    Ok((guard, _)) => guard,
                    Err(poisoned) => poisoned.into_inner().0,
                };
            }
        });
        Self { signal, fired, thread: Some(thread) }
    }

    pub fn has_fired(&self) -> bool {
        self.fired.load(Ordering::Acquire)
    }

    /// Ends the watch; tells whether it killed.
    pub fn stop(&mut self) -> bool {
        *self.signal.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.signal.1.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.has_fired()
    }
}

/// Asks the system itself what a program of ours waits for; none where it waits for nobody.
#[derive(Clone)]
pub struct Question(Arc<dyn Fn(&Work) -> Option<String> + Send + Sync>);

impl Question {
    /// Called with a short time, on a thread of its own.
    pub fn new(ask: impl Fn(&Work) -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Question")
    }
}

/// Since when a reader waits for a program; none while it does not: a reader that is busy is no silence.
#[derive(Debug, Clone, Default)]
pub struct Waiting(Arc<Mutex<Option<Instant>>>);

impl Waiting {
    pub fn begin(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    pub fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn since(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A program that may say nothing for long.
pub struct Silence {
    name: String,
    question: Option<Question>,
    /// Whether it is told although nobody knows of a reason.
    is_strange: bool,
    waiting: Waiting,
    /// Since when, and after how long it is told next.
    next: Option<(Instant, Duration)>,
}

impl Silence {
    /// Of a program that is there to give output.
    pub fn of_output(name: String, question: Option<Question>) -> Self {
        Self { name, question, is_strange: true, waiting: Waiting::default(), next: None }
    }

    /// Of one that works without a word.
    pub fn of_work(name: String, question: Option<Question>) -> Self {
        Self { is_strange: false, ..Self::of_output(name, question) }
    }

    pub fn waiting(&self) -> Waiting {
        self.waiting.clone()
    }

    fn look(&mut self, work: &Work) {
        let Some(since) = self.waiting.since() else { return };
        let after = match self.next {
            Some((of, after)) if of == since => after,
            _ => work.silence(),
        };
        let waited = since.elapsed();
        self.next = Some((since, if waited < after { after } else { after * 2 }));
        if waited < after || (self.question.is_none() && !self.is_strange) {
            return;
        }
        let (name, question, is_strange, work) = (self.name.clone(), self.question.clone(), self.is_strange, work.clone());
        // Whoever looks after the program does not wait for the answer.
        std::thread::spawn(move || {
            let why = match question.and_then(|question| (question.0)(&work.for_asking())) {
                Some(why) => why,
                None if is_strange => "does it wait for a lock?".to_owned(),
                None => return,
            };
            work.tell(format!("{}: {name} has said nothing for {} s: {why}", work.member, waited.as_secs()));
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{TryRecvError, channel};

    use super::*;
    use crate::model::time::Timestamp;
    use crate::source::engine::PartRead;
    use crate::source::tool::Tool;

    #[test]
    fn a_program_that_gives_no_output_is_told_of_and_one_that_works_only_where_it_waits() {
        static GO_ON: AtomicBool = AtomicBool::new(false);
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let (tell, told) = channel();
        let work = Work::new("db", dir.path().to_owned(), Timestamp(0), "UTC", &GO_ON);
        let work = work.telling(Duration::from_millis(20), tell);
        let gate = dir.path().join("gate");
        let waiting = Tool::new("sh").args(["-c", "until [ -e \"$0\" ]; do sleep 0.05; done; echo x"]).arg(&gate);
        let mut part = waiting.stream(&work).unwrap_or_else(|e| panic!("{e}"));
        let reading = std::thread::spawn(move || while part.read(&mut [0; 16]).is_ok_and(|count| count > 0) {});
        let said = told.recv().unwrap_or_default();
        assert!(said.starts_with("db: sh has said nothing for 0 s: does it"), "{said}");
        std::fs::write(&gate, "").unwrap_or_else(|e| panic!("{e}"));
        reading.join().unwrap_or_else(|_| panic!("it did not end"));
        while told.recv_timeout(Duration::from_millis(1)).is_ok() {}

        let silent = Tool::new("sh").args(["-c", "sleep 0.3"]);
        silent.succeed(&work).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(told.try_recv(), Err(TryRecvError::Empty));
        let asked = silent.asking(Question::new(|_| Some("somebody is in the way".into())));
        asked.succeed(&work).unwrap_or_else(|e| panic!("{e}"));
        assert!(told.recv().unwrap_or_default().ends_with("somebody is in the way"));
    }
}
