//! The command line: parses, calls, renders. Nothing is decided here.
//!
//! Invariants:
//! - exit codes: 0 done; 1 failed; 2 bad usage; 3 done, but the setup needs attention; 4 refused, nothing was changed;
//! - a closed pipe is no error, a full disk under the output is one;
//! - the threads that read for a scan have ended before anything is changed: the guardian is forked from a process with
//!   one thread.

pub mod args;
mod commands;
mod context;
mod output;
mod progress;
mod report;
mod signals;
mod syslog;

use crate::engine::EngineError;
use crate::plan::Refusal;
use args::Cli;
use clap::Parser;
use context::Context;
use output::Output;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// Bad usage.
    Usage = 2,
    /// Done, but the setup needs attention.
    Attention = 3,
    /// Refused for safety; nothing was changed.
    Refused = 4,
}

/// The tools that this program is, by the exact name that it is called by.
const TOOLS: [&str; 1] = ["dm-remap"];

/// Runs the program with the given arguments, the name that it was called by first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let called = args.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
    if !TOOLS.iter().any(|tool| called == *tool) {
        let known = TOOLS.join(", ");
        output::complain(&format!("'{}' is not a tool of this program, which is: {known}", called.to_string_lossy()));
        return ExitCode::from(Exit::Usage as u8);
    }
    ExitCode::from(run(args) as u8)
}

fn run(args: Vec<OsString>) -> Exit {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let text = error.render();
            let styled = text.to_string();
            if error.use_stderr() {
                output::complain_raw(&styled);
                return Exit::Usage;
            }
            let mut out = Output::new(false);
            out.text(&styled);
            return out.finish(Exit::Done);
        }
    };
    let mut out = Output::new(cli.json);
    let result = Context::new(&cli).and_then(|context| commands::run(&context, &cli, &mut out));
    match result {
        Ok(exit) => out.finish(exit),
        Err(error) => {
            let exit = exit_of(&error);
            let text = format!("{error:#}");
            if cli.json {
                out.json(&serde_json::json!({ "error": text, "exit_code": exit as u8 }));
            }
            // What was gathered before the failure is still worth reading.
            let exit = out.finish(exit);
            output::complain(&text);
            exit
        }
    }
}

fn exit_of(error: &anyhow::Error) -> Exit {
    let refused = matches!(error.downcast_ref(), Some(EngineError::Refused(_)));
    if refused || error.is::<Refusal>() {
        Exit::Refused
    } else if error.is::<context::Usage>() {
        Exit::Usage
    } else {
        Exit::Failed
    }
}
