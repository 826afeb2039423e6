//! Shows progress: a bar on a terminal, nothing in a pipe; findings as they are found.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use indicatif::{ProgressBar as Bar, ProgressStyle};

use crate::model::finding::FindingKind;
use crate::model::size::human_size;
use crate::ops::{Event, Observer};

/// How often a bar moves without news.
const TICK: Duration = Duration::from_millis(200);

/// The bar of one run.
pub struct ProgressBar {
    bar: Option<Bar>,
    sent: Mutex<Vec<(String, u64)>>,
}

impl ProgressBar {
    /// A bar when `wanted` and standard error is a terminal.
    pub fn new(wanted: bool) -> Self {
        let bar = (wanted && std::io::stderr().is_terminal()).then(|| {
            let bar = Bar::new_spinner();
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { bar, sent: Mutex::default() }
    }

    /// Takes the bar away, so that text can be printed.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants; one that cannot be read gives the plain style.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Observer for ProgressBar {
    fn event(&self, event: Event) {
        let Some(bar) = &self.bar else { return };
        match event {
            Event::Step(text) => bar.set_message(text),
            Event::Total { bytes: Some(bytes), .. } => {
                bar.set_length(bytes);
                bar.set_position(0);
                bar.set_style(style("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}"));
            }
            Event::Total { bytes: None, .. } => {}
            Event::Advance { bytes, .. } => {
                if bar.length().is_none() {
                    bar.set_style(style("{spinner} {msg} {bytes} {bytes_per_sec}"));
                }
                bar.inc(bytes);
            }
            Event::Sent(sent) => {
                let text: Vec<String> =
                    sent.iter().map(|(store, bytes)| format!("{store} {}", human_size(*bytes))).collect();
                *self.sent.lock().unwrap_or_else(PoisonError::into_inner) = sent;
                bar.set_prefix(text.join(", "));
            }
            Event::Finding(finding) => {
                if finding.kind != FindingKind::Notice {
                    bar.println(format!("  {finding}"));
                }
            }
        }
    }
}
