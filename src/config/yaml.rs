//! YAML as a located tree. What makes YAML a programming language is refused: anchors, aliases, tags, several documents.

use super::tree::{Content, MAX_DEPTH, Mistake, Name, Node, Position};
use saphyr_parser::{Event, Parser, ScalarStyle, Span};

/// Reads a text. A syntax error ends the tree; all else that is refused is gathered.
pub(super) fn parse(text: &str) -> (Option<Node>, Vec<Mistake>) {
    let tabs = tabs(text);
    if !tabs.is_empty() {
        // Nobody knows how deep a tab is: the tree would be another than what is seen.
        return (None, tabs);
    }
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        match event {
            Ok((event, span)) => {
                if !builder.take(event, position(&span)) {
                    break;
                }
            }
            Err(error) => {
                let at = error.marker();
                let at = Position { line: at.line().max(1), column: at.col().saturating_add(1) };
                builder.mistakes.push(Mistake::plain(at, format!("no valid YAML: {}", error.info())));
                return (None, builder.mistakes);
            }
        }
    }
    (builder.root, builder.mistakes)
}

fn position(span: &Span) -> Position {
    Position { line: span.start.line().max(1), column: span.start.col().saturating_add(1) }
}

/// Tabs where a line is indented.
fn tabs(text: &str) -> Vec<Mistake> {
    let mut out = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let rest = line.trim_start_matches([' ', '\t']);
        let indent = line.strip_suffix(rest).unwrap_or_default();
        if rest.is_empty() || rest.starts_with('#') {
            continue;
        }
        if let Some(column) = indent.chars().position(|c| c == '\t') {
            let at = Position { line: number, column: column.saturating_add(1) };
            out.push(Mistake::new(at, "a tab in the indentation", "indent with spaces"));
        }
    }
    out
}

/// What is open while events come in.
#[derive(Debug)]
enum Open {
    List(Vec<Node>),
    /// The entries, and the key whose value comes next.
    Mapping(Vec<(Name, Node)>, Option<Name>),
}

#[derive(Debug, Default)]
struct Builder {
    open: Vec<(Position, Open)>,
    root: Option<Node>,
    documents: usize,
    mistakes: Vec<Mistake>,
    /// The end of the last entry or beginning: where an empty value stands in the wrong place, YAML says so too late.
    stop: bool,
}

impl Builder {
    /// Takes an event; `false` to stop.
    fn take(&mut self, event: Event<'_>, at: Position) -> bool {
        match event {
            Event::DocumentStart(_) => {
                self.documents = self.documents.saturating_add(1);
                if self.documents > 1 {
                    self.mistakes.push(Mistake::new(at, "a second document", "one file holds one document"));
                    return false;
                }
            }
            Event::Alias(_) => {
                self.mistakes.push(Mistake::new(at, "an alias (*)", "write the value out"));
                self.put(Node { at, content: Content::Nothing });
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse(at, anchor, tag.is_some());
                let content = match style {
                    ScalarStyle::Plain if matches!(&*text, "" | "~" | "null" | "Null" | "NULL") => Content::Nothing,
                    ScalarStyle::Plain => Content::Plain(text.into_owned()),
                    _ => Content::Text(text.into_owned()),
                };
                self.put(Node { at, content });
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse(at, anchor, tag.is_some());
                self.begin(at, Open::List(Vec::new()));
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse(at, anchor, tag.is_some());
                self.begin(at, Open::Mapping(Vec::new(), None));
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        !self.stop
    }

    fn refuse(&mut self, at: Position, anchor: usize, tag: bool) {
        if anchor != 0 {
            self.mistakes.push(Mistake::new(at, "an anchor (&)", "leave it away, and write values out"));
        }
        if tag {
            self.mistakes.push(Mistake::new(at, "a tag (!)", "leave it away"));
        }
    }

    fn begin(&mut self, at: Position, open: Open) {
        if self.open.len() >= MAX_DEPTH {
            self.mistakes.push(Mistake::plain(at, format!("nested deeper than {MAX_DEPTH} levels")));
            self.stop = true;
        }
        self.open.push((at, open));
    }

    fn end(&mut self) {
        let Some((at, open)) = self.open.pop() else { return };
        let content = match open {
            Open::List(nodes) => Content::List(nodes),
            Open::Mapping(entries, _) => Content::Mapping(entries),
        };
        self.put(Node { at, content });
    }

    /// Puts a finished node where it belongs.
    fn put(&mut self, node: Node) {
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some((_, Open::List(nodes))) => nodes.push(node),
            Some((_, Open::Mapping(entries, key))) => match key.take() {
                Some(name) => entries.push((name, node)),
                None => {
                    let text = match node.content {
                        Content::Plain(text) | Content::Text(text) => text,
                        Content::Nothing | Content::List(_) | Content::Mapping(_) => {
                            self.mistakes.push(Mistake::new(node.at, "a key that is no word", "write KEY: VALUE"));
                            String::new()
                        }
                    };
                    *key = Some(Name { at: node.at, text });
                }
            },
        }
    }
}
