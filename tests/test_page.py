"""The page of `ansible-runner-nats serve` in a real browser."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from serving import ALL_IS_THERE, Serve, needed, printing, task
from support import PATIENCE, Bus, Job, Server, cli, wait_until
from test_watch import ON, publish

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"

PLAYBOOK = f"""
- hosts: all
  gather_facts: false
  tasks:
    - name: first {HOSTILE}
      ansible.builtin.debug:
        msg: "{HOSTILE.replace('"', "'")}"
    - name: wait
      ansible.builtin.wait_for:
        path: GO
        sleep: 1
        timeout: 60
    - name: look
      ansible.builtin.command: ls /nowhere
"""

#: As root, without a display, and without anything that a browser asks its maker.
SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


class Browser:
    """Chromium."""

    def __init__(self, folder: Path, *switches: str) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = needed("chromium")
        for switch in (*SWITCHES, *switches, f"--user-data-dir={folder}"):
            options.add_argument(switch)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(needed("chromedriver")))

    def open(self, serve: Serve, path: str) -> None:
        self.driver.get(f"http://127.0.0.1:{serve.port}{path}")

    def text(self, selector: str) -> str:
        """What is to be read there; nothing while it is being replaced."""
        with contextlib.suppress(StaleElementReferenceException):
            return "\n".join(one.text for one in self.driver.find_elements(By.CSS_SELECTOR, selector))
        return ""

    def wait_for(self, selector: str, text: str) -> None:
        wait_until(lambda: text in self.text(selector), f"{text} in {selector}")

    def find(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def look_like(self, scheme: str, width: int) -> None:
        """With light or dark colours, in a window of that many pixels."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def complaints(self) -> list[str]:
        """Errors of scripts, and what the security policy has refused."""
        log = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in log if entry["level"] == "SEVERE"]

    def click(self, selector: str) -> None:
        """Click there, though it may be replaced just now."""

        def click() -> bool:
            with contextlib.suppress(WebDriverException):
                self.find(selector).click()
                return True
            return False

        wait_until(click, f"a click on {selector}")


@contextlib.contextmanager
def chromium(folder: Path, *switches: str) -> Iterator[Browser]:
    """A browser that nothing displeases, and that asks nobody else."""
    browser = Browser(folder / "browser", *switches)
    try:
        yield browser
        assert browser.complaints() == []
        asked = browser.run("return performance.getEntries().map(entry => entry.name)")
        own = browser.run("return location.origin")
        assert [name for name in asked if name.startswith("http") and not name.startswith(own)] == []
    finally:
        browser.driver.quit()


#: Every line of an output that is here, with its number.
LINES = "return [...document.querySelectorAll('.out > div > span')].map(line => line.textContent).join('\\n')"


COUNT = "return document.querySelectorAll('.out > div').length"


def test_a_job_is_seen_while_it_runs(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = stored
    job = Job(tmp_path / "job", {"nats_options": {"servers": server.url}})
    go = tmp_path / "go"
    (job.folder / "project/play.yml").write_text(PLAYBOOK.replace("GO", str(go)))
    with Serve(server) as serve, chromium(tmp_path) as browser:
        browser.open(serve, "/")
        browser.wait_for("#pager", "No run is like this")
        browser.run("window.same = true")
        started = cli("start", job.folder, "-p", "play.yml", "--ident", "x", env=ON)
        assert started.returncode == 0
        # The page changes, and is not loaded anew.
        browser.wait_for("#rows tr", "running")
        browser.wait_for("#rows td.what", "wait")
        assert browser.run("return window.same")
        browser.click("#rows a")
        browser.wait_for(".out", "TASK [wait]")
        assert "/runs/site.a/x/" in browser.driver.current_url
        browser.run("window.same = true")
        go.touch()
        browser.wait_for("#state", "failed")
        browser.wait_for("#why", "No such file or directory (rc=2)")
        browser.wait_for(".out", "PLAY RECAP")
        assert browser.run("return window.same")
        # Every line once, and in order, as the job printed it.
        printed = serve.get("/api/runs/site.a/x/log").text
        browser.run("document.querySelectorAll('details').forEach(one => { one.open = true })")
        wait_until(lambda: browser.run(LINES).split("\n") == printed.splitlines(), "all lines")
        # What failed is red.
        browser.run(
            "const spans = [...document.querySelectorAll('.out span')];"
            "window.red = spans.findLast(span => span.textContent.startsWith('fatal'))"
        )
        assert browser.run("return getComputedStyle(window.red).color") == "rgb(179, 38, 30)"
        # From the failure to its line.
        browser.click("#why a")
        wait_until(lambda: re.search("fatal|ERROR", browser.text(".out div:target")), "the line")
        # Nothing of it was markup.
        assert "owned" not in browser.driver.title
        assert browser.run("return document.querySelectorAll('main script, main img').length") == 0


def test_since_when_a_playbook_fails_and_what_a_host_did(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = stored
    with Serve(server) as serve, chromium(tmp_path) as browser:
        for ident, fails in (("r1", False), ("r2", True), ("r3", False), ("r4", True), ("r5", True)):
            tasks = [*task("a", "web1"), *task("b", "web1"), *task("b", "web2", fails=fails, msg="broken")]
            publish(server, ident, tasks, "failed" if fails else "successful")
            serve.wait_for_run(ident, "failed" if fails else "successful")
        browser.open(serve, serve.address("r5"))
        browser.wait_for("#why", "site.yml has failed at id since r4")
        assert re.search(r", 2 runs; the last good run was r3 \(", browser.text("#why"))
        browser.open(serve, serve.address("r2"))
        browser.wait_for("#why", "The run of site.yml at id before it, r1 (")
        browser.wait_for("#why", "It was good again in r3 (")
        # A click on a host is a filter: it goes with the address, and nothing else is left.
        browser.click(".matrix tbody tr:first-child th a")
        browser.wait_for("#found", "1 hit")
        assert browser.driver.current_url.endswith("?q=host%3Aweb2#output")
        assert "web1" not in browser.text("#found")
        # From there to the line itself: that is the whole output again.
        browser.click("#found .out a")
        browser.wait_for(".out div:target", "runner_on_failed: [web2]")
        assert "q=" not in browser.driver.current_url
        assert browser.driver.find_elements("id", "found") == []
        browser.open(serve, serve.address("r1"))
        browser.wait_for("#state", "successful")
        assert "since" not in browser.text("#why")


def test_the_filter_is_in_the_address(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = stored
    with Serve(server) as serve, chromium(tmp_path) as browser:
        publish(server, "good", task("a"))
        publish(server, "bad", task("b", fails=True, msg="broken"), "failed")
        serve.wait_for_run("bad", "failed")
        browser.open(serve, "/")
        browser.wait_for("#rows", "good")
        browser.find("input[type=search]").send_keys("ba")
        wait_until(lambda: "good" not in browser.text("#rows"), "the other run to go")
        assert "bad" in browser.text("#rows")
        assert browser.driver.current_url.endswith("/?q=ba")
        # The address alone says it all.
        browser.driver.refresh()
        browser.wait_for("#rows", "bad")
        assert "good" not in browser.text("#rows")
        # What was looked for and what state it is in go together, and the numbers are of that.
        browser.find("input[type=search]").clear()
        browser.driver.get(browser.driver.current_url.split("?")[0])
        # One chip is enough where two would say the same.
        browser.wait_for("#chips", "failed 1")
        assert "not successful" not in browser.text("#chips")
        browser.click("#chips a[href='/?state=failed']")
        wait_until(lambda: "good" not in browser.text("#rows"), "the other run to go")
        assert "bad" in browser.text("#rows")
        assert browser.text("#chips [aria-current]") == "failed 1"
        browser.find("input[type=search]").send_keys("good")
        browser.wait_for("#chips", "failed 0")
        assert browser.driver.current_url.endswith("/?q=good&state=failed")
        browser.click("#chips [aria-current]")
        browser.wait_for("#rows", "good")
        assert browser.driver.current_url.endswith("/?q=good")
        # By keyboard: past the header, the search is there.
        browser.open(serve, "/")
        for _ in range(12):
            browser.driver.switch_to.active_element.send_keys(Keys.TAB)
            if browser.run("return document.activeElement.name") == "q":
                break
        browser.driver.switch_to.active_element.send_keys("good" + Keys.ENTER)
        wait_until(lambda: "bad" not in browser.text("#rows"), "the filter")


def test_it_says_that_nats_is_away_and_back(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = stored
    with Serve(server) as serve, chromium(tmp_path) as browser:
        browser.open(serve, "/")
        browser.wait_for("#link", "live")
        server.kill()
        wait_until(lambda: browser.text("#link [role=alert]"), "the loss")
        server.start()
        browser.wait_for("#link", "live")


def test_a_page_of_thousands_and_a_run_of_fifty_thousand_lines(
    stored: tuple[Server, Bus], tmp_path: Path
) -> None:
    server, bus = stored
    with Serve(server) as serve, chromium(tmp_path) as browser:
        bus.send_all(
            "pub.ansible.runner.id.many.event",
            (
                {
                    "counter": n,
                    "uuid": f"u{n}",
                    "runner_ident": "many",
                    "event": "verbose",
                    "stdout": f"line {n}",
                }
                for n in range(1, 50_001)
            ),
        )
        bus.send_all(
            "pub.ansible.runner.id.{runner_ident}.status",
            ({"status": "successful", "runner_ident": f"r{n}"} for n in range(3000)),
        )
        publish(server, "many", [], "successful")
        serve.wait_for_run("many", "successful")
        wait_until(lambda: serve.json("/api/runs/id/many")["events_missing"] == 0, "all lines", PATIENCE * 2)
        browser.open(serve, "/")
        browser.wait_for("#pager", "page 1 of 31")
        assert browser.run("return document.querySelectorAll('#rows tr').length") == 100
        browser.open(serve, "/runs/id/many")
        # No task was begun: what came before the first one is closed until somebody wants it.
        browser.click("summary")
        wait_until(lambda: browser.run(LINES).endswith("line 50000"), "the last line")
        assert browser.run(LINES).count("\n") < 1_000
        assert "Only the end of what it printed is remembered here" in browser.text("main")
        assert len(serve.get("/api/runs/id/many/log").text.splitlines()) == 50_000


def test_people_type_the_token_once(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = stored
    token = tmp_path / "token"
    token.write_text("a-token-of-some-length")
    with Serve(server, "--token-file", str(token)) as serve, chromium(tmp_path) as browser:
        publish(server, "x", task("a"))
        serve_token = {"Authorization": f"Bearer {token.read_text()}"}
        wait_until(lambda: '"x"' in serve.get("/api/runs", **serve_token).text, "the run")
        browser.open(serve, "/runs/id/x?line=3&open=all#e3")
        browser.find("input[name=token]").send_keys("wrong" + Keys.ENTER)
        browser.wait_for("main", "That is not the token")
        # Too soon is said, too; then it is let in, to where it wanted to go.
        browser.find("input[name=token]").send_keys(token.read_text() + Keys.ENTER)

        def is_in() -> bool:
            if "Too many wrong tokens" in browser.text("main"):
                browser.find("input[name=token]").send_keys(token.read_text() + Keys.ENTER)
            # The form does not keep what is behind the address.
            return browser.driver.current_url.endswith("/runs/id/x?line=3&open=all#e3")

        wait_until(is_in, "the run's page")
        browser.wait_for("#line h1", "x")
        browser.open(serve, "/")
        browser.wait_for("#rows", "x")
        assert browser.run("return document.cookie") == ""
        publish(server, "y", task("a"))
        browser.wait_for("#rows", "y")
        # Chromium notes the refused pages, and nothing else.
        assert [one for one in browser.complaints() if not re.search("401|429", one)] == []


def test_the_page_without_scripts(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = stored
    off = "--blink-settings=scriptEnabled=false"
    with Serve(server) as serve, chromium(tmp_path, off) as browser:
        publish(server, "x", [*task("a", fails=True, msg="broken"), *printing(3_000)], "failed")
        serve.wait_for_run("x", "failed")
        browser.open(serve, "/")
        browser.wait_for("#rows", "broken")
        # A form as any other.
        browser.find("input[type=search]").send_keys("host:h" + Keys.ENTER)
        browser.wait_for("#rows", "x")
        browser.click("#rows a")
        browser.wait_for("#line h1", "x")
        # What is left out is a page of its own.
        browser.click("a.gap")
        browser.wait_for(".out", "line 101")
        assert "/lines?from=" in browser.driver.current_url


LONG = "a-run-with-a-very-long-ident-that-nobody-would-give-it-by-hand-" * 8


@pytest.mark.parametrize(("scheme", "back"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(13, 17, 23)")])
@pytest.mark.parametrize("width", [1400, 700, 400])
def test_light_and_dark_and_narrow(
    stored: tuple[Server, Bus], tmp_path: Path, scheme: str, back: str, width: int
) -> None:
    """Also at 200 % of a window of 1400 pixels: that is one of 700."""
    server, _ = stored
    with Serve(server) as serve, chromium(tmp_path) as browser:
        publish(server, LONG, task("b" * 500, host="c" * 300, fails=True, msg="d" * 500), "failed")
        publish(server, "short", task("a"))
        serve.wait_for_run("short", "successful")
        browser.look_like(scheme, width)
        browser.open(serve, "/")
        browser.wait_for("#rows", "a-run-with")
        assert browser.run("return getComputedStyle(document.body).backgroundColor") == back
        if width > 1000:
            # A line a run, whatever it is called.
            heights = "return [...document.querySelectorAll('#rows tr')].map(row => row.offsetHeight)"
            assert max(browser.run(heights)) < 40
            assert browser.find("#rows td.what[title*=ddd]").get_attribute("title").endswith("d" * 500)
        wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert browser.run(wide) <= 0
        browser.open(serve, f"/runs/id/{LONG}")
        browser.wait_for("#why", "ddd")
        assert browser.run(wide) <= 0


def test_eight_tabs_and_each_is_live(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = stored
    with Serve(server) as serve, chromium(tmp_path) as browser:
        browser.open(serve, "/")
        for _ in range(7):
            browser.driver.switch_to.new_window("tab")
            browser.open(serve, "/")
            browser.wait_for("#pager", "No run is like this")
        publish(server, "x", task("a"))
        for tab in browser.driver.window_handles:
            browser.driver.switch_to.window(tab)
            browser.wait_for("#rows", "x")


def test_what_is_left_out_is_said_and_loads(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = stored
    with Serve(server) as serve, chromium(tmp_path) as browser:
        publish(server, "x", [*task("a"), *printing(10)], None)
        serve.wait_for_run("x", "running")
        browser.open(serve, "/runs/id/x")
        browser.wait_for(".out", "line 10")
        publish(server, "x", [*task("a"), *printing(6_010)], None)
        browser.wait_for(".out", "line 6010")
        browser.wait_for(".out", "more lines: show")
        while browser.driver.find_elements(By.CSS_SELECTOR, ".gap"):
            count = browser.run(COUNT)
            browser.click(".gap")
            wait_until(lambda count=count: browser.run(COUNT) > count, "more lines")  # type: ignore[misc]
        lines = browser.run(LINES).split("\n")
        assert lines == ["TASK [a]", "runner_on_ok: [h]", *(f"line {n}" for n in range(1, 6_011))]


def test_what_is_open_or_has_the_focus_goes_on(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = stored
    with Serve(server) as serve, chromium(tmp_path) as browser:
        events = [*task("first"), *printing(5), *task("second")]
        publish(server, "x", [*events, *task("third")], None)
        serve.wait_for_run("x", "running")
        browser.open(serve, "/runs/id/x")
        browser.wait_for("details.task", "first")
        # What is done is closed, and what goes on is open.
        names = (
            "return [...document.querySelectorAll('details.task[open] .name')].map(name => name.textContent)"
        )
        assert browser.run(names) == ["third"]
        browser.find("summary").send_keys(Keys.ENTER)
        wait_until(lambda: browser.run(names) == ["first", "third"], "it to open")
        browser.run("document.activeElement.mine = true")
        browser.run("getSelection().selectAllChildren(document.querySelector('.out'))")
        publish(server, "x", [*events, *task("third"), *task("fourth"), *printing(3, 100)], None)
        browser.wait_for("details.task", "fourth")
        browser.wait_for(".out", "line 102")
        assert browser.run(names) == ["first", "fourth"]
        assert browser.run("return document.activeElement.mine")
        assert "line 5" in browser.run("return getSelection().toString()")
        # What was closed by hand stays closed, though it goes on.
        browser.run("[...document.querySelectorAll('summary')].at(-1).click()")
        publish(server, "x", [*events, *task("third"), *task("fourth"), *printing(4, 100)], None)
        publish(server, "x", [], "successful")
        browser.wait_for("#state", "successful")
        assert browser.run(names) == ["first"]


TARGET = "return document.querySelector(':target')?.id"


def again(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same of a later run: events have ids of their own."""
    return [{**event, "uuid": f"again-{place}"} for place, event in enumerate(events)]


def test_a_later_run_of_the_ident_has_its_own_lines(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = stored
    with Serve(server) as serve, chromium(tmp_path) as browser:
        publish(server, "x", [*task("first"), *printing(5)])
        serve.wait_for_run("x", "successful")
        browser.open(serve, "/runs/id/x")
        browser.wait_for("details.task", "first")
        assert "line 5" in browser.run(LINES)
        publish(server, "x", again([*task("second"), *printing(3, 100)]), "failed")
        browser.wait_for("#state", "failed")
        browser.wait_for("details.task", "second")
        wait_until(lambda: "line 102" in browser.run(LINES), "its lines")
        assert browser.run(LINES).split("\n") == [
            "TASK [second]", "runner_on_ok: [h]", "line 100", "line 101", "line 102"
        ]  # fmt: skip


def test_a_link_to_a_line_keeps_the_rest(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = stored
    with Serve(server) as serve, chromium(tmp_path) as browser:
        publish(server, "x", [*task("a"), *printing(30), *task("b"), *printing(30, 50)])
        serve.wait_for_run("x", "successful")
        identity = serve.json("/api/runs/id/x")["run_id"]
        browser.open(serve, "/runs/id/x?hosts=all&open=all")
        for line in ("e10", "e40"):
            browser.click(f"#{line} a")
            wait_until(lambda line=line: browser.run(TARGET) == line, "the line to be marked")  # type: ignore[misc]
        # Whoever copies the address has this run, and what he sees.
        address = browser.driver.current_url
        assert address.endswith(f"/runs/id/x/{identity}?hosts=all&open=all&line=40#e40")
        browser.driver.back()
        wait_until(lambda: browser.run(TARGET) == "e10", "the line before")
        # A look at the server leaves open what a click has opened.
        browser.open(serve, "/runs/id/x?open=none")
        browser.click("table.matrix tbody td:nth-of-type(2) a")
        opened = (
            "return [...document.querySelectorAll('details.task[open] .name')].map(one => one.textContent)"
        )
        wait_until(lambda: browser.run(opened) == ["b"], "the task to open")
        publish(server, "y", task("other"))
        serve.wait_for_run("y", "successful")
        browser.click("#zone")
        looks = "return performance.getEntriesByName(location.href.split('#')[0]).length"
        before = browser.run(looks)
        wait_until(lambda: browser.run(looks) > before, "a look")
        assert browser.run(opened) == ["b"]


def test_what_a_host_says_obeys_nobody(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    """Marks that turn text around, and control characters, are shown."""
    server, _ = stored
    with Serve(server) as serve, chromium(tmp_path) as browser:
        publish(server, "x", task("a", fails=True, msg="first\nred\u202e reason \x1b]0;t\x07end"), "failed")
        serve.wait_for_run("x", "failed")
        browser.open(serve, "/runs/id/x")
        browser.wait_for(".why", "red<U+202E> reason ^[]0;t^Gend")
        assert "\u202e" not in browser.run("return document.body.innerText")


def test_whether_it_is_the_run_or_the_server_that_is_gone(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, bus = stored
    with contextlib.ExitStack() as stack:
        serve = stack.enter_context(Serve(server))
        publish(server, "x", task("a"))
        serve.wait_for_run("x", "successful")
        browser = stack.enter_context(chromium(tmp_path))
        browser.open(serve, "/runs/id/x")
        browser.wait_for("#link", "live")
        serve.end(signal.SIGKILL)
        browser.wait_for("#link", "the server of this page does not answer")
        bus.run(bus.client.jetstream().purge_stream("RUNS"))
        stack.enter_context(Serve(server, "--listen", f"127.0.0.1:{serve.port}"))
        browser.wait_for("#link", "the server of this page does not know it any more")
        assert [one for one in browser.complaints() if not re.search("404|ERR_CONNECTION", one)] == []


def test_without_nats_nobody_is_silent(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    """It is the page that does not hear."""
    server, _ = stored
    with Serve(server, "--silent-after", "3s") as serve, chromium(tmp_path) as browser:
        publish(server, "x", task("a", ends=False), None)
        serve.wait_for_run("x", "running")
        browser.open(serve, "/")
        server.kill()
        wait_until(lambda: browser.text("#link [role=alert]"), "the loss")
        since, first = time.monotonic(), serve.json("/api/runs")[0]["state"]
        states = set()
        while time.monotonic() < since + 4:
            states.add(serve.json("/api/runs")[0]["state"])
            states.add(browser.text("#rows .badge"))
        assert states == {first}
        assert f'state="silent"}} {int(first == "silent")}' in serve.get("/metrics").text


def test_the_output_is_filtered(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = stored
    with Serve(server) as serve, chromium(tmp_path) as browser:
        publish(server, "x", [*task("a"), *printing(50)])
        serve.wait_for_run("x", "successful")
        browser.open(serve, "/runs/id/x")
        browser.find("#find input").send_keys("line 4")
        browser.wait_for("#found", "14 hits")
        assert browser.driver.current_url.endswith("?q=line+4")
        browser.find("#find input").send_keys("7")
        browser.wait_for("#found", "1 hit")
        assert browser.run(LINES) == "line 47"
        browser.find("#find input").send_keys(Keys.BACKSPACE * len("line 47"))
        browser.wait_for("details.task", "a")
        browser.find("#find input").send_keys("nothing")
        browser.wait_for("#found", "Nothing of it is like this")


def test_all_of_it_is_printed(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = stored
    with Serve(server) as serve, chromium(tmp_path) as browser:
        tasks = [event for n in range(5) for event in [*task(f"t{n}"), *printing(600, 600 * n)]]
        publish(server, "x", tasks)
        serve.wait_for_run("x", "successful")
        browser.open(serve, "/runs/id/x")
        assert browser.run(LINES) == ""
        # A task of which only some lines are here.
        browser.run("document.querySelector('summary').click()")
        browser.wait_for(".out", "more lines: show")
        browser.run("dispatchEvent(new Event('beforeprint'))")
        lines = browser.run(LINES).split("\n")
        assert [line for line in lines if line.startswith("line")] == [f"line {n}" for n in range(3_000)]
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        seen = (
            "return [...document.querySelectorAll('.out > div')].filter(line => line.offsetHeight && "
            "line.checkVisibility({contentVisibilityAuto: false})).length"
        )
        assert browser.run(seen) == len(lines) == 3_010


def test_times_are_those_of_the_place(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = stored
    with Serve(server) as serve, chromium(tmp_path) as browser:
        publish(server, "x", task("a"))
        serve.wait_for_run("x", "successful")
        browser.driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Kathmandu"})
        browser.open(serve, "/")
        utc = browser.find("#rows time").get_attribute("datetime")
        began = datetime.fromisoformat(utc.replace("Z", "+00:00"))
        there = (began + timedelta(hours=5, minutes=45)).strftime("%H:%M")
        browser.wait_for("#zone", "times: local")
        assert there in browser.text("#rows time")
        browser.click("#zone")
        browser.wait_for("#zone", "times: UTC")
        assert began.strftime("%H:%M") in browser.text("#rows time")
        browser.driver.refresh()
        browser.wait_for("#zone", "times: UTC")


AXE = Path(sys.prefix) / "npm/node_modules/axe-core/axe.min.js"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(stored: tuple[Server, Bus], tmp_path: Path, scheme: str) -> None:
    if not AXE.exists():
        assert not os.environ.get(ALL_IS_THERE), "axe-core is not installed (npm)"
        pytest.skip("axe-core is not installed (npm)")
    server, _ = stored
    with Serve(server, "--silent-after", "1s") as serve, chromium(tmp_path) as browser:
        publish(server, "good", [*task("a", changed=True), *printing(3)])
        failing = task("b", fails=True, msg="broken", rc=1, stderr="no", stdout="out")
        publish(server, "bad", [*failing, *task("c", host="web2", fails=True)], "failed")
        publish(server, "bad", [*failing, *printing(700)], "failed")
        publish(server, "open", task("d"), None)
        wait_until(lambda: '"silent"' in serve.get("/api/runs").text, "silence")
        browser.look_like(scheme, 1200)
        for path in (
            "/",
            "/?playbook=site.yml&since=nonsense",
            "/runs/id/bad",
            "/runs/id/bad?q=b",
            "/runs/id/open",
            "/runs/a/b",
        ):
            browser.open(serve, path)
            browser.driver.execute_script(AXE.read_text())
            found = browser.driver.execute_async_script("axe.run().then(arguments[0])")
            assert [
                (one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]
            ] == [], path
        browser.complaints()
