//! The setups that are up and are to be watched: read from device-mapper and sysfs, never from the spares.

use super::locate::Stack;
use super::stack::{Tables, stack_under};
use crate::block::host::{self, Host};
use crate::dm::{DeviceMapper, DmError, TableSlot};
use crate::engine::session::{live_devices, setup_of_uuid};
use crate::map::SpareIndex;
use crate::segments::{HeldKind, Target};
use crate::units::{DevNo, Sectors};
use uuid::Uuid;

/// A spare of a setup that is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedSpare {
    /// Which.
    pub index: SpareIndex,
    /// The spare.
    pub devno: DevNo,
    /// The private device over it.
    pub private: DevNo,
    /// Its size.
    pub size: Sectors,
}

/// A setup that is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// UUID of the setup.
    pub setup: Uuid,
    /// Name of the setup and of its device.
    pub name: String,
    /// Main.
    pub main: DevNo,
    /// Its size, which is that of the setup.
    pub size: Sectors,
    /// The spares.
    pub spares: Vec<WatchedSpare>,
}

/// The setups that are up, of those that are named, or all when none is.
///
/// # Errors
/// When device-mapper cannot list its devices. A setup that goes away meanwhile is left out.
pub fn find(dm: &dyn DeviceMapper, host: &Host, names: &[String]) -> Result<Vec<Watched>, DmError> {
    let mut out = Vec::new();
    for (name, devno) in dm.list()? {
        let wanted = names.is_empty() || names.contains(&name);
        let ours = |uuid: &str| setup_of_uuid(uuid).is_some();
        if !wanted || !dm.state(&name)?.is_some_and(|state| state.active && ours(&state.uuid)) {
            continue;
        }
        let Ok(live) = live_devices(dm, &name) else { continue };
        let Some(main) = live.main else { continue };
        let spares = live.spares.iter().map(|(index, devno, private)| WatchedSpare {
            index: *index,
            devno: *devno,
            private: *private,
            size: size_of(host, *devno),
        });
        out.push(Watched { setup: live.setup, name, main, size: size_of(host, devno), spares: spares.collect() });
    }
    out.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(out)
}

fn size_of(host: &Host, device: DevNo) -> Sectors {
    let size = host.sys_folder(device).and_then(|folder| host::number(&folder.join("size")));
    Sectors(size.unwrap_or(0))
}

/// What a setup's devices lie on.
#[derive(Clone, Debug)]
pub struct Stacks {
    /// Under main.
    pub main: Stack,
    /// Under each spare.
    pub spares: Vec<(SpareIndex, Stack)>,
}

/// Describes what the devices of a setup lie on, at this instant.
pub fn stacks(dm: &dyn DeviceMapper, host: &Host, watched: &Watched) -> Stacks {
    let tables: &Tables<'_> = &|name: &str| -> Option<Vec<Target>> { dm.table(name, TableSlot::Active).ok() };
    Stacks {
        main: stack_under(host, tables, watched.main),
        spares: watched.spares.iter().map(|s| (s.index, stack_under(host, tables, s.devno))).collect(),
    }
}

/// How many writes a device has ended since it was made (Documentation/admin-guide/iostats.rst, field 5); `None` when the
/// kernel does not count them.
pub fn writes_ended(host: &Host, device: DevNo) -> Option<u64> {
    let folder = host.sys_folder(device)?;
    if host::number(&folder.join("queue/iostats")) == Some(0) {
        return None;
    }
    host::text(&folder.join("stat"))?.split_ascii_whitespace().nth(4)?.parse().ok()
}

/// Whether a private device answers EIO for any block.
pub fn holds(dm: &dyn DeviceMapper, private: &str) -> bool {
    dm.table(private, TableSlot::Active).is_ok_and(|table| HeldKind::of(&table).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::fake_tree::Tree;

    #[test]
    fn writes_are_counted_where_the_kernel_counts() {
        let tree = Tree::new();
        let folder = tree.disk("dm-1", "253:1", 1000);
        let devno = "253:1".parse().unwrap();
        assert_eq!(writes_ended(&tree.host(), devno), None);
        tree.write(&format!("{folder}/stat"), "      11  2   333  4     55   6   777  8  0  9  10\n");
        assert_eq!(writes_ended(&tree.host(), devno), Some(55));
        tree.write(&format!("{folder}/queue/iostats"), "0\n");
        assert_eq!(writes_ended(&tree.host(), devno), None);
        assert_eq!(size_of(&tree.host(), devno), Sectors(1000));
        assert_eq!(size_of(&tree.host(), "253:2".parse().unwrap()), Sectors::ZERO);
    }
}
