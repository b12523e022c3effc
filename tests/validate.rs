//! The deep check of a spare: each thing that can be wrong is found by the check that is for it, and by no other.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

mod format_support;
use dm_remap::block::Disk;
use dm_remap::block::ram::{Bad, Power, RamDisk};
use dm_remap::engine::Silent;
use dm_remap::format::copy::encode;
use dm_remap::format::metadata::{Ancestor, Metadata, SetupState, SpareState};
use dm_remap::format::tombstone;
use dm_remap::map::Fate;
use dm_remap::map::SpareIndex;
use dm_remap::units::Sectors;
use dm_remap::validate::{Examination, Level, examine};
use format_support::{SPARE_SIZE, blank_spare, commit, metadata, put, range, slot, spare_uuid, spare_with, stamped};
use nix::errno::Errno;
use std::sync::Arc;

/// A setup with extents on two spares, some of them held on the first.
fn busy() -> Metadata {
    let mut metadata = metadata(3, 2);
    metadata.generation = 7;
    for (n, at) in [(0u8, 800), (1, 1600), (0, 2400)] {
        metadata.map.insert(range(at, 16), slot(n, 10_240 + at)).unwrap();
    }
    metadata.map.record_loss(range(2400, 8), Fate::Held).unwrap();
    metadata.lineage = vec![Ancestor { generation: 5, digest: [5; 32] }, Ancestor { generation: 6, digest: [6; 32] }];
    metadata
}

/// Spare 0 as the setup has it.
fn spare(metadata: &Metadata) -> Arc<RamDisk> {
    let disk = blank_spare();
    assert!(commit(&disk, spare_uuid(3, 0), &encode(metadata).unwrap()).complete());
    let mut data = vec![0; 8 * 512];
    tombstone::fill(&mut data, metadata.setup, Sectors(2400));
    disk.write(Sectors(12_640), &data).unwrap();
    disk.flush().unwrap();
    disk
}

fn examined(disk: &dyn Disk) -> Examination {
    examine(disk, true, &Silent)
}

/// The one check that is not satisfied: its name, level and findings.
#[track_caller]
fn only(examination: &Examination) -> (&'static str, Level, String) {
    let bad: Vec<_> = examination.checks.iter().filter(|check| check.level != Level::Ok).collect();
    assert_eq!(bad.len(), 1, "{examination:#?}");
    (bad[0].name, bad[0].level, bad[0].findings.join("\n"))
}

#[test]
fn a_spare_in_order_passes_every_check_and_is_not_written() {
    let disk = spare(&busy());
    let before = disk.image();
    let examination = examined(&*disk);
    assert_eq!(examination.level(), Level::Ok, "{examination:#?}");
    let names: Vec<_> = examination.checks.iter().map(|check| check.name).collect();
    let all = ["copies", "lineage", "content", "membership", "size", "extents", "slots", "bad-blocks", "losses"];
    assert_eq!(names, [&all[..], &["tombstones", "readable"]].concat());
    let owner = examination.owner.unwrap();
    assert_eq!((owner.name.as_str(), owner.index, owner.generation), ("disk3", Some(SpareIndex(0)), 7));
    assert!(disk.image() == before && disk.pending() == 0, "it was written");
    assert!(examine(&*disk, false, &Silent).checks.iter().all(|check| check.name != "readable"));
}

#[test]
fn copies_are_judged_one_by_one() {
    let metadata = busy();
    let mut image = spare(&metadata).image();
    image.entry(1025).or_insert([0; 512])[7] ^= 1;
    let found = only(&examined(&spare_with(image.clone())));
    assert_eq!((found.0, found.1), ("copies", Level::Warning));
    assert!(found.2.starts_with("copy 1: "), "{}", found.2);
    // An older copy that is no ancestor of the newest: not stale but divergent.
    let mut older = busy();
    older.generation = 6;
    older.lineage.pop();
    put(&mut image, 1, &stamped(&encode(&older).unwrap(), spare_uuid(3, 0), 1));
    let examination = examined(&spare_with(image));
    let lineage = examination.checks.iter().find(|check| check.name == "lineage").unwrap();
    assert_eq!(lineage.level, Level::Error);
    assert!(lineage.findings[0].contains("generation 6 is not the one"), "{lineage:?}");
    // None at all.
    let nothing = examined(&*blank_spare());
    assert_eq!((nothing.owner.is_none(), nothing.level(), nothing.checks.len()), (true, Level::Error, 1));
}

#[test]
fn sizes_are_compared_with_the_device() {
    let image = spare(&busy()).image();
    let sized = |size| RamDisk::from_image("spare", Sectors(size), Sectors(1), Power::new(), image.clone());
    assert_eq!(only(&examined(&sized(SPARE_SIZE + 8))).0, "size");
    assert_eq!(
        only(&examined(&sized(SPARE_SIZE - 8))),
        ("size", Level::Error, { format!("{SPARE_SIZE} sectors are recorded: the last 8 are missing") })
    );
    // Cut off inside the slots.
    let cut = examined(&sized(12_640));
    let bad: Vec<_> = cut.checks.iter().filter(|c| c.level == Level::Error).map(|c| c.name).collect();
    assert_eq!(bad, ["size", "slots", "tombstones", "readable"]);
    let large = RamDisk::from_image("spare", Sectors(SPARE_SIZE), Sectors(8), Power::new(), image.clone());
    assert!(only(&examined(&large)).2.contains("larger than main's"));
}

#[test]
fn what_the_setup_says_of_the_spare_is_told() {
    let mut failed = busy();
    failed.spares[0].state = SpareState::Failed;
    assert_eq!(only(&examined(&*spare(&failed))), ("membership", Level::Warning, "it is recorded as failed".into()));
    let mut stranger = busy();
    stranger.spares[0].uuid = spare_uuid(9, 9);
    let examination = examined(&*spare(&stranger));
    let found: Vec<_> = examination.checks.iter().filter(|check| check.level == Level::Error).collect();
    assert_eq!((found.len(), found[0].name), (1, "copies"), "{examination:#?}");
    let mut dissolved = busy();
    dissolved.config.state = SetupState::Dissolved;
    assert_eq!(only(&examined(&*spare(&dissolved))).0, "content");
    let mut disorder = busy();
    disorder.lineage.swap(0, 1);
    assert_eq!(only(&examined(&*spare(&disorder))).1, Level::Error);
}

#[test]
fn slots_that_do_not_read_and_bad_sectors_are_told() {
    let disk = spare(&busy());
    disk.set_bad(range(11_048, 1), Bad::Reads(Errno::ENODATA));
    let found = only(&examined(&*disk));
    assert_eq!((found.0, found.1), ("readable", Level::Error));
    assert!(found.2.starts_with("sector 11048 (for 800+16)") && found.2.lines().count() == 1, "{}", found.2);
    assert_eq!(examine(&*disk, false, &Silent).level(), Level::Ok);
    let mut known = busy();
    known.bad_blocks.insert(SpareIndex(0), vec![range(11_048, 1)]);
    assert_eq!(only(&examined(&*spare(&known))).0, "bad-blocks");
    known.bad_blocks.insert(SpareIndex(0), vec![range(SPARE_SIZE, 1)]);
    assert_eq!(only(&examined(&*spare(&known))).1, Level::Error);
}

#[test]
fn held_blocks_that_were_written_since_are_told_apart() {
    let disk = spare(&busy());
    disk.write(Sectors(12_641), &[7; 512]).unwrap();
    let (name, level, told) = only(&examined(&*disk));
    assert_eq!((name, level), ("tombstones", Level::Warning));
    assert!(told.starts_with("1 held sectors were written since"), "{told}");
    disk.set_bad(range(12_640, 1), Bad::Reads(Errno::ENODATA));
    let examination = examine(&*disk, false, &Silent);
    assert_eq!(only(&examination).1, Level::Error);
    let summary = &examination.checks.last().unwrap().summary;
    assert!(summary.starts_with("6 held sectors"), "{summary}");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(40))]
    /// A byte that changes is never overlooked, and never makes it panic.
    #[test]
    fn a_changed_byte_of_any_copy_is_seen(copy in 0usize..5, offset in 0usize..4096, bit in 0u8..8) {
        let mut image = spare(&busy()).image();
        let start = dm_remap::format::COPY_STARTS[copy].0 + (offset / 512) as u64;
        if let Some(sector) = image.get_mut(&start) {
            sector[offset % 512] ^= 1 << bit;
            let examination = examined(&spare_with(image));
            proptest::prop_assert_eq!(only(&examination).0, "copies");
        }
    }
}

/// The spare as an image file, read-only for everybody.
fn image_file(folder: &std::path::Path, disk: &RamDisk) -> String {
    use std::os::unix::fs::{FileExt, PermissionsExt};
    let path = folder.join("spare.img");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(SPARE_SIZE * 512).unwrap();
    for (sector, data) in disk.image() {
        file.write_all_at(&data[..], sector * 512).unwrap();
    }
    file.set_permissions(std::fs::Permissions::from_mode(0o444)).unwrap();
    path.to_str().unwrap().to_string()
}

#[test]
fn the_tool_judges_an_image_file_by_its_exit_code() {
    use std::os::unix::process::CommandExt;
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_dm-remap"));
        let output = command.arg0("dm-remap-validate").args(args).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let disk = spare(&busy());
    let file = image_file(folder.path(), &disk);
    let (code, out) = run(&["--device", &file, "--read-slots"]);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("of 'disk3'") && out.contains("11 checks, 0 with errors, 0 with warnings"), "{out}");
    std::fs::remove_file(&file).unwrap();
    disk.write(Sectors(12_640), &[7; 512]).unwrap();
    image_file(folder.path(), &disk);
    let (code, out) = run(&["--device", &file, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["result"], &json["schema_version"]), (3, &"warning".into(), &1.into()));
    let tombstones = json["checks"].as_array().unwrap().iter().find(|check| check["name"] == "tombstones").unwrap();
    assert_eq!((&tombstones["level"], tombstones["findings"].as_array().unwrap().len()), (&"warning".into(), 1));
    std::fs::remove_file(&file).unwrap();
    image_file(folder.path(), &blank_spare());
    let (code, out) = run(&["--device", &file]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("no valid copy"), "{out}");
}
