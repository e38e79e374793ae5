"""Names of what training writes below STORE/adapters/MODEL: two folders with an adapter each, and the metrics."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

BEST = "best"  # the checkpoint of the best epoch: the model
LAST = "last"  # the latest checkpoint: training resumes from it
METRICS = "metrics.csv"  # a line per epoch

# In each of the two folders, in addition to PEFT's files.
HEADS = "heads.safetensors"  # trained projection heads and temperature, if any
TRAINING_RECORD = "training.json"  # base, settings, data, software and position of the training
TRAINING_IMAGES = "training_images.txt"  # the SHA-256 of each image file trained on
STATE = "state.pt"  # LAST only: optimizer, random number generators and hard negatives
CHECKSUMS = "SHA256SUMS"  # SHA-256 of every other file of the folder, as sha256sum(1) writes and checks it


def write_checksums(folder: Path) -> None:
    """Write the checksums of the files in a folder into it, in place of those that it has."""
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and file.name != CHECKSUMS]
    lines = [f"{_digest(file)}  {file.name}\n" for file in files]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def changed_files(folder: Path) -> dict[str, str]:
    """The files of a folder that differ from its checksums, with the problem; empty where it has no checksums."""
    changed: dict[str, str] = {}
    file = folder / CHECKSUMS
    if not file.is_file():  # a named pipe would be waited for
        return {CHECKSUMS: "it is not a regular file"} if os.path.lexists(file) else {}
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        digest, separator, name = line.partition("  ")
        if not separator or "/" in name or not name:
            changed[CHECKSUMS] = "a line is not a checksum and a name"
        elif not (folder / name).is_file():
            changed[name] = f"it is missing, and {CHECKSUMS} lists it"
        elif _digest(folder / name) != digest:
            changed[name] = f"it does not match {CHECKSUMS}"
    return changed


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
