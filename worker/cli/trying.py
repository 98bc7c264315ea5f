"""`evergrant providers test`: the request a renewal would send, or one real renewal."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec
from sqlalchemy import select

from worker.bootstrap.base import Base
from worker.cli import context
from worker.domain.errors import ConfigurationError, NotFoundError
from worker.domain.exchange import ConnectionConfig, WireRequest
from worker.domain.forward import Push
from worker.domain.grant import GrantId, GrantState
from worker.domain.held import HeldGrant
from worker.domain.secret import Secret
from worker.providers.complaints import suggestion
from worker.store.engine import reading
from worker.store.handout import HandoutRepository
from worker.store.tables import GrantRow

BLANK = "REDACTED"
# Parameters and headers whose values are no secret; whatever is not named here is blanked.
_OPEN_PARAMS = frozenset(
    {"grant_type", "type", "scope", "resource", "redirect_uri", "client_id", "client_key", "appid"}
    | {"client_assertion_type", "format", "access_type"}
)
_OPEN_HEADERS = frozenset({"accept", "content-type", "user-agent"})
_LOOK_EVERY = 0.1


def dry_run(base: Base, tenant: str, connection: str, strategy: str) -> dict[str, Any]:
    """The request, built with a token that is none. Raises: NotFoundError, ConfigurationError."""
    config = _config(base, tenant, connection)
    provider = _provider(base, config, strategy)
    told: dict[str, Any] = {
        "connection": config.name,
        "provider": provider.name,
        "rotation": provider.rotation.value,
        "not_renewable": provider.not_renewable,
        "well": False,
    }
    if provider.not_renewable is not None:
        return told
    request = provider.request(config, subject=Secret(BLANK), scope=None, now=base.clock.now())
    pinned = config.approved_host in (None, request.host)
    return told | {
        "method": request.method,
        "url": _blanked_url(request.url),
        "host": request.host,
        "host_approved": config.approved_host or "at first use",
        "headers": {
            name: value if name in _OPEN_HEADERS else BLANK
            for name, value in sorted(request.headers.items())
        },
        "body": _blanked_body(request),
        "sent": False,
        "well": pinned,
    }


def really_renew(
    base: Base, tenant: str, connection: str, strategy: str, *, wait: float
) -> dict[str, Any]:
    """Bring one grant forward and watch what becomes of it; a worker does the rest.

    Raises: NotFoundError, there is no grant to try; ConfigurationError, not this provider.
    """
    config = _config(base, tenant, connection)
    entry = _provider(base, config, strategy).name if strategy != config.strategy else None
    repository = HandoutRepository(base.engine, base.audit)
    held = repository.by_id(_soonest(base, tenant, connection, entry))
    assert held is not None
    began = time.monotonic()
    forward = repository.bring_forward(held.id, base.clock.now(), actor=context.operator())
    after = held
    if forward.push is Push.DUE:
        base.hints.renew(held.provider)
        after = watch(repository, held, wait)
    return {
        "grant": held.id,
        "provider": held.provider,
        "asked": forward.push,
        "retry_at": forward.retry_at,
        "renewed": after.generation > held.generation,
        "seconds": round(time.monotonic() - began, 2),
        "generation": after.generation,
        "expires_at": after.expires_at,
        "state": after.state,
        "last_error": after.last_error,
        "well": after.generation > held.generation,
    }


def watch(repository: HandoutRepository, before: HeldGrant, seconds: float) -> HeldGrant:
    """Until the grant is renewed, has failed, or the time is over."""
    until, now = time.monotonic() + seconds, before
    while time.monotonic() < until and now.generation == before.generation:
        time.sleep(_LOOK_EVERY)
        now = repository.by_id(before.id) or now
        if now.failures > before.failures or now.state is not before.state:
            break
    return now


def _config(base: Base, tenant: str, connection: str) -> ConnectionConfig:
    config = base.connections().get(tenant, connection)
    if config is None:
        raise NotFoundError(f"no connection {connection}; `evergrant providers check` lists them")
    return config


def _provider(base: Base, config: ConnectionConfig, strategy: str) -> Any:
    """The named entry, or the one that serves the connection if it is of that strategy."""
    if strategy in base.catalogue.names() and strategy != config.strategy:
        return base.catalogue.entry(strategy, config)
    provider = base.catalogue.resolve(config, has_refresh_token=True)
    if strategy not in (config.strategy, provider.name):
        strategies = {s for n in base.catalogue.names() for s in base.catalogue[n].strategies}
        if strategy not in strategies:
            hint = suggestion(strategy, {*strategies, *base.catalogue.names()})
            raise ConfigurationError(
                f"there is no entry or strategy '{strategy}'{hint}", code="unknown_provider"
            )
        raise ConfigurationError(
            f"connection {config.name} is of strategy {config.strategy}, served by {provider.name}",
            code="other_strategy",
        )
    return provider


def _soonest(base: Base, tenant: str, connection: str, entry: str | None) -> GrantId:
    asked = (
        select(GrantRow.id)
        .where(
            GrantRow.tenant == tenant,
            GrantRow.connection == connection,
            GrantRow.state == GrantState.ACTIVE.value,
            GrantRow.renewable,
            GrantRow.alias_of.is_(None),
            GrantRow.failures == 0,
        )
        .order_by(GrantRow.due_at.is_(None), GrantRow.due_at)
        .limit(1)
    )
    if entry is not None:
        asked = asked.where(GrantRow.provider == entry)
    with reading(base.engine) as db:
        found = db.execute(asked).scalar_one_or_none()
    if found is None:
        raise NotFoundError(f"connection {connection} has no grant that could be renewed now")
    return GrantId(found)


def _blanked_url(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(query=urlencode(_blanked(dict(parse_qsl(parts.query))))))


def _blanked_body(request: WireRequest) -> dict[str, Any]:
    if not request.body:
        return {}
    if request.headers.get("content-type") == "application/json":
        return _blanked(msgspec.json.decode(request.body))
    return _blanked(dict(parse_qsl(request.body.decode(), keep_blank_values=True)))


def _blanked(params: dict[str, Any]) -> dict[str, Any]:
    return {name: value if name in _OPEN_PARAMS else BLANK for name, value in params.items()}
