//! Bringing a new setup into the world.
//!
//! Invariants:
//! - first all spares carry the setup as *forming*, then as *ready*: a crash leaves no setup or a whole one;
//! - the table is loaded before the setup becomes ready, so a kernel that refuses it leaves no setup behind;
//! - what fails is undone: no device, no metadata.

use super::activate::{Mark, bring_up};
use super::{EngineError, Member, Observer, Session};
use crate::dm::{Activation, DeviceMapper};
use crate::format::copy::encode;
use crate::format::metadata::SetupState;
use crate::plan::CreatePlan;
use crate::segments::Layout;
use crate::store::{Commit, erase_copies};

/// Runs the plan. `main` and `spares` are its devices, opened for writing.
///
/// # Errors
/// What failed; spares that had been written are erased again, and no device is left.
pub fn create<'a>(
    dm: &'a dyn DeviceMapper,
    plan: &CreatePlan,
    main: Member,
    spares: Vec<Member>,
    mark: &Mark,
    observer: &dyn Observer,
) -> Result<(Session<'a>, Activation), EngineError> {
    let encoded = encode(&plan.metadata)?;
    let mut session = Session {
        dm,
        name: plan.metadata.config.name.clone(),
        metadata: plan.metadata.clone(),
        digest: encoded.digest(),
        main,
        spares: spares.into_iter().map(Some).collect(),
        layout: Layout::Flat,
    };
    let result = run(&mut session, encoded, mark, observer);
    match result {
        Ok(activation) => Ok((session, activation)),
        Err(error) => {
            undo(&session, observer);
            Err(error)
        }
    }
}

fn run(
    session: &mut Session<'_>,
    encoded: crate::format::copy::Encoded,
    mark: &Mark,
    observer: &dyn Observer,
) -> Result<Activation, EngineError> {
    observer.step("writing metadata");
    let targets = session.commit_targets();
    let count = targets.len();
    let report = Commit::new(targets, encoded).run();
    // A new setup has no excuse for a spare that cannot keep its metadata.
    let whole = (0..count).all(|i| report.target(i).is_some_and(|t| t.durable == [true; 5]));
    if !whole {
        return Err(session.commit_failed(&report));
    }
    bring_up(session, observer, |session| {
        let report = session.commit(|next| {
            next.config.state = SetupState::Ready;
            next.config.active = Some(mark.activation());
        })?;
        match report.first_error() {
            Some(error) => Err(error.clone().into()),
            None => Ok(()),
        }
    })
}

/// Takes down what was brought up, and erases what was written. Problems are told, the first error is what counts.
fn undo(session: &Session<'_>, observer: &dyn Observer) {
    if let Err(error) =
        super::activate::take_down_devices(session.dm, &session.name, session.setup(), session.spares.len())
    {
        observer.note(&format!("while undoing: {error}"));
    }
    for member in session.spares.iter().flatten() {
        if let Err(error) = erase_copies(&*member.disk) {
            observer.note(&format!("while undoing: {error}"));
        }
    }
}
