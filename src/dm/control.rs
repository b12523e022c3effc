//! Getting at the kernel's device-mapper: the module, the control node, and plain words when there is none.

use super::DmError;
use super::node::errno_of;
use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// The control node. The crate has its path built in.
const CONTROL: &str = "/dev/mapper/control";

/// Makes sure that the control node is there and can be opened.
pub(super) fn prepare() -> Result<(), DmError> {
    let unavailable = |words: String| Err(DmError::Unavailable(words));
    if !nix::unistd::geteuid().is_root() {
        return unavailable("only root may use it; run this as root (sudo)".into());
    }
    if opens().is_ok() {
        return Ok(());
    }
    let mut number = control_number();
    if number.is_none() {
        load_module();
        number = control_number();
    }
    let Some((major, minor)) = number else {
        return unavailable(
            "this kernel has no device-mapper, and 'modprobe dm_mod' did not bring it; boot a kernel that has it \
             (CONFIG_BLK_DEV_DM), or install the running kernel's modules"
                .into(),
        );
    };
    let path = Path::new(CONTROL);
    if !path.exists() {
        let dir = path.parent().unwrap_or(path);
        let made = fs::create_dir_all(dir)
            .map_err(|e| errno_of(&e))
            .and_then(|()| mknod(path, SFlag::S_IFCHR, Mode::S_IRUSR | Mode::S_IWUSR, makedev(major, minor)));
        if let Err(errno) = made
            && errno != Errno::EEXIST
        {
            return unavailable(format!("{CONTROL} is missing and cannot be made: {}", errno.desc()));
        }
    }
    opens().or_else(|errno| unavailable(format!("{CONTROL} cannot be opened: {} ({errno:?})", errno.desc())))
}

/// What to say when the control node opens but the first call fails.
pub(super) fn refused_words(errno: Option<Errno>) -> String {
    match errno {
        Some(Errno::EPERM | Errno::EACCES) => {
            "the kernel does not let this process use it (CAP_SYS_ADMIN is missing; in a container, perhaps)".into()
        }
        Some(errno) => format!("{CONTROL} opens but does not answer: {} ({errno:?})", errno.desc()),
        None => format!("{CONTROL} answers with something that cannot be read"),
    }
}

/// Opens the control node, which loads the module where the node is a static one.
fn opens() -> Result<(), Errno> {
    fs::File::open(CONTROL).map(drop).map_err(|e| errno_of(&e))
}

/// The control node's number, when device-mapper is in the kernel.
fn control_number() -> Option<(u64, u64)> {
    let major = listed(&fs::read_to_string("/proc/devices").ok()?, "misc")?;
    let minor = listed(&fs::read_to_string("/proc/misc").ok()?, "device-mapper")?;
    Some((major, minor))
}

/// The major number of all device-mapper devices.
pub(super) fn block_major() -> Option<u64> {
    listed(&fs::read_to_string("/proc/devices").ok()?, "device-mapper")
}

/// The number before `name` in a list such as /proc/misc.
fn listed(list: &str, name: &str) -> Option<u64> {
    list.lines().find_map(|line| {
        let (number, rest) = line.trim().split_once(char::is_whitespace)?;
        if rest.trim() == name { number.parse().ok() } else { None }
    })
}

/// Loads the module. The outcome is judged by what the kernel lists afterwards.
fn load_module() {
    // Under cron the path has no sbin.
    for program in ["/sbin/modprobe", "/usr/sbin/modprobe", "modprobe"] {
        let mut command = Command::new(program);
        command.arg("dm_mod").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if command.status().is_ok() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_in_the_kernels_lists() {
        let misc = "144 rfkill\n236 device-mapper\n 59 device-mapper-x\n";
        assert_eq!(listed(misc, "device-mapper"), Some(236));
        assert_eq!(listed("Character devices:\n  1 mem\n 10 misc\n", "misc"), Some(10));
        assert_eq!(listed(misc, "nothing"), None);
    }
}
