//! The answer: what owns sectors, for people and for programs.

use crate::units::Range;
use serde::Serialize;
use std::fmt;

/// What owns a run of sectors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Owned {
    /// The sectors.
    pub range: Range,
    /// What owns them.
    #[serde(flatten)]
    pub owner: Owner,
    /// Type of the filesystem (`ext4`); `None` when there is none, or it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<String>,
    /// Where that is mounted, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_point: Option<String>,
    /// What has to be known beside it, as a phrase.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// The kinds of owners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "owner", rename_all = "snake_case")]
pub enum Owner {
    /// The content of a file (or of a symbolic link).
    File(Named),
    /// The entries of a directory.
    Directory(Named),
    /// Something of the filesystem itself.
    Metadata {
        /// What, as a phrase.
        what: String,
    },
    /// The filesystem's journal.
    Journal,
    /// Nothing: no file has it.
    FreeSpace,
    /// There is no filesystem.
    NoFilesystem {
        /// What there is instead; `None` when nothing was recognised.
        #[serde(skip_serializing_if = "Option::is_none")]
        found: Option<String>,
    },
    /// It could not be found out.
    Unknown {
        /// Why, as a phrase.
        why: String,
    },
}

/// A file or directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Named {
    /// Its paths from the root of the filesystem, several for hard links; none when they could not be found.
    /// Bytes that are not UTF-8 stand as U+FFFD.
    pub paths: Vec<String>,
    /// Where these are found now, as far as the filesystem is mounted.
    pub seen_at: Vec<String>,
    /// Its inode number.
    pub inode: u64,
    /// The subvolume that it is in, for btrfs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subvolume: Option<u64>,
}

/// The text with control characters escaped, so that a name can do nothing to a terminal.
pub(super) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // The marks that change the direction of text can make one name look like another.
        if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

impl fmt::Display for Owned {
    /// `/srv/mail/box (inode 1234, ext4 mounted at /srv)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = match (&self.filesystem, &self.mount_point) {
            (Some(kind), Some(at)) => format!("{kind} mounted at {}", printable(at)),
            (Some(kind), None) => format!("{kind}, not mounted"),
            _ => String::new(),
        };
        let within = if on.is_empty() { String::new() } else { format!(" ({on})") };
        match &self.owner {
            Owner::File(named) => named.write(f, "", &on)?,
            Owner::Directory(named) => named.write(f, "the directory ", &on)?,
            Owner::Metadata { what } => write!(f, "metadata: {}{within}", printable(what))?,
            Owner::Journal => write!(f, "the journal{within}")?,
            Owner::FreeSpace => write!(f, "free space{within}")?,
            Owner::NoFilesystem { found: None } => f.write_str("no filesystem is known there")?,
            Owner::NoFilesystem { found: Some(found) } => write!(f, "no filesystem, but {}", printable(found))?,
            Owner::Unknown { why } => write!(f, "unknown: {}", printable(why))?,
        }
        self.note.as_ref().map_or(Ok(()), |note| write!(f, "; {}", printable(note)))
    }
}

impl Named {
    fn write(&self, f: &mut fmt::Formatter<'_>, before: &str, on: &str) -> fmt::Result {
        let names = if self.seen_at.is_empty() { &self.paths } else { &self.seen_at };
        let names: Vec<String> = names.iter().map(|name| printable(name)).collect();
        // The subvolume that all others are in goes without saying.
        const TOP: u64 = 5;
        let subvolume = self.subvolume.filter(|id| *id != TOP);
        let subvolume = subvolume.map(|id| format!(" of subvolume {id}")).unwrap_or_default();
        let on = if on.is_empty() { String::new() } else { format!(", {on}") };
        let name = if names.is_empty() { "without a known name".to_string() } else { names.join(" = ") };
        write!(f, "{before}{name} (inode {}{subvolume}{on})", self.inode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Sectors;

    fn owned(owner: Owner, mount_point: Option<&str>) -> Owned {
        let range = Range::new(Sectors(8), Sectors(2)).unwrap();
        Owned { range, owner, filesystem: Some("ext4".into()), mount_point: mount_point.map(Into::into), note: None }
    }

    fn named(paths: &[&str], seen_at: &[&str]) -> Named {
        let list = |texts: &[&str]| texts.iter().map(|t| t.to_string()).collect();
        Named { paths: list(paths), seen_at: list(seen_at), inode: 1234, subvolume: None }
    }

    #[test]
    fn people_read_where_the_file_is() {
        let file = owned(Owner::File(named(&["/mail/box"], &["/srv/mail/box"])), Some("/srv"));
        assert_eq!(file.to_string(), "/srv/mail/box (inode 1234, ext4 mounted at /srv)");
        let links = owned(Owner::File(named(&["/a", "/b c"], &[])), None);
        assert_eq!(links.to_string(), "/a = /b c (inode 1234, ext4, not mounted)");
        let nameless = owned(Owner::Directory(named(&[], &[])), None);
        assert_eq!(nameless.to_string(), "the directory without a known name (inode 1234, ext4, not mounted)");
        let mut free = owned(Owner::FreeSpace, Some("/srv"));
        free.note = Some("so it seems".into());
        assert_eq!(free.to_string(), "free space (ext4 mounted at /srv); so it seems");
        assert_eq!(owned(Owner::Journal, None).to_string(), "the journal (ext4, not mounted)");
    }

    #[test]
    fn a_name_can_do_nothing_to_a_terminal() {
        let file = owned(Owner::File(named(&["/a\u{1b}[31m\nb\u{202e}txt é"], &[])), None);
        assert_eq!(file.to_string(), "/a\\u{1b}[31m\\nb\\u{202e}txt é (inode 1234, ext4, not mounted)");
    }

    #[test]
    fn programs_get_one_object_for_each_run() {
        let json = |owned: &Owned| serde_json::to_value(owned).unwrap();
        assert_eq!(
            json(&owned(Owner::File(named(&["/x"], &["/srv/x"])), Some("/srv"))),
            serde_json::json!({
                "range": { "start": 8, "count": 2 }, "owner": "file", "paths": ["/x"], "seen_at": ["/srv/x"],
                "inode": 1234, "filesystem": "ext4", "mount_point": "/srv",
            })
        );
        assert_eq!(json(&owned(Owner::FreeSpace, None))["owner"], "free_space");
        assert_eq!(json(&owned(Owner::Metadata { what: "w".into() }, None))["what"], "w");
    }
}
