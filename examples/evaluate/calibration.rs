//! Whether what is said is what happens: of the days on which a probability was given, the share on which the drive failed in that time.
//!
//! Each drive is looked at once in each horizon, so that no failure counts twice. A day whose horizon was not observed to its end counts
//! only when the drive failed in it: others are left out.

use crate::data::{DAY, Drive};
use crate::fit::lot;
use std::fmt::Write;

const EDGES: [f64; 9] = [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.4, 1.01];

#[derive(Clone, Copy, Debug, Default)]
struct Bin {
    days: f64,
    failed: f64,
    said: f64,
}

/// Of one horizon.
#[derive(Clone, Debug, Default)]
pub struct Calibration {
    bins: [Bin; EDGES.len()],
    squares: f64,
}

/// The times at which a drive is looked at.
pub fn times(drive: &Drive, days: u16) -> impl Iterator<Item = u64> + use<> {
    let step = DAY * u64::from(days.max(5));
    let (from, until) = (drive.from + lot(drive.id, 3) % step, drive.until);
    (0u64..).map(move |nth| from + nth * step).take_while(move |time| *time < until)
}

impl Calibration {
    /// Takes note of what was said at a time, and what came of it.
    pub fn see(&mut self, drive: &Drive, time: u64, days: u16, probability: f64) {
        let end = time + u64::from(days) * DAY;
        let failed = drive.failed && drive.until <= end;
        if !failed && drive.until < end {
            return;
        }
        let outcome = f64::from(u8::from(failed));
        let at = EDGES.partition_point(|edge| *edge <= probability).min(EDGES.len() - 1);
        let bin = &mut self.bins[at];
        bin.days += 1.0;
        bin.failed += outcome;
        bin.said += probability;
        self.squares += (probability - outcome).powi(2);
    }

    pub fn add(&mut self, other: &Calibration) {
        for (bin, more) in self.bins.iter_mut().zip(&other.bins) {
            bin.days += more.days;
            bin.failed += more.failed;
            bin.said += more.said;
        }
        self.squares += other.squares;
    }

    /// A table, and the Brier score.
    pub fn table(&self, days: u16) -> String {
        let mut out = format!(
            "| said, within {days} days | on average | what happened (95 %) | looked at | failed |\n|---|---|---|---|---|\n"
        );
        let mut low = 0.0;
        for (bin, high) in self.bins.iter().zip(EDGES) {
            if bin.days > 0.0 {
                let (least, most) = wilson(bin.failed, bin.days);
                let _ = writeln!(
                    out,
                    "| {} to {} | {} | {} ({} to {}) | {} | {} |",
                    percent(low),
                    percent(high.min(1.0)),
                    percent(bin.said / bin.days),
                    percent(bin.failed / bin.days),
                    percent(least),
                    percent(most),
                    bin.days,
                    bin.failed
                );
            }
            low = high;
        }
        let all: f64 = self.bins.iter().map(|bin| bin.days).sum();
        let rate = self.bins.iter().map(|bin| bin.failed).sum::<f64>() / all;
        let (brier, base) = (self.squares / all, rate * (1.0 - rate));
        let _ = writeln!(
            out,
            "\nBase rate {}; Brier score {brier:.6}, {base:.6} for always saying the base rate: {:.1} % better.",
            percent(rate),
            100.0 * (1.0 - brier / base)
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
