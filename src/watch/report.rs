//! What the kernel says of one failed request, and the reading of the block layer's lines in the kernel log. Pure.
//!
//! Source of the lines: `blk_print_req_error` in block/blk-mq.c (to 5.16 `print_req_error` in block/blk-core.c), the
//! names of the errors: `blk_errors[]` in block/blk-core.c; the line on suppressed ones: lib/ratelimit.c.
//!
//! Invariants:
//! - any text is either read whole or not at all, and none makes this panic;
//! - an error name that is not known counts as [`FaultClass::Transport`]: it never leads to a remap.

use crate::block::{FaultClass, Operation};
use crate::units::{DevNo, Range, Sectors};
use nix::errno::Errno;
use std::fmt;
use std::time::Duration;

/// The device that a report names: the lowest disk that takes requests, never a partition or a device over it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reported {
    /// By the kernel's name for it (`sda`, `nvme0n1`).
    Name(String),
    /// By number.
    Number(DevNo),
}

impl fmt::Display for Reported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reported::Name(name) => f.write_str(name),
            Reported::Number(number) => number.fmt(f),
        }
    }
}

/// What the failed request was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// A read, a write or a flush.
    Known(Operation),
    /// A discard, a zone operation and the like.
    Other,
    /// Not told: kernels before 5.2 say no more than the sector.
    Untold,
}

impl Request {
    /// Whether its failure can mean that sectors are bad.
    pub fn is_about_sectors(self) -> bool {
        match self {
            Request::Known(operation) => operation != Operation::Flush,
            Request::Other => false,
            Request::Untold => true,
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Request::Known(operation) => operation.fmt(f),
            Request::Other | Request::Untold => f.write_str("request"),
        }
    }
}

/// One failed request, as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorReport {
    /// The disk.
    pub device: Reported,
    /// Sectors of the whole disk, of 512 bytes. The kernel log names the first only: then the length is 1.
    pub range: Range,
    /// What the request may have covered. Many disks do not say which sector of it is bad: then `range` is its beginning.
    pub reach: Range,
    /// What was asked of the disk.
    pub request: Request,
    /// What the error says about the sectors.
    pub class: FaultClass,
    /// Number of the record in the kernel log; `None` when it did not come from there.
    pub sequence: Option<u64>,
    /// Since boot, by the clock of the kernel log or of the tracer.
    pub time: Duration,
}

impl fmt::Display for ErrorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = match self.class {
            FaultClass::Medium => "medium error",
            FaultClass::Ambiguous => "I/O error",
            FaultClass::Transport => "transport error",
            FaultClass::Request => "refusal",
        };
        write!(f, "{class} on {} at sector {} ({})", self.device, self.range, self.request)
    }
}

/// What a line of the kernel log says, as far as it is of interest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogLine {
    /// A request failed.
    Error {
        /// Name of the disk.
        device: String,
        /// First sector of it that failed, in units of 512 bytes.
        sector: Sectors,
        /// The most sectors from there on that the request can have had.
        most: Sectors,
        /// What was asked.
        request: Request,
        /// What the error says about the sector.
        class: FaultClass,
    },
    /// So many lines on failed requests were left out.
    Suppressed(u64),
}

/// Functions of the block layer in whose name lines are left out, or that begin a line.
const CALLERS: [&str; 4] = ["blk_print_req_error", "print_req_error", "blk_update_request", "end_request"];

/// The most sectors of a segment of a request (`BLK_MAX_SEGMENT_SIZE`; some drivers have longer ones).
const SEGMENT: Sectors = Sectors(128);

/// The most sectors of a request, unless somebody has set another limit (`BLK_DEF_MAX_SECTORS`).
const MOST_SECTORS: Sectors = Sectors(2560);

/// Reads the message of a kernel log record; `None` when it is about something else.
pub fn parse_line(line: &str) -> Option<LogLine> {
    if let Some((caller, rest)) = line.split_once(": ")
        && CALLERS.contains(&caller)
    {
        return suppressed(rest).or_else(|| failed_request(rest));
    }
    failed_request(line)
}

/// `12 callbacks suppressed`
fn suppressed(text: &str) -> Option<LogLine> {
    let (count, rest) = text.split_once(' ')?;
    (rest.trim_end() == "callbacks suppressed").then_some(LogLine::Suppressed(count.parse().ok()?))
}

/// `critical medium error, dev sda, sector 1000 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2`
fn failed_request(text: &str) -> Option<LogLine> {
    let (name, rest) = text.split_once(" error, dev ")?;
    let (device, rest) = rest.split_once(", sector ")?;
    // The name of an error has no colon: what has one is another subsystem's line that quotes.
    if name.len() > 40
        || name.contains(':')
        || device.is_empty()
        || device.len() > 64
        || device.contains(char::is_whitespace)
    {
        return None;
    }
    let mut words = rest.split_ascii_whitespace();
    let sector = words.next()?.parse().ok()?;
    // A range of one sector must fit.
    Range::new(Sectors(sector), Sectors(1))?;
    let request = match (words.next(), words.next()) {
        (Some("op"), Some(code)) => request_of(code),
        _ => Request::Untold,
    };
    let class = FaultClass::of(errno_of(name));
    let most = words.skip_while(|word| *word != "phys_seg").nth(1).and_then(|count| count.parse().ok());
    let most = most.map_or(MOST_SECTORS, |segments: u64| Sectors(segments.saturating_mul(SEGMENT.0)).min(MOST_SECTORS));
    Some(LogLine::Error { device: device.to_string(), sector: Sectors(sector), most, request, class })
}

/// `0x0:(READ)`; the numbers are those of `enum req_op`.
fn request_of(code: &str) -> Request {
    let number = code.split(':').next().unwrap_or_default();
    match number {
        "0x0" => Request::Known(Operation::Read),
        // WRITE, WRITE_ZEROES, ZONE_APPEND (the numbers of the last have changed: the word counts).
        "0x1" | "0x9" => Request::Known(Operation::Write),
        "0x2" => Request::Known(Operation::Flush),
        _ if code.ends_with(":(READ)") => Request::Known(Operation::Read),
        _ if code.ends_with(":(WRITE)") || code.ends_with(":(ZONE_APPEND)") => Request::Known(Operation::Write),
        _ => Request::Other,
    }
}

/// The errno behind the name of an error.
fn errno_of(name: &str) -> Errno {
    match name {
        "critical medium" => Errno::ENODATA,
        "I/O" => Errno::EIO,
        "timeout" => Errno::ETIMEDOUT,
        "recoverable transport" => Errno::ENOLINK,
        "critical target" => Errno::EREMOTEIO,
        "critical nexus" | "reservation conflict" => Errno::EBADE,
        "critical space allocation" => Errno::ENOSPC,
        "device offline" => Errno::ENODEV,
        "protection" => Errno::EILSEQ,
        "operation not supported" | "invalid" => Errno::EINVAL,
        // Resources, retries, and what later kernels may add: nothing that speaks of a sector.
        _ => Errno::ENOLINK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(line: &str) -> (String, u64, Request, FaultClass) {
        match parse_line(line) {
            Some(LogLine::Error { device, sector, request, class, .. }) => (device, sector.0, request, class),
            other => panic!("{line}: {other:?}"),
        }
    }

    const READ: Request = Request::Known(Operation::Read);
    const WRITE: Request = Request::Known(Operation::Write);

    #[test]
    fn lines_of_many_kernels_are_read() {
        use FaultClass::{Ambiguous, Medium, Request as Refused, Transport};
        let lines = [
            // 5.17 and later
            (
                "critical medium error, dev sda, sector 1000 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2",
                READ,
                Medium,
            ),
            ("I/O error, dev sda, sector 1000 op 0x0:(READ) flags 0x80700 phys_seg 4 prio class 2", READ, Ambiguous),
            ("I/O error, dev sda, sector 1000 op 0x1:(WRITE) flags 0x800 phys_seg 1 prio class 2", WRITE, Ambiguous),
            (
                "critical target error, dev sda, sector 1000 op 0x3:(DISCARD) flags 0x800 phys_seg 1 prio class 2",
                Request::Other,
                Transport,
            ),
            (
                "critical target error, dev sda, sector 1000 op 0x9:(WRITE_ZEROES) flags 0x800 phys_seg 0 prio class 2",
                WRITE,
                Transport,
            ),
            (
                "device offline error, dev sda, sector 1000 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2",
                READ,
                Transport,
            ),
            ("timeout error, dev sda, sector 1000 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2", READ, Transport),
            (
                "recoverable transport error, dev sda, sector 1000 op 0x0:(READ) flags 0x4000 phys_seg 1 prio class 2",
                READ,
                Transport,
            ),
            (
                "reservation conflict error, dev sda, sector 1000 op 0x1:(WRITE) flags 0x0 phys_seg 1 prio class 2",
                WRITE,
                Transport,
            ),
            (
                "critical space allocation error, dev sda, sector 1000 op 0x1:(WRITE) flags 0x0 phys_seg 1 prio class 2",
                WRITE,
                Transport,
            ),
            ("protection error, dev sda, sector 1000 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2", READ, Transport),
            (
                "operation not supported error, dev sda, sector 1000 op 0x9:(WRITE_ZEROES) flags 0x0 phys_seg 0 prio class 0",
                WRITE,
                Refused,
            ),
            ("invalid error, dev sda, sector 1000 op 0x1:(WRITE) flags 0x0 phys_seg 0 prio class 0", WRITE, Refused),
            (
                "something new error, dev sda, sector 1000 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2",
                READ,
                Transport,
            ),
            (
                "I/O error, dev sda, sector 1000 op 0x2:(FLUSH) flags 0x800 phys_seg 0 prio class 2",
                Request::Known(Operation::Flush),
                Ambiguous,
            ),
            (
                "I/O error, dev sda, sector 1000 op 0xd:(ZONE_APPEND) flags 0x0 phys_seg 1 prio class 2",
                WRITE,
                Ambiguous,
            ),
            // 5.2 to 5.16
            (
                "blk_update_request: critical medium error, dev sda, sector 1000 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 0",
                READ,
                Medium,
            ),
            (
                "blk_update_request: critical nexus error, dev sda, sector 1000 op 0x1:(WRITE) flags 0x0 phys_seg 1 prio class 0",
                WRITE,
                Transport,
            ),
            // 4.14 to 5.1, and older
            ("print_req_error: critical medium error, dev sda, sector 1000 flags 80700", Request::Untold, Medium),
            ("print_req_error: I/O error, dev sda, sector 1000", Request::Untold, Ambiguous),
            ("blk_update_request: critical medium error, dev sda, sector 1000", Request::Untold, Medium),
            ("end_request: I/O error, dev sda, sector 1000", Request::Untold, Ambiguous),
        ];
        for (line, request, class) in lines {
            assert_eq!(read(line), ("sda".into(), 1000, request, class), "{line}");
        }
        assert_eq!(read("I/O error, dev nvme0c0n1, sector 7 op 0x0:(READ) flags 0x0").0, "nvme0c0n1");
        for line in ["blk_print_req_error: 990 callbacks suppressed", "print_req_error: 990 callbacks suppressed\n"] {
            assert_eq!(parse_line(line), Some(LogLine::Suppressed(990)), "{line}");
        }
    }

    #[test]
    fn the_length_of_a_request_is_bounded() {
        let most = |rest: &str| match parse_line(&format!("I/O error, dev sda, sector 1000{rest}")) {
            Some(LogLine::Error { most, .. }) => most.0,
            other => panic!("{rest}: {other:?}"),
        };
        assert_eq!(most(" op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2"), 128);
        assert_eq!(most(" op 0x0:(READ) flags 0x80700 phys_seg 128 prio class 2"), 2560);
        assert_eq!(most(" op 0x0:(READ) flags 0x0 phys_seg 99999999999999999999"), 2560);
        assert_eq!(most(""), 2560);
    }

    #[test]
    fn other_lines_are_left_alone() {
        for line in [
            "",
            "Buffer I/O error on dev dm-0, logical block 125, async page read",
            "sd 0:0:0:0: [sda] tag#12 Add. Sense: Unrecovered read error",
            "critical medium error, dev sda",
            "critical medium error, dev sda, sector",
            "critical medium error, dev sda, sector -1",
            "critical medium error, dev sda, sector 18446744073709551615",
            "critical medium error, dev sda, sector 99999999999999999999999",
            "critical medium error, dev , sector 1",
            "critical medium error, dev a b, sector 1",
            "EXT4-fs: critical medium error, dev sda, sector 1 says a file name, which is long enough error, dev x, sector 2",
            "__ratelimit: 12 callbacks suppressed",
            "blk_print_req_error: many callbacks suppressed",
        ] {
            assert_eq!(parse_line(line), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,300}") {
            let _ = parse_line(&text);
        }

        #[test]
        fn no_change_of_a_line_panics(at in 0usize..95, with in "\\PC{0,3}") {
            let line = "critical medium error, dev sda, sector 1000 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2";
            let (before, after) = line.split_at(at.min(line.len()));
            let _ = parse_line(&format!("{before}{with}{after}"));
        }
    }
}
