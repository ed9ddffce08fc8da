"""Keeps runs in a SQLite database, as a portal shows them: of which site, how far, how it ended, what failed.

A message that comes twice, late or in another order leaves the same rows. docs/portal.md says why.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from operator import index
from typing import TYPE_CHECKING, Any

from consumer import arguments, batches, contained, identifier, read, run

if TYPE_CHECKING:
    import argparse

    from nats.aio.msg import Msg

TABLES = """
CREATE TABLE IF NOT EXISTS runs (
    site TEXT, ident TEXT, run TEXT, state TEXT, rank INTEGER, began TEXT, ended TEXT,
    PRIMARY KEY (site, ident, run));
CREATE TABLE IF NOT EXISTS failures (
    id TEXT PRIMARY KEY, site TEXT, ident TEXT, run TEXT, counter INTEGER, host TEXT, task TEXT);
"""

#: A state gives way only to one of a higher rank: messages may come in another order than they were said.
STATE = """
INSERT INTO runs VALUES (:site, :ident, :run, :state, :rank, :began, :ended)
ON CONFLICT (site, ident, run) DO UPDATE SET
    state = CASE WHEN excluded.rank > rank THEN excluded.state ELSE state END,
    ended = CASE WHEN excluded.rank > rank THEN excluded.ended ELSE ended END,
    began = coalesce(began, excluded.began),
    rank = max(rank, excluded.rank)
"""
RANKS = {"starting": 1, "running": 2, "killed": 3}
#: Of every other state: it ends the run.
END = 4

FAILURE = """
INSERT OR IGNORE INTO failures VALUES (:id, :site, :ident, :run, :counter, :host, :task)
"""
FAILURES = ("runner_on_failed", "runner_on_unreachable")


def name(message: Msg, ident: str) -> dict[str, str]:
    """Site, ident and identity of a run. The site is in the subject alone, which the server has checked."""
    tokens = message.subject.split(".")[3:-1]
    # Both names may have dots. How many the ident has is known.
    site = ".".join(tokens[: -(ident.count(".") + 1)])
    return {"site": site, "ident": ident, "run": (message.headers or {}).get("Ansible-Runner-Run", "")}


def note(database: sqlite3.Connection, message: Msg) -> None:
    """Write down what one message says."""
    headers = message.headers or {}
    if "Nats-Marker-Reason" in headers:
        return  # of the server, and empty: the next run there says that the run was killed
    content: dict[str, Any] = read(message)
    run = name(message, content.get("runner_ident", "unknown"))
    # A sign of life has a status, the word that a run was killed a state. An event says that the run goes on.
    state = str(content.get("state") or content.get("status") or "running")
    rank = RANKS.get(state, END)
    time = headers.get("Ansible-Runner-Time") or str(content.get("created") or "") or None
    began = time if state == "starting" else None
    ended = time if rank > RANKS["running"] else None
    database.execute(STATE, {**run, "state": state, "rank": rank, "began": began, "ended": ended})
    data = content.get("event_data")
    if content.get("event") in FAILURES and isinstance(data, dict) and not data.get("ignore_errors"):
        result = {
            "counter": index(content["counter"]),
            "host": str(data.get("host") or ""),
            "task": str(data.get("task") or ""),
        }
        database.execute(FAILURE, {"id": identifier(message), **run, **result})


async def main(options: argparse.Namespace) -> None:
    """Write down what comes. What is acknowledged is in the database, also after a power cut."""
    with closing(sqlite3.connect(options.database)) as database:
        database.executescript(TABLES)
        async for messages in batches(options):
            for message in messages:
                with contained(message):
                    note(database, message)
            database.commit()
            for message in messages:
                await message.ack()


if __name__ == "__main__":
    parser = arguments(__doc__, durable="portal")
    parser.add_argument("--database", default="portal.sqlite")
    run(main, parser.parse_args())
