//! The keys of the configuration: the one table of them.

use super::rate::Rate;
use super::value::{Key, Kind, Scope, Spec, Value};
use std::time::Duration;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const HOUR: u64 = 3600;
/// As humantime counts it.
const YEAR: Duration = seconds(31_557_600);

/// The commands that go by a key, as the sample names them.
type Commands = &'static [&'static str];

const fn spec(path: [&'static str; 2], kind: Kind, default: Value, used_by: Commands, doc: &'static str) -> Spec {
    let [group, name] = path;
    Spec { group, name, kind, default, scope: Scope::Anywhere, used_by, doc }
}

impl<T> Key<T> {
    const fn for_defaults_only(mut self) -> Key<T>
    where
        T: Copy,
    {
        self.spec.scope = Scope::Defaults;
        self
    }
}

const fn switch(path: [&'static str; 2], default: bool, used_by: Commands, doc: &'static str) -> Key<bool> {
    let take = |value: &Value| if let Value::Switch(on) = value { Some(*on) } else { None };
    Key { spec: spec(path, Kind::Switch, Value::Switch(default), used_by, doc), take, default }
}

const fn integer(
    path: [&'static str; 2],
    (least, most): (u64, u64),
    default: u64,
    used_by: Commands,
    doc: &'static str,
) -> Key<u64> {
    let take = |value: &Value| if let Value::Integer(number) = value { Some(*number) } else { None };
    Key { spec: spec(path, Kind::Integer(least, most), Value::Integer(default), used_by, doc), take, default }
}

const fn time(
    path: [&'static str; 2],
    (least, most): (Duration, Duration),
    default: Duration,
    used_by: Commands,
    doc: &'static str,
) -> Key<Duration> {
    let take = |value: &Value| if let Value::Time(time) = value { Some(*time) } else { None };
    Key { spec: spec(path, Kind::Time(least, most), Value::Time(default), used_by, doc), take, default }
}

const fn word(
    path: [&'static str; 2],
    words: &'static [&'static str],
    default: &'static str,
    used_by: Commands,
    doc: &'static str,
) -> Key<&'static str> {
    let take = |value: &Value| if let Value::Word(word) = value { Some(*word) } else { None };
    Key { spec: spec(path, Kind::Word(words), Value::Word(default), used_by, doc), take, default }
}

const fn text(path: [&'static str; 2], kind: Kind, used_by: Commands, doc: &'static str) -> Key<Option<String>> {
    let take = |value: &Value| if let Value::Text(text) = value { Some(Some(text.clone())) } else { None };
    Key { spec: spec(path, kind, Value::Unset, used_by, doc), take, default: None }
}

/// The commands that tell of what has changed.
const TELLING: Commands = &[
    "alert",
    "create",
    "activate",
    "reassemble",
    "remap",
    "restore",
    "scan",
    "scan --cron",
    "watch",
    "spare",
    "compact",
    "metadata",
    "acknowledge",
    "policy",
    "recover",
];

/// The commands that make a setup's tables.
const MAKING_TABLES: Commands = &[
    "create",
    "activate",
    "reassemble",
    "remap",
    "restore",
    "scan",
    "scan --cron",
    "watch",
    "spare",
    "compact",
    "metadata",
    "recover",
];

/// How a scan asks the disk.
pub static SCAN_METHOD: Key<&'static str> = word(
    ["scan", "method"],
    &["read", "verify"],
    "read",
    &["scan", "scan --cron"],
    "How to ask the disk: 'verify' lets the drive read without sending the data, where it can be trusted to do so.",
);
/// Retries of a scan.
pub static SCAN_RETRIES: Key<u64> = integer(
    ["scan", "retries"],
    (0, 100),
    3,
    &["scan", "scan --cron"],
    "How often to read a bad block again before it is given up.",
);
/// When a place is weak.
pub static SCAN_SLOW_MS: Key<u64> = integer(
    ["scan", "slow_ms"],
    (0, 600_000),
    500,
    &["scan", "scan --cron"],
    "A place is weak when it takes longer than so many milliseconds to read, twice, while others do not; 0 for never.",
);
/// Whether weak places are moved.
pub static SCAN_MOVE_WEAK: Key<bool> = switch(
    ["scan", "move_weak"],
    false,
    &["scan", "scan --cron"],
    "Move weak places, too, while they can still be read.",
);
/// What is moved with a bad sector.
pub static SCAN_MARGIN: Key<u64> = integer(
    ["scan", "margin"],
    (0, 1 << 20),
    0,
    &["scan", "scan --cron"],
    "Move so many sectors on both sides of a bad one with it.",
);
/// The limit of a scan's rate.
pub static SCAN_RATE: Key<Option<Rate>> = Key {
    spec: spec(
        ["scan", "rate"],
        Kind::Rate,
        Value::Unset,
        &["scan", "scan --cron"],
        "Read at most so many bytes a second; 'max' does not give way to anybody. Without it a scan goes as fast as it \
         can while it gives way, and a pass of --cron takes its interval.",
    ),
    take: |value| if let Value::Rate(rate) = value { Some(Some(*rate)) } else { None },
    default: None,
};
/// Whether a scan waits for an idle disk.
pub static SCAN_IDLE: Key<bool> =
    switch(["scan", "idle"], false, &["scan", "scan --cron"], "Read only while nobody else uses the disk.");
/// How long a pass takes.
pub static SCAN_INTERVAL: Key<Duration> = time(
    ["scan", "interval"],
    (seconds(1), YEAR),
    seconds(24 * HOUR),
    &["scan --cron"],
    "The time that a whole pass is spread over; what is left of it is for later runs.",
);
/// How long a timer's run waits.
pub static SCAN_JITTER: Key<Duration> = time(
    ["scan", "jitter"],
    (Duration::ZERO, seconds(24 * HOUR)),
    Duration::ZERO,
    &["scan --cron"],
    "Wait a random time up to this before beginning, so that not all machines begin at once.",
)
.for_defaults_only();
/// How long a scan may take.
pub static SCAN_TIME_BUDGET: Key<Option<Duration>> = Key {
    spec: spec(
        ["scan", "time_budget"],
        Kind::Time(seconds(1), YEAR),
        Value::Unset,
        &["scan", "scan --cron"],
        "Stop after this time; the next run, or --resume, goes on. With --cron the setups of a run share what stands \
         under 'defaults', and what stands under a setup is the most for that one.",
    ),
    take: |value| if let Value::Time(time) = value { Some(Some(*time)) } else { None },
    default: None,
};
/// How long a scan looks for files.
pub static SCAN_FILE_SEARCH: Key<Duration> = time(
    ["scan", "file_search"],
    (Duration::ZERO, seconds(24 * HOUR)),
    seconds(30),
    &["scan", "scan --cron"],
    "How long to look for the files that lost sectors belong to; 0s does not look.",
);
/// What becomes of blocks that cannot be read.
pub static REMAP_UNREADABLE: Key<&'static str> = word(
    ["remap", "unreadable"],
    &["hold", "zero", "leave"],
    "hold",
    &["create", "remap", "scan", "scan --cron", "watch"],
    "What to do with blocks that cannot be read: 'hold' moves them, and reads answer EIO until they are written; \
     'zero' moves them and fills them with zeros; 'leave' leaves them on main. What stands under 'defaults' is for new \
     setups: 'create' stores it in the setup, and for a setup that exists only its own section goes before what it stores.",
);
/// Retries of a remap.
pub static REMAP_RETRIES: Key<u64> = integer(
    ["remap", "retries"],
    (0, 100),
    3,
    &["remap", "watch"],
    "How often to read a bad block again before it is given up.",
);
/// How long a remap looks for files.
pub static REMAP_FILE_SEARCH: Key<Duration> = time(
    ["remap", "file_search"],
    (Duration::ZERO, seconds(24 * HOUR)),
    seconds(30),
    &["remap"],
    "How long to look for the files that lost sectors belong to; 0s does not look.",
);
/// How a map becomes tables.
pub static REMAP_LAYOUT: Key<&'static str> = word(
    ["remap", "layout"],
    &["auto", "flat", "switched"],
    "auto",
    MAKING_TABLES,
    "How what is remapped becomes tables of device-mapper: 'flat' is one table, 'switched' keeps fsync and splices fast      however many extents there are, and 'auto' takes that once there are many. See dm-remap-layout(8).",
);
/// How long a watcher waits for more.
pub static WATCH_SETTLE: Key<Duration> = time(
    ["watch", "settle"],
    (Duration::ZERO, seconds(60)),
    Duration::from_millis(30),
    &["watch"],
    "How long the first report of an error waits for others that come with it.",
)
.for_defaults_only();
/// How slots are chosen.
pub static POOL_ALLOCATION: Key<&'static str> = word(
    ["pool", "allocation"],
    &["first-fit", "best-fit", "round-robin", "least-used", "health"],
    "first-fit",
    &["create"],
    "Where on the spares extents go. It is for new setups: 'create' stores it in the setup, and 'dm-remap policy' changes \
     it there.",
);
/// When spares are nearly full.
pub static POOL_WARN_FREE_PERCENT: Key<u64> = integer(
    ["pool", "warn_free_percent"],
    (0, 100),
    10,
    TELLING,
    "Warn when less than this share of the spares is free; 0 for never.",
);
/// When spares will be full.
pub static POOL_WARN_DAYS: Key<u64> = integer(
    ["pool", "warn_days"],
    (0, 3650),
    0,
    TELLING,
    "Warn when the room on the spares may be used up within so many days, by the near end of the forecast; 0 for never.",
);
/// Whether what is likely to fail is moved before it does.
pub static HEALTH_MOVE_AHEAD: Key<bool> = switch(
    ["health", "move_ahead"],
    false,
    &["scan", "scan --cron", "watch"],
    "While main is poor or failing by what was last recorded of it, and at least half of the room on the spares is free, \
     move weak places and the neighbours of bad sectors, too, before they fail.",
);
/// What counts as a neighbour.
pub static HEALTH_MARGIN: Key<u64> = integer(
    ["health", "margin"],
    (0, 1 << 20),
    256,
    &["scan", "scan --cron", "watch"],
    "How many sectors on both sides of a bad one are its neighbours, for move_ahead.",
);
/// How often suspect regions are read.
pub static HEALTH_SUSPECT_INTERVAL: Key<Option<Duration>> = Key {
    spec: spec(
        ["health", "suspect_interval"],
        Kind::Time(seconds(1), YEAR),
        Value::Unset,
        &["scan --cron"],
        "Read the 16 MiB around all that was bad, weak or moved on main anew after this time, between the whole passes. \
         Without it they are read as often as the rest.",
    ),
    take: |value| if let Value::Time(time) = value { Some(Some(*time)) } else { None },
    default: None,
};
/// What is told.
pub static ALERTS_ON: Key<Vec<&'static str>> = Key {
    spec: spec(
        ["alerts", "on"],
        Kind::Words(&["bad", "weak", "lost", "failed", "space", "degraded", "whole", "attention", "health", "scan"]),
        Value::Words(Vec::new()),
        TELLING,
        "What to tell of, and nothing else; all but 'scan' when it is empty. 'dm-remap alert --list' says what each \
         of them means.",
    ),
    take: |value| if let Value::Words(words) = value { Some(words.clone()) } else { None },
    default: Vec::new(),
};
/// Who is run.
pub static ALERTS_PROGRAM: Key<Option<String>> = text(
    ["alerts", "program"],
    Kind::Path,
    TELLING,
    "A program to run, without a shell: it is handed what happened in variables DM_REMAP_* and as JSON on its standard input, and has 30 seconds.",
);
/// Who is written to.
pub static ALERTS_MAIL: Key<Option<String>> =
    text(["alerts", "mail"], Kind::Mail, TELLING, "An address to write to, by the mail program of the system.");
/// Where metrics go.
pub static METRICS_TEXTFILE: Key<Option<String>> = Key {
    spec: Spec {
        group: "metrics",
        name: "textfile",
        kind: Kind::Path,
        default: Value::Unset,
        scope: Scope::Defaults,
        used_by: TELLING,
        doc: "The directory of node_exporter's textfile collector, for dm_remap.prom: it is written by every command that changes or scans a setup.",
    },
    take: |value| if let Value::Text(text) = value { Some(Some(text.clone())) } else { None },
    default: None,
};
/// Whether requests are counted.
pub static METRICS_LATENCY: Key<bool> = switch(
    ["metrics", "latency"],
    false,
    TELLING,
    "Count requests and how long they take, in the kernel (dm-stats), for 'stats', 'metrics' and 'report'.",
);

/// Whether a setup comes up by itself.
pub static BOOT_ACTIVATE: Key<bool> = switch(
    ["boot", "activate"],
    true,
    &["reassemble --incremental", "reassemble --boot"],
    "Bring the setup up by itself, when the machine starts or its devices appear.",
);
/// What becomes of a setup with spares missing when the machine starts.
pub static BOOT_INCOMPLETE: Key<&'static str> = word(
    ["boot", "incomplete"],
    &["refuse", "degraded"],
    "refuse",
    &["reassemble --last-resort"],
    "What to do with a setup whose spares have not all appeared when the last-resort timer has run out: refuse, or bring it up degraded (what lives on the missing spares answers EIO).",
);

/// All keys, in the order in which they are shown; those of a section stand together.
pub static KEYS: [&Spec; 29] = [
    &SCAN_METHOD.spec,
    &SCAN_RETRIES.spec,
    &SCAN_SLOW_MS.spec,
    &SCAN_MOVE_WEAK.spec,
    &SCAN_MARGIN.spec,
    &SCAN_RATE.spec,
    &SCAN_IDLE.spec,
    &SCAN_INTERVAL.spec,
    &SCAN_JITTER.spec,
    &SCAN_TIME_BUDGET.spec,
    &SCAN_FILE_SEARCH.spec,
    &REMAP_UNREADABLE.spec,
    &REMAP_RETRIES.spec,
    &REMAP_FILE_SEARCH.spec,
    &REMAP_LAYOUT.spec,
    &WATCH_SETTLE.spec,
    &POOL_ALLOCATION.spec,
    &POOL_WARN_FREE_PERCENT.spec,
    &POOL_WARN_DAYS.spec,
    &HEALTH_MOVE_AHEAD.spec,
    &HEALTH_MARGIN.spec,
    &HEALTH_SUSPECT_INTERVAL.spec,
    &ALERTS_ON.spec,
    &ALERTS_PROGRAM.spec,
    &ALERTS_MAIL.spec,
    &METRICS_TEXTFILE.spec,
    &METRICS_LATENCY.spec,
    &BOOT_ACTIVATE.spec,
    &BOOT_INCOMPLETE.spec,
];

/// The sections, in order, and what they are about.
pub static GROUPS: [(&str, &str); 8] = [
    ("scan", "finding bad and slow sectors"),
    ("remap", "moving bad sectors to the spares"),
    ("watch", "reacting to the kernel's error reports"),
    ("pool", "the room on the spares"),
    ("health", "acting on how the disks are doing; nothing of it happens unless it is set"),
    ("alerts", "telling somebody"),
    ("metrics", "for monitoring"),
    ("boot", "coming up when the machine starts"),
];
