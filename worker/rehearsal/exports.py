"""Export jobs of the rehearsed tenant: begun, at work for one look, then a file for a minute.

Source: https://auth0.com/docs/manage-users/user-migration/bulk-user-exports. The file lies
somewhere else than the API, and whoever brings the API's token along is turned away, as the
storage behind Auth0's links does with two authentications at once.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .records import Record, iso
from .tenant import Tenant

_LINK_S = 60.0


@dataclass(slots=True)
class _Job:
    id: str
    created_at: float
    asked: Mapping[str, Any]
    looks: int = 0
    linked_at: float = 0.0


class Exports:
    """Jobs by id."""

    def __init__(self, tenant: Tenant, *, base_url: Callable[[], str]) -> None:
        self._tenant = tenant
        self._base_url = base_url
        self._jobs: dict[str, _Job] = {}

    def begin(self, asked: Mapping[str, Any]) -> Record:
        job = _Job(f"job_rehearsal{len(self._jobs):09}", self._tenant.now(), asked)
        self._jobs[job.id] = job
        return self._json(job, "pending")

    def look(self, job_id: str) -> Record | None:
        """None: no such job."""
        if (job := self._jobs.get(job_id)) is None:
            return None
        job.looks += 1
        if job.looks == 1:
            return self._json(job, "processing") | {"percentage_done": 50, "time_left_seconds": 1}
        job.linked_at = self._tenant.now()
        location = (
            f"{self._base_url()}/exports/{job.id}/{self._tenant.domain.partition('.')[0]}.json.gz"
        )
        return self._json(job, "completed") | {"percentage_done": 100, "location": location}

    def download(self, request: Request) -> Response:
        job = self._jobs.get(request.path_params["job"])
        if "authorization" in request.headers:
            return Response("Only one auth mechanism allowed", 400)
        if job is None or self._tenant.now() - job.linked_at > _LINK_S:
            return Response("Request has expired", 403)
        lines = "".join(f"{json.dumps(user)}\n" for user in self._users(job.asked))
        return Response(gzip.compress(lines.encode()), media_type="application/octet-stream")

    def _users(self, asked: Mapping[str, Any]) -> list[Record]:
        names = [field["name"] for field in asked.get("fields", [])] or ["user_id", "email", "name"]
        only = asked.get("connection_id")
        wanted = {c.name for c in self._tenant.connections.values() if only in (None, c.id)}
        return [
            {name: told.get(name) for name in names}
            for user in self._tenant.users.values()
            if any(identity.connection in wanted for identity in user.identities)
            for told in [user.as_json(tokens=False)]
        ]

    def _json(self, job: _Job, status: str) -> Record:
        told = {"type": "users_export", "status": status, "format": "json", **job.asked}
        return told | {"id": job.id, "created_at": iso(job.created_at)}


def answered(body: Record | None) -> Response:
    if body is None:
        problem = {"statusCode": 404, "error": "Not Found", "message": "The job does not exist."}
        return JSONResponse({**problem, "errorCode": "inexistent_job"}, 404)
    return JSONResponse(body)
