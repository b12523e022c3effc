// guest: --disk 64M --disk 64M
//! The page and the history of a real setup: they say what has happened to it, and looking changes nothing.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing)]

mod guest_support;

use guest_support::{Guest, dm_remap, sh, shell};
use serde_json::Value;

/// The text of a page, without its elements.
fn text(page: &str) -> String {
    let body = page.split_once("<body>").expect("a page has a body").1;
    body.split('<').filter_map(|part| part.split_once('>')).map(|(_, text)| text).collect::<Vec<_>>().join("\n")
}

/// The records of the setup; of its disks there are more where smartctl is installed.
fn history() -> Vec<Value> {
    let text = sh("cat /var/lib/dm-remap/history/*.jsonl");
    let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    records.filter(|record| record["kind"] == "setup").collect()
}

fn report(options: &str) -> String {
    dm_remap(&format!("report data --html /tmp/work-report.html {options}")).ok().says(&["/tmp/work-report.html"]);
    sh("cat /tmp/work-report.html")
}

#[test]
fn what_happens_to_a_setup_is_in_its_history_and_on_the_page() {
    let Some(guest) = Guest::begin() else { return };
    let main = guest.scsi_debug(16, "");
    let spare = &guest.disks[0];
    dm_remap(&format!("create data --main {} --spare {spare}", main.device)).ok();
    assert_eq!((history().len(), &history()[0]["kind"], &history()[0]["extents"]), (1, &"setup".into(), &0.into()));

    let fresh = text(&report(""));
    for words in [
        "healthy",
        "Nothing needs to be done.",
        "has never been scanned",
        "Nothing bad is known of it.",
        "no history yet",
        "--enable",
    ] {
        assert!(fresh.contains(words), "no '{words}' in {fresh}");
    }
    sh("mkfs.ext4 -q /dev/mapper/data && mkdir -p /tmp/mnt/report && mount /dev/mapper/data /tmp/mnt/report");
    sh("head -c 3M /dev/urandom >'/tmp/mnt/report/<b>holiday<i>' && sync");
    let physical = sh("filefrag -v '/tmp/mnt/report/<b>holiday<i>' | awk '$1 == \"0:\" { print $4 + 0 }'");
    let block: u64 = physical.trim().trim_end_matches("..").parse().unwrap();
    let block_size: u64 = sh("stat -f -c %S /tmp/mnt/report").trim().parse().unwrap();
    let sector = block * block_size / 512;
    main.bad(sector, 1);

    // Found by a scan from cron; the same run has it in the history.
    dm_remap("stats data --enable").ok();
    dm_remap("scan --cron --rate max").exits(3);
    let last = history().pop().unwrap();
    assert_eq!(
        (&last["state"], &last["lost_sectors"], &last["held_sectors"]),
        (&"attention".into(), &1.into(), &1.into()),
        "{last}"
    );
    assert!(last["extents"].as_u64().unwrap() >= 1 && last["scan_finished"].as_u64().is_some(), "{last}");
    let records = history().len();
    sh("dd if=/dev/mapper/data of=/dev/null bs=1M count=1 iflag=direct status=none");
    let page = report("");
    let seen = text(&page);
    for words in [
        "needs attention",
        "(DMR-08)",
        "dm-remap status data",
        "What was lost",
        "held: reads answer EIO until it is written",
        "/tmp/mnt/report/&lt;b&gt;holiday&lt;i&gt;",
        "sectors on spares, 0 at first and 8 now",
        "lost: 1 sector (512 B)",
        "moved: 8 sectors (4.0 KiB)",
        "as the kernel has counted them",
    ] {
        assert!(seen.contains(words), "no '{words}' in {seen}");
    }
    assert!(page.contains("<use href=\"#l\""), "the picture shows what is lost");
    assert!(!page.contains("<b>holiday"), "a name is text");

    // Looking has changed nothing, and is repeatable but for the time.
    assert_eq!(history().len(), records);
    dm_remap("status data").exits(3);
    dm_remap("report data --html - --json").ok().says(&["<!DOCTYPE html>"]);
    assert_eq!(history().len(), records);
    assert_eq!(sh("stat -c '%a %F' /tmp/work-report.html").trim(), "644 regular file");

    // What is there and is no file is not replaced.
    dm_remap("report data --html /dev/null").exits(2).complains(&["no regular file"]);
    assert_eq!(sh("stat -c %F /dev/null").trim(), "character special file");
    dm_remap("report data --html /tmp/work-none/page.html").exits(1).complains(&["/tmp/work-none/page.html"]);
    dm_remap("report data").exits(2).complains(&["--html"]);
    // A full filesystem leaves the page that was there.
    sh(
        "mkdir -p /tmp/mnt/small && mount -t tmpfs -o size=4k tmpfs /tmp/mnt/small && echo old >/tmp/mnt/small/page.html",
    );
    dm_remap("report data --html /tmp/mnt/small/page.html").exits(1).complains(&["No space left"]);
    assert_eq!(sh("cat /tmp/mnt/small/page.html; ls -A /tmp/mnt/small"), "old\npage.html\n");
    sh("umount /tmp/mnt/small");

    // One that is not up is told of, and does not spoil the others.
    let both = dm_remap("report nothing data --html /tmp/work-report.html").exits(3).complains(&["nothing"]);
    assert_eq!(both.out.trim(), "/tmp/work-report.html");
    let seen = text(&sh("cat /tmp/work-report.html"));
    assert!(seen.contains("could not be looked at") && seen.contains("needs attention"), "{seen}");
    sh("umount /tmp/mnt/report");
    dm_remap("acknowledge data").exits(0);
    dm_remap("deactivate data").ok();
    let none = dm_remap("report --html -").ok().says(&["No setup is up on this machine."]);
    assert!(none.out.ends_with("</html>"), "{}", none.out);
}

#[test]
fn a_setup_that_hangs_holds_nothing_up() {
    let Some(guest) = Guest::begin() else { return };
    let size = sh(&format!("blockdev --getsz {}", guest.disks[1]));
    sh(&format!("dmsetup create below --table '0 {} linear {} 0'", size.trim(), guest.disks[1]));
    dm_remap(&format!("create good --main {} --spare {}", guest.loop_device("8M", ""), guest.loop_device("8M", "")))
        .ok();
    dm_remap(&format!("create slow --main {} --spare /dev/mapper/below", guest.disks[0])).ok();
    sh("dmsetup suspend below");
    let begun = std::time::Instant::now();
    let ended = shell("$DMR report --html /tmp/work-slow.html --timeout 2s --file-search 0");
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    sh("dmsetup resume below");
    ended.exits(3).complains(&["slow: a device of it has not answered in time"]);
    let seen = text(&sh("cat /tmp/work-slow.html"));
    assert!(seen.contains("does not answer") && seen.contains("healthy"), "{seen}");
    dm_remap("deactivate good").ok();
    dm_remap("deactivate slow").ok();
    sh("dmsetup remove below");
}
