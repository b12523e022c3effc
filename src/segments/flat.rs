//! The flat layout: one table of linear pieces.

use super::{Devices, Piece, Place, SegmentError, Target, TargetKind, serving_device};
use crate::map::{Map, SpareIndex};
use crate::units::{DevNo, Range, Sectors};

/// Builds a table piece by piece, merging pieces that continue each other.
#[derive(Default)]
pub(super) struct TableBuilder {
    targets: Vec<Target>,
    end: Sectors,
}

impl TableBuilder {
    pub(super) fn push(&mut self, range: Range, kind: TargetKind) {
        self.end = range.end();
        if let Some(last) = self.targets.last_mut()
            && continues(last, &kind)
        {
            last.len = Sectors(last.len.0.saturating_add(range.len().0));
            return;
        }
        self.targets.push(Target { start: range.start(), len: range.len(), kind });
    }

    pub(super) fn into_targets(self) -> Vec<Target> {
        self.targets
    }

    fn push_main(&mut self, until: Sectors, main: DevNo) {
        if let Some(range) = Range::between(self.end, until) {
            self.push(range, TargetKind::Linear { device: main, offset: range.start() });
        }
    }
}

fn continues(last: &Target, next: &TargetKind) -> bool {
    match (&last.kind, next) {
        (TargetKind::Error, TargetKind::Error) => true,
        (TargetKind::Linear { device, offset }, TargetKind::Linear { device: next_device, offset: next_offset }) => {
            device == next_device && offset.checked_add(last.len) == Some(*next_offset)
        }
        _ => false,
    }
}

pub(super) fn unsettled_table(map: &Map, devices: &Devices, unsettled: &[Range]) -> Result<Vec<Target>, SegmentError> {
    let mut pieces: Vec<(Range, TargetKind)> = Vec::with_capacity(map.len() + unsettled.len());
    let whole = Range::new(Sectors::ZERO, map.main_len());
    let inside = |range: &Range| range.intersect(whole?);
    let unsettled = crate::units::coalesce(unsettled.iter().filter_map(inside).collect());
    let block = devices.logical_block;
    let aligned = |r: &&Range| r.start().is_multiple_of(block) && r.len().is_multiple_of(block);
    if let Some(odd) = unsettled.iter().find(|range| !aligned(range)) {
        return Err(SegmentError::Unaligned(*odd));
    }
    for extent in map.extents() {
        let through_held = map.has_held(extent.range);
        let device = serving_device(extent, through_held, devices)?;
        let kind = match device {
            Some(device) => TargetKind::Linear { device, offset: extent.slot.start },
            None => TargetKind::Error,
        };
        for part in extent.range.without(&unsettled) {
            let clipped = extent.clip(part).map(|e| e.slot.start);
            let kind = match (&kind, clipped) {
                (TargetKind::Linear { device, .. }, Some(offset)) => TargetKind::Linear { device: *device, offset },
                _ => kind.clone(),
            };
            pieces.push((part, kind));
        }
    }
    pieces.extend(unsettled.iter().map(|range| (*range, TargetKind::Error)));
    pieces.sort_by_key(|(range, _)| range.start());
    let mut table = TableBuilder::default();
    for (range, kind) in pieces {
        table.push_main(range.start(), devices.main);
        table.push(range, kind);
    }
    table.push_main(map.main_len(), devices.main);
    Ok(table.into_targets())
}

pub(super) fn pieces<'a>(
    table: &'a [Target],
    devices: &'a Devices,
) -> impl Iterator<Item = Result<Piece, SegmentError>> + 'a {
    let mut end = Sectors::ZERO;
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
