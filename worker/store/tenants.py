"""What all processes share about one Auth0 tenant: its token, its request budget, its brake."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, select, update

from worker.domain.ports import ApiToken, Vault
from worker.store.engine import reading, writing
from worker.store.tables import TenantRow
from worker.store.types import from_micros, to_micros
from worker.store.upsert import insert_into


class TenantRepository:
    """The `tenants` table; a row appears when something is first written about a tenant."""

    def __init__(self, engine: Engine, vault: Vault) -> None:
        self._engine, self._vault = engine, vault

    def token(self, tenant: str) -> ApiToken | None:
        """The shared token, expired or not; None: nobody has fetched one."""
        if (row := self._read(tenant)) is None or row.api_token is None:
            return None
        return ApiToken(
            token=self._vault.open_config(row.api_token, tenant=tenant, scope=scope_of(tenant)),
            expires_at=row.api_token_expires_at,
            scope=row.api_scope or "",
        )

    def put_token(self, tenant: str, token: ApiToken) -> None:
        values = {
            "api_token": self._vault.seal_config(
                token.token, tenant=tenant, scope=scope_of(tenant)
            ),
            "api_token_expires_at": token.expires_at,
            "api_scope": token.scope,
        }
        self._write(tenant, values)

    def drop_token(self, tenant: str) -> None:
        """It was refused before its time: the next one who needs it fetches another."""
        self._write(tenant, {"api_token": None, "api_token_expires_at": None})

    def take(
        self,
        tenant: str,
        bucket: str,
        rate: float,
        burst: float,
        now: datetime,
        *,
        n: int = 1,
        reserve: float = 0,
        own: tuple[str, float] | None = None,
    ) -> float:
        """Take `n` requests from a token bucket that all processes share.

        Args:
            rate: requests per second that flow back; > 0.
            burst: how many the bucket holds; ≥ n + reserve, or it is never granted at once.
            reserve: how many to leave for more urgent callers.
            own: (whose, requests per second that are theirs even while more urgent callers take
                all that flows back). They are taken ahead, and the others wait for them: the rate
                stays what it is.
        Returns: 0.0 if taken; else nothing was taken, and it is worth asking in so many seconds.
        """
        with writing(self._engine) as connection:
            row = self._locked(connection, tenant)
            if row.blocked_until and row.blocked_until > now:
                return float((row.blocked_until - now).total_seconds())
            stored = row.budget.get(bucket) or {}
            level, at = _level(stored, rate, burst, now)
            wait = (n + reserve - level) / rate
            left: dict[str, Any] = {"level": level - n, "at": to_micros(at)}
            if wait > 0 and own is not None:
                others, ahead = _ahead(stored.get("own", {}), *own, n=n, now=now)
                wait = min(wait, max(ahead, -level / rate))  # one after the other, never in debt
                left["own"] = others
            elif "own" in stored:
                left["own"] = stored["own"]
            if wait > 0:
                return float(wait)
            connection.execute(_where(tenant).values(budget={**row.budget, bucket: left}))
            return 0.0

    def block(self, tenant: str, until: datetime) -> None:
        """Auth0 answered 429: nobody asks before `until`. Never made shorter."""
        with writing(self._engine) as connection:
            row = self._locked(connection, tenant)
            if row.blocked_until is None or row.blocked_until < until:
                connection.execute(_where(tenant).values(blocked_until=until))

    def brake(self, tenant: str, *, for_: timedelta, now: datetime) -> bool:
        """Nobody asks for that long; but one part of time in five at most, however often it is
        called: a tenant that lives at its limit would never be read otherwise."""
        with writing(self._engine) as connection:
            last = self._locked(connection, tenant).blocked_until
            if last is not None and now < last + 4 * for_:
                return False
            connection.execute(_where(tenant).values(blocked_until=now + for_))
            return True

    def blocked_until(self, tenant: str) -> datetime | None:
        row = self._read(tenant)
        return row.blocked_until if row else None

    def checkpoint(self, tenant: str) -> str | None:
        """The last log entry seen by polling (I25)."""
        row = self._read(tenant)
        return row.log_checkpoint if row else None

    def put_checkpoint(self, tenant: str, log_id: str, *, after: str | None) -> bool:
        """Move it on from `after`; False: it stands elsewhere, for another process follows too."""
        with writing(self._engine) as connection:
            if self._locked(connection, tenant).log_checkpoint != after:
                return False
            connection.execute(_where(tenant).values(log_checkpoint=log_id))
            return True

    def _read(self, tenant: str) -> Any:
        table = TenantRow.__table__
        with reading(self._engine) as connection:
            return connection.execute(select(table).where(table.c.tenant == tenant)).first()

    def _write(self, tenant: str, values: Mapping[str, Any]) -> None:
        with writing(self._engine) as connection:
            statement = insert_into(connection, TenantRow)
            connection.execute(
                statement.values(tenant=tenant, budget={}, **values).on_conflict_do_update(
                    index_elements=["tenant"], set_=dict(values)
                )
            )

    def _locked(self, connection: Connection, tenant: str) -> Any:
        """The row, ours until the transaction ends (SQLite's is the whole database)."""
        table = TenantRow.__table__
        wanted = select(table).where(table.c.tenant == tenant).with_for_update()
        if found := connection.execute(wanted).first():
            return found
        insert = insert_into(connection, TenantRow).values(tenant=tenant, budget={})
        connection.execute(insert.on_conflict_do_nothing())
        return connection.execute(wanted).one()


def _where(tenant: str) -> Any:
    return update(TenantRow).where(TenantRow.tenant == tenant)


def _level(
    stored: Mapping[str, Any] | None, rate: float, burst: float, now: datetime
) -> tuple[float, datetime]:
    """What the bucket holds and when that was so; time never runs back for it."""
    if not stored:
        return burst, now
    at = from_micros(stored["at"])
    elapsed = max(0.0, (now - at).total_seconds())
    return min(burst, stored["level"] + elapsed * rate), max(at, now)


def _ahead(
    stored: Mapping[str, Any], whose: str, rate: float, *, n: int, now: datetime
) -> tuple[dict[str, Any], float]:
    """(everybody's own part, `n` taken from that of `whose`; seconds until that may be)."""
    level, at = _level(stored.get(whose), rate, float(n), now)
    return {**stored, whose: {"level": level - n, "at": to_micros(at)}}, (n - level) / rate


def scope_of(tenant: str) -> str:
    """What the Management API token of a tenant is sealed for."""
    return f"tenant:{tenant}:api_token"
