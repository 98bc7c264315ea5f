"""Asks Evergrant for access tokens; one class for threads and for asyncio."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self
from urllib.parse import quote

import httpx

from worker.client.auth import ProviderAuth
from worker.client.cache import Slots, Subject
from worker.client.errors import NotAvailableError, error_of
from worker.client.token import Token, token_of

TIMEOUT = httpx.Timeout(15.0, connect=5.0)  # the server itself waits up to 10 s for a renewal


class TokenClient:
    """Thread-safe; keep one per process. Tokens are kept in memory until their `use_until`.

    Args:
        base_url: of Evergrant, for instance https://evergrant.internal
        api_key: evg_…; sent to `base_url` only.
        tenant: its name in Evergrant's configuration.
        transport, async_transport: httpx transports to use instead of httpx's own (tests, mTLS).
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        tenant: str = "default",
        timeout: httpx.Timeout | float = TIMEOUT,
        transport: httpx.BaseTransport | None = None,
        async_transport: httpx.AsyncBaseTransport | None = None,
        keep: int = 10_000,
    ) -> None:
        self._base = f"{base_url.rstrip('/')}/v1/{quote(tenant, safe='')}"
        self._headers = {"Authorization": f"Bearer {api_key}", "Accept": "application/json"}
        self._timeout = timeout
        self._transport = transport
        self._async_transport = async_transport
        self._sync: httpx.Client | None = None
        self._async: httpx.AsyncClient | None = None
        self._making = threading.Lock()
        self._slots = Slots(keep)

    def auth(
        self,
        user_id: str,
        connection: str,
        identity: str | None = None,
        *,
        part: str | None = None,
    ) -> ProviderAuth:
        """Signs requests with the user's token at that connection, and mends a 401 once.

        `part="bot"`: with the app's own, where one login brought both (Slack).
        """
        return ProviderAuth(self, Subject(user_id, connection, identity, part))

    def admin_auth(self, connection: str) -> ProviderAuth:
        """The same with the token of an enterprise connection's administrator."""
        return ProviderAuth(self, Subject(None, connection))

    def get(
        self,
        user_id: str | None,
        connection: str,
        identity: str | None = None,
        *,
        min_ttl: int | None = None,
        stale: int | None = None,
        part: str | None = None,
    ) -> Token:
        """An access token, from memory while it is fresh.

        Args:
            user_id: None asks for the connection's administrator's token.
            min_ttl: seconds it must live, for long jobs; always asks Evergrant.
            stale: the generation that the provider refused.
            part: "bot" for the app's own pair, where one login brought both.
        Raises: TokenError, see `worker.client.errors`.
        """
        subject = Subject(user_id, connection, identity, part)
        slot = self._slots.of(subject)
        if token := slot.good(stale, min_ttl):
            return token
        with slot.lock:  # who waited here finds the token that another thread has fetched
            if token := slot.good(stale, min_ttl):
                return token
            return slot.keep(self._fetch(subject, min_ttl, stale))

    async def aget(
        self,
        user_id: str | None,
        connection: str,
        identity: str | None = None,
        *,
        min_ttl: int | None = None,
        stale: int | None = None,
        part: str | None = None,
    ) -> Token:
        """`get` for asyncio."""
        subject = Subject(user_id, connection, identity, part)
        slot = self._slots.of(subject)
        if token := slot.good(stale, min_ttl):
            return token
        async with slot.line():
            if token := slot.good(stale, min_ttl):
                return token
            return slot.keep(await self._afetch(subject, min_ttl, stale))

    def close(self) -> None:
        if self._sync is not None:
            self._sync.close()

    async def aclose(self) -> None:
        if self._async is not None:
            await self._async.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _fetch(self, subject: Subject, min_ttl: int | None, stale: int | None) -> Token:
        url, wishes = self._question(subject, min_ttl, stale)
        asked_at = time.monotonic()
        try:
            response = self._client().get(url, params=wishes)
        except httpx.TransportError as error:
            raise _unreachable(error) from None  # the cause holds the request and its API key
        return _answer(response, asked_at)

    def _client(self) -> httpx.Client:
        with self._making:
            if self._sync is None:
                self._sync = httpx.Client(
                    headers=self._headers, timeout=self._timeout, transport=self._transport
                )
            return self._sync

    async def _afetch(self, subject: Subject, min_ttl: int | None, stale: int | None) -> Token:
        if self._async is None:
            self._async = httpx.AsyncClient(
                headers=self._headers, timeout=self._timeout, transport=self._async_transport
            )
        url, wishes = self._question(subject, min_ttl, stale)
        asked_at = time.monotonic()
        try:
            response = await self._async.get(url, params=wishes)
        except httpx.TransportError as error:
            raise _unreachable(error) from None
        return _answer(response, asked_at)

    def _question(
        self, subject: Subject, min_ttl: int | None, stale: int | None
    ) -> tuple[str, dict[str, str | int]]:
        connection = quote(subject.connection, safe="")
        if subject.user_id is None:
            url = f"{self._base}/connections/{connection}/token"
        else:
            url = f"{self._base}/users/{quote(subject.user_id, safe='')}/tokens/{connection}"
        wishes = {
            "min_ttl": min_ttl,
            "stale": stale,
            "identity": subject.identity,
            "part": subject.part,
        }
        return url, {name: value for name, value in wishes.items() if value is not None}


def _answer(response: httpx.Response, asked_at: float) -> Token:
    if response.status_code != httpx.codes.OK:
        raise error_of(response)
    return token_of(response, asked_at=asked_at)


def _unreachable(error: httpx.TransportError) -> NotAvailableError:
    return NotAvailableError(
        f"Evergrant cannot be reached: {type(error).__name__}", code="unreachable", retry_after=5
    )
