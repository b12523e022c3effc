//! The shape of the code, checked: which part may use which (docs/DESIGN.md, "Parts"), how long a file may be, where
//! `unsafe` may stand. It reads the source as text; code under `#[cfg(test)]` may use anything.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Each part, and what it may use: parts, or modules of parts. A part may always use itself.
const PARTS: [(&str, &[&str]); 29] = [
    ("units", &[]),
    ("identity", &["units"]),
    ("messages", &[]),
    ("flock", &[]),
    ("stats", &["units"]),
    ("smart", &[]),
    ("risk", &["smart"]),
    ("forecast", &["units"]),
    ("health", &["units", "smart", "risk"]),
    ("metrics", &["units", "stats"]),
    ("report", &["units", "stats"]),
    ("map", &["units"]),
    ("format", &["units", "identity", "map"]),
    ("segments", &["units", "map"]),
    ("pool", &["units", "map", "format"]),
    ("plan", &["units", "identity", "map", "format", "segments", "pool"]),
    ("config", &["format::metadata"]),
    // Of block, the fake only: its devices are RAM disks.
    ("dm", &["units", "segments"]),
    ("block", &["units", "identity", "format::signature", "format::header", "smart"]),
    ("store", &["units", "map", "format", "block"]),
    ("files", &["units", "format::signature", "block"]),
    (
        "engine",
        &["flock", "units", "identity", "map", "format", "segments", "pool", "plan", "stats", "dm", "block", "store"],
    ),
    ("scan", &["units", "map", "format", "plan", "block", "engine"]),
    ("validate", &["units", "map", "format", "block", "store", "engine::Observer", "engine::find"]),
    ("alert", &["flock", "units"]),
    ("history", &["flock", "units", "smart", "health"]),
    ("watch", &["units", "map", "segments", "dm", "block", "plan::Refusal", "engine"]),
    (
        "cli",
        &[
            "units", "identity", "map", "format", "segments", "pool", "plan", "dm", "block", "store", "files",
            "engine", "scan", "watch", "alert", "config", "validate", "messages", "metrics", "stats", "report",
            "history", "smart", "health", "risk", "forecast", "flock",
        ],
    ),
    (
        "bin",
        &[
            "units", "identity", "map", "format", "segments", "pool", "plan", "dm", "block", "store", "files",
            "engine", "scan", "watch", "alert", "config", "validate", "messages", "metrics", "stats", "report",
            "history", "smart", "health", "risk", "forecast", "flock", "cli",
        ],
    ),
];

/// Modules that may use more than their part.
const EXCEPTIONS: [(&str, &str); 1] = [("dm::fake", "block")];

/// Parts that do no I/O, and what they would need for it.
const PURE: [&str; 16] = [
    "risk", "forecast", "smart", "health", "messages", "metrics", "stats", "report", "units", "identity", "format",
    "map", "segments", "pool", "plan", "config",
];
const IMPURE: [&str; 8] =
    ["std::fs", "std::process", "std::env", "std::net", "std::thread", "SystemTime", "nix", "devicemapper"];

/// Crates that belong to the command line.
const FOR_CLI_ONLY: [&str; 4] = ["clap", "clap_complete", "indicatif", "anyhow"];

/// The files that may contain `unsafe`.
const UNSAFE: [&str; 9] = [
    "block/buffer.rs",
    "block/loop_file.rs",
    "block/parallel.rs",
    "block/priority.rs",
    "block/verify/ioctl.rs",
    "block/workers.rs",
    "dm/udev.rs",
    "dm/window.rs",
    "engine/guardian.rs",
];

const MAX_LINES: usize = 800;

#[derive(Debug)]
struct Source {
    /// Below src, for example `dm/fake.rs`.
    path: String,
    /// For example `dm::fake`.
    module: String,
    lines: usize,
    text: String,
    /// Without comments, literals, and what is compiled for tests only.
    code: String,
}

impl Source {
    fn part(&self) -> &str {
        self.module.split("::").next().unwrap()
    }
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
    out.sort();
    out
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All of src, without the files that are modules for tests only.
fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut all = Vec::new();
    let mut test_only = Vec::new();
    for file in rust_files(&src) {
        let text = std::fs::read_to_string(&file).unwrap();
        let path = file.strip_prefix(&src).unwrap().to_str().unwrap().to_string();
        let module = path.trim_end_matches(".rs").replace('/', "::");
        let (code, modules) = without_tests(&without_comments(&text));
        // A module that is declared beside its attribute lies below this one, or has a path of its own.
        for name in modules {
            test_only.push(format!("{module}::{name}"));
        }
        let named = text.lines().filter_map(|l| l.trim().strip_prefix("#[path = \"")?.strip_suffix("\"]"));
        let folder = module.rsplit_once("::").map_or("", |(folder, _)| folder);
        for name in named.filter(|n| n.ends_with("_tests.rs")) {
            test_only.push(format!("{folder}::{}", name.trim_end_matches(".rs")));
        }
        all.push(Source { path, module, lines: text.lines().count(), text, code });
    }
    all.retain(|s| !test_only.iter().any(|t| s.module == *t || s.module.starts_with(&format!("{t}::"))));
    assert!(all.len() > 40, "where is the source? {} files", all.len());
    all
}

/// Comments become nothing, string and character literals become empty ones.
fn without_comments(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut out = String::new();
    let mut i = 0;
    while i < chars.len() {
        let word_before = i > 0 && (at(i - 1).is_alphanumeric() || at(i - 1) == '_');
        match (at(i), at(i + 1)) {
            ('/', '/') => i += chars[i..].iter().take_while(|c| **c != '\n').count(),
            ('/', '*') => {
                let mut depth = 0;
                loop {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 || i >= chars.len() {
                        break;
                    }
                }
            }
            ('r', '"' | '#') if !word_before => {
                let hashes = chars[i + 1..].iter().take_while(|c| **c == '#').count();
                if at(i + 1 + hashes) == '"' {
                    let end: String = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
                    let rest: String = chars[i + 2 + hashes..].iter().collect();
                    let len = rest.find(&end).map_or(rest.len(), |b| b + end.len());
                    i += 2 + hashes + rest[..len].chars().count();
                    out.push_str("\"\"");
                } else {
                    out.push('r');
                    i += 1;
                }
            }
            ('"', _) => {
                i += 1;
                while i < chars.len() && at(i) != '"' {
                    i += if at(i) == '\\' { 2 } else { 1 };
                }
                i += 1;
                out.push_str("\"\"");
            }
            // A character, not a lifetime.
            ('\'', '\\') => {
                i += 3;
                while i < chars.len() && at(i) != '\'' {
                    i += 1;
                }
                i += 1;
            }
            ('\'', _) if at(i + 2) == '\'' => i += 3,
            (c, _) => {
                out.push(c);
                i += 1;
            }
        }
    }
    out
}

/// Takes out every item under `#[cfg(test)]`; also returns the modules among them that have files of their own.
fn without_tests(code: &str) -> (String, Vec<String>) {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::new();
    let mut modules = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        out.push_str(&rest[..at]);
        let item = &rest[at + MARK.len()..];
        let mut depth = 0i32;
        let mut end = item.len();
        for (index, c) in item.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if (c == ';' || c == '}') && depth == 0 {
                end = index + 1;
                break;
            }
        }
        let words: Vec<&str> = item[..end].split_whitespace().filter(|w| !w.starts_with('#')).collect();
        if let Some(place) = words.iter().position(|w| *w == "mod")
            && let Some(name) = words.get(place + 1).and_then(|w| w.strip_suffix(';'))
        {
            modules.push(name.to_string());
        }
        rest = &item[end..];
    }
    out.push_str(rest);
    (out, modules)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether `word`, which may be a path, stands in the code by itself.
fn names(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        !code[..at].ends_with(|c: char| is_word(c) || c == ':') && !code[at + word.len()..].starts_with(is_word)
    })
}

/// Every path that begins at the root of the crate: written as `crate::`, as `dm_remap::`, or with enough `super::`.
/// Groups are taken apart: `crate::{a::b, c}` gives `a::b` and `c`.
fn paths_from_root(source: &Source) -> Vec<String> {
    let depth = source.module.split("::").count();
    let mut prefixes = vec!["crate::".to_string(), "dm_remap::".to_string()];
    prefixes.push("super::".repeat(depth));
    let mut out = Vec::new();
    for prefix in prefixes {
        for (at, _) in source.code.match_indices(&prefix) {
            if !source.code[..at].ends_with(|c: char| is_word(c) || c == ':') {
                expand(&source.code[at + prefix.len()..], "", &mut out);
            }
        }
    }
    out
}

/// Reads one path, or a group of paths, and returns what follows it.
fn expand<'a>(text: &'a str, before: &str, out: &mut Vec<String>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut group) = text.strip_prefix('{') {
        loop {
            group = expand(group, before, out).trim_start();
            match group.strip_prefix(',') {
                Some(more) => group = more,
                None => return group.strip_prefix('}').unwrap_or(group),
            }
        }
    }
    let end = text.find(|c: char| !is_word(c)).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    if word.is_empty() {
        return rest;
    }
    let path = if before.is_empty() { word.to_string() } else { format!("{before}::{word}") };
    match rest.strip_prefix("::") {
        Some(more) if more.trim_start().starts_with(|c: char| is_word(c) || c == '{') => expand(more, &path, out),
        _ => {
            out.push(path);
            match rest.trim_start().strip_prefix("as ") {
                Some(alias) => alias.trim_start().trim_start_matches(is_word),
                None => rest,
            }
        }
    }
}

fn under(path: &str, module: &str) -> bool {
    path == module || path.strip_prefix(module).is_some_and(|rest| rest.starts_with("::"))
}

fn report(problems: &BTreeMap<String, String>) {
    let mut text = String::new();
    for (place, what) in problems {
        writeln!(text, "  src/{place}: {what}").unwrap();
    }
    assert!(problems.is_empty(), "\n{text}");
}

#[test]
fn parts_use_only_what_they_may() {
    let known: BTreeMap<&str, &[&str]> = PARTS.into_iter().collect();
    let mut problems = BTreeMap::new();
    for source in sources().iter().filter(|s| s.path != "lib.rs") {
        let Some(allowed) = known.get(source.part()) else {
            problems.insert(source.path.clone(), "this part is not in PARTS (and docs/DESIGN.md)".to_string());
            continue;
        };
        for path in paths_from_root(source) {
            let target = path.split("::").next().unwrap();
            if !known.contains_key(target) || target == source.part() {
                continue;
            }
            let fine = allowed.iter().any(|a| under(&path, a))
                || EXCEPTIONS.iter().any(|(module, may)| under(&source.module, module) && under(&path, may));
            if !fine {
                problems.insert(source.path.clone(), format!("{} may not use {path}", source.part()));
            }
        }
    }
    report(&problems);
}

#[test]
fn pure_parts_do_no_io() {
    let mut problems = BTreeMap::new();
    for source in sources().iter().filter(|s| PURE.contains(&s.part())) {
        for word in IMPURE {
            if names(&source.code, word) {
                problems.insert(source.path.clone(), format!("names {word}, and {} is pure", source.part()));
            }
        }
    }
    report(&problems);
}

#[test]
fn what_is_for_the_command_line_stays_there() {
    let mut problems = BTreeMap::new();
    for source in sources().iter().filter(|s| s.part() != "cli") {
        for name in FOR_CLI_ONLY {
            if names(&source.code, name) {
                problems.insert(source.path.clone(), format!("uses {name}, which is for the command line only"));
            }
        }
    }
    report(&problems);
}

#[test]
fn unsafe_stands_only_where_it_may() {
    let mut problems = BTreeMap::new();
    for source in sources() {
        let has = names(&source.code, "unsafe") || names(&source.code, "unsafe_code");
        if has && !UNSAFE.contains(&source.path.as_str()) {
            problems.insert(source.path.clone(), "contains unsafe".to_string());
        }
        if !has && UNSAFE.contains(&source.path.as_str()) {
            problems.insert(source.path.clone(), "contains no unsafe any more: take it off the list".to_string());
        }
    }
    report(&problems);
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut problems = BTreeMap::new();
    for source in sources() {
        if source.lines > MAX_LINES {
            problems.insert(source.path.clone(), format!("{} lines, and {MAX_LINES} are the most", source.lines));
        }
        if !source.text.starts_with("//!") {
            problems.insert(source.path.clone(), "does not begin with //!".to_string());
        }
        if source.path.ends_with("mod.rs") {
            problems.insert(source.path.clone(), "call it after its module, beside the folder".to_string());
        }
    }
    for file in rust_files(&root().join("tests")) {
        let lines = std::fs::read_to_string(&file).unwrap().lines().count();
        if lines > MAX_LINES {
            let name = format!("../{}", file.strip_prefix(root()).unwrap().display());
            problems.insert(name, format!("{lines} lines, and {MAX_LINES} are the most"));
        }
    }
    report(&problems);
}

#[test]
fn the_checks_see_what_they_should() {
    let text = r##"
        use crate::{units::{Range, Sectors as S}, dm}; // crate::comment
        /* crate::block */
        fn f() { let _ = ("crate::string", r#"crate::raw"#, 'x', '\'', '"'); super::super::engine::now() }
        #[cfg(test)]
        mod tests { use crate::cli; fn g() { { } } }
        fn h<'a>(x: &'a crate::store::Commit) {}
        #[cfg(test)]
        mod apart;
    "##;
    let (code, modules) = without_tests(&without_comments(text));
    let module = "plan::moves".to_string();
    let source = Source { path: String::new(), module, lines: 0, text: text.into(), code };
    let mut paths = paths_from_root(&source);
    paths.sort();
    assert_eq!(paths, ["dm", "engine::now", "store::Commit", "units::Range", "units::Sectors"]);
    assert_eq!(modules, ["apart"]);
    assert!(names("let x = unsafe { 1 };", "unsafe") && !names("unsafe_code", "unsafe"));
    assert!(names("use std::fs;", "std::fs") && !names("my_std::fs", "std::fs"));
    assert!(under("format::signature::find", "format::signature") && !under("formatter", "format"));
}
