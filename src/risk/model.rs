//! The model: boosted trees with few leaves, and their file. Pure.

use super::Risk;
use super::features::{Features, family};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// A place in a tree.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Node {
    /// A question: whether a feature is at most a number; what is not known goes the way that is said. Then the places to go on at.
    #[serde(rename = "q")]
    Ask(u8, f32, bool, u8, u8),
    /// The answer, added to the logarithm of the rate.
    #[serde(rename = "a")]
    Answer(f32),
}

/// A tree; it begins at the first node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tree(pub Vec<Node>);

impl Tree {
    /// Its answer; 0 for a tree that is not whole.
    pub fn answer(&self, features: &Features) -> f32 {
        let mut at = 0u8;
        // Each step goes on in the tree: no more steps than it has nodes.
        for _ in 0..=self.0.len() {
            match self.0.get(usize::from(at)) {
                Some(Node::Answer(value)) => return *value,
                Some(Node::Ask(feature, most, unknown, yes, no)) => {
                    let value = features.0.get(usize::from(*feature)).copied().unwrap_or(f32::NAN);
                    let goes_first = if value.is_nan() { *unknown } else { value <= *most };
                    at = if goes_first { *yes } else { *no };
                }
                None => return 0.0,
            }
        }
        0.0
    }
}

/// What is said of some days ahead.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Horizon {
    /// The days.
    pub days: u16,
    /// The share of all disks that failed within them.
    pub base_rate: f64,
    /// What the trees say is multiplied by this: less than 1 where they would say too much of what they have not seen.
    pub slope: f32,
    /// Logarithm of the failures per day, before any tree; it is multiplied with the rest.
    pub start: f32,
    /// Added in the end.
    pub offset: f32,
    /// The trees.
    pub trees: Vec<Tree>,
}

impl Horizon {
    /// The logarithm of the failures per day.
    pub fn log_rate(&self, features: &Features) -> f32 {
        let trees = self.trees.iter().map(|tree| tree.answer(features));
        trees.fold(self.start, |sum, answer| sum + answer) * self.slope + self.offset
    }

    /// The probability.
    pub fn probability(&self, features: &Features) -> f64 {
        -(-f64::from(self.log_rate(features)).exp() * f64::from(self.days)).exp_m1()
    }
}

/// The model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// SHA-256 of the list of drives that it was fitted on: what it says of those is no test of it.
    pub fitted_on: String,
    /// For each number of days ahead, the fewest first: of disks whose family is in the data.
    pub known: Vec<Horizon>,
    /// The same of other disks, without the family, and held back as judging families that were left out has shown to be right.
    pub elsewhere: Vec<Horizon>,
    /// How the models in the data have done: logarithm of the rate of failures, against that of all.
    pub priors: BTreeMap<String, f32>,
}

impl Model {
    /// The one that was fitted.
    pub fn built_in() -> Option<&'static Model> {
        static MODEL: LazyLock<Option<Model>> = LazyLock::new(|| serde_json::from_str(include_str!("model.json")).ok());
        MODEL.as_ref()
    }

    /// As the text of its file: a line for each tree, so that a difference can be looked at.
    pub fn to_text(&self) -> String {
        let text = serde_json::to_string(self).unwrap_or_default();
        text.replace("[[{", "[\n[{").replace(",[{", ",\n[{").replace("],\"", "],\n\"") + "\n"
    }

    /// How a model of disk has done; NaN for one that is not in the data.
    pub fn prior(&self, model: &str) -> f32 {
        self.priors.get(family(model)).copied().unwrap_or(f32::NAN)
    }

    /// What to ask about a disk.
    pub fn horizons(&self, features: &Features) -> &[Horizon] {
        if features.has_prior() { &self.known } else { &self.elsewhere }
    }

    /// The risks. More days are never less likely.
    pub fn risks(&self, features: &Features) -> Vec<Risk> {
        let mut least = 0.0f64;
        let risk = |horizon: &Horizon| {
            least = least.max(horizon.probability(features));
            Risk { days: horizon.days, probability: least, base_rate: horizon.base_rate }
        };
        self.horizons(features).iter().map(risk).collect()
    }
}
