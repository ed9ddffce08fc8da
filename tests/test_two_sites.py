"""docs/two-sites.md: its configurations, commands and program, with two sites and a hub."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ansible_runner_nats import event_handler, status_handler
from support import (
    PATIENCE,
    RUN_OF_ONE_EVENT,
    Bus,
    Server,
    clean_env,
    command,
    config,
    event,
    free_port,
    of_run,
    python,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = (Path(__file__).parent.parent / "docs/two-sites.md").read_text()
#: How the block of a site begins, and what is different at the other site.
SITE = "Site A. Site B says site-b."
SITE_B = [("domain: site-a", "domain: site-b")]
ON = {"RUNNER_NATS_SUBJECT_ID": "id"}
EVENTS = 20
#: The events, and one status.
MESSAGES = EVENTS + 1


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def block(beginning: str) -> str:
    (found,) = [text for text in blocks("conf") if text.startswith(f"# {beginning}\n")]
    return found


@dataclass
class Sites:
    """Starts servers as the page configures them, with addresses and folders of the test's own."""

    start_server: Callable[..., Server]
    folder: Path
    port: int

    def start(self, name: str, beginning: str, *more: tuple[str, str]) -> Server:
        text = block(beginning)
        for old, new in (
            ("0.0.0.0:7422", f"127.0.0.1:{self.port}"),
            ("hub.example.org:7422", f"127.0.0.1:{self.port}"),
            ("store_dir: /var/lib/nats", f'store_dir: "{self.folder / name}"'),
            *more,
        ):
            text = text.replace(old, new)
        assert "example.org" not in text
        return self.start_server(config=text)


@pytest.fixture
def sites(start_server: Callable[..., Server], tmp_path: Path) -> Sites:
    return Sites(start_server, tmp_path / "stores", free_port())


@pytest.fixture
def bus_of() -> Iterator[Callable[[Server], Bus]]:
    buses: list[Bus] = []

    def bus_of(server: Server) -> Bus:
        buses.append(Bus(server.url))
        return buses[-1]

    yield bus_of
    for bus in buses:
        bus.close()


def wait_for_links(hub: Server) -> None:
    """Of both sites. A source that is not there yet is asked again after 40 s only (nats-server 2.15.1)."""
    log = hub.folder / "log"
    wait_until(lambda: log.read_text().count("Leafnode connection created") == 2, "both links")


def publish(server: Server, folder: Path, ident: str) -> None:
    run = config(server.url, folder / ident)
    run.ident = ident
    for counter in range(EVENTS):
        event_handler(run, event(counter))
    status_handler(run, {"status": "successful"})
    assert not list(folder.rglob("*.jsonl"))


def call(start: str, **addresses: str) -> None:
    """A command of the page."""
    lines = "".join(blocks("console")).splitlines()
    (line,) = [line for line in lines if line.startswith(f"$ ansible-runner-nats {start}")]
    for name, url in addresses.items():
        line = line.replace(f"nats://{name.replace('_', '.')}.example.org:4222", url)
    assert "example.org" not in line
    done = command(*line.split()[2:], env=ON)
    assert done.returncode == 0, done.stderr + done.stdout


def test_a_stream_at_each_site(sites: Sites, bus_of: Callable[[Server], Bus], tmp_path: Path) -> None:
    """The hub is away while the jobs run, and has every message once when it comes."""
    site_a = sites.start("a", SITE)
    site_b = sites.start("b", SITE, *SITE_B)
    call("stream create --name SITE-A", **{"nats_site-a": site_a.url})
    call("stream create --name SITE-B", **{"nats_site-b": site_b.url})
    publish(site_a, tmp_path, "at-a")
    hub = sites.start("hub", "The hub of two sites.")
    wait_for_links(hub)
    (program,) = blocks("python")
    done = python(program.replace("nats://hub.example.org:4222", hub.url))
    assert done.returncode == 0, done.stderr
    bus = bus_of(hub)
    wait_until(lambda: bus.stream_count() == MESSAGES, "the hub to have the run of site A")
    # With the link there no site hears of another.
    publish(site_b, tmp_path, "at-b")
    wait_until(lambda: bus.stream_count() == 2 * MESSAGES, "the hub to have both runs")
    for server, stream, ident in ((site_a, "SITE-A", "at-a"), (site_b, "SITE-B", "at-b")):
        assert len(of_run(bus_of(server).stream_messages(stream), ident)) == MESSAGES
        assert bus_of(server).stream_count(stream) == MESSAGES
    assert bus.stream_count() == 2 * MESSAGES
    call("runs -o stream=RUNS", hub=hub.url)
    done = command("logs", "at-b", "-o", "stream=RUNS", "-s", hub.url, env=ON)
    assert (done.returncode, done.stdout.count("x" * 1000)) == (0, EVENTS), done.stderr


def test_without_deny_imports_one_site_stores_for_another(
    sites: Sites, bus_of: Callable[[Server], Bus], tmp_path: Path
) -> None:
    apart = ', deny_imports: [ "pub.ansible.runner.>" ]'
    assert apart in block(SITE)
    hub = sites.start("hub", "The hub of two sites.")
    site_a = sites.start("a", SITE, (apart, ""))
    site_b = sites.start("b", SITE, *SITE_B, (apart, ""))
    wait_for_links(hub)
    bus_of(site_a).add_stream("SITE-A", ["pub.ansible.runner.>"])
    publish(site_b, tmp_path, "at-b")
    wait_until(lambda: bus_of(site_a).stream_count("SITE-A") == MESSAGES, "site A to have the run of site B")


def test_a_stream_at_the_hub_alone(sites: Sites, bus_of: Callable[[Server], Bus], tmp_path: Path) -> None:
    hub = sites.start("hub", "The hub.")
    site = sites.start("site", "A site. It needs no JetStream.")
    assert command("stream", "create", "-s", hub.url, env=ON).returncode == 0
    bus = bus_of(hub)
    publish(site, tmp_path, "at-site")
    wait_until(lambda: bus.stream_count() == MESSAGES, "the hub to have the run")
    done = command("runs", "-o", "jetstream_domain=hub", "-s", site.url, "--json", env=ON)
    assert (done.returncode, '"at-site"' in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize("domain", ["hub", ""])
def test_a_run_that_was_killed_at_a_site_without_jetstream(
    sites: Sites, bus_of: Callable[[Server], Bus], tmp_path: Path, domain: str
) -> None:
    """It is completed where the jobs, too, say which domain the stream is in."""
    hub = sites.start("hub", "The hub.")
    site = sites.start("site", "A site. It needs no JetStream.")
    assert command("stream", "create", "-s", hub.url, env=ON).returncode == 0
    artifacts = tmp_path / "job/artifacts"
    for ident in ("killed", "next"):
        (artifacts / ident / "job_events").mkdir(parents=True)
    event_file = '{"counter": 1, "uuid": "u1", "event": "verbose", "runner_ident": "killed"}'
    (artifacts / "killed/job_events/1-u1.json").write_text(event_file)
    env = {**ON, "RUNNER_NATS_SERVERS": site.url, "RUNNER_NATS_FLUSH_TIMEOUT": "20"}
    env["RUNNER_NATS_JETSTREAM_DOMAIN"] = domain
    done = [
        subprocess.run(
            [sys.executable, "-c", RUN_OF_ONE_EVENT, ident, str(artifacts)],
            env=clean_env(env), capture_output=True, text=True, check=False, timeout=PATIENCE,
        )
        for ident in ("killed", "next")
    ]  # fmt: skip
    assert [one.returncode for one in done] == [-signal.SIGKILL, 0], done
    said = "pub.ansible.runner.id.killed.heartbeat" in bus_of(hub).stream_subjects()
    assert (said, "is not complete" in done[1].stderr) == ((True, False) if domain else (False, True)), done
