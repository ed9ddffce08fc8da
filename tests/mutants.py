"""Break the machine that delivers on purpose, one thing at a time, and see that its simulation notices.

    python tests/mutants.py [WORD ...]    # those of which WORD is a part; all without one

Each mutation is made in a copy of the sources; the copy's unit tests of `delivery` must fail. Whatever survives is
printed, and the exit status is 1. A mutation whose text is not found any more is an error: it has to move with the code.
"""

# ruff: noqa: E501 - lines of Rust are as long as they are; it prints what it finds
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
COPY = ROOT / "target/mutants"

#: What is broken: the file in `src/delivery`, what stands there, and what instead.
MUTANTS: dict[str, tuple[str, str, str]] = {
    "a late answer is not understood": (
        "flights.rs",
        "self.last.iter().find(|(known, _)| *known == seq)",
        "self.last.iter().find(|(known, _)| *known == seq + 1)",
    ),
    "the first run has all the turns": (
        "course.rs",
        "self.ready.range(self.served + 1..).next().or_else(|| self.ready.first())",
        "self.ready.first()",
    ),
    "what is asked for ever, where nobody answers": (
        "receive.rs",
        "            self.stop_asking();\n",
        "",
    ),
    "not now for ever": (
        "proof.rs",
        "matches!(says, Says::Nothing | Says::NotNow)",
        "matches!(says, Says::Nothing)",
    ),
    "an answer counts for its own copy alone": (
        "course.rs",
        "(scout.flight.ordinal == ordinal || *ack == Ack::Stored)",
        "scout.flight.ordinal == ordinal",
    ),
    "take a marker for an acknowledgement": (
        "proof.rs",
        "            Self::Echo | Self::Marker => Some(Proof::Routed),\n            Self::First | Self::Ack |",
        "            Self::Echo | Self::Marker | Self::Ack => Some(Proof::Routed),\n            Self::First |",
    ),
    "confirm what was never sent": (
        "receive.rs",
        "|| seq >= self.sent_below {",
        "{",
    ),
    "believe acknowledgements with core": (
        "receive.rs",
        "if self.terms.delivery == Delivery::Core || seq",
        "if seq",
    ),
    "a marker that was never sent": (
        "receive.rs",
        "if self.visit.marker_sent.is_none_or(|sent| ordinal > sent) {",
        "if self.visit.marker_sent.is_none_or(|sent| ordinal > sent + 5) {",
    ),
    "a 503 is a confirmation": (
        "receive.rs",
        "            Ack::Nobody => self.on_nobody(now, &flight, silence.unwrap_or(Silence::NONE)),",
        "            Ack::Nobody => {\n                self.confirm(seq, Proof::Routed);\n                if silence.is_some() {\n                    self.release(flight.run);\n                }\n            }",
    ),
    "a refusal is a confirmation": (
        "receive.rs",
        "                self.reject(seq, cause, reason);\n                // It is there, and answers.",
        "                let _ = (cause, reason);\n                self.confirm(seq, Proof::Stored);",
    ),
    "not now is a confirmation": (
        "receive.rs",
        "                self.miss_stream_of(now, &flight, &reason, PAUSE);",
        "                let _ = (&reason, PAUSE);\n                self.confirm(seq, Proof::Stored);\n                self.release(flight.run);",
    ),
    "forget a rewind": (
        "machine.rs",
        "        self.act(Action::Rewind);",
        "",
    ),
    "keep what was in flight over a connection": (
        "machine.rs",
        "        self.flights.clear();\n",
        "",
    ),
    "keep what waits over a connection": (
        "machine.rs",
        "        self.courses = Courses::default();\n",
        "",
    ),
    "skip the hold": (
        "send.rs",
        "        if !self.link.carries() || self.is_held(now) {",
        "        if !self.link.carries() {",
    ),
    "no window": (
        "send.rs",
        "self.window().saturating_sub(self.flights.span())",
        "self.window()",
    ),
    "send before the hello is back": (
        "health.rs",
        "matches!(self, Self::Up | Self::Leaving(_))",
        "matches!(self, Self::Up | Self::Leaving(_) | Self::Greeting { .. })",
    ),
    "no patience for a hello": (
        "send.rs",
        "                self.no_hello();",
        "",
    ),
    "no marker behind a batch": (
        "send.rs",
        "        if marked {\n            self.mark();\n        }",
        "        let _ = marked;",
    ),
    "never lose patience with a link": (
        "send.rs",
        "        if self.stalls_at().is_some_and(|at| at <= now) {",
        "        if self.stalls_at().is_some_and(|_| false) {",
    ),
    "never lose patience with a stream": (
        "send.rs",
        "        if self.silent_at().is_some_and(|at| at <= now) {",
        "        if self.silent_at().is_some_and(|_| false) {",
    ),
    "no grace": (
        "send.rs",
        "            _ => echoed + GRACE,",
        "            _ => echoed,",
    ),
    "the API's no is a proof": (
        "proof.rs",
        "            Says::No if self.is_visible => {",
        "            Says::No => {",
    ),
    "a stream that is known need not be waited for": (
        "proof.rs",
        "    if lane.map_or(was_stored, |lane| lane.is_known(was_stored)) {",
        "    if lane.is_some_and(|_| was_stored) {",
    ),
    "what was acknowledged is forgotten with the connection": (
        "proof.rs",
        "        self.way = Way::New;\n        self.says = None;",
        "        self.way = Way::New;\n        self.was_acknowledged = false;\n        self.says = None;",
    ),
    "an acknowledged subject is sent at once in a new session": (
        "proof.rs",
        "        self.way = Way::New;\n        self.says = None;",
        "        if !self.was_acknowledged {\n            self.way = Way::New;\n        }\n        self.says = None;",
    ),
    "an acknowledgement does not turn a subject": (
        "receive.rs",
        "            self.learn_of_stream(now, &subject);\n        }\n    }",
        "            let _ = (now, subject);\n        }\n    }",
    ),
    "what is under way does not wait for a stream that shows": (
        "receive.rs",
        "            self.flights.wait_for_stream(subject);",
        "",
    ),
    "what is missing is not sent again": (
        "receive.rs",
        "            course.waiting.extend(back.iter().map(|flight| (flight.seq, Kept::of(flight))));",
        "            let _ = &back;",
    ),
    "all of it is sent again at once": (
        "course.rs",
        "                self.flow = Flow::One;",
        "                self.flow = Flow::Free;",
    ),
    "new messages overtake what waits": (
        "send.rs",
        "(!goes || (!again && !course.waiting.is_empty()), is_one)",
        "(!goes, is_one)",
    ),
    "a run does not wait for its first message": (
        "send.rs",
        "                let goes = is_one || matches!(course.flow, Flow::Free);",
        "                let goes = is_one || !matches!(course.flow, Flow::Paused(_));",
    ),
    "what nobody hears is not tried again": (
        "course.rs",
        "        self.retry_at.get_or_insert(now + self.silence.backoff);",
        "        let _ = now;",
    ),
    "no backoff": (
        "course.rs",
        "        self.silence.backoff = (self.silence.backoff * 2).min(LONGEST_RETRY);",
        "",
    ),
    "no pause": (
        "receive.rs",
        "            course.flow = Flow::Paused(now + pause);",
        "            let _ = pause;\n            course.flow = Flow::One;",
    ),
    "what nobody hears may take all memory": (
        "send.rs",
        "        if self.parked_bytes + kept.size > self.terms.held {",
        "        if self.parked_bytes > usize::MAX - 1 {",
    ),
    "nobody is told of what nobody hears": (
        "send.rs",
        "            self.act(Action::Unheard(vec![seq], true));",
        "",
    ),
    "what nobody hears stays unheard": (
        "receive.rs",
        "            self.act(Action::Unheard(again, false));",
        "",
    ),
    "what cannot fit is sent all the same": (
        "send.rs",
        "        match message.fit(self.max_payload().saturating_sub(extra)) {",
        "        match message.fit(usize::MAX - extra) {",
    ),
    "a limit is not learnt": (
        "machine.rs",
        "                self.learnt_payload = size / 2;",
        "",
    ),
    "what is forbidden is forgotten": (
        "receive.rs",
        "            self.reject(flight.seq, reason.clone(), reason.clone());",
        "            let _ = &flight;",
    ),
    "a link that stalls gets the same again": (
        "machine.rs",
        "(self.patience * 2).min(MOST_PATIENCE)",
        "1",
    ),
    "a server that has no stream is never left": (
        "receive.rs",
        "        if missed_for > STALL {",
        "        if missed_for > STALL * 1_000 {",
    ),
}


#: What survives, and why that is no hole.
EXPLAINED = {
    "an acknowledged subject is sent at once in a new session": (
        "it only makes it more likely that a leader comes back while messages are on their way, when order is nobody's"
    ),
}


def main(words: list[str]) -> int:
    # What is built of other packages need not be built again; a build folder of its own it must have.
    if not (COPY / "target").exists() and (ROOT / "target/debug").exists():
        (COPY / "target").mkdir(parents=True)
        subprocess.run(["cp", "-al", ROOT / "target/debug", COPY / "target/debug"], check=True)
    wanted = {name: it for name, it in MUTANTS.items() if all(word in name for word in words)}
    survivors = [name for name, mutant in wanted.items() if survives(name, *mutant)]
    print(f"{len(wanted) - len(survivors)} of {len(wanted)} were found")
    for name in survivors:
        print(f"survived: {name}: {EXPLAINED.get(name, 'a hole in the simulation')}")
    return 1 if set(survivors) - set(EXPLAINED) else 0


def survives(name: str, file: str, before: str, after: str) -> bool:
    for part in ("src", "Cargo.toml", "Cargo.lock", "build.rs", "README.md", "docs", "python", "benches"):
        source, copy = ROOT / part, COPY / part
        if source.is_dir():
            shutil.copytree(source, copy, dirs_exist_ok=True)
        else:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy)
    path = COPY / "src/delivery" / file
    text = path.read_text()
    if text.count(before) != 1:
        sys.exit(f"{name}: its text is there {text.count(before)} times in {file}")
    path.write_text(text.replace(before, after))
    command = ["cargo", "test", "--locked", "--quiet", "--no-default-features", "--lib", "delivery::"]
    environment = {
        **os.environ,
        "SEEDS": os.environ.get("SEEDS", "3000"),
        "CARGO_TARGET_DIR": str(COPY / "target"),
    }
    done = subprocess.run(command, cwd=COPY, env=environment, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    if "error: could not compile" in output or "error[E" in output:
        sys.exit(f"{name}: does not compile\n{output[-3000:]}")
    first = next((line for line in output.splitlines() if ": " in line and line[:1].isdigit()), "")
    print(f"{'survived' if done.returncode == 0 else 'found   '} {name}  {first[:100]}", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
