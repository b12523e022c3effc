use super::*;
use crate::block::buffer::AlignedBuffer;
use tempfile::NamedTempFile;

/// An image of `bytes` bytes in /var/tmp: /tmp is often a tmpfs, which may not take O_DIRECT.
fn image(bytes: u64) -> NamedTempFile {
    let file = NamedTempFile::new_in("/var/tmp").unwrap();
    file.as_file().set_len(bytes).unwrap();
    file
}

fn open(file: &NamedTempFile, mode: Mode) -> DirectDisk {
    DirectDisk::open(&Host::real(), file.path(), mode).unwrap()
}

#[test]
fn what_is_written_is_read_back() {
    let file = image(4 << 20);
    let disk = open(&file, Mode::ReadWrite);
    assert_eq!((disk.size(), disk.logical_block()), (Sectors(8192), Sectors(1)));
    let mut data = AlignedBuffer::new(2 << 20);
    for (n, byte) in data.iter_mut().enumerate() {
        *byte = u8::try_from(n / 512 % 251).unwrap();
    }
    disk.write(Sectors(8), &data).unwrap();
    disk.flush().unwrap();
    let mut back = AlignedBuffer::new(2 << 20);
    disk.read(Sectors(8), &mut back).unwrap();
    assert!(*back == *data);
    let on_file = std::fs::read(file.path()).unwrap();
    assert!(on_file[4096..][..2 << 20] == *data);
    assert_eq!(on_file.len(), 4 << 20, "never grown");
}

#[test]
fn unaligned_memory_is_copied() {
    let file = image(4 << 20);
    let disk = open(&file, Mode::ReadWrite);
    let mut data = vec![0u8; (3 << 20) + 513];
    data.iter_mut().enumerate().for_each(|(n, byte)| *byte = (n % 253) as u8);
    let skew = usize::from(data.as_ptr().addr() % 2 == 0);
    let data = &data[skew..][..(3 << 20) + 512];
    disk.write(Sectors(1), data).unwrap();
    let mut back = vec![0u8; data.len() + 1];
    disk.read(Sectors(1), &mut back[1..]).unwrap();
    assert!(back[1..] == *data);
}

#[test]
fn requests_outside_or_between_blocks_are_refused() {
    let file = image(8 * 4096 + 777);
    let disk = DirectDisk::open_image(file.path(), Sectors(8), Mode::ReadWrite).unwrap();
    assert_eq!(disk.size(), Sectors(64), "whole blocks only");
    let mut buf = AlignedBuffer::new(4096);
    assert!(disk.read(Sectors(56), &mut buf).is_ok());
    assert_eq!(disk.read(Sectors(64), &mut buf).unwrap_err().errno, Errno::EINVAL);
    assert_eq!(disk.read(Sectors(4), &mut buf).unwrap_err().errno, Errno::EINVAL);
    assert_eq!(disk.write(Sectors(0), &buf[..512]).unwrap_err().errno, Errno::EINVAL);
}

#[test]
fn read_only_means_read_only() {
    let file = image(4096);
    let disk = open(&file, Mode::ReadOnly);
    let buf = AlignedBuffer::new(512);
    let error = disk.write(Sectors(0), &buf).unwrap_err();
    assert_eq!((error.errno, error.operation, error.len), (Errno::EBADF, Operation::Write, Sectors(1)));
}

#[test]
fn a_device_that_shrank_is_not_a_bad_sector() {
    let file = image(1 << 20);
    let disk = open(&file, Mode::ReadOnly);
    file.as_file().set_len(4096).unwrap();
    let mut buf = AlignedBuffer::new(8192);
    let error = disk.read(Sectors(0), &mut buf).unwrap_err();
    assert_eq!(error.errno, Errno::ENXIO);
    assert_eq!(error.class(), super::super::FaultClass::Transport);
}

#[test]
fn nothing_is_created_and_small_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent");
    assert!(DirectDisk::open(&Host::real(), &absent, Mode::ReadWrite).is_err());
    assert!(!absent.exists());
    let small = image(511);
    let error = DirectDisk::open(&Host::real(), small.path(), Mode::ReadOnly).unwrap_err();
    assert!(matches!(error, OpenError::TooSmall { .. }));
    let error = DirectDisk::open(&Host::real(), Path::new("/dev/null"), Mode::ReadOnly).unwrap_err();
    assert!(error.to_string().contains("is a character device"), "{error}");
}

#[test]
fn the_page_cache_serves_where_direct_is_refused() {
    // procfs and some FUSE filesystems refuse O_DIRECT; blocks that divide no page do the same everywhere, so the
    // buffered path is reached by asking for it.
    let file = image(1 << 20);
    let handle = open_file(file.path(), Mode::ReadWrite, 0).unwrap();
    let disk = DirectDisk::new(file.path(), handle, Sectors(2048), Sectors(1), false).unwrap();
    disk.write(Sectors(3), &[7; 512]).unwrap();
    disk.flush().unwrap();
    let mut back = [0; 1024];
    disk.read(Sectors(3), &mut back).unwrap();
    assert_eq!((back[0], back[511], back[512]), (7, 7, 0));
    assert!(!disk.is_direct());
}
