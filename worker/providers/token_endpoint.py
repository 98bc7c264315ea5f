"""`TokenEndpoint` over HTTPS: sends once, and says exactly what became of the request."""

from __future__ import annotations

import re

import httpx

from worker.domain.errors import ConfigurationError
from worker.domain.exchange import Answered, Gate, NotSent, Outcome, Uncertain, WireRequest
from worker.providers import addresses
from worker.providers.answer import Answer
from worker.providers.transport import MaybeSentError, SurelyNotSentError, TokenTransport

# A refresh token whose closing quote has arrived, under whatever name the provider gives it.
_WHOLE_REFRESH_TOKEN = re.compile(rb'"\w*refresh_?token"\s*:\s*"(?:[^"\\]|\\.)+"', re.IGNORECASE)


class HttpTokenEndpoint:
    """One per event loop; it keeps connections for a few seconds. Close it with `close`."""

    def __init__(
        self, *, allow_loopback: bool = False, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._allow_loopback = allow_loopback
        self._transport = transport or TokenTransport(allow_loopback=allow_loopback)

    async def exchange(self, request: WireRequest, *, gate: Gate, read_timeout: float) -> Outcome:
        """Meets `domain.ports.TokenEndpoint`. Raises nothing but CancelledError."""
        try:
            target = addresses.target(
                request.url, approved_host=request.host, allow_loopback=self._allow_loopback
            )
        except ConfigurationError:
            return NotSent(reason="address")
        if target.host != request.host:
            return NotSent(reason="address")
        wire = httpx.Request(
            request.method,
            f"{target.scheme}://{target.host}/",  # the path holds secrets; it is in the target
            headers=dict(request.headers),
            content=request.body,
            extensions={"gate": gate, "target": target, "timeout": {"read": read_timeout}},
        )
        try:
            response = await self._transport.handle_async_request(wire)
        except SurelyNotSentError as error:
            return NotSent(reason=error.reason)
        except MaybeSentError as error:
            return _of_fragment(error)
        except httpx.TransportError:
            return Uncertain(reason="protocol")  # not our transport: it may not know
        return Answered(
            status=response.status_code,
            headers=response.extensions.get("plain_headers") or dict(response.headers),
            body=response.content,
            cut=response.extensions.get("cut", False),
        )

    async def close(self) -> None:
        await self._transport.aclose()


def _of_fragment(error: MaybeSentError) -> Outcome:
    """An answer that broke off behind its refresh token has told what matters: keep it."""
    fragment: Answer | None = error.fragment
    if fragment is not None and 200 <= fragment.status < 300:
        body = fragment.content()
        if _WHOLE_REFRESH_TOKEN.search(body):
            return Answered(status=fragment.status, headers=fragment.headers, body=body, cut=True)
    return Uncertain(reason=error.reason)
