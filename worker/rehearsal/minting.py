"""Tokens that carry their own ledger key, so that a provider remembers nothing per token.

A token says which family it belongs to, its serial in it and when it ends, under a MAC: looking a
token up, telling a spent one from a forged one and dropping expired ones cost no memory, however
long the stage plays. To the client they are opaque, as they should be.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Parsed:
    kind: str  # "a" access, "r" refresh
    family: int
    serial: int
    expires_ms: int  # since the epoch; 0: never


class Mint:
    """Makes and reads the tokens of one provider; the same key and order give the same tokens."""

    def __init__(
        self, key: bytes, *, access_prefix: str, refresh_prefix: str, padding: int
    ) -> None:
        self._key = key
        self._prefixes = {"a": access_prefix, "r": refresh_prefix}
        self._padding = "." + "x" * padding if padding else ""

    def make(self, parsed: Parsed) -> str:
        text = f"{parsed.family:x}-{parsed.serial:x}-{parsed.expires_ms:x}"
        mac = self._mac(parsed.kind, text)
        return f"{self._prefixes[parsed.kind]}{text}-{mac}{self._padding}"

    def secret_of(self, token: str) -> str:
        """The secret that an OAuth 1.0a token comes with."""
        return f"ats-{self._mac('s', token)}"

    def read(self, kind: str, token: str) -> Parsed | None:
        """The token's contents; None for anything this mint did not make."""
        prefix = self._prefixes[kind]
        body, _, _ = token.removeprefix(prefix).partition(".")
        text, _, mac = body.rpartition("-")
        made = token.isascii() and token.startswith(prefix)
        if not made or not hmac.compare_digest(mac, self._mac(kind, text)):
            return None
        family, serial, expires_ms = (int(part, 16) for part in text.split("-"))
        return Parsed(kind, family, serial, expires_ms)

    def _mac(self, kind: str, text: str) -> str:
        return hashlib.blake2b(f"{kind}{text}".encode(), key=self._key, digest_size=12).hexdigest()
