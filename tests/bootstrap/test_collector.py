"""Garbage collection of a worker: what is loaded once is not walked again and again."""

from __future__ import annotations

import subprocess
import sys

_SCRIPT = """
import gc
from worker.bootstrap.runtime import spare_collector
spare_collector()
assert gc.isenabled() and gc.get_freeze_count() > 10_000
class Ring: pass
ring = Ring(); ring.itself = ring; gone = __import__("weakref").ref(ring); del ring
made = [[] for _ in range(gc.get_threshold()[0] + 1)]
assert gone() is None, "a cycle made since is collected as ever"
"""


def test_what_is_loaded_is_never_walked_again_and_new_cycles_still_go():
    """In a process of its own: it changes the collector for good."""
    subprocess.run([sys.executable, "-c", _SCRIPT], check=True)
