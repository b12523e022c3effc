//! Random lives of a setup, with power cuts, against a model that knows what each sector may hold.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

mod support;

use dm_remap::block::ram::{Bad, Power};
use dm_remap::engine::EngineError;
use dm_remap::format::metadata::UnreadablePolicy::Hold;
use dm_remap::map::SpareIndex;
use dm_remap::plan::Refusal;
use nix::errno::Errno;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use support::crash::{Rng, Shape, World, images, kept_randomly};
use support::model::{Model, Shared, Value};
use support::{Machine, range};

/// Units of main: it has 96 sectors.
const UNITS: u64 = 12;

/// How long to go on at the most.
const BUDGET: Duration = Duration::from_secs(15);

#[derive(Clone, Debug)]
enum Act {
    Write(u64),
    Flush,
    /// A sector of main becomes unreadable for ever.
    Spoil(u64),
    Remap(u64, u64),
    Restore(u64, u64),
    /// Everything leaves these units of the first spare.
    Evacuate(u64, u64),
    Restart,
    /// The power goes at a write or flush of what follows, counted from here, and comes back.
    Cut(u64, u64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => (0..96u64).prop_map(Act::Write),
        2 => Just(Act::Flush),
        2 => (0..96u64).prop_map(Act::Spoil),
        4 => (0..UNITS, 1..4u64).prop_map(|(unit, count)| Act::Remap(unit, count)),
        3 => (0..UNITS, 1..4u64).prop_map(|(unit, count)| Act::Restore(unit, count)),
        2 => (0..5u64, 1..3u64).prop_map(|(unit, count)| Act::Evacuate(unit, count)),
        1 => Just(Act::Restart),
        3 => (0..30u64, any::<u64>()).prop_map(|(after, seed)| Act::Cut(after, seed)),
    ];
    prop::collection::vec(act, 1..30)
}

struct Life {
    shape: Shape,
    machine: Machine,
    model: Shared,
    /// Seed of what survives the cut that is to come.
    cut: Option<u64>,
    crashes: u64,
    /// Extents that were moved from slot to slot.
    evacuated: u64,
}

impl Life {
    /// After a power cut: reboots, activates, compares. `after` operations later the power goes again.
    fn reboot(&mut self, seed: u64, after: Option<u64>) {
        let kept = kept_randomly(&self.machine, &mut Rng::new(seed));
        let images = images(&self.machine, &kept);
        let bad = self.shape.bad.clone();
        let power = after.map_or_else(Power::new, Power::cut_at);
        self.machine = Shape { bad, ..self.shape.clone() }.machine(power, images);
        let crashed = self.model.get().after_crash();
        *self.model.get() = crashed;
        self.crashes += 1;
    }

    /// Makes the model what the machine can be seen to hold.
    fn activate(&mut self) {
        let mut seed = 1;
        while let Err(error) = self.machine.activate().map(|_| ()) {
            assert!(self.machine.power.is_off(), "activate: {error}");
            seed += 1;
            self.reboot(seed, None);
        }
        if !self.machine.power.is_off() {
            self.model.get().check(&self.machine, "after activation");
        }
    }

    fn is_remapped(&self, sector: u64) -> bool {
        let map = self.machine.load().unwrap().newest.metadata.map;
        map.extent_at(dm_remap::units::Sectors(sector)).is_some()
    }

    fn step(&mut self, act: &Act) {
        match act {
            Act::Write(sector) => {
                // An application that writes to an unreadable sector of main: not our business.
                let bad = self.model.get().cells[*sector as usize].now.contains(&Value::Bad);
                if !bad {
                    self.model.get().write(&self.machine, *sector);
                }
            }
            Act::Flush => self.model.get().flush(&self.machine.dm),
            Act::Spoil(sector) => {
                let lives_on_main = !self.is_remapped(*sector);
                if self.shape.bad.len() < 4 {
                    self.machine.main.set_bad(range(*sector, 1), Bad::Reads(Errno::ENODATA));
                    self.shape.bad.push(range(*sector, 1));
                    if lives_on_main {
                        self.model.get().set(range(*sector, 1), Value::Bad);
                    }
                }
            }
            Act::Remap(unit, count) => self.remap(*unit, *count),
            Act::Restore(unit, count) => self.restore(*unit, *count),
            Act::Evacuate(unit, count) => self.evacuate(*unit, *count),
            Act::Restart => {
                if self.machine.deactivate().is_ok() {
                    let _ = self.machine.activate();
                }
            }
            Act::Cut(after, seed) => {
                // Power that is to go off cannot be told so later: the machine is made anew, as by a crash right now.
                self.reboot(*seed, Some(*after));
                self.cut = Some(seed.wrapping_add(1));
                self.activate();
            }
        }
    }

    fn remap(&mut self, unit: u64, count: u64) {
        let wanted = range(unit * 8, count.min(UNITS - unit) * 8);
        {
            let mut model = self.model.get();
            for sector in wanted.start().0..wanted.end().0 {
                if model.cells[sector as usize].now.contains(&Value::Bad) {
                    model.may_be(range(sector, 1), Value::Held);
                }
            }
        }
        match self.machine.remap(&[wanted], Hold) {
            Ok(_) | Err(EngineError::Refused(Refusal::AlreadyRemapped { .. } | Refusal::NoFreeSlot { .. })) => {}
            Err(error) => assert!(self.machine.power.is_off(), "remap: {error}"),
        }
    }

    fn restore(&mut self, unit: u64, count: u64) {
        let wanted = range(unit * 8, count.min(UNITS - unit) * 8);
        match self.machine.restore(Some(&[wanted]), Hold) {
            Ok(_) | Err(EngineError::Refused(Refusal::NotRemapped(_) | Refusal::HeldUnreadable(_))) => {}
            Err(error) => assert!(self.machine.power.is_off(), "restore: {error}"),
        }
    }

    fn evacuate(&mut self, unit: u64, count: u64) {
        let bad = range(10_240 + unit * 8, count.min(5 - unit) * 8);
        match self.machine.evacuate(&BTreeMap::from([(SpareIndex(0), vec![bad])]), Hold) {
            Ok(outcome) => self.evacuated += outcome.moved.len() as u64,
            Err(EngineError::Refused(Refusal::NoFreeSlot { .. })) => {}
            Err(error) => assert!(self.machine.power.is_off(), "evacuate: {error}"),
        }
    }

    /// After every step: the power is on and all is right, or it is off and comes back.
    fn verify(&mut self) {
        while self.machine.power.is_off() {
            let seed = self.cut.take().unwrap_or(7);
            self.reboot(seed, None);
            self.activate();
        }
        if self.machine.load().is_none() {
            panic!("no setup any more");
        }
        self.model.get().check(&self.machine, "after a step");
        assert_eq!(self.machine.suspended(), Vec::<String>::new());
        assert_eq!(self.machine.dm.violations(), Vec::<String>::new());
    }
}

fn live(acts: &[Act], spares: usize, block: u64) -> (u64, u64) {
    // Blocks of eight sectors make a bad sector a bad block; that is for another test.
    let shape = Shape { block, spares: vec![10_240 + 40; spares], ..Shape::new(spares) };
    let world = World::new(&shape, Power::new());
    world.machine.create().unwrap();
    let World { machine, model, .. } = world;
    let mut life = Life { shape, machine, model, cut: None, crashes: 0, evacuated: 0 };
    for act in acts {
        life.step(act);
        life.verify();
    }
    let sure: Model = life.model.get().clone();
    drop(sure);
    (life.crashes, life.evacuated)
}

#[test]
fn no_life_of_a_setup_ever_shows_wrong_data() {
    let start = Instant::now();
    let (lives, counts) = (std::cell::Cell::new(0u64), std::cell::Cell::new((0u64, 0u64)));
    let seed: [u8; 32] = *b"dm-remap: lives with power cuts.";
    let config = Config { cases: 400, failure_persistence: None, max_shrink_iters: 400, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let result = runner.run(&(acts(), 1..3usize), |(acts, spares)| {
        if start.elapsed() < BUDGET {
            let (crashes, evacuated) = live(&acts, spares, 1);
            counts.set((counts.get().0 + crashes, counts.get().1 + evacuated));
            lives.set(lives.get() + 1);
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("after {} lives (seed {:?}): {error}", lives.get(), std::str::from_utf8(&seed));
    }
    let (lives, (crashes, evacuated)) = (lives.get(), counts.get());
    println!("{lives} lives, {crashes} power cuts, {evacuated} extents evacuated");
    assert!(lives >= 30 && crashes >= 60 && evacuated >= 10, "too few: {lives} lives, {crashes} cuts, {evacuated}");
}
