"""Makes what comes from the schemas: ``schemas/all.json`` and ``ansible_runner_nats/types.py``.

`make generated` runs this, which writes both; with ``--check`` it writes nothing and says what would change.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
SCHEMAS = DOCS / "schemas"
BUNDLE = SCHEMAS / "all.json"
TYPES = DOCS.parent / "python/ansible_runner_nats/types.py"

#: What is published.
MESSAGES = ("event", "status", "heartbeat", "killed")

#: As much as a line may have.
WIDTH = 110

HEADER = '''\
"""The messages as ``TypedDict``: what a consumer's type checker knows about them.

    event: Event = json.loads(message.data)
    if event["event"] == "runner_on_failed":
        data = event["event_data"]  # of RunnerOnFailed, says the type checker

A type checker narrows :data:`Event` by the kind in ``event["event"]``. Messages may have more than is here:
kinds and fields that are not known yet. A very few events have no kind: see :data:`Event`.

Made from the JSON Schemas in ``docs/schemas`` by ``docs/from_schemas.py``: do not edit.
"""

# Other libraries may look at the annotations at run time, on Python 3.9, too: they are no strings.
# ruff: noqa: FA100

from typing import Any, Literal, TypedDict, Union
'''

EVENT = (
    "Any event of a kind that is described here. There may be others: ignore kinds that you do not know. "
    'An event has no "event" if ansible-runner could not read what Ansible had to say with some output: '
    'ask with `"event" in event` before.'
)

#: Classes that would not be called after what they are made from.
NAMES = {"event": "AnyEvent", "data": "EventData", "mapping": "AnyMapping"}

#: The words of JSON Schema for types that need no thought.
PLAIN = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "null": "None",
    "array": "list[Any]",
    "object": "dict[str, Any]",
}


def load() -> dict[str, Any]:
    """The schemas, by the names of their files without ``.json``."""
    files = sorted(path for path in SCHEMAS.glob("*.json") if path != BUNDLE)
    return {path.stem: json.loads(path.read_text()) for path in files}


def bundle(schemas: dict[str, Any]) -> str:
    """All of them in one flat document.

    Each schema is one of its ``$defs``, and refers to others by ``#/$defs/NAME``. What generates code
    resolves that; a document in a document it mostly does not. In the files a reference
    is the name of another file.
    """

    def flat(value: Any) -> Any:
        if isinstance(value, list):
            return [flat(item) for item in value]
        if not isinstance(value, dict):
            return value
        result = {key: flat(item) for key, item in value.items()}
        if "$ref" in value:
            result["$ref"] = f"#/$defs/{place_of(value['$ref'])}"
        return result

    parts = {place_of(f"#/$defs/{name}"): part for name, part in schemas["common"]["$defs"].items()}
    documents = {name: schema for name, schema in schemas.items() if name != "common"}
    without = {
        name: {key: value for key, value in schema.items() if key != "$schema"}
        for name, schema in {**documents, **parts}.items()
    }
    document = {
        "$schema": schemas["event"]["$schema"],
        "$id": "urn:ansible-runner-nats:schemas/all.json",
        "title": "Message",
        "description": "An event, a status, a heartbeat or the word that a run was killed, with all schemas "
        "in one document. Made by docs/from_schemas.py.",
        "anyOf": [{"$ref": f"#/$defs/{name}"} for name in MESSAGES],
        "$defs": flat(without),
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def place_of(reference: str) -> str:
    """Where in the one document a part of ``common.json`` is, or another file."""
    file, _, part = reference.partition("#/$defs/")
    if not part:
        return file[: -len(".json")]
    # Two parts are called as a message is, or as much else is.
    return {"event": "any_event", "data": "event_data", "mapping": "any_mapping"}.get(part, part)


def camel(name: str) -> str:
    """``runner_on_ok`` as the name of a class."""
    return NAMES.get(name) or "".join(word.title() for word in name.split("_"))


def target(reference: str) -> str:
    """What a reference to a part of ``common.json`` refers to."""
    return reference.rpartition("/")[2]


def union(types: list[str]) -> str:
    """Any of these types, each named once."""
    types = list(dict.fromkeys(types))
    return types[0] if len(types) == 1 else f"Union[{', '.join(types)}]"


def type_of(schema: dict[str, Any]) -> str:
    """The type of a value that is not described by a class of its own."""
    if "$ref" in schema:
        return camel(target(schema["$ref"]))
    if "anyOf" in schema:
        return union([type_of(part) for part in schema["anyOf"]])
    if "allOf" in schema:
        (part,) = schema["allOf"]  # with a description of its own
        return type_of(part)
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values:
        return f"Literal[{', '.join(map(json.dumps, values))}]"
    names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return union([plain(name, schema) for name in names])


def plain(name: str, schema: dict[str, Any]) -> str:
    """The type that a word of JSON Schema stands for, with that of its parts if they have one."""
    parts = schema.get({"array": "items", "object": "additionalProperties"}.get(name, ""))
    return PLAIN[name].replace("Any", type_of(parts) if parts else "Any")


def documentation(text: str, indent: str = "    ", *, of_class: bool = False) -> list[str]:
    """The lines of a docstring; that of a class has a first sentence of its own."""
    room = WIDTH - len(indent)
    if len(text) + 6 <= room and not (of_class and "\n" in text):
        return [f'{indent}"""{text}"""']
    paragraphs = text.split("\n")
    if of_class and ". " in paragraphs[0]:
        first, _, rest = paragraphs[0].partition(". ")
        paragraphs[:1] = [f"{first}.", rest]
    lines = "\n\n".join(textwrap.fill(paragraph, room, break_on_hyphens=False) for paragraph in paragraphs)
    if not of_class:
        lines = textwrap.fill(text, room - 3, break_on_hyphens=False)
    lines = f'"""{lines}\n"""'
    return [f"{indent}{line}".rstrip() for line in lines.split("\n")]


def declaration(start: str, kind: str) -> list[str]:
    """``start`` and a type, a long union with a line for each of its parts."""
    if len(start) + len(kind) <= WIDTH:
        return [start + kind]
    name, _, parts = kind.partition("[")
    return [f"{start}{name}[", *(f"        {part}," for part in parts.rstrip("]").split(", ")), "    ]"]


def class_of(
    name: str, bases: list[str], text: str, fields: dict[str, Any], *, total: bool = True
) -> list[str]:
    """A ``TypedDict``; a field is its schema, or its type alone."""
    arguments = [*(bases or ["TypedDict"]), *([] if total else ["total=False"])]
    lines = ["", "", f"class {name}({', '.join(arguments)}):", *documentation(text, of_class=True)]
    if fields:
        lines.append("")
    for field, schema in fields.items():
        kind = schema if isinstance(schema, str) else type_of(schema)
        lines += declaration(f"    {field}: ", kind)
        if not isinstance(schema, str) and "description" in schema:
            lines += documentation(schema["description"])
    return lines


def alias(name: str, kind: str, text: str) -> list[str]:
    """A name for a type that is no class."""
    if len(name) + len(kind) + 3 <= WIDTH:
        lines = [f"{name} = {kind}"]
    else:
        word, _, parts = kind.partition("[")
        lines = [f"{name} = {word}[", *(f"    {part}," for part in parts.rstrip("]").split(", ")), "]"]
    return ["", *lines, *documentation(text, "")]


def message_classes(name: str, schema: dict[str, Any], private: str) -> list[str]:
    """A class with what the schema requires, and one below it with what may be missing, too."""
    required = {key: schema["properties"][key] for key in schema["required"]}
    optional = {key: value for key, value in schema["properties"].items() if key not in required}
    if not optional:
        return class_of(name, [], schema["description"], required)
    return [
        *class_of(private, [], f"What :class:`{name}` has always.", required),
        *class_of(name, [private], schema["description"], optional, total=False),
    ]


def data_class(name: str, schema: dict[str, Any], default: str) -> list[str]:
    """A class for ``event_data``, all of which may be missing: it may be empty."""
    bases = [camel(target(part["$ref"])) for part in schema.get("allOf", [])] or [default]
    text = schema["description"]
    if required := schema.get("required"):
        text += f"\nUnless it is empty it has {', '.join(f'`{key}`' for key in required)}."
    return class_of(name, [base for base in bases if base], text, schema.get("properties", {}), total=False)


def types(schemas: dict[str, Any]) -> str:
    """The module's text."""
    common: dict[str, Any] = dict(schemas["common"]["$defs"])
    kinds = [target(part["then"]["$ref"])[:-5] for part in schemas["event"]["allOf"] if "then" in part]
    lines = [HEADER.rstrip()]

    # What is no mapping with known keys, the simplest first: they refer to each other.
    event, data = common.pop("event"), common.pop("data")
    for name in [name for name in common if not {"required", "properties"} & set(common[name])]:
        part = common.pop(name)
        lines += alias(camel(name), type_of(part), part["description"])

    # Fields that are not the same for every kind: its class has them.
    own = ("event", "pid", "event_data")
    output = {key: event["properties"].pop(key) for key in own}
    lines += message_classes("AnyEvent", event, "_AnyEvent")

    lines += class_of("EventData", [], data["description"], data["properties"], total=False)
    for name, part in common.items():
        lines += data_class(camel(name), part, "" if name == "timing" else "EventData")

    fields = {"pid": type_of(output["pid"]), "event_data": "Union[EventData, Cut]"}
    lines += class_of("_Output", ["AnyEvent"], "What plain output may have.", fields, total=False)

    names = []
    for kind in kinds:
        schema = schemas[kind]
        fields = {"event": schema["properties"]["event"]}
        if "pid" not in schema["required"]:
            names.append(f"{camel(kind)}Output")
            lines += class_of(names[-1], ["_Output"], schema["description"], fields)
            continue
        names.append(camel(kind))
        details = schema["properties"]["event_data"]["then"]
        if len(details) == 1 and len(details["allOf"]) == 1:
            data_name = camel(target(details["allOf"][0]["$ref"]))
        else:
            data_name = f"{camel(kind)}Data"
            details["description"] = f"The ``event_data`` of :class:`{camel(kind)}`."
            lines += data_class(data_name, details, "EventData")
        fields["pid"] = type_of(output["pid"])
        fields["event_data"] = f"Union[{data_name}, Cut]"
        lines += class_of(names[-1], ["AnyEvent"], schema["description"], fields)

    lines += ["", *alias("Event", union(names), EVENT)]
    lines += message_classes("Status", schemas["status"], "_Status")
    lines += message_classes("Heartbeat", schemas["heartbeat"], "")
    lines += message_classes("Killed", schemas["killed"], "")
    lines += message_classes("Card", schemas["card"], "_Card")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a file is old")
    options = parser.parse_args()
    old = []
    for path, text in ((BUNDLE, bundle(load())), (TYPES, types(load()))):
        if path.is_file() and path.read_text() == text:
            continue
        if options.check:
            old.append(str(path))
        else:
            path.write_text(text)
    if old:
        sys.stderr.write(f"old, run {Path(__file__).name}: {', '.join(old)}\n")
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main())
