//! Maps, moves and losses as text, for people and for other programs. Pure.

use crate::files::Owned;
use crate::format::lists::{write_badblocks, write_mapfile};
use crate::map::{Extent, Fate, Loss, Map};
use crate::plan::Move;
use crate::units::{Bytes, Range, Sectors};
use serde::Serialize;

/// `24 sectors (12.0 KiB)`.
pub(super) fn sizes(sectors: Sectors) -> String {
    let bytes = sectors.to_bytes().unwrap_or(Bytes(u64::MAX));
    let plural = if sectors.0 == 1 { "" } else { "s" };
    format!("{sectors} sector{plural} ({bytes})")
}

/// `1 extent`, `2 extents`.
pub(super) fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// An extent as JSON and CSV have it.
#[derive(Debug, Serialize)]
pub(super) struct ExtentRow {
    start: Sectors,
    count: Sectors,
    spare: u8,
    slot: Sectors,
    held_sectors: u64,
    lost_sectors: u64,
}

/// All extents, with what was lost in them.
pub(super) fn extent_rows(map: &Map) -> Vec<ExtentRow> {
    let row = |extent: Extent| {
        let sum = |such: fn(Fate) -> bool| {
            let inside = map.losses().within(extent.range).filter(|l| such(l.fate));
            inside.map(|l| l.range.len().0).fold(0, u64::saturating_add)
        };
        ExtentRow {
            start: extent.range.start(),
            count: extent.range.len(),
            spare: extent.slot.spare.0,
            slot: extent.slot.start,
            held_sectors: sum(Fate::is_held),
            lost_sectors: sum(|fate| fate != Fate::Left),
        }
    };
    map.extents().map(row).collect()
}

/// The rows of the table for people, heading first.
pub(super) fn extent_table(map: &Map) -> Vec<Vec<String>> {
    let heading = ["SECTOR", "COUNT", "SPARE", "SLOT", "DATA"].map(String::from).to_vec();
    let rows = extent_rows(map).into_iter().map(|row| {
        let data = match (row.held_sectors, row.lost_sectors) {
            (0, 0) => "whole".to_string(),
            (0, lost) => format!("{lost} lost"),
            (held, _) => format!("{held} held"),
        };
        vec![row.start.to_string(), row.count.to_string(), row.spare.to_string(), row.slot.to_string(), data]
    });
    std::iter::once(heading).chain(rows).collect()
}

/// The extents as comma-separated values with a heading.
pub(super) fn csv(map: &Map) -> String {
    let mut out = String::from("sector,count,spare,slot,held_sectors,lost_sectors\n");
    for row in extent_rows(map) {
        out.push_str(&format!(
            "{},{},{},{},{},{}\n",
            row.start, row.count, row.spare, row.slot, row.held_sectors, row.lost_sectors
        ));
    }
    out
}

/// Where main is bad, as far as the map knows: what was moved away, and what was left there unreadable.
fn bad_on_main(map: &Map) -> Vec<Range> {
    let left = map.losses().iter().filter(|l| l.fate == Fate::Left).map(|l| l.range);
    map.extents().map(|e| e.range).chain(left).collect()
}

/// A list for e2fsprogs, of main's bad blocks.
pub(super) fn badblocks(map: &Map, block_bytes: u64) -> String {
    write_badblocks(&bad_on_main(map), block_bytes)
}

/// A mapfile for ddrescue, of main.
pub(super) fn mapfile(map: &Map) -> String {
    write_mapfile(&bad_on_main(map), map.main_len())
}

/// Losses as people read them: `101+2 held`.
pub(super) fn loss_words(loss: &Loss) -> String {
    format!("{}  {}", loss.range, fate_words(loss.fate))
}

fn fate_words(fate: Fate) -> &'static str {
    match fate {
        Fate::Held => "held: reads answer EIO until it is written",
        Fate::HeldStale => "held: reads answer EIO until it is written (main has older data)",
        Fate::Zeroed => "zeroed: its data is lost",
        Fate::Left => "left on main, unreadable",
        Fate::Rewritten => "rewritten: the old data is lost, the new is good",
    }
}

/// A loss as JSON has it: with what the sectors belong to.
#[derive(Debug, Serialize)]
pub(super) struct LossRow {
    #[serde(flatten)]
    loss: Loss,
    /// Empty when it was not looked up.
    owners: Vec<Owned>,
}

/// Losses with the parts of `owned` that lie in them.
pub(super) fn loss_rows(losses: &[Loss], owned: &[Owned]) -> Vec<LossRow> {
    let inside = |loss: &Loss| {
        let parts =
            owned.iter().filter_map(|one| Some(Owned { range: one.range.intersect(loss.range)?, ..one.clone() }));
        parts.collect()
    };
    losses.iter().map(|loss| LossRow { loss: *loss, owners: inside(loss) }).collect()
}

impl LossRow {
    /// How many sectors it is.
    pub(super) fn sectors(&self) -> Sectors {
        self.loss.range.len()
    }

    /// The sectors, and what became of them.
    pub(super) fn loss_words(&self) -> (Range, &'static str) {
        (self.loss.range, fate_words(self.loss.fate))
    }

    /// What the sectors belong to, a line for each.
    pub(super) fn owner_lines(&self) -> Vec<String> {
        let part = |owned: &Owned| {
            let of = if owned.range == self.loss.range { String::new() } else { format!("{}: ", owned.range) };
            format!("in {of}{owned}")
        };
        // All of a long list would hide the rest.
        const MOST: usize = 10;
        let mut out: Vec<String> = self.owners.iter().take(MOST).map(part).collect();
        if self.owners.len() > MOST {
            out.push(format!("… and {} more; see --json", self.owners.len() - MOST));
        }
        out
    }

    /// As people read it: what became of the sectors, then a line for each thing that they belong to.
    pub(super) fn lines(&self) -> Vec<String> {
        let owners = self.owner_lines().into_iter().map(|line| format!("  {line}"));
        std::iter::once(loss_words(&self.loss)).chain(owners).collect()
    }
}

/// Moves as JSON has them.
#[derive(Debug, Serialize)]
pub(super) struct MoveRow {
    start: Sectors,
    count: Sectors,
    from: String,
    to: String,
}

/// Moves for `--json`.
pub(super) fn move_rows(moves: &[Move]) -> Vec<MoveRow> {
    let row = |m: &Move| MoveRow {
        start: m.range.start(),
        count: m.range.len(),
        from: m.from.to_string(),
        to: m.to.to_string(),
    };
    moves.iter().map(row).collect()
}
