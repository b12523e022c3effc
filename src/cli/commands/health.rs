//! `health`: how the disks of a setup are doing, or a device.
//!
//! Invariants: looking writes nothing: the history is kept by `scan --cron` (see [`keep`]); a disk that hangs or sleeps spoils nothing but
//! its own line.

use super::health_view::{Disk, Judged, answer, text};
use super::status::DiskRow;
use super::status_many::each;
use super::{Context, Exit, Output, health_history};
use crate::cli::args::health::Health as Args;
use crate::cli::output::complain;
use crate::cli::selection::select;
use crate::cli::worse;
use crate::engine::now;
use crate::engine::session::{Session, live_devices};
use crate::forecast::{Foresight, foresee};
use crate::format::metadata::Metadata;
use crate::health::{Band, Evidence, judge};
use crate::history::{self, DiskRecord, Record, What};
use crate::map::SpareIndex;
use crate::pool::Pool;
use crate::scan::checkpoint;
use crate::scan::pass::{Pass, Place, Subject};
use crate::smart::Smart;
use crate::units::{DevNo, Sectors};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;
use uuid::Uuid;

/// How long smartctl may take for one disk when the history is kept.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a worker says of a setup.
#[derive(Serialize, Deserialize)]
enum Said {
    Disks(Vec<Disk>, Foresight),
    Error(String),
}

pub(super) fn health(context: &Context, args: &Args, out: &mut Output) -> Result<Exit> {
    if args.history {
        return health_history::print(context, args, out);
    }
    let mut judged = Vec::new();
    let mut exit = Exit::Done;
    if let Some(path) = &args.device {
        let device = context.device(path)?;
        let disk = of_device(context, args, device.devno, path.display().to_string());
        judged.push(Judged { setup: None, disks: vec![disk], room: None });
    } else {
        context.dm()?;
        let names = select(context, &args.names)?;
        // Each of up to 17 disks has its time, one after the other.
        let patience = args.patience.timeout.saturating_mul(17);
        let said = each(context, &names, patience, &|context, name| match of_setup(context, name, args) {
            Ok((disks, room)) => Said::Disks(disks, room),
            Err(error) => Said::Error(format!("{error:#}")),
        })?;
        for (name, said) in names.into_iter().zip(said) {
            match said {
                Some(Said::Disks(disks, room)) => judged.push(Judged { setup: Some(name), disks, room: Some(room) }),
                Some(Said::Error(text)) => {
                    complain(&text);
                    exit = worse(exit, Exit::Failed);
                }
                None => {
                    complain(&format!("{name}: a device of it has not answered in time"));
                    exit = worse(exit, Exit::Attention);
                }
            }
        }
    }
    if args.nagios {
        let answer = answer(&judged, exit == Exit::Done);
        out.line(answer.line());
        return Ok(answer.verdict.exit());
    }
    let grave = |disk: &Disk| matches!(disk.health.band, Band::Failing | Band::Poor);
    if judged.iter().flat_map(|judged| &judged.disks).any(grave) {
        exit = worse(exit, Exit::Attention);
    }
    if out.is_json() {
        let setup = |one: &Judged| serde_json::json!({ "name": one.setup, "disks": one.disks, "room": one.room });
        out.json(&serde_json::json!({ "setups": judged.iter().map(setup).collect::<Vec<_>>() }));
    } else if judged.is_empty() && exit == Exit::Done {
        out.line("no active setups");
    } else {
        judged.iter().for_each(|judged| text(out, judged));
    }
    Ok(exit)
}

/// The devices of a setup, by what they are to it.
fn members(session: &Session<'_>) -> Vec<(String, DevNo, Place)> {
    let main = ("main".to_string(), session.main.devno, Place::Main);
    let spares = (0u8..).map(SpareIndex).zip(&session.spares).filter_map(|(index, member)| {
        let member = member.as_ref().filter(|member| !member.is_gone())?;
        Some((format!("spare{index}"), member.devno, Place::Spare(index)))
    });
    std::iter::once(main).chain(spares).collect()
}

fn of_setup(context: &Context, name: &str, args: &Args) -> Result<(Vec<Disk>, Foresight)> {
    live_devices(context.dm()?, name)?;
    let session = context.reading_session(name)?;
    let known = Known::load(context, &session.metadata);
    let one = |(role, devno, place): (String, DevNo, Place)| {
        let asked = context.host.smart(devno, args.wake, args.patience.timeout);
        let (smart, why) = match asked {
            Ok(smart) => (Some(smart), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let path = context.path_of(devno);
        disk(role.clone(), path, why, known.judge(&role, place, smart.as_ref(), &session.metadata), smart)
    };
    let free = Pool::new(&session.metadata, |index| session.is_there(index)).free();
    let room = known.foresee(&session.metadata, free);
    Ok((members(&session).into_iter().map(one).collect(), room))
}

fn disk(
    role: String,
    path: String,
    silent: Option<String>,
    health: crate::health::Health,
    smart: Option<Smart>,
) -> Disk {
    Disk { role, path, health, silent, smart }
}

fn of_device(context: &Context, args: &Args, devno: DevNo, path: String) -> Disk {
    let asked = context.host.smart(devno, args.wake, args.patience.timeout);
    let (smart, why) = match asked {
        Ok(smart) => (Some(smart), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let health = judge(&Evidence { now: now(), smart: smart.as_ref(), ..Evidence::default() });
    disk("device".into(), path, why, health, smart)
}

/// What is known of the disks of a setup from before.
struct Known {
    records: Vec<Record>,
    pass: Option<Pass>,
}

impl Known {
    fn load(context: &Context, metadata: &Metadata) -> Known {
        // What cannot be read is not known.
        let records = history::read(&directory(context), metadata.setup).unwrap_or_default();
        let pass = checkpoint::load(&context.state().join("scan"), &Subject::Setup(metadata.setup)).ok().flatten();
        Known { records, pass }
    }

    fn judge(&self, role: &str, place: Place, smart: Option<&Smart>, metadata: &Metadata) -> crate::health::Health {
        let serial = smart.and_then(|smart| smart.serial.as_ref());
        let of_this = |record: &Record| match &record.what {
            // Another disk may have had this place before.
            What::Disk(disk) if disk.device == role && disk.smart.serial.as_ref() == serial => {
                Some((record.time, disk.smart.clone()))
            }
            _ => None,
        };
        let mut before: Vec<(u64, Smart)> = self.records.iter().filter_map(of_this).collect();
        before.sort_by_key(|(time, _)| *time);
        let moved: Vec<(u64, Sectors)> = match place {
            Place::Main => self.moved(),
            Place::Spare(_) => Vec::new(),
        };
        let found = self.pass.as_ref().and_then(|pass| pass.areas.iter().find(|area| area.place == place));
        let found = found.map(|area| area.found_so_far());
        let spare_bad = match place {
            Place::Spare(index) => metadata.bad_blocks.get(&index).into_iter().flatten().map(|run| run.len().0).sum(),
            Place::Main => 0,
        };
        judge(&Evidence {
            now: now(),
            smart,
            before: &before,
            bad: found.as_ref().map(|found| found.bad.sectors()),
            weak_places: found.map_or(0, |found| u64::try_from(found.weak.len()).unwrap_or(u64::MAX)),
            moved: &moved,
            spare_bad: Sectors(spare_bad),
        })
    }

    /// How long the room on the spares lasts: by the history, and by what the metadata recorded before there was one.
    fn foresee(&self, metadata: &Metadata, free: Sectors) -> Foresight {
        let (now, remapped) = (now(), metadata.map.remapped());
        let recorded = metadata.health.used.iter().map(|sample| (sample.time(), sample.sectors()));
        let mut past: Vec<(u64, Sectors)> = recorded.chain(self.moved()).filter(|(time, _)| *time < now).collect();
        past.sort_by_key(|(time, _)| *time);
        past.push((now, remapped));
        foresee(&past, free, now)
    }

    fn moved(&self) -> Vec<(u64, Sectors)> {
        let of_setup = |record: &Record| match &record.what {
            What::Setup(setup) => Some((record.time, setup.remapped_sectors)),
            _ => None,
        };
        let mut moved: Vec<(u64, Sectors)> = self.records.iter().filter_map(of_setup).collect();
        moved.sort_by_key(|(time, _)| *time);
        moved
    }
}

/// How the disks of a setup are doing, by what was last recorded of them: nobody is asked. Those of which nothing is on record are
/// left out. And how long the room on its spares lasts.
pub(super) fn recorded(context: &Context, session: &Session<'_>, free: Sectors) -> (Vec<DiskRow>, Foresight) {
    let known = Known::load(context, &session.metadata);
    let one = |(role, devno, place): (String, DevNo, Place)| {
        let (recorded, smart) = known.records.iter().rev().find_map(|record| match &record.what {
            What::Disk(disk) if disk.device == role => Some((record.time, &disk.smart)),
            _ => None,
        })?;
        let health = known.judge(&role, place, Some(smart), &session.metadata);
        Some(DiskRow {
            path: context.path_of(devno),
            role,
            score: health.score?,
            band: health.band,
            reason: health.reasons.first().map(|reason| reason.text.clone()),
            risk: health.risks.into_iter().find(|risk| risk.days == 30),
            recorded,
        })
    };
    let foresight = known.foresee(&session.metadata, free);
    (members(session).into_iter().filter_map(one).collect(), foresight)
}

pub(super) fn directory(context: &Context) -> PathBuf {
    context.state().join("history")
}

/// Asks the disks of a setup that were not asked since yesterday, and keeps what they say. A disk that sleeps is let sleep; one that
/// says nothing leaves no record.
pub(super) fn keep(context: &Context, setup: Uuid, name: &str) -> Result<()> {
    let session = context.reading_session(name)?;
    let known = Known::load(context, &session.metadata);
    for (role, devno, place) in members(&session) {
        let last = known.records.iter().rev().find_map(|record| match &record.what {
            What::Disk(disk) if disk.device == role => Some(record.time),
            _ => None,
        });
        if last.is_some_and(|last| now().abs_diff(last) < history::AT_LEAST_EVERY) {
            continue;
        }
        if let Ok(smart) = context.host.smart(devno, false, PATIENCE) {
            let score = known.judge(&role, place, Some(&smart), &session.metadata).score;
            let what = What::Disk(DiskRecord { device: role, score, smart });
            history::append(&directory(context), setup, &Record { time: now(), what })?;
        }
    }
    Ok(())
}
