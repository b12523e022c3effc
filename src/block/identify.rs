//! What a device says of itself, gathered from sysfs and udev.
//!
//! Sources, best first:
//! - WWN: `wwid` (NVMe), `device/wwid` (SCSI and ATA), else the page that the latter is made of (`vpd_pg83`);
//! - serial: `device/cid` (MMC), `device/vpd_pg80` (SCSI and ATA), `serial` (virtio), `device/serial` (NVMe).
//!   The serial of a USB bridge is not used: it names the dock, and two disks that change places in it would be
//!   taken for each other;
//! - a partition has the names of its disk, and a partition UUID: from `uevent` (recent kernels), udev's
//!   database, /dev/disk/by-partuuid, and last from the partition table itself, which costs two or three small
//!   buffered reads of the disk and happens only where there is no udev;
//! - device-mapper and md devices: their UUID;
//! - loop devices, zram and nbd have nothing stable, and get nothing: the name of a backing file is a path.
//!
//! Invariant: what many devices share (`0000…`, `none`) is no identity and counts as absent.

use super::device::{BlockDevice, Folders};
use super::host::{self, Host};
use super::links::Links;
use super::partition_table;
use crate::identity::Identity;
use std::fs::File;
use std::path::Path;

/// Gathers the identity of `device`, with its fingerprint.
pub(super) fn identity(host: &Host, device: &BlockDevice, folders: &Folders, links: &Links) -> Identity {
    let disk = folders.disk.as_path();
    Identity {
        wwn: wwn(disk),
        serial: serial(disk),
        model: model(disk),
        partition_uuid: partition_uuid(host, device, folders, links),
        partition_start: device.partition.map(|part| part.start),
        virtual_uuid: dm_uuid(disk).or_else(|| md_uuid(host, device, disk)),
        size: device.size,
        logical_block: device.logical_block,
        physical_block: device.physical_block,
        path: Some(path_hint(host, device, disk, links)),
        fingerprint: String::new(),
        unknown: Default::default(),
    }
    .with_fingerprint()
}

fn path_hint(host: &Host, device: &BlockDevice, disk: &Path, links: &Links) -> String {
    let mapper = || {
        let name = host::text(&disk.join("dm/name"))?;
        let path = host.dev().join("mapper").join(name);
        path.exists().then_some(path)
    };
    links.best_path(&device.name).or_else(mapper).unwrap_or_else(|| device.path.clone()).to_string_lossy().into_owned()
}

fn wwn(disk: &Path) -> Option<String> {
    ["wwid", "device/wwid"]
        .iter()
        .find_map(|file| host::text(&disk.join(file)))
        .and_then(|text| clean(&text))
        .or_else(|| designator(&host::bytes(&disk.join("device/vpd_pg83"))?))
        .filter(|wwn| {
            let value = wwn.split_once('.').map_or(wwn.as_str(), |(_, rest)| rest);
            !is_generic(value)
        })
}

/// The best designator of the logical unit in SCSI's page 83h (SPC-4, 7.8.6), as the kernel would print it.
fn designator(page: &[u8]) -> Option<String> {
    let mut rest = page.get(4..)?;
    let mut best: Option<(u8, String)> = None;
    while let [set, kind, _, len, tail @ ..] = rest {
        let (value, next) = tail.split_at_checked(usize::from(*len))?;
        rest = next;
        // Bits 4 and 5 tell a designator of the logical unit (0) from one of the port or the target.
        if kind & 0x30 != 0 {
            continue;
        }
        let hex = || value.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let found = match (kind & 0x0f, set & 0x0f) {
            (3, 1) => (3, format!("naa.{}", hex())),
            (2, 1) => (2, format!("eui.{}", hex())),
            (1, _) => match clean(&String::from_utf8_lossy(value)) {
                Some(text) => (1, format!("t10.{text}")),
                None => continue,
            },
            _ => continue,
        };
        if best.as_ref().is_none_or(|(rank, _)| *rank < found.0) {
            best = Some(found);
        }
    }
    best.map(|(_, text)| text)
}

fn serial(disk: &Path) -> Option<String> {
    let text = |file: &str| host::text(&disk.join(file));
    text("device/cid")
        .or_else(|| unit_serial(&host::bytes(&disk.join("device/vpd_pg80"))?))
        .or_else(|| text("serial"))
        .or_else(|| text("device/serial"))
        .and_then(|text| clean(&text))
        .filter(|text| !is_generic(text))
}

/// The serial number in SCSI's page 80h: a header of four bytes, the length in the last two.
fn unit_serial(page: &[u8]) -> Option<String> {
    let [_, 0x80, high, low, rest @ ..] = page else {
        return None;
    };
    let len = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
    clean(&String::from_utf8_lossy(rest.get(..len)?))
}

fn model(disk: &Path) -> Option<String> {
    let text = |file: &str| host::text(&disk.join(file)).and_then(|text| clean(&text));
    let model = text("device/model").or_else(|| {
        // An MMC card calls its model `name`; other buses use that file for other things.
        disk.join("device/cid").exists().then(|| text("device/name"))?
    })?;
    // libata puts "ATA" where SCSI has the vendor.
    match text("device/vendor").filter(|vendor| vendor != "ATA" && !vendor.starts_with("0x")) {
        Some(vendor) => Some(format!("{vendor} {model}")),
        None => Some(model),
    }
}

fn dm_uuid(disk: &Path) -> Option<String> {
    let uuid = clean(&host::text(&disk.join("dm/uuid"))?)?;
    if let Some(rest) = uuid.strip_prefix("CRYPT-") {
        // CRYPT-LUKS2-<UUID>-<name>: the name is chosen at every opening, so it is left out; types without a
        // UUID (PLAIN, TEMP) have nothing but the name.
        let mut parts = rest.splitn(3, '-');
        let (kind, id) = (parts.next()?, parts.next()?);
        let is_uuid = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
        return is_uuid.then(|| format!("CRYPT-{kind}-{id}"));
    }
    Some(uuid)
}

/// The UUID of an md array as mdadm knows it, without separators: `MD-` and 32 digits.
fn md_uuid(host: &Host, device: &BlockDevice, disk: &Path) -> Option<String> {
    let folder = disk.join("md");
    if !folder.exists() {
        return None;
    }
    // udev first: for old metadata (0.90), mdadm and the kernel disagree about the order of the bytes.
    let uuid = udev_property(host, device, "MD_UUID")
        .or_else(|| Links::id_with_prefix(host, &device.name, "md-uuid-"))
        .or_else(|| host::text(&folder.join("uuid")))?;
    let digits: String = uuid.chars().filter(char::is_ascii_hexdigit).collect();
    (digits.len() == 32 && !is_generic(&digits)).then(|| format!("MD-{}", digits.to_lowercase()))
}

fn partition_uuid(host: &Host, device: &BlockDevice, folders: &Folders, links: &Links) -> Option<String> {
    let partition = device.partition?;
    let from_kernel = || {
        let uevent = host::text(&folders.own.join("uevent"))?;
        uevent.lines().find_map(|line| line.strip_prefix("PARTUUID=").map(String::from))
    };
    let from_table = || {
        if host.is_fake() {
            return None;
        }
        let disk = folders.disk.file_name()?.to_string_lossy().into_owned();
        let mut file = File::open(host.node(&disk)).ok()?;
        partition_table::partition_uuid(&mut file, device.logical_block, partition)
    };
    from_kernel()
        .or_else(|| udev_property(host, device, "ID_PART_ENTRY_UUID"))
        .or_else(|| links.partition_uuid(&device.name).map(String::from))
        .or_else(from_table)
        .and_then(|uuid| clean(&uuid))
        .map(|uuid| uuid.to_lowercase())
        .filter(|uuid| !is_generic(&uuid.replace('-', "")))
}

/// A property from udev's database, which may be of another moment: used only for what does not change.
fn udev_property(host: &Host, device: &BlockDevice, key: &str) -> Option<String> {
    let file = host.run().join(format!("udev/data/b{}", device.devno));
    host::text(&file)?.lines().find_map(|line| {
        let (found, value) = line.strip_prefix("E:")?.split_once('=')?;
        (found == key).then(|| value.to_string())
    })
}

/// Printable ASCII only, runs of blanks made one; `None` when nothing is left.
fn clean(text: &str) -> Option<String> {
    let printable: String = text
        .chars()
        .map(|c| if c.is_whitespace() { ' ' } else { c })
        .filter(|c| *c == ' ' || c.is_ascii_graphic())
        .collect();
    let words: Vec<&str> = printable.split(' ').filter(|w| !w.is_empty()).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// Whether a name is one that makers put on many devices.
fn is_generic(name: &str) -> bool {
    const SHARED: [&str; 18] = [
        "(null)", // user-mode Linux's ubd
        "none",
        "n/a",
        "na",
        "null",
        "unknown",
        "default",
        "default string",
        "not specified",
        "not available",
        "to be filled by o.e.m.",
        "serial",
        "serial number",
        "12345678",
        "123456789",
        "1234567890",
        "123456789012",
        "0123456789abcdef",
    ];
    let name = name.trim().to_lowercase();
    let filler = |c: char| name.chars().all(|other| other == c);
    let value = name.strip_prefix("0x").unwrap_or(&name);
    SHARED.contains(&name.as_str())
        || ['0', 'f', 'x', '-', '.', '*', '?'].into_iter().any(filler)
        || value.chars().all(|c| c == '0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_serials_are_no_identity() {
        for shared in ["(null)", "0000000000", "none", "N/A", "0x00", "FFFF", "", "0123456789ABCDEF"] {
            assert!(is_generic(shared), "{shared}");
        }
        for own in ["2000", "Z1D5ABCD", "QM00001", "1", "0x0134ab"] {
            assert!(!is_generic(own), "{own}");
        }
    }

    #[test]
    fn text_is_cleaned() {
        assert_eq!(clean("  WD  Blue\0\u{7f} x\n"), Some("WD Blue x".into()));
        assert_eq!(clean(" \0\u{1}\n"), None);
    }

    #[test]
    fn pages_of_scsi_are_read() {
        assert_eq!(unit_serial(b"\0\x80\0\x08  Z1D5AB"), Some("Z1D5AB".into()));
        assert_eq!(unit_serial(b"\0\x80\0\xff  short"), Some("short".into()));
        assert_eq!(unit_serial(b"\0\x83\0\x01x"), None);
        let mut page = vec![0, 0x83, 0, 0];
        page.extend([2, 0x01, 0, 4]);
        page.extend(b"ATA ");
        page.extend([1, 0x13, 0, 2, 0xaa, 0xbb]); // of the port
        page.extend([1, 0x03, 0, 8, 0x50, 0, 0xc5, 0, 1, 2, 3, 4]);
        page.extend([1, 0x02, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(designator(&page), Some("naa.5000c50001020304".into()));
        assert_eq!(designator(&page[..12]), Some("t10.ATA".into()));
        assert_eq!(designator(&[]), None);
    }
}
