//! From JSON to numbers.

use super::{Counter, Protocol, Smart};
use serde_json::Value;
use std::collections::BTreeMap;

/// ATA attributes by number. Of the others some are packed, some have a meaning of their own for each maker, and none tells more.
const ATTRIBUTES: [(u64, Counter); 9] = [
    (5, Counter::Reallocated),
    (10, Counter::SpinRetries),
    (187, Counter::Uncorrected),
    (188, Counter::CommandTimeouts),
    (189, Counter::HighFlyWrites),
    (196, Counter::ReallocationEvents),
    (197, Counter::Pending),
    (198, Counter::OfflineUncorrectable),
    (199, Counter::CableErrors),
];

/// A raw value that is larger has something else in its upper bytes: no disk has so many sectors to replace.
const LARGEST_RAW: u64 = u32::MAX as u64;

/// Reads the output of `smartctl --json`; `None` when it is not that.
pub fn parse(output: &[u8]) -> Option<Smart> {
    let json: Value = serde_json::from_slice(output).ok()?;
    json.get("smartctl").or_else(|| json.get("device"))?;
    let mut smart = Smart {
        protocol: protocol(&json),
        model: text(&json, &["model_name"])
            .or_else(|| text(&json, &["scsi_model_name"]))
            .or_else(|| text(&json, &["product"])),
        serial: text(&json, &["serial_number"]),
        rotates: number(&json, &["rotation_rate"]).map(|rate| rate > 0),
        passed: at(&json, &["smart_status", "passed"]).and_then(Value::as_bool),
        power_on_hours: number(&json, &["power_on_time", "hours"]),
        temperature: at(&json, &["temperature", "current"]).and_then(Value::as_i64),
        self_test_failed: self_test(&json),
        exit_status: number(&json, &["smartctl", "exit_status"]).unwrap_or(0),
        ..Smart::default()
    };
    match smart.protocol {
        Protocol::Ata => ata(&json, &mut smart),
        Protocol::Scsi => smart.counters = scsi(&json),
        Protocol::Nvme => nvme(&json, &mut smart),
        Protocol::Unknown => {}
    }
    Some(smart)
}

fn at<'a>(json: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(json, |value, key| value.get(key))
}

fn number(json: &Value, path: &[&str]) -> Option<u64> {
    at(json, path)?.as_u64()
}

fn text(json: &Value, path: &[&str]) -> Option<String> {
    at(json, path)?.as_str().map(|text| text.trim().to_string()).filter(|text| !text.is_empty())
}

fn protocol(json: &Value) -> Protocol {
    match at(json, &["device", "protocol"]).and_then(Value::as_str) {
        Some("ATA") => Protocol::Ata,
        Some("SCSI") => Protocol::Scsi,
        Some("NVMe") => Protocol::Nvme,
        _ => Protocol::Unknown,
    }
}

fn ata(json: &Value, smart: &mut Smart) {
    let table = at(json, &["ata_smart_attributes", "table"]).and_then(Value::as_array);
    for attribute in table.into_iter().flatten() {
        let Some(id) = number(attribute, &["id"]) else { continue };
        if let Some((_, counter)) = ATTRIBUTES.iter().find(|(known, _)| *known == id)
            && let Some(raw) = raw(attribute, *counter)
        {
            smart.counters.insert(*counter, raw);
        }
        let foretells = at(attribute, &["flags", "prefailure"]).and_then(Value::as_bool).unwrap_or(false);
        let when = at(attribute, &["when_failed"]).and_then(Value::as_str).unwrap_or_default();
        if foretells && !when.is_empty() && when != "-" {
            let name = text(attribute, &["name"]).unwrap_or_else(|| "an attribute".into());
            smart.failing.push(format!("{id} {name} ({when})"));
        }
    }
    if let Some(errors) = number(json, &["ata_smart_error_log", "summary", "count"])
        .or_else(|| number(json, &["ata_smart_error_log", "extended", "count"]))
    {
        smart.counters.insert(Counter::LoggedErrors, errors);
    }
}

/// The counter in an attribute's raw value.
fn raw(attribute: &Value, counter: Counter) -> Option<u64> {
    let value = number(attribute, &["raw", "value"])?;
    if value <= LARGEST_RAW {
        return Some(value);
    }
    match counter {
        // Three counters of 16 bits: none of them is the number of timeouts that the others have.
        Counter::CommandTimeouts => None,
        // Smartctl has taken it apart: the number comes first.
        _ => {
            let text = at(attribute, &["raw", "string"])?.as_str()?;
            let digits: &str = text.split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse().ok().filter(|value| *value <= LARGEST_RAW)
        }
    }
}

/// Whether the newest self-test that came to an end failed; those that were aborted or interrupted say nothing of the disk.
fn self_test(json: &Value) -> Option<bool> {
    let table = at(json, &["ata_smart_self_test_log", "standard", "table"])
        .or_else(|| at(json, &["ata_smart_self_test_log", "extended", "table"]))
        .and_then(Value::as_array)?;
    // The upper four bits: 0 is without error, 3 to 8 are failures of the disk, the rest is that it did not come to an end.
    let result = |test: &Value| match number(test, &["status", "value"])? >> 4 {
        0 => Some(false),
        3..=8 => Some(true),
        _ => None,
    };
    table.iter().find_map(result)
}

fn scsi(json: &Value) -> BTreeMap<Counter, u64> {
    let mut counters = BTreeMap::new();
    if let Some(defects) = number(json, &["scsi_grown_defect_list"]) {
        counters.insert(Counter::GrownDefects, defects);
    }
    let log = at(json, &["scsi_error_counter_log"]);
    let uncorrected = |part: &str| number(log?, &[part, "total_uncorrected_errors"]);
    let parts: Vec<u64> = ["read", "write", "verify"].into_iter().filter_map(uncorrected).collect();
    if !parts.is_empty() {
        counters.insert(Counter::Uncorrected, parts.into_iter().fold(0, u64::saturating_add));
    }
    let used = number(json, &["scsi_percentage_used_endurance_indicator"]);
    if let Some(used) = used.or_else(|| number(json, &["endurance_used", "current_percent"])) {
        counters.insert(Counter::UsedPercent, used);
    }
    counters
}

fn nvme(json: &Value, smart: &mut Smart) {
    let Some(log) = at(json, &["nvme_smart_health_information_log"]) else { return };
    smart.critical_warning = number(log, &["critical_warning"]).unwrap_or(0);
    for (name, counter) in [
        ("media_errors", Counter::MediaErrors),
        ("available_spare", Counter::SparePercent),
        ("available_spare_threshold", Counter::SpareThresholdPercent),
        ("percentage_used", Counter::UsedPercent),
    ] {
        if let Some(value) = number(log, &[name]) {
            smart.counters.insert(counter, value);
        }
    }
    // A drive that keeps no account of its spare room says 0 of 0.
    if [Counter::SparePercent, Counter::SpareThresholdPercent].iter().all(|c| smart.counters.get(c) == Some(&0)) {
        smart.counters.remove(&Counter::SparePercent);
        smart.counters.remove(&Counter::SpareThresholdPercent);
    }
    // A flash drive does not turn.
    smart.rotates = Some(false);
}
