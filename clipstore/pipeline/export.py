"""`clipstore export`: vectors, captions and models for other programs."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipstore.catalog import Session
from clipstore.csv_text import csv_text, safe_field
from clipstore.errors import ClipstoreError, DatasetError, ModelError, VectorError
from clipstore.files import named_error, remove_leftovers, temporary_path, whole_file
from clipstore.records import IMPORTED, Row
from clipstore.store.gallery import find_gallery
from clipstore.store.hard_negatives import refuse_hard_negatives
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


def export_csv(store: Store, folder: Path, *, origin: str | None = None, safe: bool = True) -> list[Row]:
    """Write the captions of a split, and of the splits drawn from it, as CSV files.

    The file of the whole split is DATASET_full_data.csv, that of GROUP/PART is DATASET_PART_GROUP.csv. Image files
    below `folder` have relative paths, others absolute ones. With `safe`, text that a spreadsheet would run as a
    formula has an apostrophe before it.

    Returns the file, the split, the number of rows, and that of fields that `safe` changed.

    Raises:
        DatasetError: no split was drawn, `origin` is needed, or a file exists with other contents.
        VectorError: the split has hard negatives, which the files would list as captions.
        OSError: a file cannot be written; none of them is new then.
    """
    with store.catalog.read() as session:
        origin = origin or _only_origin(session)
        refuse_hard_negatives(session, origin)
        drawn = session.rows("export/drawn", origin=split_id(session, origin))
        tables = {
            row["file"]: (row["split"], session.table("export/captions", split_id=row["split_id"], split=row["split"]))
            for row in drawn
        }
    folder.mkdir(parents=True, exist_ok=True)
    changed: dict[str, int] = {}
    with ExitStack() as files:  # all are written before the first gets its name
        for file, (_, table) in tables.items():
            text, changed[file] = _captions_csv(table, folder, safe=safe)
            temporary = files.enter_context(whole_file(folder / file))
            temporary.write_text(text, encoding="utf-8", newline="")
            if (folder / file).exists() and not filecmp.cmp(folder / file, temporary, shallow=False):
                message = f"{folder / file} exists already and differs: remove it, or name another folder"
                raise DatasetError(message)
    return [
        {"file": file, "split": split, "rows": table.num_rows, "escaped": changed[file]}
        for file, (split, table) in tables.items()
    ]


def _captions_csv(table: pa.Table, folder: Path, *, safe: bool) -> tuple[str, int]:
    """A split's captions as CSV, and the number of fields that `safe` changed."""
    prefix = f"{folder.absolute()}/"
    rows = [[row.pop("image_path").removeprefix(prefix), *row.values()] for row in table.to_pylist()]
    written = rows
    if safe:  # "./" before a relative path names the same file
        written = [[f"./{path}" if safe_field(path) != path else path, *map(safe_field, rest)] for path, *rest in rows]
    fields, written_fields = chain.from_iterable(rows), chain.from_iterable(written)
    changed = sum(field != other for field, other in zip(fields, written_fields, strict=True))
    return csv_text([table.column_names, *written]), changed


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
    """A temporary folder that gets its final name when the block ends, and is deleted on an error.

    Raises:
        OSError: the folder cannot be written.
    """
    remove_leftovers(folder)
    temporary = temporary_path(folder)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(folder)
    except OSError as error:
        raise named_error(error, folder) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _save(file: Path, rows: Any) -> None:
    """Write rows, which slice like an array, as .npy in steps; a file mapped to memory would crash on a full disk."""
    header = {"descr": np.lib.format.dtype_to_descr(rows.dtype), "fortran_order": False, "shape": rows.shape}
    with file.open("wb") as out:
        np.lib.format.write_array_header_1_0(out, header)
        for start in range(0, rows.shape[0], _ROWS):
            out.write(np.ascontiguousarray(rows[start : start + _ROWS]).data)
