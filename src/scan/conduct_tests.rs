use super::*;
use crate::block::ram::{Bad, RamDisk};
use crate::scan::pace::Alone;
use crate::scan::pass::{Area, Order, Subject, ZONE};
use crate::units::Range;
use nix::errno::Errno;

fn range(start: u64, len: u64) -> Range {
    Range::new(Sectors(start), Sectors(len)).unwrap()
}

/// A setup of RAM disks, in which what is found on main counts as moved.
struct Bench {
    main: Arc<RamDisk>,
    spare: Arc<RamDisk>,
    limits: RangeSet,
    acted: Vec<(Place, Vec<Range>)>,
    saved: Option<String>,
    /// Stop at the tick with this number.
    stop_at: u32,
    ticks: u32,
}

impl Stage for Bench {
    type Error = RunFault;
    fn present(&mut self, place: Place) -> Result<Option<Present>, RunFault> {
        let one = Sectors(1);
        let shape = Shape { chunk: CHUNK, step: one, block: one, unit: Sectors(8), slow_ms: 0, retries: 0 };
        let disk = if place == Place::Main { self.main.clone() } else { self.spare.clone() };
        let limits = if place == Place::Main { self.limits.clone() } else { [range(0, 4096)].into_iter().collect() };
        Ok(Some(Present { disk, limits, shape }))
    }
    fn others(&mut self, _: Place) -> Box<dyn Others + Send> {
        Box::new(Alone)
    }
    fn verify(&mut self, _: Place, _: &RangeSet) -> Option<Box<Verify<'static>>> {
        None
    }
    fn acts(&self) -> bool {
        self.stop_at == u32::MAX
    }
    fn act(&mut self, _: &mut Pass, place: Place, found: &Found) -> Result<(), RunFault> {
        self.acted.push((place, found.bad.iter().collect()));
        if place == Place::Main {
            found.bad.iter().for_each(|range| self.limits.remove(range));
        }
        Ok(())
    }
    fn tick(&mut self, progress: Progress) -> Flow {
        assert!(progress.done <= progress.total);
        self.ticks += 1;
        if self.ticks >= self.stop_at { Flow::Stop } else { Flow::Go }
    }
    fn save(&mut self, pass: &Pass) {
        self.saved = Some(serde_json::to_string(pass).unwrap());
    }
}

fn bench() -> Bench {
    let main = Arc::new(RamDisk::new("main", Sectors(ZONE.0 + 40_000)));
    let spare = Arc::new(RamDisk::new("spare", Sectors(10_000)));
    main.set_bad(range(1_000, 2), Bad::Reads(Errno::ENODATA));
    main.set_bad(range(ZONE.0 + 30_000, 1), Bad::Reads(Errno::ENODATA));
    spare.set_bad(range(4_000, 1), Bad::Reads(Errno::ENODATA));
    let limits = range(0, ZONE.0 + 40_000).without(&[range(50_000, ZONE.0 - 60_000)]).into_iter().collect();
    Bench { main, spare, limits, acted: Vec::new(), saved: None, stop_at: u32::MAX, ticks: 0 }
}

fn pass_over(bench: &Bench) -> Pass {
    let order = Order { ranges: None, full: false, report_only: false, slow_ms: 0, retries: 0 };
    let slots = [range(0, 4096)].into_iter().collect();
    let areas =
        vec![Area::new(Place::Main, bench.limits.clone()), Area::new(Place::Spare(crate::map::SpareIndex(0)), slots)];
    Pass::new(Subject::Device("x".into()), order, areas, 1)
}

const EXPECTED: [(u64, u64); 3] = [(1_000, 2), (ZONE.0 + 30_000, 1), (4_000, 1)];

fn acted(bench: &Bench) -> Vec<(u64, u64)> {
    bench.acted.iter().flat_map(|(_, ranges)| ranges).map(|r| (r.start().0, r.len().0)).collect()
}

#[test]
fn each_zone_is_acted_upon_and_then_the_spares_follow() {
    let mut bench = bench();
    let mut pass = pass_over(&bench);
    let pace = Pace { rate: None, manners: Manners::None };
    assert_eq!(conduct(&mut pass, &mut bench, pace).unwrap(), End::Finished);
    assert_eq!(acted(&bench), EXPECTED);
    assert_eq!(pass.percent(), 100);
    assert!(pass.finished.is_some());
}

#[test]
fn a_killed_pass_goes_on_from_what_was_saved_with_the_same_end() {
    let mut bench = bench();
    let mut pass = pass_over(&bench);
    let slow = Pace { rate: Some(30 << 20), manners: Manners::None };
    let fast = Pace { rate: None, manners: Manners::None };
    for turn in 1..4 {
        bench.stop_at = bench.ticks + turn;
        assert_eq!(conduct(&mut pass, &mut bench, slow).unwrap(), End::Stopped);
        // What is in memory is gone; what was saved is there.
        pass = serde_json::from_str(bench.saved.as_ref().unwrap()).unwrap();
        assert!(pass.percent() < 100);
    }
    let read = bench.main.sectors_read();
    bench.stop_at = u32::MAX;
    let left = pass.standing();
    assert_eq!(conduct(&mut pass, &mut bench, fast).unwrap(), End::Finished);
    assert_eq!(acted(&bench), EXPECTED);
    let again = bench.main.sectors_read() - read;
    let most = left.1.0 - left.0.0 + 3 * CHUNK.0 * u64::from(DEPTH);
    assert!(again <= most, "{again} sectors were read, and {most} were left");
}

#[test]
fn trouble_is_told_and_the_pass_is_kept() {
    let mut bench = bench();
    let mut pass = pass_over(&bench);
    bench.main.set_bad(range(30_000, 1), Bad::Reads(Errno::ETIMEDOUT));
    let pace = Pace { rate: None, manners: Manners::None };
    assert!(matches!(conduct(&mut pass, &mut bench, pace), Err(RunFault::Transport(_))));
    assert!(bench.acted.is_empty(), "nothing is done about a zone that met transport errors");
    let mut saved: Pass = serde_json::from_str(bench.saved.as_ref().unwrap()).unwrap();
    bench.main.clear_bad();
    bench.main.set_bad(range(1_000, 2), Bad::Reads(Errno::ENODATA));
    assert_eq!(conduct(&mut saved, &mut bench, pace).unwrap(), End::Finished);
    assert_eq!(acted(&bench)[0], EXPECTED[0]);
    assert!(saved.areas.iter().all(|area| area.aside.is_empty() && area.unread.is_empty()), "it has read since");
    assert_eq!(saved.percent(), 100);
}

#[test]
fn a_place_that_always_ends_the_run_does_not_keep_the_rest_from_being_read() {
    let mut bench = bench();
    let mut pass = pass_over(&bench);
    bench.main.set_bad(range(30_000, 1), Bad::Reads(Errno::EREMOTEIO));
    let pace = Pace { rate: None, manners: Manners::None };
    let mut runs = 0;
    while !matches!(conduct(&mut pass, &mut bench, pace), Ok(End::Finished)) {
        let text = bench.saved.clone().unwrap();
        pass = serde_json::from_str(&text).unwrap();
        runs += 1;
        assert!(runs < 5, "{text}");
    }
    assert_eq!(runs, 2, "once in its turn and once at the end");
    assert_eq!(acted(&bench), EXPECTED);
    let unread: Vec<Range> = pass.areas[0].unread.iter().collect();
    assert!(unread.len() == 1 && unread[0].contains(Sectors(30_000)), "{unread:?}");
    assert_eq!(pass.percent(), 100);
}

#[test]
fn a_checkpoint_that_is_out_of_its_mind_costs_no_time() {
    let mut bench = bench();
    let mut pass = pass_over(&bench);
    pass.areas[0].todo = [range(0, u64::MAX - 7)].into_iter().collect();
    let pace = Pace { rate: None, manners: Manners::None };
    assert_eq!(conduct(&mut pass, &mut bench, pace).unwrap(), End::Finished);
    assert_eq!(acted(&bench), EXPECTED);
}
