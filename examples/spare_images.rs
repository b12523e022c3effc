//! Makes image files of spares for benches/assembly, and reads them as plainly as can be.
//!
//! `spare_images make FOLDER FILES SETUPS SPARES EXTENTS`: image files `0000.img`..., sparse; the first SETUPS x SPARES
//! hold all five copies of the metadata of a setup with that many scattered extents, the others nothing.
//!
//! `spare_images read FILE...`: reads of each file what a search for spares has to read (the first block in the place of
//! each copy; where a header of ours stands there, the copy), one file after the other, past the page cache.

use anyhow::{Context, Result, bail, ensure};
use dm_remap::block::Disk;
use dm_remap::block::direct::{DirectDisk, Mode};
use dm_remap::block::host::Host;
use dm_remap::format::copy::{encode, index_u32};
use dm_remap::format::metadata::{Config, Health, Metadata, Policy, SetupState, SpareRecord, SpareState, UnknownKeys};
use dm_remap::format::{COPY_STARTS, DATA_START, MAX_SPARES};
use dm_remap::identity::Identity;
use dm_remap::map::{Map, Slot, SpareIndex};
use dm_remap::store::raw::RawCopy;
use dm_remap::units::{Range, Sectors};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use uuid::Uuid;

/// Sectors in the smallest run that is remapped.
const UNIT: u64 = 8;
/// Units of main for each extent: scattered so that no two extents touch.
const SPACING: u64 = 10;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((word, rest)) if word == "make" => match rest {
            [folder, numbers @ ..] => make(Path::new(folder), numbers),
            [] => bail!("make wants FOLDER FILES SETUPS SPARES EXTENTS"),
        },
        Some((word, files)) if word == "read" => read(files),
        _ => bail!("usage: spare_images make FOLDER FILES SETUPS SPARES EXTENTS | spare_images read FILE..."),
    }
}

fn make(folder: &Path, numbers: &[String]) -> Result<()> {
    let numbers: Vec<u64> = numbers.iter().map(|n| n.parse().context("a number is wanted")).collect::<Result<_>>()?;
    let [files, setups, spares, extents] = numbers.as_slice() else { bail!("four numbers are wanted") };
    let spares_each = u8::try_from(*spares).ok().filter(|n| (1..=MAX_SPARES).contains(&usize::from(*n)));
    let spares_each = spares_each.context("a setup has 1 to 16 spares")?;
    let taken = setups.checked_mul(*spares).context("too many spares")?;
    ensure!(taken <= *files, "{taken} spares do not fit into {files} files");
    let slots = extents.div_ceil(*spares).max(1).checked_mul(UNIT).context("too many extents")?;
    let size = DATA_START.checked_add(Sectors(slots)).context("too many extents")?;
    for number in 0..*files {
        let file = File::create(folder.join(format!("{number:04}.img")))?;
        file.set_len(bytes_of(size)?)?;
    }
    for setup in 0..*setups {
        let metadata = metadata(setup, spares_each, *extents, size)?;
        let encoded = encode(&metadata)?;
        let mut copy = vec![0; encoded.len()];
        for (place, record) in (0_u64..).zip(&metadata.spares) {
            let name = format!("{:04}.img", setup * u64::from(spares_each) + place);
            let file = File::options().write(true).open(folder.join(name))?;
            for (index, start) in COPY_STARTS.into_iter().enumerate() {
                encoded.stamp(&mut copy, record.uuid, record.data_start, index_u32(index).context("five copies")?);
                file.write_all_at(&copy, bytes_of(start)?)?;
            }
        }
    }
    Ok(())
}

fn bytes_of(sectors: Sectors) -> Result<u64> {
    sectors.to_bytes().map(|bytes| bytes.0).context("too large")
}

fn identity(serial: Option<String>, size: Sectors) -> Identity {
    let blocks = Identity { logical_block: Sectors(1), physical_block: Sectors(1), ..Identity::default() };
    Identity { serial, size, ..blocks }.with_fingerprint()
}

fn metadata(setup: u64, spares: u8, extents: u64, size: Sectors) -> Result<Metadata> {
    let main = Sectors((extents + 1).checked_mul(UNIT * SPACING).context("too many extents")?);
    let mut map = Map::new(main, Sectors(UNIT))?;
    for number in 0..extents {
        // Neighbours on main are on different spares, and a gap that varies keeps the columns of the map section honest.
        let at = number * SPACING + number * 7 % (SPACING - 1);
        let range = Range::new(Sectors(at * UNIT), Sectors(UNIT)).context("an empty range")?;
        let spare = SpareIndex(u8::try_from(number % u64::from(spares))?);
        let start = DATA_START.checked_add(Sectors(number / u64::from(spares) * UNIT)).context("too many extents")?;
        map.insert(range, Slot { spare, start })?;
    }
    let number = |index: u64| Uuid::from_u128(u128::from(setup + 1) << 64 | u128::from(index));
    let record = |index: u8| SpareRecord {
        uuid: number(u64::from(index) + 1),
        data_start: DATA_START,
        state: SpareState::Present,
        holds: None,
        removed: None,
        identity: identity(None, size),
        unknown: UnknownKeys::new(),
    };
    Ok(Metadata {
        setup: number(0),
        generation: 1,
        committed: 1_700_000_000,
        compatible: 0,
        incompatible: 0,
        config: Config {
            name: format!("setup{setup}"),
            state: SetupState::Ready,
            created: 1_700_000_000,
            main: identity(Some(format!("bench-main-{setup}")), main),
            policy: Policy::default(),
            active: None,
            samples: None,
            unknown: UnknownKeys::new(),
        },
        spares: (0..spares).map(record).collect(),
        map,
        health: Health::default(),
        bad_blocks: Default::default(),
        lineage: Vec::new(),
        unknown_sections: Vec::new(),
    })
}

fn read(files: &[String]) -> Result<()> {
    let host = Host::real();
    let mut bytes = 0;
    for file in files {
        let disk = DirectDisk::open(&host, Path::new(file), Mode::ReadOnly)?;
        ensure!(disk.size() > DATA_START, "{file} is too small for a spare");
        for index in 0..COPY_STARTS.len() {
            match RawCopy::read(&disk, index) {
                RawCopy::Bytes(copy) => bytes += copy.len(),
                RawCopy::Beyond => {}
                RawCopy::Unreadable { reason, .. } => bail!("{reason}"),
            }
        }
    }
    println!("{bytes} bytes of {} files", files.len());
    Ok(())
}
