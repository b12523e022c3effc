//! What is done about what was found: one plan for all of it.
//!
//! Invariants:
//! - what is planned is what was found, its neighbours where asked for, and nothing else;
//! - when there is no room for all of it, as much of it as there is room for is moved, in order, and the rest is told.

use super::survey::Found;
use crate::engine::splice::{SpliceOptions, SpliceOutcome, splice};
use crate::engine::{EngineError, Session};
use crate::format::metadata::UnreadablePolicy;
use crate::map::SpareIndex;
use crate::plan::Refusal;
use crate::plan::moves::{AlreadyMapped, MovePlan, OnSpares, plan_evacuate, plan_remap};
use crate::units::{Range, Sectors, coalesce};

/// What to do about what was found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy {
    /// Whether slow places are moved, too.
    pub move_weak: bool,
    /// How many sectors on both sides of what is found are moved with it.
    pub margin: Sectors,
    /// What to do with blocks that cannot be read, when not as the setup says.
    pub unreadable: Option<UnreadablePolicy>,
}

/// What should have been moved, and why it was not.
pub type NotMoved = Vec<(Range, String)>;

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Acted {
    /// What the splice did.
    pub outcome: SpliceOutcome,
    /// What there was no room for.
    pub not_moved: NotMoved,
}

/// What should not stay where it is.
fn doomed(found: &Found, policy: &Policy) -> Vec<Range> {
    let weak = found.weak.iter().map(|weak| weak.range).filter(|_| policy.move_weak);
    // What read on a retry only may not do so the next time.
    let recovered = found.recovered.iter().map(|recovered| recovered.range);
    coalesce(found.bad.iter().chain(weak).chain(recovered).collect())
}

/// The sectors of main that are to be moved: with a margin on both sides.
fn wanted(found: &Found, policy: &Policy, main_len: Sectors) -> Vec<Range> {
    let widen = |range: Range| {
        let end = Sectors(range.end().0.saturating_add(policy.margin.0)).min(main_len);
        Range::between(range.start().saturating_sub(policy.margin), end)
    };
    coalesce(doomed(found, policy).into_iter().filter_map(widen).collect())
}

/// Plans to move as many of `wanted` (in order) as there is room for; the plan, and the rest.
fn plan_what_fits(
    wanted: &[Range],
    plan: impl Fn(&[Range]) -> Result<MovePlan, Refusal>,
) -> Result<(Option<MovePlan>, NotMoved), Refusal> {
    let refusal = match plan(wanted) {
        Ok(plan) => return Ok((Some(plan), Vec::new())),
        Err(refusal @ (Refusal::NoFreeSlot { .. } | Refusal::MetadataFull { .. } | Refusal::WholeMain)) => refusal,
        Err(refusal) => return Err(refusal),
    };
    // The largest count that fits: more never fits where less does not.
    let (mut fits, mut too_many) = (0, wanted.len());
    let mut best = None;
    while too_many - fits > 1 {
        let middle = fits + (too_many - fits) / 2;
        match plan(wanted.get(..middle).unwrap_or_default()) {
            Ok(plan) => (fits, best) = (middle, Some(plan)),
            Err(_) => too_many = middle,
        }
    }
    let why = refusal.to_string();
    Ok((best, wanted.iter().skip(fits).map(|range| (*range, why.clone())).collect()))
}

/// Moves what was found on main, in one plan, under the setup's lock.
///
/// # Errors
/// [`EngineError`], as [`splice`].
pub fn move_found(
    session: &mut Session<'_>,
    found: &Found,
    policy: &Policy,
    options: &SpliceOptions<'_>,
) -> Result<Acted, EngineError> {
    session.check_live()?;
    let wanted = wanted(found, policy, session.metadata.map.main_len());
    if wanted.is_empty() {
        return Ok(Acted::default());
    }
    let unreadable = policy.unreadable.unwrap_or(session.metadata.config.policy.unreadable);
    let metadata = &session.metadata;
    let plan = |ranges: &[Range]| plan_remap(metadata, ranges, AlreadyMapped::Skip, unreadable, &*session);
    let mut fitting = plan_what_fits(&wanted, plan)?;
    if !fitting.1.is_empty() && policy.margin > Sectors::ZERO {
        // Neighbours must not take the room of what is bad.
        fitting = plan_what_fits(&doomed(found, policy), plan)?;
    }
    let (plan, not_moved) = fitting;
    let outcome = match plan {
        // What is known to be bad is not read once more in a large request: each such read can cost seconds.
        Some(plan) => {
            let suspects: Vec<Range> = found.bad.iter().collect();
            splice(session, plan, &SpliceOptions { suspects: &suspects, ..*options })?
        }
        None => SpliceOutcome::default(),
    };
    Ok(Acted { outcome, not_moved })
}

/// Moves what lives in slots of a spare that are bad to other slots, in one plan, under the setup's lock. The bad sectors
/// are never used again.
///
/// # Errors
/// [`EngineError`], as [`splice`].
pub fn leave_slots(
    session: &mut Session<'_>,
    spare: SpareIndex,
    found: &Found,
    policy: &Policy,
    options: &SpliceOptions<'_>,
) -> Result<Acted, EngineError> {
    session.check_live()?;
    let runs = doomed(found, policy);
    if runs.is_empty() {
        return Ok(Acted::default());
    }
    let unreadable = match policy.unreadable.unwrap_or(session.metadata.config.policy.unreadable) {
        // Left in a slot that is known to be bad it would be forgotten there; held it is listed, and a write heals it.
        UnreadablePolicy::Leave => UnreadablePolicy::Hold,
        other => other,
    };
    let metadata = &session.metadata;
    let plan = |ranges: &[Range]| {
        let bad: OnSpares = [(spare, ranges.to_vec())].into_iter().collect();
        plan_evacuate(metadata, &bad, unreadable, &*session)
    };
    let (plan, rest) = plan_what_fits(&runs, plan)?;
    let outcome = match plan {
        Some(plan) => splice(session, plan, options)?,
        None => SpliceOutcome::default(),
    };
    let not_moved = rest.into_iter().map(|(range, why)| (range, format!("on spare {spare}: {why}"))).collect();
    Ok(Acted { outcome, not_moved })
}
