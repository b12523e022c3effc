//! Alerts, end to end: a scan that finds a bad sector is told of once in each way, and a scan that finds nothing is not.
// guest: --disk 64M --disk 32M
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod guest_support;

use guest_support::*;
use std::fs;
use std::os::unix::net::UnixDatagram;

#[test]
fn a_bad_sector_is_told_of_once_in_each_way() {
    let Some(guest) = Guest::begin() else { return };
    let disk = guest.scsi_debug(8, "");
    fs::create_dir_all("/run/systemd/journal").unwrap();
    let _ = fs::remove_file("/run/systemd/journal/socket");
    let journal = UnixDatagram::bind("/run/systemd/journal/socket").unwrap();
    journal.set_nonblocking(true).unwrap();
    let received = || {
        let mut buffer = vec![0; 1 << 20];
        let mut out = Vec::new();
        while let Ok(length) = journal.recv(&mut buffer) {
            out.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        out
    };
    // The setup must be resumed and free when the program is run: it reads the setup.
    fs::write("/tmp/hook", "#!/bin/sh\ndd if=/dev/mapper/data of=/dev/null count=1 2>/dev/null || exit 1\ncat >>/tmp/told; echo >>/tmp/told\n").unwrap();
    sh("chmod 755 /tmp/hook; : >/tmp/told");
    fs::write("/tmp/alerts.yaml", "defaults:\n  alerts:\n    program: /tmp/hook\n").unwrap();
    let told = || fs::read_to_string("/tmp/told").unwrap().lines().map(String::from).collect::<Vec<_>>();
    let dmc = |line: &str| dm_remap(&format!("--config /tmp/alerts.yaml {line}"));

    dmr(&["create", "data", "--main", &disk.device, "--spare", &guest.disks[1]]).ok();
    assert_eq!((told().len(), received().len()), (0, 0), "a new setup is no news");
    disk.bad(5001, 1);
    dmc("scan data").exits(3);
    let (programs, journals) = (told(), received());
    assert_eq!((programs.len(), journals.len()), (1, 1), "{programs:?} {journals:?}");
    let json: serde_json::Value = serde_json::from_str(&programs[0]).unwrap();
    let kinds: Vec<&str> = json["events"].as_array().unwrap().iter().map(|e| e["event"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["lost", "bad"]);
    assert_eq!(
        (ranges(&json["events"][0]["sectors"]), &json["device"]),
        (vec![(5001, 1)], &disk.device.clone().into())
    );
    assert!(journals[0].contains("DM_REMAP_EVENTS=lost bad\n"), "{}", journals[0]);

    dmc("scan data").ok();
    assert_eq!((told().len(), received().len()), (1, 0), "nothing has changed");
    dmc("alert --test data").ok().says(&["/tmp/hook", "taken"]);
    assert_eq!((told().len(), received().len()), (2, 1));
    sh("printf '#!/bin/sh\\nexit 1\\n' >/tmp/hook");
    dmc("alert --test data").exits(1).says(&["FAILED"]);
    dmr(&["deactivate", "data"]).ok();
}
