//! Kills of the commands that make, unmake, start and end a setup. Nobody uses it then; but the same command, given
//! again, must always come to its end, and main must keep every byte.

use crate::live::load::{fill, pattern};
use crate::live::{Setup, disk, dm_remap, nobody_left, sectors};
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

pub fn killed_at_birth_and_death(all: bool) {
    let begun = Instant::now();
    let main = disk(0);
    fill(&main, sectors(&main));
    let setup = Setup { name: "kill".into(), sectors: sectors(&main), main, spares: vec![disk(1), disk(2)] };
    let create = setup.create_args();
    let commands: [(&str, Vec<&str>); 4] = [
        ("create", create.clone()),
        ("deactivate", vec!["deactivate", "kill"]),
        ("activate", vec!["activate", "kill", "--main", setup.main.to_str().unwrap()]),
        ("destroy", vec!["destroy", "kill", "--discard-extents"]),
    ];
    // One life without kills gives the points.
    let mut points = Vec::new();
    for (verb, args) in &commands {
        let (ended, calls) = trace(args);
        ended.expect(&[0]);
        points.push((*verb, args, sample(&calls, all, 8)));
    }
    let mut kills = 0;
    let mut stuck = Vec::new();
    let most = points.iter().map(|(_, _, p)| p.len()).max().unwrap_or(0);
    for i in 0..most {
        for (verb, args, points) in &points {
            if let Some(point) = points.get(i) {
                kills += usize::from(kill_at(point, args));
                nobody_left();
            }
            let again = dm_remap(args);
            // What was done already is refused as such.
            let done = match *verb {
                "create" => again.err.contains("spare of") || again.err.contains("is taken"),
                "activate" => again.err.contains("active already"),
                "deactivate" => again.err.contains("no active setup"),
                _ => {
                    again.err.contains("no setup") || again.err.contains("not found") || again.err.contains("no spare")
                }
            };
            if again.code != Some(0) && !(done && points.get(i).is_some()) {
                stuck.push(format!("{verb} after a kill at {:?}: {again:?}", points.get(i)));
                setup.remove_by_force();
                for spare in &setup.spares {
                    let _ = crate::live::run("wipefs", &["-a", spare.to_str().unwrap()]);
                    fill(spare, sectors(spare));
                }
                break;
            }
            if *verb == "create" && again.code == Some(4) && !setup.node().exists() {
                // The setup was made, but not brought up.
                dm_remap(&["activate", "kill", "--main", setup.main.to_str().unwrap()]).expect(&[0]);
            }
            let up = matches!(*verb, "create" | "activate");
            assert!(!setup.suspended(), "{verb} after a kill at {:?}", points.get(i));
            assert_eq!(setup.node().exists(), up, "{verb} after a kill at {:?}: {again:?}", points.get(i));
            if up {
                reads_right(&setup.node(), verb);
            }
            reads_right(&setup.main, verb);
        }
    }
    println!("killed at birth and death: {kills} kills, {:?}", begun.elapsed());
    assert!(stuck.is_empty(), "{} stuck: {stuck:#?}", stuck.len());
}
