//! `metadata import`.

use super::super::create::{facts as create_facts, still_free};
use super::super::spare_facts::device_facts;
use super::super::{Context, Exit, Output};
use crate::block::Disk;
use crate::block::device::BlockDevice;
use crate::block::direct::{DirectDisk, Mode};
use crate::cli::args::{Create, Import};
use crate::cli::output::complain;
use crate::cli::report::{count, sizes};
use crate::engine::EngineError;
use crate::engine::create::CreateOptions;
use crate::engine::import::{ImportDevices, import as run, look_at_slots, read_bytes};
use crate::format::foreign_module::{Doubt, Ground, Judged, ModuleMetadata, judge, read_module_metadata};
use crate::plan::Refusal;
use crate::plan::create::Contents;
use crate::plan::import::{ImportFacts, ImportPlan, plan, select};
use crate::units::{Range, Sectors};
use anyhow::Result;
use std::fs;
use std::sync::Arc;

pub(super) fn import(context: &Context, args: &Import, out: &mut Output) -> Result<Exit> {
    let dm = context.dm()?;
    let _lock = context.lock(&format!("create-{}", args.name.replace('/', "_")), &args.name)?;
    let changes = args.yes && !args.dry_run && args.spare.is_some();
    let _claiming = if changes { Some(context.claim_lock()?) } else { None };
    if changes {
        // Else the same command, given again after it was killed, would find the name and the spare in use.
        context.remove_remains()?;
    }
    let old = Old::open(context, args)?;
    let main = context.device(&args.main)?;
    let copy = args.from_copy.map(usize::from);
    let module = read_module_metadata(&|offset, len| read_bytes(&*old.disk, offset, len), copy);
    let path = args.source.display().to_string();
    let module = module.map_err(|error| Refusal::Metadata { device: path.clone(), what: error.to_string() })?;
    let judged = judged(context, &old, &main, &module)?;
    let listed = report(args, &module, &judged, out);
    let Some(spare) = &args.spare else {
        let refusal =
            in_place(&path, &module, &ground(&old, &main, true), "Say with --spare where the new one is to be");
        if !out.is_json() {
            return Err(refusal.into());
        }
        // What was found is what the caller wanted to know.
        let text = refusal.to_string();
        out.json(&serde_json::json!({ "error": text, "exit_code": Exit::Refused as u8, "found": listed }));
        complain(&text);
        return Ok(Exit::Refused);
    };
    let spare = context.device(spare)?;
    if old.device.as_ref().is_some_and(|device| device.devno == spare.devno) {
        return Err(in_place(&path, &module, &ground(&old, &main, true), "Give another device with --spare").into());
    }
    let facts = facts(context, args, &old, &main, &spare, module, judged)?;
    let found: Vec<Contents> = facts.create.spares.iter().map(|spare| spare.contents.clone()).collect();
    let plan = plan(facts)?;
    plan.create.warnings.iter().for_each(|warning| context.note(warning));
    if args.dry_run || !args.yes {
        tell_plan(args, &plan, None, &listed, out);
        return Ok(if args.dry_run { Exit::Done } else { Exit::Refused });
    }
    let _setup_lock = context.lock(&plan.create.metadata.setup.to_string(), &args.name)?;
    let devices = ImportDevices { main: context.member(&main)?, spare: context.member(&spare)?, old: old.disk.clone() };
    let setup = plan.create.metadata.setup;
    let recheck = || still_free(context, setup, &main, std::iter::once(&spare).zip(&found));
    let layout = context.layout_rule(&plan.create.metadata.config.name);
    let options = CreateOptions { mark: &context.mark(), layout, recheck: &recheck, observer: &context.progress };
    let made = run(dm, &plan, devices, args.retries, &options)?;
    made.activation.warning.iter().for_each(|warning| context.note(warning));
    context.keep_backup(&made.session.metadata);
    tell_plan(args, &plan, Some(&made.lost), &listed, out);
    Ok(if made.lost.is_empty() { Exit::Done } else { Exit::Attention })
}

/// The old spare: a device, or an image of one.
struct Old {
    disk: Arc<dyn Disk>,
    device: Option<BlockDevice>,
}

impl Old {
    fn open(context: &Context, args: &Import) -> Result<Old> {
        let is_file = fs::metadata(&args.source).is_ok_and(|meta| meta.is_file());
        let device = if is_file { None } else { Some(context.device(&args.source)?) };
        let disk = DirectDisk::open(&context.host, &args.source, Mode::ReadOnly);
        let disk = Arc::new(disk.map_err(|error| EngineError::Device(error.to_string()))?);
        Ok(Old { disk, device })
    }
}

fn ground(old: &Old, main: &BlockDevice, in_place: bool) -> Ground {
    Ground { main: main.size, spare: old.disk.size(), in_place }
}

fn judged(context: &Context, old: &Old, main: &BlockDevice, module: &ModuleMetadata) -> Result<Vec<Judged>> {
    let mut judged = judge(module, &ground(old, main, false));
    let on_main = DirectDisk::open_device(main, Mode::ReadOnly).map_err(|e| EngineError::Device(e.to_string()))?;
    look_at_slots(&*old.disk, &on_main, &mut judged, &context.progress)?;
    Ok(judged)
}

fn facts(
    context: &Context,
    args: &Import,
    old: &Old,
    main: &BlockDevice,
    spare: &BlockDevice,
    module: ModuleMetadata,
    judged: Vec<Judged>,
) -> Result<ImportFacts> {
    let wanted = Create {
        name: args.name.clone(),
        main: args.main.clone(),
        spares: args.spare.iter().cloned().collect(),
        unreadable: None,
        allocation: None,
        layout: crate::cli::args::WithLayout { layout: None },
        force_signature: args.force_signature,
        dry_run: args.dry_run,
    };
    let mut create = create_facts(context, &wanted, main, std::slice::from_ref(spare))?;
    let mut old_uses = Vec::new();
    if let Some(device) = &old.device {
        old_uses = device_facts(context, device)?.uses;
        for other in [main, spare] {
            if let Some(why) = context.host.overlap(device, other) {
                let paths = [device, other].map(|device| device.path.display().to_string());
                let [first, second] = paths;
                create.overlaps.push((first, second, why));
            }
        }
    }
    Ok(ImportFacts {
        module,
        judged,
        accept: args.accept.clone(),
        old: args.source.display().to_string(),
        old_uses,
        old_block: old.disk.logical_block(),
        other_size: args.other_size,
        create,
    })
}

/// The refusal to use the old spare again: the data would have to make room for our metadata first, and a crash then could
/// lose both.
fn in_place(path: &str, module: &ModuleMetadata, ground: &Ground, advice: &str) -> Refusal {
    let in_our_way = |one: &&Judged| one.doubts.contains(&Doubt::OurMetadata);
    let what = format!(
        "it holds the only data of {}, {} of them where dm-remap's metadata would go: it is not converted in place, and stays as it is. {advice}",
        count(module.entries.len(), "remapped sector"),
        judge(module, ground).iter().filter(in_our_way).count()
    );
    Refusal::Metadata { device: path.into(), what }
}

/// What stands on the old spare: as text, unless JSON was asked for; returned as JSON.
fn report(args: &Import, module: &ModuleMetadata, judged: &[Judged], out: &mut Output) -> serde_json::Value {
    let (taken, left) = select(judged, &args.accept);
    let (copy, sector) = module.copy;
    let rows: Vec<_> = judged
        .iter()
        .map(|one| {
            serde_json::json!({
                "entry": one.entry.index, "sector": one.entry.original, "slot": one.entry.slot,
                "taken": !left.iter().any(|left| left.entry == one.entry),
                "doubts": one.doubts.iter().map(|doubt| doubt.word()).collect::<Vec<_>>(),
            })
        })
        .collect();
    let listed = serde_json::json!({
        "layout": module.layout.to_string(), "copy": copy, "copy_sector": sector,
        "main_sectors": module.main_sectors, "spare_sectors": module.spare_sectors,
        "notes": module.notes, "entries": rows,
    });
    if out.is_json() {
        return listed;
    }
    out.line(format!("{}: metadata of {} (copy {copy}, at sector {sector})", args.source.display(), module.layout));
    let sizes_known = [("main", module.main_sectors), ("spare", module.spare_sectors)];
    for (what, sectors) in sizes_known.into_iter().filter(|(_, sectors)| *sectors != Sectors::ZERO) {
        out.line(format!("  {what:<6}{} as recorded", sizes(sectors)));
    }
    for (name, value) in &module.names {
        out.line(format!("  {name}: {value}"));
    }
    for note in &module.notes {
        out.line(format!("  NOTE {note}"));
    }
    let entries = |number: usize| if number == 1 { "1 entry".to_string() } else { format!("{number} entries") };
    out.line(format!("  {}: {} to be taken in, {} left out", entries(judged.len()), taken.len(), left.len()));
    let doubtful: Vec<&Judged> = judged.iter().filter(|one| !one.doubts.is_empty()).collect();
    if doubtful.is_empty() {
        return listed;
    }
    let mut rows = vec![["ENTRY", "SECTOR", "OLD SLOT", "", "DOUBTS"].map(String::from).to_vec()];
    for one in &doubtful {
        let words: Vec<&str> = one.doubts.iter().map(|doubt| doubt.word()).collect();
        let fate = if left.iter().any(|left| left.entry == one.entry) { "left out" } else { "taken in" };
        let numbers = [one.entry.index.to_string(), one.entry.original.to_string(), one.entry.slot.to_string()];
        rows.push(numbers.into_iter().chain([fate.into(), words.join(", ")]).collect());
    }
    out.table(2, &rows);
    for doubt in Doubt::ALL.into_iter().filter(|doubt| doubtful.iter().any(|one| one.doubts.contains(doubt))) {
        let accept = if doubt.can_be_accepted() { "" } else { " (cannot be accepted)" };
        out.line(format!("  {doubt}: {}{accept}", doubt.meaning()));
    }
    listed
}

/// What is to be done, or was done when `lost` is given.
fn tell_plan(args: &Import, plan: &ImportPlan, lost: Option<&[Range]>, listed: &serde_json::Value, out: &mut Output) {
    let copied: u64 = plan.copies.iter().map(|copy| copy.range.len().0).fold(0, u64::saturating_add);
    let around = Sectors(copied.saturating_sub(plan.imported.0));
    let spares: Vec<&str> = plan.create.spares.iter().map(|spare| spare.path.as_str()).collect();
    if out.is_json() {
        out.json(&serde_json::json!({
            "dry_run": args.dry_run, "done": lost.is_some(), "name": args.name,
            "uuid": plan.create.metadata.setup, "main": plan.create.main.path, "spares": spares,
            "extents": plan.map.len(), "imported_sectors": plan.imported, "sectors_from_main": around,
            "lost": lost.unwrap_or_default(), "found": listed,
        }));
        return;
    }
    match lost {
        Some(_) => out.line(format!("'{}' is up: /dev/mapper/{}", args.name, args.name)),
        None => out.line(format!("would make '{}' of them", args.name)),
    }
    out.line(format!("  main   {}", plan.create.main.path));
    spares.iter().for_each(|spare| out.line(format!("  spare  {spare}")));
    out.line(format!(
        "  map    {}: {} from the old spare, {} around them from main",
        count(plan.map.len(), "extent"),
        sizes(plan.imported),
        sizes(around)
    ));
    for range in lost.unwrap_or_default() {
        out.line(format!("  LOST {range}  held: reads answer EIO until it is written"));
    }
    match lost {
        Some(_) => out.line(format!("  {} was only read: keep it until you are sure", args.source.display())),
        None if args.dry_run => out.line("dry run: nothing was changed"),
        None => out.line("nothing was changed; run it again with --yes to do this"),
    }
}
