//! Trying again after transient failures, within a budget of time.

use std::time::{Duration, Instant};

use super::options::{SftpOptions, Times, Waiting};
use crate::store::StoreError;

/// The longest wait between two tries.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// What is left of a budget.
pub struct Budget {
    /// None before the first failure: a connection that falls silent is noticed after as long as a budget has, and one that
    /// did so once is no reason to give up.
    until: Option<Instant>,
    lasts: Duration,
    wait: Duration,
    /// Told before the first wait.
    waiting: Option<Waiting>,
}

impl Budget {
    pub fn new(times: &Times) -> Self {
        Self { until: None, lasts: times.retry_budget, wait: times.retry_wait, waiting: None }
    }

    /// The budget of a store's first contact, which begins at once.
    pub fn of_first_contact(options: &SftpOptions) -> Self {
        let lasts = options.times.first_contact;
        let until = Some(Instant::now() + lasts);
        Self { until, lasts, wait: options.times.retry_wait, waiting: options.waiting.clone() }
    }

    /// Waits before the next try, or gives the error back when it would not help or the budget is used up.
    ///
    /// # Errors
    /// The same error.
    pub fn wait(&mut self, error: StoreError) -> Result<(), StoreError> {
        let until = *self.until.get_or_insert_with(|| Instant::now() + self.lasts);
        if !error.is_transient() || Instant::now() + self.wait > until {
            return Err(error);
        }
        if let Some(tell) = self.waiting.take() {
            tell(&error, until.saturating_duration_since(Instant::now()));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_try_that_took_as_long_as_the_budget_is_not_the_last_one() {
        let lasts = Duration::from_millis(40);
        let times = Times { retry_budget: lasts, retry_wait: Duration::from_millis(1), ..Times::default() };
        let silent = |tries: &mut u32| {
            *tries += 1;
            std::thread::sleep(lasts + lasts / 2);
            Err::<u32, _>(StoreError::Unreachable("no answer".into()))
        };
        let mut tries = 0;
        let outcome = Budget::new(&times).spend(|| if tries > 0 { Ok(tries) } else { silent(&mut tries) });
        assert_eq!(outcome, Ok(1));
        let mut tries = 0;
        assert!(Budget::new(&times).spend(|| silent(&mut tries)).is_err());
        assert_eq!(tries, 2, "a server that stays silent is given up");
    }
}
