"""The stored results of a classification by image, and its metrics over resampled images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipstore.catalog import Session
from clipstore.records import Row

if TYPE_CHECKING:
    from clipstore.ranking.classes import ScoreOrder

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """The results of one model over N images and C classes that some image has.

    Attributes:
        metrics: the names of the K + 1 metrics: accuracy@k or hit_rate@k, then the mean over classes.
        top: (K,), the k of the former.
        labelled: (N,), whether the image has a class.
        hits: (K, N), whether a class of the image is among the first k; 0 for images without a class.
        pairs, values: sparse (C, N), 1 for each class of an image, and the recall or the precision of the pair.
        order: the order of the images by their score for each class; None if labels are single.
    """

    metrics: list[str]
    top: list[int]
    labelled: NDArray[np.bool_]
    hits: Floats
    pairs: Any
    values: Any
    order: ScoreOrder | None

    @property
    def images(self) -> int:
        """The number of images."""
        return len(self.labelled)

    def resampled(self, times: Floats) -> Floats:
        """The metrics (K + 1, R) of R resamples; `times` (N, R) is how often each image is in each of them.

        A mean over classes is over those that some image of the resample has. Images of a resample are the candidates
        of average precision too.
        """
        from clipstore.ranking.classes import mean_average_precision

        with np.errstate(invalid="ignore"):  # 0 / 0: a resample without an image of the class, or of any
            shares = (self.hits @ times) / (self.labelled @ times)
            if self.order is None:
                recalls = (self.values @ times) / (self.pairs @ times)
                mean = np.nansum(recalls, axis=0) / (~np.isnan(recalls)).sum(axis=0)
            else:
                mean = mean_average_precision(self.order, times)
        return np.vstack([shares, mean])

    def contributions(self) -> Floats:
        """What each image adds to each metric, (K + 1, N): the metrics are their sums."""
        shares = self.hits / self.labelled.sum()
        of_class = 1 / (self.pairs.shape[0] * np.asarray(self.pairs.sum(axis=1)).ravel())
        return np.vstack([shares, self.values.T @ of_class])

    def changes(self, other: Outcomes) -> Row:
        """The numbers of images that have a hit only in another model (fixed), or only in this one, at the first k."""
        before, after = self.hits[0][self.labelled] >= 1, other.hits[0][other.labelled] >= 1
        fixed, broken = int((after & ~before).sum()), int((before & ~after).sum())
        return {
            "k": self.top[0],
            "fixed": fixed,
            "broken": broken,
            "unchanged": int(self.labelled.sum()) - fixed - broken,
        }


def read_outcomes(session: Session, classification: Row) -> Outcomes:
    """The stored results of a classification, a row of `classifications`."""
    from scipy.sparse import csr_array

    key = {"classification_id": classification["classification_id"]}
    is_multi = classification["labels"] == "multi"
    pairs, scores = session.table("zeroshot/pairs", **key), session.table("zeroshot/scores", **key)
    ids = scores["image_id"].to_numpy() if is_multi else np.unique(pairs["image_id"].to_numpy())
    categories, label = np.unique(pairs["category_id"].to_numpy(), return_inverse=True)
    image, shape = np.searchsorted(ids, pairs["image_id"].to_numpy()), (len(categories), len(ids))
    values = pairs["precision" if is_multi else "hit"].to_numpy()
    positive = csr_array((np.ones(len(image)), (label, image)), shape=shape)
    order = _score_order(session, classification["split_id"], scores, categories, positive) if is_multi else None
    top, hits = _hits(session.table("zeroshot/recalls", **key), ids)
    name, mean = ("hit_rate", "map") if is_multi else ("accuracy", "mean_per_class_recall")
    return Outcomes(
        metrics=[*(f"{name}@{k}" for k in top), mean],
        top=top,
        labelled=np.isin(np.arange(len(ids)), image),
        hits=hits,
        pairs=positive,
        values=csr_array((values, (label, image)), shape=shape),
        order=order,
    )


def _hits(recalls: pa.Table, ids: Ids) -> tuple[list[int], Floats]:
    """The k of `recalls`, and the hits of each k and image, (K, N)."""
    top, place = np.unique(recalls["k"].to_numpy(), return_inverse=True)
    hits = np.zeros((len(top), len(ids)))
    hits[place, np.searchsorted(ids, recalls["image_id"].to_numpy())] = recalls["hit"].to_numpy()
    return top.tolist(), hits


def _score_order(session: Session, split_id: int, scores: pa.Table, categories: Ids, positive: Any) -> ScoreOrder:
    """The order of the images of `scores` for `categories` (C,); `positive` (C, N) says which have which."""
    # Imported here: it loads torch.
    from clipstore.ranking.classes import score_order

    every = np.array([row["category_id"] for row in session.rows("zeroshot/classes", split_id=split_id)])
    values = scores["scores"].combine_chunks().flatten().to_numpy().reshape(-1, len(every))
    return score_order(values[:, np.searchsorted(every, categories)], positive.toarray().T > 0)
