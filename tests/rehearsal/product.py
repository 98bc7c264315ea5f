"""The product's own parts on a stage: its puller reads the tenant, its engine renews."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select, update

from worker import settings
from worker.auth0 import open_client
from worker.bootstrap.base import Base, Role, open_base
from worker.bootstrap.pulling import Reading
from worker.bootstrap.renewing import engine_of
from worker.domain.grant import GrantId
from worker.domain.secret import Secret
from worker.providers import HttpTokenEndpoint
from worker.rehearsal import RunningStage, write_config
from worker.rehearsal.config import TENANT
from worker.renewal import Engine
from worker.store import migrate
from worker.store.engine import reading, writing
from worker.store.tables import GrantRow
from worker.sync import Puller
from worker.vault import Keyring

DAY = timedelta(days=1)


@dataclass
class Product:
    """What a worker does, step by step, when a test says so."""

    base: Base
    puller: Puller
    engine: Engine

    async def pull(self, user_id: str) -> None:
        await self.puller.user(TENANT, user_id)

    async def renew(self, entry: str) -> Mapping[str, int]:
        """Let every grant fall due, and renew what is allowed."""
        with writing(self.base.engine) as db:
            db.execute(update(GrantRow).values(due_at=self.base.clock.now()))
        return await self.engine.drain(entry, budget_seconds=20)

    def grant(self, **columns: Any) -> Any:
        """The one grant there is, or the one with these columns."""
        with reading(self.base.engine) as db:
            table = GrantRow.__table__
            where = [table.c[name] == value for name, value in columns.items()]
            return db.execute(select(table).where(*where)).one()

    def set(self, **columns: Any) -> None:
        with writing(self.base.engine) as db:
            db.execute(update(GrantRow).values(**columns))

    def opened(self, row: Any, kind: str) -> Secret:
        sealed = row.access_token if kind == "at" else row.refresh_token
        return self.base.vault().open(
            sealed,
            tenant=TENANT,
            grant=GrantId(row.id),
            generation=row.generation,
            kind=kind,
            key=row.access_key if kind == "at" else row.refresh_key,
        )


@asynccontextmanager
async def product(hall: RunningStage, place: Path, *, more: str = "") -> AsyncIterator[Product]:
    """On an embedded store of its own, configured as the stage writes it, and `more`."""
    written = write_config(place / "evergrant.toml", hall.stage)
    written.write_text(written.read_text("utf-8") + more, "utf-8")
    Keyring.create(place / "keyring.json")
    (place / "data").mkdir(mode=0o700)
    environment = {
        "EVERGRANT_DATA_DIR": str(place / "data"),
        "EVERGRANT_KEYRING": str(place / "keyring.json"),
        "EVERGRANT_BROKER_URL": "memory://",
        "EVERGRANT_ALLOW_LOOPBACK": "1",
    }
    base = open_base(settings.load(environment, directory=place), Role.WORKER)
    migrate.upgrade(base.engine)
    endpoint, vault, connections = (
        HttpTokenEndpoint(allow_loopback=True),
        base.vault(),
        base.connections(),
    )
    try:
        async with open_client() as http:
            puller = Reading(base, http, vault=vault, connections=connections).puller
            engine = engine_of(
                base, vault=vault, connections=connections, endpoint=endpoint, pull=puller
            )
            yield Product(base=base, puller=puller, engine=engine)
            await engine.stop()
    finally:
        await endpoint.close()
        base.close()
