//! Reading what dm-log-writes recorded. Source of the format: drivers/md/dm-log-writes.c (`struct log_write_super`,
//! `struct log_write_entry`). Numbers are little-endian; sectors are those of the log's `sectorsize`, here 512.
//!
//! The kernel records a write when its flush has ended (or at once, when it was made with FUA). So what stands before a
//! mark was durable when the mark was made, and what was written and not flushed does not stand there.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const SECTOR: usize = 512;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;

/// What was recorded.
#[derive(Clone, Debug)]
pub enum Entry {
    /// Data at a sector of the device. `last` says that a flush ended with it, or that it was made with FUA.
    Write { sector: u64, data: Vec<u8>, last: bool },
    /// Sectors that were discarded.
    Discard { sector: u64, sectors: u64 },
    /// What the test said.
    Mark(String),
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// All entries of a log, in their order. The log is complete once its device has been removed.
pub fn read(log: &Path) -> Vec<Entry> {
    let file = File::open(log).unwrap();
    let mut block = [0; SECTOR];
    file.read_exact_at(&mut block, 0).unwrap();
    assert_eq!((number(&block, 0), number(&block, 8)), (MAGIC, 1), "magic and version");
    assert_eq!(u32::from_le_bytes(block[24..28].try_into().unwrap()), 512, "sector size");
    let count = number(&block, 16);
    let mut at = SECTOR as u64;
    let mut entries = Vec::new();
    for _ in 0..count {
        file.read_exact_at(&mut block, at).unwrap();
        let [sector, sectors, flags, len] = [0, 8, 16, 24].map(|from| number(&block, from));
        at += SECTOR as u64;
        if flags & DISCARD != 0 {
            entries.push(Entry::Discard { sector, sectors });
            continue;
        }
        if flags & MARK != 0 {
            let text = &block[32..32 + len as usize];
            entries.push(Entry::Mark(String::from_utf8_lossy(text).trim_end_matches('\0').to_string()));
            continue;
        }
        let mut data = vec![0; sectors as usize * SECTOR];
        file.read_exact_at(&mut data, at).unwrap();
        at += data.len() as u64;
        entries.push(Entry::Write { sector, data, last: flags & (FLUSH | FUA) != 0 });
    }
    entries
}
