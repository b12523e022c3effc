//! What else lives on a device: our own look at its first and last bytes, and `blkid` as a second opinion.
//!
//! Invariants:
//! - nothing is written;
//! - a sector that cannot be read hides only itself;
//! - the time is bounded: after [`MOST_FAILURES`] failed reads the rest counts as unreadable, and `blkid` is given
//!   [`PATIENCE`].

use super::buffer::AlignedBuffer;
use super::device::BlockDevice;
use super::host::Host;
use super::{Disk, DiskError, FaultClass};
use crate::format::header::MAGIC;
use crate::format::signature::{HEAD_BYTES, Kind, Signature, TAIL_BYTES, is_own, probe};
use crate::units::{Bytes, Range, SECTOR_SIZE, Sectors};
use std::borrow::Cow;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Failed reads after which a device is not asked for more: each may take the drive many seconds.
pub const MOST_FAILURES: u32 = 64;

/// How long `blkid` may take: it reads a failing disk with the kernel's patience.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Where `blkid` may be: PATH is not trusted.
const BLKID: [&str; 4] = ["/usr/sbin/blkid", "/sbin/blkid", "/usr/bin/blkid", "/bin/blkid"];

/// Sizes in which to read, in sectors: the large ones where the device is healthy.
const PIECES: [Sectors; 2] = [Sectors(128), Sectors(8)];

impl Host {
    /// Recognises what is on `device`, which is open as `disk`: [`read_signature`], then [`second_opinion`].
    ///
    /// Fails as [`read_signature`] does.
    pub fn signature(&self, device: &BlockDevice, disk: &dyn Disk) -> Result<Option<Signature>, DiskError> {
        let (own, signature) = look(disk)?;
        if own || signature.is_some() || self.is_fake() {
            return Ok(signature);
        }
        Ok(second_opinion(&device.path))
    }
}

/// Recognises what was made over our own metadata: as [`Host::signature`], but our magic at the start, which not every
/// program overwrites, hides nothing. For a device whose first copy is not valid.
///
/// # Errors
/// As [`read_signature`].
pub fn signature_over_ours(host: &Host, device: &BlockDevice, disk: &dyn Disk) -> Result<Option<Signature>, DiskError> {
    let (mut head, tail, size) = read_ends(disk)?;
    let own = is_own(&head);
    head.iter_mut().take(MAGIC.len()).filter(|_| own).for_each(|byte| *byte = 0);
    let signature = probe(&head, &tail, size);
    if signature.is_some() || host.is_fake() {
        return Ok(signature);
    }
    Ok(second_opinion(&device.path))
}

/// Recognises what is on `disk` from its first and last bytes. One of our own spares counts as nothing.
///
/// Unreadable sectors are skipped. Fails only when nothing of the beginning can be read, or when the device fails
/// in a way that is not about single sectors.
pub fn read_signature(disk: &dyn Disk) -> Result<Option<Signature>, DiskError> {
    look(disk).map(|(_, signature)| signature)
}

/// Whether the disk starts with our own magic, and what else is on it.
fn look(disk: &dyn Disk) -> Result<(bool, Option<Signature>), DiskError> {
    let (head, tail, size) = read_ends(disk)?;
    Ok((is_own(&head), probe(&head, &tail, size)))
}

/// The first and the last bytes of a disk, and its size.
fn read_ends(disk: &dyn Disk) -> Result<(AlignedBuffer, AlignedBuffer, Bytes), DiskError> {
    let head_len = whole_blocks(disk, HEAD_BYTES);
    let tail_len = whole_blocks(disk, TAIL_BYTES);
    let mut reader = Reader { disk, failures: 0, last: None, any: false };
    let head = reader.read(Sectors::ZERO, head_len)?;
    if let Some(error) = reader.last.take().filter(|_| !reader.any) {
        return Err(error);
    }
    let tail = reader.read(disk.size().saturating_sub(tail_len), tail_len)?;
    Ok((head, tail, disk.size().to_bytes().unwrap_or(Bytes(u64::MAX))))
}

fn whole_blocks(disk: &dyn Disk, bytes: usize) -> Sectors {
    let wanted = Sectors(u64::try_from(bytes / SECTOR_SIZE).unwrap_or(0));
    wanted.min(disk.size()).align_down(disk.logical_block())
}

/// Reads what can be read; the rest is zeros.
struct Reader<'a> {
    disk: &'a dyn Disk,
    failures: u32,
    last: Option<DiskError>,
    any: bool,
}

impl Reader<'_> {
    fn read(&mut self, start: Sectors, len: Sectors) -> Result<AlignedBuffer, DiskError> {
        let mut out = AlignedBuffer::new(len.to_usize_bytes().unwrap_or(0));
        if let Some(range) = Range::new(start, len) {
            self.fill(range, &mut out, &PIECES)?;
        }
        Ok(out)
    }

    /// Reads in pieces of the first of `sizes`; a piece that fails is read again in pieces of the next, and at last
    /// block by block.
    fn fill(&mut self, range: Range, out: &mut [u8], sizes: &[Sectors]) -> Result<(), DiskError> {
        let block = self.disk.logical_block();
        let piece = sizes.first().copied().unwrap_or(block).max(block);
        let Some(bytes) = piece.to_usize_bytes() else {
            return Ok(());
        };
        let mut start = range.start();
        for chunk in out.chunks_mut(bytes) {
            let Some(part) = Range::between(start, Sectors(start.0 + piece.0).min(range.end())) else {
                break;
            };
            start = part.end();
            if self.failures >= MOST_FAILURES {
                break;
            }
            match self.disk.read(part.start(), chunk) {
                Ok(()) => self.any = true,
                Err(error) => {
                    self.failed(error)?;
                    chunk.fill(0);
                    if piece > block {
                        self.fill(part, chunk, sizes.get(1..).unwrap_or_default())?;
                    }
                }
            }
        }
        Ok(())
    }

    fn failed(&mut self, error: DiskError) -> Result<(), DiskError> {
        match error.class() {
            FaultClass::Medium | FaultClass::Ambiguous => {
                self.failures += 1;
                self.last = Some(error);
                Ok(())
            }
            FaultClass::Transport | FaultClass::Request => Err(error),
        }
    }
}

/// What `blkid` recognises on the device at `path`; `None` when it finds nothing, is absent, or takes too long.
///
/// It reads through the page cache, so ask it only about devices that nothing else uses.
pub fn second_opinion(path: &Path) -> Option<Signature> {
    let program = BLKID.iter().find(|program| Path::new(program).exists())?;
    let child = Command::new(program)
        .args(["-p", "-o", "export", "--"])
        .arg(path)
        .env_clear()
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let (code, text) = finish(child, PATIENCE)?;
    interpret(code, &text)
}

/// Waits for the child and gives its exit code and output. One that takes too long is killed.
fn finish(mut child: Child, patience: Duration) -> Option<(i32, String)> {
    let end = Instant::now() + patience;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
            // Not waited for: a process that hangs in a read of a dying disk does not even die at once.
            _ => {
                let _ = child.kill();
                let _ = child.try_wait();
                return None;
            }
        }
    };
    // A few short lines: they fit in the pipe, so that the child could finish without a reader.
    let mut text = String::new();
    let output = child.stdout.take()?;
    output.take(1 << 16).read_to_string(&mut text).ok()?;
    Some((status.code()?, text))
}

/// Reads what `blkid -p -o export` has said; blkid(8) has the exit codes.
fn interpret(code: i32, text: &str) -> Option<Signature> {
    const AMBIVALENT: i32 = 8;
    let value = |key: &str| {
        let lines = text.lines().filter_map(|line| line.split_once('='));
        lines
            .filter(|(found, value)| *found == key && !value.is_empty())
            .map(|(_, value)| value.chars().filter(|c| !c.is_control()).collect::<String>())
            .next()
    };
    let signature = |kind, name| Signature { kind, name, offset: None };
    if code == AMBIVALENT {
        let name = "several signatures that contradict each other (see `wipefs`)";
        return Some(signature(Kind::Other, Cow::Borrowed(name)));
    }
    if code != 0 {
        return None;
    }
    // Not PART_ENTRY_TYPE and the like: they tell of the disk's table, not of what is in the partition.
    if let Some(name) = value("TYPE") {
        let (kind, what) = match value("USAGE").as_deref() {
            Some("filesystem") => (Kind::Filesystem, " filesystem"),
            Some("raid") => (Kind::Member, " member"),
            Some("crypto") => (Kind::Encryption, " encrypted volume"),
            Some("other") if name == "swap" => (Kind::Swap, " space"),
            _ => (Kind::Other, " signature"),
        };
        // Some types say it themselves: `linux_raid_member`, `LVM2_member`, `crypto_LUKS`.
        let what = if name.ends_with("member") { "" } else { what };
        return Some(signature(kind, Cow::Owned(name + what)));
    }
    let table = value("PTTYPE")?;
    Some(signature(Kind::PartitionTable, Cow::Owned(format!("{table} partition table"))))
}

#[cfg(test)]
#[path = "foreign_tests.rs"]
mod tests;
