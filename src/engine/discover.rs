//! Looking at devices and image files for spares, and for the mains that they belong to.
//!
//! Invariants:
//! - everything is opened for reading only;
//! - a device that hangs delays only itself: what may hang is done in worker processes;
//! - what is passed over is told, with the reason.

use super::samples;
use super::session::{UUID_PREFIX, setup_of_uuid};
use crate::block::Disk;
use crate::block::device::BlockDevice;
use crate::block::direct::{DirectDisk, Mode};
use crate::block::foreign::{read_signature, signature_over_ours};
use crate::block::host::{self, Host};
use crate::block::usage::Use;
use crate::block::workers::{Outcome, in_workers};
use crate::format::choose::Expected;
use crate::format::copy::{Judge, Verdict};
use crate::format::{COPY_STARTS, DATA_START};
use crate::identity::{Identity, Match};
use crate::plan::assemble::{FoundSetup, LiveSetup, MainVerdict, SeenDevice, assemble};
use crate::store::raw::RawCopy;
use crate::store::read_copies_by;
use crate::units::Sectors;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

/// Worker processes at once for each processor, and at most: they wait for disks more than they work.
const WORKERS_EACH: usize = 4;
const MOST_WORKERS: usize = 16;

fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).saturating_mul(WORKERS_EACH).min(MOST_WORKERS)
}

/// Where to look.
#[derive(Clone, Debug, Default)]
pub struct Where {
    /// At all block devices.
    pub all: bool,
    /// At these devices and image files, which the person named.
    pub named: Vec<PathBuf>,
    /// Also at devices that refuse writes, among all.
    pub read_only: bool,
    /// At this device as a possible main, which the person named.
    pub main: Option<PathBuf>,
}

impl Where {
    /// At all block devices, also at those that refuse writes: what is found there is told.
    pub fn everywhere() -> Where {
        Where { all: true, read_only: true, ..Where::default() }
    }
}

/// A device that was not read, or could not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// How to name it.
    pub path: String,
    /// Why.
    pub why: String,
    /// It should have been read: the person named it, or it failed.
    pub failed: bool,
    /// The person named it.
    pub named: bool,
}

impl Passed {
    /// In one line.
    pub fn text(&self) -> String {
        if self.why.starts_with(&self.path) { self.why.clone() } else { format!("{}: {}", self.path, self.why) }
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Discovery {
    /// All devices that were considered, as spares or as mains.
    pub devices: Vec<SeenDevice>,
    /// The same as block devices; `None` for image files.
    pub blocks: Vec<Option<BlockDevice>>,
    /// The setups, by name.
    pub setups: Vec<FoundSetup>,
    /// What was passed over.
    pub passed: Vec<Passed>,
    /// How many devices were read.
    pub read: usize,
    /// The place of the named main among the devices.
    pub main: Option<usize>,
    /// Whether all devices were looked at, and not only some that were named.
    pub everywhere: bool,
}

/// One thing that can be looked at.
#[derive(Debug)]
struct Source {
    seen: SeenDevice,
    block: Option<BlockDevice>,
    /// Whether its copies are to be read; else why not.
    skip: Option<String>,
}

/// Looks, within `patience` for each device, and assembles what is found. To be called from a process with one thread.
///
/// # Errors
/// When no process can be made to look.
pub fn discover(host: &Host, place: &Where, patience: Duration) -> io::Result<Discovery> {
    let mut found = Discovery { everywhere: place.all, ..Discovery::default() };
    let mut sources = Vec::new();
    let known = host.all_devices();
    for path in &place.named {
        match named_source(host, path, &known) {
            Ok(source) => add(&mut sources, source),
            Err(why) => found.passed.push(not_opened(path, why)),
        }
    }
    // Mains are looked for everywhere, also when only some devices were named as spares.
    for device in known.iter().cloned() {
        let skip = (!place.all).then(|| "it was not named".to_string());
        let skip = skip.or_else(|| unfit_as_spare(host, &device, place.read_only));
        add(&mut sources, source_of(host, device, skip));
    }
    if let Some(path) = &place.main {
        match file_or_device(host, path, &known) {
            Ok(mut source) => {
                // A spare is never main: it is read, too.
                source.skip = None;
                add(&mut sources, source);
                let number = host.device(path).ok().map(|device| device.devno);
                let text = path.display().to_string();
                let is_it = |s: &Source| (number.is_some() && s.seen.devno == number) || s.seen.path == text;
                found.main = sources.iter().position(is_it);
            }
            Err(why) => found.passed.push(not_opened(path, why)),
        }
    }
    read_all(host, &mut sources, patience, &mut found)?;
    for source in sources {
        if let Some(why) = source.skip.filter(|_| place.all) {
            found.passed.push(Passed { path: source.seen.path.clone(), why, failed: false, named: false });
        }
        found.devices.push(source.seen);
        found.blocks.push(source.block);
    }
    found.setups = assemble(&found.devices, &live_setups(host));
    compare_mains(host, &mut found, patience)?;
    fill_uses(host, &mut found);
    Ok(found)
}

/// The setups that are up, by sysfs alone: this needs no rights.
pub fn live_setups(host: &Host) -> Vec<LiveSetup> {
    let folder = host.sys().join("class/block");
    let names = host::names(&folder).into_iter().filter(|name| name.starts_with("dm-"));
    names
        .filter_map(|name| {
            let device = folder.join(name);
            let setup = setup_of_uuid(&host::text(&device.join("dm/uuid"))?)?;
            // A device that never got its table has no size: a killed command left it.
            let up = host::number(&device.join("size")).is_some_and(|size| size > 0);
            up.then_some(LiveSetup { setup, name: host::text(&device.join("dm/name"))? })
        })
        .collect()
}

fn not_opened(path: &Path, why: String) -> Passed {
    Passed { path: path.display().to_string(), why, failed: true, named: true }
}

fn add(sources: &mut Vec<Source>, source: Source) {
    let is_known = |s: &Source| s.seen.devno.is_some() && s.seen.devno == source.seen.devno;
    if !sources.iter().any(is_known) {
        sources.push(source);
    }
}

fn source_of(host: &Host, device: BlockDevice, skip: Option<String>) -> Source {
    let seen = SeenDevice {
        path: device.path.display().to_string(),
        devno: Some(device.devno),
        identity: device.identity.clone(),
        read_only: device.read_only,
        is_ours: dm_uuid(host, &device.name).is_some_and(|uuid| uuid.starts_with(UUID_PREFIX)),
        ..SeenDevice::default()
    };
    Source { seen, block: Some(device), skip }
}

fn named_source(host: &Host, path: &Path, known: &[BlockDevice]) -> Result<Source, String> {
    let mut source = file_or_device(host, path, known)?;
    if source.seen.is_ours {
        return Err("it is a device that dm-remap made itself".into());
    }
    source.seen.named = true;
    source.skip = None;
    Ok(source)
}

/// A device or image file by its path.
fn file_or_device(host: &Host, path: &Path, known: &[BlockDevice]) -> Result<Source, String> {
    let is_file = std::fs::metadata(path).is_ok_and(|meta| meta.is_file()) && !host.is_fake();
    if !is_file {
        let device = host.device_among(path, known).map_err(|error| error.to_string())?;
        return Ok(source_of(host, device, None));
    }
    let disk = DirectDisk::open(host, path, Mode::ReadOnly).map_err(|error| error.to_string())?;
    let identity = Identity {
        size: disk.size(),
        logical_block: disk.logical_block(),
        physical_block: disk.logical_block(),
        path: Some(path.display().to_string()),
        ..Identity::default()
    };
    let seen =
        SeenDevice { path: path.display().to_string(), identity: identity.with_fingerprint(), ..Default::default() };
    Ok(Source { seen, block: None, skip: None })
}

fn dm_uuid(host: &Host, name: &str) -> Option<String> {
    host::text(&host.sys().join("class/block").join(name).join("dm/uuid"))
}

/// Why a device cannot be a spare, when that is plain without reading it.
fn unfit_as_spare(host: &Host, device: &BlockDevice, read_only: bool) -> Option<String> {
    let folder = host.sys().join("class/block").join(&device.name);
    if dm_uuid(host, &device.name).is_some_and(|uuid| uuid.starts_with(UUID_PREFIX)) {
        return Some("dm-remap made it".into());
    }
    let holders = host::names(&folder.join("holders"));
    let others = holders.iter().find(|h| !dm_uuid(host, h).is_some_and(|uuid| uuid.starts_with(UUID_PREFIX)));
    if let Some(holder) = others {
        let name = host::text(&host.sys().join("class/block").join(holder).join("dm/name"));
        return Some(format!("held by {}", name.as_ref().unwrap_or(holder)));
    }
    if host::number(&folder.join("dm/suspended")) == Some(1) {
        return Some("suspended: it would not answer".into());
    }
    if device.size <= DATA_START {
        return Some("too small to be a spare".into());
    }
    // A disc, a card with its lock on. A disk that refuses writes at its end is another thing.
    (device.read_only && (device.removable || !read_only)).then(|| "read-only".into())
}

/// Reads the copies on all sources that are not to be skipped. Where a device does not answer in time, each copy is tried
/// by itself: one bad sector, over which a disk may think for long, hides no other.
fn read_all(host: &Host, sources: &mut [Source], patience: Duration, found: &mut Discovery) -> io::Result<()> {
    let all: Vec<usize> = (0..COPY_STARTS.len()).collect();
    let wanted: Vec<usize> =
        sources.iter().enumerate().filter(|(_, s)| s.skip.is_none()).map(|(place, _)| place).collect();
    let judge = RefCell::new(Judge::default());
    let work = |item: usize| {
        let source = wanted.get(item).and_then(|place| sources.get(*place));
        source.map(|source| read_copies_of(host, source, &all, &mut judge.borrow_mut())).unwrap_or_default()
    };
    let outcomes = in_workers(wanted.len(), workers(), patience, &work)?;
    let slow: Vec<(usize, usize)> = wanted
        .iter()
        .zip(&outcomes)
        .filter(|(_, outcome)| **outcome == Outcome::TimedOut)
        .flat_map(|(place, _)| all.iter().map(|copy| (*place, *copy)))
        .collect();
    let work = |item: usize| {
        let (place, copy) = slow.get(item).copied().unwrap_or_default();
        let source = sources.get(place);
        source.map(|source| read_copies_of(host, source, &[copy], &mut judge.borrow_mut())).unwrap_or_default()
    };
    let again = in_workers(slow.len(), workers(), patience, &work)?;
    let judge = &mut Judge::default();
    for (place, outcome) in wanted.iter().zip(outcomes) {
        let mine = slow.iter().zip(&again).filter(|((of, _), _)| of == place);
        let understood = match outcome {
            Outcome::Done(answer) => understand(&answer, &all, judge),
            Outcome::TimedOut => pieced_together(mine.map(|((_, copy), outcome)| (*copy, outcome)), patience, judge),
            Outcome::Died => Err("the process that read it died".into()),
        };
        let Some(source) = sources.get_mut(*place) else { continue };
        match understood {
            Ok((verdicts, signature)) => {
                found.read += 1;
                source.seen.verdicts = verdicts;
                source.seen.signature = signature;
            }
            Err(why) => {
                source.seen.unread = Some(why.clone());
                let (path, named) = (source.seen.path.clone(), source.seen.named);
                found.passed.push(Passed { path, why, failed: true, named });
            }
        }
    }
    Ok(())
}

/// What was read of a device copy by copy. An error when none of them answered.
fn pieced_together<'a>(
    copies: impl Iterator<Item = (usize, &'a Outcome)>,
    patience: Duration,
    judge: &mut Judge,
) -> Read {
    let late = format!("it did not answer within {}", humantime::format_duration(patience));
    let mut any = false;
    let mut out: (Vec<Verdict>, Option<String>) = Default::default();
    for (copy, outcome) in copies {
        let read = match outcome {
            Outcome::Done(answer) => understand(answer, &[copy], judge),
            Outcome::TimedOut | Outcome::Died => Err(late.clone()),
        };
        match read {
            Ok((verdicts, signature)) => {
                any = true;
                out.0.extend(verdicts);
                out.1 = out.1.or(signature);
            }
            Err(reason) => {
                let sector = COPY_STARTS.get(copy).copied().unwrap_or_default();
                out.0.push(Verdict::Unreadable { sector, reason });
            }
        }
    }
    if any { Ok(out) } else { Err(late) }
}

fn open(host: &Host, path: &str, block: Option<&BlockDevice>) -> Result<DirectDisk, String> {
    match block {
        Some(device) => DirectDisk::open_device(device, Mode::ReadOnly),
        None => DirectDisk::open(host, Path::new(path), Mode::ReadOnly),
    }
    .map_err(|error| error.to_string())
}

/// In a worker: some copies of a device as a message for [`understand`].
fn read_copies_of(host: &Host, source: &Source, wanted: &[usize], judge: &mut Judge) -> Vec<u8> {
    let disk = match open(host, &source.seen.path, source.block.as_ref()) {
        Ok(disk) => disk,
        Err(why) => return [b"!".as_slice(), why.as_bytes()].concat(),
    };
    let mut out = Vec::from(*b"=");
    let mut whole = false;
    let mut first_is_whole = true;
    for index in wanted {
        let copy = RawCopy::read(&disk, *index);
        let valid = matches!(copy.judge_by(judge, *index), Verdict::Valid(_));
        whole |= valid;
        first_is_whole &= valid || *index != 0;
        copy.put(&mut out);
    }
    // What stands in the place of the first copy, beside copies that are whole, may be somebody's.
    if whole && !first_is_whole {
        let signature = match &source.block {
            Some(device) => signature_over_ours(host, device, &disk),
            None => read_signature(&disk),
        };
        out.extend(signature.ok().flatten().map(|found| found.to_string()).unwrap_or_default().as_bytes());
    }
    out
}

/// The verdicts on the copies that were read, and somebody else's signature.
type Read = Result<(Vec<Verdict>, Option<String>), String>;

fn understand(answer: &[u8], wanted: &[usize], judge: &mut Judge) -> Read {
    let garbled = || "its answer was garbled".to_string();
    match answer.split_first() {
        Some((b'!', why)) => Err(String::from_utf8_lossy(why).into_owned()),
        Some((b'=', mut rest)) => {
            let mut verdicts = Vec::new();
            for index in wanted {
                verdicts.push(RawCopy::take(&mut rest).ok_or_else(garbled)?.judge_by(judge, *index));
            }
            let signature = String::from_utf8_lossy(rest).into_owned();
            Ok((verdicts, (!signature.is_empty()).then_some(signature)))
        }
        _ => Err(garbled()),
    }
}

/// Compares the devices that might be main with the samples that were taken of it.
fn compare_mains(host: &Host, found: &mut Discovery, patience: Duration) -> io::Result<()> {
    let mut items: Vec<(usize, usize)> = Vec::new();
    for (place, setup) in found.setups.iter().enumerate() {
        if setup.live.is_some() || setup.newest.metadata.config.samples.is_none() {
            continue;
        }
        let fits = setup.candidates.iter().filter(|c| !matches!(c.fit, Match::Different(_)));
        items.extend(fits.map(|candidate| (place, candidate.device)));
        items.extend(found.main.map(|main| (place, main)));
    }
    items.sort_unstable();
    items.dedup();
    let (setups, devices, blocks) = (&found.setups, &found.devices, &found.blocks);
    let work = |item: usize| {
        let Some((setup, device)) = items.get(item) else { return Vec::new() };
        let metadata = setups.get(*setup).map(|setup| &setup.newest.metadata);
        let samples = metadata.and_then(|m| Some((m.config.samples.as_ref()?, m.map.unit())));
        let seen = devices.get(*device).zip(blocks.get(*device));
        let compared = samples.zip(seen).and_then(|((samples, unit), (seen, block))| {
            let disk = open(host, &seen.path, block.as_ref()).ok()?;
            serde_json::to_vec(&samples::compare(&disk, samples, unit)).ok()
        });
        compared.unwrap_or_default()
    };
    let outcomes = in_workers(items.len(), workers(), patience, &work)?;
    for ((setup, device), outcome) in items.iter().zip(outcomes) {
        let candidates = found.setups.get_mut(*setup).map(|setup| &mut setup.candidates);
        let candidate = candidates.and_then(|all| all.iter_mut().find(|c| c.device == *device));
        let Some(candidate) = candidate else { continue };
        match outcome {
            Outcome::Done(answer) => {
                if let Ok(comparison) = serde_json::from_slice(&answer) {
                    candidate.compare(comparison);
                }
            }
            _ => candidate.evidence.push("it did not answer when it was to be compared with its samples".into()),
        }
    }
    Ok(())
}

/// Asks who uses the devices that matter: the spares, and what would be main.
fn fill_uses(host: &Host, found: &mut Discovery) {
    let mut matters: BTreeSet<usize> = found.main.into_iter().collect();
    for setup in found.setups.iter().filter(|setup| setup.live.is_none()) {
        matters.extend(setup.spares.iter().filter_map(|spare| spare.standing.device()));
        if let MainVerdict::Proven(main) = setup.main {
            matters.insert(main);
        }
    }
    for place in matters {
        let Some(Some(block)) = found.blocks.get(place) else { continue };
        let uses: Vec<Use> = host.usage(block);
        if let Some(seen) = found.devices.get_mut(place) {
            seen.uses = uses.iter().map(ToString::to_string).collect();
        }
    }
}

impl Discovery {
    /// The setup that is wanted, by name or UUID.
    ///
    /// # Errors
    /// What is wrong: none, or several with that name.
    pub fn setup(&self, wanted: &str) -> Result<&FoundSetup, String> {
        let is_it = |setup: &&FoundSetup| setup.name() == wanted || setup.setup().to_string() == wanted.to_lowercase();
        let mut fitting = self.setups.iter().filter(is_it);
        match (fitting.next(), fitting.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => Err(format!("no device here is a spare of a setup called '{wanted}'")),
            (Some(one), Some(two)) => Err(format!(
                "two setups are called '{wanted}': {} and {}. Name the one that is meant by its UUID",
                one.setup(),
                two.setup()
            )),
        }
    }

    /// Reads the devices that hold copies of a setup anew, in this process, and judges the setup again.
    ///
    /// # Errors
    /// When it is not there any more.
    pub fn read_again(&mut self, host: &Host, setup: Uuid) -> Result<FoundSetup, String> {
        let holds = |device: &SeenDevice| {
            let mut copies = device.verdicts.iter();
            copies.any(|verdict| matches!(verdict, Verdict::Valid(copy) if copy.metadata.setup == setup))
        };
        let mut judge = Judge::default();
        for (device, block) in self.devices.iter_mut().zip(&self.blocks) {
            if holds(device) {
                let disk = open(host, &device.path, block.as_ref())?;
                device.verdicts = read_copies_by(&mut judge, &disk, Expected::default()).verdicts;
            }
        }
        let before = self.setups.iter().position(|found| found.setup() == setup);
        let now = assemble(&self.devices, &live_setups(host)).into_iter().find(|found| found.setup() == setup);
        let (Some(place), Some(mut now)) = (before, now) else {
            return Err("the setup is not there any more: another command has changed it".into());
        };
        let before = self.setups.get_mut(place).ok_or("no such setup")?;
        // Main was compared with samples that may not be the ones of now.
        if before.newest.metadata.config.samples == now.newest.metadata.config.samples {
            for candidate in &mut now.candidates {
                let compared = before.candidates.iter().find(|c| c.device == candidate.device);
                if let Some(samples) = compared.and_then(|c| c.samples.clone()) {
                    candidate.compare(samples);
                }
            }
        }
        *before = now.clone();
        Ok(now)
    }

    /// How to name a device.
    pub fn path(&self, place: usize) -> &str {
        self.devices.get(place).map_or("", |device| device.path.as_str())
    }

    /// The size of a device.
    pub fn size(&self, place: usize) -> Sectors {
        self.devices.get(place).map_or(Sectors::ZERO, |device| device.identity.size)
    }
}
