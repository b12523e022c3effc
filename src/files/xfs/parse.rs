//! What xfs_db and xfs_io print, read. Pure; never fails on any text: what is not understood is left out.
//!
//! The formats are those of xfsprogs: db/check.c, io/fsmap.c, io/bmap.c. What is where in a filesystem is in the XFS
//! Algorithms & Data Structures book; sizes and places below are in the fields of the superblock (xfs_format.h).

use crate::units::{Bytes, Range, Sectors};
use std::collections::{BTreeMap, BTreeSet};

/// What the superblock says of the shape of a filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Sectors in a block.
    block: u64,
    /// Sectors of 512 bytes in what the filesystem calls a sector.
    sector: u64,
    /// Blocks in an allocation group.
    group_blocks: u64,
    group_bits: u32,
    groups: u64,
    inode_bits: u32,
    log_start: u64,
    log_blocks: u64,
    blocks: u64,
    /// Inode of the root directory.
    pub(super) root: u64,
}

/// Reads the output of xfs_db's `print` of [`Geometry::FIELDS`].
pub(super) fn geometry(text: &str) -> Option<Geometry> {
    let field = |name: &str| -> Option<u64> {
        let mut fields = text.lines().filter_map(|line| line.split_once(" = "));
        fields.find(|(found, _)| found.trim() == name)?.1.trim().parse().ok()
    };
    let bits = |name: &str| field(name).and_then(|n| u32::try_from(n).ok()).filter(|n| *n < 32);
    let sectors = |name: &str| field(name).map(|n| Bytes(n).to_sectors_down().0).filter(|n| *n > 0);
    Some(Geometry {
        block: sectors("blocksize")?,
        sector: sectors("sectsize")?,
        group_blocks: field("agblocks").filter(|n| *n > 0)?,
        group_bits: bits("agblklog")?,
        groups: field("agcount")?,
        inode_bits: bits("inopblog")?,
        log_start: field("logstart")?,
        log_blocks: field("logblocks")?,
        blocks: field("dblocks")?,
        root: field("rootino")?,
    })
}

impl Geometry {
    /// The fields of the superblock that are needed.
    pub(super) const FIELDS: [&str; 10] = [
        "blocksize",
        "sectsize",
        "agblocks",
        "agblklog",
        "agcount",
        "inopblog",
        "logstart",
        "logblocks",
        "dblocks",
        "rootino",
    ];

    fn run(&self, block: u64, count: u64) -> Option<Range> {
        let start = Sectors(block).checked_mul(self.block)?;
        Range::new(start, Sectors(count).checked_mul(self.block)?)
    }

    /// The sectors of a block of an allocation group.
    pub(super) fn block(&self, (group, block): (u64, u64)) -> Option<Range> {
        self.run(group.checked_mul(self.group_blocks)?.checked_add(block)?, 1)
    }

    /// The log; `None` when it is on another device.
    pub(super) fn log(&self) -> Option<Range> {
        let (group, block) = self.split(self.log_start, self.group_bits);
        let first = group.checked_mul(self.group_blocks)?.checked_add(block)?;
        self.run(first, self.log_blocks).filter(|_| self.log_start != 0)
    }

    fn split(&self, number: u64, bits: u32) -> (u64, u64) {
        let group = number.checked_shr(bits).unwrap_or(0);
        (group, number.wrapping_sub(group.checked_shl(bits).unwrap_or(0)))
    }

    /// The block in which an inode lies.
    pub(super) fn inode(&self, inode: u64) -> Option<Range> {
        let (group, rest) = self.split(inode, self.group_bits.checked_add(self.inode_bits)?);
        self.block((group, rest.checked_shr(self.inode_bits)?))
    }

    /// The four headers of the allocation groups that touch `range`.
    pub(super) fn headers(&self, range: Range) -> Vec<Range> {
        let Some(group) = self.group_blocks.checked_mul(self.block) else { return Vec::new() };
        let first = range.start().0.checked_div(group).unwrap_or(0);
        let end = range.end().0.div_ceil(group).min(self.groups);
        let header = |n: u64| Range::new(Sectors(n.checked_mul(group)?), Sectors(self.sector.checked_mul(4)?));
        (first..end).filter_map(header).collect()
    }

    /// What lies behind the end of the filesystem.
    pub(super) fn behind(&self) -> Option<Range> {
        Range::between(Sectors(self.blocks).checked_mul(self.block)?, Sectors(u64::MAX))
    }

    /// The blocks that `range` touches, and one more: the kernel lists free space only as far as whole blocks of it are
    /// asked for.
    pub(super) fn widened(&self, range: Range) -> Range {
        let end = range.end().checked_add(Sectors(self.block)).and_then(|end| end.align_up(Sectors(self.block)));
        Range::between(range.start().align_down(Sectors(self.block)), end.unwrap_or(range.end())).unwrap_or(range)
    }

    /// The numbers, as the filesystem has them, of the blocks that `range` touches.
    pub(super) fn numbers(&self, range: Range) -> impl Iterator<Item = u64> {
        let first = range.start().0.checked_div(self.block).unwrap_or(0);
        let end = range.end().0.div_ceil(self.block).min(self.blocks);
        (first..end).filter_map(|block| {
            let group = block.checked_div(self.group_blocks)?;
            let within = block.checked_rem(self.group_blocks)?;
            group.checked_shl(self.group_bits)?.checked_add(within)
        })
    }
}

/// The owner of a line of `fsmap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MapOwner {
    /// Free.
    Free,
    /// The log.
    Log,
    /// Metadata: what.
    Metadata(&'static str),
    /// Content of an inode.
    Content(u64),
    /// Something else of an inode: what, and its number.
    Part(&'static str, u64),
    /// In use, but there is no reverse map that tells by whom.
    Unknown,
}

/// Reads a line of `fsmap -m`: `EXT,MAJOR,MINOR,PSTART,PEND,OWNER,…`, in sectors, both ends inside.
pub(super) fn fsmap(line: &str) -> Option<(Range, MapOwner)> {
    let mut fields = line.split(',').skip(3);
    let (start, last) = (fields.next()?.parse().ok()?, fields.next()?.parse::<u64>().ok()?);
    let owner = fields.next()?;
    // fs/xfs/libxfs/xfs_fs.h: the special owners of XFS are numbered under 'X', the common ones under 0.
    let owner = match owner {
        "special_0:1" => MapOwner::Free,
        "special_88:1" => MapOwner::Metadata("superblock and headers of an allocation group"),
        "special_88:2" => MapOwner::Log,
        "special_88:3" => MapOwner::Metadata("B-trees of an allocation group"),
        "special_88:4" => MapOwner::Metadata("B-tree of inodes"),
        "special_88:5" => MapOwner::Metadata("inodes"),
        "special_88:6" => MapOwner::Metadata("B-tree of reference counts"),
        "special_88:7" => MapOwner::Metadata("reserved for copies on write"),
        _ => match owner.strip_prefix("inode_").and_then(|rest| rest.split_once('_')) {
            Some((inode, "data")) => MapOwner::Content(inode.parse().ok()?),
            Some((inode, "attr")) => MapOwner::Part("extended attributes", inode.parse().ok()?),
            Some((inode, _)) => MapOwner::Part("map of blocks", inode.parse().ok()?),
            None => MapOwner::Unknown,
        },
    };
    Some((Range::between(Sectors(start), Sectors(last.checked_add(1)?))?, owner))
}

/// What xfs_db found a block to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Use {
    /// Its word for that: one of typename[] in db/check.c.
    pub(super) kind: String,
    /// The inodes that have it.
    pub(super) inodes: BTreeSet<u64>,
}

/// What a [`Use`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Content of its inodes, which are directories or not.
    Content {
        /// Whether they are.
        directory: bool,
    },
    /// Something else of its inodes.
    Part(&'static str),
    /// Metadata.
    Metadata(&'static str),
    /// The log.
    Log,
    /// Free.
    Free,
    /// In use, but nothing was found that has it.
    Missing,
    /// A word that is not known here.
    Unknown,
}

impl Use {
    /// What it is.
    pub(super) fn kind(&self) -> Kind {
        match self.kind.as_str() {
            "data" | "rldata" | "symlink" => Kind::Content { directory: false },
            "dir" => Kind::Content { directory: true },
            "attr" => Kind::Part("extended attributes"),
            "btbmapa" | "btbmapd" => Kind::Part("map of blocks"),
            "free1" | "free2" => Kind::Free,
            "freelist" => Kind::Metadata("kept for the B-trees of an allocation group"),
            "log" => Kind::Log,
            "missing" | "unk" => Kind::Missing,
            "sb" | "agf" | "agfl" | "agi" => Kind::Metadata("superblock and headers of an allocation group"),
            "btbno" | "btcnt" => Kind::Metadata("B-tree of free space"),
            "btino" | "btfino" => Kind::Metadata("B-tree of inodes"),
            "btrmap" => Kind::Metadata("reverse map"),
            "btrefcnt" => Kind::Metadata("B-tree of reference counts"),
            "cowdata" => Kind::Metadata("reserved for copies on write"),
            "inode" => Kind::Metadata("inodes"),
            "quota" => Kind::Metadata("quota"),
            "rtbitmap" | "rtsum" => Kind::Metadata("map of the realtime device"),
            _ => Kind::Unknown,
        }
    }
}

/// Gathers what `blockget -b` says of the blocks that it was asked about, by allocation group and block in it.
#[derive(Debug, Default)]
pub(super) struct Uses {
    /// What was found.
    pub(super) found: BTreeMap<(u64, u64), Use>,
}

impl Uses {
    /// Takes a line: `setting block 0/24 to data`, or `setting inode to 132 for block 0/24`. Whether it was one.
    pub(super) fn feed(&mut self, line: &str) -> bool {
        let Some(rest) = line.strip_prefix("setting ") else { return false };
        if let Some((place, kind)) = rest.strip_prefix("block ").and_then(|rest| rest.split_once(" to ")) {
            if let Some(place) = place_of(place) {
                self.found.entry(place).or_default().kind = kind.to_string();
            }
        } else if let Some((inode, place)) =
            rest.strip_prefix("inode to ").and_then(|rest| rest.split_once(" for block "))
            && let (Ok(inode), Some(place)) = (inode.parse(), place_of(place))
        {
            self.found.entry(place).or_default().inodes.insert(inode);
        }
        true
    }
}

fn place_of(text: &str) -> Option<(u64, u64)> {
    let (group, block) = text.split_once('/')?;
    Some((group.parse().ok()?, block.parse().ok()?))
}

/// Whether xfs_db refuses because the log has not been replayed.
pub(super) fn is_dirty(errors: &str) -> bool {
    errors.contains("valuable metadata changes in a log")
}

/// Gathers names from xfs_db's `ncheck`, line by line.
#[derive(Debug, Default)]
pub(super) struct Names {
    found: Vec<(u64, String)>,
    /// Whether the entry that was read last is wanted: the next line may be the rest of its name.
    last_wanted: bool,
}

impl Names {
    /// Takes a line.
    pub(super) fn feed(&mut self, line: &str, wanted: impl Fn(u64) -> bool) {
        match entry(line) {
            Some((inode, name)) => {
                self.last_wanted = wanted(inode);
                if self.last_wanted {
                    self.found.push((inode, format!("/{name}")));
                }
            }
            None if self.last_wanted => {
                if let Some((_, name)) = self.found.last_mut() {
                    name.push('\n');
                    name.push_str(line);
                }
            }
            None => {}
        }
    }

    /// Inode, path, and whether it is a directory.
    pub(super) fn done(self) -> impl Iterator<Item = (u64, String, bool)> {
        self.found.into_iter().map(|(inode, path)| match path.strip_suffix("/.") {
            Some(folder) => (inode, folder.to_string(), true),
            None => (inode, path, false),
        })
    }
}

/// Whether the line looks like an entry of `ncheck`.
pub(super) fn is_name(line: &str) -> bool {
    entry(line).is_some()
}

/// Reads `        131 sub dir/.`: the number stands right in 11 places.
fn entry(line: &str) -> Option<(u64, &str)> {
    const WIDTH: usize = 11;
    let blanks = line.len() - line.trim_start_matches(' ').len();
    let (number, name) = line.get(blanks..)?.split_once(' ')?;
    let right = blanks + number.len() == WIDTH || (blanks == 0 && number.len() > WIDTH);
    let inode = number.parse().ok().filter(|_| right)?;
    Some((inode, name))
}

/// An extent of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Where it lies.
    pub(super) range: Range,
    /// Whether it was allocated and never written.
    pub(super) unwritten: bool,
    /// Whether other files share it.
    pub(super) shared: bool,
}

/// Reads the output of `bmap -vp` for the files that were named, in that order. `None` when it does not fit them.
pub(super) fn bmap(text: &str, files: &[String]) -> Option<Vec<Vec<Extent>>> {
    let mut rest = text;
    let mut out = Vec::with_capacity(files.len());
    for (index, file) in files.iter().enumerate() {
        rest = rest.strip_prefix(file.as_str())?;
        if let Some(after) = rest.strip_prefix(": no extents\n") {
            rest = after;
            out.push(Vec::new());
            continue;
        }
        rest = rest.strip_prefix(":\n EXT: FILE-OFFSET")?;
        // The lines of an extent begin with blanks and a number; the next file begins with a slash.
        let end = match files.get(index + 1) {
            Some(_) => rest.find("\n/").map(|at| at + 1)?,
            None => rest.len(),
        };
        let (section, after) = rest.split_at_checked(end)?;
        rest = after;
        let realtime = section.lines().next().is_some_and(|heading| heading.contains("RT-BLOCK-RANGE"));
        out.push(if realtime { Vec::new() } else { section.lines().filter_map(extent).collect() });
    }
    Some(out)
}

/// Reads `   0: [0..591]:        32960..33551      1 (192..783)         592 000000`.
fn extent(line: &str) -> Option<Extent> {
    let (_, place) = line.split_once("]:")?;
    let mut words = place.split_ascii_whitespace();
    let (start, last) = words.next()?.split_once("..")?;
    let flags = u32::from_str_radix(words.last()?, 8).ok()?;
    let end = last.parse::<u64>().ok()?.checked_add(1)?;
    let range = Range::between(Sectors(start.parse().ok()?), Sectors(end))?;
    Some(Extent { range, unwritten: flags & 0o010_000 != 0, shared: flags & 0o100_000 != 0 })
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
