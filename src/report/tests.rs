use super::*;
use crate::stats::{BOUNDS_NS, Counted, Counters, Histogram, SpareStats};
use crate::units::RangeSet;
use html5ever::tendril::TendrilSink;
use markup5ever_rcdom::{Handle, NodeData, RcDom};
use proptest::prelude::*;

fn range(start: u64, len: u64) -> Range {
    Range::new(Sectors(start), Sectors(len)).unwrap()
}

/// A setup with nothing wrong at all, as it is just after `create`.
fn fresh() -> Setup {
    Setup {
        name: "data".into(),
        state: "healthy".into(),
        main: "/dev/sda".into(),
        size: Sectors(1 << 31),
        surface: surface(Sectors(1 << 31), Sectors(8), MOST_CELLS, []),
        spares: vec![SpareFacts {
            device: Some("/dev/sdb".into()),
            state: "online".into(),
            free: Sectors(1000),
            copies_current: 5,
            ..SpareFacts::default()
        }],
        ..Setup::default()
    }
}

/// As much as there can be: 16 spares, 10,000 extents, losses and files, ten years of history.
fn full(text: &str) -> Setup {
    let size = Sectors(1 << 33);
    let moved = (0..10_000u64).map(|n| (range(n * 800_000, 8), Mark::Moved));
    let lost = (0..300u64).map(|n| (range(n * 800_000, 8), Mark::Lost));
    let weak = (0..300u64).map(|n| (range(n * 1_600_000 + 64, 8), Mark::Weak));
    let bad = (0..300u64).map(|n| (range(n * 3_200_000 + 128, 8), Mark::Bad));
    let counts: Vec<u64> = (0..=BOUNDS_NS.len() as u64).map(|n| n * n * n * n).collect();
    let histogram = Histogram { bounds_ns: BOUNDS_NS.to_vec(), counts };
    let counters = Counters { reads: 1 << 40, read_ns: u64::MAX, writes: 77, histogram, ..Counters::default() };
    let counted = Some(Counted { since: 1_700_000_000, counters });
    let trouble = |n| TroubleFacts {
        code: format!("DMR-{n:02}"),
        title: text.into(),
        status: text.into(),
        action: text.into(),
        meaning: text.into(),
        remedy: text.into(),
    };
    let disk = |n| DiskFacts {
        role: format!("spare{n}"),
        path: text.into(),
        score: 100,
        band: text.into(),
        tone: Tone::Warning,
        reason: Some(text.into()),
        risk: Some(text.into()),
        recorded: u64::MAX,
    };
    Setup {
        name: text.into(),
        disks: (0..17).map(disk).collect(),
        foresight: Some(text.into()),
        uuid: text.into(),
        device: text.into(),
        main: text.into(),
        main_identity: text.into(),
        state: text.into(),
        tone: Tone::Bad,
        troubles: (1..=11).map(trouble).collect(),
        size,
        generation: u64::MAX,
        remapped: Sectors(80_000),
        extents: 10_000,
        held: Sectors(2400),
        lost: Sectors(2400),
        surface: surface(size, Sectors(8), MOST_CELLS, moved.chain(lost).chain(weak).chain(bad)),
        scan: Some(text.into()),
        room: text.into(),
        spares: (0..16)
            .map(|index| SpareFacts {
                index,
                device: (index != 3).then(|| text.to_string()),
                state: if index == 3 { text.into() } else { "online".into() },
                size: Sectors(1 << 21),
                used: Sectors(u64::from(index) * 100_000),
                free: Sectors(1 << 20),
                bad: Sectors(u64::from(index % 3)),
                copies_current: 5,
            })
            .collect(),
        history: (0..3650)
            .map(|day| Point {
                time: 1_500_000_000 + day * 86_400,
                remapped: Sectors(day * 22),
                lost: Sectors(day / 2),
            })
            .collect(),
        stats: SetupStats {
            setup: counted.clone(),
            spares: (0..16)
                .map(|index| SpareStats { index, counted: counted.clone(), ..SpareStats::default() })
                .collect(),
        },
        losses: (0..MOST_LOSSES as u64)
            .map(|n| LossFacts { range: range(n * 800_000, 8), fate: text.into(), owners: vec![text.into(); 10] })
            .collect(),
        loss_count: 300,
        largest: (0..MOST_RUNS as u64).map(|n| (range(n * 800_000, 8), 3)).collect(),
    }
}

fn facts(setups: Vec<Entry>) -> Facts {
    Facts { host: "machine".into(), time: 1_800_000_000, version: "0.1.0".into(), setups }
}

fn seen(setup: Setup) -> Entry {
    Entry::Seen(Box::new(setup))
}

/// An element, with its attributes.
#[derive(Debug)]
struct Element {
    name: String,
    attributes: Vec<(String, String)>,
}

impl Element {
    fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// What a browser makes of the page: its elements, and its text. The page must have no fault that a browser would mend.
fn parse(page: &str) -> (Vec<Element>, String) {
    let dom = html5ever::parse_document(RcDom::default(), html5ever::ParseOpts::default()).one(page);
    let errors = dom.errors.borrow();
    assert!(errors.is_empty(), "{errors:?}");
    let (mut elements, mut text) = (Vec::new(), String::new());
    walk(&dom.document, &mut elements, &mut text);
    (elements, text)
}

fn walk(node: &Handle, elements: &mut Vec<Element>, text: &mut String) {
    match &node.data {
        NodeData::Element { name, attrs, .. } => {
            let attributes = attrs.borrow().iter().map(|a| (a.name.local.to_string(), a.value.to_string())).collect();
            elements.push(Element { name: name.local.to_string(), attributes });
        }
        NodeData::Text { contents } => text.push_str(&contents.borrow()),
        _ => {}
    }
    node.children.borrow().iter().for_each(|child| walk(child, elements, text));
}

/// Nothing in it is run, or loaded from anywhere.
fn is_self_contained(elements: &[Element]) {
    const ALLOWED: [&str; 44] = [
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "header",
        "main",
        "section",
        "h1",
        "h2",
        "h3",
        "h4",
        "p",
        "div",
        "span",
        "strong",
        "code",
        "br",
        "a",
        "ul",
        "li",
        "dl",
        "dt",
        "dd",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "figure",
        "figcaption",
        "svg",
        "defs",
        "g",
        "use",
        "rect",
        "path",
        "title",
        "nav",
        "em",
        "small",
        "hr",
    ];
    for element in elements {
        assert!(ALLOWED.contains(&element.name.as_str()), "{element:?}");
        for (name, value) in &element.attributes {
            assert!(
                !name.starts_with("on") && !["style", "src", "srcset", "action", "ping"].contains(&name.as_str()),
                "{element:?}"
            );
            if name == "href" {
                assert!(value.starts_with('#'), "{element:?}");
            }
        }
    }
    let policy = elements.iter().find(|e| e.attribute("http-equiv") == Some("Content-Security-Policy")).unwrap();
    assert!(policy.attribute("content").unwrap().starts_with("default-src 'none'; "), "{policy:?}");
    let ids: Vec<&str> = elements.iter().filter_map(|element| element.attribute("id")).collect();
    let mut unique = ids.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(ids.len(), unique.len(), "an id is there twice");
    for element in elements {
        if let Some(target) = element.attribute("href").and_then(|href| href.strip_prefix('#')) {
            assert!(ids.contains(&target), "{element:?} leads nowhere");
        }
    }
}

#[test]
fn a_page_is_whole_and_loads_nothing() {
    for setups in [
        vec![],
        vec![seen(fresh())],
        vec![seen(full("text"))],
        vec![
            seen(fresh()),
            seen(full("other")),
            Entry::Silent("slow".into()),
            Entry::Failed("gone".into(), "why".into()),
        ],
    ] {
        let (elements, text) = parse(&render(&facts(setups.clone())));
        is_self_contained(&elements);
        for entry in &setups {
            let name = match entry {
                Entry::Seen(setup) => &setup.name,
                Entry::Silent(name) | Entry::Failed(name, _) => name,
            };
            assert!(text.contains(name.as_str()));
        }
    }
}

#[test]
fn it_says_what_matters() {
    let (_, text) = parse(&render(&facts(vec![seen(fresh())])));
    for words in [
        "Nothing needs to be done.",
        "dm-remap scan data",
        "Nothing bad is known of it.",
        "There is no history yet",
        "dm-remap stats data --enable",
    ] {
        assert!(text.contains(words), "'{words}' is not in {text}");
    }
    let setup = Setup { name: "data".into(), ..full("text") };
    let (elements, text) = parse(&render(&facts(vec![seen(setup)])));
    for words in [
        "DMR-05",
        "Do: text.",
        "and 200 more",
        "2017-07-14 02:40:00",
        "2027-07-",
        "logarithmic",
        "moved: 80000 sectors",
        "lost: 2400 sectors",
        "weak: 2400 sectors",
        "bad, not moved: 2400 sectors",
    ] {
        assert!(text.contains(words), "'{words}' is not in {text}");
    }
    // Each picture says in words what it shows.
    let pictures = elements.iter().filter(|e| e.name == "svg" && e.attribute("aria-hidden").is_none());
    assert!(
        pictures.clone().count() >= 18
            && pictures.into_iter().all(|e| e.attribute("aria-label").is_some_and(|l| !l.is_empty()))
    );
    let (_, text) = parse(&render(&facts(vec![Entry::Silent("slow".into())])));
    assert!(text.contains("did not answer in time") && text.contains("dm-remap list slow"));
}

/// Leaves pages for scripts/screenshots, which shows them to a browser.
#[test]
fn pages_for_a_browser() {
    let Some(directory) = std::env::var_os("DM_REMAP_PAGES").map(std::path::PathBuf::from) else { return };
    let healthy = Setup {
        history: (0..40)
            .map(|day| Point {
                time: 1_795_000_000 + day * 86_400,
                remapped: Sectors(8 * (day / 9)),
                lost: Sectors::ZERO,
            })
            .collect(),
        remapped: Sectors(32),
        extents: 4,
        surface: surface(
            Sectors(1 << 31),
            Sectors(8),
            MOST_CELLS,
            (0..4).map(|n| (range(400_000_000 + n * 123_456, 8), Mark::Moved)),
        ),
        scan: Some("finished 2026-11-26T02:00:00Z: nothing bad found".into()),
        room: "room for 2097152 sectors (1.0 GiB) in units of 8; no growth seen in 30 days".into(),
        ..fresh()
    };
    let trouble = |code: &str, title: &str, status: &str, action: &str| {
        TroubleFacts {
        code: code.into(),
        title: title.into(),
        status: status.into(),
        action: action.into(),
        meaning: "It did not take a commit, or what is on it cannot be read or is old. Its extents are served as long as it reads; it gets no new ones.".into(),
        remedy: "Look at its cable and its health. 'dm-remap spare readd archive SPARE' takes it back.".into(),
    }
    };
    let size = Sectors(1 << 33);
    let moved = (0..10_000u64).map(|n| (range(3_000_000_000 + n * n * 30, 8), Mark::Moved));
    let lost = (0..40u64).map(|n| (range(3_000_000_000 + n * 5_000_000, 8), Mark::Lost));
    let weak = (0..20u64).map(|n| (range(6_100_000_000 + n * 8_100_000, 8), Mark::Weak));
    let notes = [(range(4_000_000_000, 64), Mark::Bad)];
    let counts: Vec<u64> = (0..=BOUNDS_NS.len() as u64).map(|n| if n < 9 { 0 } else { 3_000_000 >> (n - 9) }).collect();
    let histogram = Histogram { bounds_ns: BOUNDS_NS.to_vec(), counts };
    let counters = Counters {
        reads: 5_000_000,
        read_ns: 5_000_000 * 4_100_000,
        writes: 999_000,
        write_ns: 999_000 * 700_000,
        histogram,
        ..Counters::default()
    };
    let counted = Some(Counted { since: 1_794_000_000, counters });
    let spares = full("/dev/disk/by-id/ata-WDC_WD40EFRX-68N32N0").spares.into_iter();
    let bad = Setup {
        name: "archive".into(),
        uuid: "0f8fad5b-d9cb-469f-a165-70867728950e".into(),
        device: "/dev/mapper/archive".into(),
        main: "/dev/disk/by-id/ata-WDC_WD40EFRX-68N32N0_WD-WCC7K0123456".into(),
        main_identity: "WDC WD40EFRX-68N32N0, WD-WCC7K0123456".into(),
        state: "degraded".into(),
        tone: Tone::Warning,
        troubles: vec![
            trouble("DMR-06", "A spare has failed", "spare 3 is failed", "look at its cable and its health; its extents are safe as long as it reads"),
            trouble("DMR-08", "Sectors answer EIO until they are written", "2400 sectors (1.1 MiB) could not be read", "restore the files that were hit from a backup"),
        ],
        scan: Some("finished 2026-11-26T02:00:00Z: 64 sectors (32.0 KiB) bad, 1 range not moved".into()),
        room: "room for 16777216 sectors (8.0 GiB) in units of 8; at the rate of the last 12 days (700 sectors a day) used up on 2032-01-05".into(),
        surface: surface(size, Sectors(8), MOST_CELLS, moved.chain(lost).chain(weak).chain(notes)),
        stats: SetupStats {
            setup: counted.clone(),
            spares: (0..3).map(|index| SpareStats { index, counted: counted.clone(), ..SpareStats::default() }).collect(),
        },
        losses: (0..4).map(|n| LossFacts { range: range(3_000_000_000 + n * 5_000_000, 8), fate: "held: reads answer EIO until it is written".into(), owners: vec!["in /srv/photos/2019/summer/IMG_0042.JPG (ext4 on /srv)".into()] }).collect(),
        spares: spares.map(|spare| SpareFacts { state: if spare.index == 3 { "failed".into() } else { spare.state.clone() }, ..spare }).collect(),
        loss_count: 300,
        generation: 10_412,
        ..full("text")
    };
    let many = vec![
        seen(healthy.clone()),
        seen(bad.clone()),
        Entry::Silent("slow".into()),
        Entry::Failed("gone".into(), "there is no active setup 'gone'".into()),
    ];
    for (name, setups) in [
        ("fresh", vec![seen(fresh())]),
        ("healthy", vec![seen(healthy)]),
        ("full", vec![seen(bad)]),
        ("many", many),
        ("none", vec![]),
    ] {
        std::fs::write(directory.join(format!("{name}.html")), render(&facts(setups))).unwrap();
    }
}

#[test]
fn names_are_text_whatever_they_are() {
    for evil in [
        "<script>alert(1)</script>",
        "\" onload=\"alert(1)",
        "'><img src=x onerror=alert(1)>",
        "</style><script>alert(1)</script>",
        "</title><svg/onload=alert(1)>",
        "javascript:alert(1)",
        "<!-- ",
        "&lt;b&gt;",
        "]]>",
        "\u{202e}gnp.exe",
    ] {
        let harmless = parse(&render(&facts(vec![seen(full("text")), Entry::Failed("text".into(), "text".into())]))).0;
        let mut page = facts(vec![seen(full(evil)), Entry::Failed(evil.into(), evil.into())]);
        page.host = evil.into();
        let (elements, text) = parse(&render(&page));
        assert_eq!(elements.len(), harmless.len(), "{evil}: there are other elements than with a harmless name");
        is_self_contained(&elements);
        assert!(text.contains(evil), "{evil}: it is shown as it is");
    }
}

#[test]
fn a_page_has_a_bounded_length() {
    let one = render(&facts(vec![seen(full("text"))])).len();
    println!("the fullest setup takes {one} bytes, a fresh one {}", render(&facts(vec![seen(fresh())])).len());
    assert!(one < 256 << 10, "{one}");
    // Everywhere something of every kind.
    let size = Sectors(MOST_CELLS * 8);
    let marks = (0..MOST_CELLS)
        .flat_map(|n| KINDS.into_iter().zip(0..).map(move |(kind, place)| (range(n * 8 + place, 1), kind)));
    let everywhere = Setup { size, surface: surface(size, Sectors(1), MOST_CELLS, marks), ..full("text") };
    assert_eq!(everywhere.surface.marked.len() as u64, MOST_CELLS);
    let page = render(&facts(vec![seen(everywhere)])).len();
    assert!(page < 512 << 10, "{page}");
    let many = render(&facts((0..128).map(|_| seen(fresh())).collect())).len();
    assert!(many < 1 << 20, "{many}");
}

#[test]
fn times_and_numbers_beyond_all_reason_are_no_panic() {
    let point = |time| Point { time, remapped: Sectors(u64::MAX), lost: Sectors(u64::MAX) };
    let counted = Counted { since: u64::MAX, counters: Counters::default() };
    let setup = Setup {
        size: Sectors(u64::MAX),
        remapped: Sectors(u64::MAX),
        history: vec![point(0), point(u64::MAX), point(5)],
        stats: SetupStats { setup: Some(counted), spares: vec![] },
        spares: vec![SpareFacts {
            used: Sectors(u64::MAX),
            free: Sectors(u64::MAX),
            bad: Sectors(u64::MAX),
            ..SpareFacts::default()
        }],
        surface: surface(Sectors(u64::MAX), Sectors(0), MOST_CELLS, [(range(5, u64::MAX - 6), Mark::Bad)]),
        ..Setup::default()
    };
    parse(&render(&Facts { time: u64::MAX, ..facts(vec![seen(setup)]) }));
}

/// The colours of a theme, as the style has them: by name, in red, green and blue.
fn colours(theme: &str) -> std::collections::BTreeMap<String, [f64; 3]> {
    let mut out = std::collections::BTreeMap::new();
    for declaration in theme.split([';', '{', '}']) {
        let Some((name, value)) = declaration.trim().split_once(':') else { continue };
        let Some(hex) = value.strip_prefix('#') else { continue };
        let hex: String = if hex.len() == 3 { hex.chars().flat_map(|c| [c, c]).collect() } else { hex.into() };
        let part = |at: usize| f64::from(u8::from_str_radix(&hex[at..at + 2], 16).unwrap()) / 255.0;
        out.insert(name.to_string(), [part(0), part(2), part(4)]);
    }
    out
}

/// Contrast of two colours, by WCAG 2.1: <https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio>.
fn contrast(a: [f64; 3], b: [f64; 3]) -> f64 {
    let linear = |c: f64| if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) };
    let luminance = |c: [f64; 3]| 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

#[test]
fn everything_can_be_read_in_light_in_dark_and_on_paper() {
    let style = include_str!("style.css");
    let themes: Vec<&str> =
        style.match_indices(":root{").map(|(at, _)| style[at..].split_once('}').unwrap().0).collect();
    assert_eq!(themes.len(), 3);
    for theme in themes {
        let colours = colours(theme);
        for background in ["--bg", "--card"] {
            for text in ["--fg", "--soft", "--good", "--warning", "--bad", "--moved"] {
                let ratio = contrast(colours[text], colours[background]);
                assert!(ratio >= 4.5, "{text} on {background}: {ratio:.2} in {theme}");
            }
            for shape in ["--weak", "--lost", "--used"] {
                let ratio = contrast(colours[shape], colours[background]);
                assert!(ratio >= 3.0, "{shape} on {background}: {ratio:.2} in {theme}");
            }
        }
    }
    assert!((contrast([1.0; 3], [0.0; 3]) - 21.0).abs() < 1e-9);
}

fn marks() -> impl Strategy<Value = (u64, u64, u64, Vec<(u64, u64, usize)>)> {
    (
        1u64..5_000_000,
        1u64..64,
        1u64..2000,
        proptest::collection::vec((0u64..5_000_000, 1u64..100_000, 0usize..4), 0..60),
    )
}

proptest! {
    #[test]
    fn no_mark_is_lost_in_a_cell((size, unit, most, list) in marks()) {
        // Marks of a kind do not overlap.
        let mut sets: [RangeSet; 4] = Default::default();
        list.iter().for_each(|(start, len, kind)| sets[*kind].insert(range(*start, *len)));
        let all = KINDS.into_iter().zip(&sets).flat_map(|(kind, set)| set.iter().map(move |range| (range, kind)).collect::<Vec<_>>());
        let surface = surface(Sectors(size), Sectors(unit), most, all);
        prop_assert!(surface.cells >= 1 && surface.cells <= most);
        for (kind, set) in KINDS.into_iter().zip(&sets) {
            let inside: u64 = set.within(range(0, size)).map(|part| part.len().0).sum();
            prop_assert_eq!(surface.sectors(kind), Sectors(inside));
        }
        let mut last = None;
        for cell in &surface.marked {
            prop_assert!(cell.number < surface.cells && last < Some(cell.number));
            last = Some(cell.number);
            for (kind, set) in KINDS.into_iter().zip(&sets) {
                let inside: u64 = set.within(cell.range).map(|part| part.len().0).sum();
                prop_assert_eq!(cell.sectors[kind.index()], inside, "{:?} {:?}", kind, cell);
            }
            let gravest = KINDS.into_iter().zip(&sets).find(|(_, set)| set.overlaps(cell.range)).map(|(kind, _)| kind);
            prop_assert_eq!(cell.shows(), gravest);
        }
    }
}
