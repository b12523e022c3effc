//! The page as HTML.

use super::charts::{bar, disk, fill, growth, legend, shapes};
use super::{Entry, Facts, Setup, Tone, TroubleFacts};
use crate::stats::{Counters, Histogram, Latency, duration_words};
use crate::units::Sectors;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::time::{Duration, UNIX_EPOCH};

const STYLE: &str = include_str!("style.css");

/// What a browser may do with the page: show it. There is one style in it, and nothing else is run or loaded.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// The page, whole.
pub fn render(facts: &Facts) -> String {
    let title = match facts.setups.as_slice() {
        [Entry::Seen(setup)] => format!("dm-remap: {} on {}", setup.name, facts.host),
        _ => format!("dm-remap on {}", facts.host),
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="referrer" content="no-referrer";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (shapes())
                header {
                    h1 { (title) }
                    p class="soft" { "As of " (time(facts.time)) " (UTC), by dm-remap " (facts.version) "." }
                }
                main {
                    @if facts.setups.is_empty() { p { "No setup is up on this machine." } }
                    @if facts.setups.len() > 1 { (overview(&facts.setups)) }
                    @for (number, entry) in facts.setups.iter().enumerate() { (section(number, entry)) }
                }
            }
        }
    };
    page.into_string()
}

/// A size for people.
pub(super) fn size(sectors: Sectors) -> String {
    let plural = if sectors.0 == 1 { "" } else { "s" };
    match sectors.to_bytes() {
        Some(bytes) if sectors.0 > 0 => format!("{sectors} sector{plural} ({bytes})"),
        _ => format!("{sectors} sector{plural}"),
    }
}

fn time(seconds: u64) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH);
    // Beyond the year 9999 there is nothing to print.
    let latest = UNIX_EPOCH.checked_add(Duration::from_secs(253_402_300_799)).unwrap_or(UNIX_EPOCH);
    let text = humantime::format_rfc3339_seconds(time.min(latest)).to_string();
    text.replace('T', " ").trim_end_matches('Z').to_string()
}

fn class(tone: Tone) -> &'static str {
    match tone {
        Tone::Good => "good",
        Tone::Warning => "warning",
        Tone::Bad => "bad",
    }
}

fn state(tone: Tone, words: &str) -> Markup {
    html! { span class={ "state " (class(tone)) } { (words) } }
}

fn name(entry: &Entry) -> &str {
    match entry {
        Entry::Seen(setup) => &setup.name,
        Entry::Silent(name) | Entry::Failed(name, _) => name,
    }
}

fn entry_state(entry: &Entry) -> Markup {
    match entry {
        Entry::Seen(setup) => state(setup.tone, &setup.state),
        Entry::Silent(_) => state(Tone::Bad, "does not answer"),
        Entry::Failed(..) => state(Tone::Bad, "could not be looked at"),
    }
}

fn overview(setups: &[Entry]) -> Markup {
    html! {
        div class="wide" { table {
            thead { tr { th { "Setup" } th { "State" } th class="num" { "Moved" } th class="num" { "Lost" } } }
            tbody {
                @for (number, entry) in setups.iter().enumerate() {
                    tr {
                        td { a href={ "#s" (number) } { (name(entry)) } }
                        td { (entry_state(entry)) }
                        @if let Entry::Seen(setup) = entry {
                            td class="num" { (setup.remapped) }
                            td class="num" { (setup.lost) }
                        } @else { td class="num" { "?" } td class="num" { "?" } }
                    }
                }
            }
        } }
        p class="soft" { "In sectors of 512 bytes." }
    }
}

fn section(number: usize, entry: &Entry) -> Markup {
    html! {
        section {
            h2 id={ "s" (number) } { (name(entry)) }
            p { (entry_state(entry)) }
            @match entry {
                Entry::Seen(setup) => (setup_parts(setup)),
                Entry::Silent(name) => p {
                    "A device of it did not answer in time. Look at the kernel log (dmesg), the cable, the controller and the disk; "
                    code { "dm-remap list " (name) } " shows its devices without reading them."
                },
                Entry::Failed(_, why) => p { (why) },
            }
        }
    }
}

fn setup_parts(setup: &Setup) -> Markup {
    html! {
        (facts_list(setup))
        (todo(setup))
        (surface_part(setup))
        (disks_part(setup))
        (spares_part(setup))
        (growth_part(setup))
        (latency_part(setup))
        (losses_part(setup))
    }
}

fn facts_list(setup: &Setup) -> Markup {
    html! {
        dl {
            dt { "Device" } dd class="mono" { (setup.device) }
            dt { "Size" } dd { (size(setup.size)) }
            dt { "Main" } dd { span class="mono" { (setup.main) } @if !setup.main_identity.is_empty() { " · " (setup.main_identity) } }
            dt { "Moved" } dd { (size(setup.remapped)) " in " (setup.extents) " extents" }
            dt { "Lost" } dd { (size(setup.lost)) @if setup.held.0 > 0 { ", of which " (size(setup.held)) " answer EIO until they are written" } }
            dt { "Last scan" } dd { (setup.scan.as_deref().unwrap_or("never")) }
            @if !setup.room.is_empty() { dt { "Spares" } dd { (setup.room) } }
            dt { "UUID" } dd class="mono" { (setup.uuid) }
            dt { "Generation" } dd { (setup.generation) }
        }
    }
}

fn todo(setup: &Setup) -> Markup {
    html! {
        h3 { "What to do next" }
        @if setup.troubles.is_empty() {
            p { "Nothing needs to be done." }
            @if setup.scan.is_none() {
                p { "It has never been scanned: " code { "dm-remap scan " (setup.name) } " finds bad sectors before you do." }
            }
        }
        @for trouble in &setup.troubles { (trouble_part(setup, trouble)) }
    }
}

fn trouble_part(setup: &Setup, trouble: &TroubleFacts) -> Markup {
    html! {
        div class={ "trouble " (class(setup.tone)) } {
            h4 { (trouble.title) " " span class="soft" { "(" (trouble.code) ")" } }
            p { (trouble.status) "." }
            p { strong { "Do: " } (trouble.action) "." }
            p class="soft" { (trouble.meaning) " " (trouble.remedy) }
        }
    }
}

fn surface_part(setup: &Setup) -> Markup {
    let surface = &setup.surface;
    let cells = surface.marked.len();
    let about = format!("The surface of {}: {cells} of {} parts have something in them", setup.main, surface.cells);
    html! {
        h3 { "Surface of the disk" }
        figure {
            (disk(surface, &about))
            figcaption {
                (legend(surface))
                @if surface.marked.is_empty() {
                    "Nothing bad is known of it."
                } @else {
                    "From the first sector at the top left to the last; each square stands for "
                    (size(Sectors(setup.size.0.checked_div(surface.cells).unwrap_or(0)))) " and shows the gravest thing in it."
                }
            }
        }
        @if !setup.largest.is_empty() {
            p class="soft" {
                "The largest runs on spares: "
                @for (place, (range, spare)) in setup.largest.iter().enumerate() {
                    @if place > 0 { ", " }
                    span class="mono" { (range) } " (spare " (spare) ")"
                }
                ". All of them: " code { "dm-remap map " (setup.name) } "."
            }
        }
    }
}

fn disks_part(setup: &Setup) -> Markup {
    html! {
        @if !setup.disks.is_empty() {
            h3 { "Disks" }
            div class="wide" { table {
                thead { tr {
                    th { "Disk" } th { "Health" } th class="num" { "Score" } th { "Gravest reason" } th { "Fails within 30 days" } th { "Asked" }
                } }
                tbody {
                    @for disk in &setup.disks {
                        tr {
                            td class="dev" { (disk.role) " " span class="mono soft" { (disk.path) } }
                            td { (state(disk.tone, &disk.band)) }
                            td class="num" { (disk.score) }
                            td { (disk.reason.as_deref().unwrap_or("-")) }
                            td { (disk.risk.as_deref().unwrap_or("not known")) }
                            td { (time(disk.recorded)) }
                        }
                    }
                }
            } }
            p class="soft" {
                "As the disks last said themselves, and as scans and moves have shown. Of how many such disks failed within 30 days "
                "in the data that the model was fitted on, and in brackets of how many disks of all."
            }
        }
    }
}

fn spares_part(setup: &Setup) -> Markup {
    html! {
        h3 { "Spares" }
        div class="wide" { table {
            thead { tr {
                th { "Spare" } th { "State" } th { "Full" } th class="num" { "Used" } th class="num" { "Free" } th class="num" { "Bad" } th class="num" { "Copies" }
            } }
            tbody {
                @for spare in &setup.spares {
                    @let tone = match spare.state.as_str() { "online" => Tone::Good, "draining" => Tone::Warning, _ => Tone::Bad };
                    tr {
                        td class="dev" { (spare.index) " " span class="mono soft" { (spare.device.as_deref().unwrap_or("-")) } }
                        td { (state(tone, &spare.state)) }
                        td { (fill(spare)) }
                        td class="num" { (spare.used) } td class="num" { (spare.free) } td class="num" { (spare.bad) } td class="num" { (spare.copies_current) "/5" }
                    }
                }
            }
        } }
        p class="soft" { "In sectors of 512 bytes. Copies: those of the five copies of the metadata that are whole and current." }
    }
}

fn growth_part(setup: &Setup) -> Markup {
    let most = setup.history.iter().map(|point| point.remapped.max(point.lost)).max().unwrap_or(Sectors::ZERO);
    let about = format!("Sectors on spares over time, {} at most", size(most));
    html! {
        h3 { "Growth" }
        @match (growth(&setup.history, &about), setup.history.first(), setup.history.last()) {
            (Some(chart), Some(first), Some(last)) => figure {
                div class="ends" { span { (size(most)) } }
                (chart)
                div class="ends" { span { (time(first.time)) } span { (time(last.time)) } }
                figcaption {
                    @if let Some(foresight) = &setup.foresight { (foresight) ". " }
                    "The line: sectors on spares, " (first.remapped) " at first and " (last.remapped) " now."
                    @if setup.history.iter().any(|point| point.lost.0 > 0) { " Dashed: sectors that are lost and not acknowledged." }
                }
            },
            _ => p class="soft" { "There is no history yet: it grows with each command that changes or scans the setup." },
        }
    }
}

fn latency_part(setup: &Setup) -> Markup {
    html! {
        h3 { "Latency" }
        @match &setup.stats.setup {
            None => p class="soft" {
                "Requests are not counted. " code { "dm-remap stats " (setup.name) " --enable" } " begins; "
                code { "metrics.latency: true" } " in the configuration does so for good."
            },
            Some(counted) => {
                p class="soft" {
                    "Of all requests to the setup" @if counted.since > 0 { " since " (time(counted.since)) } ", as the kernel has counted them."
                }
                (latency_table(setup))
                (histogram(&counted.counters.histogram))
            },
        }
    }
}

fn latency_table(setup: &Setup) -> Markup {
    let spares = setup.stats.spares.iter();
    let rows = spares.filter_map(|spare| Some((format!("spare {}", spare.index), &spare.counted.as_ref()?.counters)));
    let all = setup.stats.setup.iter().map(|counted| ("all".to_string(), &counted.counters));
    html! {
        div class="wide" { table {
            thead { tr {
                th { "Requests" } th class="num" { "Reads" } th class="num" { "Writes" } th class="num" { "Mean read" } th class="num" { "Mean write" }
                th class="num" { "50 %" } th class="num" { "99 %" } th class="num" { "99.9 %" } th class="num" { "Slowest" }
            } }
            tbody { @for (what, counters) in all.chain(rows) { (latency_row(&what, counters)) } }
        } }
    }
}

fn latency_row(what: &str, counters: &Counters) -> Markup {
    let mean = |ns: Option<u64>| ns.map_or("-".to_string(), duration_words);
    let at = |permille| counters.histogram.percentile(permille).map_or("-".to_string(), Latency::words);
    html! {
        tr {
            td { (what) }
            td class="num" { (counters.reads) } td class="num" { (counters.writes) }
            td class="num" { (mean(counters.mean_read_ns())) } td class="num" { (mean(counters.mean_write_ns())) }
            @for permille in [500, 990, 999, 1000] { td class="num" { (at(permille)) } }
        }
    }
}

/// The bins from the first to the last that has requests. The bars are of the number's length in binary digits: one slow request
/// in a million is what one looks for.
fn histogram(histogram: &Histogram) -> Markup {
    let counts = &histogram.counts;
    let first = counts.iter().position(|count| *count > 0).unwrap_or(counts.len());
    let last = counts.iter().rposition(|count| *count > 0).unwrap_or(0);
    let digits = |count: u64| u64::from(u64::BITS.saturating_sub(count.leading_zeros()));
    let most = counts.iter().copied().map(digits).max().unwrap_or(1);
    let bins = counts.iter().enumerate().take(last.saturating_add(1)).skip(first);
    html! {
        @if first < counts.len() {
            table {
                thead { tr { th class="num" { "Time up to" } th class="num" { "Requests" } th { "On a logarithmic scale" } } }
                tbody {
                    @for (bin, count) in bins {
                        @let bound = histogram.bounds_ns.get(bin).map(|bound| duration_words(*bound));
                        tr {
                            td class="num" { (bound.unwrap_or_else(|| "longer".into())) }
                            td class="num" { (count) }
                            td { (bar(digits(*count), most)) }
                        }
                    }
                }
            }
        }
    }
}

fn losses_part(setup: &Setup) -> Markup {
    let shown = u64::try_from(setup.losses.len()).unwrap_or(u64::MAX);
    html! {
        @if setup.loss_count > 0 {
            h3 { "What was lost" }
            div class="wide" { table {
                thead { tr { th { "Sectors" } th { "What became of them" } th { "What they belong to" } } }
                tbody {
                    @for loss in &setup.losses {
                        tr {
                            td class="mono" { (loss.range) }
                            td { (loss.fate) }
                            td { @for (place, owner) in loss.owners.iter().enumerate() { @if place > 0 { br; } (owner) } }
                        }
                    }
                }
            } }
            @if setup.loss_count > shown {
                p class="soft" { "… and " (setup.loss_count.saturating_sub(shown)) " more: " code { "dm-remap status " (setup.name) } "." }
            }
        }
    }
}
