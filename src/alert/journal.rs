//! A message for systemd's journal, in its native protocol.
//!
//! The form: <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>. Each field is `NAME=value` and a line feed, or, where the value
//! holds a line feed, the name, a line feed, the length as 64 bits little-endian, the value and a line feed.

use super::event::Alert;
use nix::errno::Errno;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

/// The most bytes of one field: a datagram must fit the socket's buffer, which is 208 KiB by default.
const LONGEST_FIELD: usize = 60_000;

/// Writes it to the socket of the journal, which is /run/systemd/journal/socket.
///
/// # Errors
/// When there is no such socket, or nobody takes it.
pub fn send(socket: &Path, alert: &Alert) -> io::Result<()> {
    let from = UnixDatagram::unbound()?;
    from.set_nonblocking(true)?;
    from.connect(socket)?;
    match from.send(&encode(&fields(alert, true))) {
        // What is in the details is in the mail and with the program, too.
        Err(error) if error.raw_os_error() == Some(Errno::EMSGSIZE as i32) => {
            from.send(&encode(&fields(alert, false))).map(|_| ())
        }
        result => result.map(|_| ()),
    }
}

/// The fields of a message.
pub fn fields(alert: &Alert, with_details: bool) -> Vec<(&'static str, String)> {
    let mut fields = vec![
        ("MESSAGE", alert.subject()),
        ("MESSAGE_ID", alert.kind().message_id().to_string()),
        ("PRIORITY", alert.kind().priority().to_string()),
        ("SYSLOG_IDENTIFIER", "dm-remap".to_string()),
        ("DM_REMAP_EVENT", alert.kind().name().to_string()),
        ("DM_REMAP_EVENTS", alert.kinds()),
        ("DM_REMAP_SETUP", alert.setup.clone()),
        ("DM_REMAP_UUID", alert.uuid.clone()),
        ("DM_REMAP_DEVICE", alert.device.clone()),
    ];
    if with_details {
        fields.push(("DM_REMAP_DETAILS", alert.details()));
    }
    fields
}

/// Fields as the journal reads them.
pub fn encode(fields: &[(&str, String)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        let mut end = value.len().min(LONGEST_FIELD);
        while !value.is_char_boundary(end) {
            end = end.saturating_sub(1);
        }
        let value = value.get(..end).unwrap_or_default();
        out.extend(name.as_bytes());
        if value.contains('\n') {
            out.push(b'\n');
            out.extend(u64::try_from(value.len()).unwrap_or_default().to_le_bytes());
        } else {
            out.push(b'=');
        }
        out.extend(value.as_bytes());
        out.push(b'\n');
    }
    out
}
