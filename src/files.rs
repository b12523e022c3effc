//! Which file was hit: what a filesystem keeps in given sectors of a device.
//!
//! Invariants:
//! - nothing is written, and nothing is decided on the answer: it is for people;
//! - every sector that was asked for is in the answer. What could not be found out is [`Owner::Unknown`], with the
//!   reason; a search that fails never fails its caller;
//! - the time is bounded, and no filesystem is touched by this process itself: the filesystems' own tools do that, and
//!   are killed when their time is up. Only the beginning of the device is read here, to see what is on it;
//! - nothing is started when there is nothing to look up, or while the device is suspended.
//!
//! Names come from a disk that anybody may have written: they are shown with control characters escaped.

mod btrfs;
mod ext;
mod owner;
mod place;
mod search;
mod xfs;

pub use owner::{Named, Owned, Owner};

use crate::block::device::BlockDevice;
use crate::block::direct::{DirectDisk, Mode};
use crate::block::foreign::read_signature;
use crate::block::host::Host;
use crate::block::tool::Deadline;
use crate::block::{Disk, DiskError};
use crate::format::signature::{HEAD_BYTES, Kind};
use crate::units::{Bytes, Range, Sectors, coalesce};
use place::Place;
use search::Search;
use std::time::Duration;

/// How long a search may take where nobody says otherwise. On a large filesystem all inodes may have to be read.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The most runs of sectors that are looked up; what is beyond is [`Owner::Unknown`].
pub const MOST_RUNS: usize = 1000;

/// Says what owns the given sectors of `device`: [`owners_within`] the usual [`PATIENCE`].
pub fn owners(host: &Host, device: &BlockDevice, ranges: &[Range]) -> Vec<Owned> {
    owners_within(host, device, ranges, PATIENCE)
}

/// Says what owns the given sectors of `device`, in order, and split where owners differ. Blocks that several files
/// share are there once for each of them.
///
/// The filesystem may be mounted or not. Where it lies on something else on the device (a partition, a volume group),
/// it is not followed. No search is made when `patience` is zero.
pub fn owners_within(host: &Host, device: &BlockDevice, ranges: &[Range], patience: Duration) -> Vec<Owned> {
    let mut wanted = coalesce(ranges.to_vec());
    let beyond = wanted.split_off(wanted.len().min(MOST_RUNS));
    let mut search = Search::new(wanted);
    let place = if search.is_done() { None } else { look(host, device, &mut search, patience) };
    for range in beyond {
        search.add_unknown(range, format!("not looked up: only the first {MOST_RUNS} runs of sectors are"));
    }
    search.finish(place.as_ref())
}

/// Runs the search; where the filesystem is, if there is one.
fn look(host: &Host, device: &BlockDevice, search: &mut Search, patience: Duration) -> Option<Place> {
    if patience.is_zero() {
        search.rest_unknown("not looked up");
        return None;
    }
    if host.is_suspended(device) {
        search.rest_unknown("not looked up: the device is suspended");
        return None;
    }
    let mounts = host.mount_points(device);
    let kind = match mounts.first() {
        Some(mount) => mount.kind.clone(),
        None => recognise(host, device, search)?,
    };
    let place = Place::new(kind, mounts);
    let deadline = Deadline::after(patience);
    match place.kind.as_str() {
        "ext2" | "ext3" | "ext4" => ext::look(device, &place, search, deadline),
        "xfs" => xfs::look(device, &place, search, deadline),
        "btrfs" => btrfs::look(device, &place, search, deadline),
        other => search.rest_unknown(&format!("files cannot be looked up on {other}")),
    }
    search.rest_unknown("nothing was found that owns it");
    Some(place)
}

/// The type of the filesystem that is on the device, by its content; `None` when all that can be said has been said.
fn recognise(host: &Host, device: &BlockDevice, search: &mut Search) -> Option<String> {
    if host.is_fake() {
        search.rest_unknown("not looked up: a made-up device has no content");
        return None;
    }
    let disk = match DirectDisk::open_device(device, Mode::ReadOnly) {
        Ok(disk) => disk,
        Err(error) => {
            search.rest_unknown(&format!("not looked up: {error}"));
            return None;
        }
    };
    classify(&disk, search)
}

/// As [`recognise`], of an open disk.
fn classify(disk: &dyn Disk, search: &mut Search) -> Option<String> {
    let signature = match read_signature(disk) {
        Ok(Some(signature)) => signature,
        Ok(None) => {
            nothing_found(disk, search);
            return None;
        }
        Err(error) => {
            search.rest_unknown(&format!("what is on the device cannot be told: {error}"));
            return None;
        }
    };
    let name = signature.name.as_ref();
    match (signature.kind, name.strip_suffix(" filesystem")) {
        (Kind::Filesystem, Some("XFS")) => return Some("xfs".into()),
        (Kind::Filesystem, Some(kind)) => return Some(kind.into()),
        (Kind::Swap, _) => search.rest(|_| Owner::NoFilesystem { found: Some(name.into()) }),
        _ => search.rest_unknown(&format!("on the device is: {name}; what is inside is not followed")),
    }
    None
}

/// Nothing was recognised: there is nothing, unless what would tell is lost itself.
fn nothing_found(disk: &dyn Disk, search: &mut Search) {
    let head = Bytes(u64::try_from(HEAD_BYTES).unwrap_or(u64::MAX)).to_sectors_down().min(disk.size());
    let head = Range::new(Sectors::ZERO, head.align_down(disk.logical_block()));
    if head.is_some_and(|head| search.asked_in(head) || read_all(disk, head).is_err()) {
        search.rest_unknown(
            "what is on the device cannot be told: its beginning, where a filesystem would say so, is damaged",
        );
    } else {
        search.rest(|_| Owner::NoFilesystem { found: None });
    }
}

fn read_all(disk: &dyn Disk, range: Range) -> Result<(), DiskError> {
    let mut buffer = crate::block::buffer::AlignedBuffer::new(range.len().to_usize_bytes().unwrap_or(0));
    disk.read(range.start(), &mut buffer)
}

#[cfg(test)]
#[path = "files/files_tests.rs"]
mod tests;
