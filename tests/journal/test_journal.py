"""What is in the journal outlives the process, and nothing else is in it."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from worker.domain.attempt import Brought
from worker.domain.errors import ConfigurationError, TransientError
from worker.domain.grant import AttemptId, ExpiryKind, Fingerprint, GrantId
from worker.journal import Journal, NodeJournals, lossy, new_process_name, node_of
from worker.journal.journal import KEEP_SECONDS
from worker.journal.records import HEAD

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


async def threads(call, /, *args, **kwargs):
    return await asyncio.to_thread(call, *args, **kwargs)


def brought(n: int = 1) -> Brought:
    return Brought(
        grant=GrantId(uuid4()),
        tenant="acme",
        connection="google-oauth2",
        provider="google-oauth2",
        user_id="google-oauth2|1",
        attempt=AttemptId(uuid4()),
        fence=n,
        parent_fp=Fingerprint(b"p" * 16),
        family=0,
        generation=n,
        access_token=b"\x01sealed-at",
        refresh_token=b"\x01sealed-rt",
        at_fp=None,
        rt_fp=Fingerprint(b"r" * 16),
        token_type="Bearer",
        scope="openid email",
        issued_at=NOW,
        expiry=ExpiryKind.AT,
        expires_at=NOW,
        refresh_expires_at=None,
        due_at=None,
        not_before=None,
        logged_in_at=NOW,
    )


@pytest.fixture
def place(tmp_path):
    return tmp_path / "journal"


def opened(place, process="p1", **ports):
    return Journal(place, process=process, offload=threads, **ports)


def crash(journal):
    """The process ends without a word: its locks and files are let go."""
    os.close(journal._file)
    os.close(journal._lock)


def left_by(place, process="p1"):
    with NodeJournals(place, own="me").unreplayed() as found:
        return next((dead.left for dead in found if dead.name == process), None)


async def test_what_was_appended_is_found_after_the_process_died(place):
    journal = opened(place)
    entries = [brought(n) for n in range(1, 4)]
    for entry in entries:
        await journal.append(entry)
    assert left_by(place) is None  # it lives
    crash(journal)
    assert left_by(place) == entries


async def test_a_hundred_appends_at_once_take_few_syncs_and_are_all_durable(place):
    syncs = []

    def counted(file):
        syncs.append(file)
        os.fdatasync(file)

    journal = opened(place, sync=counted)
    await asyncio.gather(*(journal.append(brought(n)) for n in range(100)))
    assert len(syncs) < 10
    crash(journal)
    assert len(left_by(place)) == 100


async def test_what_the_store_has_is_marked_and_not_left(place):
    journal = opened(place)
    numbers = [await journal.append(brought(n)) for n in range(1, 6)]
    journal.mark(numbers[:3], counter=7)
    await journal.append(brought(6))
    crash(journal)
    with NodeJournals(place, own="me").unreplayed() as found:
        (dead,) = list(found)
        assert [one.fence for one in dead.left] == [4, 5, 6]
        assert [one.fence for one in dead.history(above=6)] == [1, 2, 3, 4, 5, 6]
        assert [one.fence for one in dead.history(above=7)] == [4, 5, 6]
        assert dead.counter == 7


async def test_a_torn_last_line_is_stepped_over_at_every_byte(place):
    journal = opened(place)
    await journal.append(brought(1))
    whole = journal._path(1).stat().st_size
    await journal.append(brought(2))
    path = journal._path(1)
    content = path.read_bytes()
    crash(journal)
    for cut in range(whole, len(content)):
        path.write_bytes(content[:cut])
        assert [one.fence for one in left_by(place)] == [1]
    for cut in range(whole):
        path.write_bytes(content[:cut])
        assert left_by(place) == []


async def test_a_damaged_record_is_told_and_the_rest_is_read(place):
    journal = opened(place)
    for n in range(1, 4):
        await journal.append(brought(n))
    path = journal._path(1)
    crash(journal)
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(bytes(content))
    with NodeJournals(place, own="me").unreplayed() as found:
        (dead,) = list(found)
        assert [one.fence for one in dead.left] == [2, 3]
        assert len(dead.damaged) == 1


@pytest.mark.parametrize("broken", [b"\xff\xff\x0f\0", b"\xff\xff\xff\xff", b"\x01\0\0\0"])
async def test_a_length_that_is_wrong_does_not_hide_what_stands_behind_it(place, broken):
    """Neither where it points behind the end, as that of a torn one does, nor beside a record."""
    journal = opened(place)
    for n in range(1, 4):
        await journal.append(brought(n))
    path = journal._path(1)
    crash(journal)
    content = path.read_bytes()
    path.write_bytes(content[: len(HEAD)] + broken + content[len(HEAD) + len(broken) :])
    with NodeJournals(place, own="me").unreplayed() as found:
        (dead,) = list(found)
        assert [one.fence for one in dead.left] == [2, 3]
        assert len(dead.damaged) == 1


async def test_what_a_file_has_grown_by_and_was_never_written_is_torn(place):
    journal = opened(place)
    await journal.append(brought(1))
    path = journal._path(1)
    crash(journal)
    path.write_bytes(path.read_bytes() + bytes(4096))
    with NodeJournals(place, own="me").unreplayed() as found:
        (dead,) = list(found)
        assert [one.fence for one in dead.left] == [1]
        assert dead.damaged == []


async def test_of_a_journal_that_has_lost_a_record_nothing_is_proved(place):
    """It is replayed once, as far as it can be read, and dropped as every other."""
    journal = opened(place)
    for n in range(1, 3):
        await journal.append(brought(n))
    path = journal._path(1)
    crash(journal)
    (place / "p1.done").touch()  # it was whole, once
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(bytes(content))
    now = [path.stat().st_mtime]
    journals = NodeJournals(place, own="me", wall=lambda: now[0])
    with journals.all_dead() as found:
        next(found).replayed()
    assert journals.replayed_names() == frozenset()
    assert lossy(place) == ["p1"]
    with journals.unreplayed() as found:
        assert list(found) == []
    journals.drop_old()
    assert journals.names() == {"p1"}
    now[0] += KEEP_SECONDS + 1
    journals.drop_old()
    assert journals.names() == frozenset()
    assert lossy(place) == []


async def test_two_replayers_never_work_on_the_same_dead_process(place):
    crash(opened(place))
    with NodeJournals(place, own="a").unreplayed() as mine:
        next(mine)
        with NodeJournals(place, own="b").unreplayed() as theirs:
            assert list(theirs) == []


async def test_what_was_replayed_is_not_replayed_again_unless_the_store_forgot(place):
    journal = opened(place)
    await journal.append(brought())
    crash(journal)
    journals = NodeJournals(place, own="me")
    assert journals.replayed_names() == frozenset()
    with journals.unreplayed() as found:
        next(found).replayed()
    assert journals.replayed_names() == {"p1"}
    with journals.unreplayed() as found:
        assert list(found) == []
    with journals.all_dead() as found:
        assert [one.fence for dead in found for one in dead.left] == [1]


async def test_a_process_is_alive_while_it_runs_and_dead_when_it_was_killed(place):
    journal = opened(place)
    journals = NodeJournals(place, own="me")
    assert journals.is_alive("p1")
    assert not journals.is_alive("never-was")
    crash(journal)
    assert not journals.is_alive("p1")


def test_kill_minus_nine_lets_go_of_the_lock(place):
    script = (
        "import asyncio, sys, pathlib\n"
        "from worker.journal import Journal\n"
        "async def here(call, *a, **k): return call(*a, **k)\n"
        "Journal(pathlib.Path(sys.argv[1]), process='p1', offload=here)\n"
        "print('up', flush=True); sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"up\n"
    journals = NodeJournals(place, own="me")
    assert journals.is_alive("p1")
    process.kill()
    process.wait()
    assert not journals.is_alive("p1")


def test_a_process_that_starts_is_at_no_moment_taken_for_dead(place, monkeypatch):
    """I1, I4: who finds a lock free has the proof that its process died, and says so for good."""
    crash(opened(place, "old"))
    seen, looks = [], 0

    def look():
        nonlocal looks
        looks += 1
        with NodeJournals(place, own="me").all_dead() as found:
            seen.extend(dead.name for dead in found)

    def looked_around(call):
        def around(*args, **kwargs):
            look()
            result = call(*args, **kwargs)
            look()
            return result

        return around

    whole = os.open

    def opening(path, *rest, **more):
        file = whole(path, *rest, **more)
        if "new." in str(path) and rest[0] & os.O_CREAT:
            look()
        return file

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", opening)
        patched.setattr(Path, "rename", looked_around(Path.rename))
        opened(place, "new")
    assert looks >= 4
    assert set(seen) == {"old"}


def test_a_process_that_lives_is_not_gone_whatever_its_mark_says(place):
    journal = opened(place)
    (place / "p1.done").touch(mode=0o600)
    journals = NodeJournals(place, own="me")
    assert journals.replayed_names() == frozenset()
    assert NodeJournals(place, own="p1").replayed_names() == frozenset()
    crash(journal)
    assert journals.replayed_names() == {"p1"}


def test_a_name_is_used_once(place):
    crash(opened(place))
    with pytest.raises(ConfigurationError, match="of that name"):
        opened(place)
    assert sorted(path.name for path in place.iterdir()) == ["p1.000001.log", "p1.lock"]


def test_what_died_while_it_started_is_dropped_after_a_day(place):
    crash(opened(place))
    (place / "p2.starting").touch(mode=0o600)
    now = [(place / "p2.starting").stat().st_mtime]
    journals = NodeJournals(place, own="me", wall=lambda: now[0])
    journals.drop_old()
    assert (place / "p2.starting").exists()
    assert journals.names() == {"p1"}
    now[0] += KEEP_SECONDS + 1
    journals.drop_old()
    assert not (place / "p2.starting").exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
async def test_a_disk_that_refuses_is_told_and_tried_again(place, code):
    refuse = []

    def sync(file):
        if refuse:
            raise OSError(code, os.strerror(code))

    journal = opened(place, sync=sync)
    await journal.append(brought(1))
    refuse.append(True)
    with pytest.raises(TransientError) as error:
        await journal.append(brought(2))
    assert error.value.code == "journal_away"
    assert not await journal.probe()
    refuse.clear()
    assert await journal.probe()
    await journal.append(brought(3))
    crash(journal)
    assert [one.fence for one in left_by(place)][-1] == 3


async def test_looks_whether_the_disk_takes_appends_wait_for_the_append_under_way(place):
    """Side by side, one could sync the segment that the other has just opened, and not its own."""
    inside, most = 0, 0

    def sync(file):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.005)
        os.fdatasync(file)
        inside -= 1

    journal = opened(place, sync=sync)
    for n in range(5):
        append = asyncio.create_task(journal.append(brought(n)))
        await asyncio.sleep(0.001)
        assert await asyncio.gather(*(journal.probe() for _ in range(3))) == [True] * 3
        await append
    assert most == 1
    crash(journal)
    assert [entry.fence for entry in left_by(place)] == [0, 1, 2, 3, 4]


async def test_a_segment_that_cannot_be_opened_is_told_to_who_waits_and_tried_again(
    place, monkeypatch
):
    """No more files, or no room for a name: an answer that waited for ever would be lost."""
    journal = opened(place)
    await journal.append(brought(1))
    journal._abandon_segment()
    whole, os_open = os.open, [0]

    def no_files(path, flags, *rest, **more):
        if str(path).endswith(".log") and flags & os.O_CREAT:
            os_open[0] += 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return whole(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", no_files)
    with pytest.raises(TransientError):
        await asyncio.wait_for(journal.append(brought(2)), 5)
    assert await journal.probe() is False
    assert os_open[0] == 2
    monkeypatch.setattr(os, "open", whole)
    assert await journal.probe() is True
    await journal.append(brought(3))
    crash(journal)
    assert [entry.fence for entry in left_by(place)] == [1, 3]


async def test_a_segment_whose_head_could_not_be_written_is_not_written_on(place):
    """What follows no head would not be read."""
    ill = [False]

    def sync(file):
        if ill[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fdatasync(file)

    journal = opened(place, sync=sync)
    journal._abandon_segment()
    ill[0] = True
    with pytest.raises(TransientError):
        await journal.append(brought(1))
    assert journal._file == -1
    ill[0] = False
    await journal.append(brought(2))
    crash(journal)
    assert [entry.fence for entry in left_by(place)] == [2]


async def test_files_are_readable_by_their_owner_alone(place):
    journal = opened(place)
    await journal.append(brought())
    assert place.stat().st_mode & 0o777 == 0o700
    for path in place.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_directory_that_others_may_read_is_refused(place):
    place.mkdir()
    place.chmod(0o755)
    with pytest.raises(ConfigurationError, match=f"chmod 700 {place} && chmod 600 {place}/"):
        opened(place)


def test_a_symlink_is_refused(place, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="symlink"):
        opened(place)


def test_a_lock_that_is_a_symlink_is_refused(place, tmp_path):
    place.mkdir(mode=0o700)
    (place / "p1.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(ConfigurationError):
        opened(place)


async def test_a_journal_that_others_could_have_written_is_not_replayed(place):
    journal = opened(place)
    await journal.append(brought())
    journal._path(1).chmod(0o644)
    crash(journal)
    with NodeJournals(place, own="me").unreplayed() as found:
        (dead,) = list(found)
        assert dead.left == []
        assert dead.damaged == []
        assert f"chmod 600 {place}/*" in dead.unread[0]


async def test_a_journal_that_the_disk_does_not_give_back_is_not_an_empty_one(place, monkeypatch):
    journal = opened(place)
    await journal.append(brought())
    crash(journal)

    def refuse(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with NodeJournals(place, own="me").unreplayed() as found:
        (dead,) = list(found)
        assert dead.left == []
        assert os.strerror(errno.EIO) in dead.unread[0]


async def test_segments_are_kept_for_a_day_and_as_long_as_the_store_lacks_them(place):
    now = [os.stat(place.parent).st_mtime]
    journal = opened(place, wall=lambda: now[0])
    kept = await journal.append(brought(1))
    now[0] += 3601
    done = await journal.append(brought(2))
    journal.mark([done], counter=1)
    now[0] += 3601
    await journal.append(brought(3))
    now[0] += KEEP_SECONDS
    await journal.append(brought(4))
    assert journal._path(1).exists()
    assert not journal._path(2).exists()
    journal.mark([kept], counter=2)
    now[0] += 3601
    await journal.append(brought(5))
    assert not journal._path(1).exists()


async def test_of_its_own_journal_too_it_is_told_what_cannot_be_read(place):
    journal = opened(place)
    await journal.append(brought(1))
    await journal.append(brought(2))
    assert journal.lacking() == []
    path = journal._path(1)
    path.chmod(0o640)
    assert journal.history() == []
    assert f"chmod 600 {place}/*" in journal.lacking()[0]
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(bytes(content))
    assert [one.fence for one in journal.history()] == [2]
    assert len(journal.lacking()) == 1
    await journal.close()


async def test_an_own_history_is_read_back_in_order(place):
    journal = opened(place)
    for n in range(1, 4):
        journal.mark([await journal.append(brought(n))], counter=n)
    assert [one.fence for one in journal.history()] == [1, 2, 3]
    await journal.close()


def test_a_node_is_named_after_its_data_directory(tmp_path):
    first = node_of(tmp_path / "a")
    assert node_of(tmp_path / "a") == first
    assert node_of(tmp_path / "b") != first
    assert new_process_name() != new_process_name()
