"""Tombstones in a real store; connection, catalogue and provider are played by the tests."""

from types import SimpleNamespace

import pytest
from sqlalchemy import select

from tests.grants import GrantTable
from tests.handout.conftest import in_place
from worker.domain.exchange import Answered, NotSent, RevocationVerdict, WireRequest
from worker.revocation import Compromise, Nature, Reach, Revoker, UserErasure
from worker.store import outbox
from worker.store.audit import AuditLog
from worker.store.concerned import ConcernedRepository
from worker.store.engine import reading
from worker.store.tables import AuditRow
from worker.store.tombstones import TombstoneRepository


class FakeProvider:
    """Meets the revoking half of `Provider`: takes the refresh token, else the access token."""

    def __init__(self):
        self.revocation_effect = "grant"
        self.revocation_by_hand = "At https://provider.example/apps."
        self.offers = True
        self.takes = "either"
        self.dead = None  # the status that says "it was dead already"
        self.peers = []  # connections of the same client, where the whole consent ends

    def revocation(self, _connection, *, access_token, refresh_token, now):
        token = access_token if self.takes == "access_token" else refresh_token or access_token
        if not self.offers or token is None:
            return None
        return WireRequest(
            method="POST",
            url="https://p.example/r",
            host="p.example",
            headers={},
            body=token.reveal(),
        )

    def read_revocation(self, answer):
        by_status = {200: RevocationVerdict.REVOKED, 400: RevocationVerdict.REFUSED}
        by_status[self.dead] = RevocationVerdict.REVOKED
        return by_status.get(answer.status, RevocationVerdict.TRANSIENT)


class FakeEndpoint:
    """Meets `TokenEndpoint`; remembers what it was asked to revoke."""

    def __init__(self):
        self.revoked = []
        self.outcomes = []

    async def exchange(self, request, *, gate, read_timeout):
        if not gate():
            return NotSent(reason="gate")
        outcome = self.outcomes.pop(0) if self.outcomes else 200
        if isinstance(outcome, int):
            outcome = Answered(status=outcome, headers={}, body=b"")
        if isinstance(outcome, Answered):
            self.revoked.append(request.body.decode())
        return outcome


@pytest.fixture
def grants(engine, vault, clock):
    return GrantTable(engine, vault, clock)


@pytest.fixture
def tombstones(engine):
    return TombstoneRepository(engine, AuditLog("test"), outbox.add)


@pytest.fixture
def provider():
    return FakeProvider()


@pytest.fixture
def endpoint():
    return FakeEndpoint()


@pytest.fixture
def kin(engine):
    return ConcernedRepository(engine)


@pytest.fixture
def reach(kin, provider):
    def nature(_grant):
        return Nature(
            effect=provider.revocation_effect,
            by_hand=provider.revocation_by_hand,
            peers=provider.peers,
        )

    return Reach(kin, nature)


@pytest.fixture
def revoker(tombstones, provider, endpoint, vault, clock, reach):
    connection = SimpleNamespace(tenant="acme", name="google")
    return Revoker(
        tombstones=tombstones,
        connections=SimpleNamespace(
            get=lambda _tenant, name: connection if name != "gone" else None
        ),
        catalogue=SimpleNamespace(entry=lambda _name, _connection: provider),
        endpoint=endpoint,
        vault=vault,
        reach=reach,
        clock=clock,
        offload=in_place,
    )


@pytest.fixture
def erasure(tombstones, clock):
    return UserErasure(tombstones=tombstones, clock=clock, offload=in_place)


@pytest.fixture
def compromise(tombstones, kin, reach, clock):
    return Compromise(tombstones=tombstones, kin=kin, reach=reach, clock=clock, offload=in_place)


@pytest.fixture
def verbs(engine):
    def verbs(grant):
        asked = select(AuditRow.verb, AuditRow.detail).where(AuditRow.grant_id == grant)
        with reading(engine) as connection:
            rows = connection.execute(asked.order_by(AuditRow.at, AuditRow.chain, AuditRow.seq))
            return [(row.verb, row.detail.get("outcome")) for row in rows]

    return verbs
