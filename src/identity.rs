//! What is known of a device, so that it can be told from all others after a reboot.
//!
//! Invariants:
//! - a path is a hint and never proof: it is not part of the fingerprint;
//! - the fingerprint covers the stable properties only, so it is the same on every machine.

use crate::units::Sectors;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// What a device says of itself. Empty fields are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Identity {
    /// World-wide name, as the kernel prints it (`naa.5000…`, `eui.…`, `t10.…`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wwn: Option<String>,
    /// Serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Model, with the vendor where the bus has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// GPT partition UUID, or `SIGNATURE-NN` for an MBR partition, in lower case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition_uuid: Option<String>,
    /// First sector of the partition on its disk; absent for whole disks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition_start: Option<Sectors>,
    /// UUID of a device-mapper or md device (`LVM-…`, `CRYPT-…`): these have no serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_uuid: Option<String>,
    /// Size in sectors.
    pub size: Sectors,
    /// Logical block size in sectors: the smallest request that the device takes.
    pub logical_block: Sectors,
    /// Physical block size in sectors: the smallest write that the device does without reading first.
    pub physical_block: Sectors,
    /// Where the device was last seen (`/dev/disk/by-id/…` where there is one). A hint only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// SHA-256 over the stable fields, in hexadecimal: see [`Identity::compute_fingerprint`].
    pub fingerprint: String,
    /// Keys of later versions of the on-disk format.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

/// How well a device on this machine fits a recorded identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// At least one of WWN, serial, partition UUID or virtual UUID is equal, none differs, and the size is equal.
    Proven,
    /// Nothing contradicts, but nothing proves it either: the device has no stable name. Only a person can say.
    Unproven,
    /// It is another device: what differs, in words.
    Different(String),
}

impl Identity {
    /// SHA-256 over WWN, serial, model, partition UUID and start, virtual UUID, size and block sizes, each
    /// preceded by its name and ended by a zero byte, absent ones left out. In hexadecimal.
    pub fn compute_fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        let mut field = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                hash.update(name.as_bytes());
                hash.update(b"=");
                hash.update(value.as_bytes());
                hash.update(b"\0");
            }
        };
        field("wwn", self.wwn.clone());
        field("serial", self.serial.clone());
        field("model", self.model.clone());
        field("partition_uuid", self.partition_uuid.clone());
        field("partition_start", self.partition_start.map(|s| s.to_string()));
        field("virtual_uuid", self.virtual_uuid.clone());
        field("size", Some(self.size.to_string()));
        field("logical_block", Some(self.logical_block.to_string()));
        field("physical_block", Some(self.physical_block.to_string()));
        let digest = hash.finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The same identity with its fingerprint filled in.
    pub fn with_fingerprint(mut self) -> Identity {
        self.fingerprint = self.compute_fingerprint();
        self
    }

    /// Whether the device has a name of its own that survives a reboot and a change of bus.
    pub fn has_stable_name(&self) -> bool {
        self.wwn.is_some() || self.serial.is_some() || self.partition_uuid.is_some() || self.virtual_uuid.is_some()
    }

    /// Judges whether `found` is the device that this identity was taken from.
    ///
    /// Sizes must be equal. Of the stable names, those that both sides know must agree; a partition
    /// must also start at the same sector. At least one must be known to both for [`Match::Proven`].
    pub fn matches(&self, found: &Identity) -> Match {
        if self.size != found.size {
            return Match::Different(format!("size is {} sectors, not {}", found.size, self.size));
        }
        let names = [
            ("WWN", &self.wwn, &found.wwn),
            ("serial", &self.serial, &found.serial),
            ("partition UUID", &self.partition_uuid, &found.partition_uuid),
            ("UUID", &self.virtual_uuid, &found.virtual_uuid),
        ];
        let mut proven = false;
        for (what, mine, theirs) in names {
            if let (Some(mine), Some(theirs)) = (mine, theirs) {
                if mine != theirs {
                    return Match::Different(format!("{what} is {theirs}, not {mine}"));
                }
                proven = true;
            }
        }
        if self.partition_start.is_some() != found.partition_start.is_some() {
            return Match::Different("one is a partition and the other a whole disk".into());
        }
        if self.partition_start != found.partition_start {
            return Match::Different("the partition starts at another sector".into());
        }
        if proven { Match::Proven } else { Match::Unproven }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(serial: Option<&str>, size: u64) -> Identity {
        Identity {
            serial: serial.map(String::from),
            size: Sectors(size),
            logical_block: Sectors(1),
            physical_block: Sectors(8),
            ..Identity::default()
        }
        .with_fingerprint()
    }

    #[test]
    fn a_path_is_never_proof() {
        let mut a = disk(None, 100);
        a.path = Some("/dev/sda".into());
        let b = a.clone();
        assert_eq!(a.matches(&b), Match::Unproven);
        assert_eq!(a.fingerprint, disk(None, 100).fingerprint);
    }

    #[test]
    fn names_prove_and_contradict() {
        assert_eq!(disk(Some("A"), 100).matches(&disk(Some("A"), 100)), Match::Proven);
        assert!(matches!(disk(Some("A"), 100).matches(&disk(Some("B"), 100)), Match::Different(_)));
        assert!(matches!(disk(Some("A"), 100).matches(&disk(Some("A"), 101)), Match::Different(_)));
        assert_eq!(disk(Some("A"), 100).matches(&disk(None, 100)), Match::Unproven);
        let partition = Identity { partition_start: Some(Sectors(8)), ..disk(Some("A"), 100) };
        assert!(matches!(disk(Some("A"), 100).matches(&partition), Match::Different(_)));
    }
}
