//! A `dm-remap watch` that runs beside a test, and what it says.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use crate::guest_support::{Direct, PROGRAM, ScsiDebug, dm_remap, sh};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub const SETUP: &str = "/dev/mapper/data";

/// Makes the setup `data`.
pub fn create(main: &str, spare: &str) {
    dm_remap(&format!("create data --main {main} --spare {spare} --force-signature")).ok();
}

pub fn generation() -> u64 {
    dm_remap("--json status data").json()["setups"][0]["generation"].as_u64().unwrap()
}

#[derive(Debug)]
pub struct Watching {
    child: Child,
    log: String,
    errors: String,
    /// Lines that `wait` has returned.
    seen: usize,
}

impl Watching {
    /// Starts it, and waits until it says that it watches.
    pub fn begin(args: &[&str]) -> Watching {
        let log = sh("mktemp /tmp/work-watch-XXXXXX").trim().to_string();
        let errors = format!("{log}.err");
        let child = Command::new(&*PROGRAM)
            .args(["--json", "watch"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(File::create(&log).unwrap())
            .stderr(File::create(&errors).unwrap())
            .spawn()
            .unwrap();
        let mut watching = Watching { child, log, errors, seen: 0 };
        watching.wait("begins", Duration::from_secs(10));
        watching
    }

    /// All that it has said.
    pub fn events(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.log).unwrap();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let events: Vec<Value> =
            whole.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{l}: {e}"))).collect();
        assert!(events.iter().all(|e| e["schema_version"] == 1), "{events:#?}");
        events
    }

    /// The next event of a kind.
    #[track_caller]
    pub fn wait(&mut self, kind: &str, limit: Duration) -> Value {
        let begun = Instant::now();
        let mut size = u64::MAX;
        loop {
            let now = fs::metadata(&self.log).unwrap().len();
            if now != size {
                size = now;
                let events = self.events();
                if let Some(at) = (self.seen..events.len()).find(|at| events[*at]["event"] == kind) {
                    self.seen = at + 1;
                    return events[at].clone();
                }
            }
            if begun.elapsed() > limit {
                let errors = fs::read_to_string(&self.errors).unwrap();
                panic!("no '{kind}' within {limit:?}: {:#?}\n{errors}", self.events());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until it has said nothing for a time.
    pub fn quiet(&self, time: Duration) {
        let size = || fs::metadata(&self.log).unwrap().len();
        let (mut last, mut since) = (size(), Instant::now());
        while since.elapsed() < time {
            std::thread::sleep(Duration::from_millis(20));
            if size() != last {
                (last, since) = (size(), Instant::now());
            }
        }
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end: it does so soon, with exit code 0, and leaves nothing behind.
    #[track_caller]
    pub fn ends(&mut self) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGTERM).unwrap();
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < Duration::from_secs(5), "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        let errors = fs::read_to_string(&self.errors).unwrap();
        assert_eq!(status.code(), Some(0), "{errors}");
        assert_eq!(errors, "");
        assert_eq!(self.events().last().unwrap()["event"], "ends");
        assert_eq!(sh("dmsetup info -c --noheadings -o suspended | grep -c Suspended || true").trim(), "0");
        assert_eq!(sh("ls -d /sys/kernel/tracing/instances/dm-remap-* 2>/dev/null | wc -l").trim(), "0");
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a sector bad, reads it through the setup, and takes the time from before that read until it is spliced.
#[track_caller]
pub fn splice_time(watch: &mut Watching, disk: &ScsiDebug, sector: u64) -> Duration {
    disk.bad(sector, 1);
    let setup = Direct::open(SETUP);
    let begun = Instant::now();
    assert_eq!(setup.read(sector, 1).err(), Some(nix::errno::Errno::ENODATA));
    let event = watch.wait("remapped", Duration::from_secs(20));
    let taken = begun.elapsed();
    // Now the spare answers.
    assert_eq!(setup.read(sector, 1).err(), Some(nix::errno::Errno::EIO));
    assert_eq!(event["bad"][0]["start"], sector, "{event}");
    taken
}
