//! How a way to raise an alarm would have done, per drive: an alarm is raised once, when its score first passes a threshold, and is
//! right when the drive fails as long as it is watched, however late.
//!
//! False alarms are per year of the drives that did not fail. Intervals are of the bootstrap over drives, 2.5 to 97.5 %; where a
//! threshold is set to meet a rate of false alarms, it is set anew in every resample.

use crate::data::{DAY, YEAR};
use crate::fit::lot;

/// The warning that is asked for.
const NOTICE: u64 = 2 * DAY;

const RESAMPLES: u64 = 1000;

/// What the score of a drive did: each time at which it became higher than ever.
#[derive(Clone, Debug)]
pub struct Course {
    pub failed: bool,
    pub from: u64,
    pub until: u64,
    pub steps: Vec<(u64, f32)>,
}

impl Course {
    pub fn new(failed: bool, from: u64, until: u64) -> Course {
        Course { failed, from, until, steps: Vec::new() }
    }

    pub fn see(&mut self, time: u64, score: f32) {
        if self.steps.last().is_none_or(|(_, best)| *best < score) {
            self.steps.push((time.max(self.from), score));
        }
    }

    fn years(&self) -> f64 {
        (self.until - self.from) as f64 / YEAR
    }

    fn best(&self) -> f32 {
        self.steps.last().map_or(f32::NEG_INFINITY, |(_, score)| *score)
    }

    /// The best that it was early enough.
    fn early(&self, notice: u64) -> f32 {
        let step = self.steps.iter().rfind(|(time, _)| time + notice <= self.until);
        step.map_or(f32::NEG_INFINITY, |(_, score)| *score)
    }

    /// Days from the alarm to the end.
    fn lead(&self, threshold: f32) -> Option<u64> {
        let (time, _) = self.steps.iter().find(|(_, score)| *score > threshold)?;
        Some((self.until - time) / DAY)
    }
}

/// An estimate and its interval.
#[derive(Clone, Copy, Debug, Default)]
pub struct Estimate {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

impl Estimate {
    fn of(value: f64, mut resampled: Vec<f64>) -> Estimate {
        resampled.sort_by(f64::total_cmp);
        let at = |share: f64| resampled[((resampled.len() - 1) as f64 * share).round() as usize];
        Estimate { value, low: at(0.025), high: at(0.975) }
    }

    pub fn percent(&self) -> String {
        format!("{:.1} % ({:.1} to {:.1})", 100.0 * self.value, 100.0 * self.low, 100.0 * self.high)
    }

    pub fn points(&self) -> String {
        format!("{:+.1} ({:+.1} to {:+.1})", 100.0 * self.value, 100.0 * self.low, 100.0 * self.high)
    }
}

/// What there is to say of an operating point.
#[derive(Clone, Debug)]
pub struct Figures {
    pub threshold: f32,
    /// Of the drives that failed: foreseen at least 48 hours before.
    pub recall: Estimate,
    /// The same with a week.
    pub week: f64,
    /// False alarms per drive-year.
    pub false_alarms: Estimate,
    /// Of the alarms: right.
    pub precision: Estimate,
    /// Days, of the alarms that were right: lower quartile, median, upper quartile.
    pub lead: [u64; 3],
}

/// The drives as numbers, for one way to raise an alarm.
pub struct Field {
    courses: Vec<Course>,
    /// Those that did not fail, the highest score first.
    well: Vec<usize>,
    early: Vec<f32>,
}

/// How often each drive is in a resample.
fn resample(count: usize, round: u64) -> Vec<u32> {
    let mut times = vec![0; count];
    for draw in 0..count as u64 {
        times[(lot(draw, round + 100) % count as u64) as usize] += 1;
    }
    times
}

impl Field {
    pub fn new(courses: Vec<Course>) -> Field {
        let mut well: Vec<usize> = (0..courses.len()).filter(|at| !courses[*at].failed).collect();
        well.sort_by(|a, b| courses[*b].best().total_cmp(&courses[*a].best()));
        let early = courses.iter().map(|course| course.early(NOTICE)).collect();
        Field { courses, well, early }
    }

    pub fn describe(&self) -> String {
        let years: f64 = self.well.iter().map(|at| self.courses[*at].years()).sum();
        let failed = self.courses.len() - self.well.len();
        format!("{} drives, {failed} of which failed; {years:.0} drive-years of those that did not", self.courses.len())
    }

    fn rate(&self, threshold: f32, times: &[u32]) -> f64 {
        let (mut alarms, mut years) = (0.0, 0.0);
        for at in &self.well {
            let weight = f64::from(times[*at]);
            years += weight * self.courses[*at].years();
            alarms += if self.courses[*at].best() > threshold { weight } else { 0.0 };
        }
        alarms / f64::max(years, 1e-9)
    }

    /// The lowest threshold with no more false alarms per drive-year.
    fn threshold(&self, rate: f64, times: &[u32]) -> f32 {
        let years: f64 = self.well.iter().map(|at| f64::from(times[*at]) * self.courses[*at].years()).sum();
        let mut alarms = 0.0;
        for at in &self.well {
            alarms += f64::from(times[*at]);
            if alarms > rate * years {
                return self.courses[*at].best();
            }
        }
        f32::NEG_INFINITY
    }

    fn recall(&self, threshold: f32, times: &[u32]) -> f64 {
        let (mut seen, mut failed) = (0.0, 0.0);
        for ((course, early), times) in self.courses.iter().zip(&self.early).zip(times) {
            if course.failed {
                failed += f64::from(*times);
                seen += if *early > threshold { f64::from(*times) } else { 0.0 };
            }
        }
        // A resample may have none that failed.
        seen / f64::max(failed, 1.0)
    }

    fn precision(&self, threshold: f32, times: &[u32]) -> f64 {
        let (mut right, mut all) = (0.0, 0.0);
        for (course, times) in self.courses.iter().zip(times) {
            if course.best() > threshold {
                all += f64::from(*times);
                right += if course.failed { f64::from(*times) } else { 0.0 };
            }
        }
        right / f64::max(all, 1.0)
    }

    /// The figures, of the threshold that `choose` finds in a resample.
    fn figures(&self, choose: impl Fn(&[u32]) -> f32) -> Figures {
        let once = vec![1; self.courses.len()];
        let threshold = choose(&once);
        let resampled: Vec<[f64; 3]> = (0..RESAMPLES)
            .map(|round| {
                let times = resample(self.courses.len(), round);
                let threshold = choose(&times);
                [self.recall(threshold, &times), self.rate(threshold, &times), self.precision(threshold, &times)]
            })
            .collect();
        let column = |at: usize| resampled.iter().map(|row| row[at]).collect::<Vec<f64>>();
        let failed = self.courses.iter().filter(|course| course.failed);
        let weeks = failed.clone().filter(|course| course.early(7 * DAY) > threshold).count();
        let mut leads: Vec<u64> = failed.clone().filter_map(|course| course.lead(threshold)).collect();
        leads.sort_unstable();
        let quartile = |at: usize| leads.get((leads.len().saturating_sub(1)) * at / 4).copied().unwrap_or(0);
        Figures {
            threshold,
            recall: Estimate::of(self.recall(threshold, &once), column(0)),
            week: weeks as f64 / failed.count().max(1) as f64,
            false_alarms: Estimate::of(self.rate(threshold, &once), column(1)),
            precision: Estimate::of(self.precision(threshold, &once), column(2)),
            lead: [quartile(1), quartile(2), quartile(3)],
        }
    }

    /// At a threshold that is given.
    pub fn at_threshold(&self, threshold: f32) -> Figures {
        self.figures(|_| threshold)
    }

    /// At a rate of false alarms.
    pub fn at_rate(&self, rate: f64) -> Figures {
        self.figures(|times| self.threshold(rate, times))
    }

    /// At the rate of false alarms that `rule` has, and how much higher its recall is than that rule's.
    pub fn against(&self, rule: &Field) -> (Figures, Estimate) {
        let choose = |times: &[u32]| self.threshold(rule.rate(ALARM, times), times);
        let difference = |times: &[u32]| self.recall(choose(times), times) - rule.recall(ALARM, times);
        let once = vec![1; self.courses.len()];
        let resampled = (0..RESAMPLES).map(|round| difference(&resample(self.courses.len(), round))).collect();
        (self.figures(choose), Estimate::of(difference(&once), resampled))
    }
}

/// The threshold of a rule, whose score is 0 or 1.
pub const ALARM: f32 = 0.5;
