//! The scan of a setup: its main, and the slots in use on its spares; what is bad is moved.

use super::known::Known;
use super::probe::{act_patiently, is_busy, scan_options, shape};
use super::scanner::{Scanner, Stopped, widened};
use crate::block::Disk;
use crate::engine::session::find_active;
use crate::engine::{EngineError, now};
use crate::plan::Refusal;
use crate::scan::act::Acted;
use crate::scan::conduct::{Present, Progress, Stage, conduct};
use crate::scan::neighbours::Neighbours;
use crate::scan::pace::Others;
use crate::scan::pass::{Order, Pass, Place, Subject, areas_of_setup, limits};
use crate::scan::regions::suspect_regions;
use crate::scan::run::{Flow, Verify};
use crate::scan::survey::Found;
use crate::units::{DevNo, Range, RangeSet, Sectors};
use anyhow::Result;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A setup being scanned.
#[derive(Debug)]
struct SetupStage<'a> {
    scanner: Scanner<'a>,
    name: &'a str,
    order: Order,
    acted: Vec<Acted>,
    /// The setup's own device, and those that it lies on, as far as they were opened.
    devno: DevNo,
    devices: BTreeMap<Place, (DevNo, Arc<dyn Disk>)>,
    /// Where main was found bad before.
    known_bad: RangeSet,
}

/// Whether an error of moving says that it is no use to go on: trouble with a disk, or another command at work.
fn ends_the_scan(error: &anyhow::Error) -> bool {
    use EngineError::{NotTheMedium, StillSuspended, Transport, Unsettled};
    is_busy(error)
        || match error.downcast_ref().map(EngineError::cause) {
            Some(Transport(_) | NotTheMedium { .. } | Unsettled { .. } | StillSuspended { .. }) => true,
            Some(EngineError::Refused(
                Refusal::NotActive(_) | Refusal::Suspended(_) | Refusal::TableDiffers { .. },
            )) => true,
            Some(_) => false,
            None => true,
        }
}

/// A scan of a setup that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) pass: Pass,
    pub(super) acted: Vec<Acted>,
    pub(super) stopped: Option<Stopped>,
    /// Why it ended before its end, when nobody asked for that.
    pub(super) trouble: Option<anyhow::Error>,
}

/// What of a setup is scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All that was asked for.
    Whole,
    /// The regions where the next bad sectors are likely.
    Suspects,
}

/// Scans a setup; `None` when nothing is due.
pub(super) fn run(scanner: Scanner<'_>, name: &str, part: Part) -> Result<Option<Ended>> {
    scanner.context.touch(name, []);
    let (context, args) = (scanner.context, scanner.args);
    let session = context.reading_session(name)?;
    session.check_live()?;
    let setup = session.setup();
    let (state, _) = find_active(session.dm, name)?;
    let devno = state.devno;
    let _lock = context.lock(&format!("{setup}.scan"), name)?;
    let mut order = scanner.order(args.report_only);
    let mut subject = Subject::Setup(setup);
    if part == Part::Suspects {
        let known = Known::load(context, &session.metadata);
        let regions = suspect_regions(&session.metadata.map, &known.found_on(Place::Main));
        if regions.is_empty() {
            return Ok(None);
        }
        (order.ranges, subject) = (Some(regions), Subject::Suspects(setup));
    }
    let order = widened(order, session.block(), session.metadata.map.main_len())?;
    let begun = scanner.pass(subject.clone(), args.report_only, || {
        let areas = areas_of_setup(&session.metadata, &order);
        Pass::new(subject, order.clone(), areas, now())
    })?;
    let Some(mut pass) = begun else { return Ok(None) };
    let known_bad = session.metadata.map.losses().iter().map(|loss| loss.range).collect();
    drop(session);
    pass.order.slow_ms = scanner.choices.slow_ms;
    let order = pass.order.clone();
    let pace = scanner.pace(&pass);
    let mut stage = SetupStage { scanner, name, order, acted: Vec::new(), devno, devices: BTreeMap::new(), known_bad };
    let trouble = conduct(&mut pass, &mut stage, pace).err();
    pass.result.trouble = trouble.as_ref().map(|error| format!("{error:#}"));
    stage.scanner.save(&pass);
    Ok(Some(Ended { pass, acted: stage.acted, stopped: stage.scanner.stopped, trouble }))
}

impl Stage for SetupStage<'_> {
    type Error = anyhow::Error;

    fn present(&mut self, place: Place) -> Result<Option<Present>> {
        let session = self.scanner.context.reading_session(self.name)?;
        let member = match place {
            Place::Main => Some(&session.main),
            Place::Spare(index) => session.spare(index),
        };
        let Some(member) = member else { return Ok(None) };
        self.devices.insert(place, (member.devno, member.disk.clone()));
        let (block, unit) = (member.disk.logical_block(), session.metadata.map.unit());
        Ok(Some(Present {
            disk: member.disk.clone(),
            limits: limits(&session.metadata, &self.order, place),
            shape: shape(self.scanner.context, member.devno, block, unit, &self.order),
        }))
    }

    fn others(&mut self, place: Place) -> Box<dyn Others + Send> {
        let (device, setup) = (self.devices.get(&place).map(|(devno, _)| *devno), self.devno);
        Box::new(Neighbours::new(&self.scanner.context.host, device.unwrap_or(setup), &[setup]))
    }

    fn verify(&mut self, place: Place, bad: &RangeSet) -> Option<Box<Verify<'static>>> {
        let (devno, disk) = self.devices.get(&place)?.clone();
        let before = self.known_bad.iter().filter(|_| place == Place::Main);
        self.scanner.verify(devno, &*disk, &before.chain(bad.iter()).collect())
    }

    /// Who interrupts does not want to wait for the moving: --resume does it.
    fn acts(&self) -> bool {
        !self.scanner.args.report_only && self.scanner.stopped != Some(Stopped::Interrupted)
    }

    fn act(&mut self, pass: &mut Pass, place: Place, found: &Found) -> Result<()> {
        // The place of a spare that was replaced meanwhile is that of another device, of which nothing was found.
        let session = self.scanner.context.reading_session(self.name)?;
        if let Place::Spare(index) = place
            && self.devices.get(&place).map(|(devno, _)| *devno) != session.spare(index).map(|member| member.devno)
        {
            return Ok(());
        }
        drop(session);
        if place == Place::Main {
            let bad = |range: Range| found.bad.overlaps(range);
            self.scanner
                .context
                .touch(self.name, found.weak.iter().map(|weak| weak.range).filter(|range| !bad(*range)));
        }
        let options = scan_options(self.scanner.context, self.name, self.scanner.choices);
        let acted = match act_patiently(self.scanner.context, self.name, place, found, &options) {
            Ok(acted) => acted,
            Err(error) if ends_the_scan(&error) => return Err(error),
            // What cannot be moved must not keep the rest from being looked at.
            Err(error) => {
                let why = format!("{error:#}");
                pass.result.not_moved.extend(found.bad.iter().map(|range| (range, why.clone())));
                return Ok(());
            }
        };
        let sum = |ranges: &mut dyn Iterator<Item = Range>| ranges.map(|r| r.len().0).fold(0, u64::saturating_add);
        let moved = sum(&mut acted.outcome.moved.iter().map(|m| m.range));
        let lost = sum(&mut acted.outcome.lost.iter().map(|l| l.range));
        pass.result.moved = Sectors(pass.result.moved.0.saturating_add(moved));
        pass.result.lost = Sectors(pass.result.lost.0.saturating_add(lost));
        pass.result.not_moved.extend(acted.not_moved.iter().chain(&acted.outcome.dropped).cloned());
        self.acted.push(acted);
        Ok(())
    }

    fn tick(&mut self, progress: Progress) -> Flow {
        self.scanner.tick(progress)
    }

    fn save(&mut self, pass: &Pass) {
        self.scanner.save(pass);
    }
}
