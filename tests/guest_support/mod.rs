//! Helpers for tests that run the real program as root under a kernel with device-mapper (see scripts/guest).
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

use nix::errno::Errno;
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The program under test; `DM_REMAP_PROGRAM` names another build of it.
pub static PROGRAM: LazyLock<String> =
    LazyLock::new(|| std::env::var("DM_REMAP_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_dm-remap").into()));

/// A guest with nothing in it: no device-mapper devices, no loops, blank heads of its disks.
#[derive(Debug)]
pub struct Guest {
    pub disks: Vec<String>,
    start: Instant,
}

impl Guest {
    /// The guest that we run in; `None`, and said so, outside of one.
    pub fn begin() -> Option<Guest> {
        if std::env::var("DM_REMAP_GUEST").as_deref() != Ok("1") {
            println!("skipped: needs a guest");
            return None;
        }
        let disks = (0..).map_while(|n| std::env::var(format!("GUEST_DISK{n}")).ok()).collect();
        let guest = Guest { disks, start: Instant::now() };
        guest.clean();
        // Of some guests not all disks are known by these names; and a disk may be smaller than that.
        for disk in guest.disks.iter().filter(|disk| std::path::Path::new(disk).exists()) {
            let zeros = vec![0; 1 << 20];
            let device = Direct::open(disk);
            let _ = (0..12).try_for_each(|megabyte| device.write(megabyte * 2048, &zeros));
        }
        std::fs::create_dir_all("/tmp/mnt").unwrap();
        Some(guest)
    }

    /// Each program that is run costs a guest a tenth of a second: only what is there is cleaned away.
    fn clean(&self) {
        let exists = |path: &str| std::path::Path::new(path).exists();
        let any = |folder: &str, what: fn(&str) -> bool| {
            std::fs::read_dir(folder).into_iter().flatten().flatten().any(|e| what(&e.file_name().to_string_lossy()))
        };
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        let mut script = String::from("exec 2>/dev/null\n");
        if std::fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() > 1) {
            script.push_str("swapoff -a\n");
        }
        let has_setups = any("/sys/block", |name| name.starts_with("dm-"));
        if has_setups {
            script.push_str(
                "for name in $(dmsetup ls | awk '/No devices/ {exit} {print $1}'); do dmsetup resume \"$name\"; done\n",
            );
        }
        if mounts.lines().any(|line| line.split(' ').nth(1).is_some_and(|at| at.starts_with("/tmp/mnt"))) {
            script.push_str(
                "for at in $(awk '$2 ~ \"^/tmp/mnt\" {print $2}' /proc/mounts | sort -r); do umount \"$at\" || umount -l \"$at\"; done\n",
            );
        }
        if mounts.contains(" /etc/machine-id ") {
            script.push_str("while umount /etc/machine-id; do :; done\n");
        }
        if mounts.matches(" /var/lib/dm-remap").count() >= 2 {
            script.push_str("umount /var/lib/dm-remap\n");
        }
        if has_setups {
            script.push_str(
                "for turn in 1 2 3 4; do names=$(dmsetup ls | awk '/No devices/ {exit} {print $1}'); [ -n \"$names\" ] || break
                 for name in $names; do dmsetup remove \"$name\"; done; done\n",
            );
        }
        if (0..64).any(|n| exists(&format!("/sys/block/loop{n}/loop"))) {
            script.push_str("losetup -D\n");
        }
        if exists("/sys/module/scsi_debug") {
            script.push_str(
                "for turn in 1 2 3 4 5 6; do [ -d /sys/module/scsi_debug ] || break; rmmod scsi_debug && break; sleep 0.1; done\n",
            );
        }
        script.push_str("rm -rf /tmp/mnt/* /tmp/work-* /var/lib/dm-remap/* /run/dm-remap\ntrue");
        sh(&script);
    }

    /// A loop device over a sparse file of its own in memory.
    pub fn loop_device(&self, size: &str, options: &str) -> String {
        let script = format!("f=$(mktemp /tmp/work-XXXXXX) && truncate -s {size} $f && losetup -f --show {options} $f");
        sh(&script).trim().to_string()
    }

    /// A disk that can have medium errors: it has a WWN and a serial number, and none for now.
    pub fn scsi_debug(&self, megabytes: u32, more: &str) -> ScsiDebug {
        sh(&format!(
            "modprobe scsi_debug dev_size_mb={megabytes} {more} && for i in $(seq 100); do \
             ls /sys/bus/pseudo/drivers/scsi_debug/adapter0/host*/target*/*/block/* >/dev/null 2>&1 && break; sleep 0.05; done"
        ));
        let name = sh("ls -d /sys/bus/pseudo/drivers/scsi_debug/adapter0/host*/target*/*/block/* | head -1");
        let device = format!("/dev/{}", name.trim().rsplit('/').next().unwrap());
        sh(&format!("for i in $(seq 100); do [ -b {device} ] && break; sleep 0.05; done; [ -b {device} ]"));
        ScsiDebug { device }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // The next one cleans up; the last one's guest goes away.
        println!("took {:.1} s", self.start.elapsed().as_secs_f32());
    }
}

#[derive(Debug)]
pub struct ScsiDebug {
    pub device: String,
}

impl ScsiDebug {
    /// Reads of these sectors, and of no others, fail with a medium error from now on.
    pub fn bad(&self, start: u64, count: u64) {
        let parameters = "/sys/module/scsi_debug/parameters";
        sh(&format!(
            "echo {start} > {parameters}/medium_error_start && echo {count} > {parameters}/medium_error_count && \
             echo 2 > /sys/bus/pseudo/drivers/scsi_debug/opts"
        ));
    }

    /// All sectors read again.
    pub fn good(&self) {
        sh("echo 0 > /sys/bus/pseudo/drivers/scsi_debug/opts");
    }
}

/// What a command did.
#[derive(Clone, Debug)]
pub struct Ran {
    pub what: String,
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    #[track_caller]
    pub fn exits(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "{}\n--- stdout\n{}--- stderr\n{}", self.what, self.out, self.err);
        self
    }

    #[track_caller]
    pub fn ok(self) -> Ran {
        self.exits(0)
    }

    /// Standard output has all the words.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Ran {
        for word in words {
            assert!(self.out.contains(word), "no '{word}' from {}\n{}{}", self.what, self.out, self.err);
        }
        self
    }

    /// Standard error has all the words.
    #[track_caller]
    pub fn complains(self, words: &[&str]) -> Ran {
        for word in words {
            assert!(self.err.contains(word), "no '{word}' from {}\n{}{}", self.what, self.out, self.err);
        }
        self
    }

    /// Standard output is one JSON document of the version that we know.
    #[track_caller]
    pub fn json(&self) -> Value {
        let value: Value =
            serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{}: {e}\n{}{}", self.what, self.out, self.err));
        assert_eq!(value["schema_version"], 1, "{}", self.what);
        value
    }
}

fn run(command: &mut Command, what: String) -> Ran {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{what}: {e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    // As a shell has it, a signal is 128 and its number.
    let code = output.status.code().unwrap_or_else(|| {
        use std::os::unix::process::ExitStatusExt;
        128 + output.status.signal().unwrap_or(0)
    });
    Ran { what, code, out: text(&output.stdout), err: text(&output.stderr) }
}

/// Runs dm-remap.
pub fn dmr(args: &[&str]) -> Ran {
    run(Command::new(&*PROGRAM).args(args), format!("dm-remap {}", args.join(" ")))
}

/// Runs dm-remap with the words of a line as its arguments.
pub fn dm_remap(line: &str) -> Ran {
    dmr(&line.split_ascii_whitespace().collect::<Vec<_>>())
}

/// Runs one of the tools that dm-remap is, called by the tool's own name, for example `dm-remap-validate --device X`.
pub fn tool(line: &str) -> Ran {
    use std::os::unix::process::CommandExt;
    let mut words = line.split_ascii_whitespace();
    run(Command::new(&*PROGRAM).arg0(words.next().unwrap()).args(words), line.to_string())
}

/// Runs a shell script, in which `$DMR` is dm-remap.
pub fn shell(script: &str) -> Ran {
    run(Command::new("bash").args(["-c", script]).env("DMR", &*PROGRAM), script.to_string())
}

/// Output of a shell script, which must succeed.
#[track_caller]
pub fn sh(script: &str) -> String {
    shell(script).ok().out
}

/// A device or file, read and written past the page cache.
#[derive(Debug)]
pub struct Direct {
    file: File,
    path: String,
}

impl Direct {
    #[track_caller]
    pub fn open(path: &str) -> Direct {
        let open = |write| OpenOptions::new().read(true).write(write).custom_flags(nix::libc::O_DIRECT).open(path);
        let file = open(true).or_else(|_| open(false)).unwrap_or_else(|e| panic!("{path}: {e}"));
        Direct { file, path: path.into() }
    }

    pub fn sectors(&self) -> u64 {
        use std::io::Seek;
        (&self.file).seek(std::io::SeekFrom::End(0)).unwrap() / 512
    }

    /// Reads sectors.
    pub fn read(&self, sector: u64, count: u64) -> Result<Vec<u8>, Errno> {
        let len = count as usize * 512;
        let mut memory = vec![0u8; len + 4096];
        let skip = memory.as_ptr().align_offset(4096);
        let buf = &mut memory[skip..skip + len];
        match self.file.read_exact_at(buf, sector * 512) {
            Ok(()) => Ok(buf.to_vec()),
            Err(e) => Err(Errno::from_raw(e.raw_os_error().unwrap_or(nix::libc::EIO))),
        }
    }

    /// Writes sectors.
    pub fn write(&self, sector: u64, data: &[u8]) -> Result<(), Errno> {
        let mut memory = vec![0u8; data.len() + 4096];
        let skip = memory.as_ptr().align_offset(4096);
        let buf = &mut memory[skip..skip + data.len()];
        buf.copy_from_slice(data);
        self.file.write_all_at(buf, sector * 512).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(5)))
    }

    /// The sectors at which two devices differ, or one cannot be read.
    pub fn differences(&self, other: &[u8]) -> Vec<u64> {
        const STEP: u64 = 2048;
        let size = self.sectors();
        assert_eq!(size as usize * 512, other.len(), "{}", self.path);
        let mut out = Vec::new();
        let mut at = 0;
        while at < size {
            let count = STEP.min(size - at);
            let part = |from: u64, count: u64| &other[from as usize * 512..(from + count) as usize * 512];
            if self.read(at, count).as_deref() != Ok(part(at, count)) {
                out.extend((at..at + count).filter(|s| self.read(*s, 1).as_deref() != Ok(part(*s, 1))));
            }
            at += count;
        }
        out
    }

    /// All of it, with zeros for what cannot be read.
    pub fn image_or_zeros(&self) -> Vec<u8> {
        let (size, mut out, mut at) = (self.sectors(), Vec::new(), 0);
        while at < size {
            let count = 2048.min(size - at);
            match self.read(at, count) {
                Ok(data) => out.extend(data),
                Err(_) => {
                    (at..at + count).for_each(|s| out.extend(self.read(s, 1).unwrap_or_else(|_| vec![0; 512])));
                }
            }
            at += count;
        }
        out
    }

    /// All of it; it must be readable.
    #[track_caller]
    pub fn image(&self) -> Vec<u8> {
        let (size, mut out, mut at) = (self.sectors(), Vec::new(), 0);
        while at < size {
            let count = 2048.min(size - at);
            out.extend(self.read(at, count).unwrap_or_else(|e| panic!("{} at {at}: {e}", self.path)));
            at += count;
        }
        out
    }

    /// Overwrites everything.
    pub fn fill(&self, image: &[u8]) {
        for (n, part) in image.chunks(1 << 20).enumerate() {
            self.write(n as u64 * 2048, part).unwrap();
        }
    }
}

/// All that a refused or dry command must not have changed: every byte of the devices, tables, and the backups.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot {
    devices: Vec<(String, Vec<u8>)>,
    dm: String,
    backups: Vec<(String, Vec<u8>)>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&String> = self.backups.iter().map(|(name, _)| name).collect();
        write!(f, "{}\nbackups: {names:?}", self.dm)
    }
}

impl Snapshot {
    /// What is not as it was, in words; empty when all is.
    pub fn changes(&self, now: &Snapshot) -> String {
        let mut out = String::new();
        for ((path, old), (_, new)) in self.devices.iter().zip(&now.devices) {
            let sectors = old.chunks(512).zip(new.chunks(512)).enumerate();
            let changed: Vec<usize> = sectors.filter(|(_, (a, b))| a != b).map(|(n, _)| n).collect();
            if let Some(first) = changed.first() {
                out += &format!("{path}: {} sectors, the first is {first}\n", changed.len());
            }
        }
        if self.dm != now.dm {
            out += &format!("tables:\n{}--- now\n{}", self.dm, now.dm);
        }
        if self.backups != now.backups {
            out += &format!("backups: {self:?}\n--- now\n{now:?}");
        }
        out
    }
}

fn files_under(folder: &std::path::Path, out: &mut Vec<(String, Vec<u8>)>) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        let path = entry.path();
        if path.is_dir() {
            files_under(&path, out);
        } else {
            out.push((path.display().to_string(), std::fs::read(&path).unwrap_or_default()));
        }
    }
    out.sort();
}

pub fn snapshot(devices: &[&str]) -> Snapshot {
    let mut backups = Vec::new();
    files_under(std::path::Path::new("/var/lib/dm-remap/backup"), &mut backups);
    let dmsetup = |line: &str| run(Command::new("dmsetup").args(line.split(' ')), line.into()).ok().out;
    Snapshot {
        devices: devices.iter().map(|path| (path.to_string(), Direct::open(path).image_or_zeros())).collect(),
        dm: [dmsetup("table"), dmsetup("info -c --noheadings -o name,uuid,suspended,readonly,tables_loaded")].concat(),
        backups,
    }
}

/// The tables and nothing else.
pub fn tables() -> String {
    sh("dmsetup table")
}

/// Numbers that can be had again: xorshift64*.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// From `DM_REMAP_SEED`, or the clock. Prints the seed, which a failing test shows.
    pub fn new() -> Random {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64 % 1_000_000_007;
        let seed = std::env::var("DM_REMAP_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(now);
        println!("seed {seed} (DM_REMAP_SEED={seed} repeats this)");
        Random((seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            out.extend(self.next().to_le_bytes());
        }
        out.truncate(len);
        out
    }
}

/// Data that tells its sector and version.
pub fn pattern(sector: u64, version: u8) -> Vec<u8> {
    let mut data = vec![version; 512];
    data[..8].copy_from_slice(&sector.to_le_bytes());
    data
}

/// Patterns for a run of sectors.
pub fn patterns(start: u64, count: u64, version: u8) -> Vec<u8> {
    (start..start + count).flat_map(|s| pattern(s, version)).collect()
}

/// `(start, count)` of the ranges in a JSON list of them.
pub fn ranges(list: &Value) -> Vec<(u64, u64)> {
    let range = |v: &Value| if v["range"].is_object() { v["range"].clone() } else { v.clone() };
    list.as_array()
        .unwrap()
        .iter()
        .map(range)
        .map(|r| (r["start"].as_u64().unwrap(), r["count"].as_u64().unwrap()))
        .collect()
}

/// Watches that devices, tables and backups stay as they are.
#[derive(Debug)]
pub struct Still {
    devices: Vec<String>,
    seen: Snapshot,
}

impl Still {
    pub fn new(devices: &[&str]) -> Still {
        Still { devices: devices.iter().map(|d| d.to_string()).collect(), seen: snapshot(devices) }
    }

    fn now(&self) -> Snapshot {
        snapshot(&self.devices.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Takes what is there now for right.
    pub fn renew(&mut self) {
        self.seen = self.now();
    }

    #[track_caller]
    pub fn check(&self, what: &str) {
        let changes = self.seen.changes(&self.now());
        assert!(changes.is_empty(), "{what} changed something: {changes}");
    }
}
