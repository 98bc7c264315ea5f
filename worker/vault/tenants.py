"""Each tenant's own keyring where it names one, and the deployment's for all the others.

A tenant's keyring that does not open closes that tenant and no other: nothing of it is begun, and
it is looked at again every few seconds, on a thread of its own, until it opens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Lock, Thread

from worker.domain.errors import ConfigurationError, KeyringError, WorkerError
from worker.domain.grant import Fingerprint, GrantId
from worker.domain.secret import Secret
from worker.vault.aes import AesVault
from worker.vault.data_keys import GrantDataKeys
from worker.vault.keyring import Keyring, Purpose

# What a tenant's keyring holds. Not the fingerprint key: two tenants may have one OAuth client, and
# a refresh token that both hold is to be spent by one of them only (I1, C18).
OF_A_TENANT = frozenset({Purpose.REFRESH, Purpose.ACCESS, Purpose.CONFIG})
LOOK_AGAIN = 5.0  # seconds
_AT_ONCE = 8  # keyrings read side by side at the start

Open = Callable[[str], AesVault]
Fits = Callable[[Collection[str], Keyring], bool]
Told = Callable[[str, str | None], object]


@dataclass(slots=True)
class _Ring:
    address: str
    tenants: list[str]
    vault: AesVault | None = None
    why: str | None = ""  # it does not open; "" before the first try, None: it is open
    tried_at: float = float("-inf")
    trying: Lock = field(default_factory=Lock)


class TenantVaults:
    """Meets `Vault`. Thread-safe; the keyrings are read when it is made.

    Args:
        shared: the deployment's keyring.
        own: tenant to the address of its keyring; tenants may share one.
        open_: reads a keyring. Raises: WorkerError.
        fits: whether it opens what the store holds of these tenants.
        told: hears (tenant, why) when a tenant is closed, (tenant, None) when it is open again.
    """

    def __init__(
        self,
        shared: AesVault,
        own: Mapping[str, str],
        *,
        open_: Open,
        fits: Fits = lambda _tenants, _keyring: True,
        told: Told = lambda _tenant, _why: None,
    ) -> None:
        self._shared, self._open, self._fits, self._told = shared, open_, fits, told
        by_address: dict[str, _Ring] = {}
        for tenant, address in own.items():
            by_address.setdefault(address, _Ring(address, [])).tenants.append(tenant)
        self._rings = {tenant: by_address[address] for tenant, address in own.items()}
        self._each = list(by_address.values())
        if self._each:
            with ThreadPoolExecutor(_AT_ONCE, "keyrings") as pool:
                list(pool.map(self._try, self._each))

    @property
    def keyring(self) -> Keyring:
        """The deployment's, as last read."""
        return self._shared.keyring

    def of(self, tenant: str) -> AesVault:
        """The keyring that seals for `tenant`. Raises: KeyringError, it does not open."""
        ring = self._rings.get(tenant)
        if ring is None:
            return self._shared
        if ring.vault is None:
            self._look_again(ring)
            raise KeyringError(
                f"tenant {tenant}: its keyring does not open",
                code="keyring_closed",
                retry_after=timedelta(seconds=30),
            )
        return ring.vault

    def closed(self) -> Mapping[str, str]:
        """Tenant to why its keyring does not open."""
        shut = [ring for ring in self._each if ring.vault is None]
        for ring in shut:
            self._look_again(ring)
        return {tenant: ring.why or "" for ring in shut for tenant in ring.tenants}

    def new_keys(self, tenant: str, grant: GrantId) -> tuple[bytes, bytes]:
        return self.of(tenant).new_keys(tenant, grant)

    def seal(
        self, secret: Secret, *, tenant: str, grant: GrantId, generation: int, kind: str, key: bytes
    ) -> bytes:
        return self.of(tenant).seal(
            secret, tenant=tenant, grant=grant, generation=generation, kind=kind, key=key
        )

    def open(
        self, sealed: bytes, *, tenant: str, grant: GrantId, generation: int, kind: str, key: bytes
    ) -> Secret:
        return self.of(tenant).open(
            sealed, tenant=tenant, grant=grant, generation=generation, kind=kind, key=key
        )

    def data_keys(
        self, *, tenant: str, grant: GrantId, access_key: bytes, refresh_key: bytes
    ) -> GrantDataKeys:
        return self.of(tenant).data_keys(
            tenant=tenant, grant=grant, access_key=access_key, refresh_key=refresh_key
        )

    def seal_config(self, secret: Secret, *, tenant: str, scope: str) -> bytes:
        return self.of(tenant).seal_config(secret, tenant=tenant, scope=scope)

    def open_config(self, sealed: bytes, *, tenant: str, scope: str) -> Secret:
        return self.of(tenant).open_config(sealed, tenant=tenant, scope=scope)

    def fingerprint(self, token: Secret) -> Fingerprint:
        return self._shared.fingerprint(token)

    def authenticate(self, message: bytes) -> bytes:
        """As `AesVault`: the audit is the deployment's."""
        return self._shared.authenticate(message)

    def authentic(self, message: bytes, tag: bytes) -> bool:
        return self._shared.authentic(message, tag)

    def _look_again(self, ring: _Ring) -> None:
        """Beside whoever asks: reading it may take seconds, and others wait for this thread."""
        if time.monotonic() - ring.tried_at >= LOOK_AGAIN:
            Thread(target=self._try, args=(ring,), name="keyring", daemon=True).start()

    def _try(self, ring: _Ring) -> None:
        if not ring.trying.acquire(blocking=False):
            return
        try:
            if ring.vault is not None:
                return  # somebody was quicker
            ring.tried_at = time.monotonic()
            why = self._why_not(ring)
            for tenant in ring.tenants if why != ring.why else ():
                self._told(tenant, why)
            ring.why = why
        finally:
            ring.trying.release()

    def _why_not(self, ring: _Ring) -> str | None:
        """Open it; else why it does not open."""
        try:
            vault = self._open(ring.address)
            if not self._fits(ring.tenants, vault.keyring):
                raise ConfigurationError(
                    f"{ring.address} is another keyring: it opens none of the tokens in the store"
                )
        except WorkerError as error:
            return str(error)
        ring.vault = vault
        return None


def complete(vault: AesVault, purposes: Iterable[Purpose], address: str) -> AesVault:
    """`vault`, if it has a key for each purpose. Raises: ConfigurationError."""
    for purpose in sorted(purposes):
        if not vault.keyring.of(purpose):
            raise ConfigurationError(
                f"keyring {address}: it holds no key for {purpose.value!r}", code="key_missing"
            )
    return vault
