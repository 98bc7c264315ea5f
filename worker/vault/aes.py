"""`Vault` over AES-256-GCM, and what its ciphertexts look like.

    sealed token    01 | data key id 4 | nonce 12 | ciphertext and tag
    wrapped key     02 | keyring key id 4 | data key id 4 | nonce 12 | ciphertext 32 and tag 16
    sealed config   03 | keyring key id 4 | salt 16 | nonce 12 | ciphertext and tag

Random 96-bit nonces are good for 2^32 messages under one key (NIST SP 800-38D §8.3). Tokens stay
far below: each grant has data keys of its own, and the keyring's keys wrap only those. Config
values have a key each, derived by HKDF. Whatever a ciphertext belongs to is its associated data,
length-prefixed, so that no two bindings read alike.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from threading import Lock, Thread

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from worker.domain.errors import (
    ConfigurationError,
    KeyringError,
    TamperError,
    TransientError,
    WorkerError,
)
from worker.domain.grant import Fingerprint, GrantId
from worker.domain.secret import Secret
from worker.vault.data_keys import DataKey, GrantDataKeys
from worker.vault.keyring import KEY_BYTES, Key, Keyring, KeyState, Purpose
from worker.vault.source import KeyringSource

_WRAPPED, _CONFIG = b"\x02", b"\x03"
_ID, _NONCE, _SALT, _TAG = 4, 12, 16, 16
_WRAPPED_BYTES = 1 + _ID + _ID + _NONCE + KEY_BYTES + _TAG
_CACHED_KEYS = 1024  # two for each grant being worked on; a cipher made ready holds 2.3 kB
_LOOK_EVERY = 1.0  # seconds between looks at the keyring file


class AesVault:
    """Meets `Vault`. Thread-safe. Tests every key it was given when it is made.

    With a `source`, a rotation is noticed within a second, without a restart: that is what lets
    keys rotate under load. It is one keyring, so it does not matter here whose `tenant` is; see
    `TenantVaults`.
    """

    def __init__(self, keyring: Keyring, *, source: KeyringSource | None = None) -> None:
        self._source = source
        self._lock = Lock()
        self._looked_at = time.monotonic()
        self._unwrapped = lru_cache(_CACHED_KEYS)(self._unwrap)
        self._keyed: hmac.HMAC | None = None  # under the fingerprint key, which never changes
        self._replaced = False
        self._take(keyring)

    @classmethod
    def from_source(
        cls,
        address: Path | str,
        *,
        purposes: Iterable[Purpose | str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> AesVault:
        """Over the keyring at `address` (EVERGRANT_KEYRING). Raises: ConfigurationError."""
        source = KeyringSource(str(address), purposes=purposes, environment=environment)
        return cls(source.load(), source=source)

    def closed(self) -> Collection[str]:
        return ()

    def new_keys(self, tenant: str, grant: GrantId) -> tuple[bytes, bytes]:
        self._look()
        access = self._wrap(Purpose.ACCESS, os.urandom(_ID), _new_key(), tenant, grant)
        refresh = self._wrap(Purpose.REFRESH, os.urandom(_ID), _new_key(), tenant, grant)
        return access, refresh

    def seal(
        self, secret: Secret, *, tenant: str, grant: GrantId, generation: int, kind: str, key: bytes
    ) -> bytes:
        data_key = self._unwrapped(key, tenant, grant, kind)
        return data_key.seal(secret, tenant=tenant, grant=grant, generation=generation, kind=kind)

    def open(
        self, sealed: bytes, *, tenant: str, grant: GrantId, generation: int, kind: str, key: bytes
    ) -> Secret:
        data_key = self._unwrapped(key, tenant, grant, kind)
        return data_key.open(sealed, tenant=tenant, grant=grant, generation=generation, kind=kind)

    def data_keys(
        self, *, tenant: str, grant: GrantId, access_key: bytes, refresh_key: bytes
    ) -> GrantDataKeys:
        return GrantDataKeys(
            tenant=tenant,
            grant=grant,
            access=self._unwrapped(access_key, tenant, grant, "at"),
            refresh=self._unwrapped(refresh_key, tenant, grant, "rt"),
        )

    def seal_config(self, secret: Secret, *, tenant: str, scope: str) -> bytes:
        self._look()
        key = self._primary(Purpose.CONFIG)
        salt, nonce = os.urandom(_SALT), os.urandom(_NONCE)
        head = _CONFIG + bytes.fromhex(key.id)
        body = _config_cipher(key, salt).encrypt(nonce, secret.reveal(), _bound(head, scope))
        return b"".join((head, salt, nonce, body))

    def open_config(self, sealed: bytes, *, tenant: str, scope: str) -> Secret:
        head, rest = sealed[: 1 + _ID], sealed[1 + _ID :]
        salt, nonce, body = rest[:_SALT], rest[_SALT : _SALT + _NONCE], rest[_SALT + _NONCE :]
        if head[:1] != _CONFIG or len(body) <= _TAG:
            raise TamperError(f"{scope}: not a sealed value of ours", code="not_ours")
        cipher = _config_cipher(self._key(head[1:].hex(), Purpose.CONFIG), salt)
        try:
            return Secret(cipher.decrypt(nonce, body, _bound(head, scope)))
        except InvalidTag:
            raise TamperError(f"{scope}: does not open", code="does_not_open") from None

    def fingerprint(self, token: Secret) -> Fingerprint:
        keyed = self._keyed or _fingerprinting(self._keyring)
        mac = keyed.copy()  # to key a new one takes longer than a token
        mac.update(token.reveal())
        return Fingerprint(mac.digest()[:16])

    def authenticate(self, message: bytes) -> bytes:
        """A tag for what lies outside the database (the audit's anchors): key id and HMAC."""
        key = self._keyring.primary(Purpose.CONFIG)
        return bytes.fromhex(key.id) + _mac(key, message)

    def authentic(self, message: bytes, tag: bytes) -> bool:
        """Whether we made `tag` for `message`; False too where its key was destroyed."""
        key = self._keyring.get(tag[:_ID].hex())
        right = key is not None and key.purpose is Purpose.CONFIG
        return bool(key and right and hmac.compare_digest(tag[_ID:], _mac(key, message)))

    def rewrap(self, wrapped: bytes, *, tenant: str, grant: GrantId) -> bytes:
        """The same data key under today's primary; unchanged if it is there already."""
        self._look()
        key_id = wrapping_key(wrapped)
        key = self._key(key_id, None)
        if key.state is KeyState.PRIMARY:
            return wrapped
        data_id, material = self._unwrap_bytes(wrapped, tenant, grant, key.purpose)
        return self._wrap(key.purpose, data_id, material, tenant, grant)

    def reseal_config(self, sealed: bytes, *, tenant: str, scope: str) -> bytes:
        """The same value under today's primary; unchanged if it is there already."""
        self._look()
        if sealing_key(sealed) == self._keyring.primary(Purpose.CONFIG).id:
            return sealed
        opened = self.open_config(sealed, tenant=tenant, scope=scope)
        return self.seal_config(opened, tenant=tenant, scope=scope)

    def primaries(self) -> frozenset[str]:
        """Ids of the keys that seal today; whatever names another waits for a rewrap."""
        self._look(now=True)
        primary = (key.id for key in self._keyring.keys if key.state is KeyState.PRIMARY)
        return frozenset(primary)

    @property
    def keyring(self) -> Keyring:
        """As last read."""
        return self._keyring

    def _unwrap(self, wrapped: bytes, tenant: str, grant: GrantId, kind: str) -> DataKey:
        purpose = Purpose.REFRESH if kind == "rt" else Purpose.ACCESS
        data_id, material = self._unwrap_bytes(wrapped, tenant, grant, purpose)
        return DataKey(data_id, AESGCM(material))

    def _unwrap_bytes(
        self, wrapped: bytes, tenant: str, grant: GrantId, purpose: Purpose
    ) -> tuple[bytes, bytes]:
        if wrapped[:1] != _WRAPPED or len(wrapped) != _WRAPPED_BYTES:
            raise TamperError(f"grant {grant}: not a wrapped key of ours", code="not_ours")
        cipher = self._wrapping(wrapped, purpose)
        head, data_id = wrapped[: 1 + 2 * _ID], wrapped[1 + _ID : 1 + 2 * _ID]
        nonce, body = wrapped[1 + 2 * _ID :][:_NONCE], wrapped[1 + 2 * _ID + _NONCE :]
        try:
            bound = _bound(head, purpose.value, tenant) + grant.bytes
            return data_id, cipher.decrypt(nonce, body, bound)
        except InvalidTag:
            raise TamperError(
                f"grant {grant}: its wrapped key does not open", code="does_not_open"
            ) from None

    def _wrapping(self, wrapped: bytes, purpose: Purpose) -> AESGCM:
        """Of the keyring's key that wraps; each renewal needs it twice, so it is made once."""
        name = (wrapped[1 : 1 + _ID], purpose)
        if name not in self._ciphers:
            key = self._key(wrapping_key(wrapped), purpose)
            self._ciphers[name] = AESGCM(key.material.reveal())
        return self._ciphers[name]

    def _wrap(
        self, purpose: Purpose, data_id: bytes, material: bytes, tenant: str, grant: GrantId
    ) -> bytes:
        key = self._primary(purpose)
        head, nonce = _WRAPPED + bytes.fromhex(key.id) + data_id, os.urandom(_NONCE)
        bound = _bound(head, purpose.value, tenant) + grant.bytes
        body = AESGCM(key.material.reveal()).encrypt(nonce, material, bound)
        return head + nonce + body

    def _key(self, key_id: str, purpose: Purpose | None) -> Key:
        """The key of a ciphertext, looked for once more in the file if it is not known."""
        key = self._keyring.get(key_id) or self._after_a_look(key_id)
        if purpose:
            self._keyring.primary(purpose)  # says so if we hold none of that purpose at all
        if key is not None and purpose and key.purpose is not purpose:
            raise TamperError(f"key {key_id} is for something else", code="wrong_purpose")
        if key is None:
            raise KeyringError(
                f"no key {key_id} in this keyring: it is the wrong one, or the key was destroyed",
                code="unknown_key",
            )
        if key.state is KeyState.DISABLED:
            raise KeyringError(f"key {key_id} is disabled", code="key_disabled")
        return key

    def _primary(self, purpose: Purpose) -> Key:
        if self._replaced:
            raise KeyringError(
                "the keyring was replaced by one that shares no key with it: put it back",
                code="keyring_replaced",
            )
        return self._keyring.primary(purpose)

    def _after_a_look(self, key_id: str) -> Key | None:
        """A loop does not wait for what unwraps the keys: every tenant's exchanges turn on it."""
        if self._source and self._source.remote and self._source.stale() and _on_a_loop():
            self._fetch_beside()
            soon = timedelta(seconds=5)
            raise KeyringError(
                f"key {key_id} is being fetched", code="key_awaited", retry_after=soon
            )
        self._look(now=True)
        return self._keyring.get(key_id)

    def _look(self, *, now: bool = False) -> None:
        """Take up a changed keyring file, looking at most once a second."""
        moment = time.monotonic()
        if self._source is None or (not now and moment - self._looked_at < _LOOK_EVERY):
            return
        if self._source.remote and not now:
            self._looked_at = moment
            if self._source.stale():
                self._fetch_beside()
            return
        with self._lock:
            self._looked_at = moment
            try:
                if changed := self._source.changed():
                    # the keyring of somebody else, most likely: nothing is sealed under it
                    self._replaced = bool(self._keyring.keys) and not _shared(
                        changed, self._keyring
                    )
                    if not self._replaced:
                        self._take(changed)
            except TransientError:  # whatever unwraps it is away: the keys we have are good
                if now:
                    raise

    def _fetch_beside(self) -> None:
        """On a thread of its own: who asks shares his with other tenants, and what unwraps the keys
        may be long in answering."""
        if not self._lock.locked():
            Thread(target=self._fetched, name="keyring", daemon=True).start()

    def _fetched(self) -> None:
        with suppress(WorkerError):
            self._look(now=True)

    def _take(self, keyring: Keyring) -> None:
        for key in keyring.keys:
            _self_test(key)
        self._keyring = keyring
        self._ciphers: dict[tuple[bytes, Purpose], AESGCM] = {}
        if keyring.of(Purpose.FINGERPRINT):  # else as before: an answer may be on its way here
            self._keyed = _fingerprinting(keyring)
        self._unwrapped.cache_clear()


def wrapping_key(wrapped: bytes) -> str:
    """The id of the keyring key that a wrapped data key needs."""
    return wrapped[1 : 1 + _ID].hex()


def sealing_key(sealed_config: bytes) -> str:
    """The id of the keyring key that a sealed config value needs."""
    return sealed_config[1 : 1 + _ID].hex()


def _shared(one: Keyring, other: Keyring) -> set[str]:
    return {key.id for key in one.keys} & {key.id for key in other.keys}


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _new_key() -> bytes:
    return AESGCM.generate_key(256)


def _bound(head: bytes, *parts: str) -> bytes:
    for part in parts:
        encoded = part.encode()
        head += len(encoded).to_bytes(2, "big") + encoded
    return head


def _fingerprinting(keyring: Keyring) -> hmac.HMAC:
    return hmac.new(keyring.primary(Purpose.FINGERPRINT).material.reveal(), digestmod="sha256")


def _config_cipher(key: Key, salt: bytes) -> AESGCM:
    return AESGCM(_derived(key, salt, b"evergrant config"))


def _mac(key: Key, message: bytes) -> bytes:
    return hmac.digest(_derived(key, None, b"evergrant authentication"), message, "sha256")


def _derived(key: Key, salt: bytes | None, purpose: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt, purpose).derive(key.material.reveal())


def _self_test(key: Key) -> None:
    """Prove that the cipher works with this key here, and refuses what was changed."""
    cipher, nonce = AESGCM(key.material.reveal()), os.urandom(_NONCE)
    sealed = cipher.encrypt(nonce, b"self-test", key.id.encode())
    opened = cipher.decrypt(nonce, sealed, key.id.encode())
    try:
        cipher.decrypt(nonce, sealed[:-1] + bytes([sealed[-1] ^ 1]), key.id.encode())
    except InvalidTag:
        if opened == b"self-test":
            return
    raise ConfigurationError(f"key {key.id} fails its self-test; do not go on", code="self_test")
