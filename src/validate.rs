//! The deep check of one spare: all that can be known of it from its own sectors.
//!
//! Invariants:
//! - nothing is written;
//! - each check says by itself what it found, so that one that fails does not hide the others;
//! - what the reader of a copy makes sure of is not taken for granted here: slots are compared anew, on another way.

mod contents;
mod map;

use crate::block::Disk;
use crate::engine::Observer;
use crate::engine::find::verdict_words;
use crate::format::choose::{ChooseError, Chosen, Expected};
use crate::format::copy::{ValidCopy, Verdict, encode};
use crate::format::metadata::{SetupState, SpareState};
use crate::map::SpareIndex;
use crate::store::{SpareReading, read_copies};
use crate::units::Sectors;
use serde::Serialize;
use uuid::Uuid;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// All is right.
    Ok,
    /// It works, and somebody ought to know.
    Warning,
    /// Something is wrong.
    Error,
}

/// The most findings that one check lists.
const MOST_FINDINGS: usize = 100;

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was checked, in a word that stays the same.
    pub name: &'static str,
    /// The worst that was found.
    pub level: Level,
    /// What was looked at, or what is right about it.
    pub summary: String,
    /// What is wrong, one by one; cut after the first hundred.
    pub findings: Vec<String>,
    #[serde(skip)]
    cut: usize,
}

impl Check {
    fn new(name: &'static str, summary: impl Into<String>) -> Check {
        Check { name, level: Level::Ok, summary: summary.into(), findings: Vec::new(), cut: 0 }
    }

    fn add(&mut self, level: Level, finding: String) {
        self.level = self.level.max(level);
        if self.findings.len() < MOST_FINDINGS {
            self.findings.push(finding);
        } else {
            self.cut = self.cut.saturating_add(1);
        }
    }

    fn warn(&mut self, finding: impl Into<String>) {
        self.add(Level::Warning, finding.into());
    }

    fn error(&mut self, finding: impl Into<String>) {
        self.add(Level::Error, finding.into());
    }

    fn done(mut self) -> Check {
        if self.cut > 0 {
            self.findings.push(format!("… and {} more", self.cut));
        }
        self
    }
}

/// Whose spare it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// The setup.
    pub setup: Uuid,
    /// Its name.
    pub name: String,
    /// This spare.
    pub spare: Uuid,
    /// Its index, if the setup knows it.
    pub index: Option<SpareIndex>,
    /// The generation that was checked.
    pub generation: u64,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Examination {
    /// The device.
    pub device: String,
    /// Whose spare it is, when that can be told.
    pub owner: Option<Owner>,
    /// All checks, in order.
    pub checks: Vec<Check>,
}

impl Examination {
    /// The worst of all checks.
    pub fn level(&self) -> Level {
        self.checks.iter().map(|check| check.level).max().unwrap_or(Level::Ok)
    }
}

/// What is checked together.
#[derive(Debug)]
struct Subject<'a> {
    disk: &'a dyn Disk,
    copy: &'a ValidCopy,
    /// The index that the setup has for this spare.
    index: Option<SpareIndex>,
}

/// Checks a spare. With `read_slots` every slot in use is read, and `observer` told how far it is.
pub fn examine(disk: &dyn Disk, read_slots: bool, observer: &dyn Observer) -> Examination {
    let reading = read_copies(disk, Expected::default());
    let choice = reading.choose();
    let mut checks = vec![copies(&reading, &choice)];
    let mut owner = None;
    if let Ok(chosen) = &choice {
        let metadata = &chosen.copy.metadata;
        let subject = Subject { disk, copy: &chosen.copy, index: metadata.spare_index(chosen.copy.spare) };
        owner = Some(Owner {
            setup: metadata.setup,
            name: metadata.config.name.clone(),
            spare: chosen.copy.spare,
            index: subject.index,
            generation: metadata.generation,
        });
        checks.extend([lineage(&reading, chosen), content(&subject), membership(&subject), size(&subject)]);
        checks.extend(map::checks(&subject));
        checks.push(contents::tombstones(&subject));
        if read_slots {
            checks.push(contents::slots(&subject, observer));
        }
    }
    Examination { device: disk.name().to_string(), owner, checks: checks.into_iter().map(Check::done).collect() }
}

/// The five copies, one by one.
fn copies(reading: &SpareReading, choice: &Result<Chosen, ChooseError>) -> Check {
    let current = choice.as_ref().map(|chosen| chosen.current.clone()).unwrap_or_default();
    let mut check = Check::new("copies", format!("{} of 5 copies are current", current.len()));
    if let Err(error) = choice {
        check.error(error.to_string());
    }
    for (index, verdict) in reading.verdicts.iter().enumerate().filter(|(index, _)| !current.contains(index)) {
        check.warn(format!("copy {index}: {}", verdict_words(verdict)));
    }
    check
}

/// The commits before this one, and whether older copies are among them.
fn lineage(reading: &SpareReading, chosen: &Chosen) -> Check {
    let metadata = &chosen.copy.metadata;
    let mut check = Check::new("lineage", format!("{} earlier generations are known", metadata.lineage.len()));
    let generations = metadata.lineage.iter().map(|ancestor| ancestor.generation);
    let following = generations.clone().skip(1).chain([metadata.generation]);
    for (one, next) in generations.zip(following).filter(|(one, next)| one >= next) {
        check.error(format!("generation {one} is recorded as before {next}"));
    }
    for (index, verdict) in reading.verdicts.iter().enumerate() {
        let Verdict::Valid(copy) = verdict else { continue };
        let generation = copy.metadata.generation;
        let known = metadata.lineage.iter().find(|ancestor| ancestor.generation == generation);
        if known.is_some_and(|ancestor| ancestor.digest != copy.digest) {
            check.error(format!("copy {index}: generation {generation} is not the one that the newest copy came from"));
        }
    }
    check
}

/// Whether the content, written anew, is the same.
fn content(subject: &Subject<'_>) -> Check {
    let metadata = &subject.copy.metadata;
    let bytes = subject.copy.len;
    let mut check = Check::new("content", format!("{bytes} bytes, all sections are read and written alike"));
    match encode(metadata) {
        Ok(encoded) if encoded.digest() == subject.copy.digest => {}
        Ok(_) => check.warn("another version has written it: written by this one, its bytes would differ"),
        Err(error) => check.error(error.to_string()),
    }
    for (kind, bytes) in &metadata.unknown_sections {
        check.warn(format!("a section of kind {kind} ({} bytes), which this version does not know", bytes.len()));
    }
    match metadata.config.state {
        SetupState::Ready => {}
        SetupState::Forming => check.warn("the setup was never finished: its creation was interrupted"),
        SetupState::Dissolved => check.warn("the setup is dissolved: its destruction was interrupted"),
    }
    check
}

/// What the setup says of this spare.
fn membership(subject: &Subject<'_>) -> Check {
    let (metadata, copy) = (&subject.copy.metadata, subject.copy);
    let Some((index, record)) = subject.index.and_then(|index| Some((index, metadata.spare(index)?))) else {
        let mut check = Check::new("membership", "");
        check.error(format!("the setup has no spare {}", copy.spare));
        return check;
    };
    let mut check = Check::new("membership", format!("spare {index} of {}", metadata.members().count()));
    if record.data_start != copy.data_start {
        let (here, there) = (copy.data_start, record.data_start);
        check.error(format!("the data area begins at sector {here}, and at {there} in the list of spares"));
    }
    if record.state != SpareState::Present {
        check.warn(format!("it is recorded as {}", format!("{:?}", record.state).to_ascii_lowercase()));
    }
    check
}

/// The recorded sizes and those of the device.
fn size(subject: &Subject<'_>) -> Check {
    let (found, block) = (subject.disk.size(), subject.disk.logical_block());
    let mut check = Check::new("size", format!("{found} sectors in blocks of {block}"));
    let metadata = &subject.copy.metadata;
    let Some(record) = subject.index.and_then(|index| metadata.spare(index)) else { return check };
    let recorded = record.identity.size;
    if found < recorded {
        check.error(format!("{recorded} sectors are recorded: the last {} are missing", Sectors(recorded.0 - found.0)));
    }
    if found > recorded {
        check.warn(format!("{recorded} sectors are recorded: the device has grown"));
    }
    let main = metadata.config.main.logical_block;
    if block > main {
        check.error(format!("its blocks are larger than main's, which are of {main} sectors"));
    }
    check
}
