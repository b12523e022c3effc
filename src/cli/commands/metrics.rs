//! `metrics`, and the file that every command which touched a setup leaves for node_exporter.
//!
//! Invariants: the file is whole or the one from before (written aside, renamed), and anybody may read it; one command at a
//! time looks and writes, so that an older look never replaces a newer one; a setup that is bad or hangs spoils nothing but
//! its own samples; nothing is written while a setup is suspended by us.

use super::status::{DiskRow, State, StatusReport, gather};
use super::status_many::each;
use super::{Context, Exit, Output};
use crate::cli::args::metrics::Metrics as Args;
use crate::cli::output::complain;
use crate::cli::replace::replace;
use crate::cli::selection::select;
use crate::config::METRICS_TEXTFILE;
use crate::engine::{EngineError, counting};
use crate::flock::FileLock;
use crate::messages::Trouble;
use crate::metrics::{Contents, Disk, Reading, Scan, Setup, Spare, render};
use crate::stats::SetupStats;
use crate::units::Sectors;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file, by the name that node_exporter looks for.
const FILE: &str = "dm_remap.prom";

/// How long a device may take to answer at the end of another command.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a worker says of one setup.
#[derive(Serialize, Deserialize)]
enum Said {
    Setup(Box<Setup>),
    Error(String),
}

pub(super) fn metrics(context: &Context, args: &Args, out: &mut Output) -> Result<Exit> {
    let timeout = args.patience.timeout;
    if let Some(directory) = &args.textfile {
        let _lock = lock(context.host.run()).map_err(|error| cannot_write(directory, error))?;
        let (page, troubles) = page(context, &args.names, timeout)?;
        write_whole(directory, page.as_bytes()).map_err(|error| cannot_write(directory, error))?;
        return Ok(tell(&troubles));
    }
    if out.is_json() {
        let (readings, troubles) = readings(context, &args.names, timeout)?;
        out.json(&serde_json::json!({ "setups": readings }));
        return Ok(tell(&troubles));
    }
    let (page, troubles) = page(context, &args.names, timeout)?;
    out.text(&page);
    Ok(tell(&troubles))
}

/// Writes the file that the configuration names, if this command touched a setup. A failure is noted.
pub(super) fn write_configured(context: &Context) {
    if !context.take_metrics_due() {
        return;
    }
    // A configuration that cannot be read was told of by what goes by it.
    let Ok(Some(directory)) = context.settings(None).map(|settings| settings.get(&METRICS_TEXTFILE)) else { return };
    let directory = PathBuf::from(directory);
    let written = lock(context.host.run()).map_err(anyhow::Error::from).and_then(|_lock| {
        let (page, _) = page(context, &[], PATIENCE)?;
        Ok(write_whole(&directory, page.as_bytes())?)
    });
    if let Err(error) = written {
        context.note(&format!("metrics were not written to {}: {error:#}", directory.display()));
    }
}

fn cannot_write(directory: &Path, error: io::Error) -> EngineError {
    EngineError::system(format!("cannot write {}", directory.join(FILE).display()), error)
}

fn tell(troubles: &[String]) -> Exit {
    troubles.iter().for_each(|text| complain(text));
    if troubles.is_empty() { Exit::Done } else { Exit::Attention }
}

/// The page, and what went wrong.
fn page(context: &Context, names: &[String], timeout: Duration) -> Result<(String, Vec<String>)> {
    let (readings, troubles) = readings(context, names, timeout)?;
    let codes = Trouble::ALL.map(|trouble| trouble.message().code);
    Ok((render(env!("CARGO_PKG_VERSION"), &readings, &codes), troubles))
}

pub(super) fn readings(context: &Context, names: &[String], timeout: Duration) -> Result<(Vec<Reading>, Vec<String>)> {
    // Before any process is made: a machine without device-mapper says so once.
    context.dm()?;
    let names = select(context, names)?;
    let said = each(context, &names, timeout, &|context, name| match gather(context, name, Duration::ZERO) {
        Ok(report) => Said::Setup(Box::new(facts(&report, counted(context, name)))),
        Err(error) => Said::Error(format!("{error:#}")),
    })?;
    let mut troubles = Vec::new();
    let mut reading = |(name, said): (String, Option<Said>)| match said {
        Some(Said::Setup(setup)) => Reading::Seen(setup),
        Some(Said::Error(text)) => {
            troubles.push(text);
            Reading::Failed(name)
        }
        None => {
            troubles.push(format!("{name}: a device of it has not answered in time"));
            Reading::Silent(name)
        }
    };
    let readings = names.into_iter().zip(said).map(&mut reading).collect();
    Ok((readings, troubles))
}

/// The word for a state that programs go by.
pub(super) fn word(state: State) -> String {
    serde_json::to_value(state).ok().and_then(|value| value.as_str().map(String::from)).unwrap_or_default()
}

/// What the report says, as the page takes it.
fn facts(report: &StatusReport, stats: SetupStats) -> Setup {
    let lost = report.losses.iter().map(|row| row.sectors().0).fold(0, u64::saturating_add);
    let contents = report.room.as_ref().map(|room| Contents {
        remapped: report.remapped_sectors,
        extents: u64::try_from(report.extents).unwrap_or(u64::MAX),
        held: report.held_sectors,
        lost: Sectors(lost),
        generation: report.generation,
        room: room.sectors,
        longest_run: room.longest_run_sectors,
        exhausted_at: room.exhausted_at,
    });
    let known = contents.is_some();
    Setup {
        name: report.name.clone(),
        uuid: report.uuid.clone(),
        device: report.device.clone(),
        main: report.main.clone(),
        state: word(report.state),
        troubles: report.messages.iter().map(|code| (*code).to_string()).collect(),
        size: report.sectors,
        contents,
        scan: report.scan.as_ref().map(|scan| Scan {
            started: scan.started,
            finished: scan.finished,
            percent: scan.percent,
            bad: scan.bad_sectors,
            trouble: scan.trouble.is_some(),
        }),
        spares: report
            .spares
            .iter()
            .map(|spare| Spare {
                index: spare.index.0,
                device: spare.device.clone(),
                uuid: spare.uuid.clone(),
                state: spare.state.into(),
                known,
                used: spare.used_sectors,
                free: spare.free_sectors,
                bad: Sectors(spare.bad_sectors),
                copies_current: u64::try_from(spare.copies_current).unwrap_or(u64::MAX),
                generation: spare.generation,
            })
            .collect(),
        stats,
        disks: report.disks.iter().map(disk_of).collect(),
    }
}

fn disk_of(disk: &DiskRow) -> Disk {
    Disk {
        role: disk.role.clone(),
        score: disk.score,
        recorded: disk.recorded,
        risk: disk.risk.map(|risk| risk.billionths()),
    }
}

/// What was counted of the requests to a setup; nothing where that cannot be read.
pub(super) fn counted(context: &Context, name: &str) -> SetupStats {
    context.dm().ok().and_then(|dm| counting::read(dm, name).ok()).unwrap_or_default()
}

/// Waits until no other command writes there. The lock is a file of ours, which nobody else may open: one that anybody could
/// take would let anybody keep commands waiting.
fn lock(run: &Path) -> io::Result<FileLock> {
    let folder = run.join("dm-remap");
    fs::create_dir_all(&folder)?;
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(folder.join("metrics.lock"))?;
    FileLock::take(file)
}

/// Puts the file in its place, all at once. The caller holds the lock.
fn write_whole(directory: &Path, bytes: &[u8]) -> io::Result<()> {
    // The collector takes what ends in .prom only.
    replace(&directory.join(FILE), &directory.join(format!(".{FILE}.new")), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::SETUP_STATES;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn every_state_is_one_that_the_page_knows() {
        let states = Trouble::ALL.map(State::of).into_iter().chain([State::Healthy]);
        states.for_each(|state| assert!(SETUP_STATES.contains(&word(state).as_str()), "{state:?}"));
    }

    #[test]
    fn the_file_is_replaced_as_a_whole_and_may_be_read_by_anybody() {
        let dir = tempfile::tempdir().unwrap();
        let run = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(format!(".{FILE}.new")), "left by a killed command").unwrap();
        for text in ["longer than the second\n", "second\n"] {
            let _lock = lock(run.path()).unwrap();
            write_whole(dir.path(), text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(dir.path().join(FILE)).unwrap(), text);
        }
        let mode = fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        // Nothing can be renamed onto a directory: what is there stays, and nothing is left beside it.
        fs::remove_file(dir.path().join(FILE)).unwrap();
        fs::create_dir_all(dir.path().join(FILE).join("x")).unwrap();
        write_whole(dir.path(), b"x").unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
