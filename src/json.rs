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
        while let Some(at) = rest.iter().position(|byte| needs_escape(*byte)) {
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

    fn reserve(&mut self, more: usize) -> Result<(), OutOfMemory> {
        self.out.try_reserve(more).map_err(|_| OutOfMemory)
    }
}

fn needs_escape(byte: u8) -> bool {
    byte < b' ' || byte == b'"' || byte == b'\\'
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
    fn memory_that_cannot_be_had_is_an_error() {
        let mut out = Vec::new();
        assert_eq!(Writer::new(&mut out).reserve(isize::MAX as usize), Err(OutOfMemory));
    }
}
