//! Dissolving a setup.
//!
//! Invariants:
//! - the device goes first, then a commit says that the setup is dissolved, then the copies are erased: a crash leaves
//!   a setup or none, never one whose extents are forgotten while it runs;
//! - a spare that does not know that the setup is dissolved goes before those that do: alone, it would be a setup whose
//!   other spares are missing;
//! - extents are moved back before, or the person has given them up by name.

use super::activate::take_down_devices;
use super::session::find_active;
use super::{EngineError, Session};
use crate::format::metadata::SetupState;
use crate::map::SpareIndex;
use crate::plan::Refusal;
use crate::store::erase_copies;

/// Dissolves the setup: takes it down if it is up, and erases its metadata. It must have no extents, unless
/// `discard_extents`. `uses` says who has it open, for the refusal. `dissolved` is called when there is no setup any more, before its copies are
/// erased: after that nobody finds it.
///
/// # Errors
/// [`Refusal::Open`], [`Refusal::HasExtents`], or what failed.
pub fn destroy(
    session: &mut Session<'_>,
    discard_extents: bool,
    uses: impl FnOnce() -> String,
    dissolved: impl FnOnce(),
) -> Result<(), EngineError> {
    let name = session.name.clone();
    if let Ok((state, setup)) = find_active(session.dm, &name)
        && setup == session.setup()
    {
        if state.open_count > 0 {
            return Err(Refusal::Open { name, uses: uses() }.into());
        }
        if state.suspended {
            return Err(Refusal::Suspended(name).into());
        }
    }
    let extents = session.metadata.map.len();
    if extents > 0 && !discard_extents {
        return Err(Refusal::HasExtents { name, extents }.into());
    }
    take_down_devices(session.dm, &name, session.setup())?;
    session.commit(|next| {
        next.config.state = SetupState::Dissolved;
        next.config.active = None;
    })?;
    dissolved();
    erase(session)
}

/// Erases the copies on all spares that are there.
fn erase(session: &Session<'_>) -> Result<(), EngineError> {
    let knows = |index: SpareIndex| session.metadata.spare(index).is_some_and(|record| record.state.takes_commits());
    let members =
        (0u8..).map(SpareIndex).zip(&session.spares).filter_map(|(index, member)| Some((index, member.as_ref()?)));
    let (told, untold): (Vec<_>, Vec<_>) = members.partition(|(index, _)| knows(*index));
    for (index, member) in untold {
        erase_copies(&*member.disk).map_err(|error| EngineError::NotErased {
            name: session.name.clone(),
            index,
            error,
        })?;
    }
    let results = told.into_iter().map(|(_, member)| erase_copies(&*member.disk));
    results.fold(Ok(()), Result::and).map_err(EngineError::from)
}
