//! JSON as Python writes it (`json.dumps`), which is not always JSON: ansible-runner's files have it, and what is made of them
//! must be what the live run has published.

use std::borrow::Cow;

/// The same as JSON: NaN and the infinities are `null`, a lone half of a pair of surrogates is U+FFFD.
pub(crate) fn strict(json: &[u8]) -> Cow<'_, [u8]> {
    let has = |part: &str| memchr::memmem::find(json, part.as_bytes()).is_some();
    if !["NaN", "Infinity", "\\ud", "\\uD"].into_iter().any(has) {
        return Cow::Borrowed(json);
    }
    let mut strict = Vec::with_capacity(json.len());
    let mut is_inside = false;
    let mut rest = json;
    while let Some(first) = rest.first() {
        let constant =
            [&b"NaN"[..], b"-Infinity", b"Infinity"].into_iter().find(|word| rest.starts_with(word));
        let taken = match (is_inside, constant, first) {
            (false, Some(constant), _) => {
                strict.extend_from_slice(b"null");
                constant.len()
            }
            (true, _, b'\\') => match (surrogate(rest), rest.get(6..).and_then(surrogate)) {
                (Some(high), Some(low)) if high < 0xDC00 && low >= 0xDC00 => take(&mut strict, rest, 12),
                (Some(_), _) => {
                    strict.extend_from_slice(b"\\ufffd");
                    6
                }
                (None, _) => take(&mut strict, rest, 2),
            },
            _ => {
                is_inside ^= *first == b'"';
                take(&mut strict, rest, 1)
            }
        };
        rest = rest.get(taken..).unwrap_or_default();
    }
    Cow::Owned(strict)
}

fn take(to: &mut Vec<u8>, from: &[u8], count: usize) -> usize {
    let taken = from.get(..count).unwrap_or(from);
    to.extend_from_slice(taken);
    taken.len()
}

/// The half of a pair of surrogates whose escape a text begins with.
fn surrogate(text: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(text.strip_prefix(b"\\u")?.get(..4)?).ok()?;
    let unit = u32::from_str_radix(digits, 16).ok()?;
    (0xD800..0xE000).contains(&unit).then_some(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_python_writes_becomes_json() {
        for (given, expected) in [
            (r#"{"a": NaN, "b": [Infinity, -Infinity, -1]}"#, r#"{"a": null, "b": [null, null, -1]}"#),
            (r#"{"NaN": "Infinity and NaN"}"#, r#"{"NaN": "Infinity and NaN"}"#),
            (r#""\ud83d\ude80 \udcfc \ud83d""#, r#""\ud83d\ude80 \ufffd \ufffd""#),
            (r#""\ud83dx\uDE80\ud83d\ud83d\ude80""#, r#""\ufffdx\ufffd\ufffd\ud83d\ude80""#),
            (r#""\\ud83d \" NaN""#, r#""\\ud83d \" NaN""#),
            ("", ""),
            (r#""\"#, r#""\"#),
        ] {
            assert_eq!(String::from_utf8_lossy(&strict(given.as_bytes())), expected);
        }
    }
}
