//! Lines for the system's log, by way of /dev/log, where there is one.
//!
//! Invariant: a log that is not there, or does not keep up, never stops or delays anything.

use std::os::unix::net::UnixDatagram;

/// How grave it is; the numbers are syslog's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Severity {
    /// Something failed that needs somebody.
    Error = 3,
    /// Data was lost, or a device is in trouble.
    Warning = 4,
    /// Something was done.
    Notice = 5,
}

/// The facility of system daemons.
const DAEMON: u32 = 3;

/// Datagrams that are longer are refused or cut by some.
const LONGEST: usize = 1024;

/// Writes a line to the system's log; whether somebody took it.
pub(in crate::cli) fn log(severity: Severity, text: &str) -> bool {
    let Ok(socket) = UnixDatagram::unbound() else { return false };
    socket.set_nonblocking(true).is_ok()
        && socket.connect("/dev/log").is_ok()
        && socket.send(line(severity, std::process::id(), text).as_bytes()).is_ok()
}

/// As RFC 3164 has it, without a time: the receiver's clock is as good, and it knows the local time.
fn line(severity: Severity, pid: u32, text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut line = format!("<{}>dm-remap[{pid}]: {text}", DAEMON * 8 + severity as u32);
    while line.len() > LONGEST {
        line.pop();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_and_not_too_long() {
        assert_eq!(line(Severity::Notice, 7, "a\nb"), "<29>dm-remap[7]: a b");
        assert_eq!(line(Severity::Error, 7, "x"), "<27>dm-remap[7]: x");
        assert!(line(Severity::Warning, 7, &"ä".repeat(2000)).len() <= LONGEST);
    }
}
