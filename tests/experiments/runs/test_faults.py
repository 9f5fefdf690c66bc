"""What becomes of a run when disk, memory or images fail under it: the table of docs/survival.md, in tests."""

import errno
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from injection import worker

from detr.data import open_split
from detr.errors import InputError
from experiments.folders.files import read_json, write_json
from experiments.folders.lease import held
from experiments.launchers.slurm_task import Task
from experiments.runs.faults import explain
from experiments.runs.pool import Workers, mark_dead
from experiments.runs.run_directory import RunDirectory
from experiments.sweeps.search import run_phase


def test_a_full_disk_fails_the_run_which_goes_on_when_there_is_space(make_run, nowhere, small_disk, tmp_path):
    disk = small_disk(200)  # kilobytes, less than a checkpoint
    directory = make_run(disk / "runs")
    log = tmp_path / "worker.log"
    assert worker(directory.path, nowhere, log=log) == 1
    assert directory.status["state"] == "failed"
    assert "the disk is full" in directory.status["error"] and "same command goes on" in directory.status["error"]
    assert not list(directory.path.rglob("*.unfinished"))
    subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
    assert worker(directory.path, nowhere, log=log) == 0
    assert [line.step for line in directory.records.read()] == [1, 2, 2, 3, 4, 4]


@pytest.mark.parametrize("filler", [2, 3])
def test_a_disk_without_a_byte_left_ends_the_run_with_a_sentence(make_run, nowhere, small_disk, tmp_path, filler):
    """Not even the status can be written, nor the next line of the records."""
    disk = small_disk(3000)
    directory = make_run(disk / "runs")
    fill = ["sh", "-c", f"cat /dev/zero > {disk}/filler 2> /dev/null || true"]
    log = tmp_path / "worker.log"
    assert worker(directory.path, nowhere, "record", filler, fill, log=log) == 1
    assert "the disk is full" in log.read_text()
    (disk / "filler").unlink()
    subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
    assert worker(directory.path, nowhere, log=log) == 0
    assert [line.step for line in directory.records.read()] == [1, 2, 2, 3, 4, 4]


def test_a_disk_that_becomes_read_only_ends_the_run_with_a_sentence(make_run, nowhere, small_disk, tmp_path):
    disk = small_disk(50_000)
    directory = make_run(disk / "runs")
    log, remount = tmp_path / "worker.log", ["mount", "-o", "remount"]
    # Refused while a file is open for writing, as the uploader's is now and then.
    retried = f"for i in $(seq 100); do mount -o remount -r {disk} 2> /dev/null && exit; sleep 0.05; done; exit 1"
    assert worker(directory.path, nowhere, "record", 4, ["sh", "-c", retried], log=log) == 1
    assert "cannot be written" in log.read_text() and directory.status["state"] == "running"
    log.unlink()
    assert worker(directory.path, nowhere, log=log) == 1
    assert log.read_text().startswith("error: the run directory cannot be written") and log.read_text().count("\n") == 1
    subprocess.run([*remount, "-w", str(disk)], check=True)
    assert worker(directory.path, nowhere, log=log) == 0
    assert directory.status["state"] == "finished"


def test_a_place_for_runs_that_cannot_be_written_is_named(answer, tmp_path):
    """Where the user could not have meant it: exit code 2, before anything is trained."""
    (tmp_path / "runs").write_text("a file")
    code, _, said = answer("horizon=1 steps", "data.shapes_num_train=2", "data.shapes_num_val=2")
    assert code == 2 and "runs" in said and "Traceback" not in said


def test_running_out_of_memory_says_what_to_change(make_run, nowhere, tmp_path):
    directory = make_run(tmp_path / "runs")
    assert worker(directory.path, nowhere, "micro-batch", 7, ["memory"]) == 1
    error = directory.status["error"]
    assert error.startswith("out of memory (RuntimeError: ") and "halve train.batch_size" in error
    assert worker(directory.path, nowhere) == 0


def test_an_image_that_vanishes_is_recorded_with_the_run(make_run, nowhere, tmp_path):
    data = {"root": str(tmp_path / "own"), "quarantine_share": 0.2}  # one of six
    directory = make_run(tmp_path / "runs", data=data)
    image = open_split(directory.config.data, "train").path(3)
    assert worker(directory.path, nowhere, "micro-batch", 1, ["rm", str(image)]) == 0
    counts = [line.metrics.get("train/quarantined") for line in directory.records.read() if line.step == 4]
    assert counts[0] == 1
    assert any("training image 4 is replaced" in warning for warning in directory.status["warnings"])


def test_too_many_images_that_vanish_stop_the_run(make_run, nowhere, tmp_path):
    directory = make_run(tmp_path / "runs", data={"root": str(tmp_path / "own"), "quarantine_share": 0.2})
    train_set = open_split(directory.config.data, "train")
    images = [str(train_set.path(i)) for i in range(6)]
    assert worker(directory.path, nowhere, "micro-batch", 1, ["rm", *images]) == 1
    assert directory.status["state"] == "failed" and "the image file is missing" in directory.status["error"]
    assert not (directory.path / "error.txt").exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "halve train.batch_size"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/runs"), "cannot be written"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "lower data.num_workers"),
        (RuntimeError("something else"), "RuntimeError: something else"),
    ],
)
def test_errors_come_with_their_remedy(error, said):
    assert said in explain(error)


@pytest.mark.parametrize(("code", "said"), [(-signal.SIGKILL, "memory runs out"), (1, "code 1: the last words")])
def test_a_worker_that_died_without_a_word_is_marked(tmp_path, code, said):
    directory = RunDirectory(tmp_path)
    directory.update(state="running")
    (tmp_path / "worker.log").write_text("first words\nthe last words\n")
    mark_dead(directory, code)
    assert directory.status["state"] == "failed" and said in directory.status["error"]
    directory.update(state="finished", error="")
    mark_dead(directory, code)
    assert directory.status == {"state": "finished", "error": ""}


def test_a_folder_is_shared_by_those_who_come_later(tmp_path):
    with held(tmp_path / "a" / "b") as first, held(tmp_path / "a" / "b") as second:
        assert first.path == second.path
    assert not (tmp_path / "a" / "b" / "lease.json").exists()


def test_json_is_replaced_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    write_json(path, {"state": "running"})
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr(Path, "write_text", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
        write_json(path, {"state": "finished"})
    assert read_json(path) == {"state": "running"}


def test_records_that_are_a_link_are_neither_read_nor_written(make_run, nowhere, tmp_path):
    directory, others = make_run(tmp_path / "runs"), tmp_path / "others"
    others.write_text("theirs")
    (directory.path / "records.jsonl").symlink_to(others)
    assert worker(directory.path, nowhere, log=tmp_path / "worker.log") in (1, 2)
    assert "records.jsonl: is a link" in (tmp_path / "worker.log").read_text() + directory.status.get("error", "")
    assert others.read_text() == "theirs"


def test_a_log_that_is_a_link_is_refused_before_anything_starts(make_run, tmp_path):
    directory, others = make_run(tmp_path / "runs"), tmp_path / "others"
    others.write_text("theirs")
    log = directory.path / "worker.log"
    log.symlink_to(others)
    runs = [SimpleNamespace(directory=tmp_path / "runs" / "another"), SimpleNamespace(directory=directory.path)]
    with pytest.raises(InputError, match="log: is a link"):
        Workers(runs, tmp_path, launcher=None, display=None, uploader=None)
    with pytest.raises(InputError, match="log: is a link"):  # nor is its last line told
        mark_dead(directory, 1)
    assert "theirs" not in str(directory.status)


def test_a_log_of_a_sweep_that_is_a_link_is_refused_before_anything_starts(tmp_path):
    (tmp_path / "worker-1.log").symlink_to(tmp_path / "others")
    phase, launcher = SimpleNamespace(folder=tmp_path), SimpleNamespace(width=2)
    with pytest.raises(InputError, match=r"worker-1.log: is a link"):
        run_phase(phase, launcher, until=0, console=None, stop=None)


def test_a_job_of_slurm_does_not_write_to_a_link(tmp_path, monkeypatch):
    """The log of a further task of the job."""
    for name, value in {"_TEST_CLUSTER_": "slurm", "SLURM_JOB_ID": "1", "SLURM_PROCID": "2"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "worker.2.log").symlink_to(tmp_path / "others")
    with pytest.raises(InputError, match=r"worker.2.log: is a link"):
        Task(["json.tool"], tmp_path / "worker.log")()
    assert not (tmp_path / "others").exists()
