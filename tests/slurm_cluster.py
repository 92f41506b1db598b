"""A SLURM cluster of one node, of Debian's packages, on the loopback address, for as long as a test session."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # where Debian has the daemons, and which not everybody has on the path
START_SECONDS = 120.0
STOP_SECONDS = 10.0

# `cred_expire`: a requeued job waits that long (usually 120 s) before it may start again.
# `KillWait`: seconds between SIGTERM and SIGKILL. `urgent` preempts the jobs of `test`, which SLURM then requeues.
CONFIGURATION = """
ClusterName=attnbench
SlurmctldHost={host}(127.0.0.1)
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=test Nodes={host} Default=YES PriorityTier=1
PartitionName=urgent Nodes={host} PriorityTier=2
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=30
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1
"""

# No control groups: not in a container. (The plug-in is loaded all the same; `disabled` is not known to older versions.)
CONTROL_GROUPS = """
CgroupPlugin=cgroup/v1
CgroupMountpoint={folder}/no_control_groups
CgroupAutomount=no
"""


class Unavailable(Exception):
    """Why there is no cluster here."""


class Cluster:
    """A running one.

    Attributes:
        environment: variables that its users need.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}

    def command(self, *arguments: str) -> str:
        """What one of SLURM's commands answers."""
        return _ask(arguments, self.environment)

    def state(self, job: str) -> str:
        """RUNNING, PENDING, ..., COMPLETED: as SLURM has it, which remembers jobs for some minutes."""
        return self._shown(job, "JobState")

    def restarts(self, job: str) -> int:
        """How often a job was requeued."""
        return int(self._shown(job, "Restarts"))

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = 300.0) -> None:
        """Until `condition`; fails with all logs of the jobs if it takes longer."""
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                raise AssertionError(f"not within {seconds:.0f} s: {what}\n{self.command('squeue')}")
            time.sleep(0.2)

    def _shown(self, job: str, name: str) -> str:
        fields = dict(field.split("=", 1) for field in self.command("scontrol", "show", "job", job).split() if "=" in field)
        return fields[name]


@contextmanager
def running_cluster(folder: Path, cpus: int = 2) -> Iterator[Cluster]:
    """A cluster whose files are all in `folder`; it is gone, with its jobs, when the block ends.

    Raises:
        Unavailable: its packages are not installed, or this is not root.
        RuntimeError: it does not start, though they are.
    """
    _check(("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel"))
    cluster = Cluster(folder)
    _configure(folder, cpus)
    with _daemons(cluster) as start:
        socket_ = folder / "munge.socket"
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        start("munged", "--foreground", "--force", *(f"--{option}={folder}/munge.{end}" for option, end in files.items()))
        _wait(socket_.exists, "munged makes no socket", folder)
        start("slurmctld", "-D")
        start("slurmd", "-D")
        _wait(lambda: "idle" in _ask(("sinfo", "-h", "-o", "%T"), cluster.environment), "the node does not come up", folder)
        yield cluster


def _check(commands: Sequence[str]) -> None:
    missing = [command for command in commands if _find(command) is None]
    if missing:
        raise Unavailable(
            f"SLURM is not installed ({missing[0]} is missing): apt-get install slurmctld slurmd slurm-client munge"
        )
    if os.geteuid() != 0:
        raise Unavailable("a SLURM cluster of one's own is started by root")


def _find(command: str) -> str | None:
    return shutil.which(command, path=f"{os.environ.get('PATH', '')}:{SBIN}")


def _configure(folder: Path, cpus: int) -> None:
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    host = socket.gethostname().split(".")[0]
    conf = CONFIGURATION.format(folder=folder, host=host, cpus=min(cpus, os.cpu_count() or 1), ports=_free_ports(2))
    (folder / "slurm.conf").write_text(conf)
    (folder / "cgroup.conf").write_text(CONTROL_GROUPS.format(folder=folder))


def _free_ports(count: int) -> list[int]:
    with _sockets(count) as sockets:
        return [taken.getsockname()[1] for taken in sockets]


@contextmanager
def _sockets(count: int) -> Iterator[list[socket.socket]]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        yield sockets
    finally:
        for taken in sockets:
            taken.close()


@contextmanager
def _daemons(cluster: Cluster) -> Iterator[Callable[..., None]]:
    """start(command, *arguments) for daemons that stay in the foreground. At the end they and all jobs are gone."""
    started: list[subprocess.Popen[bytes]] = []
    logs: list[IO[bytes]] = []

    def start(command: str, *arguments: str) -> None:
        logs.append((cluster.folder / f"{command}.out").open("wb"))
        line = [str(_find(command)), *arguments]
        environment = {**os.environ, **cluster.environment}
        started.append(subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=logs[-1], stderr=logs[-1], env=environment))

    try:
        yield start
    finally:
        for daemon in reversed(started):
            daemon.terminate()
            try:
                daemon.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        while processes := _processes_of(cluster):  # of jobs that were still running, and slurmd's helpers that look after them
            for process in processes:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.05)
        for log in logs:
            log.close()


def _processes_of(cluster: Cluster) -> list[int]:
    """All that have the cluster's configuration in their environment."""
    mark = f"SLURM_CONF={cluster.environment['SLURM_CONF']}\0".encode()
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended meanwhile
            if mark in environment.read_bytes():
                found.append(int(environment.parent.name))
    return [process for process in found if process != os.getpid()]


def _ask(command: Sequence[str], environment: dict[str, str]) -> str:
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60).stdout


def _wait(condition: Callable[[], bool], otherwise: str, folder: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > until:
            said = "".join(f"\n{log.name}:\n{log.read_text()[-2000:]}" for log in sorted(folder.glob("*.out")))
            raise RuntimeError(f"SLURM does not start: {otherwise}{said}")
        time.sleep(0.1)
