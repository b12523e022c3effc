//! The surface of a disk in a bounded number of cells, none of which hides what is bad in it.
//!
//! Invariants: every sector of a mark counts in the cell that it lies in, so the sums over all cells are those of the marks; a cell
//! shows the gravest thing in it.

use crate::units::{Range, Sectors};
use serde::{Deserialize, Serialize};

/// What a place of the surface is, the gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// Its data is gone.
    Lost,
    /// Bad, and on no spare.
    Bad,
    /// It reads slowly, and is on no spare.
    Weak,
    /// It lives on a spare.
    Moved,
}

/// All of them, in this order.
pub const KINDS: [Mark; 4] = [Mark::Lost, Mark::Bad, Mark::Weak, Mark::Moved];

impl Mark {
    /// For legends.
    pub fn word(self) -> &'static str {
        match self {
            Mark::Lost => "lost",
            Mark::Bad => "bad, not moved",
            Mark::Weak => "weak",
            Mark::Moved => "moved",
        }
    }

    /// Its place in [`KINDS`].
    pub fn index(self) -> usize {
        match self {
            Mark::Lost => 0,
            Mark::Bad => 1,
            Mark::Weak => 2,
            Mark::Moved => 3,
        }
    }
}

/// A part of the surface with something in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// Its number, from the start of the disk.
    pub number: u64,
    /// Its sectors.
    pub range: Range,
    /// How many sectors of each kind it has, as [`KINDS`] orders them. They may be of two kinds: moved, and lost.
    pub sectors: [u64; 4],
}

impl Cell {
    /// The gravest thing in it.
    pub fn shows(&self) -> Option<Mark> {
        KINDS.into_iter().find(|kind| self.sectors.get(kind.index()).is_some_and(|sectors| *sectors > 0))
    }
}

/// A surface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surface {
    /// Cells in all.
    pub cells: u64,
    /// Those with something in them, in order.
    pub marked: Vec<Cell>,
}

impl Surface {
    /// Sectors of a kind, in all.
    pub fn sectors(&self, kind: Mark) -> Sectors {
        let of = |cell: &Cell| cell.sectors.get(kind.index()).copied().unwrap_or(0);
        Sectors(self.marked.iter().map(of).fold(0, u64::saturating_add))
    }
}

/// Puts the marks of a disk of `size` into at most `most` cells, none smaller than `unit`. Marks of a kind must not overlap; what
/// lies outside the disk is left out.
pub fn surface(size: Sectors, unit: Sectors, most: u64, marks: impl IntoIterator<Item = (Range, Mark)>) -> Surface {
    let cells = most.min(size.0.div_ceil(unit.0.max(1))).max(1);
    // Where a cell begins. In 128 bits, as a product of two numbers of 64.
    let start = |number: u64| {
        let at = u128::from(number).saturating_mul(u128::from(size.0)).checked_div(u128::from(cells));
        Sectors(u64::try_from(at.unwrap_or(0)).unwrap_or(u64::MAX))
    };
    let mut sectors = std::collections::BTreeMap::<u64, [u64; 4]>::new();
    for (range, kind) in marks {
        let Some(range) = Range::between(Sectors::ZERO, size).and_then(|all| range.intersect(all)) else { continue };
        let guess = u128::from(range.start().0).saturating_mul(u128::from(cells)).checked_div(u128::from(size.0));
        // Rounding may have it one too low, and never too high.
        let mut number = u64::try_from(guess.unwrap_or(0)).unwrap_or(0);
        while start(number) < range.end() && number < cells {
            let next = start(number.saturating_add(1));
            let inside = next.min(range.end()).saturating_sub(start(number).max(range.start()));
            if inside > Sectors::ZERO
                && let Some(sum) = sectors.entry(number).or_default().get_mut(kind.index())
            {
                *sum = sum.saturating_add(inside.0);
            }
            number = number.saturating_add(1);
        }
    }
    let cell = |(number, sectors): (u64, [u64; 4])| {
        let range = Range::between(start(number), start(number.saturating_add(1)))?;
        Some(Cell { number, range, sectors })
    };
    Surface { cells, marked: sectors.into_iter().filter_map(cell).collect() }
}
