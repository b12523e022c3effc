//! The tracepoint `block:block_rq_error` as a source of error reports: every failed request, with its length, and none
//! left out for being one of many. Kernels from 5.18 that can trace have it; older ones have `block:block_rq_complete`,
//! which a filter narrows down to failed requests.
//!
//! Source of the text: include/trace/events/block.h (`TP_printk` of both), Documentation/trace/ftrace.rst and events.rst.
//!
//! Invariants:
//! - tracing happens in an instance of our own: what others trace is neither disturbed nor read;
//! - the instance goes with its owner; one whose owner is dead is removed by the next watcher;
//! - reading never waits, and events that the buffer lost are told.

use super::report::{ErrorReport, Reported, Request};
use crate::block::{FaultClass, Operation};
use crate::units::{DevNo, Range, Sectors};
use nix::errno::Errno;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where tracefs may be mounted.
const ROOTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// A tracepoint of the block layer, and the filter that leaves only failed requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracepoint {
    /// Its name.
    pub name: &'static str,
    /// In the words of events.rst.
    pub filter: Option<&'static str>,
}

/// The tracepoints that tell of failed requests, best first.
pub const TRACEPOINTS: [Tracepoint; 2] = [
    Tracepoint { name: "block_rq_error", filter: None },
    Tracepoint { name: "block_rq_complete", filter: Some("error != 0") },
];

impl Tracepoint {
    /// Its folder, in that of an instance.
    fn folder(&self) -> PathBuf {
        Path::new("events/block").join(self.name)
    }
}

/// What the name of an instance begins with; the owner's process number follows.
const PREFIX: &str = "dm-remap-";

/// Buffer for each processor in KiB: about 2,000 events.
const BUFFER_KIB: &str = "128";

/// The most of a line that is kept while its end has not come.
const LONGEST_LINE: usize = 65_536;

/// What a line of `trace_pipe` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceLine {
    /// A request failed.
    Error(ErrorReport),
    /// Events were lost before they could be read.
    Lost,
}

/// Reads a line; `None` when it is about something else.
pub fn parse_line(line: &str) -> Option<TraceLine> {
    // CPU:1 [LOST 12 EVENTS]
    if line.starts_with("CPU:") && line.contains("[LOST ") {
        return Some(TraceLine::Lost);
    }
    // kworker/0:1H-75 [000] ..s2. 12.345678: block_rq_error: 8,0 R () 1000 + 8 none,0,0 [-61]
    // The name of the process may hold anything: what follows is looked for from the end.
    let (head, event) = TRACEPOINTS.iter().find_map(|point| line.rsplit_once(&format!(": {}: ", point.name)))?;
    let seconds = head.rsplit(' ').next()?;
    let time = parse_time(seconds)?;
    let (place, what) = event.split_once(' ')?;
    let (major, minor) = place.split_once(',')?;
    let device = DevNo { major: major.parse().ok()?, minor: minor.parse().ok()? };
    let (rwbs, what) = what.split_once(" (")?;
    // The command of a passthrough request stands in the brackets, in hexadecimal.
    let (_, what) = what.split_once(") ")?;
    let mut words = what.split_ascii_whitespace();
    let start = Sectors(words.next()?.parse().ok()?);
    let len = match (words.next()?, words.next()?) {
        ("+", len) => len.parse::<u64>().ok()?,
        _ => return None,
    };
    let errno = words.next_back()?.strip_prefix("[-")?.strip_suffix(']')?.parse().ok()?;
    let range = Range::new(start, Sectors(len.max(1)))?;
    Some(TraceLine::Error(ErrorReport {
        device: Reported::Number(device),
        range,
        reach: range,
        request: request_of(rwbs),
        class: FaultClass::of(Errno::from_raw(errno)),
        sequence: None,
        time,
    }))
}

/// `12.345678`, with six digits.
fn parse_time(text: &str) -> Option<Duration> {
    let (seconds, micros) = text.split_once('.')?;
    if micros.len() != 6 {
        return None;
    }
    Some(Duration::new(seconds.parse().ok()?, 0) + Duration::from_micros(micros.parse::<u32>().ok()?.into()))
}

/// The letters of `blk_fill_rwbs` (kernel/trace/blktrace.c): an F before the operation is a flush that goes before it, a
/// lone F a flush request.
fn request_of(rwbs: &str) -> Request {
    let flush = rwbs.starts_with('F');
    let mut letters = rwbs.trim_start_matches('F').chars();
    match letters.next() {
        Some('R') => Request::Known(Operation::Read),
        Some('W') => Request::Known(Operation::Write),
        // Zone append: "ZA"
        Some('Z') if letters.next() == Some('A') => Request::Known(Operation::Write),
        None | Some('N') if flush => Request::Known(Operation::Flush),
        _ => Request::Other,
    }
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traced {
    /// Failed requests.
    pub reports: Vec<ErrorReport>,
    /// Whether events were lost.
    pub lost: bool,
}

/// Lines out of pieces of text.
#[derive(Debug, Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    fn take(&mut self, bytes: &[u8], traced: &mut Traced) {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            match parse_line(String::from_utf8_lossy(&line).trim_end()) {
                Some(TraceLine::Error(report)) => traced.reports.push(report),
                Some(TraceLine::Lost) => traced.lost = true,
                None => {}
            }
        }
        if self.rest.len() > LONGEST_LINE {
            self.rest.clear();
            traced.lost = true;
        }
    }
}

/// Why the tracepoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// No tracefs, or a kernel without the event.
    #[error("this kernel cannot trace failed requests, or tracefs is not mounted")]
    Absent,
    /// It is there, and does not let itself be used (lockdown, permission, memory).
    #[error("{}: {source}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A tracepoint, switched on in an instance of our own, which is removed at the end.
#[derive(Debug)]
pub struct Trace {
    tracepoint: Tracepoint,
    folder: PathBuf,
    /// Closed before the folder is removed: an instance with open files stays.
    pipe: Option<File>,
    lines: Lines,
}

impl Trace {
    /// Switches on the best tracepoint that this machine has.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn open() -> Result<Trace, TraceError> {
        Trace::open_one_of(&TRACEPOINTS)
    }

    /// Switches on the first of these tracepoints that this machine has.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn open_one_of(tracepoints: &[Tracepoint]) -> Result<Trace, TraceError> {
        for tracepoint in tracepoints {
            let has = |root: &&Path| root.join(tracepoint.folder()).is_dir() && root.join("instances").is_dir();
            if let Some(root) = ROOTS.iter().map(Path::new).find(has) {
                return Trace::open_in(root, *tracepoint);
            }
        }
        Err(TraceError::Absent)
    }

    fn open_in(root: &Path, tracepoint: Tracepoint) -> Result<Trace, TraceError> {
        let instances = root.join("instances");
        remove_leftovers(&instances, |pid| is_ours(Path::new("/proc"), pid));
        let folder = instances.join(format!("{PREFIX}{}", std::process::id()));
        let unusable = |path: &Path, source| TraceError::Unusable { path: path.to_path_buf(), source };
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(unusable(&folder, error)),
            _ => {}
        }
        // From here on dropping it removes the folder.
        let mut trace = Trace { tracepoint, folder, pipe: None, lines: Lines::default() };
        let set = |file: &Path, value: &str| {
            let path = trace.folder.join(file);
            fs::write(&path, value).map_err(|error| unusable(&path, error))
        };
        set(Path::new("buffer_size_kb"), BUFFER_KIB)?;
        // Otherwise poll waits until the buffer is half full; older kernels have no such file, and do not wait.
        let _ = set(Path::new("buffer_percent"), "0");
        // Names of processes are of no use here, and would cost every change of process on the whole machine.
        let _ = set(Path::new("options/record-cmd"), "0");
        let pipe = trace.folder.join("trace_pipe");
        let flags = nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(&pipe);
        let file = opened.map_err(|error| unusable(&pipe, error))?;
        if let Some(filter) = tracepoint.filter {
            set(&tracepoint.folder().join("filter"), filter)?;
        }
        set(&tracepoint.folder().join("enable"), "1")?;
        trace.pipe = Some(file);
        Ok(trace)
    }

    /// Which tracepoint it is.
    pub fn tracepoint(&self) -> Tracepoint {
        self.tracepoint
    }

    /// Reads all that is there, without waiting.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn drain(&mut self) -> io::Result<Traced> {
        let mut traced = Traced::default();
        let mut buf = [0; 8192];
        let Some(pipe) = &mut self.pipe else { return Ok(traced) };
        loop {
            match pipe.read(&mut buf) {
                Ok(0) => return Ok(traced),
                Ok(len) => self.lines.take(buf.get(..len).unwrap_or_default(), &mut traced),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(traced),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Readable when there are events.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::write(self.folder.join(self.tracepoint.folder()).join("enable"), "0");
        self.pipe = None;
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Removes the instances whose owners do not live.
fn remove_leftovers(instances: &Path, lives: impl Fn(u32) -> bool) {
    for entry in fs::read_dir(instances).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
        if owner.is_some_and(|pid| pid != std::process::id() && !lives(pid)) {
            for tracepoint in &TRACEPOINTS {
                let _ = fs::write(entry.path().join(tracepoint.folder()).join("enable"), "0");
            }
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Whether the process with this number lives and is this program, by the name that it runs under: numbers are used
/// again.
fn is_ours(proc: &Path, pid: u32) -> bool {
    let name = |who: &str| fs::read(proc.join(who).join("comm")).ok();
    name(&pid.to_string()).is_some_and(|theirs| name("self").is_none_or(|own| own == theirs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINE: &str =
        "    kworker/0:1H-75      [000] ..s2.    12.345678: block_rq_error: 8,0 RA () 1000 + 8 none,0,0 [-61]";

    fn error(line: &str) -> ErrorReport {
        match parse_line(line) {
            Some(TraceLine::Error(report)) => report,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn events_of_several_kernels_are_read() {
        let expected = ErrorReport {
            device: Reported::Number(DevNo { major: 8, minor: 0 }),
            range: Range::new(Sectors(1000), Sectors(8)).unwrap(),
            reach: Range::new(Sectors(1000), Sectors(8)).unwrap(),
            request: Request::Known(Operation::Read),
            class: FaultClass::Medium,
            sequence: None,
            time: Duration::from_micros(12_345_678),
        };
        assert_eq!(error(LINE), expected);
        // 5.18 to 6.11 have no priority
        let old = "          <idle>-0       [001] d.s1.    12.345678: block_rq_error: 8,0 R () 1000 + 8 [-61]";
        assert_eq!(error(old), expected);
        // Before 5.18
        let older = "          <idle>-0       [001] d.s1    12.345678: block_rq_complete: 8,0 R () 1000 + 8 [-61]";
        assert_eq!(error(older), expected);
        // A process may be called anything.
        let odd = "  a: block_rq_error: b-12 [001] d.s1.    12.345678: block_rq_error: 8,0 R () 1000 + 8 [-61]";
        assert_eq!(error(odd), expected);
        assert_eq!(parse_line("CPU:1 [LOST 12 EVENTS]"), Some(TraceLine::Lost));
    }

    #[test]
    fn requests_are_told_apart() {
        let request = |rwbs: &str| error(&LINE.replace(" RA ", &format!(" {rwbs} "))).request;
        for (rwbs, operation) in [
            ("R", Operation::Read),
            ("RM", Operation::Read),
            ("WS", Operation::Write),
            ("FWFS", Operation::Write),
            ("WFSM", Operation::Write),
            ("ZA", Operation::Write),
            ("F", Operation::Flush),
            ("FN", Operation::Flush),
        ] {
            assert_eq!(request(rwbs), Request::Known(operation), "{rwbs}");
        }
        for rwbs in ["D", "DS", "N", "ZR", "ZRA"] {
            assert_eq!(request(rwbs), Request::Other, "{rwbs}");
        }
    }

    #[test]
    fn other_lines_are_left_alone() {
        for line in [
            "",
            "# tracer: nop",
            "x-1 [000] ..... 1.000000: block_rq_complete: 8,0 R () 1000 + 8 [0]",
            "x-1 [000] ..... 1.000000: block_rq_issue: 8,0 R 4096 () 1000 + 8 [dd]",
            "x-1 [000] ..... 1.000000: block_rq_error: 8,0 R () 1000 + 8 [61]",
            "x-1 [000] ..... 1.000000: block_rq_error: 8,0 R () 1000 - 8 [-61]",
            "x-1 [000] ..... 1.000000: block_rq_error: 8:0 R () 1000 + 8 [-61]",
            "x-1 [000] ..... 1.0: block_rq_error: 8,0 R () 1000 + 8 [-61]",
            "x-1 [000] ..... 1.000000: block_rq_error: 8,0 R () 18446744073709551615 + 8 [-61]",
            "x-1 [000] ..... 1.000000: block_rq_error: 8,0 R () 1000 + 8 [-99999999999]",
        ] {
            assert_eq!(parse_line(line), None, "{line}");
        }
        // A request without sectors still names a place.
        assert_eq!(error(&LINE.replace("+ 8", "+ 0")).range.len(), Sectors(1));
    }

    #[test]
    fn lines_may_come_in_pieces() {
        let (mut lines, mut traced) = (Lines::default(), Traced::default());
        let text = format!("{LINE}\nCPU:0 [LOST 3 EVENTS]\n{LINE}\n");
        for part in text.as_bytes().chunks(7) {
            lines.take(part, &mut traced);
        }
        assert_eq!((traced.reports.len(), traced.lost), (2, true));
        let mut traced = Traced::default();
        lines.take(&vec![b'x'; LONGEST_LINE + 1], &mut traced);
        assert!(traced.lost && lines.rest.is_empty());
    }

    /// A tracefs of plain files; `trace_pipe` of a new instance cannot be made by it.
    #[test]
    fn what_dead_watchers_left_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let instances = root.path().join("instances");
        let me = std::process::id();
        for name in ["dm-remap-77", "dm-remap-78", "dm-remap-x", "other-77", &format!("dm-remap-{me}")] {
            fs::create_dir_all(instances.join(name)).unwrap();
        }
        remove_leftovers(&instances, |pid| pid == 78);
        let mut left: Vec<_> = fs::read_dir(&instances).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        let mut expected = ["dm-remap-78", "dm-remap-x", "other-77", &format!("dm-remap-{me}")].map(String::from);
        expected.sort();
        assert_eq!(left, expected.map(std::ffi::OsString::from));
        // Where it cannot be used, nothing is left behind.
        assert!(matches!(Trace::open_in(root.path(), TRACEPOINTS[0]), Err(TraceError::Unusable { .. })));
    }

    #[test]
    fn the_owner_is_known_by_its_name() {
        let proc = tempfile::tempdir().unwrap();
        for (who, name) in [("self", "dm-remap\n"), ("5", "dm-remap\n"), ("6", "bash\n")] {
            fs::create_dir(proc.path().join(who)).unwrap();
            fs::write(proc.path().join(who).join("comm"), name).unwrap();
        }
        assert!(is_ours(proc.path(), 5));
        assert!(!is_ours(proc.path(), 6) && !is_ours(proc.path(), 7));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,300}") {
            let _ = parse_line(&text);
        }

        #[test]
        fn no_change_of_a_line_panics(at in 0usize..98, with in "\\PC{0,3}", drop in 0usize..5) {
            let (before, after) = LINE.split_at(at.min(LINE.len()));
            let _ = parse_line(&format!("{before}{with}{}", after.get(drop.min(after.len())..).unwrap()));
        }
    }
}
