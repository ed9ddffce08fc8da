"""What docs/ promises to consumers, as validators for messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jsonschema import Draft7Validator, Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"

#: Each schema by its address, as asyncapi.yaml beside the folder has it.
SCHEMAS: dict[str, Any] = {
    f"schemas/{path.name}": json.loads(path.read_text()) for path in sorted(DOCS.glob("schemas/*.json"))
}
#: All of them in one document.
BUNDLE: dict[str, Any] = SCHEMAS.pop("schemas/all.json")
ASYNCAPI: dict[str, Any] = yaml.safe_load((DOCS / "asyncapi.yaml").read_text())


def validator(reference: str, *, as_draft7: bool = False) -> Draft7Validator:
    """For a part of asyncapi.yaml, whose own schemas are of draft-07; those in files say what they are."""
    registry: Registry[Any] = Registry()
    for name, document in {**SCHEMAS, "asyncapi.yaml": ASYNCAPI}.items():
        contents = {key: value for key, value in document.items() if not (as_draft7 and key == "$schema")}
        registry = registry.with_resource(name, Resource.from_contents(contents, DRAFT7))
    return Draft7Validator({"$ref": f"asyncapi.yaml#{reference}"}, registry=registry)


def bundled(kind: str) -> Draft202012Validator:
    """For a kind of message, with the one document and nothing else."""
    reference = {"$ref": f"#/$defs/{kind}"}
    assert reference in BUNDLE["anyOf"]
    return Draft202012Validator({**BUNDLE, "anyOf": [reference]}, registry=Registry())


def problems(instance: Any, validators: list[Validator]) -> list[str]:
    return [
        f"{'/'.join(map(str, error.absolute_path))}: {error.message[:500]}"
        for validator in validators
        for error in validator.iter_errors(instance)
    ]


#: What is published.
MESSAGES = ("event", "status", "heartbeat")

PAYLOADS: dict[str, list[Validator]] = {
    kind: [
        *(validator(f"/components/messages/{kind}/payload", as_draft7=old) for old in (False, True)),
        bundled(kind),
    ]
    for kind in MESSAGES
}
HEADERS: dict[str, list[Validator]] = {
    kind: [validator(f"/components/messages/{kind}/headers")] for kind in MESSAGES
}

#: What commands print or post, each by the name of its file.
COMMANDS: dict[str, Any] = {
    path.name: json.loads(path.read_text()) for path in sorted(DOCS.glob("schemas/commands/*.json"))
}


def problems_of_command(name: str, instance: Any) -> list[str]:
    """What is wrong with an object of a command; a field that is not described is wrong, too."""
    registry: Registry[Any] = Registry()
    for file, schema in COMMANDS.items():
        registry = registry.with_resource(file, Resource.from_contents(schema))
    strict = {"$schema": COMMANDS[f"{name}.json"]["$schema"], "$ref": f"{name}.json"}
    return problems(
        instance, [Draft202012Validator({**strict, "unevaluatedProperties": False}, registry=registry)]
    )
