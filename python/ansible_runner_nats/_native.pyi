"""The native part: encodes, holds, sends and confirms."""

from collections import UserString
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, Final, Literal, TypedDict, final, type_check_only

__all__ = [
    "SHELTER",
    "VERSION",
    "Emitter",
    "encode",
    "encode_carefully",
    "encode_status",
    "forked",
    "last_panic",
    "main",
    "shared_knowledge",
    "shut_down",
]

SHELTER: Final[str]
"""What the spool in a private data directory is called whose artifact directories are rotated."""

VERSION: Final[str]
"""The version of the package."""

# -- options: begin
@type_check_only
class NatsOptions(TypedDict, total=False):
    """The setting ``nats_options`` (made from src/config/options.rs: see there, or docs/options.md)."""

    servers: str | Sequence[str]
    """Servers to try: a list, or text with commas. Schemes ``nats``, ``tls``, ``ws``, ``wss``; credentials
    in a URL (percent-encoded) work.
    """

    context: str
    """A context of the ``nats`` command, by name or path: servers, credentials, TLS and JetStream domain
    from there. Any option of our own beats the context's field; with a user, token or key of our
    own the context's way to authenticate is left aside as a whole.
    """

    user_credentials: str | PathLike[str] | Sequence[str | PathLike[str]] | UserString
    """Path of a ``.creds`` file (JWT and nkey), or a list of two: the JWT's file and the seed's. Read at
    each connect, so that they may be renewed while a job runs. nats-py's ``RawCredentials``, or the
    whole content of such a file, works, too.
    """

    nkeys_seed_str: str | int
    """An nkey seed (``SU...``)."""

    nkeys_seed: str | int
    """Path of an nkey seed file (read at each connect), or the seed itself."""

    user: str | int | Callable[[], str]
    """User name. In code this, ``password`` and ``token`` may be functions without arguments that return
    the text: each is called once when a run begins.
    """

    password: str | int | Callable[[], str]
    """The user's password."""

    token: str | int | Callable[[], str]
    """A token that the server knows."""

    tls_ca: str | PathLike[str]
    """PEM file of the authorities that are trusted, instead of the system's."""

    tls_cert: str | PathLike[str]
    """PEM file of the client certificate."""

    tls_key: str | PathLike[str]
    """PEM file of the client certificate's key."""

    tls_hostname: str
    """The name that the server's certificate must have, instead of the URL's host (the name in SNI stays
    the URL's).
    """

    tls_handshake_first: bool | str
    """Begin TLS at once, before the server has said anything (as the server's option ``handshake_first``
    wants it).
    """

    subject: str
    """Where messages go. ``{name}`` is the event's name or the status, so that consumers can subscribe to
    ``….event.runner_on_failed`` alone.
    """

    events: str | Sequence[str]
    """Which events are published, all if it is not set: names with ``*`` and ``?``; ``!`` excludes.
    Statuses always are. A name without ``*`` and ``?`` that ansible-runner does not have is told in
    a warning.
    """

    omit: str | Sequence[str]
    """Fields that are left out, such as ``event_data.res,stdout``; lists are looked through."""

    status_env: Literal["redact", "omit", "full"]
    """What the status ``starting`` carries of the job's environment and command line. ``redact`` masks
    what looks secret: the values of names and options that say so (``...PASS...``, ``...TOKEN...``,
    ``...KEY...``, in ``-e``, ``--extra-vars`` and ``--name=value`` too), and passwords in addresses
    and connection strings. ``omit`` leaves the environment out and masks the command line, ``full``
    masks nothing but this plugin's own credentials.
    """

    mask_values: bool | str
    """Mask what the run was given under a secret name wherever it occurs in what is published, whatever
    prints it: from ``env/passwords``, ``env/extravars``, ``env/ssh_key``, ``-e``, the environment,
    and this plugin's own credentials. Values of fewer than 8 characters, and words that everybody
    uses, are not looked for.
    """

    actor: str
    """On whose behalf the job runs, for those who read about it: a portal sets it for each job. It goes
    out with the status ``starting`` (header ``Ansible-Runner-Card``).
    """

    cloudevents: bool | str
    """Add the headers of a CloudEvent (https://cloudevents.io) in binary mode."""

    delivery: Literal["auto", "jetstream", "core"]
    """What proves that a message arrived: ``auto``, a stream's acknowledgement where there is a stream,
    and else the server's echo, if anybody listens; ``jetstream``, a stream's acknowledgement alone;
    ``core``, the server's echo, even if nobody listens.
    """

    stream: str
    """The stream that must take the messages; implies ``delivery: jetstream``. Commands that read runs
    read this one.
    """

    jetstream_domain: str
    """The JetStream domain of the stream, where that is not the server's own: behind a leaf node. The
    commands ask there. A job's messages are confirmed by whatever acknowledges them, with or
    without it.
    """

    required: bool | str
    """The job does not start unless its first status, ``starting``, was confirmed: connection, permission,
    stream and room in it. ``NatsRequiredError`` says why not. Once it runs, nothing stops it.
    """

    flush_timeout: float | str
    """The most that the end of a run waits for confirmations; what is not confirmed by then goes to disk."""

    spill_dir: str | PathLike[str]
    """Where undelivered messages go, instead of the run's artifact directory: one folder for each run is
    made in it. What is left there is sent by the next run there: with the same ``spill_dir``, host,
    servers, login and subject id.
    """

    pending_size: int | str
    """Bytes held in memory while they wait, for all runs of a process that share a connection; more goes
    to disk, as much as there is, until there is room again.
    """

    flusher_queue_size: int | str
    """The most messages that may be sent and not yet confirmed."""

    heartbeat: float | str
    """Pause between two signs of life of a run that goes on, on the subject whose ``{kind}`` is
    ``heartbeat``. Sent if there is a connection, and never kept to be sent later. 0: none.
    """

    name: str
    """The client name that the server shows; without it ``ansible-runner-nats SUBJECT_ID on HOST``."""

    verbose: bool | str
    """Log each step of the connection (INFO)."""

    allow_reconnect: bool | str
    """Connect again when a connection breaks."""

    connect_timeout: float | str
    """For one attempt to connect, name look-up included."""

    reconnect_time_wait: float | str
    """Pause before a server is tried again (the first retry is at once)."""

    max_reconnect_attempts: int | str
    """After so many failures in a row a server is given up. -1: never, as long as a run is open."""

    ping_interval: float | str
    """Pause between two PINGs on a connection."""

    max_outstanding_pings: int | str
    """Unanswered PINGs after which a connection is stale. The second variable is how 0.4.0 spelt it."""

    inbox_prefix: str | bytes
    """The beginning of the subject to which answers to this client come, confirmations among them."""

    dont_randomize: bool | str
    """Try the servers in the given order."""

    no_echo: object
    """Without effect: the echo of our own markers is what confirms delivery."""

    pedantic: object
    """Without effect: subjects are checked before they are sent."""

    drain_timeout: object
    """Without effect: ``flush_timeout`` bounds the end of a run."""

    skip_subject_validation: object
    """Without effect: subjects are made valid before they are sent."""

    reconnect_to_server_handler: object
    """Without effect: the servers in ``servers`` are tried in turn."""

    error_cb: object
    """Without effect: what happens to the connection is logged; ``verbose`` logs each step."""

    disconnected_cb: object
    """Without effect: what happens to the connection is logged; ``verbose`` logs each step."""

    closed_cb: object
    """Without effect: what happens to the connection is logged; ``verbose`` logs each step."""

    discovered_server_cb: object
    """Without effect: what happens to the connection is logged; ``verbose`` logs each step."""

    reconnected_cb: object
    """Without effect: what happens to the connection is logged; ``verbose`` logs each step."""

    lame_duck_mode_cb: object
    """Without effect: what happens to the connection is logged; ``verbose`` logs each step."""

# -- options: end

@type_check_only
class RunStream(TypedDict):
    """A stream that has stored messages of a run."""

    name: str

    created: str | None
    """When it was made, as the server writes it; ``None`` if nobody was allowed to ask."""

    last_sequence: int
    """The highest number that it has acknowledged."""

    went_back: bool
    """Its numbers went back while the run went on: it has lost what it had acknowledged."""

@type_check_only
class RunDestination(TypedDict):
    """Where a run's messages were to go."""

    servers: list[str]
    """Their addresses."""

    login: str | None
    """Who publishes, if somebody in particular."""

@type_check_only
class RunReport(TypedDict):
    """What became of a run's messages: each is confirmed, undelivered, unproven or lost in the end."""

    version: int
    """Of this format."""

    plugin: str
    """The version of this package."""

    subject_id: str
    runner_ident: str

    run_id: str | None
    """What tells the run from others of that ident: the header ``Ansible-Runner-Run``, a UUID."""

    state: Literal["running", "ended", "killed"]
    """``running`` in the record of a process that is gone: the run was killed. ``killed``: what was left of
    it has been taken up since.
    """

    pid: int
    host: str

    pid_namespace: str | None
    """The namespace that ``pid`` is of (Linux): containers count their processes on their own."""

    card: dict[str, Any] | None
    """Who runs what where: the header ``Ansible-Runner-Card`` of its first status (docs/messages.md)."""

    started: str
    """When its first message came (RFC 3339)."""

    ended: str | None

    destination: RunDestination
    """Where its messages were to go, without secrets."""

    artifact_dir: str | None
    """ansible-runner's artifact directory, which has all events."""

    server: str | None
    """Name and address of the last server."""

    delivery: Literal["jetstream", "core", "none"]
    """What confirmed its messages."""

    accepted: int
    """Messages taken from ansible-runner."""

    confirmed: int
    """By a stream, or by the server's echo."""

    stored: int
    """Of the confirmed ones, those in a stream."""

    routed: int
    """Of the confirmed ones, those that the server has routed to whoever subscribed; no stream has them."""

    resent: int
    """Sent once more (not a fate of its own)."""

    undelivered: int
    """Kept in ``files``."""

    unheard: int
    """Of the undelivered ones, those that nobody had heard when tried last, neither a stream nor a
    subscriber.
    While the run goes on: what waits because of that."""

    unproven: int
    """Sent to a server that forbids us to ask for a confirmation."""

    lost: int

    recovered: int
    """Sent after the end, by another run or by ``replay``; they count as confirmed, too."""

    unconfirmed_counters: list[tuple[int, int]]
    """Counters of events that are neither confirmed nor in a file: ranges, both ends included."""

    files: list[str]

    streams: list[RunStream]
    """The streams that have stored its messages, and how far."""

    problem: str | None
    """What went wrong last; never ``None`` if anything is undelivered, unproven or lost."""

    waited: float
    """Seconds that the end of the run waited."""

@final
class Emitter:
    """Publishes the messages of one run.

    What there is to log is returned as pairs of a level of :mod:`logging` and a line without secrets.
    Problems are told once per run.
    """

    def __new__(
        cls,
        settings: Any,
        ident: object = None,
        artifact_dir: str | PathLike[str] | None = None,
        runner_version: str | None = None,
        before: Emitter | None = None,
        shelter: str | PathLike[str] | None = None,
    ) -> Emitter:
        """Read the options from ``settings`` (a mapping) and the environment, which wins.

        :param settings: ``runner_config.settings``: ``nats_subject_id``, ``nats_options``, ``nats_headers``.
        :param ident: The run's ident, for data that carries none (``runner_ident``).
        :param artifact_dir: Where undelivered messages go, unless ``spill_dir`` says otherwise.
        :param runner_version: ansible-runner's version, for the card of the run.
        :param before: The emitter of this configuration object whose run has ended: until the next
            ``starting`` what comes is of that run.
        :param shelter: Where undelivered messages go if the artifact directory will be removed by
            ansible-runner itself; ``spill_dir`` beats it.

        Bad options raise nothing: they are told by the first call of a method. If servers, authentication or
        TLS are concerned, nothing is published.
        """

    def event(self, data: dict[str, Any]) -> list[tuple[int, str]] | None:
        """Hand over one event; never waits for the network.

        :param data: As ansible-runner gives it. Its ``runner_ident``, ``counter`` and ``uuid`` are used.
        :return: ``None`` if there is nothing to log.
        """

    def status(self, data: dict[str, Any]) -> list[tuple[int, str]] | None:
        """Hand over one status; otherwise as :meth:`event`."""

    def masks_values(self) -> bool:
        """Whether the run's own secrets are to be masked wherever they occur (option ``mask_values``)."""

    def learn(self, passwords: object, variables: object, key: object) -> None:
        """Take in what the run was given, so that it is masked.

        :param passwords: Secrets, whatever they are called: text, or mappings and lists of it.
        :param variables: A mapping; secret is what its names say so of.
        :param key: A private key.

        What cannot be understood is left aside; nothing is raised.
        """

    def has_spill_dir(self) -> bool:
        """Whether there is a folder for what cannot be delivered (``spill_dir``), or nothing is published."""

    def refuse_start(self) -> str | None:
        """Why the job must not start: ``required`` is set, and ``starting`` was published and not confirmed.

        Waits until every server was tried, ``connect_timeout`` each, and then ``flush_timeout`` for the
        confirmation. ``None`` if all is well, or nothing is required; otherwise nothing of the run is sent or
        kept. Runs without the GIL; a signal ends the waiting with its exception.
        """

    def report(self) -> RunReport | None:
        """What became of the messages, so far or until the end; ``None`` if nothing was published."""

    def notices(self) -> list[tuple[int, str]]:
        """What there is to log since the last call of any method."""

    def finish(self) -> list[tuple[int, str]]:
        """End the run: wait until all is confirmed, ``flush_timeout`` seconds at most.

        What is not confirmed by then goes to ``nats-undelivered.jsonl``. Runs without the GIL. A signal ends
        the waiting; then its exception (``KeyboardInterrupt``) is raised when the messages are on disk.
        """

def encode(value: Any) -> bytes:
    """JSON of ``value``: what ``json.dumps`` means, and something readable where that would fail.

    :raises MemoryError: if there is not enough memory for it.
    :raises KeyboardInterrupt: or whatever else is no ``Exception``, if Python code that is called does.
    """

def encode_carefully(value: Any) -> bytes:
    """The same as :func:`encode`, by the walk that takes anything alone.

    :raises MemoryError: if there is not enough memory for it.
    """

def encode_status(value: Any) -> bytes:
    """JSON of a status as it is published by default: secrets in its ``env`` and ``command`` are masked.

    :raises MemoryError: if there is not enough memory for it.
    """

def forked() -> None:
    """To be called in a forked child before anything else of this library (:func:`os.register_at_fork`)."""

def last_panic() -> str:
    """Where the last panic of this library happened (``file:line:column``), for a bug report."""

def main(args: Sequence[str]) -> int:
    """Run the console script with ``args`` (program name first); return its exit status."""

def shared_knowledge(subject_id: object) -> dict[str, Any]:
    """What the shim knows as well, as it may not load this library before a run is enabled; for tests.

    :return: ``true`` (words), ``end_states`` (statuses), ``enables`` (whether a ``nats_subject_id`` of this
        value enables the plugin).
    """

def shut_down() -> list[tuple[int, str]]:
    """End every run of this process that did not end itself (called when the interpreter ends).

    They wait together: none longer than its ``flush_timeout``, so all of them no longer than the longest one.
    Runs without the GIL.
    """
