//! Files that are there whole, or as they were before.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Puts a file with these bytes in the place of `path`, all at once; anybody may read it. `aside` is what it is called until it is
/// complete: a name in the same directory, which nobody else uses.
pub(super) fn replace(path: &Path, aside: &Path, bytes: &[u8]) -> io::Result<()> {
    // One that a killed command has left, or somebody else put there.
    let _ = fs::remove_file(aside);
    let mut file = OpenOptions::new().write(true).create_new(true).open(aside)?;
    let written = file
        .set_permissions(Permissions::from_mode(0o644))
        .and_then(|()| file.write_all(bytes))
        .and_then(|()| file.sync_data())
        .and_then(|()| fs::rename(aside, path));
    if written.is_err() {
        let _ = fs::remove_file(aside);
    }
    written
}
