"""The doors for webhooks: authenticate, bound, hand the bytes to `events`, answer.

Bare ASGI below Starlette's routes: an event costs microseconds here, and there may be twenty
thousand a second. No decision about events is made in this room.
"""

from worker.ingress.authentication import (
    HeaderSecret,
    TenantDoors,
    basic,
    bearer,
    custom,
    verbatim,
)
from worker.ingress.doors import Bounds, routes

__all__ = [
    "Bounds",
    "HeaderSecret",
    "TenantDoors",
    "basic",
    "bearer",
    "custom",
    "routes",
    "verbatim",
]
