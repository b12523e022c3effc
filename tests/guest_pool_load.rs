//! Spares are added, emptied, taken back, replaced and removed while fio and our own load verify every byte; then each of
//! these commands is killed at system calls all over its course, under load, and run again.
//!
//! `DM_REMAP_KILL_ALL=1` kills at every system call instead of a sample.
// guest: --disk 16M --disk 16M --disk 16M --disk 16M --timeout 3000
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod live;
#[allow(dead_code, reason = "guest_kill uses the rest")]
#[path = "guest_kill/strace.rs"]
mod strace;

use live::fio::Fio;
use live::load::{Load, fill};
use live::pool::{follow, spares};
use live::{LONGEST_GAP, Random, Setup, asked_for, disk, dm_remap, in_guest, nobody_left, sectors, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use strace::{Call, kill_at, trace};

/// What fio works on, in sectors; the rest of the device belongs to our own load.
const FIO_SECTORS: u64 = 16_384;

/// Runs `dm-remap spare VERB NAME ARGS`.
#[track_caller]
fn spare(verb: &str, name: &str, args: &[&str]) {
    let mut all = vec!["spare", verb, name];
    all.extend(args);
    dm_remap(&all).expect(&[0]);
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_pool_changes_under_fio() {
    if !in_guest() {
        return;
    }
    let begun = Instant::now();
    let disks: Vec<PathBuf> = (0..4).map(disk).collect();
    let size = sectors(&disks[0]);
    fill(&disks[0], size);
    let mut setup = Setup::create("pool", disks[0].clone(), vec![disks[1].clone()]);
    // Scattered extents under fio and under our own load.
    let ranges: Vec<String> = (0..90).map(|n| format!("{}+{}", n * 180 + 8, 8 * (1 + n % 3))).collect();
    setup.command("remap", &ranges.iter().map(String::as_str).collect::<Vec<_>>()).expect(&[0]);
    setup.command("remap", &["17000+2000"]).expect(&[0]);
    let extents = setup.extents().len();
    let limit = format!("--size={}", FIO_SECTORS * 512);
    let mut fio = Fio::start("pool", text(&setup.node()), &[&limit, "--ioengine=libaio", "--iodepth=4"], 600);
    let load = Load::start_within(&setup.node(), size, FIO_SECTORS, &[(16_990, 2_020), (30_000, 1_000)]);
    let mut commands = 0;
    let [a, b, c] = [&disks[1], &disks[2], &disks[3]];
    let (old, new, other) = (a, b, c);
    let steps: [(&str, Vec<&str>); 7] = [
        ("add", vec![text(new)]),
        ("evacuate", vec![text(old)]),
        ("readd", vec![text(old)]),
        ("evacuate", vec![text(new), "--to", text(old)]),
        ("readd", vec![text(new)]),
        ("remove", vec![text(old)]),
        ("replace", vec![text(new), text(other)]),
    ];
    for (verb, args) in steps {
        spare(verb, "pool", &args);
        follow(&mut setup);
        let now = setup.extents();
        setup.table_is(&now);
        assert!(now.len() >= extents - 3, "{verb}: {} extents", now.len());
        load.check();
        assert!(fio.runs(), "{verb} {args:?}");
        commands += 1;
    }
    let left: Vec<(PathBuf, String)> = follow(&mut setup).into_values().collect();
    assert_eq!(left, [(other.clone(), "online".to_string())]);
    let gap = load.longest();
    let (total, longest) = fio.interrupt();
    let own = load.finish();
    setup.command("restore", &["--all"]).expect(&[0]);
    setup.destroy();
    println!(
        "{commands} changes of the pool with {extents} extents under fio: fio made {total} I/Os, longest completion \
         {longest:?}; our own load {own}, longest {gap:?}; {:?}",
        begun.elapsed()
    );
    assert!(longest < LONGEST_GAP && gap < LONGEST_GAP);
}

#[test]
fn an_evacuation_is_interrupted_and_goes_on() {
    if !in_guest() {
        return;
    }
    let main = disk(0);
    fill(&main, sectors(&main));
    let setup = Setup::create("pool", main, vec![disk(1), disk(2)]);
    // More than one swap takes.
    let ranges: Vec<String> = (0..1500).map(|n| format!("{}+8", n * 16)).collect();
    setup.command("remap", &ranges.iter().map(String::as_str).collect::<Vec<_>>()).expect(&[0]);
    let load = Load::start(&setup.node(), setup.sectors, &[(0, 24_000)], &[]);
    let left = || setup.extents().iter().filter(|extent| extent.spare == 0).count();
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let mut child = Command::new(live::program());
        let child = child.args(["spare", "evacuate", "pool", "0"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let child = child.stderr(Stdio::null()).spawn().unwrap();
        // It is at work on the first part, or not long after that.
        assert!(wait_for(Duration::from_secs(20), || setup.stats_regions().trim() != ""));
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        nobody_left();
        assert!(wait_for(LONGEST_GAP, || !setup.suspended()));
        setup.table_is(&setup.extents());
        load.check();
        if signal == Signal::SIGINT {
            let out = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(output.status.code(), Some(3), "{out}");
            assert!(out.contains("interrupted") && out.contains("to go on: dm-remap spare evacuate pool 0"), "{out}");
            println!("interrupted: {} of 1500 extents were left", left());
        }
        assert_eq!(spares("pool")[&0].1, "draining");
    }
    spare("evacuate", "pool", &["0"]);
    assert_eq!(left(), 0);
    load.finish();
    setup.command("restore", &["--all"]).expect(&[0]);
    setup.destroy();
}

/// The commands that are killed, in an order in which each begins where the one before has ended: `X` alone, `Y` free.
const VERBS: [&str; 5] = ["add", "evacuate", "readd", "replace", "remove"];

/// A setup whose members change under load.
struct Pool {
    setup: Setup,
    load: Load,
    /// The spare that is always there when a round begins; two that come and go.
    disks: [PathBuf; 3],
}

impl Pool {
    fn args(&self, verb: &'static str) -> Vec<String> {
        let [x, y, z] = self.disks.each_ref().map(|path| text(path).to_string());
        let mut args = vec!["spare".to_string(), verb.into(), "pool".into()];
        match verb {
            "add" => args.push(y),
            "replace" => args.extend([y, z]),
            _ => args.push(x),
        }
        args
    }

    /// What must be true after a kill, with nobody's help; then the command is run again, and its work is done.
    #[track_caller]
    fn after_kill(&mut self, verb: &'static str, what: &str) {
        assert!(wait_for(LONGEST_GAP, || !self.setup.suspended()), "{what}: suspended");
        nobody_left();
        let gap = self.load.longest();
        assert!(gap < LONGEST_GAP, "{what}: I/O stood still for {gap:?}");
        self.load.check();
        self.load.verify_hot();
        follow(&mut self.setup);
        self.setup.table_is(&self.setup.extents());
        let args = self.args(verb);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        // What was done already is refused.
        let again = dm_remap(&args);
        let done = again.code == Some(0) || ["add", "remove"].contains(&verb) && again.code == Some(4);
        assert!(done, "{what}, run again: {again:?}");
        self.right(verb, what);
    }

    /// The pool is as it must be when the command has ended.
    #[track_caller]
    fn right(&mut self, verb: &'static str, what: &str) {
        let found: Vec<(PathBuf, String)> = follow(&mut self.setup).into_values().collect();
        let [x, y, z] = &self.disks;
        let mut expected = match verb {
            "add" | "readd" => vec![(x, "online"), (y, "online")],
            "evacuate" => vec![(x, "draining"), (y, "online")],
            "replace" => vec![(x, "online"), (z, "online")],
            _ => vec![(z, "online")],
        };
        let mut found: Vec<(&PathBuf, &str)> = found.iter().map(|(path, state)| (path, state.as_str())).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{what}");
        let extents = self.setup.extents();
        self.setup.table_is(&extents);
        let home = if ["replace", "remove"].contains(&verb) { z } else { y };
        let moved = extents.iter().all(|extent| self.setup.spares[extent.spare] == *home);
        assert!(moved || verb == "add", "{what}: {extents:?}");
        assert!(!self.setup.has_inactive(), "{what}: a table is left in the inactive slot");
        assert_eq!(self.setup.stats_regions().trim(), "", "{what}: statistics are left");
        self.load.check();
    }

    /// What is left over is alone at the beginning of the next round.
    fn turn(&mut self) {
        self.disks.rotate_right(1);
    }
}

#[test]
fn killed_while_the_pool_changes() {
    if !in_guest() {
        return;
    }
    assert!(strace::usable(), "strace cannot inject signals here");
    let begun = Instant::now();
    let main = disk(0);
    let size = sectors(&main);
    fill(&main, size);
    let setup = Setup::create("pool", main, vec![disk(1)]);
    setup.command("remap", &["96+8", "1000+24", "9000+512", "20000+8"]).expect(&[0]);
    let hot = [(64, 72), (968, 88), (8_968, 576), (19_968, 72)];
    let load = Load::start(&setup.node(), size, &hot, &[]);
    let mut pool = Pool { setup, load, disks: [disk(1), disk(2), disk(3)] };
    // A first round tells the points at which each command can be killed.
    let mut points: BTreeMap<&str, Vec<Call>> = BTreeMap::new();
    for verb in VERBS {
        let args = pool.args(verb);
        let (ended, calls) = trace(&args.iter().map(String::as_str).collect::<Vec<_>>());
        ended.expect(&[0]);
        pool.right(verb, "traced");
        points.insert(verb, calls);
    }
    pool.turn();
    let counts: Vec<(&str, usize)> = points.iter().map(|(verb, calls)| (*verb, calls.len())).collect();
    println!("system calls: {counts:?}");
    let seed = std::env::var("DM_REMAP_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_261_120);
    println!("seed {seed}");
    let mut random = Random(seed);
    let most = points.values().map(Vec::len).max().unwrap();
    let rounds = if asked_for("DM_REMAP_KILL_ALL") { most } else { 3 };
    let (mut kills, mut survived) = (0, 0);
    for round in 0..rounds {
        for verb in VERBS {
            let calls = &points[verb];
            // One out of each part of its course, so that a few rounds see all of it.
            let part = calls.len().div_ceil(rounds);
            let nth = (round * part + random.below(part as u64) as usize).min(calls.len() - 1);
            let point = &calls[nth];
            let args = pool.args(verb);
            println!("round {round}, {verb}: {}({})", point.name, point.nth);
            let killed = kill_at(point, &args.iter().map(String::as_str).collect::<Vec<_>>());
            (kills, survived) = if killed { (kills + 1, survived) } else { (kills, survived + 1) };
            pool.after_kill(verb, &format!("round {round}, {verb} killed at {point:?}"));
        }
        pool.turn();
    }
    pool.load.verify_all();
    let operations = pool.load.finish();
    pool.setup.command("restore", &["--all"]).expect(&[0]);
    pool.setup.destroy();
    println!(
        "{kills} kills of changes of the pool ({survived} runs ended before their point), {operations} verified I/Os, {:?}",
        begun.elapsed()
    );
    assert!(kills >= rounds * 3, "only {kills} kills");
}
