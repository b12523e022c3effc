//! Images of the three layouts, built from their description and not from the reader's constants.

use super::*;
use proptest::prelude::*;

/// A device with room for everything.
fn device() -> Vec<u8> {
    vec![0; 9000 * 512]
}

fn put(to: &mut [u8], at: usize, bytes: &[u8]) {
    to[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Bit by bit: polynomial 0xEDB88320 reflected, initial value 0, nothing inverted.
fn plain_crc(bytes: impl Iterator<Item = u8>) -> u32 {
    bytes.fold(0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 })
    })
}

/// original, slot, flags
type Row = (u64, u64, u16);

fn v4_copy(sequence: u64, time: u64, rows: &[Row]) -> Vec<u8> {
    let mut c = vec![0u8; 84_288];
    put(&mut c, 0, &0x444D_5234u32.to_le_bytes());
    put(&mut c, 4, &4u32.to_le_bytes());
    put(&mut c, 8, &sequence.to_le_bytes());
    put(&mut c, 16, &time.to_le_bytes());
    put(&mut c, 32, &84_288u32.to_le_bytes());
    put(&mut c, 120, &16_384u64.to_le_bytes());
    put(&mut c, 128, &9000u64.to_le_bytes());
    put(&mut c, 136, &512u32.to_le_bytes());
    put(&mut c, 256, &97u32.to_le_bytes());
    put(&mut c, 296, &(rows.len() as u32).to_le_bytes());
    put(&mut c, 300, &2048u32.to_le_bytes());
    for (n, (original, slot, flags)) in rows.iter().enumerate() {
        let at = 312 + 40 * n;
        put(&mut c, at, &original.to_le_bytes());
        put(&mut c, at + 8, &slot.to_le_bytes());
        put(&mut c, at + 34, &flags.to_le_bytes());
    }
    sign(&mut c);
    c
}

fn sign(copy: &mut [u8]) {
    let crc = plain_crc(copy[..24].iter().chain(&copy[28..]).copied());
    put(copy, 24, &crc.to_le_bytes());
}

fn put_v4(device: &mut [u8], copies: &[usize], sequence: u64, time: u64, rows: &[Row]) {
    for copy in copies {
        put(device, copy * 131_072, &v4_copy(sequence, time, rows));
    }
}

fn put_helper(device: &mut [u8]) {
    let mut c = vec![0u8; 512];
    put(&mut c, 0, &0x444D_5234u32.to_le_bytes());
    put(&mut c, 4, &4u32.to_le_bytes());
    put(&mut c, 32, &2048u32.to_le_bytes());
    put(&mut c, 40, format!("{:<37}", "1b671a64-40d5-491e-99b0-da01ff1f3341").as_bytes());
    put(&mut c, 114, &16_384u64.to_le_bytes());
    put(&mut c, 122, &9000u64.to_le_bytes());
    put(&mut c, 130, &512u32.to_le_bytes());
    put(&mut c, 144, format!("{:<128}", "/dev/sdb").as_bytes());
    put(&mut c, 272, format!("{:<128}", "/dev/sdc").as_bytes());
    for start in [0usize, 1024, 2048, 4096, 8192] {
        put(device, start * 512, &c);
    }
}

fn put_v3(device: &mut [u8], rows: &[(u64, u64)]) {
    put(device, 0, b"DMREMAP3");
    put(device, 8, &1u32.to_le_bytes());
    put(device, 12, &0xdead_beefu32.to_le_bytes());
    put(device, 32, &(rows.len() as u32).to_le_bytes());
    put(device, 36, &252u32.to_le_bytes());
    put(device, 40, &16_384u64.to_le_bytes());
    put(device, 48, &9000u64.to_le_bytes());
    for (n, (original, slot)) in rows.iter().enumerate() {
        put(device, 8 * 512 + 16 * n, &original.to_le_bytes());
        put(device, 8 * 512 + 16 * n + 8, &slot.to_le_bytes());
    }
}

fn reader(device: &[u8]) -> impl Fn(u64, usize) -> Result<Vec<u8>, String> + '_ {
    |offset, len| {
        let at = offset as usize;
        if at >= device.len() {
            Err("beyond the end".into())
        } else {
            Ok(device[at..device.len().min(at + len)].to_vec())
        }
    }
}

fn read_copy(device: &[u8], copy: Option<usize>) -> Result<ModuleMetadata, ModuleError> {
    read_module_metadata(&reader(device), copy)
}

fn read(device: &[u8]) -> ModuleMetadata {
    read_copy(device, None).unwrap()
}

const GROUND: Ground = Ground { main: Sectors(16_384), spare: Sectors(9000), in_place: false };

/// Original, slot, doubts of all entries.
fn judged(metadata: &ModuleMetadata, ground: &Ground) -> Vec<(u64, u64, Vec<Doubt>)> {
    judge(metadata, ground).into_iter().map(|j| (j.entry.original.0, j.entry.slot.0, j.doubts)).collect()
}

#[test]
fn version_4_is_read_and_its_crc_checked() {
    let mut d = device();
    put_v4(&mut d, &[0, 1, 2, 3, 4], 7, 100, &[(500, 2000, 2), (501, 2001, 2)]);
    let m = read(&d);
    assert_eq!((m.layout, m.copy, m.main_sectors), (Layout::V4, (0, Sectors(0)), Sectors(16_384)));
    assert_eq!(judged(&m, &GROUND), [(500, 2000, vec![]), (501, 2001, vec![])]);
    assert!(m.notes.is_empty(), "{:?}", m.notes);
    // Any bit under the CRC, in the first copy: the second is taken, and the first is told of.
    for at in [8usize, 17, 30, 312, 84_287] {
        let mut d = d.clone();
        d[at] ^= 0x10;
        let m = read(&d);
        assert_eq!(m.copy, (1, Sectors(256)), "byte {at}");
        assert!(m.notes.iter().any(|n| n.contains("copy 0") && n.contains("CRC")), "{:?}", m.notes);
    }
    // As the description has it: zlib.crc32(data, 0xffffffff) ^ 0xffffffff, computed by Python for this text.
    assert_eq!(plain_crc(b"hello".repeat(30).into_iter()), 0xd8df_8168);
}

#[test]
fn the_highest_sequence_wins_then_the_later_time() {
    let (old, new): ([Row; 1], [Row; 1]) = ([(1, 2000, 2)], [(1, 2001, 2)]);
    let mut d = device();
    put_v4(&mut d, &[0, 1, 2], 7, 100, &old);
    put_v4(&mut d, &[3, 4], 8, 101, &new);
    assert_eq!(judged(&read(&d), &GROUND), [(1, 2001, vec![])]);
    put_v4(&mut d, &[3, 4], 7, 101, &new);
    assert_eq!(judged(&read(&d), &GROUND), [(1, 2001, vec![])]);
    assert!(read(&d).notes.is_empty());
}

#[test]
fn a_lower_sequence_with_a_later_time_is_told_and_what_differs_is_disputed() {
    let mut d = device();
    put_v4(&mut d, &[0, 1, 2], 90, 100, &[(1, 2000, 2), (2, 2001, 2), (3, 2002, 2)]);
    put_v4(&mut d, &[3, 4], 4, 5000, &[(1, 2000, 2), (2, 2007, 2), (9, 2008, 2)]);
    let m = read(&d);
    assert!(m.notes.iter().any(|n| n.contains("lower sequence, but a later time")), "{:?}", m.notes);
    let disputed = vec![Doubt::Disputed];
    assert_eq!(
        judged(&m, &GROUND),
        [(1, 2000, vec![]), (2, 2001, disputed.clone()), (3, 2002, disputed.clone()), (9, 2008, disputed)]
    );
    // Named by a person, a copy is right.
    let m = read_copy(&d, Some(3)).unwrap();
    assert_eq!(judged(&m, &GROUND), [(1, 2000, vec![]), (2, 2007, vec![]), (9, 2008, vec![])]);
    assert!(matches!(read_copy(&d, Some(9)), Err(ModuleError::Copy { index: 9, .. })));
    // Equally old, and different: nobody knows.
    put_v4(&mut d, &[0, 1, 2, 3], 4, 5000, &[(1, 2000, 2)]);
    assert!(judged(&read(&d), &GROUND).iter().any(|(at, _, doubts)| *at == 2 && *doubts == [Doubt::Disputed]));
}

#[test]
fn copies_that_cannot_be_right_are_rejected() {
    for (at, bytes, word) in
        [(4, 5u32, "version 5"), (296, 2049, "2049 entries"), (256, 101, "score of 101"), (32, 4096, "4096 bytes")]
    {
        let mut d = device();
        let mut copy = v4_copy(1, 1, &[]);
        put(&mut copy, at, &bytes.to_le_bytes());
        sign(&mut copy);
        put(&mut d, 0, &copy);
        let error = read_copy(&d, None).unwrap_err();
        assert!(matches!(&error, ModuleError::Unusable { layout: Layout::V4, .. }), "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
    assert_eq!(read_copy(&device(), None), Err(ModuleError::None));
}

#[test]
fn every_doubt_is_found() {
    use Doubt::*;
    let one = |row: Row, ground: &Ground| {
        let mut d = device();
        put_v4(&mut d, &[0], 1, 1, &[row]);
        judged(&read(&d), ground).pop().unwrap().2
    };
    assert_eq!(one((5, 1279, 2), &GROUND), [ModuleMetadata]);
    assert_eq!(one((5, 1280, 2), &GROUND), []);
    assert_eq!(one((5, 0, 2), &GROUND), [ModuleMetadata]);
    let in_place = Ground { in_place: true, spare: Sectors(20_000), ..GROUND };
    assert_eq!(one((5, 10_239, 2), &in_place), [OurMetadata]);
    assert_eq!(one((5, 10_240, 2), &in_place), []);
    assert_eq!(one((5, 9000, 2), &GROUND), [BeyondSpare]);
    assert_eq!(one((5, 8999, 2), &GROUND), []);
    assert_eq!(one((16_384, 2000, 2), &GROUND), [BeyondMain]);
    assert_eq!(one((u64::MAX, u64::MAX, 2), &GROUND), [BeyondSpare, BeyondMain]);
    assert_eq!(one((5, 2000, 1), &GROUND), [Pending]);
    assert_eq!(one((5, 2000, 3), &GROUND), [Pending]);
    assert_eq!(one((5, 2000, 0), &GROUND), [Inactive]);
}

#[test]
fn shared_slots_and_duplicates_are_told_apart() {
    let mut d = device();
    put_v4(&mut d, &[0], 1, 1, &[(5, 2000, 2), (6, 2000, 2), (7, 2001, 2), (7, 2002, 2), (8, 2003, 2), (8, 2003, 2)]);
    use Doubt::*;
    assert_eq!(
        judged(&read(&d), &GROUND),
        [
            (5, 2000, vec![Shared]),
            (6, 2000, vec![Shared]),
            (7, 2001, vec![Duplicate]),
            (7, 2002, vec![]),
            (8, 2003, vec![Duplicate]),
            (8, 2003, vec![]),
        ]
    );
    // What is not counted any more does not replace what is.
    let mut copy = v4_copy(1, 1, &[(5, 2000, 2), (5, 2001, 2)]);
    put(&mut copy, 296, &1u32.to_le_bytes());
    sign(&mut copy);
    put(&mut d, 0, &copy);
    assert_eq!(judged(&read(&d), &GROUND), [(5, 2000, vec![]), (5, 2001, vec![Duplicate, Uncounted])]);
}

#[test]
fn the_helpers_metadata_is_told_from_the_modules_by_its_size_field() {
    let mut d = device();
    put_helper(&mut d);
    let m = read(&d);
    assert_eq!((m.layout, m.entries.len(), m.main_sectors), (Layout::Helper, 0, Sectors(16_384)));
    assert!(m.names.contains(&("main path", "/dev/sdb".into())), "{:?}", m.names);
    assert!(m.names.contains(&("main UUID", "1b671a64-40d5-491e-99b0-da01ff1f3341".into())), "{:?}", m.names);
    // Sector 1024 is a place of both: the module's fifth copy there is not the helper's second.
    put_v4(&mut d, &[0, 1, 2, 3, 4], 3, 3, &[(5, 2200, 2)]);
    let m = read(&d);
    assert_eq!(m.layout, Layout::V4);
    assert_eq!(judged(&m, &GROUND), [(5, 2200, vec![])]);
    assert!(m.notes.iter().any(|n| n.contains("older metadata of the shell helper")));
    // The helper again, over the module's.
    put_helper(&mut d);
    let m = read(&d);
    assert_eq!(judged(&m, &GROUND), [(5, 2200, vec![Doubt::Mixed])]);
}

#[test]
fn version_3_is_read_and_its_counts_are_checked() {
    let mut d = device();
    put_v3(&mut d, &[(5, 15), (6, 16), (7, 9000), (8, 17), (8, 18), (9, 20), (10, 20), (16_384, 30)]);
    let m = read(&d);
    assert_eq!((m.layout, m.spare_sectors), (Layout::V3, Sectors(9000)));
    use Doubt::*;
    assert_eq!(
        judged(&m, &GROUND),
        [
            (5, 15, vec![ModuleMetadata]),
            (6, 16, vec![]),
            (7, 9000, vec![BeyondSpare]),
            (8, 17, vec![Duplicate]),
            (8, 18, vec![]),
            (9, 20, vec![Shared]),
            (10, 20, vec![Shared]),
            (16_384, 30, vec![BeyondMain]),
        ]
    );
    for (at, value, word) in
        [(8, 2u32, "version 2"), (32, 253, "253 entries"), (36, 253, "at most 253"), (40, 0, "sizes")]
    {
        let mut d = d.clone();
        put(&mut d, at, &value.to_le_bytes());
        let error = read_copy(&d, None).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    // Copies of version 4 behind it: nobody knows which is meant.
    put_v4(&mut d, &[1], 3, 3, &[]);
    assert!(judged(&read(&d), &GROUND).iter().all(|(_, _, doubts)| doubts.contains(&Mixed)));
    // Cut off in its table.
    let mut short = d[..8 * 512 + 100].to_vec();
    put(&mut short, 32, &100u32.to_le_bytes());
    assert!(read_copy(&short, None).unwrap_err().to_string().contains("the device ends after 6"));
}

#[test]
fn what_cannot_be_read_hides_only_itself() {
    let mut d = device();
    put_v4(&mut d, &[0, 1], 3, 3, &[(5, 2200, 2)]);
    let read =
        |offset: u64, len: usize| if offset < 131_072 { Err("EIO".to_string()) } else { reader(&d)(offset, len) };
    let m = read_module_metadata(&read, None).unwrap();
    assert_eq!(m.copy.0, 1);
    assert!(m.notes.iter().any(|n| n == "copy 0: EIO"), "{:?}", m.notes);
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(
        layout in 0usize..4,
        head in prop::collection::vec(any::<u8>(), 0..1200),
        flips in prop::collection::vec((0usize..9000 * 512, any::<u8>()), 0..40),
        cut in 0usize..9000 * 512,
        resign in any::<bool>(),
    ) {
        let mut d = device();
        match layout {
            0 => put_v4(&mut d, &[0, 2], 3, 3, &[(5, 2200, 2), (6, 2201, 1)]),
            1 => put_helper(&mut d),
            2 => put_v3(&mut d, &[(5, 2200), (6, 2201)]),
            _ => put(&mut d, 0, &head),
        }
        for (at, value) in flips {
            // Most in the first copy, where they matter.
            let at = if at % 3 == 0 { at } else { at % 84_288 };
            d[at] = value;
        }
        if resign {
            sign(&mut d[..84_288]);
        }
        read_all_layouts(&d);
        d.truncate(cut);
        read_all_layouts(&d);
        prop_assert!(read_all_layouts(&head) <= 4 * 4096);
    }

    /// However the table looks: what is believed names a sector once and a slot once, inside both devices.
    #[test]
    fn what_is_believed_is_consistent(rows in prop::collection::vec((0u64..20_000, 0u64..12_000, 0u16..4), 0..200), few in any::<bool>()) {
        let rows: Vec<Row> = rows.into_iter().map(|(o, s, f)| if few { (o % 20, 1270 + s % 30, f) } else { (o, s, f) }).collect();
        let mut d = device();
        put_v4(&mut d, &[0], 1, 1, &rows);
        let all = judge(&read(&d), &GROUND);
        prop_assert_eq!(all.len(), rows.len());
        let believed: Vec<&Judged> = all.iter().filter(|j| j.doubts.is_empty()).collect();
        for (n, a) in believed.iter().enumerate() {
            prop_assert!(a.entry.original < GROUND.main && a.entry.slot < GROUND.spare && a.entry.slot >= Sectors(1280));
            for b in &believed[n + 1..] {
                prop_assert!(a.entry.original != b.entry.original && a.entry.slot != b.entry.slot);
            }
        }
        // The last one of a sector is never called a duplicate, unless a marked one stands before it.
        for j in &all {
            prop_assert!(all.iter().any(|o| o.entry.original == j.entry.original && !o.doubts.contains(&Doubt::Duplicate)));
        }
    }
}
