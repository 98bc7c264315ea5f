"""The Management API token: one for all processes, renewed by whoever finds it nearly over."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime, timedelta

import httpx

from worker.auth0 import failures
from worker.auth0.answers import secret
from worker.auth0.credentials import Credentials
from worker.auth0.scopes import missing_scopes
from worker.domain.errors import ConfigurationError, TransientError
from worker.domain.ports import ApiToken, Clock, Offload, Tenants
from worker.monitoring.logs import logger

_log = logger(__name__)

_LEEWAY = timedelta(seconds=10)
_LOOK = 60.0  # seconds in which another process's newer token may pass unseen
_NEW = 600.0  # seconds in which a fetched token lacks nothing that another would have
_OPERATOR = timedelta(seconds=10)  # between two tries with what an operator has to mend
_AWAY = timedelta(seconds=1)  # the same, where nothing is said of when to come back
_UNTOLD_LIFE = 86_400  # seconds; Auth0's default, where the answer names none


class TokenSource:
    """Hands out the shared token. The store keeps it sealed; this keeps a copy in memory.

    Tokens cannot be revoked and their scopes are fixed at issue, so one that is refused is
    dropped for everybody, once, and another is fetched.

    The token endpoint's limit is the one that the tenant's logins live on, and it is in no bucket
    of ours: whoever finds it refusing says so for a while to all who want a token.
    """

    def __init__(
        self,
        tenant: str,
        credentials: Credentials,
        tenants: Tenants,
        http: httpx.AsyncClient,
        *,
        clock: Clock,
        offload: Offload,
    ) -> None:
        self._tenant = tenant
        self._credentials = credentials
        self._tenants = tenants
        self._http = http
        self._clock = clock
        self._offload = offload
        self._lock = asyncio.Lock()
        self._held: ApiToken | None = None
        self._fetched_at = self._looked_at = float("-inf")  # monotonic
        self._refusal: TransientError | ConfigurationError | None = None
        self._refused_until = float("-inf")  # monotonic

    async def get(self) -> ApiToken:
        """Raises: TransientError, ConfigurationError."""
        if (held := self._settled()) is not None:
            return held
        async with self._lock:  # a hundred pulls find it expired, one fetches
            if (held := self._settled()) is None:
                held = self._held = await self._best()
                self._looked_at = self._clock.monotonic()
            return held

    async def fresh(self) -> ApiToken:
        """One that has whatever is granted today. Raises: as `get`."""
        async with self._lock:
            self._held = await self._fetched()
            return self._held

    async def replaced(self, token: ApiToken) -> ApiToken | None:
        """Auth0 does not take `token`, or not for this: another, or None if it is just as new.

        Raises: TransientError, ConfigurationError.
        """
        if self._clock.monotonic() - self._fetched_at < _NEW:
            return self._held if self._held and self._held.token != token.token else None
        async with self._lock:
            if self._held is None or self._held.token == token.token:
                self._held = None
                shared = await self._offload(self._tenants.token, self._tenant)
                if shared is not None and shared.token == token.token:
                    await self._offload(self._tenants.drop_token, self._tenant)
        return await self.get()

    def _settled(self) -> ApiToken | None:
        """What is held, unless it is time to look whether there is a better one."""
        looked = self._clock.monotonic() - self._looked_at < _LOOK
        return self._good(self._held) if looked else None

    async def _best(self) -> ApiToken:
        token = await self._shared() or self._good(self._held)
        if token is None:
            return await self._fetched()
        if missing_scopes(token.scope) and self._clock.monotonic() - self._fetched_at >= _NEW:
            # nothing refuses it: what it may not see is left out of answers with status 200
            with suppress(TransientError, ConfigurationError):
                return await self._fetched()
        return token

    def _good(self, token: ApiToken | None) -> ApiToken | None:
        ends_at = token.expires_at - _LEEWAY if token is not None else None
        return token if ends_at is not None and ends_at > self._clock.now() else None

    async def _shared(self) -> ApiToken | None:
        return self._good(await self._offload(self._tenants.token, self._tenant))

    async def _fetched(self) -> ApiToken:
        if (left := self._refused_until - self._clock.monotonic()) > 0 and self._refusal:
            raise _again(self._refusal, timedelta(seconds=left))
        try:
            return await self._asked()
        except (TransientError, ConfigurationError) as error:
            self._refusal = error
            self._refused_until = self._clock.monotonic() + _pause(error).total_seconds()
            raise

    async def _asked(self) -> ApiToken:
        asked_at = self._clock.now()
        form = self._credentials.token_form(asked_at)
        try:
            answer = await self._http.post(f"{self._credentials.address}/oauth/token", data=form)
        except httpx.HTTPError as error:
            # rebuilt: the original carries the form, and with it the client secret
            raise TransientError(
                f"{self._tenant}: token endpoint: {type(error).__name__}", code="auth0_away"
            ) from None
        if answer.status_code != 200:
            raise failures.of_token_endpoint(
                self._tenant, answer.status_code, answer.headers, answer.content, now=asked_at
            )
        token = self._read(answer.content, asked_at)
        self._fetched_at = self._clock.monotonic()
        if lacking := missing_scopes(token.scope):
            _log.warning("api_token_lacks_scopes", tenant=self._tenant, scopes=sorted(lacking))
        await self._offload(self._tenants.put_token, self._tenant, token)
        return token

    def _read(self, body: bytes, asked_at: datetime) -> ApiToken:
        told = failures.decoded(self._tenant, body)
        token = secret(told.get("access_token")) if isinstance(told, dict) else None
        if token is None:
            raise TransientError(f"{self._tenant}: an answer without a token", code="no_api_token")
        life, scope = told.get("expires_in"), told.get("scope")
        seconds = life if isinstance(life, int) and life > 0 else _UNTOLD_LIFE
        return ApiToken(
            token=token,
            expires_at=asked_at + timedelta(seconds=seconds),
            scope=scope if isinstance(scope, str) else "",
        )


def _pause(error: TransientError | ConfigurationError) -> timedelta:
    told = error.retry_after if isinstance(error, TransientError) else _OPERATOR
    return told or _AWAY


def _again(
    error: TransientError | ConfigurationError, left: timedelta
) -> TransientError | ConfigurationError:
    if isinstance(error, ConfigurationError):
        return ConfigurationError(str(error), code=error.code)
    return TransientError(str(error), code=error.code, retry_after=left)
