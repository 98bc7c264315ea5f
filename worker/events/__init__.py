"""What the tenant told us: reading it, keeping it, and running the actions bound to it.

`Intake.accept` makes an event durable before its sender hears 2xx; `Processor.process` works the
inbox off. Reading and deciding (`bodies`, `log_codes`, `cloud_events`) are pure. No HTTP and no
broker come in here: `ingress` and `queue` bring bodies, `bootstrap` brings the store.
"""

from worker.events.accept import Counts, Intake
from worker.events.bodies import Reading, TenantFacts, Unreadable, joined, read_body
from worker.events.process import Processor
from worker.events.reread import reread
from worker.events.spool import Spool

__all__ = [
    "Counts",
    "Intake",
    "Processor",
    "Reading",
    "Spool",
    "TenantFacts",
    "Unreadable",
    "joined",
    "read_body",
    "reread",
]
