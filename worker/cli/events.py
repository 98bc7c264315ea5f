"""`evergrant events …`: what could not be worked off. `evergrant actions …`: what is bound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from worker.bootstrap.acting import bound_actions
from worker.bootstrap.base import intake_of
from worker.cli import context
from worker.cli.output import Json, out, print_facts, print_json, print_table
from worker.domain.errors import ConfigurationError
from worker.domain.event import Event, Source, Trigger
from worker.events import reread
from worker.store.dead_messages import DeadMessageRepository
from worker.store.inbox import InboxRepository

events = typer.Typer(help="Events: what failed, and trying it again.", no_args_is_help=True)
actions = typer.Typer(help="Actions: what runs when something happens.", no_args_is_help=True)


@events.command("failed")
def failed(
    limit: Annotated[int, typer.Option(min=1)] = 100,
    as_json: Json = False,
) -> None:
    """Events that gave up, are being retried, or could not be read; and dead queue messages."""
    with context.opened() as base:
        stuck = InboxRepository(base.engine).stuck(limit=limit)
        dead = DeadMessageRepository(base.engine).newest(limit)
    rows: list[dict[str, Any]] = [
        {
            "id": one.id,
            "tenant": one.tenant,
            "source": one.source,
            "trigger": one.trigger,
            "state": "retrying" if one.state == "new" else one.state,
            "attempts": one.attempts,
            "error": one.error,
            "received": one.received_at,
        }
        for one in stuck
    ]
    lost = [{"id": d.id, "queue": d.queue, "why": d.why, "received": d.received_at} for d in dead]
    if as_json:
        print_json({"events": rows, "dead_messages": lost})
        return
    columns = ["id", "tenant", "source", "trigger", "state", "attempts", "error", "received"]
    print_table(rows, columns, empty="no event failed")
    if lost:
        print_table(lost, ["id", "queue", "why", "received"], empty="", title="\ndead messages")


@events.command("replay")
def replay(
    ids: Annotated[
        list[int] | None, typer.Argument(help="Events; all failed and unreadable by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Try failed events again, each from the action that failed, and read unreadable ones again:
    a newer version may understand them.
    """
    with context.opened() as base:
        inbox = InboxRepository(base.engine)
        count = inbox.replay(ids or None, now=base.clock.now())
        mended, left = reread(intake_of(base), inbox, ids or None)
        if count or mended:
            base.hints.events()
    if as_json:
        print_json({"replayed": count, "read_after_all": mended, "unreadable": left})
        return
    out.print(f"{count} events are tried again")
    if mended or left:
        out.print(f"{mended} unreadable ones were understood after all, {left} were not")


@actions.command("list")
def list_(as_json: Json = False) -> None:
    """What is bound to which trigger, in the order it runs."""
    with context.opened() as base:
        rows = [
            {
                "trigger": action.trigger.value,
                "position": action.position,
                "action": action.name,
                "built_in": action.built_in,
                "timeout": action.timeout,
            }
            for action in bound_actions(base.settings)
        ]
    if as_json:
        print_json(rows)
        return
    columns = ["trigger", "position", "action", "built_in", "timeout"]
    print_table(rows, columns, empty="nothing is bound")


@actions.command("test")
def try_(
    file: Annotated[Path, typer.Argument(help="An event as JSON, or - for standard input.")],
    name: Annotated[str | None, typer.Option(help="Only this action.")] = None,
    as_json: Json = False,
) -> None:
    """Run the operator's actions on an event, once, here. Built-in ones are not run.

    Example event: {"tenant": "acme", "trigger": "grant_needs_login", "user_id": "auth0|1"}
    """
    event = _event(file)

    async def run(base: Any) -> dict[str, Any]:
        from worker.bootstrap.acting import dry_run

        return await dry_run(base, event, only=name)

    told = context.run(run)
    print_json(told) if as_json else print_facts(told)


def _event(file: Path) -> Event:
    try:
        told = json.loads(
            typer.get_text_stream("stdin").read()
            if str(file) == "-"
            else file.read_text(encoding="utf-8")
        )
        return Event(
            **{
                "delivery_id": "test",
                **told,
                "source": Source.CLI,
                "trigger": Trigger(told["trigger"]),
            }
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{file}: no event: {error}") from error
