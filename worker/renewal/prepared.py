"""A claim made ready: its connection, its provider and the rules of its class are known."""

from __future__ import annotations

from dataclasses import dataclass

from worker.domain.exchange import ConnectionConfig
from worker.domain.grant import Claim
from worker.domain.ports import Provider
from worker.domain.rotation import Rules


@dataclass(slots=True)
class Prepared:
    """Mutable only in what time changes: the lease, and how often it has sent."""

    claim: Claim
    connection: ConnectionConfig
    provider: Provider
    rules: Rules
    began: float  # monotonic, read before the claim was asked for
    deadline: float  # monotonic end of the lease
    earlier_gone: bool = False  # proof that an earlier attempt holds nothing
    asking: bool = False  # an exchange has begun: from here on bytes may have left
    sent: int = 0
    last_code: str = ""

    @property
    def send_before(self) -> float:
        """No byte leaves after this: the answer must fit into the lease (I6)."""
        return self.deadline - self.rules.read_timeout
