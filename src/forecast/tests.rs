use super::*;
use proptest::prelude::*;

const NOW: u64 = 20_000 * DAY;

/// A past with so much in use at the end of each day.
fn past(used: impl IntoIterator<Item = u64>) -> Vec<(u64, Sectors)> {
    let used: Vec<u64> = used.into_iter().collect();
    let start = NOW - (used.len() as u64 - 1) * DAY;
    used.into_iter().enumerate().map(|(day, used)| (start + day as u64 * DAY, Sectors(used))).collect()
}

fn growth(past: &[(u64, Sectors)], free: u64) -> Growth {
    match foresee(past, Sectors(free), NOW) {
        Foresight::Growing(growth) => growth,
        other => panic!("{other:?}"),
    }
}

fn best(growth: &Growth) -> Kind {
    growth.models[0].model
}

#[test]
fn it_says_no_more_than_the_past_tells() {
    assert_eq!(foresee(&past(0..10), Sectors(5), NOW), Foresight::TooEarly);
    assert_eq!(foresee(&[], Sectors(5), NOW), Foresight::TooEarly);
    assert_eq!(foresee(&past(0..100), Sectors(0), NOW), Foresight::Exhausted);
    assert_eq!(foresee(&past([7; 61]), Sectors(5), NOW), Foresight::Steady { days: 60 });
    // What was moved back is no growth.
    assert_eq!(foresee(&past((0..60).rev()), Sectors(5), NOW), Foresight::Steady { days: 59 });
    // A clock that is behind.
    assert_eq!(foresee(&past(0..100), Sectors(5), 0), Foresight::TooEarly);
}

#[test]
fn steady_growth_is_told_by_its_rate() {
    let growth = growth(&past((0..=120).map(|day| day * 8)), 800);
    assert_eq!(growth.expected, Some(100), "{growth:?}");
    assert!(growth.at_least < Some(100) && growth.at_most > Some(100), "{growth:?}");
    assert!((growth.next_30_days - 240.0).abs() < 1.0, "{growth:?}");
    assert!(growth.words().contains("about 100 days (80 %: "), "{}", growth.words());
}

#[test]
fn growth_that_doubles_is_seen_early() {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
    fn used(day: u64) -> u64 {
        (8.0 * (day as f64 / 14.0).exp2()) as u64
    }
    // Doubles every 14 days; a straight line would promise much more time than there is.
    let known = past((0..=112).map(used));
    let free = used(140) - used(112);
    let growth = growth(&known, free);
    assert_eq!(best(&growth), Kind::Exponential, "{growth:?}");
    let expected = growth.expected.unwrap();
    assert!((21..=36).contains(&expected), "{growth:?}");
    assert!(growth.at_least.unwrap() <= 28 && growth.at_most.unwrap() >= 28, "{growth:?}");
    let line = free as f64 / ((used(112) - used(82)) as f64 / 30.0);
    assert!(line > 1.5 * 28.0, "{line}");
}

#[test]
fn a_change_of_rate_is_followed() {
    // Quiet for 60 days, then 16 a day: the days since then count, not the mean of the last 30.
    let used = (0u64..=100).map(|day| if day <= 60 { day / 10 } else { 6 + (day - 60) * 16 });
    let growth = growth(&past(used), 1600);
    let threshold = growth.models.iter().find(|tried| tried.model == Kind::Threshold).unwrap();
    let linear = growth.models.iter().find(|tried| tried.model == Kind::Linear).unwrap();
    assert!(threshold.error < linear.error, "{growth:?}");
    let days = combined(
        &daily(&past((0u64..=100).map(|day| if day <= 80 { 0 } else { (day - 80) * 16 })), NOW),
        &[Tried { model: Kind::Threshold, error: 0.0, weight: 1.0 }],
        10,
    );
    assert!((days[9] - 160.0).abs() < 1e-6, "{days:?}");
}

#[test]
fn what_a_weekly_scan_finds_comes_weekly() {
    // 70 sectors every seventh day, the last of them yesterday: the next comes in six.
    let used: Vec<u64> = (0u64..=140).map(|day| (day + 1) / 7 * 70).collect();
    let growth = growth(&past(used.clone()), 700);
    assert_eq!(best(&growth), Kind::Pattern, "{growth:?}");
    let week = Kind::Pattern.foretell(&daily(&past(used), NOW), 14);
    assert_eq!(week.iter().filter(|sum| **sum < 1.0).count(), 5, "{week:?}");
    assert!((week[13] - 140.0).abs() < 1.0, "{week:?}");
}

#[test]
fn the_interval_holds_what_comes_about_as_often_as_it_says() {
    // Bursts at random, from a generator with fixed seeds: eight of ten intervals should hold the truth; the rest of them must
    // not all lie on the same side.
    let (mut inside, mut early, mut late) = (0, 0, 0);
    for seed in 1u64..=200 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut draw = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state >> 11
        };
        let mut used = 0;
        let all: Vec<u64> = (0..1200)
            .map(|_| {
                if draw() % 10 == 0 {
                    used += 1 + draw() % 63;
                }
                used
            })
            .collect();
        let free = 400;
        let truth = all[180..].iter().position(|used| *used >= all[180] + free).unwrap();
        let growth = growth(&past(all[..=180].iter().copied()), free);
        let (least, most) = (growth.at_least.unwrap_or(FAR), growth.at_most.unwrap_or(FAR));
        match truth {
            _ if truth < least => early += 1,
            _ if truth > most => late += 1,
            _ => inside += 1,
        }
    }
    assert!(inside >= 140, "{inside} inside, {early} sooner, {late} later");
    assert!(early <= 40 && late <= 40, "{inside} inside, {early} sooner, {late} later");
}

proptest! {
    #[test]
    fn no_past_upsets_it(
        steps in prop::collection::vec((0u64..20 * DAY, 0u64..u64::MAX / 512), 0..80),
        free in prop_oneof![Just(0), 1u64..10_000, Just(u64::MAX)],
        now in prop_oneof![Just(0), Just(u64::MAX), 0u64..3000 * DAY],
    ) {
        let mut time = 1;
        let mut seen: Vec<(u64, Sectors)> = steps.into_iter().map(|(wait, used)| { time += wait; (time, Sectors(used)) }).collect();
        seen.retain(|(time, _)| *time <= now);
        let foresight = foresee(&seen, Sectors(free), now);
        prop_assert_eq!(&foresight, &foresee(&seen, Sectors(free), now));
        if let Foresight::Growing(growth) = foresight {
            let far = |days: Option<usize>| days.unwrap_or(usize::MAX);
            prop_assert!(far(growth.at_least) <= far(growth.expected) && far(growth.expected) <= far(growth.at_most), "{:?}", growth);
            prop_assert!(growth.next_30_days.is_finite() && growth.next_30_days >= 0.0);
            let sum: f64 = growth.models.iter().map(|tried| tried.weight).sum();
            prop_assert!((sum - 1.0).abs() < 1e-6);
            prop_assert!(!growth.words().contains("NaN"));
        }
    }
}
