//! A made-up machine for engine tests: RAM disks under a fake device-mapper.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

pub mod crash;
pub mod model;
pub mod trap;

use dm_remap::block::Disk;
use dm_remap::block::ram::{Image, Power, RamDisk};
use dm_remap::dm::DeviceMapper;
use dm_remap::dm::fake::FakeDm;
use dm_remap::engine::activate::{self, ActivateOptions, Activated, Mark};
use dm_remap::engine::recover::{Recovered, recover};
use dm_remap::engine::session::choose_among;
use dm_remap::engine::splice::{MOVES_AT_ONCE, SpliceOptions, SpliceOutcome, splice};
use dm_remap::engine::window::{Unguarded, WindowRunner};
use dm_remap::engine::{DiskSource, EngineError, Member, Observer, Session, Silent, create};
use dm_remap::format::choose::{Expected, SetupChoice};
use dm_remap::format::metadata::{Policy, UnreadablePolicy};
use dm_remap::identity::Identity;
use dm_remap::map::SpareIndex;
use dm_remap::plan::assemble::{AssemblyOptions, FoundSetup, SeenDevice, assemble, decide};
use dm_remap::plan::create::{Contents, CreateFacts, DeviceFacts, SpareFacts, plan};
use dm_remap::plan::moves::{AlreadyMapped, OnSpares, plan_evacuate, plan_remap, plan_restore};
use dm_remap::segments::{Layout, LayoutRule, PART_LINES, PartLines};
use dm_remap::store::read_copies;
use dm_remap::units::{DevNo, Range, Sectors};
use std::sync::{Arc, Mutex};
use uuid::Uuid;

pub const NAME: &str = "data";
pub const MAIN: DevNo = DevNo { major: 8, minor: 0 };

pub fn range(start: u64, len: u64) -> Range {
    Range::new(Sectors(start), Sectors(len)).unwrap()
}

pub fn spare_number(index: usize) -> DevNo {
    DevNo { major: 8, minor: 16 * (index as u32 + 1) }
}

pub fn mark() -> Mark {
    Mark { machine_id: "machine".into(), boot_id: "boot".into(), hardware_id: String::new() }
}

/// The number that the same spare has once it was pulled and came back.
pub fn later_number(index: usize) -> DevNo {
    DevNo { major: 65, ..spare_number(index) }
}

/// The layout that this run of the tests is for: `DM_REMAP_TEST_LAYOUT`.
pub fn layout_of_this_run() -> LayoutRule {
    match std::env::var("DM_REMAP_TEST_LAYOUT").as_deref() {
        Ok("switched") => LayoutRule::Fixed(Layout::Switched),
        Ok("flat") | Err(_) => LayoutRule::Keep,
        Ok(other) => panic!("DM_REMAP_TEST_LAYOUT={other}"),
    }
}

/// A machine: main, spares, device-mapper.
#[derive(Debug)]
pub struct Machine {
    pub dm: FakeDm,
    pub power: Arc<Power>,
    pub main: Arc<RamDisk>,
    pub spares: Vec<Arc<RamDisk>>,
    /// Where a process may die.
    pub trap: Arc<trap::Trap>,
    /// UUID that the next setup gets.
    pub setup: Uuid,
    /// Who decides about the layout; by the environment, so that every test can be run with each.
    pub layout: LayoutRule,
    /// How large overlays get: small where the environment asks for the switched layout, so that there are several.
    pub part_lines: PartLines,
    /// What was told when a setup came up.
    pub told: Told,
}

/// What an observer was told.
#[derive(Debug, Default)]
pub struct Told {
    /// Sectors done, and of how many.
    pub progress: Mutex<Vec<(u64, u64)>>,
    pub notes: Mutex<Vec<String>>,
}

impl Observer for Told {
    fn step(&self, _what: &str) {}
    fn progress(&self, done: u64, total: u64) {
        self.progress.lock().unwrap().push((done, total));
    }
    fn note(&self, text: &str) {
        self.notes.lock().unwrap().push(text.into());
    }
}

impl DiskSource for Machine {
    fn open(&self, devno: DevNo, _write: bool) -> Result<Option<Member>, EngineError> {
        let disk: Arc<RamDisk> = if devno == MAIN {
            self.main.clone()
        } else {
            let index = (0..self.spares.len()).find(|i| [spare_number(*i), later_number(*i)].contains(&devno));
            self.spares[index.unwrap_or_else(|| panic!("no device {devno}"))].clone()
        };
        Ok(Some(Member { devno, disk: Arc::new(trap::TrapDisk { inner: disk, trap: self.trap.clone() }) }))
    }
}

impl Machine {
    /// Blank disks.
    pub fn new(power: Arc<Power>, main_sectors: u64, spare_sectors: &[u64]) -> Machine {
        let images = vec![Image::new(); spare_sectors.len() + 1];
        Machine::with_images(power, main_sectors, spare_sectors, images)
    }

    /// Disks that hold what they held before a reboot: main's image first.
    pub fn with_images(power: Arc<Power>, main_sectors: u64, spare_sectors: &[u64], images: Vec<Image>) -> Machine {
        Machine::with_blocks(power, 1, main_sectors, spare_sectors, images)
    }

    /// The same, with logical blocks of `block` sectors on all disks.
    pub fn with_blocks(
        power: Arc<Power>,
        block: u64,
        main_sectors: u64,
        spare_sectors: &[u64],
        images: Vec<Image>,
    ) -> Machine {
        let mut images = images.into_iter();
        let mut disk = |name: &str, sectors| {
            let image = images.next().unwrap();
            Arc::new(RamDisk::from_image(name, Sectors(sectors), Sectors(block), power.clone(), image))
        };
        let main = disk("main", main_sectors);
        let spares: Vec<_> = spare_sectors.iter().enumerate().map(|(i, s)| disk(&format!("spare{i}"), *s)).collect();
        let dm = FakeDm::new();
        dm.register(MAIN, main.clone());
        for (index, spare) in spares.iter().enumerate() {
            dm.register(spare_number(index), spare.clone());
            dm.register(later_number(index), spare.clone());
        }
        Machine {
            dm,
            power,
            main,
            spares,
            trap: Arc::default(),
            setup: Uuid::from_u128(0xfeed),
            layout: layout_of_this_run(),
            part_lines: if layout_of_this_run() == LayoutRule::Keep {
                PART_LINES
            } else {
                PartLines { fill: 2, most: 4 }
            },
            told: Told::default(),
        }
    }

    /// Fills main with data that tells its sector, all durable.
    pub fn fill_main(&self) {
        let data: Vec<u8> = (0..self.main.size().0).flat_map(|sector| pattern(sector, 0)).collect();
        self.main.write(Sectors(0), &data).unwrap();
        self.main.flush().unwrap();
    }

    pub fn identity(disk: &RamDisk) -> Identity {
        Identity {
            serial: Some(disk.name().to_string()),
            size: disk.size(),
            logical_block: disk.logical_block(),
            physical_block: Sectors(8),
            ..Identity::default()
        }
        .with_fingerprint()
    }

    pub fn facts(&self) -> CreateFacts {
        let device = |disk: &RamDisk, devno| DeviceFacts {
            path: format!("/dev/{}", disk.name()),
            devno,
            identity: Machine::identity(disk),
            uses: Vec::new(),
            read_only: false,
        };
        let spare = |(i, disk): (usize, &Arc<RamDisk>)| SpareFacts {
            device: device(disk, spare_number(i)),
            contents: Contents::Nothing,
        };
        CreateFacts {
            name: NAME.into(),
            main_is_spare: None,
            name_taken: None,
            main: device(&self.main, MAIN),
            spares: self.spares.iter().enumerate().map(spare).collect(),
            overlaps: Vec::new(),
            force_signature: false,
            policy: Policy::default(),
            now: 1_700_000_000,
            setup: self.setup,
            spare_uuids: (0..16).map(|i| Uuid::from_u128((self.setup.as_u128() << 16) + i)).collect(),
        }
    }

    pub fn create(&self) -> Result<Session<'_>, EngineError> {
        self.create_with(self.spares.len())
    }

    /// Creates the setup with the first `count` spares only.
    pub fn create_with(&self, count: usize) -> Result<Session<'_>, EngineError> {
        let mut facts = self.facts();
        facts.spares.truncate(count);
        let plan = plan(facts)?;
        let main = self.open(MAIN, true)?.unwrap();
        let spares: Result<Vec<_>, _> =
            (0..count).map(|i| self.open(spare_number(i), true).map(Option::unwrap)).collect();
        let options =
            create::CreateOptions { mark: &mark(), layout: self.layout, recheck: &|| Ok(()), observer: &self.told };
        create::create(&self.dm, &plan, main, spares?, &options).map(|(session, _)| session)
    }

    pub fn session(&self) -> Result<Session<'_>, EngineError> {
        let mut session = Session::open(&self.dm, self, NAME, true)?;
        session.layout = self.layout;
        session.part_lines = self.part_lines;
        Ok(session)
    }

    pub fn remap(&self, ranges: &[Range], policy: UnreadablePolicy) -> Result<SpliceOutcome, EngineError> {
        self.remap_with(ranges, policy, &Unguarded)
    }

    pub fn remap_with(
        &self,
        ranges: &[Range],
        policy: UnreadablePolicy,
        runner: &dyn WindowRunner,
    ) -> Result<SpliceOutcome, EngineError> {
        let mut session = self.session()?;
        let plan = plan_remap(&session.metadata, ranges, AlreadyMapped::Refuse, policy, |_| true)?;
        splice(&mut session, plan, &SpliceOptions { runner, ..options() })
    }

    pub fn restore(&self, ranges: Option<&[Range]>, policy: UnreadablePolicy) -> Result<SpliceOutcome, EngineError> {
        self.restore_with(ranges, policy, &Unguarded)
    }

    pub fn restore_with(
        &self,
        ranges: Option<&[Range]>,
        policy: UnreadablePolicy,
        runner: &dyn WindowRunner,
    ) -> Result<SpliceOutcome, EngineError> {
        let mut session = self.session()?;
        let plan = plan_restore(&session.metadata, ranges, policy)?;
        splice(&mut session, plan, &SpliceOptions { runner, ..options() })
    }

    /// Moves away what lives in these sectors of a spare.
    pub fn evacuate(&self, bad: &OnSpares, policy: UnreadablePolicy) -> Result<SpliceOutcome, EngineError> {
        self.evacuate_with(bad, policy, &Unguarded)
    }

    pub fn evacuate_with(
        &self,
        bad: &OnSpares,
        policy: UnreadablePolicy,
        runner: &dyn WindowRunner,
    ) -> Result<SpliceOutcome, EngineError> {
        let mut session = self.session()?;
        let plan = plan_evacuate(&session.metadata, bad, policy, |_| true)?;
        splice(&mut session, plan, &SpliceOptions { runner, ..options() })
    }

    /// The first sectors of the slots that serve these ranges.
    pub fn slots_of(&self, ranges: &[Range]) -> Result<OnSpares, EngineError> {
        let map = self.session()?.metadata.map;
        let mut slots = OnSpares::new();
        for extent in ranges.iter().flat_map(|window| map.extents_in(*window).collect::<Vec<_>>()) {
            slots.entry(extent.slot.spare).or_default().push(range(extent.slot.start.0, 1));
        }
        Ok(slots)
    }

    pub fn recover(&self) -> Result<Recovered, EngineError> {
        recover(&mut self.session()?, &Silent)
    }

    pub fn deactivate(&self) -> Result<(), EngineError> {
        activate::deactivate(&mut self.session()?, String::new)
    }

    /// What the spares say together; `None` when they hold nothing that can be chosen.
    pub fn load(&self) -> Option<SetupChoice> {
        let readings: Vec<_> = self.spares.iter().map(|s| read_copies(&**s, Expected::default())).collect();
        choose_among(NAME, &readings).ok()
    }

    /// Which of the setup's dm devices are suspended.
    pub fn suspended(&self) -> Vec<String> {
        let all = self.dm.list().unwrap();
        let state = |name: &String| self.dm.state(name).unwrap().unwrap().suspended;
        all.into_iter().map(|(name, _)| name).filter(state).collect()
    }

    /// What is on the spares, and which setup that makes. Devices have no names of their own here: main is named.
    pub fn assembled(&self) -> Result<(FoundSetup, Vec<SeenDevice>), EngineError> {
        let seen = |disk: &Arc<RamDisk>, devno, verdicts| SeenDevice {
            path: disk.name().to_string(),
            devno: Some(devno),
            identity: dm_remap::identity::Identity {
                size: disk.size(),
                logical_block: disk.logical_block(),
                physical_block: disk.logical_block(),
                ..Default::default()
            },
            verdicts,
            named: true,
            ..SeenDevice::default()
        };
        let mut devices: Vec<SeenDevice> = Vec::new();
        for (index, disk) in self.spares.iter().enumerate() {
            devices.push(seen(disk, spare_number(index), read_copies(&**disk, Expected::default()).verdicts));
        }
        devices.push(seen(&self.main, MAIN, Vec::new()));
        let found = assemble(&devices, &[]).into_iter().next();
        Ok((found.ok_or_else(|| EngineError::Device("no setup on the spares".into()))?, devices))
    }

    pub fn activate(&self) -> Result<Activated<'_>, EngineError> {
        self.activate_with(AssemblyOptions::default())
    }

    /// The same for a setup that another machine had up.
    pub fn activate_whatever_was(&self) -> Result<Activated<'_>, EngineError> {
        self.activate_with(AssemblyOptions { takeover: true, ..AssemblyOptions::default() })
    }

    fn activate_with(&self, options: AssemblyOptions) -> Result<Activated<'_>, EngineError> {
        let (found, devices) = self.assembled()?;
        let mark = mark();
        let options = AssemblyOptions { main: Some(devices.len() - 1), ..options };
        let plan = decide(&found, &devices, &options, |active| mark.is_same_machine(active))?;
        let mut spares = Vec::new();
        for place in &plan.spares {
            spares.push(place.map(|index| self.open(spare_number(index), true)).transpose()?.flatten());
        }
        let options = ActivateOptions {
            mark: &mark,
            layout: self.layout,
            read_only: false,
            recheck: &|_| Ok(()),
            observer: &self.told,
        };
        activate::activate(&self.dm, &found, &plan, self.open(MAIN, true)?.unwrap(), spares, &options)
    }

    /// Reads one sector through the setup.
    pub fn read(&self, sector: u64) -> Result<Vec<u8>, nix::errno::Errno> {
        let block = self.main.logical_block().0;
        let first = sector / block * block;
        let mut buf = vec![0; 512 * block as usize];
        self.dm.disk(NAME).read(Sectors(first), &mut buf).map_err(|e| e.errno)?;
        let at = 512 * (sector - first) as usize;
        Ok(buf[at..at + 512].to_vec())
    }

    /// Writes one sector through the setup.
    pub fn write(&self, sector: u64, version: u8) {
        self.dm.disk(NAME).write(Sectors(sector), &pattern(sector, version)).unwrap();
    }
}

/// Commits a section that no version knows: of each copy, most is not head then, and is written before the device is
/// suspended.
pub fn enlarge_copies(machine: &Machine) {
    const UNKNOWN: u32 = 0x7fff_0000;
    let mut session = machine.session().unwrap();
    session.commit(|next| next.unknown_sections.push((UNKNOWN, (0..4096u32).map(|n| n as u8).collect()))).unwrap();
}

pub fn options() -> SpliceOptions<'static> {
    SpliceOptions { retries: 1, runner: &Unguarded, observer: &Silent, suspects: &[], at_once: MOVES_AT_ONCE }
}

/// Data that tells its sector and version.
pub fn pattern(sector: u64, version: u8) -> [u8; 512] {
    let mut data = [version; 512];
    data[..8].copy_from_slice(&sector.to_le_bytes());
    data
}

pub fn spare(index: u8) -> SpareIndex {
    SpareIndex(index)
}
