"""The roles: `up`, and each one by itself."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from worker import settings as _settings
from worker.cli.output import Json, err, out, print_json, print_marked
from worker.cli.ports import refuse_taken
from worker.domain.errors import ConfigurationError
from worker.settings import Settings

Supervised = Annotated[bool, typer.Option("--supervised", hidden=True)]


def _start(role: str, *, supervised: bool = False) -> Settings:
    """Read the settings and set up logs and metrics; before anything heavy is imported."""
    _settings.act_as(role)
    settings = _settings.load()
    _settings.share_metrics(settings.data_dir)
    from worker.monitoring import logs

    logs.configure(json=settings.log_format == "json", level=settings.log_level, role=role)
    if supervised:
        from worker.cli.supervisor import end_with_parent

        end_with_parent()
    else:
        announce(settings)
    return settings


def announce(settings: Settings) -> None:
    """Say aloud what an operator must not overlook."""
    for warning in settings.warnings:
        print_marked("warning", warning, style="yellow", to=err)
    if settings.allow_loopback:
        print_marked(
            "warning",
            "EVERGRANT_ALLOW_LOOPBACK=1: plain http and private addresses are accepted as tenants"
            " and token endpoints. Never set this in production.",
            style="bold yellow",
            to=err,
        )


def web(supervised: Supervised = False) -> None:
    """Webhooks in, access tokens out, health and metrics.

    Example: EVERGRANT_HOST=0.0.0.0 evergrant web
    """
    settings = _start("web", supervised=supervised)
    refuse_taken(settings.host, settings.port, "EVERGRANT_PORT")
    import uvicorn

    from worker.cli.asgi import build_web
    from worker.cli.http_server import OPTIONS

    uvicorn.run(build_web(settings), host=settings.host, port=settings.port, **OPTIONS)


def worker(
    queues: Annotated[
        str, typer.Option(help="Only these queues, comma separated; all by default.")
    ] = "",
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="Hints at work at once; EVERGRANT_CONCURRENCY."),
    ] = None,
    supervised: Supervised = False,
) -> None:
    """Processes events and renews tokens. Start as many as you like.

    Example: evergrant worker --queues renew.github,renew.google-oauth2
    """
    settings = _start("worker", supervised=supervised)
    # With it Celery sleeps out its soft shutdown before it says that it stops: we would go on
    # claiming for 150 s, and be killed with exchanges under way.
    os.environ.pop("REMAP_SIGTERM", None)
    from worker.queue.app import chosen_queues, worker_options
    from worker.tasks.app import app
    from worker.tasks.app import worker as made

    chosen = chosen_queues(queues, app)
    made()  # here, where what is wrong with it ends the process with a line
    options = worker_options(
        concurrency=concurrency or settings.concurrency,
        queues=chosen,
    )
    running = app.Worker(**options)
    running.start()
    sys.exit(running.exitcode)


def scheduler(supervised: Supervised = False) -> None:
    """Celery beat: each tick, a hint for every provider with due work. Two are harmless."""
    _start("scheduler", supervised=supervised)
    from worker.tasks.app import app

    app.Beat(quiet=True).run()


def flower(
    address: Annotated[
        str | None, typer.Option(help="Where to listen; EVERGRANT_FLOWER_HOST.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="EVERGRANT_FLOWER_PORT.")
    ] = None,
    supervised: Supervised = False,
) -> None:
    """Flower: tasks per provider, in a browser. Read-only; its API is off.

    Needs EVERGRANT_FLOWER_AUTH=user:password unless it listens on loopback only.
    """
    settings = _start("flower", supervised=supervised)
    told = {"flower_host": address, "flower_port": port}
    settings = settings.model_copy(update={k: v for k, v in told.items() if v is not None})
    arguments = flower_arguments(settings)
    _refuse_taken(settings.flower_host, settings.flower_port)
    from worker.tasks.app import app

    logging.getLogger("flower.command").addFilter(_worth_reading)
    app.start(arguments)


def _refuse_taken(host: str, port: int) -> None:
    """Flower's own way of saying it is a traceback. Raises: ConfigurationError."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ConfigurationError(
            f"Flower cannot listen on {host}:{port}: {error.strerror}; choose another with"
            " --address and --port, or EVERGRANT_FLOWER_HOST and EVERGRANT_FLOWER_PORT",
            code="port_taken",
        ) from None


def _worth_reading(record: logging.LogRecord) -> bool:
    """Flower begins by naming all tasks, one for each provider: more than a screen."""
    return not record.getMessage().startswith("Registered tasks")


def flower_arguments(settings: Settings) -> list[str]:
    """Flower's command line. Raises: ConfigurationError when it would be open to the network."""
    loopback = settings.flower_host in ("127.0.0.1", "localhost", "::1")
    if not loopback and not settings.flower_auth:
        raise ConfigurationError(
            f"Flower would listen on {settings.flower_host} without a password: set"
            " EVERGRANT_FLOWER_AUTH=user:password, or EVERGRANT_FLOWER_HOST=127.0.0.1"
        )
    if settings.flower_auth:  # by environment: arguments show in the process list
        os.environ["FLOWER_BASIC_AUTH"] = settings.flower_auth.text()
    os.environ.pop("FLOWER_UNAUTHENTICATED_API", None)
    return [
        "flower",
        f"--address={settings.flower_host}",
        f"--port={settings.flower_port}",
        "--read_only=True",
        "--max_tasks=5000",
        "--inspect_timeout=5000",
        "--purge_offline_workers=600",
    ]


def up(
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
    with_flower: Annotated[bool, typer.Option("--flower/--no-flower")] = False,
) -> None:
    """Everything on this machine: web, workers, scheduler. ^C ends it cleanly.

    Embedded (SQLite, a queue of files) unless EVERGRANT_DATABASE_URL and EVERGRANT_BROKER_URL
    say otherwise.
    """
    settings = _settings.load()
    announce(settings)
    refuse_taken(settings.host, settings.port, "EVERGRANT_PORT")
    if with_flower:
        refuse_taken(settings.flower_host, settings.flower_port, "EVERGRANT_FLOWER_PORT")
    prepare(settings)
    from worker.cli.supervisor import Child, Supervisor

    _forget_old_metrics(settings.data_dir)
    roles = ["web", *(["worker"] * workers), "scheduler", *(["flower"] if with_flower else [])]
    children = [
        Child(_named(roles, at), _command(role), _environment()) for at, role in enumerate(roles)
    ]
    supervisor = Supervisor(children)
    once_ready = lambda: _greet(settings, with_flower=with_flower)  # noqa: E731
    raise typer.Exit(supervisor.run(once_started=once_ready))


def prepare(settings: Settings) -> None:
    """What a first start needs: data directory, keyring, and an embedded database's schema."""
    _settings.private_place(settings.data_dir)
    from worker.bootstrap.first_start import first_start

    for line in first_start(settings):
        out.print(line, markup=False)


def _named(roles: list[str], at: int) -> str:
    same = roles.count(roles[at])
    return roles[at] if same == 1 else f"{roles[at]}{roles[:at].count(roles[at]) + 1}"


def _command(role: str) -> list[str]:
    return [sys.executable, "-m", "worker.cli", role, "--supervised"]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


def _forget_old_metrics(data_dir: Path) -> None:
    """Counters begin at 0 with the process tree, as Prometheus expects of a restart."""
    for file in (data_dir / "metrics").glob("*.db"):
        file.unlink(missing_ok=True)


def _greet(settings: Settings, *, with_flower: bool) -> None:
    """Wait until the web process is ready, then say where things are."""
    import httpx

    until = time.monotonic() + 60
    with httpx.Client(trust_env=False, timeout=2) as http:
        while time.monotonic() < until:
            try:
                if http.get(f"{settings.base_url}/readyz").status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            threading.Event().wait(0.2)
    lines = [f"Evergrant is up at {settings.base_url}"]
    for name in settings.tenants:
        hooks = f"{settings.base_url}/hooks/auth0/{name}"
        lines += [f"  tenant {name}: {hooks}/logs  {hooks}/events  {hooks}/actions"]
    if not settings.tenants:
        lines += ["  no tenant yet: set AUTH0_DOMAIN and friends, or run `evergrant init`"]
    if with_flower:
        lines += [f"  Flower: http://{settings.flower_host}:{settings.flower_port}"]
    lines += ["  look around: evergrant status · evergrant doctor · ^C to stop"]
    for line in lines:
        sys.stdout.write(line + "\n")
    sys.stdout.flush()


def migrate(
    web_role: Annotated[
        str | None, typer.Option(help="PostgreSQL role of the web process: gets what that needs.")
    ] = None,
    scheduler_role: Annotated[str | None, typer.Option(help="The same for the scheduler.")] = None,
    as_json: Json = False,
) -> None:
    """Bring the database's schema up to date. Safe to run twice, and from two places at once.

    Example: evergrant migrate --web-role evergrant_web --scheduler-role evergrant_scheduler
    """
    settings = _settings.load()
    from worker.store import migrate as migrations
    from worker.store import privileges
    from worker.store.engine import open_engine

    engine = open_engine(settings.database_url)
    before = migrations.revision_of(engine)
    migrations.upgrade(engine)
    for role, rights in ((web_role, privileges.WEB), (scheduler_role, privileges.SCHEDULER)):
        if role:
            privileges.restrict(engine, role, rights)
    after = migrations.revision_of(engine)
    if as_json:
        print_json({"schema": after, "before": before})
        return
    out.print(f"schema {after}" + ("" if before == after else f" (was {before or 'empty'})"))
