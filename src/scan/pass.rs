//! One pass over a setup or a device: what is left to read, and what was found. This is what a checkpoint holds.
//!
//! Invariants:
//! - a sector is left to read, in the zone at hand, or settled, and never two of them;
//! - zones are surveyed one after the other, so that what is found in one can be moved before the next is begun;
//! - nothing in a saved pass is trusted further than it can be checked: ranges are cut to the device.

use super::survey::{Found, Shape, Survey};
use crate::block::DiskError;
use crate::format::metadata::Metadata;
use crate::map::{Fate, SpareIndex};
use crate::units::{Range, RangeSet, Sectors};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Version of the saved form; another one is not read.
pub const VERSION: u32 = 1;

/// Sectors of a zone: 1 GiB. Ten seconds of reading on a hard disk at full speed; what is found waits for its end.
pub const ZONE: Sectors = Sectors(1 << 21);

/// What is scanned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// A setup: its main, and the slots in use on its spares.
    Setup(Uuid),
    /// The regions of a setup that are read more often than the rest ([`super::regions`]).
    Suspects(Uuid),
    /// A device as a whole, by the fingerprint of its identity.
    Device(String),
}

/// A device of the subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// Main, or the device itself.
    Main,
    /// A spare.
    Spare(SpareIndex),
}

/// What of a device is to be read, and what was found there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Area {
    /// Which device.
    pub place: Place,
    /// What no zone has begun with.
    pub todo: RangeSet,
    /// Sectors that are settled.
    pub done: Sectors,
    /// The zone at hand.
    pub survey: Option<Survey>,
    /// What was found in the zones before.
    pub found: Found,
    /// Where reading has ended a run, for trouble that was not of the medium: tried again at the end.
    #[serde(default)]
    pub aside: RangeSet,
    /// Where it did so a second time: not known to be good or bad.
    #[serde(default)]
    pub unread: RangeSet,
    /// Whether the device is not there.
    #[serde(default)]
    pub absent: bool,
}

impl Area {
    /// An area of which nothing was read yet.
    pub fn new(place: Place, todo: RangeSet) -> Area {
        Area {
            place,
            todo,
            done: Sectors::ZERO,
            survey: None,
            found: Found::default(),
            aside: RangeSet::default(),
            unread: RangeSet::default(),
            absent: false,
        }
    }

    /// Begins with the next zone, cut to `limits`: what lies outside is not of interest any more. `false` when there is
    /// none left.
    pub fn begin_zone(&mut self, limits: &RangeSet, shape: Shape) -> bool {
        let cut = limits.intersection(&self.todo);
        self.done = Sectors(self.done.0.saturating_add(self.todo.sectors().saturating_sub(cut.sectors()).0));
        self.todo = cut;
        let mut zone = RangeSet::default();
        while let Some(run) = self.todo.first() {
            let room = ZONE.saturating_sub(zone.sectors());
            let Some(part) = run.chunks(room).next().filter(|_| room > Sectors::ZERO) else { break };
            self.todo.remove(part);
            zone.insert(part);
        }
        // What was set aside comes last, each run of it by itself.
        if zone.is_empty()
            && let Some(run) = self.next_aside()
        {
            zone = limits.within(run).collect();
            if zone.is_empty() {
                self.aside.remove(run);
                return self.begin_zone(limits, shape);
            }
        }
        self.survey = (!zone.is_empty()).then(|| Survey::new(zone, shape));
        self.survey.is_some()
    }

    fn next_aside(&self) -> Option<Range> {
        self.aside.iter().find(|run| !self.unread.overlaps(*run))
    }

    /// Takes what a run was reading when it ended in trouble out of the zone at hand, so that the next run gets beyond it.
    /// What does so a second time stays unread.
    pub fn set_aside(&mut self, error: &DiskError) {
        let (Some(survey), Some(range)) = (&mut self.survey, Range::new(error.start, error.len)) else { return };
        let parts = survey.leave_out(range);
        for part in parts {
            if self.aside.overlaps(part) {
                self.unread.insert(part);
            } else {
                self.aside.insert(part);
                self.done = Sectors(self.done.0.saturating_add(part.len().0));
            }
        }
    }

    /// Takes note that what the zone at hand has found so far was acted upon.
    pub fn acted(&mut self) {
        if let Some(survey) = &mut self.survey {
            let found = survey.take_found();
            self.found.add(found);
        }
    }

    /// Ends the zone at hand, which is finished; what was found in it.
    pub fn end_zone(&mut self) -> Found {
        let Some(survey) = self.survey.take() else { return Found::default() };
        let again: Vec<Range> = survey.area().iter().filter(|run| self.aside.overlaps(*run)).collect();
        if again.is_empty() {
            self.done = Sectors(self.done.0.saturating_add(survey.area().sectors().0));
        }
        again.into_iter().for_each(|run| self.aside.remove(run));
        let found = survey.into_found();
        self.found.add(found.clone());
        found
    }

    /// Sectors of which it is known whether they read, and sectors in all.
    pub fn standing(&self) -> (Sectors, Sectors) {
        let (settled, at_hand) =
            self.survey.as_ref().map_or((Sectors::ZERO, Sectors::ZERO), |s| (s.settled(), s.area().sectors()));
        let at_hand = if self.survey.as_ref().is_some_and(|s| s.area().iter().any(|r| self.aside.overlaps(r))) {
            Sectors::ZERO
        } else {
            at_hand
        };
        let settled = settled.min(at_hand);
        let total = self.done.0.saturating_add(at_hand.0).saturating_add(self.todo.sectors().0);
        (Sectors(self.done.0.saturating_add(settled.0)), Sectors(total))
    }

    /// All that was found, also in the zone at hand.
    pub fn found_so_far(&self) -> Found {
        let mut found = self.found.clone();
        if let Some(survey) = &self.survey {
            found.add(survey.found().clone());
        }
        found
    }
}

/// What a scan was asked to do, as far as it must stay the same when it is resumed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The part of main to read; all when there is none.
    pub ranges: Option<RangeSet>,
    /// Whether the unused space of spares is read, and what was left unreadable on main.
    pub full: bool,
    /// Whether what is found is only reported.
    pub report_only: bool,
    /// See [`Shape::slow_ms`].
    pub slow_ms: u64,
    /// How often a bad block is read again.
    pub retries: u32,
}

/// How a pass that has ended went, for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Result {
    /// Sectors that were moved.
    pub moved: Sectors,
    /// Sectors that were lost.
    pub lost: Sectors,
    /// What was found and could not be moved.
    pub not_moved: Vec<(Range, String)>,
    /// Why it stopped before its end, when it was not asked to.
    pub trouble: Option<String>,
}

/// One pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// [`VERSION`].
    pub version: u32,
    /// What is scanned.
    pub subject: Subject,
    /// What was asked for.
    pub order: Order,
    /// When it began, seconds since 1970.
    pub started: u64,
    /// When it was last saved.
    pub updated: u64,
    /// When it had read everything.
    pub finished: Option<u64>,
    /// Milliseconds spent on it.
    pub milliseconds: u64,
    /// The devices.
    pub areas: Vec<Area>,
    /// How it went.
    pub result: Result,
}

impl Pass {
    /// A pass that has read nothing yet.
    pub fn new(subject: Subject, order: Order, areas: Vec<Area>, now: u64) -> Pass {
        let areas = areas.into_iter().filter(|area| !area.todo.is_empty()).collect();
        Pass {
            version: VERSION,
            subject,
            order,
            started: now,
            updated: now,
            finished: None,
            milliseconds: 0,
            areas,
            result: Result::default(),
        }
    }

    /// Sectors of which it is known whether they read, and sectors in all.
    pub fn standing(&self) -> (Sectors, Sectors) {
        self.areas.iter().map(Area::standing).fold((Sectors::ZERO, Sectors::ZERO), |(done, total), (d, t)| {
            (Sectors(done.0.saturating_add(d.0)), Sectors(total.0.saturating_add(t.0)))
        })
    }

    /// How much is settled, in percent.
    pub fn percent(&self) -> u64 {
        let (done, total) = self.standing();
        // Of a large number of sectors a hundred times as many may not fit: then by hundredths.
        if total.0 >= u64::MAX / 100 {
            done.0 / (total.0 / 100)
        } else {
            (done.0 * 100).checked_div(total.0).unwrap_or(100)
        }
    }
}

/// The areas of a setup: main where it serves, and on the spares the slots in use (with `full` all of their data areas).
pub fn areas_of_setup(metadata: &Metadata, order: &Order) -> Vec<Area> {
    let mut areas = vec![Area::new(Place::Main, main_area(metadata, order))];
    if order.ranges.is_none() {
        for (index, _) in metadata.members() {
            areas.push(Area::new(Place::Spare(index), spare_area(metadata, order, index)));
        }
    }
    areas
}

/// What of a place is still of interest: the map may have changed since the pass began.
pub fn limits(metadata: &Metadata, order: &Order, place: Place) -> RangeSet {
    match place {
        Place::Main => main_area(metadata, order),
        Place::Spare(index) => spare_area(metadata, order, index),
    }
}

/// What moved away is of no interest, and what was left behind unreadable would only be thrashed.
fn main_area(metadata: &Metadata, order: &Order) -> RangeSet {
    let map = &metadata.map;
    let mut area: RangeSet = Range::new(Sectors::ZERO, map.main_len()).into_iter().collect();
    if let Some(ranges) = &order.ranges {
        area = area.intersection(ranges);
    }
    map.extents().for_each(|extent| area.remove(extent.range));
    if !order.full {
        map.losses().iter().filter(|loss| loss.fate == Fate::Left).for_each(|loss| area.remove(loss.range));
    }
    area
}

fn spare_area(metadata: &Metadata, order: &Order, index: SpareIndex) -> RangeSet {
    let Some(record) = metadata.spare(index).filter(|record| record.state.is_member()) else {
        return RangeSet::default();
    };
    let mut area: RangeSet = if order.full {
        Range::between(record.data_start, record.identity.size).into_iter().collect()
    } else {
        metadata.map.extents_by_slot(index).filter_map(|extent| extent.slot_range()).collect()
    };
    // What is known to be bad serves nothing.
    metadata.bad_blocks.get(&index).into_iter().flatten().for_each(|range| area.remove(*range));
    area
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, len: u64) -> Range {
        Range::new(Sectors(start), Sectors(len)).unwrap()
    }

    #[test]
    fn zones_follow_each_other_and_leave_out_what_is_gone() {
        let one = Sectors(1);
        let shape = Shape { chunk: Sectors(2048), step: one, block: one, unit: one, slow_ms: 0, retries: 0 };
        let whole = range(0, ZONE.0 * 2 + 100);
        let mut area = Area::new(Place::Main, [whole].into_iter().collect());
        let limits: RangeSet = whole.without(&[range(ZONE.0 - 10, ZONE.0 + 10)]).into_iter().collect();
        assert!(area.begin_zone(&limits, shape));
        let at_hand = |area: &Area| area.survey.as_ref().unwrap().area().iter().collect::<Vec<_>>();
        assert_eq!(at_hand(&area), [range(0, ZONE.0 - 10), range(ZONE.0 * 2, 10)]);
        area.end_zone();
        // What is not of interest counts as done.
        assert_eq!(area.standing(), (Sectors(ZONE.0 * 2 + 10), whole.len()));
        assert!(area.begin_zone(&limits, shape));
        assert_eq!(at_hand(&area), [range(ZONE.0 * 2 + 10, 90)]);
        area.end_zone();
        assert!(!area.begin_zone(&limits, shape));
        assert_eq!(area.standing(), (whole.len(), whole.len()));
    }
}
