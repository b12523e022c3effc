//! What the shell asks for when somebody presses TAB.
//!
//! The scripts in completions/ call the program with [`VARIABLE`] set; it answers from the one definition of the command
//! line, with the names of the setups that are up and the devices that there are.
//!
//! Invariants:
//! - nothing is opened but /sys, folders of /dev, and the record of this machine's mains: no device is read, and root is
//!   not needed;
//! - whatever goes wrong, the answer is empty.

use super::{Exit, TOOLS};
use crate::block::host::Host;
use crate::engine::registry;
use crate::engine::session::{UUID_PREFIX, setup_of_uuid};
use crate::units::{Bytes, Sectors};
use clap::{Arg, Command};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter};
use clap_complete::env::{CompleteEnv, EnvCompleter};
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::Path;

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
    let place = match path.rsplit([' ', '-']).next() {
        Some("create") => Place::New,
        Some("activate" | "reassemble") => Place::Down,
        _ => Place::Up,
    };
    command.mut_args(|arg| with_completer(arg, place)).mut_subcommands(|sub| {
        let path = format!("{path} {}", sub.get_name());
        with_completers(&path, sub)
    })
}

/// Which setups a command is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// One that there is not yet.
    New,
    /// Those that are not up.
    Down,
    /// Those that are.
    Up,
}

fn with_completer(arg: Arg, place: Place) -> Arg {
    let kind = arg.get_value_names().and_then(<[_]>::first).map(|name| name.to_string());
    let kind = kind.unwrap_or_else(|| arg.get_id().as_str().to_uppercase());
    let completer = match (kind.as_str(), place) {
        // An option that wants a plain name gives a new one.
        ("NAME" | "NAMES" | "NAME|UUID", Place::New) => return arg,
        ("NAME", _) if !arg.is_positional() => return arg,
        ("NAME" | "NAMES" | "NAME|UUID", Place::Down) => ArgValueCompleter::new(setups_that_are_down),
        ("NAME" | "NAMES" | "NAME|UUID", Place::Up) => ArgValueCompleter::new(setups),
        ("DEV" | "DEVICES" | "NEW", _) => ArgValueCompleter::new(devices),
        ("SPARE" | "OLD" | "SPARE|DEV", _) => ArgValueCompleter::new(spares),
        ("DEV|NAME", _) => ArgValueCompleter::new(devices_and_setups),
        ("FILE", _) => ArgValueCompleter::new(PathCompleter::file()),
        _ => return arg,
    };
    arg.add(completer)
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

/// Names of the setups that this machine has had up and that are not up now.
fn names_on_record(host: &Host) -> Vec<String> {
    // Under the same root as /dev.
    let root = host.dev().parent().unwrap_or(Path::new("/"));
    let up = setup_names(host);
    let known = registry::all(&root.join("etc/dm-remap/mains"));
    let mut names: Vec<String> = known.into_iter().map(|known| known.name).filter(|name| !up.contains(name)).collect();
    names.sort();
    names
}

/// A file of a block device's folder in sysfs, without blanks at its ends.
fn attribute(host: &Host, device: &str, what: &str) -> Option<String> {
    let path = host.sys().join("class/block").join(device).join(what);
    Some(std::fs::read_to_string(path).ok()?.trim().to_string())
}

/// The path that people write for a device, and its size; none for what holds nothing, as loop devices that are not
/// attached.
fn described(host: &Host, device: &str) -> Option<(OsString, Bytes)> {
    let size = Sectors(attribute(host, device, "size")?.parse().ok()?);
    let path = match attribute(host, device, "dm/name") {
        Some(name) => Path::new("/dev/mapper").join(name),
        None => Path::new("/dev").join(device.replace('!', "/")),
    };
    (size > Sectors(0)).then_some((path.into_os_string(), size.to_bytes()?))
}

/// The devices that serve as spares of the setups that are up: what their private devices lie on.
fn spare_devices(host: &Host) -> Vec<String> {
    let class = host.sys().join("class/block");
    let is_private = |device: &String| {
        let uuid = attribute(host, device, "dm/uuid").unwrap_or_default();
        uuid.starts_with(UUID_PREFIX) && uuid.contains("-spare")
    };
    let private = entries(&class).into_iter().filter(is_private);
    private.flat_map(|device| entries(&class.join(device).join("slaves"))).collect()
}

fn candidates(current: &OsStr, all: impl IntoIterator<Item = OsString>) -> Vec<CompletionCandidate> {
    let begins = |one: &OsString| one.as_encoded_bytes().starts_with(current.as_encoded_bytes());
    all.into_iter().filter(begins).map(CompletionCandidate::new).collect()
}

fn setups(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates(current, setup_names(&host()).into_iter().map(OsString::from))
}

fn setups_that_are_down(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates(current, names_on_record(&host()).into_iter().map(OsString::from))
}

/// Devices with their sizes, in the order of their names.
fn sized(current: &OsStr, host: &Host, names: &[String]) -> Vec<CompletionCandidate> {
    let begins = |path: &OsString| path.as_encoded_bytes().starts_with(current.as_encoded_bytes());
    let found = names.iter().filter_map(|name| described(host, name)).filter(|(path, _)| begins(path));
    found.map(|(path, size)| CompletionCandidate::new(path).help(Some(size.to_string().into()))).collect()
}

/// Devices; other paths (links under /dev/disk, image files) when none begins so.
fn devices(current: &OsStr) -> Vec<CompletionCandidate> {
    let host = host();
    let found = sized(current, &host, &entries(&host.sys().join("class/block")));
    if found.is_empty() { PathCompleter::file().complete(current) } else { found }
}

/// Devices that are spares; any when none of these begins so.
fn spares(current: &OsStr) -> Vec<CompletionCandidate> {
    let host = host();
    let found = sized(current, &host, &spare_devices(&host));
    if found.is_empty() { devices(current) } else { found }
}

fn devices_and_setups(current: &OsStr) -> Vec<CompletionCandidate> {
    let mut all = setups(current);
    all.extend(devices(current));
    all
}
