"""An `evergrant.toml` that points the product at a stage.

Nothing in it is special: a tenant with a `base_url`, its secrets, and for each well-known provider
the address of its token endpoint. The very same product serves it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .stage import Stage

TENANT = "rehearsal"
LOGS_AUTHORIZATION = "rehearsal logs authorization"
EVENTS_BEARER = "rehearsal-events-bearer"
ACTIONS_SECRET = "whsec_cmVoZWFyc2FsLWFjdGlvbnMtc2VjcmV0LTAwMDA="

# Entries that take the token endpoint from the connection's own options.
_FROM_OPTIONS = frozenset({"oauth2", "oidc", "okta", "auth0-oidc"})


def config_of(stage: Stage, *, tenant: str = TENANT) -> dict[str, Any]:
    """The configuration as a mapping, in the shape of `evergrant.toml`."""
    settings = stage.settings
    return {
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
            }
        },
        "providers": {name: _entry(stage, name) for name in _to_override(stage)},
    }


def write_config(path: Path, stage: Stage, *, tenant: str = TENANT) -> Path:
    """Write `evergrant.toml`; returns `path`. The file holds the stage's secrets: mode 0600."""
    path.write_text(_toml(config_of(stage, tenant=tenant)), encoding="utf-8")
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


def _to_override(stage: Stage) -> list[str]:
    return [
        name
        for name in stage.profile_names
        if stage.providers[name].profile.strategy not in _FROM_OPTIONS
    ]


def _entry(stage: Stage, name: str) -> dict[str, Any]:
    url, profile = stage.provider_urls[name], stage.providers[name].profile
    entry = {"token_endpoint": f"{url}/token"}
    if profile.revoke["path"]:
        entry["revocation_endpoint"] = f"{url}/{profile.revoke['path']}"
    return entry


def _toml(config: Mapping[str, Any]) -> str:
    """Tables two deep; a JSON string is a valid TOML basic string."""
    lines = ["# Written for a rehearsal stage; run with EVERGRANT_ALLOW_LOOPBACK=1."]
    for group, tables in config.items():
        for name, table in tables.items():
            lines += ["", f"[{group}.{json.dumps(name)}]"]
            lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    return "\n".join([*lines, ""])
