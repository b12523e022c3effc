//! `alert`, and telling what has changed at a setup.
//!
//! Invariant: a failure here is noted and changes no exit code but that of `alert --test`.

use super::status::{DiskRow, State as Health, StatusReport};
use super::{Context, Exit, Output};
use crate::alert::change::{DiskNow, Now, RoomLimits, SpareHealth, compare};
use crate::alert::deliver::{Told, Ways, deliver};
use crate::alert::event::{Alert, Event, Kind, VERSION};
use crate::alert::state::State;
use crate::cli::args::alert::Alert as Args;
use crate::cli::syslog::{self, Severity};
use crate::config::{ALERTS_MAIL, ALERTS_ON, ALERTS_PROGRAM, Config, POOL_WARN_DAYS, POOL_WARN_FREE_PERCENT, Settings};
use crate::engine::now;
use crate::forecast::Foresight;
use crate::health::Band;
use crate::units::RangeSet;
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a program may take.
const LIMIT: Duration = Duration::from_secs(30);

/// A disk must be so many points above the limit of a band before it counts as better.
const SWAY: u8 = 5;

const JOURNAL: &str = "/run/systemd/journal/socket";

/// Where the mail program is: one of the two on any system (Filesystem Hierarchy Standard, 3.17).
const SENDMAIL: [&str; 2] = ["/usr/sbin/sendmail", "/usr/lib/sendmail"];

/// Tells what has changed at a setup since `state` was written. The caller has gathered the report under it.
pub(super) fn tell(context: &Context, state: &State, report: &StatusReport, weak: RangeSet) -> Result<()> {
    let name = report.name.as_str();
    let unconfigured = Config::default();
    let settings = match context.settings(Some(name)) {
        Ok(settings) => settings,
        Err(error) => {
            context.note(&format!("alerts go by the built-in defaults: {error}"));
            unconfigured.settings(None)
        }
    };
    let before = state.load();
    let limits =
        RoomLimits { free_percent: settings.get(&POOL_WARN_FREE_PERCENT), days: settings.get(&POOL_WARN_DAYS) };
    let (mut events, look) = compare(&before, &seen(context, report, weak), limits);
    events.retain(|event| wanted(settings, event.event));
    if !events.is_empty() {
        let alert = message(name, &report.uuid, &report.main, events);
        // Where no log is kept, none is missed; 'alert --test' tells of it.
        for told in send(settings, &alert).into_iter().filter(|told| told.way != "syslog") {
            if let Some(error) = told.error {
                context.note(&format!("{name}: an alert did not reach {} ({}): {error}", told.to, told.way));
            }
        }
    }
    // Told first: when this is killed in between, it is told twice, and not never.
    if look != before {
        state.save(look)?;
    }
    Ok(())
}

fn wanted(settings: Settings<'_>, kind: Kind) -> bool {
    let on = settings.get(&ALERTS_ON);
    if on.is_empty() { kind != Kind::Scan } else { on.contains(&kind.name()) }
}

/// What the report of a setup says, as the comparison takes it.
fn seen(context: &Context, report: &StatusReport, weak: RangeSet) -> Now {
    let session = context.reading_session(&report.name).ok();
    let map = session.as_ref().map(|session| &session.metadata.map);
    let lost = map.into_iter().flat_map(|map| map.losses().iter().map(|loss| loss.range)).collect();
    let health = |word: &str| match word {
        "online" | "draining" => SpareHealth::Fine,
        "missing" => SpareHealth::Missing,
        _ => SpareHealth::Failed,
    };
    let sum =
        |part: fn(&super::status::SpareReport) -> u64| report.spares.iter().map(part).fold(0, u64::saturating_add);
    let (used, free) = (sum(|spare| spare.used_sectors.0), sum(|spare| spare.free_sectors.0));
    let disk = |disk: &DiskRow| {
        let level = disk.band.level()?;
        let lenient = Band::of(disk.score.saturating_sub(SWAY)).level()?;
        let reason = disk.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let text = format!("({}) is {}, {} of 100{reason}", disk.path, disk.band.word(), disk.score);
        Some((disk.role.clone(), DiskNow { level, lenient, text }))
    };
    let needs = matches!(report.state, Health::Suspended | Health::Unsettled | Health::Unreadable);
    let scan = report.scan.as_ref().and_then(|scan| Some((scan.finished?, scan.summary.clone())));
    Now {
        moved: map.map(|map| map.extents().map(|extent| extent.range).collect()),
        lost,
        weak,
        spares: report.spares.iter().map(|spare| (spare.index.0, health(spare.state))).collect(),
        free_percent: map.and_then(|_| free.saturating_mul(100).checked_div(used.saturating_add(free))),
        room_days: report.foresight.as_ref().and_then(Foresight::least_days),
        attention: report.status.first().filter(|_| needs).cloned(),
        scan,
        disks: report.disks.iter().filter_map(disk).collect(),
    }
}

fn message(setup: &str, uuid: &str, device: &str, events: Vec<Event>) -> Alert {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_string();
    Alert { version: VERSION, time: now(), host, setup: setup.into(), uuid: uuid.into(), device: device.into(), events }
}

/// Sends it in every way that is there.
fn send(settings: Settings<'_>, alert: &Alert) -> Vec<Told> {
    let journal = Some(PathBuf::from(JOURNAL)).filter(|socket| socket.exists());
    let sendmail = SENDMAIL.iter().find(|path| Path::new(path).exists()).unwrap_or(&"/usr/sbin/sendmail");
    let ways = Ways {
        program: settings.get(&ALERTS_PROGRAM).map(PathBuf::from),
        mail: settings.get(&ALERTS_MAIL),
        sendmail: PathBuf::from(sendmail),
        journal,
        limit: LIMIT,
    };
    let mut told = deliver(&ways, alert);
    if !told.iter().any(|told| told.way == "journal" && told.error.is_none()) {
        let severity = match alert.kind().priority() {
            3 => Severity::Error,
            4 => Severity::Warning,
            _ => Severity::Notice,
        };
        let taken = syslog::log(severity, &alert.subject());
        let error = (!taken).then(|| "nobody takes lines there".to_string());
        told.push(Told { way: "syslog", to: "/dev/log".into(), error });
    }
    told
}

pub(super) fn alert(context: &Context, args: &Args, out: &mut Output) -> Result<Exit> {
    if args.list { Ok(list(out)) } else { test(context, args.name.as_deref(), out) }
}

fn list(out: &mut Output) -> Exit {
    if out.is_json() {
        let row = |kind: &Kind| {
            serde_json::json!({
                "event": kind.name(), "message_id": kind.message_id(), "priority": kind.priority(), "about": kind.about(),
            })
        };
        out.json(&serde_json::json!({ "events": Kind::ALL.iter().map(row).collect::<Vec<_>>() }));
        return Exit::Done;
    }
    let mut rows = vec![["EVENT", "MESSAGE_ID", "MEANING"].map(String::from).to_vec()];
    rows.extend(Kind::ALL.iter().map(|kind| [kind.name(), kind.message_id(), kind.about()].map(String::from).to_vec()));
    out.table(0, &rows);
    Exit::Done
}

fn test(context: &Context, name: Option<&str>, out: &mut Output) -> Result<Exit> {
    let settings = context.settings(name)?;
    if let Some(name) = name
        && !context.loaded()?.config.setups.contains_key(name)
        && !context.active_names().is_ok_and(|active| active.iter().any(|one| one == name))
    {
        context.note(&format!("no setup '{name}' is up, and the configuration has none: what holds for all is tested"));
    }
    let text = "this is a test: nothing has happened".to_string();
    let events = vec![Event { event: Kind::Test, text, sectors: Vec::new() }];
    let told = send(settings, &message(name.unwrap_or("(no setup)"), "", "", events));
    let failed = told.iter().any(|told| told.error.is_some());
    let exit = if failed { Exit::Failed } else { Exit::Done };
    if out.is_json() {
        out.json(&serde_json::json!({ "test": true, "told": told }));
        return Ok(exit);
    }
    let mut rows = vec![["WAY", "TO", "RESULT"].map(String::from).to_vec()];
    let result = |told: &Told| told.error.as_ref().map_or("taken".to_string(), |error| format!("FAILED: {error}"));
    rows.extend(told.iter().map(|told| vec![told.way.to_string(), told.to.clone(), result(told)]));
    out.table(0, &rows);
    for (way, set) in
        [("program", settings.get(&ALERTS_PROGRAM).is_some()), ("mail", settings.get(&ALERTS_MAIL).is_some())]
    {
        if !set {
            out.line(format!("alerts.{way} is not set in the configuration"));
        }
    }
    Ok(exit)
}
