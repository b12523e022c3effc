//! Finding a setup that is not up, and bringing it up: what `activate`, `reassemble` and `destroy` share.

use super::spare_facts::still_ours;
use super::{Context, Exit, Output, moves};
use crate::block::device::BlockDevice;
use crate::block::direct::{DirectDisk, Mode};
use crate::cli::report::{count, sizes};
use crate::engine::activate::{self as engine, ActivateOptions, Activated};
use crate::engine::discover::{Discovery, Where, discover};
use crate::engine::find;
use crate::engine::session::Session;
use crate::engine::{EngineError, Member};
use crate::format::choose::{Expected, reject_unexpected};
use crate::format::copy::Verdict;
use crate::identity::Match;
use crate::map::SpareIndex;
use crate::plan::Refusal;
use crate::plan::assemble::{AssemblyOptions, AssemblyPlan, FoundSetup, ProblemKind, SpareMember, decide, problems};
use crate::pool::Scores;
use crate::segments::{LayoutRule, PART_LINES};
use crate::store::SpareReading;
use crate::units::{DevNo, Sectors};
use anyhow::Result;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// How long a device may take to answer, unless the person says otherwise.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Which setup is wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    /// By name or UUID.
    pub(super) name: Option<String>,
    /// Whatever stands on these devices, and the other spares of the same setups.
    pub(super) devices: Vec<PathBuf>,
}

/// What was found when it was looked for.
#[derive(Debug)]
pub(super) struct Search {
    pub(super) discovery: Discovery,
}

impl Search {
    /// Looks at all devices. Nothing may be locked yet: a process that hangs in a read would keep the lock.
    pub(super) fn begin(context: &Context, wanted: &Wanted) -> Result<Search> {
        let place = Where { named: wanted.devices.clone(), ..Where::everywhere() };
        Search::within(context, &place, PATIENCE)
    }

    /// The same, with every choice.
    pub(super) fn within(context: &Context, place: &Where, patience: Duration) -> Result<Search> {
        let discovery =
            discover(&context.host, place, patience).map_err(|e| EngineError::system("cannot look at devices", e))?;
        for passed in discovery.passed.iter().filter(|passed| passed.failed) {
            if passed.named {
                return Err(EngineError::Device(passed.text()).into());
            }
            context.note(&format!("passed over: {}", passed.text()));
        }
        Ok(Search { discovery })
    }

    /// The one setup that is wanted.
    pub(super) fn pick(&self, wanted: &Wanted) -> Result<Uuid> {
        let named = self.on_named_devices()?;
        match (&wanted.name, named.as_slice()) {
            (Some(name), []) => {
                let found = self.discovery.setup(name).map_err(EngineError::Device)?;
                Ok(found.setup())
            }
            (Some(name), named) => {
                let fits = |s: &&&FoundSetup| s.name() == name || s.setup().to_string() == name.to_lowercase();
                match (named.iter().find(fits), named.first()) {
                    (Some(found), _) => Ok(found.setup()),
                    (None, first) => {
                        let other = first.map_or("", |setup| setup.name());
                        let what = format!("it belongs to the setup '{other}', not to '{name}'");
                        Err(Refusal::Metadata { device: "the spare".into(), what }.into())
                    }
                }
            }
            (None, [only]) => Ok(only.setup()),
            (None, []) => Err(Refusal::NothingGiven.into()),
            (None, _) => {
                let what = "spares of several setups; name one setup".into();
                Err(Refusal::Metadata { device: "the devices given".into(), what }.into())
            }
        }
    }

    /// The setups that stand on the devices that were named; each of these must hold one.
    pub(super) fn on_named_devices(&self) -> Result<Vec<&FoundSetup>, Refusal> {
        let mut out: Vec<&FoundSetup> = Vec::new();
        for (place, device) in self.discovery.devices.iter().enumerate().filter(|(_, d)| d.named) {
            let before = out.len();
            out.extend(self.discovery.setups.iter().filter(|setup| setup.stands_on(place)));
            if out.len() == before {
                let reading = SpareReading { device: device.path.as_str().into(), verdicts: device.verdicts.clone() };
                let what = match reading.choose() {
                    Err(error) => format!("{error}: {}", find::describe(&reading)),
                    Ok(_) => "it is not a spare of any setup".into(),
                };
                return Err(Refusal::Metadata { device: device.path.clone(), what });
            }
        }
        out.dedup_by_key(|setup| setup.setup());
        Ok(out)
    }

    /// Reads the setup's spares anew, now that its lock is ours: another command may have been at work until then.
    pub(super) fn read_again(&mut self, context: &Context, setup: Uuid) -> Result<FoundSetup> {
        self.discovery.read_again(&context.host, setup).map_err(|e| EngineError::Device(e).into())
    }

    fn member(&self, context: &Context, place: usize, mode: Mode) -> Result<Member, EngineError> {
        let path = || self.discovery.devices.get(place).map_or_else(String::new, |device| device.path.clone());
        let Some(Some(block)) = self.discovery.blocks.get(place) else {
            let what = format!("{} is an image file: attach it with losetup, and give the loop device", path());
            return Err(EngineError::Device(what));
        };
        if mode == Mode::ReadWrite {
            return context.member(block);
        }
        let disk = DirectDisk::open_device(block, mode).map_err(|e| EngineError::Device(e.to_string()))?;
        Ok(Member { devno: block.devno, disk: Arc::new(disk) })
    }
}

/// All devices here with copies of a setup, by its name or UUID, and what stands on them.
pub(super) fn devices_with_copies(context: &Context, name: &str) -> Result<Vec<(BlockDevice, SpareReading)>> {
    let search = Search::begin(context, &Wanted::default())?;
    let setup = search.discovery.setup(name).map_err(EngineError::Device)?.setup();
    let holds = |verdict: &Verdict| matches!(verdict, Verdict::Valid(copy) if copy.metadata.setup == setup);
    let devices = search.discovery.devices.iter().zip(&search.discovery.blocks);
    let found = devices.filter(|(seen, _)| seen.verdicts.iter().any(holds)).filter_map(|(seen, block)| {
        let mut verdicts = seen.verdicts.clone();
        reject_unexpected(&mut verdicts, Expected { setup: Some(setup), spare: None });
        Some((block.clone()?, SpareReading { device: seen.path.as_str().into(), verdicts }))
    });
    Ok(found.collect())
}

/// Refuses to bring up what is up, unless a command was killed between bringing the device up and making its node.
pub(super) fn already_up(context: &Context, name: &str, dry_run: bool, out: &mut Output) -> Result<Exit> {
    let node = context.host.dev().join("mapper").join(name);
    if dry_run || node.exists() {
        return Err(Refusal::AlreadyActive(name.into()).into());
    }
    // A table that a killed command has loaded is gone then: else the next call would swap it in.
    let (_lock, session) = context.locked_session(name)?;
    session.check_live()?;
    session.dm.activate(name, false)?;
    Ok(super::lifecycle::said(out, name, false, "was up already, without its node: that is there now"))
}

/// Brings one setup up, and tells how it went.
pub(super) fn bring_up(
    context: &Context,
    search: &mut Search,
    setup: Uuid,
    options: &AssemblyOptions,
    dry_run: bool,
    out: &mut Output,
) -> Result<Exit> {
    let found = search.discovery.setups.iter().find(|s| s.setup() == setup);
    let as_it_is = options.rename.is_none() && !options.read_only;
    if let Some(live) = found.and_then(|found| found.live.as_deref()).filter(|_| as_it_is) {
        return already_up(context, live, dry_run, out);
    }
    let name = found.map_or("", FoundSetup::name).to_string();
    let _lock = context.lock(&setup.to_string(), &name)?;
    let _claiming = if dry_run { None } else { Some(context.claim_lock()?) };
    let found = search.read_again(context, setup)?;
    let mark = context.mark();
    let plan = decide(&found, &search.discovery.devices, options, |active| mark.is_same_machine(active))?;
    refuse_overlaps(context, search, &plan)?;
    if dry_run {
        report_plan(search, &found, &plan, out);
        return Ok(Exit::Done);
    }
    let mode = if options.read_only { Mode::ReadOnly } else { Mode::ReadWrite };
    let main = search.member(context, plan.main, mode)?;
    let open = |place: &Option<usize>| place.map(|place| search.member(context, place, mode)).transpose();
    let spares: Result<Vec<Option<Member>>, EngineError> = plan.spares.iter().map(open).collect();
    let activate = ActivateOptions {
        mark: &mark,
        layout: context.layout_rule(&plan.name),
        read_only: options.read_only,
        recheck: &|session| {
            main_is_still(context, session)?;
            // A claim of device-mapper does not keep other devices of device-mapper away.
            let members = std::iter::once(plan.main).chain(plan.spares.iter().flatten().copied());
            let blocks = members.filter_map(|place| search.discovery.blocks.get(place)?.as_ref());
            blocks.into_iter().try_for_each(|block| still_ours(context, block, setup))
        },
        observer: &context.progress,
    };
    context.last_commit(setup).forget();
    let up = engine::activate(context.dm()?, &found, &plan, main, spares?, &activate)?;
    if !options.read_only {
        context.keep_backup(&up.session.metadata);
    }
    moves::tell_failed(context, &up.session);
    Ok(report_up(context, search, &plan, &up, out))
}

/// Refuses members that share sectors: a partition and its disk, two paths to one disk.
fn refuse_overlaps(context: &Context, search: &Search, plan: &AssemblyPlan) -> Result<(), Refusal> {
    let block = |place: usize| search.discovery.blocks.get(place).and_then(Option::as_ref);
    let members: Vec<&BlockDevice> =
        std::iter::once(plan.main).chain(plan.spares.iter().flatten().copied()).filter_map(block).collect();
    for (place, one) in members.iter().enumerate() {
        for other in members.iter().skip(place + 1) {
            if let Some(why) = context.host.overlap(one, other) {
                let [first, second] = [one, other].map(|device| device.path.display().to_string());
                return Err(Refusal::Overlap { first, second, why });
            }
        }
    }
    Ok(())
}

/// Looks at main again once device-mapper holds it: its number must still stand for the same device.
fn main_is_still(context: &Context, session: &Session<'_>) -> Result<(), EngineError> {
    let device = context.host.device_by_number(session.main.devno);
    let device = device.map_err(|e| EngineError::Device(e.to_string()))?;
    match session.metadata.config.main.matches(&device.identity) {
        Match::Different(why) => {
            let what = format!("{} was replaced while the setup was being brought up: {why}", device.path.display());
            Err(Refusal::MainUnclear(what).into())
        }
        Match::Proven | Match::Unproven => Ok(()),
    }
}

fn report_plan(search: &Search, found: &FoundSetup, plan: &AssemblyPlan, out: &mut Output) {
    let metadata = &found.newest.metadata;
    let main = search.discovery.path(plan.main).to_string();
    let path = |spare: &SpareMember| spare.standing.device().map(|place| search.discovery.path(place).to_string());
    let spares: Vec<Option<String>> = found.spares.iter().map(path).collect();
    let permitted: Vec<String> = plan.permitted.iter().map(|problem| problem.refusal.to_string()).collect();
    if out.is_json() {
        out.json(&serde_json::json!({
            "dry_run": true, "name": plan.name, "uuid": metadata.setup, "main": main, "spares": spares,
            "extents": metadata.map.len(), "behind": plan.behind, "permitted": permitted,
        }));
        return;
    }
    out.line(format!("would bring up '{}' (dry run: nothing was changed)", plan.name));
    out.line(format!("  main    {main}"));
    for spare in spares {
        out.line(format!("  spare   {}", spare.as_deref().unwrap_or("(missing: its extents would answer EIO)")));
    }
    out.line(format!("  map     {}, generation {}", count(metadata.map.len(), "extent"), metadata.generation));
    for text in permitted {
        out.line(format!("  passed  {text}"));
    }
}

fn report_up(context: &Context, search: &Search, plan: &AssemblyPlan, up: &Activated<'_>, out: &mut Output) -> Exit {
    let (name, session) = (&plan.name, &up.session);
    if let Some(note) = &up.activation.warning {
        context.note(note);
    }
    if let Some(mark) = &up.unclean {
        let when = humantime::format_rfc3339_seconds(time_of(mark.time));
        context
            .note(&format!("'{name}' was not put down cleanly after its activation at {when}; its metadata is whole"));
    }
    for spare in &up.caught_up {
        context.note(&format!("spare {spare} was behind the others; it is up to date now"));
    }
    let is_missing = |index: &SpareIndex| session.spare(*index).is_none();
    let missing: Vec<SpareIndex> = session.metadata.members().map(|(index, _)| index).filter(is_missing).collect();
    for index in &missing {
        let lost = session.metadata.map.extents().filter(|extent| extent.slot.spare == *index).count();
        context.note(&format!(
            "'{name}' is degraded: spare {index} is missing, {} of it answer EIO. What it may know that the others do not cannot be known",
            count(lost, "extent")
        ));
    }
    let stale = session.read_only && !plan.behind.is_empty();
    if stale {
        context.note(&format!("'{name}' has spares that are not up to date; read-only, they are left as they are"));
    }
    let main = search.discovery.path(plan.main).to_string();
    if out.is_json() {
        out.json(&serde_json::json!({
            "name": name, "uuid": session.setup(), "device": up.activation.node, "main": main,
            "unclean": up.unclean.is_some(), "generation": session.metadata.generation,
            "missing": missing, "read_only": session.read_only,
        }));
    } else {
        let how = if session.read_only { ", read-only" } else { "" };
        out.line(format!("'{name}' is up{how}: {}", up.activation.node.display()));
        out.line(format!("  main    {main}, {}", sizes(search.discovery.size(plan.main))));
        for place in plan.spares.iter().flatten() {
            out.line(format!("  spare   {}, {}", search.discovery.path(*place), sizes(search.discovery.size(*place))));
        }
    }
    if session.failed.is_empty() && missing.is_empty() && !stale { Exit::Done } else { Exit::Attention }
}

/// A time of the metadata, for people.
pub(super) fn time_of(seconds: u64) -> std::time::SystemTime {
    // Beyond the year 9999 the library would refuse; such a time is wrong anyway.
    std::time::UNIX_EPOCH + Duration::from_secs(seconds.min(253_402_300_799))
}

/// A setup that is not up, as far as its spares go: for dissolving it.
pub(super) fn spares_only<'a>(context: &'a Context, search: &Search, found: &FoundSetup) -> Result<Session<'a>> {
    let mark = context.mark();
    let options = AssemblyOptions::default();
    let all = problems(found, &search.discovery.devices, &options, |active| mark.is_same_machine(active));
    let of_main = [
        ProblemKind::MainMissing,
        ProblemKind::MainAmbiguous,
        ProblemKind::MainUnproven,
        ProblemKind::MainChanged,
        ProblemKind::MainWrong,
        // Those are about to be erased.
        ProblemKind::Forming,
        ProblemKind::Dissolved,
        ProblemKind::Stale,
        ProblemKind::RolledBack,
    ];
    let is_ready = found.newest.metadata.config.state == crate::format::metadata::SetupState::Ready;
    let passes = |kind: ProblemKind| of_main.contains(&kind) || (!is_ready && kind == ProblemKind::Incomplete);
    if let Some(problem) = all.into_iter().find(|problem| !passes(problem.kind)) {
        return Err(problem.refusal.into());
    }
    let open = |place: Option<usize>| place.map(|place| search.member(context, place, Mode::ReadWrite)).transpose();
    let spares: Result<Vec<Option<Member>>, EngineError> = found.places().into_iter().map(open).collect();
    Ok(Session {
        dm: context.dm()?,
        name: found.name().into(),
        digest: found.newest.digest,
        metadata: found.newest.metadata.clone(),
        main: Member::gone("main", DevNo { major: 0, minor: 0 }),
        spares: spares?,
        layout: LayoutRule::Keep,
        failed: Vec::new(),
        read_only: false,
        passed_over: Vec::new(),
        last_commit: None,
        disk_scores: Scores::new(),
        part_lines: PART_LINES,
    })
}

/// Sectors of a setup that are on spares which are missing.
pub(super) fn unserved(found: &FoundSetup) -> Sectors {
    let missing: Vec<_> = found.missing().map(|spare| spare.index).collect();
    let extents = found.newest.metadata.map.extents().filter(|extent| missing.contains(&extent.slot.spare));
    Sectors(extents.map(|extent| extent.range.len().0).fold(0, u64::saturating_add))
}
