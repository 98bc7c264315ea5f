"""Access tokens out: who may have one, is it fresh enough, and the audit before the answer.

Nothing here can open a refresh token, and no read of the store selects one. The store, the vault
and the queue come in as ports; this room imports `domain` and metric names only.
"""

from worker.handout.explain import Explain, Explanation
from worker.handout.ports import HeldGrants
from worker.handout.read import Handed, Handout

__all__ = ["Explain", "Explanation", "Handed", "Handout", "HeldGrants"]
