//! How `status` looks: a setup in full, or a line for each of many.

use super::Output;
use super::status::{DiskRow, State, StatusReport};
use crate::cli::output::Colour;
use crate::cli::report::{count, sizes};
use crate::segments::Layout;
use serde::{Deserialize, Serialize};

/// The colour of a state, and its words.
pub(super) fn words(state: State) -> (Colour, &'static str) {
    match state {
        State::Healthy => (Colour::Green, "healthy"),
        State::Attention => (Colour::Yellow, "needs attention"),
        State::Degraded => (Colour::Yellow, "degraded"),
        State::Suspended => (Colour::Red, "suspended"),
        State::Unsettled => (Colour::Red, "unsettled"),
        State::Unreadable => (Colour::Red, "metadata unreadable"),
        State::Silent => (Colour::Red, "does not answer"),
    }
}

/// A setup among many.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) state: State,
    moved: String,
    spares: String,
    free: String,
    scan: String,
}

impl Line {
    pub(super) fn of(report: &StatusReport) -> Line {
        let online = report.spares.iter().filter(|spare| spare.state == "online").count();
        let free = report.spares.iter().map(|spare| spare.free_sectors.0).fold(0, u64::saturating_add);
        let scan = report.scan.as_ref().map_or("never".to_string(), |scan| match (scan.finished, &scan.trouble) {
            (Some(time), _) => day(time),
            (None, Some(_)) => "trouble".into(),
            (None, None) => format!("at {} %", scan.percent),
        });
        Line {
            name: report.name.clone(),
            state: report.state,
            moved: if report.extents == 0 { "-".into() } else { short(report.remapped_sectors) },
            spares: format!("{online}/{}", report.spares.len()),
            free: short(crate::units::Sectors(free)),
            scan,
        }
    }

    /// One of which nothing is known.
    pub(super) fn silent(name: &str) -> Line {
        let unknown = || "?".to_string();
        let (moved, spares, free, scan) = (unknown(), unknown(), unknown(), unknown());
        Line { name: name.into(), state: State::Silent, moved, spares, free, scan }
    }
}

/// The size alone, without the sectors.
fn short(sectors: crate::units::Sectors) -> String {
    let text = sizes(sectors);
    text.split_once('(').map_or(text.clone(), |(_, rest)| rest.trim_end_matches(')').to_string())
}

fn day(seconds: u64) -> String {
    let text = humantime::format_rfc3339_seconds(super::assembly::time_of(seconds)).to_string();
    text.split_once('T').map_or(text.clone(), |(day, _)| day.to_string())
}

/// A line for each setup, and how many there are of each state.
pub(super) fn lines(out: &mut Output, lines: &[Line]) {
    let mut rows = vec![["NAME", "STATE", "MOVED", "SPARES", "FREE", "SCANNED"].map(String::from).to_vec()];
    for line in lines {
        let state = words(line.state).1.to_string();
        rows.push(vec![
            line.name.clone(),
            state,
            line.moved.clone(),
            line.spares.clone(),
            line.free.clone(),
            line.scan.clone(),
        ]);
    }
    out.table(0, &rows);
    let healthy = lines.iter().filter(|line| line.state == State::Healthy).count();
    let all = count(lines.len(), "setup");
    let word =
        if healthy == lines.len() { out.paint(Colour::Green, "all healthy") } else { format!("{healthy} healthy") };
    out.line(format!("{all}, {word}"));
}

/// Main and the spares, in aligned columns.
fn members(report: &StatusReport) -> Vec<Vec<String>> {
    let heading = ["MEMBER", "DEVICE", "STATE", "SIZE", "USED", "FREE", "BAD", "COPIES"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    let main = ["main", &report.main, "in use", &report.sectors.to_string(), "-", "-", "-", "-"];
    rows.push(main.map(String::from).to_vec());
    for spare in &report.spares {
        let behind = match spare.generation {
            Some(generation) if generation < report.generation => {
                format!(", {} behind", report.generation.saturating_sub(generation))
            }
            _ => String::new(),
        };
        rows.push(vec![
            format!("spare {}", spare.index),
            spare.device.clone().unwrap_or_else(|| "-".into()),
            spare.state.to_string(),
            spare.sectors.to_string(),
            spare.used_sectors.to_string(),
            spare.free_sectors.to_string(),
            spare.bad_sectors.to_string(),
            format!("{}/5{behind}", spare.copies_current),
        ]);
    }
    rows
}

pub(super) fn render(out: &mut Output, report: &StatusReport) {
    let (colour, word) = words(report.state);
    out.line(format!("  setup: {}", out.paint(Colour::Bold, &report.name)));
    out.line(format!("  state: {}", out.paint(colour, word)));
    for (status, action) in report.status.iter().zip(&report.action) {
        out.line(format!(" status: {status}"));
        out.line(format!(" action: {action}"));
    }
    if !report.messages.is_empty() {
        let mut codes = report.messages.clone();
        codes.dedup();
        out.line(format!("    see: dm-remap(7), {}", codes.join(", ")));
    }
    out.line(format!(" device: {}, {}", report.device, sizes(report.sectors)));
    let moved = if report.state == State::Unreadable {
        "unknown".to_string()
    } else if report.extents == 0 {
        "nothing is remapped".to_string()
    } else {
        format!("{} in {}", sizes(report.remapped_sectors), count(report.extents, "extent"))
    };
    out.line(format!("  moved: {moved}"));
    if report.layout != Layout::Flat {
        out.line(format!(" layout: {}", report.layout));
    }
    if let Some(room) = &report.room {
        let words = room.summary();
        out.line(format!("   room: {}", words.strip_prefix("room for ").unwrap_or(words)));
    }
    if let Some(scan) = &report.scan {
        out.line(format!("   scan: {}", scan.summary));
    }
    if !report.disks.is_empty() {
        let one = |disk: &DiskRow| format!("{} {} ({})", disk.role, disk.band.word(), disk.score);
        out.line(format!(" health: {}", report.disks.iter().map(one).collect::<Vec<_>>().join(", ")));
    }
    out.table(8, &members(report));
    const MOST: usize = 20;
    for loss in report.losses.iter().take(MOST) {
        for (number, line) in loss.lines().iter().enumerate() {
            out.line(format!("{}{line}", if number == 0 { "   lost: " } else { "         " }));
        }
    }
    if report.losses.len() > MOST {
        out.line(format!("   lost: … and {} more; see --json", report.losses.len() - MOST));
    }
}
