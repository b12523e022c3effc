//! The configuration file and the real program: what `validate --config` and `config show` say of it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn run(name: &str, args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_dm-remap")).arg0(name).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().expect("ended by itself"), text(stdout), text(stderr))
}

fn written(folder: &Path, name: &str, text: &str) -> String {
    let file = folder.join(name);
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_string()
}

#[test]
fn the_sample_is_current_and_the_tool_finds_no_mistake_in_it() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/config.sample.yaml");
    let made = dm_remap::config::sample();
    if std::env::var_os("DM_REMAP_WRITE_SAMPLE").is_some() {
        std::fs::write(&file, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(kept == made, "docs/config.sample.yaml is out of date: DM_REMAP_WRITE_SAMPLE=1 cargo test --test config");
    let (code, out, err) = run("dm-remap-validate", &["--config", file.to_str().unwrap()]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("config.sample.yaml: no mistakes, 0 setups"), "{out}");
}

#[test]
fn mistakes_are_listed_with_their_places() {
    let folder = tempfile::tempdir().unwrap();
    let file = written(folder.path(), "config.yaml", "defaults:\n  scan:\n    retrys: 3\n    idle: 1\n");
    for (name, args) in
        [("dm-remap-validate", &["--config", &file][..]), ("dm-remap", &["validate", "--config", &file])]
    {
        let (code, out, err) = run(name, args);
        assert_eq!((code, err.as_str()), (1, ""));
        let expected = format!(
            "{file}:3:5: there is no key 'retrys' in 'scan': did you mean 'retries'?\n\
             {file}:4:11: scan.idle: '1' is not right here: write true or false\n{file}: 2 mistakes\n"
        );
        assert_eq!(out, expected);
    }
    let (code, out, _) = run("dm-remap-validate", &["--json", "--config", &file]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["valid"], &json["schema_version"]), (1, &false.into(), &1.into()));
    assert_eq!((&json["mistakes"][1]["line"], &json["mistakes"][1]["column"]), (&4.into(), &11.into()));
    let file = written(folder.path(), "config.json", "{\"setups\": {\"data\": {}}, \"defaults\": {\"pool\": 5}}");
    let (code, out, _) = run("dm-remap-validate", &["--config", &file]);
    assert_eq!(code, 1);
    assert!(out.starts_with(&format!("{file}:1:47: '5' is not right here: 'pool' holds lines of KEY: VALUE")), "{out}");
}

#[test]
fn what_is_to_be_judged_must_be_named_and_be_there() {
    for args in [&[][..], &["--device", "/dev/null", "--config", "/dev/null"], &["--no-such"]] {
        assert_eq!(run("dm-remap-validate", args).0, 2, "{args:?}");
    }
    let (code, out, err) = run("dm-remap-validate", &["--config", "/nonexistent/config.yaml"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("dm-remap-validate: the configuration /nonexistent/config.yaml: No such file"), "{err}");
}

/// The row of a key in what `config show` prints.
fn row(out: &str, key: &str) -> String {
    let line = out.lines().find(|line| line.starts_with(&format!("{key} "))).expect("the key is shown");
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn what_is_in_force_is_shown_with_its_source() {
    let folder = tempfile::tempdir().unwrap();
    let text = "defaults:\n  scan:\n    retries: 5\n    jitter: 10m\nsetups:\n  data:\n    scan:\n      retries: 7\n";
    let file = written(folder.path(), "config.yaml", text);
    let (code, out, err) = run("dm-remap", &["config", "show", "--config", &file]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with(&format!("configuration: {file}\n")), "{out}");
    assert_eq!(row(&out, "scan.retries"), format!("scan.retries 5 {file}:3 (defaults)"));
    assert_eq!(row(&out, "scan.jitter"), format!("scan.jitter 10m {file}:4 (defaults); for the whole run"));
    assert_eq!(row(&out, "remap.unreadable"), "remap.unreadable hold built-in");
    let (code, out, _) = run("dm-remap", &["config", "show", "data", "--quiet", "--config", &file]);
    assert_eq!(code, 0);
    assert_eq!(row(&out, "scan.retries"), format!("scan.retries 7 {file}:8 (the setup's own section)"));
    let (_, out, _) = run("dm-remap", &["--json", "config", "show", "--config", &file]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    let settings = json["settings"].as_array().unwrap();
    let jitter = settings.iter().find(|row| row["key"] == "scan.jitter").unwrap();
    assert_eq!(
        (&jitter["value"], &jitter["source"]["kind"], &jitter["source"]["line"]),
        (&"10m".into(), &"defaults".into(), &4.into())
    );
    // A broken one is not half believed.
    let file = written(folder.path(), "broken.yaml", "defaults:\n  scan:\n    retries: many\n");
    let (code, out, err) = run("dm-remap", &["config", "show", "--config", &file]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(
        err.contains(&format!("the configuration has 1 mistake, and nothing was done:\n  {file}:3:14: scan.retries")),
        "{err}"
    );
}
