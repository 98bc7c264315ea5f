"""An `evergrant.toml` that points the product at a stage.

Nothing in it is special: a tenant with a `base_url`, its secrets, and for each well-known provider
the address of its token endpoint. The very same product serves it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .profiles import Profile
from .stage import Stage

TENANT = "rehearsal"
LOGS_AUTHORIZATION = "rehearsal logs authorization"
EVENTS_BEARER = "rehearsal-events-bearer"
ACTIONS_SECRET = "whsec_cmVoZWFyc2FsLWFjdGlvbnMtc2VjcmV0LTAwMDA="

# Strategies that say nothing about who is behind them: the connection names the entry itself.
_NAMELESS = frozenset({"oauth2", "oidc", "okta", "auth0-oidc"})


def config_of(stage: Stage, *, tenant: str = TENANT) -> dict[str, Any]:
    """The configuration as a mapping, in the shape of `evergrant.toml`."""
    settings = stage.settings
    return {
        "deletion_quiet": 30,  # seconds; the end of a deletion is to be seen while one watches
        "tenants": {
            tenant: {
                "domain": settings.domain,
                "base_url": stage.base_url,
                "client_id": settings.client_id,
                "client_secret": settings.client_secret,
                "logs_authorization": LOGS_AUTHORIZATION,
                "events_bearer": EVENTS_BEARER,
                "actions_secret": ACTIONS_SECRET,
                **_pace(settings.plan),
                "connections": dict(_connections(stage)),
            }
        },
        "providers": dict(_providers(stage)),
    }


def write_config(path: Path, stage: Stage, *, tenant: str = TENANT) -> Path:
    """Write `evergrant.toml`; returns `path`. The file holds the stage's secrets: mode 0600."""
    path.write_text(_toml(config_of(stage, tenant=tenant)), encoding="utf-8")
    path.chmod(0o600)
    return path


def write_configs(path: Path, stages: Mapping[str, Stage]) -> Path:
    """As `write_config`, for several tenants in one deployment, by name.

    Each has providers of its own, so their addresses stand at its connections.
    """
    tenants: dict[str, Any] = {}
    for tenant, stage in stages.items():
        table = config_of(stage, tenant=tenant)["tenants"][tenant]
        for name, connection in stage.tenant.connections.items():
            table["connections"].setdefault(name, _addresses(stage, connection.provider.profile))
        tenants[tenant] = table
    path.write_text(_toml({"deletion_quiet": 30, "tenants": tenants}), encoding="utf-8")
    path.chmod(0o600)
    return path


def webhooks(evergrant_url: str, *, tenant: str = TENANT) -> dict[str, dict[str, str]]:
    """Arguments of `send_to`, for a product that stands at `evergrant_url`."""
    hooks = f"{evergrant_url}/hooks/auth0/{tenant}"
    return {
        "logs": {"url": f"{hooks}/logs", "authorization": LOGS_AUTHORIZATION},
        "events": {"url": f"{hooks}/events", "bearer": EVENTS_BEARER},
        "actions": {"url": f"{hooks}/actions", "secret": ACTIONS_SECRET},
    }


def environment(stage: Stage) -> dict[str, str]:
    """The variables a shell needs besides the file."""
    return {
        "AUTH0_DOMAIN": stage.settings.domain,
        "AUTH0_CLIENT_ID": stage.settings.client_id,
        "AUTH0_CLIENT_SECRET": stage.settings.client_secret,
        "EVERGRANT_ALLOW_LOOPBACK": "1",
    }


def _pace(plan: str) -> Mapping[str, Any]:
    return {"requests_per_second": 200} if plan == "unlimited" else {"plan": plan}


def _connections(stage: Stage) -> Iterator[tuple[str, dict[str, Any]]]:
    """Connections whose address cannot be told from the name of their provider."""
    for name, connection in stage.tenant.connections.items():
        profile = connection.provider.profile
        if not _has_own_entry(profile):
            yield name, {"provider": profile.entry or profile.name, **_addresses(stage, profile)}


def _providers(stage: Stage) -> Iterator[tuple[str, dict[str, Any]]]:
    """Providers whose address the catalogue knows, moved to the stage."""
    for name, provider in stage.providers.items():
        if _has_own_entry(provider.profile):
            yield name, _addresses(stage, provider.profile)


def _has_own_entry(profile: Profile) -> bool:
    return not profile.entry and profile.strategy not in _NAMELESS


def _addresses(stage: Stage, profile: Profile) -> dict[str, Any]:
    url = stage.provider_urls[profile.name]
    addresses: dict[str, Any] = {"token_endpoint": f"{url}/token"}
    if profile.refresh_path != "token":
        addresses["refresh_endpoint"] = f"{url}/{profile.refresh_path}"
    if profile.first:
        addresses["first"] = {"token_endpoint": f"{url}/{profile.first['path']}"}
    if profile.introspects:
        addresses["introspection_endpoint"] = f"{url}/introspect"
    if profile.revoke["path"]:
        addresses["revoke"] = {"endpoint": f"{url}/{profile.revoke['path']}"}
    return addresses


def _toml(config: Mapping[str, Any]) -> str:
    written = "# Written for a rehearsal stage; run with EVERGRANT_ALLOW_LOOPBACK=1."
    return "\n".join([written, *_table([], config), ""])


def _table(path: list[str], table: Mapping[str, Any]) -> Iterator[str]:
    """A table and those below it; a JSON string is a TOML basic string too."""
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    if plain:
        yield ""
        if path:
            yield f"[{'.'.join(map(_key, path))}]"
        yield from (f"{key} = {json.dumps(value)}" for key, value in plain.items())
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _table([*path, key], value)


def _key(part: str) -> str:
    """Bare where TOML allows that."""
    return part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else json.dumps(part)
