//! What dumpe2fs and debugfs print, read. Pure; never fails on any text: what is not understood is left out.
//!
//! The formats are those of e2fsprogs: misc/dumpe2fs.c, debugfs/{icheck,ncheck,debugfs}.c.

use crate::units::{Bytes, Range, SECTOR_SIZE, Sectors};
use std::collections::BTreeMap;

/// Something at a fixed place, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// Metadata: what.
    Metadata(&'static str),
    /// Free blocks.
    Free,
}

/// What dumpe2fs says of the filesystem as a whole. Fed line by line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    block_bytes: u64,
    /// Blocks of the filesystem.
    block_count: u64,
    /// Blocks of a table of inodes.
    table_blocks: u64,
    /// Inode of the journal, when that is inside.
    pub(super) journal: Option<u64>,
    /// Inodes that are no files of anybody: quota, orphans.
    special: BTreeMap<u64, &'static str>,
    /// The first inode that can be anybody's.
    first_inode: u64,
    /// Whether the journal holds changes that are not in place yet.
    pub(super) needs_recovery: bool,
    group: Option<Range>,
}

/// Reads `7` or `7-9`.
fn numbers(text: &str) -> Option<(u64, u64)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

impl Layout {
    /// Takes a line, and gives what it says lies where. Free blocks are listed only for groups that `wants` wants.
    pub(super) fn feed(&mut self, line: &str, wants: impl Fn(Range) -> bool) -> Vec<(Range, Item)> {
        if let Some(rest) = line.strip_prefix("Group ") {
            let blocks = rest.split_once("(Blocks ").and_then(|(_, rest)| rest.split_once(')'));
            self.group = blocks.and_then(|(blocks, _)| numbers(blocks)).and_then(|(a, b)| self.sectors(a, b));
        }
        let Some(group) = self.group else {
            if let Some((key, value)) = line.split_once(':') {
                self.header(key.trim(), value.trim());
            }
            return Vec::new();
        };
        let line = line.trim();
        if let Some(list) = line.strip_prefix("Free blocks:") {
            let list = if wants(group) { list } else { "" };
            let runs = list.split(',').filter_map(|run| numbers(run.trim()));
            return runs.filter_map(|(a, b)| Some((self.sectors(a, b)?, Item::Free))).collect();
        }
        line.split(", ").filter_map(|part| self.fixed(part)).collect()
    }

    /// Takes a line of debugfs `show_super_stats`, which tells less: ` Group  0: block bitmap at 259, inode bitmap at 267,
    /// inode table at 275`.
    pub(super) fn feed_stats(&mut self, line: &str) -> Vec<(Range, Item)> {
        let Some(places) = line.strip_prefix(" Group ").and_then(|rest| rest.split_once(": ")) else {
            if let Some((key, value)) = line.split_once(':') {
                self.header(key.trim(), value.trim());
            }
            return Vec::new();
        };
        let place = |part: &str| {
            let (what, block) = part.trim().split_once(" at ")?;
            let first: u64 = block.parse().ok()?;
            let (what, blocks) = match what {
                "block bitmap" => ("block bitmap", 1),
                "inode bitmap" => ("inode bitmap", 1),
                "inode table" => ("inode table", self.table_blocks),
                _ => return None,
            };
            Some((self.sectors(first, first.checked_add(blocks)?.checked_sub(1)?)?, Item::Metadata(what)))
        };
        places.1.split(',').filter_map(place).collect()
    }

    /// Reads `Inode table at 275-786 (+274)`.
    fn fixed(&self, part: &str) -> Option<(Range, Item)> {
        let (what, place) = part.split_once(" at ")?;
        let what = match what {
            "Primary superblock" => "superblock",
            "Backup superblock" => "backup of the superblock",
            "Group descriptors" | "Group descriptor" => "group descriptors",
            "Reserved GDT blocks" => "reserved for group descriptors",
            "Block bitmap" => "block bitmap",
            "Inode bitmap" => "inode bitmap",
            "Inode table" => "inode table",
            _ => return None,
        };
        let (first, last) = numbers(place.split(' ').next()?)?;
        Some((self.sectors(first, last)?, Item::Metadata(what)))
    }

    fn header(&mut self, key: &str, value: &str) {
        let number = value.parse().ok();
        match key {
            "Block size" => self.block_bytes = number.unwrap_or(0),
            "Block count" => self.block_count = number.unwrap_or(0),
            "Journal inode" => self.journal = number,
            "Inode blocks per group" => self.table_blocks = number.unwrap_or(0),
            "First inode" => self.first_inode = number.unwrap_or(0),
            "Filesystem features" => self.needs_recovery = value.split(' ').any(|word| word == "needs_recovery"),
            "User quota inode" | "Group quota inode" | "Project quota inode" => {
                self.special.extend(number.map(|inode| (inode, "quota")));
            }
            "Orphan file inode" => self.special.extend(number.map(|inode| (inode, "list of orphans"))),
            _ => {}
        }
    }

    /// The sectors of blocks `first` to `last`, as far as they are inside the filesystem.
    pub(super) fn sectors(&self, first: u64, last: u64) -> Option<Range> {
        let block = self.block_sectors()?;
        let end = last.checked_add(1)?.min(self.block_count);
        Range::between(Sectors(first.checked_mul(block.0)?), Sectors(end.checked_mul(block.0)?))
    }

    /// The block that a sector is in.
    pub(super) fn block_of(&self, sector: Sectors) -> Option<u64> {
        sector.0.checked_div(self.block_sectors()?.0)
    }

    /// Sectors in a block; `None` when the size of a block is not known, or makes no sense.
    fn block_sectors(&self) -> Option<Sectors> {
        let sector = u64::try_from(SECTOR_SIZE).ok()?;
        let fits = self.block_bytes > 0 && self.block_bytes.is_multiple_of(sector);
        fits.then(|| Bytes(self.block_bytes).to_sectors_down())
    }

    /// What the inode is for, when it is no file of anybody.
    pub(super) fn special(&self, inode: u64) -> Option<&'static str> {
        if let Some(what) = self.special.get(&inode) {
            return Some(what);
        }
        let reserved = if self.first_inode == 0 { 11 } else { self.first_inode };
        match inode {
            1 => Some("list of bad blocks"),
            2 => None,
            5 => Some("boot loader"),
            7 => Some("reserved for group descriptors"),
            _ if inode < reserved => Some("a reserved inode"),
            _ => None,
        }
    }
}

/// What blocks of an inode are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Its content.
    Content,
    /// Content that was allocated and never written.
    Unwritten,
    /// The map of its blocks.
    Map,
    /// Its extended attributes.
    Attributes,
}

/// What debugfs `stat` says of an inode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stat {
    /// Whether it is a directory.
    pub(super) directory: bool,
    /// Number of names; 0 when it is not known.
    pub(super) links: u64,
    /// Its blocks: first, last, and what for.
    pub(super) blocks: Vec<(u64, u64, Part)>,
}

/// Reads the output of `stat`.
pub(super) fn stat(text: &str) -> Stat {
    let mut out = Stat::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("Inode:") => out.directory = line.contains("Type: directory"),
            Some("Links:") => out.links = words.next().and_then(|n| n.parse().ok()).unwrap_or(0),
            Some("File") if words.next() == Some("ACL:") => {
                let block = words.next().and_then(|n| n.parse().ok()).filter(|block| *block > 0);
                out.blocks.extend(block.map(|block| (block, block, Part::Attributes)));
            }
            _ => {}
        }
    }
    // The last heading: what stands before it can hold text of anybody's choice.
    let list = ["\nEXTENTS:\n", "\nBLOCKS:\n"].iter().filter_map(|mark| Some((text.rfind(mark)?, mark.len()))).max();
    let list = list.and_then(|(at, len)| text.get(at + len..)).unwrap_or_default();
    let list = list.split("\nTOTAL:").next().unwrap_or_default();
    out.blocks.extend(list.split(',').filter_map(|item| extent(item.trim())));
    out
}

/// Reads `(0-7):9223-9230`, `(0[u]):5`, `(ETB0):8744`, `(DIND):4384`.
fn extent(item: &str) -> Option<(u64, u64, Part)> {
    let (logical, physical) = item.strip_prefix('(')?.split_once("):")?;
    let part = if logical.ends_with("[u]") {
        Part::Unwritten
    } else if logical.starts_with(|c: char| c.is_ascii_digit()) {
        Part::Content
    } else {
        Part::Map
    };
    let (first, last) = numbers(physical)?;
    Some((first, last, part))
}

/// Reads the output of `icheck`: the inode of each block that has one.
pub(super) fn icheck(text: &str) -> BTreeMap<u64, u64> {
    let pair = |line: &str| {
        let (block, inode) = line.split_once('\t')?;
        Some((block.parse().ok()?, inode.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

/// Reads the output of `ncheck`: the paths of each inode, which is one of `wanted`.
///
/// A name may hold the end of a line: what does not look like the beginning of an entry belongs to the one before.
pub(super) fn ncheck(text: &str, wanted: impl Fn(u64) -> bool) -> BTreeMap<u64, Vec<String>> {
    let mut out: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut last = None;
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n').skip_while(|line| line.starts_with("Inode\t")) {
        let entry = line.split_once('\t').and_then(|(inode, path)| Some((inode.parse().ok()?, path)));
        match entry.filter(|(inode, path)| wanted(*inode) && path.starts_with('/')) {
            Some((inode, path)) => {
                // What lies in the root directory has two slashes.
                let path = path.strip_prefix('/').filter(|path| path.starts_with('/')).unwrap_or(path);
                out.entry(inode).or_default().push(path.to_string());
                last = Some(inode);
            }
            None => {
                let path = last.and_then(|inode| out.get_mut(&inode)?.last_mut());
                if let Some(path) = path {
                    path.push('\n');
                    path.push_str(line);
                }
            }
        }
    }
    out
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
