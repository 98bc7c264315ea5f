"""Keeps one server's process and ends with it, and ends it when the test session dies.

Run as a script: `guard.py OWNER STOP_SIGNAL USER COMMAND…`. OWNER is the process to watch,
STOP_SIGNAL what the server takes as "stop", USER whom to run it as ("" for whoever we are).
SIGTERM stops the server, SIGUSR1 kills it.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def end(pid: int, how: signal.Signals) -> None:
    """Ask a guard to end its server, and wait until both are gone; it need not be our child."""
    deadline = time.monotonic() + 30
    try:
        os.kill(pid, how)
        while time.monotonic() < deadline:
            if gone(pid):
                return
            time.sleep(0.02)
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def gone(pid: int) -> bool:
    try:
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return True
    except ChildProcessError:
        pass
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"  # ended; its parent has yet to notice


def keep(owner: int, stop_signal: int, user: str, command: Sequence[str]) -> int:
    """Run `command`; end it politely on SIGTERM, at once on SIGUSR1 or when `owner` is gone.

    Returns when all that the server started is gone as well, so that it can start again at once.
    """
    _adopt_orphans()
    account = pwd.getpwnam(user) if user else None
    child = subprocess.Popen(
        command,
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
    )
    signal.signal(signal.SIGTERM, lambda *_: child.send_signal(stop_signal))
    signal.signal(signal.SIGUSR1, lambda *_: child.kill())
    while child.poll() is None:
        if gone(owner):
            child.kill()
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeout=0.5)
    _end_the_rest()
    if gone(owner):  # nobody will start it again, or clean up
        shutil.rmtree(Path.cwd(), ignore_errors=True)
    code: int = child.returncode
    return abs(code)


def _adopt_orphans() -> None:
    """Become the parent of the server's orphans (Linux), in containers whose init reaps nobody."""
    pr_set_child_subreaper = 36
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1, 0, 0, 0)


def _end_the_rest() -> None:
    """Of our process group, such as epmd; and wait for all orphans, at most ten seconds."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + 10
    with suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(keep(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]))
