//! The program that fits and judges the risk model, on drives that were made for it: it finds what was put into them, and says what
//! is wrong with files that are not right.
//!
//! What the model is worth on drives that really failed is in docs/EVALUATION.md; the data for it is not in this repository.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use flate2::Compression;
use flate2::write::GzEncoder;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn evaluate(folder: &Path, options: &[&str]) -> Output {
    // Cargo builds the examples with the tests, into the folder beside theirs.
    let here = std::env::current_exe().unwrap();
    let program = here.parent().unwrap().parent().unwrap().join("examples/evaluate");
    assert!(
        program.exists(),
        "{} is missing: 'cargo test' and 'cargo build --example evaluate' make it",
        program.display()
    );
    Command::new(program).arg(folder).args(options).output().unwrap()
}

fn write(path: PathBuf, text: &str) {
    let mut file = GzEncoder::new(File::create(path).unwrap(), Compression::fast());
    file.write_all(text.as_bytes()).unwrap();
    file.finish().unwrap();
}

const DRIVES: &str = "drive,model,size_tb,observed_from,observed_until,power_on_hours_at_start,failed\n";
const READINGS: &str =
    "drive,start,stop,smart_5,smart_10,smart_12,smart_187,smart_188,smart_189,smart_196,smart_197,smart_198\n";

/// 300 drives over 14 months. One in ten has pending sectors from some day on; of these most fail about 20 days later, and of the
/// others very few.
fn made_up(folder: &Path) {
    let (mut drives, mut readings) = (DRIVES.to_string(), READINGS.to_string());
    let day = |n: u64| {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs((15_800 + n) * 86_400);
        humantime::format_rfc3339(time).to_string()[..10].to_string()
    };
    for drive in 0..300u64 {
        let sick = drive % 10 == 0;
        let dies = (sick && drive % 40 != 0) || drive % 97 == 5;
        let end = if dies { 100 + drive * 7 % 310 } else { 430 };
        let model = ["ST4000DM000", "HGST HMS5C4040ALE640", "WDC WD30EFRX"][(drive % 3) as usize];
        writeln!(drives, "{drive},{model},4.0,{},{},{},{}", day(0), day(end), drive * 11, u8::from(dies)).unwrap();
        let turn = if sick && dies {
            end - 20
        } else if sick {
            200
        } else {
            end
        };
        writeln!(readings, "{drive},{}T00,{}T05,0,0,3,,,,,0,0", day(0), day(turn)).unwrap();
        if sick {
            writeln!(readings, "{drive},{}T05,{}T00,16,0,3,,,,,{},8", day(turn), day(end), 8 + drive % 5).unwrap();
        }
    }
    write(folder.join("drives.csv.gz"), &drives);
    write(folder.join("readings.csv.gz"), &readings);
}

/// The columns of the rows that begin with some words, in all tables.
fn rows(text: &str, begin: &str) -> Vec<Vec<String>> {
    let row =
        |line: &str| line.split('|').map(|cell| cell.trim().to_string()).filter(|cell| !cell.is_empty()).collect();
    text.lines().filter(|line| line.strip_prefix("| ").is_some_and(|rest| rest.starts_with(begin))).map(row).collect()
}

#[test]
fn it_finds_what_there_is_to_find_and_says_how_well() {
    let folder = tempfile::tempdir().unwrap();
    made_up(folder.path());
    let out = evaluate(folder.path(), &[]);
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(text.contains("It was fitted on other files than these."), "{text}");
    // 22 of the 26 that fail had signs 20 days before; 8 others have them, too.
    let rule = &rows(&text, "5, 187, 197 or 198 above 0")[0];
    assert!(rule[1].starts_with("84.6 % ("), "{rule:?}");
    assert!(rule[4].starts_with("73.3 % ("), "{rule:?}");
    assert!(rule[5].starts_with("19 (19, 19)"), "{rule:?}");
    // All of it, for the model that is built in and three ways of cross-validation, by time with two ways to fit.
    assert_eq!(rows(&text, "5, 187, 197 or 198 above 0").len(), 5, "{text}");
    let risks = rows(&text, "risk within 30 days");
    assert_eq!(risks.len(), 11, "{text}");
    // By drive, at as many false alarms as the rule: it cannot do better, and must not do much worse.
    let recall: f64 = risks[3][1].split(' ').next().unwrap().parse().unwrap();
    assert!((70.0..=90.0).contains(&recall), "{risks:?}");
    assert_eq!(text.matches("Brier score").count(), 12, "{text}");
    assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    // The same again.
    let again = evaluate(folder.path(), &["--no-cross-validation"]).stdout;
    assert!(text.starts_with(&*String::from_utf8(again).unwrap()));
}

#[test]
fn a_model_is_fitted_into_a_file_that_says_on_what() {
    let folder = tempfile::tempdir().unwrap();
    made_up(folder.path());
    let file = folder.path().join("model.json");
    let out = evaluate(folder.path(), &["--fit", file.to_str().unwrap()]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let model: dm_remap::risk::Model = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!((model.known.len(), model.elsewhere.len(), model.fitted_on.len()), (4, 4, 64));
    assert!(model.priors.contains_key("ST4000DM000"), "{:?}", model.priors);
}

#[test]
fn files_that_are_not_right_are_refused_with_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let says = |words: &str| {
        let out = evaluate(folder.path(), &["--no-cross-validation"]);
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && error.contains(words) && !error.contains("panicked"), "{words}: {error}");
    };
    says("drives.csv.gz");
    let drives = folder.path().join("drives.csv.gz");
    let readings = folder.path().join("readings.csv.gz");
    fs::write(&drives, "no gzip").unwrap();
    says("drives.csv.gz");
    write(drives.clone(), "drive,model\n1,X\n");
    says("no column 'observed_from'");
    write(drives.clone(), &format!("{DRIVES}1,X,4.0,2014-01-01,yesterday,5,0\n"));
    says("line 2");
    write(drives.clone(), &format!("{DRIVES}1,X,4.0,2014-01-01,2014-09-01,5,0\n1,X,4.0,2014-01-01,2014-09-01,5,1\n"));
    says("drive 1 is there twice");
    write(drives.clone(), &format!("{DRIVES}1,X,4.0,2014-01-01,2014-09-01,5,0\n"));
    write(readings.clone(), &format!("{READINGS}7,2014-01-01T00,2014-09-01T00,0,0,3,,,,,0,0\n"));
    says("drive 7 is not in drives.csv.gz");
    write(readings, &format!("{READINGS}1,2014-01-01T00,2014-09-01T00,0,0,3,,,,,0,0\n"));
    says("there must be drives that failed");
}
