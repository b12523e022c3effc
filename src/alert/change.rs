//! What changed at a setup between two looks. Pure.
//!
//! Invariants: two equal looks give no event; a value that sways around a limit (of free room, of a band of health) is told once,
//! until it has been well above the limit again.

use super::event::{Event, Kind, MOST_RANGES};
use crate::units::{Range, RangeSet, Sectors};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// When room is short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoomLimits {
    /// When less than this share of it is free, in percent.
    pub free_percent: u64,
    /// When it may be used up within so many days; 0 for never.
    pub days: u64,
}

/// The forecast must be so many times the limit before short room is told again.
const SWAY_TIMES: u64 = 2;

/// Free room must be so many hundredths above the limit before short room is told again.
const SWAY_PERCENT: u64 = 5;

/// The most runs of a set that are remembered; of a longer one only the number of sectors is.
const MOST_RUNS: usize = 20_000;

/// A set of sectors as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    sectors: Sectors,
    /// `None` when there were too many runs.
    runs: Option<RangeSet>,
}

impl Default for Known {
    fn default() -> Known {
        Known::from(RangeSet::default())
    }
}

impl From<RangeSet> for Known {
    fn from(set: RangeSet) -> Known {
        Known { sectors: set.sectors(), runs: (set.len() <= MOST_RUNS).then_some(set) }
    }
}

/// How a spare is, as far as anybody needs to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpareHealth {
    /// In use.
    Fine,
    /// It failed a commit, or its metadata is not current.
    Failed,
    /// It is not there.
    Missing,
}

/// How a setup was when it was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// Sectors that live on spares.
    pub moved: Known,
    /// Sectors whose data is lost.
    pub lost: Known,
    /// Its spares, by index.
    pub spares: BTreeMap<u8, SpareHealth>,
    /// Whether short room was told of and has not ended since.
    pub short: bool,
    /// Why a person must look, if one must.
    pub attention: Option<String>,
    /// When the last finished scan ended, in seconds since 1970.
    pub scanned: Option<u64>,
    /// The level of each disk that was told; see [`DiskNow`].
    #[serde(default)]
    pub disks: BTreeMap<String, u8>,
}

/// How a disk is doing. Levels are 0 for one that nothing speaks against, and higher the worse it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskNow {
    /// Its level.
    pub level: u8,
    /// The level that it would have if it were a little worse: it counts as better only when this does.
    pub lenient: u8,
    /// In words.
    pub text: String,
}

/// What is there now, and how it came.
#[derive(Clone, Debug, Default)]
pub struct Now {
    /// Sectors that live on spares; `None` when the metadata cannot be read.
    pub moved: Option<RangeSet>,
    /// Sectors whose data is lost.
    pub lost: RangeSet,
    /// Those that this command moved because they read slowly.
    pub weak: RangeSet,
    /// The spares; empty when the metadata cannot be read.
    pub spares: BTreeMap<u8, SpareHealth>,
    /// How much of the room on the spares is free, in percent.
    pub free_percent: Option<u64>,
    /// Days that it lasts at least, by the near end of the forecast; nothing where that is far away or not known.
    pub room_days: Option<u64>,
    /// Why a person must look.
    pub attention: Option<String>,
    /// The last finished scan: when, and what it found.
    pub scan: Option<(u64, String)>,
    /// Its disks, by what they are to the setup, as far as anything is known of them.
    pub disks: BTreeMap<String, DiskNow>,
}

/// What is in `now` and was not in `before`: the runs as far as they are known, and how many sectors.
fn added(before: &Known, now: &RangeSet) -> (RangeSet, Sectors) {
    match &before.runs {
        Some(runs) => {
            let mut new = now.clone();
            runs.iter().for_each(|range| new.remove(range));
            let sectors = new.sectors();
            (new, sectors)
        }
        None => (RangeSet::default(), now.sectors().saturating_sub(before.sectors)),
    }
}

fn bounded(set: &RangeSet) -> Vec<Range> {
    set.iter().take(MOST_RANGES).collect()
}

/// `8 sectors (1000+8)`; long lists are cut.
fn words(sectors: Sectors, set: &RangeSet) -> String {
    const MOST: usize = 8;
    let plural = if sectors.0 == 1 { "" } else { "s" };
    let mut names: Vec<String> = set.iter().take(MOST).map(|range| range.to_string()).collect();
    if names.is_empty() {
        return format!("{sectors} sector{plural}");
    }
    if set.len() > MOST {
        names.push(format!("… and {} more runs", set.len().saturating_sub(MOST)));
    }
    format!("{sectors} sector{plural} ({})", names.join(" "))
}

fn event(event: Kind, text: String) -> Event {
    Event { event, text, sectors: Vec::new() }
}

/// What is to be told, the gravest first, and what to remember. `warn`: when room is short.
pub fn compare(before: &Look, now: &Now, warn: RoomLimits) -> (Vec<Event>, Look) {
    let mut events = Vec::new();
    let mut look = before.clone();
    sectors(before, now, &mut events, &mut look);
    spares(before, now, &mut events, &mut look);
    room(before, now, warn, &mut events, &mut look);
    disks(before, now, &mut events, &mut look);
    // The reason may be worded by numbers that change; that a person must look is told once.
    if let Some(why) = now.attention.as_ref().filter(|_| before.attention.is_none()) {
        events.push(event(Kind::Attention, why.clone()));
    }
    look.attention.clone_from(&now.attention);
    if let Some((ended, summary)) = &now.scan
        && before.scanned.is_none_or(|last| last < *ended)
    {
        events.push(event(Kind::Scan, format!("scan {summary}")));
        look.scanned = Some(*ended);
    }
    events.sort_by_key(|event| event.event.priority());
    (events, look)
}

fn sectors(before: &Look, now: &Now, events: &mut Vec<Event>, look: &mut Look) {
    let Some(moved) = &now.moved else { return };
    let (lost, lost_sectors) = added(&before.lost, &now.lost);
    if lost_sectors > Sectors::ZERO {
        let text = format!("{} could not be read: their data is lost", words(lost_sectors, &lost));
        events.push(Event { event: Kind::Lost, text, sectors: bounded(&lost) });
    }
    let (mut new, mut new_sectors) = added(&before.moved, moved);
    let weak = new.intersection(&now.weak);
    if !weak.is_empty() {
        weak.iter().for_each(|range| new.remove(range));
        new_sectors = new_sectors.saturating_sub(weak.sectors());
        let text = format!("{} read slowly and were moved to a spare", words(weak.sectors(), &weak));
        events.push(Event { event: Kind::Weak, text, sectors: bounded(&weak) });
    }
    if new_sectors > Sectors::ZERO {
        let text = format!("{} were moved to a spare", words(new_sectors, &new));
        events.push(Event { event: Kind::Bad, text, sectors: bounded(&new) });
    }
    look.moved = moved.clone().into();
    look.lost = now.lost.clone().into();
}

fn spares(before: &Look, now: &Now, events: &mut Vec<Event>, look: &mut Look) {
    // Metadata that cannot be read says nothing of the spares.
    if now.moved.is_none() {
        return;
    }
    let troubled = |spares: &BTreeMap<u8, SpareHealth>| spares.values().any(|health| *health != SpareHealth::Fine);
    let mut new = Vec::new();
    for (index, health) in &now.spares {
        if *health == SpareHealth::Fine || before.spares.get(index) == Some(health) {
            continue;
        }
        if *health == SpareHealth::Failed {
            events.push(event(Kind::Failed, format!("spare {index} failed")));
        }
        new.push(format!("spare {index} is {}", if *health == SpareHealth::Failed { "failed" } else { "missing" }));
    }
    if !new.is_empty() {
        events.push(event(Kind::Degraded, format!("degraded: {}", new.join(", "))));
    } else if troubled(&before.spares) && !troubled(&now.spares) {
        events.push(event(Kind::Whole, "whole again: all spares are in use".into()));
    }
    look.spares.clone_from(&now.spares);
}

fn room(before: &Look, now: &Now, warn: RoomLimits, events: &mut Vec<Event>, look: &mut Look) {
    let Some(free) = now.free_percent else { return };
    let days = now.room_days.unwrap_or(u64::MAX);
    let by_share = (free < warn.free_percent).then(|| format!("only {free} % of the room on the spares is free"));
    let by_time = (warn.days > 0 && days <= warn.days)
        .then(|| format!("the room on the spares may be used up in {days} days, and {free} % of it are free"));
    if let Some(text) = by_share.or(by_time) {
        look.short = true;
        if !before.short {
            events.push(event(Kind::Space, text));
        }
        return;
    }
    let share_is_well = warn.free_percent == 0 || free >= warn.free_percent.saturating_add(SWAY_PERCENT).min(100);
    if share_is_well && (warn.days == 0 || days >= warn.days.saturating_mul(SWAY_TIMES)) {
        look.short = false;
    }
}

fn disks(before: &Look, now: &Now, events: &mut Vec<Event>, look: &mut Look) {
    for (role, disk) in &now.disks {
        let told = before.disks.get(role).copied().unwrap_or(0);
        if disk.level > told {
            events.push(event(Kind::Health, format!("{role} {}", disk.text)));
            look.disks.insert(role.clone(), disk.level);
        } else if disk.lenient < told {
            look.disks.insert(role.clone(), disk.lenient);
        }
    }
}

#[cfg(test)]
#[path = "change_tests.rs"]
mod tests;
