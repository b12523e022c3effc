//! XFS, through the tools of xfsprogs, and find.
//!
//! Where it is mounted, what the disk says is out of date (the log holds what is new), so the kernel is asked: `fsmap`
//! of xfs_io tells what is free, and with a reverse map (`rmapbt`) also the owners. Without that map, which is what most
//! have, the extents of all files are listed until all open blocks are found: every file is opened for reading, none is
//! read. Names come from find, which ends them with a zero byte, so that a name can hold anything.
//!
//! Where it is not mounted, `blockget` of xfs_db goes over all inodes. It refuses when the log has not been replayed.
//!
//! The places of the log and of the headers are computed from the superblock.

mod parse;
mod walk;

use super::owner::Owner;
use super::place::Place;
use super::search::{Hit, Id, Search};
use super::tool::{Deadline, Lines, Tool, ToolError, Want};
use crate::block::device::BlockDevice;
use crate::units::Range;
use parse::{Geometry, MapOwner, Use};
use std::ffi::{OsStr, OsString};

const XFS_DB: Tool = Tool { name: "xfs_db", package: "xfsprogs" };
const XFS_IO: Tool = Tool { name: "xfs_io", package: "xfsprogs" };

/// Runs of sectors that one run of a tool is asked about.
const AT_ONCE: usize = 100;

/// What to say of blocks that were allocated for a file, and hold nothing yet.
const UNWRITTEN: &str = "these blocks are allocated, but were never written";

/// Claims what it can find out.
pub(super) fn look(device: &BlockDevice, place: &Place, search: &mut Search, deadline: Deadline) {
    super::tool::forget_cached(&device.path);
    let result = headers(device, search, deadline).and_then(|geometry| {
        if search.is_done() {
            return Ok(());
        }
        match (&place.mount, place.mounted) {
            (Some(mount), _) => {
                live_map(&mount.at, search, deadline)?;
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
fn live_map(mount: &std::path::Path, search: &mut Search, deadline: Deadline) -> Result<(), ToolError> {
    for runs in search.open().to_vec().chunks(AT_ONCE) {
        let mut arguments = vec![OsString::from("-r")];
        for run in runs {
            let last = run.end().0.saturating_sub(1);
            arguments.extend(["-c".into(), format!("fsmap -m -d {} {last}", run.start()).into()]);
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
    let mut arguments: Vec<OsString> = ["-r", "-c", "blockget -n"].map(OsString::from).to_vec();
    for run in search.open() {
        for (sector, count) in geometry.parts(*run) {
            arguments.extend(["-c".into(), format!("daddr {sector}").into()]);
            arguments.extend(["-c".into(), format!("blockuse -c {count}").into()]);
        }
    }
    arguments.extend(["-c".into(), "ncheck".into(), device.path.clone().into()]);
    let arguments: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
    let (mut lines, mut names, mut nameless) = (Lines::default(), parse::Names::default(), None);
    let ended = XFS_DB.stream(&arguments, deadline, &mut |bytes| {
        lines.feed(bytes, |line| {
            if let Some((block, found)) = parse::blockuse(line).filter(|_| nameless.is_none()) {
                if let Some(range) = geometry.block(block) {
                    claim_use(search, range, &found);
                }
                return Want::More;
            }
            // The names come last, and by then all inodes are known.
            let wanted = nameless.get_or_insert_with(|| search.nameless());
            names.feed(line, |inode| wanted.contains(&Id::of(inode)));
            Want::More
        })
    })?;
    if parse::is_dirty(&ended.errors) {
        let said = "the log has not been replayed: ask again while the filesystem is mounted".to_string();
        return Err(ToolError::Failed { tool: XFS_DB.name, said });
    }
    for (inode, path, directory) in names.done() {
        let node = search.inode(Id::of(inode));
        node.paths.push(path);
        node.directory |= directory;
    }
    if let Some(root) = nameless.unwrap_or_default().get(&Id::of(geometry.root)) {
        let node = search.inode(*root);
        (node.paths, node.directory) = (vec!["/".into()], true);
    }
    if search.open().is_empty() { Ok(()) } else { Err(XFS_DB.failed(&ended)) }
}

fn claim_use(search: &mut Search, range: Range, found: &Use) {
    match found {
        Use::Content { inode, directory, shared } => {
            let note = shared.then_some("its blocks are shared (reflink): other files may be hit as well");
            search.claim(range, &Hit::Inode(Id::of(*inode)), note);
            search.inode(Id::of(*inode)).directory |= directory;
        }
        Use::Part(what, inode) => search.claim(range, &Hit::Part(what, Id::of(*inode)), None),
        Use::Metadata(what) => search.claim(range, &Hit::metadata(*what), None),
        Use::Log => search.claim(range, &Hit::Owner(Owner::Journal), None),
        Use::Free => search.claim(range, &Hit::Owner(Owner::FreeSpace), None),
        Use::Unknown(what) => search.claim(range, &Hit::unknown(format!("xfs_db says '{what}'")), None),
    }
}
