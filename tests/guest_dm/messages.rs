//! What the fake and the kernel must do alike, part two: messages, to `dust` and to dm-stats.

use super::battery::errno;
use super::bench::{Bench, piece};
use dm_remap::dm::TableSlot;
use dm_remap::segments::TargetKind;
use dm_remap::units::Sectors;
use nix::errno::Errno;

fn dust(b: &Bench, name: &str, offset: u64, block_bytes: u32) {
    let kind = TargetKind::Dust { device: b.disk[0], offset: Sectors(offset), block_bytes };
    b.up(name, &[piece(0, 200, kind)]);
}

/// Which of the sectors cannot be read.
fn bad(b: &Bench, name: &str, sectors: std::ops::Range<u64>) -> Vec<u64> {
    let disk = b.open(name);
    sectors.filter(|s| disk.read(Sectors(*s), &mut [0; 512]).is_err()).collect()
}

pub fn dust_numbers_blocks_on_the_device(b: &Bench) {
    if !b.has_dust() {
        return;
    }
    dust(b, "t-a", 1000, 512);
    b.tell("t-a", "addbadblock 1010");
    b.tell("t-a", "addbadblock 20");
    assert_eq!(bad(b, "t-a", 0..30), Vec::<u64>::new());
    b.tell("t-a", "enable");
    assert_eq!(bad(b, "t-a", 0..30), [10]);
    dust(b, "t-b", 1000, 4096);
    b.tell("t-b", "addbadblock 126");
    b.tell("t-b", "enable");
    assert_eq!(bad(b, "t-b", 0..30), (8..16).collect::<Vec<_>>());
    // An offset that is no multiple of the block: a request that starts in the block before goes unnoticed.
    dust(b, "t-c", 1003, 4096);
    b.tell("t-c", "addbadblock 126");
    b.tell("t-c", "enable");
    assert_eq!(bad(b, "t-c", 0..30), (5..13).collect::<Vec<_>>());
    let disk = b.open("t-c");
    disk.read(Sectors(0), &mut [0; 4096]).unwrap();
    assert_eq!(disk.read(Sectors(8), &mut [0; 4096]).unwrap_err().errno, Errno::EIO);
}

pub fn dust_heals_whole_blocks(b: &Bench) {
    if !b.has_dust() {
        return;
    }
    dust(b, "t-a", 1000, 4096);
    let disk = b.open("t-a");
    b.tell("t-a", "addbadblock 126");
    // Disabled: a write heals nothing.
    disk.write(Sectors(10), &[0; 512]).unwrap();
    b.tell("t-a", "enable");
    assert!(disk.read(Sectors(15), &mut [0; 512]).is_err());
    disk.write(Sectors(6), &[0; 1024]).unwrap();
    assert!(disk.read(Sectors(15), &mut [0; 512]).is_err());
    assert!(disk.read(Sectors(0), &mut [0; 200 * 512]).is_err());
    disk.write(Sectors(10), &[0; 512]).unwrap();
    assert_eq!(bad(b, "t-a", 0..30), Vec::<u64>::new());
    b.tell("t-a", "addbadblock 126");
    // Split at the block: the second part heals.
    disk.write(Sectors(4), &[0; 4096]).unwrap();
    assert_eq!(bad(b, "t-a", 0..30), Vec::<u64>::new());
    b.tell("t-a", "addbadblock 126 1");
    assert_eq!(disk.write(Sectors(8), &[0; 512]).unwrap_err().errno, Errno::EIO);
    disk.write(Sectors(8), &[0; 512]).unwrap();
}

pub fn dust_messages(b: &Bench) {
    if !b.has_dust() {
        return;
    }
    dust(b, "t-a", 0, 512);
    let reply = |text: &str| b.tell("t-a", text).unwrap();
    assert_eq!(reply("queryblock 5"), "dust_query_block: block 5 not found in badblocklist");
    assert_eq!(b.tell("t-a", "addbadblock 5"), None);
    assert_eq!(b.tell("t-a", "addbadblock 50"), None);
    assert_eq!(reply("queryblock 5"), "dust_query_block: block 5 found in badblocklist");
    assert_eq!(reply("countbadblocks"), "countbadblocks: 2 badblock(s) found");
    assert_eq!(reply("listbadblocks"), "5\n50\n");
    assert_eq!(b.tell("t-a", "removebadblock 5"), None);
    assert_eq!(reply("clearbadblocks"), "dust_clear_badblocks: badblocks cleared");
    assert_eq!(reply("clearbadblocks"), "dust_clear_badblocks: no badblocks found");
    b.dm.suspend("t-a").unwrap();
    assert_eq!(b.tell("t-a", "addbadblock 7"), None);
    assert_eq!(b.tell("t-a", "enable"), None);
    b.dm.resume("t-a").unwrap();
    assert_eq!(bad(b, "t-a", 0..10), [7]);
    b.tell("t-a", "disable");
    assert_eq!(bad(b, "t-a", 0..10), Vec::<u64>::new());
    b.tell("t-a", &format!("addbadblock {}", b.size));
    let beyond = format!("addbadblock {}", b.size + 1);
    for wrong in ["addbadblock 7", "removebadblock 8", "addbadblock", "addbadblock x", "nosuch", &beyond] {
        assert_eq!(errno(b.send("t-a", wrong)), Some(Errno::EINVAL), "{wrong}");
    }
    for block_bytes in [256, 1000] {
        let kind = TargetKind::Dust { device: b.disk[0], offset: Sectors(0), block_bytes };
        let refused = b.dm.load("t-a", &[piece(0, 200, kind)], false);
        assert_eq!(errno(refused), Some(Errno::EINVAL));
    }
}

pub fn dust_lists_die_with_their_table(b: &Bench) {
    if !b.has_dust() {
        return;
    }
    dust(b, "t-a", 0, 512);
    b.tell("t-a", "addbadblock 5");
    b.tell("t-a", "enable");
    b.dm.suspend("t-a").unwrap();
    b.dm.resume("t-a").unwrap();
    assert_eq!(bad(b, "t-a", 0..10), [5]);
    let table = b.dm.table("t-a", TableSlot::Active).unwrap();
    b.dm.load("t-a", &table, false).unwrap();
    assert_eq!(b.tell("t-a", "countbadblocks").unwrap(), "countbadblocks: 1 badblock(s) found");
    b.dm.resume("t-a").unwrap();
    assert_eq!(b.tell("t-a", "countbadblocks").unwrap(), "countbadblocks: 0 badblock(s) found");
    b.tell("t-a", "addbadblock 5");
    assert_eq!(bad(b, "t-a", 0..10), Vec::<u64>::new());
}

pub fn stats_count_writes_per_area(b: &Bench) {
    b.up("t-a", &[b.linear(0, 150, 0, 0), b.linear(150, 150, 1, 0)]);
    let id = b.tell("t-a", "@stats_create 100+100 /10 dmremap").unwrap();
    let disk = b.open("t-a");
    disk.write(Sectors(105), &[0; 20 * 512]).unwrap();
    disk.write(Sectors(199), &[0; 1024]).unwrap();
    disk.read(Sectors(100), &mut [0; 512]).unwrap();
    let count = |field: usize| -> Vec<u64> {
        let text = b.tell("t-a", &format!("@stats_print {id}")).unwrap();
        let line = |line: &str| line.split(' ').nth(field).unwrap().parse().unwrap();
        text.lines().map(line).collect()
    };
    assert_eq!(count(5), [1, 1, 1, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(count(7), [5, 10, 5, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(count(1), [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    // Counters outlive a swap, and can be read while it is suspended.
    b.dm.load("t-a", &[b.linear(0, 300, 0, 0)], false).unwrap();
    b.dm.suspend("t-a").unwrap();
    assert_eq!(count(5), [1, 1, 1, 0, 0, 0, 0, 0, 0, 1]);
    b.dm.resume("t-a").unwrap();
    b.open("t-a").write(Sectors(150), &[0; 512]).unwrap();
    assert_eq!(count(5), [1, 1, 1, 0, 0, 1, 0, 0, 0, 1]);
    let some = b.tell("t-a", &format!("@stats_print {id} 5 1")).unwrap();
    assert!(some.starts_with("150+10 0 ") && some.lines().count() == 1, "{some}");
    assert_eq!(some.split_ascii_whitespace().count(), 14);
}

pub fn stats_messages(b: &Bench) {
    b.up("t-a", &[b.linear(0, 1000, 0, 0)]);
    let reply = |text: &str| b.tell("t-a", text).unwrap();
    assert_eq!(reply("@stats_list"), "");
    assert_eq!(reply("@stats_create 100+100 /10"), "0");
    assert_eq!(reply("@stats_create 0+7 2 dmremap auxdata"), "1");
    assert_eq!(reply("@stats_create - /1"), "2");
    assert_eq!(reply("@stats_create 900+500 /3"), "3");
    assert_eq!(
        reply("@stats_list"),
        "0: 100+100 10 - -\n1: 0+7 2 dmremap auxdata\n2: 0+1000 1000 - -\n3: 900+500 167 - -\n"
    );
    assert_eq!(reply("@stats_list dmremap"), "1: 0+7 2 dmremap auxdata\n");
    // The last area is printed as if it were whole.
    let zeros = " 0 0 0 0 0 0 0 0 0 0 0 0 0\n";
    let areas: String = ["0+2", "2+2", "4+2", "6+2"].map(|a| format!("{a}{zeros}")).concat();
    assert_eq!(reply("@stats_print 1"), areas);
    b.dm.suspend("t-a").unwrap();
    assert_eq!(reply("@stats_create 0+1 1"), "4");
    assert_eq!(b.tell("t-a", "@stats_delete 1"), None);
    b.dm.resume("t-a").unwrap();
    assert_eq!(reply("@stats_create 0+1 1"), "1");
    b.tell("t-a", "@stats_clear 0");
    for (wrong, why) in [
        ("@stats_print 99", Errno::ENOENT),
        ("@stats_delete 99", Errno::ENOENT),
        ("@stats_create 5+0 /1", Errno::EINVAL),
        ("@stats_create 0+10 /0", Errno::EINVAL),
        ("@stats_create x", Errno::EINVAL),
        ("@stats_nosuch", Errno::EINVAL),
    ] {
        assert_eq!(errno(b.send("t-a", wrong)), Some(why), "{wrong}");
    }
}

pub fn errors_of_messages(b: &Bench) {
    b.up("t-a", &[b.linear(0, 100, 0, 0)]);
    assert_eq!(errno(b.send("t-a", "nosuch")), Some(Errno::EINVAL));
    assert_eq!(errno(b.send("t-a", "")), Some(Errno::EINVAL));
    let beyond = b.dm.message("t-a", Sectors(100), "enable");
    assert_eq!(errno(beyond), Some(Errno::EINVAL));
}
