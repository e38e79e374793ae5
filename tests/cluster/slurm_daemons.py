"""Slurm's daemons on this machine, with a configuration and a key of their own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "squeue")
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_SECONDS = 60.0  # to start

_CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
NodeName={host} CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing_programs() -> list[str]:
    """The programs of Slurm and MUNGE that are not installed."""
    return [name for name in PROGRAMS if not shutil.which(name, path=_PATH)]


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Run a cluster of one node with two CPUs; the environment in which Slurm's commands use it."""
    folder.chmod(0o711)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    host = socket.gethostname().split(".")[0]
    controller, node = _free_ports()
    configuration = folder / "slurm.conf"
    configuration.write_text(_CONFIGURATION.format(host=host, controller=controller, node=node, folder=folder))
    environment = os.environ | {"SLURM_CONF": str(configuration), "PATH": _PATH}
    munge = [f"--{name}={folder}/munge.{name}" for name in ("socket",)]
    munge += [f"--key-file={folder}/munge.key", f"--pid-file={folder}/munge.pid", f"--log-file={folder}/munge.log"]
    commands = [
        ["munged", "--foreground", "--force", *munge, f"--seed-file={folder}/munge.seed"],
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D"],
    ]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            with (folder / f"{command[0]}.out").open("wb") as output:
                daemons.append(subprocess.Popen(command, env=environment, stdout=output, stderr=output))
            if command[0] == "munged":
                _wait((folder / "munge.socket").exists, "munged")
        _wait(lambda: "idle" in _output(["sinfo", "--noheader", "--format=%T"], environment), "slurmd")
        yield environment
    finally:
        subprocess.run(["scancel", "--user", "root", "--signal=KILL"], env=environment, check=False)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(_SECONDS)


def wait_for_jobs(environment: dict[str, str], seconds: float) -> None:
    """Wait until no job is pending or running."""
    _wait(lambda: not _output(["squeue", "--noheader"], environment).strip(), "the jobs", seconds)


def wait_for_state(environment: dict[str, str], job: str, state: str, seconds: float) -> None:
    """Wait until a job, such as 3_1, is in a state."""
    _wait(lambda: f"JobState={state}" in _output(["scontrol", "show", "job", job], environment), f"job {job}", seconds)


def _output(command: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout


def _wait(is_ready, what: str, seconds: float = _SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not is_ready():
        assert time.monotonic() < deadline, f"{what}: not ready after {seconds:.0f} seconds"
        time.sleep(0.2)


def _free_ports() -> list[int]:
    with socket.socket() as first, socket.socket() as second:
        for one in (first, second):
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in (first, second)]
