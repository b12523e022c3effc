//! What is in force, and where it comes from.

use super::keys::KEYS;
use super::tree::Position;
use super::value::{Key, Spec, Value};
use serde::Serialize;
use std::collections::BTreeMap;

/// A value, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// What it is.
    pub value: Value,
    /// Where it stands in the file.
    pub at: Position,
}

/// The keys that a section of a configuration sets, by section and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section(pub(super) BTreeMap<(&'static str, &'static str), Set>);

impl Section {
    /// What a key is set to here, if it is.
    pub fn get(&self, spec: &Spec) -> Option<&Set> {
        self.0.get(&(spec.group, spec.name))
    }
}

/// A configuration without mistakes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// What holds for all setups.
    pub defaults: Section,
    /// What holds for one setup, by its name.
    pub setups: BTreeMap<String, Section>,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Source {
    /// This program.
    Builtin,
    /// The section `defaults`.
    Defaults {
        /// Its place in the file.
        #[serde(flatten)]
        at: Position,
    },
    /// The setup's own section.
    Setup {
        /// Its place in the file.
        #[serde(flatten)]
        at: Position,
    },
    /// The setup's metadata.
    Stored,
}

/// A choice that a setup's metadata store.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Of which key.
    pub spec: &'static Spec,
    /// What it is.
    pub value: Value,
    /// Whether it holds whatever a file says: the file was for the setup's creation.
    pub firm: bool,
}

/// What is in force for one setup, or for none.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    config: &'a Config,
    own: Option<&'a Section>,
}

impl Config {
    /// What is in force for the setup `name`; without a name, where no setup is meant.
    pub fn settings(&self, name: Option<&str>) -> Settings<'_> {
        Settings { config: self, own: name.and_then(|name| self.setups.get(name)) }
    }
}

impl Settings<'_> {
    /// A value and where it comes from.
    pub fn find(&self, spec: &Spec) -> (Value, Source) {
        if let Some(set) = self.own.and_then(|section| section.get(spec)) {
            return (set.value.clone(), Source::Setup { at: set.at });
        }
        match self.config.defaults.get(spec) {
            Some(set) => (set.value.clone(), Source::Defaults { at: set.at }),
            None => (spec.default.clone(), Source::Builtin),
        }
    }

    /// A value: the setup's, else that under `defaults`, else the built-in one.
    pub fn get<T: Clone>(&self, key: &Key<T>) -> T {
        (key.take)(&self.find(&key.spec).0).unwrap_or_else(|| key.default.clone())
    }

    /// A value that stands in the setup's own section.
    pub fn own<T>(&self, key: &Key<T>) -> Option<T> {
        self.own.and_then(|section| section.get(&key.spec)).and_then(|set| (key.take)(&set.value))
    }

    /// All keys with their values and sources, in the table's order. What the setup's metadata store goes between its
    /// own section and `defaults`.
    pub fn all(&self, stored: &[Stored]) -> Vec<(&'static Spec, Value, Source)> {
        let one = |spec: &'static Spec| {
            let (value, source) = self.find(spec);
            match stored.iter().find(|kept| kept.spec.path() == spec.path()) {
                Some(kept) if kept.firm || !matches!(source, Source::Setup { .. }) => {
                    (spec, kept.value.clone(), Source::Stored)
                }
                _ => (spec, value, source),
            }
        };
        KEYS.iter().map(|spec| one(spec)).collect()
    }
}
