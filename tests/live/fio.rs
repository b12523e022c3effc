//! fio with verification, as a load that runs until it is told to end.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// An fio that runs until it is told to end.
#[derive(Debug)]
pub struct Fio {
    child: Child,
    report: String,
}

impl Fio {
    /// Random reads and writes, each read verified. In loops, so that what was written is read again and again.
    pub fn start(name: &str, target: &str, options: &[&str], seconds: u64) -> Fio {
        let report = format!("/tmp/{name}.json");
        let child = Command::new("fio")
            .args([
                &format!("--name={name}"),
                &format!("--filename={target}"),
                &format!("--runtime={seconds}"),
                &format!("--output={report}"),
            ])
            .args([
                "--output-format=json",
                "--direct=1",
                "--rw=randrw",
                "--bs=4k",
                "--verify=crc32c",
                "--verify_fatal=1",
            ])
            // Verification while it runs: every 256 blocks, so that a wrong one is found soon.
            .args(["--verify_backlog=256", "--verify_state_save=0", "--time_based", "--randrepeat=1", "--error_dump=1"])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Fio { child, report }
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Interrupts it, upon which it ends in good order; the number of I/Os and the longest completion latency.
    pub fn interrupt(mut self) -> (u64, Duration) {
        assert!(self.runs(), "fio has ended by itself");
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
        let status = self.child.wait().unwrap();
        let text = std::fs::read_to_string(&self.report).unwrap();
        // 128: it was interrupted, which is how we end it.
        assert!(matches!(status.code(), Some(0 | 128)), "fio: {status}: {text}");
        let json: serde_json::Value = serde_json::from_str(&text[text.find('{').unwrap()..]).unwrap();
        let mut total = 0;
        let mut longest = 0;
        for job in json["jobs"].as_array().unwrap() {
            assert_eq!(job["error"].as_u64(), Some(0), "{text}");
            for direction in ["read", "write"] {
                total += job[direction]["total_ios"].as_u64().unwrap();
                longest = longest.max(job[direction]["clat_ns"]["max"].as_u64().unwrap());
            }
        }
        (total, Duration::from_nanos(longest))
    }
}
