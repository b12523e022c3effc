//! From sectors of the lowest disk, which the kernel's reports name, back to sectors of a device that lies over it. Pure,
//! over a description of the stack of devices (made by [`super::stack`]).
//!
//! Invariants:
//! - [`Located::At`] names exactly the sectors that lead to the reported ones, no others and all of them;
//! - where any level on the way cannot be translated, the answer is [`Located::Somewhere`], never a guess in disguise;
//! - every range lies inside the upper device; no description makes this loop or panic.

use crate::segments::{Target, TargetKind};
use crate::units::{DevNo, Range, Sectors, coalesce};
use std::collections::BTreeMap;

/// How a device is made of those below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// Of nothing that is known: a disk.
    Disk,
    /// A part of a device from a sector on.
    Partition {
        /// The device.
        of: DevNo,
        /// Its first sector there.
        start: Sectors,
    },
    /// Pieces of other devices, each in one run (linear targets, and others that keep the order of sectors).
    Pieces(Vec<Piece>),
    /// Every device holds all sectors, each from an offset on (mirrors, paths to one disk).
    Copies(Vec<(DevNo, Sectors)>),
    /// Chunks of the devices in turn.
    Stripes(Vec<Stripes>),
    /// Of these devices, in a way that is not known here (RAID with parity, thin volumes, caches).
    Unknown(Vec<DevNo>),
}

/// A run of sectors of the upper device, and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Sectors of the upper device.
    pub range: Range,
    /// The device below.
    pub device: DevNo,
    /// First sector there.
    pub offset: Sectors,
}

/// A run of sectors of the upper device that is striped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stripes {
    /// Sectors of the upper device.
    pub range: Range,
    /// Sectors in a chunk, at least 1.
    pub chunk: Sectors,
    /// The devices below in turn, and the first sector on each.
    pub legs: Vec<(DevNo, Sectors)>,
}

/// One device of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its size.
    pub size: Sectors,
    /// What it is made of.
    pub made: Made,
}

/// A device and all that it lies on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// The device at the top.
    pub top: DevNo,
    /// All devices, the top included.
    pub nodes: BTreeMap<DevNo, Node>,
}

/// Where reported sectors of a disk are on the upper device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Located {
    /// Nowhere: the device does not use them.
    Nowhere,
    /// At these sectors: sorted, disjoint, not empty.
    At(Vec<Range>),
    /// Somewhere on it. They cannot be translated; as a guess, the sectors at the same proportion of the device.
    Somewhere {
        /// The guess: sorted, disjoint, not empty.
        guess: Vec<Range>,
    },
}

/// Levels that are looked at; real stacks have less than ten.
const MOST_LEVELS: u32 = 32;

/// Sectors before and behind a guessed one that belong to the guess: 8 MiB.
const GUESS_AROUND: u64 = 16_384;

/// The most runs that striped sectors are taken apart into; beyond that the answer is a guess.
const MOST_RUNS: u64 = 4096;

/// What is known of the reported sectors on one level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Found {
    exact: Vec<Range>,
    vague: Vec<Range>,
}

impl Found {
    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.vague.is_empty()
    }

    /// The parts inside `window`, moved so that its start becomes `to`.
    fn shifted(&self, window: Range, to: Sectors) -> Found {
        let shift = |r: &Range| {
            let inside = r.intersect(window)?;
            let skipped = inside.start().checked_sub(window.start())?;
            Range::new(to.checked_add(skipped)?, inside.len())
        };
        Found {
            exact: self.exact.iter().filter_map(shift).collect(),
            vague: self.vague.iter().filter_map(shift).collect(),
        }
    }

    fn join(&mut self, other: Found) {
        self.exact.extend(other.exact);
        self.vague.extend(other.vague);
    }
}

impl Stack {
    /// Where sectors of `disk` are on the device at the top.
    pub fn locate(&self, disk: DevNo, sectors: Range) -> Located {
        let mut known = BTreeMap::new();
        let found = self.find(self.top, disk, sectors, MOST_LEVELS, &mut known);
        if found.vague.is_empty() {
            let exact = coalesce(found.exact);
            return if exact.is_empty() { Located::Nowhere } else { Located::At(exact) };
        }
        Located::Somewhere { guess: coalesce(found.exact.into_iter().chain(found.vague).collect()) }
    }

    /// Whether the device lies on `disk` in any way, or is it.
    pub fn lies_on(&self, disk: DevNo) -> bool {
        self.nodes.contains_key(&disk)
    }

    fn find(
        &self,
        device: DevNo,
        disk: DevNo,
        sectors: Range,
        levels: u32,
        known: &mut BTreeMap<DevNo, Found>,
    ) -> Found {
        if let Some(found) = known.get(&device) {
            return found.clone();
        }
        let (Some(node), Some(deeper)) = (self.nodes.get(&device), levels.checked_sub(1)) else {
            return Found::default();
        };
        let Some(whole) = Range::new(Sectors::ZERO, node.size) else { return Found::default() };
        // Against a description that leads back to this device.
        known.insert(device, Found::default());
        let mut found = Found::default();
        if device == disk {
            found.exact.extend(sectors.intersect(whole));
        } else {
            let mut below = |lower: DevNo| self.find(lower, disk, sectors, deeper, known);
            match &node.made {
                Made::Disk => {}
                Made::Partition { of, start } => {
                    if let Some(window) = Range::new(*start, node.size) {
                        found = below(*of).shifted(window, Sectors::ZERO);
                    }
                }
                Made::Pieces(pieces) => pieces.iter().for_each(|piece| {
                    let Some(window) = Range::new(piece.offset, piece.range.len()) else { return };
                    found.join(below(piece.device).shifted(window, piece.range.start()));
                }),
                Made::Copies(legs) => legs.iter().for_each(|(leg, offset)| {
                    let Some(window) = Range::new(*offset, node.size) else { return };
                    found.join(below(*leg).shifted(window, Sectors::ZERO));
                }),
                Made::Stripes(runs) => runs.iter().for_each(|stripes| {
                    (0u64..).zip(&stripes.legs).for_each(|(turn, (leg, offset))| {
                        found.join(stripes.translate(turn, *offset, &below(*leg)));
                    });
                }),
                Made::Unknown(lower) => lower.iter().for_each(|lower| {
                    let size = self.nodes.get(lower).map_or(Sectors::ZERO, |n| n.size);
                    found.vague.extend(guess(&below(*lower), size, node.size));
                }),
            }
        }
        // Whatever the description says, nothing lies outside of the device.
        found = found.shifted(whole, Sectors::ZERO);
        if !found.is_empty() {
            found = Found { exact: coalesce(found.exact), vague: coalesce(found.vague) };
        }
        known.insert(device, found.clone());
        found
    }
}

impl Stripes {
    /// What lies on the leg whose turn is `turn`, as sectors of the upper device. Chunk number N of a leg is chunk number
    /// N × legs + turn of the whole (`stripe_map_sector` in drivers/md/dm-stripe.c).
    fn translate(&self, turn: u64, offset: Sectors, below: &Found) -> Found {
        let (chunk, legs) = (self.chunk.0.max(1), u64::try_from(self.legs.len()).unwrap_or(1).max(1));
        let window = Range::between(offset, Sectors(u64::MAX));
        let upper = |at: u64| -> Option<Sectors> {
            let number = (at / chunk).checked_mul(legs)?.checked_add(turn)?;
            self.range.start().checked_add(Sectors(number.checked_mul(chunk)?.checked_add(at % chunk)?))
        };
        let mut found = Found::default();
        let Some(window) = window else { return found };
        let below = below.shifted(window, Sectors::ZERO);
        for range in below.exact {
            let first = Sectors(range.start().0).align_down(Sectors(chunk));
            if (range.end().0 - first.0) / chunk > MOST_RUNS {
                found.vague.extend(spread(range, legs).and_then(|r| self.inside(r)));
                continue;
            }
            let aligned = Range::between(first, range.end());
            for part in aligned.into_iter().flat_map(|r| r.chunks(Sectors(chunk))).filter_map(|p| p.intersect(range)) {
                let run = upper(part.start().0).and_then(|start| Range::new(start, part.len()));
                found.exact.extend(run.and_then(|run| run.intersect(self.range)));
            }
        }
        found.vague.extend(below.vague.into_iter().filter_map(|r| spread(r, legs).and_then(|r| self.inside(r))));
        found
    }

    /// Sectors counted from the start of this run, as sectors of the upper device.
    fn inside(&self, range: Range) -> Option<Range> {
        let start = self.range.start().checked_add(range.start())?;
        Range::new(start, range.len())?.intersect(self.range)
    }
}

/// A run that is `times` as long and lies as many times as far.
fn spread(range: Range, times: u64) -> Option<Range> {
    Range::new(range.start().checked_mul(times)?, range.len().checked_mul(times)?)
}

/// Sectors of a device of `from` sectors, at the same proportion of one of `to` sectors, and what is around them.
fn guess(below: &Found, from: Sectors, to: Sectors) -> Vec<Range> {
    let scale = |at: Sectors| -> u64 {
        let scaled = u128::from(at.0) * u128::from(to.0) / u128::from(from.0.max(1));
        u64::try_from(scaled).unwrap_or(u64::MAX).min(to.0)
    };
    let place = |range: &Range| {
        let start = Sectors(scale(range.start())).saturating_sub(Sectors(GUESS_AROUND));
        let end = Sectors(scale(range.end()).saturating_add(GUESS_AROUND)).min(to);
        Range::between(start, end)
    };
    below.exact.iter().chain(&below.vague).filter_map(place).collect()
}

/// What a device with this table is made of; `below` are the devices that it lies on, as far as sysfs says.
///
/// Besides the targets that keep the order of sectors, striped, mirror, multipath, and the mirrors of the raid target
/// are known. Source of their parameters: Documentation/admin-guide/device-mapper.
pub fn made_of(table: &[Target], below: &[DevNo]) -> Made {
    let pieces: Option<Vec<Piece>> =
        table.iter().filter(|t| !is_empty(t)).map(|t| piece(t).filter(|p| below.contains(&p.device))).collect();
    if let Some(pieces) = pieces {
        return Made::Pieces(pieces);
    }
    let stripes: Option<Vec<Stripes>> = table.iter().map(stripes).collect();
    if let Some(stripes) = stripes {
        return Made::Stripes(stripes);
    }
    match table {
        [Target { start: Sectors::ZERO, kind: TargetKind::Other(other), .. }] => {
            match copies(&other.name, &other.params, below) {
                Some(legs) => Made::Copies(legs),
                None => Made::Unknown(below.to_vec()),
            }
        }
        _ => Made::Unknown(below.to_vec()),
    }
}

fn is_empty(target: &Target) -> bool {
    match &target.kind {
        TargetKind::Error => true,
        TargetKind::Other(other) => other.name == "zero",
        _ => false,
    }
}

/// A target that passes its sectors on in order.
fn piece(target: &Target) -> Option<Piece> {
    let range = Range::new(target.start, target.len)?;
    match &target.kind {
        TargetKind::Linear { device, offset }
        | TargetKind::FlakeyErrorReads { device, offset }
        | TargetKind::Switch { device, offset }
        | TargetKind::Dust { device, offset, .. } => Some(Piece { range, device: *device, offset: *offset }),
        TargetKind::Other(other) => {
            let words: Vec<&str> = other.params.split_ascii_whitespace().collect();
            // Which word is the device; the offset follows it.
            let at = match other.name.as_str() {
                "flakey" | "delay" => 0,
                // cipher, key, offset of the initial vector
                "crypt" => 3,
                // These have no offset.
                "snapshot-origin" | "log-writes" => {
                    let device = words.first()?.parse().ok()?;
                    return Some(Piece { range, device, offset: target.start });
                }
                _ => return None,
            };
            let offset = Sectors(words.get(at + 1)?.parse().ok()?);
            Some(Piece { range, device: words.get(at)?.parse().ok()?, offset })
        }
        TargetKind::Error => None,
    }
}

/// `<legs> <chunk> [<device> <offset>]…`
fn stripes(target: &Target) -> Option<Stripes> {
    let TargetKind::Other(other) = &target.kind else { return None };
    if other.name != "striped" {
        return None;
    }
    let mut words = other.params.split_ascii_whitespace();
    let count: usize = words.next()?.parse().ok()?;
    let chunk = Sectors(words.next()?.parse().ok().filter(|c| *c > 0)?);
    let mut legs = Vec::new();
    for _ in 0..count.min(1024) {
        legs.push((words.next()?.parse().ok()?, Sectors(words.next()?.parse().ok()?)));
    }
    let range = Range::new(target.start, target.len)?;
    (!legs.is_empty()).then_some(Stripes { range, chunk, legs })
}

/// The devices that each hold all sectors.
fn copies(name: &str, params: &str, below: &[DevNo]) -> Option<Vec<(DevNo, Sectors)>> {
    let words: Vec<&str> = params.split_ascii_whitespace().collect();
    match name {
        // Only what the kernel has open is a path, whatever the many words mean.
        "multipath" => Some(below.iter().map(|path| (*path, Sectors::ZERO)).collect()),
        // <log> <arguments> [<argument>]… <mirrors> [<device> <offset>]…
        "mirror" => {
            let arguments: usize = words.get(1)?.parse().ok()?;
            let rest = words.get(arguments.checked_add(2)?..)?;
            let count: usize = rest.first()?.parse().ok()?;
            let legs = rest.get(1..)?.chunks_exact(2).take(count);
            legs.map(|leg| match leg {
                [device, offset] => Some((device.parse().ok()?, Sectors(offset.parse().ok()?))),
                _ => None,
            })
            .collect()
        }
        // raid1 <parameters> [<parameter>]… <devices> [<metadata> <data>]…
        "raid" if words.first() == Some(&"raid1") => {
            let parameters: usize = words.get(1)?.parse().ok()?;
            let rest = words.get(parameters.checked_add(2)?..)?;
            // A data offset moves during a reshape.
            if words.contains(&"data_offset") {
                return None;
            }
            let data = rest.get(1..)?.chunks_exact(2).filter_map(|pair| pair.get(1)).filter(|device| **device != "-");
            data.map(|device| Some((device.parse().ok()?, Sectors::ZERO))).collect()
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "locate_tests.rs"]
mod tests;
