"""`evergrant events …`: what could not be worked off."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from worker.bootstrap.base import intake_of
from worker.cli import context
from worker.cli.output import Json, out, print_json, print_table
from worker.events import reread
from worker.store.dead_messages import DeadMessageRepository
from worker.store.inbox import InboxRepository

events = typer.Typer(help="Events: what failed, and trying it again.", no_args_is_help=True)


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
