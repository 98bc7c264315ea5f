"""The row that all processes share about one tenant, ours until the transaction ends."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select, update

from worker.store.tables import TenantRow
from worker.store.upsert import insert_into


def locked(connection: Connection, tenant: str) -> Any:
    table = TenantRow.__table__
    wanted = select(table).where(table.c.tenant == tenant).with_for_update()
    if found := connection.execute(wanted).first():
        return found
    insert = insert_into(connection, TenantRow).values(tenant=tenant, budget={})
    connection.execute(insert.on_conflict_do_nothing())
    return connection.execute(wanted).one()


def put(connection: Connection, tenant: str, **values: Any) -> None:
    connection.execute(update(TenantRow).where(TenantRow.tenant == tenant).values(**values))
