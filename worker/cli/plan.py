"""`evergrant plan`: what an outage would leave behind, and how it would drain. Asks nobody."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, Any

import typer

from worker.bootstrap.base import Base
from worker.cli import context
from worker.cli.output import Json, counted, out, print_facts, print_json, span
from worker.domain.backlog import STEP, Load, drain, even, sparkline
from worker.domain.errors import ConfigurationError
from worker.domain.schedule import UNTOLD_LIFE, margin_of
from worker.providers.vocabulary import duration
from worker.store.dues import dues_of

_LENGTH = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")
_LONGEST = timedelta(days=90)  # it is played in steps of seconds
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def plan(
    *,
    outage: Annotated[
        str, typer.Option(help="Which provider fails, for how long: google-oauth2=2h.")
    ],
    add: Annotated[
        int,
        typer.Option(
            min=0,
            max=1_000_000_000,
            help="Grants besides those there are, issued evenly over time.",
        ),
    ] = 0,
    workers: Annotated[int, typer.Option(min=1, max=10_000, help="Worker processes.")] = 1,
    latency: Annotated[
        float, typer.Option(min=0.001, max=3600, help="Seconds the provider takes for an answer.")
    ] = 0.2,
    as_json: Json = False,
) -> None:
    """Play an outage in virtual time: the load afterwards, and when everything is fresh again.

    Example: evergrant plan --outage google-oauth2=2h --add 100000
    """
    provider, length = _outage(outage)
    with context.opened() as base:
        told = _played(base, provider, length, add=add, workers=workers, latency=latency)
    curve = told.pop("curve")
    if as_json:
        print_json({**told, "step_seconds": int(STEP), "curve": curve})
        return
    print_facts(_in_words(told, workers, latency))
    past = span(len(curve) * STEP - told["outage_seconds"])
    until = f"from the outage's beginning to {past} after its end"
    out.print(f"\nrenewals per second, {until}:\n{sparkline(curve)}")


def _played(
    base: Base, provider: str, length: timedelta, *, add: int, workers: int, latency: float
) -> dict[str, Any]:
    if provider not in base.catalogue.names():
        raise ConfigurationError(
            f"no provider {provider!r} in the catalogue; `evergrant providers list` names them"
        )
    entry = base.catalogue[provider]
    limits = entry.limits
    cap = workers * min(limits.per_second, limits.concurrency / latency)
    declared, margin = duration(entry.lifetimes.access), duration(entry.timing.margin)
    loads = list(_loads(base, provider, declared or UNTOLD_LIFE, margin))
    if add:
        life = declared or UNTOLD_LIFE
        kept = margin_of(life, margin).total_seconds()
        loads.append(even(add, life=life.total_seconds(), margin=kept))
    found = drain(loads, outage=length, per_second=cap)
    return {
        "provider": provider,
        "outage_seconds": length.total_seconds(),
        "grants": sum(load.grants for load in loads),
        "renewals_per_second": round(sum(load.steady for load in loads), 2),
        "most_per_second": cap,
        **{name: _rounded(value) for name, value in asdict(found).items()},
    }


def _in_words(told: dict[str, Any], workers: int, latency: float) -> dict[str, str]:
    end, of = told["outage_seconds"], f"{counted(workers, 'worker')}, answers in {latency:g} s"
    return {
        "provider": f"{told['provider']}, away for {span(end)}",
        "grants": f"{told['grants']:,}",
        "without the outage": f"{told['renewals_per_second']:,.1f} renewals per second",
        "at most": f"{told['most_per_second']:,.0f} per second: {of}",
        "waiting at its end": f"{told['backlog']:,}",
        "expired at the worst": f"{told['expired']:,}",
        "nothing expired": _after(told["fresh_at"], end),
        "nothing overdue": _after(told["drained_at"], end),
        "load until then": f"peak {told['peak_to_mean']:.2f} times the mean",
    }


def _after(at: float | None, end: float) -> str:
    if at is None:
        return "never: more falls due than may be renewed; more workers, or a higher limit"
    if at == 0:
        return "at any time"
    return f"{span(at - end)} after it" if at > end else "from its end on"


def _loads(
    base: Base, provider: str, otherwise: timedelta, margin: timedelta | None
) -> Iterator[Load]:
    """The store's own grants, by the life of their access tokens."""
    by_life: dict[float, list[tuple[float, int]]] = defaultdict(list)
    for (due, life), count in dues_of(base.engine, provider, base.clock.now()).items():
        by_life[life or otherwise.total_seconds()].append((due, count))
    for life, dues in by_life.items():
        kept = margin_of(timedelta(seconds=life), margin).total_seconds()
        yield Load(dues=dues, life=life, margin=kept)


def _outage(text: str) -> tuple[str, timedelta]:
    provider, _, length = text.partition("=")
    found = _LENGTH.fullmatch(length)
    if not provider or found is None:
        raise ConfigurationError(
            f"--outage {text}: say PROVIDER=LENGTH, for instance acme=90m (s, m, h or d)"
        )
    try:
        lasting = timedelta(**{_UNITS[found[2]]: float(found[1])})
    except OverflowError:
        lasting = timedelta.max
    if lasting > _LONGEST:
        raise ConfigurationError(f"--outage {text}: {_LONGEST.days} days at most")
    return provider, lasting


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 2)
    return [round(one, 2) for one in value] if isinstance(value, tuple | list) else value
