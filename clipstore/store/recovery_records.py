"""What the records in the store hold (see `clipstore.store.recovery`): rows of the catalog's tables as JSON."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from clipstore.records import CaptionSet, ProtocolName, TowerName, TowerPrecision

MOST_ID = 2**62

# Numbers have the ranges of the catalog's columns, and paths no NUL: a record with others is refused as it is read.
# Ids leave room for those that are assigned later.
Id = Annotated[int, Meta(ge=0, le=MOST_ID)]
Size = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Nanoseconds = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]  # before 1970, they are negative
Small = Annotated[int, Meta(ge=0, le=2**31 - 1)]
FilePath = Annotated[str, Meta(pattern=r"^[^\x00]*$")]


class StoreRecord(msgspec.Struct, kw_only=True):
    """records/store.json: the format of the records, and the release of clipstore that wrote them first."""

    format: int
    release: str


class SplitRecord(msgspec.Struct, kw_only=True):
    """A split. `positions` is None if they are 0, 1, 2 …; `digest` (see `split_digest_of`) is None for drawn splits."""

    split_id: Id
    name: str
    dataset_id: Id
    source: FilePath | None
    drawn_from: str | None
    origin_id: Id | None
    images: list[Id]
    positions: list[Small] | None = None
    digest: str | None = None


class CategoryRecord(msgspec.Struct, kw_only=True):
    """A category of a dataset."""

    category_id: Id
    source_id: str
    name: str
    supercategory: str | None


class DatasetRecord(msgspec.Struct, kw_only=True):
    """A dataset with the splits of its sources.

    `caption_ids` are runs (first id, number) of the ids of its captions, in the order of images and positions.
    """

    dataset_id: Id
    name: str
    kind: str
    root: FilePath
    cleaned: bool
    splits: list[SplitRecord]
    categories: list[CategoryRecord]
    caption_ids: list[tuple[Id, Size]]


class ImagesRecord(msgspec.Struct, kw_only=True):
    """The images of a dataset by column. A path is `prefixes[prefix] + file_name`; `paths` has the others by place."""

    dataset_id: Id
    image_id: list[Id]
    source_id: list[str]
    file_name: list[FilePath]
    width: list[Small | None]
    height: list[Small | None]
    size: list[Size | None]
    modified_ns: list[Nanoseconds | None]
    content: list[str | None]
    problem: list[str | None]
    prefixes: list[FilePath]
    prefix: list[Small | None]
    paths: dict[int, FilePath]


class GroupRecord(msgspec.Struct, kw_only=True):
    """The splits of a group that `clipstore split` drew."""

    splits: list[SplitRecord]


class TowerRecord(msgspec.Struct, kw_only=True):
    """A tower of a model: a row of `towers`."""

    tower: TowerName
    fingerprint: str
    backbone: str | None
    precision: TowerPrecision
    dim: Small
    features_dim: Small
    files_key: str


class HeadRecord(msgspec.Struct, kw_only=True):
    """The matching head of a model: a row of `matching_heads`."""

    fingerprint: str
    precision: TowerPrecision
    files_key: str


class ModelRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A model with its towers and training images; `shards` are the files of imported vectors in order of import."""

    model_id: Id
    name: str
    family: str
    base: str
    adapter: str | None
    prompt: str | None
    clean: bool
    exif_orientation: bool
    origin: str
    towers: list[TowerRecord]
    training_images: list[Id]
    training_contents: list[str]
    shards: list[str]
    matching_head: HeadRecord | None = None


class ProbeRecord(msgspec.Struct, kw_only=True):
    """A row of `probes`."""

    fingerprint: str
    device: str
    software: str
    vector: list[float]


class PrecisionRecord(msgspec.Struct, kw_only=True):
    """A row of `precision_checks`."""

    fingerprint: str
    items: Size
    least_cosine: float


class FingerprintsRecord(msgspec.Struct, kw_only=True):
    """What was measured of fingerprints."""

    probes: list[ProbeRecord]
    precision_checks: list[PrecisionRecord]


class EvaluationRecord(msgspec.Struct, kw_only=True):
    """The arguments of an evaluation, and what its repetition must reproduce."""

    model: str
    split: str
    protocol: ProtocolName
    caption_set: CaptionSet
    unseen: bool
    partial: bool
    asked_images: Size | None
    gallery_digest: str
    reranker: str | None = None
    rerank_top: Size | None = None
    rerank_weight: float | None = None


class ClassificationRecord(msgspec.Struct, kw_only=True):
    """The arguments of a zero-shot classification, and what its repetition must reproduce."""

    model: str
    split: str
    labels: Literal["single", "multi"]
    templates: list[str]
    top: list[Small]
    partial: bool
    gallery_digest: str


class EvaluationsRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The evaluations and the zero-shot classifications in their order. Earlier versions had only the former."""

    evaluations: list[EvaluationRecord]
    classifications: list[ClassificationRecord] = []


class Records(msgspec.Struct, kw_only=True):
    """All records of a store."""

    datasets: list[DatasetRecord]
    images: list[ImagesRecord]
    splits: list[GroupRecord]
    models: list[ModelRecord]
    fingerprints: FingerprintsRecord
    evaluations: EvaluationsRecord
