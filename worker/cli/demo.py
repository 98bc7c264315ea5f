"""`evergrant demo`: the whole product at work against a rehearsal tenant, in under a minute."""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import typer

from worker.cli.demo_app import App, Reads, Subject
from worker.cli.demo_product import Numbers, Product, running
from worker.cli.demo_view import Plain, Screen, View
from worker.cli.output import EXIT_FAILED, Json, err, print_json
from worker.client import TokenClient
from worker.domain.errors import ConfigurationError
from worker.rehearsal import RunningStage, StageSettings, rehearsal, webhooks, write_config
from worker.rehearsal.config import TENANT
from worker.rehearsal.scenario import Cast, Story

DIRECTORY = Path(".evergrant-demo")
LIFETIMES = {
    "*": 8.0,  # seconds that an access token lives here; at Google it is an hour
    # What is exchanged by its access token is dead once that has ended, so a busy machine that
    # runs the demo late must not be taken for a lost grant.
    "facebook": 14.0,
}
_MARK = ".evergrant-demo"  # in a directory that we made, and may therefore wipe

_TROUBLED = "waad"  # the provider that misbehaves for a while
_TROUBLE_FOR = 6.0  # seconds


@dataclass
class Play:
    """One run: what is on stage, and what has happened so far."""

    stage: RunningStage
    product: Product
    app: App
    view: View
    seconds: float
    users: int
    cast: Cast = field(default_factory=Cast)
    began: float = field(default_factory=time.monotonic)

    def run(self) -> None:
        """Let the story play; look at everything four times a second."""
        story = Story(
            self.stage,
            seconds=self.seconds,
            users=self.users,
            trouble=_TROUBLED,
            trouble_for=_TROUBLE_FOR,
        )
        self.cast, ended = story.cast, threading.Event()
        playing = threading.Thread(target=story.play, args=(self._tell,), kwargs={"stop": ended})
        self.app.start(self._subjects)
        playing.start()
        try:
            while playing.is_alive():
                self.view.show(self.elapsed, self.seconds, rows_of(self))
                playing.join(0.25)
        finally:
            ended.set()
            self.app.stop()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def _tell(self, what: str) -> None:
        self.view.tell(self.elapsed, what)

    def _subjects(self) -> list[Subject]:
        """Whom the app works for, as of now."""
        about = self._about
        return [
            Subject(
                user_id=member.user_id,
                connection=member.connection,
                provider=(provider := about["connections"][member.connection]["provider"]),
                api=f"{about['providers'][provider]}/api/me",
                left=member in (self.cast.withdrawn, self.cast.deleted),
            )
            for member in list(self.cast.members)
        ]

    @cached_property
    def _about(self) -> dict[str, Any]:
        return self.stage.about()


def demo(
    seconds: Annotated[float, typer.Option(min=15, help="How long the play lasts.")] = 30,
    users: Annotated[int, typer.Option(min=9, help="How many log in.")] = 40,
    as_json: Json = False,
) -> None:
    """Watch Evergrant do its whole job: a rehearsal tenant, its providers, and an app that reads.

    Tokens live for seconds here. Ends with a summary, and with 0 only if no token was stale and
    no grant was lost.
    """
    directory = _directory()
    view: View = Screen() if err.is_terminal and not as_json else Plain(quiet=as_json)
    with ExitStack() as stack:
        view.tell(0, "starting the rehearsal tenant and Evergrant")
        stage = stack.enter_context(rehearsal(StageSettings(lifetimes=LIFETIMES, pace=0.2)))
        config = write_config(directory / "evergrant.toml", stage.stage)
        product = stack.enter_context(running(directory, _settings(config)))
        stage.do("send_to", **webhooks(product.url))
        tokens = stack.enter_context(TokenClient(product.url, product.api_key, tenant=TENANT))
        play = Play(stage, product, App(tokens), view, seconds, users)
        with view:
            play.run()
        told = summary(play)
    print_json(told) if as_json else view.conclude(told)
    if not told["ok"]:
        raise typer.Exit(EXIT_FAILED)


def _settings(config: Path) -> dict[str, str]:
    """All that tells a rehearsal from the real thing: an address, and shorter times."""
    return {
        "EVERGRANT_CONFIG": str(config.absolute()),
        "EVERGRANT_ALLOW_LOOPBACK": "1",
        "EVERGRANT_TICK": "0.25",
        "EVERGRANT_CONFIRM_AFTER": "5",
    }


def _directory() -> Path:
    """An empty one; what an earlier demo left goes, anything else stays."""
    mark = DIRECTORY / _MARK
    if DIRECTORY.exists() and not mark.exists() and any(DIRECTORY.iterdir()):
        raise ConfigurationError(f"{DIRECTORY}/ is not a demo's: move it away first")
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    DIRECTORY.mkdir(mode=0o700)
    mark.touch()
    return DIRECTORY.absolute()


def rows_of(play: Play) -> list[dict[str, Any]]:
    """The table: a row per provider."""
    numbers, status = play.product.numbers(), play.product.status()
    return [_row(line, numbers, play.app.reads.get(line["provider"])) for line in
            status.get("providers", [])]  # fmt: skip


def _row(line: dict[str, Any], numbers: Numbers, reads: Reads | None) -> dict[str, Any]:
    provider, seen = line["provider"], reads or Reads()
    others = {v: n for (p, v), n in numbers.renewals.items() if p == provider and v != "renewed"}
    return {
        "provider": provider,
        "grants": line["grants"],
        "valid": line["valid"],
        "renewals": numbers.renewed(provider),
        "next_due": line["next_due"],
        "other_verdicts": " ".join(f"{n}× {verdict}" for verdict, n in sorted(others.items())),
        "reads": seen.fresh,
        "stale": seen.stale,
        "need_login": line["needs_reauth"],
    }


def summary(play: Play) -> dict[str, Any]:
    """What happened, and whether it was right."""
    rows, numbers = rows_of(play), play.product.numbers()
    ledger = play.stage.ledger()["total"]
    state = _state_of_who_withdrew(play)
    told: dict[str, Any] = {
        "seconds": round(time.monotonic() - play.began, 1),
        "events": numbers.events,
        "pulls": numbers.pulls,
        "grants": sum(row["grants"] for row in rows),
        "renewals": {row["provider"]: row["renewals"] for row in rows},
        "reads": sum(reads.fresh for reads in play.app.reads.values()),
        "stale_reads": sum(reads.stale for reads in play.app.reads.values()),
        "lost_grants": sum(row["need_login"] for row in rows)
        - (state == "needs_reauth")
        + ledger["families_lost"],
        "lateness_p50_s": _rounded(numbers.late(0.5)),
        "lateness_p99_s": _rounded(numbers.late(0.99)),
        "withdrawn_user": state,
        "app": {name: asdict(reads) for name, reads in sorted(play.app.reads.items())},
        "provider_ledger": ledger,
        "log": str(play.product.log),
    }
    told["problems"] = problems_of(told)
    told["ok"] = not told["problems"]
    return told


def _state_of_who_withdrew(play: Play) -> str:
    member = play.cast.withdrawn
    if member is None:
        return "nobody"
    states = play.product.grant_states(TENANT, member.user_id)
    return states.get(member.connection, "missing")


def problems_of(told: dict[str, Any]) -> list[str]:
    """Why a run must not end with 0."""
    never = [name for name, count in told["renewals"].items() if not count]
    wrong = [
        (told["stale_reads"], f"{told['stale_reads']} stale reads"),
        (told["lost_grants"], f"{told['lost_grants']} lost grants"),
        (never, f"never renewed: {', '.join(never)}"),
        (not told["renewals"], "no grant at all"),
        (not told["reads"], "the app read nothing"),
        (
            told["withdrawn_user"] != "needs_reauth",
            f"the user who withdrew is {told['withdrawn_user']}, not needs_reauth",
        ),
    ]
    return [text for bad, text in wrong if bad]


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
