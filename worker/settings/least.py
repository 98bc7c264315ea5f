"""Which secrets of the file and the environment a role reads: those it uses, and no others.

A process then neither needs what its role does not use, nor holds it in memory. Nothing is
withheld from a worker and from the command line.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

ROLE = "EVERGRANT_ROLE"  # said by the command that starts a role, to all who read the settings

_CREDENTIALS = frozenset({"client_secret", "private_key"})
_DOORS = frozenset(
    {"logs_authorization", "events_bearer", "events_basic", "events_header", "actions_secret"}
)
_WITHHELD: Mapping[str, frozenset[str]] = {
    "web": _CREDENTIALS,
    "scheduler": _CREDENTIALS | _DOORS,
    "flower": _CREDENTIALS | _DOORS,
    "keyring": _CREDENTIALS | _DOORS,  # commands that want to know where the keyrings lie
}


def act_as(role: str) -> None:
    """What this process reads its settings for, from now on."""
    os.environ[ROLE] = role


def withheld_from(role: str | None) -> frozenset[str]:
    """Keys of a tenant's table, and of its connections', that `role` does not read."""
    return _WITHHELD.get(role or "", frozenset())


def without(values: Mapping[str, Any], withheld: frozenset[str]) -> dict[str, Any]:
    """The file's tables, less those keys; and, where any are, less actions and notices, which
    only a worker runs and whose secrets are theirs alone."""
    if not withheld:
        return dict(values)
    kept = {key: value for key, value in values.items() if key not in ("actions", "notices")}
    if isinstance(tenants := kept.get("tenants"), Mapping):
        kept["tenants"] = {name: _table(tenant, withheld) for name, tenant in tenants.items()}
    return kept


def _table(table: Any, withheld: frozenset[str]) -> Any:
    if not isinstance(table, Mapping):
        return table  # refused later, with its line
    kept = {key: value for key, value in table.items() if key not in withheld}
    if isinstance(connections := kept.get("connections"), Mapping):
        kept["connections"] = {n: _table(one, withheld) for n, one in connections.items()}
    return kept
