//! What only a kernel can show: nodes, udev, allocations, forks.

use super::bench::{Bench, devno, linear, piece};
use dm_remap::dm::kernel::{Host, Kernel};
use dm_remap::segments::TargetKind;
use dm_remap::units::Sectors;
use nix::errno::Errno;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting by thread.
struct Counting;

// SAFETY: everything is the system allocator's.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations that this thread makes during `work`.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

#[test]
fn the_window_allocates_nothing() {
    assert!(allocations(|| drop(std::hint::black_box(Box::new(1)))) > 0);
    let Some(b) = Bench::kernel() else { return };
    b.up("t-a", &[b.linear(0, 100, 0, 0)]);
    let emergency: Vec<_> = (0..1000).map(|n| b.linear(n, 1, 0, n)).collect();
    let window = b.dm.window("t-a", Some(&emergency)).unwrap();
    let missing = b.dm.window("t-none", None).unwrap();
    b.dm.load("t-a", &[b.linear(0, 100, 1, 0)], false).unwrap();
    let mut results = [Ok(()); 10];
    let made = allocations(|| {
        results = [
            window.suspend(),
            window.suspended().map(drop),
            window.has_inactive().map(drop),
            window.resume(),
            window.suspend(),
            window.load_prepared(),
            window.clear(),
            window.load_prepared(),
            window.resume(),
            missing.suspend(),
        ];
    });
    assert_eq!(made, 0);
    assert!(results[..9].iter().all(Result::is_ok), "{results:?}");
    assert_eq!(results[9], Err(Errno::ENXIO));
    let made = allocations(|| {
        b.dm.suspend("t-a").unwrap();
        b.dm.clear("t-a").unwrap();
        b.dm.resume("t-a").unwrap();
    });
    assert_eq!(made, 0);
}

#[test]
#[allow(unsafe_code)]
fn a_forked_child_can_resume() {
    let Some(kernel) = Bench::real() else { return };
    let handle_of = |kernel: &Kernel| kernel.handle("t-a").map(|h| h.suspended());
    let b = Bench::over(Kernel::open().unwrap());
    b.up("t-a", &[b.linear(0, 100, 0, 0)]);
    let handle = kernel.handle("t-a").unwrap();
    handle.suspend().unwrap();
    // SAFETY: the child only makes system calls.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            let code = i32::from(handle.resume().is_err());
            // SAFETY: leaves without running anything of the test's.
            unsafe { nix::libc::_exit(code) };
        }
        nix::unistd::ForkResult::Parent { child } => {
            let status = nix::sys::wait::waitpid(child, None).unwrap();
            assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
        }
    }
    assert_eq!(handle_of(&kernel).unwrap(), Ok(false));
}

/// Does nothing: it is there so that the signal interrupts.
extern "C" fn ignore(_signal: i32) {}

#[test]
#[allow(unsafe_code)]
fn a_signal_undoes_a_suspend() {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    let Some(kernel) = Bench::real() else { return };
    let b = Bench::over(Kernel::open().unwrap());
    let params = format!("{0} 0 0 {0} 0 1500", b.disk[0]);
    let slow = TargetKind::other("delay", params);
    if !b.has(slow.clone()) {
        return;
    }
    let action = SigAction::new(SigHandler::Handler(ignore), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
    // delay itself hurries when it is suspended, so that one lies below.
    let below = b.up("t-slow", &[piece(0, 100, slow)]);
    b.up("t-a", &[linear(0, 100, below, 0)]);
    let (disk, handle) = (b.open("t-a"), kernel.handle("t-a").unwrap());
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let io = scope.spawn(|| disk.write(Sectors(0), &[0; 512]));
        std::thread::sleep(Duration::from_millis(200));
        let suspend = scope.spawn(move || {
            // SAFETY: takes nothing and cannot fail.
            send.send(unsafe { nix::libc::pthread_self() }).unwrap();
            handle.suspend()
        });
        let thread = receive.recv().unwrap();
        std::thread::sleep(Duration::from_millis(200));
        // SAFETY: the thread has not been joined.
        assert_eq!(unsafe { nix::libc::pthread_kill(thread, nix::libc::SIGUSR1) }, 0);
        assert_eq!(suspend.join().unwrap(), Err(Errno::EINTR));
        assert!(!io.is_finished());
        io.join().unwrap().unwrap();
    });
    assert_eq!(handle.suspended(), Ok(false));
}

#[test]
fn a_missing_control_node_is_made() {
    let guest = std::env::var("GUEST_KERNEL").unwrap_or_default();
    if Bench::real().is_none() || guest == "host" || guest.is_empty() {
        return;
    }
    std::fs::remove_file("/dev/mapper/control").unwrap();
    Kernel::open().unwrap();
    assert!(Path::new("/dev/mapper/control").exists());
}

#[test]
fn what_stands_in_the_way_is_said_in_plain_words() {
    let has_it = std::fs::read_to_string("/proc/misc").is_ok_and(|m| m.contains("device-mapper"));
    let root = nix::unistd::geteuid().is_root();
    if has_it && root {
        return;
    }
    let words = Kernel::open().unwrap_err().to_string();
    let expected = if root { "this kernel has no device-mapper" } else { "only root may use it" };
    assert!(words.contains(expected), "{words}");
}

#[test]
fn the_node_is_right_and_goes_away() {
    let Some(b) = Bench::kernel() else { return };
    let odd = "t-odd name";
    b.dm.create(odd, "").unwrap();
    b.dm.load(odd, &[b.linear(0, 100, 0, 0)], false).unwrap();
    let udev = Path::new("/run/udev/control").exists();
    for (name, node) in [("t-a", "/dev/mapper/t-a"), (odd, r"/dev/mapper/t-odd\x20name")] {
        let node = Path::new(node);
        if name == odd && udev {
            continue; // a name that libdevmapper would not have given to the kernel
        }
        if name == odd {
            std::fs::write(node, "stale").unwrap();
        } else {
            b.dm.create(name, "").unwrap();
            b.dm.load(name, &[b.linear(0, 100, 0, 0)], false).unwrap();
        }
        let activation = b.dm.activate(name, false).unwrap();
        assert_eq!((activation.node.as_path(), activation.warning), (node, None));
        let number = b.dm.state(name).unwrap().unwrap().devno;
        assert_eq!(devno(node), Some(number));
        b.dm.remove(name).unwrap();
        assert!(std::fs::symlink_metadata(node).is_err());
    }
}

#[test]
fn private_devices_are_hidden_from_udev() {
    let Some(b) = Bench::kernel() else { return };
    b.dm.create("t-a", "DMREMAPTEST-private").unwrap();
    b.dm.load("t-a", &[b.linear(0, 100, 0, 0)], false).unwrap();
    assert_eq!(b.dm.activate("t-a", true).unwrap().warning, None);
    if Path::new("/run/udev/control").exists() {
        let number = b.dm.state("t-a").unwrap().unwrap().devno;
        let db = std::fs::read_to_string(format!("/run/udev/data/b{number}")).unwrap();
        for flag in ["SUBSYSTEM_RULES", "DISK_RULES", "OTHER_RULES"] {
            assert!(db.contains(&format!("E:DM_UDEV_DISABLE_{flag}_FLAG=1")), "{db}");
        }
        assert!(!db.contains("disk/by-id"), "{db}");
    }
}

#[test]
fn a_dead_udev_is_waited_for_within_the_limit() {
    if Bench::real().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let udev_control = dir.path().join("control");
    std::fs::write(&udev_control, "").unwrap();
    let mapper = dir.path().join("mapper");
    let udev_limit = Duration::from_secs(2);
    let kernel = Kernel::open_on(Host { mapper: mapper.clone(), udev_control, udev_limit }).unwrap();
    let b = Bench::over(kernel);
    for (name, shortest, longest) in [("t-a", 2.0, 3.0), ("t-b", 0.9, 2.0)] {
        b.dm.create(name, "").unwrap();
        b.dm.load(name, &[piece(0, 8, TargetKind::Error)], false).unwrap();
        let start = Instant::now();
        let activation = b.dm.activate(name, false).unwrap();
        let took = start.elapsed().as_secs_f32();
        if !Path::new("/run/udev/control").exists() {
            assert!((shortest..longest).contains(&took), "{took}");
            assert!(activation.warning.unwrap().contains("udev did not answer for 't-"));
        }
        assert_eq!(activation.node, mapper.join(name));
        let number = b.dm.state(name).unwrap().unwrap().devno;
        assert_eq!(devno(&activation.node), Some(number));
    }
    let start = Instant::now();
    b.dm.remove("t-a").unwrap();
    assert!(start.elapsed() < Duration::from_secs(2));
    assert!(!mapper.join("t-a").exists());
    assert_eq!(std::fs::read_to_string("/proc/sysvipc/sem").unwrap().lines().count(), 1);
}
