"""The messages as ``TypedDict``: what a consumer's type checker knows about them.

    event: Event = json.loads(message.data)
    if event["event"] == "runner_on_failed":
        data = event["event_data"]  # of RunnerOnFailed, says the type checker

A type checker narrows :data:`Event` by the kind in ``event["event"]``. Messages may have more than is here:
kinds and fields that are not known yet. A very few events have no kind: see :data:`Event`.

Made from the JSON Schemas in ``docs/schemas`` by ``docs/from_schemas.py``: do not edit.
"""

# Other libraries may look at the annotations at run time, on Python 3.9, too: they are no strings.
# ruff: noqa: FA100

from typing import Any, Literal, TypedDict, Union

Cut = str
"""What is left of a list or mapping that was too large. The server's max_payload did not allow it; the header
Ansible-Runner-Truncated is set then.
"""

AnyMapping = Union[dict[str, Any], Cut]
"""A mapping, or what is left of it if the message was cut."""

Counts = Union[dict[str, int], Literal[0], Cut]
"""Host name to number of tasks, or what is left of it if the message was cut. 0 with an Ansible that does not
count this.
"""

Time = str
"""ISO 8601. ansible-runner 2.4 and later: RFC 3339 with +00:00. Before: UTC too, but without an offset, so no
RFC 3339.
"""

Id = str
"""A UUID; behind it may stand _2, _3, ...: ansible runs the same play or task again with `serial` or the free
strategy.
"""

Result = AnyMapping
"""What the module returned. Its form is the module's business. {"censored": ...} with no_log; {} if it was
larger than MAX_EVENT_RES.
"""


class _AnyEvent(TypedDict):
    """What :class:`AnyEvent` has always."""

    uuid: Id
    counter: int
    """Rises by one from event to event of a run, from 1. With runner_mode=subprocess standard output and
    standard error each count from 1.
    """
    stdout: str
    """What Ansible printed with this event, with terminal colours. Often empty."""
    start_line: int
    """Where that begins in the run's output."""
    end_line: int
    runner_ident: str
    """The run."""
    created: Time


class AnyEvent(_AnyEvent, total=False):
    """What every event has."""

    parent_uuid: Id
    """The uuid of the task, play or playbook that this belongs to, if there is one."""
    verbosity: int
    """With verbose output: the number of -v that it takes."""
    job_id: Union[int, str]
    """The environment variable JOB_ID, if it is set. A host that calls ansible-runner may put an id of its
    own here: ansible-rulebook puts a UUID.
    """
    ansible_rulebook_id: str
    """From ansible-rulebook alone: which of its processes it was."""
    ad_hoc_command_id: int
    """The same of AD_HOC_COMMAND_ID; ansible-runner sets it for a run of a single module."""
    project_update_id: int


class EventData(TypedDict, total=False):
    """Details.

    Empty if the job runs with omit_event_data; with only_failed_event_data empty unless a task failed.
    """

    uuid: Id
    playbook: str
    """The playbook's file."""
    playbook_uuid: Id
    play: str
    """The play's name. A run of a single module has no play."""
    play_uuid: Id
    play_pattern: str
    task: str
    """The task's name, or its action's if it has none."""
    task_uuid: Id
    task_action: str
    """The action as the playbook has it."""
    resolved_action: Union[str, None]
    """The action's full name. Not with ansible-runner 2.0."""
    task_args: str
    """Empty unless Ansible is told to display arguments."""
    task_path: str
    """file:line"""
    role: str
    resolved_role: str
    host: str
    """The host's name in the inventory."""
    remote_addr: str
    """The host's address, often its name."""


class PlaybookData(EventData, total=False):
    """Within a playbook.

    Unless it is empty it has `uuid`, `playbook`, `playbook_uuid`.
    """


class TaskData(PlaybookData, total=False):
    """Within a task.

    Unless it is empty it has `task`, `task_uuid`, `task_action`, `task_args`.
    """


class HostData(TaskData, total=False):
    """A task on one host.

    Unless it is empty it has `host`.
    """


class Timing(TypedDict, total=False):
    """When the task began and ended on this host.

    Unless it is empty it has `start`, `end`, `duration`.
    """

    start: Union[Time, None]
    end: Union[Time, None]
    duration: Union[float, None]
    """Seconds."""


class ResultData(HostData, total=False):
    """The result of a task on one host.

    Unless it is empty it has `res`.
    """

    res: Result


class AsyncData(ResultData, total=False):
    """News of a task that runs in the background.

    Unless it is empty it has `jid`.
    """

    jid: Union[str, None]


class FinalData(HostData, Timing, total=False):
    """The result that ends a task on one host.

    Unless it is empty it has `remote_addr`.
    """


class _Output(AnyEvent, total=False):
    """What plain output may have."""

    pid: int
    event_data: Union[EventData, Cut]


class PlaybookOnStart(AnyEvent):
    """A playbook begins."""

    event: Literal["playbook_on_start"]
    pid: int
    event_data: Union[PlaybookData, Cut]


class PlaybookOnVarsPromptData(PlaybookData, total=False):
    """The ``event_data`` of :class:`PlaybookOnVarsPrompt`.

    Unless it is empty it has `varname`, `private`.
    """

    varname: str
    private: bool


class PlaybookOnVarsPrompt(AnyEvent):
    """A play asks for a variable."""

    event: Literal["playbook_on_vars_prompt"]
    pid: int
    event_data: Union[PlaybookOnVarsPromptData, Cut]


class PlaybookOnIncludeData(PlaybookData, total=False):
    """The ``event_data`` of :class:`PlaybookOnInclude`.

    Unless it is empty it has `included_file`.
    """

    included_file: Union[str, None]


class PlaybookOnInclude(AnyEvent):
    """A file of tasks is included."""

    event: Literal["playbook_on_include"]
    pid: int
    event_data: Union[PlaybookOnIncludeData, Cut]


class PlaybookOnPlayStartData(PlaybookData, total=False):
    """The ``event_data`` of :class:`PlaybookOnPlayStart`.

    Unless it is empty it has `name`, `pattern`, `play`, `play_uuid`, `play_pattern`.
    """

    name: str
    pattern: str


class PlaybookOnPlayStart(AnyEvent):
    """A play begins."""

    event: Literal["playbook_on_play_start"]
    pid: int
    event_data: Union[PlaybookOnPlayStartData, Cut]


class PlaybookOnTaskStartData(TaskData, total=False):
    """The ``event_data`` of :class:`PlaybookOnTaskStart`.

    Unless it is empty it has `name`, `is_conditional`.
    """

    name: str
    is_conditional: bool


class PlaybookOnTaskStart(AnyEvent):
    """A task begins, or a handler (`is_conditional` is true then)."""

    event: Literal["playbook_on_task_start"]
    pid: int
    event_data: Union[PlaybookOnTaskStartData, Cut]


class PlaybookOnNotifyData(PlaybookData, total=False):
    """The ``event_data`` of :class:`PlaybookOnNotify`.

    Unless it is empty it has `host`, `handler`.
    """

    handler: str


class PlaybookOnNotify(AnyEvent):
    """A handler was notified."""

    event: Literal["playbook_on_notify"]
    pid: int
    event_data: Union[PlaybookOnNotifyData, Cut]


class PlaybookOnNoHostsMatched(AnyEvent):
    """A play's pattern matches no host."""

    event: Literal["playbook_on_no_hosts_matched"]
    pid: int
    event_data: Union[PlaybookData, Cut]


class PlaybookOnNoHostsRemaining(AnyEvent):
    """A play ends early, because all of its hosts failed."""

    event: Literal["playbook_on_no_hosts_remaining"]
    pid: int
    event_data: Union[PlaybookData, Cut]


class PlaybookOnSetup(AnyEvent):
    """Not sent by any Ansible that this was tested with."""

    event: Literal["playbook_on_setup"]
    pid: int
    event_data: Union[PlaybookData, Cut]


class PlaybookOnImportForHost(AnyEvent):
    """Not sent by any Ansible that this was tested with."""

    event: Literal["playbook_on_import_for_host"]
    pid: int
    event_data: Union[PlaybookData, Cut]


class PlaybookOnNotImportForHost(AnyEvent):
    """Not sent by any Ansible that this was tested with."""

    event: Literal["playbook_on_not_import_for_host"]
    pid: int
    event_data: Union[PlaybookData, Cut]


class PlaybookOnStatsData(PlaybookData, total=False):
    """The ``event_data`` of :class:`PlaybookOnStats`.

    Unless it is empty it has `changed`, `dark`, `failures`, `ignored`, `ok`, `processed`, `rescued`,
    `skipped`.
    """

    changed: Counts
    dark: Counts
    failures: Counts
    ignored: Counts
    ok: Counts
    processed: Counts
    rescued: Counts
    skipped: Counts
    artifact_data: AnyMapping
    """What set_stats has set for the whole run."""


class PlaybookOnStats(AnyEvent):
    """The last event of a playbook: how it went, by host."""

    event: Literal["playbook_on_stats"]
    pid: int
    event_data: Union[PlaybookOnStatsData, Cut]


class RunnerOnStart(AnyEvent):
    """A task begins on a host."""

    event: Literal["runner_on_start"]
    pid: int
    event_data: Union[HostData, Cut]


class RunnerOnOkData(FinalData, ResultData, total=False):
    """The ``event_data`` of :class:`RunnerOnOk`.

    Unless it is empty it has `event_loop`.
    """

    event_loop: Union[str, None]
    """How the task loops (items, dict, ...), null if it does not."""


class RunnerOnOk(AnyEvent):
    """A task went well on a host."""

    event: Literal["runner_on_ok"]
    pid: int
    event_data: Union[RunnerOnOkData, Cut]


class RunnerOnFailedData(FinalData, ResultData, total=False):
    """The ``event_data`` of :class:`RunnerOnFailed`.

    Unless it is empty it has `event_loop`, `ignore_errors`.
    """

    event_loop: Union[str, None]
    """How the task loops (items, dict, ...), null if it does not."""
    ignore_errors: Union[bool, None]


class RunnerOnFailed(AnyEvent):
    """A task failed on a host. With `ignore_errors` true the play goes on; a `rescue` may follow, too."""

    event: Literal["runner_on_failed"]
    pid: int
    event_data: Union[RunnerOnFailedData, Cut]


class RunnerOnSkippedData(FinalData, total=False):
    """The ``event_data`` of :class:`RunnerOnSkipped`.

    Unless it is empty it has `event_loop`.
    """

    event_loop: Union[str, None]
    """How the task loops (items, dict, ...), null if it does not."""


class RunnerOnSkipped(AnyEvent):
    """A task was skipped on a host. There is no `res`."""

    event: Literal["runner_on_skipped"]
    pid: int
    event_data: Union[RunnerOnSkippedData, Cut]


class RunnerOnUnreachableData(FinalData, ResultData, total=False):
    """The ``event_data`` of :class:`RunnerOnUnreachable`."""


class RunnerOnUnreachable(AnyEvent):
    """A host cannot be reached."""

    event: Literal["runner_on_unreachable"]
    pid: int
    event_data: Union[RunnerOnUnreachableData, Cut]


class RunnerOnNoHosts(AnyEvent):
    """Not sent by any Ansible that this was tested with."""

    event: Literal["runner_on_no_hosts"]
    pid: int
    event_data: Union[TaskData, Cut]


class RunnerOnAsyncPoll(AnyEvent):
    """A task in the background is not ready yet."""

    event: Literal["runner_on_async_poll"]
    pid: int
    event_data: Union[AsyncData, Cut]


class RunnerOnAsyncOk(AnyEvent):
    """A task in the background went well; `runner_on_ok` follows."""

    event: Literal["runner_on_async_ok"]
    pid: int
    event_data: Union[AsyncData, Cut]


class RunnerOnAsyncFailed(AnyEvent):
    """A task in the background failed; `runner_on_failed` follows."""

    event: Literal["runner_on_async_failed"]
    pid: int
    event_data: Union[AsyncData, Cut]


class RunnerOnFileDiffData(HostData, total=False):
    """The ``event_data`` of :class:`RunnerOnFileDiff`.

    Unless it is empty it has `diff`.
    """

    diff: Union[dict[str, Any], list[Any], str, bool, None]
    """A mapping or a list of them, as the module has it; false or null if there is none."""


class RunnerOnFileDiff(AnyEvent):
    """With --diff: what a task changes in a file."""

    event: Literal["runner_on_file_diff"]
    pid: int
    event_data: Union[RunnerOnFileDiffData, Cut]


class RunnerItemOnOk(AnyEvent):
    """A task went well on a host with one item of its loop."""

    event: Literal["runner_item_on_ok"]
    pid: int
    event_data: Union[ResultData, Cut]


class RunnerItemOnFailed(AnyEvent):
    """A task failed on a host with one item of its loop."""

    event: Literal["runner_item_on_failed"]
    pid: int
    event_data: Union[ResultData, Cut]


class RunnerItemOnSkipped(AnyEvent):
    """A task was skipped on a host with one item of its loop."""

    event: Literal["runner_item_on_skipped"]
    pid: int
    event_data: Union[ResultData, Cut]


class RunnerRetry(AnyEvent):
    """A task with `until` will be tried again."""

    event: Literal["runner_retry"]
    pid: int
    event_data: Union[ResultData, Cut]


class VerboseOutput(_Output):
    """Output that belongs to nothing else.

    It is that of -v, banners, and all that Ansible or another program prints by itself. `event_data` and
    `pid` are missing if it did not come from Ansible's display.
    """

    event: Literal["verbose"]


class DebugOutput(_Output):
    """Output of ANSIBLE_DEBUG."""

    event: Literal["debug"]


class DeprecatedOutput(_Output):
    """A deprecation."""

    event: Literal["deprecated"]


class WarningOutput(_Output):
    """A warning."""

    event: Literal["warning"]


class SystemWarningOutput(_Output):
    """A warning about the system that Ansible runs on."""

    event: Literal["system_warning"]


class ErrorOutput(_Output):
    """An error that belongs to no task."""

    event: Literal["error"]


Event = Union[
    PlaybookOnStart,
    PlaybookOnVarsPrompt,
    PlaybookOnInclude,
    PlaybookOnPlayStart,
    PlaybookOnTaskStart,
    PlaybookOnNotify,
    PlaybookOnNoHostsMatched,
    PlaybookOnNoHostsRemaining,
    PlaybookOnSetup,
    PlaybookOnImportForHost,
    PlaybookOnNotImportForHost,
    PlaybookOnStats,
    RunnerOnStart,
    RunnerOnOk,
    RunnerOnFailed,
    RunnerOnSkipped,
    RunnerOnUnreachable,
    RunnerOnNoHosts,
    RunnerOnAsyncPoll,
    RunnerOnAsyncOk,
    RunnerOnAsyncFailed,
    RunnerOnFileDiff,
    RunnerItemOnOk,
    RunnerItemOnFailed,
    RunnerItemOnSkipped,
    RunnerRetry,
    VerboseOutput,
    DebugOutput,
    DeprecatedOutput,
    WarningOutput,
    SystemWarningOutput,
    ErrorOutput,
]
"""Any event of a kind that is described here. There may be others: ignore kinds that you do not know. An
event has no "event" if ansible-runner could not read what Ansible had to say with some output: ask with
`"event" in event` before.
"""


class _Status(TypedDict):
    """What :class:`Status` has always."""

    status: Literal["starting", "running", "successful", "failed", "canceled", "timeout", "error"]


class Status(_Status, total=False):
    """A change of a run's state. `successful`, `failed`, `canceled`, `timeout` and `error` end it."""

    runner_ident: str
    """The run. Missing in `error` alone."""
    command: Union[list[str], str]
    """With `starting`: what is run, masked."""
    env: AnyMapping
    """With `starting`: its environment, masked. Missing with status_env: omit."""
    cwd: Union[str, None]
    """With `starting`: where it is run."""
    job_explanation: str
    """With `error`: why."""
    result_traceback: str
    """With `error`, perhaps: where."""


class Heartbeat(TypedDict):
    """A sign of life of a run that goes on (option `heartbeat`).

    Sent if there is a connection, never kept. The last one of a run, where there is one, says how it ended.
    """

    heartbeat: int
    """The number of this sign, from 1."""
    runner_ident: str
    """The run."""
    created: str
    """When it was made: RFC 3339, in UTC."""
    status: Literal["running", "successful", "failed", "canceled", "timeout", "error"]
    """`running`; of the last sign the run's last status."""
    events: int
    """The highest `counter` so far, 0 before the first event."""


class Killed(TypedDict):
    """A run was killed.

    Said on the subject of its signs of life by whoever has taken up what was left of it: the next run there,
    or `replay`. Nothing comes after it.
    """

    state: Literal["killed"]
    runner_ident: str
    """The run."""
    host: str
    """Where its process was."""
    pid: int
    """The id of its process there."""
    events: int
    """The highest `counter` of its events, 0 if there is none."""


class _Card(TypedDict):
    """What :class:`Card` has always."""

    host: str
    """The host that publishes."""
    pid: int
    """The process there."""
    user: str
    """Its user: a name, or a number without one."""
    plugin: str
    """The version of this package."""


class Card(_Card, total=False):
    """Who runs what where: the header `Ansible-Runner-Card` of the status `starting`.

    What is not known is left out. Secrets are masked, as everywhere.
    """

    actor: str
    """On whose behalf (option `actor`)."""
    revision: str
    """The commit that is checked out in the project's folder."""
    ansible_runner: str
    """The version of ansible-runner."""
    python: str
    """The version of Python."""
