//! Python object → JSON bytes, in one pass and without an intermediate tree.
//!
//! The meaning is that of `json.dumps`: `json.loads` of ours equals `json.loads(json.dumps(value))`
//! wherever the latter works. Where it does not (sets, dates, lone surrogates, cycles, ...) this writes
//! something readable instead, so that an event is never lost for its content. The walk keeps its own
//! stack: neither Python's recursion limit nor a small thread stack matters.

use pyo3::{
    exceptions::PyTypeError,
    prelude::*,
    types::{
        PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PyMapping, PySequence,
        PySet, PyString, PyTuple, iter::BoundDictIterator,
    },
};

/// Containers in containers. Consumers' parsers have limits too (128 in `serde_json`).
const MAX_DEPTH: usize = 100;

const TOO_DEEP: &[u8] = b"\"<too deep>\"";

/// Appends `value` as JSON to `out`.
pub fn encode(value: &Bound<'_, PyAny>, out: &mut Vec<u8>) {
    let mut open: Vec<Container<'_>> = Vec::new();
    let mut value = value.clone();
    loop {
        if let Some(container) = write_or_open(&value, &open, out) {
            open.push(container);
        }
        // On to the next value: of the innermost container that still has one.
        value = loop {
            let Some(innermost) = open.last_mut() else { return };
            match innermost.next(out) {
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
    out: &mut Vec<u8>,
) -> Option<Container<'py>> {
    // The exact types first: real events hold hardly anything else.
    if let Ok(text) = value.cast_exact::<PyString>() {
        write_string(text, out);
    } else if value.is_none() {
        out.extend_from_slice(b"null");
    } else if let Ok(flag) = value.cast_exact::<PyBool>() {
        out.extend_from_slice(if flag.is_true() { b"true" } else { b"false" });
    } else if let Ok(number) = value.cast::<PyInt>() {
        write_int(number, out);
    } else if let Ok(number) = value.cast::<PyFloat>() {
        write_float(number, out);
    } else if let Ok(text) = value.cast::<PyString>() {
        write_string(text, out);
    } else if open.len() >= MAX_DEPTH || open.iter().any(|outer| outer.id == value.as_ptr() as usize) {
        out.extend_from_slice(TOO_DEEP);
    } else if let Some(container) = Container::open(value) {
        out.push(container.bracket());
        return Some(container);
    } else {
        write_other(value, out);
    }
    None
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
}

impl<'py> Container<'py> {
    fn open(value: &Bound<'py, PyAny>) -> Option<Self> {
        let items = if let Ok(dict) = value.cast::<PyDict>() {
            Items::of_dict(dict.clone())
        } else if let Ok(list) = value.cast::<PyList>() {
            Items::List { list: list.clone(), index: 0 }
        } else if let Ok(tuple) = value.cast::<PyTuple>() {
            Items::Tuple { tuple: tuple.clone(), index: 0 }
        } else {
            Items::of_other(value).ok()?
        };
        Some(Self { id: value.as_ptr() as usize, first: true, items })
    }

    fn bracket(&self) -> u8 {
        if matches!(self.items, Items::Dict { .. }) { b'{' } else { b'[' }
    }

    /// Writes what comes before the next value (comma, key) and returns it, or closes the container.
    fn next(&mut self, out: &mut Vec<u8>) -> Option<Bound<'py, PyAny>> {
        let (key, value) = match &mut self.items {
            Items::List { list, index } => {
                let item = list.get_item(*index).ok();
                *index += 1;
                (None, item)
            }
            Items::Tuple { tuple, index } => {
                let item = tuple.get_item(*index).ok();
                *index += 1;
                (None, item)
            }
            Items::Dict { dict, size, left, iter } => {
                // pyo3's iterator panics on a dict that changed: look before each step.
                let intact = *left > 0 && dict.len() == *size;
                *left = left.saturating_sub(1);
                intact.then(|| iter.next()).flatten().unzip()
            }
        };
        let Some(value) = value else {
            out.push(if matches!(self.items, Items::Dict { .. }) { b'}' } else { b']' });
            return None;
        };
        if !std::mem::take(&mut self.first) {
            out.push(b',');
        }
        if let Some(key) = key {
            write_key(&key, out);
            out.push(b':');
        }
        Some(value)
    }
}

impl<'py> Items<'py> {
    fn of_dict(dict: Bound<'py, PyDict>) -> Self {
        let size = dict.len();
        let iter = dict.iter();
        Self::Dict { dict, size, left: size, iter }
    }

    /// Sets, and whatever is a sequence or a mapping to `collections.abc`: copied once, then walked.
    fn of_other(value: &Bound<'py, PyAny>) -> PyResult<Self> {
        let py = value.py();
        if value.cast::<PyBytes>().is_ok() || value.cast::<PyByteArray>().is_ok() {
            return Err(PyTypeError::new_err("bytes are text here"));
        }
        if let Ok(mapping) = value.cast::<PyMapping>() {
            return Ok(Self::of_dict(PyDict::from_sequence(mapping.items()?.as_any())?));
        }
        let is_set = value.cast::<PySet>().is_ok() || value.cast::<PyFrozenSet>().is_ok();
        if is_set || value.cast::<PySequence>().is_ok() {
            let items = value.try_iter()?.collect::<PyResult<Vec<_>>>()?;
            return Ok(Self::List { list: PyList::new(py, items)?, index: 0 });
        }
        Err(PyTypeError::new_err("not a container"))
    }
}

/// As `json.dumps`: the JSON form of a constant or number in quotes; any other key as its text.
fn write_key(key: &Bound<'_, PyAny>, out: &mut Vec<u8>) {
    let py = key.py();
    if let Ok(text) = key.cast::<PyString>() {
        write_string(text, out);
    } else if key.is_none() {
        write_str("null", out);
    } else if let Ok(flag) = key.cast_exact::<PyBool>() {
        write_str(if flag.is_true() { "true" } else { "false" }, out);
    } else if key.cast::<PyInt>().is_ok() {
        write_repr(key, py.get_type::<PyInt>().as_any(), out);
    } else if let Ok(number) = key.cast::<PyFloat>() {
        match number.value() {
            nan if nan.is_nan() => write_str("NaN", out),
            f64::INFINITY => write_str("Infinity", out),
            f64::NEG_INFINITY => write_str("-Infinity", out),
            _ => write_repr(key, py.get_type::<PyFloat>().as_any(), out),
        }
    } else {
        write_other(key, out);
    }
}

/// `kind.__repr__(value)` in quotes, whatever a subclass thinks.
fn write_repr(value: &Bound<'_, PyAny>, kind: &Bound<'_, PyAny>, out: &mut Vec<u8>) {
    match kind.call_method1("__repr__", (value,)).and_then(|digits| digits.extract::<String>()) {
        Ok(digits) => write_str(&digits, out),
        Err(_) => write_other(value, out),
    }
}

fn write_int(number: &Bound<'_, PyInt>, out: &mut Vec<u8>) {
    if let Ok(small) = number.extract::<i64>() {
        out.extend_from_slice(itoa::Buffer::new().format(small).as_bytes());
        return;
    }
    // `int.__repr__`, whatever a subclass thinks; CPython refuses it beyond 4,300 digits by default.
    let kind = number.py().get_type::<PyInt>();
    match kind.call_method1("__repr__", (number,)).and_then(|digits| digits.extract::<String>()) {
        Ok(digits) => out.extend_from_slice(digits.as_bytes()),
        Err(_) => out.extend_from_slice(b"\"int\""),
    }
}

fn write_float(number: &Bound<'_, PyFloat>, out: &mut Vec<u8>) {
    let number = number.value();
    // serde_json writes NaN and the infinities as null. Writing to a Vec cannot fail.
    let _ = serde_json::to_writer(out, &number);
}

fn write_string(text: &Bound<'_, PyString>, out: &mut Vec<u8>) {
    match text.to_cow() {
        Ok(text) => write_str(&text, out),
        Err(_) => write_surrogates(text, out),
    }
}

fn write_str(text: &str, out: &mut Vec<u8>) {
    let _ = serde_json::to_writer(out, text);
}

/// A string with surrogates: pairs are one character, as after `json.loads(json.dumps(text))`; a lone
/// one becomes U+FFFD.
fn write_surrogates(text: &Bound<'_, PyString>, out: &mut Vec<u8>) {
    let utf16 = text
        .call_method1("encode", ("utf-16-le", "surrogatepass"))
        .and_then(|bytes| bytes.extract::<Vec<u8>>())
        .unwrap_or_default();
    let units = utf16.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit));
    let text: String = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    write_str(&text, out);
}

/// Bytes as text, anything else as `str(value)`; if that fails, the name of its type.
fn write_other(value: &Bound<'_, PyAny>, out: &mut Vec<u8>) {
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return write_str(&String::from_utf8_lossy(bytes.as_bytes()), out);
    }
    if let Ok(bytes) = value.cast::<PyByteArray>() {
        return write_str(&String::from_utf8_lossy(&bytes.to_vec()), out);
    }
    match value.str() {
        Ok(text) => write_string(&text, out),
        Err(_) => match value.get_type().name() {
            Ok(name) => write_string(&name, out),
            Err(_) => write_str("object", out),
        },
    }
}
