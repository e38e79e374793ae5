"""`clipstore import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipstore.cli.options import NonEmptyPath, json_option, store_option

if TYPE_CHECKING:
    from clipstore.store.layout import Store

_FILE = NonEmptyPath()


@click.command("import")
@click.argument("name")
@click.option("--split", required=True, help="The split of the images and captions.")
@click.option("--images", required=True, type=_FILE, help="Image vectors: .npy, (N, D).")
@click.option("--image-ids", required=True, type=_FILE, help="Source ids of the images: .npy, (N,).")
@click.option("--captions", required=True, type=_FILE, help="Caption vectors: .npy, (M, D).")
@click.option("--caption-ids", required=True, type=_FILE, help="Source ids of the captions: .npy, (M,).")
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
    """Import precomputed vectors as the model NAME.

    Vectors are scaled to unit length. Ids are those of the split's dataset (such as COCO's image and
    annotation ids), integers or strings.

    \b
    Example: clipstore import siglip --split coco/val2017 --images images.npy
             --image-ids image_ids.npy --captions captions.npy
             --caption-ids caption_ids.npy
    """
    from clipstore.pipeline.import_vectors import import_vectors as run
    from clipstore.reporting.tables import print_json, print_table

    rows = run(store, name, split, images=(images, image_ids), captions=(captions, caption_ids))
    if as_json:
        print_json({"imported": rows})
    else:
        print_table(rows)
