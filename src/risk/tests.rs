use super::features::COUNTERS;
use super::*;
use proptest::prelude::*;

const DAY: u64 = 86_400;
const NOW: u64 = 20_000 * DAY;

fn disk(counters: &[u64]) -> Smart {
    Smart {
        protocol: Protocol::Ata,
        rotates: Some(true),
        model: Some("ST4000DM000-1F2168".into()),
        power_on_hours: Some(20_000),
        counters: COUNTERS.into_iter().zip(counters.iter().copied()).collect(),
        ..Smart::default()
    }
}

fn within(risks: &[Risk], days: u16) -> Risk {
    *risks.iter().find(|risk| risk.days == days).unwrap()
}

#[test]
fn the_model_that_is_built_in_is_whole() {
    let model = Model::built_in().expect("risk/model.json can be read");
    for horizons in [&model.known, &model.elsewhere] {
        assert_eq!(horizons.iter().map(|horizon| horizon.days).collect::<Vec<_>>(), [2, 7, 30, 365]);
        assert!(horizons.windows(2).all(|pair| pair[0].base_rate < pair[1].base_rate), "base rates");
        for horizon in horizons.iter() {
            assert!(horizon.base_rate > 0.0 && horizon.base_rate < 0.2 && horizon.slope > 0.0, "{}", horizon.days);
            for tree in &horizon.trees {
                assert!(tree.0.len() <= 15, "few leaves");
                for (at, node) in tree.0.iter().enumerate() {
                    match node {
                        Node::Ask(feature, most, _, yes, no) => {
                            assert!(usize::from(*feature) < FEATURES && most.is_finite());
                            // Onwards only, so that it comes to an end, and inside the tree.
                            assert!(
                                [*yes, *no].iter().all(|to| usize::from(*to) > at && usize::from(*to) < tree.0.len())
                            );
                        }
                        Node::Answer(answer) => assert!(answer.is_finite()),
                    }
                }
            }
        }
    }
    assert_eq!(model.fitted_on.len(), 64);
    assert!(
        model
            .elsewhere
            .iter()
            .flat_map(|horizon| &horizon.trees)
            .flat_map(|tree| &tree.0)
            .all(|node| { !matches!(node, Node::Ask(2, ..)) }),
        "what is said of families that are not known does not ask for them"
    );
    assert_eq!(serde_json::from_str::<Model>(&model.to_text()).unwrap(), *model);
    assert_eq!(model.to_text(), include_str!("model.json"), "it is as 'evaluate --fit' writes it");
}

#[test]
fn what_grows_is_worse_than_what_stands_and_that_is_worse_than_nothing() {
    let well = assess(&disk(&[0; 8]), &[(NOW - 200 * DAY, disk(&[0; 8]))], NOW);
    let old = disk(&[16, 2, 0, 0, 0, 0, 0, 0]);
    let old = assess(&old, &[(NOW - 200 * DAY, old.clone())], NOW);
    let grown = assess(&disk(&[900, 40, 60, 60, 0, 0, 0, 0]), &[(NOW - 5 * DAY, disk(&[8, 0, 0, 0, 0, 0, 0, 0]))], NOW);
    for days in [2, 7, 30, 365] {
        let [well, old, grown] = [&well, &old, &grown].map(|risks| within(risks, days));
        assert!(
            well.probability < old.probability && old.probability < grown.probability,
            "{well:?} {old:?} {grown:?}"
        );
        assert!(well.probability < well.base_rate, "{well:?}");
    }
    assert!(within(&grown, 30).probability > 10.0 * within(&grown, 30).base_rate, "{grown:?}");
    assert!(WATCH.is_reached(&within(&grown, 365)) && !WATCH.is_reached(&within(&well, 365)), "{grown:?}");
    // A level is one of its own days.
    assert!(!ACT.is_reached(&within(&grown, 365)));
    assert!(ACT.is_reached(&Risk { probability: ACT.probability, ..within(&well, 30) }));
}

#[test]
fn of_other_kinds_of_disk_nothing_is_said() {
    let known = disk(&[900, 40, 60, 60, 0, 0, 0, 0]);
    for other in [
        Smart { protocol: Protocol::Nvme, ..known.clone() },
        Smart { protocol: Protocol::Scsi, ..known.clone() },
        Smart { rotates: Some(false), ..known.clone() },
        Smart { rotates: None, ..known.clone() },
    ] {
        assert_eq!(assess(&other, &[], NOW), [], "{other:?}");
    }
    assert_eq!(assess(&known, &[], NOW).len(), 4);
    // A family that is not in the data has its own words, which know nothing of families.
    let model = Model::built_in().unwrap();
    assert!(model.prior("ST4000DM000-1F2168").is_finite() && model.prior("A disk of tomorrow").is_nan());
    let stranger = Smart { model: Some("A disk of tomorrow".into()), ..known };
    assert_eq!(assess(&stranger, &[], NOW).len(), 4);
}

#[test]
fn features_look_at_nothing_later_and_know_what_is_not_known() {
    let reading = |days: u64, pending| Reading {
        time: NOW - days * DAY,
        hours: Some(1000 - days * 24),
        counters: [Some(0), None, Some(pending), Some(0), None, None, None, None],
    };
    let readings = [reading(40, 0), reading(20, 4), reading(3, 6), reading(1, 8)];
    let features = Features::at("HGST X", 0.5, &readings, NOW).0;
    assert_eq!(features[..3], [1000.0 / 24.0, 0.0, 0.5]);
    // Uncorrected errors are not reported.
    assert!(features[7..11].iter().all(|value| value.is_nan()));
    // Pending sectors: now, and more than 2, 7 and 30 days ago.
    assert_eq!(features[11..15], [8.0, 2.0, 4.0, 8.0]);
    // Last grown a day ago, first seen 20 days ago, at most 8, one kind of sign.
    assert_eq!((features[37], features[40], features[41], features[42]), (1.0, 20.0, 8.0, 1.0), "{features:?}");
    // What was not there yet does not count, though it is in the list that comes later.
    let before = Features::at("HGST X", 0.5, &readings[..2], NOW - 10 * DAY).0;
    assert_eq!(before[11..15], [4.0, 0.0, 0.0, 4.0]);
    // It is on for as long as time goes on.
    assert_eq!(Features::at("", f32::NAN, &readings[..1], NOW).0[0], (1000.0 - 960.0) / 24.0 + 40.0);
}

#[test]
fn makers_and_families_are_told_by_the_names_that_disks_give() {
    for (model, maker, name) in [
        ("ST3000DM001-1CH166", Maker::Seagate, "ST3000DM001"),
        ("Seagate Barracuda", Maker::Seagate, "Seagate Barracuda"),
        ("HGST HMS5C4040ALE640", Maker::Hgst, "HGST HMS5C4040ALE640"),
        ("Hitachi HDS722020ALA330", Maker::Hgst, "Hitachi HDS722020ALA330"),
        ("WDC WD30EFRX-68AX9N0", Maker::Wdc, "WDC WD30EFRX"),
        ("STORAGE", Maker::Other, "STORAGE"),
        ("", Maker::Other, ""),
    ] {
        assert_eq!((Maker::of(model), family(model)), (maker, name), "{model}");
    }
}

#[test]
fn shares_are_said_as_far_as_they_can_be() {
    let said = [0.0, 0.00003, 0.0004, 0.031, 0.27, 0.999].map(percent);
    assert_eq!(said, ["less than 0.01 %", "less than 0.01 %", "0.04 %", "3.1 %", "27 %", "more than 99 %"]);
    assert_eq!(Risk { days: 2, probability: 0.125, base_rate: 0.1 }.billionths(), 125_000_000);
    assert_eq!(Risk { days: 2, probability: f64::NAN, base_rate: 0.1 }.billionths(), 0);
}

proptest! {
    #[test]
    fn every_disk_has_a_probability(
        counters in prop::collection::vec(any::<u64>(), 8),
        hours in prop::option::of(any::<u64>()),
        before in prop::collection::vec((any::<u64>(), any::<u32>()), 0..6),
        now in any::<u64>(),
        model in ".{0,20}",
    ) {
        let smart = Smart { power_on_hours: hours, model: Some(model), ..disk(&counters) };
        let mut before: Vec<(u64, Smart)> = before.into_iter().map(|(time, n)| (time, disk(&[u64::from(n); 8]))).collect();
        before.sort_by_key(|(time, _)| *time);
        let risks = assess(&smart, &before, now);
        prop_assert!(risks.iter().all(|risk| (0.0..=1.0).contains(&risk.probability)), "{risks:?}");
        prop_assert!(risks.windows(2).all(|pair| pair[0].probability <= pair[1].probability), "{risks:?}");
    }
}
