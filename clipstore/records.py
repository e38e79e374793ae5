"""Records that the packages exchange: plain data, without files, catalog or models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

if TYPE_CHECKING:
    import pyarrow as pa

Direction = Literal["image_to_text", "text_to_image"]
CaptionSet = Literal["first5", "all"]
TowerPrecision = Literal["fp32", "bf16", "fp16", "imported"]  # "imported": of a model whose vectors were imported
PrecisionOption = Literal["auto", "fp32", "bf16", "fp16"]
ScreenPrecision = Literal["auto", "int8", "fp16", "bf16", "fp32", "fp64"]

Row = dict[str, Any]  # one row of a result: value by column, or by key of the JSON that a command prints

FAMILIES = ("clip", "openclip", "siglip", "blip")
IMPORTED = "imported"  # the family of a model whose vectors were imported

TowerName = Literal["image", "text"]
ShardKind = Literal["vectors", "features"]
PlanSource = Literal["image_files", "features", "texts"]  # what a tower's vectors are computed from
ProtocolName = Literal["standard", "paired-rows", "coco-1k", "eccv", "cxc", "hard-negatives"]

ITEM_KIND: Mapping[TowerName, str] = {"image": "images", "text": "captions"}  # a tower's items, as users name them


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotations:
    """The contents of one annotation source, as pyarrow tables; `image` is always a `file_name`.

    images            source_id string, file_name string, path string, width int32, height int32 (null: not stated)
    captions          image string, source_id string, text string, position int32 (from 0, within the image)
    splits            split string (without its group), image string, position int32 (from 0, within the split)
    categories        source_id string, name string, supercategory string
    image_categories  image string, category string (a category's source_id), instances int32
    hard_pairs        image string, subset string, positive string, negative string (source_ids of two captions)

    `file_name` identifies an image within its dataset: its path below the source's root, with forward slashes, or an
    absolute path. `path` is the absolute path of the image file. Both category tables are None if the source has no
    categories at all, and empty if it states that there are none; `hard_pairs` is None if no caption has a hard
    negative. `warnings` are lines for the user.
    """

    images: pa.Table
    captions: pa.Table
    splits: pa.Table
    categories: pa.Table | None = None
    image_categories: pa.Table | None = None
    hard_pairs: pa.Table | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model as a user names it.

    Attributes:
        name: the name, for a job that of its file.
        family: one of `FAMILIES`.
        base: a hub id, a local folder, or "bundled:demo".
        adapter: a PEFT folder; not in a job with a table [train].
        prompt: the input of the text tower, with "{}" in place of the caption.
        clean: clean captions before the prompt (`clean_caption` in sql/schema/macros.sql).
        exif_orientation: apply the EXIF orientation of images, which transformers does not.
    """

    name: str
    family: str
    base: str
    adapter: str | None = None
    prompt: str | None = None
    clean: bool = False
    exif_orientation: bool = False


Count = Annotated[int, Meta(ge=1)]
CountOrZero = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, lt=1)]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]

# Metrics that can select the best epoch: those where greater is better.
WatchedMetric = Literal[
    "text_retrieval_recall@1",
    "text_retrieval_recall@5",
    "text_retrieval_recall@10",
    "text_retrieval_mrr",
    "image_retrieval_recall@1",
    "image_retrieval_recall@5",
    "image_retrieval_recall@10",
    "image_retrieval_mrr",
    "rsum",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lora:
    """The table [train.lora] of a job: a low-rank adapter (Hu et al., 2021), W + (alpha / r) B A.

    Attributes:
        r: the rank.
        alpha: the numerator of the scale alpha / r.
        dropout: the dropout on the adapter's input.
        modules: the names of the linear modules that it is placed on.
        towers: the towers that it is placed on. With "vision", training decodes image files in every step.
    """

    r: Count = 8
    alpha: Positive = 16.0
    dropout: Share = 0.1
    modules: tuple[str, ...] = ("q_proj", "v_proj")
    towers: tuple[Literal["text", "vision"], ...] = ("text",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """The table [train] of a job.

    Attributes:
        split: the split to train on.
        validation: the split that every epoch is evaluated on; it shares no image with `split`.
        seed: the seed of the initial LoRA, the order of captions, dropout, and the choice of hard negatives.
        epochs: the largest number of epochs.
        batch: captions per contrastive batch.
        chunk: captions whose activations are in memory at once. A larger batch is computed in chunks, with the same
            gradient.
        learning_rate: the learning rate of AdamW after the warmup.
        weight_decay: the weight decay of AdamW, on matrices only.
        warmup: steps of linear increase of the learning rate.
        decay: the learning rate after the warmup: constant ("none"), or half a cosine down to zero.
        clip: the largest norm of a step's gradient; longer gradients are scaled down.
        patience: epochs without a better `watch` after which training stops.
        watch: the validation metric that selects the best epoch, by its name in JSON.
        heads: train both projection heads too.
        temperature: keep CLIP's learned temperature ("frozen"), or train it.
        mask_siblings: do not use two captions of one image in a batch as each other's negatives.
        mask_duplicates: do not use two captions with equal tokens (after cleaning and prompt) as each other's
            negatives, regardless of their images.
        hard_negatives: captions added to the batch for each caption, from the incorrect hits of its image.
        refresh_negatives: epochs after which hard negatives are computed again with the current weights; 0: those of
            the base model are used throughout.
        precision: the precision of the towers; "auto": bf16 where the device multiplies it natively, else fp32.
        save_steps: steps between checkpoints within an epoch.
        lora: the table [train.lora].
    """

    split: str
    validation: str
    seed: int = 0
    epochs: Count = 10
    batch: Annotated[int, Meta(ge=2)] = 32
    chunk: Annotated[int, Meta(ge=2)] = 64
    learning_rate: Positive = 2e-5
    weight_decay: NotNegative = 0.01
    warmup: CountOrZero = 0
    decay: Literal["none", "cosine"] = "none"
    clip: Positive = 1.0
    patience: Count = 3
    watch: WatchedMetric = "text_retrieval_recall@1"
    heads: bool = False
    temperature: Literal["frozen", "trained"] = "frozen"
    mask_siblings: bool = False
    mask_duplicates: bool = False
    hard_negatives: CountOrZero = 0
    refresh_negatives: CountOrZero = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    save_steps: Count = 1000
    lora: Lora = Lora()


@dataclass(frozen=True, kw_only=True, slots=True)
class JobEvaluation:
    """The table [eval] of a job: the evaluation of its model by `clipstore run`.

    Attributes:
        splits: the splits to evaluate on.
        protocol: the evaluation protocol.
        captions: the set of captions; none: that of the protocol.
    """

    splits: tuple[str, ...]
    protocol: ProtocolName = "standard"
    captions: CaptionSet | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A job file: a model, its training (None: it is not trained), and its evaluation (None: not stated).

    The model of a job with training has no adapter: training writes one into the store.
    """

    file: Path
    model: Model
    training: Training | None = None
    evaluation: JobEvaluation | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class GalleryProvenance:
    """What identifies a gallery and the vectors in it: columns of `evaluations`.

    Attributes:
        images, captions: items in the gallery.
        image_fingerprint, text_fingerprint, precision: of the model's towers.
        dtype: the stored type, "float32", "float16", or both joined by "/".
        left_out_images: images of the split that are missing or failed.
        left_out_captions: captions of these images, and captions that failed.
        pending_images, pending_captions: items that are not embedded yet (only in partial evaluations).
        split_digest, gallery_digest: SHA-256 of what the split and the gallery contain (`split_digest_of`).
        seen_images: images of the gallery that the model was trained on; None: training images unknown.
    """

    model_id: int
    split_id: int
    images: int
    captions: int
    image_fingerprint: str
    text_fingerprint: str
    precision: str
    dtype: str
    left_out_images: int
    left_out_captions: int
    pending_images: int
    pending_captions: int
    split_digest: str
    gallery_digest: str
    seen_images: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """The provenance of an evaluation: "measured_on" in JSON, with these keys in this order.

    Attributes that `GalleryProvenance` has mean the same here. The others:
        seconds, peak_memory: duration of ranking, and the peak memory of the process in bytes.
        evaluated_at: time in UTC, ISO 8601.
        images_without_positive, captions_without_positive: items of the gallery that are no queries, because no item
            of the gallery is a positive of theirs.
        lost_positives: positives of the protocol that are not in the gallery.
        screen: the precision of the matrix products.
        rechecked, scores: scores that were recomputed in float64, and all scores.
        unseen: queries are restricted to images that none of the models evaluated together was trained on.
        asked_images: images whose pairs are queries; None in evaluations of format 1: all that have a positive.
        reranker, rerank_top, rerank_weight: the model whose matching head rescored the first candidates of each query,
            their number, and the weight of the first-stage score; None: not reranked.
        rerank_precision, rerank_fingerprint: of the matching head.
        tied_pairs: pairs whose score another candidate has too.
        image_queries, caption_queries: queries of each direction.
    """

    split: str
    evaluation_id: int
    protocol: ProtocolName
    partial: bool
    split_digest: str
    gallery_digest: str
    images: int
    captions: int
    left_out_images: int
    left_out_captions: int
    pending_images: int
    pending_captions: int
    image_fingerprint: str
    text_fingerprint: str
    precision: str
    dtype: str
    seconds: float
    peak_memory: int
    evaluated_at: str
    caption_set: CaptionSet
    images_without_positive: int
    captions_without_positive: int
    lost_positives: int
    seen_images: int | None
    screen: str | None
    rechecked: int | None
    scores: int | None
    unseen: bool
    asked_images: int | None
    reranker: str | None
    rerank_top: int | None
    rerank_weight: float | None
    rerank_precision: TowerPrecision | None
    rerank_fingerprint: str | None
    tied_pairs: int
    image_queries: int
    caption_queries: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Tower:
    """One tower of a model, as its files describe it.

    Attributes:
        tower: "image" or "text".
        fingerprint: the SHA-256 of everything that decides the tower's vectors (`dim` components).
        precision: "fp32", "bf16" or "fp16".
        backbone: likewise of the features before the projection head (`features_dim` components); images only.
    """

    tower: TowerName
    fingerprint: str
    precision: TowerPrecision
    dim: int
    backbone: str | None = None
    features_dim: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchingHead:
    """The matching head of a model, as its files describe it.

    Attributes:
        fingerprint: the SHA-256 of everything that decides a matching score.
    """

    fingerprint: str
    precision: TowerPrecision


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file to decode: its content key, its path, and its size in bytes (0: unknown)."""

    content: str
    path: str
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisteredShard:
    """A shard as the catalog describes it; the file at `path` must agree.

    Attributes:
        kind, tower, fingerprint: what its rows are.
        items, dim, dtype: their number, width and type.
        checksum: of the shard (see docs/shard-format.md).
        file_checksum: SHA-256 of the file when it was checked and registered; None: an earlier version registered it.
        url: of its object on object storage, from which the file at `path`, in the cache, is fetched; None: the file at
            `path` is the shard.
    """

    path: Path
    kind: ShardKind
    tower: TowerName
    fingerprint: str
    items: int
    dim: int
    dtype: str
    checksum: str
    file_checksum: str | None = field(default=None, compare=False)
    url: str | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardPlan:
    """The items of one shard that are to be encoded: plain data for any process.

    `source` is the kind of the `sources`: "image_files" (paths), "texts" (input of the tokenizer), or "features"
    (the shard, relative to the store, that holds the item's backbone features, in the row given in `rows`; described
    in `shards`).
    """

    tower: Tower
    source: PlanSource
    contents: list[str]
    sources: list[str]
    rows: list[int]
    shards: Mapping[str, RegisteredShard] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchPlan:
    """The pairs of one score shard that are to be scored: plain data for any process.

    Attributes:
        images: distinct image files.
        texts, text_contents: distinct inputs of the tokenizer, and their content keys.
        candidates: for each image the rows of the texts that it is scored with, ascending.
    """

    head: MatchingHead
    images: list[ImageFile]
    texts: list[str]
    text_contents: list[str]
    candidates: list[list[int]]

    @property
    def pairs(self) -> int:
        """The number of pairs."""
        return sum(map(len, self.candidates))


@dataclass(frozen=True, kw_only=True)
class PlanGroup:
    """Plans that are encoded together: of one or more image towers over the same image files, or a single plan.

    Each of `image_files` is decoded once for all plans; empty unless the plans' source is "image_files".
    """

    plans: tuple[ShardPlan, ...]
    image_files: tuple[ImageFile, ...] = ()
