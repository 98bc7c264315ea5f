"""Auth0 connections as last read: their options in the open, their secrets sealed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, Row, select, true, update

from worker.domain.errors import KeyringError, PermanentError
from worker.domain.exchange import ConnectionConfig
from worker.domain.learned import learned_from
from worker.domain.ports import Vault
from worker.domain.secret import Secret
from worker.store import reopening
from worker.store.engine import reading, writing
from worker.store.tables import ConnectionRow
from worker.store.upsert import insert_into

_table = ConnectionRow.__table__
_SECRET_NAME = re.compile(
    r"secret|password|private_?key|signing_?key|assertion|(access|refresh|id|bearer|api)_?token$"
    r"|^admin_.*token|custom_?headers",
    re.IGNORECASE,
)

CLIENT_LOST, DEVELOPER_KEYS = "client_lost", "developer_keys"  # among a connection's problems

Overrides = Mapping[tuple[str, str], Mapping[str, object]]
"""(tenant, connection name) to the operator's keys; `client_id`, `client_secret` (a `Secret`)
and `enabled` among them replace what the tenant says, the rest is handed on."""


class ConnectionRepository:
    """Meets `Connections`. What an operator set in evergrant.toml is laid over each answer."""

    def __init__(
        self,
        engine: Engine,
        vault: Vault,
        *,
        overrides: Overrides | None = None,
        deleted: bool = False,
    ) -> None:
        """`deleted`: those that the tenant has no more are found as well."""
        self._engine, self._vault, self._overrides = engine, vault, overrides or {}
        self._there = true() if deleted else _table.c.deleted_at.is_(None)

    def with_deleted(self) -> ConnectionRepository:
        """For whoever ends grants: a consent is ended as the client it was given to, and with a
        connection go its users."""
        return ConnectionRepository(
            self._engine, self._vault, overrides=self._overrides, deleted=True
        )

    def get(self, tenant: str, name: str) -> ConnectionConfig | None:
        return self._one(_table.c.tenant == tenant, _table.c.name == name)

    def get_by_id(self, tenant: str, connection_id: str) -> ConnectionConfig | None:
        return self._one(_table.c.tenant == tenant, _table.c.connection_id == connection_id)

    def all(self, tenant: str) -> Sequence[ConnectionConfig]:
        """By name; deleted ones left out."""
        where = select(_table).where(_table.c.tenant == tenant, _table.c.deleted_at.is_(None))
        with reading(self._engine) as connection:
            rows = connection.execute(where.order_by(_table.c.name)).all()
        return [self._config(row) for row in rows]

    def sharing_client(self, client_id: str) -> Sequence[tuple[str, str]]:
        """Tenant and name of every connection that is this client to its provider.

        Deleted ones and other tenants' count too: a consent is given to the client.
        """
        with reading(self._engine) as connection:
            rows = connection.execute(select(_table.c.tenant, _table.c.name, _table.c.client_id))
            ids = {(row.tenant, row.name): row.client_id for row in rows}
        for place, ours in self._overrides.items():
            if place in ids and ours.get("client_id"):
                ids[place] = str(ours["client_id"])
        return sorted(place for place, id_ in ids.items() if id_ == client_id)

    def put(self, config: ConnectionConfig, *, options_seen: bool) -> bool:
        """Remember what the tenant said; a brake and the approved host stay as they are.

        What it does not say any more it has lost, as by an edit of a tool that did not echo it:
        the client, and with it the secret, stay as they were, for the grants there are belong to
        that client. True: so it was.

        A stop stays too, unless the tenant now says something else than when it was stopped: then
        it may be mended, and one attempt shows whether it is.
        Without the scope `read:connections_options` Auth0 leaves the options out
        (`options_seen` False): then the options and secrets of an earlier reading stay.
        """
        told = {
            "connection_id": config.id,
            "strategy": config.strategy,
            "options_seen": options_seen,
            "fetched_at": config.fetched_at,
            "deleted_at": None,
        }
        with writing(self._engine) as connection:
            before = self._row(connection, config) if options_seen else None
            whole = config if before is None else self._with_what_was_lost(before, config)
            options = {
                "client_id": whole.client_id,
                "options": without_secrets(whole.options),
                "secrets": self._sealed(whole),
            }
            mended = before is not None and self._mended(before, whole)
            insert = insert_into(connection, ConnectionRow)
            connection.execute(
                insert.values(
                    tenant=config.tenant, name=config.name, **told, **options
                ).on_conflict_do_update(
                    index_elements=["tenant", "name"],
                    set_={**told, **(options if options_seen else {})},
                )
            )
            if mended:
                reopening.reopen(connection, config.tenant, config.name, config.fetched_at)
        return whole.client_id != config.client_id

    def stop(
        self, tenant: str, name: str, *, asked: ConnectionConfig, reason: str, now: datetime
    ) -> bool:
        """Take it out of renewal until somebody mends it; the first reason stands (I9).

        Not where it was changed since it was `asked` with: whoever has mended it would wait for
        ever. True: it was open until now. Raises: KeyringError, TamperError, as `get`.
        """
        this = (_table.c.tenant == tenant, _table.c.name == name)
        still = (_table.c.stopped.is_(None), _table.c.deleted_at.is_(None))
        # locked: `put` waits for this look and what comes of it, or is waited for
        open_ = select(_table).where(*this, *still).with_for_update()
        with writing(self._engine) as connection:
            row = connection.execute(open_).first()
            if row is None or not _as_asked(self._config(row), asked):
                return False
            stopped = {"stopped": reason, "stopped_at": now}
            connection.execute(update(ConnectionRow).where(*this).values(stopped))
        return True

    def reopen(self, tenant: str, name: str, *, now: datetime | None = None) -> None:
        """Somebody mended it: the grants that waited for that fall due within half a minute."""
        with writing(self._engine) as connection:
            reopening.reopen(connection, tenant, name, now or datetime.now(UTC))

    def approve_host(self, tenant: str, name: str, host: str) -> str | None:
        """From now on refresh tokens of this connection go to `host` and nowhere else (I13), unless
        they were to go elsewhere already: only an operator moves a pin.

        Returns the host that is pinned now; None: there is no such connection.
        """
        this = (_table.c.tenant == tenant, _table.c.name == name)
        first = update(ConnectionRow).where(*this, _table.c.approved_host.is_(None))
        with writing(self._engine) as connection:
            connection.execute(first.values(approved_host=host))
            return connection.execute(select(_table.c.approved_host).where(*this)).scalar()

    def mark_deleted(self, tenant: str, name: str, now: datetime) -> None:
        """The tenant has it no more; `put` brings it back."""
        self._update(tenant, name, _table.c.deleted_at.is_(None), deleted_at=now)

    def brake(self, tenant: str, name: str, *, until: datetime) -> None:
        """Hold verdicts: too many grants turned suspect at once (I8)."""
        self._update(tenant, name, brake_until=until)

    def release(self, tenant: str, name: str) -> None:
        """Verdicts may be given again: one succeeded, or a human says so."""
        self._update(tenant, name, _table.c.brake_until.is_not(None), brake_until=None)

    def braked(self, now: datetime) -> dict[tuple[str, str], datetime]:
        """(tenant, connection) to the end of its brake, for brakes that still hold."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(_table).where(_table.c.brake_until > now))
            return {(row.tenant, row.name): row.brake_until for row in rows}

    def _one(self, *where: Any) -> ConnectionConfig | None:
        with reading(self._engine) as connection:
            row = connection.execute(select(_table).where(*where, self._there)).first()
        return self._config(row) if row else None

    def _update(self, tenant: str, name: str, *where: Any, **values: Any) -> None:
        this = (_table.c.tenant == tenant, _table.c.name == name)
        with writing(self._engine) as connection:
            connection.execute(update(ConnectionRow).where(*this, *where).values(values))

    def as_set(self, told: ConnectionConfig) -> ConnectionConfig:
        """What the tenant told of a connection, under what the operator set in evergrant.toml."""
        ours = dict(self._overrides.get((told.tenant, told.name), {}))
        client_id, secret = ours.pop("client_id", None), ours.pop("client_secret", None)
        return replace(
            told,
            client_id=str(client_id) if client_id else told.client_id,
            client_secret=secret if isinstance(secret, Secret) else told.client_secret,
            client_lost=told.client_lost and not client_id,
            enabled=ours.pop("enabled", True) is not False,
            overrides=ours,
        )

    def _config(self, row: Row[Any]) -> ConnectionConfig:
        secret, headers = self._opened(row)
        told = ConnectionConfig(
            tenant=row.tenant,
            name=row.name,
            id=row.connection_id,
            strategy=row.strategy,
            client_id=row.client_id,
            client_secret=secret,
            options=row.options,
            headers=headers,
            overrides={},
            fetched_at=row.fetched_at,
            approved_host=row.approved_host,
            stopped=row.stopped,
            learned=learned_from(row.learned),
            client_lost=row.client_id is not None and _lost(row.problems),
        )
        return self.as_set(told)

    def _row(self, connection: Connection, config: ConnectionConfig) -> Row[Any] | None:
        """Locked: else a stop could come between this look and the new secret, and stay."""
        this = (_table.c.tenant == config.tenant, _table.c.name == config.name)
        return connection.execute(select(_table).where(*this).with_for_update()).first()

    def _with_what_was_lost(self, row: Row[Any], config: ConnectionConfig) -> ConnectionConfig:
        """A client is not forgotten for being left out, nor its secret for being hidden."""
        if row.client_id is None or row.deleted_at is not None or row.connection_id != config.id:
            return config
        lost = config.client_id is None
        hidden = config.client_id == row.client_id and config.client_secret is None
        if not (lost or hidden):
            return config
        try:
            secret, headers = self._opened(row)
        except (KeyringError, PermanentError):
            return config
        if hidden:
            return replace(config, client_secret=secret)
        return replace(
            config,
            client_id=row.client_id,
            client_secret=secret,
            options={**row.options, **config.options},
            headers={**headers, **config.headers},
        )

    def _mended(self, row: Row[Any], config: ConnectionConfig) -> bool:
        """Whether a stopped connection differs in anything that renewing uses."""
        if row.stopped is None:
            return False
        before = (row.client_id, row.options, *self._opened(row))
        options = without_secrets(config.options)
        return before != (config.client_id, options, config.client_secret, dict(config.headers))

    def _sealed(self, config: ConnectionConfig) -> bytes | None:
        secret = config.client_secret.text() if config.client_secret else None
        headers = {name: value.text() for name, value in config.headers.items()}
        if not secret and not headers:
            return None
        document = json.dumps({"client_secret": secret, "headers": headers})
        scope = scope_of(config.tenant, config.name)
        return self._vault.seal_config(Secret(document), tenant=config.tenant, scope=scope)

    def _opened(self, row: Row[Any]) -> tuple[Secret | None, dict[str, Secret]]:
        if row.secrets is None:
            return None, {}
        scope = scope_of(row.tenant, row.name)
        opened = self._vault.open_config(row.secrets, tenant=row.tenant, scope=scope)
        document = json.loads(opened.reveal())
        headers = {name: Secret(value) for name, value in document["headers"].items()}
        return Secret(document["client_secret"]) if document["client_secret"] else None, headers


def _as_asked(known: ConnectionConfig, asked: ConnectionConfig) -> bool:
    """Another host may have been approved meanwhile, too; the first one often is, by who asks."""
    return known.asks_as(asked) and asked.approved_host in (None, known.approved_host)


def _lost(problems: str | None) -> bool:
    """As the last reading showed it: none at all, or Auth0's own in its place."""
    return not {CLIENT_LOST, DEVELOPER_KEYS}.isdisjoint((problems or "").split())


def scope_of(tenant: str, name: str) -> str:
    """What the secrets of a connection are sealed for."""
    return f"connection:{tenant}:{name}"


def without_secrets(value: Any) -> Any:
    """`options` as they may lie in the open: whatever is named like a secret is left out.

    The reader takes only keys it knows; this is the second lock (I15). A switch is no secret: that
    `ext_refresh_token` is off is why a connection brings none.
    """
    if isinstance(value, Mapping):
        return {
            key: without_secrets(inner)
            for key, inner in value.items()
            if isinstance(inner, bool) or not _SECRET_NAME.search(str(key))
        }
    return [without_secrets(inner) for inner in value] if isinstance(value, list) else value
