"""`TokenEndpoint` over HTTPS: sends once, and says exactly what became of the request."""

from __future__ import annotations

import re
from collections.abc import Mapping

import httpx

from worker.domain.errors import ConfigurationError
from worker.domain.exchange import Answered, Gate, NotSent, Outcome, Uncertain, WireRequest
from worker.providers import addresses
from worker.providers.addresses import Target
from worker.providers.answer import Answer
from worker.providers.connection import MaybeSentError, SurelyNotSentError
from worker.providers.transport import TokenTransport

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
        try:
            return await self._asked(request, target, gate, read_timeout)
        except SurelyNotSentError as error:
            return NotSent(reason=error.reason)
        except MaybeSentError as error:
            return _of_fragment(error)
        except httpx.TransportError:
            return Uncertain(reason="protocol")  # not our transport: it may not know

    async def _asked(
        self, request: WireRequest, target: Target, gate: Gate, patience: float
    ) -> Answered:
        if not isinstance(self._transport, TokenTransport):
            return await self._asked_through_httpx(request, target, gate, patience)
        answer = await self._transport.exchange(
            target,
            method=request.method,
            headers=_encoded(request.headers),
            body=request.body,
            gate=gate,
            patience=patience,
        )
        body = answer.content()  # before `cut` is looked at: unpacking may set it
        answer.headers.pop("content-encoding", None)
        return Answered(status=answer.status, headers=answer.headers, body=body, cut=answer.cut)

    async def _asked_through_httpx(
        self, request: WireRequest, target: Target, gate: Gate, patience: float
    ) -> Answered:
        response = await self._transport.handle_async_request(
            httpx.Request(
                request.method,
                f"{target.scheme}://{target.host}/",  # the path holds secrets; see the target
                headers=dict(request.headers),
                content=request.body,
                extensions={"gate": gate, "target": target, "timeout": {"read": patience}},
            )
        )
        return Answered(
            status=response.status_code,
            headers=dict(response.headers),
            body=response.content,
            cut=response.extensions.get("cut", False),
        )

    async def close(self) -> None:
        await self._transport.aclose()


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Raises: SurelyNotSentError for what no header can hold (RFC 9110 §5.5)."""
    try:
        return [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
    except UnicodeEncodeError:
        raise SurelyNotSentError("header") from None


def _of_fragment(error: MaybeSentError) -> Outcome:
    """An answer that broke off behind its refresh token has told what matters: keep it."""
    fragment: Answer | None = error.fragment
    if fragment is not None and 200 <= fragment.status < 300:
        body = fragment.content()
        if _WHOLE_REFRESH_TOKEN.search(body):
            return Answered(status=fragment.status, headers=fragment.headers, body=body, cut=True)
    return Uncertain(reason=error.reason)
