"""A store with grants in it, and the handout over it; the renewer is played by the tests."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import select

from tests.grants import GrantTable
from worker.domain.access import ApiKey, parse_scope
from worker.domain.held import Ask
from worker.handout import Handout
from worker.store.audit import AuditLog
from worker.store.engine import reading
from worker.store.handout import HandoutRepository
from worker.store.tables import AuditRow


async def in_place(call, /, *args, **kwargs):
    return call(*args, **kwargs)


class Renewer:
    """Plays the queue and the engine: on a hint it does what the test told it to."""

    def __init__(self):
        self.hints = []
        self.on_hint = lambda: None

    def renew(self, provider):
        self.hints.append(provider)
        self.on_hint()

    def events(self):
        raise AssertionError("reading asks for no events")


class YieldingClock:
    """The test's clock, which lets other tasks run while somebody sleeps."""

    def __init__(self, clock):
        self._clock = clock
        self.now = clock.now
        self.monotonic = clock.monotonic

    async def sleep(self, seconds):
        self._clock.advance(seconds)
        await asyncio.sleep(0)


@pytest.fixture
def grants(engine, vault, clock):
    return GrantTable(engine, vault, clock)


@pytest.fixture
def renewer():
    return Renewer()


@pytest.fixture
def repository(web_engine):
    return HandoutRepository(web_engine, AuditLog("test"))


@pytest.fixture
def handout(repository, vault, clock, renewer):
    return Handout(
        grants=repository,
        vault=vault,
        hints=renewer,
        clock=YieldingClock(clock),
        offload=in_place,
    )


@pytest.fixture
def audit(engine):
    def audit():
        entry = (AuditRow.actor, AuditRow.verb, AuditRow.grant_id, AuditRow.detail)
        with reading(engine) as connection:
            return connection.execute(select(*entry).order_by(AuditRow.at)).all()

    return audit


def key(*scopes, name="app"):
    return ApiKey(name=name, digest=b"", scopes=tuple(map(parse_scope, scopes or ["read,renew:*"])))


def ask(**wishes):
    seconds = wishes.pop("min_ttl", None)
    if seconds is not None:
        wishes["min_ttl"] = timedelta(seconds=seconds)
    asked = {"tenant": "acme", "connection": "google", "user_id": "google-oauth2|104"}
    return Ask(**(asked | wishes))
