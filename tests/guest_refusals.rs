//! Refusals: each with its exit code, words that name the device and what to do, and nothing changed.
// guest: --disk 8M --disk 6M --disk 6M --disk 6M --timeout 900
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

mod guest_support;

use dm_remap::format::COPY_STARTS;
use dm_remap::format::choose::Expected;
use dm_remap::format::copy::encode;
use dm_remap::store::read_copies;
use guest_support::*;
use std::io::Write;
use std::process::{Command, Stdio};

/// Main, two spares, and one more.
fn devices(guest: &Guest) -> [&str; 4] {
    [0, 1, 2, 3].map(|n| guest.disks[n].as_str())
}

/// The command is refused with these words, in text, as JSON, and as a dry run where it has one; nothing changes.
#[track_caller]
fn refused(still: &Still, line: &str, words: &[&str]) {
    fails(still, line, 4, words);
}

#[track_caller]
fn fails(still: &Still, line: &str, code: i32, words: &[&str]) {
    let ran = dm_remap(line).exits(code).complains(words);
    assert!(ran.err.starts_with("dm-remap: ") || ran.err.contains("\ndm-remap: "), "{ran:?}");
    assert!(ran.out.is_empty(), "{ran:?}");
    let verb = line.split(' ').next().unwrap();
    let dry = if ["map", "status", "list", "metadata"].contains(&verb) { "" } else { "--dry-run" };
    let json = dm_remap(&format!("--json {line} {dry}")).exits(code).json();
    assert_eq!(json["exit_code"], code);
    assert!(words.iter().all(|w| json["error"].as_str().unwrap().contains(w)), "{json}");
    still.check(line);
}

fn create(main: &str, spares: &str) -> String {
    format!("create data --main {main} --spare {spares}")
}

#[test]
fn a_main_or_spare_that_is_in_use_is_refused_and_the_user_named() {
    let Some(guest) = Guest::begin() else { return };
    let [main, spare, other, _] = devices(&guest);
    sh(&format!("mkfs.ext4 -q -F {main} && mkdir -p /tmp/mnt/a && mount -o ro,noload {main} /tmp/mnt/a"));
    let still = Still::new(&[main, spare]);
    refused(&still, &create(main, spare), &[main, "in use", "mounted at /tmp/mnt/a (ext4)", "Release it first"]);
    refused(&still, &create(spare, main), &[main, "mounted at /tmp/mnt/a (ext4)"]);
    sh("umount /tmp/mnt/a");

    sh(&format!("dmsetup create holder --table '0 100 linear {main} 0'"));
    let still = Still::new(&[main, spare]);
    refused(&still, &create(main, spare), &[main, "held by device-mapper device 'holder'"]);
    refused(&still, &create(spare, main), &[main, "held by device-mapper device 'holder'"]);
    sh("dmsetup remove holder");

    let looped = sh(&format!("losetup -f --show {main}"));
    let still = Still::new(&[main, spare]);
    refused(
        &still,
        &create(main, spare),
        &[main, "attached to loop device", looped.trim().trim_start_matches("/dev/")],
    );
    sh("losetup -D");

    sh(&format!("mkswap -q {other} && swapon {other}"));
    let still = Still::new(&[main, spare, other]);
    refused(&still, &create(main, other), &[other, "in use as swap"]);
    refused(&still, &create(other, spare), &[other, "in use as swap"]);
    sh("swapoff -a");

    // Claimed by a program, which no file in sysfs tells.
    let mut claim = Command::new("python3")
        .args([
            "-c",
            "import os,sys; os.open(sys.argv[1], os.O_RDONLY|os.O_EXCL); print(1, flush=True); sys.stdin.read()",
            main,
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    if let Ok(claim) = &mut claim {
        std::io::Read::read_exact(claim.stdout.as_mut().unwrap(), &mut [0; 2]).unwrap();
        let still = Still::new(&[main, spare]);
        refused(&still, &create(main, spare), &[main, "cannot be opened exclusively"]);
        drop(claim.stdin.take());
        claim.wait().unwrap();
    }
    // Members of a setup that is up.
    dm_remap(&create(main, spare)).ok();
    let still = Still::new(&[main, spare, other]);
    refused(
        &still,
        &format!("create more --main {main} --spare {other}"),
        &[main, "held by device-mapper device 'data'"],
    );
    refused(&still, &format!("create more --main {other} --spare {spare}"), &[spare, "'data"]);
}

#[test]
fn a_spare_that_does_not_fit_is_refused() {
    let Some(guest) = Guest::begin() else { return };
    let [main, spare, _, _] = devices(&guest);
    let small = guest.loop_device("5M", "");
    let still = Still::new(&[main, spare, &small]);
    refused(&still, &create(main, &small), &[&small, "too small", "10240 sectors", "at least 10248"]);
    refused(&still, &create(main, &format!("{spare} {small}")), &[&small, "too small"]);

    let coarse = guest.loop_device("16M", "--sector-size 4096");
    let still = Still::new(&[main, &coarse]);
    refused(&still, &create(main, &coarse), &[&coarse, "logical blocks of 4.0 KiB", "main has 512 B", "another spare"]);
    let scsi = guest.scsi_debug(16, "sector_size=4096");
    let still = Still::new(&[main, &scsi.device]);
    refused(&still, &create(main, &scsi.device), &[&scsi.device, "logical blocks of 4.0 KiB"]);
    // The other way round it fits, and units are main's blocks.
    dm_remap(&create(&scsi.device, spare)).ok().says(&["units of 8 sectors"]);
    dm_remap("destroy data").ok();

    let read_only = guest.loop_device("16M", "-r");
    let still = Still::new(&[main, spare]);
    refused(&still, &create(main, &read_only), &[&read_only, "read-only"]);
    refused(&still, &create(&read_only, spare), &[&read_only, "read-only"]);
    let many = [spare; 17].join(" ");
    fails(&still, &create(main, &many), 4, &["17 spares", "1 to 16"]);
}

#[test]
fn a_spare_with_a_filesystem_or_partition_table_is_refused_unless_forced() {
    let Some(guest) = Guest::begin() else { return };
    let [main, spare, _, _] = devices(&guest);
    let wipe = format!("dd if=/dev/zero of={spare} bs=1M count=6 oflag=direct status=none");
    for (make, words) in [
        (format!("mkfs.ext4 -q -F {spare}"), "ext4"),
        (format!("mkswap -q {spare}"), "swap"),
        (mbr(spare), "partition table"),
        (format!("printf 'LUKS\\xba\\xbe\\x00\\x01' | dd of={spare} conv=notrunc,fsync status=none"), "LUKS"),
    ] {
        sh(&format!("{wipe}; {make}; sync; blockdev --flushbufs {spare}"));
        let still = Still::new(&[main, spare]);
        refused(&still, &create(main, spare), &[spare, "holds", words, "--force-signature"]);
        let forced = format!("{} --force-signature", create(main, spare));
        dm_remap(&forced).ok();
        dm_remap("destroy data").ok();
        // What was there is gone for those who look for it.
        dm_remap(&create(main, spare)).ok();
        dm_remap("destroy data").ok();
        sh(&wipe);
    }
    // Main may hold anything.
    sh(&format!("mkfs.ext4 -q -F {main}"));
    dm_remap(&create(main, spare)).ok();
}

/// A script that makes an MBR with two partitions of 5 MiB and the rest.
fn mbr(device: &str) -> String {
    let entry = |start: u32, len: u32| {
        let bytes = [&[0, 0, 0, 0, 0x83, 0, 0, 0][..], &start.to_le_bytes(), &len.to_le_bytes()].concat();
        bytes.iter().map(|b| format!("\\x{b:02x}")).collect::<String>()
    };
    format!(
        "printf '\\x11\\x22\\x33\\x44\\0\\0{}{}' | dd of={device} bs=1 seek=440 conv=notrunc status=none; \
         printf '\\x55\\xaa' | dd of={device} bs=1 seek=510 conv=notrunc status=none; sync; blockdev --rereadpt {device}",
        entry(8, 16384),
        entry(16392, 16000)
    )
}

#[test]
fn main_and_spares_that_share_sectors_are_refused() {
    let Some(guest) = Guest::begin() else { return };
    let [main, spare, _, _] = devices(&guest);
    let still = Still::new(&[main, spare]);
    refused(&still, &create(main, main), &[main, "share sectors", "the same device", "must be separate"]);
    refused(&still, &create(main, &format!("{spare} {spare}")), &[spare, "share sectors"]);
    sh(&format!("ln -sf {main} /tmp/mnt/link; mknod /tmp/mnt/node b {}", sh(&format!("stat -c '%Hr %Lr' {main}"))));
    refused(&still, &create(main, "/tmp/mnt/link"), &["share sectors", "the same device"]);
    refused(&still, &create(main, "/tmp/mnt/node"), &["share sectors", "the same device"]);

    // A disk and its partition; two partitions of one disk do not share anything, but are told.
    let disk = guest.loop_device("17M", "-P");
    sh(&mbr(&disk));
    let [one, two] = ["p1", "p2"].map(|p| format!("{disk}{p}"));
    sh(&format!("[ -b {one} ] && [ -b {two} ]"));
    let still = Still::new(&[&disk]);
    refused(&still, &create(&disk, &one), &[&disk, &one, "share sectors"]);
    refused(&still, &create(&one, &disk), &[&disk, &one, "share sectors"]);
    let near = dm_remap(&create(&one, &two)).ok();
    near.complains(&["are on the same disk"]);
    // A partition with a UUID proves itself.
    dm_remap("deactivate data").ok();
    dm_remap("activate data").ok();
    dm_remap("destroy data").ok();

    // Two loop devices over one file; a loop device on a file in a filesystem on main.
    let file = sh(&format!("losetup -n -O BACK-FILE {disk}"));
    let second = sh(&format!("losetup -f --show {}", file.trim()));
    let still = Still::new(&[&disk]);
    refused(&still, &create(&disk, second.trim()), &[&disk, second.trim(), "share sectors"]);
    sh(&format!("dmsetup create above --table '0 16384 linear {main} 0'"));
    let still = Still::new(&[main, spare]);
    refused(&still, &create("/dev/mapper/above", main), &["/dev/mapper/above", main, "share sectors", "lies on"]);
}

#[test]
fn spares_of_other_setups_and_taken_names_are_refused() {
    let Some(guest) = Guest::begin() else { return };
    let [main, spare, other, another] = devices(&guest);
    dm_remap(&create(main, spare)).ok();
    let still = Still::new(&[main, spare, other, another]);
    refused(&still, &create(other, another), &["'data' is taken", "Choose another name"]);
    dm_remap("deactivate data").ok();
    let still = Still::new(&[main, spare, other, another]);
    let more = format!("create more --main {other} --spare {spare}");
    refused(&still, &more, &[spare, "is a spare of the setup 'data'", "Destroy that setup first"]);
    refused(&still, &format!("{more} --force-signature"), &[spare, "is a spare of the setup 'data'"]);

    sh("dmsetup create other --table '0 8 error'; : > /dev/mapper/stray");
    let still = Still::new(&[main, spare, other, another]);
    for (name, by) in [("other", "a device-mapper device has it"), ("stray", "/dev/mapper/stray exists")] {
        let line = format!("create {name} --main {other} --spare {another}");
        refused(&still, &line, &[&format!("'{name}' is taken"), by]);
    }
    sh("rm /dev/mapper/stray");
    let long = "x".repeat(101);
    for bad in ["a/b", ".hidden", "..", "a:b", "control", &long] {
        let line = format!("create {bad} --main {other} --spare {another}");
        refused(&still, &line, &[bad, "cannot be a name"]);
    }
    dmr(&["create", "a b", "--main", other, "--spare", another]).exits(4).complains(&["'a b' cannot be a name"]);
    dmr(&["create", "", "--main", other, "--spare", another]).exits(4).complains(&["cannot be a name"]);
    for line in ["remap other 8", "restore other 8", "map other", "status other", "deactivate other", "recover other"] {
        refused(&still, line, &["no active setup 'other'", "dm-remap list"]);
    }
    refused(&still, "remap nosuch 8", &["no active setup 'nosuch'", "activate"]);
    fails(&still, "activate nosuch", 1, &["no device here is a spare of a setup called 'nosuch'"]);
    fails(&still, "create more --main /dev/nosuch --spare /dev/ubdd", 1, &["/dev/nosuch"]);
    fails(&still, "create more --main /etc/passwd --spare /dev/ubdd", 1, &["/etc/passwd", "block device"]);
    dm_remap(&format!("activate data --main {main}")).ok();
    let still = Still::new(&[main, spare]);
    refused(&still, "activate data", &["'data' is active already"]);
}

#[test]
fn sectors_that_cannot_move_are_refused_and_no_slot_is_lost() {
    let Some(guest) = Guest::begin() else { return };
    let [main, _, _, _] = devices(&guest);
    let spare = guest.loop_device("6M", "");
    // 6 MiB less 5 MiB of metadata is 2048 sectors.
    dm_remap(&create(main, &spare)).ok();
    dm_remap("remap data 1000+16").ok();
    let still = Still::new(&[main, &spare]);
    refused(&still, "remap data 16384", &["sectors 16384", "beyond the end", "16384 sectors (0 to 16383)"]);
    refused(&still, "remap data 16380+5", &["beyond the end"]);
    refused(&still, "remap data 8 99999999999", &["99999999999", "beyond the end"]);
    refused(&still, "restore data 16384", &["beyond the end"]);
    let words = ["already remapped", "1000", "lives on spare 0 at sector 10240"];
    refused(&still, "remap data 1003", &words);
    refused(&still, "remap data 8 1015+2", &words);
    refused(&still, "restore data 2000", &["sectors 2000+8 are not remapped", "dm-remap map"]);
    refused(&still, "restore data 1000+24", &["are not remapped"]);
    refused(
        &still,
        "remap data 2000+2040",
        &["no free slot", "2040 sectors are needed and 2032 are free", "Nothing was changed"],
    );
    let words = ["no free slot", "2056 sectors are needed and 2032 are free"];
    refused(&still, "remap data 4000+1024 6000+1024 8", &words);
    refused(&still, "remap data", &["no sectors were given"]);
    refused(&still, "destroy data", &["'data' has 1 extent on its spares", "--merge-back", "--discard-extents"]);
    // What was refused left no slot behind.
    dm_remap("remap data 2000+2032").ok();
    let still = Still::new(&[main, &spare]);
    refused(&still, "remap data 8", &["no free slot", "8 sectors are needed and 0 are free"]);
}

#[test]
fn metadata_that_would_not_fit_is_refused() {
    let Some(guest) = Guest::begin() else { return };
    // Both are sparse files.
    let (main, spare) = (guest.loop_device("4T", ""), guest.loop_device("1200M", ""));
    dm_remap(&create(&main, &spare)).ok();
    let mut random = Random::new();
    let units = (4u64 << 40) / 4096;
    let list: String = (0..260_000).map(|_| format!("{}\n", random.below(units))).collect();
    std::fs::write("/tmp/mnt/list", list).unwrap();
    let before = sh(&format!("dmsetup table; dd if={spare} bs=1M count=6 iflag=direct status=none | sha256sum"));
    let ran = dm_remap("remap data --from-badblocks /tmp/mnt/list --block-size 4096").exits(4);
    ran.complains(&[
        "metadata full",
        "a copy has room for 524288",
        "Nothing was changed",
        "Remap fewer, larger ranges",
    ]);
    assert_eq!(sh(&format!("dmsetup table; dd if={spare} bs=1M count=6 iflag=direct status=none | sha256sum")), before);
    // The same number of sectors in fewer extents fits.
    dm_remap("remap data 0+8000").ok();
}

#[test]
fn of_two_commands_at_once_one_is_refused() {
    let Some(guest) = Guest::begin() else { return };
    let [main, spare, _, _] = devices(&guest);
    // A main that takes its time makes sure that commands meet.
    let size = Direct::open(main).sectors();
    sh(&format!("dmsetup create slow -u TEST-slow --table '0 {size} delay {main} 0 150'"));
    dm_remap(&create("/dev/mapper/slow", spare)).ok();
    let uuid = dm_remap("--json list").ok().json()["setups"][0]["uuid"].as_str().unwrap().to_string();

    // Somebody has the lock: whatever changes something is refused.
    let lock = format!("/run/dm-remap/{uuid}.lock");
    let mut flock = Command::new("flock");
    flock.args([&lock, "sh", "-c", "echo $$ > $0; echo; cat", &lock]);
    let mut holder = flock.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    let pid = std::fs::read_to_string(&lock).unwrap();
    let still = Still::new(&[spare]);
    for line in
        ["remap data 8", "restore data --all", "deactivate data", "destroy data", "recover data", "acknowledge data"]
    {
        let ran = dm_remap(line).exits(4);
        ran.complains(&[
            &format!("another dm-remap command (process {})", pid.trim()),
            "'data'",
            "wait until it is done",
        ]);
    }
    still.check("a command without the lock");
    // What only reads does not wait.
    dm_remap("map data").ok();
    dm_remap("list").ok();
    drop(holder.stdin.take());
    holder.wait().unwrap();

    // Truly at once: each is done or refused, and the map has exactly what was done.
    let start = |n: u64| {
        let sector = (n * 64).to_string();
        let command = Command::new(&*PROGRAM)
            .args(["-q", "remap", "data", &sector])
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        (n * 64, command.unwrap())
    };
    let running: Vec<_> = (1..=6).map(start).collect();
    let mut done = Vec::new();
    for (sector, child) in running {
        let output = child.wait_with_output().unwrap();
        match output.status.code() {
            Some(0) => done.push((sector, 8)),
            Some(4) => assert!(String::from_utf8_lossy(&output.stderr).contains("another dm-remap command")),
            _ => panic!("{output:?}"),
        }
    }
    assert!(!done.is_empty() && done.len() < 6, "{done:?}");
    assert_eq!(ranges(&dm_remap("--json map data").ok().json()["extents"]), done);
    dm_remap("recover data").ok().says(&["nothing to settle"]);
}

#[test]
fn without_root_it_says_so() {
    let Some(guest) = Guest::begin() else { return };
    let [main, spare, _, _] = devices(&guest);
    dm_remap(&create(main, spare)).ok();
    let still = Still::new(&[main, spare]);
    for line in ["list", "status", "remap data 8", "map data", "create more --main /dev/ubdc --spare /dev/ubdd"] {
        let ran = shell(&format!("setpriv --reuid=65534 --regid=65534 --clear-groups $DMR {line}")).exits(1);
        ran.complains(&["only root may use it"]);
    }
    shell(&format!("setpriv --reuid=65534 --regid=65534 --clear-groups $DMR metadata dump {spare}"))
        .exits(1)
        .complains(&[spare, "run this as root"]);
    still.check("a command without root");
}

/// Writes the spare's metadata anew, changed, with right checksums.
fn rewrite(spare: &str, change: impl FnOnce(&mut dm_remap::format::metadata::Metadata)) {
    use dm_remap::block::direct::{DirectDisk, Mode};
    use dm_remap::block::host::Host;
    let disk = DirectDisk::open(&Host::real(), std::path::Path::new(spare), Mode::ReadWrite).unwrap();
    let reading = read_copies(&disk, Expected::default());
    let chosen = reading.choose().unwrap();
    let mut metadata = chosen.copy.metadata.clone();
    change(&mut metadata);
    let encoded = encode(&metadata).unwrap();
    for (index, start) in (0u32..).zip(COPY_STARTS) {
        let mut bytes = vec![0; encoded.len()];
        encoded.stamp(&mut bytes, chosen.copy.spare, metadata.spares[0].data_start, index);
        Direct::open(spare).write(start.0, &bytes).unwrap();
    }
}

#[test]
fn metadata_of_a_later_version_is_refused() {
    let Some(guest) = Guest::begin() else { return };
    let [main, spare, other, _] = devices(&guest);
    dm_remap(&create(main, spare)).ok();
    dm_remap("remap data 8").ok();
    dm_remap("deactivate data").ok();
    rewrite(spare, |metadata| metadata.incompatible |= 1 << 40);
    let still = Still::new(&[main, spare, other]);
    let words = [spare, "unknown incompatible feature flags 0x10000000000", "a newer dm-remap is needed"];
    refused(&still, &format!("activate --spare {spare} --main {main}"), &words);
    refused(&still, &format!("create more --main {other} --spare {spare}"), &words);
    dm_remap(&format!("metadata check {spare}")).exits(1).says(&words[..2]);
    still.check("metadata check");
    // By name it cannot be found, but why is said.
    let ran = dm_remap(&format!("activate data --main {main}"));
    assert_ne!(ran.code, 0);
    still.check("activate");
}

#[test]
fn output_that_nobody_takes_or_can_keep_is_handled() {
    let Some(guest) = Guest::begin() else { return };
    let (main, spare) = (guest.disks[0].as_str(), &guest.loop_device("14M", ""));
    dm_remap(&create(main, spare)).ok();
    let list: String = (0..700).map(|n| format!("{}\n", n * 2)).collect();
    std::fs::write("/tmp/mnt/list", list).unwrap();
    dm_remap("-q remap data --from-badblocks /tmp/mnt/list --block-size 4096").ok();
    // A closed pipe: quiet, and no signal.
    let ran = shell("$DMR --json map data | head -c1 >/dev/null; echo ${PIPESTATUS[0]}").ok();
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("0\n", ""));
    let ran = shell("$DMR remap data 16000 | true; echo ${PIPESTATUS[0]}").ok();
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("0\n", ""));
    shell("$DMR map data >&-").ok();
    shell("$DMR map data >&- 2>&- <&-").ok();
    // A full disk under the output: what was to be read is not there, which is a failure.
    for line in ["map data", "--json status", "list", "--help", "--version"] {
        let ran = shell(&format!("$DMR {line} >/dev/full")).exits(1);
        ran.complains(&["cannot write the output", "No space left"]);
    }
    shell("$DMR remap data 99999999 2>/dev/full").exits(4);

    // A full /var: the operation is done, and it is told what is missing.
    sh("mount -t tmpfs -o size=4k none /var/lib/dm-remap && head -c 4096 /dev/zero > /var/lib/dm-remap/full");
    let ran = dm_remap("remap data 16100").ok();
    ran.complains(&["note: no metadata backup under /var/lib/dm-remap", "No space left"]);
    assert!(dm_remap("map data").ok().out.contains("16096"));
    dm_remap("deactivate data").ok().complains(&["note: no metadata backup"]);
    dm_remap(&format!("activate data --main {main}")).ok().complains(&["note: no metadata backup"]);
    let quiet = dm_remap("-q restore data 16100").ok();
    assert_eq!(quiet.err, "");
    sh("umount /var/lib/dm-remap && mount -t tmpfs -o ro none /var/lib/dm-remap");
    dm_remap("remap data 16100").ok().complains(&["note: no metadata backup", "Read-only"]);
    sh("umount /var/lib/dm-remap");
    // A full or read-only /run: there can be no lock, so nothing is done.
    let still = Still::new(&[main, spare]);
    sh("mount -t tmpfs -o ro none /run/dm-remap");
    dm_remap("remap data 16200").exits(1).complains(&["cannot make the lock file in /run/dm-remap"]);
    sh("umount /run/dm-remap");
    still.check("a command without a lock file");
}

#[test]
fn nonsense_on_the_command_line_is_bad_usage() {
    let Some(guest) = Guest::begin() else { return };
    let [main, spare, _, _] = devices(&guest);
    dm_remap(&create(main, spare)).ok();
    let still = Still::new(&[main, spare]);
    for line in [
        "",
        "frobnicate",
        "remap",
        "remap data abc",
        "remap data 8+",
        "remap data 8+0",
        "remap data 10-9",
        "remap data -1",
        "remap data 0x10",
        "remap data 1.5",
        "remap data 1K",
        "remap data 18446744073709551616",
        "remap data 18446744073709551615+2",
        "remap data 8 --unreadable maybe",
        "remap data 8 --retries -1",
        "remap data 8 --block-size 512",
        "remap data 8 --no-such-option",
        "restore data",
        "restore data 8 --all",
        "restore data 8 --unreadable zero",
        "destroy data --merge-back --discard-extents",
        "map data --format xml",
        "map data --format badblocks --block-size 1000",
        "create more",
        "create more --main /dev/ubdc",
        "activate",
        "metadata",
        "metadata dump",
    ] {
        let ran = dm_remap(line).exits(2);
        assert!(ran.out.is_empty() && !ran.err.is_empty(), "{ran:?}");
    }
    for (content, words) in [
        ("12\nabc\n", "/tmp/mnt/list: line 2: 'abc' is not a block number"),
        ("-5\n", "line 1"),
        ("99999999999999999999\n", "line 1"),
        ("18446744073709551615\n", "beyond any device"),
    ] {
        std::fs::write("/tmp/mnt/list", content).unwrap();
        dm_remap("remap data --from-badblocks /tmp/mnt/list").exits(2).complains(&[words]);
    }
    for content in ["", "garbage\n", "0x0 +\n0x0 zzz -\n", "0x0 + 1\n0x0 0x200 !\n"] {
        std::fs::write("/tmp/mnt/list", content).unwrap();
        dm_remap("remap data --from-mapfile /tmp/mnt/list").exits(2).complains(&["/tmp/mnt/list: "]);
    }
    std::fs::write("/tmp/mnt/list", "12\n").unwrap();
    for size in ["0", "511", "1000"] {
        let line = format!("remap data --from-badblocks /tmp/mnt/list --block-size {size}");
        dm_remap(&line).exits(2).complains(&["--block-size", "multiple of 512"]);
    }
    dm_remap("remap data --from-badblocks /tmp/nosuch").exits(1).complains(&["/tmp/nosuch", "No such file"]);
    let renamed = shell("cp $DMR /tmp/mnt/dm-remapper && /tmp/mnt/dm-remapper list").exits(2);
    renamed.complains(&["'dm-remapper' is not a tool of this program"]);
    still.check("nonsense");
}

#[test]
fn a_setup_in_use_is_not_taken_down_and_the_holder_is_named() {
    let Some(guest) = Guest::begin() else { return };
    let [main, spare, _, _] = devices(&guest);
    dm_remap(&create(main, spare)).ok();
    sh("mkfs.ext4 -q -F /dev/mapper/data && mkdir -p /tmp/mnt/a && mount -o ro,noload /dev/mapper/data /tmp/mnt/a");
    let still = Still::new(&[main, spare]);
    for verb in ["deactivate data", "destroy data"] {
        refused(&still, verb, &["'data' is in use", "mounted at /tmp/mnt/a (ext4)", "Unmount or stop that first"]);
    }
    sh("umount /tmp/mnt/a && dmsetup create above --table '0 8 linear /dev/mapper/data 0'");
    let still = Still::new(&[main, spare]);
    refused(&still, "deactivate data", &["'data' is in use", "held by device-mapper device 'above'"]);
    sh("dmsetup remove above");
    let open = Direct::open("/dev/mapper/data");
    let still = Still::new(&[main, spare]);
    let holder = format!("(process {})", std::process::id());
    refused(&still, "deactivate data", &["'data' is in use", "open by guest_refusals", &holder]);
    drop(open);
    dm_remap("deactivate data").ok();
}

#[test]
fn what_another_machine_has_active_needs_a_takeover() {
    let Some(guest) = Guest::begin() else { return };
    let [main, spare, _, _] = devices(&guest);
    dm_remap(&create(main, spare)).ok();
    dm_remap("remap data 8").ok();
    let vanish = "dmsetup remove data && dmsetup remove data-spare0";
    sh(vanish);
    // The same machine, after a crash: it comes up, and says so.
    let line = format!("activate data --main {main}");
    dm_remap(&line).ok().complains(&["note: 'data' was not put down cleanly"]);
    let ours = sh("cat /etc/machine-id");
    sh(vanish);
    // Another machine has another machine-id and another boot.
    let boot = "/proc/sys/kernel/random/boot_id";
    sh("echo 0123456789abcdef0123456789abcdef > /tmp/mnt/id && mount --bind /tmp/mnt/id /etc/machine-id");
    sh(&format!("echo 01234567-89ab-cdef-0123-456789abcdef > /tmp/mnt/boot && mount --bind /tmp/mnt/boot {boot}"));
    let still = Still::new(&[main, spare]);
    refused(&still, &line, &["'data' is marked as active on another machine", ours.trim(), "--takeover"]);
    refused(&still, "destroy data --discard-extents", &["data"]);
    let taken = dm_remap(&format!("{line} --takeover")).ok();
    taken.complains(&["not put down cleanly"]);
    dm_remap("deactivate data").ok();
    sh(&format!("umount /etc/machine-id {boot}"));
    // Put down cleanly, it may come up anywhere.
    assert_eq!(dm_remap(&line).ok().complains(&[]).err, "");
}

#[test]
fn a_suspended_setup_is_left_alone_until_recover_settles_it() {
    let Some(guest) = Guest::begin() else { return };
    let [main, spare, _, _] = devices(&guest);
    dm_remap(&create(main, spare)).ok();
    dm_remap("remap data 8").ok();
    sh("dmsetup suspend data");
    let still = Still::new(&[main, spare]);
    for line in ["remap data 64", "restore data --all", "deactivate data", "destroy data --discard-extents"] {
        refused(&still, line, &["'data' is suspended", "dm-remap recover data"]);
    }
    dm_remap("status data").exits(3).says(&["state: suspended", "dm-remap recover data"]);
    dm_remap("map data").ok();
    dm_remap("recover data --dry-run").ok().says(&["needs to be settled"]);
    still.check("recover --dry-run");
    dm_remap("recover data").ok().says(&["runs again"]);
    assert_eq!(Direct::open("/dev/mapper/data").read(8, 1).unwrap().len(), 512);
    dm_remap("recover data").ok().says(&["nothing to settle"]);
    dm_remap("remap data 64").ok();
}

#[test]
fn a_table_that_was_changed_by_hand_is_not_built_upon() {
    let Some(guest) = Guest::begin() else { return };
    let [main, spare, _, _] = devices(&guest);
    dm_remap(&create(main, spare)).ok();
    dm_remap("remap data 8").ok();
    let right = sh("dmsetup table data > /tmp/mnt/right; cat /tmp/mnt/right");
    let size = Direct::open(main).sectors();
    for wrong in [
        format!("0 {size} linear {main} 0"),
        format!("0 8 linear {main} 0\n8 8 linear {spare} 10248\n16 {} linear {main} 16", size - 16),
        right.replace(&format!("{}", size - 16), &format!("{}", size - 24)),
        format!(
            "0 8 linear {main} 0\n8 8 linear {spare} 10240\n16 8 linear {main} 8\n24 {} linear {main} 24",
            size - 24
        ),
    ] {
        sh(&format!("printf '%s\\n' '{}' | dmsetup load data && dmsetup resume data", wrong.trim()));
        let still = Still::new(&[main, spare]);
        for line in ["remap data 64", "restore data 8"] {
            refused(
                &still,
                line,
                &["the live table of 'data' is not the one", "Nothing was changed", "undo that first"],
            );
        }
        let recover = dm_remap("recover data").exits(4);
        recover.complains(&["the live table of 'data' is not the one", "changed the table by hand"]);
        still.check("recover");
        dm_remap("status data").exits(3).says(&["state: unsettled"]);
        still.check("status");
        sh("dmsetup load data /tmp/mnt/right && dmsetup resume data");
        dm_remap("recover data").ok().says(&["nothing to settle"]);
    }
    dm_remap("remap data 64").ok();
    // A table that only waits in the inactive slot is not in force: it goes away.
    sh(&format!("echo 0 {size} linear {main} 0 | dmsetup load data"));
    dm_remap("remap data 128").ok();
    assert_eq!(ranges(&dm_remap("--json map data").ok().json()["extents"]), [(8, 8), (64, 8), (128, 8)]);
    std::io::stdout().flush().unwrap();
}
