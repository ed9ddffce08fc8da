"""Runs jobs that make all the kinds of events and statuses that can be made.

Arguments: ``FOLDER URL SMALL``. ``URL`` is a nats-server, ``SMALL`` one whose ``max_payload`` is too small
for some of the events. A program of its own, because ansible-runner changes the process it runs in.
"""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import ansible_runner

PLAYBOOK = """
- name: Everything
  hosts: "{{ 'one,two' | complain }}"
  gather_facts: false
  vars_prompt:
    - {name: color, prompt: Which color, default: blue, private: false}
  roles: [greet]
  tasks:
    - name: loop
      ansible.builtin.debug: {msg: "{{ item }}"}
      loop: [1, 2, 3]
      when: item != 2
    - name: loop that fails
      ansible.builtin.assert: {that: item == 1}
      loop: [1, 2]
      ignore_errors: true
    - name: skip
      ansible.builtin.debug: {msg: never}
      when: false
    - name: block
      block:
        - name: break
          ansible.builtin.fail: {msg: broken on purpose}
      rescue:
        - name: mend
          ansible.builtin.debug: {msg: mended}
    - name: try again
      ansible.builtin.assert: {that: false}
      register: tried
      until: tried is success
      retries: 1
      delay: 0
      ignore_errors: true
    - name: keep a secret
      ansible.builtin.debug: {msg: "secret {{ item }}"}
      loop: [1]
      no_log: true
    - name: include
      ansible.builtin.include_tasks: more.yml
    - name: notify
      ansible.builtin.debug: {msg: changed}
      changed_when: true
      notify: handle
    - name: count
      ansible.builtin.set_stats: {data: {apples: 3}}
  handlers:
    - name: handle
      ansible.builtin.debug: {msg: handled}

- name: On one host
  hosts: one
  gather_facts: false
  tasks:
    - name: change a file
      ansible.builtin.copy: {content: "new\\n", dest: "{{ playbook_dir }}/file", mode: "0600"}
    - name: background
      # A busy machine may take seconds to look, and has to find it at work.
      ansible.builtin.command: sleep 8
      async: 60
      poll: 1
    - name: background that fails
      ansible.builtin.command: "false"
      async: 30
      poll: 1
      ignore_errors: true

- name: One after the other
  hosts: one:two
  gather_facts: false
  serial: 1
  tasks:
    - name: again
      ansible.builtin.debug: {msg: again}

- name: Nobody
  hosts: nobody
  gather_facts: false

- name: Out of reach
  hosts: one:away
  gather_facts: false
  max_fail_percentage: 0
  tasks:
    - name: never there
      ansible.builtin.command: "true"
      when: inventory_hostname == 'away'
    - name: give up
      ansible.builtin.fail: {msg: the end}
"""

# Templated on behalf of a play, the filter runs in Ansible's main process, whose display sends these kinds.
FILTER = """
from ansible.utils.display import Display

def complain(value):
    display = Display()
    display.warning('a warning')
    display.deprecated('a deprecation', version='99.0')
    display.error('an error')
    display.system_warning('a warning of the system')
    return value

class FilterModule:
    def filters(self):
        return {'complain': complain}
"""

SLOW = "- {hosts: one, gather_facts: false, tasks: [{ansible.builtin.command: sleep 60}]}\n"

LARGE = """
- hosts: one
  gather_facts: false
  tasks:
    - name: a long text
      ansible.builtin.debug: {msg: "{{ 'x' * 100000 }}"}
    - name: many numbers
      ansible.builtin.debug: {msg: "{{ range(5000) | list }}"}
"""


def make_folder(folder: Path) -> None:
    """A private data directory."""
    files = {
        "project/play.yml": PLAYBOOK,
        "project/more.yml": "- ansible.builtin.debug: {msg: included}\n",
        "project/roles/greet/tasks/main.yml": "- ansible.builtin.debug: {msg: hello}\n",
        "project/filter_plugins/complain.py": FILTER,
        "project/slow.yml": SLOW,
        "project/large.yml": LARGE,
        "inventory/hosts": "one\ntwo\naway ansible_remote_tmp=/dev/null/nowhere\n"
        f"[all:vars]\nansible_connection=local\nansible_python_interpreter={sys.executable}\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def main(folder: Path, url: str, small: str) -> None:
    """Run one after the other, each in a folder of its own: ansible-runner keeps arguments there."""

    def prepare(ident: str) -> dict[str, Any]:
        make_folder(folder / ident)
        return {"private_data_dir": str(folder / ident), "ident": ident, "quiet": True}

    def run(ident: str, expected: str, servers: str = url, **options: Any) -> None:
        settings = {
            "nats_subject_id": "contract",
            "nats_options": {"servers": servers, "heartbeat": 0.3},
            "nats_headers": {"team": "a"},
        }
        status = ansible_runner.run(**prepare(ident), settings=settings, **options).status
        assert status == expected, (ident, status)

    answer = {"Which color": "green"}
    run("everything", "failed", playbook="play.yml", cmdline="--diff -vv", passwords=answer)
    debug = {"ANSIBLE_DEBUG": "1"}
    run("module", "successful", module="debug", module_args="msg=hi", host_pattern="one", cmdline="--check",
        envvars=debug)  # fmt: skip
    run("omitted", "successful", playbook="large.yml", omit_event_data=True, envvars={"JOB_ID": "7"})
    run("large", "successful", small, playbook="large.yml")
    run("timeout", "timeout", playbook="slow.yml", timeout=1)
    run("canceled", "canceled", playbook="slow.yml", cancel_callback=lambda: True)

    # From here on the environment says where to, as it must where there are no settings.
    os.environ.update({"RUNNER_NATS_SUBJECT_ID": "contract", "RUNNER_NATS_SERVERS": url})
    for ident, mode in (("command", None), ("subprocess", "subprocess")):
        ansible_runner.run_command("ls", ["/", "/nowhere"], **prepare(ident), runner_mode=mode)
    garbage = io.BytesIO(
        json.dumps({"status": "running", "runner_ident": "garbage"}).encode() + b"\nno json\n"
    )
    ansible_runner.run(streamer="process", _input=garbage, **prepare("garbage"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
