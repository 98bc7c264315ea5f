"""`evergrant rehearsal`: the stand-in tenant alone, for one's own tests."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated

import typer

from worker.cli.output import Json, out, print_json
from worker.domain.errors import ConfigurationError
from worker.rehearsal import (
    PLANS,
    NoPlaceError,
    Stage,
    StageClient,
    StageSettings,
    serve,
    webhooks,
    write_config,
)


def rehearsal(
    *,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of the tenant; the providers follow.")
    ] = 8400,
    host: Annotated[str, typer.Option(help="Listens on loopback unless told otherwise.")] = (
        "127.0.0.1"
    ),
    lifetime: Annotated[
        float | None,
        typer.Option(
            min=1, max=86_400 * 3650, help="Seconds that access tokens live, of all providers."
        ),
    ] = None,
    plan: Annotated[str, typer.Option(help="Rate limits of this Auth0 plan.")] = "unlimited",
    config: Annotated[Path, typer.Option(help="Where to write an evergrant.toml for it.")] = Path(
        "evergrant.rehearsal.toml"
    ),
    send_to: Annotated[
        str | None, typer.Option(help="Base URL of an Evergrant to post events to.")
    ] = None,
    seed: Annotated[str, typer.Option(help="The same seed plays the same tokens.")] = "rehearsal",
    as_json: Json = False,
) -> None:
    """A loopback Auth0 tenant with its providers, fault switches and a ledger. ^C ends it.

    Example: evergrant rehearsal --lifetime 30 --send-to http://127.0.0.1:8377
    """
    if plan not in PLANS:
        raise ConfigurationError(f"--plan {plan!r} is not one of {', '.join(PLANS)}")
    settings = StageSettings(lifetimes={"*": lifetime} if lifetime else {}, plan=plan, seed=seed)

    def ready(stage: Stage) -> None:
        try:
            write_config(config, stage)
        except OSError as error:
            raise ConfigurationError(f"--config {config}: {error.strerror}") from None
        if send_to:
            threading.Thread(
                target=_start_sending, args=(stage.base_url, send_to), daemon=True
            ).start()
        facts = {
            "tenant": stage.base_url,
            "control": f"{stage.base_url}/control",
            "ledger": f"{stage.base_url}/ledger",
            "config": str(config),
        }
        if as_json:
            print_json(facts)
            return
        for name, value in facts.items():
            out.print(f"{name:<8} {value}", markup=False)
        out.print(
            f"run the product on it: EVERGRANT_CONFIG={config} EVERGRANT_ALLOW_LOOPBACK=1"
            " evergrant up",
            markup=False,
        )

    try:
        serve(settings, host=host, port=port, ready=ready)
    except NoPlaceError as error:
        raise ConfigurationError(f"{error}; choose others with --host and --port") from None


def _start_sending(stage_url: str, evergrant_url: str) -> None:
    """From a thread: the stage listens already, and answers as soon as it plays."""
    stage = StageClient(stage_url)
    stage.do("send_to", **webhooks(evergrant_url))
    stage.close()
