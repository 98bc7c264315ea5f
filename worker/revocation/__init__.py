"""Giving grants up: nothing is served any more, the provider is told, the keys are destroyed.

"Deleted here" is never called "revoked there": each grant has a receipt of what the provider said.
The web process only buries (it can open no refresh token); a worker revokes and erases.
"""

from worker.revocation.compromise import Compromise, Plan, Report, Response
from worker.revocation.ports import Kin, Tombstones
from worker.revocation.reach import Nature, Reach, nature_from
from worker.revocation.requests import Begun, Requests
from worker.revocation.revoker import Revoker
from worker.revocation.users import UserErasure

__all__ = [
    "Begun",
    "Compromise",
    "Kin",
    "Nature",
    "Plan",
    "Reach",
    "Report",
    "Requests",
    "Response",
    "Revoker",
    "Tombstones",
    "UserErasure",
    "nature_from",
]
