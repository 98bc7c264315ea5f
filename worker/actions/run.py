"""Running an event's actions in order, and remembering of each how it went."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from worker.actions.apart import Apart
from worker.actions.api import ActionEvent, Api, PostponedError, Pulls
from worker.actions.binding import Action
from worker.actions.collaborators import Collaborators, Settings
from worker.actions.turns import Turns
from worker.domain.errors import ConfigurationError, PermanentError, TransientError, WorkerError
from worker.domain.event import Event
from worker.monitoring.logs import logger
from worker.monitoring.metrics import ACTIONS

_log = logger(__name__)

DONE = "done"
_TRIES = 5  # of an operator's action, for each event
_OPERATOR = timedelta(minutes=2)
_MEMORY = 16_384  # characters of JSON


@dataclass(slots=True)
class Run:
    """What one pass came to; meets `worker.events.ports.Run`."""

    progress: dict[str, Any]
    failed: str | None = None
    again: str | None = None
    retry_after: timedelta | None = None
    postponed: bool = True  # as long as nothing failed

    def wait(self, why: str, after: timedelta | None) -> None:
        self.again = self.again or why
        if after is not None:
            self.retry_after = max(self.retry_after or after, after)


class Registry:
    """All bound actions; begins batches."""

    def __init__(
        self,
        actions: Sequence[Action],
        *,
        collaborators: Collaborators,
        settings: Settings | None = None,
        failed: Callable[[Action, Exception], object] = lambda action, error: None,
    ) -> None:
        """`failed` is told of each failure, besides the log.

        Raises: ConfigurationError when two actions of one trigger bear one name.
        """
        self.actions = tuple(sorted(actions, key=lambda a: (a.trigger, a.position, a.name)))
        doubled = [k for k, n in Counter((a.trigger, a.name) for a in actions).items() if n > 1]
        if doubled:
            trigger, name = doubled[0]
            raise ConfigurationError(f"actions: two of {trigger} are named {name}; give a `name`")
        self._with = collaborators
        self._settings = settings or Settings()
        self._apart = Apart()
        self._turns = Turns()
        self.failed = failed

    def bound(self, event: Event) -> list[Action]:
        """The actions an event runs, in order."""
        return [a for a in self.actions if a.trigger is event.trigger and a.concerns(event.tenant)]

    def batch(self, events: Iterable[Event] = ()) -> Batch:
        """For these events about one subject, all claimed already."""
        pulls = Pulls(self._with, self._settings.between_pulls, events)
        return Batch(self, pulls, self._with, self._settings, self._apart, self._turns)


@dataclass(frozen=True, slots=True)
class Batch:
    """See `worker.events.ports.Batch`."""

    _registry: Registry
    _pulls: Pulls
    _with: Collaborators
    _settings: Settings
    _apart: Apart
    _turns: Turns

    async def run(self, event: Event, progress: Mapping[str, Any]) -> Run:
        """Run what has not run yet, in order.

        A built-in action that fails holds back those behind it, which may build on it; an
        operator's never does. Nothing that an action raises comes out.
        """
        run = Run(dict(progress))
        for action in self._registry.bound(event):
            state = run.progress.get(action.name)
            if state == DONE:
                continue
            if isinstance(state, dict) and state.get("gave_up"):
                run.failed = run.failed or f"{action.name}: {state.get('error', '')}"
                if action.built_in:
                    break
                continue
            went_well = await self._one(action, event, run)
            if action.built_in and not went_well:
                break
        return run

    async def _one(self, action: Action, event: Event, run: Run) -> bool:
        state = dict(run.progress.get(action.name) or {})
        memory = dict(state.get("memory") or {})
        api = Api(
            event,
            action=action.name,
            memory=memory,
            pulls=self._pulls,
            collaborators=self._with,
            settings=self._settings,
        )
        outcome = DONE
        try:
            await self._call(action, event, api)
            run.progress[action.name] = DONE
        except PostponedError as error:
            outcome = "postponed"
            run.progress[action.name] = {**state, "memory": _kept(memory)}
            run.wait(error.why, error.after)
        except Exception as error:  # an action may raise anything; the others go on
            outcome = "failed"
            self._failed(action, error, {**state, "memory": _kept(memory)}, run)
        ACTIONS.labels(event.tenant, action.name, outcome).inc()
        return outcome == DONE

    async def _call(self, action: Action, event: Event, api: Api) -> None:
        shown = _shown(event, action)
        if action.built_in:
            async with asyncio.timeout(action.timeout):
                await action.run(shown, api)
            return
        async with self._turns.taken(event.tenant, action.name), asyncio.timeout(action.timeout):
            await self._apart.run(action.run, shown, api)

    def _failed(self, action: Action, error: Exception, state: dict[str, Any], run: Run) -> None:
        self._registry.failed(action, error)
        why, tries = _told(error), int(state.get("tries", 0)) + 1
        lasting = _lasting(action, error, tries)
        run.progress[action.name] = {**state, "error": why, "tries": tries, "gave_up": lasting}
        told = _log.warning if lasting or _retry_after(error) is None else _log.info
        told("action failed", action=action.name, why=why, tries=tries, gave_up=lasting)
        if lasting:
            run.failed = run.failed or f"{action.name}: {why}"
        else:
            run.postponed = False
            run.wait(f"{action.name}: {why}", _retry_after(error))


def _kept(memory: Mapping[str, Any]) -> dict[str, Any]:
    """What a handler wants to remember; nothing of it, if it is too much or no JSON."""
    try:
        told = json.dumps(dict(memory))
        kept: dict[str, Any] = json.loads(told) if len(told) <= _MEMORY else {}
    except (TypeError, ValueError, RuntimeError, RecursionError):
        kept = {}
    if memory and not kept:
        _log.warning("action memory dropped", why="not JSON, or above 16 KiB")
    return kept


def _lasting(action: Action, error: Exception, tries: int) -> bool:
    if not action.built_in:
        return tries >= _TRIES
    return isinstance(error, PermanentError) and not isinstance(error, ConfigurationError)


def _retry_after(error: Exception) -> timedelta | None:
    if isinstance(error, ConfigurationError):  # heals by itself once the operator has mended it
        return _OPERATOR
    return error.retry_after if isinstance(error, TransientError) else None


def _told(error: Exception) -> str:
    """Ours carry ids and codes only; a stranger's message may hold anything, so not a word."""
    if isinstance(error, WorkerError):
        return f"{error.code}: {error}"
    return "timeout" if isinstance(error, TimeoutError) else type(error).__name__


def _shown(event: Event, action: Action) -> ActionEvent:
    return ActionEvent(
        trigger=event.trigger.value,
        tenant=event.tenant,
        id=event.delivery_id,
        source=event.source.value,
        occurred_at=event.occurred_at,
        user_id=event.user_id,
        connection=event.connection,
        connection_id=event.connection_id,
        strategy=event.strategy,
        identity_user_id=event.identity_user_id,
        detail=dict(event.detail),
        secrets=action.secrets,
    )
