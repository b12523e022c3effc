//! The real program, with one of its system calls failing, while a setup is in use: no device is left suspended, no byte is
//! wrong, the map is the old one or the new one, and the next command goes on.
//!
//! ```text
//! scripts/guest --disk 16M … --env DM_REMAP_GUEST=1 -- target/debug/deps/guest_inject-… --test-threads=1 --nocapture
//! ```
//!
//! Which calls fail, and how, is drawn at random: `DM_REMAP_SEED=N` draws others, `DM_REMAP_FAULTS=N` that many, and none is begun
//! after `DM_REMAP_SECONDS=N`. A failure names seed and fault; `DM_REMAP_FAULT=N` makes only the one with that number.
// guest: --disk 16M --disk 24M --disk 24M --timeout 7200
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "guest_kill/campaign.rs"]
#[allow(dead_code)] // the kills use more of it
mod campaign;
mod live;
#[path = "guest_kill/strace.rs"]
#[allow(dead_code)] // the kills use more of it
mod strace;

use campaign::{Campaign, Way};
use live::{Random, dm_remap, in_guest};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use strace::{Call, run_with, trace};

/// What is moved.
const RANGES: [(u64, u64); 3] = [(96, 8), (1000, 24), (9_000, 96)];
/// How many faults are made when nothing else is asked for.
const FAULTS: u64 = 24;
/// A fault that takes longer is told of.
const SLOW: Duration = Duration::from_secs(5);
const ERRORS: [&str; 4] = ["EIO", "ENOSPC", "ENOMEM", "EINTR"];

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// A command, and what else has to be done for it to find something to do.
#[derive(Clone, Copy, Debug)]
enum Job {
    Move(Way),
    /// A command that moves nothing.
    Other(&'static [&'static str]),
}

const JOBS: [Job; 6] = [
    Job::Move(Way::There),
    Job::Other(&["layout", "kill", "switched"]),
    Job::Other(&["policy", "kill", "--allocation", "best-fit"]),
    Job::Move(Way::Back),
    Job::Other(&["layout", "kill", "flat"]),
    Job::Other(&["policy", "kill", "--allocation", "first-fit"]),
];

impl Job {
    fn args(self, campaign: &Campaign) -> Vec<&str> {
        match self {
            Job::Move(way) => campaign.args(way),
            Job::Other(args) => args.to_vec(),
        }
    }
}

/// Calls that can fail at all. The standard library takes a clock, or random numbers, that fail for a defect of the kernel,
/// and panics.
fn may_fail(call: &Call) -> bool {
    const CANNOT: [&str; 7] =
        ["execve", "exit_group", "exit", "rt_sigreturn", "restart_syscall", "clock_gettime", "getrandom"];
    !CANNOT.contains(&&*call.name)
}

/// Ends what the fault has left for somebody to settle, as the person would; how it was.
fn settle(campaign: &Campaign, what: &str) -> &'static str {
    assert!(live::wait_for(live::LONGEST_GAP, || !campaign.setup.suspended()), "{what}: suspended");
    live::nobody_left();
    let status = campaign.setup.command("status", &["--json"]).expect(&[0, 3]);
    let json: serde_json::Value = serde_json::from_str(&status.out).unwrap();
    let spares = json["spares"].as_array().cloned().unwrap_or_default();
    let failed: Vec<&serde_json::Value> = spares.iter().filter(|spare| spare["state"] == "failed").collect();
    let mut how = "settled";
    if json["state"] == "unsettled" {
        campaign.setup.command("recover", &[]).expect(&[0, 3]);
        how = "recovered";
    }
    for spare in failed {
        dm_remap(&["spare", "readd", "kill", &spare["index"].to_string()]).expect(&[0, 3]);
        how = "readded";
    }
    how
}

/// First a name, then one of the calls of that name: most calls read files, and a few decide.
fn draw<'a>(calls: &'a [Call], random: &mut Random) -> &'a Call {
    let names: BTreeSet<&str> = calls.iter().map(|call| &*call.name).collect();
    let name = *names.iter().nth(random.below(names.len() as u64) as usize).unwrap();
    let named: Vec<&Call> = calls.iter().filter(|call| call.name == name).collect();
    named[random.below(named.len() as u64) as usize]
}

#[test]
fn any_system_call_may_fail() {
    if !in_guest() {
        return;
    }
    assert!(strace::usable(), "strace cannot inject here");
    let (seed, faults, only) =
        (number("DM_REMAP_SEED", 1), number("DM_REMAP_FAULTS", FAULTS), number("DM_REMAP_FAULT", 0));
    let limit = Duration::from_secs(number("DM_REMAP_SECONDS", 3600));
    let campaign = Campaign::begin(live::disk(0), vec![live::disk(1), live::disk(2)], &RANGES, &[]);
    let calls: Vec<Vec<Call>> = JOBS
        .iter()
        .map(|job| {
            let (ended, calls) = trace(&job.args(&campaign));
            ended.expect(&[0, 3]);
            calls.into_iter().filter(may_fail).collect()
        })
        .collect();
    println!("seed {seed}; calls: {:?}", calls.iter().map(Vec::len).collect::<Vec<_>>());
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut outcomes: BTreeMap<String, u64> = BTreeMap::new();
    let (begun, mut made) = (Instant::now(), 0);
    for fault in 1..=faults {
        let turn = fault as usize % JOBS.len();
        let (job, all) = (JOBS[turn], &calls[turn]);
        let call = draw(all, &mut random);
        let error = ERRORS[random.below(ERRORS.len() as u64) as usize];
        if (only != 0 && fault != only) || begun.elapsed() > limit {
            continue;
        }
        let what = format!("seed {seed}, fault {fault}: {job:?}, {error} from {call:?}");
        // Whatever the last one has left: this one must have something to do.
        match job {
            Job::Move(Way::There) if campaign.moved() => drop(campaign.move_on(Way::Back)),
            Job::Move(Way::Back) if !campaign.moved() => drop(campaign.move_on(Way::There)),
            _ => {}
        }
        let clock = Instant::now();
        let ended = run_with(&format!("error={error}"), call, &job.args(&campaign));
        // 101 is a panic.
        assert!(matches!(ended.code, None | Some(0..=4 | 134)), "{what}: {ended:?}");
        let how = settle(&campaign, &what);
        campaign.right(&what);
        campaign.note_gap(&what);
        let code = ended.code.map_or("a signal".into(), |code| code.to_string());
        *outcomes.entry(format!("exit {code}, {how}")).or_default() += 1;
        made += 1;
        if clock.elapsed() > SLOW {
            println!("{what}: {ended:?}, {how}, after {:?}", clock.elapsed());
        }
        if made % 50 == 0 {
            println!("{made} faults, {:?}: {outcomes:?}", begun.elapsed());
        }
    }
    println!("{made} faults in {:?}: {outcomes:?}", begun.elapsed());
    assert!(made > 0 && (only != 0 || outcomes.len() > 1), "nothing failed: {outcomes:?}");
    campaign.end("system calls that fail");
}
