"""``json.loads`` of ours equals ``json.loads(json.dumps(value))``; where that fails, something readable."""

from __future__ import annotations

import collections
import datetime
import enum
import json
import lzma
import math
import os
import random
import sys
import tempfile
import threading
import types
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest
from ansible_runner_nats._native import encode, encode_carefully
from contract import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from support import PATIENCE, python

if TYPE_CHECKING:
    from collections.abc import Callable

# Text without surrogates; those are tested on their own.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
KEYS = TEXT | st.integers() | st.booleans() | st.none() | st.floats()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner) | st.tuples(inner, inner),
    max_leaves=50,
)


#: `make fuzz` asks for more of everything.
MORE = int(os.environ.get("FUZZ_FACTOR", "1"))


@given(VALUES)
@settings(max_examples=2000 * MORE, deadline=None)
def test_same_as_json(value: Any) -> None:
    assert json.loads(encode(value)) == json.loads(json.dumps(value))


def arbitrary(chance: random.Random, depth: int) -> Any:  # noqa: PLR0911
    """An object as events have them, and stranger ones; far faster than hypothesis's own."""
    kind = chance.randrange(14 if depth else 9)
    if kind < 3:
        # From one script, from any plane, or what has to be escaped.
        low, high = chance.choice(
            [(0, 0x80), (0x20, 0x7F), (0, 0x2030), (0x4E00, 0x9FFF), (0x1F300, 0x1FAFF)]
        )
        return "".join(chr(chance.randint(low, high)) for _ in range(chance.choice([0, 1, 7, 40])))
    if kind == 3:
        return chance.choice([None, True, False, "", 0, -1, 1.0, -0.0, 2**63 - 1, 2**63, -(2**63) - 1])
    if kind in {4, 5}:
        return chance.randint(
            -(2 ** chance.choice([8, 31, 63, 64, 300])), 2 ** chance.choice([8, 31, 63, 64, 300])
        )
    if kind in {6, 7}:
        return chance.uniform(-1, 1) * 10.0 ** chance.randint(-300, 300)
    if kind == 8:
        return chance.randint(0, 2**53) / chance.choice([1, 2, 3, 10, 1000])
    if kind < 12:
        keys = [arbitrary_key(chance) for _ in range(chance.randrange(5))]
        return {key: arbitrary(chance, depth - 1) for key in keys}
    items = [arbitrary(chance, depth - 1) for _ in range(chance.randrange(5))]
    return items if kind == 12 else tuple(items)


def arbitrary_key(chance: random.Random) -> Any:
    return chance.choice(
        ["stdout", "res", chance.choice('aü\n"€'), chance.randint(-9, 2**70), 1.5, None, True]
    )


@given(st.integers(0, 2**64))
@settings(max_examples=2000 * MORE, deadline=None)
def test_same_as_json_for_two_hundred_thousand_objects(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(100):
        value = arbitrary(chance, 4)
        encoded = encode(value)
        assert json.loads(encoded) == json.loads(json.dumps(value))
        assert encoded == encode_carefully(value)


@given(st.text(st.characters()))
@settings(max_examples=1000 * MORE, deadline=None)
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
        ({-(10**30): 1}, {str(-(10**30)): 1}),
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
    ids=lambda value: repr(value)[:30],
)
def test_what_json_cannot_say(value: Any, expected: Any) -> None:
    assert json.loads(encode(value)) == expected
    # In the middle of what is plain: what the plain walk has written is taken back.
    around = {"before": [1, "ä", {"x": None}], "odd": value, "after": 1.5}
    assert encode(around) == encode_carefully(around)


def plain(chance: random.Random, depth: int) -> Any:
    """An object that has only what real events have."""
    kind = chance.randrange(9 if depth else 6)
    if kind == 0:
        return chance.choice([None, True, False, 0, -1, 2**63 - 1, -(2**63)])
    if kind == 1:
        return chance.uniform(-1, 1) * 10.0 ** chance.randint(-300, 300)
    if kind < 6:
        script = chance.choice(['abc \n"\\\t\x00\x7f', "äöü€", "日本語", "😀a"])
        return "".join(chance.choice(script) for _ in range(chance.choice([0, 1, 15, 16, 17, 100])))
    if kind < 8:
        return {str(chance.randrange(99)): plain(chance, depth - 1) for _ in range(chance.randrange(6))}
    return [plain(chance, depth - 1) for _ in range(chance.randrange(6))]


@given(st.integers(0, 2**64))
@settings(max_examples=1000 * MORE, deadline=None)
def test_both_walks_write_the_same(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(100):
        value = plain(chance, 5)
        assert encode(value) == encode_carefully(value)
        assert json.loads(encode(value)) == value


def test_both_walks_write_the_same_of_real_events() -> None:
    with lzma.open(ROOT / "benches/corpus.jsonl.xz", "rt", encoding="utf-8") as corpus:
        for line in corpus:
            event = json.loads(line)
            assert encode(event) == encode_carefully(event)


def containers(depth: int, inner: Any = 1) -> Any:
    for level in range(depth):
        inner = [inner] if level % 2 else {"k": inner}
    return inner


@pytest.mark.parametrize(
    "value",
    [
        *(containers(depth) for depth in (1, 99, 100, 101, 102, 500)),
        containers(50, "\ud800"),
        {"\udfff": 1, "a": [1]},
        {"a": {Text("key"): 1}},
        [1, 2, 2**63, -(2**63) - 1],
        [True, False, None, 0.0, -0.0, math.nan, math.inf],
        {"a": "x" * 20_000, "b": "ü" * 20_000, "c": "ü" * 16_384, "d": "ü" * 16_385},
        {}, [], "", {"": {}}, [[], {}, [[]]], 7, None,
        {f"k{n}": [n] * 3 for n in range(5000)},
    ],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
def test_both_walks_write_the_same_at_the_edges(value: Any) -> None:
    assert encode(value) == encode_carefully(value)


def test_the_plain_walk_gives_up_a_cycle() -> None:
    value: dict[str, Any] = {"a": [1]}
    value["a"].append(value)
    assert encode(value) == encode_carefully(value)


def test_a_string_that_is_no_text_leaves_no_exception() -> None:
    for _ in range(1000):
        encode({"a": ["\ud800"]})
    assert sys.exc_info() == (None, None, None)


def test_no_reference_is_left_or_taken() -> None:
    """What the plain walk looks at has as many references afterwards as before."""
    text, number, inner = f"some {len(sys.argv)}", 10**12 + len(sys.argv), ["x"]
    value = {"text": text, "number": number, "inner": inner, "float": float(len(sys.argv)) + 0.5}
    watched = [value, text, number, inner, value["float"]]
    before = [sys.getrefcount(one) for one in watched]
    for _ in range(1000):
        encode(value)
        encode([value, {"\ud800": value}])
    assert [sys.getrefcount(one) for one in watched] == before


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


def on_the_smallest_stack(function: Callable[[], object]) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as failure:  # noqa: BLE001
            failures.append(failure)

    before = threading.stack_size(32 * 1024 if sys.platform == "linux" else 0)
    try:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join(PATIENCE)
    finally:
        threading.stack_size(before)
    assert not failures


def test_depth_on_the_smallest_stack() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    results: list[bytes] = []
    on_the_smallest_stack(lambda: results.append(encode(deep)))
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


def test_digits_that_python_itself_does_not_write() -> None:
    """CPython stops at 4,300 digits, for reading too: hence as text."""
    for sign, digits in (("", "123456789" * 1000), ("-", "9" * 100_000)):
        number = int(sign + "1")
        for start in range(0, len(digits), 1000):
            chunk = digits[start : start + 1000]
            number = number * 10 ** len(chunk) + int(sign + chunk)
        assert encode([number]) == f"[{sign}1{digits}]".encode()
        assert encode({number: 0}) == f'{{"{sign}1{digits}":0}}'.encode()


class Raises:
    """Raises whatever it is asked for."""

    __hash__ = object.__hash__

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError

    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__
    __iter__ = __str__
    __len__ = __str__
    __bool__ = __str__
    __eq__ = __str__  # type: ignore[assignment]
    keys = __str__


class HostileDict(dict):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        raise RuntimeError

    def items(self) -> Any:
        raise RuntimeError

    def __len__(self) -> int:
        return 10**9


class HostileStr(str):
    __slots__ = ()

    def __len__(self) -> int:
        return 10**18

    def __getitem__(self, _: Any) -> Any:
        return self

    def encode(self, *_: Any, **__: Any) -> Any:
        return b"something else"

    def __str__(self) -> str:
        return "something else"


class HostileSequence(collections.abc.Sequence):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, index: Any) -> Any:
        raise OSError


class HostileMapping(collections.abc.Mapping):  # type: ignore[type-arg]
    """``items`` is what it was made with."""

    def __init__(self, items: Any) -> None:
        self.given = items

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Any:
        raise RuntimeError

    def __getitem__(self, key: Any) -> Any:
        raise RuntimeError

    def items(self) -> Any:
        return self.given


def test_hostile_objects() -> None:
    assert json.loads(encode(Raises())) == "Raises"
    assert json.loads(encode({Raises(): Raises()})) == {"Raises": "Raises"}
    assert json.loads(encode(HostileDict(a=1))) == {"a": 1}
    assert "HostileSequence object" in json.loads(encode(HostileSequence()))
    for items in (None, 1, [1], [(1,)], [(1, 2, 3)], iter([None])):
        assert "HostileMapping object" in json.loads(encode(HostileMapping(items)))
    # What it gives before it fails is told.
    assert json.loads(encode(HostileMapping([("a", 1), None]))) == {"a": 1}


def test_a_str_is_the_text_that_it_holds() -> None:
    for text in ("plain", "\ud800", "x" * 1_000_000, "\udfff" * 1_000_000):
        replaced = text.replace("\ud800", "\ufffd").replace("\udfff", "\ufffd")
        assert json.loads(encode(HostileStr(text))) == replaced
        assert json.loads(encode({HostileStr(text): HostileStr(text)})) == {replaced: replaced}


@pytest.mark.parametrize("unit", ["x", "ü", "€", "😀", '"', "\n"])
def test_long_strings_in_pieces(unit: str) -> None:
    for length in (16_383, 16_384, 16_385, 1_000_003):
        text = unit * length
        assert json.loads(encode([text])) == [text]


class Endless(collections.abc.Sequence):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: Any) -> Any:
        return 0


def endless_pairs() -> Any:
    number = 0
    while True:
        number += 1
        yield number, 0


def doubled(value: Any, times: int) -> Any:
    for _ in range(times):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        Endless(),
        HostileMapping(endless_pairs()),
        range(10**18),
        # Few objects, but a billion laughs: 2**60 strings.
        doubled("laugh" * 2000, 60),
        doubled({"a": doubled(HostileStr("laugh" * 2000), 30)}, 30),
    ],
    ids=["sequence", "mapping", "range", "lists", "mixed"],
)
def test_what_has_no_end_ends(value: Any) -> None:
    encoded = encode(value)
    assert len(encoded) < 300_000_000
    if len(encoded) < 50_000_000:
        json.loads(encoded)
    else:
        # Enough to see that it is closed.
        assert encoded[-10:] in {b"]" * 10, b"]}" * 5, b"}]" * 5} or encoded.endswith(b"]")


def test_deep_keys_on_the_smallest_stack() -> None:
    deep: Any = ()
    for _ in range(500):
        deep = (deep,)
    value = {deep: 1, (1, frozenset([deep])): 2, (1, (2,)): 3}
    results: list[Any] = []
    on_the_smallest_stack(lambda: results.append(encode(value)))
    assert results == [b'{"<too deep>":1,"<too deep>":2,"(1, (2,))":3}']


def nested(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


def namespaces(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = types.SimpleNamespace(inner=value)
    return value


def level_of_sets(levels: int) -> Any:
    """Ten sets to each: texts of a billion characters, from a hundred objects."""
    level: Any = frozenset([0])
    for _ in range(levels):
        level = frozenset((number, level) for number in range(10))
    return level


@pytest.mark.parametrize(
    "value",
    [
        ValueError(nested(500)),
        namespaces(500),
        {ValueError(nested(500)): 1},
        {1: doubled("laugh" * 100, 40)}.values(),
        ValueError(doubled("laugh" * 100, 40)),
        {level_of_sets(9): 1},
        {1: nested(900)}.values(),
    ],
    ids=["exception", "objects", "key", "view of laughs", "laughs", "set of sets", "view"],
)
def test_the_text_of_an_object_is_asked_for_only_if_it_is_short(value: Any) -> None:
    results: list[bytes] = []
    on_the_smallest_stack(lambda: results.append(encode({"a": value})))
    assert b"<too deep>" in results[0] or len(results[0]) > 200_000_000
    assert json.loads(encode([ValueError("short"), types.SimpleNamespace(a=[1])])) == [
        "short",
        "namespace(a=[1])",
    ]


def test_a_view_is_an_array() -> None:
    assert json.loads(encode([{"a": 1}.keys(), {"a": 1}.values()])) == [["a"], [1]]


def test_an_event_on_the_smallest_stack() -> None:
    """Not `encode` alone: whatever comes in, in events, statuses and settings."""
    script = """
import threading, types
from ansible_runner_nats import event_handler, status_handler
deep = 0
for _ in range(500):
    deep = [deep]
settings = {'nats_subject_id': 'id', 'other': deep, 'nats_options': {'flush_timeout': 0.1, 'name': deep,
            'servers': 'nats://127.0.0.1:1', 'spill_dir': FOLDER}}
config = types.SimpleNamespace(settings=settings, ident=deep)
def job():
    event_handler(config, {'counter': deep, 'uuid': {1: deep}.values(), 'runner_ident': deep, 'a': deep})
    status_handler(config, {'status': 'starting', 'env': {'A': deep}, 'command': deep, 'cwd': '/'})
    status_handler(config, {'status': 'failed', 'runner_ident': deep})
    print('done')
event_handler(types.SimpleNamespace(settings=settings), {})  # loads what is loaded late
threading.stack_size(32 * 1024)
thread = threading.Thread(target=job)
thread.start()
thread.join()
"""
    with tempfile.TemporaryDirectory() as folder:
        done = python(script.replace("FOLDER", repr(folder)))
        assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
        assert "nats_options.name" in done.stderr
        lines = [path.read_text().splitlines() for path in Path(folder).rglob("*.jsonl")]
        assert sorted(map(len, lines)) == [1, 3]


def test_a_pair_across_a_piece() -> None:
    for before in (16_382, 16_383, 16_384):
        text = "x" * before + "\ud83d\ude00" + "\ud83d" + "y" * 300_000
        assert json.loads(encode(text)) == json.loads(json.dumps(text)).replace("\ud83d", "\ufffd")


class OwnItems(dict):  # type: ignore[type-arg]
    def items(self) -> Any:
        return [("seen", 1)]


def test_a_dict_is_asked_for_its_items() -> None:
    value = OwnItems(hidden=2)
    assert json.loads(encode(value)) == json.loads(json.dumps(value))


def test_what_is_left_out_is_said() -> None:
    assert json.loads(encode(range(10**18)))[-1] == "<too long>"
    assert len(json.loads(encode(range(10**18)))) == 1_000_001
    mapping = json.loads(encode(HostileMapping(endless_pairs())))
    assert mapping["<too long>"] == "<too long>"
    # What is built in ends by itself.
    assert len(json.loads(encode(set(range(1_200_000))))) == 1_200_000


def test_digits_that_would_take_minutes() -> None:
    number = 1 << 10_000_000
    assert json.loads(encode([number, -number])) == [f"{number:#x}", f"-{number:#x}"]
    assert json.loads(encode({number: 1})) == {f"{number:#x}": 1}


def test_the_recursion_limit_does_not_matter() -> None:
    deep: Any = {}
    for _ in range(99):
        deep = {"a": [deep]} if _ % 2 else [deep]
    before = sys.getrecursionlimit()
    encoded: list[bytes] = []
    try:
        sys.setrecursionlimit(len(__import__("inspect").stack()) + 30)
        encoded.append(encode(deep))
    finally:
        sys.setrecursionlimit(before)
    assert encoded[0].count(b"<too deep>") == 1


def test_who_takes_the_gil_does_not_block_the_others() -> None:
    """An object's ``__str__`` waits for another thread, which encodes meanwhile."""
    results: list[bytes] = []

    class Waits:
        def __str__(self) -> str:
            thread = threading.Thread(target=lambda: results.append(encode({"other": [1, 2]})))
            thread.start()
            thread.join(PATIENCE)
            return "waited"

    assert json.loads(encode([Waits()])) == ["waited"]
    assert results == [b'{"other":[1,2]}']
