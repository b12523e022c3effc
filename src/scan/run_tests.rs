use super::*;
use crate::block::ram::{Bad, RamDisk};
use crate::block::{Operation, check_request};
use crate::scan::pace::{Alone, Manners};
use crate::scan::survey::Shape;
use crate::units::RangeSet;
use nix::errno::Errno;
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn range(start: u64, len: u64) -> Range {
    Range::new(Sectors(start), Sectors(len)).unwrap()
}

fn survey_over(area: Range) -> Survey {
    let one = Sectors(1);
    let shape = Shape { chunk: CHUNK, step: one, block: one, unit: Sectors(8), slow_ms: 0, retries: 0 };
    Survey::new([area].into_iter().collect(), shape)
}

fn survey_of(disk: &RamDisk) -> Survey {
    survey_over(range(0, disk.size().0))
}

/// Stops after so many ticks, and keeps what it was given to save.
#[derive(Default)]
struct Watcher {
    stop_after: Option<u32>,
    saved: Vec<Survey>,
}

impl Monitor for Watcher {
    fn tick(&mut self, _: Standing) -> Flow {
        match &mut self.stop_after {
            Some(0) => Flow::Stop,
            Some(left) => {
                *left -= 1;
                Flow::Go
            }
            None => Flow::Go,
        }
    }
    fn wants_to_save(&mut self, _: Standing) -> bool {
        true
    }
    fn save(&mut self, survey: Survey) {
        self.saved.push(survey);
    }
}

fn run_it(disk: &dyn Disk, survey: &mut Survey, rate: Option<u64>, watcher: &mut Watcher) -> Result<End, RunFault> {
    let mut alone = Alone;
    let mut pacer = Pacer::new(rate, Manners::None, &mut alone, CHUNK, DEPTH);
    run(disk, None, survey, &mut pacer, watcher)
}

#[test]
fn medium_errors_and_repeated_eio_are_found_and_nothing_else() {
    let disk = RamDisk::new("d", Sectors(100_000));
    disk.set_bad(range(5_000, 3), Bad::Reads(Errno::ENODATA));
    disk.set_bad(range(77_777, 1), Bad::Reads(Errno::EIO));
    let mut survey = survey_of(&disk);
    assert_eq!(run_it(&disk, &mut survey, None, &mut Watcher::default()).unwrap(), End::Finished);
    assert_eq!(survey.found().bad, [range(5_000, 3), range(77_777, 1)].into_iter().collect());
}

#[test]
fn a_disk_that_says_eio_everywhere_has_no_bad_sectors() {
    let disk = RamDisk::new("d", Sectors(100_000));
    disk.set_failing(Some(Errno::EIO));
    let mut survey = survey_of(&disk);
    let fault = run_it(&disk, &mut survey, None, &mut Watcher::default()).unwrap_err();
    assert!(matches!(fault, RunFault::NotTheMedium { .. }), "{fault}");
    assert!(survey.found().bad.is_empty());
}

#[test]
fn transport_trouble_ends_it_and_it_can_go_on_later() {
    for errno in [Errno::ETIMEDOUT, Errno::ENOLINK, Errno::ENXIO, Errno::ENODEV, Errno::EREMOTEIO] {
        let disk = RamDisk::new("d", Sectors(100_000));
        disk.set_bad(range(60_000, 1), Bad::Reads(errno));
        disk.set_bad(range(70_000, 1), Bad::Reads(Errno::ENODATA));
        let mut survey = survey_of(&disk);
        let fault = run_it(&disk, &mut survey, None, &mut Watcher::default()).unwrap_err();
        assert!(matches!(&fault, RunFault::Transport(e) if e.errno == errno), "{fault}");
        assert!(survey.found().bad.is_empty());
        disk.clear_bad();
        disk.set_bad(range(70_000, 1), Bad::Reads(Errno::ENODATA));
        assert_eq!(run_it(&disk, &mut survey, None, &mut Watcher::default()).unwrap(), End::Finished);
        assert_eq!(survey.found().bad, [range(70_000, 1)].into_iter().collect());
    }
}

/// A disk that resets itself when a bad sector is read: what is read next fails, wherever it is.
#[derive(Debug)]
struct Resetting {
    disk: RamDisk,
    bad: Range,
    resets: AtomicBool,
}

impl Disk for Resetting {
    fn name(&self) -> &Arc<str> {
        self.disk.name()
    }
    fn size(&self) -> Sectors {
        self.disk.size()
    }
    fn logical_block(&self) -> Sectors {
        self.disk.logical_block()
    }
    fn read(&self, start: Sectors, buf: &mut [u8]) -> Result<(), DiskError> {
        let here = check_request(self, Operation::Read, start, buf.len())?;
        let failed = |errno| {
            let device = self.disk.name().clone();
            Err(DiskError { device, operation: Operation::Read, start, len: here.len(), errno })
        };
        if here.overlaps(self.bad) {
            self.resets.store(true, Ordering::SeqCst);
            return failed(Errno::EIO);
        }
        if self.resets.swap(false, Ordering::SeqCst) { failed(Errno::ETIMEDOUT) } else { self.disk.read(start, buf) }
    }
    fn write(&self, start: Sectors, buf: &[u8]) -> Result<(), DiskError> {
        self.disk.write(start, buf)
    }
    fn flush(&self) -> Result<(), DiskError> {
        self.disk.flush()
    }
}

#[test]
fn the_place_that_makes_a_disk_reset_itself_is_named() {
    let bad = range(60_000, 1);
    let disk = Resetting { disk: RamDisk::new("d", Sectors(100_000)), bad, resets: AtomicBool::new(false) };
    // One request at a time, or another one is hit by the reset first.
    let mut survey = survey_over(range(59_904, CHUNK.0));
    let fault = run_it(&disk, &mut survey, None, &mut Watcher::default()).unwrap_err();
    assert!(matches!(&fault, RunFault::TransportAfter { trouble, .. } if trouble.errno == Errno::ETIMEDOUT), "{fault}");
    let began = fault.began_with().unwrap();
    assert!(Range::new(began.start, began.len).unwrap().overlaps(bad), "{fault}");
    assert!(survey.found().bad.is_empty());
}

#[test]
fn a_controller_that_dies_half_way_condemns_nothing() {
    // From the 30th read on everything fails with EIO, as it does behind many USB bridges.
    let disk = RamDisk::new("d", Sectors(100_000));
    disk.fail_reads(30, u64::MAX / 2, Errno::EIO);
    let mut survey = survey_of(&disk);
    let fault = run_it(&disk, &mut survey, None, &mut Watcher::default()).unwrap_err();
    assert!(matches!(fault, RunFault::NotTheMedium { .. }), "{fault}");
    assert!(survey.found().bad.is_empty());
}

#[test]
fn it_stops_when_told_and_goes_on_from_what_was_saved() {
    let disk = RamDisk::new("d", Sectors(100_000));
    disk.set_bad(range(90_000, 5), Bad::Reads(Errno::ENODATA));
    let mut survey = survey_of(&disk);
    let mut watcher = Watcher { stop_after: Some(3), saved: Vec::new() };
    assert_eq!(run_it(&disk, &mut survey, Some(20 << 20), &mut watcher).unwrap(), End::Stopped);
    let mut saved = watcher.saved.pop().unwrap();
    assert!(saved.settled() > Sectors::ZERO && saved.settled() < Sectors(100_000));
    let before = disk.sectors_read();
    assert_eq!(run_it(&disk, &mut saved, None, &mut Watcher::default()).unwrap(), End::Finished);
    assert_eq!(saved.found().bad, [range(90_000, 5)].into_iter().collect());
    assert!(disk.sectors_read() - before < 100_000, "what was read is not read again");
}

#[test]
fn verify_finds_and_reads_tell_where() {
    let disk = RamDisk::new("d", Sectors(100_000));
    disk.set_bad(range(5_000, 3), Bad::Reads(Errno::ENODATA));
    let asked = Mutex::new(0);
    let verify = |range: Range| {
        *asked.lock().unwrap() += 1;
        let mut buf = vec![0; range.len().to_usize_bytes().unwrap()];
        disk.read(range.start(), &mut buf)
    };
    let mut survey = survey_of(&disk);
    let mut alone = Alone;
    let mut pacer = Pacer::new(None, Manners::None, &mut alone, CHUNK, DEPTH);
    let end = run(&disk, Some(&verify), &mut survey, &mut pacer, &mut Watcher::default()).unwrap();
    assert_eq!(end, End::Finished);
    assert_eq!(survey.found().bad, [range(5_000, 3)].into_iter().collect());
    assert_eq!(*asked.lock().unwrap(), 100_000u64.div_ceil(CHUNK.0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn threads_change_nothing_in_what_is_found(runs in prop::collection::vec((0u64..50_000, 1u64..40), 0..40)) {
        let disk = RamDisk::new("d", Sectors(50_000));
        let bad: RangeSet =
            runs.into_iter().filter_map(|(s, l)| range(s, l).intersect(range(0, 50_000))).collect();
        bad.iter().for_each(|run| disk.set_bad(run, Bad::Reads(Errno::ENODATA)));
        let mut survey = survey_of(&disk);
        prop_assert_eq!(run_it(&disk, &mut survey, None, &mut Watcher::default()).unwrap(), End::Finished);
        prop_assert_eq!(&survey.found().bad, &bad);
    }
}
