//! What YAML and JSON have in common: a tree of mappings, lists and words that knows where each of them stands.

use serde::Serialize;
use std::fmt;

/// The deepest nesting that is read. What is meant needs four levels.
pub(super) const MAX_DEPTH: usize = 12;

/// Which language a text is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// YAML 1.2, without anchors, aliases and tags.
    Yaml,
    /// Strict JSON.
    Json,
}

/// A place in a text: line and column, both from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl Position {
    /// The beginning of the text.
    pub(super) const START: Position = Position { line: 1, column: 1 };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Something wrong in a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// Where.
    #[serde(flatten)]
    pub at: Position,
    /// What is wrong.
    pub problem: String,
    /// What would be right, where that can be told.
    pub hint: Option<String>,
}

impl Mistake {
    /// A mistake, and what would be right.
    pub(super) fn new(at: Position, problem: impl Into<String>, hint: impl Into<String>) -> Mistake {
        Mistake { at, problem: problem.into(), hint: Some(hint.into()) }
    }

    /// A mistake that says by itself what would be right.
    pub(super) fn plain(at: Position, problem: impl Into<String>) -> Mistake {
        Mistake { at, problem: problem.into(), hint: None }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.problem)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, ": {hint}"))
    }
}

/// A node of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) content: Content,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Nothing: an empty value, or `null`.
    Nothing,
    /// A word as it stands there, neither quoted nor of a type yet: what it is depends on what is wanted.
    Plain(String),
    /// A quoted text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// Keys and their values, in order; a key may come twice.
    Mapping(Vec<(Name, Node)>),
}

/// A key of a mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) at: Position,
    pub(super) text: String,
}

/// Text from a file, fit for a terminal and for one line.
pub(super) fn quoted(text: &str) -> String {
    const MOST: usize = 60;
    let mut out: String = text.chars().take(MOST).flat_map(char::escape_debug).collect();
    // These two are no trouble inside the quotes that are used here.
    out = out.replace("\\\"", "\"").replace("\\'", "'");
    if text.chars().nth(MOST).is_some() {
        out.push('…');
    }
    format!("'{out}'")
}

/// The place of a byte in a text.
pub(super) fn position_of(text: &str, byte: usize) -> Position {
    let before = text.get(..byte).unwrap_or(text);
    let line = before.matches('\n').count().saturating_add(1);
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count().saturating_add(1);
    Position { line, column }
}
