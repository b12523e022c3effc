//! Tests of salvage: what is read how often, and what is said of it.

use super::*;
use crate::block::ram::{Bad, RamDisk};
use crate::engine::Silent;
use crate::format::tombstone;
use nix::errno::Errno;
use std::sync::Mutex;

/// Notes each read, and can make the first reads of a sector fail.
#[derive(Debug)]
struct Watched {
    disk: RamDisk,
    reads: Mutex<Vec<Range>>,
    /// Sector, and how many reads of it fail.
    shy: Mutex<Vec<(u64, u32)>>,
    /// The same for writes.
    shy_writes: Mutex<Vec<(u64, u32)>>,
    /// What they fail with.
    errno: Errno,
    /// Sector, and after how many reads of it all others fail.
    gone: Option<(u64, usize)>,
}

impl Watched {
    fn new(sectors: u64) -> Watched {
        let disk = RamDisk::new("main", Sectors(sectors));
        for sector in 0..sectors {
            disk.write(Sectors(sector), &[(sector % 251) as u8; 512]).unwrap();
        }
        Watched {
            disk,
            reads: Mutex::default(),
            shy: Mutex::default(),
            shy_writes: Mutex::default(),
            errno: Errno::ENODATA,
            gone: None,
        }
    }

    /// Requests that touched this sector.
    fn reads_of(&self, sector: u64) -> usize {
        self.reads.lock().unwrap().iter().filter(|r| r.contains(Sectors(sector))).count()
    }

    fn requests(&self) -> usize {
        self.reads.lock().unwrap().len()
    }

    fn is_shy(
        &self,
        shy: &Mutex<Vec<(u64, u32)>>,
        wanted: Range,
        operation: crate::block::Operation,
    ) -> Result<(), DiskError> {
        let mut shy = shy.lock().unwrap();
        let Some((_, left)) = shy.iter_mut().find(|(s, left)| *left > 0 && wanted.contains(Sectors(*s))) else {
            return Ok(());
        };
        *left -= 1;
        let (device, start, len, errno) = (self.name().clone(), wanted.start(), wanted.len(), self.errno);
        Err(DiskError { device, operation, start, len, errno })
    }
}

impl Disk for Watched {
    fn name(&self) -> &Arc<str> {
        self.disk.name()
    }
    fn size(&self) -> Sectors {
        self.disk.size()
    }
    fn logical_block(&self) -> Sectors {
        Sectors(1)
    }
    fn read(&self, start: Sectors, buf: &mut [u8]) -> Result<(), DiskError> {
        let wanted = range(start.0, (buf.len() / 512) as u64);
        self.reads.lock().unwrap().push(wanted);
        if let Some((sector, after)) = self.gone
            && wanted.contains(Sectors(sector))
            && self.reads_of(sector) > after
        {
            let (device, operation, errno) = (self.name().clone(), crate::block::Operation::Read, self.errno);
            return Err(DiskError { device, operation, start, len: wanted.len(), errno });
        }
        self.is_shy(&self.shy, wanted, crate::block::Operation::Read)?;
        self.disk.read(start, buf)
    }
    fn write(&self, start: Sectors, buf: &[u8]) -> Result<(), DiskError> {
        let wanted = range(start.0, (buf.len() / 512) as u64);
        self.is_shy(&self.shy_writes, wanted, crate::block::Operation::Write)?;
        self.disk.write(start, buf)
    }
    fn flush(&self) -> Result<(), DiskError> {
        self.disk.flush()
    }
}

fn range(start: u64, len: u64) -> Range {
    Range::new(Sectors(start), Sectors(len)).unwrap()
}

/// Copies all of main to a spare of the same size; the spare, and how it went.
fn copy_all(main: &Arc<Watched>, block: u64, suspects: &[Range]) -> (Arc<RamDisk>, Copied) {
    let spare = Arc::new(RamDisk::new("spare", main.size()));
    let filling = Filling::Tombstones(Uuid::nil());
    let (source, destination) = (main.clone(), spare.clone());
    let whole = range(0, main.size().0);
    let copy = Copy { range: whole, source, from: Sectors::ZERO, destination, to: Sectors::ZERO, filling };
    let mut salvager = Salvager::new(3, Sectors(block), suspects.to_vec());
    let copied = salvager.copy(&copy, &Silent, |_| {}).unwrap();
    (spare, copied)
}

fn assert_copied(spare: &RamDisk, lost: &[Range]) {
    for sector in 0..spare.size().0 {
        let mut data = [0; 512];
        spare.read(Sectors(sector), &mut data).unwrap();
        let is_lost = lost.iter().any(|r| r.contains(Sectors(sector)));
        assert_eq!(tombstone::is_tombstone(&data, Uuid::nil(), Sectors(sector)), is_lost, "sector {sector}");
        assert!(is_lost || data == [(sector % 251) as u8; 512], "sector {sector}");
    }
}

const BAD: [u64; 10] = [5, 1000, 1001, 1024, 2500, 3071, 4444, 5000, 6000, 7999];

#[test]
fn a_suspected_sector_is_read_only_as_often_as_it_has_attempts() {
    let lost: Vec<Range> = coalesce(BAD.iter().map(|s| range(*s, 1)).collect());
    let count = |suspects: &[Range]| {
        let main = Arc::new(Watched::new(8000));
        BAD.iter().for_each(|s| main.disk.set_bad(range(*s, 1), Bad::Reads(Errno::ENODATA)));
        let (spare, copied) = copy_all(&main, 1, suspects);
        assert_eq!(copied.lost(), lost);
        assert_copied(&spare, &lost);
        (BAD.iter().map(|s| main.reads_of(*s)).sum::<usize>(), main.requests())
    };
    let (before, all_before) = count(&[]);
    let (after, all_after) = count(&lost);
    println!("reads of bad sectors: {before} before, {after} after; requests: {all_before} before, {all_after} after");
    // One attempt and three retries for each; without suspects, one more in the large request.
    assert_eq!((before, after), (50, 40));
    assert!(all_after < 70 && all_before > 5000, "{all_before}, {all_after}");
}

#[test]
fn each_block_that_did_not_read_at_once_is_recorded() {
    let main = Arc::new(Watched::new(3000));
    for (sectors, errno) in [(range(2000, 3), Errno::ENODATA), (range(2003, 1), Errno::EIO)] {
        main.disk.set_bad(sectors, Bad::Reads(errno));
    }
    // The large request is the first to fail; of the suspected one, that was said to be bad, the first attempt.
    *main.shy.lock().unwrap() = vec![(10, 2), (11, 1), (1500, 2), (1600, 0)];
    let (spare, copied) = copy_all(&main, 1, &[range(1500, 1), range(1600, 2)]);
    // An EIO has to repeat beside a witness.
    let lost = |attempts, errno| BlockOutcome::Lost { attempts, errno };
    let expected = [
        (range(10, 2), BlockOutcome::Recovered { attempt: 2 }),
        (range(1500, 1), BlockOutcome::Recovered { attempt: 3 }),
        (range(2000, 3), lost(4, Errno::ENODATA)),
        (range(2003, 1), lost(5, Errno::EIO)),
    ];
    let found: Vec<_> = copied.blocks.iter().map(|record| (record.range, record.outcome)).collect();
    assert_eq!(found, expected);
    assert_eq!((copied.recovered(), copied.lost()), (Sectors(3), vec![range(2000, 4)]));
    assert_copied(&spare, &copied.lost());
}

#[test]
fn a_list_that_names_far_too_much_does_not_make_every_block_a_request() {
    let main = Arc::new(Watched::new(8192));
    let (spare, copied) = copy_all(&main, 1, &[range(0, 8192)]);
    assert!(copied.blocks.is_empty());
    assert_copied(&spare, &[]);
    // Sixteen blocks and the rest of the first of eight chunks, then one request for each.
    assert_eq!(main.requests(), 17 + 7);
}

#[test]
fn runs_that_were_named_in_vain_clear_the_next_ones_until_one_fails() {
    let main = Arc::new(Watched::new(4096));
    let named: Vec<Range> = (0..32).map(|i| range(i * 64, 4)).collect();
    main.disk.set_bad(range(20 * 64 + 1, 1), Bad::Reads(Errno::ENODATA));
    let spare = Arc::new(RamDisk::new("spare", Sectors(4096)));
    let mut salvager = Salvager::new(0, Sectors(1), named.clone());
    let mut requests = Vec::new();
    for window in &named {
        let filling = Filling::Tombstones(Uuid::nil());
        let (source, destination, at) = (main.clone(), spare.clone(), window.start());
        let copy = Copy { range: *window, source, from: at, destination, to: at, filling };
        let before = main.requests();
        let copied = salvager.copy(&copy, &Silent, |_| {}).unwrap();
        requests.push(main.requests() - before);
        let bad = window.contains(Sectors(20 * 64 + 1));
        assert_eq!(copied.lost(), if bad { vec![range(20 * 64 + 1, 1)] } else { vec![] });
    }
    // Four blocks each until sixteen were good; then a request each, until one fails, whose blocks are read one by one.
    let expected = [vec![4; 4], vec![1; 16], vec![5], vec![4; 4], vec![1; 7]].concat();
    assert_eq!(requests, expected);
}

/// Copies of `[start, len]` of main to places that follow each other from sector `to` on.
fn joined(main: &Arc<Watched>, spare: &Arc<RamDisk>, to: u64, places: &[(u64, u64)]) -> Vec<Copy> {
    let mut at = to;
    let copy = |(start, len): &(u64, u64)| {
        let (source, destination, filling) = (main.clone(), spare.clone(), Filling::Tombstones(Uuid::nil()));
        let copy =
            Copy { range: range(*start, *len), source, from: Sectors(*start), destination, to: Sectors(at), filling };
        at += len;
        copy
    };
    places.iter().map(copy).collect()
}

#[test]
fn copies_that_follow_each_other_are_written_together() {
    let main = Arc::new(Watched::new(4096));
    main.disk.set_bad(range(702, 2), Bad::Reads(Errno::ENODATA));
    let spare = Arc::new(RamDisk::new("spare", Sectors(4096)));
    let places = [(700, 8), (100, 8), (3000, 16)];
    let copied =
        Salvager::new(0, Sectors(1), vec![]).copy_joined(&joined(&main, &spare, 50, &places), &Silent).unwrap();
    let lost: Vec<Vec<Range>> = copied.iter().map(Copied::lost).collect();
    assert_eq!(lost, [vec![range(702, 2)], vec![], vec![]]);
    let sectors = places.iter().flat_map(|(start, len)| *start..*start + *len);
    for (sector, at) in sectors.zip(50..) {
        let mut data = [0; 512];
        spare.read(Sectors(at), &mut data).unwrap();
        let is_lost = (702..704).contains(&sector);
        assert_eq!(tombstone::is_tombstone(&data, Uuid::nil(), Sectors(sector)), is_lost, "{sector}");
        assert!(is_lost || data == [(sector % 251) as u8; 512], "{sector}");
    }
    let mut beside = [1; 512];
    spare.read(Sectors(82), &mut beside).unwrap();
    assert_eq!(beside, [0; 512]);
    // What the spare does not keep is said of all of them; each alone tells which.
    spare.set_bad(range(60, 1), Bad::ReadsAndWrites(Errno::EIO));
    let copies = joined(&main, &spare, 50, &places);
    let mut salvager = Salvager::new(0, Sectors(1), vec![]);
    let refused = salvager.copy_joined(&copies, &Silent);
    assert!(matches!(refused, Err(CopyFault::Destination { .. })), "{refused:?}");
    let alone: Vec<bool> = copies.iter().map(|copy| salvager.copy(copy, &Silent, |_| {}).is_ok()).collect();
    assert_eq!(alone, [true, false, true]);
}

#[test]
fn suspects_are_widened_to_blocks_of_the_setup() {
    let main = Arc::new(Watched::new(2048));
    main.disk.set_bad(range(1030, 1), Bad::Reads(Errno::ENODATA));
    let (spare, copied) = copy_all(&main, 8, &[range(1030, 1), range(1020, 1)]);
    assert_eq!(copied.lost(), [range(1024, 8)]);
    assert_copied(&spare, &copied.lost());
    assert!(main.reads.lock().unwrap().iter().all(|r| r.len().is_multiple_of(Sectors(8))));
    assert_eq!(main.reads_of(1030), 4);
}

#[test]
fn what_is_copied_again_is_suspected_only_if_it_made_trouble() {
    let main = Arc::new(Watched::new(512));
    main.disk.set_bad(range(100, 1), Bad::Reads(Errno::ENODATA));
    let spare = Arc::new(RamDisk::new("spare", Sectors(512)));
    let (source, destination, filling) = (main.clone(), spare.clone(), Filling::Zeros);
    let whole = range(0, 512);
    let copy = Copy { range: whole, source, from: Sectors::ZERO, destination, to: Sectors::ZERO, filling };
    let mut salvager = Salvager::new(0, Sectors(1), vec![range(104, 8)]);
    let mut copied = salvager.copy(&copy, &Silent, |_| {}).unwrap();
    // Two large requests around the suspects, the first of which fails; 104 blocks of it, and the suspects.
    assert_eq!((main.reads_of(100), main.requests()), (2, 2 + 104 + 8));
    let part = copy.clip(range(96, 16)).unwrap();
    copied.replace(part.range, salvager.copy_again(&part, &Silent).unwrap());
    assert_eq!((main.reads_of(100), main.requests()), (3, 2 + 104 + 8 + 3));
    assert_eq!(copied.lost(), [range(100, 1)]);
    main.disk.clear_bad();
    let again = salvager.copy_again(&part, &Silent).unwrap();
    copied.replace(part.range, again);
    assert!(copied.blocks.is_empty());
}

#[test]
fn transport_errors_of_a_suspected_sector_stop_everything() {
    let main = Arc::new(Watched::new(512));
    main.disk.set_bad(range(100, 1), Bad::Reads(Errno::ETIMEDOUT));
    let spare = Arc::new(RamDisk::new("spare", Sectors(512)));
    let (source, destination, filling) = (main.clone(), spare, Filling::Zeros);
    let whole = range(0, 512);
    let copy = Copy { range: whole, source, from: Sectors::ZERO, destination, to: Sectors::ZERO, filling };
    let mut salvager = Salvager::new(3, Sectors(1), vec![range(100, 1)]);
    let failed = salvager.copy(&copy, &Silent, |_| {});
    assert!(matches!(failed, Err(CopyFault::Stop(EngineError::Transport(_)))), "{failed:?}");
    assert_eq!(main.reads_of(100), 1);
}

/// Copies the first 8 sectors of `main` to `spare`.
fn copy_8(main: &Arc<Watched>, spare: &Arc<Watched>) -> Result<Copied, CopyFault> {
    let filling = Filling::Tombstones(Uuid::nil());
    let (source, destination) = (main.clone(), spare.clone());
    let copy = Copy { range: range(0, 8), source, from: Sectors::ZERO, destination, to: Sectors::ZERO, filling };
    Salvager::new(3, Sectors(1), Vec::new()).copy(&copy, &Silent, |_| {})
}

fn doubtful(sectors: u64) -> Watched {
    Watched { errno: Errno::EIO, ..Watched::new(sectors) }
}

#[test]
fn what_reads_again_once_the_device_is_there_was_not_lost() {
    // One request for all, and four for the block alone: then the cable is in again.
    for (failing, outcome) in
        [(5, BlockOutcome::Recovered { attempt: 5 }), (6, BlockOutcome::Lost { attempts: 5, errno: Errno::EIO })]
    {
        let (main, spare) = (Arc::new(doubtful(8000)), Arc::new(Watched::new(8000)));
        main.shy.lock().unwrap().push((3, failing));
        let copied = copy_8(&main, &spare).unwrap();
        assert_eq!(copied.blocks, [BlockRecord { range: range(3, 1), outcome }]);
        let mut data = [0; 512];
        spare.disk.read(Sectors(3), &mut data).unwrap();
        assert_eq!(data == [3; 512], failing == 5);
    }
}

#[test]
fn what_takes_writes_again_once_the_device_is_there_is_not_bad() {
    // One request for all, then one for the block, then beside the witness.
    for failing in 1..=3 {
        let (main, spare) = (Arc::new(Watched::new(8000)), Arc::new(doubtful(8000)));
        spare.shy_writes.lock().unwrap().push((3, failing));
        let copied = copy_8(&main, &spare);
        match failing {
            3 => assert!(
                matches!(&copied, Err(CopyFault::Destination { bad, .. }) if *bad == [range(3, 1)]),
                "{copied:?}"
            ),
            _ => assert_eq!(copied.unwrap().blocks, []),
        }
    }
}

#[test]
fn nothing_is_condemned_while_the_witness_does_not_read() {
    for writes in [false, true] {
        let bad = || {
            let disk = Watched { gone: Some((1000, 2)), ..doubtful(8000) };
            let shy = if writes { &disk.shy_writes } else { &disk.shy };
            shy.lock().unwrap().push((3, 100));
            Arc::new(disk)
        };
        let good = Arc::new(Watched::new(8000));
        let copied = if writes { copy_8(&good, &bad()) } else { copy_8(&bad(), &good) };
        let of_the_target = match &copied {
            Err(CopyFault::Device(EngineError::NotTheMedium { .. })) => true,
            Err(CopyFault::Stop(EngineError::NotTheMedium { .. })) => false,
            _ => panic!("{copied:?}"),
        };
        assert_eq!(of_the_target, writes);
    }
}
