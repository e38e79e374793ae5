"""The plain records that the rooms hand to one another. Data only: no files, no catalog, no models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]  # one row of a result: value by column, or by key of the JSON that a command prints


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotations:
    """What one annotation source says of its images, as pyarrow tables; `image` is always a `file_name`.

    images            source_id string, file_name string, path string, width int32, height int32 (null: not stated)
    captions          image string, source_id string, text string, position int32 (from 0, within the image)
    splits            split string (without its group), image string, position int32 (from 0, within the split)
    categories        source_id string, name string, supercategory string
    image_categories  image string, category string (a category's source_id), instances int32

    `file_name` identifies an image within its data set: its path below the source's root, with forward slashes, or an
    absolute path. `path` is where the image file lies, absolute. Both category tables are None when the source does
    not state categories, which is something else than stating that there are none. `warnings` are lines for the user.
    """

    images: pa.Table
    captions: pa.Table
    splits: pa.Table
    categories: pa.Table | None = None
    image_categories: pa.Table | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model as a user names it.

    `base` is a hub id, a local folder or "bundled:demo"; `adapter` a PEFT folder; `prompt` holds "{}" where the
    caption goes; `clean` asks for the caption cleaning of `clean_caption` in sql/schema/macros.sql; `exif_orientation`
    turns images as their EXIF data says, which transformers does not.
    """

    name: str
    family: str
    base: str
    adapter: str | None = None
    prompt: str | None = None
    clean: bool = False
    exif_orientation: bool = False


Count = Annotated[int, Meta(ge=1)]
CountOrNone = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, lt=1)]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]

# Metrics by which epochs are told apart: those of which more is better.
Watched = Literal[
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
    """A LoRA to train (Hu et al., 2021): rank, scale alpha / r, and the linear modules that it sits on, by name."""

    r: Count = 8
    alpha: Positive = 16.0
    dropout: Share = 0.1
    modules: tuple[str, ...] = ("q_proj", "v_proj")
    towers: tuple[Literal["text", "vision"], ...] = ("text",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """The table [train] of a job.

    Attributes:
        split, validation: what is trained on, and what each epoch is measured on; they share no image.
        batch: captions of one contrastive batch.
        chunk: captions whose activations are held at once; a larger batch goes through in chunks, to the same gradient.
        warmup: steps over which the learning rate rises; `decay`: what it does then, until the last step.
        clip: the largest norm of a step's gradient.
        patience: epochs without a better `watch` (a metric by its name in JSON) after which training stops.
        heads: train both projection heads too.
        temperature: CLIP's learned one, as it is or trained on.
        mask_siblings: two captions of one image in a batch are not each other's negatives.
        mask_duplicates: two captions that are the same to the text tower (equal tokens, after cleaning and prompt) are
            not each other's negatives, whatever their images.
        hard_negatives: captions that go into the batch beside each, from the hits that were wrong for its image.
        refresh_negatives: epochs after which those are looked for again; 0: the base model's stay.
        save_steps: steps after which a checkpoint is written within an epoch.
    """

    split: str
    validation: str
    seed: int = 0
    epochs: Count = 10
    batch: Annotated[int, Meta(ge=2)] = 32
    chunk: Annotated[int, Meta(ge=2)] = 64
    learning_rate: Positive = 2e-5
    weight_decay: NotNegative = 0.01
    warmup: CountOrNone = 0
    decay: Literal["none", "cosine"] = "none"
    clip: Positive = 1.0
    patience: Count = 3
    watch: Watched = "text_retrieval_recall@1"
    heads: bool = False
    temperature: Literal["frozen", "trained"] = "frozen"
    mask_siblings: bool = False
    mask_duplicates: bool = False
    hard_negatives: CountOrNone = 0
    refresh_negatives: CountOrNone = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    save_steps: Count = 1000
    lora: Lora = Lora()


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """The table [eval] of a job: the splits and the protocol that its model is measured on."""

    splits: tuple[str, ...]
    protocol: Literal["standard", "paired-rows", "coco-1k", "eccv", "cxc"] = "standard"
    captions: Literal["first5", "all"] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A job file: a model, how it is trained (None: not here), and what it is measured on (None: not told).

    The model of a job that trains has no adapter yet: training makes it, in the store.
    """

    file: Path
    model: Model
    training: Training | None = None
    measure: Measure | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Tower:
    """One tower of a model as its files describe it.

    `fingerprint` decides the tower's vectors, `dim` wide; `backbone` the features before the head, `features_dim`
    wide (kept for images alone).
    """

    tower: str
    fingerprint: str
    precision: str
    dim: int
    backbone: str | None = None
    features_dim: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardPlan:
    """The items of one shard to come: plain data that any process can work on.

    `source` says what `sources` are: "photos" (paths), "texts" (what goes into the tokenizer), or "features" (the
    shard, below the store, that holds the item's backbone features at the row in `rows`).
    """

    tower: Tower
    source: str
    contents: list[str]
    sources: list[str]
    rows: list[int]
