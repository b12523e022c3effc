//! What a report means for a setup: which of its sectors are to be probed. Pure, but for [`reported_since`].
//!
//! Invariants:
//! - a report concerns a setup only when its main or one of its spares lies on the disk that it names, there;
//! - what was probed this very moment is no suspect because of a report that came meanwhile.

use super::debounce::{Batch, Debounce, Place, Suspect};
use super::kmsg::{LogError, reports_since};
use super::locate::Located;
use super::position::{Position, boot_id};
use super::report::ErrorReport;
use super::setups::{Stacks, Watched, stacks};
use super::stack::number_of;
use crate::block::FaultClass;
use crate::block::host::Host;
use crate::dm::DeviceMapper;
use crate::map::SpareIndex;
use crate::units::{DevNo, Range, Sectors, coalesce};
use std::time::Duration;

/// What is probed around a reported sector of a spare: aligned runs of so many sectors (64 KiB).
const AROUND_SLOTS: Sectors = Sectors(128);

/// What is to be probed of a spare when these sectors of it are reported.
pub fn around_slots(reported: &[Range]) -> Vec<Range> {
    coalesce(reported.iter().filter_map(|range| range.widen_to(AROUND_SLOTS, Sectors(u64::MAX))).collect())
}

/// Sectors of a setup that the kernel reported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suspects {
    /// Sectors of main to probe, with those around what was reported: sorted, disjoint.
    pub main: Vec<Range>,
    /// Sectors of spares that were reported.
    pub spares: Vec<(SpareIndex, Vec<Range>)>,
    /// How many reports this comes from.
    pub reports: u64,
    /// The first of them, in words.
    pub cause: String,
    /// Whether the reported sectors could not be translated, so that `main` is but a guess.
    pub guessed: bool,
    /// Whether the kernel may have left reports out.
    pub hidden: bool,
}

/// What a report says about a setup: `None` when it does not concern its devices; no suspects when it lies in what was
/// probed this moment.
pub(super) fn concerned(
    stacks: &Stacks,
    report: &ErrorReport,
    disk: DevNo,
    probed: Option<&Suspects>,
) -> Option<Vec<Suspect>> {
    let mut out = Vec::new();
    let mut any = false;
    let spares = stacks.spares.iter().map(|(index, stack)| (Place::Spare(*index), stack));
    for (place, stack) in std::iter::once((Place::Main, &stacks.main)).chain(spares) {
        if stack.locate(disk, report.reach) == Located::Nowhere {
            continue;
        }
        any = true;
        let known: Vec<Range> = match (probed, place) {
            (Some(suspects), Place::Main) => suspects.main.clone(),
            (Some(suspects), Place::Spare(index)) => {
                suspects.spares.iter().find(|(i, _)| *i == index).map_or_else(Vec::new, |(_, r)| around_slots(r))
            }
            (None, _) => Vec::new(),
        };
        // Our own requests begin in what we probe, and do not reach as far as they might for all that a report says.
        let named = match stack.locate(disk, report.range) {
            Located::Nowhere => Vec::new(),
            Located::At(ranges) | Located::Somewhere { guess: ranges } => ranges,
        };
        if !named.is_empty() && named.iter().all(|range| range.without(&known).is_empty()) {
            continue;
        }
        // Main is probed, so more does no harm. What is said of a spare is what the kernel named.
        let sectors = if place == Place::Main { report.reach } else { report.range };
        let (ranges, guessed) = match stack.locate(disk, sectors) {
            Located::Nowhere => continue,
            Located::At(ranges) => (ranges, false),
            Located::Somewhere { guess } => (guess, true),
        };
        let ranges: Vec<Range> = ranges.into_iter().flat_map(|range| range.without(&known)).collect();
        if !ranges.is_empty() {
            let cause = report.to_string();
            out.push(Suspect { place, ranges, guessed, cause, sequence: report.sequence, reports: 1 });
        }
    }
    any.then_some(out)
}

impl Suspects {
    /// What is to be probed for a batch.
    pub fn of(watched: &Watched, batch: &Batch) -> Suspects {
        let spares = watched.spares.iter().filter_map(|spare| {
            let ranges = batch.reported.get(&Place::Spare(spare.index))?;
            Some((spare.index, ranges.clone()))
        });
        Suspects {
            main: batch.around(Place::Main, watched.size),
            spares: spares.collect(),
            reports: batch.reports,
            cause: batch.cause.clone(),
            guessed: batch.guessed,
            hidden: batch.hidden,
        }
    }
}

/// What the kernel may report because a probe has found these sectors bad: the requests that they made fail.
pub(super) fn explained(bad: &[Range]) -> Vec<Range> {
    around_slots(bad)
}

/// What lies beyond the edge of what was probed, where there were bad sectors up to the edge.
/// `first` is the log record that it all began with: until it is done with, the log is to be gone through again.
pub(super) fn beyond(probed: &Suspects, bad: &[Range], size: Sectors, first: Option<u64>) -> Vec<Suspect> {
    const WHY: &str = "bad sectors up to the edge of what was probed";
    let is_bad = |sector: Sectors| bad.iter().any(|range| range.contains(sector));
    let edges = probed.main.iter().flat_map(|range| {
        let last = range.end().checked_sub(Sectors(1));
        let after = last.filter(|last| is_bad(*last)).map(|_| range.end()).filter(|next| *next < size);
        let before = range.start().checked_sub(Sectors(1)).filter(|_| is_bad(range.start()));
        [before, after].into_iter().flatten()
    });
    let suspect = |sector| {
        let cause = match probed.cause.starts_with(WHY) {
            true => probed.cause.clone(),
            false => format!("{WHY} ({})", probed.cause),
        };
        let ranges = Range::new(sector, Sectors(1)).into_iter().collect();
        Suspect { place: Place::Main, ranges, guessed: false, cause, sequence: first, reports: 0 }
    };
    edges.map(suspect).collect()
}

/// What the kernel log says about a setup since `position`, all at once: for a command that runs now and then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// Sectors to probe; none when nothing was reported.
    pub suspects: Suspects,
    /// Records that were overwritten before anybody read them: errors may have been missed.
    pub overwritten: u64,
    /// To be kept once the suspects are dealt with ([`super::position::save`]).
    pub position: Position,
}

/// Goes through the kernel log since `position`; through all that it still has when there is none of this boot.
///
/// # Errors
/// [`LogError`] when the log cannot be read.
pub fn reported_since(
    dm: &dyn DeviceMapper,
    host: &Host,
    watched: &Watched,
    position: Option<&Position>,
) -> Result<Past, LogError> {
    let (log, position) = reports_since(&host.dev().join("kmsg"), position, &boot_id(host))?;
    let stacks = stacks(dm, host, watched);
    let mut gathered = Debounce::default();
    for report in log.reports.iter().filter(|report| may_mean_bad_sectors(report)) {
        let Some(disk) = number_of(host, &report.device) else { continue };
        for suspect in concerned(&stacks, report, disk, None).unwrap_or_default() {
            gathered.add(Duration::ZERO, suspect);
        }
    }
    if log.hidden {
        gathered.hidden(Duration::ZERO);
    }
    let batch = gathered.take(Duration::MAX).unwrap_or_default();
    Ok(Past { suspects: Suspects::of(watched, &batch), overwritten: log.overwritten, position })
}

/// Whether the report is a reason to probe the sectors that it names.
pub fn may_mean_bad_sectors(report: &ErrorReport) -> bool {
    matches!(report.class, FaultClass::Medium | FaultClass::Ambiguous) && report.request.is_about_sectors()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Operation;
    use crate::watch::locate::{Made, Node, Stack};
    use crate::watch::report::{Reported, Request};
    use crate::watch::setups::WatchedSpare;

    const SDA: DevNo = DevNo { major: 8, minor: 0 };
    const PART: DevNo = DevNo { major: 8, minor: 1 };
    const SDB: DevNo = DevNo { major: 8, minor: 16 };

    fn range(start: u64, len: u64) -> Range {
        Range::new(Sectors(start), Sectors(len)).unwrap()
    }

    /// Main is a partition of sda from sector 2048 on, the spare the rest of it from sector 20000 on.
    fn one_disk() -> (Stacks, Watched) {
        let disk = (SDA, Node { size: Sectors(100_000), made: Made::Disk });
        let part = |devno, start| {
            let made = Made::Partition { of: SDA, start: Sectors(start) };
            let nodes = [disk.clone(), (devno, Node { size: Sectors(10_000), made })];
            Stack { top: devno, nodes: nodes.into() }
        };
        let spare = WatchedSpare { index: SpareIndex(0), devno: SDB, private: SDB, size: Sectors(10_000) };
        let watched = Watched {
            setup: uuid::Uuid::nil(),
            name: "data".into(),
            main: PART,
            size: Sectors(10_000),
            spares: vec![spare],
        };
        (Stacks { main: part(PART, 2048), spares: vec![(SpareIndex(0), part(SDB, 20_000))] }, watched)
    }

    fn report(start: u64, class: FaultClass, request: Request) -> ErrorReport {
        let device = Reported::Name("sda".into());
        ErrorReport {
            device,
            range: range(start, 8),
            reach: range(start, 8),
            request,
            class,
            sequence: Some(3),
            time: Duration::ZERO,
        }
    }

    const READ: Request = Request::Known(Operation::Read);

    #[test]
    fn a_report_is_for_the_device_that_lies_there() {
        let (stacks, _) = one_disk();
        let at = |start| concerned(&stacks, &report(start, FaultClass::Medium, READ), SDA, None);
        let suspects = at(2048 + 100).unwrap();
        assert_eq!((suspects[0].place, &suspects[0].ranges[..]), (Place::Main, &[range(100, 8)][..]));
        assert_eq!(suspects[0].cause, "medium error on sda at sector 2148+8 (read)");
        let suspects = at(20_100).unwrap();
        assert_eq!((suspects[0].place, &suspects[0].ranges[..]), (Place::Spare(SpareIndex(0)), &[range(100, 8)][..]));
        assert_eq!(at(0), None);
        assert_eq!(at(15_000), None);
        let other = DevNo { major: 8, minor: 32 };
        assert_eq!(concerned(&stacks, &report(2148, FaultClass::Medium, READ), other, None), None);
    }

    #[test]
    fn what_was_probed_meanwhile_is_no_suspect() {
        let (stacks, watched) = one_disk();
        let mut gathered = Debounce::default();
        let report = report(2048 + 2044, FaultClass::Medium, READ);
        let suspects = concerned(&stacks, &report, SDA, None).unwrap();
        suspects.into_iter().for_each(|s| gathered.add(Duration::ZERO, s));
        let probed = Suspects::of(&watched, &gathered.take(Duration::MAX).unwrap());
        assert_eq!((&probed.main[..], probed.reports, probed.guessed), (&[range(0, 4096)][..], 1, false));
        assert_eq!(concerned(&stacks, &report, SDA, Some(&probed)), Some(vec![]));
        let ours = ErrorReport { reach: range(2048 + 2044, 2560), ..report.clone() };
        assert_eq!(concerned(&stacks, &ours, SDA, Some(&probed)), Some(vec![]));
        let (range, reach) = (range(2048 + 4090, 8), range(2048 + 4090, 16));
        let beyond = concerned(&stacks, &ErrorReport { range, reach, ..report }, SDA, Some(&probed));
        assert_eq!(beyond.unwrap()[0].ranges, [Range::new(Sectors(4096), Sectors(10)).unwrap()]);
    }

    #[test]
    fn bad_sectors_up_to_the_edge_make_it_go_on() {
        let probed =
            Suspects { main: vec![range(0, 2048), range(4096, 2048)], cause: "x".into(), ..Suspects::default() };
        let edges = |bad: &[Range], size: u64| -> Vec<Range> {
            beyond(&probed, bad, Sectors(size), Some(7)).into_iter().flat_map(|suspect| suspect.ranges).collect()
        };
        assert_eq!(edges(&[range(5, 8), range(4100, 9)], 10_000), []);
        assert_eq!(edges(&[range(0, 8)], 10_000), [], "there is nothing before the first");
        assert_eq!(edges(&[range(2040, 8), range(4096, 1)], 10_000), [range(2048, 1), range(4095, 1)]);
        assert_eq!(edges(&[range(6140, 4)], 10_000), [range(6144, 1)]);
        assert_eq!(edges(&[range(6140, 4)], 6144), [], "nor after the last");
    }

    #[test]
    fn only_what_speaks_of_sectors_is_a_reason_to_probe() {
        use FaultClass::{Ambiguous, Medium, Request as Refused, Transport};
        let write = Request::Known(Operation::Write);
        let flush = Request::Known(Operation::Flush);
        for (class, request, reason) in [
            (Medium, READ, true),
            (Ambiguous, READ, true),
            (Medium, write, true),
            (Medium, Request::Untold, true),
            (Transport, READ, false),
            (Refused, READ, false),
            (Ambiguous, flush, false),
            (Ambiguous, Request::Other, false),
        ] {
            assert_eq!(may_mean_bad_sectors(&report(1, class, request)), reason, "{class:?} {request:?}");
        }
    }
}
