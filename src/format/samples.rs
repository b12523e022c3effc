//! What main held in a few places when its setup was last taken down, so that the next activation can tell whether
//! somebody wrote to main behind the setup's back.
//!
//! Invariants:
//! - a sample is the CRC-32 of one whole unit of main;
//! - while the setup is up, only samples of units that an extent serves are kept: nobody but somebody behind our back can
//!   write there. All others are of the moment of a clean deactivation;
//! - samples are a tripwire and no proof: that they agree does not say that nothing was written.

use crate::map::{Extent, Map};
use crate::units::{Range, Sectors};
use serde::{Deserialize, Serialize};

/// What main held when it was last looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MainSamples {
    /// When they were taken, seconds since 1970.
    pub taken: u64,
    /// The samples, in order of their place.
    pub units: Vec<Sample>,
    /// What the filesystem on main said of itself, where it says when it was mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<FilesystemMark>,
}

/// The checksum of one unit of main, written as `[sector, crc]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(Sectors, u32)", into = "(Sectors, u32)")]
pub struct Sample {
    /// First sector of the unit.
    pub at: Sectors,
    /// CRC-32 (ISO-HDLC) of its bytes.
    pub crc: u32,
}

impl From<(Sectors, u32)> for Sample {
    fn from((at, crc): (Sectors, u32)) -> Sample {
        Sample { at, crc }
    }
}

impl From<Sample> for (Sectors, u32) {
    fn from(sample: Sample) -> Self {
        (sample.at, sample.crc)
    }
}

/// When a filesystem was last mounted and written, by its own superblock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesystemMark {
    /// Last mount, seconds since 1970.
    pub mounted: u64,
    /// Last write of the superblock, seconds since 1970.
    pub written: u64,
}

impl FilesystemMark {
    /// Reads the mark of an ext2, ext3 or ext4 filesystem from the first bytes of a device (at least 2048). Other
    /// filesystems do not record their mounts. Layout: Documentation/filesystems/ext4/super.rst of Linux.
    pub fn of(head: &[u8]) -> Option<FilesystemMark> {
        let superblock = head.get(1024..2048)?;
        let field = |at: usize| -> Option<u32> {
            let bytes: [u8; 4] = superblock.get(at..at.checked_add(4)?)?.try_into().ok()?;
            Some(u32::from_le_bytes(bytes))
        };
        let high = |at: usize| superblock.get(at).map_or(0, |byte| u64::from(*byte) << 32);
        if superblock.get(0x38..0x3a)? != [0x53, 0xef] {
            return None;
        }
        let mounted = u64::from(field(0x2c)?) | high(0x275);
        let written = u64::from(field(0x30)?) | high(0x274);
        Some(FilesystemMark { mounted, written })
    }
}

/// How many samples are spread over main, and of how many extents the units under and around are sampled.
const SPREAD: u64 = 14;
const EXTENTS: usize = 12;

/// Where to take samples of main: units that are not served by an extent first (the places of superblocks, some that are
/// spread evenly, and the neighbours of some extents), then some that are. What is known to be unreadable is left out,
/// and so is a last part of a unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SamplePlaces {
    /// First sectors of units that main itself serves.
    pub open: Vec<Sectors>,
    /// First sectors of units under extents: they may be hard to read, they are there because something was wrong.
    pub covered: Vec<Sectors>,
}

/// Chooses the places.
pub fn sample_places(map: &Map) -> SamplePlaces {
    let unit = map.unit();
    let Some(last) = map.main_len().align_down(unit).checked_sub(unit) else { return SamplePlaces::default() };
    let units = last.0 / unit.0.max(1);
    // Superblocks: at the start of most filesystems, and at 64 KiB of btrfs.
    let mut open = vec![Sectors::ZERO, Sectors(128).align_down(unit)];
    open.extend((1..=SPREAD).map(|n| Sectors((units / (SPREAD + 1)).saturating_mul(n).saturating_mul(unit.0))));
    let chosen: Vec<Extent> = map.extents().step_by(map.len().div_ceil(EXTENTS).max(1)).collect();
    for extent in &chosen {
        open.extend(extent.range.start().checked_sub(unit));
        open.push(extent.range.end());
    }
    let whole = |at: &Sectors| *at <= last && at.is_multiple_of(unit);
    let is_open = |at: &Sectors| unit_at(*at, unit).is_some_and(|range| map.extents_in(range).next().is_none());
    open.retain(|at| whole(at) && is_open(at));
    open.sort_unstable();
    open.dedup();
    let readable = |at: &Sectors| unit_at(*at, unit).is_some_and(|range| map.losses().within(range).next().is_none());
    let covered = chosen.iter().map(|extent| extent.range.start()).filter(|at| whole(at) && readable(at)).collect();
    SamplePlaces { open, covered }
}

fn unit_at(at: Sectors, unit: Sectors) -> Option<Range> {
    Range::new(at, unit)
}

impl MainSamples {
    /// The samples that still hold while the setup is up: those under extents. `None` when there are none.
    pub fn under_extents(&self, map: &Map) -> Option<MainSamples> {
        let covered = |sample: &&Sample| unit_at(sample.at, map.unit()).is_some_and(|range| map.serves(range));
        let units: Vec<Sample> = self.units.iter().filter(covered).copied().collect();
        (!units.is_empty()).then_some(MainSamples { taken: self.taken, units, filesystem: None })
    }
}

/// How main compares with its samples.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// Samples that agree.
    pub equal: usize,
    /// First sectors of the units that differ.
    pub differing: Vec<Sectors>,
    /// How many could not be compared.
    #[serde(default)]
    pub unread: usize,
    /// When the filesystem was mounted, where that was after the samples had been taken.
    pub mounted_since: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::{Fate, Slot, SpareIndex};

    fn map(extents: &[(u64, u64)]) -> Map {
        let mut map = Map::new(Sectors(100_003), Sectors(8)).unwrap();
        let mut slot = 10_240;
        for (start, len) in extents {
            let range = Range::new(Sectors(*start), Sectors(*len)).unwrap();
            map.insert(range, Slot { spare: SpareIndex(0), start: Sectors(slot) }).unwrap();
            slot += len;
        }
        map
    }

    #[test]
    fn places_are_whole_units_and_told_apart() {
        let mut map = map(&[(0, 8), (800, 16), (816 + 8, 8), (100_000, 3)]);
        map.record_loss(Range::new(Sectors(801), Sectors(1)).unwrap(), Fate::Held).unwrap();
        let places = sample_places(&map);
        assert!(places.open.contains(&Sectors(128)) && places.open.contains(&Sectors(8)));
        assert!(places.open.contains(&Sectors(792)) && places.open.contains(&Sectors(816)));
        assert!(places.open.contains(&Sectors(99_992)), "before the last, which is part of a unit");
        assert_eq!(places.covered, [Sectors(0), Sectors(824)], "not the lost one, and not part of a unit");
        for at in &places.open {
            assert!(at.is_multiple_of(Sectors(8)) && map.extent_at(*at).is_none() && at.0 + 8 <= 100_003);
        }
        assert!(places.open.len() < 64);
    }

    #[test]
    fn tiny_mains_have_few_places() {
        for len in [1, 7, 8, 9, 16, 130] {
            let places = sample_places(&Map::new(Sectors(len), Sectors(8)).unwrap());
            assert!(places.open.iter().all(|at| at.0 + 8 <= len), "{len}: {places:?}");
        }
    }

    #[test]
    fn while_up_only_what_is_covered_counts() {
        let samples = MainSamples {
            taken: 5,
            units: vec![Sample { at: Sectors(0), crc: 1 }, Sample { at: Sectors(800), crc: 2 }],
            filesystem: Some(FilesystemMark { mounted: 1, written: 2 }),
        };
        let kept = samples.under_extents(&map(&[(800, 16)])).unwrap();
        assert_eq!(kept.units, [Sample { at: Sectors(800), crc: 2 }]);
        assert_eq!(samples.under_extents(&map(&[(808, 16)])), None);
        let text = serde_json::to_string(&kept).unwrap();
        assert_eq!(text, r#"{"taken":5,"units":[[800,2]]}"#);
        assert_eq!(serde_json::from_str::<MainSamples>(&text).unwrap(), kept);
    }

    #[test]
    fn ext_superblocks_tell_when_they_were_mounted() {
        let mut head = vec![0; 4096];
        assert_eq!(FilesystemMark::of(&head), None);
        head[1024 + 0x38..1024 + 0x3a].copy_from_slice(&0xef53_u16.to_le_bytes());
        head[1024 + 0x2c..1024 + 0x30].copy_from_slice(&1_700_000_000_u32.to_le_bytes());
        head[1024 + 0x30..1024 + 0x34].copy_from_slice(&7_u32.to_le_bytes());
        head[1024 + 0x274] = 1;
        let mark = FilesystemMark::of(&head).unwrap();
        assert_eq!(mark, FilesystemMark { mounted: 1_700_000_000, written: (1 << 32) + 7 });
        assert_eq!(FilesystemMark::of(&head[..2000]), None);
    }
}
