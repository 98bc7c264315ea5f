"""`evergrant keys …`: the keyring. `evergrant api-keys …`: what apps may read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Annotated, Any

import typer
from rich.progress import Progress as Bar
from rich.progress import TaskID

from worker import settings as _settings
from worker.bootstrap.base import PURPOSES, Role
from worker.bootstrap.keyrings import Ring, ring_of, rings_of
from worker.cli import context
from worker.cli.output import (
    EXIT_FAILED,
    LONGEST_DAYS,
    Json,
    counted,
    err,
    print_facts,
    print_json,
    print_secret,
    print_table,
)
from worker.domain.access import Scope, parse_scope
from worker.domain.errors import ConfigurationError, NotFoundError, PermanentError, WorkerError
from worker.settings import Settings
from worker.store.api_keys import ApiKeyRepository
from worker.store.rewrap import Progress, references, refuse_if_referenced
from worker.store.rewrap import rewrap as move_everything
from worker.store.whose import EVERYBODY
from worker.vault import OF_A_TENANT, Keyring, KeyringSource, KeyState, Purpose
from worker.vault.keyring import Key

keys = typer.Typer(help="The keyring that seals everything.", no_args_is_help=True)
api_keys = typer.Typer(help="Keys for apps that read tokens.", no_args_is_help=True)

_FOR = {
    Purpose.REFRESH: "refresh tokens",
    Purpose.ACCESS: "access tokens",
    Purpose.CONFIG: "client secrets",
    Purpose.FINGERPRINT: "fingerprints",
}


Tenant = Annotated[
    str | None,
    typer.Option(help="Whose own keyring; the deployment's, which the others use, by default."),
]


def _where() -> Settings:
    """Where the keyrings lie; no secret of the settings is read for it."""
    return _settings.load(role="keyring")


def _ring(tenant: str | None) -> Ring:
    return ring_of(_where(), tenant)


@keys.command("list")
def list_keys(tenant: Tenant = None, as_json: Json = False) -> None:
    """Which keys there are, and what each is for; never a key itself. All keyrings by default."""
    settings = _where()
    rings = [ring_of(settings, tenant)] if tenant else rings_of(settings)
    rows, troubles = list[dict[str, Any]](), list[WorkerError]()
    for ring in rings:
        try:
            rows += [_row(ring, key) for key in ring.load().keys]
        except WorkerError as error:
            troubles.append(error)
    if troubles and not rows:
        pass
    elif as_json:
        print_json(rows)
    else:
        columns = ["id", "for", "state", "created"]
        print_table(
            rows,
            ["tenants", *columns] if len(rings) > 1 else columns,
            empty="an empty keyring",
        )
    _complain(troubles)


def _complain(troubles: Sequence[WorkerError]) -> None:
    for other in troubles[1:]:
        err.print(str(other), markup=False)
    if troubles:
        raise troubles[0]


def _row(ring: Ring, key: Key) -> dict[str, Any]:
    return {
        "tenants": ", ".join(ring.tenants) or "(all others)",
        "id": key.id,
        "for": _FOR[key.purpose],
        "state": key.state,
        "created": key.created_at,
    }


@keys.command("create")
def create_keyring(
    tenant: Annotated[
        str | None,
        typer.Option(help="Of its own; its `keyring` in evergrant.toml says where."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make the deployment's keyring, at EVERGRANT_KEYRING, or that of a tenant that is new here.

    Nothing is overwritten. A tenant that has tokens already takes its keys along:
    `evergrant keys move FILE --tenant NAME`.
    """
    with context.opened() as base:
        ring = ring_of(base.settings, tenant)
        if count := sum(references(base.engine, ring.whose).values()):
            raise _has_data(count, tenant)
        made = ring.source().create(Keyring.generate(OF_A_TENANT if tenant else Purpose))
    _done({"keyring": ring.address, "keys": len(made.keys), "next": "back it up"}, as_json)


def _has_data(count: int, tenant: str | None) -> ConfigurationError:
    held = f"the store holds {counted(count, 'ciphertext')}"
    if tenant is None:
        told = f"{held} that a new keyring would not open: restore the one that there was"
        return ConfigurationError(told, code="keyring_missing")
    return ConfigurationError(
        f"{held} of {tenant} that a new keyring would not open; instead: `evergrant keys move FILE"
        f" --tenant {tenant}`",
        code="tenant_has_data",
    )


Chosen = Annotated[Purpose | None, typer.Argument(help="rt, at or config; all three by default.")]


@keys.command("rotate")
def rotate(purpose: Chosen = None, tenant: Tenant = None, as_json: Json = False) -> None:
    """Seal with new keys from now on; the old ones go on opening what they sealed.

    Running processes notice within a second. Back the keyring up afterwards.
    """
    _made(purpose, tenant, Keyring.rotate, as_json)


@keys.command("add")
def add(purpose: Chosen = None, tenant: Tenant = None, as_json: Json = False) -> None:
    """Make keys that open and do not seal yet: the first half of a rotation on several machines.

    Bring the keyring to all of them, then `evergrant keys promote ID …`.
    """
    _made(purpose, tenant, Keyring.add, as_json)


def _made(
    purpose: Purpose | None,
    tenant: str | None,
    change: Callable[[Keyring, Purpose], Keyring],
    as_json: bool,
) -> None:
    chosen = [purpose] if purpose else [Purpose.REFRESH, Purpose.ACCESS, Purpose.CONFIG]
    source = _ring(tenant).source()
    made: list[dict[str, Any]] = []
    for one in chosen:
        keyring = source.edit(lambda ring, one=one: change(ring, one))  # type: ignore[misc]  # mypy: default argument of a lambda
        made.append({"for": _FOR[one], "id": keyring.keys[-1].id})
    print_json(made) if as_json else print_table(made, ["for", "id"], empty="")


@keys.command("promote")
def promote(
    key_ids: Annotated[list[str], typer.Argument(metavar="ID …")],
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """Seal with these keys from now on: the second half, once every machine has them.

    Example: evergrant keys promote 8f21c09a 5b7700d2 c41e9f30
    """
    _ring(tenant).source().edit(lambda ring: reduce(Keyring.promote, key_ids, ring))
    _done({"id": ", ".join(key_ids), "state": KeyState.PRIMARY}, as_json)


@keys.command("rewrap")
def rewrap(
    tenant: Annotated[
        str | None, typer.Option(help="Only what this tenant's own keyring sealed.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Move everything that an old key sealed under the present ones, while all runs on.

    All keyrings by default; one that does not open holds up no other.
    """
    moved, left, troubles = 0, 0, list[WorkerError]()
    with context.opened() as base, Bar(console=err, disable=as_json, transient=True) as bar:
        for ring in [ring_of(base.settings, tenant)] if tenant else rings_of(base.settings):
            task = bar.add_task(f"rewrapping, {ring.name}", total=None)

            def told(progress: Progress, task: TaskID = task) -> None:
                bar.update(task, completed=progress.moved, total=progress.moved + progress.left)

            try:
                done = move_everything(base.engine, ring.vault(), whose=ring.whose, told=told)
            except WorkerError as error:
                troubles.append(error)
                continue
            moved, left = moved + done.moved, left + done.left
    _done({"moved": moved, "left": left}, as_json)
    _complain(troubles)
    if left:
        err.print("some rows were locked: run it again")
        raise typer.Exit(EXIT_FAILED)


@keys.command("destroy")
def destroy(
    key_id: str,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """Drop a disabled key for good. Refused while anything in the store still needs it."""
    with context.opened() as base:
        ring = ring_of(base.settings, tenant)
        _known(ring, key_id).destroy(key_id, references=0)  # before anybody is asked
        # from the deployment's keyring even what only a tenant with a copy needs: a process that
        # has not been started anew since the tenant moved still opens it there
        whose = ring.whose if ring.tenants else EVERYBODY
        refuse_if_referenced(base.engine, key_id, whose)
        if not (yes or as_json):
            typer.confirm(
                "What only this key opens is lost, backups included. Destroy?", abort=True
            )
        ring.source().edit(
            lambda ring: ring.destroy(key_id, references=references(base.engine, whose)[key_id])
        )
    _done({"id": key_id, "state": "destroyed"}, as_json)


def _known(ring: Ring, key_id: str) -> Keyring:
    """The keyring, which has that key. Raises: NotFoundError."""
    keyring = ring.load()
    if keyring.get(key_id) is None:
        raise NotFoundError(f"no key {key_id} in {ring.name}; `evergrant keys list` shows them")
    return keyring


@keys.command("disable")
def disable(key_id: str, tenant: Tenant = None, as_json: Json = False) -> None:
    """What this key sealed opens no more, until `keys enable`: the step before destroying it."""
    _known(ring := _ring(tenant), key_id)
    ring.source().edit(lambda keyring: keyring.disable(key_id))
    _done({"id": key_id, "state": KeyState.DISABLED}, as_json)


@keys.command("enable")
def enable(key_id: str, tenant: Tenant = None, as_json: Json = False) -> None:
    """Let a disabled key open again what it sealed."""
    _known(ring := _ring(tenant), key_id)
    ring.source().edit(lambda keyring: keyring.enable(key_id))
    _done({"id": key_id, "state": KeyState.ENABLED}, as_json)


@keys.command("export")
def export(
    path: Annotated[
        str, typer.Argument(help="File, or vault://…#FILE; an existing file is refused.")
    ],
    *,
    role: Annotated[Role, typer.Option(help="Whose machine it is for.")],
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """Write a keyring with the keys of one role only, for a machine of its own.

    Example: evergrant keys export web-keyring.json --role web
    """
    purposes = PURPOSES[role] & OF_A_TENANT if tenant else PURPOSES[role]
    part = _ring(tenant).load().limited_to(purposes)
    KeyringSource(path, environment=os.environ).create(part)
    _done({"file": path, "for": [_FOR[p] for p in sorted(purposes)]}, as_json)


@keys.command("move")
def move(
    to: Annotated[str, typer.Argument(help="File, or vault://HOST:PORT/MOUNT/KEY#FILE.")],
    tenant: Annotated[
        str | None,
        typer.Option(
            help="Only what this tenant needs: out of the deployment's keyring into one of its own,"
            " or its own to another place."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the keyring somewhere else, wrapped by Vault or not any more, and read it back.

    Example: evergrant keys move vault://vault.example:8200/transit/evergrant#/etc/evergrant/keys.json
    """
    settings = _where()
    ring = ring_of(settings, tenant if tenant in settings.own_keyrings else None)
    if tenant and tenant not in settings.tenants:
        ring_of(settings, tenant)  # says which there are
    moved = ring.load()
    if tenant and not ring.tenants:
        moved = moved.limited_to(OF_A_TENANT)
    there = KeyringSource(to, environment=os.environ)
    there.create(moved)
    if there.load() != moved:
        raise PermanentError(f"{to}: reads back otherwise; do not use it", code="reads_otherwise")
    _done({"keyring": to, "keys": len(moved.keys), "next": _then(tenant, ring)}, as_json)


def _then(tenant: str | None, ring: Ring) -> str:
    if tenant is None:
        return "set EVERGRANT_KEYRING to it, start anew, and destroy the old one and its backups"
    told = f"set `keyring` of [tenants.{tenant}] to it on every machine, start all processes anew"
    if ring.tenants:
        return f"{told}, and destroy the old one and its backups"
    return f"{told}; then `evergrant keys rotate` and `rewrap`, both with --tenant {tenant}"


@api_keys.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Shows in the audit.")],
    *,
    scope: Annotated[
        str, typer.Option(help=r"\[verb,verb:]tenant\[/connection\[/user]]; `*` matches any run.")
    ] = "*",
    days: Annotated[
        int | None,
        typer.Option(min=1, max=LONGEST_DAYS, help="Expires after; never by default."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a key for an app. It is shown once and cannot be shown again.

    Example: evergrant api-keys create crm --scope 'read,renew:acme/google-oauth2/*' --days 90
    """
    wanted: Scope = parse_scope(scope)
    with context.opened() as base:
        now = base.clock.now()
        expires_at = now + timedelta(days=days) if days else None
        key = ApiKeyRepository(base.engine).create(
            name, scope=wanted, now=now, expires_at=expires_at
        )
    if as_json:
        print_json({"name": name, "key": key.text(), "scope": scope, "expires_at": expires_at})
        return
    print_secret(key.text())


@api_keys.command("list")
def list_api_keys(as_json: Json = False) -> None:
    """Names, scopes and ends; never a key."""
    with context.opened() as base:
        rows = [
            {
                "name": key.name,
                "scope": ", ".join(_spelled(scope) for scope in key.scopes),
                "expires_at": key.expires_at,
                "state": _state(key.revoked_at, key.expires_at),
            }
            for key in ApiKeyRepository(base.engine).all()
        ]
    if as_json:
        print_json(rows)
        return
    print_table(rows, ["name", "scope", "state", "expires_at"], empty="no API keys yet")


@api_keys.command("revoke")
def revoke(name: str, as_json: Json = False) -> None:
    """Refuse a key from now on (within two seconds everywhere)."""
    with context.opened() as base:
        if not ApiKeyRepository(base.engine).revoke(name, base.clock.now()):
            raise NotFoundError(f"no live API key {name!r}; `evergrant api-keys list` shows them")
    _done({"name": name, "state": "revoked"}, as_json)


def _spelled(scope: Scope) -> str:
    return f"{','.join(sorted(scope.verbs))}:{scope.tenant}/{scope.connection}/{scope.user}"


def _state(revoked_at: datetime | None, expires_at: datetime | None) -> str:
    if revoked_at:
        return "revoked"
    return "expired" if expires_at and expires_at <= datetime.now(UTC) else "live"


def _done(facts: dict[str, Any], as_json: bool) -> None:
    print_json(facts) if as_json else print_facts(facts)
