//! The pictures, as SVG inside the page. They have no text in them, which would shrink on a phone: what is to be read stands
//! beside them, as HTML.
//!
//! Invariants: coordinates are whole numbers; a picture has a bounded number of parts; what is there, however little, can be seen;
//! nothing is told by colour alone.

use super::surface::{KINDS, Mark, Surface};
use super::{Point, SpareFacts};
use crate::units::Sectors;
use maud::{Markup, html};

/// Cells side by side in the picture of a surface.
const COLUMNS: u64 = 64;

/// Side of a cell.
const CELL: u64 = 10;

/// The most cells of a surface.
pub(super) const MOST_CELLS: u64 = 24 * COLUMNS;

/// Width and height of a chart of growth.
const CHART: (u64, u64) = (640, 160);

/// `part` of `whole` on a scale to `most`, at least 1 when there is something.
fn scaled(part: u64, whole: u64, most: u64) -> u64 {
    let size = u128::from(part).saturating_mul(u128::from(most)).checked_div(u128::from(whole)).unwrap_or(0);
    let size = u64::try_from(size).unwrap_or(most).min(most);
    if part > 0 { size.max(1) } else { size }
}

/// The shape of a kind of place: they differ in form, too.
fn shape(kind: Mark) -> Markup {
    match kind {
        Mark::Moved => html! { rect class="c-moved" x="1" y="1" width="8" height="8" {} },
        Mark::Weak => html! { rect class="c-weak" x="2" y="2" width="6" height="6" {} },
        Mark::Bad => html! { path class="c-bad" d="M1 1L9 9M9 1L1 9" {} },
        Mark::Lost => {
            html! { rect class="c-lost" x="0" y="0" width="10" height="10" {} path class="over" d="M1 1L9 9M9 1L1 9" {} }
        }
    }
}

/// The shapes, for pictures to refer to. Once in a page.
pub(super) fn shapes() -> Markup {
    html! {
        svg width="0" height="0" aria-hidden="true" {
            defs { @for kind in KINDS { g id=(symbol(kind)) { (shape(kind)) } } }
        }
    }
}

fn symbol(kind: Mark) -> &'static str {
    match kind {
        Mark::Lost => "l",
        Mark::Bad => "b",
        Mark::Weak => "w",
        Mark::Moved => "m",
    }
}

/// What the shapes mean, with how much there is of each.
pub(super) fn legend(surface: &Surface) -> Markup {
    html! {
        ul class="legend" {
            @for kind in KINDS {
                @let sectors = surface.sectors(kind);
                li {
                    svg class="key" viewBox="0 0 10 10" aria-hidden="true" { (shape(kind)) }
                    " " (kind.word()) ": " (super::page::size(sectors))
                }
            }
        }
    }
}

/// The surface of a disk: its cells line by line.
pub(super) fn disk(surface: &Surface, about: &str) -> Markup {
    let columns = COLUMNS.min(surface.cells).max(1);
    let rows = surface.cells.div_ceil(columns);
    let (width, height) = (columns.saturating_mul(CELL), rows.saturating_mul(CELL));
    // The last line may be shorter.
    let rest = surface.cells.checked_rem(columns).unwrap_or(0).saturating_mul(CELL);
    let last = height.saturating_sub(CELL);
    let outline = if rest == 0 || rows == 1 {
        format!("M0 0H{width}V{height}H0Z")
    } else {
        format!("M0 0H{width}V{last}H{rest}V{height}H0Z")
    };
    html! {
        svg viewBox={ "0 0 " (width) " " (height) } role="img" aria-label=(about) {
            path class="empty" d=(outline) {}
            @for cell in &surface.marked {
                @if let Some(kind) = cell.shows() {
                    @let x = cell.number.checked_rem(columns).unwrap_or(0).saturating_mul(CELL);
                    @let y = cell.number.checked_div(columns).unwrap_or(0).saturating_mul(CELL);
                    use href={ "#" (symbol(kind)) } x=(x) y=(y) {
                        title { (cell_words(cell.range, &cell.sectors)) }
                    }
                }
            }
        }
    }
}

fn cell_words(range: crate::units::Range, sectors: &[u64; 4]) -> String {
    let parts = KINDS.into_iter().zip(sectors).filter(|(_, count)| **count > 0);
    let parts: Vec<String> = parts.map(|(kind, count)| format!("{count} {}", kind.word())).collect();
    format!("{range}: {}", parts.join(", "))
}

/// How full a spare is.
pub(super) fn fill(spare: &SpareFacts) -> Markup {
    const WIDTH: u64 = 1000;
    let whole = spare.used.0.saturating_add(spare.bad.0).saturating_add(spare.free.0);
    let used = scaled(spare.used.0, whole, WIDTH).max(if spare.used.0 > 0 { 8 } else { 0 });
    let bad = scaled(spare.bad.0, whole, WIDTH).max(if spare.bad.0 > 0 { 8 } else { 0 });
    let percent = scaled(spare.used.0, whole, 100);
    html! {
        svg viewBox="0 0 1000 20" preserveAspectRatio="none" role="img" aria-label={ (percent) " % used" } {
            rect class="f-free" width="1000" height="20" {}
            rect class="f-used" width=(used) height="20" {}
            rect class="f-bad" x=(WIDTH.saturating_sub(bad)) width=(bad) height="20" {}
        }
    }
}

/// A bar of `part` in `most`.
pub(super) fn bar(part: u64, most: u64) -> Markup {
    let width = scaled(part, most, 1000).max(if part > 0 { 8 } else { 0 });
    html! {
        svg viewBox="0 0 1000 20" preserveAspectRatio="none" aria-hidden="true" {
            rect class="f-used" width=(width) height="20" {}
        }
    }
}

/// Growth over time: what lives on spares, and what is lost. `None` when there are not two points in time to draw.
pub(super) fn growth(points: &[Point], about: &str) -> Option<Markup> {
    let (first, last) = (points.first()?, points.last()?);
    let span = last.time.checked_sub(first.time).filter(|span| *span > 0)?;
    let most = points.iter().map(|point| point.remapped.max(point.lost).0).max().unwrap_or(0);
    let moved = steps(points, first.time, span, most, |point| point.remapped);
    let lost = steps(points, first.time, span, most, |point| point.lost);
    let any_lost = points.iter().any(|point| point.lost.0 > 0);
    Some(html! {
        svg class="growth" viewBox={ "0 0 " (CHART.0) " " (CHART.1) } preserveAspectRatio="none" role="img" aria-label=(about) {
            path class="axis" d={ "M0 0V" (CHART.1) "H" (CHART.0) } {}
            path class="s-moved" d=(moved) {}
            @if any_lost { path class="s-lost" d=(lost) {} }
        }
    })
}

/// A line that goes on level until the next point. Of the points in one column the highest and the last are drawn.
fn steps(points: &[Point], start: u64, span: u64, most: u64, value: impl Fn(&Point) -> Sectors) -> String {
    let mut columns: Vec<(u64, u64, u64)> = Vec::new();
    for point in points {
        let x = u128::from(point.time.saturating_sub(start)).saturating_mul(u128::from(CHART.0));
        let x = u64::try_from(x.checked_div(u128::from(span)).unwrap_or(0)).unwrap_or(CHART.0).min(CHART.0);
        let height = scaled(value(point).0, most, CHART.1.saturating_sub(4));
        match columns.last_mut() {
            Some((column, high, last)) if *column >= x => {
                *high = (*high).max(height);
                *last = height;
            }
            _ => columns.push((x, height, height)),
        }
    }
    let mut path = String::new();
    let y = |height: u64| CHART.1.saturating_sub(1).saturating_sub(height);
    for (x, high, last) in columns {
        if path.is_empty() {
            path.push_str(&format!("M{x} {}", y(high)));
        } else {
            path.push_str(&format!("H{x}V{}", y(high)));
        }
        if last != high {
            path.push_str(&format!("V{}", y(last)));
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_can_be_seen() {
        assert_eq!([scaled(0, 100, 10), scaled(1, 1 << 60, 10), scaled(100, 100, 10), scaled(5, 0, 10)], [0, 1, 10, 1]);
    }

    #[test]
    fn growth_is_a_line_with_steps_and_keeps_its_peaks() {
        let point = |time, remapped| Point { time, remapped: Sectors(remapped), lost: Sectors::ZERO };
        let points = [point(0, 0), point(500, 10), point(501, 0), point(1000, 5)];
        assert_eq!(steps(&points, 0, 1000, 10, |point| point.remapped), "M0 159H320V3V159H640V81");
        assert!(growth(&points[..1], "").is_none());
        assert!(growth(&[point(5, 1), point(5, 2)], "").is_none());
        // A clock that was set back.
        assert!(growth(&[point(9, 1), point(5, 2)], "").is_none());
    }
}
