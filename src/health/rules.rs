//! The rules of the score. They are a convention of this project: what weighs how much was chosen so that what Backblaze's data shows to
//! foretell failures (pending, uncorrectable and reallocated sectors, and above all their growth) counts most, and that one single event
//! leaves a disk usable.
//!
//! Each rule gives a reason with points. Points are added; some findings also put a ceiling on the score, whatever else is well.

use super::{Band, Evidence, Health, Noticed, Reason};
use crate::risk::{self, ACT, Risk, WATCH};
use crate::smart::{Counter, Smart};
use crate::units::Sectors;

const DAY: u64 = 86_400;

/// What has happened within so many days is growth, and costs more.
const RECENT: u64 = 30 * DAY;

/// A counter that costs points when it is not zero.
struct Rule {
    counter: Counter,
    /// For the first.
    first: u64,
    /// For each doubling.
    doubling: u64,
    /// The most for the number as it stands.
    most: u64,
    /// For growth, before it is counted how much: half of it when the counter has only been seen to grow slowly.
    growth: u64,
}

const RULES: [Rule; 8] = [
    Rule { counter: Counter::Pending, first: 20, doubling: 4, most: 45, growth: 10 },
    Rule { counter: Counter::Uncorrected, first: 18, doubling: 4, most: 40, growth: 15 },
    Rule { counter: Counter::OfflineUncorrectable, first: 12, doubling: 3, most: 30, growth: 8 },
    Rule { counter: Counter::Reallocated, first: 8, doubling: 4, most: 40, growth: 12 },
    Rule { counter: Counter::SpinRetries, first: 15, doubling: 3, most: 30, growth: 10 },
    Rule { counter: Counter::GrownDefects, first: 4, doubling: 2, most: 35, growth: 12 },
    Rule { counter: Counter::MediaErrors, first: 18, doubling: 4, most: 40, growth: 15 },
    Rule { counter: Counter::CableErrors, first: 0, doubling: 0, most: 0, growth: 0 },
];

/// Judges a disk.
pub fn judge(evidence: &Evidence<'_>) -> Health {
    let mut tally = Tally::default();
    let mut risks = Vec::new();
    if let Some(smart) = evidence.smart {
        risks = risk::assess(smart, evidence.before, evidence.now);
        RULES.iter().for_each(|rule| counter(&mut tally, rule, smart, evidence));
        verdicts(&mut tally, smart);
        wear(&mut tally, smart);
    }
    findings(&mut tally, evidence);
    noticed(&mut tally, evidence);
    outlook(&mut tally, &risks);
    let known = evidence.smart.is_some_and(|smart| !smart.is_empty()) || evidence.bad.is_some();
    let mut health = Health { risks, ..tally.finish(known) };
    if health.band <= Band::Poor && evidence.smart.is_some_and(|smart| smart.passed == Some(true)) {
        let text = "its own self-assessment says PASSED all the same: that speaks of thresholds, not of this evidence";
        health.reasons.push(Reason { points: 0, text: text.into() });
    }
    health
}

/// The points so far.
#[derive(Default)]
struct Tally {
    reasons: Vec<(u64, String)>,
    ceiling: Option<u64>,
}

impl Tally {
    fn cost(&mut self, points: u64, text: impl Into<String>) {
        self.reasons.push((points, text.into()));
    }

    /// The score can be no higher than this.
    fn cap(&mut self, ceiling: u64, text: impl Into<String>) {
        self.lower(ceiling);
        self.reasons.push((100u64.saturating_sub(ceiling), text.into()));
    }

    fn lower(&mut self, ceiling: u64) {
        self.ceiling = Some(self.ceiling.map_or(ceiling, |known| known.min(ceiling)));
    }

    fn finish(mut self, known: bool) -> Health {
        // Ceilings do not add up with each other: the lowest holds, and the sum of what costs points beside it.
        let sum = self.reasons.iter().map(|(points, _)| *points).fold(0, u64::saturating_add);
        let score = 100u64.saturating_sub(sum).min(self.ceiling.unwrap_or(100));
        let score = u8::try_from(score).unwrap_or(0);
        self.reasons.sort_by_key(|(points, _)| std::cmp::Reverse(*points));
        let reason = |(points, text): (u64, String)| Reason { points: u8::try_from(points).unwrap_or(100), text };
        let reasons: Vec<Reason> = self.reasons.into_iter().map(reason).collect();
        if known || reasons.iter().any(|reason| reason.points > 0) {
            Health { score: Some(score), band: Band::of(score), reasons, ..Health::default() }
        } else {
            Health { reasons, ..Health::default() }
        }
    }
}

/// Doublings of a number: 0 for 1, 1 for 2 and 3, and so on.
fn doublings(number: u64) -> u64 {
    number.checked_ilog2().map_or(0, u64::from)
}

fn counter(tally: &mut Tally, rule: &Rule, smart: &Smart, evidence: &Evidence<'_>) {
    let Some(value) = smart.counter(rule.counter) else { return };
    let grown = growth(rule.counter, value, evidence);
    let (words, since) = (rule.counter.words(), grown.map(|growth| growth.words()).unwrap_or_default());
    if rule.counter == Counter::CableErrors {
        if grown.is_some() {
            tally.cost(0, format!("{words} {value}{since}: look at the cable and the connectors, not at the disk"));
        }
        return;
    }
    if value == 0 {
        return;
    }
    let mut points = rule.first.saturating_add(rule.doubling.saturating_mul(doublings(value))).min(rule.most);
    if let Some(growth) = grown {
        let more = value.saturating_sub(growth.from);
        points = points.saturating_add(rule.growth).saturating_add(doublings(more).saturating_mul(2)).min(60);
    }
    tally.cost(points, format!("{words} {value}{since}"));
}

/// What a counter was before it grew.
#[derive(Clone, Copy)]
struct Growth {
    from: u64,
    days: u64,
}

impl Growth {
    fn words(self) -> String {
        let when = match self.days {
            0 => "within a day".to_string(),
            1 => "a day ago".to_string(),
            days => format!("{days} days ago"),
        };
        format!(", up from {} {when}", self.from)
    }
}

/// How a counter has grown lately: from the oldest of the recent readings that has less.
fn growth(counter: Counter, value: u64, evidence: &Evidence<'_>) -> Option<Growth> {
    let recent = |time: u64| evidence.now.saturating_sub(time) <= RECENT && time <= evidence.now;
    // The last reading before that time says how it stood then, too.
    let first = evidence.before.partition_point(|(time, _)| evidence.now.saturating_sub(*time) > RECENT);
    let readings = evidence.before.iter().skip(first.saturating_sub(1));
    let mut values = readings.filter_map(|(time, smart)| Some((*time, smart.counter(counter)?)));
    let (time, from) = values.find(|(_, before)| *before < value)?;
    let time = if recent(time) { time } else { evidence.now.saturating_sub(RECENT) };
    Some(Growth { from, days: evidence.now.saturating_sub(time) / DAY })
}

fn verdicts(tally: &mut Tally, smart: &Smart) {
    if smart.passed == Some(false) {
        tally.cap(10, "the disk itself says that it fails (self-assessment: FAILED)");
    }
    for attribute in &smart.failing {
        if attribute.ends_with("(now)") {
            tally.cap(10, format!("attribute {attribute} is below the maker's threshold"));
        } else {
            tally.cost(20, format!("attribute {attribute} has been below the maker's threshold"));
        }
    }
    if smart.self_test_failed == Some(true) {
        tally.cost(30, "its last self-test found a failure");
    }
    for (bit, ceiling, text) in [
        (1, 15, "its spare room is below the maker's threshold"),
        (4, 10, "it says that it is not reliable any more, because of errors of the medium"),
        (8, 5, "it has become read-only"),
        (16, 25, "its protection against loss of power has failed"),
    ] {
        if smart.critical_warning & bit != 0 {
            tally.cap(ceiling, text);
        }
    }
}

fn wear(tally: &mut Tally, smart: &Smart) {
    match smart.counter(Counter::UsedPercent) {
        Some(used @ 100..) => tally.cost(30, format!("{used} % of the life that its maker gives it are used")),
        Some(used @ 90..) => tally.cost(10, format!("{used} % of the life that its maker gives it are used")),
        _ => {}
    }
    let spare = smart.counter(Counter::SparePercent).zip(smart.counter(Counter::SpareThresholdPercent));
    if let Some((left, threshold)) = spare
        && left <= threshold
    {
        tally.cap(15, format!("{left} % of its spare room are left; its maker's threshold is {threshold} %"));
    }
    if let Some(degrees @ 60..) = smart.temperature {
        tally.cost(10, format!("it is {degrees} °C hot"));
    }
}

/// A high risk puts a ceiling on the score: its evidence has cost points already.
fn outlook(tally: &mut Tally, risks: &[Risk]) {
    for (level, ceiling) in [(ACT, 50), (WATCH, 85)] {
        if let Some(risk) = risks.iter().find(|risk| level.is_reached(risk)) {
            let text = format!(
                "of such disks {} fail within {} days, of all {}",
                risk.percent(),
                risk.days,
                risk::percent(risk.base_rate)
            );
            tally.lower(ceiling);
            tally.cost(0, text);
            break;
        }
    }
}

fn findings(tally: &mut Tally, evidence: &Evidence<'_>) {
    if let Some(bad) = evidence.bad.filter(|bad| bad.0 > 0) {
        let points = 15u64.saturating_add(doublings(bad.0).saturating_mul(3)).min(45);
        tally.cost(points, format!("the last scan could not read {bad} sectors"));
    }
    if evidence.weak_places > 0 {
        let points = 3u64.saturating_add(doublings(evidence.weak_places).saturating_mul(2)).min(15);
        tally.cost(points, format!("the last scan found {} slow places", evidence.weak_places));
    }
    if let Some((more, days)) = moved_lately(evidence) {
        let points = 6u64.saturating_add(doublings(more.0).saturating_mul(2)).min(35);
        let when = if days == 1 { "day".to_string() } else { format!("{days} days") };
        tally.cost(points, format!("{more} sectors had to be moved off it in the last {when}"));
    }
    if evidence.spare_bad.0 > 0 {
        let points = 10u64.saturating_add(doublings(evidence.spare_bad.0).saturating_mul(3)).min(40);
        tally.cost(points, format!("{} sectors of it failed while it served as a spare", evidence.spare_bad));
    }
}

/// What was noticed in use. A slow request by itself means nothing: a disk that slept takes seconds for the first.
fn noticed(tally: &mut Tally, evidence: &Evidence<'_>) {
    let Noticed { medium_errors, transport_errors, requests, slow_requests } = evidence.noticed;
    if medium_errors > 0 {
        // What a scan has found, or what was moved, is what failed: it does not count twice.
        let is_known = evidence.bad.is_some_and(|bad| bad.0 > 0) || moved_lately(evidence).is_some();
        let points = if is_known { 0 } else { 8u64.saturating_add(doublings(medium_errors).saturating_mul(2)).min(20) };
        tally.cost(points, format!("the kernel log names {medium_errors} requests that failed for its sectors"));
    }
    if transport_errors > 0 {
        tally.cost(
            0,
            format!("the kernel log names {transport_errors} requests that failed on the way to it: look at the cable, the connectors and the controller"),
        );
    }
    let more_than = |of: u64| slow_requests >= SLOW_LEAST && slow_requests.saturating_mul(of) >= requests;
    let points = match (more_than(100), more_than(1000)) {
        (true, _) => 10,
        (_, true) => 5,
        _ => return,
    };
    tally.cost(points, format!("{slow_requests} of {requests} requests took a second or longer"));
}

/// Fewer slow requests than this are not looked at.
const SLOW_LEAST: u64 = 10;

/// What was moved off it of late, and in how many days.
fn moved_lately(evidence: &Evidence<'_>) -> Option<(Sectors, u64)> {
    let (_, last) = evidence.moved.last()?;
    let first = evidence.moved.partition_point(|(time, _)| evidence.now.saturating_sub(*time) > RECENT);
    let (time, before) = evidence.moved.get(first.saturating_sub(1))?;
    let days = (evidence.now.saturating_sub(*time) / DAY).clamp(1, RECENT / DAY);
    let more = last.saturating_sub(*before);
    (more > Sectors::ZERO).then_some((more, days))
}
