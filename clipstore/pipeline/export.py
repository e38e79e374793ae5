"""Captions and models out: the tables of drawn splits, and models for other programs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv

from clipstore.catalog import Session
from clipstore.errors import DatasetError, ModelError
from clipstore.records import Row
from clipstore.store.layout import Store, split_id
from clipstore.store.models import IMPORTED, find_model
from clipstore.store.probes import check_current_probes


def export_csv(store: Store, folder: Path, *, origin: str | None = None) -> list[Row]:
    """Write a split, and those that were drawn from it, as tables of their captions: DATASET_full_data.csv for the
    whole, DATASET_PART_GROUP.csv for GROUP/PART. Photos below `folder` are named relative to it, others absolutely.

    Returns each file with its split and rows.

    Raises:
        DatasetError: no split was drawn, `origin` leaves a choice open, or a file is there already.
    """
    with store.catalog.read() as session:
        drawn = session.rows("export/drawn", origin=split_id(session, origin or _only_origin(session)))
        tables = {
            row["file"]: (row["split"], session.table("export/rows", split_id=row["split_id"], split=row["split"]))
            for row in drawn
        }
    folder.mkdir(parents=True, exist_ok=True)
    there = next((file for file in tables if (folder / file).exists()), None)
    if there:
        message = f"{folder / there} is there already: remove it, or name another folder"
        raise DatasetError(message)
    below = f"{folder.absolute()}/"
    for file, (_, table) in tables.items():
        paths = [path.removeprefix(below) for path in table["image_path"].to_pylist()]
        temporary = folder / f".{file}.tmp"
        pa_csv.write_csv(table.set_column(0, "image_path", pa.array(paths, pa.string())), temporary)
        temporary.replace(folder / file)
    return [{"file": file, "split": split, "rows": table.num_rows} for file, (split, table) in tables.items()]


def _only_origin(session: Session) -> str:
    origins = [row["name"] for row in session.rows("export/origins")]
    if len(origins) != 1:
        message = (
            f"splits were drawn from {', '.join(origins)}: say which with --from"
            if origins
            else "no split was drawn yet: 'clipstore split NAME --from SPLIT' draws"
        )
        raise DatasetError(message)
    return str(origins[0])


def export_model(store: Store, name: str, folder: Path, *, merged: bool) -> Path:
    """Write a model to a new folder: `merged`, as a CLIP that transformers opens; else its adapter alone.

    The prompt, the cleaning of captions and the orientation of images are the job's, and not written.

    Raises:
        ModelError: the folder is there already, the vectors were imported, there is no adapter to write, or the model
            gives other vectors than the store has of it.
    """
    model = find_model(store, name)
    if folder.exists():
        message = f"{folder} is there already: name a new folder"
        raise ModelError(message)
    if model.family == IMPORTED:
        message = f"the vectors of {name} were imported: the store has no model to write"
        raise ModelError(message)
    if not merged and not model.adapter:
        message = f"{name} has no adapter: write the whole model with --merged"
        raise ModelError(message)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        if merged:
            from clipstore.encoders.merged import save_merged

            save_merged(model, temporary, lambda encoder: check_current_probes(store, model, encoder))
        else:
            shutil.copytree(model.adapter or "", temporary, dirs_exist_ok=True)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder
