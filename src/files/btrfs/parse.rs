//! What `btrfs inspect-internal` prints, read. Pure; never fails on any text: what is not understood is left out.
//!
//! The formats are those of btrfs-progs: kernel-shared/print-tree.c, cmds/inspect.c. The structures are in btrfs_tree.h.

use crate::units::{Bytes, Range, Sectors};
use std::collections::{BTreeMap, BTreeSet};

/// A run of bytes, in the logical addresses of the filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Run {
    /// First byte.
    pub(super) start: u64,
    /// The byte after the last one; above `start`.
    pub(super) end: u64,
}

impl Run {
    /// The run of `len` bytes; `None` when it is empty or does not fit.
    pub(super) fn new(start: u64, len: u64) -> Option<Run> {
        Some(Run { start, end: start.checked_add(len)? }).filter(|_| len > 0)
    }

    fn between(start: u64, end: u64) -> Option<Run> {
        Run::new(start, end.checked_sub(start)?)
    }

    /// What is in both.
    pub(super) fn intersect(self, other: Run) -> Option<Run> {
        Run::between(self.start.max(other.start), self.end.min(other.end))
    }
}

/// What a part of the device holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Files.
    Data,
    /// Trees.
    Metadata,
    /// Both.
    Mixed,
    /// The tree of chunks.
    System,
}

/// A stripe of a chunk that lies on the device in question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stripe {
    /// Its sectors on the device.
    pub(super) range: Range,
    /// The logical address of its first byte; `None` when the chunk is spread over several devices.
    pub(super) logical: Option<u64>,
    /// What the chunk holds.
    pub(super) content: Content,
}

fn sectors(start: u64, len: u64) -> Option<Range> {
    Range::new(Bytes(start).to_sectors_down(), Bytes(len).to_sectors_down())
}

/// The number after `word` in a line.
fn after(line: &str, word: &str) -> Option<u64> {
    let mut words = line.split_ascii_whitespace();
    words.find(|found| *found == word)?;
    words.next()?.trim_end_matches(')').parse().ok()
}

/// The three parts of `key (A B C)`.
fn key(line: &str) -> Option<(&str, &str, &str)> {
    let (_, rest) = line.split_once(" key (")?;
    let mut parts = rest.split_once(')')?.0.split(' ');
    Some((parts.next()?, parts.next()?, parts.next()?))
}

/// Reads `dump-super`: the number of this device, the bytes in a block of a file, and in a block of a tree.
pub(super) fn superblock(text: &str) -> Option<(u64, u64, u64)> {
    let field = |name: &str| text.lines().filter(|line| line.starts_with(name)).find_map(|line| after(line, name));
    Some((field("dev_item.devid")?, field("sectorsize").filter(|n| *n >= 512)?, field("nodesize")?))
}

/// Gathers the stripes of one device from `dump-tree -t chunk`, line by line.
#[derive(Debug)]
pub(super) struct Chunks {
    device: u64,
    chunk: Option<(u64, u64, String, u64)>,
    /// What was found.
    pub(super) stripes: Vec<Stripe>,
}

impl Chunks {
    /// For the device with this number.
    pub(super) fn new(device: u64) -> Chunks {
        Chunks { device, chunk: None, stripes: Vec::new() }
    }

    /// Takes a line.
    pub(super) fn feed(&mut self, line: &str) {
        if let Some((_, kind, offset)) = key(line) {
            let logical = offset.parse().ok().filter(|_| kind == "CHUNK_ITEM");
            self.chunk = logical.map(|logical| (logical, 0, String::new(), 1));
            return;
        }
        let Some((logical, len, kind, stripes)) = &mut self.chunk else { return };
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if let Some(at) = words.iter().position(|word| *word == "type")
            && words.first() == Some(&"length")
        {
            *len = after(line, "length").unwrap_or(0);
            *kind = words.get(at + 1).copied().unwrap_or_default().to_string();
        } else if words.first() == Some(&"num_stripes") {
            *stripes = after(line, "num_stripes").unwrap_or(1);
        } else if words.first() == Some(&"stripe") && after(line, "devid") == Some(self.device) {
            let start = after(line, "offset");
            let plain = is_plain(kind);
            // A stripe of a spread chunk is at most as long as the chunk; which part of it is not followed.
            let here = if plain { Some(*len) } else { spread(kind, *len, *stripes) };
            if let (Some(range), Some(content)) =
                (start.zip(here).and_then(|(start, len)| sectors(start, len)), content(kind))
            {
                self.stripes.push(Stripe { range, logical: plain.then_some(*logical), content });
            }
        }
    }
}

/// Whether every stripe holds all of the chunk.
fn is_plain(kind: &str) -> bool {
    let profile = kind.rsplit('|').next().unwrap_or_default();
    matches!(profile, "single" | "DUP" | "RAID1" | "RAID1C3" | "RAID1C4" | "DATA" | "METADATA" | "SYSTEM")
}

/// How long a stripe of a chunk that is spread over several devices is.
fn spread(kind: &str, len: u64, stripes: u64) -> Option<u64> {
    let data = match kind.rsplit('|').next()? {
        "RAID0" => stripes,
        "RAID10" => stripes / 2,
        "RAID5" => stripes.checked_sub(1)?,
        "RAID6" => stripes.checked_sub(2)?,
        _ => 1,
    };
    len.checked_div(data)
}

fn content(kind: &str) -> Option<Content> {
    let has = |word: &str| kind.split('|').any(|part| part == word);
    match (has("DATA"), has("METADATA"), has("SYSTEM")) {
        (_, _, true) => Some(Content::System),
        (true, true, _) => Some(Content::Mixed),
        (true, false, _) => Some(Content::Data),
        (false, true, _) => Some(Content::Metadata),
        _ => None,
    }
}

/// The number of a tree, from its number or name.
pub(super) fn tree(name: &str) -> Option<u64> {
    if name == "FS_TREE" { Some(5) } else { name.parse().ok() }
}

/// An extent as the extent tree has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Its logical addresses.
    pub(super) run: Run,
    /// The tree that it is a block of; `None` for data.
    pub(super) tree: Option<String>,
    /// The files that refer to it: tree and inode.
    pub(super) files: BTreeSet<(u64, u64)>,
    /// The leaves that refer to it, where these are shared by several trees.
    pub(super) leaves: BTreeSet<u64>,
}

/// Gathers those extents from `dump-tree -t extent` that hold something that is wanted, line by line.
#[derive(Debug)]
pub(super) struct Extents {
    wanted: Vec<Run>,
    node_bytes: u64,
    current: bool,
    /// What was found.
    pub(super) found: BTreeMap<u64, Extent>,
}

impl Extents {
    /// For these addresses; a block of a tree has `node_bytes`.
    pub(super) fn new(wanted: Vec<Run>, node_bytes: u64) -> Extents {
        Extents { wanted, node_bytes, current: false, found: BTreeMap::new() }
    }

    /// Takes a line.
    pub(super) fn feed(&mut self, line: &str) {
        if let Some((start, kind, offset)) = key(line) {
            self.current = self.item(start, kind, offset).is_some();
            return;
        }
        let Some((_, extent)) =
            self.found.last_entry().map(|last| (*last.key(), last.into_mut())).filter(|_| self.current)
        else {
            return;
        };
        if let Some((_, rest)) = line.split_once("extent data backref root ") {
            let root = rest.split(' ').next().and_then(tree);
            extent.files.extend(root.zip(after(rest, "objectid")));
        } else if line.contains("shared data backref parent ") {
            extent.leaves.extend(after(line, "parent"));
        } else if line.contains("tree block backref root ") || line.contains("shared block backref parent ") {
            let owner = line.split_once("root ").map_or("several", |(_, name)| name.trim());
            extent.tree = Some(owner.to_string());
        } else if line.contains("flags") && line.contains("TREE_BLOCK") {
            extent.tree.get_or_insert_default();
        }
    }

    fn item(&mut self, start: &str, kind: &str, offset: &str) -> Option<()> {
        let start: u64 = start.parse().ok()?;
        let len = match kind {
            "EXTENT_ITEM" => offset.parse().ok()?,
            "METADATA_ITEM" => self.node_bytes,
            // References that did not fit into the item of the extent follow as items of their own.
            "EXTENT_DATA_REF" | "SHARED_DATA_REF" | "TREE_BLOCK_REF" | "SHARED_BLOCK_REF" => {
                let extent = self.found.get_mut(&start)?;
                if kind == "SHARED_DATA_REF" {
                    extent.leaves.extend(offset.parse::<u64>().ok());
                }
                return (self.found.last_key_value()?.0 == &start).then_some(());
            }
            _ => return None,
        };
        let run = Run::new(start, len)?;
        self.wanted.iter().find(|wanted| wanted.intersect(run).is_some())?;
        let tree = (kind == "METADATA_ITEM").then(String::new);
        self.found.insert(start, Extent { run, tree, files: BTreeSet::new(), leaves: BTreeSet::new() });
        Some(())
    }
}

/// A part of a file: its logical addresses, tree and inode, and whether it was only allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where its data lies.
    pub(super) run: Run,
    /// The inode.
    pub(super) inode: u64,
    /// Allocated, and never written.
    pub(super) unwritten: bool,
}

/// The most folders that are kept to make paths of.
const MOST_FOLDERS: usize = 2_000_000;

/// Gathers names and pieces of files from `dump-tree -t` of a subvolume, or `-b` of a leaf, line by line.
#[derive(Debug, Default)]
pub(super) struct Tree {
    extents: BTreeSet<u64>,
    wanted: BTreeSet<u64>,
    /// The tree that the last leaf belonged to.
    pub(super) owner: Option<u64>,
    item: Item,
    name: Option<(u64, usize, String)>,
    disk: Option<(Run, bool)>,
    piece: Option<(u64, u64)>,
    folders: BTreeMap<u64, (u64, String)>,
    links: BTreeMap<u64, Vec<(u64, String)>>,
    inode_is_folder: bool,
    /// The pieces of the extents that were wanted.
    pub(super) pieces: Vec<Piece>,
}

/// The item that lines belong to: the inode, and the parent where there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Item {
    #[default]
    Other,
    Inode(u64),
    Reference(u64, u64),
    LongReference(u64),
    Extent(u64),
}

impl Tree {
    /// For the pieces of the extents that begin at these addresses, and the names of these inodes.
    pub(super) fn new(extents: BTreeSet<u64>, wanted: BTreeSet<u64>) -> Tree {
        Tree { extents, wanted, ..Tree::default() }
    }

    /// Takes a line.
    pub(super) fn feed(&mut self, line: &str) {
        // A name is as long as it says, whatever it holds.
        if let Some((parent, len, mut name)) = self.name.take() {
            name.push('\n');
            name.push_str(line);
            self.names(parent, len, name);
            return;
        }
        if let Some((inode, kind, offset)) = key(line) {
            self.start(inode, kind, offset);
            return;
        }
        if line.starts_with("leaf ") && line.contains(" owner ") {
            self.owner = line.rsplit(' ').next().and_then(tree);
            return;
        }
        match self.item {
            Item::Inode(_) => {
                if let Some(mode) = line.split_once(" mode ").map(|(_, rest)| rest) {
                    self.inode_is_folder =
                        mode.starts_with("40") && mode.split(' ').next().is_some_and(|m| m.len() == 5);
                }
            }
            Item::Reference(_, parent) => self.reference(line, Some(parent)),
            Item::LongReference(_) => self.reference(line, after(line, "parent")),
            Item::Extent(inode) => self.extent(line, inode),
            Item::Other => {}
        }
    }

    fn start(&mut self, inode: &str, kind: &str, offset: &str) {
        let numbers = inode.parse().ok().zip(offset.parse().ok());
        (self.disk, self.piece) = (None, None);
        self.item = match (numbers, kind) {
            (Some((inode, _)), "INODE_ITEM") => {
                self.inode_is_folder = false;
                Item::Inode(inode)
            }
            (Some((inode, parent)), "INODE_REF") => Item::Reference(inode, parent),
            (Some((inode, _)), "INODE_EXTREF") => Item::LongReference(inode),
            (Some((inode, _)), "EXTENT_DATA") => Item::Extent(inode),
            _ => Item::Other,
        };
    }

    /// Reads `index 2 namelen 7 name: sub dir`.
    fn reference(&mut self, line: &str, parent: Option<u64>) {
        let Some((before, name)) = line.split_once("name: ") else { return };
        let len = after(before, "namelen").and_then(|len| usize::try_from(len).ok());
        if let Some((parent, len)) = parent.zip(len) {
            self.names(parent, len, name.to_string());
        }
    }

    fn names(&mut self, parent: u64, len: usize, name: String) {
        const LONGEST: usize = 255;
        // What was not UTF-8 has become longer than it was.
        if name.len() < len.min(LONGEST) {
            self.name = Some((parent, len, name));
            return;
        }
        let (Item::Reference(inode, _) | Item::LongReference(inode)) = self.item else { return };
        if self.wanted.contains(&inode) {
            self.links.entry(inode).or_default().push((parent, name.clone()));
        }
        if self.inode_is_folder && self.folders.len() < MOST_FOLDERS {
            self.folders.insert(inode, (parent, name));
        }
    }

    /// Reads `extent data disk byte X nr N`, `extent data offset O nr M ram R`, `extent compression 0 (none)`, and the
    /// forms that `prealloc` has instead.
    fn extent(&mut self, line: &str, inode: u64) {
        let line = line.trim();
        if line.contains("data disk byte ") {
            let unwritten = line.starts_with("prealloc");
            let run = after(line, "byte").zip(after(line, "nr")).and_then(|(start, len)| Run::new(start, len));
            self.disk = run.filter(|run| self.extents.contains(&run.start)).map(|run| (run, unwritten));
        } else if line.contains("data offset ") {
            self.piece = after(line, "offset").zip(after(line, "nr"));
        }
        let compressed = line.strip_prefix("extent compression ").map(|rest| !rest.starts_with('0'));
        let complete =
            compressed.is_some() || (self.disk.is_some_and(|(_, unwritten)| unwritten) && self.piece.is_some());
        if !complete {
            return;
        }
        if let (Some((run, unwritten)), Some((offset, len))) = (self.disk.take(), self.piece.take()) {
            // Of a compressed extent all is needed to read any part.
            let part = if compressed == Some(true) {
                Some(run)
            } else {
                run.start.checked_add(offset).and_then(|start| Run::new(start, len)?.intersect(run))
            };
            self.pieces.extend(part.map(|run| Piece { run, inode, unwritten }));
            self.wanted.insert(inode);
        }
    }

    /// The paths of an inode in its subvolume, without the slash before; the subvolume itself is the empty one.
    pub(super) fn paths(&self, inode: u64) -> Vec<String> {
        let links = self.links.get(&inode).into_iter().flatten();
        links.filter_map(|(parent, name)| Some(join(&self.folder(*parent)?, name))).collect()
    }

    /// The path of a folder in its subvolume.
    pub(super) fn folder(&self, inode: u64) -> Option<String> {
        const ROOT: u64 = 256;
        const DEEPEST: usize = 4096;
        let (mut at, mut names) = (inode, Vec::new());
        while at != ROOT {
            let (parent, name) = self.folders.get(&at)?;
            names.push(name.as_str());
            at = *parent;
            if names.len() > DEEPEST {
                return None;
            }
        }
        names.reverse();
        Some(names.join("/"))
    }
}

/// A path below another; either may be empty.
pub(super) fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_string() } else { format!("{folder}/{name}") }
}

/// Where subvolumes are: each one's parent, the folder in that, and its name. Reads `dump-tree -t root`.
#[derive(Debug, Default)]
pub(super) struct Subvolumes {
    item: Option<(u64, u64)>,
    name: Option<(u64, usize)>,
    /// Parent subvolume, inode of the folder in it, name.
    pub(super) found: BTreeMap<u64, (u64, u64, String)>,
}

impl Subvolumes {
    /// Takes a line.
    pub(super) fn feed(&mut self, line: &str) {
        if let Some((id, kind, parent)) = key(line) {
            let id = tree(id).zip(tree(parent)).filter(|_| kind == "ROOT_BACKREF");
            (self.item, self.name) = (id, None);
            return;
        }
        let Some((id, parent)) = self.item else { return };
        if let Some((before, name)) = line.split_once(" name ")
            && let Some(folder) = after(before, "dirid")
        {
            self.name = Some((folder, name.len()));
            self.found.insert(id, (parent, folder, name.to_string()));
        } else if self.name.is_some()
            && let Some((_, _, name)) = self.found.get_mut(&id)
        {
            // The rest of a name that holds the end of a line.
            name.push('\n');
            name.push_str(line);
        }
    }
}

/// Reads `logical-resolve -P`: `inode 259 offset 0 root 257`.
pub(super) fn resolved(text: &str) -> BTreeSet<(u64, u64)> {
    let pair = |line: &str| Some((after(line, "root")?, after(line, "inode")?));
    text.lines().filter(|line| line.starts_with("inode ")).filter_map(pair).collect()
}

/// The sectors of a stripe that hold a run of logical addresses.
pub(super) fn on_device(stripe: &Stripe, run: Run) -> Option<Range> {
    let logical = stripe.logical?;
    let len = stripe.range.len().to_bytes()?.0;
    let run = run.intersect(Run::new(logical, len)?)?;
    let start = stripe.range.start().checked_add(Bytes(run.start.checked_sub(logical)?).to_sectors_down())?;
    Range::new(start, Bytes(run.end.checked_sub(run.start)?).to_sectors_down())
}

/// The logical addresses of sectors of a stripe.
pub(super) fn logical(stripe: &Stripe, range: Range) -> Option<Run> {
    let range = stripe.range.intersect(range)?;
    let into = range.start().saturating_sub(stripe.range.start()).to_bytes()?.0;
    Run::new(stripe.logical?.checked_add(into)?, range.len().to_bytes()?.0)
}

/// Sectors that hold a copy of the superblock (btrfs_sb_offset in the kernel): at 64 KiB, 64 MiB and 256 GiB.
pub(super) fn superblocks() -> impl Iterator<Item = Range> {
    [128u64, 131_072, 536_870_912].into_iter().filter_map(|start| Range::new(Sectors(start), Sectors(8)))
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
