//! The state of a search: which sectors are still open, and what was found for the others. Pure.
//!
//! Invariants:
//! - open ranges are sorted, disjoint, and part of what was asked for;
//! - a sector leaves the open ones only by being claimed, so nothing that was asked for is lost from the answer.

use super::owner::{Named, Owned, Owner};
use super::place::Place;
use crate::units::Range;
use std::collections::{BTreeMap, BTreeSet};

/// A file as the filesystem numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    /// Inode number.
    pub(super) inode: u64,
    /// Subvolume, where there are any.
    pub(super) subvolume: Option<u64>,
}

impl Id {
    /// An inode of a filesystem without subvolumes.
    pub(super) fn of(inode: u64) -> Id {
        Id { inode, subvolume: None }
    }
}

/// What was found in some sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hit {
    /// The content of this inode.
    Inode(Id),
    /// Metadata that belongs to one inode: what, and to which.
    Part(&'static str, Id),
    /// Everything else.
    Owner(Owner),
}

impl Hit {
    /// Metadata of the filesystem.
    pub(super) fn metadata(what: impl Into<String>) -> Hit {
        Hit::Owner(Owner::Metadata { what: what.into() })
    }

    /// The reason why it is not known.
    pub(super) fn unknown(why: impl Into<String>) -> Hit {
        Hit::Owner(Owner::Unknown { why: why.into() })
    }
}

/// What is known of an inode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Inode {
    /// Its paths from the root of the filesystem.
    pub(super) paths: Vec<String>,
    /// Whether it is a directory.
    pub(super) directory: bool,
    /// What has to be known of its names, as a phrase.
    pub(super) note: Option<&'static str>,
}

/// A search.
#[derive(Debug)]
pub(super) struct Search {
    asked: Vec<Range>,
    open: Vec<Range>,
    found: Vec<(Range, Hit, Option<&'static str>)>,
    inodes: BTreeMap<Id, Inode>,
    nameless: Option<String>,
    remark: Option<&'static str>,
}

impl Search {
    /// A search for what owns these sectors, which are sorted and disjoint.
    pub(super) fn new(asked: Vec<Range>) -> Search {
        let open = asked.clone();
        Search { asked, open, found: Vec::new(), inodes: BTreeMap::new(), nameless: None, remark: None }
    }

    /// Whether nothing is open any more.
    pub(super) fn is_done(&self) -> bool {
        self.open.is_empty()
    }

    /// What is still open.
    pub(super) fn open(&self) -> &[Range] {
        &self.open
    }

    /// Whether anything inside `range` was asked for.
    pub(super) fn asked_in(&self, range: Range) -> bool {
        !overlapping(&self.asked, range).is_empty()
    }

    /// Whether anything inside `range` is open.
    pub(super) fn open_in(&self, range: Range) -> bool {
        !overlapping(&self.open, range).is_empty()
    }

    /// Says what the open sectors inside `range` are.
    pub(super) fn claim(&mut self, range: Range, hit: &Hit, note: Option<&'static str>) {
        let span = overlapping_span(&self.open, range);
        let touched: Vec<Range> = self.open.get(span.clone()).unwrap_or_default().to_vec();
        let left = touched.iter().flat_map(|part| part.without(&[range]));
        self.open.splice(span, left.collect::<Vec<_>>());
        self.record(&touched, range, hit, note);
    }

    /// Says what *also* has the sectors inside `range`, claimed or not: blocks that several files share.
    pub(super) fn share(&mut self, range: Range, hit: &Hit, note: Option<&'static str>) {
        let asked = overlapping(&self.asked, range).to_vec();
        self.claim(range, hit, note);
        for part in asked.iter().filter_map(|part| part.intersect(range)) {
            // What was just claimed, or is there already, is not said twice.
            let same = |entry: &&(Range, Hit, _)| entry.1 == *hit && entry.0.overlaps(part);
            let mut known: Vec<Range> = self.found.iter().filter(same).map(|entry| entry.0).collect();
            known.sort_unstable();
            for rest in part.without(&known) {
                self.found.push((rest, hit.clone(), note));
            }
        }
    }

    fn record(&mut self, touched: &[Range], range: Range, hit: &Hit, note: Option<&'static str>) {
        let parts = touched.iter().filter_map(|part| part.intersect(range));
        self.found.extend(parts.map(|part| (part, hit.clone(), note)));
    }

    /// Says of all open sectors what they are.
    pub(super) fn rest(&mut self, owner: impl Fn(Range) -> Owner) {
        for range in std::mem::take(&mut self.open) {
            self.found.push((range, Hit::Owner(owner(range)), None));
        }
    }

    /// Says of all open sectors why they are not known.
    pub(super) fn rest_unknown(&mut self, why: &str) {
        self.rest(|_| Owner::Unknown { why: why.to_string() });
    }

    /// Adds sectors that were not searched for at all.
    pub(super) fn add_unknown(&mut self, range: Range, why: String) {
        self.found.push((range, Hit::unknown(why), None));
    }

    /// The inodes that were found, and have no names yet.
    pub(super) fn nameless(&self) -> BTreeSet<Id> {
        let ids = self.found.iter().filter_map(|(_, hit, _)| match hit {
            Hit::Inode(id) | Hit::Part(_, id) => Some(*id),
            Hit::Owner(_) => None,
        });
        ids.filter(|id| self.inodes.get(id).is_none_or(|inode| inode.paths.is_empty())).collect()
    }

    /// What is known of an inode, to be added to.
    pub(super) fn inode(&mut self, id: Id) -> &mut Inode {
        self.inodes.entry(id).or_default()
    }

    /// Says why some inodes stay without a name; the first reason is kept.
    pub(super) fn no_names(&mut self, why: String) {
        self.nameless.get_or_insert(why);
    }

    /// Says something of all that has no note of its own.
    pub(super) fn remark(&mut self, text: &'static str) {
        self.remark = Some(text);
    }

    /// The answer: in order, neighbours with one owner joined.
    pub(super) fn finish(mut self, place: Option<&Place>) -> Vec<Owned> {
        self.rest_unknown("not looked up");
        let mut found = std::mem::take(&mut self.found);
        found.sort_by_key(|(range, ..)| *range);
        let mut out: Vec<Owned> = Vec::new();
        for (range, hit, note) in found {
            let next = self.owned(range, hit, note, place);
            // Files that share blocks stand side by side, so the one to join with may be some places back.
            const SHARED: usize = 16;
            let before =
                out.iter_mut().rev().take(SHARED).find(|last| {
                    last.range.end() == range.start() && last.owner == next.owner && last.note == next.note
                });
            match before.and_then(|last| Some((Range::between(last.range.start(), range.end())?, last))) {
                Some((joined, last)) => last.range = joined,
                None => out.push(next),
            }
        }
        out.sort_by_key(|owned| owned.range);
        out
    }

    fn owned(&self, range: Range, hit: Hit, note: Option<&'static str>, place: Option<&Place>) -> Owned {
        let mut note = note.map(String::from);
        let owner = match hit {
            Hit::Owner(owner) => owner,
            Hit::Inode(id) => {
                let (named, directory) = self.named(id, place);
                let of_names = self.inodes.get(&id).and_then(|inode| inode.note).map(String::from);
                note = note.or(of_names).or_else(|| self.nameless.clone().filter(|_| named.paths.is_empty()));
                if directory { Owner::Directory(named) } else { Owner::File(named) }
            }
            Hit::Part(what, id) => {
                let (named, _) = self.named(id, place);
                let names = if named.seen_at.is_empty() { &named.paths } else { &named.seen_at };
                let of = if names.is_empty() { String::new() } else { format!(" of {}", names.join(" = ")) };
                Owner::Metadata { what: format!("{what}{of} (inode {})", id.inode) }
            }
        };
        let nowhere = matches!(owner, Owner::NoFilesystem { .. });
        if !matches!(owner, Owner::Unknown { .. }) {
            note = note.or_else(|| self.remark.map(String::from));
        }
        let place = place.filter(|_| !nowhere);
        let at = place.and_then(|place| place.mount.as_ref()).map(|mount| mount.at.to_string_lossy().into_owned());
        Owned { range, owner, filesystem: place.map(|place| place.kind.clone()), mount_point: at, note }
    }

    fn named(&self, id: Id, place: Option<&Place>) -> (Named, bool) {
        let inode = self.inodes.get(&id).cloned().unwrap_or_default();
        let seen = inode.paths.iter().filter_map(|path| place?.seen_at(path));
        let seen_at = seen.map(|path| path.to_string_lossy().into_owned()).collect();
        (Named { paths: inode.paths, seen_at, inode: id.inode, subvolume: id.subvolume }, inode.directory)
    }
}

/// Which of the sorted and disjoint `ranges` share a sector with `range`.
fn overlapping_span(ranges: &[Range], range: Range) -> std::ops::Range<usize> {
    let first = ranges.partition_point(|part| part.end() <= range.start());
    let end = ranges.partition_point(|part| part.start() < range.end());
    first..end.max(first)
}

fn overlapping(ranges: &[Range], range: Range) -> &[Range] {
    ranges.get(overlapping_span(ranges, range)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Sectors, coalesce};
    use proptest::prelude::*;

    fn range(start: u64, len: u64) -> Range {
        Range::new(Sectors(start), Sectors(len)).unwrap()
    }

    #[test]
    fn shared_blocks_are_there_once_for_each_file() {
        let mut search = Search::new(vec![range(0, 16)]);
        search.share(range(0, 8), &Hit::Inode(Id::of(5)), None);
        search.share(range(0, 8), &Hit::Inode(Id::of(6)), None);
        search.share(range(8, 8), &Hit::Inode(Id::of(6)), None);
        search.share(range(4, 8), &Hit::Inode(Id::of(6)), None);
        search.inode(Id::of(5)).paths.push("/five".into());
        let found = search.finish(None);
        let rows: Vec<String> = found.iter().map(|owned| format!("{}: {}", owned.range, owned)).collect();
        assert_eq!(rows, ["0+8: /five (inode 5)", "0+16: without a known name (inode 6)"]);
    }

    proptest! {
        #[test]
        fn every_sector_is_answered_and_the_first_claim_counts(
            asked in prop::collection::vec((0u64..200, 1u64..20), 0..8),
            claims in prop::collection::vec((0u64..200, 1u64..40), 0..20),
        ) {
            let asked = coalesce(asked.iter().map(|&(s, l)| range(s, l)).collect());
            let mut search = Search::new(asked.clone());
            for (number, &(start, len)) in claims.iter().enumerate() {
                search.claim(range(start, len), &Hit::Inode(Id::of(number as u64 + 1)), None);
            }
            let answer = search.finish(None);
            for s in (0..260).map(Sectors) {
                let rows: Vec<&Owned> = answer.iter().filter(|owned| owned.range.contains(s)).collect();
                let was_asked = asked.iter().any(|range| range.contains(s));
                prop_assert_eq!(rows.len(), usize::from(was_asked));
                let Some(row) = rows.first() else { continue };
                let expected = claims.iter().position(|&(start, len)| range(start, len).contains(s));
                match &row.owner {
                    Owner::File(named) => prop_assert_eq!(Some(named.inode as usize - 1), expected),
                    other => prop_assert!(expected.is_none(), "{:?}", other),
                }
            }
        }
    }
}
