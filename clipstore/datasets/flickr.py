"""Flickr8k and what is laid out like it: a captions file, an image folder, split lists.

Flickr8k.token.txt and Flickr_8k.*Images.txt come from Hodosh, Young and Hockenmaier's release;
captions.txt is the CSV form of the same that Kaggle carries.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from clipstore.datasets import tables
from clipstore.datasets.files import list_folder, read_csv, read_lines
from clipstore.errors import DatasetError
from clipstore.records import Annotations

TOKENS = "Flickr8k.token.txt"
CSV = "captions.txt"
FOLDERS = (
    "Flicker8k_Dataset",
    "Flickr8k_Dataset",
    "Images",
    "images",
    "flickr30k_images",
    "flickr30k-images",
)
SPLIT_LISTS = {split: f"Flickr_8k.{split}Images.txt" for split in ("train", "dev", "test")}


def read(root: Path) -> Annotations:
    """The captions of ROOT/Flickr8k.token.txt, or else captions.txt; the splits that have a list, and `all`.

    Raises DatasetError when neither file is there, or a file is malformed or contradicts itself.
    """
    source, rows = _captions(root)
    image_ids = [image for image, _, _ in rows]
    ids = list(dict.fromkeys(image_ids))
    folder = photo_folder(root, ids, otherwise=FOLDERS[0])
    by_id = {image: tables.file_name(source, image, folder) for image in ids}
    categories, image_categories = tables.no_categories()
    return Annotations(
        images=tables.images(source, root, ids, list(by_id.values())),
        captions=tables.captions(
            source,
            [by_id[image] for image in image_ids],
            [key for _, key, _ in rows],
            [text for _, _, text in rows],
        ),
        splits=tables.splits({**_split_lists(root, by_id), "all": list(by_id.values())}),
        categories=categories,
        image_categories=image_categories,
    )


def photo_folder(root: Path, names: Iterable[str], *, otherwise: str) -> str:
    """The folder under `root` that holds any photo of `names`: a well-known one, or `root` itself ("").

    Archives often unpack into a folder of the same name, so each is looked for one level down too.
    Without any such photo: a well-known folder that exists, else `otherwise`.
    """
    wanted = set(names)
    nested = [f"{outer}/{inner}" for outer in FOLDERS for inner in FOLDERS]
    there = [folder for folder in (*FOLDERS, *nested, "") if (root / folder).is_dir()]
    for folder in there:
        if not wanted.isdisjoint(list_folder(root / folder)):
            return folder
    return next(filter(None, there), otherwise)


def _captions(root: Path) -> tuple[Path, list[tuple[str, str, str]]]:
    """The captions file and its rows: image name, caption id, caption."""
    present = list_folder(root)
    if TOKENS in present:
        return root / TOKENS, _read_tokens(root / TOKENS)
    if CSV in present:
        return root / CSV, _read_captions_csv(root / CSV)
    raise DatasetError(f"{root} has neither {TOKENS} nor {CSV}; give the folder that holds one of them")


def _read_tokens(file: Path) -> list[tuple[str, str, str]]:
    rows = []
    for number, line in enumerate(read_lines(file), start=1):
        key, tab, caption = line.partition("\t")
        name, _, ordinal = key.rpartition("#")
        if tab and name and ordinal.isdecimal():
            rows.append((name, key, caption))
        elif line.strip():
            raise DatasetError(f"{file}: line {number} is not `name.jpg#0<TAB>caption`: {line[:60]!r}; mend that line")
    return rows


def _read_captions_csv(file: Path) -> list[tuple[str, str, str]]:
    rows = read_csv(file, ("image", "caption"))
    ordinals = tables.ordinals([name for name, _ in rows])
    return [(name, f"{name}#{at}", caption) for (name, caption), at in zip(rows, ordinals, strict=True)]


def _split_lists(root: Path, by_id: dict[str, str]) -> dict[str, list[str]]:
    members = {}
    for split, list_name in SPLIT_LISTS.items():
        file = root / list_name
        if not file.exists():
            continue
        names = [line.strip() for line in read_lines(file) if line.strip()]
        tables.check_unique(file, "image", names)
        for name in names:
            if name not in by_id:
                raise DatasetError(f"{file} lists {name!r}, which has no captions; remove it from the list")
        members[split] = [by_id[name] for name in names]
    return members
