//! JSON as bytes, written without aborting the process when memory runs out.

/// The one thing that can go wrong while JSON is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// Appends JSON to a buffer. What memory there is not is an error, where `Vec` would abort the process.
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    /// Appends to `out`.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    /// Bytes in the buffer.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Is the buffer empty?
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Appends bytes as they are.
    #[inline]
    pub fn raw(&mut self, bytes: &[u8]) -> Result<(), OutOfMemory> {
        self.reserve(bytes.len())?;
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    /// Appends a number; NaN and the infinities, which JSON does not have, become `null`.
    pub fn float(&mut self, number: f64) -> Result<(), OutOfMemory> {
        const LONGEST: usize = 32;
        self.reserve(LONGEST)?;
        serde_json::to_writer(&mut *self.out, &number).map_err(|_| OutOfMemory)
    }

    /// Appends a string in quotes.
    pub fn string(&mut self, text: &str) -> Result<(), OutOfMemory> {
        self.raw(b"\"")?;
        self.escaped(text)?;
        self.raw(b"\"")
    }

    /// Appends the inside of a string (RFC 8259, section 7).
    pub fn escaped(&mut self, text: &str) -> Result<(), OutOfMemory> {
        let mut rest = text.as_bytes();
        self.reserve(rest.len())?;
        while let Some(at) = next_escape(rest) {
            let (plain, tail) = rest.split_at(at);
            self.raw(plain)?;
            let Some((special, tail)) = tail.split_first() else { break };
            match special {
                b'"' => self.raw(b"\\\"")?,
                b'\\' => self.raw(b"\\\\")?,
                b'\n' => self.raw(b"\\n")?,
                b'\r' => self.raw(b"\\r")?,
                b'\t' => self.raw(b"\\t")?,
                control => self.raw(format!("\\u{control:04x}").as_bytes())?,
            }
            rest = tail;
        }
        self.raw(rest)
    }

    /// Appends the inside of a string from bytes that may not be UTF-8 (then with U+FFFD in it).
    pub fn escaped_lossy(&mut self, bytes: &[u8]) -> Result<(), OutOfMemory> {
        for chunk in bytes.utf8_chunks() {
            self.escaped(chunk.valid())?;
            if !chunk.invalid().is_empty() {
                self.raw("\u{fffd}".as_bytes())?;
            }
        }
        Ok(())
    }

    /// What was written from `start` on.
    pub fn since(&self, start: usize) -> &[u8] {
        self.out.get(start..).unwrap_or_default()
    }

    /// Takes back what was written from `start` on.
    pub fn take_back(&mut self, start: usize) {
        self.out.truncate(start);
    }

    #[inline]
    fn reserve(&mut self, more: usize) -> Result<(), OutOfMemory> {
        self.out.try_reserve(more).map_err(|_| OutOfMemory)
    }
}

/// Where the first byte is that cannot stand in a string as it is.
fn next_escape(bytes: &[u8]) -> Option<usize> {
    const WIDE: usize = 32;
    const NARROW: usize = 8;
    let mut at = plain_chunks::<WIDE>(bytes);
    let rest = bytes.get(at..).unwrap_or_default();
    at += plain_chunks::<NARROW>(rest);
    let rest = bytes.get(at..).unwrap_or_default();
    rest.iter().position(|byte| needs_escape(*byte)).map(|offset| at + offset)
}

/// How many bytes there are before the first chunk of `N` that has something to escape.
#[inline]
fn plain_chunks<const N: usize>(bytes: &[u8]) -> usize {
    // Without a way out in the middle of a chunk, this becomes a few vector instructions.
    let is_plain = |chunk: &&[u8; N]| !chunk.iter().fold(false, |any, byte| any | needs_escape(*byte));
    N * bytes.as_chunks::<N>().0.iter().take_while(is_plain).count()
}

#[inline]
#[expect(clippy::needless_bitwise_bool, reason = "a branch would not become a vector instruction")]
fn needs_escape(byte: u8) -> bool {
    (byte < b' ') | (byte == b'"') | (byte == b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> String {
        let mut out = Vec::new();
        Writer::new(&mut out).string(text).unwrap();
        String::from_utf8(out).unwrap()
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
    fn the_first_escape_is_found_wherever_it_is() {
        for length in 0..100 {
            let plain = "x".repeat(length);
            assert_eq!(next_escape(plain.as_bytes()), None);
            for at in 0..length {
                for special in [b'"', b'\\', b'\n', 0, 0x1f] {
                    let mut bytes = plain.clone().into_bytes();
                    bytes[at] = special;
                    bytes[length - 1] = special;
                    assert_eq!(next_escape(&bytes), Some(at));
                }
            }
        }
        assert_eq!(next_escape("\u{7f}ü€😀 !#[]".repeat(9).as_bytes()), None);
    }

    #[test]
    fn memory_that_cannot_be_had_is_an_error() {
        let mut out = Vec::new();
        assert_eq!(Writer::new(&mut out).reserve(isize::MAX as usize), Err(OutOfMemory));
    }
}
