//! dm-stats of one device: regions, their areas, and the `@stats_…` messages.
//!
//! Source of the forms: Documentation/admin-guide/device-mapper/statistics.rst.

use crate::units::Range;
use nix::errno::Errno;
use std::collections::BTreeMap;

/// Counters of one area that the fake keeps; the others are zero.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    reads: u64,
    sectors_read: u64,
    writes: u64,
    sectors_written: u64,
}

/// One region that `@stats_create` made.
#[derive(Clone, Debug)]
struct Region {
    start: u64,
    len: u64,
    step: u64,
    program: String,
    aux: String,
    precise: bool,
    /// Bounds of the histogram; a request takes no time here, so all fall into the first bin.
    histogram: Vec<u64>,
    areas: Vec<Counters>,
}

/// All regions of a device, by number.
#[derive(Clone, Debug, Default)]
pub(super) struct Stats {
    regions: BTreeMap<u64, Region>,
}

/// Most areas in a region, so that a mistake in a test does not eat the memory.
const MAX_AREAS: u64 = 1 << 24;

impl Stats {
    /// Counts a request that has ended, in every area that it touches.
    pub(super) fn count(&mut self, range: Range, write: bool) {
        let (first, end) = (range.start().0, range.end().0);
        for region in self.regions.values_mut() {
            let mut start = region.start;
            let limit = region.start.saturating_add(region.len);
            for area in &mut region.areas {
                let stop = start.saturating_add(region.step).min(limit);
                let touched = end.min(stop).saturating_sub(first.max(start));
                if touched > 0 && write {
                    area.writes += 1;
                    area.sectors_written += touched;
                } else if touched > 0 {
                    area.reads += 1;
                    area.sectors_read += touched;
                }
                start = stop;
            }
        }
    }

    /// Answers a message; `size` is the device's in sectors.
    pub(super) fn message(&mut self, words: &[&str], size: u64) -> Result<Option<String>, Errno> {
        let (verb, rest) = words.split_first().ok_or(Errno::EINVAL)?;
        match (verb.to_ascii_lowercase().as_str(), rest) {
            ("@stats_create", [place, step, names @ ..]) => self.create(place, step, names, size).map(Some),
            ("@stats_list", []) => Ok(Some(self.list(None))),
            ("@stats_list", [program]) => Ok(Some(self.list(Some(program)))),
            ("@stats_print", [id]) => Ok(Some(self.region(id)?.print(0, usize::MAX))),
            ("@stats_print", [id, first, count]) => {
                let (first, count) = (number(first)?, number(count)?);
                Ok(Some(self.region(id)?.print(first, count)))
            }
            ("@stats_clear", [id]) => {
                self.region(id)?.areas.fill(Counters::default());
                Ok(None)
            }
            ("@stats_delete", [id]) => {
                let id: u64 = number(id)?;
                self.regions.remove(&id).map(|_| None).ok_or(Errno::ENOENT)
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn region(&mut self, id: &str) -> Result<&mut Region, Errno> {
        let id: u64 = number(id)?;
        self.regions.get_mut(&id).ok_or(Errno::ENOENT)
    }

    fn create(&mut self, place: &str, step: &str, names: &[&str], size: u64) -> Result<String, Errno> {
        let (start, len) = match place.split_once('+') {
            Some((start, len)) => (number(start)?, number(len)?),
            None if place == "-" => (0, size),
            None => return Err(Errno::EINVAL),
        };
        let step = match step.strip_prefix('/') {
            Some(areas) => {
                let areas: u64 = number(areas)?;
                if areas == 0 { 0 } else { len.div_ceil(areas).max(1) }
            }
            None => number(step)?,
        };
        let count = if step == 0 { 0 } else { len.div_ceil(step) };
        let (precise, histogram, names) = options(names)?;
        if len == 0 || count == 0 || count > MAX_AREAS || names.len() > 2 {
            return Err(Errno::EINVAL);
        }
        let id = (0..).find(|id| !self.regions.contains_key(id)).ok_or(Errno::ENOSPC)?;
        let mut names = names.iter().map(|name| (*name).to_string());
        let region = Region {
            start,
            len,
            step,
            program: names.next().unwrap_or_else(|| "-".into()),
            aux: names.next().unwrap_or_else(|| "-".into()),
            precise,
            histogram,
            areas: vec![Counters::default(); usize::try_from(count).unwrap_or(0)],
        };
        self.regions.insert(id, region);
        Ok(id.to_string())
    }

    fn list(&self, program: Option<&str>) -> String {
        let wanted = |region: &Region| program.is_none_or(|p| p == region.program);
        let line = |(id, r): (&u64, &Region)| {
            let precise = if r.precise { " precise_timestamps" } else { "" };
            let bounds: Vec<String> = r.histogram.iter().map(u64::to_string).collect();
            let histogram = if bounds.is_empty() { String::new() } else { format!(" histogram:{}", bounds.join(",")) };
            format!("{id}: {}+{} {} {} {}{precise}{histogram}\n", r.start, r.len, r.step, r.program, r.aux)
        };
        self.regions.iter().filter(|(_, region)| wanted(region)).map(line).collect()
    }
}

impl Region {
    fn print(&self, first: usize, count: usize) -> String {
        let starts = (0u64..).map(|n| self.start.saturating_add(n.saturating_mul(self.step)));
        let line = |(start, c): (u64, &Counters)| {
            // The kernel prints the whole step for the last area too, though it counts to the region's end only.
            let len = self.step;
            let mut bins = String::new();
            if !self.histogram.is_empty() {
                bins = format!(" {}{}", c.reads.saturating_add(c.writes), ":0".repeat(self.histogram.len()));
            }
            format!(
                "{start}+{len} {} 0 {} 0 {} 0 {} 0 0 0 0 0 0{bins}\n",
                c.reads, c.sectors_read, c.writes, c.sectors_written
            )
        };
        starts.zip(&self.areas).skip(first).take(count).map(line).collect()
    }
}

/// Takes the number of options and the options off the front of the words, as the kernel does: when the first is a number.
fn options<'a>(words: &'a [&'a str]) -> Result<(bool, Vec<u64>, &'a [&'a str]), Errno> {
    let (mut precise, mut histogram) = (false, Vec::new());
    let Some((count, rest)) = words.split_first().and_then(|(n, rest)| Some((n.parse::<usize>().ok()?, rest))) else {
        return Ok((precise, histogram, words));
    };
    let (options, names) = rest.split_at_checked(count).ok_or(Errno::EINVAL)?;
    for option in options {
        if option.eq_ignore_ascii_case("precise_timestamps") {
            precise = true;
        } else if let Some(bounds) = option.strip_prefix("histogram:") {
            histogram = bounds.split(',').map(number).collect::<Result<_, _>>()?;
            if histogram.iter().zip(histogram.iter().skip(1)).any(|(a, b): (&u64, &u64)| a >= b) {
                return Err(Errno::EINVAL);
            }
        } else {
            return Err(Errno::EINVAL);
        }
    }
    Ok((precise, histogram, names))
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, Errno> {
    text.parse().map_err(|_| Errno::EINVAL)
}
