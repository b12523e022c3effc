//! What is told, and what is not.

use super::*;

fn set(ranges: &[(u64, u64)]) -> RangeSet {
    ranges.iter().map(|(start, len)| Range::new(Sectors(*start), Sectors(*len)).unwrap()).collect()
}

fn now(moved: &[(u64, u64)], lost: &[(u64, u64)]) -> Now {
    let spares = BTreeMap::from([(0, SpareHealth::Fine)]);
    Now { moved: Some(set(moved)), lost: set(lost), spares, free_percent: Some(90), ..Now::default() }
}

const LIMITS: RoomLimits = RoomLimits { free_percent: 10, days: 0 };

/// The kinds, and the texts.
fn told(before: &Look, now: &Now) -> (Vec<Kind>, Vec<String>, Look) {
    let (events, look) = compare(before, now, LIMITS);
    (events.iter().map(|e| e.event).collect(), events.into_iter().map(|e| e.text).collect(), look)
}

#[test]
fn what_is_new_is_told_once_the_gravest_first() {
    let mut first = now(&[(1000, 8), (2000, 8)], &[(1002, 1)]);
    first.weak = set(&[(2000, 8)]);
    let (kinds, texts, look) = told(&Look::default(), &first);
    assert_eq!(kinds, [Kind::Lost, Kind::Bad, Kind::Weak]);
    assert_eq!(
        texts,
        [
            "1 sector (1002) could not be read: their data is lost",
            "8 sectors (1000+8) were moved to a spare",
            "8 sectors (2000+8) read slowly and were moved to a spare"
        ]
    );
    assert_eq!(told(&look, &first).0, []);
    let (kinds, texts, look) = told(&look, &now(&[(1000, 16), (2000, 8)], &[(1002, 1)]));
    assert_eq!((kinds, texts), (vec![Kind::Bad], vec!["8 sectors (1008+8) were moved to a spare".to_string()]));
    // What goes back to main is not told, and is news when it comes again.
    let (kinds, _, look) = told(&look, &now(&[], &[]));
    assert_eq!(kinds, []);
    assert_eq!(told(&look, &now(&[(1000, 8)], &[])).0, [Kind::Bad]);
}

#[test]
fn a_spare_that_fails_or_goes_and_comes_back() {
    let with = |health| Now { spares: BTreeMap::from([(0, SpareHealth::Fine), (1, health)]), ..now(&[], &[]) };
    let (kinds, _, look) = told(&Look::default(), &with(SpareHealth::Failed));
    assert_eq!(kinds, [Kind::Failed, Kind::Degraded]);
    assert_eq!(told(&look, &with(SpareHealth::Failed)).0, []);
    let (kinds, texts, look) = told(&look, &with(SpareHealth::Missing));
    assert_eq!((kinds, texts), (vec![Kind::Degraded], vec!["degraded: spare 1 is missing".to_string()]));
    let (kinds, _, look) = told(&look, &with(SpareHealth::Fine));
    assert_eq!(kinds, [Kind::Whole]);
    assert_eq!(told(&look, &with(SpareHealth::Fine)).0, []);
}

#[test]
fn room_that_sways_around_its_limit_is_told_once() {
    let free = |percent| Now { free_percent: Some(percent), ..now(&[], &[]) };
    let mut look = Look::default();
    let mut count = 0;
    for percent in [11, 9, 10, 9, 14, 9, 8, 15, 9] {
        let (kinds, _, next) = told(&look, &free(percent));
        count += kinds.len();
        assert!(kinds.iter().all(|kind| *kind == Kind::Space));
        look = next;
    }
    assert_eq!(count, 2, "at first, and after it was at 15 %");
    assert_eq!(compare(&Look::default(), &free(0), RoomLimits::default()).0, [], "0 is never");
}

#[test]
fn room_that_is_forecast_to_end_is_told_once_and_only_where_that_is_asked_for() {
    let lasts = |days| Now { free_percent: Some(80), room_days: days, ..now(&[], &[]) };
    let limits = RoomLimits { days: 90, ..LIMITS };
    let mut look = Look::default();
    let mut told = Vec::new();
    for days in [None, Some(91), Some(90), Some(40), Some(100), Some(60), Some(180), Some(89)] {
        let (events, next) = compare(&look, &lasts(days), limits);
        told.extend(events.into_iter().map(|event| (event.event, event.text)));
        look = next;
    }
    assert_eq!(told.len(), 2, "at first, and after it was at twice the limit: {told:?}");
    let text = "the room on the spares may be used up in 90 days, and 80 % of it are free";
    assert_eq!(told[0], (Kind::Space, text.to_string()));
    assert_eq!(compare(&Look::default(), &lasts(Some(1)), LIMITS).0, [], "it is off unless it is set");
}

#[test]
fn a_person_is_asked_for_once_and_unreadable_metadata_forgets_nothing() {
    let (_, _, look) = told(&Look::default(), &now(&[(8, 8)], &[]));
    let unreadable = Now { attention: Some("the table differs".into()), ..Now::default() };
    let (kinds, _, look) = told(&look, &unreadable);
    assert_eq!(kinds, [Kind::Attention]);
    let again = Now { attention: Some("the table differs at 9".into()), ..Now::default() };
    assert_eq!(told(&look, &again).0, []);
    assert_eq!(told(&look, &now(&[(8, 8)], &[])).0, [], "what had moved is still known");
}

#[test]
fn a_scan_is_told_when_it_has_ended() {
    let scan = |at| Now { scan: Some((at, "read all".into())), ..now(&[], &[]) };
    let (kinds, _, look) = told(&Look::default(), &scan(5));
    assert_eq!(kinds, [Kind::Scan]);
    assert_eq!(told(&look, &scan(5)).0, []);
    assert_eq!(told(&look, &scan(6)).0, [Kind::Scan]);
}

#[test]
fn a_map_with_too_many_runs_is_told_by_its_size() {
    let many: RangeSet = (0..30_000).filter_map(|n| Range::new(Sectors(n * 16), Sectors(8))).collect();
    let (events, look) = compare(&Look::default(), &Now { moved: Some(many.clone()), ..Now::default() }, LIMITS);
    assert_eq!(events[0].sectors.len(), MOST_RANGES);
    assert!(serde_json::to_string(&look).unwrap().len() < 1000);
    let mut more = many;
    more.insert(Range::new(Sectors(8), Sectors(8)).unwrap());
    let (events, _) = compare(&look, &Now { moved: Some(more), ..Now::default() }, LIMITS);
    assert_eq!(events[0].text, "8 sectors were moved to a spare");
}

#[test]
fn a_disk_that_gets_worse_is_told_once_for_each_band() {
    let now = |level, lenient| {
        let disk = DiskNow { level, lenient, text: format!("is at level {level}") };
        Now { disks: [("main".to_string(), disk)].into(), ..Now::default() }
    };
    let mut look = Look::default();
    let mut told = |level, lenient| {
        let (events, next) = compare(&look, &now(level, lenient), LIMITS);
        look = next;
        events.into_iter().map(|event| (event.event, event.text)).collect::<Vec<_>>()
    };
    assert_eq!(told(0, 0), []);
    assert_eq!(told(0, 1), [], "nearly is not over the limit");
    assert_eq!(told(1, 1), [(Kind::Health, "main is at level 1".to_string())]);
    assert_eq!(told(1, 1), []);
    // It sways around the limit.
    assert_eq!((told(0, 1), told(1, 1)), (vec![], vec![]));
    assert_eq!(told(3, 3).len(), 1);
    assert_eq!(told(2, 3), []);
    // Well above it again, and then below.
    assert_eq!(told(0, 0), []);
    assert_eq!(told(1, 2).len(), 1);
    // Nothing known is no change.
    let (events, next) = compare(&look, &Now::default(), LIMITS);
    assert!(events.is_empty() && next.disks["main"] == 1);
}
