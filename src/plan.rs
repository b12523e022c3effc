//! What is to be done, as data. Planning does no I/O; `--dry-run` prints the very plan that the engine runs.
//!
//! Invariants:
//! - a plan that was made is possible: every check that needs no device was made here;
//! - when in doubt, a [`Refusal`]: it says what was found and what the person can do, and nothing was changed.

pub mod assemble;
pub mod compact;
pub mod create;
pub mod import;
pub mod moves;
pub mod refusal;
pub mod repair;
pub mod restore;
pub mod room;
pub mod spares;

pub use create::{CreateFacts, CreatePlan, DeviceFacts, SpareFacts};
pub use moves::{Home, Move, MoveKind, MovePlan};
pub use refusal::Refusal;
pub use spares::{AddFacts, AddPlan, Destinations};
