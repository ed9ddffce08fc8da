//! The plain walk: what real events are made of, with borrowed references and without reference counts.
//!
//! It knows exact `dict`s with `str` keys, exact `list`s, `str`, `int` of 64 bits, `float`, `bool` and `None`. At the first
//! object of any other kind it gives up, and the careful walk (`super::Walk`) starts anew. Both write the same bytes.
//!
//! # Why this is sound
//!
//! **What is borrowed, and from whom.** The caller holds a reference to the root for as long as the walk lasts. Every
//! other object is borrowed from the dict or list that it was found in, which is borrowed from its own container, and
//! so on up to the root: `PyDict_Next` and `PyList_GetItem` return borrowed references, valid as long as the container
//! holds the object.
//!
//! **Nothing can let go of an object in between.** The GIL is held (a `Bound` is the proof) and never released here. An
//! object could go only if Python code ran, or another thread. None does, because all that is called is:
//!
//! - comparisons of type pointers;
//! - `PyDict_Next`, `PyList_Size`, `PyList_GetItem` (with an index below the size) on exact dicts and lists: they read;
//! - `PyLong_AsLongLongAndOverflow` on an exact `int`, `PyFloat_AsDouble` on an exact `float`: they read, no `__index__` and
//!   no `__float__` is looked for;
//! - `PyUnicode_GetLength` and `PyUnicode_AsUTF8AndSize` on an exact `str`: the latter may allocate the UTF-8 form (no object,
//!   so that no garbage collection is set off), and keeps it in the string, as long as that lives. Where it fails (a lone
//!   surrogate, no memory) it makes an exception, and making one may set off a collection, which may run anything:
//!   from there on no borrowed reference is used any more, the walk returns at once;
//! - the writer, which is Rust and knows no Python.
//!
//! So no container changes while it is walked, and `PyDict_Next` may be called with the position that it has left.
//!
//! **Depth** is bounded by `MAX_DEPTH`, so that the stack cannot overflow, and a cycle ends there: it gives up.
//!
//! **Free-threaded builds** (`Py_GIL_DISABLED`) have no such lock: there this file is not compiled, nor where the stable ABI
//! has no `PyUnicode_AsUTF8AndSize` (before 3.10); see `super`.
#![expect(unsafe_code, reason = "a walk over CPython's objects with borrowed references")]

use std::{ffi::c_int, ptr, slice, str};

use pyo3::{ffi, prelude::*};

use super::{MAX_BYTES, MAX_DEPTH, PIECE};
use crate::message::{buffer::OutOfMemory, json::Writer};

/// Why the plain walk ends early.
enum Stop {
    /// An object that is not for it.
    GiveUp,
    OutOfMemory,
}

impl From<OutOfMemory> for Stop {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

type Step = Result<(), Stop>;

/// Writes `value`, if it is plain all through; otherwise takes back what it has written, and returns `false`.
pub(super) fn write(value: &Bound<'_, PyAny>, out: &mut Writer<'_>) -> Result<bool, OutOfMemory> {
    let start = out.len();
    // SAFETY: the GIL is held, and `value` is alive until we return.
    match unsafe { any(value.as_ptr(), out, MAX_DEPTH) } {
        Ok(()) => Ok(true),
        Err(Stop::GiveUp) => {
            out.take_back(start);
            Ok(false)
        }
        Err(Stop::OutOfMemory) => Err(OutOfMemory),
    }
}

/// # Safety
/// The GIL is held; `object` is alive, and stays so as long as no Python code runs.
unsafe fn any(object: *mut ffi::PyObject, out: &mut Writer<'_>, depth: usize) -> Step {
    // SAFETY: `object` is alive, so it has a type; each function is called for the exact type that it is for.
    unsafe {
        let kind = ffi::Py_TYPE(object);
        if kind == &raw mut ffi::PyUnicode_Type {
            Ok(out.string(text_of(object)?)?)
        } else if kind == &raw mut ffi::PyDict_Type {
            dict(object, out, depth)
        } else if kind == &raw mut ffi::PyLong_Type {
            int(object, out)
        } else if object == ffi::Py_None() {
            Ok(out.fixed(*b"null")?)
        } else if object == ffi::Py_True() {
            Ok(out.fixed(*b"true")?)
        } else if object == ffi::Py_False() {
            Ok(out.fixed(*b"false")?)
        } else if kind == &raw mut ffi::PyList_Type {
            list(object, out, depth)
        } else if kind == &raw mut ffi::PyFloat_Type {
            Ok(out.float(ffi::PyFloat_AsDouble(object))?)
        } else {
            Err(Stop::GiveUp)
        }
    }
}

/// # Safety
/// As [`any`]; `object` is an exact `dict`.
unsafe fn dict(object: *mut ffi::PyObject, out: &mut Writer<'_>, depth: usize) -> Step {
    let inner = depth.checked_sub(1).ok_or(Stop::GiveUp)?;
    let (mut key, mut value) = (ptr::null_mut(), ptr::null_mut());
    let mut position = 0;
    let mut before = b'{';
    // SAFETY: an exact dict that nobody changes meanwhile; keys and values are borrowed from it.
    unsafe {
        while ffi::PyDict_Next(object, &raw mut position, &raw mut key, &raw mut value) != 0 {
            if ffi::Py_TYPE(key) != &raw mut ffi::PyUnicode_Type {
                return Err(Stop::GiveUp);
            }
            not_too_long(out)?;
            out.member(before, utf8_of(key)?)?;
            any(value, out, inner)?;
            before = b',';
        }
    }
    not_too_long(out)?;
    Ok(if before == b'{' { out.fixed(*b"{}") } else { out.fixed([b'}']) }?)
}

/// What is cut, and how, the careful walk knows.
fn not_too_long(out: &Writer<'_>) -> Step {
    if out.len() < MAX_BYTES { Ok(()) } else { Err(Stop::GiveUp) }
}

/// # Safety
/// As [`any`]; `object` is an exact `list`.
unsafe fn list(object: *mut ffi::PyObject, out: &mut Writer<'_>, depth: usize) -> Step {
    let inner = depth.checked_sub(1).ok_or(Stop::GiveUp)?;
    let mut before = b'[';
    // SAFETY: an exact list that nobody changes meanwhile; items are borrowed from it, and the index is below its size.
    unsafe {
        for index in 0..ffi::PyList_Size(object) {
            not_too_long(out)?;
            out.fixed([before])?;
            any(ffi::PyList_GetItem(object, index), out, inner)?;
            before = b',';
        }
    }
    not_too_long(out)?;
    Ok(if before == b'[' { out.fixed(*b"[]") } else { out.fixed([b']']) }?)
}

/// # Safety
/// As [`any`]; `object` is an exact `int`.
unsafe fn int(object: *mut ffi::PyObject, out: &mut Writer<'_>) -> Step {
    let mut overflow: c_int = 0;
    // SAFETY: an exact int.
    let number = unsafe { ffi::PyLong_AsLongLongAndOverflow(object, &raw mut overflow) };
    if overflow != 0 {
        return Err(Stop::GiveUp);
    }
    Ok(out.raw(itoa::Buffer::new().format(number).as_bytes())?)
}

/// The text of a string, valid as long as the string lives and is not changed, which strings never are.
///
/// # Safety
/// As [`any`]; `object` is an exact `str`.
unsafe fn text_of<'a>(object: *mut ffi::PyObject) -> Result<&'a str, Stop> {
    // SAFETY: an exact str.
    unsafe {
        // CPython would keep the UTF-8 form of a long one as long as it lives.
        if usize::try_from(ffi::PyUnicode_GetLength(object)).is_ok_and(|length| length > PIECE) {
            return Err(Stop::GiveUp);
        }
        utf8_of(object)
    }
}

/// The same for a key, of which nobody expects that it is long.
///
/// # Safety
/// As [`any`]; `object` is an exact `str`.
unsafe fn utf8_of<'a>(object: *mut ffi::PyObject) -> Result<&'a str, Stop> {
    // SAFETY: an exact str; the bytes are its own (or kept in it), valid UTF-8, and as many as `length` says.
    unsafe {
        let mut length = 0;
        let bytes = ffi::PyUnicode_AsUTF8AndSize(object, &raw mut length);
        if bytes.is_null() {
            // A lone surrogate. No borrowed reference is used after this.
            ffi::PyErr_Clear();
            return Err(Stop::GiveUp);
        }
        let length = usize::try_from(length).map_err(|_| Stop::GiveUp)?;
        Ok(str::from_utf8_unchecked(slice::from_raw_parts(bytes.cast(), length)))
    }
}
