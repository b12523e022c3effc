//! Moving what is likely to fail before it does, where the configuration asks for it (`health.move_ahead`).
//!
//! Invariants:
//! - nothing is moved ahead unless main is known to do badly;
//! - what may fail never takes the room of what has failed: half of the room on the spares stays free.

use super::Context;
use super::known::{Known, main_of};
use crate::config::{HEALTH_MARGIN, HEALTH_MOVE_AHEAD};
use crate::health::Band;
use crate::pool::Pool;
use crate::scan::act::Policy;
use crate::units::Sectors;

/// The policy for a setup: `plain`, and what its main's health adds to it.
pub(super) fn with_health(context: &Context, name: &str, plain: Policy) -> Policy {
    let Ok(settings) = context.settings(Some(name)) else { return plain };
    if !settings.get(&HEALTH_MOVE_AHEAD) || !is_called_for(context, name) {
        return plain;
    }
    let margin = plain.margin.max(Sectors(settings.get(&HEALTH_MARGIN)));
    Policy { move_weak: true, margin, ..plain }
}

/// Whether main does badly, by what was last recorded of it, and there is room enough. What cannot be known calls for nothing.
fn is_called_for(context: &Context, name: &str) -> bool {
    let Ok(session) = context.reading_session(name) else { return false };
    let known = Known::load(context, &session.metadata);
    let health = known.recorded(&main_of(&session), &session.metadata).map(|(_, health)| health);
    if !health.is_some_and(|health| matches!(health.band, Band::Poor | Band::Failing)) {
        return false;
    }
    let free = Pool::new(&session.metadata, &session).free();
    free >= session.metadata.map.remapped()
}
