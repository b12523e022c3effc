//! `list` and `map`: they read, and never write.

use super::{Context, Exit, Output};
use crate::cli::args::{List, Map, MapFormat};
use crate::cli::context::Usage;
use crate::cli::report;
use crate::cli::selection::select;
use crate::engine::session::{LiveDevices, live_devices};
use crate::segments::Layout;
use crate::units::Sectors;
use anyhow::Result;
use serde::Serialize;

pub(super) fn list(context: &Context, args: &List, out: &mut Output) -> Result<Exit> {
    let active = if args.names.is_empty() {
        context.active()?
    } else {
        let dm = context.dm()?;
        let live = |name: &String| Ok(live_devices(dm, name)?);
        select(context, &args.names)?.iter().map(live).collect::<Result<_>>()?
    };
    if out.is_json() {
        let rows: Vec<_> = active.iter().map(|live| row(context, live)).collect();
        out.json(&serde_json::json!({ "setups": rows }));
        return Ok(Exit::Done);
    }
    if active.is_empty() {
        out.line("no active setups");
        return Ok(Exit::Done);
    }
    let mut rows = vec![["NAME", "SECTORS", "MAIN", "SPARES", "UUID"].map(String::from).to_vec()];
    for live in &active {
        let row = row(context, live);
        rows.push(vec![
            row.name,
            row.sectors.to_string(),
            row.main.unwrap_or_default(),
            row.spares.join(" "),
            row.uuid,
        ]);
    }
    out.table(0, &rows);
    Ok(Exit::Done)
}

#[derive(Serialize)]
pub(super) struct ListRow {
    pub(super) name: String,
    pub(super) uuid: String,
    pub(super) device: String,
    pub(super) sectors: Sectors,
    pub(super) main: Option<String>,
    pub(super) spares: Vec<String>,
    pub(super) layout: Layout,
    pub(super) suspended: bool,
}

/// A setup as `list` shows it: by its tables alone.
pub(super) fn row(context: &Context, live: &LiveDevices) -> ListRow {
    let end = live.tables.flat.last().and_then(|t| t.start.checked_add(t.len));
    ListRow {
        name: live.state.name.clone(),
        uuid: live.setup.to_string(),
        device: format!("/dev/mapper/{}", live.state.name),
        sectors: end.unwrap_or_default(),
        main: live.main.map(|d| context.path_of(d)),
        spares: live.spares.iter().map(|(_, d, _)| context.path_of(*d)).collect(),
        layout: live.tables.layout(),
        suspended: live.state.suspended,
    }
}

pub(super) fn map(context: &Context, args: &Map, out: &mut Output) -> Result<Exit> {
    if args.block_size < 512 || !args.block_size.is_multiple_of(512) {
        return Err(Usage(format!("--block-size {}: it must be a multiple of 512", args.block_size)).into());
    }
    if args.format == MapFormat::Dmsetup {
        for target in live_devices(context.dm()?, &args.name)?.tables.flat {
            out.line(target.to_string());
        }
        return Ok(Exit::Done);
    }
    let session = context.reading_session(&args.name)?;
    let map = &session.metadata.map;
    match args.format {
        MapFormat::Csv => out.text(&report::csv(map)),
        MapFormat::Badblocks => out.text(&report::badblocks(map, args.block_size)),
        MapFormat::Mapfile => out.text(&report::mapfile(map)),
        MapFormat::Table if !out.is_json() && map.is_empty() => out.line("nothing is remapped"),
        MapFormat::Table if !out.is_json() => out.table(0, &report::extent_table(map)),
        _ => out.json(&serde_json::json!({
            "name": args.name,
            "unit": map.unit(),
            "sectors": map.main_len(),
            "generation": session.metadata.generation,
            "extents": report::extent_rows(map),
            "losses": map.losses().iter().collect::<Vec<_>>(),
        })),
    }
    Ok(Exit::Done)
}
