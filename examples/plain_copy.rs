//! What copying a batch of extents costs without dm-remap: the peer of benches/layout.
//!
//! `plain_copy MAIN SPARE` reads lines `FROM TO LEN` (sectors) from its standard input, copies each from MAIN to SPARE with
//! one pread and one pwrite (both O_DIRECT), and ends with one fsync of SPARE.

use dm_remap::block::buffer::AlignedBuffer;
use std::error::Error;
use std::fs::OpenOptions;
use std::io::{self, BufRead};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(main), Some(spare)) = (args.next(), args.next()) else {
        return Err("usage: plain_copy MAIN SPARE".into());
    };
    let direct = nix::libc::O_DIRECT;
    let main = OpenOptions::new().read(true).custom_flags(direct).open(main)?;
    let spare = OpenOptions::new().read(true).write(true).custom_flags(direct).open(spare)?;
    let mut buffer = AlignedBuffer::new(1 << 20);
    for line in io::stdin().lock().lines() {
        let line = line?;
        let numbers: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [from, to, len] = numbers[..] else { return Err(format!("not three numbers: {line}").into()) };
        let data = buffer.get_mut(..usize::try_from(len)? * 512).ok_or("more than 1 MiB in one line")?;
        main.read_exact_at(data, from * 512)?;
        spare.write_all_at(data, to * 512)?;
    }
    spare.sync_all()?;
    Ok(())
}
