"""The demo's app: reads tokens through the public client and calls the providers with them."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import httpx

from worker.client import NeedsLoginError, NotFoundError, TokenClient, TokenError

_PAUSE = 0.05  # seconds between two reads of one thread
_THREADS = 3


@dataclass(frozen=True, slots=True)
class Subject:
    """One account that the app works for."""

    user_id: str
    connection: str
    provider: str  # the stage's name for who issued the tokens
    api: str  # URL of that provider's API
    left: bool = False  # the user withdrew or is gone: a refusal is his doing, not ours


@dataclass(slots=True)
class Reads:
    """What an app saw, of one provider."""

    fresh: int = 0  # the provider took the token
    mended: int = 0  # of these: after the client had reported one that was renewed meanwhile
    stale: int = 0  # it refused one that should have been good
    needs_login: int = 0  # told plainly that the user has to log in again
    away: int = 0  # told to come back later
    broken: int = 0  # the API itself failed


@dataclass(slots=True)
class App:
    """Threads that read all the while, each account again and again."""

    tokens: TokenClient
    reads: dict[str, Reads] = field(default_factory=lambda: defaultdict(Reads))
    _subjects: Callable[[], Sequence[Subject]] = field(default=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _threads: Sequence[threading.Thread] = ()

    def start(self, subjects: Callable[[], Sequence[Subject]]) -> None:
        """Read for whoever `subjects` names, as often as there is time."""
        self._subjects = subjects
        self._threads = [
            threading.Thread(target=self._work, args=(at,), name=f"app-{at}", daemon=True)
            for at in range(_THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(10)

    def _work(self, first: int) -> None:
        with httpx.Client(trust_env=False, timeout=10) as http:
            at = first
            while not self._ended.wait(_PAUSE):
                if subjects := self._subjects():
                    self._read(http, at % len(subjects))
                    at += 1

    def _read(self, http: httpx.Client, number: int) -> None:
        subject = self._subjects()[number]
        reads = self.reads[subject.provider]
        try:
            answer = http.get(
                subject.api, auth=self.tokens.auth(subject.user_id, subject.connection)
            )
        except NotFoundError:
            return  # the login's webhook is still on its way
        except NeedsLoginError:
            reads.needs_login += 1
        except (TokenError, httpx.HTTPError):
            reads.away += 1
        else:
            self._count(reads, number, answer)

    def _count(self, reads: Reads, number: int, answer: httpx.Response) -> None:
        if answer.status_code == 200:
            reads.fresh += 1
            reads.mended += bool(answer.history)
        elif answer.status_code != 401:
            reads.broken += 1
        elif not self._subjects()[number].left:  # asked anew: he may have left while we called
            reads.stale += 1
