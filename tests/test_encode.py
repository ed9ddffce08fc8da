"""``json.loads`` of ours equals ``json.loads(json.dumps(value))``; where that fails, something readable."""

from __future__ import annotations

import collections
import datetime
import enum
import json
import math
import sys
import threading
import types
from pathlib import PurePosixPath
from typing import Any

import pytest
from ansible_runner_nats._native import encode
from hypothesis import given, settings
from hypothesis import strategies as st

# Text without surrogates; those are tested on their own.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
KEYS = TEXT | st.integers() | st.booleans() | st.none() | st.floats()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner) | st.tuples(inner, inner),
    max_leaves=50,
)


@given(VALUES)
@settings(max_examples=2000, deadline=None)
def test_same_as_json(value: Any) -> None:
    assert json.loads(encode(value)) == json.loads(json.dumps(value))


@given(st.text(st.characters()))
@settings(max_examples=1000, deadline=None)
def test_surrogates_in_pairs_are_characters_and_alone_replaced(text: str) -> None:
    expected = json.loads(json.dumps(text))
    replaced = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in expected)
    assert json.loads(encode(text)) == replaced
    assert json.loads(encode({text: 1})) == {replaced: 1}


class Color(enum.IntEnum):
    RED = 1


class Named(str, enum.Enum):
    A = "a"


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "not me"


class Odd(int):
    def __repr__(self) -> str:
        return "odd"


class Bad:
    def __str__(self) -> str:
        raise RuntimeError


def generator() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, None),
        (math.inf, None),
        ([-math.inf], [None]),
        (2**63, 2**63),
        (-(2**64) - 1, -(2**64) - 1),
        (10**4000, 10**4000),
        ({True: 1, None: 2, 3: 4, 1.5: 5}, {"true": 1, "null": 2, "3": 4, "1.5": 5}),
        ({(1, 2): 3, datetime.date(2020, 1, 2): 4}, {"(1, 2)": 3, "2020-01-02": 4}),
        ({2**70: 1, math.nan: 2, math.inf: 3}, {str(2**70): 1, "NaN": 2, "Infinity": 3}),
        ((1, [2]), [1, [2]]),
        ({1}, [1]),
        (frozenset({"a"}), ["a"]),
        (collections.deque([1, 2]), [1, 2]),
        (range(3), [0, 1, 2]),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (collections.ChainMap({"a": 1}), {"a": 1}),
        (b"caf\xc3\xa9 \xff", "café \ufffd"),
        (bytearray(b"x"), "x"),
        (datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone.utc), "2020-01-02 00:00:00+00:00"),
        (PurePosixPath("/a"), "/a"),
        (Color.RED, 1),
        (Named.A, "a"),
        (Text("me"), "me"),
        (Odd(5), 5),
        (Odd(2**70), 2**70),
        (Bad(), "Bad"),
        ([Bad, 1j], [str(Bad), "1j"]),
    ],
)
def test_what_json_cannot_say(value: Any, expected: Any) -> None:
    assert json.loads(encode(value)) == expected


def test_non_ascii_is_utf_8() -> None:
    assert encode("ü€😀") == '"ü€😀"'.encode()


def test_a_generator_is_not_consumed() -> None:
    value = generator()
    assert "generator object" in json.loads(encode(value))
    assert next(value) == 1


def test_cycles() -> None:
    cycle: list[Any] = [1]
    cycle.append(cycle)
    assert json.loads(encode(cycle)) == [1, "<too deep>"]
    loop: dict[str, Any] = {}
    loop["self"] = {"again": [loop, loop]}
    assert json.loads(encode(loop)) == {"self": {"again": ["<too deep>"] * 2}}
    shared = [1]
    assert json.loads(encode([shared, shared])) == [[1], [1]]


def test_depth_on_the_smallest_stack() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    results: list[bytes] = []
    before = threading.stack_size(32 * 1024 if sys.platform == "linux" else 0)
    try:
        thread = threading.Thread(target=lambda: results.append(encode(deep)))
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert results[0] == b"[" * 100 + b'"<too deep>"' + b"]" * 100
    # Take it apart from the outside in: CPython's own destructor would recurse.
    while deep:
        deep = deep.pop()


class Changes:
    """Changes the container that is being walked from its ``__str__``."""

    def __init__(self, change: Any) -> None:
        self.change = change

    def __str__(self) -> str:
        self.change()
        return "changed"


@pytest.mark.parametrize("change", ["clear", "grow", "swap"])
def test_containers_that_change_while_we_walk(change: str) -> None:
    numbers: dict[str, Any] = {f"k{n}": n for n in range(50)}
    items: list[Any] = list(range(50))

    def act() -> None:
        if change == "clear":
            numbers.clear()
            items.clear()
        elif change == "grow":
            numbers.update({f"new{n}": n for n in range(1000)})
            items.extend(range(10))
        else:
            numbers.pop("k49", None)
            numbers["other"] = 1
            items.reverse()

    numbers["k3"] = Changes(act)
    items[3] = Changes(act)
    for value in (numbers, items):
        json.loads(encode({"outer": value, "after": 1}))["after"]


def test_hostile_objects() -> None:
    class Hostile(dict):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            raise RuntimeError

        def items(self) -> Any:
            raise RuntimeError

        def __len__(self) -> int:
            return 10**9

    class Sequence(collections.abc.Sequence):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 10**9

        def __getitem__(self, index: Any) -> Any:
            raise OSError

    assert json.loads(encode(Hostile(a=1))) == {"a": 1}
    assert "Sequence object" in json.loads(encode(Sequence()))
