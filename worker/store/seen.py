"""Which refresh tokens a grant has ever had: what is in here is never news (M2, M3).

Remembered are the first 15 bytes of a fingerprint. Nobody without its key can make two that begin
alike, and by chance it happens to one grant in 10³⁰; the table grows fastest of all, and its rows
and index entries are 24 bytes smaller each. Rows of before hold all 32 bytes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, func, or_, select

from worker.domain.grant import Fingerprint, GrantId
from worker.store.tables import SeenRefreshTokenRow

_LENGTH = 15
_FP = SeenRefreshTokenRow.fp
_HELD = select(_FP).where(
    SeenRefreshTokenRow.grant_id == bindparam("of"),
    or_(bindparam("short") == _FP, bindparam("whole") == _FP),
)


def beginning(fp: bytes) -> bytes:
    """Of a fingerprint, what is remembered."""
    return fp[:_LENGTH]


def remembered(grant: GrantId, fp: Fingerprint, now: datetime) -> dict[str, Any]:
    """A row of it."""
    return {"grant_id": grant, "fp": beginning(fp), "seen_at": now}


def holds(connection: Connection, grant: GrantId, fp: Fingerprint | None) -> bool:
    """Whether that grant ever had the refresh token of this fingerprint."""
    if fp is None:
        return False
    asked = {"of": grant, "short": beginning(fp), "whole": fp}
    return connection.execute(_HELD, asked).first() is not None


def is_of(row: Any, fp: Any) -> ColumnElement[bool]:
    """Whether a row's `fp` and a column of whole fingerprints mean the same token."""
    return func.substr(row, 1, _LENGTH) == func.substr(fp, 1, _LENGTH)


# The same for `move_group`, whose rows are called `m`. Asked row by row, of the index: said as
# NOT EXISTS it may be planned as a look through the whole table.
POSTGRES_FP = f"substr(m.rt_fp, 1, {_LENGTH})"
POSTGRES_NEW = f"""(
    SELECT true FROM seen_refresh_tokens s WHERE s.grant_id = m.id AND s.fp = {POSTGRES_FP}
) IS NULL"""  # noqa: S608 - a length of our own
