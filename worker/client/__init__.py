"""What apps use to read tokens: httpx, and nothing else of the house.

tokens = TokenClient("https://evergrant.internal", api_key, tenant="acme")
with httpx.Client(auth=tokens.auth(user_id, "google-oauth2")) as google:
    google.get("https://www.googleapis.com/calendar/v3/users/me/calendarList")
"""

from worker.client.auth import ProviderAuth
from worker.client.client import TokenClient
from worker.client.errors import (
    KeyRefusedError,
    NeedsLoginError,
    NotAvailableError,
    NotFoundError,
    RevokedError,
    TokenError,
)
from worker.client.token import Token

__all__ = [
    "KeyRefusedError",
    "NeedsLoginError",
    "NotAvailableError",
    "NotFoundError",
    "ProviderAuth",
    "RevokedError",
    "Token",
    "TokenClient",
    "TokenError",
]
