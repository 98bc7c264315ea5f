"""`/openapi.json` for the routes of the other doors too: their docstrings are their summaries."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.routing import BaseRoute, Route


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
        "responses": {"default": {"description": "see the documentation of this door"}},
    }
    methods = sorted((route.methods or {"GET"}) - {"HEAD"})
    return {method.lower(): operation for method in methods}


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
