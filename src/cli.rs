//! The command line: parses, calls, renders. Nothing is decided here.
//!
//! Invariants:
//! - exit codes: 0 done; 1 failed; 2 bad usage; 3 done, but the setup needs attention; 4 refused, nothing was changed;
//! - a closed pipe is no error, a full disk under the output is one;
//! - the threads that read for a scan have ended before anything is changed: the guardian is forked from a process with
//!   one thread.

pub mod args;
mod choices;
mod commands;
pub mod complete;
mod context;
mod nagios;
mod output;
mod progress;
mod replace;
mod report;
mod selection;
mod settings;
mod signals;
mod syslog;

use crate::engine::EngineError;
use crate::plan::Refusal;
use args::{Cli, Command, Tool};
use clap::{CommandFactory, Parser};
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

/// One of the programs that this one is.
struct ToolOf {
    /// Reads its arguments.
    parse: fn(&'static str, Vec<OsString>) -> Result<Cli, clap::Error>,
    /// The definition of its command line.
    command: fn() -> clap::Command,
}

/// The tools that this program is, by the exact name that it is called by. A command that is a program of its own has a
/// line here: nothing else knows of it.
const TOOLS: [(&str, ToolOf); 4] = [
    ("dm-remap", ToolOf { parse: |_, args| Cli::try_parse_from(args), command: Cli::command }),
    (
        "dm-remap-discover",
        ToolOf {
            parse: |name, args| Tool::parse(name, Command::Discover, args),
            command: Tool::<args::assembly::Discover>::command,
        },
    ),
    (
        "dm-remap-reassemble",
        ToolOf {
            parse: |name, args| Tool::parse(name, Command::Reassemble, args),
            command: Tool::<args::assembly::Reassemble>::command,
        },
    ),
    (
        "dm-remap-validate",
        ToolOf {
            parse: |name, args| Tool::parse(name, Command::Validate, args),
            command: Tool::<args::validate::Validate>::command,
        },
    ),
];

/// Runs the program with the given arguments, the name that it was called by first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let called = args.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
    let Some((name, tool)) = TOOLS.iter().find(|(name, _)| called == *name) else {
        let known: Vec<&str> = TOOLS.iter().map(|(name, _)| *name).collect();
        let (called, known) = (called.to_string_lossy(), known.join(", "));
        output::complain(&format!("'{called}' is not a tool of this program, which is: {known}"));
        return ExitCode::from(Exit::Usage as u8);
    };
    if let Some(exit) = complete::answer(name, tool.command, &args) {
        return ExitCode::from(exit as u8);
    }
    output::be_called(name);
    ExitCode::from(run((tool.parse)(name, args)) as u8)
}

fn run(parsed: Result<Cli, clap::Error>) -> Exit {
    let cli = match parsed {
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
    let mut out = Output::new(cli.globals.json);
    let result = Context::new(&cli.globals).and_then(|context| {
        let result = commands::run(&context, &cli, &mut out);
        // Everything is resumed, and no lock is held.
        commands::tell_changes(&context);
        result
    });
    match result {
        Ok(exit) => out.finish(exit),
        Err(error) if cli.command.is_nagios() => {
            let answer = nagios::Answer::unknown(&format!("{error:#}"));
            out.line(answer.line());
            out.finish(answer.verdict.exit())
        }
        Err(error) => {
            let exit = exit_of(&error);
            let text = format!("{error:#}");
            if cli.globals.json {
                out.json(&serde_json::json!({ "error": text, "exit_code": exit as u8 }));
            }
            // What was gathered before the failure is still worth reading.
            let exit = out.finish(exit);
            output::complain(&text);
            exit
        }
    }
}

/// The one of two ends that a person must know of.
fn worse(one: Exit, other: Exit) -> Exit {
    let rank = |exit: Exit| match exit {
        Exit::Done => 0,
        Exit::Attention => 1,
        Exit::Refused => 2,
        Exit::Usage => 3,
        Exit::Failed => 4,
    };
    if rank(other) > rank(one) { other } else { one }
}

fn exit_of(error: &anyhow::Error) -> Exit {
    let refused = matches!(error.downcast_ref(), Some(EngineError::Refused(_)));
    if let Some(failed) = error.downcast_ref::<commands::WorkerFailed>() {
        failed.exit()
    } else if refused || error.is::<Refusal>() {
        Exit::Refused
    } else if error.is::<context::Usage>() || error.is::<settings::BadConfig>() {
        Exit::Usage
    } else {
        Exit::Failed
    }
}
