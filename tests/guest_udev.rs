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
    for round in 0..5 {
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
