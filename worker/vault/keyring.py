"""The keys that everything else is sealed under: a value, and its JSON form.

    {"format": 1, "keys": [{"id": "8f21c09a", "purpose": "rt", "state": "primary",
      "created_at": "2026-01-01T12:00:00+00:00", "key": "<base64, 32 bytes>", "check": "<base64>"}]}

Where a key elsewhere wraps them the format is 2, and "wrapped" stands in the place of "key".
`check` is derived from the key, its id and its purpose: a damaged or mixed-up key is found when
the file is read, not when the first token fails to open.
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from worker.domain.errors import ConfigurationError
from worker.domain.secret import Secret

KEY_BYTES = 32
_PLAIN, _WRAPPED = 1, 2  # forms of the file
_FIELD = {_PLAIN: "key", _WRAPPED: "wrapped"}


class Wrapping(Protocol):
    """A key elsewhere that wraps those of the file; see `Transit`."""

    def wrap(self, keys: Sequence[bytes]) -> list[str]: ...

    def unwrap(self, wrapped: Sequence[str]) -> list[bytes]: ...


class Purpose(StrEnum):
    """What a key may be used for; a process is given only the purposes it needs (I17)."""

    REFRESH = "rt"  # wraps the data keys of refresh tokens
    ACCESS = "at"  # wraps the data keys of access tokens
    CONFIG = "config"  # client secrets, our Management API token
    FINGERPRINT = "fp"  # recognises a token without holding it; used for nothing else


class KeyState(StrEnum):
    PRIMARY = "primary"  # seals and opens; one per purpose
    ENABLED = "enabled"  # opens what it sealed
    DISABLED = "disabled"  # does nothing, can be enabled again: the step before destroying


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    id: str  # 8 hex digits, stands in every ciphertext that it sealed
    purpose: Purpose
    state: KeyState
    created_at: datetime
    material: Secret  # 32 bytes

    def check(self) -> bytes:
        """Eight bytes that only this key, under this id and purpose, yields."""
        name = f"evergrant key check {self.id} {self.purpose}".encode()
        return hmac.digest(self.material.reveal(), name, "sha256")[:8]


@dataclass(frozen=True, slots=True)
class Keyring:
    """All keys a process was given. Changing one makes another keyring; `KeyringSource` saves."""

    keys: tuple[Key, ...]

    def __post_init__(self) -> None:
        if len({key.id for key in self.keys}) != len(self.keys):
            raise ConfigurationError("keyring: two keys share an id")
        for purpose in {key.purpose for key in self.keys}:
            primaries = [key for key in self.of(purpose) if key.state is KeyState.PRIMARY]
            if len(primaries) != 1:
                raise ConfigurationError(f"keyring: purpose {purpose} needs exactly one primary")

    @classmethod
    def generate(cls, purposes: Iterable[Purpose] = Purpose) -> Keyring:
        """A fresh primary for every purpose, in memory."""
        wanted = set(purposes)
        return cls(tuple(_fresh(p, KeyState.PRIMARY) for p in Purpose if p in wanted))

    @classmethod
    def create(cls, path: Path | str) -> Keyring:
        """Generate one and write it, readable by its owner alone; an existing file is refused."""
        from worker.vault.source import KeyringSource

        return KeyringSource(str(path)).create(cls.generate())

    @classmethod
    def load(
        cls,
        source: Path | str,
        *,
        purposes: Iterable[Purpose | str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Keyring:
        """Read a file, or `env:NAME` out of `environment`; only `purposes`, if given (I17).

        Raises: ConfigurationError with what to do about it.
        """
        from worker.vault.source import KeyringSource

        return KeyringSource(str(source), purposes=purposes, environment=environment).load()

    def of(self, purpose: Purpose) -> list[Key]:
        return [key for key in self.keys if key.purpose is purpose]

    def primary(self, purpose: Purpose) -> Key:
        for key in self.of(purpose):
            if key.state is KeyState.PRIMARY:
                return key
        raise ConfigurationError(f"this process was given no key for {purpose.value!r}")

    def get(self, key_id: str) -> Key | None:
        return next((key for key in self.keys if key.id == key_id), None)

    def limited_to(self, purposes: Iterable[Purpose | str]) -> Keyring:
        wanted = {Purpose(purpose) for purpose in purposes}
        return Keyring(tuple(key for key in self.keys if key.purpose in wanted))

    def rotate(self, purpose: Purpose | str) -> Keyring:
        """A new primary; the old one goes on opening what it sealed, until a rewrap is done."""
        added = self.add(purpose)
        return added.promote(added.keys[-1].id)

    def add(self, purpose: Purpose | str) -> Keyring:
        """A new key that opens but does not seal yet: hand it to every host, then `promote` it.

        Refused for fingerprints: refresh tokens seen before would count as new ones (M2, M3).
        """
        purpose = Purpose(purpose)
        if purpose is Purpose.FINGERPRINT:
            raise ConfigurationError(
                "the fingerprint key is not rotated: every refresh token ever seen would look new"
            )
        return Keyring((*self.keys, _fresh(purpose, KeyState.ENABLED)))

    def promote(self, key_id: str) -> Keyring:
        """Seal with this key from now on."""
        chosen = self._existing(key_id)
        if chosen.state is KeyState.DISABLED:
            raise ConfigurationError(f"key {key_id} is disabled; enable it first")
        demoted = _set(self.keys, self.primary(chosen.purpose).id, KeyState.ENABLED)
        return Keyring(_set(demoted, key_id, KeyState.PRIMARY))

    def disable(self, key_id: str) -> Keyring:
        """What it sealed opens no more, until `enable`. The primary is refused."""
        if self._existing(key_id).state is KeyState.PRIMARY:
            raise ConfigurationError(f"key {key_id} is the primary; rotate first")
        return Keyring(_set(self.keys, key_id, KeyState.DISABLED))

    def enable(self, key_id: str) -> Keyring:
        if self._existing(key_id).state is KeyState.PRIMARY:
            return self
        return Keyring(_set(self.keys, key_id, KeyState.ENABLED))

    def destroy(self, key_id: str, *, references: int) -> Keyring:
        """Drop a disabled key for good. `references`: live ciphertexts under it; must be 0 (I23).

        `worker.store.rewrap.references` counts them.
        """
        if self._existing(key_id).state is not KeyState.DISABLED:
            raise ConfigurationError(f"key {key_id} is in use; disable it first, and watch a while")
        if references:
            raise ConfigurationError(
                f"key {key_id} still wraps {references} data keys; enable it, run the rewrap"
            )
        return Keyring(tuple(key for key in self.keys if key.id != key_id))

    def _existing(self, key_id: str) -> Key:
        if (key := self.get(key_id)) is None:
            raise ConfigurationError(f"no key {key_id} in this keyring")
        return key

    def to_json(self, wrapping: Wrapping | None = None) -> bytes:
        """For the file alone: the keys stand in it, unless `wrapping` has wrapped them."""
        materials = [key.material.reveal() for key in self.keys]
        if wrapping is None:
            form, told = _PLAIN, [base64.b64encode(one).decode() for one in materials]
        else:
            form, told = _WRAPPED, wrapping.wrap(materials)
        entries = [
            {**_entry(key), _FIELD[form]: one} for key, one in zip(self.keys, told, strict=True)
        ]
        return json.dumps({"format": form, "keys": entries}, indent=1).encode()

    @classmethod
    def from_json(
        cls,
        text: bytes,
        *,
        wrapping: Wrapping | None = None,
        purposes: Iterable[Purpose] | None = None,
    ) -> Keyring:
        """Only `purposes`, if given; nothing else is unwrapped.

        Raises: ConfigurationError when it is not a keyring, or one of its keys is damaged;
        what `wrapping` raises.
        """
        try:
            document = json.loads(text)
            form = document["format"]
            _refuse_other_form(form, wrapping)
            entries = [
                entry
                for entry in document["keys"]
                if purposes is None or Purpose(entry["purpose"]) in purposes
            ]
            told = [entry[_FIELD[form]] for entry in entries]
            if wrapping is None:
                materials = [base64.b64decode(one, validate=True) for one in told]
            else:
                materials = wrapping.unwrap(told)
            keys = tuple(map(_key, entries, materials))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(f"keyring: not readable ({type(error).__name__})") from None
        return cls(keys)


def _set(keys: Iterable[Key], key_id: str, state: KeyState) -> tuple[Key, ...]:
    return tuple(replace(key, state=state) if key.id == key_id else key for key in keys)


def _fresh(purpose: Purpose, state: KeyState) -> Key:
    return Key(
        id=secrets.token_hex(4),
        purpose=purpose,
        state=state,
        created_at=datetime.now(UTC).replace(microsecond=0),
        material=Secret(secrets.token_bytes(KEY_BYTES)),
    )


def _entry(key: Key) -> dict[str, str]:
    return {
        "id": key.id,
        "purpose": key.purpose.value,
        "state": key.state.value,
        "created_at": key.created_at.isoformat(),
        "check": base64.b64encode(key.check()).decode(),
    }


def _refuse_other_form(form: object, wrapping: Wrapping | None) -> None:
    """What is believed to be wrapped and is not would be worse than no wrapping."""
    if form not in _FIELD:
        raise ConfigurationError("keyring: written by a newer version")
    if form == _WRAPPED and wrapping is None:
        raise ConfigurationError(
            "keyring: its keys are wrapped; EVERGRANT_KEYRING is the address of what unwraps them"
        )
    if form == _PLAIN and wrapping is not None:
        raise ConfigurationError(
            "keyring: its keys are not wrapped; `evergrant keys move` writes one whose are"
        )


def _key(entry: Mapping[str, Any], material: bytes) -> Key:
    key = Key(
        id=bytes.fromhex(entry["id"]).hex(),
        purpose=Purpose(entry["purpose"]),
        state=KeyState(entry["state"]),
        created_at=datetime.fromisoformat(entry["created_at"]),
        material=Secret(material),
    )
    whole = len(key.material.reveal()) == KEY_BYTES and len(key.id) == 8
    if not whole or not hmac.compare_digest(base64.b64decode(entry["check"]), key.check()):
        raise ConfigurationError(f"keyring: key {key.id} is damaged; restore the file")
    return key
