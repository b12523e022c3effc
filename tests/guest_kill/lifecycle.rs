//! Kills of the commands that make, unmake, start and end a setup. Nobody uses it then; but the same command, given
//! again, must always come to its end, and main must keep every byte.

use crate::live::load::{fill, pattern};
use crate::live::{Ended, Setup, disk, dm_remap, nobody_left, sectors};
use crate::strace::{Call, kill_at, trace};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

fn sample(calls: &[Call], all: bool, wanted: usize) -> Vec<Call> {
    let matters = |call: &&Call| {
        all || ["ioctl", "pwrite64", "fdatasync", "mknodat", "mknod", "unlink", "rename", "exit_group"]
            .contains(&&*call.name)
    };
    let points: Vec<Call> = calls.iter().filter(matters).cloned().collect();
    let wanted = if all { points.len() } else { wanted.min(points.len()) };
    (0..wanted).map(|i| points[i * points.len() / wanted].clone()).collect()
}

/// Main's sectors that are looked at through a file.
fn reads_right(path: &std::path::Path, what: &str) {
    let file = File::open(path).unwrap();
    for start in [0u64, 992, 9000] {
        let mut data = vec![0; 512 * 128];
        file.read_exact_at(&mut data, start * 512).unwrap();
        for (sector, data) in (start..).zip(data.chunks_exact(512)) {
            assert!(data == pattern(sector, 0), "{what}: sector {sector} of {}", path.display());
        }
    }
}

/// A setup that nobody uses, as these commands make and unmake it.
#[derive(Debug)]
pub struct Life {
    setup: Setup,
}

impl Life {
    /// There is none yet; main has contents.
    pub fn begin() -> Life {
        let main = disk(0);
        fill(&main, sectors(&main));
        Life { setup: Setup { name: "kill".into(), sectors: sectors(&main), main, spares: vec![disk(1), disk(2)] } }
    }

    /// The commands, in the order of a life, with their arguments.
    pub fn commands(&self) -> Vec<(&'static str, Vec<&str>)> {
        vec![
            ("create", self.setup.create_args()),
            ("deactivate", vec!["deactivate", "kill"]),
            ("activate", vec!["activate", "kill", "--main", self.setup.main.to_str().unwrap()]),
            ("destroy", vec!["destroy", "kill", "--discard-extents"]),
        ]
    }

    fn run(&self, verb: &str) -> Ended {
        dm_remap(&self.commands().into_iter().find(|(name, _)| *name == verb).unwrap().1)
    }

    /// Brings about the state in which a command has something to do.
    #[allow(dead_code, reason = "guest_inject draws commands in any order")]
    pub fn prepare(&self, verb: &str) {
        let is_up = self.setup.node().exists() || matches!(self.run("activate").code, Some(0 | 3));
        if verb == "create" {
            if is_up {
                self.run("destroy").expect(&[0, 3]);
            }
            self.wipe_spares();
            return;
        }
        if !is_up {
            self.wipe_spares();
            self.run("create").expect(&[0]);
        }
        if verb == "activate" {
            self.run("deactivate").expect(&[0, 3]);
        }
    }

    fn wipe_spares(&self) {
        self.setup.spares.iter().for_each(|spare| fill(spare, sectors(spare)));
    }

    /// Gives the command again that may have been `interrupted`: it comes to its end, with one of the `codes`, and main has
    /// every byte.
    ///
    /// # Errors
    /// What the command said that did not come to its end. Then nothing of the setup is left.
    pub fn again(&self, verb: &str, args: &[&str], codes: &[i32], interrupted: bool, what: &str) -> Result<(), String> {
        let setup = &self.setup;
        let again = dm_remap(args);
        // What was done already is refused as such.
        let done = match verb {
            "create" => again.err.contains("spare of") || again.err.contains("is taken"),
            "activate" => again.err.contains("active already"),
            "deactivate" => again.err.contains("no active setup"),
            _ => {
                again.err.contains("no setup")
                    || again.err.contains("not found")
                    || again.err.contains("no spare")
                    || again.err.contains("a spare of a setup")
            }
        };
        let ended = again.code.is_some_and(|code| codes.contains(&code)) || (done && interrupted);
        if !ended {
            setup.remove_by_force();
            self.wipe_spares();
            return Err(format!("{verb} after {what}: {again:?}"));
        }
        if verb == "create" && again.code == Some(4) && !setup.node().exists() {
            // The setup was made, but not brought up.
            self.run("activate").expect(codes);
        }
        let up = matches!(verb, "create" | "activate");
        assert!(!setup.suspended(), "{verb} after {what}");
        assert_eq!(setup.node().exists(), up, "{verb} after {what}: {again:?}");
        if up {
            reads_right(&setup.node(), verb);
        }
        reads_right(&setup.main, verb);
        Ok(())
    }
}

pub fn killed_at_birth_and_death(all: bool) {
    let begun = Instant::now();
    let life = Life::begin();
    // One life without kills gives the points.
    let mut points = Vec::new();
    for (verb, args) in life.commands() {
        let (ended, calls) = trace(&args);
        ended.expect(&[0]);
        points.push((verb, args, sample(&calls, all, 8)));
    }
    let mut kills = 0;
    let mut stuck = Vec::new();
    let most = points.iter().map(|(_, _, p)| p.len()).max().unwrap_or(0);
    for i in 0..most {
        for (verb, args, points) in &points {
            let point = points.get(i);
            if let Some(point) = point {
                kills += usize::from(kill_at(point, args));
                nobody_left();
            }
            let what = format!("a kill at {point:?}");
            if let Err(how) = life.again(verb, args, &[0], point.is_some(), &what) {
                stuck.push(how);
                break;
            }
        }
    }
    println!("killed at birth and death: {kills} kills, {:?}", begun.elapsed());
    assert!(stuck.is_empty(), "{} stuck: {stuck:#?}", stuck.len());
}
