//! Asking a disk how it is, through smartctl of smartmontools.
//!
//! Invariants: a disk that sleeps is not woken unless that is asked for; no self-test is begun, nothing is switched on or off; the
//! answer is waited for a bounded time.

use super::host::Host;
use super::tool::{Deadline, Tool, ToolError};
use crate::smart::{ExitStatus, Smart, parse};
use crate::units::DevNo;
use serde_json::Value;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

const SMARTCTL: Tool = Tool { name: "smartctl", package: "smartmontools" };

/// What smartctl is told to exit with when the disk sleeps: it never ends so by itself, because a mistake in the command line (1)
/// keeps it from opening anything (2).
const ASLEEP: i32 = 3;

/// Why a disk did not say how it is. Displayed it is a phrase.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SmartError {
    /// The device lies on several disks: asking each of them is for a person.
    #[error("it lies on several disks ({}); ask each with 'dm-remap health --device'", .0.join(", "))]
    SeveralDisks(Vec<String>),
    /// The kernel does not know the device.
    #[error("the device is not there")]
    Gone,
    /// It sleeps, and was not to be woken.
    #[error("it sleeps; --wake asks it all the same")]
    Asleep,
    /// It does not say anything, or not what can be understood.
    #[error("{0}")]
    Silent(String),
}

impl From<ToolError> for SmartError {
    fn from(error: ToolError) -> SmartError {
        SmartError::Silent(error.to_string())
    }
}

impl Host {
    /// The one disk that a device lies on.
    ///
    /// # Errors
    /// [`SmartError::SeveralDisks`], [`SmartError::Gone`].
    pub fn only_disk(&self, devno: DevNo) -> Result<PathBuf, SmartError> {
        let path = |devno: &DevNo| self.device_by_number(*devno).map(|device| device.path);
        match self.lowest_disks(devno).as_slice() {
            [disk] => path(disk).map_err(|_| SmartError::Gone),
            [] => Err(SmartError::Gone),
            several => {
                let name = |devno: &DevNo| path(devno).map_or(devno.to_string(), |path| path.display().to_string());
                Err(SmartError::SeveralDisks(several.iter().map(name).collect()))
            }
        }
    }

    /// What the disk below a device says of itself, within `limit`. With `wake` also a disk that sleeps is asked.
    ///
    /// # Errors
    /// [`SmartError`].
    pub fn smart(&self, devno: DevNo, wake: bool, limit: Duration) -> Result<Smart, SmartError> {
        let disk = self.only_disk(devno)?;
        let asleep = format!("standby,{ASLEEP}");
        let mut arguments: Vec<&OsStr> =
            ["--json=c", "-i", "-H", "-A", "-l", "error", "-l", "selftest"].map(OsStr::new).to_vec();
        if !wake {
            arguments.extend([OsStr::new("-n"), OsStr::new(&asleep)]);
        }
        arguments.push(disk.as_os_str());
        let (output, ended) = SMARTCTL.capture(&arguments, Deadline::after(limit))?;
        if ended.code == Some(ASLEEP) && !wake {
            return Err(SmartError::Asleep);
        }
        answer(output.as_bytes())
    }
}

/// What an output says. An exit status other than 0 is no failure by itself: most of its bits tell of the disk.
fn answer(output: &[u8]) -> Result<Smart, SmartError> {
    let Some(smart) = parse(output) else {
        return Err(SmartError::Silent("smartctl gave no answer that can be understood".into()));
    };
    let status = ExitStatus(smart.exit_status);
    if status.bad_usage() || status.not_opened() || smart.is_empty() {
        let said = complaint(output).unwrap_or_else(|| "the device says nothing of its health".into());
        return Err(SmartError::Silent(said));
    }
    Ok(smart)
}

/// The first of smartctl's own messages.
fn complaint(output: &[u8]) -> Option<String> {
    let json: Value = serde_json::from_slice(output).ok()?;
    let messages = json.get("smartctl")?.get("messages")?.as_array()?;
    let text = messages.iter().find_map(|message| message.get("string")?.as_str())?;
    Some(format!("smartctl says: {}", text.lines().next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_answer_is_told_in_words() {
        let silent = |text: &str| answer(text.as_bytes()).unwrap_err().to_string();
        let refused = r#"{"smartctl":{"exit_status":1,"messages":[{"string":"/dev/loop0: Unable to detect device type","severity":"error"}]}}"#;
        assert_eq!(silent(refused), "smartctl says: /dev/loop0: Unable to detect device type");
        assert!(silent("").contains("no answer"));
        let mute = r#"{"smartctl":{"exit_status":4},"device":{"protocol":"SCSI"}}"#;
        assert_eq!(silent(mute), "the device says nothing of its health");
        // A disk that fails says so in the exit status: that is an answer.
        let failing = r#"{"smartctl":{"exit_status":216},"device":{"protocol":"ATA"},"smart_status":{"passed":false}}"#;
        assert_eq!(answer(failing.as_bytes()).unwrap().passed, Some(false));
    }
}
