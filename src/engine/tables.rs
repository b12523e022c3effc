//! A setup's tables in the kernel: read and made in either layout.
//!
//! Invariants:
//! - whoever asks what a setup does gets the flat table, whatever the layout: see [`read`];
//! - the pair of private devices that a table leads to is complete, and has its final tables, before the table is loaded:
//!   nothing about a pair changes afterwards;
//! - a pair is removed only while neither table of the setup leads to it.

use super::EngineError;
use super::session::{Session, UUID_PREFIX, leads_to, spare_device_name, spare_device_uuid};
use crate::dm::{DeviceMapper, DeviceState, TableSlot};
use crate::format::MAX_SPARES;
use crate::map::{Map, SpareIndex};
use crate::plan::Refusal;
use crate::segments::{
    Devices, Layout, LayoutRule, Pair, SegmentError, Target, TargetKind, anchor_table, flattened, front_table,
    linear_devices, setup_table, unsettled_table,
};
use crate::units::{DevNo, Range};
use nix::errno::Errno;
use std::collections::BTreeSet;
use uuid::Uuid;

/// Pairs that a setup may have: one in force, one that is being made, and others that somebody keeps from being removed.
const PAIRS: u8 = 4;

/// A device of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Anchor,
    Overlay,
}

impl Part {
    /// In the order in which they have to be removed.
    const ALL: [Part; 2] = [Part::Anchor, Part::Overlay];

    fn word(self) -> &'static str {
        match self {
            Part::Anchor => "anchor",
            Part::Overlay => "overlay",
        }
    }

    fn name(self, setup: &str, number: u8) -> String {
        format!("{setup}-{}{number}", self.word())
    }

    fn uuid(self, setup: Uuid, number: u8) -> String {
        format!("{UUID_PREFIX}{setup}-{}{number}", self.word())
    }
}

/// Names and UUIDs that the private devices of a setup can have, in the order in which they have to be removed.
pub(super) fn private_devices(name: &str, setup: Uuid) -> impl Iterator<Item = (String, String)> + '_ {
    let pairs = (0..PAIRS).flat_map(|number| Part::ALL.map(|part| (part, number)));
    let pairs = pairs.map(move |(part, number)| (part.name(name, number), part.uuid(setup, number)));
    let spares = (0u8..).map(SpareIndex).take(MAX_SPARES);
    pairs.chain(spares.map(move |index| (spare_device_name(name, index), spare_device_uuid(setup, index))))
}

/// What a table of a setup does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// The table as a flat one, whatever the layout.
    pub flat: Vec<Target>,
    /// The pair behind it, in the switched layout.
    pair: Option<LivePair>,
}

/// How a table of a setup is made, without its lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// Number of the pair that it leads to, in the switched layout.
    pair: Option<u8>,
}

impl Shape {
    fn layout(self) -> Layout {
        if self.pair.is_some() { Layout::Switched } else { Layout::Flat }
    }
}

/// A pair that a table leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LivePair {
    devices: Pair,
    number: u8,
    /// The devices that the overlay leads to: by what it does for all sectors, also where the front answers EIO.
    written: BTreeSet<DevNo>,
    /// What the anchor does.
    anchor: Vec<Target>,
}

/// Reads one of the tables of the setup `name`. One that is nobody's that we know comes as it is, as if it were flat.
///
/// # Errors
/// What device-mapper says.
pub fn read(dm: &dyn DeviceMapper, name: &str, setup: Uuid, slot: TableSlot) -> Result<Tables, EngineError> {
    let own = dm.table(name, slot)?;
    let switches = own.iter().any(|target| matches!(target.kind, TargetKind::Switch { .. }));
    if switches {
        for number in 0..PAIRS {
            let Some(pair) = pair_numbered(dm, name, setup, number)? else { continue };
            if !own.iter().any(|target| leads_to_pair(target, pair)) {
                continue;
            }
            let overlay = dm.table(&Part::Overlay.name(name, number), TableSlot::Active)?;
            let written = linear_devices(&overlay);
            if let Ok(flat) = flattened(&own, pair, overlay) {
                let anchor = dm.table(&Part::Anchor.name(name, number), TableSlot::Active)?;
                let pair = LivePair { devices: pair, number, written, anchor };
                return Ok(Tables { flat, pair: Some(pair) });
            }
        }
    }
    Ok(Tables { flat: own, ..Tables::default() })
}

fn leads_to_pair(target: &Target, pair: Pair) -> bool {
    match target.kind {
        TargetKind::Linear { device, .. } => device == pair.anchor,
        TargetKind::Switch { device, .. } => device == pair.overlay,
        _ => false,
    }
}

/// The pair with this number, if both devices are there and ours.
fn pair_numbered(dm: &dyn DeviceMapper, name: &str, setup: Uuid, number: u8) -> Result<Option<Pair>, EngineError> {
    let find = |part: Part| -> Result<Option<DevNo>, EngineError> {
        let state = dm.state(&part.name(name, number))?;
        Ok(state.filter(|s| s.active && s.uuid == part.uuid(setup, number)).map(|s| s.devno))
    };
    Ok(find(Part::Overlay)?.zip(find(Part::Anchor)?).map(|(overlay, anchor)| Pair { overlay, anchor }))
}

impl Tables {
    /// The layout.
    pub fn layout(&self) -> Layout {
        self.shape().layout()
    }

    /// How it is made.
    pub(super) fn shape(&self) -> Shape {
        Shape { pair: self.pair.as_ref().map(|pair| pair.number) }
    }

    /// Checks that a flush of the setup reaches every device that its writes go to.
    ///
    /// # Errors
    /// The difference, in words.
    pub(super) fn check_flushes(&self, session: &Session<'_>, devices: &Devices) -> Result<(), String> {
        let Some(pair) = &self.pair else { return Ok(()) };
        let map = &session.metadata.map;
        if pair.anchor == anchor_table(pair.devices.overlay, &pair.written, devices, map.main_len(), map.unit()) {
            return Ok(());
        }
        Err(format!("'{}' does not pass flushes to all devices", Part::Anchor.name(&session.name, pair.number)))
    }
}

/// Makes what the setup's own table, which is `live` now, needs to do what `map` says, in the layout that the session's
/// rule gives, and that table; the flat one where the kernel has no `switch`. The inactive slot of the setup is emptied. Nothing that is in
/// force changes.
///
/// # Errors
/// What device-mapper says, or a map that cannot become a table.
pub(super) fn build(
    session: &Session<'_>,
    live: Shape,
    map: &Map,
    devices: &Devices,
) -> Result<Vec<Target>, EngineError> {
    let flat = setup_table(map, devices)?;
    if session.layout.choose(live.layout(), map.len()) == Layout::Flat || map.main_len() <= map.unit() {
        return Ok(flat);
    }
    session.dm.clear(&session.name)?;
    let number = free_number(session, live.pair)?;
    match make_pair(session, number, &flat, map, devices) {
        Ok(Some(front)) => Ok(front),
        Ok(None) => {
            // Nobody's sectors stay on a bad disk because a kernel lacks a target that only makes things faster.
            remove_pair(session.dm, &session.name, session.setup(), number)?;
            Ok(flat)
        }
        Err(error) => {
            let _ = remove_pair(session.dm, &session.name, session.setup(), number);
            Err(error)
        }
    }
}

/// A number whose devices are not there, or could be removed.
fn free_number(session: &Session<'_>, live: Option<u8>) -> Result<u8, EngineError> {
    let mut refused = None;
    for number in (0..PAIRS).filter(|number| Some(*number) != live) {
        match remove_pair(session.dm, &session.name, session.setup(), number) {
            Ok(()) => return Ok(number),
            Err(error) => refused = Some(error),
        }
    }
    Err(refused.unwrap_or_else(|| EngineError::TableNotTaken(session.name.clone())))
}

/// Removes the devices of a pair, those of this setup only.
fn remove_pair(dm: &dyn DeviceMapper, name: &str, setup: Uuid, number: u8) -> Result<(), EngineError> {
    for part in Part::ALL {
        let device = part.name(name, number);
        match dm.state(&device)? {
            Some(state) if state.uuid == part.uuid(setup, number) => dm.remove(&device)?,
            Some(_) => {
                let by = "a device-mapper device has it, and the setup needs it for its tables".into();
                return Err(Refusal::NameTaken { name: device, by }.into());
            }
            None => {}
        }
    }
    Ok(())
}

/// Makes a pair and gives the front over it; `None` when the kernel has no `switch`.
fn make_pair(
    session: &Session<'_>,
    number: u8,
    flat: &[Target],
    map: &Map,
    devices: &Devices,
) -> Result<Option<Vec<Target>>, EngineError> {
    let (len, unit) = (map.main_len(), map.unit());
    let Some(overlay) = make_part(session, Part::Overlay, number, flat)? else {
        return Err(EngineError::TableNotTaken(session.name.clone()));
    };
    let table = anchor_table(overlay, &linear_devices(flat), devices, len, unit);
    let Some(anchor) = make_part(session, Part::Anchor, number, &table)? else { return Ok(None) };
    Ok(front_table(Pair { overlay, anchor }, len, unit, &[]))
}

/// Makes a device of a pair; `None` when the kernel refuses the table.
fn make_part(session: &Session<'_>, part: Part, number: u8, table: &[Target]) -> Result<Option<DevNo>, EngineError> {
    let (dm, name) = (session.dm, part.name(&session.name, number));
    let state = dm.create(&name, &part.uuid(session.setup(), number))?;
    match dm.load(&name, table, session.read_only) {
        Ok(()) => {}
        Err(error) if error.errno() == Some(Errno::EINVAL) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    dm.activate(&name, true)?;
    if !dm.has_table(&name, TableSlot::Active, table)? {
        return Err(EngineError::TableNotTaken(name));
    }
    Ok(Some(state.devno))
}

/// The table that answers EIO for `ranges` and does else what `map` says, whose table is `live`.
///
/// # Errors
/// A map that cannot become a table.
pub(super) fn unsettled(
    live: &Tables,
    map: &Map,
    devices: &Devices,
    ranges: &[Range],
) -> Result<Vec<Target>, SegmentError> {
    let pair = live.pair.as_ref();
    match pair.and_then(|pair| front_table(pair.devices, map.main_len(), map.unit(), ranges)) {
        Some(front) => Ok(front),
        None => unsettled_table(map, devices, ranges),
    }
}

/// Loads a table of [`build`], or another one, and checks that the kernel has it.
///
/// # Errors
/// [`EngineError::TableNotTaken`], or what device-mapper says. The inactive slot is empty then.
pub(super) fn load(session: &Session<'_>, table: &[Target]) -> Result<(), EngineError> {
    let (dm, name) = (session.dm, &session.name);
    dm.load(name, table, session.read_only)?;
    // A table that stays loaded would be swapped in by anybody's next resume, without its map.
    match dm.has_table(name, TableSlot::Inactive, table) {
        Ok(true) => Ok(()),
        other => {
            dm.clear(name).or_else(|_| dm.clear(name))?;
            Err(other.map_or_else(EngineError::from, |_| EngineError::TableNotTaken(name.clone())))
        }
    }
}

/// Puts the table into force that the metadata gives, with the devices that there are, outside of any window.
///
/// # Errors
/// What failed; the old table is in force then, and the device runs.
pub(super) fn swap(session: &Session<'_>) -> Result<(), EngineError> {
    let live = session.tables(TableSlot::Active)?.shape();
    let table = build(session, live, &session.metadata.map, &session.devices()?)?;
    let swapped = load(session, &table).and_then(|()| {
        session.dm.resume(&session.name).map_err(|error| {
            // The kernel has thrown the table away and may have left the device suspended: the old one must go on.
            let _ = session.dm.resume(&session.name);
            error.into()
        })
    });
    drop_unused(session);
    swapped
}

/// Changes the layout of a setup that is up, under its lock. What it does with I/O stays the same.
///
/// # Errors
/// [`Refusal::NoSwitch`], or what failed; the old layout is in force then.
pub fn change_layout(session: &mut Session<'_>, rule: LayoutRule) -> Result<Layout, EngineError> {
    session.check_live()?;
    session.clear_leftovers()?;
    session.layout = rule;
    swap(session)?;
    let layout = session.check_live()?;
    if rule == LayoutRule::Fixed(Layout::Switched) && layout == Layout::Flat {
        return Err(Refusal::NoSwitch(session.name.clone()).into());
    }
    Ok(layout)
}

/// Removes pairs that no table of the setup leads to. One that cannot be removed (somebody has it open for a moment) is
/// left to the next command.
pub(super) fn drop_unused(session: &Session<'_>) {
    let (dm, name, setup) = (session.dm, session.name.as_str(), session.setup());
    let mut used = Vec::new();
    for slot in [TableSlot::Active, TableSlot::Inactive] {
        // What cannot be told stays.
        let Ok(tables) = dm.table(name, slot) else { return };
        used.extend(tables.into_iter().filter_map(|target| match target.kind {
            TargetKind::Linear { device, .. } | TargetKind::Switch { device, .. } => Some(device),
            _ => None,
        }));
    }
    for number in 0..PAIRS {
        let in_use = Part::ALL.into_iter().any(|part| {
            let state = dm.state(&part.name(name, number)).ok().flatten();
            state.is_some_and(|state| used.contains(&state.devno))
        });
        if !in_use {
            let _ = remove_pair(dm, name, setup, number);
        }
    }
}

/// Lets private devices go on that a killed command, or somebody else, left suspended, with the tables that are in force.
///
/// # Errors
/// What device-mapper says.
pub(super) fn let_go(session: &Session<'_>) -> Result<(), EngineError> {
    for (name, uuid) in private_devices(&session.name, session.setup()) {
        if session.dm.state(&name)?.is_some_and(|state| state.suspended && state.uuid == uuid) {
            session.dm.clear(&name)?;
            session.dm.resume(&name)?;
        }
    }
    Ok(())
}

/// Whether one of the `private` devices of a setup leads to another: that other is open then, by nobody else.
pub(super) fn is_led_to(dm: &dyn DeviceMapper, state: &DeviceState, private: &[DeviceState]) -> bool {
    private.iter().any(|other| {
        let table = dm.table(&other.name, TableSlot::Active).unwrap_or_default();
        table.iter().any(|target| leads_to(target) == Some(state.devno))
    })
}
