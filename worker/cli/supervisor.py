"""`evergrant up`: starts the roles as child processes, keeps them running, ends them cleanly.

A child learns that its supervisor is gone, even by kill -9, because its standard input closes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

_PATIENCE = 150.0  # seconds for exchanges under way: cutting one could lose a rotated token
_BACKOFF = (0.2, 0.5, 1.0, 2.0, 5.0)  # seconds between starts of a child that keeps dying
_STEADY = 20.0  # seconds of life after which its next death starts the backoff anew


@dataclass
class Child:
    """One role: its name, its command, and the process that now plays it."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    process: subprocess.Popen[str] | None = None
    started_at: float = 0.0
    deaths: int = 0
    start_at: float = field(default=0.0)  # monotonic; not before

    def start(self, say: Callable[[str, str], None]) -> None:
        self.process = subprocess.Popen(  # noqa: S603  # our own interpreter, our own arguments
            self.argv,
            env=dict(self.env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # ^C reaches the supervisor only, which passes it on once
        )
        self.started_at = time.monotonic()
        if self.process.stdout is not None:
            threading.Thread(
                target=_copy, args=(self.name, self.process.stdout, say), daemon=True
            ).start()

    def died(self) -> int | None:
        """The exit code when it has just ended; schedules the next start."""
        if self.process is None or (code := self.process.poll()) is None:
            return None
        self.process = None
        if time.monotonic() - self.started_at > _STEADY:
            self.deaths = 0
        self.start_at = time.monotonic() + _BACKOFF[min(self.deaths, len(_BACKOFF) - 1)]
        self.deaths += 1
        return code

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)


def _copy(name: str, stream: IO[str], say: Callable[[str, str], None]) -> None:
    for line in stream:
        say(name, line.rstrip("\n"))


class Supervisor:
    """Runs children until a signal ends it; a second signal ends them at once."""

    def __init__(self, children: Sequence[Child]) -> None:
        self._children = children
        self._width = max(len(child.name) for child in children)
        self._stopping = threading.Event()
        self._signals = 0
        self._lock = threading.Lock()

    def say(self, name: str, line: str) -> None:
        with self._lock:
            sys.stdout.write(f"{name:<{self._width}} │ {line}\n")
            sys.stdout.flush()

    def run(self, *, once_started: Callable[[], None] = lambda: None) -> int:
        """Until SIGINT or SIGTERM. Returns the exit code: 0 when all ended by themselves."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        for child in self._children:
            child.start(self.say)
        threading.Thread(target=once_started, daemon=True).start()
        while not self._stopping.wait(0.2):
            self._keep()
        return self._end()

    def _keep(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if (code := child.died()) is not None:
                self.say("up", f"{child.name} ended with {code}; starting it again")
            if child.process is None and now >= child.start_at:
                child.start(self.say)

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._signals += 1
        self._stopping.set()

    def _end(self) -> int:
        self.say("up", "stopping; exchanges under way are finished first (^C again to cut them)")
        for child in self._children:
            child.signal(signal.SIGTERM)
        until = time.monotonic() + _PATIENCE
        while any(child.process and child.process.poll() is None for child in self._children):
            if self._signals > 1 or time.monotonic() > until:
                for child in self._children:
                    child.signal(signal.SIGKILL)
                return 1
            time.sleep(0.05)
        return 0


def end_with_parent() -> None:
    """In a child: when the supervisor's end of standard input closes, stop as by SIGTERM."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()
