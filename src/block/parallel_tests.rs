use super::*;
use crate::block::buffer::AlignedBuffer;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use std::fs::File;
use std::os::fd::AsFd;

/// Room, or word that this machine has none.
fn parallel(room: usize) -> Option<Parallel> {
    let made = Parallel::new(room);
    if made.is_none() {
        println!("skipped: this kernel gives no AIO");
    }
    made
}

fn write<'a>(file: &'a File, offset: u64, pieces: [&'a [u8]; 2]) -> Option<Request<'a>> {
    Some(Request { device: file.as_fd(), offset, pieces, outcome: Outcome::default() })
}

#[test]
fn each_request_has_its_own_outcome() {
    let Some(mut parallel) = parallel(3) else { return };
    let (good, other) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let read_only = File::open("/proc/self/exe").unwrap();
    let (mut first, mut second) = (AlignedBuffer::new(4096), AlignedBuffer::new(8192));
    first.fill(1);
    second.fill(2);
    let mut requests = [
        write(&good, 4096, [&first, &second]),
        write(&read_only, 0, [&first, &[]]),
        write(&other, 0, [&second, &first]),
        write(&good, 0, [&first, &[]]),
    ];
    for _ in 0..3 {
        parallel.run(&mut requests);
        let outcomes = requests.map(|request| request.unwrap().outcome);
        let done = Outcome::Done;
        // A descriptor that cannot be written is refused at once, and the caller finds out why. The last has no room.
        assert_eq!([outcomes[0], outcomes[2]], [done, done]);
        assert_ne!(outcomes[1], done);
        assert_eq!(outcomes[3], Outcome::Untried);
    }
    use std::os::unix::fs::FileExt;
    let mut back = [0; 12_288];
    good.read_exact_at(&mut back, 4096).unwrap();
    assert!(back[..4096].iter().all(|b| *b == 1) && back[4096..].iter().all(|b| *b == 2));
    other.read_exact_at(&mut back, 0).unwrap();
    assert!(back[..8192].iter().all(|b| *b == 2) && back[8192..].iter().all(|b| *b == 1));
}

#[test]
fn a_forked_child_tries_nothing() {
    let Some(mut parallel) = parallel(1) else { return };
    let file = tempfile::tempfile().unwrap();
    let data = AlignedBuffer::new(4096);
    let mut requests = [write(&file, 0, [&data, &[]])];
    // SAFETY: the child only does what is safe after a fork of a process with threads: no allocation, then _exit.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            parallel.run(&mut requests);
            let status = i32::from(requests[0].is_none_or(|request| request.outcome != Outcome::Untried));
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(status) }
        }
        ForkResult::Parent { child } => {
            assert!(matches!(waitpid(child, None), Ok(WaitStatus::Exited(_, 0))));
        }
    }
    assert_eq!(file.metadata().unwrap().len(), 0);
    parallel.run(&mut requests);
    assert_eq!(requests[0].unwrap().outcome, Outcome::Done);
}
