"""One writer to a run, and what becomes of runs whose writer died."""

import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from injection import PROCESSES, worker

from detr.errors import ExitCode
from experiments.folders import lease
from experiments.folders.files import Folder
from experiments.folders.lease import EXPIRY_SECONDS, Held, Lease, owner
from experiments.tracking import sync

ROUNDS, RACERS = 20, 3


def dead_process() -> int:
    """The number of a process that has ended."""
    process = PROCESSES.Process(target=int)
    process.start()
    process.join()
    return process.pid


def leave_lease(folder: Path, **changes: object) -> None:
    """A lease as its owner would leave it when it is killed."""
    with Lease(folder):
        content = json.loads((folder / "lease.json").read_text())
    (folder / "lease.json").write_text(json.dumps(content | {"token": "other"} | changes))


def test_the_second_one_hears_who_holds_it(tmp_path):
    with Lease(tmp_path), pytest.raises(Held, match=rf"process {os.getpid()} on \S+, since 20"), Lease(tmp_path):
        pass
    assert owner(tmp_path) is None and not (tmp_path / "lease.json").exists()


@pytest.mark.parametrize("how", ["gone", "reused"])
def test_on_the_same_machine_a_dead_owner_is_known_at_once(tmp_path, how):
    changes = {"pid": dead_process()} if how == "gone" else {"pid": os.getppid(), "started": 1.0}
    leave_lease(tmp_path, **changes)
    with Lease(tmp_path):
        assert owner(tmp_path).pid == os.getpid()


def test_from_another_machine_the_heartbeat_tells(tmp_path):
    leave_lease(tmp_path, machine="another", pid=dead_process())
    with pytest.raises(Held), Lease(tmp_path):
        pass
    old = time.time() - EXPIRY_SECONDS - 1
    os.utime(tmp_path / "lease.json", (old, old))
    with Lease(tmp_path):
        pass


def _hold(folder: str) -> None:
    lease.BEAT_SECONDS = 0.02
    with Lease(Path(folder)):
        time.sleep(300)


def test_heartbeats_come_and_an_owner_that_was_robbed_ends_at_once(tmp_path):
    process = PROCESSES.Process(target=_hold, args=(str(tmp_path),))
    process.start()
    path, deadline = tmp_path / "lease.json", time.monotonic() + 100
    while owner(tmp_path) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.utime(path, (0, 0))
    while path.stat().st_mtime == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.stat().st_mtime > 0
    path.write_text(path.read_text().replace(owner(tmp_path).token, "another"))
    process.join(100)
    assert process.exitcode == ExitCode.HELD


@pytest.mark.parametrize("content", ["", "[]", "{", '{"pid": 1}', "\0", '{"token": 1, "pid": "x"}'])
def test_a_file_that_no_lease_wrote_holds_nothing(tmp_path, content):
    (tmp_path / "lease.json").write_text(content)
    with Lease(tmp_path):
        pass


def _race(folder: str, barrier, results) -> None:
    for number in range(ROUNDS):
        place = Path(folder) / str(number)
        barrier.wait()
        try:
            with Lease(place):
                results.put((number, os.getpid()))
                barrier.wait()  # all have tried
        except Held:
            barrier.wait()


def test_of_several_that_start_at_once_exactly_one_writes(tmp_path):
    """Every second time there is the lease of a dead process to be taken over."""
    for number in range(ROUNDS):
        (tmp_path / str(number)).mkdir()
        if number % 2:
            leave_lease(tmp_path / str(number), pid=2**22 + 1)
    barrier, results = PROCESSES.Barrier(RACERS), PROCESSES.Queue()
    racers = [PROCESSES.Process(target=_race, args=(str(tmp_path), barrier, results)) for _ in range(RACERS)]
    for racer in racers:
        racer.start()
    winners = [results.get(timeout=100) for _ in range(ROUNDS)]
    for racer in racers:
        racer.join(100)
    assert sorted(number for number, _ in winners) == list(range(ROUNDS))
    assert results.empty() and [racer.exitcode for racer in racers] == [0] * RACERS


def test_a_worker_leaves_a_run_that_another_is_training(make_run, nowhere, tmp_path):
    directory = make_run(tmp_path / "runs")
    with Lease(directory.path):
        assert worker(directory.path, nowhere) == ExitCode.HELD
        log = (directory.path / "worker.log").read_text()
        assert f"is being written by process {os.getpid()} on" in log and "Traceback" not in log
        assert directory.status == {"state": "planned"} and directory.records.size == 0
    assert worker(directory.path, nowhere) == 0


def test_the_next_start_marks_what_died(make_run, nowhere, tmp_path):
    alive, dead = (make_run(tmp_path / "runs" / name) for name in ("one", "two"))
    assert worker(dead.path, nowhere, "record", 2, [int(signal.SIGKILL)]) == -signal.SIGKILL
    assert dead.status["state"] == "running" and not psutil.pid_exists(json.loads(
        (dead.path / "lease.json").read_text())["pid"])  # fmt: skip
    alive.begin()
    with Lease(alive.path):
        died = sync.reconcile(tmp_path / "runs")
    assert died == [dead.path.parents[1], dead.path]
    assert dead.status["state"] == "failed" and "its process died" in dead.status["error"]
    assert alive.status["state"] == Folder(alive.path.parents[1]).status["state"] == "running"
