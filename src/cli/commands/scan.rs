//! `scan`: finds bad and slow sectors of a setup or a device, and moves those of a setup.

use super::probe::{ActOptions, act_patiently, shape};
use super::scan_report::{Report, Subject as Shown};
use super::{Context, Exit, Output};
use crate::block::device::BlockDevice;
use crate::block::direct::{DirectDisk, Mode};
use crate::cli::args::{Rate, Scan};
use crate::cli::context::Usage;
use crate::cli::signals::Signals;
use crate::engine::session::find_active;
use crate::engine::{EngineError, Observer, now};
use crate::scan::act::{Acted, Policy};
use crate::scan::checkpoint;
use crate::scan::conduct::{Pace, Present, Progress, Stage, conduct};
use crate::scan::neighbours::Neighbours;
use crate::scan::pace::{Manners, Others};
use crate::scan::pass::{Area, Order, Pass, Place, Subject, areas_of_setup, limits};
use crate::scan::run::{End, Flow, Verify};
use crate::scan::survey::Found;
use crate::units::{DevNo, Range, RangeSet, Sectors};
use anyhow::Result;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

pub(super) fn scan(context: &Context, args: &Scan, out: &mut Output) -> Result<Exit> {
    match (&args.device, args.names.as_slice()) {
        (Some(path), _) => {
            let device = context.device(path)?;
            scan_device(context, args, &device, out)
        }
        (None, [name]) => scan_setup(context, args, name, out),
        (None, _) => Err(Usage("one setup can be scanned at a time".into()).into()),
    }
}

/// What stays the same over all zones of a scan.
struct Scanner<'a> {
    context: &'a Context,
    args: &'a Scan,
    signals: RefCell<Signals>,
    deadline: Option<Instant>,
    /// Why it was told to stop.
    stopped: Option<Stopped>,
    directory: PathBuf,
    saving: bool,
}

/// Why a scan stopped before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// A signal.
    Interrupted,
    /// The time budget.
    Budget,
}

impl<'a> Scanner<'a> {
    fn new(context: &'a Context, args: &'a Scan) -> Result<Scanner<'a>> {
        let signals = Signals::take().map_err(|e| EngineError::system("cannot take signals", e))?;
        let deadline = args.time_budget.and_then(|budget| Instant::now().checked_add(budget));
        let directory = context.state().join("scan");
        Ok(Scanner { context, args, signals: RefCell::new(signals), deadline, stopped: None, directory, saving: true })
    }

    fn pace(&self) -> Pace {
        let rate = match self.args.rate {
            Some(Rate::Bytes(rate)) => Some(rate),
            _ => None,
        };
        let manners = match (self.args.rate, self.args.idle) {
            (Some(Rate::Max), false) => Manners::None,
            (_, true) => Manners::IdleOnly,
            _ => Manners::GiveWay,
        };
        Pace { rate, manners }
    }

    /// What was asked for. In a setup the moving makes its own retries.
    fn order(&self, report_only: bool) -> Order {
        Order {
            ranges: (!self.args.ranges.is_empty()).then(|| self.args.ranges.iter().copied().collect()),
            full: self.args.full,
            report_only,
            slow_ms: self.args.slow_ms,
            retries: if report_only { self.args.retries } else { 0 },
        }
    }

    /// The pass to go on with, or a new one.
    fn pass(&self, subject: Subject, begin: impl FnOnce() -> Pass) -> Result<Pass> {
        let last = match checkpoint::load(&self.directory, &subject) {
            Ok(last) => last.filter(|pass| pass.finished.is_none()),
            Err(error) if self.args.resume => {
                return Err(EngineError::system("the last scan cannot be gone on with", error).into());
            }
            Err(error) => {
                self.context.note(&format!("what is known of the last scan cannot be read: {error}"));
                None
            }
        };
        match last {
            Some(pass) if self.args.resume => Ok(pass),
            None if self.args.resume => {
                Err(Usage("--resume: no scan was stopped before its end; leave --resume away to begin one".into())
                    .into())
            }
            Some(pass) if !self.args.restart => {
                let percent = pass.percent();
                Err(Usage(format!(
                    "a scan was stopped at {percent} %: go on with --resume, or begin anew with --restart"
                ))
                .into())
            }
            _ => Ok(begin()),
        }
    }

    fn tick(&mut self, progress: Progress) -> Flow {
        if !self.args.no_progress {
            let place = match progress.place {
                Place::Main => "reading".to_string(),
                Place::Spare(spare) => format!("reading spare {spare}"),
            };
            let words = match progress.standing.bad {
                _ if progress.standing.gives_way => format!("{place}, giving way"),
                Sectors::ZERO => place,
                bad => format!("{place}, {bad} bad"),
            };
            self.context.progress.step(&words);
            self.context.progress.progress(progress.done.0, progress.total.0);
        }
        if self.signals.borrow_mut().came() {
            self.stopped = Some(Stopped::Interrupted);
        } else if self.deadline.is_some_and(|at| Instant::now() >= at) {
            self.stopped = Some(Stopped::Budget);
        }
        if self.stopped.is_some() { Flow::Stop } else { Flow::Go }
    }

    fn save(&mut self, pass: &Pass) {
        if !self.saving {
            return;
        }
        if let Err(error) = checkpoint::save(&self.directory, pass) {
            self.saving = false;
            let directory = self.directory.display();
            self.context.note(&format!("this scan cannot be resumed: nothing can be saved in {directory}: {error}"));
        }
    }
}

/// A setup being scanned.
struct SetupStage<'a> {
    scanner: Scanner<'a>,
    name: &'a str,
    order: Order,
    acted: Vec<Acted>,
    /// The setup's own device, and those that it lies on, as far as they were opened.
    devno: DevNo,
    devices: BTreeMap<Place, DevNo>,
}

fn scan_setup(context: &Context, args: &Scan, name: &str, out: &mut Output) -> Result<Exit> {
    let scanner = Scanner::new(context, args)?;
    let session = context.reading_session(name)?;
    session.check_live()?;
    let setup = session.setup();
    let (state, _) = find_active(session.dm, name)?;
    let devno = state.devno;
    let _lock = context.lock(&format!("{setup}.scan"), name)?;
    let order = scanner.order(args.report_only);
    check_ranges(&order, session.metadata.map.main_len())?;
    let mut pass = scanner.pass(Subject::Setup(setup), || {
        let areas = areas_of_setup(&session.metadata, &order);
        Pass::new(Subject::Setup(setup), order.clone(), areas, now())
    })?;
    pass.order.report_only = args.report_only;
    pass.result.trouble = None;
    drop(session);
    let order = pass.order.clone();
    let mut stage = SetupStage { scanner, name, order, acted: Vec::new(), devno, devices: BTreeMap::new() };
    let pace = stage.scanner.pace();
    let end = conduct(&mut pass, &mut stage, pace);
    finish(Shown::Setup(name), &mut pass, end, stage.scanner, &stage.acted, out)
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
        self.devices.insert(place, member.devno);
        let (block, unit) = (member.disk.logical_block(), session.metadata.map.unit());
        Ok(Some(Present {
            disk: member.disk.clone(),
            limits: limits(&session.metadata, &self.order, place),
            shape: shape(self.scanner.context, member.devno, block, unit, &self.order),
        }))
    }

    fn others(&mut self, place: Place) -> Box<dyn Others + Send> {
        let (device, setup) = (self.devices.get(&place).copied(), self.devno);
        Box::new(Neighbours::new(&self.scanner.context.host, device.unwrap_or(setup), &[setup]))
    }

    fn verify(&mut self, _place: Place, _bad: &RangeSet) -> Option<Box<Verify<'static>>> {
        None
    }

    fn act(&mut self, pass: &mut Pass, place: Place, found: &Found) -> Result<()> {
        if self.scanner.args.report_only {
            return Ok(());
        }
        let policy = Policy {
            move_weak: self.scanner.args.move_weak,
            margin: Sectors(self.scanner.args.margin),
            unreadable: self.scanner.args.unreadable.map(Into::into),
        };
        let options = ActOptions { policy, retries: self.scanner.args.retries };
        let acted = act_patiently(self.scanner.context, self.name, place, found, &options)?;
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

/// A device being scanned, which is nobody's main as far as this scan goes.
struct DeviceStage<'a> {
    scanner: Scanner<'a>,
    device: &'a BlockDevice,
    disk: Arc<DirectDisk>,
    order: Order,
}

fn scan_device(context: &Context, args: &Scan, device: &BlockDevice, out: &mut Output) -> Result<Exit> {
    let scanner = Scanner::new(context, args)?;
    let disk =
        DirectDisk::open_device(device, Mode::ReadOnly).map_err(|error| EngineError::Device(error.to_string()))?;
    let key = device_key(device);
    let _lock = context.lock(&format!("device-{key}.scan"), &device.path.display().to_string())?;
    let order = scanner.order(true);
    check_ranges(&order, device.size)?;
    let subject = Subject::Device(key);
    let mut pass = scanner.pass(subject.clone(), || {
        let area = Area::new(Place::Main, device_area(device, &order));
        Pass::new(subject, order.clone(), vec![area], now())
    })?;
    pass.result.trouble = None;
    let order = pass.order.clone();
    let mut stage = DeviceStage { scanner, device, disk: Arc::new(disk), order };
    let pace = stage.scanner.pace();
    let end = conduct(&mut pass, &mut stage, pace);
    let shown = device.path.display().to_string();
    finish(Shown::Device(&shown), &mut pass, end, stage.scanner, &[], out)
}

/// What a device's checkpoint goes by. A device without a name of its own is known by its path only.
fn device_key(device: &BlockDevice) -> String {
    let identity = &device.identity;
    let named = [&identity.wwn, &identity.serial, &identity.partition_uuid, &identity.virtual_uuid];
    let fingerprint: String = identity.fingerprint.chars().take(32).collect();
    if named.iter().any(|name| name.is_some()) {
        return fingerprint;
    }
    format!("{fingerprint}-{}", device.name.replace(|c: char| !c.is_ascii_alphanumeric(), "_"))
}

fn device_area(device: &BlockDevice, order: &Order) -> RangeSet {
    let whole = Range::new(Sectors::ZERO, device.size.align_down(device.logical_block));
    match &order.ranges {
        Some(ranges) => ranges.iter().filter_map(|range| range.intersect(whole?)).collect(),
        None => whole.into_iter().collect(),
    }
}

impl Stage for DeviceStage<'_> {
    type Error = anyhow::Error;

    fn present(&mut self, _place: Place) -> Result<Option<Present>> {
        let block = self.device.logical_block;
        Ok(Some(Present {
            disk: self.disk.clone(),
            limits: device_area(self.device, &self.order),
            shape: shape(self.scanner.context, self.device.devno, block, Sectors(8).max(block), &self.order),
        }))
    }

    fn others(&mut self, _place: Place) -> Box<dyn Others + Send> {
        Box::new(Neighbours::new(&self.scanner.context.host, self.device.devno, &[]))
    }

    fn verify(&mut self, _place: Place, _bad: &RangeSet) -> Option<Box<Verify<'static>>> {
        None
    }

    fn act(&mut self, _pass: &mut Pass, _place: Place, _found: &Found) -> Result<()> {
        Ok(())
    }

    fn tick(&mut self, progress: Progress) -> Flow {
        self.scanner.tick(progress)
    }

    fn save(&mut self, pass: &Pass) {
        self.scanner.save(pass);
    }
}

/// Ranges that a person named must be inside, and whole blocks are read in any case.
fn check_ranges(order: &Order, size: Sectors) -> Result<()> {
    match order.ranges.iter().flat_map(RangeSet::iter).find(|range| range.end() > size) {
        Some(range) => Err(Usage(format!("--range {range}: there are {size} sectors")).into()),
        None => Ok(()),
    }
}

/// Saves how it went, reports, and gives the exit code.
fn finish(
    shown: Shown<'_>,
    pass: &mut Pass,
    end: Result<End>,
    mut scanner: Scanner<'_>,
    acted: &[Acted],
    out: &mut Output,
) -> Result<Exit> {
    let trouble = end.err();
    pass.result.trouble = trouble.as_ref().map(|error| format!("{error:#}"));
    scanner.save(pass);
    let report = Report { shown, pass, acted, stopped: scanner.stopped };
    report.render(out);
    match trouble {
        Some(error) => Err(error),
        None if scanner.stopped == Some(Stopped::Interrupted) => Ok(Exit::Failed),
        None if report.needs_attention() => Ok(Exit::Attention),
        None => Ok(Exit::Done),
    }
}
