//! Which processes have a device open: for a person who wants to know why it cannot be taken down.
//!
//! Invariant: what is reported is really there; processes that may not be looked at are left out.

use super::host::{self, Host};
use crate::units::DevNo;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

impl Host {
    /// The processes that have the block device open by its number, each as `NAME (process ID)`, without our own.
    pub fn openers(&self, device: DevNo) -> Vec<String> {
        let own = std::process::id().to_string();
        let all = fs::read_dir(self.proc()).into_iter().flatten().flatten();
        let mut out = Vec::new();
        for entry in all {
            let id = entry.file_name().to_string_lossy().into_owned();
            if id == own || !id.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            let files = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
            // Only what leads into /dev is asked for its number: a file on a dead server would keep us waiting.
            let is_it = |file: &fs::DirEntry| {
                fs::read_link(file.path()).is_ok_and(|target| target.starts_with("/dev/"))
                    && fs::metadata(file.path())
                        .is_ok_and(|meta| meta.file_type().is_block_device() && host::devno(meta.rdev()) == device)
            };
            if files.into_iter().any(|file| is_it(&file)) {
                let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                out.push(format!("{} (process {id})", name.trim()));
            }
        }
        out.sort();
        out
    }
}
