//! XFS, through the tools of xfsprogs, and find.
//!
//! Where it is mounted, what the disk says is out of date (the log holds what is new), so the kernel is asked: `fsmap`
//! of xfs_io tells what is free, and with a reverse map (`rmapbt`) also the owners. Without that map, which is what most
//! have, the extents of all files are listed until all open blocks are found: every file is opened for reading, none is
//! read. Names come from find, which ends them with a zero byte, so that a name can hold anything.
//!
//! Where it is not mounted, `blockget` of xfs_db goes over all inodes, and says what it finds of the blocks that it is
//! asked about; it does not read these. It refuses when the log has not been replayed. A name with the end of a line in
//! it could pose as what xfs_db says.
//!
//! As with any find, folders whose access times are kept get new ones.
//!
//! The places of the log and of the headers are computed from the superblock.

mod parse;
mod walk;

use super::owner::Owner;
use super::place::Place;
use super::search::{Hit, Id, Search};
use crate::block::device::BlockDevice;
use crate::block::tool::{Deadline, Lines, Tool, ToolError, Want};
use parse::{Geometry, Kind, MapOwner, Uses};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;

const XFS_DB: Tool = Tool { name: "xfs_db", package: "xfsprogs" };
const XFS_IO: Tool = Tool { name: "xfs_io", package: "xfsprogs" };

/// Runs of sectors that one run of a tool is asked about.
const AT_ONCE: usize = 100;

/// Blocks that `blockget` is asked about: it compares each block of the filesystem with each of them.
const MOST_BLOCKS: usize = 2000;

/// What to say of blocks that were allocated for a file, and hold nothing yet.
const UNWRITTEN: &str = "these blocks are allocated, but were never written";

/// What to say of blocks that no owner was found for.
const MISSING: &str = "it is in use, but by nothing that was found; something of the filesystem may be damaged";

/// Claims what it can find out.
pub(super) fn look(device: &BlockDevice, place: &Place, search: &mut Search, deadline: Deadline) {
    crate::block::tool::forget_cached(&device.path);
    let result = headers(device, search, deadline).and_then(|geometry| {
        if search.is_done() {
            return Ok(());
        }
        match (&place.mount, place.mounted) {
            (Some(mount), _) => {
                live_map(&mount.at, &geometry, search, deadline)?;
                walk::walk(device, place, mount, &geometry, search, deadline)
            }
            (None, true) => {
                search.rest_unknown("XFS is mounted, but not where it can be seen from here");
                Ok(())
            }
            (None, false) => at_rest(device, &geometry, search, deadline),
        }
    });
    if let Err(error) = result {
        search.rest_unknown(&error.to_string());
        search.no_names(format!("its name is not known: {error}"));
    }
    search.no_names("no name was found for it".into());
}

/// Claims the log, and the headers of the allocation groups.
fn headers(device: &BlockDevice, search: &mut Search, deadline: Deadline) -> Result<Geometry, ToolError> {
    let fields = format!("p {}", Geometry::FIELDS.join(" "));
    let arguments = ["-r", "-c", "sb 0", "-c", &fields].map(OsStr::new);
    let arguments = [&arguments[..], &[device.path.as_os_str()]].concat();
    let text = XFS_DB.output(&arguments, deadline)?;
    let Some(geometry) = parse::geometry(&text) else {
        let said = "it does not tell the geometry of the filesystem".to_string();
        return Err(ToolError::Failed { tool: XFS_DB.name, said });
    };
    if let Some(log) = geometry.log() {
        search.claim(log, &Hit::Owner(Owner::Journal), None);
    }
    for range in search.open().to_vec() {
        for header in geometry.headers(range) {
            search.claim(header, &Hit::metadata("superblock and headers of an allocation group"), None);
        }
    }
    if let Some(behind) = geometry.behind() {
        search.claim(behind, &Hit::Owner(Owner::FreeSpace), Some("behind the end of the filesystem"));
    }
    Ok(geometry)
}

/// Asks the kernel for its map of the device, where the filesystem is mounted.
fn live_map(
    mount: &std::path::Path,
    geometry: &Geometry,
    search: &mut Search,
    deadline: Deadline,
) -> Result<(), ToolError> {
    for runs in search.open().to_vec().chunks(AT_ONCE) {
        let mut arguments = vec![OsString::from("-r")];
        for run in runs {
            let run = geometry.widened(*run);
            arguments.extend(["-c".into(), format!("fsmap -m -d {} {}", run.start(), run.end()).into()]);
        }
        arguments.push(mount.into());
        let arguments: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
        let text = XFS_IO.output(&arguments, deadline)?;
        for (range, owner) in text.lines().filter_map(parse::fsmap) {
            match owner {
                MapOwner::Free => search.claim(range, &Hit::Owner(Owner::FreeSpace), None),
                MapOwner::Log => search.claim(range, &Hit::Owner(Owner::Journal), None),
                MapOwner::Metadata(what) => search.claim(range, &Hit::metadata(what), None),
                // With reflinks a block has one line for each file that shares it.
                MapOwner::Content(inode) => search.share(range, &Hit::Inode(Id::of(inode)), None),
                MapOwner::Part(what, inode) => search.claim(range, &Hit::Part(what, Id::of(inode)), None),
                MapOwner::Unknown => {}
            }
        }
    }
    Ok(())
}

/// Has xfs_db go over a filesystem that is not mounted, and list all names.
fn at_rest(
    device: &BlockDevice,
    geometry: &Geometry,
    search: &mut Search,
    deadline: Deadline,
) -> Result<(), ToolError> {
    let blocks = search.open().iter().flat_map(|run| geometry.numbers(*run)).take(MOST_BLOCKS);
    let mut request = String::from("blockget -n");
    for block in blocks {
        let _ = write!(request, " -b {block}");
    }
    let arguments = ["-r", "-c", &request, "-c", "ncheck"].map(OsStr::new);
    let arguments = [&arguments[..], &[device.path.as_os_str()]].concat();
    let (mut lines, mut names, mut uses, mut nameless) =
        (Lines::default(), parse::Names::default(), Uses::default(), None);
    let ended = XFS_DB.stream(&arguments, deadline, &mut |bytes| {
        lines.feed(bytes, |line| {
            if nameless.is_none() && uses.feed(line) {
                return Want::More;
            }
            if nameless.is_none() && parse::is_name(line) {
                // The names come last, and by then all inodes are known.
                claim_uses(search, geometry, &uses);
                nameless = Some(search.nameless());
            }
            if let Some(wanted) = &nameless {
                names.feed(line, |inode| wanted.contains(&Id::of(inode)));
            }
            Want::More
        })
    })?;
    claim_uses(search, geometry, &uses);
    if parse::is_dirty(&ended.errors) {
        let said = "the log has not been replayed: ask again while the filesystem is mounted".to_string();
        return Err(ToolError::Failed { tool: XFS_DB.name, said });
    }
    for (inode, path, directory) in names.done() {
        let node = search.inode(Id::of(inode));
        node.paths.push(path);
        node.directory |= directory;
    }
    other_names(device, search, &nameless.unwrap_or_default(), deadline)?;
    let root = search.inode(Id::of(geometry.root));
    (root.paths, root.directory) = (vec!["/".into()], true);
    if search.is_done() { Ok(()) } else { Err(XFS_DB.failed(&ended)) }
}

/// Notes of which files xfs_db has not listed all names: it keeps one for each.
fn other_names(
    device: &BlockDevice,
    search: &mut Search,
    ids: &BTreeSet<Id>,
    deadline: Deadline,
) -> Result<(), ToolError> {
    for id in ids {
        if search.inode(*id).directory {
            continue;
        }
        let request = format!("inode {}", id.inode);
        let arguments = ["-r", "-c", &request, "-c", "print core.nlinkv2"].map(OsStr::new);
        let arguments = [&arguments[..], &[device.path.as_os_str()]].concat();
        let (text, _) = XFS_DB.capture(&arguments, deadline)?;
        let links = text.trim().strip_prefix("core.nlinkv2 = ").and_then(|links| links.parse().ok());
        let node = search.inode(*id);
        if links != u64::try_from(node.paths.len()).ok() {
            node.note = Some("it has other names that were not found");
        }
    }
    Ok(())
}

fn claim_uses(search: &mut Search, geometry: &Geometry, uses: &Uses) {
    for (place, found) in &uses.found {
        let Some(range) = geometry.block(*place) else { continue };
        let ids = || found.inodes.iter().map(|inode| Id::of(*inode));
        match found.kind() {
            Kind::Content { directory } => ids().for_each(|id| {
                search.share(range, &Hit::Inode(id), None);
                search.inode(id).directory |= directory;
            }),
            Kind::Part(what) => ids().for_each(|id| search.share(range, &Hit::Part(what, id), None)),
            Kind::Metadata(what) => search.claim(range, &Hit::metadata(what), None),
            Kind::Log => search.claim(range, &Hit::Owner(Owner::Journal), None),
            Kind::Free => search.claim(range, &Hit::Owner(Owner::FreeSpace), None),
            Kind::Missing => search.claim(range, &Hit::unknown(MISSING), None),
            Kind::Unknown => search.claim(range, &Hit::unknown(format!("xfs_db says '{}'", found.kind)), None),
        }
    }
}
