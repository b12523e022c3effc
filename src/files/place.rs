//! Where a filesystem is mounted, and where its files are found there. Pure.

use crate::block::usage::MountPoint;
use std::path::{Path, PathBuf};

/// A filesystem: its type, and where it can be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Type (`ext4`).
    pub(super) kind: String,
    /// Whether it is mounted, perhaps where it cannot be seen.
    pub(super) mounted: bool,
    /// Where most of it can be seen.
    pub(super) mount: Option<MountPoint>,
}

impl Place {
    /// Of several mounts, one that nothing hides is taken, and one that shows most.
    pub(super) fn new(kind: String, mounts: Vec<MountPoint>) -> Place {
        let mounted = !mounts.is_empty();
        let mount =
            mounts.into_iter().filter(|mount| !mount.hidden).min_by_key(|mount| mount.root.components().count());
        Place { kind, mounted, mount }
    }

    /// Where a path from the root of the filesystem is found; `None` when it is not mounted there.
    pub(super) fn seen_at(&self, path: &str) -> Option<PathBuf> {
        let mount = self.mount.as_ref()?;
        let inside = Path::new(path).strip_prefix(&mount.root).ok()?;
        Some(if inside.as_os_str().is_empty() { mount.at.clone() } else { mount.at.join(inside) })
    }

    /// The path from the root of the filesystem of what is found at `seen`.
    pub(super) fn path_of(&self, seen: &Path) -> Option<String> {
        let mount = self.mount.as_ref()?;
        let path = mount.root.join(seen.strip_prefix(&mount.at).ok()?);
        let text = path.to_string_lossy().into_owned();
        // Joining nothing leaves a slash behind.
        Some(if text.len() > 1 { text.trim_end_matches('/').to_string() } else { text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(at: &str, root: &str, hidden: bool) -> MountPoint {
        MountPoint { at: at.into(), root: root.into(), kind: "btrfs".into(), hidden }
    }

    #[test]
    fn the_mount_that_shows_most_is_taken() {
        let place = Place::new("btrfs".into(), vec![mount("/a", "/@home", false), mount("/b", "/", true)]);
        assert_eq!((place.mounted, place.mount.unwrap().at), (true, "/a".into()));
        let place = Place::new("btrfs".into(), vec![mount("/a", "/x", false), mount("/b", "/", false)]);
        assert_eq!(place.mount.unwrap().at, PathBuf::from("/b"));
        let place = Place::new("btrfs".into(), vec![mount("/b", "/", true)]);
        assert!(place.mounted && place.mount.is_none());
    }

    #[test]
    fn paths_go_there_and_back() {
        let place = Place::new("btrfs".into(), vec![mount("/home", "/@home", false)]);
        assert_eq!(place.seen_at("/@home/a/b"), Some("/home/a/b".into()));
        assert_eq!(place.seen_at("/@home"), Some("/home".into()));
        assert_eq!(place.seen_at("/@homes/a"), None);
        assert_eq!(place.path_of(Path::new("/home/a/b")), Some("/@home/a/b".into()));
        assert_eq!(place.path_of(Path::new("/home")), Some("/@home".into()));
        let whole = Place::new("ext4".into(), vec![mount("/", "/", false)]);
        assert_eq!(whole.seen_at("/etc/x"), Some("/etc/x".into()));
        assert_eq!(whole.path_of(Path::new("/")), Some("/".into()));
    }
}
