//! Names that say secret in JSON and YAML.

use std::borrow::Cow;

use serde_json::Value;

use super::{CommandLine, is_name};
use crate::{
    message::{flow::Piece, telling::name_says_secret},
    secret::MASK,
};

/// The pieces of JSON or YAML without the secrets among them; `None` if there are none.
pub(super) fn in_pieces(pieces: &[Piece<'_>], depth: usize) -> Option<String> {
    let mut redacted = String::new();
    let mut is_changed = false;
    // The items of a list may be a command line.
    let mut line = CommandLine::default();
    let mut rest = pieces;
    while let Some((piece, behind)) = rest.split_first() {
        rest = behind;
        match piece {
            Piece::Value(scalar) => {
                let value = scalar.text();
                let other = match value.split_once(':') {
                    // YAML takes `{password:x}` for a name without a value, and whoever wrote it did not.
                    Some((name, _))
                        if scalar.quote.is_none() && is_name(name) && name_says_secret(name, "") =>
                    {
                        redacted.extend([name, ":"]);
                        rest = behind_value(rest);
                        Some(MASK.to_owned())
                    }
                    _ => line.word(&value, depth),
                };
                is_changed |= other.is_some();
                let written = other.map(|other| Cow::Owned(as_scalar(&other, scalar.quote)));
                redacted.push_str(&written.unwrap_or(Cow::Borrowed(scalar.raw)));
                continue;
            }
            Piece::Name(name) => {
                redacted.push_str(name.raw);
                let gaps = rest.iter().take_while(|piece| matches!(piece, Piece::Gap(_))).count();
                let (gap, value) = rest.split_at_checked(gaps).unwrap_or_default();
                if name_says_secret(&name.text(), value.first().map_or("", Piece::raw)) {
                    redacted.extend(gap.iter().map(Piece::raw));
                    rest = behind_value(value);
                    if rest.len() < value.len() {
                        let quote = value.first().filter(|piece| piece.raw().starts_with('\'')).map(|_| '\'');
                        redacted.push_str(&as_scalar(MASK, quote));
                        is_changed = true;
                    }
                }
            }
            Piece::Open(raw) | Piece::Close(raw) => redacted.push_str(raw),
            Piece::Comma(raw) | Piece::Gap(raw) => {
                redacted.push_str(raw);
                continue;
            }
        }
        line = CommandLine::default();
    }
    is_changed.then_some(redacted)
}

/// What is behind a value: the next name, or the bracket that closes all this. Whoever writes `{password: a, b}` means both.
fn behind_value<'p, 't>(value: &'p [Piece<'t>]) -> &'p [Piece<'t>] {
    let mut depth = 0_usize;
    let is_name_next = |at: usize| {
        let mut behind = value.iter().skip(at + 1).filter(|piece| !matches!(piece, Piece::Gap(_)));
        matches!(behind.next(), Some(Piece::Name(_)))
    };
    let end = value.iter().enumerate().position(|(at, piece)| match piece {
        Piece::Open(_) => {
            depth += 1;
            false
        }
        Piece::Close(_) if depth == 0 => true,
        Piece::Close(_) => {
            depth -= 1;
            false
        }
        Piece::Comma(_) => depth == 0 && is_name_next(at),
        _ => false,
    });
    let mut end = end.unwrap_or(value.len());
    // The blank before a bracket stays.
    while end > 0 && matches!(value.get(end - 1), Some(Piece::Gap(_))) {
        end -= 1;
    }
    value.get(end..).unwrap_or_default()
}

fn as_scalar(text: &str, quote: Option<char>) -> String {
    match quote {
        Some('\'') => format!("'{}'", text.replace('\'', "''")),
        _ => Value::from(text).to_string(),
    }
}

/// Names and their scalars.
pub(super) fn pairs_in(pieces: &[Piece<'_>]) -> Vec<(Option<String>, Value)> {
    let mut pairs = Vec::new();
    let mut name = String::new();
    for piece in pieces {
        match piece {
            Piece::Name(scalar) => name = scalar.text().into_owned(),
            Piece::Value(scalar) => pairs.push((Some(name.clone()), Value::from(scalar.text()))),
            _ => {}
        }
    }
    pairs
}
