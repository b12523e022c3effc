//! Conducts a pass: zone after zone, act on what each has found, save, go on.
//!
//! Invariants:
//! - the pass is saved before and after anything is done about what was found: a kill at any moment loses no more than
//!   the reads since the last save, and what was found is acted upon when it is resumed;
//! - while something is done about what was found, no read is in flight and no other thread runs.

use super::pace::{Manners, Others, Pacer};
use super::pass::{Pass, Place};
use super::run::{CHUNK, DEPTH, End, Flow, Monitor, RunFault, Standing, Verify, run};
use super::survey::{Found, Phase, Shape, Survey};
use crate::block::Disk;
use crate::units::{RangeSet, Sectors};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a pass is saved.
const SAVE_EVERY: Duration = Duration::from_secs(2);

/// The same while others use the disk, and little is read.
const SAVE_SELDOM: Duration = Duration::from_secs(10);

/// A device as it is now.
#[derive(Debug)]
pub struct Present {
    /// To read it.
    pub disk: Arc<dyn Disk>,
    /// What of it is of interest.
    pub limits: RangeSet,
    /// How to ask.
    pub shape: Shape,
}

/// How far a pass is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Sectors of which it is known whether they read.
    pub done: Sectors,
    /// Sectors in all.
    pub total: Sectors,
    /// What happens at the moment.
    pub standing: Standing,
    /// Which device.
    pub place: Place,
}

/// What is scanned, and what is done with what is found.
pub trait Stage {
    /// Why it cannot go on.
    type Error: From<RunFault>;
    /// The device as it is now; `None` when it is not there (any more).
    fn present(&mut self, place: Place) -> Result<Option<Present>, Self::Error>;
    /// Others who use the device.
    fn others(&mut self, place: Place) -> Box<dyn Others + Send>;
    /// A way to ask the drive without getting the data, if one can be trusted.
    fn verify(&mut self, place: Place, bad: &RangeSet) -> Option<Box<Verify<'static>>>;
    /// Whether anything is done about what is found; also asked when a run was stopped, about what it has found so far.
    fn acts(&self) -> bool;
    /// Does what is to be done about what a zone was found to have.
    fn act(&mut self, pass: &mut Pass, place: Place, found: &Found) -> Result<(), Self::Error>;
    /// Ten times a second.
    fn tick(&mut self, progress: Progress) -> Flow;
    /// Saves the pass; a failure is its own matter.
    fn save(&mut self, pass: &Pass);
}

/// How fast to go.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Bytes in a second.
    pub rate: Option<u64>,
    /// How to behave towards others.
    pub manners: Manners,
}

/// Goes on with a pass until it has ended or was stopped.
///
/// # Errors
/// What the stage says; the pass was saved, and can go on later.
pub fn conduct<S: Stage>(pass: &mut Pass, stage: &mut S, pace: Pace) -> Result<End, S::Error> {
    let begun = Instant::now();
    let before = pass.milliseconds;
    for number in 0..pass.areas.len() {
        let end = area(pass, number, stage, pace);
        let spent = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        pass.milliseconds = before.saturating_add(spent);
        stage.save(pass);
        if end? == End::Stopped {
            return Ok(End::Stopped);
        }
    }
    pass.finished = Some(crate::engine::now());
    stage.save(pass);
    Ok(End::Finished)
}

fn area<S: Stage>(pass: &mut Pass, number: usize, stage: &mut S, pace: Pace) -> Result<End, S::Error> {
    // An area that is not there is an area without anything to read.
    while let Some(place) = pass.areas.get(number).map(|area| area.place) {
        let present = stage.present(place)?;
        let Some(area) = pass.areas.get_mut(number) else { break };
        let Some(present) = present else {
            area.absent = true;
            break;
        };
        area.absent = false;
        if let Some(survey) = &mut area.survey {
            survey.fit(present.shape, &present.limits);
        } else if !area.begin_zone(&present.limits, present.shape) {
            break;
        }
        let verify = stage.verify(place, &area.found_so_far().bad);
        let mut others = stage.others(place);
        let mut pacer = Pacer::new(pace.rate, pace.manners, &mut *others, CHUNK, DEPTH);
        let Some(mut survey) = area.survey.clone() else { break };
        let mut overseer =
            Overseer { standing: base(pass, number), pass, number, stage, place, saved: Instant::now(), last: None };
        let end = run(&*present.disk, verify.as_deref(), &mut survey, &mut pacer, &mut overseer);
        if let Some(area) = pass.areas.get_mut(number) {
            area.survey = Some(survey.saved());
        }
        let began_with = end.as_ref().err().and_then(RunFault::began_with);
        if let (Some(error), Some(area)) = (began_with, pass.areas.get_mut(number)) {
            area.set_aside(error);
        }
        let end = end?;
        let found = survey.into_found();
        if !found.is_clean() && stage.acts() {
            stage.save(pass);
            stage.act(pass, place, &found)?;
            if let Some(area) = pass.areas.get_mut(number).filter(|_| end == End::Stopped) {
                area.acted();
            }
        }
        if end == End::Stopped {
            return Ok(End::Stopped);
        }
        if let Some(area) = pass.areas.get_mut(number) {
            area.end_zone();
        }
        stage.save(pass);
    }
    Ok(End::Finished)
}

/// Sectors settled and in all, without the zone at hand.
fn base(pass: &Pass, number: usize) -> (Sectors, Sectors) {
    let (done, total) = pass.standing();
    let at_hand = pass.areas.get(number).and_then(|area| area.survey.as_ref()).map_or(Sectors::ZERO, Survey::settled);
    (done.saturating_sub(at_hand), total)
}

struct Overseer<'a, S: Stage> {
    standing: (Sectors, Sectors),
    pass: &'a mut Pass,
    number: usize,
    stage: &'a mut S,
    place: Place,
    saved: Instant,
    last: Option<(Sectors, Phase)>,
}

impl<S: Stage> Monitor for Overseer<'_, S> {
    fn tick(&mut self, standing: Standing) -> Flow {
        let (done, total) = self.standing;
        let done = Sectors(done.0.saturating_add(standing.settled.0));
        self.stage.tick(Progress { done, total, standing, place: self.place })
    }

    fn wants_to_save(&mut self, standing: Standing) -> bool {
        let every = if standing.gives_way { SAVE_SELDOM } else { SAVE_EVERY };
        // Without news there is nothing to save.
        let news = self.last != Some((standing.settled, standing.phase));
        let due = news && self.saved.elapsed() >= every;
        if due {
            self.last = Some((standing.settled, standing.phase));
        }
        due
    }

    fn save(&mut self, survey: Survey) {
        if let Some(area) = self.pass.areas.get_mut(self.number) {
            area.survey = Some(survey);
        }
        self.pass.updated = crate::engine::now();
        self.stage.save(self.pass);
        self.saved = Instant::now();
    }
}

#[cfg(test)]
#[path = "conduct_tests.rs"]
mod tests;
