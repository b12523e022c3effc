//! `discover` on image files, through the real program and without a kernel's help: any copy on any spare tells all.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

mod format_support;

use dm_remap::format::COPY_STARTS;
use dm_remap::format::copy::{Encoded, encode};
use dm_remap::format::metadata::Metadata;
use dm_remap::map::SpareIndex;
use dm_remap::units::Sectors;
use format_support::{MAIN_SIZE, Random, SPARE_SIZE, metadata, scatter, spare_uuid, stamped};
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs `dm-remap-discover`.
fn discover(args: &[&str]) -> (i32, Value, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dm-remap"));
    let Output { status, stdout, stderr } =
        command.arg0("dm-remap-discover").arg("--json").args(args).output().unwrap();
    let text = String::from_utf8(stdout).unwrap();
    let json = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    (status.code().unwrap(), json, String::from_utf8(stderr).unwrap())
}

/// A spare in a file, sparse.
fn image(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::File::create(&path).unwrap().set_len(SPARE_SIZE * 512).unwrap();
    path
}

fn put_copy(path: &Path, encoded: &Encoded, setup: u128, spare: u8, copy: usize) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    let bytes = stamped(encoded, spare_uuid(setup, spare), copy as u32);
    file.write_all_at(&bytes, COPY_STARTS[copy].0 * 512).unwrap();
}

fn put_all(path: &Path, encoded: &Encoded, setup: u128, spare: u8) {
    (0..5).for_each(|copy| put_copy(path, encoded, setup, spare, copy));
}

/// A setup of that many spares with extents on all of them.
fn setup(number: u128, spares: u8) -> Metadata {
    let mut metadata = metadata(number, spares);
    scatter(&mut metadata, 40 * u64::from(spares), 7);
    metadata
}

#[test]
fn one_copy_on_one_spare_describes_the_whole_setup() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random::new(4);
    for spares in [1_u8, 2, 4, 16] {
        let number = u128::from(spares);
        let metadata = setup(number, spares);
        let encoded = encode(&metadata).unwrap();
        for (spare, copy) in (0..spares).flat_map(|spare| (0..5).map(move |copy| (spare, copy))) {
            let path = image(folder.path(), &format!("one-{spares}-{spare}-{copy}"));
            put_all(&path, &encoded, number, spare);
            // Four are damaged: somewhere, each in its own way.
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            for other in (0..5).filter(|other| *other != copy) {
                let mut noise = vec![0; if other % 2 == 0 { 1 } else { 700 }];
                random.fill(&mut noise);
                noise[0] |= 1;
                let inside = random.below(encoded.len() as u64 - 700);
                let at = COPY_STARTS[other].0 * 512 + inside;
                let mut before = vec![0; noise.len()];
                std::fs::File::open(&path).unwrap().read_exact_at(&mut before, at).unwrap();
                noise.iter_mut().zip(&before).for_each(|(new, old)| *new ^= old);
                file.write_all_at(&noise, at).unwrap();
            }
            let (code, json, err) = discover(&["--device", path.to_str().unwrap()]);
            let found = &json["setups"][0];
            let context = || format!("{spares} spares, spare {spare}, copy {copy}: {json:#}\n{err}");
            assert_eq!(code, 3, "{}", context());
            assert_eq!(json["setups"].as_array().unwrap().len(), 1, "{}", context());
            assert_eq!(found["name"], metadata.config.name, "{}", context());
            assert_eq!(found["extents"], metadata.map.len(), "{}", context());
            assert_eq!(found["main"]["identity"]["serial"], *metadata.config.main.serial.as_ref().unwrap());
            let rows = found["spares"].as_array().unwrap();
            assert_eq!(rows.len(), usize::from(spares));
            for (index, row) in rows.iter().enumerate() {
                let record = &metadata.spares[index];
                assert_eq!(row["uuid"], record.uuid.to_string(), "{}", context());
                assert_eq!(row["identity"]["serial"], *record.identity.serial.as_ref().unwrap());
                let verdict = if index == usize::from(spare) { "current" } else { "missing" };
                assert_eq!(row["verdict"], verdict, "{}", context());
            }
            let damaged = rows[usize::from(spare)]["copies_not_current"].as_array().unwrap().len();
            assert_eq!(damaged, 4, "{}", context());
            std::fs::remove_file(path).unwrap();
        }
    }
}

#[test]
fn verdicts_on_images() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| image(folder.path(), name);
    let old = setup(3, 3);
    let old_encoded = encode(&old).unwrap();
    let mut newer = old.next(1_700_000_100, old_encoded.digest());
    for n in 1..4 {
        newer = newer.next(1_700_000_100 + n, encode(&newer).unwrap().digest());
    }
    let newest = encode(&newer).unwrap();
    // The same where spare 1 is known to have missed commits.
    let mut missed = newer.clone();
    missed.mark_failed(SpareIndex(1));
    missed.spares[1].holds = Some(1);
    let missed = encode(&missed).unwrap();
    let mut other = newer.clone();
    other.health.splices += 1;
    let other = encode(&other).unwrap();
    let names = ["a", "b", "c", "stale", "clone", "divergent", "blank", "a-later", "c-later"];
    let path: BTreeMap<&str, PathBuf> = names.iter().map(|name| (*name, at(name))).collect();
    put_all(&path["a"], &newest, 3, 0);
    put_all(&path["b"], &newest, 3, 1);
    put_all(&path["c"], &newest, 3, 2);
    put_all(&path["stale"], &old_encoded, 3, 1);
    put_all(&path["a-later"], &missed, 3, 0);
    put_all(&path["c-later"], &missed, 3, 2);
    put_all(&path["clone"], &newest, 3, 1);
    put_all(&path["divergent"], &other, 3, 1);
    let judge = |names: &[&str]| {
        let mut args = vec!["--device"];
        args.extend(names.iter().map(|name| path[name].to_str().unwrap()));
        let (code, json, err) = discover(&args);
        let kinds: Vec<String> = json["setups"][0]["problems"]
            .as_array()
            .map(|all| all.iter().map(|p| p["kind"].as_str().unwrap().to_string()).collect())
            .unwrap_or_default();
        (code, kinds, json, err)
    };
    // Image files have no names of their own, but they were named; main is nowhere.
    assert_eq!(judge(&["a", "b", "c"]).1, ["main-missing"]);
    assert_eq!(judge(&["a", "c"]).1, ["incomplete", "main-missing"]);
    assert_eq!(judge(&["a", "stale", "c"]).1, ["rolled-back", "main-missing"]);
    let (_, kinds, json, _) = judge(&["a-later", "stale", "c-later"]);
    assert_eq!(kinds, ["stale", "main-missing"]);
    assert_eq!(json["setups"][0]["spares"][1]["commits_behind"], 4);
    assert_eq!(judge(&["a", "b", "c", "clone"]).1, ["cloned-spare", "main-missing"]);
    assert_eq!(judge(&["a", "divergent", "c"]).1, ["divergent", "main-missing"]);
    let (code, kinds, json, err) = judge(&["blank"]);
    assert_eq!((code, kinds.len()), (1, 0), "{json}");
    assert!(err.contains("no valid copy"), "{err}");
    let (code, _, json, err) = judge(&["a", "b", "c", "blank"]);
    assert_eq!(code, 1, "{json}");
    assert!(json["setups"][0]["name"].is_string() && err.contains("blank"), "{err}");
}

#[test]
fn with_validate_every_spare_is_judged_in_depth() {
    let folder = tempfile::tempdir().unwrap();
    let (sound, damaged) = (image(folder.path(), "sound"), image(folder.path(), "damaged"));
    let encoded = encode(&setup(6, 2)).unwrap();
    put_all(&sound, &encoded, 6, 0);
    put_all(&damaged, &encoded, 6, 1);
    let file = std::fs::OpenOptions::new().write(true).open(&damaged).unwrap();
    file.write_all_at(&[0xff; 64], COPY_STARTS[3].0 * 512 + 900).unwrap();
    let args = ["--device", sound.to_str().unwrap(), damaged.to_str().unwrap()];
    let (_, json, _) = discover(&args);
    assert!(json["examined"].is_null());
    let (code, json, _) = discover(&[&args[..], &["--validate"]].concat());
    let results: Vec<&str> =
        json["examined"].as_array().unwrap().iter().map(|e| e["result"].as_str().unwrap()).collect();
    assert_eq!((code, results.len()), (3, 2), "{json:#}");
    assert_eq!(results, ["ok", "warning"], "{:#}", json["examined"]);
}

#[test]
fn nothing_is_opened_for_writing() {
    if Command::new("strace").arg("-V").output().is_err() {
        println!("skipped: no strace");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), "spare");
    put_all(&path, &encode(&setup(9, 1)).unwrap(), 9, 0);
    let before = std::fs::metadata(&path).unwrap();
    let trace = folder.path().join("trace");
    let program = env!("CARGO_BIN_EXE_dm-remap");
    let output = Command::new("strace")
        .args(["-f", "-e", "trace=open,openat,openat2,creat", "-o"])
        .args([trace.to_str().unwrap(), program, "discover", "--scan-all", "--device", path.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(output.status.code() != Some(101), "{output:?}");
    let trace = std::fs::read_to_string(&trace).unwrap();
    assert!(trace.contains("O_DIRECT"), "it has read devices: {trace}");
    for line in trace.lines().filter(|line| line.contains("O_WRONLY") || line.contains("O_RDWR")) {
        assert!(line.contains("\"/dev/null\""), "opened for writing: {line}");
    }
    let after = std::fs::metadata(&path).unwrap();
    assert_eq!((before.mtime(), before.mtime_nsec()), (after.mtime(), after.mtime_nsec()));
}

#[test]
fn a_main_in_an_image_is_found_by_size_and_never_proven() {
    let folder = tempfile::tempdir().unwrap();
    let spare = image(folder.path(), "spare");
    put_all(&spare, &encode(&setup(5, 1)).unwrap(), 5, 0);
    let main = folder.path().join("main");
    std::fs::File::create(&main).unwrap().set_len(Sectors(MAIN_SIZE).0 * 512).unwrap();
    let (_, json, _) = discover(&["--device", spare.to_str().unwrap(), main.to_str().unwrap()]);
    let found = &json["setups"][0]["main"];
    assert_eq!(found["verdict"], "unproven", "{json:#}");
    assert_eq!(found["candidates"][0]["device"], main.to_str().unwrap());
    assert!(found["candidates"][0]["confidence"].as_u64().unwrap() < 50);
    assert!(!found["candidates"][0]["proven"].as_bool().unwrap());
}
