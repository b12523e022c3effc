//! Faults in the commands that a setup needs seldom. Nobody uses it meanwhile; but the same command, given again, must come
//! to its end, and every sector must read as it was written.

use crate::kernel_module;
use crate::live::load::{fill, pattern, reads_right};
use crate::live::pool::spares;
use crate::live::{Setup, disk, dm_remap, must, nobody_left, sectors};
use dm_remap::block::buffer::AlignedBuffer;
use std::fs;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What is under test, in the words of the user.
pub const COMMANDS: [&str; 7] =
    ["acknowledge", "grow", "metadata restore", "reassemble", "metadata import", "scan", "destroy"];

/// Sectors of each main.
const MAIN: u64 = 16_384;
/// Sectors of the spare that grows, in the beginning, and what it grows by.
const SPARE: u64 = 16_384;
const MORE: u64 = 64;
/// What is bad on main while something is to be lost.
const BAD: (u64, u64) = (2000, 8);
/// Where the copies of the metadata begin.
const COPIES: [u64; 5] = [0, 1024, 2048, 4096, 8192];
const BACKUP: &str = "/tmp/seldom.backup";
/// A spare of the kernel module: sector of main, slot, flags.
const OLD: &str = "/tmp/seldom.old";
const OLD_ROWS: [(u64, u64, u16); 3] = [(500, 2000, 2), (501, 2001, 2), (4001, 3000, 2)];
const OLD_SECTORS: u64 = 16_384;

/// A setup whose main has bad sectors at wish, and whose first spare grows; and a main for another one.
#[derive(Debug)]
pub struct Seldom {
    setup: Setup,
    spare_sectors: u64,
    imported: Setup,
}

fn table_of(name: &str, table: &str) {
    must("dmsetup", &["load", name, "--table", table]);
    must("dmsetup", &["suspend", "--noflush", "--nolockfs", name]);
    must("dmsetup", &["resume", name]);
}

fn linear(name: &str, length: u64, below: &Path, offset: u64) -> PathBuf {
    let table = format!("0 {length} linear {} {offset}", below.display());
    must("dmsetup", &["create", name, "--uuid", &format!("TEST-{name}"), "--table", &table]);
    Path::new("/dev/mapper").join(name)
}

impl Seldom {
    /// The setup is up, with extents on its spares.
    pub fn begin() -> Seldom {
        let main = linear("sick", MAIN, &disk(0), 0);
        let small = linear("small", SPARE, &disk(1), 0);
        let other = linear("othermain", sectors(&disk(0)) - MAIN, &disk(0), MAIN);
        fill(&main, MAIN);
        let setup = Setup::create("seldom", main, vec![small, disk(2)]);
        setup.command("remap", &["96+8", "1000+24", "9000+96"]).expect(&[0]);
        let old = fs::File::create(OLD).unwrap();
        old.set_len(OLD_SECTORS * 512).unwrap();
        let copy = kernel_module::version_4(sectors(&other), OLD_SECTORS, &OLD_ROWS);
        (0..5).for_each(|n| old.write_all_at(&copy, n * 256 * 512).unwrap());
        for (sector, slot, _) in OLD_ROWS {
            old.write_all_at(&pattern(sector, 7), slot * 512).unwrap();
        }
        let imported = Setup { name: "imported".into(), sectors: sectors(&other), main: other, spares: vec![disk(3)] };
        Seldom { setup, spare_sectors: SPARE, imported }
    }

    /// The arguments of a command.
    pub fn args(&self, command: &str) -> Vec<&str> {
        let small = self.setup.spares[0].to_str().unwrap();
        match command {
            "acknowledge" => vec!["acknowledge", "seldom"],
            "grow" => vec!["spare", "grow", "seldom", "0"],
            "metadata restore" => vec!["metadata", "restore", BACKUP, "--to", small, "--as-spare", "0"],
            "reassemble" => vec!["reassemble", "--setup", "seldom", "--safe-mode"],
            "scan" => vec!["scan", "seldom", "--range", "1900+200", "--rate", "max", "--restart"],
            "destroy" => vec!["destroy", "seldom", "--merge-back"],
            _ => {
                let [main, spare] = [&self.imported.main, &self.imported.spares[0]].map(|path| path.to_str().unwrap());
                vec!["metadata", "import", OLD, "--main", main, "--spare", spare, "--yes"]
            }
        }
    }

    /// Brings about the state in which a command has something to do.
    pub fn prepare(&mut self, command: &str) {
        self.activate();
        // A spare whose commit failed is told to be stale when the setup is down.
        for (index, (_, state)) in spares("seldom") {
            if state != "online" {
                dm_remap(&["spare", "readd", "seldom", &index.to_string()]).expect(&[0, 3]);
            }
        }
        match command {
            "acknowledge" => self.lose(),
            "grow" => {
                // While blocks are held with dust a spare cannot grow.
                self.setup.command("restore", &["--all"]).expect(&[0]);
                self.setup.command("remap", &["96+8", "9000+96"]).expect(&[0]);
                self.spare_sectors += MORE;
                table_of("small", &format!("0 {} linear {} 0", self.spare_sectors, disk(1).display()));
            }
            "metadata restore" => {
                let small = self.setup.spares[0].clone();
                self.setup.command("deactivate", &[]).expect(&[0, 3]);
                let small_path = small.to_str().unwrap();
                dm_remap(&["metadata", "backup", small_path, BACKUP, "--force-overwrite"]).expect(&[0]);
                forget(&small);
            }
            "reassemble" => {
                self.setup.command("deactivate", &[]).expect(&[0, 3]);
            }
            "scan" => {
                self.setup.command("restore", &["--all"]).expect(&[0]);
                self.main_is(true);
            }
            "destroy" => {
                self.setup.command("remap", &["3000+8"]).expect(&[0, 3]);
            }
            _ => {
                fill(&self.imported.main, self.imported.sectors);
                forget(&self.imported.spares[0]);
            }
        }
    }

    fn activate(&self) {
        if !self.setup.node().exists() {
            self.setup.command("activate", &["--main", self.setup.main.to_str().unwrap()]).expect(&[0, 3]);
        }
    }

    fn losses(&self) -> usize {
        let status = self.setup.command("status", &["--json"]).expect(&[0, 3]);
        let json: serde_json::Value = serde_json::from_str(&status.out).unwrap();
        json["setups"][0]["losses"].as_array().unwrap().len()
    }

    /// Some sectors of main become bad, or good again.
    fn main_is(&self, bad: bool) {
        let below = disk(0);
        let below = below.display();
        let (start, count) = BAD;
        let after = start + count;
        let rest = format!("{after} {} linear {below} {after}", MAIN - after);
        let sick = format!("0 {start} linear {below} 0\n{start} {count} error\n{rest}");
        table_of("sick", &if bad { sick } else { format!("0 {MAIN} linear {below} 0") });
    }

    /// Writes what was lost.
    fn write_lost(&self) {
        let node = fs::OpenOptions::new().write(true).open(self.setup.node()).unwrap();
        // A page at once: what it has now answers no read.
        let written: Vec<u8> = (BAD.0..BAD.0 + BAD.1).flat_map(|sector| pattern(sector, 0)).collect();
        node.write_all_at(&written, BAD.0 * 512).unwrap();
        node.sync_all().unwrap();
    }

    /// What was lost is written again, and still on the list.
    fn lose(&self) {
        self.setup.command("restore", &["--all"]).expect(&[0]);
        self.main_is(true);
        self.setup.command("remap", &["96+8", &format!("{}+{}", BAD.0, BAD.1)]).expect(&[3]);
        self.main_is(false);
        self.write_lost();
        assert!(self.losses() > 0);
    }

    /// Gives the command again that failed or was killed; then all is done and right.
    pub fn again(&self, command: &str, what: &str) {
        let setup = if command == "metadata import" { &self.imported } else { &self.setup };
        assert!(!setup.suspended(), "{what}");
        let again = dm_remap(&self.args(command));
        let done = |words: &str| again.code == Some(4) && again.err.contains(words);
        let ended = matches!(again.code, Some(0 | 3))
            || match command {
                "acknowledge" => done("nothing to acknowledge"),
                "grow" => done("and no more"),
                "reassemble" => done("active"),
                "destroy" => again.err.contains("no ") || again.err.contains("not found"),
                _ => done("is taken") || done("a spare of"),
            };
        assert!(ended, "{what}, and again: {again:?}");
        match command {
            "acknowledge" => assert_eq!(self.losses(), 0, "{what}"),
            "metadata restore" => self.activate(),
            "scan" => {
                self.main_is(false);
                self.write_lost();
            }
            "destroy" => {
                reads_right(&self.setup.main);
                self.setup.spares.iter().for_each(|spare| forget(spare));
                dm_remap(&self.setup.create_args()).expect(&[0]);
                self.setup.command("remap", &["96+8", "9000+96"]).expect(&[0]);
            }
            "metadata import" => self.end_import(what),
            _ => {}
        }
        if command != "metadata import" {
            assert!(self.setup.node().exists(), "{what}, and again: {again:?}");
            reads_right(&self.setup.node());
        }
        nobody_left();
    }

    /// What was taken over is right; then it is taken down.
    fn end_import(&self, what: &str) {
        let setup = &self.imported;
        if !setup.node().exists() {
            setup.command("activate", &["--main", setup.main.to_str().unwrap()]).expect(&[0, 3]);
        }
        let node = fs::File::open(setup.node()).unwrap();
        let mut data = [0; 512];
        for sector in (0..setup.sectors).step_by(37).chain(490..510).chain(3990..4010) {
            let taken_over = OLD_ROWS.iter().any(|(original, ..)| *original == sector);
            node.read_exact_at(&mut data, sector * 512).unwrap();
            assert!(data == pattern(sector, if taken_over { 7 } else { 0 }), "{what}: sector {sector}");
        }
        drop(node);
        setup.destroy();
    }

    /// Takes all down, and wipes the disks.
    pub fn end(self) {
        self.activate();
        assert!(must("dmsetup", &["table", "seldom-spare0"]).contains(&format!("0 {} ", self.spare_sectors)));
        self.setup.destroy();
        for name in ["sick", "small", "othermain"] {
            must("dmsetup", &["remove", "--retry", name]);
        }
        [1, 2, 3].map(disk).iter().for_each(|disk| fill(disk, sectors(disk)));
        [BACKUP, OLD].iter().for_each(|file| fs::remove_file(file).unwrap());
    }
}

/// The metadata of a spare is gone.
fn forget(spare: &Path) {
    let file = fs::OpenOptions::new().write(true).custom_flags(nix::libc::O_DIRECT).open(spare).unwrap();
    let zeros = AlignedBuffer::new(4096);
    COPIES.iter().for_each(|copy| file.write_all_at(&zeros, copy * 512).unwrap());
}
