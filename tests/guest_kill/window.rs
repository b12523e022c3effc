//! What goes on between SUSPEND and RESUME, and what signals do there.

use crate::campaign::{Campaign, Way};
use crate::live::{dm_remap, nobody_left, process_field, program, run, wait_for};
use crate::strace::{Call, Held, parse, trace, window};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long a command is held inside the window, to look at it. An emulated processor takes its time.
fn hold_time() -> Duration {
    let emulated = std::env::var("GUEST_KERNEL").is_ok_and(|kernel| kernel == "qemu");
    Duration::from_millis(if emulated { 8000 } else { 3000 })
}

fn send(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
}

/// The points at which a command that moves `way` is suspended.
fn suspended_points(campaign: &Campaign, way: Way) -> Vec<Call> {
    let (ended, calls) = trace(&campaign.args(way));
    ended.expect(&[0, 3]);
    calls[window(&calls)].to_vec()
}

/// Starts a move and holds it at a point of its window; the command and its guardian. Under load a run may make more
/// calls than the one that the point was taken from, so that it is held elsewhere: then it is let go, and tried again.
fn hold(campaign: &Campaign, point: &Call, way: Way) -> Option<(Held, i32)> {
    for _ in 0..6 {
        let held = Held::start(point, hold_time(), &campaign.args(way));
        // How long it takes to get there depends on the machine, and says nothing.
        wait_for(Duration::from_secs(60), || campaign.setup.suspended() || held.is_over());
        let seen = Instant::now();
        std::thread::sleep(Duration::from_millis(50));
        if let Some(guardian) = held.guardian()
            && campaign.setup.suspended()
            && seen.elapsed() < hold_time() / 4
        {
            return Some((held, guardian));
        }
        held.end();
        nobody_left();
        campaign.forgive_gap();
        campaign.complete(if way == Way::There { Way::Back } else { Way::There }, campaign.moved());
    }
    println!("never held at {}({})", point.name, point.nth);
    None
}

/// Holds a move at a flush of its window. Where in its course that is varies with the load: it is looked for anew when
/// it was not met.
fn hold_at_flush(campaign: &Campaign) -> (Held, i32) {
    for _ in 0..4 {
        let points = suspended_points(campaign, Way::There);
        campaign.move_on(Way::Back);
        let point = points.iter().find(|c| c.name == "fdatasync").expect("no fdatasync");
        if let Some(held) = hold(campaign, point, Way::There) {
            return held;
        }
    }
    panic!("never held")
}

/// Nothing may be called that could need memory or a file: the root filesystem may lie on the device.
pub fn what_is_called_while_suspended(campaign: &Campaign) {
    for way in [Way::There, Way::Back] {
        let file = "/tmp/trace-f";
        let program = program();
        let all: Vec<&str> = ["-f", "-o", file, &program].into_iter().chain(campaign.args(way)).collect();
        run("strace", &all).expect(&[0, 3]);
        let text = std::fs::read_to_string(file).unwrap();
        let command = text.split_whitespace().next().unwrap().to_string();
        let of = |pid_wanted: bool| -> String {
            let lines = text.lines().filter_map(|line| {
                let (pid, call) = line.split_once(' ')?;
                // A call that strace had to interrupt counts where it begins.
                ((pid == command) == pid_wanted && !call.trim_start().starts_with("<...")).then(|| call.trim_start())
            });
            lines.collect::<Vec<_>>().join("\n")
        };
        let calls = parse(&of(true));
        let inside = &calls[window(&calls)];
        let names: BTreeSet<&str> = inside.iter().map(|c| &*c.name).collect();
        // Commits to several spares are made by AIO, in the process that made its context.
        let allowed = BTreeSet::from([
            "pread64",
            "pwrite64",
            "fdatasync",
            "fsync",
            "ioctl",
            "io_submit",
            "io_getevents",
            "getpid",
        ]);
        assert!(
            names.is_subset(&allowed),
            "{:#?}",
            inside.iter().filter(|c| !allowed.contains(&*c.name)).collect::<Vec<_>>()
        );
        for call in inside.iter().filter(|c| c.name == "ioctl") {
            let fine = ["DM_DEV_SUSPEND", "DM_DEV_STATUS", "DM_TARGET_MSG", "DM_TABLE_CLEAR"];
            assert!(fine.iter().any(|f| call.text.contains(f)), "{call:?}");
        }
        let position = |what: &dyn Fn(&Call) -> bool| calls.iter().position(what);
        let fork = position(&|c| c.name.starts_with("clone") || c.name == "fork").expect("no fork");
        let lock = position(&|c| c.name == "mlockall").expect("no mlockall");
        let suspend = position(&Call::suspends).unwrap();
        assert!(fork < lock && lock < suspend, "fork {fork}, mlockall {lock}, suspend {suspend}");
        let guardian = parse(&of(false));
        let idle: BTreeSet<&str> = guardian.iter().map(|c| &*c.name).collect();
        let allowed = BTreeSet::from([
            "set_robust_list",
            "rseq",
            "close",
            "setsid",
            "prctl",
            "mlockall",
            "write",
            "poll",
            "clock_gettime",
            "exit_group",
            "munmap",
            "gettid",
            "fcntl",
        ]);
        assert!(idle.is_subset(&allowed), "the guardian calls {idle:?}");
        println!("{way:?}: {} calls while suspended, {names:?}; the guardian: {idle:?}", inside.len());
        campaign.forgive_gap();
        campaign.right("after a traced move");
    }
}

/// Guardian and command have their memory locked; the guardian holds the lock until it is done.
pub fn what_the_guardian_is(campaign: &Campaign) {
    let (held, guardian) = hold_at_flush(campaign);
    for pid in [held.pid, guardian] {
        let locked = process_field(pid, "VmLck").unwrap_or_default();
        let kib: u64 = locked.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let resident = process_field(pid, "VmRSS").unwrap_or_default();
        println!("process {pid}: {locked} locked, {resident} resident");
        assert!(kib > 1000, "{locked}");
    }
    let busy = dm_remap(&["remap", "kill", "20000"]).expect(&[4]);
    assert!(busy.err.contains(&held.pid.to_string()), "{busy:?}");
    // A stopped guardian cannot settle it, and keeps the lock although the command is dead.
    send(guardian, Signal::SIGSTOP);
    send(held.pid, Signal::SIGKILL);
    held.end();
    assert!(campaign.setup.suspended());
    dm_remap(&["remap", "kill", "20000"]).expect(&[4]);
    dm_remap(&["recover", "kill"]).expect(&[4]);
    campaign.forgive_gap();
    let begun = Instant::now();
    send(guardian, Signal::SIGCONT);
    assert!(wait_for(Duration::from_secs(2), || !campaign.setup.suspended()));
    println!("the guardian took {:?}", begun.elapsed());
    nobody_left();
    campaign.forgive_gap();
    campaign.right("after the guardian");
    campaign.complete(Way::There, campaign.moved());
    campaign.move_on(Way::Back);
}

/// The signals that people send do nothing before the window is over.
pub fn signals_wait(campaign: &Campaign) {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let judged = (0..4).any(|_| {
            let (held, guardian) = hold_at_flush(campaign);
            send(held.pid, signal);
            send(guardian, signal);
            std::thread::sleep(Duration::from_millis(50));
            let suspended = campaign.setup.suspended();
            // On a machine that stood still the time is over for which it is held, and nothing can be said.
            let in_time = held.is_held();
            assert!(suspended || !in_time, "{signal} ended the window");
            let ended = held.end();
            campaign.forgive_gap();
            assert!(campaign.moved(), "{signal}: {ended:?}");
            campaign.after_kill(&format!("{signal} in the window"), ended.is_none_or(|code| code > 128));
            campaign.move_on(Way::Back);
            suspended && in_time
        });
        assert!(judged, "{signal}: never held for long enough");
    }
}

/// A command that is stopped inside the window is killed at the guardian's deadline, and the window settled.
pub fn a_stopped_command_is_killed(campaign: &Campaign) {
    let (held, _) = hold_at_flush(campaign);
    let begun = Instant::now();
    send(held.pid, Signal::SIGSTOP);
    let settled = wait_for(Duration::from_secs(120), || !campaign.setup.suspended());
    println!("a stopped command was settled after {:?}", begun.elapsed());
    assert!(settled && begun.elapsed() > Duration::from_secs(60));
    held.end();
    campaign.forgive_gap();
    campaign.after_kill("stopped in the window", true);
    campaign.complete(Way::Back, campaign.moved());
}

/// With the guardian dead too nobody settles it but `recover`, which must, also when it is killed itself.
pub fn killed_with_its_guardian(campaign: &Campaign, all: bool) {
    let begun = Instant::now();
    let there = suspended_points(campaign, Way::There);
    let back = suspended_points(campaign, Way::Back);
    let mut seen: Vec<(&str, usize)> = vec![("runs again with its old map", 0), ("swap was completed", 0)];
    let mut round = 0;
    for i in 0..there.len().max(back.len()) {
        for (points, way) in [(&there, Way::There), (&back, Way::Back)] {
            // A sample takes every twelfth point of each, and the last, at which the commit stands: how many there are
            // varies with the load.
            let sampled = (i + 4 * usize::from(way == Way::Back)).is_multiple_of(12);
            let wanted = all || sampled || i + 1 == points.len();
            let Some(point) = points.get(i).filter(|_| wanted) else { continue };
            campaign.complete(if way == Way::There { Way::Back } else { Way::There }, campaign.moved());
            if let Some(words) = die_together(campaign, point, way, round + 1) {
                round += 1;
                let kind = seen.iter_mut().find(|(text, _)| words.contains(text));
                kind.unwrap_or_else(|| panic!("{point:?}: {words}")).1 += 1;
            }
        }
    }
    campaign.setup.command("status", &[]).expect(&[0]);
    println!("killed with its guardian, {round} times: {seen:?}, {:?}", begun.elapsed());
    assert!(seen.iter().all(|(_, count)| *count > 0), "{seen:?}");
}

/// The words of the recovery; `None` when the command could not be caught there.
fn die_together(campaign: &Campaign, point: &Call, way: Way, round: usize) -> Option<String> {
    let (held, guardian) = hold(campaign, point, way)?;
    send(guardian, Signal::SIGKILL);
    send(held.pid, Signal::SIGKILL);
    held.end();
    nobody_left();
    assert!(campaign.setup.suspended(), "{point:?}");
    let status = campaign.setup.command("status", &["--json"]).expect(&[3]);
    assert!(status.out.contains("\"state\": \"suspended\""), "{status:?}");
    campaign.setup.command("remap", &["20000"]).expect(&[4]);
    campaign.setup.command("recover", &["--dry-run"]).expect(&[0]);
    assert!(campaign.setup.suspended());
    // Every other recovery is killed the first time.
    let mut words = String::new();
    if round.is_multiple_of(2) {
        let nth = 1 + round * 7 % 40;
        let call = Call { name: "ioctl".into(), nth, text: "of recover".into() };
        if !crate::strace::kill_at(&call, &["recover", "kill"]) {
            words = "swap was completed".into();
        }
    }
    if campaign.setup.suspended() {
        words = campaign.setup.command("recover", &[]).expect(&[0]).out;
    } else if words.is_empty() {
        // The first one was killed after its work was done.
        words =
            if campaign.moved() == (way == Way::There) { "swap was completed" } else { "runs again with its old map" }
                .into();
        campaign.setup.command("recover", &[]).expect(&[0]);
    }
    campaign.forgive_gap();
    campaign.right(&format!("{way:?} killed with its guardian at {point:?}"));
    Some(words)
}
