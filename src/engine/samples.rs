//! Taking samples of main, and comparing main with them: see [`crate::format::samples`].
//!
//! Invariants:
//! - only reads, and few of them: it stops when they have taken long together, because the disk may be dying and somebody
//!   waits;
//! - what could not be read says nothing, and is counted.

use crate::block::Disk;
use crate::block::buffer::AlignedBuffer;
use crate::format::samples::{Comparison, FilesystemMark, MainSamples, Sample, sample_places};
use crate::map::Map;
use crate::units::{Bytes, Sectors};
use std::time::{Duration, Instant};

/// When the reads have taken longer together, it ends.
const BUDGET: Duration = Duration::from_secs(2);

/// Takes samples of main, where `map` says that it is worth it; `None` when nothing can be read.
pub fn take(main: &dyn Disk, map: &Map, now: u64) -> Option<MainSamples> {
    let places = sample_places(map);
    let mut reader = Reader::new(main, map.unit())?;
    let mut units = Vec::new();
    for at in places.open.into_iter().chain(places.covered) {
        if reader.is_late() {
            break;
        }
        units.extend(reader.crc(at).map(|crc| Sample { at, crc }));
    }
    units.sort_unstable_by_key(|sample| sample.at);
    let filesystem = if reader.is_late() { None } else { read_filesystem(main) };
    (!units.is_empty()).then_some(MainSamples { taken: now, units, filesystem })
}

/// Compares main with the samples of it.
pub fn compare(main: &dyn Disk, samples: &MainSamples, unit: Sectors) -> Comparison {
    let mut out = Comparison::default();
    let Some(mut reader) = Reader::new(main, unit) else { return out };
    for sample in &samples.units {
        let crc = if reader.is_late() { None } else { reader.crc(sample.at) };
        match crc {
            Some(crc) if crc == sample.crc => out.equal += 1,
            Some(_) => out.differing.push(sample.at),
            None => out.unread += 1,
        }
    }
    if !reader.is_late()
        && let (Some(then), Some(now)) = (&samples.filesystem, read_filesystem(main))
    {
        out.mounted_since = (now.mounted != then.mounted).then_some(now.mounted);
    }
    out
}

fn read_filesystem(main: &dyn Disk) -> Option<FilesystemMark> {
    let len = Bytes(4096).to_sectors_down().max(main.logical_block());
    if main.size() < len {
        return None;
    }
    let mut head = AlignedBuffer::new(len.to_usize_bytes()?);
    main.read(Sectors::ZERO, &mut head).ok()?;
    FilesystemMark::of(&head)
}

struct Reader<'a> {
    main: &'a dyn Disk,
    buffer: AlignedBuffer,
    begun: Instant,
}

impl<'a> Reader<'a> {
    fn new(main: &'a dyn Disk, unit: Sectors) -> Option<Reader<'a>> {
        let buffer = AlignedBuffer::new(unit.to_usize_bytes().filter(|bytes| *bytes > 0)?);
        Some(Reader { main, buffer, begun: Instant::now() })
    }

    fn is_late(&self) -> bool {
        self.begun.elapsed() > BUDGET
    }

    fn crc(&mut self, at: Sectors) -> Option<u32> {
        self.main.read(at, &mut self.buffer).ok()?;
        Some(crc32fast::hash(&self.buffer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::ram::{Bad, RamDisk};
    use crate::map::{Slot, SpareIndex};
    use crate::units::Range;

    fn setup() -> (RamDisk, Map) {
        let main = RamDisk::new("main", Sectors(8192));
        let mut map = Map::new(Sectors(8192), Sectors(8)).unwrap();
        map.insert(
            Range::new(Sectors(800), Sectors(8)).unwrap(),
            Slot { spare: SpareIndex(0), start: Sectors(10_240) },
        )
        .unwrap();
        (main, map)
    }

    fn write(main: &RamDisk, at: u64, byte: u8) {
        let mut data = AlignedBuffer::new(4096);
        data.fill(byte);
        main.write(Sectors(at), &data).unwrap();
    }

    #[test]
    fn what_was_written_at_a_sampled_place_is_seen() {
        let (main, map) = setup();
        let samples = take(&main, &map, 7).unwrap();
        assert_eq!(samples.taken, 7);
        let same = compare(&main, &samples, map.unit());
        assert_eq!((same.equal, same.differing.len()), (samples.units.len(), 0));
        for at in [0, 128, 792, 800, 808] {
            assert!(samples.units.iter().any(|s| s.at == Sectors(at)), "{at}: {samples:?}");
            write(&main, at, 0x5a);
            assert_eq!(compare(&main, &samples, map.unit()).differing, [Sectors(at)]);
            write(&main, at, 0);
        }
    }

    #[test]
    fn what_cannot_be_read_says_nothing() {
        let (main, map) = setup();
        let samples = take(&main, &map, 7).unwrap();
        main.set_bad(Range::new(Sectors(0), Sectors(8192)).unwrap(), Bad::Reads(nix::errno::Errno::ENODATA));
        assert_eq!(take(&main, &map, 7), None);
        let none = Comparison { unread: samples.units.len(), ..Comparison::default() };
        assert_eq!(compare(&main, &samples, map.unit()), none);
    }

    #[test]
    fn one_place_that_cannot_be_read_hides_no_other() {
        let (main, map) = setup();
        let samples = take(&main, &map, 7).unwrap();
        main.set_bad(Range::new(Sectors(0), Sectors(1)).unwrap(), Bad::Reads(nix::errno::Errno::EIO));
        write(&main, 808, 0x5a);
        let compared = compare(&main, &samples, map.unit());
        assert_eq!((compared.unread, compared.differing), (1, vec![Sectors(808)]));
    }
}
