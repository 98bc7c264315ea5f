"""Structured logs, on stderr, in which no token can appear.

Three nets, one under the other: `Secret` prints blank by itself; a processor blanks values that
look like tokens or stand under a telling key; the loggers that print URLs (httpx, httpcore) are
silenced, since a query string may carry a token (Meta's exchange does).
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

BLANK = "(…)"

_TELLING = re.compile(
    r"(?i)(access_?token|refresh_?token|id_?token|secret|password|passwd|authorization|api_?key"
    r"|private_?key|assertion|bearer|cookie|signature|credential)"
)
# JWTs; Google, GitHub, Slack, Meta and Shopify tokens; our own keys; "Bearer …" and "token=…"
_TOKEN_LIKE = re.compile(
    r"eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)*"
    r"|\bya29\.[\w.-]+|\b1//[\w-]{8,}|\bgh[opsur]_\w{16,}|\bxox[a-z]-[\w-]{8,}|\bEAA\w{16,}"
    r"|\bshp(?:at|ca|pa|ss)_\w{8,}|\bevg_[\w-]{16,}"
    r"|(?i:\b(?:bearer|basic)\s+[\w.~+/=-]{6,})"
    r"|(?i:\b(?:access_token|refresh_token|id_token|client_secret|fb_exchange_token|token"
    r"|client_assertion|password|api_key)[\"']?\s*[=:]\s*[\"']?[^\s&\"',}]+)"
    r"|(?<=://)[^\s/@]+:[^\s/@]+(?=@)"  # user:password of a URL
    r"|\b[A-Za-z0-9_-]{48,}\b"  # anything long without a break: opaque tokens, keys
)
_SAFE_KEYS = frozenset({"event", "level", "timestamp", "logger"})


def redact(text: str) -> str:
    """`text` with everything token-like blanked. Errs on the side of blanking."""
    return _TOKEN_LIKE.sub(BLANK, text)


def _clean(key: str, value: Any) -> Any:
    if isinstance(value, bool | int | float | None):
        return value
    if key not in _SAFE_KEYS and _TELLING.search(key):
        return BLANK
    if isinstance(value, Mapping):
        return {str(k): _clean(str(k), v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean("", item) for item in value]
    return redact(value if isinstance(value, str) else str(value))


def redacting(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """The structlog processor; stands last before the renderer, so nothing slips in behind it."""
    event.pop("color_message", None)  # uvicorn's second copy of its message
    for key, value in list(event.items()):
        event[key] = _clean(key, value)
    return event


def configure(*, json: bool, level: str = "INFO", role: str = "") -> None:
    """Route structlog and the standard library's loggers through one redacting renderer."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,  # as text, so that it is redacted too
                redacting,
                _renderer(json=json),
            ],
        )
    )
    logging.raiseExceptions = False  # its own complaint would print the arguments, unredacted
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    _silence()
    structlog.contextvars.clear_contextvars()
    if role:
        structlog.contextvars.bind_contextvars(role=role)


def _renderer(*, json: bool) -> Any:
    if json:
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)


def _silence() -> None:
    # the first four print URLs, queries and all; alembic lists its plugins at every start
    for name in ("httpx", "httpcore", "hpack", "urllib3", "alembic.runtime.plugins"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("celery.worker.strategy", "celery.app.trace"):  # two lines for every hint
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "celery", "kombu", "amqp"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)  # paths carry user ids


def logger(name: str) -> Any:
    """A logger; call it with an event in a few words and ids as keywords."""
    return structlog.stdlib.get_logger(name)
