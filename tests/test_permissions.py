"""docs/permissions.md: each kind of user can do its own work, and not that of the others.

What is tried is what the page says: its blocks are the server's configuration, its `nsc` lines become JWTs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nkeys
import pytest
from jwt_auth import UNLIMITED, Key
from serving import Serve
from support import RUN_OF_ONE_EVENT, Bus, Job, Server, clean_env, cli, command, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (Path(__file__).parent.parent / "docs/permissions.md").read_text()
BLOCKS = re.findall(r"```conf\n(.*?)```", PAGE, re.DOTALL)
KINDS = ("publisher", "watcher", "tenant", "keeper", "consumer")
#: Somebody who may do everything, whom the page does not have.
ROOT = "root"
PASSWORDS = {**dict(re.findall(r'user: (\w+), password: "([^"]+)"', PAGE)), ROOT: ROOT}
PREFIX, TENANTS_PREFIX = re.findall(r"export RUNNER_NATS_INBOX_PREFIX=(\S+)", PAGE)
#: Who has an inbox of their own.
PREFIXES = {"publisher": PREFIX, "tenant": TENANTS_PREFIX}
OURS, THEIRS = "pub.ansible.runner.site-a.x.event", "pub.ansible.runner.site-b.x.event"
IDENT = "rollout-1"
[DURABLE] = set(re.findall(r"CONSUMER\.MSG\.NEXT\.RUNS\.([\w-]+)", PAGE))


class Place:
    """A server with the page's users, and what each of them needs to get in."""

    def __init__(self, folder: Path, config: str) -> None:
        self.folder = folder
        self.server = Server(folder / "nats", jetstream=True, config=config).start()

    def env(self, kind: str) -> dict[str, str]:
        """What a user sets, as variables."""
        inbox = {"RUNNER_NATS_INBOX_PREFIX": PREFIXES[kind]} if kind in PREFIXES else {}
        return {
            "RUNNER_NATS_SERVERS": self.server.url,
            "RUNNER_NATS_SUBJECT_ID": "site-a",
            "RUNNER_NATS_CONNECT_TIMEOUT": "5",
            **inbox,
            **self.login(kind),
        }

    def login(self, kind: str) -> dict[str, str]:
        return {"RUNNER_NATS_USERNAME": kind, "RUNNER_NATS_PASSWORD": PASSWORDS[kind]}

    def bus(self, kind: str, **options: Any) -> Bus:
        return Bus(self.server.url, user=kind, password=PASSWORDS[kind], **inbox_of(kind), **options)

    def does(self, kind: str, *args: str | Path) -> subprocess.CompletedProcess[str]:
        """Our own command, by a user of this kind."""
        return command(*args, env=self.env(kind))

    def run_job(self, ident: str = IDENT) -> Job:
        job = Job(self.folder / "job")
        done = cli("run", job.folder, "-p", "play.yml", "--ident", ident, env=self.env("publisher"))
        assert (done.returncode, done.stderr) == (0, "")
        return job

    def record(self) -> Any:
        return json.loads((self.folder / f"job/artifacts/{IDENT}/nats-run.json").read_text())


class SignedPlace(Place):
    """The same in operator mode, with the users of the `nsc` lines."""

    def __init__(self, folder: Path) -> None:
        operator, self.account, system = (
            Key(nkeys.PREFIX_BYTE_OPERATOR), Key(nkeys.PREFIX_BYTE_ACCOUNT), Key(nkeys.PREFIX_BYTE_ACCOUNT),
        )  # fmt: skip
        jetstream = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
        limits = {**UNLIMITED, **jetstream}
        jobs = operator.sign(self.account, "jobs", {"type": "account", "limits": limits})
        sys = operator.sign(system, "SYS", {"type": "account", "limits": UNLIMITED})
        own = operator.sign(operator, "operator", {"type": "operator"})
        root = argparse.Namespace(name=ROOT, allow_pub=[">"], deny_pub=[], allow_sub=[">"])
        self.creds = {user.name: self._write(folder, user) for user in [*users_of_the_nsc_lines(), root]}
        super().__init__(
            folder,
            f"operator: {own}\nresolver: MEMORY\nsystem_account: {system.public}\n"
            f"resolver_preload: {{ {self.account.public}: {jobs}, {system.public}: {sys} }}",
        )

    def _write(self, folder: Path, user: argparse.Namespace) -> str:
        key = Key(nkeys.PREFIX_BYTE_USER)
        allowed = {
            "pub": {"allow": listed(user.allow_pub), "deny": listed(user.deny_pub)},
            "sub": {"allow": listed(user.allow_sub)},
        }
        rights = {"type": "user", "subs": -1, "data": -1, "payload": -1, **allowed}
        path = folder / f"{user.name}.creds"
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{self.account.sign(key, user.name, rights)}\n"
            f"------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{key.seed.decode()}\n------END USER NKEY SEED------\n"
        )
        return str(path)

    def login(self, kind: str) -> dict[str, str]:
        return {"RUNNER_NATS_USER_CREDENTIALS": self.creds[kind]}

    def bus(self, kind: str, **options: Any) -> Bus:
        return Bus(self.server.url, user_credentials=self.creds[kind], **inbox_of(kind), **options)


def inbox_of(kind: str) -> dict[str, bytes]:
    """What a client of the tests has to be told."""
    return {"inbox_prefix": PREFIXES[kind].encode()} if kind in PREFIXES else {}


def users_of_the_nsc_lines() -> list[argparse.Namespace]:
    """What the page's `nsc add user` lines say."""
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--account", choices=["jobs"], required=True)
    parser.add_argument("--name", choices=KINDS, required=True)
    parser.add_argument("--allow-pub", action="append", required=True)
    parser.add_argument("--deny-pub", action="append", default=[])
    parser.add_argument("--allow-sub", action="append", required=True)
    lines = re.findall(r"^\$ nsc add user (.*)$", PAGE.replace("\\\n", " "), re.MULTILINE)
    return [parser.parse_args(shlex.split(line)) for line in lines]


def listed(values: list[str]) -> list[str]:
    return [subject for value in values for subject in value.split(",")]


def config_with(kind: str | None = None, old: str = "", new: str = "") -> str:
    """The page's configuration, with a change in the block of one kind of user."""
    blocks = list(BLOCKS)
    if kind is not None:
        number = KINDS.index(kind)
        assert blocks[number].count(old) == 1
        blocks[number] = blocks[number].replace(old, new)
    return "\n".join(blocks).replace("users: [\n", f"users: [\n{{ user: {ROOT}, password: {ROOT} }}\n")


@pytest.fixture(scope="module", params=["configuration", "nsc"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Where the keeper has made the stream, and the publisher has run a job."""
    folder = tmp_path_factory.mktemp(request.param)
    place = SignedPlace(folder) if request.param == "nsc" else Place(folder, config_with())
    try:
        made = place.does("keeper", "stream", "create")
        assert (made.returncode, made.stderr) == (0, "")
        place.run_job()
        yield place
    finally:
        place.server.kill()


def test_the_page_says_the_same_twice() -> None:
    """The blocks, and the lines for nsc."""
    users = {
        user.name: (listed(user.allow_pub), listed(user.deny_pub), listed(user.allow_sub))
        for user in users_of_the_nsc_lines()
    }
    assert list(users) == list(KINDS)
    for kind, block in zip(KINDS, BLOCKS):
        assert block.startswith(kind.upper())
        publish, subscribe = block.split("subscribe:")
        allow, _, deny = publish.partition("deny:")
        assert users[kind] == tuple(re.findall(r'"(.*?)"', part) for part in (allow, deny, subscribe))


def test_the_publisher(place: Place) -> None:
    record = place.record()
    assert record["stored"] == record["confirmed"] == record["accepted"] > 20
    assert (record["delivery"], record["problem"]) == ("jetstream", None)
    done = place.does("publisher", "check")
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("all is well\n")
    assert {line.split()[1] for line in done.stdout.splitlines() if line.startswith("note")} == {
        "TLS",
        "stream",
    }
    assert "how RUNS is made" not in done.stdout


def test_the_watcher(place: Place) -> None:
    runs = json.loads(place.does("watcher", "runs", "--json").stdout)
    assert {run["runner_ident"]: run["state"] for run in runs}[IDENT] == "successful"
    printed = place.folder / f"job/artifacts/{IDENT}/stdout"
    lines = place.does("watcher", "logs", IDENT).stdout.splitlines()
    assert len(lines) == len(printed.read_text().splitlines())
    for args in (
        ["logs", "-f", IDENT], ["wait", IDENT, "--timeout", "20s"], ["stream"],
        ["watch", "--plain", "--since", "1h", "--runs", "1"],
    ):  # fmt: skip
        done = place.does("watcher", *args)
        assert done.returncode == 0, (args, done.stderr)
    options = {"user": "watcher", "password": PASSWORDS["watcher"]}
    if isinstance(place, SignedPlace):
        options = {"user_credentials": place.creds["watcher"]}
    done = place.does("watcher", "check", "--reading")
    assert done.returncode == 0, done.stdout
    assert "RUNS made, by name" in done.stdout
    with Serve(place.server, *(f"-o{key}={value}" for key, value in options.items())) as serve:
        wait_until(lambda: IDENT in serve.get("/api/runs").text)


SECRET = "rollout-of-b"


def publish_a_run_of_another(place: Place) -> None:
    """Its subject id is `site-b`; it goes on."""
    bus = place.bus(ROOT)
    said = {"status": "running", "runner_ident": SECRET}
    bus.send(f"pub.ansible.runner.site-b.{SECRET}.status", json.dumps(said).encode())
    printed = {"event": "verbose", "counter": 1, "uuid": "u", "runner_ident": SECRET, "stdout": SECRET}
    bus.send(f"pub.ansible.runner.site-b.{SECRET}.event", json.dumps(printed).encode())
    bus.close()


def test_the_tenant(place: Place) -> None:
    """Own runs as a watcher has them, and nobody else's."""
    publish_a_run_of_another(place)
    assert SECRET in place.does("watcher", "runs").stdout
    own, others = ["--subject-id", "site-a"], ["--subject-id", "site-b"]
    runs = json.loads(place.does("tenant", "runs", "--json", *own).stdout)
    assert {run["subject_id"] for run in runs} == {"site-a"}
    assert [run["state"] for run in runs if run["runner_ident"] == IDENT] == ["successful"]
    printed = (place.folder / f"job/artifacts/{IDENT}/stdout").read_text().splitlines()
    for args in (["logs"], ["logs", "-f"]):
        done = place.does("tenant", *args, IDENT, *own)
        assert (done.returncode, len(done.stdout.splitlines())) == (0, len(printed)), done.stderr
    for args in (
        ["wait", IDENT, "--timeout", "20s", *own],
        ["show", IDENT, *own],
        ["compare", IDENT, IDENT, *own],
        ["grep", "TASK", *own],
        ["stats", "hosts", *own],
        ["stats", "playbooks", *own],
        ["watch", "--plain", "--since", "1h", "--runs", "1", "pub.ansible.runner.site-a.>"],
    ):
        done = place.does("tenant", *args)
        assert done.returncode == 0, (args, done.stderr)
        assert SECRET not in done.stdout + done.stderr
    done = place.does("tenant", "check", "--reading", *own)
    assert done.returncode == 0, done.stdout
    assert "STREAM.MSG.GET.RUNS" in done.stdout
    done = place.does("tenant", "check", "--reading")
    assert done.returncode == 1
    assert "allow this user to publish to $JS.API.CONSUMER.CREATE.RUNS.*.pub.ansible.runner.>" in done.stdout
    refused = "does not let this user publish to $JS.API.CONSUMER.CREATE.RUNS."
    for args in (
        ["runs"],
        ["runs", *others],
        ["logs", SECRET],
        ["logs", SECRET, *others],
        ["logs", "-f", SECRET, *others],
        ["wait", SECRET, *others],
        ["show", SECRET, *others],
        ["grep", SECRET],
        ["grep", SECRET, *others],
        ["stats", "hosts"],
        ["watch", "--plain", "--from-stream"],
        ["watch", "--plain", "--from-stream", "pub.ansible.runner.*.>"],
    ):
        done = place.does("tenant", *args)
        assert (done.returncode, done.stdout) == (1, ""), (args, done.stderr)
        assert refused in done.stderr, (args, done.stderr)


def test_a_filter_in_the_subject_alone_is_not_enough(place: Place) -> None:
    """The consumer would have another filter, or another one beside it."""
    bus = place.bus("tenant")
    try:
        for filters in (
            {"filter_subject": "pub.ansible.runner.site-b.>"},
            {"filter_subjects": ["pub.ansible.runner.site-a.>", "pub.ansible.runner.site-b.>"]},
            {},
        ):
            config = {"ack_policy": "none", "name": "mine", "deliver_policy": "all", **filters}
            subject = "$JS.API.CONSUMER.CREATE.RUNS.mine.pub.ansible.runner.site-a.>"
            asked = json.dumps({"stream_name": "RUNS", "config": config}).encode()
            answer = json.loads(bus.run(bus.client.request(subject, asked, timeout=5)).data)
            assert answer["error"]["code"] == 400, answer
    finally:
        bus.close()


@pytest.mark.parametrize("kind", ["watcher", "publisher"])
def test_permissions_that_earlier_versions_asked_for(tmp_path: Path, kind: str) -> None:
    """Consumers without a name, and the filters of all."""
    [line] = [line for line, _ in lines_of(kind) if "CONSUMER.CREATE.RUNS.*" in line]
    place = Place(tmp_path, config_with(kind, line, '"$JS.API.CONSUMER.CREATE.RUNS"'))
    try:
        assert place.does("keeper", "stream", "create").returncode == 0
        job = place.run_job()
        if kind == "publisher":
            done = place.does("publisher", "replay", job.folder, "--all")
            assert f"{place.record()['accepted']} were in the stream already" in done.stdout, done.stderr
            return
        [run] = json.loads(place.does("watcher", "runs", "--json").stdout)
        assert (run["runner_ident"], run["state"]) == (IDENT, "successful")
        done = place.does("watcher", "logs", "-f", IDENT)
        assert (done.returncode, done.stderr) == (0, "")
    finally:
        place.server.kill()


def test_the_keeper(place: Place) -> None:
    assert place.does("keeper", "stream", "create").stdout.startswith("stream RUNS is there already")
    assert place.does("keeper", "stream").returncode == 0


def read_one(bus: Bus) -> str:
    """What a program with a durable consumer does: makes it, takes a message, is done with it."""

    async def read() -> str:
        js = bus.client.jetstream(timeout=2)
        try:
            bookmark = await js.pull_subscribe("pub.ansible.runner.>", durable=DURABLE, stream="RUNS")
            [message] = await bookmark.fetch(1, timeout=2)
            await message.ack_sync(timeout=2)
        except asyncio.TimeoutError:
            return "no answer"
        return message.subject

    return bus.run(read())


def test_the_consumer(place: Place) -> None:
    bus = place.bus("consumer")
    try:
        # The second time it is there already.
        assert [read_one(bus).split(".")[4] for _ in range(2)] == [IDENT] * 2
    finally:
        bus.close()


def test_the_publisher_completes_what_was_killed(place: Place) -> None:
    folder = recorded(place.folder / "job", "killed") / "artifacts/killed"
    env = clean_env(place.env("publisher"))
    killed = subprocess.run(
        [sys.executable, "-c", RUN_OF_ONE_EVENT, "killed", folder.parent], env=env, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    place.run_job("next")
    assert json.loads((folder / "nats-run.json").read_text())["state"] == "killed"
    bus = place.bus(ROOT)
    assert "pub.ansible.runner.site-a.killed.heartbeat" in bus.stream_subjects()
    bus.close()


def test_the_publisher_replays(place: Place) -> None:
    done = place.does("publisher", "replay", place.folder / f"job/artifacts/{IDENT}", "--all")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{place.record()['accepted']} were in the stream already" in done.stdout
    unpublished = recorded(place.folder / "more")
    done = place.does("publisher", "replay", unpublished, "--all")
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 messages confirmed" in done.stdout


def recorded(folder: Path, ident: str = "r") -> Path:
    """A private data directory with a run of two events."""
    events = folder / f"artifacts/{ident}/job_events"
    events.mkdir(parents=True)
    for counter in (1, 2):
        event = {"counter": counter, "uuid": f"u{counter}", "event": "verbose", "runner_ident": ident}
        (events / f"{counter}-u{counter}.json").write_text(json.dumps(event))
    return folder


@pytest.mark.parametrize(
    ("kind", "args", "said"),
    [
        ("consumer", ["runs"], "does not let this user publish to $JS.API.STREAM.NAMES"),
        ("publisher", ["runs"], "does not let this user"),
        ("publisher", ["logs", IDENT], "does not let this user"),
        ("publisher", ["stream", "create", "--name", "MORE"], "does not let this user"),
        (
            "publisher",
            ["check", "--reading"],
            "does not let this user publish to $JS.API.CONSUMER.CREATE.RUNS",
        ),
        ("keeper", ["check", "--reading"], "does not let this user publish to $JS.API.CONSUMER.CREATE.RUNS"),
        ("consumer", ["check", "--reading"], "does not let this user publish to $JS.API.STREAM.NAMES"),
        ("tenant", ["check"], "may not publish to pub.ansible.runner.site-a"),
        ("tenant", ["stream", "create", "--name", "MORE"], "does not let this user"),
        ("watcher", ["check"], "may not publish to pub.ansible.runner.site-a"),
        ("watcher", ["stream", "create", "--name", "MORE"], "does not let this user"),
        ("keeper", ["check"], "may not publish to pub.ansible.runner.site-a"),
        ("keeper", ["runs"], "does not let this user publish to $JS.API.CONSUMER.CREATE.RUNS"),
        ("keeper", ["logs", IDENT], "does not let this user publish to $JS.API.CONSUMER.CREATE.RUNS"),
    ],
)
def test_commands_for_others(place: Place, kind: str, args: list[str], said: str) -> None:
    done = place.does(kind, *args)
    assert done.returncode == 1
    assert said in done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["watcher", "tenant", "keeper", "consumer"])
def test_who_may_not_publish_is_told_for_each_kind_of_message(place: Place, kind: str) -> None:
    lines = place.does(kind, "check").stdout.splitlines()
    told = [line.split()[0] for line in lines if line.split()[1:2] == ["publish"]]
    assert told == ["problem", "problem"]


#: Whatever changes a stream, makes one, or takes messages out of it.
CHANGES = ["$JS.API.STREAM.UPDATE.RUNS", "$JS.API.STREAM.DELETE.RUNS", "$JS.API.STREAM.PURGE.RUNS"]
DELETES = ["$JS.API.STREAM.MSG.DELETE.RUNS", "$JS.API.CONSUMER.DELETE.RUNS.x"]
MAKES = ["$JS.API.STREAM.CREATE.RUNS", "$JS.API.STREAM.CREATE.OTHER", "$JS.API.STREAM.RESTORE.RUNS"]
READS = [
    "$JS.API.CONSUMER.CREATE.RUNS",
    "$JS.API.CONSUMER.CREATE.RUNS.x",
    "$JS.API.CONSUMER.CREATE.RUNS.x.>",
    "$JS.API.CONSUMER.DURABLE.CREATE.RUNS.x",
    "$JS.API.CONSUMER.MSG.NEXT.RUNS.x",
    "$JS.API.STREAM.MSG.GET.RUNS",
    "$JS.API.STREAM.SNAPSHOT.RUNS",
    "$JS.API.DIRECT.GET.RUNS",
    f"$JS.API.DIRECT.GET.RUNS.{OURS}",
]
#: What gives messages of others as well, and not by a consumer of one's own.
READS_OF_ALL = [
    "$JS.API.CONSUMER.CREATE.RUNS",
    "$JS.API.CONSUMER.CREATE.RUNS.x",
    "$JS.API.CONSUMER.CREATE.RUNS.x.>",
    "$JS.API.CONSUMER.CREATE.RUNS.x.pub.ansible.runner.>",
    "$JS.API.CONSUMER.CREATE.RUNS.x.pub.ansible.runner.*.>",
    "$JS.API.CONSUMER.CREATE.RUNS.x.pub.ansible.runner.site-b.>",
    *READS[3:4],
    *READS[5:],
]
DURABLES = [
    f"$JS.API.CONSUMER.CREATE.RUNS.{DURABLE}.pub.ansible.runner.site-a.>",
    f"$JS.API.CONSUMER.MSG.NEXT.RUNS.{DURABLE}",
]

#: What each must not publish to, and not subscribe to.
FORBIDDEN = {
    "publisher": (
        [THEIRS, *CHANGES, *DELETES, *MAKES, *READS_OF_ALL, *DURABLES],
        ["pub.>", OURS, "_INBOX.>", ">"],
    ),
    "watcher": ([OURS, THEIRS, *CHANGES, *DELETES, *MAKES, *DURABLES], [f"{PREFIX}.>", "$JS.>", ">"]),
    "tenant": (
        [OURS, THEIRS, *CHANGES, *DELETES, *MAKES, *READS_OF_ALL, *DURABLES],
        ["pub.>", OURS, "_INBOX.>", f"{PREFIX}.>", "$JS.>", ">"],
    ),
    "keeper": ([OURS, THEIRS, *CHANGES, *DELETES, *MAKES[1:], *READS], ["pub.>", f"{PREFIX}.>", ">"]),
    "consumer": ([OURS, THEIRS, *CHANGES, *DELETES, *MAKES, *READS], ["pub.>", f"{PREFIX}.>", ">"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_must_not_do(place: Place, kind: str) -> None:
    """Each of these is refused by the server itself, whatever program asks."""
    refused: list[str] = []

    async def note(error: Exception) -> None:
        refused.append(str(error).lower())

    def is_refused(what: str) -> None:
        said = f"permissions violation for {what}".lower()
        wait_until(lambda: any(said in line for line in refused), f"{said}; last: {refused[-1:]}", 5)

    bus = place.bus(kind, error_cb=note)
    publish, subscribe = FORBIDDEN[kind]
    try:
        for subject in publish:
            bus.send(subject, b"{}")
            is_refused(f'publish to "{subject}"')
        for subject in subscribe:
            bus.subscribe(subject)
            is_refused(f'subscription to "{subject}"')
        assert bus.received == []
    finally:
        bus.close()
    # And nothing came of it.
    assert place.does("keeper", "stream").returncode == 0


def lines_of(kind: str) -> list[tuple[str, str]]:
    """What a block allows, piece by piece, and what to say instead; an empty list would allow everything."""
    block = BLOCKS[KINDS.index(kind)]
    publish = re.findall(r'^(    ".*")', block, re.MULTILINE)
    [subscribe] = re.findall(r'subscribe: { allow: \[ (".*?") \]', block)
    return [(line, "") for line in publish] + [(f"[ {subscribe} ]", '[ "nothing" ]')]


def outcome(place: Place, kind: str) -> object:
    """How well a user can work, as far as that depends on permissions."""
    if kind == "keeper":
        return place.does("keeper", "stream", "create").returncode, place.does("keeper", "stream").returncode
    assert place.does("keeper", "stream", "create").returncode == 0
    if kind == "publisher":
        return published(place)
    if kind in WATCHING:
        return watched(place, kind)
    bus = place.bus("publisher")
    bus.send(OURS.replace("event", "status"), b'{"status": "running", "runner_ident": "x"}')
    bus.close()
    bus = place.bus("consumer", error_cb=ignore)
    subject = read_one(bus)
    bus.close()
    return subject


def published(place: Place) -> object:
    """How well a publisher can check and replay, and what it can do with another program's consumer."""
    told = json.loads(place.does("publisher", "check", "--json").stdout)
    steps = [step for server in told["servers"] for step in server["steps"]]
    # That there is one server has nothing to do with it.
    steps = [step for step in steps if "has one replica" not in step["text"]]
    checked = told["ok"], [(step["step"], step["state"]) for step in steps]
    folder = recorded(place.folder / "job")
    try:
        done = [place.does("publisher", "replay", folder, "--all") for _ in range(2)]
    except subprocess.TimeoutExpired:
        return "it waits for what the server does not allow"
    # Folders and ports are others each time.
    said = [re.sub(rf"{re.escape(str(place.folder))}|:[0-9]+", "", one.stdout + one.stderr) for one in done]
    return checked, [one.returncode for one in done], said, with_a_durable_consumer(place, "publisher")


def with_a_durable_consumer(place: Place, kind: str) -> list[bool]:
    """Whether it can change another program's, and take its messages away."""
    bus = place.bus(ROOT)
    # Two messages: one that makes the consumer, and one that is left.
    for _ in range(2):
        bus.send(OURS, b"{}")
    read_one(bus)
    bus.close()
    bus = place.bus(kind, error_cb=ignore)

    async def is_answered(subject: str, asked: object) -> bool:
        try:
            # A message comes under its own subject: the client's common inbox would not know it.
            await bus.client.request(subject, json.dumps(asked).encode(), timeout=1, old_style=True)
        except asyncio.TimeoutError:
            return False
        return True

    makes, takes = DURABLES
    change = {"stream_name": "RUNS", "config": {"durable_name": DURABLE}}
    can = [bus.run(is_answered(makes, change)), bus.run(is_answered(takes, {"batch": 1, "no_wait": True}))]
    bus.close()
    return can


async def ignore(_: Exception) -> None:
    """The server says what it does not allow."""


#: Who reads runs, and how they say of which.
WATCHING = {"watcher": [], "tenant": ["--subject-id", "site-a"]}


def watched(place: Place, kind: str) -> object:
    """What a reader gets, and what it can do with another program's durable consumer."""
    bus = place.bus(ROOT)
    status = OURS.replace("event", "status")
    # One for that program, and one that it does not get if somebody else takes it.
    for _ in range(2):
        bus.send(status, b'{"status": "running", "runner_ident": "x"}')
    if kind == "watcher":
        # What a client library cannot read as it comes: it is asked for by itself.
        bus.send(status.replace(".x.", ".x\u00a0."), b'{"status": "running"}', {"X": "y"})
    assert read_one(bus) == status
    bus.close()
    can = with_a_durable_consumer(place, kind)
    return place.does(kind, "runs", "--json", *WATCHING[kind]).returncode, can


@pytest.mark.parametrize(("kind", "line"), [(kind, line) for kind in KINDS for line in lines_of(kind)])
def test_none_is_superfluous(tmp_path: Path, kind: str, line: tuple[str, str]) -> None:
    """Without any of these lines something does not work."""
    outcomes = []
    for number, config in enumerate((config_with(), config_with(kind, *line))):
        (tmp_path / str(number)).mkdir()
        place = Place(tmp_path / str(number), config)
        try:
            outcomes.append(outcome(place, kind))
        finally:
            place.server.kill()
    assert outcomes[0] != outcomes[1], outcomes


def test_a_watcher_without_a_stream(tmp_path: Path) -> None:
    """As the page says: one more subject, and no stream is needed."""
    assert "`pub.ansible.runner.>`" in PAGE
    more = config_with("watcher", '[ "_INBOX.>" ]', '[ "_INBOX.>", "pub.ansible.runner.>" ]')
    for config, status in ((config_with(), 1), (more, 6)):
        folder = tmp_path / str(status)
        folder.mkdir()
        place = Place(folder, config)
        try:
            done = place.does("watcher", "wait", IDENT, "--timeout", "2s")
            assert done.returncode == status, done.stderr
        finally:
            place.server.kill()
