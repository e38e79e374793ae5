"""A full disk: writes fail beyond a file size (RLIMIT_FSIZE), or on a small file system in memory.

A command ends with one line that says so, nothing partial remains, and with room again the same command completes.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import cycle, islice
from pathlib import Path
from random import Random

from torture.attacks import Outcome
from torture.processes import Limits, Result, run
from torture.workspaces import Task, Workspaces, content, differences


def _tasks(workspaces: Workspaces) -> list[Task]:
    export = ("export", "vectors", "--model", "demo", "--split", "t/val", "out")
    report = ("report", "--split", "t/val", "--map", "none", "--out", "report.html")
    return [*workspaces.tasks, Task("evaluated", export), Task("evaluated", report)]


def limited_files(workspaces: Workspaces, random: Random, count: int) -> Iterator[Outcome]:
    """Files that cannot grow beyond a random size."""
    for task in islice(cycle(_tasks(workspaces)), count):
        limit = int(2 ** random.uniform(8, 21))
        workspace = workspaces.copy(task.state)
        result = run(workspace, *task.words, limits=Limits(file_size=limit))
        fault = _recovered(workspaces, workspace, task, result)
        yield Outcome(f"{task.words[0]} with files of at most {limit:,} bytes", fault)


def full_disks(workspaces: Workspaces, random: Random, count: int) -> Iterator[Outcome]:
    """A small file system that fills up; skipped where none can be mounted."""
    for task in islice(cycle(_tasks(workspaces)), count):
        prepared = workspaces.copy(task.state)
        used = sum(file.stat().st_size for file in prepared.rglob("*") if file.is_file())
        room = int(2 ** random.uniform(12, 21))
        with _mounted(prepared.with_suffix(".disk"), used + room + 2**16) as disk:
            if disk is None:
                return
            workspace = Path(shutil.copytree(prepared, disk / "workspace"))
            result = run(workspace, *task.words)
            (disk / "workspace").rename(disk / "kept")
            shutil.rmtree(prepared)
            shutil.copytree(disk / "kept", prepared)
        yield Outcome(f"{task.words[0]} with {room:,} bytes free", _recovered(workspaces, prepared, task, result))


@contextmanager
def _mounted(folder: Path, size: int) -> Iterator[Path | None]:
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
        with suppress(OSError):
            folder.rmdir()


def _recovered(workspaces: Workspaces, workspace: Path, task: Task, result: Result) -> str | None:
    """Run the command with room; why it did not fail well, or the result differs from that of a run with room."""
    if result.fault:
        return result.fault
    partial = [path.name for path in workspace.rglob("*") if path.name.endswith((".partial", ".tmp"))]
    if partial:
        return f"left over: {', '.join(partial)}"
    if result.code:
        again = run(workspace, *task.words)
        if again.code:
            return f"the same command fails with room: {again.stderr.strip()}"
    changed = differences(workspaces.result(task), content(workspace))
    return f"different: {', '.join(changed)}" if changed else None
