//! `status`: each setup is looked at by a process that may be left behind, so that one that hangs delays only itself.
//!
//! Invariants: what a worker sends is whole or absent; a setup whose devices do not answer is reported as such, and never
//! left out.

use super::status::{State, gather};
use super::status_view::{Line, lines, render, words};
use super::{Context, Exit, Output};
use crate::block::workers::{Outcome, in_workers};
use crate::cli::args::Status;
use crate::cli::nagios::Answer;
use crate::cli::output::complain;
use crate::cli::selection::select;
use crate::cli::{exit_of, worse};
use crate::engine::EngineError;
use crate::messages::Trouble;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Setups that are looked at at the same time.
const AT_ONCE: usize = 8;

/// What a worker says of one setup.
#[derive(Debug, Serialize, Deserialize)]
enum Said {
    /// The report as JSON, as text, and as a line.
    Report(serde_json::Value, String, Line),
    /// Why there is none, and the exit code.
    Error(String, u8),
}

/// Does `work` for each setup, in processes beside this one: what it gives, or `None` where no answer came in time.
///
/// # Errors
/// When no process can be made.
pub(super) fn each<T: Serialize + serde::de::DeserializeOwned>(
    context: &Context,
    names: &[String],
    patience: Duration,
    work: &dyn Fn(&Context, &str) -> T,
) -> Result<Vec<Option<T>>> {
    let one = |number: usize| {
        let context = context.anew();
        let done = names.get(number).map(|name| work(&context, name));
        serde_json::to_vec(&done).unwrap_or_default()
    };
    let outcomes = in_workers(names.len(), AT_ONCE, patience, &one)
        .map_err(|error| EngineError::system("cannot make a process", error))?;
    let whole = |outcome: Outcome| match outcome {
        Outcome::Done(bytes) => serde_json::from_slice(&bytes).ok().flatten(),
        Outcome::TimedOut | Outcome::Died => None,
    };
    Ok(outcomes.into_iter().map(whole).collect())
}

pub(super) fn status(context: &Context, args: &Status, out: &mut Output) -> Result<Exit> {
    if args.nagios {
        let (readings, _) = super::metrics::readings(context, &args.names, args.patience.timeout)?;
        let answer = Answer::status(&readings);
        out.line(answer.line());
        return Ok(answer.verdict.exit());
    }
    // Before any process is made: a machine without device-mapper says so once.
    context.dm()?;
    let names = select(context, &args.names)?;
    let files = args.files.patience();
    let blank = Output::like(out);
    let said = each(context, &names, args.patience.timeout.saturating_add(files), &|context, name| match gather(
        context, name, files,
    ) {
        Ok(report) => {
            let mut text = blank.clone();
            render(&mut text, &report);
            Said::Report(serde_json::to_value(&report).unwrap_or_default(), text.into_text(), Line::of(&report))
        }
        Err(error) => Said::Error(format!("{error:#}"), exit_of(&error) as u8),
    })?;
    let mut told = Told { exit: Exit::Done, json: Vec::new(), lines: Vec::new(), texts: Vec::new() };
    for (name, said) in names.iter().zip(said) {
        told.take(name, said, out, names.len() == 1)?;
    }
    told.print(out, args.verbose);
    Ok(told.exit)
}

/// What was heard of all setups.
struct Told {
    exit: Exit,
    json: Vec<serde_json::Value>,
    lines: Vec<Line>,
    texts: Vec<String>,
}

impl Told {
    fn take(&mut self, name: &str, said: Option<Said>, out: &Output, alone: bool) -> Result<()> {
        match said {
            Some(Said::Report(json, text, line)) => {
                if line.state != State::Healthy {
                    self.exit = worse(self.exit, Exit::Attention);
                }
                self.json.push(json);
                self.lines.push(line);
                self.texts.push(text);
            }
            Some(Said::Error(text, code)) => {
                let exit = if code == Exit::Refused as u8 { Exit::Refused } else { Exit::Failed };
                if alone {
                    return Err(Failed { text, refused: exit == Exit::Refused }.into());
                }
                complain(&text);
                self.json.push(serde_json::json!({ "name": name, "error": text, "exit_code": code }));
                self.exit = worse(self.exit, exit);
            }
            None => {
                self.exit = worse(self.exit, Exit::Attention);
                self.silent(name, out);
            }
        }
        Ok(())
    }

    fn silent(&mut self, name: &str, out: &Output) {
        let message = Trouble::NoAnswer.message();
        let (colour, word) = words(State::Silent);
        let status = "a device of it has not answered in time";
        let action = format!("look at dmesg; 'dm-remap list' shows the devices of '{name}' without reading them");
        self.json.push(serde_json::json!({
            "name": name, "state": State::Silent, "status": [status], "action": [action], "messages": [message.code],
        }));
        let mut text = Output::like(out);
        text.line(format!("  setup: {name}"));
        text.line(format!("  state: {}", text.paint(colour, word)));
        text.line(format!(" status: {status}"));
        text.line(format!(" action: {action}"));
        text.line(format!("    see: dm-remap(7), {}", message.code));
        self.texts.push(text.into_text());
        self.lines.push(Line::silent(name));
    }

    /// One setup in full; of several a line each, and in full those that are not well.
    fn print(&self, out: &mut Output, verbose: bool) {
        if out.is_json() {
            out.json(&serde_json::json!({ "setups": self.json }));
            return;
        }
        if self.lines.is_empty() {
            if self.exit == Exit::Done {
                out.line("no active setups");
            }
            return;
        }
        let compact = self.lines.len() > 1 && !verbose;
        if compact {
            lines(out, &self.lines);
        }
        let mut first = !compact;
        for (line, text) in self.lines.iter().zip(&self.texts) {
            if compact && line.state == State::Healthy {
                continue;
            }
            if !first {
                out.line("");
            }
            first = false;
            out.text(text);
        }
    }
}

/// The error of a worker, with the exit code that it has.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(in crate::cli) struct Failed {
    text: String,
    refused: bool,
}

impl Failed {
    /// How the command ends.
    pub(in crate::cli) fn exit(&self) -> Exit {
        if self.refused { Exit::Refused } else { Exit::Failed }
    }
}
