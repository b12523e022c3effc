//! A setup among other block layers, all of them in use while sectors are spliced: md RAID 1, dm-crypt and LVM above it, LVM
//! and md RAID 1 below it, and a mirror of which one half goes bad sector by sector, so that the half on the setup has to
//! carry all. At the end every byte is right, and md finds both halves the same.
// guest: --disk 32M --disk 24M --disk 32M --disk 24M --timeout 900
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod live;

use dm_remap::dm::DeviceMapper;
use dm_remap::units::Sectors;
use live::load::{Load, fill};
use live::{Random, Setup, disk, in_guest, kernel, must, number, run, sectors, wait_for};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const NAME: &str = "stack";
/// No files of LVM's own outlast a guest, and /etc is not ours.
const LVM: [&str; 2] =
    ["--config", "backup{backup=0 archive=0} activation{udev_sync=0 udev_rules=0 verify_udev_operations=1}"];

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn lvm(args: &[&str]) -> String {
    let (command, rest) = args.split_first().unwrap();
    must(command, &[&LVM, rest].concat())
}

/// `DM_REMAP_SEED=N` draws other sectors.
fn random(test: u64) -> Random {
    Random::seeded(number("DM_REMAP_SEED", 1) << 8 | test)
}

/// A mirror over two devices.
fn mirror(name: &str, halves: [&Path; 2]) -> PathBuf {
    let node = PathBuf::from(format!("/dev/{name}"));
    must(
        "mdadm",
        &[
            "--create",
            text(&node),
            "--run",
            "--quiet",
            "--level=1",
            "--raid-devices=2",
            "--metadata=1.2",
            "--bitmap=none",
            text(halves[0]),
            text(halves[1]),
        ],
    );
    node
}

fn md_file(node: &Path, file: &str) -> PathBuf {
    Path::new("/sys/block").join(node.file_name().unwrap()).join("md").join(file)
}

fn md_says(node: &Path, file: &str) -> String {
    fs::read_to_string(md_file(node, file)).unwrap().trim().to_string()
}

#[track_caller]
fn md_idle(node: &Path) {
    let idle = || md_says(node, "sync_action") == "idle";
    assert!(wait_for(Duration::from_secs(120), idle), "md does not get done: {}", md_says(node, "sync_action"));
}

/// Lets md compare its halves; how many sectors differ.
#[track_caller]
fn mismatches(node: &Path) -> u64 {
    md_idle(node);
    must("dmesg", &["--clear"]);
    fs::write(md_file(node, "sync_action"), "check").unwrap();
    let done = || must("dmesg", &[]).contains("data-check done");
    assert!(wait_for(Duration::from_secs(120), done), "md does not compare its halves");
    md_idle(node);
    md_says(node, "mismatch_cnt").parse().unwrap()
}

/// Whether all of a device can be read.
fn reads(node: &Path) -> bool {
    run("dd", &[&format!("if={}", node.display()), "of=/dev/null", "bs=64k", "iflag=direct", "status=none"]).code
        == Some(0)
}

fn end_mirror(node: &Path) {
    must("mdadm", &["--stop", "--quiet", text(node)]);
}

/// Splices this and that, in both layouts.
fn splice(setup: &Setup, random: &mut Random, times: usize) {
    for turn in 0..times {
        let ranges: Vec<String> = (0..=random.below(6)).map(|_| random.units(0, setup.sectors, 16)).collect();
        let args: Vec<&str> = ranges.iter().map(String::as_str).collect();
        match turn % 6 {
            2 => setup.command("layout", &["switched"]),
            4 => setup.command("compact", &[]),
            5 => setup.command("restore", &["--all"]),
            _ => setup.command("remap", &args),
        }
        // 4: two of the ranges overlap, or one is remapped already.
        .expect(&[0, 3, 4]);
    }
    setup.command("layout", &["auto"]).expect(&[0]);
    setup.command("remap", &["64+64", "8192+128"]).expect(&[0, 4]);
    let extents = setup.extents();
    assert!(!extents.is_empty());
    setup.table_is(&extents);
    assert!(!setup.suspended() && !setup.has_inactive());
}

/// The guest is used by one test after the other, also when one has failed in between.
fn clear_disks() {
    for _ in 0..2 {
        let _ = run("dmsetup", &["remove_all", "--force"]);
        let _ = run("mdadm", &["--stop", "--quiet", "--scan"]);
    }
    (0..4).for_each(|index| fill(&disk(index), sectors(&disk(index))));
}

fn load_on(node: &Path) -> Load {
    let length = sectors(node);
    fill(node, length);
    Load::start(node, length, &[(0, length / 4), (length / 2, length / 8)], &[])
}

#[test]
fn md_crypt_and_lvm_above_a_setup() {
    if !in_guest() {
        return;
    }
    let begun = Instant::now();
    clear_disks();
    for module in ["md-mod", "raid1", "dm-crypt", "xts"] {
        let _ = run("modprobe", &[module]);
    }
    let setup = Setup::create(NAME, disk(0), vec![disk(1)]);
    let md = mirror("md5", [&setup.node(), &disk(2)]);
    let table = format!("0 {} crypt aes-xts-plain64 {} 0 {} 0", sectors(&md), "5a".repeat(64), text(&md));
    must("dmsetup", &["create", "stack-crypt", "--table", &table]);
    lvm(&["pvcreate", "-q", "-y", "/dev/mapper/stack-crypt"]);
    lvm(&["vgcreate", "-q", "above", "/dev/mapper/stack-crypt"]);
    lvm(&["lvcreate", "-q", "-y", "-Wn", "-Zn", "-n", "data", "-l", "100%FREE", "above"]);
    let load = load_on(Path::new("/dev/mapper/above-data"));
    splice(&setup, &mut random(1), 12);
    let longest = load.longest();
    let operations = load.finish();
    assert_eq!(mismatches(&md), 0);
    lvm(&["vgchange", "-q", "-an", "above"]);
    must("dmsetup", &["remove", "--retry", "stack-crypt"]);
    end_mirror(&md);
    setup.destroy();
    println!("above: {operations} verified I/Os, longest {longest:?}, {:?}", begun.elapsed());
}

#[test]
fn lvm_and_md_below_a_setup() {
    if !in_guest() {
        return;
    }
    let begun = Instant::now();
    clear_disks();
    for module in ["md-mod", "raid1", "dm-mirror"] {
        let _ = run("modprobe", &[module]);
    }
    let md = mirror("md6", [&disk(0), &disk(2)]);
    lvm(&["vgcreate", "-q", "-y", "below", text(&md)]);
    lvm(&["lvcreate", "-q", "-y", "-Wn", "-Zn", "-n", "main", "-L", "20M", "below"]);
    lvm(&["vgcreate", "-q", "-y", "besides", text(&disk(1)), text(&disk(3))]);
    lvm(&["lvcreate", "-q", "-y", "-Wn", "-Zn", "-n", "spare", "-L", "16M", "besides", text(&disk(1))]);
    let node = |name: &str| Path::new("/dev/mapper").join(name);
    let setup = Setup::create(NAME, node("below-main"), vec![node("besides-spare")]);
    let load = load_on(&setup.node());
    let mut random = random(2);
    splice(&setup, &mut random, 6);
    // Half of main's mirror goes away and comes back, and LVM moves the spare to another disk, below all of it.
    must("mdadm", &["--quiet", text(&md), "--fail", text(&disk(2))]);
    splice(&setup, &mut random, 6);
    must("mdadm", &["--quiet", text(&md), "--remove", text(&disk(2))]);
    must("mdadm", &["--quiet", text(&md), "--add", text(&disk(2))]);
    std::thread::scope(|scope| {
        scope.spawn(|| lvm(&["pvmove", "-q", "-i", "1", text(&disk(1)), text(&disk(3))]));
        splice(&setup, &mut random, 6);
    });
    let longest = load.longest();
    let operations = load.finish();
    let devices = must("dmsetup", &["deps", "-o", "blkdevname", "besides-spare"]);
    assert!(devices.contains(text(disk(3).file_name().unwrap().as_ref())), "{devices}");
    assert_eq!(mismatches(&md), 0);
    setup.destroy();
    lvm(&["vgchange", "-q", "-an", "below", "besides"]);
    end_mirror(&md);
    println!("below: {operations} verified I/Os, longest {longest:?}, {:?}", begun.elapsed());
}

#[test]
fn a_mirror_degrades_onto_a_setup_sector_by_sector() {
    if !in_guest() {
        return;
    }
    let begun = Instant::now();
    clear_disks();
    for module in ["md-mod", "raid1"] {
        let _ = run("modprobe", &[module]);
    }
    let (main, other) = (live::dust("dust-main", &disk(0)), live::dust("dust-other", &disk(2)));
    let setup = Setup::create(NAME, main, vec![disk(1)]);
    let md = mirror("md7", [&setup.node(), &other]);
    md_idle(&md);
    let load = load_on(&md);
    let mut random = random(3);
    // Data begin behind md's own; a sector goes bad on one half only, for nobody could help with both.
    let offset = 4096;
    let length = setup.sectors - offset - 1024;
    let place = |random: &mut Random, half: u64| offset + random.below(length / 16) * 16 + half * 8;
    for _ in 0..3 {
        for _ in 0..12 {
            let bad = |random: &mut Random, half: u64| format!("addbadblock {}", place(random, half));
            // One that is bad already is refused.
            let _ = kernel().message("dust-main", Sectors(0), &bad(&mut random, 0));
            let _ = kernel().message("dust-other", Sectors(0), &bad(&mut random, 1));
        }
        setup.command("scan", &["--rate", "max"]).expect(&[0, 3]);
        splice(&setup, &mut random, 2);
        load.check();
    }
    // The half on the setup has to read all: what it cannot read is mended from the other.
    assert!(!reads(&setup.node()), "no sector is bad");
    let minor = kernel().state("dust-other").unwrap().unwrap().devno.minor;
    fs::write(md_file(&md, &format!("dev-dm-{minor}/state")), "writemostly").unwrap();
    assert!((0..3).any(|_| reads(&md) && reads(&setup.node())), "md does not mend");
    load.check();
    // Then the other half is gone, with all of it.
    must("mdadm", &["--quiet", text(&md), "--fail", text(&other)]);
    splice(&setup, &mut random, 3);
    load.verify_all();
    let longest = load.longest();
    let operations = load.finish();
    end_mirror(&md);
    setup.command("restore", &["--all"]).expect(&[0, 3]);
    setup.destroy();
    for name in ["dust-main", "dust-other"] {
        must("dmsetup", &["remove", "--retry", name]);
    }
    println!("degrading: {operations} verified I/Os, longest {longest:?}, {:?}", begun.elapsed());
}
