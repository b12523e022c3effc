//! The verify command on a real kernel: what scsi_debug gets, and that "good" from it proves nothing.
// guest: --disk 16M
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

mod guest_support;

use dm_remap::block::Disk;
use dm_remap::block::buffer::AlignedBuffer;
use dm_remap::block::direct::{DirectDisk, Mode};
use dm_remap::block::host::Host;
use dm_remap::block::verify::{Verify, VerifyDisk, VerifyError};
use dm_remap::units::{Range, Sectors};
use guest_support::*;
use nix::errno::Errno;
use std::path::Path;

fn range(start: u64, len: u64) -> Range {
    Range::new(Sectors(start), Sectors(len)).unwrap()
}

fn open(device: &str) -> VerifyDisk {
    let host = Host::real();
    VerifyDisk::open(&host, &host.device(Path::new(device)).unwrap()).unwrap()
}

/// The VERIFY commands that the driver was handed since the log was cleared: first block and count.
fn commands() -> Vec<(u64, u64)> {
    let log = sh("dmesg");
    let bytes = |line: &str| -> Option<Vec<u64>> {
        let (_, text) = line.split_once("cmd 8f ")?;
        text.split_whitespace().map(|b| u64::from_str_radix(b, 16).ok()).collect()
    };
    let number = |bytes: &[u64]| bytes.iter().fold(0, |n, b| n << 8 | b);
    log.lines().filter_map(bytes).map(|b| (number(&b[1..9]), number(&b[9..13]))).collect()
}

#[test]
fn scsi_debug_says_good_where_a_read_fails() {
    let Some(guest) = Guest::begin() else { return };
    let disk = guest.scsi_debug(16, "");
    let verify = open(&disk.device);
    disk.bad(1000, 3);
    let read = DirectDisk::open(&Host::real(), Path::new(&disk.device), Mode::ReadOnly).unwrap();
    let mut buf = AlignedBuffer::new(512);
    for sector in [999, 1000, 1002, 1003] {
        let good = !(1000..1003).contains(&sector);
        let error = read.read(Sectors(sector), &mut buf).err().map(|e| e.errno);
        assert_eq!(error, (!good).then_some(Errno::ENODATA), "sector {sector}");
        // So a scan by VERIFY must have seen it fail before it believes it.
        assert_eq!(verify.verify(range(sector, 1)), Ok(()), "sector {sector}");
    }
    assert_eq!(verify.verify(range(0, 32_768)), Ok(()));
    for bad in [range(32_760, 9), range(32_768, 1)] {
        let error = verify.verify(bad).unwrap_err();
        assert_eq!((error.errno, error.start, error.len), (Errno::EINVAL, bad.start(), bad.len()));
        assert!(error.to_string().starts_with("verify of sectors 327"), "{error}");
    }
}

#[test]
fn a_partition_s_sectors_become_blocks_of_its_disk() {
    let Some(guest) = Guest::begin() else { return };
    for (sector_size, block) in [(512, 1), (4096, 8)] {
        let disk = guest.scsi_debug(64, &format!("num_parts=2 sector_size={sector_size}"));
        let host = Host::real();
        let part = format!("{}2", disk.device);
        sh(&format!("for i in $(seq 100); do [ -b {part} ] && break; sleep 0.05; done; [ -b {part} ]"));
        let start = host.device(Path::new(&part)).unwrap().partition.unwrap().start.0;
        assert!(start > 0);
        // It logs each command.
        sh("echo 1 > /sys/bus/pseudo/drivers/scsi_debug/opts; dmesg -C");
        let verify = open(&part);
        verify.verify(range(5 * block, 3 * block)).unwrap();
        verify.verify(range(0, 5000 * block)).unwrap();
        let first = start / block;
        let expected = [(first + 5, 3), (first, 2048), (first + 2048, 2048), (first + 4096, 904)];
        assert_eq!(commands(), expected);
        if block > 1 {
            assert_eq!(verify.verify(range(1, block)).unwrap_err().errno, Errno::EINVAL);
            assert_eq!(verify.verify(range(0, block + 1)).unwrap_err().errno, Errno::EINVAL);
        }
        drop(verify);
        sh("for i in $(seq 50); do rmmod scsi_debug && break; sleep 0.1; done");
    }
}

#[test]
fn several_threads_may_ask_at_a_time_and_other_disks_are_refused() {
    let Some(guest) = Guest::begin() else { return };
    let disk = guest.scsi_debug(16, "");
    let verify: Box<dyn Verify> = Box::new(open(&disk.device));
    std::thread::scope(|scope| {
        for n in 0..4 {
            let verify = &verify;
            scope.spawn(move || (0..50).for_each(|k| verify.verify(range(n * 8000 + k * 100, 100)).unwrap()));
        }
    });
    let host = Host::real();
    let refused = VerifyDisk::open(&host, &host.device(Path::new(&guest.disks[0])).unwrap()).unwrap_err();
    assert!(matches!(refused, VerifyError::NotADrive { .. }), "{refused}");
}

/// An NVMe drive that fails reads of one sector, of which the guests of scripts/test have none. By hand: qemu with
/// `-device nvme` over a `-drive` with blkdebug (`inject-error`, event `read_aio`, `errno = "5"`, `rerror=report`); the
/// path in the guest in `GUEST_NVME`, the sector in `GUEST_NVME_BAD`. qemu calls it an internal error in a Verify, and an
/// unrecovered read in a read.
#[test]
fn an_nvme_drive_says_bad_where_a_read_fails() {
    let (Ok(device), Ok(bad)) = (std::env::var("GUEST_NVME"), std::env::var("GUEST_NVME_BAD")) else {
        println!("skipped: needs an NVMe drive");
        return;
    };
    let bad: u64 = bad.parse().unwrap();
    let host = Host::real();
    sh(&format!("modprobe nvme; for i in $(seq 200); do [ -b {device} ] && break; sleep 0.05; done; [ -b {device} ]"));
    let verify = open(&device);
    let read = DirectDisk::open(&host, Path::new(&device), Mode::ReadOnly).unwrap();
    let block = read.logical_block().0;
    let mut buf = AlignedBuffer::new(512 * block as usize);
    let mut bad_blocks = 0;
    for sector in (bad - bad % block - 8 * block..bad + 8 * block).step_by(block as usize) {
        let said = verify.verify(range(sector, block)).map_err(|e| e.errno);
        let found = read.read(Sectors(sector), &mut buf).map_err(|e| e.errno);
        println!("sector {sector}: verify {said:?}, read {found:?}");
        assert!(matches!(said, Ok(()) | Err(Errno::ENODATA | Errno::EIO)), "sector {sector}");
        assert_eq!(said.is_ok(), found.is_ok(), "sector {sector}");
        bad_blocks += u64::from(found == Err(Errno::ENODATA));
    }
    assert_eq!(bad_blocks, 1);
    assert_eq!(verify.verify(range(bad - bad % block + block, 2000 * block)), Ok(()));
    let error = verify.verify(range(0, 8000 * block)).unwrap_err();
    assert!(error.start.0 <= bad && bad < error.start.0 + error.len.0, "{error}");
    assert_eq!(error.len, Sectors(256 * block));
}
