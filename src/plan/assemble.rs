//! Putting setups together again from what was found on devices: which setups there are, what is to be said of each
//! spare and of main, and whether a setup may be brought up (design.md, "Putting it together again").
//!
//! Invariants:
//! - nothing is done here: what was read comes in, a judgement goes out;
//! - a path proves nothing; two devices that could be the same member are a problem, never a choice;
//! - every problem has words of its own, and says which option permits it, if any does.

mod decide;
mod main_device;

pub use decide::{AssemblyOptions, AssemblyPlan, Permission, Problem, ProblemKind, decide, permits, problems};
pub use main_device::{MainCandidate, MainVerdict};

use crate::format::choose::{ChooseError, Chosen, Expected, choose, choose_setup, reject_unexpected};
use crate::format::copy::{ValidCopy, Verdict};
use crate::format::metadata::{SetupState, SpareRecord, SpareState};
use crate::identity::{Identity, Match};
use crate::map::SpareIndex;
use crate::units::DevNo;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// A device or image file that was looked at.
#[derive(Clone, Debug, Default)]
pub struct SeenDevice {
    /// How to name it.
    pub path: String,
    /// Its number; `None` for an image file.
    pub devno: Option<DevNo>,
    /// What it says of itself.
    pub identity: Identity,
    /// Whether it refuses writes.
    pub read_only: bool,
    /// Who uses it, other than setups of ours, in words; filled in for devices that matter.
    pub uses: Vec<String>,
    /// One verdict for each of its copies; empty when it cannot be a spare or was not read.
    pub verdicts: Vec<Verdict>,
    /// Why its copies could not be read, although they should have been.
    pub unread: Option<String>,
    /// Somebody else's signature where copies stand, in words.
    pub signature: Option<String>,
    /// It cannot be main: device-mapper made it for one of our setups.
    pub is_ours: bool,
    /// The person named it as a spare.
    pub named: bool,
}

/// A setup that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveSetup {
    /// Its UUID.
    pub setup: Uuid,
    /// The name of its device.
    pub name: String,
}

/// What is to be said of one spare of a setup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It holds the newest generation.
    Current(usize),
    /// It holds an older one than it held when it was last seen: the device was put back to an earlier state (a snapshot, an
    /// image), and what its slots hold is old, too.
    RolledBack {
        /// The device.
        device: usize,
        /// The generation that it held at least.
        least: u64,
    },
    /// It holds an older one.
    Behind {
        /// The device.
        device: usize,
        /// How many commits it missed.
        commits: u64,
        /// An interrupted command explains it: activation brings it up to date by itself.
        by_interruption: bool,
    },
    /// No device holds it.
    Missing,
    /// More than one device holds it.
    Cloned(Vec<usize>),
}

impl Standing {
    /// The device that holds the spare, if it is one.
    pub fn device(&self) -> Option<usize> {
        match self {
            Standing::Current(device) | Standing::Behind { device, .. } | Standing::RolledBack { device, .. } => {
                Some(*device)
            }
            Standing::Missing | Standing::Cloned(_) => None,
        }
    }

    /// All devices that hold it.
    pub fn holders(&self) -> Vec<usize> {
        match self {
            Standing::Cloned(holders) => holders.clone(),
            other => other.device().into_iter().collect(),
        }
    }
}

/// A spare of a setup that was found.
#[derive(Clone, Debug)]
pub struct SpareMember {
    /// Its index.
    pub index: SpareIndex,
    /// What the newest metadata says of it.
    pub record: SpareRecord,
    /// What is to be said of it.
    pub standing: Standing,
    /// The generation that its device holds.
    pub generation: Option<u64>,
    /// How well its device fits the record; `None` while there is not one device.
    pub fit: Option<Match>,
    /// Copies on its device that are not current.
    pub lagging: Vec<usize>,
}

/// A device with copies of the setup that is not one of its spares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// The device.
    pub device: usize,
    /// Why it does not count.
    pub why: String,
    /// It makes the setup doubtful, and not only itself.
    pub doubtful: bool,
    /// It holds a spare that a device does which was named.
    pub clone_of: Option<SpareIndex>,
}

/// A setup that was found.
#[derive(Clone, Debug)]
pub struct FoundSetup {
    /// The newest copy of all (of several with one generation, the first).
    pub newest: ValidCopy,
    /// Its spares in order of their index, without those that were removed.
    pub spares: Vec<SpareMember>,
    /// Devices with copies of it that do not count.
    pub strangers: Vec<Stranger>,
    /// One generation exists with two contents.
    pub divergent: Option<u64>,
    /// What is to be said of main.
    pub main: MainVerdict,
    /// Devices that are or might be main, best first.
    pub candidates: Vec<MainCandidate>,
    /// The name under which it is up.
    pub live: Option<String>,
}

impl FoundSetup {
    /// Its UUID.
    pub fn setup(&self) -> Uuid {
        self.newest.metadata.setup
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.newest.metadata.config.name
    }

    /// The devices of its spares by index; `None` for those that are missing, and in the places of removed ones.
    pub fn places(&self) -> Vec<Option<usize>> {
        let mut places = vec![None; self.newest.metadata.spares.len()];
        for spare in &self.spares {
            if let Some(place) = places.get_mut(spare.index.as_usize()) {
                *place = spare.standing.device();
            }
        }
        places
    }

    /// Whether copies of it stand on a device, whatever they are worth.
    pub fn stands_on(&self, device: usize) -> bool {
        self.spares.iter().any(|spare| spare.standing.holders().contains(&device))
            || self.strangers.iter().any(|stranger| stranger.device == device)
    }

    /// Spares that no device holds.
    pub fn missing(&self) -> impl Iterator<Item = &SpareMember> {
        self.spares.iter().filter(|spare| spare.standing == Standing::Missing)
    }
}

/// Finds the setups whose copies stand on `devices`, in order of their names.
pub fn assemble(devices: &[SeenDevice], live: &[LiveSetup]) -> Vec<FoundSetup> {
    let mut setups: BTreeSet<Uuid> = BTreeSet::new();
    for verdict in devices.iter().flat_map(|device| &device.verdicts) {
        if let Verdict::Valid(copy) = verdict {
            setups.insert(copy.metadata.setup);
        }
    }
    let mut found: Vec<FoundSetup> =
        setups.into_iter().filter_map(|setup| assemble_one(setup, devices, live)).collect();
    found.sort_by(|a, b| (a.name(), a.setup()).cmp(&(b.name(), b.setup())));
    found
}

/// What one device says of one setup.
struct Voice {
    device: usize,
    chosen: Result<Chosen, ChooseError>,
    /// Valid copies of another setup stand there too, and that setup is in use.
    shared_with: Option<String>,
}

fn voice(setup: Uuid, device: usize, verdicts: &[Verdict]) -> Option<Voice> {
    let copies = || verdicts.iter().filter_map(|v| if let Verdict::Valid(copy) = v { Some(copy) } else { None });
    copies().find(|copy| copy.metadata.setup == setup)?;
    let other = copies().find(|c| c.metadata.setup != setup && c.metadata.config.state == SetupState::Ready);
    let shared_with = other.map(|copy| format!("'{}' ({})", copy.metadata.config.name, copy.metadata.setup));
    let mut verdicts = verdicts.to_vec();
    reject_unexpected(&mut verdicts, Expected { setup: Some(setup), spare: None });
    Some(Voice { device, chosen: choose(&verdicts), shared_with })
}

fn assemble_one(setup: Uuid, devices: &[SeenDevice], live: &[LiveSetup]) -> Option<FoundSetup> {
    let voices: Vec<Voice> =
        devices.iter().enumerate().filter_map(|(device, seen)| voice(setup, device, &seen.verdicts)).collect();
    let mut strangers = Vec::new();
    for voice in &voices {
        let stranger = |why: String| Stranger { device: voice.device, why, doubtful: true, clone_of: None };
        if let Err(error) = &voice.chosen {
            strangers.push(stranger(error.to_string()));
        } else if let Some(other) = &voice.shared_with {
            strangers.push(stranger(format!("copies of two setups stand on it, the other is {other}")));
        }
    }
    // Whoever is left out by name does not even say which generation is the newest.
    let clear = without_unnamed_clones(&voices, devices, &mut strangers);
    let newest = match newest(&clear) {
        Some(copy) => copy.clone(),
        // Every device contradicts itself: any copy tells at least which setup it is.
        None => any_copy(setup, devices)?,
    };
    for stranger in &mut strangers {
        let spare = voices.iter().find(|v| v.device == stranger.device).and_then(|v| v.chosen.as_ref().ok());
        if stranger.clone_of.is_some() {
            stranger.clone_of = spare.and_then(|chosen| newest.metadata.spare_index(chosen.copy.spare));
        }
    }
    let by_spare = holders(&newest, &clear, &mut strangers);
    let divergent = divergence(&clear, &by_spare);
    let mut spares = members(&newest, &by_spare, devices, &clear);
    for spare in &mut spares {
        // Which of two was written last is not known: then nothing is put down to an interruption.
        let has_clone = strangers.iter().any(|stranger| stranger.clone_of == Some(spare.index));
        if let (true, Standing::Behind { device, .. }) = (has_clone, &spare.standing) {
            spare.standing = Standing::RolledBack { device: *device, least: newest.metadata.generation };
        }
    }
    let (main, candidates) = main_device::judge(&newest.metadata, devices, &spares);
    let live = live.iter().find(|l| l.setup == setup).map(|l| l.name.clone());
    Some(FoundSetup { newest, spares, strangers, divergent, main, candidates, live })
}

/// The copy with the highest generation; of several, the one that most devices agree with.
fn newest<'a>(clear: &[(usize, &'a Chosen)]) -> Option<&'a ValidCopy> {
    let agree = |copy: &ValidCopy| clear.iter().filter(|(_, chosen)| chosen.copy.digest == copy.digest).count();
    let copies = clear.iter().map(|(_, chosen)| &chosen.copy);
    copies.max_by_key(|copy| (copy.metadata.generation, agree(copy)))
}

fn any_copy(setup: Uuid, devices: &[SeenDevice]) -> Option<ValidCopy> {
    let valid = devices.iter().flat_map(|device| &device.verdicts).filter_map(|verdict| match verdict {
        Verdict::Valid(copy) if copy.metadata.setup == setup => Some(copy),
        _ => None,
    });
    valid.max_by_key(|copy| copy.metadata.generation).map(|copy| (**copy).clone())
}

/// The devices that say one thing. Where several hold one spare and the person named some of them, the others do not count.
fn without_unnamed_clones<'a>(
    voices: &'a [Voice],
    devices: &[SeenDevice],
    strangers: &mut Vec<Stranger>,
) -> Vec<(usize, &'a Chosen)> {
    let all: Vec<(usize, &Chosen)> =
        voices.iter().filter_map(|v| v.chosen.as_ref().ok().map(|chosen| (v.device, chosen))).collect();
    let is_named = |device: usize| devices.get(device).is_some_and(|d| d.named);
    let named: BTreeSet<Uuid> =
        all.iter().filter(|(device, _)| is_named(*device)).map(|(_, chosen)| chosen.copy.spare).collect();
    let (counts, others): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|(device, chosen)| is_named(*device) || !named.contains(&chosen.copy.spare));
    strangers.extend(others.into_iter().map(|(device, chosen)| Stranger {
        device,
        why: format!("it holds spare {} as another device does, which was named", chosen.copy.spare),
        doubtful: false,
        clone_of: Some(SpareIndex(0)),
    }));
    counts
}

/// Which devices hold which spare.
fn holders(
    newest: &ValidCopy,
    clear: &[(usize, &Chosen)],
    strangers: &mut Vec<Stranger>,
) -> BTreeMap<SpareIndex, Vec<usize>> {
    let mut by_spare: BTreeMap<SpareIndex, Vec<usize>> = BTreeMap::new();
    for (device, chosen) in clear {
        match newest.metadata.spare_index(chosen.copy.spare).filter(|index| newest.metadata.is_member(*index)) {
            Some(index) => by_spare.entry(index).or_default().push(*device),
            None => {
                let why = format!("spare {} was removed from the setup", chosen.copy.spare);
                strangers.push(Stranger { device: *device, why, doubtful: false, clone_of: None });
            }
        }
    }
    by_spare
}

/// The generation that exists with two contents among the devices that count, if there is one.
fn divergence(clear: &[(usize, &Chosen)], by_spare: &BTreeMap<SpareIndex, Vec<usize>>) -> Option<u64> {
    let counts = |device: &usize| by_spare.values().any(|holders| holders.contains(device));
    let voices: Vec<&Chosen> = clear.iter().filter(|(d, _)| counts(d)).map(|(_, chosen)| *chosen).collect();
    // Clones say the same thing twice, which is a problem of its own: each pair is compared.
    for (place, one) in voices.iter().enumerate() {
        for two in voices.iter().skip(place + 1) {
            let pair = [(*one).clone(), (*two).clone()];
            if let Err(ChooseError::Divergent(generation)) = choose_setup(&pair) {
                return Some(generation);
            }
        }
    }
    None
}

fn members(
    newest: &ValidCopy,
    by_spare: &BTreeMap<SpareIndex, Vec<usize>>,
    devices: &[SeenDevice],
    clear: &[(usize, &Chosen)],
) -> Vec<SpareMember> {
    let member = |(index, record): (SpareIndex, &SpareRecord)| {
        let holders = by_spare.get(&index).map(Vec::as_slice).unwrap_or_default();
        let voice = |device: &usize| clear.iter().find(|(d, _)| d == device).map(|(_, chosen)| *chosen);
        let (standing, chosen) = match holders {
            [] => (Standing::Missing, None),
            [device] => (standing(newest, record, *device, voice(device)), voice(device)),
            several => (Standing::Cloned(several.to_vec()), None),
        };
        let device = standing.device().and_then(|device| devices.get(device));
        let fit = device.map(|device| fit(&record.identity, &device.identity));
        let lagging = chosen.map(|chosen| chosen.lagging.clone()).unwrap_or_default();
        let generation = chosen.map(|chosen| chosen.copy.metadata.generation);
        SpareMember { index, record: record.clone(), standing, generation, fit, lagging }
    };
    newest.metadata.members().map(member).collect()
}

/// How well a device fits what is recorded of a spare. It may have become larger, if its names prove that it is the same.
fn fit(recorded: &Identity, found: &Identity) -> Match {
    let as_large = Identity { size: found.size, ..recorded.clone() };
    if found.size > recorded.size && as_large.matches(found) == Match::Proven {
        return Match::Proven;
    }
    recorded.matches(found)
}

/// One commit behind is what an interrupted command leaves; more means that the spare was not there.
fn standing(newest: &ValidCopy, record: &SpareRecord, device: usize, chosen: Option<&Chosen>) -> Standing {
    let generation = chosen.map_or(0, |chosen| chosen.copy.metadata.generation);
    if generation >= newest.metadata.generation {
        return Standing::Current(device);
    }
    if let Some(least) = record.least_generation(&newest.metadata).filter(|least| generation < *least) {
        return Standing::RolledBack { device, least };
    }
    let commits = newest.metadata.commits_since(generation);
    Standing::Behind { device, commits, by_interruption: commits <= 1 && record.state != SpareState::Failed }
}
