"""Contexts of the `nats` command line: one that a user has is all that the plugin needs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from ansible_runner_nats import _native, event_handler, status_handler
from certificates import Authority, mutual, tls, trusting
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jwt_auth import Authority as Operator
from support import Bus, Job, Server, body, cli, config, counters, event, statuses_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CANARY = "canary-of-a-context"
USERS = (
    f'authorization {{ users: [ {{user: "me", password: "{CANARY}"}}, {{user: "tester", password: "t"}} ] }}'
)
TESTER = {"user": "tester", "password": "t"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    (home / ".config/nats/context").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return home


def write(home: Path, name: str, **fields: Any) -> Path:
    """As `nats context save` writes it: every field is there, most are empty."""
    empty = dict.fromkeys(
        ("description", "url", "socks_proxy", "token", "user", "password", "creds", "nkey", "cert", "key",
         "ca", "nsc", "jetstream_domain", "jetstream_api_prefix", "jetstream_event_prefix", "inbox_prefix",
         "user_jwt", "user_seed", "color_scheme", "windows_cert_store"), "",
    )  # fmt: skip
    path = home / ".config/nats/context" / f"{name}.json"
    path.write_text(json.dumps({**empty, "tls_first": False, "windows_ca_certs_match": None, **fields}))
    return path


def told(**options: Any) -> list[str]:
    return [text for _, text in _native.Emitter({"nats_subject_id": "id", "nats_options": options}).notices()]


def test_a_real_job_with_a_context_alone(
    home: Path, start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path
) -> None:
    server = start_server(config=USERS, credentials=TESTER)
    bus = connect(server).subscribe()
    write(home, "prod", url=server.url, user="me", password=CANARY)
    env = {"RUNNER_NATS_SUBJECT_ID": "id", "RUNNER_NATS_CONTEXT": "prod", "HOME": str(home)}
    done = cli("run", Job(tmp_path / "job").folder, "-p", "play.yml", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    messages = bus.wait_for_end()
    assert statuses_of(messages) == ["starting", "running", "successful"]
    assert all(CANARY.encode() not in message.data for message in messages)


def test_every_kind_of_connection(
    home: Path, start_server: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Certificates with `~` and `$VAR`, creds through `env://`, an inbox of one's own."""
    authority, operator = Authority(home / "keys"), Operator()
    own = authority.issue("me", hosts=())
    creds = operator.creds("me")
    server = start_server(
        config="\n".join([tls(authority.issue(), mutual(authority)), operator.server_config()]),
    )
    monkeypatch.setenv("KEYS", str(own.key.parent))
    monkeypatch.setenv("MY_CREDS", creds)
    fields = {
        "url": server.url,
        "ca": "~/keys/ca.pem",
        "cert": "$KEYS/me.pem",
        "key": "file://${KEYS}/me.key",
    }
    path = write(home, "prod", **fields, creds="env://MY_CREDS", inbox_prefix="_INBOX.mine")
    tester = tmp_path / "tester.creds"
    tester.write_text(operator.creds("tester"))
    bus = Bus(server.url.replace("nats", "tls"), user_credentials=str(tester), **trusting(authority, own))
    bus.subscribe().subscribe("_INBOX.mine.>")
    for number, name in enumerate(("prod", str(path), "~/.config/nats/context/prod.json")):
        run = config(server.url, tmp_path / str(number), context=name)
        run.settings["nats_options"].pop("servers")
        event_handler(run, event(number))
        status_handler(run, {"status": "successful"})
    messages = bus.wait_for_end(3)
    assert counters([message for message in messages if message.subject.endswith(".event")]) == [0, 1, 2]
    assert any(message.subject.startswith("_INBOX.mine.") for message in messages)
    bus.close()


def test_jetstream_in_a_domain(
    home: Path, start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path
) -> None:
    server = start_server(config=f'jetstream {{ domain: hub, store_dir: "{tmp_path / "js"}" }}')
    connect(server).add_stream()
    for number, fields in enumerate(
        [{"jetstream_domain": "hub"}, {"jetstream_api_prefix": "$JS.hub.API."}, {"jetstream_domain": "other"}]
    ):
        write(home, "js", url=server.url, **fields)
        run = config(server.url, tmp_path / str(number), context="js", delivery="jetstream", flush_timeout=1)
        event_handler(run, event(number))
        status_handler(run, {"status": "successful"})
    # Nobody answers for the domain "other"; the stream acknowledges all the same.
    assert counters(connect(server).stream_messages()) == [0, 1, 2]


def test_what_is_said_explicitly_wins(
    home: Path, start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    server = start_server(config=USERS, credentials=TESTER)
    bus = connect(server).subscribe()
    write(home, "prod", url="nats://127.0.0.1:1", creds="/no/such.creds", token="wrong")
    run = config(server.url, tmp_path, context="prod", user="me", password=CANARY)
    event_handler(run, event(0))
    status_handler(run, {"status": "successful"})
    assert counters(bus.wait_for_end()) == [0]
    write(home, "other", url=server.url, user="me", password=CANARY)
    monkeypatch.setenv("RUNNER_NATS_CONTEXT", "other")
    run = config(server.url, tmp_path, context="prod")
    event_handler(run, event(1))
    status_handler(run, {"status": "successful"})
    assert counters(bus.wait_for_end(2)) == [0, 1]


def test_fields_that_cannot_be_served_are_named(home: Path) -> None:
    write(home, "odd", url="nats://h", socks_proxy=f"socks5://u:{CANARY}@p", future=7)
    lines = told(context="odd")
    assert lines == [f"context odd: {field} has no effect here" for field in ("socks_proxy", "future")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "cannot read .*odd.json: No such file .*; there are other"),
        ("{", "is no JSON object (line 1)"),
        (f'["{CANARY}"]', "is no JSON object (line 1)"),
        (f'{{"user": "u", "password": ["{CANARY}"]}}', "password: expected text"),
        ('{"token": "op://vault/x"}', "token: op:// cannot be read here"),
        ('{"token": "env://NOT_SET"}', "token: the variable NOT_SET is not set"),
        ('{"token": "file:///no/such"}', "token: cannot read /no/such"),
        ('{"creds": "nsc://a/b/c"}', "creds: nsc:// cannot be read here"),
        ('{"ca": "$NOT_SET/ca.pem"}', "ca: the variable NOT_SET is not set"),
        (f'{{"url": "http://{CANARY}"}}', "context odd: url=.*: expected server URLs"),
        ('{"tls_first": "perhaps"}', "context odd: tls_first=.*: expected true"),
        ('{"cert": "/c.pem"}', "tls_cert: expected its key too"),
        ('{"nsc": "a/b/c"}', "context odd: nsc cannot be used here"),
        ('{"windows_cert_store": "user"}', "context odd: windows_cert_store cannot be used here"),
        (f'{{"user_jwt": "{CANARY}"}}', "user_jwt and user_seed: expected both"),
        (f'{{"creds": "-----BEGIN {CANARY}"}}', "creds: expected a path, not its content"),
        (f'{{"nkey": "SU{"A" * 56}{CANARY}"}}', "nkey: expected a path, not its content"),
        (f'{{"key": "-----BEGIN {CANARY}", "cert": "/c"}}', "key: expected a path, not its content"),
        ('{"jetstream_domain": "a b"}', "context odd: jetstream_domain="),
    ],
)
def test_a_context_that_cannot_be_used(home: Path, text: str | None, expected: str) -> None:
    write(home, "other")
    if text is not None:
        (home / ".config/nats/context/odd.json").write_text(text)
    lines = told(context="odd")
    assert len(lines) == 1, lines
    start, _, rest = expected.partition(".*")
    assert start in lines[0]
    assert all(part in lines[0] for part in rest.split(".*"))
    assert lines[0].endswith("; nothing is published")
    assert CANARY not in lines[0]


def test_a_jwt_and_a_seed(
    home: Path, start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path
) -> None:
    operator = Operator()
    tester = tmp_path / "tester.creds"
    tester.write_text(operator.creds("tester"))
    server = start_server(config=operator.server_config(), credentials={"user_credentials": str(tester)})
    bus = connect(server).subscribe()
    jwt, seed = (line for line in operator.creds("me").splitlines() if line[:2] in {"ey", "SU"})
    # Go's JSON does not care for the case of names.
    path = write(home, "prod", user_jwt=jwt)
    fields = {name: value for name, value in json.loads(path.read_text()).items() if value}
    path.write_text(json.dumps({**fields, "URL": server.url, "User_Seed": seed}))
    run = config("", tmp_path, context="prod")
    event_handler(run, event(0))
    status_handler(run, {"status": "starting", "command": [jwt, seed]})
    status_handler(run, {"status": "successful"})
    messages = bus.wait_for_end()
    assert counters(messages) == [0]
    assert not any(secret.encode() in message.data for message in messages for secret in (jwt, seed))


def test_credentials_go_where_they_belong(
    home: Path, start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path
) -> None:
    """A URL with credentials does not get the context's."""
    server = start_server(config=USERS, credentials=TESTER)
    bus = connect(server).subscribe()
    write(home, "prod", url="nats://h", user="somebody", password="other-canary", token="third-canary")
    url = server.url.replace("nats://", f"nats://me:{CANARY}@")
    run = config(url, tmp_path, context="prod")
    event_handler(run, event(0))
    status_handler(run, {"status": "starting", "command": ["other-canary", "third-canary", CANARY]})
    status_handler(run, {"status": "successful"})
    messages = bus.wait_for_end()
    assert counters(messages) == [0]
    # Those that were not used are nobody's business either.
    assert body(messages[1])["command"] == ["***"] * 3


def test_secrets_of_a_context_are_masked(
    home: Path, start_server: Callable[..., Server], connect: Callable[..., Bus], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    server = start_server(config=USERS, credentials=TESTER)
    bus = connect(server).subscribe()
    monkeypatch.setenv("INNOCENT", CANARY)
    write(home, "prod", url=server.url, user="me", password="env://INNOCENT")
    run = config(server.url, tmp_path, context="prod", status_env="full")
    status_handler(
        run, {"status": "starting", "env": {"INNOCENT": CANARY}, "command": ["x", f"--p={CANARY}"]}
    )
    status_handler(run, {"status": "successful"})
    assert all(CANARY.encode() not in message.data for message in bus.wait_for_end())


FIELDS = ("description", "url", "user", "creds", "cert", "key", "ca", "jetstream_domain", "tls_first")
SECRETS = ("token", "password", "user_seed", "user_jwt", "nkey")

scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=20)
values = st.recursive(
    scalars, lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=5), one)
)
others = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), values, max_size=6)
canaries = st.sampled_from([CANARY, [CANARY], {"a": CANARY}])
secrets = st.dictionaries(st.sampled_from(SECRETS), canaries, max_size=3)
files = st.builds(lambda one, two: json.dumps({**one, **two}).encode(), others, secrets)
texts = st.binary(max_size=200) | files


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts, st.integers(0, 200), st.sampled_from([b"", b"{", b"}", b'"', b"\xff", b"\x00", b"[" * 200]))
def test_a_file_of_anything(tmp_path: Path, text: bytes, at: int, put: bytes) -> None:
    """It is read, or told, on lines of bounded length; nothing of a secret is in them."""
    path = tmp_path / "context.json"
    path.write_bytes(text[:at] + put + text[at:])
    for line in told(context=str(path)):
        assert CANARY not in line
        assert len(line) < 2500
        assert "\n" not in line
