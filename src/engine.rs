//! Runs plans: the order of steps that makes them safe, rollback and rescue.
//!
//! Invariants:
//! - slots are written, read back and flushed before the map names them;
//! - LOAD comes before SUSPEND, the commit comes before RESUME;
//! - between SUSPEND and RESUME nothing allocates, logs or touches a filesystem (see [`window`]);
//! - whatever fails, the device runs again, with a table whose map is the newest durable one; where nobody can know
//!   which map is durable, the sectors in question answer EIO.

pub mod activate;
pub mod backup;
mod copying;
pub mod counting;
pub mod create;
pub mod destroy;
pub mod dirty;
pub mod discover;
pub mod error;
pub mod find;
pub mod give_up;
pub mod guardian;
pub mod held;
pub mod import;
pub mod last_commit;
pub mod lock;
pub mod members;
pub mod recover;
pub mod registry;
pub mod rewrite;
pub mod salvage;
pub mod samples;
pub mod session;
pub mod splice;
pub mod tables;
pub mod window;

pub use error::EngineError;
pub use session::{DiskSource, Member, Session};

use crate::units::Sectors;

/// Who is told how things go. All calls come outside the suspended window.
pub trait Observer {
    /// A new step has begun, in words.
    fn step(&self, what: &str);
    /// So many of so many sectors are done.
    fn progress(&self, done: u64, total: u64);
    /// Something the person ought to know.
    fn note(&self, text: &str);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn step(&self, _what: &str) {}
    fn progress(&self, _done: u64, _total: u64) {}
    fn note(&self, _text: &str) {}
}

/// Tells of the progress of a part as of that of the whole.
#[derive(Clone, Copy)]
pub struct PartObserver<'a> {
    /// Is told.
    pub whole: &'a dyn Observer,
    /// Sectors that were done before the part.
    pub before: Sectors,
    /// Sectors of the whole.
    pub total: Sectors,
}

impl std::fmt::Debug for PartObserver<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartObserver").field("before", &self.before).field("total", &self.total).finish_non_exhaustive()
    }
}

impl Observer for PartObserver<'_> {
    fn step(&self, what: &str) {
        self.whole.step(what);
    }
    fn progress(&self, done: u64, _total: u64) {
        self.whole.progress(self.before.0.saturating_add(done).min(self.total.0), self.total.0);
    }
    fn note(&self, text: &str) {
        self.whole.note(text);
    }
}

/// Seconds since 1970, by the system's clock; 0 if that is before 1970.
pub fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| d.as_secs())
}
