//! Markdown in the language of man pages: headings, paragraphs, lists, code, emphasis and tables.

use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};

/// Text as troff takes it. A line must not begin with a control character.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::new();
    for line in text.split_inclusive('\n') {
        if line.starts_with(['.', '\'']) {
            out.push_str("\\&");
        }
        for character in line.chars() {
            match character {
                '\\' => out.push_str("\\e"),
                '-' => out.push_str("\\-"),
                '\u{2013}' => out.push_str("\\(en"),
                '\u{2014}' => out.push_str("\\(em"),
                '\'' => out.push_str("\\(aq"),
                '`' => out.push_str("\\(ga"),
                '^' => out.push_str("\\(ha"),
                '~' => out.push_str("\\(ti"),
                '\u{2026}' => out.push_str("..."),
                '\u{b7}' | '\u{d7}' => out.push('x'),
                '\u{2264}' => out.push_str("<="),
                '\u{2265}' => out.push_str(">="),
                other => out.push(other),
            }
        }
    }
    out
}

/// Cells above this make a table unreadable in 80 columns, in bytes.
const LONGEST_CELL: usize = 150;

/// The state of a rendering.
#[derive(Default)]
struct Page {
    out: String,
    /// Numbers of the lists that are open: `None` for bullets.
    lists: Vec<Option<u64>>,
    in_code: bool,
    in_table: bool,
    /// The next paragraph follows the mark of its list entry.
    at_mark: bool,
    cells: Vec<String>,
    rows: Vec<Vec<String>>,
    cell: String,
}

impl Page {
    fn line(&mut self, line: &str) {
        if !self.out.is_empty() && !self.out.ends_with('\n') {
            self.out.push('\n');
        }
        self.out.push_str(line);
        self.out.push('\n');
    }

    fn text(&mut self, text: &str) {
        if self.in_table {
            self.cell.push_str(text);
            return;
        }
        let begins_line = self.out.is_empty() || self.out.ends_with('\n');
        if begins_line && !self.in_code {
            // A control character may come after a space, too.
            let text = text.trim_start();
            if text.starts_with(['.', '\'']) {
                self.out.push_str("\\&");
            }
            self.out.push_str(text);
        } else {
            self.out.push_str(text);
        }
    }

    fn start(&mut self, tag: &Tag<'_>) {
        match tag {
            Tag::Heading { level, .. } => {
                let macro_name = if *level <= HeadingLevel::H2 { ".SH " } else { ".SS " };
                self.line("");
                self.out.pop();
                self.out.push_str(macro_name);
                self.in_code = true;
            }
            Tag::Paragraph if self.at_mark => self.at_mark = false,
            Tag::Paragraph => self.line(if self.lists.is_empty() { ".PP" } else { ".IP" }),
            Tag::List(first) => {
                if !self.lists.is_empty() {
                    self.line(".RS");
                }
                self.lists.push(*first);
            }
            Tag::Item => {
                let mark = match self.lists.last_mut() {
                    Some(Some(number)) => {
                        *number += 1;
                        format!(".IP {}. 4", *number - 1)
                    }
                    _ => ".IP \\(bu 2".to_string(),
                };
                self.line(&mark);
                self.at_mark = true;
            }
            Tag::CodeBlock(_) => {
                for line in [".PP", ".RS 4", ".nf"] {
                    self.line(line);
                }
                self.in_code = true;
            }
            Tag::Strong => self.text("\\fB"),
            Tag::Emphasis => self.text("\\fI"),
            Tag::Table(_) => (self.in_table, self.rows) = (true, Vec::new()),
            Tag::TableRow | Tag::TableHead => self.cells = Vec::new(),
            Tag::TableCell => self.cell = String::new(),
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(_) => {
                self.in_code = false;
                self.out.push('\n');
            }
            TagEnd::Paragraph => self.out.push('\n'),
            TagEnd::Item => self.at_mark = false,
            TagEnd::List(_) => {
                self.lists.pop();
                if !self.lists.is_empty() {
                    self.line(".RE");
                }
            }
            TagEnd::CodeBlock => {
                self.in_code = false;
                for line in [".fi", ".RE"] {
                    self.line(line);
                }
            }
            TagEnd::Strong | TagEnd::Emphasis => self.text("\\fR"),
            TagEnd::TableCell => self.cells.push(std::mem::take(&mut self.cell)),
            TagEnd::TableRow | TagEnd::TableHead => {
                let cells = std::mem::take(&mut self.cells);
                self.rows.push(cells);
            }
            TagEnd::Table => self.table(),
            _ => {}
        }
    }

    /// A table with long texts: a list, marked by the first column.
    fn list_of(&mut self, rows: &[Vec<String>]) {
        for row in rows.iter().skip(1) {
            if let [first, middle @ .., last] = row.as_slice() {
                let middle = middle.iter().filter(|cell| !cell.trim().is_empty());
                let middle: String = middle.map(|cell| format!(" ({})", cell.trim())).collect();
                for line in [".TP", &format!("{}{middle}", first.trim()), last.trim()] {
                    self.line(line);
                }
            }
        }
    }

    /// A table of tbl(1): the last column takes the room that is left.
    fn table(&mut self) {
        self.in_table = false;
        let rows = std::mem::take(&mut self.rows);
        let columns = rows.first().map_or(1, Vec::len);
        if rows.iter().flatten().any(|cell| cell.len() > LONGEST_CELL) {
            self.list_of(&rows);
            return;
        }
        self.line(".PP");
        self.line(".TS");
        let format = |kind: &str| {
            let mut columns: Vec<&str> = vec![kind; columns];
            if let Some(last) = columns.last_mut() {
                *last = if kind == "lB" { "lBx" } else { "lx" };
            }
            columns.join(" ")
        };
        self.line(&format("lB"));
        self.line(&format!("{}.", format("l")));
        for row in &rows {
            let cells: Vec<String> = row.iter().map(|cell| format!("T{{\n{}\nT}}", cell.trim())).collect();
            self.line(&cells.join("\t"));
        }
        self.line(".TE");
    }
}

/// The body of a page. The title (`# …`) is left out: it is the caller's `.TH`.
pub(crate) fn body(markdown: &str) -> String {
    let mut page = Page::default();
    let mut in_title = false;
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Heading { level: HeadingLevel::H1, .. }) => in_title = true,
            Event::End(TagEnd::Heading(HeadingLevel::H1)) => in_title = false,
            _ if in_title => {}
            Event::Start(tag) => page.start(&tag),
            Event::End(tag) => page.end(tag),
            Event::Text(text) => page.text(&escaped(&text)),
            Event::Code(code) => page.text(&format!("\\fB{}\\fR", escaped(&code))),
            Event::SoftBreak => page.text(if page.in_table { " " } else { "\n" }),
            Event::HardBreak => page.line(".br"),
            _ => {}
        }
    }
    let lines: Vec<&str> =
        page.out.lines().map(str::trim_end).filter(|line| !line.is_empty() || page.in_code).collect();
    lines.join("\n") + "\n"
}
