"""`evergrant actions …`: what is bound, and trying one's own before they run for good."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from worker.actions import Action
from worker.bootstrap.acting import bound_actions, dry_run
from worker.bootstrap.base import Base
from worker.cli import context
from worker.cli.output import EXIT_FAILED, Json, err, out, print_json, print_table
from worker.domain.errors import ConfigurationError
from worker.domain.event import Event, Source, Trigger

actions = typer.Typer(help="Actions: what runs when something happens.", no_args_is_help=True)

_KEYS = {one.name for one in fields(Event)} - {"source"}


@actions.command("list")
def list_(as_json: Json = False) -> None:
    """What is bound to which trigger, in the order it runs."""
    with context.opened() as base:
        bound = sorted(bound_actions(base.settings), key=_order)
    rows: list[dict[str, Any]] = [
        {
            "trigger": action.trigger.value,
            "position": action.position,
            "action": action.name,
            "built_in": action.built_in,
            "timeout": action.timeout,
            "tenants": sorted(action.tenants),
        }
        for action in bound
    ]
    if as_json:
        print_json(rows)
        return
    shown = [{**row, "tenants": ", ".join(row["tenants"]) or "all"} for row in rows]
    columns = ["trigger", "position", "action", "built_in", "timeout", "tenants"]
    print_table(shown, columns, empty="nothing is bound")


@actions.command("test")
def try_(
    file: Annotated[Path, typer.Argument(help="An event as JSON, or - for standard input.")],
    name: Annotated[str | None, typer.Option(help="Only this action.")] = None,
    trace: Annotated[
        bool, typer.Option(help="Print where your code raised; may show what it holds.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run your own actions on an event, once, here. What they ask of Evergrant is noted, not done.

    Ends with 1 if one of them fails. Built-in ones are not run.

    Example event: {"tenant": "acme", "trigger": "grant_needs_login", "user_id": "auth0|1"}
    """
    told = _event(file)

    async def run(base: Base) -> dict[str, Any]:
        event = Event(**{**told, "tenant": context.tenant_of(base, told.get("tenant"))})
        _some_bound(bound_actions(base.settings), event, name)
        return await dry_run(base, event, only=name, raised=err.print if trace else None)

    done = context.run(run)
    rows = [_row(action, done["progress"].get(action)) for action in done["ran"]]
    if as_json:
        print_json({**done, "results": rows})
    else:
        print_table(rows, ["action", "outcome", "why"], empty="")
        for asked in done["asked"]:
            out.print(f"asked: {asked}", markup=False)
    if any(row["outcome"] == "failed" for row in rows):
        raise typer.Exit(EXIT_FAILED)


def _order(action: Action) -> tuple[int, int, str]:
    return list(Trigger).index(action.trigger), action.position, action.name


def _row(action: str, progress: Any) -> dict[str, Any]:
    if progress == "done":
        return {"action": action, "outcome": "done", "why": None}
    told = progress if isinstance(progress, Mapping) else {}
    outcome = "failed" if "error" in told else "to be run again"
    return {"action": action, "outcome": outcome, "why": told.get("error")}


def _some_bound(bound: Iterable[Action], event: Event, name: str | None) -> None:
    """Raises: ConfigurationError, nothing would run."""
    mine = [action for action in bound if not action.built_in]
    fit = [a for a in mine if a.trigger is event.trigger and a.concerns(event.tenant)]
    if any(name in (None, action.name) for action in fit):
        return
    there = ", ".join(f"{action.name} ({action.trigger})" for action in mine)
    which = f"action {name!r}" if name else "action of yours"
    raise ConfigurationError(
        f"no {which} is bound to {event.trigger} of {event.tenant}; bound are: {there or 'none'}"
    )


def _event(file: Path) -> dict[str, Any]:
    """Raises: ConfigurationError, with what to write instead."""
    where = "standard input" if str(file) == "-" else str(file)
    try:
        text = (
            typer.get_text_stream("stdin").read()
            if str(file) == "-"
            else file.read_text(encoding="utf-8")
        )
        told = json.loads(text)
    except OSError as error:
        raise ConfigurationError(f"{where}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{where}: not JSON: {error}") from error
    if not isinstance(told, dict):
        raise ConfigurationError(f"{where}: one event, as a JSON object")
    return _checked(where, told)


def _checked(where: str, told: dict[str, Any]) -> dict[str, Any]:
    if unknown := sorted(told.keys() - _KEYS):
        close = difflib.get_close_matches(unknown[0], _KEYS, n=1)
        there = f"there are {', '.join(sorted(_KEYS))}"
        meant = f"did you mean {close[0]}?" if close else there
        raise ConfigurationError(f"{where}: an event has no {unknown[0]!r}; {meant}")
    if told.get("trigger") not in list(Trigger):
        raise ConfigurationError(f"{where}: trigger is one of {', '.join(Trigger)}")
    for key, value in told.items():
        kind = dict if key == "detail" else str
        if not isinstance(value, kind | None):
            raise ConfigurationError(f"{where}: {key} is {kind.__name__}, not {value!r}")
    try:
        at = told.get("occurred_at")
        moment = None if at is None else datetime.fromisoformat(at)
    except ValueError:
        raise ConfigurationError(f"{where}: occurred_at is as 2026-11-20T14:02:11Z") from None
    trigger = Trigger(told["trigger"])
    return {"delivery_id": "test", **told, "trigger": trigger, "source": Source.CLI,
            "occurred_at": moment}  # fmt: skip
