//! Texts of Python objects, whatever they are: bounded, and without lone surrogates.

use num_bigint::BigUint;
use pyo3::{
    exceptions::PyTypeError,
    intern,
    prelude::*,
    sync::PyOnceLock,
    types::{
        PyBytes, PyDict, PyFrozenSet, PyFunction, PyInt, PyList, PyModule, PySet, PySlice, PyString, PyTuple,
        PyType,
    },
};

use super::MAX_DEPTH;
use crate::message::buffer::OutOfMemory;

/// The decimal digits of a number with more hexadecimal ones than this take seconds, and soon minutes.
const MAX_HEX_DIGITS: usize = 100_000;

static GET_REFERENTS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// May we ask for `str(value)`? CPython's guard against deep recursion counts calls, and a small thread stack
/// overflows first; and a few objects that hold each other many times have a text without end. So the text
/// must come from few objects, on few levels.
pub(super) fn has_short_text(value: &Bound<'_, PyAny>) -> bool {
    const MOST: usize = 10_000;
    const DEEPEST: usize = MAX_DEPTH / 4;
    let Ok(referents) = GET_REFERENTS.import(value.py(), "gc", "get_referents") else { return false };
    let mut left = MOST;
    let mut inner = vec![(value.clone(), 0)];
    while let Some((value, depth)) = inner.pop() {
        if value.cast_exact::<PyString>().is_ok() || value.cast_exact::<PyInt>().is_ok() {
            continue;
        }
        // These are what an object is made by, not what it is made of.
        if value.cast::<PyType>().is_ok()
            || value.cast::<PyModule>().is_ok()
            || value.cast::<PyFunction>().is_ok()
        {
            continue;
        }
        // A list of all items is not made of what has too many.
        let large = value.cast::<PyList>().is_ok_and(|list| list.len() > left)
            || value.cast::<PyTuple>().is_ok_and(|tuple| tuple.len() > left)
            || value.cast::<PyDict>().is_ok_and(|dict| dict.len() > left)
            || value.cast::<PySet>().is_ok_and(|set| set.len() > left)
            || value.cast::<PyFrozenSet>().is_ok_and(|set| set.len() > left);
        let Some(all) = (!large && depth < DEEPEST).then(|| referents.call1((&value,))) else { return false };
        let Some(all) = all.ok().and_then(|all| all.cast_into::<PyList>().ok()) else { return false };
        let Some(rest) = left.checked_sub(all.len()) else { return false };
        left = rest;
        inner.extend(all.iter().map(|referent| (referent, depth + 1)));
    }
    true
}

/// `kind.method(value)` as text, whatever a subclass thinks.
pub(super) fn digits_of(value: &Bound<'_, PyAny>, kind: &Bound<'_, PyAny>, method: &str) -> PyResult<String> {
    kind.call_method1(method, (value,))?.extract()
}

/// CPython refuses to write more than 4,300 decimal digits (`sys.set_int_max_str_digits`), but any number
/// of hexadecimal ones. A number of a hundred thousand of those stays one, as text.
pub(super) fn long_digits(number: &Bound<'_, PyInt>, kind: &Bound<'_, PyAny>) -> PyResult<String> {
    let hex: String = kind.call_method1("__format__", (number, "x"))?.extract()?;
    let (sign, hex) = hex.strip_prefix('-').map_or(("", hex.as_str()), |digits| ("-", digits));
    if hex.len() > MAX_HEX_DIGITS {
        return Ok(format!("\"{sign}0x{hex}\""));
    }
    let value = BigUint::parse_bytes(hex.as_bytes(), 16)
        .ok_or_else(|| PyTypeError::new_err("not a hexadecimal number"))?;
    Ok(format!("{sign}{value}"))
}

pub(super) fn is_ascii(text: &Bound<'_, PyString>) -> bool {
    text.call_method0(intern!(text.py(), "isascii")).is_ok_and(|ascii| ascii.is_truthy().unwrap_or(false))
}

pub(super) fn part_of<'py>(
    text: &Bound<'py, PyString>,
    start: usize,
    end: usize,
) -> Result<Bound<'py, PyString>, OutOfMemory> {
    let (Ok(start), Ok(end)) = (isize::try_from(start), isize::try_from(end)) else {
        return Err(OutOfMemory);
    };
    slice_of(text, &PySlice::new(text.py(), start, end, 1))
}

/// `str.__getitem__`, whatever a subclass thinks. It fails for want of memory alone.
pub(super) fn slice_of<'py>(
    text: &Bound<'py, PyString>,
    slice: &Bound<'py, PySlice>,
) -> Result<Bound<'py, PyString>, OutOfMemory> {
    let kind = text.py().get_type::<PyString>();
    let part = kind.call_method1("__getitem__", (text, slice)).map_err(|_| OutOfMemory)?;
    part.cast_into::<PyString>().map_err(|_| OutOfMemory)
}

/// A string with surrogates: pairs are one character, as after `json.loads(json.dumps(text))`; a lone
/// one becomes U+FFFD.
pub(super) fn without_surrogates(text: &Bound<'_, PyString>) -> Result<String, OutOfMemory> {
    let utf16 = utf16_of(text)?;
    Ok(char::decode_utf16(units(&utf16)).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
}

pub(super) fn ends_with_half_a_pair(text: &Bound<'_, PyString>) -> Result<bool, OutOfMemory> {
    Ok(units(&utf16_of(text)?).next_back().is_some_and(|unit| (0xd800..0xdc00).contains(&unit)))
}

pub(super) fn utf16_of<'py>(text: &Bound<'py, PyString>) -> Result<Bound<'py, PyBytes>, OutOfMemory> {
    let kind = text.py().get_type::<PyString>();
    let utf16 = kind.call_method1("encode", (text, "utf-16-le", "surrogatepass")).map_err(|_| OutOfMemory)?;
    utf16.cast_into::<PyBytes>().map_err(|_| OutOfMemory)
}

pub(super) fn units(utf16: &Bound<'_, PyBytes>) -> impl DoubleEndedIterator<Item = u16> {
    utf16.as_bytes().as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit))
}
