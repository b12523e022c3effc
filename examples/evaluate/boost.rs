//! Boosted trees: each is fitted to what those before it got wrong, by the first and second derivatives of the loss: that of a Poisson
//! model, whose answer is the logarithm of a rate per day.
//!
//! Source: J. Friedman, "Greedy function approximation: a gradient boosting machine", 2001; the gain and the weight of a leaf as in T.
//! Chen and C. Guestrin, "XGBoost: a scalable tree boosting system", 2016, section 2.2.

use dm_remap::risk::{FEATURES, Features, Node, Tree};

/// How trees are grown.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub trees: usize,
    pub depth: usize,
    /// How much of a tree's answer is taken.
    pub rate: f64,
    /// What holds the answers of small leaves back.
    pub ridge: f64,
    /// The least that is in a leaf: of what was expected of it (the second derivatives), or of what happened. The few with a high risk
    /// are not expected at first.
    pub least: f64,
}

/// What is learnt from.
pub struct Sample {
    pub features: Features,
    pub happened: bool,
    /// How many drive-days it stands for.
    pub weight: f64,
    /// How many days after it were seen, up to the horizon.
    pub exposure: f64,
}

/// Most thresholds of a feature.
const CUTS: usize = 48;

/// The samples, by the thresholds that their features lie between: 0 for what is not known.
struct Binned {
    cuts: Vec<Vec<f32>>,
    /// One after the other, [`FEATURES`] of each.
    bins: Vec<u8>,
}

fn bin(samples: &[Sample]) -> Binned {
    let cuts: Vec<Vec<f32>> = (0..FEATURES).map(|feature| cuts_of(samples, feature)).collect();
    let mut bins = Vec::with_capacity(samples.len() * FEATURES);
    for sample in samples {
        for (feature, value) in sample.features.0.iter().enumerate() {
            let bin = if value.is_nan() { 0 } else { 1 + cuts[feature].partition_point(|cut| cut < value) };
            bins.push(bin as u8);
        }
    }
    Binned { cuts, bins }
}

/// Thresholds: between different values, with about the same number of samples between them; rare values count more, because what
/// matters is rare.
fn cuts_of(samples: &[Sample], feature: usize) -> Vec<f32> {
    let mut values: Vec<f32> =
        samples.iter().map(|sample| sample.features.0[feature]).filter(|v| !v.is_nan()).collect();
    values.sort_by(f32::total_cmp);
    let mut counts: Vec<(f32, f64)> = Vec::new();
    for value in values {
        match counts.last_mut() {
            Some((last, count)) if *last == value => *count += 1.0,
            _ => counts.push((value, 1.0)),
        }
    }
    if counts.len() <= CUTS {
        return counts.iter().take(counts.len().saturating_sub(1)).map(|(value, _)| *value).collect();
    }
    let total: f64 = counts.iter().map(|(_, count)| count.sqrt()).sum();
    let (mut cuts, mut sum) = (Vec::new(), 0.0);
    for (value, count) in &counts[..counts.len() - 1] {
        sum += count.sqrt();
        if sum >= total * (cuts.len() + 1) as f64 / (CUTS + 1) as f64 {
            cuts.push(*value);
        }
    }
    cuts.truncate(CUTS);
    cuts
}

/// A model is a file for people, too: four digits are enough.
fn round(value: f64) -> f32 {
    ((value * 10_000.0).round() / 10_000.0) as f32
}

/// Sums of the derivatives.
#[derive(Clone, Copy, Default)]
struct Sums {
    gradient: f64,
    curvature: f64,
    happened: f64,
}

impl Sums {
    fn plus(self, other: Sums) -> Sums {
        Sums {
            gradient: self.gradient + other.gradient,
            curvature: self.curvature + other.curvature,
            happened: self.happened + other.happened,
        }
    }
    fn minus(self, other: Sums) -> Sums {
        Sums {
            gradient: self.gradient - other.gradient,
            curvature: self.curvature - other.curvature,
            happened: self.happened - other.happened,
        }
    }
    fn size(self) -> f64 {
        self.curvature.max(self.happened)
    }
    fn gain(self, ridge: f64) -> f64 {
        self.gradient * self.gradient / (self.curvature + ridge)
    }
}

struct Split {
    gain: f64,
    feature: usize,
    /// The last bin that goes the first way.
    bin: usize,
    unknown_first: bool,
}

fn best_split(binned: &Binned, members: &[u32], sums: &[Sums], settings: &Settings) -> Option<Split> {
    let mut table = vec![Sums::default(); FEATURES * (CUTS + 2)];
    let mut total = Sums::default();
    for member in members {
        let at = *member as usize;
        total = total.plus(sums[at]);
        let row = &binned.bins[at * FEATURES..(at + 1) * FEATURES];
        for (feature, bin) in row.iter().enumerate() {
            let cell = &mut table[feature * (CUTS + 2) + usize::from(*bin)];
            *cell = cell.plus(sums[at]);
        }
    }
    let mut best: Option<Split> = None;
    for feature in 0..FEATURES {
        let row = &table[feature * (CUTS + 2)..(feature + 1) * (CUTS + 2)];
        let unknown = row[0];
        let mut known = Sums::default();
        for (bin, sums) in row.iter().enumerate().take(binned.cuts[feature].len() + 1).skip(1) {
            known = known.plus(*sums);
            for unknown_first in [false, true] {
                let first = if unknown_first { known.plus(unknown) } else { known };
                let second = total.minus(first);
                if first.size() < settings.least || second.size() < settings.least {
                    continue;
                }
                let gain = first.gain(settings.ridge) + second.gain(settings.ridge) - total.gain(settings.ridge);
                if gain > best.as_ref().map_or(1e-6, |split| split.gain) {
                    best = Some(Split { gain, feature, bin, unknown_first });
                }
            }
        }
    }
    best
}

struct Grower<'a> {
    binned: &'a Binned,
    sums: &'a [Sums],
    settings: &'a Settings,
    nodes: Vec<Node>,
    scores: &'a mut [f64],
}

impl Grower<'_> {
    fn grow(&mut self, members: Vec<u32>, depth: usize) -> u8 {
        let here = self.nodes.len();
        let split = if depth == 0 { None } else { best_split(self.binned, &members, self.sums, self.settings) };
        let Some(split) = split else {
            let total = members.iter().fold(Sums::default(), |sum, m| sum.plus(self.sums[*m as usize]));
            // No leaf may say more than that, however little is in it.
            let answer = (-total.gradient / (total.curvature + self.settings.ridge)).clamp(-10.0, 10.0);
            let answer = round(self.settings.rate * answer);
            self.nodes.push(Node::Answer(answer));
            members.iter().for_each(|member| self.scores[*member as usize] += f64::from(answer));
            return here as u8;
        };
        self.nodes.push(Node::Answer(0.0));
        let goes_first = |member: &u32| {
            let bin = usize::from(self.binned.bins[*member as usize * FEATURES + split.feature]);
            if bin == 0 { split.unknown_first } else { bin <= split.bin }
        };
        let (first, second): (Vec<u32>, Vec<u32>) = members.into_iter().partition(goes_first);
        let yes = self.grow(first, depth - 1);
        let no = self.grow(second, depth - 1);
        let cut = self.binned.cuts[split.feature][split.bin - 1];
        self.nodes[here] = Node::Ask(split.feature as u8, cut, split.unknown_first, yes, no);
        here as u8
    }
}

/// Fits trees; the logarithm of the rate to start from, and the trees.
pub fn fit(samples: &[Sample], settings: &Settings) -> (f32, Vec<Tree>) {
    let happened: f64 = samples.iter().filter(|s| s.happened).map(|s| s.weight).sum();
    let exposure: f64 = samples.iter().map(|sample| sample.weight * sample.exposure).sum();
    let start = round((happened / exposure).max(1e-12).ln());
    let binned = bin(samples);
    let mut scores = vec![f64::from(start); samples.len()];
    let mut trees = Vec::new();
    for _ in 0..settings.trees {
        let sums: Vec<Sums> = samples
            .iter()
            .zip(&scores)
            .map(|(sample, score)| {
                let p = score.exp() * sample.exposure;
                let y = if sample.happened { 1.0 } else { 0.0 };
                Sums { gradient: sample.weight * (p - y), curvature: sample.weight * p, happened: sample.weight * y }
            })
            .collect();
        let mut grower = Grower { binned: &binned, sums: &sums, settings, nodes: Vec::new(), scores: &mut scores };
        grower.grow((0..samples.len() as u32).collect(), settings.depth);
        trees.push(Tree(grower.nodes));
    }
    (start, trees)
}
