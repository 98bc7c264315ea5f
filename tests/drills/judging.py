"""What became of each grant: the providers' ledger and our store tell it together."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from worker.domain.secret import Secret
from worker.rehearsal.minting import Parsed
from worker.store.seen import beginning
from worker.vault import AesVault, Keyring

if TYPE_CHECKING:
    from tests.drills.drill import Drill

# Connection to its provider's profile, and the class it is of (docs/protocol.md).
N_AND_M = {"google-oauth2": "google-oauth2", "acme-entra": "waad"}
GRACE = {"acme-bitbucket": "bitbucket"}
STRICT = {"github": "github-app", "acme-tracker": "oauth2"}  # S and F
CLASSES = {"N, M": N_AND_M, "G": GRACE, "S, F": STRICT}


@dataclass(frozen=True)
class Report:
    renewals: int
    kills: int
    blows: dict[str, int]
    reopened: int  # connections, by the operator: a mass of refusals had held their verdicts
    answers_lost: int  # the provider acted, and kept its answer back
    families_revoked: int  # because a spent token came again
    spent_twice: int  # a token sent although its successor was durable with us
    false_verdicts: int  # needs_reauth, though the provider would still renew
    lost: dict[str, int]  # by class: grants that need a login
    never_durable: dict[str, int]  # successors that we never got hold of: the providers' own count
    takeover_p99: float | None  # seconds, where the class lets a token be sent again at once

    def __str__(self) -> str:
        return "\n".join(f"  {name:17} {value}" for name, value in asdict(self).items())

    def check(self, *, exactly: bool) -> None:
        """`exactly`: every verdict has been spoken, so losses are equal and not just fewer."""
        assert self.spent_twice == self.false_verdicts == 0, f"\n{self}"
        assert self.lost["N, M"] == 0, f"\n{self}"
        for name, lost in self.lost.items():
            assert lost <= self.never_durable[name], f"{name}\n{self}"
        if exactly:
            assert self.lost["S, F"] == self.never_durable["S, F"], f"\n{self}"


def judge(drill: Drill) -> Report:
    """Compare the providers' families with what we hold."""
    vault = AesVault(Keyring.load(drill.directory / "keyring.json"))
    held, rows = drill.held(), drill.rows()
    by_account = {(row.connection, row.identity_user_id): row for row in rows}
    counts: Counter[str] = Counter()
    lost: Counter[str] = Counter(dict.fromkeys(CLASSES, 0))
    never: Counter[str] = Counter(dict.fromkeys(CLASSES, 0))
    for name, connections in CLASSES.items():
        for connection, profile in connections.items():
            issuer = drill.stage.stage.providers[profile].issuer
            for family in issuer._families.values():
                token = issuer._mint.make(Parsed("r", family.id, family.newest, 0))
                ours = beginning(vault.fingerprint(Secret(token))) in held
                row: Any = by_account.get((connection, family.grant.subject))
                dead = row is not None and row.state == "needs_reauth"
                counts["twice"] += bool(family.grant.counts.reused and ours)
                counts["false"] += dead and family.ended is None and ours
                lost[name] += dead
                never[name] += not ours
    total = drill.stage.ledger()["total"]
    return Report(
        renewals=total["exchanges"],
        kills=drill.kills,
        blows=dict(sorted(drill.blows.items())),
        reopened=drill.reopened,
        answers_lost=total["answers_lost"],
        families_revoked=total["families_lost"],
        spent_twice=counts["twice"],
        false_verdicts=counts["false"],
        lost=dict(lost),
        never_durable=dict(never),
        takeover_p99=drill.takeovers.p99(),
    )
