//! Cuts the power at every write and flush of an operation, and looks at what a reboot finds.

use super::model::{Model, Shared, Value, traffic};
use super::*;
use dm_remap::block::ram::Bad;
use dm_remap::format::metadata::SetupState;
use dm_remap::map::Extent;
use nix::errno::Errno;

/// A small generator of random numbers (xorshift64*), so that every run is the same.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }
}

/// How the machine is made.
#[derive(Clone, Debug)]
pub struct Shape {
    pub main: u64,
    pub spares: Vec<u64>,
    pub block: u64,
    /// Target types that the kernel has; all when empty.
    pub kinds: &'static [&'static str],
    /// Sectors of main that cannot be read.
    pub bad: Vec<Range>,
}

impl Shape {
    pub fn new(spares: usize) -> Shape {
        Shape { main: 96, spares: vec![10_240 + 128; spares], block: 1, kinds: &[], bad: Vec::new() }
    }

    pub fn machine(&self, power: Arc<Power>, images: Vec<Image>) -> Machine {
        let machine = Machine::with_blocks(power, self.block, self.main, &self.spares, images);
        if !self.kinds.is_empty() {
            machine.dm.set_supported(self.kinds);
        }
        for bad in &self.bad {
            machine.main.set_bad(*bad, Bad::Reads(Errno::ENODATA));
        }
        machine
    }

    fn blank(&self) -> Vec<Image> {
        vec![Image::new(); self.spares.len() + 1]
    }
}

/// A machine with its application.
#[derive(Debug)]
pub struct World {
    pub machine: Machine,
    pub model: Shared,
    checkpoints: std::cell::RefCell<Vec<Loaded>>,
}

impl World {
    /// A machine with a filled main, no setup yet.
    pub fn new(shape: &Shape, power: Arc<Power>) -> World {
        let machine = shape.machine(power, shape.blank());
        machine.fill_main();
        let mut model = Model::new(shape.main);
        model.held_lingers = !shape.kinds.is_empty();
        for bad in &shape.bad {
            model.set(*bad, Value::Bad);
        }
        World { machine, model: Shared::new(model), checkpoints: Default::default() }
    }

    pub fn write(&self, sector: u64) {
        assert!(self.model.get().write(&self.machine, sector), "write of sector {sector}");
    }

    pub fn flush(&self) {
        self.model.get().flush(&self.machine.dm);
    }

    /// No more traffic.
    pub fn quiet(&self) {
        self.machine.dm.clear_hooks();
        self.machine.trap.clear_meanwhile();
    }

    /// Takes note that what the spares hold now may be found after a crash.
    pub fn checkpoint(&self) {
        if !self.machine.power.is_off() {
            self.checkpoints.borrow_mut().push(loaded(&self.machine));
        }
    }
}

/// What a load finds: no setup, or one with these extents.
pub type Loaded = Option<Vec<Extent>>;

pub fn loaded(machine: &Machine) -> Loaded {
    let choice = machine.load()?;
    let metadata = &choice.newest.metadata;
    (metadata.config.state == SetupState::Ready).then(|| metadata.map.extents().collect())
}

/// What is cut.
pub struct Scenario {
    pub name: &'static str,
    pub shape: Shape,
    pub prepare: fn(&World),
    pub operate: fn(&World) -> Result<(), EngineError>,
    /// Sectors that an application writes to all the time.
    pub traffic: &'static [u64],
}

/// How much was tried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub cuts: u64,
    pub images: u64,
    pub second: u64,
}

const SEED: u64 = 20_261_120;

fn start(scenario: &Scenario, power: Arc<Power>) -> World {
    let world = World::new(&scenario.shape, power);
    (scenario.prepare)(&world);
    traffic(&world.machine, &world.model, scenario.traffic, 14);
    world
}

/// Cuts the scenario at every write and flush.
pub fn crash_everywhere(scenario: &Scenario, randoms: usize, tally: &mut Tally) {
    let world = start(scenario, Power::new());
    let base = world.machine.power.operations();
    world.checkpoint();
    (scenario.operate)(&world).unwrap_or_else(|e| panic!("{}: {e}", scenario.name));
    world.checkpoint();
    world.quiet();
    let end = world.machine.power.operations();
    let allowed = world.checkpoints.borrow().clone();
    assert!(world.machine.dm.violations().is_empty());
    // With several spares there are many more requests, most of them alike: every second one, beginning with the first.
    let stride = if scenario.shape.spares.len() > 1 { 2 } else { 1 };
    for cut in (base..end).step_by(stride) {
        let world = start(scenario, Power::cut_at(cut));
        let _ = (scenario.operate)(&world);
        assert!(world.machine.power.is_off(), "{}: the power stayed on at {cut} of {end}", scenario.name);
        world.quiet();
        let mut rng = Rng::new(SEED + cut);
        let kept = kept_sets(&world.machine, randoms, &mut rng);
        tally.cuts += 1;
        for (what, keep) in kept {
            let context =
                format!("{}, cut {} of {}, {what}, seed {}", scenario.name, cut - base, end - base, SEED + cut);
            let images = images(&world.machine, &keep);
            let model = world.model.get().after_crash();
            tally.images += 1;
            look(scenario, &images, model, &allowed, &context, tally);
        }
    }
}

pub fn disks(machine: &Machine) -> Vec<&RamDisk> {
    std::iter::once(&*machine.main).chain(machine.spares.iter().map(|s| &**s)).collect()
}

/// Which pending sectors survive: for each disk one flag for each sector.
type Kept = Vec<Vec<bool>>;

pub fn images(machine: &Machine, keep: &Kept) -> Vec<Image> {
    disks(machine).iter().zip(keep).map(|(disk, keep)| disk.after_power_cut(|order| keep[order])).collect()
}

pub fn kept_randomly(machine: &Machine, rng: &mut Rng) -> Kept {
    let bias = 1 + rng.below(3);
    disks(machine).iter().map(|d| (0..d.pending()).map(|_| rng.below(4) < bias).collect()).collect()
}

fn kept_sets(machine: &Machine, randoms: usize, rng: &mut Rng) -> Vec<(String, Kept)> {
    let pending: Vec<usize> = disks(machine).iter().map(|d| d.pending()).collect();
    let total: usize = pending.iter().sum();
    let by = |flag: &dyn Fn(usize, usize) -> bool| -> Kept {
        pending.iter().enumerate().map(|(disk, n)| (0..*n).map(|i| flag(disk, i)).collect()).collect()
    };
    let mut sets = vec![("nothing pending survives".to_string(), by(&|_, _| false))];
    if total == 0 {
        return sets;
    }
    sets.push(("all pending survives".into(), by(&|_, _| true)));
    for disk in (0..pending.len()).filter(|d| pending[*d] > 0 && pending[*d] < total) {
        sets.push((format!("only disk {disk} survives"), by(&|d, _| d == disk)));
        sets.push((format!("all but disk {disk} survives"), by(&|d, _| d != disk)));
    }
    let busiest = (0..pending.len()).max_by_key(|d| pending[*d]).unwrap();
    let count = pending[busiest];
    for cut in [count / 3, count - 1] {
        sets.push((format!("the first {cut} survive"), by(&|_, i| i < cut)));
        sets.push((format!("all but the first {cut} survive"), by(&|_, i| i >= cut)));
    }
    if total <= 10 {
        let flat = |disk: usize, i: usize| pending[..disk].iter().sum::<usize>() + i;
        for one in 0..total {
            sets.push((format!("only pending {one} survives"), by(&|d, i| flat(d, i) == one)));
        }
    }
    for n in 0..randoms {
        sets.push((format!("random subset {n}"), kept_randomly(machine, rng)));
    }
    let mut seen = std::collections::HashSet::new();
    sets.retain(|(_, kept)| seen.insert(kept.clone()));
    sets
}

/// What a reboot must find.
fn look(scenario: &Scenario, images: &[Image], mut model: Model, allowed: &[Loaded], context: &str, tally: &mut Tally) {
    let machine = scenario.shape.machine(Power::new(), images.to_vec());
    let found = loaded(&machine);
    assert!(allowed.contains(&found), "{context}: found {found:?}, allowed are {allowed:?}");
    let Some(_) = &found else {
        return recreate(machine, model, context);
    };
    let up = machine.activate().unwrap_or_else(|e| panic!("{context}: activate: {e}"));
    drop(up);
    let unseen = model.clone();
    model.check(&machine, context);
    assert_eq!(machine.suspended(), Vec::<String>::new(), "{context}");
    assert_eq!(loaded(&machine), found, "{context}: activation changed the extents");
    // A second power cut: activation has made durable what it found, in every copy.
    tally.second += 1;
    let none: Kept = disks(&machine).iter().map(|d| vec![false; d.pending()]).collect();
    let again = scenario.shape.machine(Power::new(), super::crash::images(&machine, &none));
    let (first, second) = (machine.load().unwrap(), again.load().unwrap());
    assert_eq!(first, second, "{context}: what the activated setup said is not durable");
    for spare in &again.spares {
        let chosen = read_copies(&**spare, Expected::default()).choose().unwrap();
        assert_eq!(chosen.lagging, Vec::<usize>::new(), "{context}: copies of {spare:?} lag");
    }
    if tally.images.is_multiple_of(5) {
        again.activate().unwrap_or_else(|e| panic!("{context}: second activate: {e}"));
        model.settle();
        model.check(&again, &format!("{context}, second crash"));
    }
    if tally.images.is_multiple_of(7) {
        carry_on(&again, &mut model, context);
    }
    crash_again(scenario, images, &unseen, (&found, allowed), context, tally);
}

/// A re-create after an interrupted create.
fn recreate(mut machine: Machine, mut model: Model, context: &str) {
    machine.setup = Uuid::from_u128(0xbeef);
    machine.create().unwrap_or_else(|e| panic!("{context}: create again: {e}"));
    model.check(&machine, &format!("{context}, created again"));
}

/// A further remap, of whatever is not remapped yet.
fn carry_on(machine: &Machine, model: &mut Model, context: &str) {
    if machine.dm.state(NAME).unwrap().is_none() {
        machine.activate().unwrap_or_else(|e| panic!("{context}: activate: {e}"));
    }
    let map = machine.load().unwrap().newest.metadata.map;
    let free = (0..machine.main.size().0 / 8).map(|n| range(n * 8, 8)).find(|r| {
        map.extents_in(*r).next().is_none()
            && (r.start().0..r.end().0).all(|s| !model.cells[s as usize].now.contains(&Value::Bad))
    });
    let Some(free) = free else { return };
    machine.remap(&[free], UnreadablePolicy::Hold).unwrap_or_else(|e| panic!("{context}: further remap: {e}"));
    model.check(machine, &format!("{context}, further remap"));
}

/// The power goes again while the setup is being activated: nobody has seen yet what the first cut left, so that what may be
/// there is still all that it may have left.
fn crash_again(
    scenario: &Scenario,
    images: &[Image],
    model: &Model,
    (found, allowed): (&Loaded, &[Loaded]),
    context: &str,
    tally: &mut Tally,
) {
    if !tally.images.is_multiple_of(131) {
        return;
    }
    let counting = scenario.shape.machine(Power::new(), images.to_vec());
    counting.activate().unwrap();
    let mut rng = Rng::new(tally.images);
    let count = counting.power.operations();
    for cut in 0..count {
        let machine = scenario.shape.machine(Power::cut_at(cut), images.to_vec());
        // It may succeed all the same: a commit stands when one whole group is durable.
        let _ = machine.activate();
        assert!(machine.power.is_off(), "{context}");
        for n in 0..3 {
            let context =
                format!("{context}, cut {cut} of {count} of activation, random subset {n} of {}", tally.images);
            let kept = kept_randomly(&machine, &mut rng);
            let again = scenario.shape.machine(Power::new(), super::crash::images(&machine, &kept));
            // Nothing was acknowledged since the first cut: what that one interrupted may also show now.
            let now = loaded(&again);
            assert!(now.is_some() && (&now == found || allowed.contains(&now)), "{context}: {now:?} after {found:?}");
            again.activate().unwrap_or_else(|e| panic!("{context}: {e}"));
            model.clone().check(&again, &context);
            tally.second += 1;
        }
    }
}
