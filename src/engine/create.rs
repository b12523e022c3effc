//! Bringing a new setup into the world.
//!
//! Invariants:
//! - nothing is written before device-mapper has claimed all devices: two commands never write to one spare;
//! - first all spares carry the setup as *forming*, then as *ready*: a crash leaves no setup or a whole one;
//! - the table is loaded before the setup becomes ready, so a kernel that refuses it leaves no setup behind;
//! - slots that a setup begins with are filled, and durable, before it is ready;
//! - what fails is undone: no device, no metadata.

use super::activate::{Mark, bring_up, take_down_devices};
use super::{EngineError, Member, Observer, Session};
use crate::dm::{Activation, DeviceMapper};
use crate::format::copy::{Encoded, encode};
use crate::format::metadata::SetupState;
use crate::map::Map;
use crate::plan::CreatePlan;
use crate::pool::Scores;
use crate::segments::{LayoutRule, PART_LINES};
use crate::store::{Commit, erase_copies};

/// How to create a setup.
pub struct CreateOptions<'a> {
    /// Who we are.
    pub mark: &'a Mark,
    /// Who decides about the layout.
    pub layout: LayoutRule,
    /// Looks at the devices again once device-mapper has claimed them, before anything is written.
    pub recheck: &'a dyn Fn() -> Result<(), EngineError>,
    /// Is told how it goes.
    pub observer: &'a dyn Observer,
}

impl std::fmt::Debug for CreateOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreateOptions").field("mark", self.mark).finish_non_exhaustive()
    }
}

/// Runs the plan. `main` and `spares` are its devices, opened for writing.
///
/// # Errors
/// What failed; spares that had been written are erased again, and no device is left.
pub fn create<'a>(
    dm: &'a dyn DeviceMapper,
    plan: &CreatePlan,
    main: Member,
    spares: Vec<Member>,
    options: &CreateOptions<'_>,
) -> Result<(Session<'a>, Activation), EngineError> {
    create_prepared(dm, plan, main, spares, options, &mut |session| Ok(session.metadata.map.clone()))
}

/// As [`create`], for a setup that has extents from the start: `prepare` fills their slots, flushes them, and gives the map.
/// It is called while the setup is forming: all devices are claimed, and none is visible.
///
/// # Errors
/// As [`create`], or what `prepare` says.
pub fn create_prepared<'a>(
    dm: &'a dyn DeviceMapper,
    plan: &CreatePlan,
    main: Member,
    spares: Vec<Member>,
    options: &CreateOptions<'_>,
    prepare: &mut dyn FnMut(&Session<'a>) -> Result<Map, EngineError>,
) -> Result<(Session<'a>, Activation), EngineError> {
    let encoded = encode(&plan.metadata)?;
    let mut session = Session {
        dm,
        name: plan.metadata.config.name.clone(),
        metadata: plan.metadata.clone(),
        digest: encoded.digest(),
        main,
        spares: spares.into_iter().map(Some).collect(),
        layout: options.layout,
        failed: Vec::new(),
        read_only: false,
        passed_over: Vec::new(),
        last_commit: None,
        disk_scores: Scores::new(),
        part_lines: PART_LINES,
    };
    let mut written = false;
    let result = bring_up(&mut session, options.observer, |session| {
        (options.recheck)()?;
        written = true;
        write_first(session, encoded, options.mark, prepare)
    });
    match result {
        Ok(activation) => Ok((session, activation)),
        Err(error) => {
            undo(&session, written, options.observer);
            Err(error)
        }
    }
}

/// Writes the setup as forming, and once all spares have that, and what is in its slots, as ready. By now device-mapper
/// has claimed all devices, so nobody else writes to them.
fn write_first<'a>(
    session: &mut Session<'a>,
    encoded: Encoded,
    mark: &Mark,
    prepare: &mut dyn FnMut(&Session<'a>) -> Result<Map, EngineError>,
) -> Result<(), EngineError> {
    let targets = session.commit_targets();
    let count = targets.len();
    let report = Commit::new(targets, encoded).run();
    // A new setup has no excuse for a spare that cannot keep its metadata.
    let whole = (0..count).all(|i| report.target(i).is_some_and(|t| t.durable == [true; 5]));
    if !whole {
        return Err(session.commit_failed(&report));
    }
    let map = prepare(session)?;
    let report = session.commit(|next| {
        next.map = map;
        next.config.state = SetupState::Ready;
        next.config.active = Some(mark.activation());
    })?;
    match report.first_error() {
        Some(error) => Err(error.clone().into()),
        None => Ok(()),
    }
}

/// Takes down what was brought up, and erases what was written: nothing, when the devices could not even be claimed.
/// Problems are told, the first error is what counts. What cannot be taken down keeps its metadata: somebody uses it.
fn undo(session: &Session<'_>, written: bool, observer: &dyn Observer) {
    let taken = take_down_devices(session.dm, &session.name, session.setup());
    if let Err(error) = taken {
        observer.note(&format!("while undoing: {error}. '{}' stays: 'dm-remap destroy' dissolves it", session.name));
        return;
    }
    for member in session.spares.iter().flatten().filter(|_| written) {
        if let Err(error) = erase_copies(&*member.disk) {
            observer.note(&format!("while undoing: {error}"));
        }
    }
}
