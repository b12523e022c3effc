//! One copy: building its bytes, and judging bytes that were read from where one should be.
//!
//! Invariants:
//! - every byte of a copy, padding included, is under a checksum;
//! - a verdict is given for any bytes whatsoever, without panic;
//! - valid means: all checksums right, all sections decoded, and [`Metadata::check`] passed.

use super::header::{HEADER_BYTES, MAX_SECTIONS, RawHeader, RawSection, VERSION, kind, salted};
use super::metadata::{Ancestor, Config, Health, MAX_LINEAGE, Metadata, SpareRecord};
use super::{COPY_ALIGNMENT, COPY_MAX_BYTES, COPY_STARTS, header, map_section};
use crate::map::{Map, SpareIndex};
use crate::units::{Range, Sectors};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, VecDeque};
use uuid::Uuid;
use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What is wrong with a copy that was one of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Everything but the magic is right.
    #[error("the magic is damaged")]
    Magic,
    /// The header's checksum is wrong.
    #[error("the header is damaged")]
    Header,
    /// It is another copy of a spare, written in the wrong place.
    #[error("this is copy {0}, in the wrong place")]
    Misplaced(u32),
    /// A section's checksum is wrong.
    #[error("the {} section is damaged", kind::name(*.0))]
    Section(u32),
    /// The padding between the sections is damaged.
    #[error("the bytes between the sections are damaged")]
    Padding,
    /// The checksums are right, but the content makes no sense.
    #[error("the content makes no sense: {0}")]
    Content(String),
}

/// Why a copy cannot be used by this version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// A later format.
    #[error("format version {0}; this program knows version 1")]
    Version(u32),
    /// Feature flags that must be known.
    #[error("unknown incompatible feature flags {0:#x}; a newer dm-remap is needed")]
    Features(u64),
}

/// What was found where a copy should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The device could not read it: at which sector, and what it said.
    Unreadable {
        /// First sector of the request that failed.
        sector: Sectors,
        /// The error in words.
        reason: String,
    },
    /// Zeros.
    Blank,
    /// Somebody else's data: whose, where that can be told.
    Foreign(String),
    /// One of ours, but damaged.
    Damaged(Damage),
    /// One of ours, but from a later version.
    Unsupported(Unsupported),
    /// All in order.
    Valid(Box<ValidCopy>),
}

/// A copy in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidCopy {
    /// The spare that it was written for.
    pub spare: Uuid,
    /// SHA-256 of the content.
    pub digest: [u8; 32],
    /// First sector of this spare's data area.
    pub data_start: Sectors,
    /// Bytes that the copy takes.
    pub len: usize,
    /// What it says.
    pub metadata: Metadata,
}

/// Metadata that does not fit into a copy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Too large.
    #[error("metadata full: {needed} bytes are needed and a copy has room for {COPY_MAX_BYTES}")]
    Full {
        /// Bytes that the content would take.
        needed: usize,
    },
    /// It contradicts itself; writing it would make it unreadable.
    #[error("refusing to write metadata that contradicts itself: {0}")]
    Inconsistent(#[from] super::metadata::Inconsistency),
    /// Too many sections.
    #[error("{0} sections do not fit into the header")]
    Sections(usize),
    /// JSON could not be made.
    #[error("cannot encode the {0} section: {1}")]
    Json(&'static str, String),
}

/// A commit as bytes, ready to be stamped for each spare and copy.
#[derive(Clone, Debug)]
pub struct Encoded {
    header: RawHeader,
    /// The whole copy; the first 512 bytes are set by [`Encoded::stamp`].
    template: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct SparesSection {
    spares: Vec<SpareRecord>,
}

/// One bad run of a spare.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawBadRun {
    spare: U64,
    start: U64,
    len: U64,
}

/// One earlier commit.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawAncestor {
    generation: U64,
    digest: [u8; 32],
}

const _: () = {
    assert!(size_of::<RawBadRun>() == 24);
    assert!(size_of::<RawAncestor>() == 40);
};

/// Encodes metadata, all but what differs between copies.
///
/// # Errors
/// [`EncodeError`]; in particular [`EncodeError::Full`] when the map is too large.
pub fn encode(metadata: &Metadata) -> Result<Encoded, EncodeError> {
    metadata.check()?;
    let sections = sections_of(metadata)?;
    if sections.len() > MAX_SECTIONS {
        return Err(EncodeError::Sections(sections.len()));
    }
    let mut template = vec![0; HEADER_BYTES];
    let mut table = [RawSection { kind: 0.into(), offset: 0.into(), len: 0.into(), crc: 0.into() }; MAX_SECTIONS];
    let full = |needed| EncodeError::Full { needed };
    for ((kind, bytes), entry) in sections.iter().zip(&mut table) {
        template.resize(template.len().next_multiple_of(8), 0);
        entry.kind = (*kind).into();
        entry.offset = u32::try_from(template.len()).map_err(|_| full(template.len()))?.into();
        entry.len = u32::try_from(bytes.len()).map_err(|_| full(bytes.len()))?.into();
        template.extend_from_slice(bytes);
    }
    template.resize(template.len().next_multiple_of(COPY_ALIGNMENT), 0);
    if template.len() > COPY_MAX_BYTES {
        return Err(full(template.len()));
    }
    let header = RawHeader {
        compatible: metadata.compatible.into(),
        incompatible: metadata.incompatible_flags().into(),
        setup: *metadata.setup.as_bytes(),
        generation: metadata.generation.into(),
        committed: metadata.committed.into(),
        total_len: u32::try_from(template.len()).map_err(|_| full(template.len()))?.into(),
        section_count: u32::try_from(sections.len()).unwrap_or(u32::MAX).into(),
        digest: content_digest(metadata, &sections),
        sections: table,
        ..RawHeader::blank()
    };
    Ok(Encoded { header, template })
}

/// Bytes that the content of a copy takes, without the padding at its end, whether they fit or not.
///
/// # Errors
/// [`EncodeError`], but never [`EncodeError::Full`].
pub fn content_len(metadata: &Metadata) -> Result<usize, EncodeError> {
    metadata.check()?;
    let sections = sections_of(metadata)?;
    Ok(sections.iter().fold(HEADER_BYTES, |len, (_, bytes)| len.next_multiple_of(8).saturating_add(bytes.len())))
}

fn sections_of(metadata: &Metadata) -> Result<Vec<(u32, Vec<u8>)>, EncodeError> {
    let json =
        |name, result: Result<Vec<u8>, serde_json::Error>| result.map_err(|e| EncodeError::Json(name, e.to_string()));
    let spares = SparesSection { spares: metadata.spares.clone() };
    let mut bad = Vec::new();
    for (spare, runs) in &metadata.bad_blocks {
        for run in runs {
            let raw =
                RawBadRun { spare: u64::from(spare.0).into(), start: run.start().0.into(), len: run.len().0.into() };
            bad.extend_from_slice(raw.as_bytes());
        }
    }
    let mut lineage = Vec::new();
    for ancestor in &metadata.lineage {
        let raw = RawAncestor { generation: ancestor.generation.into(), digest: ancestor.digest };
        lineage.extend_from_slice(raw.as_bytes());
    }
    let mut sections = vec![
        (kind::CONFIGURATION, json("configuration", serde_json::to_vec_pretty(&metadata.config))?),
        (kind::SPARES, json("spares", serde_json::to_vec_pretty(&spares))?),
        (kind::MAP, map_section::encode(&metadata.map)),
        (kind::HEALTH, json("health", serde_json::to_vec_pretty(&metadata.health))?),
        (kind::BAD_BLOCKS, bad),
        (kind::LINEAGE, lineage),
    ];
    sections.extend(metadata.unknown_sections.iter().cloned());
    Ok(sections)
}

/// SHA-256 over setup UUID, generation, commit time, feature flags and all sections (kind, length, bytes).
/// Two commits with the same generation and different digests are divergent.
fn content_digest(metadata: &Metadata, sections: &[(u32, Vec<u8>)]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(metadata.setup.as_bytes());
    hash.update(metadata.generation.to_le_bytes());
    hash.update(metadata.committed.to_le_bytes());
    hash.update(metadata.compatible.to_le_bytes());
    hash.update(metadata.incompatible_flags().to_le_bytes());
    for (kind, bytes) in sections {
        hash.update(kind.to_le_bytes());
        hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
        hash.update(bytes);
    }
    hash.finalize().into()
}

impl Encoded {
    /// Bytes that every copy takes: a multiple of [`COPY_ALIGNMENT`].
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.template.len()
    }

    /// SHA-256 of the content.
    pub fn digest(&self) -> [u8; 32] {
        self.header.digest
    }

    /// The generation that it carries.
    pub fn generation(&self) -> u64 {
        self.header.generation.get()
    }

    /// Writes copy `index` for the spare into `buf`, which must be [`Encoded::len`] long. Allocates nothing.
    pub fn stamp(&self, buf: &mut [u8], spare: Uuid, data_start: Sectors, index: u32) {
        let mut header = self.header;
        header.spare = *spare.as_bytes();
        header.copy_index = index.into();
        header.data_start = data_start.0.into();
        for entry in header.sections.iter_mut().filter(|e| e.kind.get() != 0) {
            let bytes = section_bytes(&self.template, entry).unwrap_or_default();
            let mut hash = salted(&header.spare, index);
            hash.update(bytes);
            entry.crc = hash.finalize().into();
        }
        let body = self.template.get(HEADER_BYTES..).unwrap_or_default();
        header.whole_crc = whole_crc(&header, body, index).into();
        header.header_crc = header.expected_crc(index).into();
        for (to, from) in buf.iter_mut().zip(header.as_bytes().iter().chain(body)) {
            *to = *from;
        }
    }
}

fn whole_crc(header: &RawHeader, body: &[u8], index: u32) -> u32 {
    let mut hash = salted(&header.spare, index);
    hash.update(header.as_bytes().get(..HEADER_BYTES - 8).unwrap_or_default());
    hash.update(body);
    hash.finalize()
}

fn section_bytes<'a>(copy: &'a [u8], entry: &RawSection) -> Option<&'a [u8]> {
    let start = usize::try_from(entry.offset.get()).ok()?;
    let end = start.checked_add(usize::try_from(entry.len.get()).ok()?)?;
    if start < HEADER_BYTES { None } else { copy.get(start..end) }
}

/// Judges a header alone.
///
/// # Errors
/// The verdict, when it is not a header that can be followed.
pub fn judge_header(head: &[u8], index: u32) -> Result<RawHeader, Verdict> {
    if head.iter().all(|&b| b == 0) {
        return Err(Verdict::Blank);
    }
    let Ok((header, _)) = RawHeader::read_from_prefix(head) else {
        return Err(Verdict::Damaged(Damage::Header));
    };
    if header.magic != header::MAGIC {
        let mended = RawHeader { magic: header::MAGIC, ..header };
        return Err(if mended.expected_crc(index) == mended.header_crc.get() {
            Verdict::Damaged(Damage::Magic)
        } else {
            Verdict::Foreign("not dm-remap metadata".into())
        });
    }
    let stated = header.copy_index.get();
    if header.expected_crc(index) != header.header_crc.get() || stated != index {
        let at_home_elsewhere = header.expected_crc(stated) == header.header_crc.get();
        return Err(Verdict::Damaged(if at_home_elsewhere && stated != index {
            Damage::Misplaced(stated)
        } else {
            Damage::Header
        }));
    }
    if header.version.get() != VERSION {
        return Err(Verdict::Unsupported(Unsupported::Version(header.version.get())));
    }
    let unknown = header.incompatible.get() & !header::INCOMPATIBLE_KNOWN;
    if unknown != 0 {
        return Err(Verdict::Unsupported(Unsupported::Features(unknown)));
    }
    total_len(&header).map(|_| header)
}

/// Bytes of the whole copy that a sound header announces.
///
/// # Errors
/// [`Verdict::Damaged`] when the length is impossible.
pub fn total_len(header: &RawHeader) -> Result<usize, Verdict> {
    usize::try_from(header.total_len.get())
        .ok()
        .filter(|len| (COPY_ALIGNMENT..=COPY_MAX_BYTES).contains(len) && len % COPY_ALIGNMENT == 0)
        .ok_or_else(|| content("the length of the copy is impossible"))
}

fn content(what: impl Into<String>) -> Verdict {
    Verdict::Damaged(Damage::Content(what.into()))
}

/// Judges what was read where copy `index` should be. `bytes` may be longer than the copy; when it is shorter, the
/// verdict is damaged.
pub fn judge(bytes: &[u8], index: u32) -> Verdict {
    Judge::default().judge(bytes, index)
}

/// Judges many copies, most of which say the same: a map that was decoded before, from equal bytes, is shared and not
/// decoded again. All copies of a setup together then take hardly more time and memory than one.
#[derive(Debug, Default)]
pub struct Judge {
    /// Map sections and what they said, the last one first.
    maps: VecDeque<(Vec<u8>, Map)>,
}

/// How many map sections are remembered: more than the setups that copies in a row are likely to be of.
const MAPS_REMEMBERED: usize = 4;

impl Judge {
    /// The same verdict as that of [`judge`].
    pub fn judge(&mut self, bytes: &[u8], index: u32) -> Verdict {
        match judge_all(bytes, index, self) {
            Ok(copy) => Verdict::Valid(Box::new(copy)),
            Err(verdict) => verdict,
        }
    }

    fn map(&mut self, section: &[u8]) -> Result<Map, Verdict> {
        if let Some((_, map)) = self.maps.iter().find(|(known, _)| known == section) {
            return Ok(map.clone());
        }
        let map = map_section::decode(section).map_err(|e| content(e.to_string()))?;
        self.maps.truncate(MAPS_REMEMBERED - 1);
        self.maps.push_front((section.to_vec(), map.clone()));
        Ok(map)
    }
}

/// Judges a copy that is not where it was written, in a file for example: as the copy that its header says it is.
pub fn judge_detached(bytes: &[u8]) -> Verdict {
    let stated = RawHeader::read_from_prefix(bytes).map_or(0, |(header, _)| header.copy_index.get());
    judge(bytes, stated)
}

fn judge_all(bytes: &[u8], index: u32, judge: &mut Judge) -> Result<ValidCopy, Verdict> {
    let head = bytes.get(..COPY_ALIGNMENT.min(bytes.len())).unwrap_or_default();
    let header = judge_header(head, index)?;
    let len = total_len(&header)?;
    let copy = bytes.get(..len).ok_or_else(|| content("it ends too early"))?;
    let count = usize::try_from(header.section_count.get()).unwrap_or(usize::MAX);
    let table = header.sections.get(..count).ok_or_else(|| content("too many sections"))?;
    let mut sections = Vec::with_capacity(count);
    for entry in table {
        let kind = entry.kind.get();
        let bytes = section_bytes(copy, entry).ok_or_else(|| content("a section lies outside"))?;
        let mut hash = salted(&header.spare, index);
        hash.update(bytes);
        if hash.finalize() != entry.crc.get() {
            return Err(Verdict::Damaged(Damage::Section(kind)));
        }
        sections.push((kind, bytes.to_vec()));
    }
    let body = copy.get(HEADER_BYTES..).unwrap_or_default();
    if whole_crc(&header, body, index) != header.whole_crc.get() {
        return Err(Verdict::Damaged(Damage::Padding));
    }
    let metadata = metadata_from(&header, sections, judge)?;
    let data_start = header.data_start();
    match metadata.spares.iter().find(|s| s.uuid == header.spare_uuid()) {
        None => return Err(content("the spare is not in its own list of spares")),
        Some(own) if own.data_start != data_start => {
            return Err(content("two different starts of the data area"));
        }
        Some(_) => {}
    }
    Ok(ValidCopy { spare: header.spare_uuid(), digest: header.digest, data_start, len, metadata })
}

fn metadata_from(header: &RawHeader, sections: Vec<(u32, Vec<u8>)>, judge: &mut Judge) -> Result<Metadata, Verdict> {
    fn json<T: serde::de::DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, Verdict> {
        serde_json::from_slice(bytes).map_err(|e| content(format!("{name} section: {e}")))
    }
    let mut known: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let mut unknown_sections = Vec::new();
    for (kind, bytes) in sections {
        if !kind::is_known(kind) {
            unknown_sections.push((kind, bytes));
        } else if known.insert(kind, bytes).is_some() {
            return Err(content(format!("two {} sections", kind::name(kind))));
        }
    }
    let part = |kind: u32| known.get(&kind).ok_or_else(|| content(format!("no {} section", kind::name(kind))));
    let config: Config = json("configuration", part(kind::CONFIGURATION)?)?;
    let spares: SparesSection = json("spares", part(kind::SPARES)?)?;
    let map = judge.map(part(kind::MAP)?)?;
    let health: Health = json("health", part(kind::HEALTH)?)?;
    let metadata = Metadata {
        setup: header.setup_uuid(),
        generation: header.generation.get(),
        committed: header.committed.get(),
        compatible: header.compatible.get(),
        incompatible: header.incompatible.get() & !header::INCOMPATIBLE_STALE,
        config,
        spares: spares.spares,
        map,
        health,
        bad_blocks: bad_blocks_from(part(kind::BAD_BLOCKS)?)?,
        lineage: lineage_from(part(kind::LINEAGE)?)?,
        unknown_sections,
    };
    metadata.check().map_err(|e| content(e.to_string()))?;
    if metadata.incompatible_flags() != header.incompatible.get() {
        return Err(content("the feature flags are not those of its losses"));
    }
    Ok(metadata)
}

fn bad_blocks_from(bytes: &[u8]) -> Result<BTreeMap<SpareIndex, Vec<Range>>, Verdict> {
    let runs = <[RawBadRun]>::ref_from_bytes(bytes).map_err(|_| content("the bad blocks section has an odd length"))?;
    let mut out: BTreeMap<SpareIndex, Vec<Range>> = BTreeMap::new();
    for run in runs {
        let spare = u8::try_from(run.spare.get()).map_err(|_| content("impossible bad block"))?;
        let range = Range::new(Sectors(run.start.get()), Sectors(run.len.get()))
            .ok_or_else(|| content("impossible bad block"))?;
        out.entry(SpareIndex(spare)).or_default().push(range);
    }
    Ok(out)
}

fn lineage_from(bytes: &[u8]) -> Result<Vec<Ancestor>, Verdict> {
    let raw = <[RawAncestor]>::ref_from_bytes(bytes)
        .ok()
        .filter(|raw| raw.len() <= MAX_LINEAGE)
        .ok_or_else(|| content("the lineage section has an impossible length"))?;
    let known = |raw: &RawAncestor| Ancestor { generation: raw.generation.get(), digest: raw.digest };
    Ok(raw.iter().map(known).collect())
}

/// The U32 index of a copy, for the functions above; `None` when there is no such copy.
pub fn index_u32(index: usize) -> Option<u32> {
    (index < COPY_STARTS.len()).then(|| u32::try_from(index).ok()).flatten()
}
