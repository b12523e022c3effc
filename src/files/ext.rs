//! ext2, ext3 and ext4, through dumpe2fs and debugfs of e2fsprogs, mounted or not.
//!
//! Both tools read the device without O_DIRECT, through the very page cache in which a mounted filesystem keeps its
//! metadata, so what they see is current. They open it read-only: debugfs writes only with `-w`.
//!
//! First comes what lies at fixed places, what is free, and the journal: that costs little. For the rest `icheck` goes
//! over all inodes, for the first block of every run that is open; the other blocks of the inodes that it finds come
//! from `stat`. It compares each block of the filesystem with each block that it is asked about, so it is asked about
//! few.

mod parse;

use super::owner::Owner;
use super::place::Place;
use super::search::{Hit, Id, Search};
use crate::block::device::BlockDevice;
use crate::block::tool::{Deadline, Lines, Tool, ToolError, Want};
use crate::units::{Range, Sectors};
use parse::{Item, Layout, Part, Stat};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::Write as _;

const DUMPE2FS: Tool = Tool { name: "dumpe2fs", package: "e2fsprogs" };
const DEBUGFS: Tool = Tool { name: "debugfs", package: "e2fsprogs" };

/// Blocks that one run of `icheck` is asked about.
const AT_ONCE: usize = 200;

/// The inode of the root directory.
const ROOT: u64 = 2;

/// Claims what it can find out.
pub(super) fn look(device: &BlockDevice, place: &Place, search: &mut Search, deadline: Deadline) {
    let mut ext = Ext { device, search, deadline, layout: Layout::default(), links: BTreeMap::new() };
    let result = ext.fixed().and_then(|()| ext.journal()).and_then(|()| ext.inodes());
    if let Err(error) = result {
        ext.search.rest_unknown(&error.to_string());
    }
    if let Err(error) = ext.names() {
        ext.search.no_names(format!("its name is not known: {error}"));
    }
    if !place.mounted && ext.layout.needs_recovery {
        ext.search.remark("the journal of the filesystem has not been replayed, so this may be out of date");
    }
}

struct Ext<'a> {
    device: &'a BlockDevice,
    search: &'a mut Search,
    deadline: Deadline,
    layout: Layout,
    /// Number of names of each inode that was looked at.
    links: BTreeMap<u64, u64>,
}

impl Ext<'_> {
    /// What lies at fixed places, and what is free: dumpe2fs lists it.
    fn fixed(&mut self) -> Result<(), ToolError> {
        let (mut lines, layout, search) = (Lines::default(), &mut self.layout, &mut *self.search);
        let arguments = [OsStr::new("--"), self.device.path.as_os_str()];
        let ended = DUMPE2FS.stream(&arguments, self.deadline, &mut |bytes| {
            lines.feed(bytes, |line| {
                for (range, item) in layout.feed(line, |group| search.open_in(group)) {
                    let hit = match item {
                        Item::Metadata(what) => Hit::metadata(what),
                        Item::Free => Hit::Owner(Owner::FreeSpace),
                    };
                    search.claim(range, &hit, None);
                }
                Want::More
            })
        })?;
        if let Err(error) = DUMPE2FS.check(&ended) {
            self.places();
            return Err(error);
        }
        let Some(inside) = self.layout.sectors(0, u64::MAX - 1) else {
            let said = "it does not tell the size of the filesystem".to_string();
            return Err(ToolError::Failed { tool: DUMPE2FS.name, said });
        };
        if let Some(behind) = Range::between(inside.end(), Sectors(u64::MAX)) {
            self.search.claim(behind, &Hit::Owner(Owner::FreeSpace), Some("behind the end of the filesystem"));
        }
        // With blocks of 1024 bytes the superblock is in block 1, and nothing has block 0.
        if let Some(boot) = Range::new(Sectors::ZERO, Sectors(2)) {
            self.search.claim(boot, &Hit::metadata("room for a boot loader"), None);
        }
        Ok(())
    }

    /// The places that debugfs tells where dumpe2fs cannot go on, because it cannot read the inode of the journal.
    fn places(&mut self) {
        let Ok(text) = self.debugfs("show_super_stats") else { return };
        for line in text.lines() {
            for (range, item) in self.layout.feed_stats(line) {
                if let Item::Metadata(what) = item {
                    self.search.claim(range, &Hit::metadata(what), None);
                }
            }
        }
    }

    /// The journal is claimed at once: it is large, and all inodes need not be read for it.
    fn journal(&mut self) -> Result<(), ToolError> {
        match self.layout.journal.filter(|inode| *inode != 0 && !self.search.is_done()) {
            Some(inode) => self.claim_inode(inode).map(|_| ()),
            None => Ok(()),
        }
    }

    /// Finds the inodes of what is open.
    fn inodes(&mut self) -> Result<(), ToolError> {
        while !self.search.is_done() {
            let first = |range: &Range| self.layout.block_of(range.start());
            let asked: BTreeSet<u64> = self.search.open().iter().filter_map(first).take(AT_ONCE).collect();
            let owners = parse::icheck(&self.debugfs(&words("icheck", &asked))?);
            let mut done = BTreeSet::new();
            for block in asked {
                match owners.get(&block) {
                    Some(inode) if done.insert(*inode) => {
                        self.claim_inode(*inode)?;
                    }
                    _ => {}
                }
                // Whatever `stat` says: this block is answered, so that the next round asks about others.
                let hit = match owners.get(&block) {
                    Some(inode) => self.hit(*inode, Part::Content).0,
                    None => Hit::unknown("it is in use, but no inode was found that has it"),
                };
                if let Some(range) = self.layout.sectors(block, block) {
                    self.search.claim(range, &hit, None);
                }
            }
        }
        Ok(())
    }

    /// Claims all blocks of an inode.
    fn claim_inode(&mut self, inode: u64) -> Result<Stat, ToolError> {
        let stat = parse::stat(&self.debugfs(&format!("stat <{inode}>"))?);
        for (first, last, part) in &stat.blocks {
            let (hit, note) = self.hit(inode, *part);
            if let Some(range) = self.layout.sectors(*first, *last) {
                self.search.claim(range, &hit, note);
            }
        }
        self.search.inode(Id::of(inode)).directory = stat.directory;
        self.links.insert(inode, stat.links);
        Ok(stat)
    }

    fn hit(&self, inode: u64, part: Part) -> (Hit, Option<&'static str>) {
        let id = Id::of(inode);
        if self.layout.journal == Some(inode) {
            return (Hit::Owner(Owner::Journal), None);
        }
        if let Some(what) = self.layout.special(inode) {
            return (Hit::metadata(what), None);
        }
        match part {
            Part::Content => (Hit::Inode(id), None),
            Part::Unwritten => (Hit::Inode(id), Some("these blocks are allocated, but were never written")),
            Part::Map => (Hit::Part("map of blocks", id), None),
            Part::Attributes => (Hit::Part("extended attributes", id), None),
        }
    }

    /// Finds the names of the inodes that have sectors.
    fn names(&mut self) -> Result<(), ToolError> {
        let mut nameless: BTreeSet<u64> = self.search.nameless().iter().map(|id| id.inode).collect();
        if nameless.remove(&ROOT) {
            let root = self.search.inode(Id::of(ROOT));
            (root.paths, root.directory) = (vec!["/".into()], true);
        }
        if nameless.is_empty() {
            return Ok(());
        }
        let text = self.debugfs(&words("ncheck", &nameless))?;
        for (inode, paths) in parse::ncheck(&text, |inode| nameless.contains(&inode)) {
            // More names than links: one of them holds the end of a line and poses as another.
            let links = self.links.get(&inode).copied().unwrap_or(0);
            let node = self.search.inode(Id::of(inode));
            if node.directory || u64::try_from(paths.len()).is_ok_and(|found| found <= links) {
                node.paths = paths;
            }
        }
        self.search.no_names("no name was found for it".into());
        Ok(())
    }

    /// Runs one request of debugfs. Its exit code tells nothing.
    fn debugfs(&self, request: &str) -> Result<String, ToolError> {
        let arguments = [OsStr::new("-R"), OsStr::new(request), OsStr::new("--"), self.device.path.as_os_str()];
        let (text, ended) = DEBUGFS.capture(&arguments, self.deadline)?;
        let said = ended.errors.lines().skip(1).any(|line| !line.trim().is_empty());
        if said && text.lines().count() < 2 {
            return Err(DEBUGFS.failed(&ended));
        }
        Ok(text)
    }
}

fn words(command: &str, numbers: &BTreeSet<u64>) -> String {
    let mut out = command.to_string();
    for number in numbers {
        let _ = write!(out, " {number}");
    }
    out
}
