"""The native part: encodes, holds, sends and confirms."""

from collections.abc import Sequence
from os import PathLike
from typing import Any, Final, final

__all__ = ["VERSION", "Emitter", "encode", "forked", "last_panic", "main", "shut_down"]

VERSION: Final[str]
"""The version of the package, in Cargo's spelling."""

@final
class Emitter:
    """Publishes the messages of one run.

    Every method returns what there is to log: pairs of a level of :mod:`logging` and a line without secrets.
    Problems are told once per run.
    """

    def __new__(
        cls,
        settings: Any,
        ident: object = None,
        artifact_dir: str | PathLike[str] | None = None,
    ) -> Emitter:
        """Read the options from ``settings`` (a mapping) and the environment, which wins.

        :param settings: ``runner_config.settings``: ``nats_subject_id``, ``nats_options``, ``nats_headers``.
        :param ident: The run's ident, for data that carries none (``runner_ident``).
        :param artifact_dir: Where undelivered messages go, unless ``spill_dir`` says otherwise.

        Bad options raise nothing: they are told by the first call of a method. If servers, authentication or
        TLS are concerned, nothing is published.
        """

    def publish(self, kind: str, data: dict[str, Any]) -> list[tuple[int, str]]:
        """Hand over one message; never waits for the network.

        :param kind: ``"event"`` or ``"status"``.
        :param data: As ansible-runner gives it. Its ``runner_ident``, ``counter`` and ``uuid`` are used.
        :raises ValueError: for any other ``kind``.
        """

    def refuse_start(self) -> str | None:
        """Why the job must not start: ``required`` is set and no server can be reached.

        Waits until every server was tried, ``connect_timeout`` each. ``None`` if all is well, or nothing is
        required. Runs without the GIL; a signal ends the waiting with its exception.
        """

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
    """

def forked() -> None:
    """To be called in a forked child before anything else of this library (:func:`os.register_at_fork`)."""

def last_panic() -> str:
    """Where the last panic of this library happened (``file:line:column``), for a bug report."""

def main(args: Sequence[str]) -> int:
    """Run the console script with ``args`` (program name first); return its exit status."""

def shut_down() -> list[tuple[int, str]]:
    """End every run of this process that did not end itself (called when the interpreter ends).

    They wait together: none longer than its ``flush_timeout``, so all of them no longer than the longest one.
    Runs without the GIL.
    """
