"""Plan files encoded by a job array of a real Slurm, with the packaged scripts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import run_command
from slurm_daemons import missing_programs, slurm, wait_for_jobs, wait_for_state

from clipstore.pipeline.embed import plan as embed_plan

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(missing_programs()), reason=f"not installed: {', '.join(missing_programs())}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons run as root"),
]

Run = Callable[..., Any]
SCRIPTS = Path(__file__).parents[2] / "jobs" / "slurm"
ITEMS = 40


@pytest.fixture
def planned(cli: Run, test_data: Path, tmp_path: Path) -> Path:
    cli("ingest", "coco", test_data / "coco-mini")
    cli("plan", "--model", "demo", "--items", ITEMS, "--out", tmp_path / "plans")
    return tmp_path / "plans"


def test_an_array_with_a_task_that_is_cancelled_and_requeued(
    planned: Path, cli_json: Run, store: Path, test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slurm").mkdir()
    with slurm(tmp_path / "slurm") as environment:
        binaries = Path(sys.executable).parent
        environment |= {"PATH": f"{binaries}:{environment['PATH']}", "CLIPSTORE_STORE": str(store)}

        def submit(*words: str) -> str:
            command = ["sbatch", "--parsable", *words, str(planned)]
            return subprocess.run(
                command, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True
            ).stdout.strip()

        array = submit("--array=0-7", str(SCRIPTS / "embed.sbatch"))
        registering = submit(f"--dependency=afterany:{array}", str(SCRIPTS / "register.sbatch"))
        wait_for_state(environment, f"{array}_1", "RUNNING", 60)
        for command in (["scancel", f"{array}_1"], ["scontrol", "requeue", f"{array}_1"]):
            subprocess.run(command, env=environment, check=True)
        wait_for_jobs(environment, 300)
    log = (tmp_path / f"clipstore-embed-{array}-1.log").read_text()
    assert "CANCELLED" in log
    assert "demo" in log
    assert "not encoded" in (tmp_path / f"clipstore-register-{registering}.log").read_text()
    result = cli_json("register", planned)
    assert (result["plans"], result["missing"], result["problems"]) == (24, [], [])

    monkeypatch.setattr(embed_plan, "ITEMS_PER_SHARD", {"image": ITEMS, "text": ITEMS})
    other = tmp_path / "other"
    run_command(other, "ingest", "coco", test_data / "coco-mini")
    run_command(other, "embed", "--model", "demo")
    files = {path.relative_to(store): path.read_bytes() for path in (store / "shards").rglob("*.h5")}
    assert files == {path.relative_to(other): path.read_bytes() for path in (other / "shards").rglob("*.h5")}
    assert json.loads(run_command(store, "verify", "--json").stdout)["problems"] == []
