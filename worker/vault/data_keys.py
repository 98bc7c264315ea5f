"""One grant's data keys, unwrapped: the ciphers that seal its tokens and open them.

They need the keyring no more. Whoever holds them is not hurt by what becomes of it meanwhile.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from worker.domain.errors import TamperError
from worker.domain.grant import GrantId
from worker.domain.secret import Secret

_TOKEN = b"\x01"
_ID, _NONCE, _TAG = 4, 12, 16


@dataclass(frozen=True, slots=True)
class DataKey:
    """Of one grant and kind; what a sealed token looks like stands at the top of `aes`."""

    id: bytes
    cipher: AESGCM = field(repr=False)

    def seal(
        self, secret: Secret, *, tenant: str, grant: GrantId, generation: int, kind: str
    ) -> bytes:
        nonce = os.urandom(_NONCE)
        bound = _bound(self.id, tenant, grant, generation, kind)
        return b"".join(
            (_TOKEN, self.id, nonce, self.cipher.encrypt(nonce, secret.reveal(), bound))
        )

    def open(
        self, sealed: bytes, *, tenant: str, grant: GrantId, generation: int, kind: str
    ) -> Secret:
        bound = _bound(self.id, tenant, grant, generation, kind)
        nonce, body = sealed[1 + _ID : 1 + _ID + _NONCE], sealed[1 + _ID + _NONCE :]
        if sealed[: 1 + _ID] != _TOKEN + self.id or len(body) <= _TAG:
            raise TamperError(f"grant {grant}: sealed under another data key", code="not_ours")
        try:
            return Secret(self.cipher.decrypt(nonce, body, bound))
        except InvalidTag:
            raise TamperError(
                f"grant {grant}: its {kind} of generation {generation} does not open",
                code="does_not_open",
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantDataKeys:
    """Meets `DataKeys`."""

    tenant: str
    grant: GrantId
    access: DataKey
    refresh: DataKey

    def seal(self, secret: Secret, *, generation: int, kind: str) -> bytes:
        return self._of(kind).seal(
            secret, tenant=self.tenant, grant=self.grant, generation=generation, kind=kind
        )

    def open(self, sealed: bytes, *, generation: int, kind: str) -> Secret:
        return self._of(kind).open(
            sealed, tenant=self.tenant, grant=self.grant, generation=generation, kind=kind
        )

    def _of(self, kind: str) -> DataKey:
        return self.refresh if kind == "rt" else self.access


def _bound(data_id: bytes, tenant: str, grant: GrantId, generation: int, kind: str) -> bytes:
    name, sort = tenant.encode(), kind.encode()
    return b"%b%b%b%b%c%b%b" % (
        _TOKEN,
        data_id,
        grant.bytes,
        generation.to_bytes(8, "big"),
        len(sort),
        sort,
        name,  # last, so it needs no length
    )
