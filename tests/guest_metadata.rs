//! `metadata repair`, `backup`, `restore` and `import`, through the real program.
// guest: --disk 8M --disk 6M --disk 6M --disk 6M
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

mod guest_support;
#[path = "support/kernel_module.rs"]
mod kernel_module;

use guest_support::*;

/// Main, two spares, and one more.
fn devices(guest: &Guest) -> [&str; 4] {
    [0, 1, 2, 3].map(|n| guest.disks[n].as_str())
}

/// Commands that are refused, each with its words; nothing is changed by all of them together. That each kind of refusal
/// comes before the first write is shown without a guest, by tests/by_hand.rs.
#[track_caller]
fn refused(devices: &[&str], lines: &[(&str, &[&str])]) {
    let still = Still::new(devices);
    for (line, words) in lines {
        let ran = dm_remap(line).exits(4).complains(words);
        assert!(ran.out.is_empty(), "{ran:?}");
    }
    still.check("what was refused");
}

/// Overwrites copies of a spare with noise that keeps our magic, with zeros, or with something of somebody else.
fn spoil(device: &str, copies: &[u64], with: u8) {
    let disk = Direct::open(device);
    for copy in copies {
        let at = [0, 1024, 2048, 4096, 8192][*copy as usize];
        let mut head = disk.read(at, 8).unwrap();
        match with {
            b'd' => head[1000] ^= 0xff,
            b'z' => head.fill(0),
            _ => head.fill(b'X'),
        }
        disk.write(at, &head).unwrap();
    }
}

fn generation(device: &str) -> u64 {
    dm_remap(&format!("metadata dump {device}")).ok().json()["generation"].as_u64().unwrap()
}

fn states(device: &str) -> Vec<String> {
    let json: serde_json::Value =
        serde_json::from_str(&dm_remap(&format!("--json metadata check {device}")).out).unwrap();
    json["spares"][0]["copies"].as_array().unwrap().iter().map(|c| c["verdict"].as_str().unwrap().into()).collect()
}

#[test]
fn copies_of_a_setup_that_is_down_are_mended_in_their_own_generation() {
    let Some(guest) = Guest::begin() else { return };
    let [main, one, two, _] = devices(&guest);
    dm_remap(&format!("create data --main {main} --spare {one} {two}")).ok();
    dm_remap("remap data 800+16").ok();
    dm_remap("deactivate data").ok();
    let before = (Direct::open(one).image(), Direct::open(two).image());
    let number = generation(one);

    dm_remap(&format!("metadata repair {one}")).ok().says(&["all copies are in order"]);
    spoil(one, &[0, 1, 2, 3], b'd');
    let still = Still::new(&[one, two]);
    let dry = dm_remap(&format!("metadata repair {one} --dry-run")).ok();
    dry.says(&["would write generation", "dry run: nothing was changed"]);
    still.check("dry run");
    dm_remap(&format!("metadata repair {one}")).ok().says(&["wrote generation", &number.to_string()]);
    assert!((Direct::open(one).image(), Direct::open(two).image()) == before, "not as it was");
    // By its name: all spares.
    spoil(one, &[0], b'd');
    spoil(two, &[3, 4], b'z');
    dm_remap("metadata repair data").ok().says(&[one, two]);
    assert!((Direct::open(one).image(), Direct::open(two).image()) == before);
    // What is not ours is not overwritten unasked, whether it has a name or not.
    spoil(one, &[2], b'X');
    refused(&[one, two], &[("metadata repair data", &[one, "--force-signature"])]);
    dm_remap(&format!("metadata repair {one} --force-signature")).ok();
    sh(&format!("mkfs.ext4 -q -F {one} 4096; sync; blockdev --flushbufs {one}"));
    // Nothing is left to repair from.
    spoil(two, &[0, 1, 2, 3, 4], b'z');
    let (signed, empty) = (format!("metadata repair {one}"), format!("metadata repair {two}"));
    refused(
        &[one, two],
        &[
            (&signed, &[one, "ext4", "--force-signature"]),
            (&empty, &[two, "no valid copy to repair from", "metadata restore"]),
        ],
    );
}

#[test]
fn a_setup_that_is_up_is_mended_by_a_commit() {
    let Some(guest) = Guest::begin() else { return };
    let [main, one, two, _] = devices(&guest);
    dm_remap(&format!("create data --main {main} --spare {one} {two}")).ok();
    dm_remap("metadata repair data").ok().says(&["there was nothing to repair"]);
    let number = generation(two);
    spoil(one, &[0, 3], b'd');
    let still = Still::new(&[one, two]);
    dm_remap(&format!("metadata repair {one}")).exits(4).complains(&[one, "spare of 'data', which is up"]);
    dm_remap("metadata repair data --from-copy 1").exits(4).complains(&["it is up"]);
    dm_remap("metadata repair data -n").ok().says(&["would be repaired", "2 copies (0, 3)"]);
    still.check("refused, and a dry run");
    dm_remap("metadata repair data").ok().says(&["was repaired", "2 copies (0, 3)"]);
    assert_eq!(states(one), ["valid"; 5]);
    assert_eq!((generation(one), generation(two)), (number + 1, number + 1));
    spoil(one, &[1], b'X');
    refused(&[one, two], &[("metadata repair data", &[one, "--force-signature"])]);
    dm_remap("metadata repair data --force-signature").ok();
    dm_remap("deactivate data").ok();
}

#[test]
fn who_is_right_is_for_a_person_to_say() {
    let Some(guest) = Guest::begin() else { return };
    let [main, one, two, _] = devices(&guest);
    dm_remap(&format!("create data --main {main} --spare {one} {two}")).ok();
    dm_remap("deactivate data").ok();
    // Two lives of one setup: what each of them did to the other's spare is lost.
    let early = (Direct::open(one).image(), Direct::open(two).image());
    dm_remap(&format!("activate data --main {main} --spare {one} {two}")).ok();
    dm_remap("remap data 80").ok();
    dm_remap("deactivate data").ok();
    let first = Direct::open(two).image();
    Direct::open(one).fill(&early.0);
    Direct::open(two).fill(&early.1);
    dm_remap(&format!("activate data --main {main} --spare {one} {two}")).ok();
    dm_remap("remap data 4000+64").ok();
    dm_remap("deactivate data").ok();
    Direct::open(two).fill(&first);
    refused(&[one, two], &[("metadata repair data", &["divergent", "--from-spare"])]);
    let before = generation(one);
    dm_remap("metadata repair data --from-spare 1").exits(3).says(&["given up"]);
    let number = generation(one);
    assert!(number > before && number == generation(two));
    dm_remap(&format!("activate data --main {main}")).ok();
    let map = dm_remap("map data --format csv").ok();
    assert!(map.out.contains("\n80,8,") && !map.out.contains("\n4000,"), "{}", map.out);
    dm_remap("destroy data --discard-extents").ok();

    // Copies of one spare that contradict each other.
    dm_remap(&format!("create solo --main {main} --spare {one}")).ok();
    dm_remap("deactivate solo").ok();
    let disk = Direct::open(one);
    let old = disk.image();
    dm_remap(&format!("activate solo --main {main} --spare {one}")).ok();
    dm_remap("remap solo 80").ok();
    dm_remap("deactivate solo").ok();
    let kept = disk.read(1024, 1024).unwrap();
    disk.fill(&old);
    dm_remap(&format!("activate solo --main {main} --spare {one}")).ok();
    dm_remap("remap solo 4000+64").ok();
    dm_remap("deactivate solo").ok();
    disk.write(1024, &kept).unwrap();
    refused(&[one, two], &[(&format!("metadata repair {one}"), &["divergent", "--from-copy", "1: 'solo'"])]);
    dm_remap(&format!("metadata repair {one} --from-copy 1")).exits(3);
    assert_eq!(states(one), ["valid"; 5]);
    dm_remap(&format!("activate solo --main {main} --spare {one}")).ok();
    dm_remap("map solo --format csv").ok().says(&["\n80,8,"]);
    dm_remap("destroy solo --discard-extents").ok();
}

#[test]
fn a_spare_that_is_behind_the_others_is_told_of_and_left_behind() {
    let Some(guest) = Guest::begin() else { return };
    let [main, one, two, _] = devices(&guest);
    dm_remap(&format!("create data --main {main} --spare {one} {two}")).ok();
    dm_remap("deactivate data").ok();
    let old = Direct::open(two).image();
    dm_remap(&format!("activate data --main {main}")).ok();
    dm_remap("deactivate data").ok();
    Direct::open(two).fill(&old);
    let behind = generation(two);
    spoil(two, &[0], b'd');
    dm_remap(&format!("metadata repair {two}")).exits(3).says(&["stale against the others", "--update-stale"]);
    assert_eq!((generation(two), states(two)), (behind, vec!["valid".to_string(); 5]));
    spoil(two, &[0], b'd');
    dm_remap("metadata repair data").exits(3).says(&["stale against the others"]);
    assert_eq!(generation(two), behind);
    assert!(Direct::open(two).image() == old);
    // It missed more than an interrupted command leaves out: the device was put back to an earlier state.
    let activate = format!("activate data --main {main} --update-stale");
    dm_remap(&activate).exits(4).complains(&["put back to an earlier state"]);
    assert!(Direct::open(two).image() == old);
    // Remains are not repaired.
    dm_remap("destroy data").ok();
    refused(&[one, two], &[(&format!("metadata repair {one}"), &["no valid copy to repair from"])]);
}

#[test]
fn a_backup_brings_a_map_back() {
    let Some(guest) = Guest::begin() else { return };
    let [main, one, two, other] = devices(&guest);
    Direct::open(main).fill(&patterns(0, Direct::open(main).sectors(), 1));
    dm_remap(&format!("create data --main {main} --spare {one} {two}")).ok();
    let work = "/tmp/work-backup";
    sh(&format!("mkdir -p {work}"));
    dm_remap(&format!("metadata backup data {work}/early")).ok().says(&["wrote generation"]);
    dm_remap("remap data 800+16 9000").ok();
    Direct::open("/dev/mapper/data").write(804, &pattern(804, 9)).unwrap();
    refused(&[one, two], &[(&format!("metadata restore {work}/early --to {one}"), &["it is active"])]);
    dm_remap("deactivate data").ok();
    dm_remap(&format!("metadata backup {one} {work}/late")).ok().says(&["2 extents"]);
    let ran = dm_remap(&format!("metadata backup data {work}/late")).exits(4);
    ran.complains(&["it is there already", "--force-overwrite"]);
    dm_remap(&format!("metadata backup data {work}/late --force-overwrite")).ok();
    sh(&format!("$DMR metadata backup data - | cmp - {work}/late && [ $(ls -A {work} | wc -l) = 2 ]"));
    dm_remap(&format!("metadata backup data {one} --force-overwrite")).exits(1).complains(&["no regular file"]);

    // Refusals: older, another device, other data, in use.
    sh(&format!("mkfs.ext4 -q -F {other}; sync; blockdev --flushbufs {other}"));
    let older = format!("metadata restore {work}/early --to {one} --as-spare 0");
    let signed = format!("metadata restore {work}/late --to {other} --as-spare 0");
    let stranger = format!("metadata restore /bin/true --to {one}");
    refused(
        &[one, two, other],
        &[
            (&older, &[one, "newer than the backup", "--over-newer"]),
            (&signed, &[other, "ext4", "--force-signature"]),
            (&stranger, &["/bin/true", "no backup that can be used"]),
        ],
    );
    sh(&format!("mkdir -p /tmp/mnt/o && mount {other} /tmp/mnt/o"));
    dm_remap(&format!("metadata restore {work}/late --to {other} --as-spare 0"))
        .exits(4)
        .complains(&["in use", "/tmp/mnt/o"]);
    sh("umount /tmp/mnt/o");

    // The metadata of both is lost; the slots are not.
    for device in [one, two] {
        spoil(device, &[0, 1, 2, 3, 4], b'z');
    }
    dm_remap(&format!("activate data --main {main}")).exits(1);
    refused(&[one], &[(&format!("metadata restore {work}/late --to {one}"), &[one, "--as-spare", "it may be 0 or 1"])]);
    let ran = dm_remap(&format!("metadata restore {work}/late --to {one} --as-spare 0")).ok();
    ran.says(&["restored generation", "only the map is restored", "nothing here tells whether"]);
    assert_eq!(states(one), ["valid"; 5]);
    // The other spare gets the same generation; and so does the first, when the command is given again.
    for (device, index) in [(two, 1), (one, 0)] {
        dm_remap(&format!("metadata restore {work}/late --to {device} --as-spare {index}")).ok();
        assert_eq!(generation(device), generation(one));
    }
    dm_remap(&format!("activate data --main {main}")).ok();
    let data = Direct::open("/dev/mapper/data");
    assert_eq!(data.read(804, 1).unwrap(), pattern(804, 9));
    assert_eq!(data.read(9000, 1).unwrap(), pattern(9000, 1));
    drop(data);
    dm_remap("map data --format csv").ok().says(&["\n800,16,0,", "\n9000,8,0,"]);
    dm_remap("deactivate data").ok();
    // An older map that is really meant: who still has a newer one is behind, and does not tell another truth.
    dm_remap(&format!("{older} --over-newer")).ok();
    dm_remap(&format!("activate data --main {main}")).ok();
    assert_eq!(generation(two), generation(one));
    assert_eq!(Direct::open("/dev/mapper/data").read(804, 1).unwrap(), pattern(804, 1));
    dm_remap("destroy data").ok();
}

#[test]
fn every_command_keeps_a_backup_and_few_are_kept() {
    let Some(guest) = Guest::begin() else { return };
    let [main, one, two, _] = devices(&guest);
    let newest = || -> u64 {
        let list = dm_remap("--json metadata backup --list data").ok().json();
        let kept: Vec<u64> =
            list["backups"].as_array().unwrap().iter().map(|b| b["generation"].as_u64().unwrap()).collect();
        assert!(kept.len() <= 32 && kept.is_sorted(), "{kept:?}");
        kept.last().copied().unwrap_or(0)
    };
    dm_remap(&format!("create data --main {main} --spare {one} {two}")).ok();
    assert_eq!(newest(), generation(one));
    let step = |line: &str| {
        dm_remap(line).ok();
        assert_eq!(newest(), generation(one), "{line}");
    };
    step("remap data 80");
    step("restore data 80");
    step("deactivate data");
    step(&format!("activate data --main {main}"));
    spoil(one, &[1], b'd');
    step("metadata repair data");
    // As if there had been many more.
    sh(
        "cd /var/lib/dm-remap/backup/*/ && f=$(ls | head -1) && for n in $(seq 10 50); do cp $f 00000000000000000000-$n.copy0; done",
    );
    step("remap data 800");
    sh("[ $(ls -A /var/lib/dm-remap/backup/*/ | wc -l) = 32 ]");
    let table = dm_remap("metadata backup --list").ok();
    assert_eq!(table.out.lines().count(), 33, "{}", table.out);
    table.says(&["GENERATION", "/var/lib/dm-remap/backup/"]);
    dm_remap("metadata backup --list nosuch").ok().says(&["no backups"]);
    dm_remap("destroy data --merge-back").ok();
}

/// Makes the device a spare of the module's version 4: original, slot, flags.
fn version_4(device: &str, main_sectors: u64, rows: &[(u64, u64, u16)]) {
    let disk = Direct::open(device);
    let copy = kernel_module::version_4(main_sectors, disk.sectors(), rows);
    for n in 0..5 {
        disk.write(n * 256, &copy).unwrap();
    }
}

#[test]
fn what_the_kernel_module_remapped_is_taken_over() {
    let Some(guest) = Guest::begin() else { return };
    let [_, old, new, _] = devices(&guest);
    let main = guest.scsi_debug(8, "");
    let sectors = Direct::open(&main.device).sectors();
    Direct::open(&main.device).fill(&patterns(0, sectors, 1));
    // Two neighbours, one alone, one pair in one unit; then what is in doubt, for each reason that a device can show.
    let rows = [
        (500, 2000, 2),
        (501, 2001, 2),
        (900, 2010, 2),
        (4001, 3000, 2),
        (4003, 3001, 2),
        (7000, 100, 2),
        (7008, 2020, 1),
        (7016, 2021, 2),
        (7024, 2021, 2),
        (7032, 1 << 40, 2),
        (1 << 40, 2030, 2),
        (7040, 2040, 2),
        (900, 2011, 2),
        (7048, 2050, 2),
    ];
    version_4(old, sectors, &rows);
    let disk = Direct::open(old);
    for (original, slot, _) in
        rows.into_iter().filter(|(original, slot, _)| *slot < 4000 && *slot > 1280 && *original < sectors)
    {
        disk.write(slot, &pattern(original, 7)).unwrap();
    }
    // Slot 2040 was never written, and main has data there: in doubt. At 7048 both are zeros: not.
    disk.write(2040, &[0; 512]).unwrap();
    disk.write(2050, &[0; 512]).unwrap();
    Direct::open(&main.device).write(7048, &[0; 512]).unwrap();
    let before = disk.image();
    let line = |more: &str| format!("metadata import {old} --main {} --name data {more}", main.device);

    let still = Still::new(&[&main.device, old, new]);
    let ran = dm_remap(&line("")).exits(4).complains(&[
        "14 remapped sectors, 13 of them where",
        "not converted in place",
        "--spare",
    ]);
    ran.says(&["version 4", "14 entries: 6 to be taken in, 8 left out"]);
    let found = dm_remap(&format!("--json {}", line(""))).exits(4).json();
    let doubts: Vec<(u64, Vec<String>)> = found["found"]["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (e["sector"].as_u64().unwrap(), serde_json::from_value(e["doubts"].clone()).unwrap()))
        .filter(|(_, doubts): &(u64, Vec<String>)| !doubts.is_empty())
        .collect();
    let of = |at: usize| (doubts[at].0, doubts[at].1.join(" "));
    assert_eq!(of(0), (900, "duplicate".into()));
    assert_eq!(of(1), (7000, "module-metadata blank".into()));
    dm_remap(&line(&format!("--spare {old}"))).exits(4).complains(&["not converted in place"]);
    dm_remap(&line(&format!("--spare {}", main.device))).exits(4).complains(&["share sectors"]);
    let ran = dm_remap(&line(&format!("--spare {new}"))).exits(4);
    let words =
        ["7008  2020", "7040  2040", "pending", "shared", "beyond-spare", "beyond-main", "blank", "again with --yes"];
    ran.says(&["would make 'data'", "nothing was changed"]).says(&words[2..]);
    dm_remap(&line(&format!("--spare {new} --dry-run"))).ok().says(&["dry run: nothing was changed"]);
    dm_remap(&line(&format!("--spare {new} --accept duplicate")))
        .exits(2)
        .complains(&["cannot be accepted", "pending"][1..]);
    still.check("import without --yes");

    // 4000 is bad on main, and not covered by an entry: it is held. 500, 501, 900 are bad and covered.
    main.bad(4000, 1);
    dm_remap(&line(&format!("--spare {new} --yes --accept pending,blank"))).exits(3).says(&["is up", "LOST 4000"]);
    main.good();
    let data = Direct::open("/dev/mapper/data");
    for sector in [500, 501, 4001, 4003, 7008] {
        assert_eq!(data.read(sector, 1).unwrap(), pattern(sector, 7), "{sector}");
    }
    assert_eq!(data.read(900, 1).unwrap(), pattern(900, 7));
    for sector in [499, 502, 899, 901, 4002, 4004, 7000, 7016, 7024] {
        assert_eq!(data.read(sector, 1).unwrap(), pattern(sector, 1), "{sector}");
    }
    assert_eq!((data.read(7040, 1).unwrap(), data.read(7048, 1).unwrap()), (vec![0; 512], vec![0; 512]));
    assert!(data.read(4000, 1).is_err());
    data.write(4000, &pattern(4000, 9)).unwrap();
    assert_eq!(data.read(4000, 1).unwrap(), pattern(4000, 9));
    drop(data);
    assert!(disk.image() == before, "the old spare was written");
    dm_remap("deactivate data").ok();
    dm_remap("activate data").ok();
    assert_eq!(Direct::open("/dev/mapper/data").read(4003, 1).unwrap(), pattern(4003, 7));
    dm_remap("status data").exits(3);
    dm_remap("deactivate data").ok();
}

#[test]
fn an_import_that_cannot_be_is_refused_and_changes_nothing() {
    let Some(guest) = Guest::begin() else { return };
    let [main, old, new, _] = devices(&guest);
    let sectors = Direct::open(main).sectors();
    let line = format!("metadata import {old} --main {main} --spare {new} --yes");
    let refuse = |words: &[&str]| {
        let still = Still::new(&[old, new]);
        dm_remap(&line).exits(4).complains(words);
        still.check(&line);
    };
    refuse(&[old, "no metadata of the dm-remap kernel module"]);
    version_4(old, sectors + 8, &[(500, 2000, 2)]);
    Direct::open(old).write(2000, &pattern(500, 7)).unwrap();
    refuse(&[main, "the main that the module recorded", "--other-size"]);
    version_4(old, sectors, &[(500, 2000, 1)]);
    refuse(&["none of its 1 entries is to be taken in"]);
    version_4(old, sectors, &[(500, 2000, 2)]);
    sh(&format!("dmsetup create holder --table '0 100 linear {old} 0'"));
    refuse(&[old, "in use", "holder"]);
    sh("dmsetup remove holder");
    sh(&format!("mkfs.ext4 -q -F {new}; sync; blockdev --flushbufs {new}"));
    refuse(&[new, "ext4", "--force-signature"]);
    sh(&format!("dd if=/dev/zero of={new} bs=1M count=1 oflag=direct status=none"));
    // The new spare fails while its slots are filled: no setup, and nothing of one.
    sh(&format!("printf '0 10240 linear {new} 0\\n10240 2048 error\\n' | dmsetup create weak"));
    let still = Still::new(&[main, old]);
    let ran = dm_remap(&format!("metadata import {old} --main {main} --spare /dev/mapper/weak --yes"));
    assert_ne!(ran.code, 0, "{ran:?}");
    assert!(!tables().contains("imported"), "{}", tables());
    still.check("import onto a bad spare");
    sh("dmsetup remove weak");
    // What an import that was killed has left of itself is removed by the next (guest_inject, seed 1).
    let left = "DMREMAP-01234567-89ab-4cde-8f01-23456789abcd";
    sh(&format!("dmsetup create imported --notable --uuid {left}"));
    sh(&format!("dmsetup create imported-spare0 --uuid {left}-spare0 --table '0 100 linear {new} 0'"));
    let ran = dm_remap(&line).ok().says(&["'imported' is up"]);
    assert!(ran.err.contains("had left of 'imported'"), "{ran:?}");
    dm_remap("destroy imported --merge-back").ok();
    assert_eq!(Direct::open(main).read(500, 1).unwrap(), pattern(500, 7));
}
