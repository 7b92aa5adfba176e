from __future__ import annotations

import os
import subprocess
import sys
import threading

from experts.io.atomic import replacing
from experts.io.temporaries import _MACHINE, remove_stale, stale, temporary_beside


def named(folder, process, thread=1, machine=_MACHINE):
    path = folder / f".a.txt.{machine}-{process}-{thread}.tmp"
    path.touch()
    return path


def test_only_what_dead_processes_of_this_machine_left_is_removed(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    running = named(tmp_path, process.pid)
    elsewhere = named(tmp_path, 2**22 + 1, machine="0badcafe")
    other_target = tmp_path / f".b.txt.{_MACHINE}-{2**22 + 1}-1.tmp"
    other_target.touch()
    left = named(tmp_path, 2**22 + 1)
    assert list(stale(tmp_path / "a.txt")) == [left]
    process.communicate(b"\n")
    remove_stale(tmp_path / "a.txt")
    assert sorted(tmp_path.iterdir()) == sorted([elsewhere, other_target])
    assert not running.exists()


def test_the_next_write_removes_what_a_killed_one_left(tmp_path):
    named(tmp_path, 2**22 + 1).write_text("half")
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    assert os.listdir(tmp_path) == ["a.txt"]


def test_threads_of_one_process_do_not_share_a_temporary(tmp_path):
    ready, done = threading.Event(), threading.Event()
    other = []

    def hold():
        with replacing(tmp_path / "a.txt") as temporary:
            other.append(temporary)
            temporary.write_text("slow")
            ready.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    ready.wait(10)
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("fast")
        assert other[0].read_text() == "slow"
    assert (tmp_path / "a.txt").read_text() == "fast"
    done.set()
    thread.join()
    assert (tmp_path / "a.txt").read_text() == "slow"
    assert temporary_beside(tmp_path / "a.txt", "tmp") == temporary
