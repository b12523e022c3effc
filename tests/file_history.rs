//! The history of a setup under writers that are killed: what `append` has said is kept, is kept.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use dm_remap::history::{LIMIT, Record, SetupRecord, What, append, line, read};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use uuid::Uuid;

/// Set in the processes that write: the folder, and the first number.
const CHILD: &str = "DM_REMAP_TEST_WRITER";

fn record(number: u64) -> Record {
    // All within the last 30 days of the newest, where nothing is thinned.
    let setup = SetupRecord { generation: number, state: "healthy".into(), ..SetupRecord::default() };
    Record { time: 2_000_000_000, what: What::Setup(setup) }
}

/// What the processes run: each number is said when it is kept.
#[test]
fn writer() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let (folder, first) = order.split_once(' ').unwrap();
    for number in first.parse().unwrap().. {
        assert!(append(Path::new(folder), Uuid::nil(), &record(number)).unwrap());
        println!("\nkept {number}");
    }
}

fn begin(folder: &Path, first: u64) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "writer", "--nocapture"]).env(CHILD, format!("{} {first}", folder.display()));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// Kills it, and gives the numbers that it has said.
fn end(mut child: Child) -> Vec<u64> {
    child.kill().unwrap();
    child.wait().unwrap();
    let said = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    said.filter_map(|line| line.strip_prefix("kept ")?.parse().ok()).collect()
}

/// The numbers of the writers that are in the file.
fn numbers(folder: &Path) -> BTreeSet<u64> {
    let number = |record: &Record| match &record.what {
        What::Setup(setup) if setup.state == "healthy" => Some(setup.generation),
        _ => None,
    };
    read(folder, Uuid::nil()).unwrap().iter().filter_map(number).collect()
}

/// A file that is so long that it is thinned after some records more.
fn fill(folder: &Path) {
    let mut text = String::new();
    let mut time = 1_000_000_000;
    while text.len() < usize::try_from(LIMIT).unwrap() - 1000 {
        let setup = SetupRecord { state: "long ago".into(), extents: time, ..SetupRecord::default() };
        writeln!(text, "{}", line(&Record { time, what: What::Setup(setup) }).unwrap()).unwrap();
        time += 3600;
    }
    std::fs::write(folder.join(format!("{}.jsonl", Uuid::nil())), text).unwrap();
}

#[test]
fn what_was_kept_stays_when_two_writers_are_killed_also_while_a_file_is_thinned() {
    let (mut thinned, mut kept) = (0, 0);
    for round in 0..24u64 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(format!("{}.jsonl", Uuid::nil()));
        fill(folder.path());
        let writers = [begin(folder.path(), 0), begin(folder.path(), 1 << 32)];
        std::thread::sleep(Duration::from_millis(20 + 15 * round));
        let said: BTreeSet<u64> = writers.into_iter().flat_map(end).collect();
        let found = numbers(folder.path());
        let lost: Vec<u64> = said.difference(&found).copied().collect();
        assert!(lost.is_empty(), "round {round}: {lost:?} of {}", said.len());
        // Each may have been killed between keeping one and saying so.
        assert!(found.len() <= said.len() + 2, "{} and {}", found.len(), said.len());
        thinned += u32::from(std::fs::metadata(&path).unwrap().len() < LIMIT * 3 / 4);
        kept += said.len();
        // It goes on, and what was there stays.
        assert!(append(folder.path(), Uuid::nil(), &record(u64::MAX)).unwrap());
        let after = numbers(folder.path());
        assert!(after.is_superset(&found) && after.contains(&u64::MAX) && after.len() == found.len() + 1);
    }
    println!("{kept} records kept, {thinned} of 24 files thinned");
    assert!(kept > 24 && thinned > 0, "{kept} {thinned}: the test must be at work when it kills");
}
