"""Which handler runs on which trigger, where in the order, and for how long."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from worker.actions.api import ActionEvent, Api
from worker.domain.errors import ConfigurationError
from worker.domain.event import Trigger
from worker.domain.secret import Secret

Handler = Callable[[ActionEvent, Api], Awaitable[Any] | Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """A handler, bound."""

    name: str  # unique among the actions of a trigger; the key of its progress
    trigger: Trigger
    run: Handler
    position: int = 100  # the built-in ones stand at 0 to 50
    timeout: float = 20  # seconds
    built_in: bool = False
    tenants: frozenset[str] = frozenset()  # none: all
    secrets: Mapping[str, Secret] = field(default_factory=dict, repr=False)

    def concerns(self, tenant: str) -> bool:
        return not self.tenants or tenant in self.tenants


def bind(
    run: str,
    *,
    trigger: str,
    name: str | None = None,
    position: int = 100,
    timeout: float = 20,
    tenants: Sequence[str] = (),
    secrets: Mapping[str, Secret] | None = None,
) -> Action:
    """One `[[actions]]` table, its handler imported.

    Args: run: "package.module:function" or "package.module.function".
    Raises: ConfigurationError naming what is wrong with it.
    """
    if trigger not in list(Trigger):
        known = ", ".join(Trigger)
        raise ConfigurationError(f"actions: {run}: no trigger {trigger!r}; there are {known}")
    return Action(
        name=name or run,
        trigger=Trigger(trigger),
        run=_imported(run),
        position=position,
        timeout=timeout,
        tenants=frozenset(tenants),
        secrets=dict(secrets or {}),
    )


def _imported(path: str) -> Handler:
    module, _, function = path.replace(":", ".").rpartition(".")
    try:
        handler = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"actions: {path} cannot be imported: {error}") from error
    if not callable(handler):
        raise ConfigurationError(f"actions: {path} is no function")
    return handler  # type: ignore[no-any-return]  # its signature shows when it runs
