"""Whether a port can be listened on, found out before anything is started."""

from __future__ import annotations

import socket

from worker.domain.errors import ConfigurationError


def refuse_taken(host: str, port: int, setting: str) -> None:
    """Raises: ConfigurationError naming `setting`, when nothing can listen there.

    A web process that cannot would be started again for ever, and whoever has the port answer
    for it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {why}. Is Evergrant, or something else, running"
            f" there? Another port: {setting}=…",
            code="port_taken",
        ) from None
