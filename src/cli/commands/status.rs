//! `status`: how a setup is doing. `gather` collects it once, for every command that tells of it. It reads, and never
//! writes.

use super::Context;
use super::health::recorded;
use super::known::Known;
use super::lifecycle::indexes;
use super::room::RoomReport;
use super::scan_report::summary;
use super::show::row;
use super::spare::state_word;
use crate::cli::report::{LossRow, count, loss_rows, sizes};
use crate::dm::TableSlot;
use crate::engine::session::{Session, find_active, live_devices};
use crate::engine::tables::Tables;
use crate::engine::{EngineError, held, now};
use crate::forecast::Foresight;
use crate::format::choose::Expected;
use crate::format::copy::Judge;
use crate::health::Band;
use crate::map::{Fate, Loss, SpareIndex};
use crate::messages::Trouble;
use crate::pool::Pool;
use crate::risk::Risk;
use crate::scan::pass::Pass;
use crate::segments::Layout;
use crate::store::{SpareReading, read_copies_by};
use crate::units::{DevNo, Sectors};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How a setup is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// All in order.
    Healthy,
    /// Data was lost, or a copy of the metadata is not current.
    Attention,
    /// A spare failed or is missing.
    Degraded,
    /// I/O waits.
    Suspended,
    /// The table is not the one that the metadata gives.
    Unsettled,
    /// No spare has metadata that can be used.
    Unreadable,
    /// A device did not answer in time.
    Silent,
}

impl State {
    /// What a trouble makes of a setup that is well but for it.
    pub(super) fn of(trouble: Trouble) -> State {
        match trouble {
            Trouble::Suspended => State::Suspended,
            Trouble::Unsettled => State::Unsettled,
            Trouble::Unreadable => State::Unreadable,
            Trouble::NoAnswer => State::Silent,
            Trouble::SpareMissing | Trouble::SpareFailed | Trouble::NewestAway => State::Degraded,
            Trouble::SpareDraining
            | Trouble::Held
            | Trouble::Lost
            | Trouble::RoomShort
            | Trouble::CopiesLagging
            | Trouble::DiskFailing => State::Attention,
        }
    }
}

#[derive(Serialize)]
pub(super) struct SpareReport {
    pub(super) index: SpareIndex,
    pub(super) device: Option<String>,
    pub(super) uuid: String,
    pub(super) state: &'static str,
    pub(super) copies_current: usize,
    pub(super) generation: Option<u64>,
    /// Size of the spare, as recorded.
    pub(super) sectors: Sectors,
    pub(super) used_sectors: Sectors,
    pub(super) free_sectors: Sectors,
    pub(super) bad_sectors: u64,
}

#[derive(Serialize)]
pub(super) struct StatusReport {
    pub(super) name: String,
    pub(super) uuid: String,
    pub(super) device: String,
    pub(super) state: State,
    pub(super) status: Vec<String>,
    pub(super) action: Vec<String>,
    /// Codes of what is the matter, one for each status: sections of dm-remap(7).
    pub(super) messages: Vec<&'static str>,
    pub(super) main: String,
    pub(super) sectors: Sectors,
    pub(super) unit: Sectors,
    pub(super) generation: u64,
    pub(super) layout: Layout,
    pub(super) extents: usize,
    pub(super) remapped_sectors: Sectors,
    pub(super) held_sectors: Sectors,
    pub(super) rewritten_since_sectors: u64,
    pub(super) losses: Vec<LossRow>,
    /// The last scan; absent when there was none, or nothing is known of it.
    pub(super) scan: Option<ScanRow>,
    /// Room on the spares; absent when the metadata cannot be read.
    pub(super) room: Option<RoomReport>,
    pub(super) spares: Vec<SpareReport>,
    /// Its disks, by what was last recorded of them.
    pub(super) disks: Vec<DiskRow>,
    /// How long the room on the spares lasts, by all that is recorded.
    pub(super) foresight: Option<Foresight>,
    /// What was recorded, for those who show it.
    #[serde(skip)]
    pub(super) known: Known,
}

/// How a disk is doing, by what was last recorded of it.
#[derive(Serialize)]
pub(super) struct DiskRow {
    pub(super) role: String,
    pub(super) path: String,
    pub(super) score: u8,
    pub(super) band: Band,
    /// The gravest reason.
    pub(super) reason: Option<String>,
    /// How likely it is to fail within 30 days; nothing for a kind of disk that the model knows nothing about.
    pub(super) risk: Option<Risk>,
    /// When it was asked, seconds since 1970.
    pub(super) recorded: u64,
}

/// The last scan of a setup.
#[derive(Serialize)]
pub(super) struct ScanRow {
    pub(super) summary: String,
    pub(super) started: u64,
    pub(super) finished: Option<u64>,
    pub(super) percent: u64,
    pub(super) bad_sectors: Sectors,
    pub(super) trouble: Option<String>,
}

fn last_scan(pass: &Pass) -> ScanRow {
    let bad = pass.areas.iter().map(|area| area.found_so_far().bad.sectors().0).fold(0, u64::saturating_add);
    ScanRow {
        summary: summary(pass),
        started: pass.started,
        finished: pass.finished,
        percent: pass.percent(),
        bad_sectors: Sectors(bad),
        trouble: pass.result.trouble.clone(),
    }
}

/// How the active setup `name` is doing; the files of lost sectors are looked for within `patience`.
///
/// # Errors
/// When there is no such active setup. Metadata that cannot be read is a report, not an error.
pub(super) fn gather(context: &Context, name: &str, patience: Duration) -> Result<StatusReport> {
    // Not being active is the caller's mistake; anything else is what status is for.
    find_active(context.dm()?, name)?;
    match context.reading_session_with_tables(name) {
        Ok((session, live)) => {
            let known = Known::load(context, &session.metadata);
            examine(context, &session, live, known, patience)
        }
        Err(error) => unreadable(context, name, &error),
    }
}

/// The same of a setup that was opened, whose live table was read just now, and of which is `known` what was recorded.
pub(super) fn examine(
    context: &Context,
    session: &Session<'_>,
    live: Tables,
    known: Known,
    patience: Duration,
) -> Result<StatusReport> {
    let metadata = &session.metadata;
    let map = &metadata.map;
    // What is not there has no room.
    let pool = Pool::new(metadata, |index| session.is_there(index));
    let mut seen = Judge::default();
    let spares = indexes(session).filter_map(|i| examine_spare(context, session, &pool, &mut seen, i)).collect();
    let rewritten = held::without_tombstone(session).values().flatten().map(|r| r.len().0).fold(0, u64::saturating_add);
    let foresight = known.foresee(metadata, pool.free());
    let losses: Vec<Loss> = map.losses().iter().collect();
    let owned = context.owners(&session.name, &losses, patience);
    let checked = session.check_read(&live);
    drop(live);
    let layout = match &checked {
        Ok(layout) => *layout,
        Err(_) => session.tables(TableSlot::Active)?.layout(),
    };
    let mut report = StatusReport {
        name: session.name.clone(),
        uuid: metadata.setup.to_string(),
        device: format!("/dev/mapper/{}", session.name),
        state: State::Healthy,
        status: Vec::new(),
        action: Vec::new(),
        messages: Vec::new(),
        main: context.path_of(session.main.devno),
        sectors: map.main_len(),
        unit: map.unit(),
        generation: metadata.generation,
        layout,
        extents: map.len(),
        remapped_sectors: map.remapped(),
        held_sectors: map.losses().sectors(Fate::is_held),
        rewritten_since_sectors: rewritten,
        losses: loss_rows(&losses, &owned),
        scan: known.pass.as_ref().map(last_scan),
        room: Some(RoomReport::new(metadata, &pool, &foresight, now())),
        spares,
        disks: recorded(context, session, &known),
        foresight: Some(foresight),
        known,
    };
    judge(session, checked.err(), &mut report)?;
    Ok(report)
}

/// What can be said of an active setup whose metadata cannot be read.
fn unreadable(context: &Context, name: &str, error: &anyhow::Error) -> Result<StatusReport> {
    let live = live_devices(context.dm()?, name)?;
    let row = row(context, &live);
    let trouble = if live.state.suspended { Trouble::Suspended } else { Trouble::Unreadable };
    let spare = |(index, device, _): &(SpareIndex, DevNo, DevNo)| SpareReport {
        index: *index,
        device: Some(context.path_of(*device)),
        uuid: String::new(),
        state: "unreadable",
        copies_current: 0,
        generation: None,
        sectors: Sectors::ZERO,
        used_sectors: Sectors::ZERO,
        free_sectors: Sectors::ZERO,
        bad_sectors: 0,
    };
    Ok(StatusReport {
        name: row.name,
        uuid: row.uuid,
        device: row.device,
        state: State::of(trouble),
        status: vec![format!("{error:#}")],
        action: vec![
            "the device works as its table says; put the spares right before it is taken down, and copy the data off"
                .into(),
        ],
        messages: vec![trouble.message().code],
        main: row.main.unwrap_or_default(),
        sectors: row.sectors,
        unit: Sectors::ZERO,
        generation: 0,
        layout: row.layout,
        extents: 0,
        remapped_sectors: Sectors::ZERO,
        held_sectors: Sectors::ZERO,
        rewritten_since_sectors: 0,
        losses: Vec::new(),
        scan: None,
        room: None,
        spares: live.spares.iter().map(spare).collect(),
        disks: Vec::new(),
        foresight: None,
        known: Known::default(),
    })
}

fn examine_spare(
    context: &Context,
    session: &Session<'_>,
    pool: &Pool<'_>,
    judge: &mut Judge,
    index: SpareIndex,
) -> Option<SpareReport> {
    let metadata = &session.metadata;
    let record = metadata.spare(index)?;
    let member = session.spare(index);
    let expected = Expected { setup: Some(metadata.setup), spare: Some(record.uuid) };
    let reading: Option<SpareReading> = member.map(|m| read_copies_by(judge, &*m.disk, expected));
    let chosen = reading.as_ref().and_then(|r| r.choose().ok());
    let generation = chosen.as_ref().map(|c| c.copy.metadata.generation);
    let state = state_word(session, index, generation);
    let used = metadata.map.extents_by_slot(index).map(|e| e.range.len().0).fold(0, u64::saturating_add);
    let bad = metadata.bad_blocks.get(&index).into_iter().flatten().map(|r| r.len().0).fold(0, u64::saturating_add);
    let current = chosen.filter(|_| generation == Some(metadata.generation)).map_or(0, |c| c.current.len());
    Some(SpareReport {
        index,
        device: member.map(|m| context.path_of(m.devno)),
        uuid: record.uuid.to_string(),
        state,
        copies_current: current,
        generation,
        sectors: record.identity.size,
        used_sectors: Sectors(used),
        free_sectors: pool.free_on(index),
        bad_sectors: bad,
    })
}

/// Fills in state, status and action.
fn judge(session: &Session<'_>, differs: Option<EngineError>, report: &mut StatusReport) -> Result<()> {
    let name = report.name.clone();
    let mut found = |trouble: Trouble, status: String, action: String| {
        if report.state == State::Healthy {
            report.state = State::of(trouble);
        }
        report.messages.push(trouble.message().code);
        report.status.push(status);
        report.action.push(action);
    };
    let suspended = session.dm.state(&name)?.is_some_and(|s| s.suspended);
    let newest = session.newest_away();
    // Which table it ought to have is not known while the newest map is away.
    if let Some(error) = differs.filter(|_| suspended || newest.is_none()) {
        let trouble = if suspended { Trouble::Suspended } else { Trouble::Unsettled };
        let what = if suspended {
            "I/O to the device waits: a command is at work, or was interrupted".into()
        } else {
            error.to_string()
        };
        found(trouble, what, format!("unless a command is at work, run 'dm-remap recover {name}'"));
    }
    if let Some(newest) = newest {
        let (newest, readable) = (newest.generation, session.metadata.generation);
        found(
            Trouble::NewestAway,
            format!(
                "generation {newest} was committed, and only generation {readable} can be read: a spare that has it is away"
            ),
            format!("attach it again; if it is gone for good, 'dm-remap recover {name}' goes on with what can be read"),
        );
    }
    let troubled: Vec<String> = report
        .spares
        .iter()
        .filter(|s| !["online", "draining"].contains(&s.state))
        .map(|s| format!("spare {} is {}", s.index, s.state))
        .collect();
    if !troubled.is_empty() {
        let away = report.spares.iter().any(|s| s.state == "missing");
        let first = if away {
            "attach what is missing, and say 'dm-remap spare readd'; until then its extents answer EIO. When it is gone for good,"
        } else {
            "look at its cable and its health; its extents are safe as long as it reads. 'dm-remap spare readd' takes it back,"
        };
        let action = format!("{first} 'dm-remap spare replace {name} OLD NEW' puts another in its place");
        found(if away { Trouble::SpareMissing } else { Trouble::SpareFailed }, troubled.join(", "), action);
    }
    for spare in report.spares.iter().filter(|s| s.state == "draining") {
        let left = if spare.used_sectors.0 > 0 {
            format!("{} still live on it", sizes(spare.used_sectors))
        } else {
            "nothing lives on it any more".into()
        };
        found(
            Trouble::SpareDraining,
            format!("spare {} is being emptied and gets no new extents: {left}", spare.index),
            format!("go on with what was begun, or take it back with 'dm-remap spare readd {name} {}'", spare.index),
        );
    }
    let held = report.held_sectors;
    if held.0 > 0 {
        let rewritten = match report.rewritten_since_sectors {
            0 => String::new(),
            n => format!(", {n} of which were written since"),
        };
        found(
            Trouble::Held,
            format!("{} could not be read and answer EIO until they are written{rewritten}", sizes(held)),
            "restore the files that were hit from a backup; writing the sectors makes them ordinary".into(),
        );
    }
    let others = session.metadata.map.losses().iter().filter(|l| !l.fate.is_held()).count();
    if others > 0 {
        let what = if others == 1 {
            "1 run of sectors has lost its data".to_string()
        } else {
            format!("{others} runs of sectors have lost their data")
        };
        found(Trouble::Lost, what, format!("check the files that were hit, then run 'dm-remap acknowledge {name}'"));
    }
    if let Some(room) = report.room.as_ref().filter(|room| room.is_short()) {
        found(Trouble::RoomShort, room.summary().to_string(), "get another spare before the room is used up".into());
    }
    let lagging =
        report.spares.iter().filter(|s| ["online", "draining"].contains(&s.state) && s.copies_current < 5).count();
    if lagging > 0 {
        let what = format!("{} with copies of the metadata that are not current", count(lagging, "spare"));
        found(
            Trouble::CopiesLagging,
            what,
            format!("see 'dm-remap metadata check {name}'; the next commit writes all five"),
        );
    }
    for disk in report.disks.iter().filter(|disk| disk.band == Band::Failing) {
        let reason = disk.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let action = match disk.role.strip_prefix("spare") {
            Some(index) => {
                format!("'dm-remap spare replace {name} {index} NEW' moves what lives on it to another, live")
            }
            None => format!("copy the data off it now, and replace it; 'dm-remap health {name}' has all the reasons"),
        };
        let what = format!("{} ({}) is failing, {} of 100{reason}", disk.role, disk.path, disk.score);
        found(Trouble::DiskFailing, what, action);
    }
    Ok(())
}
