"""`clipstore ingest`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipstore.cli.options import Command, NonEmptyPath, json_option, store_option
from clipstore.cli.output import echo, print_warning

if TYPE_CHECKING:
    from clipstore.pipeline.ingest.run import IngestResult
    from clipstore.store.layout import Store

_PATH = NonEmptyPath()
_clean = click.option(
    "--clean",
    is_flag=True,
    help="Clean captions: lower case, only [a-z0-9 .,'], whitespace collapsed; drop captions repeated within an image, "
    "captions over 40 words, and images without an image file.",
)
_replace = click.option(
    "--replace",
    is_flag=True,
    help="Replace the data of another source under the same name; an empty source empties the dataset. Images "
    "that are in no split any more are removed, and so are evaluations of splits that change (they are listed).",
)
_follow_links = click.option(
    "--follow-links", is_flag=True, help="Accept image files that symbolic links lead out of the source's folder."
)


def _images(help_text: str) -> Callable[[Command], Command]:
    return click.option("--images", type=_PATH, help=help_text)


@click.group()
def ingest() -> None:
    """Read images, captions and splits into the catalog.

    Image files may be missing: they are reported. Ingesting the same source again changes nothing; if its
    annotations changed, the catalog is updated. Fields absent from the source (categories, image sizes)
    are unchanged. Another source under the same name is refused if it differs.

    Example: clipstore ingest coco /data/coco --split val2017
    """


@ingest.command("coco")
@click.argument("root", type=_PATH)
@click.option("--name", default="coco", show_default=True, help="The name of the dataset.")
@click.option("--split", "splits", multiple=True, help="A split, such as val2017; may be repeated. [default: all]")
@_images("The folder of the image files, or of a folder for each split. [default: ROOT/<split>]")
@_clean
@_replace
@_follow_links
@store_option
@json_option
def coco(
    root: Path,
    name: str,
    splits: tuple[str, ...],
    images: Path | None,
    store: Store,
    *,
    clean: bool,
    replace: bool,
    follow_links: bool,
    as_json: bool,
) -> None:
    """Ingest COCO annotations and images.

    The layout of COCO: ROOT/annotations/captions_<split>.json, and the images in ROOT/<split>/. If
    instances_<split>.json exists, its categories are ingested too. A file_name may contain a folder.

    Example: clipstore ingest coco /data/coco --split val2017
    """
    from clipstore.pipeline.ingest.run import IngestOptions, ingest_coco

    options = IngestOptions(clean=clean, replace=replace, images=images, follow_links=follow_links)
    _print(ingest_coco(store, root, name=name, splits=splits, options=options), as_json=as_json)


@ingest.command("flickr")
@click.argument("root", type=_PATH)
@click.option("--name", help="The name of the dataset. [default: flickr8k or flickr30k, by the captions file]")
@_images("The folder of the image files. [default: detected below ROOT]")
@_clean
@_replace
@_follow_links
@store_option
@json_option
def flickr(
    root: Path,
    name: str | None,
    images: Path | None,
    store: Store,
    *,
    clean: bool,
    replace: bool,
    follow_links: bool,
    as_json: bool,
) -> None:
    """Ingest Flickr8k or Flickr30k captions, images and splits.

    The layout of these datasets: a captions file, the image folder, split lists. The captions file is
    Flickr8k.token.txt or captions.txt, or Flickr30k's results_20130124.token or results.csv. Creates
    NAME/train, NAME/dev and NAME/test if their lists exist, and NAME/all.

    Example: clipstore ingest flickr /data/flickr8k
    """
    from clipstore.pipeline.ingest.run import IngestOptions, ingest_flickr

    options = IngestOptions(clean=clean, replace=replace, images=images, follow_links=follow_links)
    _print(ingest_flickr(store, root, name=name, options=options), as_json=as_json)


@ingest.command("karpathy")
@click.argument("file", type=_PATH)
@click.argument("root", type=_PATH)
@click.option("--name", help="The name of the dataset. [default: the name in the file]")
@_clean
@_replace
@_follow_links
@store_option
@json_option
def karpathy(
    file: Path,
    root: Path,
    name: str | None,
    store: Store,
    *,
    clean: bool,
    replace: bool,
    follow_links: bool,
    as_json: bool,
) -> None:
    """Ingest a file of Karpathy's splits.

    FILE is dataset_coco.json or a file of the same form; the images are below ROOT. Creates NAME/train,
    NAME/restval, NAME/val and NAME/test.

    Example: clipstore ingest karpathy dataset_coco.json /data/coco
    """
    from clipstore.pipeline.ingest.run import IngestOptions, ingest_karpathy

    options = IngestOptions(clean=clean, replace=replace, follow_links=follow_links)
    _print(ingest_karpathy(store, file, root, name=name, options=options), as_json=as_json)


@ingest.command("csv")
@click.argument("file", type=_PATH)
@click.option("--name", help="The name of the dataset. [default: the name of the file]")
@_images("The folder that relative paths start from. [default: the folder of FILE]")
@_clean
@_replace
@_follow_links
@store_option
@json_option
def csv(
    file: Path,
    name: str | None,
    images: Path | None,
    store: Store,
    *,
    clean: bool,
    replace: bool,
    follow_links: bool,
    as_json: bool,
) -> None:
    """Ingest a CSV file of image paths and captions.

    Its columns are image_path, caption and, optionally, image_id, caption_id, split. They are separated by
    ',', ';', a tab or '|'. Common other names of the two required columns are recognized, such as filepath
    and title, or file_name and text. Paths are absolute, or relative to the file. Without a split column,
    all rows are in NAME/all; all captions of an image are in one split.

    Example: clipstore ingest csv holidays/captions.csv --name holidays
    """
    from clipstore.pipeline.ingest.run import IngestOptions, ingest_csv

    options = IngestOptions(clean=clean, replace=replace, images=images, follow_links=follow_links)
    _print(ingest_csv(store, file, name=name, options=options), as_json=as_json)


@ingest.command("sugarcrepe")
@click.argument("root", type=_PATH)
@click.option("--name", default="sugarcrepe", show_default=True, help="The name of the dataset.")
@_images("The folder of the images of COCO val2017. [default: ROOT]")
@_replace
@_follow_links
@store_option
@json_option
def sugarcrepe(
    root: Path, name: str, images: Path | None, store: Store, *, replace: bool, follow_links: bool, as_json: bool
) -> None:
    """Ingest SugarCrepe's captions and hard negatives.

    ROOT has a file for each subset, such as replace_obj.json. Creates NAME/all. Evaluate it with 'clipstore eval
    --protocol hard-negatives'. Vectors of the same image files in other datasets are shared.

    Example: clipstore ingest sugarcrepe /data/sugar-crepe --images /data/coco/val2017
    """
    from clipstore.pipeline.ingest.run import IngestOptions, ingest_sugarcrepe

    options = IngestOptions(replace=replace, images=images, follow_links=follow_links)
    _print(ingest_sugarcrepe(store, root, name=name, options=options), as_json=as_json)


@ingest.command("hard-negatives")
@click.argument("file", type=_PATH)
@click.option("--name", help="The name of the dataset. [default: the name of the file]")
@_images("The folder that relative paths start from. [default: the folder of FILE]")
@_replace
@_follow_links
@store_option
@json_option
def hard_negatives(
    file: Path,
    name: str | None,
    images: Path | None,
    store: Store,
    *,
    replace: bool,
    follow_links: bool,
    as_json: bool,
) -> None:
    """Ingest a CSV file of captions and hard negatives.

    Its columns are image_path, positive (a caption of the image), negative (a caption that is wrong for the image)
    and, optionally, subset. Creates NAME/all. Evaluate it with 'clipstore eval --protocol hard-negatives'.

    Example: clipstore ingest hard-negatives holidays/negatives.csv --name holidays-hard
    """
    from clipstore.pipeline.ingest.run import IngestOptions, ingest_hard_negatives

    options = IngestOptions(replace=replace, images=images, follow_links=follow_links)
    _print(ingest_hard_negatives(store, file, name=name, options=options), as_json=as_json)


@ingest.command("folder")
@click.argument("root", type=_PATH)
@click.option("--name", help="The name of the dataset. [default: the name of ROOT]")
@_replace
@_follow_links
@store_option
@json_option
def folder(root: Path, name: str | None, store: Store, *, replace: bool, follow_links: bool, as_json: bool) -> None:
    """Ingest a folder of images for each class.

    ROOT has a folder for each class, named as the class, with its images at any depth. Creates NAME/all.
    The images have a class and no captions: 'clipstore embed --only images', then 'clipstore zeroshot'.

    Example: clipstore ingest folder flowers/val --name flowers
    """
    from clipstore.pipeline.ingest.run import IngestOptions, ingest_folder

    options = IngestOptions(replace=replace, follow_links=follow_links)
    _print(ingest_folder(store, root, name=name, options=options), as_json=as_json)


def _print(result: IngestResult, *, as_json: bool) -> None:
    from clipstore.reporting.tables import print_json, print_table

    for warning in result.warnings:
        print_warning(warning)
    if as_json:
        print_json(result.row())
        return
    print_table(result.splits, empty="the source has no splits")
    if result.subsets:
        print_table(result.subsets)
    if result.cleaned is not None:
        dropped = _counts(result.cleaned)
        echo(f"{result.dataset}: captions cleaned; dropped: {dropped or 'nothing'}")
    echo(f"{result.dataset}: {_counts(result.changes) or 'nothing changed'}")
    for row in result.stale_evaluations:
        split = row["split"] or "a split that was removed"
        command = "zeroshot" if row["protocol"] == "zeroshot" else "eval"
        echo(f"{split} changed since {row['model']} was evaluated on it: evaluation removed, run {command} again")


def _counts(counts: Mapping[str, int]) -> str:
    """Counts that are not zero, with their descriptions; these begin with a plural, which is singular after 1."""
    parts = []
    for description, count in counts.items():
        noun, _, rest = description.partition(" ")
        if count:
            parts.append(f"{count:,} {noun.removesuffix('s') if count == 1 else noun} {rest}")
    return ", ".join(parts)
