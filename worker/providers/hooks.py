"""What an entry needs beyond data: at most one named hook, a pure function over values.

Everything else that looks special is a client authentication (`client_auth`) or a placeholder
(`filling`). A hook is added here, by name, and an entry refers to it; an unknown name stops the
start.
"""

from __future__ import annotations

HOOKS: frozenset[str] = frozenset(
    {
        # The answer names no lifetime; the provider tells it when asked about the token (RFC 7662).
        "introspect_expiry",
    }
)
