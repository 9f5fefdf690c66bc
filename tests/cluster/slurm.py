"""A SLURM cluster of one node on this machine's loopback, for tests and for trying.

    python tests/cluster/slurm.py /tmp/cluster      # runs until Ctrl-C; say `export SLURM_CONF=/tmp/cluster/slurm.conf`

It needs Debian's slurm-wlm and munge, and root. Key, socket, state and logs are in the folder; nothing else is touched.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
START_SECONDS, STOP_SECONDS = 30, 10
# cgroups are not to be had in a container, so linuxproc finds the processes of a job.
CONFIGURATION = """\
ClusterName=trial
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={controller_port}
SlurmdPort={node_port}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,sched_min_interval=100000,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MinJobAge=5
KillWait=10
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN
PartitionName=trial Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no cluster here; empty where there can."""
    lacking = [name for name in PROGRAMS if not find(name)]
    if lacking:
        return f"no SLURM here (apt-get install slurm-wlm munge): {', '.join(lacking)}"
    return "" if os.geteuid() == 0 else "SLURM's daemons need root"


def find(name: str) -> str | None:
    """A program's path, of those for administrators as well."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Run a cluster inside the block; yields the environment that its commands need."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    ports = dict(zip(("controller_port", "node_port"), free_ports(2), strict=True))
    host = socket.gethostname().partition(".")[0]
    (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, host=host, **ports))
    environment = {"SLURM_CONF": str(folder / "slurm.conf")}
    munge = {name: f"{folder}/munge.{name}" for name in ("key", "socket", "pid", "log", "seed")}
    options = ["--key-file", munge["key"], "--socket", munge["socket"], "--pid-file", munge["pid"]]
    options += ["--log-file", munge["log"], "--seed-file", munge["seed"], "--foreground", "--force"]
    with ExitStack() as stack:
        stack.enter_context(daemon(["munged", *options], folder, environment))
        wait_for(Path(munge["socket"]).exists, "munged", folder)
        stack.enter_context(daemon(["slurmctld", "-D"], folder, environment))
        stack.enter_context(daemon(["slurmd", "-D"], folder, environment))
        wait_for(lambda: is_idle(environment), "slurmd", folder)
        stack.callback(end_jobs, environment)
        yield environment


def end_jobs(environment: dict[str, str]) -> None:
    """Kill what still runs: a job outlives the daemons."""
    variables = os.environ | environment
    subprocess.run(["scancel", "--signal=KILL", "--full", "--me"], env=variables, check=False)
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        listed = subprocess.run(["squeue", "-h", "-t", "R,CG"], env=variables, capture_output=True, text=True)
        if not listed.stdout.strip():
            return
        time.sleep(0.1)


def is_idle(environment: dict[str, str]) -> bool:
    """Whether the node takes jobs."""
    done = subprocess.run(["sinfo", "-h", "-o", "%t"], env=os.environ | environment, capture_output=True, text=True)
    return done.stdout.strip() == "idle"


@contextmanager
def daemon(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """A process in the foreground, ended after the block with all that it started."""
    with (folder / f"{command[0]}.out").open("w") as output:
        process = subprocess.Popen(
            [find(command[0]), *command[1:]],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(holds, name: str, folder: Path) -> None:
    """Wait until it holds; RuntimeError with what the daemon said when it does not come to."""
    deadline = time.monotonic() + START_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            said = "".join(path.read_text()[-1000:] for path in (folder / f"{name}.out", folder / f"{name}.log"))
            raise RuntimeError(f"{name} did not start:\n{said}")
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens at."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


if __name__ == "__main__":
    if reason := missing():
        sys.exit(f"error: {reason}")
    with cluster(Path(sys.argv[1]).resolve()) as environment:
        print("\n".join(f"export {name}={value}" for name, value in environment.items()), flush=True)
        with suppress(KeyboardInterrupt):
            signal.sigwait({signal.SIGINT, signal.SIGTERM})
