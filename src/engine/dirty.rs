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

/// The most areas in a region: each costs the kernel some hundred bytes for every processor.
const MAX_AREAS: u64 = 4096;

/// The most bytes of reply for one area: a range and 13 counters of up to 20 digits would be 320; seen are 60.
const REPLY_PER_AREA: usize = 320;

/// Counts the writes to a range of a live device, area by area.
#[derive(Debug)]
pub struct DirtyWatch<'a> {
    dm: &'a dyn DeviceMapper,
    name: String,
    region: u64,
    start: Sectors,
    step: Sectors,
    writes: Vec<u64>,
    query: Box<dyn PreparedMessage + 'a>,
}

impl<'a> DirtyWatch<'a> {
    /// Starts counting over `span` of the device, in areas of whole `unit`s.
    ///
    /// # Errors
    /// [`DmError`] when the kernel cannot; the caller then takes everything for written.
    pub fn start(dm: &'a dyn DeviceMapper, name: &str, span: Range, unit: Sectors) -> Result<Self, DmError> {
        let bad = |detail: String| DmError::BadReply { operation: "message", device: name.into(), detail };
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
        let share = u64::try_from(processors).unwrap_or(1).max(1);
        let areas = (65_536 / share).clamp(256, MAX_AREAS);
        let least = Sectors(span.len().0.div_ceil(areas));
        let step = least.align_up(unit).filter(|s| s.0 > 0).ok_or_else(|| bad("range".into()))?;
        let count = usize::try_from(span.len().0.div_ceil(step.0)).map_err(|_| bad("too many areas".into()))?;
        let create = format!("@stats_create {}+{} {} {PROGRAM}", span.start(), span.len(), step);
        let reply = dm.message(name, Sectors::ZERO, &create)?.unwrap_or_default();
        let region = reply.trim().parse().map_err(|_| bad(format!("region id '{reply}'")))?;
        let query = dm.prepare_message(
            name,
            &format!("@stats_print {region}"),
            count.saturating_mul(REPLY_PER_AREA).saturating_add(4096),
        );
        let query = query.inspect_err(|_| delete(dm, name, region))?;
        let name = name.into();
        Ok(DirtyWatch { dm, name, region, start: span.start(), step, writes: vec![0; count], query })
    }

    /// Number of areas.
    pub fn areas(&self) -> usize {
        self.writes.len()
    }

    /// The areas that `range` touches.
    pub fn areas_of(&self, range: Range) -> std::ops::Range<usize> {
        let index = |sector: Sectors| {
            let offset = sector.saturating_sub(self.start).0.checked_div(self.step.0);
            usize::try_from(offset.unwrap_or(0)).unwrap_or(usize::MAX).min(self.writes.len())
        };
        let last = Sectors(range.end().0.saturating_sub(1));
        index(range.start())..index(last).saturating_add(1).min(self.writes.len())
    }

    /// Marks in `changed` (one flag for each area) what was written since the last call. Allocates nothing.
    ///
    /// # Errors
    /// What the kernel said; `EPROTO` when the reply does not cover every area.
    pub fn refresh(&mut self, changed: &mut [bool]) -> Result<(), Errno> {
        let (start, step, writes) = (self.start.0, self.step.0, &mut self.writes);
        let mut lines = 0usize;
        self.query.send(&mut |reply| {
            for line in reply.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
                let Some((index, count)) = parse_line(line, start, step) else { continue };
                let area = writes.get_mut(index).zip(changed.get_mut(index));
                let Some((known, changed)) = area else { continue };
                lines = lines.saturating_add(1);
                *changed |= *known != count;
                *known = count;
            }
        })?;
        if lines == self.writes.len() { Ok(()) } else { Err(Errno::EPROTO) }
    }
}

impl Drop for DirtyWatch<'_> {
    fn drop(&mut self) {
        delete(self.dm, &self.name, self.region);
    }
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
