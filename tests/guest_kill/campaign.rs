//! A setup under load, and what must be true of it after a command was killed.

use crate::live::load::{Load, fill};
use crate::live::{Ended, LONGEST_GAP, Setup, nobody_left, wait_for};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How often `status` is asked: programs start slowly in a guest.
const STATUS_EVERY: usize = 3;

/// A setup with its load, and the two commands that move the same extents there and back.
#[derive(Debug)]
pub struct Campaign {
    pub setup: Setup,
    pub load: Load,
    there: Vec<String>,
    back: Vec<String>,
    /// The ranges that the extents make up when they are moved.
    ranges: BTreeSet<(u64, u64)>,
    longest: Cell<Duration>,
    tally: RefCell<Tally>,
    begun: Instant,
}

#[derive(Debug, Default)]
struct Tally {
    kills: usize,
    survived: usize,
    in_force: usize,
    not_in_force: usize,
    attention: usize,
}

/// Which way extents are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    There,
    Back,
}

impl Campaign {
    /// Makes the setup over a filled main and starts the load. `ranges` are whole units.
    pub fn begin(main: PathBuf, spares: Vec<PathBuf>, ranges: &[(u64, u64)], lost: &[u64]) -> Campaign {
        let sectors = crate::live::sectors(&main);
        fill(&main, sectors);
        let setup = Setup::create("kill", main, spares);
        let hot: Vec<(u64, u64)> = ranges.iter().map(|(start, len)| (start.saturating_sub(32), len + 64)).collect();
        let load = Load::start(&setup.node(), setup.sectors, &hot, lost);
        let mut there = vec!["remap".to_string(), "kill".into()];
        there.extend(ranges.iter().map(|(start, len)| format!("{start}+{len}")));
        let mut back = vec!["restore".to_string(), "kill".into(), "--all".into()];
        if !lost.is_empty() {
            back.extend(["--unreadable".into(), "leave".into()]);
        }
        Campaign {
            setup,
            load,
            there,
            back,
            ranges: ranges.iter().copied().collect(),
            longest: Cell::default(),
            tally: RefCell::default(),
            begun: Instant::now(),
        }
    }

    /// The command that moves the extents.
    pub fn args(&self, way: Way) -> Vec<&str> {
        let args = if way == Way::There { &self.there } else { &self.back };
        args.iter().map(String::as_str).collect()
    }

    /// Whether the extents are on the spare, by map and table, which must agree; anything else than all or none is wrong.
    #[track_caller]
    pub fn moved(&self) -> bool {
        let extents = self.setup.extents();
        self.setup.table_is(&extents);
        let ranges: BTreeSet<(u64, u64)> = extents.iter().map(|e| (e.start, e.count)).collect();
        assert!(ranges.is_empty() || ranges == self.ranges, "{ranges:?}");
        !ranges.is_empty()
    }

    /// Runs a move to its end, and checks that nothing of it is left beside the device.
    #[track_caller]
    pub fn move_on(&self, way: Way) -> Ended {
        let ended = crate::strace::steadily(|| crate::live::dm_remap(&self.args(way))).expect(&[0, 3]);
        assert_eq!(self.moved(), way == Way::There);
        self.nothing_beside();
        ended
    }

    /// No table is left in an inactive slot, and no statistics region.
    #[track_caller]
    pub fn nothing_beside(&self) {
        assert!(!self.setup.has_inactive(), "a table is left in the inactive slot");
        assert_eq!(self.setup.stats_regions().trim(), "", "statistics are left");
    }

    /// What must be true after a command was killed, with nobody's help. `what` is for the message. Whether the
    /// extents are moved.
    #[track_caller]
    pub fn after_kill(&self, what: &str, killed: bool) -> bool {
        let settled = wait_for(LONGEST_GAP, || !self.setup.suspended());
        assert!(settled, "{what}: suspended");
        nobody_left();
        self.note_gap(what);
        self.load.check();
        self.load.verify_hot();
        let moved = self.moved();
        let mut tally = self.tally.borrow_mut();
        if !killed {
            tally.survived += 1;
            return moved;
        }
        tally.kills += 1;
        if moved {
            tally.in_force += 1
        } else {
            tally.not_in_force += 1
        }
        if tally.kills.is_multiple_of(STATUS_EVERY) {
            let status = self.setup.command("status", &["--json"]).expect(&[0, 3]);
            let is = |state: &&&str| status.out.contains(&format!("\"state\": \"{state}\""));
            let state = ["healthy", "attention"].iter().find(is);
            assert!(state.is_some(), "{what}: {status:?}");
            tally.attention += usize::from(state == Some(&"attention"));
        }
        moved
    }

    /// The table is the map, and every byte is right.
    #[track_caller]
    pub fn right(&self, what: &str) {
        assert!(!self.setup.suspended(), "{what}: suspended");
        self.moved();
        self.load.check();
        self.load.verify_hot();
    }

    /// Takes note of how long I/O stood still.
    #[track_caller]
    pub fn note_gap(&self, what: &str) {
        let gap = self.load.longest();
        self.longest.set(self.longest.get().max(gap));
        assert!(gap < LONGEST_GAP, "{what}: I/O stood still for {gap:?}");
    }

    /// Forgets how long I/O has stood still: it was meant to.
    pub fn forgive_gap(&self) {
        // What waited has to end first: it is counted then.
        std::thread::sleep(Duration::from_millis(30));
        self.load.longest();
    }

    /// After a kill of the command that moves `way`: runs the one that ends in the state that it was for.
    #[track_caller]
    pub fn complete(&self, way: Way, moved: bool) {
        if moved != (way == Way::There) {
            self.move_on(way);
        }
    }

    /// Ends it, with a line that says how it went.
    #[track_caller]
    pub fn end(self, title: &str) {
        self.complete(Way::Back, self.moved());
        self.load.verify_all();
        let operations = self.load.finish();
        self.setup.destroy();
        let tally = self.tally.into_inner();
        println!(
            "{title}: {} kills ({} with the move in force, {} without; {} runs ended before their point; status asked for \
             attention {} times), {operations} verified I/Os, longest {:?}, {:?}",
            tally.kills,
            tally.in_force,
            tally.not_in_force,
            tally.survived,
            tally.attention,
            self.longest.get(),
            self.begun.elapsed(),
        );
    }
}
