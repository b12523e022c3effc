//! The switched layout: flushes go once to each device below, and a splice swaps a table of a few lines.
//!
//! Three tables stand for one map:
//! - the *overlay* (a private device) is the flat table;
//! - the *anchor* (a private device) passes all of main to the overlay, through `switch`, which asks for no flush; past
//!   the end of main it has one `linear` piece for each device below: a flush that reaches the anchor goes once to each;
//! - the *front* (the setup's own table) passes one unit through `linear` to the anchor, which makes a flush reach it
//!   once, and the rest through `switch` to the overlay.
//!
//! Invariants:
//! - sector N is sector N in the front, in the anchor's first piece and in the overlay;
//! - every device that the overlay passes writes to is one that the anchor flushes: main, and each spare itself, also
//!   where a private device that holds blocks stands between;
//! - a front that leads anywhere has exactly one piece on its anchor.

use super::flat::TableBuilder;
use super::{Devices, SegmentError, Target, TargetKind};
use crate::units::{DevNo, Range, Sectors, coalesce};
use std::collections::BTreeSet;

/// The private devices of a switched layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The device with the flat table.
    pub overlay: DevNo,
    /// The device that spreads flushes.
    pub anchor: DevNo,
}

/// The devices that the lines of a flat table lead to.
pub fn linear_devices(table: &[Target]) -> BTreeSet<DevNo> {
    let device = |target: &Target| match target.kind {
        TargetKind::Linear { device, .. } => Some(device),
        _ => None,
    };
    table.iter().filter_map(device).collect()
}

/// The table of the anchor over `overlay`, whose table leads to the `written` devices and ends at `main_len`.
pub fn anchor_table(
    overlay: DevNo,
    written: &BTreeSet<DevNo>,
    devices: &Devices,
    main_len: Sectors,
    unit: Sectors,
) -> Vec<Target> {
    let through = TargetKind::Switch { device: overlay, offset: Sectors::ZERO };
    let mut table = vec![Target { start: Sectors::ZERO, len: main_len, kind: through }];
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

/// The setup's own table over a pair, with the `unsettled` ranges answering EIO. `None` when main is not longer than a
/// unit: such a setup has the flat layout only.
pub fn front_table(pair: Pair, main_len: Sectors, unit: Sectors, unsettled: &[Range]) -> Option<Vec<Target>> {
    let whole = Range::new(Sectors::ZERO, main_len).filter(|whole| whole.len() > unit)?;
    let unsettled = coalesce(unsettled.iter().filter_map(|range| range.intersect(whole)).collect());
    let settled = whole.without(&unsettled);
    let anchored = settled.iter().find_map(|range| {
        let start = range.start().align_up(unit)?;
        Range::new(start, unit).filter(|one| range.encloses(*one))
    });
    let mut pieces: Vec<(Range, TargetKind)> = unsettled.iter().map(|range| (*range, TargetKind::Error)).collect();
    let switch = |range: Range| (range, TargetKind::Switch { device: pair.overlay, offset: range.start() });
    let anchored: Vec<Range> = anchored.into_iter().collect();
    pieces.extend(settled.iter().flat_map(|range| range.without(&anchored)).map(switch));
    let linear = |range: &Range| (*range, TargetKind::Linear { device: pair.anchor, offset: range.start() });
    pieces.extend(anchored.iter().map(linear));
    pieces.sort_by_key(|(range, _)| range.start());
    let mut table = TableBuilder::default();
    pieces.into_iter().for_each(|(range, kind)| table.push(range, kind));
    Some(table.into_targets())
}

/// What a front over `pair` does, in terms of the overlay's table: that table, with EIO where the front answers EIO.
///
/// # Errors
/// [`SegmentError::NotOurs`] when the front is none of ours, [`SegmentError::NotContiguous`] when a table has a hole.
pub fn flattened(front: &[Target], pair: Pair, overlay_table: Vec<Target>) -> Result<Vec<Target>, SegmentError> {
    let passing: Vec<(Range, bool)> = front.iter().map(|target| passes(target, pair)).collect::<Result<_, _>>()?;
    if passing.iter().all(|(_, passes)| *passes) && same_end(&passing, &overlay_table) {
        return Ok(overlay_table);
    }
    let mut table = TableBuilder::default();
    let mut rest = overlay_table.iter().peekable();
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

/// The piece of a front that a line is, and whether it passes I/O on to the pair.
fn passes(target: &Target, pair: Pair) -> Result<(Range, bool), SegmentError> {
    let range = Range::new(target.start, target.len).ok_or(SegmentError::NotContiguous(target.start))?;
    match target.kind {
        TargetKind::Error => Ok((range, false)),
        TargetKind::Linear { device, offset } if device == pair.anchor && offset == target.start => Ok((range, true)),
        TargetKind::Switch { device, offset } if device == pair.overlay && offset == target.start => Ok((range, true)),
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
