"""Two grants that were given one refresh token: one of them holds it, the other follows (C18).

The unique index tells who holds a token now. Nothing tells who held it before, so what is kept
beside a current token remembers it (`CandidateRow.held_by`).
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Connection, select

from worker.domain.grant import Fingerprint, GrantId
from worker.store.tables import GrantRow


def holder_of(db: Connection, rt_fp: Fingerprint | None, *, but: GrantId) -> UUID | None:
    """Another grant, than `but`, that holds this very refresh token.

    Its row is locked against its erasure alone: or it could end before it is named, and nobody
    would know of its follower.
    """
    if rt_fp is None:
        return None
    asked = select(GrantRow.id).where(GrantRow.rt_fp == rt_fp, GrantRow.id != but)
    kept = asked.with_for_update(read=True, key_share=True)
    return db.execute(kept).scalar_one_or_none()


def following(holder: UUID) -> dict[Any, Any]:
    """The columns of a grant that spends nothing any more, and names the one that does."""
    return {
        GrantRow.refresh_token: None,
        GrantRow.rt_fp: None,
        GrantRow.alias_of: holder,
        GrantRow.due_at: None,
        GrantRow.reason: "alias",
    }
