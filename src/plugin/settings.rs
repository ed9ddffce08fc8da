//! ansible-runner's settings, as far as they are ours: Python objects become JSON values.
//!
//! They may hold anything: a value that JSON does not have is passed on as one that no option understands, so that the
//! option is refused by its name; one that is hostile (without end, or nested in itself) is cut off.

use std::{fmt, path::Path};

use pyo3::{
    prelude::*,
    types::{PyBytes, PyDict, PyList, PyMapping, PyString, PyTuple, PyType},
};
use pythonize::Depythonizer;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::encode::name_of;
use crate::config::{CALLABLE, is_off, is_ours};

/// Containers in containers. No option needs more than three.
const MAX_DEPTH: usize = 8;

/// Members of a mapping, items of a list.
const MAX_ITEMS: usize = 10_000;

/// The settings that the options are read from, and the names of others that look like ours: somebody may have meant
/// one of those. What they hold is not read.
pub(super) fn ours(settings: &Bound<'_, PyAny>) -> Map<String, Value> {
    const OURS: [&str; 3] = ["nats_subject_id", "nats_options", "nats_headers"];
    let read = |key: &str| {
        let value = settings.get_item(key).ok()?;
        let mut value_here = value_of(&value);
        if key == "nats_options" {
            call_what_gives(&value, &mut value_here);
        }
        Some((key.to_owned(), value_here))
    };
    let mut ours: Map<String, Value> = OURS.into_iter().filter_map(read).collect();
    for name in names(settings).unwrap_or_default() {
        if !OURS.contains(&name.as_str()) {
            ours.insert(name, Value::Null);
        }
    }
    ours
}

/// The settings of a private data directory, as ansible-runner's own loader reads them: JSON first, then YAML as `PyYAML`
/// has it. For the commands, which see what a job sees. An error says why not, and quotes nothing.
pub(super) fn of_folder(folder: &Path) -> Result<Map<String, Value>, String> {
    let read = |py: Python<'_>| -> PyResult<Result<Map<String, Value>, String>> {
        let module = py.import("ansible_runner_nats.cli")?;
        let settings = module.call_method1("settings_of", (folder,))?;
        Ok(match settings.cast::<PyString>() {
            Ok(reason) => Err(reason.to_string_lossy().into_owned()),
            Err(_) => Ok(ours(&settings)),
        })
    };
    Python::attach(|py| {
        read(py).unwrap_or_else(|error| Err(format!("cannot be read ({})", error.get_type(py))))
    })
}

/// What a job in a private data directory was given, as ansible-runner's own loader reads it; for `replay`.
pub(super) fn given_in(folder: &Path) -> Map<String, Value> {
    let read = |py: Python<'_>| -> PyResult<Map<String, Value>> {
        let module = py.import("ansible_runner_nats.cli")?;
        match value_of(&module.call_method1("given_in", (folder,))?) {
            Value::Object(given) => Ok(given),
            _ => Ok(Map::new()),
        }
    };
    Python::attach(|py| read(py).unwrap_or_default())
}

/// nats-py takes functions for some options, and calls them when it connects. Here it is done once, on the job's thread:
/// the thread that connects must not wait for Python.
fn call_what_gives(options: &Bound<'_, PyAny>, read: &mut Value) {
    let Value::Object(read) = read else { return };
    for opt in CALLABLE {
        let Ok(value) = options.get_item(opt.key) else { continue };
        if !value.is_callable() {
            continue;
        }
        // What it says may hold a secret.
        let failed = |error: PyErr| name_of_type(&error.get_type(value.py()));
        let failed =
            |error| Value::Object(Map::from_iter([("a function that failed".to_owned(), failed(error))]));
        let given = value.call0().map_or_else(failed, |value| value_of(&value));
        read.insert(opt.key.to_owned(), given);
    }
}

/// The names that look like ours.
fn names(settings: &Bound<'_, PyAny>) -> PyResult<Vec<String>> {
    let mut names = Vec::new();
    for key in settings.call_method0("keys")?.try_iter()?.take(MAX_ITEMS) {
        let key = key?;
        let Ok(key) = key.cast::<PyString>() else { continue };
        let key = key.to_string_lossy();
        if is_ours(&key) {
            names.push(key.into_owned());
        }
    }
    Ok(names)
}

/// Would the setting `nats_subject_id` of this value enable the plugin?
pub(super) fn enables(subject_id: &Bound<'_, PyAny>) -> bool {
    !is_off(&value_of(subject_id))
}

/// A mapping's values one by one: one that cannot be read spoils no other.
pub(super) fn value_of(value: &Bound<'_, PyAny>) -> Value {
    let Ok(mapping) = value.cast::<PyMapping>() else { return read(value) };
    let items = || -> PyResult<Map<String, Value>> {
        let mut members = Map::new();
        for item in mapping.call_method0("items")?.try_iter()?.take(MAX_ITEMS) {
            let (key, value) = item?.extract::<(Bound<'_, PyAny>, Bound<'_, PyAny>)>()?;
            if let Some(key) = name_of(&key) {
                members.insert(key.to_string_lossy().into_owned(), read(&value));
            }
        }
        Ok(members)
    };
    items().map_or_else(|_| unreadable(value), Value::Object)
}

fn read(value: &Bound<'_, PyAny>) -> Value {
    if let Some(text) = text(value) {
        return text.into();
    }
    // nats-py has bytes for a prefix.
    if let Ok(bytes) = value.cast::<PyBytes>()
        && let Ok(text) = std::str::from_utf8(bytes.as_bytes())
    {
        return if text.is_empty() { Value::Null } else { text.into() };
    }
    if let Some(text) = user_string(value) {
        return text.into();
    }
    if let Some(items) = texts(value) {
        return items;
    }
    let known = value.is_exact_instance_of::<PyDict>() || value.cast::<PyMapping>().is_err();
    let read = known.then(|| Levels(MAX_DEPTH).deserialize(&mut Depythonizer::from_object(value)));
    read.and_then(Result::ok).unwrap_or_else(|| {
        // What is false to Python (an empty `bytes`) is off there, too.
        if value.is_truthy().unwrap_or(true) { unreadable(value) } else { Value::Null }
    })
}

/// A text, or a path, which is meant as one. A lone surrogate is no reason to refuse it.
fn text(value: &Bound<'_, PyAny>) -> Option<String> {
    let path = || value.call_method0("__fspath__").ok()?.cast_into::<PyString>().ok();
    let text = value.cast::<PyString>().cloned().ok().or_else(path)?;
    Some(text.to_string_lossy().into_owned())
}

/// A list or tuple of texts and paths.
fn texts(value: &Bound<'_, PyAny>) -> Option<Value> {
    const MOST: usize = 100;
    if !(value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>()) || value.len().ok()? > MOST {
        return None;
    }
    let items = value.try_iter().ok()?.map(|item| text(&item.ok()?).map(Value::from));
    items.collect::<Option<Vec<Value>>>().map(Value::Array)
}

/// The text of a `collections.UserString`, such as nats-py's `RawCredentials`.
fn user_string(value: &Bound<'_, PyAny>) -> Option<String> {
    let class = value.py().import("collections").and_then(|module| module.getattr("UserString")).ok()?;
    if !value.is_instance(&class).unwrap_or(false) {
        return None;
    }
    Some(value.getattr("data").ok()?.cast_into::<PyString>().ok()?.to_string_lossy().into_owned())
}

fn name_of_type(kind: &Bound<'_, PyType>) -> Value {
    kind.name().map_or_else(|_| "object".to_owned(), |name| name.to_string()).into()
}

/// What no option understands, and tells a user what it was.
fn unreadable(value: &Bound<'_, PyAny>) -> Value {
    Value::Object(Map::from_iter([("a Python object".to_owned(), name_of_type(&value.get_type()))]))
}

/// Reads a JSON value of so many levels at most: the reader is recursive, and the thread's stack may be small.
#[derive(Clone, Copy)]
struct Levels(usize);

impl<'de> DeserializeSeed<'de> for Levels {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Levels {
    fn below<E: Error>(self) -> Result<Self, E> {
        self.0.checked_sub(1).map(Self).ok_or_else(|| E::custom("nested too deep"))
    }
}

impl<'de> Visitor<'de> for Levels {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what JSON has")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(below)? {
            if list.len() >= MAX_ITEMS {
                return Err(A::Error::custom("too long"));
            }
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut map = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            if map.len() >= MAX_ITEMS {
                return Err(A::Error::custom("too long"));
            }
            map.insert(key, members.next_value_seed(below)?);
        }
        Ok(map.into())
    }
}
