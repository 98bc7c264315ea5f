"""The demo's app: reads tokens through the public client and calls the providers with them."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Sequence
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


@dataclass(slots=True)
class Reads:
    """What an app saw, of one provider."""

    fresh: int = 0  # the provider took the token
    stale: int = 0  # it refused one that should have been good
    needs_login: int = 0  # told plainly that the user has to log in again
    away: int = 0  # told to come back later
    broken: int = 0  # the API itself failed


@dataclass(slots=True)
class App:
    """Threads that read all the while, each account again and again."""

    tokens: TokenClient
    reads: dict[str, Reads] = field(default_factory=lambda: defaultdict(Reads))
    _subjects: list[Subject] = field(default_factory=list)
    _withdrawn: set[Subject] = field(default_factory=set)
    _ended: threading.Event = field(default_factory=threading.Event)
    _threads: Sequence[threading.Thread] = ()

    def start(self) -> None:
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

    def works_for(self, subject: Subject) -> None:
        self._subjects.append(subject)

    def knows_withdrawn(self, subject: Subject) -> None:
        """From now on a refusal of this account's token is the user's doing, not ours."""
        self._withdrawn.add(subject)

    def _work(self, first: int) -> None:
        with httpx.Client(trust_env=False, timeout=10) as http:
            at = first
            while not self._ended.wait(_PAUSE):
                if self._subjects:
                    self._read(http, self._subjects[at % len(self._subjects)])
                    at += 1

    def _read(self, http: httpx.Client, subject: Subject) -> None:
        reads = self.reads[subject.provider]
        began_withdrawn = subject in self._withdrawn
        try:
            token = self.tokens.get(subject.user_id, subject.connection)
        except NotFoundError:
            return  # the login's webhook is still on its way
        except NeedsLoginError:
            reads.needs_login += 1
            return
        except TokenError:
            reads.away += 1
            return
        status = _called(http, subject, token.authorization)
        if status == 200:
            reads.fresh += 1
        elif status != 401:
            reads.broken += 1
        elif began_withdrawn or subject in self._withdrawn:
            self._report(subject, token.generation)
        else:
            reads.stale += 1

    def _report(self, subject: Subject, generation: int) -> None:
        """As a good app does on a 401: ask once with `stale`, so that the grant is looked at."""
        try:
            self.tokens.get(subject.user_id, subject.connection, stale=generation)
        except NeedsLoginError:
            self.reads[subject.provider].needs_login += 1
        except TokenError:
            self.reads[subject.provider].away += 1


def _called(http: httpx.Client, subject: Subject, authorization: str) -> int:
    try:
        return http.get(subject.api, headers={"Authorization": authorization}).status_code
    except httpx.HTTPError:
        time.sleep(_PAUSE)
        return 0
