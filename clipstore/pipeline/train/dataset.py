"""The image-caption pairs of a split, with the stored features or the files of their images."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipstore.catalog import Session
from clipstore.encoders.images import AnyPreprocessing, decode_pixels
from clipstore.errors import ImageError, TrainingError
from clipstore.files import read_image_file
from clipstore.records import Model, RegisteredShard
from clipstore.store.layout import Store, split_id
from clipstore.store.registry import gather_rows, registered_shards
from clipstore.store.towers import recorded_towers

if TYPE_CHECKING:
    import torch

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class TrainingPairs:
    """The captions of a split whose image has stored features.

    Attributes:
        table: a row per caption: caption_id, image_id, text, caption_content and image_content (content keys), path (of
            the image file), file and row (of the image's features).
        image_numbers: (R,), the number of each caption's image, from 0; images with the same bytes have one number.
        first: (images,), the first row of each image number.
        left_out: captions of the split that are not in the table.
    """

    table: pa.Table
    image_numbers: Ints
    first: Ints
    left_out: int

    @classmethod
    def of(cls, session: Session, base: Model, split: str) -> TrainingPairs:
        """The pairs of a split, with the features of the base's image backbone."""
        model_id, target = session.rows("model/find", name=base.name)[0]["model_id"], split_id(session, split)
        tower = recorded_towers(session, model_id)[0]
        features = tower.backbone or tower.fingerprint  # without a projection head, vectors are features
        pairs = session.table("train/pairs", model_id=model_id, split_id=target, backbone=features)
        table = pairs.filter(pairs["file"].is_valid())
        contents = table["image_content"].combine_chunks().dictionary_encode()
        numbers = contents.indices.to_numpy().astype(np.int64)
        _, first = np.unique(numbers, return_index=True)
        captions = session.rows("train/count_captions", split_id=target)[0]["captions"]
        return cls(table=table, image_numbers=numbers, first=first, left_out=captions - table.num_rows)

    @property
    def images(self) -> int:
        """The number of distinct images."""
        return len(self.first)

    def image_contents(self) -> list[str]:
        """The SHA-256 of each distinct image file, sorted."""
        return sorted(pc.unique(self.table["image_content"]).to_pylist())

    def shards(self, store: Store) -> dict[str, RegisteredShard]:
        """The shards of the features, by file relative to the store."""
        with store.catalog.read() as session:
            return registered_shards(session, store, pc.unique(self.table["file"]).to_pylist())

    def load_features(self, store: Store) -> Callable[[Ints], torch.Tensor]:
        """Load the features of all images; a function of image numbers (B,) that returns theirs (B, features_dim)."""
        import torch

        features = torch.from_numpy(gather_rows(self.shards(store), self.table.take(pa.array(self.first))))
        return lambda numbers: features[torch.from_numpy(numbers)]

    def pixel_reader(self, preprocessing: AnyPreprocessing) -> Callable[[Ints], torch.Tensor]:
        """A function of image numbers (B,) that decodes their files: uint8 pixels (B, height, width, 3).

        It raises a TrainingError for a file that can no longer be read.
        """
        import torch

        paths = self.table["path"].take(pa.array(self.first)).to_pylist()
        pool = ThreadPoolExecutor()

        def decode(number: int) -> NDArray[np.uint8]:
            try:
                return decode_pixels(read_image_file(Path(paths[number])), preprocessing)
            except (OSError, ImageError) as error:
                message = f"the image file {paths[number]} can no longer be read ({error}): restore it, and train again"
                raise TrainingError(message) from error

        return lambda numbers: torch.from_numpy(np.stack(list(pool.map(decode, numbers.tolist()))))
