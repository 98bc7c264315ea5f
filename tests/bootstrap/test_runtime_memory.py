"""What a process keeps for its threads."""

import re
import subprocess
import sys

ARENAS = """
import ctypes, sys, threading
from worker.bootstrap.runtime import one_arena

if sys.argv[1] == "one":
    one_arena()
held, together = [], threading.Barrier(8)

def hold():
    together.wait()
    held.append([bytearray(5000 + n) for n in range(100)])
    together.wait()

threads = [threading.Thread(target=hold) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""


def arenas(how):
    told = subprocess.run(
        [sys.executable, "-c", ARENAS, how], capture_output=True, text=True, check=True
    )
    return len(re.findall(r"<heap nr=", told.stdout))


def test_threads_share_one_arena():
    assert arenas("one") == 1 < arenas("as ever")
