"""What has to have happened for a row of the crash table (docs/protocol.md) to be reached."""

from __future__ import annotations

from collections.abc import Mapping

ROWS: Mapping[str, tuple[str, ...]] = {
    "C1": ("killed at claim_due",),
    "C2": ("claim_due committed, nobody heard",),
    "C3": ("killed at claim_due.done", "killed at extend.done"),
    "C4": ("refused",),
    "C5": ("paused at connect",),
    "C6": ("request lost",),
    "C7": ("answer lost",),
    "C8": ("killed in flight",),
    "C9": ("killed at answer", "killed at journal"),
    "C10": ("killed at journaled",),
    "C11": ("store away at settle",),
    "C12": ("settle committed, nobody heard",),
    "C13": ("candidate kept: lost_fence",),
    "C14": ("killed at settle.done",),
    "C15": ("disk lost",),
    "C16": ("rotated tokens lost by the store",),
    "C17": ("renewed without a broker",),
    "C18": ("two consents, one refresh token",),
    "C19": ("spent by somebody else",),
    "C20": ("deleted during an exchange",),
    "C21": ("malformed",),
    "C22": ("the token sent came back",),
}
FAULTS = (
    "killed",
    "paused",
    "slow",
    "store away",
    "broker gone",
    "clock stepped",
    "logged in",
    "logged in during an exchange",
    "invalid_grant out of nothing",
)


def reached(seen: Mapping[str, int]) -> dict[str, int]:
    """How often each row, and each fault besides, was reached."""
    rows = {row: sum(seen.get(event, 0) for event in events) for row, events in ROWS.items()}
    return rows | {fault: seen.get(fault, 0) for fault in FAULTS}
