"""`clipstore export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipstore.cli.options import NonEmptyPath, json_option, safe_csv_option, store_option
from clipstore.cli.output import echo

if TYPE_CHECKING:
    from clipstore.store.layout import Store

_FOLDER = NonEmptyPath()


@click.group()
def export() -> None:
    """Export vectors, captions or models.

    Example: clipstore export vectors --model demo --split scenes/val out
    """


@export.command("vectors")
@click.option("--model", required=True, help="The model.")
@click.option("--split", required=True, help="The split.")
@click.argument("folder", type=_FOLDER)
@click.option("--partial", is_flag=True, help="Export only the items embedded so far.")
@store_option
@json_option
def vectors(model: str, split: str, folder: Path, store: Store, *, partial: bool, as_json: bool) -> None:
    """Export a split's vectors as numpy and parquet.

    In the layout of clip-retrieval, one row per caption: FOLDER/img_emb/img_emb_0.npy,
    FOLDER/text_emb/text_emb_0.npy, FOLDER/metadata/metadata_0.parquet. The metadata identify items by the
    ids of their dataset, image_source_id and caption_source_id, as 'clipstore import' reads them.

    Example: clipstore export vectors --model demo --split scenes/val out
    """
    from clipstore.pipeline.export import export_vectors
    from clipstore.reporting.tables import print_json

    result = export_vectors(store, model, split, folder, partial=partial)
    if as_json:
        print_json(result)
        return
    echo(f"{result['rows']:,} rows (one per caption) in {folder}")
    for key in ("left_out", "pending"):
        images, captions = result[f"{key}_images"], result[f"{key}_captions"]
        if images or captions:
            echo(f"{key.replace('_', ' ')}: {images:,} images, {captions:,} captions")


@export.command("csv")
@click.argument("folder", type=_FOLDER)
@click.option("--from", "origin", help="The split that others were drawn from. [default: the only one]")
@safe_csv_option(default=True)
@store_option
@json_option
def csv(folder: Path, origin: str | None, store: Store, *, safe_csv: bool, as_json: bool) -> None:
    """Export a split and those drawn from it as CSV files.

    With 20k and full drawn from coco/train2014: coco_full_data.csv, coco_train_20k.csv, coco_val_20k.csv,
    coco_train_full.csv, coco_val_full.csv. Columns: image_path, caption, image_id, caption_id, split.
    Images below FOLDER have relative paths, others absolute ones; 'clipstore ingest csv' reads both. Text that a
    spreadsheet would run as a formula gets an apostrophe before it: use --exact-csv for files to be ingested again.

    Example: clipstore export csv /data/coco --from coco/train2014
    """
    from clipstore.pipeline.export import export_csv
    from clipstore.reporting.tables import print_json, print_table

    rows = export_csv(store, folder, origin=origin, safe=safe_csv)
    if as_json:
        print_json({"folder": str(folder), "files": rows})
    else:
        print_table(rows)


@export.command("model")
@click.argument("name")
@click.argument("folder", type=_FOLDER)
@click.option("--merged", is_flag=True, help="Write base and adapter as one model. [default: the adapter only]")
@store_option
@json_option
def model(name: str, folder: Path, store: Store, *, merged: bool, as_json: bool) -> None:
    """Export a model for other programs.

    With --merged, FOLDER is a plain model that transformers' from_pretrained opens and that gives the same
    vectors. Without, it is a PEFT adapter, with heads.safetensors if the heads were trained.

    Example: clipstore export model full models/full --merged
    """
    from clipstore.pipeline.export import export_model
    from clipstore.reporting.tables import print_json

    path = export_model(store, name, folder, merged=merged)
    if as_json:
        print_json({"model": name, "folder": str(path), "merged": merged})
    else:
        echo(f"{name}: {'the whole model' if merged else 'the adapter'} is in {path}")
