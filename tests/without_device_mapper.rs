//! On a machine without device-mapper, or without root, the program says so in plain words and changes nothing.
//! Runs on the host; where the host has a device-mapper (a guest, too) there is nothing to see.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;

#[test]
fn every_command_that_needs_it_fails_with_exit_code_1_and_plain_words() {
    let has_it = std::fs::read_to_string("/proc/misc").is_ok_and(|misc| misc.contains("device-mapper"));
    if has_it {
        println!("skipped: this machine has device-mapper");
        return;
    }
    let root = nix::unistd::geteuid().is_root();
    let words = if root { "this kernel has no device-mapper" } else { "only root may use it" };
    for line in [
        "list",
        "status",
        "metrics",
        "status data",
        "map data",
        "remap data 8",
        "restore data 8",
        "activate data",
        "deactivate data",
        "destroy data",
        "recover data",
        "acknowledge data",
        "metadata check data",
        "create data --main /dev/null --spare /dev/zero",
    ] {
        let run = |args: &str| Command::new(env!("CARGO_BIN_EXE_dm-remap")).args(args.split(' ')).output().unwrap();
        let output = run(line);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{line}: {told}");
        assert!(told.contains(words) && output.stdout.is_empty(), "{line}: {told}");
        let json: serde_json::Value = serde_json::from_slice(&run(&format!("--json {line}")).stdout).unwrap();
        assert!(json["schema_version"] == 1 && json["exit_code"] == 1, "{json}");
        assert!(json["error"].as_str().unwrap().contains(words), "{json}");
    }
}
