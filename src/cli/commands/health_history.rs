//! `health --history`: what was recorded of setups over time, for people, and as JSON, CSV and XML.

use super::known::directory;
use super::{Context, Exit, Output};
use crate::cli::args::health::{Health as Args, HistoryFormat};
use crate::cli::selection::select;
use crate::engine::EngineError;
use crate::engine::session::live_devices;
use crate::history::{self, Record, What};
use anyhow::Result;
use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event};
use serde_json::Value;
use std::io;

/// The history of a setup.
struct Told {
    name: String,
    uuid: String,
    records: Vec<Record>,
}

pub(super) fn print(context: &Context, args: &Args, out: &mut Output) -> Result<Exit> {
    let mut all = Vec::new();
    for name in select(context, &args.names)? {
        let setup = live_devices(context.dm()?, &name)?.setup;
        let folder = directory(context);
        let records = history::read(&folder, setup)
            .map_err(|error| EngineError::system(format!("cannot read {}", folder.display()), error))?;
        all.push(Told { name, uuid: setup.to_string(), records });
    }
    let format = if out.is_json() { HistoryFormat::Json } else { args.format };
    let not_made = |error: io::Error| EngineError::system("cannot print the history", error);
    match format {
        HistoryFormat::Table => all.iter().for_each(|told| table(out, told)),
        HistoryFormat::Json => out.json(&serde_json::json!({ "setups": all.iter().map(json).collect::<Vec<_>>() })),
        HistoryFormat::Csv => out.text(&csv(&all).map_err(not_made)?),
        HistoryFormat::Xml => out.text(&xml(&all).map_err(not_made)?),
    }
    Ok(Exit::Done)
}

fn json(told: &Told) -> Value {
    serde_json::json!({ "name": told.name, "uuid": told.uuid, "records": told.records })
}

fn time(seconds: u64) -> String {
    humantime::format_rfc3339_seconds(super::assembly::time_of(seconds)).to_string()
}

fn table(out: &mut Output, told: &Told) {
    out.line(format!("{}:", told.name));
    if told.records.is_empty() {
        out.line("  nothing is recorded yet");
        return;
    }
    let mut rows = vec![["TIME", "OF", "SCORE", "WHAT"].map(String::from).to_vec()];
    rows.extend(told.records.iter().map(|record| {
        let (of, score, what) = words(&record.what);
        vec![time(record.time), of, score, what]
    }));
    out.table(2, &rows);
}

/// Of what it is, the score, and the rest in words.
fn words(what: &What) -> (String, String, String) {
    match what {
        What::Setup(setup) => {
            let text = format!(
                "{}; {} sectors moved in {} extents, {} lost, room for {}",
                setup.state, setup.remapped_sectors, setup.extents, setup.lost_sectors, setup.room_sectors
            );
            ("setup".into(), "-".into(), text)
        }
        What::Disk(disk) => {
            let counters = disk.smart.counters.iter().filter(|(_, value)| **value > 0);
            let counters: Vec<String> =
                counters.map(|(counter, value)| format!("{} {value}", counter.words())).collect();
            let text = if counters.is_empty() { "nothing counted".to_string() } else { counters.join(", ") };
            (disk.device.clone(), disk.score.map_or("-".into(), |score| score.to_string()), text)
        }
        What::Unknown => ("?".into(), "-".into(), "of a later version".into()),
    }
}

/// The values of a record, by name; those inside others with the names of both.
fn values(record: &Record) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let value = serde_json::to_value(record).unwrap_or_default();
    for (name, value) in value.as_object().into_iter().flatten() {
        if ["time", "kind", "device"].contains(&name.as_str()) {
            continue;
        }
        match value {
            Value::Object(inside) => {
                out.extend(inside.iter().map(|(inner, value)| (format!("{name}.{inner}"), plain(value))))
            }
            Value::Array(list) => out.extend(list.iter().map(|value| (name.clone(), plain(value)))),
            value => out.push((name.clone(), plain(value))),
        }
    }
    out
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), String::from)
}

/// Of what the record is: `setup`, or the disk's place.
fn subject(what: &What) -> &str {
    match what {
        What::Setup(_) | What::Unknown => "setup",
        What::Disk(disk) => &disk.device,
    }
}

fn csv(all: &[Told]) -> io::Result<String> {
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    writer.write_record(["setup", "time", "of", "name", "value"])?;
    for told in all {
        for record in &told.records {
            for (name, value) in values(record) {
                writer.write_record([&told.name, &time(record.time), subject(&record.what), &name, &value])?;
            }
        }
    }
    let bytes = writer.into_inner().map_err(|error| io::Error::other(error.to_string()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn xml(all: &[Told]) -> io::Result<String> {
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    writer.write_event(Event::Start(BytesStart::new("histories").with_attributes([("schema_version", "1")])))?;
    for told in all {
        let start = BytesStart::new("setup").with_attributes([("name", told.name.as_str()), ("uuid", &told.uuid)]);
        writer.write_event(Event::Start(start))?;
        for record in &told.records {
            let start = BytesStart::new("record")
                .with_attributes([("time", time(record.time).as_str()), ("of", subject(&record.what))]);
            writer.write_event(Event::Start(start))?;
            for (name, value) in values(record) {
                let value_start = BytesStart::new("value").with_attributes([("name", name.as_str())]);
                writer.write_event(Event::Start(value_start))?;
                writer.write_event(Event::Text(BytesText::new(&value)))?;
                writer.write_event(Event::End(BytesEnd::new("value")))?;
            }
            writer.write_event(Event::End(BytesEnd::new("record")))?;
        }
        writer.write_event(Event::End(BytesEnd::new("setup")))?;
    }
    writer.write_event(Event::End(BytesEnd::new("histories")))?;
    let mut text = String::from_utf8_lossy(&writer.into_inner()).into_owned();
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{DiskRecord, SetupRecord};
    use crate::smart::{Counter, Smart};

    fn told() -> Vec<Told> {
        let smart = Smart {
            model: Some("A <b>, \"c\" & d".into()),
            counters: [(Counter::Pending, 8)].into(),
            failing: vec!["5 X (now)".into()],
            ..Smart::default()
        };
        let disk = What::Disk(DiskRecord { device: "main".into(), score: Some(40), smart, ..DiskRecord::default() });
        let setup = What::Setup(SetupRecord { state: "healthy".into(), extents: 2, ..SetupRecord::default() });
        let records = vec![Record { time: 86_400, what: setup }, Record { time: 86_401, what: disk }];
        vec![Told { name: "data".into(), uuid: "u".into(), records }]
    }

    #[test]
    fn csv_and_xml_can_be_read_again_whatever_a_disk_is_called() {
        let text = csv(&told()).unwrap();
        let rows: Vec<Vec<String>> = ::csv::Reader::from_reader(text.as_bytes())
            .records()
            .map(|row| row.unwrap().iter().map(String::from).collect())
            .collect();
        let has = |row: [&str; 5]| assert!(rows.iter().any(|r| r == &row), "no {row:?} in {rows:?}");
        has(["data", "1970-01-02T00:00:00Z", "setup", "extents", "2"]);
        has(["data", "1970-01-02T00:00:01Z", "main", "counters.pending", "8"]);
        has(["data", "1970-01-02T00:00:01Z", "main", "model", "A <b>, \"c\" & d"]);
        has(["data", "1970-01-02T00:00:01Z", "main", "failing", "5 X (now)"]);

        let text = xml(&told()).unwrap();
        let mut reader = quick_xml::Reader::from_str(&text);
        let (mut values, mut inside) = (0, String::new());
        loop {
            match reader.read_event().unwrap() {
                Event::Start(start) if start.name().as_ref() == "value" => values += 1,
                Event::Text(part) => inside.push_str(part.as_ref()),
                Event::GeneralRef(part) => inside.push_str(match part.as_ref() {
                    "lt" => "<",
                    "gt" => ">",
                    "amp" => "&",
                    "quot" => "\"",
                    other => panic!("{other}"),
                }),
                Event::Eof => break,
                _ => {}
            }
        }
        assert_eq!(values, rows.len());
        assert!(inside.contains("A <b>, \"c\" & d"), "{inside}");
    }

    #[test]
    fn the_table_has_a_line_for_each_record() {
        let mut out = Output::new(false);
        table(&mut out, &told()[0]);
        let text = out.into_text();
        assert!(text.contains("main   40     pending sectors 8") || text.contains("pending sectors 8"), "{text}");
        assert_eq!(text.lines().count(), 4, "{text}");
    }
}
