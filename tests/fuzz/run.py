"""Give a target inputs."""

from __future__ import annotations

import shutil
import traceback
import warnings
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded

from clipstore.process import ignore_image_warnings
from fuzz.targets import Target


def fuzz(target: Target, folder: Path, *, examples: int, seed: int) -> str | None:
    """Read about as many inputs as `examples` says; the smallest input found that gives another error than clipstore's
    own, and that error, or None.
    """
    problem = None

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(target.inputs)
    def read(data: bytes) -> None:
        nonlocal problem
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            with warnings.catch_warnings():
                ignore_image_warnings()
                target.read(data, folder)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            problem = f"{type(error).__name__}: {error} ({place.filename}:{place.lineno}) for {data!r}"
            raise

    try:
        seeded(seed)(read)()
    except Exception:  # noqa: BLE001  (what a target must not raise is what is looked for)
        return problem or traceback.format_exc()
    return None
