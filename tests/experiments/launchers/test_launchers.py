"""Which launcher a command gets, what each one asks for, and what it makes of processes and jobs that end."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from detr.config_io import from_dict
from detr.errors import InputError
from experiments.definition.compose import CONF
from experiments.launchers import processes, slurm
from experiments.launchers.choice import build_launcher
from experiments.launchers.local import Local
from experiments.launchers.processes import Processes, worker_slots
from experiments.launchers.slurm import Queue, Slurm, SlurmSettings
from experiments.launchers.slurm_task import write_job
from experiments.runs.stop import Stop


def defaults(**changes) -> dict:
    """The settings of launcher=slurm."""
    return yaml.safe_load((CONF / "launcher/slurm.yaml").read_text())["launcher"] | changes


@pytest.fixture
def submitting(monkeypatch):
    """A machine on which SLURM's commands are, whether or not they are here."""
    monkeypatch.setattr(slurm.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.delenv("WORLD_SIZE", raising=False)


@pytest.fixture
def gpus(monkeypatch):
    monkeypatch.setattr(processes.torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(processes.torch, "get_num_threads", lambda: 16)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_every_choice_builds_its_launcher(submitting, tmp_path):
    kinds = {"local": Local, "processes": Processes, "slurm": Slurm}
    assert sorted(kinds) == sorted(path.stem for path in (CONF / "launcher").glob("*.yaml"))
    for name, kind in kinds.items():
        settings = yaml.safe_load((CONF / f"launcher/{name}.yaml").read_text())["launcher"]
        assert type(build_launcher(settings, None, 1, tmp_path)) is kind


def test_below_torchrun_runs_go_one_after_the_other_in_its_processes(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert type(build_launcher({"name": "processes"}, None, 1, tmp_path)) is Local
    with pytest.raises(InputError, match="launcher=slurm: not below torchrun"):
        build_launcher(defaults(), None, 1, tmp_path)


@pytest.mark.parametrize(
    ("settings", "workers", "num_processes", "message"),
    [
        ({"name": "local"}, 2, 1, "workers=2: with launcher=local"),
        ({"name": "local"}, None, 2, "train.num_processes=2: launcher=local has one process"),
        (defaults(hours=0), None, 1, "launcher.hours=0"),
        (defaults(gpus=-1), None, 1, "launcher.gpus=-1"),
        (defaults(setup=[1]), None, 1, "launcher.setup"),
        (defaults(partitoin="gpu"), None, 1, "did you mean launcher.partition"),
        ({"name": "slurm"}, None, 1, "launcher.partition is missing"),
        (defaults(), None, 12, "train.num_processes=12: must be a multiple of launcher.processes_per_node=8"),
    ],
)
def test_settings_that_do_not_fit_are_named(submitting, tmp_path, settings, workers, num_processes, message):
    with pytest.raises(InputError, match=message):
        build_launcher(settings, workers, num_processes, tmp_path)


def test_without_slurm_the_command_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="there is no sbatch here"):
        build_launcher(defaults(), None, 1, tmp_path)


# On this machine


def test_every_worker_has_its_own_gpus_and_cores(gpus):
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in worker_slots(None)] == ["0", "1", "2", "3"]
    two = worker_slots(None, num_processes=2)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in two] == ["0,1", "2,3"]
    assert {slot["OMP_NUM_THREADS"] for slot in two} == {"4"}
    with pytest.raises(InputError, match=r"train.num_processes=8: this machine has 4 GPUs"):
        worker_slots(None, num_processes=8)


def test_only_the_gpus_that_are_visible_are_given_out(gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7,2,3")
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in worker_slots(None, 2)] == ["5,7", "2,3"]


def test_local_runs_main_here_and_looks_at_it_meanwhile(tmp_path, monkeypatch):
    looks = []
    (tmp_path / "a_worker.py").write_text(
        "import os, time\ndef main(arguments):\n    time.sleep(0.2)\n    return len(arguments) + 1000 * os.getpid()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("experiments.launchers.local.WATCH_SECONDS", 0.01)
    process = Local().start(["a_worker", "one", "two"], tmp_path / "log", lambda: looks.append(1))
    assert process.poll() == process.returncode == 2 + 1000 * os.getpid()
    assert looks


def test_a_stop_reaches_the_run_and_the_command_around_it():
    with Stop().listen() as command, Stop().listen() as run:
        for _ in range(2):  # a scheduler signals a job, and all its processes
            os.kill(os.getpid(), signal.SIGTERM)
        assert command.requested and run.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


# SLURM


def launcher(tmp_path: Path, num_processes: int = 1, **changes) -> Slurm:
    settings = {key: value for key, value in defaults(**changes).items() if key != "name"}
    return Slurm(from_dict(SlurmSettings, settings, "launcher"), 4, num_processes, tmp_path / "slurm")


def test_a_job_asks_for_what_its_processes_need(submitting, tmp_path):
    asked = launcher(
        tmp_path, 16, gpus=1, cpus=6, memory_gb=1.5, hours=0.51, partition="gpu", sbatch={"reservation": "spring"}
    ).parameters()
    expected = {"nodes": 2, "ntasks_per_node": 8, "gpus_per_node": 8, "cpus_per_task": 6, "mem": "1536MB", "time": 31}
    assert expected.items() <= asked.items() and asked["partition"] == "gpu" and "account" not in asked
    assert asked["additional_parameters"] == {"requeue": True, "reservation": "spring"}
    assert asked["array_parallelism"] == 4
    assert "gpus_per_node" not in launcher(tmp_path, gpus=0).parameters()


def test_many_jobs_become_arrays_of_a_size_that_slurm_takes(submitting, tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(slurm.Slurm, "_submit_array", lambda self, jobs: sizes.append(len(jobs)))
    monkeypatch.setattr(slurm.Queue, "numbers", lambda self: frozenset())
    slurms = launcher(tmp_path)
    jobs = [slurms.start(["module"], tmp_path / f"{i}.log", print) for i in range(2100)]
    jobs[0].terminate()  # before it was submitted
    slurms.submit()
    slurms.submit()
    assert sizes == [1000, 1000, 99]


class Controller:
    """Answers of squeue, one after the other; None: it cannot be reached."""

    def __init__(self, *answers: list[str] | None) -> None:
        self.answers = list(answers)

    def __call__(self, command: list[str], **_options: object) -> subprocess.CompletedProcess:
        assert command[0] == "squeue"
        answer = self.answers.pop(0)
        return subprocess.CompletedProcess(command, int(answer is None), "\n".join(answer or []), "")


@pytest.mark.parametrize(("written", "code"), [({"job": "1_2", "code": 0}, 0), ({"job": "1_2"}, 1)])
def test_a_job_that_left_the_queue_has_the_code_that_it_wrote(submitting, tmp_path, monkeypatch, written, code):
    """Not listed once may be a slip, and not answered says nothing."""
    write_job(tmp_path / "worker.log", {"job": "1_2"})
    answers = [["1_2"], None, ["1_1"], ["1_1", "1_2"], [], None, []]
    monkeypatch.setattr(slurm.subprocess, "run", Controller(*answers))
    slurms = launcher(tmp_path)
    slurms.queue = Queue(poll_seconds=0.0)
    job = slurms.start(["module"], tmp_path / "worker.log", print)
    assert not slurms.unsubmitted  # it is in the queue already
    for _ in range(5):
        assert job.poll() is None
    write_job(tmp_path / "worker.log", written)
    assert job.poll() == code


def test_a_job_goes_on_without_the_command(submitting, tmp_path, monkeypatch):
    write_job(tmp_path / "worker.log", {"job": "7"})
    monkeypatch.setattr(slurm.subprocess, "run", Controller(["7"], ["7"]))
    job = launcher(tmp_path).start(["module"], tmp_path / "worker.log", print)
    job.terminate()
    assert job.poll() == 3


@pytest.mark.parametrize("content", ["", "no JSON", "[1]"])
def test_what_is_kept_of_a_job_may_be_anything(submitting, tmp_path, monkeypatch, content):
    (tmp_path / "worker.job").write_text(content)
    monkeypatch.setattr(slurm.subprocess, "run", Controller([]))
    slurms = launcher(tmp_path)
    slurms.start(["module"], tmp_path / "worker.log", print)
    assert len(slurms.unsubmitted) == 1
