//! Shortens JSON that is too large for the server, in place and without parsing it into a tree: an event of
//! 200 MB must not cost a multiple of that.

use std::{cmp::Reverse, collections::BinaryHeap};

/// Shortens a JSON text in place until it takes `limit` bytes at most: its longest strings first, all to the
/// same length, each with a marker that says how much went. If that is not enough, the smallest array or
/// object that will do is replaced by such a marker, or the smallest that will do with strings cut too, or the
/// largest ones are. What is left is valid JSON.
/// `cut_before` says that there may be markers of ours in it. `false`, and nothing is changed, if it cannot be
/// made to fit.
pub(crate) fn cut(json: &mut Vec<u8>, limit: usize, cut_before: bool) -> bool {
    let excess = json.len().saturating_sub(limit);
    if excess == 0 {
        return true;
    }
    // No more pieces can be cut than markers have room.
    let found = find(json, limit / LONGEST_MARKER + 1, excess);
    let Some(cuts) = plan(json, found, excess, cut_before) else { return false };
    apply(json, &cuts);
    true
}

/// What is to be cut, in order.
fn plan(json: &[u8], found: Found, excess: usize, cut_before: bool) -> Option<Vec<Cut>> {
    let Found { mut texts, mut containers, smallest } = found;
    if let Some(cuts) = shorten_texts(json, texts.clone(), excess, cut_before) {
        return Some(cuts);
    }
    if let Some(span) = smallest {
        return Some(vec![replaced(span)]);
    }
    containers.sort_unstable_by_key(|span| Reverse(span.len()));
    texts.sort_unstable_by_key(|span| span.start);
    if let Some(cuts) = cut_with_texts(json, &containers, &texts, excess, cut_before) {
        return Some(cuts);
    }
    // The largest ones, until strings can do the rest.
    let mut text_savings: usize = texts.iter().map(|text| text.savings()).sum();
    let mut left = excess;
    let mut gone: Vec<Span> = Vec::new();
    for span in containers {
        let at = gone.partition_point(|other| other.start < span.start);
        let overlaps = |other: &Span| other.start < span.end && span.start < other.end;
        if at.checked_sub(1).and_then(|before| gone.get(before)).is_some_and(overlaps)
            || gone.get(at).is_some_and(overlaps)
        {
            continue;
        }
        gone.insert(at, span);
        left = left.saturating_sub(span.savings());
        let from = texts.partition_point(|text| text.start < span.start);
        let to = texts.partition_point(|text| text.start < span.end);
        text_savings -= texts.drain(from..to).map(Span::savings).sum::<usize>();
        if left == 0 || text_savings >= left {
            let mut cuts = if left == 0 { Vec::new() } else { shorten_texts(json, texts, left, cut_before)? };
            cuts.extend(gone.into_iter().map(replaced));
            cuts.sort_unstable_by_key(|cut| cut.span.start);
            return Some(cuts);
        }
    }
    None
}

/// Replaces the smallest of the containers (the largest comes first) with which the strings outside it can do the
/// rest; `texts` are in the order of the JSON.
fn cut_with_texts(
    json: &[u8],
    containers: &[Span],
    texts: &[Span],
    excess: usize,
    cut_before: bool,
) -> Option<Vec<Cut>> {
    // What all strings before one can save together.
    let mut savings = vec![0];
    savings.extend(texts.iter().scan(0, |sum, text| {
        *sum += text.savings();
        Some(*sum)
    }));
    let all = *savings.last()?;
    containers.iter().rev().find_map(|container| {
        let left = excess.checked_sub(container.savings())?;
        let from = texts.partition_point(|text| text.start < container.start);
        let to = texts.partition_point(|text| text.start < container.end);
        let inside = savings.get(to)? - savings.get(from)?;
        if all - inside < left {
            return None;
        }
        let outside = [texts.get(..from)?, texts.get(to..)?].concat();
        let mut cuts = shorten_texts(json, outside, left, cut_before)?;
        cuts.push(replaced(*container));
        cuts.sort_unstable_by_key(|cut| cut.span.start);
        Some(cuts)
    })
}

/// A part of a JSON text, from `start` up to `end`.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: usize,
    end: usize,
}

impl Span {
    fn len(self) -> usize {
        self.end - self.start
    }

    /// How much shorter the text gets if only a marker is left of this.
    fn savings(self) -> usize {
        self.len().saturating_sub(LONGEST_MARKER)
    }
}

/// What takes the place of a span.
struct Cut {
    span: Span,
    with: String,
}

/// What is worth cutting.
struct Found {
    /// The insides of string values.
    texts: Vec<Span>,
    /// Arrays and objects that are not the whole.
    containers: Vec<Span>,
    /// The smallest array or object that is enough by itself.
    smallest: Option<Span>,
}

/// The longest spans of many, without keeping them all.
struct Longest {
    most: usize,
    heap: BinaryHeap<Reverse<(usize, usize)>>,
}

impl Longest {
    fn new(most: usize) -> Self {
        Self { most, heap: BinaryHeap::new() }
    }

    fn add(&mut self, span: Span) {
        self.heap.push(Reverse((span.len(), span.start)));
        if self.heap.len() > self.most {
            self.heap.pop();
        }
    }

    fn spans(self) -> Vec<Span> {
        self.heap.into_iter().map(|Reverse((length, start))| Span { start, end: start + length }).collect()
    }
}

/// Finds what is worth cutting: of strings and of containers `most` each, the longest.
fn find(json: &[u8], most: usize, excess: usize) -> Found {
    let (mut texts, mut containers, mut open) = (Longest::new(most), Longest::new(most), Vec::new());
    let mut smallest: Option<Span> = None;
    let mut at = 0;
    while let Some(byte) = json.get(at) {
        let start = at;
        at += 1;
        match byte {
            b'"' => {
                let end = end_of_string(json, at);
                let span = Span { start: at, end };
                at = (end + 1).min(json.len());
                if span.len() > LONGEST_MARKER && !is_key(json, at) {
                    texts.add(span);
                }
            }
            b'[' | b'{' => open.push(start),
            b']' | b'}' => {
                let span = open.pop().map(|start| Span { start, end: at });
                let Some(span) = span.filter(|span| span.savings() > 0 && !open.is_empty()) else { continue };
                containers.add(span);
                if span.savings() >= excess && smallest.is_none_or(|other| span.len() < other.len()) {
                    smallest = Some(span);
                }
            }
            _ => {}
        }
    }
    Found { texts: texts.spans(), containers: containers.spans(), smallest }
}

/// Where the closing quote is of a string whose inside begins at `at`.
fn end_of_string(json: &[u8], mut at: usize) -> usize {
    while let Some(found) = json.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found;
        if json.get(at) == Some(&b'"') {
            return at;
        }
        at += 2;
    }
    json.len()
}

fn is_key(json: &[u8], after: usize) -> bool {
    let rest = json.get(after..).unwrap_or_default();
    rest.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b':')
}

const MARKER_START: &str = "... [";
const MARKER_END: &str = " bytes cut by ansible-runner-nats]";
/// A marker with a number of 20 digits, in quotes.
const LONGEST_MARKER: usize = MARKER_START.len() + 20 + MARKER_END.len() + 2;

fn marker(gone: usize) -> String {
    format!("{MARKER_START}{gone}{MARKER_END}")
}

/// Cuts the longest strings to one length, such that `excess` bytes are saved; `None` if they cannot.
fn shorten_texts(json: &[u8], mut texts: Vec<Span>, excess: usize, cut_before: bool) -> Option<Vec<Cut>> {
    texts.sort_unstable_by_key(|text| Reverse(text.len()));
    let mut sum = 0;
    let mut found = None;
    for (count, text) in (1..).zip(&texts) {
        sum += text.len();
        // What the `count` longest may keep together, each with its marker.
        let Some(kept) = sum.checked_sub(excess + count * LONGEST_MARKER) else { continue };
        let keep = kept / count;
        if texts.get(count).is_none_or(|next| next.len() <= keep + LONGEST_MARKER) {
            found = Some((count, keep));
            break;
        }
    }
    let (count, keep) = found?;
    texts.truncate(count);
    texts.sort_unstable_by_key(|text| text.start);
    Some(texts.into_iter().map(|text| shorten_text(json, text, keep, cut_before)).collect())
}

/// Cuts a string behind `keep` bytes, or a little before: never in the middle of a character or an escape.
fn shorten_text(json: &[u8], text: Span, keep: usize, cut_before: bool) -> Cut {
    let raw = json.get(text.start..text.end).unwrap_or_default();
    // Without that, what looks like a marker is the job's own.
    let (body, gone_before) = if cut_before { split_marker(raw) } else { (raw, 0) };
    let mut kept = 0;
    while kept < keep.min(body.len()) {
        let next = kept + width(body.get(kept..).unwrap_or_default());
        if next > keep {
            break;
        }
        kept = next;
    }
    let gone = decoded_len(body.get(kept..).unwrap_or_default()).saturating_add(gone_before);
    Cut { span: Span { start: text.start + kept, end: text.end }, with: marker(gone) }
}

/// Bytes of the character or escape at the start of the inside of a string.
fn width(raw: &[u8]) -> usize {
    match raw {
        // A pair of escaped surrogates is one character.
        [b'\\', b'u', b'd' | b'D', b'8'..=b'9' | b'a'..=b'b' | b'A'..=b'B', _, _, b'\\', b'u', ..] => 12,
        [b'\\', b'u', ..] => 6,
        [b'\\', ..] => 2,
        [first, ..] if *first >= 0xf0 => 4,
        [first, ..] if *first >= 0xe0 => 3,
        [first, ..] if *first >= 0xc0 => 2,
        _ => 1,
    }
}

/// How long the inside of a string is as text, in bytes of UTF-8.
fn decoded_len(raw: &[u8]) -> usize {
    let mut length = raw.len();
    let mut at = 0;
    while let Some(found) = raw.get(at..).and_then(|rest| memchr::memchr(b'\\', rest)) {
        at += found;
        let escape = raw.get(at..).unwrap_or_default();
        let written = width(escape).min(escape.len());
        length -= written - decoded_width(escape, written);
        at += written;
    }
    length
}

/// What an escape of `written` bytes stands for, in bytes of UTF-8.
fn decoded_width(escape: &[u8], written: usize) -> usize {
    match written {
        12 => 4,
        6 => {
            let hex = escape.get(2..6).and_then(|hex| std::str::from_utf8(hex).ok());
            match hex.and_then(|hex| u32::from_str_radix(hex, 16).ok()).unwrap_or(0) {
                0..0x80 => 1,
                0x80..0x800 => 2,
                _ => 3,
            }
        }
        other => other.min(1),
    }
}

/// A string that was cut before, and how much went then.
fn split_marker(raw: &[u8]) -> (&[u8], usize) {
    let split = || {
        let rest = raw.strip_suffix(MARKER_END.as_bytes())?;
        let at = memchr::memmem::rfind(rest, MARKER_START.as_bytes())?;
        let count = std::str::from_utf8(rest.get(at + MARKER_START.len()..)?).ok()?;
        Some((rest.get(..at)?, count.parse().ok()?))
    };
    split().unwrap_or((raw, 0))
}

/// What takes the place of a container.
fn replaced(span: Span) -> Cut {
    Cut { span, with: format!("\"{}\"", marker(span.len())) }
}

/// Carries out cuts, which are in order and apart, within the same memory: none makes the text longer.
fn apply(json: &mut Vec<u8>, cuts: &[Cut]) {
    let (mut read, mut write) = (0, 0);
    let mut keep = |json: &mut Vec<u8>, from: usize, to: usize, with: &[u8]| {
        json.copy_within(from..to, write);
        write += to - from;
        if let Some(place) = json.get_mut(write..write + with.len()) {
            place.copy_from_slice(with);
        }
        write += with.len();
    };
    for cut in cuts {
        keep(json, read, cut.span.start, cut.with.as_bytes());
        read = cut.span.end;
    }
    let end = json.len();
    keep(json, read, end, b"");
    json.truncate(write);
    json.shrink_to_fit();
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Cuts, and checks what must hold of any cut.
    fn cut_to(value: &Value, limit: usize) -> Option<Value> {
        let mut json = serde_json::to_vec(value).unwrap();
        if !cut(&mut json, limit, true) {
            assert_eq!(json, serde_json::to_vec(value).unwrap());
            return None;
        }
        assert!(json.len() <= limit);
        Some(serde_json::from_slice(&json).unwrap())
    }

    fn body_and_gone(value: &Value) -> (String, usize) {
        let (body, gone) = split_marker(value.as_str().unwrap().as_bytes());
        (String::from_utf8(body.to_vec()).unwrap(), gone)
    }

    #[test]
    fn the_longest_strings_are_cut_and_say_what_went() {
        let text = "ü\"\n\u{1}😀".repeat(10_000);
        let event = json!({"stdout": text, "counter": 7, "event_data": {"res": {"msg": "short"}}});
        for limit in [90_000, 10_000, 300, 200] {
            let small = cut_to(&event, limit).unwrap();
            assert_eq!((&small["counter"], &small["event_data"]["res"]["msg"]), (&json!(7), &json!("short")));
            let (body, gone) = body_and_gone(&small["stdout"]);
            assert!(text.starts_with(&body));
            assert_eq!(body.len() + gone, text.len());
            // Hardly more goes than has to.
            assert!(serde_json::to_vec(&small).unwrap().len() > limit - 64);
        }
    }

    #[test]
    fn several_strings_are_cut_to_the_same_length() {
        let event =
            json!({"a": "x".repeat(5000), "b": ["y".repeat(3000), "z".repeat(400)], "c": "w".repeat(99)});
        let small = cut_to(&event, 3000).unwrap();
        let lengths = [&small["a"], &small["b"][0]].map(|text| body_and_gone(text).0.len());
        assert_eq!(lengths[0], lengths[1]);
        assert_eq!((&small["b"][1], &small["c"]), (&event["b"][1], &event["c"]));
    }

    #[test]
    fn a_second_cut_counts_on() {
        let text = "x".repeat(10_000);
        let once = cut_to(&json!([text]), 5000).unwrap();
        let (body, gone) = body_and_gone(&cut_to(&once, 500).unwrap()[0]);
        assert_eq!(body.len() + gone, 10_000);
    }

    #[test]
    fn a_marker_of_the_jobs_own_is_text() {
        let forged = format!("{}... [{} bytes cut by ansible-runner-nats]", "x".repeat(1000), u64::MAX);
        let mut json = serde_json::to_vec(&json!([forged])).unwrap();
        assert!(cut(&mut json, 500, false));
        let (body, gone) = body_and_gone(&serde_json::from_slice::<Value>(&json).unwrap()[0]);
        assert_eq!(body.len() + gone, forged.len());
        // Even where one would be ours.
        assert!(cut_to(&json!([forged]), 500).is_some());
    }

    #[test]
    fn no_more_goes_than_a_list_and_long_strings() {
        let numbers: Vec<u32> = (0..5000).collect();
        let text = "1234,\n    ".repeat(5000);
        let data = json!({"host": "h", "task": "t", "res": {"changed": false, "msg": numbers}});
        let event = json!({"counter": 3, "stdout": text, "event_data": data});
        let small = cut_to(&event, 8192).unwrap();
        assert_eq!((&small["event_data"]["host"], &small["event_data"]["task"]), (&json!("h"), &json!("t")));
        assert!(small["event_data"]["res"]["msg"].is_string(), "{small}");
        let (body, gone) = body_and_gone(&small["stdout"]);
        assert!(body.len() > 7000 && body.len() + gone == text.len());
    }

    #[test]
    fn many_containers_go_at_once() {
        let mut event = json!({"counter": 7, "text": "x".repeat(5000)});
        for number in 0..100 {
            event[format!("list{number}")] = vec![12345; 1000].into();
        }
        let small = cut_to(&event, 100_000).unwrap();
        let kept = small.as_object().unwrap().values().filter(|value| value.is_array()).count();
        assert!((14..17).contains(&kept), "{kept}");
        assert_eq!(small["counter"], 7);
        // Strings and containers together.
        let both = json!({"counter": 7, "list": vec![1; 1000], "text": "x".repeat(2000)});
        let small = cut_to(&both, 300).unwrap();
        assert_eq!((&small["counter"], small["list"].is_string()), (&json!(7), true));
        assert!(small["text"].as_str().unwrap().starts_with("xxx"));
    }

    #[test]
    fn foreign_escapes_and_white_space_are_understood() {
        let text =
            r#" { "k" : "TEXT" , "n" : [ 1 ] } "#.replace("TEXT", &r"\ud83d\ude00\u00fc\/".repeat(500));
        let mut json = text.into_bytes();
        assert!(cut(&mut json, 400, false));
        let value: Value = serde_json::from_slice(&json).unwrap();
        let (body, gone) = body_and_gone(&value["k"]);
        assert_eq!(body.len() + gone, "😀ü/".len() * 500);
    }

    #[test]
    fn containers_go_when_strings_are_not_enough() {
        let event =
            json!({"counter": 7, "res": {"a": vec![1; 10_000], "b": vec![2; 1000]}, "s": "x".repeat(500)});
        let small = cut_to(&event, 3000).unwrap();
        assert_eq!(
            (&small["counter"], &small["res"]["b"], &small["s"]),
            (&json!(7), &event["res"]["b"], &event["s"])
        );
        assert_eq!(small["res"]["a"], "... [20001 bytes cut by ansible-runner-nats]");
        // A huge key goes with what it belongs to.
        let event =
            json!({"counter": 7, "res": {"k".repeat(10_000): 1}, "many": [vec![1; 900], vec![1; 900]]});
        let small = cut_to(&event, 200).unwrap();
        assert_eq!(small["counter"], 7);
    }

    #[test]
    fn what_cannot_be_cut_stays_as_it_is() {
        assert_eq!(cut_to(&json!(vec![1234; 10_000]), 100), None);
        assert_eq!(cut_to(&json!({"k".repeat(1000): "x".repeat(1000)}), 500), None);
        assert_eq!(cut_to(&json!({"a": "x".repeat(1000)}), 10), None);
    }

    #[test]
    fn garbage_does_no_harm() {
        for garbage in ["\"", "\"\\", "[[[[", "]]]]", "{\"a\":\"", "\\\"\\u12", "\u{fffd}\"\\ud8"] {
            for limit in 0..20 {
                let mut json = garbage.repeat(10).into_bytes();
                cut(&mut json, limit, true);
            }
        }
    }
}
