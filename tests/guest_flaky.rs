//! Filesystems on a disk that gets more bad sectors all the time: what a program has written and synced reads back right or
//! not at all, and when the damaged files are written again all is right, for fsck, for the checksums, and for the disk
//! by itself at the end.
//!
//! Main is dm-dust over a disk: a read of a bad sector fails until it is written. `DM_REMAP_SEED=N` draws other sectors,
//! `DM_REMAP_ROUNDS=N` makes that many times three of them bad.
// guest: --disk 128M --disk 32M --mem 1024 --timeout 7200
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod live;

use dm_remap::dm::DeviceMapper;
use dm_remap::units::Sectors;
use live::{Random, Setup, disk, in_guest, kernel, must, number, run, sectors};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Instant;

const MNT: &str = "/tmp/mnt";
const DUST: &str = "dust-below";
const NAME: &str = "flaky";
/// Bytes that a filesystem keeps or loses together.
const BLOCK: usize = 4096;
const FILES: usize = 24;
const BLOCKS: usize = 96;
const BAD_AT_ONCE: u64 = 3;
const ROUNDS: u64 = 4;

struct Filesystem {
    mkfs: &'static [&'static str],
    fsck: &'static [&'static str],
    /// It keeps two copies of what describes the files: any sector may go bad. Of the others only those with files' data.
    mends_itself: bool,
}

const EXT4: Filesystem = Filesystem {
    mkfs: &["mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
    fsck: &["e2fsck", "-f", "-n"],
    mends_itself: false,
};
const XFS: Filesystem =
    Filesystem { mkfs: &["mkfs.xfs", "-q", "-f", "--unsupported"], fsck: &["xfs_repair", "-n"], mends_itself: false };
const BTRFS: Filesystem = Filesystem {
    mkfs: &["mkfs.btrfs", "-q", "-f", "-m", "dup"],
    fsck: &["btrfs", "check", "--readonly"],
    mends_itself: true,
};

/// What a block of a file holds in a version of the file.
fn block(file: usize, at: usize, version: u32) -> Vec<u8> {
    let mut random = Random((file as u64) << 48 | (at as u64) << 32 | u64::from(version) | 1 << 63);
    (0..BLOCK / 8).flat_map(|_| random.next().to_le_bytes()).collect()
}

fn path(file: usize) -> PathBuf {
    Path::new(MNT).join(format!("file{file}"))
}

/// The files and what they must hold: each a version, which is known before it is written over.
struct Files {
    versions: [Mutex<u32>; FILES],
    reads: AtomicU64,
}

impl Files {
    fn make() -> Files {
        let files = Files { versions: [const { Mutex::new(0) }; FILES], reads: AtomicU64::new(0) };
        (0..FILES).for_each(|file| files.write(file));
        files
    }

    /// Writes the next version of a file in its place, and syncs it.
    fn write(&self, file: usize) {
        let mut version = self.versions[file].lock().unwrap();
        *version += 1;
        let mut out = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path(file)).unwrap();
        (0..BLOCKS).for_each(|at| out.write_all(&block(file, at, *version)).unwrap());
        out.sync_all().unwrap();
    }

    /// Reads a file from the disk: how many of its blocks could not be read. A wrong one is the end.
    fn read(&self, file: usize) -> u64 {
        let version = self.versions[file].lock().unwrap();
        let mut from = File::open(path(file)).unwrap();
        posix_fadvise(&from, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
        assert_eq!(from.metadata().unwrap().len(), (BLOCKS * BLOCK) as u64, "file {file}");
        let mut unreadable = 0;
        for at in 0..BLOCKS {
            let mut data = vec![0; BLOCK];
            from.seek(SeekFrom::Start((at * BLOCK) as u64)).unwrap();
            match from.read_exact(&mut data) {
                Ok(()) => {
                    assert!(data == block(file, at, *version), "file {file}, block {at} is not version {version}")
                }
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(nix::libc::EIO), "file {file}, block {at}: {error}");
                    unreadable += 1;
                }
            }
        }
        self.reads.fetch_add(1, SeqCst);
        unreadable
    }

    /// How many blocks of each file cannot be read.
    fn read_all(&self) -> Vec<u64> {
        fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
        (0..FILES).map(|file| self.read(file)).collect()
    }
}

/// The disk that goes bad, below a setup with a filesystem.
struct Bench {
    setup: Setup,
    filesystem: &'static Filesystem,
    random: Random,
    bad: u64,
}

impl Bench {
    fn begin(filesystem: &'static Filesystem, seed: u64) -> Bench {
        let main = live::dust(DUST, &disk(0));
        // What a test before has left on the spare is not of this one.
        live::load::fill(&disk(1), sectors(&disk(1)));
        let setup = Setup::create(NAME, main, vec![disk(1)]);
        let bench = Bench { setup, filesystem, random: Random::seeded(seed), bad: 0 };
        let (mkfs, args) = filesystem.mkfs.split_first().unwrap();
        let node = bench.setup.node();
        must(mkfs, &[args, &[node.to_str().unwrap()]].concat());
        fs::create_dir_all(MNT).unwrap();
        bench.mount(&node);
        bench
    }

    fn mount(&self, node: &Path) {
        must("mount", &["-o", "noatime", node.to_str().unwrap(), MNT]);
    }

    fn unmount(&self) {
        must("umount", &[MNT]);
    }

    /// A sector that may go bad: one of a file's, or any that was written where the filesystem can stand it. (Superblocks of
    /// btrfs lie at 64 KiB and 64 MiB.)
    fn victim(&mut self) -> u64 {
        if self.filesystem.mends_itself {
            let main = File::open(disk(0)).unwrap();
            let ours = (4096..131_072).chain(131_080..self.setup.sectors);
            let places: Vec<u64> = ours.step_by(7).collect();
            let written = |at: &u64| {
                let mut data = [0; 512];
                main.read_exact_at(&mut data, at * 512).unwrap();
                data != [0; 512]
            };
            return (0..).map(|_| places[self.random.below(places.len() as u64) as usize]).find(written).unwrap();
        }
        let file = self.random.below(FILES as u64) as usize;
        let out = must("filefrag", &["-e", "-b512", "-s", path(file).to_str().unwrap()]);
        // "   0:        0..     767:      12345..     13112:    768:   last,eof"
        let rows = out.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let (start, end) = fields.get(2)?.split_once("..")?;
            Some((start.trim().parse::<u64>().ok()?, end.trim().parse::<u64>().ok()?))
        });
        let extents: Vec<(u64, u64)> = rows.collect();
        assert!(!extents.is_empty(), "{out}");
        let (start, end) = extents[self.random.below(extents.len() as u64) as usize];
        start + self.random.below(end + 1 - start)
    }

    /// More sectors go bad, and what moves them away runs, while files are written and read.
    fn round(&mut self, files: &Files) {
        let mut victims: Vec<u64> = (0..BAD_AT_ONCE).map(|_| self.victim()).collect();
        victims.sort_unstable();
        victims.dedup();
        let extents = self.setup.extents();
        // One that was moved away is not read on main any more.
        victims.retain(|at| !extents.iter().any(|extent| extent.start <= *at && *at < extent.start + extent.count));
        let done = AtomicBool::new(false);
        let seed = self.random.next();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut random = Random::seeded(seed);
                while !done.load(SeqCst) {
                    let file = random.below(FILES as u64) as usize;
                    match random.below(4) {
                        0 => files.write(file),
                        _ => _ = files.read(file),
                    }
                }
            });
            for at in &victims {
                kernel().message(DUST, Sectors(0), &format!("addbadblock {at}")).unwrap();
            }
            self.bad += victims.len() as u64;
            let ended = self.setup.command("scan", &["--rate", "max"]);
            done.store(true, SeqCst);
            ended.expect(&[0, 3]);
        });
    }

    /// Somebody sees to the damage: the files are written again. Then nothing is wrong.
    fn mend(&self, files: &Files) {
        let unreadable = files.read_all();
        let sum: u64 = unreadable.iter().sum();
        println!("{}: {} sectors went bad, {sum} blocks of files could not be read", self.filesystem.mkfs[0], self.bad);
        assert!(sum <= self.bad, "more blocks are unreadable than sectors went bad: {unreadable:?}");
        (0..FILES).filter(|file| unreadable[*file] > 0).for_each(|file| files.write(file));
        if self.filesystem.mends_itself {
            // Until then what was written over counts as in use.
            must("btrfs", &["filesystem", "sync", MNT]);
            must("btrfs", &["scrub", "start", "-B", "-f", MNT]);
        }
        assert_eq!(files.read_all().iter().sum::<u64>(), 0);
    }

    fn check(&self, node: &Path, files: &Files) {
        let (fsck, args) = self.filesystem.fsck.split_first().unwrap();
        must(fsck, &[args, &[node.to_str().unwrap()]].concat());
        self.mount(node);
        assert_eq!(files.read_all().iter().sum::<u64>(), 0);
        self.unmount();
    }

    fn end(&self, files: &Files) {
        self.unmount();
        let node = self.setup.node();
        self.check(&node, files);
        self.setup.command("deactivate", &[]).expect(&[0]);
        self.setup.command("activate", &["--main", self.setup.main.to_str().unwrap()]).expect(&[0, 3]);
        self.check(&node, files);
        let extents = self.setup.extents();
        assert!(!extents.is_empty(), "nothing was moved");
        self.setup.table_is(&extents);
        // What was bad is written as it goes back, and dust takes it off its list; what nobody has written again stays bad.
        self.setup.command("restore", &["--all", "--unreadable", "leave"]).expect(&[0, 3]);
        self.setup.command("destroy", &["--merge-back"]).expect(&[0, 3]);
        self.check(&self.setup.main, files);
        must("dmsetup", &["remove", "--retry", DUST]);
    }
}

impl Drop for Bench {
    /// After a failure, so that the next filesystem has the disks for itself.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = run("umount", &["-l", MNT]);
            self.setup.remove_by_force();
            let _ = run("dmsetup", &["remove", "--force", "--retry", DUST]);
        }
    }
}

fn on(filesystem: &'static Filesystem) {
    if !in_guest() {
        return;
    }
    let begun = Instant::now();
    let seed = number("DM_REMAP_SEED", 1);
    let mut bench = Bench::begin(filesystem, seed);
    let files = Files::make();
    for _ in 0..number("DM_REMAP_ROUNDS", ROUNDS) {
        bench.round(&files);
    }
    bench.mend(&files);
    bench.end(&files);
    println!("{}: seed {seed}, {} reads of files, {:?}", filesystem.mkfs[0], files.reads.load(SeqCst), begun.elapsed());
}

#[test]
fn ext4_on_a_disk_that_goes_bad() {
    on(&EXT4);
}

#[test]
fn xfs_on_a_disk_that_goes_bad() {
    on(&XFS);
}

#[test]
fn btrfs_on_a_disk_that_goes_bad() {
    on(&BTRFS);
}
