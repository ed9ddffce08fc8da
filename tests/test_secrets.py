"""No credential of ours anywhere, and no secret of the environment in a status."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import nkeys
import pytest
from hostile_server import HostileServer, after_connect
from jwt_auth import Authority, Key
from support import QUICK, Job, body, cli, free_port, python

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nats.aio.msg import Msg
    from support import Bus, Server

#: Must be seen nowhere. With what has to be escaped in URLs, in JSON and in Python.
CANARY = "canary\"4711'ö/@:#?%"
IN_URL = "canary%224711%27%C3%B6%2F%40%3A%23%3F%25"
SEED = Key(nkeys.PREFIX_BYTE_USER)
TESTER = '{user: "tester", password: "t"}'

#: Pieces of any of the above that would be a leak.
TELLTALES = ["canary", "4711", SEED.seed.decode()]


def quoted(text: str) -> str:
    """A string of nats-server's configuration, which knows no other escapes of JSON."""
    return json.dumps(text, ensure_ascii=False)


def server_config(form: str, authority: Authority) -> str:
    if form.startswith("creds"):
        return authority.server_config()
    users = {
        "token": f"token: {quoted(CANARY)}",
        "seed": f'users: [ {{nkey: "{SEED.public}"}}, {TESTER} ]',
    }
    user = f'{{user: "me", password: {quoted(CANARY)}}}'
    return f"authorization {{ {users.get(form.split(maxsplit=1)[0], f'users: [ {user}, {TESTER} ]')} }}"


def forms(url: str, folder: Path, authority: Authority) -> dict[str, tuple[dict[str, str], dict[str, Any]]]:
    """Each way to give a credential: environment and ``nats_options``."""
    host = url.removeprefix("nats://")
    seed_file, creds_file = folder / "seed", folder / "creds"
    seed_file.write_bytes(SEED.seed)
    creds_file.write_text(authority.creds("me"))
    return {
        "password": ({"RUNNER_NATS_USERNAME": "me", "RUNNER_NATS_PASSWORD": CANARY}, {}),
        "password in settings": ({}, {"user": "me", "password": CANARY}),
        "token": ({"RUNNER_NATS_TOKEN": CANARY}, {}),
        "token in settings": ({}, {"token": CANARY}),
        "url with password": ({"RUNNER_NATS_SERVERS": f"nats://me:{IN_URL}@{host}"}, {}),
        "url in settings": ({}, {"servers": [f"nats://me:{IN_URL}@{host}"]}),
        "token in url": ({"RUNNER_NATS_SERVERS": f"nats://{IN_URL}@{host}"}, {}),
        "seed": ({"RUNNER_NATS_NKEYS_SEED": SEED.seed.decode()}, {}),
        "seed in settings": ({}, {"nkeys_seed_str": SEED.seed.decode()}),
        "seed file": ({"RUNNER_NATS_NKEYS_SEED": str(seed_file)}, {}),
        "creds file": ({"RUNNER_NATS_USER_CREDENTIALS": str(creds_file)}, {}),
    }


FORMS = list(forms("nats://h:1", Path(os.devnull).parent / "shm", Authority()))

RUN = """
import logging, os, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
from ansible_runner_nats import event_handler, handlers, status_handler
secrets = SECRETS
settings = {'nats_subject_id': 'id', 'nats_options': OPTIONS}
class Config: pass
config = Config()
vars(config).update(settings=settings, ident='r', artifact_dir=FOLDER)
command = ['ansible-playbook', '-e', *[f'a={secret}' for secret in secrets], *secrets]
env = {**os.environ, **{f'V{n}': f'<{secret}>' for n, secret in enumerate(secrets)}}
more = {'command': command, 'env': env, 'cwd': '/'}
status_handler(config, {'status': 'starting', 'runner_ident': 'r', **more})
print(handlers._emitters, file=sys.stderr)
event_handler(config, {'counter': 1, 'uuid': 'u', 'stdout': 'the job says ' + ' '.join(secrets)})
status_handler(config, {'status': 'failed', 'runner_ident': 'r'})
"""


def run(url: str, folder: Path, form: str, authority: Authority, more: dict[str, Any] | None = None) -> Any:
    env, options = forms(url, folder, authority)[form]
    secrets = [CANARY, IN_URL]
    if form.startswith("seed"):
        secrets = [SEED.seed.decode()]
    elif form.startswith("creds"):
        secrets = in_file(folder)
    options = {"servers": url, "verbose": True, **QUICK, **(more or {}), **options}
    code = RUN.replace("OPTIONS", repr(options)).replace("FOLDER", repr(str(folder / "artifacts")))
    done = python(code.replace("SECRETS", repr(secrets)), env={**env, **(more or {}).get("env", {})})
    assert done.returncode == 0, done.stderr
    return done


def in_file(folder: Path) -> list[str]:
    """The JWT and the seed of the credentials file."""
    lines = (folder / "creds").read_text().splitlines()
    secrets = [line for line in lines if len(line) > 40 and " " not in line]
    assert len(secrets) == 2
    return secrets


def no_canary(text: str, more: Iterable[str] = ()) -> None:
    assert [telltale for telltale in [*TELLTALES, *more] if telltale in text] == []


def check_messages(messages: list[Msg], more: Iterable[str]) -> None:
    """The job's own events say what the job said; nothing else does."""
    for message in messages:
        no_canary(message.subject + str(message.headers), more)
        if message.subject.endswith(".status"):
            no_canary(message.data.decode(), more)


def check_files(folder: Path, more: Iterable[str]) -> int:
    lines = [
        json.loads(line) for path in folder.rglob("nats-*.jsonl") for line in path.read_text().splitlines()
    ]
    no_canary(str([path.name for path in folder.rglob("*")]), more)
    for line in lines:
        no_canary(line["subject"] + str(line["headers"]), more)
        if line["subject"].endswith(".status"):
            no_canary(line["payload"], more)
    return len(lines)


@pytest.mark.parametrize("form", FORMS)
def test_success(
    tmp_path: Path, start_server: Callable[..., Server], connect: Callable[..., Bus], form: str
) -> None:
    authority = Authority()
    own = tmp_path / "tester.creds"
    own.write_text(authority.creds("tester"))
    credentials: dict[str, Any] = {"user": "tester", "password": "t"}
    if form.startswith("token"):
        credentials = {"token": CANARY}
    elif form.startswith("creds"):
        credentials = {"user_credentials": str(own)}
    server = start_server(config=server_config(form, authority), credentials=credentials)
    bus = connect(server).subscribe()
    done = run(server.url, tmp_path, form, authority)
    more = in_file(tmp_path)
    no_canary(done.stdout + done.stderr, more)
    assert "connected to" in done.stderr
    messages = bus.wait_for_end()
    check_messages(messages, more)
    assert "/" in body(messages[0])["env"]["PATH"]
    said = body(messages[1])["stdout"]
    assert said.startswith("the job says ")
    assert any(telltale in said for telltale in [*TELLTALES, *more])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("failure", ["refused", "nobody there", "panic", "no disk"])
def test_failure(tmp_path: Path, start_server: Callable[..., Server], form: str, failure: str) -> None:
    authority = Authority()
    url = f"nats://127.0.0.1:{free_port()}"
    more: dict[str, Any] = {"flush_timeout": 0.3}
    if failure == "refused":
        url = start_server(config='authorization { users: [ {user: "else", password: "x"} ] }').url
    elif failure == "panic":
        more["env"] = {"ANSIBLE_RUNNER_NATS_FAULT": "emitter.publish=panic", "RUST_BACKTRACE": "full"}
    elif failure == "no disk":
        more["spill_dir"] = "/dev/null/nothing"
        # What takes its place is no directory, either.
        (tmp_path / "artifacts").touch()
    done = run(url, tmp_path, form, authority, more)
    no_canary(done.stdout + done.stderr, in_file(tmp_path))
    kept = check_files(tmp_path / "artifacts", in_file(tmp_path))
    assert kept == (3 if failure in {"refused", "nobody there"} else 0)
    expected = {
        "refused": "the server refused the credentials",
        "nobody there": "Connection refused",
        "panic": "internal error in the native library at src/fault.rs",
        "no disk": "LOST",
    }
    assert expected[failure] in done.stderr


PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - name: tell
      ansible.builtin.debug:
        msg: "{{ lookup('env', 'RUNNER_NATS_PASSWORD') }} {{ lookup('env', 'MY_API_KEY') }}"
"""


@pytest.mark.parametrize("mode", ["", "redact", "omit", "full"])
def test_a_real_job(
    tmp_path: Path, start_server: Callable[..., Server], connect: Callable[..., Bus], mode: str
) -> None:
    config = f'authorization {{ users: [ {{user: "me", password: {quoted(CANARY)}}}, {TESTER} ] }}'
    server = start_server(config=config, credentials={"user": "tester", "password": "t"})
    bus = connect(server).subscribe()
    job = Job(tmp_path / "job", {"nats_options": QUICK}, PLAYBOOK)
    (job.folder / "env/envvars").write_text(json.dumps({"RUNNER_NATS_TOKEN": "another-canary"}))
    env = {
        "RUNNER_NATS_SUBJECT_ID": "id",
        "RUNNER_NATS_SERVERS": server.url,
        "RUNNER_NATS_USERNAME": "me",
        "RUNNER_NATS_PASSWORD": CANARY,
        "RUNNER_NATS_STATUS_ENV": mode,
        "MY_API_KEY": "key-of-the-job",
        "DATABASE": "postgres://u:key-of-the-job@h/d",
        "COPY": f"{CANARY} again",
        "ANSIBLE_HOST_KEY_CHECKING": "False",
    }
    done = cli("run", job.folder, "-p", "play.yml", "--cmdline", "-e password=canary", env=env)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    messages = bus.wait_for_end()
    starting = body(messages[0])
    assert starting["status"] == "starting"
    text = messages[0].data.decode()
    # The command is the user's own; only what is a credential of ours is masked in it.
    assert starting["command"][-1] == "play.yml"
    assert CANARY not in text
    assert json.dumps(CANARY)[1:-1] not in text
    assert "another-canary" not in text
    if mode == "omit":
        assert "env" not in starting
    else:
        assert starting["env"]["RUNNER_NATS_PASSWORD"] == starting["env"]["RUNNER_NATS_TOKEN"] == "***"
        assert starting["env"]["RUNNER_NATS_USERNAME"] == "me"
        assert starting["env"]["COPY"] == "*** again"
        assert starting["env"]["ANSIBLE_HOST_KEY_CHECKING"] == "False"
        assert ("key-of-the-job" in text) == (mode == "full")
        assert starting["env"]["MY_API_KEY"] == ("key-of-the-job" if mode == "full" else "***")
    told = [body(message) for message in messages if "runner_on_ok" in message.data.decode()]
    assert told[0]["event_data"]["res"]["msg"] == f"{CANARY} key-of-the-job"


@pytest.mark.parametrize("short", ["running", "ab", "starting"])
def test_a_password_that_is_a_word(
    start_server: Callable[..., Server], connect: Callable[..., Bus], short: str
) -> None:
    """What a status says stays true, and two letters do not eat up every text."""
    server = start_server(
        config=f'authorization {{ users: [ {{user: "me", password: "{short}"}}, {TESTER} ] }}',
        credentials={"user": "tester", "password": "t"},
    )
    bus = connect(server).subscribe()
    options = {"servers": server.url, "user": "me", "password": short}
    code = f"""
import types
from ansible_runner_nats import status_handler
config = types.SimpleNamespace(settings={{'nats_subject_id': 'id', 'nats_options': {options!r}}})
data = {{'runner_ident': {short!r}, 'command': ['cab', {short!r}], 'env': {{}}, 'cwd': '/'}}
for status in ('starting', 'running', 'successful'):
    status_handler(config, {{'status': status, **data}})
"""
    assert python(code).returncode == 0
    messages = [body(message) for message in bus.wait_for_end()]
    assert [message["status"] for message in messages] == ["starting", "running", "successful"]
    assert messages[0]["runner_ident"] == short
    assert messages[0]["command"] == ["cab", "***"]


@pytest.mark.parametrize("form", ["password", "token in url", "seed file", "creds file"])
def test_a_refusal_that_repeats_what_we_said(tmp_path: Path, form: str) -> None:
    """A server may say what we told it."""
    with HostileServer(after_connect(lambda connect: b"-ERR 'wrong: " + connect + b"'\r\n")) as server:
        done = run(server.url, tmp_path, form, Authority())
    assert "wrong: " in done.stderr
    no_canary(done.stderr, in_file(tmp_path))


STATUS = """
import types
from ansible_runner_nats import status_handler
options = {'servers': 'nats://127.0.0.1:1', 'flush_timeout': 0, **OPTIONS}
config = types.SimpleNamespace(
    settings={'nats_subject_id': 'id', 'nats_options': options}, ident='r', artifact_dir=FOLDER)
status_handler(config, {'status': 'starting', 'runner_ident': 'r', 'cwd': '/', **MORE})
status_handler(config, {'status': 'failed', 'runner_ident': 'r'})
"""


def starting(folder: Path, options: dict[str, Any], more: object) -> dict[str, Any]:
    """What a status `starting` becomes; of ``more`` counts what ``repr`` says."""
    code = STATUS.replace("OPTIONS", repr(options)).replace("FOLDER", repr(str(folder)))
    done = python(code.replace("MORE", repr(more)))
    assert done.returncode == 0, done.stderr
    line = (folder / "nats-undelivered.jsonl").read_text().splitlines()[0]
    status: dict[str, Any] = json.loads(json.loads(line)["payload"])
    return status


def test_no_key_switches_the_masks_off(tmp_path: Path) -> None:
    """serde_json takes an object with this key for a number, if it is told to keep numbers exact."""
    magic = "$serde_json::private::Number"
    more = {"env": {magic: "x", "DB_PASSWORD": "secret-1"}, "command": [{magic: "1"}, "my secret-2"]}
    status = starting(tmp_path, {"user": "u", "password": "secret-2"}, more)
    assert status["env"] == {magic: "***", "DB_PASSWORD": "***"}
    assert status["command"] == [{magic: "1"}, "my ***"]


@pytest.mark.parametrize(
    "spelled",
    [
        "geheim-ö'x y/z",
        json.dumps("geheim-ö'x y/z"),
        quote("geheim-ö'x y/z"),
        quote("geheim-ö'x y/z", safe=""),
        shlex.quote("geheim-ö'x y/z"),
        "geheim-ö'x y/z".encode(),
    ],
    ids=["plain", "json", "path", "url", "shell", "bytes"],
)
def test_other_spellings(tmp_path: Path, spelled: str | bytes) -> None:
    options = {"user": "u", "password": "geheim-ö'x y/z"}
    check_hidden(starting(tmp_path, options, {"command": [spelled], "env": {"A": spelled}}))


class Long:
    """In short, for a command line that has its limits."""

    def __repr__(self) -> str:
        return """{'command': ["geheim-ö'x y/z" * 100_000], 'env': {'A': '€' * 300_000 + "geheim-ö'x y/z"}}"""


def test_in_a_long_text(tmp_path: Path) -> None:
    check_hidden(starting(tmp_path, {"user": "u", "password": "geheim-ö'x y/z"}, Long()))


def check_hidden(status: dict[str, Any]) -> None:
    for text in (status["command"][0], status["env"]["A"]):
        assert "***" in text
        assert "geheim" not in text


def test_a_server_without_a_scheme(tmp_path: Path) -> None:
    env = {"RUNNER_NATS_SERVERS": "me:other-secret@h", "PLAIN": "me@h"}
    assert starting(tmp_path, {"status_env": "full"}, {"env": env})["env"] == {
        "RUNNER_NATS_SERVERS": "***",
        "PLAIN": "me@h",
    }


def test_a_number_that_is_a_password(tmp_path: Path) -> None:
    status = starting(
        tmp_path, {"user": "u", "password": "4711"}, {"env": {"A": 4711, "B": 47110}, "command": [4711.0]}
    )
    assert status["env"] == {"A": "***", "B": 47110}
    assert status["command"] == [4711.0]
