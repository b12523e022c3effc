//! btrfs, through `btrfs inspect-internal` of btrfs-progs.
//!
//! The chunk tree leads from the device to the logical addresses of the filesystem. Where it is mounted, the kernel is
//! asked which inodes have an address, and what they are called: that is current. Where it is not, the extent tree
//! tells the inodes, and the trees of their subvolumes the names.
//!
//! Chunks that are spread over several devices (RAID0, 10, 5, 6) are not followed. A file that only a snapshot still
//! has is found; that a snapshot has it too may stay untold where the filesystem is not mounted.

mod parse;

use super::owner::Owner;
use super::place::Place;
use super::search::{Hit, Id, Search};
use crate::block::device::BlockDevice;
use crate::block::tool::{Deadline, Lines, Tool, ToolError, Want};
use crate::block::usage::MountPoint;
use crate::units::{Bytes, Range, Sectors};
use parse::{Chunks, Content, Extents, Run, Stripe, Subvolumes, Tree};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

const BTRFS: Tool = Tool { name: "btrfs", package: "btrfs-progs" };

/// The subvolume that everything else is in.
const TOP: u64 = 5;

/// What to say of blocks that were allocated for a file, and hold nothing yet.
const UNWRITTEN: &str = "these blocks are allocated, but were never written";

/// What to say of the part of an extent that no file refers to any more.
const PASSED: &str = "part of an extent that is still in use elsewhere";

/// Claims what it can find out.
pub(super) fn look(device: &BlockDevice, place: &Place, search: &mut Search, deadline: Deadline) {
    crate::block::tool::forget_cached(&device.path);
    let mut btrfs = Btrfs { device, search, deadline, block: Sectors(8), node_bytes: 16_384 };
    let result = btrfs.stripes().and_then(|stripes| match (&place.mount, place.mounted) {
        (Some(mount), _) => btrfs.live(&stripes, place, mount),
        (None, true) => {
            btrfs.search.rest_unknown("btrfs is mounted, but not where it can be seen from here");
            Ok(())
        }
        (None, false) => btrfs.at_rest(&stripes),
    });
    if let Err(error) = result {
        search.rest_unknown(&error.to_string());
        search.no_names(format!("its name is not known: {error}"));
    }
    search.no_names("no name was found for it, or its subvolume is not mounted where it can be seen".into());
}

struct Btrfs<'a> {
    device: &'a BlockDevice,
    search: &'a mut Search,
    deadline: Deadline,
    /// The smallest piece of a file.
    block: Sectors,
    node_bytes: u64,
}

impl Btrfs<'_> {
    /// Runs `btrfs inspect-internal`, and hands on each line.
    fn lines(&self, words: &[&str], path: &Path, mut each: impl FnMut(&str)) -> Result<(), ToolError> {
        let words = ["inspect-internal"].iter().chain(words).map(OsStr::new);
        let arguments: Vec<&OsStr> = words.chain([OsStr::new("--"), path.as_os_str()]).collect();
        let mut lines = Lines::default();
        let ended = BTRFS.stream(&arguments, self.deadline, &mut |bytes| {
            lines.feed(bytes, |line| {
                each(line);
                Want::More
            })
        })?;
        BTRFS.check(&ended)
    }

    /// Where the chunks lie on the device; claims what is outside of them.
    fn stripes(&mut self) -> Result<Vec<Stripe>, ToolError> {
        let arguments = ["inspect-internal", "dump-super", "--"].map(OsStr::new);
        let arguments = [&arguments[..], &[self.device.path.as_os_str()]].concat();
        let text = BTRFS.output(&arguments, self.deadline)?;
        let Some((number, block, node)) = parse::superblock(&text) else {
            let said = "the superblock tells no number of the device".to_string();
            return Err(ToolError::Failed { tool: BTRFS.name, said });
        };
        (self.block, self.node_bytes) = (Bytes(block).to_sectors_down(), node);
        for range in parse::superblocks() {
            self.search.claim(range, &Hit::metadata("superblock"), None);
        }
        let mut chunks = Chunks::new(number);
        self.lines(&["dump-tree", "-t", "chunk"], &self.device.path, |line| chunks.feed(line))?;
        let mut stripes = chunks.stripes;
        stripes.sort_by_key(|stripe| stripe.range);
        let taken: Vec<Range> = crate::units::coalesce(stripes.iter().map(|stripe| stripe.range).collect());
        for range in self.search.open().to_vec() {
            for free in range.without(&taken) {
                self.search.claim(free, &Hit::Owner(Owner::FreeSpace), Some("not allocated to any chunk"));
            }
        }
        for stripe in stripes.iter().filter(|stripe| stripe.logical.is_none()) {
            let why = "the chunk is spread over several devices, which is not followed";
            self.search.claim(stripe.range, &Hit::unknown(why), None);
        }
        for stripe in stripes.iter().filter(|stripe| stripe.content == Content::System) {
            self.search.claim(stripe.range, &Hit::metadata("chunk tree"), None);
        }
        Ok(stripes)
    }

    /// The open parts of every stripe, block by block: sectors, and logical addresses.
    fn open_blocks(&self, stripes: &[Stripe]) -> Vec<(Range, Run, Content)> {
        let mut out = Vec::new();
        for stripe in stripes {
            let open = self.search.open().iter().filter_map(|range| stripe.range.intersect(*range));
            for range in open {
                let Some(wide) = range.widen_to(self.block, stripe.range.end()) else { continue };
                let blocks = wide.chunks(self.block);
                out.extend(blocks.filter_map(|b| Some((b, parse::logical(stripe, b)?, stripe.content))));
            }
        }
        out
    }

    /// Asks the kernel.
    fn live(&mut self, stripes: &[Stripe], place: &Place, mount: &MountPoint) -> Result<(), ToolError> {
        for (range, run, content) in self.open_blocks(stripes) {
            let address = run.start.to_string();
            let words = ["inspect-internal", "logical-resolve", "-P", &address].map(OsStr::new);
            let words = [&words[..], &[mount.at.as_os_str()]].concat();
            let (text, ended) = BTRFS.capture(&words, self.deadline)?;
            let files = parse::resolved(&text);
            for (subvolume, inode) in &files {
                let id = Id { inode: *inode, subvolume: Some(*subvolume) };
                self.search.share(range, &Hit::Inode(id), None);
            }
            if !files.is_empty() {
                continue;
            }
            // ENOENT stands for free space, and for blocks of trees alike.
            let free = ended.code == Some(0) || ended.errors.contains("No such file or directory");
            let hit = match content {
                _ if !free => return Err(BTRFS.failed(&ended)),
                Content::Data => Hit::Owner(Owner::FreeSpace),
                Content::Metadata | Content::System => Hit::metadata("room for blocks of trees, in use or free"),
                Content::Mixed => Hit::unknown("no file has it: it is free, or a block of a tree"),
            };
            let note = (ended.code == Some(0)).then_some(PASSED);
            self.search.claim(range, &hit, note);
        }
        self.live_names(place, mount)
    }

    /// Asks the kernel for the names of the inodes that were found.
    fn live_names(&mut self, place: &Place, mount: &MountPoint) -> Result<(), ToolError> {
        let mut seen_at: BTreeMap<u64, Option<PathBuf>> = BTreeMap::new();
        for id in self.search.nameless() {
            let Some(subvolume) = id.subvolume else { continue };
            let folder = match seen_at.get(&subvolume) {
                Some(folder) => folder.clone(),
                None => {
                    let folder = self.subvolume(subvolume, place, mount)?;
                    seen_at.insert(subvolume, folder.clone());
                    folder
                }
            };
            let Some(folder) = folder else { continue };
            let inode = id.inode.to_string();
            let words = ["inspect-internal", "inode-resolve", &inode].map(OsStr::new);
            let words = [&words[..], &[folder.as_os_str()]].concat();
            let (text, _) = BTRFS.capture(&words, self.deadline)?;
            let inside = format!("{}/", folder.to_string_lossy().trim_end_matches('/'));
            let node = self.search.inode(id);
            for path in text.lines() {
                match (path.strip_prefix(&inside), node.paths.last_mut()) {
                    (Some(_), _) => node.paths.extend(place.path_of(Path::new(path))),
                    // The rest of a name that holds the end of a line.
                    (None, Some(last)) => {
                        last.push('\n');
                        last.push_str(path);
                    }
                    (None, None) => {}
                }
            }
        }
        Ok(())
    }

    /// Where a subvolume is seen; `None` when it is not below the mount.
    fn subvolume(&self, id: u64, place: &Place, mount: &MountPoint) -> Result<Option<PathBuf>, ToolError> {
        if id == TOP {
            return Ok(place.seen_at("/"));
        }
        let number = id.to_string();
        let words = ["inspect-internal", "subvolid-resolve", &number].map(OsStr::new);
        let words = [&words[..], &[mount.at.as_os_str()]].concat();
        let (text, ended) = BTRFS.capture(&words, self.deadline)?;
        let path = text.strip_suffix('\n').unwrap_or(&text);
        if ended.code != Some(0) || path.is_empty() {
            return Ok(None);
        }
        Ok(place.seen_at(&format!("/{path}")))
    }

    /// Reads the trees of a filesystem that is not mounted.
    fn at_rest(&mut self, stripes: &[Stripe]) -> Result<(), ToolError> {
        let wanted: Vec<Run> = self.open_blocks(stripes).into_iter().map(|(_, run, _)| run).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let mut extents = Extents::new(wanted, self.node_bytes);
        self.lines(&["dump-tree", "-t", "extent"], &self.device.path, |line| extents.feed(line))?;
        let mut files: BTreeMap<u64, (BTreeSet<u64>, BTreeSet<u64>)> = BTreeMap::new();
        let mut used: Vec<Run> = Vec::new();
        for extent in extents.found.values() {
            used.push(extent.run);
            if let Some(tree) = &extent.tree {
                let what =
                    if tree.is_empty() { "a block of a tree".into() } else { format!("a block of the tree {tree}") };
                self.claim(stripes, extent.run, &Hit::metadata(what), None);
            }
            let mut referrers = extent.files.clone();
            for leaf in &extent.leaves {
                referrers.extend(self.leaf(*leaf, extent.run)?);
            }
            for (subvolume, inode) in referrers {
                let entry = files.entry(subvolume).or_default();
                entry.0.insert(extent.run.start);
                entry.1.insert(inode);
            }
        }
        // What no extent has is free.
        for (range, run, _) in self.open_blocks(stripes) {
            if !used.iter().any(|extent| extent.intersect(run).is_some()) {
                self.search.claim(range, &Hit::Owner(Owner::FreeSpace), None);
            }
        }
        self.files(stripes, files)?;
        for (range, ..) in self.open_blocks(stripes) {
            self.search.claim(range, &Hit::Owner(Owner::FreeSpace), Some(PASSED));
        }
        Ok(())
    }

    /// Claims the places of a run of logical addresses: two where it is doubled.
    fn claim(&mut self, stripes: &[Stripe], run: Run, hit: &Hit, note: Option<&'static str>) {
        for range in stripes.iter().filter_map(|stripe| parse::on_device(stripe, run)) {
            self.search.share(range, hit, note);
        }
    }

    /// The files that a leaf, which several trees share, has pieces of an extent for.
    fn leaf(&self, leaf: u64, extent: Run) -> Result<Vec<(u64, u64)>, ToolError> {
        let mut tree = Tree::new([extent.start].into(), BTreeSet::new());
        let block = leaf.to_string();
        self.lines(&["dump-tree", "-b", &block], &self.device.path, |line| tree.feed(line))?;
        let owner = tree.owner;
        Ok(tree.pieces.iter().filter_map(|piece| Some((owner?, piece.inode))).collect())
    }

    /// Claims the pieces of files, and names them.
    fn files(
        &mut self,
        stripes: &[Stripe],
        wanted: BTreeMap<u64, (BTreeSet<u64>, BTreeSet<u64>)>,
    ) -> Result<(), ToolError> {
        let mut volumes = Subvolumes::default();
        if wanted.keys().any(|subvolume| *subvolume != TOP) {
            self.lines(&["dump-tree", "-t", "root"], &self.device.path, |line| volumes.feed(line))?;
        }
        for (subvolume, (extents, inodes)) in wanted {
            let tree = self.tree(subvolume, extents, inodes)?;
            for piece in &tree.pieces {
                let id = Id { inode: piece.inode, subvolume: Some(subvolume) };
                self.claim(stripes, piece.run, &Hit::Inode(id), piece.unwritten.then_some(UNWRITTEN));
            }
            let folder = self.folder(subvolume, &volumes, 0)?;
            let named: BTreeSet<u64> = tree.pieces.iter().map(|piece| piece.inode).collect();
            for inode in named {
                let paths = tree.paths(inode).into_iter();
                let whole = paths.filter_map(|path| Some(format!("/{}", parse::join(folder.as_ref()?, &path))));
                self.search.inode(Id { inode, subvolume: Some(subvolume) }).paths = whole.collect();
            }
        }
        Ok(())
    }

    fn tree(&self, id: u64, extents: BTreeSet<u64>, inodes: BTreeSet<u64>) -> Result<Tree, ToolError> {
        let mut tree = Tree::new(extents, inodes);
        let number = id.to_string();
        self.lines(&["dump-tree", "-t", &number], &self.device.path, |line| tree.feed(line))?;
        Ok(tree)
    }

    /// The path of a subvolume from the top; `None` when it is in no folder any more.
    fn folder(&self, id: u64, volumes: &Subvolumes, depth: usize) -> Result<Option<String>, ToolError> {
        const DEEPEST: usize = 64;
        if id == TOP {
            return Ok(Some(String::new()));
        }
        let Some((parent, folder, name)) = volumes.found.get(&id).filter(|_| depth < DEEPEST) else {
            return Ok(None);
        };
        let inside = self.tree(*parent, BTreeSet::new(), BTreeSet::new())?.folder(*folder);
        let above = self.folder(*parent, volumes, depth + 1)?;
        Ok(above.zip(inside).map(|(above, inside)| parse::join(&parse::join(&above, &inside), name)))
    }
}
