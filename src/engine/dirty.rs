//! Which sectors of a live setup were written since we looked, by the kernel's own dm-stats counters.
//!
//! Source: Documentation/admin-guide/device-mapper/statistics.rst. The kernel waits for I/O in flight when a region is
//! made, and counts a write when it ends, so a write is counted at the latest when the device is suspended.
//!
//! Invariant: an area that was written is always reported; one that was not may be, if it shares an area with one.

use crate::dm::{DeviceMapper, DmError, PreparedMessage};
use crate::units::{Range, Sectors};
use nix::errno::Errno;

/// Our mark on regions, so that those of a killed process can be found.
const PROGRAM: &str = "dm-remap";

/// The most regions: each makes every request to the device a little slower, and each is asked for by itself.
const MAX_REGIONS: usize = 2048;

/// The most areas in all: each costs the kernel some hundred bytes for every processor.
const MAX_AREAS: u64 = 16_384;

/// The most bytes of reply for one area: a range and 13 counters of up to 20 digits would be 320; seen are 60.
const REPLY_PER_AREA: usize = 320;

/// Counts the writes to some ranges of a live device, area by area. An area is one unit, unless there are very many.
#[derive(Debug)]
pub struct DirtyWatch<'a> {
    dm: &'a dyn DeviceMapper,
    name: String,
    /// In order of the device.
    regions: Vec<Region<'a>>,
    /// Completed writes of each area, over all regions.
    writes: Vec<u64>,
    /// For the message of one region at a time.
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Region<'a> {
    id: u64,
    range: Range,
    step: Sectors,
    /// Index of its first area.
    first: usize,
    areas: usize,
    query: Box<dyn PreparedMessage + 'a>,
}

impl<'a> DirtyWatch<'a> {
    /// Starts counting over `ranges` of the device.
    ///
    /// # Errors
    /// [`DmError`] when the kernel cannot; the caller then takes everything for written.
    pub fn start(dm: &'a dyn DeviceMapper, name: &str, ranges: Vec<Range>, unit: Sectors) -> Result<Self, DmError> {
        let clusters = cluster(ranges, MAX_REGIONS);
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
        let share = u64::try_from(processors).unwrap_or(1).max(1);
        let areas = (131_072 / share).clamp(1024, MAX_AREAS);
        let each = (areas / u64::try_from(clusters.len()).unwrap_or(1).max(1)).max(1);
        let mut watch =
            DirtyWatch { dm, name: name.into(), regions: Vec::new(), writes: Vec::new(), buffer: Vec::new() };
        for range in clusters {
            watch.add(range, unit, each)?;
        }
        let room = watch.regions.iter().map(|region| region.query.room()).max();
        watch.buffer = vec![0; room.unwrap_or(0)];
        Ok(watch)
    }

    fn add(&mut self, range: Range, unit: Sectors, areas: u64) -> Result<(), DmError> {
        let bad = |detail: String| DmError::BadReply { operation: "message", device: self.name.clone(), detail };
        let least = Sectors(range.len().0.div_ceil(areas));
        let step = least.align_up(unit).filter(|s| s.0 > 0).ok_or_else(|| bad("range".into()))?;
        let areas = usize::try_from(range.len().0.div_ceil(step.0)).map_err(|_| bad("too many areas".into()))?;
        let create = format!("@stats_create {}+{} {step} {PROGRAM}", range.start(), range.len());
        let reply = self.dm.message(&self.name, Sectors::ZERO, &create)?.unwrap_or_default();
        let id = reply.trim().parse().map_err(|_| bad(format!("region id '{reply}'")))?;
        let room = areas.saturating_mul(REPLY_PER_AREA).saturating_add(512);
        let query = self.dm.prepare_message(&self.name, &format!("@stats_print {id}"), room);
        let query = query.inspect_err(|_| delete(self.dm, &self.name, id))?;
        let first = self.writes.len();
        self.writes.resize(first.saturating_add(areas), 0);
        self.regions.push(Region { id, range, step, first, areas, query });
        Ok(())
    }

    /// Number of areas.
    pub fn areas(&self) -> usize {
        self.writes.len()
    }

    /// The areas that `range` touches; it must lie inside one of the ranges that are watched.
    pub fn areas_of(&self, range: Range) -> std::ops::Range<usize> {
        let after = self.regions.partition_point(|r| r.range.start() <= range.start());
        let Some(region) = after.checked_sub(1).and_then(|i| self.regions.get(i)) else { return 0..0 };
        let index = |sector: Sectors| {
            let offset = sector.saturating_sub(region.range.start()).0.checked_div(region.step.0);
            usize::try_from(offset.unwrap_or(0)).unwrap_or(usize::MAX).min(region.areas)
        };
        let last = Sectors(range.end().0.saturating_sub(1));
        let end = index(last).saturating_add(1).min(region.areas);
        region.first.saturating_add(index(range.start()))..region.first.saturating_add(end)
    }

    /// The sectors of an area. Allocates nothing.
    pub fn area_range(&self, area: usize) -> Option<Range> {
        let after = self.regions.partition_point(|r| r.first <= area);
        let region = self.regions.get(after.checked_sub(1)?)?;
        let number = u64::try_from(area.checked_sub(region.first)?).ok()?;
        let start = region.range.start().checked_add(region.step.checked_mul(number)?)?;
        Range::new(start, region.step)?.intersect(region.range)
    }

    /// Marks in `changed` (one flag for each area) what was written since the last call. Allocates nothing.
    ///
    /// # Errors
    /// What the kernel said; `EPROTO` when the replies do not cover every area.
    pub fn refresh(&mut self, changed: &mut [bool]) -> Result<(), Errno> {
        let mut lines = 0usize;
        for region in &self.regions {
            let (start, step, first) = (region.range.start().0, region.step.0, region.first);
            let writes = &mut self.writes;
            region.query.send(&mut self.buffer, &mut |reply| {
                for line in reply.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
                    let Some((index, count)) = parse_line(line, start, step) else { continue };
                    let index = index.saturating_add(first);
                    let area = writes.get_mut(index).zip(changed.get_mut(index));
                    let Some((known, changed)) = area else { continue };
                    lines = lines.saturating_add(1);
                    *changed |= *known != count;
                    *known = count;
                }
            })?;
        }
        if lines == self.writes.len() { Ok(()) } else { Err(Errno::EPROTO) }
    }
}

impl Drop for DirtyWatch<'_> {
    fn drop(&mut self) {
        for region in &self.regions {
            delete(self.dm, &self.name, region.id);
        }
    }
}

/// At most `most` ranges that cover all of `ranges`: those with the smallest gaps between them are joined.
fn cluster(ranges: Vec<Range>, most: usize) -> Vec<Range> {
    let ranges = crate::units::coalesce(ranges);
    let surplus = ranges.len().saturating_sub(most);
    let gap = |(a, b): (&Range, &Range)| b.start().saturating_sub(a.end());
    let mut gaps: Vec<Sectors> = ranges.iter().zip(ranges.iter().skip(1)).map(gap).collect();
    gaps.sort_unstable();
    let Some(widest) = surplus.checked_sub(1).and_then(|last| gaps.get(last)).copied() else { return ranges };
    let mut out: Vec<Range> = Vec::new();
    for range in ranges {
        match out.last_mut() {
            Some(last) if range.start().saturating_sub(last.end()) <= widest => {
                if let Some(joined) = Range::between(last.start(), range.end()) {
                    *last = joined;
                }
            }
            _ => out.push(range),
        }
    }
    out
}

/// The area and its completed writes, from `START+LEN reads merged sectors ms WRITES …`.
fn parse_line(line: &[u8], start: u64, step: u64) -> Option<(usize, u64)> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split(' ');
    let (at, _) = words.next()?.split_once('+')?;
    let offset = at.parse::<u64>().ok()?.checked_sub(start)?;
    let writes = words.nth(4)?.parse().ok()?;
    Some((usize::try_from(offset.checked_div(step)?).ok()?, writes))
}

fn delete(dm: &dyn DeviceMapper, name: &str, region: u64) {
    // A region that stays costs memory, nothing else; the next command removes it.
    let _ = dm.message(name, Sectors::ZERO, &format!("@stats_delete {region}"));
}

/// Removes regions that killed processes have left on the device. Never fails: they do no harm.
pub fn remove_leftovers(dm: &dyn DeviceMapper, name: &str) {
    let list = dm.message(name, Sectors::ZERO, &format!("@stats_list {PROGRAM}"));
    for line in list.ok().flatten().unwrap_or_default().lines() {
        if let Some(region) = line.split(':').next().and_then(|id| id.trim().parse().ok()) {
            delete(dm, name, region);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Disk;
    use crate::block::ram::RamDisk;
    use crate::dm::fake::FakeDm;
    use crate::segments::{Target, TargetKind};
    use crate::units::DevNo;
    use std::sync::Arc;

    fn range(start: u64, len: u64) -> Range {
        Range::new(Sectors(start), Sectors(len)).unwrap()
    }

    #[test]
    fn the_nearest_ranges_are_joined_first() {
        let ranges = vec![range(0, 8), range(1000, 8), range(1016, 8), range(5000, 8)];
        assert_eq!(cluster(ranges.clone(), 4), ranges);
        assert_eq!(cluster(ranges.clone(), 3), [range(0, 8), range(1000, 24), range(5000, 8)]);
        assert_eq!(cluster(ranges, 1), [range(0, 5008)]);
    }

    #[test]
    fn only_the_units_that_were_written_are_reported() {
        let dm = FakeDm::new();
        let device = DevNo { major: 8, minor: 0 };
        dm.register(device, Arc::new(RamDisk::new("main", Sectors(100_000))));
        dm.create("d", "u").unwrap();
        let kind = TargetKind::Linear { device, offset: Sectors::ZERO };
        dm.load("d", &[Target { start: Sectors::ZERO, len: Sectors(100_000), kind }], false).unwrap();
        dm.resume("d").unwrap();
        let ranges = vec![range(80, 16), range(90_000, 8)];
        let mut watch = DirtyWatch::start(&dm, "d", ranges, Sectors(8)).unwrap();
        assert_eq!(watch.areas(), 3);
        let mut changed = vec![false; 3];
        for (sector, expected) in [(79, [false; 3]), (88, [false, true, false]), (90_007, [false, false, true])] {
            dm.disk("d").write(Sectors(sector), &[1; 512]).unwrap();
            changed.fill(false);
            watch.refresh(&mut changed).unwrap();
            assert_eq!(changed, expected, "after a write to {sector}");
        }
        assert_eq!(watch.areas_of(range(80, 16)), 0..2);
        assert_eq!(watch.areas_of(range(90_003, 2)), 2..3);
        assert_eq!(watch.area_range(1), Some(range(88, 8)));
        assert_eq!(watch.area_range(2), Some(range(90_000, 8)));
        drop(watch);
        assert_eq!(dm.message("d", Sectors::ZERO, "@stats_list").unwrap().unwrap_or_default(), "");
    }
}
