"""What can be done to a running product. Each blow is counted by its name."""

from __future__ import annotations

import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from tests.drills.judging import CLASSES, STRICT

if TYPE_CHECKING:
    from tests.drills.drill import Drill

PROFILES = [profile for one in CLASSES.values() for profile in one.values()]
ANSWER_BYTES = 600  # an answer with its headers is about as long


def freeze_a_worker(drill: Drill) -> None:
    """SIGSTOP: what it was about to do, it does later."""
    victim = drill.dice.choice(drill.workers)
    victim.send_signal(signal.SIGSTOP)
    time.sleep(drill.dice.uniform(0.1, 3))
    victim.send_signal(signal.SIGCONT)


def restart_the_store(drill: Drill) -> None:
    drill.takeovers.store_goes()
    drill.store.stop()
    drill.store.start()


def kill_the_store(drill: Drill) -> None:
    """As a crash of the database server; what it acknowledged is in its log."""
    drill.takeovers.store_goes()
    drill.store.kill()
    drill.store.start()


def fill_the_stores_disk(drill: Drill) -> None:
    """Each write is refused with PostgreSQL's own code for it, and reads go on. Where the log has
    no room either the server panics, which is `kill_the_store`."""
    drill.takeovers.store_goes()
    with psycopg.connect(drill.store.url, autocommit=True) as db:
        db.execute(_NO_ROOM)
        tables = db.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        names = [sql.Identifier(name) for (name,) in tables]
        for name in names:
            db.execute(_FULL.format(name))
        time.sleep(drill.dice.uniform(1, 4))
        for name in names:
            db.execute(_ROOM.format(name))


_NO_ROOM = """
CREATE OR REPLACE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
RAISE 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$
"""
_FULL = sql.SQL("CREATE TRIGGER no_room BEFORE INSERT OR UPDATE ON {} EXECUTE FUNCTION no_room()")
_ROOM = sql.SQL("DROP TRIGGER no_room ON {}")


def empty_the_broker(drill: Drill) -> None:
    drill.broker.kill()
    drill.broker.start()


def freeze_the_broker(drill: Drill) -> None:
    """It takes connections and bytes, and answers nothing."""
    with drill.broker.frozen():
        time.sleep(drill.dice.uniform(1, 4))


def fill_a_workers_disk(drill: Drill) -> None:
    """Its journal can take nothing for a while: every write to a file fails, sockets do not."""
    with full_disk(drill.dice.choice(drill.workers)):
        time.sleep(2)


@contextmanager
def full_disk(process: subprocess.Popen[bytes]) -> Iterator[None]:
    size = resource.RLIMIT_FSIZE
    before = resource.prlimit(process.pid, size)
    resource.prlimit(process.pid, size, (1, before[1]))
    try:
        yield
    finally:
        if process.poll() is None:
            resource.prlimit(process.pid, size, before)


def cut_answers(drill: Drill) -> None:
    """At another byte each time; the provider has acted."""
    profile = drill.dice.choice(PROFILES)
    at = drill.dice.randrange(ANSWER_BYTES)
    drill.stage.do("faults", profile="cut", cut_at=at, provider=profile, count=3)


def drop_answers(drill: Drill) -> None:
    how = drill.dice.choice(["drop", "reset_after", "html_502_after"])
    drill.stage.do("faults", profile=how, provider=drill.dice.choice(PROFILES), count=3)


def delay_an_answer(drill: Drill) -> None:
    """Of a strict provider, nearly as long as it is waited for."""
    delay = drill.dice.uniform(20, 110)
    profile = drill.dice.choice(list(STRICT.values()))
    drill.stage.do("faults", profile="slow_answer", provider=profile, delay_after=delay, count=1)


BLOWS: Mapping[str, Callable[[Drill], None]] = {
    blow.__name__: blow
    for blow in (
        freeze_a_worker,
        restart_the_store,
        kill_the_store,
        fill_the_stores_disk,
        empty_the_broker,
        freeze_the_broker,
        fill_a_workers_disk,
        cut_answers,
        drop_answers,
        delay_an_answer,
    )
}


def stopped(pid: int) -> bool:
    """Whether the process stands still (SIGSTOP)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state == "T"
