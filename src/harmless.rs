//! The one place that makes a text from elsewhere harmless: what a terminal would obey, or what changes how the rest is
//! shown, becomes visible, as in `less` and `cat -v`.

use std::fmt::Write;

/// Is it a control character, or one that changes how what is around it is shown: direction, annotations, tags?
pub(crate) fn is_odd(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// `^[` for ESC, `<U+202E>` for what has no such form.
pub(crate) fn show(c: char, out: &mut String) {
    match u8::try_from(c) {
        Ok(byte @ 0..=0x1f) => out.extend(['^', char::from(byte + 0x40)]),
        Ok(0x7f) => out.push_str("^?"),
        _ => {
            let _ = write!(out, "<U+{:04X}>", u32::from(c));
        }
    }
}

/// A text in one line.
pub(crate) fn one_line(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' | '\r' => safe.push(' '),
            odd if is_odd(odd) => show(odd, &mut safe),
            plain => safe.push(plain),
        }
    }
    safe
}

/// JSON that says the same, with escapes for what is odd: it may be shown on a terminal, too. (Outside of strings JSON has
/// no such characters but line ends.)
pub(crate) fn json(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '\n' && is_odd(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(safe, "\\u{unit:04x}");
            }
        } else {
            safe.push(c);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_without_anything_odd() {
        for (text, line) in [
            ("a\r\nb\tc\n", "a  b c "),
            ("\u{1b}[2J\u{1b}]0;x\u{7}", "^[[2J^[]0;x^G"),
            ("\u{9b}31m\u{7f}\u{202e}\u{61c}ü", "<U+009B>31m^?<U+202E><U+061C>ü"),
            ("\u{e0041}", "<U+E0041>"),
        ] {
            assert_eq!(one_line(text), line);
        }
    }

    #[test]
    fn json_says_the_same() {
        let value = serde_json::json!({ "a\u{9b}": "\u{202e}x\n\u{e0041}é" });
        let safe = json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(!safe.chars().any(|c| c != '\n' && is_odd(c)), "{safe}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
    }
}
