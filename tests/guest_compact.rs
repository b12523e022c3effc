//! Allocation policies in the map of a real setup, and `compact` while the setup is in use: run through, interrupted and
//! gone on with, and killed.
// guest: --disk 10M --disk 8M --disk 8M --disk 7M --timeout 900
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod live;

use live::load::{Load, fill};
use live::{LONGEST_GAP, Random, Setup, disk, dm_remap, in_guest, nobody_left, program, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Chains of neighbours on main, in units of 8 sectors: where each begins, and how many units it has.
const CHAINS: [(u64, u64); 4] = [(100, 4), (400, 4), (900, 4), (1500, 4)];

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Remaps the units of the chains in turns, so that no two neighbours get slots beside each other.
fn scatter(setup: &Setup) {
    let remap = |sectors: &[String]| {
        setup.command("remap", &sectors.iter().map(String::as_str).collect::<Vec<_>>()).expect(&[0]);
    };
    for n in 0..CHAINS[0].1 {
        let units = CHAINS.map(|(start, _)| format!("{}+8", (start + n) * 8));
        // The first by itself: it takes the slot behind the last unit of the turn before.
        remap(&units[..1]);
        remap(&units[1..]);
    }
    let all: usize = CHAINS.iter().map(|c| c.1 as usize).sum();
    assert_eq!(setup.extents().len(), all, "{:?}", setup.extents());
}

fn compact(setup: &Setup, more: &[&str], codes: &[i32]) -> Value {
    let args: Vec<&str> = ["--json"].iter().chain(more).copied().collect();
    json(&setup.command("compact", &args).expect(codes).out)
}

fn start_compact(setup: &Setup, batch: &str) -> Child {
    let args = ["compact", &setup.name, "--json", "--batch", batch];
    Command::new(program())
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// One extent for each chain, and the table is the map.
#[track_caller]
fn is_compact(setup: &Setup) {
    let extents = setup.extents();
    let ranges: Vec<(u64, u64)> = extents.iter().map(|e| (e.start, e.count)).collect();
    assert_eq!(ranges, CHAINS.map(|(start, len)| (start * 8, len * 8)));
    setup.table_is(&extents);
}

/// A filled main, scattered extents, and somebody who reads and writes all the time.
fn in_use(name: &str, spares: usize) -> (Setup, Load) {
    let main = disk(0);
    fill(&main, live::sectors(&main));
    let setup = Setup::create(name, main, (1..=spares).map(disk).collect());
    scatter(&setup);
    let hot: Vec<(u64, u64)> = CHAINS.iter().map(|(start, len)| (start * 8 - 32, len * 8 + 64)).collect();
    let load = Load::start(&setup.node(), setup.sectors, &hot, &[]);
    (setup, load)
}

/// Spare and slot of a sector.
fn place(setup: &Setup, sector: u64) -> (usize, u64) {
    let extents = setup.extents();
    let extent = extents.iter().find(|e| e.start <= sector && sector < e.start + e.count).unwrap();
    (extent.spare, extent.slot + sector - extent.start)
}

#[test]
fn policies_are_kept_and_seen_in_the_map() {
    if !in_guest() {
        return;
    }
    let (main, spares) = (disk(0), [disk(1), disk(2), disk(3)]);
    let paths = [&main, &spares[0], &spares[1], &spares[2]].map(|p| p.to_str().unwrap());
    let create = ["create", "pol", "--main", paths[0], "--spare", paths[1], paths[2], paths[3]];
    dm_remap(&[&create[..], &["--allocation", "round-robin"]].concat()).expect(&[0]);
    let setup =
        Setup { name: "pol".into(), sectors: live::sectors(&main), main: main.clone(), spares: spares.to_vec() };
    let remap = |sector: u64| {
        setup.command("remap", &[&format!("{sector}+8")]).expect(&[0]);
        place(&setup, sector)
    };
    let got: Vec<usize> = (0..6).map(|n| remap(n * 800).0).collect();
    assert_eq!(got, [0, 1, 2, 0, 1, 2]);
    // Beside an extent whatever the policy; the first was at the very start of spare 0.
    assert_eq!(remap(8).0, 0);
    let shown = setup.command("policy", &[]).expect(&[0]).out;
    assert!(shown.contains("allocation  round-robin") && shown.contains("unreadable  hold"), "{shown}");

    let generation =
        |setup: &Setup| json(&setup.command("status", &["--json"]).expect(&[0]).out)["setups"][0]["generation"].clone();
    let before = generation(&setup);
    let dry = setup.command("policy", &["--allocation", "least-used", "--dry-run"]).expect(&[0]).out;
    assert!(dry.contains("least-used  (was round-robin)") && dry.contains("dry run"), "{dry}");
    setup.command("policy", &["--allocation", "round-robin"]).expect(&[0]);
    assert_eq!(generation(&setup), before, "nothing was to be changed");
    let changed =
        setup.command("policy", &["--allocation", "least-used", "--unreadable", "zero", "--json"]).expect(&[0]);
    assert_eq!(json(&changed.out)["changed"], true);
    // Spare 2 is the smallest, so the same number of sectors is a larger share of it; spare 0 has one unit more than 1.
    assert_eq!(remap(10_000).0, 1);
    // It outlives the setup being down.
    setup.command("deactivate", &[]).expect(&[0]);
    dm_remap(&["activate", "pol", "--spare", paths[1], "--main", paths[0]]).expect(&[0]);
    let kept = json(&setup.command("policy", &["--json"]).expect(&[0]).out);
    assert_eq!((&kept["allocation"], &kept["unreadable"]), (&"least-used".into(), &"zero".into()));

    // A hole of one unit on spare 0, which best-fit takes before all others.
    setup.command("policy", &["--allocation", "best-fit"]).expect(&[0]);
    let hole = place(&setup, 0);
    setup.command("restore", &["0+8"]).expect(&[0]);
    assert_eq!(remap(12_000), hole);
    setup.command("policy", &["--allocation", "health"]).expect(&[0]);
    let counts = |setup: &Setup| -> BTreeMap<usize, u64> {
        let mut counts = BTreeMap::new();
        setup.extents().iter().for_each(|e| *counts.entry(e.spare).or_default() += e.count);
        counts
    };
    let before = counts(&setup);
    remap(14_000);
    assert_eq!(counts(&setup).values().sum::<u64>(), before.values().sum::<u64>() + 8);
    setup.table_is(&setup.extents());
    setup.command("policy", &["--allocation", "worst-fit"]).expect(&[2]);
    setup.destroy();
}

#[test]
fn under_load_the_table_gets_smaller_and_no_byte_is_wrong() {
    if !in_guest() {
        return;
    }
    let (setup, load) = in_use("com", 2);
    let before = setup.extents();
    let dry = compact(&setup, &["--dry-run"], &[0]);
    assert_eq!(
        (&dry["dry_run"], &dry["before"]["extents"], &dry["after"]["extents"]),
        (&true.into(), &16.into(), &4.into())
    );
    assert_eq!(setup.extents(), before, "a dry run changes nothing");
    let done = compact(&setup, &[], &[0]);
    assert_eq!(done["moves"], dry["moves"], "the plan that was printed is the one that ran");
    assert_eq!(done["after"], dry["after"]);
    assert!(done["after"]["table_lines"].as_u64() < done["before"]["table_lines"].as_u64(), "{done}");
    assert_eq!(done["after"]["free_runs"], 2, "all free space of a spare is one run: {done}");
    is_compact(&setup);
    assert_eq!(setup.stats_regions().trim(), "");
    let generation = json(&setup.command("map", &["--json"]).expect(&[0]).out)["generation"].clone();
    let text = setup.command("compact", &[]).expect(&[0]).out;
    assert!(text.contains("nothing to bring together"), "{text}");
    assert_eq!(json(&setup.command("map", &["--json"]).expect(&[0]).out)["generation"], generation);
    load.check();
    load.verify_all();
    assert!(load.longest() < LONGEST_GAP);
    println!("{} verified I/Os", load.finish());
    setup.destroy();
}

#[test]
fn interrupted_it_keeps_what_was_done_and_goes_on_when_it_is_run_again() {
    if !in_guest() {
        return;
    }
    let (setup, load) = in_use("int", 2);
    let child = start_compact(&setup, "16");
    // After the first batch, somebody else gets the lock between two of them, as a watcher would.
    assert!(wait_for(Duration::from_secs(20), || setup.extents().len() < 16), "no batch was made");
    let uuid = json(&dm_remap(&["--json", "list"]).expect(&[0]).out)["setups"][0]["uuid"].as_str().unwrap().to_string();
    let mut lock = None;
    let mut got_it = || {
        lock = dm_remap::engine::lock::take(Path::new("/run/dm-remap"), &uuid, "int").ok();
        lock.is_some()
    };
    assert!(wait_for(Duration::from_secs(20), &mut got_it), "the lock is never free");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let done = json(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(done["interrupted"], true);
    let left = setup.extents().len();
    assert!(left < 16 && left > 4, "{left}");
    assert_eq!(done["after"]["extents"], left);
    drop(lock);
    setup.table_is(&setup.extents());
    compact(&setup, &["--batch", "64"], &[0]);
    is_compact(&setup);
    load.check();
    load.verify_all();
    load.finish();
    setup.destroy();
}

#[test]
fn killed_at_any_time_the_setup_is_in_order_and_the_next_run_completes_it() {
    if !in_guest() {
        return;
    }
    let (setup, load) = in_use("kil", 2);
    let begun = Instant::now();
    let mut child = start_compact(&setup, "16");
    let mut random = Random(0x0C0F_FEE5);
    let (mut kills, mut seen) = (0, setup.extents().len());
    loop {
        std::thread::sleep(Duration::from_micros(random.below(300_000)));
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        assert!(wait_for(LONGEST_GAP, || !setup.suspended()), "suspended after kill {kills}");
        nobody_left();
        load.check();
        load.verify_hot();
        let extents = setup.extents();
        setup.table_is(&extents);
        assert!(extents.len() <= seen, "{} extents, and there were {seen}", extents.len());
        seen = extents.len();
        if ended.code() == Some(0) || kills == 8 {
            break;
        }
        kills += 1;
        child = start_compact(&setup, "16");
    }
    compact(&setup, &[], &[0]);
    is_compact(&setup);
    load.verify_all();
    assert!(load.longest() < LONGEST_GAP);
    println!("{kills} kills, {seen} extents after the last, {} verified I/Os, {:?}", load.finish(), begun.elapsed());
    setup.destroy();
}
