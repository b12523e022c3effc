//! Fits the model of risk/model.json, and judges it: on drives that really failed, per drive, with intervals.
//!
//!     cargo run --release --example evaluate -- ../shared/smart          judges; Markdown on standard output
//!     cargo run --release --example evaluate -- ../shared/smart --fit    fits the model anew, into src/risk/model.json
//!
//! The folder holds `drives.csv.gz` and `readings.csv.gz`, as described in docs/EVALUATION.md. Whoever takes a random sample of drives and
//! judges a model on them must have fitted it on others, and on what came before: that is what the tables "by drive" and "by drive and
//! time" do, with models that are fitted for it. The first table judges the model that people use.
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation, clippy::cast_sign_loss, unreachable_pub)]
#![allow(missing_debug_implementations, reason = "a developer's program on files that it has checked")]

mod boost;
mod calibration;
mod data;
mod fit;
mod judge;

use anyhow::{Context, Result, bail};
use calibration::Calibration;
use clap::Parser;
use data::{DAY, Drive};
use dm_remap::risk::{self, Features, Horizon, Model, family};
use fit::{HORIZONS, Said, lot};
use judge::{ALARM, Course, Field, Figures};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Judges the risk model on drive histories, and fits it.
#[derive(Parser)]
struct Args {
    /// The folder with drives.csv.gz and readings.csv.gz.
    folder: PathBuf,
    /// Fit the model on all of it, and write it to this file [default: src/risk/model.json].
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "src/risk/model.json")]
    fit: Option<PathBuf>,
    /// Only judge the model that is built in: fit nothing for comparison.
    #[arg(long)]
    no_cross_validation: bool,
}

const FOLDS: u64 = 5;

/// The end of all data.
const WHOLE: u64 = u64::MAX / 4;

/// At most so many false alarms per drive-year: one in 200.
const FEW: f64 = 1.0 / 200.0;

/// The horizons whose scores raise alarms.
const ALARMS: [u16; 2] = [30, 365];

fn main() -> Result<()> {
    let args = Args::parse();
    let drives = data::load(&args.folder)?;
    if !drives.iter().any(|drive| drive.failed) || drives.iter().all(|drive| drive.failed) {
        bail!("{}: there must be drives that failed, and drives that did not", args.folder.display());
    }
    let print = fingerprint(&args.folder)?;
    if let Some(path) = &args.fit {
        let all: Vec<&Drive> = drives.iter().collect();
        let model =
            Model { fitted_on: print.clone(), elsewhere: elsewhere(&drives), ..fit::model(&all, WHOLE, &HORIZONS) };
        std::fs::write(path, model.to_text()).with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("{} is written: build again to judge it", path.display());
        return Ok(());
    }
    built_in(&drives, &print)?;
    if !args.no_cross_validation {
        cross_validate(&drives);
    }
    Ok(())
}

fn fingerprint(folder: &Path) -> Result<String> {
    let path = folder.join("drives.csv.gz");
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The times at which the score of a drive is looked at: when anything changed, and every week.
fn times(drive: &Drive) -> Vec<u64> {
    let weekly = (0u64..).map(|week| drive.from + week * 7 * DAY).take_while(|time| *time < drive.until);
    let changes = drive.readings.iter().map(|reading| reading.time);
    let mut times: Vec<u64> = weekly.chain(changes).filter(|time| *time < drive.until).collect();
    times.sort_unstable();
    times.dedup();
    times
}

/// What each way to raise an alarm said of the drives.
type Courses = BTreeMap<String, Vec<Course>>;

/// A rule that is there to be beaten: whether some of the counters are above zero.
const RULES: [(&str, &[usize]); 5] = [
    ("5, 187, 197 or 198 above 0", &[0, 1, 2, 3]),
    ("187, 197 or 198 above 0", &[1, 2, 3]),
    ("197 or 198 above 0", &[2, 3]),
    ("187 above 0", &[1]),
    ("5 above 0", &[0]),
];

fn rule_courses(drives: &[&Drive], from: u64, courses: &mut Courses) {
    for (name, counters) in RULES {
        for drive in drives.iter().filter(|drive| drive.until > from) {
            let mut course = Course::new(drive.failed, drive.from.max(from), drive.until);
            course.see(drive.from, 0.0);
            for reading in drive.readings.iter().filter(|reading| reading.time < drive.until) {
                let above = counters.iter().any(|at| reading.counters[*at].is_some_and(|value| value > 0));
                course.see(reading.time, f32::from(u8::from(above)));
            }
            courses.entry(name.to_string()).or_default().push(course);
        }
    }
}

fn name_of(days: u16) -> String {
    format!("risk within {days} days")
}

/// The models that were current at a time, the oldest first; the first also for what was before it.
fn current(models: &[(u64, Model)], time: u64) -> &Model {
    let after = models.partition_point(|(since, _)| *since <= time);
    &models[after.saturating_sub(1)].1
}

/// Watches drives from a time on, with the model that was current at each time.
fn watch(drives: &[&Drive], from: u64, models: &[(u64, Model)]) -> Courses {
    let mut courses = Courses::new();
    rule_courses(drives, from, &mut courses);
    for drive in drives.iter().filter(|drive| drive.until > from) {
        let fresh = || Course::new(drive.failed, drive.from.max(from), drive.until);
        let mut of: Vec<(u16, Course)> = ALARMS.iter().map(|days| (*days, fresh())).collect();
        for time in times(drive) {
            let Some(readings) = drive.known_at(time) else { continue };
            let model = current(models, time);
            let features = Features::at(&drive.model, model.prior(&drive.model), readings, time);
            for (days, course) in &mut of {
                let horizon = model.horizons(&features).iter().find(|horizon| horizon.days == *days);
                course.see(time, horizon.map_or(0.0, |horizon| horizon.probability(&features) as f32));
            }
        }
        for (days, course) in of {
            courses.entry(name_of(days)).or_default().push(course);
        }
    }
    courses
}

/// Does the jobs on all processors; what came of each, in order.
fn all<T: Send>(what: &str, jobs: usize, job: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let begun = Instant::now();
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(jobs);
    let mut out: Vec<(usize, T)> = std::thread::scope(|scope| {
        let work = || {
            let mut mine = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= jobs {
                    return mine;
                }
                mine.push((at, job(at)));
                let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                eprintln!("{what}: {done} of {jobs}, {:.0} s", begun.elapsed().as_secs_f64());
            }
        };
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        // A worker that fell over must not leave figures without its share.
        let finish = |thread: std::thread::ScopedJoinHandle<'_, _>| match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        threads.into_iter().flat_map(finish).collect::<Vec<(usize, T)>>()
    });
    out.sort_by_key(|(at, _)| *at);
    out.into_iter().map(|(_, result)| result).collect()
}

fn merge(parts: Vec<Courses>) -> BTreeMap<String, Field> {
    let mut merged = Courses::new();
    for (name, courses) in parts.into_iter().flatten() {
        merged.entry(name).or_default().extend(courses);
    }
    merged.into_iter().map(|(name, courses)| (name, Field::new(courses))).collect()
}

fn row(name: &str, figures: &Figures, difference: &str) {
    let [lower, median, upper] = figures.lead;
    let false_alarms = &figures.false_alarms;
    println!(
        "| {name} | {} | {:.1} % | {:.4} ({:.4} to {:.4}) | {} | {median} ({lower}, {upper}) | {difference} |",
        figures.recall.percent(),
        100.0 * figures.week,
        false_alarms.value,
        false_alarms.low,
        false_alarms.high,
        figures.precision.percent(),
    );
}

/// The table of all ways to raise an alarm, at the same false alarms as the first rule, and at few.
fn table(fields: &BTreeMap<String, Field>) {
    let Some(rule) = fields.get(RULES[0].0) else { return };
    println!("{}.\n", rule.describe());
    println!(
        "| alarm | foreseen ≥ 48 hours (95 %) | ≥ 7 days | false alarms per drive-year | precision | days ahead: median (quartiles) | \
         against the first rule, points |\n|---|---|---|---|---|---|---|"
    );
    for (name, _) in RULES {
        if let Some(field) = fields.get(name) {
            row(name, &field.at_threshold(ALARM), "");
        }
    }
    for days in ALARMS {
        if let Some(field) = fields.get(&name_of(days)) {
            let (figures, more) = field.against(rule);
            let name = format!(
                "{}, above {:.2} %: as many false alarms as the first rule",
                name_of(days),
                100.0 * figures.threshold
            );
            row(&name, &figures, &more.points());
        }
    }
    for days in ALARMS {
        if let Some(field) = fields.get(&name_of(days)) {
            let figures = field.at_rate(FEW);
            let name = format!("{}, above {:.2} %: one in 200 drive-years", name_of(days), 100.0 * figures.threshold);
            row(&name, &figures, "");
        }
    }
}

/// When the data ends.
fn last(drives: &[Drive]) -> u64 {
    drives.iter().map(|drive| drive.until).max().unwrap_or(0)
}

/// Adds what a model says of drives to the tables of calibration. `last`: when the data ends.
fn calibrate(drives: &[&Drive], model: &Model, last: u64) -> Vec<Calibration> {
    let mut out = vec![Calibration::default(); HORIZONS.len()];
    for drive in drives {
        let prior = model.prior(&drive.model);
        for (days, calibration) in HORIZONS.iter().zip(&mut out) {
            for time in calibration::times(drive, *days) {
                let Some(readings) = drive.known_at(time) else { continue };
                let risks = model.risks(&Features::at(&drive.model, prior, readings, time));
                if let Some(risk) = risks.iter().find(|risk| risk.days == *days) {
                    calibration.see(drive, time, *days, risk.probability, last);
                }
            }
        }
    }
    out
}

fn calibration_tables(parts: Vec<Vec<Calibration>>) {
    let mut sums = vec![Calibration::default(); HORIZONS.len()];
    for part in parts {
        sums.iter_mut().zip(&part).for_each(|(sum, more)| sum.add(more));
    }
    for (days, calibration) in HORIZONS.iter().zip(&sums) {
        println!("{}", calibration.table(*days));
    }
}

/// The tables of a cross-validation, from those of its folds.
fn present(folds: Vec<(Courses, Vec<Calibration>)>) {
    let (courses, calibrations) = folds.into_iter().unzip();
    table(&merge(courses));
    println!("\n## Calibration\n");
    calibration_tables(calibrations);
}

/// The model that is built in, on these drives.
fn built_in(drives: &[Drive], print: &str) -> Result<()> {
    let Some(model) = Model::built_in().filter(|model| !model.known.is_empty()) else { bail!("no model is built in") };
    println!("# The model that is built in\n");
    if model.fitted_on == *print {
        println!(
            "It was fitted on these very drives: these figures flatter it. Those of the cross-validation do not.\n"
        );
    } else {
        println!("It was fitted on other files than these.\n");
    }
    let refs: Vec<&Drive> = drives.iter().collect();
    let chunks: Vec<&[&Drive]> = refs.chunks(2000).collect();
    let models = [(0, model.clone())];
    let fields = merge(all("the model that is built in", chunks.len(), |at| watch(chunks[at], 0, &models)));
    table(&fields);
    println!("\nAt the levels that `dm-remap health` goes by:\n");
    println!(
        "| alarm | foreseen ≥ 48 hours (95 %) | ≥ 7 days | false alarms per drive-year | precision | days ahead: median (quartiles) | |\n\
         |---|---|---|---|---|---|---|"
    );
    for level in risk::LEVELS {
        if let Some(field) = fields.get(&name_of(level.days)) {
            let name = format!("{}, above {} %", name_of(level.days), 100.0 * level.probability);
            row(&name, &field.at_threshold(level.probability as f32), "");
        }
    }
    println!("\n## Calibration\n");
    calibration_tables(all("calibration", chunks.len(), |at| calibrate(chunks[at], model, last(drives))));
    Ok(())
}

/// The drives of a fold, and the others.
fn split(drives: &[Drive], is_in: impl Fn(&Drive) -> bool) -> (Vec<&Drive>, Vec<&Drive>) {
    drives.iter().partition(|drive| is_in(drive))
}

fn of_fold(drive: &Drive, fold: u64) -> bool {
    lot(drive.id, 4) % FOLDS == fold
}

fn of_family_fold(drive: &Drive, fold: u64) -> bool {
    let step = |sum: u64, byte| sum.wrapping_mul(131).wrapping_add(u64::from(byte));
    lot(family(&drive.model).bytes().fold(7, step), 5) % FOLDS == fold
}

/// Of each fold of families: trees that have seen only the others, and what they say of it, for each horizon.
fn by_family(drives: &[Drive]) -> (Vec<Vec<Horizon>>, Vec<Vec<Said>>) {
    let parts = all("by family: models", usize::try_from(FOLDS).unwrap_or(5), |fold| {
        let (judged, others) = split(drives, |drive| of_family_fold(drive, fold as u64));
        let horizons = fit::horizons(&others, &BTreeMap::new(), WHOLE, &HORIZONS);
        let said = horizons.iter().map(|horizon| Said::of(&judged, horizon)).collect();
        (horizons, said)
    });
    parts.into_iter().unzip()
}

fn hold_back<'a>(horizons: &mut [Horizon], said: impl Iterator<Item = &'a Vec<Said>>) {
    let mut sums = vec![Said::default(); horizons.len()];
    for said in said {
        sums.iter_mut().zip(said).for_each(|(sum, more)| sum.add(more));
    }
    horizons.iter_mut().zip(&sums).for_each(|(horizon, said)| said.hold_back(horizon));
}

/// For disks whose family is not in the data.
fn elsewhere(drives: &[Drive]) -> Vec<Horizon> {
    let all: Vec<&Drive> = drives.iter().collect();
    let mut horizons = fit::horizons(&all, &BTreeMap::new(), WHOLE, &HORIZONS);
    hold_back(&mut horizons, by_family(drives).1.iter());
    horizons
}

/// After how many days of the data models are fitted once, besides every three months from the first of these on.
const FITTED_AFTER: [u64; 2] = [365, 547];

fn by_time(drives: &[Drive]) {
    println!(
        "\n# Cross-validated by drive and time\n\nFive folds of drives; each is judged by models that have seen only the others, and of those only the \
         past: the drives as they were known at that day, and nothing of what came after.\n"
    );
    let folds = usize::try_from(FOLDS).unwrap_or(5);
    let begin = drives.iter().map(|drive| drive.from).min().unwrap_or(0);
    let last_day = last(drives);
    let first = begin + FITTED_AFTER[0] * DAY;
    let cuts: Vec<u64> = (0u64..).map(|n| first + n * 91 * DAY).take_while(|cut| cut + 30 * DAY < last_day).collect();
    if cuts.is_empty() {
        println!("The data is too short for that.");
        return;
    }
    let models = all("by drive and time: models", folds * cuts.len(), |at| {
        let (fold, cut) = ((at / cuts.len()) as u64, cuts[at % cuts.len()]);
        (cut, fit::model(&split(drives, |drive| of_fold(drive, fold)).1, cut, &ALARMS))
    });
    let judge = |from: u64, count: usize| {
        let since = cuts.partition_point(|cut| *cut < from);
        let courses = all("by drive and time", folds, |fold| {
            let judged = split(drives, |drive| of_fold(drive, fold as u64)).0;
            let current = &models[fold * cuts.len() + since..(fold + 1) * cuts.len()];
            watch(&judged, from, &current[..count.min(current.len())])
        });
        table(&merge(courses));
    };
    for days in FITTED_AFTER {
        let from = begin + days * DAY;
        if cuts.contains(&from) {
            println!("## Fitted once, after {days} days, and judged on all that came later\n");
            judge(from, 1);
            println!();
        }
    }
    println!("## Fitted anew every three months, after {} days at first\n", FITTED_AFTER[0]);
    judge(first, cuts.len());
}

fn cross_validate(drives: &[Drive]) {
    println!(
        "\n# Cross-validated by drive\n\nFive folds of drives; each is judged by a model that has seen only the others.\n"
    );
    let folds = usize::try_from(FOLDS).unwrap_or(5);
    let parts = all("by drive", folds, |fold| {
        let (judged, others) = split(drives, |drive| of_fold(drive, fold as u64));
        let model = fit::model(&others, WHOLE, &HORIZONS);
        let calibration = calibrate(&judged, &model, last(drives));
        (watch(&judged, 0, &[(0, model)]), calibration)
    });
    present(parts);

    by_time(drives);

    println!(
        "\n# Cross-validated by family\n\nFive folds of families of models; each is judged by a model that has seen only the others, as a disk \
         that is not in the data will be.\n"
    );
    let (trees, said) = by_family(drives);
    let parts = all("by family", folds, |fold| {
        let judged = split(drives, |drive| of_family_fold(drive, fold as u64)).0;
        let mut horizons = trees[fold].clone();
        // By how much it is held back is learnt from the other folds.
        let others = said.iter().enumerate().filter(|(other, _)| *other != fold).map(|(_, said)| said);
        hold_back(&mut horizons, others);
        let model = Model { elsewhere: horizons, ..Model::default() };
        let calibration = calibrate(&judged, &model, last(drives));
        (watch(&judged, 0, &[(0, model)]), calibration)
    });
    present(parts);
}
