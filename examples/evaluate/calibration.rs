//! Whether what is said is what happens: of the days on which a probability was given, the share on which the drive failed in that time.
//!
//! Each drive is looked at once in each horizon, so that no failure counts twice. A drive that was not watched to the end of a horizon counts for
//! as long as it was: what happened is the estimate of E. L. Kaplan and P. Meier, 1958, with the variance of M. Greenwood, 1926.

use crate::data::{DAY, Drive};
use crate::fit::lot;
use std::fmt::Write;

const EDGES: [f64; 9] = [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.4, 1.01];

#[derive(Clone, Debug, Default)]
struct Bin {
    looked_at: f64,
    said: f64,
    /// After how many hours, within the horizon: a failure, or the end of watching.
    ended: Vec<(u32, bool)>,
}

impl Bin {
    fn failed(&self) -> usize {
        self.ended.iter().filter(|(_, failed)| *failed).count()
    }

    /// The share that fails within the horizon, and its interval.
    fn happened(&self) -> (f64, f64, f64) {
        let mut ended = self.ended.clone();
        // At the same hour a failure comes before the end of watching.
        ended.sort_unstable_by_key(|(hours, failed)| (*hours, !failed));
        let (mut alive, mut at_risk, mut variance) = (1.0f64, self.looked_at, 0.0f64);
        for (_, failed) in ended {
            if failed {
                alive *= 1.0 - 1.0 / at_risk;
                variance += 1.0 / (at_risk * (at_risk - 1.0).max(0.5));
            }
            at_risk -= 1.0;
        }
        let share = 1.0 - alive;
        // As many that were watched to the end as would give this variance: so that few failures have an interval that makes sense.
        let deviation = alive * variance.sqrt();
        let watched = if deviation > 0.0 { share * alive / (deviation * deviation) } else { self.watched_to_the_end() };
        let (least, most) = wilson(share * watched, watched);
        (share, least, most)
    }

    fn watched_to_the_end(&self) -> f64 {
        (self.looked_at - self.ended.len() as f64).max(1.0)
    }
}

/// Of one horizon.
#[derive(Clone, Debug, Default)]
pub struct Calibration {
    bins: [Bin; EDGES.len()],
    squares: f64,
    /// What the squares are of: horizons that ended within the data.
    settled: f64,
    settled_failed: f64,
}

/// The times at which a drive is looked at.
pub fn times(drive: &Drive, days: u16) -> impl Iterator<Item = u64> + use<> {
    let step = DAY * u64::from(days.max(5));
    let (from, until) = (drive.from + lot(drive.id, 3) % step, drive.until);
    (0u64..).map(move |nth| from + nth * step).take_while(move |time| *time < until)
}

impl Calibration {
    /// Takes note of what was said at a time, and what came of it. `last`: when the data ends.
    pub fn see(&mut self, drive: &Drive, time: u64, days: u16, probability: f64, last: u64) {
        let end = time + u64::from(days) * DAY;
        let failed = drive.failed && drive.until <= end;
        let at = EDGES.partition_point(|edge| *edge <= probability).min(EDGES.len() - 1);
        let bin = &mut self.bins[at];
        bin.looked_at += 1.0;
        bin.said += probability;
        if failed || drive.until < end {
            bin.ended.push((((drive.until - time) / 3600) as u32, failed));
        }
        if end <= last && (failed || drive.until >= end) {
            let outcome = f64::from(u8::from(failed));
            self.squares += (probability - outcome).powi(2);
            self.settled += 1.0;
            self.settled_failed += outcome;
        }
    }

    pub fn add(&mut self, other: &Calibration) {
        for (bin, more) in self.bins.iter_mut().zip(&other.bins) {
            bin.looked_at += more.looked_at;
            bin.said += more.said;
            bin.ended.extend(&more.ended);
        }
        self.squares += other.squares;
        self.settled += other.settled;
        self.settled_failed += other.settled_failed;
    }

    /// A table, and the Brier score.
    pub fn table(&self, days: u16) -> String {
        let mut out = format!(
            "| said, within {days} days | on average | what happened (95 %) | looked at | failed |\n|---|---|---|---|---|\n"
        );
        let mut low = 0.0;
        for (bin, high) in self.bins.iter().zip(EDGES) {
            if bin.looked_at > 0.0 {
                let (share, least, most) = bin.happened();
                let _ = writeln!(
                    out,
                    "| {} to {} | {} | {} ({} to {}) | {} | {} |",
                    percent(low),
                    percent(high.min(1.0)),
                    percent(bin.said / bin.looked_at),
                    percent(share),
                    percent(least),
                    percent(most),
                    bin.looked_at,
                    bin.failed()
                );
            }
            low = high;
        }
        let rate = self.settled_failed / self.settled.max(1.0);
        let (brier, base) = (self.squares / self.settled.max(1.0), rate * (1.0 - rate));
        let _ = writeln!(
            out,
            "\nOf horizons that ended within the data: {} failed; Brier score {brier:.6}, {base:.6} for always saying that: {:.1} % better.",
            percent(rate),
            100.0 * (1.0 - brier / base.max(1e-12))
        );
        out
    }
}

fn percent(share: f64) -> String {
    let number = 100.0 * share;
    if number >= 10.0 { format!("{number:.0} %") } else { format!("{number:.2} %") }
}

/// The interval of a share (E. B. Wilson, 1927).
fn wilson(hits: f64, all: f64) -> (f64, f64) {
    let z = 1.959_964;
    let share = hits / all;
    let middle = (share + z * z / (2.0 * all)) / (1.0 + z * z / all);
    let half = z / (1.0 + z * z / all) * (share * (1.0 - share) / all + z * z / (4.0 * all * all)).sqrt();
    ((middle - half).max(0.0), (middle + half).min(1.0))
}
