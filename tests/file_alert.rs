//! The ways of telling: a program, a mail program and a journal that are made up, and what reaches them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use dm_remap::alert::deliver::{Ways, deliver};
use dm_remap::alert::event::{Alert, Event, Kind};
use dm_remap::alert::{journal, mail};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn event(event: Kind, text: &str) -> Event {
    Event { event, text: text.into(), sectors: Vec::new() }
}

fn alert(events: Vec<Event>) -> Alert {
    Alert {
        version: 1,
        time: 1_795_769_173,
        host: "machine".into(),
        setup: "data".into(),
        uuid: "00000000-0000-0000-0000-000000000007".into(),
        device: "/dev/sda1".into(),
        events,
    }
}

fn script(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn ways() -> Ways {
    Ways { limit: Duration::from_secs(20), ..Ways::default() }
}

/// Takes a native message apart, as the journal does.
fn parsed(mut bytes: &[u8]) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    while !bytes.is_empty() {
        let end = bytes.iter().position(|b| *b == b'\n').unwrap();
        let line = std::str::from_utf8(&bytes[..end]).unwrap();
        let (name, value, rest) = match line.split_once('=') {
            Some((name, value)) => (name, value.to_string(), &bytes[end + 1..]),
            None => {
                let length = u64::from_le_bytes(bytes[end + 1..end + 9].try_into().unwrap());
                let last = end + 9 + usize::try_from(length).unwrap();
                assert_eq!(bytes[last], b'\n');
                (line, String::from_utf8(bytes[end + 9..last].to_vec()).unwrap(), &bytes[last + 1..])
            }
        };
        assert!(name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'), "{name}");
        assert_eq!(out.insert(name.to_string(), value), None, "{name} comes twice");
        bytes = rest;
    }
    out
}

#[test]
fn all_ways_get_the_one_message() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let socket = dir.path().join("journal");
    let journal = UnixDatagram::bind(&socket).unwrap();
    let program =
        script(dir.path(), "hook", &format!("cat >{at}/json; env | grep ^DM_REMAP_ >{at}/env; pwd >{at}/pwd"));
    let sendmail = script(dir.path(), "sendmail", &format!("echo \"$*\" >{at}/args; cat >{at}/mail"));
    let ways =
        Ways { program: Some(program), mail: Some("root@localhost".into()), sendmail, journal: Some(socket), ..ways() };
    let alert = alert(vec![event(Kind::Lost, "1 sector lost"), event(Kind::Bad, "8 sectors moved")]);
    let told = deliver(&ways, &alert);
    assert_eq!(
        told.iter().map(|t| (t.way, t.error.clone())).collect::<Vec<_>>(),
        [("journal", None), ("program", None), ("mail", None)]
    );
    let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(dir.path().join("json")).unwrap()).unwrap();
    assert_eq!((&json["version"], &json["setup"], &json["device"]), (&1.into(), &"data".into(), &"/dev/sda1".into()));
    assert_eq!((&json["events"][0]["event"], &json["events"][1]["event"]), (&"lost".into(), &"bad".into()));
    let env = fs::read_to_string(dir.path().join("env")).unwrap();
    for line in ["DM_REMAP_EVENT=lost", "DM_REMAP_EVENTS=lost bad", "DM_REMAP_SETUP=data", "DM_REMAP_DEVICE=/dev/sda1"]
    {
        assert!(env.lines().any(|l| l == line), "{line} in {env}");
    }
    assert_eq!(fs::read_to_string(dir.path().join("pwd")).unwrap(), "/\n");
    assert_eq!(fs::read_to_string(dir.path().join("args")).unwrap(), "-i root@localhost\n");
    let text = fs::read_to_string(dir.path().join("mail")).unwrap();
    assert_eq!(text, mail::text("root@localhost", &alert));
    let mut buffer = vec![0; 1 << 20];
    let length = journal.recv(&mut buffer).unwrap();
    let fields = parsed(&buffer[..length]);
    assert_eq!(fields["MESSAGE_ID"], Kind::Lost.message_id());
    assert_eq!(fields["PRIORITY"], "3");
    assert_eq!(fields["DM_REMAP_EVENTS"], "lost bad");
    assert_eq!(fields["DM_REMAP_DETAILS"], "lost: 1 sector lost\nbad: 8 sectors moved\n");
    journal.set_nonblocking(true).unwrap();
    assert!(journal.recv(&mut buffer).is_err(), "one message, no more");
}

#[test]
fn no_text_makes_a_header_or_a_field_of_its_own() {
    let mut evil = alert(vec![event(Kind::Bad, "x\r\nBcc: thief@example.org\r\n\r\nbody\u{85}ä")]);
    evil.setup = "a\nSubject: b".into();
    evil.host = "h\nTo: c".into();
    evil.device = "d\nPRIORITY=0\nMESSAGE_ID=0".into();
    let text = mail::text("root", &evil);
    let (headers, body) = text.split_once("\n\n").unwrap();
    let names: Vec<&str> = headers.lines().map(|line| line.split_once(": ").unwrap().0).collect();
    assert_eq!(
        names,
        [
            "Date",
            "From",
            "To",
            "Subject",
            "MIME-Version",
            "Content-Type",
            "Content-Transfer-Encoding",
            "Auto-Submitted",
            "X-DM-Remap-Event"
        ]
    );
    assert!(headers.is_ascii() && !text.contains('\r'));
    assert!(body.contains("device:  d PRIORITY=0 MESSAGE_ID=0\n"), "{body}");
    let fields = parsed(&journal::encode(&journal::fields(&evil, true)));
    assert_eq!(fields["PRIORITY"], "4");
    assert_eq!(fields["DM_REMAP_DEVICE"], evil.device);
}

#[test]
fn a_hundred_kibibytes_of_details_reach_everybody() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let socket = dir.path().join("journal");
    let journal = UnixDatagram::bind(&socket).unwrap();
    let long = "ä".repeat(51_200);
    let program = script(dir.path(), "hook", &format!("cat >{at}/json; printf %s \"$DM_REMAP_DETAILS\" >{at}/details"));
    let sendmail = script(dir.path(), "sendmail", &format!("cat >{at}/mail"));
    let ways = Ways { program: Some(program), mail: Some("root".into()), sendmail, journal: Some(socket), ..ways() };
    let told = deliver(&ways, &alert(vec![event(Kind::Bad, &long)]));
    assert!(told.iter().all(|t| t.error.is_none()), "{told:?}");
    let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(dir.path().join("json")).unwrap()).unwrap();
    assert_eq!(json["events"][0]["text"], long.as_str());
    let details = fs::read_to_string(dir.path().join("details")).unwrap();
    assert!(details.len() > 99_990 && long.starts_with(&details["bad: ".len()..]));
    let mail = fs::read_to_string(dir.path().join("mail")).unwrap();
    assert!(mail.lines().all(|line| line.len() <= 998));
    assert_eq!(mail.matches('ä').count(), 51_200);
    let mut buffer = vec![0; 1 << 20];
    let length = journal.recv(&mut buffer).unwrap();
    assert!(parsed(&buffer[..length])["DM_REMAP_DETAILS"].starts_with("bad: ä"));
}

#[test]
fn a_program_that_hangs_is_killed_with_what_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let hook = script(dir.path(), "hook", &format!("trap '' TERM\nsleep 600 & echo $! >{at}/pid; wait"));
    let begun = Instant::now();
    let told = deliver(
        &Ways { program: Some(hook), limit: Duration::from_millis(500), ..ways() },
        &alert(vec![event(Kind::Bad, "x")]),
    );
    assert!(told[0].error.as_ref().unwrap().contains("was killed"), "{told:?}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    let child = fs::read_to_string(dir.path().join("pid")).unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "it still runs: {stat}");
}

#[test]
fn programs_that_fail_are_told_and_keep_nobody_else_from_being_told() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    // It does not read at all.
    let hook = script(dir.path(), "hook", "exec <&-; exit 7");
    let sendmail = script(dir.path(), "sendmail", &format!("cat >{at}/mail"));
    let ways = Ways {
        program: Some(hook),
        mail: Some("root".into()),
        sendmail,
        journal: Some(dir.path().join("none")),
        ..ways()
    };
    let told = deliver(&ways, &alert(vec![event(Kind::Bad, "x")]));
    assert!(told[0].error.as_ref().unwrap().contains("No such file"), "{told:?}");
    assert!(told[1].error.as_ref().unwrap().ends_with("exit status: 7"), "{told:?}");
    assert_eq!(told[2].error, None);
    assert!(dir.path().join("mail").exists());
    // A closed input with a long message is no failure.
    let deaf = Ways { program: Some(script(dir.path(), "deaf", "exec <&-")), ..self::ways() };
    assert_eq!(deliver(&deaf, &alert(vec![event(Kind::Bad, &"x".repeat(200_000))]))[0].error, None);
    // No shell has its hands in it.
    let none = Ways { program: Some(dir.path().join("hook; touch made")), ..self::ways() };
    assert!(deliver(&none, &alert(vec![event(Kind::Bad, "x")]))[0].error.as_ref().unwrap().starts_with("cannot run"));
}
