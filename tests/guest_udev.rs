//! /dev/mapper/NAME with a udev that works and with one that does not answer. (Without any udev: every other guest test.)
//!
//! ```text
//! scripts/guest --udev --disk 16M … --env DM_REMAP_GUEST=1 -- target/debug/deps/guest_udev-… --test-threads=1
//! ```
// guest: --udev --disk 16M --disk 24M --disk 24M --disk 16M
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod live;

use live::{Setup, disk, dm_remap, in_guest, must, processes, sectors};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn setup() -> Setup {
    let main = disk(0);
    Setup { name: "udev".into(), sectors: sectors(&main), main, spares: vec![disk(1), disk(2)] }
}

/// Whether udev runs; without it there is nothing to see here.
fn udev() -> bool {
    if !in_guest() {
        return false;
    }
    let there = Path::new("/run/udev/control").exists();
    if !there {
        println!("skipped: no udev here");
    }
    there
}

/// The device number that a path in /dev leads to.
fn leads_to(path: &Path) -> Option<String> {
    path.exists().then(|| live::devno(path))
}

/// All links below /dev/disk that lead to the device.
fn links_to(devno: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for dir in std::fs::read_dir("/dev/disk").into_iter().flatten().flatten() {
        for link in std::fs::read_dir(dir.path()).into_iter().flatten().flatten() {
            if leads_to(&link.path()).is_some_and(|d| d == devno) {
                found.push(link.path());
            }
        }
    }
    found
}

fn number(name: &str) -> String {
    must("dmsetup", &["info", "-c", "--noheadings", "--separator", ":", "-o", "major,minor", name]).trim().to_string()
}

/// Whether udev made the node: then it is a link, and ours would be a device.
fn is_link(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|m| m.is_symlink())
}

#[test]
fn a_live_udev_makes_and_removes_the_node() {
    if !udev() {
        return;
    }
    let setup = setup();
    let node = setup.node();
    let main = setup.main.to_str().unwrap();
    must("mkfs.ext4", &["-q", "-F", "-L", "on-the-setup", main]);
    let begun = Instant::now();
    let made = dm_remap(&setup.create_args()).expect(&[0]);
    // Right after the command.
    assert_eq!(leads_to(&node), Some(number("udev")), "{made:?}");
    assert!(is_link(&node), "udev did not make {}", node.display());
    assert!(!made.err.contains("udev"), "{made:?}");
    println!("create took {:?}", begun.elapsed());
    for round in 0..2 {
        setup.command("remap", &["96+8", "1000+24"]).expect(&[0]);
        setup.command("restore", &["--all"]).expect(&[0]);
        assert_eq!(leads_to(&node), Some(number("udev")), "round {round}");
        setup.command("deactivate", &[]).expect(&[0]);
        assert!(node.symlink_metadata().is_err(), "round {round}");
        let up = setup.command("activate", &["--main", main]).expect(&[0]);
        assert_eq!(leads_to(&node), Some(number("udev")), "round {round}: {up:?}");
        assert!(is_link(&node) && !up.err.contains("udev"), "{up:?}");
    }
    must("udevadm", &["settle"]);
    // The setup is found by what is on it; what is private is not.
    let links = links_to(&number("udev"));
    let has = |what: &str| links.iter().any(|l| l.to_string_lossy().contains(what));
    assert!(has("by-id/dm-name-udev"), "{links:?}");
    // Main has the same label: which of the two gets the link is up to udev's priorities.
    let label = Path::new("/dev/disk/by-label/on-the-setup");
    println!("{} leads to {}", label.display(), label.canonicalize().unwrap().display());
    for private in ["udev-spare0", "udev-spare1"] {
        assert_eq!(links_to(&number(private)), Vec::<PathBuf>::new());
    }
    println!("links to the setup: {links:?}");
    setup.destroy();
    assert!(node.symlink_metadata().is_err());
    for private in ["udev-spare0", "udev-spare1"] {
        assert!(Path::new("/dev/mapper").join(private).symlink_metadata().is_err(), "{private}");
    }
    no_cookies_left();
}

/// No semaphore of a wait for udev is left.
fn no_cookies_left() {
    let list = std::fs::read_to_string("/proc/sysvipc/sem").unwrap();
    let cookies = list.lines().skip(1).filter(|line| {
        let key: Option<i64> = line.split_whitespace().next().and_then(|k| k.parse().ok());
        key.is_some_and(|key| (key >> 16) & 0xFFFF == 0x0D4D)
    });
    assert_eq!(cookies.count(), 0, "{list}");
}

/// What udev knows of a device.
fn properties(device: &str) -> String {
    must("udevadm", &["settle"]);
    must("udevadm", &["info", "--query=property", device])
}

/// Puts the rules of the package where udev looks for them, and a writable /etc over the guest's own.
fn install_rules() {
    std::fs::create_dir_all("/run/udev/rules.d").unwrap();
    let program = live::program();
    for name in ["59-dm-remap.rules", "61-dm-remap.rules"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/udev").join(name);
        let rules = std::fs::read_to_string(path).unwrap().replace("/usr/sbin/dm-remap ", &format!("{program} "));
        let rules = rules.replace("\"/usr/sbin/dm-remap\"", &format!("\"{program}\""));
        std::fs::write(Path::new("/run/udev/rules.d").join(name), rules).unwrap();
    }
    for folder in ["/tmp/etc", "/tmp/work"] {
        std::fs::create_dir_all(folder).unwrap();
    }
    let options = "lowerdir=/etc,upperdir=/tmp/etc,workdir=/tmp/work";
    must("mount", &["-t", "overlay", "-o", options, "overlay", "/etc"]);
    must("udevadm", &["control", "--reload"]);
}

#[test]
fn what_belongs_to_a_setup_is_hidden_and_it_comes_up_by_itself() {
    if !udev() {
        return;
    }
    install_rules();
    // udev has the setup open while its rules run, and they run slowly here.
    let run = |args: &[&str], code: i32| {
        must("udevadm", &["settle"]);
        dm_remap(args).expect(&[code]).out
    };
    // A partition has a stable name, which a disk of this guest has not.
    let table = "label: dos\nlabel-id: 0x5ca1ab1e\nstart=2048, type=83\n";
    must("sh", &["-c", &format!("printf '{table}' | sfdisk -q {}", disk(0).display())]);
    must("udevadm", &["settle"]);
    let main = format!("{}1", disk(0).display());
    must("mkfs.ext4", &["-q", "-F", "-L", "hidden", &main]);
    must("udevadm", &["trigger", "--settle", &main]);
    assert!(properties(&main).contains("ID_FS_TYPE=ext4"));
    let file = "/tmp/spare.img";
    std::fs::File::create(file).unwrap().set_len(16 << 20).unwrap();
    let attach = || must("losetup", &["--find", "--show", file]).trim().to_string();
    let (spare, late) = (disk(1).to_str().unwrap().to_string(), attach());
    run(&["create", "udev", "--main", &main, "--spare", &spare, &late], 0);
    run(&["remap", "udev", "96+8", "4000+8"], 0);
    let number = number("udev");
    // While it is up.
    let label = Path::new("/dev/disk/by-label/hidden");
    let hidden = |what: &str| {
        let main = properties(&main);
        for line in ["ID_FS_TYPE=dm_remap_main", "SYSTEMD_READY=0", "UDISKS_IGNORE=1"] {
            assert!(main.lines().any(|l| l == line), "{what}: {line} is missing:\n{main}");
        }
        assert!(!main.contains("by-uuid") && !main.contains("by-label") && !main.contains("hidden"), "{what}: {main}");
    };
    hidden("up");
    assert_eq!(leads_to(label).as_deref(), Some(&*number), "the filesystem is the setup's");
    let found = properties(&spare);
    assert!(found.contains("ID_FS_TYPE=dm_remap_spare") && found.contains("UDISKS_IGNORE=1"), "{found}");
    let setup = found.lines().find_map(|line| line.strip_prefix("DM_REMAP_SETUP=")).unwrap().to_string();
    let uuid_link = PathBuf::from(format!("/dev/disk/by-id/dm-remap-uuid-{setup}"));
    for link in [&uuid_link, Path::new("/dev/disk/by-id/dm-remap-name-udev")] {
        assert_eq!(leads_to(link).as_deref(), Some(&*number), "{}", link.display());
    }
    for private in ["udev-spare0", "udev-spare1"] {
        assert_eq!(links_to(&self::number(private)), Vec::<PathBuf>::new());
    }
    let shown = must("lsblk", &["-rno", "FSTYPE", &main, &spare]);
    assert!(shown.contains("dm_remap_main") && shown.contains("dm_remap_spare"), "{shown}");
    // While it is down: main is on record.
    run(&["deactivate", "--all"], 0);
    must("udevadm", &["trigger", "--action=add", "--settle", &main]);
    hidden("down");
    assert!(!label.exists());
    // One spare is late.
    must("losetup", &["-d", &late]);
    must("udevadm", &["settle"]);
    let waits = run(&["reassemble", "--incremental", &spare], 0);
    assert!(waits.contains("waits") && !Path::new("/dev/mapper/udev").exists(), "{waits}");
    let refused = dm_remap(&["reassemble", "--last-resort", &setup]).expect(&[4]);
    assert!(refused.err.contains("spare"), "{refused:?}");
    let late = attach();
    let up = run(&["reassemble", "--incremental", &late], 0);
    assert!(up.contains("is up"), "{up}");
    assert_eq!(run(&["reassemble", "--last-resort", &setup], 0), "");
    // It never comes, and the configuration permits that.
    run(&["deactivate", "udev"], 0);
    must("losetup", &["-d", &late]);
    let config = "/tmp/degraded.yaml";
    std::fs::write(config, "setups:\n  udev:\n    boot:\n      incomplete: degraded\n").unwrap();
    run(&["--config", config, "reassemble", "--last-resort", &setup], 3);
    run(&["deactivate", "udev"], 0);
    std::fs::write(config, "defaults:\n  boot:\n    activate: false\n").unwrap();
    run(&["--config", config, "reassemble", "--boot"], 0);
    assert!(!Path::new("/dev/mapper/udev").exists(), "boot.activate says no");
    // Dissolved, main is an ordinary disk again.
    let late = attach();
    run(&["activate", "udev", "--update-stale"], 0);
    run(&["destroy", "udev", "--merge-back"], 0);
    assert!(properties(&main).contains("ID_FS_TYPE=ext4"), "{}", properties(&main));
    assert!(label.exists() && std::fs::read_dir("/etc/dm-remap/mains").unwrap().count() == 0);
    assert!(!properties(&spare).contains("dm_remap"), "{}", properties(&spare));
    must("losetup", &["-d", &late]);
    must("wipefs", &["-aq", disk(0).to_str().unwrap()]);
    // The other tests count processes of ours, and the rules start some.
    std::fs::remove_dir_all("/run/udev/rules.d").unwrap();
    must("udevadm", &["control", "--reload"]);
    must("udevadm", &["settle"]);
    must("umount", &["/etc"]);
}

/// Stops all of udev while it lives.
struct Stopped(Vec<i32>);

impl Stopped {
    fn now() -> Stopped {
        let pids = [processes("systemd-udevd"), processes("(udev-worker)")].concat();
        assert!(!pids.is_empty(), "no udevd");
        pids.iter().for_each(|pid| kill(Pid::from_raw(*pid), Signal::SIGSTOP).unwrap());
        Stopped(pids)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGCONT);
        }
    }
}

#[test]
fn a_udev_that_does_not_answer_holds_nobody_up_for_ever() {
    if !udev() {
        return;
    }
    let setup = setup();
    let node = setup.node();
    let limit = Duration::from_secs(40);
    let stopped = Stopped::now();
    let begun = Instant::now();
    let made = dm_remap(&setup.create_args()).expect(&[0]);
    println!("create with a stopped udev took {:?}: {}", begun.elapsed(), made.err.trim());
    assert!(begun.elapsed() < limit);
    assert!(made.err.contains("udev did not answer"), "{made:?}");
    assert_eq!(leads_to(&node), Some(number("udev")));
    // A move asks nothing of udev: the window must not wait for it.
    let begun = Instant::now();
    setup.command("remap", &["96+8"]).expect(&[0]);
    println!("remap with a stopped udev took {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(5));
    let begun = Instant::now();
    setup.command("deactivate", &[]).expect(&[0]);
    println!("deactivate with a stopped udev took {:?}", begun.elapsed());
    assert!(begun.elapsed() < limit);
    assert!(node.symlink_metadata().is_err());
    no_cookies_left();
    drop(stopped);
    // Late answers to old events harm nothing that is made now.
    let up = setup.command("activate", &["--main", setup.main.to_str().unwrap()]).expect(&[0]);
    assert_eq!(leads_to(&node), Some(number("udev")), "{up:?}");
    must("udevadm", &["settle"]);
    assert_eq!(leads_to(&node), Some(number("udev")));
    setup.destroy();
    must("udevadm", &["settle"]);
    assert!(node.symlink_metadata().is_err());
}

#[test]
fn without_udev_the_node_is_made_and_removed_by_us() {
    if !in_guest() {
        return;
    }
    // As on a machine without udev: its control socket is gone, and nobody listens.
    let control = Path::new("/run/udev/control");
    let aside = Path::new("/run/udev/control.aside");
    let stopped = control.exists().then(Stopped::now);
    if stopped.is_some() {
        std::fs::rename(control, aside).unwrap();
    }
    let setup = setup();
    let node = setup.node();
    let begun = Instant::now();
    let made = dm_remap(&setup.create_args()).expect(&[0]);
    assert!(begun.elapsed() < Duration::from_secs(10) && !made.err.contains("udev"), "{made:?}");
    assert!(!is_link(&node));
    assert_eq!(leads_to(&node), Some(number("udev")));
    setup.command("deactivate", &[]).expect(&[0]);
    assert!(node.symlink_metadata().is_err());
    setup.command("activate", &["--main", setup.main.to_str().unwrap()]).expect(&[0]);
    assert_eq!(leads_to(&node), Some(number("udev")));
    setup.destroy();
    assert!(node.symlink_metadata().is_err());
    if stopped.is_some() {
        std::fs::rename(aside, control).unwrap();
    }
}
