"""The actions that come with the worker: they are its work."""

from __future__ import annotations

from worker.actions.api import ActionEvent, Api
from worker.actions.binding import Action, Handler
from worker.domain.event import Trigger

_SYNC_ENDED = {"directory_sync_completed": False, "directory_sync_failed": True}
_PULL_TIMEOUT = 40.0  # seconds; a pull waits for the tenant's request budget


async def pull_user(event: ActionEvent, api: Api) -> None:
    """Read the user's tokens at Auth0."""
    await api.pull_user()


async def pull_connection(event: ActionEvent, api: Api) -> None:
    """Read the connection anew: its client may be another, its options or consent gone."""
    await api.pull_connection()


async def note_sync(event: ActionEvent, api: Api) -> None:
    """A directory sync that failed is most often the first sign that the admin's tokens died."""
    ended = _SYNC_ENDED.get(event.detail.get("code", ""))
    if ended is not None:
        await api.sync_ended(failed=ended)


async def drop_user(event: ActionEvent, api: Api) -> None:
    """End a deleted user's grants, if the user is gone indeed."""
    if await api.drop_user():
        api.log("user_dropped", user_id=event.user_id)


async def heed_warning(event: ActionEvent, api: Api) -> None:
    """Slow down at a limit; tell the operator of a deprecation."""
    code = event.detail.get("code", "")
    if code.startswith("api_limit"):
        await api.brake()
    else:
        api.log("auth0_deprecation", record=event.id)
        await api.notify("auth0_deprecation", reason=f"{code}, log record {event.id}")


def built_in() -> list[Action]:
    """All of them, bound."""
    return [
        _bound(pull_user, Trigger.LOGIN, 10),
        _bound(pull_user, Trigger.USER_CHANGED, 10),
        _bound(drop_user, Trigger.USER_DELETED, 10),
        _bound(pull_connection, Trigger.CONNECTION_CHANGED, 10),
        _bound(pull_connection, Trigger.SYNC, 10),
        _bound(note_sync, Trigger.SYNC, 20),
        _bound(heed_warning, Trigger.TENANT_WARNED, 10),
    ]


def _bound(run: Handler, trigger: Trigger, position: int) -> Action:
    name: str = getattr(run, "__name__", "")
    return Action(
        name=name,
        trigger=trigger,
        run=run,
        position=position,
        timeout=_PULL_TIMEOUT,
        built_in=True,
    )
