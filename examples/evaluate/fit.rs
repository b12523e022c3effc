//! From drives to a model: which days of which drives are learnt from, and what is learnt.
//!
//! What is fitted is a rate of failures per day: of each day that is learnt from, the failure or not within the horizon, and the time
//! that was observed of it (a Poisson model of the count with the time as its offset). A drive that leaves in between counts as long
//! as it was seen, and is no survivor for it.

use crate::boost::{Sample, Settings, fit};
use crate::data::{DAY, Drive, YEAR};
use dm_remap::risk::{Features, Horizon, Model, family};
use std::collections::BTreeMap;

/// The days ahead that are spoken of.
pub const HORIZONS: [u16; 4] = [2, 7, 30, 365];

/// A family of models needs so many drive-years for a word on it.
const FAMILY_YEARS: f64 = 20.0;

/// A family's own rate counts half when so many failures were to be expected of it.
const FAMILY_FAILURES: f64 = 2.0;

/// A number that depends on the drive alone, and differs between uses.
pub fn lot(id: u64, salt: u64) -> u64 {
    let mut x = (id ^ salt.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x ^= x >> 29;
    x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x >> 33
}

/// Whether a drive has been seen to fail by a time.
fn failed_by(drive: &Drive, time: u64) -> bool {
    drive.failed && drive.until <= time
}

/// Logarithms of how the families did up to a time, against all.
pub fn priors(drives: &[&Drive], until: u64) -> BTreeMap<String, f32> {
    let mut sums: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for drive in drives.iter().filter(|drive| drive.from < until) {
        let sum = sums.entry(family(&drive.model)).or_default();
        sum.0 += f64::from(u8::from(failed_by(drive, until)));
        sum.1 += (drive.until.min(until) - drive.from) as f64 / YEAR;
    }
    let failures: f64 = sums.values().map(|(failures, _)| failures).sum();
    let years: f64 = sums.values().map(|(_, years)| years).sum();
    let rate = (failures / years).max(1e-9);
    let known = sums.into_iter().filter(|(_, (_, years))| *years >= FAMILY_YEARS);
    let prior = |failures: f64, years: f64| ((failures + FAMILY_FAILURES) / (years * rate + FAMILY_FAILURES)).ln();
    // Two digits: it is a file for people, too.
    known
        .map(|(name, (failures, years))| (name.to_string(), ((prior(failures, years) * 100.0).round() / 100.0) as f32))
        .collect()
}

/// The times at which a drive is looked at, and how many days each stands for: when anything changed, now and then, and every day before
/// it failed.
fn times(drive: &Drive) -> Vec<(u64, f64)> {
    let signs = drive.failed || drive.readings.last().is_some_and(|last| last.has_signs());
    let step = DAY * if signs { 10 } else { 35 };
    let mut times: Vec<u64> = Vec::new();
    let mut time = drive.from + lot(drive.id, 1) % step;
    while time < drive.until {
        times.push(time);
        time += step;
    }
    times.extend(
        drive.readings.iter().map(|reading| reading.time).filter(|time| (drive.from..drive.until).contains(time)),
    );
    if drive.failed {
        let before = (0..35).map(|days| drive.until.saturating_sub(days * DAY + DAY / 2));
        times.extend(before.filter(|time| *time >= drive.from));
    }
    times.sort_unstable();
    times.dedup();
    let ends = times.iter().skip(1).copied().chain([drive.until]);
    times.iter().copied().zip(ends).map(|(time, end)| (time, (end - time) as f64 / DAY as f64)).collect()
}

/// What there is to learn about a horizon, from what was known at `until`.
fn samples(drives: &[&Drive], priors: &BTreeMap<String, f32>, until: u64, days: u16) -> Vec<Sample> {
    let mut out = Vec::new();
    for drive in drives.iter().filter(|drive| drive.from < until) {
        let prior = priors.get(family(&drive.model)).copied().unwrap_or(f32::NAN);
        for (time, weight) in times(drive).into_iter().filter(|(time, _)| *time < until) {
            let Some(readings) = drive.known_at(time) else { continue };
            let end = time + u64::from(days) * DAY;
            let exposure = (end.min(until).min(drive.until) - time) as f64 / DAY as f64;
            out.push(Sample {
                features: Features::at(&drive.model, prior, readings, time),
                happened: failed_by(drive, until) && drive.until <= end,
                weight,
                exposure: exposure.max(0.25),
            });
        }
    }
    out
}

/// How the trees of a horizon are grown. A failure is in as many days as the horizon has, which are one failure all the same.
fn settings(days: u16) -> Settings {
    let failures = f64::from(days);
    Settings {
        trees: if days < 30 { 50 } else { 100 },
        depth: 3,
        rate: 0.15,
        ridge: 3.0 * failures,
        least: 8.0 * failures,
    }
}

/// What the trees of all horizons say, from what was known at `until` about the drives. Without priors, of disks whose family is not
/// known.
pub fn horizons(drives: &[&Drive], priors: &BTreeMap<String, f32>, until: u64, horizons: &[u16]) -> Vec<Horizon> {
    let horizon = |days: &u16| {
        let samples = samples(drives, priors, until, *days);
        let (start, trees) = fit(&samples, &settings(*days));
        // Of the days on which all of the horizon was seen, or the failure.
        let whole = samples.iter().filter(|s| s.happened || s.exposure >= f64::from(*days));
        let (mut failed, mut all) = (0.0, 0.0);
        for sample in whole {
            all += sample.weight;
            failed += if sample.happened { sample.weight } else { 0.0 };
        }
        Horizon { days: *days, base_rate: round(failed / all), slope: 1.0, start, offset: 0.0, trees }
    };
    horizons.iter().map(horizon).collect()
}

/// A model that knows the families of the drives, from what was known at `until` about them. The same trees judge drives
/// of other families, without a record of the family.
pub fn model(drives: &[&Drive], until: u64, days: &[u16]) -> Model {
    let priors = priors(drives, until);
    let known = horizons(drives, &priors, until, days);
    Model { elsewhere: known.clone(), known, priors, ..Model::default() }
}

/// What trees said of families that they had not seen, and what came of it: by how much they have to be held back is learnt from it.
#[derive(Clone, Debug, Default)]
pub struct Said(Vec<(f64, f64, f64)>);

impl Said {
    /// By trees of a horizon, of drives that they have not seen.
    pub fn of(drives: &[&Drive], horizon: &Horizon) -> Said {
        let samples = samples(drives, &BTreeMap::new(), u64::MAX / 4, horizon.days);
        let one = |sample: &Sample| {
            let log_rate = f64::from(horizon.log_rate(&sample.features));
            (log_rate, sample.weight * sample.exposure, if sample.happened { sample.weight } else { 0.0 })
        };
        Said(samples.iter().map(one).collect())
    }

    pub fn add(&mut self, other: &Said) {
        self.0.extend(&other.0);
    }

    /// Slope and offset under which what was said is most likely, by Newton's method.
    pub fn hold_back(&self, horizon: &mut Horizon) {
        let (mut slope, mut offset) = (1.0f64, 0.0f64);
        for _ in 0..30 {
            let (mut g, mut h) = ([0.0f64; 2], [0.0f64; 3]);
            for (said, exposure, happened) in &self.0 {
                let expected = (slope * said + offset).exp() * exposure;
                g[0] += (expected - happened) * said;
                g[1] += expected - happened;
                h[0] += expected * said * said;
                h[1] += expected * said;
                h[2] += expected;
            }
            let determinant = h[0] * h[2] - h[1] * h[1];
            if determinant.abs() < 1e-9 {
                return;
            }
            // A step is kept small: the exponential is steep.
            slope -= ((h[2] * g[0] - h[1] * g[1]) / determinant).clamp(-0.2, 0.2);
            offset -= ((h[0] * g[1] - h[1] * g[0]) / determinant).clamp(-1.0, 1.0);
        }
        horizon.slope = ((slope * 1000.0).round() / 1000.0) as f32;
        horizon.offset = ((offset * 1000.0).round() / 1000.0) as f32;
    }
}

/// To four digits that count.
fn round(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}
