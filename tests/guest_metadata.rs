//! `metadata repair`, `backup`, `restore` and `import`, through the real program.
// guest: --disk 16M --disk 16M --disk 16M --disk 16M
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

mod guest_support;

use guest_support::*;

/// Main, two spares, and one more.
fn devices(guest: &Guest) -> [&str; 4] {
    [0, 1, 2, 3].map(|n| guest.disks[n].as_str())
}

#[track_caller]
fn refused(still: &Still, line: &str, words: &[&str]) {
    let ran = dm_remap(line).exits(4).complains(words);
    assert!(ran.out.is_empty(), "{ran:?}");
    still.check(line);
    dm_remap(&format!("--json {line} --dry-run")).exits(4);
    still.check(line);
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

    let still = Still::new(&[main, one, two]);
    dm_remap(&format!("metadata repair {one}")).ok().says(&["all copies are in order"]);
    still.check("nothing to do");
    for (copies, with) in [(&[0u64, 2, 4][..], b'd'), (&[1, 3], b'z'), (&[0, 1, 2, 3], b'd'), (&[1, 2, 3, 4], b'z')] {
        spoil(one, copies, with);
        let still = Still::new(&[main, one, two]);
        let dry = dm_remap(&format!("metadata repair {one} --dry-run")).ok();
        dry.says(&["would write generation", "dry run: nothing was changed"]);
        still.check("dry run");
        dm_remap(&format!("metadata repair {one}")).ok().says(&["wrote generation", &number.to_string()]);
        assert!(Direct::open(one).image() == before.0, "{copies:?}: not as it was");
    }
    // By its name: all spares.
    spoil(one, &[0], b'd');
    spoil(two, &[3, 4], b'z');
    dm_remap("metadata repair data").ok().says(&[one, two]);
    assert!((Direct::open(one).image(), Direct::open(two).image()) == before);
    // What is not ours is not overwritten unasked, whether it has a name or not.
    spoil(one, &[2], b'X');
    let still = Still::new(&[main, one, two]);
    refused(&still, &format!("metadata repair {one}"), &[one, "--force-signature"]);
    refused(&still, "metadata repair data", &[one, "--force-signature"]);
    dm_remap(&format!("metadata repair {one} --force-signature")).ok();
    sh(&format!("mkfs.ext4 -q -F {one} 4096; sync; blockdev --flushbufs {one}"));
    let still = Still::new(&[main, one, two]);
    refused(&still, &format!("metadata repair {one}"), &[one, "ext4", "--force-signature"]);
    // Nothing is left to repair from.
    spoil(two, &[0, 1, 2, 3, 4], b'z');
    let still = Still::new(&[main, one, two]);
    refused(&still, &format!("metadata repair {two}"), &[two, "no valid copy to repair from", "metadata restore"]);
}

#[test]
fn a_setup_that_is_up_is_mended_by_a_commit() {
    let Some(guest) = Guest::begin() else { return };
    let [main, one, two, _] = devices(&guest);
    dm_remap(&format!("create data --main {main} --spare {one} {two}")).ok();
    let still = Still::new(&[main, one, two]);
    dm_remap("metadata repair data").ok().says(&["there was nothing to repair"]);
    still.check("nothing to do");
    let number = generation(two);
    spoil(one, &[0, 3], b'd');
    let still = Still::new(&[main, one, two]);
    refused(&still, &format!("metadata repair {one}"), &[one, "spare of 'data', which is up"]);
    refused(&still, "metadata repair data --from-copy 1", &["it is up"]);
    dm_remap("metadata repair data -n").ok().says(&["would be repaired", "2 copies (0, 3)"]);
    still.check("dry run");
    dm_remap("metadata repair data").ok().says(&["was repaired", "2 copies (0, 3)"]);
    assert_eq!(states(one), ["valid"; 5]);
    assert_eq!((generation(one), generation(two)), (number + 1, number + 1));
    spoil(one, &[1], b'X');
    let still = Still::new(&[main, one, two]);
    refused(&still, "metadata repair data", &[one, "--force-signature"]);
    dm_remap("metadata repair data --force-signature").ok();
    dm_remap("deactivate data").ok();
}

#[test]
fn who_is_right_is_for_a_person_to_say() {
    let Some(guest) = Guest::begin() else { return };
    let [main, one, two, other] = devices(&guest);
    dm_remap(&format!("create data --main {main} --spare {one} {two}")).ok();
    dm_remap("deactivate data").ok();
    // Two lives of one setup: what each of them did to the other's spare is lost.
    let early = (Direct::open(one).image(), Direct::open(two).image());
    let restart = || {
        Direct::open(one).fill(&early.0);
        Direct::open(two).fill(&early.1);
        dm_remap(&format!("activate data --main {main} --spare {one} {two}")).ok();
    };
    restart();
    dm_remap("remap data 80").ok();
    dm_remap("deactivate data").ok();
    let first = Direct::open(two).image();
    restart();
    dm_remap("remap data 4000+64").ok();
    dm_remap("deactivate data").ok();
    Direct::open(two).fill(&first);
    let still = Still::new(&[main, one, two]);
    refused(&still, "metadata repair data", &["divergent", "--from-spare"]);
    refused(&still, &format!("metadata repair {one}"), &["divergent", "--from-spare"]);
    refused(&still, &format!("metadata repair {one} --from-copy 0"), &["another spare here holds"]);
    refused(&still, "metadata repair data --from-spare 7", &["is not here"]);
    let before = generation(one);
    dm_remap("metadata repair data --from-spare 1 --dry-run").exits(3).says(&["would write generation"]);
    still.check("dry run");
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
    let still = Still::new(&[main, one, two, other]);
    refused(&still, &format!("metadata repair {one}"), &["divergent", "--from-copy", "1: 'solo'"]);
    refused(&still, &format!("metadata repair {one} --from-copy 9"), &[]);
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
    // Remains are not repaired.
    dm_remap(&format!("activate data --main {main} --update-stale")).ok();
    dm_remap("destroy data").ok();
    let still = Still::new(&[main, one, two]);
    refused(&still, &format!("metadata repair {one}"), &["no valid copy to repair from"]);
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
    let still = Still::new(&[main, one, two, other]);
    dm_remap(&format!("metadata restore {work}/early --to {one}")).exits(4).complains(&["it is active"]);
    still.check("restore while up");
    dm_remap("deactivate data").ok();
    dm_remap(&format!("metadata backup {one} {work}/late")).ok().says(&["2 extents"]);
    let ran = dm_remap(&format!("metadata backup data {work}/late")).exits(4);
    ran.complains(&["it is there already", "--force-overwrite"]);
    dm_remap(&format!("metadata backup data {work}/late --force-overwrite")).ok();
    sh(&format!("$DMR metadata backup data - | cmp - {work}/late && [ $(ls -A {work} | wc -l) = 2 ]"));
    dm_remap(&format!("metadata backup data {one} --force-overwrite")).exits(1).complains(&["no regular file"]);

    // Refusals: older, in use, another device, other data.
    let still = Still::new(&[main, one, two, other]);
    refused(
        &still,
        &format!("metadata restore {work}/early --to {one} --as-spare 0"),
        &[one, "newer than the backup", "--over-newer"],
    );
    refused(&still, &format!("metadata restore {work}/late --to {other} --as-spare 7"), &[other, "no spare 7"]);
    refused(
        &still,
        &format!("metadata restore {work}/late --to {one} --as-spare 1"),
        &[one, "it is spare 0", "not spare 1"],
    );
    refused(&still, &format!("metadata restore /bin/true --to {one}"), &["/bin/true", "no backup that can be used"]);
    let small = guest.loop_device("9M", "");
    refused(&still, &format!("metadata restore {work}/late --to {small} --as-spare 0"), &[&small, "size is"]);
    sh(&format!("mkfs.ext4 -q -F {other}; sync; blockdev --flushbufs {other}"));
    let still = Still::new(&[main, one, two, other]);
    refused(
        &still,
        &format!("metadata restore {work}/late --to {other} --as-spare 0"),
        &[other, "ext4", "--force-signature"],
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
    let still = Still::new(&[main, one, two]);
    refused(&still, &format!("metadata restore {work}/late --to {one}"), &[one, "--as-spare", "it may be 0 or 1"]);
    dm_remap(&format!("metadata restore {work}/late --to {one} --as-spare 0 --dry-run")).ok().says(&["would restore"]);
    still.check("dry run");
    let ran = dm_remap(&format!("metadata restore {work}/late --to {one} --as-spare 0")).ok();
    ran.says(&["restored generation", "only the map is restored", "nothing here tells whether"]);
    assert_eq!(states(one), ["valid"; 5]);
    dm_remap(&format!("metadata restore {work}/late --to {two} --as-spare 1"))
        .exits(4)
        .complains(&["newer than the backup"]);
    dm_remap(&format!("metadata backup {one} {work}/new")).ok();
    dm_remap(&format!("metadata restore {work}/new --to {two} --as-spare 1")).ok();
    dm_remap(&format!("activate data --main {main}")).ok();
    let data = Direct::open("/dev/mapper/data");
    assert_eq!(data.read(804, 1).unwrap(), pattern(804, 9));
    assert_eq!(data.read(9000, 1).unwrap(), pattern(9000, 1));
    dm_remap("map data --format csv").ok().says(&["\n800,16,0,", "\n9000,8,0,"]);
    dm_remap("destroy data --discard-extents").ok();
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
    for turn in 0..17 {
        step(&format!("remap data {}", 800 + 8 * turn));
        step(&format!("restore data {}", 800 + 8 * turn));
    }
    let table = dm_remap("metadata backup --list").ok();
    assert_eq!(table.out.lines().count(), 33, "{}", table.out);
    table.says(&["GENERATION", "/var/lib/dm-remap/backup/"]);
    dm_remap("metadata backup --list nosuch").ok().says(&["no backups"]);
    dm_remap("destroy data").ok();
}
