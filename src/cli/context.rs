//! What every command needs: this machine, device-mapper, locks, and where things are kept.

use super::args::{self, Globals};
use super::choices;
use super::output::complain_raw;
use super::progress::Progress;
use super::settings::{self, BadConfig, Loaded};
use crate::block::device::{BlockDevice, DeviceError};
use crate::block::direct::{DirectDisk, Mode, OpenError};
use crate::block::host::Host;
use crate::cli::commands::disk_scores;
use crate::config::Settings;
use crate::dm::kernel::Kernel;
use crate::dm::{DeviceMapper, DmError};
use crate::engine::activate::{Mark, remove_remains};
use crate::engine::last_commit::LastCommit;
use crate::engine::lock::{self, Lock};
use crate::engine::session::{LiveDevices, Session, UUID_PREFIX, find_active, live_devices, setup_of_uuid};
use crate::engine::tables::Tables;
use crate::engine::{DiskSource, EngineError, Member, backup, registry};
use crate::files::{self, Owned};
use crate::format::metadata::{Metadata, SetupState};
use crate::map::Loss;
use crate::segments::LayoutRule;
use crate::units::{DevNo, Range, RangeSet};
use anyhow::Result;
use nix::errno::Errno;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// How long another command is waited for that takes devices into use.
const CLAIM_PATIENCE: Duration = Duration::from_secs(10);

/// A mistake in the arguments that the parser could not see. Exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Usage(pub(super) String);

/// What every command needs.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) host: Host,
    pub(super) progress: Progress,
    quiet: bool,
    dm: OnceCell<Kernel>,
    state: PathBuf,
    config: Option<PathBuf>,
    loaded: OnceCell<Loaded>,
    layout: Cell<Option<args::LayoutChoice>>,
    touched: RefCell<BTreeMap<String, RangeSet>>,
    metrics_due: Cell<bool>,
    disks_due: Cell<bool>,
}

impl Context {
    pub(super) fn new(globals: &Globals) -> Result<Context> {
        Ok(Context {
            host: Host::real(),
            progress: Progress::new(globals.quiet || globals.json),
            quiet: globals.quiet,
            dm: OnceCell::new(),
            state: PathBuf::from("/var/lib/dm-remap"),
            config: globals.config.clone(),
            loaded: OnceCell::new(),
            layout: Cell::new(None),
            touched: RefCell::default(),
            metrics_due: Cell::new(false),
            disks_due: Cell::new(false),
        })
    }

    /// Remembers that something may have changed at a setup, or was learnt of it, so that it is told of when the command
    /// is done. `weak`: what is moved only because it reads slowly.
    pub(super) fn touch(&self, name: &str, weak: impl IntoIterator<Item = Range>) {
        let mut touched = self.touched.borrow_mut();
        let known = touched.entry(name.to_string()).or_default();
        weak.into_iter().for_each(|range| known.insert(range));
        self.metrics_due.set(true);
    }

    /// Says whether the metrics have to be written anew when the command is done.
    pub(super) fn set_metrics_due(&self, due: bool) {
        self.metrics_due.set(due);
    }

    /// Whether the metrics have to be written anew, since this was last asked.
    pub(super) fn take_metrics_due(&self) -> bool {
        self.metrics_due.take()
    }

    /// Has the disks asked how they are when the command is done, if they were not today.
    pub(super) fn set_disks_due(&self) {
        self.disks_due.set(true);
    }

    /// Whether the disks are to be asked.
    pub(super) fn are_disks_due(&self) -> bool {
        self.disks_due.get()
    }

    /// The setups that were touched since this was last asked.
    pub(super) fn take_touched(&self) -> BTreeMap<String, RangeSet> {
        self.touched.take()
    }

    /// Where state is kept that may be lost.
    pub(super) fn state(&self) -> &Path {
        &self.state
    }

    /// The configuration file that the person named.
    pub(super) fn named_config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// What the configuration says for a setup, or where no setup is meant. It is read when first needed: a command that
    /// does not go by it does not mind what is in it.
    pub(super) fn settings(&self, name: Option<&str>) -> Result<Settings<'_>, BadConfig> {
        Ok(self.loaded()?.config.settings(name))
    }

    /// Takes a layout from the command line.
    pub(super) fn set_layout(&self, given: args::WithLayout) {
        self.layout.set(given.layout);
    }

    /// Who decides about the layout of a setup's tables. With a configuration that cannot be read it stays what it is:
    /// what goes by the configuration for other reasons refuses, and the rest, `recover` above all, has to work.
    pub(super) fn layout_rule(&self, name: &str) -> LayoutRule {
        match (self.layout.get(), self.settings(Some(name))) {
            (given, Ok(settings)) => self.layout_rule_of(choices::layout(given, settings)),
            (Some(given), Err(_)) => self.layout_rule_of(given),
            (None, Err(_)) => LayoutRule::Keep,
        }
    }

    /// The same for a choice, on this kernel.
    pub(super) fn layout_rule_of(&self, choice: args::LayoutChoice) -> LayoutRule {
        let release = nix::sys::utsname::uname().map(|name| name.release().to_os_string()).unwrap_or_default();
        choice.rule(&release.to_string_lossy())
    }

    /// The configuration of this run.
    pub(super) fn loaded(&self) -> Result<&Loaded, BadConfig> {
        if let Some(loaded) = self.loaded.get() {
            return Ok(loaded);
        }
        let loaded = settings::load(self.config.as_deref())?;
        Ok(self.loaded.get_or_init(|| loaded))
    }

    /// Device-mapper, opened when first needed.
    pub(super) fn dm(&self) -> Result<&Kernel, DmError> {
        if let Some(dm) = self.dm.get() {
            return Ok(dm);
        }
        let kernel = Kernel::open()?;
        Ok(self.dm.get_or_init(|| kernel))
    }

    /// Takes the lock of a setup (by UUID), or of a name that is being created.
    pub(super) fn lock(&self, key: &str, name: &str) -> Result<Lock, EngineError> {
        lock::take(&self.host.run().join("dm-remap"), key, name)
    }

    /// The lock of this host for taking devices into use: held from before a command looks at them until its first commit
    /// stands, by every command that claims a device. Taken after a setup's own lock, where there is one already.
    pub(super) fn claim_lock(&self) -> Result<Lock, EngineError> {
        lock::take_claims(&self.host.run().join("dm-remap"), CLAIM_PATIENCE)
    }

    /// Says something that is not the result.
    pub(super) fn note(&self, text: &str) {
        if !self.quiet {
            complain_raw(&format!("note: {text}\n"));
        }
    }

    /// Who this machine is.
    pub(super) fn mark(&self) -> Mark {
        let read = |path: &str| std::fs::read_to_string(path).map(|s| s.trim().to_string()).unwrap_or_default();
        Mark {
            // systemd writes this word into an image that has not booted yet.
            machine_id: Some(read("/etc/machine-id")).filter(|id| id != "uninitialized").unwrap_or_default(),
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            hardware_id: read("/sys/class/dmi/id/product_uuid"),
        }
    }

    /// Removes the devices that killed commands left of setups that are not up, wherever no other command is at work.
    pub(super) fn remove_remains(&self) -> Result<(), EngineError> {
        let dm = self.dm()?;
        let mut states = Vec::new();
        for (device, _) in dm.list()? {
            states.extend(dm.state(&device)?.filter(|state| state.uuid.starts_with(UUID_PREFIX)));
        }
        let mut seen = Vec::new();
        for state in &states {
            let rest = state.uuid.strip_prefix(UUID_PREFIX).unwrap_or_default();
            let (id, suffix) = rest.split_at_checked(36).unwrap_or((rest, ""));
            let (Ok(setup), Some(name)) = (Uuid::try_parse(id), state.name.strip_suffix(suffix)) else { continue };
            // A setup that is up keeps its devices, also under a name that somebody else gave it.
            let up = states.iter().any(|s| s.active && setup_of_uuid(&s.uuid) == Some(setup));
            if up || seen.contains(&setup) {
                continue;
            }
            seen.push(setup);
            if let Ok(_lock) = self.lock(&setup.to_string(), name)
                && remove_remains(dm, name, setup)?
            {
                self.note(&format!("removed what an interrupted command had left of '{name}'"));
            }
        }
        Ok(())
    }

    /// The device at a path.
    pub(super) fn device(&self, path: &Path) -> Result<BlockDevice, EngineError> {
        self.host.device(path).map_err(|e| EngineError::Device(e.to_string()))
    }

    /// Opens a device for writing.
    pub(super) fn member(&self, device: &BlockDevice) -> Result<Member, EngineError> {
        let disk = DirectDisk::open_device(device, Mode::ReadWrite).map_err(|e| EngineError::Device(e.to_string()))?;
        Ok(Member { devno: device.devno, disk: Arc::new(disk) })
    }

    /// Opens a device for reading.
    pub(super) fn member_for_reading(&self, device: &BlockDevice) -> Result<Member, EngineError> {
        let disk = DirectDisk::open_device(device, Mode::ReadOnly).map_err(|e| EngineError::Device(e.to_string()))?;
        Ok(Member { devno: device.devno, disk: Arc::new(disk) })
    }

    /// Opens an active setup for a changing command: lock first, then devices and metadata. If it is in order, what a
    /// killed command has left beside it goes first: also a command with nothing to do must not leave it there.
    pub(super) fn locked_session(&self, name: &str) -> Result<(Lock, Session<'_>)> {
        let (lock, mut session) = self.locked_session_as_it_is(name)?;
        session.check_newest()?;
        if session.check_live().is_ok() {
            session.clear_leftovers()?;
            session.remember_commit();
        }
        Ok((lock, session))
    }

    /// The same, and nothing is touched: also when something newer is known to be away.
    pub(super) fn locked_session_as_it_is(&self, name: &str) -> Result<(Lock, Session<'_>)> {
        let dm = self.dm()?;
        let (_, setup) = find_active(dm, name)?;
        let lock = self.lock(&setup.to_string(), name)?;
        self.touch(name, []);
        let mut session = Session::open(dm, self, name, true)?;
        session.disk_scores = disk_scores(self, &session);
        session.layout = self.layout_rule(name);
        session.last_commit = Some(self.last_commit(setup));
        Ok((lock, session))
    }

    /// The same for taking it down: also one that was brought up to be read only, which nothing else may change.
    pub(super) fn locked_session_to_take_down(&self, name: &str) -> Result<(Lock, Session<'_>)> {
        let dm = self.dm()?;
        let (state, setup) = find_active(dm, name)?;
        let lock = self.lock(&setup.to_string(), name)?;
        self.set_metrics_due(true);
        let mut session = Session::open(dm, self, name, !state.read_only)?;
        session.last_commit = Some(self.last_commit(setup));
        if let Some(newest) = session.newest_away() {
            // What is on that spare must stay the newest.
            session.read_only = true;
            self.note(&format!(
                "generation {} is on a spare that is away: nothing is written to the others",
                newest.generation
            ));
        }
        Ok((lock, session))
    }

    /// Where this machine remembers the last commit of a setup that is up.
    pub(super) fn last_commit(&self, setup: Uuid) -> LastCommit {
        LastCommit::of(&self.host.run().join("dm-remap"), setup)
    }

    /// What is remembered of an active setup, from before its spares are read.
    fn before_reading(&self, name: &str) -> Result<(&dyn DeviceMapper, LastCommit)> {
        let dm = self.dm()?;
        let (_, setup) = find_active(dm, name)?;
        Ok((dm, self.last_commit(setup)))
    }

    /// Opens an active setup for reading.
    pub(super) fn reading_session(&self, name: &str) -> Result<Session<'_>> {
        let (dm, last_commit) = self.before_reading(name)?;
        let mut session = Session::open(dm, self, name, false)?;
        session.last_commit = Some(last_commit);
        Ok(session)
    }

    /// The same, and what its live table does.
    pub(super) fn reading_session_with_tables(&self, name: &str) -> Result<(Session<'_>, Tables)> {
        let (dm, last_commit) = self.before_reading(name)?;
        let (mut session, tables) = Session::open_with_tables(dm, self, name, false)?;
        session.last_commit = Some(last_commit);
        Ok((session, tables))
    }

    /// The same to plan what a changing command would do: slots are chosen as that would choose them.
    pub(super) fn planning_session(&self, name: &str) -> Result<Session<'_>> {
        let mut session = self.reading_session(name)?;
        session.disk_scores = disk_scores(self, &session);
        Ok(session)
    }

    /// Names of the active setups, sorted. Nothing of them is looked at.
    pub(super) fn active_names(&self) -> Result<Vec<String>, EngineError> {
        let dm = self.dm()?;
        let mut names = Vec::new();
        for (name, _) in dm.list()? {
            if dm.state(&name)?.is_some_and(|state| state.active && setup_of_uuid(&state.uuid).is_some()) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// The same machine and choices, for a process of its own: nothing that is open is shared.
    pub(super) fn anew(&self) -> Context {
        Context {
            host: self.host.clone(),
            progress: Progress::new(true),
            quiet: true,
            dm: OnceCell::new(),
            state: self.state.clone(),
            config: self.config.clone(),
            touched: Default::default(),
            metrics_due: Cell::new(false),
            disks_due: Cell::new(false),
            loaded: OnceCell::new(),
            layout: self.layout.clone(),
        }
    }

    /// Active setups by name.
    pub(super) fn active(&self) -> Result<Vec<LiveDevices>> {
        let dm = self.dm()?;
        let mut out = Vec::new();
        for (name, _) in dm.list()? {
            if dm.state(&name)?.is_some_and(|s| s.active && setup_of_uuid(&s.uuid).is_some()) {
                out.push(live_devices(dm, &name)?);
            }
        }
        out.sort_by(|a, b| a.state.name.cmp(&b.state.name));
        Ok(out)
    }

    /// Who uses a device, in words.
    pub(super) fn uses(&self, devno: DevNo) -> Vec<String> {
        match self.host.device_by_number(devno) {
            Ok(device) => self.host.usage(&device).iter().map(ToString::to_string).collect(),
            Err(_) => Vec::new(),
        }
    }

    /// The path of a device, for people; its number when it has none.
    pub(super) fn path_of(&self, devno: DevNo) -> String {
        match self.host.device_by_number(devno) {
            Ok(device) => device.path.display().to_string(),
            Err(_) => devno.to_string(),
        }
    }

    /// What the lost sectors of a setup that is up belong to; nothing when there are none, or nobody wants to know.
    pub(super) fn owners(&self, name: &str, losses: &[Loss], patience: Duration) -> Vec<Owned> {
        if losses.is_empty() || patience.is_zero() {
            return Vec::new();
        }
        let ranges: Vec<Range> = losses.iter().map(|loss| loss.range).collect();
        match self.host.device(&self.host.dev().join("mapper").join(name)) {
            Ok(device) => files::owners_within(&self.host, &device, &ranges, patience),
            Err(error) => {
                self.note(&format!("the files that were hit are not known: {error}"));
                Vec::new()
            }
        }
    }

    /// What sectors of a device belong to.
    pub(super) fn owners_on(&self, device: &BlockDevice, ranges: &[Range], patience: Duration) -> Vec<Owned> {
        if ranges.is_empty() || patience.is_zero() {
            return Vec::new();
        }
        files::owners_within(&self.host, device, ranges, patience)
    }

    /// Where copies of committed metadata are kept.
    pub(super) fn backups(&self) -> PathBuf {
        self.state.join("backup")
    }

    /// Where the mains of this machine's setups are on record. It is read before /var is there.
    pub(super) fn registry(&self) -> PathBuf {
        PathBuf::from("/etc/dm-remap/mains")
    }

    /// Puts the main of a setup on record, or takes it off (`None`). A failure is only told.
    pub(super) fn record_main(&self, setup: Uuid, metadata: Option<&Metadata>) {
        let directory = self.registry();
        let changed = match metadata {
            Some(metadata) => registry::remember(&directory, metadata),
            None => registry::forget(&directory, setup),
        };
        // Where /etc is never written, there is no record: nothing that a person could put right.
        if let Err(error) = changed
            && error.kind() != std::io::ErrorKind::ReadOnlyFilesystem
        {
            self.note(&format!("the record of mains under {} is not up to date: {error}", directory.display()));
        }
    }

    /// Has udev look at a device again, because what it is to us has changed. Without udev nothing happens.
    pub(super) fn announce(&self, devno: DevNo) {
        let _ = std::fs::write(self.host.sys().join(format!("dev/block/{devno}/uevent")), "change");
    }

    /// Keeps a copy of committed metadata in a file, and its main on record. A failure is only told.
    pub(super) fn keep_backup(&self, metadata: &Metadata) {
        self.touch(&metadata.config.name, []);
        if metadata.config.state == SetupState::Ready {
            self.record_main(metadata.setup, Some(metadata));
        }
        if let Err(error) = backup::save(&self.backups(), metadata) {
            self.note(&format!("no metadata backup under {}: {error}", self.state.display()));
        }
    }
}

impl DiskSource for Context {
    fn open(&self, devno: DevNo, write: bool) -> Result<Option<Member>, EngineError> {
        let device = match self.host.device_by_number(devno) {
            Ok(device) => device,
            // The kernel does not know the number any more: the disk was pulled.
            Err(DeviceError::Unknown { .. } | DeviceError::Empty { .. }) => return Ok(None),
            Err(error) => return Err(EngineError::Device(error.to_string())),
        };
        let mode = if write { Mode::ReadWrite } else { Mode::ReadOnly };
        match DirectDisk::open_device(&device, mode) {
            Ok(disk) => Ok(Some(Member { devno, disk: Arc::new(disk) })),
            Err(OpenError::Refused { source, .. }) if is_gone(&source) => Ok(None),
            Err(error) => Err(EngineError::Device(error.to_string())),
        }
    }
}

fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENXIO | Errno::ENODEV))
}
