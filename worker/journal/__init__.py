"""What a provider gave us, durable on this node's disk before anything else is done with it.

One append-only file set per process, sealed entries only, `fdatasync` in groups. A process holds
a lock on its own files as long as it lives; whoever can take the lock has the proof that it died
and replays what it left (C10). Entries stay for a day, so that a store that was rolled back can
be brought forward again (I24).
"""

from worker.journal.dead import DeadProcess, NodeJournals
from worker.journal.journal import Journal, new_process_name, node_of
from worker.journal.reading import lossy, not_readable

__all__ = [
    "DeadProcess",
    "Journal",
    "NodeJournals",
    "lossy",
    "new_process_name",
    "node_of",
    "not_readable",
]
