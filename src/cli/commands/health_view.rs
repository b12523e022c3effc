//! How `health` looks: to people, and to Nagios.

use super::Output;
use crate::cli::nagios::{Answer, Verdict};
use crate::cli::output::Colour;
use crate::forecast::Foresight;
use crate::health::{Band, Health};
use crate::risk::{Risk, percent};
use crate::smart::Smart;
use serde::{Deserialize, Serialize};

/// A disk, and how it is doing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Disk {
    /// What it is to the setup: `main`, or `spare` and its number; `device` for one by itself.
    pub(super) role: String,
    /// The device.
    pub(super) path: String,
    #[serde(flatten)]
    pub(super) health: Health,
    /// Why it said nothing.
    pub(super) silent: Option<String>,
    /// What it said.
    pub(super) smart: Option<Smart>,
}

/// The disks of a setup, or one by itself.
pub(super) struct Judged {
    pub(super) setup: Option<String>,
    pub(super) disks: Vec<Disk>,
    /// How long the room on the spares lasts.
    pub(super) room: Option<Foresight>,
}

fn colour(band: Band) -> Colour {
    match band {
        Band::Failing => Colour::Red,
        Band::Poor | Band::Fair => Colour::Yellow,
        Band::Good => Colour::Green,
        Band::Unknown => Colour::Bold,
    }
}

pub(super) fn text(out: &mut Output, judged: &Judged) {
    let disks = &judged.disks;
    if let Some(setup) = &judged.setup {
        out.line(format!("{}:", out.paint(Colour::Bold, setup)));
    }
    let width = disks.iter().map(|disk| disk.role.chars().count()).max().unwrap_or(0);
    for disk in disks {
        let score = disk.health.score.map_or("-".to_string(), |score| score.to_string());
        let band = out.paint(colour(disk.health.band), disk.health.band.word());
        out.line(format!("  {:<width$}  {:>3}  {band}  {}{}", disk.role, score, disk.path, about(disk.smart.as_ref())));
        for reason in &disk.health.reasons {
            let points = if reason.points == 0 { String::new() } else { format!("-{}", reason.points) };
            out.line(format!("  {:width$}  {points:>4}  {}", "", reason.text));
        }
        if let Some(text) = risk_line(&disk.health.risks) {
            out.line(format!("  {:width$}        {text}", ""));
        }
        if let Some(silent) = &disk.silent {
            out.line(format!("  {:width$}        it says nothing of itself: {silent}", ""));
        }
        if matches!(disk.health.band, Band::Failing | Band::Poor) {
            out.line(format!("  {:width$}        {}", "", disk.health.band.advice()));
        }
    }
    if let Some(room) = judged.room.as_ref().and_then(Foresight::words) {
        out.line(format!("  spares: {room}"));
    }
}

/// How likely the disk is to fail, with the share of all disks beside it.
fn risk_line(risks: &[Risk]) -> Option<String> {
    let one = |risk: &Risk| format!("{} days {} ({})", risk.days, risk.percent(), percent(risk.base_rate));
    let parts: Vec<String> = risks.iter().filter(|risk| risk.days <= 30).map(one).collect();
    (!parts.is_empty()).then(|| format!("risk of failure (of all disks): {}", parts.join(", ")))
}

fn about(smart: Option<&Smart>) -> String {
    let Some(smart) = smart else { return String::new() };
    let model = smart.model.clone();
    let hours = smart.power_on_hours.map(|hours| format!("{hours} h on"));
    let heat = smart.temperature.map(|degrees| format!("{degrees} °C"));
    let parts: Vec<String> = [model, hours, heat].into_iter().flatten().collect();
    if parts.is_empty() { String::new() } else { format!("  ({})", parts.join(", ")) }
}

/// What Nagios is told. `complete`: every setup could be looked at.
pub(super) fn answer(judged: &[Judged], complete: bool) -> Answer {
    let verdict = |band: Band| match band {
        Band::Good => Verdict::Ok,
        Band::Fair | Band::Poor => Verdict::Warning,
        Band::Failing => Verdict::Critical,
        Band::Unknown => Verdict::Unknown,
    };
    let all = || judged.iter().flat_map(|one| one.disks.iter().map(move |disk| (one.setup.as_deref(), disk)));
    let called =
        |name: Option<&str>, disk: &Disk| name.map_or(disk.path.clone(), |name| format!("{name} {}", disk.role));
    // A disk that cannot say anything is no reason to wake somebody, when another one can.
    let known = all().any(|(_, disk)| disk.health.band != Band::Unknown);
    let counts = |disk: &Disk| !known || disk.health.band != Band::Unknown;
    let worst = all().filter(|(_, disk)| counts(disk)).map(|(_, disk)| verdict(disk.health.band)).max();
    let worst = match worst {
        Some(worst) if complete => worst,
        Some(worst) => worst.max(Verdict::Unknown),
        None if complete => Verdict::Ok,
        None => Verdict::Unknown,
    };
    let bad = all().filter(|(_, disk)| counts(disk) && disk.health.band != Band::Good);
    let words: Vec<String> = bad
        .map(|(name, disk)| {
            let reason = disk.health.reasons.first().map(|reason| reason.text.clone()).or_else(|| disk.silent.clone());
            let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
            format!("{} is {}{reason}", called(name, disk), disk.health.band.word())
        })
        .collect();
    let text = match words.as_slice() {
        [] if judged.is_empty() => "no setup is up".to_string(),
        [] => "nothing speaks against any disk".to_string(),
        words => words.join("; "),
    };
    let data = all().filter_map(|(name, disk)| Some((called(name, disk), u64::from(disk.health.score?), ""))).collect();
    Answer::new(worst, text, data)
}
