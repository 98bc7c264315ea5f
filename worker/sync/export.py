"""Auth0's list of all user ids, fetched by an export job and kept in a file until it is read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from worker.auth0 import ManagementApi
from worker.auth0.exports import ExportJob, begin_export, export_job, exported_ids
from worker.domain.errors import TransientError
from worker.domain.ports import Clock

_ASK_AGAIN = 1.0  # seconds, doubling
_AT_MOST = 10.0
_PATIENCE = 3600.0 * 4

Report = Callable[[ExportJob], None]


async def export_ids(
    api: ManagementApi,
    to: Path,
    *,
    clock: Clock,
    connection_id: str | None = None,
    report: Report = lambda job: None,
) -> None:
    """Write one id a line to `to`, whole or not at all; readable by its owner alone.

    Raises: PermanentError (no exports on this plan, or the job failed), TransientError.
    """
    job = await begin_export(api, connection_id=connection_id)
    until, wait = clock.monotonic() + _PATIENCE, _ASK_AGAIN
    while job.location is None:
        report(job)
        if clock.monotonic() > until:
            raise TransientError(f"{api.tenant}: Auth0's export does not end", code="export_slow")
        await clock.sleep(wait)
        wait = min(_AT_MOST, wait * 2)
        job = await export_job(api, job.id)
    fresh = to.with_suffix(".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        async for user_id in exported_ids(api, job.location):
            file.write(f"{user_id}\n")
    fresh.replace(to)
