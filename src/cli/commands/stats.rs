//! `stats`: how many requests there were, and how long they took; and having them counted.
//!
//! Invariant: looking changes nothing; what changes something is done under the setup's lock, and never while it is suspended.

use super::stats_view::{Interval, interval_lines, setup_text};
use super::{Context, Exit, Output};
use crate::cli::args::stats::Stats as Args;
use crate::cli::output::{SCHEMA_VERSION, complain};
use crate::cli::selection::select;
use crate::cli::signals::Signals;
use crate::cli::{exit_of, worse};
use crate::config::METRICS_LATENCY;
use crate::engine::session::live_devices;
use crate::engine::{EngineError, counting};
use crate::plan::Refusal;
use crate::stats::{Counted, Counters, SetupStats};
use anyhow::Result;
use serde_json::{Value, json};
use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

pub(super) fn stats(context: &Context, args: &Args, out: &mut Output) -> Result<Exit> {
    context.dm()?;
    let names = select(context, &args.names)?;
    if let Some(pause) = args.watch {
        return watch(context, &names, pause, args.count, out);
    }
    let mut exit = Exit::Done;
    let mut setups = Vec::new();
    for name in &names {
        let changing = args.enable || args.disable || args.reset;
        let said = if changing { change(context, args, name) } else { look(context, args, name, out) };
        match said {
            Ok(Said { text, json }) => {
                if !setups.is_empty() && !text.is_empty() && text.lines().count() > 1 {
                    out.line("");
                }
                if !out.is_json() {
                    out.text(&text);
                }
                setups.push(json);
            }
            Err(error) if names.len() == 1 => return Err(error),
            Err(error) => {
                complain(&format!("{error:#}"));
                setups.push(json!({ "name": name, "error": format!("{error:#}") }));
                exit = worse(exit, exit_of(&error));
            }
        }
    }
    if out.is_json() {
        out.json(&json!({ "setups": setups }));
    } else if names.is_empty() {
        out.line("no active setups");
    }
    Ok(exit)
}

/// What is to be said of a setup.
struct Said {
    text: String,
    json: Value,
}

/// Has requests counted, where the configuration says so, or where that is done already and a spare has come. Nothing is said
/// of it, and a failure is noted: counting is never the reason that something else does not work.
pub(super) fn count_configured(context: &Context, name: &str) {
    let wanted = context.settings(Some(name)).is_ok_and(|settings| settings.get(&METRICS_LATENCY));
    let counted = || -> Result<()> {
        let dm = context.dm()?;
        if wanted || counting::is_enabled(dm, name)? {
            enable(context, name)?;
        }
        Ok(())
    };
    match counted() {
        Err(error) if !is_busy(&error) => context.note(&format!("{name}: requests are not counted: {error:#}")),
        _ => {}
    }
}

/// Another command is at work, and will do this at its own end.
fn is_busy(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(EngineError::Refused(Refusal::Busy { .. })))
}

/// Under the lock: a copy in progress must not have the device wait for requests.
fn enable(context: &Context, name: &str) -> Result<bool> {
    let dm = context.dm()?;
    let live = live_devices(dm, name)?;
    let _lock = context.lock(&live.setup.to_string(), name)?;
    not_suspended(&live.state)?;
    Ok(counting::enable(dm, name)?)
}

fn not_suspended(state: &crate::dm::DeviceState) -> Result<(), EngineError> {
    if state.suspended { Err(Refusal::Suspended(state.name.clone()).into()) } else { Ok(()) }
}

fn change(context: &Context, args: &Args, name: &str) -> Result<Said> {
    let dm = context.dm()?;
    let mut was_counted = false;
    if args.disable || args.reset {
        let live = live_devices(dm, name)?;
        let _lock = context.lock(&live.setup.to_string(), name)?;
        not_suspended(&live.state)?;
        was_counted = counting::disable(dm, name)?;
    }
    let is_new = !args.disable && enable(context, name)?;
    let text = match (args.disable, is_new, was_counted) {
        (true, _, false) => "were not counted",
        (true, _, true) => "are not counted any more",
        (false, true, _) => "are counted from now on",
        (false, false, _) => "are counted already",
    };
    let text = format!("{name}: requests {text}\n");
    if args.disable && context.settings(Some(name)).is_ok_and(|settings| settings.get(&METRICS_LATENCY)) {
        context.note(&format!(
            "{name}: the configuration says metrics.latency: true, so the next command that changes it counts again"
        ));
    }
    Ok(Said { text, json: json!({ "name": name, "counted": !args.disable }) })
}

fn look(context: &Context, args: &Args, name: &str, out: &Output) -> Result<Said> {
    let stats = counting::read(context.dm()?, name)?;
    let mut text = Output::like(out);
    setup_text(&mut text, name, &stats, !args.no_histogram);
    Ok(Said { text: text.into_text(), json: setup_json(name, &stats) })
}

fn setup_json(name: &str, stats: &SetupStats) -> Value {
    let spares = stats.spares.iter().map(|spare| {
        let mut object = counted_json(spare.counted.as_ref());
        let more = json!({
            "index": spare.index, "sectors": spare.sectors, "counted_sectors": spare.counted_sectors,
        });
        merge(&mut object, &more);
        object
    });
    json!({
        "name": name,
        "counted": stats.setup.is_some(),
        "setup": counted_json(stats.setup.as_ref()),
        "spares": spares.collect::<Vec<_>>(),
    })
}

fn merge(object: &mut Value, more: &Value) {
    if let (Value::Object(object), Value::Object(more)) = (object, more) {
        object.extend(more.clone());
    }
}

fn counted_json(counted: Option<&Counted>) -> Value {
    let Some(counted) = counted else { return json!({ "counted": false }) };
    let mut object = counters_json(&counted.counters);
    merge(&mut object, &json!({ "counted": true, "since": counted.since }));
    object
}

fn counters_json(counters: &Counters) -> Value {
    let mut object = serde_json::to_value(counters).unwrap_or_default();
    let at = |permille| counters.histogram.percentile(permille);
    merge(
        &mut object,
        &json!({ "latency": { "p50": at(500), "p90": at(900), "p99": at(990), "p999": at(999), "slowest": at(1000) } }),
    );
    object
}

/// Prints a line for each device and interval, until a signal or the count ends it, or nobody reads any more.
fn watch(context: &Context, names: &[String], pause: Duration, count: Option<u64>, out: &Output) -> Result<Exit> {
    let dm = context.dm()?;
    let pause = pause.max(Duration::from_millis(100));
    let mut signals =
        Signals::take().map_err(|errno| EngineError::system("cannot wait for signals", std::io::Error::from(errno)))?;
    let read = || names.iter().map(|name| Ok(counting::read(dm, name)?)).collect::<Result<Vec<SetupStats>>>();
    let mut before = read()?;
    for (name, stats) in names.iter().zip(&before) {
        if stats.setup.is_none() {
            return Err(Refusal::NotCounted(name.clone()).into());
        }
    }
    let mut at = Instant::now();
    let mut round = 0u64;
    while count.is_none_or(|count| round < count) {
        let next = at.checked_add(pause).unwrap_or(at);
        while Instant::now() < next {
            if signals.came() {
                return Ok(Exit::Done);
            }
            std::thread::sleep(next.saturating_duration_since(Instant::now()).min(Duration::from_millis(100)));
        }
        let after = read()?;
        let now = Instant::now();
        let interval =
            Interval { time: SystemTime::now(), length: now.saturating_duration_since(at), first: round == 0 };
        let text = if out.is_json() {
            interval_json(names, &before, &after, interval)
        } else {
            interval_lines(names, &before, &after, interval)
        };
        if !printed(&text) {
            return Ok(Exit::Done);
        }
        (before, at) = (after, now);
        round = round.saturating_add(1);
    }
    Ok(Exit::Done)
}

/// Whether somebody reads still.
fn printed(text: &str) -> bool {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_ok()
}

fn interval_json(names: &[String], before: &[SetupStats], after: &[SetupStats], interval: Interval) -> String {
    let one = |(name, (before, after)): (&String, (&SetupStats, &SetupStats))| setup_json(name, &after.since(before));
    let setups: Vec<Value> = names.iter().zip(before.iter().zip(after)).map(one).collect();
    let line = json!({
        "schema_version": SCHEMA_VERSION,
        "time": humantime::format_rfc3339_millis(interval.time).to_string(),
        "seconds": interval.length.as_secs_f64(),
        "setups": setups,
    });
    format!("{line}\n")
}
