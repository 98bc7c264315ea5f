"""`evergrant grants …` and `evergrant tokens …`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, Any

import typer

from worker.api.answers import explanation, token_answer
from worker.bootstrap.base import Base
from worker.bootstrap.ending import reach_of, tombstones_of
from worker.cli import context
from worker.cli.concerns import mending
from worker.cli.leak_view import EFFECTS
from worker.cli.output import (
    EXIT_FAILED,
    Json,
    Tenant,
    out,
    print_facts,
    print_json,
    print_secret,
    print_table,
)
from worker.cli.trying import watch
from worker.domain.errors import ConfigurationError, NotFoundError
from worker.domain.forward import Push
from worker.domain.grant import GrantPart, GrantState
from worker.domain.held import GONE, Ask, HeldGrant
from worker.domain.refusals import TooWideError
from worker.handout import Explain, Handout
from worker.revocation import Reach, Requests
from worker.store.handout import HandoutRepository
from worker.store.listing import GrantLine, list_grants
from worker.store.quarantine import QuarantineRepository
from worker.sync import explain_problem

grants = typer.Typer(help="What we hold: list, explain, renew, revoke.", no_args_is_help=True)
tokens = typer.Typer(help="Access tokens, as an app gets them.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(help="A grant's id; `evergrant grants list` shows them.")]


@grants.command("list")
def list_(
    *,
    tenant: Tenant = None,
    connection: Annotated[str | None, typer.Option(help="Name of the connection.")] = None,
    user: Annotated[str | None, typer.Option(help="Auth0's user id.")] = None,
    state: Annotated[GrantState | None, typer.Option(help="Where they stand.")] = None,
    provider: Annotated[str | None, typer.Option(help="Catalogue entry.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000)] = 200,
    as_json: Json = False,
) -> None:
    """Grants, one a line; never a token.

    Example: evergrant grants list --state needs_reauth
    """
    with context.opened() as base:
        found = list_grants(
            base.engine,
            limit=limit,
            tenant=tenant,
            connection=connection,
            user_id=user,
            state=state,
            provider=provider,
        )
        if not found:
            _refuse_unknown(base, tenant=tenant, connection=connection, provider=provider)
    if as_json:
        print_json([asdict(line) for line in found])
        return
    columns = ["id", "connection", "user", "state", "expires", "next_renewal", "note"]
    print_table([_row(line) for line in found], columns, empty="no grants")


def _refuse_unknown(
    base: Base, *, tenant: str | None, connection: str | None, provider: str | None
) -> None:
    """No grants, for want of anything so named? Raises: ConfigurationError, NotFoundError."""
    if tenant is not None:
        context.tenant_of(base, tenant)
    if provider is not None and provider not in base.catalogue.names():
        raise ConfigurationError(
            f"no provider {provider!r} in the catalogue; `evergrant providers list` names them"
        )
    tenants = [tenant] if tenant else list(base.settings.tenants)
    known = {one.name for name in tenants for one in base.connections().all(name)}
    if connection is not None and connection not in known:
        raise NotFoundError(f"no connection {connection}; `evergrant connections list` shows names")


def _whose(line: GrantLine) -> str:
    """An account can have two grants of one login: the person's, and the app's bot's."""
    if line.user_id is None or line.part == GrantPart.USER:
        return line.user_id or line.part
    return f"{line.user_id} ({line.part})"


def _row(line: GrantLine) -> dict[str, Any]:
    return {
        "id": line.id,
        "connection": line.connection,
        "user": _whose(line),
        "state": line.state,
        "expires": line.expires_at,
        "next_renewal": line.due_at,
        "note": (line.withheld if line.state not in GONE else None)
        or line.reason
        or (f"{line.failures}× {line.last_error}" if line.failures else ""),
    }


@grants.command()
def explain(grant_id: Id, as_json: Json = False) -> None:
    """State, why, what happens next and when, and the history of one grant."""

    async def ask(base: Base) -> dict[str, Any]:
        held = context.grant_of(base, grant_id)
        repository = HandoutRepository(base.engine, base.audit)
        explain = Explain(grants=repository, clock=base.clock, offload=base.offload)
        told = await explain.grant(context.master_key(), held.key.tenant, held.id)
        return dict(explanation(told)) | {"to_mend": mending(base, held)}

    told = context.run(ask)
    if as_json:
        print_json(told)
        return
    history = told.pop("timeline")
    told["connection_problems"] = list(map(explain_problem, told["connection_problems"]))
    print_facts(told)
    out.print()
    print_table(history, ["at", "actor", "verb", "detail"], empty="no history")


@grants.command()
def renew(
    grant_id: Id,
    wait: Annotated[float, typer.Option(help="Seconds to wait for it; 0: do not.")] = 30,
    as_json: Json = False,
) -> None:
    """Make a grant due now. A worker renews it, unless the hour's renewals are used up."""
    with context.opened() as base:
        held = context.grant_of(base, grant_id)
        repository = HandoutRepository(base.engine, base.audit)
        actor = context.operator()
        forward = repository.bring_forward(held.id, base.clock.now(), actor=actor)
        if forward.push is Push.DUE:
            base.hints.renew(held.provider)
            after = watch(repository, held, wait)
        else:
            after = held
    answer = {
        "grant": held.id,
        "asked": forward.push,
        "retry_at": forward.retry_at,
        "renewed": after.generation > held.generation,
        "generation": after.generation,
        "state": after.state,
        "last_error": after.last_error,
    }
    print_json(answer) if as_json else print_facts(answer)
    if wait and not answer["renewed"]:
        raise typer.Exit(EXIT_FAILED)


@grants.command()
def revoke(
    grant_id: Id,
    include_siblings: Annotated[
        bool,
        typer.Option(
            "--include-siblings", help="Give up, too, what the provider ends together with it."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Give a grant up: nothing is served any more, and the provider is asked to end it.

    Where the provider ends the whole consent (Google, Facebook, …) and other living grants hang on
    it, nothing is done unless you say --include-siblings; they are given up with it then.

    Example: evergrant grants revoke 6f1c0a52-1f6e-4c1e-8a6b-5f7b0f2f7a11
    """

    async def ask(base: Base) -> dict[str, Any]:
        held = context.grant_of(base, grant_id)
        if not (yes or as_json):
            _confirm_revoking(reach_of(base, base.connections()), held)
        requests = Requests(
            grants=HandoutRepository(base.engine, base.audit),
            tombstones=tombstones_of(base),
            reach=reach_of(base, base.connections()),
            clock=base.clock,
            offload=base.offload,
        )
        try:
            begun = await requests.give_up(
                context.master_key(), held, include_siblings=include_siblings
            )
        except TooWideError as error:
            ids = ", ".join(map(str, error.siblings))
            raise ConfigurationError(
                f"{error}: {ids}. Nothing is done; --include-siblings gives those up too",
                code=error.code,
            ) from None
        base.hints.task("upkeep.revocations")
        return asdict(begun) | {"at_provider": "pending" if begun.effect else "not_offered"}

    answer = context.run(ask)
    print_json(answer) if as_json else print_facts(answer)


def _confirm_revoking(reach: Reach, held: HeldGrant) -> None:
    """Say how far it goes before it is asked for."""
    nature = reach.nature(held)
    out.print(f"{held.provider} {EFFECTS[nature.effect]}.", markup=False)
    if not nature.effect and nature.by_hand:
        out.print(f"Only the person can end it there: {nature.by_hand}", markup=False)
    typer.confirm("The user has to log in again afterwards. Revoke?", abort=True)


@grants.command()
def release(
    grant_id: Id,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Let a quarantined grant renew again, once you know that nobody else spends it.

    Two programs that spend one rotating refresh token kill it: stop the other one first.
    """
    with context.opened() as base:
        held = context.grant_of(base, grant_id)
        if held.state is not GrantState.QUARANTINED:
            raise ConfigurationError(
                f"grant {grant_id} is {held.state}, not quarantined; "
                f"`evergrant grants explain {grant_id}` says what it waits for",
                code="not_quarantined",
            )
        if not (yes or as_json):
            typer.confirm(f"Quarantined as {held.reason}. Has the other one stopped?", abort=True)
        store = QuarantineRepository(base.engine, base.audit)
        done = store.release(held.id, actor=context.operator(), now=base.clock.now())
        base.hints.renew(held.provider)
    answer = {"grant": held.id, "released": done, "was": held.reason}
    print_json(answer) if as_json else print_facts(answer)


def _nothing_of(ask: Ask) -> str:
    whose = f"user {ask.user_id}" if ask.user_id else "an administrator"
    look = f" --user '{ask.user_id}'" if ask.user_id else f" --connection {ask.connection}"
    listed = f"`evergrant grants list{look}` shows what there is"
    return f"no grant of {whose} at {ask.connection}; {listed}"


@tokens.command("get")
def get(
    user: Annotated[str, typer.Argument(help='Auth0\'s user id; "admin" for the admin token.')],
    connection: Annotated[str, typer.Argument(help="Name of the connection.")],
    *,
    tenant: Tenant = None,
    identity: Annotated[str | None, typer.Option(help="Where the user has several.")] = None,
    part: Annotated[
        GrantPart, typer.Option(help="bot: the app's own pair of a Slack login.")
    ] = GrantPart.USER,
    min_ttl: Annotated[
        int | None, typer.Option(min=0, max=86_400, help="Seconds it must live.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the token itself.")] = False,
    as_json: Json = False,
) -> None:
    """A fresh access token. Without --show everything but the token is printed.

    Example: evergrant tokens get 'google-oauth2|1077' google-oauth2 --show
    """

    async def read(base: Base) -> dict[str, Any]:
        handout = Handout(
            grants=HandoutRepository(base.engine, base.audit),
            vault=base.vault(),
            hints=base.hints,
            clock=base.clock,
            offload=base.offload,
        )
        ask = Ask(
            tenant=context.tenant_of(base, tenant),
            connection=connection,
            user_id=None if user == "admin" else user,
            identity=identity,
            part=part,
            min_ttl=None if min_ttl is None else timedelta(seconds=min_ttl),
        )
        try:
            return dict(token_answer(await handout.token(context.master_key(), ask)))
        except NotFoundError:
            raise NotFoundError(_nothing_of(ask), code="not_found") from None

    answer = context.run(read)
    if not show:
        hidden = {name for name in answer if name.startswith("access_token")}
        answer |= dict.fromkeys(hidden, "(hidden; --show prints it)")
    if show and not as_json:
        for name in ("access_token", "access_token_secret"):
            if name in answer:
                print_secret(answer[name])
        return
    print_json(answer) if as_json else print_facts(answer)
