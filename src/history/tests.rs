use super::*;
use proptest::prelude::*;
use std::fs;
use std::path::Path;
use uuid::Uuid;

const DAY: u64 = 86_400;

fn record(time: u64, extents: u64) -> Record {
    Record { time, what: What::Setup(SetupRecord { extents, state: "healthy".into(), ..SetupRecord::default() }) }
}

fn file(directory: &Path) -> std::path::PathBuf {
    directory.join(format!("{}.jsonl", Uuid::nil()))
}

#[test]
fn a_record_is_a_line_that_people_can_read() {
    let text = line(&record(5, 3)).unwrap();
    assert_eq!(
        text,
        "{\"time\":5,\"kind\":\"setup\",\"state\":\"healthy\",\"generation\":0,\"remapped_sectors\":0,\"extents\":3,\
         \"held_sectors\":0,\"lost_sectors\":0,\"room_sectors\":0,\"scan_bad_sectors\":0}"
    );
    assert_eq!(parse(text.as_bytes()), [record(5, 3)]);
    // Fields may come and kinds, too.
    assert_eq!(
        parse(b"{\"time\":5,\"kind\":\"setup\",\"state\":\"healthy\",\"extents\":3,\"more\":[1]}\n"),
        [record(5, 3)]
    );
    assert_eq!(parse(b"{\"time\":5,\"kind\":\"smell\",\"of\":\"smoke\"}\n"), []);
}

#[test]
fn what_is_new_is_recorded_and_the_rest_once_a_day() {
    let dir = tempfile::tempdir().unwrap();
    let at = |time, extents| append(dir.path(), Uuid::nil(), &record(time, extents)).unwrap();
    assert!(at(100, 1));
    assert!(!at(101, 1), "nothing has changed");
    assert!(at(102, 2));
    assert!(!at(102 + 19 * 3600, 2));
    assert!(at(102 + 20 * 3600, 2));
    // The clock was set back a year.
    assert!(at(5, 2));
    let times: Vec<u64> = read(dir.path(), Uuid::nil()).unwrap().iter().map(|record| record.time).collect();
    assert_eq!(times, [100, 102, 102 + 20 * 3600, 5]);
    assert_eq!(read(dir.path(), Uuid::from_u128(1)).unwrap(), []);
}

fn disk(device: &str, hours: u64, pending: u64) -> What {
    let counters = [(crate::smart::Counter::Pending, pending)].into();
    let smart = Smart { power_on_hours: Some(hours), counters, ..Smart::default() };
    What::Disk(DiskRecord { device: device.into(), score: Some(80), smart, ..DiskRecord::default() })
}

#[test]
fn each_disk_has_a_history_of_its_own_and_hours_are_no_news() {
    let dir = tempfile::tempdir().unwrap();
    let at = |time, what| append(dir.path(), Uuid::nil(), &Record { time, what }).unwrap();
    assert!(at(1, disk("main", 100, 0)));
    assert!(at(1, disk("spare0", 100, 0)));
    assert!(!at(2, disk("main", 101, 0)));
    assert!(at(3, disk("main", 101, 8)));
    assert!(!at(4, disk("spare0", 101, 0)));
    let text = fs::read_to_string(file(dir.path())).unwrap();
    let line = "{\"time\":3,\"kind\":\"disk\",\"device\":\"main\",\"score\":80,\"protocol\":\"unknown\",\"power_on_hours\":101,\
                \"counters\":{\"pending\":8}}\n";
    assert!(text.ends_with(line), "{text}");
    assert_eq!(read(dir.path(), Uuid::nil()).unwrap()[2].what, disk("main", 101, 8));
}

#[test]
fn a_cut_off_line_costs_itself_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let append = |time| append(dir.path(), Uuid::nil(), &record(time, time)).unwrap();
    append(1);
    append(2);
    let whole = fs::read(file(dir.path())).unwrap();
    let first = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for length in first..whole.len() {
        // Cut off by a crash, and the blocks after it with what a filesystem may leave there.
        for tail in [&b""[..], &[0; 7]] {
            let mut text = whole[..length].to_vec();
            text.extend_from_slice(tail);
            fs::write(file(dir.path()), text).unwrap();
            append(3);
            let times: Vec<u64> = read(dir.path(), Uuid::nil()).unwrap().iter().map(|record| record.time).collect();
            // Only the end of the line was missing: it is whole.
            let whole_second = length == whole.len() - 1 && tail.is_empty();
            assert_eq!(times, if whole_second { vec![1, 2, 3] } else { vec![1, 3] }, "{length}");
        }
    }
}

/// What a power cut may leave of an append: some of the bytes, with or without zeros where the length came to the disk before the data.
#[test]
fn a_power_cut_at_any_byte_of_an_append_costs_at_most_that_record() {
    let dir = tempfile::tempdir().unwrap();
    let at = |time, what| append(dir.path(), Uuid::nil(), &Record { time, what }).unwrap();
    let seen = || read(dir.path(), Uuid::nil()).unwrap();
    assert!(at(1, disk("main", 100, 0)) && at(2, disk("spare0", 100, 0)) && at(3, record(3, 1).what));
    let (old, before) = (fs::read(file(dir.path())).unwrap(), seen());
    assert!(at(4, disk("main", 101, 8)));
    let (new, all) = (fs::read(file(dir.path())).unwrap(), seen());
    for cut in old.len()..=new.len() {
        for zeros in [0, new.len() - cut] {
            let mut left = new[..cut].to_vec();
            left.resize(cut + zeros, 0);
            fs::write(file(dir.path()), &left).unwrap();
            let whole = cut + 1 >= new.len() && (zeros == 0 || cut == new.len());
            let expected = if whole { &all } else { &before };
            assert_eq!(&seen(), expected, "{cut} of {} to {}, {zeros} zeros", old.len(), new.len());
            // And what comes next is not lost with it.
            let next = Record { time: 5, what: disk("spare0", 102, 16) };
            assert!(append(dir.path(), Uuid::nil(), &next).unwrap());
            assert_eq!(seen().split_last(), Some((&next, expected.as_slice())));
        }
    }
}

#[test]
fn a_power_cut_while_a_file_is_thinned_leaves_the_old_or_the_new() {
    let dir = tempfile::tempdir().unwrap();
    let seen = || read(dir.path(), Uuid::nil()).unwrap();
    let mut full = String::new();
    let mut time = 0;
    while full.len() < usize::try_from(LIMIT).unwrap() {
        full.push_str(&line(&record(time, time)).unwrap());
        full.push('\n');
        time += 3600;
    }
    let (path, aside) = (file(dir.path()), file(dir.path()).with_extension("writing"));
    let newest = record(time, 7);
    let thinned =
        thin(format!("{full}{}\n", line(&newest).unwrap()).as_bytes(), usize::try_from(LIMIT / 2).unwrap(), time);
    for share in 0..=8 {
        // Cut off in the writing of the new file: the old one is in its place, with the record that made it too long.
        fs::write(&path, &full).unwrap();
        fs::write(&aside, &thinned[..thinned.len() * share / 8]).unwrap();
        assert_eq!(seen().len(), full.lines().count());
        assert!(append(dir.path(), Uuid::nil(), &newest).unwrap());
        assert_eq!(fs::read(&path).unwrap(), thinned);
        assert!(!aside.exists() && seen().last() == Some(&newest));
    }
}

#[test]
fn writers_at_the_same_time_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let dir = dir.path();
            scope.spawn(move || {
                for number in 0..50 {
                    assert!(append(dir, Uuid::nil(), &record(1, writer * 100 + number)).unwrap());
                }
            });
        }
    });
    assert_eq!(read(dir.path(), Uuid::nil()).unwrap().len(), 200);
}

#[test]
fn a_file_stays_within_its_bounds_and_keeps_the_distant_past() {
    let dir = tempfile::tempdir().unwrap();
    let now = 4000 * DAY;
    // Ten years, eight records a day: too much by far.
    let mut text = String::new();
    for step in 0..(3650 * 8) {
        text.push_str(&line(&record(now - 3650 * DAY + step * DAY / 8, step)).unwrap());
        text.push('\n');
    }
    text.insert_str(0, "{\"time\":1,\"kind\":\"later\",\"x\":1}\n");
    assert!(text.len() as u64 > LIMIT);
    fs::write(file(dir.path()), &text).unwrap();
    assert!(append(dir.path(), Uuid::nil(), &record(now, 0)).unwrap());
    let text = fs::read(file(dir.path())).unwrap();
    assert!(text.len() as u64 <= LIMIT / 2, "{}", text.len());
    let records = parse(&text);
    assert_eq!(records.last(), Some(&record(now, 0)));
    let ages: Vec<u64> = records.iter().map(|record| (now - record.time) / DAY).collect();
    assert!(ages[0] >= 3640, "the beginning is there: {}", ages[0]);
    let between = |from, to| ages.iter().filter(|age| (from..to).contains(*age)).count();
    assert!((470..=480).contains(&between(365, 3651)), "{}", between(365, 3651));
    assert!((330..=340).contains(&between(30, 365)), "{}", between(30, 365));
    assert!(between(0, 30) >= 240, "{}", between(0, 30));
    assert!(String::from_utf8_lossy(&text).contains("\"later\""), "kinds that are not known stay");
}

#[test]
fn the_last_record_of_each_device_stays_whatever_the_room() {
    let text = "{\"time\":1,\"kind\":\"a\",\"device\":\"x\"}\n{\"time\":2,\"kind\":\"a\",\"device\":\"y\"}\n\
                {\"time\":3,\"kind\":\"a\",\"device\":\"y\"}\nnonsense\n";
    let kept = thin(text.as_bytes(), 10, 4);
    assert_eq!(kept, b"{\"time\":1,\"kind\":\"a\",\"device\":\"x\"}\n{\"time\":3,\"kind\":\"a\",\"device\":\"y\"}\n");
}

proptest! {
    #[test]
    fn whatever_a_file_holds_is_read_and_thinned_without_a_panic(text in proptest::collection::vec(any::<u8>(), 0..300), most in 0usize..400, now in any::<u64>()) {
        let _ = parse(&text);
        let thinned = thin(&text, most, now);
        prop_assert_eq!(thin(&thinned, most, now), thinned);
    }
}
