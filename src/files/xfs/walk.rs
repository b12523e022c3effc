//! Over all files of a mounted XFS: their names, where their inodes lie, and, as far as needed, their extents.
//!
//! Invariant: files of other filesystems that are mounted inside do not count, whatever their inode numbers.

use super::parse::{self, Geometry};
use super::{UNWRITTEN, XFS_IO};
use crate::block::device::BlockDevice;
use crate::block::host::devno;
use crate::block::tool::{Deadline, Tool, ToolError, Want};
use crate::block::usage::MountPoint;
use crate::files::place::Place;
use crate::files::search::{Hit, Id, Search};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

const FIND: Tool = Tool { name: "find", package: "findutils" };

/// What find tells of each file: device, inode, links, blocks, type, path; ended with a zero byte.
const FORMAT: &str = "%D %i %n %b %y %p\\0";

/// Files whose extents one run of xfs_io lists. It has all of them open at the same time.
const AT_ONCE: usize = 200;

/// The longest entry: a path is not longer than this.
const MOST_ENTRY: usize = 1 << 20;

/// A file, as find tells it.
struct Entry {
    device: u64,
    inode: u64,
    links: u64,
    blocks: u64,
    kind: u8,
    path: OsString,
}

fn entry(bytes: &[u8]) -> Option<Entry> {
    let mut fields = bytes.splitn(6, |byte| *byte == b' ');
    let mut text = || std::str::from_utf8(fields.next()?).ok();
    let (device, inode, links) = (text()?.parse().ok()?, text()?.parse().ok()?, text()?.parse().ok()?);
    let (blocks, kind) = (text()?.parse().ok()?, *text()?.as_bytes().first()?);
    Some(Entry { device, inode, links, blocks, kind, path: OsString::from_vec(fields.next()?.to_vec()) })
}

/// Names the inodes that were found, and finds those of the blocks that are open.
pub(super) fn walk(
    device: &BlockDevice,
    place: &Place,
    mount: &MountPoint,
    geometry: &Geometry,
    search: &mut Search,
    deadline: Deadline,
) -> Result<(), ToolError> {
    let named = search.nameless();
    if search.is_done() && named.is_empty() {
        return Ok(());
    }
    let mut walk = Walk {
        device,
        place,
        geometry,
        deadline,
        names_missing: named.into_iter().map(|id| (id.inode, 0)).collect(),
        search,
        batch: Vec::new(),
        shared: false,
        first: true,
        unseen: 0,
        error: None,
    };
    let mut rest: Vec<u8> = Vec::new();
    let arguments = [mount.at.as_os_str(), OsStr::new("-xdev"), OsStr::new("-printf"), OsStr::new(FORMAT)];
    let ended = FIND.stream(&arguments, deadline, &mut |bytes| {
        let mut pieces = bytes.split(|byte| *byte == 0).peekable();
        while let Some(piece) = pieces.next() {
            if rest.len().saturating_add(piece.len()) < MOST_ENTRY {
                rest.extend_from_slice(piece);
            }
            if pieces.peek().is_some() && walk.take(&std::mem::take(&mut rest)) == Want::Enough {
                return Want::Enough;
            }
        }
        Want::More
    })?;
    if walk.error.is_none() && ended.code.is_some() {
        walk.flush();
    }
    let (unseen, error) = (walk.unseen, walk.error);
    if let Some(error) = error {
        return Err(error);
    }
    let incomplete = unseen > 0 || ended.code.is_some_and(|code| code != 0);
    search.rest_unknown(if incomplete {
        "it is in use, but not all files could be looked at"
    } else {
        "it is in use, but by no file or directory that can be reached: metadata, or a file that is deleted and still open"
    });
    Ok(())
}

struct Walk<'a> {
    device: &'a BlockDevice,
    place: &'a Place,
    geometry: &'a Geometry,
    search: &'a mut Search,
    deadline: Deadline,
    /// Inodes that have sectors, and how many more names they may have; 0 as long as that is not known.
    names_missing: BTreeMap<u64, u64>,
    batch: Vec<Entry>,
    /// Whether files were found that share blocks: then there may be others.
    shared: bool,
    first: bool,
    /// Files that could not be looked at.
    unseen: u64,
    error: Option<ToolError>,
}

impl Walk<'_> {
    /// Takes an entry of find.
    fn take(&mut self, bytes: &[u8]) -> Want {
        let Some(entry) = entry(bytes) else { return Want::More };
        let here = devno(entry.device) == self.device.devno;
        if std::mem::take(&mut self.first) && !here {
            let said = format!("something else is mounted over {}", entry.path.to_string_lossy());
            self.error = Some(ToolError::Failed { tool: FIND.name, said });
            return Want::Enough;
        }
        if !here {
            return Want::More;
        }
        let around = self.geometry.inode(entry.inode).filter(|range| self.search.open_in(*range));
        if let Some(range) = around {
            self.search.claim(range, &Hit::Part("inodes, among them that", Id::of(entry.inode)), None);
            self.names_missing.entry(entry.inode).or_insert(0);
        }
        self.name(&entry);
        let has_blocks = entry.blocks > 0 && matches!(entry.kind, b'f' | b'd');
        if has_blocks && (self.shared || !self.search.is_done()) {
            self.batch.push(entry);
            if self.batch.len() >= AT_ONCE {
                self.flush();
            }
        }
        let named = self.names_missing.values().all(|missing| *missing == NONE);
        let enough = self.error.is_some() || (self.search.is_done() && !self.shared && named);
        if enough { Want::Enough } else { Want::More }
    }

    /// Notes the name, if the inode has sectors.
    fn name(&mut self, entry: &Entry) {
        let Some(missing) = self.names_missing.get_mut(&entry.inode) else { return };
        let Some(path) = self.place.path_of(Path::new(&entry.path)) else { return };
        let node = self.search.inode(Id::of(entry.inode));
        if node.paths.contains(&path) {
            return;
        }
        node.paths.push(path);
        node.directory = entry.kind == b'd';
        let found = u64::try_from(node.paths.len()).unwrap_or(u64::MAX);
        // A directory has many links and one name.
        *missing = if node.directory || found >= entry.links { NONE } else { entry.links };
    }

    /// Looks at the extents of the files that were gathered.
    fn flush(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        if let Err(error) = self.extents(&batch) {
            self.error = Some(error);
        }
    }

    fn extents(&mut self, batch: &[Entry]) -> Result<(), ToolError> {
        if batch.is_empty() {
            return Ok(());
        }
        let command = ["-r", "-c", "bmap -vp"].map(OsStr::new);
        let paths = batch.iter().map(|entry| entry.path.as_os_str());
        let arguments: Vec<&OsStr> = command.into_iter().chain(paths).collect();
        let texts: Vec<String> =
            batch.iter().map(|e| String::from_utf8_lossy(e.path.as_bytes()).into_owned()).collect();
        let (text, ended) = XFS_IO.capture(&arguments, self.deadline)?;
        let Some(extents) = parse::bmap(&text, &texts).filter(|_| ended.code == Some(0)) else {
            // One of them went away, or cannot be opened: then none is told.
            return match batch.split_at_checked(batch.len() / 2) {
                Some((left, right)) if !left.is_empty() => self.extents(left).and_then(|()| self.extents(right)),
                _ => {
                    self.unseen += 1;
                    Ok(())
                }
            };
        };
        let mut found = BTreeSet::new();
        for (entry, extents) in batch.iter().zip(extents) {
            for extent in extents {
                if !self.search.asked_in(extent.range) {
                    continue;
                }
                let hit = Hit::Inode(Id::of(entry.inode));
                let note = extent.unwritten.then_some(UNWRITTEN);
                if extent.shared {
                    self.shared = true;
                    self.search.share(extent.range, &hit, note);
                } else {
                    self.search.claim(extent.range, &hit, note);
                }
                found.insert(entry.inode);
            }
        }
        for entry in batch.iter().filter(|entry| found.contains(&entry.inode)) {
            self.names_missing.entry(entry.inode).or_insert(0);
            self.name(entry);
        }
        Ok(())
    }
}

/// Stands for an inode all of whose names are known.
const NONE: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_find_are_read_whatever_the_name() {
        let found = entry(b"25088 132 2 16 f /tmp/m/a b\n\xff c").unwrap();
        assert_eq!((found.device, found.inode, found.links, found.blocks, found.kind), (25088, 132, 2, 16, b'f'));
        assert_eq!(found.path.as_bytes(), b"/tmp/m/a b\n\xff c");
        assert!(entry(b"25088 132 2 16 f").is_none() && entry(b"").is_none() && entry(b"x 1 1 1 f /").is_none());
    }
}
