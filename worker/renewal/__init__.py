"""Renewing: find what is due, claim it, spend its refresh token once, keep what comes.

Use cases only: the store, the journal, the vault, the wire and the clock are collaborators, so
that a simulation can stand in for each (`docs/protocol.md` names every step).
"""

from worker.renewal.engine import Engine
from worker.renewal.ports import Claims, Hosts, Journal, NodeJournals, Settling

__all__ = ["Claims", "Engine", "Hosts", "Journal", "NodeJournals", "Settling"]
