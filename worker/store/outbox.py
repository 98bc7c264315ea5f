"""Writes notices where they cannot be lost: in the transaction of what they tell about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from worker.domain.ports import Notice
from worker.store.tables import OutboxRow
from worker.store.upsert import insert_into


def add(connection: Connection, notices: Sequence[Notice], now: datetime) -> None:
    """Store each notice to be sent at once; one whose episode is known already is dropped."""
    if notices:
        rows = [_row(notice, now) for notice in notices]
        connection.execute(insert_into(connection, OutboxRow).on_conflict_do_nothing(), rows)


def _row(notice: Notice, now: datetime) -> dict[str, Any]:
    return {
        "tenant": notice.tenant,
        "kind": notice.kind,
        "episode": notice.episode,
        "grant_id": notice.grant,
        "notice": {
            "user_id": notice.user_id,
            "reason": notice.reason,
            "key": asdict(notice.key) if notice.key else None,
        },
        "attempts": 0,
        "next_at": now,
        "created_at": now,
    }
