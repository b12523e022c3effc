//! Describes the stack of devices under one: from sysfs, and from device-mapper's tables. Only reads.
//!
//! Invariants:
//! - what cannot be read or understood becomes [`Made::Unknown`] over what sysfs lists below it;
//! - the description is of one instant: volumes can be moved while they are in use, so it is made anew when needed.
//!
//! Source of md's files: Documentation/admin-guide/md.rst.

use super::locate::{Made, Node, Piece, Stack, made_of};
use super::report::{ErrorReport, Reported};
use crate::block::host::{self, Host};
use crate::segments::Target;
use crate::units::{DevNo, Range, Sectors};
use std::collections::BTreeMap;
use std::path::Path;

/// The most devices in a stack; a machine with more under one device is not a machine.
const MOST_DEVICES: usize = 1024;

/// The active table of the device-mapper device of that name; `None` when it cannot be had.
pub type Tables<'a> = dyn Fn(&str) -> Option<Vec<Target>> + 'a;

/// Describes `top` and all that lies under it.
pub fn stack_under(host: &Host, tables: &Tables<'_>, top: DevNo) -> Stack {
    let mut nodes = BTreeMap::new();
    let mut open = vec![top];
    while let Some(device) = open.pop() {
        if nodes.contains_key(&device) || nodes.len() >= MOST_DEVICES {
            continue;
        }
        // A device that is gone stays a node without sectors: nothing is found on it.
        let node = match host.sys_folder(device) {
            Some(folder) => describe(host, tables, &folder),
            None => Node { size: Sectors::ZERO, made: Made::Disk },
        };
        open.extend(below(&node.made));
        nodes.insert(device, node);
    }
    Stack { top, nodes }
}

/// The number of the disk that a report names; `None` when the kernel has no such disk (any more).
///
/// The paths of an NVMe disk (`nvme0c1n1`) have no numbers: they stand for the disk (`nvme0n1`).
pub fn number_of(host: &Host, device: &Reported) -> Option<DevNo> {
    match device {
        Reported::Number(number) => Some(*number),
        Reported::Name(name) => host.number_of(name).or_else(|| host.number_of(&nvme_head(name)?)),
    }
}

/// A report that names its disk by number, with the kernel's name for it where there is one: for people.
pub fn with_name(host: &Host, report: ErrorReport) -> ErrorReport {
    let Reported::Number(number) = report.device else { return report };
    let name = host.sys_folder(number).and_then(|folder| Some(folder.file_name()?.to_string_lossy().into_owned()));
    ErrorReport { device: name.map_or(Reported::Number(number), Reported::Name), ..report }
}

fn nvme_head(name: &str) -> Option<String> {
    let (subsystem, path) = name.strip_prefix("nvme")?.split_once('c')?;
    let (controller, namespace) = path.split_once('n')?;
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let all = digits(subsystem) && digits(controller) && digits(namespace);
    all.then(|| format!("nvme{subsystem}n{namespace}"))
}

fn below(made: &Made) -> Vec<DevNo> {
    match made {
        Made::Disk => Vec::new(),
        Made::Partition { of, .. } => vec![*of],
        Made::Pieces(pieces) => pieces.iter().map(|p| p.device).collect(),
        Made::Copies(legs) => legs.iter().map(|(device, _)| *device).collect(),
        Made::Stripes(runs) => runs.iter().flat_map(|s| &s.legs).map(|(device, _)| *device).collect(),
        Made::Unknown(devices) => devices.clone(),
    }
}

fn describe(host: &Host, tables: &Tables<'_>, folder: &Path) -> Node {
    let size = Sectors(host::number(&folder.join("size")).unwrap_or(0));
    if folder.join("partition").exists() {
        let of = folder.parent().and_then(|disk| host::text(&disk.join("dev"))?.parse().ok());
        let start = host::number(&folder.join("start"));
        let made = match (of, start) {
            (Some(of), Some(start)) => Made::Partition { of, start: Sectors(start) },
            (of, _) => Made::Unknown(of.into_iter().collect()),
        };
        return Node { size, made };
    }
    let slaves = host::names(&folder.join("slaves"));
    let lower: Vec<DevNo> = slaves.iter().filter_map(|name| host.number_of(name)).collect();
    let made = if let Some(name) = host::text(&folder.join("dm/name")) {
        tables(&name).map_or_else(|| Made::Unknown(lower.clone()), |table| made_of(&table, &lower))
    } else if folder.join("md").is_dir() {
        array(host, &folder.join("md"), size).unwrap_or(Made::Unknown(lower))
    } else if lower.is_empty() {
        Made::Disk
    } else {
        Made::Unknown(lower)
    };
    Node { size, made }
}

/// A member of an md array.
struct ArrayMember {
    device: DevNo,
    offset: Sectors,
    size: Sectors,
    slot: u64,
}

/// Arrays whose sectors lie in order: mirrors, and members one after the other.
fn array(host: &Host, md: &Path, size: Sectors) -> Option<Made> {
    let mut members = Vec::new();
    for name in host::names(md).iter().filter(|name| name.starts_with("dev-")) {
        let folder = md.join(name);
        // Spares have no slot, and no data.
        let Some(slot) = host::number(&folder.join("slot")) else { continue };
        members.push(ArrayMember {
            device: host.number_of(name.strip_prefix("dev-")?)?,
            offset: Sectors(host::number(&folder.join("offset"))?),
            // In KiB.
            size: Sectors(host::number(&folder.join("size"))?.checked_mul(2)?),
            slot,
        });
    }
    members.sort_by_key(|m| m.slot);
    match host::text(&md.join("level"))?.as_str() {
        "raid1" => Some(Made::Copies(members.iter().map(|m| (m.device, m.offset)).collect())),
        "linear" => {
            let rounding = Sectors(host::number(&md.join("chunk_size")).unwrap_or(0) / 512);
            let (mut at, mut pieces) = (Sectors::ZERO, Vec::new());
            for member in &members {
                let range = Range::new(at, member.size.align_down(rounding))?;
                pieces.push(Piece { range, device: member.device, offset: member.offset });
                at = range.end();
            }
            // Otherwise it is not laid out as we think.
            (at == size).then_some(Made::Pieces(pieces))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::fake_tree::Tree;
    use crate::segments::TargetKind;
    use crate::watch::locate::Located;

    fn devno(text: &str) -> DevNo {
        text.parse().unwrap()
    }

    fn at(start: u64, len: u64) -> Located {
        Located::At(vec![Range::new(Sectors(start), Sectors(len)).unwrap()])
    }

    fn sector(at: u64) -> Range {
        Range::new(Sectors(at), Sectors(1)).unwrap()
    }

    fn no_tables(_: &str) -> Option<Vec<Target>> {
        None
    }

    #[test]
    fn names_lead_to_numbers() {
        let tree = Tree::new();
        tree.ata_disk();
        tree.disk("nvme0n1", "259:0", 1000);
        let number = |name: &str| number_of(&tree.host(), &Reported::Name(name.into()));
        assert_eq!(number("sda"), Some(devno("8:0")));
        assert_eq!(number("nvme0n1"), Some(devno("259:0")));
        assert_eq!(number("nvme0c3n1"), Some(devno("259:0")));
        assert_eq!(number("nvme1c3n1"), None);
        assert_eq!(number("nvmecn"), None);
        assert_eq!(number("../sda"), None);
        assert_eq!(number_of(&tree.host(), &Reported::Number(devno("1:2"))), Some(devno("1:2")));
    }

    #[test]
    fn a_volume_on_a_partition_is_described_down_to_the_disk() {
        let tree = Tree::new();
        let (_, part) = tree.ata_disk();
        let volume = tree.disk("dm-3", "253:3", 5000);
        tree.write(&format!("{volume}/dm/name"), "vg-data\n");
        tree.stack(&volume, &part);
        let tables = |name: &str| {
            let kind = TargetKind::Linear { device: devno("8:1"), offset: Sectors(384) };
            (name == "vg-data").then(|| vec![Target { start: Sectors::ZERO, len: Sectors(5000), kind }])
        };
        let stack = stack_under(&tree.host(), &tables, devno("253:3"));
        assert_eq!(stack.nodes.len(), 3);
        assert_eq!(stack.locate(devno("8:0"), sector(2048 + 384 + 9)), at(9, 1));
        assert_eq!(stack.locate(devno("8:0"), sector(2048)), Located::Nowhere);
        // A table that cannot be had.
        let stack = stack_under(&tree.host(), &no_tables, devno("253:3"));
        assert!(matches!(stack.locate(devno("8:0"), sector(2048 + 384)), Located::Somewhere { .. }));
    }

    #[test]
    fn arrays_are_described_where_sectors_keep_their_order() {
        let tree = Tree::new();
        let (a, b) = (tree.disk("sda", "8:0", 100_000), tree.disk("sdb", "8:16", 100_000));
        let md = tree.disk("md0", "9:0", 90_000);
        tree.stack(&md, &a);
        tree.stack(&md, &b);
        for (slot, name) in ["sda", "sdb"].iter().enumerate() {
            let member = format!("{md}/md/dev-{name}");
            tree.write(&format!("{member}/offset"), "2048\n")
                .write(&format!("{member}/size"), "45000\n")
                .write(&format!("{member}/slot"), format!("{slot}\n"));
        }
        tree.write(&format!("{md}/md/level"), "raid1\n");
        let locate =
            |disk: &str, s: u64| stack_under(&tree.host(), &no_tables, devno("9:0")).locate(devno(disk), sector(s));
        assert_eq!(locate("8:16", 2048 + 5), at(5, 1));
        tree.write(&format!("{md}/md/level"), "raid5\n");
        assert!(matches!(locate("8:16", 2048 + 5), Located::Somewhere { .. }));
        tree.write(&format!("{md}/md/level"), "linear\n").write(&format!("{md}/size"), "180000\n");
        assert_eq!(locate("8:0", 2048 + 5), at(5, 1));
        assert_eq!(locate("8:16", 2048 + 5), at(90_005, 1));
        tree.write(&format!("{md}/size"), "170000\n");
        assert!(matches!(locate("8:16", 2048 + 5), Located::Somewhere { .. }));
    }

    #[test]
    fn what_is_unknown_lies_on_what_sysfs_lists() {
        let tree = Tree::new();
        let (disk, _) = tree.ata_disk();
        let cache = tree.disk("bcache0", "252:0", 1_000_000);
        tree.stack(&cache, &disk);
        let stack = stack_under(&tree.host(), &no_tables, devno("252:0"));
        assert_eq!(stack.nodes[&devno("252:0")].made, Made::Unknown(vec![devno("8:0")]));
        assert!(stack.lies_on(devno("8:0")));
        let gone = stack_under(&tree.host(), &no_tables, devno("77:7"));
        assert_eq!(gone.locate(devno("77:7"), sector(0)), Located::Nowhere);
    }
}
