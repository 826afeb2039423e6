//! Trying again after transient failures, within a budget of time.

use std::time::{Duration, Instant};

use super::options::{SftpOptions, Times, Waiting};
use crate::store::StoreError;

/// The longest wait between two tries.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// What is left of a budget.
pub struct Budget {
    until: Instant,
    wait: Duration,
    /// Told before the first wait.
    waiting: Option<Waiting>,
}

impl Budget {
    pub fn new(times: &Times) -> Self {
        Self { until: Instant::now() + times.retry_budget, wait: times.retry_wait, waiting: None }
    }

    /// The budget of a store's first contact.
    pub fn of_first_contact(options: &SftpOptions) -> Self {
        let until = Instant::now() + options.times.first_contact;
        Self { until, wait: options.times.retry_wait, waiting: options.waiting.clone() }
    }

    /// Waits before the next try, or gives the error back when it would not help or the budget is used up.
    ///
    /// # Errors
    /// The same error.
    pub fn wait(&mut self, error: StoreError) -> Result<(), StoreError> {
        if !error.is_transient() || Instant::now() + self.wait > self.until {
            return Err(error);
        }
        if let Some(tell) = self.waiting.take() {
            tell(&error, self.until.saturating_duration_since(Instant::now()));
        }
        tracing::info!(%error, wait_ms = self.wait.as_millis(), "will try again");
        std::thread::sleep(self.wait);
        self.wait = (self.wait * 2).min(WAIT_MAX);
        Ok(())
    }

    /// Runs `work` until it succeeds, fails for good, or the budget is used up.
    ///
    /// # Errors
    /// The last one.
    pub fn spend<T>(&mut self, mut work: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
        loop {
            match work() {
                Ok(value) => return Ok(value),
                Err(error) => self.wait(error)?,
            }
        }
    }
}
