"""A puller over a real store, a real catalogue and a tenant that answers as told."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, select

from tests.auth0.fakes import FakeTenant, SharedTenants, in_place, management
from tests.clock import T0, FakeClock, as_told
from worker.auth0 import ManagementApi
from worker.domain.event import Event, Source, Trigger
from worker.domain.grant import GrantId
from worker.providers import load_catalogue
from worker.store.audit import AuditLog
from worker.store.backfills import BackfillRepository
from worker.store.connections import ConnectionRepository
from worker.store.engine import reading
from worker.store.findings import FindingRepository
from worker.store.merging import MergeRepository
from worker.store.pulls import PullRepository
from worker.store.tables import GrantRow
from worker.sync import Backfill, Puller
from worker.vault import AesVault

ROSA = "google-oauth2|1"
GOOGLE = {
    "id": "con_google",
    "name": "google-oauth2",
    "strategy": "google-oauth2",
    "options": {"client_id": "client", "client_secret": "shh", "scope": ["email"]},
}


def identity(
    rt: str | None = "rt-0", at: str | None = "at-0", *, user_id: str = "1", **more: Any
) -> dict[str, Any]:
    body = {
        "connection": "google-oauth2",
        "provider": "google-oauth2",
        "user_id": user_id,
        "access_token": at,
        "refresh_token": rt,
        "expires_in": 3599,
        **more,
    }
    return {name: value for name, value in body.items() if value is not None}


def iso(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


class World:
    def __init__(
        self,
        engine: Engine,
        vault: AesVault,
        *,
        api: ManagementApi | None = None,
        clock: FakeClock | None = None,
        **puller: Any,
    ) -> None:
        self.clock = clock or FakeClock()
        self.auth0 = FakeTenant()
        self.shared = SharedTenants()
        self.engine, self.vault = engine, vault
        self.api = api or management(self.auth0, self.shared, clock=self.clock)
        self.connections = ConnectionRepository(engine, vault)
        self.findings = FindingRepository(engine)
        self.pulls = PullRepository(engine, time=as_told)
        self.gone: list[tuple[str, str]] = []
        self.puller = Puller(
            {"acme": self.api},
            pulls=self.pulls,
            merges=MergeRepository(
                engine, vault, AuditLog("test"), actor="worker:test", time=as_told
            ),
            connections=self.connections,
            findings=self.findings,
            catalogue=load_catalogue({}, allow_loopback=False),
            clock=self.clock,
            offload=in_place,
            on_gone=self._note_gone,
            **puller,
        )
        self.connection(GOOGLE)

    async def _note_gone(self, tenant: str, user_id: str) -> None:
        self.gone.append((tenant, user_id))

    def connection(self, body: dict[str, Any]) -> None:
        self.auth0.on("/connections", (200, [body]))
        self.auth0.on(f"/connections/{body['id']}", (200, body))

    def user(
        self,
        *identities: dict[str, Any],
        user_id: str = ROSA,
        logins: int = 1,
        last_login: datetime = T0,
        **more: Any,
    ) -> None:
        body = {
            "user_id": user_id,
            "logins_count": logins,
            "last_login": iso(last_login),
            "identities": list(identities),
            **more,
        }
        self.auth0.on("/users/" + user_id.replace("|", "%7C"), (200, body))

    def no_user(self, user_id: str = ROSA) -> None:
        answer = (404, {"statusCode": 404, "errorCode": "inexistent_user"})
        self.auth0.on("/users/" + user_id.replace("|", "%7C"), answer)

    async def pull(self, user_id: str = ROSA, login: Event | None = None) -> None:
        await self.puller.user("acme", user_id, login=login)

    def grant(self, identity_user_id: str = "1") -> Any:
        table = GrantRow.__table__
        with reading(self.engine) as database:
            asked = select(table).where(table.c.identity_user_id == identity_user_id)
            return database.execute(asked).one()

    def tokens(self, identity_user_id: str = "1") -> tuple[str | None, str | None]:
        """(refresh token, access token), as a renewer reads them."""
        row = self.grant(identity_user_id)
        return self._open(row, "rt"), self._open(row, "at")

    def asked(self, what: str) -> int:
        return sum(path.startswith(what) for path in self.auth0.paths)

    def _open(self, row: Any, kind: str) -> str | None:
        sealed = row.access_token if kind == "at" else row.refresh_token
        key = row.access_key if kind == "at" else row.refresh_key
        if sealed is None:
            return None
        opened = self.vault.open(
            sealed,
            tenant="acme",
            grant=GrantId(row.id),
            generation=row.generation,
            kind=kind,
            key=key,
        )
        return opened.text()


def login(
    at: datetime | None = T0, *, source: Source = Source.LOGS, connection: str = "google-oauth2"
) -> Event:
    return Event(
        tenant="acme",
        trigger=Trigger.LOGIN,
        source=source,
        delivery_id="1",
        occurred_at=at,
        user_id=ROSA,
        connection=connection,
        identity_user_id="1",
    )


MINUTE = timedelta(minutes=1)


def backfill_of(world: World, puller: Any = None) -> Backfill:
    return Backfill(
        world.api,
        puller or world.puller,
        checkpoint=BackfillRepository(world.engine),
        clock=world.clock,
        offload=in_place,
    )
