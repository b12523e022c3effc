//! What the shell asks for when somebody presses TAB.
//!
//! The scripts in completions/ call the program with [`VARIABLE`] set; it answers from the one definition of the command
//! line, with the names of the setups that are up and the devices that there are.
//!
//! Invariants:
//! - nothing is opened but directories of /sys and /dev: no device is read, and root is not needed;
//! - whatever goes wrong, the answer is empty.

use super::{Exit, TOOLS};
use crate::block::host::Host;
use crate::engine::session::setup_of_uuid;
use clap::{Arg, Command};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter};
use clap_complete::env::{CompleteEnv, EnvCompleter};
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The environment variable that says which shell asks. Its name is ours: one of a more common name could be set by
/// accident, and a command would then do nothing.
pub const VARIABLE: &str = "DM_REMAP_COMPLETE";

/// Where /sys and /dev are looked for instead of in /: for tests.
const ROOT: &str = "DM_REMAP_COMPLETE_ROOT";

/// Answers the shell, if one asks; `None` in an ordinary run.
pub(super) fn answer(name: &str, command: fn() -> Command, args: &[OsString]) -> Option<Exit> {
    std::env::var_os(VARIABLE).filter(|shell| !shell.is_empty())?;
    let folder = std::env::current_dir().ok();
    let name = name.to_string();
    let factory = move || with_completers(&name, command());
    match CompleteEnv::with_factory(factory).var(VARIABLE).try_complete(args.to_vec(), folder.as_deref()) {
        Ok(_) => Some(Exit::Done),
        Err(_) => Some(Exit::Failed),
    }
}

/// The script that a shell loads to complete the tool of this name.
///
/// # Errors
/// When `out` cannot be written.
pub fn registration(shell: &dyn EnvCompleter, tool: &str, out: &mut dyn Write) -> std::io::Result<()> {
    shell.write_registration(VARIABLE, tool, tool, tool, out)
}

/// The command line of each tool by its name, as the pages in man/ are made of it.
pub fn tools() -> Vec<(&'static str, Command)> {
    TOOLS.iter().map(|(name, tool)| (*name, (tool.command)().name(*name).bin_name(*name))).collect()
}

/// Gives every argument the completer that its kind has.
fn with_completers(path: &str, command: Command) -> Command {
    let is_new = path.ends_with("create");
    command.mut_args(|arg| with_completer(arg, is_new)).mut_subcommands(|sub| {
        let path = format!("{path} {}", sub.get_name());
        with_completers(&path, sub)
    })
}

fn with_completer(arg: Arg, is_new: bool) -> Arg {
    let kind = arg.get_value_names().and_then(<[_]>::first).map(|name| name.to_string());
    let kind = kind.unwrap_or_else(|| arg.get_id().as_str().to_uppercase());
    match kind.as_str() {
        "NAME" | "NAMES" | "NAME|UUID" if !is_new => arg.add(ArgValueCompleter::new(setups)),
        "DEV" | "DEVICES" | "SPARE" | "OLD" | "NEW" | "SPARE|DEV" => arg.add(ArgValueCompleter::new(devices)),
        "DEV|NAME" => arg.add(ArgValueCompleter::new(devices_and_setups)),
        "FILE" => arg.add(ArgValueCompleter::new(PathCompleter::file())),
        _ => arg,
    }
}

fn host() -> Host {
    std::env::var_os(ROOT).map_or_else(Host::real, |root| Host::under(Path::new(&root)))
}

/// Names of the folders in a folder, sorted; none when it cannot be read.
fn entries(folder: &Path) -> Vec<String> {
    let all = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = all.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Names of the setups that are up, from /sys/block/dm-*/dm.
fn setup_names(host: &Host) -> Vec<String> {
    let block = host.sys().join("block");
    let value = |device: &str, what: &str| std::fs::read_to_string(block.join(device).join("dm").join(what)).ok();
    let of_ours = |device: &String| {
        setup_of_uuid(value(device, "uuid")?.trim())?;
        Some(value(device, "name")?.trim().to_string())
    };
    let mut names: Vec<String> =
        entries(&block).iter().filter(|device| device.starts_with("dm-")).filter_map(of_ours).collect();
    names.sort();
    names
}

/// Devices that hold anything, by the path that people write: but for loop devices that are not attached.
fn device_paths(host: &Host) -> Vec<PathBuf> {
    let class = host.sys().join("class/block");
    let read = |device: &str, what: &str| std::fs::read_to_string(class.join(device).join(what)).ok();
    let path = |device: &String| {
        let size = read(device, "size")?;
        let named = read(device, "dm/name").map(|name| Path::new("/dev/mapper").join(name.trim()));
        (size.trim() != "0").then(|| named.unwrap_or_else(|| Path::new("/dev").join(device.replace('!', "/"))))
    };
    entries(&class).iter().filter_map(path).collect()
}

fn candidates(current: &OsStr, all: impl IntoIterator<Item = OsString>) -> Vec<CompletionCandidate> {
    let begins = |one: &OsString| one.as_encoded_bytes().starts_with(current.as_encoded_bytes());
    all.into_iter().filter(begins).map(CompletionCandidate::new).collect()
}

fn setups(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates(current, setup_names(&host()).into_iter().map(OsString::from))
}

/// Devices; other paths (links under /dev/disk, image files) when none begins so.
fn devices(current: &OsStr) -> Vec<CompletionCandidate> {
    let found = candidates(current, device_paths(&host()).into_iter().map(PathBuf::into_os_string));
    if found.is_empty() { PathCompleter::file().complete(current) } else { found }
}

fn devices_and_setups(current: &OsStr) -> Vec<CompletionCandidate> {
    let mut all = setups(current);
    all.extend(devices(current));
    all
}
