//! A message as mail, by the sendmail program of the system.
//!
//! The form is RFC 5322. Invariants: no text of a setup can begin a header or end the headers; no line is longer than 998
//! bytes.

use super::event::Alert;
use super::program::{self, ProgramError};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

/// RFC 5322, 2.1.1, less the end of the line and what a character may take.
const LONGEST_LINE: usize = 990;

/// A subject that is longer is cut: it is one line.
const LONGEST_SUBJECT: usize = 200;

/// Sends it.
///
/// # Errors
/// [`ProgramError`].
pub fn send(sendmail: &Path, address: &str, alert: &Alert, limit: Duration) -> Result<(), ProgramError> {
    let mut command = Command::new(sendmail);
    // A line with a dot does not end the mail. The address was checked when the configuration was read.
    command.arg("-i").arg(address);
    program::run(command, text(address, alert).as_bytes(), limit)
}

/// The mail: headers, an empty line, the text.
pub fn text(address: &str, alert: &Alert) -> String {
    let mut subject = header(&alert.subject());
    subject.truncate(LONGEST_SUBJECT);
    let headers = [
        format!("Date: {}", date(alert.time)),
        "From: dm-remap <root>".into(),
        format!("To: <{}>", header(address)),
        format!("Subject: {subject}"),
        "MIME-Version: 1.0".into(),
        "Content-Type: text/plain; charset=utf-8".into(),
        "Content-Transfer-Encoding: 8bit".into(),
        // RFC 3834: no program is to answer.
        "Auto-Submitted: auto-generated".into(),
        format!("X-DM-Remap-Event: {}", alert.kinds()),
    ];
    format!("{}\n\n{}", headers.join("\n"), body(alert))
}

fn body(alert: &Alert) -> String {
    let mut out = String::new();
    for line in alert.details().lines() {
        wrapped(&mut out, line);
    }
    for line in [
        String::new(),
        format!("setup:   {}", alert.setup),
        format!("device:  {}", alert.device),
        format!("machine: {}", alert.host),
        format!("time:    {}", humantime::format_rfc3339_seconds(moment(alert.time))),
        String::new(),
        format!("'dm-remap status {}' says how it is doing now, and what to do.", alert.setup),
    ] {
        wrapped(&mut out, &line.replace(char::is_control, " "));
    }
    out
}

/// Adds a line, in pieces where it is too long.
fn wrapped(out: &mut String, line: &str) {
    let mut length = 0_usize;
    for c in line.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if length.saturating_add(c.len_utf8()) > LONGEST_LINE {
            out.push('\n');
            length = 0;
        }
        out.push(c);
        length = length.saturating_add(c.len_utf8());
    }
    out.push('\n');
}

/// Text that is safe in a header: printable ASCII, on one line.
fn header(text: &str) -> String {
    let safe = |c: char| match c {
        c if c.is_control() => ' ',
        c if c.is_ascii() => c,
        _ => '?',
    };
    text.chars().map(safe).collect()
}

fn moment(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// `Fri, 27 Nov 2026 08:46:13 +0000`.
fn date(seconds: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let stamp = humantime::format_rfc3339_seconds(moment(seconds)).to_string();
    let part = |from: usize, to: usize| stamp.get(from..to).unwrap_or_default();
    let week = usize::try_from(seconds / 86_400 % 7).unwrap_or_default();
    let month = part(5, 7).parse::<usize>().unwrap_or(1).saturating_sub(1);
    let name = |names: &[&'static str], at: usize| names.get(at).copied().unwrap_or_default();
    format!("{}, {} {} {} {} +0000", name(&DAYS, week), part(8, 10), name(&MONTHS, month), part(0, 4), part(11, 19))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_rfc_5322() {
        assert_eq!(date(0), "Thu, 01 Jan 1970 00:00:00 +0000");
        assert_eq!(date(1_795_769_173), "Fri, 27 Nov 2026 08:46:13 +0000");
    }
}
