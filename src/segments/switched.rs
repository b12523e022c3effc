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

/// The ranges of overlays for the lines of a flat table that ends at `main_len`, given where those that there are begin:
/// these stay as long as they are neither too large nor, together with the one before, small.
///
/// # Errors
/// The first error among the lines.
pub fn overlay_ranges(
    flat: impl Iterator<Item = Result<Target, SegmentError>>,
    main_len: Sectors,
    begins: &[Sectors],
    lines: PartLines,
) -> Result<Vec<Range>, SegmentError> {
    let inside = begins.iter().copied().filter(|start| Sectors::ZERO < *start && *start < main_len);
    let mut starts: Vec<Sectors> = std::iter::once(Sectors::ZERO).chain(inside).collect();
    starts.sort();
    starts.dedup();
    let ends = starts.iter().copied().skip(1).chain([main_len]);
    let ranges = starts.iter().zip(ends).filter_map(|(start, end)| Range::between(*start, end));
    let mut parts: Vec<(Range, usize)> = Vec::new();
    for part in by_range(flat.map(|line| Ok((whole(&line?)?, ()))), ranges) {
        let (range, inside) = part?;
        match parts.last_mut() {
            Some((last, count)) if count.saturating_add(inside.len()) <= lines.fill / 2 => {
                *count = count.saturating_add(inside.len());
                *last = Range::between(last.start(), range.end()).unwrap_or(*last);
            }
            _ if inside.len() > lines.most => parts.extend(split(&inside, range, lines.fill)),
            _ => parts.push((range, inside.len())),
        }
    }
    Ok(parts.into_iter().map(|(range, _)| range).collect())
}

/// The sectors of a line.
fn whole(line: &Target) -> Result<Range, SegmentError> {
    Range::new(line.start, line.len).ok_or(SegmentError::NotContiguous(line.start))
}

/// The lines that touch a range, with more or less of what they say.
type Touching<T> = (Range, Vec<(Range, T)>);

/// The lines that touch each of the ranges, which follow each other: one that touches two of them is there twice.
fn by_range<T: Clone>(
    lines: impl Iterator<Item = Result<(Range, T), SegmentError>>,
    ranges: impl Iterator<Item = Range>,
) -> impl Iterator<Item = Result<Touching<T>, SegmentError>> {
    let mut lines = lines.peekable();
    ranges.map(move |range| {
        let mut inside = Vec::new();
        while let Some(Ok((line, what))) = lines.peek().filter(|next| begins_before(next, range.end())) {
            inside.push((*line, what.clone()));
            if line.end() > range.end() {
                break;
            }
            lines.next();
        }
        match lines.next_if(Result::is_err) {
            Some(Err(error)) => Err(error),
            _ => Ok((range, inside)),
        }
    })
}

fn begins_before<T>(next: &Result<(Range, T), SegmentError>, end: Sectors) -> bool {
    next.as_ref().is_ok_and(|(line, _)| line.start() < end)
}

/// Parts of a range with about as many lines each, not more than `fill`.
fn split(lines: &[(Range, ())], range: Range, fill: usize) -> impl Iterator<Item = (Range, usize)> {
    let fill = fill.max(1);
    let each = lines.len().div_ceil(lines.len().div_ceil(fill).max(1)).max(1);
    let mut start = range.start();
    lines.chunks(each).filter_map(move |chunk| {
        let (last, ()) = chunk.last()?;
        let end = last.end().min(range.end());
        let part = Range::between(start, end)?;
        start = end;
        Some((part, chunk.len()))
    })
}

/// The tables of the overlays for these ranges, which follow each other: each has the flat table's lines there, counted
/// from the range's start.
///
/// What follows an error means nothing: the first error among the lines, or [`SegmentError::NotContiguous`] when a piece's
/// place on its device is beyond all numbers.
pub fn overlay_tables(
    flat: impl Iterator<Item = Result<Target, SegmentError>>,
    ranges: impl Iterator<Item = Range>,
) -> impl Iterator<Item = Result<(Range, Vec<Target>), SegmentError>> {
    let lines = flat.map(|line| {
        let line = line?;
        Ok((whole(&line)?, line.kind))
    });
    by_range(lines, ranges).map(|part| {
        let (range, inside) = part?;
        let table: Result<Vec<Target>, SegmentError> =
            inside.iter().map(|(line, kind)| overlay_line(*line, kind, range)).collect();
        Ok((range, table?))
    })
}

/// A line of the flat table in the overlay for `range`.
fn overlay_line(line: Range, kind: &TargetKind, range: Range) -> Result<Target, SegmentError> {
    let hole = || SegmentError::NotContiguous(line.start());
    let part = line.intersect(range).ok_or_else(hole)?;
    let start = part.start().checked_sub(range.start()).ok_or_else(hole)?;
    Ok(Target { start, len: part.len(), kind: clipped(line.start(), kind, part).ok_or_else(hole)? })
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
    /// As [`in_setup_sectors`].
    pub fn push(&mut self, range: Range, table: Vec<Target>) -> Result<(), SegmentError> {
        for line in in_setup_sectors(range, table)? {
            self.0.push(whole(&line)?, line.kind);
        }
        Ok(())
    }

    /// The flat table.
    pub fn into_table(self) -> Vec<Target> {
        self.0.into_targets()
    }
}

/// The table of the overlay for a range, in sectors of the setup.
///
/// # Errors
/// [`SegmentError::NotContiguous`] when it is not as long as that range, or has a hole.
pub fn in_setup_sectors(range: Range, mut table: Vec<Target>) -> Result<Vec<Target>, SegmentError> {
    let mut end = range.start();
    for line in &mut table {
        let hole = || SegmentError::NotContiguous(end);
        line.start = line.start.checked_add(range.start()).filter(|start| *start == end).ok_or_else(hole)?;
        end = whole(line)?.end();
    }
    if end == range.end() { Ok(table) } else { Err(SegmentError::NotContiguous(end)) }
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
    let end = overlaid.last().and_then(|last| last.start.checked_add(last.len));
    if end.is_some_and(|end| passes_all(front, backing, end)) {
        return Ok(overlaid);
    }
    let passing: Vec<(Range, bool)> = front.iter().map(|target| passes(target, backing)).collect::<Result<_, _>>()?;
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
                table.push(part, clipped(piece.start, &piece.kind, part).ok_or_else(hole)?);
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

/// Whether a front has the one piece that a flush reaches the anchor through.
pub fn is_anchored(front: &[Target], backing: &Backing) -> bool {
    let anchored = |line: &&Target| matches!(line.kind, TargetKind::Linear { device, .. } if device == backing.anchor);
    front.iter().filter(anchored).count() == 1
}

/// Whether a front passes all sectors up to `end`, and no more, to the private devices: then it does what they do.
fn passes_all(front: &[Target], backing: &Backing, end: Sectors) -> bool {
    let mut at = Sectors::ZERO;
    let passed = front.iter().all(|target| {
        let follows =
            |(range, passes): (Range, bool)| passes && range.start() == std::mem::replace(&mut at, range.end());
        passes(target, backing).is_ok_and(follows)
    });
    passed && at == end
}

/// What a piece that begins at `start` does in a part of it; `None` when its place on the device is beyond all numbers.
fn clipped(start: Sectors, kind: &TargetKind, part: Range) -> Option<TargetKind> {
    let skipped = part.start().checked_sub(start)?;
    Some(match *kind {
        TargetKind::Linear { device, offset } => TargetKind::Linear { device, offset: offset.checked_add(skipped)? },
        ref other => other.clone(),
    })
}
