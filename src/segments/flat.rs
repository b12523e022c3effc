//! The flat layout: one table of linear pieces.

use super::{Devices, Piece, Place, SegmentError, Target, TargetKind, serving_device};
use crate::map::{Extent, Map, SpareIndex};
use crate::units::{DevNo, Range, Sectors};

/// Builds a table piece by piece, merging pieces that continue each other.
#[derive(Default)]
pub(super) struct TableBuilder {
    targets: Vec<Target>,
}

impl TableBuilder {
    pub(super) fn push(&mut self, range: Range, kind: TargetKind) {
        let next = Target { start: range.start(), len: range.len(), kind };
        let next = unless_continued(self.targets.last_mut(), next);
        self.targets.extend(next);
    }

    pub(super) fn into_targets(self) -> Vec<Target> {
        self.targets
    }
}

/// Makes `next` a part of the line before it if it continues that one; else it comes back.
fn unless_continued(last: Option<&mut Target>, next: Target) -> Option<Target> {
    let Some(last) = last else { return Some(next) };
    let continues = match (&last.kind, &next.kind) {
        (TargetKind::Error, TargetKind::Error) => true,
        (TargetKind::Linear { device, offset }, TargetKind::Linear { device: next_device, offset: next_offset }) => {
            device == next_device && offset.checked_add(last.len) == Some(*next_offset)
        }
        _ => false,
    };
    if !continues {
        return Some(next);
    }
    last.len = Sectors(last.len.0.saturating_add(next.len.0));
    None
}

/// What stands at a range of a table, or why none can be made.
type Placed = Result<(Range, TargetKind), SegmentError>;

/// The table that answers EIO for the `unsettled` ranges.
pub(super) fn unsettled_table(map: &Map, devices: &Devices, unsettled: &[Range]) -> Result<Vec<Target>, SegmentError> {
    let whole = Range::new(Sectors::ZERO, map.main_len());
    let inside = |range: &Range| range.intersect(whole?);
    let unsettled = crate::units::coalesce(unsettled.iter().filter_map(inside).collect());
    let block = devices.logical_block;
    let aligned = |r: &&Range| r.start().is_multiple_of(block) && r.len().is_multiple_of(block);
    if let Some(odd) = unsettled.iter().find(|range| !aligned(range)) {
        return Err(SegmentError::Unaligned(*odd));
    }
    // Each extent has a line, and what lies before it.
    let most = map.len().saturating_add(unsettled.len()).saturating_mul(2).saturating_add(1);
    let mut table = Vec::with_capacity(most);
    for line in lines(map, devices, unsettled) {
        table.push(line?);
    }
    Ok(table)
}

/// The lines of the table, made one after another. The `unsettled` ranges are sorted, disjoint and inside main.
pub(super) fn lines<'a>(
    map: &'a Map,
    devices: &'a Devices,
    unsettled: Vec<Range>,
) -> impl Iterator<Item = Result<Target, SegmentError>> + 'a {
    let errors: Vec<Placed> = unsettled.iter().map(|range| Ok((*range, TargetKind::Error))).collect();
    let extents = map.extents().flat_map(move |extent| parts_of(extent, map, devices, &unsettled));
    coalesced(with_main(merged(extents, errors), devices.main, map.main_len()))
}

/// What an extent leaves in the table beside the unsettled ranges.
fn parts_of(extent: Extent, map: &Map, devices: &Devices, unsettled: &[Range]) -> Vec<Placed> {
    let device = match serving_device(extent, map.has_held(extent.range), devices) {
        Ok(device) => device,
        Err(error) => return vec![Err(error)],
    };
    let placed = |part: Range| {
        let kind = match (device, extent.clip(part)) {
            (Some(device), Some(part)) => TargetKind::Linear { device, offset: part.slot.start },
            _ => TargetKind::Error,
        };
        Ok((part, kind))
    };
    extent.range.without(unsettled).into_iter().map(placed).collect()
}

/// Two sequences in the order of their ranges, as one. Errors come first.
fn merged(first: impl Iterator<Item = Placed>, second: Vec<Placed>) -> impl Iterator<Item = Placed> {
    let (mut first, mut second) = (first.peekable(), second.into_iter().peekable());
    std::iter::from_fn(move || {
        let start =
            |next: Option<&Placed>| next.map(|next| next.as_ref().map_or(Sectors::ZERO, |(range, _)| range.start()));
        match (start(first.peek()), start(second.peek())) {
            (Some(one), Some(other)) if other < one => second.next(),
            (None, _) => second.next(),
            _ => first.next(),
        }
    })
}

/// The same, and main in all gaps up to its end.
fn with_main(pieces: impl Iterator<Item = Placed>, main: DevNo, main_len: Sectors) -> impl Iterator<Item = Placed> {
    let mut end = Sectors::ZERO;
    // After the last one is a gap, perhaps, before nothing.
    let pieces = pieces.map(Some).chain(std::iter::once(None));
    let with_gap = pieces.flat_map(move |next| {
        let (until, after) = match &next {
            Some(Ok((range, _))) => (range.start(), range.end()),
            Some(Err(_)) => (end, end),
            None => (main_len, main_len),
        };
        let gap = Range::between(std::mem::replace(&mut end, after), until);
        [gap.map(|range| Ok((range, TargetKind::Linear { device: main, offset: range.start() }))), next]
    });
    with_gap.flatten()
}

/// The lines of these pieces: those that continue each other are one.
fn coalesced(mut pieces: impl Iterator<Item = Placed>) -> impl Iterator<Item = Result<Target, SegmentError>> {
    let mut last: Option<Target> = None;
    std::iter::from_fn(move || {
        for next in pieces.by_ref() {
            let (range, kind) = match next {
                Ok(piece) => piece,
                Err(error) => return Some(Err(error)),
            };
            let next = Target { start: range.start(), len: range.len(), kind };
            if let Some(next) = unless_continued(last.as_mut(), next)
                && let Some(done) = last.replace(next)
            {
                return Some(Ok(done));
            }
        }
        last.take().map(Ok)
    })
}

pub(super) fn pieces<'a>(
    table: &'a [Target],
    devices: &'a Devices,
    start: Sectors,
) -> impl Iterator<Item = Result<Piece, SegmentError>> + 'a {
    let mut end = start;
    table.iter().map(move |target| {
        let range = Range::new(target.start, target.len)
            .filter(|range| range.start() == end)
            .ok_or(SegmentError::NotContiguous(end))?;
        end = range.end();
        let not_ours = || SegmentError::NotOurs { range, line: target.to_string() };
        let place = match &target.kind {
            TargetKind::Error => Place::Nowhere,
            TargetKind::Linear { device, offset } => place_of(*device, *offset, range, devices).ok_or_else(not_ours)?,
            _ => return Err(not_ours()),
        };
        Ok(Piece { range, place })
    })
}

fn place_of(device: DevNo, start: Sectors, range: Range, devices: &Devices) -> Option<Place> {
    if device == devices.main {
        return (start == range.start()).then_some(Place::Main);
    }
    let mut spares = (0u8..).map(SpareIndex).zip(&devices.spares);
    spares.find_map(|(spare, known)| {
        if known.device == Some(device) {
            Some(Place::Spare { spare, start, through_held: false })
        } else if known.held == Some(device) {
            Some(Place::Spare { spare, start, through_held: true })
        } else {
            None
        }
    })
}
