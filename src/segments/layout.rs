//! Which layout a map's tables have.

use serde::Serialize;
use std::fmt;

/// How a map becomes tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// One table of linear pieces.
    #[default]
    Flat,
    /// A short table over two private devices: see `switched.rs`.
    Switched,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layout::Flat => "flat",
            Layout::Switched => "switched",
        })
    }
}

/// Extents from which [`LayoutRule::Auto`] takes the switched layout where the kernel sends a flush for every piece of a
/// table (before 6.11): each costs the disks below a flush of their caches.
const FROM_WITH_FLUSH_PER_TARGET: usize = 64;
/// The same for kernels that send one for every device: there a flat table is as fast as none, and what counts is for how long
/// a splice stops I/O. (Measured: docs/BENCHMARKS.md, "Many extents".)
const FROM: usize = 12_288;

/// Who decides about the layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LayoutRule {
    /// Nobody: it stays what it is, flat for a setup that comes up.
    #[default]
    Keep,
    /// It is this one.
    Fixed(Layout),
    /// The number of extents: switched once there are so many, and from then on as long as the setup is up. A layout
    /// that goes back and forth with the number would cost more than it gives.
    Auto {
        /// Fewest extents for the switched layout.
        from: usize,
    },
}

impl LayoutRule {
    /// The rule for a kernel of this release (`uname -r`). One that cannot be read is taken for an old one.
    pub fn auto(release: &str) -> LayoutRule {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().ok());
        let version = numbers.next().flatten().zip(numbers.next().flatten());
        let merges = version.is_some_and(|version| version >= (6, 11));
        LayoutRule::Auto { from: if merges { FROM } else { FROM_WITH_FLUSH_PER_TARGET } }
    }

    /// The layout for a map with so many extents, whose setup has the `live` one.
    pub fn choose(self, live: Layout, extents: usize) -> Layout {
        match self {
            LayoutRule::Keep => live,
            LayoutRule::Fixed(layout) => layout,
            LayoutRule::Auto { from } if extents >= from => Layout::Switched,
            LayoutRule::Auto { .. } => live,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_release_decides_from_how_many_extents_on() {
        for (release, from) in [
            ("6.1.0-32-amd64", 64),
            ("6.10.3", 64),
            ("6.11.0-rc1", 12_288),
            ("6.12.74+deb13", 12_288),
            ("7.0", 12_288),
            ("x", 64),
        ] {
            assert_eq!(LayoutRule::auto(release), LayoutRule::Auto { from }, "{release}");
        }
    }

    #[test]
    fn a_layout_is_not_left_while_the_setup_is_up_unless_somebody_says_so() {
        let auto = LayoutRule::Auto { from: 10 };
        assert_eq!(auto.choose(Layout::Flat, 9), Layout::Flat);
        assert_eq!(auto.choose(Layout::Flat, 10), Layout::Switched);
        assert_eq!(auto.choose(Layout::Switched, 0), Layout::Switched);
        assert_eq!(LayoutRule::Keep.choose(Layout::Flat, 1 << 20), Layout::Flat);
        assert_eq!(LayoutRule::Fixed(Layout::Flat).choose(Layout::Switched, 1 << 20), Layout::Flat);
    }
}
