//! What real tools write is recognised: images made by mke2fs and others, looked at as the program looks at a disk.
//!
//! A tool that is not installed is skipped, and the output says so.

#![allow(clippy::unwrap_used, clippy::panic)] // a failure here is a failed test

use dm_remap::block::direct::{DirectDisk, Mode};
use dm_remap::block::foreign::{read_signature, second_opinion};
use dm_remap::block::host::Host;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Sparse, and as large as the pickiest tool (mkfs.xfs) asks for.
const SIZE: u64 = 512 << 20;

/// An empty image, in a folder on a disk: O_DIRECT may be refused elsewhere.
fn image(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("signature-{name}"));
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path).unwrap();
    file.set_len(SIZE).unwrap();
    path
}

/// The tool's path: where administrators' tools are, also when PATH leaves those folders out.
fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(tool))
        .find(|path| path.exists())
}

fn recognised(path: &Path) -> Option<String> {
    let disk = DirectDisk::open(&Host::real(), path, Mode::ReadOnly).unwrap();
    read_signature(&disk).unwrap().map(|signature| signature.name.into_owned())
}

/// Runs `tool` on a fresh image, with `input` on its standard input, and checks what is recognised then.
fn check(tool: &str, args: &[&str], input: &str, expected: &str) {
    let Some(program) = find(tool) else {
        println!("skipped: {tool} is not installed");
        return;
    };
    let path = image(&format!("{tool}{}", args.concat().replace('/', "_")));
    assert_eq!(recognised(&path), None);
    let mut child = Command::new(program)
        .args(args)
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{tool} {args:?}");
    assert_eq!(recognised(&path).as_deref(), Some(expected), "{tool} {args:?}");
    if find("blkid").is_some() {
        assert!(second_opinion(&path).is_some(), "blkid on {tool} {args:?}");
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn ext_filesystems() {
    for kind in ["ext2", "ext3", "ext4"] {
        check("mke2fs", &["-q", "-F", "-t", kind], "", &format!("{kind} filesystem"));
    }
    check("mke2fs", &["-q", "-F", "-O", "journal_dev", "-b", "4096"], "", "ext4 external journal");
}

#[test]
fn other_filesystems() {
    check("mkfs.xfs", &["-q", "-f"], "", "XFS filesystem");
    check("mkfs.btrfs", &["-q", "-f", "--mixed"], "", "btrfs filesystem");
    check("mkfs.f2fs", &["-q", "-f"], "", "f2fs filesystem");
    check("mkfs.fat", &["-F", "16"], "", "FAT16 filesystem");
    check("mkfs.fat", &["-F", "32"], "", "FAT32 filesystem");
    check("mkfs.exfat", &[], "", "exFAT filesystem");
    check("mkfs.ntfs", &["-q", "-F", "-f"], "", "NTFS filesystem");
}

#[test]
fn swap_space() {
    check("mkswap", &[], "", "swap space");
}

#[test]
fn partition_tables() {
    check("sfdisk", &["-q"], "label: gpt\n,32M\n,\n", "GPT partition table");
    check("sfdisk", &["-q", "-f"], "label: dos\n,32M\n,\n", "MBR partition table");
}

#[test]
fn a_gpt_is_known_by_its_backup() {
    let Some(program) = find("sfdisk") else {
        println!("skipped: sfdisk is not installed");
        return;
    };
    let path = image("gpt-backup");
    let mut child =
        Command::new(program).arg("-q").arg(&path).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"label: gpt\n,\n").unwrap();
    assert!(child.wait().unwrap().success());
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0; 65_536], 0).unwrap();
    file.sync_all().unwrap();
    assert_eq!(recognised(&path).as_deref(), Some("GPT partition table (backup)"));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn luks_headers() {
    // The cheapest key derivation: only the header is of interest.
    let fast =
        ["-q", "luksFormat", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "/etc/hostname"];
    if !Path::new("/etc/hostname").exists() {
        println!("skipped: no /etc/hostname to serve as a key");
        return;
    }
    for kind in ["luks1", "luks2"] {
        let args = [&fast[..], &["--type", kind]].concat();
        check("cryptsetup", &args, "", &format!("{} encrypted volume", kind.to_uppercase()));
    }
}
