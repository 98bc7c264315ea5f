"""All entries, the operator's merged in; finds the one that serves a grant."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from worker.domain.errors import ConfigurationError
from worker.domain.exchange import ConnectionConfig
from worker.providers import client_auth, loading
from worker.providers.complaints import Origin, fault, suggestion
from worker.providers.conditions import GrantSigns, holds, matches_path, token_host, weight
from worker.providers.consistency import misspellings, unknown_strategies
from worker.providers.provider import CatalogueProvider, Kind
from worker.providers.vocabulary import Entry
from worker.providers.wire import Surroundings

# Strategies that say nothing about who is behind them: the token URL does.
GENERIC = frozenset({"oauth2", "oidc", "custom"})
FALLBACK = "oauth2"


def load_catalogue(
    overrides: Mapping[str, Mapping[str, object]],
    *,
    allow_loopback: bool,
    auth0_domains: Mapping[str, str] | None = None,
    config_path: Path | None = None,
) -> Catalogue:
    """The shipped entries with `[providers.*]` of evergrant.toml over them.

    Args:
        auth0_domains: tenant → domain; some providers want the login's redirect URI again.
        config_path: the file the overrides came from, for the line in a complaint.
    Raises: ConfigurationError naming file, line, and what was probably meant.
    """
    raw, origin = loading.shipped()
    known = {s for entry in loading.checked(raw, origin).values() for s in entry.strategies}
    text = config_path.read_text(encoding="utf-8") if config_path else ""
    name = config_path.name if config_path else "evergrant.toml"
    above = Origin(name=name, text=text, prefix="providers.")
    for entry, keys in overrides.items():
        # Alone first: a wrong key is the operator's, and so is the line to name.
        told = loading.converted(keys, entry, above)
        loading.refuse_first(unknown_strategies(told.strategies, known), entry, above)
    merged = loading.merged(raw, overrides)
    entries = loading.checked(merged, above, plain_http=allow_loopback) if overrides else None
    around = Surroundings(allow_loopback=allow_loopback, auth0_domains=auth0_domains or {})
    return Catalogue(entries or loading.checked(raw, origin), around)


class Catalogue:
    """Meets `domain.ports.Catalogue`; immutable."""

    def __init__(self, entries: Mapping[str, Entry], around: Surroundings) -> None:
        self._kinds = {name: Kind(name, entry) for name, entry in entries.items()}
        self._around = around
        self._overridden: dict[tuple[str, bytes], Kind] = {}
        self._strategies: dict[str, list[Kind]] = {}
        self._hosts: dict[str, list[Kind]] = {}  # with patterns among them, see `_patterns`
        for kind in self._kinds.values():
            for strategy in kind.entry.strategies:
                self._strategies.setdefault(strategy, []).append(kind)
            for host in _hosts(kind.entry):
                self._hosts.setdefault(host.lower(), []).append(kind)
        self._patterns = [host for host in self._hosts if "*" in host]

    def names(self) -> Sequence[str]:
        return list(self._kinds)

    def __getitem__(self, name: str) -> Entry:
        """The bare entry. Raises: ConfigurationError."""
        return self._kind(name).entry

    def resolve(
        self,
        connection: ConnectionConfig,
        *,
        has_refresh_token: bool,
        access_token_prefix: str = "",
        expires_told: bool = False,
    ) -> CatalogueProvider:
        """The entry for one grant; `provider` among the connection's overrides decides alone."""
        signs = GrantSigns(
            has_refresh_token=has_refresh_token,
            access_token_prefix=access_token_prefix,
            expires_told=expires_told,
        )
        if chosen := connection.overrides.get("provider"):
            return self.entry(str(chosen), connection)
        served = self._by_strategy(connection)
        if connection.strategy in GENERIC or not served:
            served = self._by_token_url(connection) or served
        name = _most_specific(served, connection, signs) or FALLBACK
        return self.entry(name, connection)

    def entry(self, name: str, connection: ConnectionConfig) -> CatalogueProvider:
        """A named entry with that connection's overrides. Raises: ConfigurationError."""
        kind = self._kind(name)
        keys = {k: v for k, v in connection.overrides.items() if k not in loading.CONNECTION_KEYS}
        if keys:
            kind = self._with_overrides(kind, keys)
        return CatalogueProvider(kind, connection, self._around)

    def check_connection(self, name: str, keys: Mapping[str, object], origin: Origin) -> None:
        """The overrides of one connection in evergrant.toml. Raises: ConfigurationError."""
        own = {k: v for k, v in keys.items() if k not in loading.CONNECTION_KEYS}
        entry = loading.converted(own, name, origin)
        plain_http = self._around.allow_loopback
        loading.refuse_first(misspellings(entry, plain_http=plain_http), name, origin)
        if (provider := keys.get("provider")) and provider not in self._kinds:
            hint = suggestion(str(provider), self._kinds)
            raise fault(name, "provider", f"there is no provider '{provider}'{hint}", origin)
        if problem := client_auth.key_problem(keys.get("private_key"), keys.get("signing_alg")):
            raise fault(name, *problem, origin)

    def _kind(self, name: str) -> Kind:
        if kind := self._kinds.get(name):
            return kind
        raise ConfigurationError(
            f"there is no provider '{name}'{suggestion(name, self._kinds)}",
            code="unknown_provider",
        )

    def _with_overrides(self, kind: Kind, keys: Mapping[str, object]) -> Kind:
        """Few connections have overrides, and each has few: kept, once made."""
        key = (kind.name, msgspec.json.encode(keys, order="deterministic"))
        if key not in self._overridden:
            raw = loading.merged(msgspec.to_builtins(kind.entry, builtin_types=_DATES), keys)
            origin = Origin(name="evergrant.toml", kind="connection")
            self._overridden[key] = Kind(kind.name, loading.converted(raw, kind.name, origin))
        return self._overridden[key]

    def _by_strategy(self, connection: ConnectionConfig) -> list[Kind]:
        return self._strategies.get(connection.strategy, [])

    def _by_token_url(self, connection: ConnectionConfig) -> list[Kind]:
        """By host, then by path; an entry that names a path knows more than one that does not."""
        if not (host := token_host(connection)):
            return []
        hosts = [host, *(pattern for pattern in self._patterns if fnmatchcase(host, pattern))]
        found = [
            kind
            for known in hosts
            for kind in self._hosts.get(known, [])
            if matches_path(kind.entry.match_token_path, connection)
        ]
        by_path = [kind for kind in found if kind.entry.match_token_path]
        return by_path or found


_DATES = (dt.date,)


def _hosts(entry: Entry) -> list[str]:
    """Without a list, the host of a token endpoint that is the same for everybody.

    An entry that extends another must say its hosts: it would claim the other's otherwise.
    """
    if entry.match_token_host or entry.extends or "{" in entry.token_endpoint:
        return entry.match_token_host or (["*"] if entry.match_token_path else [])
    return [urlsplit(entry.token_endpoint).hostname or ""]


def _most_specific(
    kinds: Iterable[Kind], connection: ConnectionConfig, signs: GrantSigns
) -> str | None:
    """The variant whose condition holds and asks most; without one, the plain case."""
    best, best_weight = None, -1
    for kind in kinds:
        conditions = kind.entry.applies_when
        weights = [weight(c) for c in conditions if holds(c, connection, signs)]
        found = max(weights, default=-1) if conditions else 0
        if found > best_weight:
            best, best_weight = kind.name, found
    return best
