"""Whatever 0.4.0 handed to nats-py's ``connect``: taken as nats-py takes it, or refused by its name."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible_runner_nats import _native, event_handler, status_handler
from jwt_auth import Authority
from nats.aio.client import Client, RawCredentials
from support import Bus, Server, config, event

if TYPE_CHECKING:
    from collections.abc import Callable

UPGRADING = Path(__file__).parent.parent / "docs/upgrading.md"

#: What `nats.connect` of the nats-py that is installed takes, and its defaults.
ARGUMENTS = {
    name: parameter.default
    for name, parameter in inspect.signature(Client.connect).parameters.items()
    if name != "self"
}

#: No function can be called, no socket handed over.
CANNOT_BE = {"tls", "signature_cb", "user_jwt_cb", "ws_connection_headers"}
#: Values that ask for something, and need nothing else.
ASKING: dict[str, Any] = {
    "no_echo": True,
    "pedantic": True,
    "drain_timeout": 5,
    "skip_subject_validation": True,
    **dict.fromkeys(
        [
            "error_cb",
            "disconnected_cb",
            "closed_cb",
            "discovered_server_cb",
            "reconnected_cb",
            "lame_duck_mode_cb",
            "reconnect_to_server_handler",
        ],
        print,
    ),
}


def told(options: dict[str, Any]) -> list[str]:
    settings = {"nats_subject_id": "id", "nats_options": options}
    return [text for _, text in _native.Emitter(settings).notices()]


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_argument_with_its_default_says_nothing(name: str) -> None:
    assert told({name: ARGUMENTS[name]}) == []
    assert told({name: None}) == []


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_argument_is_known(name: str) -> None:
    for value in (object(), print, [object()]):
        lines = told({name: value})
        assert not any("no such" in line or "did you mean" in line or "called" in line for line in lines)
    table = re.search(r"<!-- options of nats-py.*?<!-- end -->", UPGRADING.read_text(), re.DOTALL)
    assert table is not None
    assert f"\n| `{name}` | " in table.group()


def test_the_table_has_nothing_else() -> None:
    named = re.findall(r"^\| `(\w+)` \| (taken|without|\*\*refused)", UPGRADING.read_text(), re.MULTILINE)
    assert {name for name, _ in named} == set(ARGUMENTS)
    assert {name for name, what in named if what == "**refused"} == CANNOT_BE
    assert {name for name, what in named if what == "without"} == set(ASKING)


@pytest.mark.parametrize("name", ASKING)
def test_what_has_no_effect_is_said(name: str) -> None:
    (line,) = told({name: ASKING[name]})
    assert line.startswith(f"nats_options.{name}: has no effect here: ")


@pytest.mark.parametrize("name", sorted(CANNOT_BE))
def test_what_cannot_be_is_refused(name: str) -> None:
    (line,) = told({name: print})
    assert line.startswith(f"nats_options.{name}: expected ")
    assert line.endswith("; nothing is published")


def deliver(server: Server, bus: Bus, **options: Any) -> None:
    """A run with these options arrives."""
    run = config(server.url, None, **options)
    event_handler(run, event(0))
    status_handler(run, {"status": "successful"})
    bus.wait_for_end()


def test_functions_that_give_credentials(
    start_server: Callable[..., Server], connect: Callable[..., Bus]
) -> None:
    users = "authorization { users: [ {user: me, password: p}, {user: tester, password: t} ] }"
    server = start_server(config=users, credentials={"user": "tester", "password": "t"})
    bus = connect(server).subscribe()
    deliver(server, bus, user=lambda: "me", password=lambda: "p")


def test_a_function_that_gives_a_token(
    start_server: Callable[..., Server], connect: Callable[..., Bus]
) -> None:
    server = start_server(config="authorization { token: secret }", credentials={"token": "secret"})
    bus = connect(server).subscribe()
    calls = []

    def token() -> str:
        calls.append(1)
        return "secret"

    deliver(server, bus, token=token)
    assert calls == [1]


def failing() -> str:
    message = "canary"
    raise RuntimeError(message)


@pytest.mark.parametrize("name", ["user", "password", "token"])
@pytest.mark.parametrize("give", [failing, lambda: ["canary"], lambda needed: needed, lambda: {"canary": 1}])
def test_a_function_that_gives_no_text(name: str, give: Any) -> None:
    lines = told({"user": "u", "password": "p", name: give})
    assert len(lines) >= 1
    assert lines[0].endswith("; nothing is published")
    # A user's name is no secret.
    assert name == "user" or not any("canary" in line for line in lines)


def altered(creds: str) -> dict[str, bytes]:
    """The same credentials as people's templates, editors and secret stores leave them."""
    return {
        "as it is": creds.encode(),
        "no newline at the end": creds.rstrip("\n").encode(),
        "CRLF": creds.replace("\n", "\r\n").encode(),
        "CRLF, none at the end": creds.replace("\n", "\r\n").rstrip().encode(),
        "a byte order mark": b"\xef\xbb\xbf" + creds.encode(),
        "blanks": "".join(f"  {line} \n" for line in creds.splitlines()).encode(),
        "empty lines": ("\n\n" + creds.replace("\n", "\n\n")).encode(),
        "advice": (creds + "\n*** IMPORTANT: this is a secret ***\n").encode(),
    }


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def guarded(
    authority: Authority,
    start_server: Callable[..., Server],
    connect: Callable[..., Bus],
    tmp_path: Path,
) -> tuple[Server, Bus]:
    own = tmp_path / "tester.creds"
    own.write_text(authority.creds("tester"))
    server = start_server(config=authority.server_config(), credentials={"user_credentials": str(own)})
    return server, connect(server).subscribe()


@pytest.mark.parametrize("how", altered(""))
def test_creds_as_people_have_them(
    authority: Authority, guarded: tuple[Server, Bus], tmp_path: Path, how: str
) -> None:
    creds = tmp_path / "me.creds"
    creds.write_bytes(altered(authority.creds("me"))[how])
    deliver(*guarded, user_credentials=creds)


@pytest.mark.parametrize("is_decorated", [True, False])
def test_two_files(
    authority: Authority,
    guarded: tuple[Server, Bus],
    tmp_path: Path,
    is_decorated: bool,  # noqa: FBT001
) -> None:
    lines = authority.creds("me").splitlines()
    jwt, seed = tmp_path / "me.jwt", tmp_path / "me.nk"
    jwt.write_text("\n".join(lines[:3]) if is_decorated else lines[1])
    seed.write_text("\n".join(lines[4:]) if is_decorated else lines[5])
    deliver(*guarded, user_credentials=(str(jwt), seed))


@pytest.mark.parametrize("kind", [str, RawCredentials])
def test_the_content_itself(authority: Authority, guarded: tuple[Server, Bus], kind: Any) -> None:
    deliver(*guarded, user_credentials=kind(authority.creds("me")))


def test_an_inbox_in_bytes(server: Server, bus: Bus) -> None:
    bus.subscribe("mine.>")
    deliver(server, bus, inbox_prefix=b"mine")
    assert any(message.subject.startswith("mine.") for message in bus.received)
