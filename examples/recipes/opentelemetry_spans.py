"""Makes a trace of each run: a span for the run and one for each of its tasks, with an event for each host.

If ansible-runner had a TRACEPARENT in its environment, the run's span continues that trace. With ``--otlp``
spans are sent to a collector (OTEL_EXPORTER_OTLP_ENDPOINT says where it is), else they are printed. A run is
told as a whole when it has ended; what was running already when this program was started is left out, and so
is what says nothing for a day.

Needs opentelemetry-sdk, and opentelemetry-exporter-otlp-proto-http for ``--otlp``. Uses
``../consumers/consumer.py``.
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nats.js.api import DeliverPolicy
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

sys.path.append(str(Path(__file__).parents[1] / "consumers"))

from consumer import EVERYTHING, arguments, connect, contained, read, run

if TYPE_CHECKING:
    import argparse

    from ansible_runner_nats.types import Event, Status
    from nats.aio.msg import Msg
    from opentelemetry.trace import Span, Tracer

#: What ends a task on one host.
RESULTS = ("runner_on_ok", "runner_on_failed", "runner_on_skipped", "runner_on_unreachable")
#: Of a run that says nothing for so long nobody will hear the end.
SILENT = timedelta(days=1)
ENDS = ("successful", "failed", "canceled", "timeout", "error")


def nanoseconds(time: datetime) -> int:
    """As OpenTelemetry has its times."""
    return int(time.timestamp() * 1_000_000) * 1000


def created(event: Event) -> int:
    """When it was; ansible-runner before 2.4 leaves out that it means UTC."""
    # fromisoformat() knows no Z before Python 3.11.
    time = datetime.fromisoformat(event["created"].replace("Z", "+00:00"))
    return nanoseconds(time if time.tzinfo else time.replace(tzinfo=timezone.utc))


class Run:
    """A run that goes on."""

    def __init__(self, tracer: Tracer, message: Msg, ident: str) -> None:
        """Begin its span."""
        self.tracer = tracer
        self.heard = message.metadata.timestamp
        self.seen: set[str] = set()
        self.tasks: dict[str, Span] = {}
        #: Until when each task was heard of.
        self.until: dict[str, int] = {}
        parent = TraceContextTextMapPropagator().extract(message.headers or {})
        start = nanoseconds(message.metadata.timestamp)
        attributes = {"ansible.run": ident}
        self.span = tracer.start_span("ansible run", parent, attributes=attributes, start_time=start)

    def take(self, event: Event) -> None:
        """Begin a task's span, or add to it what came of it on a host."""
        if "event" not in event or event["uuid"] in self.seen:  # a repeat
            return
        self.seen.add(event["uuid"])
        data = event.get("event_data")
        if not isinstance(data, dict):  # cut from a large message
            return
        uuid, now = data.get("task_uuid", ""), created(event)
        if event["event"] == "playbook_on_task_start":
            self.tasks[uuid] = self.tracer.start_span(
                data.get("task", "?"), trace.set_span_in_context(self.span), start_time=now
            )
            self.until[uuid] = now
        elif event["event"] in RESULTS and uuid in self.tasks:
            span, host = self.tasks[uuid], data.get("host", "?")
            word = event["event"].rpartition("_")[2]
            span.add_event(word, {"host": host}, timestamp=now)
            self.until[uuid] = now
            if word in ("failed", "unreachable") and not data.get("ignore_errors"):
                span.set_status(trace.StatusCode.ERROR, f"{word} on {host}")

    def end(self, message: Msg, status: Status) -> None:
        """End all spans: only now it is sure that no host is still at a task."""
        for uuid, span in self.tasks.items():
            span.end(self.until[uuid])
        self.span.set_attribute("ansible.status", status["status"])
        if status["status"] != "successful":
            self.span.set_status(trace.StatusCode.ERROR, status["status"])
        self.span.end(nanoseconds(message.metadata.timestamp))


def exporter(options: argparse.Namespace) -> SpanExporter:
    """Where spans go."""
    if not options.otlp:
        return ConsoleSpanExporter(formatter=lambda span: span.to_json(indent=None) + "\n")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    return OTLPSpanExporter()


async def follow(tracer: Tracer, options: argparse.Namespace) -> None:
    """Follow all runs that begin from now on."""
    client = await connect(options.server)
    runs: dict[str, Run] = {}
    subscription = await client.jetstream().subscribe(
        EVERYTHING, stream=options.stream, ordered_consumer=True, deliver_policy=DeliverPolicy.NEW
    )
    async for message in subscription.messages:
        with contained(message):
            take(runs, tracer, message)


def take(runs: dict[str, Run], tracer: Tracer, message: Msg) -> None:
    """Begin a run, go on with one, or end it."""
    name, _, kind = message.subject.rpartition(".")
    run, now = runs.get(name), message.metadata.timestamp
    if kind == "event" and run:
        run.heard = now
        run.take(read(message))
    elif kind == "status":
        status: Status = read(message)
        if status["status"] == "starting":
            for silent in [other for other, its in runs.items() if now - its.heard > SILENT]:
                del runs[silent]
            # The same status may come twice.
            if name not in runs:
                runs[name] = Run(tracer, message, status.get("runner_ident", "unknown"))
        elif status["status"] in ENDS and run:
            runs.pop(name).end(message, status)


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--otlp", action="store_true", help="send spans instead of printing them")
    options = parser.parse_args()
    provider = TracerProvider(resource=Resource.create({"service.name": "ansible-runner"}))
    provider.add_span_processor(BatchSpanProcessor(exporter(options), schedule_delay_millis=1000))
    run(partial(follow, provider.get_tracer("ansible-runner-nats")), options, at_end=provider.shutdown)
