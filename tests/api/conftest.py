"""The application as an app sees it, over a real store; the renewer is played by the tests."""

from datetime import timedelta

import httpx
import pytest

from tests.grants import GrantTable
from tests.handout.conftest import Renewer, YieldingClock, in_place
from worker.api import KeyBook, build_app
from worker.domain.access import bootstrap_key, parse_scope
from worker.domain.secret import Secret
from worker.handout import Explain, Handout
from worker.revocation import Nature, Reach, Requests
from worker.store import outbox
from worker.store.api_keys import ApiKeyRepository
from worker.store.audit import AuditLog
from worker.store.concerned import ConcernedRepository
from worker.store.handout import HandoutRepository
from worker.store.tombstones import TombstoneRepository

KEY = "evg_of-the-settings-0123456789"


class World:
    """One deployment: its store, its grants, its application, its keys.

    `web`: the same store as the web process may use it.
    """

    def __init__(self, engine, vault, clock, web=None):
        self.engine, self.vault, self.clock = engine, vault, clock
        self.web = engine if web is None else web
        self.grants = GrantTable(engine, vault, clock)
        self.keys, self.known = ApiKeyRepository(engine), ApiKeyRepository(self.web)
        self.renewer = Renewer()
        self.nature = Nature(effect="grant", by_hand="")
        self.audit = AuditLog("test")
        self.repository = HandoutRepository(self.web, self.audit)
        self.tombstones = TombstoneRepository(self.web, self.audit, outbox.add)
        self.routes = []
        self.subjects = None
        self.outlives: dict[str, timedelta] = {}  # entry → its old token, after a renewal

    def app(self):
        clock = YieldingClock(self.clock)
        everything = "read,renew,revoke,status,admin:*"
        return build_app(
            handout=Handout(
                grants=self.repository,
                vault=self.vault,
                hints=self.renewer,
                clock=clock,
                offload=in_place,
                outlives_renewal=self.outlives,
            ),
            explain=Explain(grants=self.repository, clock=clock, offload=in_place),
            requests=Requests(
                grants=self.repository,
                tombstones=self.tombstones,
                reach=Reach(ConcernedRepository(self.web), lambda _: self.nature),
                clock=clock,
                offload=in_place,
            ),
            keys=KeyBook(
                find=self.known.find,
                clock=clock,
                offload=in_place,
                bootstrap=[bootstrap_key(name="ops", secret=Secret(KEY), scope=everything)],
            ),
            subjects=self.subjects,
            routes=self.routes,
        )

    def transport(self):
        return httpx.ASGITransport(self.app(), raise_app_exceptions=False)

    def http(self, key=KEY):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.AsyncClient(
            transport=self.transport(), base_url="http://evergrant", headers=headers
        )

    def key(self, scope, name="app"):
        return self.keys.create(name, scope=parse_scope(scope), now=self.clock.now()).text()


@pytest.fixture
def world(engine, web_engine, vault, clock):
    return World(engine, vault, clock, web_engine)


@pytest.fixture
def one_world(sqlite_engine, vault, clock):
    """Where the database does not matter."""
    return World(sqlite_engine, vault, clock)
