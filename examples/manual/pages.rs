//! The pages.
//!
//! What an option means stands in the definition of the command line only; docs/man/NAME.SECTION.md adds examples and
//! what else does not fit there.

use super::markdown::{body, escaped};
use clap::{Arg, Command};
use dm_remap::cli::complete::tools;
use dm_remap::config::{GROUPS, KEYS, Scope, Spec, Value};
use dm_remap::messages::Trouble;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// A paragraph right after a heading is none: mandoc(1) complains of its macro.
fn tidy(page: &str) -> String {
    let mut out = String::new();
    let mut after_heading = false;
    for line in page.lines() {
        if !(line.is_empty() || after_heading && line == ".PP") {
            out.push_str(line);
            out.push('\n');
        }
        after_heading = line.starts_with(".SH ") || line.starts_with(".SS ");
    }
    out
}

/// The pages by file name.
pub(crate) fn all(root: &Path) -> std::io::Result<BTreeMap<String, String>> {
    let pages = untidy(root)?;
    Ok(pages.into_iter().map(|(name, page)| (name, tidy(&page))).collect())
}

fn untidy(root: &Path) -> std::io::Result<BTreeMap<String, String>> {
    let mut pages = BTreeMap::new();
    let tools = tools();
    let mut program = tools.first().map(|(_, command)| command.clone()).unwrap_or_default();
    program.build();
    let commands: Vec<Command> = program.get_subcommands().filter(|c| !c.is_hide_set()).cloned().collect();
    let tool = |command: &Command| {
        let named = |(name, _): &&(&str, Command)| *name == format!("dm-remap-{}", command.get_name());
        tools.iter().find(named).map(|(_, tool)| tool)
    };
    for command in &commands {
        let page = command_page(root, command, tool(command))?;
        pages.insert(format!("dm-remap-{}.8", command.get_name()), page);
    }
    let names: Vec<String> = commands.iter().map(|c| format!("dm-remap-{}(8)", c.get_name())).collect();
    pages.insert("dm-remap.8".into(), program_page(root, &program, &commands)?);
    pages.insert("dm-remap.conf.5".into(), configuration_page(root)?);
    for (name, about, source) in [
        ("dm-remap-format", "what dm-remap writes on a spare", "docs/FORMAT.md"),
        ("dm-remap", "keeping a device with bad sectors in service", "docs/man/dm-remap.7.md"),
    ] {
        let section = if source == "docs/FORMAT.md" { 5 } else { 7 };
        let mut page = head(name, section, about);
        let text = std::fs::read_to_string(root.join(source))?;
        page.push_str(&body(&if section == 5 { as_page(&text) } else { text }));
        if section == 7 {
            messages(&mut page);
        }
        if section == 7 {
            see_also(&mut page, &names.iter().map(String::as_str).collect::<Vec<_>>());
        } else {
            see_also(&mut page, &["dm-remap(8)", "dm-remap-metadata(8)", "dm-remap-validate(8)"]);
        }
        pages.insert(format!("{name}.{section}"), page);
    }
    Ok(pages)
}

/// docs/FORMAT.md without its list of contents, and what stands before its first section in one of its own.
fn as_page(text: &str) -> String {
    let paragraphs: Vec<&str> = text.split("\n\n").filter(|paragraph| !paragraph.starts_with("Contents: ")).collect();
    paragraphs.join("\n\n").replacen("\n\n", "\n\n## Description\n\n", 1)
}

/// When the pages were last looked through: a date of today would make them out of date tomorrow.
const DATE: &str = "2026-11-27";

/// Title and NAME. `'\" t` asks man(1) for tbl(1).
fn head(name: &str, section: u8, about: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "'\\\" t\n.\\\" Made by 'cargo run --example manual'. Do not edit.\n.TH {} {section} {DATE} \"dm\\-remap {version}\" \"dm\\-remap\"\n.nh\n.ad l\n.SH NAME\n{} \\- {}\n",
        escaped(&name.to_uppercase()),
        escaped(name),
        escaped(about)
    )
}

fn see_also(page: &mut String, pages: &[&str]) {
    page.push_str(".SH \"SEE ALSO\"\n");
    let references: Vec<String> = pages
        .iter()
        .map(|page| {
            let (name, section) = page.split_once('(').unwrap_or((page, ""));
            let sep = if section.is_empty() { "" } else { "(" };
            format!("\\fB{}\\fR{sep}{section}", escaped(name))
        })
        .collect();
    page.push_str(&references.join(",\n"));
    page.push('\n');
}

/// What the codes mean that status names.
fn messages(page: &mut String) {
    page.push_str(".SH MESSAGES\nThe codes that \\fBdm\\-remap\\-status\\fR(8) names.\n");
    for message in Trouble::ALL.map(Trouble::message) {
        let _ = writeln!(page, ".SS \"{}: {}\"", escaped(message.code), escaped(message.title));
        page.push_str(&paragraphs(message.meaning));
        page.push_str(&paragraphs(message.remedy));
    }
}

/// What docs/man/ adds to a page; nothing when there is no such file.
fn addition(root: &Path, file: &str) -> std::io::Result<String> {
    match std::fs::read_to_string(root.join("docs/man").join(file)) {
        Ok(text) => Ok(body(&text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// A sentence of words that have no capital and no full stop.
fn sentence(words: &str) -> String {
    let mut letters = words.chars();
    let first: String = letters.next().map(|letter| letter.to_uppercase().collect()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

/// A first sentence as NAME has it: without its full stop.
fn about(command: &Command) -> String {
    let text = command.get_about().map(ToString::to_string).unwrap_or_default();
    let text = text.trim_end_matches('.');
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_lowercase().to_string()).unwrap_or_default();
    first + letters.as_str()
}

/// Arguments that every command takes: they stand in dm-remap(8).
const EVERYWHERE: [&str; 5] = ["json", "quiet", "config", "help", "version"];

fn synopsis(path: &str, command: &Command) -> String {
    let mut command = command.clone();
    // A command that was built keeps the name that it has as part of the program.
    let own = command.get_bin_name().unwrap_or(command.get_name()).to_string();
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    let rest = usage.strip_prefix(&own).unwrap_or(usage).trim();
    let lines: Vec<&str> = rest.lines().map(str::trim).collect();
    format!("\\fB{}\\fR {}\n", escaped(path), escaped(&lines.join(" ")))
}

/// Arguments as a list of marks and texts: those without a dash first.
fn options(arguments: &[&Arg]) -> String {
    let mut out = String::new();
    let (named, plain): (Vec<&Arg>, Vec<&Arg>) =
        arguments.iter().partition(|arg| arg.get_long().is_some() || arg.get_short().is_some());
    for arg in plain.into_iter().chain(named) {
        let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(out, ".TP\n{}\n{}", mark(arg), escaped(full_stop(&help).trim()));
        let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        if !defaults.is_empty() && arg.get_action().takes_values() {
            let _ = writeln!(out, "[default: {}]", escaped(&defaults.join(" ")));
        }
        let values = arg.get_possible_values();
        if values.iter().any(|value| value.get_help().is_some()) {
            out.push_str(".RS\n");
            for value in &values {
                let help = value.get_help().map(ToString::to_string).unwrap_or_default();
                let _ = writeln!(out, ".TP\n\\fB{}\\fR\n{}", escaped(value.get_name()), escaped(&full_stop(&help)));
            }
            out.push_str(".RE\n");
        }
    }
    out
}

/// clap takes the full stop off short texts, and what stands in brackets at the end is part of the sentence before it.
fn full_stop(text: &str) -> String {
    if text.ends_with(['.', ']', ':']) || text.is_empty() { text.to_string() } else { format!("{text}.") }
}

/// How an argument is written.
fn mark(arg: &Arg) -> String {
    let id = arg.get_id().as_str().to_uppercase();
    let names = arg.get_value_names().and_then(<[_]>::first).map_or(id, ToString::to_string);
    let value = format!("\\fI{}\\fR", escaped(&names));
    let many = if arg.get_num_args().is_some_and(|count| count.max_values() > 1) { " ..." } else { "" };
    let short = arg.get_short().map(|letter| format!("\\fB\\-{letter}\\fR"));
    let long = arg.get_long().map(|long| format!("\\fB\\-\\-{}\\fR", escaped(long)));
    let flags: Vec<String> = short.into_iter().chain(long).collect();
    if flags.is_empty() {
        return format!("{value}{many}");
    }
    let flags = flags.join(", ");
    let optional = arg.get_num_args().is_some_and(|count| count.min_values() == 0);
    match (arg.get_action().takes_values(), optional) {
        (false, _) => flags,
        (true, true) => format!("{flags}[={value}]"),
        (true, false) => format!("{flags} {value}{many}"),
    }
}

/// The arguments that stand on a command's own page.
fn own(command: &Command) -> Vec<&Arg> {
    command.get_arguments().filter(|arg| !arg.is_hide_set() && !EVERYWHERE.contains(&arg.get_id().as_str())).collect()
}

fn paragraphs(text: &str) -> String {
    let mut out = String::new();
    for paragraph in text.split("\n\n") {
        let _ = writeln!(out, ".PP\n{}", escaped(&full_stop(paragraph.trim())));
    }
    out
}

fn description(command: &Command, tool: Option<&Command>) -> String {
    // As a program of its own it may say more of itself.
    let text = tool
        .and_then(Command::get_long_about)
        .or(command.get_long_about())
        .or(command.get_about())
        .map(ToString::to_string)
        .unwrap_or_default();
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let mut out = paragraphs(&text);
    // The general words stand in dm-remap(8).
    if !after.is_empty() && !after.starts_with("Sectors are 512") {
        out.push_str(&paragraphs(&after));
    }
    out
}

/// The page of a command; `tool` is the same command as a program of its own, where it is one.
fn command_page(root: &Path, command: &Command, tool: Option<&Command>) -> std::io::Result<String> {
    let name = format!("dm-remap-{}", command.get_name());
    let path = format!("dm-remap {}", command.get_name());
    let mut page = head(&name, 8, &about(command));
    let subcommands: Vec<&Command> = command.get_subcommands().filter(|c| !c.is_hide_set()).collect();
    page.push_str(".SH SYNOPSIS\n");
    if subcommands.is_empty() {
        if tool.is_some() {
            let _ = writeln!(page, "{}.br", synopsis(&name, command));
        }
        page.push_str(&synopsis(&path, command));
    }
    for (number, sub) in subcommands.iter().enumerate() {
        if number > 0 {
            page.push_str(".br\n");
        }
        page.push_str(&synopsis(&format!("{path} {}", sub.get_name()), sub));
    }
    let _ = writeln!(page, ".SH DESCRIPTION\n{}", description(command, tool).trim_end());
    if subcommands.is_empty() {
        let options = options(&own(command));
        if !options.is_empty() {
            let _ = writeln!(page, ".SH OPTIONS\n{}", options.trim_end());
        }
    } else {
        page.push_str(".SH COMMANDS\n");
        for sub in subcommands {
            let _ = writeln!(page, ".SS {}", escaped(&format!("{} {}", command.get_name(), sub.get_name())));
            page.push_str(&description(sub, None));
            page.push_str(&options(&own(sub)));
        }
    }
    page.push_str(".PP\nOptions that all commands take, and exit codes, are in \\fBdm\\-remap\\fR(8).\n");
    page.push_str(&addition(root, &format!("{name}.8.md"))?);
    see_also(&mut page, &related(command.get_name()));
    Ok(page)
}

/// What to read next to the page of a command: those that do the opposite, or what comes before or after.
fn related(command: &str) -> Vec<&'static str> {
    let near: &[&str] = match command {
        "create" => &["dm-remap-scan(8)", "dm-remap-spare(8)", "dm-remap-destroy(8)", "dm-remap.conf(5)"],
        "remap" => &["dm-remap-scan(8)", "dm-remap-restore(8)", "badblocks(8)", "ddrescue(1)", "dm-remap.conf(5)"],
        "restore" => &["dm-remap-remap(8)", "dm-remap-map(8)", "dm-remap-destroy(8)"],
        "map" => &["dm-remap-status(8)", "dm-remap-compact(8)", "dmsetup(8)", "badblocks(8)"],
        "status" => &["dm-remap-list(8)", "dm-remap-acknowledge(8)", "dm-remap-recover(8)"],
        "metrics" => &["dm-remap-status(8)", "dm-remap.conf(5)"],
        "list" => &["dm-remap-status(8)", "dm-remap-discover(8)"],
        "activate" => &["dm-remap-deactivate(8)", "dm-remap-reassemble(8)", "dm-remap-discover(8)"],
        "deactivate" => &["dm-remap-activate(8)", "dm-remap-destroy(8)"],
        "destroy" => &["dm-remap-create(8)", "dm-remap-restore(8)", "dm-remap-deactivate(8)"],
        "recover" => &["dm-remap-status(8)", "dm-remap-metadata(8)"],
        "acknowledge" => &["dm-remap-status(8)", "dm-remap-scan(8)"],
        "policy" => &["dm-remap-create(8)", "dm-remap-config(8)", "dm-remap.conf(5)"],
        "compact" => &["dm-remap-map(8)", "dm-remap-spare(8)", "dm-remap-layout(8)"],
        "layout" => &["dm-remap-map(8)", "dm-remap-compact(8)", "dm-remap.conf(5)", "dmsetup(8)"],
        "scan" => &["dm-remap-watch(8)", "dm-remap-remap(8)", "dm-remap-status(8)", "dm-remap.conf(5)", "cron(8)"],
        "watch" => &["dm-remap-scan(8)", "dm-remap-status(8)", "dm-remap.conf(5)", "dmesg(1)"],
        "spare" => &["dm-remap-status(8)", "dm-remap-compact(8)", "losetup(8)"],
        "metadata" => &["dm-remap-validate(8)", "dm-remap-recover(8)", "dm-remap-format(5)"],
        "discover" => &["dm-remap-reassemble(8)", "dm-remap-validate(8)", "dm-remap-list(8)"],
        "reassemble" => &["dm-remap-discover(8)", "dm-remap-activate(8)", "dm-remap.conf(5)", "udev(7)"],
        "config" => &["dm-remap-validate(8)", "dm-remap-policy(8)", "dm-remap.conf(5)"],
        "validate" => &["dm-remap-metadata(8)", "dm-remap-config(8)", "dm-remap.conf(5)", "dm-remap-format(5)"],
        _ => &["dm-remap.conf(5)"],
    };
    ["dm-remap(8)", "dm-remap(7)"].into_iter().chain(near.iter().copied()).collect()
}

fn program_page(root: &Path, program: &Command, commands: &[Command]) -> std::io::Result<String> {
    let mut page = head("dm-remap", 8, &about(program));
    page.push_str(".SH SYNOPSIS\n\\fBdm\\-remap\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR]\n");
    page.push_str(".SH DESCRIPTION\n");
    page.push_str(&addition(root, "dm-remap.8.md")?);
    page.push_str(".SH COMMANDS\n");
    for command in commands {
        let _ = writeln!(page, ".TP\n\\fBdm\\-remap\\-{}\\fR(8)", escaped(command.get_name()));
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        page.push_str(&escaped(&full_stop(&about)));
        page.push('\n');
    }
    page.push_str(".SH OPTIONS\n");
    page.push_str(&options(&program.get_arguments().collect::<Vec<_>>()));
    page.push_str(".SH \"EXIT STATUS\"\n");
    for (code, meaning) in [
        (0, "Done."),
        (1, "Failed."),
        (2, "Bad usage: nothing was done."),
        (3, "Done, but the setup needs attention: 'dm-remap status' says why."),
        (4, "Refused for safety; nothing was changed."),
    ] {
        let _ = writeln!(page, ".TP\n\\fB{code}\\fR\n{}", escaped(meaning));
    }
    page.push_str(&addition(root, "dm-remap.8.end.md")?);
    see_also(&mut page, &["dm-remap(7)", "dm-remap.conf(5)", "dm-remap-format(5)", "dmsetup(8)"]);
    Ok(page)
}

fn configuration_page(root: &Path) -> std::io::Result<String> {
    let mut page = head("dm-remap.conf", 5, "configuration of dm-remap");
    page.push_str(&addition(root, "dm-remap.conf.5.md")?);
    for (group, about) in GROUPS {
        let _ = writeln!(page, ".SH \"SECTION {}\"\n.PP\n{}", group.to_uppercase(), escaped(&sentence(about)));
        for spec in KEYS.iter().filter(|spec| spec.group == group) {
            key(&mut page, spec);
        }
    }
    page.push_str(&addition(root, "dm-remap.conf.5.end.md")?);
    see_also(&mut page, &["dm-remap(8)", "dm-remap-config(8)", "dm-remap-validate(8)"]);
    Ok(page)
}

fn key(page: &mut String, spec: &Spec) {
    let default = match &spec.default {
        Value::Unset => "none".to_string(),
        value => value.to_string(),
    };
    let used = if spec.used_by.is_empty() {
        "No command of this version goes by it.".to_string()
    } else {
        format!("Used by {}.", spec.used_by.join(", "))
    };
    let only = if spec.scope == Scope::Defaults { " Only under \"defaults\"." } else { "" };
    let _ = writeln!(
        page,
        ".TP\n\\fB{}.{}\\fR ({}; default {})\n{} {}{only}",
        escaped(spec.group),
        escaped(spec.name),
        escaped(&spec.kind.to_string()),
        escaped(&default),
        escaped(spec.doc),
        escaped(&used)
    );
}
