"""`clipstore compare`: compare models with a baseline over the same queries, from the ranks in the catalog."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipstore import choices
from clipstore.catalog import Session
from clipstore.errors import ComparisonError, OptionError
from clipstore.pipeline.zeroshot.compare import compare_classifications
from clipstore.protocols import DIRECTIONS, PROTOCOLS
from clipstore.records import Row
from clipstore.significance import Estimates, Method, PairedSums, estimate, holm
from clipstore.store.evaluations import check_evaluated_name, eval_commands
from clipstore.store.layout import Store, split_id
from clipstore.store.models import model_name
from clipstore.store.probes import unchecked_warnings

Metric = tuple[str, str]  # direction and name, as in the view `metrics`

_METRICS = ("recall@1", "recall@5", "recall@10", "mrr", "mean_rank")
_LOWER_IS_BETTER = ("mean_rank",)
_MIN_FLIPS = 200  # for each comparison

# What compared evaluations have in common, with its name in messages and the remedy.
_EMBED = "embed what is missing (items that failed: 'clipstore query item_failures'), then"
_SHARED = {
    "caption_set": ("captions", "select one set with --captions, or"),
    "partial": ("partial", "embed what is missing, then"),
    "images": ("images in the gallery", _EMBED),
    "captions": ("captions in the gallery", _EMBED),
    "gallery_digest": ("gallery", _EMBED),
}

# The keys of "measured_on" in JSON: of the comparison, and of each model.
_PROVENANCE = (
    *("split", "split_digest", "gallery_digest", "images", "captions", "caption_set", "protocol", "unseen"),
    *("asked_images", "partial", "left_out_images", "left_out_captions"),
    *("images_without_positive", "captions_without_positive"),
)
_MODEL_PROVENANCE = (
    *("seen_images", "image_fingerprint", "text_fingerprint", "precision", "dtype"),
    *("reranker", "rerank_top", "rerank_weight", "rerank_precision", "rerank_fingerprint"),
)


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Which evaluations are compared: those with these options of `eval`.

    `captions` None selects the latest evaluation of each model. With the task "zeroshot", the latest zero-shot
    classification of each model is compared instead, and the other options do not apply.
    """

    protocol: choices.ProtocolChoice = "standard"
    captions: choices.CaptionsChoice | None = None
    unseen: bool = False
    task: choices.TaskChoice = "retrieval"

    def __post_init__(self) -> None:
        choices.check(self)
        if self.task == "zeroshot" and (self.protocol, self.captions, self.unseen) != ("standard", None, False):
            message = "the protocol, captions and unseen of retrieval do not apply to the task zeroshot: omit them"
            raise OptionError(message)

    @property
    def selection(self) -> dict[str, Any]:
        """The options of `eval` that select the evaluations."""
        return {"protocol": self.protocol, "captions": self.captions, "unseen": self.unseen}


def compare(store: Store, names: Iterable[str], split: str, options: CompareOptions) -> Row:
    """Compare models with the first of `names`, the baseline; the result as `clipstore compare --json` prints it.

    Every metric has both values, their difference, a 95 % interval, p, Holm's p over all comparisons made here, and a
    verdict by the latter: "better", "worse" or "no difference shown".

    Raises:
        NotFoundError: there is no such model or split.
        ComparisonError: fewer than two models are named, one has no such evaluation, or the evaluations have different
            galleries, captions or queries.
    """
    models = list(dict.fromkeys(model_name(store, name) for name in names))
    if len(models) < 2:
        message = f"compare needs at least two models, the baseline first; got {' '.join(models) or 'none'}"
        raise ComparisonError(message)
    if options.task == "zeroshot":
        return compare_classifications(store, models, split)
    with store.catalog.read() as session:
        split_id(session, split)
        rows = session.rows("compare/evaluations", models=models, split=split, **options.selection)
        stored = {row["model"]: row for row in rows}
        if len(stored) == len(models):
            evaluations = [stored[name] for name in models]
            warnings = [line for evaluation in evaluations for line in _warnings(session, evaluation)]
            return _compare_evaluations(store, session, evaluations, options) | {"warnings": warnings}
    missing = [name for name in models if name not in stored]
    for name in missing:
        check_evaluated_name(store, name)
    # Evaluated apart, models would have different unseen queries.
    command = eval_commands(store, models if options.unseen else missing, split, **options.selection)
    message = f"no such evaluation of {' and '.join(missing)} on {split}: run '{command}' first"
    raise ComparisonError(message)


def _warnings(session: Session, evaluation: Row) -> list[str]:
    model = session.rows("evaluate/model", evaluation_id=evaluation["evaluation_id"])[0]
    fingerprints = [evaluation["image_fingerprint"], evaluation["text_fingerprint"]]
    return unchecked_warnings(session, model["name"], model["family"], evaluation["split"], fingerprints)


def _compare_evaluations(store: Store, session: Session, evaluations: Sequence[Row], options: CompareOptions) -> Row:
    """Compare the first evaluation with the others."""
    baseline, *others = evaluations
    for other in others:
        _check_comparable(store, session, baseline, other, options)
    hard_negatives = PROTOCOLS[options.protocol].hard_negatives
    ids = [evaluation["evaluation_id"] for evaluation in evaluations]
    if hard_negatives:
        sums, metrics = _paired_results([session.table("compare/hard_sums", evaluation_id=number) for number in ids])
        values = [_accuracies(session, number) for number in ids]
    else:
        sums, metrics = _paired_sums([session.table("compare/sums", evaluation_id=number) for number in ids])
        values = [_metric_values(session, number) for number in ids]
    # Enough flips that the smallest p is below 0.005 after Holm's correction, for any number of models.
    method = Method(flips=max(Method.flips, _MIN_FLIPS * len(sums.weights)))
    estimates = iter(_estimate_rows(estimate(sums, method)))
    return {
        "baseline": baseline["model"],
        "split": baseline["split"],
        "protocol": options.protocol,
        "measured_on": {key: baseline[key] for key in _PROVENANCE}
        | {"models": {row["model"]: {key: row[key] for key in _MODEL_PROVENANCE} for row in evaluations}},
        "method": asdict(method)
        | {"clusters": len(sums.strata), "comparisons": len(sums.weights), "gallery": "held fixed"},
        "models": [
            {
                "model": other["model"],
                "differences": [
                    _difference(metric, values[0][metric], value[metric], next(estimates), method) for metric in metrics
                ],
                "queries": session.rows(
                    "compare/hard_changes" if hard_negatives else "compare/changes",
                    baseline=baseline["evaluation_id"],
                    model=other["evaluation_id"],
                ),
            }
            for other, value in zip(others, values[1:], strict=True)
        ],
    }


def _check_comparable(store: Store, session: Session, baseline: Row, other: Row, options: CompareOptions) -> None:
    """Check that two evaluations have the same gallery and the same queries.

    Raises:
        ComparisonError: they differ; with the difference and the remedy.
    """
    names = [baseline["model"], other["model"]]
    remedy = f"evaluate them together: '{eval_commands(store, names, baseline['split'], **options.selection)}'"
    for key, (words, first_step) in _SHARED.items():
        if baseline[key] != other[key]:
            message = (
                f"{names[0]} and {names[1]} were evaluated on different galleries: {words} {_shown(baseline[key])} and "
                f"{_shown(other[key])}; {first_step} {remedy}"
            )
            raise ComparisonError(message)
    ids = {"baseline": baseline["evaluation_id"], "model": other["evaluation_id"]}
    pairs = session.rows("compare/unpaired", **ids)[0]["pairs"]
    if pairs:
        message = (
            f"{names[0]} and {names[1]} were evaluated on different queries: {pairs:,} positive pairs count for one of "
            f"them only; {remedy}"
        )
        raise ComparisonError(message)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)[:12]


def _paired_sums(tables: Sequence[pa.Table]) -> tuple[PairedSums, list[Metric]]:
    """The sums of evaluations less those of the first, and the metrics of each evaluation.

    The tables have one row for each direction and image, the same in each table, with the number of queries, the fold
    and the sum of each metric over the queries.
    """
    first = tables[0]
    directions = [name for name in DIRECTIONS if pc.any(pc.equal(first["direction"], name)).as_py()]
    direction = pc.index_in(first["direction"], value_set=pa.array(directions)).to_numpy()
    images, image = np.unique(first["image_id"].to_numpy(), return_inverse=True)
    folds = np.zeros(len(images), dtype=np.int64)
    folds[image] = first["fold"].to_numpy()
    queries = np.zeros((len(directions), 1, len(images)))
    queries[direction, 0, image] = first["queries"].to_numpy()
    sums = np.zeros((len(tables), len(directions), len(_METRICS), len(images)))
    for number, table in enumerate(tables):
        for place, metric in enumerate(_METRICS):
            sums[number, direction, place, image] = table[metric].to_numpy()
    differences = sums[1:] - sums[0]
    metrics: list[Metric] = [(name, metric) for name in directions for metric in _METRICS]
    weights = [np.eye(len(metrics))]
    if len(directions) == 2:
        weights.append(np.array([[100.0 * metric.startswith("recall@") for _, metric in metrics]]))
        metrics.append(("both", "rsum"))
    paired = PairedSums(
        differences=differences.reshape(-1, len(images)),
        queries=np.broadcast_to(queries, differences.shape).reshape(-1, len(images)),
        strata=folds,
        weights=np.asarray(np.kron(np.eye(len(differences)), np.concatenate(weights)), dtype=np.float64),
    )
    return paired, metrics


def _paired_results(tables: Sequence[pa.Table]) -> tuple[PairedSums, list[Metric]]:
    """The same of the protocol hard-negatives: a mean for each subset, one over all pairs, and the mean of the subsets.

    The tables have one row for each subset and image, the same in each table, with the number of pairs and the sum of
    their results.
    """
    subsets, place = np.unique(tables[0]["subset"].to_pylist(), return_inverse=True)
    images, image = np.unique(tables[0]["image_id"].to_numpy(), return_inverse=True)
    pairs = np.zeros((len(subsets), len(images)))
    pairs[place, image] = tables[0]["pairs"].to_numpy()
    sums = np.zeros((len(tables), *pairs.shape))
    for number, table in enumerate(tables):
        sums[number, place, image] = table["correct"].to_numpy()
    differences = sums[1:] - sums[0]
    every = np.concatenate([differences, differences.sum(axis=1, keepdims=True)], axis=1)
    queries = np.broadcast_to(np.concatenate([pairs, pairs.sum(axis=0, keepdims=True)]), every.shape)
    weights = np.vstack([np.eye(len(subsets) + 1), [1 / len(subsets)] * len(subsets) + [0.0]])
    paired = PairedSums(
        differences=every.reshape(-1, len(images)),
        queries=queries.reshape(-1, len(images)),
        strata=np.zeros(len(images), dtype=np.int64),
        weights=np.asarray(np.kron(np.eye(len(differences)), weights), dtype=np.float64),
    )
    names = [*(f"accuracy/{subset}" for subset in subsets.tolist()), "accuracy", "macro_accuracy"]
    return paired, [("image_to_text", name) for name in names]


def _accuracies(session: Session, evaluation_id: int) -> dict[Metric, float]:
    rows = session.rows("hard_negatives/metrics", evaluation_id=evaluation_id)
    return {("image_to_text", row["metric"]): row["value"] for row in rows}


def _metric_values(session: Session, evaluation_id: int) -> dict[Metric, float]:
    rows = session.rows("evaluate/metrics", evaluation_id=evaluation_id)
    return {(row["direction"], row["metric"]): row["value"] for row in rows}


def _estimate_rows(estimates: Estimates) -> list[Row]:
    """The differences with their intervals (None: undefined) and p-values, by their keys in JSON."""
    columns = {
        "difference": estimates.difference,
        "low": estimates.low,
        "high": estimates.high,
        "p": estimates.p,
        "p_holm": holm(estimates.p),
    }
    rows = np.stack(list(columns.values()), axis=1).tolist()
    return [{key: None if np.isnan(value) else value for key, value in zip(columns, row, strict=True)} for row in rows]


def _difference(metric: Metric, baseline: float, value: float, estimates: Row, method: Method) -> Row:
    """One row of a comparison, with its verdict by Holm's p.

    The difference is exactly that of the two values in the row.
    """
    direction, name = metric
    row = estimates | {"difference": value - baseline}
    verdict = "no difference shown"
    if row["p_holm"] < 1 - method.confidence:
        verdict = "better" if (row["difference"] > 0) != (name in _LOWER_IS_BETTER) else "worse"
    return {"direction": direction, "metric": name, "baseline": baseline, "value": value, **row, "verdict": verdict}
