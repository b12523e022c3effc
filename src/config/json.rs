//! Strict JSON as a located tree. serde_json says whether it is JSON at all; this only finds out where things stand.

use super::tree::{Content, MAX_DEPTH, Mistake, Name, Node, Position, position_of};

/// Reads a text.
pub(super) fn parse(text: &str) -> (Option<Node>, Vec<Mistake>) {
    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
        let line = error.line().max(1);
        // Its columns count bytes.
        let before = text.split('\n').nth(line.saturating_sub(1)).unwrap_or_default();
        let upto = error.column().saturating_sub(1).min(before.len());
        let column = (0..=upto).rev().find_map(|end| before.get(..end)).unwrap_or_default().chars().count();
        let at = Position { line, column: column.saturating_add(1) };
        let words = error.to_string();
        let words = words.split(" at line ").next().unwrap_or_default();
        return (None, vec![Mistake::plain(at, format!("no valid JSON: {words}"))]);
    }
    let mut reader = Reader { text, at: 0, mark: Position::START, marked: 0, depth: 0 };
    match reader.value() {
        Ok(node) => (Some(node), Vec::new()),
        Err(mistake) => (None, vec![mistake]),
    }
}

/// Walks over a text that is known to be JSON. It still takes nothing for granted: what does not fit is a mistake.
#[derive(Debug)]
struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// The place of the byte `marked`, from which later places are counted.
    mark: Position,
    marked: usize,
    depth: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        let space = rest.len().saturating_sub(rest.trim_start_matches([' ', '\t', '\n', '\r']).len());
        self.at = self.at.saturating_add(space);
    }

    fn position(&mut self) -> Position {
        let passed = position_of(self.text.get(self.marked..self.at).unwrap_or_default(), usize::MAX);
        let column = match passed.line {
            1 => self.mark.column.saturating_add(passed.column).saturating_sub(1),
            _ => passed.column,
        };
        self.mark = Position { line: self.mark.line.saturating_add(passed.line).saturating_sub(1), column };
        self.marked = self.at;
        self.mark
    }

    fn wrong(&mut self) -> Mistake {
        Mistake::plain(self.position(), "no valid JSON")
    }

    /// Takes a character if it is the next one after space.
    fn next_is(&mut self, wanted: char) -> bool {
        self.skip_space();
        let is = self.rest().starts_with(wanted);
        if is {
            self.at = self.at.saturating_add(wanted.len_utf8());
        }
        is
    }

    fn value(&mut self) -> Result<Node, Mistake> {
        self.skip_space();
        let at = self.position();
        if self.depth >= MAX_DEPTH {
            return Err(Mistake::plain(at, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.depth = self.depth.saturating_add(1);
        let content = match self.rest().chars().next() {
            Some('{') => self.mapping()?,
            Some('[') => self.list()?,
            Some('"') => Content::Text(self.string()?),
            Some(_) => self.word()?,
            None => return Err(self.wrong()),
        };
        self.depth = self.depth.saturating_sub(1);
        Ok(Node { at, content })
    }

    fn mapping(&mut self) -> Result<Content, Mistake> {
        let mut entries = Vec::new();
        self.next_is('{');
        if self.next_is('}') {
            return Ok(Content::Mapping(entries));
        }
        loop {
            self.skip_space();
            let at = self.position();
            let text = self.string()?;
            if !self.next_is(':') {
                return Err(self.wrong());
            }
            entries.push((Name { at, text }, self.value()?));
            if !self.next_is(',') {
                return if self.next_is('}') { Ok(Content::Mapping(entries)) } else { Err(self.wrong()) };
            }
        }
    }

    fn list(&mut self) -> Result<Content, Mistake> {
        let mut nodes = Vec::new();
        self.next_is('[');
        if self.next_is(']') {
            return Ok(Content::List(nodes));
        }
        loop {
            nodes.push(self.value()?);
            if !self.next_is(',') {
                return if self.next_is(']') { Ok(Content::List(nodes)) } else { Err(self.wrong()) };
            }
        }
    }

    fn string(&mut self) -> Result<String, Mistake> {
        let rest = self.rest();
        let mut escaped = false;
        let end = rest.char_indices().skip(1).find_map(|(index, c)| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends.then_some(index.saturating_add(1))
        });
        let text = end.and_then(|end| rest.get(..end)).and_then(|raw| serde_json::from_str(raw).ok());
        match (text, end) {
            (Some(text), Some(end)) => {
                self.at = self.at.saturating_add(end);
                Ok(text)
            }
            _ => Err(self.wrong()),
        }
    }

    fn word(&mut self) -> Result<Content, Mistake> {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c)).unwrap_or(rest.len());
        let word = rest.get(..end).unwrap_or_default().to_string();
        if word.is_empty() {
            return Err(self.wrong());
        }
        self.at = self.at.saturating_add(end);
        Ok(if word == "null" { Content::Nothing } else { Content::Plain(word) })
    }
}
