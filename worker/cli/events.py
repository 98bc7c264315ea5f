"""`evergrant events …`: what could not be worked off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from sqlalchemy import Engine

from worker.bootstrap.base import intake_of
from worker.cli import context
from worker.cli.output import (
    EXIT_NOT_FOUND,
    HIGHEST_ID,
    Json,
    counted,
    out,
    print_json,
    print_table,
)
from worker.domain.errors import NotFoundError
from worker.events import reread
from worker.monitoring.logs import redact
from worker.store.dead_messages import DeadMessageRepository
from worker.store.stuck_events import StuckEventRepository

events = typer.Typer(
    help="Events: what failed, a look at it, and trying it again.", no_args_is_help=True
)


@events.command("failed")
def failed(
    limit: Annotated[int, typer.Option(min=1, max=100_000)] = 100,
    as_json: Json = False,
) -> None:
    """Events that gave up, are being retried, or could not be read; and dead queue messages."""
    with context.opened() as base:
        stuck = StuckEventRepository(base.engine).newest(limit=limit)
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


@events.command("show")
def show(
    id_: Annotated[
        int, typer.Argument(metavar="ID", max=HIGHEST_ID, help="As `events failed` lists it.")
    ],
    dead: Annotated[bool, typer.Option("--dead", help="Of a dead queue message.")] = False,
    as_json: Json = False,
) -> None:
    """One event: how far its actions came, or what came that could not be read.

    What looks like a token is blanked. Example: evergrant events show 52
    """
    with context.opened() as base:
        told = _dead(base.engine, id_) if dead else _event(base.engine, id_)
    if told is None:
        raise NotFoundError(f"no {'dead message' if dead else 'event'} {id_}")
    if as_json:
        print_json(told)
        return
    for name, value in told.items():
        if value not in (None, "", {}):
            out.print(f"{name:10} {value}", markup=False)


@events.command("discard")
def discard(
    ids: Annotated[
        list[int], typer.Argument(max=HIGHEST_ID, help="Events that failed or could not be read.")
    ],
    dead: Annotated[bool, typer.Option("--dead", help="Dead queue messages instead.")] = False,
    as_json: Json = False,
) -> None:
    """Drop what was looked at and is nonsense; it is not tried again. Example: evergrant events
    discard 51 52
    """
    with context.opened() as base:
        if dead:
            gone = DeadMessageRepository(base.engine).drop(ids)
        else:
            stuck = StuckEventRepository(base.engine)
            gone = sum(stuck.discard(id_) for id_ in ids)
        if not gone:
            raise _none_of(ids, dead=dead)
    if as_json:
        print_json({"discarded": gone})
    else:
        out.print(f"{gone} of {len(ids)} discarded")
    if gone < len(set(ids)):
        raise typer.Exit(EXIT_NOT_FOUND)


def _none_of(ids: Sequence[int], *, dead: bool = False) -> NotFoundError:
    named = ", ".join(map(str, ids))
    what = "dead message" if dead else "event that failed or could not be read"
    return NotFoundError(f"no {what} is numbered {named}; `evergrant events failed` lists them")


def _event(engine: Engine, id_: int) -> dict[str, Any] | None:
    found = StuckEventRepository(engine).look(id_)
    if found is None:
        return None
    return {
        "id": found.id,
        "tenant": found.tenant,
        "source": found.source,
        "trigger": found.trigger,
        "state": found.state,
        "attempts": found.attempts,
        "error": found.error,
        "received": found.received_at,
        "event": {name: value for name, value in found.event.items() if value},
        "progress": dict(found.progress),
        "raw": _shown(found.raw),
    }


def _dead(engine: Engine, id_: int) -> dict[str, Any] | None:
    found = DeadMessageRepository(engine).look(id_)
    if found is None:
        return None
    told = {"id": found.id, "queue": found.queue, "why": found.why, "received": found.received_at}
    return {**told, "raw": _shown(found.body)}


def _shown(raw: bytes | None) -> str | None:
    """For a terminal: what is no plain character is told by its code, tokens are blanked."""
    if raw is None:
        return None
    text = raw.decode("utf-8", "backslashreplace")
    plain = (c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)
    return redact("".join(plain))


@events.command("replay")
def replay(
    ids: Annotated[
        list[int] | None,
        typer.Argument(max=HIGHEST_ID, help="Events; all failed and unreadable by default."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Try failed events again, each from the action that failed, and read unreadable ones again:
    a newer version may understand them.
    """
    with context.opened() as base:
        stuck = StuckEventRepository(base.engine)
        count = stuck.replay(ids or None, now=base.clock.now())
        mended, left = reread(intake_of(base), stuck, ids or None)
        if ids and not (count or mended or left):
            raise _none_of(ids)
        if count or mended:
            base.hints.events()
    if as_json:
        print_json({"replayed": count, "read_after_all": mended, "unreadable": left})
        return
    out.print(f"tried again: {counted(count, 'event')}")
    if mended or left:
        out.print(f"{mended} unreadable ones were understood after all, {left} were not")
