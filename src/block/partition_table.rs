//! The UUID of one partition, read from the disk: for machines without udev.
//!
//! Invariant: a UUID is given only when the table agrees with the kernel about where the partition starts.

use super::device::Partition;
use crate::units::Sectors;
use std::io::{Read, Seek, SeekFrom};

/// Reads a partition's UUID from its disk: the unique GUID of a GPT entry, or `SIGNATURE-NN` for MBR, both as the
/// kernel and udev write them. `block` is the disk's logical block size in sectors.
pub(super) fn partition_uuid<D: Read + Seek>(disk: &mut D, block: Sectors, partition: Partition) -> Option<String> {
    let block_bytes = block.to_bytes()?.0;
    gpt(disk, block_bytes, partition).or_else(|| mbr(disk, block, partition))
}

fn gpt<D: Read + Seek>(disk: &mut D, block: u64, partition: Partition) -> Option<String> {
    let header = read::<92, _>(disk, block)?;
    if !header.starts_with(b"EFI PART") {
        return None;
    }
    let entries = u64_at(&header, 72)?.checked_mul(block)?;
    let (count, size) = (u32_at(&header, 80)?, u32_at(&header, 84)?);
    let index = partition.number.checked_sub(1)?;
    if index >= count || size < 128 {
        return None;
    }
    let offset = u64::from(index).checked_mul(u64::from(size))?;
    let entry = read::<128, _>(disk, entries.checked_add(offset)?)?;
    let start = u64_at(&entry, 32)?.checked_mul(block)? / 512;
    if Sectors(start) != partition.start {
        return None;
    }
    let unique = entry.get(16..)?.first_chunk::<16>()?;
    Some(uuid::Uuid::from_bytes_le(*unique).to_string())
}

fn mbr<D: Read + Seek>(disk: &mut D, block: Sectors, partition: Partition) -> Option<String> {
    let sector = read::<512, _>(disk, 0)?;
    let signature = u32_at(&sector, 440)?;
    if sector.get(510..)? != [0x55, 0xaa] || signature == 0 {
        return None;
    }
    let table = sector.get(446..510)?;
    // Type EEh: the table only protects a GPT, which has not been found.
    if table.chunks(16).any(|entry| entry.get(4) == Some(&0xee)) {
        return None;
    }
    // Logical partitions (5 and up) are in a chain of their own: there the kernel's number is enough.
    let index = usize::try_from(partition.number.checked_sub(1)?).ok()?;
    if let Some(entry) = table.chunks(16).nth(index) {
        let start = Sectors(u64::from(u32_at(entry, 8)?)).checked_mul(block.0)?;
        if start != partition.start {
            return None;
        }
    }
    Some(format!("{signature:08x}-{:02x}", partition.number))
}

fn read<const N: usize, D: Read + Seek>(disk: &mut D, offset: u64) -> Option<[u8; N]> {
    let mut out = [0; N];
    disk.seek(SeekFrom::Start(offset)).ok()?;
    disk.read_exact(&mut out).ok()?;
    Some(out)
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let chunk = bytes.get(offset..)?.first_chunk()?;
    Some(u32::from_le_bytes(*chunk))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    let chunk = bytes.get(offset..)?.first_chunk()?;
    Some(u64::from_le_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::DevNo;
    use std::io::Cursor;

    fn part(number: u32, start: u64) -> Partition {
        Partition { disk: DevNo { major: 8, minor: 0 }, start: Sectors(start), number }
    }

    #[test]
    fn gpt_entries_are_found_by_number_and_start() {
        for block in [512usize, 4096] {
            let mut disk = vec![0u8; 64 * block];
            disk[block..block + 8].copy_from_slice(b"EFI PART");
            disk[block + 72] = 2;
            disk[block + 80] = 128;
            disk[block + 84] = 128;
            let entry = 2 * block + 128;
            disk[entry + 16..entry + 32]
                .copy_from_slice(&[0x78, 0x56, 0x34, 0x12, 0xbc, 0x9a, 0xf0, 0xde, 1, 2, 3, 4, 5, 6, 7, 8]);
            disk[entry + 32] = 10;
            let sectors = Sectors(block as u64 / 512);
            let start = 10 * sectors.0;
            let mut disk = Cursor::new(disk);
            assert_eq!(
                partition_uuid(&mut disk, sectors, part(2, start)).as_deref(),
                Some("12345678-9abc-def0-0102-030405060708")
            );
            assert_eq!(partition_uuid(&mut disk, sectors, part(2, start + 8)), None);
            assert_eq!(partition_uuid(&mut disk, sectors, part(200, start)), None);
        }
    }

    #[test]
    fn mbr_partitions_are_named_by_signature_and_number() {
        let mut disk = vec![0u8; 4096];
        disk[440..444].copy_from_slice(&0xdead_beefu32.to_le_bytes());
        disk[446 + 4] = 0x83;
        disk[446 + 8..446 + 12].copy_from_slice(&2048u32.to_le_bytes());
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        let uuid =
            |bytes: &[u8], number, start| partition_uuid(&mut Cursor::new(bytes), Sectors(1), part(number, start));
        assert_eq!(uuid(&disk, 1, 2048).as_deref(), Some("deadbeef-01"));
        assert_eq!(uuid(&disk, 5, 9999).as_deref(), Some("deadbeef-05"));
        assert_eq!(uuid(&disk, 1, 63), None);
        disk[440..444].fill(0);
        assert_eq!(uuid(&disk, 1, 2048), None);
    }
}
