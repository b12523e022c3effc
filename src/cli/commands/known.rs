//! What is known of the disks of a setup: what was recorded of them, what the last scan has found, and what this machine notices now.
//!
//! Invariant: what cannot be read is not known, and is no reason that anything else does not work.

use super::Context;
use crate::block::FaultClass;
use crate::engine::session::Session;
use crate::engine::{counting, now};
use crate::forecast::{Foresight, foresee};
use crate::format::metadata::{AllocationPolicy, Metadata};
use crate::health::{Evidence, Health, Noticed, judge};
use crate::history::{self, DiskRecord, Record, What};
use crate::map::SpareIndex;
use crate::pool::Scores;
use crate::scan::checkpoint;
use crate::scan::pass::{Pass, Place, Subject};
use crate::scan::survey::Found;
use crate::smart::Smart;
use crate::stats::{Counters, SetupStats};
use crate::units::{DevNo, RangeSet, Sectors};
use crate::watch::kmsg::reports_since;
use crate::watch::position::boot_id;
use crate::watch::report::ErrorReport;
use crate::watch::stack::number_of;
use std::path::PathBuf;

/// A request that takes so long is slow, in nanoseconds.
const SLOW_NS: u64 = 1_000_000_000;

/// A device of a setup.
#[derive(Clone, Debug)]
pub(super) struct MemberDisk {
    /// `main`, or `spare` and its number.
    pub(super) role: String,
    pub(super) devno: DevNo,
    pub(super) place: Place,
}

/// The main of a setup.
pub(super) fn main_of(session: &Session<'_>) -> MemberDisk {
    MemberDisk { role: "main".into(), devno: session.main.devno, place: Place::Main }
}

/// The devices of a setup that are there.
pub(super) fn members(session: &Session<'_>) -> Vec<MemberDisk> {
    let spares = (0u8..).map(SpareIndex).zip(&session.spares).filter_map(|(index, member)| {
        let member = member.as_ref().filter(|member| !member.is_gone())?;
        Some(MemberDisk { role: format!("spare{index}"), devno: member.devno, place: Place::Spare(index) })
    });
    std::iter::once(main_of(session)).chain(spares).collect()
}

/// Where histories are.
pub(super) fn directory(context: &Context) -> PathBuf {
    context.state().join("history")
}

/// What is known of the disks of a setup from before.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The history, in the order in which it was written.
    pub(super) records: Vec<Record>,
    /// The last scan of the setup as a whole.
    pub(super) pass: Option<Pass>,
    /// The last scan of the regions that are watched more closely.
    suspects: Option<Pass>,
}

impl Known {
    pub(super) fn load(context: &Context, metadata: &Metadata) -> Known {
        let scan = context.state().join("scan");
        let last = |subject| checkpoint::load(&scan, &subject).ok().flatten();
        Known {
            records: history::read(&directory(context), metadata.setup).unwrap_or_default(),
            pass: last(Subject::Setup(metadata.setup)),
            suspects: last(Subject::Suspects(metadata.setup)),
        }
    }

    /// What was last recorded of a disk.
    pub(super) fn last_of(&self, role: &str) -> Option<(u64, &DiskRecord)> {
        self.records.iter().rev().find_map(|record| match &record.what {
            What::Disk(disk) if disk.device == role => Some((record.time, disk)),
            _ => None,
        })
    }

    /// What the last scans have found on a place.
    pub(super) fn found_on(&self, place: Place) -> Vec<Found> {
        let passes = self.pass.iter().chain(&self.suspects);
        let areas = passes.flat_map(|pass| &pass.areas).filter(|area| area.place == place);
        areas.map(|area| area.found_so_far()).collect()
    }

    /// What the last scans could not read of a place, and how many places were slow; nothing when it was not scanned.
    fn found(&self, place: Place) -> Option<(Sectors, u64)> {
        let found = self.found_on(place);
        if found.is_empty() {
            return None;
        }
        let bad: RangeSet = found.iter().flat_map(|found| found.bad.iter()).collect();
        let weak: RangeSet = found.iter().flat_map(|found| &found.weak).map(|weak| weak.range).collect();
        Some((bad.sectors(), u64::try_from(weak.len()).unwrap_or(u64::MAX)))
    }

    /// Judges a disk by all of it, and by what it says now.
    pub(super) fn judge(
        &self,
        disk: &MemberDisk,
        smart: Option<&Smart>,
        noticed: Noticed,
        metadata: &Metadata,
    ) -> Health {
        let serial = smart.and_then(|smart| smart.serial.as_ref());
        let of_this = |record: &Record| match &record.what {
            // Another disk may have had this place before.
            What::Disk(seen) if seen.device == disk.role && seen.smart.serial.as_ref() == serial => {
                Some((record.time, seen.smart.clone()))
            }
            _ => None,
        };
        let mut before: Vec<(u64, Smart)> = self.records.iter().filter_map(of_this).collect();
        before.sort_by_key(|(time, _)| *time);
        let (moved, spare_bad) = match disk.place {
            Place::Main => (self.moved(), 0),
            Place::Spare(index) => {
                let runs = metadata.bad_blocks.get(&index).into_iter().flatten();
                (Vec::new(), runs.map(|run| run.len().0).fold(0, u64::saturating_add))
            }
        };
        let found = self.found(disk.place);
        judge(&Evidence {
            now: now(),
            smart,
            before: &before,
            bad: found.map(|(bad, _)| bad),
            weak_places: found.map_or(0, |(_, weak)| weak),
            moved: &moved,
            spare_bad: Sectors(spare_bad),
            noticed,
        })
    }

    /// How a disk is doing by what was last recorded of it, and when that was: nobody is asked.
    pub(super) fn recorded(&self, disk: &MemberDisk, metadata: &Metadata) -> Option<(u64, Health)> {
        let (time, record) = self.last_of(&disk.role)?;
        Some((time, self.judge(disk, Some(&record.smart), record.noticed.unwrap_or_default(), metadata)))
    }

    /// How long the room on the spares lasts: by the history, and by what the metadata recorded before there was one.
    pub(super) fn foresee(&self, metadata: &Metadata, free: Sectors) -> Foresight {
        let (now, remapped) = (now(), metadata.map.remapped());
        let recorded = metadata.health.used.iter().map(|sample| (sample.time(), sample.sectors()));
        let mut past: Vec<(u64, Sectors)> = recorded.chain(self.moved()).filter(|(time, _)| *time < now).collect();
        past.sort_by_key(|(time, _)| *time);
        past.push((now, remapped));
        foresee(&past, free, now)
    }

    fn moved(&self) -> Vec<(u64, Sectors)> {
        let of_setup = |record: &Record| match &record.what {
            What::Setup(setup) => Some((record.time, setup.remapped_sectors)),
            _ => None,
        };
        let mut moved: Vec<(u64, Sectors)> = self.records.iter().filter_map(of_setup).collect();
        moved.sort_by_key(|(time, _)| *time);
        moved
    }
}

/// How well the disks of the spares are by what was last recorded of them, where the setup chooses among them by that.
pub(in crate::cli) fn disk_scores(context: &Context, session: &Session<'_>) -> Scores {
    if session.metadata.config.policy.allocation != AllocationPolicy::Health {
        return Scores::new();
    }
    let known = Known::load(context, &session.metadata);
    let score = |disk: MemberDisk| match disk.place {
        Place::Spare(index) => Some((index, known.recorded(&disk, &session.metadata)?.1.score?)),
        Place::Main => None,
    };
    members(session).into_iter().filter_map(score).collect()
}

/// What this machine notices of disks now: the kernel log, read once for all of them.
#[derive(Debug)]
pub(super) struct Notices<'a> {
    context: &'a Context,
    reports: Vec<ErrorReport>,
}

impl<'a> Notices<'a> {
    /// Reads the kernel log.
    pub(super) fn read(context: &'a Context) -> Notices<'a> {
        let host = &context.host;
        let log = reports_since(&host.dev().join("kmsg"), None, &boot_id(host));
        Notices { context, reports: log.map(|(log, _)| log.reports).unwrap_or_default() }
    }

    /// Of a device: what the kernel log says of the disks below it.
    pub(super) fn of_device(&self, devno: DevNo) -> Noticed {
        let host = &self.context.host;
        let disks = host.lowest_disks(devno);
        let count = |class: FaultClass| {
            let is_it = |report: &&ErrorReport| {
                report.class == class && number_of(host, &report.device).is_some_and(|disk| disks.contains(&disk))
            };
            u64::try_from(self.reports.iter().filter(is_it).count()).unwrap_or(u64::MAX)
        };
        let (medium_errors, transport_errors) = (count(FaultClass::Medium), count(FaultClass::Transport));
        Noticed { medium_errors, transport_errors, ..Noticed::default() }
    }

    /// Of a disk of a setup: also how long its users' requests took, where that is counted.
    pub(super) fn of_member(&self, name: &str, disk: &MemberDisk) -> Noticed {
        let stats = self.context.dm().ok().and_then(|dm| counting::read(dm, name).ok()).unwrap_or_default();
        let (requests, slow_requests) = slow(&stats, disk.place);
        Noticed { requests, slow_requests, ..self.of_device(disk.devno) }
    }
}

/// Requests to a place that were counted, and those that were slow. Of main it is what is left when the spares' are taken off.
fn slow(stats: &SetupStats, place: Place) -> (u64, u64) {
    let counts = |counters: &Counters| {
        let histogram = &counters.histogram;
        let beyond = histogram.bounds_ns.partition_point(|bound| *bound <= SLOW_NS);
        let slow = histogram.counts.iter().skip(beyond).copied().fold(0, u64::saturating_add);
        (histogram.total(), slow)
    };
    let spare = |spare: &crate::stats::SpareStats| spare.counted.as_ref().map_or((0, 0), |c| counts(&c.counters));
    match place {
        Place::Spare(index) => stats.spares.iter().find(|s| s.index == index.0).map_or((0, 0), spare),
        Place::Main => {
            let all = stats.setup.as_ref().map_or((0, 0), |counted| counts(&counted.counters));
            stats
                .spares
                .iter()
                .map(spare)
                .fold(all, |(requests, slow), (r, s)| (requests.saturating_sub(r), slow.saturating_sub(s)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{Counted, Histogram, SpareStats};

    #[test]
    fn what_takes_longer_than_a_second_is_slow_and_the_spares_are_taken_off_main() {
        let counted = |counts: [u64; 4]| {
            let histogram = Histogram { bounds_ns: vec![1_000_000, SLOW_NS, 2 * SLOW_NS], counts: counts.into() };
            Some(Counted { since: 1, counters: Counters { histogram, ..Counters::default() } })
        };
        let spare = SpareStats { index: 3, counted: counted([10, 0, 1, 0]), ..SpareStats::default() };
        let stats = SetupStats { setup: counted([100, 7, 3, 2]), spares: vec![spare] };
        assert_eq!(slow(&stats, Place::Main), (101, 4));
        assert_eq!(slow(&stats, Place::Spare(SpareIndex(3))), (11, 1));
        assert_eq!(slow(&stats, Place::Spare(SpareIndex(4))), (0, 0));
        assert_eq!(slow(&SetupStats::default(), Place::Main), (0, 0));
    }
}
