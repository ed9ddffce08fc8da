//! JSON as bytes, written without aborting the process when memory runs out.

use wide::u8x16;

use super::buffer::{Buffer, OutOfMemory};

/// Appends JSON to a buffer. What memory there is not is an error, where `Vec` would abort the process.
pub(crate) struct Writer<'a> {
    out: &'a mut Buffer,
}

impl<'a> Writer<'a> {
    /// Appends to `out`.
    pub(crate) fn new(out: &'a mut Buffer) -> Self {
        Self { out }
    }

    /// Bytes in the buffer.
    pub(crate) fn len(&self) -> usize {
        self.out.len
    }

    /// Appends bytes as they are.
    #[inline]
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), OutOfMemory> {
        self.reserve(bytes.len())?;
        if let Some(place) = self.out.bytes.get_mut(self.out.len..self.out.len + bytes.len()) {
            place.copy_from_slice(bytes);
            self.out.len += bytes.len();
        }
        Ok(())
    }

    /// Appends a number; NaN and the infinities, which JSON does not have, become `null`.
    pub(crate) fn float(&mut self, number: f64) -> Result<(), OutOfMemory> {
        const LONGEST: usize = 32;
        let mut digits = [0; LONGEST];
        let mut rest = &mut digits[..];
        serde_json::to_writer(&mut rest, &number).map_err(|_| OutOfMemory)?;
        let length = LONGEST - rest.len();
        self.raw(digits.get(..length).unwrap_or_default())
    }

    /// The same, for a few bytes whose number the compiler knows.
    #[inline]
    pub(crate) fn fixed<const N: usize>(&mut self, bytes: [u8; N]) -> Result<(), OutOfMemory> {
        self.reserve(N)?;
        if let Some(place) = self.out.bytes.get_mut(self.out.len..).and_then(<[u8]>::first_chunk_mut) {
            *place = bytes;
            self.out.len += N;
        }
        Ok(())
    }

    /// Appends a string in quotes.
    #[inline]
    pub(crate) fn string(&mut self, text: &str) -> Result<(), OutOfMemory> {
        self.text_between([b'"'], text, [b'"'])
    }

    /// Appends what comes before the value of a member: a bracket or a comma, the key, a colon.
    #[inline]
    #[allow(dead_code, reason = "the plain walk's alone, which not every build has")]
    pub(crate) fn member(&mut self, before: u8, key: &str) -> Result<(), OutOfMemory> {
        self.text_between([before, b'"'], key, [b'"', b':'])
    }

    /// Appends the inside of a string and what is around it.
    #[inline]
    fn text_between<const B: usize, const A: usize>(
        &mut self,
        before: [u8; B],
        text: &str,
        after: [u8; A],
    ) -> Result<(), OutOfMemory> {
        // One look at the room for all of it, which is what most texts need.
        self.reserve(B + text.len() + A)?;
        let whole = self.out.len..self.out.len + B + text.len() + A;
        if let Some((start, rest)) = self.out.bytes.get_mut(whole).and_then(<[u8]>::split_first_chunk_mut)
            && let Some((inside, end)) = rest.split_last_chunk_mut()
            && short_into(text.as_bytes(), inside).is_some()
        {
            (*start, *end) = (before, after);
            self.out.len += B + text.len() + A;
            return Ok(());
        }
        self.fixed(before)?;
        self.escaped(text)?;
        self.fixed(after)
    }

    /// Appends the inside of a string (RFC 8259, section 7).
    #[inline]
    pub(crate) fn escaped(&mut self, text: &str) -> Result<(), OutOfMemory> {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            self.reserve(rest.len() + ROOM)?;
            let place = self.out.bytes.get_mut(self.out.len..).unwrap_or_default();
            let (read, written) = escape_into(rest, place);
            self.out.len += written;
            rest = rest.get(read..).unwrap_or_default();
        }
        Ok(())
    }

    /// Appends the inside of a string from bytes that may not be UTF-8 (then with U+FFFD in it).
    pub(crate) fn escaped_lossy(&mut self, bytes: &[u8]) -> Result<(), OutOfMemory> {
        for chunk in bytes.utf8_chunks() {
            self.escaped(chunk.valid())?;
            if !chunk.invalid().is_empty() {
                self.raw("\u{fffd}".as_bytes())?;
            }
        }
        Ok(())
    }

    /// What was written from `start` on.
    pub(crate) fn since(&self, start: usize) -> &[u8] {
        self.out.text().get(start..).unwrap_or_default()
    }

    /// Takes back what was written from `start` on.
    pub(crate) fn take_back(&mut self, start: usize) {
        self.out.len = start.min(self.out.len);
    }

    #[inline]
    fn reserve(&mut self, more: usize) -> Result<(), OutOfMemory> {
        if self.out.bytes.len() - self.out.len < more { self.out.grow(more) } else { Ok(()) }
    }
}

/// Bytes that are looked at in one step.
const BLOCK: usize = 16;
const FOUR_BLOCKS: usize = 4 * BLOCK;
/// The same for the shortest texts.
const SMALL: usize = 4;
const FOUR_SMALL: usize = 4 * SMALL;
const AFTER_SMALL: usize = FOUR_SMALL + 1;
/// What one step of [`escape_into`] may write: a block, and an escape behind its plain part.
const ROOM: usize = BLOCK + 8;

/// Writes the inside of a string as far as there is room. Returns how much was read and written.
fn escape_into(text: &[u8], place: &mut [u8]) -> (usize, usize) {
    let (mut read, mut written) = (0, 0);
    while read < text.len()
        && let Some(place) = place.get_mut(written..).and_then(<[u8]>::first_chunk_mut::<ROOM>)
    {
        // A whole block, or a word of what is left behind the last one. The first special byte of it, if any.
        let block = text.get(read..).and_then(<[u8]>::first_chunk::<BLOCK>);
        let (plain, length) = if let Some(block) = block {
            if let Some(start) = place.first_chunk_mut() {
                *start = *block;
            }
            (specials_of_block(*block).trailing_zeros() as usize, BLOCK)
        } else {
            let (word, length) = word_at(text, read);
            if let Some(start) = place.first_chunk_mut() {
                *start = word.to_le_bytes();
            }
            ((specials(word).trailing_zeros() / 8) as usize, length)
        };
        if plain >= length {
            read += length;
            written += length;
            continue;
        }
        let (escape, length) = escape_of(text.get(read + plain).copied().unwrap_or_default());
        if let Some(place) = place.get_mut(plain..).and_then(<[u8]>::first_chunk_mut) {
            *place = escape;
        }
        read += plain + 1;
        written += plain + length;
    }
    (read, written)
}

/// Writes a text of up to 64 bytes that has nothing special in it. Keys and most values are that short, and their lengths
/// cannot be predicted: three cases, and no loop but for the shortest.
#[inline]
fn short_into(text: &[u8], place: &mut [u8]) -> Option<()> {
    let place = place.get_mut(..text.len())?;
    match text.len() {
        ..SMALL => {
            is_plain(specials(word_at(text, 0).0))?;
            place.copy_from_slice(text);
            Some(())
        }
        SMALL..=FOUR_SMALL => in_four(text, place, |[a, b, c, d]: [[u8; SMALL]; 4]| {
            let word =
                |one, two| u64::from(u32::from_le_bytes(one)) << 32 | u64::from(u32::from_le_bytes(two));
            specials(word(a, b)) | specials(word(c, d))
        }),
        AFTER_SMALL..=FOUR_BLOCKS => in_four(text, place, |[a, b, c, d]: [[u8; BLOCK]; 4]| {
            let special = special_lanes(a) | special_lanes(b) | special_lanes(c) | special_lanes(d);
            u64::from(special.to_bitmask())
        }),
        _ => None,
    }
}

/// Writes a text of `N` to `4 * N` bytes, if `specials` finds none: four pieces of fixed size, which may overlap.
#[inline]
fn in_four<const N: usize>(
    text: &[u8],
    place: &mut [u8],
    specials: impl Fn([[u8; N]; 4]) -> u64,
) -> Option<()> {
    let last = text.len().checked_sub(N)?;
    let second = last.min(N);
    let starts = [0, second, last - second, last];
    let mut pieces = [[0; N]; 4];
    for (piece, start) in pieces.iter_mut().zip(starts) {
        *piece = *text.get(start..)?.first_chunk()?;
    }
    is_plain(specials(pieces))?;
    for (piece, start) in pieces.iter().zip(starts) {
        *place.get_mut(start..)?.first_chunk_mut()? = *piece;
    }
    Some(())
}

#[inline]
fn is_plain(specials: u64) -> Option<()> {
    (specials == 0).then_some(())
}

/// Which bytes of a block cannot stand in a string as they are: quotes, backslashes, control characters. A bit
/// each.
#[inline]
fn specials_of_block(block: [u8; BLOCK]) -> u32 {
    special_lanes(block).to_bitmask()
}

/// Which bytes cannot stand in a string as they are: all bits of each.
#[inline]
fn special_lanes(block: [u8; BLOCK]) -> u8x16 {
    let block = u8x16::new(block);
    let control = block.simd_le(u8x16::splat(0x1f));
    control | block.simd_eq(u8x16::splat(b'"')) | block.simd_eq(u8x16::splat(b'\\'))
}

/// How a byte is written that cannot stand as it is, and how much of that counts. Without branches: what comes
/// next in a job's output cannot be predicted.
#[inline]
fn escape_of(byte: u8) -> ([u8; 6], usize) {
    const HEX: [u8; 16] = *b"0123456789abcdef";
    let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or_default();
    let letter = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => b'u',
    };
    ([b'\\', letter, b'0', b'0', digit(byte >> 4), digit(byte & 15)], if letter == b'u' { 6 } else { 2 })
}

/// The word at `start`; at the end of the text with blanks behind it.
#[inline]
fn word_at(text: &[u8], start: usize) -> (u64, usize) {
    const BLANKS: u64 = u64::from_le_bytes([b' '; 8]);
    let rest = text.get(start..).unwrap_or_default();
    if let Some(word) = rest.first_chunk() {
        return (u64::from_le_bytes(*word), 8);
    }
    let length = rest.len();
    let bits = 8 * length;
    let word = if let Some(last) = text.last_chunk() {
        // The last word of the whole text, less what was read already.
        u64::from_le_bytes(*last) >> (64 - bits)
    } else if let (Some(first), Some(last)) = (rest.first_chunk(), rest.last_chunk()) {
        // Two halves that may overlap.
        u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << (bits - 32)
    } else {
        rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
    };
    (word | BLANKS << bits, length)
}

/// Which bytes of a word cannot stand in a string as they are: the high bit of each. The lowest bit that is set
/// is right, those above may be wrong.
#[inline]
fn specials(word: u64) -> u64 {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    // Below `limit` is what borrows from the high bit, unless that was set before.
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word;
    let is = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    (below(word, 0x20) | is(b'"') | is(b'\\')) & HIGH
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> String {
        let mut out = Buffer::default();
        Writer::new(&mut out).string(text).unwrap();
        String::from_utf8(out.take_whole()).unwrap()
    }

    #[test]
    fn strings_are_escaped_and_come_back() {
        let all: String = (0..0x300).filter_map(char::from_u32).collect();
        for text in [all.as_str(), "", "plain", "\"", "a\\", "\n\n", "\u{7f}\u{80}\u{2028}😀"] {
            assert_eq!(serde_json::from_str::<String>(&written(text)).unwrap(), text);
        }
        assert_eq!(written("\u{1}\u{1f}\r\t"), r#""\u0001\u001f\r\t""#);
    }

    #[test]
    fn an_escape_is_found_wherever_it_is() {
        for length in 1..70 {
            for at in 0..length {
                for special in [b'"', b'\\', b'\n', 0, 0x1f] {
                    for filler in ["x", "\u{7f}", " ", "!", "#", "[", "]"] {
                        let mut text = filler.repeat(length).into_bytes();
                        for place in [at, length - 1] {
                            text[place] = special;
                            let text = String::from_utf8(text.clone()).unwrap();
                            assert_eq!(serde_json::from_str::<String>(&written(&text)).unwrap(), text);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn texts_of_every_length() {
        let all: String = ('a'..='z').chain('A'..='Z').chain('0'..='9').chain("äöü€😀日本".chars()).collect();
        for start in 0..20 {
            let mut text = String::new();
            for c in all.chars().skip(start) {
                assert_eq!(written(&text), format!("\"{text}\""));
                text.push(c);
            }
        }
    }

    #[test]
    fn a_buffer_is_used_again() {
        let mut out = Buffer::default();
        for text in ["a longer text than the next", "short", ""] {
            out.clear();
            Writer::new(&mut out).string(text).unwrap();
            assert_eq!(out.text(), format!("\"{text}\"").as_bytes());
        }
        let mut writer = Writer::new(&mut out);
        writer.float(-1.5).unwrap();
        writer.raw(b",").unwrap();
        assert_eq!(writer.since(2), b"-1.5,");
        writer.take_back(3);
        assert_eq!(out.take_whole(), b"\"\"-");
    }

    #[test]
    fn bytes_are_text_with_replacements() {
        let mut out = Buffer::default();
        Writer::new(&mut out).escaped_lossy(b"a\xff\n\xc3\xbc\xe2\x82").unwrap();
        assert_eq!(out.text(), "a\u{fffd}\\nü\u{fffd}".as_bytes());
    }

    #[test]
    fn memory_that_cannot_be_had_is_an_error() {
        let mut out = Buffer::default();
        assert_eq!(Writer::new(&mut out).reserve(isize::MAX as usize), Err(OutOfMemory));
    }
}
