"""Auth0's user search, for tests of what walks through it."""

from __future__ import annotations

from typing import Any

import httpx

from tests.sync.world import World


class Search:
    """Auth0's user search: sorted by creation, a thousand hits of a query at most."""

    def __init__(
        self, world: World, users: list[tuple[str, str]], *, by: str = "created_at"
    ) -> None:
        """`users`: (id, time of creation, or whatever else they are listed by)."""
        self.users, self.by = users, by
        self.queries: list[str] = []
        self.accounts: dict[str, list[dict[str, Any]]] = {}
        handle = world.auth0._handle
        world.api._http = httpx.AsyncClient(
            transport=httpx.MockTransport(lambda r: self.answer(r) or handle(r))
        )

    def answer(self, request: httpx.Request) -> httpx.Response | None:
        if request.url.path != "/api/v2/users":
            return None
        query, page = request.url.params["q"], int(request.url.params["page"])
        self.queries.append(query)
        if page >= 10:  # as Auth0 does past the thousandth hit
            return httpx.Response(400, json={"errorCode": "invalid_paging"})
        hits = [self.hit(request, u, at) for u, at in self.users if self.matches(u, at, query)]
        if request.url.params.get("include_totals") == "true":
            return httpx.Response(200, json={"total": len(hits), "users": hits[:1]})
        return httpx.Response(200, json=hits[page * 100 : page * 100 + 100])

    def hit(self, request: httpx.Request, user_id: str, at: str) -> dict[str, Any]:
        told: dict[str, Any] = {"user_id": user_id, self.by: at}
        if "identities" in request.url.params["fields"].split(",") and user_id in self.accounts:
            told["identities"] = self.accounts[user_id]
        return told

    def matches(self, user_id: str, at: str, query: str) -> bool:
        if query.startswith("identities.user_id:"):
            return user_id in ("auth0|primary",)
        return at >= query.removeprefix(f"{self.by}:[").partition(" TO")[0]
