//! Reasons to do nothing.

use crate::map::{Extent, SpareIndex};
use crate::units::{Bytes, Range, Sectors};

/// A request that is refused for safety: nothing was changed. Exit code 4.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A name that a setup cannot have.
    #[error("'{0}' cannot be a name: use up to 100 letters, digits and + _ . -, not beginning with - or .")]
    BadName(String),
    /// The name is in use.
    #[error("the name '{name}' is taken: {by}. Choose another name")]
    NameTaken {
        /// The name.
        name: String,
        /// By what.
        by: String,
    },
    /// A device that is mounted, held or otherwise in use.
    #[error("{device} is in use: {uses}. Release it first; dm-remap must be underneath everything else")]
    InUse {
        /// The device.
        device: String,
        /// What uses it.
        uses: String,
    },
    /// A device that cannot be written.
    #[error("{0} is read-only")]
    ReadOnly(String),
    /// Two of the given devices share sectors.
    #[error("{first} and {second} share sectors: {why}. Main and spares must be separate")]
    Overlap {
        /// One device.
        first: String,
        /// The other.
        second: String,
        /// How they overlap.
        why: String,
    },
    /// Not between 1 and 16 spares.
    #[error("{0} spares were given; a setup has 1 to 16")]
    SpareCount(usize),
    /// More spares than a setup can have.
    #[error("'{name}' has {members} spares and {more} would be added: 16 are the most. Remove one first")]
    TooManySpares {
        /// The setup.
        name: String,
        /// Spares that it has.
        members: usize,
        /// Spares that were to be added.
        more: usize,
    },
    /// A device that belongs to the setup already.
    #[error("{device} is spare {index} of '{name}' already{hint}")]
    AlreadySpare {
        /// The device.
        device: String,
        /// The setup.
        name: String,
        /// Which spare.
        index: SpareIndex,
        /// What can be done, if anything.
        hint: String,
    },
    /// The only spare that metadata can be committed to.
    #[error(
        "spare {index} is the only one of '{name}' that takes commits. Add another one first, or dissolve the setup with 'dm-remap destroy'"
    )]
    LastSpare {
        /// The setup.
        name: String,
        /// Which spare.
        index: SpareIndex,
    },
    /// Nothing can be read from a spare that is to be left.
    #[error(
        "spare {index} of '{name}' is gone ({what}), and {} live on it. Attach it and run 'dm-remap spare readd'; only if it is lost for good say --give-up-unreadable: then what cannot be read is lost, and answers EIO until it is written",
        extents_words(*.extents)
    )]
    SpareGone {
        /// The setup.
        name: String,
        /// Which spare.
        index: SpareIndex,
        /// What is known of it.
        what: String,
        /// Extents that live on it.
        extents: usize,
    },
    /// No room for what is to leave a spare.
    #[error(
        "the extents of spare {spare} need {needed} sectors and {free} are free where they may go: {} are missing. Nothing was moved. Add a spare with 'dm-remap spare add'",
        .needed.saturating_sub(*.free)
    )]
    NoRoomToLeave {
        /// The spare that is to be left.
        spare: SpareIndex,
        /// Sectors that are to move.
        needed: Sectors,
        /// Sectors free on the spares that they may move to.
        free: Sectors,
    },
    /// A spare that extents cannot move to.
    #[error("nothing can move to spare {index} of '{name}': it is {why}")]
    NoDestination {
        /// The setup.
        name: String,
        /// Which spare.
        index: SpareIndex,
        /// Why not.
        why: &'static str,
    },
    /// A spare that was removed.
    #[error("spare {index} was removed from '{name}'. 'dm-remap spare add' takes its device again, as a new spare")]
    SpareRemoved {
        /// The setup.
        name: String,
        /// Which spare.
        index: SpareIndex,
    },
    /// A spare that cannot be taken back.
    #[error("spare {index} of '{name}' cannot be taken back: {why}")]
    NotTakenBack {
        /// The setup.
        name: String,
        /// Which spare.
        index: SpareIndex,
        /// Why not.
        why: String,
    },
    /// A spare that cannot grow.
    #[error("spare {index} of '{name}' cannot grow: {why}")]
    CannotGrow {
        /// The setup.
        name: String,
        /// Which spare.
        index: SpareIndex,
        /// Why not.
        why: String,
    },
    /// A main that no unit fits.
    #[error("{device} cannot be main: {why}")]
    BadMain {
        /// The device.
        device: String,
        /// Why not.
        why: String,
    },
    /// A spare without room for metadata and at least one slot.
    #[error("{device} is too small to be a spare: it has {size} sectors, and at least {needed} are needed")]
    SpareTooSmall {
        /// The device.
        device: String,
        /// Its size.
        size: Sectors,
        /// The least that works.
        needed: Sectors,
    },
    /// A spare that would change the block size under a live filesystem.
    #[error(
        "{device} has logical blocks of {} and main has {}: a spare's must not be larger. Use another spare",
        bytes(*.spare), bytes(*.main)
    )]
    LargerBlocks {
        /// The device.
        device: String,
        /// Its logical block size.
        spare: Sectors,
        /// Main's logical block size.
        main: Sectors,
    },
    /// A spare that holds somebody's data.
    #[error(
        "{device} holds {signature}. Everything on a spare is overwritten; if that is what you want, say --force-signature"
    )]
    Signature {
        /// The device.
        device: String,
        /// What was recognised.
        signature: String,
    },
    /// A spare that belongs to a setup.
    #[error("{device} is a spare of the setup '{name}' ({setup}). Destroy that setup first, or use another spare")]
    SpareOfSetup {
        /// The device.
        device: String,
        /// Name of the setup.
        name: String,
        /// Its UUID.
        setup: String,
    },
    /// A spare with metadata that cannot be judged.
    #[error(
        "{device} holds dm-remap metadata that cannot be used ({what}). Look at it with 'dm-remap metadata check {device}'; to overwrite it, say --force-signature"
    )]
    DamagedTraces {
        /// The device.
        device: String,
        /// The verdict.
        what: String,
    },
    /// Sectors that main does not have.
    #[error("sectors {range} lie beyond the end of main, which has {main_len} sectors (0 to {})", .main_len.0.saturating_sub(1))]
    BeyondEnd {
        /// What was asked for.
        range: Range,
        /// Length of main.
        main_len: Sectors,
    },
    /// Sectors that a spare does not have.
    #[error("sectors {range} are not on spare {spare}, which has {size} sectors: nothing can be recorded of them")]
    NotOnSpare {
        /// The spare.
        spare: SpareIndex,
        /// What was said of it.
        range: Range,
        /// Its size; zero when the setup has no such spare.
        size: Sectors,
    },
    /// Sectors that live on a spare already.
    #[error(
        "sectors {range} are already remapped: {} lives on spare {} at sector {}",
        .existing.range, .existing.slot.spare, .existing.slot.start
    )]
    AlreadyRemapped {
        /// What was asked for.
        range: Range,
        /// Where they live.
        existing: Extent,
    },
    /// Sectors that live on main.
    #[error("sectors {0} are not remapped; 'dm-remap map NAME' lists those that are")]
    NotRemapped(Range),
    /// Nothing of main would be in use any more.
    #[error(
        "with these sectors all of main would live on spares: then nothing holds main, and dm-remap is not the tool. Copy the device to another one"
    )]
    WholeMain,
    /// Nothing was asked for.
    #[error("no sectors were given")]
    NothingGiven,
    /// No room on the spares.
    #[error(
        "no free slot: {needed} sectors are needed and {free} are free on the spares. Nothing was changed. Restore extents whose sectors are good again, or add a spare with 'dm-remap spare add'"
    )]
    NoFreeSlot {
        /// Sectors that found no place.
        needed: Sectors,
        /// Sectors free.
        free: Sectors,
    },
    /// No room in the metadata.
    #[error(
        "metadata full: {needed} bytes are needed and a copy has room for {room}, {reserve} of which stay free for what every later commit adds. Nothing was changed. Remap fewer, larger ranges, or join extents with 'compact'"
    )]
    MetadataFull {
        /// Bytes that the new map would take.
        needed: usize,
        /// Bytes of a copy.
        room: usize,
        /// Bytes of them that no plan may use.
        reserve: usize,
    },
    /// Another command works on the setup.
    #[error("another dm-remap command{} is working on '{name}'; wait until it is done", .pid.map(|p| format!(" (process {p})")).unwrap_or_default())]
    Busy {
        /// The setup.
        name: String,
        /// The process that holds the lock, where it is known.
        pid: Option<u32>,
    },
    /// Another command is taking devices into use.
    #[error("another dm-remap command{} is taking devices into use at this moment; wait until it is done", .pid.map(|p| format!(" (process {p})")).unwrap_or_default())]
    Claiming {
        /// The process that holds the lock, where it is known.
        pid: Option<u32>,
    },
    /// Another watcher has the setup.
    #[error("'{name}' is watched already{}; a setup has one watcher", .pid.map(|p| format!(" by process {p}")).unwrap_or_default())]
    Watched {
        /// The setup.
        name: String,
        /// The process, where it is known.
        pid: Option<u32>,
    },
    /// The device is open.
    #[error("'{name}' is in use: {uses}. Unmount or stop that first")]
    Open {
        /// The setup.
        name: String,
        /// What uses it.
        uses: String,
    },
    /// No such setup.
    #[error("there is no active setup '{0}'; 'dm-remap list' shows those that are, 'dm-remap activate' brings one up")]
    NotActive(String),
    /// The setup is up already.
    #[error("'{0}' is active already")]
    AlreadyActive(String),
    /// Nobody counts its requests.
    #[error("requests to '{0}' are not counted; 'dm-remap stats {0} --enable' begins")]
    NotCounted(String),
    /// The live table is not the one that the metadata gives.
    #[error(
        "the live table of '{name}' is not the one that its metadata gives ({detail}). Nothing was changed. 'dm-remap recover {name}' settles what an interrupted command left; if somebody changed the table by hand, undo that first"
    )]
    TableDiffers {
        /// The setup.
        name: String,
        /// Where they differ.
        detail: String,
    },
    /// A spare with something newer than what can be read is away.
    #[error(
        "only generation {readable} of '{name}' can be read, and generation {newest} was committed since: a spare that has it is away. Nothing was changed. Attach it again; if it is gone for good, 'dm-remap recover {name}' goes on with what can be read"
    )]
    NewestAway {
        /// The setup.
        name: String,
        /// The newest generation that can be read.
        readable: u64,
        /// The one that was committed.
        newest: u64,
    },
    /// The layout that was asked for cannot be had.
    #[error(
        "'{0}' cannot have the switched layout: this kernel has no dm-switch (try 'modprobe dm-switch'), or main is no larger than one unit"
    )]
    NoSwitch(String),
    /// The device is suspended.
    #[error("'{0}' is suspended: an interrupted command left it so. 'dm-remap recover {0}' settles it")]
    Suspended(String),
    /// A spare is not there.
    #[error("spare {index} ({what}) of '{name}' is missing. Attach it, or name it with --device")]
    SpareMissing {
        /// The setup.
        name: String,
        /// Which spare.
        index: SpareIndex,
        /// What is known of it.
        what: String,
    },
    /// A spare is older than the others.
    #[error(
        "spare {index} of '{name}' is stale: it is {behind} generation(s) behind the others, because commits to it failed or it was absent. If it works now, say --update-stale to bring it up to date"
    )]
    Stale {
        /// The setup.
        name: String,
        /// Which spare.
        index: SpareIndex,
        /// How many generations it is behind.
        behind: u64,
    },
    /// Main is not there, or cannot be told.
    #[error("{0}")]
    MainUnclear(String),
    /// Another machine has it active.
    #[error(
        "'{name}' is marked as active on another machine (machine-id {machine}). If that machine is certainly down, say --takeover"
    )]
    ActiveElsewhere {
        /// The setup.
        name: String,
        /// The machine-id in the mark.
        machine: String,
    },
    /// Metadata that cannot be chosen.
    #[error("{device}: {what}")]
    Metadata {
        /// The device or setup.
        device: String,
        /// What is wrong with it.
        what: String,
    },
    /// Extents exist, and nothing was said about them.
    #[error(
        "'{name}' has {} on its spares, whose data main does not have. Say --merge-back to move them back onto main first, or --discard-extents to give them up",
        extents_words(*.extents)
    )]
    HasExtents {
        /// The setup.
        name: String,
        /// How many.
        extents: usize,
    },
    /// A restore that would bring back a medium error.
    #[error(
        "sectors {0} are held: their data is lost and main still cannot read them. Write them first, or say --unreadable leave to let main answer for them"
    )]
    HeldUnreadable(Range),
    /// A restore that would bring back old data.
    #[error(
        "sectors {0} are held: their data was lost on a spare, and main has only what was there before they were moved. Write them first: that ends it"
    )]
    HeldStale(Range),
}

fn extents_words(count: usize) -> String {
    if count == 1 { "1 extent".into() } else { format!("{count} extents") }
}

fn bytes(sectors: Sectors) -> Bytes {
    sectors.to_bytes().unwrap_or(Bytes(u64::MAX))
}
