//! `report`, and the history that it shows: what every command leaves of the setups that it touched.
//!
//! Invariants: looking changes nothing but the file that was asked for, which is whole or as it was; only a regular file is
//! replaced; a setup that is bad or hangs spoils nothing but its own part of the page.

use super::known::directory;
use super::metrics::{counted, word};
use super::status::{DiskRow, State, StatusReport, gather};
use super::status_many::each;
use super::status_view::words;
use super::{Context, Exit, Output};
use crate::cli::args::report::Report as Args;
use crate::cli::context::Usage;
use crate::cli::output::complain;
use crate::cli::replace::replace;
use crate::cli::selection::select;
use crate::engine::session::Session;
use crate::engine::{EngineError, now};
use crate::forecast::Foresight;
use crate::health::Band;
use crate::history::{self, Record, SetupRecord, What};
use crate::map::Fate;
use crate::messages::Trouble;
use crate::report::{
    DiskFacts, Entry, Facts, LossFacts, MOST_CELLS, MOST_LOSSES, MOST_RUNS, Mark, Point, Setup, SpareFacts, Surface,
    Tone, TroubleFacts, render, surface,
};
use crate::risk::percent;
use crate::scan::pass::Place;
use crate::units::{Range, RangeSet, Sectors};
use anyhow::Result;
use std::io;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Keeps what the report says, when it is news.
pub(super) fn keep(context: &Context, setup: Uuid, report: &StatusReport) -> io::Result<()> {
    // What cannot be read would look like nothing at all.
    let Some(room) = &report.room else { return Ok(()) };
    let record = SetupRecord {
        state: word(report.state),
        generation: report.generation,
        remapped_sectors: report.remapped_sectors,
        extents: u64::try_from(report.extents).unwrap_or(u64::MAX),
        held_sectors: report.held_sectors,
        lost_sectors: lost(report),
        room_sectors: room.sectors,
        scan_finished: report.scan.as_ref().and_then(|scan| scan.finished),
        scan_bad_sectors: report.scan.as_ref().map_or(Sectors::ZERO, |scan| scan.bad_sectors),
    };
    history::append(&directory(context), setup, &Record { time: now(), what: What::Setup(record) }).map(|_| ())
}

fn lost(report: &StatusReport) -> Sectors {
    Sectors(report.losses.iter().map(|row| row.sectors().0).fold(0, u64::saturating_add))
}

pub(super) fn report(context: &Context, args: &Args, out: &mut Output) -> Result<Exit> {
    context.dm()?;
    let names = select(context, &args.names)?;
    let target = Target::of(&args.html)?;
    let patience = args.files.patience();
    let timeout = args.patience.timeout.saturating_add(patience);
    let said = each(context, &names, timeout, &|context, name| match gather(context, name, patience) {
        Ok(report) => Entry::Seen(Box::new(facts(context, &report))),
        Err(error) => Entry::Failed(name.to_string(), format!("{error:#}")),
    })?;
    let entry = |(name, said): (&String, Option<Entry>)| said.unwrap_or_else(|| Entry::Silent(name.clone()));
    let setups: Vec<Entry> = names.iter().zip(said).map(entry).collect();
    let mut exit = Exit::Done;
    for entry in &setups {
        match entry {
            Entry::Seen(_) => continue,
            Entry::Silent(name) => complain(&format!("{name}: a device of it has not answered in time")),
            Entry::Failed(_, why) => complain(why),
        }
        exit = Exit::Attention;
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_string();
    let page = render(&Facts { host, time: now(), version: env!("CARGO_PKG_VERSION").into(), setups });
    target.write(&page, out)?;
    Ok(exit)
}

/// Where the page goes.
enum Target {
    Print,
    File(PathBuf),
}

impl Target {
    /// A link is followed; what is there and is no file stays what it is.
    fn of(path: &Path) -> Result<Target, Usage> {
        if path == Path::new("-") {
            return Ok(Target::Print);
        }
        let shown = path.display();
        match path.canonicalize() {
            Ok(real) if real.is_file() => Ok(Target::File(real)),
            Ok(_) => {
                Err(Usage(format!("{shown} is there and is no regular file; name another, or '-' to print the page")))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.file_name().is_some() => {
                Ok(Target::File(path.to_path_buf()))
            }
            Err(error) => Err(Usage(format!("cannot write {shown}: {error}"))),
        }
    }

    fn write(&self, page: &str, out: &mut Output) -> Result<(), EngineError> {
        let Target::File(path) = self else {
            out.text(page);
            return Ok(());
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let aside = path.with_file_name(format!(".{name}.{}.new", std::process::id()));
        replace(path, &aside, page.as_bytes())
            .map_err(|error| EngineError::system(format!("cannot write {}", path.display()), error))?;
        if out.is_json() {
            out.json(&serde_json::json!({ "file": path, "bytes": page.len() }));
        } else {
            out.line(path.display().to_string());
        }
        Ok(())
    }
}

/// What is known of a setup, as the page takes it. What cannot be read is left out: the page says what is the matter.
fn facts(context: &Context, report: &StatusReport) -> Setup {
    let session = context.reading_session(&report.name).ok();
    let metadata = session.as_ref().map(|session| &session.metadata);
    let identity = metadata.map(|metadata| &metadata.config.main);
    let known = identity.map(|main| [main.model.as_deref(), main.serial.as_deref()].into_iter().flatten().collect());
    Setup {
        name: report.name.clone(),
        uuid: report.uuid.clone(),
        device: report.device.clone(),
        main: report.main.clone(),
        main_identity: known.map(|known: Vec<&str>| known.join(", ")).unwrap_or_default(),
        state: words(report.state).1.to_string(),
        tone: tone(report.state),
        troubles: troubles(report),
        size: report.sectors,
        generation: report.generation,
        remapped: report.remapped_sectors,
        extents: u64::try_from(report.extents).unwrap_or(u64::MAX),
        held: report.held_sectors,
        lost: lost(report),
        surface: session.as_ref().map(|session| of_surface(report, session)).unwrap_or_default(),
        scan: report.scan.as_ref().map(|scan| scan.summary.clone()),
        room: report.room.as_ref().map(|room| room.summary().to_string()).unwrap_or_default(),
        spares: spares(report),
        disks: report.disks.iter().map(disk).collect(),
        foresight: report.foresight.as_ref().and_then(Foresight::words),
        history: report.known.records.iter().filter_map(point).collect(),
        stats: counted(context, &report.name),
        losses: report.losses.iter().take(MOST_LOSSES).map(loss).collect(),
        loss_count: u64::try_from(report.losses.len()).unwrap_or(u64::MAX),
        largest: session.as_ref().map(largest).unwrap_or_default(),
    }
}

fn disk(disk: &DiskRow) -> DiskFacts {
    DiskFacts {
        role: disk.role.clone(),
        path: disk.path.clone(),
        score: disk.score,
        band: disk.band.word().to_string(),
        tone: match disk.band {
            Band::Good | Band::Unknown => Tone::Good,
            Band::Fair => Tone::Warning,
            Band::Poor | Band::Failing => Tone::Bad,
        },
        reason: disk.reason.clone(),
        risk: disk.risk.map(|risk| format!("{} ({})", risk.percent(), percent(risk.base_rate))),
        recorded: disk.recorded,
    }
}

fn tone(state: State) -> Tone {
    match state {
        State::Healthy => Tone::Good,
        State::Attention | State::Degraded => Tone::Warning,
        State::Suspended | State::Unsettled | State::Unreadable | State::Silent => Tone::Bad,
    }
}

fn troubles(report: &StatusReport) -> Vec<TroubleFacts> {
    let one = |((code, status), action): ((&&'static str, &String), &String)| {
        let message = Trouble::ALL.into_iter().map(Trouble::message).find(|message| message.code == *code);
        let text = |part: &str| part.replace("NAME", &report.name);
        TroubleFacts {
            code: (*code).to_string(),
            title: message.map(|message| message.title.to_string()).unwrap_or_default(),
            status: status.clone(),
            action: action.clone(),
            meaning: message.map(|message| text(message.meaning)).unwrap_or_default(),
            remedy: message.map(|message| text(message.remedy)).unwrap_or_default(),
        }
    };
    report.messages.iter().zip(&report.status).zip(&report.action).map(one).collect()
}

fn spares(report: &StatusReport) -> Vec<SpareFacts> {
    let one = |spare: &super::status::SpareReport| SpareFacts {
        index: spare.index.0,
        device: spare.device.clone(),
        state: spare.state.to_string(),
        size: spare.sectors,
        used: spare.used_sectors,
        free: spare.free_sectors,
        bad: Sectors(spare.bad_sectors),
        copies_current: u64::try_from(spare.copies_current).unwrap_or(u64::MAX),
    };
    report.spares.iter().map(one).collect()
}

fn point(record: &Record) -> Option<Point> {
    match &record.what {
        What::Setup(setup) => {
            Some(Point { time: record.time, remapped: setup.remapped_sectors, lost: setup.lost_sectors })
        }
        _ => None,
    }
}

fn loss(row: &crate::cli::report::LossRow) -> LossFacts {
    let (range, fate) = row.loss_words();
    LossFacts { range, fate: fate.to_string(), owners: row.owner_lines() }
}

/// What is known of the surface of main: the map, and what the last scan has found and is still there.
fn of_surface(report: &StatusReport, session: &Session<'_>) -> Surface {
    let map = &session.metadata.map;
    let moved: RangeSet = map.extents().map(|extent| extent.range).collect();
    let mut lost = RangeSet::default();
    map.losses().iter().filter(|loss| loss.fate != Fate::Rewritten).for_each(|loss| lost.insert(loss.range));
    let (mut bad, mut weak) = (RangeSet::default(), RangeSet::default());
    for area in report.known.pass.iter().flat_map(|pass| &pass.areas).filter(|area| area.place == Place::Main) {
        let found = area.found_so_far();
        found.bad.iter().for_each(|range| bad.insert(range));
        found.weak.iter().for_each(|place| weak.insert(place.range));
    }
    let [bad, weak] = [bad, weak].map(|found| without(&found, &[&moved, &lost]));
    let weak = without(&weak, &[&bad]);
    let of = |kind: Mark, set: &RangeSet| set.iter().map(move |range| (range, kind)).collect::<Vec<(Range, Mark)>>();
    let marks = [(Mark::Moved, &moved), (Mark::Lost, &lost), (Mark::Bad, &bad), (Mark::Weak, &weak)];
    let marks = marks.into_iter().flat_map(|(kind, set)| of(kind, set));
    surface(map.main_len(), map.unit(), MOST_CELLS, marks)
}

fn without(set: &RangeSet, others: &[&RangeSet]) -> RangeSet {
    let mut left = set.clone();
    others.iter().flat_map(|other| other.iter()).for_each(|range| left.remove(range));
    left
}

fn largest(session: &Session<'_>) -> Vec<(Range, u8)> {
    let mut runs: Vec<(Range, u8)> =
        session.metadata.map.extents().map(|extent| (extent.range, extent.slot.spare.0)).collect();
    runs.sort_by_key(|(range, _)| (std::cmp::Reverse(range.len()), range.start()));
    runs.truncate(MOST_RUNS);
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Target::of(Path::new("-")), Ok(Target::Print)));
        for bad in ["/dev/null", "/", "/nowhere/page.html/..", ".."] {
            assert!(Target::of(Path::new(bad)).is_err(), "{bad}");
        }
        let (file, link) = (dir.path().join("page.html"), dir.path().join("link"));
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let mut out = Output::new(false);
        for text in ["first", "second"] {
            Target::of(&file).unwrap().write(text, &mut out).unwrap();
            assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        }
        Target::of(&link).unwrap().write("by the link", &mut out).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "by the link");
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left beside it");
    }

    #[test]
    fn every_state_has_a_tone_and_only_healthy_is_good() {
        for state in Trouble::ALL.map(State::of) {
            assert_ne!(tone(state), Tone::Good, "{state:?}");
        }
        assert_eq!(tone(State::Healthy), Tone::Good);
    }
}
