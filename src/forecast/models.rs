//! The models of growth. Each is given what was added on each day of the past, oldest first, and says how much it expects to have been
//! added by the end of each day to come.

use serde::{Deserialize, Serialize};

/// A model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// So much a day, as in the last 30 days.
    Linear,
    /// A constant share more every day, as a surface that wears out.
    Exponential,
    /// One rate until a point, another one since: what was passed then changed it.
    Threshold,
    /// Bursts: at regular times when there are such, such as scans that find things, else now and then.
    Pattern,
}

#[expect(clippy::cast_precision_loss, reason = "days, of which there are at most thousands")]
fn float(number: usize) -> f64 {
    number as f64
}

fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / float(values.len()) }
}

/// The last of the values.
fn tail(values: &[f64], count: usize) -> &[f64] {
    values.get(values.len().saturating_sub(count)..).unwrap_or_default()
}

/// Running sums of what is added on each day.
fn sums(days: usize, mut added: impl FnMut(usize) -> f64) -> Vec<f64> {
    let mut sum = 0.0;
    let step = |day| {
        sum += added(day);
        sum
    };
    (0..days).map(step).collect()
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] = [Kind::Linear, Kind::Exponential, Kind::Threshold, Kind::Pattern];

    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Linear => "linear",
            Kind::Exponential => "exponential",
            Kind::Threshold => "threshold",
            Kind::Pattern => "pattern",
        }
    }

    /// What is expected to have been added by the end of each of the next days.
    pub(super) fn foretell(self, past: &[f64], days: usize) -> Vec<f64> {
        match self {
            Kind::Linear => {
                let rate = mean(tail(past, 30));
                sums(days, |_| rate)
            }
            Kind::Exponential => exponential(past, days),
            Kind::Threshold => {
                let rate = rate_since_change(past);
                sums(days, |_| rate)
            }
            Kind::Pattern => pattern(past, days),
        }
    }
}

/// Quickest growth that is believed, a day: a doubling in a week.
const QUICKEST: f64 = 0.099;

/// Fits `rate * e^(growth * day)` to what was added in each seventh of the past, by least squares of the logarithms.
fn exponential(past: &[f64], days: usize) -> Vec<f64> {
    let width = (past.len() / 7).max(1);
    let points: Vec<(f64, f64)> = tail(past, width.saturating_mul(7))
        .chunks(width)
        .enumerate()
        .map(|(at, chunk)| ((float(at) + 0.5) * float(width), (mean(chunk) + 0.1).ln()))
        .collect();
    let times: Vec<f64> = points.iter().map(|(time, _)| *time).collect();
    let logs: Vec<f64> = points.iter().map(|(_, log)| *log).collect();
    let (time, log) = (mean(&times), mean(&logs));
    let spread: f64 = times.iter().map(|t| (t - time).powi(2)).sum();
    let slope: f64 = points.iter().map(|(t, l)| (t - time) * (l - log)).sum::<f64>() / spread.max(1.0);
    let growth = slope.clamp(-QUICKEST, QUICKEST);
    let now = float(width) * float(points.len());
    sums(days, |day| {
        let exponent = log + growth * (now + float(day) + 0.5 - time);
        (exponent.min(40.0).exp() - 0.1).max(0.0)
    })
}

/// The rate since the day at which the past is best cut in two: what each part then varies around its own mean is least.
fn rate_since_change(past: &[f64]) -> f64 {
    let total: f64 = past.iter().sum();
    let (mut before, mut best) = (0.0, (0.0, mean(past)));
    for (day, added) in past.iter().enumerate() {
        // What is explained by a cut before this day.
        let rest = past.len().saturating_sub(day);
        if day >= 3 && rest >= 3 {
            let after: f64 = total - before;
            let gain = before * before / float(day) + after * after / float(rest);
            if gain > best.0 {
                best = (gain, after / float(rest));
            }
        }
        before += added;
    }
    best.1
}

/// A period has to come round so often before it is believed.
const ROUNDS: usize = 3;

fn pattern(past: &[f64], days: usize) -> Vec<f64> {
    let average = mean(past);
    let variance: f64 = past.iter().map(|value| (value - average).powi(2)).sum();
    let alike = |period: usize| {
        let later = past.iter().skip(period);
        past.iter().zip(later).map(|(a, b)| (a - average) * (b - average)).sum::<f64>() / variance.max(1e-9)
    };
    let best = (2..=past.len() / ROUNDS).map(|period| (period, alike(period))).max_by(|a, b| a.1.total_cmp(&b.1));
    match best {
        // Of what is left of the past after a shift, a strong repetition.
        Some((period, alike)) if alike >= 0.4 => {
            let recent = tail(past, period.saturating_mul(ROUNDS));
            let rounds = float(recent.len()) / float(period);
            let phase = |day: usize| recent.iter().skip(day % period).step_by(period).sum::<f64>() / rounds;
            let profile: Vec<f64> = (0..period).map(phase).collect();
            sums(days, |day| profile.get(day % period).copied().unwrap_or(average))
        }
        // Bursts come as they come: on average over all that is known.
        _ => sums(days, |_| average),
    }
}
