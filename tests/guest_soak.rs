//! All commands at once, from several processes, some of them killed, on a setup in use whose every byte a model knows.
//!
//! ```text
//! scripts/guest --disk 16M … --env DM_REMAP_GUEST=1 --env DM_REMAP_SECONDS=36000 -- target/debug/deps/guest_soak-… --nocapture
//! ```
//!
//! Rounds of some seconds: several processes run one random command after the other, reading ones, changing ones, and those that
//! must be refused while somebody uses the setup; in every other round a watcher, too. Between rounds all stand still, and
//! table, map, metadata and every byte are compared. `DM_REMAP_SEED=N` draws other commands, and no round is
//! begun after `DM_REMAP_SECONDS=N`.
// guest: --disk 16M --disk 24M --disk 24M --disk 24M --timeout 90000
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod live;

use live::load::{Load, fill};
use live::pool::follow;
use live::{Ended, Random, Setup, dm_remap, in_guest, nobody_left, number, wait_for};
use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How many commands run at a time.
const AT_ONCE: u64 = 3;
const ROUND: Duration = Duration::from_secs(8);
/// Without anything else asked for, for CI.
const SECONDS: u64 = 20;
/// The longest that a request may take: one processor has all of the commands to run, and starts programs slowly.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
const MOST_UNITS: u64 = 12;
const NAME: &str = "soak";

/// What came of the commands.
#[derive(Debug, Default)]
struct Tally {
    ended: BTreeMap<(String, String), u64>,
    wrong: Vec<String>,
}

impl Tally {
    fn note(&mut self, args: &[String], killed: bool, ended: &Ended) {
        let verb = if args[0] == "spare" || args[0] == "metadata" {
            format!("{} {}", args[0], args[1])
        } else {
            args[0].clone()
        };
        let how = match ended.code {
            Some(code) => code.to_string(),
            None => "killed".into(),
        };
        // In use: it is neither taken down nor brought up again.
        let may_succeed = !matches!(verb.as_str(), "deactivate" | "destroy" | "create");
        let fine = match ended.code {
            None => killed,
            Some(0 | 3) => may_succeed,
            Some(1 | 4) => !ended.err.trim().is_empty(),
            Some(2) => ended.err.contains("names no spare"),
            Some(_) => false,
        };
        if !fine {
            self.wrong.push(format!("{args:?}: {ended:?}"));
        }
        *self.ended.entry((verb, how)).or_default() += 1;
    }
}

/// A command with its arguments. Many of them make no sense as things are just then.
fn command(random: &mut Random, sectors: u64) -> Vec<String> {
    let pick = |random: &mut Random, words: &[&str]| words[random.below(words.len() as u64) as usize].to_string();
    let device = |random: &mut Random| live::disk(1 + random.below(3) as usize).display().to_string();
    let spare = |random: &mut Random| random.below(3).to_string();
    let text = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<String>>();
    match random.below(24) {
        0..5 => {
            let mut args = text(&["remap", NAME]);
            args.extend((0..=random.below(4)).map(|_| random.units(0, sectors, MOST_UNITS)));
            args
        }
        5 | 6 => text(&["restore", NAME, &random.units(0, sectors, MOST_UNITS)]),
        7 => text(&["restore", NAME, "--all"]),
        8 | 9 => text(&["layout", NAME, &pick(random, &["flat", "switched", "auto"])]),
        10 => text(&["policy", NAME, "--allocation", &pick(random, &["first-fit", "best-fit"])]),
        11 => text(&["compact", NAME]),
        12 => text(&["metadata", "repair", NAME]),
        13 => text(&["scan", NAME, "--rate", "max", "--restart", "--range", &random.units(0, sectors, MOST_UNITS)]),
        14 => text(&["spare", "add", NAME, &device(random)]),
        15 => text(&["spare", "evacuate", NAME, &spare(random)]),
        16 | 17 => text(&["spare", "readd", NAME, &spare(random)]),
        18 => text(&["spare", "remove", NAME, &spare(random)]),
        19 => text(&["spare", "replace", NAME, &spare(random), &device(random)]),
        20 => text(&[&pick(random, &["deactivate", "activate", "recover"]), NAME]),
        21 => text(&["destroy", NAME, "--discard-extents"]),
        22 => text(&["metadata", "check", NAME]),
        _ => match random.below(4) {
            0 => text(&["discover", "--scan-all"]),
            1 => text(&["map", NAME]),
            _ => text(&[&pick(random, &["status", "list", "health", "stats", "metrics"])]),
        },
    }
}

/// Runs a command, and kills it on its way, when that is drawn; whether it was.
fn run(random: &mut Random, args: &[String]) -> (bool, Ended) {
    let mut child = Command::new(live::program());
    child.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let kill = random.below(6) == 0;
    if kill {
        std::thread::sleep(Duration::from_millis(random.below(1500)));
        let _ = child.kill();
    }
    (kill, child.wait_with_output().unwrap().into())
}

/// A setup with the load on it, and what came of the commands so far.
struct Soak {
    seed: u64,
    setup: Setup,
    load: Load,
    tally: Mutex<Tally>,
    longest: Duration,
}

impl Soak {
    fn begin(seed: u64) -> Soak {
        let main = live::disk(0);
        let sectors = live::sectors(&main);
        fill(&main, sectors);
        (1..=3).for_each(|index| fill(&live::disk(index), live::sectors(&live::disk(index))));
        let setup = Setup::create(NAME, main, vec![live::disk(1), live::disk(2)]);
        let hot = [(0, sectors / 8), (sectors / 2, sectors / 8)];
        let load = Load::start(&setup.node(), sectors, &hot, &[]);
        Soak { seed, setup, load, tally: Mutex::default(), longest: Duration::ZERO }
    }

    /// Commands at once, for the length of a round.
    fn round(&self, number: u64) {
        let watcher = number.is_multiple_of(2).then(watch);
        let end = Instant::now() + ROUND;
        std::thread::scope(|scope| {
            for worker in 0..AT_ONCE {
                let mut random = Random::seeded(self.seed << 40 | number << 8 | worker);
                scope.spawn(move || {
                    while Instant::now() < end {
                        let args = command(&mut random, self.setup.sectors);
                        let (killed, ended) = run(&mut random, &args);
                        self.tally.lock().unwrap().note(&args, killed, &ended);
                    }
                });
            }
        });
        if let Some(watcher) = watcher {
            end_watch(watcher);
        }
    }

    /// All stand still but the load: everything must be right.
    fn check(&mut self, what: &str) {
        let wrong = &self.tally.get_mut().unwrap().wrong;
        assert!(wrong.is_empty(), "{what}: {wrong:#?}");
        assert!(wait_for(live::LONGEST_GAP, || !self.setup.suspended()), "{what}: suspended");
        nobody_left();
        let longest = self.load.longest();
        assert!(longest < LONGEST_WAIT, "{what}: a request took {longest:?}");
        self.longest = self.longest.max(longest);
        let status = self.setup.command("status", &["--json"]).expect(&[0, 3]);
        let json: serde_json::Value = serde_json::from_str(&status.out).unwrap();
        assert!(matches!(json["setups"][0]["state"].as_str(), Some("healthy" | "attention")), "{what}: {status:?}");
        let spares = follow(&mut self.setup);
        assert!(!spares.values().any(|(_, state)| state == "failed"), "{what}: {spares:?}");
        let extents = self.setup.extents();
        self.setup.table_is(&extents);
        self.load.check();
        self.load.verify_all();
        // What was killed was told of; a command that changes something mends it.
        dm_remap(&["metadata", "repair", NAME]).expect(&[0, 3]);
        dm_remap(&["metadata", "check", NAME]).expect(&[0]);
        assert!(!self.setup.has_inactive(), "{what}: a table is left in the inactive slot");
        assert_eq!(self.setup.stats_regions().trim(), "", "{what}: statistics are left");
    }

    fn end(mut self, rounds: u64, begun: Instant) {
        self.setup.command("restore", &["--all"]).expect(&[0, 3]);
        self.check("at the end");
        assert_eq!(self.setup.extents().len(), 0);
        let operations = self.load.finish();
        self.setup.destroy();
        let tally = self.tally.into_inner().unwrap();
        let count = |of: fn(&str) -> bool| -> u64 {
            tally.ended.iter().filter(|((_, how), _)| of(how)).map(|(_, count)| count).sum()
        };
        let (done, killed) = (count(|how| matches!(how, "0" | "3")), count(|how| how == "killed"));
        println!("{:#?}", tally.ended);
        println!(
            "seed {}: {rounds} rounds, {} commands, {done} done, {killed} killed, {operations} verified I/Os, longest {:?}, {:?}",
            self.seed,
            count(|_| true),
            self.longest,
            begun.elapsed(),
        );
        assert!(done > 0 && operations > 1000, "nothing was done");
    }
}

fn watch() -> Child {
    let mut command = Command::new(live::program());
    command.args(["watch", NAME, "--quiet"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn end_watch(mut watcher: Child) {
    assert!(watcher.try_wait().unwrap().is_none(), "the watcher has ended by itself: {:?}", watcher.wait_with_output());
    let pid = nix::unistd::Pid::from_raw(watcher.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let ended: Ended = watcher.wait_with_output().unwrap().into();
    ended.expect(&[0, 3]);
}

#[test]
fn all_commands_at_once_and_killed_leave_every_byte_right() {
    if !in_guest() {
        return;
    }
    let begun = Instant::now();
    let limit = Duration::from_secs(number("DM_REMAP_SECONDS", SECONDS));
    let mut soak = Soak::begin(number("DM_REMAP_SEED", 1));
    let mut rounds = 0;
    while rounds == 0 || begun.elapsed() < limit {
        rounds += 1;
        soak.round(rounds);
        soak.check(&format!("seed {}, round {rounds}", soak.seed));
        if rounds.is_multiple_of(20) {
            println!("{rounds} rounds, {:?}, longest {:?}", begun.elapsed(), soak.longest);
        }
    }
    soak.end(rounds, begun);
}
