//! Cables that are pulled and plugged in again: main and the spares go away for moments, while commands change the setup and
//! somebody reads and writes. What was acknowledged is there again afterwards, and nothing that only went away was taken for
//! bad or lost: no extent that nobody asked for, no bad slot, no held block.
//!
//! `DM_REMAP_SEED=N` draws other moments and commands, and no round is begun after `DM_REMAP_SECONDS=N`.
// guest: --disk 16M --disk 24M --disk 24M --timeout 7200
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod live;

use live::load::{Load, fill};
use live::pool::follow;
use live::{Ended, Random, Setup, disk, dm_remap, in_guest, must, nobody_left, number, sectors, wait_for};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const NAME: &str = "vanish";
const ROUND: Duration = Duration::from_secs(6);
/// Without anything else asked for, for CI.
const SECONDS: u64 = 20;
/// Extents lie in this part of main only where a command was asked to move them: it takes its ranges from the rest.
const UNTOUCHED: u64 = 8192;

/// A disk on a cable.
struct Cable {
    name: String,
    plugged: String,
    pulled: String,
}

impl Cable {
    fn to(index: usize) -> Cable {
        let (below, name) = (disk(index), format!("cable{index}"));
        let length = sectors(&below);
        let plugged = format!("0 {length} linear {} 0", below.display());
        must("dmsetup", &["create", &name, "--uuid", &format!("TEST-{name}"), "--table", &plugged]);
        Cable { name, plugged, pulled: format!("0 {length} error") }
    }

    fn node(&self) -> PathBuf {
        Path::new("/dev/mapper").join(&self.name)
    }

    fn swap(&self, table: &str) {
        must("dmsetup", &["reload", &self.name, "--table", table]);
        must("dmsetup", &["resume", "--noflush", &self.name]);
    }
}

struct Vanish {
    seed: u64,
    setup: Setup,
    cables: Vec<Cable>,
    load: Load,
    ended: Mutex<BTreeMap<(String, String), u64>>,
    wrong: Mutex<Vec<String>>,
}

/// A command that changes something, with ranges outside of the part that nobody touches.
fn command(random: &mut Random, length: u64) -> Vec<String> {
    let text = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<String>>();
    let range = |random: &mut Random| random.units(UNTOUCHED, length, 12);
    match random.below(12) {
        0..4 => text(&["remap", NAME, &range(random), &range(random)]),
        4 => text(&["restore", NAME, &range(random)]),
        5 => text(&["restore", NAME, "--all"]),
        6 => text(&["layout", NAME, ["flat", "switched"][random.below(2) as usize]]),
        7 => text(&["spare", "evacuate", NAME, &random.below(2).to_string()]),
        8 => text(&["spare", "readd", NAME, &random.below(2).to_string()]),
        9 => text(&["metadata", "repair", NAME]),
        // The whole of main, where nothing is bad.
        _ => text(&["scan", NAME, "--rate", "max", "--restart"]),
    }
}

impl Vanish {
    fn begin(seed: u64) -> Vanish {
        (0..3).for_each(|index| fill(&disk(index), sectors(&disk(index))));
        let cables: Vec<Cable> = (0..3).map(Cable::to).collect();
        let setup = Setup::create(NAME, cables[0].node(), vec![cables[1].node(), cables[2].node()]);
        setup.command("remap", &["16384+256", "20480+64", "30000+128"]).expect(&[0]);
        let hot = [(16_000, 8192), (0, 2048)];
        let load = Load::start_tolerant(&setup.node(), setup.sectors, &hot);
        Vanish { seed, setup, cables, load, ended: Mutex::default(), wrong: Mutex::default() }
    }

    fn note(&self, args: &[String], ended: &Ended) {
        let fine = match ended.code {
            Some(0 | 3) => true,
            Some(1 | 4) => !ended.err.trim().is_empty(),
            _ => false,
        };
        if !fine {
            self.wrong.lock().unwrap().push(format!("{args:?}: {ended:?}"));
        }
        let code = ended.code.map_or("a signal".into(), |code| code.to_string());
        *self.ended.lock().unwrap().entry((args[..2].join(" ").replace(NAME, ""), code)).or_default() += 1;
    }

    /// One cable after the other is pulled for moments, while commands run.
    fn round(&self, number: u64) {
        let end = Instant::now() + ROUND;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut random = Random::seeded(self.seed << 32 | number << 8 | 1);
                while Instant::now() < end {
                    let cable = &self.cables[random.below(3) as usize];
                    std::thread::sleep(Duration::from_millis(random.below(700)));
                    cable.swap(&cable.pulled);
                    std::thread::sleep(Duration::from_millis(random.below(900)));
                    cable.swap(&cable.plugged);
                }
            });
            let mut random = Random::seeded(self.seed << 32 | number << 8);
            while Instant::now() < end {
                let args = command(&mut random, self.setup.sectors);
                let words: Vec<&str> = args.iter().map(String::as_str).collect();
                self.note(&args, &dm_remap(&words));
            }
        });
    }

    /// All is plugged in; the person does what the status says. Then all must be as if nothing had been.
    fn check(&mut self, what: &str) {
        let wrong = self.wrong.get_mut().unwrap();
        assert!(wrong.is_empty(), "{what}: {wrong:#?}");
        assert!(wait_for(live::LONGEST_GAP, || !self.setup.suspended()), "{what}: suspended");
        nobody_left();
        let state = |setup: &Setup| -> serde_json::Value {
            let status = setup.command("status", &["--json"]).expect(&[0, 3]);
            serde_json::from_str(&status.out).unwrap()
        };
        if state(&self.setup)["setups"][0]["state"] == "unsettled" {
            self.setup.command("recover", &[]).expect(&[0, 3]);
        }
        for (index, (_, how)) in follow(&mut self.setup) {
            if how != "online" {
                dm_remap(&["spare", "readd", NAME, &index.to_string()]).expect(&[0, 3]);
            }
        }
        dm_remap(&["metadata", "repair", NAME]).expect(&[0, 3]);
        dm_remap(&["metadata", "check", NAME]).expect(&[0]);
        let json = state(&self.setup);
        let setup = &json["setups"][0];
        assert!(matches!(setup["state"].as_str(), Some("healthy" | "attention")), "{what}: {json}");
        assert_eq!(
            (setup["held_sectors"].as_u64(), setup["losses"].as_array().map(Vec::len)),
            (Some(0), Some(0)),
            "{what}: {json}"
        );
        let bad = |spare: &serde_json::Value| spare["bad_sectors"].as_u64().expect("bad_sectors");
        assert_eq!(setup["spares"].as_array().unwrap().iter().map(bad).sum::<u64>(), 0, "{what}: {json}");
        let extents = self.setup.extents();
        assert!(extents.iter().all(|extent| extent.start >= UNTOUCHED), "{what}: {extents:?}");
        self.setup.table_is(&extents);
        self.load.check();
        self.load.verify_all();
    }

    fn end(mut self, rounds: u64, begun: Instant) {
        self.setup.command("restore", &["--all"]).expect(&[0]);
        self.check("at the end");
        let refused = self.load.refused();
        let operations = self.load.finish();
        self.setup.destroy();
        for cable in &self.cables {
            must("dmsetup", &["remove", "--retry", &cable.name]);
        }
        println!("{:?}", self.ended.into_inner().unwrap());
        println!(
            "seed {}: {rounds} rounds, {operations} verified I/Os, {refused} of them ended with an error, {:?}",
            self.seed,
            begun.elapsed()
        );
        assert!(refused > 0 && operations > 1000, "nothing was pulled");
    }
}

#[test]
fn spares_that_are_away_in_turn_do_not_each_go_on_by_themselves() {
    if !in_guest() {
        return;
    }
    (0..3).for_each(|index| fill(&disk(index), sectors(&disk(index))));
    let cables: Vec<Cable> = (0..3).map(Cable::to).collect();
    let mut setup = Setup::create(NAME, cables[0].node(), vec![cables[1].node(), cables[2].node()]);
    let (first, second) = (&cables[1], &cables[2]);
    let policy = |allocation: &str| dm_remap(&["policy", NAME, "--allocation", allocation]);
    let readd = |index: &str| dm_remap(&["spare", "readd", NAME, index]).expect(&[0]);

    // The second spare goes on alone; then only the first, which knows nothing of it, can be read.
    first.swap(&first.pulled);
    policy("best-fit").expect(&[0, 3]);
    first.swap(&first.plugged);
    second.swap(&second.pulled);
    let refused = policy("first-fit").expect(&[4]);
    assert!(refused.err.contains("is away") && refused.err.contains("dm-remap recover vanish"), "{refused:?}");
    setup.command("remap", &["64+8"]).expect(&[4]);
    let status = setup.command("status", &[]).expect(&[3]);
    assert!(status.out.contains("DMR-13") && !status.out.contains("DMR-02"), "{status:?}");
    // Attached again it is what it was.
    second.swap(&second.plugged);
    policy("first-fit").expect(&[0, 3]);
    let status = setup.command("status", &[]).expect(&[3]);
    assert!(!status.out.contains("DMR-13"), "{status:?}");
    readd("0");
    assert!(follow(&mut setup).values().all(|(_, state)| state == "online"));

    // The same, and the person says that the second spare is gone: when it comes back it is behind, and not another truth.
    first.swap(&first.pulled);
    policy("best-fit").expect(&[0, 3]);
    first.swap(&first.plugged);
    second.swap(&second.pulled);
    let would = setup.command("recover", &["--dry-run"]).expect(&[0]);
    assert!(would.out.contains("would go on"), "{would:?}");
    let gone_on = setup.command("recover", &[]).expect(&[0]);
    assert!(gone_on.out.contains("is given up"), "{gone_on:?}");
    setup.command("remap", &["64+8"]).expect(&[0, 3]);
    second.swap(&second.plugged);
    readd("1");
    dm_remap(&["metadata", "check", NAME]).expect(&[0]);
    assert!(follow(&mut setup).values().all(|(_, state)| state == "online"));

    // And the same with a restart in between: it is taken down with what there is, and comes up from all of it.
    first.swap(&first.pulled);
    policy("best-fit").expect(&[0, 3]);
    first.swap(&first.plugged);
    second.swap(&second.pulled);
    setup.command("deactivate", &[]).expect(&[0, 3]);
    second.swap(&second.plugged);
    setup.command("activate", &["--update-stale"]).expect(&[0, 3]);
    policy("first-fit").expect(&[0, 3]);
    setup.command("restore", &["--all"]).expect(&[0, 3]);
    setup.destroy();
    cables.iter().for_each(|cable| drop(must("dmsetup", &["remove", "--retry", &cable.name])));
}

#[test]
fn what_goes_away_and_comes_back_is_taken_for_neither_bad_nor_lost() {
    if !in_guest() {
        return;
    }
    let begun = Instant::now();
    let limit = Duration::from_secs(number("DM_REMAP_SECONDS", SECONDS));
    let mut vanish = Vanish::begin(number("DM_REMAP_SEED", 1));
    let mut rounds = 0;
    while rounds == 0 || begun.elapsed() < limit {
        rounds += 1;
        vanish.round(rounds);
        vanish.check(&format!("seed {}, round {rounds}", vanish.seed));
    }
    vanish.end(rounds, begun);
}
