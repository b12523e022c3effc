//! One program, several tools: which one it is depends on the exact name that it is called by.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

/// Runs the real program as if `name` were a link to it.
fn called(name: &str, args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_dm-remap")).arg0(name).args(args).env_remove("COLUMNS").output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().expect("ended by itself"), text(stdout), text(stderr))
}

/// The tools that are one command of dm-remap each.
const TOOLS: [&str; 2] = ["validate", "discover"];

#[test]
fn only_the_exact_name_counts() {
    for name in ["", "remap", "dm-remapx", "dm-remap-", "dm-remap-Validate", "xdm-remap", "/usr/sbin/dm-remap/.."] {
        let (code, out, err) = called(name, &["--version"]);
        assert_eq!((code, out.as_str()), (2, ""), "{name}: {err}");
        assert!(err.contains("is not a tool of this program"), "{name}: {err}");
    }
    for name in ["dm-remap", "/usr/sbin/dm-remap", "./dm-remap"] {
        assert_eq!(called(name, &["--version"]).0, 0, "{name}");
    }
}

#[test]
fn every_tool_shows_its_own_name() {
    for tool in TOOLS {
        let name = format!("dm-remap-{tool}");
        let path = format!("/usr/sbin/{name}");
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(called(&path, &["--version"]), (0, format!("{name} {version}\n"), String::new()));
        let (code, help, err) = called(&path, &["--help"]);
        assert_eq!((code, err.as_str()), (0, ""));
        assert!(help.contains(&format!("Usage: {name} [OPTIONS]")), "{help}");
        assert!(help.contains("--json") && help.contains("--quiet") && help.contains("Exit codes:"), "{help}");
        let (code, out, err) = called(&path, &["--no-such-option"]);
        assert_eq!((code, out.as_str()), (2, ""));
        assert!(err.contains(&format!("Usage: {name} ")) && !err.contains("dm-remap "), "{err}");
        let (code, out, err) = called(&path, &["--device", "/nonexistent/spare", "--json"]);
        assert_eq!(code, 1, "{out}{err}");
        assert!(err.starts_with(&format!("{name}: /nonexistent/spare: ")), "{err}");
        assert!(out.contains("/nonexistent/spare"), "{out}");
        // As a command of dm-remap it is the same.
        let (same_code, same_out, same_err) = called("dm-remap", &[tool, "--device", "/nonexistent/spare", "--json"]);
        assert_eq!((same_code, same_out), (code, out));
        assert_eq!(same_err.replacen("dm-remap:", &format!("{name}:"), 1), err);
        let (_, command_help, _) = called("dm-remap", &[tool, "--help"]);
        let first = |help: &str| help.lines().next().unwrap_or_default().trim_end_matches('.').to_string();
        assert_eq!(first(&help), first(&command_help));
    }
}
