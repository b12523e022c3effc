//! The kernel log as a source of error reports: /dev/kmsg, one record for each read.
//!
//! Source of the record's form: Documentation/ABI/testing/dev-kmsg. The limit on lines: `printk_ratelimited` in
//! `blk_print_req_error`, with the defaults of include/linux/ratelimit_types.h.
//!
//! Invariants:
//! - only what the kernel itself wrote is believed (facility 0): any program may write to /dev/kmsg as well;
//! - records that were overwritten before they were read are counted and told, never passed over silently;
//! - reading never waits.

use super::position::Position;
use super::report::{ErrorReport, LogLine, Reported, parse_line};
use crate::units::{Range, Sectors};
use nix::errno::Errno;
use std::collections::VecDeque;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// A record takes at most 8192 bytes (`CONSOLE_EXT_LOG_MAX`, `PRINTK_MESSAGE_MAX`); a smaller buffer makes reads fail.
const RECORD_BYTES: usize = 16_384;

/// After so many lines within [`LINES_INTERVAL`] the kernel leaves lines on failed requests out.
const LINES_BURST: usize = 10;

/// See [`LINES_BURST`].
pub(super) const LINES_INTERVAL: Duration = Duration::from_secs(5);

/// One record of the kernel log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who wrote it: 0 is the kernel, other numbers are programs (as in syslog).
    pub facility: u64,
    /// Number of the record since boot.
    pub sequence: u64,
    /// Since boot, by the log's clock.
    pub time: Duration,
    /// The text, without the dictionary that may follow it.
    pub message: String,
}

/// Reads `PRIORITY,SEQUENCE,MICROSECONDS,FLAGS[,…];MESSAGE`, and lines of a dictionary, which begin with a blank.
/// `None` when it is no such record. A record that continues the one before (flag `c` or `+`) is a record like any other:
/// the block layer writes its lines whole.
pub fn parse_record(bytes: &[u8]) -> Option<Record> {
    let text = String::from_utf8_lossy(bytes);
    let (head, rest) = text.split_once(';')?;
    let mut fields = head.split(',');
    let mut number = || fields.next()?.trim().parse::<u64>().ok();
    let (priority, sequence, micros) = (number()?, number()?, number()?);
    let message = rest.lines().next().unwrap_or_default().to_string();
    Some(Record { facility: priority >> 3, sequence, time: Duration::from_micros(micros), message })
}

/// Why the kernel log cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot {what} the kernel log {path}: {source}. Without it no error reports can be had: run as root, on the host itself and not in a container"
)]
pub struct LogError {
    what: &'static str,
    path: String,
    source: std::io::Error,
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// Failed requests, oldest first.
    pub reports: Vec<ErrorReport>,
    /// Whether there may have been more failed requests than lines: the kernel prints ten in five seconds.
    pub hidden: bool,
    /// Records that were overwritten before they could be read.
    pub overwritten: u64,
    /// Number of the last record that was read.
    pub last: Option<u64>,
}

/// Where records come from: [`File`] of /dev/kmsg, or made-up ones in tests.
trait Records: fmt::Debug {
    /// One record; `EAGAIN` when there is none, `EPIPE` when records were overwritten.
    fn next(&mut self, buf: &mut [u8]) -> Result<usize, Errno>;
}

impl Records for File {
    fn next(&mut self, buf: &mut [u8]) -> Result<usize, Errno> {
        self.read(buf).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(nix::libc::EIO)))
    }
}

/// Turns records into reports.
#[derive(Debug, Default)]
struct Reader {
    /// The last record that was read, or that need not be read.
    last: Option<u64>,
    /// When the last lines on failed requests were written.
    lines: VecDeque<Duration>,
}

impl Reader {
    /// Reads all that is there.
    fn drain(&mut self, source: &mut dyn Records) -> Result<Log, Errno> {
        let mut log = Log::default();
        let mut buf = vec![0; RECORD_BYTES];
        loop {
            match source.next(&mut buf) {
                // End of file: not what a kernel log does, but no reason to loop.
                Ok(0) | Err(Errno::EAGAIN) => break,
                Ok(len) => self.take(buf.get(..len).unwrap_or_default(), &mut log),
                // The next read gives the oldest record there is; the gap in the numbers says how many are lost.
                Err(Errno::EPIPE | Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
        log.last = self.last;
        Ok(log)
    }

    fn take(&mut self, bytes: &[u8], log: &mut Log) {
        let Some(record) = parse_record(bytes) else { return };
        if let Some(last) = self.last {
            if record.sequence <= last {
                return;
            }
            log.overwritten = log.overwritten.saturating_add(record.sequence - last - 1);
        }
        self.last = Some(record.sequence);
        if record.facility != 0 {
            return;
        }
        match parse_line(&record.message) {
            Some(LogLine::Suppressed(count)) => log.hidden |= count > 0,
            Some(LogLine::Error { device, sector, most, request, class }) => {
                log.hidden |= self.crowded(record.time);
                let Some(range) = Range::new(sector, Sectors(1)) else { return };
                log.reports.push(ErrorReport {
                    device: Reported::Name(device),
                    range,
                    reach: Range::new(sector, most).unwrap_or(range),
                    request,
                    class,
                    sequence: Some(record.sequence),
                    time: record.time,
                });
            }
            None => {}
        }
    }

    /// Whether with the line of this time the kernel has written as many as it does before it leaves some out.
    fn crowded(&mut self, now: Duration) -> bool {
        while self.lines.front().is_some_and(|first| now.saturating_sub(*first) > LINES_INTERVAL) {
            self.lines.pop_front();
        }
        self.lines.push_back(now);
        if self.lines.len() > LINES_BURST {
            self.lines.pop_front();
        }
        self.lines.len() >= LINES_BURST
    }
}

/// The kernel log, opened for reading.
#[derive(Debug)]
pub struct Kmsg {
    file: File,
    path: String,
    reader: Reader,
}

impl Kmsg {
    /// Opens the log (`/dev/kmsg`) behind record `after`; at the oldest record there is when `after` is `None`.
    ///
    /// # Errors
    /// [`LogError`] when there is none, or it may not be read.
    pub fn open(path: &Path, after: Option<u64>) -> Result<Kmsg, LogError> {
        let name = path.display().to_string();
        let flags = nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|source| LogError {
            what: "open",
            path: name.clone(),
            source,
        })?;
        Ok(Kmsg { file, path: name, reader: Reader { last: after, ..Reader::default() } })
    }

    /// Number of the last record that was read.
    pub fn last(&self) -> Option<u64> {
        self.reader.last
    }

    /// Reads all that is there, without waiting.
    ///
    /// # Errors
    /// [`LogError`] when reading fails.
    pub fn drain(&mut self) -> Result<Log, LogError> {
        self.reader.drain(&mut self.file).map_err(|errno| LogError {
            what: "read",
            path: self.path.clone(),
            source: errno.into(),
        })
    }
}

impl AsFd for Kmsg {
    /// Readable when there are records.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// All reports since `position`, and where the log ends now: for a command that runs now and then. With no position, or
/// one of another boot, all that the log still has.
///
/// # Errors
/// [`LogError`] when the log cannot be read.
pub fn reports_since(path: &Path, position: Option<&Position>, boot: &str) -> Result<(Log, Position), LogError> {
    let after = position.filter(|p| p.boot == boot).map(|p| p.sequence);
    let log = Kmsg::open(path, after)?.drain()?;
    let sequence = log.last.or(after).unwrap_or(0);
    Ok((log, Position { boot: boot.to_string(), sequence }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::FaultClass;
    use proptest::prelude::*;

    #[derive(Debug)]
    struct Made(VecDeque<Result<Vec<u8>, Errno>>);

    impl Records for Made {
        fn next(&mut self, buf: &mut [u8]) -> Result<usize, Errno> {
            let record = self.0.pop_front().unwrap_or(Err(Errno::EAGAIN))?;
            buf[..record.len()].copy_from_slice(&record);
            Ok(record.len())
        }
    }

    fn error(sequence: u64, millis: u64, sector: u64) -> Result<Vec<u8>, Errno> {
        let line = format!("critical medium error, dev sda, sector {sector} op 0x0:(READ) flags 0x0 phys_seg 1");
        Ok(format!("3,{sequence},{},-;{line}\n", millis * 1000).into_bytes())
    }

    fn other(sequence: u64, text: &str) -> Result<Vec<u8>, Errno> {
        Ok(format!("6,{sequence},5000000,-,caller=T1;{text}\n SUBSYSTEM=block\n DEVICE=b8:0\n").into_bytes())
    }

    fn drain(reader: &mut Reader, records: Vec<Result<Vec<u8>, Errno>>) -> Log {
        reader.drain(&mut Made(records.into())).unwrap()
    }

    fn sectors(log: &Log) -> Vec<u64> {
        log.reports.iter().map(|r| r.range.start().0).collect()
    }

    #[test]
    fn a_record_is_read_whole() {
        let record = parse_record(b"3,1234,987654321,-,caller=C0;hello; world\n KEY=value\n").unwrap();
        let expected = Record {
            facility: 0,
            sequence: 1234,
            time: Duration::from_micros(987_654_321),
            message: "hello; world".into(),
        };
        assert_eq!(record, expected);
        assert_eq!(parse_record(b"30,1,2,c;text").unwrap().facility, 3);
        for bad in ["", ";", "3;x", "3,4;x", "3,4,5", "a,b,c,-;x", "3,-4,5,-;x"] {
            assert_eq!(parse_record(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn reports_come_in_order_and_keep_their_numbers() {
        let mut reader = Reader::default();
        let log =
            drain(&mut reader, vec![other(6, "hello"), error(7, 1500, 1000), other(8, "x"), error(9, 1501, 2000)]);
        assert_eq!(sectors(&log), [1000, 2000]);
        assert_eq!((log.last, log.overwritten, log.hidden), (Some(9), 0, false));
        let report = &log.reports[0];
        assert_eq!((report.class, report.sequence), (FaultClass::Medium, Some(7)));
        assert_eq!((report.device.to_string(), report.time), ("sda".into(), Duration::from_millis(1500)));
    }

    #[test]
    fn what_programs_write_is_not_believed() {
        let forged = Ok(b"11,5,1,-;critical medium error, dev sda, sector 1000 op 0x0:(READ)\n".to_vec());
        assert_eq!(drain(&mut Reader::default(), vec![forged]).reports, []);
    }

    #[test]
    fn what_was_read_before_is_passed_over_and_gaps_are_counted() {
        let mut reader = Reader { last: Some(10), ..Reader::default() };
        let log = drain(&mut reader, vec![error(9, 1, 1), error(10, 2, 2), error(11, 3, 3)]);
        assert_eq!((sectors(&log), log.overwritten), (vec![3], 0));
        let log = drain(&mut reader, vec![error(12, 4, 4), Err(Errno::EPIPE), error(20, 5, 5), Err(Errno::EINTR)]);
        assert_eq!((sectors(&log), log.overwritten, log.last), (vec![4, 5], 7, Some(20)));
        let log = drain(&mut reader, vec![]);
        assert_eq!((log.reports.len(), log.overwritten, log.last), (0, 0, Some(20)));
        assert!(reader.drain(&mut Made([Err(Errno::EBADF)].into())).is_err());
    }

    #[test]
    fn lines_that_were_left_out_are_noticed() {
        let mut reader = Reader::default();
        let burst = |from: u64, count: u64| (from..from + count).map(|n| error(n, 1000 + n, n)).collect();
        assert!(!drain(&mut reader, burst(0, 9)).hidden, "nine lines hide nothing");
        assert!(drain(&mut reader, burst(9, 1)).hidden, "from the tenth on some may be hidden");
        assert!(!drain(&mut reader, vec![error(30, 9000, 1)]).hidden, "later the count begins anew");
        let told = other(31, "blk_print_req_error: 990 callbacks suppressed");
        assert!(drain(&mut reader, vec![told]).hidden);
    }

    #[test]
    fn a_position_of_another_boot_does_not_count() {
        // /dev/null is a log without records.
        let null = Path::new("/dev/null");
        let old = Position { boot: "a".into(), sequence: 7 };
        assert_eq!(reports_since(null, Some(&old), "a").unwrap().1, old);
        assert_eq!(reports_since(null, Some(&old), "b").unwrap().1, Position { boot: "b".into(), sequence: 0 });
        assert!(
            reports_since(Path::new("/nonexistent/kmsg"), None, "b").unwrap_err().to_string().contains("/nonexistent")
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse_record(&bytes);
        }
    }
}
