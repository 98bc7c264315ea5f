"""The calls we make. Nearly all are GETs; the POSTs ask for a redelivery or an export, which are
harmless twice. So one that was cut may be asked again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from worker.auth0 import failures
from worker.auth0.answers import Connection, User, connection_of, text, user_of
from worker.auth0.budget import Budget, Priority, pause_asked
from worker.auth0.credentials import Credentials
from worker.auth0.scopes import missing_scopes
from worker.auth0.tokens import TokenSource
from worker.domain.errors import NotFoundError, PermanentError, TransientError
from worker.domain.ports import Clock, Offload, Tenants
from worker.monitoring.metrics import AUTH0_REQUESTS

_USER_FIELDS = "user_id,identities,created_at,last_login,logins_count,blocked"
_LISTED_FIELDS = "user_id,created_at,last_login"
_LONGEST = 32 * 1024 * 1024  # bytes of an answer, unpacked; a hundred log records are 1 MiB
_PIECE = 64 * 1024
PAGE = 100  # users or log records; connections: 50 is what Auth0 documents for checkpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedUser:
    """A search hit: eventually consistent, so good for ids and nothing else."""

    user_id: str
    created_at: str  # as Auth0 writes them, for use in the next query
    last_login: str = ""
    accounts: tuple[tuple[str, str], ...] = ()  # (strategy, connection) of each, where asked for


@dataclass(frozen=True, slots=True)
class _Request:
    """What is asked; `group` is the bucket of the plan that it counts in."""

    method: str
    group: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, bounded."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes = field(repr=False)


def open_client() -> httpx.AsyncClient:
    """One client per process for all tenants: no redirects, no proxy out of the environment."""
    return httpx.AsyncClient(
        timeout=httpx.Timeout(20, connect=5),
        limits=httpx.Limits(max_connections=160, max_keepalive_connections=8, keepalive_expiry=30),
        follow_redirects=False,
        trust_env=False,
        headers={"accept": "application/json", "user-agent": "evergrant"},
    )


class ManagementApi:
    """One tenant's Management API, under its budget, with the shared token.

    Every call raises: TransientError (429 with `retry_after`, 5xx, network), NotFoundError,
    ConfigurationError (credentials, scopes), PermanentError (a request Auth0 finds wrong).
    """

    def __init__(
        self,
        tenant: str,
        credentials: Credentials,
        *,
        tenants: Tenants,
        budget: Budget,
        http: httpx.AsyncClient,
        clock: Clock,
        offload: Offload,
    ) -> None:
        self.tenant = tenant
        self.budget = budget
        self._address = f"{credentials.address}/api/v2"
        self._http = http
        self._clock = clock
        self._tokens = TokenSource(tenant, credentials, tenants, http, clock=clock, offload=offload)

    async def missing_scopes(self) -> Mapping[str, str]:
        """Scopes our token lacks, and what will not work without each; empty: all is well."""
        return missing_scopes((await self._tokens.get()).scope)

    async def granted_scopes(self, *, fresh: bool = False) -> str:
        """As the token answer said, space separated. `fresh`: what is granted today; the token
        held may be of a day before."""
        return (await (self._tokens.fresh() if fresh else self._tokens.get())).scope

    async def user(self, user_id: str, *, priority: Priority = Priority.LIVE) -> User:
        """One user with the tokens of his identities; immediately consistent."""
        params = {"fields": _USER_FIELDS, "include_fields": "true"}
        path = f"/users/{quote(user_id, safe='')}"
        body = await self._object("users", path, params, priority)
        if not isinstance(body.get("identities"), list):  # every user has one: not "all unlinked"
            raise TransientError(f"{self.tenant}: not a whole user", code="unreadable_answer")
        user = user_of(body)
        if user.user_id != user_id:  # a proxy's or a cache's answer for someone else
            raise TransientError(f"{self.tenant}: an answer for another user", code="wrong_user")
        return user

    async def connection(
        self, connection_id: str, *, priority: Priority = Priority.LIVE
    ) -> Connection:
        path = f"/connections/{quote(connection_id, safe='')}"
        found = connection_of(await self._object("connections", path, {}, priority))
        if found is None:
            raise NotFoundError(f"{self.tenant}: {connection_id} has no name")
        return found

    async def connection_by_name(
        self, name: str, *, priority: Priority = Priority.LIVE
    ) -> Connection:
        body = await self._get("connections", "/connections", {"name": name}, priority)
        for element in _elements(body, "connections"):
            found = connection_of(element)
            if found is not None and found.name == name:
                return found
        raise NotFoundError(f"{self.tenant}: no connection of that name", code="no_connection")

    async def connections(
        self, *, priority: Priority = Priority.BACKFILL
    ) -> AsyncIterator[Connection]:
        """All of them, by checkpoint paging: pages by number end at 1000."""
        params = {"take": "50"}
        while True:
            body = await self._get("connections", "/connections", params, priority)
            for element in _elements(body, "connections"):
                if found := connection_of(element):
                    yield found
            following = text(body.get("next")) if isinstance(body, dict) else None
            if following is None:
                return
            params = {"take": "50", "from": following}

    async def search(
        self,
        query: str,
        *,
        page: int = 0,
        sort: str = "created_at:1",
        accounts: bool = False,
        priority: Priority = Priority.BACKFILL,
    ) -> Sequence[ListedUser]:
        """A page of users, those created first coming first unless told otherwise; Auth0 shows
        1000 hits of a query at most.

        `accounts`: which ones each user has, too. Auth0 sends their tokens along, and part of an
        element cannot be asked for; the index is behind, so they are dropped unseen.
        """
        params = {
            "q": query,
            "search_engine": "v3",
            "sort": sort,
            "per_page": str(PAGE),
            "page": str(page),
            "fields": f"{_LISTED_FIELDS},identities" if accounts else _LISTED_FIELDS,
            "include_fields": "true",
        }
        body = await self._get("users", "/users", params, priority)
        return [
            ListedUser(
                user_id=user_id,
                created_at=text(element.get("created_at")) or "",
                last_login=text(element.get("last_login")) or "",
                accounts=_accounts(element.get("identities")) if accounts else (),
            )
            for element in _elements(body, "users")
            if (user_id := text(element.get("user_id")))
        ]

    async def count(self, query: str, *, priority: Priority = Priority.BACKFILL) -> int | None:
        """How many users match, as the search index has it; None: it does not tell."""
        params = {
            "q": query,
            "search_engine": "v3",
            "page": "0",
            "per_page": "1",
            "include_totals": "true",
            "fields": _LISTED_FIELDS,  # no tokens
            "include_fields": "true",
        }
        body = await self._get("users", "/users", params, priority)
        total = body.get("total") if isinstance(body, dict) else None
        return total if isinstance(total, int) else None

    async def get(
        self, group: str, path: str, params: Mapping[str, str], *, priority: Priority
    ) -> Any:
        """Any other resource, decoded; `group` says which bucket of the plan it counts in."""
        return await self._get(group, path, params, priority)

    async def body(
        self, group: str, path: str, params: Mapping[str, str], *, priority: Priority
    ) -> bytes:
        """The same as it came, for those who decode it piece by piece."""
        return (await self._answer(_Request("GET", group, path, params), priority)).content

    async def post(
        self, group: str, path: str, body: Mapping[str, Any], *, priority: Priority
    ) -> Any:
        """Ask for something to be done; the answer decoded, if there is one."""
        return await self._asked(_Request("POST", group, path, body=body), priority)

    @asynccontextmanager
    async def fetching(self, url: str) -> AsyncIterator[httpx.Response]:
        """A file that Auth0 has laid somewhere else; asked for without our token."""
        if urlsplit(url).scheme != urlsplit(self._address).scheme:
            raise PermanentError(f"{self.tenant}: a file not to be fetched over https", code="url")
        try:
            async with self._http.stream("GET", url) as answer:
                if answer.status_code != 200:
                    raise TransientError(
                        f"{self.tenant}: file: status {answer.status_code}", code="file_away"
                    )
                yield answer
        except httpx.HTTPError as error:
            raise TransientError(
                f"{self.tenant}: file: {type(error).__name__}", code="file_away"
            ) from None

    @asynccontextmanager
    async def streaming(
        self,
        path: str,
        params: Mapping[str, str | list[str]],
        headers: Mapping[str, str],
        *,
        silence: float,
    ) -> AsyncIterator[httpx.Response]:
        """An answer that goes on coming; ends with TransientError when it is silent for
        `silence` seconds, or cut."""
        await self.budget.take("events", Priority.FORCED)
        token = await self._tokens.get()
        told = {**headers, "authorization": f"Bearer {token.token.text()}"}
        try:
            async with self._http.stream(
                "GET",
                self._address + path,
                params=params,
                headers=told,
                timeout=httpx.Timeout(silence, connect=5),
            ) as answer:
                if answer.status_code != 200:
                    if answer.status_code in (401, 403):
                        await self._tokens.replaced(token)
                    await self._accepted(await self._whole(answer))
                AUTH0_REQUESTS.labels(self.tenant, "200").inc()
                yield answer
        except httpx.HTTPError as error:
            AUTH0_REQUESTS.labels(self.tenant, "network").inc()
            raise TransientError(
                f"{self.tenant}: Events API: {type(error).__name__}", code="auth0_away"
            ) from None

    async def _object(
        self, group: str, path: str, params: Mapping[str, str], priority: Priority
    ) -> Mapping[str, Any]:
        body = await self._get(group, path, params, priority)
        if not isinstance(body, dict):
            raise TransientError(f"{self.tenant}: not an object", code="unreadable_answer")
        return body

    async def _get(
        self, group: str, path: str, params: Mapping[str, str], priority: Priority
    ) -> Any:
        return await self._asked(_Request("GET", group, path, params), priority)

    async def _asked(self, request: _Request, priority: Priority) -> Any:
        answer = await self._answer(request, priority)
        if answer.status_code in (202, 204):
            return None
        return failures.decoded(self.tenant, answer.content)

    async def _answer(self, request: _Request, priority: Priority) -> Answer:
        """Ask; once more with a fresh token where the shared one is refused."""
        token = await self._tokens.get()
        answer = await self._sent(request, token.token.text(), priority)
        status = answer.status_code
        refused = status == 401 or failures.insufficient_scope(status, answer.content)
        if refused and (another := await self._tokens.replaced(token)):
            answer = await self._sent(request, another.token.text(), priority)
        return await self._accepted(answer)

    async def _sent(self, request: _Request, token: str, priority: Priority) -> Answer:
        headers = {"authorization": f"Bearer {token}"}
        url = self._address + request.path
        for last in (False, True):
            await self.budget.take(request.group, priority)
            try:
                async with self._http.stream(
                    request.method, url, params=request.params, headers=headers, json=request.body
                ) as response:
                    return await self._whole(response)
            except httpx.HTTPError as error:
                AUTH0_REQUESTS.labels(self.tenant, "network").inc()
                stale = isinstance(error, httpx.RemoteProtocolError | httpx.ReadError)
                if last or not stale:  # a kept connection may have been closed meanwhile
                    raise TransientError(
                        f"{self.tenant}: Management API: {type(error).__name__}",
                        code="auth0_away",
                    ) from None
        raise AssertionError("unreachable")

    async def _whole(self, response: httpx.Response) -> Answer:
        """Read to its end. Raises: TransientError when it is larger than anything of Auth0's."""
        body = bytearray()
        async for piece in response.aiter_bytes(_PIECE):
            body += piece
            if len(body) > _LONGEST:
                raise TransientError(f"{self.tenant}: an answer too large", code="answer_too_large")
        return Answer(response.status_code, response.headers, bytes(body))

    async def _accepted(self, answer: Answer) -> Answer:
        status, now = answer.status_code, self._clock.now()
        AUTH0_REQUESTS.labels(self.tenant, str(status)).inc()
        if status == 429:
            await self.budget.pause(now + pause_asked(answer.headers, now=now))
        if status not in (200, 201, 202, 204):
            raise failures.of_api(self.tenant, status, answer.headers, answer.content, now=now)
        return answer


def _elements(body: Any, key: str) -> list[Mapping[str, Any]]:
    """A list, as such or under `key` (it depends on the paging asked for)."""
    found = body.get(key) if isinstance(body, dict) else body
    return [e for e in found if isinstance(e, dict)] if isinstance(found, list) else []


def _accounts(identities: Any) -> tuple[tuple[str, str], ...]:
    told = identities if isinstance(identities, list) else []
    return tuple(
        (text(one.get("provider")) or "", text(one.get("connection")) or "")
        for one in told
        if isinstance(one, Mapping)
    )
