//! Bringing a setup up from its spares, and taking it down.
//!
//! Invariants:
//! - a setup comes up only with a main that is proven or named by the person, and fits;
//! - before I/O is possible, all spares hold one and the same generation, with the mark of this machine;
//! - held blocks are found by their tombstones.

use super::session::{device_uuid, find_active, spare_device_name, spare_device_uuid};
use super::{EngineError, Member, Observer, Session, held, now};
use crate::dm::{Activation, DeviceMapper, TableSlot};
use crate::format::MAX_SPARES;
use crate::format::choose::SetupChoice;
use crate::format::metadata::{Activation as ActiveMark, SetupState, SpareState};
use crate::map::{Fate, SpareIndex};
use crate::plan::Refusal;
use crate::segments::{Layout, setup_table};
use uuid::Uuid;

/// Who is bringing a setup up: the mark that goes into the metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// /etc/machine-id; empty when there is none.
    pub machine_id: String,
    /// /proc/sys/kernel/random/boot_id.
    pub boot_id: String,
}

impl Mark {
    /// The mark, with the present time.
    pub fn activation(&self) -> ActiveMark {
        ActiveMark { machine_id: self.machine_id.clone(), boot_id: self.boot_id.clone(), time: now() }
    }
}

/// What activation found and did.
#[derive(Debug)]
pub struct Activated<'a> {
    /// The setup, up.
    pub session: Session<'a>,
    /// Its node.
    pub activation: Activation,
    /// The mark of an activation that was never put down, if there was one.
    pub unclean: Option<ActiveMark>,
    /// Spares that had missed the last commit, and were brought up to date: an interrupted command.
    pub caught_up: Vec<SpareIndex>,
}

/// How to bring a setup up.
#[derive(Debug)]
pub struct ActivateOptions<'a> {
    /// Who we are.
    pub mark: &'a Mark,
    /// Take over a setup that is marked as active on another machine.
    pub takeover: bool,
    /// Is told how it goes.
    pub observer: &'a dyn Observer,
}

/// Judges whether the setup may be brought up here.
///
/// # Errors
/// The [`Refusal`].
pub fn check(choice: &SetupChoice, mark: &Mark, takeover: bool) -> Result<(), Refusal> {
    let metadata = &choice.newest.metadata;
    let name = &metadata.config.name;
    let refuse = |what: &str| Refusal::Metadata { device: name.clone(), what: what.into() };
    match metadata.config.state {
        SetupState::Forming => {
            return Err(refuse("its creation was interrupted: there is no setup yet. Create it again"));
        }
        SetupState::Dissolved => {
            return Err(refuse("it was destroyed; only the erasing of its spares was interrupted"));
        }
        SetupState::Ready => {}
    }
    if let Some(index) = choice.missing.first() {
        let identity = metadata.spare(*index).map(|s| &s.identity);
        let hint = identity.and_then(|i| i.path.clone().or_else(|| i.serial.clone()));
        let what = hint.unwrap_or_else(|| "no name known".into());
        return Err(Refusal::SpareMissing { name: name.clone(), index: *index, what });
    }
    for (index, behind) in choice.stale() {
        if metadata.spare(index).is_some_and(|s| s.state == SpareState::Failed) || behind > 1 {
            return Err(refuse(&format!(
                "spare {index} is stale: it is {behind} generation(s) behind, because commits to it failed or it was absent"
            )));
        }
    }
    if let Some(active) = &metadata.config.active
        && active.machine_id != mark.machine_id
        && !takeover
    {
        let machine = active.machine_id.clone();
        return Err(Refusal::ActiveElsewhere { name: name.clone(), machine });
    }
    Ok(())
}

/// Brings a setup up. `spares` are in order of their index, and complete; `main` fits (the caller has checked).
///
/// # Errors
/// [`Refusal`], or what failed; nothing is left up then.
pub fn activate<'a>(
    dm: &'a dyn DeviceMapper,
    choice: &SetupChoice,
    main: Member,
    spares: Vec<Member>,
    options: &ActivateOptions<'_>,
) -> Result<Activated<'a>, EngineError> {
    check(choice, options.mark, options.takeover)?;
    let newest = &choice.newest;
    let name = newest.metadata.config.name.clone();
    if let Some(state) = dm.state(&name)? {
        return Err(if state.uuid == device_uuid(newest.metadata.setup) {
            Refusal::AlreadyActive(name).into()
        } else {
            let by = "another device-mapper device has it".into();
            Refusal::NameTaken { name, by }.into()
        });
    }
    let mut session = Session {
        dm,
        name,
        metadata: newest.metadata.clone(),
        digest: newest.digest,
        main,
        spares: spares.into_iter().map(Some).collect(),
        layout: Layout::Flat,
    };
    let caught_up = choice.stale().into_iter().map(|(index, _)| index).collect();
    let unclean = session.metadata.config.active.clone();
    let rewritten = held::rewritten(&session)?;
    let result = bring_up(&mut session, options.observer, |session| {
        let mut map = session.metadata.map.clone();
        for range in &rewritten {
            map.record_loss(*range, Fate::Rewritten)?;
        }
        let report = session.commit(|next| {
            next.map = map;
            next.config.active = Some(options.mark.activation());
        })?;
        session.mark_failed_spares(&report).map(|_| ())
    });
    match result {
        Ok(activation) => Ok(Activated { session, activation, unclean, caught_up }),
        Err(error) => {
            let spares = session.spares.len();
            let _ = take_down_devices(dm, &session.name, session.setup(), spares);
            Err(error)
        }
    }
}

/// Makes the devices, has `commit` make the metadata durable, and lets I/O begin.
pub(super) fn bring_up(
    session: &mut Session<'_>,
    observer: &dyn Observer,
    commit: impl FnOnce(&mut Session<'_>) -> Result<(), EngineError>,
) -> Result<Activation, EngineError> {
    let dm = session.dm;
    let name = session.name.clone();
    observer.step("building the device");
    dm.create(&name, &device_uuid(session.setup()))?;
    held::sync_all(session, None, &[&session.metadata.map], observer)?;
    load_checked(session)?;
    commit(session)?;
    // The commit may have found held blocks rewritten: then fewer go through the private devices.
    load_checked(session)?;
    let activation = dm.activate(&name, false)?;
    session.check_live()?;
    Ok(activation)
}

fn load_checked(session: &Session<'_>) -> Result<(), EngineError> {
    let table = setup_table(&session.metadata.map, &session.devices()?, session.layout)?;
    session.dm.load(&session.name, &table, false)?;
    if session.dm.table(&session.name, TableSlot::Inactive)? == table {
        Ok(())
    } else {
        Err(EngineError::TableNotTaken(session.name.clone()))
    }
}

/// Removes the setup's device and the private ones, those of this setup only.
pub(super) fn take_down_devices(
    dm: &dyn DeviceMapper,
    name: &str,
    setup: Uuid,
    spares: usize,
) -> Result<(), EngineError> {
    let ours = |device: &str, uuid: &str| -> Result<bool, EngineError> {
        Ok(dm.state(device)?.is_some_and(|s| s.uuid == uuid))
    };
    if ours(name, &device_uuid(setup))? {
        dm.remove(name)?;
    }
    for index in (0u8..).map(SpareIndex).take(spares) {
        let private = spare_device_name(name, index);
        if ours(&private, &spare_device_uuid(setup, index))? {
            dm.remove(&private)?;
        }
    }
    Ok(())
}

/// Removes the devices that a killed command left of a setup which is not up: a device of that name that never had a
/// table, so that nobody can use it, and the private devices. Leaves alone a setup that is up. Under the setup's lock.
///
/// # Errors
/// What device-mapper says.
pub fn clear_half_built(dm: &dyn DeviceMapper, name: &str, setup: Uuid) -> Result<(), EngineError> {
    let up = dm.state(name)?.is_some_and(|state| state.active && state.uuid == device_uuid(setup));
    if up { Ok(()) } else { take_down_devices(dm, name, setup, MAX_SPARES) }
}

/// Takes a setup down: devices first, then the mark. `uses` says who has it open, for the refusal.
///
/// # Errors
/// [`Refusal::Open`] while it is in use; what failed otherwise.
pub fn deactivate(session: &mut Session<'_>, uses: impl FnOnce() -> String) -> Result<(), EngineError> {
    let (state, _) = find_active(session.dm, &session.name)?;
    if state.open_count > 0 {
        return Err(Refusal::Open { name: session.name.clone(), uses: uses() }.into());
    }
    if state.suspended {
        return Err(Refusal::Suspended(session.name.clone()).into());
    }
    take_down_devices(session.dm, &session.name, session.setup(), session.spares.len())?;
    let rewritten = held::rewritten(session)?;
    let mut map = session.metadata.map.clone();
    for range in &rewritten {
        map.record_loss(*range, Fate::Rewritten)?;
    }
    session.commit(|next| {
        next.map = map;
        next.config.active = None;
    })?;
    Ok(())
}
