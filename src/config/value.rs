//! What a key can be, and what it is.

use super::rate::Rate;
use super::tree::{Content, Node, quoted};
use serde::{Serialize, Serializer};
use std::fmt;
use std::time::Duration;

/// A value of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing is said.
    Unset,
    /// Yes or no.
    Switch(bool),
    /// A number.
    Integer(u64),
    /// A span of time.
    Time(Duration),
    /// Bytes a second.
    Rate(Rate),
    /// One of some words.
    Word(&'static str),
    /// Some of some words.
    Words(Vec<&'static str>),
    /// Any text.
    Text(String),
}

impl fmt::Display for Value {
    /// As it stands in a file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Unset => f.write_str("-"),
            Value::Switch(on) => write!(f, "{on}"),
            Value::Integer(number) => write!(f, "{number}"),
            Value::Time(time) => write!(f, "{}", humantime::format_duration(*time)),
            Value::Rate(rate) => write!(f, "{rate}"),
            Value::Word(word) => f.write_str(word),
            Value::Words(words) => write!(f, "[{}]", words.join(", ")),
            Value::Text(text) => f.write_str(text),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Unset => serializer.serialize_none(),
            Value::Switch(on) => serializer.serialize_bool(*on),
            Value::Integer(number) => serializer.serialize_u64(*number),
            Value::Words(words) => words.serialize(serializer),
            other => serializer.serialize_str(&other.to_string()),
        }
    }
}

/// Which values a key can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Switch,
    /// A whole number, both ends included.
    Integer(u64, u64),
    /// A span of time, both ends included.
    Time(Duration, Duration),
    /// Bytes a second.
    Rate,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A list of these words.
    Words(&'static [&'static str]),
    /// An absolute path.
    Path,
    /// A mail address.
    Mail,
}

impl fmt::Display for Kind {
    /// What would be right, in words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = humantime::format_duration;
        match self {
            Kind::Switch => f.write_str("true or false"),
            Kind::Integer(least, most) => write!(f, "a whole number from {least} to {most}"),
            Kind::Time(least, most) => {
                write!(f, "a time from {} to {}, such as 90s, 30m or 24h", time(*least), time(*most))
            }
            Kind::Rate => f.write_str("bytes a second, at least 64K, such as 500K, 20M or 1G; or max"),
            Kind::Word(words) => write!(f, "one of {}", words.join(", ")),
            Kind::Words(words) => write!(f, "a list of some of {}", words.join(", ")),
            Kind::Path => f.write_str("an absolute path, such as /usr/local/sbin/program"),
            Kind::Mail => f.write_str("a mail address, such as root@localhost"),
        }
    }
}

impl Kind {
    /// Reads a value.
    ///
    /// # Errors
    /// The node that is wrong, and what is wrong with it.
    pub(super) fn read<'a>(&self, node: &'a Node) -> Result<Value, (&'a Node, String)> {
        let wrong = |node: &'a Node| Err((node, format!("{} is not right here", found(node))));
        match (self, &node.content) {
            (_, Content::Nothing) => Err((node, "there is no value".into())),
            (Kind::Switch, Content::Plain(word)) => match word.as_str() {
                "true" | "True" | "TRUE" => Ok(Value::Switch(true)),
                "false" | "False" | "FALSE" => Ok(Value::Switch(false)),
                _ => wrong(node),
            },
            (Kind::Integer(least, most), Content::Plain(word)) => {
                // A number with a sign, a point or an exponent is another one than people mean.
                if word.is_empty() || !word.bytes().all(|b| b.is_ascii_digit()) {
                    return wrong(node);
                }
                match word.parse() {
                    Ok(number) if (*least..=*most).contains(&number) => Ok(Value::Integer(number)),
                    Ok(number) if number < *least => Err((node, format!("{} is too small", quoted(word)))),
                    _ => Err((node, format!("{} is too large", quoted(word)))),
                }
            }
            (Kind::Words(words), Content::List(nodes)) => {
                let mut out = Vec::new();
                for node in nodes {
                    let word = text(node).and_then(|word| words.iter().copied().find(|w| *w == word));
                    match word {
                        Some(word) if out.contains(&word) => return Err((node, format!("'{word}' comes twice"))),
                        Some(word) => out.push(word),
                        None => return wrong(node),
                    }
                }
                Ok(Value::Words(out))
            }
            (kind, _) => match text(node) {
                Some(text) => kind.read_text(text).map_or_else(|what| what.map_or(wrong(node), |w| Err((node, w))), Ok),
                None => wrong(node),
            },
        }
    }

    /// Reads a value that may be quoted or not; what is wrong, where that is more than "not of this kind".
    fn read_text(&self, text: &str) -> Result<Value, Option<String>> {
        match self {
            Kind::Time(least, most) => {
                let time = humantime::parse_duration(text).map_err(|_| None)?;
                match () {
                    () if time < *least => Err(Some(format!("{} is too short", quoted(text)))),
                    () if time > *most => Err(Some(format!("{} is too long", quoted(text)))),
                    () => Ok(Value::Time(time)),
                }
            }
            Kind::Rate => text.parse().map(Value::Rate).map_err(|_| None),
            Kind::Word(words) => words.iter().find(|w| **w == text).map(|w| Value::Word(w)).ok_or(None),
            Kind::Path if is_path(text) => Ok(Value::Text(text.to_string())),
            Kind::Mail if is_mail(text) => Ok(Value::Text(text.to_string())),
            Kind::Path | Kind::Mail | Kind::Switch | Kind::Integer(..) | Kind::Words(_) => Err(None),
        }
    }
}

fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.len() <= 4095 && !text.chars().any(char::is_control)
}

fn is_mail(text: &str) -> bool {
    // It becomes an argument of a mail program: nothing that could be taken for an option, or for two addresses.
    let fine = |c: char| c.is_alphanumeric() || "@.!#$%&'*+/=?^_`{|}~-".contains(c);
    let (user, host) = text.split_once('@').unwrap_or((text, "localhost"));
    let names = !user.is_empty() && !host.is_empty() && !host.contains('@');
    names && text.len() <= 254 && !text.starts_with('-') && text.chars().all(fine)
}

fn text(node: &Node) -> Option<&str> {
    match &node.content {
        Content::Plain(text) | Content::Text(text) => Some(text),
        Content::Nothing | Content::List(_) | Content::Mapping(_) => None,
    }
}

/// What stands there, in words.
pub(super) fn found(node: &Node) -> String {
    match &node.content {
        Content::Nothing => "nothing".into(),
        Content::Plain(text) => quoted(text),
        Content::Text(text) => format!("the text {}", quoted(text)),
        Content::List(_) => "a list".into(),
        Content::Mapping(_) => "a section".into(),
    }
}

/// Where a key may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Under `defaults`, and in the sections of setups.
    Anywhere,
    /// Under `defaults` only: it concerns a run, which may be about many setups.
    Defaults,
}

/// All there is to know of a key.
#[derive(Debug)]
pub struct Spec {
    /// The section it stands in.
    pub group: &'static str,
    /// Its name there.
    pub name: &'static str,
    /// Which values it can have.
    pub kind: Kind,
    /// The value without configuration.
    pub default: Value,
    /// Where it may stand.
    pub scope: Scope,
    /// The commands that go by it; none when this version has no such command.
    pub used_by: &'static [&'static str],
    /// What it means.
    pub doc: &'static str,
}

impl Spec {
    /// Section and name.
    pub fn path(&self) -> String {
        format!("{}.{}", self.group, self.name)
    }
}

/// A key whose values are a `T`.
#[derive(Debug)]
pub struct Key<T: 'static> {
    /// All there is to know of it.
    pub spec: Spec,
    /// Its value as a `T`.
    pub(super) take: fn(&Value) -> Option<T>,
    /// The value without configuration.
    pub(super) default: T,
}
