//! From the tree to settings: which keys there are, what they may be, and what does not go together.

use super::keys::{GROUPS, KEYS, SCAN_IDLE, SCAN_RATE};
use super::rate::Rate;
use super::settings::{Config, Section, Set};
use super::tree::{Content, Mistake, Name, Node, Position, Syntax, position_of, quoted};
use super::value::{Scope, Spec, Value, found};
use super::{MAX_BYTES, json, yaml};
use crate::format::metadata::{MAX_NAME, check_name};
use std::collections::BTreeMap;

/// The most mistakes that are listed.
const MOST_MISTAKES: usize = 200;

/// What a text says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The configuration, as far as it can be read. It is for use only when there is no mistake.
    pub config: Config,
    /// All mistakes, in order of their places.
    pub mistakes: Vec<Mistake>,
}

/// Reads a configuration.
pub fn read(bytes: &[u8], syntax: Syntax) -> Reading {
    let mut reader = Reader::default();
    let config = reader.document(bytes, syntax);
    let mut mistakes = reader.mistakes;
    mistakes.sort_by_key(|mistake| mistake.at);
    if mistakes.len() > MOST_MISTAKES {
        let more = mistakes.len().saturating_sub(MOST_MISTAKES);
        mistakes.truncate(MOST_MISTAKES);
        let at = mistakes.last().map_or(Position::START, |mistake| mistake.at);
        mistakes.push(Mistake::plain(at, format!("and {more} more mistakes after this one")));
    }
    Reading { config, mistakes }
}

/// Entries of a mapping without those whose key came before.
type Entries<'a> = Vec<(&'a Name, &'a Node)>;

#[derive(Debug, Default)]
struct Reader {
    mistakes: Vec<Mistake>,
}

impl Reader {
    fn document(&mut self, bytes: &[u8], syntax: Syntax) -> Config {
        let mut config = Config::default();
        if bytes.len() > MAX_BYTES {
            let problem = format!("the text has {} bytes", bytes.len());
            self.mistakes.push(Mistake::new(Position::START, problem, format!("at most {MAX_BYTES} are read")));
            return config;
        }
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let good = bytes.get(..error.valid_up_to()).and_then(|good| std::str::from_utf8(good).ok());
                let at = position_of(good.unwrap_or_default(), usize::MAX);
                self.mistakes.push(Mistake::plain(at, "a byte that is not UTF-8"));
                return config;
            }
        };
        let (root, mistakes) = match syntax {
            Syntax::Yaml => yaml::parse(text),
            Syntax::Json => json::parse(text),
        };
        self.mistakes.extend(mistakes);
        let Some(root) = root else { return config };
        for (name, node) in self.section(&root, "the file") {
            match name.text.as_str() {
                "defaults" => config.defaults = self.settings(node, Scope::Defaults),
                "setups" => config.setups = self.setups(node),
                _ => self.unknown(name, "at the top", &["defaults", "setups"]),
            }
        }
        config
    }

    /// The entries of a section. Nothing is an empty one: all keys may be commented out.
    fn section<'a>(&mut self, node: &'a Node, what: &str) -> Entries<'a> {
        let mut seen: BTreeMap<&str, Position> = BTreeMap::new();
        let mut out = Vec::new();
        match &node.content {
            Content::Nothing => {}
            Content::Mapping(entries) => {
                for (name, value) in entries {
                    if let Some(first) = seen.get(name.text.as_str()) {
                        let problem = format!("{} comes twice", quoted(&name.text));
                        let hint = format!("it stands in line {} already", first.line);
                        self.mistakes.push(Mistake::new(name.at, problem, hint));
                        continue;
                    }
                    seen.insert(&name.text, name.at);
                    out.push((name, value));
                }
            }
            Content::Plain(_) | Content::Text(_) | Content::List(_) => {
                let problem = format!("{} is not right here", found(node));
                self.mistakes.push(Mistake::new(node.at, problem, format!("{what} holds lines of KEY: VALUE")));
            }
        }
        out
    }

    fn setups(&mut self, node: &Node) -> BTreeMap<String, Section> {
        let mut out = BTreeMap::new();
        for (name, node) in self.section(node, "'setups'") {
            if check_name(&name.text).is_err() {
                let problem = format!("{} is not a name that a setup can have", quoted(&name.text));
                let hint = format!("write at most {MAX_NAME} of letters, digits, + _ . and -, no . or - first");
                self.mistakes.push(Mistake::new(name.at, problem, hint));
            }
            out.insert(name.text.clone(), self.settings(node, Scope::Anywhere));
        }
        out
    }

    /// The sections `scan`, `remap` and so on, below `defaults` or a setup.
    fn settings(&mut self, node: &Node, place: Scope) -> Section {
        let mut section = Section::default();
        let groups: Vec<&str> = GROUPS.iter().map(|(group, _)| *group).collect();
        for (name, node) in self.section(node, "a section") {
            if !groups.contains(&name.text.as_str()) {
                self.unknown(name, "here", &groups);
                continue;
            }
            let what = format!("'{}'", name.text);
            for (key, node) in self.section(node, &what) {
                self.key(&name.text, key, node, place, &mut section);
            }
        }
        self.check_section(&section);
        section
    }

    fn key(&mut self, group: &str, key: &Name, node: &Node, place: Scope, section: &mut Section) {
        let Some(spec) = KEYS.iter().find(|spec| spec.group == group && spec.name == key.text) else {
            let names: Vec<&str> = KEYS.iter().filter(|s| s.group == group).map(|s| s.name).collect();
            return self.unknown(key, &format!("in '{group}'"), &names);
        };
        if spec.scope == Scope::Defaults && place == Scope::Anywhere {
            let problem = format!("'{}' cannot be set for one setup", spec.path());
            return self.mistakes.push(Mistake::new(key.at, problem, "put it under 'defaults'"));
        }
        match spec.kind.read(node) {
            Ok(value) => {
                section.0.insert((spec.group, spec.name), Set { value, at: key.at });
            }
            Err((node, problem)) => {
                let problem = format!("{}: {problem}", spec.path());
                // An empty value has no place of its own that people would find.
                let at = if node.content == Content::Nothing { key.at } else { node.at };
                self.mistakes.push(Mistake::new(at, problem, format!("write {}", spec.kind)));
            }
        }
    }

    fn unknown(&mut self, name: &Name, place: &str, known: &[&str]) {
        let problem = format!("there is no key {} {place}", quoted(&name.text));
        self.mistakes.push(Mistake::new(name.at, problem, suggestion(&name.text, known)));
    }

    /// Keys of one section that do not go together.
    fn check_section(&mut self, section: &Section) {
        if let (Some(rate), Some(idle)) = (section.get(&SCAN_RATE.spec), section.get(&SCAN_IDLE.spec))
            && rate.value == Value::Rate(Rate::Max)
            && idle.value == Value::Switch(true)
        {
            let problem = "'scan.rate' is max and 'scan.idle' is true";
            let hint = "a scan gives way to nobody, or to everybody: leave one of them away";
            self.mistakes.push(Mistake::new(rate.at.max(idle.at), problem, hint));
        }
    }
}

/// What may have been meant by a key that there is not.
fn suggestion(name: &str, known: &[&str]) -> String {
    let near = known.iter().map(|key| (distance(name, key), *key)).min();
    if let Some((_, key)) = near.filter(|(distance, key)| *distance <= (key.len() / 3).max(1)) {
        return format!("did you mean '{key}'?");
    }
    let elsewhere: Vec<String> = KEYS.iter().filter(|s| s.name == name).map(|s: &&Spec| s.path()).collect();
    if !elsewhere.is_empty() {
        return format!("there is {}", elsewhere.join(", "));
    }
    if GROUPS.iter().any(|(group, _)| *group == name) {
        return "put it under 'defaults', or under a setup".into();
    }
    format!("there are {}", known.join(", "))
}

/// How many characters have to be put in, taken out, changed or swapped with their neighbour to make one word of another.
fn distance(a: &str, b: &str) -> usize {
    const LONGEST: usize = 40;
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_").chars().take(LONGEST).collect::<Vec<char>>();
    let (a, b) = (plain(a), plain(b));
    // Rows of the usual table; `before` is the row above the one above.
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i.saturating_add(1)];
        for (j, y) in b.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX - 1);
            let change = at(&above, j).saturating_add(usize::from(x != y));
            let mut best = change.min(at(&above, j + 1).saturating_add(1)).min(at(&row, j).saturating_add(1));
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if swapped {
                best = best.min(at(&before, j - 1).saturating_add(1));
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
