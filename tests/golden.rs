//! Golden images: bytes that this version must read, and write, for ever.
//!
//! `DM_REMAP_BLESS=1 cargo test --test golden` writes them anew. After a release that is never right: bytes on
//! people's disks do not change with it.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

#[path = "format_support/mod.rs"]
mod support;

use dm_remap::format::copy::{encode, judge};
use support::{golden, stamped, valid};

#[test]
fn golden_images_are_what_this_version_writes() {
    for image in golden::all() {
        let encoded = encode(&image.metadata).unwrap();
        let spare = image.metadata.spares[image.spare].uuid;
        let written = stamped(&encoded, spare, image.copy);
        if std::env::var_os("DM_REMAP_BLESS").is_some() {
            std::fs::create_dir_all(image.path().parent().unwrap()).unwrap();
            std::fs::write(image.path(), &written).unwrap();
        }
        let stored = image.bytes();
        let differs = written.iter().zip(&stored).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{}: first differing byte", image.name);
        assert_eq!(written.len(), stored.len(), "{}", image.name);
    }
}

#[test]
fn golden_images_read_as_what_they_were_written_from() {
    for image in golden::all() {
        let bytes = image.bytes();
        let verdict = judge(&bytes, image.copy);
        let copy = valid(&verdict).unwrap_or_else(|| panic!("{}: {verdict:?}", image.name));
        assert_eq!(copy.metadata, image.metadata, "{}", image.name);
        assert_eq!(copy.spare, image.metadata.spares[image.spare].uuid);
        assert_eq!(copy.len, bytes.len());
        assert_eq!(copy.digest, encode(&image.metadata).unwrap().digest());
    }
}

#[test]
fn every_golden_image_is_tested_and_small() {
    let mut known: Vec<_> = golden::all().iter().map(golden::Golden::path).collect();
    let dir = known[0].parent().unwrap().to_path_buf();
    let mut found: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(found.iter().all(|path| path.metadata().unwrap().len() <= 65_536));
    known.sort();
    found.sort();
    assert_eq!(found, known);
}
