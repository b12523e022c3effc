//! `scan`: finds bad and slow sectors of a setup or a device, and moves those of a setup.

use super::probe::shape;
use super::scan_report::{Report, Subject as Shown};
use super::scan_setup::{self, Ended, Part};
use super::scanner::{Scanner, Stopped, widened};
use super::{Context, Exit, Output, cron};
use crate::block::device::BlockDevice;
use crate::block::direct::{DirectDisk, Mode};
use crate::cli::args::Scan;
use crate::cli::choices::ScanChoices;
use crate::cli::context::Usage;
use crate::cli::exit_of;
use crate::cli::output::complain;
use crate::cli::selection::select;
use crate::cli::signals::Signals;
use crate::engine::{EngineError, now};
use crate::files::Owned;
use crate::scan::conduct::{Present, Progress, Stage, conduct};
use crate::scan::neighbours::Neighbours;
use crate::scan::pace::Others;
use crate::scan::pass::{Area, Order, Pass, Place, Subject};
use crate::scan::run::{Flow, Verify};
use crate::scan::survey::Found;
use crate::units::{Range, RangeSet, Sectors};
use anyhow::Result;
use std::cell::RefCell;
use std::sync::Arc;

pub(super) fn scan(context: &Context, args: &Scan, out: &mut Output) -> Result<Exit> {
    let names = if args.cron || args.device.is_some() { Vec::new() } else { select(context, &args.names)? };
    match (&args.device, names.as_slice()) {
        (Some(path), _) => scan_device(context, args, &context.device(path)?, out),
        (None, _) if args.cron => cron::cron(context, args, out),
        (None, [name]) => scan_setup(context, args, name, out),
        (None, _) => Err(Usage("one setup can be scanned at a time, unless --cron".into()).into()),
    }
}

/// Takes note of the signals that ask to stop.
pub(super) fn signals() -> Result<RefCell<Signals>> {
    Ok(RefCell::new(Signals::take().map_err(|e| EngineError::system("cannot take signals", e))?))
}

fn scan_setup(context: &Context, args: &Scan, name: &str, out: &mut Output) -> Result<Exit> {
    let choices = ScanChoices::new(args, context.settings(Some(name))?);
    let signals = signals()?;
    let scanner = Scanner::new(context, args, &choices, &signals, choices.time_budget);
    let Some(ended) = scan_setup::run(scanner, name, Part::Whole)? else { return Ok(Exit::Done) };
    let lost: Vec<_> = ended.acted.iter().flat_map(|acted| acted.outcome.lost.iter().copied()).collect();
    let owners = context.owners(name, &lost, choices.patience);
    finish(args, Shown::Setup(name), ended, owners, out)
}

/// A device being scanned, which is nobody's main as far as this scan goes.
struct DeviceStage<'a> {
    scanner: Scanner<'a>,
    device: &'a BlockDevice,
    disk: Arc<DirectDisk>,
    order: Order,
}

fn scan_device(context: &Context, args: &Scan, device: &BlockDevice, out: &mut Output) -> Result<Exit> {
    let choices = ScanChoices::new(args, context.settings(None)?);
    let signals = signals()?;
    let scanner = Scanner::new(context, args, &choices, &signals, choices.time_budget);
    let disk =
        DirectDisk::open_device(device, Mode::ReadOnly).map_err(|error| EngineError::Device(error.to_string()))?;
    let key = device_key(device);
    let shown = device.path.display().to_string();
    let _lock = context.lock(&format!("device-{key}.scan"), &shown)?;
    let order = widened(scanner.order(true), device.logical_block, device.size)?;
    let subject = Subject::Device(key);
    let begun = scanner.pass(subject.clone(), true, || {
        let area = Area::new(Place::Main, device_area(device, &order));
        Pass::new(subject, order.clone(), vec![area], now())
    })?;
    let Some(mut pass) = begun else { return Ok(Exit::Done) };
    pass.order.slow_ms = choices.slow_ms;
    let order = pass.order.clone();
    let pace = scanner.pace(&pass);
    let mut stage = DeviceStage { scanner, device, disk: Arc::new(disk), order };
    let trouble = conduct(&mut pass, &mut stage, pace).err();
    pass.result.trouble = trouble.as_ref().map(|error| format!("{error:#}"));
    stage.scanner.save(&pass);
    let bad: Vec<Range> =
        pass.areas.iter().flat_map(|area| area.found_so_far().bad.iter().collect::<Vec<_>>()).collect();
    let owners = context.owners_on(device, &bad, choices.patience);
    let ended = Ended { pass, acted: Vec::new(), stopped: stage.scanner.stopped, trouble };
    finish(args, Shown::Device(&shown), ended, owners, out)
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

    fn verify(&mut self, _place: Place, bad: &RangeSet) -> Option<Box<Verify<'static>>> {
        self.scanner.verify(self.device.devno, &*self.disk, bad)
    }

    fn acts(&self) -> bool {
        false
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

/// Reports, and gives the exit code.
fn finish(args: &Scan, shown: Shown<'_>, ended: Ended, owners: Vec<Owned>, out: &mut Output) -> Result<Exit> {
    let report = Report { shown, pass: &ended.pass, acted: &ended.acted, stopped: ended.stopped, owners: &owners };
    if args.nagios {
        let trouble = ended.trouble.as_ref().map(|error| format!("{error:#}"));
        let answer = report.answer(trouble.as_deref());
        out.line(answer.line());
        return Ok(answer.verdict.exit());
    }
    report.render(out);
    let attention = report.needs_attention();
    let moved = ended.pass.result.moved > Sectors::ZERO;
    match ended.trouble {
        // The report has told it already.
        Some(error) if out.is_json() || moved => {
            complain(&format!("{error:#}"));
            // Nothing was changed, says a refusal; that is not so any more.
            Ok(if moved { Exit::Failed } else { exit_of(&error) })
        }
        Some(error) => Err(error),
        None if ended.stopped == Some(Stopped::Interrupted) => Ok(Exit::Failed),
        None if attention => Ok(Exit::Attention),
        None => Ok(Exit::Done),
    }
}
