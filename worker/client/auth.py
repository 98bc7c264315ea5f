"""An `httpx.Auth` that sends the provider's token, and asks for a new one if it is refused."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING

import httpx

from worker.client.cache import Subject
from worker.client.token import Token

if TYPE_CHECKING:
    from worker.client.client import TokenClient

UNAUTHORIZED = 401


class ProviderAuth(httpx.Auth):
    """For `httpx.Client(auth=…)` and `httpx.AsyncClient(auth=…)` alike.

    On a 401 of the provider the refused generation is reported once, and the request sent once
    more, if its body can be sent again. The API key never goes to the provider, nor the token to
    a host that a redirect names: httpx drops the header there.
    """

    def __init__(self, tokens: TokenClient, subject: Subject) -> None:
        self._tokens = tokens
        self._subject = subject

    def sync_auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        token = self._tokens.get(*self._subject[:3], part=self._subject.part)
        response = yield _signed(request, token)
        if _refused(request, response):
            newer = self._tokens.get(
                *self._subject[:3], part=self._subject.part, stale=token.generation
            )
            yield _signed(request, newer)

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        token = await self._tokens.aget(*self._subject[:3], part=self._subject.part)
        response = yield _signed(request, token)
        if _refused(request, response):
            newer = await self._tokens.aget(
                *self._subject[:3], part=self._subject.part, stale=token.generation
            )
            yield _signed(request, newer)


def _signed(request: httpx.Request, token: Token) -> httpx.Request:
    request.headers["Authorization"] = token.authorization
    return request


def _refused(request: httpx.Request, response: httpx.Response) -> bool:
    replayable = isinstance(request.stream, httpx.ByteStream)  # a generator was consumed
    ours = response.url.host == request.url.host  # elsewhere, after a redirect, none was sent
    return response.status_code == UNAUTHORIZED and replayable and ours
