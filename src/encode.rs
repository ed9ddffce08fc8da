//! Python object → JSON bytes, in one pass and without an intermediate tree.
//!
//! The meaning is that of `json.dumps`: `json.loads` of ours equals `json.loads(json.dumps(value))`
//! wherever the latter works. Where it does not (sets, dates, lone surrogates, cycles, ...) this writes
//! something readable instead, so that an event is never lost for its content. The walk keeps its own
//! stack: neither Python's recursion limit nor a small thread stack matters. Nor does it trust what it
//! walks: whatever has no end (a hostile sequence, a few lists that hold each other many times) is bounded.

use num_bigint::BigUint;
use pyo3::{
    exceptions::PyTypeError,
    prelude::*,
    sync::PyOnceLock,
    types::{
        PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyFrozenSet, PyInt, PyIterator, PyList, PySet,
        PySlice, PyString, PyTuple, PyType, iter::BoundDictIterator,
    },
};

use crate::{
    error::Error,
    json::{OutOfMemory, Writer},
};

/// Containers in containers. Consumers' parsers have limits too (128 in `serde_json`).
const MAX_DEPTH: usize = 100;

/// What comes after so many bytes is left out. No server takes more than a fraction of it.
const MAX_BYTES: usize = 256 << 20;

/// Items of what only claims to be a sequence or a mapping, and may have no end.
const MAX_ITEMS: usize = 1_000_000;

/// A longer string is converted in pieces: CPython's UTF-8 copy of it would cost its size once more.
const PIECE: usize = 256 << 10;

const TOO_DEEP: &str = "<too deep>";

/// Appends `value` as JSON to `out`. The only failure is memory that cannot be had.
pub fn encode(value: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> Result<(), Error> {
    let mut out = Writer::new(out);
    walk(value, &mut out).map_err(|OutOfMemory| Error::Memory { size: out.len() })
}

fn walk(value: &Bound<'_, PyAny>, out: &mut Writer<'_>) -> Result<(), OutOfMemory> {
    let mut open: Vec<Container<'_>> = Vec::new();
    let mut value = value.clone();
    loop {
        if let Some(container) = write_or_open(&value, &open, out)? {
            open.push(container);
        }
        // On to the next value: of the innermost container that still has one.
        value = loop {
            let Some(innermost) = open.last_mut() else { return Ok(()) };
            match innermost.next(out)? {
                Some(next) => break next,
                None => open.pop(),
            };
        };
    }
}

/// Writes a scalar, or says which container is to be walked.
fn write_or_open<'py>(
    value: &Bound<'py, PyAny>,
    open: &[Container<'py>],
    out: &mut Writer<'_>,
) -> Result<Option<Container<'py>>, OutOfMemory> {
    // The exact types first: real events hold hardly anything else.
    if let Ok(text) = value.cast_exact::<PyString>() {
        write_string(text, out)?;
    } else if value.is_none() {
        out.raw(b"null")?;
    } else if let Ok(flag) = value.cast_exact::<PyBool>() {
        out.raw(if flag.is_true() { b"true" } else { b"false" })?;
    } else if let Ok(number) = value.cast::<PyInt>() {
        write_int(number, out)?;
    } else if let Ok(number) = value.cast::<PyFloat>() {
        out.float(number.value())?;
    } else if let Ok(text) = value.cast::<PyString>() {
        write_string(text, out)?;
    } else if open.len() >= MAX_DEPTH || open.iter().any(|outer| outer.id == value.as_ptr() as usize) {
        out.string(TOO_DEEP)?;
    } else if let Some(container) = Container::open(value) {
        out.raw(container.brackets().0)?;
        return Ok(Some(container));
    } else {
        write_other(value, out)?;
    }
    Ok(None)
}

/// A list or dict that is being walked. Python code that runs meanwhile (a `__str__`) may change it:
/// every access is checked, and a dict that changed its size ends there.
struct Container<'py> {
    id: usize,
    first: bool,
    items: Items<'py>,
}

enum Items<'py> {
    List { list: Bound<'py, PyList>, index: usize },
    Tuple { tuple: Bound<'py, PyTuple>, index: usize },
    Dict { dict: Bound<'py, PyDict>, size: usize, left: usize, iter: BoundDictIterator<'py> },
    Other(Other<'py>),
}

impl<'py> Container<'py> {
    fn open(value: &Bound<'py, PyAny>) -> Option<Self> {
        let items = if let Ok(dict) = value.cast::<PyDict>() {
            let size = dict.len();
            Items::Dict { dict: dict.clone(), size, left: size, iter: dict.iter() }
        } else if let Ok(list) = value.cast::<PyList>() {
            Items::List { list: list.clone(), index: 0 }
        } else if let Ok(tuple) = value.cast::<PyTuple>() {
            Items::Tuple { tuple: tuple.clone(), index: 0 }
        } else {
            Items::Other(Other::open(value).ok()?)
        };
        Some(Self { id: value.as_ptr() as usize, first: true, items })
    }

    fn brackets(&self) -> (&'static [u8], &'static [u8]) {
        match &self.items {
            Items::Dict { .. } | Items::Other(Other { pairs: true, .. }) => (b"{", b"}"),
            Items::List { .. } | Items::Tuple { .. } | Items::Other(_) => (b"[", b"]"),
        }
    }

    /// Writes what comes before the next value (comma, key) and returns it, or closes the container.
    fn next(&mut self, out: &mut Writer<'_>) -> Result<Option<Bound<'py, PyAny>>, OutOfMemory> {
        let item = if out.len() < MAX_BYTES { self.items.next() } else { None };
        let Some((key, value)) = item else {
            out.raw(self.brackets().1)?;
            return Ok(None);
        };
        if !std::mem::take(&mut self.first) {
            out.raw(b",")?;
        }
        if let Some(key) = key {
            write_key(&key, out)?;
            out.raw(b":")?;
        }
        Ok(Some(value))
    }
}

/// Key (of what has keys) and value.
type Item<'py> = (Option<Bound<'py, PyAny>>, Bound<'py, PyAny>);

impl<'py> Items<'py> {
    fn next(&mut self) -> Option<Item<'py>> {
        match self {
            Items::List { list, index } => {
                let item = list.get_item(*index).ok()?;
                *index += 1;
                Some((None, item))
            }
            Items::Tuple { tuple, index } => {
                let item = tuple.get_item(*index).ok()?;
                *index += 1;
                Some((None, item))
            }
            Items::Dict { dict, size, left, iter } => {
                // pyo3's iterator panics on a dict that changed: look before each step.
                let intact = *left > 0 && dict.len() == *size;
                *left = left.saturating_sub(1);
                let (key, value) = intact.then(|| iter.next()).flatten()?;
                Some((Some(key), value))
            }
            Items::Other(other) => other.next(),
        }
    }
}

/// Sets, and whatever is a sequence or a mapping to `collections.abc`: as far as its own iterator goes.
struct Other<'py> {
    /// Of a mapping: the iterator gives keys and values.
    pairs: bool,
    iter: Bound<'py, PyIterator>,
    /// The first item: what cannot give even that is no container for us.
    first: Option<Item<'py>>,
    left: usize,
}

impl<'py> Other<'py> {
    fn open(value: &Bound<'py, PyAny>) -> PyResult<Self> {
        if value.cast::<PyBytes>().is_ok() || value.cast::<PyByteArray>().is_ok() {
            return Err(PyTypeError::new_err("bytes are text here"));
        }
        let is_set = value.cast::<PySet>().is_ok() || value.cast::<PyFrozenSet>().is_ok();
        let pairs = !is_set && is_a(value, &MAPPING, "Mapping")?;
        let iter = if pairs {
            value.call_method0("items")?.try_iter()?
        } else if is_set || is_a(value, &SEQUENCE, "Sequence")? {
            value.try_iter()?
        } else {
            return Err(PyTypeError::new_err("not a container"));
        };
        let mut other = Self { pairs, iter, first: None, left: MAX_ITEMS };
        other.first = other.step().transpose()?;
        Ok(other)
    }

    fn step(&mut self) -> Option<PyResult<Item<'py>>> {
        self.left = self.left.checked_sub(1)?;
        let item = match self.iter.next()? {
            Ok(item) => item,
            Err(error) => return Some(Err(error)),
        };
        if !self.pairs {
            return Some(Ok((None, item)));
        }
        let pair = item.extract::<(Bound<'py, PyAny>, Bound<'py, PyAny>)>();
        Some(pair.map(|(key, value)| (Some(key), value)))
    }

    fn next(&mut self) -> Option<Item<'py>> {
        self.first.take().or_else(|| self.step()?.ok())
    }
}

static MAPPING: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static SEQUENCE: PyOnceLock<Py<PyType>> = PyOnceLock::new();

/// `isinstance(value, collections.abc.NAME)`. Not a cast, which prints what a hostile object raises.
fn is_a(value: &Bound<'_, PyAny>, class: &PyOnceLock<Py<PyType>>, name: &str) -> PyResult<bool> {
    value.is_instance(class.import(value.py(), "collections.abc", name)?)
}

/// As `json.dumps`: the JSON form of a constant or number in quotes; any other key as its text.
fn write_key(key: &Bound<'_, PyAny>, out: &mut Writer<'_>) -> Result<(), OutOfMemory> {
    if let Ok(text) = key.cast::<PyString>() {
        write_string(text, out)
    } else if key.is_none() {
        out.string("null")
    } else if let Ok(flag) = key.cast_exact::<PyBool>() {
        out.string(if flag.is_true() { "true" } else { "false" })
    } else if let Ok(number) = key.cast::<PyInt>() {
        out.raw(b"\"")?;
        write_int(number, out)?;
        out.raw(b"\"")
    } else if let Ok(number) = key.cast::<PyFloat>() {
        match number.value() {
            nan if nan.is_nan() => out.string("NaN"),
            f64::INFINITY => out.string("Infinity"),
            f64::NEG_INFINITY => out.string("-Infinity"),
            _ => match digits_of(key, key.py().get_type::<PyFloat>().as_any(), "__repr__") {
                Ok(digits) => out.string(&digits),
                Err(_) => write_other(key, out),
            },
        }
    } else if is_too_deep(key) {
        out.string(TOO_DEEP)
    } else {
        write_other(key, out)
    }
}

/// Is this a tuple or frozenset whose `str` would recurse deeply? CPython's own guard against that counts
/// calls, and a small thread stack overflows first.
fn is_too_deep(key: &Bound<'_, PyAny>) -> bool {
    let mut inner = vec![(key.clone(), 0)];
    while let Some((value, depth)) = inner.pop() {
        let items = if let Ok(tuple) = value.cast::<PyTuple>() {
            tuple.iter().collect::<Vec<_>>()
        } else if let Ok(set) = value.cast::<PyFrozenSet>() {
            set.try_iter().into_iter().flatten().filter_map(Result::ok).collect()
        } else {
            continue;
        };
        if depth >= MAX_DEPTH / 4 {
            return true;
        }
        inner.extend(items.into_iter().map(|item| (item, depth + 1)));
    }
    false
}

/// `kind.method(value)` as text, whatever a subclass thinks.
fn digits_of(value: &Bound<'_, PyAny>, kind: &Bound<'_, PyAny>, method: &str) -> PyResult<String> {
    kind.call_method1(method, (value,))?.extract()
}

fn write_int(number: &Bound<'_, PyInt>, out: &mut Writer<'_>) -> Result<(), OutOfMemory> {
    if let Ok(small) = number.extract::<i64>() {
        return out.raw(itoa::Buffer::new().format(small).as_bytes());
    }
    let kind = number.py().get_type::<PyInt>();
    match digits_of(number, kind.as_any(), "__repr__").or_else(|_| long_digits(number, kind.as_any())) {
        Ok(digits) => out.raw(digits.as_bytes()),
        Err(_) => write_other(number, out),
    }
}

/// CPython refuses to write more than 4,300 decimal digits (`sys.set_int_max_str_digits`), but any number
/// of hexadecimal ones.
fn long_digits(number: &Bound<'_, PyInt>, kind: &Bound<'_, PyAny>) -> PyResult<String> {
    let hex: String = kind.call_method1("__format__", (number, "x"))?.extract()?;
    let (sign, hex) = hex.strip_prefix('-').map_or(("", hex.as_str()), |digits| ("-", digits));
    let value = BigUint::parse_bytes(hex.as_bytes(), 16)
        .ok_or_else(|| PyTypeError::new_err("not a hexadecimal number"))?;
    Ok(format!("{sign}{value}"))
}

/// Writes a `str`, and no more of a subclass than the text that it holds.
fn write_string(text: &Bound<'_, PyString>, out: &mut Writer<'_>) -> Result<(), OutOfMemory> {
    if !text.is_exact_instance_of::<PyString>() {
        return write_string(&slice_of(text, &PySlice::full(text.py()))?, out);
    }
    if text.len().is_ok_and(|length| length > PIECE) {
        return write_long_string(text, out);
    }
    match text.to_cow() {
        Ok(text) => out.string(&text),
        Err(_) => out.string(&without_surrogates(text)?),
    }
}

fn write_long_string(text: &Bound<'_, PyString>, out: &mut Writer<'_>) -> Result<(), OutOfMemory> {
    let length = text.len().unwrap_or(0);
    let mut start = 0;
    out.raw(b"\"")?;
    while start < length {
        let end = (start + PIECE).min(length);
        let (from, to) = (isize::try_from(start), isize::try_from(end));
        let (Ok(from), Ok(to)) = (from, to) else { return Err(OutOfMemory) };
        let piece = slice_of(text, &PySlice::new(text.py(), from, to, 1))?;
        if let Ok(piece) = piece.to_cow() {
            out.escaped(&piece)?;
        } else {
            out.escaped(&without_surrogates(&piece)?)?;
        }
        start = end;
    }
    out.raw(b"\"")
}

/// `str.__getitem__`, whatever a subclass thinks. It fails for want of memory alone.
fn slice_of<'py>(
    text: &Bound<'py, PyString>,
    slice: &Bound<'py, PySlice>,
) -> Result<Bound<'py, PyString>, OutOfMemory> {
    let kind = text.py().get_type::<PyString>();
    let part = kind.call_method1("__getitem__", (text, slice)).map_err(|_| OutOfMemory)?;
    part.cast_into::<PyString>().map_err(|_| OutOfMemory)
}

/// A string with surrogates: pairs are one character, as after `json.loads(json.dumps(text))`; a lone
/// one becomes U+FFFD.
fn without_surrogates(text: &Bound<'_, PyString>) -> Result<String, OutOfMemory> {
    let kind = text.py().get_type::<PyString>();
    let utf16 = kind
        .call_method1("encode", (text, "utf-16-le", "surrogatepass"))
        .map_err(|_| OutOfMemory)?
        .cast_into::<PyBytes>()
        .map_err(|_| OutOfMemory)?;
    let units = utf16.as_bytes().as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit));
    Ok(char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
}

/// Bytes as text, anything else as `str(value)`; if that fails, the name of its type.
fn write_other(value: &Bound<'_, PyAny>, out: &mut Writer<'_>) -> Result<(), OutOfMemory> {
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return out.string(&String::from_utf8_lossy(bytes.as_bytes()));
    }
    if let Ok(bytes) = value.cast::<PyByteArray>() {
        return out.string(&String::from_utf8_lossy(&bytes.to_vec()));
    }
    match value.str() {
        Ok(text) => write_string(&text, out),
        Err(_) => match value.get_type().name() {
            Ok(name) => write_string(&name, out),
            Err(_) => out.string("object"),
        },
    }
}
