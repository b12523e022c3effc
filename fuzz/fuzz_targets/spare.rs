//! A whole spare: five copies that differ in places, chosen among and checked in depth.
#![no_main]

use dm_remap::block::ram::{Power, RamDisk};
use dm_remap::engine::Silent;
use dm_remap::format::COPY_STARTS;
use dm_remap::format::choose::{Expected, choose_setup};
use dm_remap::store::read_copies;
use dm_remap::units::Sectors;
use dm_remap::validate::examine;
use dm_remap_fuzz::{assembled, check_valid};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // Ten bytes say how the copies differ: for each where a byte is changed, and to what (0: not at all).
    let (changes, base) = data.split_at(data.len().min(10));
    let mut image = std::collections::HashMap::new();
    for (index, start) in (0u32..).zip(COPY_STARTS) {
        let mut own = base.to_vec();
        if let [at, to] = changes.chunks(2).nth(index as usize).unwrap_or_default()
            && *to != 0
            && let Some(byte) = own.get_mut(usize::from(*at) * 4)
        {
            *byte = byte.wrapping_add(*to);
        }
        for (sector, chunk) in (start.0..).zip(assembled(&own, index).chunks_exact(512)) {
            image.insert(sector, chunk.try_into().unwrap());
        }
    }
    let disk = RamDisk::from_image("spare", Sectors(40_000), Sectors(1), Power::new(), image);
    let reading = read_copies(&disk, Expected::default());
    if let Ok(chosen) = reading.choose() {
        check_valid(&chosen.copy, 0);
        let _ = choose_setup(&[chosen.clone(), chosen.clone()]);
        assert_eq!(choose_setup(std::slice::from_ref(&chosen)).expect("one spare alone").newest, chosen.copy);
    }
    let _ = examine(&disk, false, &Silent);
});
