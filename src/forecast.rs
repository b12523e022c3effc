//! How long the spares will last: several models of how what is moved grows, tried on the past, and combined by how well each would
//! have foretold it.
//!
//! Each model is asked, at a number of days in the past, for the growth of the days that followed; what it was wrong by is its
//! error. The forecast is the mean of the models' forecasts, weighted by the inverse squares of their errors; the interval comes from what
//! the combined forecast was wrong by in the past. The method is prequential validation (A. P. Dawid, 1984) with weights as in J. M. Bates and
//! C. W. J. Granger, "The combination of forecasts", 1969.
//!
//! Invariants:
//! - it says no more than the past tells: nothing from less than two weeks, no time without growth, never a date;
//! - a model is judged by what it foretold from what was known then, never by how well it fits;
//! - the same past gives the same forecast.

mod models;

pub use models::Kind;

use crate::units::Sectors;
use serde::{Deserialize, Serialize};

const DAY: u64 = 86_400;

/// The least past that a forecast is made from, in days.
const LEAST: usize = 14;

/// The longest past that is looked at, in days.
const MOST: usize = 365;

/// How far it looks ahead, in days: ten years.
const FAR: usize = 3650;

/// At how many days of the past the models are tried.
const TRIALS: usize = 24;

/// What is to be expected of the room on the spares.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outlook", rename_all = "snake_case")]
pub enum Foresight {
    /// There is no room left.
    Exhausted,
    /// Too little is known of the past.
    TooEarly,
    /// Nothing has grown in so many days.
    Steady {
        /// The days.
        days: usize,
    },
    /// It becomes less.
    Growing(Growth),
}

/// How the room becomes less.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Growth {
    /// Days of the past that it is taken from.
    pub days: usize,
    /// Sectors that the next 30 days are expected to need.
    pub next_30_days: f64,
    /// Days until no room is left: what is expected; nothing when that is more than ten years.
    pub expected: Option<usize>,
    /// In nine of ten cases it lasts at least so many days.
    pub at_least: Option<usize>,
    /// In nine of ten cases it lasts at most so many.
    pub at_most: Option<usize>,
    /// The models, the one that would have foretold the past best first.
    pub models: Vec<Tried>,
}

/// How a model did on the past.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// Which.
    pub model: Kind,
    /// What it was wrong by, on average, against what happened: 1 is as much as there was.
    pub error: f64,
    /// Its share in the forecast, 0 to 1.
    pub weight: f64,
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of sectors and days, of which an estimate needs no more than 52 bits"
)]
fn float(number: u64) -> f64 {
    number as f64
}

/// Sectors that each day has added, up to yesterday's end by the hour of `now`; oldest first. What was moved back counts as nothing.
fn daily(past: &[(u64, Sectors)], now: u64) -> Vec<f64> {
    let Some((first, _)) = past.first() else { return Vec::new() };
    let days = usize::try_from(now.saturating_sub(*first) / DAY).unwrap_or(MOST).min(MOST);
    let used_at = |time: u64| {
        let after = past.partition_point(|(seen, _)| *seen <= time);
        past.get(after.saturating_sub(1)).map_or(0, |(_, used)| used.0)
    };
    let ago = |days: u64| used_at(now.saturating_sub(days.saturating_mul(DAY)));
    let days = u64::try_from(days).unwrap_or(0);
    (0..days).rev().map(|day| float(ago(day).saturating_sub(ago(day.saturating_add(1))))).collect()
}

/// Foretells how long `free` sectors last. `past` is what lived on spares at a time (seconds since 1970), oldest first, none later than
/// `now`.
pub fn foresee(past: &[(u64, Sectors)], free: Sectors, now: u64) -> Foresight {
    if free == Sectors::ZERO {
        return Foresight::Exhausted;
    }
    let daily = daily(past, now);
    if daily.len() < LEAST {
        return Foresight::TooEarly;
    }
    if daily.iter().sum::<f64>() <= 0.0 {
        return Foresight::Steady { days: daily.len() };
    }
    let trials = trials(&daily);
    let models = weigh(&trials);
    let sums = combined(&daily, &models, FAR);
    let (low, high) = spread(&trials, &models);
    let until = |share: f64| {
        let left = float(free.0);
        sums.iter().position(|sum| sum * share >= left).map(|day| day.saturating_add(1))
    };
    Foresight::Growing(Growth {
        days: daily.len(),
        next_30_days: sums.get(29).copied().unwrap_or(0.0),
        expected: until(1.0),
        at_least: until(widened(high)),
        at_most: until(1.0 / widened(1.0 / low)),
        models,
    })
}

/// No interval is narrower than half again, however well the past was foretold: the past is short.
fn widened(ratio: f64) -> f64 {
    ratio.max(1.5)
}

/// What each model foretold at a day of the past for the days that followed, and what happened.
struct Trial {
    foretold: [f64; Kind::ALL.len()],
    happened: f64,
}

/// Tries the models on the past.
fn trials(daily: &[f64]) -> Vec<Trial> {
    let span = (daily.len() / 4).clamp(3, 30);
    let first = (daily.len() / 3).max(7);
    let last = daily.len().saturating_sub(span);
    let count = last.saturating_sub(first).saturating_add(1).min(TRIALS);
    let trial = |nth: usize| {
        let step = last.saturating_sub(first).saturating_mul(nth) / count.saturating_sub(1).max(1);
        let (known, later) = daily.split_at_checked(first.saturating_add(step).min(last))?;
        let foretold = Kind::ALL.map(|kind| kind.foretell(known, span).last().copied().unwrap_or(0.0));
        Some(Trial { foretold, happened: later.iter().take(span).sum() })
    };
    (0..count).filter_map(trial).collect()
}

/// The models by how well they did, with their shares.
fn weigh(trials: &[Trial]) -> Vec<Tried> {
    let happened: f64 = trials.iter().map(|trial| trial.happened).sum();
    let error = |at: usize| {
        let wrong = trials.iter().map(|t| (t.foretold.get(at).copied().unwrap_or(0.0) - t.happened).abs());
        wrong.sum::<f64>() / (happened + 1.0)
    };
    let mut models: Vec<Tried> =
        Kind::ALL.into_iter().enumerate().map(|(at, model)| Tried { model, error: error(at), weight: 0.0 }).collect();
    let inverse = |tried: &Tried| 1.0 / (tried.error + 0.05).powi(2);
    let sum: f64 = models.iter().map(inverse).sum();
    models.iter_mut().for_each(|tried| tried.weight = inverse(tried) / sum);
    models.sort_by(|a, b| a.error.total_cmp(&b.error));
    models
}

/// What the models together expect to have been added by the end of each day.
fn combined(daily: &[f64], models: &[Tried], days: usize) -> Vec<f64> {
    let mut sums = vec![0.0; days];
    for tried in models {
        for (sum, expected) in sums.iter_mut().zip(tried.model.foretell(daily, days)) {
            *sum += tried.weight * expected;
        }
    }
    sums
}

/// Between which multiples of what was foretold things were, in eight of ten trials.
fn spread(trials: &[Trial], models: &[Tried]) -> (f64, f64) {
    let weight = |kind: Kind| models.iter().find(|tried| tried.model == kind).map_or(0.0, |tried| tried.weight);
    let foretold = |trial: &Trial| {
        Kind::ALL.into_iter().zip(trial.foretold).map(|(kind, value)| weight(kind) * value).sum::<f64>()
    };
    // One sector on both sides: nothing foretold and nothing seen is right.
    let mut ratios: Vec<f64> = trials.iter().map(|trial| (trial.happened + 1.0) / (foretold(trial) + 1.0)).collect();
    ratios.sort_by(f64::total_cmp);
    let last = ratios.len().saturating_sub(1);
    let at = |index: usize| ratios.get(index).copied().unwrap_or(1.0);
    (at(last / 10), at(last.saturating_sub(last / 10)))
}

impl Foresight {
    /// For people; nothing where there is nothing to say.
    pub fn words(&self) -> Option<String> {
        match self {
            Foresight::Exhausted => Some("no room is left".into()),
            Foresight::TooEarly => None,
            Foresight::Steady { days } => Some(format!("nothing was moved in {days} days")),
            Foresight::Growing(growth) => Some(growth.words()),
        }
    }
}

impl Foresight {
    /// Days that the room lasts at least, by the near end of the interval; nothing when that is more than ten years away or not known.
    pub fn least_days(&self) -> Option<u64> {
        match self {
            Foresight::Exhausted => Some(0),
            Foresight::TooEarly | Foresight::Steady { .. } => None,
            Foresight::Growing(growth) => growth.at_least.and_then(|days| u64::try_from(days).ok()),
        }
    }
}

impl Growth {
    /// How long the room lasts, for people.
    pub fn words(&self) -> String {
        let best = self.models.first().map_or("", |tried| tried.model.word());
        format!(
            "the room {}, at {:.0} sectors in the next 30 days; growth of {} days, most like '{best}'",
            self.span_words(),
            self.next_30_days,
            self.days
        )
    }

    /// The same in short.
    pub fn span_words(&self) -> String {
        match (self.expected, self.at_least, self.at_most) {
            (None, Some(least), _) => format!("lasts for more than ten years, perhaps only {least} days"),
            (Some(expected), Some(least), most) => {
                let most = most.map_or("ten years or more".to_string(), |days| format!("{days}"));
                format!("lasts for about {expected} days (80 %: {least} to {most})")
            }
            (None, None, _) | (Some(_), None, _) => "lasts for more than ten years".to_string(),
        }
    }

    /// Sectors a day, on average over the next 30, rounded up.
    pub fn sectors_per_day(&self) -> u64 {
        // By way of its decimal form: no conversion of ours can then be out of range.
        format!("{:.0}", (self.next_30_days / 30.0).ceil()).parse().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
