//! One line of a device-mapper table, as a type, written and read in the kernel's own words.
//!
//! Source of the parameter forms: Documentation/admin-guide/device-mapper/{linear,dm-flakey,dm-dust,switch}.rst
//! and the `STATUSTYPE_TABLE` branches of the targets.

use crate::units::{DevNo, Sectors};
use std::fmt;

/// Sectors in a region of our `switch` targets: the largest power of two that the kernel takes, so that no I/O is split
/// and the table of regions, which nobody needs with one path, stays small.
const SWITCH_REGION: u64 = 1 << 31;

/// What a piece of a table does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetKind {
    /// Passes I/O to `device` at `offset`.
    Linear {
        /// Destination device.
        device: DevNo,
        /// First sector on it.
        offset: Sectors,
    },
    /// Answers everything with EIO.
    Error,
    /// Reads fail with EIO, writes pass (`flakey` that is always down, with `error_reads`).
    FlakeyErrorReads {
        /// Destination device.
        device: DevNo,
        /// First sector on it.
        offset: Sectors,
    },
    /// Reads of listed blocks fail until the block is written.
    Dust {
        /// Destination device.
        device: DevNo,
        /// First sector on it.
        offset: Sectors,
        /// Block size in bytes.
        block_bytes: u32,
    },
    /// Passes I/O to `device` at `offset` plus the distance from the target's begin, and takes no part in flushes:
    /// `switch` with one path and the largest regions.
    Switch {
        /// Destination device.
        device: DevNo,
        /// First sector on it.
        offset: Sectors,
    },
    /// A target that we did not make.
    Other(Box<OtherTarget>),
}

/// A target that we did not make. (In a box, because it is larger than the others, and rare.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherTarget {
    /// Target type, such as `thin`.
    pub name: String,
    /// Its parameters.
    pub params: String,
}

// There may be 200,000 lines in a table, and several tables at once.
const _: () = assert!(size_of::<Target>() <= 40);

/// One line of a table: `start len kind`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// First sector of the piece, in the device that has the table.
    pub start: Sectors,
    /// Sectors in the piece.
    pub len: Sectors,
    /// What it does.
    pub kind: TargetKind,
}

/// A table line that says something impossible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {name} target has parameters that cannot be read: '{params}'")]
pub struct TargetParseError {
    /// Target type.
    pub name: String,
    /// Its parameters.
    pub params: String,
}

impl TargetKind {
    /// A target of another type.
    pub fn other(name: impl Into<String>, params: impl Into<String>) -> TargetKind {
        TargetKind::Other(Box::new(OtherTarget { name: name.into(), params: params.into() }))
    }

    /// The target type's name in the kernel.
    pub fn name(&self) -> &str {
        match self {
            TargetKind::Linear { .. } => "linear",
            TargetKind::Error => "error",
            TargetKind::FlakeyErrorReads { .. } => "flakey",
            TargetKind::Dust { .. } => "dust",
            TargetKind::Switch { .. } => "switch",
            TargetKind::Other(other) => &other.name,
        }
    }

    /// The parameters, as LOAD takes them.
    pub fn params(&self) -> String {
        match self {
            TargetKind::Linear { device, offset } => format!("{device} {offset}"),
            TargetKind::Error => String::new(),
            TargetKind::FlakeyErrorReads { device, offset } => {
                format!("{device} {offset} 0 1 1 error_reads")
            }
            TargetKind::Dust { device, offset, block_bytes } => {
                format!("{device} {offset} {block_bytes}")
            }
            TargetKind::Switch { device, offset } => {
                format!("1 {SWITCH_REGION} 0 {device} {offset}")
            }
            TargetKind::Other(other) => other.params.clone(),
        }
    }

    /// Reads what the kernel's table query gives back.
    pub fn parse(name: &str, params: &str) -> Result<TargetKind, TargetParseError> {
        let bad = || TargetParseError { name: name.into(), params: params.into() };
        let mut words = params.split_ascii_whitespace();
        let mut place = || -> Option<(DevNo, Sectors)> {
            Some((words.next()?.parse().ok()?, Sectors(words.next()?.parse().ok()?)))
        };
        match name {
            "linear" => {
                let (device, offset) = place().ok_or_else(bad)?;
                Ok(TargetKind::Linear { device, offset })
            }
            "error" => Ok(TargetKind::Error),
            "flakey" => {
                let (device, offset) = place().ok_or_else(bad)?;
                let rest: Vec<&str> = words.collect();
                if rest == ["0", "1", "1", "error_reads"] {
                    Ok(TargetKind::FlakeyErrorReads { device, offset })
                } else {
                    Ok(TargetKind::other(name, params))
                }
            }
            "dust" => {
                let (device, offset) = place().ok_or_else(bad)?;
                let block_bytes = words.next().and_then(|w| w.parse().ok()).ok_or_else(bad)?;
                Ok(TargetKind::Dust { device, offset, block_bytes })
            }
            "switch" => Ok(one_path(params).unwrap_or_else(|| TargetKind::other(name, params))),
            _ => Ok(TargetKind::other(name, params)),
        }
    }
}

/// A `switch` of ours: one path, regions of [`SWITCH_REGION`], no optional arguments.
fn one_path(params: &str) -> Option<TargetKind> {
    let rest = params.strip_prefix(&format!("1 {SWITCH_REGION} 0 "))?;
    let (device, offset) = rest.split_once(' ')?;
    Some(TargetKind::Switch { device: device.parse().ok()?, offset: Sectors(offset.parse().ok()?) })
}

impl fmt::Display for Target {
    /// The line as `dmsetup table` prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.start, self.len, self.kind.name())?;
        let params = self.kind.params();
        if params.is_empty() { Ok(()) } else { write!(f, " {params}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_reads_back_what_it_writes() {
        let device = DevNo { major: 8, minor: 17 };
        for kind in [
            TargetKind::Linear { device, offset: Sectors(7) },
            TargetKind::Error,
            TargetKind::FlakeyErrorReads { device, offset: Sectors(0) },
            TargetKind::Dust { device, offset: Sectors(3), block_bytes: 512 },
            TargetKind::Switch { device, offset: Sectors(8) },
            TargetKind::other("switch", "2 128 0 8:1 0 8:2 0"),
            TargetKind::other("thin", "253:1 7"),
        ] {
            assert_eq!(TargetKind::parse(kind.name(), &kind.params()), Ok(kind));
        }
        assert!(TargetKind::parse("linear", "8:1").is_err());
        assert!(TargetKind::parse("dust", "8:1 0 x").is_err());
    }
}
