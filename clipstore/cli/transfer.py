"""`clipstore import` and `clipstore export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipstore.cli.options import json_option, store_option

if TYPE_CHECKING:
    from clipstore.store.layout import Store

_FILE = click.Path(path_type=Path)


@click.command("import")
@click.argument("name")
@click.option("--split", required=True, help="The split whose items the vectors are of.")
@click.option("--images", required=True, type=_FILE, help="Image vectors: .npy, (N, D).")
@click.option("--image-ids", required=True, type=_FILE, help="Their images' source ids: .npy, (N,).")
@click.option("--captions", required=True, type=_FILE, help="Caption vectors: .npy, (M, D).")
@click.option("--caption-ids", required=True, type=_FILE, help="Their captions' source ids: .npy, (M,).")
@store_option
@json_option
def import_vectors(
    name: str,
    split: str,
    images: Path,
    image_ids: Path,
    captions: Path,
    caption_ids: Path,
    store: Store,
    *,
    as_json: bool,
) -> None:
    """Import vectors made elsewhere as the model NAME.

    Vectors are scaled to unit length. Ids are those of the split's own data set (COCO's image and
    annotation ids, for instance), integers or strings.

    \b
    Example: clipstore import siglip --split coco/val2017 --images images.npy --image-ids image_ids.npy
             --captions captions.npy --caption-ids caption_ids.npy
    """
    from clipstore.pipeline import transfer
    from clipstore.reporting.tables import print_json, print_table

    rows = transfer.import_vectors(store, name, split, images=(images, image_ids), captions=(captions, caption_ids))
    if as_json:
        print_json({"imported": rows})
    else:
        print_table(rows)


@click.group()
def export() -> None:
    """Export vectors, captions or models.

    Example: clipstore export vectors --model demo --split scenes/val out
    """


@export.command("vectors")
@click.option("--model", required=True, help="The model.")
@click.option("--split", required=True, help="The split.")
@click.argument("folder", type=_FILE)
@click.option("--partial", is_flag=True, help="Export what is embedded so far.")
@store_option
@json_option
def export_vectors(model: str, split: str, folder: Path, store: Store, *, partial: bool, as_json: bool) -> None:
    """Export a split's vectors as numpy and parquet.

    In clip-retrieval's layout, one row a caption: FOLDER/img_emb/img_emb_0.npy,
    FOLDER/text_emb/text_emb_0.npy, FOLDER/metadata/metadata_0.parquet. The metadata name items by the
    data set's own ids, image_source_id and caption_source_id, as 'clipstore import' takes them.

    Example: clipstore export vectors --model demo --split scenes/val out
    """
    from clipstore.pipeline import transfer
    from clipstore.reporting.tables import print_json

    told = transfer.export_vectors(store, model, split, folder, partial=partial)
    if as_json:
        print_json(told)
        return
    click.echo(f"{told['rows']:,} rows (one a caption) in {folder}")
    for key in ("left_out", "pending"):
        images, captions = told[f"{key}_images"], told[f"{key}_captions"]
        if images or captions:
            click.echo(f"{key.replace('_', ' ')}: {images:,} images, {captions:,} captions")


@export.command("csv")
@click.argument("folder", type=_FILE)
@click.option("--from", "origin", help="The split that others were drawn from. [default: where there is but one]")
@store_option
@json_option
def export_csv(folder: Path, origin: str | None, store: Store, *, as_json: bool) -> None:
    """Export a split and those drawn from it as CSV files.

    With 20k and full drawn from coco/train2014: coco_full_data.csv, coco_train_20k.csv, coco_val_20k.csv,
    coco_train_full.csv, coco_val_full.csv. Columns: image_path, caption, image_id, caption_id, split.
    Images below FOLDER have relative paths, others absolute ones; 'clipstore ingest csv' reads both.

    Example: clipstore export csv /data/coco --from coco/train2014
    """
    from clipstore.pipeline import export as verb
    from clipstore.reporting.tables import print_json, print_table

    rows = verb.export_csv(store, folder, origin=origin)
    if as_json:
        print_json({"folder": str(folder), "files": rows})
    else:
        print_table(rows)


@export.command("model")
@click.argument("name")
@click.argument("folder", type=_FILE)
@click.option("--merged", is_flag=True, help="Base and adapter in one; without it, the adapter alone.")
@store_option
@json_option
def export_model(name: str, folder: Path, store: Store, *, merged: bool, as_json: bool) -> None:
    """Export a model for other programs.

    With --merged, FOLDER is a plain CLIP that CLIPModel.from_pretrained opens and that gives the same
    vectors; without, a PEFT adapter (with heads.safetensors beside it where the heads were trained).

    Example: clipstore export model full models/full --merged
    """
    from clipstore.pipeline import export as verb
    from clipstore.reporting.tables import print_json

    place = verb.export_model(store, name, folder, merged=merged)
    if as_json:
        print_json({"model": name, "folder": str(place), "merged": merged})
    else:
        click.echo(f"{name}: {'the whole model' if merged else 'the adapter'} is in {place}")
