//! What Nagios, Icinga and the like ask of a plugin: one line, performance data, and an exit code.
//!
//! Source: Monitoring Plugins Development Guidelines, <https://www.monitoring-plugins.org/doc/guidelines.html>.
//!
//! Invariants: the output is one line with at most one `|`, whatever a text holds; a setup that cannot be looked at is
//! critical, a check that could not be made is unknown: neither is ever OK.

use super::Exit;
use super::report::sizes;
use crate::messages::Trouble;
use crate::metrics::{Contents, Reading, Setup};
use crate::units::Sectors;
use std::fmt::Write as _;

/// How bad it is; the worst is the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    Ok,
    Warning,
    Unknown,
    Critical,
}

impl Verdict {
    /// The exit code that plugins have for it: 0, 1, 3 and 2. They are other than those of the program elsewhere.
    pub(super) fn exit(self) -> Exit {
        match self {
            Verdict::Ok => Exit::Done,
            Verdict::Warning => Exit::Failed,
            Verdict::Critical => Exit::Usage,
            Verdict::Unknown => Exit::Attention,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Verdict::Ok => "OK",
            Verdict::Warning => "WARNING",
            Verdict::Critical => "CRITICAL",
            Verdict::Unknown => "UNKNOWN",
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) verdict: Verdict,
    text: String,
    /// Label, value and unit.
    data: Vec<(String, u64, &'static str)>,
}

impl Answer {
    /// The check could not be made.
    pub(super) fn unknown(why: &str) -> Answer {
        Answer { verdict: Verdict::Unknown, text: why.into(), data: Vec::new() }
    }

    /// An answer in so many words; the data are labels, values and units.
    pub(super) fn new(verdict: Verdict, text: String, data: Vec<(String, u64, &'static str)>) -> Answer {
        Answer { verdict, text, data }
    }

    /// How setups are doing.
    pub(super) fn status(readings: &[Reading]) -> Answer {
        let judged: Vec<(Verdict, String)> = readings.iter().map(judge).collect();
        let Some(worst) = judged.iter().map(|(verdict, _)| *verdict).max() else {
            return Answer::unknown("no setup is up");
        };
        let bad: Vec<&str> = judged.iter().filter(|(v, _)| *v != Verdict::Ok).map(|(_, text)| text.as_str()).collect();
        let text = match (bad.as_slice(), judged.as_slice()) {
            ([], [(_, text)]) => text.clone(),
            ([], all) => format!("{} setups, all healthy", all.len()),
            (bad, _) => bad.join("; "),
        };
        Answer { verdict: worst, text, data: readings.iter().flat_map(data).collect() }
    }

    /// What a scan found and did.
    pub(super) fn scan(name: &str, scan: &Scanned<'_>) -> Answer {
        let (verdict, text) = scan.judge();
        let bytes = |sectors: Sectors| sectors.to_bytes().map_or(u64::MAX, |bytes| bytes.0);
        let data = vec![
            ("read".to_string(), bytes(scan.read), "B"),
            ("bad".into(), bytes(scan.bad), "B"),
            ("weak".into(), bytes(scan.weak), "B"),
            ("moved".into(), bytes(scan.moved), "B"),
            ("lost".into(), bytes(scan.lost), "B"),
        ];
        Answer { verdict, text: format!("{name}: {text}"), data }
    }

    /// The line.
    pub(super) fn line(&self) -> String {
        let clean = |text: &str| text.replace('|', "/").replace(['\n', '\r'], " ");
        let mut out = format!("DM_REMAP {} - {}", self.verdict.word(), clean(&self.text));
        for (number, (label, value, unit)) in self.data.iter().enumerate() {
            let label = clean(label).replace('\'', "''").replace('=', "_");
            let _ = write!(out, "{}'{label}'={value}{unit};;;0", if number == 0 { " | " } else { " " });
        }
        out
    }
}

fn judge(reading: &Reading) -> (Verdict, String) {
    let setup = match reading {
        Reading::Seen(setup) => setup,
        Reading::Silent(name) => {
            return (Verdict::Critical, format!("{name}: a device of it does not answer (DMR-04)"));
        }
        Reading::Failed(name) => return (Verdict::Critical, format!("{name} is not up, or cannot be looked at")),
    };
    let verdict = match setup.state.as_str() {
        "healthy" => Verdict::Ok,
        "attention" => Verdict::Warning,
        _ => Verdict::Critical,
    };
    let mut text = format!("{}: {}", setup.name, setup.state);
    for code in &setup.troubles {
        let message = Trouble::ALL.map(Trouble::message).into_iter().find(|message| message.code == code);
        let _ = write!(text, ", {} ({code})", message.map_or("trouble", |message| message.title));
    }
    if verdict == Verdict::Ok
        && let Some(contents) = setup.contents.as_ref().filter(|contents| contents.extents > 0)
    {
        let _ = write!(text, ", {} remapped", sizes(contents.remapped));
    }
    (verdict, text)
}

fn data(reading: &Reading) -> Vec<(String, u64, &'static str)> {
    let Reading::Seen(setup) = reading else { return Vec::new() };
    let Setup { name, contents: Some(contents), .. } = setup.as_ref() else { return Vec::new() };
    let Contents { remapped, held, lost, room, .. } = contents;
    let one = |word: &str, sectors: &Sectors| Some((format!("{name}_{word}"), sectors.to_bytes()?.0, "B"));
    [("remapped", remapped), ("held", held), ("lost", lost), ("room", room)]
        .into_iter()
        .filter_map(|(word, sectors)| one(word, sectors))
        .collect()
}

/// A scan that has ended, in figures.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scanned<'a> {
    /// Sectors that were read.
    pub(super) read: Sectors,
    /// Sectors that could not be.
    pub(super) bad: Sectors,
    /// Sectors that read slowly.
    pub(super) weak: Sectors,
    /// Sectors that were moved.
    pub(super) moved: Sectors,
    /// Sectors whose data is gone.
    pub(super) lost: Sectors,
    /// Whether something bad was left where it is, or not looked at.
    pub(super) left: bool,
    /// Why it ended early.
    pub(super) trouble: Option<&'a str>,
    /// Whether somebody stopped it.
    pub(super) interrupted: bool,
}

impl Scanned<'_> {
    fn judge(&self) -> (Verdict, String) {
        let none = Sectors::ZERO;
        let mut parts = Vec::new();
        for (sectors, word) in [(self.bad, "bad"), (self.weak, "weak"), (self.moved, "moved"), (self.lost, "lost")] {
            if sectors > none {
                parts.push(format!("{} {word}", sizes(sectors)));
            }
        }
        if self.left {
            parts.push("something bad was not moved, or not looked at".into());
        }
        parts.extend(self.trouble.map(|why| format!("ended by trouble: {why}")));
        if self.interrupted {
            parts.push("was stopped".into());
        }
        let verdict = if self.lost > none || self.left {
            Verdict::Critical
        } else if self.trouble.is_some() || self.interrupted {
            Verdict::Unknown
        } else if self.bad > none || self.weak > none || self.moved > none {
            Verdict::Warning
        } else {
            parts.push("nothing bad".into());
            Verdict::Ok
        };
        (verdict, parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(name: &str, state: &str, troubles: &[&str]) -> Reading {
        Reading::Seen(Box::new(Setup {
            name: name.into(),
            state: state.into(),
            troubles: troubles.iter().map(|code| (*code).to_string()).collect(),
            contents: Some(Contents { remapped: Sectors(8), extents: 1, room: Sectors(100), ..Contents::default() }),
            ..Setup::default()
        }))
    }

    #[test]
    fn the_worst_setup_decides_and_only_what_is_wrong_is_named() {
        let well = Answer::status(&[setup("data", "healthy", &[]), setup("root", "healthy", &[])]);
        assert_eq!((well.verdict, well.verdict.exit() as u8), (Verdict::Ok, 0));
        assert!(
            well.line().starts_with("DM_REMAP OK - 2 setups, all healthy | 'data_remapped'=4096B;;;0 'data_held'=0B")
        );
        let warned = Answer::status(&[setup("data", "healthy", &[]), setup("root", "attention", &["DMR-08"])]);
        assert_eq!(warned.verdict.exit() as u8, 1);
        assert!(warned.line().starts_with(
            "DM_REMAP WARNING - root: attention, Sectors answer EIO until they are written (DMR-08) | 'data_remapped'"
        ));
        for bad in [
            setup("x", "degraded", &["DMR-05"]),
            setup("x", "suspended", &["DMR-01"]),
            setup("x", "unreadable", &["DMR-03"]),
            Reading::Silent("x".into()),
            Reading::Failed("x".into()),
        ] {
            let answer = Answer::status(&[setup("root", "attention", &[]), bad.clone()]);
            assert_eq!((answer.verdict, answer.verdict.exit() as u8), (Verdict::Critical, 2), "{bad:?}");
        }
        assert_eq!(Answer::status(&[]).verdict.exit() as u8, 3);
    }

    #[test]
    fn the_answer_is_one_line_with_one_bar() {
        let answer = Answer::status(&[setup("a|b'c=d\ne", "healthy", &[])]);
        let line = answer.line();
        assert_eq!((line.matches('|').count(), line.lines().count()), (1, 1), "{line}");
        assert!(line.contains("'a/b''c_d e_room'=51200B;;;0"), "{line}");
        assert_eq!(Answer::unknown("a\nb | c").line(), "DM_REMAP UNKNOWN - a b / c");
    }

    #[test]
    fn a_scan_that_lost_or_left_something_is_critical() {
        let verdict = |scan: Scanned<'_>| scan.judge().0;
        let clean = Scanned { read: Sectors(8), ..Scanned::default() };
        let one = Sectors(1);
        assert_eq!(verdict(clean), Verdict::Ok);
        assert_eq!(verdict(Scanned { weak: one, ..clean }), Verdict::Warning);
        assert_eq!(verdict(Scanned { bad: one, moved: Sectors(8), ..clean }), Verdict::Warning);
        assert_eq!(verdict(Scanned { bad: one, moved: one, lost: one, ..clean }), Verdict::Critical);
        assert_eq!(verdict(Scanned { left: true, ..clean }), Verdict::Critical);
        assert_eq!(verdict(Scanned { trouble: Some("gone"), ..clean }), Verdict::Unknown);
        assert_eq!(verdict(Scanned { interrupted: true, ..clean }), Verdict::Unknown);
    }
}
