//! What goes to standard output and standard error.
//!
//! Invariant: results are gathered and written at the end, so a command never dies half-way because nobody reads.

use super::Exit;
use serde::Serialize;
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::OnceLock;

/// Version of everything that `--json` prints; raised when a field changes its meaning or goes.
pub(super) const SCHEMA_VERSION: u32 = 1;

/// The results of a command.
#[derive(Clone, Debug)]
pub(super) struct Output {
    text: String,
    json: bool,
    colour: bool,
}

/// A colour for a word, used on terminals only.
#[derive(Clone, Copy, Debug)]
pub(super) enum Colour {
    Green,
    Yellow,
    Red,
    Bold,
}

#[derive(Serialize)]
struct Versioned<'a, T: Serialize> {
    schema_version: u32,
    #[serde(flatten)]
    content: &'a T,
}

impl Output {
    pub(super) fn new(json: bool) -> Output {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        Output { text: String::new(), json, colour: wanted && !dumb && std::io::stdout().is_terminal() }
    }

    /// An empty one, to be printed where `other` is.
    pub(super) fn like(other: &Output) -> Output {
        Output { text: String::new(), json: other.json, colour: other.colour }
    }

    /// Whether JSON was asked for.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// All that was gathered, to be printed by somebody else.
    pub(super) fn into_text(self) -> String {
        self.text
    }

    /// Adds text as it is.
    pub(super) fn text(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Adds a line.
    pub(super) fn line(&mut self, line: impl AsRef<str>) {
        self.text.push_str(line.as_ref().trim_end());
        self.text.push('\n');
    }

    /// Adds a JSON document with its schema version.
    pub(super) fn json<T: Serialize>(&mut self, content: &T) {
        match serde_json::to_string_pretty(&Versioned { schema_version: SCHEMA_VERSION, content }) {
            Ok(text) => self.line(text),
            Err(error) => complain(&format!("cannot make JSON: {error}")),
        }
    }

    /// The word in colour, where there is colour.
    pub(super) fn paint(&self, colour: Colour, word: &str) -> String {
        if !self.colour {
            return word.to_string();
        }
        let code = match colour {
            Colour::Green => 32,
            Colour::Yellow => 33,
            Colour::Red => 31,
            Colour::Bold => 1,
        };
        format!("\u{1b}[{code}m{word}\u{1b}[0m")
    }

    /// Adds rows with aligned columns; the first row is the heading.
    pub(super) fn table(&mut self, indent: usize, rows: &[Vec<String>]) {
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
        for row in rows {
            let mut line = " ".repeat(indent);
            for (cell, width) in row.iter().zip(&widths) {
                let pad = width.saturating_sub(cell.chars().count());
                // Numbers stand right, words left.
                let number = !cell.is_empty() && cell.chars().all(|c| c.is_ascii_digit());
                if number {
                    line.push_str(&" ".repeat(pad));
                    line.push_str(cell);
                } else {
                    line.push_str(cell);
                    line.push_str(&" ".repeat(pad));
                }
                line.push_str("  ");
            }
            self.line(line);
        }
    }

    /// Writes everything; the exit to use: a full disk turns success into failure, a closed pipe does not.
    pub(super) fn finish(self, exit: Exit) -> Exit {
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(self.text.as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => exit,
            Err(error) if error.kind() == ErrorKind::BrokenPipe => exit,
            Err(error) => {
                complain(&format!("cannot write the output: {error}"));
                if exit == Exit::Done { Exit::Failed } else { exit }
            }
        }
    }
}

/// What the program was called by, once that is known to be one of its names.
static CALLED: OnceLock<&'static str> = OnceLock::new();

/// Complaints begin with this name from now on.
pub(super) fn be_called(name: &'static str) {
    let _ = CALLED.set(name);
}

/// Says what is wrong, on standard error. Nothing can be done if that fails too.
pub(super) fn complain(text: &str) {
    complain_raw(&format!("{}: {text}\n", CALLED.get().unwrap_or(&"dm-remap")));
}

/// The same, without the program's name.
pub(super) fn complain_raw(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
