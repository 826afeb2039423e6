//! Waiting for servers without being held by them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use crate::source::SourceError;
use crate::source::work::Work;

/// How often a waiting caller looks whether it is to stop.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Does something that may hang on another thread, and leaves it there when the work is over: a client knows no time
/// limit of its own for a server that holds a connection open and says nothing. The flag tells that thread to stop.
///
/// # Errors
/// Its own, [`SourceError::Interrupted`], or that the time is up.
pub fn patiently<T: Send + 'static>(
    work: &Work,
    act: impl FnOnce(&AtomicBool) -> Result<T, SourceError> + Send + 'static,
) -> Result<T, SourceError> {
    work.check()?;
    let abandoned = Arc::new(AtomicBool::new(false));
    let (give, take) = sync_channel(1);
    let seen = Arc::clone(&abandoned);
    std::thread::spawn(move || _ = give.send(act(&seen)));
    loop {
        match take.recv_timeout(LOOK_INTERVAL) {
            Ok(outcome) => return outcome,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(SourceError::System {
                    system: work.member.clone(),
                    why: "a thread ended before its work".into(),
                });
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Err(error) = work.check() {
                    abandoned.store(true, Ordering::Release);
                    return Err(error);
                }
            }
        }
    }
}
