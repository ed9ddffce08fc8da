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
    intern,
    prelude::*,
    sync::PyOnceLock,
    types::{
        PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyFrozenSet, PyFunction, PyInt, PyIterator, PyList,
        PyModule, PySet, PySlice, PyString, PyTuple, PyType, iter::BoundDictIterator,
    },
};

use crate::{
    error::Error,
    json::{Buffer, OutOfMemory, Writer},
    redact::{Fate, MASK, Masks, Redaction, Section},
    select::{Member, Omit},
};

/// Containers in containers. Consumers' parsers have limits too (128 in `serde_json`).
const MAX_DEPTH: usize = 100;

/// What comes after so many bytes is left out. No server takes more than a fraction of it.
const MAX_BYTES: usize = 256 << 20;

/// Items of what only claims to be a sequence or a mapping, and may have no end.
const MAX_ITEMS: usize = 1_000_000;

/// A longer string is converted in pieces, unless it is ASCII: CPython keeps the UTF-8 form of a string as long
/// as the string itself, which would cost its size once more.
const PIECE: usize = 16 << 10;

/// The decimal digits of a number with more hexadecimal ones than this take seconds, and soon minutes.
const MAX_HEX_DIGITS: usize = 100_000;

const TOO_DEEP: &str = "<too deep>";
const TOO_LONG: &str = "<too long>";

/// What is not to be written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Without<'a> {
    /// Secrets of a status.
    pub redaction: Option<&'a Redaction<'a>>,
    /// Fields that the user leaves out. Lists are looked through: a path goes on in each of their items.
    pub omit: Option<&'a Omit>,
}

/// Appends `value` as JSON to `out`, without some of it. The only failure is memory that cannot be had.
pub fn encode(value: &Bound<'_, PyAny>, out: &mut Buffer, without: Without<'_>) -> Result<(), Error> {
    encode_to_depth(value, out, without, MAX_DEPTH)
}

/// The same, for readers that use the stack: containers in containers up to `depth`.
pub fn encode_to_depth(
    value: &Bound<'_, PyAny>,
    out: &mut Buffer,
    Without { redaction, omit }: Without<'_>,
    depth: usize,
) -> Result<(), Error> {
    let place = omit.and_then(Omit::root);
    let section = Section::Other;
    let mut walk = Walk { out: Writer::new(out), depth, redaction, omit, place, section, full: false };
    walk.run(value).map_err(|OutOfMemory| Error::Memory { size: walk.out.len() })
}

/// A short text that names something, such as an ident; `None` if it has none.
pub fn name_of<'py>(value: &Bound<'py, PyAny>) -> Option<Bound<'py, PyString>> {
    if let Ok(text) = value.cast_exact::<PyString>() {
        return Some(text.clone());
    }
    let has_text = value.is_exact_instance_of::<PyInt>() || (!value.is_none() && has_short_text(value));
    has_text.then(|| value.str().ok()).flatten()
}

struct Walk<'a> {
    out: Writer<'a>,
    depth: usize,
    redaction: Option<&'a Redaction<'a>>,
    omit: Option<&'a Omit>,
    /// Where in `omit` the next value is.
    place: Option<usize>,
    /// Which part of a status this is.
    section: Section,
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
                let level = open.len();
                let Some(innermost) = open.last_mut() else { return Ok(()) };
                match self.next(innermost, level)? {
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
        if open.len() >= self.depth || open.iter().any(|outer| outer.id == value.as_ptr() as usize) {
            self.out.string(TOO_DEEP)?;
        } else if let Some(mut container) = Container::open(value) {
            container.place = self.place;
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
        level: usize,
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
            self.place = container.place;
            let fate = match &key {
                Some(key) if self.place.is_some() || self.redaction.is_some() => {
                    self.fate(level, key, &value)
                }
                _ => Fate::Keep,
            };
            if fate == Fate::Omit {
                continue;
            }
            self.comma(container)?;
            if let Some(key) = key {
                self.key(&key)?;
                self.out.raw(b":")?;
            }
            if fate == Fate::Keep {
                return Ok(Some(value));
            }
            self.out.string(MASK)?;
        }
    }

    fn comma(&mut self, container: &mut Container<'_>) -> Written {
        if std::mem::take(&mut container.first) { Ok(()) } else { self.out.raw(b",") }
    }

    /// What becomes of a member of an object.
    fn fate(&mut self, level: usize, key: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> Fate {
        let place = self.place.take();
        // A number is written as its text.
        let Some(key) =
            (if key.is_exact_instance_of::<PyInt>() { key.str().ok() } else { key.cast().ok().cloned() })
        else {
            return Fate::Keep;
        };
        let key = key.to_string_lossy();
        match self.omit.zip(place).and_then(|(omit, place)| omit.member(place, &key)) {
            Some(Member::Gone) => return Fate::Omit,
            Some(Member::Partly(below)) => self.place = Some(below),
            None => {}
        }
        let Some(redaction) = self.redaction else { return Fate::Keep };
        match (level, self.section) {
            (1, _) => {
                self.section = Section::of(&key);
                redaction.of_section(self.section)
            }
            (2, Section::Env) => {
                let text = value.cast::<PyString>().ok().map(|text| text.to_string_lossy());
                redaction.of_variable(&key, text.as_deref().unwrap_or_default())
            }
            _ => Fate::Keep,
        }
    }

    /// What hides our credentials here.
    fn hiding(&self) -> Option<&Masks> {
        self.redaction.filter(|_| self.section != Section::Plain).map(|redaction| redaction.masks)
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
        match digits_of(number, kind.as_any(), "__repr__").or_else(|_| long_digits(number, kind.as_any())) {
            Ok(digits) => self.out.raw(digits.as_bytes())?,
            Err(_) => self.other(number)?,
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
        match value.str() {
            Ok(text) => self.string(&text),
            Err(_) => match value.get_type().name() {
                Ok(name) => self.string(&name),
                Err(_) => self.out.string("object"),
            },
        }
    }
}

/// A list or dict that is being walked. Python code that runs meanwhile (a `__str__`) may change it:
/// every access is checked, and a dict that changed its size ends there.
struct Container<'py> {
    id: usize,
    first: bool,
    /// Where in the option `omit` it is.
    place: Option<usize>,
    items: Items<'py>,
}

enum Items<'py> {
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
enum Step<'py> {
    /// Key (of what has keys) and value.
    Item(Option<Bound<'py, PyAny>>, Bound<'py, PyAny>),
    End,
    /// There may be more.
    Cut,
}

impl<'py> Container<'py> {
    fn open(value: &Bound<'py, PyAny>) -> Option<Self> {
        let items = if let Ok(dict) = value.cast_exact::<PyDict>() {
            Items::of_dict(dict)
        } else if let Ok(list) = value.cast::<PyList>() {
            Items::List { list: list.clone(), index: 0 }
        } else if let Ok(tuple) = value.cast::<PyTuple>() {
            Items::Tuple { tuple: tuple.clone(), index: 0 }
        } else if let Ok(dict) = value.cast::<PyDict>() {
            // A subclass may have its own idea of its items, and `json.dumps` asks for it.
            Other::of_mapping(value).map_or_else(|_| Items::of_dict(dict), Items::Other)
        } else {
            Items::Other(Other::open(value).ok()?)
        };
        Some(Self { id: value.as_ptr() as usize, first: true, place: None, items })
    }

    fn brackets(&self) -> (&'static [u8], &'static [u8]) {
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
    fn next(&mut self) -> Step<'py> {
        let item = match self {
            Self::List { list, index } => {
                // Asking for one too many costs an exception.
                let item = (*index < list.len()).then(|| list.get_item(*index));
                *index += 1;
                item.and_then(Result::ok).map(|value| (None, value))
            }
            Self::Tuple { tuple, index } => {
                let item = (*index < tuple.len()).then(|| tuple.get_item(*index));
                *index += 1;
                item.and_then(Result::ok).map(|value| (None, value))
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
struct Other<'py> {
    /// Of a mapping: the iterator gives keys and values.
    pairs: bool,
    iter: Bound<'py, PyIterator>,
    /// The first item: what cannot give even that is no container for us.
    first: Option<Step<'py>>,
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
        self.first.take().unwrap_or_else(|| self.step().unwrap_or(Step::End))
    }
}

static MAPPING: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static SEQUENCE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static VIEW: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static GET_REFERENTS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// `isinstance(value, collections.abc.NAME)`. Not a cast, which prints what a hostile object raises.
fn is_a(value: &Bound<'_, PyAny>, class: &PyOnceLock<Py<PyType>>, name: &str) -> PyResult<bool> {
    value.is_instance(class.import(value.py(), "collections.abc", name)?)
}

/// May we ask for `str(value)`? CPython's guard against deep recursion counts calls, and a small thread stack
/// overflows first; and a few objects that hold each other many times have a text without end. So the text
/// must come from few objects, on few levels.
fn has_short_text(value: &Bound<'_, PyAny>) -> bool {
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
fn digits_of(value: &Bound<'_, PyAny>, kind: &Bound<'_, PyAny>, method: &str) -> PyResult<String> {
    kind.call_method1(method, (value,))?.extract()
}

/// CPython refuses to write more than 4,300 decimal digits (`sys.set_int_max_str_digits`), but any number
/// of hexadecimal ones. A number of a hundred thousand of those stays one, as text.
fn long_digits(number: &Bound<'_, PyInt>, kind: &Bound<'_, PyAny>) -> PyResult<String> {
    let hex: String = kind.call_method1("__format__", (number, "x"))?.extract()?;
    let (sign, hex) = hex.strip_prefix('-').map_or(("", hex.as_str()), |digits| ("-", digits));
    if hex.len() > MAX_HEX_DIGITS {
        return Ok(format!("\"{sign}0x{hex}\""));
    }
    let value = BigUint::parse_bytes(hex.as_bytes(), 16)
        .ok_or_else(|| PyTypeError::new_err("not a hexadecimal number"))?;
    Ok(format!("{sign}{value}"))
}

fn is_ascii(text: &Bound<'_, PyString>) -> bool {
    text.call_method0(intern!(text.py(), "isascii")).is_ok_and(|ascii| ascii.is_truthy().unwrap_or(false))
}

fn part_of<'py>(
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
    let utf16 = utf16_of(text)?;
    Ok(char::decode_utf16(units(&utf16)).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
}

fn ends_with_half_a_pair(text: &Bound<'_, PyString>) -> Result<bool, OutOfMemory> {
    Ok(units(&utf16_of(text)?).next_back().is_some_and(|unit| (0xd800..0xdc00).contains(&unit)))
}

fn utf16_of<'py>(text: &Bound<'py, PyString>) -> Result<Bound<'py, PyBytes>, OutOfMemory> {
    let kind = text.py().get_type::<PyString>();
    let utf16 = kind.call_method1("encode", (text, "utf-16-le", "surrogatepass")).map_err(|_| OutOfMemory)?;
    utf16.cast_into::<PyBytes>().map_err(|_| OutOfMemory)
}

fn units(utf16: &Bound<'_, PyBytes>) -> impl DoubleEndedIterator<Item = u16> {
    utf16.as_bytes().as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit))
}
