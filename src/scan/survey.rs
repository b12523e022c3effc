//! In which order a disk is read to find out which of its sectors are bad, as data: no I/O happens here.
//!
//! The order is that of GNU ddrescue (its manual, "Algorithm"): large reads that skip ahead of trouble, back from the
//! other side, then what was skipped; then each failed run is trimmed from both edges, and what is left between is
//! scraped. A failed run is never halved: every halving would read its bad sector once more, and each such read can cost
//! a dying disk many seconds.
//!
//! Invariants:
//! - every sector of the area is in exactly one of the sets, in flight, or known to read;
//! - a sector is bad only if a request for its logical block alone failed. EIO may mean anything: of the blocks that
//!   failed so a sample is read once more ([`SAMPLE`]), and if a single one of these reads now, so are all the others;
//! - a large request is made only once for any sector, and a small one once for each purpose;
//! - near trouble only one request is in flight at a time: the kernel may join neighbours into one request, and then
//!   fails all of them for one bad sector; and a drive that fails one of several aborts the others;
//! - a saved survey goes on where it was: what was in flight is read again, and nothing else.

use crate::units::{Range, RangeSet, Sectors};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The sizes and limits of a survey.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Sectors of a large request.
    pub chunk: Sectors,
    /// Sectors read at once around trouble: a physical block of the disk.
    pub step: Sectors,
    /// Smallest request: a logical block of the disk.
    pub block: Sectors,
    /// Sectors in which slow places are told apart: the unit of the map.
    pub unit: Sectors,
    /// What reads, but takes longer than this many milliseconds, may be weak; 0 for never.
    pub slow_ms: u64,
    /// How often a bad block is read again at the end, in case it reads after all.
    pub retries: u32,
}

/// What a survey is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Large reads, forwards, skipping ahead of trouble.
    #[default]
    Forward,
    /// Large reads of what was skipped, backwards, skipping again.
    Backward,
    /// Large reads of all that is left.
    Rest,
    /// Failed runs, from both edges.
    Trim,
    /// What is left between the edges.
    Scrape,
    /// Failed physical blocks, by logical blocks.
    Split,
    /// Blocks that failed with EIO, once more.
    Confirm,
    /// Bad blocks, again.
    Retry,
    /// Slow places, again, each by itself.
    Measure,
    /// A place that is not slow, to compare with.
    Compare,
    /// Nothing is left to do.
    Done,
}

/// A read to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to read.
    pub range: Range,
    /// What for.
    pub phase: Phase,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Make this read.
    Read(Request),
    /// Nothing, until a read that is in flight has been answered.
    Wait,
    /// All is known.
    Done,
}

/// How a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has read, in this time.
    Read(Duration),
    /// It failed, and the drive says that the medium is bad.
    Medium,
    /// It failed with EIO, which may mean anything.
    Doubtful,
}

/// A place that reads, but slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weak {
    /// Where.
    pub range: Range,
    /// How long it took by itself, in milliseconds.
    pub milliseconds: u64,
}

/// A block that failed at first, and read when it was tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// Where.
    pub range: Range,
    /// Which retry it was, from 1.
    pub retry: u32,
}

/// What a survey has found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Found {
    /// Logical blocks that cannot be read.
    pub bad: RangeSet,
    /// Units that read slowly.
    pub weak: Vec<Weak>,
    /// Bad blocks that read on a retry.
    pub recovered: Vec<Recovered>,
    /// Sectors that failed with EIO and then read.
    pub transient: Sectors,
    /// Reads that failed.
    pub failed_reads: u64,
}

impl Found {
    /// Takes over what another survey of the same disk has found.
    pub fn add(&mut self, other: Found) {
        other.bad.iter().for_each(|range| self.bad.insert(range));
        self.weak.extend(other.weak);
        self.recovered.extend(other.recovered);
        self.transient = Sectors(self.transient.0.saturating_add(other.transient.0));
        self.failed_reads = self.failed_reads.saturating_add(other.failed_reads);
    }

    /// Whether everything reads, and in good time.
    pub fn is_clean(&self) -> bool {
        self.bad.is_empty() && self.weak.is_empty() && self.recovered.is_empty()
    }
}

/// The survey of an area of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    shape: Shape,
    area: RangeSet,
    phase: Phase,
    untried: RangeSet,
    /// Large requests that failed.
    failed: RangeSet,
    /// The same, trimmed from the front already.
    trimmed_front: RangeSet,
    unscraped: RangeSet,
    /// Physical blocks that failed as a whole.
    unsplit: RangeSet,
    /// Blocks that failed with EIO once.
    doubtful: RangeSet,
    /// Those of them that are to be read again; all, when there is no choice yet or the sample did not agree.
    sample: Option<RangeSet>,
    /// Places that took long.
    unmeasured: RangeSet,
    retries_done: u32,
    retry_from: Sectors,
    found: Found,
    #[serde(skip)]
    walk: Walk,
}

/// Where the large reads are; lost when a survey is saved, which costs nothing but a look at what is untried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Walk {
    cursor: Option<Sectors>,
    /// Failures in a row, and the last of them.
    failures: u32,
    last_failure: Option<Range>,
    in_flight: Vec<Request>,
    /// A slow unit that waits for the comparison, and how long it took.
    compared: Option<(Range, Duration)>,
}

/// Of so many blocks that failed with EIO at most this many are read again. Each one more would cost a dying disk
/// seconds; and what is moved is read several times more before it is given up.
pub const SAMPLE: usize = 256;

/// The longest skip is this part of the area.
const SKIP_AT_MOST: u64 = 100;

impl Survey {
    /// A survey of `area`, from its beginning.
    pub fn new(area: RangeSet, shape: Shape) -> Survey {
        Survey {
            shape,
            untried: area.clone(),
            area,
            phase: Phase::Forward,
            failed: RangeSet::default(),
            trimmed_front: RangeSet::default(),
            unscraped: RangeSet::default(),
            unsplit: RangeSet::default(),
            doubtful: RangeSet::default(),
            sample: None,
            unmeasured: RangeSet::default(),
            retries_done: 0,
            retry_from: Sectors::ZERO,
            found: Found::default(),
            walk: Walk::default(),
        }
    }

    /// Its sizes and limits.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// What it is doing.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// What is surveyed.
    pub fn area(&self) -> &RangeSet {
        &self.area
    }

    /// What was found so far.
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// What was found.
    pub fn into_found(self) -> Found {
        self.found
    }

    /// Sectors of which it is known whether they read.
    pub fn settled(&self) -> Sectors {
        let open = [&self.untried, &self.failed, &self.trimmed_front, &self.unscraped, &self.unsplit, &self.doubtful];
        let taken = self.walk.in_flight.iter().filter(|request| request.phase <= Phase::Scrape);
        let in_flight = taken.map(|request| request.range.len().0);
        let open = open.iter().map(|set| set.sectors().0).chain(in_flight).fold(0, u64::saturating_add);
        self.area.sectors().saturating_sub(Sectors(open))
    }

    /// The survey as it is to be saved: what is in flight will be read again.
    pub fn saved(&self) -> Survey {
        let mut saved = self.clone();
        for request in std::mem::take(&mut saved.walk).in_flight {
            saved.put_back(request);
        }
        saved
    }

    /// Puts what was taken out for a request back. Requests of the later phases take nothing out before the answer.
    fn put_back(&mut self, request: Request) {
        match request.phase {
            Phase::Forward | Phase::Backward | Phase::Rest => self.untried.insert(request.range),
            Phase::Trim | Phase::Scrape => self.unscraped.insert(request.range),
            _ => {}
        }
    }

    /// The sets of what is not settled yet.
    fn open_sets(&mut self) -> [&mut RangeSet; 6] {
        [
            &mut self.untried,
            &mut self.failed,
            &mut self.trimmed_front,
            &mut self.unscraped,
            &mut self.unsplit,
            &mut self.doubtful,
        ]
    }

    /// Makes a survey that comes from a file fit the device as it is now: other sizes of requests, and nothing outside
    /// `limits`.
    pub fn fit(&mut self, shape: Shape, limits: &RangeSet) {
        self.shape = shape;
        self.walk = Walk::default();
        self.retry_from = Sectors::ZERO;
        self.open_sets().into_iter().for_each(|set| *set = set.intersection(limits));
        let found = &mut self.found;
        for set in [&mut self.area, &mut self.unmeasured, &mut found.bad] {
            *set = set.intersection(limits);
        }
        found.weak.retain(|weak| limits.overlaps(weak.range));
        found.recovered.retain(|recovered| limits.overlaps(recovered.range));
        // A choice made before may not be one of these any more.
        self.sample = None;
        self.phase = self.phase.min(Phase::Scrape);
    }

    /// Leaves a range out of the survey; the parts of it that were in it and not settled.
    pub fn leave_out(&mut self, range: Range) -> Vec<Range> {
        self.walk = Walk::default();
        self.sample = None;
        let mut out = RangeSet::default();
        for set in self.open_sets() {
            let parts: Vec<Range> = set.within(range).collect();
            for part in parts {
                set.remove(part);
                out.insert(part);
            }
        }
        self.unmeasured.remove(range);
        out.iter().for_each(|part| self.area.remove(part));
        out.iter().collect()
    }

    /// Takes what was found so far: it counts as dealt with.
    pub fn take_found(&mut self) -> Found {
        std::mem::take(&mut self.found)
    }

    /// What to read next, at most `limit` sectors of it when it is a large read. May be called again before the answer
    /// to an earlier request is in.
    pub fn next(&mut self, limit: Sectors) -> Next {
        loop {
            let waiting = !self.walk.in_flight.is_empty();
            if self.phase <= Phase::Rest {
                // Near trouble one request at a time: the others could all fail, too.
                if waiting && self.walk.failures > 0 {
                    return Next::Wait;
                }
                if let Some(range) = self.large(limit) {
                    self.untried.remove(range);
                    return self.begin(Request { range, phase: self.phase });
                }
            }
            if waiting {
                return Next::Wait;
            }
            if self.phase > Phase::Rest
                && let Some(request) = self.small()
            {
                self.take_out(request);
                return self.begin(request);
            }
            match self.following() {
                Phase::Done => {
                    self.phase = Phase::Done;
                    return Next::Done;
                }
                next => self.enter(next),
            }
        }
    }

    fn begin(&mut self, request: Request) -> Next {
        self.walk.in_flight.push(request);
        Next::Read(request)
    }

    fn take_out(&mut self, request: Request) {
        match request.phase {
            Phase::Trim if self.trimmed_front.overlaps(request.range) => self.trimmed_front.remove(request.range),
            Phase::Trim => self.failed.remove(request.range),
            Phase::Scrape => self.unscraped.remove(request.range),
            _ => {}
        }
    }

    fn following(&self) -> Phase {
        match self.phase {
            Phase::Forward => Phase::Backward,
            Phase::Backward => Phase::Rest,
            Phase::Rest => Phase::Trim,
            Phase::Trim => Phase::Scrape,
            Phase::Scrape => Phase::Split,
            Phase::Split => Phase::Confirm,
            Phase::Confirm => Phase::Retry,
            Phase::Retry => Phase::Measure,
            Phase::Measure | Phase::Compare | Phase::Done => Phase::Done,
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        let steady = self.found.transient == Sectors::ZERO;
        if phase == Phase::Confirm && self.sample.is_none() && steady {
            self.sample = Some(sample_of(&self.doubtful, self.shape.block));
        }
        (self.walk.cursor, self.walk.failures, self.walk.last_failure) = (None, 0, None);
    }

    /// The next large read: up to the next multiple of the chunk, so that requests stay aligned.
    fn large(&mut self, limit: Sectors) -> Option<Range> {
        let chunk = self.shape.chunk.min(limit.align_down(self.shape.step)).max(self.shape.step);
        if self.phase == Phase::Backward {
            let run = self.untried.last_before(self.walk.cursor.unwrap_or(Range::MAX.end()))?;
            let last = run.end().saturating_sub(Sectors(1));
            let part = Range::between(last.align_down(chunk).max(run.start()), run.end())?;
            self.walk.cursor = Some(part.start());
            return Some(part);
        }
        let run = self.untried.first_from(self.walk.cursor.unwrap_or_default())?;
        let part = first_part(run, chunk)?;
        self.walk.cursor = Some(part.end());
        Some(part)
    }

    /// The next small read of the present phase.
    fn small(&mut self) -> Option<Request> {
        let Shape { step, block, unit, retries, .. } = self.shape;
        let phase = self.phase;
        let range = match phase {
            Phase::Trim => match self.trimmed_front.first() {
                Some(run) => last_part(run, step),
                None => first_part(self.failed.first()?, step),
            },
            Phase::Scrape => first_part(self.unscraped.first()?, step),
            Phase::Split => first_part(self.unsplit.first()?, block),
            Phase::Confirm => first_part(self.next_to_confirm()?, block),
            Phase::Retry => loop {
                if self.retries_done >= retries || self.found.bad.is_empty() {
                    return None;
                }
                if let Some(run) = self.found.bad.first_from(self.retry_from) {
                    break first_part(run, block);
                }
                self.retries_done += 1;
                self.retry_from = Sectors::ZERO;
            },
            Phase::Measure if self.walk.compared.is_some() => {
                return self.comparison().map(|range| Request { range, phase: Phase::Compare });
            }
            Phase::Measure => first_part(self.unmeasured.first()?, unit),
            _ => None,
        };
        range.map(|range| Request { range, phase })
    }

    /// A unit of the area that is neither bad nor slow, far from the one that is compared. When there is none, the slow
    /// unit stays unjudged.
    fn comparison(&mut self) -> Option<Range> {
        let (slow, _) = self.walk.compared?;
        let (first, last) = (self.area.first()?, self.area.iter().next_back()?);
        let span = last.end().saturating_sub(first.start()).0.max(1);
        for turn in 1..=16u64 {
            // A third of the way further each time, and a little more, so that no place is asked twice.
            let offset = slow.start().0.saturating_sub(first.start().0).saturating_add(span / 3 * turn + turn * 7919);
            let at = Sectors(first.start().0.saturating_add(offset % span)).align_down(self.shape.unit);
            let Some(place) = self.area.first_from(at).and_then(|run| first_part(run, self.shape.unit)) else {
                continue;
            };
            if !self.found.bad.overlaps(place) && !self.unmeasured.overlaps(place) && !place.overlaps(slow) {
                return Some(place);
            }
        }
        self.walk.compared = None;
        self.unmeasured.remove(slow);
        self.small().map(|request| request.range)
    }

    /// Takes back a request that was not made or not answered: it will be asked for again.
    pub fn cancel(&mut self, request: Request) {
        self.walk.in_flight.retain(|other| *other != request);
        self.put_back(request);
        self.walk.cursor = None;
        // A piece of a failed run that was taken back is read when the runs are scraped.
        self.phase = if request.phase <= Phase::Rest { self.phase } else { self.phase.min(Phase::Scrape) };
    }

    /// Takes note of how a request ended.
    pub fn answer(&mut self, request: Request, answer: Answer) {
        self.walk.in_flight.retain(|other| *other != request);
        let failed = !matches!(answer, Answer::Read(_));
        if failed {
            self.found.failed_reads = self.found.failed_reads.saturating_add(1);
        }
        match (request.phase, answer) {
            (Phase::Forward | Phase::Backward | Phase::Rest, _) => self.answer_large(request, answer),
            (Phase::Trim, _) => self.answer_trim(request.range, answer),
            (Phase::Scrape, _) => self.settle(request.range, answer),
            (Phase::Split, _) => {
                self.unsplit.remove(request.range);
                self.settle(request.range, answer);
            }
            (Phase::Confirm, _) => self.answer_confirm(request.range, failed),
            (Phase::Retry, _) => {
                self.retry_from = request.range.end();
                if !failed {
                    self.found.bad.remove(request.range);
                    let retry = self.retries_done.saturating_add(1);
                    self.found.recovered.push(Recovered { range: request.range, retry });
                }
            }
            (Phase::Measure, Answer::Read(took)) if self.is_slow(took) => {
                self.walk.compared = Some((request.range, took));
            }
            (Phase::Measure, _) => {
                self.unmeasured.remove(request.range);
                self.settle(request.range, answer);
            }
            (Phase::Compare, _) => self.answer_comparison(answer),
            (Phase::Done, _) => {}
        }
    }

    fn answer_large(&mut self, request: Request, answer: Answer) {
        let range = request.range;
        let walk = &mut self.walk;
        match answer {
            Answer::Read(took) => {
                let beyond = |last: Range| match request.phase {
                    Phase::Backward => range.start() < last.start(),
                    _ => range.start() > last.start(),
                };
                if walk.last_failure.is_none_or(beyond) {
                    (walk.failures, walk.last_failure) = (0, None);
                }
                if self.is_slow(took) {
                    self.unmeasured.insert(range);
                }
            }
            Answer::Medium | Answer::Doubtful => {
                walk.failures = walk.failures.saturating_add(1);
                walk.last_failure = Some(range);
                self.failed.insert(range);
                if request.phase != Phase::Rest {
                    self.skip(request.phase);
                }
            }
        }
    }

    /// Moves on past what is likely to fail, too: not after one failure, and then twice as far each time.
    fn skip(&mut self, phase: Phase) {
        let most = Sectors(self.area.sectors().0 / SKIP_AT_MOST).align_down(self.shape.chunk).max(self.shape.chunk);
        let doublings = self.walk.failures.saturating_sub(2).min(32);
        let skip = match self.walk.failures {
            0 | 1 => Sectors::ZERO,
            _ => self.shape.chunk.checked_mul(1 << doublings).unwrap_or(most).min(most),
        };
        self.walk.cursor = self.walk.cursor.map(|cursor| match phase {
            Phase::Backward => cursor.saturating_sub(skip),
            _ => Sectors(cursor.0.saturating_add(skip.0)),
        });
    }

    /// A run that was trimmed from the front is trimmed from the back next, and then the rest is scraped.
    fn answer_trim(&mut self, range: Range, answer: Answer) {
        if !matches!(answer, Answer::Read(_)) {
            let last = range.start().checked_sub(Sectors(1));
            if let Some(rest) = last.and_then(|last| self.trimmed_front.run_at(last)) {
                self.trimmed_front.remove(rest);
                self.unscraped.insert(rest);
            } else if let Some(rest) = self.failed.run_at(range.end()) {
                self.failed.remove(rest);
                self.trimmed_front.insert(rest);
            }
        }
        self.settle(range, answer);
    }

    /// Takes note of what a small read says of the sectors it asked for.
    fn settle(&mut self, range: Range, answer: Answer) {
        match answer {
            Answer::Read(took) => {
                if self.is_slow(took) && self.phase < Phase::Measure {
                    self.unmeasured.insert(range);
                }
            }
            _ if range.len() > self.shape.block => {
                self.unsplit.insert(range);
                self.back_to(Phase::Split);
            }
            Answer::Medium => self.found.bad.insert(range),
            Answer::Doubtful => {
                self.doubtful.insert(range);
                self.back_to(Phase::Confirm);
            }
        }
    }

    /// Returns to a phase that is over: a place that was only to be measured has turned bad.
    fn back_to(&mut self, phase: Phase) {
        if self.phase > phase {
            self.enter(phase);
        }
    }

    /// The first block of the sample; when all of it has failed again, nothing: then the others are bad, too.
    fn next_to_confirm(&mut self) -> Option<Range> {
        match &self.sample {
            None => self.doubtful.first(),
            Some(sample) => {
                if let Some(run) = sample.first() {
                    return Some(run);
                }
                self.sample = None;
                for run in std::mem::take(&mut self.doubtful).iter() {
                    self.found.bad.insert(run);
                }
                None
            }
        }
    }

    fn answer_confirm(&mut self, range: Range, failed: bool) {
        self.doubtful.remove(range);
        if let Some(sample) = &mut self.sample {
            sample.remove(range);
        }
        if failed {
            self.found.bad.insert(range);
        } else {
            self.found.transient = Sectors(self.found.transient.0.saturating_add(range.len().0));
            // It does not always fail: then no other is believed either, before it was read again.
            self.sample = None;
        }
    }

    fn answer_comparison(&mut self, answer: Answer) {
        let Some((slow, took)) = self.walk.compared.take() else { return };
        self.unmeasured.remove(slow);
        // When another place is as slow now, the disk is busy, and nothing is said of this one.
        if matches!(answer, Answer::Read(other) if !self.is_slow(other)) {
            let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            self.found.weak.push(Weak { range: slow, milliseconds });
        }
    }

    fn is_slow(&self, took: Duration) -> bool {
        self.shape.slow_ms > 0 && took.as_millis() > u128::from(self.shape.slow_ms)
    }
}

/// Up to [`SAMPLE`] blocks, spread evenly over all of them; all when there are no more.
fn sample_of(doubtful: &RangeSet, block: Sectors) -> RangeSet {
    let blocks = usize::try_from(doubtful.sectors().0 / block.0.max(1)).unwrap_or(usize::MAX);
    let every = blocks.div_ceil(SAMPLE).max(1);
    doubtful.iter().flat_map(|run| run.chunks(block)).step_by(every).collect()
}

/// The beginning of a run, up to the next multiple of `size`.
fn first_part(run: Range, size: Sectors) -> Option<Range> {
    let next = run.start().align_down(size).checked_add(size).unwrap_or(run.end());
    Range::between(run.start(), next.min(run.end()))
}

/// The end of a run, from the last multiple of `size` before it.
fn last_part(run: Range, size: Sectors) -> Option<Range> {
    let last = run.end().saturating_sub(Sectors(1)).align_down(size);
    Range::between(last.max(run.start()), run.end())
}

#[cfg(test)]
#[path = "survey_tests.rs"]
mod tests;
