//! Tells the person how it goes: a bar on a terminal, plain lines elsewhere, nothing when quiet.

use super::output::complain_raw;
use crate::engine::Observer;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::cell::RefCell;
use std::io::IsTerminal;

/// The observer of the command line. It starts no thread: the bar is drawn when there is something new.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    notes: bool,
    seen: RefCell<Vec<String>>,
}

/// The most notes that are printed one by one; a disk with thousands of bad sectors must not flood the terminal.
const MOST_NOTES: usize = 20;

impl Progress {
    pub(super) fn new(quiet: bool) -> Progress {
        let terminal = std::io::stderr().is_terminal();
        let bar = (terminal && !quiet).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style =
                ProgressStyle::with_template("{msg:20} [{bar:30}] {percent:>3}%  {pos}/{len} sectors  ETA {eta}");
            if let Ok(style) = style {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        });
        Progress { bar, notes: !quiet, seen: RefCell::default() }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let surplus = self.seen.borrow().len().saturating_sub(MOST_NOTES);
        if self.notes && surplus > 0 {
            complain_raw(&format!("note: … and {surplus} more\n"));
        }
    }
}

impl Observer for Progress {
    fn step(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(what.to_string());
        }
    }

    fn progress(&self, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    fn note(&self, text: &str) {
        let mut seen = self.seen.borrow_mut();
        if !self.notes || seen.iter().any(|s| s == text) {
            return;
        }
        if seen.len() < MOST_NOTES {
            let line = format!("note: {text}\n");
            match &self.bar {
                Some(bar) => bar.suspend(|| complain_raw(&line)),
                None => complain_raw(&line),
            }
        }
        seen.push(text.to_string());
    }
}
