"""Connection, provider and rules of a claim, read once per batch and kept for seconds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from worker.domain.errors import KeyringError, PermanentError, WorkerError
from worker.domain.exchange import ConnectionConfig
from worker.domain.grant import GrantKey
from worker.domain.ports import Catalogue, Clock, Connections, Offload, Provider
from worker.domain.rotation import Rules, rules_for

KEEP = 5.0  # seconds; how late a stop or a new secret set elsewhere is felt here


@dataclass(slots=True)
class _Known:
    config: ConnectionConfig | None
    until: float
    error: WorkerError | None = None  # its secrets do not open
    entries: dict[str, Provider] = field(default_factory=dict)
    rules: dict[tuple[str, bool], Rules] = field(default_factory=dict)


class Resolver:
    """Reads connections through `Offload`; everything else is a dictionary away."""

    def __init__(
        self, connections: Connections, catalogue: Catalogue, *, clock: Clock, offload: Offload
    ) -> None:
        self._connections = connections
        self._catalogue = catalogue
        self._clock = clock
        self._offload = offload
        self._known: dict[tuple[str, str], _Known] = {}

    async def prefetch(self, keys: Iterable[GrantKey]) -> None:
        """Make sure of the connections of `keys`. Raises: TransientError, the store is away."""
        now = self._clock.monotonic()
        for name in {(key.tenant, key.connection) for key in keys}:
            known = self._known.get(name)
            if known is None or known.until <= now:
                self._known[name] = await self._read(name, until=now + KEEP)

    async def _read(self, name: tuple[str, str], *, until: float) -> _Known:
        """One that does not open is in nobody's way: its own grants wait for it."""
        try:
            config = await self._offload(self._connections.get, *name)
        except (KeyringError, PermanentError) as error:
            return _Known(config=None, until=until, error=error)
        return _Known(config=config, until=until)

    def trouble(self, key: GrantKey) -> WorkerError | None:
        """Why a connection cannot be used, although it is there."""
        known = self._known.get((key.tenant, key.connection))
        return known.error if known else None

    def connection(self, key: GrantKey) -> ConnectionConfig | None:
        known = self._known.get((key.tenant, key.connection))
        return known.config if known else None

    def provider(self, key: GrantKey, entry: str) -> Provider:
        """Raises: ConfigurationError, a key of the entry cannot be filled."""
        known = self._known[key.tenant, key.connection]
        found = known.entries.get(entry)
        if found is None:
            if known.config is None:
                raise WorkerError("no such connection")
            found = known.entries[entry] = self._catalogue.entry(entry, known.config)
        return found

    def rules(self, key: GrantKey, entry: str, *, rotated_before: bool) -> Rules:
        known = self._known[key.tenant, key.connection]
        found = known.rules.get((entry, rotated_before))
        if found is None:
            provider = self.provider(key, entry)
            changed = known.config is not None and entry in known.config.learned.rotating
            found = known.rules[entry, rotated_before] = rules_for(
                provider.rotation,
                grace_seconds=provider.grace_seconds,
                rotated_before=rotated_before or changed,
            )
        return found

    def forget(self, tenant: str, name: str) -> None:
        self._known.pop((tenant, name), None)
