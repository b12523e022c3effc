//! A list that takes more than one swap, through the real program: all of it moves and comes back, and a kill on the way
//! leaves whole parts.
// guest: --disk 136M --disk 96M --timeout 900
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod live;

use dm_remap::dm::{DeviceMapper, TableSlot};
use dm_remap::engine::splice::MOVES_AT_ONCE;
use live::load::{fill, reads_right};
use live::{Setup, disk, dm_remap, in_guest, kernel, nobody_left, program, wait_for};
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Extents: every second unit of 4 KiB, and a few more than one swap makes.
const COUNT: usize = MOVES_AT_ONCE.get() + 400;
const LIST: [&str; 4] = ["--from-badblocks", "/tmp/units", "--block-size", "4096"];

fn swaps(setup: &Setup) -> u64 {
    let shown = dm_remap(&["metadata", "dump", setup.spares[0].to_str().unwrap(), "--json"]).expect(&[0]);
    let json: serde_json::Value = serde_json::from_str(&shown.out).unwrap();
    json["health"]["splices"].as_u64().expect(&shown.out)
}

#[test]
fn a_list_that_takes_two_swaps_moves_and_comes_back_and_a_kill_leaves_whole_parts() {
    if !in_guest() {
        return;
    }
    let main = disk(0);
    fill(&main, live::sectors(&main));
    let setup = Setup::create("parts", main, vec![disk(1)]);
    fs::write("/tmp/units", (0..COUNT).map(|n| format!("{}\n", 2 * n + 1)).collect::<String>()).unwrap();

    // Killed once the first part is in force.
    let mut command = Command::new(program());
    command.args(["remap", &setup.name]).args(LIST).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let table = || kernel().table(&setup.name, TableSlot::Active).unwrap();
    let before = table();
    let mut running = command.spawn().unwrap();
    assert!(wait_for(Duration::from_secs(120), || table() != before), "no part was moved");
    running.kill().unwrap();
    running.wait().unwrap();
    nobody_left();
    let moved = setup.extents().len();
    assert!(moved == MOVES_AT_ONCE.get() || moved == COUNT, "{moved}");
    println!("killed with {moved} of {COUNT} moved");
    reads_right(&setup.node());

    // Given again it does the rest; all of it comes back in two swaps.
    setup.command("remap", &LIST).expect(&[0]);
    assert_eq!(setup.extents().len(), COUNT);
    reads_right(&setup.node());
    let before = swaps(&setup);
    setup.command("restore", &["--all"]).expect(&[0]);
    assert_eq!((setup.extents().len(), swaps(&setup) - before), (0, 2));
    reads_right(&setup.node());

    // And there in two.
    let told = setup.command("remap", &[&LIST[..], &["--json"]].concat()).expect(&[0]);
    let json: serde_json::Value = serde_json::from_str(&told.out).unwrap();
    assert_eq!(json["moves"].as_array().unwrap().len(), COUNT);
    assert_eq!(swaps(&setup) - before, 4);
    reads_right(&setup.node());
    setup.destroy();
}
