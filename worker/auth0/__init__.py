"""Auth0's Management API, read only: users, connections, logs, within the tenant's limits.

Httpx lives here and in `providers`. Answers become values with `Secret`s in them, failures become
`WorkerError`s without request or response; nothing of Auth0's is ever written.
"""

from worker.auth0.answers import Connection, Identity, User
from worker.auth0.budget import PLANS, Budget, Plan, Priority, plan_named
from worker.auth0.credentials import Credentials
from worker.auth0.key_set import KeySets
from worker.auth0.management import ManagementApi, open_client
from worker.auth0.scopes import missing_scopes

__all__ = [
    "PLANS",
    "Budget",
    "Connection",
    "Credentials",
    "Identity",
    "KeySets",
    "ManagementApi",
    "Plan",
    "Priority",
    "User",
    "missing_scopes",
    "open_client",
    "plan_named",
]
