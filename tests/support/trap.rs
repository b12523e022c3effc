//! Where a process may die: at a chosen step of a window, before or after the step is done.

use super::*;
use dm_remap::block::DiskError;
use dm_remap::dm::Window;
use dm_remap::dm::fake::Op;
use dm_remap::engine::window::{Phase, WindowEnd, WindowJob};
use nix::errno::Errno;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

/// What a process that dies says.
#[derive(Debug)]
pub struct Died;

/// A countdown of steps.
#[derive(Default)]
pub struct Trap {
    /// What others do before every request of ours to a disk.
    meanwhile: std::sync::Mutex<Option<Box<dyn FnMut() + Send>>>,
    armed: AtomicBool,
    steps: AtomicU64,
    /// The step at which to die, counted from 1; 0 for never.
    at: AtomicU64,
    /// Whether the step is done before the process dies.
    after: AtomicBool,
}

impl std::fmt::Debug for Trap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trap").field("steps", &self.steps).finish_non_exhaustive()
    }
}

impl Trap {
    /// Has `work` done before every request to a disk, also those of a suspended window.
    pub fn meanwhile(&self, work: Box<dyn FnMut() + Send>) {
        *self.meanwhile.lock().unwrap() = Some(work);
    }

    pub fn clear_meanwhile(&self) {
        *self.meanwhile.lock().unwrap() = None;
    }

    fn others(&self) {
        if let Ok(mut work) = self.meanwhile.try_lock()
            && let Some(work) = &mut *work
        {
            work();
        }
    }

    pub fn set(&self, at: u64, after: bool) {
        self.at.store(at, Ordering::SeqCst);
        self.after.store(after, Ordering::SeqCst);
        self.steps.store(0, Ordering::SeqCst);
    }

    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::SeqCst)
    }

    fn arm(&self, armed: bool) {
        self.armed.store(armed, Ordering::SeqCst);
    }

    fn step<T>(&self, work: impl FnOnce() -> T) -> T {
        if !self.armed.load(Ordering::SeqCst) {
            return work();
        }
        let now = self.steps.fetch_add(1, Ordering::SeqCst) + 1;
        let hit = now == self.at.load(Ordering::SeqCst);
        let after = self.after.load(Ordering::SeqCst);
        if hit && !after {
            resume_unwind(Box::new(Died));
        }
        let result = work();
        if hit {
            resume_unwind(Box::new(Died));
        }
        result
    }
}

/// A disk with a trap.
#[derive(Debug)]
pub struct TrapDisk {
    pub inner: Arc<RamDisk>,
    pub trap: Arc<Trap>,
}

impl Disk for TrapDisk {
    fn name(&self) -> &Arc<str> {
        self.inner.name()
    }
    fn size(&self) -> Sectors {
        self.inner.size()
    }
    fn logical_block(&self) -> Sectors {
        self.inner.logical_block()
    }
    fn read(&self, start: Sectors, buf: &mut [u8]) -> Result<(), DiskError> {
        self.trap.others();
        self.trap.step(|| self.inner.read(start, buf))
    }
    fn write(&self, start: Sectors, buf: &[u8]) -> Result<(), DiskError> {
        self.trap.others();
        self.trap.step(|| self.inner.write(start, buf))
    }
    fn flush(&self) -> Result<(), DiskError> {
        self.trap.others();
        self.trap.step(|| self.inner.flush())
    }
}

#[derive(Debug)]
struct TrapWindow<'a> {
    inner: Box<dyn Window + 'a>,
    trap: Arc<Trap>,
}

impl Window for TrapWindow<'_> {
    fn suspend(&self) -> Result<(), Errno> {
        self.trap.step(|| self.inner.suspend())
    }
    fn resume(&self) -> Result<(), Errno> {
        self.trap.step(|| self.inner.resume())
    }
    fn clear(&self) -> Result<(), Errno> {
        self.trap.step(|| self.inner.clear())
    }
    fn suspended(&self) -> Result<bool, Errno> {
        self.trap.step(|| self.inner.suspended())
    }
    fn has_inactive(&self) -> Result<bool, Errno> {
        self.trap.step(|| self.inner.has_inactive())
    }
    fn load_prepared(&self) -> Result<(), Errno> {
        self.trap.step(|| self.inner.load_prepared())
    }
}

/// Stands in while the real one is wrapped.
#[derive(Debug)]
struct NoWindow;

impl Window for NoWindow {
    fn suspend(&self) -> Result<(), Errno> {
        Err(Errno::ENXIO)
    }
    fn resume(&self) -> Result<(), Errno> {
        Err(Errno::ENXIO)
    }
    fn clear(&self) -> Result<(), Errno> {
        Err(Errno::ENXIO)
    }
    fn suspended(&self) -> Result<bool, Errno> {
        Err(Errno::ENXIO)
    }
    fn has_inactive(&self) -> Result<bool, Errno> {
        Err(Errno::ENXIO)
    }
    fn load_prepared(&self) -> Result<(), Errno> {
        Err(Errno::ENXIO)
    }
}

/// Runs a window in a process that dies; with a guardian, or without one.
#[derive(Debug)]
pub struct Dying {
    pub trap: Arc<Trap>,
    pub guardian: bool,
    pub died_in: AtomicU8,
}

impl Dying {
    pub fn new(machine: &Machine, guardian: bool) -> Dying {
        Dying { trap: machine.trap.clone(), guardian, died_in: AtomicU8::new(Phase::Done as u8) }
    }
}

impl WindowRunner for Dying {
    fn run(&self, job: &mut WindowJob<'_>) -> std::io::Result<WindowEnd> {
        let phase = AtomicU8::new(Phase::Armed as u8);
        let inner = std::mem::replace(&mut job.window, Box::new(NoWindow));
        job.window = Box::new(TrapWindow { inner, trap: self.trap.clone() });
        self.trap.arm(true);
        let end = catch_unwind(AssertUnwindSafe(|| job.run(&phase)));
        self.trap.arm(false);
        match end {
            Ok(end) => Ok(end),
            Err(died) => {
                let at = phase.load(Ordering::SeqCst);
                self.died_in.store(at, Ordering::SeqCst);
                if self.guardian {
                    job.take_over(Phase::from_u8(at), &phase);
                    assert_eq!(Phase::from_u8(phase.load(Ordering::SeqCst)), Phase::Done);
                }
                resume_unwind(died)
            }
        }
    }
}

/// Counts how often each operation is asked for while `work` runs.
pub fn count_ops<T>(dm: &FakeDm, ops: &[Op], work: impl FnOnce() -> T) -> Vec<u32> {
    let counts: Vec<Arc<std::sync::atomic::AtomicU32>> = ops.iter().map(|_| Arc::default()).collect();
    for (op, count) in ops.iter().zip(&counts) {
        let count = count.clone();
        dm.on(
            *op,
            Box::new(move |_| {
                count.fetch_add(1, Ordering::SeqCst);
            }),
        );
    }
    work();
    counts.iter().map(|c| c.load(Ordering::SeqCst)).collect()
}

/// Refuses operation number `position` (from 0) of a kind, for `times` times.
pub fn refuse_at(dm: &FakeDm, op: Op, position: u32, times: u32, errno: Errno) {
    let mut seen = 0;
    dm.on(
        op,
        Box::new(move |dm| {
            if seen == position {
                dm.refuse_next(op, errno, times);
            }
            seen += 1;
        }),
    );
}
