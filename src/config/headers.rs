//! Headers for every message: the user's, and those of a trace.

use serde_json::{Map, Value};

use super::{
    options::HEADERS,
    reader::Reader,
    values::{as_text, shorten},
};
use crate::message;

const SETTING: &str = HEADERS.key;

/// The variable that the documents name.
const VARIABLE: &str = match HEADERS.env {
    [first, ..] => first,
    [] => "",
};

impl Reader<'_> {
    /// The setting's headers, then the environment's over them.
    pub(super) fn headers(&mut self, settings: &Map<String, Value>) -> Vec<(String, String)> {
        let mut pairs: Vec<(&str, String, String)> = Vec::new();
        match settings.get(SETTING) {
            None | Some(Value::Null) => {}
            Some(Value::Object(headers)) => {
                for (name, value) in headers {
                    let value = as_text(value).unwrap_or_else(|| value.to_string());
                    pairs.push((SETTING, name.clone(), value));
                }
            }
            Some(Value::String(list)) => self.split_headers(SETTING, list, &mut pairs),
            Some(_) => self.say(format!("{SETTING}: expected {}; it is ignored", HEADERS.takes.expected())),
        }
        if let Some(list) = self.var(VARIABLE) {
            self.split_headers(VARIABLE, &list, &mut pairs);
        }
        let mut headers: Vec<(String, String)> = Vec::new();
        let mut room = MOST_HEADER_BYTES;
        for (source, name, value) in pairs {
            let size = name.len() + value.len();
            let checked = check_header(&name, &value);
            let fits = if size <= room { Ok(()) } else { Err("all headers together are too long") };
            if let Err(reason) = checked.and(fits) {
                // An odd name may be the first half of a value: `Authorization: Bearer abc=`.
                let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
                let shown = if plain { shorten(&name) } else { "***".to_owned() };
                self.say(format!("{source}: header {shown:?} is skipped: {reason}"));
                continue;
            }
            room -= size;
            match headers.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => *known = value,
                None => headers.push((name, value)),
            }
        }
        if !headers.is_empty() {
            // A value may be a secret.
            let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
            let source = if self.var(VARIABLE).is_some() { VARIABLE } else { SETTING };
            self.in_force(SETTING, names.join(", "), source);
        }
        headers
    }

    fn split_headers<'s>(&mut self, source: &'s str, list: &str, pairs: &mut Vec<(&'s str, String, String)>) {
        for pair in list.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some((name, value)) => pairs.push((source, name.trim().to_owned(), value.trim().to_owned())),
                // The text may be the tail of a value with a comma in it, hence a secret: not shown.
                None => self.say(format!(
                    "{source}: a pair without \"=\" is skipped; expected name=value,name2=value2"
                )),
            }
        }
    }

    /// The trace that this process is part of goes on in our messages (W3C Trace Context).
    pub(super) fn trace_context(&mut self, headers: &mut Vec<(String, String)>) {
        if headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("traceparent")) {
            return;
        }
        for (variable, header, is_valid) in [
            ("TRACEPARENT", "traceparent", is_traceparent as fn(&str) -> bool),
            ("TRACESTATE", "tracestate", |text| {
                text.len() <= 512 && text.bytes().all(|b| (b' '..=b'~').contains(&b))
            }),
        ] {
            // The state is nothing without the parent.
            let Some(value) = self.var(variable) else { return };
            if headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(header)) {
                continue;
            }
            if !is_valid(&value) {
                // It decides how what comes with it is read.
                return self.say(format!("{variable}: no trace context of W3C, not passed on"));
            }
            headers.push((header.to_owned(), value));
        }
    }
}

/// Of all the user's headers: they go with every message, and count towards its size.
const MOST_HEADER_BYTES: usize = 16 << 10;

/// Headers that decide over delivery, or say whose message it is: ours to set.
const RESERVED: &[&str] = &[
    message::MSG_ID,
    message::EXPECTED_STREAM,
    message::TRUNCATED,
    message::SELECTED,
    message::RUN,
    message::TIME,
    message::CARD,
];

/// What NATS allows in a header (ADR-4): a printable name without a colon, a value without line ends.
fn check_header(name: &str, value: &str) -> Result<(), &'static str> {
    if !message::is_header_name(name) {
        return Err("its name must be printable ASCII without blanks and colons");
    }
    if RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(name)) {
        return Err("this plugin sets it itself");
    }
    if value.contains(['\r', '\n', '\0']) {
        return Err("its value must not contain line ends");
    }
    Ok(())
}

/// `version-traceid-parentid-flags` (W3C Trace Context, section 3.2).
fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let lengths = parts.iter().map(|part| part.len());
    let hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    let zero = |part: &&str| part.chars().all(|c| c == '0');
    lengths.eq([2, 32, 16, 2])
        && text.chars().all(|c| c == '-' || hex(c))
        && !parts.iter().skip(1).take(2).any(zero)
        && !text.starts_with("ff")
}
