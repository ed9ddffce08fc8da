"""What ansible-runner calls: forwards dicts to the native emitter, and never lets an exception out.

But for one, which the user asks for: with the option ``required`` a job does not start unless its first
status is confirmed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ._native import Emitter, RunReport

    Notices = Iterable[tuple[int, str]] | None

logger = logging.getLogger("ansible-runner.nats")

#: The states that end a run; ``error`` comes from ``ansible-runner process`` alone.
END_STATES = frozenset({"successful", "failed", "canceled", "timeout", "error"})

#: How many different internal errors a process tells.
MOST_CONTAINED = 20

#: How much of it, in characters.
LONGEST_CONTAINED = 500

#: How many workers' streams are remembered.
MOST_STREAMS = 10

#: One emitter per run, by the ``id`` of its configuration object, which is watched lest the id be used again.
_emitters: dict[int, tuple[Any, Emitter]] = {}

#: What each event goes to, by the same ``id``: all that most calls have to find. A fork empties it.
_publishers: dict[int, Callable[[dict[str, Any]], Notices]] = {}

#: Emitters of runs that have ended, as long as the configuration object lives: for :func:`report`.
_ended: dict[int, tuple[Any, Emitter]] = {}

#: Whether this process was forked since its end is watched: the child has to do that again.
_forked = True

#: Whether Python tells us of forks.
_sees_forks = False

#: Whether the interpreter ends: what daemon threads publish now is nobody's any more.
_closing = False

#: The version of ansible-runner, once it was looked up; empty if it has none.
_version: str | None = None

#: Why the native library could not be loaded: said once.
_broken: str | None = None

#: Where workers of this process have written their streams to.
_streams: list[os.stat_result] = []

#: Whether it was said that what cannot be delivered would vanish.
_warned = False

#: Internal errors that were told: one line a cause, not one an event.
_contained: set[str] = set()


def event_handler(runner_config: Any, data: dict[str, Any]) -> None:
    """Publish one event (called by ``ansible_runner.runner.Runner.event_callback``)."""
    try:
        publish = _publishers.get(id(runner_config)) or _publisher(runner_config)
        if publish is not None:
            notices = publish(data)
            if notices:
                _tell(notices)
    except BaseException as exception:  # noqa: BLE001 - a Rust panic is no Exception
        try:  # noqa: SIM105 - no room for one call more
            _contain(exception)
        except RecursionError:
            pass


def status_handler(runner_config: Any, data: dict[str, Any]) -> None:
    """Publish one status (called by ``ansible_runner.runner.Runner.status_callback``).

    The status that ends a run waits until the server has confirmed everything, at most ``flush_timeout``.

    :raises ansible_runner_nats.NatsRequiredError: at ``starting``, if ``required`` is set and that status is
        not confirmed.
    """
    refusal = None
    try:
        status = data.get("status") if isinstance(data, dict) else None
        if status == "starting":
            refusal = _start(runner_config, data)
        else:
            emitter = _emitter(runner_config)
            if emitter is not None:
                try:
                    _tell(emitter.status(data))
                finally:
                    if _is_end(status):
                        _finish(runner_config)
    except BaseException as exception:  # noqa: BLE001 - a Rust panic is no Exception
        try:  # noqa: SIM105 - no room for one call more
            _contain(exception)
        except RecursionError:
            pass
    if refusal is not None:
        from .exceptions import NatsRequiredError  # noqa: PLC0415 - ansible_runner may not be imported yet

        message = f"the job was not started: NATS is required (RUNNER_NATS_REQUIRED), but {refusal}"
        raise NatsRequiredError(message)


def report(runner_config: Any) -> RunReport | None:
    """What became of the messages of a run, so far or until its end.

    The same as the record ``nats-run.json`` (docs/operations.md): how many messages were accepted, confirmed,
    kept on disk (``undelivered``, in ``files``) or lost, by which server, and how long the end waited.

    :param runner_config: The run's configuration object, such as ``runner.config`` of what
        ``ansible_runner.run`` returns.
    :return: ``None`` if nothing of this run was published in this process.
    """
    entry = _emitters.get(id(runner_config)) or _ended.get(id(runner_config))
    return None if entry is None else entry[1].report()


def _publisher(runner_config: Any) -> Callable[[dict[str, Any]], Notices] | None:
    """What the events of this run go to; ``None`` if the plugin is not enabled."""
    emitter = _emitter(runner_config)
    if emitter is None:
        return None
    _publishers[id(runner_config)] = emitter.event
    return emitter.event


def _emitter(runner_config: Any) -> Emitter | None:
    """The emitter of this run, made with its first message; ``None`` if the plugin is not enabled."""
    entry = _emitters.get(id(runner_config))
    if _closing:
        return None
    if entry is not None and not _forked:
        return entry[1]
    if entry is None and not _is_enabled(runner_config):
        return None
    emitter = entry[1] if entry is not None else _create(runner_config)
    if emitter is not None and _forked:
        _watch_exit()
    return emitter


def _is_enabled(runner_config: Any) -> bool:
    if os.environ.get("RUNNER_NATS_SUBJECT_ID"):
        return True
    settings = getattr(runner_config, "settings", None)
    return isinstance(settings, Mapping) and bool(settings.get("nats_subject_id"))


def _is_end(status: object) -> bool:
    return isinstance(status, str) and status in END_STATES


def _start(runner_config: Any, data: dict[str, Any]) -> str | None:
    """Publish ``starting``; return why the job must not start."""
    if not _is_enabled(runner_config):
        return None
    try:
        emitter = _emitter(runner_config)
        if emitter is None:
            return _broken if _asks_for_required(runner_config) else None
        notices = emitter.status(data)
        refusal = emitter.refuse_start()
        _tell(notices)
    except BaseException as exception:  # noqa: BLE001 - a Rust panic is no Exception
        _contain(exception)
        if not _asks_for_required(runner_config):
            return None
        refusal = "there was an internal error"
    if refusal is not None:
        _take(id(runner_config))
    return refusal


def _asks_for_required(runner_config: Any) -> bool:
    """Whether ``required`` is set, when the native library is not there to say."""
    settings = getattr(runner_config, "settings", None)
    options = settings.get("nats_options") if isinstance(settings, Mapping) else None
    setting = options.get("required") if isinstance(options, Mapping) else None
    asked = os.environ.get("RUNNER_NATS_REQUIRED") or setting
    return str(asked).strip().lower() in {"true", "yes", "y", "1", "on"}


def _take(key: int) -> tuple[Any, Emitter] | None:
    """Nothing more is published for this run."""
    _publishers.pop(key, None)
    return _emitters.pop(key, None)


def _finish(runner_config: Any) -> None:
    entry = _take(id(runner_config))
    if entry is not None:
        if entry[0] is not runner_config:
            # Only what is watched: others would be kept for ever.
            _ended[id(runner_config)] = entry
        _tell(entry[1].finish())


def _create(runner_config: Any) -> Emitter | None:
    global _broken  # noqa: PLW0603
    if _broken is not None:
        return None
    try:
        with _no_fork():
            from . import _native  # noqa: PLC0415 - not before a run is enabled
    except ImportError as error:
        _broken = f"cannot load the native library, nothing is published: {error}"
        _tell([(logging.ERROR, _broken)])
        return None
    if not _sees_forks:
        _see_forks(_native.forked)
    artifact_dir = getattr(runner_config, "artifact_dir", None)
    emitter = _native.Emitter(
        getattr(runner_config, "settings", None) or {},
        getattr(runner_config, "ident", None),
        None if artifact_dir is None else os.fsdecode(artifact_dir),
        _runner_version(),
        _ended[id(runner_config)][1] if id(runner_config) in _ended else None,
        _shelter(runner_config, _native.SHELTER),
    )
    _warn_of_folder(runner_config, emitter)
    if emitter.masks_values():
        emitter.learn(
            getattr(runner_config, "passwords", None),
            _variables(runner_config),
            getattr(runner_config, "ssh_key_data", None),
        )
    key = id(runner_config)

    def forget(_: object) -> None:
        _take(key)
        _ended.pop(key, None)

    watched: Any
    try:
        watched = weakref.ref(runner_config, forget)
    except TypeError:
        watched = runner_config
    return _emitters.setdefault(key, (watched, emitter))[1]


def _runner_version() -> str | None:
    """Return ansible-runner's version, for the card of a run; ``None`` if nothing of it is installed."""
    global _version  # noqa: PLW0603
    if _version is None:
        _version = ""
        # ansible-runner has loaded it, to find us; an import of ours might be the first.
        metadata = sys.modules.get("importlib.metadata") or sys.modules.get("importlib_metadata")
        with contextlib.suppress(Exception):
            _version = str(metadata.version("ansible-runner")) if metadata else ""
    return _version or None


@contextlib.contextmanager
def _no_fork() -> Iterator[None]:
    """Let no other thread fork meanwhile.

    A child that is forked in the midst of an import finds the module locked for ever. ``os.fork`` waits for
    the lock that is taken here, and not for a module's own.
    """
    import _imp  # noqa: PLC0415 - where it is in all versions of CPython

    _imp.acquire_lock()
    try:
        yield
    finally:
        _imp.release_lock()


def _variables(runner_config: Any) -> list[object]:
    """Return the variables that the job was given: as a dict, and as a file.

    ``ansible_runner.config.runner.RunnerConfig.generate_ansible_command`` hands both to ansible.
    """
    variables = [getattr(runner_config, "extra_vars", None)]
    loader = getattr(runner_config, "loader", None)
    for path in ("env/extravars", variables[0]):
        # What it cannot read, ansible cannot read either; what it says may quote a secret.
        with contextlib.suppress(Exception):
            if isinstance(path, str) and loader is not None and loader.isfile(path):
                variables.append(loader.load_file(path, Mapping))
    return variables


def _warn_of_folder(runner_config: Any, emitter: Emitter) -> None:
    """Say, once a process, that what cannot be delivered would be in a folder that somebody removes."""
    global _warned  # noqa: PLW0603
    if _warned or emitter.has_spill_dir() or not getattr(runner_config, "artifact_dir", None):
        return
    reason = _why_it_vanishes(runner_config)
    if reason is None:
        return
    _warned = True
    text = (
        f"what cannot be delivered is kept in the artifact directory, and {reason}: "
        "set spill_dir (RUNNER_NATS_SPILL_DIR) to a folder that lasts"
    )
    _tell([(logging.WARNING, text)])


def _shelter(runner_config: Any, name: str) -> str | None:
    """Return where undelivered messages go if the next runs will remove the artifact directory.

    ``ansible_runner.utils.cleanup_artifact_dir`` takes everything that is beside it, too.
    """
    folder = getattr(runner_config, "private_data_dir", None)
    if _rotated(runner_config) == 0 or not isinstance(folder, (str, bytes, os.PathLike)):
        return None
    return f"{os.fsdecode(folder)}/{name}"


def _rotated(runner_config: Any) -> int:
    """How many artifact directories are kept; 0: all."""
    rotated = getattr(runner_config, "rotate_artifacts", 0)
    return max(rotated, 0) if isinstance(rotated, int) else 0


def _why_it_vanishes(runner_config: Any) -> str | None:
    rotated = _rotated(runner_config)
    if rotated > 0 and not getattr(runner_config, "private_data_dir", None):
        return f"rotate_artifacts={rotated} removes those of earlier runs"
    # A worker's artifacts go to the processor.
    if _worker() is not None:
        return None
    # ansible-runner has loaded it. Where there is no descriptor or no memory left, it must not be tried here.
    tempfile = sys.modules.get("tempfile")
    if tempfile is None:
        return None
    try:
        folder = os.path.realpath(os.fsdecode(runner_config.artifact_dir))
        temporary = os.path.realpath(tempfile.gettempdir())
        is_below = os.path.commonpath([folder, temporary]) == temporary
    except Exception:  # noqa: BLE001 - this warning is worth nothing else
        return None
    return f"{temporary} is for temporary files" if is_below else None


def _see_forks(native_forked: Callable[[], None]) -> None:
    """Let Python tell us of each fork: to ask for the process id with each event costs too much."""
    global _sees_forks  # noqa: PLW0603
    _sees_forks = True

    def forked() -> None:
        global _forked  # noqa: PLW0603
        _forked = True
        _publishers.clear()
        native_forked()

    os.register_at_fork(after_in_child=forked)


def _watch_exit() -> None:
    """Let the end of this process deliver what runs without an end state have left.

    It waits for all of them together, and for none longer than its ``flush_timeout``.
    """
    global _forked  # noqa: PLW0603
    _forked = False

    from ._native import shut_down  # noqa: PLC0415 - loaded already

    def at_exit() -> None:
        global _closing  # noqa: PLW0603
        _closing = True
        _publishers.clear()
        try:
            _tell(shut_down())
        except BaseException as exception:  # noqa: BLE001 - a Rust panic is no Exception
            _contain(exception)

    import atexit  # noqa: PLC0415 - only when enabled

    atexit.register(at_exit)
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        # Its children leave through os._exit, past atexit, but not past this.
        util.Finalize(None, at_exit, exitpriority=100)


def _tell(notices: Notices) -> None:
    """Log; a problem that no handler would show goes to standard error.

    ansible-runner's command line sets the root logger to level 99 (``ansible_runner.output.configure``):
    nothing that a plugin logs would be seen, and standard output may carry the worker's stream.
    """
    for level, text in notices or ():
        if level < logging.WARNING or _is_shown(level):
            logger.log(level, "%s", text)
        # print would take None for standard output
        elif sys.stderr is not None and not _is_in_stream():
            print(f"ansible-runner-nats: {text}", file=sys.stderr)  # noqa: T201


def _is_in_stream() -> bool:
    """Whether standard error runs into the stream that ``ansible-runner worker`` writes.

    Receptor (AWX) puts both into one file. A line of ours in it would end the job as ``error``: the processor
    takes nothing but JSON (``ansible_runner.streaming.Processor.run``). The run's record may say it then.
    """
    worker = _worker()
    try:
        if worker is not None:
            own = os.fstat(worker._output.fileno())  # noqa: SLF001 - where it writes to
            _streams[:] = [known for known in _streams if not os.path.samestat(known, own)][
                1 - MOST_STREAMS :
            ]
            _streams.append(own)
        errors = os.fstat(sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):
        return False
    # Some things are said when the worker has gone.
    return any(os.path.samestat(stream, errors) for stream in _streams)


def _worker() -> Any:
    """The ``ansible_runner.streaming.Worker`` that runs the job which calls us, whoever has started it."""
    streaming = sys.modules.get("ansible_runner.streaming")
    code = getattr(getattr(getattr(streaming, "Worker", None), "run", None), "__code__", None)
    frame = None if code is None else sys._getframe()  # noqa: SLF001 - the way to ask for a caller
    while frame is not None:
        if frame.f_code is code:
            return frame.f_locals.get("self")
        frame = frame.f_back
    return None


def _is_shown(level: int) -> bool:
    if not logger.isEnabledFor(level):
        return False
    current: logging.Logger | None = logger
    while current is not None:
        for handler in current.handlers:
            if not isinstance(handler, logging.NullHandler) and handler.level <= level:
                return True
        current = current.parent if current.propagate else None
    return False


def _contain(exception: BaseException) -> None:
    """Keep a failure of ours from the job; pass on what is not ours (Ctrl-C, exit)."""
    is_panic = type(exception).__module__ == "pyo3_runtime"
    if not isinstance(exception, Exception) and not is_panic:
        raise exception
    try:
        # The message of a panic may quote what it stumbled over.
        text = (
            _where_it_panicked() if is_panic else f"internal error: {type(exception).__name__}: {exception}"
        )
        text = "".join(c if c.isprintable() else " " for c in text[:LONGEST_CONTAINED])
        if text not in _contained and len(_contained) < MOST_CONTAINED:
            _contained.add(text)
            _tell([(logging.ERROR, text)])
    except Exception:  # noqa: BLE001, S110 - nobody left to tell
        pass


def _where_it_panicked() -> str:
    from ._native import last_panic  # noqa: PLC0415 - loaded already

    return f"internal error in the native library at {last_panic()}"
