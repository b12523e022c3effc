//! `discover`: which setups stand on the devices, in the manner of `zpool import`.

use super::assembly::unserved;
use super::{Context, Exit, Output, validate};
use crate::block::workers::{Outcome, in_workers};
use crate::cli::args::assembly::Discover;
use crate::cli::output::{Colour, complain};
use crate::cli::report::{count, sizes};
use crate::cli::worse;
use crate::engine::discover::{Discovery, Passed, Where, discover as look};
use crate::engine::{EngineError, find};
use crate::format::copy::Verdict;
use crate::identity::Match;
use crate::plan::assemble::{
    AssemblyOptions, FoundSetup, MainVerdict, Permission, Problem, ProblemKind, SeenDevice, SpareMember, Standing,
    problems,
};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

pub(super) fn discover(context: &Context, args: &Discover, out: &mut Output) -> Result<Exit> {
    let place = Where { all: args.scan_all, named: args.devices.clone(), read_only: true, ..Where::default() };
    let found = look(&context.host, &place, args.patience.timeout);
    let mut found = found.map_err(|e| EngineError::system("cannot look at devices", e))?;
    let examined = if args.validate { examine_spares(context, &mut found, args.patience.timeout)? } else { Vec::new() };
    let mark = context.mark();
    let options = AssemblyOptions::default();
    let judged: Vec<(&FoundSetup, Vec<Problem>)> = found
        .setups
        .iter()
        .map(|setup| (setup, problems(setup, &found.devices, &options, |active| mark.is_same_machine(active))))
        .collect();
    let nothing = nothing_there(&found);
    if out.is_json() {
        let setups: Vec<Value> = judged.iter().map(|(setup, all)| as_json(&found, setup, all)).collect();
        let passed: Vec<Value> = found
            .passed
            .iter()
            .chain(&nothing)
            .map(|p| json!({ "device": p.path, "why": p.why, "failed": p.failed }))
            .collect();
        let examined: Option<Vec<&Value>> = args.validate.then(|| examined.iter().map(|one| &one.json).collect());
        out.json(&json!({
            "setups": setups, "passed_over": passed, "devices_read": found.read, "examined": examined,
        }));
    } else {
        for (setup, all) in &judged {
            render(&found, setup, all, out);
        }
        for one in &examined {
            out.text(&one.text);
        }
        if judged.is_empty() {
            out.line(format!("no setup was found on {}", count(found.read, "device")));
        }
    }
    for passed in found.passed.iter().chain(&nothing) {
        let text = passed.text();
        if passed.failed {
            complain(&text);
        } else if args.verbose {
            context.note(&text);
        }
    }
    let exit = exit_code(&found, &judged, !nothing.is_empty());
    let exits = [Exit::Done, Exit::Attention, Exit::Failed];
    let exit_of = |one: &Examined| exits.into_iter().find(|exit| *exit as u8 == one.exit).unwrap_or(Exit::Failed);
    Ok(examined.iter().map(exit_of).fold(exit, worse))
}

/// What the deep check of one device gave.
#[derive(Serialize, Deserialize)]
struct Examined {
    json: Value,
    text: String,
    exit: u8,
}

/// Judges in depth every device with copies of a setup, in order, within `patience` each. What does not answer is noted.
fn examine_spares(context: &Context, found: &mut Discovery, patience: Duration) -> Result<Vec<Examined>> {
    let has_copies = |device: &&SeenDevice| device.verdicts.iter().any(|verdict| matches!(verdict, Verdict::Valid(_)));
    let paths: Vec<String> = found.devices.iter().filter(has_copies).map(|device| device.path.clone()).collect();
    let work = |item: usize| {
        let examination = paths.get(item).map(|path| validate::examined(context, Path::new(path), false));
        let Some(Ok(examination)) = examination else { return Vec::new() };
        let mut out = Output::new(false);
        validate::render(&examination, &mut out);
        let exit = validate::exit_for(&examination) as u8;
        let examined = Examined { json: validate::as_json(&examination), text: out.into_text(), exit };
        serde_json::to_vec(&examined).unwrap_or_default()
    };
    let outcomes = in_workers(paths.len(), paths.len().min(8), patience, &work)
        .map_err(|e| EngineError::system("cannot look at devices", e))?;
    let mut examined = Vec::new();
    for (path, outcome) in paths.iter().zip(outcomes) {
        let answer = if let Outcome::Done(answer) = outcome { serde_json::from_slice(&answer).ok() } else { None };
        match answer {
            Some(one) => examined.push(one),
            None => {
                let why = "its deep check did not end in time".into();
                found.passed.push(Passed { path: path.clone(), why, failed: true, named: false });
            }
        }
    }
    Ok(examined)
}

fn exit_code(found: &Discovery, judged: &[(&FoundSetup, Vec<Problem>)], nothing: bool) -> Exit {
    let in_the_way = |(setup, all): &(&FoundSetup, Vec<Problem>)| setup.live.is_none() && !all.is_empty();
    if nothing || (judged.is_empty() && found.passed.iter().any(|passed| passed.failed)) {
        Exit::Failed
    } else if judged.iter().any(in_the_way) || found.passed.iter().any(|passed| passed.failed) {
        Exit::Attention
    } else {
        Exit::Done
    }
}

/// Devices that were named and hold no setup.
fn nothing_there(found: &Discovery) -> Vec<Passed> {
    let named = found.devices.iter().enumerate().filter(|(_, d)| d.named && !d.verdicts.is_empty());
    let held = |place: usize| found.setups.iter().any(|setup| setup.stands_on(place));
    named
        .filter(|(place, _)| !held(*place))
        .map(|(_, device)| {
            let words: Vec<String> = device.verdicts.iter().map(find::verdict_words).collect();
            let why = format!("it holds no valid copy of a spare's metadata ({})", words.join(", "));
            Passed { path: device.path.clone(), why, failed: true, named: true }
        })
        .collect()
}

/// The state of a setup in a word.
fn state(setup: &FoundSetup, all: &[Problem]) -> &'static str {
    match all.first().map(|problem| problem.kind) {
        None if setup.live.is_some() => "ACTIVE",
        None => "COMPLETE",
        Some(ProblemKind::Active) => "ACTIVE",
        Some(ProblemKind::Forming) => "FORMING",
        Some(ProblemKind::Dissolved) => "DISSOLVED",
        Some(ProblemKind::Divergent) => "DIVERGENT",
        Some(ProblemKind::ClonedSpare) => "CLONED SPARE",
        Some(ProblemKind::UnclearDevice) => "UNCLEAR",
        Some(ProblemKind::ForeignSignature) => "FOREIGN SIGNATURE",
        Some(ProblemKind::MainMissing) => "MAIN MISSING",
        Some(ProblemKind::MainAmbiguous) => "MAIN AMBIGUOUS",
        Some(ProblemKind::MainUnproven) => "MAIN UNPROVEN",
        Some(ProblemKind::MainWrong) => "MAIN WRONG",
        Some(ProblemKind::MainChanged) => "MAIN CHANGED",
        Some(ProblemKind::Incomplete) => "INCOMPLETE",
        Some(ProblemKind::Stale) => "STALE",
        Some(ProblemKind::RolledBack) => "ROLLED BACK",
        Some(ProblemKind::SpareUnproven) => "SPARE UNPROVEN",
        Some(ProblemKind::ActiveElsewhere) => "ACTIVE ELSEWHERE",
        Some(ProblemKind::InUse) => "IN USE",
        Some(ProblemKind::ReadOnly) => "READ-ONLY",
        Some(ProblemKind::Unfit) => "UNFIT",
    }
}

/// How to name the setup to `reassemble`: by its UUID where the name is not enough.
fn handle(found: &Discovery, setup: &FoundSetup) -> String {
    let same_name = found.setups.iter().filter(|other| other.name() == setup.name()).count();
    if same_name > 1 { setup.setup().to_string() } else { setup.name().into() }
}

/// The command that brings it up; `None` when none does.
fn command(found: &Discovery, setup: &FoundSetup, all: &[Problem]) -> Option<String> {
    let looked = found.everywhere || setup.missing().next().is_none();
    if setup.live.is_some() || !looked {
        return None;
    }
    let mut command = format!("dm-remap-reassemble --setup {}", handle(found, setup));
    let mut options: Vec<&str> = Vec::new();
    for problem in all {
        options.push(problem.permitted_by.map(Permission::option)?);
    }
    options.dedup();
    if options.contains(&Permission::ReadOnly.option()) {
        // What is only read is not brought up to date.
        options.retain(|option| *option != Permission::UpdateStale.option());
    }
    for option in options {
        command.push(' ');
        command.push_str(option);
    }
    Some(command)
}

/// What is to be said of a spare, in words.
fn spare_words(found: &Discovery, setup: &FoundSetup, spare: &SpareMember) -> String {
    let mut words = match &spare.standing {
        Standing::Current(_) => format!("current, generation {}", setup.newest.metadata.generation),
        Standing::Behind { commits, by_interruption: true, .. } => {
            format!("{commits} commit behind by an interrupted command; it is brought up to date by itself")
        }
        Standing::RolledBack { least, .. } => {
            let holds = spare.generation.unwrap_or_default();
            format!("put back to an earlier state: generation {holds}, and it held at least {least}")
        }
        Standing::Behind { commits, .. } => format!("stale: {} behind the others", count_u64(*commits, "commit")),
        Standing::Missing => {
            let identity = &spare.record.identity;
            let mut known = vec![sizes(identity.size)];
            known.extend(identity.serial.iter().map(|serial| format!("serial number {serial}")));
            known.extend(identity.path.iter().map(|path| format!("last seen as {path}")));
            let missing = if found.everywhere { "missing" } else { "not among the devices given" };
            format!("{missing}: {}", known.join(", "))
        }
        Standing::Cloned(holders) => {
            let paths: Vec<&str> = holders.iter().map(|place| found.path(*place)).collect();
            format!("cloned: it stands on {}", paths.join(" and "))
        }
    };
    if !spare.lagging.is_empty() {
        words.push_str(&format!("; {} of 5 copies damaged or not current", spare.lagging.len()));
    }
    match &spare.fit {
        Some(Match::Different(why)) => words.push_str(&format!("; another device than it was: {why}")),
        Some(Match::Unproven) if spare.record.identity.has_stable_name() => {
            words.push_str("; this device has no name that could prove it");
        }
        _ => {}
    }
    words
}

fn count_u64(number: u64, what: &str) -> String {
    count(usize::try_from(number).unwrap_or(usize::MAX), what)
}

fn render(found: &Discovery, setup: &FoundSetup, all: &[Problem], out: &mut Output) {
    let metadata = &setup.newest.metadata;
    let word = state(setup, all);
    let colour = if matches!(word, "COMPLETE" | "ACTIVE") { Colour::Green } else { Colour::Red };
    out.line(format!("   setup: {}", setup.name()));
    out.line(format!("    uuid: {}", setup.setup()));
    out.line(format!("   state: {}", out.paint(colour, word)));
    for (place, problem) in all.iter().enumerate() {
        let label = if place == 0 { "  status:" } else { "         " };
        out.line(format!("{label} {}", problem.refusal));
    }
    let action = match (command(found, setup, all), setup.live.is_some()) {
        (_, true) => format!("none: it is up as /dev/mapper/{}", setup.live.as_deref().unwrap_or_default()),
        (Some(command), _) if all.is_empty() => command,
        (Some(command), _) => format!("mend that, or let it pass by name: {command}"),
        (None, _) if !found.everywhere => "only the devices given were looked at: dm-remap-discover --scan-all".into(),
        (None, _) => "mend that first; no option lets it pass".into(),
    };
    out.line(format!("  action: {action}"));
    let losses = metadata.map.losses().len();
    let mut map = format!("{}, {}", count(metadata.map.len(), "extent"), sizes(metadata.map.remapped()));
    if losses > 0 {
        map.push_str(&format!(", {}", count(losses, "run") + " of lost sectors"));
    }
    let away = unserved(setup);
    if away.0 > 0 {
        map.push_str(&format!("; {} of it on missing spares", sizes(away)));
    }
    out.line(format!("     map: {map}, generation {}", metadata.generation));
    out.line(" members:");
    render_main(found, setup, out);
    for spare in &setup.spares {
        let device = spare.standing.device().map_or("-", |place| found.path(place));
        out.line(format!("   spare {:<3} {device:<20} {}", spare.index, spare_words(found, setup, spare)));
    }
    for stranger in &setup.strangers {
        out.line(format!("   not one   {:<20} {}", found.path(stranger.device), stranger.why));
    }
    out.line("");
}

fn render_main(found: &Discovery, setup: &FoundSetup, out: &mut Output) {
    let identity = &setup.newest.metadata.config.main;
    if setup.candidates.is_empty() {
        let mut known = vec![sizes(identity.size)];
        known.extend(identity.serial.iter().map(|serial| format!("serial number {serial}")));
        known.extend(identity.path.iter().map(|path| format!("last seen as {path}")));
        out.line(format!("   main      {:<20} missing: {}", "-", known.join(", ")));
    }
    for candidate in &setup.candidates {
        let verdict = match (&candidate.fit, &setup.main) {
            (Match::Different(_), _) => "not it",
            (Match::Proven, MainVerdict::Ambiguous(_)) => "one of several",
            (Match::Proven, _) => "proven",
            (Match::Unproven, _) => "unproven",
        };
        out.line(format!(
            "   main      {:<20} {verdict}, confidence {}: {}",
            found.path(candidate.device),
            candidate.confidence,
            candidate.evidence.join(", ")
        ));
    }
}

fn as_json(found: &Discovery, setup: &FoundSetup, all: &[Problem]) -> Value {
    let metadata = &setup.newest.metadata;
    let all_json: Vec<Value> = all
        .iter()
        .map(|p| json!({ "kind": p.kind, "text": p.refusal.to_string(), "permitted_by": p.permitted_by.map(Permission::option) }))
        .collect();
    let spares: Vec<Value> = setup
        .spares
        .iter()
        .map(|spare| {
            let (verdict, behind) = match &spare.standing {
                Standing::Current(_) => ("current", 0),
                Standing::Behind { commits, by_interruption: true, .. } => ("interrupted", *commits),
                Standing::RolledBack { .. } => ("rolled-back", 0),
                Standing::Behind { commits, .. } => ("stale", *commits),
                Standing::Missing => ("missing", 0),
                Standing::Cloned(_) => ("cloned", 0),
            };
            json!({
                "index": spare.index, "uuid": spare.record.uuid, "recorded_state": spare.record.state,
                "verdict": verdict, "commits_behind": behind, "generation": spare.generation,
                "devices": spare.standing.holders().iter().map(|d| found.path(*d)).collect::<Vec<_>>(),
                "copies_not_current": spare.lagging, "identity": spare.record.identity,
                "text": spare_words(found, setup, spare),
            })
        })
        .collect();
    let (verdict, main) = match &setup.main {
        MainVerdict::Proven(main) => ("proven", Some(found.path(*main))),
        MainVerdict::Ambiguous(_) => ("ambiguous", None),
        MainVerdict::Unproven(_) => ("unproven", None),
        MainVerdict::Missing => ("missing", None),
    };
    let candidates: Vec<Value> = setup
        .candidates
        .iter()
        .map(|c| {
            json!({ "device": found.path(c.device), "confidence": c.confidence, "evidence": c.evidence,
                "proven": c.fit == Match::Proven })
        })
        .collect();
    json!({
        "name": setup.name(), "uuid": setup.setup(), "state": state(setup, all), "active_as": setup.live,
        "generation": metadata.generation, "committed": metadata.committed, "extents": metadata.map.len(),
        "remapped_sectors": metadata.map.remapped(), "lost_runs": metadata.map.losses().len(),
        "sectors_on_missing_spares": unserved(setup),
        "main": { "verdict": verdict, "device": main, "identity": metadata.config.main, "candidates": candidates },
        "spares": spares,
        "strangers": setup.strangers.iter()
            .map(|s| json!({ "device": found.path(s.device), "why": s.why })).collect::<Vec<_>>(),
        "problems": all_json, "command": command(found, setup, all),
    })
}
