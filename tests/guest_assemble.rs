//! Putting together again: presence, damage, staleness, divergence and identity, one case after another, each with its
//! verdict and exit code; and after every refusal all devices are the same to the byte.
// guest: --disk 8M --disk 8M --disk 8M --disk 8M --disk 8M --disk 8M --timeout 900
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

mod guest_support;

use guest_support::*;
use std::collections::BTreeMap;

const SETUP: &str = "/dev/mapper/data";
const MAIN_SECTORS: u64 = 4096;
const SPARE_SECTORS: u64 = 12_288;

/// What is on main and the three spares at some time.
type Images = [Vec<u8>; 4];

/// A disk of a case: an image on one of the guest's disks, under a name and with an identity of its own.
#[derive(Clone, Debug, PartialEq)]
struct Disk {
    image: Vec<u8>,
    /// Its name under /dev/mapper.
    name: String,
    /// What proves which disk it is; `None` for one without a serial number.
    serial: Option<String>,
    /// What device-mapper is asked beside: `--readonly`.
    options: &'static str,
    /// Larger or smaller than the image.
    sectors: u64,
}

fn disk(letter: char, image: &[u8]) -> Disk {
    let serial = Some(format!("TESTDISK-{letter}"));
    let sectors = image.len() as u64 / 512;
    Disk { image: image.to_vec(), name: format!("hd{letter}"), serial, options: "", sectors }
}

/// Main and the spares A, B, C as they are by right.
fn disks(images: &Images) -> Vec<Disk> {
    "MABC".chars().zip(images).map(|(letter, image)| disk(letter, image)).collect()
}

/// What a setup holds, and which sectors of it are on which spare.
#[derive(Clone, Debug, Default)]
struct Model {
    content: Vec<u8>,
    extents: Vec<(u64, u64, usize)>,
}

impl Model {
    fn now() -> Model {
        let json = dm_remap("--json map data").ok().json();
        let number = |row: &serde_json::Value, field: &str| row[field].as_u64().unwrap();
        let rows = json["extents"].as_array().unwrap();
        let extents =
            rows.iter().map(|r| (number(r, "start"), number(r, "count"), number(r, "spare") as usize)).collect();
        Model { content: Direct::open(SETUP).image(), extents }
    }

    /// The same where some of it answers EIO: that is as in `before`.
    fn now_with(before: &Model) -> Model {
        let json = dm_remap("--json map data").ok().json();
        let number = |row: &serde_json::Value, field: &str| row[field].as_u64().unwrap();
        let rows = json["extents"].as_array().unwrap();
        let extents =
            rows.iter().map(|r| (number(r, "start"), number(r, "count"), number(r, "spare") as usize)).collect();
        Model { content: before.content.clone(), extents }
    }

    /// The sectors that are on these spares.
    fn on(&self, spares: &[usize]) -> Vec<u64> {
        let here = self.extents.iter().filter(|(_, _, spare)| spares.contains(spare));
        here.flat_map(|(start, count, _)| *start..start + count).collect()
    }
}

/// What a case expects.
#[derive(Clone, Debug)]
enum Ends<'a> {
    /// Refused with these words, and nothing changed.
    Refused(&'a str),
    /// No setup is found: exit code 1.
    Nothing,
    /// Up, with this content.
    Up(&'a Model),
    /// Up with exit code 3, and EIO for what is on these spares.
    Degraded(&'a Model, &'a [usize]),
}

struct World {
    guest: Guest,
    /// What is on the guest's disks, as far as that is known.
    on_disk: Vec<Option<Vec<u8>>>,
    cases: usize,
    /// The case before, when it was refused.
    refused: Option<(String, Vec<Disk>)>,
    /// Discover has judged these disks already.
    judged: bool,
    seen: BTreeMap<String, usize>,
    /// Cases so far, those that are left out included; which third of them is not.
    offered: usize,
    chosen: usize,
    all: bool,
}

impl World {
    /// Nothing but these disks.
    fn place(&mut self, disks: &[Disk]) -> Vec<String> {
        sh("for n in $(dmsetup ls | awk '/No devices/ {exit} {print $1}' | sort -r); do dmsetup remove $n; done");
        sh("rm -rf /var/lib/dm-remap/*");
        for (place, path) in self.guest.disks.iter().enumerate() {
            let Some(disk) = disks.get(place) else {
                // Nothing of the case before.
                if self.on_disk[place].take().is_some() {
                    let device = Direct::open(path);
                    [0, 1024, 2048, 4096, 8192].iter().for_each(|at| device.write(*at, &[0; 4096]).unwrap());
                }
                continue;
            };
            if self.on_disk[place].as_ref() != Some(&disk.image) {
                Direct::open(path).fill(&disk.image);
                self.on_disk[place] = Some(disk.image.clone());
            }
            let uuid = disk.serial.as_ref().map(|serial| format!("--uuid {serial}")).unwrap_or_default();
            sh(&format!(
                "dmsetup create {} {uuid} {} --table '0 {} linear {path} 0'",
                disk.name, disk.options, disk.sectors
            ));
        }
        self.refused = None;
        Self::paths(disks)
    }

    /// One case: what discover says of it first, then what `reassemble` does.
    #[track_caller]
    fn case(&mut self, what: &str, disks: &[Disk], kinds: &[&str], args: &str, ends: &Ends<'_>) {
        self.offered += 1;
        if !self.all && self.offered % 3 != self.chosen {
            return;
        }
        // What was refused has changed nothing: the same disks again are there already, and were judged.
        let again = self.refused.as_ref().is_some_and(|(before, there)| before == what && there == disks);
        let paths = if again { Self::paths(disks) } else { self.place(disks) };
        self.judged = again;
        self.judge(what, &paths, kinds, args, ends);
        self.judged = false;
        self.refused = matches!(ends, Ends::Refused(_)).then(|| (what.to_string(), disks.to_vec()));
    }

    fn paths(disks: &[Disk]) -> Vec<String> {
        disks.iter().map(|disk| format!("/dev/mapper/{}", disk.name)).collect()
    }

    #[track_caller]
    fn judge(&mut self, what: &str, paths: &[String], kinds: &[&str], args: &str, ends: &Ends<'_>) {
        self.cases += 1;
        let what = format!("case {}: {what} [{args}]", self.cases);
        let names: Vec<&str> = paths.iter().map(String::as_str).collect();
        // Only what is refused must have changed nothing.
        let before = (!matches!(ends, Ends::Up(_) | Ends::Degraded(..))).then(|| snapshot(&names));
        let unchanged = |said: &str| assert_eq!(before.as_ref().unwrap().changes(&snapshot(&names)), "", "{said}");
        if !self.judged {
            self.discovered(&what, kinds);
        }
        let ran = tool(&format!("dm-remap-reassemble {args}"));
        let said = format!("{what}\n{}{}", ran.out, ran.err);
        match ends {
            Ends::Refused(words) => {
                assert_eq!(ran.code, 4, "{said}");
                assert!(ran.err.contains(words), "'{words}' is not in\n{said}");
                unchanged(&said);
            }
            Ends::Nothing => {
                assert_eq!(ran.code, 1, "{said}");
                unchanged(&said);
            }
            Ends::Up(model) => {
                assert_eq!(ran.code, 0, "{said}");
                self.compare(model, &[], &said);
            }
            Ends::Degraded(model, missing) => {
                assert_eq!(ran.code, 3, "{said}");
                self.compare(model, missing, &said);
            }
        }
    }

    /// What discover says of what is there.
    #[track_caller]
    fn discovered(&mut self, what: &str, kinds: &[&str]) {
        let found = tool("dm-remap-discover --scan-all --json");
        let json = found.json();
        let problems = json["setups"][0]["problems"].as_array().cloned().unwrap_or_default();
        let mut got: Vec<&str> = problems.iter().map(|p| p["kind"].as_str().unwrap()).collect();
        got.dedup();
        assert_eq!(got, kinds, "{what}\n{json:#}");
        for kind in kinds {
            *self.seen.entry((*kind).to_string()).or_default() += 1;
        }
        let setups = json["setups"].as_array().unwrap().len();
        let code = if setups > 0 && kinds != ["active"] && !kinds.is_empty() { 3 } else { 0 };
        assert_eq!(found.code, code, "{what}: discover\n{json:#}{}", found.err);
    }

    /// The setup holds what it should, with EIO for what is on these spares; then it is taken down.
    #[track_caller]
    fn compare(&mut self, model: &Model, missing: &[usize], said: &str) {
        let setup = Direct::open(SETUP);
        let differing = setup.differences(&model.content);
        assert_eq!(differing, model.on(missing), "{said}");
        for sector in differing {
            assert!(setup.read(sector, 1).is_err(), "sector {sector} must not be read\n{said}");
        }
        drop(setup);
        dm_remap("deactivate data").ok();
        self.forget();
    }

    /// The disks have been written.
    fn forget(&mut self) {
        // Never seen is not the same as blank.
        self.on_disk.iter_mut().for_each(|image| *image = Some(Vec::new()));
    }
}

/// Everything that stands on the disks of a setup, at several times.
struct Times {
    old: Images,
    old_model: Model,
    /// Three commits and more later.
    new: Images,
    model: Model,
    /// The same number of commits after `old`, with other content.
    other: Images,
    /// As `new`, before it was taken down.
    unclean: Images,
    /// One commit after `unclean`.
    later: Images,
    /// Active on another machine.
    elsewhere: Images,
    /// After `new`, three commits more that A has missed: it was away.
    without_a: Images,
    without_a_model: Model,
}

fn images(paths: &[String]) -> Images {
    let all: Vec<Vec<u8>> = paths.iter().map(|path| Direct::open(path).image()).collect();
    all.try_into().unwrap()
}

/// Moves extents, three commits, and writes into them.
fn change(version: u8) {
    for n in 0..3_u64 {
        let first = 1000 + u64::from(version) * 320 + n * 64;
        dm_remap(&format!("remap data {first}+8 {}+8", first + 24)).ok();
        Direct::open(SETUP).write(first, &patterns(first, 8, version)).unwrap();
    }
}

fn history(world: &mut World) -> Times {
    let spare = vec![0; SPARE_SECTORS as usize * 512];
    let blank: Images = [patterns(0, MAIN_SECTORS, 1), spare.clone(), spare.clone(), spare];
    let paths = world.place(&disks(&blank));
    let [main, a, b, c] = [0, 1, 2, 3].map(|n| paths[n].clone());
    dm_remap(&format!("create data --main {main} --spare {a} {b} {c} --allocation round-robin")).ok();
    for n in 0..6_u64 {
        dm_remap(&format!("remap data {}+8", n * 160)).ok();
    }
    Direct::open(SETUP).write(160, &patterns(160, 8, 2)).unwrap();
    let old_model = Model::now();
    assert!((0..3).all(|spare| !old_model.on(&[spare]).is_empty()), "{:?}", old_model.extents);
    dm_remap("deactivate data").ok();
    let old = images(&paths);
    world.forget();
    let activate = || tool("dm-remap-reassemble --setup data --safe-mode").ok();
    activate();
    change(3);
    let unclean = images(&paths);
    let model = Model::now();
    dm_remap("policy data --unreadable leave").ok();
    let later = images(&paths);
    dm_remap("deactivate data").ok();
    let new = images(&paths);
    world.forget();
    world.place(&disks(&old));
    activate();
    change(5);
    dm_remap("deactivate data").ok();
    let other = images(&paths);
    world.forget();
    world.place(&disks(&new));
    let boot = "/proc/sys/kernel/random/boot_id";
    sh(&format!(
        "echo 0123456789abcdef0123456789abcdef > /tmp/mnt/id && mount --bind /tmp/mnt/id /etc/machine-id && \
         echo 00000000-0000-0000-0000-000000000001 > /tmp/mnt/boot && mount --bind /tmp/mnt/boot {boot}"
    ));
    activate();
    let elsewhere = images(&paths);
    dm_remap("deactivate data").ok();
    sh(&format!("umount /etc/machine-id {boot}"));
    world.forget();
    let mut here = disks(&new);
    // Its place stays, its copies do not.
    here[1].image.fill(0);
    world.place(&here);
    tool("dm-remap-reassemble --setup data --degraded").exits(3).complains(&["spare 0 is missing"]);
    world.forget();
    for n in 0..3_u64 {
        let ran = dm_remap(&format!("remap data {}+8", 3000 + n * 64));
        assert!([0, 3].contains(&ran.code), "{ran:?}");
    }
    let mut without_a_model = Model::now_with(&model);
    dm_remap("deactivate data").exits(0);
    let mut without_a = images(&paths);
    without_a[1].clone_from(&new[1]);
    for (start, count, spare) in &model.extents {
        if *spare == 0 {
            let bytes = *start as usize * 512..(*start + *count) as usize * 512;
            without_a_model.content[bytes.clone()].copy_from_slice(&model.content[bytes]);
        }
    }
    Times { old, old_model, new, model, other, unclean, later, elsewhere, without_a, without_a_model }
}

/// Spoils copies: a byte in the middle of each.
fn spoil(image: &mut [u8], copies: &[usize]) {
    for copy in copies {
        image[[0, 1024, 2048, 4096, 8192][*copy] * 512 + 700] ^= 0x55;
    }
}

fn without(all: &[Disk], letters: &str) -> Vec<Disk> {
    all.iter().filter(|d| !letters.chars().any(|letter| d.name.ends_with(letter))).cloned().collect()
}

/// Which third of the cases is tried, unless `DM_REMAP_ALL_CASES` asks for all: another one each time.
fn third() -> usize {
    let chosen = std::env::var("DM_REMAP_SEED").ok().and_then(|seed| seed.parse::<usize>().ok());
    let chosen = chosen.unwrap_or_else(|| Random::new().below(3) as usize);
    println!("third {chosen} of the cases (DM_REMAP_SEED={chosen} repeats this)");
    chosen % 3
}

#[test]
fn every_case_has_its_verdict_and_refusals_change_nothing() {
    let Some(guest) = Guest::begin() else { return };
    let mut world = World {
        on_disk: vec![None; guest.disks.len()],
        guest,
        cases: 0,
        refused: None,
        judged: false,
        seen: BTreeMap::new(),
        offered: 0,
        chosen: third(),
        all: std::env::var_os("DM_REMAP_ALL_CASES").is_some(),
    };
    let times = history(&mut world);
    presence(&mut world, &times);
    damage(&mut world, &times);
    age(&mut world, &times);
    identity(&mut world, &times);
    spares_on_other_devices(&mut world, &times);
    marks_and_names(&mut world, &times);
    changed_main(&mut world, &times);
    println!("{} of {} cases; problems seen: {:?}", world.cases, world.offered, world.seen);
    assert!(world.cases >= 30, "{}", world.cases);
}

fn presence(world: &mut World, times: &Times) {
    let all = disks(&times.new);
    for (gone, missing) in [("A", vec![0]), ("B", vec![1]), ("AC", vec![0, 2]), ("BC", vec![1, 2])] {
        let here = without(&all, gone);
        for mode in ["", "--safe-mode"] {
            let refused = Ends::Refused("is missing");
            world.case("spares missing", &here, &["incomplete"], &format!("--setup data {mode}"), &refused);
        }
        let degraded = Ends::Degraded(&times.model, &missing);
        world.case("spares missing", &here, &["incomplete"], "--setup data --degraded", &degraded);
    }
    for mode in ["", "--safe-mode", "--degraded"] {
        let args = format!("--setup data {mode}");
        world.case("all there", &all, &[], &args, &Ends::Up(&times.model));
        world.case("no main", &without(&all, "M"), &["main-missing"], &args, &Ends::Refused("is not here"));
        world.case("no spare", &without(&all, "ABC"), &[], &args, &Ends::Nothing);
    }
    world.case("--auto", &all, &[], "--auto --safe-mode", &Ends::Up(&times.model));
    world.case("--auto", &without(&all, "B"), &["incomplete"], "--auto", &Ends::Refused("is missing"));
    world.case("one spare named", &all, &[], "--device /dev/mapper/hdB", &Ends::Up(&times.model));
}

fn damage(world: &mut World, times: &Times) {
    let spoilt = |places: &[(usize, &[usize])]| {
        let mut all = disks(&times.new);
        places.iter().for_each(|(place, copies)| spoil(&mut all[*place].image, copies));
        all
    };
    let (up, args) = (Ends::Up(&times.model), "--setup data --safe-mode");
    for kept in 0..5 {
        let bad: Vec<usize> = (0..5).filter(|copy| *copy != kept).collect();
        world.case("one good copy on A", &spoilt(&[(1, &bad)]), &[], args, &up);
    }
    let every = [0, 1, 2, 3, 4];
    let one_each = spoilt(&[(1, &[0, 1, 2, 3]), (2, &[1, 2, 3, 4]), (3, &[0, 2, 3, 4])]);
    world.case("one good copy on each", &one_each, &[], args, &up);
    let none_on_a = spoilt(&[(1, &every)]);
    world.case("no good copy on A", &none_on_a, &["incomplete"], args, &Ends::Refused("is missing"));
    let degraded = Ends::Degraded(&times.model, &[0]);
    world.case("no good copy on A", &none_on_a, &["incomplete"], "--setup data --degraded", &degraded);
    let none = spoilt(&[(1, &every), (2, &every), (3, &every)]);
    world.case("no good copy at all", &none, &[], "--setup data --degraded", &Ends::Nothing);
    let mut moved = disks(&times.new);
    let copy = moved[1].image[1024 * 512..1124 * 512].to_vec();
    moved[1].image[..copy.len()].copy_from_slice(&copy);
    world.case("a copy in the place of another", &moved, &[], args, &up);
    let mut foreign = disks(&times.new);
    sh("truncate -s 6M /tmp/mnt/ext4 && mkfs.ext4 -q -F /tmp/mnt/ext4");
    foreign[1].image[..4096].copy_from_slice(&std::fs::read("/tmp/mnt/ext4").unwrap()[..4096]);
    // md 1.2 lies at 4096 bytes, and leaves the magic of copy 0 as it is.
    let mut raid = disks(&times.new);
    sh("truncate -s 6M /tmp/mnt/md");
    raid[2].image[4096..4100].copy_from_slice(&0xa92b_4efc_u32.to_le_bytes());
    raid[2].image[4100..4104].copy_from_slice(&1_u32.to_le_bytes());
    raid[2].image[4096 + 144..4096 + 152].copy_from_slice(&8_u64.to_le_bytes());
    let refused = Ends::Refused("foreign signature over a copy");
    world.case("md over copy 0", &raid, &["foreign-signature"], args, &refused);
    for mode in ["", "--safe-mode", "--degraded"] {
        let refused = Ends::Refused("foreign signature over a copy");
        world.case("ext4 over copy 0", &foreign, &["foreign-signature"], &format!("--setup data {mode}"), &refused);
    }
}

fn age(world: &mut World, times: &Times) {
    let mixed = |of: [&Images; 4]| {
        let images: Images = [0, 1, 2, 3].map(|place| of[place][place].clone());
        disks(&images)
    };
    let (new, old, other) = (&times.new, &times.old, &times.other);
    let rolled_back = mixed([new, old, new, new]);
    let stale = disks(&times.without_a);
    for mode in ["", "--safe-mode", "--degraded", "--update-stale", "--safe-mode --read-only"] {
        let args = format!("--setup data {mode}");
        let words = Ends::Refused("put back to an earlier state");
        world.case("A was put back to an older image", &rolled_back, &["rolled-back"], &args, &words);
    }
    let mut too_old = stale.clone();
    too_old[1].image.clone_from(&old[1]);
    let words = Ends::Refused("put back to an earlier state");
    world.case(
        "A was away, and is older than it was",
        &too_old,
        &["rolled-back"],
        "--setup data --update-stale",
        &words,
    );
    world.case("A was away", &stale, &["stale"], "--setup data --update-stale", &Ends::Up(&times.without_a_model));
    world.case(
        "the same, read-only",
        &stale,
        &["stale"],
        "--setup data --safe-mode --read-only",
        &Ends::Refused("is stale"),
    );
    for mode in ["", "--safe-mode", "--degraded"] {
        let args = format!("--setup data {mode}");
        world.case("A was away", &stale, &["stale"], &args, &Ends::Refused("is stale"));
        let divergent = mixed([new, other, new, new]);
        world.case("A is divergent", &divergent, &["divergent"], &args, &Ends::Refused("divergent"));
    }
    let last = mixed([new, new, new, other]);
    let forced = "--setup data --update-stale --takeover --degraded";
    world.case("C is divergent", &last, &["divergent"], forced, &Ends::Refused("divergent"));
    let only_new = without(&mixed([new, old, new, new]), "BC");
    world.case("only a stale spare", &only_new, &["incomplete"], "--setup data", &Ends::Refused("is missing"));
    world.case(
        "all as they were",
        &mixed([old, old, old, old]),
        &[],
        "--setup data --safe-mode",
        &Ends::Up(&times.old_model),
    );
    let mut behind = disks(&times.later);
    behind[2].image.clone_from(&times.unclean[2]);
    world.case("one commit behind", &behind, &[], "--setup data --safe-mode", &Ends::Up(&times.model));
    let gone_and_stale = without(&stale, "B");
    let kinds = ["stale", "incomplete"];
    world.case("A is stale and B gone", &gone_and_stale, &kinds, "--setup data --degraded", &Ends::Refused("is stale"));
}

fn identity(world: &mut World, times: &Times) {
    let all = disks(&times.new);
    let up = Ends::Up(&times.model);
    let safe = "--setup data --safe-mode";
    let mut shuffled = all.clone();
    for (place, name) in ["hdA", "hdB", "hdM", "hdC"].iter().enumerate() {
        shuffled[place].name = (*name).into();
    }
    world.case("names shuffled", &shuffled, &[], safe, &up);
    let turned: Vec<Disk> = all.iter().rev().cloned().collect();
    world.case("on another bus", &turned, &[], safe, &up);
    let mut nameless = all.clone();
    nameless[0].serial = None;
    world.case(
        "main without a serial",
        &nameless,
        &["main-unproven"],
        "--setup data",
        &Ends::Refused("cannot be proven"),
    );
    world.case("the same, named", &nameless, &["main-unproven"], "--setup data --main /dev/mapper/hdM", &up);
    let args = "--setup data --safe-mode --main /dev/mapper/hdM";
    world.case("the same in safe mode", &nameless, &["main-unproven"], args, &Ends::Refused("safe mode"));
    let mut replaced = all.clone();
    replaced[0].serial = Some("TESTDISK-X".into());
    world.case("main replaced", &replaced, &["main-missing"], "--setup data", &Ends::Refused("is not here"));
    let args = "--setup data --main /dev/mapper/hdM";
    world.case("the same, named", &replaced, &["main-missing"], args, &Ends::Refused("is not the main of"));
    let mut cloned = all.clone();
    cloned.push(Disk { name: "copy".into(), serial: Some("TESTDISK-Y".into()), ..all[0].clone() });
    world.case("a clone of main beside it", &cloned, &[], safe, &up);
    let mut only_clone = cloned.clone();
    only_clone.remove(0);
    world.case("only a clone of main", &only_clone, &["main-missing"], safe, &Ends::Refused("is not here"));
    for (what, sectors) in [("grown", MAIN_SECTORS + 8), ("shrunk", MAIN_SECTORS - 8)] {
        let mut resized = all.clone();
        resized[0].sectors = sectors;
        world.case(&format!("main has {what}"), &resized, &["main-missing"], safe, &Ends::Refused("size is"));
        let args = "--setup data --main /dev/mapper/hdM";
        world.case(&format!("main has {what}"), &resized, &["main-missing"], args, &Ends::Refused("size is"));
    }
    let mut read_only = all.clone();
    read_only[0].options = "--readonly";
    world.case("main refuses writes", &read_only, &["read-only"], safe, &Ends::Refused("is read-only"));
    let paths = world.place(&all);
    sh("dmsetup create user --table '0 8 linear /dev/mapper/hdM 0'");
    world.judge("main is in use", &paths, &["in-use"], safe, &Ends::Refused("held by"));
}

fn spares_on_other_devices(world: &mut World, times: &Times) {
    let all = disks(&times.new);
    let up = Ends::Up(&times.model);
    let mut cloned = all.clone();
    cloned.push(Disk { name: "copy".into(), serial: Some("TESTDISK-Z".into()), ..all[2].clone() });
    for mode in ["--setup data", "--setup data --safe-mode", "--auto"] {
        world.case("a clone of B", &cloned, &["cloned-spare"], mode, &Ends::Refused("cloned"));
    }
    world.case("the same, one named", &cloned, &["cloned-spare"], "--setup data --device /dev/mapper/hdB", &up);
    let args = "--setup data --safe-mode --device /dev/mapper/hdB";
    world.case("the same in safe mode", &cloned, &["cloned-spare"], args, &Ends::Refused("which was named"));
    // A snapshot of B from before the last commit: naming it makes no newer one of it.
    let mut snapshot_of_b = cloned.clone();
    snapshot_of_b[4].image.clone_from(&times.unclean[2]);
    let refused = Ends::Refused("put back to an earlier state");
    let args = "--setup data --device /dev/mapper/copy";
    world.case("an older clone of B, named", &snapshot_of_b, &["cloned-spare"], args, &refused);
    let args = "--setup data --main /dev/mapper/hdB";
    world.case("a spare named as main", &all, &[], args, &Ends::Refused("is not the main"));
    let mut nameless = all.clone();
    nameless[3].serial = None;
    let kinds = ["spare-unproven"];
    world.case("C without a serial", &nameless, &kinds, "--setup data", &Ends::Refused("another device"));
    world.case("the same, named", &nameless, &kinds, "--setup data --device /dev/mapper/hdC", &up);
    let args = "--setup data --safe-mode --device /dev/mapper/hdC";
    world.case("the same in safe mode", &nameless, &kinds, args, &Ends::Refused("another device"));
    let mut other = all.clone();
    other[1].serial = Some("TESTDISK-W".into());
    world.case("A on another disk", &other, &kinds, "--setup data --safe-mode", &Ends::Refused("another device"));
    let mut small = all.clone();
    small[1].sectors -= 8;
    world.case("A has shrunk", &small, &["unfit", "spare-unproven"], "--setup data", &Ends::Refused("sectors"));
    let mut blank = all.clone();
    blank[1].image.fill(0);
    world.case("A is blank", &blank, &["incomplete"], "--setup data", &Ends::Refused("is missing"));
    let mut read_only = all.clone();
    read_only.iter_mut().for_each(|disk| disk.options = "--readonly");
    world.case("all refuse writes", &read_only, &["read-only"], "--setup data", &Ends::Refused("is read-only"));
    let paths = world.place(&read_only);
    let names: Vec<&str> = paths.iter().map(String::as_str).collect();
    let before = snapshot(&names);
    tool("dm-remap-reassemble --setup data --read-only").ok().says(&["read-only"]);
    assert!(Direct::open(SETUP).write(0, &[0; 4096]).is_err());
    for refused in ["remap data 3000", "restore data --all", "destroy data --discard-extents"] {
        dm_remap(refused).exits(4).complains(&["read-only"]);
    }
    world.compare(&times.model, &[], "read-only");
    assert_eq!(before.changes(&snapshot(&names)), "");
    world.cases += 1;
}

fn marks_and_names(world: &mut World, times: &Times) {
    let up = Ends::Up(&times.model);
    let elsewhere = disks(&times.elsewhere);
    let kinds = ["active-elsewhere"];
    for mode in ["", "--safe-mode", "--degraded"] {
        let args = format!("--setup data {mode}");
        world.case("active elsewhere", &elsewhere, &kinds, &args, &Ends::Refused("another machine"));
    }
    world.case("the same, taken over", &elsewhere, &kinds, "--setup data --takeover", &up);
    world.case("not put down", &disks(&times.unclean), &[], "--setup data --safe-mode", &up);
    let paths = world.place(&disks(&times.new));
    sh("dmsetup create data --table '0 8 zero'");
    world.judge("the name is taken", &paths, &[], "--setup data", &Ends::Refused("is taken"));
    let paths = world.place(&disks(&times.new));
    tool("dm-remap-reassemble --setup data --safe-mode").ok();
    world.forget();
    world.judge("it is up", &paths, &["active"], "--setup data", &Ends::Refused("is active already"));
    // As a command leaves it that was killed between the two (guest_inject, seed 1, fault 48).
    let by_spare = format!("dm-remap activate --spare {}", paths[1]);
    for again in ["dm-remap-reassemble --setup data", &by_spare] {
        sh("rm /dev/mapper/data");
        // It is not what these ask for.
        for other in ["--read-only", "--rename other"] {
            tool(&format!("dm-remap-reassemble --setup data {other}")).exits(4).complains(&["is active already"]);
        }
        tool(&format!("{again} --dry-run")).exits(4).complains(&["is active already"]);
        tool(again).ok().says(&["was up already, without its node"]);
        assert_eq!(Direct::open(SETUP).differences(&times.model.content), Vec::<u64>::new());
    }
    dm_remap("deactivate data").ok();
    let mut one_away = disks(&times.new);
    one_away[1].image.fill(0);
    world.place(&one_away);
    tool("dm-remap-reassemble --setup data --degraded").exits(3);
    world.forget();
    let ran = dm_remap("destroy data --discard-extents").exits(3);
    ran.says(&["is dissolved", "Spare 0 is away", "old metadata"]);
    let args = "--setup data --rename no/name";
    world.case("a bad name", &disks(&times.new), &[], args, &Ends::Refused("cannot be a name"));
    let paths = world.place(&disks(&times.new));
    let names: Vec<&str> = paths.iter().map(String::as_str).collect();
    let before = snapshot(&names);
    tool("dm-remap-reassemble --setup data --dry-run").ok().says(&["would bring up 'data'", "12 extents"]);
    assert_eq!(before.changes(&snapshot(&names)), "");
    tool("dm-remap-reassemble --setup data --rename other").ok();
    world.forget();
    assert_eq!(Direct::open("/dev/mapper/other").differences(&times.model.content), Vec::<u64>::new());
    dm_remap("deactivate other").ok();
    tool("dm-remap-reassemble --setup data").exits(1);
    tool("dm-remap-reassemble --setup other --rename data").ok();
    world.compare(&times.model, &[], "renamed");
    world.cases += 3;
}

fn changed_main(world: &mut World, times: &Times) {
    // At the start of main, which extent 0 covers, and between extents.
    for (what, at) in [("under an extent", 0), ("beside an extent", 168), ("in a superblock", 128)] {
        let mut changed = disks(&times.new);
        changed[0].image[at as usize * 512..][..4096].fill(0x77);
        let kinds = ["main-changed"];
        for mode in ["", "--safe-mode", "--degraded --takeover"] {
            let args = format!("--setup data {mode}");
            world.case(
                &format!("main written {what}"),
                &changed,
                &kinds,
                &args,
                &Ends::Refused("behind the setup's back"),
            );
        }
        let mut model = times.model.clone();
        let served = model.on(&[0, 1, 2]);
        for sector in (at..at + 8).filter(|sector| !served.contains(sector)) {
            model.content[sector as usize * 512..][..512].fill(0x77);
        }
        let args = "--setup data --accept-changed-main";
        world.case(&format!("main written {what}"), &changed, &kinds, args, &Ends::Up(&model));
    }
    // Under an extent it is seen also after a power cut.
    let mut cut = disks(&times.unclean);
    cut[0].image[..4096].fill(0x77);
    let refused = Ends::Refused("behind the setup's back");
    world.case("main written under an extent, after a power cut", &cut, &["main-changed"], "--setup data", &refused);
}

#[test]
fn two_partitions_with_one_uuid_are_not_told_apart() {
    let Some(guest) = Guest::begin() else { return };
    let label = "label: gpt\\nstart=2048, size=4096, uuid=11111111-2222-3333-4444-555555555555\\n";
    let file = |name: &str| format!("/tmp/mnt/{name}");
    let attach = |name: &str| sh(&format!("losetup -P -f --show {}", file(name))).trim().to_string();
    sh(&format!("truncate -s 4M {} && printf '{label}' | sfdisk -q {}", file("one"), file("one")));
    let main = format!("{}p1", attach("one"));
    let spare = guest.disks[0].clone();
    dm_remap(&format!("create data --main {main} --spare {spare}")).ok();
    dm_remap("remap data 100").ok();
    dm_remap("deactivate data").ok();
    // One is main.
    tool("dm-remap-reassemble --setup data --safe-mode --dry-run").ok().says(&[&main]);
    sh(&format!("cp {} {}", file("one"), file("two")));
    let two = format!("{}p1", attach("two"));
    let before = snapshot(&[&main, &two, &spare]);
    for args in ["--setup data", "--setup data --safe-mode", "--auto", "--setup data --degraded"] {
        let ran = tool(&format!("dm-remap-reassemble {args}")).exits(4);
        ran.complains(&["is ambiguous", &main, &two]);
    }
    let found = tool("dm-remap-discover --scan-all").exits(3);
    found.says(&["MAIN AMBIGUOUS", "one of several", "partition UUID equal"]);
    assert_eq!(before.changes(&snapshot(&[&main, &two, &spare])), "");
    tool(&format!("dm-remap-reassemble --setup data --main {main}")).ok();
    dm_remap("deactivate data").ok();
}

#[test]
fn a_device_that_hangs_delays_only_itself() {
    let Some(guest) = Guest::begin() else { return };
    let (main, spare) = (guest.disks[0].clone(), guest.disks[1].clone());
    dm_remap(&format!("create data --main {main} --spare {spare}")).ok();
    dm_remap("deactivate data").ok();
    // Two that answer after a long while.
    for (name, disk) in [("slow1", &guest.disks[2]), ("slow2", &guest.disks[3])] {
        sh(&format!("dmsetup create {name} --table '0 16384 delay {disk} 0 9000'"));
    }
    let ran = tool("dm-remap-discover --scan-all --timeout 2s --json").exits(3);
    let json = ran.json();
    assert_eq!(json["setups"][0]["name"], "data", "{json:#}");
    let passed = json["passed_over"].as_array().unwrap().iter().filter(|p| p["failed"] == true);
    let why: Vec<&str> = passed.map(|p| p["why"].as_str().unwrap()).collect();
    assert_eq!(why, ["it did not answer within 2s"; 2], "{json:#}");
    // Nobody keeps its output open, and nobody waits for it.
    let script = "$DMR discover --scan-all --timeout 1s 2>/dev/null | cat >/dev/null; pgrep -c dm-remap";
    let left = shell(script).out;
    assert!(left.trim().parse::<u32>().unwrap() >= 2, "the reads had ended by themselves: {left}");
    sh(
        "for n in slow1 slow2; do for i in $(seq 300); do dmsetup remove $n 2>/dev/null && break; sleep 0.1; done; done",
    );
    sh("! dmsetup info slow1 2>/dev/null");
}
