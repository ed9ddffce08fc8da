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
from hypothesis import given as given_
from hypothesis import settings
from hypothesis import strategies as st
from jwt_auth import Authority, Key
from support import PATIENCE, QUICK, Job, body, cli, command, free_port, python

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nats.aio.msg import Msg
    from support import Bus, Server

#: Must be seen nowhere. With what has to be escaped in URLs, in JSON and in Python.
CANARY = "canary\"kolibri'ö/@:#?%"
IN_URL = "canary%22kolibri%27%C3%B6%2F%40%3A%23%3F%25"
SEED = Key(nkeys.PREFIX_BYTE_USER)
TESTER = '{user: "tester", password: "t"}'

#: Pieces of any of the above that would be a leak. No digits: addresses and nonces have them by chance.
TELLTALES = ["canary", "kolibri", SEED.seed.decode()]


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
    # What does not get there in time is kept in a file: not what this is about.
    done = run(server.url, tmp_path, form, authority, {"flush_timeout": PATIENCE})
    more = in_file(tmp_path)
    no_canary(done.stdout + done.stderr, more)
    assert "connected to" in done.stderr
    messages = bus.wait_for_end()
    check_messages(messages, more)
    assert "/" in body(messages[0])["env"]["PATH"]
    said = body(messages[1])["stdout"]
    assert said.startswith("the job says ***")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("failure", ["refused", "nobody there", "panic", "no disk"])
def test_failure(tmp_path: Path, start_server: Callable[..., Server], form: str, failure: str) -> None:
    authority = Authority()
    url = f"nats://127.0.0.1:{free_port()}"
    # Long enough to find out what is wrong, on a busy machine too.
    more: dict[str, Any] = {"flush_timeout": 2 if failure in {"refused", "nobody there"} else 0.3}
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
    assert starting["command"][-1] == "play.yml"
    assert ("password=canary" in starting["command"]) == (mode == "full")
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
    # What the run was given is masked whatever prints it.
    assert told[0]["event_data"]["res"]["msg"] == "*** ***"


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


#: What must not be seen of a command line, with what makes parsing hard.
HARD = "x7-canary"

#: A command line in all the forms in which ansible takes variables; what must stay readable of it.
COMMAND_LINES = {
    f"-e db_password={HARD}": ["-e", "db_password=***"],
    f"-edb_password={HARD}": ["-edb_password=***"],
    f"--extra-vars api_token={HARD}": ["--extra-vars", "api_token=***"],
    f"--extra-vars=api_token={HARD}": ["--extra-vars=api_token=***"],
    f"""-e 'user=joe db_password="a {HARD}" port=1'""": ["-e", "user=joe db_password=*** port=1"],
    f"""-e '{{"db_password": "{HARD}", "nested": {{"api_token": "{HARD}", "port": 1}}}}'""": [
        "-e",
        '{"db_password": "***", "nested": {"api_token": "***", "port": 1}}',
    ],
    f"-e '{{db_password: {HARD}, user: joe}}'": ["-e", '{db_password: "***", user: joe}'],
    f"-e url=postgres://u:{HARD}@db/d -e user=joe": ["-e", "url=postgres://***@db/d", "-e", "user=joe"],
    f"-e 'dsn=u:{HARD}@tcp(db)/d' -vv": ["-e", "dsn=***", "-vv"],
    f"-e 'db=u:{HARD}@tcp(db)/d' -vv": ["-e", "db=u:***@tcp(db)/d", "-vv"],
    f"-e 'c=\"Server=h;pwd={HARD};Database=d\"'": ["-e", "c='Server=h;pwd=***'"],
    f"-e ansible_become_pass={HARD} --diff": ["-e", "ansible_become_pass=***", "--diff"],
    "--private-key /k --ask-vault-pass --vault-password-file=/v": [
        "--private-key",
        "/k",
        "--ask-vault-pass",
        "--vault-password-file=/v",
    ],
    f"--vault-password={HARD} --become-password-file /b": [
        "--vault-password=***",
        "--become-password-file",
        "/b",
    ],
    f"--vault-pass {HARD} --check": ["--vault-pass", "***", "--check"],
    "-e @vars.yml --ssh-common-args='-o StrictHostKeyChecking=no'": [
        "-e",
        "@vars.yml",
        "--ssh-common-args=-o StrictHostKeyChecking=no",
    ],
}


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_secrets_of_a_command_line(tmp_path: Path, line: str) -> None:
    """The live walk, and the text and the list that ansible-runner may hand over."""
    expected = COMMAND_LINES[line]
    words = ["ansible-playbook", *shlex.split(line), "play.yml"]
    for number, given in enumerate([words, tuple(words), [word.encode() for word in words]]):
        assert starting(folder_of(tmp_path, number), {}, {"command": given})["command"] == [
            "ansible-playbook",
            *expected,
            "play.yml",
        ]
    told = starting(folder_of(tmp_path, 3), {}, {"command": shlex.join(words)})["command"]
    assert HARD not in told
    assert shlex.split(told) == ["ansible-playbook", *expected, "play.yml"]
    # As ansible-runner has it with a key for ssh.
    script = [
        "ssh-agent",
        "sh",
        "-c",
        "trap 'rm -f /k' EXIT && ssh-add /k && rm -f /k && " + shlex.join(words),
    ]
    told = starting(folder_of(tmp_path, 4), {}, {"command": script})["command"][3]
    assert HARD not in told
    assert shlex.split(told)[-len(expected) - 1 : -1] == expected
    full = starting(folder_of(tmp_path, 5), {"status_env": "full"}, {"command": words})
    assert full["command"] == words
    omit = starting(folder_of(tmp_path, 6), {"status_env": "omit"}, {"command": words, "env": {}})
    assert (omit["command"][1:-1], "env" in omit) == (expected, False)


def folder_of(tmp_path: Path, number: int) -> Path:
    folder = tmp_path / str(number)
    folder.mkdir()
    return folder


def test_the_command_lines_of_real_jobs(server: Server, bus: Bus, tmp_path: Path) -> None:
    """What ansible-runner makes of its own arguments, and what a subscriber gets."""
    extra = {"db_password": f"{HARD} {{x}}", "nested": {"api_token": HARD, "port": 1}, "user": "joe"}
    line = f'-e "mysql_pwd={HARD} port=2" --extra-vars {shlex.quote(json.dumps(extra))} --diff'
    code = """
import ansible_runner
common = {'private_data_dir': FOLDER, 'settings': SETTINGS, 'quiet': True}
run = ansible_runner.run(playbook='play.yml', extravars={'token': HARD}, cmdline=LINE, ident='a', **common)
assert run.status == 'successful'
args = f'msg="user=joe password={HARD}"'
run = ansible_runner.run(module='debug', host_pattern='one', module_args=args, ident='b', **common)
assert run.status == 'successful'
"""
    ours = {"nats_subject_id": "id", "nats_options": {**QUICK, "servers": server.url}}
    job = Job(tmp_path / "job", ours)
    for name, value in {"FOLDER": str(job.folder), "SETTINGS": ours, "LINE": line, "HARD": HARD}.items():
        code = code.replace(name, repr(value))
    code = code.replace(f"{{{HARD!r}}}", HARD)
    done = python(code)
    assert (done.returncode, done.stderr) == (0, "")
    messages = bus.wait_for_end(2)
    statuses = [message for message in messages if message.subject.endswith(".status")]
    assert HARD not in "".join(message.data.decode() for message in statuses)
    commands = [body(message)["command"] for message in statuses if body(message)["status"] == "starting"]
    playbook, module = commands
    assert playbook[0] == "ansible-playbook"
    assert playbook[playbook.index("-e") + 1] == "mysql_pwd=*** port=2"
    shown = {"db_password": "***", "nested": {"api_token": "***", "port": 1}, "user": "joe"}
    assert json.loads(playbook[playbook.index("--extra-vars") + 1]) == shown
    assert any(argument.startswith("@") for argument in playbook)
    assert playbook[-1] == "play.yml"
    assert module[-2:] == ["msg='user=joe password=***'", "one"]


SECRETS_OF_ENV = {
    **dict.fromkeys(["GH_PAT", "PAT", "PHP_SESSION", "SENTRY_DSN", "MY_COOKIE"], HARD),
    "CONNECTION": f"Server=db;User Id=sa;Password={HARD};",
    "ODBC": f"DRIVER=x;PWD={HARD}",
    "LIBPQ": f"host=h password={HARD} dbname=d",
    "MYSQL": f"u:{HARD}@tcp(127.0.0.1:3306)/db",
    "CONFIG": json.dumps({"db": {"password": HARD}}),
}

NO_SECRETS = {
    "PATH": "/usr/bin:/opt/python@3.11/bin:/bin",
    "PATTERN": "*.yml",
    "SESSION_MANAGER": "local/h:@/tmp/.ICE-unix/1,unix/h:/tmp/.ICE-unix/1",
    "XDG_SESSION_ID": "1",
    "XDG_SESSION_TYPE": "tty",
    "DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/user/1000/bus",
    "DESKTOP_SESSION": "x",
    "ANSIBLE_SSH_ARGS": "-o StrictHostKeyChecking=no -o PasswordAuthentication=no",
    "LS_COLORS": "rs=0:di=01;34",
    "IMAGE": "registry.example.org/ee:1.0@sha256:abc",
}


def test_secrets_of_the_environment(tmp_path: Path) -> None:
    status = starting(tmp_path, {}, {"command": [], "env": {**SECRETS_OF_ENV, **NO_SECRETS}})
    assert status["env"] == {**dict.fromkeys(SECRETS_OF_ENV, "***"), **NO_SECRETS}


def test_any_command_line(tmp_path: Path) -> None:
    """Secrets of any kind, in each form, and whatever ansible-runner could hand over: in one process."""
    code = STATUS.replace("OPTIONS", "{}").replace("FOLDER", repr(str(tmp_path)))
    code = code.replace("**MORE", "'command': json.loads(os.environ['COMMAND'])")
    given: list[Any] = []

    @settings(max_examples=300, deadline=None)
    @given_(secrets(), st.sampled_from(FORMS_OF_VARIABLES))
    def collect(secret: str, form: Callable[[str], list[str]]) -> None:
        given.append((secret, form(secret)))

    collect()
    lines = [*(command for _, command in given), *ODD]
    done = python("import json, os\n" + code, env={"COMMAND": json.dumps(lines)})
    assert done.returncode == 0, done.stderr
    line = (tmp_path / "nats-undelivered.jsonl").read_text().splitlines()[0]
    told = json.loads(json.loads(line)["payload"])["command"]
    assert len(told) == len(lines)
    for (secret, arguments), redacted in zip(given, told):
        text = json.dumps(redacted, ensure_ascii=False)
        assert secret not in text, arguments
        assert "***" in text, arguments


def secrets() -> st.SearchStrategy[str]:
    """Long enough not to be part of a name by chance."""
    letters = st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="*")
    return st.text(letters, min_size=3, max_size=12).map(lambda text: f"q7{text}7q")


def escaped(secret: str) -> str:
    r"""As ansible wants it between quotes."""
    return secret.replace("\\", "\\\\").replace('"', '\\"')


FORMS_OF_VARIABLES: list[Callable[[str], list[str]]] = [
    lambda secret: ["-e", f'user=joe db_password="{escaped(secret)}" port=1'],
    lambda secret: [
        "-e",
        json.dumps({"user": "joe", "db_password": secret, "port": [1, {"api_token": secret}]}),
    ],
    lambda secret: [f"--extra-vars={json.dumps({'db_password': secret}, ensure_ascii=False)}"],
    lambda secret: ["-e", f"db_password={shlex.quote(secret)}"],
    lambda secret: ["-e", f"db_password={secret}"],
    lambda secret: [f"--vault-password={secret}", "play.yml"],
    lambda secret: ["--vault-password", secret, "play.yml"],
    lambda secret: ["-e", "{db_password: '" + secret.replace("'", "''") + "', user: joe}"],
    lambda secret: ["sh", "-c", shlex.join(["ansible-playbook", "-e", f"db_password={shlex.quote(secret)}"])],
    lambda secret: ["sh", "-c", shlex.join(["ansible-playbook", "-e", json.dumps({"db_password": secret})])],
    lambda secret: ["sh", "-c", shlex.join(["ansible-playbook", f"--vault-pass={secret}", "play.yml"])],
]

#: Whatever else a list may hold.
ODD: list[Any] = [
    None,
    1,
    1.5,
    True,
    [],
    {},
    [[["--password", None]]],
    "'",
    '"',
    "{{",
    "{",
    "\\",
    "=",
    "-",
    "--",
    "-e",
    "",
]


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


def test_replay_masks_as_the_live_run_does(server: Server, bus: Bus, tmp_path: Path) -> None:
    """Two walks, over Python's objects and over JSON: one result."""
    words = [word for line in COMMAND_LINES for word in shlex.split(line)]
    more = {"command": [*words, *ODD], "cwd": "/", "env": {**SECRETS_OF_ENV, **NO_SECRETS}}
    folder = tmp_path / "job/artifacts/r"
    (folder / "job_events").mkdir(parents=True)
    (folder / "command").write_text(json.dumps(more))
    (folder / "status").write_text("failed")
    live = starting(folder_of(tmp_path, 0), {"user": "u", "password": "port=1"}, more)
    env = {
        "RUNNER_NATS_SUBJECT_ID": "id", "RUNNER_NATS_SERVERS": server.url,
        "RUNNER_NATS_USERNAME": "u", "RUNNER_NATS_PASSWORD": "port=1",
    }  # fmt: skip
    done = command("replay", folder, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    replayed = body(bus.wait_for_end()[0])
    assert (replayed["command"], replayed["env"]) == (live["command"], live["env"])
    assert HARD not in json.dumps(replayed)
    assert "port=1" not in json.dumps(replayed)
