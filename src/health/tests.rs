use super::*;
use crate::smart::Counter;
use proptest::prelude::*;

const DAY: u64 = 86_400;
const NOW: u64 = 20_000 * DAY;

fn disk(counters: &[(Counter, u64)]) -> Smart {
    Smart { passed: Some(true), counters: counters.iter().copied().collect(), ..Smart::default() }
}

fn health(smart: &Smart, before: &[(u64, Smart)]) -> Health {
    judge(&Evidence { now: NOW, smart: Some(smart), before, ..Evidence::default() })
}

#[test]
fn nothing_known_is_not_a_hundred() {
    assert_eq!(judge(&Evidence::default()), Health::default());
    assert_eq!(judge(&Evidence { smart: Some(&Smart::default()), ..Evidence::default() }).score, None);
    // A scan that read everything is something.
    assert_eq!(judge(&Evidence { bad: Some(Sectors::ZERO), ..Evidence::default() }).score, Some(100));
}

#[test]
fn growth_is_told_with_where_it_came_from_and_costs_more() {
    let now = disk(&[(Counter::Pending, 8), (Counter::Reallocated, 0)]);
    let before = [(NOW - 40 * DAY, disk(&[(Counter::Pending, 0)])), (NOW - 3 * DAY, disk(&[(Counter::Pending, 0)]))];
    let steady = health(&now, &[(NOW - 400 * DAY, disk(&[(Counter::Pending, 8)]))]);
    assert_eq!(steady.reasons[0].text, "pending sectors 8");
    let grown = health(&now, &before[1..]);
    assert_eq!(grown.reasons[0].text, "pending sectors 8, up from 0 3 days ago");
    assert!(grown.score < steady.score);
    // What it was before the month began is known from the reading before that.
    assert_eq!(health(&now, &before).reasons[0].text, "pending sectors 8, up from 0 30 days ago");
    // Long ago is no growth.
    assert_eq!(
        health(&now, &[(NOW - 400 * DAY, disk(&[(Counter::Pending, 0)])), (NOW - 300 * DAY, now.clone())]),
        steady
    );
}

#[test]
fn a_disk_that_passes_its_own_test_is_called_out_by_the_evidence() {
    let said = |health: &Health| health.reasons.iter().any(|reason| reason.text.contains("PASSED all the same"));
    let degraded = health(&disk(&[(Counter::Reallocated, 304)]), &[]);
    assert!(degraded.band == Band::Poor && said(&degraded), "{degraded:?}");
    assert!(!said(&health(&disk(&[(Counter::Reallocated, 1)]), &[])));
    let failed = Smart { passed: Some(false), ..disk(&[(Counter::Reallocated, 304)]) };
    let failed = health(&failed, &[]);
    assert!(failed.score <= Some(10) && failed.band == Band::Failing && !said(&failed), "{failed:?}");
}

#[test]
fn a_bad_cable_is_no_fault_of_the_disk() {
    let before = [(NOW - DAY, disk(&[(Counter::CableErrors, 2)]))];
    let health = health(&disk(&[(Counter::CableErrors, 90)]), &before);
    assert_eq!(health.score, Some(100));
    assert_eq!(
        health.reasons[0].text,
        "cable errors 90, up from 2 a day ago: look at the cable and the connectors, not at the disk"
    );
}

#[test]
fn what_the_machine_notices_counts_and_trouble_on_the_way_does_not() {
    let fresh = disk(&[]);
    let judged = |noticed| judge(&Evidence { now: NOW, smart: Some(&fresh), noticed, ..Evidence::default() });
    let errors = judged(Noticed { medium_errors: 4, ..Noticed::default() });
    assert_eq!(errors.reasons[0].text, "the kernel log names 4 requests that failed for its sectors");
    assert_eq!(errors.score, Some(88));
    assert_eq!(judged(Noticed { medium_errors: u64::MAX, ..Noticed::default() }).score, Some(80));
    let way = judged(Noticed { transport_errors: 40, ..Noticed::default() });
    assert!(way.score == Some(100) && way.reasons[0].text.contains("look at the cable"), "{way:?}");
    for (slow_requests, requests, score) in
        [(9, 9, 100), (10, 10_001, 100), (10, 10_000, 95), (10, 1000, 90), (u64::MAX, u64::MAX, 90)]
    {
        assert_eq!(judged(Noticed { slow_requests, requests, ..Noticed::default() }).score, Some(score), "{requests}");
    }
    // What a scan has found is what failed: once is enough.
    let both = Evidence {
        smart: Some(&fresh),
        bad: Some(Sectors(8)),
        noticed: Noticed { medium_errors: 40, ..Noticed::default() },
        ..Evidence::default()
    };
    assert_eq!(judge(&both).score, judge(&Evidence { noticed: Noticed::default(), ..both.clone() }).score);
    // Errors of its sectors are something to go by, also where a disk says nothing.
    let silent = Evidence { noticed: Noticed { medium_errors: 1, ..Noticed::default() }, ..Evidence::default() };
    assert_eq!(judge(&silent).score, Some(92));
}

#[test]
fn command_timeouts_alone_say_nothing() {
    assert_eq!(health(&disk(&[(Counter::CommandTimeouts, 4_000_000)]), &[]).score, Some(100));
}

#[test]
fn what_we_have_seen_ourselves_counts_too() {
    let moved = [(NOW - 200 * DAY, Sectors(8)), (NOW - 10 * DAY, Sectors(8)), (NOW, Sectors(64))];
    let fresh = disk(&[(Counter::Reallocated, 0)]);
    let evidence = Evidence { now: NOW, smart: Some(&fresh), moved: &moved, ..Evidence::default() };
    let health = judge(&evidence);
    assert_eq!(health.reasons[0].text, "56 sectors had to be moved off it in the last 30 days");
    let scanned = judge(&Evidence { bad: Some(Sectors(1)), weak_places: 3, spare_bad: Sectors(8), ..evidence });
    assert_eq!(scanned.reasons.len(), 5, "the fifth is that it passes its own test");
    assert!(scanned.score < health.score);
}

fn any_counter() -> impl Strategy<Value = Counter> {
    prop::sample::select(vec![
        Counter::Reallocated,
        Counter::SpinRetries,
        Counter::Uncorrected,
        Counter::CommandTimeouts,
        Counter::Pending,
        Counter::OfflineUncorrectable,
        Counter::CableErrors,
        Counter::GrownDefects,
        Counter::MediaErrors,
        Counter::SparePercent,
        Counter::SpareThresholdPercent,
        Counter::UsedPercent,
    ])
}

fn any_disk() -> impl Strategy<Value = Smart> {
    let counters = prop::collection::btree_map(any_counter(), prop_oneof![0u64..300, any::<u64>()], 0..8);
    (counters, any::<Option<bool>>(), any::<Option<i64>>(), any::<u64>(), any::<Option<bool>>()).prop_map(
        |(counters, passed, temperature, critical_warning, self_test_failed)| Smart {
            counters,
            passed,
            temperature,
            critical_warning,
            self_test_failed,
            ..Smart::default()
        },
    )
}

proptest! {
    #[test]
    fn every_missing_point_has_a_reason(smart in any_disk(), before in prop::collection::vec((any::<u64>(), any_disk()), 0..4), now in any::<u64>(), bad in any::<Option<u64>>(), weak in any::<u64>()) {
        let mut before = before;
        before.sort_by_key(|(time, _)| *time);
        let health = judge(&Evidence { now, smart: Some(&smart), before: &before, bad: bad.map(Sectors), weak_places: weak, ..Evidence::default() });
        match health.score {
            Some(score) => {
                let points: u64 = health.reasons.iter().map(|reason| u64::from(reason.points)).sum();
                prop_assert!(score <= 100 && points >= u64::from(100 - score), "{:?}", health);
                prop_assert_eq!(health.band, Band::of(score));
            }
            None => prop_assert!(health.reasons.iter().all(|reason| reason.points == 0)),
        }
    }

    #[test]
    fn more_trouble_never_gives_a_better_score(smart in any_disk(), counter in prop::sample::select(vec![Counter::Pending, Counter::Reallocated, Counter::Uncorrected, Counter::MediaErrors]), more in 1u64..1000) {
        let mut worse = smart.clone();
        let value = worse.counters.entry(counter).or_insert(0);
        *value = value.saturating_add(more);
        let score = |smart: &Smart| health(smart, &[]).score.unwrap_or(100);
        prop_assert!(score(&worse) <= score(&smart));
    }
}
