"""`/openapi.json` for the routes of the other doors too: their docstrings are their summaries."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.routing import BaseRoute, Route

from worker.api.problems import MEDIA_TYPE


def with_other_doors(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Make `app.openapi()` tell of every route that answers."""
    own: Callable[[], dict[str, Any]] = app.openapi

    def whole() -> dict[str, Any]:
        document = own()
        _drop_defaults(document)
        _ask_for_keys(document)
        for route in routes:
            if isinstance(route, Route) and route.include_in_schema:
                document["paths"].setdefault(route.path_format, {}).update(_described(route))
        return document

    app.openapi = whole  # type: ignore[method-assign]  # the way FastAPI documents for this


def _described(route: Route) -> dict[str, Any]:
    doc = inspect.getdoc(route.endpoint) or route.name.replace("_", " ")
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", route.path_format)
    ]
    operation = {
        "summary": doc.partition("\n")[0],
        "tags": ["doors"],
        "parameters": parameters,
        "responses": _answers(route.path_format),
    }
    methods = sorted((route.methods or {"GET"}) - {"HEAD"})
    return {method.lower(): operation for method in methods}


def _answers(path: str) -> dict[str, Any]:
    told = _HOOK if path.startswith("/hooks/") else _OF_PATHS.get(path)
    return told or {"default": {"description": "see the documentation of this door"}}


def _answer(description: str, schema: dict[str, Any], *, kind: str = "json") -> dict[str, Any]:
    return {"description": description, "content": {_MEDIA[kind]: {"schema": schema}}}


def _object(**properties: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in properties.items()},
        "required": list(properties),
    }


_MEDIA = {"json": "application/json", "problem": MEDIA_TYPE, "text": "text/plain"}
_PROBLEM = _object(type="string", title="string", status="integer")
_NOT_READY = _answer("not ready; `why` is a code", _object(status="string", why="string"))
_HOOK = {
    "202": _answer(
        "what matters is durable",
        _object(accepted="integer", duplicate="integer", ignored="integer"),
    ),
    "401": _answer("wrong secret, no such door or tenant", _PROBLEM, kind="problem"),
    "413": _answer("the body is too large", _PROBLEM, kind="problem"),
    "503": _answer("send it again after Retry-After seconds", _PROBLEM, kind="problem"),
}
_OF_PATHS = {
    "/healthz": {"200": _answer("the process runs", _object(status="string", version="string"))},
    "/readyz": {
        "200": _answer("requests can be served", _object(status="string")),
        "503": _NOT_READY,
    },
    "/metrics": {"200": _answer("for Prometheus", {"type": "string"}, kind="text")},
    "/status": {
        "200": _answer("how things stand, as `evergrant status --json`", {"type": "object"}),
        "503": _NOT_READY,
    },
}


def _drop_defaults(document: dict[str, Any]) -> None:
    """FastAPI promises its own 422 everywhere; ours is a 400, told for each operation."""
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document.get("components", {}).get("schemas", {}).pop(name, None)


def _ask_for_keys(document: dict[str, Any]) -> None:
    """Said here and not by a dependency, which would run again at every request."""
    scheme = {"type": "http", "scheme": "bearer", "description": "An API key: evg_…"}
    document.setdefault("components", {})["securitySchemes"] = {"apiKey": scheme}
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["security"] = [{"apiKey": []}]
