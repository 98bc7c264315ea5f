"""Who is asking: the bearer key of a request, looked up by its digest."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from worker.api.problems import ProblemError
from worker.domain.access import ApiKey, digest_of
from worker.domain.ports import Clock, Offload
from worker.domain.secret import Secret

REMEMBERED_FOR = 2.0  # seconds; a revoked key is refused after that at the latest
REMEMBERED = 4096  # keys
LONGEST = 512  # characters of a key

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="evergrant"'}


class KeyBook:
    """Keys of the settings and of the store.

    A key is found by its SHA-256 through a unique index, so how long a wrong one takes tells
    nothing about a right one. Wrong, revoked and expired keys are refused in the same words.
    """

    def __init__(
        self,
        *,
        find: Callable[[bytes], ApiKey | None],
        clock: Clock,
        offload: Offload,
        bootstrap: Iterable[ApiKey] = (),
    ) -> None:
        self._find = find
        self._clock = clock
        self._offload = offload
        self._bootstrap = {key.digest: key for key in bootstrap}
        self._remembered: dict[bytes, tuple[float, ApiKey]] = {}

    async def holder(self, authorization: list[str]) -> ApiKey:
        """The key that these Authorization headers carry. Raises: ProblemError (401)."""
        digest = digest_of(_bearer(authorization))
        key = self._bootstrap.get(digest) or await self._stored(digest)
        if key is None or not key.live(self._clock.now()):
            raise ProblemError(
                401,
                "key_refused",
                "The API key is unknown, revoked or expired",
                "`evergrant api-keys list` shows all, `evergrant api-keys create` makes one.",
                headers=_CHALLENGE,
            )
        return key

    async def _stored(self, digest: bytes) -> ApiKey | None:
        now = self._clock.monotonic()
        until, known = self._remembered.get(digest, (0.0, None))
        if known is not None and now < until:
            return known
        key = await self._offload(self._find, digest)
        if len(self._remembered) >= REMEMBERED:
            self._remembered.clear()
        if key is not None:
            self._remembered[digest] = (now + REMEMBERED_FOR, key)
        else:
            self._remembered.pop(digest, None)
        return key


def _bearer(authorization: list[str]) -> Secret:
    scheme, _, credentials = (authorization or [""])[0].partition(" ")
    well_formed = credentials.isascii() and credentials.isprintable() and " " not in credentials
    if (
        len(authorization) != 1
        or scheme.lower() != "bearer"
        or not 0 < len(credentials) <= LONGEST
        or not well_formed
    ):
        raise ProblemError(
            401,
            "key_missing",
            "No API key",
            "Send the header `Authorization: Bearer evg_…`, once.",
            headers=_CHALLENGE,
        )
    return Secret(credentials)
