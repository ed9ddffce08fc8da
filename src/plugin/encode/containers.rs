//! What is walked through, item by item.

use pyo3::{
    exceptions::PyTypeError,
    prelude::*,
    sync::PyOnceLock,
    types::{
        PyByteArray, PyBytes, PyDict, PyFrozenSet, PyIterator, PyList, PySet, PyTuple, PyType,
        iter::BoundDictIterator,
    },
};

use super::interrupt::Noted;
use crate::message::Spot;

/// Items of what only claims to be a sequence or a mapping, and may have no end.
const MAX_ITEMS: usize = 1_000_000;

/// A list or dict that is being walked. Python code that runs meanwhile (a `__str__`) may change it:
/// every access is checked, and a dict that changed its size ends there.
pub(super) struct Container<'py> {
    pub(super) id: usize,
    pub(super) first: bool,
    /// Where in the data it is.
    pub(super) spot: Spot,
    pub(super) items: Items<'py>,
}

pub(super) enum Items<'py> {
    List {
        list: Bound<'py, PyList>,
        index: usize,
    },
    Tuple {
        tuple: Bound<'py, PyTuple>,
        index: usize,
    },
    Dict {
        dict: Bound<'py, PyDict>,
        size: usize,
        left: usize,
        iter: BoundDictIterator<'py>,
    },
    Other(Other<'py>),
    /// What is left was left out.
    None {
        pairs: bool,
    },
}

/// What a container says when it is asked for its next item.
pub(super) enum Step<'py> {
    /// Key (of what has keys) and value.
    Item(Option<Bound<'py, PyAny>>, Bound<'py, PyAny>),
    End,
    /// There may be more.
    Cut,
}

impl<'py> Container<'py> {
    pub(super) fn open(value: &Bound<'py, PyAny>, spot: Spot) -> Option<Self> {
        let items = if let Ok(dict) = value.cast_exact::<PyDict>() {
            Items::of_dict(dict)
        } else if let Ok(list) = value.cast::<PyList>() {
            Items::List { list: list.clone(), index: 0 }
        } else if let Ok(tuple) = value.cast::<PyTuple>() {
            Items::Tuple { tuple: tuple.clone(), index: 0 }
        } else if let Ok(dict) = value.cast::<PyDict>() {
            // A subclass may have its own idea of its items, and `json.dumps` asks for it.
            Other::of_mapping(value).noted().map_or_else(|| Items::of_dict(dict), Items::Other)
        } else {
            Items::Other(Other::open(value).noted()?)
        };
        Some(Self { id: value.as_ptr() as usize, first: true, spot, items })
    }

    pub(super) fn brackets(&self) -> (&'static [u8], &'static [u8]) {
        match &self.items {
            Items::Dict { .. } | Items::Other(Other { pairs: true, .. }) | Items::None { pairs: true } => {
                (b"{", b"}")
            }
            Items::List { .. } | Items::Tuple { .. } | Items::Other(_) | Items::None { .. } => (b"[", b"]"),
        }
    }
}

impl<'py> Items<'py> {
    fn of_dict(dict: &Bound<'py, PyDict>) -> Self {
        let size = dict.len();
        Self::Dict { dict: dict.clone(), size, left: size, iter: dict.iter() }
    }

    #[inline]
    pub(super) fn next(&mut self) -> Step<'py> {
        let item = match self {
            Self::List { list, index } => {
                // Asking for one too many costs an exception.
                let item = (*index < list.len()).then(|| list.get_item(*index));
                *index += 1;
                item.and_then(Noted::noted).map(|value| (None, value))
            }
            Self::Tuple { tuple, index } => {
                let item = (*index < tuple.len()).then(|| tuple.get_item(*index));
                *index += 1;
                item.and_then(Noted::noted).map(|value| (None, value))
            }
            Self::Dict { dict, size, left, iter } => {
                // pyo3's iterator panics on a dict that changed: look before each step.
                let intact = *left > 0 && dict.len() == *size;
                *left = left.saturating_sub(1);
                let item = if intact { iter.next() } else { None };
                item.map(|(key, value)| (Some(key), value))
            }
            Self::Other(other) => return other.next(),
            Self::None { .. } => None,
        };
        item.map_or(Step::End, |(key, value)| Step::Item(key, value))
    }
}

/// Sets, and whatever is a sequence, a view or a mapping to `collections.abc`: as far as its own iterator goes.
pub(super) struct Other<'py> {
    /// Of a mapping: the iterator gives keys and values.
    pairs: bool,
    iter: Bound<'py, PyIterator>,
    /// The first item: what cannot give even that is no container for us.
    pub(super) first: Option<Step<'py>>,
    left: usize,
}

impl<'py> Other<'py> {
    fn open(value: &Bound<'py, PyAny>) -> PyResult<Self> {
        if value.cast::<PyBytes>().is_ok() || value.cast::<PyByteArray>().is_ok() {
            return Err(PyTypeError::new_err("bytes are text here"));
        }
        if value.cast::<PySet>().is_ok() || value.cast::<PyFrozenSet>().is_ok() {
            // Built in: it ends.
            return Self::start(false, value.try_iter()?, usize::MAX);
        }
        if is_a(value, &MAPPING, "Mapping")? {
            return Self::of_mapping(value);
        }
        if is_a(value, &SEQUENCE, "Sequence")? || is_a(value, &VIEW, "MappingView")? {
            return Self::start(false, value.try_iter()?, MAX_ITEMS);
        }
        Err(PyTypeError::new_err("not a container"))
    }

    fn of_mapping(value: &Bound<'py, PyAny>) -> PyResult<Self> {
        Self::start(true, value.call_method0("items")?.try_iter()?, MAX_ITEMS)
    }

    fn start(pairs: bool, iter: Bound<'py, PyIterator>, left: usize) -> PyResult<Self> {
        let mut other = Self { pairs, iter, first: None, left };
        other.first = Some(other.step()?);
        Ok(other)
    }

    fn step(&mut self) -> PyResult<Step<'py>> {
        let Some(item) = self.iter.next() else { return Ok(Step::End) };
        let item = item?;
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => return Ok(Step::Cut),
        }
        if !self.pairs {
            return Ok(Step::Item(None, item));
        }
        let (key, value) = item.extract::<(Bound<'py, PyAny>, Bound<'py, PyAny>)>()?;
        Ok(Step::Item(Some(key), value))
    }

    fn next(&mut self) -> Step<'py> {
        self.first.take().unwrap_or_else(|| self.step().noted().unwrap_or(Step::End))
    }
}

static MAPPING: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static SEQUENCE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static VIEW: PyOnceLock<Py<PyType>> = PyOnceLock::new();

/// `isinstance(value, collections.abc.NAME)`. Not a cast, which prints what a hostile object raises.
fn is_a(value: &Bound<'_, PyAny>, class: &PyOnceLock<Py<PyType>>, name: &str) -> PyResult<bool> {
    value.is_instance(class.import(value.py(), "collections.abc", name)?)
}
