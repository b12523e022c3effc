//! Which lines of a file stay when it has become too long. Pure.

use serde::Deserialize;
use std::collections::BTreeSet;

const DAY: u64 = 86_400;

/// What thinning goes by; the rest of a line is not its business, so records of later versions stay, too.
#[derive(Deserialize)]
struct Head {
    time: u64,
    kind: String,
    /// Which device it is of, where it is of one.
    #[serde(default)]
    device: Option<String>,
}

/// The lines of `text` that are kept, as a text of at most `most` bytes. `now` is in seconds since 1970.
///
/// Of each kind and device the last line stays, always. Else a line stays when it is of the last 30 days, the last of its day
/// in the year before, the last of its week in the time before that; and if that is still too much, the oldest go.
pub fn thin(text: &[u8], most: usize, now: u64) -> Vec<u8> {
    let head = |line| serde_json::from_slice::<Head>(line).ok().map(|head| (head, line));
    let lines: Vec<(Head, &[u8])> = text.split(|byte| *byte == b'\n').filter_map(head).collect();
    let mut spans = BTreeSet::new();
    let mut kept = Vec::new();
    let mut bytes = 0usize;
    for (head, line) in lines.iter().rev() {
        let subject = (head.kind.as_str(), head.device.as_deref());
        let newest = spans.insert((subject, 0, 0));
        let (width, span) = match now.saturating_sub(head.time) / DAY {
            0..30 => (1, u64::MAX),
            30..365 => (DAY, head.time / DAY),
            _ => (7 * DAY, head.time / (7 * DAY)),
        };
        let stays = width == 1 || spans.insert((subject, width, span)) || newest;
        let length = line.len().saturating_add(1);
        let fits = bytes.saturating_add(length) <= most;
        if stays && (fits || newest) {
            bytes = bytes.saturating_add(length);
            kept.push(*line);
        }
    }
    kept.reverse();
    let mut out = Vec::with_capacity(bytes);
    for line in kept {
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out
}
