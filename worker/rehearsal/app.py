"""The stage's doors as one web application; every port of the stage serves it."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from .control import Control
from .faults import FAULTS, Answer, play
from .page import page
from .stage import Stage


def build_app(stage: Stage) -> Starlette:
    """Routes of tenant, control desk, ledger and providers, in this order."""
    control = Control(stage)

    async def token(request: Request) -> Response:
        answer = await stage.tokens.answer(request)
        fault = stage.faults.pick("auth0", "token")
        return await play(fault, request, lambda: Answer(answer), lambda _: answer)

    async def ledger(request: Request) -> Response:
        return JSONResponse(stage.ledger())

    async def grants(request: Request) -> Response:
        query = request.query_params
        return JSONResponse(stage.grants(query.get("provider"), query.get("subject")))

    async def counters(request: Request) -> Response:
        return HTMLResponse(page(stage))

    async def jwks(request: Request) -> Response:
        return JSONResponse(stage.tokens.jwks())

    async def discovery(request: Request) -> Response:
        base, issuer = stage.base_url, f"https://{stage.settings.domain}/"
        keys, endpoint = f"{base}/.well-known/jwks.json", f"{base}/oauth/token"
        return JSONResponse({"issuer": issuer, "token_endpoint": endpoint, "jwks_uri": keys})

    async def about(request: Request) -> Response:
        return JSONResponse(
            {
                "base_url": stage.base_url,
                "providers": stage.provider_urls,
                "connections": {
                    name: {"strategy": one.strategy, "provider": one.provider.profile.name}
                    for name, one in stage.tenant.connections.items()
                },
                "commands": sorted(control.commands),
                "faults": sorted(FAULTS),
            }
        )

    async def provider(request: Request) -> Response:
        one = stage.providers.get(request.path_params["provider"])
        if one is None:
            return JSONResponse({"error": "not_found"}, 404)
        return await one.handle(request, request.path_params["rest"])

    async def export(request: Request) -> Response:
        return stage.exports.download(request)

    methods = ["GET", "POST", "DELETE"]
    return Starlette(
        routes=[
            Route("/oauth/token", token, methods=["POST"]),
            Route("/api/v2/{rest:path}", stage.management.handle, methods=[*methods, "PATCH"]),
            Route("/.well-known/jwks.json", jwks),
            Route("/.well-known/openid-configuration", discovery),
            Route("/exports/{job}/{name}", export),
            Route("/control", about),
            Route("/control/{command}", control.handle, methods=["POST"]),
            Route("/ledger", ledger),
            Route("/ledger/grants", grants),
            Route("/", counters),
            Route("/{provider}/{rest:path}", provider, methods=methods),
        ]
    )
