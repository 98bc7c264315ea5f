"""Tokens in hand, and one question at a time for each."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from typing import NamedTuple

from worker.client.token import Token


class Subject(NamedTuple):
    """Whose token at which connection. `user_id` None: the connection's administrator's."""

    user_id: str | None
    connection: str
    identity: str | None = None
    part: str | None = None


class Slot:
    """The latest token of one subject."""

    def __init__(self) -> None:
        self.token: Token | None = None
        self.lock = threading.Lock()
        self._lines: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None

    def line(self) -> asyncio.Lock:
        """An asyncio lock of the running loop; a client may outlive a loop."""
        loop = asyncio.get_running_loop()
        if self._lines is None or self._lines[0] is not loop:
            self._lines = (loop, asyncio.Lock())
        return self._lines[1]

    def good(self, stale: int | None, min_ttl: int | None) -> Token | None:
        """The token in hand, if it is fresh and not the refused one.

        A wish for a longer life than usual is the server's to meet, so it is always asked.
        """
        token = self.token
        if token is None or not token.fresh or min_ttl is not None:
            return None
        return None if stale is not None and token.generation <= stale else token

    def keep(self, token: Token) -> Token:
        """Answers may overtake one another: a newer generation stays."""
        if self.token is None or not self.token.fresh or token.generation >= self.token.generation:
            self.token = token
        return token


class Slots:
    """Bounded: the least used go first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._slots: OrderedDict[Subject, Slot] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, subject: Subject) -> Slot:
        with self._lock:
            slot = self._slots.setdefault(subject, Slot())
            self._slots.move_to_end(subject)
            while len(self._slots) > self._most:
                self._slots.popitem(last=False)
            return slot
