"""What broke within ourselves and was expected by nobody: told without its words, and counted."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from traceback import extract_tb

import structlog

from worker.domain.grant import GrantId
from worker.monitoring.metrics import INTERNAL_ERRORS

_log = structlog.get_logger(__name__)


def broke(what: str, error: Exception, grant: GrantId | None = None) -> str:
    """Tell where `what` broke, and never what the error says: that may quote a token. Never raises.

    Args:
        what: in the log, and a label of the metric; of few values.
    Returns: a code for the grant's row.
    """
    with suppress(Exception):
        INTERNAL_ERRORS.labels(what).inc()
    frames = extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else None
    about = {} if grant is None else {"grant": str(grant)}
    _log.error(what, error=type(error).__name__, place=place, **about)
    return f"internal_{type(error).__name__}"
