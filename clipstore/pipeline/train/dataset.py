"""The pairs of a split that training reads, and the vectors of a model that is learning."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipstore import shards
from clipstore.catalog import Session
from clipstore.encoders.images import Preprocessing, decode_pixels
from clipstore.errors import ImageError, TrainingError
from clipstore.files import read_regular
from clipstore.inference.encode import encode_rows
from clipstore.inference.settings import EncodeSettings
from clipstore.progress import Progress
from clipstore.records import Model, PlanSource, ShardPlan, Training
from clipstore.store.gallery import Gallery
from clipstore.store.layout import Store, split_id
from clipstore.store.towers import current_towers
from clipstore.store.vectors import EmbeddedItems

if TYPE_CHECKING:
    import torch

    from clipstore.encoders.lora import LoraClip

Ints = NDArray[np.int64]

_MEMORY = 2**30  # bytes that the batches of a measurement may take


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The captions of a split whose image has stored features.

    Attributes:
        table: a row a caption: caption_id, image_id, text, caption and image (their content), path, file and row (where
            the image's features lie).
        numbers: (R,), the number of each caption's photo, from 0; the same photo under two names has one number.
        first: (images,), the first row of each photo.
        left_out: captions of the split that are not there.
    """

    table: pa.Table
    numbers: Ints
    first: Ints
    left_out: int

    @classmethod
    def of(cls, session: Session, base: Model, split: str) -> Pairs:
        """The pairs of a split, with the features that its base's image backbone gave."""
        model_id = session.rows("model/find", name=base.name)[0]["model_id"]
        backbone = current_towers(session, model_id)[0].backbone
        every = session.table("train/pairs", model_id=model_id, split_id=split_id(session, split), backbone=backbone)
        table = every.filter(every["file"].is_valid())
        numbers = table["image"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
        _, first = np.unique(numbers, return_index=True)
        captions = session.rows("train/captions", split_id=split_id(session, split))[0]["captions"]
        return cls(table=table, numbers=numbers, first=first, left_out=captions - table.num_rows)

    @property
    def images(self) -> int:
        """How many photos there are."""
        return len(self.first)

    def contents(self) -> list[str]:
        """The SHA-256 of each photo, in order."""
        return sorted(pc.unique(self.table["image"]).to_pylist())

    def features(self, store: Store) -> Callable[[Ints], torch.Tensor]:
        """Image numbers (B,) -> their features (B, features_dim), held in memory."""
        import torch

        files, which = self.files()
        paths = [store.root / file for file in files]
        rows = self.table["row"].to_numpy().astype(np.int64)
        held = torch.from_numpy(shards.gather(paths, which[self.first], rows[self.first]))
        return lambda numbers: held[torch.from_numpy(numbers)]

    def files(self) -> tuple[list[str], Ints]:
        """The shards of the features, and which of them has each row's."""
        coded = self.table["file"].combine_chunks().dictionary_encode()
        return coded.dictionary.to_pylist(), coded.indices.to_numpy().astype(np.int64)

    def photos(self, how: Preprocessing) -> Callable[[Ints], torch.Tensor]:
        """Image numbers (B,) -> their pixels, uint8 (B, height, width, 3), decoded each time."""
        import torch

        paths = self.table["path"].take(pa.array(self.first)).to_pylist()
        pool = ThreadPoolExecutor()

        def decode(number: int) -> NDArray[np.uint8]:
            try:
                return decode_pixels(read_regular(Path(paths[number])), how)
            except (OSError, ImageError) as error:
                message = f"the photo {paths[number]} can no longer be read ({error}): put it back, and train again"
                raise TrainingError(message) from error

        return lambda numbers: torch.from_numpy(np.stack(list(pool.map(decode, numbers.tolist()))))


@dataclass(frozen=True, kw_only=True)
class LiveVectors:
    """A model that is learning, asked for the vectors that it gives now."""

    name: str
    store: Store
    base: Model
    tuned: LoraClip
    training: Training
    on_progress: Progress

    def gallery(self, found: Gallery, pairs: Pairs) -> Gallery:
        """The base's gallery of a split with the vectors of the model as it is."""
        texts = self._items(found.texts, pairs, "texts")
        if self.tuned.trains_vision:
            return replace(found, texts=texts, images=self._items(found.images, pairs, "image_files"))
        if self.training.heads:
            return replace(found, texts=texts, images=self._items(found.images, pairs, "features"))
        return replace(found, texts=texts)

    def _items(self, items: EmbeddedItems, pairs: Pairs, source: PlanSource) -> EmbeddedItems:
        """Items with their vectors made anew; each distinct content once."""
        key, content = ("caption_id", "caption") if source == "texts" else ("image_id", "image")
        row = pc.index_in(items.table[key], pairs.table[key])
        contents = pairs.table[content].take(row).combine_chunks().dictionary_encode()
        distinct = pairs.table.take(pc.index_in(contents.dictionary, pairs.table[content])).to_pydict()
        plan = ShardPlan(
            tower=items.tower,
            source=source,
            contents=distinct[content],
            sources=distinct[{"texts": "text", "image_files": "path", "features": "file"}[source]],
            rows=distinct["row"],
        )
        made = encode_rows(plan, self._encoding(plan))
        if made.failures:
            failed, reason = next(iter(made.failures.items()))
            message = f"{len(made.failures)} items cannot be measured, {failed[:12]} the first: {reason}"
            raise TrainingError(message)
        vectors = shards.normalize(made.vectors, "float32")
        return items.with_vectors(vectors[contents.indices.to_numpy()])

    def _encoding(self, plan: ShardPlan) -> EncodeSettings:
        what = f"{self.name}: measuring {'captions' if plan.source == 'texts' else 'images'}"
        done = 0

        def on_progress(items: int) -> None:
            nonlocal done
            done += items
            self.on_progress(what, done, len(plan.contents))

        return EncodeSettings(
            folder=self.store.shards,
            model=self.base,
            encoder=self.tuned.encoder,
            batch_tokens=self.tuned.encoder.batch_tokens(plan.tower.tower, _MEMORY),
            on_progress=on_progress,
        )
