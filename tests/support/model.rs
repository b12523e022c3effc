//! What an application may find in each sector: now, and after a power cut.

use super::*;
use dm_remap::block::DiskError;
use dm_remap::dm::fake::Op;
use nix::errno::Errno;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a sector holds, as a reader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// The pattern of this version.
    Version(u8),
    /// EIO, until it is written.
    Held,
    /// Main cannot read it, and it lives there.
    Bad,
}

/// One sector.
#[derive(Clone, Debug)]
pub struct Cell {
    /// What a read gives now: one of these.
    pub now: Vec<Value>,
    /// What else it may give after a power cut.
    pub crash: Vec<Value>,
}

fn add(to: &mut Vec<Value>, value: Value) {
    if !to.contains(&value) {
        to.push(value);
    }
}

/// All sectors of a setup.
#[derive(Clone, Debug)]
pub struct Model {
    pub cells: Vec<Cell>,
    /// The setup reads rewritten held sectors only after the next command (flakey).
    pub held_lingers: bool,
    version: u8,
}

impl Model {
    /// Every sector holds version 0, durably.
    pub fn new(sectors: u64) -> Model {
        let cell = Cell { now: vec![Value::Version(0)], crash: Vec::new() };
        Model { cells: vec![cell; sectors as usize], held_lingers: false, version: 0 }
    }

    /// Everything has this value, durably.
    pub fn set(&mut self, range: Range, value: Value) {
        for sector in range.start().0..range.end().0 {
            self.cells[sector as usize] = Cell { now: vec![value], crash: Vec::new() };
        }
    }

    /// Everything may have this value too, now and after a crash.
    pub fn may_be(&mut self, range: Range, value: Value) {
        for sector in range.start().0..range.end().0 {
            let cell = &mut self.cells[sector as usize];
            add(&mut cell.now, value);
        }
    }

    /// What may be there after a power cut.
    pub fn after_crash(&self) -> Model {
        let mut next = self.clone();
        for cell in &mut next.cells {
            for value in std::mem::take(&mut cell.crash) {
                add(&mut cell.now, value);
            }
        }
        next
    }

    /// Writes a logical block through the setup and takes note; whether it was acknowledged.
    pub fn write(&mut self, machine: &Machine, sector: u64) -> bool {
        let block = machine.main.logical_block().0;
        self.write_through(&machine.dm, &machine.power, block, sector)
    }

    fn write_through(&mut self, dm: &FakeDm, power: &Power, block: u64, sector: u64) -> bool {
        if power.is_off() {
            return false;
        }
        self.version = if self.version == u8::MAX { 1 } else { self.version + 1 };
        let version = self.version;
        let first = sector / block * block;
        let data: Vec<u8> = (first..first + block).flat_map(|s| pattern(s, version)).collect();
        let result = dm.disk(NAME).write(Sectors(first), &data);
        for sector in first..first + block {
            let lingers = self.held_lingers;
            let cell = &mut self.cells[sector as usize];
            match &result {
                Ok(()) => {
                    let held = cell.now.contains(&Value::Held) && lingers;
                    for value in std::mem::replace(&mut cell.now, vec![Value::Version(version)]) {
                        add(&mut cell.crash, value);
                    }
                    if held {
                        add(&mut cell.now, Value::Held);
                    }
                }
                // The power went off during this one: any part of it may have landed.
                Err(DiskError { errno: Errno::ENODEV, .. }) => add(&mut cell.now, Value::Version(version)),
                // It waited, or failed as a whole: nothing was written.
                Err(_) => {}
            }
        }
        result.is_ok()
    }

    /// Flushes the setup and takes note.
    pub fn flush(&mut self, dm: &FakeDm) {
        if dm.disk(NAME).flush().is_ok() {
            for cell in &mut self.cells {
                cell.crash.clear();
            }
        }
    }

    /// Reads every sector through the setup; each must have a value that it may have now. Remembers what it saw.
    pub fn check(&mut self, machine: &Machine, context: &str) {
        self.check_except(machine, &[], context);
    }

    /// The same, but the sectors of `eio` must all answer EIO, and nothing is learnt of them.
    pub fn check_except(&mut self, machine: &Machine, eio: &[Range], context: &str) {
        for (sector, cell) in (0u64..).zip(&mut self.cells) {
            let read = machine.read(sector);
            if eio.iter().any(|r| r.contains(Sectors(sector))) {
                assert_eq!(read, Err(Errno::EIO), "{context}: sector {sector} must answer EIO");
                continue;
            }
            let fits = |value: &&Value| match (value, &read) {
                (Value::Version(v), Ok(data)) => data[..] == pattern(sector, *v),
                (Value::Held, Err(errno)) => *errno == Errno::EIO,
                (Value::Bad, Err(errno)) => *errno == Errno::ENODATA,
                _ => false,
            };
            let found = cell.now.iter().find(fits).copied();
            let Some(found) = found else {
                let head = read.map(|data| data[..16].to_vec());
                panic!("{context}: sector {sector} reads {head:?}, and may be {:?} only", cell.now);
            };
            // What lingers as held may yet come back.
            if !(self.held_lingers && cell.now.contains(&Value::Held)) {
                cell.now = vec![found];
            }
        }
    }

    /// After a crash and a check: what was seen is what there is.
    pub fn settle(&mut self) {
        for cell in &mut self.cells {
            cell.crash.clear();
        }
    }
}

/// A model that hooks and tests share.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Mutex<Model>>);

impl Shared {
    pub fn new(model: Model) -> Shared {
        Shared(Arc::new(Mutex::new(model)))
    }

    pub fn get(&self) -> MutexGuard<'_, Model> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes an application write to `sectors` in turn at every operation of device-mapper, up to `limit` times, and flush at
/// every third. Another one does so at every eleventh of our own requests to disks. One single sector is written and
/// flushed at every request: what comes between a commit and a swap in the wrong order is then acknowledged.
pub fn traffic(machine: &Machine, model: &Shared, sectors: &[u64], limit: usize) {
    if sectors.is_empty() {
        return;
    }
    let busy = |limit: usize| {
        let (model, power, sectors) = (model.clone(), machine.power.clone(), sectors.to_vec());
        let block = machine.main.logical_block().0;
        let count = std::sync::atomic::AtomicUsize::new(0);
        move |dm: &FakeDm| {
            // Without a table there is nothing to write to, and a flush reaches nothing.
            if dm.disk(NAME).size() == Sectors::ZERO {
                return;
            }
            let n = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            if n >= limit {
                return;
            }
            let mut model = model.get();
            model.write_through(dm, &power, block, sectors[n % sectors.len()]);
            if (n % 3 == 2 || sectors.len() == 1) && !power.is_off() {
                model.flush(dm);
            }
        }
    };
    let at_calls = Arc::new(busy(limit));
    for op in [Op::Load, Op::Suspend, Op::Resume, Op::Message, Op::Window, Op::Clear, Op::Table, Op::Activate] {
        let at_calls = at_calls.clone();
        machine.dm.on(op, Box::new(move |dm| at_calls(dm)));
    }
    let (at_requests, dm) = (busy(usize::MAX), machine.dm.clone());
    let (mut requests, single) = (0, sectors.len() == 1);
    machine.trap.meanwhile(Box::new(move || {
        // Often enough to hit the commit, seldom enough to leave sectors alone in between.
        requests += 1;
        if requests % 11 == 0 || single {
            at_requests(&dm);
        }
    }));
}
