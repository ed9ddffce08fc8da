//! Python object → JSON bytes, in one pass and without an intermediate tree.
//!
//! The meaning is that of `json.dumps`: `json.loads` of ours equals `json.loads(json.dumps(value))`
//! wherever the latter works. Where it does not (sets, dates, lone surrogates, cycles, ...) this writes
//! something readable instead, so that an event is never lost for its content. The walk keeps its own
//! stack: neither Python's recursion limit nor a small thread stack matters. Nor does it trust what it
//! walks: whatever has no end (a hostile sequence, a few lists that hold each other many times) is bounded.
//!
//! That is the careful walk, for anything. Before it the plain one is tried (`plain`), which knows only what real events
//! are made of, and is twice as fast.

mod containers;
pub(super) mod interrupt;
// Where there is no GIL, or no cheap way to a string's UTF-8, the careful walk does it all.
#[cfg(all(not(Py_GIL_DISABLED), any(Py_3_10, not(Py_LIMITED_API))))]
mod plain;
mod texts;

use pyo3::{
    prelude::*,
    types::{PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PySlice, PyString},
};

use self::{
    containers::{Container, Items, Step},
    interrupt::Noted,
    texts::{
        digits_of, ends_with_half_a_pair, has_short_text, is_ascii, long_digits, part_of, slice_of,
        without_surrogates,
    },
};
use crate::{
    error::Error,
    message::{
        CommandLine, Fate, Sieve, Spot,
        buffer::{Buffer, OutOfMemory},
        json::Writer,
    },
    secret::{MASK, Masks},
};

/// Containers in containers. Consumers' parsers have limits too (128 in `serde_json`).
const MAX_DEPTH: usize = 100;

/// What comes after so many bytes is left out. No server takes more than a fraction of it.
const MAX_BYTES: usize = 256 << 20;

/// A longer string is converted in pieces, unless it is ASCII: CPython keeps the UTF-8 form of a string as long
/// as the string itself, which would cost its size once more. (The plain walk does not ask this of keys.)
const PIECE: usize = 16 << 10;

const TOO_DEEP: &str = "<too deep>";
const TOO_LONG: &str = "<too long>";

/// Appends `value` as JSON to `out`, as far as the sieve lets it. The only failure is memory that cannot be had.
pub(super) fn encode(value: &Bound<'_, PyAny>, out: &mut Buffer, sieve: Sieve<'_>) -> Result<(), Error> {
    #[cfg(all(not(Py_GIL_DISABLED), any(Py_3_10, not(Py_LIMITED_API))))]
    if sieve.keeps_all() {
        let mut writer = Writer::new(out);
        match plain::write(value, &mut writer) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(OutOfMemory) => return Err(Error::Memory { size: writer.len() }),
        }
    }
    encode_carefully(value, out, sieve)
}

/// As [`encode`], whatever `value` is made of: what the plain walk is tested against, too.
pub(super) fn encode_carefully(
    value: &Bound<'_, PyAny>,
    out: &mut Buffer,
    sieve: Sieve<'_>,
) -> Result<(), Error> {
    let mut walk =
        Walk { out: Writer::new(out), sieve, spot: sieve.root(), line: CommandLine::default(), full: false };
    walk.run(value).map_err(|OutOfMemory| Error::Memory { size: walk.out.len() })
}

/// A short text that names something, such as an ident; `None` if it has none.
pub(super) fn name_of<'py>(value: &Bound<'py, PyAny>) -> Option<Bound<'py, PyString>> {
    if let Ok(text) = value.cast_exact::<PyString>() {
        return Some(text.clone());
    }
    let has_text = value.is_exact_instance_of::<PyInt>() || (!value.is_none() && has_short_text(value));
    has_text.then(|| value.str().noted()).flatten()
}

struct Walk<'a> {
    out: Writer<'a>,
    sieve: Sieve<'a>,
    /// Where in the data the next value is.
    spot: Spot,
    /// What was read of the command line.
    line: CommandLine,
    /// `MAX_BYTES` was reached.
    full: bool,
}

type Written = Result<(), OutOfMemory>;

impl Walk<'_> {
    fn run(&mut self, value: &Bound<'_, PyAny>) -> Written {
        let mut open: Vec<Container<'_>> = Vec::with_capacity(8);
        let mut value = value.clone();
        loop {
            if let Some(container) = self.write_or_open(&value, &open)? {
                open.push(container);
            }
            // On to the next value: of the innermost container that still has one.
            value = loop {
                let Some(innermost) = open.last_mut() else { return Ok(()) };
                match self.next(innermost)? {
                    Some(next) => break next,
                    None => open.pop(),
                };
            };
        }
    }

    /// Writes a scalar, or says which container is to be walked.
    fn write_or_open<'py>(
        &mut self,
        value: &Bound<'py, PyAny>,
        open: &[Container<'py>],
    ) -> Result<Option<Container<'py>>, OutOfMemory> {
        // The exact types first: real events hold hardly anything else.
        if let Ok(text) = value.cast_exact::<PyString>() {
            self.string(text)?;
        } else if value.is_none() {
            self.out.raw(b"null")?;
        } else if let Ok(flag) = value.cast_exact::<PyBool>() {
            self.out.raw(if flag.is_true() { b"true" } else { b"false" })?;
        } else if let Ok(number) = value.cast_exact::<PyInt>() {
            self.int(number)?;
        } else if value.is_exact_instance_of::<PyDict>() || value.is_exact_instance_of::<PyList>() {
            return self.open(value, open);
        } else if let Ok(number) = value.cast::<PyInt>() {
            self.int(number)?;
        } else if let Ok(number) = value.cast::<PyFloat>() {
            let start = self.out.len();
            self.out.float(number.value())?;
            self.hide_number(start)?;
        } else if let Ok(text) = value.cast::<PyString>() {
            self.string(text)?;
        } else {
            return self.open(value, open);
        }
        Ok(None)
    }

    fn open<'py>(
        &mut self,
        value: &Bound<'py, PyAny>,
        open: &[Container<'py>],
    ) -> Result<Option<Container<'py>>, OutOfMemory> {
        if open.len() >= MAX_DEPTH || open.iter().any(|outer| outer.id == value.as_ptr() as usize) {
            self.out.string(TOO_DEEP)?;
        } else if let Some(container) = Container::open(value, self.spot) {
            self.out.raw(container.brackets().0)?;
            return Ok(Some(container));
        } else {
            self.other(value)?;
        }
        Ok(None)
    }

    /// Writes what comes before the next value (comma, key) and returns it, or closes the container.
    fn next<'py>(
        &mut self,
        container: &mut Container<'py>,
    ) -> Result<Option<Bound<'py, PyAny>>, OutOfMemory> {
        loop {
            let step = if self.out.len() < MAX_BYTES { container.items.next() } else { Step::Cut };
            let (key, value) = match step {
                Step::Item(key, value) => (key, value),
                Step::Cut if !std::mem::replace(&mut self.full, self.out.len() >= MAX_BYTES) => {
                    self.comma(container)?;
                    let has_keys = container.brackets().1 == b"}";
                    if has_keys {
                        self.out.string(TOO_LONG)?;
                        self.out.raw(b":")?;
                    }
                    self.out.string(TOO_LONG)?;
                    container.items = Items::None { pairs: has_keys };
                    continue;
                }
                Step::Cut | Step::End => {
                    self.out.raw(container.brackets().1)?;
                    return Ok(None);
                }
            };
            let fate = match &key {
                Some(key) if self.sieve.looks_into(container.spot) => self.fate(container.spot, key, &value),
                _ => {
                    self.spot = Sieve::item(container.spot);
                    self.spot.fate()
                }
            };
            if fate == Fate::Omit {
                continue;
            }
            self.comma(container)?;
            if let Some(key) = key {
                self.key(&key)?;
                self.out.raw(b":")?;
            }
            match fate {
                Fate::Keep => return Ok(Some(value)),
                Fate::Argument => match self.argument(&value)? {
                    Some(other) => self.out.string(&other)?,
                    None => return Ok(Some(value)),
                },
                Fate::Mask | Fate::Omit => self.out.string(MASK)?,
            }
        }
    }

    fn comma(&mut self, container: &mut Container<'_>) -> Written {
        if std::mem::take(&mut container.first) { Ok(()) } else { self.out.raw(b",") }
    }

    /// What becomes of a member of an object.
    fn fate(&mut self, object: Spot, key: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> Fate {
        // A number is written as its text.
        let key =
            if key.is_exact_instance_of::<PyInt>() { key.str().noted() } else { key.cast().ok().cloned() };
        let Some(key) = key else {
            self.spot = Sieve::nameless(object);
            return self.spot.fate();
        };
        let text = || value.cast::<PyString>().ok().map(|text| text.to_string_lossy());
        let (fate, spot) = self.sieve.member(object, &key.to_string_lossy(), text);
        self.spot = spot;
        fate
    }

    /// What takes the place of a part of the command line, if anything.
    fn argument(&mut self, value: &Bound<'_, PyAny>) -> Result<Option<String>, OutOfMemory> {
        let text = if let Ok(text) = value.cast::<PyString>() {
            if text.len().noted().is_some_and(|length| length > CommandLine::LONGEST) {
                self.line = CommandLine::default();
                return Ok(Some(MASK.to_owned()));
            }
            Some(without_surrogates(text)?)
        } else {
            value.cast::<PyBytes>().ok().map(|bytes| String::from_utf8_lossy(bytes.as_bytes()).into_owned())
        };
        Ok(self.sieve.argument(self.spot, &mut self.line, text.as_deref()))
    }

    /// What hides our credentials here.
    fn hiding(&self) -> Option<&Masks> {
        self.sieve.masks(self.spot)
    }

    /// Writes a short text.
    fn text(&mut self, text: &str) -> Written {
        match self.hiding().and_then(|masks| masks.hide(text)) {
            Some(hidden) => self.out.string(&hidden),
            None => self.out.string(text),
        }
    }

    /// Writes a `str`, and no more of a subclass than the text that it holds.
    fn string(&mut self, text: &Bound<'_, PyString>) -> Written {
        if !text.is_exact_instance_of::<PyString>() {
            return self.string(&slice_of(text, &PySlice::full(text.py()))?);
        }
        if text.len().is_ok_and(|length| length > PIECE) && !is_ascii(text) {
            return self.long_string(text);
        }
        match text.to_cow() {
            Ok(text) => self.text(&text),
            Err(_) => self.text(&without_surrogates(text)?),
        }
    }

    fn long_string(&mut self, text: &Bound<'_, PyString>) -> Written {
        let mut text = text.clone();
        for secret in self.hiding().into_iter().flat_map(Masks::parts) {
            // In Python's own form: a copy is made only of what has a secret in it.
            if text.contains(secret).unwrap_or(false) {
                let hidden = text.call_method1("replace", (secret, MASK)).map_err(|_| OutOfMemory)?;
                text = hidden.cast_into().map_err(|_| OutOfMemory)?;
            }
        }
        let length = text.len().unwrap_or(0);
        let mut start = 0;
        self.out.raw(b"\"")?;
        while start < length {
            let mut end = (start + PIECE).min(length);
            let mut piece = part_of(&text, start, end)?;
            let plain = piece.to_cow().ok().map(|text| self.out.escaped(&text));
            match plain {
                Some(written) => written?,
                None => {
                    if end < length && ends_with_half_a_pair(&piece)? {
                        end += 1;
                        piece = part_of(&text, start, end)?;
                    }
                    self.out.escaped(&without_surrogates(&piece)?)?;
                }
            }
            start = end;
        }
        self.out.raw(b"\"")
    }

    fn int(&mut self, number: &Bound<'_, PyInt>) -> Written {
        let start = self.out.len();
        if let Ok(small) = number.extract::<i64>() {
            self.out.raw(itoa::Buffer::new().format(small).as_bytes())?;
            return self.hide_number(start);
        }
        let kind = number.py().get_type::<PyInt>();
        match digits_of(number, kind.as_any(), "__repr__")
            .or_else(|_| long_digits(number, kind.as_any()))
            .noted()
        {
            Some(digits) => self.out.raw(digits.as_bytes())?,
            None => self.other(number)?,
        }
        self.hide_number(start)
    }

    /// A number may be somebody's password.
    fn hide_number(&mut self, start: usize) -> Written {
        let Some(masks) = self.hiding() else { return Ok(()) };
        if !masks.is_secret(self.out.since(start)) {
            return Ok(());
        }
        self.out.take_back(start);
        self.out.string(MASK)
    }

    /// As `json.dumps`: the JSON form of a constant or number in quotes; any other key as its text.
    fn key(&mut self, key: &Bound<'_, PyAny>) -> Written {
        if let Ok(text) = key.cast::<PyString>() {
            self.string(text)
        } else if key.is_none() {
            self.out.string("null")
        } else if let Ok(flag) = key.cast_exact::<PyBool>() {
            self.out.string(if flag.is_true() { "true" } else { "false" })
        } else if let Ok(number) = key.cast::<PyInt>() {
            // What is no number in JSON (too long) has quotes already.
            let start = self.out.len();
            self.int(number)?;
            if self.out.since(start).starts_with(b"\"") {
                return Ok(());
            }
            let digits = String::from_utf8_lossy(self.out.since(start)).into_owned();
            self.out.take_back(start);
            self.out.string(&digits)
        } else if let Ok(number) = key.cast::<PyFloat>() {
            match number.value() {
                nan if nan.is_nan() => self.out.string("NaN"),
                f64::INFINITY => self.out.string("Infinity"),
                f64::NEG_INFINITY => self.out.string("-Infinity"),
                _ => match digits_of(key, key.py().get_type::<PyFloat>().as_any(), "__repr__") {
                    Ok(digits) => self.text(&digits),
                    Err(_) => self.foreign(key),
                },
            }
        } else {
            self.foreign(key)
        }
    }

    /// Bytes as text, anything else as [`Self::foreign`].
    fn other(&mut self, value: &Bound<'_, PyAny>) -> Written {
        if let Ok(bytes) = value.cast::<PyBytes>() {
            self.bytes(bytes.as_bytes())
        } else if let Ok(bytes) = value.cast::<PyByteArray>() {
            // A copy: Python code may change it at any time.
            let copy = value.py().get_type::<PyBytes>().call1((bytes,)).map_err(|_| OutOfMemory)?;
            let copy = copy.cast_into::<PyBytes>().map_err(|_| OutOfMemory)?;
            self.bytes(copy.as_bytes())
        } else {
            self.foreign(value)
        }
    }

    fn bytes(&mut self, bytes: &[u8]) -> Written {
        if self.hiding().is_some() {
            return self.text(&String::from_utf8_lossy(bytes));
        }
        self.out.raw(b"\"")?;
        self.out.escaped_lossy(bytes)?;
        self.out.raw(b"\"")
    }

    /// `str(value)`; if that fails, the name of its type.
    fn foreign(&mut self, value: &Bound<'_, PyAny>) -> Written {
        if !has_short_text(value) {
            return self.out.string(TOO_DEEP);
        }
        match value.str().noted() {
            Some(text) => self.string(&text),
            None => match value.get_type().name().noted() {
                Some(name) => self.string(&name),
                None => self.out.string("object"),
            },
        }
    }
}
