//! Continuous verified I/O to a device: every sector's contents say which sector and which version they are, and each
//! read is compared with what was written last.

use super::Random;
use dm_remap::block::buffer::AlignedBuffer;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const SECTOR: usize = 512;
/// Sectors of a block; each block belongs to one thread.
const BLOCK: u64 = 8;
const THREADS: u64 = 2;
/// The version of a sector that answers no reads.
const LOST: u32 = u32::MAX;
/// Between two operations of a thread, so that a guest with one processor does something else too.
const PAUSE: Duration = Duration::from_millis(1);

/// What a sector holds in a version.
pub fn pattern(sector: u64, version: u32) -> [u8; SECTOR] {
    let mut out = [0; SECTOR];
    let mut random = Random(sector.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (u64::from(version) << 40) | 1);
    for word in out.chunks_exact_mut(8) {
        word.copy_from_slice(&random.next().to_le_bytes());
    }
    out[..8].copy_from_slice(&sector.to_le_bytes());
    out[8..12].copy_from_slice(&version.to_le_bytes());
    out
}

/// Every sector of a device that was filled and that nobody has written to since.
#[track_caller]
pub fn reads_right(device: &Path) {
    const AT_ONCE: u64 = 2048;
    let node = OpenOptions::new().read(true).custom_flags(nix::libc::O_DIRECT).open(device).unwrap();
    let mut data = AlignedBuffer::new(AT_ONCE as usize * SECTOR);
    let sectors = super::sectors(device);
    for start in (0..sectors).step_by(AT_ONCE as usize) {
        let here = &mut data[..(sectors - start).min(AT_ONCE) as usize * SECTOR];
        node.read_exact_at(here, start * SECTOR as u64).unwrap();
        for (sector, data) in (start..).zip(here.chunks_exact(SECTOR)) {
            assert!(data == pattern(sector, 0), "sector {sector}");
        }
    }
}

#[derive(Debug)]
struct Shared {
    /// The version that each sector had when it was last written without an error.
    versions: Vec<AtomicU32>,
    /// The last one that was tried: a write that failed may have been done all the same.
    tried: Vec<AtomicU32>,
    /// Errors are no failure; wrong data is.
    tolerant: bool,
    /// The first sector that is ours; what is before it belongs to somebody else.
    first: u64,
    /// Areas of the device that get most of the I/O: start and length.
    hot: Vec<(u64, u64)>,
    stop: AtomicBool,
    gate: RwLock<()>,
    /// Start of each thread's running operation, in microseconds since `epoch`; 0 for none.
    running: [AtomicU64; THREADS as usize],
    longest: AtomicU64,
    operations: AtomicU64,
    /// How many of them ended with an error that was tolerated.
    refused: AtomicU64,
    errors: Mutex<Vec<String>>,
    epoch: Instant,
}

/// Threads that read and write a device without end.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    file: File,
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_DIRECT).open(path).unwrap()
}

/// Fills a device with version 0 of its sectors.
pub fn fill(path: &Path, sectors: u64) {
    const AT_ONCE: u64 = 2048;
    let file = open(path);
    let mut buffer = AlignedBuffer::new(AT_ONCE as usize * SECTOR);
    for start in (0..sectors).step_by(AT_ONCE as usize) {
        let count = AT_ONCE.min(sectors - start);
        let bytes = count as usize * SECTOR;
        for (sector, data) in (start..).zip(buffer[..bytes].chunks_exact_mut(SECTOR)) {
            data.copy_from_slice(&pattern(sector, 0));
        }
        file.write_all_at(&buffer[..bytes], start * SECTOR as u64).unwrap();
    }
}

impl Load {
    /// Starts on a device that [`fill`] has filled. `lost` sectors are never written, and must not be readable.
    pub fn start(path: &Path, sectors: u64, hot: &[(u64, u64)], lost: &[u64]) -> Load {
        Load::start_in(path, sectors, 0, hot, lost, false)
    }

    /// The same on a device that answers with errors at times. A sector of which a write has failed may hold what it held
    /// before, or what was written.
    pub fn start_tolerant(path: &Path, sectors: u64, hot: &[(u64, u64)]) -> Load {
        Load::start_in(path, sectors, 0, hot, &[], true)
    }

    /// Starts on the device from sector `first` on; [`fill`] has filled that part.
    pub fn start_within(path: &Path, sectors: u64, first: u64, hot: &[(u64, u64)]) -> Load {
        Load::start_in(path, sectors, first, hot, &[], false)
    }

    fn start_in(path: &Path, sectors: u64, first: u64, hot: &[(u64, u64)], lost: &[u64], tolerant: bool) -> Load {
        let zeros = || (0..sectors).map(|_| AtomicU32::new(0)).collect();
        let (versions, tried): (Vec<AtomicU32>, Vec<AtomicU32>) = (zeros(), zeros());
        lost.iter().for_each(|sector| versions[*sector as usize].store(LOST, SeqCst));
        let shared = Arc::new(Shared {
            versions,
            tried,
            tolerant,
            first,
            hot: hot.to_vec(),
            stop: AtomicBool::new(false),
            gate: RwLock::new(()),
            running: [const { AtomicU64::new(0) }; THREADS as usize],
            longest: AtomicU64::new(0),
            operations: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            errors: Mutex::new(Vec::new()),
            epoch: Instant::now(),
        });
        let mut load = Load { shared, threads: Vec::new(), file: open(path) };
        for number in 0..THREADS {
            let (shared, file) = (load.shared.clone(), open(path));
            load.threads.push(std::thread::spawn(move || work(&shared, &file, number)));
        }
        load
    }

    /// The longest that an operation took since the last call, those that still run included.
    pub fn longest(&self) -> Duration {
        let now = self.shared.epoch.elapsed().as_micros() as u64;
        let running = self.shared.running.iter().map(|r| r.load(SeqCst)).filter(|at| *at > 0);
        let running = running.map(|at| now.saturating_sub(at)).max().unwrap_or(0);
        Duration::from_micros(self.shared.longest.swap(0, SeqCst).max(running))
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.shared.operations.load(SeqCst)
    }

    /// How many of them ended with an error that was tolerated.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(SeqCst)
    }

    /// Fails if anything was wrong so far.
    #[track_caller]
    pub fn check(&self) {
        let errors = self.shared.errors.lock().unwrap();
        assert!(errors.is_empty(), "{} I/O errors: {:#?}", errors.len(), &errors[..errors.len().min(10)]);
    }

    /// Stops I/O for the moment and compares the hot areas, with large reads across the extents' edges.
    #[track_caller]
    pub fn verify_hot(&self) {
        let _gate = self.shared.gate.write().unwrap();
        for (start, len) in &self.shared.hot {
            self.compare(*start, *len);
        }
    }

    /// The same for all that is ours.
    #[track_caller]
    pub fn verify_all(&self) {
        let _gate = self.shared.gate.write().unwrap();
        let first = self.shared.first;
        self.compare(first, self.shared.versions.len() as u64 - first);
    }

    #[track_caller]
    fn compare(&self, start: u64, len: u64) {
        const AT_ONCE: u64 = 2048;
        let version = |sector: u64| self.shared.versions[sector as usize].load(SeqCst);
        let mut at = start;
        while at < start + len {
            let mut count = AT_ONCE.min(start + len - at);
            let lost = version(at) == LOST;
            // Sectors that cannot be read are looked at one by one.
            count = if lost { 1 } else { (at..at + count).take_while(|s| version(*s) != LOST).count() as u64 };
            let mut buffer = AlignedBuffer::new(count as usize * SECTOR);
            let read = self.file.read_exact_at(&mut buffer, at * SECTOR as u64);
            match read {
                Ok(()) => assert!(!lost, "sector {at} reads, although it is lost"),
                Err(error) => assert!(lost, "sectors {at}+{count}: {error}"),
            }
            if !lost {
                for (sector, data) in (at..).zip(buffer.chunks_exact(SECTOR)) {
                    if let Some(what) = self.shared.difference(sector, data) {
                        panic!("{what}");
                    }
                }
            }
            at += count;
        }
    }

    /// Ends the threads, compares everything, and gives the number of operations.
    #[track_caller]
    pub fn finish(mut self) -> u64 {
        self.shared.stop.store(true, SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        self.check();
        self.verify_all();
        self.operations()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // The threads are not waited for: after a failure the device may hang.
        self.shared.stop.store(true, SeqCst);
    }
}

impl Shared {
    /// What is wrong with the data of a sector.
    fn difference(&self, sector: u64, data: &[u8]) -> Option<String> {
        let known = |versions: &[AtomicU32]| versions[sector as usize].load(SeqCst);
        let (version, tried) = (known(&self.versions), known(&self.tried));
        if (version..=tried).any(|version| data == pattern(sector, version)) {
            return None;
        }
        let seen = u64::from_le_bytes(data[..8].try_into().unwrap());
        let seen_version = u32::from_le_bytes(data[8..12].try_into().unwrap());
        Some(format!(
            "sector {sector} should hold version {version} (to {tried}); found sector {seen}, version {seen_version}"
        ))
    }
}

fn work(shared: &Shared, file: &File, number: u64) {
    let mut random = Random(0x1234_5678_9ABC_DEF1 + number * 7919);
    let mut buffer = AlignedBuffer::new(BLOCK as usize * SECTOR);
    let blocks = shared.versions.len() as u64 / BLOCK;
    while !shared.stop.load(SeqCst) {
        let block = match random.below(4) {
            0 => shared.first / BLOCK + random.below(blocks - shared.first / BLOCK),
            _ => {
                let (start, len) = shared.hot[random.below(shared.hot.len() as u64) as usize];
                (start + random.below(len)) / BLOCK
            }
        };
        let block = (block / THREADS * THREADS + number).min(blocks - 1);
        if block % THREADS == number {
            operate(shared, file, &mut random, block * BLOCK, &mut buffer, number as usize);
        }
        std::thread::sleep(PAUSE);
    }
}

fn operate(shared: &Shared, file: &File, random: &mut Random, block: u64, buffer: &mut AlignedBuffer, number: usize) {
    let first = random.below(BLOCK);
    let count = 1 + random.below(BLOCK - first);
    let run = block + first..block + first + count;
    let version = |sector: u64| shared.versions[sector as usize].load(SeqCst);
    let lost = run.clone().any(|sector| version(sector) == LOST);
    let write = random.below(2) == 0 && !lost;
    let data = &mut buffer[..count as usize * SECTOR];
    if write {
        for (sector, data) in run.clone().zip(data.chunks_exact_mut(SECTOR)) {
            let next = shared.tried[sector as usize].load(SeqCst) + 1;
            data.copy_from_slice(&pattern(sector, next));
        }
    }
    let _gate = shared.gate.read().unwrap();
    if write {
        run.clone().for_each(|sector| _ = shared.tried[sector as usize].fetch_add(1, SeqCst));
    }
    let begun = shared.epoch.elapsed().as_micros() as u64;
    shared.running[number].store(begun, SeqCst);
    let at = run.start * SECTOR as u64;
    let result = if write { file.write_all_at(data, at) } else { file.read_exact_at(data, at) };
    shared.running[number].store(0, SeqCst);
    shared.longest.fetch_max(shared.epoch.elapsed().as_micros() as u64 - begun, SeqCst);
    shared.operations.fetch_add(1, SeqCst);
    let what = if write { "write" } else { "read" };
    match result {
        Err(_) if lost => {}
        Err(_) if shared.tolerant => _ = shared.refused.fetch_add(1, SeqCst),
        Err(error) => shared.errors.lock().unwrap().push(format!("{what} of {run:?}: {error}")),
        Ok(()) if lost => shared.errors.lock().unwrap().push(format!("{run:?} reads, although it is lost")),
        Ok(()) if write => run.for_each(|sector| {
            let written = shared.tried[sector as usize].load(SeqCst);
            shared.versions[sector as usize].store(written, SeqCst);
        }),
        Ok(()) => {
            let wrong = run.zip(data.chunks_exact(SECTOR)).find_map(|(s, data)| shared.difference(s, data));
            shared.errors.lock().unwrap().extend(wrong);
        }
    }
}
