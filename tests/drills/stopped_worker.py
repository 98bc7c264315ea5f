"""A worker that stops itself (SIGSTOP) at one step of the protocol, the first time it gets there.

    python -m tests.drills.stopped_worker worker       EVERGRANT_STOP_AT names the step

Everything in it is the product's own; each step is wrapped where it begins or ends.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from worker.journal import Journal
from worker.providers.connection import Connection
from worker.providers.token_endpoint import HttpTokenEndpoint
from worker.store.claims import ClaimsRepository
from worker.store.settling import SettlingRepository

_left = 1


def stop() -> None:
    global _left
    if _left:
        _left -= 1
        os.kill(os.getpid(), signal.SIGSTOP)


def _around(owner: type, name: str, *, before: bool) -> None:
    call = getattr(owner, name)

    @functools.wraps(call)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before:
            stop()
        result = call(*args, **kwargs)
        if not before and result:
            stop()
        return result

    setattr(owner, name, wrapped)


def _around_awaited(owner: type, name: str, *, before: bool) -> None:
    call = getattr(owner, name)

    @functools.wraps(call)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before:
            stop()
        result = await call(*args, **kwargs)
        if not before:
            stop()
        return result

    setattr(owner, name, wrapped)


STEPS: dict[str, Callable[[], None]] = {
    "before the claim": lambda: _around(ClaimsRepository, "claim_due", before=True),
    "claimed": lambda: _around(ClaimsRepository, "claim_due", before=False),
    "before the exchange": lambda: _around_awaited(HttpTokenEndpoint, "exchange", before=True),
    "between gate and write": lambda: _around(Connection, "send", before=True),
    "written": lambda: _around(Connection, "send", before=False),
    "answered": lambda: _around_awaited(HttpTokenEndpoint, "exchange", before=False),
    "before the journal": lambda: _around_awaited(Journal, "append", before=True),
    "journaled": lambda: _around_awaited(Journal, "append", before=False),
    "before the commit": lambda: _around(SettlingRepository, "settle", before=True),
    "committed": lambda: _around(SettlingRepository, "settle", before=False),
}

if __name__ == "__main__":
    STEPS[os.environ["EVERGRANT_STOP_AT"]]()
    from worker.cli import main

    sys.exit(main())
