//! What the guest tests of the whole program share: the binary, a setup on the guest's disks, what dmsetup says of it.
#![allow(dead_code)] // each test binary uses a part

pub mod fio;
pub mod load;
pub mod pool;

use dm_remap::dm::kernel::Kernel;
use dm_remap::dm::{DeviceMapper, TableSlot};
use dm_remap::segments::{Target, TargetKind};
use dm_remap::units::Sectors;
use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The program under test; `DM_REMAP_PROGRAM` names another build of it.
pub fn program() -> String {
    std::env::var("DM_REMAP_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_dm-remap").into())
}

/// The longest that I/O may stand still because of a killed command.
pub const LONGEST_GAP: Duration = Duration::from_secs(2);

/// Whether there is a guest to work in; says so when there is none.
pub fn in_guest() -> bool {
    let there = std::env::var_os("DM_REMAP_GUEST").is_some_and(|v| v == "1");
    if !there {
        println!("skipped: needs a guest (DM_REMAP_GUEST=1)");
    }
    there
}

/// Whether the environment variable is set to 1.
pub fn asked_for(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|v| v == "1")
}

/// The number that an environment variable has.
pub fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// The guest's disk number `index`.
pub fn disk(index: usize) -> PathBuf {
    let path = std::env::var(format!("GUEST_DISK{index}")).unwrap();
    if path.starts_with("/dev/") { path.into() } else { Path::new("/dev").join(path) }
}

/// Device-mapper, asked from this process: starting programs is slow in a guest.
pub fn kernel() -> &'static Kernel {
    thread_local! {
        static KERNEL: OnceCell<&'static Kernel> = const { OnceCell::new() };
    }
    KERNEL.with(|cell| *cell.get_or_init(|| Box::leak(Box::new(Kernel::open().unwrap()))))
}

/// A device over another one, of which reads of sectors that the message `addbadblock` names fail, until they are written.
pub fn dust(name: &str, below: &Path) -> PathBuf {
    let table = format!("0 {} dust {} 0 512", sectors(below), below.display());
    must("modprobe", &["dm-dust"]);
    must("dmsetup", &["create", name, "--uuid", &format!("TEST-{name}"), "--table", &table]);
    kernel().message(name, Sectors(0), "enable").unwrap();
    Path::new("/dev/mapper").join(name)
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Ended {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Ended {
    /// Its output, when it ended with one of these codes.
    #[track_caller]
    pub fn expect(self, codes: &[i32]) -> Ended {
        assert!(self.code.is_some_and(|c| codes.contains(&c)), "wanted {codes:?}: {self:?}");
        self
    }
}

/// Runs a program to its end.
pub fn run(program: &str, args: &[&str]) -> Ended {
    Command::new(program).args(args).stdin(Stdio::null()).output().unwrap().into()
}

/// Runs a program that has to succeed; its output.
#[track_caller]
pub fn must(program: &str, args: &[&str]) -> String {
    run(program, args).expect(&[0]).out
}

/// Runs the program under test.
pub fn dm_remap(args: &[&str]) -> Ended {
    run(&program(), args)
}

/// Sectors of a block device.
pub fn sectors(path: &Path) -> u64 {
    must("blockdev", &["--getsz", path.to_str().unwrap()]).trim().parse().unwrap()
}

/// `major:minor` of a block device.
pub fn devno(path: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    let rdev = fs::metadata(path).unwrap().rdev();
    format!("{}:{}", nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev))
}

/// Processes whose name (as in /proc/PID/comm) begins with `prefix`, zombies included.
pub fn processes(prefix: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
        let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if comm.starts_with(prefix) {
            found.push(pid);
        }
    }
    found
}

/// A field of /proc/PID/status.
pub fn process_field(pid: i32, field: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':').map(|v| v.trim().to_string()))
}

/// Waits until `done`, at most `limit`; whether it came.
pub fn wait_for(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until no command and no guardian is left.
#[track_caller]
pub fn nobody_left() {
    let gone = wait_for(Duration::from_secs(5), || processes("dm-remap").is_empty());
    assert!(gone, "left over: {:?}", processes("dm-remap"));
}

/// A setup on the guest's disks.
#[derive(Debug)]
pub struct Setup {
    pub name: String,
    pub main: PathBuf,
    pub spares: Vec<PathBuf>,
    pub sectors: u64,
}

/// An extent, as `map --json` has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Extent {
    pub start: u64,
    pub count: u64,
    pub spare: usize,
    pub slot: u64,
}

impl Setup {
    /// Creates a setup.
    pub fn create(name: &str, main: PathBuf, spares: Vec<PathBuf>) -> Setup {
        let setup = Setup { name: name.into(), sectors: sectors(&main), main, spares };
        dm_remap(&setup.create_args()).expect(&[0]);
        setup
    }

    /// The arguments that create it.
    pub fn create_args(&self) -> Vec<&str> {
        let mut args = vec!["create", &self.name, "--main", self.main.to_str().unwrap()];
        for spare in &self.spares {
            args.extend(["--spare", spare.to_str().unwrap()]);
        }
        // So that every test of the whole program can be run with each layout.
        if std::env::var("DM_REMAP_TEST_LAYOUT").as_deref() == Ok("switched") {
            args.extend(["--layout", "switched"]);
        }
        args
    }

    /// Its node.
    pub fn node(&self) -> PathBuf {
        Path::new("/dev/mapper").join(&self.name)
    }

    /// Runs `dm-remap VERB NAME ARGS`.
    pub fn command(&self, verb: &str, args: &[&str]) -> Ended {
        let mut all = vec![verb, &self.name];
        all.extend(args);
        dm_remap(&all)
    }

    /// Whether I/O to any device of the setup waits.
    pub fn suspended(&self) -> bool {
        self.devices().any(|name| kernel().handle(&name).unwrap().suspended().is_ok_and(|yes| yes))
    }

    /// Whether a table lies in any device's inactive slot.
    pub fn has_inactive(&self) -> bool {
        self.devices().any(|name| kernel().handle(&name).unwrap().has_inactive().is_ok_and(|yes| yes))
    }

    fn devices(&self) -> impl Iterator<Item = String> {
        let begin = format!("{}-", self.name);
        let private = kernel().list().unwrap().into_iter().map(|(name, _)| name).filter(move |n| n.starts_with(&begin));
        std::iter::once(self.name.clone()).chain(private)
    }

    /// Regions of the kernel's statistics on its device.
    pub fn stats_regions(&self) -> String {
        kernel().message(&self.name, Sectors(0), "@stats_list").unwrap().unwrap_or_default()
    }

    /// The extents, by its metadata.
    pub fn extents(&self) -> BTreeSet<Extent> {
        let out = self.command("map", &["--json"]).expect(&[0]).out;
        let json: serde_json::Value = serde_json::from_str(&out).unwrap();
        let number = |row: &serde_json::Value, key: &str| row[key].as_u64().unwrap_or_else(|| panic!("{key}: {out}"));
        let rows = json["extents"].as_array().unwrap_or_else(|| panic!("{out}"));
        let extent = |row: &serde_json::Value| Extent {
            start: number(row, "start"),
            count: number(row, "count"),
            spare: number(row, "spare") as usize,
            slot: number(row, "slot"),
        };
        rows.iter().map(extent).collect()
    }

    /// The table that says where all sectors lie: the device's own, or that of its overlay, when the device's own is
    /// two lines that lead there and to the anchor, and the anchor leads there, too, and to all disks below.
    #[track_caller]
    pub fn flat_table(&self) -> Vec<Target> {
        let own = kernel().table(&self.name, TableSlot::Active).unwrap();
        let Some(TargetKind::Switch { device: overlay, .. }) = own.get(1).map(|t| &t.kind) else { return own };
        let named = |devno| kernel().list().unwrap().into_iter().find(|(_, d)| *d == devno).unwrap().0;
        let TargetKind::Linear { device: anchor, offset } = own[0].kind else { panic!("{own:?}") };
        assert_eq!((own.len(), offset), (2, own[0].start), "{own:?}");
        assert_eq!(own[1].kind, TargetKind::Switch { device: *overlay, offset: own[1].start }, "{own:?}");
        assert_eq!(own[1].start.0 + own[1].len.0, self.sectors, "{own:?}");
        let table = kernel().table(&named(*overlay), TableSlot::Active).unwrap();
        let spread = kernel().table(&named(anchor), TableSlot::Active).unwrap();
        assert_eq!(spread[0].kind, TargetKind::Switch { device: *overlay, offset: Sectors(0) }, "{spread:?}");
        let lead = |table: &[Target]| -> BTreeSet<String> {
            let device = |t: &Target| if let TargetKind::Linear { device, .. } = t.kind { Some(device) } else { None };
            table.iter().filter_map(device).map(|device| device.to_string()).collect()
        };
        let raw = |device: String| {
            let held = |i: &usize| {
                let private = kernel().state(&format!("{}-spare{i}", self.name)).unwrap();
                private.is_some_and(|private| private.devno.to_string() == device)
            };
            (0..self.spares.len()).find(held).map_or(device.clone(), |i| devno(&self.spares[i]))
        };
        assert_eq!(lead(&spread), lead(&table).into_iter().map(raw).collect(), "{spread:?}");
        table
    }

    /// Compares the kernel's table with the map (as [`Setup::extents`] gave it), by our own reading of both.
    #[track_caller]
    pub fn table_is(&self, extents: &BTreeSet<Extent>) {
        let table = self.flat_table();
        let main = devno(&self.main);
        let on_spare = |device: &str, spare: usize| {
            let private = kernel().state(&format!("{}-spare{spare}", self.name)).unwrap().unwrap();
            device == devno(&self.spares[spare]) || device == private.devno.to_string()
        };
        let mut on_spares = 0;
        let mut at = 0;
        for target in &table {
            let (start, len) = (target.start.0, target.len.0);
            assert_eq!(start, at, "{table:?}");
            at += len;
            let TargetKind::Linear { device, offset } = &target.kind else { panic!("{target:?}") };
            let (device, offset) = (device.to_string(), offset.0);
            if device == main {
                assert_eq!(start, offset, "{target:?}");
                continue;
            }
            on_spares += len;
            let mut from = start;
            while from < start + len {
                let extent = extents.iter().find(|e| e.start <= from && from < e.start + e.count);
                let extent = extent.unwrap_or_else(|| panic!("{target:?} is not in the map: {extents:?}"));
                assert_eq!(extent.slot + (from - extent.start), offset + (from - start), "{target:?}, {extent:?}");
                assert!(on_spare(&device, extent.spare), "{target:?}, {extent:?}");
                from = extent.start + extent.count;
            }
        }
        assert_eq!(at, self.sectors);
        assert_eq!(on_spares, extents.iter().map(|e| e.count).sum::<u64>(), "{table:?}\n{extents:?}");
    }

    /// Removes it, whatever state it is in.
    pub fn remove_by_force(&self) {
        let _ = run("dmsetup", &["remove", "--force", "--retry", &self.name]);
        for spare in 0..self.spares.len() {
            let _ = run("dmsetup", &["remove", "--force", "--retry", &format!("{}-spare{spare}", self.name)]);
        }
    }

    /// Dissolves it.
    #[track_caller]
    pub fn destroy(&self) {
        self.command("destroy", &["--discard-extents"]).expect(&[0]);
        nobody_left();
    }
}

impl Drop for Setup {
    /// After a failure, so that the tests that follow have the disks for themselves.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.remove_by_force();
            for spare in &self.spares {
                let _ = run(
                    "dd",
                    &["if=/dev/zero", &format!("of={}", spare.display()), "bs=1M", "count=8", "oflag=direct"],
                );
            }
        }
    }
}

/// A reproducible source of numbers.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// Other numbers for every other seed.
    pub fn seeded(seed: u64) -> Random {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        (0..4).for_each(|_| {
            random.next();
        });
        random
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A run of at most `most` units of 8 sectors, as commands take it, between two sectors.
    pub fn units(&mut self, from: u64, end: u64, most: u64) -> String {
        let units = 1 + self.below(most);
        format!("{}+{}", from + self.below((end - from) / 8 - units) * 8, units * 8)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}
