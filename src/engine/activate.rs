//! Bringing a setup up from its spares, and taking it down.
//!
//! Invariants:
//! - a setup comes up only with a main that is proven or named by the person, and fits;
//! - before I/O is possible, all spares hold one and the same generation, with the mark of this machine;
//! - held blocks are found by their tombstones.

use super::session::{device_uuid, find_active};
use super::tables::{self, Shape, private_devices, usual_names};
use super::{EngineError, Member, Observer, Session, held, now, samples};
use crate::dm::{Activation, DeviceMapper};
use crate::format::choose::Expected;
use crate::format::copy::{EncodeError, Judge, encode};
use crate::format::metadata::{Activation as ActiveMark, Metadata, SpareState};
use crate::map::SpareIndex;
use crate::plan::Refusal;
use crate::plan::assemble::{AssemblyPlan, FoundSetup};
use crate::pool::Scores;
use crate::segments::{Layout, LayoutRule, PART_LINES};
use crate::store::{Commit, read_copies_by};
use uuid::Uuid;

/// Who is bringing a setup up: the mark that goes into the metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// /etc/machine-id; empty when there is none.
    pub machine_id: String,
    /// /proc/sys/kernel/random/boot_id.
    pub boot_id: String,
    /// The board's UUID (DMI product_uuid), where it has one: it is the same in an initramfs without a machine-id.
    pub hardware_id: String,
}

impl Mark {
    /// Whether a mark was left by this machine. What is unknown on one side proves nothing; where neither side has any
    /// name that outlives a boot, the mark cannot speak of another machine, and is taken for ours.
    pub fn is_same_machine(&self, mark: &ActiveMark) -> bool {
        let equal = |mine: &str, theirs: &str| !mine.is_empty() && mine == theirs;
        let nameless = [&self.machine_id, &self.hardware_id, &mark.machine_id, &mark.hardware_id];
        equal(&self.machine_id, &mark.machine_id)
            || equal(&self.boot_id, &mark.boot_id)
            || equal(&self.hardware_id, &mark.hardware_id)
            || nameless.iter().all(|id| id.is_empty())
    }

    /// The mark, with the present time.
    pub fn activation(&self) -> ActiveMark {
        ActiveMark {
            machine_id: self.machine_id.clone(),
            boot_id: self.boot_id.clone(),
            hardware_id: self.hardware_id.clone(),
            time: now(),
        }
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
pub struct ActivateOptions<'a> {
    /// Who we are.
    pub mark: &'a Mark,
    /// Who decides about the layout.
    pub layout: LayoutRule,
    /// Write nothing to any device, and let nothing be written.
    pub read_only: bool,
    /// Looks at the devices again once device-mapper has claimed them, before anything is written.
    pub recheck: &'a dyn Fn(&Session<'_>) -> Result<(), EngineError>,
    /// Is told how it goes.
    pub observer: &'a dyn Observer,
}

impl std::fmt::Debug for ActivateOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ActivateOptions").field("mark", self.mark).finish_non_exhaustive()
    }
}

/// Brings a setup up as `plan` says, which was decided for `found`. `spares` are in order of their index, `None` for those
/// that it comes up without: their extents answer EIO. `main` fits (that was decided).
///
/// # Errors
/// [`Refusal`], or what failed; nothing is left up then.
pub fn activate<'a>(
    dm: &'a dyn DeviceMapper,
    found: &FoundSetup,
    plan: &AssemblyPlan,
    main: Member,
    spares: Vec<Option<Member>>,
    options: &ActivateOptions<'_>,
) -> Result<Activated<'a>, EngineError> {
    let newest = &found.newest;
    let name = plan.name.clone();
    if let Some(state) = dm.state(&name)? {
        return Err(if state.uuid == device_uuid(newest.metadata.setup) {
            Refusal::AlreadyActive(name).into()
        } else {
            let by = "another device-mapper device has it".into();
            Refusal::NameTaken { name, by }.into()
        });
    }
    let is_here = |index: SpareIndex| spares.get(index.as_usize()).is_some_and(Option::is_some);
    let members = newest.metadata.members().map(|(index, _)| index);
    let missing: Vec<SpareIndex> = members.filter(|index| !is_here(*index)).collect();
    let mut session = Session {
        dm,
        name,
        metadata: newest.metadata.clone(),
        digest: newest.digest,
        main,
        spares,
        layout: options.layout,
        failed: Vec::new(),
        read_only: options.read_only,
        passed_over: Vec::new(),
        last_commit: None,
        disk_scores: Scores::new(),
        part_lines: PART_LINES,
    };
    let unclean = session.metadata.config.active.clone();
    let rewritten = held::rewritten(&session);
    let result = bring_up(&mut session, options.observer, |session| {
        still_the_same(session, found)?;
        (options.recheck)(session)?;
        let map = held::map_with(&session.metadata, &rewritten)?;
        if options.read_only {
            // What was written to held blocks is data, also where that cannot be committed.
            session.metadata.map = map;
            return Ok(());
        }
        catch_up(session, &plan.behind)?;
        take_part_again(&mut session.metadata, &missing);
        session.commit(|next| {
            missing.iter().for_each(|index| next.mark_failed(*index));
            next.config.name.clone_from(&plan.name);
            next.map = map;
            next.config.active = Some(options.mark.activation());
            next.forget_open_samples();
        })?;
        Ok(())
    });
    match result {
        Ok(activation) => {
            let caught_up = if options.read_only { Vec::new() } else { plan.behind.clone() };
            Ok(Activated { session, activation, unclean, caught_up })
        }
        Err(error) => {
            let _ = take_down_devices(dm, &session.name, session.setup());
            Err(error)
        }
    }
}

/// Spares that failed before and are here take part again.
fn take_part_again(metadata: &mut Metadata, missing: &[SpareIndex]) {
    for (index, record) in (0u8..).map(SpareIndex).zip(&mut metadata.spares) {
        if record.state == SpareState::Failed && !missing.contains(&index) {
            record.state = SpareState::Present;
            record.holds = None;
        }
    }
}

/// Checks, now that device-mapper has claimed the spares, that they still are what was read before.
fn still_the_same(session: &Session<'_>, before: &FoundSetup) -> Result<(), Refusal> {
    let expected = Expected { setup: Some(session.setup()), spare: None };
    let mut judge = Judge::default();
    for (index, member) in (0u8..).map(SpareIndex).zip(&session.spares) {
        let Some(member) = member else { continue };
        let found = read_copies_by(&mut judge, &*member.disk, expected).choose().ok();
        let generation = found.as_ref().map(|chosen| chosen.copy.metadata.generation);
        let ours = found.is_some_and(|chosen| Some(chosen.copy.spare) == session.metadata.spare(index).map(|s| s.uuid));
        let read_before = before.spares.iter().find(|spare| spare.index == index).and_then(|spare| spare.generation);
        if !ours || generation != read_before {
            let what = "its metadata changed while the setup was being brought up. Try again".into();
            return Err(Refusal::Metadata { device: member.disk.name().to_string(), what });
        }
    }
    Ok(())
}

/// Writes the newest generation to spares that had missed it, before there is a newer one: else a crash in that newer
/// commit would leave them two behind, and the setup would be refused. What fails is left to that commit to find.
fn catch_up(session: &Session<'_>, behind: &[SpareIndex]) -> Result<(), EngineError> {
    let uuids: Vec<Uuid> = behind.iter().filter_map(|i| session.metadata.spare(*i)).map(|s| s.uuid).collect();
    let encoded = encode(&session.metadata)?;
    // Another version may write the same content in other words: that would be divergent.
    if !uuids.is_empty() && encoded.digest() == session.digest {
        let targets = session.commit_targets().into_iter().filter(|t| uuids.contains(&t.uuid)).collect();
        Commit::new(targets, encoded).run();
    }
    Ok(())
}

/// Makes the devices, has `commit` make the metadata durable, and lets I/O begin.
pub(super) fn bring_up<'a>(
    session: &mut Session<'a>,
    observer: &dyn Observer,
    commit: impl FnOnce(&mut Session<'a>) -> Result<(), EngineError>,
) -> Result<Activation, EngineError> {
    let dm = session.dm;
    let name = session.name.clone();
    observer.step("building the device");
    dm.create(&name, &device_uuid(session.setup()))?;
    let before = session.metadata.map.clone();
    held::sync_all(session, None, &[&before], observer)?;
    load(session)?;
    commit(session)?;
    // The commit may have found held blocks rewritten: they answer again, and fewer go through the private devices.
    held::sync_all(session, Some(&before), &[&session.metadata.map], observer)?;
    if session.metadata.map != before {
        load(session)?;
    }
    let activation = dm.activate(&name, false)?;
    if session.check_live()? == Layout::Flat && session.layout == LayoutRule::Fixed(Layout::Switched) {
        observer.note(
            "the layout is flat: this kernel has no dm-switch (try 'modprobe dm-switch'), or main is no larger than one unit",
        );
    }
    Ok(activation)
}

fn load(session: &Session<'_>) -> Result<(), EngineError> {
    // It has no table yet, so there is no layout that it would leave.
    tables::load(session, &tables::build(session, &Shape::default(), &session.metadata.map, &session.devices()?)?)
}

/// Removes the nodes that a killed command left of the setup's devices after they were gone; their names.
///
/// # Errors
/// What device-mapper says, or that a node cannot be removed.
pub fn remove_stale_nodes(dm: &dyn DeviceMapper, name: &str) -> Result<Vec<String>, EngineError> {
    let mut removed = Vec::new();
    for device in std::iter::once(name.to_string()).chain(usual_names(name)) {
        if dm.remove_stale_node(&device)? {
            removed.push(device);
        }
    }
    Ok(removed)
}

/// Removes the setup's device and the private ones, those of this setup only.
pub(super) fn take_down_devices(dm: &dyn DeviceMapper, name: &str, setup: Uuid) -> Result<(), EngineError> {
    let ours = |device: &str, uuid: &str| -> Result<bool, EngineError> {
        Ok(dm.state(device)?.is_some_and(|s| s.uuid == uuid))
    };
    if ours(name, &device_uuid(setup))? {
        dm.remove(name)?;
    }
    for private in private_devices(dm, name, setup)? {
        dm.remove(&private.name)?;
    }
    Ok(())
}

/// Removes what a killed command left of a setup that is not up: a device that never got its table, private devices
/// without their setup. Nothing of it can be in use. The caller holds the lock of the setup.
///
/// # Errors
/// What device-mapper says.
pub fn remove_remains(dm: &dyn DeviceMapper, name: &str, setup: Uuid) -> Result<bool, EngineError> {
    let main = dm.state(name)?.filter(|s| s.uuid == device_uuid(setup));
    if main.as_ref().is_some_and(|s| s.active || s.open_count > 0) {
        return Ok(false);
    }
    let mut found = main.is_some();
    let private = private_devices(dm, name, setup)?;
    // Those that others of them lead to are open by that; what nobody leads to is open by a stranger only.
    if main.is_none() && private.iter().any(|state| state.open_count > 0 && !tables::is_led_to(dm, state, &private)) {
        return Ok(false);
    }
    found |= !private.is_empty();
    if found {
        take_down_devices(dm, name, setup)?;
    }
    Ok(found)
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
    take_down_devices(session.dm, &session.name, session.setup())?;
    if session.read_only {
        return Ok(());
    }
    let map = held::map_with(&session.metadata, &held::rewritten(session))?;
    session.commit(|next| {
        next.map = map;
        next.config.active = None;
    })?;
    // Only now: main may be slow to answer, or never answer, and nothing above depends on it.
    let samples = samples::take(&*session.main.disk, &session.metadata.map, now());
    match session.commit(|next| next.config.samples = samples) {
        // There is no room for them.
        Err(EngineError::Encode(EncodeError::Full { .. })) => {}
        other => drop(other?),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_of_another_machine_is_told_from_our_own() {
        let mark = |machine: &str, boot: &str, board: &str| Mark {
            machine_id: machine.into(),
            boot_id: boot.into(),
            hardware_id: board.into(),
        };
        let ours = mark("m", "b1", "h");
        assert!(ours.is_same_machine(&mark("m", "b2", "").activation()), "after a reboot");
        assert!(mark("", "b2", "h").is_same_machine(&ours.activation()), "in an initramfs, by its board");
        assert!(!mark("n", "b2", "").is_same_machine(&ours.activation()), "another machine");
        assert!(!mark("", "b2", "").is_same_machine(&ours.activation()), "nobody knows who asks");
        assert!(!ours.is_same_machine(&mark("", "b2", "").activation()), "nobody knows who it was");
        assert!(mark("", "b2", "").is_same_machine(&mark("", "b1", "").activation()), "no names at all");
    }
}
