//! The real program, with one of its system calls failing, or killed there, while a setup is in use: no device is left
//! suspended, no byte is wrong, the map is the old one or the new one, and the next command goes on. Every changing command.
//!
//! ```text
//! scripts/guest --disk 16M … --env DM_REMAP_GUEST=1 -- target/debug/deps/guest_inject-… --test-threads=1 --nocapture
//! ```
//!
//! What is run, which of its calls fails, and how, is drawn at random, for each fault by itself: `DM_REMAP_SEED=N` draws
//! others, `DM_REMAP_FAULTS=N` that many, and none is begun after `DM_REMAP_SECONDS=N`. A failure names seed and fault;
//! `DM_REMAP_FAULT=N` makes only the one with that number.
// guest: --disk 16M --disk 24M --disk 24M --disk 24M --timeout 7200
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "guest_kill/campaign.rs"]
#[allow(dead_code)] // the kills use more of it
mod campaign;
#[path = "support/kernel_module.rs"]
mod kernel_module;
#[path = "guest_kill/lifecycle.rs"]
#[allow(dead_code)] // the kills use more of it
mod lifecycle;
mod live;
#[path = "guest_inject/seldom.rs"]
mod seldom;
#[path = "guest_kill/strace.rs"]
#[allow(dead_code)] // the kills use more of it
mod strace;

use campaign::{Campaign, Way};
use lifecycle::Life;
use live::pool::follow;
use live::{Ended, Random, dm_remap, in_guest, nobody_left, number};
use seldom::Seldom;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use strace::{Call, run_with, trace};

/// What is moved.
const RANGES: [(u64, u64); 3] = [(96, 8), (1000, 24), (9_000, 96)];
/// How many faults are made when nothing else is asked for.
const FAULTS: u64 = 26;
/// A fault that takes longer is told of.
const SLOW: Duration = Duration::from_secs(8);
const ERRORS: [&str; 4] = ["EIO", "ENOSPC", "ENOMEM", "EINTR"];
/// The commands that change a setup that is in use.
const COMMANDS: [&str; 13] = [
    "remap", "restore", "layout", "policy", "compact", "repair", "scan", "add", "evacuate", "readd", "remove",
    "replace", "recover",
];

/// Calls that can fail at all. The standard library takes a clock, or random numbers, that fail for a defect of the kernel,
/// and panics.
fn may_fail(call: &Call) -> bool {
    const CANNOT: [&str; 8] = [
        "execve",
        "exit_group",
        "exit",
        "rt_sigreturn",
        "restart_syscall",
        "clock_gettime",
        "clock_nanosleep",
        "getrandom",
    ];
    !CANNOT.contains(&&*call.name)
}

/// The same for the end of a directory, which is a call like others by its name.
fn is_closedir(ended: &Ended) -> bool {
    ended.code == Some(101) && ended.err.contains("unexpected error during closedir")
}

/// First a name, then one of the calls of that name: most calls read files, and a few decide.
fn draw<'a>(calls: &'a [Call], random: &mut Random) -> &'a Call {
    let names: BTreeSet<&str> = calls.iter().map(|call| &*call.name).collect();
    let name = *names.iter().nth(random.below(names.len() as u64) as usize).unwrap();
    let named: Vec<&Call> = calls.iter().filter(|call| call.name == name).collect();
    named[random.below(named.len() as u64) as usize]
}

/// The faults that are made, and what came of them.
struct Faults {
    seed: u64,
    faults: u64,
    only: u64,
    limit: Duration,
    begun: Instant,
    /// The calls of each command.
    calls: BTreeMap<&'static str, Vec<Call>>,
    made: u64,
    outcomes: BTreeMap<String, u64>,
}

impl Faults {
    fn asked_for(otherwise: u64) -> Faults {
        assert!(strace::usable(), "strace cannot inject here");
        Faults {
            seed: number("DM_REMAP_SEED", 1),
            faults: number("DM_REMAP_FAULTS", otherwise),
            only: number("DM_REMAP_FAULT", 0),
            limit: Duration::from_secs(number("DM_REMAP_SECONDS", 3600)),
            begun: Instant::now(),
            calls: BTreeMap::new(),
            made: 0,
            outcomes: BTreeMap::new(),
        }
    }

    /// The numbers of the faults that are to be made, each with random numbers of its own.
    fn numbers(&self) -> impl Iterator<Item = (u64, Random)> + use<> {
        let (seed, only, begun, limit) = (self.seed, self.only, self.begun, self.limit);
        let wanted = (1..=self.faults).filter(move |fault| only == 0 || *fault == only);
        let wanted = wanted.take_while(move |_| begun.elapsed() < limit);
        wanted.map(move |fault| (fault, Random::seeded(seed << 32 | fault)))
    }

    /// Runs the command with a fault; how it ended, and what was done, for messages. The first run of a command shows its
    /// calls: there is no fault in it.
    fn make(
        &mut self,
        fault: u64,
        random: &mut Random,
        command: &'static str,
        args: &[&str],
    ) -> Option<(String, Ended)> {
        let Some(all) = self.calls.get(command) else {
            let (ended, calls) = trace(args);
            ended.expect(&[0, 3]);
            self.calls.insert(command, calls.into_iter().filter(may_fail).collect());
            return None;
        };
        let call = draw(all, random);
        let how = match random.below(5) {
            0 => "signal=SIGKILL".to_string(),
            other => format!("error={}", ERRORS[other as usize - 1]),
        };
        let what = format!("seed {}, fault {fault}: {args:?}, {how} at {call:?}", self.seed);
        let ended = run_with(&how, call, args);
        // 101 is a panic, and 134 an abort: what the standard library does when it cannot have memory.
        let expected = matches!(ended.code, None | Some(0..=4 | 134 | 137)) || is_closedir(&ended);
        assert!(expected, "{what}: {ended:?}");
        Some((what, ended))
    }

    fn note(&mut self, what: &str, ended: &Ended, how: &str, taken: Duration) {
        let code = ended.code.map_or("a signal".into(), |code| format!("exit {code}"));
        *self.outcomes.entry(format!("{code}, {how}")).or_default() += 1;
        self.made += 1;
        if taken > SLOW {
            println!("{what}: {ended:?}, {how}, after {taken:?}");
        }
        if self.made.is_multiple_of(50) {
            println!("{} faults, {:?}: {:?}", self.made, self.begun.elapsed(), self.outcomes);
        }
    }

    /// Some command must have felt its fault.
    fn end(&self) {
        println!("seed {}: {} faults in {:?}: {:?}", self.seed, self.made, self.begun.elapsed(), self.outcomes);
        let failed = self.outcomes.keys().any(|how| !how.starts_with("exit 0"));
        assert!(self.made > 0 && (failed || self.made < 20), "nothing failed: {:?}", self.outcomes);
    }
}

/// A setup in use, with two spares and a disk that is none, unless a command has just changed that.
struct Pool {
    campaign: Campaign,
    disks: [PathBuf; 3],
}

impl Pool {
    fn begin() -> Pool {
        let disks = [1, 2, 3].map(live::disk);
        let spares = vec![disks[0].clone(), disks[1].clone()];
        Pool { campaign: Campaign::begin(live::disk(0), spares, &RANGES, &[]), disks }
    }

    /// The spares, but for those that were removed: path and state.
    fn members(&mut self) -> BTreeMap<usize, (PathBuf, String)> {
        let mut members = follow(&mut self.campaign.setup);
        members.retain(|_, (_, state)| state != "removed");
        members
    }

    fn spare(&self, verb: &str, which: &str) {
        dm_remap(&["spare", verb, "kill", which]).expect(&[0, 3]);
    }

    /// Back to two spares that are in service, whatever the last command has left.
    fn usual(&mut self) {
        for _ in 0..8 {
            let members = self.members();
            let away = members.iter().find(|(_, (_, state))| state != "online");
            let free = self.disks.iter().find(|disk| !members.values().any(|(path, _)| path == *disk));
            match (away, free) {
                (Some((index, _)), _) => self.spare("readd", &index.to_string()),
                (None, None) => self.spare("remove", &members.keys().next().unwrap().to_string()),
                (None, Some(free)) if members.len() == 1 => self.spare("add", free.to_str().unwrap()),
                _ => return,
            }
        }
        panic!("{:?}", self.members());
    }

    /// Leaves a table in the inactive slot, as a command that was killed with its guardian does.
    fn leave_something(&self) {
        let name = &self.campaign.setup.name;
        let table = live::must("dmsetup", &["table", name]);
        live::must("dmsetup", &["load", name, "--table", table.trim()]);
    }

    /// Prepares what the command needs to have something to do; its arguments.
    fn prepare(&mut self, command: &str, random: &mut Random) -> Vec<String> {
        self.usual();
        let layout = ["flat", "switched"][random.below(2) as usize];
        let moved = match command {
            "remap" => false,
            "restore" | "evacuate" | "remove" | "replace" => true,
            _ => random.below(2) == 0,
        };
        if moved != self.campaign.moved() {
            self.campaign.move_on(if moved { Way::There } else { Way::Back });
        }
        let holder = self.campaign.setup.extents().first().map_or(0, |extent| extent.spare);
        let members = self.members();
        let holder = if members.contains_key(&holder) { holder } else { *members.keys().next().unwrap() };
        let other = members.keys().find(|index| **index != holder).unwrap().to_string();
        let free = self.disks.iter().find(|disk| !members.values().any(|(path, _)| path == *disk)).unwrap();
        let (free, holder) = (free.to_str().unwrap(), holder.to_string());
        let args: Vec<&str> = match command {
            "remap" => self.campaign.args(Way::There),
            "restore" => self.campaign.args(Way::Back),
            "layout" => vec!["layout", "kill", layout],
            "policy" => vec!["policy", "kill", "--allocation", ["first-fit", "best-fit"][random.below(2) as usize]],
            "compact" => vec!["compact", "kill"],
            "repair" => vec!["metadata", "repair", "kill"],
            "recover" => {
                self.leave_something();
                vec!["recover", "kill"]
            }
            "scan" => vec!["scan", "kill", "--range", "0+4096", "--rate", "max", "--restart"],
            "add" => vec!["spare", "add", "kill", free],
            "evacuate" => vec!["spare", "evacuate", "kill", &holder],
            "remove" => vec!["spare", "remove", "kill", &holder],
            "replace" => vec!["spare", "replace", "kill", &holder, free],
            _ => {
                self.spare("evacuate", &other);
                vec!["spare", "readd", "kill", &other]
            }
        };
        args.into_iter().map(String::from).collect()
    }

    /// Ends what the fault has left for somebody to settle, as the person would; how it was. Then all must be right.
    fn settle(&mut self, what: &str) -> &'static str {
        let setup = &mut self.campaign.setup;
        assert!(live::wait_for(live::LONGEST_GAP, || !setup.suspended()), "{what}: suspended");
        nobody_left();
        let status = setup.command("status", &["--json"]).expect(&[0, 3]);
        let json: serde_json::Value = serde_json::from_str(&status.out).unwrap();
        let mut how = "settled";
        if json["setups"][0]["state"] == "unsettled" {
            setup.command("recover", &[]).expect(&[0, 3]);
            how = "recovered";
        }
        if follow(setup).values().any(|(_, state)| state == "failed") {
            how = "a spare failed";
        }
        self.campaign.right(what);
        self.campaign.note_gap(what);
        how
    }
}

#[test]
fn any_system_call_may_fail() {
    if !in_guest() {
        return;
    }
    let mut faults = Faults::asked_for(FAULTS);
    let mut pool = Pool::begin();
    for (fault, mut random) in faults.numbers() {
        let command = COMMANDS[random.below(COMMANDS.len() as u64) as usize];
        let args = pool.prepare(command, &mut random);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut clock = Instant::now();
        let mut made = faults.make(fault, &mut random, command, &args);
        if made.is_none() {
            let args = pool.prepare(command, &mut random);
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            clock = Instant::now();
            made = faults.make(fault, &mut random, command, &args);
        }
        let (what, ended) = made.unwrap();
        let how = pool.settle(&what);
        faults.note(&what, &ended, how, clock.elapsed());
    }
    faults.end();
    pool.usual();
    pool.campaign.end("system calls that fail");
    // A disk that a killed command has begun to add, and that nobody took, says that it is a spare of this setup.
    pool.disks.iter().for_each(|disk| live::load::fill(disk, live::sectors(disk)));
}

#[test]
fn any_system_call_of_what_makes_starts_ends_and_unmakes_a_setup_may_fail() {
    if !in_guest() {
        return;
    }
    let mut faults = Faults::asked_for(FAULTS / 2);
    let life = Life::begin();
    for (fault, mut random) in faults.numbers() {
        let (command, args) = life.commands().swap_remove(random.below(4) as usize);
        life.prepare(command);
        let mut made = faults.make(fault, &mut random, command, &args);
        if made.is_none() {
            life.prepare(command);
            made = faults.make(fault, &mut random, command, &args);
        }
        let clock = Instant::now();
        let (what, ended) = made.unwrap();
        nobody_left();
        life.again(command, &args, &[0, 3], true, &format!("{what}: {ended:?}")).unwrap();
        faults.note(&what, &ended, "settled", clock.elapsed());
    }
    faults.end();
    life.prepare("create");
}

#[test]
fn any_system_call_of_what_a_setup_seldom_needs_may_fail() {
    if !in_guest() {
        return;
    }
    let mut faults = Faults::asked_for(FAULTS / 2);
    let mut seldom = Seldom::begin();
    for (fault, mut random) in faults.numbers() {
        let command = seldom::COMMANDS[random.below(seldom::COMMANDS.len() as u64) as usize];
        let made = loop {
            seldom.prepare(command);
            // The first run of a command is without a fault.
            match faults.make(fault, &mut random, command, &seldom.args(command)) {
                Some(made) => break made,
                None => seldom.again(command, command),
            }
        };
        let clock = Instant::now();
        let (what, ended) = made;
        nobody_left();
        seldom.again(command, &format!("{what}: {ended:?}"));
        faults.note(&what, &ended, "settled", clock.elapsed());
    }
    faults.end();
    seldom.end();
}
