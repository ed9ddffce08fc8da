"""The command line in a status, held against ansible's own parsers: no value of a secret name is left.

``FUZZ_FACTOR=50`` tries about 100,000 texts of each kind.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from typing import Any

import yaml
from ansible.errors import AnsibleParserError
from ansible.parsing.splitter import parse_kv
from ansible_runner_nats._native import encode_status
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

MORE = int(os.environ.get("FUZZ_FACTOR", "1"))

SECRET = (
    "db_password",
    "api_token",
    "ansible_become_pass",
    "my_secret",
    "ssh_private_key",
    "ANSIBLE_VAULT_PASSWORD",
)
HARMLESS = ("user", "state", "port", "x", "region", "list_of_hosts")

#: What of a name says that the rest is secret; it may be in a value, too; so may an address.
TELLING = re.compile("pass|token|secret|key|vault|@", re.IGNORECASE)

#: What is in every value, so that it can be looked for; no part of a word that says anything.
MARK = re.compile("qz[0-9]+zq")

#: What makes parsing hard. None of it says secret, and no name is among it.
HARD = [
    "'", '"', "\\", "=", ":", ": ", ", ", " ", "  ", "\t", "\n", "{", "}", "[", "]", "{{ ", " }}", "{%", "%}",
    "#", " #", "@", "/", "+", "-", " -k ", "--", "&", "*", "!", "|", "ö", "\U0001f680", "\\n", "\\x41", "\\'",
    "$", "`", ";", "%",
]  # fmt: skip


def told(*arguments: str) -> list[str]:
    """What a status says of these."""
    command: list[str] = json.loads(encode_status({"command": ["ansible-playbook", *arguments]}))["command"]
    return command[1:]


def marks(value: object) -> set[str]:
    return set(MARK.findall(json.dumps(value, ensure_ascii=False)))


def check(parsed: dict[str, Any], given: str, *, told: str, has_more: bool = False) -> None:
    """``has_more``: what stands behind a secret may be taken for more of it."""
    left = marks(told)
    for name, value in parsed.items():
        if name in SECRET:
            assert not left & marks(value), (given, told)
        elif name in HARMLESS and not has_more and not TELLING.search(value):
            assert marks(value) <= left, (given, told)


@st.composite
def values(draw: st.DrawFn) -> str:
    pieces = draw(st.lists(st.sampled_from(HARD), max_size=6))
    number = draw(st.integers(0, 10**6))
    pieces.insert(draw(st.integers(0, len(pieces))), f"qz{number}zq")
    return "".join(pieces)


@st.composite
def quoted(draw: st.DrawFn) -> str:
    value = draw(values())
    form = draw(st.sampled_from(["plain", "'", '"', "template"]))
    if form == "plain":
        return re.sub(r"\s", "", value)
    if form == "template":
        return "{{ '" + value.replace("'", "").replace("{", "").replace("}", "") + "' }}"
    return form + value.replace("\\", "\\\\").replace(form, "\\" + form) + form


def numbered(text: str) -> str:
    """No mark twice: it is known which value is told."""
    numbers = itertools.count()
    return MARK.sub(lambda _: f"qz{next(numbers)}zq", text)


names = st.sampled_from(SECRET + HARMLESS)
assignments = st.builds(lambda name, value: f"{name}={value}", names, quoted())
texts = st.lists(assignments, min_size=1, max_size=4).map(" ".join)


@st.composite
def mutated(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    """With a few pieces put in, or taken out."""
    text = draw(texts)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text)))
        taken = draw(st.integers(0, 2))
        text = text[:at] + draw(st.sampled_from(["", *HARD])) + text[at + taken :]
    return numbered(text)


@settings(max_examples=2000 * MORE, deadline=None)
@example("db_password=qz1zqmy-key=")
@example("db_password='correct qz1zq=battery'")
@example("db_password='a -k qz1zq' user=qz2zq")
@given(mutated(texts))
def test_variables(text: str) -> None:
    """As ansible reads ``-e`` and the arguments of a module."""
    assume(text[:1] not in set("@/.[{-"))
    try:
        parsed = parse_kv(text)
    except AnsibleParserError:
        return
    has_more = "_raw_params" in parsed or "\\" in text
    for arguments in (["-e", text], [f"--extra-vars={text}"], [f"-e{text}"], ["-a", text]):
        *_, said = redacted = told("-i", "qz7zq", *arguments, "qz8zq.yml")[:-1]
        check(parsed, text, told=said, has_more=has_more)
        if not text.endswith(("=", ":")):
            assert redacted[:2] == ["-i", "qz7zq"]
            assert told(*arguments, "qz8zq.yml")[-1] == "qz8zq.yml", text


trees = st.recursive(
    values() | st.integers(0, 9) | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


def under(value: object, *, secret: bool) -> set[str]:
    """The marks of all values below a secret name; or else of those below none."""
    if isinstance(value, dict):
        found = [marks(v) if k in SECRET else under(v, secret=True) for k, v in value.items()]
        kept = [under(v, secret=False) for k, v in value.items() if k not in SECRET]
        return set().union(*(found if secret else kept))
    if isinstance(value, list):
        return set().union(*(under(one, secret=secret) for one in value))
    return set() if secret else marks(value)


def leaves(value: object) -> list[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [leaf for one in value for leaf in leaves(one)]
    return [str(value)]


def flow(tree: object) -> str:
    return (
        yaml.safe_dump(tree, default_flow_style=True, width=10**6, allow_unicode=True)
        .removesuffix("\n...\n")
        .strip()
    )


written = st.sampled_from([json.dumps, lambda tree: json.dumps(tree, ensure_ascii=False, indent=1), flow])
flows = st.builds(
    lambda write, tree: numbered(write(tree)), written, st.dictionaries(names, trees, min_size=1, max_size=3)
)


@settings(max_examples=2000 * MORE, deadline=None)
@example('{"db\\x5fpassword": "qz1zq"}')
@example("{user: &a qz1zq, db_password: *a}")
@example("{user: it's, db_password: it's qz1zq}")
@given(mutated(flows))
def test_json_and_yaml(text: str) -> None:
    """As ansible reads ``-e`` when it begins with a brace."""
    assume(text[:1] in set("{["))
    try:
        try:
            parsed = json.loads(text)
        except ValueError:
            parsed = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, TypeError):
        return
    for arguments in (["-e", text], [f"--extra-vars={text}"]):
        left = marks(told(*arguments)[-1])
        assert not left & under(parsed, secret=True), (text, told(*arguments))
    assert told("-e", text, "qz8zq.yml")[-1] == "qz8zq.yml"


@settings(max_examples=500 * MORE, deadline=None)
@given(flows)
def test_what_is_not_secret_stays(text: str) -> None:
    parsed = yaml.safe_load(text)
    # A longer value may be a command line of its own.
    simple = {leaf for leaf in leaves(parsed) if MARK.fullmatch(leaf)} & under(parsed, secret=False)
    assert simple <= marks(told("-e", text)[-1]), (text, told("-e", text))
