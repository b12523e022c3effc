//! Memory that `O_DIRECT` accepts.
//!
//! Invariant: a buffer starts on a 4096-byte boundary (a roomy one: on a huge page's) and is never reallocated.

#![allow(unsafe_code)] // allocation with an alignment: safe Rust has no such vector

use nix::sys::mman::{MmapAdvise, madvise};
use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Alignment of every buffer in bytes: the largest logical block size that Linux supports everywhere.
pub const ALIGNMENT: usize = 4096;

/// Bytes of a huge page on x86 and, with pages of 4 KiB, on ARM. Elsewhere it is an alignment like any other.
const HUGE_PAGE: usize = 2 << 20;

/// A zeroed byte buffer aligned to [`ALIGNMENT`].
pub struct AlignedBuffer {
    start: NonNull<u8>,
    len: usize,
    alignment: usize,
}

// SAFETY: the buffer owns its memory exclusively, as a Vec<u8> does.
unsafe impl Send for AlignedBuffer {}
// SAFETY: shared references give shared access to plain bytes only.
unsafe impl Sync for AlignedBuffer {}

impl AlignedBuffer {
    /// A buffer of `len` zero bytes.
    pub fn new(len: usize) -> AlignedBuffer {
        if len == 0 {
            return AlignedBuffer { start: NonNull::dangling(), len, alignment: ALIGNMENT };
        }
        let layout = Self::layout(len, ALIGNMENT);
        // SAFETY: the layout has a non-zero size.
        let start = unsafe { alloc_zeroed(layout) };
        match NonNull::new(start) {
            Some(start) => AlignedBuffer { start, len, alignment: ALIGNMENT },
            None => handle_alloc_error(layout),
        }
    }

    /// A buffer of `len` zero bytes for many large requests, on huge pages where the kernel gives them: for each request
    /// it then pins one page instead of hundreds, and the disk gets one long segment. Less than a huge page is not worth
    /// it, and is an ordinary buffer.
    pub fn roomy(len: usize) -> AlignedBuffer {
        if len < HUGE_PAGE {
            return AlignedBuffer::new(len);
        }
        let layout = Self::layout(len, HUGE_PAGE);
        // SAFETY: the layout has a non-zero size.
        let Some(start) = NonNull::new(unsafe { alloc(layout) }) else { handle_alloc_error(layout) };
        // Before the memory is touched: the kernel chooses the pages then. Refused, they are small ones.
        // SAFETY: the whole range was just allocated, and this advice changes no contents.
        let _ = unsafe { madvise(start.cast(), len, MmapAdvise::MADV_HUGEPAGE) };
        // SAFETY: the same `len` bytes, which nobody else has yet.
        unsafe { start.write_bytes(0, len) };
        AlignedBuffer { start, len, alignment: HUGE_PAGE }
    }

    fn layout(len: usize, alignment: usize) -> Layout {
        match Layout::from_size_align(len, alignment) {
            Ok(layout) => layout,
            // Only for lengths beyond isize::MAX, which no allocator could serve either.
            Err(_) => handle_alloc_error(Layout::new::<u8>()),
        }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `start` points to `len` initialised bytes that this buffer owns (or len is 0).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: allocated in `new` or `roomy` with this very layout.
            unsafe { dealloc(self.start.as_ptr(), Self::layout(self.len, self.alignment)) }
        }
    }
}

impl Clone for AlignedBuffer {
    fn clone(&self) -> Self {
        let mut copy = AlignedBuffer::new(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuffer({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_zeroed() {
        for len in [0, 1, 512, 4096, 1 << 20] {
            let mut buffer = AlignedBuffer::new(len);
            assert_eq!(buffer.len(), len);
            assert!(len == 0 || buffer.as_ptr().addr().is_multiple_of(ALIGNMENT));
            assert!(buffer.iter().all(|&b| b == 0));
            buffer.fill(7);
            assert_eq!(&*buffer.clone(), &*buffer);
        }
    }

    #[test]
    fn roomy_buffers_start_on_a_huge_page() {
        for len in [0, 4096, HUGE_PAGE - 1, HUGE_PAGE, 2 * HUGE_PAGE + 512] {
            let mut buffer = AlignedBuffer::roomy(len);
            assert_eq!(buffer.len(), len);
            let alignment = if len < HUGE_PAGE { ALIGNMENT } else { HUGE_PAGE };
            assert!(len == 0 || buffer.as_ptr().addr().is_multiple_of(alignment), "{len}");
            assert!(buffer.iter().all(|&b| b == 0));
            buffer.fill(7);
            assert_eq!(&*buffer.clone(), &*buffer);
        }
    }
}
