"""Connections through which nobody has come yet: what will keep their grants from being renewed.

The store knows a connection once a user of it was read. Auth0 knows all of them, so that what is
wrong can be told before the first token ends, and of users who bring none at all.
"""

from __future__ import annotations

from worker.auth0 import Connection, ManagementApi, Priority
from worker.bootstrap.base import Base
from worker.cli.finding import Finding, Status
from worker.cli.output import counted
from worker.cli.providers import SAID_ANYWAY, unrenewable
from worker.domain.errors import WorkerError
from worker.providers.explain import missing_settings
from worker.sync import explain_problem
from worker.sync.options import config_of
from worker.sync.problems import problems_of


async def foreseen(base: Base, api: ManagementApi) -> list[Finding]:
    """One finding for each trouble of each connection that the store does not know."""
    known = {config.name for config in base.connections().all(api.tenant)}
    found: list[Finding] = []
    async for connection in api.connections(priority=Priority.FORCED):
        if connection.name not in known and (told := _troubles(base, api.tenant, connection)):
            concerned = await _users(api, connection.name)
            label = f"connection {api.tenant}/{connection.name}"
            found += [Finding(label, Status.WARN, f"{one} ({concerned})") for one in told]
    return found


def _troubles(base: Base, tenant: str, connection: Connection) -> list[str]:
    told = config_of(tenant, connection, now=base.clock.now())
    config = base.connections().as_set(told)
    codes = problems_of(connection, None, had_admin=False, has_admin=False)
    try:
        provider = base.catalogue.resolve(config, has_refresh_token=True)
    except WorkerError as error:
        return [str(error)]
    entry = provider.kind.entry
    if not config.enabled or (entry.grant == "none" and not entry.token_endpoint):
        return []  # switched off here, or it hands out no token at all
    if problem := unrenewable(provider):
        return [problem, *(explain_problem(code) for code in sorted(codes - SAID_ANYWAY))]
    return [*map(explain_problem, sorted(codes)), *missing_settings(entry, config)]


async def _users(api: ManagementApi, connection: str) -> str:
    """Who is concerned, as Auth0's search has it; names are quoted there."""
    quoted = connection.replace("\\", "").replace('"', "")
    try:
        users = await api.count(f'identities.connection:"{quoted}"', priority=Priority.FORCED)
    except WorkerError:  # a search that is refused takes nothing from what was seen
        return "Auth0 does not tell how many users have it"
    if not users:  # Token Vault takes an identity out of the index with its tokens
        return "no user of it is found at Auth0"
    return f"{counted(users, 'user')} at Auth0; none of their tokens is held here"
