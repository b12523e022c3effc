//! Reads what the out-of-tree dm-remap kernel module, and the tools around it, wrote on a spare.
//!
//! Invariants:
//! - pure and total: any bytes give metadata or an error, never a panic, and never more memory than the largest layout
//!   has room for (2,048 entries);
//! - nothing is believed silently: every entry carries its [`Doubt`]s, and what is merely odd is in the notes;
//! - a layout is never guessed: where two of them are on one device, the entries say so ([`Doubt::Mixed`]).
//!
//! The layouts (A, B and C below) are described in docs/FORMAT.md, "Layouts of the kernel module", as far as they are
//! known: by the module's disks.

mod doubts;
pub mod helper;
pub mod v3;
pub mod v4;

pub use doubts::{Doubt, Ground, Judged, judge};

use crate::units::Sectors;
use std::fmt;

/// Reads `len` bytes from byte `offset` of the device; the error is in words. It may give fewer bytes at the end.
pub type ReadBytes<'a> = &'a dyn Fn(u64, usize) -> Result<Vec<u8>, String>;

/// Which program wrote the metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A: version 4, which the 4.2 module writes.
    V4,
    /// B: the shell helper. It has no entries.
    Helper,
    /// C: version 3.
    V3,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layout::V4 => "version 4 of the kernel module",
            Layout::Helper => "the module's shell helper",
            Layout::V3 => "version 3 of the kernel module",
        })
    }
}

/// One remapped sector, as the module has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the module's table.
    pub index: usize,
    /// The sector of main.
    pub original: Sectors,
    /// The sector of the spare that has its data, counted from the start of the device.
    pub slot: Sectors,
    /// When it was made, nanoseconds since 1970; 0 where the layout has no time.
    pub time: u64,
    /// What the entry itself says about being in use.
    pub standing: Standing,
}

/// What an entry, and the choice of the copy that it is in, say about being in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Marked as pending: its data may never have been copied.
    pub pending: bool,
    /// Counted as in use, but marked neither active nor pending.
    pub inactive: bool,
    /// Beyond the number of entries in use, but marked active or pending.
    pub uncounted: bool,
    /// Another copy, which may be the newer one, does not have it, or has it elsewhere.
    pub disputed: bool,
    /// Metadata of another layout is on the device, too.
    pub mixed: bool,
}

/// What the module knew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleMetadata {
    /// Which layout it is.
    pub layout: Layout,
    /// Which copy was taken, and where it starts.
    pub copy: (usize, Sectors),
    /// Size of main as recorded; zero when it is not.
    pub main_sectors: Sectors,
    /// Size of the spare as recorded; zero when it is not.
    pub spare_sectors: Sectors,
    /// The UUIDs of main and spare, the paths, or the model, where they are recorded: name and value.
    pub names: Vec<(&'static str, String)>,
    /// All entries, in the order of the table.
    pub entries: Vec<Entry>,
    /// First sector of the spare that the module's own metadata does not use.
    pub metadata_end: Sectors,
    /// Things that a person ought to know.
    pub notes: Vec<String>,
}

/// Why there is nothing to read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModuleError {
    /// No layout that is known.
    #[error("it holds no metadata of the dm-remap kernel module")]
    None,
    /// It is the module's, and cannot be used.
    #[error("it holds metadata of {layout}, and no copy of it can be used: {}", why.join("; "))]
    Unusable {
        /// The layout.
        layout: Layout,
        /// What is wrong with each copy.
        why: Vec<String>,
    },
    /// The copy that was asked for cannot be used.
    #[error("copy {index} of {layout} cannot be used: {why}")]
    Copy {
        /// The layout.
        layout: Layout,
        /// Which copy.
        index: usize,
        /// What is wrong.
        why: String,
    },
}

/// Reads the metadata of the module, whatever its layout. `copy` takes that copy of layout A or B instead of the newest.
///
/// The layout that stands at sector 0 was written last, as all of them begin there. The shell helper's has no entries;
/// if the module's copies lie behind it, they are taken, and their entries are in doubt.
///
/// # Errors
/// [`ModuleError`].
pub fn read_module_metadata(read: ReadBytes<'_>, copy: Option<usize>) -> Result<ModuleMetadata, ModuleError> {
    let v4 = v4::read(read, copy);
    let helper = helper::read(read, copy);
    let v3 = v3::read(read);
    // What another layout would say does not matter once it is the only thing that is wrong.
    let found = [v4.is_ok(), helper.is_ok(), v3.is_ok()].into_iter().filter(|found| *found).count();
    let mut taken = match (v4, helper, v3) {
        // Each begins at sector 0, so what stands there is the younger of the two.
        (_, _, Ok(v3)) => v3,
        (Ok(v4), _, _) => v4,
        // Copies of the module that are all damaged must not be passed over for a helper's that say nothing.
        (Err(damaged @ (ModuleError::Unusable { .. } | ModuleError::Copy { .. })), _, _) => return Err(damaged),
        (Err(ModuleError::None), Ok(helper), _) => helper,
        (_, Err(damaged @ (ModuleError::Unusable { .. } | ModuleError::Copy { .. })), _) => return Err(damaged),
        (_, _, Err(error)) => return Err(error),
    };
    // The helper's copies 2 to 4 lie behind those of the module: they are old unless one stands before them.
    let helper_first = helper::is_at(read, 0);
    if found > 1 && (taken.layout == Layout::V3 || helper_first) {
        taken.entries.iter_mut().for_each(|entry| entry.standing.mixed = true);
        taken
            .notes
            .push("metadata of more than one layout is on the device: the entries may be of an earlier setup".into());
    } else if found > 1 {
        taken.notes.push("older metadata of the shell helper is on the device, too; it has no entries".into());
    }
    Ok(taken)
}

/// Judges arbitrary bytes as a device, with each layout's reader: what a fuzz target calls. Returns the entries read.
pub fn read_all_layouts(device: &[u8]) -> usize {
    let read = |offset: u64, len: usize| -> Result<Vec<u8>, String> {
        let rest = usize::try_from(offset).ok().and_then(|at| device.get(at..)).unwrap_or_default();
        Ok(rest.get(..len).unwrap_or(rest).to_vec())
    };
    let one = |result: Result<ModuleMetadata, ModuleError>| -> usize {
        result.map_or(0, |metadata| {
            let end = Sectors(u64::try_from(device.len() / 512).unwrap_or(0));
            judge(&metadata, &Ground { main: end, spare: end, in_place: true }).len()
        })
    };
    one(v4::read(&read, None))
        + one(helper::read(&read, None))
        + one(v3::read(&read))
        + one(read_module_metadata(&read, None))
}

/// A field of `N` bytes.
fn field<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes.get(offset..).and_then(|rest| rest.first_chunk::<N>()).copied().unwrap_or([0; N])
}

fn le16(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(field(bytes, offset))
}

fn le32(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(field(bytes, offset))
}

fn le64(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(field(bytes, offset))
}

/// Text in a field of `len` bytes, padded with zeros or blanks; `None` when nothing printable is left.
fn text(bytes: &[u8], offset: usize, len: usize) -> Option<String> {
    let raw = bytes.get(offset..offset.checked_add(len)?)?;
    let raw = raw.split(|byte| *byte == 0).next().unwrap_or_default();
    let text: String = String::from_utf8_lossy(raw).chars().filter(|c| !c.is_control()).collect();
    let text = text.trim().to_string();
    if text.is_empty() { None } else { Some(text) }
}

#[cfg(test)]
#[path = "foreign_module_tests.rs"]
mod tests;
