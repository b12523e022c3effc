//! The real program, killed at many points of its work while a setup is in use: I/O goes on within two seconds without
//! help, no device is left suspended, no byte is wrong.
//!
//! ```text
//! scripts/guest --disk 16M … --env DM_REMAP_GUEST=1 -- target/debug/deps/guest_kill-… --test-threads=1 --nocapture
//! ```
//!
//! `DM_REMAP_KILL_ALL=1` kills at every system call instead of a sample, and waits out the guardian's long deadline.
// guest: --disk 16M --disk 24M --disk 24M --disk 16M --timeout 3000
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "guest_kill/campaign.rs"]
mod campaign;
#[path = "guest_kill/lifecycle.rs"]
mod lifecycle;
mod live;
#[path = "guest_kill/strace.rs"]
mod strace;
#[path = "guest_kill/window.rs"]
mod window;

use campaign::{Campaign, Way};
use live::{Random, asked_for, disk, dm_remap, in_guest, must, run};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use strace::{Call, kill_at, trace};

/// What is moved: a unit, a run that is not aligned to anything larger, a longer run.
const RANGES: [(u64, u64); 3] = [(96, 8), (1000, 24), (9_000, 96)];

fn campaign() -> Campaign {
    Campaign::begin(disk(0), vec![disk(1), disk(2)], &RANGES, &[])
}

/// Whether all points are wanted.
fn all_points() -> bool {
    asked_for("DM_REMAP_KILL_ALL")
}

/// All points, or a sample: `inside` ones of `dense`, where it matters, and `outside` ones of the rest.
fn sample(calls: &[Call], dense: std::ops::Range<usize>, inside: usize, outside: usize) -> Vec<Call> {
    let (in_dense, rest): (Vec<_>, Vec<_>) = calls.iter().cloned().enumerate().partition(|(i, _)| dense.contains(i));
    if all_points() {
        // What matters most first.
        return in_dense.into_iter().chain(rest).map(|(_, call)| call).collect();
    }
    let mut picked = Vec::new();
    for (from, wanted) in [(in_dense, inside), (rest, outside)] {
        let wanted = wanted.min(from.len());
        picked.extend((0..wanted).map(|i| from[i * from.len() / wanted].clone()));
    }
    picked.sort_by_key(|(i, _)| *i);
    picked.into_iter().map(|(_, call)| call).collect()
}

/// The calls from the fork of the guardian to its end.
fn guarded(calls: &[Call]) -> std::ops::Range<usize> {
    let fork = calls.iter().position(|c| ["clone", "clone3", "fork", "vfork"].contains(&&*c.name)).expect("no fork");
    let end = calls.iter().skip(fork).position(|c| c.name == "wait4").expect("no wait4");
    fork..fork + end + 1
}

/// Kills both moves at their points, in turns.
fn kill_there_and_back(campaign: &Campaign, inside: usize, outside: usize) {
    let (there, calls_there) = trace(&campaign.args(Way::There));
    there.expect(&[0, 3]);
    campaign.right("after a traced remap");
    let (back, calls_back) = trace(&campaign.args(Way::Back));
    back.expect(&[0, 3]);
    campaign.right("after a traced restore");
    println!("remap makes {} system calls, restore {}", calls_there.len(), calls_back.len());
    let there = sample(&calls_there, guarded(&calls_there), inside, outside);
    let back = sample(&calls_back, guarded(&calls_back), inside, outside);
    for i in 0..there.len().max(back.len()) {
        if i > 0 && i.is_multiple_of(25) {
            println!("{i} points done each way");
        }
        for (points, way) in [(&there, Way::There), (&back, Way::Back)] {
            if let Some(point) = points.get(i) {
                let killed = kill_at(point, &campaign.args(way));
                let moved = campaign.after_kill(&format!("{way:?} killed at {point:?}"), killed);
                campaign.complete(way, moved);
            } else {
                campaign.move_on(way);
            }
        }
    }
}

#[test]
fn killed_at_system_calls_under_load() {
    if !in_guest() {
        return;
    }
    assert!(strace::usable(), "strace cannot inject signals here");
    let campaign = campaign();
    kill_there_and_back(&campaign, 6, 5);
    campaign.end("killed at system calls");
}

#[test]
fn killed_at_random_times_under_load() {
    if !in_guest() {
        return;
    }
    let campaign = campaign();
    let begun = Instant::now();
    campaign.move_on(Way::There);
    let whole = begun.elapsed();
    campaign.move_on(Way::Back);
    let mut random = Random(0x00DD_BA11);
    let rounds = if all_points() { 200 } else { 10 };
    for round in 0..rounds {
        for way in [Way::There, Way::Back] {
            let wait = Duration::from_micros(random.below(whole.as_micros() as u64 * 3 / 4));
            let mut child = Command::new(live::program())
                .args(campaign.args(way))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(wait);
            child.kill().unwrap();
            let killed = !child.wait().unwrap().success();
            let moved = campaign.after_kill(&format!("round {round}, {way:?} killed after {wait:?}"), killed);
            campaign.complete(way, moved);
        }
    }
    campaign.end("killed at random times");
}

/// A SCSI disk with medium errors at 1000+3; where the kernel can make one.
struct BadDisk(PathBuf);

impl BadDisk {
    fn make() -> Option<BadDisk> {
        let options =
            ["dev_size_mb=16", "opts=2", "medium_error_start=1000", "medium_error_count=3", "delay=0", "max_queue=8"];
        let mut args = vec!["scsi_debug"];
        args.extend(options);
        if run("modprobe", &args).code != Some(0) {
            println!("skipped: no scsi_debug here");
            return None;
        }
        let find = || {
            std::fs::read_dir("/sys/class/block").unwrap().flatten().find_map(|entry| {
                let model = std::fs::read_to_string(entry.path().join("device/model")).ok()?;
                model.contains("scsi_debug").then(|| PathBuf::from("/dev").join(entry.file_name()))
            })
        };
        let mut found = None;
        live::wait_for(Duration::from_secs(10), || {
            found = find().filter(|path| path.exists());
            found.is_some()
        });
        let path = found.expect("scsi_debug made no disk");
        // It names a wrong sector in its errors, so a request that was merged with a bad one would fail as a whole.
        let queue = Path::new("/sys/class/block").join(path.file_name().unwrap()).join("queue/nomerges");
        std::fs::write(queue, "2").unwrap();
        Some(BadDisk(path))
    }
}

impl Drop for BadDisk {
    fn drop(&mut self) {
        let _ = run("modprobe", &["-r", "scsi_debug"]);
    }
}

#[test]
fn killed_while_blocks_are_lost_and_held() {
    if !in_guest() {
        return;
    }
    let Some(bad) = BadDisk::make() else { return };
    let campaign = Campaign::begin(bad.0.clone(), vec![disk(1)], &RANGES, &[1000, 1001, 1002]);
    kill_there_and_back(&campaign, 6, 4);
    // A held block is ordinary once it was written, whatever was killed before.
    campaign.move_on(Way::There);
    let status = campaign.setup.command("status", &["--json"]).expect(&[3]);
    assert!(status.out.contains("\"held_sectors\": 3"), "{}", status.out);
    println!("held by: {}", must("dmsetup", &["table", "kill-spare0"]).lines().next().unwrap_or_default());
    campaign.end("killed with held blocks");
}

#[test]
fn killed_with_its_guardian() {
    if !in_guest() {
        return;
    }
    let campaign = campaign();
    window::killed_with_its_guardian(&campaign, all_points());
    campaign.end("killed with its guardian");
}

#[test]
fn the_window_and_its_guardian_keep_their_promises() {
    if !in_guest() {
        return;
    }
    let campaign = campaign();
    window::what_is_called_while_suspended(&campaign);
    window::what_the_guardian_is(&campaign);
    window::signals_wait(&campaign);
    if all_points() {
        window::a_stopped_command_is_killed(&campaign);
    }
    campaign.end("promises of the window");
}

#[test]
fn killed_at_birth_and_death() {
    if !in_guest() {
        return;
    }
    lifecycle::killed_at_birth_and_death(all_points());
    assert_eq!(dm_remap(&["list"]).expect(&[0]).out.trim(), "no active setups");
}
