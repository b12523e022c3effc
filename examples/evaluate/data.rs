//! The two files of drive histories, read into drives with readings.

use anyhow::{Context, Result, bail};
use dm_remap::risk::Reading;
use flate2::read::GzDecoder;
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

/// Seconds.
pub const DAY: u64 = 86_400;

/// Seconds.
pub const YEAR: f64 = 365.25 * DAY as f64;

/// A drive and what it said.
#[derive(Clone, Debug)]
pub struct Drive {
    /// Its number in the files.
    pub id: u64,
    pub model: String,
    /// Seconds since 1970, from the first day that it was seen.
    pub from: u64,
    /// The last day: when it failed, or was last seen.
    pub until: u64,
    pub failed: bool,
    /// Oldest first.
    pub readings: Vec<Reading>,
}

impl Drive {
    /// What it had said by a time; `None` before it said anything.
    pub fn known_at(&self, time: u64) -> Option<&[Reading]> {
        let count = self.readings.partition_point(|reading| reading.time <= time);
        self.readings.get(..count).filter(|readings| !readings.is_empty())
    }
}

/// Seconds since 1970 of a day, or of a day and an hour.
fn time(text: &str) -> Result<u64> {
    let (day, hour) = text.split_once('T').unwrap_or((text, "00"));
    let whole = format!("{day}T{hour}:00:00Z");
    let time = humantime::parse_rfc3339(&whole).with_context(|| format!("'{text}' is no time"))?;
    Ok(time.duration_since(std::time::UNIX_EPOCH)?.as_secs())
}

type Table = csv::Reader<GzDecoder<File>>;

fn open(path: &Path) -> Result<Table> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(csv::Reader::from_reader(GzDecoder::new(file)))
}

/// Where the columns are.
fn columns<const N: usize>(table: &mut Table, path: &Path, names: [&str; N]) -> Result<[usize; N]> {
    let header = table.headers().with_context(|| format!("cannot read {}", path.display()))?.clone();
    let mut out = [0; N];
    for (place, name) in out.iter_mut().zip(names) {
        let found = header.iter().position(|column| column == name);
        *place = found.with_context(|| format!("{} has no column '{name}'", path.display()))?;
    }
    Ok(out)
}

/// Reads `drives.csv.gz` and `readings.csv.gz` in a folder.
pub fn load(folder: &Path) -> Result<Vec<Drive>> {
    let path = folder.join("drives.csv.gz");
    let mut table = open(&path)?;
    let names = ["drive", "model", "observed_from", "observed_until", "power_on_hours_at_start", "failed"];
    let [id, model, from, until, hours, failed] = columns(&mut table, &path, names)?;
    let mut drives = Vec::new();
    let mut places = HashMap::new();
    for (line, row) in table.records().enumerate() {
        let row = row.with_context(|| format!("{}: line {}", path.display(), line + 2))?;
        let field = |column: usize| row.get(column).unwrap_or_default();
        let what = || format!("{}: line {}", path.display(), line + 2);
        let id: u64 = field(id).parse().with_context(what)?;
        let drive = Drive {
            id,
            model: field(model).to_string(),
            from: time(field(from)).with_context(what)?,
            until: time(field(until)).with_context(what)?,
            failed: field(failed) == "1",
            readings: Vec::new(),
        };
        let at_start: Option<u64> = field(hours).parse::<f64>().ok().filter(|h| *h >= 0.0).map(|h| h.round() as u64);
        if places.insert(id, (drives.len(), at_start)).is_some() {
            bail!("{}: drive {id} is there twice", path.display());
        }
        drives.push(drive);
    }
    read_readings(folder, &mut drives, &places)?;
    drives.retain(|drive| !drive.readings.is_empty() && drive.until > drive.from);
    Ok(drives)
}

fn read_readings(folder: &Path, drives: &mut [Drive], places: &HashMap<u64, (usize, Option<u64>)>) -> Result<()> {
    let path = folder.join("readings.csv.gz");
    let mut table = open(&path)?;
    let names = [
        "drive",
        "start",
        "smart_5",
        "smart_187",
        "smart_197",
        "smart_198",
        "smart_188",
        "smart_189",
        "smart_10",
        "smart_196",
    ];
    let [id, start, counters @ ..] = columns(&mut table, &path, names)?;
    for (line, row) in table.records().enumerate() {
        let what = || format!("{}: line {}", path.display(), line + 2);
        let row = row.with_context(what)?;
        let id: u64 = row.get(id).unwrap_or_default().parse().with_context(what)?;
        let time = time(row.get(start).unwrap_or_default()).with_context(what)?;
        let Some((place, at_start)) = places.get(&id) else {
            bail!("{}: drive {id} is not in drives.csv.gz", path.display())
        };
        let drive = &mut drives[*place];
        let hours = at_start.map(|hours| hours + time.saturating_sub(drive.from) / 3600);
        let value = |column: usize| row.get(column).and_then(|text| text.parse::<f64>().ok()).map(|value| value as u64);
        drive.readings.push(Reading { time, hours, counters: counters.map(value) });
    }
    drives.iter_mut().for_each(|drive| drive.readings.sort_by_key(|reading| reading.time));
    Ok(())
}
