"""`clipstore ingest` and `clipstore split`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipstore.cli.groups import DefaultGroup
from clipstore.cli.options import Command, json_option, store_option
from clipstore.cli.removal import confirmed, yes_option

if TYPE_CHECKING:
    from clipstore.pipeline.ingest.run import Ingested
    from clipstore.store.layout import Store

_FOLDER = click.Path(path_type=Path)
_clean = click.option(
    "--clean",
    is_flag=True,
    help="Clean captions: lower case, nothing outside [a-z0-9 .,'], white space folded; drop repeats within an image, "
    "captions over 40 words, and images whose photo is missing.",
)
_replace = click.option(
    "--replace",
    is_flag=True,
    help="Replace what another place gave under the same name, or empty the data set if the source is empty. Images in "
    "no split any more are removed, and so are evaluations of splits that change (they are listed).",
)


def _images(help_text: str) -> Callable[[Command], Command]:
    return click.option("--images", type=_FOLDER, help=help_text)


@click.group()
def ingest() -> None:
    """Bring images, captions and splits into the catalog.

    The image files need not be there yet; the missing ones are counted. The same ingest again changes
    nothing, and annotations that changed are brought up to date. What a source does not state (categories,
    image sizes) stays as it was. A source from another place under the same name is refused if it differs.

    Example: clipstore ingest coco /data/coco --split val2017
    """


@ingest.command("coco")
@click.argument("root", type=_FOLDER)
@click.option("--name", default="coco", show_default=True, help="What to call the data set.")
@click.option("--split", "splits", multiple=True, help="A split, such as val2017; may be repeated. [default: all]")
@_images("The folder of the image files, or of one folder a split. [default: ROOT/<split>]")
@_clean
@_replace
@store_option
@json_option
def ingest_coco(
    root: Path,
    name: str,
    splits: tuple[str, ...],
    images: Path | None,
    store: Store,
    *,
    clean: bool,
    replace: bool,
    as_json: bool,
) -> None:
    """Ingest COCO annotations and images.

    COCO's own layout: ROOT/annotations/captions_<split>.json, and the images in ROOT/<split>/. Where
    instances_<split>.json is there too, its categories are taken in. A file_name may have its folder in it.

    Example: clipstore ingest coco /data/coco --split val2017
    """
    from clipstore.pipeline.ingest import run as verbs

    options = verbs.IngestOptions(clean=clean, replace=replace, images=images)
    _print(verbs.ingest_coco(store, root, name=name, splits=splits, options=options), as_json=as_json)


@ingest.command("flickr")
@click.argument("root", type=_FOLDER)
@click.option("--name", help="What to call the data set. [default: flickr8k or flickr30k, by the captions file]")
@_images("The folder of the image files. [default: a well-known one below ROOT]")
@_clean
@_replace
@store_option
@json_option
def ingest_flickr(
    root: Path, name: str | None, images: Path | None, store: Store, *, clean: bool, replace: bool, as_json: bool
) -> None:
    """Ingest Flickr8k or Flickr30k captions, images and splits.

    Their own layout: a captions file, the image folder, split lists. The captions file is
    Flickr8k.token.txt or captions.txt, or Flickr30k's results_20130124.token or results.csv. Makes
    NAME/train, NAME/dev and NAME/test where their lists are there, and NAME/all.

    Example: clipstore ingest flickr /data/flickr8k
    """
    from clipstore.pipeline.ingest import run as verbs

    options = verbs.IngestOptions(clean=clean, replace=replace, images=images)
    _print(verbs.ingest_flickr(store, root, name=name, options=options), as_json=as_json)


@ingest.command("karpathy")
@click.argument("file", type=_FOLDER)
@click.argument("root", type=_FOLDER)
@click.option("--name", help="What to call the data set. [default: as the file says]")
@_clean
@_replace
@store_option
@json_option
def ingest_karpathy(
    file: Path, root: Path, name: str | None, store: Store, *, clean: bool, replace: bool, as_json: bool
) -> None:
    """Ingest a file of Karpathy's splits.

    FILE is dataset_coco.json or its like, the images lie below ROOT. Makes NAME/train,
    NAME/restval, NAME/val and NAME/test.

    Example: clipstore ingest karpathy dataset_coco.json /data/coco
    """
    from clipstore.pipeline.ingest import run as verbs

    options = verbs.IngestOptions(clean=clean, replace=replace)
    _print(verbs.ingest_karpathy(store, file, root, name=name, options=options), as_json=as_json)


@ingest.command("csv")
@click.argument("file", type=_FOLDER)
@click.option("--name", help="What to call the data set. [default: the file's name]")
@_images("The folder that relative paths begin at. [default: the file's own]")
@_clean
@_replace
@store_option
@json_option
def ingest_csv(
    file: Path, name: str | None, images: Path | None, store: Store, *, clean: bool, replace: bool, as_json: bool
) -> None:
    """Ingest a CSV file of image paths and captions.

    Its columns are image_path, caption and, optionally, image_id, caption_id, split. They are separated by
    ',', ';', a tab or '|'. Common other names of the two needed columns are recognized, such as filepath
    and title, or file_name and text. Paths are absolute, or relative to the file. Without a split column,
    all rows are NAME/all; all captions of an image are in one split.

    Example: clipstore ingest csv photos/captions.csv --name holidays
    """
    from clipstore.pipeline.ingest import run as verbs

    options = verbs.IngestOptions(clean=clean, replace=replace, images=images)
    _print(verbs.ingest_csv(store, file, name=name, options=options), as_json=as_json)


@click.command("split")
@click.argument("name")
@click.option("--from", "origin", required=True, help="The split to draw from, such as coco/train2014.")
@click.option("--images", type=click.IntRange(min=2), help="How many images to draw. [default: all]")
@click.option(
    "--validation",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.2,
    show_default=True,
    help="The share of the drawn images that goes into NAME/val.",
)
@click.option("--seed", default=42, show_default=True, help="Another seed draws other images.")
@store_option
@json_option
def draw(
    name: str, origin: str, images: int | None, validation: float, seed: int, store: Store, *, as_json: bool
) -> None:
    """Draw NAME/train and NAME/val from a split.

    Images are drawn by seed, each with all its captions.

    Example: clipstore split 20k --from coco/train2014 --images 20000
    """
    from clipstore.pipeline.split import draw_split
    from clipstore.reporting.tables import print_json, print_table

    sizes = draw_split(store, name, origin=origin, images=images, validation=validation, seed=seed)
    if as_json:
        print_json({"splits": sizes})
    else:
        print_table(sizes)


split = DefaultGroup(draw)


@split.command("remove")
@click.argument("name", required=False)
@click.option("--from", "origin", hidden=True)
@yes_option
@store_option
@json_option
def remove(name: str | None, origin: str | None, store: Store, *, yes: bool, as_json: bool) -> None:
    """Remove a split, with its evaluations.

    NAME is a split of a data set, such as coco/val2017, or a group that was drawn, such as 20k. A split that
    others were drawn from is kept until they are removed. Images that no other split has go too.

    Example: clipstore split remove 20k --yes
    """
    from clipstore.pipeline.removal import remove_split

    if origin:
        raise click.UsageError("splits cannot be named 'remove', which is a command: choose another name")
    if not name:
        raise click.UsageError("Missing argument 'NAME'.")
    confirmed(lambda trial: remove_split(store, name, dry_run=trial), yes=yes, as_json=as_json)


def _print(done: Ingested, *, as_json: bool) -> None:
    from clipstore.reporting.tables import print_json, print_table

    for warning in done.warnings:
        click.echo(f"clipstore: warning: {warning}", err=True)
    if as_json:
        print_json(done.row())
        return
    print_table(done.splits, empty="the source has no splits")
    if done.cleaned is not None:
        dropped = ", ".join(f"{count:,} {what}" for what, count in done.cleaned.items() if count)
        click.echo(f"{done.dataset}: captions cleaned; dropped: {dropped or 'nothing'}")
    changed = ", ".join(f"{count:,} {what}" for what, count in done.changes.items() if count)
    click.echo(f"{done.dataset}: {changed or 'nothing changed'}")
    for row in done.forgotten:
        split = row["split"] or "a split that is gone"
        click.echo(f"{split} is no longer what {row['model']} was measured on: evaluation removed, run eval again")
