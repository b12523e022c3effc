//! Makes ten years of daily records of many disks, through the same code that keeps them, and measures how long it takes to read them: for
//! benches/history.
//!
//! `history_speed FOLDER DISKS DAYS ROUNDS`: the disks in setups of up to 17 (a main and 16 spares); prints one line of JSON with the
//! seconds of each round, of reading by the program and of a plain parse of the same lines as JSON values, in turn.

use anyhow::{Context, Result, bail, ensure};
use dm_remap::history::{self, DiskRecord, Record, SetupRecord, What};
use dm_remap::smart::{Counter, Protocol, Smart};
use dm_remap::units::Sectors;
use std::fs;
use std::path::Path;
use std::time::Instant;
use uuid::Uuid;

const DAY: u64 = 86_400;
const START: u64 = 1_480_000_000;

/// Disks of a setup: a main and 16 spares.
const MOST: u64 = 17;

/// What a disk says on a day: most days nothing new but its hours, as disks do.
fn disk(number: u64, day: u64) -> DiskRecord {
    let pending = if day % 97 < number % 7 { day / 97 } else { 0 };
    let counters = [
        (Counter::Reallocated, day / 50),
        (Counter::SpinRetries, 0),
        (Counter::Uncorrected, day / 400),
        (Counter::CommandTimeouts, 0),
        (Counter::HighFlyWrites, day / 30),
        (Counter::ReallocationEvents, day / 60),
        (Counter::Pending, pending),
        (Counter::OfflineUncorrectable, pending),
        (Counter::CableErrors, 0),
        (Counter::LoggedErrors, day / 200),
    ];
    DiskRecord {
        device: if number == 0 { "main".into() } else { format!("spare{}", number.saturating_sub(1)) },
        score: Some(90),
        noticed: None,
        smart: Smart {
            protocol: Protocol::Ata,
            model: Some("ST4000DM000-1F2168".into()),
            serial: Some(format!("Z30{number:05}")),
            rotates: Some(true),
            passed: Some(true),
            power_on_hours: Some(day.saturating_mul(24)),
            temperature: Some(30),
            counters: counters.into_iter().collect(),
            ..Smart::default()
        },
    }
}

fn make(folder: &Path, disks: u64, days: u64) -> Result<Vec<Uuid>> {
    let setups: Vec<(Uuid, u64)> = (0..disks.div_ceil(MOST))
        .map(|setup| {
            (Uuid::from_u128(u128::from(setup) + 1), MOST.min(disks.saturating_sub(setup.saturating_mul(MOST))))
        })
        .collect();
    for (setup, count) in &setups {
        for day in 0..days {
            let time = START.saturating_add(day.saturating_mul(DAY));
            let of_setup = SetupRecord {
                state: "healthy".into(),
                remapped_sectors: Sectors(day / 10 * 8),
                ..SetupRecord::default()
            };
            let disks = (0..*count).map(|number| What::Disk(disk(number, day)));
            for what in std::iter::once(What::Setup(of_setup)).chain(disks) {
                history::append(folder, *setup, &Record { time, what })?;
            }
        }
    }
    Ok(setups.into_iter().map(|(setup, _)| setup).collect())
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, numbers @ ..] = arguments.as_slice() else { bail!("usage: history_speed FOLDER DISKS DAYS ROUNDS") };
    let numbers: Vec<u64> = numbers.iter().map(|n| n.parse().context("a number is wanted")).collect::<Result<_>>()?;
    let [disks, days, rounds] = numbers.as_slice() else { bail!("usage: history_speed FOLDER DISKS DAYS ROUNDS") };
    let folder = Path::new(folder);
    let setups = make(folder, *disks, *days)?;
    let bytes: u64 = setups
        .iter()
        .filter_map(|setup| fs::metadata(folder.join(format!("{setup}.jsonl"))).ok())
        .map(|m| m.len())
        .sum();
    let (mut read, mut plain, mut records) = (Vec::new(), Vec::new(), 0);
    for _ in 0..*rounds {
        let begun = Instant::now();
        records = 0;
        for setup in &setups {
            records += history::read(folder, *setup)?.len();
        }
        read.push(begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        let mut lines = 0;
        for setup in &setups {
            let text = fs::read(folder.join(format!("{setup}.jsonl")))?;
            for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                serde_json::from_slice::<serde_json::Value>(line)?;
                lines += 1;
            }
        }
        plain.push(begun.elapsed().as_secs_f64());
        ensure!(lines == records, "{lines} lines, {records} records");
    }
    println!("{}", serde_json::json!({ "records": records, "bytes": bytes, "read": read, "plain": plain }));
    Ok(())
}
