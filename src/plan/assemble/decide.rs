//! Whether a setup that was found may be brought up, and what is in the way.
//!
//! Invariants:
//! - every problem is found, not only the first; the first that nothing permits is the refusal;
//! - an option permits one kind of problem; safe mode permits none.

use super::{FoundSetup, MainVerdict, SeenDevice, SpareMember, Standing};
use crate::format::copy::Verdict;
use crate::format::metadata::{Activation, SetupState, check_name};
use crate::identity::{Identity, Match};
use crate::map::SpareIndex;
use crate::plan::Refusal;
use crate::units::Sectors;
use serde::Serialize;

/// What the person permits.
#[derive(Clone, Debug, Default)]
pub struct AssemblyOptions {
    /// Permit nothing.
    pub safe_mode: bool,
    /// Come up without spares that are missing.
    pub degraded: bool,
    /// Write nothing, and let nothing be written.
    pub read_only: bool,
    /// Bring spares up to date that failed or were absent for several commits.
    pub update_stale: bool,
    /// Take over a setup that another machine is marked to have active.
    pub takeover: bool,
    /// Go on although main was written to while the setup was down.
    pub accept_changed_main: bool,
    /// Main, by its place among the devices.
    pub main: Option<usize>,
    /// A new name.
    pub rename: Option<String>,
}

/// What is in the way of a setup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    /// It is up already.
    Active,
    /// Its creation was interrupted.
    Forming,
    /// It was destroyed.
    Dissolved,
    /// One generation with two contents.
    Divergent,
    /// Two devices hold one spare.
    ClonedSpare,
    /// A device whose copies contradict each other, or are of two setups.
    UnclearDevice,
    /// Somebody else's signature stands over copies.
    ForeignSignature,
    /// No device fits main.
    MainMissing,
    /// Several devices fit.
    MainAmbiguous,
    /// Nothing proves which device is main.
    MainUnproven,
    /// The device that was named is not main.
    MainWrong,
    /// Main was written to while the setup was down.
    MainChanged,
    /// A spare is missing.
    Incomplete,
    /// A spare is older than the others.
    Stale,
    /// A spare's device was put back to an earlier state.
    RolledBack,
    /// A spare's copies stand on another device than the spare was.
    SpareUnproven,
    /// Another machine is marked to have it active.
    ActiveElsewhere,
    /// A device is in use.
    InUse,
    /// A device refuses writes.
    ReadOnly,
    /// A device has become too small, or its blocks too large.
    Unfit,
}

/// An option that lets a problem pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// `--degraded`.
    Degraded,
    /// `--update-stale`.
    UpdateStale,
    /// `--takeover`.
    Takeover,
    /// `--accept-changed-main`.
    AcceptChangedMain,
    /// `--main DEV`.
    Main,
    /// `--device DEV`: the spare is named.
    Device,
    /// `--read-only`.
    ReadOnly,
}

impl Permission {
    /// The option as it is written.
    pub fn option(self) -> &'static str {
        match self {
            Permission::Degraded => "--degraded",
            Permission::UpdateStale => "--update-stale",
            Permission::Takeover => "--takeover",
            Permission::AcceptChangedMain => "--accept-changed-main",
            Permission::Main => "--main DEV",
            Permission::Device => "--device DEV",
            Permission::ReadOnly => "--read-only",
        }
    }
}

/// One thing that is in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What kind of thing.
    pub kind: ProblemKind,
    /// What was found and what the person can do.
    pub refusal: Refusal,
    /// What lets it pass, if anything does.
    pub permitted_by: Option<Permission>,
}

/// A setup that may be brought up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssemblyPlan {
    /// The name that it will have.
    pub name: String,
    /// Main, by its place among the devices.
    pub main: usize,
    /// The spares by index; `None` for those that it comes up without, and in the places of removed ones.
    pub spares: Vec<Option<usize>>,
    /// Spares that are brought up to date.
    pub behind: Vec<SpareIndex>,
    /// What was in the way, and was permitted.
    pub permitted: Vec<Problem>,
}

/// Decides whether the setup may come up. `is_same_machine` tells whether a mark of activation is of this machine.
///
/// # Errors
/// The refusal for the first problem that the options do not permit.
pub fn decide(
    found: &FoundSetup,
    devices: &[SeenDevice],
    options: &AssemblyOptions,
    is_same_machine: impl Fn(&Activation) -> bool,
) -> Result<AssemblyPlan, Refusal> {
    if let Some(name) = &options.rename {
        check_name(name).map_err(|_| Refusal::BadName(name.clone()))?;
    }
    let all = problems(found, devices, options, is_same_machine);
    if let Some(problem) = all.iter().find(|problem| !permits(options, problem)) {
        return Err(problem.refusal.clone());
    }
    let main = match (&options.main, &found.main) {
        (Some(main), _) | (None, MainVerdict::Proven(main)) => *main,
        _ => return Err(Refusal::MainUnclear(missing_main(found, devices))),
    };
    let spares = found.places();
    if spares.iter().all(Option::is_none) {
        let what = "none of its spares is here".into();
        return Err(Refusal::Metadata { device: found.name().into(), what });
    }
    let behind = |spare: &&SpareMember| matches!(spare.standing, Standing::Behind { .. });
    Ok(AssemblyPlan {
        name: options.rename.clone().unwrap_or_else(|| found.name().into()),
        main,
        spares,
        behind: found.spares.iter().filter(behind).map(|spare| spare.index).collect(),
        permitted: all,
    })
}

/// Whether the options let a problem pass.
pub fn permits(options: &AssemblyOptions, problem: &Problem) -> bool {
    // Nothing is written to what refuses writes.
    if options.read_only && problem.kind == ProblemKind::ReadOnly {
        return true;
    }
    !options.safe_mode
        && match problem.permitted_by {
            Some(Permission::Degraded) => options.degraded,
            // Read only, it is left as it is; its slots are current.
            Some(Permission::UpdateStale) => options.update_stale || options.read_only,
            Some(Permission::Takeover) => options.takeover,
            Some(Permission::AcceptChangedMain) => options.accept_changed_main,
            // Naming makes it pass: then the problem is not there any more, except in safe mode.
            Some(Permission::Main) => options.main.is_some(),
            Some(Permission::Device | Permission::ReadOnly) | None => false,
        }
}

/// Everything that is in the way, the gravest first.
pub fn problems(
    found: &FoundSetup,
    devices: &[SeenDevice],
    options: &AssemblyOptions,
    is_same_machine: impl Fn(&Activation) -> bool,
) -> Vec<Problem> {
    let mut out = Vec::new();
    let name = found.name().to_string();
    let about = |device: usize| devices.get(device).map_or_else(String::new, |d| d.path.clone());
    let mut add = |kind, refusal, permitted_by| out.push(Problem { kind, refusal, permitted_by });
    if let Some(live) = &found.live {
        add(ProblemKind::Active, Refusal::AlreadyActive(live.clone()), None);
    }
    let refuse = |what: &str| Refusal::Metadata { device: name.clone(), what: what.into() };
    match found.newest.metadata.config.state {
        SetupState::Forming => {
            let what = "its creation was interrupted: there is no setup yet. Create it again";
            add(ProblemKind::Forming, refuse(what), None);
        }
        SetupState::Dissolved => {
            let what = "it was destroyed; only the erasing of its spares was interrupted";
            add(ProblemKind::Dissolved, refuse(what), None);
        }
        SetupState::Ready => {}
    }
    if let Some(generation) = found.divergent {
        let what = format!(
            "divergent: generation {generation} exists with different contents on its spares. A person must choose: \
             'dm-remap metadata dump DEV' shows what each holds; take the wrong ones away, or mend them with 'metadata repair --from-spare'"
        );
        add(ProblemKind::Divergent, Refusal::Metadata { device: name.clone(), what }, None);
    }
    for stranger in &found.strangers {
        let refusal = Refusal::Metadata { device: about(stranger.device), what: stranger.why.clone() };
        if stranger.doubtful {
            add(ProblemKind::UnclearDevice, refusal, None);
        } else if stranger.clone_of.is_some() && options.safe_mode {
            // Safe mode takes nobody's word for which one is right.
            add(ProblemKind::ClonedSpare, refusal, None);
        }
    }
    for spare in &found.spares {
        spare_problems(found, spare, devices, options, &mut add);
    }
    main_problems(found, devices, options, &mut add);
    if let Some(active) = &found.newest.metadata.config.active
        && !is_same_machine(active)
    {
        let known = [&active.machine_id, &active.hardware_id, &active.boot_id].into_iter().find(|id| !id.is_empty());
        let machine = known.cloned().unwrap_or_else(|| "unknown".into());
        let refusal = Refusal::ActiveElsewhere { name: name.clone(), machine };
        add(ProblemKind::ActiveElsewhere, refusal, Some(Permission::Takeover));
    }
    if found.live.is_some() {
        // Its devices are in use by itself, and its mark is its own.
        out.retain(|problem| problem.kind == ProblemKind::Active);
    }
    out
}

type Add<'a> = dyn FnMut(ProblemKind, Refusal, Option<Permission>) + 'a;

fn spare_problems(
    found: &FoundSetup,
    spare: &SpareMember,
    devices: &[SeenDevice],
    options: &AssemblyOptions,
    add: &mut Add<'_>,
) {
    let (name, index) = (found.name().to_string(), spare.index);
    match &spare.standing {
        Standing::Missing => {
            let identity = &spare.record.identity;
            let hint = identity.path.clone().or_else(|| identity.serial.clone());
            let mut what = hint.unwrap_or_else(|| "no name known".into());
            let unread: Vec<&str> = devices.iter().filter(|d| d.unread.is_some()).map(|d| d.path.as_str()).collect();
            if !unread.is_empty() {
                what.push_str(&format!("; it may be one that could not be read: {}", unread.join(", ")));
            }
            let refusal = Refusal::SpareMissing { name, index, what };
            add(ProblemKind::Incomplete, refusal, Some(Permission::Degraded));
        }
        Standing::Cloned(holders) => {
            let paths: Vec<&str> = holders.iter().filter_map(|d| devices.get(*d)).map(|d| d.path.as_str()).collect();
            let what = format!(
                "cloned: spare {index} ({}) stands on {}. Take the copy away, or name the right one with --device",
                spare.record.uuid,
                paths.join(" and ")
            );
            add(ProblemKind::ClonedSpare, Refusal::Metadata { device: name, what }, Some(Permission::Device));
        }
        Standing::RolledBack { least, .. } => {
            let what = format!(
                "spare {index} was put back to an earlier state: its device holds generation {}, and held at least {least} when \
                 it was last seen. What its slots hold is old, too. Take that device away and find the right one; without it \
                 --degraded brings the setup up",
                spare.generation.unwrap_or_default()
            );
            add(ProblemKind::RolledBack, Refusal::Metadata { device: name, what }, None);
        }
        Standing::Behind { commits, by_interruption: false, .. } => {
            let refusal = Refusal::Stale { name, index, behind: *commits };
            add(ProblemKind::Stale, refusal, Some(Permission::UpdateStale));
        }
        Standing::Behind { .. } | Standing::Current(_) => {}
    }
    if let Some(device) = spare.standing.device().and_then(|device| devices.get(device)) {
        let block = found.newest.metadata.config.main.logical_block;
        device_problems(device, &spare.record.identity, block, add);
        spare_identity_problems(spare, device, options, add);
    }
}

fn spare_identity_problems(spare: &SpareMember, device: &SeenDevice, options: &AssemblyOptions, add: &mut Add<'_>) {
    if let Some(signature) = &device.signature {
        let what = format!(
            "foreign signature over a copy: it is a spare of the setup, and it holds {signature}, which somebody made over it. \
             What its slots hold is not known. Look at it with 'dm-remap metadata check {}'",
            device.path
        );
        add(ProblemKind::ForeignSignature, Refusal::Metadata { device: device.path.clone(), what }, None);
    }
    let recorded = &spare.record.identity;
    let why = match &spare.fit {
        Some(Match::Different(why)) => why.clone(),
        Some(Match::Unproven) if recorded.has_stable_name() => "it has no name that could prove it".into(),
        _ => return,
    };
    if device.named && !options.safe_mode {
        return;
    }
    let what = format!(
        "it holds a spare's metadata, but is another device than that spare was ({why}). If it is right, name it with --device"
    );
    let refusal = Refusal::Metadata { device: device.path.clone(), what };
    add(ProblemKind::SpareUnproven, refusal, Some(Permission::Device));
}

/// What is wrong with a device whatever it is for.
fn device_problems(device: &SeenDevice, recorded: &Identity, block: Sectors, add: &mut Add<'_>) {
    let path = device.path.clone();
    if !device.uses.is_empty() {
        add(ProblemKind::InUse, Refusal::InUse { device: path.clone(), uses: device.uses.join("; ") }, None);
    }
    if device.read_only {
        add(ProblemKind::ReadOnly, Refusal::ReadOnly(path.clone()), Some(Permission::ReadOnly));
    }
    if device.identity.size < recorded.size {
        let (now, then) = (device.identity.size, recorded.size);
        let what = format!("it has {now} sectors, and had {then} when the setup was made");
        add(ProblemKind::Unfit, Refusal::Metadata { device: path.clone(), what }, None);
    }
    if device.identity.logical_block > block {
        let refusal = Refusal::LargerBlocks { device: path, spare: device.identity.logical_block, main: block };
        add(ProblemKind::Unfit, refusal, None);
    }
}

fn main_problems(found: &FoundSetup, devices: &[SeenDevice], options: &AssemblyOptions, add: &mut Add<'_>) {
    let name = found.name();
    let recorded = &found.newest.metadata.config.main;
    if let Some(named) = options.main {
        let Some(device) = devices.get(named) else { return };
        match recorded.matches(&device.identity) {
            Match::Different(why) => {
                let what = format!("{} is not the main of '{name}': {why}", device.path);
                return add(ProblemKind::MainWrong, Refusal::MainUnclear(what), None);
            }
            Match::Unproven if options.safe_mode => {
                let what = format!(
                    "nothing proves that {} is the main of '{name}': safe mode does not believe a path",
                    device.path
                );
                add(ProblemKind::MainUnproven, Refusal::MainUnclear(what), Some(Permission::Main));
            }
            Match::Proven | Match::Unproven => {}
        }
        main_is_no_spare(device, add);
        device_problems(device, recorded, recorded.logical_block, add);
        return changed(found, named, device, add);
    }
    match &found.main {
        MainVerdict::Proven(main) => {
            let Some(device) = devices.get(*main) else { return };
            main_is_no_spare(device, add);
            device_problems(device, recorded, recorded.logical_block, add);
            changed(found, *main, device, add);
        }
        MainVerdict::Ambiguous(several) => {
            let paths: Vec<&str> = several.iter().filter_map(|d| devices.get(*d)).map(|d| d.path.as_str()).collect();
            let what = format!(
                "the main of '{name}' is ambiguous: {} both match. Name the right one with --main",
                paths.join(" and ")
            );
            add(ProblemKind::MainAmbiguous, Refusal::MainUnclear(what), Some(Permission::Main));
        }
        MainVerdict::Unproven(_) => {
            let refusal = Refusal::MainUnclear(missing_main(found, devices));
            add(ProblemKind::MainUnproven, refusal, Some(Permission::Main));
        }
        MainVerdict::Missing => {
            add(ProblemKind::MainMissing, Refusal::MainUnclear(missing_main(found, devices)), None);
        }
    }
}

/// A spare is never main: the first write to its beginning would destroy the metadata.
fn main_is_no_spare(device: &SeenDevice, add: &mut Add<'_>) {
    let in_use = |verdict: &Verdict| match verdict {
        Verdict::Valid(copy) if copy.metadata.config.state == SetupState::Ready => {
            Some(copy.metadata.config.name.clone())
        }
        _ => None,
    };
    if let Some(name) = device.verdicts.iter().find_map(in_use) {
        let what = format!("{} cannot be main: it is a spare of '{name}'", device.path);
        add(ProblemKind::MainWrong, Refusal::MainUnclear(what), None);
    }
}

fn changed(found: &FoundSetup, main: usize, device: &SeenDevice, add: &mut Add<'_>) {
    let samples = found.candidates.iter().find(|c| c.device == main).and_then(|c| c.samples.as_ref());
    let Some(samples) = samples.filter(|s| !s.differing.is_empty()) else { return };
    let first = samples.differing.first().map_or(0, |at| at.0);
    let mounted = match samples.mounted_since {
        Some(_) => ", and its filesystem was mounted since",
        None => "",
    };
    let what = format!(
        "main was written to behind the setup's back while that was down: on {}, {} of {} sampled places differ from what they \
         were (the first at sector {first}){mounted}. What the setup would show is a mixture of old and new. If you know that no sector of an extent was \
         meant to change, say --accept-changed-main",
        device.path,
        samples.differing.len(),
        samples.differing.len() + samples.equal
    );
    let refusal = Refusal::Metadata { device: found.name().into(), what };
    add(ProblemKind::MainChanged, refusal, Some(Permission::AcceptChangedMain));
}

/// Why no device is taken for main.
fn missing_main(found: &FoundSetup, devices: &[SeenDevice]) -> String {
    let name = found.name();
    let wanted = &found.newest.metadata.config.main;
    let hint = wanted.path.as_deref().map(|p| format!(" (last seen as {p})")).unwrap_or_default();
    let path = |device: usize| devices.get(device).map_or_else(String::new, |d| d.path.clone());
    if let MainVerdict::Unproven(fitting) = &found.main {
        let fitting: Vec<String> = fitting.iter().map(|device| path(*device)).collect();
        return format!(
            "the main of '{name}'{hint} cannot be proven: it has no WWN, serial or partition UUID that is known here. Of its size are: {}. Name the right one with --main",
            fitting.join(", ")
        );
    }
    let near = found.candidates.iter().find_map(|candidate| match &candidate.fit {
        Match::Different(why) => Some(format!(". {} has a name of it, but {why}", path(candidate.device))),
        _ => None,
    });
    format!(
        "the main of '{name}'{hint} is not here: no device has its identity and its size of {} sectors{}",
        wanted.size,
        near.unwrap_or_default()
    )
}
