use super::*;
use proptest::prelude::*;
use serde_json::json;

fn parsed(json: serde_json::Value) -> Smart {
    parse(&serde_json::to_vec(&json).unwrap()).unwrap()
}

fn attribute(id: u64, value: u64, string: &str) -> serde_json::Value {
    json!({ "id": id, "name": "Name", "raw": { "value": value, "string": string }, "flags": { "prefailure": true }, "when_failed": "" })
}

fn ata(table: &[serde_json::Value]) -> Smart {
    parsed(json!({ "device": { "protocol": "ATA" }, "ata_smart_attributes": { "table": table } }))
}

#[test]
fn packed_raw_values_are_not_taken_for_counts() {
    let smart = ata(&[
        attribute(5, 3, "3"),
        // Three numbers of 16 bits, as Seagate has them.
        attribute(188, 51_540_393_996, "51540393996"),
        attribute(197, 0x0001_0000_0008, "8 (Average 1)"),
        attribute(198, 1 << 40, "1099511627776"),
        attribute(1, 234_151_754, "234151754"),
    ]);
    assert_eq!(smart.counters, [(Counter::Reallocated, 3), (Counter::Pending, 8)].into());
}

#[test]
fn what_is_not_reported_is_absent() {
    let smart = ata(&[attribute(5, 0, "0")]);
    assert_eq!((smart.counter(Counter::Reallocated), smart.counter(Counter::Pending)), (Some(0), None));
    assert_eq!((smart.passed, smart.power_on_hours, smart.self_test_failed), (None, None, None));
    assert!(parsed(json!({ "smartctl": { "exit_status": 2 } })).is_empty());
    assert_eq!(parse(b"{}"), None);
    assert_eq!(parse(b"smartctl: command not found"), None);
}

#[test]
fn attributes_below_their_threshold_are_named_when_they_foretell_a_failure() {
    let mut now = attribute(5, 1975, "1975");
    now["when_failed"] = json!("now");
    let mut usage = attribute(9, 5, "5");
    usage["when_failed"] = json!("past");
    usage["flags"] = json!({ "prefailure": false });
    assert_eq!(ata(&[now, usage]).failing, ["5 Name (now)"]);
}

#[test]
fn of_self_tests_the_newest_that_ended_counts() {
    let log = |values: &[u64]| {
        let table: Vec<_> = values.iter().map(|value| json!({ "status": { "value": value } })).collect();
        parsed(
            json!({ "device": { "protocol": "ATA" }, "ata_smart_self_test_log": { "standard": { "table": table } } }),
        )
        .self_test_failed
    };
    // 0x19 aborted, 0xf9 in progress, 0x79 read failure.
    assert_eq!(log(&[0x19, 0xf9, 0x79, 0]), Some(true));
    assert_eq!(log(&[0x19, 0, 0x79]), Some(false));
    assert_eq!((log(&[0x19]), log(&[])), (None, None));
}

#[test]
fn scsi_and_nvme_have_their_own_counters() {
    let scsi = parsed(json!({
        "device": { "protocol": "SCSI" }, "scsi_grown_defect_list": 56, "smart_status": { "passed": true },
        "scsi_error_counter_log": { "read": { "total_uncorrected_errors": 2 }, "write": { "total_uncorrected_errors": 1 } },
    }));
    assert_eq!(scsi.counters, [(Counter::Uncorrected, 3), (Counter::GrownDefects, 56)].into());
    let nvme = parsed(json!({
        "device": { "protocol": "NVMe" }, "smart_status": { "passed": false },
        "nvme_smart_health_information_log": { "critical_warning": 16, "available_spare": 100, "available_spare_threshold": 10, "percentage_used": 3, "media_errors": 0 },
    }));
    assert_eq!((nvme.critical_warning, nvme.rotates, nvme.passed), (16, Some(false), Some(false)));
    assert_eq!(nvme.counter(Counter::SpareThresholdPercent), Some(10));
    // As QEMU's emulated drive has it.
    let mute = parsed(json!({
        "device": { "protocol": "NVMe" },
        "nvme_smart_health_information_log": { "critical_warning": 0, "available_spare": 0, "available_spare_threshold": 0, "media_errors": 0 },
    }));
    assert_eq!(mute.counters, [(Counter::MediaErrors, 0)].into());
}

#[test]
fn the_exit_status_is_read_bit_by_bit() {
    let status = ExitStatus(216);
    assert_eq!((status.bad_usage(), status.not_opened(), status.failing()), (false, false, true));
    assert!(ExitStatus(2).not_opened() && ExitStatus(1).bad_usage());
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|b| json!(b)),
        any::<u64>().prop_map(|n| json!(n)),
        any::<i64>().prop_map(|n| json!(n)),
        "[ -~]{0,12}".prop_map(|s| json!(s)),
    ];
    leaf.prop_recursive(3, 32, 4, |inner| {
        let key = prop::sample::select(vec![
            "device",
            "protocol",
            "smartctl",
            "table",
            "id",
            "raw",
            "value",
            "string",
            "status",
            "summary",
            "count",
            "flags",
            "ata_smart_attributes",
            "ata_smart_self_test_log",
            "standard",
            "nvme_smart_health_information_log",
            "passed",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|v| json!(v)),
            prop::collection::btree_map(key.prop_map(String::from), inner, 0..4).prop_map(|m| json!(m)),
        ]
    })
}

proptest! {
    #[test]
    fn no_output_is_a_panic(json in any_json(), protocol in "(ATA|SCSI|NVMe|x)") {
        let mut whole = json!({ "smartctl": {}, "device": { "protocol": protocol } });
        if let (Some(whole), Some(json)) = (whole.as_object_mut(), json.as_object()) {
            json.iter().filter(|(key, _)| *key != "device").for_each(|(key, value)| { whole.insert(key.clone(), value.clone()); });
        }
        let _ = parse(&serde_json::to_vec(&whole).unwrap());
    }
}
