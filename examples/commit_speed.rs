//! How long commits take, and the same writes and flushes for fio: for benches/layout.
//!
//! `commit_speed SPARE SECONDS LOG`: commits generation after generation of the metadata on SPARE (the only spare of a setup
//! that is down), each as a command does it, for SECONDS. Prints how many there were, and the milliseconds that preparing them and writing
//! them took, and writing the last one as many times in a row, which is what fio does. LOG gets as many times the writes and flushes of one of them, as fio's `read_iolog` takes them.

use anyhow::{Context, Result, ensure};
use dm_remap::block::direct::{DirectDisk, Mode};
use dm_remap::block::host::Host;
use dm_remap::block::{Disk, DiskError};
use dm_remap::format::choose::Expected;
use dm_remap::format::copy::encode;
use dm_remap::format::metadata::Metadata;
use dm_remap::store::{Commit, CommitTarget, read_copies, unused_generation};
use dm_remap::units::Sectors;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A disk that takes note of what changes it, in fio's words.
#[derive(Debug)]
struct Noting {
    disk: Arc<dyn Disk>,
    path: String,
    lines: Mutex<Vec<String>>,
}

impl Noting {
    fn note(&self, line: String) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}

impl Disk for Noting {
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
        self.disk.read(start, buf)
    }

    fn write(&self, start: Sectors, buf: &[u8]) -> Result<(), DiskError> {
        self.note(format!("{} write {} {}", self.path, start.0.saturating_mul(512), buf.len()));
        self.disk.write(start, buf)
    }

    fn flush(&self) -> Result<(), DiskError> {
        self.note(format!("{} datasync 0 0", self.path));
        self.disk.flush()
    }
}

/// The metadata that are in force, and what is committed next.
struct Chain {
    metadata: Metadata,
    digest: [u8; 32],
}

impl Chain {
    /// Commits the next generation to `disk`; the commit, and how long it took to prepare and to write.
    fn commit(&mut self, disk: &Arc<dyn Disk>) -> Result<(Commit, Duration, Duration)> {
        let begin = Instant::now();
        let mut next = self.metadata.next(self.metadata.committed.saturating_add(1), self.digest);
        next.generation = unused_generation(&**disk, next.setup, next.generation);
        let encoded = encode(&next)?;
        let digest = encoded.digest();
        let record = next.spares.first().context("a setup without spares")?;
        let target = CommitTarget { disk: disk.clone(), uuid: record.uuid, data_start: record.data_start };
        let mut commit = Commit::new(vec![target], encoded);
        let prepared = begin.elapsed();
        let report = commit.run();
        let written = begin.elapsed().saturating_sub(prepared);
        ensure!(report.complete(), "a commit failed: {:?}", report.first_error());
        (self.metadata, self.digest) = (next, digest);
        Ok((commit, prepared, written))
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, seconds, log] = arguments.as_slice() else {
        anyhow::bail!("usage: commit_speed SPARE SECONDS LOG");
    };
    let limit = Duration::from_secs(seconds.parse().context("SECONDS is no number")?);
    // For ourselves: not the spare of a setup that is up.
    let claim = std::fs::File::options().read(true).custom_flags(nix::libc::O_EXCL).open(path);
    let _claim = claim.with_context(|| format!("{path} is in use"))?;
    let disk: Arc<dyn Disk> = Arc::new(DirectDisk::open(&Host::real(), Path::new(path), Mode::ReadWrite)?);
    let found = read_copies(&*disk, Expected { setup: None, spare: None }).choose()?.copy;
    ensure!(found.metadata.members().count() == 1, "the setup has more than one spare");
    let mut chain = Chain { metadata: found.metadata.clone(), digest: found.digest };
    let noting = Arc::new(Noting { disk: disk.clone(), path: path.clone(), lines: Mutex::default() });
    let noted: Arc<dyn Disk> = noting.clone();
    chain.commit(&noted)?;

    let (mut count, mut preparing, mut writing, mut last) = (0_usize, Duration::ZERO, Duration::ZERO, None);
    let begin = Instant::now();
    while begin.elapsed() < limit {
        let (commit, prepared, written) = chain.commit(&disk)?;
        count += 1;
        preparing += prepared;
        writing += written;
        last = Some(commit);
    }
    let mut last = last.context("no time for a commit")?;
    let begin = Instant::now();
    for _ in 0..count {
        ensure!(last.run().complete(), "a commit failed");
    }
    let in_a_row = begin.elapsed();
    let lines = noting.lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n");
    let all = vec![lines; count].join("\n");
    std::fs::write(log, format!("fio version 2 iolog\n{path} add\n{path} open\n{all}\n{path} close\n"))?;
    let [preparing, writing, in_a_row] = [preparing, writing, in_a_row].map(|time| time.as_millis());
    println!("{count} {preparing} {writing} {in_a_row}");
    Ok(())
}
