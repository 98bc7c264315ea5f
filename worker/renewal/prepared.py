"""A claim made ready: its connection, its provider and the rules of its class are known."""

from __future__ import annotations

from dataclasses import dataclass, field

from worker.domain.exchange import ConnectionConfig, WireRequest
from worker.domain.grant import Claim
from worker.domain.ports import DataKeys, Provider
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
    wire: WireRequest | None = None
    # what the answer will be sealed with; the keyring may change while it is awaited (I3, I23)
    keys: DataKeys | None = field(default=None, repr=False)
    sent: int = 0
    last_code: str = ""  # of the last send that ended without an answer one could believe

    @property
    def request(self) -> WireRequest:
        assert self.wire is not None
        return self.wire

    @property
    def data_keys(self) -> DataKeys:
        assert self.keys is not None
        return self.keys

    @property
    def send_before(self) -> float:
        """No byte leaves after this: the answer must fit into the lease (I6)."""
        return self.deadline - self.rules.read_timeout

    @property
    def may_be_spent(self) -> bool:
        """Something was sent, by this attempt or by one before it, whose answer nobody has seen."""
        claim = self.claim
        return self.last_code != "" or claim.first_claimed_at < claim.claimed_at

    @property
    def lease_is_short(self) -> bool:
        """It ends before its class allows; as summed when it was given, for floats do not tell
        `deadline - began` from a hair less than the lease."""
        return self.deadline < self.began + self.rules.lease
