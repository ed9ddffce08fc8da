"""Every option, with wrong values: what the user is told, and that it costs no more than it has to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from ansible_runner_nats import _native, status_handler
from support import QUICK, Job, body, command, python

if TYPE_CHECKING:
    from pathlib import Path

    from support import Bus, Server

CANARY = "canary-4711-canary"
ON = "RUNNER_NATS_SUBJECT_ID"

NUMBER = "expected a number of seconds, at least "
COUNT = "expected a whole number from "
BOOLEAN = "expected true, yes, y, 1, on or false, no, n, 0, off"
CLOSED = "; nothing is published"

#: Option, its variable, wrong values, and what the user is told: what is expected, and what happens now.
TUNING: list[tuple[str, str, list[Any], str, str]] = [
    ("name", "RUNNER_NATS_CLIENT_NAME", [[1], "x" * 257], "expected text of at most 256", "using none"),
    ("verbose", "RUNNER_NATS_CLIENT_VERBOSE", ["maybe", 2, {}], BOOLEAN, "using false"),
    ("allow_reconnect", "RUNNER_NATS_ALLOW_RECONNECT", ["maybe", 2, []], BOOLEAN, "using true"),
    ("connect_timeout", "RUNNER_NATS_CONNECT_TIMEOUT", ["2s", 0, -1, "nan", "1e99", [2]], NUMBER, "using 2"),
    ("reconnect_time_wait", "RUNNER_NATS_RECONNECT_TIME_WAIT", ["x", -0.1, True], NUMBER, "using 2"),
    (
        "max_reconnect_attempts",
        "RUNNER_NATS_MAX_RECONNECT_ATTEMPTS",
        ["1.5", "x", {}],
        "whole number",
        "using -1",
    ),
    ("ping_interval", "RUNNER_NATS_PING_INTERVAL", ["x", 0, "inf"], NUMBER, "using 120"),
    ("max_outstanding_pings", "RUNNER_NATS_MAX_OUTSTANDING_PINGS", [0, "x", 10**30], COUNT, "using 2"),
    ("max_outstanding_pings", "RUNNER_MAX_OUTSTANDING_PINGS", ["many"], COUNT, "using 2"),
    ("flusher_queue_size", "RUNNER_NATS_FLUSHER_QUEUE_SIZE", [0, 65_537, "x", 1.5], COUNT, "using 1024"),
    ("pending_size", "RUNNER_NATS_PENDING_SIZE", [-1, "64 MiB", 2**41], COUNT, "using 67108864"),
    ("flush_timeout", "RUNNER_NATS_FLUSH_TIMEOUT", ["x", -1, "1e300"], NUMBER, "using 5"),
    (
        "inbox_prefix",
        "RUNNER_NATS_INBOX_PREFIX",
        ["a.*", "a b", "a\r\nb", ".", "x" * 257],
        "prefix",
        "using _INBOX",
    ),
    ("dont_randomize", "RUNNER_NATS_DONT_RANDOMIZE", ["2"], BOOLEAN, "using false"),
    ("delivery", "RUNNER_NATS_DELIVERY", ["best", 1], "expected auto, jetstream or core", "using auto"),
    (
        "stream",
        "RUNNER_NATS_STREAM",
        ["a.b", "a b", "x\r\nEvil: 1", ">", "x" * 256],
        "name of a stream",
        "using none",
    ),
    ("spill_dir", "RUNNER_NATS_SPILL_DIR", ["x" * 5000, ["/a"]], "expected a path", "using none"),
    ("status_env", "RUNNER_NATS_STATUS_ENV", ["none", True], "expected redact, omit or full", "using redact"),
    ("required", "RUNNER_NATS_REQUIRED", ["perhaps"], BOOLEAN, "using false"),
    ("cloudevents", "RUNNER_NATS_CLOUDEVENTS", ["v1", 2], BOOLEAN, "using false"),
]

GUARDED: list[tuple[str, str, list[Any], str]] = [
    (
        "servers",
        "RUNNER_NATS_SERVERS",
        [f"http://{CANARY}", ",", "nats://", {}, [[1]], f"nats://a:{CANARY}#b@h", f"nats://h:99999/{CANARY}"],
        "expected server URLs such as",
    ),
    (
        "user_credentials",
        "RUNNER_NATS_USER_CREDENTIALS",
        [f"-----BEGIN\n{CANARY}", [CANARY]],
        "path of a .creds",
    ),
    (
        "nkeys_seed",
        "RUNNER_NATS_NKEYS_SEED",
        ["SU" + "A" * 60 + CANARY, {"a": CANARY}],
        "path of an nkey seed",
    ),
    ("nkeys_seed_str", "", [CANARY, 5], "expected an nkey seed"),
    ("password", "RUNNER_NATS_PASSWORD", [CANARY], "expected a user too"),
    ("user", "RUNNER_NATS_USERNAME", ["me"], "expected a password too"),
    ("token", "", [[CANARY]], "expected a token"),
    ("tls_handshake_first", "RUNNER_NATS_TLS_HANDSHAKE_FIRST", ["perhaps"], BOOLEAN),
    ("tls", "", [CANARY], "expected tls_ca, tls_cert and tls_key"),
    ("tls_ca", "RUNNER_NATS_TLS_CA", ["x" * 5000, [1]], "expected a path"),
    ("tls_cert", "RUNNER_NATS_TLS_CERT", ["/a.pem"], "expected its key too"),
    ("tls_key", "RUNNER_NATS_TLS_KEY", ["/a.key"], "expected its certificate too"),
    ("tls_hostname", "RUNNER_NATS_TLS_HOSTNAME", ["a b", {}, "x" * 300], "expected a host name or an IP"),
    ("context", "RUNNER_NATS_CONTEXT", ["no-such", "/no/such.json", "..", "x" * 4095], "context"),
    (
        "subject",
        "RUNNER_NATS_SUBJECT",
        ["a b", "a.*", "{ident}", "$SYS.x", "{", ["a"], "x" * 600, "{name}.x", "{runner_ident}.{kind}"],
        "expected a subject such as",
    ),
    (
        "events",
        "RUNNER_NATS_EVENTS",
        ["a,,b", "a b", "!", [], {"a": 1}, "x," * 20_000],
        "expected names of events",
    ),
    ("omit", "RUNNER_NATS_OMIT", ["a..b", ".", "a.*.b", "a[0]", {"a": 1}, "x," * 20_000], "names of fields"),
    ("signature_cb", "", [CANARY], "instead of a callback"),
    ("user_jwt_cb", "", [CANARY], "instead of a callback"),
]


#: What somebody meant, and did not write.
MISSPELT = {
    "tls_caa": "tls_ca", "TLS_CA": "tls_ca", "tokn": "token", "omitt": "omit", "event": "events",
    "user_credential": "user_credentials", "server": "servers",
}  # fmt: skip


@pytest.mark.parametrize("key", MISSPELT)
def test_a_misspelt_name_that_concerns_security(key: str) -> None:
    lines = told({"nats_subject_id": "id", "nats_options": {key: CANARY}})
    assert lines == [f"nats_options.{key}: expected it to be called {MISSPELT[key]}{CLOSED}"]


#: Variables that there are not, the one that was meant, and whether nothing is published without it.
VARIABLES = {
    "RUNNER_NATS_OMITT": ("RUNNER_NATS_OMIT", True),
    "RUNNER_NATS_USER": ("RUNNER_NATS_USERNAME", True),
    "RUNNER_NATS_TLSCA": ("RUNNER_NATS_TLS_CA", True),
    "RUNNER_NATS_SERVER": ("RUNNER_NATS_SERVERS", True),
    "RUNNER_NATS_CREDS": ("RUNNER_NATS_USER_CREDENTIALS", True),
    "RUNNER_NATS_OPTIONS": ("nats_options", True),
    "runner_nats_events": ("RUNNER_NATS_EVENTS", True),
    "RUNNER_NATS_FLUSH_TIME_OUT": ("RUNNER_NATS_FLUSH_TIMEOUT", False),
    "RUNNER_NATS_NAME": ("RUNNER_NATS_CLIENT_NAME", False),
    "RUNNER_NATS_HEADER": ("RUNNER_NATS_HEADERS", False),
    "RUNNER_NATS_SOMETHING": ("", False),
}

#: The same for settings beside ``nats_options``.
SETTINGS = {
    "nats_option": ("nats_options", True),
    "NATS-Options": ("nats_options", True),
    "nats_omit": ("nats_options.omit", True),
    "nats_servers": ("nats_options.servers", True),
    "nats_header": ("nats_headers", False),
    "nats_flush_timeout": ("nats_options.flush_timeout", False),
    "nats_something": ("", False),
}


def expected_line(name: str, meant: str, what: str, *, closed: bool) -> str:
    if closed:
        return f"{name}: expected it to be called {meant}{CLOSED}"
    return f"{name}: no such {what}, ignored" + (f"; did you mean {meant}?" if meant else "")


@pytest.mark.parametrize("name", VARIABLES)
def test_a_misspelt_variable(monkeypatch: pytest.MonkeyPatch, server: Server, bus: Bus, name: str) -> None:
    meant, closed = VARIABLES[name]
    settings = {"nats_subject_id": "id", "nats_options": {"servers": server.url}}
    monkeypatch.setenv(name, "")
    assert told(settings) == []
    monkeypatch.setenv(name, CANARY)
    assert told(settings) == [expected_line(name, meant, "variable", closed=closed)]
    published(server, bus, settings, is_published=not closed)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_misspelt_setting(server: Server, bus: Bus, name: str) -> None:
    meant, closed = SETTINGS[name]
    settings = {"nats_subject_id": "id", "nats_options": {"servers": server.url}, name: {"a": CANARY}}
    assert told(settings) == [expected_line(name, meant, "setting", closed=closed)]
    published(server, bus, settings, is_published=not closed)


def published(server: Server, bus: Bus, settings: dict[str, Any], *, is_published: bool) -> None:
    """Publish with these settings, and then with good ones."""
    other = {"nats_subject_id": "other", "nats_options": {"servers": server.url}}
    for each in (settings, other):
        with pytest.MonkeyPatch.context() as patch:
            for name in VARIABLES if each is other else ():
                patch.delenv(name, raising=False)
            status_handler(type("Config", (), {"settings": each})(), {"status": "successful"})
    subjects = [message.subject for message in bus.wait_for_end(1 + is_published)]
    assert [".id." in subject for subject in subjects].count(True) == is_published


def test_names_that_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUNNER_OMIT", "RUNNER_NATSU", "RUNNER_NATS", "RUNNER_NAT_OMIT", "XRUNNER_NATS_OMITT"):
        monkeypatch.setenv(name, "x")
    # What Kubernetes tells a container of a service with the name `runner-nats`.
    monkeypatch.setenv("RUNNER_NATS_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("RUNNER_NATS_SERVICE_PORT", "4222")
    monkeypatch.setenv("RUNNER_NATS_PORT", "tcp://10.0.0.1:4222")
    monkeypatch.setenv("RUNNER_NATS_PORT_4222_TCP_ADDR", "10.0.0.1")
    monkeypatch.setenv("RUNNER_MAX_OUTSTANDING_PINGS", "5")
    ours = {"nats_subject_id": "id"}
    others: dict[Any, Any] = {7: 1, None: 1}
    assert told({**ours, **others, "natsume": 1, "idle_timeout": 5, "nat": 1}) == []


def test_nothing_is_said_while_the_plugin_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_NATS_OMITT", "x")
    assert told({"nats_option": {"omit": "x"}}) == []


class Keys(dict):  # type: ignore[type-arg]
    """Settings whose names have no end, or cannot be had."""

    def __init__(self, keys: Any) -> None:
        super().__init__(nats_subject_id="id", nats_options={"connect_timeout": "x"})
        self._keys = keys

    def keys(self) -> Any:
        return self._keys()


def test_hostile_settings() -> None:
    def broken() -> Any:
        raise SystemExit

    for keys in (
        broken,
        lambda: iter(lambda: "nats_option", 0),
        lambda: None,
        lambda: ["\ud800", "nats_\ud800"],
    ):
        assert any("connect_timeout" in line for line in told(Keys(keys)))
    huge = "nats_" + "x" * 10_000_000
    lines = told({"nats_subject_id": "id", huge: 1, **{f"nats_{n}x": 1 for n in range(1000)}})
    assert len(lines) == 51
    assert all(len(line) < 200 for line in lines)


#: Every option that takes a path, with what else it needs.
PATHS: dict[str, dict[str, Any]] = {
    "user_credentials": {},
    "nkeys_seed": {},
    "tls_ca": {},
    "tls_cert": {"tls_key": "/k"},
    "tls_key": {"tls_cert": "/c"},
    "context": {},
    "spill_dir": {},
}


@pytest.mark.parametrize("option", PATHS)
@pytest.mark.parametrize("how", ["setting", "variable"])
def test_a_damaged_seed_where_a_path_belongs(server: Server, option: str, how: str, tmp_path: Path) -> None:
    """Not in what the run says, and not in what `check` shows."""
    for damaged in ("SUAM4711CANARY", "SUAM-4711-canary", "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5.canary"):
        if option in {"context", "spill_dir"} and damaged == "SUAM-4711-canary":
            continue  # a good name; and a folder where people have to look
        options = {**QUICK, "servers": server.url, "flush_timeout": 0, **PATHS[option]}
        env = {"RUNNER_NATS_SUBJECT_ID": "id"}
        if how == "setting":
            options[option] = damaged
        else:
            env[f"RUNNER_NATS_{option.upper()}"] = damaged
        code = f"""
import types
from ansible_runner_nats import status_handler
config = types.SimpleNamespace(settings={{'nats_options': {options!r}}}, artifact_dir={str(tmp_path)!r})
status_handler(config, {{'status': 'failed', 'runner_ident': 'r'}})
"""
        done = python(code, env=env, cwd=tmp_path)
        assert done.returncode == 0
        job = Job(tmp_path / "job", {"nats_options": options})
        checked = command("check", job.folder, "-v", env=env, cwd=tmp_path)
        if checked.returncode == 2:  # without -v
            checked = command("check", job.folder, env=env, cwd=tmp_path)
        for text in (done.stdout + done.stderr, checked.stdout + checked.stderr):
            assert text
            assert damaged not in text
            assert "canary" not in text.lower()


def test_a_path_is_shown(server: Server, tmp_path: Path) -> None:
    missing = tmp_path / "no-such-file"
    options = {**QUICK, "servers": server.url, "flush_timeout": 0, "nkeys_seed": str(missing)}
    checked = command(
        "check", Job(tmp_path / "job", {"nats_subject_id": "id", "nats_options": options}).folder
    )
    assert f"nkeys_seed: cannot use {missing}: No such file" in checked.stdout + checked.stderr


@pytest.mark.parametrize("option", ["tls_key", "context"])
def test_content_where_a_path_belongs(option: str) -> None:
    for content in (f"-----BEGIN PRIVATE KEY----- {CANARY}", f'{{"password": "{CANARY}"}}', f"a\n{CANARY}"):
        options = {"tls_cert": "/c", "tls_key": "/k", option: content}
        lines = told({"nats_subject_id": "id", "nats_options": options})
        assert any(line.endswith(CLOSED) for line in lines), lines
        assert not any(CANARY in line for line in lines), lines


def test_what_is_empty_is_not_set(server: Server, bus: Bus) -> None:
    options = {"servers": server.url, "token": "", "user": "", "password": "", "tls_ca": "", "subject": ""}
    settings = {"nats_subject_id": "id", "nats_options": options}
    assert told(settings) == []
    status_handler(type("Config", (), {"settings": settings})(), {"status": "successful"})
    assert len(bus.wait_for_end()) == 1


def told(settings: dict[str, Any]) -> list[str]:
    return [text for _, text in _native.Emitter(settings).notices()]


def both_ways(
    monkeypatch: pytest.MonkeyPatch, option: str, variable: str, values: list[Any]
) -> list[tuple[str, list[str]]]:
    """The name that the user used, and what he was told, for each wrong value and each way to give it."""
    results = []
    for value in values:
        settings = {"nats_subject_id": "id", "nats_options": {option: value}}
        results.append((f"nats_options.{option}", told(settings)))
        if variable and isinstance(value, (str, int, float)):
            monkeypatch.setenv(variable, str(value))
            results.append((variable, told({"nats_subject_id": "id"})))
            monkeypatch.delenv(variable)
    return results


@pytest.mark.parametrize("row", TUNING, ids=[row[1] for row in TUNING])
def test_wrong_values_of_tuning(
    monkeypatch: pytest.MonkeyPatch, row: tuple[str, str, list[Any], str, str]
) -> None:
    option, variable, values, expected, consequence = row
    for name, lines in both_ways(monkeypatch, option, variable, values):
        assert len(lines) == 1, lines
        assert lines[0].startswith(f"{name}=")
        assert expected in lines[0]
        assert lines[0].endswith(f"; {consequence}")
        assert len(lines[0]) < 300


@pytest.mark.parametrize(
    ("option", "variable", "values", "expected"), GUARDED, ids=[row[0] for row in GUARDED]
)
def test_wrong_values_that_concern_security(
    monkeypatch: pytest.MonkeyPatch, option: str, variable: str, values: list[Any], expected: str
) -> None:
    for name, lines in both_ways(monkeypatch, option, variable, values):
        assert len(lines) == 1, lines
        # A missing half is the same mistake, whichever way the other half was given.
        assert lines[0].startswith((name, option))
        assert expected in lines[0]
        assert lines[0].endswith(CLOSED)
        assert CANARY not in lines[0]


def test_refused_options_send_nothing(server: Server, bus: Bus) -> None:
    for option, _, values, _ in GUARDED:
        if option != "servers":
            settings = {"nats_subject_id": "id", "nats_options": {"servers": server.url, option: values[0]}}
            status_handler(type("Config", (), {"settings": settings})(), {"status": "successful"})
    bus.run(bus.client.flush())
    assert bus.received == []


@pytest.mark.parametrize("value", [["a"], {"a": 1}, 1.5 + 2j])
def test_a_subject_id_that_is_no_text(value: Any) -> None:
    assert told({"nats_subject_id": value}) == ["nats_subject_id: expected text" + CLOSED]


def test_texts_of_megabytes(server: Server, bus: Bus) -> None:
    """10 MB wherever a user can write something: the job sees a few short lines, and goes on."""
    huge = "x" * 10_000_000
    options = {
        **QUICK,
        "servers": server.url,
        "name": huge,
        "inbox_prefix": huge,
        "stream": huge,
        "spill_dir": huge,
        "delivery": huge,
        "connect_timeout": huge,
        huge: 1,
        **{f"unknown{number}": 1 for number in range(1000)},
    }
    settings = {
        "nats_subject_id": huge,
        "nats_options": options,
        "nats_headers": {huge: "a", "b": huge, **{f"h{number}": "x" * 5000 for number in range(10)}},
    }
    lines = told(settings)
    assert len(lines) == 51
    assert all(len(line) < 400 for line in lines)
    assert lines[-1].startswith("there are more problems")
    config = type("Config", (), {"settings": settings, "ident": huge})()
    status_handler(config, {"status": "successful", "more": {huge: huge}})
    message = bus.wait_for_end()[0]
    assert len(message.subject) < 2100
    assert len(message.data) <= 1 << 20
    assert message.headers is not None
    ours = {"Nats-Msg-Id", "Ansible-Runner-Run", "Ansible-Runner-Time", "Ansible-Runner-Truncated"}
    assert set(message.headers) == {"h0", "h1", "h2", *ours}


INJECTIONS = [
    "a\r\nPUB evil 1\r\nx",
    "a\0b",
    "*",
    ">",
    "a.>",
    " ",
    "\t",
    "..",
    "\u2028",
    "\ud800",
    "пр.ивет",
    "日本",
]


def test_injection_through_subject_ids_and_idents(server: Server, bus: Bus) -> None:
    bus.subscribe("evil")
    pairs = [(one, other) for one in INJECTIONS for other in INJECTIONS]
    for one, other in pairs:
        settings = {"nats_subject_id": one, "nats_options": {"servers": server.url}}
        config = type("Config", (), {"settings": settings, "ident": "x"})()
        status_handler(config, {"status": "successful", "runner_ident": other})
    messages = bus.wait_for_end(len(pairs))
    assert len(messages) == len(pairs)
    for message in messages:
        assert message.subject.startswith("pub.ansible.runner.")
        assert message.subject.endswith(".status")
        assert all(
            token and not set(token) & set(" \t\r\n\0*>\u2028") for token in message.subject.split(".")
        )
    subjects = {message.subject for message in messages}
    assert "pub.ansible.runner.пр.ивет.日本.status" in subjects


@pytest.mark.parametrize(
    ("name", "value", "arrives"),
    [
        ("good", "grün 日本", True),
        ("good", "", True),
        ("good", "a=b:c, d", True),
        ("good", "a\r\nEvil: 1", False),
        ("good", "a\nb", False),
        ("good", "a\0b", False),
        ("good\r\nEvil", "1", False),
        ("go:od", "1", False),
        ("go od", "1", False),
        ("grün", "1", False),
        ("", "1", False),
        ("nats-msg-id", "1", False),
        ("Nats-Expected-Stream", "1", False),
        ("x" * 20_000, "1", False),
        ("good", "x" * 20_000, False),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_header_names_and_values(server: Server, bus: Bus, *, name: str, value: str, arrives: bool) -> None:
    settings = {
        "nats_subject_id": "id",
        "nats_options": {"servers": server.url},
        "nats_headers": {name: value},
    }
    assert [line.startswith("nats_headers: header") for line in told(settings)] == ([] if arrives else [True])
    status_handler(type("Config", (), {"settings": settings})(), {"status": "successful"})
    message = bus.wait_for_end()[0]
    assert message.headers is not None
    assert "Evil" not in message.headers
    assert message.headers.get(name) == (value if arrives else None) or name.lower() == "nats-msg-id"
    assert body(message)["status"] == "successful"
