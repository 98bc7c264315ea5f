"""Auth0 beside the storm: a register of copies that logins write, and pulls that merge them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import update

from tests.planted import row_of
from tests.simulation.provider import NO_LIMITS
from worker.domain.errors import TransientError
from worker.domain.grant import ExpiryKind, GrantId, GrantKey
from worker.domain.merge import SECOND_LOOK, Arrival, Kind, Why
from worker.domain.secret import Secret
from worker.store.audit import AuditLog
from worker.store.engine import writing
from worker.store.merging import Merged, MergeRepository
from worker.store.pulls import PullRepository, user_subject
from worker.store.tables import GrantRow

if TYPE_CHECKING:
    from tests.simulation.world import World


@dataclass(frozen=True)
class Copy:
    """What `GET /users/{id}` would tell of one identity."""

    user_id: str
    key: GrantKey
    refresh_token: str
    logins: int
    issued_at: datetime
    life: float

    @property
    def login(self) -> str:
        return f"{self.user_id}:{self.logins}"


class Register:
    """Meets `Pull`. Every write is a login's, but for `moved`: a foreign spender's."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._copies: dict[str, Copy] = {}
        self._pulls = PullRepository(world.store)
        self._merges = MergeRepository(world.store, world.vault, AuditLog("puller"), actor="puller")

    def know(self, grant: GrantId, refresh_token: str) -> None:
        """The copy that the first login left."""
        row = row_of(self._world.store, grant)
        key = GrantKey(
            tenant=row.tenant, connection=row.connection, identity_user_id=row.identity_user_id
        )
        life = (row.expires_at - row.issued_at).total_seconds()
        copy = Copy(row.user_id, key, refresh_token, 1, row.issued_at, life)
        self._copies[row.user_id] = copy
        with writing(self._world.store) as db:
            merged = update(GrantRow).where(GrantRow.id == grant)
            db.execute(merged.values(upstream_login=copy.login))

    def logs_in(self, user_id: str, refresh_token: str) -> None:
        copy = self._copies[user_id]
        now = self._world.now()
        self._copies[user_id] = replace(
            copy, refresh_token=refresh_token, logins=copy.logins + 1, issued_at=now
        )

    def moved(self, user_id: str, refresh_token: str) -> None:
        self._copies[user_id] = replace(self._copies[user_id], refresh_token=refresh_token)

    async def user(self, tenant: str, user_id: str) -> None:
        """As the puller does: fence, GET, merge; it may ask for a second look."""
        begun = self._pulls.begin(tenant, user_subject(user_id), now=self._world.now())
        await asyncio.sleep(self._world.random.uniform(0.05, 2.0))
        copy = self._copies[user_id]
        await asyncio.sleep(self._world.random.uniform(0.05, 2.0))
        if self._world.store_away:
            raise TransientError("store: away", code="store_away")
        merged = self._merges.merge(
            begun, [self._arrival(copy)], user_id=user_id, now=self._world.now()
        )
        _look_again(merged)

    async def account(self, key: GrantKey, user_id: str) -> None:
        await self.user(key.tenant, user_id)

    async def tell(self, user_id: str) -> None:
        """An event about the user: read until nothing more is to be seen, as the inbox does."""
        while True:
            try:
                await self.user("acme", user_id)
            except TransientError as error:
                wait = error.retry_after or timedelta(seconds=5)
                await asyncio.sleep(wait.total_seconds() + 0.1)
            else:
                return

    def _arrival(self, copy: Copy) -> Arrival:
        return Arrival(
            key=copy.key,
            user_id=copy.user_id,
            strategy=copy.key.connection,
            provider=copy.key.connection,
            spends="rt",
            not_renewable=None,
            lifetimes=NO_LIMITS,
            access_token=Secret(f"at-{copy.refresh_token}-auth0"),
            refresh_token=Secret(copy.refresh_token),
            scope=None,
            issued_at=copy.issued_at,
            expiry=ExpiryKind.AT,
            expires_at=copy.issued_at + timedelta(seconds=copy.life),
            login=copy.login,
        )


def _look_again(merged: Merged) -> None:
    if merged.overtaken:
        raise TransientError("a later pull has begun", code="overtaken")
    for grant in merged.grants:
        if grant.decision.kind is Kind.LOOK_AGAIN or grant.decision.why is Why.OVERTAKEN:
            raise TransientError("look again", code=str(grant.decision.why))
        if grant.decision.why is Why.UNEXPLAINED:
            raise TransientError("unexplained", code="unexplained", retry_after=SECOND_LOOK)
