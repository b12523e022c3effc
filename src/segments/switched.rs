//! The switched layout: flushes go once to each device below, and a splice makes and swaps tables of a few lines.
//!
//! Three kinds of tables stand for one map:
//! - the *overlays* (private devices) are the flat table, in parts: each has the lines for a range of sectors;
//! - the *anchor* (a private device) passes all of main to the overlays, through `switch`, which asks for no flush; past
//!   the end of main it has one `linear` piece for each device below: a flush that reaches the anchor goes once to each;
//! - the *front* (the setup's own table) passes one unit through `linear` to the anchor, which makes a flush reach it
//!   once, and the rest through `switch` to the overlays.
//!
//! Invariants:
//! - sector N is sector N in the front and in the anchor's first pieces, and N less the range's start in an overlay;
//! - the ranges of the overlays are all of main, without gap, and none has more lines than [`PART_LINES`] allows, unless a
//!   single piece is that fine: the kernel loads and shows a table in one go, and nothing else runs on that processor;
//! - every device that an overlay passes writes to is one that the anchor flushes: main, and each spare itself, also
//!   where a private device that holds blocks stands between;
//! - a front that leads anywhere has exactly one piece on its anchor.

use super::flat::TableBuilder;
use super::{Devices, SegmentError, Target, TargetKind};
use crate::units::{DevNo, Range, Sectors, coalesce};
use std::collections::BTreeSet;

/// A private device with the flat table's lines for a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// The device.
    pub device: DevNo,
    /// The sectors of the setup that it has; its sector 0 is the first of them.
    pub range: Range,
}

/// The private devices of a switched layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// The devices with the parts of the flat table, in the order of their ranges.
    pub overlays: Vec<Overlay>,
    /// The device that spreads flushes.
    pub anchor: DevNo,
}

/// How many lines an overlay has.
#[derive(Clone, Copy, Debug)]
pub struct PartLines {
    /// In a new one, at most.
    pub fill: usize,
    /// It is parted when it has more.
    pub most: usize,
}

/// The sizes that we use: a table of 4,096 lines is loaded or read in 10 to 20 ms in user-mode Linux.
pub const PART_LINES: PartLines = PartLines { fill: 2048, most: 4096 };

/// The ranges of overlays for a flat table, given where those that there are begin: these stay as long as they are
/// neither too large nor, together with the one before, small.
pub fn overlay_ranges(flat: &[Target], begins: &[Sectors], lines: PartLines) -> Vec<Range> {
    let end = flat.last().map_or(Sectors::ZERO, |last| Sectors(last.start.0.saturating_add(last.len.0)));
    let inside = begins.iter().copied().filter(|start| Sectors::ZERO < *start && *start < end);
    let mut starts: Vec<Sectors> = std::iter::once(Sectors::ZERO).chain(inside).collect();
    starts.sort();
    starts.dedup();
    let ends = starts.iter().copied().skip(1).chain([end]);
    let mut parts: Vec<(Range, usize)> = Vec::new();
    for range in starts.iter().zip(ends).filter_map(|(start, end)| Range::between(*start, end)) {
        let inside = lines_of(flat, range);
        match parts.last_mut() {
            Some((last, count)) if count.saturating_add(inside.len()) <= lines.fill / 2 => {
                *count = count.saturating_add(inside.len());
                *last = Range::between(last.start(), range.end()).unwrap_or(*last);
            }
            _ if inside.len() > lines.most => parts.extend(split(inside, range, lines.fill)),
            _ => parts.push((range, inside.len())),
        }
    }
    parts.into_iter().map(|(range, _)| range).collect()
}

/// The lines that touch a range.
fn lines_of(flat: &[Target], range: Range) -> &[Target] {
    let from = flat.partition_point(|line| line.start.0.saturating_add(line.len.0) <= range.start().0);
    let until = flat.partition_point(|line| line.start < range.end());
    flat.get(from..until).unwrap_or_default()
}

/// Parts of a range with about as many lines each, not more than `fill`.
fn split(lines: &[Target], range: Range, fill: usize) -> impl Iterator<Item = (Range, usize)> {
    let fill = fill.max(1);
    let each = lines.len().div_ceil(lines.len().div_ceil(fill).max(1)).max(1);
    let mut start = range.start();
    lines.chunks(each).filter_map(move |chunk| {
        let last = chunk.last()?;
        let end = Sectors(last.start.0.saturating_add(last.len.0)).min(range.end());
        let part = Range::between(start, end)?;
        start = end;
        Some((part, chunk.len()))
    })
}

/// The table of the overlay for a range: the flat table's lines there, counted from its start.
///
/// # Errors
/// [`SegmentError::NotContiguous`] when a piece's place on its device is beyond all numbers.
pub fn overlay_table(flat: &[Target], range: Range) -> Result<Vec<Target>, SegmentError> {
    let line = |piece: &Target| {
        let hole = || SegmentError::NotContiguous(piece.start);
        let whole = Range::new(piece.start, piece.len).ok_or_else(hole)?;
        let part = whole.intersect(range).ok_or_else(hole)?;
        let start = part.start().checked_sub(range.start()).ok_or_else(hole)?;
        Ok(Target { start, len: part.len(), kind: clipped(piece, part).ok_or_else(hole)? })
    };
    lines_of(flat, range).iter().map(line).collect()
}

/// Puts the parts of a flat table together again, in their order.
#[derive(Default)]
pub struct Joined(TableBuilder);

impl std::fmt::Debug for Joined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Joined")
    }
}

impl Joined {
    /// Adds the table of the overlay for a range.
    ///
    /// # Errors
    /// [`SegmentError::NotContiguous`] when it is not as long as that range.
    pub fn push(&mut self, range: Range, table: Vec<Target>) -> Result<(), SegmentError> {
        let mut end = range.start();
        for line in table {
            let hole = || SegmentError::NotContiguous(end);
            let start = line.start.checked_add(range.start()).filter(|start| *start == end).ok_or_else(hole)?;
            let whole = Range::new(start, line.len).ok_or_else(hole)?;
            end = whole.end();
            self.0.push(whole, line.kind);
        }
        if end == range.end() { Ok(()) } else { Err(SegmentError::NotContiguous(end)) }
    }

    /// The flat table.
    pub fn into_table(self) -> Vec<Target> {
        self.0.into_targets()
    }
}

/// The devices that the lines of a flat table lead to.
pub fn linear_devices(table: &[Target]) -> BTreeSet<DevNo> {
    let device = |target: &Target| match target.kind {
        TargetKind::Linear { device, .. } => Some(device),
        _ => None,
    };
    table.iter().filter_map(device).collect()
}

/// The table of the anchor over `overlays`, whose tables lead to the `written` devices and end at `main_len`.
pub fn anchor_table(
    overlays: &[Overlay],
    written: &BTreeSet<DevNo>,
    devices: &Devices,
    main_len: Sectors,
    unit: Sectors,
) -> Vec<Target> {
    let through = |overlay: &Overlay| Target {
        start: overlay.range.start(),
        len: overlay.range.len(),
        kind: TargetKind::Switch { device: overlay.device, offset: Sectors::ZERO },
    };
    let mut table: Vec<Target> = overlays.iter().map(through).collect();
    let leads_to = |device: Option<DevNo>| device.is_some_and(|device| written.contains(&device));
    let main = leads_to(Some(devices.main)).then_some((devices.main, Sectors::ZERO));
    let used = devices.spares.iter().filter(|spare| leads_to(spare.device) || leads_to(spare.held));
    let spares = used.filter_map(|spare| Some((spare.device?, spare.data_start)));
    let mut start = main_len;
    for (device, offset) in main.into_iter().chain(spares) {
        table.push(Target { start, len: unit, kind: TargetKind::Linear { device, offset } });
        start = Sectors(start.0.saturating_add(unit.0));
    }
    table
}

/// The overlays that the table of an anchor passes main on to; `None` when it is none of ours.
pub fn overlays_of(anchor: &[Target]) -> Option<Vec<Overlay>> {
    let mut end = Sectors::ZERO;
    let switches = anchor.iter().take_while(|line| matches!(line.kind, TargetKind::Switch { .. }));
    let overlays: Option<Vec<Overlay>> = switches
        .map(|line| {
            let TargetKind::Switch { device, offset: Sectors::ZERO } = line.kind else { return None };
            let range = Range::new(line.start, line.len).filter(|range| range.start() == end)?;
            end = range.end();
            Some(Overlay { device, range })
        })
        .collect();
    overlays.filter(|overlays| !overlays.is_empty())
}

/// The setup's own table over `backing`, with the `unsettled` ranges answering EIO. `None` when main is not longer than a
/// unit: such a setup has the flat layout only.
pub fn front_table(backing: &Backing, main_len: Sectors, unit: Sectors, unsettled: &[Range]) -> Option<Vec<Target>> {
    let whole = Range::new(Sectors::ZERO, main_len).filter(|whole| whole.len() > unit)?;
    let unsettled = coalesce(unsettled.iter().filter_map(|range| range.intersect(whole)).collect());
    let settled = whole.without(&unsettled);
    let anchored = settled.iter().find_map(|range| {
        let start = range.start().align_up(unit)?;
        Range::new(start, unit).filter(|one| range.encloses(*one))
    });
    let mut pieces: Vec<(Range, TargetKind)> = unsettled.iter().map(|range| (*range, TargetKind::Error)).collect();
    let anchored: Vec<Range> = anchored.into_iter().collect();
    let switched = settled.iter().flat_map(|range| range.without(&anchored));
    pieces.extend(switched.flat_map(|range| backing.overlays.iter().filter_map(move |overlay| passed(overlay, range))));
    let linear = |range: &Range| (*range, TargetKind::Linear { device: backing.anchor, offset: range.start() });
    pieces.extend(anchored.iter().map(linear));
    pieces.sort_by_key(|(range, _)| range.start());
    let mut table = TableBuilder::default();
    pieces.into_iter().for_each(|(range, kind)| table.push(range, kind));
    Some(table.into_targets())
}

/// How an overlay is led to from its part of a range.
fn passed(overlay: &Overlay, range: Range) -> Option<(Range, TargetKind)> {
    let part = overlay.range.intersect(range)?;
    let offset = part.start().checked_sub(overlay.range.start())?;
    Some((part, TargetKind::Switch { device: overlay.device, offset }))
}

/// What a front over `backing` does, in terms of the flat table of its overlays: that table, with EIO where the front
/// answers EIO.
///
/// # Errors
/// [`SegmentError::NotOurs`] when the front is none of ours, [`SegmentError::NotContiguous`] when a table has a hole.
pub fn flattened(front: &[Target], backing: &Backing, overlaid: Vec<Target>) -> Result<Vec<Target>, SegmentError> {
    let passing: Vec<(Range, bool)> = front.iter().map(|target| passes(target, backing)).collect::<Result<_, _>>()?;
    if passing.iter().all(|(_, passes)| *passes) && same_end(&passing, &overlaid) {
        return Ok(overlaid);
    }
    let mut table = TableBuilder::default();
    let mut rest = overlaid.iter().peekable();
    for (range, passes) in passing {
        if !passes {
            table.push(range, TargetKind::Error);
        }
        let mut at = range.start();
        while let Some(piece) = rest.peek() {
            let hole = || SegmentError::NotContiguous(piece.start);
            let whole = Range::new(piece.start, piece.len).ok_or_else(hole)?;
            let Some(part) = whole.intersect(range) else { break };
            if part.start() != at {
                return Err(SegmentError::NotContiguous(at));
            }
            at = part.end();
            if passes {
                table.push(part, clipped(piece, part).ok_or_else(hole)?);
            }
            if whole.end() > range.end() {
                break;
            }
            rest.next();
        }
        if at != range.end() {
            return Err(SegmentError::NotContiguous(at));
        }
    }
    Ok(table.into_targets())
}

/// Whether a table is a front over `backing`, as far as that can be said without what the overlays do.
pub fn is_front_of(front: &[Target], backing: &Backing) -> bool {
    front.iter().all(|target| passes(target, backing).is_ok())
}

/// The piece of a front that a line is, and whether it passes I/O on to the private devices.
fn passes(target: &Target, backing: &Backing) -> Result<(Range, bool), SegmentError> {
    let range = Range::new(target.start, target.len).ok_or(SegmentError::NotContiguous(target.start))?;
    let overlay = || backing.overlays.iter().rfind(|overlay| overlay.range.start() <= range.start());
    match target.kind {
        TargetKind::Error => Ok((range, false)),
        TargetKind::Linear { device, offset } if device == backing.anchor && offset == target.start => {
            Ok((range, true))
        }
        TargetKind::Switch { .. } if overlay().and_then(|o| passed(o, range)) == Some((range, target.kind.clone())) => {
            Ok((range, true))
        }
        _ => Err(SegmentError::NotOurs { range, line: target.to_string() }),
    }
}

/// Whether pieces of a front without a hole end where the overlay's table does. (Whether that has one is seen by who
/// reads its pieces.)
fn same_end(front: &[(Range, bool)], overlay: &[Target]) -> bool {
    let mut end = Sectors::ZERO;
    let contiguous = front.iter().all(|(range, _)| range.start() == std::mem::replace(&mut end, range.end()));
    contiguous && overlay.last().and_then(|last| last.start.checked_add(last.len)) == Some(end)
}

/// What a piece does in a part of it; `None` when its place on the device is beyond all numbers.
fn clipped(piece: &Target, part: Range) -> Option<TargetKind> {
    let skipped = part.start().checked_sub(piece.start)?;
    Some(match piece.kind {
        TargetKind::Linear { device, offset } => TargetKind::Linear { device, offset: offset.checked_add(skipped)? },
        ref other => other.clone(),
    })
}
