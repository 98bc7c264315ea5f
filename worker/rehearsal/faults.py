"""Faults that can be switched on while the stage plays.

A fault is data: may the provider act before it fails, what is answered, and how the answer
travels. `FAULTS` names the usual ones; a control request may change any field of one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from . import wire

Clock = Callable[[], float]
HTML = "<!doctype html><title>Oops</title><h1>Something went wrong</h1>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way to fail. Seconds throughout."""

    acts: bool = True  # False: the provider does nothing but fail
    status: int | None = None  # set: this status and `body` are answered instead
    body: str = ""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    situation: str | None = None  # set: the profile's own error, e.g. "dead", "wrong_client"
    travel: str = "whole"  # whole | drop | reset | hold | cut | trickle
    cut_at: int = 0  # bytes of the answer that leave, when cut
    every: float = 0.05  # between bytes, when trickling
    delay_before: float = 0.0
    delay_after: float = 0.0
    endpoint: str = "token"  # token | api | revoke | management | search | any
    share: float = 1.0  # of the requests, by the stage's seed


FAULTS: Mapping[str, Fault] = {
    "slow": Fault(delay_before=2.0),
    "slow_answer": Fault(delay_after=2.0),  # acts at once, answers late
    "hang": Fault(acts=False, travel="hold"),
    "hang_after": Fault(travel="hold"),  # acts, then never answers
    "rate_limited": Fault(acts=False, status=429, body='{"error":"slow_down"}'),
    "rate_limited_retry_after": Fault(
        acts=False, status=429, body='{"error":"slow_down"}', headers={"Retry-After": "2"}
    ),
    "unavailable": Fault(acts=False, status=503, body='{"error":"temporarily_unavailable"}'),
    "html_200": Fault(acts=False, status=200, body=HTML, content_type="text/html"),
    "html_502": Fault(acts=False, status=502, body=HTML, content_type="text/html"),
    "html_502_after": Fault(status=502, body=HTML, content_type="text/html"),
    "error_200": Fault(acts=False, status=200, body='{"error":"server_error"}'),
    "no_access_token": Fault(acts=False, status=200, body='{"token_type":"Bearer"}'),
    "redirect": Fault(acts=False, status=307, headers={"Location": "http://127.0.0.1:9/token"}),
    "drop": Fault(travel="drop"),  # acts; the answer is lost
    "drop_before": Fault(acts=False, travel="drop"),
    "reset": Fault(acts=False, travel="reset"),
    "reset_after": Fault(travel="reset"),
    "cut": Fault(travel="cut", cut_at=40),
    "trickle": Fault(travel="trickle"),
    "search_refused": Fault(  # by identity; whether every tenant allows it is not documented
        acts=False,
        status=400,
        body='{"statusCode":400,"error":"Bad Request","errorCode":"invalid_query_string"}',
        endpoint="search",
    ),
    "search_blind": Fault(acts=False, status=200, body="[]", endpoint="search"),
    "invalid_client": Fault(acts=False, situation="wrong_client"),
    "invalid_grant": Fault(acts=False, situation="dead"),  # a storm of refusals; nobody dies of it
}


@dataclass(slots=True)
class Switched:
    """A fault in force."""

    profile: str
    fault: Fault
    until: float | None  # by the stage's clock; None: until cleared
    left: int | None  # requests it still takes; None: all


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler would send, and what is to be noted if it never arrives."""

    response: Response
    lost: Callable[[], None] = lambda: None


class Faults:
    """Which faults are in force where."""

    def __init__(self, *, clock: Clock, random_: random.Random) -> None:
        self._clock = clock
        self._random = random_
        self._on: dict[str, list[Switched]] = {}

    def switch_on(
        self,
        where: str,
        profile: str,
        *,
        for_seconds: float | None = None,
        count: int | None = None,
        **changes: Any,
    ) -> None:
        """Put `profile` in force at provider `where` ("auth0": the tenant; "*": everywhere).

        Raises KeyError for an unknown profile and ValueError for an unknown field.
        """
        known = {entry.name for entry in fields(Fault)}
        if unknown := set(changes) - known:
            raise ValueError(f"unknown field: {', '.join(sorted(unknown))}")
        until = None if for_seconds is None else self._clock() + for_seconds
        switched = Switched(profile, replace(FAULTS[profile], **changes), until, count)
        self._on.setdefault(where, []).append(switched)

    def clear(self, where: str | None = None) -> None:
        """End the faults of one provider, or all."""
        if where is None:
            self._on.clear()
        else:
            self._on.pop(where, None)

    def in_force(self) -> dict[str, list[str]]:
        """Names of the faults that can still strike, by place."""
        now = self._clock()
        for where, switched in list(self._on.items()):
            living = [one for one in switched if one.left != 0 and (one.until or now + 1) > now]
            self._on[where] = living
            if not living:
                del self._on[where]
        return {where: [one.profile for one in on] for where, on in self._on.items()}

    def pick(self, where: str, endpoint: str) -> Fault | None:
        """The fault that meets this request, if any."""
        if not self._on:
            return None
        now = self._clock()
        for switched in [*self._on.get(where, ()), *self._on.get("*", ())]:
            if self._meets(switched, endpoint, now):
                fault: Fault = switched.fault
                return fault
        return None

    def _meets(self, switched: Switched, endpoint: str, now: float) -> bool:
        if switched.fault.endpoint not in (endpoint, "any") or switched.left == 0:
            return False
        if switched.until is not None and switched.until <= now:
            return False
        if self._random.random() >= switched.fault.share:
            return False
        if switched.left is not None:
            switched.left -= 1
        return True


async def play(
    fault: Fault | None,
    request: Request,
    act: Callable[[], Answer],
    refuse: Callable[[str], Response],
) -> Response:
    """Answer `request` by `act`, as far as the fault lets it.

    `refuse` makes the answer for a situation of the profile. An action whose answer does not
    arrive whole is noted as lost.
    """
    if fault is None:
        return act().response
    await asyncio.sleep(fault.delay_before)
    answer = act() if fault.acts else Answer(refuse(fault.situation or "dead"))
    response = answer.response
    if fault.status is not None:
        response = Response(fault.body, fault.status, dict(fault.headers), fault.content_type)
    await asyncio.sleep(fault.delay_after)
    gone = bool(fault.delay_before or fault.delay_after) and await request.is_disconnected()
    if gone or not _arrives_whole(fault, response):
        answer.lost()
    return await _TRAVEL[fault.travel](request, response, fault)


def _arrives_whole(fault: Fault, response: Response) -> bool:
    if fault.travel == "cut":
        return fault.cut_at >= len(wire.raw(response))
    return fault.status is None and fault.travel in ("whole", "trickle")


async def _whole(request: Request, response: Response, fault: Fault) -> Response:
    return response


_TRAVEL: Mapping[str, Callable[[Request, Response, Fault], Awaitable[Response]]] = {
    "whole": _whole,
    "drop": lambda request, response, fault: wire.drop(request),
    "reset": lambda request, response, fault: wire.reset(request),
    "hold": lambda request, response, fault: wire.hold(request),
    "cut": lambda request, response, fault: wire.cut(request, response, fault.cut_at),
    "trickle": lambda request, response, fault: wire.trickle(request, response, fault.every),
}
