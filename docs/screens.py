"""Pictures of the screens as they are: real jobs, a real server, a real terminal, and what it shows as SVG.

`make pictures` runs this; docs/screens has what it makes.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import pexpect
import pyte
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable

BIN = Path(sys.executable).parent
HERE = Path(__file__).parent
PATIENCE = 60.0

PLAYBOOK = """
- name: Roll out the web tier
  hosts: all
  gather_facts: false
  tasks:
    - name: Write the configuration
      ansible.builtin.copy: {content: "{{ ident }}", dest: "{{ folder }}/{{ inventory_hostname }}.conf"}
    - name: Check the old version
      block:
        - name: Ask it
          ansible.builtin.shell: "echo 'connection refused' >&2; exit 7"
      rescue:
        - name: Never mind
          ansible.builtin.debug: {msg: "it was not running"}
      when: inventory_hostname == 'web1'
    - name: Restart the application
      ansible.builtin.shell: "echo 'app: cannot bind 0.0.0.0:8080: Address already in use' >&2; exit 1"
      when: breaks and inventory_hostname == 'web2'
    - name: Wait for it
      ansible.builtin.command: "sleep {{ seconds }}"
"""

COLORS = {
    "default": "#d8dee9", "black": "#3b4252", "red": "#e06c75", "green": "#8cc265", "brown": "#d7a65f",
    "blue": "#6aa4e0", "magenta": "#c678dd", "cyan": "#56b6c2", "white": "#abb2bf",
}  # fmt: skip
BACKGROUND = "#1e222a"


def svg(screen: pyte.Screen) -> str:
    """What the screen shows."""
    wide, high, size = 8.4, 18, 14
    lines = []
    for row in range(screen.lines):
        cells = [screen.buffer[row][column] for column in range(screen.columns)]
        start = 0
        while start < len(cells):
            look = cells[start]
            end = start
            while end < len(cells) and cells[end]._replace(data="") == look._replace(data=""):
                end += 1
            text = "".join(cell.data for cell in cells[start:end])
            color, back = COLORS.get(look.fg, COLORS["default"]), BACKGROUND
            if look.reverse:
                color, back = back, color
            x, y = start * wide, row * high
            if back != BACKGROUND:
                width = (end - start) * wide
                lines.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{high}" fill="{back}"/>')
            if text.strip():
                weight = ' font-weight="bold"' if look.bold else ""
                length = (end - start) * wide
                lines.append(
                    f'<text x="{x:.1f}" y="{y + size}" fill="{color}"{weight} textLength="{length:.1f}" '
                    f'xml:space="preserve">{escape(text)}</text>'
                )
            start = end
    width, height = screen.columns * wide, screen.lines * high
    size_of_all = f"{width + 16:.0f} {height + 16}"
    font = "DejaVu Sans Mono, Menlo, Consolas, monospace"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 -8 {size_of_all}" font-family="{font}"'
    paper = (
        f'<rect x="-8" y="-8" width="{width + 16:.0f}" height="{height + 16}" rx="6" fill="{BACKGROUND}"/>'
    )
    return "\n".join([f'{head} font-size="{size}">', paper, *lines, "</svg>", ""])


class Terminal:
    """A program on a terminal."""

    def __init__(self, columns: int, rows: int, *command: str) -> None:
        """Start it."""
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        env = {**os.environ, "TERM": "xterm-256color"}
        env.pop("NO_COLOR", None)
        self.child = pexpect.spawn(command[0], list(command[1:]), env=env, dimensions=(rows, columns))

    def wait_for(self, is_there: Callable[[str], bool]) -> None:
        """Until the screen shows it."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(pexpect.TIMEOUT):
                self.stream.feed(self.child.read_nonblocking(65536, timeout=0.2))
            if is_there("\n".join(self.screen.display)):
                return
        raise SystemExit("\n".join(self.screen.display))

    def close(self) -> None:
        """End it."""
        self.child.close(force=True)


def start_job(folder: Path, url: str, ident: str, *, seconds: float, breaks: bool) -> subprocess.Popen[bytes]:
    """A real job."""
    job = folder / ident
    for name in ("project", "inventory"):
        (job / name).mkdir(parents=True)
    (job / "project/site.yml").write_text(PLAYBOOK)
    host = f"ansible_connection=local ansible_python_interpreter={sys.executable}"
    variables = f"ident={ident} folder={folder} seconds={seconds} breaks={breaks}"
    hosts = "".join(f"web{number} {host} {variables}\n" for number in (1, 2))
    (job / "inventory/hosts").write_text(hosts)
    env = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RUNNER_NATS_SUBJECT_ID": "site-a",
        "RUNNER_NATS_SERVERS": url,
        "RUNNER_NATS_HEARTBEAT": "1",
    }
    command = ["run", str(job), "-p", "site.yml", "--ident", ident, "--quiet"]
    return subprocess.Popen([BIN / "ansible-runner", *command], env=env)


def photograph(serve: list[str]) -> None:
    """What a browser shows of `serve`; nothing where there is no Chromium."""
    program = shutil.which("chromium")
    if program is None:
        print("no chromium: the pictures of the page stay as they are")  # noqa: T201
        return
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for switch in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--hide-scrollbars",
    ):
        options.add_argument(switch)
    with subprocess.Popen(serve, stderr=subprocess.PIPE, text=True) as page:
        assert page.stderr is not None
        address = page.stderr.readline().split()[-1]
        driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            for name, path, height in (("page", "", 520), ("page-run", "runs/site-a/rollout-42", 1000)):
                driver.set_window_size(1280, height)
                deadline = time.monotonic() + PATIENCE
                while "rollout-42" not in driver.title + driver.page_source and time.monotonic() < deadline:
                    driver.get(address + path)
                driver.get(address + path)
                driver.save_screenshot(HERE / f"screens/{name}.png")
        finally:
            driver.quit()
            page.terminate()


def main() -> None:
    """Run jobs, one of which is killed, and take the pictures."""
    with tempfile.TemporaryDirectory(prefix="ansible-runner-nats-screens-") as name:
        folder = Path(name)
        config = folder / "server.conf"
        lines = ['listen: "127.0.0.1:-1"', "server_name: nats-0", f'ports_file_dir: "{folder}"']
        config.write_text("\n".join([*lines, f'jetstream {{ store_dir: "{folder}/js" }}', ""]))
        with (folder / "log").open("w") as log:
            server = subprocess.Popen([BIN / "nats-server", "-c", config], stderr=log)
        started = [server]
        try:
            while not (ports := list(folder.glob("*.ports"))) or not ports[0].read_text().strip():
                time.sleep(0.05)
            url = ports[0].read_text().split('"nats":["')[1].split('"')[0]
            ours = [str(BIN / "ansible-runner-nats")]
            subprocess.run([*ours, "stream", "create", "-s", url], check=True, stdout=subprocess.DEVNULL)
            start_job(folder, url, "rollout-41", seconds=1, breaks=False).wait()
            start_job(folder, url, "rollout-42", seconds=0, breaks=True).wait()
            killed = start_job(folder, url, "rollout-43", seconds=60, breaks=False)
            started.append(killed)
            watch = Terminal(100, 24, *ours, "watch", "-s", url)
            # Until it has given signs of life.
            lives = re.compile(r"rollout-43 running .*Wait for it .* ([3-9]|\d\d)s ")
            watch.wait_for(lambda shown: bool(lives.search(shown)))
            killed.kill()
            started.append(start_job(folder, url, "rollout-44", seconds=30, breaks=True))
            watch.wait_for(
                lambda shown: "silent" in shown and bool(re.search("rollout-44 running .*Wait for it", shown))
            )
            (HERE / "screens/watch.svg").write_text(svg(watch.screen))
            watch.child.send("\t\r")
            watch.wait_for(lambda shown: "output" in shown and "TASK [Wait for it]" in shown)
            (HERE / "screens/run.svg").write_text(svg(watch.screen))
            watch.close()
            photograph([*ours, "serve", "--listen", "127.0.0.1:0", "--silent-after", "2s", "-s", url])
        finally:
            for process in reversed(started):
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
