"""The page of `ansible-runner-nats serve` in a real browser."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from serving import Serve, needed
from support import PATIENCE, Bus, Job, Server, cli, wait_until
from test_watch import ON, publish, task

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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


def test_a_job_is_seen_while_it_runs(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = stored
    job = Job(tmp_path / "job", {"nats_options": {"servers": server.url}})
    go = tmp_path / "go"
    (job.folder / "project/play.yml").write_text(PLAYBOOK.replace("GO", str(go)))
    with Serve(server) as serve, chromium(tmp_path) as browser:
        browser.open(serve, "/")
        browser.wait_for("#none", "No run is like this")
        browser.run("window.same = true")
        started = cli("start", job.folder, "-p", "play.yml", "--ident", "x", env=ON)
        assert started.returncode == 0
        # The page changes, and is not loaded anew.
        browser.wait_for("#rows tr", "running")
        browser.wait_for("#rows td.task", "wait")
        assert browser.run("return window.same")
        browser.click("#rows a")
        browser.wait_for("#output", "TASK [wait]")
        assert browser.driver.current_url.endswith("/runs/site.a/x")
        browser.run("window.same = true")
        go.touch()
        browser.wait_for("#state", "failed")
        browser.wait_for("#failures", "No such file or directory (rc=2)")
        browser.wait_for("#output", "PLAY RECAP")
        assert browser.run("return window.same")
        # Every line once, and in order, as the job printed it.
        lines = browser.run(
            "return [...document.querySelectorAll('#output .l')].map(l => l.textContent).join('\\n')"
        )
        printed = serve.get("/api/runs/site.a/x/log").text
        plain = printed.replace("\x1b[0m", "")
        assert lines.split("\n") == [_uncolored(line) for line in plain.splitlines()]
        # What failed is red.
        browser.run(
            "const spans = [...document.querySelectorAll('#output span')];"
            "window.red = spans.find(span => span.textContent.startsWith('fatal'))"
        )
        assert browser.run("return getComputedStyle(window.red).color") == "rgb(179, 38, 30)"
        browser.click("#failures summary")
        browser.wait_for("#failures pre", "stderr:")
        browser.click("#tasks summary")
        browser.wait_for("#tasks table", "first <script>")
        # Nothing of it was markup.
        assert "owned" not in browser.driver.title
        assert browser.run("return document.querySelectorAll('main script, main img').length") == 0
        # What is open stays open when something changes.
        publish(server, "other", task("a"))
        serve.wait_for_run("other", "successful")
        assert browser.run("return document.querySelector('#failures details').open")


def _uncolored(line: str) -> str:
    while "\x1b[" in line:
        before, after = line.split("\x1b[", 1)
        line = before + after.split("m", 1)[1]
    return line


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
        browser.click("#summary a[href='/?state=failed']")
        browser.wait_for("#rows", "bad")
        assert browser.find("select").get_attribute("value") == "failed"
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
        browser.wait_for("#link", "connected to")
        server.kill()
        wait_until(lambda: browser.text("#link.down"), "the loss")
        server.start()
        browser.wait_for("#link.up", "connected to")


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
        last = "return document.querySelector('#output .l:last-child').textContent"
        wait_until(lambda: browser.run(last) == "line 50000", "the last line")
        assert browser.run("return document.querySelectorAll('#output .l').length") == 1000
        assert len(serve.get("/api/runs/id/many/log").text.splitlines()) == 50_000


def test_people_type_the_token_once(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = stored
    token = tmp_path / "token"
    token.write_text("a-token-of-some-length")
    with Serve(server, "--token-file", str(token)) as serve, chromium(tmp_path) as browser:
        publish(server, "x", task("a"))
        browser.open(serve, "/")
        browser.find("input[name=token]").send_keys("wrong" + Keys.ENTER)
        browser.wait_for("main", "That is not the token")
        browser.find("input[name=token]").send_keys(token.read_text() + Keys.ENTER)
        browser.wait_for("#rows", "x")
        assert browser.run("return document.cookie") == ""
        publish(server, "y", task("a"))
        browser.wait_for("#rows", "y")
        # Chromium notes the refused pages, and nothing else.
        assert [one for one in browser.complaints() if "401" not in one] == []


def test_the_page_without_scripts(stored: tuple[Server, Bus], tmp_path: Path) -> None:
    server, _ = stored
    off = "--blink-settings=scriptEnabled=false"
    with Serve(server) as serve, chromium(tmp_path, off) as browser:
        browser.open(serve, "/")
        browser.wait_for("#none", "No run is like this")
        publish(server, "x", task("a"))
        # It loads itself anew.
        browser.wait_for("#rows", "x")
        browser.click("#rows a")
        browser.wait_for("main h1", "x")


@pytest.mark.parametrize(("scheme", "back"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(13, 17, 23)")])
def test_light_and_dark_and_narrow(
    stored: tuple[Server, Bus], tmp_path: Path, scheme: str, back: str
) -> None:
    server, _ = stored
    with Serve(server) as serve, chromium(tmp_path) as browser:
        publish(server, "a-run-with-a-very-long-ident-that-nobody-would-give-it-by-hand-" * 2, task("a"))
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.driver.set_window_size(500, 800)
        browser.open(serve, "/")
        browser.wait_for("#rows", "a-run-with")
        assert browser.run("return getComputedStyle(document.body).backgroundColor") == back
        wide = browser.run(
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wide <= 0
