"""`evergrant up` keeps its children running and takes them with it when it ends."""

import os
import signal
import subprocess
import sys
import time

PROGRAM = """
import os, sys
from worker.cli.supervisor import Child, Supervisor
child = [sys.executable, "-u", "-c", sys.argv[1]]
sys.exit(Supervisor([Child("a", child, os.environ)]).run())
"""
WAITS = (
    "import os, time\n"
    "from worker.cli.supervisor import end_with_parent\n"
    "end_with_parent()\n"
    "print('pid', os.getpid())\n"
    "time.sleep(60)"
)


def supervise(code):
    return subprocess.Popen(
        [sys.executable, "-u", "-c", PROGRAM, code], stdout=subprocess.PIPE, text=True
    )


def next_pid(supervisor):
    for line in supervisor.stdout:
        if "pid" in line:
            return int(line.split()[-1])
    raise AssertionError("it ended")


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(what, seconds=10):
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_child_that_dies_is_started_again():
    supervisor = supervise(WAITS)
    first = next_pid(supervisor)
    os.kill(first, signal.SIGKILL)
    second = next_pid(supervisor)
    assert second != first
    supervisor.terminate()
    assert supervisor.wait(10) == 0
    assert not alive(second)


def test_a_signal_ends_the_children_cleanly_and_the_supervisor_with_them():
    supervisor = supervise(WAITS)
    child = next_pid(supervisor)
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(10) == 0
    assert not alive(child)


def test_a_second_signal_cuts_a_child_that_does_not_end():
    supervisor = supervise(
        "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('pid', os.getpid())\ntime.sleep(60)"
    )
    child = next_pid(supervisor)
    supervisor.send_signal(signal.SIGINT)
    for line in supervisor.stdout:
        if "stopping" in line:
            break
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(10) == 1
    wait_until(lambda: not alive(child))


def test_children_end_when_the_supervisor_is_killed():
    supervisor = supervise(WAITS)
    child = next_pid(supervisor)
    supervisor.kill()
    supervisor.wait(10)
    wait_until(lambda: not alive(child))
