"""What the records in the store hold (see `clipstore.store.recovery`): rows of the catalog's tables as JSON."""

from __future__ import annotations

import msgspec


class StoreRecord(msgspec.Struct, kw_only=True):
    """records/store.json: the format of the records, and the release of clipstore that wrote them first."""

    format: int
    release: str


class SplitRecord(msgspec.Struct, kw_only=True):
    """A split. `positions` is None if they are 0, 1, 2 …; `digest` (see `split_digest_of`) is None for drawn splits."""

    split_id: int
    name: str
    dataset_id: int
    source: str | None
    drawn_from: str | None
    origin_id: int | None
    images: list[int]
    positions: list[int] | None = None
    digest: str | None = None


class CategoryRecord(msgspec.Struct, kw_only=True):
    """A category of a dataset."""

    category_id: int
    source_id: str
    name: str
    supercategory: str | None


class DatasetRecord(msgspec.Struct, kw_only=True):
    """A dataset with the splits of its sources.

    `caption_ids` are runs (first id, number) of the ids of its captions, in the order of images and positions.
    """

    dataset_id: int
    name: str
    kind: str
    root: str
    cleaned: bool
    splits: list[SplitRecord]
    categories: list[CategoryRecord]
    caption_ids: list[tuple[int, int]]


class ImagesRecord(msgspec.Struct, kw_only=True):
    """The images of a dataset by column. A path is `prefixes[prefix] + file_name`; `paths` has the others by place."""

    dataset_id: int
    image_id: list[int]
    source_id: list[str]
    file_name: list[str]
    width: list[int | None]
    height: list[int | None]
    size: list[int | None]
    modified_ns: list[int | None]
    content: list[str | None]
    problem: list[str | None]
    prefixes: list[str]
    prefix: list[int | None]
    paths: dict[int, str]


class GroupRecord(msgspec.Struct, kw_only=True):
    """The splits of a group that `clipstore split` drew."""

    splits: list[SplitRecord]


class TowerRecord(msgspec.Struct, kw_only=True):
    """A tower of a model: a row of `towers`."""

    tower: str
    fingerprint: str
    backbone: str | None
    precision: str
    dim: int
    features_dim: int
    files_key: str


class ModelRecord(msgspec.Struct, kw_only=True):
    """A model with its towers and training images; `shards` are the files of imported vectors in order of import."""

    model_id: int
    name: str
    family: str
    base: str
    adapter: str | None
    prompt: str | None
    clean: bool
    exif_orientation: bool
    origin: str
    towers: list[TowerRecord]
    training_images: list[int]
    training_contents: list[str]
    shards: list[str]


class ProbeRecord(msgspec.Struct, kw_only=True):
    """A row of `probes`."""

    fingerprint: str
    device: str
    software: str
    vector: list[float]


class PrecisionRecord(msgspec.Struct, kw_only=True):
    """A row of `precision_checks`."""

    fingerprint: str
    items: int
    least_cosine: float


class FingerprintsRecord(msgspec.Struct, kw_only=True):
    """What was measured of fingerprints."""

    probes: list[ProbeRecord]
    precision_checks: list[PrecisionRecord]


class EvaluationRecord(msgspec.Struct, kw_only=True):
    """The arguments of an evaluation, and what its repetition must reproduce."""

    model: str
    split: str
    protocol: str
    caption_set: str
    unseen: bool
    partial: bool
    asked_images: int | None
    gallery_digest: str


class EvaluationsRecord(msgspec.Struct, kw_only=True):
    """The evaluations in their order."""

    evaluations: list[EvaluationRecord]


class Records(msgspec.Struct, kw_only=True):
    """All records of a store."""

    datasets: list[DatasetRecord]
    images: list[ImagesRecord]
    splits: list[GroupRecord]
    models: list[ModelRecord]
    fingerprints: FingerprintsRecord
    evaluations: EvaluationsRecord
