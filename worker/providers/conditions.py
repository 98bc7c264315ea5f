"""Whether a condition of the catalogue holds for a connection and what came with a grant."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

import msgspec

from worker.domain.exchange import ConnectionConfig
from worker.providers.filling import option, token_address
from worker.providers.vocabulary import Condition


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantSigns:
    """What tells the variants of one strategy apart, grant by grant."""

    has_refresh_token: bool = False
    access_token_prefix: str = ""  # the first characters, as many as the caller likes to show
    expires_told: bool = False


def holds(condition: Condition, connection: ConnectionConfig, signs: GrantSigns) -> bool:
    """All that the condition gives must be so."""
    value = option(connection, condition.option) if condition.option else None
    prefix, host = condition.access_token_prefix, condition.token_host
    return (
        condition.equals in (None, value)
        and condition.present in (None, bool(value))
        and (not host or fnmatchcase(token_host(connection), host))
        and condition.has_refresh_token in (None, signs.has_refresh_token)
        and signs.access_token_prefix.startswith(prefix)
        and condition.expires_told in (None, signs.expires_told)
    )


def weight(condition: Condition) -> int:
    """How much a condition asks; of two that hold, the one that asks more is meant."""
    given = msgspec.structs.asdict(condition).values()
    return sum(value not in (None, "") for value in given)


def token_host(connection: ConnectionConfig) -> str:
    """Host of the connection's own token URL, lower case, no port; "" if it has none."""
    return (token_address(connection).hostname or "").lower()


def matches_path(pattern: str, connection: ConnectionConfig) -> bool:
    return not pattern or fnmatchcase(token_address(connection).path, pattern)
