//! The pages in man/ and the scripts in completions/: as the generator makes them, clean for the tools that read them, and
//! working in the shells that they are for.
#![allow(missing_docs, unreachable_pub, dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing, clippy::format_push_string)]

#[path = "../examples/manual/files.rs"]
mod files;
#[path = "../examples/manual/markdown.rs"]
mod markdown;
#[path = "../examples/manual/pages.rs"]
mod pages;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a program that scripts/install-deps installs; its output and errors.
#[track_caller]
fn run(program: &str, args: &[&str]) -> (bool, String) {
    let output = Command::new(program)
        .args(args)
        .env("LC_ALL", "C.UTF-8")
        .env("MANWIDTH", "80")
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}. 'scripts/install-deps --manual' installs it"));
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), text)
}

fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> = std::fs::read_dir(root().join("man")).unwrap().map(|e| e.unwrap().path()).collect();
    pages.sort();
    assert!(pages.len() > 20, "{pages:?}");
    pages
}

#[test]
fn what_is_checked_in_is_what_the_generator_makes() {
    let wanted = files::all(root()).unwrap();
    let again = "'cargo run --example manual' writes it anew";
    for (name, content) in &wanted {
        let found = std::fs::read(root().join(name)).unwrap_or_default();
        assert!(found == *content, "{name} is out of date: {again}");
    }
    for folder in files::FOLDERS {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let name = format!("{folder}/{}", entry.unwrap().file_name().to_str().unwrap());
            assert!(wanted.contains_key(&name), "{name} belongs to no command: {again}");
        }
    }
}

#[test]
fn every_command_has_a_page_that_names_all_of_its_options() {
    let mut seen = 0;
    let (_, mut program) = dm_remap::cli::complete::tools().remove(0);
    program.build();
    for command in program.get_subcommands().filter(|c| !c.is_hide_set()) {
        let page = std::fs::read_to_string(root().join(format!("man/dm-remap-{}.8", command.get_name()))).unwrap();
        let below: Vec<_> = command.get_subcommands().filter(|c| !c.is_hide_set()).collect();
        let all = if below.is_empty() { vec![command] } else { below };
        for arg in all.iter().flat_map(|command| command.get_arguments()).filter(|arg| !arg.is_hide_set()) {
            let Some(long) =
                arg.get_long().filter(|long| !["json", "quiet", "config", "help", "version"].contains(long))
            else {
                continue;
            };
            let mark = format!("\\-\\-{}", long.replace('-', "\\-"));
            assert!(page.contains(&mark), "dm-remap-{}(8) does not name --{long}", command.get_name());
            seen += 1;
        }
    }
    assert!(seen > 80, "only {seen} options were looked for");
}

#[test]
fn every_key_of_the_configuration_is_in_its_page() {
    let page = std::fs::read_to_string(root().join("man/dm-remap.conf.5")).unwrap();
    for spec in dm_remap::config::KEYS {
        let mark = format!("\\fB{}.{}\\fR", spec.group, spec.name);
        assert!(page.contains(&mark), "{mark}");
    }
}

#[test]
fn man_and_mandoc_have_nothing_to_complain_of() {
    for page in pages() {
        let page = page.to_str().unwrap();
        let (ok, warnings) = run("man", &["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", page]);
        let warnings: Vec<&str> = warnings.lines().filter(|line| line.contains("warning")).collect();
        assert!(ok && warnings.is_empty(), "{page}: {warnings:?}");
        let (ok, said) = run("mandoc", &["-T", "lint", "-W", "warning", page]);
        assert!(ok && said.is_empty(), "{page}: {said}");
    }
}

#[test]
fn the_linters_would_complain() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("bad.8");
    std::fs::write(&page, ".TH BAD 8 2026-11-27\n.SH NAME\nbad\n.XX unknown\n").unwrap();
    let page = page.to_str().unwrap();
    assert!(!run("mandoc", &["-T", "lint", "-W", "warning", page]).0);
    assert!(run("man", &["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", page]).1.contains("warning"));
}

/// A machine with a setup 'archive', another device-mapper device, and two disks, of which one is empty.
fn machine(folder: &Path) {
    let put = |path: &str, text: &str| {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    for tree in ["sys/block", "sys/class/block"] {
        put(&format!("{tree}/dm-0/dm/name"), "archive\n");
        put(&format!("{tree}/dm-0/dm/uuid"), "DMREMAP-7a5dd6a6-1c3f-4d04-9a2c-0a1f3bb9a001\n");
        put(&format!("{tree}/dm-1/dm/name"), "attic-root\n");
        put(&format!("{tree}/dm-1/dm/uuid"), "LVM-abc\n");
        for (name, size) in [("dm-0", 9), ("dm-1", 9), ("sdq", 2048), ("sdq1", 1024), ("loop7", 0)] {
            put(&format!("{tree}/{name}/size"), &format!("{size}\n"));
        }
    }
}

/// What a shell offers after each of these lines, the candidates of a line joined by spaces.
struct Shell {
    program: &'static str,
    /// Loads the script $1 and prints what is offered for the line $2.
    driver: &'static str,
    script: &'static str,
}

const SHELLS: [Shell; 3] = [
    Shell {
        program: "bash",
        driver: r#"
            source "$1"
            read -ra COMP_WORDS <<<"$2"
            [[ $2 == *' ' ]] && COMP_WORDS+=('')
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE=$2 COMP_POINT=${#2} COMP_TYPE=9
            function=$(complete -p "${COMP_WORDS[0]}" | sed 's/.*-F \([^ ]*\).*/\1/')
            "$function" "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}" 2>/dev/null
            echo "${COMPREPLY[@]}""#,
        script: "TOOL.bash",
    },
    Shell {
        program: "zsh",
        driver: r#"
            autoload -Uz compinit; compinit -u -d "$TMPDIR/zcompdump"
            offered=()
            _describe() { shift 2; offered+=("${(@)${(P)1}%%:*}") }
            source "$1"
            words=("${(@s: :)2}") CURRENT=${#words}
            "${_comps[$words[1]]}"
            print -r -- "${offered[@]}""#,
        script: "_TOOL",
    },
    Shell {
        program: "fish",
        driver: r#"
            source $argv[1]
            complete --do-complete $argv[2] | string replace -r '\t.*' '' | string join ' '; true"#,
        script: "TOOL.fish",
    },
];

impl Shell {
    /// The words that are offered at the end of the line.
    fn offers(&self, machine: &Path, line: &str) -> Vec<String> {
        let tool = line.split(' ').next().unwrap();
        let script = root().join("completions").join(self.script.replace("TOOL", tool));
        let mut command = Command::new(self.program);
        match self.program {
            "zsh" => command.args(["-f", "-c", self.driver, "zsh"]),
            "fish" => command.args(["--no-config", "-c", self.driver]),
            _ => command.args(["--norc", "-c", self.driver, "bash"]),
        };
        let path = format!("{}:{}", machine.join("bin").display(), std::env::var("PATH").unwrap());
        let output = command
            .arg(script)
            .arg(line)
            .env("PATH", path)
            .env("DM_REMAP_COMPLETE_ROOT", machine)
            .env("HOME", machine)
            .env("TMPDIR", machine)
            .env("TERM", "dumb")
            .current_dir(machine)
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|e| panic!("{}: {e}. 'scripts/install-deps --manual' installs it", self.program));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && err.is_empty(), "{}, {line}: {said}\n{err}", self.program);
        said.split_whitespace().map(str::to_string).collect()
    }
}

/// A folder with the fake machine, and the programs by the names that people call.
fn fake() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    machine(folder.path());
    std::fs::create_dir(folder.path().join("bin")).unwrap();
    for (tool, _) in dm_remap::cli::complete::tools() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_dm-remap"), folder.path().join("bin").join(tool)).unwrap();
    }
    folder
}

#[test]
fn each_shell_completes_a_command_an_option_a_setup_and_a_device() {
    let folder = fake();
    for shell in &SHELLS {
        let offers = |line: &str| shell.offers(folder.path(), line);
        let program = shell.program;
        assert_eq!(offers("dm-remap sca"), ["scan"], "{program}");
        assert_eq!(offers("dm-remap spare eva"), ["evacuate"], "{program}");
        assert_eq!(offers("dm-remap scan --time-b"), ["--time-budget"], "{program}");
        assert_eq!(offers("dm-remap map archive --format bad"), ["badblocks"], "{program}");
        assert_eq!(offers("dm-remap status a"), ["archive"], "{program}: only our own devices are setups");
        assert_eq!(offers("dm-remap scan --device /dev/sdq1"), ["/dev/sdq1"], "{program}");
        assert_eq!(offers("dm-remap create new --main /dev/sd"), ["/dev/sdq", "/dev/sdq1"], "{program}");
        assert_eq!(offers("dm-remap spare add archive /dev/mapper/at"), ["/dev/mapper/attic-root"], "{program}");
        assert_eq!(offers("dm-remap-reassemble --safe"), ["--safe-mode"], "{program}");
        assert_eq!(offers("dm-remap-discover --device /dev/loop"), [""; 0], "{program}: it is not attached");
        assert_eq!(offers("dm-remap create a"), [""; 0], "{program}: a new name is nobody's");
    }
}

#[test]
fn an_ordinary_run_is_not_taken_for_a_question_of_the_shell() {
    // COMPLETE belongs to others.
    let run = |variable: &str, value: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dm-remap"));
        let output = command.arg("--version").env(variable, value).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run("COMPLETE", "bash").starts_with("dm-remap "));
    assert!(run("DM_REMAP_COMPLETE", "").starts_with("dm-remap "));
    assert_eq!(run("DM_REMAP_COMPLETE", "no-shell"), "");
}
