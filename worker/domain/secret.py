"""The one type in which a token, a key or a client secret travels through the house."""

from __future__ import annotations

import hmac
from typing import NoReturn, final


@final
class Secret:
    """Bytes that never show: `repr`, `str` and formatting are blank, pickling is refused.

    A plain `str` would appear in every traceback that prints locals, and in every serialiser
    that walks an object; this type makes the leak a visible call to `reveal` or `text`.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str | bytes) -> None:
        self._value = value.encode() if isinstance(value, str) else bytes(value)
        if not self._value:
            raise ValueError("a secret is not empty; use None for absent")

    def reveal(self) -> bytes:
        """The bytes, for a cipher or a wire; never for a log, a message or an exception."""
        return self._value

    def text(self) -> str:
        """The bytes as UTF-8 text, under the same rule as `reveal`."""
        return self._value.decode()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled")
