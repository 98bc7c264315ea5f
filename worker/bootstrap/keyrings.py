"""Which keyring seals what, and whether each is the store's: what is sealed with a wrong one is
lost.

Without the deployment's keyring no process starts. A tenant's own is another matter: where it does
not open, that tenant is left alone, and everybody else's grants are renewed as ever.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine

from worker.domain.errors import ConfigurationError, TransientError
from worker.monitoring.logs import logger
from worker.monitoring.metrics import KEYRING_OPEN
from worker.settings import Settings
from worker.store import migrate, rewrap
from worker.store.whose import Whose
from worker.vault import OF_A_TENANT, AesVault, Keyring, KeyringSource, Purpose, TenantVaults
from worker.vault.tenants import complete

_log = logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """One keyring of the deployment, and who uses it."""

    address: str
    tenants: tuple[str, ...] = ()  # none: it is the deployment's, for all who name no other
    whose: Whose

    @property
    def name(self) -> str:
        return f"keyring of {', '.join(self.tenants)}" if self.tenants else "keyring"

    def source(self, purposes: Collection[Purpose] | None = None) -> KeyringSource:
        option = f" --tenant {self.tenants[0]}" if self.tenants else ""
        new = "for a new tenant" if self.tenants else "in a new deployment"
        advice = f"restore it; {new} `evergrant keys create{option}` makes one"
        return KeyringSource(self.address, purposes=purposes, environment=os.environ, advice=advice)

    def load(self) -> Keyring:
        """All of it. Raises: ConfigurationError, TransientError."""
        return self.source().load()

    def vault(self, purposes: Collection[Purpose] = frozenset(Purpose)) -> AesVault:
        """As far as a process may have it. Raises: ConfigurationError, TransientError."""
        if not self.tenants:
            source = self.source(purposes)
            return AesVault(source.load(), source=source)
        theirs = OF_A_TENANT & frozenset(purposes)
        source = self.source(theirs)
        return complete(AesVault(source.load(), source=source), theirs, self.address)


def rings_of(settings: Settings) -> Sequence[Ring]:
    """All keyrings; the deployment's first."""
    own: dict[str, list[str]] = {}
    for tenant, address in settings.own_keyrings.items():
        own.setdefault(address, []).append(tenant)
    shared = Ring(address=settings.keyring, whose=Whose(but=frozenset(settings.own_keyrings)))
    return [
        shared,
        *(
            Ring(address=address, tenants=tuple(tenants), whose=Whose(only=frozenset(tenants)))
            for address, tenants in own.items()
        ),
    ]


def ring_of(settings: Settings, tenant: str | None) -> Ring:
    """The tenant's own keyring; None: the deployment's. Raises: ConfigurationError."""
    shared, *own = rings_of(settings)
    if tenant is None:
        return shared
    if tenant not in settings.tenants:
        known = ", ".join(settings.tenants) or "none"
        raise ConfigurationError(f"no tenant {tenant!r}; there are: {known}")
    for ring in own:
        if tenant in ring.tenants:
            return ring
    raise ConfigurationError(
        f"tenant {tenant} uses the deployment's keyring: leave out --tenant; or give it one of its"
        f" own, with `evergrant keys move FILE --tenant {tenant}`",
        code="no_own_keyring",
    )


def vaults_of(settings: Settings, purposes: Collection[Purpose], engine: Engine) -> TenantVaults:
    """What a process seals and opens with. Raises: ConfigurationError, TransientError, of the
    deployment's keyring; a tenant's that does not open closes that tenant."""
    shared, *own = rings_of(settings)
    by_address = {ring.address: ring for ring in own}
    seals = Purpose.REFRESH in purposes
    return TenantVaults(
        shared.vault(purposes),
        settings.own_keyrings if purposes else {},
        open_=lambda address: by_address[address].vault(purposes),
        fits=lambda tenants, keyring: (
            not seals or belongs(engine, keyring, Whose(only=frozenset(tenants)))
        ),
        told=_told,
    )


def refuse_foreign_keys(engine: Engine, keyring: Keyring, settings: Settings) -> None:
    """Raises: ConfigurationError. A store that is away, or empty, is no reason to refuse."""
    if not belongs(engine, keyring, rings_of(settings)[0].whose):
        raise ConfigurationError(
            f"{settings.keyring} is not this store's keyring: it opens none of its tokens; point"
            " EVERGRANT_KEYRING to the right one",
            code="wrong_keyring",
        )


def belongs(engine: Engine, keyring: Keyring, whose: Whose) -> bool:
    """Whether it opens what the store holds of these tenants, as far as the store can be asked."""
    held = {key.id for key in keyring.keys}
    try:
        return not migrate.is_current(engine) or rewrap.belongs(engine, held, whose)
    except TransientError:
        return True


def _told(tenant: str, why: str | None) -> None:
    KEYRING_OPEN.labels(tenant).set(why is None)
    if why is not None:
        _log.error("keyring_closed", tenant=tenant, why=why)
    else:
        _log.info("keyring_open", tenant=tenant)
