"""`clipstore export`: vectors, captions and models for other programs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from clipstore.catalog import Session
from clipstore.errors import ClipstoreError, DatasetError, ModelError, VectorError
from clipstore.records import IMPORTED, Row
from clipstore.store.gallery import find_gallery
from clipstore.store.layout import Store, split_id
from clipstore.store.models import find_model
from clipstore.store.probes import check_current_probes

_ROWS = 32768  # written at a time


def export_vectors(store: Store, model_name: str, split: str, folder: Path, *, partial: bool = False) -> Row:
    """Write a split's vectors in the layout of clip-retrieval, one row per caption.

    FOLDER/img_emb/img_emb_0.npy and FOLDER/text_emb/text_emb_0.npy have the shape (rows, D): row i of them is the
    vector of the image and of the caption in row i of FOLDER/metadata/metadata_0.parquet, which has the columns
    image_path, caption, image_source_id and caption_source_id. The ids are those of the dataset, as `import_vectors`
    reads them.

    Returns the number of rows, of images and captions left out, and warnings.

    Raises:
        VectorError: the folder exists, or items have no vectors yet (and not `partial`).
    """
    _check_new(folder, VectorError)
    model = find_model(store, model_name)
    with store.catalog.read() as session:
        gallery = find_gallery(store, session, model, split, partial=partial)
        captions = gallery.texts.table["caption_id"]
        session.stage(exported=pa.table({"caption_id": captions, "place": np.arange(len(captions))}))
        metadata = session.table("export/metadata")
    with _complete_folder(folder) as temporary:
        for kind in ("img_emb", "text_emb", "metadata"):
            (temporary / kind).mkdir()
        _save(temporary / "img_emb" / "img_emb_0.npy", gallery.images.take(gallery.pairs[:, 0]).vectors)
        _save(temporary / "text_emb" / "text_emb_0.npy", gallery.texts.vectors)
        pq.write_table(metadata, temporary / "metadata" / "metadata_0.parquet")
    warnings = list(gallery.images.warnings)
    return {"folder": str(folder), "rows": metadata.num_rows, **gallery.missing, "warnings": warnings}


def export_csv(store: Store, folder: Path, *, origin: str | None = None) -> list[Row]:
    """Write the captions of a split, and of the splits drawn from it, as CSV files.

    The file of the whole split is DATASET_full_data.csv, that of GROUP/PART is DATASET_PART_GROUP.csv. Image files
    below `folder` have relative paths, others absolute ones.

    Returns the file, the split and the number of rows of each.

    Raises:
        DatasetError: no split was drawn, `origin` is needed, or a file exists.
    """
    with store.catalog.read() as session:
        drawn = session.rows("export/drawn", origin=split_id(session, origin or _only_origin(session)))
        tables = {
            row["file"]: (row["split"], session.table("export/captions", split_id=row["split_id"], split=row["split"]))
            for row in drawn
        }
    folder.mkdir(parents=True, exist_ok=True)
    existing = next((file for file in tables if (folder / file).exists()), None)
    if existing:
        message = f"{folder / existing} exists already: remove it, or name another folder"
        raise DatasetError(message)
    prefix = f"{folder.absolute()}/"
    for file, (_, table) in tables.items():
        paths = [path.removeprefix(prefix) for path in table["image_path"].to_pylist()]
        temporary = folder / f".{file}.tmp"
        pa_csv.write_csv(table.set_column(0, "image_path", pa.array(paths, pa.string())), temporary)
        temporary.replace(folder / file)
    return [{"file": file, "split": split, "rows": table.num_rows} for file, (split, table) in tables.items()]


def export_model(store: Store, name: str, folder: Path, *, merged: bool) -> Path:
    """Write a model to a new folder: with `merged` as a CLIP that transformers opens, else only its adapter.

    The prompt, the cleaning of captions and the orientation of images belong to the job and are not written.

    Raises:
        ModelError: the folder exists, the vectors were imported, there is no adapter to write, or the model gives other
            vectors than those in the store.
    """
    model = find_model(store, name)
    _check_new(folder, ModelError)
    if model.family == IMPORTED:
        message = f"the vectors of {name} were imported: the store has no model to write"
        raise ModelError(message)
    if not merged and not model.adapter:
        message = f"{name} has no adapter: write the whole model with --merged"
        raise ModelError(message)
    with _complete_folder(folder) as temporary:
        if merged:
            from clipstore.encoders.merged import save_merged

            save_merged(model, temporary, lambda encoder: check_current_probes(store, model, encoder))
        else:
            shutil.copytree(model.adapter or "", temporary, dirs_exist_ok=True)
    return folder


def _only_origin(session: Session) -> str:
    """The split that others were drawn from, if there is exactly one."""
    origins = [row["name"] for row in session.rows("export/origins")]
    if len(origins) != 1:
        message = (
            f"splits were drawn from {', '.join(origins)}: choose one with --from"
            if origins
            else "no split was drawn yet: 'clipstore split NAME --from SPLIT' draws one"
        )
        raise DatasetError(message)
    return str(origins[0])


def _check_new(folder: Path, error: type[ClipstoreError]) -> None:
    if folder.exists():
        message = f"{folder} exists already: name a new folder"
        raise error(message)


@contextmanager
def _complete_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that gets its final name when the block ends, and is deleted on an error."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _save(file: Path, rows: Any) -> None:
    """Write rows, which slice like an array, as .npy in steps."""
    out = np.lib.format.open_memmap(file, mode="w+", dtype=rows.dtype, shape=rows.shape)
    for start in range(0, rows.shape[0], _ROWS):
        out[start : start + _ROWS] = rows[start : start + _ROWS]
    out.flush()
