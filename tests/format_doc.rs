//! docs/FORMAT.md: its dumps are the golden image, and a decoder written from it alone reads the image.

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

use dm_remap::format::tombstone;
use dm_remap::map::Fate;
use dm_remap::units::Sectors;
use sha2::{Digest, Sha256};
use support::golden;

const DOC: &str = include_str!("../docs/FORMAT.md");

/// The rows of all dumps in the part of the document after the heading.
fn rows(heading: &str) -> Vec<&'static str> {
    let part = DOC.split(&format!("\n## {heading}\n")).nth(1).unwrap();
    let part = part.split("\n## ").next().unwrap();
    let blocks = part.split("```hexdump\n").skip(1);
    blocks.flat_map(|b| b.split("```").next().unwrap().lines()).collect()
}

/// A row as the document writes it.
fn row(at: usize, bytes: &[u8]) -> String {
    let hex = |part: &[u8]| part.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
    let mut text = hex(&bytes[..bytes.len().min(8)]);
    if bytes.len() > 8 {
        text = format!("{text}  {}", hex(&bytes[8..]));
    }
    let shown = |b: &u8| {
        if (32..127).contains(b) { char::from(*b) } else { '.' }
    };
    let ascii: String = bytes.iter().map(shown).collect();
    format!("{at:08x}  {text:<48}  |{ascii}|")
}

/// Asserts that the rows show `bytes`, all of them.
fn assert_shows(rows: &[&str], bytes: &[u8]) {
    let mut at = 0;
    let mut skipping = false;
    for text in rows {
        if *text == "*" {
            skipping = true;
            continue;
        }
        let start = usize::from_str_radix(&text[..8], 16).unwrap();
        if skipping {
            let zeros = &bytes[at..start];
            assert!(zeros.iter().all(|b| *b == 0), "zeros before {text}");
            (at, skipping) = (start, false);
        }
        assert_eq!(start, at, "{text}");
        let shown = text.split('|').next().unwrap().split_whitespace().skip(1).count();
        at += shown;
        if shown > 0 {
            assert_eq!(*text, row(start, &bytes[start..at]), "docs/FORMAT.md");
        }
    }
    assert_eq!(at, bytes.len());
}

#[test]
fn the_dumps_in_the_document_are_the_golden_image() {
    let image = &golden::all()[1];
    assert!(DOC.contains(image.path().file_name().unwrap().to_str().unwrap()));
    assert_shows(&rows("Worked example"), &image.bytes());
}

#[test]
fn the_tombstone_in_the_document_is_the_one_that_is_written() {
    let setup = golden::all()[1].metadata.setup;
    let mut sector = [0; 512];
    tombstone::fill(&mut sector, setup, Sectors(1004));
    assert_shows(&rows("Tombstones"), &sector);
    assert!(tombstone::is_tombstone(&sector, setup, Sectors(1004)));
}

/// What the decoder finds. Nothing of the crate is used between here and the test at the end.
#[derive(Debug, Default)]
struct Decoded {
    data_start: u64,
    generation: u64,
    committed: u64,
    digest: Vec<u8>,
    /// Configuration, spares, health.
    json: Vec<serde_json::Value>,
    main_len: u64,
    unit: u64,
    /// Spare, first sector, sectors, first sector on the spare.
    extents: Vec<[u64; 4]>,
    /// First sector, sectors, fate.
    losses: Vec<[u64; 3]>,
    /// Spare, first sector, sectors.
    bad: Vec<[u64; 3]>,
    lineage: Vec<(u64, Vec<u8>)>,
}

fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    let little_endian = bytes[at..at + len].iter().rev();
    little_endian.fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn list(copy: &[u8], at: &mut usize, count: u64) -> Vec<[u64; 3]> {
    let mut rows = Vec::new();
    while (rows.len() as u64) < count {
        let block = (count - rows.len() as u64).min(256) as usize;
        let first = rows.len();
        rows.resize(first + block, [0; 3]);
        for column in 0..3 {
            let (smallest, width) = (number(copy, *at, 8), usize::from(copy[*at + 8]));
            let packed = &copy[*at + 9..];
            for (n, row) in rows[first..].iter_mut().enumerate() {
                let bit = |b: usize| u64::from(packed[b / 8] >> (b % 8) & 1);
                let value = (0..width).fold(0, |sum, b| sum | bit(n * width + b) << b);
                row[column] = smallest + value;
            }
            *at += 9 + (block * width).div_ceil(8);
        }
    }
    rows
}

fn decode(copy: &[u8], place: u32) -> Decoded {
    let crc = |parts: &[&[u8]]| {
        let salted = [&copy[48..64], &place.to_le_bytes()];
        u64::from(crc32fast::hash(&[&salted.concat()[..], &parts.concat()].concat()))
    };
    let total = number(copy, 88, 4) as usize;
    assert_eq!(&copy[..8], b"dm-remap");
    assert_eq!([number(copy, 8, 4), number(copy, 12, 4)], [1, u64::from(place)]);
    assert_eq!(number(copy, 508, 4), crc(&[&copy[..508]]));
    assert_eq!(number(copy, 504, 4), crc(&[&copy[..504], &copy[512..total]]));
    let mut out = Decoded {
        generation: number(copy, 64, 8),
        committed: number(copy, 72, 8),
        data_start: number(copy, 80, 8),
        digest: copy[96..128].to_vec(),
        ..Decoded::default()
    };
    // Setup, generation, time, flags; then the sections.
    let mut content = [&copy[32..48], &copy[64..80], &copy[16..32]].concat();
    for entry in (0..number(copy, 92, 4) as usize).map(|n| 128 + n * 16) {
        let (kind, mut at) = (number(copy, entry, 4), number(copy, entry + 4, 4) as usize);
        let end = at + number(copy, entry + 8, 4) as usize;
        assert_eq!(number(copy, entry + 12, 4), crc(&[&copy[at..end]]));
        content.extend_from_slice(&copy[entry..entry + 4]);
        content.extend_from_slice(&((end - at) as u64).to_le_bytes());
        content.extend_from_slice(&copy[at..end]);
        match kind {
            1 | 2 | 4 => out.json.push(serde_json::from_slice(&copy[at..end]).unwrap()),
            3 => {
                (out.main_len, out.unit) = (number(copy, at, 8), number(copy, at + 8, 4));
                let (groups, losses) = (number(copy, at + 12, 4), number(copy, at + 24, 8));
                at += 40;
                for _ in 0..groups {
                    let (spare, count) = (number(copy, at, 4), number(copy, at + 4, 4));
                    at += 8;
                    let mut start = 0;
                    for [gap, len, slot] in list(copy, &mut at, count) {
                        let first = (start + gap) * out.unit;
                        start += gap + len + 1;
                        let end = (start * out.unit).min(out.main_len);
                        out.extents.push([spare, first, end - first, slot * out.unit]);
                    }
                }
                let mut start = 0;
                for [gap, len, fate] in list(copy, &mut at, losses) {
                    out.losses.push([start + gap, len + 1, fate]);
                    start += gap + len + 1;
                }
                assert!(copy[at..end].iter().all(|b| *b == 0));
            }
            5 => out.bad.extend(
                (at..end)
                    .step_by(24)
                    .map(|run| [number(copy, run, 8), number(copy, run + 8, 8), number(copy, run + 16, 8)]),
            ),
            6 => out
                .lineage
                .extend((at..end).step_by(40).map(|one| (number(copy, one, 8), copy[one + 8..one + 40].to_vec()))),
            _ => {}
        }
    }
    assert_eq!(out.digest, Sha256::digest(content).to_vec());
    out
}

#[test]
fn a_decoder_written_from_the_document_alone_reads_the_golden_image() {
    let found = decode(&golden::all()[1].bytes(), 3);
    let numbers = [found.generation, found.committed, found.data_start];
    assert_eq!(numbers, [2, 1_700_000_600, 10_240]);
    assert_eq!([found.main_len, found.unit], [2_000_003, 8]);
    assert_eq!(
        found.extents,
        [[0, 16, 8, 10_240], [0, 1000, 24, 10_256], [0, 200_000, 8, 10_248], [1, 2_000_000, 3, 10_240],]
    );
    assert_eq!(found.losses, [[16, 1, 2], [300, 1, 3], [1004, 2, 1]]);
    assert_eq!(found.bad, [[1, 10_300, 2]]);
    assert_eq!(found.lineage.len(), 1);
    assert_eq!((found.lineage[0].0, found.lineage[0].1[..2].to_vec()), (1, vec![0xE0, 0xE1]));
    assert_eq!(found.json[0]["name"], "demo");
    assert_eq!(found.json[0]["policy"]["unreadable"], "zero");
    assert_eq!(found.json[0]["main"]["size"], 2_000_003);
    assert_eq!(found.json[0]["active"]["time"], 1_700_000_500);
    let second = &found.json[1]["spares"][1];
    assert_eq!(second["uuid"], "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeee01");
    assert_eq!(found.json[2]["sectors_moved"], 43);
    // The fingerprint, as the document says.
    let fields = "serial=S-1\0size=20480\0logical_block=1\0physical_block=1\0";
    let hex: String = Sha256::digest(fields).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(second["identity"]["fingerprint"], hex);
}

#[test]
fn both_decoders_agree_on_copies_of_any_size() {
    for (extents, seed) in [(0, 1), (1, 2), (255, 3), (256, 4), (257, 5), (5000, 6)] {
        let mut metadata = support::metadata(1, 5);
        support::scatter(&mut metadata, extents, seed);
        let held: Vec<_> = metadata.map.extents().step_by(7).map(|e| e.range).collect();
        for range in held {
            metadata.map.record_loss(range, Fate::Held).unwrap();
        }
        let encoded = dm_remap::format::copy::encode(&metadata).unwrap();
        let found = decode(&support::stamped(&encoded, metadata.spares[4].uuid, 2), 2);
        assert_eq!(found.digest, encoded.digest());
        let mut all = found.extents;
        all.sort_by_key(|row| row[1]);
        let known = metadata.map.extents().map(|e| {
            let (spare, slot) = (u64::from(e.slot.spare.0), e.slot.start.0);
            [spare, e.range.start().0, e.range.len().0, slot]
        });
        assert_eq!(all, known.collect::<Vec<_>>());
        let lost = metadata.map.losses().iter();
        let lost: Vec<_> = lost.map(|l| [l.range.start().0, l.range.len().0, 1]).collect();
        assert_eq!(found.losses, lost);
    }
}
