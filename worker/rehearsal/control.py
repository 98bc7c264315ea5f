"""The control desk: what one may do to the stage while it plays.

`POST /control/<command>` with a JSON object of arguments. Commands are the tenant's doings and the
switches of the stage; the answer is `{"result": …}`, or 400/404 with `{"error": …}`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .faults import FAULTS
from .stage import Stage
from .values import NoSuchError


class Control:
    """Commands by name."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        tenant = stage.tenant
        self.commands: Mapping[str, Callable[..., Any]] = {
            "login": tenant.login,
            "logins": self._logins,
            "sso_login": tenant.sso_login,
            "create_user": tenant.create_user,
            "update_user": tenant.update_user,
            "delete_user": tenant.delete_user,
            "link": tenant.link,
            "unlink": tenant.unlink,
            "patch_connection": tenant.patch_connection,
            "delete_connection": tenant.delete_connection,
            "consent_as_admin": tenant.consent_as_admin,
            "directory_sync": tenant.directory_sync,
            "withdraw_consent": self._withdraw,
            "faults": self._faults,
            "clear_faults": stage.faults.clear,
            "pass_time": stage.pass_time,
            "send_to": stage.send_to,
            "pause_logs": self._pause_logs,
            "suspend_logs": self._suspend_logs,
            "forget_events": stage.events.forget,
        }

    async def handle(self, request: Request) -> Response:
        """Serve one command."""
        command = self.commands.get(request.path_params["command"])
        if command is None:
            return JSONResponse(
                {"error": "no such command", "commands": sorted(self.commands)}, 404
            )
        body = await request.body()
        try:
            arguments = dict(await request.json()) if body else {}
            return JSONResponse({"result": command(**arguments)})
        except (TypeError, ValueError, KeyError, NoSuchError, StopIteration) as error:
            return JSONResponse({"error": f"{type(error).__name__}: {error}"}, 400)

    def _logins(self, connection: str, subjects: list[str]) -> list[str]:
        """Many logins at once."""
        return [self._stage.tenant.login(connection, subject) for subject in subjects]

    def _withdraw(self, provider: str, subject: str) -> int:
        """The user takes the consent back at the provider; returns how many logins ended."""
        return self._stage.providers[provider].issuer.withdraw(subject)

    def _faults(
        self,
        provider: str = "*",
        profile: str = "",
        for_seconds: float | None = None,
        count: int | None = None,
        **changes: Any,
    ) -> dict[str, list[str]]:
        if profile not in FAULTS:
            raise ValueError(f"unknown profile {profile!r}; there are {', '.join(sorted(FAULTS))}")
        if provider not in ("*", "auth0", *self._stage.providers):
            raise ValueError(f"unknown provider {provider!r}")
        self._stage.faults.switch_on(
            provider, profile, for_seconds=for_seconds, count=count, **changes
        )
        return self._stage.faults.in_force()

    def _pause_logs(self, paused: bool = True) -> None:
        """A paused log stream keeps its place and delivers on resume."""
        for stream in self._stage.log_streams:
            stream.paused = paused

    def _suspend_logs(self, suspended: bool = True) -> None:
        """As Auth0 does after a week of failures; only an admin resumes it."""
        for stream in self._stage.log_streams:
            stream.suspended = suspended
