//! Backups are whole or absent, and bounded.

use super::*;
use crate::format::metadata::{Config, Health, SetupState, SpareRecord};
use crate::identity::Identity;
use crate::map::Map;
use crate::units::Sectors;

fn metadata(generation: u64) -> Metadata {
    let identity = |size: u64| Identity {
        size: Sectors(size),
        logical_block: Sectors(1),
        physical_block: Sectors(1),
        ..Identity::default()
    };
    Metadata {
        setup: Uuid::from_u128(7),
        generation,
        committed: 1,
        compatible: 0,
        incompatible: 0,
        config: Config {
            name: "data".into(),
            state: SetupState::Ready,
            created: 1,
            main: identity(4096),
            policy: Default::default(),
            active: None,
            samples: None,
            unknown: Default::default(),
        },
        spares: vec![SpareRecord {
            uuid: Uuid::from_u128(1),
            data_start: Sectors(10_240),
            state: Default::default(),
            holds: None,
            removed: None,
            identity: identity(20_000),
            unknown: Default::default(),
        }],
        map: Map::new(Sectors(4096), Sectors(8)).unwrap(),
        health: Health::default(),
        bad_blocks: Default::default(),
        lineage: Vec::new(),
        unknown_sections: Vec::new(),
    }
}

#[test]
fn the_newest_are_kept_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    for generation in (1..=45).chain([9_999_999_999]) {
        save(dir.path(), &metadata(generation)).unwrap();
    }
    let kept = list(dir.path(), Some(Uuid::from_u128(7))).unwrap();
    let generations: Vec<u64> = kept.iter().map(|k| k.content.as_ref().unwrap().metadata.generation).collect();
    let expected: Vec<u64> = (15..=45).chain([9_999_999_999]).collect();
    assert_eq!(generations, expected);
    assert_eq!(list(dir.path(), None).unwrap().len(), KEEP);
    assert!(list(dir.path(), Some(Uuid::from_u128(8))).unwrap().is_empty());
    assert!(list(&dir.path().join("nothing"), None).unwrap().is_empty());
}

#[test]
fn what_a_crash_leaves_is_no_backup_and_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let path = save(dir.path(), &metadata(1)).unwrap();
    // Half a file can only be found under the name that is written aside: the final name is given by a rename.
    let aside = path.with_file_name(".writing");
    let half = std::fs::read(&path).unwrap();
    std::fs::write(&aside, &half[..half.len() / 2]).unwrap();
    assert_eq!(list(dir.path(), None).unwrap().len(), 1);
    save(dir.path(), &metadata(2)).unwrap();
    let kept = list(dir.path(), None).unwrap();
    assert!(kept.len() == 2 && kept.iter().all(|k| k.content.is_ok()), "{kept:?}");
    // Damaged later, it is told, and hides nothing.
    std::fs::write(&path, &half[..100]).unwrap();
    let kept = list(dir.path(), None).unwrap();
    assert_eq!(kept.iter().map(|k| k.content.is_ok()).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn a_full_disk_leaves_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = save(dir.path(), &metadata(1)).unwrap();
    let before = std::fs::read(&path).unwrap();
    // A folder where the file is written aside: it cannot be made.
    std::fs::create_dir(path.with_file_name(".writing")).unwrap();
    assert!(save(dir.path(), &metadata(1)).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn an_export_replaces_nothing_unasked() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("saved");
    export(&file, b"one", false).unwrap();
    assert_eq!(export(&file, b"two", false).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(&file).unwrap(), b"one");
    export(&file, b"two", true).unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), b"two");
    // What is no file is never replaced, and a link stays one.
    let folder = dir.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    assert!(export(&folder, b"x", true).is_err());
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    export(&link, b"three", true).unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), b"three");
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    export(&dir.path().join("new"), b"x", true).unwrap();
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{left:?}");
}

#[test]
fn a_backup_reads_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("saved");
    let mut bytes = image(&metadata(3)).unwrap();
    export(&file, &bytes, false).unwrap();
    let Verdict::Valid(copy) = load(&file).unwrap() else { panic!() };
    assert_eq!(copy.metadata, metadata(3));
    // More behind it does not matter; a flipped bit does.
    bytes.extend([7; 100_000]);
    export(&file, &bytes, true).unwrap();
    assert!(matches!(load(&file).unwrap(), Verdict::Valid(_)));
    bytes[600] ^= 1;
    export(&file, &bytes, true).unwrap();
    assert!(matches!(load(&file).unwrap(), Verdict::Damaged(_)));
    export(&file, b"", true).unwrap();
    assert!(matches!(load(&file).unwrap(), Verdict::Blank | Verdict::Damaged(_)));
}

#[test]
fn the_file_just_written_is_kept_however_old_its_number_is() {
    let dir = tempfile::tempdir().unwrap();
    for generation in 100..140 {
        save(dir.path(), &metadata(generation)).unwrap();
    }
    let path = save(dir.path(), &metadata(7)).unwrap();
    assert!(path.exists());
    let kept = list(dir.path(), None).unwrap();
    assert_eq!(kept.len(), KEEP);
    let generations: Vec<u64> = kept.iter().map(|k| k.content.as_ref().unwrap().metadata.generation).collect();
    assert_eq!(generations, [7].into_iter().chain(109..140).collect::<Vec<_>>());
    assert_eq!(newest_kept(dir.path(), Uuid::from_u128(7)), 139);
    assert_eq!(newest_kept(dir.path(), Uuid::from_u128(8)), 0);
}
