//! A setup's tables in the kernel: read and made in either layout.
//!
//! Invariants:
//! - whoever asks what a setup does gets the flat table, whatever the layout: see [`read`];
//! - the private devices that a table leads to are complete, and have their final tables, before the table is loaded:
//!   nothing about them changes afterwards. An overlay with the lines that are wanted is led to by the next table, too;
//! - a private device is removed only while nothing leads to it.

use super::EngineError;
use super::session::{Session, UUID_PREFIX, compare_from, leads_to, spare_device_name, spare_device_uuid};
use crate::dm::{DeviceMapper, DeviceState, TableSlot};
use crate::format::MAX_SPARES;
use crate::map::{Map, SpareIndex};
use crate::plan::Refusal;
use crate::segments::{
    Backing, Devices, Joined, Layout, LayoutRule, Overlay, SegmentError, Target, TargetKind, anchor_table, flattened,
    front_table, in_setup_sectors, is_anchored, is_front_of, linear_devices, overlay_ranges, overlay_tables,
    overlays_of, setup_lines, setup_table, unsettled_table,
};
use crate::units::{DevNo, Range, Sectors};
use nix::errno::Errno;
use std::collections::BTreeSet;
use uuid::Uuid;

/// What a private device is to the switched layout, in the order in which they have to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Anchor,
    Overlay,
}

impl Part {
    const ALL: [Part; 2] = [Part::Anchor, Part::Overlay];

    fn word(self) -> &'static str {
        match self {
            Part::Anchor => "anchor",
            Part::Overlay => "overlay",
        }
    }

    fn name(self, setup: &str, number: u32) -> String {
        format!("{setup}-{}{number}", self.word())
    }

    fn uuid(self, setup: Uuid, number: u32) -> String {
        format!("{UUID_PREFIX}{setup}-{}{number}", self.word())
    }

    /// What the device of this name is to `setup`, and its number.
    fn of(device: &str, setup: &str) -> Option<(Part, u32)> {
        let rest = device.strip_prefix(setup)?.strip_prefix('-')?;
        Part::ALL.into_iter().find_map(|part| {
            let number = rest.strip_prefix(part.word())?.parse().ok()?;
            (part.name(setup, number) == device).then_some((part, number))
        })
    }
}

/// A device of the switched layout that is there, and ours.
#[derive(Clone, Debug)]
struct Private {
    part: Part,
    state: DeviceState,
}

/// The setup's devices of the switched layout, in the order in which they have to be removed.
fn private_parts(dm: &dyn DeviceMapper, name: &str, setup: Uuid) -> Result<Vec<Private>, EngineError> {
    let listed = dm.list()?;
    let mut named: Vec<((Part, u32), String)> =
        listed.into_iter().filter_map(|(device, _)| Some((Part::of(&device, name)?, device))).collect();
    named.sort();
    let mut found = Vec::new();
    for ((part, number), device) in named {
        let state = dm.state(&device)?.filter(|state| state.uuid == part.uuid(setup, number));
        found.extend(state.map(|state| Private { part, state }));
    }
    Ok(found)
}

/// The private devices of a setup, in the order in which they have to be removed.
///
/// # Errors
/// What device-mapper says.
pub(super) fn private_devices(dm: &dyn DeviceMapper, name: &str, setup: Uuid) -> Result<Vec<DeviceState>, EngineError> {
    let mut found: Vec<DeviceState> = private_parts(dm, name, setup)?.into_iter().map(|one| one.state).collect();
    for index in (0u8..).map(SpareIndex).take(MAX_SPARES) {
        let state = dm.state(&spare_device_name(name, index))?;
        found.extend(state.filter(|state| state.uuid == spare_device_uuid(setup, index)));
    }
    Ok(found)
}

/// Names that private devices of a setup have as a rule: there may be more overlays.
pub(super) fn usual_names(name: &str) -> impl Iterator<Item = String> + '_ {
    let parts = (0..4).flat_map(|number| Part::ALL.map(|part| part.name(name, number)));
    parts.chain((0u8..).map(SpareIndex).take(MAX_SPARES).map(move |index| spare_device_name(name, index)))
}

/// What a table of a setup does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// The table as a flat one, whatever the layout.
    pub flat: Vec<Target>,
    /// What is behind it, in the switched layout.
    backing: Option<LiveBacking>,
}

/// How a table of a setup is made, without its lines: the private devices that it leads to, in the switched layout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    arrangement: Option<Arrangement>,
}

/// The private devices of a front.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Arrangement {
    devices: Backing,
    /// Names of the overlays, in their order.
    names: Vec<String>,
    /// Name of the anchor.
    anchor: String,
    /// What the anchor does.
    spread: Vec<Target>,
}

impl Arrangement {
    /// Whether a flush reaches all devices that the overlays write to.
    fn passes_flushes(&self, written: &BTreeSet<DevNo>, devices: &Devices, map: &Map) -> bool {
        self.spread == anchor_table(&self.devices.overlays, written, devices, map.main_len(), map.unit())
    }
}

impl Shape {
    fn layout(&self) -> Layout {
        if self.arrangement.is_some() { Layout::Switched } else { Layout::Flat }
    }
}

/// The private devices that a table leads to, and where they lead.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LiveBacking {
    arrangement: Arrangement,
    /// The devices that the overlays lead to: by what they do for all sectors, also where the front answers EIO.
    written: BTreeSet<DevNo>,
    /// Whether a flush of the setup reaches the anchor.
    anchored: bool,
}

/// Reads one of the tables of the setup `name`. One that is nobody's that we know comes as it is, as if it were flat.
///
/// # Errors
/// What device-mapper says.
pub fn read(dm: &dyn DeviceMapper, name: &str, setup: Uuid, slot: TableSlot) -> Result<Tables, EngineError> {
    behind(dm, name, setup, dm.table(name, slot)?)
}

/// The same for a table of the setup that was read already.
///
/// # Errors
/// What device-mapper says.
pub(super) fn behind(dm: &dyn DeviceMapper, name: &str, setup: Uuid, own: Vec<Target>) -> Result<Tables, EngineError> {
    for arrangement in arrangements(dm, name, setup, &own)? {
        if let Some(Overlaid { flat, written }) = overlaid(dm, &arrangement)?
            && let Ok(flat) = flattened(&own, &arrangement.devices, flat)
        {
            let anchored = is_anchored(&own, &arrangement.devices);
            return Ok(Tables { flat, backing: Some(LiveBacking { arrangement, written, anchored }) });
        }
    }
    Ok(Tables { flat: own, ..Tables::default() })
}

/// How the table in force is made. The overlays are not read, which of a large table takes long: for who has checked what
/// they do.
///
/// # Errors
/// What device-mapper says.
pub(super) fn shape(session: &Session<'_>) -> Result<Shape, EngineError> {
    let own = session.dm.table(&session.name, TableSlot::Active)?;
    let mut found = arrangements(session.dm, &session.name, session.setup(), &own)?;
    Ok(Shape { arrangement: (!found.is_empty()).then(|| found.swap_remove(0)) })
}

/// Whether the setup's own table, which is in force, is one of the switched layout that does all that the metadata say, and
/// passes flushes to all devices; no more than a part of it is in memory at once. What it is else, and how it differs, is for
/// [`behind`].
///
/// # Errors
/// What device-mapper says.
pub(super) fn is_right(
    session: &Session<'_>,
    own: &[Target],
    missing: &impl Fn(SpareIndex) -> bool,
) -> Result<bool, EngineError> {
    let (devices, map) = (session.devices()?, &session.metadata.map);
    for arrangement in arrangements(session.dm, &session.name, session.setup(), own)? {
        let front = front_table(&arrangement.devices, map.main_len(), map.unit(), &[]);
        if front.is_some_and(|front| front == own) && does_as_mapped(session, &arrangement, &devices, missing)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the private devices do all that the metadata say.
fn does_as_mapped(
    session: &Session<'_>,
    arrangement: &Arrangement,
    devices: &Devices,
    missing: &impl Fn(SpareIndex) -> bool,
) -> Result<bool, EngineError> {
    let map = &session.metadata.map;
    let (mut written, mut end) = (BTreeSet::new(), Sectors::ZERO);
    for (overlay, name) in arrangement.devices.overlays.iter().zip(&arrangement.names) {
        let table = session.dm.table(name, TableSlot::Active)?;
        written.extend(linear_devices(&table));
        let lines = in_setup_sectors(overlay.range, table).ok().filter(|_| overlay.range.start() == end);
        let Some(after) = lines.and_then(|lines| compare_from(end, &lines, devices, map, missing).ok()) else {
            return Ok(false);
        };
        end = after;
    }
    Ok(end == map.main_len() && arrangement.passes_flushes(&written, devices, map))
}

/// The private devices that `front` may lead to: those that have the anchor and all overlays of it.
fn arrangements(
    dm: &dyn DeviceMapper,
    name: &str,
    setup: Uuid,
    front: &[Target],
) -> Result<Vec<Arrangement>, EngineError> {
    if !front.iter().any(|target| matches!(target.kind, TargetKind::Switch { .. })) {
        return Ok(Vec::new());
    }
    let private: Vec<Private> =
        private_parts(dm, name, setup)?.into_iter().filter(|device| device.state.active).collect();
    let mut found = Vec::new();
    for anchor in private.iter().filter(|device| device.part == Part::Anchor) {
        found.extend(arrangement(dm, anchor, &private, front)?);
    }
    Ok(found)
}

/// The private devices of a front that leads to this anchor or its overlays.
fn arrangement(
    dm: &dyn DeviceMapper,
    anchor: &Private,
    private: &[Private],
    front: &[Target],
) -> Result<Option<Arrangement>, EngineError> {
    let spread = dm.table(&anchor.state.name, TableSlot::Active)?;
    let Some(overlays) = overlays_of(&spread) else { return Ok(None) };
    let name_of = |overlay: &Overlay| {
        let found = private.iter().find(|one| one.part == Part::Overlay && one.state.devno == overlay.device);
        found.map(|one| one.state.name.clone())
    };
    let Some(names) = overlays.iter().map(name_of).collect() else { return Ok(None) };
    let devices = Backing { overlays, anchor: anchor.state.devno };
    let leads_here = is_front_of(front, &devices);
    Ok(leads_here.then(|| Arrangement { devices, names, anchor: anchor.state.name.clone(), spread }))
}

/// What overlays do: the flat table of all of them, and where they lead.
struct Overlaid {
    flat: Vec<Target>,
    written: BTreeSet<DevNo>,
}

/// Reads the overlays; `None` when they do not fit together.
fn overlaid(dm: &dyn DeviceMapper, arrangement: &Arrangement) -> Result<Option<Overlaid>, EngineError> {
    let (mut written, mut joined) = (BTreeSet::new(), Joined::default());
    for (overlay, name) in arrangement.devices.overlays.iter().zip(&arrangement.names) {
        let table = dm.table(name, TableSlot::Active)?;
        written.extend(linear_devices(&table));
        if joined.push(overlay.range, table).is_err() {
            return Ok(None);
        }
    }
    Ok(Some(Overlaid { flat: joined.into_table(), written }))
}

impl Tables {
    /// The layout.
    pub fn layout(&self) -> Layout {
        if self.backing.is_some() { Layout::Switched } else { Layout::Flat }
    }

    /// Checks that a flush of the setup reaches every device that its writes go to.
    ///
    /// # Errors
    /// The difference, in words.
    pub(super) fn check_flushes(&self, session: &Session<'_>, devices: &Devices) -> Result<(), String> {
        let Some(backing) = &self.backing else { return Ok(()) };
        if backing.anchored && backing.arrangement.passes_flushes(&backing.written, devices, &session.metadata.map) {
            return Ok(());
        }
        Err(format!("flushes do not reach all devices through '{}'", backing.arrangement.anchor))
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
    live: &Shape,
    map: &Map,
    devices: &Devices,
) -> Result<Vec<Target>, EngineError> {
    if session.layout.choose(live.layout(), map.len()) == Layout::Flat || map.main_len() <= map.unit() {
        return Ok(setup_table(map, devices)?);
    }
    session.dm.clear(&session.name)?;
    drop_unused(session);
    match make_backing(session, live, map, devices) {
        Ok(Some(front)) => Ok(front),
        Ok(None) => {
            // Nobody's sectors stay on a bad disk because a kernel lacks a target that only makes things faster.
            drop_unused(session);
            Ok(setup_table(map, devices)?)
        }
        Err(error) => {
            drop_unused(session);
            Err(error)
        }
    }
}

/// Makes the private devices for the flat table of a map, or takes those of the `live` table that have the right lines, and
/// gives the front over them; `None` when the kernel has no `switch`. The flat table is never in memory as a whole.
fn make_backing(
    session: &Session<'_>,
    live: &Shape,
    map: &Map,
    devices: &Devices,
) -> Result<Option<Vec<Target>>, EngineError> {
    let (len, unit) = (map.main_len(), map.unit());
    let there: Vec<(&Overlay, &String)> =
        live.arrangement.iter().flat_map(|live| live.devices.overlays.iter().zip(&live.names)).collect();
    let begins: Vec<Sectors> = there.iter().map(|(overlay, _)| overlay.range.start()).collect();
    let ranges = overlay_ranges(setup_lines(map, devices), len, &begins, session.part_lines)?;
    let (mut overlays, mut written) = (Vec::new(), BTreeSet::new());
    for part in overlay_tables(setup_lines(map, devices), ranges.into_iter()) {
        let (range, table) = part?;
        written.extend(linear_devices(&table));
        let device = match there.iter().find(|(overlay, _)| overlay.range == range) {
            Some((overlay, name)) if session.dm.has_table(name, TableSlot::Active, &table)? => overlay.device,
            _ => make_part(session, Part::Overlay, &table)?
                .ok_or_else(|| EngineError::TableNotTaken(session.name.clone()))?,
        };
        overlays.push(Overlay { device, range });
    }
    let table = anchor_table(&overlays, &written, devices, len, unit);
    let Some(anchor) = make_part(session, Part::Anchor, &table)? else { return Ok(None) };
    Ok(front_table(&Backing { overlays, anchor }, len, unit, &[]))
}

/// A name for a new device, and its UUID: the first number that nobody has.
fn free_name(session: &Session<'_>, part: Part) -> Result<(String, String), EngineError> {
    let taken = session.dm.list()?;
    let numbers: BTreeSet<u32> = taken
        .iter()
        .filter_map(|(device, _)| Part::of(device, &session.name))
        .filter_map(|(found, number)| (found == part).then_some(number))
        .collect();
    let number = (0..).find(|number| !numbers.contains(number)).unwrap_or_default();
    Ok((part.name(&session.name, number), part.uuid(session.setup(), number)))
}

/// Makes a device of the switched layout; `None` when the kernel refuses the table.
fn make_part(session: &Session<'_>, part: Part, table: &[Target]) -> Result<Option<DevNo>, EngineError> {
    let dm = session.dm;
    let (name, uuid) = free_name(session, part)?;
    let state = dm.create(&name, &uuid)?;
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

/// The table that answers EIO for `ranges` and does else what `map` says, whose table is made like `live`.
///
/// # Errors
/// A map that cannot become a table.
pub(super) fn unsettled(
    live: &Shape,
    map: &Map,
    devices: &Devices,
    ranges: &[Range],
) -> Result<Vec<Target>, SegmentError> {
    let arrangement = live.arrangement.as_ref();
    match arrangement.and_then(|live| front_table(&live.devices, map.main_len(), map.unit(), ranges)) {
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
    let table = build(session, &shape(session)?, &session.metadata.map, &session.devices()?)?;
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

/// Removes private devices that no table of the setup leads to. One that cannot be removed (somebody has it open for a
/// moment) is left to the next command.
pub(super) fn drop_unused(session: &Session<'_>) {
    let (dm, name) = (session.dm, session.name.as_str());
    // What cannot be told stays.
    let Ok(private) = private_parts(dm, name, session.setup()) else { return };
    let mut used = BTreeSet::new();
    for slot in [TableSlot::Active, TableSlot::Inactive] {
        let Ok(table) = dm.table(name, slot) else { return };
        let led_to: BTreeSet<DevNo> = table.iter().filter_map(leads_to).collect();
        let leads = |part: Part| private.iter().any(|one| one.part == part && led_to.contains(&one.state.devno));
        if leads(Part::Overlay) && !leads(Part::Anchor) {
            // Nearly all of it is unsettled. Which anchor belongs to it is for `read` to find.
            return;
        }
        used.extend(led_to);
    }
    // Anchors come first, and what they lead to is free once they are gone. Overlays lead to disks only.
    for device in private {
        let name = &device.state.name;
        let stays = used.contains(&device.state.devno) || dm.remove(name).is_err();
        if stays && device.part == Part::Anchor {
            let Ok(table) = dm.table(name, TableSlot::Active) else { return };
            used.extend(table.iter().filter_map(leads_to));
        }
    }
}

/// Lets private devices go on that a killed command, or somebody else, left suspended, with the tables that are in force.
///
/// # Errors
/// What device-mapper says.
pub(super) fn let_go(session: &Session<'_>) -> Result<(), EngineError> {
    for device in private_devices(session.dm, &session.name, session.setup())? {
        if device.suspended {
            session.dm.clear(&device.name)?;
            session.dm.resume(&device.name)?;
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
