//! One `dust` target: its list of bad blocks and its messages.

use nix::errno::Errno;
use std::collections::BTreeMap;

/// The list and the switch of a `dust` target. They live as long as the table that they were loaded with.
#[derive(Clone, Debug)]
pub(super) struct Dust {
    /// Sectors in a block.
    pub(super) block: u64,
    enabled: bool,
    /// Bad blocks, each with the number of writes that fail before one heals it.
    bad: BTreeMap<u64, u8>,
}

impl Dust {
    /// A disabled target without bad blocks; `EINVAL` for a block size that the kernel refuses.
    pub(super) fn new(block_bytes: u32) -> Result<Dust, Errno> {
        if !(512..=1 << 30).contains(&block_bytes) || !block_bytes.is_power_of_two() {
            return Err(Errno::EINVAL);
        }
        Ok(Dust { block: u64::from(block_bytes / 512), enabled: false, bad: BTreeMap::new() })
    }

    /// What becomes of a part of a request that starts at `sector` of the underlying device. `commit` is false
    /// for a look ahead that must change nothing.
    pub(super) fn judge(&mut self, sector: u64, write: bool, commit: bool) -> Result<(), Errno> {
        let block = sector.checked_div(self.block).unwrap_or(0);
        if !self.enabled {
            return Ok(());
        }
        match self.bad.get_mut(&block) {
            None => Ok(()),
            Some(_) if !write => Err(Errno::EIO),
            Some(0) => {
                if commit {
                    self.bad.remove(&block);
                }
                Ok(())
            }
            Some(failures) => {
                if commit {
                    *failures -= 1;
                }
                Err(Errno::EIO)
            }
        }
    }

    /// Answers a message; `size` is that of the underlying device in sectors.
    pub(super) fn message(&mut self, words: &[&str], size: u64) -> Result<Option<String>, Errno> {
        match words {
            [verb] => self.verb(&verb.to_ascii_lowercase()),
            [verb, block] => {
                let block = self.block_number(block, size)?;
                self.block_verb(&verb.to_ascii_lowercase(), block)
            }
            [verb, block, failures] if verb.eq_ignore_ascii_case("addbadblock") => {
                let block = self.block_number(block, size)?;
                self.add(block, failures.parse().map_err(|_| Errno::EINVAL)?)
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn verb(&mut self, verb: &str) -> Result<Option<String>, Errno> {
        match verb {
            "enable" => self.enabled = true,
            "disable" => self.enabled = false,
            "quiet" => (),
            "countbadblocks" => {
                return Ok(Some(format!("countbadblocks: {} badblock(s) found", self.bad.len())));
            }
            "listbadblocks" => {
                return Ok(Some(self.bad.keys().map(|block| format!("{block}\n")).collect()));
            }
            "clearbadblocks" => {
                let what = if self.bad.is_empty() { "no badblocks found" } else { "badblocks cleared" };
                self.bad.clear();
                return Ok(Some(format!("dust_clear_badblocks: {what}")));
            }
            _ => return Err(Errno::EINVAL),
        }
        Ok(None)
    }

    fn block_verb(&mut self, verb: &str, block: u64) -> Result<Option<String>, Errno> {
        match verb {
            "addbadblock" => self.add(block, 0),
            "removebadblock" => self.bad.remove(&block).map(|_| None).ok_or(Errno::EINVAL),
            "queryblock" => {
                let found = if self.bad.contains_key(&block) { "found" } else { "not found" };
                Ok(Some(format!("dust_query_block: block {block} {found} in badblocklist")))
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn add(&mut self, block: u64, failures: u8) -> Result<Option<String>, Errno> {
        if self.bad.contains_key(&block) {
            return Err(Errno::EINVAL);
        }
        self.bad.insert(block, failures);
        Ok(None)
    }

    fn block_number(&self, text: &str, size: u64) -> Result<u64, Errno> {
        let block: u64 = text.parse().map_err(|_| Errno::EINVAL)?;
        // The kernel is off by one here, and so are we.
        if block > size.checked_div(self.block).unwrap_or(0) { Err(Errno::EINVAL) } else { Ok(block) }
    }
}
