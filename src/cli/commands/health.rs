//! `health`: how the disks of a setup are doing, or a device.
//!
//! Invariants: looking writes nothing: the history is kept by `scan --cron` (see [`keep`]); a disk that hangs or sleeps spoils nothing but
//! its own line.

use super::health_view::{Disk, Judged, answer, text};
use super::known::{Known, MemberDisk, Notices, directory, members};
use super::status::DiskRow;
use super::status_many::each;
use super::{Context, Exit, Output, health_history};
use crate::cli::args::health::Health as Args;
use crate::cli::output::complain;
use crate::cli::selection::select;
use crate::cli::worse;
use crate::engine::now;
use crate::engine::session::{Session, live_devices};
use crate::forecast::Foresight;
use crate::health::{Band, Evidence, Noticed, judge};
use crate::history::{self, DiskRecord, Record, What};
use crate::pool::Pool;
use crate::smart::Smart;
use crate::units::DevNo;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::time::Duration;

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

fn of_setup(context: &Context, name: &str, args: &Args) -> Result<(Vec<Disk>, Foresight)> {
    live_devices(context.dm()?, name)?;
    let session = context.reading_session(name)?;
    let known = Known::load(context, &session.metadata);
    let notices = Notices::read(context);
    let one = |member: MemberDisk| {
        let (smart, silent) = ask(context, args, member.devno);
        let noticed = notices.of_member(name, &member);
        let health = known.judge(&member, smart.as_ref(), noticed, &session.metadata);
        Disk { path: context.path_of(member.devno), role: member.role, health, silent, smart }
    };
    let free = Pool::new(&session.metadata, |index| session.is_there(index)).free();
    let room = known.foresee(&session.metadata, free);
    Ok((members(&session).into_iter().map(one).collect(), room))
}

/// What a disk says of itself, or why it says nothing.
fn ask(context: &Context, args: &Args, devno: DevNo) -> (Option<Smart>, Option<String>) {
    match context.host.smart(devno, args.wake, args.patience.timeout) {
        Ok(smart) => (Some(smart), None),
        Err(error) => (None, Some(error.to_string())),
    }
}

fn of_device(context: &Context, args: &Args, devno: DevNo, path: String) -> Disk {
    let (smart, silent) = ask(context, args, devno);
    let noticed = Notices::read(context).of_device(devno);
    let health = judge(&Evidence { now: now(), smart: smart.as_ref(), noticed, ..Evidence::default() });
    Disk { role: "device".into(), path, health, silent, smart }
}

/// How the disks of a setup are doing, by what was last recorded of them: nobody is asked. Those of which nothing is on record are
/// left out.
pub(super) fn recorded(context: &Context, session: &Session<'_>, known: &Known) -> Vec<DiskRow> {
    let one = |member: MemberDisk| {
        let (recorded, health) = known.recorded(&member, &session.metadata)?;
        Some(DiskRow {
            path: context.path_of(member.devno),
            role: member.role,
            score: health.score?,
            band: health.band,
            reason: health.reasons.first().map(|reason| reason.text.clone()),
            risk: health.risks.into_iter().find(|risk| risk.days == 30),
            recorded,
        })
    };
    members(session).into_iter().filter_map(one).collect()
}

/// Asks the disks of a setup that were not asked since yesterday, keeps what they say, and adds it to what is known. A disk that sleeps is
/// let sleep; one that says nothing leaves no record.
pub(super) fn keep(context: &Context, session: &Session<'_>, known: &mut Known) -> Result<()> {
    let due = |member: &MemberDisk| {
        let last = known.last_of(&member.role).map(|(time, _)| time);
        last.is_none_or(|last| now().abs_diff(last) >= history::AT_LEAST_EVERY)
    };
    let due: Vec<MemberDisk> = members(session).into_iter().filter(due).collect();
    if due.is_empty() {
        return Ok(());
    }
    let notices = Notices::read(context);
    for member in due {
        if let Ok(smart) = context.host.smart(member.devno, false, PATIENCE) {
            let noticed = notices.of_member(&session.name, &member);
            let score = known.judge(&member, Some(&smart), noticed, &session.metadata).score;
            let noticed = Some(noticed).filter(|noticed| *noticed != Noticed::default());
            let what = What::Disk(DiskRecord { device: member.role, score, noticed, smart });
            let record = Record { time: now(), what };
            if history::append(&directory(context), session.setup(), &record)? {
                known.records.push(record);
            }
        }
    }
    Ok(())
}
