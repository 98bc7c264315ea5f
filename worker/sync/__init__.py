"""Brings Auth0's copies home: one user, one connection, or all of them, merged by the rules.

A pull takes its fence before it reads, reads through `auth0`, and hands everything to the store's
one merging transaction. Nothing here decides which token is newer: `domain.merge` does.
"""

from worker.sync.backfill import Backfill
from worker.sync.departures import Departures
from worker.sync.diff import Compared, Diff
from worker.sync.event_feed import EventFeed
from worker.sync.log_poll import LogPoll
from worker.sync.problems import PROBLEMS, explain_problem
from worker.sync.progress import Progress
from worker.sync.puller import Puller
from worker.sync.reconcile import Reconcile
from worker.sync.stream_watch import StreamWatch

__all__ = [
    "PROBLEMS",
    "Backfill",
    "Compared",
    "Departures",
    "Diff",
    "EventFeed",
    "LogPoll",
    "Progress",
    "Puller",
    "Reconcile",
    "StreamWatch",
    "explain_problem",
]
